//! Warm containers: whole ones, made before they are asked for.
//!
//! Each has a *keeper*, a clone of the daemon that made it, is its init's parent and waits:
//!
//! ```text
//!   daemon                  keeper                          caller (run --from)
//!      │ ◀── Parked ────────── │                                  │
//!      │ ◀──────────────────── │ ───────────────── Take, Order ── │   one connection, to the daemon
//!      │ ── the connection ──▶ │                                  │   and out of it
//!      │ ── Done (`wire`) ──────────────────────────────────────▶ │   from here on he waits longer
//!                              │ ── Prepared (+ pidfd, terminal) ▶│   or Refused: go the cold way
//!                              │                                  │   moves it to its id; from here on
//!                              │                                  │   there is no cold way
//!        init ◀── GO ──────────│───────────────────────────────── │   where nothing speaks against it
//!                              │ ◀── Go ───────────────────────── │
//!                              │ ── Running, or Failed ─────────▶ │   the former only to who waits for it
//!                              │ ── Ended ──────────────────────▶ │   in the foreground
//! ```
//!
//! A caller that hangs up before Running has given up: the container is killed and removed. The same
//! goes for a daemon, as long as the container is parked.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::memory::Taken;
use crate::bundle::Changes;
use crate::launch::failed;
use crate::store::Record;
use crate::sys::{Errno, socket};

/// How far a warm container is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Until {
    /// Everything but its program.
    #[default]
    Created,
    /// Its program has said that it's ready.
    Ready,
}

/// What a pool's containers are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provision {
    /// The pool's name.
    pub name: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// How many there shall be.
    pub count: u32,
    /// How far they are made.
    pub until: Until,
    /// They are frozen when they are ready.
    pub freeze: bool,
}

/// What a keeper tells the daemon.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// It's there, for whoever wants it.
    Parked {
        /// What it took to make it, in microseconds.
        cost: u64,
        /// What it takes.
        taken: Taken,
    },
    /// It couldn't be made, or it's gone.
    Failed(String),
}

/// What a caller wants of a warm container. Three descriptors come with it: his standard streams.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The container's id.
    pub id: String,
    /// What it shall be otherwise than its config says.
    pub changes: Changes,
    /// Limits, as JSON.
    pub resources: Option<String>,
    /// What the streams are, for the Record.
    pub streams: Vec<String>,
    /// He waits for its end.
    pub foreground: bool,
    /// What it inherits.
    pub caller: Caller,
}

/// What a keeper tells the caller.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Not for him.
    Refused(String),
    /// All is done but to let it go. With it come a pidfd of its init, what init is told by if its caller
    /// may do that, and the master of its terminal if it has one.
    Prepared {
        /// Its directory below `@zygote/warm`.
        directory: String,
        /// The pid of its init.
        pid: i32,
        /// Its caller tells init to go, before he tells the keeper.
        direct: bool,
    },
    /// It runs.
    Running,
    /// It couldn't be started. Nothing of it is left.
    Failed(String),
    /// It has ended: with this status, or by this signal.
    Ended {
        /// Whether it was a signal.
        signal: bool,
        /// The status, or the signal's number.
        number: i32,
    },
}

/// Whether its caller is told when it runs: who waits for its end, and has no hooks to run before, would
/// be woken for nothing.
pub fn is_told(foreground: bool, record: &Record) -> bool {
    !foreground || !record.runz.poststart.is_empty()
}

/// The caller's word that it may go.
pub const GO: &[u8] = b"go";

/// The longest message, in bytes.
pub const MOST: usize = 128 << 10;

/// Lays a message out.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>> {
    let bytes = postcard::to_allocvec(message)?;
    if bytes.len() > MOST {
        bail!("a message of {} bytes is too long", bytes.len());
    }
    Ok(bytes)
}

/// Reads a message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match postcard::take_from_bytes(bytes)? {
        (message, []) => Ok(message),
        (_, rest) => bail!("{} bytes behind a message", rest.len()),
    }
}

/// Sends a message.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd]) -> Result<()> {
    let bytes = encode(message)?;
    socket::send_many(socket, &bytes, fds).map_err(|e| failed(e, "send"))
}

/// What is received: a message, or the end.
pub type Received<T> = Option<(T, Vec<OwnedFd>)>;

/// Receives a message and its descriptors. `None`: the other has hung up, or `deadline` has passed.
pub fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    deadline: Option<Instant>,
) -> Result<Received<T>> {
    let mut fds: [Option<OwnedFd>; 4] = [const { None }; 4];
    if !await_readable(socket.as_fd(), deadline)? {
        return Ok(None);
    }
    match socket::receive_whole(&socket, MOST, &mut fds) {
        Err(Errno::ECONNRESET) => Ok(None),
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => {
            let message = decode(&bytes)?;
            Ok(Some((message, fds.into_iter().flatten().collect())))
        }
        Err(errno) => Err(failed(errno, "receive")),
    }
}

/// Waits until there is something to receive; whether there is.
pub fn await_readable(fd: BorrowedFd, deadline: Option<Instant>) -> Result<bool> {
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                // Rounded up: not back before its time.
                let left = left + std::time::Duration::from_micros(999);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno, "poll")),
            Ok(n) => return Ok(n > 0),
        }
    }
}
