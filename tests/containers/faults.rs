//! The runtime, or the container's init, dies at every step (feature `fault`): what is left is nothing,
//! or a container that `delete --force` removes; and a step that fails takes back what was done.
//!
//! The names are those of `fault::point` and of `init::message::Step`; `every_point_is_tested` reads
//! the sources and fails for one that is missing here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Call, Daemon, Way, wait_for};
use crate::tests;
use crate::warm::deaths;
use crate::zygote;

pub const TESTS: Tests = tests![
    killed_in_create,
    killed_in_run,
    killed_in_start,
    killed_in_exec,
    killed_in_delete,
    failed_in_create,
    failed_in_run,
    failed_in_exec,
    init_killed_at_every_step,
    init_stops_without_its_runtime,
    runtime_killed_at_every_step_of_init,
    entering_process_killed_at_every_step,
    half_made_container_spares_others,
    kits_of_single_trees,
    every_point_is_tested,
];

/// Before the Record: there is no container yet.
const BEFORE: &[&str] = &[
    "create:planned",
    "create:reserved",
    "create:noted",
    "create:cgroup",
    "create:applied",
    "launch:prepared",
    "launch:cloned",
    "create:prepared",
    "launch:hooks",
    "launch:hooked",
];

/// After it.
const AFTER: &[&str] = &["create:committed", "launch:ready", "create:settled"];
const PIDFILE: &[&str] = &["pidfile:written", "create:pidfile"];

const CREATE: &[&str] = &["create:released"];
const RUN: &[&str] = &["run:made", "run:started"];
const START: &[&str] = &[
    "start:found",
    "start:opened",
    "start:written",
    "start:released",
    "start:poststart",
];
const DELETE: &[&str] = &[
    "delete:locked",
    "delete:killed",
    "delete:cgroup",
    "delete:removed",
];
const EXEC: &[&str] = &[
    "exec:asked",
    "exec:joined",
    "exec:cloned",
    "exec:ready",
    "exec:settled",
    "exec:running",
    "exec:pidfile",
];

/// The steps that init takes for [`bundle`], with how many of each.
const STEPS: &[(&str, usize)] = &[
    ("Seal", 1),
    ("Session", 1),
    ("Keyring", 1),
    ("JoinNetwork", 1),
    ("Kit", 1),
    ("Rootfs", 1),
    ("Mount", 7),
    ("Dev", 1),
    ("Pivot", 1),
    ("Sysctl", 1),
    ("ReadonlyPath", 1),
    ("MaskedPath", 1),
    ("Capabilities", 1),
    ("NoNewPrivileges", 1),
    ("Seccomp", 1),
    ("Uid", 1),
    ("Executable", 1),
    ("Barrier", 1),
];

/// Those of a process that enters.
const ENTRY_STEPS: &[&str] = &[
    "Seal",
    "JoinNamespace",
    "Capabilities",
    "NoNewPrivileges",
    "Seccomp",
    "Uid",
    "Executable",
    "Barrier",
];

/// A container with something for every step to do.
fn bundle(way: Way) -> Bundle {
    let hook = json!([{"path": "/bin/true"}]);
    Bundle::new(way).args(["sleep", "1000"]).config(|spec| {
        spec["hooks"] = json!({
            "createRuntime": hook, "createContainer": hook, "startContainer": hook,
            "poststart": hook, "poststop": hook,
        });
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}],
        });
    })
}

pub fn fault(call: Call, point: &str, action: &str) -> Call {
    call.env("RUNZ_FAULT", format!("{point}={action}"))
}

/// Reaps the children of killed runtimes, which are ours now: a pid namespace doesn't end before.
fn reap() {
    let own = format!(" {} ", std::process::id());
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let text = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some((pid, rest)) = text.split_once(" (runz:init) Z")
            && rest.starts_with(&own)
        {
            let _ = waitpid(Pid::from_raw(pid.parse().unwrap()), None);
        }
    }
}

pub fn procs(cgroup: &Path) -> Vec<String> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Nothing of the container is there.
#[track_caller]
fn nothing_left(b: &Bundle, what: &str) {
    assert!(
        !b.root.join(&b.id).exists(),
        "{what}: the state directory is left"
    );
    assert!(
        !b.cgroup().exists(),
        "{what}: the cgroup is left: {:?}",
        procs(&b.cgroup())
    );
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = b.dir.to_string_lossy();
    assert!(!mounts.contains(&*dir), "{what}: a mount is left");
}

/// Nobody goes on for a runtime that is dead: the hooks that come next don't run.
fn init_stops_without_its_runtime(way: Way) {
    let b = bundle(way);
    let made = b.dir.join("made");
    let b = b.config(|spec| {
        let hook = json!([{"path": "/bin/touch", "args": ["touch", made]}]);
        spec["hooks"]["createContainer"] = hook;
    });
    fault(b.make("create", &[]), "launch:hooks", "kill")
        .run()
        .exits(-9);
    init_is_gone_or_known(&b, "launch:hooks");
    wait_for("the end of init", || {
        procs(&b.cgroup()).is_empty().then_some(())
    });
    assert!(!made.exists());
    can_be_removed(&b, "launch:hooks");
}

/// `delete --force` removes what a killed runtime left, and the id can be used again.
#[track_caller]
fn can_be_removed(b: &Bundle, what: &str) {
    b.call("delete").args(["--force", &b.id]).run().ok();
    nothing_left(b, what);
}

/// A container of the same id can be made, runs, and goes.
#[track_caller]
fn works_again(b: &Bundle) {
    let pid_file = b.dir.join("pid");
    b.make("create", &["--pid-file", &pid_file.to_string_lossy()])
        .run()
        .ok();
    b.start().ok();
    assert_eq!(b.status(), "running");
    assert_eq!(fs::read_to_string(pid_file).unwrap(), b.pid().to_string());
    b.call("delete").args(["--force", &b.id]).run().ok();
}

/// Without a Record, init doesn't stay: it ends by itself.
#[track_caller]
fn init_is_gone_or_known(b: &Bundle, what: &str) {
    let known = b.root.join(&b.id).join("state.json");
    wait_for(
        &format!("{what}: the end of an init that nobody knows"),
        || (known.exists() || procs(&b.cgroup()).is_empty()).then_some(()),
    );
}

/// Options for a pid file in the bundle.
fn with_pid_file<'a>(path: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    [options, &["--pid-file", path]].concat()
}

fn killed_in(way: Way, verb: &str, options: &[&str], points: &[&[&str]]) {
    let b = bundle(way);
    let pid_file = b.dir.join("pid").to_string_lossy().into_owned();
    let with = with_pid_file(&pid_file, options);
    for point in points.concat() {
        let options = match PIDFILE.contains(&point) {
            true => &with[..],
            false => options,
        };
        fault(b.make(verb, options), point, "kill").run().exits(-9);
        init_is_gone_or_known(&b, point);
        can_be_removed(&b, point);
        works_again(&b);
    }
}

fn killed_in_create(way: Way) {
    killed_in(way, "create", &[], &[BEFORE, AFTER, PIDFILE, CREATE]);
}

fn killed_in_run(way: Way) {
    killed_in(way, "run", &["--detach"], &[BEFORE, AFTER, PIDFILE, RUN]);
    let b = bundle(way).args(["true"]);
    fault(b.make("run", &[]), "run:ended", "kill")
        .run()
        .exits(-9);
    can_be_removed(&b, "run:ended");
}

fn killed_in_start(way: Way) {
    let b = bundle(way);
    for point in START {
        b.create().ok();
        fault(b.call("start").arg(&b.id), point, "kill")
            .run()
            .exits(-9);
        match *point {
            "start:found" | "start:opened" => {
                assert_eq!(b.status(), "created", "{point}");
                b.start().ok();
            }
            // Whether the file is still there or not: the program runs.
            _ => b.wait_status("running"),
        }
        let refused = b.delete().fails();
        assert!(
            refused.contains("that is not stopped: running"),
            "{point}: {refused}"
        );
        can_be_removed(&b, point);
    }
}

fn killed_in_exec(way: Way) {
    let b = bundle(way);
    b.run_detached().ok();
    let init = vec![b.pid().to_string()];
    let pid_file = b.dir.join("exec-pid").to_string_lossy().into_owned();
    for point in EXEC {
        let call = b
            .call("exec")
            .args(["--pid-file", &pid_file, &b.id, "sleep", "1000"]);
        fault(call, point, "kill").run().exits(-9);
        match *point {
            // It was told to go as soon as it can.
            "exec:ready" | "exec:settled" | "exec:running" | "exec:pidfile" => {
                let all = procs(&b.cgroup());
                assert_eq!(all.len(), 2, "{point}: {all:?}");
                let entered = all.iter().find(|pid| **pid != init[0]).unwrap();
                let entered = Pid::from_raw(entered.parse().unwrap());
                kill(entered, Signal::SIGKILL).unwrap();
                let _ = waitpid(entered, None);
            }
            _ => {}
        }
        wait_for(&format!("{point}: init alone"), || {
            (procs(&b.cgroup()) == init).then_some(())
        });
        reap();
        assert_eq!(b.inside("echo here"), "here\n");
        assert_eq!(b.status(), "running");
    }
    can_be_removed(&b, "exec");
}

fn killed_in_delete(way: Way) {
    let b = bundle(way);
    for point in DELETE {
        b.run_detached().ok();
        fault(b.call("delete").args(["--force", &b.id]), point, "kill")
            .run()
            .exits(-9);
        can_be_removed(&b, point);
        works_again(&b);
    }
}

/// Has the call made by somebody who says which processes are left when it has ended.
fn by_a_shim(call: Call) -> Call {
    let own = std::env::current_exe().unwrap();
    let (own, role) = (own.display(), crate::inside::ROLE);
    call.shell(&format!("exec env {role}=reaper {own} \"$@\""))
}

fn failed_in(way: Way, verb: &str, options: &[&str], points: &[&[&str]]) {
    let b = bundle(way);
    let pid_file = b.dir.join("pid").to_string_lossy().into_owned();
    let with = with_pid_file(&pid_file, options);
    for point in points.concat() {
        let options = match PIDFILE.contains(&point) {
            true => &with[..],
            false => options,
        };
        let output = by_a_shim(fault(b.make(verb, options), point, "eio")).run();
        assert_eq!(output.stdout, "", "{point}");
        let line = output.fails();
        let said = match point {
            "pidfile:written" => "write pid file".to_owned(),
            point => format!("fault at {point}: i/o error (EIO)"),
        };
        assert!(line.contains(&said), "{point}: {line}");
        nothing_left(&b, point);
        assert!(
            !b.dir.join("pid").exists() || point == "create:pidfile" || verb == "run",
            "{point}"
        );
        let _ = fs::remove_file(b.dir.join("pid"));
    }
    works_again(&b);
    let b = b.args(["no-such-program"]);
    let output = by_a_shim(b.make(verb, options)).run();
    assert_eq!(output.stdout, "");
    output.fails();
    nothing_left(&b, "no such program");
}

fn failed_in_create(way: Way) {
    failed_in(way, "create", &[], &[BEFORE, AFTER, PIDFILE]);
}

fn failed_in_run(way: Way) {
    failed_in(way, "run", &["--detach"], &[BEFORE, AFTER, PIDFILE, RUN]);
    failed_in(way, "run", &[], &[BEFORE, AFTER, PIDFILE, RUN]);
}

fn failed_in_exec(way: Way) {
    let b = bundle(way);
    b.run_detached().ok();
    let init = vec![b.pid().to_string()];
    let pid_file = b.dir.join("exec-pid").to_string_lossy().into_owned();
    // Once it runs, nothing fails.
    for point in EXEC.iter().filter(|point| **point != "exec:pidfile") {
        let call = b
            .call("exec")
            .args(["--pid-file", &pid_file, &b.id, "sleep", "1000"]);
        let output = by_a_shim(fault(call, point, "eio")).run();
        // There it may just go on as another process, of which nobody knows: that ends by itself.
        if *point != "exec:cloned" {
            assert_eq!(output.stdout, "", "{point}");
        }
        let line = output.fails_with(255);
        assert!(
            line.ends_with(&format!("fault at {point}: i/o error (EIO)")),
            "{point}: {line}"
        );
        wait_for(&format!("{point}: init alone"), || {
            (procs(&b.cgroup()) == init).then_some(())
        });
    }
    let output = by_a_shim(b.call("exec").args([&b.id, "no-such-program"])).run();
    assert_eq!(output.stdout, "");
    output.fails_with(255);
    can_be_removed(&b, "exec");
}

/// `child:STEP:INDEX` for every step of init.
fn steps(way: Way) -> impl Iterator<Item = String> {
    // A network namespace comes with a kit, or from the parent.
    let never = match way {
        Way::Cold => "Kit",
        Way::Kit | Way::From => "JoinNetwork",
    };

    let all = |(name, count): &(&'static str, usize)| {
        let name = *name;
        (0..*count).map(move |i| format!("child:{name}:{i}"))
    };
    STEPS
        .iter()
        .filter(move |step| step.0 != never)
        .flat_map(all)
}

/// [`bundle`], and one whose mount namespace is a kit's, too: no hook looks into it.
fn bundles(way: Way) -> Vec<Bundle> {
    let whole = || bundle(way).config(|spec| spec["hooks"] = json!({}));
    match way {
        Way::Cold => vec![bundle(way)],
        Way::Kit | Way::From => vec![bundle(way), whole()],
    }
}

/// Steps at which init has closed what the fault `orphan` needs. `launch:ready` comes after them.
fn closed(step: &str) -> bool {
    ["Uid", "Executable", "Seccomp", "Barrier"]
        .iter()
        .any(|late| step.contains(late))
}

fn init_killed_at_every_step(way: Way) {
    for b in bundles(way) {
        for step in steps(way) {
            let line = fault(b.make("create", &[]), &step, "kill").run().fails();
            assert!(
                line.contains("container init was killed by signal"),
                "{step}: {line}"
            );
            nothing_left(&b, &step);
        }
        works_again(&b);
    }
    for hook in ["createRuntime", "prestart"] {
        let b = Bundle::new(way).config(|spec| {
            // Kills init while the runtime waits for the hook.
            let script = r#"kill -9 $(sed 's/.*"pid":\([0-9]*\).*/\1/')"#;
            spec["hooks"] = json!({hook: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        });
        let line = b.create().fails();
        assert!(line.contains("was killed by signal 9: "), "{line}");
        nothing_left(&b, hook);
    }
}

fn runtime_killed_at_every_step_of_init(way: Way) {
    for b in bundles(way) {
        for step in steps(way).filter(|step| !closed(step)) {
            fault(b.make("create", &[]), &step, "orphan")
                .run()
                .exits(-9);
            init_is_gone_or_known(&b, &step);
            can_be_removed(&b, &step);
        }
        works_again(&b);
    }
}

fn entering_process_killed_at_every_step(way: Way) {
    let b = bundle(way);
    b.run_detached().ok();
    let init = vec![b.pid().to_string()];
    for step in ENTRY_STEPS {
        let point = format!("child:{step}");
        let call = || b.call("exec").args([&b.id, "true"]);
        let line = fault(call(), &point, "kill").run().fails_with(255);
        assert!(line.contains("killed"), "{point}: {line}");
        assert_eq!(procs(&b.cgroup()), init, "{point}");
        // From then on it has closed what the fault needs.
        if !matches!(*step, "Seal" | "JoinNamespace") {
            continue;
        }
        fault(call(), &point, "orphan").run().exits(-9);
        wait_for(&format!("{point}: init alone"), || {
            (procs(&b.cgroup()) == init).then_some(())
        });
    }
    assert_eq!(b.inside("echo here"), "here\n");
    reap();
    can_be_removed(&b, "exec");
}

/// A `create` that was killed before it saw that the cgroup of its config is another container's:
/// deleting its remains must not harm that one.
fn half_made_container_spares_others(way: Way) {
    let one = bundle(way);
    one.run_detached().ok();
    let cgroup = one.cgroup();
    let path = format!(
        "/{}",
        cgroup.strip_prefix("/sys/fs/cgroup").unwrap().display()
    );
    let two = bundle(way).config(|spec| spec["linux"]["cgroupsPath"] = json!(path));
    fault(two.make("create", &[]), "create:noted", "kill")
        .run()
        .exits(-9);
    two.call("delete").args(["--force", &two.id]).run().ok();
    assert!(!two.root.join(&two.id).exists());
    assert_eq!(one.status(), "running");
    let refused = two.create().fails();
    assert!(
        refused.contains("container's cgroup is not empty"),
        "{refused}"
    );
    assert_eq!(one.status(), "running");
    can_be_removed(&one, "the first");
}

/// Before Linux 6.15 what belongs below /dev can't be attached there ahead: it comes singly.
fn kits_of_single_trees(way: Way) {
    let Way::Kit = way else { return };
    let mut b = Bundle::new(way).sleeper();
    let mut descriptors = |fault: &str| {
        drop(b.daemon.take());
        let daemon = Daemon::with(&b.root, &[], |command| {
            command.env("RUNZ_FAULT", fault);
        });
        works_again(&b);
        assert_eq!(daemon.sum("hits"), 1, "{fault}");
        let open = wait_for("a full pool", || {
            (daemon.sum("ready") == 4).then(|| daemon.status()["descriptors"].as_u64())
        });
        b.daemon = Some(daemon);
        open
    };
    let (single, whole) = (descriptors("kit:nested=eio"), descriptors("none=eio"));
    // Of each kit: pts, shm and mqueue.
    assert_eq!(single, whole.map(|n| n + 4 * 3));
}

fn every_point_is_tested(_: Way) {
    let daemon = [zygote::DAEMON, zygote::KERNEL].concat();
    let warm = [deaths::CALLER, deaths::CALLER_LATE, deaths::KEEPER, &daemon].concat();
    let mut tested: BTreeSet<String> = [
        BEFORE, AFTER, PIDFILE, CREATE, RUN, START, DELETE, EXEC, &warm,
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect();
    tested.insert("run:ended".to_owned());
    let mut points = BTreeSet::new();
    let mut steps = BTreeSet::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
                continue;
            }
            let text = fs::read_to_string(entry.path()).unwrap();
            let names = text.split("fault::point(\"").skip(1);
            points.extend(names.map(|s| s.split('"').next().unwrap().to_owned()));
            let names = text.split("trace(Step::").skip(1);
            steps.extend(names.map(|s| s.split(',').next().unwrap().to_owned()));
        }
    }
    assert_eq!(points, tested);
    let mut known: BTreeSet<String> = STEPS.iter().map(|(n, _)| (*n).to_owned()).collect();
    known.extend(ENTRY_STEPS.iter().map(|n| (*n).to_owned()));
    // Only with a terminal; with a user namespace; in a warm container; and when no test can observe it any more.
    known.extend(["Console", "Loopback", "Exec", "Parked"].map(str::to_owned));
    assert_eq!(steps, known);
}
