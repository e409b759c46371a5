//! Runs tests as cargo's own harness does, as far as cargo and nextest ask for it: that harness can't
//! change the namespace of its process before it makes threads.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::{Mutex, mpsc};

use super::bundle::{self, Way};
use super::host;

/// A module's tests.
pub type Tests = &'static [Test];

/// A test.
pub struct Test {
    pub name: &'static str,
    pub run: fn(Way),
    /// It's one for [`Way::From`], too: it makes containers by `run`, of which at least one must then have
    /// been warm.
    pub from: bool,
}

/// Lists test functions by their names; those that are for `Way::From`, too, as `from(NAME)`.
#[macro_export]
macro_rules! tests {
    ($($name:ident $(($of:ident))?),* $(,)?) => { &[$($crate::tests!(@ $name $($of)?)),*] };
    (@ from $name:ident) => { $crate::tests!(@ $name, true) };
    (@ $name:ident) => { $crate::tests!(@ $name, false) };
    (@ $name:ident, $from:literal) => {
        $crate::harness::runner::Test { name: stringify!($name), run: $name, from: $from }
    };
}

struct Skip(String);

/// Ends the test: this machine lacks what it needs. With RUNZ_MUST_RUN=1 that is a failure.
pub fn skip(reason: &str) -> ! {
    panic::resume_unwind(Box::new(Skip(reason.to_owned())))
}

enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

#[derive(Default)]
struct Arguments {
    list: bool,
    exact: bool,
    ignored: bool,
    threads: Option<usize>,
    filters: Vec<String>,
    skips: Vec<String>,
}

fn arguments() -> Arguments {
    let mut all = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--list" => all.list = true,
            "--exact" => all.exact = true,
            "--ignored" => all.ignored = true,
            "--test-threads" => all.threads = words.next().and_then(|n| n.parse().ok()),
            "--skip" => all.skips.extend(words.next()),
            "--format" | "--color" | "--logfile" | "-Z" => drop(words.next()),
            _ => match word.strip_prefix("--test-threads=") {
                Some(n) => all.threads = n.parse().ok(),
                None if word.starts_with('-') => {}
                None => all.filters.push(word),
            },
        }
    }
    all
}

impl Arguments {
    fn want(&self, name: &str) -> bool {
        let is = |pattern: &String| match self.exact {
            true => name == pattern,
            false => name.contains(pattern.as_str()),
        };
        (self.filters.is_empty() || self.filters.iter().any(is)) && !self.skips.iter().any(is)
    }
}

/// The whole test program.
pub fn main(modules: &[(&str, Tests)]) -> ExitCode {
    let arguments = arguments();
    let mut chosen = VecDeque::new();
    // runc knows only the one.
    let ways = match host::is_runc() {
        true => &[Way::Cold],
        false => Way::ALL,
    };
    for way in ways {
        // The others make containers in their own ways.
        let own_way = |module: &str| {
            (module == "warm" && *way != Way::Cold)
                || (matches!(module, "same" | "soak" | "zygote") && *way == Way::Cold)
        };
        for (module, tests) in modules.iter().filter(|(module, _)| !own_way(module)) {
            for test in tests.iter().filter(|t| t.from || *way != Way::From) {
                let name = format!("{way}::{module}::{}", test.name);
                // No test of ours is ignored by itself.
                if !arguments.ignored && arguments.want(&name) {
                    chosen.push_back((name, *way, test.run));
                }
            }
        }
    }
    if arguments.list {
        for (name, ..) in chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        println!("\nno test of that name");
        return ExitCode::SUCCESS;
    }
    let unable = host::enter().err();
    let must_run = std::env::var_os("RUNZ_MUST_RUN").is_some_and(|v| v == "1");
    let count = chosen.len();
    println!("\nrunning {count} tests of {}", host::runtime().display());
    quiet_panics();
    // They wait more than they work.
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = arguments.threads.unwrap_or(2 * cpus).clamp(1, count);
    let queue = Mutex::new(chosen);
    let (tell, told) = mpsc::channel();
    let (mut skipped, mut failed) = (0, Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (tell, queue, unable) = (tell.clone(), &queue, &unable);
            scope.spawn(move || {
                let next = || queue.lock().ok()?.pop_front();
                while let Some((name, way, run)) = next() {
                    let outcome = match unable {
                        Some(reason) => Outcome::Skipped(reason.clone()),
                        None => one(way, run),
                    };
                    let _ = tell.send((name, outcome));
                }
            });
        }
        drop(tell);
        for (name, outcome) in told {
            let outcome = match outcome {
                Outcome::Skipped(reason) if must_run => {
                    Outcome::Failed(format!("skipped, but RUNZ_MUST_RUN=1: {reason}"))
                }
                outcome => outcome,
            };
            match outcome {
                Outcome::Passed => println!("test {name} ... ok"),
                Outcome::Skipped(reason) => {
                    skipped += 1;
                    println!("test {name} ... ignored, {reason}");
                }
                Outcome::Failed(why) => {
                    println!(
                        "test {name} ... FAILED\n    {}",
                        why.replace('\n', "\n    ")
                    );
                    failed.push(name);
                }
            }
        }
    });
    if unable.is_none() {
        let _ = std::fs::remove_dir_all(host::scratch());
    }
    let passed = count - skipped - failed.len();
    println!(
        "\n{passed} passed, {} failed, {skipped} skipped",
        failed.len()
    );
    for name in &failed {
        println!("    failed: {name}");
    }
    match failed.is_empty() {
        true => ExitCode::SUCCESS,
        // As cargo's harness, so that nextest tells a failure from a crash.
        false => ExitCode::from(101),
    }
}

thread_local! {
    static WHERE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A panic's place is kept to be printed with the test's outcome.
fn quiet_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map(|l| format!("{}:{}", l.file(), l.line()));
        let text = format!("{}: {}", place.unwrap_or_default(), text(info.payload()));
        WHERE.with_borrow_mut(|all| {
            if !all.is_empty() {
                all.push('\n');
            }
            all.push_str(&text);
        });
    }));
}

fn text(payload: &dyn Any) -> String {
    match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "panic".to_owned(),
    }
}

fn one(way: Way, run: fn(Way)) -> Outcome {
    WHERE.take();
    bundle::taken();
    match panic::catch_unwind(AssertUnwindSafe(|| run(way))) {
        Ok(()) if way == Way::From && bundle::taken() == 0 => {
            Outcome::Failed("no warm container was taken".to_owned())
        }
        Ok(()) => Outcome::Passed,
        Err(payload) => match payload.downcast::<Skip>() {
            Ok(skip) => Outcome::Skipped(skip.0),
            Err(_) => Outcome::Failed(WHERE.take()),
        },
    }
}
