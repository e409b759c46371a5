//! `linux.resources` as what is written to which file of a cgroup. Pure.
//!
//! The specification's values are cgroup v1's; the conversions are runc's, which crun and the
//! kernel's own documentation share. What has no counterpart in v2 and what runc passes over
//! without a word is passed over here: `cpu.realtime*`, `memory.kernelTCP`, `memory.swappiness`,
//! `memory.disableOOMKiller`, `memory.useHierarchy`, `blockIO.leafWeight`, `network`.

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::{Result, bail};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxRdma, LinuxResources,
};
use serde::{Deserialize, Serialize};

use super::devices;

/// What the settings are for, besides the resources themselves.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Whether a cgroup is set up or changed.
    pub purpose: Purpose,
    /// The paths of `linux.devices`: these take a built-in device rule away.
    pub device_paths: &'a [&'a str],
    /// Rootless, or inside a user namespace: there the device filter is expected to be refused.
    pub unprivileged: bool,
}

/// Whether a cgroup is set up or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Where a value has two halves the missing one is the kernel's default, and there always is a
    /// device filter.
    Create,
    /// What is not given stays as it is, device filter included.
    Update,
}

/// Everything decided from `linux.resources`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What to write, in this order.
    pub writes: Vec<Write>,
    /// The device filter, if there is to be one.
    pub devices: Option<Filter>,
    /// `memory.checkBeforeUpdate`: the limits that must be above what is in use.
    pub check: Option<Check>,
    /// Each a sentence for the log.
    pub warnings: Vec<Cow<'static, str>>,
}

/// One value for one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The file's name in the cgroup's directory, such as `memory.max`.
    pub file: Cow<'static, str>,
    /// What to write.
    pub value: String,
    /// Which property of config.json asks for it, as a JSON path.
    pub json: Cow<'static, str>,
    /// What else may come of it.
    pub mode: Mode,
}

/// How a [`Write`] is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Plainly: every failure is an error.
    Plain,
    /// The file may be missing (ENOENT).
    IfPresent,
    /// If the kernel refuses it now (EINVAL), it is written again after the next one.
    AgainAfterNext,
    /// If the file is missing, this one gets this value.
    Else(Cow<'static, str>, String),
    /// The value goes behind the first word that the file has now.
    KeepFirstWord,
}

/// A device filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// The eBPF program; each item is one `struct bpf_insn`.
    pub program: Vec<u64>,
    /// A failure to load or attach it is no error.
    pub optional: bool,
    /// It lets the null device be read and written. It always does, unless the config has another /dev/null.
    pub null: bool,
}

/// Limits to compare with `memory.current`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `memory.limit`, bytes; 0 if there is none.
    pub limit: u64,
    /// `memory.swap` (memory and swap together), bytes; 0 if there is none.
    pub swap: u64,
}

/// Controllers that work in a threaded cgroup (cgroups(7)); all others need a domain.
const THREADED: [&str; 4] = ["cpu", "cpuset", "perf_event", "pids"];

/// What is written where so that these resources hold.
pub fn settings(resources: &LinuxResources, context: &Context) -> Result<Settings> {
    let mut settings = Settings::default();
    if let Some(pids) = resources.pids() {
        // 0 is 1, as in runc: systemd knows no TasksMax=0, and the drivers shall not differ.
        let value = match pids.limit() {
            limit if limit > 0 => limit.to_string(),
            0 => "1".to_owned(),
            _ => "max".to_owned(),
        };
        settings.plain("pids.max", value, "linux.resources.pids.limit");
    }
    if let Some(values) = resources.memory() {
        memory(&mut settings, values)?;
    }
    if let Some(values) = resources.block_io() {
        block_io(&mut settings, values)?;
    }
    if let Some(values) = resources.cpu() {
        cpu(&mut settings, values, context.purpose)?;
    }
    hugepages(
        &mut settings,
        resources.hugepage_limits().as_deref().unwrap_or_default(),
    )?;
    if let Some(values) = resources.rdma() {
        rdma(&mut settings, values);
    }
    if let Some(values) = resources.unified() {
        unified(&mut settings, values)?;
    }
    settings.devices = filter(resources, context)?;
    Ok(settings)
}

/// Whether the text of a `cgroup.controllers` has a controller that no threaded cgroup can have.
pub fn has_domain_controller(controllers: &str) -> bool {
    controllers
        .split_whitespace()
        .any(|controller| !THREADED.contains(&controller))
}

impl Settings {
    /// The controllers that the writes need, `cgroup.*` files aside; each may come several times.
    pub fn controllers(&self) -> impl Iterator<Item = &str> {
        let named = self.writes.iter().filter_map(|write| write.controller());
        named.filter(|controller| *controller != "cgroup")
    }

    /// Whether a process in the cgroup can't open the null device.
    pub fn refuses_null(&self) -> bool {
        let filter = self.devices.as_ref();
        filter.is_some_and(|filter| !filter.null && !filter.optional)
    }

    /// Whether a controller is needed that no threaded cgroup can have.
    pub fn needs_domain(&self) -> bool {
        self.controllers()
            .any(|controller| !THREADED.contains(&controller))
    }

    fn plain(&mut self, file: &'static str, value: String, json: &'static str) {
        let (file, json) = (file.into(), json.into());
        self.writes.push(Write {
            file,
            value,
            json,
            mode: Mode::Plain,
        });
    }
}

impl Write {
    /// The controller that the file belongs to: `memory` for `memory.max`.
    pub fn controller(&self) -> Option<&str> {
        self.file.split_once('.').map(|(controller, _)| controller)
    }
}

fn memory(settings: &mut Settings, memory: &LinuxMemory) -> Result<()> {
    #[allow(deprecated)]
    if memory.kernel().is_some() || memory.kernel_tcp().is_some() {
        settings
            .warnings
            .push("Kernel memory settings are ignored and will be removed".into());
    }
    // Absent and 0 are the same: leave it alone.
    let limit = memory.limit().unwrap_or(0);
    let swap = memory.swap().unwrap_or(0);
    let reservation = memory.reservation().unwrap_or(0);
    let given = [
        ("limit", limit),
        ("swap", swap),
        ("reservation", reservation),
    ];
    for (name, value) in given {
        if value < -1 {
            bail!("linux.resources.memory.{name}: {value} is neither a size nor -1 (unlimited)");
        }
    }

    // Swap goes first: a limit can then never be in force with the old, larger swap.
    if let Some(value) = swap_max(limit, swap)? {
        // Without swap accounting there is no file. That is an error only if swap was limited
        // to something: unlimited and none are what such a kernel does anyway.
        let mode = if value == "max" || value == "0" {
            Mode::IfPresent
        } else {
            Mode::Plain
        };
        let (file, json) = (
            "memory.swap.max".into(),
            "linux.resources.memory.swap".into(),
        );
        settings.writes.push(Write {
            file,
            value,
            json,
            mode,
        });
    }
    if limit != 0 {
        settings.plain("memory.max", bytes(limit), "linux.resources.memory.limit");
    }
    if reservation != 0 {
        let json = "linux.resources.memory.reservation";
        settings.plain("memory.low", bytes(reservation), json);
    }
    if memory.check_before_update() == Some(true) && (limit > 0 || swap > 0) {
        settings.check = Some(Check {
            limit: limit.max(0) as u64,
            swap: swap.max(0) as u64,
        });
    }
    Ok(())
}

/// `memory.swap.max` is swap alone, `memory.swap` is memory and swap together.
fn swap_max(limit: i64, swap: i64) -> Result<Option<String>> {
    let json = "linux.resources.memory.swap";
    Ok(match (limit, swap) {
        // As in v1, unlimited memory takes the limit of swap along.
        (-1, 0) | (_, -1) => Some("max".to_owned()),
        (_, 0) => None,
        (-1, swap) => Some(swap.to_string()),
        (0, _) => bail!("{json}: unable to set swap limit without memory limit"),
        (limit, swap) if swap < limit => {
            bail!("{json}: memory+swap limit should be >= memory limit ({swap} < {limit})")
        }
        (limit, swap) => Some((swap - limit).to_string()),
    })
}

fn bytes(value: i64) -> String {
    if value == -1 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

fn block_io(settings: &mut Settings, io: &LinuxBlockIo) -> Result<()> {
    // BFQ weighs if it is there, io.weight (iocost) otherwise.
    let in_range = |json: &str, weight: u16| match weight {
        10..=1000 => Ok(()),
        _ => bail!("{json}: {weight} is not between 10 and 1000"),
    };
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        let json = "linux.resources.blockIO.weight";
        in_range(json, weight)?;
        let scaled = 1 + (u64::from(weight) - 10) * 9999 / 990;
        settings.writes.push(Write {
            file: "io.bfq.weight".into(),
            value: weight.to_string(),
            json: json.into(),
            mode: Mode::Else("io.weight".into(), scaled.to_string()),
        });
    }
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        let Some(weight) = device.weight() else {
            continue;
        };
        let json = format!("linux.resources.blockIO.weightDevice[{index}].weight");
        if weight != 0 {
            in_range(&json, weight)?;
        }
        settings.writes.push(Write {
            file: "io.bfq.weight".into(),
            value: format!("{}:{} {weight}", device.major(), device.minor()),
            json: json.into(),
            mode: Mode::Plain,
        });
    }
    let throttles = [
        (
            "throttleReadBpsDevice",
            "rbps",
            io.throttle_read_bps_device(),
        ),
        (
            "throttleWriteBpsDevice",
            "wbps",
            io.throttle_write_bps_device(),
        ),
        (
            "throttleReadIOPSDevice",
            "riops",
            io.throttle_read_iops_device(),
        ),
        (
            "throttleWriteIOPSDevice",
            "wiops",
            io.throttle_write_iops_device(),
        ),
    ];
    for (name, key, devices) in throttles {
        for (index, device) in devices.iter().flatten().enumerate() {
            // In v1 a rate of 0 takes the limit away; v2 would answer ERANGE.
            let rate = match device.rate() {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            settings.writes.push(Write {
                file: "io.max".into(),
                value: format!("{}:{} {key}={rate}", device.major(), device.minor()),
                json: format!("linux.resources.blockIO.{name}[{index}]").into(),
                mode: Mode::Plain,
            });
        }
    }
    Ok(())
}

fn cpu(settings: &mut Settings, cpu: &LinuxCpu, purpose: Purpose) -> Result<()> {
    let shares = cpu.shares().unwrap_or(0);
    if let Some(idle) = cpu.idle() {
        // The kernel refuses any weight to an idle cgroup, with a bare EINVAL.
        if idle == 1 && shares != 0 {
            bail!("linux.resources.cpu.shares: {shares} cannot be set together with cpu.idle 1");
        }
        settings.plain("cpu.idle", idle.to_string(), "linux.resources.cpu.idle");
    }
    if shares != 0 {
        settings.plain(
            "cpu.weight",
            weight(shares).to_string(),
            "linux.resources.cpu.shares",
        );
    }

    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    let quota_text = |quota: i64| {
        if quota > 0 {
            quota.to_string()
        } else {
            "max".to_owned()
        }
    };
    let max = match (quota, period) {
        (None, None) => None,
        (Some(quota), Some(period)) => {
            let value = format!("{} {period}", quota_text(quota));
            Some((value, "linux.resources.cpu.quota", Mode::Plain))
        }
        (Some(quota), None) => {
            // The kernel keeps the period if it is not written; at create the default is meant.
            let mut value = quota_text(quota);
            if purpose == Purpose::Create {
                value.push_str(" 100000");
            }
            Some((value, "linux.resources.cpu.quota", Mode::Plain))
        }
        (None, Some(period)) => Some(match purpose {
            Purpose::Create => (
                format!("max {period}"),
                "linux.resources.cpu.period",
                Mode::Plain,
            ),
            Purpose::Update => (
                period.to_string(),
                "linux.resources.cpu.period",
                Mode::KeepFirstWord,
            ),
        }),
    };
    if let Some(burst) = cpu.burst() {
        // A burst above the quota in force is refused; it may fit the quota that comes next.
        let mode = if max.is_some() {
            Mode::AgainAfterNext
        } else {
            Mode::Plain
        };
        let (file, json) = ("cpu.max.burst".into(), "linux.resources.cpu.burst".into());
        settings.writes.push(Write {
            file,
            value: burst.to_string(),
            json,
            mode,
        });
    }
    if let Some((value, json, mode)) = max {
        settings.writes.push(Write {
            file: "cpu.max".into(),
            value,
            json: json.into(),
            mode,
        });
    }

    let lists = [
        ("cpuset.cpus", cpu.cpus(), "linux.resources.cpu.cpus"),
        ("cpuset.mems", cpu.mems(), "linux.resources.cpu.mems"),
    ];
    for (file, list, json) in lists {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            settings.plain(file, list.clone(), json);
        }
    }
    Ok(())
}

/// `cpu.weight` (1 to 10000, default 100) for `cpu.shares` (2 to 262144, default 1024): the
/// quadratic curve through the three, as in runc since 1.3.2 and crun since 1.23. 0 is unset.
fn weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

fn hugepages(settings: &mut Settings, limits: &[LinuxHugepageLimit]) -> Result<()> {
    for (index, limit) in limits.iter().enumerate() {
        let json = format!("linux.resources.hugepageLimits[{index}]");
        let (size, value) = (limit.page_size(), limit.limit());
        // The size becomes part of a file's name: nothing but the specification's form.
        let digits = size
            .trim_end_matches("KB")
            .trim_end_matches("MB")
            .trim_end_matches("GB");
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number || digits.starts_with('0') || size.len() != digits.len() + 2 {
            bail!("{json}.pageSize: {size:?} is not a size such as 64KB, 2MB or 1GB");
        }
        if value < -1 {
            bail!("{json}.limit: {value} is neither a size nor -1 (unlimited)");
        }
        for (suffix, mode) in [("max", Mode::Plain), ("rsvd.max", Mode::IfPresent)] {
            settings.writes.push(Write {
                file: format!("hugetlb.{size}.{suffix}").into(),
                value: bytes(value),
                json: format!("{json}.limit").into(),
                mode,
            });
        }
    }
    Ok(())
}

fn rdma(settings: &mut Settings, devices: &HashMap<String, LinuxRdma>) {
    for (device, limits) in sorted(devices) {
        let mut value = device.to_owned();
        if let Some(handles) = limits.hca_handles() {
            value.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limits.hca_objects() {
            value.push_str(&format!(" hca_object={objects}"));
        }
        if value != device {
            let json = format!("linux.resources.rdma[{device:?}]").into();
            let file = "rdma.max".into();
            settings.writes.push(Write {
                file,
                value,
                json,
                mode: Mode::Plain,
            });
        }
    }
}

/// `unified` says file and text itself. It comes last, so that it wins; the kernel takes one line
/// a write.
fn unified(settings: &mut Settings, files: &HashMap<String, String>) -> Result<()> {
    for (key, text) in sorted(files) {
        let json = format!("linux.resources.unified[{key:?}]");
        if key.contains('/') {
            bail!("{json}: unified resource {key:?} must be a file name (no slashes)");
        }
        if !key.contains('.') {
            bail!("{json}: unified resource {key:?} must be in the form CONTROLLER.PARAMETER");
        }
        let lines = if text.is_empty() { "\n" } else { text.as_str() };
        for line in lines.split_inclusive('\n') {
            settings.writes.push(Write {
                file: key.to_owned().into(),
                value: line.to_owned(),
                json: json.clone().into(),
                mode: Mode::Plain,
            });
        }
    }
    Ok(())
}

/// A map's entries in the order of their keys: the same config is always written the same way.
fn sorted<T>(map: &HashMap<String, T>) -> Vec<(&str, &T)> {
    let mut entries: Vec<_> = map
        .iter()
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

fn filter(resources: &LinuxResources, context: &Context) -> Result<Option<Filter>> {
    let rules = resources.devices().as_deref().unwrap_or_default();
    if rules.is_empty() && context.purpose == Purpose::Update {
        return Ok(None);
    }
    let rules = devices::rules(rules, context.device_paths)?;
    let allow_all = devices::allow_all(&rules);
    // A new cgroup has no filter that would have to make way for "everything".
    if allow_all && context.purpose == Purpose::Create {
        return Ok(None);
    }
    let optional = allow_all || context.unprivileged;
    Ok(Some(Filter {
        program: devices::program(&rules),
        optional,
        null: devices::allow_null(&rules),
    }))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
