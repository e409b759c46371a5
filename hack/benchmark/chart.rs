//! The chart: medians as bars, one group per case, one colour per runtime.
//!
//! Plain SVG with no background and mid-grey text, so that it reads on white
//! and on black pages alike.

use std::fmt::Write;

use crate::bundle::Kind;
use crate::cases::{Row, Scene, Unit};
use crate::report::{BASELINE, Report};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 20.0;
const GAP: f64 = 40.0;
const LABEL: f64 = 84.0;
const BAR: f64 = 11.0;
const GROUP_GAP: f64 = 10.0;
/// Room right of the longest bar for its number.
const NUMBER: f64 = 72.0;
/// For runz and its ways.
const WARM: [&str; 4] = ["#e8590c", "#d6336c", "#c9a227", "#8f5bd1"];
/// For the peers.
const COOL: [&str; 6] = [
    "#4c8dd6", "#7a8ca3", "#2f9e8f", "#a98fc4", "#6a9a3b", "#9a7b5c",
];

/// Draws the report's rows on the plain host.
pub fn draw(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 30.0;
    text(
        &mut body,
        MARGIN,
        y,
        "t",
        "Container start-up, side by side",
    );
    y += 22.0;
    y = legend(&mut body, report, y) + 14.0;
    for (unit, title) in [
        (
            Unit::Millis,
            "milliseconds, median and p90 (less is better)",
        ),
        (
            Unit::PerSecond,
            "containers/s, parallel loops (more is better)",
        ),
    ] {
        let columns: Vec<(Kind, Vec<&Row>)> = [Kind::Spec, Kind::Podman]
            .map(|kind| (kind, rows(report, kind, unit)))
            .into_iter()
            .filter(|(_, rows)| !rows.is_empty())
            .collect();
        let scale = columns
            .iter()
            .flat_map(|(_, rows)| rows)
            .map(|row| reach(report, row));
        let scale = scale.fold(0.0, f64::max);
        if scale <= 0.0 {
            continue;
        }
        let width = (WIDTH - 2.0 * MARGIN - GAP) / 2.0;
        let mut bottom = y;
        for (i, (kind, rows)) in columns.iter().enumerate() {
            let x = MARGIN + i as f64 * (width + GAP);
            let name = format!("{} bundle: {title}", kind.name());
            text(&mut body, x, y + 14.0, "h", &name);
            bottom = bottom.max(panel(&mut body, report, rows, x, y + 26.0, width, scale));
        }
        y = bottom + 14.0;
    }
    for line in report.headline() {
        text(&mut body, MARGIN, y + 8.0, "f", &line);
        y += 15.0;
    }
    let height = y + 8.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\">\n\
         <style>text{{font:11px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#7d8590}}\
         .t{{font-size:17px;font-weight:600}}.h{{font-size:12px;font-weight:600}}\
         .r{{text-anchor:end}}.f{{font-size:10px}}</style>\n{body}</svg>\n"
    )
}

fn rows(report: &Report, kind: Kind, unit: Unit) -> Vec<&Row> {
    let all = report.rows.iter();
    all.filter(|row| row.scene == Scene::Plain && row.bundle == kind && row.unit == unit)
        .collect()
}

/// The largest value that a row shows.
fn reach(report: &Report, row: &Row) -> f64 {
    let summaries = report
        .views(row)
        .into_iter()
        .filter_map(|view| view.summary);
    summaries.map(|s| s.p90.max(s.p50)).fold(0.0, f64::max)
}

fn legend(out: &mut String, report: &Report, y: f64) -> f64 {
    let mut x = MARGIN;
    for (name, colour) in report.names().zip(colours(report)) {
        rect(out, x, y - 9.0, 10.0, 10.0, colour);
        text(out, x + 15.0, y, "h", name);
        x += 35.0 + 7.5 * name.len() as f64;
    }
    if report.index(BASELINE).is_some() {
        text(
            out,
            x,
            y,
            "x",
            &format!("×: ratio of medians to {BASELINE}"),
        );
    }
    y
}

/// A colour for each runtime, by what it is and in its order.
fn colours(report: &Report) -> Vec<&'static str> {
    let (mut warm, mut cool) = (WARM.iter().cycle(), COOL.iter().cycle());
    let colour = |name: &str| match name.starts_with("runz") {
        true => warm.next(),
        false => cool.next(),
    };
    report
        .names()
        .map(colour)
        .map(|c| c.map_or("#808080", |c| *c))
        .collect()
}

fn panel(
    out: &mut String,
    report: &Report,
    rows: &[&Row],
    x: f64,
    top: f64,
    width: f64,
    scale: f64,
) -> f64 {
    let left = x + LABEL;
    let per_unit = (width - LABEL - NUMBER) / scale;
    let colours = colours(report);
    let mut y = top;
    for row in rows {
        let views = report.views(row);
        let baseline = views.iter().find(|view| view.name == BASELINE);
        let baseline = baseline.and_then(|view| view.summary).map(|s| s.p50);
        let middle = y + BAR * views.len() as f64 / 2.0 + 4.0;
        text(out, left - 8.0, middle, "r", &row.case);
        for view in &views {
            let colour = colours.get(view.index).copied().unwrap_or("#808080");
            let Some(s) = view.summary else {
                text(out, left + 2.0, y + BAR - 2.0, "f", "failed");
                y += BAR;
                continue;
            };
            let length = (s.p50 * per_unit).max(1.0);
            rect(out, left, y + 1.0, length, BAR - 2.0, colour);
            let mut end = length;
            if row.unit == Unit::Millis {
                end = end.max(s.p90 * per_unit);
                let (from, to, at) = (left + length, left + end, y + BAR / 2.0);
                let _ = writeln!(
                    out,
                    "<path d=\"M{from:.1} {at:.1}H{to:.1}M{to:.1} {:.1}V{:.1}\" stroke=\"{colour}\" fill=\"none\"/>",
                    at - 3.0,
                    at + 3.0
                );
            }
            let number = match row.unit {
                Unit::PerSecond => format!("{:.0}", s.p50),
                _ => format!("{:.1}", s.p50),
            };
            let label = match baseline.filter(|_| view.name != BASELINE) {
                Some(base) => format!("{number}\u{2002}×{:.2}", s.p50 / base),
                None => number,
            };
            text(out, left + end + 5.0, y + BAR - 2.0, "f", &label);
            y += BAR;
        }
        y += GROUP_GAP;
    }
    y
}

fn rect(out: &mut String, x: f64, y: f64, width: f64, height: f64, fill: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"1.5\" fill=\"{fill}\"/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, class: &str, text: &str) {
    let safe = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{safe}</text>"
    );
}
