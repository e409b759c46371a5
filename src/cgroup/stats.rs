//! What a cgroup uses, in the shape of `runc events`.
//!
//! The shape is cgroup v1's (runc's `types/events.go`), filled from v2's files as runc fills it.
//! Files of controllers that are not there leave their fields empty.

use std::collections::BTreeMap;

use anyhow::Result;
use nix::dir::Type;
use nix::errno::Errno;
use serde::Serialize;

use super::{Cgroup, find_key};

/// The `data` of an event of type `stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)] // the fields are runc's; what is not plain is said where it is filled
pub struct Stats {
    pub cpu: Cpu,
    /// v1 only; v2 has nothing to fill it with.
    pub cpuset: Cpuset,
    pub memory: Memory,
    pub pids: Pids,
    pub blkio: Blkio,
    /// By page size, such as `2MB`.
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// An object even when there is nothing in it.
    pub intel_rdt: IntelRdt,
    /// runc has stopped filling this; it is `null`.
    pub network_interfaces: Option<()>,
}

/// Times are in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Cpu {
    #[serde(skip_serializing_if = "is_default")]
    pub usage: CpuUsage,
    #[serde(skip_serializing_if = "is_default")]
    pub throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// Nanoseconds of CPU time. v2 does not count by CPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct CpuUsage {
    #[serde(skip_serializing_if = "is_default")]
    pub total: u64,
    pub kernel: u64,
    pub user: u64,
}

/// How often and how long (nanoseconds) `cpu.max` held the processes up.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Throttling {
    #[serde(skip_serializing_if = "is_default")]
    pub periods: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub throttled_periods: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub throttled_time: u64,
}

/// Always all zero: v1's files.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Cpuset {
    pub cpu_exclusive: u64,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Memory {
    #[serde(skip_serializing_if = "is_default")]
    pub cache: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub usage: MemoryEntry,
    /// Memory and swap together, as in v1.
    #[serde(skip_serializing_if = "is_default")]
    pub swap: MemoryEntry,
    /// `memory.stat` as it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// Bytes; `failcnt` is v1's and stays 0, as in runc.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct MemoryEntry {
    /// `u64::MAX` is unlimited.
    pub limit: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub max: u64,
    pub failcnt: u64,
}

/// Tasks, that is threads.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Pids {
    #[serde(skip_serializing_if = "is_default")]
    pub current: u64,
    /// 0 is unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: u64,
}

/// v1 has more tables, which v2 cannot fill.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Blkio {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// What was done to one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct BlkioEntry {
    #[serde(skip_serializing_if = "is_default")]
    pub major: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub minor: u64,
    /// `Read`, `Write` or `Discard`.
    pub op: &'static str,
    #[serde(skip_serializing_if = "is_default")]
    pub value: u64,
}

/// Bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Hugetlb {
    #[serde(skip_serializing_if = "is_default")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub max: u64,
    /// How often an allocation met the limit.
    pub failcnt: u64,
}

/// Pressure stall information: the share of time (percent) in which some or all tasks waited.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Psi {
    #[serde(skip_serializing_if = "is_default")]
    pub some: PsiData,
    #[serde(skip_serializing_if = "is_default")]
    pub full: PsiData,
}

/// Averages over so many seconds, and the sum in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct PsiData {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

/// From resctrl, not from the cgroup: filled by who knows the container's group there.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct IntelRdt {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_info: Option<L3CacheInfo>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_info: Option<MemBwInfo>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemata: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbm_stats: Option<Vec<MbmStats>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmt_stats: Option<Vec<CmtStats>>,
}

/// `info/L3` of resctrl.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct L3CacheInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cbm_mask: String,
    #[serde(skip_serializing_if = "is_default")]
    pub min_cbm_bits: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub num_closids: u64,
}

/// `info/MB` of resctrl.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct MemBwInfo {
    #[serde(skip_serializing_if = "is_default")]
    pub bandwidth_gran: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub delay_linear: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub min_bandwidth: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub num_closids: u64,
}

/// Memory bandwidth of one NUMA node, bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct MbmStats {
    pub mbm_total_bytes: u64,
    pub mbm_local_bytes: u64,
}

/// Cache used on one NUMA node, bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct CmtStats {
    pub llc_occupancy: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Cgroup {
    /// Reads all statistics. `intel_rdt` stays empty.
    pub fn stats(&self) -> Result<Stats> {
        Ok(Stats {
            cpu: self.cpu_stats()?,
            memory: self.memory_stats()?,
            pids: self.pids_stats()?,
            blkio: self.blkio_stats()?,
            hugetlb: self.hugetlb_stats()?,
            ..Stats::default()
        })
    }

    fn cpu_stats(&self) -> Result<Cpu> {
        let text = self.text("cpu.stat")?;
        let micros = |key| find_key(&text, key).unwrap_or(0).saturating_mul(1000);
        let count = |key| find_key(&text, key).unwrap_or(0);
        Ok(Cpu {
            usage: CpuUsage {
                total: micros("usage_usec"),
                kernel: micros("system_usec"),
                user: micros("user_usec"),
            },
            throttling: Throttling {
                periods: count("nr_periods"),
                throttled_periods: count("nr_throttled"),
                throttled_time: micros("throttled_usec"),
            },
            psi: self.psi("cpu.pressure")?,
        })
    }

    fn memory_stats(&self) -> Result<Memory> {
        let raw = pairs(&self.text("memory.stat")?);
        let psi = self.psi("memory.pressure")?;
        let cache = raw.get("file").copied().unwrap_or(0);
        let Some(usage) = self.memory_entry("memory")? else {
            // The root cgroup has no memory.current, or there is no memory controller at all.
            if raw.is_empty() {
                return Ok(Memory {
                    psi,
                    ..Memory::default()
                });
            }
            let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
            let (usage, swap) = root_memory(&raw, &meminfo);
            return Ok(Memory {
                cache,
                usage,
                swap,
                raw,
                psi,
            });
        };
        // v1 counted memory and swap together; a maximum of the two cannot be told.
        let swap = match self.memory_entry("memory.swap")? {
            Some(only) => MemoryEntry {
                limit: match only.limit {
                    u64::MAX => u64::MAX,
                    limit => limit.saturating_add(usage.limit),
                },
                usage: only.usage + usage.usage,
                ..MemoryEntry::default()
            },
            // No swap accounting.
            None => MemoryEntry {
                usage: usage.usage,
                limit: usage.limit,
                ..Default::default()
            },
        };
        Ok(Memory {
            cache,
            usage,
            swap,
            raw,
            psi,
        })
    }

    /// `prefix.current` and its companions; `None` without that file.
    fn memory_entry(&self, prefix: &str) -> Result<Option<MemoryEntry>> {
        let Some(usage) = self.number(&format!("{prefix}.current"))? else {
            return Ok(None);
        };
        Ok(Some(MemoryEntry {
            limit: self.number(&format!("{prefix}.max"))?.unwrap_or(u64::MAX),
            usage,
            // Since Linux 5.19; of swap since 6.5.
            max: self.number(&format!("{prefix}.peak"))?.unwrap_or(0),
            failcnt: 0,
        }))
    }

    fn pids_stats(&self) -> Result<Pids> {
        Ok(match self.number("pids.current")? {
            Some(current) => {
                let limit = self.number("pids.max")?.filter(|limit| *limit != u64::MAX);
                Pids {
                    current,
                    limit: limit.unwrap_or(0),
                }
            }
            // Without the controller, what is in the cgroup itself is counted.
            None => {
                let procs = match self.read("cgroup.procs") {
                    Err(Errno::EOPNOTSUPP) => self.text("cgroup.threads")?,
                    _ => self.text("cgroup.procs")?,
                };
                Pids {
                    current: procs.lines().count() as u64,
                    limit: 0,
                }
            }
        })
    }

    fn blkio_stats(&self) -> Result<Blkio> {
        let mut blkio = Blkio {
            psi: self.psi("io.pressure")?,
            ..Blkio::default()
        };
        for line in self.text("io.stat")?.lines() {
            let mut words = line.split_whitespace();
            let Some((major, minor)) = words.next().and_then(device) else {
                continue;
            };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let (table, op) = match key {
                    "rbytes" => (&mut blkio.io_service_bytes_recursive, "Read"),
                    "wbytes" => (&mut blkio.io_service_bytes_recursive, "Write"),
                    "dbytes" => (&mut blkio.io_service_bytes_recursive, "Discard"),
                    "rios" => (&mut blkio.io_serviced_recursive, "Read"),
                    "wios" => (&mut blkio.io_serviced_recursive, "Write"),
                    "dios" => (&mut blkio.io_serviced_recursive, "Discard"),
                    _ => continue,
                };
                let value = value.parse().unwrap_or(0);
                table.push(BlkioEntry {
                    major,
                    minor,
                    op,
                    value,
                });
            }
        }
        Ok(blkio)
    }

    fn hugetlb_stats(&self) -> Result<BTreeMap<String, Hugetlb>> {
        let mut stats = BTreeMap::new();
        let names = self.names(Type::File);
        for name in names.map_err(|errno| self.failed(format_args!("list files"), errno))? {
            let Some(size) = name
                .strip_prefix("hugetlb.")
                .and_then(|it| it.strip_suffix(".events"))
            else {
                continue;
            };
            // Reserved pages count where they are counted; as in runc.
            let usage = match self.number(&format!("hugetlb.{size}.rsvd.current"))? {
                Some(usage) => usage,
                None => self
                    .number(&format!("hugetlb.{size}.current"))?
                    .unwrap_or(0),
            };
            let failcnt = find_key(&self.text(&name)?, "max").unwrap_or(0);
            stats.insert(
                size.to_owned(),
                Hugetlb {
                    usage,
                    max: 0,
                    failcnt,
                },
            );
        }
        Ok(stats)
    }

    fn psi(&self, file: &str) -> Result<Option<Psi>> {
        // Some kernels have the file and refuse to read it: PSI is off.
        Ok(match self.read(file) {
            Ok(text) => Some(parse_psi(&text)),
            Err(Errno::ENOENT | Errno::EOPNOTSUPP) => None,
            Err(errno) => return Err(self.failed(format_args!("read {file}"), errno)),
        })
    }

    /// A file's text; empty if there is no such file.
    fn text(&self, file: &str) -> Result<String> {
        match self.read(file) {
            Err(Errno::ENOENT) => Ok(String::new()),
            result => result.map_err(|errno| self.failed(format_args!("read {file}"), errno)),
        }
    }

    /// A file's one number, `max` being the largest; `None` if there is no such file.
    fn number(&self, file: &str) -> Result<Option<u64>> {
        let text = self.text(file)?;
        Ok(match text.trim() {
            "" => None,
            "max" => Some(u64::MAX),
            number => Some(number.parse()?),
        })
    }
}

/// The root has no limits and no counters of its own: runc puts them together from what the whole
/// machine uses, in v1's terms.
fn root_memory(raw: &BTreeMap<String, u64>, meminfo: &str) -> (MemoryEntry, MemoryEntry) {
    let stat = |key| raw.get(key).copied().unwrap_or(0);
    let kibibytes = |key| {
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        number.unwrap_or(0).saturating_mul(1024)
    };
    let used = stat("anon") + stat("file");
    let swapped = kibibytes("SwapTotal").saturating_sub(kibibytes("SwapFree"));
    let entry = |usage| MemoryEntry {
        limit: u64::MAX,
        usage,
        ..MemoryEntry::default()
    };
    (entry(used), entry(used + swapped))
}

fn pairs(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// `8:16`.
fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines such as `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn parse_psi(text: &str) -> Psi {
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let data = match words.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    psi
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
