//! `--trace FILE`: where the time went, as Chrome trace events, which Perfetto opens
//! (docs.google.com, "Trace Event Format").
//!
//! One track for the runtime: the verb, and in it its phases, each until the next begins. One for the
//! child: its steps, which it notes in memory that both share. Times are CLOCK_MONOTONIC, so that the
//! traces of several calls may be laid side by side.
//!
//! What came of a kit is told, too: the runtime waits for it, the child has a step `kit` in which it enters
//! its namespaces, and the mounts whose file systems were in it say so.

use std::cell::{Cell, OnceCell, RefCell};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::init::message::{STEPS, Step};
use crate::sys::{mem, process};

/// The phases of one run. Costs a branch where no trace is asked for.
pub struct Trace {
    wanted: Option<Wanted>,
}

struct Wanted {
    file: File,
    path: PathBuf,
    phases: RefCell<Vec<(&'static str, u64)>>,
    child: Child,
}

/// What the child tells.
#[derive(Default)]
struct Child {
    steps: OnceCell<mem::Shared>,
    pid: Cell<i32>,
    /// When the program took its place; 0: not that we knew.
    left: Cell<u64>,
    mounts: RefCell<Vec<String>>,
}

/// Words of [`mem::Shared`]: a count, then for each step its number and its time.
const WORDS: usize = 1 << 12;

impl Trace {
    /// A trace to be written to `path`, or none. The file is made at once: that it can't be is known
    /// before anything is done. `begun` is when the process did, CLOCK_MONOTONIC in nanoseconds.
    pub fn new(path: Option<&Path>, begun: u64) -> Result<Trace> {
        let Some(path) = path else {
            return Ok(Trace { wanted: None });
        };
        let file = File::create(path).with_context(|| format!("--trace {path:?}"))?;
        Ok(Trace {
            wanted: Some(Wanted {
                file,
                path: path.to_owned(),
                phases: RefCell::new(vec![("command line", begun)]),
                child: Child::default(),
            }),
        })
    }

    /// A phase begins, and the one before it ends.
    pub fn begin(&self, name: &'static str) {
        if let Some(wanted) = &self.wanted {
            let now = process::monotonic();
            wanted.phases.borrow_mut().push((name, now));
        }
    }

    /// Where the child writes its steps.
    pub fn steps(&self) -> Result<Option<&mem::Shared>> {
        let Some(Wanted { child, .. }) = &self.wanted else {
            return Ok(None);
        };
        if child.steps.get().is_none() {
            let shared = mem::Shared::new(WORDS).context("mmap for --trace")?;
            let _ = child.steps.set(shared);
        }
        // Of a child before this one nothing is kept.
        Ok(child.steps.get().inspect(|steps| steps.set(0, 0)))
    }

    /// There is a child; `mounts` says what the indices of its mount steps mean.
    pub fn child(&self, pid: i32, mounts: impl FnOnce() -> Vec<String>) {
        if let Some(Wanted { child, .. }) = &self.wanted {
            child.pid.set(pid);
            child.mounts.replace(mounts());
        }
    }

    /// The child executes the program now.
    pub fn child_left(&self) {
        if let Some(Wanted { child, .. }) = &self.wanted {
            child.left.set(process::monotonic());
        }
    }

    /// Writes the file. `verb` is what was done, and `code` came of it; `None`: a failure.
    pub fn write(self, verb: &str, code: Option<u8>) -> Result<()> {
        let Some(mut wanted) = self.wanted else {
            return Ok(());
        };
        let text = wanted.events(verb, code, process::monotonic()).to_string();
        wanted
            .file
            .write_all(text.as_bytes())
            .with_context(|| format!("--trace {:?}", wanted.path))
    }
}

impl Wanted {
    fn events(&self, verb: &str, code: Option<u8>, now: u64) -> Value {
        let pid = std::process::id();
        let named = |kind: &str, thread: i64, name: &str| json!({"ph": "M", "name": kind, "pid": pid, "tid": thread, "args": {"name": name}});
        let event = |thread: i64, name: &str, start: u64, end: u64| {
            // Microseconds.
            let time = |ns: u64| ns as f64 / 1000.0;
            let duration = time(end.saturating_sub(start));
            json!({"ph": "X", "name": name, "pid": pid, "tid": thread, "ts": time(start),
                "dur": duration})
        };
        let own = i64::from(pid);
        let phases = self.phases.borrow();
        let begun = phases.first().map_or(now, |(_, start)| *start);
        let mut whole = event(own, verb, begun, now);
        whole["args"] = match code {
            Some(code) => json!({ "exit": code }),
            None => json!({ "failed": true }),
        };
        let mut events = vec![
            named("process_name", own, "runz"),
            named("thread_name", own, "runtime"),
            whole,
        ];
        let ends = phases.iter().skip(1).map(|(_, start)| *start).chain([now]);
        for ((name, start), end) in phases.iter().zip(ends) {
            events.push(event(own, name, *start, end));
        }
        let steps = self.child.steps(now);
        if !steps.is_empty() {
            let thread = i64::from(self.child.pid.get());
            events.push(named("thread_name", thread, "container"));
            for (name, start, end) in steps {
                events.push(event(thread, &name, start, end));
            }
        }
        json!({ "displayTimeUnit": "ns", "traceEvents": events })
    }
}

impl Child {
    /// The steps: name, start, end.
    fn steps(&self, now: u64) -> Vec<(String, u64, u64)> {
        let Some(shared) = self.steps.get() else {
            return Vec::new();
        };
        let count = (shared.get(0) as usize).min((WORDS - 1) / 2);
        let left = match self.left.get() {
            0 => now,
            left => left,
        };
        let start = |n: usize| shared.get(2 + 2 * n);
        let step = |n: usize| {
            let word = shared.get(1 + 2 * n);
            let end = if n + 1 < count { start(n + 1) } else { left };
            (
                self.name((word >> 32) as usize, word as u32 as usize),
                start(n),
                end,
            )
        };
        (0..count).map(step).collect()
    }

    /// `mount "/proc"`, `mount "/dev" (kit)`, `masked path`.
    fn name(&self, number: usize, index: usize) -> String {
        let Some(step) = STEPS.get(number) else {
            return format!("step {number}");
        };
        let mut name = String::new();
        for c in format!("{step:?}").chars() {
            if c.is_uppercase() && !name.is_empty() {
                name.push(' ');
            }
            name.push(c.to_ascii_lowercase());
        }
        match self.mounts.borrow().get(index) {
            Some(what) if *step == Step::Mount => format!("{name} {what}"),
            _ => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("runz-trace-{name}-{}", std::process::id()))
    }

    /// Writes it, reads it and removes it. The events without the metadata: track, name, start and end
    /// in nanoseconds.
    fn written(
        trace: Trace,
        path: &Path,
        code: Option<u8>,
    ) -> (Value, Vec<(i64, String, u64, u64)>) {
        trace.write("create", code).unwrap();
        let text = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        let whole: Value = serde_json::from_slice(&text).unwrap();
        let events = whole["traceEvents"].as_array().unwrap().iter();
        let events = events.filter(|e| e["ph"] == "X").map(|e| {
            let start = e["ts"].as_f64().unwrap();
            let end = ((start + e["dur"].as_f64().unwrap()) * 1000.0).round() as u64;
            let start = (start * 1000.0).round() as u64;
            let name = e["name"].as_str().unwrap().to_owned();
            (e["tid"].as_i64().unwrap(), name, start, end)
        });
        let events = events.collect();
        (whole, events)
    }

    #[test]
    fn phases_follow_each_other_within_the_verb() {
        let path = path("phases");
        let begun = process::monotonic();
        let trace = Trace::new(Some(&path), begun).unwrap();
        trace.begin("plan");
        trace.begin("clone3");
        let (whole, events) = written(trace, &path, Some(0));
        let over = process::monotonic();
        let names: Vec<_> = events.iter().map(|e| e.1.as_str()).collect();
        assert_eq!(names, ["create", "command line", "plan", "clone3"]);
        assert_eq!(whole["traceEvents"][2]["args"], json!({"exit": 0}));
        assert_eq!(events[0].2, begun);
        assert!(events[0].3 <= over && events[0].3 >= events[0].2);
        assert_eq!(events[1].2, events[0].2);
        assert_eq!(events[1].3, events[2].2);
        assert_eq!(events[2].3, events[3].2);
        assert_eq!(events[3].3, events[0].3);
        assert!(events.iter().all(|e| e.0 == i64::from(std::process::id())));
    }

    #[test]
    fn the_childs_steps_are_a_track_of_their_own() {
        let path = path("steps");
        let trace = Trace::new(Some(&path), 1_000).unwrap();
        // Of one that was tried before, which didn't live.
        let note = |steps: &mem::Shared, n: usize, step: Step, index: u64, time: u64| {
            steps.set(1 + 2 * n, (step as u64) << 32 | index);
            steps.set(2 + 2 * n, time);
            steps.set(0, n as u64 + 1);
        };
        note(trace.steps().unwrap().unwrap(), 0, Step::Session, 0, 1_500);
        let steps = trace.steps().unwrap().unwrap();
        trace.child(77, || vec!["\"/proc\"".into(), "\"/dev\" (kit)".into()]);
        note(steps, 0, Step::ReadonlyRootfs, 0, 2_000);
        note(steps, 1, Step::Mount, 1, 3_000);
        note(steps, 2, Step::Exec, 0, 4_500);
        trace.child_left();
        let left = process::monotonic();
        let (whole, events) = written(trace, &path, None);
        assert_eq!(whole["traceEvents"][2]["args"], json!({"failed": true}));
        let child: Vec<_> = events.iter().filter(|e| e.0 == 77).collect();
        assert_eq!(child[0], &(77, "readonly rootfs".into(), 2_000, 3_000));
        assert_eq!(child[1], &(77, "mount \"/dev\" (kit)".into(), 3_000, 4_500));
        assert_eq!((&*child[2].1, child[2].2), ("exec", 4_500));
        assert!(child[2].3 <= left);
        assert_eq!(child.len(), 3);
    }

    #[test]
    fn more_steps_than_fit_are_cut_off() {
        let path = path("full");
        let trace = Trace::new(Some(&path), 1_000).unwrap();
        let steps = trace.steps().unwrap().unwrap();
        steps.set(0, 1 << 20);
        trace.child(77, Vec::new);
        let (_, events) = written(trace, &path, Some(0));
        assert_eq!(events.iter().filter(|e| e.0 == 77).count(), (WORDS - 1) / 2);
    }

    #[test]
    fn none_is_none() {
        let trace = Trace::new(None, 1).unwrap();
        trace.begin("plan");
        assert!(trace.steps().unwrap().is_none());
        trace.child(77, || panic!("nobody asked"));
        trace.child_left();
        trace.write("create", Some(0)).unwrap();
        let missing = Path::new("/nonexistent/trace.json");
        let error = crate::log::sentence(&Trace::new(Some(missing), 1).err().unwrap());
        assert!(
            error.starts_with("--trace \"/nonexistent/trace.json\": "),
            "{error}"
        );
    }
}
