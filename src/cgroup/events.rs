//! The stream of `runc events`: statistics every so often, and a line for each OOM kill.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::Serialize;

use super::stats::Stats;
use super::{Cgroup, failed};

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Stats>,
}

/// The line for the statistics of container `id`, with its newline.
pub fn stats_line(id: &str, stats: &Stats) -> Result<String> {
    line(&Line {
        r#type: "stats",
        id,
        data: Some(stats),
    })
}

/// The line for an OOM kill in container `id`, with its newline.
pub fn oom_line(id: &str) -> Result<String> {
    line(&Line {
        r#type: "oom",
        id,
        data: None,
    })
}

fn line(line: &Line) -> Result<String> {
    Ok(serde_json::to_string(line)? + "\n")
}

/// Writes a line of statistics every `interval`, the first after one interval, and one as soon as
/// the kernel has killed for want of memory. Returns when no process is left in the cgroup.
pub fn stream(
    cgroup: &Cgroup,
    id: &str,
    interval: Duration,
    stats: &dyn Fn() -> Result<Stats>,
    out: &mut impl Write,
) -> Result<()> {
    let mut watch = OomWatch::new(cgroup)?;
    let mut next = Instant::now() + interval;
    loop {
        let line = match watch.wait(next.saturating_duration_since(Instant::now()))? {
            Happened::Emptied => return Ok(()),
            Happened::OomKill => oom_line(id)?,
            Happened::Nothing => {
                // Not from the last one: a reader that stops reading gets no burst afterwards.
                next = Instant::now() + interval;
                match stats() {
                    Ok(stats) => stats_line(id, &stats)?,
                    // Removed while it was read.
                    Err(_) if cgroup.is_gone() => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        out.write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .context("write event")?;
    }
}

/// What [`OomWatch::wait`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A process of the cgroup, or of one below, was killed for want of memory.
    OomKill,
    /// No process is left, or the cgroup is gone.
    Emptied,
    /// Neither, in the given time.
    Nothing,
}

/// Waits for OOM kills. Without a memory controller there are none; the end is still seen.
pub struct OomWatch<'a> {
    cgroup: &'a Cgroup,
    inotify: Inotify,
    kills: u64,
}

impl<'a> OomWatch<'a> {
    /// Watches from now on.
    pub fn new(cgroup: &'a Cgroup) -> Result<OomWatch<'a>> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(|errno| failed(format_args!("inotify_init"), errno))?;
        for file in ["memory.events", "cgroup.events"] {
            // The kernel announces a change of these files as a modification.
            match inotify.add_watch(&cgroup.path.join(file), AddWatchFlags::IN_MODIFY) {
                Ok(_) => {}
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(cgroup.failed(format_args!("watch {file}"), errno)),
            }
        }
        // Read after the watch is there: nothing falls between.
        let kills = cgroup.oom_kills()?;
        Ok(OomWatch {
            cgroup,
            inotify,
            kills,
        })
    }

    /// Waits until something happens, at most so long.
    pub fn wait(&mut self, limit: Duration) -> Result<Happened> {
        let end = Instant::now() + limit;
        loop {
            let kills = self.cgroup.oom_kills()?;
            if kills > self.kills {
                self.kills = kills;
                return Ok(Happened::OomKill);
            }
            match self.cgroup.keyed("cgroup.events", "populated") {
                Ok(Some(0)) | Err(Errno::ENOENT | Errno::ENODEV) => return Ok(Happened::Emptied),
                Ok(_) => {}
                Err(errno) => {
                    return Err(self
                        .cgroup
                        .failed(format_args!("read cgroup.events"), errno));
                }
            }
            // Rounded up, so that the last round is no busy loop.
            let left = end
                .saturating_duration_since(Instant::now())
                .as_nanos()
                .div_ceil(1_000_000);
            if left == 0 {
                return Ok(Happened::Nothing);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(format_args!("poll inotify"), errno)),
            }
            // Which file it was does not matter: both are read.
            match self.inotify.read_events() {
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(failed(format_args!("read inotify"), errno)),
            }
        }
    }
}

impl Cgroup {
    /// How many processes in the cgroup and below were killed for want of memory; 0 where the
    /// memory controller does not count.
    pub fn oom_kills(&self) -> Result<u64> {
        match self.keyed("memory.events", "oom_kill") {
            Ok(kills) => Ok(kills.unwrap_or(0)),
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(0),
            Err(errno) => Err(self.failed(format_args!("read memory.events"), errno)),
        }
    }

    fn is_gone(&self) -> bool {
        matches!(
            self.read("cgroup.events"),
            Err(Errno::ENOENT | Errno::ENODEV)
        )
    }
}
