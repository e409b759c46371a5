//! Tests of seccomp follow.

use crate::harness::runner::Tests;

pub const TESTS: Tests = &[];
