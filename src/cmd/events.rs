//! `events`: statistics and OOM kills as JSON lines.

use std::io::Write;

use anyhow::{Context as _, Result, bail};

use super::Context;
use crate::cgroup::{Cgroup, events};
use crate::status::Status;
use crate::{cli, store};

/// `events`.
pub fn events(c: &Context, options: &cli::Events) -> Result<u8> {
    let (container, record) = store::open(&c.root, &options.id)?;
    if record.status(&container)? == Status::Stopped {
        bail!("container with id {} is not running", options.id);
    }
    let path = record
        .runz
        .cgroup
        .context("the container has no cgroup of its own")?;
    let cgroup = Cgroup::open(&path)?;
    let mut out = std::io::stdout();
    if options.stats {
        let line = events::stats_line(&options.id, &cgroup.stats()?)?;
        out.write_all(line.as_bytes()).context("write to stdout")?;
        return Ok(0);
    }
    c.log.release();
    events::stream(&cgroup, &options.id, options.interval, &mut out)?;
    Ok(0)
}
