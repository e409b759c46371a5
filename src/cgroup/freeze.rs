//! Stopping all processes of a cgroup: for a while (freeze), or for good (kill).

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::{Cgroup, failed, find_key, read_all};

/// How long the processes of a cgroup may take to stop: one in an uninterruptible sleep, on a dead
/// network file system say, stops when that ends. runc waits as long.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// Whether the cgroup at `path` is frozen, and all its processes stand still. A cgroup that does
/// not exist is not frozen.
pub fn is_frozen(path: &Path) -> Result<bool> {
    // Without opening the directory first: `state` and `list` ask this for every container.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let text = nix::fcntl::open(&path.join("cgroup.freeze"), flags, Mode::empty())
        .and_then(|file| read_all(file.as_fd()));
    match text {
        Ok(text) if text.trim() == "1" => match Cgroup::open_raw(path.to_owned()) {
            Ok(cgroup) => cgroup.is_frozen(),
            // Removed meanwhile.
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(failed(
                format_args!("open cgroup {}", path.display()),
                errno,
            )),
        },
        Ok(_) | Err(Errno::ENOENT | Errno::ENODEV) => Ok(false),
        Err(errno) => Err(failed(
            format_args!("read {}/cgroup.freeze", path.display()),
            errno,
        )),
    }
}

impl Cgroup {
    /// Stops every process in the cgroup and below, and waits until all stand still. If they do
    /// not within ten seconds, they are let go again.
    pub fn freeze(&self) -> Result<()> {
        match self.write("cgroup.freeze", "1") {
            Err(Errno::ENOENT) => {
                bail!(
                    "freezer not supported: cgroup {} has no cgroup.freeze",
                    self.path.display()
                )
            }
            result => result.map_err(|errno| self.failed(format_args!("freeze"), errno))?,
        }
        let frozen = self.wait_for("frozen", 1, FREEZE_LIMIT);
        if !matches!(frozen, Ok(true)) {
            // Half stopped is worse than running. The error to tell is the first one.
            let _ = self.write("cgroup.freeze", "0");
        }
        if !frozen.map_err(|errno| self.failed(format_args!("read cgroup.events"), errno))? {
            let limit = FREEZE_LIMIT.as_secs();
            bail!("timeout of {limit}s reached waiting for the cgroup to freeze");
        }
        Ok(())
    }

    /// Lets the processes go on.
    pub fn thaw(&self) -> Result<()> {
        match self.write("cgroup.freeze", "0") {
            // What cannot be frozen is not, nor is what's gone.
            Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
            Err(errno) => Err(self.failed(format_args!("thaw"), errno)),
        }
    }

    /// Whether the cgroup itself was frozen and all its processes stand still.
    pub fn is_frozen(&self) -> Result<bool> {
        let frozen = match self.read("cgroup.freeze") {
            Ok(text) if text.trim() == "1" => self.keyed("cgroup.events", "frozen"),
            Ok(_) => Ok(None),
            Err(errno) => Err(errno),
        };
        match frozen {
            Ok(value) => Ok(value == Some(1)),
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(false),
            Err(errno) => Err(self.failed(format_args!("read freezer state"), errno)),
        }
    }

    /// Sends SIGKILL to every process in the cgroup and below, frozen ones too. Does not wait for
    /// their end.
    pub fn kill(&self) -> Result<()> {
        match self.write("cgroup.kill", "1") {
            // ENOENT: the root cgroup; EOPNOTSUPP: a threaded one.
            Err(Errno::ENOENT | Errno::EOPNOTSUPP) => self.kill_each(),
            Ok(()) | Err(Errno::ENODEV) => Ok(()),
            Err(errno) => Err(self.failed(format_args!("kill"), errno)),
        }
    }

    /// One by one; frozen meanwhile where that is possible, so that none can fork away.
    pub(super) fn kill_each(&self) -> Result<()> {
        let was_frozen = self.is_frozen()?;
        let froze = !was_frozen && self.freeze().is_ok();
        let mut result = Ok(());
        for pid in self.pids()? {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => result = Err(failed(format_args!("kill process {pid}"), errno)),
            }
        }
        if froze {
            self.thaw()?;
        }
        result
    }

    /// The processes in the cgroup and below, as seen from the caller's pid namespace.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        self.collect_pids(&mut pids)
            .map_err(|errno| self.failed(format_args!("list processes"), errno))?;
        Ok(pids)
    }

    fn collect_pids(&self, pids: &mut Vec<i32>) -> Result<(), Errno> {
        let text = match self.read("cgroup.procs") {
            // In a threaded cgroup only threads can be listed.
            Err(Errno::EOPNOTSUPP) => self.read("cgroup.threads"),
            result => result,
        };
        match text {
            Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
            // Removed meanwhile.
            Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        for child in self.children()? {
            child.collect_pids(pids)?;
        }
        Ok(())
    }

    /// Waits until `key` in `cgroup.events` has this value. `false`: it has not, in time.
    pub(super) fn wait_for(&self, key: &str, value: u64, limit: Duration) -> Result<bool, Errno> {
        let end = Instant::now() + limit;
        loop {
            // Opened anew each time: a reading resets what poll reports.
            let file = self.open_file("cgroup.events", OFlag::O_RDONLY)?;
            if find_key(&read_all(file.as_fd())?, key) == Some(value) {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut file = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut file, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}
