//! What kits and warm containers cost: time, CPU and memory to make one, and the CPU of a whole `run`
//! with everything that somebody does for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::bundle::{Home, Kind};
use crate::cases::{Bench, POOLED, Scene, Unit, progress, row};
use crate::runtime::{Runtime, Slot, Way};
use crate::stats::Summary;
use crate::sys;
use crate::zygote::Daemon;

/// `run`s that one sample of CPU time is the mean of.
const BATCH: u32 = 10;
/// Kits that are made to be weighed; and warm containers.
const KITS: usize = 100;
const WARM: usize = 20;
/// How often they are.
const TIMES: usize = 3;

/// What it takes to make one.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// A kit or a warm container, and the bundle that it's for.
    pub what: String,
    /// How many were made to find out.
    pub count: usize,
    /// Microseconds to make one, by the daemon's own clock.
    pub wall_us: f64,
    /// Microseconds of CPU to make one: of everything in the run's cgroup.
    pub cpu_us: f64,
    /// KiB of kernel memory that each keeps, by field of /proc/meminfo, and in all. Of the machine: a
    /// busy one shows others' too.
    pub kernel_kib: BTreeMap<String, f64>,
    /// Their sum.
    pub kernel_total_kib: f64,
    /// KiB that each is charged for to the cgroup of the run, where the memory controller is there.
    pub charged_kib: Option<f64>,
    /// The daemon's resident memory with all of them, in KiB.
    pub daemon_kib: f64,
    /// KiB of its own processes: its keeper and, of what's in the daemon's cgroup, init; by Pss.
    pub processes_kib: f64,
    /// The daemon's open descriptors with all of them.
    pub descriptors: usize,
}

/// What a sandbox takes of the kernel is in these. Shmem: the inodes and pages of tmpfs.
const FIELDS: [&str; 5] = ["Slab", "Percpu", "KernelStack", "PageTables", "Shmem"];

impl Bench<'_> {
    /// All the CPU of one `run`: the caller's, init's, and what daemons and keepers do before and
    /// after, until the pool is as full as it was.
    ///
    /// # Errors
    /// What keeps the whole run from going on.
    pub fn cpu_of_runs(&mut self) -> Result<()> {
        // Whose containers' cgroups are all below the run's own.
        let kind = Kind::Podman;
        progress(Scene::Plain, kind, "all CPU of run");
        let home = self.home.cgroup();
        let driver = home.join("driver");
        fs::create_dir_all(&driver).with_context(|| format!("create {}", driver.display()))?;
        let before = own_cgroup()?;
        fs::write(driver.join("cgroup.procs"), "0").context("enter a cgroup of our own")?;
        let slots = self.slots(kind, "0", &POOLED)?;
        let rounds = (self.effort.runs / 20).max(3);
        let taken = self.interleave("run", rounds, 1, |i| {
            let spent = || cpu_us(&home).map_err(|e| format!("{e:#}"));
            let (all, own) = (spent()?, sys::self_cpu_us());
            for _ in 0..BATCH {
                slots[i].run()?;
                self.runtimes[i].settle()?;
            }
            // The driver is in there, too.
            let own = sys::self_cpu_us() - own;
            Ok(spent()?.saturating_sub(all + own) as f64 / 1e3 / f64::from(BATCH))
        });
        fs::write(before.join("cgroup.procs"), "0").context("return to our cgroup")?;
        let _ = fs::remove_dir(&driver);
        let cells = taken.iter().map(|t| t.cell(|ms| *ms)).collect();
        (self.emit)(row(
            Scene::Plain,
            kind,
            "all CPU of run",
            Unit::Millis,
            cells,
        ));
        Ok(())
    }
}

/// What kits cost, of each bundle, and warm containers where they can be had.
///
/// # Errors
/// What could not be measured.
pub fn weigh(home: &Home, runtimes: &[Runtime], kinds: &[Kind]) -> Result<Vec<Cost>> {
    let mut costs = Vec::new();
    for runtime in runtimes.iter().filter(|r| r.way != Way::Cold) {
        for kind in kinds.iter().copied() {
            eprintln!("what it costs: {}, {} bundle", runtime.name, kind.name());
            let mut times = Vec::new();
            for n in 0..TIMES {
                times.push(once(home, runtime, kind, n)?);
            }
            costs.push(middle(times));
        }
    }
    Ok(costs)
}

fn once(home: &Home, runtime: &Runtime, kind: Kind, n: usize) -> Result<Cost> {
    let name = format!("{}-cost-{}-{n}", runtime.name, kind.name());
    let mut own = runtime.anew();
    own.root = runtime.root.with_file_name(&name);
    let daemon = Daemon::start(home, &own.prefix[0], &own.root, (KITS, KITS))?;
    let cgroup = home.cgroup();
    let id = format!("{}-{name}", home.prefix);
    let bundle = home.bundle(kind, &id, &POOLED)?;
    let first = Slot::new(&own, &id, &bundle, ("", &[]))?;
    own.daemon = Some(daemon);
    let Some(daemon) = &own.daemon else {
        anyhow::bail!("no daemon");
    };
    thread::sleep(Duration::from_millis(500));
    let (before, spent) = (kernel_memory()?, cpu_us(&cgroup)?);
    let charged = || number(&cgroup.join("memory.current")).ok();
    let charged_before = charged();
    let (count, what) = match own.way {
        Way::From => {
            daemon.provision(&home.pool(kind), &bundle, WARM, "created")?;
            (WARM, "warm container")
        }
        _ => {
            // It learns what kits are wanted.
            first.life().map_err(anyhow::Error::msg)?;
            (KITS, "kit")
        }
    };
    own.settle().map_err(anyhow::Error::msg)?;
    let spent = cpu_us(&cgroup)? - spent;
    // What the one container leaves to the kernel's workers.
    thread::sleep(Duration::from_secs(1));
    let after = kernel_memory()?;
    let each = |kib: f64| kib / count as f64;
    let kernel: BTreeMap<String, f64> = after
        .iter()
        .map(|(field, kib)| (field.clone(), each(kib - before.get(field).unwrap_or(kib))))
        .collect();
    let status = daemon.status()?;
    let cost = Cost {
        what: format!("{what}, {}", kind.name()),
        count,
        wall_us: mean_cost(&status),
        cpu_us: each(spent as f64),
        kernel_total_kib: kernel.values().sum(),
        kernel_kib: kernel,
        charged_kib: match (charged_before, charged()) {
            (Some(before), Some(after)) => Some(each((after as f64 - before as f64) / 1024.0)),
            _ => None,
        },
        daemon_kib: status["resident"].as_f64().unwrap_or(f64::NAN) / 1024.0,
        processes_kib: each(others_kib(&daemon.cgroup, daemon.pid())),
        descriptors: fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map_or(0, Iterator::count),
    };
    if let Some(daemon) = own.daemon.take() {
        daemon.stop();
    }
    // It takes the kernel a while to take kits apart.
    thread::sleep(Duration::from_secs(1));
    Ok(cost)
}

/// The one of the middle, by what it takes of the kernel's memory.
fn middle(mut times: Vec<Cost>) -> Cost {
    times.sort_by(|a, b| a.kernel_total_kib.total_cmp(&b.kernel_total_kib));
    let mut middle = times.swap_remove(times.len() / 2);
    let of = |pick: fn(&Cost) -> f64| -> Vec<f64> { times.iter().map(pick).collect() };
    let median = |mut others: Vec<f64>, own: f64| {
        others.push(own);
        Summary::of(&others).map_or(own, |s| s.p50)
    };
    middle.wall_us = median(of(|c| c.wall_us), middle.wall_us);
    middle.cpu_us = median(of(|c| c.cpu_us), middle.cpu_us);
    middle
}

/// For people.
pub fn table(costs: &[Cost]) -> String {
    let mut text = format!(
        "{:24} {:>6} {:>9} {:>9} {:>12} {:>12} {:>12} {:>12} {:>6}\n",
        "to make one",
        "n",
        "µs",
        "CPU µs",
        "kernel KiB",
        "charged KiB",
        "its own KiB",
        "daemon KiB",
        "fds"
    );
    for c in costs {
        let charged = c.charged_kib.map_or("-".into(), |kib| format!("{kib:.1}"));
        text += &format!(
            "{:24} {:>6} {:>9.0} {:>9.0} {:>12.1} {charged:>12} {:>12.1} {:>12.0} {:>6}\n",
            c.what,
            c.count,
            c.wall_us,
            c.cpu_us,
            c.kernel_total_kib,
            c.processes_kib,
            c.daemon_kib,
            c.descriptors
        );
        let fields = c.kernel_kib.iter();
        let fields: Vec<String> = fields.map(|(f, kib)| format!("{f} {kib:.1}")).collect();
        text += &format!("{:24} of that: {}\n", "", fields.join(", "));
    }
    text
}

/// The mean over all pools that made something.
fn mean_cost(status: &Value) -> f64 {
    let lists = ["pools", "warm"]
        .iter()
        .filter_map(|l| status[l].as_array());
    let costs: Vec<f64> = lists
        .flatten()
        .filter_map(|p| p["cost"].as_f64())
        .filter(|cost| *cost > 0.0)
        .collect();
    costs.iter().sum::<f64>() / costs.len() as f64
}

fn kernel_memory() -> Result<BTreeMap<String, f64>> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let fields = text.lines().filter_map(|line| {
        let (field, value) = line.split_once(':')?;
        let kib = value.trim().trim_end_matches(" kB").parse().ok()?;
        FIELDS.contains(&field).then(|| (field.to_string(), kib))
    });
    Ok(fields.collect())
}

/// Microseconds that the processes in a cgroup, and in those below it, have ever used.
fn cpu_us(cgroup: &Path) -> Result<u64> {
    let path = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let usage = text.lines().find_map(|l| l.strip_prefix("usage_usec "));
    usage
        .context("cpu.stat: no usage_usec")?
        .parse()
        .context("cpu.stat")
}

fn number(path: &Path) -> Result<u64> {
    Ok(fs::read_to_string(path)?.trim().parse()?)
}

fn pss_kib(pid: i32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}

/// The processes of a daemon's that aren't itself.
fn others_kib(cgroup: &Path, daemon: i32) -> f64 {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let pids = text.lines().filter_map(|pid| pid.parse().ok());
    let each = pids.filter(|pid| *pid != daemon).filter_map(pss_kib);
    each.fold(0.0, |sum, kib| sum + kib)
}

fn own_cgroup() -> Result<std::path::PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").context("read our cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(Path::new("/sys/fs/cgroup").join(path.context("no cgroup v2")?))
}
