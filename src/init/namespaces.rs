//! Namespaces that clone3(2) didn't make: those that the config names by path, and one of time.

use super::message::{At, Fail, MOVED, Message, Step};
use super::{Context, become_root, hidden};
use crate::plan::Plan;
use crate::sys::process::Clone;
use crate::sys::{self, Errno, fs};

/// Joins the namespaces that the config names by path. Those of other kinds than user come first
/// when they let us, for afterwards we have privileges over the joined user namespace's only; those
/// that refuse belong to it, and are joined when we are in.
pub fn join(c: &Context) -> Result<(), Fail> {
    let user = libc::CLONE_NEWUSER as u64;
    let pid = libc::CLONE_NEWPID as u64;
    let list = &c.plan.namespaces.join;
    let mut refused = 0u64;
    for (j, fd) in list.iter().zip(c.join) {
        // The parent joined the pid namespace before it cloned us: only children enter one.
        if j.kind & (user | pid) != 0 {
            continue;
        }
        match sys::process::setns(fd, j.kind) {
            Err(Errno::EPERM) => refused |= j.kind,
            other => other.of(Step::JoinNamespace, j.index)?,
        }
    }
    for (j, fd) in list.iter().zip(c.join).filter(|(j, _)| j.kind == user) {
        sys::process::setns(fd, user).of(Step::JoinNamespace, j.index)?;
        become_root(!hidden(c))?;
    }
    for (j, fd) in list.iter().zip(c.join) {
        if j.kind & refused != 0 {
            sys::process::setns(fd, j.kind).of(Step::JoinNamespace, j.index)?;
        }
    }
    if c.after_join == 0 {
        return Ok(());
    }
    if c.after_join & pid == 0 {
        return sys::process::unshare(c.after_join).at(Step::Namespaces);
    }
    // A new pid namespace is only for a child: it goes on in our place, as our parent's child.
    let flags = c.after_join | libc::CLONE_PARENT as u64;
    match sys::process::clone3(flags, None).at(Step::Namespaces)? {
        // What we say next must not overtake it.
        Clone::Child => {
            c.common.await_word(MOVED);
            Ok(())
        }
        Clone::Parent { pid, .. } => {
            let moved = c.send(&Message::Moved { pid }, None);
            sys::process::exit_now(moved.is_err().into())
        }
    }
}

/// A time namespace: its offsets can be set as long as nobody is in it, not even we.
pub fn time(plan: &Plan) -> Result<(), Fail> {
    let kind = libc::CLONE_NEWTIME as u64;
    sys::process::unshare(kind).at(Step::Namespaces)?;
    if !plan.time_offsets.is_empty() {
        let file = fs::open(fs::CWD, c"/proc/self/timens_offsets", libc::O_WRONLY, 0)
            .at(Step::TimeOffsets)?;
        fs::write(file, &plan.time_offsets).at(Step::TimeOffsets)?;
    }
    let own = fs::open(
        fs::CWD,
        c"/proc/self/ns/time_for_children",
        libc::O_RDONLY,
        0,
    )
    .at(Step::TimeOffsets)?;
    sys::process::setns(own, kind).at(Step::TimeOffsets)
}
