//! `events`: statistics and OOM kills as JSON lines.

use std::io::Write;

use anyhow::{Context as _, Result, bail};

use super::Context;
use crate::cgroup::{Cgroup, events, stats::Stats};
use crate::status::Status;
use crate::{cli, rdt, store};

/// `events`.
pub fn events(c: &Context, options: &cli::Events) -> Result<u8> {
    c.trace.begin("record");
    let (container, record) = store::open(&c.root, &options.id)?;
    if record.status(&container)? == Status::Stopped {
        bail!("container with id {} is not running", options.id);
    }
    let path = record
        .runz
        .cgroup
        .as_ref()
        .context("the container has no cgroup of its own")?;
    let cgroup = Cgroup::open(path)?;
    let stats = || -> Result<Stats> {
        let mut stats = cgroup.stats()?;
        stats.intel_rdt = rdt::statistics(&record)?;
        Ok(stats)
    };
    let mut out = std::io::stdout();
    if options.stats {
        let line = events::stats_line(&options.id, &stats()?)?;
        out.write_all(line.as_bytes()).context("write to stdout")?;
        return Ok(0);
    }
    c.log.release();
    events::stream(&cgroup, &options.id, options.interval, &stats, &mut out)?;
    Ok(0)
}
