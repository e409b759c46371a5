//! Tests of process follow.

use crate::harness::runner::Tests;

pub const TESTS: Tests = &[];
