//! `--trace`.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Call, Way};
use crate::tests;

pub const TESTS: Tests = tests![
    every_verb_writes,
    run_shows_both_sides,
    from(only_when_asked)
];

/// An event with a duration: track, name, start and end in nanoseconds (CLOCK_MONOTONIC).
struct Event(i64, String, u64, u64);

fn events(path: &PathBuf) -> Vec<Event> {
    let text = fs::read(path).expect("read the trace");
    let trace: Value = serde_json::from_slice(&text).expect("the trace is JSON");
    let events = trace["traceEvents"].as_array().expect("traceEvents");
    let ns = |time: f64| (time * 1000.0).round() as u64;
    let events = events.iter().filter(|e| e["ph"] == "X").map(|e| {
        let start = e["ts"].as_f64().unwrap();
        let end = start + e["dur"].as_f64().unwrap();
        let name = e["name"].as_str().unwrap().to_owned();
        Event(e["tid"].as_i64().unwrap(), name, ns(start), ns(end))
    });
    events.collect()
}

fn now() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Makes a call with a trace; the exit code, and the trace's events after they were checked: the first
/// is the verb's, all others lie within it, in their tracks one after the other.
fn traced(b: &Bundle, verb: &str, complete: impl FnOnce(Call) -> Call) -> (i32, Vec<Event>) {
    let path = b.dir.join(format!("{verb}.trace"));
    let file = path.to_string_lossy().into_owned();
    let before = now();
    let code = complete(b.globals(["--trace", &file]).arg(verb)).run().code;
    let after = now();
    let all = events(&path);
    let Event(track, name, start, end) = &all[0];
    assert_eq!(name, verb);
    assert!(before <= *start && start <= end && *end <= after);
    let mut last = std::collections::BTreeMap::new();
    for Event(track, name, from, to) in &all[1..] {
        let last = last.entry(track).or_insert(*start);
        assert!(*last <= *from && from <= to, "{verb}: {name}");
        *last = *to;
    }
    // Times lose their last digit as floating-point numbers.
    assert!(
        last[track].abs_diff(*end) < 10,
        "{verb}: something is left out"
    );
    assert!(
        last.values().all(|l| *l <= *end + 10),
        "{verb}: outlives it"
    );
    (code, all)
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|e| e.1.as_str()).collect()
}

fn every_verb_writes(way: Way) {
    let b = Bundle::new(way).sleeper();
    let id = |c: Call| c.arg(&b.id);
    let (code, create) = traced(&b, "create", |c| c.arg("--bundle").arg(&b.dir).arg(&b.id));
    assert_eq!(code, 0);
    let ways: &[&str] = match way {
        Way::Cold => &["mount \"/dev\"", "network namespace"],
        Way::Kit | Way::From => &[
            "kept plan",
            "wait for the kit",
            "kit",
            "mount \"/dev\" (kit)",
            "mount \"/dev/pts\" (kit)",
            "mount \"/sys\" (kit)",
        ],
    };
    let both = ["bundle", "plan", "clone3", "mount \"/proc\"", "pivot"];
    for name in both.iter().chain(ways) {
        assert!(
            names(&create).contains(name),
            "{name}: {:?}",
            names(&create)
        );
    }
    for (verb, phase) in [("state", "record"), ("start", "release"), ("ps", "record")] {
        let (code, events) = traced(&b, verb, id);
        assert_eq!((code, names(&events).contains(&phase)), (0, true), "{verb}");
    }
    let exec = |c: Call| c.arg(&b.id).args(["sh", "-c", "exit 3"]);
    let (code, events) = traced(&b, "exec", exec);
    assert_eq!((code, names(&events).contains(&"execve")), (3, true));
    assert_eq!(traced(&b, "list", |c| c).0, 0);
    assert_eq!(traced(&b, "features", |c| c).0, 0);
    assert_eq!(traced(&b, "kill", |c| c.arg(&b.id).arg("KILL")).0, 0);
    b.wait_status("stopped");
    let (code, events) = traced(&b, "delete", id);
    assert_eq!((code, names(&events).contains(&"remove")), (0, true));
    // And when it fails.
    for verb in [
        "start", "kill", "delete", "state", "exec", "pause", "update", "events",
    ] {
        let complete = |c: Call| match verb {
            "exec" => c.arg(&b.id).arg("true"),
            _ => c.arg(&b.id),
        };
        assert_ne!(traced(&b, verb, complete).0, 0, "{verb}");
    }
}

fn run_shows_both_sides(way: Way) {
    let b = Bundle::new(way).args(["sleep", "0.2"]);
    let (code, events) = traced(&b, "run", |c| c.arg("--bundle").arg(&b.dir).arg(&b.id));
    assert_eq!(code, 0);
    let track = |name: &str| events.iter().find(|e| e.1 == name).map(|e| e.0);
    assert_eq!(track("run"), track("wait"));
    assert_ne!(track("run"), track("exec"));
    // The child's steps end where the program takes over.
    let find = |name: &str| events.iter().find(|e| e.1 == name).unwrap();
    assert!(find("exec").3 <= find("wait").2);

    // A step that fails is its last.
    let b = Bundle::new(way).config(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.insert(
            0,
            json!({"destination": "/x", "type": "nosuchfs", "source": "x"}),
        );
    });
    let (code, events) = traced(&b, "run", |c| c.arg("--bundle").arg(&b.dir).arg(&b.id));
    assert_eq!(code, 1);
    let child = events.iter().rfind(|e| e.0 != events[0].0).unwrap();
    assert_eq!(child.1, "mount \"/x\"");
}

fn only_when_asked(way: Way) {
    let b = Bundle::new(way);
    let list = || {
        let mut names: Vec<_> = fs::read_dir(&b.dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    b.run().ok();
    let before = list();
    b.run().ok();
    assert_eq!(list(), before);
    // One that can't be made fails before anything is done.
    let refused = b.globals(["--trace", "/nonexistent/x"]).arg("create");
    let error = refused.arg("--bundle").arg(&b.dir).arg(&b.id).run().fails();
    assert!(error.contains("--trace \"/nonexistent/x\""), "{error}");
    assert!(!b.root.join(&b.id).exists());
}
