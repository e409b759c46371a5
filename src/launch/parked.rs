//! A warm container's init, from the moment when there is a caller.

use std::os::fd::BorrowedFd;

use anyhow::{Result, bail};

use super::{Started, explain, failed};
use crate::init::message::{Fail, Message};
use crate::init::park::Orders;
use crate::plan::Plan;
use crate::sys::{Errno, socket};

/// Gives a parked init its orders and, unless it has a terminal, its standard streams, and serves it
/// until only execve is left. `plan` is what it was made by, its process already the ordered one;
/// `meanwhile` is done while init works.
pub fn resume(
    started: &mut Started,
    plan: &Plan,
    orders: &Orders,
    streams: &[BorrowedFd],
    state: &dyn Fn(&str, i32) -> Vec<u8>,
    meanwhile: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let orders = orders
        .encode()
        .map_err(|e| failed(e, "process: arguments and environment"))?;
    match socket::send_many(&started.channel, &orders, streams) {
        // It has died: its end of the channel tells why.
        Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => {}
        Err(errno) => return Err(failed(errno, "tell the container's init what to run")),
    }
    meanwhile()?;
    let explained = |fail: &Fail| {
        let why = explain::container(fail, plan, &String::new);
        format!("error during container init: {why}")
    };
    loop {
        match started.next(&explained)? {
            Message::Failed(fail) => bail!("{}", explained(&fail)),
            Message::Listener { number } => {
                let state = state("creating", started.pid);
                started.hand_over_listener(plan.seccomp.as_ref(), number, &state)?;
            }
            Message::Ready { machine } => return started.ready(plan.process.as_ref(), machine),
            _ => {}
        }
    }
}
