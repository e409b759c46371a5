//! The benchmark: runz and its peers, side by side in one run.
//!
//! `hack/bench` builds and starts this; it is no part of the released binary.
//! It works in a mount namespace of its own, below one temporary directory,
//! with container ids and cgroups that bear its own prefix. The measuring is
//! done by a child process; the parent cleans up after it, however it ended.

mod bundle;
mod burst;
mod cases;
mod chart;
mod costs;
mod noise;
mod profile;
mod python;
mod report;
mod runtime;
mod stats;
mod sys;
mod targets;
mod zygote;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Value, json};

use bundle::{Home, Kind};
use cases::{Bench, CASES, Effort, POOLED};
use noise::Mark;
use report::Report;
use runtime::{Runtime, Way};
use zygote::Daemon;

/// Measures runz and other OCI runtimes side by side
#[derive(Parser)]
#[command(name = "hack/bench", override_help = include_str!("help.txt"))]
struct Options {
    /// Measure another runtime; replaces one of this name found on PATH. ARGs stand before every verb
    #[arg(long, value_name = "NAME=PATH [ARG…]")]
    peer: Vec<String>,
    /// Give a runtime a variable
    #[arg(long, value_name = "NAME:KEY=VALUE")]
    peer_env: Vec<String>,
    /// Leave a runtime out
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
    /// Only these of create,start,delete,run,exec,throughput,memory,growth,burst,costs,python,seccomp; growth
    /// repeats the chosen verbs with 1,000 extra mounts and with 500 live containers
    #[arg(long, value_delimiter = ',', value_name = "CASE,…")]
    only: Vec<String>,
    /// Only this bundle (spec or podman)
    #[arg(long, value_name = "NAME")]
    bundle: Option<String>,
    /// Rounds of each case; half of them in growth
    #[arg(long, value_name = "N", default_value_t = 200)]
    runs: usize,
    /// A first look: 20 rounds, short slices
    #[arg(long)]
    quick: bool,
    /// Take precedence over all other sessions on the machine, for a busy one
    #[arg(long)]
    first: bool,
    /// Write everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put every single sample into the JSON
    #[arg(long)]
    samples: bool,
    /// Write a chart
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The runz to measure
    #[arg(long, value_name = "PATH", hide = true)]
    runz: Option<String>,
    /// The seccomp compiler's benchmark, a program that prints JSON
    #[arg(long, value_name = "PATH", hide = true)]
    seccomp: Option<PathBuf>,
}

fn main() -> ExitCode {
    match bench(Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(options: Options) -> Result<ExitCode> {
    let only = wanted(&options.only)?;
    let kinds = match options.bundle.as_deref() {
        None => vec![Kind::Spec, Kind::Podman],
        Some("spec") => vec![Kind::Spec],
        Some("podman") => vec![Kind::Podman],
        Some(other) => bail!("--bundle {other}: neither spec nor podman"),
    };
    let mut runtimes = runtime::collect(options.runz.as_deref(), &options.peer, &options.peer_env)?;
    runtimes.retain(|runtime| !options.without.contains(&runtime.name));
    if runtimes.is_empty() {
        bail!("no runtime to measure");
    }

    sys::private_mounts().context("enter a mount namespace (root is needed)")?;
    let hybrid = unify_cgroups()?;
    let prefix = format!("runz-bench-{}", std::process::id());
    let dir = Path::new("/run").join(&prefix);
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    sys::mount("bench", &dir, "tmpfs", 0, "mode=700").inspect_err(|_| {
        let _ = fs::remove_dir(&dir);
    })?;
    let profile = fs::read(profile::PATH).ok();
    let profile: Option<Value> = profile.and_then(|text| serde_json::from_slice(&text).ok());
    let home = Home {
        prefix,
        seccomp: profile.map(|p| profile::resolve(&p, &profile::PODMAN_CAPS)),
        pids: bundle::has_controller("pids"),
        dir,
    };
    for runtime in &mut runtimes {
        runtime.root = home.dir.join("state").join(&runtime.name);
    }

    sys::adopt_orphans();
    let ended = sys::guard(|| {
        // Orphans come to whoever waits for them: the child while it lives.
        sys::adopt_orphans();
        let measured = measure(&options, &home, &mut runtimes, &only, &kinds, hybrid);
        match measured {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("bench: {error:#}");
                1
            }
        }
    });
    clean(&home, &runtimes);
    match ended.context("watch over the measuring process")? {
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::FAILURE),
        None => bail!("stopped before the end"),
    }
}

fn measure(
    options: &Options,
    home: &Home,
    runtimes: &mut [Runtime],
    only: &[String],
    kinds: &[Kind],
    hybrid: bool,
) -> Result<()> {
    if options.first {
        sys::take_precedence().context("take precedence over other sessions")?;
    }
    home.fill()?;
    for runtime in runtimes.iter_mut() {
        fs::create_dir_all(&runtime.root).context("create a state directory")?;
        runtime.ask_version();
    }
    serve(home, runtimes, kinds)?;
    let runs = if options.quick {
        20
    } else {
        options.runs.max(1)
    };
    let effort = Effort {
        runs,
        growth_runs: runs.div_ceil(2),
        warmup: (runs / 10).clamp(2, 10),
        slices: (runs / 40).clamp(3, 10),
        slice: Duration::from_millis(if options.quick { 250 } else { 600 }),
    };
    let mut notes = Vec::new();
    if options.first {
        notes.push((
            "note",
            "the benchmark takes precedence over other sessions".to_string(),
        ));
    }
    if hybrid {
        notes.push((
            "note",
            "hybrid host: cgroup v2 alone is mounted for this run".to_string(),
        ));
    }
    if !home.pids {
        notes.push((
            "note",
            "podman's pids limit is left out: no pids controller".to_string(),
        ));
    }
    let mut served = Vec::new();
    let mark = Mark::now();
    let mut report = Report::begin(runtimes, &effort, notes);
    Bench {
        home,
        runtimes,
        only,
        kinds,
        effort: &effort,
        emit: &mut |row| report.add(row),
    }
    .measure()?;
    for runtime in runtimes.iter_mut() {
        if let Some(daemon) = runtime.daemon.take() {
            served.push((runtime.name.clone(), daemon.status()?));
            daemon.stop();
        }
    }
    let costs = match only.iter().any(|case| case == "costs") {
        true => costs::weigh(home, runtimes, kinds)?,
        false => Vec::new(),
    };
    report.end(mark.noise());
    for (name, status) in &served {
        println!("{name:12} {}", told(status));
    }
    if !costs.is_empty() {
        print!("\n{}", costs::table(&costs));
    }
    let targets = targets::all(&report);
    if !served.is_empty() {
        print!("\n{}", targets::table(&targets));
    }
    let zygote = json!({
        "targets": targets.iter().map(|t| json!({ "what": t.what, "least": t.least, "goal": t.goal,
            "value": t.value, "met": t.met() })).collect::<Vec<_>>(),
        "costs": costs,
        "daemons": served.iter().cloned().collect::<serde_json::Map<_, _>>(),
    });

    let seccomp = match &options.seccomp {
        Some(path) if only.iter().any(|case| case == "seccomp") => Some(seccomp_benchmark(path)?),
        _ => None,
    };
    if let Some(seccomp) = &seccomp {
        println!("\nseccomp\n{seccomp:#}");
    }
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", report.json(seccomp, zygote, options.samples));
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &options.svg {
        fs::write(path, chart::draw(&report))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Kits of a bundle that are kept ready where one container is made at a time; and whole containers.
const KITS: usize = 8;

/// Kits of a bundle at most: what the daemon's own default is.
const POOL: usize = 64;

/// Starts the daemons of those who need one, with what the bundles need.
fn serve(home: &Home, runtimes: &mut [Runtime], kinds: &[Kind]) -> Result<()> {
    for runtime in runtimes.iter_mut().filter(|r| r.way != Way::Cold) {
        let daemon = Daemon::start(home, &runtime.prefix[0], &runtime.root, (KITS, POOL))?;
        if runtime.way == Way::From {
            for kind in kinds.iter().copied() {
                let bundle = home.bundle(kind, &home.pool(kind), &POOLED)?;
                daemon.provision(&home.pool(kind), &bundle, KITS, "created")?;
            }
            daemon.settle().map_err(anyhow::Error::msg)?;
        }
        runtime.daemon = Some(daemon);
    }
    Ok(())
}

/// What a daemon's status says in a line.
fn told(status: &Value) -> String {
    let sum = |key: &str| -> f64 {
        let lists = ["pools", "warm"]
            .iter()
            .filter_map(|l| status[l].as_array());
        let each = lists.flatten().filter_map(|p| p[key].as_f64());
        each.fold(0.0, |sum, n| sum + n)
    };
    format!(
        "daemon: {} handed over, {} made, {} requests found none ready, {:.1} MiB resident",
        sum("hits"),
        sum("made"),
        sum("missesNew") + sum("missesEmpty") + sum("missesBroken") + sum("misses"),
        status["resident"].as_f64().unwrap_or(f64::NAN) / 1_048_576.0
    )
}

fn wanted(only: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = only.iter().find(|case| !CASES.contains(&case.as_str())) {
        bail!("--only {unknown}: not one of {}", CASES.join(", "));
    }
    let verbs = ["create", "start", "delete", "run", "exec"];
    let mut wanted = only.to_vec();
    // growth alone means growth of every verb.
    if wanted.iter().all(|case| !verbs.contains(&case.as_str()))
        && wanted.iter().any(|c| c == "growth")
    {
        wanted.extend(verbs.map(String::from));
    }
    if wanted.is_empty() {
        wanted = CASES.map(String::from).to_vec();
    }
    Ok(wanted)
}

/// Makes /sys/fs/cgroup a cgroup v2 hierarchy, in this mount namespace; whether it was not one.
fn unify_cgroups() -> Result<bool> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return Ok(false);
    }
    sys::detach(root).context("detach the v1 cgroups")?;
    sys::mount("cgroup2", root, "cgroup2", 0, "").context("mount cgroup2")?;
    Ok(true)
}

/// Runs the seccomp compiler's benchmark; the JSON document that it prints, after whatever else.
fn seccomp_benchmark(path: &Path) -> Result<Value> {
    eprintln!("seccomp");
    let output = std::process::Command::new(path)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let output = output.with_context(|| format!("run {}", path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let start = text.find(['{', '[']).unwrap_or(0);
    serde_json::from_str(&text[start..])
        .with_context(|| format!("parse the output of {} ({})", path.display(), output.status))
}

/// Takes away what the measuring process may have left: processes, containers, cgroups, mounts, files.
fn clean(home: &Home, runtimes: &[Runtime]) {
    end_descendants();
    let groups = our_groups(Path::new("/sys/fs/cgroup"), &home.prefix, 4);
    for group in &groups {
        let _ = fs::write(group.join("cgroup.kill"), "1");
    }
    for runtime in runtimes {
        let ids = fs::read_dir(&runtime.root).into_iter().flatten().flatten();
        for id in ids.map(|entry| entry.file_name()) {
            sys::reap();
            let id = id.to_string_lossy();
            let delete = runtime.command(&["delete", "--force", &id]);
            if let (true, Ok(delete)) = (id.starts_with(&home.prefix), delete) {
                let _ = sys::Stdio::new().and_then(|io| io.run(&delete, sys::How::Spawn));
            }
        }
    }
    // Deepest first; a group stays busy for a moment after its last process was killed.
    for group in groups.iter().rev() {
        for _ in 0..100 {
            sys::reap();
            match fs::remove_dir(group) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    thread::sleep(Duration::from_millis(10));
                }
                _ => break,
            }
        }
    }
    let _ = sys::detach(&home.dir);
    if let Err(error) = fs::remove_dir(&home.dir) {
        eprintln!("bench: remove {}: {error}", home.dir.display());
    }
}

/// Kills every process that descends from this one: the orphans of a killed one come to us, so
/// that sooner or later all are our children. At most ten seconds.
fn end_descendants() {
    for _ in 0..1_000 {
        let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        if children.is_empty() {
            return;
        }
        let pids = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        pids.for_each(sys::end_child);
        thread::sleep(Duration::from_millis(10));
    }
}

/// The cgroups whose path has a part that begins with our prefix, parents before children.
fn our_groups(dir: &Path, prefix: &str, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if depth == 0 || !path.is_dir() {
            continue;
        }
        let ours = path
            .components()
            .any(|part| part.as_os_str().to_string_lossy().contains(prefix));
        if ours {
            found.push(path.clone());
        }
        found.extend(our_groups(&path, prefix, depth - 1));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_help_names_every_flag_and_case() {
        let help = include_str!("help.txt");
        for flag in Options::command()
            .get_arguments()
            .filter(|a| !a.is_hide_set())
        {
            let long = format!("--{} ", flag.get_long().unwrap_or_default());
            assert!(help.contains(&long), "{long}");
        }
        let words = help.replace([',', ';'], " ");
        for case in CASES {
            assert!(words.split_whitespace().any(|w| w == case), "{case}");
        }
    }
}
