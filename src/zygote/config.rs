//! /etc/runz/zygote.toml. Everything has a default; an unknown key is an error.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The default configuration's path.
pub const PATH: &str = "/etc/runz/zygote.toml";

/// What a kit takes of the kernel's memory, in bytes, for caps and status: 209 to 231 KiB by
/// `hack/bench --only costs` on Linux 6.18, nearly all of it slab and most of that the network namespace.
/// Where there is a memory controller, 125 KiB of it are charged to the daemon's cgroup.
pub const KIT_MEMORY: u64 = 220 << 10;

/// What the daemon may keep.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// How many kits of one shape are kept at most. What is really kept follows demand.
    pub pool: usize,
    /// How many are kept of a shape that was asked for once.
    pub first: usize,
    /// How many kits are kept at most in all.
    pub kits: usize,
    /// How many shapes are known at most; the one that wasn't asked for longest goes first.
    pub shapes: usize,
    /// Memory that kits and warm containers may take in all, in MiB. Kits get what the others leave.
    pub memory: u64,
    /// How many kits are made a second at most.
    pub rate: u32,
    /// How long no request may come before a kit or a warm container is made, in milliseconds: those who ask have the CPUs
    /// first. Not waited for when less than an eighth of a pool is left.
    pub quiet: u64,
    /// After how many seconds a kit is too old, since the host's settings that it was made with may
    /// have changed.
    pub age: u64,
}

/// A quarter of the machine's memory, in MiB.
fn quarter() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    (kib.unwrap_or(0) / 1024 / 4).max(64)
}

impl Default for Config {
    fn default() -> Config {
        Config {
            pool: 64,
            first: 4,
            kits: 256,
            shapes: 16,
            memory: quarter(),
            rate: 500,
            quiet: 10,
            age: 600,
        }
    }
}

impl Config {
    /// Reads the file. Without a path: the default one, if it's there.
    pub fn read(path: Option<&Path>) -> Result<Config> {
        let (path, must) = match path {
            Some(path) => (path, true),
            None => (Path::new(PATH), false),
        };
        match std::fs::read_to_string(path) {
            Ok(text) => Config::parse(&text).with_context(|| format!("{}", path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must => Ok(Config::default()),
            Err(e) => Err(e).with_context(|| format!("read {path:?}")),
        }
    }

    fn parse(text: &str) -> Result<Config> {
        let config: Config = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].split('\n').count());
            anyhow::anyhow!("line {line}: {}", error.message())
        })?;
        ensure!(config.rate > 0, "rate: must be at least 1");
        ensure!(config.age > 0, "age: must be at least 1");
        ensure!(config.shapes > 0, "shapes: must be at least 1");
        Ok(config)
    }

    /// What kits and warm containers may take in all, in bytes.
    pub fn memory(&self) -> u64 {
        self.memory.saturating_mul(1 << 20)
    }

    /// How many kits may be there in all; `others`: what is taken of the memory already.
    pub fn most(&self, others: u64) -> usize {
        let by_memory = self.memory().saturating_sub(others) / KIT_MEMORY;
        self.kits.min(by_memory as usize)
    }

    /// How long those who ask have the CPUs to themselves.
    pub fn quiet(&self) -> Duration {
        Duration::from_millis(self.quiet)
    }

    /// The least time between two kits.
    pub fn pause(&self) -> Duration {
        Duration::from_secs(1) / self.rate
    }
}
