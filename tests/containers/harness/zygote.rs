//! A zygote daemon of one test: it ends with the test, whatever happens.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Call, host};

/// A daemon. Killed when dropped.
pub struct Daemon {
    child: Child,
    #[allow(dead_code, reason = "where its status is asked")]
    root: PathBuf,
    stderr: PathBuf,
}

/// The binary in sealed memory, for all daemons of this process: otherwise each makes that copy itself.
fn sealed() -> &'static Path {
    static COPY: OnceLock<(File, PathBuf)> = OnceLock::new();
    let make = || {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut copy = File::from(memfd_create(c"runz", flags).expect("memfd_create"));
        let binary = std::fs::read(host::runtime()).expect("read the binary");
        copy.write_all(&binary).expect("copy the binary");
        copy.seek(SeekFrom::Start(0)).expect("seek");
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&copy, FcntlArg::F_ADD_SEALS(seals)).expect("seal the copy");
        // Opened by its number, for the name in /proc/self is another process's at execve.
        let path = format!("/proc/{}/fd/{}", std::process::id(), copy.as_raw_fd());
        (copy, path.into())
    };
    &COPY.get_or_init(make).1
}

/// One kit of each shape: a second container finds it, and what is made in vain is little.
fn config() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = host::scratch().join("zygote.toml");
        std::fs::write(&path, "first = 1\n").expect("write zygote.toml");
        path
    })
}

#[allow(dead_code, reason = "for tests of what a daemon counts")]
impl Daemon {
    /// Serves `root`, when it returns.
    pub fn start(root: &Path) -> Daemon {
        let config = config().to_string_lossy();
        Daemon::with(root, &["--config", &config], |_| {})
    }

    /// The same with other flags, and a changed process.
    pub fn with(root: &Path, flags: &[&str], change: impl FnOnce(&mut Command)) -> Daemon {
        Daemon::of(sealed(), root, flags, change)
    }

    /// The same of any binary.
    #[allow(unsafe_code)]
    pub fn of(
        binary: &Path,
        root: &Path,
        flags: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Daemon {
        let stderr = root.with_file_name("zygote.err");
        let errors = File::options().append(true).create(true).open(&stderr);
        let mut command = Command::new(binary);
        command.arg("--root").arg(root);
        command.args(["zygote", "serve"]).args(flags);
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(errors.expect("create zygote.err"));
        change(&mut command);
        let die_with_us = || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        };
        // SAFETY: one system call, between fork and execve.
        unsafe { command.pre_exec(die_with_us) };
        let mut child = command.spawn().expect("start the daemon");
        let stdout = child.stdout.take().expect("a pipe");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let daemon = Daemon {
            child,
            root: root.to_owned(),
            stderr,
        };
        assert!(
            read.is_ok() && line.starts_with("runz zygote: serving "),
            "the daemon doesn't serve: {line}{}",
            daemon.stderr()
        );
        daemon
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it said on stderr.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// `zygote status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let call = Call::new(["--root"]).arg(&self.root);
        let text = call.args(["zygote", "status", "--format", "json"]).run();
        serde_json::from_str(&text.ok()).expect("status is JSON")
    }

    /// The sum of a number over all pools.
    #[track_caller]
    pub fn sum(&self, name: &str) -> u64 {
        let status = self.status();
        let pools = status["pools"].as_array().expect("pools");
        pools.iter().filter_map(|pool| pool[name].as_u64()).sum()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("signal the daemon");
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<i32> {
        self.child
            .try_wait()
            .expect("wait for the daemon")
            .map(super::call::code)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
