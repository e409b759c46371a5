//! Warm containers that were made up to their program.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::net::UnixListener;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Pool, with_terminal};
use crate::channels::{our_terminal, read_until, take};
use crate::harness::{Bundle, Call, Way, host};

pub fn takes_what_its_caller_says(way: Way) {
    let p = Pool::created(Bundle::new(way).args(["echo", "the config's"]), 2);
    assert_eq!(p.warm(&[], "one").run().ok(), "the config's\n");
    p.wait_ready(2);
    let options = [
        "--env=B=2",
        "-e",
        "A=3",
        "--cwd=/bin",
        "--hostname=elsewhere",
    ];
    let script = "echo $A $B $PATH; pwd; hostname; cat; echo oops >&2; exit 6";
    let call = p.warm(&options, "two").args(["--", "sh", "-c", script]);
    let out = call.stdin("from stdin\n").run().exits(6);
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(
        out.stdout,
        format!("3 2 {path}\n/bin\nelsewhere\nfrom stdin\n")
    );
    assert_eq!(out.stderr, "oops\n");
    p.settled(2);
    // Found in the PATH that the caller gives.
    fs::rename(p.b.rootfs("/bin"), p.b.rootfs("/own")).expect("rename");
    let call = p.warm(&["--env=PATH=/own"], "three").args(["--", "pwd"]);
    assert_eq!(call.run().ok(), "/\n");
}

/// What a process finds of itself. What can't be equal is left out: pids, ids, times, and the names of
/// mounts and cgroups.
const FACTS: &str = r#"
    exec 2>&1
    p=/proc/self
    grep -vE '^(SigQ|Pid|PPid|Tgid|Ngid|NSpid|NStgid|NSpgid|NSsid|Vm|Rss|HugetlbPages|voluntary|nonvoluntary|Threads)' $p/status
    cat $p/limits $p/oom_score_adj $p/coredump_filter $p/timens_offsets $p/attr/current $p/personality
    cat /proc/$$/timerslack_ns
    grep -E 'policy|prio' $p/sched
    sed 's/^[0-9]* [0-9]* [0-9]*:[0-9]* //; s/master:[0-9]*/master/; s/shared:[0-9]*/shared/; s/t[0-9]*-[0-9]*-[0-9a-f]*/ID/' $p/mountinfo
    tr '\0' '\n' < /proc/$$/environ; umask; id; hostname
    rm -f /fds; for n in 0 1 2 3 4 5 6 7 8 9; do readlink /proc/$$/fd/$n >> /fds; done
    sed 's/[0-9]*\.out/out/; s/[0-9]*\.err/err/' /fds
    find /dev -exec stat -c '%n %F %a %u %g %t %T' {} + | sort
    cat /sys/class/net/*/flags /proc/net/dev
    cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax
"#;

pub fn looks_like_a_cold_one(way: Way) {
    let b = Bundle::new(way).script(FACTS).config(|spec| {
        spec["process"]["rlimits"] = json!([]);
        spec["hostname"] = json!("host");
    });
    let p = Pool::created(b, 1);
    // What isn't in the config comes from whoever calls.
    let mut callers = vec!["exec \"$@\"".to_owned()];
    callers.push(
        "ulimit -n 333; ulimit -Sc 5; ulimit -s 1234; umask 077; echo 17 > /proc/self/oom_score_adj;
         echo 0x11 > /proc/self/coredump_filter; trap '' USR1 PIPE; exec nice -n 5 \"$@\""
            .to_owned(),
    );
    callers.push("exec setarch --addr-no-randomize \"$@\"".to_owned());
    callers.push("exec chrt --batch 0 \"$@\"".to_owned());
    callers.push("exec ionice -c 3 \"$@\"".to_owned());
    for (at, script) in callers.iter().enumerate() {
        let cold = b_run(&p, script, &format!("cold{at}"));
        p.wait_ready(1);
        let warm = p.warm(&[], &format!("warm{at}")).shell(script).run().ok();
        assert!(cold.lines().count() > 100, "{cold}");
        let (cold, warm) = (lines(&cold), lines(&warm));
        let other: Vec<_> = cold
            .iter()
            .filter(|(line, n)| warm.get(*line) != Some(n))
            .map(|(line, _)| format!("- {line}"))
            .chain(
                warm.iter()
                    .filter(|(line, n)| cold.get(*line) != Some(n))
                    .map(|(line, _)| format!("+ {line}")),
            )
            .collect();
        assert!(other.is_empty(), "{script}:\n{}", other.join("\n"));
    }
}

fn b_run(p: &Pool, script: &str, id: &str) -> String {
    let call =
        p.b.call("run")
            .args(["--zygote=off", "--bundle"])
            .arg(&p.b.dir);
    call.arg(p.name(id)).shell(script).run().ok()
}

fn lines(text: &str) -> BTreeMap<&str, usize> {
    let mut all = BTreeMap::new();
    for line in text.lines() {
        *all.entry(line).or_default() += 1;
    }
    all
}

pub fn detached(way: Way) {
    let p = Pool::created(Bundle::new(way).sleeper(), 1);
    let b = &p.b;
    let pid_file = b.dir.join("pid");
    let options = ["--detach", "--pid-file", &pid_file.to_string_lossy()];
    p.warm(&options, &b.id).run().ok();
    let state = b.state();
    assert_eq!(state["id"], json!(b.id));
    assert_eq!(state["status"], json!("running"));
    assert_eq!(state["bundle"], json!(b.dir));
    assert_eq!(
        fs::read_to_string(&pid_file).expect("pid file"),
        state["pid"].to_string()
    );
    assert_eq!(b.inside("echo here"), "here\n");
    assert_eq!(b.exec(["sh", "-c", "exit 3"]).exits(3).stderr, "");
    let listed = b.call("list").arg("-q").run().ok();
    assert_eq!(listed, format!("{}\n", b.id));
    assert!(b.call("ps").args([&b.id]).run().ok().contains("sleep"));
    b.verb("pause").ok();
    assert_eq!(b.status(), "paused");
    b.verb("resume").ok();
    assert_eq!(b.status(), "running");
    let events = b.call("events").args(["--stats", &b.id]).run().ok();
    let events: Value = serde_json::from_str(&events).expect("JSON");
    assert_eq!(events["id"], json!(b.id));
    b.kill("TERM").ok();
    b.wait_status("stopped");
    b.delete().ok();
    assert!(!b.root.join(&b.id).exists());
    // Nothing stays behind but what is parked.
    p.wait_ready(1);
    p.settled(1);
}

pub fn signals_and_exit_codes(way: Way) {
    let p = Pool::created(Bundle::new(way), 1);
    let script = "trap 'echo usr1' USR1; trap 'exit 9' TERM; echo on; while :; do sleep 0.02; done";
    let run = p.warm(&[], "one").args(["--", "sh", "-c", script]).spawn();
    run.wait_stdout("on");
    run.signal(Signal::SIGUSR1);
    run.wait_stdout("usr1");
    run.signal(Signal::SIGTERM);
    run.wait().exits(9);
    p.wait_ready(1);
    let run = p
        .warm(&["--keep"], "two")
        .args(["--", "sh", "-c", "echo on; sleep 100"])
        .spawn();
    run.wait_stdout("on");
    p.b.call("kill").arg(p.name("two")).arg("KILL").run().ok();
    run.wait().exits(137);
    // --keep leaves it.
    let state = p.b.call("state").arg(p.name("two")).run().ok();
    assert!(state.contains("\"stopped\""), "{state}");
    p.b.call("delete").arg(p.name("two")).run().ok();
}

pub fn terminal(way: Way) {
    let p = Pool::created(with_terminal(Bundle::new(way)), 1);
    let (mut master, stdio) = our_terminal();
    let script = "tty; stty size; read x; echo got $x; exit 5";
    let call = p.warm(&[], "one").args(["--", "sh", "-c", script]);
    let run = call.stdio(stdio).spawn();
    let all = read_until(&mut master, "24 99\r\n");
    assert!(all.contains("/dev/pts/0\r\n"), "{all:?}");
    std::io::Write::write_all(&mut master, b"word\n").expect("type");
    read_until(&mut master, "got word\r\n");
    run.wait().exits(5);
}

pub fn terminal_handed_on(way: Way) {
    let p = Pool::created(
        with_terminal(Bundle::new(way)).script("tty; echo end-of-facts; sleep 100"),
        1,
    );
    let path = p.b.dir.join("console");
    let said = p.warm(&["-d"], "one").run().fails();
    let wanted = "cannot allocate tty if runc will detach without setting console socket";
    assert!(said.ends_with(wanted), "{said}");
    p.wait_ready(1);
    p.settled(1);
    let listener = UnixListener::bind(&path).expect("bind");
    let options = ["-d", "--console-socket", &path.to_string_lossy()];
    p.warm(&options, "one").run().ok();
    let (_, fd) = take(&listener);
    let all = read_until(&mut File::from(fd), "end-of-facts");
    assert!(all.contains("/dev/pts/0\r\n"), "{all:?}");
}

pub fn mistakes_are_the_same(way: Way) {
    let p = Pool::created(Bundle::new(way), 1);
    let b = &p.b;
    for (options, args) in [
        (&[][..], &["nothing"][..]),
        (&[], &["/bin"]),
        (&["--cwd=relative"], &[]),
        (&["--cwd=/bin/true"], &[]),
        (&["--env=A"], &[]),
    ] {
        p.wait_ready(1);
        let said = |call: Call| {
            let line = call.args(["--"]).args(args).run().fails();
            assert!(
                line.contains(&format!("run \"{}\"", p.name("one"))),
                "{line}"
            );
            line
        };
        let auto = said(p.from(options, "one"));
        let cold = said(p.from(options, "one").env("RUNZ_ZYGOTE", "off"));
        assert_eq!(auto, cold, "{options:?} {args:?}");
        assert!(!b.root.join(p.name("one")).exists());
    }
    p.wait_ready(1);
    // Of the program only execve(2) knows.
    fs::write(b.rootfs("/bad"), "\x7fELF").expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(b.rootfs("/bad"), mode).expect("chmod");
    let warm = p.warm(&[], "one").args(["--", "/bad"]).run().fails();
    let cold = p
        .from(&[], "one")
        .env("RUNZ_ZYGOTE", "off")
        .args(["--", "/bad"]);
    assert_eq!(warm, cold.run().fails());
    assert!(warm.contains("exec format error"), "{warm}");
    p.wait_ready(1);
    p.settled(1);
    b.run_detached();
    let said = p.warm(&[], &b.id).run().fails();
    assert!(
        said.ends_with("container with given ID already exists"),
        "{said}"
    );
    assert_eq!(p.status()["ready"], json!(1));
    for id in ["a/b", ".."] {
        let said = p.from(&[], id).run().fails();
        assert!(said.contains("invalid container ID format"), "{said}");
    }
}

pub fn limits(way: Way) {
    let p = Pool::created(Bundle::new(way).args(["echo", "hi"]), 1);
    let file = p.b.dir.join("limits");
    let path = file.to_string_lossy().into_owned();
    fs::write(&file, "{}").expect("write");
    assert_eq!(p.warm(&["--resources", &path], "one").run().ok(), "hi\n");
    p.wait_ready(1);
    let call = p.warm(&["--resources=-"], "one").stdin("{}");
    assert_eq!(call.run().ok(), "hi\n");
    p.wait_ready(1);
    fs::write(&file, r#"{"pids": {"limit": 77}}"#).expect("write");
    let warm = p.warm(&["--resources", &path], "one").args([
        "--",
        "sh",
        "-c",
        "cat /sys/fs/cgroup/pids.max",
    ]);
    if host::has_controller("pids") {
        assert_eq!(warm.run().ok(), "77\n");
    } else {
        let (warm, cold) = (warm.run().fails(), p.from(&["--resources", &path], "one"));
        let cold = cold.env("RUNZ_ZYGOTE", "off").run().fails();
        assert!(
            warm.contains("pids") && cold.contains("pids"),
            "{warm} {cold}"
        );
        p.wait_ready(1);
    }
    fs::write(&file, "{").expect("write");
    let said = p.from(&["--resources", &path], "one").run().fails();
    assert!(said.contains("--resources"), "{said}");
    assert!(!p.b.root.join(p.name("one")).exists());
}
