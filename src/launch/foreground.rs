//! In the foreground: signals and the terminal pass through to the container, until it ends.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, OutputFlags, SetArg, Termios};

use super::{Started, failed};
use crate::notify;
use crate::sys::process::{self, Exit};
use crate::sys::{Errno, fs, tty};

/// The signals of this process, blocked and read from a descriptor.
pub struct Signals {
    fd: OwnedFd,
    /// The mask that was there before, which the container gets.
    pub before: libc::sigset_t,
}

impl Signals {
    /// Blocks all signals.
    pub fn block() -> Result<Signals> {
        let all = process::all_signals();
        let before = process::set_signal_mask(&all).map_err(|e| failed(e, "sigprocmask"))?;
        let fd = process::signalfd(&all).map_err(|e| failed(e, "signalfd"))?;
        Ok(Signals { fd, before })
    }
}

/// The caller's terminal, raw while the container has it; as it was before, when dropped.
struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// The terminal is found by the standard streams, or it's the controlling one. `None`: there is
    /// none, so nothing to set.
    fn set() -> Option<Raw> {
        let streams = [2, 0, 1].into_iter().filter_map(|n| fs::inherited(n).ok());
        let terminal = streams
            .filter(|fd| termios::tcgetattr(fd).is_ok())
            .find_map(|fd| fd.try_clone_to_owned().ok())
            .or_else(|| fs::open(fs::CWD, c"/dev/tty", libc::O_RDWR | libc::O_NOCTTY, 0).ok())?;
        let before = termios::tcgetattr(&terminal).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        // What a program writes is still made fit for the terminal; see `take`.
        raw.output_flags = before.output_flags;
        termios::tcsetattr(&terminal, SetArg::TCSANOW, &raw).ok()?;
        Some(Raw { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// Takes over the master of a container's terminal. As in runc it doesn't turn the container's line
/// feeds into CR LF: our own terminal does, if that's what we write to, and a file shall have none.
pub fn take(master: &OwnedFd) -> Result<()> {
    let mut settings = termios::tcgetattr(master).map_err(|e| failed(e, "tcgetattr"))?;
    settings.output_flags.remove(OutputFlags::ONLCR);
    termios::tcsetattr(master, SetArg::TCSANOW, &settings).map_err(|e| failed(e, "tcsetattr"))
}

/// Data on its way from one descriptor to another that may be slower.
struct Pipe {
    data: [u8; 32 << 10],
    filled: usize,
    done: usize,
    open: bool,
}

impl Pipe {
    fn new(open: bool) -> Box<Pipe> {
        Box::new(Pipe {
            data: [0; 32 << 10],
            filled: 0,
            done: 0,
            open,
        })
    }

    fn empty(&self) -> bool {
        self.done == self.filled
    }

    /// Reads once into the empty buffer; the end, or an error (EIO: the last slave was closed), closes.
    fn fill(&mut self, from: BorrowedFd) {
        match fs::read(from, &mut self.data) {
            Ok(n) if n > 0 => (self.filled, self.done) = (n, 0),
            Err(Errno::EAGAIN) => {}
            _ => self.open = false,
        }
    }

    fn drain(&mut self, to: BorrowedFd) {
        match fs::write(to, &self.data[self.done..self.filled]) {
            Ok(n) => self.done += n,
            Err(Errno::EAGAIN) => {}
            Err(_) => (self.done, self.filled) = (0, 0),
        }
    }
}

/// Waits for the container's init, or a process in a container, and passes on what comes meanwhile.
pub fn wait(
    started: &Started,
    console: Option<OwnedFd>,
    signals: &Signals,
    notify: Option<&notify::Socket>,
) -> Result<Exit> {
    let _raw = console.as_ref().and_then(|_| Raw::set());
    let stdin = fs::inherited(0).ok().filter(|_| console.is_some());
    let stdout = fs::inherited(1).ok();
    let mut input = Pipe::new(stdin.is_some());
    let mut output = Pipe::new(console.is_some());
    let mut ended = None;
    loop {
        // After its end, what it wrote is still in the terminal.
        if let Some(exit) = ended
            && (!output.open || console.is_none())
        {
            let _ = std::io::stdout().flush();
            return Ok(exit);
        }
        let mut fds = vec![PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN)];
        if ended.is_none() {
            fds.push(PollFd::new(started.pidfd.as_fd(), PollFlags::POLLIN));
        }
        if let Some(notify) = notify {
            fds.push(PollFd::new(notify.fd(), PollFlags::POLLIN));
        }
        if let Some(master) = &console {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, output.open && output.empty());
            flags.set(PollFlags::POLLOUT, !input.empty());
            if output.open {
                fds.push(PollFd::new(master.as_fd(), flags));
            }
            if let Some(stdin) = stdin.filter(|_| input.open && input.empty()) {
                fds.push(PollFd::new(stdin, PollFlags::POLLIN));
            }
            if let Some(stdout) = stdout.filter(|_| !output.empty()) {
                fds.push(PollFd::new(stdout, PollFlags::POLLOUT));
            }
        }
        // Once init is gone, a slave that somebody else holds open must not keep us.
        let timeout = match ended {
            Some(_) if output.empty() => PollTimeout::from(100u8),
            _ => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(0) => {
                output.open = false;
                continue;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno, "poll")),
        }
        drop(fds);
        pass_signals(started, console.as_ref(), signals)?;
        if ended.is_none() && ready(started.pidfd.as_fd(), PollFlags::POLLIN) {
            ended = Some(process::wait(&started.pidfd).map_err(|e| failed(e, "wait"))?);
        }
        if let Some(notify) = notify.filter(|n| ready(n.fd(), PollFlags::POLLIN)) {
            notify.pass(started.pid)?;
        }
        let Some(master) = &console else { continue };
        if output.open
            && output.empty()
            && ready(master.as_fd(), PollFlags::POLLIN | PollFlags::POLLHUP)
        {
            output.fill(master.as_fd());
        }
        if !output.empty()
            && let Some(stdout) = stdout
        {
            output.drain(stdout);
        }
        if let Some(stdin) = stdin
            && input.open
            && input.empty()
            && ready(stdin, PollFlags::POLLIN | PollFlags::POLLHUP)
        {
            input.fill(stdin);
        }
        if !input.empty() && ready(master.as_fd(), PollFlags::POLLOUT) {
            input.drain(master.as_fd());
        }
    }
}

fn ready(fd: BorrowedFd, flags: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, flags)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Gives a container's terminal the size of ours. To be done before its program runs, too, which may
/// ask at once.
pub fn resize(master: BorrowedFd) {
    for n in [2, 0, 1] {
        if let Ok(fd) = fs::inherited(n)
            && tty::copy_size(fd, master).is_ok()
        {
            return;
        }
    }
}

/// Every signal goes on to the container, but for those that are about us.
fn pass_signals(started: &Started, console: Option<&OwnedFd>, signals: &Signals) -> Result<()> {
    while let Some(signal) =
        process::next_signal(&signals.fd).map_err(|e| failed(e, "read a signal"))?
    {
        match signal {
            // As subreaper we are given the container's orphans.
            libc::SIGCHLD => reap_others(started),
            libc::SIGWINCH => {
                if let Some(master) = console {
                    resize(master.as_fd());
                }
            }
            libc::SIGURG => {}
            signal => {
                let _ = process::pidfd_send_signal(&started.pidfd, signal);
            }
        }
    }
    Ok(())
}

fn reap_others(started: &Started) {
    while let Ok(Some(pid)) = process::ended_child() {
        if pid == started.pid {
            return;
        }
        process::reap(pid);
    }
}
