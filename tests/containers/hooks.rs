//! Hooks of all six kinds (runtime-spec, "POSIX-platform Hooks").

use std::fs;

use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way};
use crate::tests;

pub const TESTS: Tests = tests![
    all_kinds_in_order,
    state_at_each,
    environment_of_each,
    directory_of_each,
    namespaces_of_each,
    arguments,
    failure_ends_create,
    poststop_follows_a_failed_create,
    from(failure_of_poststart_ends_the_container),
    failure_of_start_container,
    from(failure_of_poststop_is_a_warning),
    timeout_kills,
    output_is_not_the_containers,
    much_input_and_output,
];

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A hook that is a shell script; in the script, $ROOT is the rootfs, from where the hook sees it.
fn hook(b: &Bundle, kind: &str, script: &str) -> Value {
    let root = match kind {
        "startContainer" => String::new(),
        _ => b
            .rootfs("")
            .to_string_lossy()
            .trim_end_matches('/')
            .to_owned(),
    };
    let script = format!("ROOT={root} KIND={kind}\n{script}");
    json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
}

/// One hook of every kind.
fn every(mut b: Bundle, script: &str) -> Bundle {
    for kind in KINDS {
        let one = hook(&b, kind, script);
        b.change(|spec| spec["hooks"][kind] = json!([one]));
    }
    b
}

/// A whole life, by create, start and delete.
fn live(b: &Bundle) {
    b.make("create", &[]).env("CALLERS", "1").run().ok();
    b.call("start").arg(&b.id).env("CALLERS", "1").run().ok();
    b.wait_status("stopped");
    b.call("delete").arg(&b.id).env("CALLERS", "1").run().ok();
}

fn read(b: &Bundle, name: &str) -> String {
    fs::read_to_string(b.rootfs(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn all_kinds_in_order(way: Way) {
    let mut b = Bundle::new(way).script("echo program >> /order");
    for kind in KINDS {
        let (one, two) = (
            hook(&b, kind, "echo $KIND 1 >> $ROOT/order"),
            hook(&b, kind, "echo $KIND 2 >> $ROOT/order"),
        );
        b.change(|spec| spec["hooks"][kind] = json!([one, two]));
    }
    live(&b);
    let order = read(&b, "order");
    let all: Vec<_> = order
        .lines()
        .filter(|l| !l.starts_with("poststart"))
        .collect();
    let wanted = [
        "prestart 1",
        "prestart 2",
        "createRuntime 1",
        "createRuntime 2",
        "createContainer 1",
        "createContainer 2",
        "startContainer 1",
        "startContainer 2",
        "program",
        "poststop 1",
        "poststop 2",
    ];
    assert_eq!(all, wanted);
    // poststart comes after the start of the program, which runs meanwhile.
    let at = |line: &str| order.lines().position(|l| l == line);
    assert!(at("poststart 1") > at("startContainer 2"), "{order}");
    assert!(at("poststart 2") > at("poststart 1"), "{order}");
}

fn state_at_each(way: Way) {
    let b = every(Bundle::new(way).sleeper(), "cat > $ROOT/$KIND.state");
    let b = b.config(|spec| spec["annotations"] = json!({"a.b": "c"}));
    b.create().ok();
    let pid = b.pid();
    b.start().ok();
    b.kill("KILL").ok();
    b.wait_status("stopped");
    b.delete().ok();
    for (kind, status) in KINDS.into_iter().zip([
        "creating", "creating", "creating", "created", "running", "stopped",
    ]) {
        let state = read(&b, &format!("{kind}.state"));
        let state: Value = serde_json::from_str(&state).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(state["status"], status, "{kind}: {state}");
        assert_eq!(state["id"], b.id, "{kind}");
        assert_eq!(state["bundle"], *b.dir.to_string_lossy(), "{kind}");
        assert_eq!(state["annotations"], json!({"a.b": "c"}), "{kind}");
        assert!(state["ociVersion"].is_string(), "{kind}");
        match kind {
            // runc: the key is left out when there is no process.
            "poststop" => assert_eq!(state.get("pid"), None),
            "createContainer" | "startContainer" => assert!(state["pid"].is_number(), "{kind}"),
            _ => assert_eq!(state["pid"], pid, "{kind}"),
        }
    }
}

fn environment_of_each(way: Way) {
    let script = "env | sort > $ROOT/$KIND.env";
    let b = every(Bundle::new(way), script).config(|spec| {
        spec["process"]["env"] = json!(["PATH=/bin", "CONTAINERS=1"]);
    });
    live(&b);
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        let env = read(&b, &format!("{kind}.env"));
        assert!(
            env.contains("CALLERS=1\n") && !env.contains("CONTAINERS"),
            "{kind}: {env}"
        );
    }
    let env = read(&b, "startContainer.env");
    assert!(
        env.contains("CONTAINERS=1\n") && !env.contains("CALLERS"),
        "{env}"
    );
    // An env of its own is all it has; what the shell sets itself apart.
    let mut b = b;
    for kind in KINDS {
        b.change(|spec| spec["hooks"][kind][0]["env"] = json!(["PATH=/usr/bin:/bin", "OWN=2"]));
    }
    live(&b);
    for kind in KINDS {
        let env = read(&b, &format!("{kind}.env"));
        let all = env.lines().filter_map(|l| l.split('=').next());
        let all: Vec<_> = all
            .filter(|k| !["PWD", "SHLVL", "_", "OLDPWD"].contains(k))
            .collect();
        assert_eq!(all, ["OWN", "PATH"], "{kind}");
    }
}

fn directory_of_each(way: Way) {
    let b = every(Bundle::new(way), "pwd > $ROOT/$KIND.cwd");
    let b = b.config(|spec| spec["process"]["cwd"] = json!("/bin"));
    live(&b);
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        let wanted = format!("{}\n", b.dir.display());
        assert_eq!(read(&b, &format!("{kind}.cwd")), wanted, "{kind}");
    }
    assert_eq!(read(&b, "startContainer.cwd"), "/bin\n");
}

fn namespaces_of_each(way: Way) {
    let script = "{ readlink /proc/self/ns/mnt; readlink /proc/self/ns/uts; } > $ROOT/$KIND.ns";
    let b = every(Bundle::new(way), script);
    live(&b);
    let ours: String = ["mnt", "uts"]
        .iter()
        .map(|n| fs::read_link(format!("/proc/self/ns/{n}")).expect("readlink"))
        .map(|l| format!("{}\n", l.display()))
        .collect();
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        assert_eq!(read(&b, &format!("{kind}.ns")), ours, "{kind}");
    }
    let inside = read(&b, "startContainer.ns");
    assert!(
        inside.lines().zip(ours.lines()).all(|(a, b)| a != b),
        "{inside}"
    );
    assert_eq!(read(&b, "createContainer.ns"), inside);
}

fn arguments(way: Way) {
    let mut b = Bundle::new(way);
    let path = b.rootfs("args").to_string_lossy().into_owned();
    let script = b.dir.join("hook.sh");
    let text = format!("#!/bin/sh\ntr '\\0' ',' < /proc/$$/cmdline >> {path}; echo >> {path}\n");
    fs::write(&script, text).expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).expect("chmod");
    let script = script.to_string_lossy().into_owned();
    b.change(|spec| {
        spec["hooks"]["createRuntime"] = json!([
            {"path": script},
            {"path": script, "args": ["name", "one", "two words"]},
        ]);
        spec["hooks"]["prestart"] =
            json!([{"path": "/bin/sh", "args": ["zero", "-c", format!("echo $0 >> {path}")]}]);
    });
    live(&b);
    let wanted = format!("zero\n/bin/sh,{script},\n/bin/sh,{script},one,two words,\n");
    assert_eq!(read(&b, "args"), wanted);
}

fn failure_ends_create(way: Way) {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut b = Bundle::new(way);
        let good = hook(&b, kind, "true");
        let bad = hook(&b, kind, "echo to out; echo to err >&2; exit 3");
        let never = hook(&b, kind, "echo > $ROOT/never");
        let after = hook(&b, "poststop", "echo > $ROOT/after");
        b.change(|spec| {
            spec["hooks"][kind] = json!([good, bad, never]);
            spec["hooks"]["poststop"] = json!([after]);
        });
        let said = b.create().fails();
        let wanted =
            format!("error running {kind} hook #1: exit status 3, stdout: to out, stderr: to err");
        assert!(said.contains(&wanted), "{said}");
        assert!(
            !b.rootfs("never").exists(),
            "{kind}: a hook ran after one that failed"
        );
        assert!(b.rootfs("after").exists(), "{kind}: poststop didn't run");
        assert!(!b.cgroup().exists());
        assert!(b.verb("state").fails().contains("does not exist"));
    }
}

/// runc runs it whatever ran before.
fn poststop_follows_a_failed_create(way: Way) {
    let mut b = Bundle::new(way).args(["/nothing"]);
    let after = hook(&b, "poststop", "echo > $ROOT/after");
    b.change(|spec| spec["hooks"]["poststop"] = json!([after]));
    b.create().fails();
    assert!(b.rootfs("after").exists());
}

fn failure_of_poststart_ends_the_container(way: Way) {
    let mut b = Bundle::new(way).sleeper();
    let bad = hook(&b, "poststart", "exit 4");
    b.change(|spec| spec["hooks"]["poststart"] = json!([bad]));
    b.create().ok();
    let said = b.start().fails();
    assert!(
        said.contains("error running poststart hook #0: exit status 4"),
        "{said}"
    );
    b.wait_status("stopped");
    b.delete().ok();
    let said = b.run().fails();
    assert!(
        said.contains("error running poststart hook #0: exit status 4"),
        "{said}"
    );
}

fn failure_of_start_container(way: Way) {
    let mut b = Bundle::new(way).script("echo > /ran");
    let bad = hook(&b, "startContainer", "echo words; exit 5");
    b.change(|spec| spec["hooks"]["startContainer"] = json!([bad]));
    b.create().ok();
    let said = b.start().fails();
    let wanted = "error running startContainer hook #0: exit status 5, it said: words";
    assert!(said.ends_with(wanted), "{said}");
    b.wait_status("stopped");
    b.delete().ok();
    assert!(!b.rootfs("ran").exists());
    let said = b.run().fails();
    let wanted = "error running startContainer hook #0: exit status 5, stdout: words, stderr: ";
    assert!(said.ends_with(wanted.trim_end()), "{said}");
    assert!(!b.rootfs("ran").exists());
}

fn failure_of_poststop_is_a_warning(way: Way) {
    let mut b = Bundle::new(way);
    let bad = hook(&b, "poststop", "exit 6");
    let next = hook(&b, "poststop", "echo > $ROOT/next");
    b.change(|spec| spec["hooks"]["poststop"] = json!([bad, next]));
    b.run_detached().ok();
    b.wait_status("stopped");
    let out = b.delete().exits(0);
    let wanted = "error running poststop hook #0: exit status 6";
    assert!(out.stderr.contains(wanted), "{}", out.stderr);
    assert!(b.rootfs("next").exists(), "the hook after it didn't run");
}

fn timeout_kills(way: Way) {
    for kind in ["createRuntime", "createContainer"] {
        let mut b = Bundle::new(way);
        let mut slow = hook(&b, kind, "echo $$ > $ROOT/pid; exec sleep 1000");
        slow["timeout"] = json!(1);
        b.change(|spec| spec["hooks"][kind] = json!([slow]));
        let said = b.create().fails();
        let wanted = format!("error running {kind} hook #0: hook ran past");
        assert!(said.contains(&wanted), "{said}");
        let pid = read(&b, "pid");
        let name = fs::read_to_string(format!("/proc/{}/comm", pid.trim())).unwrap_or_default();
        assert_ne!(name, "sleep\n", "{kind}: it lives on");
    }
    let b = every(Bundle::new(way), "true");
    let b = b.config(|spec| spec["hooks"]["prestart"][0]["timeout"] = json!(0));
    let said = b.create().fails();
    assert!(said.contains("hooks.prestart[0].timeout"), "{said}");
}

fn output_is_not_the_containers(way: Way) {
    let b = every(
        Bundle::new(way).args(["echo", "program"]),
        "echo hook; echo hook >&2",
    );
    assert_eq!(b.run().ok(), "program\n");
}

fn much_input_and_output(way: Way) {
    // More than a pipe holds: never read, and never read by us.
    let b = every(
        Bundle::new(way),
        "dd if=/dev/zero bs=1024 count=300 2>/dev/null",
    );
    let b = b.config(|spec| spec["annotations"] = json!({"long": "x".repeat(300_000)}));
    b.run().ok();
}
