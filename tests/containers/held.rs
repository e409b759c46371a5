//! Processes that are the runtime's still, held where a container might look into them (feature `fault`).

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::escape::{LOOK_AT_THE_RUNTIMES, pod_of_users};
use crate::faults::{fault, procs};
use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way, wait_for};
use crate::namespaces::users_bundle;
use crate::tests;

pub const TESTS: Tests = tests![
    entering_process_is_out_of_reach,
    joining_init_is_out_of_reach,
    killed_before_it_runs,
];

/// The one of these processes that is stopped.
pub fn stopped(all: impl Fn() -> Vec<String>) -> String {
    wait_for("a process that is stopped", || {
        all().into_iter().find(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains(") T ")
        })
    })
}

/// What a process of the container sees of the runtime's.
fn seen(b: &Bundle) -> String {
    wait_for("a process of the runtime's", || {
        let seen = b.inside(LOOK_AT_THE_RUNTIMES);
        (!seen.is_empty()).then_some(seen)
    })
}

fn go_on(pid: &str) {
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGCONT).unwrap();
}

/// CVE-2016-9962: until it runs its program, a process that enters holds what was the runtime's. It's held
/// as soon as it's in the pid namespace; as root of the user namespace; and as the user that the container's
/// processes are, with no more capabilities than they.
fn entering_process_is_out_of_reach(way: Way) {
    let users = users_bundle(way).config(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SYS_PTRACE"]);
        }
    });
    for b in [Bundle::new(way), users] {
        let b = b.sleeper();
        b.run_detached().ok();
        for point in ["exec:cloned", "child:NoNewPrivileges", "child:Barrier"] {
            let call = b.call("exec").args([&b.id, "true"]);
            let entering = fault(call, point, "stop").spawn();
            let runtime = entering.pid().to_string();
            let all = || [vec![runtime.clone()], procs(&b.cgroup())].concat();
            let held = stopped(all);
            let seen = seen(&b);
            go_on(&held);
            entering.wait().ok();
            assert_eq!(seen, "found\n", "{point}");
        }
    }
}

/// In a pod of one user namespace init is its root before it has left the host's root.
fn joining_init_is_out_of_reach(way: Way) {
    let (b, pod) = pod_of_users(way);
    let making = fault(pod.make("run", &[]), "child:Keyring", "stop").spawn();
    let init = stopped(|| procs(&pod.cgroup()));
    let seen = seen(&b);
    go_on(&init);
    making.wait().ok();
    assert_eq!(seen, "found\n");
}

/// Who told it to go waits for its end only: it need not have come to its program.
fn killed_before_it_runs(way: Way) {
    // The init of a pid namespace can't stop itself.
    let b = Bundle::new(way).config(|spec| {
        let all = spec["linux"]["namespaces"].as_array_mut().expect("all");
        all.retain(|n| n["type"] != "pid");
    });
    for step in ["child:Capabilities", "child:Barrier"] {
        let run = fault(b.make("run", &[]), step, "stop").spawn();
        stopped(|| procs(&b.cgroup()));
        wait_for("running", || {
            b.verb("state").stdout.contains("\"running\"").then_some(())
        });
        b.kill("KILL").ok();
        run.wait().exits(128 + 9);
        assert!(b.verb("state").fails().contains("does not exist"));
    }
}
