//! What the tests stand on: bundles, calls of the runtime, and the runner.

pub mod bundle;
pub mod call;
pub mod host;
pub mod runner;
pub mod socket;
pub mod zygote;

pub use bundle::{Bundle, Way};
pub use call::{Call, Output};
pub use runner::skip;
pub use zygote::Daemon;

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it. Nothing is measured by this.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer; fails with `what` when patience ends.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        host::reap();
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}
