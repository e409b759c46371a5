//! No difference: what is made with a kit, or was made whole before it was asked for, is from inside and
//! from outside what is made from nothing; whatever the caller and the daemon are themselves. And no two
//! containers share anything.

mod configs;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Call, Daemon, Way, host};
use crate::inside::ROLE;
use crate::tests;
use configs::{
    dev_of_somebody_else, devices, hooks, mounts, namespaces, podman_config, process,
    rootfs_propagation, spec_config, sysctls, terminal,
};

pub const TESTS: Tests = tests![
    from(spec_config),
    from(podman_config),
    from(mounts),
    from(devices),
    from(dev_of_somebody_else),
    from(sysctls),
    from(namespaces),
    from(rootfs_propagation),
    hooks,
    from(process),
    from(terminal),
    from(odd_caller),
    from(containers_share_nothing),
];

/// Says what signals it got, then goes on as this program. It doesn't fork to find that out: while it does,
/// glibc 2.41 blocks all of them.
const LOOK: &str = r#"
while read -r line; do
    case $line in Sig[BIC]*|ShdPnd*) SIGNALS="$SIGNALS $line";; esac
done < /proc/$$/status
export SIGNALS
exec /look
"#;

/// A FIFO of the root file system: what is run at once waits until something is written there.
const GO: &str = "/go";

/// A bundle whose program dumps what it sees.
pub fn looker(way: Way) -> Bundle {
    let b = Bundle::new(way);
    host::copy_own_program(&b.rootfs("/look"));
    let script = match way {
        Way::From => {
            mkfifo(&b.rootfs(GO), Mode::from_bits_truncate(0o644)).unwrap();
            &format!("read go < {GO}\n{LOOK}")
        }
        _ => LOOK,
    };
    b.config(|spec| {
        spec["process"]["args"] = json!(["sh", "-c", script]);
        let env = spec["process"]["env"].as_array_mut().unwrap();
        env.push(json!(format!("{ROLE}=dump")));
    })
}

/// Lets what was run at once go on. To be held until it has ended.
fn go(b: &Bundle) -> File {
    // Whoever reads, too, needn't wait for another one who does.
    let both = File::options().read(true).write(true).open(b.rootfs(GO));
    let mut both = both.unwrap();
    both.write_all(b"go\n").unwrap();
    both
}

/// What there is to be seen of a container: by itself, and by others.
struct Seen {
    inside: String,
    /// What it made in its root file system: mount points.
    made: BTreeMap<PathBuf, (u32, u32, u32)>,
    record: Value,
    state: Value,
}

/// Makes a container, lets it look, deletes it. `caller`: by whom.
#[track_caller]
fn look(b: &Bundle, zygote: &str, options: &[&str], caller: &dyn Fn(Call) -> Call) -> Seen {
    let (out, err) = (b.dir.join("out"), b.dir.join("err"));
    let open = |path: &PathBuf| {
        let mut options = File::options();
        let file = options.append(true).create(true).truncate(false).open(path);
        file.unwrap()
    };
    let _ = (fs::remove_file(&out), fs::remove_file(&err));
    let before = tree(&b.rootfs("/"));
    let stdio = [
        File::open("/dev/null").unwrap().into(),
        open(&out).into(),
        open(&err).into(),
    ];
    let verb = match b.way {
        Way::From => "run",
        _ => "create",
    };
    let detach = ["--detach"].iter().filter(|_| verb == "run");
    let options: Vec<&str> = detach.chain(options).copied().collect();
    let call = match zygote {
        "off" => b.make_of_bundle(verb, &options),
        _ => b.make(verb, &options),
    };
    let call = caller(call.env("RUNZ_ZYGOTE", zygote)).stdio(stdio);
    let code = call.run().code;
    let said = fs::read_to_string(&err).unwrap();
    assert_eq!((code, &*said), (0, ""), "{zygote}: {verb}");
    let record = fs::read(b.root.join(&b.id).join("state.json")).unwrap();
    let state = b.state();
    match verb {
        "run" => {
            let _held = go(b);
            b.wait_status("stopped");
        }
        _ => {
            b.start().ok();
            b.wait_status("stopped");
        }
    }
    // A warm one's has another name.
    let cgroup = b.cgroup();
    let cgroup = cgroup.file_name().unwrap().to_str().unwrap();
    b.delete().ok();
    let said = fs::read_to_string(&err).unwrap();
    assert_eq!(said, "", "{zygote}");
    let mut made = tree(&b.rootfs("/"));
    made.retain(|path, about| before.get(path) != Some(about));
    // The next one finds what this one found.
    for path in made.keys().rev().filter(|path| !before.contains_key(*path)) {
        match path.is_dir() && !path.is_symlink() {
            true => fs::remove_dir(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
    Seen {
        made,
        inside: fs::read_to_string(&out).unwrap().replace(cgroup, &b.id),
        record: {
            let text = String::from_utf8(record).unwrap();
            serde_json::from_str(&text.replace(cgroup, &b.id)).unwrap()
        },
        state,
    }
}

/// Mode and owner of everything in a directory.
fn tree(path: &Path) -> BTreeMap<PathBuf, (u32, u32, u32)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap().flatten() {
        let m = fs::symlink_metadata(entry.path()).unwrap();
        if m.is_dir() {
            all.extend(tree(&entry.path()));
        }
        all.insert(entry.path(), (m.mode(), m.uid(), m.gid()));
    }
    all
}

/// What was seen inside, without the order in which things are listed where that may differ.
///
/// The table of mounts is in the order of their making (since Linux 6.8), as a directory of a tmpfs is; and a
/// kit's were made earlier. To copy a mount in its turn would cost 60 to 100 µs, for the one that it was
/// copied from is then to be destroyed.
fn in_any_order(way: Way, inside: String) -> String {
    let order = |line: &&str| {
        ["mounted next: ", "listed: "]
            .iter()
            .any(|name| line.starts_with(name))
    };
    match way {
        Way::Kit => inside
            .lines()
            .filter(|line| !order(line))
            .map(|line| format!("{line}\n"))
            .collect(),
        _ => inside,
    }
}

/// Puts a name in the place of all that is another in every container.
fn normal(value: &mut Value) {
    const VARIES: [&str; 6] = [
        "pid",
        "created",
        "init_process_pid",
        "init_process_start",
        "namespace_paths",
        "runz_pid_start",
    ];
    if let Some(object) = value.as_object_mut() {
        for (name, value) in object {
            match VARIES.contains(&&**name) {
                true => *value = json!("varies"),
                false => normal(value),
            }
        }
    }
}

/// The lines that only one has.
fn difference(cold: &str, warm: &str) -> String {
    let lines = |text: &str| {
        let mut lines = BTreeMap::<String, i32>::new();
        for line in text.lines() {
            *lines.entry(line.to_owned()).or_default() += 1;
        }
        lines
    };
    let (cold_lines, warm_lines) = (lines(cold), lines(warm));
    let only = |some: &BTreeMap<String, i32>, others: &BTreeMap<String, i32>, sign: &str| {
        let lines = some.iter().filter(|(line, n)| others.get(*line) != Some(n));
        lines
            .map(|(line, _)| format!("{sign} {line}\n"))
            .collect::<String>()
    };
    let mut text = only(&cold_lines, &warm_lines, "cold");
    text += &only(&warm_lines, &cold_lines, "warm");
    match text.is_empty() && cold != warm {
        true => {
            let mut pairs = cold.lines().zip(warm.lines());
            let first = pairs.find(|(a, b)| a != b);
            format!("the same lines in another order, from {first:?}")
        }
        false => text,
    }
}

#[track_caller]
fn compare(b: &Bundle, what: &str, cold: Seen, warm: Seen) {
    let [cold, warm] = [cold, warm].map(|seen| Seen {
        inside: in_any_order(b.way, seen.inside),
        ..seen
    });
    let lines = cold.inside.lines().count();
    assert!(lines > 200, "{what}: {lines} lines");
    assert!(
        cold.inside == warm.inside,
        "{what}: they differ inside\n{}",
        difference(&cold.inside, &warm.inside)
    );
    assert_eq!(cold.made, warm.made, "{what}: mount points");
    for (mut cold, mut warm) in [(cold.record, warm.record), (cold.state, warm.state)] {
        normal(&mut cold);
        normal(&mut warm);
        assert_eq!(cold, warm, "{what}");
    }
    assert!(!b.root.join(&b.id).exists());
}

/// How many kits and warm containers were taken.
fn hits(b: &Bundle) -> u64 {
    let status = b.daemon.as_ref().unwrap().status();
    let pools = ["pools", "warm"].map(|name| status[name].as_array().unwrap().iter());
    let hits = pools
        .into_iter()
        .flatten()
        .map(|pool| pool["hits"].as_u64().unwrap());
    hits.sum()
}

/// Makes the container with the daemon's help, once before there is a kit and once after, and without.
/// How many kits, or warm containers, were taken.
#[track_caller]
fn same_by(b: &Bundle, what: &str, options: &[&str], caller: &dyn Fn(Call) -> Call) -> u64 {
    let before = hits(b);
    let warm = [
        look(b, "require", options, caller),
        look(b, "require", options, caller),
    ];
    let taken = hits(b) - before;
    for warm in warm {
        let cold = look(b, "off", options, caller);
        compare(b, what, cold, warm);
    }
    assert_eq!(hits(b) - before, taken, "{what}: cold took a kit");
    taken
}

#[track_caller]
pub fn same(b: &Bundle, what: &str) {
    let hits = same_by(b, what, &[], &|call| call);
    assert_eq!(hits, 2, "{what}: kits were not taken");
}

/// The same of a config that is changed.
#[track_caller]
fn same_with(way: Way, what: &str, change: impl FnOnce(&mut Value)) {
    same(&looker(way).config(change), what);
}

/// The caller's ambient state comes to the container, nothing of the daemon's does.
fn odd_caller(way: Way) {
    let mut b = looker(way).config(|spec| {
        let process = spec["process"].as_object_mut().unwrap();
        // What it doesn't say comes from the caller.
        process.remove("rlimits");
        process.remove("oomScoreAdj");
        process.remove("capabilities");
        spec.as_object_mut().unwrap().remove("hostname");
    });
    let own = std::env::current_exe().unwrap();
    let runtime = host::runtime().to_owned();
    let role = |which: i32| format!("odd {which} {}", runtime.display());
    // Before the first has let go of the lock no other can serve.
    b.daemon = None;
    b.daemon = Some(Daemon::of(&own, &b.root, &[], |command| {
        command.env(ROLE, role(0));
    }));
    let odd = |which: i32| {
        let (own, role) = (own.clone(), role(which));
        move |call: Call| {
            // The runtime's path is the role's.
            let script = format!("shift; {ROLE}={role:?} exec {} \"$@\"", own.display());
            call.shell(&script)
        }
    };
    let hits = same_by(&b, "an odd daemon, a plain caller", &[], &|call| call);
    assert_eq!(hits, 2);
    let hits = same_by(&b, "an odd daemon, an odd caller", &[], &odd(1));
    assert_eq!(hits, 2);
    // It shows at all.
    let plain = look(&b, "off", &[], &|call| call);
    let strange = look(&b, "off", &[], &odd(1));
    let seen = difference(&plain.inside, &strange.inside);
    for word in [
        "oom_score_adj: 150",
        "mempolicy: 0 3 [1",
        "nice: 4",
        "Max open files",
        "personality",
    ] {
        assert!(
            seen.contains(word),
            "{word} of the caller isn't there: {seen}"
        );
    }
}

/// Where a process's mounts and namespaces are: by what they are, a number that only this one has.
fn belongings(pid: i32, all: &mut BTreeMap<String, String>, whose: &str) {
    let mut take = |what: String, number: String| {
        if let Some(other) = all.insert(number.clone(), format!("{what} of {whose}")) {
            panic!("{what} of {whose} is {other}: {number}");
        }
    };
    for name in ["net", "ipc", "uts", "mnt", "pid", "cgroup"] {
        let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        take(name.to_owned(), link.to_string_lossy().into_owned());
    }
    for path in ["dev", "dev/shm", "dev/pts", "dev/mqueue", "proc"] {
        let found = fs::metadata(format!("/proc/{pid}/root/{path}")).unwrap();
        take(path.to_owned(), format!("device {}", found.dev()));
    }
}

fn containers_share_nothing(way: Way) {
    let mut all = BTreeMap::new();
    let bundles: Vec<Bundle> = (0..3)
        .map(|_| Bundle::new(way).args(["sleep", "1000"]))
        .collect();
    // Three of one state root, whose kits are one daemon's.
    let b = &bundles[0];
    let ids: Vec<String> = (0..3).map(|n| format!("{}-{n}", b.id)).collect();
    if way == Way::From {
        b.provision(3);
    }
    let pid = |id: &String| -> i32 {
        let made = b.call("run").arg("--detach");
        let made = match way {
            Way::From => made.args(["--from", &b.id]),
            _ => made.arg("--bundle").arg(&b.dir),
        };
        made.arg(id).run().ok();
        let state: Value = serde_json::from_str(&b.call("state").arg(id).run().ok()).unwrap();
        state["pid"].as_i64().unwrap() as i32
    };
    let mut links = Vec::new();
    for id in &ids {
        let pid = pid(id);
        belongings(pid, &mut all, id);
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let number: u32 = fd.file_name().to_string_lossy().parse().unwrap();
            assert!(number < 3, "{id} has {:?}", fs::read_link(fd.path()));
        }
        for name in ["net", "ipc", "uts", "mnt"] {
            links.push(fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap());
        }
    }
    for other in &bundles[1..] {
        other.run_detached().ok();
        belongings(other.pid(), &mut all, &other.id);
    }
    // Nor with the host.
    for (number, what) in &all {
        let Some(device) = number.strip_prefix("device ") else {
            continue;
        };
        let device: u64 = device.parse().unwrap();
        let device = format!(
            " {}:{} ",
            nix::sys::stat::major(device),
            nix::sys::stat::minor(device)
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let shared = mounts.lines().find(|line| line.contains(&device));
        assert!(shared.is_none(), "{what} is the host's {shared:?}");
    }
    for name in ["net", "ipc", "uts", "mnt", "pid", "cgroup"] {
        let link = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(
            !all.contains_key(&*link.to_string_lossy()),
            "the host's {name}"
        );
    }
    if let Some(daemon) = &b.daemon {
        let pid = daemon.pid();
        for name in ["net", "ipc", "uts", "mnt", "pid", "cgroup", "user"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
            assert_eq!(of(&pid.to_string()), of("self"), "the daemon went astray");
        }
        // It keeps nothing of what it gave away.
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let link = fs::read_link(fd.path()).unwrap_or_default();
            assert!(!links.contains(&link), "the daemon still has {link:?}");
            let device = fs::metadata(fd.path()).map_or(0, |m| m.dev());
            let taken = all.get(&format!("device {device}"));
            assert_eq!(taken, None, "the daemon still has it");
        }
        assert_eq!(hits(b), 3);
    }
    for id in &ids {
        b.call("delete").args(["--force", id]).run().ok();
    }
}
