//! The end of both lists: what makes of a process that is where it should be the program that it's to
//! run. Nothing here comes back but a failure.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{At, COMMITTED, Fail, GO, Message, Step};
use super::park::Program;
use super::{Common, Never, hooks, process, program};
use crate::plan::Process;
use crate::seccomp;
use crate::sys::{self, fs};

/// Closes every descriptor from `first` on that isn't in `keep`.
pub fn close_all(first: u32, keep: &mut [i32]) -> Result<(), Fail> {
    keep.sort_unstable();
    let mut next = first;
    for fd in keep.iter().filter(|fd| **fd >= first as i32) {
        let fd = *fd as u32;
        if next < fd {
            fs::close_range(next, fd - 1).at(Step::PreserveFds)?;
        }
        next = fd + 1;
    }
    fs::close_range(next, u32::MAX).at(Step::PreserveFds)
}

/// What is needed for it.
pub struct Finish<'a> {
    /// The process.
    pub process: &'a Process,
    /// What it executes.
    pub program: Program<'a>,
    /// The container's filter.
    pub seccomp: Option<&'a seccomp::Program>,
    /// See [`Common`].
    pub common: &'a Common<'a>,
    /// The start barrier.
    pub fifo: Option<BorrowedFd<'a>>,
    /// startContainer.
    pub start_container: Option<&'a hooks::Kind<'a>>,
}

impl Finish<'_> {
    /// Becomes the program, `root` being its `/`, and `proc` a procfs that nobody else has, where there are
    /// labels.
    pub fn run(&self, root: BorrowedFd, proc: Option<BorrowedFd>) -> Result<Never, Fail> {
        let Finish {
            process: p,
            common,
            program,
            ..
        } = self;
        common.trace(Step::NoNewPrivileges, 0);
        if let Some((proc, profile)) = proc.zip(p.apparmor.as_deref()) {
            process::apparmor(proc, profile)?;
        }
        process::settings(p)?;
        if let Some((proc, label)) = proc.zip(p.selinux.as_deref()) {
            process::selinux(proc, label)?;
        }
        fs::umask(p.umask);
        if self.fifo.is_some() {
            // As in runc, whoever stops a container that was never started need not kill it.
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
                sys::process::die_of(signal).at(Step::Parent)?;
            }
        }
        self.common.hide()?;
        if let Some(slot) = program.home {
            process::home(p.uid, slot, root);
        }
        // Whatever else is open, be it ours or the caller's, is closed here and not just at execve:
        // the working directory's and the program's path may lead through /proc/self/fd
        // (CVE-2024-21626). Before the filter, which may not know close_range(2).
        self.close_all()?;
        // Without no_new_privs loading it needs CAP_SYS_ADMIN, which is about to go; with it,
        // it's loaded as late as can be, so that it need not allow what comes before.
        if let Some(filter) = self.seccomp.filter(|_| !p.no_new_privileges) {
            common.trace(Step::Seccomp, 0);
            self.filter(filter)?;
        }
        common.trace(Step::Uid, 0);
        process::become_user(p, program.cwd)?;
        common.trace(Step::Executable, 0);
        let (path, machine) = program::find(program.candidates)?;
        if let Some(filter) = self.seccomp.filter(|_| p.no_new_privileges) {
            common.trace(Step::Seccomp, 0);
            self.filter(filter)?;
        }
        common.trace(Step::Barrier, 0);
        let ready = Message::Ready { machine };
        common.send(&ready, None).at(Step::Parent)?;
        let barrier = match (common.await_parent(), self.fifo) {
            (COMMITTED, Some(fifo)) => {
                let mut byte = [0];
                if !matches!(fs::read(fifo, &mut byte), Ok(1)) {
                    sys::process::exit_now(1);
                }
                Some(fifo)
            }
            (GO, _) => None,
            _ => sys::process::exit_now(1),
        };
        let fail = self.execute(path);
        match barrier {
            // `start` reads it there, when it waits.
            Some(fifo) => {
                let _ = fs::write(fifo, &Message::Failed(fail).encode());
                sys::process::exit_now(1)
            }
            None => Err(fail),
        }
    }

    /// Loads the filter. Without an answer: waiting for one is a system call, too, and the agent's
    /// business.
    fn filter(&self, filter: &seccomp::Program) -> Result<(), Fail> {
        let number = process::seccomp(filter)?;
        if number >= 0 {
            let listener = Message::Listener { number };
            self.common.send(&listener, None).at(Step::Parent)?;
        }
        Ok(())
    }

    fn execute(&self, path: &CStr) -> Fail {
        let program = &self.program;
        if let Some(kind) = self.start_container {
            let ran = hooks::run(kind, Some(program.env), Step::StartContainerHook);
            if let Err(fail) = ran {
                return fail;
            }
        }
        self.common.trace(Step::Exec, 0);
        let errno = sys::process::execve(path, program.args, program.env);
        Fail::new(Step::Exec, errno)
    }

    /// Closes every descriptor from 3 on, but for those that the program is given and the few that
    /// are still needed, which close on execve.
    fn close_all(&self) -> Result<(), Fail> {
        let first = 3 + self.process.preserve_fds;
        for n in 3..first {
            let fd = fs::passed_on(n as i32).of(Step::PreserveFds, n as usize - 3)?;
            fs::keep_over_exec(fd).of(Step::PreserveFds, n as usize - 3)?;
        }
        let mut keep = [-1; 5];
        keep[0] = self.common.channel.as_raw_fd();
        keep[1] = self.fifo.map_or(-1, |fd| fd.as_raw_fd());
        if let Some(kind) = self.start_container.filter(|kind| !kind.hooks.is_empty()) {
            keep[2] = kind.state.as_raw_fd();
            keep[3] = kind.output.0.as_raw_fd();
            keep[4] = kind.output.1.as_raw_fd();
        }
        close_all(first, &mut keep)
    }
}
