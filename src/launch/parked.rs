//! A warm container's init, from the moment when there is a caller.

use std::os::fd::BorrowedFd;

use anyhow::{Result, bail};

use super::{Started, explain, failed};
use crate::cgroup::Cgroup;
use crate::init::message::{Fail, GO, Message};
use crate::init::park::Orders;
use crate::plan::Plan;
use crate::sys::{Errno, socket};

/// Gives a parked init its orders and, unless it has a terminal, its standard streams. It goes to work,
/// until only execve is left.
pub fn order(started: &Started, orders: &Orders, streams: &[BorrowedFd]) -> Result<()> {
    let orders = orders
        .encode()
        .map_err(|e| failed(e, "process: arguments and environment"))?;
    match socket::send_many(&started.channel, &orders, streams) {
        // It has died: its end of the channel tells why.
        Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
        Err(errno) => Err(failed(errno, "tell the container's init what to run")),
    }
}

/// Where somebody else may tell an init that has its orders to go, by [`go`]; `None`: nobody may, as
/// something is to be done when it's ready.
pub fn channel<'a>(started: &'a mut Started, plan: &Plan) -> Result<Option<BorrowedFd<'a>>> {
    started.let_go(plan.process.as_ref(), plan.seccomp.as_ref())
}

/// Tells an init to go. Its parent, who is told next, sees what becomes of it.
pub fn go(channel: BorrowedFd) -> Result<()> {
    match socket::send(channel, &[GO], None) {
        Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
        Err(errno) => Err(failed(errno, "tell the container's init to go on")),
    }
}

/// Lets an init that has its orders run its program, unless it was told already (`gone`). `plan` is what
/// it was made by, its process already the ordered one.
pub fn resume(
    started: &mut Started,
    gone: bool,
    plan: &Plan,
    cgroup: Option<&Cgroup>,
    state: &dyn Fn(&str, i32) -> Vec<u8>,
) -> Result<()> {
    started.told = gone.then_some(GO);
    let explained = |fail: &Fail| {
        let why = explain::container(fail, plan, &String::new);
        format!("error during container init: {why}")
    };
    loop {
        match started.next(cgroup, &explained)? {
            Message::Failed(fail) => bail!("{}", explained(&fail)),
            Message::Listener { number } => {
                let state = state("creating", started.pid);
                started.hand_over_listener(plan.seccomp.as_ref(), number, &state)?;
            }
            Message::Ready { machine } => {
                started.ready(plan.process.as_ref(), machine)?;
                break;
            }
            _ => {}
        }
    }
    started.go(&|fail| explain::container(fail, plan, &|| started.hook_output()))
}
