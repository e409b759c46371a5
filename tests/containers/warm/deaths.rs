//! Somebody dies: the daemon, a keeper, a caller.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Pool, keepers, names};
#[cfg(feature = "fault")]
use crate::harness::Call;
use crate::harness::{Bundle, Way, wait_for};
#[cfg(feature = "fault")]
use crate::held;

pub fn daemon_killed(way: Way) {
    let mut p = Pool::created(Bundle::new(way).sleeper(), 3);
    let id = p.b.id.clone();
    p.warm(&["-d"], &id).run().ok();
    p.wait_ready(3);
    p.kill();
    // Nobody waits for those who are parked; who is somebody's lives on.
    wait_for("nothing parked", || p.parked().is_empty().then_some(()));
    assert_eq!(p.b.status(), "running");
    assert_eq!(p.b.inside("echo here"), "here\n");
    p.serve(&[]);
    p.wait_ready(3);
    assert_eq!(p.b.status(), "running");
    p.warm(&["-d"], "other").run().ok();
    // Also where nobody has cleaned up.
    let keepers = names(PathBuf::from("/proc")).into_iter().filter(|pid| {
        let parent = format!("PPid:\t{}\n", p.daemon.as_ref().unwrap().pid());
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains(&parent) && status.contains("runz:keeper")
    });
    let keepers: Vec<i32> = keepers.filter_map(|pid| pid.parse().ok()).collect();
    for pid in &keepers {
        kill(Pid::from_raw(*pid), Signal::SIGSTOP).expect("stop");
    }
    p.kill();
    for pid in &keepers {
        // Who had ended before was the daemon's to reap.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    let left = p.parked();
    assert!(!left.is_empty());
    p.serve(&[]);
    p.wait_ready(3);
    wait_for("what was left is gone", || {
        let now = p.parked();
        (!left.iter().any(|d| now.contains(d))).then_some(())
    });
    for id in [id, p.name("other")] {
        p.b.call("delete").args(["--force", &id]).run().ok();
    }
    p.settled(3);
}

pub fn daemon_killed_in_the_foreground(way: Way) {
    let mut p = Pool::ready(Bundle::new(way), 1, &[]);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    let out = File::create(p.b.dir.join("out")).expect("create");
    let call = p.warm(&[], "one").stdio([
        read.into(),
        out.try_clone().expect("dup").into(),
        out.into(),
    ]);
    let run = call.spawn();
    let path = p.b.dir.join("out");
    let text = || fs::read_to_string(&path).expect("read");
    wait_for("its output", || text().contains("warming up").then_some(()));
    let mut write = File::from(write);
    std::io::Write::write_all(&mut write, b"before\n").expect("write");
    wait_for("an answer", || text().contains("before ").then_some(()));
    p.kill();
    std::io::Write::write_all(&mut write, b"after\n").expect("write");
    wait_for("an answer", || text().contains("after ").then_some(()));
    std::io::Write::write_all(&mut write, b"exit 11\n").expect("write");
    run.wait().exits(11);
}

/// The keepers of the daemon.
pub fn keeper_pids(p: &Pool) -> Vec<i32> {
    let pid = p.daemon.as_ref().expect("a daemon").pid();
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    text.split_whitespace()
        .filter_map(|p| p.parse().ok())
        .collect()
}

pub fn keeper_killed(way: Way) {
    let p = Pool::created(Bundle::new(way).args(["echo", "hi"]), 1);
    for _ in 0..2 {
        let before = p.parked();
        kill(Pid::from_raw(keeper_pids(&p)[0]), Signal::SIGKILL).expect("kill");
        // Noticed, removed, made again.
        wait_for("another one", || {
            let now = p.parked();
            (now.len() == 1 && now != before).then_some(())
        });
        p.wait_ready(1);
        p.settled(1);
        assert_eq!(p.warm(&[], "one").run().ok(), "hi\n");
        p.wait_ready(1);
    }
    // One whose container runs: its caller says so, and leaves nothing.
    let run = p
        .warm(&[], "one")
        .args(["--", "sh", "-c", "echo on; sleep 100"])
        .spawn();
    run.wait_stdout("on");
    p.wait_ready(1);
    let status = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let pid = p.b.call("state").arg(p.name("one")).run().ok();
    let pid: Value = serde_json::from_str(&pid).expect("JSON");
    let pid = pid["pid"].to_string();
    let its = |k: &i32| status(k).is_ok_and(|c| c.split_whitespace().any(|c| c == pid));
    let keeper = keeper_pids(&p).into_iter().find(its).expect("its keeper");
    kill(Pid::from_raw(keeper), Signal::SIGKILL).expect("kill");
    let said = run.wait().fails();
    assert!(said.contains("the container's keeper is gone"), "{said}");
    assert!(!p.b.root.join(p.name("one")).exists());
    p.settled(1);
}

pub fn caller_killed(way: Way) {
    let p = Pool::created(Bundle::new(way).args(["true"]), 1);
    let run = p
        .warm(&[], "one")
        .args(["--", "sh", "-c"])
        .arg("trap 'echo passed on' USR1; echo on; while :; do sleep 0.1; done")
        .spawn();
    run.wait_stdout("on");
    // Before it knows that its program runs it would take it along.
    run.signal(Signal::SIGUSR1);
    run.wait_stdout("passed on");
    // As with a cold one: it goes on.
    run.signal(Signal::SIGKILL);
    run.wait().exits(-9);
    let state = p.b.call("state").arg(p.name("one")).run().ok();
    assert!(state.contains("\"running\""), "{state}");
    p.delete("one");
    p.wait_ready(1);
    p.settled(1);
    keepers(&p, 1);
    // One that hangs up before he has said what he wants.
    let socket = p.b.root.join("@zygote/socket");
    let gone = Command::new("timeout")
        .args(["0.5", "true"])
        .env("S", socket)
        .status();
    assert!(gone.expect("true").success());
}

/// Where a caller dies: before the container has its id, and after.
#[cfg(feature = "fault")]
pub const CALLER: &[&str] = &["from:prepared", "from:adopted", "from:settled"];
/// Where a caller's container runs already.
#[cfg(feature = "fault")]
pub const CALLER_LATE: &[&str] = &["from:running", "from:ended"];
/// Where a keeper dies.
#[cfg(feature = "fault")]
pub const KEEPER: &[&str] = &["keep:parked", "keep:prepared", "keep:told", "keep:running"];

#[cfg(feature = "fault")]
fn fault(call: Call, point: &str, action: &str) -> Call {
    call.env("RUNZ_FAULT", format!("{point}={action}"))
}

#[cfg(feature = "fault")]
pub fn caller_killed_at_every_step(way: Way) {
    for p in [
        Pool::created(Bundle::new(way), 1),
        Pool::ready(Bundle::new(way), 1, &[]),
        Pool::ready(Bundle::new(way), 1, &["--freeze"]),
    ] {
        for options in [&[][..], &["--detach"]] {
            for point in CALLER {
                p.wait_ready(1);
                fault(p.warm(options, "one"), point, "kill").run().exits(-9);
                p.wait_ready(1);
                p.settled(1);
                wait_for(point, || {
                    (!p.b.root.join(p.name("one")).exists()).then_some(())
                });
                // The step fails: the same, and it's said.
                let said = fault(p.warm(options, "one"), point, "eio")
                    .run()
                    .exits(1)
                    .stderr;
                assert!(said.contains(&format!("fault at {point}")), "{said}");
                assert!(!p.b.root.join(p.name("one")).exists(), "{point}");
                p.wait_ready(1);
                p.settled(1);
            }
        }
        // Its program runs: it's the caller's, dead or not.
        fault(p.warm(&["-d"], "one"), "from:running", "kill")
            .run()
            .exits(-9);
        p.delete("one");
        p.wait_ready(1);
        p.settled(1);
        let said = fault(p.warm(&["-d"], "one"), "from:running", "eio")
            .run()
            .exits(1)
            .stderr;
        assert!(said.contains("fault at from:running"), "{said}");
        assert!(!p.b.root.join(p.name("one")).exists());
        p.wait_ready(1);
        let call = fault(p.warm(&[], "one").stdin("exit 0\n"), "from:ended", "kill");
        call.run().exits(-9);
        p.delete("one");
        p.wait_ready(1);
        p.settled(1);
    }
}

#[cfg(feature = "fault")]
pub fn keeper_killed_at_every_step(way: Way) {
    for ready in [false, true] {
        for point in KEEPER {
            let script = Bundle::new(way).args(["echo", "hi"]);
            let mut p = match ready {
                false => Pool::created(script, 1),
                true => Pool::ready(script, 1, &[]),
            };
            p.kill();
            p.settled(0);
            p.serve(&[("RUNZ_FAULT", &format!("{point}=kill"))]);
            if *point != "keep:parked" {
                p.wait_ready(1);
            }
            let said = p.from(&[], "one").stdin("exit 0\n").run();
            match *point {
                // Before it was promised he goes the cold way.
                "keep:parked" | "keep:prepared" => drop(said.exits(0)),
                _ => {
                    let said = said.exits(1).stderr;
                    assert!(said.contains("keeper is gone"), "{point}: {said}");
                }
            }
            assert!(!p.b.root.join(p.name("one")).exists(), "{point}");
            // The daemon removes what he left.
            p.b.call("zygote").args(["drop", &p.b.id]).run().ok();
            p.settled(0);
        }
    }
}

/// A container that is killed when its caller may already see it, but its program doesn't run yet.
#[cfg(feature = "fault")]
pub fn killed_before_it_runs(way: Way) {
    // The init of a pid namespace can't stop itself.
    let b = Bundle::new(way).config(|spec| {
        let all = spec["linux"]["namespaces"].as_array_mut().expect("all");
        all.retain(|n| n["type"] != "pid");
    });
    let mut p = Pool::created(b, 0);
    p.kill();
    p.serve(&[("RUNZ_FAULT", "child:Barrier=stop")]);
    p.provision(&["--count", "1"]).ok();
    p.wait_ready(1);
    let run = p.warm(&[], "one").spawn();
    let verb = |verb: &str| p.b.call(verb).arg(p.name("one"));
    wait_for("running", || {
        verb("state")
            .run()
            .stdout
            .contains("\"running\"")
            .then_some(())
    });
    let pid = verb("state").run().ok();
    let pid: Value = serde_json::from_str(&pid).expect("JSON");
    held::stopped(|| vec![pid["pid"].to_string()]);
    verb("kill").arg("KILL").run().ok();
    run.wait().exits(128 + 9);
    assert!(!p.b.root.join(p.name("one")).exists());
    p.b.call("zygote").args(["drop", &p.b.id]).run().ok();
    p.settled(0);
}
