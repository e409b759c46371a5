//! From create to delete: states, and which verb is allowed in which.

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way};
use crate::tests;

pub const TESTS: Tests = tests![whole_life, run_passes_exit_code];

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

fn run_passes_exit_code(way: Way) {
    let b = Bundle::new(way).script("echo out; echo err >&2; exit 7");
    let output = b.run().exits(7);
    assert_eq!((&*output.stdout, &*output.stderr), ("out\n", "err\n"));
}
