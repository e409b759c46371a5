//! Hooks that run inside: createContainer (before the pivot) and startContainer (last of all). Those
//! that run outside are the parent's.

use std::ffi::{CString, c_char};
use std::os::fd::{AsFd, BorrowedFd};

use super::message::{Fail, NOTE, Step};
use crate::plan::Strings;
use crate::sys::process::{self, Clone, Exit};
use crate::sys::{Errno, Result, fs};

/// A hook laid out for execve(2).
pub struct Laid {
    /// Its program.
    pub path: CString,
    /// argv.
    pub args: Strings,
    /// envp; `None`: that of the container's process.
    pub env: Option<Strings>,
    /// Milliseconds until it's killed; `None`: never.
    pub timeout: Option<i32>,
}

/// The hooks of one kind, and the files that they read and write.
pub struct Kind<'a> {
    /// In the config's order.
    pub hooks: &'a [Laid],
    /// The state, as JSON: a memfd that the parent fills before it answers HOOKS_DONE.
    pub state: BorrowedFd<'a>,
    /// What they print, for the error's text.
    pub output: (BorrowedFd<'a>, BorrowedFd<'a>),
}

/// `Fail::detail` of a hook that ran past its timeout.
pub const TIMED_OUT: u32 = u32::MAX;
/// `Fail::detail` of a hook that a signal ended: this and the signal's number.
pub const SIGNALLED: u32 = 1 << 16;

/// Runs all, one after the other, until one fails. `env` is the envp of those that have none of their own.
pub fn run(
    kind: &Kind,
    env: Option<*const *const c_char>,
    step: Step,
) -> std::result::Result<(), Fail> {
    for (i, hook) in kind.hooks.iter().enumerate() {
        let failed = |errno| Fail::new(step, errno).of(i);
        let pidfd = match process::clone3(0, None).map_err(failed)? {
            Clone::Child => {
                let errno = execute(kind, hook, env);
                // 127 and 126 as shells have it.
                process::exit_now(if errno == Errno::ENOENT { 127 } else { 126 })
            }
            Clone::Parent { pidfd, .. } => pidfd,
        };
        match process::wait_until(pidfd.as_fd(), hook.timeout).map_err(failed)? {
            Some(Exit::Code(0)) => {}
            Some(Exit::Code(code)) => {
                return Err(failed(Errno::UnknownErrno)
                    .at(code as u32)
                    .noting(&said(kind)));
            }
            Some(Exit::Signal(n)) => {
                return Err(failed(Errno::UnknownErrno)
                    .at(SIGNALLED + n as u32)
                    .noting(&said(kind)));
            }
            None => {
                let _ = process::pidfd_send_signal(&pidfd, libc::SIGKILL);
                let _ = process::wait(&pidfd);
                return Err(failed(Errno::ETIMEDOUT).at(TIMED_OUT));
            }
        }
    }
    Ok(())
}

/// How a hook's last words begin: for `start`, which doesn't have the files that they went to.
fn said(kind: &Kind) -> [u8; NOTE] {
    let mut text = [0; NOTE];
    for file in [kind.output.1, kind.output.0] {
        let read = fs::rewind(file).and_then(|_| fs::read(file, &mut text));
        if matches!(read, Ok(n) if n > 0) {
            break;
        }
    }
    text
}

fn execute(kind: &Kind, hook: &Laid, env: Option<*const *const c_char>) -> Errno {
    let prepare = || -> Result<()> {
        fs::rewind(kind.state)?;
        fs::dup_onto(kind.state, 0)?;
        fs::dup_onto(kind.output.0, 1)?;
        fs::dup_onto(kind.output.1, 2)?;
        // Nothing of the runtime's may be open in a hook (CVE-2024-21626). Where the container's
        // filter forbids the call, all that is left closes on execve.
        match fs::close_range(3, u32::MAX) {
            Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
            other => other,
        }
    };
    if let Err(errno) = prepare() {
        return errno;
    }
    let nothing = std::ptr::null();
    let none = &raw const nothing;
    let env = hook.env.as_ref().map(Strings::as_ptr).or(env);
    process::execve(&hook.path, hook.args.as_ptr(), env.unwrap_or(none))
}
