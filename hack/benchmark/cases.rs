//! What is measured: the cases, and the scenes they are measured in.
//!
//! Every case goes round by round over all runtimes, in a random order in each
//! round (the same in every run), so that drift of the machine and what a
//! predecessor leaves to the kernel's workers hit all alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bundle::{self, Home, Kind};
use crate::runtime::{self, Outcome, Runtime, Slot};
use crate::stats::Random;
use crate::sys::{self, Exit};

/// The host that the cases run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// As it is.
    Plain,
    /// With 1,000 more mounts in the mount table.
    Mounts,
    /// With 500 containers running.
    Live,
}

impl Scene {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Scene::Plain => "plain host",
            Scene::Mounts => "1,000 more mounts",
            Scene::Live => "500 live containers",
        }
    }
}

/// What the numbers of a row count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Millis,
    /// Containers per second.
    PerSecond,
    /// Mebibytes.
    Mebi,
}

impl Unit {
    /// Its sign in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Millis => "ms",
            Unit::PerSecond => "1/s",
            Unit::Mebi => "MiB",
        }
    }
}

/// One case in one scene and bundle, for all runtimes.
pub struct Row {
    /// The host.
    pub scene: Scene,
    /// The bundle.
    pub bundle: Kind,
    /// The case.
    pub case: String,
    /// The samples' unit.
    pub unit: Unit,
    /// One per runtime, in their order.
    pub cells: Vec<Cell>,
    /// The same on the plain host just before and just after; empty where that is the scene itself.
    pub control: Vec<Cell>,
}

/// What one runtime did in one case.
#[derive(Clone, Default)]
pub struct Cell {
    /// The samples, in the order they were taken.
    pub samples: Vec<f64>,
    /// Beside each time, the CPU time in milliseconds; empty for other units.
    pub cpu: Vec<f64>,
    /// How many rounds failed.
    pub failures: u32,
    /// How the first of them failed; or why there are no samples.
    pub failed: Option<String>,
}

impl Cell {
    /// Takes in what was measured later.
    fn extend(&mut self, later: Cell) {
        self.samples.extend(later.samples);
        self.cpu.extend(later.cpu);
        self.failures += later.failures;
        self.failed = self.failed.take().or(later.failed);
    }

    /// It wasn't to be measured.
    pub fn is_absent(&self) -> bool {
        self.samples.is_empty() && self.failed.is_none()
    }
}

/// How much is measured.
pub struct Effort {
    /// Rounds of each timed case on the plain host.
    pub runs: usize,
    /// Rounds in the growth scenes.
    pub growth_runs: usize,
    /// Rounds before them that don't count.
    pub warmup: usize,
    /// Slices of each throughput case.
    pub slices: usize,
    /// Length of a slice.
    pub slice: Duration,
}

/// How often the growth scenes and the plain host take turns.
const TURNS: usize = 3;
/// Mounts that the scene `Mounts` adds.
const MOUNTS: usize = 1_000;
/// Containers that the scene `Live` adds, over all runtimes together.
const LIVE: usize = 500;
/// What the containers of pools run.
pub const POOLED: [&str; 1] = ["/bin/true"];
/// Failures after which a runtime is left out of a case.
const PATIENCE: u32 = 3;
/// Loops of the throughput cases.
const LOOPS: [usize; 3] = [1, 2, 8];

/// The names for `--only`.
pub const CASES: [&str; 12] = [
    "create",
    "start",
    "delete",
    "run",
    "exec",
    "throughput",
    "memory",
    "growth",
    "burst",
    "costs",
    "python",
    "seccomp",
];

/// A measurement in progress.
pub struct Bench<'a> {
    /// The run's directory and bundles.
    pub home: &'a Home,
    /// Who is measured.
    pub runtimes: &'a [Runtime],
    /// The cases wanted, of `CASES`.
    pub only: &'a [String],
    /// The bundles wanted.
    pub kinds: &'a [Kind],
    /// How much.
    pub effort: &'a Effort,
    /// Called with every row as soon as it is there.
    pub emit: &'a mut dyn FnMut(Row),
}

impl Bench<'_> {
    /// Measures all that is wanted.
    ///
    /// # Errors
    /// What keeps the whole run from going on; a runtime's failures are in its cells.
    pub fn measure(&mut self) -> Result<()> {
        for row in self.scene(Scene::Plain, self.effort.runs)? {
            (self.emit)(row);
        }
        for kind in self.kinds.iter().copied() {
            if self.wants("throughput") {
                self.throughput(kind)?;
            }
            if self.wants("memory") {
                self.memory(kind)?;
            }
        }
        for kind in self.kinds.iter().copied() {
            if self.wants("burst") {
                self.burst(kind)?;
            }
        }
        if self.wants("costs") && self.kinds.contains(&Kind::Podman) {
            self.cpu_of_runs()?;
        }
        if self.wants("python") {
            self.python()?;
        }
        if self.wants("growth") {
            self.growth(Scene::Mounts)?;
            self.growth(Scene::Live)?;
        }
        Ok(())
    }

    /// The timed verbs in a grown scene, in turn with the same on the plain host: so that the growth is not
    /// the machine's drift.
    fn growth(&mut self, scene: Scene) -> Result<()> {
        let runs = self.effort.growth_runs.div_ceil(TURNS);
        let mut rows: Vec<Row> = Vec::new();
        for _ in 0..TURNS {
            let plain = self.scene(Scene::Plain, runs)?;
            let mut grown = match scene {
                Scene::Plain => return Ok(()),
                Scene::Mounts => {
                    let mounts = self.add_mounts()?;
                    let rows = self.scene(scene, runs)?;
                    sys::detach(&mounts).context("detach the extra mounts")?;
                    rows
                }
                Scene::Live => {
                    let live = self.add_containers()?;
                    let rows = self.scene(scene, runs)?;
                    eprintln!("removing them");
                    for slot in live {
                        slot()?.remove();
                    }
                    rows
                }
            };
            for (row, plain) in grown.iter_mut().zip(plain) {
                row.control = plain.cells;
            }
            if rows.is_empty() {
                rows = grown;
                continue;
            }
            for (row, more) in rows.iter_mut().zip(grown) {
                let cells = row.cells.iter_mut().chain(&mut row.control);
                let later = more.cells.into_iter().chain(more.control);
                cells
                    .zip(later)
                    .for_each(|(cell, later)| cell.extend(later));
            }
        }
        rows.into_iter().for_each(&mut *self.emit);
        Ok(())
    }

    fn wants(&self, case: &str) -> bool {
        self.only.iter().any(|wanted| wanted == case)
    }

    /// The five timed verbs on both bundles.
    fn scene(&self, scene: Scene, runs: usize) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for kind in self.kinds.iter().copied() {
            let slots = self.slots(kind, "0", &["/bin/true"])?;
            if ["create", "start", "delete"]
                .iter()
                .any(|case| self.wants(case))
            {
                progress(scene, kind, "create, start, delete");
                let lives = self.rounds("create", runs, |i| slots[i].life());
                for case in ["create", "start", "delete"] {
                    if self.wants(case) {
                        let pick = |life: &crate::runtime::Life| match case {
                            "create" => life.create,
                            "start" => life.start,
                            _ => life.delete,
                        };
                        let cells = lives.iter().map(|l| times(l, pick)).collect();
                        rows.push(row(scene, kind, case, Unit::Millis, cells));
                    }
                }
            }
            if self.wants("run") {
                progress(scene, kind, "run");
                let proofs = self.prove_run(kind)?;
                let exits = self.rounds("run", runs, |i| {
                    proofs[i].clone()?;
                    slots[i].run()
                });
                let cells = exits.iter().map(|e| times(e, |exit| *exit)).collect();
                rows.push(row(scene, kind, "run", Unit::Millis, cells));
            }
            if self.wants("exec") {
                progress(scene, kind, "exec");
                let cells = self.exec(kind, runs)?;
                rows.push(row(scene, kind, "exec", Unit::Millis, cells));
            }
            sys::reap();
        }
        Ok(rows)
    }

    fn prove_run(&self, kind: Kind) -> Result<Vec<Outcome<()>>> {
        let slots = self.slots(kind, "proof", &runtime::PROOF)?;
        Ok(slots.iter().map(Slot::prove_run).collect())
    }

    fn exec(&self, kind: Kind, runs: usize) -> Result<Vec<Cell>> {
        let slots = self.slots(kind, "exec", &["/bin/sleep", "100000"])?;
        let able = || self.runtimes.iter().map(|runtime| runtime.can("exec"));
        let each = |step: fn(&Slot) -> Outcome<()>| -> Vec<Outcome<()>> {
            let slots = slots.iter().zip(able());
            slots
                .map(|(slot, able)| if able { step(slot) } else { Ok(()) })
                .collect()
        };
        let alive = each(Slot::live);
        let proofs = each(Slot::prove_exec);
        let exits = self.rounds("exec", runs, |i| {
            alive[i].clone()?;
            proofs[i].clone()?;
            slots[i].exec()
        });
        each(|slot| {
            slot.remove();
            Ok(())
        });
        Ok(exits.iter().map(|e| times(e, |exit| *exit)).collect())
    }

    /// Containers per second by parallel loops, of whole lives and of `run`.
    fn throughput(&mut self, kind: Kind) -> Result<()> {
        let mut loops = Vec::new();
        for i in 0..LOOPS[LOOPS.len() - 1] {
            loops.push(self.slots(kind, &i.to_string(), &["/bin/true"])?);
        }
        let proofs = self.prove_run(kind)?;
        for case in ["lifecycle", "run"] {
            for count in LOOPS {
                let name = format!("{case} × {count}");
                progress(Scene::Plain, kind, &name);
                let step = |slot: &Slot| match case {
                    "lifecycle" => slot.relaxed_life().map(drop),
                    _ => slot.relaxed_run().map(drop),
                };
                let effort = self.effort;
                let verb = if case == "run" { "run" } else { "create" };
                let rates = self.interleave(verb, effort.slices, 1, |runtime| {
                    if case == "run" {
                        proofs[runtime].clone()?;
                    }
                    let slots: Vec<&Slot> = loops[..count].iter().map(|l| &l[runtime]).collect();
                    // What was taken out of pools is to be there again: the rate can be kept up.
                    let settle = || self.runtimes[runtime].settle();
                    rate(&slots, effort.slice, step, settle)
                });
                let cells = rates.into_iter().map(|r| r.cell(|rate| *rate)).collect();
                (self.emit)(row(Scene::Plain, kind, &name, Unit::PerSecond, cells));
            }
        }
        sys::reap();
        Ok(())
    }

    /// Peak memory of create: the runtime's, init's, and what the container is charged for.
    fn memory(&mut self, kind: Kind) -> Result<()> {
        progress(Scene::Plain, kind, "memory of create");
        let slots = self.slots(kind, "0", &["/bin/true"])?;
        let rounds = (self.effort.runs / 20).clamp(3, 10);
        let measured = self.interleave("create", rounds, 1, |i| {
            let (exit, pid) = slots[i].create()?;
            let init = status_kib(pid, "VmHWM:").map_err(|e| format!("init's VmHWM: {e:#}"));
            let cgroup = cgroup_of(pid).and_then(|dir| {
                let text = fs::read_to_string(dir.join("memory.peak"))?;
                Ok(text.trim().parse::<f64>()? / 1024.0)
            });
            slots[i].remove();
            Ok((exit.maxrss_kib as f64, init?, cgroup.ok()))
        });
        let cells = |pick: fn(&(f64, f64, Option<f64>)) -> f64| -> Vec<Cell> {
            let mebi = |m: &_| pick(m) / 1024.0;
            measured.iter().map(|m| m.clone().cell(mebi)).collect()
        };
        let mut emit = |case, cells| (self.emit)(row(Scene::Plain, kind, case, Unit::Mebi, cells));
        emit("create peak RSS", cells(|m| m.0));
        emit("init peak RSS", cells(|m| m.1));
        if bundle::has_controller("memory") {
            emit("cgroup peak", cells(|m| m.2.unwrap_or(f64::NAN)));
        }
        Ok(())
    }

    /// One slot per runtime, of a bundle of its own.
    pub fn slots(&self, kind: Kind, suffix: &str, args: &[&str]) -> Result<Vec<Slot>> {
        let slot = |runtime: &Runtime| {
            let id = format!("{}-{}-{suffix}", self.home.prefix, runtime.name);
            let bundle = self.home.bundle(kind, &id, args)?;
            // A pool's containers have arguments already.
            let others = if args == POOLED { &[] } else { args };
            Slot::new(runtime, &id, &bundle, (&self.home.pool(kind), others))
        };
        self.runtimes.iter().map(slot).collect()
    }

    fn rounds<T>(
        &self,
        case: &str,
        runs: usize,
        step: impl FnMut(usize) -> Outcome<T>,
    ) -> Vec<Taken<T>> {
        self.interleave(case, runs, self.effort.warmup, step)
    }

    /// Calls `step` for every runtime that can do the case in every round, the first `warmup` rounds
    /// for nothing. Daemons make what they lack before it's the next one's turn.
    pub fn interleave<T>(
        &self,
        case: &str,
        runs: usize,
        warmup: usize,
        mut step: impl FnMut(usize) -> Outcome<T>,
    ) -> Vec<Taken<T>> {
        let mut taken: Vec<Taken<T>> = self.runtimes.iter().map(|_| Taken::default()).collect();
        let mut order: Vec<usize> = (0..self.runtimes.len()).collect();
        let mut random = Random::new(2);
        for round in 0..warmup + runs {
            random.shuffle(&mut order);
            for &i in &order {
                let taken = &mut taken[i];
                if taken.failures >= PATIENCE || !self.runtimes[i].can(case) {
                    continue;
                }
                let done = step(i);
                let settled = self.runtimes[i].settle();
                match done.and_then(|sample| settled.map(|()| sample)) {
                    Ok(sample) if round >= warmup => taken.samples.push(sample),
                    Ok(_) => (),
                    Err(line) => {
                        taken.failures += 1;
                        taken.failed.get_or_insert(line);
                    }
                }
            }
        }
        taken
    }

    /// A tree of small tmpfs mounts.
    fn add_mounts(&self) -> Result<PathBuf> {
        eprintln!("adding {MOUNTS} mounts");
        let dir = self.home.dir.join("mounts");
        fs::create_dir_all(&dir).context("create the directory of extra mounts")?;
        sys::mount("extra", &dir, "tmpfs", 0, "").context("mount a tmpfs for extra mounts")?;
        for i in 1..MOUNTS {
            let target = dir.join(i.to_string());
            fs::create_dir(&target).context("create a mount point")?;
            sys::mount("extra", &target, "tmpfs", 0, "size=4k").context("add a mount")?;
        }
        Ok(dir)
    }

    /// Running containers of all runtimes that can make one, in equal shares; as what opens the slots to
    /// remove them by. Were these open, each process that is measured would begin with copies of as many
    /// more descriptors, and close them one by one.
    fn add_containers(&self) -> Result<Vec<impl Fn() -> Result<Slot>>> {
        eprintln!("starting {LIVE} containers");
        let able = self.runtimes.iter().filter(|r| r.can("create"));
        let mut able: Vec<&Runtime> = able.collect();
        let mut live = Vec::new();
        while live.len() < LIVE && !able.is_empty() {
            let at = live.len() % able.len();
            let id = format!("{}-{}-live-{}", self.home.prefix, able[at].name, live.len());
            let bundle = self
                .home
                .bundle(Kind::Spec, &id, &["/bin/sleep", "100000"])?;
            let runtime = able[at];
            let slot = move || Slot::new(runtime, &id, &bundle, ("", &[]));
            match slot()?.live() {
                Ok(()) => live.push(slot),
                Err(line) => {
                    eprintln!("{} makes no live containers: {line}", runtime.name);
                    able.remove(at);
                }
            }
        }
        Ok(live)
    }
}

/// A row of the plain host, or of another.
pub fn row(scene: Scene, bundle: Kind, case: &str, unit: Unit, cells: Vec<Cell>) -> Row {
    Row {
        scene,
        bundle,
        case: case.to_string(),
        unit,
        cells,
        control: Vec::new(),
    }
}

/// What one runtime yielded in the rounds of one case.
#[derive(Clone)]
pub struct Taken<T> {
    /// The samples of the rounds that count.
    pub samples: Vec<T>,
    failures: u32,
    failed: Option<String>,
}

impl<T> Default for Taken<T> {
    fn default() -> Taken<T> {
        Taken {
            samples: Vec::new(),
            failures: 0,
            failed: None,
        }
    }
}

impl<T> Taken<T> {
    /// A number of each.
    pub fn cell(&self, pick: impl Fn(&T) -> f64) -> Cell {
        Cell {
            samples: self.samples.iter().map(pick).collect(),
            cpu: Vec::new(),
            failures: self.failures,
            failed: self.failed.clone(),
        }
    }
}

fn times<T>(taken: &Taken<T>, pick: impl Fn(&T) -> Exit) -> Cell {
    let mut cell = taken.cell(|sample| pick(sample).wall_ns as f64 / 1e6);
    cell.cpu = taken
        .samples
        .iter()
        .map(|s| pick(s).cpu_us as f64 / 1e3)
        .collect();
    cell
}

/// How many containers per second one loop per slot makes in `slice`, and what comes after it.
fn rate(
    slots: &[&Slot],
    slice: Duration,
    step: impl Fn(&Slot) -> Outcome<()> + Sync,
    after: impl Fn() -> Outcome<()>,
) -> Outcome<f64> {
    let begin = Instant::now();
    let one = |slot: &Slot| {
        let mut made = 0;
        while begin.elapsed() < slice {
            step(slot)?;
            made += 1;
        }
        Ok(made)
    };
    let made: Outcome<u32> = thread::scope(|scope| {
        let loops: Vec<_> = slots.iter().map(|slot| scope.spawn(|| one(slot))).collect();
        let joined = loops.into_iter().map(|l| match l.join() {
            Ok(made) => made,
            Err(_) => Err("a loop's thread died".to_string()),
        });
        // All are joined before the first failure is told.
        let joined: Vec<Outcome<u32>> = joined.collect();
        joined.into_iter().sum()
    });
    let made = made?;
    after()?;
    Ok(f64::from(made) / begin.elapsed().as_secs_f64())
}

fn status_kib(pid: i32, key: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("read status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line
        .context("not in status")?
        .trim()
        .trim_end_matches(" kB");
    number.parse().context("not a number")
}

fn cgroup_of(pid: i32) -> Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).context("read cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(Path::new("/sys/fs/cgroup").join(path.context("no cgroup v2")?))
}

/// Tells what is measured now.
pub fn progress(scene: Scene, kind: Kind, case: &str) {
    eprintln!("{}, {} bundle: {case}", scene.name(), kind.name());
}
