//! The verbs, one a file.

pub mod completion;
pub mod features;
pub mod spec;
