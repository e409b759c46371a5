//! The daemon is dead, stopped, starved, flooded, somebody else's or another version: containers are made
//! all the same, those that run don't care, and it harms nobody.

use std::fs::{self, File, Permissions};
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind,
    connect, listen, recv, send, sendmsg, socket,
};
use serde_json::json;

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Call, Daemon, Way, host, wait_for};
use crate::soak::rests;
use crate::tests;

pub const TESTS: Tests = tests![
    killed,
    stopped,
    second,
    pool_is_empty,
    caps,
    shapes_come_and_go,
    device_filters,
    other_user,
    other_version,
    hostile_messages,
    hostile_scrapers,
    flood,
    few_descriptors,
    no_descriptor_for_callers,
    full_disk,
];

/// With a daemon that is killed, or fails, at every step; and as on an older kernel.
#[cfg(feature = "fault")]
pub const FAULTS: Tests = tests![killed_at_every_step, fails_at_every_step, older_kernels];

/// Where it dies.
#[cfg(feature = "fault")]
pub const DAEMON: &[&str] = &[
    "zygote:asked",
    "zygote:taken",
    "zygote:answered",
    "kit:mounted",
    "kit:away",
];
/// What an older kernel refuses.
#[cfg(feature = "fault")]
pub const KERNEL: &[&str] = &["kit:nested", "kit:bare"];

/// A bundle whose daemon has another configuration.
pub fn configured(way: Way, config: &str) -> Bundle {
    let mut b = Bundle::new(way).auto();
    let path = b.dir.join("zygote.toml");
    fs::write(&path, config).unwrap();
    b.daemon = None;
    let path = path.to_string_lossy().into_owned();
    b.daemon = Some(Daemon::with(&b.root, &["--config", &path], |_| {}));
    b
}

pub fn daemon(b: &Bundle) -> &Daemon {
    b.daemon.as_ref().unwrap()
}

/// It serves: a kit is taken.
#[track_caller]
fn serves(b: &Bundle) {
    let before = daemon(b).sum("hits");
    b.make("run", &[]).env("RUNZ_ZYGOTE", "require").run().ok();
    assert_eq!(daemon(b).sum("hits"), before + 1);
}

/// `--debug` says why there is no kit.
#[track_caller]
fn cold_because(b: &Bundle, why: &str) {
    let call = b.globals(["--debug", "--zygote", "auto", "run", "--bundle"]);
    let output = call.arg(&b.dir).arg(&b.id).run().exits(0);
    assert!(output.stderr.contains(why), "{why}: {}", output.stderr);
}

/// The same of a daemon that may be too late with its answer, on a machine that has much to do.
#[track_caller]
fn cold_or_late(b: &Bundle, why: &str) {
    let call = b.globals(["--debug", "--zygote", "auto", "run", "--bundle"]);
    let stderr = call.arg(&b.dir).arg(&b.id).run().exits(0).stderr;
    let late = stderr.contains("the zygote doesn't answer");
    assert!(late || stderr.contains(why), "{why}: {stderr}");
}

/// Who answers in the daemon's place has none; he may take his time.
#[track_caller]
fn none_because(b: &Bundle, why: &str) {
    let said = b.make("run", &[]).fails_required();
    assert!(said.contains(why), "{why}: {said}");
}

fn killed(way: Way) {
    let mut b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    b.daemon.as_mut().unwrap().kill();
    // The container doesn't care.
    assert_eq!(b.inside("echo here"), "here\n");
    // Its socket is still there.
    assert!(b.root.join("@zygote/socket").exists());
    let other = format!("{}-2", b.id);
    let create = |b: &Bundle| b.call("create").arg("--bundle").arg(&b.dir).arg(&other);
    let said = create(&b).fails_required();
    assert!(
        said.contains("connect to the zygote: connection refused"),
        "{said}"
    );
    create(&b).env("RUNZ_ZYGOTE", "auto").run().ok();
    b.call("delete").args(["--force", &other]).run().ok();
    // Another one takes over; what the first has given away stays.
    b.daemon = Some(Daemon::start(&b.root));
    create(&b).run().ok();
    assert_eq!(daemon(&b).sum("hits"), 1);
    b.call("delete").args(["--force", &other]).run().ok();
    b.call("kill").args([&b.id, "TERM"]).run().ok();
    b.wait_status("stopped");
    b.delete().ok();
}

/// `require` fails.
trait Required {
    fn fails_required(self) -> String;
}

impl Required for Call {
    #[track_caller]
    fn fails_required(self) -> String {
        self.env("RUNZ_ZYGOTE", "require").run().fails()
    }
}

fn stopped(way: Way) {
    let b = Bundle::new(way).auto();
    serves(&b);
    daemon(&b).signal(Signal::SIGSTOP);
    cold_because(&b, "no kit: the zygote doesn't answer");
    b.run().ok();
    daemon(&b).signal(Signal::SIGCONT);
    serves(&b);
}

fn second(way: Way) {
    let b = Bundle::new(way);
    let pid = daemon(&b).pid();
    let said = b.globals(["zygote", "serve"]).run().fails();
    let wanted = format!("another daemon (process {pid}) serves");
    assert!(said.contains(&wanted), "{said}");
    serves(&b);
}

fn pool_is_empty(way: Way) {
    let b = configured(way, "first = 1\npool = 1\nrate = 1\n");
    cold_or_late(&b, "nothing of this shape is made yet");
    wait_for("a kit", || (daemon(&b).sum("ready") == 1).then_some(()));
    b.make("run", &[]).env("RUNZ_ZYGOTE", "require").run().ok();
    cold_or_late(&b, "all kits of this shape are taken");
    let status = daemon(&b).status();
    let pool = &status["pools"][0];
    assert_eq!(
        (
            &pool["hits"],
            &pool["missesNew"],
            &pool["missesEmpty"],
            &pool["target"]
        ),
        (&json!(1), &json!(1), &json!(1), &json!(1)),
        "{status}"
    );
}

/// Never more than is allowed; nothing at all is allowed, too.
fn caps(way: Way) {
    for (config, most) in [
        ("kits = 0\n", 0),
        ("memory = 0\n", 0),
        ("pool = 0\n", 0),
        ("kits = 3\nfirst = 3\npool = 10\nquiet = 0\n", 3),
    ] {
        let b = configured(way, config);
        for _ in 0..3 {
            b.run().ok();
        }
        if most > 0 {
            wait_for("kits", || (daemon(&b).sum("ready") == most).then_some(()));
        }
        // Another shape takes nothing away from the first while there is no room.
        let b = b.config(|spec| {
            spec["linux"]["namespaces"] =
                json!([{"type": "mount"}, {"type": "pid"}, {"type": "uts"}])
        });
        b.run().ok();
        let status = daemon(&b).status();
        assert!(daemon(&b).sum("ready") <= most, "{config}: {status}");
        assert!(daemon(&b).sum("made") <= most + 3, "{config}: {status}");
    }
}

/// More shapes than are remembered.
fn shapes_come_and_go(way: Way) {
    let mut b = configured(way, "shapes = 2\nfirst = 2\n");
    for size in 1..6 {
        b.change(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            for mount in mounts.iter_mut().filter(|m| m["destination"] == "/dev") {
                mount["options"] = json!(["mode=755", format!("size={size}00k")]);
            }
        });
        b.run().ok();
        let pools = daemon(&b).status()["pools"].as_array().map(Vec::len);
        assert_eq!(pools, Some(size.min(2)));
    }
    serves(&b);
}

/// A device filter is loaded once for all containers with the same rules, of whatever shape, and never
/// for others'.
fn device_filters(way: Way) {
    let mut b = configured(way, "first = 2\n");
    let loaded = |b: &Bundle| {
        let open = fs::read_dir(format!("/proc/{}/fd", daemon(b).pid())).unwrap();
        let names = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        names
            .filter(|name| name.ends_with("anon_inode:bpf-prog"))
            .count()
    };
    b = b.script("head -c 1 /dev/zero >/dev/null 2>&1 && echo zeroes || echo none");
    let rules = |b: &mut Bundle, access: &str| {
        b.change(|spec| {
            // Named here, it's no longer allowed by itself.
            spec["linux"]["devices"] =
                json!([{"path": "/dev/zero", "type": "c", "major": 1, "minor": 5}]);
            spec["linux"]["resources"]["devices"] =
                json!([{"allow": true, "type": "c", "major": 1, "minor": 5, "access": access}]);
        })
    };
    let run = |b: &Bundle| b.make("run", &[]).env("RUNZ_ZYGOTE", "require").run().ok();
    // One that is too long for a request isn't asked for.
    let many: Vec<_> = (0..1200)
        .map(|minor| json!({"allow": true, "type": "b", "major": 9, "minor": minor, "access": "r"}))
        .collect();
    rules(&mut b, "w");
    b.change(|spec| spec["linux"]["resources"]["devices"] = json!(many));
    assert_eq!(
        (run(&b).as_str(), run(&b).as_str(), loaded(&b)),
        ("none\n", "none\n", 0)
    );
    for (before, after) in [(0, 2), (2, 2), (2, 2)] {
        assert_eq!(loaded(&b), before);
        for (access, found) in [("r", "zeroes\n"), ("w", "none\n")] {
            rules(&mut b, access);
            assert_eq!(run(&b), found);
        }
        wait_for("filters", || (loaded(&b) == after).then_some(()));
    }
    b.change(|spec| {
        spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}, {"type": "uts"}])
    });
    assert_eq!((run(&b).as_str(), loaded(&b)), ("none\n", 2));
    // No more than so many are kept.
    for minor in 0..12 {
        b.change(|spec| spec["linux"]["resources"]["devices"][0]["minor"] = json!(minor));
        assert_eq!(run(&b), "none\n");
    }
    wait_for("the last filters", || (loaded(&b) == 8).then_some(()));
}

fn other_user(way: Way) {
    let b = Bundle::new(way).auto();
    // Even where every door is open.
    for (path, mode) in [("", 0o755), ("@zygote", 0o755), ("@zygote/socket", 0o666)] {
        let path = b.root.join(path);
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    for path in [&b.dir, &host::scratch().to_owned()] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let before = daemon(&b).status()["refused"].as_u64().unwrap();
    let status = Command::new("setpriv")
        .args(["--reuid", "61234", "--regid", "61234", "--clear-groups"])
        .arg(host::runtime())
        .arg("--root")
        .arg(&b.root)
        .args(["zygote", "stop"])
        .output()
        .unwrap();
    assert!(!status.status.success());
    assert_eq!(daemon(&b).status()["refused"], before + 1, "{status:?}");
    serves(&b);
}

/// A packet socket; a stream one would not do.
fn packets() -> OwnedFd {
    let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap()
}

fn connected(path: &Path) -> nix::Result<OwnedFd> {
    let socket = packets();
    connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap())?;
    Ok(socket)
}

fn header(version: u16, body: &[u8]) -> Vec<u8> {
    let mut message = b"runz".to_vec();
    message.extend(version.to_le_bytes());
    message.extend([0, 0]);
    message.extend((body.len() as u32).to_le_bytes());
    message.extend(body);
    message
}

/// What a daemon of another version, or none at all, may answer: the container is made cold.
fn other_version(way: Way) {
    let b = Bundle::new(way).without_daemon();
    fs::create_dir_all(b.root.join("@zygote")).unwrap();
    let path = b.root.join("@zygote/socket");
    let listener = packets();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::new(5).unwrap()).unwrap();
    let kit = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (answer, why) in [
        (header(999, &[1]), "version 999 of the protocol"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            "not a message of runz",
        ),
        (b"runz".to_vec(), "a message of 4 bytes"),
        (Vec::new(), "--zygote=require: "),
        (header(1, &[200]), "--zygote=require: "),
        (header(1, &kit), "--zygote=require: "),
        (vec![0; 60_000], "--zygote=require: "),
    ] {
        let accepting = listener.as_raw_fd();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let peer = accept(accepting).unwrap();
                let _ = recv(peer, &mut [0; 4096], MsgFlags::empty());
                if !answer.is_empty() {
                    let null = File::open("/dev/null").unwrap();
                    let fds = [null.as_raw_fd(); 3];
                    let control = [ControlMessage::ScmRights(&fds)];
                    let data = [IoSlice::new(&answer)];
                    let _ = sendmsg::<()>(peer, &data, &control, MsgFlags::empty(), None);
                    // Until he leaves.
                    while recv(peer, &mut [0; 4096], MsgFlags::empty()).is_ok_and(|n| n > 0) {}
                }
                let _ = nix::unistd::close(peer);
            }
        });
        none_because(&b, why);
        cold_because(&b, "zygote: no kit: ");
        server.join().unwrap();
    }
    // It takes the connection, and says nothing.
    cold_because(&b, "the zygote doesn't answer");
    fs::remove_file(path).unwrap();
}

fn hostile_messages(way: Way) {
    let b = Bundle::new(way).auto();
    let path = b.root.join("@zygote/socket");
    let mut messages = vec![
        b"x".to_vec(),
        b"runz".to_vec(),
        header(1, &[]),
        header(2, &[0]),
        header(1, &[255; 40]),
        header(1, &[0; 60_000]),
        vec![b'x'; 70_000],
        // Says that it's longer than it is.
        [&b"runz\x01\0\0\0\xff\xff\xff\x7f"[..], &[1]].concat(),
    ];
    // A generator of its own: the same messages each time.
    let mut state = 1u64;
    let mut random = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    for length in 1..400 {
        // Of requests that are known, but for the one that ends it.
        let mut body: Vec<u8> = (0..length).map(|_| random()).collect();
        body[0] = [0, 1, 3, 4][length % 4];
        messages.push(header(1, &body));
    }
    let before = daemon(&b).status();
    for (i, message) in messages.iter().enumerate() {
        let peer = connected(&path).unwrap();
        let null = File::open("/dev/null").unwrap();
        let fds = [null.as_raw_fd(); 2];
        let control = [ControlMessage::ScmRights(&fds)];
        let with = if i % 2 == 0 { &control[..] } else { &[] };
        let data = [IoSlice::new(message)];
        sendmsg::<()>(peer.as_raw_fd(), &data, with, MsgFlags::empty(), None).unwrap();
        let mut answer = [0; 4096];
        let n = recv(peer.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap_or(0);
        assert!(n == 0 || answer.starts_with(b"runz"), "message {i}");
    }
    // One that says nothing, one that says half and leaves.
    let silent = connected(&path).unwrap();
    drop(connected(&path).unwrap());
    let after = daemon(&b).status();
    let count = |status: &serde_json::Value| status["refused"].as_u64().unwrap();
    assert!(
        count(&after) >= count(&before) + messages.len() as u64 - 20,
        "{after}"
    );
    serves(&b);
    drop(silent);
    wait_for("closed connections", || {
        let now = daemon(&b).status()["descriptors"].as_u64();
        // Of one shape there is one kit.
        (now <= Some(before["descriptors"].as_u64().unwrap() + 12)).then_some(())
    });
}

fn hostile_scrapers(way: Way) {
    let b = Bundle::new(way).auto();
    serves(&b);
    let path = b.root.join("@zygote/metrics");
    let ask = |question: &[u8]| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(question).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    };
    let http = ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(http.starts_with("HTTP/1.1 200 OK\r\n"), "{http}");
    let length = http.split("Content-Length: ").nth(1).unwrap();
    let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
    let body = http.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(body.len(), length);
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("runz_zygote_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(
        body.contains("\nrunz_zygote_kits_handed_over_total{kit=\"net ipc"),
        "{body}"
    );
    for question in [
        &b""[..],
        b"\0\0\0",
        b"POST / HTTP/1.1\r\n\r\n",
        &[b'x'; 4096],
    ] {
        assert!(ask(question).starts_with("# HELP"), "{question:?}");
    }
    // Those that say nothing, and those that don't listen.
    let silent: Vec<_> = (0..40)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    for mut stream in (0..40).map(|_| UnixStream::connect(&path).unwrap()) {
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
    }
    serves(&b);
    drop(silent);
}

fn flood(way: Way) {
    let b = Bundle::new(way).auto();
    let path = b.root.join("@zygote/socket");
    serves(&b);
    let before = daemon(&b).status()["descriptors"].as_u64().unwrap();
    let mut all = Vec::new();
    for _ in 0..1500 {
        // Beyond what it keeps they are closed.
        match connected(&path) {
            Ok(peer) => all.push(peer),
            Err(_) => break,
        }
    }
    assert!(all.len() > 500, "only {} connections", all.len());
    let open = fs::read_dir(format!("/proc/{}/fd", daemon(&b).pid())).unwrap();
    assert!(
        open.count() as u64 <= before + 1024,
        "it keeps more than it may"
    );
    // Whoever comes now is cold, not slow.
    b.run().ok();
    for peer in &all {
        let _ = send(
            peer.as_raw_fd(),
            b"x",
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
        );
    }
    b.run().ok();
    drop(all);
    let ask = || b.globals(["zygote", "status", "-f", "json"]).run();
    wait_for("the end of the flood", || (ask().code == 0).then_some(()));
    wait_for("closed connections", || {
        let now = daemon(&b).status()["descriptors"].as_u64();
        (now <= Some(before + 12)).then_some(())
    });
    serves(&b);
}

/// EMFILE in the daemon. That of the caller is `starved`'s.
fn few_descriptors(way: Way) {
    let mut b = Bundle::new(way).auto();
    for limit in [20, 24, 30, 40] {
        b.daemon = None;
        // Before it begins: it may not raise the hard limit.
        let limit = limit.to_string();
        b.daemon = Some(Daemon::with(&b.root, &[], |_| {}));
        let status = Command::new("prlimit")
            .args(["--pid", &daemon(&b).pid().to_string()])
            .arg(format!("--nofile={limit}:{limit}"))
            .status();
        assert!(status.unwrap().success());
        for _ in 0..6 {
            b.run().ok();
        }
        let status = daemon(&b).status();
        assert!(
            status["descriptors"].as_u64() <= limit.parse().ok(),
            "{status}"
        );
    }
}

/// Connections for which it has no descriptor left: it lets kits go rather than callers, and doesn't
/// run in circles.
fn no_descriptor_for_callers(way: Way) {
    let b = configured(way, "first = 8\npool = 8\n").auto();
    b.run().ok();
    wait_for("a full pool", || {
        (daemon(&b).sum("ready") == 8).then_some(())
    });
    let pid = daemon(&b).pid();
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = open() + 2;
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string()]);
    let status = command.arg(format!("--nofile={limit}:{limit}")).status();
    assert!(status.unwrap().success());
    let path = b.root.join("@zygote/socket");
    // More than there will be room for, even without any kit.
    let idle: Vec<_> = (0..limit + 20)
        .map_while(|_| connected(&path).ok())
        .collect();
    assert!(idle.len() > limit);
    assert_eq!(b.run().code, 0);
    rests(pid);
    drop(idle);
    serves(&b);
}

/// ENOSPC for plans: they aren't kept, that's all. For the socket: it says so.
fn full_disk(way: Way) {
    let b = Bundle::new(way).auto();
    let plans = b.root.join("@zygote/plans");
    fs::create_dir_all(&plans).unwrap();
    let mount = |path: &Path, options: &str| {
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(path);
        assert!(command.status().unwrap().success());
    };
    let unmount = |path: &Path| {
        let status = Command::new("umount").arg("--lazy").arg(path).status();
        assert!(status.unwrap().success());
    };
    mount(&plans, "nr_inodes=1");
    for _ in 0..4 {
        b.run().ok();
    }
    serves(&b);
    let found = fs::read_dir(&plans).unwrap().count();
    unmount(&plans);
    assert_eq!(found, 0);
    let other = b.dir.join("other");
    fs::create_dir(&other).unwrap();
    mount(&other, "nr_inodes=3");
    let serve = Call::new(["--root"]).arg(&other).args(["zygote", "serve"]);
    let said = serve.run();
    unmount(&other);
    let said = said.fails();
    assert!(said.contains("no space left on device (ENOSPC)"), "{said}");
}

#[cfg(feature = "fault")]
fn with_fault(b: &mut Bundle, point: &str, action: &str) {
    b.daemon = None;
    let fault = format!("{point}={action}");
    b.daemon = Some(Daemon::with(&b.root, &[], |command| {
        command.env("RUNZ_FAULT", fault);
    }));
}

#[cfg(feature = "fault")]
fn killed_at_every_step(way: Way) {
    for point in DAEMON {
        let mut b = Bundle::new(way).auto();
        with_fault(&mut b, point, "kill");
        wait_for(&format!("{point}: its end"), || {
            b.run().ok();
            b.daemon.as_mut().unwrap().ended()
        });
        assert_eq!(b.daemon.as_mut().unwrap().ended(), Some(-9), "{point}");
        b.run().ok();
        let said = b.make("create", &[]).fails_required();
        assert!(said.contains("connect to the zygote"), "{point}: {said}");
        b.daemon = Some(Daemon::start(&b.root));
        serves(&b);
        serves(&b);
    }
}

#[cfg(feature = "fault")]
fn fails_at_every_step(way: Way) {
    for point in DAEMON {
        let mut b = Bundle::new(way).auto();
        with_fault(&mut b, point, "eio");
        for _ in 0..3 {
            b.run().ok();
        }
        assert_eq!(b.daemon.as_mut().unwrap().ended(), None, "{point}");
        let pid = daemon(&b).pid();
        // However far it got, it's at home again, once it makes no kit.
        for name in ["ns/net", "ns/ipc", "ns/uts", "ns/mnt", "root"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
            wait_for(&format!("{point}: its own {name}"), || {
                (of(&pid.to_string()) == of("self")).then_some(())
            });
        }
        if !point.starts_with("zygote:") {
            let status = daemon(&b).status();
            let error = status["pools"][0]["error"].as_str().unwrap();
            assert!(error.contains(point), "{status}");
            let said = b.make("run", &[]).fails_required();
            assert!(said.contains(&format!("fault at {point}")), "{said}");
        }
    }
}

/// Where mounts can't be attached to detached ones, or there is no empty mount namespace, the rest of a
/// kit is as good.
#[cfg(feature = "fault")]
fn older_kernels(way: Way) {
    for point in KERNEL {
        let mut b = crate::same::looker(way);
        with_fault(&mut b, point, "eio");
        crate::same::same(&b, point);
    }
}
