//! `pause` and `resume`: the freezer.

use anyhow::{Context as _, Result, bail};

use super::Context;
use crate::cgroup::Cgroup;
use crate::status::{self, Refusal, Status};
use crate::store;

/// `pause`.
pub fn pause(c: &Context, id: &str) -> Result<u8> {
    allowed(c, id, status::may_pause)?.freeze()?;
    Ok(0)
}

/// `resume`.
pub fn resume(c: &Context, id: &str) -> Result<u8> {
    allowed(c, id, status::may_resume)?.thaw()?;
    Ok(0)
}

fn allowed(c: &Context, id: &str, may: fn(Status) -> Result<(), Refusal>) -> Result<Cgroup> {
    c.trace.begin("record");
    let (container, record) = store::open(&c.root, id)?;
    if let Err(refusal) = may(record.status(&container)?) {
        bail!(refusal);
    }
    c.trace.begin("freezer");
    let path = record
        .runz
        .cgroup
        .context("the container has no cgroup of its own")?;
    Cgroup::open(&path)
}
