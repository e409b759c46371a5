//! Tests of cgroups follow.

use crate::harness::runner::Tests;

pub const TESTS: Tests = &[];
