//! What `runz update` changes: its flags, or its file, as `linux.resources`. Pure but for
//! [`Cgroup::update`].
//!
//! Only what is given is touched. runc writes some of its stored values again, and clears others;
//! engines always send what they mean.

use std::borrow::Cow;

use anyhow::{Context as _, Result, anyhow, bail};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use serde::Deserialize;
use serde_json::Value;

use super::Cgroup;
use super::settings::{Context, Purpose, settings};

/// The flags of `update` as they were given. Sizes take the suffixes b, k, m, g, t and p; -1 is
/// unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // each is the flag of its name
pub struct Flags {
    pub blkio_weight: Option<String>,
    pub cpu_period: Option<String>,
    pub cpu_quota: Option<String>,
    pub cpu_burst: Option<String>,
    pub cpu_share: Option<String>,
    pub cpu_rt_period: Option<String>,
    pub cpu_rt_runtime: Option<String>,
    pub cpu_idle: Option<String>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    pub memory: Option<String>,
    pub memory_reservation: Option<String>,
    pub memory_swap: Option<String>,
    pub kernel_memory: Option<String>,
    pub kernel_memory_tcp: Option<String>,
    pub pids_limit: Option<String>,
}

/// The resources that the flags stand for.
pub fn from_flags(flags: &Flags) -> Result<LinuxResources> {
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(size("memory", &flags.memory)?)
        .set_reservation(size("memory-reservation", &flags.memory_reservation)?)
        .set_swap(size("memory-swap", &flags.memory_swap)?)
        .set_kernel_tcp(size("kernel-memory-tcp", &flags.kernel_memory_tcp)?);
    #[allow(deprecated)]
    memory.set_kernel(size("kernel-memory", &flags.kernel_memory)?);

    let mut cpu = LinuxCpu::default();
    cpu.set_period(number("cpu-period", &flags.cpu_period)?)
        .set_quota(number("cpu-quota", &flags.cpu_quota)?)
        .set_burst(number("cpu-burst", &flags.cpu_burst)?)
        .set_shares(number("cpu-share", &flags.cpu_share)?)
        .set_realtime_period(number("cpu-rt-period", &flags.cpu_rt_period)?)
        .set_realtime_runtime(number("cpu-rt-runtime", &flags.cpu_rt_runtime)?)
        .set_idle(number("cpu-idle", &flags.cpu_idle)?)
        .set_cpus(flags.cpuset_cpus.clone())
        .set_mems(flags.cpuset_mems.clone());

    let mut block_io = LinuxBlockIo::default();
    block_io.set_weight(number("blkio-weight", &flags.blkio_weight)?);

    let pids = number("pids-limit", &flags.pids_limit)?.map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    });
    let mut resources = LinuxResources::default();
    resources
        .set_memory(Some(memory))
        .set_cpu(Some(cpu))
        .set_block_io(Some(block_io))
        .set_pids(pids);
    Ok(resources)
}

/// The resources in a file: one JSON object in the form of `linux.resources`.
pub fn from_json(text: &str) -> Result<LinuxResources> {
    // Only the first value counts, as in runc.
    let mut stream = serde_json::Deserializer::from_str(text);
    let mut value = Value::deserialize(&mut stream).context("resources")?;
    normalize(&mut value);
    LinuxResources::deserialize(value).context("resources")
}

/// Brings `linux.resources` from what runc accepts to what oci-spec accepts: names in any case (Go
/// ignores it), `null` as absent, `pids` without a limit as absent (it would read as 0), an empty
/// type of a device rule as `a`.
pub fn normalize(resources: &mut Value) {
    lenient(resources);
    let Value::Object(resources) = resources else {
        return;
    };
    if resources
        .get("pids")
        .is_some_and(|pids| pids.get("limit").is_none())
    {
        resources.remove("pids");
    }
    for rule in resources
        .get_mut("devices")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(kind) = rule.get_mut("type").filter(|kind| **kind == "") {
            *kind = "a".into();
        }
    }
}

/// Every name in `linux.resources` of the specification that is not all in lower case, and those
/// that are.
const NAMES: &str = "blockIO checkBeforeUpdate classID disableOOMKiller hcaHandles hcaObjects \
    hugepageLimits kernelTCP leafWeight pageSize realtimePeriod realtimeRuntime \
    throttleReadBpsDevice throttleReadIOPSDevice throttleWriteBpsDevice throttleWriteIOPSDevice \
    useHierarchy weightDevice \
    access allow burst cpu cpus devices idle kernel limit major memory mems minor name network \
    period pids priorities priority quota rate rdma reservation shares swap swappiness type \
    unified weight";

fn lenient(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(lenient),
        Value::Object(object) => {
            *object = std::mem::take(object)
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (known(&key).map_or(key, str::to_owned), value))
                .collect();
            for (key, value) in object.iter_mut() {
                match (key.as_str(), value) {
                    // Its keys are devices, not the specification's names. Those of `unified`
                    // have a dot, which no name has.
                    ("rdma", Value::Object(devices)) => devices.values_mut().for_each(lenient),
                    (_, value) => lenient(value),
                }
            }
        }
        _ => {}
    }
}

fn known(key: &str) -> Option<&'static str> {
    NAMES
        .split_whitespace()
        .find(|name| name.eq_ignore_ascii_case(key))
}

impl Cgroup {
    /// Brings the resources to bear on a running container: all of them, or, on failure, none.
    /// Returns sentences for the log.
    ///
    /// `memory.swap` is memory and swap together, so without a new `memory.limit` the one in force
    /// is reckoned with.
    pub fn update(
        &self,
        resources: &LinuxResources,
        context: &Context,
    ) -> Result<Vec<Cow<'static, str>>> {
        let mut resources = resources.clone();
        let mut limit_in_force = false;
        if let Some(memory) = resources.memory_mut()
            && memory.swap().is_some_and(|swap| swap > 0)
            && memory.limit().is_none_or(|limit| limit == 0)
        {
            memory.set_limit(self.memory_limit());
            limit_in_force = true;
        }
        let context = Context {
            purpose: Purpose::Update,
            ..*context
        };
        let mut settings = settings(&resources, &context)?;
        if limit_in_force {
            settings.writes.retain(|write| write.file != "memory.max");
            settings.check = settings
                .check
                .map(|check| super::settings::Check { limit: 0, ..check });
        }
        self.change(&settings)?;
        Ok(settings.warnings)
    }

    fn memory_limit(&self) -> Option<i64> {
        match self.read("memory.max").ok()?.trim() {
            "max" => Some(-1),
            limit => limit.parse().ok(),
        }
    }
}

/// A flag's number; an empty text is none.
fn number<T: std::str::FromStr>(flag: &str, text: &Option<String>) -> Result<Option<T>>
where
    T::Err: std::fmt::Display,
{
    let Some(text) = text.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let value = text
        .parse()
        .map_err(|error| anyhow!("invalid value for {flag}: {text:?}: {error}"))?;
    Ok(Some(value))
}

/// A flag's size in bytes, -1 for unlimited.
fn size(flag: &str, text: &Option<String>) -> Result<Option<i64>> {
    match text.as_deref() {
        None | Some("") => Ok(None),
        Some("-1") => Ok(Some(-1)),
        Some(text) => {
            let bytes = bytes(text).with_context(|| format!("invalid value for {flag}"))?;
            Ok(Some(bytes))
        }
    }
}

/// `1.5g`, `64 KiB`, `100`: as docker's go-units reads them (RAMInBytes), powers of 1024.
fn bytes(text: &str) -> Result<i64> {
    let invalid = || anyhow!("invalid size: '{text}'");
    let end = text.rfind(|letter: char| letter.is_ascii_digit() || letter == '.');
    let (number, suffix) = text.split_at(end.ok_or_else(invalid)? + 1);
    let suffix = suffix
        .strip_prefix(' ')
        .unwrap_or(suffix)
        .to_ascii_lowercase();
    let power = match suffix
        .strip_suffix("ib")
        .or(suffix.strip_suffix('b'))
        .unwrap_or(&suffix)
    {
        "" if suffix != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    if number.starts_with(['-', '+']) || number.contains(['e', 'E', '_']) {
        return Err(invalid());
    }
    let factor = 1i64 << (10 * power);
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(factor).ok_or_else(invalid);
    }
    let value = number.parse::<f64>().map_err(|_| invalid())? * factor as f64;
    if !(0.0..i64::MAX as f64).contains(&value) {
        bail!(invalid());
    }
    Ok(value as i64)
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
