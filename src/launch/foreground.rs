//! In the foreground: signals and the terminal pass through to the container, until it ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
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
    /// To poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

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
    /// `None`: there is no terminal, so nothing to set.
    fn set() -> Option<Raw> {
        let terminal = terminal()?;
        let before = termios::tcgetattr(&terminal).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        // What a program writes is still made fit for the terminal; see `take`.
        raw.output_flags = before.output_flags;
        termios::tcsetattr(&terminal, SetArg::TCSANOW, &raw).ok()?;
        Some(Raw { terminal, before })
    }
}

/// Our terminal: what one of the standard streams is, or the controlling one.
fn terminal() -> Option<OwnedFd> {
    let streams = [2, 0, 1].into_iter().filter_map(|n| fs::inherited(n).ok());
    streams
        .filter(|fd| termios::tcgetattr(fd).is_ok())
        .find_map(|fd| fd.try_clone_to_owned().ok())
        .or_else(|| fs::open(fs::CWD, c"/dev/tty", libc::O_RDWR | libc::O_NOCTTY, 0).ok())
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// Takes over the master of a container's terminal. As in runc it doesn't turn the container's line
/// feeds into CR LF: our own terminal does, if that's what we write to, and a file shall have none.
/// Writing to it doesn't wait: the container may itself be waiting for us to read.
pub fn take(master: &OwnedFd) -> Result<()> {
    let mut settings = termios::tcgetattr(master).map_err(|e| failed(e, "tcgetattr"))?;
    settings.output_flags.remove(OutputFlags::ONLCR);
    termios::tcsetattr(master, SetArg::TCSANOW, &settings).map_err(|e| failed(e, "tcsetattr"))?;
    fcntl(master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map(drop)
        .map_err(|e| failed(e, "set O_NONBLOCK"))
}

/// What a program has written to its terminal before that is taken over, which is done here, too: as if
/// it had been taken over before.
pub fn take_late(master: &OwnedFd) -> Result<Vec<u8>> {
    let mut early = Vec::new();
    let mut some = [0; 4096];
    fcntl(master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| failed(e, "set O_NONBLOCK"))?;
    let mut read = || {
        while let Ok(n) = fs::read(master, &mut some)
            && n > 0
            && early.len() < EARLY
        {
            early.extend_from_slice(&some[..n]);
        }
    };
    read();
    take(master)?;
    // It may have written meanwhile.
    read();
    // A CR before LF is the terminal's. Where it was the program's, ours makes one in its place.
    let next = early.iter().skip(1).chain(&[0]);
    let kept = early
        .iter()
        .zip(next)
        .filter(|pair| pair != &(&b'\r', &b'\n'));
    Ok(kept.map(|(byte, _)| *byte).collect())
}

/// More than a terminal holds; one that writes on and on must not keep us.
const EARLY: usize = 128 << 10;

/// A write that was polled for doesn't wait if it's not larger than this (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;
/// More than a terminal holds (8 KiB in each direction, and N_TTY_BUF_SIZE): what was written before
/// a process ended is within that.
const HELD: usize = 64 << 10;

/// Bytes that a [`Pipe`] has room for.
const ROOM: usize = 32 << 10;

/// Data on its way from one descriptor to another that may be slower.
pub struct Pipe {
    /// Nothing until something comes: most containers in the foreground have no terminal.
    data: Vec<u8>,
    filled: usize,
    done: usize,
    /// Something may still come.
    pub open: bool,
}

impl Pipe {
    /// Empty; `open`: something may come.
    pub fn new(open: bool) -> Pipe {
        Pipe::holding(Vec::new(), open)
    }

    /// With this on its way.
    pub fn holding(data: Vec<u8>, open: bool) -> Pipe {
        Pipe {
            filled: data.len(),
            data,
            done: 0,
            open,
        }
    }

    /// Whether all that came has gone.
    pub fn empty(&self) -> bool {
        self.done == self.filled
    }

    /// Reads once into the empty buffer; the end, or an error (EIO: the last slave was closed), closes.
    pub fn fill(&mut self, from: BorrowedFd) {
        self.data.resize(ROOM, 0);
        match fs::read(from, &mut self.data) {
            Ok(n) if n > 0 => (self.filled, self.done) = (n, 0),
            Err(Errno::EAGAIN) => {}
            _ => self.open = false,
        }
    }

    /// Whether there is still somebody who takes it.
    pub fn drain(&mut self, to: BorrowedFd) -> bool {
        let end = self.filled.min(self.done + CHUNK);
        match fs::write(to, &self.data[self.done..end]) {
            Ok(n) => self.done += n,
            Err(Errno::EAGAIN) => {}
            Err(_) => return false,
        }
        true
    }
}

/// The container's notify socket, and what becomes of an error: none of the container's business.
pub type Notify<'a> = (&'a notify::Socket, &'a dyn Fn(anyhow::Error));

/// Who is waited for.
pub struct Target<'a> {
    /// Its pid.
    pub pid: i32,
    /// Gets the signals.
    pub pidfd: BorrowedFd<'a>,
    /// Readable when it has ended.
    pub end: BorrowedFd<'a>,
    /// How it has ended.
    pub exit: &'a dyn Fn() -> Result<Exit>,
}

/// Waits for the container's init, or a process in a container, and passes on what comes meanwhile.
pub fn wait(
    started: &Started,
    console: Option<OwnedFd>,
    signals: &Signals,
    notify: Option<Notify>,
) -> Result<Exit> {
    let exit = || process::wait(&started.pidfd).map_err(|e| failed(e, "wait"));
    let target = Target {
        pid: started.pid,
        pidfd: started.pidfd.as_fd(),
        end: started.pidfd.as_fd(),
        exit: &exit,
    };
    wait_for(&target, console, Vec::new(), signals, notify)
}

/// The same for a process that need not be our child. `early`: see [`take_late`].
pub fn wait_for(
    target: &Target,
    mut console: Option<OwnedFd>,
    early: Vec<u8>,
    signals: &Signals,
    notify: Option<Notify>,
) -> Result<Exit> {
    let _raw = console.as_ref().and_then(|_| Raw::set());
    let stdin = fs::inherited(0).ok().filter(|_| console.is_some());
    let stdout = fs::inherited(1).ok();
    let mut input = Pipe::new(stdin.is_some());
    let mut output = Pipe::holding(early, console.is_some());
    let mut ended = None;
    let mut held = HELD;
    loop {
        // After its end, what it wrote is still in the terminal.
        if let Some(exit) = ended
            && !output.open
            && output.empty()
        {
            return Ok(exit);
        }
        let mut fds = vec![PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN)];
        if ended.is_none() {
            fds.push(PollFd::new(target.end, PollFlags::POLLIN));
        }
        if let Some((notify, _)) = notify.filter(|_| ended.is_none()) {
            fds.push(PollFd::new(notify.fd(), PollFlags::POLLIN));
        }
        if let Some(master) = &console {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, output.open && output.empty());
            flags.set(PollFlags::POLLOUT, !input.empty() && output.open);
            // Without any it would still tell of a hangup, again and again.
            if !flags.is_empty() {
                fds.push(PollFd::new(master.as_fd(), flags));
            }
            if let Some(stdin) = stdin.filter(|_| input.open && input.empty()) {
                fds.push(PollFd::new(stdin, PollFlags::POLLIN));
            }
            if let Some(stdout) = stdout.filter(|_| !output.empty()) {
                fds.push(PollFd::new(stdout, PollFlags::POLLOUT));
            }
        }
        // Somebody who ignores SIGHUP may hold the slave open. That must not keep us, be it silent or
        // not.
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
        let resized = pass_signals(target, signals)?;
        if ended.is_none() && ready(target.end, PollFlags::POLLIN) {
            ended = Some((target.exit)()?);
            // Nobody is left to read it.
            input = Pipe::new(false);
        }
        // We are the main process, for we stay.
        if let Some((notify, warn)) = notify
            && ready(notify.fd(), PollFlags::POLLIN)
            && let Err(error) = notify.pass(process::own_pid())
        {
            warn(error);
        }
        let Some(master) = &console else { continue };
        if resized {
            resize(master.as_fd());
        }
        if output.open
            && output.empty()
            && ready(master.as_fd(), PollFlags::POLLIN | PollFlags::POLLHUP)
        {
            output.fill(master.as_fd());
            if ended.is_some() {
                held = held.saturating_sub(output.filled - output.done);
                output.open &= held > 0;
            }
        }
        match stdout {
            Some(stdout) if !output.empty() && ready(stdout, PollFlags::POLLOUT) => {
                if !output.drain(stdout) {
                    // Nobody listens any more: hang up, as in runc; `yes` would never end.
                    (input, output) = (Pipe::new(false), Pipe::new(false));
                    console = None;
                    continue;
                }
            }
            Some(_) => {}
            None => output.done = output.filled,
        }
        if let Some(stdin) = stdin
            && input.open
            && input.empty()
            && ready(stdin, PollFlags::POLLIN | PollFlags::POLLHUP)
        {
            input.fill(stdin);
        }
        if !input.empty() && ready(master.as_fd(), PollFlags::POLLOUT) {
            let taken = input.drain(master.as_fd());
            if !taken {
                input = Pipe::new(false);
            }
        }
    }
}

/// Whether there is something now.
pub fn ready(fd: BorrowedFd, flags: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, flags)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Gives a container's terminal the size of ours, if we have one. To be done before its program runs,
/// too, which may ask at once.
pub fn resize(master: BorrowedFd) {
    if let Some(terminal) = terminal() {
        let _ = tty::copy_size(terminal, master);
    }
}

/// Every signal goes on to the container, but for those that are about us. Whether our terminal has
/// another size.
fn pass_signals(target: &Target, signals: &Signals) -> Result<bool> {
    let mut resized = false;
    while let Some(signal) =
        process::next_signal(&signals.fd).map_err(|e| failed(e, "read a signal"))?
    {
        match signal {
            // As subreaper we are given the container's orphans.
            libc::SIGCHLD => reap_others(target.pid),
            libc::SIGWINCH => resized = true,
            libc::SIGURG => {}
            signal => {
                let _ = process::pidfd_send_signal(target.pidfd, signal);
            }
        }
    }
    Ok(resized)
}

/// Reaps whatever has ended and isn't `ours`.
pub fn reap_others(ours: i32) {
    while let Ok(Some(pid)) = process::ended_child() {
        if pid == ours {
            return;
        }
        process::reap(pid);
    }
}
