//! What the daemon has and did: for people, for programs, for Prometheus.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// What `runz zygote status` shows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The daemon's pid.
    pub pid: i32,
    /// Since when it serves, in seconds.
    pub uptime: u64,
    /// Its resident memory in bytes.
    pub resident: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// What the kits take in all, as far as is known: bytes of kernel memory, estimated by
    /// [`super::config::KIT_MEMORY`].
    pub kit_memory: u64,
    /// What the warm containers take in all, as far as is known, in bytes (see [`super::memory`]).
    pub warm_memory: u64,
    /// What both may take, in bytes.
    pub memory_cap: u64,
    /// Kits made a second, over the last minute.
    pub refill_rate: f64,
    /// Requests that weren't understood, or not allowed.
    pub refused: u64,
    /// One for each shape.
    pub pools: Vec<Pool>,
    /// Pools of warm containers.
    pub warm: Vec<Warm>,
}

/// One pool of warm containers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warm {
    /// Its name.
    pub name: String,
    /// What its containers are made of.
    pub bundle: String,
    /// How far they are made: `created`, `ready` or `frozen`.
    pub until: String,
    /// How many there are.
    pub ready: u64,
    /// How many there shall be.
    pub target: u64,
    /// How many were handed over.
    pub hits: u64,
    /// Requests that found none.
    pub misses: u64,
    /// How many were made.
    pub made: u64,
    /// How many couldn't be made, or died.
    pub failed: u64,
    /// How many were thrown away because their bundle had changed.
    pub replaced: u64,
    /// How many were thrown away because all took too much memory.
    pub dropped: u64,
    /// What they take in all, as far as is known, in bytes.
    pub memory: u64,
    /// What it took to make the last one, in microseconds.
    pub cost: u64,
    /// The age of the oldest, in seconds.
    pub oldest: u64,
    /// Why the last one couldn't be made; empty otherwise.
    pub error: String,
}

/// The kits of one shape.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// What is in a kit.
    pub shape: String,
    /// How many there are.
    pub ready: u64,
    /// How many there shall be.
    pub target: u64,
    /// How many were handed over.
    pub hits: u64,
    /// Requests before the first kit was made.
    pub misses_new: u64,
    /// Requests that found none left.
    pub misses_empty: u64,
    /// Requests while none could be made.
    pub misses_broken: u64,
    /// How many were made.
    pub made: u64,
    /// How many were thrown away: too old, or too many.
    pub dropped: u64,
    /// What it takes to make one, the mean of the last ones, in microseconds.
    pub cost: f64,
    /// The age of the oldest, in seconds.
    pub oldest: u64,
    /// Why none can be made; empty otherwise.
    pub error: String,
}

impl Status {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mib = |bytes: u64| bytes as f64 / 1048576.0;
        let _ = writeln!(
            text,
            "daemon {}: up {}, {:.1} MiB of memory, {} open descriptors, {} requests refused",
            self.pid,
            time(self.uptime),
            mib(self.resident),
            self.descriptors,
            self.refused
        );
        if self.pools.is_empty() && self.warm.is_empty() {
            text += "nothing is kept: no container was made, and no pool is provisioned\n";
        }
        self.kit_table(&mut text);
        self.warm_table(&mut text);
        text
    }

    fn kit_table(&self, text: &mut String) {
        if self.pools.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "\nkits: about {:.1} MiB of the kernel's memory, {:.1} made a second in the last minute",
            self.kit_memory as f64 / 1048576.0,
            self.refill_rate
        );
        let _ = writeln!(
            text,
            "{:>5} {:>6} {:>7} {:>7} {:>6} {:>6} {:>6} {:>7} {:>7} {:>8} {:>6}  FOR",
            "READY",
            "WANTED",
            "HITS",
            "MISSES:",
            "NEW",
            "EMPTY",
            "BROKEN",
            "MADE",
            "DROPPED",
            "TAKES",
            "OLDEST"
        );
        for pool in &self.pools {
            let _ = writeln!(
                text,
                "{:>5} {:>6} {:>7} {:>7} {:>6} {:>6} {:>6} {:>7} {:>7} {:>8} {:>6}  {}{}",
                pool.ready,
                pool.target,
                pool.hits,
                pool.misses_new + pool.misses_empty + pool.misses_broken,
                pool.misses_new,
                pool.misses_empty,
                pool.misses_broken,
                pool.made,
                pool.dropped,
                takes(pool.cost),
                oldest(pool.ready, pool.oldest),
                pool.shape,
                why(&pool.error)
            );
        }
    }

    fn warm_table(&self, text: &mut String) {
        if self.warm.is_empty() {
            return;
        }
        let mib = |bytes: u64| bytes as f64 / 1048576.0;
        let _ = writeln!(
            text,
            "\nwarm containers: about {:.1} MiB of memory; with kits they may take {:.0} MiB",
            mib(self.warm_memory),
            mib(self.memory_cap)
        );
        let _ = writeln!(
            text,
            "{:>5} {:>6} {:>7} {:>7} {:>7} {:>6} {:>8} {:>7} {:>9} {:>8} {:>6}  {:15} {:7} BUNDLE",
            "READY",
            "WANTED",
            "HITS",
            "MISSES",
            "MADE",
            "FAILED",
            "REPLACED",
            "DROPPED",
            "MEMORY",
            "TAKES",
            "OLDEST",
            "POOL",
            "UNTIL"
        );
        for pool in &self.warm {
            let _ = writeln!(
                text,
                "{:>5} {:>6} {:>7} {:>7} {:>7} {:>6} {:>8} {:>7} {:>9} {:>8} {:>6}  {:15} {:7} {}{}",
                pool.ready,
                pool.target,
                pool.hits,
                pool.misses,
                pool.made,
                pool.failed,
                pool.replaced,
                pool.dropped,
                format!("{:.1} MiB", mib(pool.memory)),
                takes(pool.cost as f64),
                oldest(pool.ready, pool.oldest),
                pool.name,
                pool.until,
                pool.bundle,
                why(&pool.error)
            );
        }
    }

    /// For Prometheus: its text format, version 0.0.4.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(String, f64)]| {
            let _ = writeln!(text, "# HELP runz_zygote_{name} {help}");
            let _ = writeln!(text, "# TYPE runz_zygote_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "runz_zygote_{name}{labels} {value}");
            }
        };
        for (name, kind, help, value) in [
            (
                "uptime_seconds",
                "gauge",
                "Time since the daemon began to serve.",
                self.uptime,
            ),
            (
                "resident_bytes",
                "gauge",
                "Resident memory of the daemon.",
                self.resident,
            ),
            (
                "open_descriptors",
                "gauge",
                "Open descriptors of the daemon.",
                self.descriptors,
            ),
            (
                "kit_memory_bytes",
                "gauge",
                "Kernel memory of the kits, estimated.",
                self.kit_memory,
            ),
            (
                "warm_memory_bytes",
                "gauge",
                "Memory of the warm containers, as far as is known.",
                self.warm_memory,
            ),
            (
                "memory_limit_bytes",
                "gauge",
                "Memory that kits and warm containers may take.",
                self.memory_cap,
            ),
            (
                "refused_total",
                "counter",
                "Requests that were not understood or not allowed.",
                self.refused,
            ),
        ] {
            metric(name, kind, help, &[(String::new(), value as f64)]);
        }
        for (name, kind, help, of) in KIT_METRICS {
            let pools = self.pools.iter();
            let values = pools.map(|p| (format!("{{kit=\"{}\"}}", label(&p.shape)), of(p)));
            metric(name, kind, help, &values.collect::<Vec<_>>());
        }
        let mut misses = Vec::new();
        for p in &self.pools {
            for (why, n) in [
                ("new", p.misses_new),
                ("empty", p.misses_empty),
                ("broken", p.misses_broken),
            ] {
                let labels = format!("{{kit=\"{}\",why=\"{why}\"}}", label(&p.shape));
                misses.push((labels, n as f64));
            }
        }
        let help = "Requests that went the cold way.";
        metric("misses_total", "counter", help, &misses);
        for (name, kind, help, of) in WARM_METRICS {
            let pools = self.warm.iter();
            let values = pools.map(|p| (format!("{{pool=\"{}\"}}", label(&p.name)), of(p)));
            metric(name, kind, help, &values.collect::<Vec<_>>());
        }
        text
    }
}

/// A metric of each of several: name, type, help, value.
type Metric<T> = (&'static str, &'static str, &'static str, fn(&T) -> f64);

const KIT_METRICS: [Metric<Pool>; 7] = [
    ("kits", "gauge", "Kits that are ready.", |p| p.ready as f64),
    ("kits_target", "gauge", "Kits that shall be ready.", |p| {
        p.target as f64
    }),
    (
        "kits_handed_over_total",
        "counter",
        "Requests that got a kit.",
        |p| p.hits as f64,
    ),
    ("kits_made_total", "counter", "Kits that were made.", |p| {
        p.made as f64
    }),
    (
        "kits_dropped_total",
        "counter",
        "Kits that were thrown away.",
        |p| p.dropped as f64,
    ),
    (
        "kit_cost_seconds",
        "gauge",
        "Time to make a kit, mean of the last ones.",
        |p| p.cost / 1e6,
    ),
    (
        "oldest_kit_seconds",
        "gauge",
        "Age of the oldest kit.",
        |p| p.oldest as f64,
    ),
];

const WARM_METRICS: [Metric<Warm>; 10] = [
    (
        "warm_containers",
        "gauge",
        "Warm containers that are ready.",
        |p| p.ready as f64,
    ),
    (
        "warm_containers_target",
        "gauge",
        "Warm containers that shall be ready.",
        |p| p.target as f64,
    ),
    (
        "warm_handed_over_total",
        "counter",
        "Requests that got a warm container.",
        |p| p.hits as f64,
    ),
    (
        "warm_misses_total",
        "counter",
        "Requests that found no warm container.",
        |p| p.misses as f64,
    ),
    (
        "warm_made_total",
        "counter",
        "Warm containers that were made.",
        |p| p.made as f64,
    ),
    (
        "warm_failed_total",
        "counter",
        "Warm containers that could not be made, or died.",
        |p| p.failed as f64,
    ),
    (
        "warm_replaced_total",
        "counter",
        "Warm containers whose bundle had changed.",
        |p| p.replaced as f64,
    ),
    (
        "warm_dropped_total",
        "counter",
        "Warm containers that took too much memory.",
        |p| p.dropped as f64,
    ),
    (
        "warm_pool_memory_bytes",
        "gauge",
        "Memory of a pool's warm containers, as far as is known.",
        |p| p.memory as f64,
    ),
    (
        "warm_cost_seconds",
        "gauge",
        "Time to make a warm container, the last one.",
        |p| p.cost as f64 / 1e6,
    ),
];

/// A label's value, escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Seconds for people.
fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Microseconds for people; nothing was made as long as there are none.
fn takes(micros: f64) -> String {
    match micros > 0.0 {
        true => format!("{:.1} ms", micros / 1000.0),
        false => "-".to_owned(),
    }
}

fn oldest(ready: u64, seconds: u64) -> String {
    match ready {
        0 => "-".to_owned(),
        _ => time(seconds),
    }
}

/// What stands behind a pool that makes nothing.
fn why(error: &str) -> String {
    match error.is_empty() {
        true => String::new(),
        false => format!(": {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            pid: 7,
            uptime: 7_300,
            resident: 3 << 20,
            descriptors: 42,
            kit_memory: 1 << 20,
            pools: vec![
                Pool {
                    shape: "net \"a\\b\"\nc".to_owned(),
                    ready: 4,
                    target: 8,
                    hits: 100,
                    misses_new: 1,
                    misses_empty: 2,
                    misses_broken: 3,
                    cost: 740.0,
                    oldest: 130,
                    ..Pool::default()
                },
                Pool {
                    shape: "ipc".to_owned(),
                    error: "make namespaces: too many".to_owned(),
                    ..Pool::default()
                },
            ],
            warm: vec![Warm {
                name: "web".to_owned(),
                bundle: "/srv/web".to_owned(),
                until: "ready".to_owned(),
                cost: 88_600,
                ..Warm::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn the_table_is_for_people() {
        let table = status().table();
        let lines: Vec<&str> = table.lines().collect();
        let words = |n: usize| lines[n].split_whitespace().collect::<Vec<_>>();
        assert!(lines[0].starts_with("daemon 7: up 2 h, 3.0 MiB of memory, 42 "));
        assert_eq!(
            words(4)[..13],
            [
                "4", "8", "100", "6", "1", "2", "3", "0", "0", "0.7", "ms", "2", "min"
            ]
        );
        assert!(table.contains("  ipc: make namespaces: too many\n"));
        let last = lines[lines.len() - 1];
        assert!(
            last.contains("88.6 ms      -  web             ready   /srv/web"),
            "{last}"
        );
        assert!(Status::default().table().contains("nothing is kept"));
    }

    /// The rules of the text format (prometheus.io, "Exposition formats").
    #[test]
    fn the_metrics_are_prometheus_text() {
        let text = status().metrics();
        let (mut known, mut family) = (Vec::new(), String::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split(' ').next().unwrap().to_owned();
                assert!(!known.contains(&family), "{family} twice");
                assert!(
                    family
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || c == '_')
                );
                known.push(family.clone());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let counts = kind == format!("{family} counter");
                assert!(counts || kind == format!("{family} gauge"), "{kind}");
                assert_eq!(counts, family.ends_with("_total"), "{family}");
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                let (name, labels) = name.split_at(name.find('{').unwrap_or(name.len()));
                assert_eq!(name, family);
                assert!(labels.is_empty() || labels.ends_with("\"}"), "{line}");
            }
        }
        assert!(
            text.contains("kits{kit=\"net \\\"a\\\\b\\\"\\nc\"} 4\n"),
            "{text}"
        );
    }
}
