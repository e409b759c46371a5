//! `linux.intelRdt`: resctrl groups (Documentation/filesystems/resctrl.rst in the kernel): which part
//! of the caches and of the memory's bandwidth a container may use, and how much of it it does.
//!
//! A group is a directory of the resctrl file system: mkdir(2) makes one, `schemata` has its limits,
//! `tasks` its processes. `create` puts init into it before the program runs; children inherit it.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::cgroup::stats;
use crate::plan::IntelRdt;
use crate::store::{Container, Record};
use crate::sys;

/// The container's groups.
#[derive(Default)]
pub struct Groups {
    /// That of `closID`, or its own.
    pub group: PathBuf,
    /// The same, when it was made for this container.
    pub created: Option<PathBuf>,
    /// Its monitoring group.
    pub monitoring: Option<PathBuf>,
    /// The same, when it was made for this container.
    pub monitoring_created: Option<PathBuf>,
}

/// Where the kernel wants resctrl to be mounted.
const USUAL: &std::ffi::CStr = c"/sys/fs/resctrl";
/// RDTGROUP_SUPER_MAGIC (linux/magic.h).
const MAGIC: libc::c_long = 0x0765_5821;

/// The mount point of resctrl. Asked only on behalf of a config that uses it.
pub fn root() -> Result<PathBuf> {
    let usual = sys::fs::open(sys::fs::CWD, USUAL, libc::O_PATH | libc::O_DIRECTORY, 0);
    if usual.and_then(sys::fs::fstatfs) == Ok(MAGIC) {
        return Ok(PathBuf::from("/sys/fs/resctrl"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    mount_point(&mounts).context(
        "linux.intelRdt: resctrl is not mounted; the CPU, the kernel or its command line (rdt=) may \
         lack it",
    )
}

/// The mount point of the first resctrl in a mountinfo (proc_pid_mountinfo(5)).
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let path = mount.split(' ').nth(4)?;
        // The kernel writes these four characters as octal numbers.
        let path = [
            ("\\040", " "),
            ("\\011", "\t"),
            ("\\012", "\n"),
            ("\\134", "\\"),
        ]
        .iter()
        .fold(path.to_owned(), |p, (code, c)| p.replace(code, c));
        file_system.starts_with("resctrl ").then(|| path.into())
    })
}

/// Finds or makes the groups of container `id` below `root`, the mount point of resctrl, and sets
/// their limits. `note` is told of a group before it's made.
///
/// The rules are the runtime spec's (config-linux.md, "Intel RDT"). What was made before a failure is
/// taken back.
pub fn prepare(
    rdt: &IntelRdt,
    id: &str,
    root: &Path,
    note: &mut dyn FnMut(&str, &Path) -> Result<()>,
) -> Result<Groups> {
    let mut groups = Groups::default();
    let result = fill(&mut groups, rdt, id, root, note);
    if result.is_err() {
        let _ = groups.remove();
    }
    result.map(|()| groups)
}

fn fill(
    groups: &mut Groups,
    rdt: &IntelRdt,
    id: &str,
    root: &Path,
    note: &mut dyn FnMut(&str, &Path) -> Result<()>,
) -> Result<()> {
    groups.group = match rdt.group.as_str() {
        "/" => root.to_owned(),
        name => root.join(name),
    };
    let group = &groups.group;
    let existed = group.is_dir();
    if !existed {
        ensure!(
            !rdt.named || !rdt.schemata.is_empty(),
            "linux.intelRdt.closID: {group:?} doesn't exist, and without schemata, l3CacheSchema and \
             memBwSchema it isn't made"
        );
        note("rdt", group)?;
        let made = make(group).context("linux.intelRdt.closID")?;
        groups.created = made.then(|| group.clone());
    }
    if existed && rdt.named && !rdt.schemata.is_empty() {
        // It's somebody else's too: to be agreed with, not changed.
        check_schemata(&rdt.schemata, group, root)?;
    } else if !rdt.schemata.is_empty() {
        set(group, &rdt.schemata).context("linux.intelRdt")?;
    }
    if rdt.monitoring {
        let path = group.join("mon_groups").join(id);
        if !path.is_dir() {
            note("rdt-monitoring", &path)?;
            let made = make(&path).context("linux.intelRdt.enableMonitoring")?;
            groups.monitoring_created = made.then(|| path.clone());
        }
        groups.monitoring = Some(path);
    }
    Ok(())
}

impl Groups {
    /// Removes what was made.
    pub fn remove(&self) -> Result<()> {
        remove_made(&self.created, &self.monitoring_created, false)
    }
}

/// Adds a process to a container's groups: its init, or one that enters.
pub fn add(record: &Record, pid: i32) -> Result<()> {
    for group in [&record.intel_rdt_path, &record.intel_rdt_mon_path] {
        if !group.is_empty() {
            let group = Path::new(group);
            write(group, "tasks", &pid.to_string()).context("linux.intelRdt")?;
        }
    }
    Ok(())
}

/// What `update` asks for. Checked first, applied by [`Change::apply`].
pub struct Change<'a> {
    group: &'a Path,
    schemata: String,
}

/// Checks the flags `--l3-cache-schema` and `--mem-bw-schema`; `None` when neither is given.
pub fn change<'a>(
    record: &'a Record,
    l3: Option<&str>,
    bandwidth: Option<&str>,
) -> Result<Option<Change<'a>>> {
    let given = |flag: Option<&str>| {
        flag.map(str::trim)
            .filter(|f| !f.is_empty())
            .map(str::to_owned)
    };
    let lines = [given(l3), given(bandwidth)];
    if lines.iter().all(Option::is_none) {
        return Ok(None);
    }
    let group = Path::new(&record.intel_rdt_path);
    ensure!(
        !record.intel_rdt_path.is_empty(),
        "updating a non-existent Intel RDT configuration is not supported"
    );
    let has = |name: &str| info(group).is_some_and(|info| info.join(name).is_dir());
    ensure!(
        lines[0].is_none() || has("L3"),
        "Intel RDT/CAT: l3 cache schema is not enabled"
    );
    ensure!(
        lines[1].is_none() || has("MB"),
        "Intel RDT/MBA: memory bandwidth schema is not enabled"
    );
    let schemata = lines
        .into_iter()
        .flatten()
        .map(|line| line + "\n")
        .collect();
    Ok(Some(Change { group, schemata }))
}

impl Change<'_> {
    /// Writes it.
    pub fn apply(&self) -> Result<()> {
        set(self.group, &self.schemata)
    }
}

/// Removes the groups that were made for a container, its record tells which.
pub fn remove(record: &Record) -> Result<()> {
    let own = &record.runz;
    let named = own
        .rdt_created
        .as_ref()
        .is_some_and(|path| !path.ends_with(&record.id));
    remove_made(&own.rdt_created, &own.rdt_monitoring, named)
}

/// Removes the groups that were made for a container whose `create` was killed.
pub fn remove_noted(container: &Container) -> Result<()> {
    remove_made(
        &container.noted("rdt"),
        &container.noted("rdt-monitoring"),
        true,
    )
}

/// `shared`: others may have joined the group by its name meanwhile; then it's theirs.
fn remove_made(group: &Option<PathBuf>, monitoring: &Option<PathBuf>, shared: bool) -> Result<()> {
    let rmdir = |path: &Path| match fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove resctrl group {path:?}"))
        }
        _ => Ok(()),
    };
    if let Some(path) = monitoring {
        rmdir(path)?;
    }
    let Some(path) = group else { return Ok(()) };
    // The kernel would remove it with its processes in it.
    let used = || fs::read(path.join("tasks")).is_ok_and(|tasks| !tasks.is_empty());
    if shared && used() {
        return Ok(());
    }
    rmdir(path)
}

/// Whether it wasn't there.
fn make(group: &Path) -> Result<bool> {
    match fs::create_dir(group) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => {
            Err(explained(error, group)).with_context(|| format!("make resctrl group {group:?}"))
        }
    }
}

/// All lines in one write(2): the kernel takes them together or not at all.
fn set(group: &Path, schemata: &str) -> Result<()> {
    write(group, "schemata", schemata)
}

fn write(group: &Path, file: &str, text: &str) -> Result<()> {
    let path = group.join(file);
    fs::write(&path, text)
        .map_err(|e| explained(e, group))
        .with_context(|| format!("write {:?} to {path:?}", text.trim_end()))
}

/// The kernel's own words say more than the errno.
fn explained(error: std::io::Error, group: &Path) -> anyhow::Error {
    let status = info(group).and_then(|info| fs::read_to_string(info.join("last_cmd_status")).ok());
    match status.as_deref().map(str::trim) {
        None | Some("" | "ok") => error.into(),
        Some(status) => anyhow!(
            "{}; last_cmd_status: {status}",
            crate::log::sentence(&error.into())
        ),
    }
}

/// `info`, which only the root group has.
fn info(group: &Path) -> Option<PathBuf> {
    let mut up = group.ancestors().map(|path| path.join("info"));
    up.find(|info| info.is_dir())
}

type Schemata<'a> = BTreeMap<&'a str, BTreeMap<&'a str, &'a str>>;

/// `L3:0=ff;1=f0` as resource, domain, value.
fn parse(schemata: &str) -> Result<Schemata<'_>> {
    let mut resources = Schemata::new();
    for line in schemata.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (name, values) = line
            .split_once(':')
            .with_context(|| format!("{line:?} has no resource"))?;
        let domains = resources.entry(name.trim()).or_default();
        for pair in values.split(';').filter(|pair| !pair.trim().is_empty()) {
            let (domain, value) = pair
                .split_once('=')
                .with_context(|| format!("{line:?} has no value for {pair:?}"))?;
            domains.insert(domain.trim(), value.trim());
        }
    }
    Ok(resources)
}

/// Whether an existing group has the limits that the config wants of it.
fn check_schemata(wanted: &str, group: &Path, root: &Path) -> Result<()> {
    let path = group.join("schemata");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path:?}"))?;
    let there = parse(&text).with_context(|| format!("{path:?}"))?;
    let wanted = parse(wanted).context("linux.intelRdt")?;
    for (resource, domains) in &wanted {
        let step = || number(&root.join("info").join(resource), "bandwidth_gran").ok();
        for (domain, value) in domains {
            let found = there.get(resource).and_then(|d| d.get(domain));
            let same = found.is_some_and(|found| match resource.starts_with("MB") {
                true => same_bandwidth(value, found, step().unwrap_or(1)),
                false => same_mask(value, found),
            });
            if !same {
                let found = found.map_or("nothing", |f| f);
                bail!(
                    "linux.intelRdt: {resource}:{domain}={value} is asked for, but {path:?} of the \
                     existing group has {found}"
                );
            }
        }
    }
    Ok(())
}

/// Masks are hexadecimal; leading zeroes mean nothing.
fn same_mask(a: &str, b: &str) -> bool {
    let mask = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    a == b || mask(a).is_some_and(|a| mask(b) == Some(a))
}

/// The kernel rounds what is asked for up to the next step.
fn same_bandwidth(wanted: &str, found: &str, step: u64) -> bool {
    let (Ok(wanted), Ok(found)) = (wanted.parse::<u64>(), found.parse::<u64>()) else {
        return wanted == found;
    };
    wanted == found || wanted.checked_next_multiple_of(step) == Some(found)
}

fn text(directory: &Path, file: &str) -> Result<String> {
    let path = directory.join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {path:?}"))?;
    Ok(text.trim().to_owned())
}

fn number(directory: &Path, file: &str) -> Result<u64> {
    let text = text(directory, file)?;
    text.parse()
        .with_context(|| format!("{:?}: {text:?}", directory.join(file)))
}

/// The `intel_rdt` object of `events`; empty for a container without `linux.intelRdt`.
pub fn statistics(record: &Record) -> Result<stats::IntelRdt> {
    let mut found = stats::IntelRdt::default();
    if record.intel_rdt_path.is_empty() {
        return Ok(found);
    }
    let group = Path::new(&record.intel_rdt_path);
    let info = info(group).context("intel_rdt: resctrl is no longer mounted")?;
    let root = info.parent().unwrap_or(group);
    let (in_root, in_group) = (text(root, "schemata")?, text(group, "schemata")?);
    let line = |schemata: &str, name: &str| {
        let mut lines = schemata.lines().map(str::trim);
        let line = lines.find(|l| l.split(':').next() == Some(name));
        line.unwrap_or_default().to_owned()
    };
    let l3 = info.join("L3");
    if l3.is_dir() {
        found.l3_cache_info = Some(stats::L3CacheInfo {
            cbm_mask: text(&l3, "cbm_mask")?,
            min_cbm_bits: number(&l3, "min_cbm_bits")?,
            num_closids: number(&l3, "num_closids")?,
        });
        found.l3_cache_schema_root = line(&in_root, "L3");
        found.l3_cache_schema = line(&in_group, "L3");
    }
    let mb = info.join("MB");
    if mb.is_dir() {
        found.mem_bw_info = Some(stats::MemBwInfo {
            bandwidth_gran: number(&mb, "bandwidth_gran")?,
            delay_linear: number(&mb, "delay_linear")?,
            min_bandwidth: number(&mb, "min_bandwidth")?,
            num_closids: number(&mb, "num_closids")?,
        });
        found.mem_bw_schema_root = line(&in_root, "MB");
        found.mem_bw_schema = line(&in_group, "MB");
    }
    found.schemata = in_group.lines().map(|l| l.trim().to_owned()).collect();
    let features = text(&info, "L3_MON/mon_features").unwrap_or_default();
    if !features.is_empty() {
        let monitored = match record.intel_rdt_mon_path.as_str() {
            "" => group,
            path => Path::new(path),
        };
        monitoring(&mut found, &features, &monitored.join("mon_data"))?;
    }
    Ok(found)
}

/// Counters of each cache, in the order of their directories.
fn monitoring(found: &mut stats::IntelRdt, features: &str, data: &Path) -> Result<()> {
    let has = |name: &str| features.lines().any(|feature| feature == name);
    let entries = fs::read_dir(data).with_context(|| format!("read {data:?}"))?;
    let mut caches: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    caches.retain(|path| path.is_dir());
    caches.sort();
    let counter = |cache: &Path, name: &str| match has(name) {
        true => number(cache, name),
        false => Ok(0),
    };
    if has("mbm_total_bytes") || has("mbm_local_bytes") {
        let read = |cache: &PathBuf| -> Result<_> {
            Ok(stats::MbmStats {
                mbm_total_bytes: counter(cache, "mbm_total_bytes")?,
                mbm_local_bytes: counter(cache, "mbm_local_bytes")?,
            })
        };
        found.mbm_stats = Some(caches.iter().map(read).collect::<Result<_>>()?);
    }
    if has("llc_occupancy") {
        let read = |cache: &PathBuf| -> Result<_> {
            Ok(stats::CmtStats {
                llc_occupancy: counter(cache, "llc_occupancy")?,
            })
        };
        found.cmt_stats = Some(caches.iter().map(read).collect::<Result<_>>()?);
    }
    Ok(())
}

#[cfg(test)]
#[path = "rdt_tests.rs"]
mod tests;
