//! A process that enters a running container: the parent's side of `exec`.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Result, bail};

use super::started::set_oom_score_adj;
use super::{Started, exe, explain, failed};
use crate::cgroup::Cgroup;
use crate::init::message::{Fail, GO, Message};
use crate::plan::Process;
use crate::sys::process::{self, Clone};
use crate::sys::{self, socket};
use crate::trace::Trace;
use crate::{fault, init, seccomp};

/// What [`entry`] needs.
pub struct EntryRequest<'a> {
    /// The process.
    pub process: &'a Process,
    /// The container's filter.
    pub seccomp: Option<&'a seccomp::Program>,
    /// The container's state, for the filter's agent.
    pub state: &'a [u8],
    /// Where it's born.
    pub cgroup: Option<&'a Cgroup>,
    /// A pidfd of the container's init.
    pub init: BorrowedFd<'a>,
    /// CLONE_NEW* of the namespaces to enter.
    pub kinds: u64,
    /// The container's session keyring.
    pub keyring: Option<&'a std::ffi::CStr>,
    /// Signals are blocked, and this was the mask before.
    pub signal_mask: Option<libc::sigset_t>,
    /// Nothing is left to do when it's ready but to let it go.
    pub go: bool,
    /// Where the times go.
    pub trace: &'a Trace,
}

/// Makes a process in a running container, ready for execve.
pub fn entry(request: &EntryRequest) -> Result<Started> {
    request.trace.begin("prepare");
    let exe = exe::protect(None)?;
    let (ours, theirs) = socket::pair().map_err(|e| failed(e, "socketpair"))?;
    let p = request.process;
    if let Some(mask) = &p.cpu_affinity.initial {
        sys::cred::set_affinity(0, mask)
            .map_err(|e| failed(e, "process.execCPUAffinity.initial: sched_setaffinity"))?;
    }
    // The processes of the container see the child as soon as it's in their pid namespace, and it
    // holds our memory until it executes.
    process::set_dumpable(false).map_err(|e| failed(e, "prctl PR_SET_DUMPABLE"))?;
    let times = request.trace.steps()?;
    fault::point("exec:joined")?;
    request.trace.begin("clone3");
    let cloned = process::clone3(0, request.cgroup.map(Cgroup::dir));
    if let Ok(Clone::Child) = cloned {
        drop(ours);
        init::entry(&init::Entry {
            process: p,
            seccomp: request.seccomp,
            common: init::Common {
                channel: theirs.as_fd(),
                exe: exe.as_ref().map(exe::Exe::borrow),
                signal_mask: request.signal_mask,
                root: sys::cred::effective_ids().0 == 0,
                times,
            },
            init: request.init,
            kinds: request.kinds,
            keyring: request.keyring,
        });
    }
    drop(theirs);
    let (pid, pidfd) = match cloned {
        Ok(Clone::Parent { pid, pidfd }) => (pid, pidfd),
        Ok(Clone::Child) => process::exit_now(1),
        Err(errno) => {
            // runc's words, which it says of a write to cgroup.procs.
            let place = match request.cgroup {
                Some(cgroup) => format!(
                    ": adding pid of the new process to cgroups {:?}",
                    cgroup.path
                ),
                None => String::new(),
            };
            return Err(failed(errno, format_args!("clone3{place}")));
        }
    };
    request.trace.child(pid, Vec::new);
    let mut started = Started {
        pid,
        pidfd,
        channel: ours,
        console: None,
        hooks: None,
        limited: false,
        init: false,
        told: None,
        exe: Cell::new(exe),
    };
    match serve_entry(&mut started, request) {
        Ok(()) => Ok(started),
        Err(error) => {
            started.kill();
            Err(error)
        }
    }
}

/// What is set from outside.
fn settings(pid: i32, p: &Process) -> Result<()> {
    if let Some(adj) = p.oom_score_adj {
        set_oom_score_adj(pid, adj)?;
    }
    if let Some(mask) = &p.cpu_affinity.last {
        sys::cred::set_affinity(pid, mask)
            .map_err(|e| failed(e, "process.execCPUAffinity.final: sched_setaffinity"))?;
    }
    Ok(())
}

fn serve_entry(started: &mut Started, request: &EntryRequest) -> Result<()> {
    let p = request.process;
    fault::point("exec:cloned")?;
    let explained = |fail: &Fail| explain::process(fail, p);
    loop {
        match started.next(request.cgroup, &explained)? {
            Message::Failed(fail) => bail!("{}", explained(&fail)),
            Message::Listener { number } => {
                started.hand_over_listener(request.seccomp, number, request.state)?;
            }
            Message::Moved { pid } => {
                started.moved(pid)?;
                request.trace.child(pid, Vec::new);
                if request.go {
                    settings(started.pid, p)?;
                    started.tell_early(GO, Some(p), request.seccomp)?;
                }
            }
            Message::Ready { machine } => {
                if started.told.is_none() {
                    settings(started.pid, p)?;
                }
                return started.ready(Some(p), machine);
            }
            _ => {}
        }
    }
}
