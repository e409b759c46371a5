//! The sentences of what a container's state, its id, or the caller's rights don't allow.

use std::process::Command;

use serde_json::json;

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way};
use crate::tests;

pub const TESTS: Tests = tests![wrong_state, id_in_use, no_such_container, no_rights];

/// What `verb` says of a container in a state.
type Row = (&'static str, &'static str);

const CREATED: &[Row] = &[("resume", "container not paused")];

const RUNNING: &[Row] = &[
    ("start", "cannot start an already running container"),
    ("resume", "container not paused"),
    (
        "delete",
        "cannot delete container ID that is not stopped: running",
    ),
];

const PAUSED: &[Row] = &[
    ("pause", "container not running or created: paused"),
    ("start", "cannot start a container in the paused state"),
    (
        "delete",
        "cannot delete container ID that is not stopped: paused",
    ),
    (
        "exec",
        "exec failed: cannot exec in a paused container (use --ignore-paused to override)",
    ),
];

const STOPPED: &[Row] = &[
    ("start", "cannot start a container that has stopped"),
    ("kill", "container not running"),
    ("pause", "container not running"),
    ("resume", "container not paused"),
    ("exec", "exec failed: cannot exec in a stopped container"),
    ("events", "container with id ID is not running"),
    ("update", "container not running"),
];

const MISSING: &[Row] = &[
    ("start", "container does not exist"),
    ("kill", "container does not exist"),
    ("pause", "container does not exist"),
    ("resume", "container does not exist"),
    ("exec", "exec failed: container does not exist"),
    ("events", "container does not exist"),
    ("ps", "container does not exist"),
    ("update", "container does not exist"),
    ("delete", "container does not exist"),
    ("state", "container does not exist"),
];

fn refused(b: &Bundle, state: &str, rows: &[Row]) -> String {
    let mut wrong = String::new();
    for (verb, wanted) in rows {
        let call = b.call(verb);
        let output = match *verb {
            "exec" => call.args([&*b.id, "true"]).run(),
            "events" => call.args(["--stats", &*b.id]).run(),
            "update" => call.args(["--pids-limit", "7", &*b.id]).run(),
            _ => call.arg(&b.id).run(),
        };
        let line = output.stderr.trim_end().replace(&b.id, "ID");
        let wanted = format!("runz: {verb} \"ID\": {wanted}");
        let code = if *verb == "exec" { 255 } else { 1 };
        if line != wanted || output.code != code || !output.stdout.is_empty() {
            wrong.push_str(&format!(
                "\n{state}: wanted: {wanted}\n   got: {} {line}{}",
                output.code, output.stdout
            ));
        }
    }
    wrong
}

fn wrong_state(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.create().ok();
    let mut wrong = refused(&b, "created", CREATED);
    b.start().ok();
    wrong += &refused(&b, "running", RUNNING);
    b.verb("pause").ok();
    wrong += &refused(&b, "paused", PAUSED);
    b.verb("resume").ok();
    b.kill("KILL").ok();
    b.wait_status("stopped");
    wrong += &refused(&b, "stopped", STOPPED);
    assert!(wrong.is_empty(), "{wrong}");
}

fn no_such_container(way: Way) {
    let wrong = refused(&Bundle::new(way), "missing", MISSING);
    assert!(wrong.is_empty(), "{wrong}");
}

fn id_in_use(way: Way) {
    let b = Bundle::new(way);
    b.create().ok();
    for verb in ["create", "run"] {
        let line = b.make(verb, &[]).run().fails().replace(&b.id, "ID");
        let wanted = format!(
            "runz: {verb} \"ID\": runc {verb} failed: container with given ID already exists"
        );
        assert_eq!(line, wanted);
    }
}

/// A user who isn't root, and asks for no user namespace.
fn no_rights(way: Way) {
    let b = Bundle::new(way).without_daemon();
    let user = "exec setpriv --reuid 61234 --regid 61234 --clear-groups --inh-caps=-all \"$@\"";
    let dir = b.dir.to_string_lossy().into_owned();
    // Not what is in it: other tests have the same busybox.
    let chown = Command::new("chown").args(["61234", &dir]).status();
    assert!(chown.unwrap().success());
    let say = |b: &Bundle| {
        let call = b.make("create", &[]).env("XDG_RUNTIME_DIR", &b.dir);
        let line = call.shell(user).run().fails();
        let cgroup = b.cgroup().to_string_lossy().into_owned();
        line.replace(&cgroup, "CGROUP").replace(&b.id, "ID")
    };
    let wanted = "runz: create \"ID\": runc create failed: linux.namespaces: rootless container requires \
                  user namespaces";
    assert_eq!(say(&b), wanted);
    let b = b.config(|spec| {
        let all = spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.push(json!({"type": "user"}));
        for maps in ["uidMappings", "gidMappings"] {
            spec["linux"][maps] = json!([{"containerID": 0, "hostID": 61234, "size": 1}]);
        }
        spec["mounts"] = json!([]);
        spec["linux"]["resources"] = json!({"pids": {"limit": 7}});
    });
    let wanted = "runz: create \"ID\": runc create failed: rootless needs no limits + no cgrouppath when no \
                  permission is granted for cgroups: mkdir CGROUP: permission denied (EACCES)";
    assert_eq!(say(&b), wanted);
}
