//! A stream of a program that is somebody else's to pass on.

use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags};

use super::foreground::{self, Pipe};

/// One of a program's standard streams, on its way to or from the caller's.
pub struct Flow {
    pipe: Pipe,
    ends: Option<(OwnedFd, OwnedFd)>,
}

impl Flow {
    /// From one to the other.
    pub fn new(from: OwnedFd, to: OwnedFd) -> Flow {
        Flow {
            pipe: Pipe::new(true),
            ends: Some((from, to)),
        }
    }

    /// Whether something may still come, and go.
    pub fn goes_on(&self) -> bool {
        self.ends.is_some()
    }

    /// What to wait for; `None`: it has ended.
    pub fn wanted(&self) -> Option<PollFd<'_>> {
        let (from, to) = self.ends.as_ref()?;
        Some(match self.pipe.empty() {
            true => PollFd::new(from.as_fd(), PollFlags::POLLIN),
            false => PollFd::new(to.as_fd(), PollFlags::POLLOUT),
        })
    }

    /// Moves what can be moved without waiting.
    pub fn go_on(&mut self) {
        let Some((from, to)) = &self.ends else {
            return;
        };
        let input = PollFlags::POLLIN | PollFlags::POLLHUP;
        if self.pipe.open && self.pipe.empty() && foreground::ready(from.as_fd(), input) {
            self.pipe.fill(from.as_fd());
        }
        let mut taken = true;
        while taken && !self.pipe.empty() && foreground::ready(to.as_fd(), PollFlags::POLLOUT) {
            taken = self.pipe.drain(to.as_fd());
        }
        // Whoever writes learns that nobody reads, and the other way round.
        if !taken || (!self.pipe.open && self.pipe.empty()) {
            self.ends = None;
        }
    }
}
