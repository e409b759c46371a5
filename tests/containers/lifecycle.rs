//! From create to delete: states, and which verb is allowed in which.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way, host, wait_for};
use crate::tests;

pub const TESTS: Tests = tests![
    whole_life,
    init_is_the_callers_child,
    detached_run_leaves_init_to_the_caller,
    pid_file_is_only_digits,
    paths_are_of_the_callers_directory,
    program_waits_for_start,
    created_is_deleted_without_force,
    from(running_is_deleted_with_force),
    from(killed_from_outside_is_stopped),
    from(another_process_with_its_pid_is_not_it),
    wrong_state_is_refused,
    from(stopped_is_refused),
    from(pause_and_resume),
    from(paused_dies_of_kill),
    created_dies_of_term,
    from(kill_takes_names_and_numbers),
    from(kill_all_forgives_the_stopped),
    from(kill_takes_an_empty_signal_as_none),
    from(kill_without_pid_namespace_takes_all),
    from(delete_takes_what_init_left),
    process_may_be_absent_until_start,
    from(keep_keeps),
    from(id_in_use),
    ids_are_checked,
    one_of_two_creates_wins,
    failed_create_leaves_nothing,
    halfway_directory_is_removed,
];

fn whole_life(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.create().ok();
    assert_eq!(b.status(), "created");
    b.start().ok();
    assert_eq!(b.status(), "running");
    b.kill("KILL").ok();
    b.wait_status("stopped");
    let again = b.kill("KILL").fails();
    assert!(again.contains("container not running"), "{again}");
    b.delete().ok();
    let gone = b.delete().fails();
    assert!(gone.contains("container does not exist"), "{gone}");
    b.call("delete").args(["--force", &b.id]).run().ok();
}

/// The parent of a process.
fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read stat");
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let field = rest.split_whitespace().nth(1);
    field.and_then(|n| n.parse().ok()).expect("a parent")
}

fn init_is_the_callers_child(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.create().ok();
    // We are the subreaper: a process in between would show.
    assert_eq!(parent(b.pid()), std::process::id() as i32);
    b.start().ok();
    assert_eq!(parent(b.pid()), std::process::id() as i32);
}

fn detached_run_leaves_init_to_the_caller(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    assert_eq!(parent(b.pid()), std::process::id() as i32);
}

fn pid_file_is_only_digits(way: Way) {
    let b = Bundle::new(way).sleeper();
    let file = b.dir.join("pid");
    b.make("create", &["--pid-file", &file.to_string_lossy()])
        .run()
        .ok();
    let text = fs::read_to_string(&file).expect("read the pid file");
    assert_eq!(text, b.pid().to_string());
}

fn paths_are_of_the_callers_directory(way: Way) {
    let b = Bundle::new(way).sleeper();
    let dir = b.dir.clone();
    // The bundle is the current directory; the pid file's path is relative to it.
    let call = b.call("create").args(["--pid-file", "here.pid", &b.id]);
    call.with(move |c| {
        c.current_dir(&dir);
    })
    .run()
    .ok();
    assert!(b.dir.join("here.pid").exists());
    assert_eq!(b.state()["bundle"], b.dir.to_string_lossy().as_ref());
    b.verb("delete").ok();
    let above = b.dir.parent().expect("a parent").to_owned();
    let name = b
        .dir
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let call = b
        .call("create")
        .args(["-b", &name, "--pid-file", &format!("{name}/two"), &b.id]);
    call.with(move |c| {
        c.current_dir(&above);
    })
    .run()
    .ok();
    assert!(b.dir.join("two").exists());
}

fn program_waits_for_start(way: Way) {
    let b = Bundle::new(way).script("echo done > /ran; sleep 100");
    b.create().ok();
    let command = fs::read(format!("/proc/{}/cmdline", b.pid())).expect("read cmdline");
    assert!(!command.starts_with(b"sh\0-c"), "{command:?}");
    assert!(!b.rootfs("ran").exists());
    b.start().ok();
    assert_eq!(b.wait_file("ran"), "done\n");
}

fn created_is_deleted_without_force(way: Way) {
    let b = Bundle::new(way);
    b.create().ok();
    let pid = b.pid();
    b.delete().ok();
    let alive = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert_eq!(alive, "", "init lives on");
}

fn running_is_deleted_with_force(way: Way) {
    let b = Bundle::new(way).args(["sleep", "100"]);
    b.run_detached().ok();
    b.call("delete").args(["-f", &b.id]).run().ok();
    let gone = b.verb("state").fails();
    assert!(gone.contains("container does not exist"), "{gone}");
}

fn killed_from_outside_is_stopped(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    kill(Pid::from_raw(b.pid()), Signal::SIGKILL).expect("kill init");
    b.wait_status("stopped");
    assert_eq!(b.state()["pid"], 0);
}

fn another_process_with_its_pid_is_not_it(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let init = Pid::from_raw(b.pid());
    // As if the pid had gone round: our own process has it, with another start time.
    let path = b.root.join(&b.id).join("state.json");
    let text = fs::read_to_string(&path).expect("read the Record");
    let own = std::process::id();
    let other = text.replace(
        &format!("\"init_process_pid\":{init}"),
        &format!("\"init_process_pid\":{own}"),
    );
    assert_ne!(text, other, "the Record has no init_process_pid");
    fs::write(&path, other).expect("change the Record");
    assert_eq!(b.status(), "stopped");
    assert!(b.kill("KILL").fails().contains("container not running"));
    fs::write(&path, text).expect("restore the Record");
    assert_eq!(b.status(), "running");
}

fn wrong_state_is_refused(way: Way) {
    let b = Bundle::new(way).sleeper();
    let refused = |verb: &str, words: &str| {
        let said = b.verb(verb).fails();
        assert!(said.ends_with(words), "{verb}: {said}");
        assert!(said.contains(&b.id), "{verb}: {said}");
    };
    b.create().ok();
    refused("resume", "container not paused");
    b.start().ok();
    refused("start", "cannot start an already running container");
    refused("resume", "container not paused");
    refused(
        "delete",
        &format!(
            "cannot delete container {} that is not stopped: running",
            b.id
        ),
    );
    b.verb("pause").ok();
    refused("pause", "container not running or created: paused");
    refused("start", "cannot start a container in the paused state");
    refused(
        "delete",
        &format!(
            "cannot delete container {} that is not stopped: paused",
            b.id
        ),
    );
    let exec = b.exec(["true"]).fails_with(255);
    let words = "cannot exec in a paused container (use --ignore-paused to override)";
    assert!(exec.ends_with(words), "{exec}");
}

fn stopped_is_refused(way: Way) {
    let b = Bundle::new(way);
    b.run_detached().ok();
    b.wait_status("stopped");
    for (verb, words) in [
        ("start", "cannot start a container that has stopped"),
        ("kill", "container not running"),
        ("pause", "container not running"),
        ("resume", "container not paused"),
    ] {
        let said = b.verb(verb).fails();
        assert!(said.contains(words), "{verb}: {said}");
    }
    let exec = b.exec(["true"]).fails_with(255);
    assert!(
        exec.ends_with("cannot exec in a stopped container"),
        "{exec}"
    );
    let events = b.call("events").args(["--stats", &b.id]).run().fails();
    assert!(
        events.contains(&format!("container with id {} is not running", b.id)),
        "{events}"
    );
    for verb in [
        "start", "kill", "pause", "resume", "state", "delete", "ps", "update", "events",
    ] {
        let said = b.call(verb).arg("nobody").run().fails();
        assert!(said.contains("container does not exist"), "{verb}: {said}");
        assert!(said.contains("nobody"), "{verb}: {said}");
    }
    let exec = b
        .call("exec")
        .args(["nobody", "true"])
        .run()
        .fails_with(255);
    assert!(exec.contains("container does not exist"), "{exec}");
}

fn pause_and_resume(way: Way) {
    let b = Bundle::new(way).script("while :; do echo x >> /count; sleep 0.01; done");
    b.run_detached().ok();
    b.wait_file("count");
    b.verb("pause").ok();
    assert_eq!(b.status(), "paused");
    let count = || fs::read(b.rootfs("count")).expect("read").len();
    let then = count();
    std::thread::sleep(std::time::Duration::from_millis(60));
    assert_eq!(count(), then, "it goes on while paused");
    let events = fs::read_to_string(b.cgroup().join("cgroup.events")).expect("read cgroup.events");
    assert!(events.contains("frozen 1"), "{events}");
    b.verb("resume").ok();
    assert_eq!(b.status(), "running");
    wait_for("the program to go on", || (count() > then).then_some(()));
}

fn paused_dies_of_kill(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    b.verb("pause").ok();
    b.kill("9").ok();
    b.wait_status("stopped");
    b.delete().ok();
}

fn created_dies_of_term(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.create().ok();
    b.kill("TERM").ok();
    b.wait_status("stopped");
    b.delete().ok();
}

fn kill_takes_names_and_numbers(way: Way) {
    let b = Bundle::new(way).script(
        "for s in USR1 USR2 HUP WINCH; do trap \"echo $s >> /got\" $s; done
         trap 'echo RT3 >> /got' 37
         echo ready > /ready; while :; do sleep 0.02; done",
    );
    b.run_detached().ok();
    b.wait_file("ready");
    let mut all = String::new();
    for (signal, name) in [
        ("USR1", "USR1"),
        ("SIGUSR2", "USR2"),
        ("sighup", "HUP"),
        ("28", "WINCH"),
        ("RTMIN+3", "RT3"),
        ("37", "RT3"),
    ] {
        b.kill(signal).ok();
        all = format!("{all}{name}\n");
        wait_for(signal, || {
            (fs::read_to_string(b.rootfs("got")).ok()? == all).then_some(())
        });
    }
    b.kill("0").ok();
    let said = b.kill("FOO").fails();
    assert!(said.ends_with("unknown signal \"FOO\""), "{said}");
}

fn kill_all_forgives_the_stopped(way: Way) {
    let b = Bundle::new(way);
    b.run_detached().ok();
    b.wait_status("stopped");
    b.call("kill").args(["--all", &b.id, "9"]).run().ok();
    b.call("kill").args(["-a", &b.id]).run().ok();
}

fn kill_takes_an_empty_signal_as_none(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    b.kill("").ok();
    b.wait_status("stopped");
}

/// Removes a namespace from a config.
fn without_namespace(spec: &mut serde_json::Value, kind: &str) {
    let all = spec["linux"]["namespaces"]
        .as_array_mut()
        .expect("namespaces");
    all.retain(|n| n["type"] != kind);
}

fn kill_without_pid_namespace_takes_all(way: Way) {
    let b = Bundle::new(way)
        .script("sleep 300 & echo $! > /child; wait")
        .config(|spec| without_namespace(spec, "pid"));
    b.run_detached().ok();
    let child: i32 = b.wait_file("child").trim().parse().expect("a pid");
    b.kill("KILL").ok();
    b.wait_status("stopped");
    wait_for("the child's end", || {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z")).then_some(())
    });
    b.delete().ok();
}

fn delete_takes_what_init_left(way: Way) {
    let b = Bundle::new(way)
        .script("sleep 300 & echo $! > /child")
        .config(|spec| without_namespace(spec, "pid"));
    b.run_detached().ok();
    let child: i32 = b.wait_file("child").trim().parse().expect("a pid");
    b.wait_status("stopped");
    // Its name is still the shell's until it executes.
    let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    let alive = !stat.is_empty() && !stat.contains(") Z");
    assert!(alive, "it died with init: {stat}");
    b.delete().ok();
    let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    assert!(
        stat.is_empty() || stat.contains(") Z"),
        "it lives on: {stat}"
    );
    assert!(!b.cgroup().exists());
}

fn process_may_be_absent_until_start(way: Way) {
    let b = Bundle::new(way).config(|spec| {
        spec.as_object_mut().expect("an object").remove("process");
    });
    b.create().ok();
    assert_eq!(b.status(), "created");
    let said = b.start().fails();
    assert!(
        said.contains("process property must not be empty"),
        "{said}"
    );
}

fn keep_keeps(way: Way) {
    let b = Bundle::new(way).args(["false"]);
    b.make("run", &["--keep"]).run().exits(1);
    assert_eq!(b.status(), "stopped");
    b.delete().ok();
    b.run().exits(1);
    assert!(b.verb("state").fails().contains("container does not exist"));
}

fn id_in_use(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    for verb in ["create", "run"] {
        let said = b.make(verb, &[]).run().fails();
        assert!(
            said.contains("container with given ID already exists"),
            "{said}"
        );
        assert!(said.contains(&b.id), "{said}");
    }
    assert_eq!(b.status(), "running", "the first one suffered");
}

fn ids_are_checked(way: Way) {
    let b = Bundle::new(way);
    for id in ["a/b", "a b", "..", ".", "ä", "a:b", "a\nb"] {
        let call = b.call("create").arg("-b").arg(&b.dir).arg(id);
        let said = call.run().fails();
        assert!(
            said.contains("invalid container ID format"),
            "{id:?}: {said}"
        );
    }
    let said = b.call("create").arg("-b").arg(&b.dir).arg("").run().fails();
    assert!(said.contains("container id cannot be empty"), "{said}");
    for id in ["a_b+c.d-E9", "...", "+"] {
        b.call("create").arg("-b").arg(&b.dir).arg(id).run().ok();
        b.call("delete").arg(id).run().ok();
    }
}

fn one_of_two_creates_wins(way: Way) {
    let b = Bundle::new(way).sleeper();
    let all: Vec<_> = (0..4).map(|_| b.make("create", &[]).spawn()).collect();
    let all: Vec<_> = all.into_iter().map(|r| r.wait()).collect();
    let won = all.iter().filter(|o| o.code == 0).count();
    assert_eq!(won, 1, "{all:?}");
    for lost in all.iter().filter(|o| o.code != 0) {
        assert!(lost.stderr.contains("already exists"), "{}", lost.stderr);
    }
    assert_eq!(b.status(), "created");
    b.start().ok();
}

fn failed_create_leaves_nothing(way: Way) {
    let b = Bundle::new(way).args(["nothing-of-that-name"]);
    b.create().fails();
    assert!(!b.root.join(&b.id).exists());
    assert!(!host::default_cgroup(&b.id).exists());
    // The id is free.
    let b = b.args(["true"]);
    b.create().ok();
}

fn halfway_directory_is_removed(way: Way) {
    let b = Bundle::new(way);
    let half = b.root.join(&b.id);
    fs::create_dir_all(&half).expect("make a state directory");
    let said = b.delete().fails();
    assert!(said.contains("container does not exist"), "{said}");
    assert!(!half.exists(), "it's still there");
    b.create().ok();
}
