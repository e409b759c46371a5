//! The targets of the zygote, and which of them this run reaches.

use serde::Serialize;

use crate::bundle::Kind;
use crate::cases::{Cell, Scene};
use crate::report::{BASELINE, Report};
use crate::stats::{Ratio, Summary};

/// One target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Target {
    /// What is meant.
    pub what: String,
    /// It's to be at least this, not at most.
    pub least: bool,
    /// The number to be reached.
    pub goal: f64,
    /// What was measured; none: it wasn't.
    pub value: Option<f64>,
}

impl Target {
    /// Whether it's reached; none: it wasn't measured.
    pub fn met(&self) -> Option<bool> {
        self.value.map(|value| match self.least {
            true => value >= self.goal,
            false => value <= self.goal,
        })
    }
}

/// The runtime that a cold create must not be slower than: an older build, given by --peer.
pub const BEFORE: &str = "runz-before";

/// All targets.
pub fn all(report: &Report) -> Vec<Target> {
    let mut list = Vec::new();
    let mut at_most = |what: String, goal: f64, value: Option<f64>| {
        list.push(Target {
            what,
            least: false,
            goal,
            value,
        });
    };
    for kind in [Kind::Spec, Kind::Podman] {
        let plain = |case, ours, theirs| ratio(report, Scene::Plain, kind, case, ours, theirs);
        let name = kind.name();
        at_most(
            format!("run with a kit, {name}: to {BASELINE}"),
            0.33,
            plain("run", "runz-kit", BASELINE),
        );
        at_most(
            format!("create with a kit, {name}: to {BASELINE}"),
            0.28,
            plain("create", "runz-kit", BASELINE),
        );
        at_most(
            format!("run --from (created), {name}: to {BASELINE}"),
            0.25,
            plain("run", "runz-from", BASELINE),
        );
        at_most(
            format!("100 creates at once, {name}: p99 to p50"),
            3.0,
            cell(report, Scene::Plain, kind, "create, burst", "runz-kit")
                .and_then(|c| Summary::of(&c.samples))
                .map(|s| s.p99 / s.p50),
        );
        for scene in [Scene::Mounts, Scene::Live] {
            for case in ["run", "create"] {
                at_most(
                    format!("{case} with a kit, {name}: {} to none", scene.name()),
                    1.1,
                    growth(report, scene, kind, case, "runz-kit"),
                );
            }
        }
        at_most(
            format!("create without a daemon, {name}: to {BEFORE}"),
            1.02,
            plain("create", "runz", BEFORE),
        );
    }
    at_most(
        "numpy, ready: first output to a cold start's".into(),
        0.03,
        ratio(
            report,
            Scene::Plain,
            Kind::Python,
            "first output",
            "runz-from",
            "runz",
        ),
    );
    for kind in [Kind::Spec, Kind::Podman] {
        list.push(Target {
            what: format!(
                "100 creates at once, {}: a second, to {BASELINE}",
                kind.name()
            ),
            least: true,
            goal: 4.0,
            value: ratio(report, Scene::Plain, kind, "burst", "runz-kit", BASELINE),
        });
    }
    list
}

/// For people.
pub fn table(targets: &[Target]) -> String {
    let mut text = format!(
        "{:56} {:>8} {:>8}\n",
        "targets of the zygote", "goal", "here"
    );
    for target in targets {
        let sign = if target.least { "≥" } else { "≤" };
        let value = target.value.map_or("-".into(), |v| format!("{v:.3}"));
        let word = match target.met() {
            Some(true) => "ok",
            Some(false) => "missed",
            None => "not measured",
        };
        text += &format!(
            "{:56} {:>8} {value:>8}  {word}\n",
            target.what,
            format!("{sign} {:.2}", target.goal)
        );
    }
    text
}

fn cell<'a>(
    report: &'a Report,
    scene: Scene,
    kind: Kind,
    case: &str,
    name: &str,
) -> Option<&'a Cell> {
    let row = report
        .rows
        .iter()
        .find(|r| r.scene == scene && r.bundle == kind && r.case == case)?;
    row.cells.get(report.index(name)?)
}

fn ratio(
    report: &Report,
    scene: Scene,
    kind: Kind,
    case: &str,
    ours: &str,
    theirs: &str,
) -> Option<f64> {
    let ours = cell(report, scene, kind, case, ours)?;
    let theirs = cell(report, scene, kind, case, theirs)?;
    Some(Ratio::of(&ours.samples, &theirs.samples)?.value)
}

fn growth(report: &Report, scene: Scene, kind: Kind, case: &str, name: &str) -> Option<f64> {
    let row = report
        .rows
        .iter()
        .find(|r| r.scene == scene && r.bundle == kind && r.case == case)?;
    let i = report.index(name)?;
    let (cell, control) = (row.cells.get(i)?, row.control.get(i)?);
    Some(Ratio::of(&cell.samples, &control.samples)?.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_on_its_side() {
        let target = |least, value| Target {
            what: String::new(),
            least,
            goal: 4.0,
            value,
        };
        assert_eq!(target(true, Some(4.0)).met(), Some(true));
        assert_eq!(target(true, Some(3.9)).met(), Some(false));
        assert_eq!(target(false, Some(4.1)).met(), Some(false));
        assert_eq!(target(false, None).met(), None);
    }
}
