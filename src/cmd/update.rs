//! `update`: other limits for a running container.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime as spec;

use super::Context;
use crate::cgroup::settings::Purpose;
use crate::cgroup::{Cgroup, settings, update as cgroup_update};
use crate::status::Status;
use crate::{cli, rdt, store};

/// `update`.
pub fn update(c: &Context, options: &cli::Update) -> Result<u8> {
    c.trace.begin("record");
    let (container, record) = store::open(&c.root, &options.id)?;
    if record.status(&container)? == Status::Stopped {
        bail!("container not running");
    }
    let resources = match &options.resources {
        Some(path) => {
            let text = read(c, path)?;
            cgroup_update::from_json(&text).with_context(|| format!("--resources {path:?}"))?
        }
        None => cgroup_update::from_flags(&flags(options))?,
    };
    let (l3, bandwidth) = (&options.l3_cache_schema, &options.mem_bw_schema);
    let change = rdt::change(&record, l3.as_deref(), bandwidth.as_deref())?;
    let path = record
        .runz
        .cgroup
        .as_ref()
        .context("the container has no cgroup of its own")?;
    set(c, &Cgroup::open(path)?, &resources)?;
    if let Some(change) = change {
        change.apply()?;
    }
    Ok(0)
}

/// Sets limits, given as JSON, of a container that isn't its caller's yet.
pub fn limit(c: &Context, cgroup: Option<&Cgroup>, text: &str) -> Result<()> {
    let resources = cgroup_update::from_json(text).context("--resources")?;
    let cgroup = cgroup.context("--resources: the container has no cgroup of its own")?;
    set(c, cgroup, &resources)
}

fn set(c: &Context, cgroup: &Cgroup, resources: &spec::LinuxResources) -> Result<()> {
    let context = settings::Context {
        purpose: Purpose::Update,
        device_paths: &[],
        unprivileged: c.rootless,
    };
    for warning in cgroup.update(resources, &context)? {
        c.log.warn(warning);
    }
    Ok(())
}

/// The text of a file, or of stdin where that is `-`.
pub fn read(c: &Context, path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("read stdin")?;
        return Ok(text);
    }
    let path = cli::absolute(&c.cwd, path);
    std::fs::read_to_string(&path).with_context(|| format!("read {path:?}"))
}

fn flags(o: &cli::Update) -> cgroup_update::Flags {
    fn text<T: ToString>(value: &Option<T>) -> Option<String> {
        value.as_ref().map(T::to_string)
    }
    cgroup_update::Flags {
        blkio_weight: text(&o.blkio_weight),
        cpu_period: text(&o.cpu_period),
        cpu_quota: text(&o.cpu_quota),
        cpu_burst: text(&o.cpu_burst),
        cpu_share: text(&o.cpu_share),
        cpu_rt_period: text(&o.cpu_rt_period),
        cpu_rt_runtime: text(&o.cpu_rt_runtime),
        cpu_idle: text(&o.cpu_idle),
        cpuset_cpus: o.cpuset_cpus.clone(),
        cpuset_mems: o.cpuset_mems.clone(),
        memory: text(&o.memory),
        memory_reservation: text(&o.memory_reservation),
        memory_swap: text(&o.memory_swap),
        kernel_memory: text(&o.kernel_memory),
        kernel_memory_tcp: text(&o.kernel_memory_tcp),
        pids_limit: text(&o.pids_limit),
    }
}
