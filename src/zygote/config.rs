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
    /// Kernel memory that kits may take, in MiB.
    pub memory: u64,
    /// How many kits are made a second at most.
    pub rate: u32,
    /// How long no request may come before a kit or a warm container is made, in milliseconds: those who ask have the CPUs
    /// first. Not waited for when less than a quarter of a pool is left.
    pub quiet: u64,
    /// After how many seconds a kit is too old, since the host's settings that it was made with may
    /// have changed.
    pub age: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            pool: 64,
            first: 4,
            kits: 256,
            shapes: 16,
            memory: 64,
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

    /// How many kits may be there in all.
    pub fn most(&self) -> usize {
        let by_memory = (self.memory << 20) / KIT_MEMORY;
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
