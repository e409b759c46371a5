//! Tests of verbs follow.

use crate::harness::runner::Tests;

pub const TESTS: Tests = &[];
