//! NOTIFY_SOCKET (sd_notify(3)): the container reports to a socket in its state directory, bound at
//! /run/notify; we forward that it's ready to the caller's socket, in our own name.

use std::cell::{Cell, OnceCell};
use std::fs::Permissions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::launch::failed;
use crate::sys::{fs, process, socket};

/// The container's end.
pub struct Socket {
    fd: OwnedFd,
    /// `None`: nobody is told.
    host: Option<PathBuf>,
    /// It has said that it's ready.
    said: Cell<bool>,
    /// Our end of the barrier.
    barrier: OnceCell<OwnedFd>,
}

/// How long systemd may take to let go of the BARRIER descriptor.
const BARRIER_WAIT: Duration = Duration::from_secs(30);

/// Tells a service manager something of ourselves.
pub fn say(host: &Path, message: &[u8]) -> Result<()> {
    socket::connect_datagram(host)
        .and_then(|socket| socket::send(&socket, message, None))
        .map_err(|e| failed(e, format_args!("NOTIFY_SOCKET {host:?}")))
}

/// Makes the socket in the state directory. `host` is told what comes.
pub fn listen(state_directory: &Path, host: Option<&Path>) -> Result<Socket> {
    let path = state_directory.join("notify/notify.sock");
    // Of a `start` that was killed before it let the container go.
    let _ = std::fs::remove_file(&path);
    let fd = socket::bind_datagram(&path)
        .map_err(|e| failed(e, format_args!("bind notify socket {path:?}")))?;
    // The container's user may be anybody.
    std::fs::set_permissions(&path, Permissions::from_mode(0o777))
        .with_context(|| format!("chmod {path:?}"))?;
    Ok(Socket {
        fd,
        host: host.map(Path::to_owned),
        said: Cell::new(false),
        barrier: OnceCell::new(),
    })
}

impl Socket {
    /// To poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes one report. The first that says READY= is told to the caller's socket, and that `pid` is
    /// the main process; all others are taken only so that nobody waits for room to send. Whether the
    /// container has said that it's ready.
    pub fn pass(&self, pid: i32) -> Result<bool> {
        let mut data = [0; 4096];
        // By read(2): descriptors that come with it are closed by the kernel.
        let n = fs::read(&self.fd, &mut data).map_err(|e| failed(e, "read notify socket"))?;
        let ready = data[..n]
            .split(|b| *b == b'\n')
            .find(|line| line.starts_with(b"READY="));
        let (Some(ready), false) = (ready, self.said.get()) else {
            return Ok(self.said.get());
        };
        self.said.set(true);
        let Some(host) = &self.host else {
            return Ok(true);
        };
        let describe = |e| failed(e, format_args!("NOTIFY_SOCKET {host:?}"));
        let host = socket::connect_datagram(host).map_err(describe)?;
        let mut message = ready.to_vec();
        message.push(b'\n');
        socket::send(&host, &message, None).map_err(describe)?;
        socket::send(&host, format!("MAINPID={pid}").as_bytes(), None).map_err(describe)?;
        let (read, write) = fs::pipe().map_err(describe)?;
        socket::send(&host, b"BARRIER=1", Some(write.as_fd())).map_err(describe)?;
        let _ = self.barrier.set(read);
        Ok(true)
    }

    /// We may end only when all that was told was taken in (sd_notify_barrier(3)), lest the manager
    /// no longer knows who we were. One that knows no barriers isn't waited for longer than 30 s.
    pub fn settle(&self) -> Result<()> {
        let Some(barrier) = self.barrier.get() else {
            return Ok(());
        };
        process::wait_gone(barrier.as_fd(), BARRIER_WAIT)
            .map(drop)
            .map_err(|e| failed(e, format_args!("NOTIFY_SOCKET {:?}", self.host)))
    }

    /// Waits until the container says that it's ready, or ends.
    pub fn forward(&self, pid: i32) -> Result<()> {
        let Ok(init) = process::pidfd_open(pid) else {
            return Ok(());
        };
        loop {
            let mut fds = [
                PollFd::new(self.fd.as_fd(), PollFlags::POLLIN),
                PollFd::new(init.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(crate::sys::Errno::EINTR) => continue,
                other => other.map_err(|e| failed(e, "poll")).map(drop)?,
            }
            let said = fds[0].any() == Some(true);
            let ended = fds[1].any() == Some(true);
            if said && self.pass(pid)? {
                return self.settle();
            }
            if ended && !said {
                return Ok(());
            }
        }
    }
}
