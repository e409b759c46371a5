//! What was measured, as a table and as JSON.

use std::fs;

use serde_json::{Value, json};

use crate::cases::{Cell, Effort, Row, Scene, Unit};
use crate::noise::Noise;
use crate::runtime::Runtime;
use crate::stats::{Ratio, Summary};
use crate::sys;

/// The runtime that ratios are taken to.
pub const BASELINE: &str = "crun";
/// The oldest version of it that the targets speak of.
const BASELINE_SINCE: (u32, u32) = (1, 27);

/// The ratios to the baseline that runz is to reach on the plain host.
const TARGETS: [(&str, f64); 7] = [
    ("create", 0.55),
    ("start", 0.60),
    ("delete", 0.60),
    ("run", 0.60),
    ("exec", 0.55),
    ("lifecycle ×", 1.8),
    ("run ×", 1.8),
];

/// A report in the making.
pub struct Report {
    /// Who is measured, with versions.
    runtimes: Vec<(String, String)>,
    /// What the machine is, as names and values.
    pub machine: Vec<(&'static str, String)>,
    settings: Value,
    /// The rows so far.
    pub rows: Vec<Row>,
    section: Option<String>,
}

/// All that a table line or a JSON entry says of one cell.
pub struct View<'a> {
    /// The runtime's place among all.
    pub index: usize,
    /// The runtime.
    pub name: &'a str,
    /// Its samples.
    pub cell: &'a Cell,
    /// Their summary; none if there are no samples.
    pub summary: Option<Summary>,
    /// The ratio of its median to the baseline's; none for the baseline itself.
    ratio: Option<Ratio>,
    /// The ratio to reach, and whether it is reached.
    target: Option<(f64, bool)>,
    /// The ratio of its median to its own on the plain host.
    growth: Option<Ratio>,
}

impl Report {
    /// Looks at the machine and prints the head.
    pub fn begin(
        runtimes: &[Runtime],
        effort: &Effort,
        notes: Vec<(&'static str, String)>,
    ) -> Report {
        let mut machine = machine();
        machine.extend(notes);
        for (name, value) in &machine {
            println!("{name:12} {value}");
        }
        for runtime in runtimes {
            let env = match runtime.env.is_empty() {
                true => String::new(),
                false => format!(" with {}", runtime.env.join(" ")),
            };
            println!(
                "{:12} {} ({}{env})",
                runtime.name,
                runtime.version,
                runtime.prefix.join(" ")
            );
        }
        if let Some(line) = baseline_note(runtimes) {
            println!("{line}");
        }
        println!(
            "{:12} {} rounds ({} in growth) after {} of warm-up; throughput in {} slices of {} ms",
            "effort",
            effort.runs,
            effort.growth_runs,
            effort.warmup,
            effort.slices,
            effort.slice.as_millis()
        );
        Report {
            runtimes: runtimes
                .iter()
                .map(|r| (r.name.clone(), r.version.clone()))
                .collect(),
            machine,
            settings: json!({
                "runs": effort.runs,
                "growth_runs": effort.growth_runs,
                "warmup": effort.warmup,
                "slices": effort.slices,
                "slice_ms": effort.slice.as_millis() as u64,
            }),
            rows: Vec::new(),
            section: None,
        }
    }

    /// Tells how much else the machine did.
    pub fn end(&mut self, noise: Noise) {
        let others = format!(
            "{:.2} CPUs busy with others' and the kernel's own work, {:.2} stolen by the hypervisor",
            noise.others, noise.stolen
        );
        println!("\n{:12} {others}", "noise");
        self.machine.push(("noise", others));
    }

    /// Prints a row and keeps it.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
        if let Some(row) = self.rows.last() {
            let section = format!("{}, {} bundle", row.scene.name(), row.bundle.name());
            if self.section.as_ref() != Some(&section) {
                println!("\n{section}");
                let last = match row.scene {
                    Scene::Plain => "",
                    _ => "to plain host",
                };
                let head = format!(
                    "{:20} {:12} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9}  {:18} {:14} {last}",
                    "",
                    "",
                    "n",
                    "min",
                    "mean",
                    "p50",
                    "p90",
                    "p99",
                    format!("p50 to {BASELINE}"),
                    "target",
                );
                println!("{}", head.trim_end());
                self.section = Some(section);
            }
            for (i, view) in self.views(row).iter().enumerate() {
                let label = format!("{}, {}", row.case, row.unit.name());
                println!(
                    "{:20} {}",
                    if i == 0 { &label } else { "" },
                    line(view, row.unit).trim_end()
                );
            }
        }
    }

    /// A row's cells, but for those that weren't to be measured, with all that follows from them.
    pub fn views<'a>(&'a self, row: &'a Row) -> Vec<View<'a>> {
        let baseline = self.index(BASELINE);
        let view = |(i, cell): (usize, &'a Cell)| {
            let name = self.runtimes[i].0.as_str();
            let summary = Summary::of(&cell.samples);
            let ratio = baseline
                .filter(|b| *b != i)
                .and_then(|b| Ratio::of(&cell.samples, &row.cells[b].samples));
            let target = ratio.and_then(|ratio| target(name, row, ratio.value));
            let control = row.control.get(i);
            let growth = control.and_then(|c| Ratio::of(&cell.samples, &c.samples));
            View {
                index: i,
                name,
                cell,
                summary,
                ratio,
                target,
                growth,
            }
        };
        let cells = row.cells.iter().enumerate();
        cells
            .filter(|(_, cell)| !cell.is_absent())
            .map(view)
            .collect()
    }

    /// The runtimes' names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.runtimes.iter().map(|(name, _)| name.as_str())
    }

    /// A runtime's place among all.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.names().position(|other| other == name)
    }

    /// Everything as one JSON document; `seccomp` is another benchmark's, `zygote` what was
    /// learned of daemons, samples only if wanted.
    pub fn json(&self, seccomp: Option<Value>, zygote: Value, samples: bool) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| self.json_row(row, samples))
            .collect();
        let runtimes: Vec<Value> = self
            .runtimes
            .iter()
            .map(|(name, version)| json!({ "name": name, "version": version }))
            .collect();
        let mut machine = serde_json::Map::new();
        let (notes, facts): (Vec<_>, Vec<_>) = self.machine.iter().partition(|(k, _)| *k == "note");
        for (name, value) in facts {
            machine.insert(name.to_string(), json!(value));
        }
        let notes: Vec<&String> = notes.into_iter().map(|(_, note)| note).collect();
        machine.insert("notes".into(), json!(notes));
        json!({
            "machine": machine,
            "settings": self.settings,
            "baseline": BASELINE,
            "runtimes": runtimes,
            "rows": rows,
            "seccomp": seccomp,
            "zygote": zygote,
        })
    }

    fn json_row(&self, row: &Row, samples: bool) -> Value {
        let cell = |view: &View| {
            let mut value = json!({
                "runtime": view.name,
                "summary": view.summary,
                "ratio": view.ratio,
                "failures": view.cell.failures,
                "failed": view.cell.failed,
            });
            if let Some(cpu) = Summary::of(&view.cell.cpu) {
                value["cpu"] = json!({ "mean": cpu.mean, "p50": cpu.p50 });
            }
            if let Some((ratio, met)) = view.target {
                value["target"] = json!({ "ratio": ratio, "met": met });
            }
            if let Some(growth) = view.growth {
                value["growth"] = json!(growth);
            }
            if samples {
                value["samples"] = json!(view.cell.samples);
            }
            value
        };
        json!({
            "host": row.scene.name(),
            "bundle": row.bundle.name(),
            "case": row.case,
            "unit": row.unit.name(),
            "cells": self.views(row).iter().map(cell).collect::<Vec<_>>(),
        })
    }

    /// The head of the report in one line, for the chart.
    pub fn headline(&self) -> Vec<String> {
        let fact = |key: &str| {
            let found = self.machine.iter().find(|(name, _)| *name == key);
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let named = |(name, version): &(String, String)| match version.contains(name.as_str()) {
            true => version.clone(),
            false => format!("{name}: {version}"),
        };
        let names: Vec<String> = self.runtimes.iter().map(named).collect();
        vec![
            names.join(" · "),
            format!(
                "{} · {} · {} · {}",
                fact("machine"),
                fact("kernel"),
                fact("cgroup"),
                fact("date")
            ),
        ]
    }
}

fn target(name: &str, row: &Row, ratio: f64) -> Option<(f64, bool)> {
    if name != "runz" || row.scene != Scene::Plain {
        return None;
    }
    let (_, goal) = TARGETS
        .iter()
        .find(|(case, _)| match case.strip_suffix('×') {
            Some(_) => row.case.starts_with(case),
            None => row.case == *case,
        })?;
    match row.unit {
        Unit::Millis => Some((*goal, ratio <= *goal)),
        Unit::PerSecond => Some((*goal, ratio >= *goal)),
        Unit::Mebi => None,
    }
}

fn line(view: &View, unit: Unit) -> String {
    let Some(s) = view.summary else {
        let reason = view.cell.failed.as_deref().unwrap_or("no samples");
        return format!("{:12} failed: {reason}", view.name);
    };
    let digits = if unit == Unit::PerSecond { 1 } else { 3 };
    let n = |value: f64| format!("{value:9.digits$}");
    let ratio = view.ratio.map_or(String::new(), shown);
    let target = view.target.map_or(String::new(), |(goal, met)| {
        let sign = if unit == Unit::PerSecond {
            "≥"
        } else {
            "≤"
        };
        format!("{sign} {goal:.2} {}", if met { "met" } else { "not met" })
    });
    let growth = view.growth.map_or(String::new(), shown);
    let mut line = format!(
        "{:12} {:>5} {} {} {} {} {}  {ratio:18} {target:14} {growth}",
        view.name,
        s.n,
        n(s.min),
        n(s.mean),
        n(s.p50),
        n(s.p90),
        n(s.p99)
    );
    if let Some(reason) = &view.cell.failed {
        line += &format!("  {} failed: {reason}", view.cell.failures);
    }
    line
}

fn shown(ratio: Ratio) -> String {
    format!("{:.2} ({:.2}..{:.2})", ratio.value, ratio.low, ratio.high)
}

fn machine() -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| -> String {
        let line = text.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or("unknown".into(), |(_, value)| value.trim().to_string())
    };
    let cpuinfo = read("/proc/cpuinfo");
    let cores = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let memory = after(&read("/proc/meminfo"), "MemTotal");
    let gib = memory.trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0 / 1024.0;
    let (release, arch) = sys::uname();
    let controllers = read("/sys/fs/cgroup/cgroup.controllers");
    let controllers = controllers.split_whitespace().collect::<Vec<_>>().join(" ");
    let load = read("/proc/loadavg");
    vec![
        ("date", date()),
        (
            "machine",
            format!(
                "{}, {cores} cores, {gib:.0} GiB",
                after(&cpuinfo, "model name")
            ),
        ),
        ("kernel", format!("Linux {release} {arch}")),
        (
            "cgroup",
            format!(
                "cgroup v2 ({})",
                if controllers.is_empty() {
                    "no controllers"
                } else {
                    &controllers
                }
            ),
        ),
        (
            "load",
            load.split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
        ),
        (
            "mounts",
            read("/proc/self/mountinfo").lines().count().to_string(),
        ),
    ]
}

/// Today in UTC, as `YYYY-MM-DD` (Hinnant's days-to-civil).
fn date() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    civil(now.map_or(0, |since| since.as_secs() / 86_400))
}

fn civil(days: u64) -> String {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// A warning where ratios are to something else than the targets mean.
fn baseline_note(runtimes: &[Runtime]) -> Option<String> {
    let Some(baseline) = runtimes.iter().find(|runtime| runtime.name == BASELINE) else {
        return Some(format!("note         no {BASELINE}: no ratios, no targets"));
    };
    let numbers = baseline.version.rsplit(' ').next().unwrap_or_default();
    let mut parts = numbers.split('.').map(|part| part.parse::<u32>());
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= BASELINE_SINCE => None,
        _ => Some(format!(
            "note         the targets are ratios to {BASELINE} {}.{} or newer; this is \"{}\"",
            BASELINE_SINCE.0, BASELINE_SINCE.1, baseline.version
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Kind;

    fn row(case: &str, unit: Unit, scene: Scene) -> Row {
        Row {
            scene,
            bundle: Kind::Spec,
            case: case.to_string(),
            unit,
            cells: Vec::new(),
            control: Vec::new(),
        }
    }

    #[test]
    fn targets_hold_for_runz_on_the_plain_host() {
        let run = row("run", Unit::Millis, Scene::Plain);
        assert_eq!(target("runz", &run, 0.60), Some((0.60, true)));
        assert_eq!(target("runz", &run, 0.61), Some((0.60, false)));
        assert_eq!(target("runc", &run, 0.5), None);
        assert_eq!(
            target("runz", &row("run", Unit::Millis, Scene::Live), 0.5),
            None
        );
        let loops = row("run × 8", Unit::PerSecond, Scene::Plain);
        assert_eq!(target("runz", &loops, 1.9), Some((1.8, true)));
        assert_eq!(target("runz", &loops, 1.7), Some((1.8, false)));
        assert_eq!(
            target(
                "runz",
                &row("create peak RSS", Unit::Mebi, Scene::Plain),
                0.1
            ),
            None
        );
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), "1970-01-01");
        assert_eq!(civil(11_016), "2000-02-29");
        assert_eq!(civil(20_819), "2027-01-01");
    }

    #[test]
    fn an_older_baseline_is_told() {
        let mut crun = crate::runtime::collect(None, &["crun=/x".into()], &[]).unwrap();
        crun.retain(|runtime| runtime.name == "crun");
        crun[0].version = "crun version 1.8.1".into();
        assert!(baseline_note(&crun).unwrap().contains("1.8.1"));
        crun[0].version = "crun version 1.27".into();
        assert_eq!(baseline_note(&crun), None);
        assert!(baseline_note(&[]).is_some());
    }
}
