//! A daemon of runz' zygote, for one state root of this run.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bundle::Home;
use crate::runtime::Outcome;

/// A daemon, from its first word to its end.
pub struct Daemon {
    child: Child,
    runz: String,
    root: PathBuf,
    /// Its cgroup, below the run's own.
    pub cgroup: PathBuf,
}

/// How long it may take until its pools are full.
const PATIENCE: Duration = Duration::from_secs(20);

impl Daemon {
    /// Starts the daemon of the state root `root`, which keeps `first` kits of a bundle from the first
    /// container on, and at most `pool` where that isn't enough. It's there when this returns.
    ///
    /// # Errors
    /// What could not be started, or that it didn't say that it serves.
    pub fn start(
        home: &Home,
        runz: &str,
        root: &Path,
        (first, pool): (usize, usize),
    ) -> Result<Daemon> {
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        let config = home.dir.join(format!("{name}.toml"));
        // Beside the numbers its defaults; no kit grows old within one run.
        let text = format!(
            "pool = {pool}\nfirst = {first}\nkits = {}\nmemory = 4096\nage = 1000000\n",
            4 * pool
        );
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let cgroup = home.cgroup().join(format!("zygote-{name}"));
        fs::create_dir_all(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        let mut child = Command::new(runz)
            .env_clear()
            .arg("--root")
            .arg(root)
            .args(["zygote", "serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {runz} zygote serve"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if !line.contains("serving") {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{runz} zygote serve: it does not say that it serves");
        }
        fs::write(cgroup.join("cgroup.procs"), child.id().to_string())
            .context("move the daemon to its cgroup")?;
        Ok(Daemon {
            child,
            runz: runz.to_string(),
            root: root.to_path_buf(),
            cgroup,
        })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Lets it keep `count` whole containers of `bundle` as the pool `name`, made up to the point
    /// `until`.
    ///
    /// # Errors
    /// Its last line.
    pub fn provision(&self, name: &str, bundle: &Path, count: usize, until: &str) -> Result<()> {
        let count = count.to_string();
        self.ask(&[
            "provision",
            "--name",
            name,
            "--bundle",
            &bundle.to_string_lossy(),
            "--count",
            &count,
            "--until",
            until,
        ])?;
        Ok(())
    }

    /// What it has and did.
    ///
    /// # Errors
    /// Its last line.
    pub fn status(&self) -> Result<Value> {
        let text = self.ask(&["status", "--format", "json"])?;
        serde_json::from_str(&text).context("parse the status")
    }

    fn ask(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.runz)
            .env_clear()
            .arg("--root")
            .arg(&self.root)
            .arg("zygote")
            .args(args)
            .output()
            .with_context(|| format!("run {}", self.runz))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("zygote {}: {}", args[0], error.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until it has all that it shall have.
    ///
    /// # Errors
    /// That it takes too long, or can't be asked.
    pub fn settle(&self) -> Outcome<()> {
        let begin = Instant::now();
        loop {
            let text = self
                .metrics()
                .map_err(|e| format!("zygote: metrics: {e}"))?;
            match lacking(&text) {
                0 => return Ok(()),
                lacking if begin.elapsed() > PATIENCE => {
                    return Err(format!("zygote: {lacking} still missing after 20 s"));
                }
                // It does nothing as long as it's asked: less often for many.
                lacking => thread::sleep(Duration::from_millis(3 + lacking as u64)),
            }
        }
    }

    fn metrics(&self) -> std::io::Result<String> {
        let mut socket = UnixStream::connect(self.root.join("@zygote/metrics"))?;
        socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Ends it, and with it all that it keeps.
    pub fn stop(mut self) {
        let _ = self.ask(&["stop"]);
        for _ in 0..500 {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(10)),
                _ => break,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// How much is missing by its metrics: of every `X{…}` there shall be as many as `X_target{…}` says.
fn lacking(metrics: &str) -> usize {
    let samples: HashMap<&str, f64> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name, value.trim().parse().ok()?)))
        .collect();
    let short = |(name, value): (&&str, &f64)| -> f64 {
        let target = name.replacen('{', "_target{", 1);
        let target = samples.get(target.as_str());
        target.map_or(0.0, |target| (target - value).max(0.0))
    };
    samples.iter().map(short).sum::<f64>() as usize
}

#[cfg(test)]
mod tests {
    use super::lacking;

    #[test]
    fn what_has_a_target_lacks_up_to_it() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# TYPE runz_zygote_kits gauge\n\
            runz_zygote_kits{kit=\"net ipc\"} 3\nrunz_zygote_kits{kit=\"a\"} 9\n\
            runz_zygote_kits_target{kit=\"net ipc\"} 8\nrunz_zygote_kits_target{kit=\"a\"} 8\n\
            runz_zygote_kits_made_total{kit=\"a\"} 1\n";
        assert_eq!(lacking(text), 5);
        assert_eq!(lacking(""), 0);
    }
}
