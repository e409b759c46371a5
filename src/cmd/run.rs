//! `run`: create and start in one. In the foreground we are the container's parent: signals and the
//! terminal pass through, its status becomes ours, and it's deleted when it ends.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Result;

use super::Context;
use super::create::{self, Kind};
use super::{delete, from, update};
use crate::cli::Prepared;
use crate::launch::{explain, failed, foreground};
use crate::sys::process;
use crate::{cli, fault, hooks, log, notify};

/// `run`.
pub fn run(c: &Context, options: &cli::Run) -> Result<u8> {
    let kind = match options.detach {
        true => Kind::RunDetached,
        false => Kind::RunForeground,
    };
    let asked = from::asked(c, options)?;
    if kind == Kind::RunForeground && !options.no_subreaper {
        process::set_subreaper().map_err(|e| failed(e, "prctl PR_SET_CHILD_SUBREAPER"))?;
    }
    let waiting = match &asked {
        Some(asked) if c.zygote != Prepared::Off => from::ask(c, options, asked)?,
        _ => None,
    };
    // Before there is a child whose end could be missed.
    let signals = match kind {
        Kind::RunForeground => Some(foreground::Signals::block()?),
        _ => None,
    };
    let mut create = options.create.clone();
    if let Some(asked) = &asked {
        if let Some(waiting) = waiting
            && let Some(code) = from::run(c, options, asked, waiting, signals.as_ref())?
        {
            return Ok(code);
        }
        create.bundle = Some(from::bundle(c, asked.pool)?);
    }
    let mask = signals.as_ref().map(|s| s.before);
    let changes = asked.as_ref().map(|asked| &asked.changes);
    let mut made = create::make(c, &create, changes, kind, mask)?;
    c.trace.begin("execve");
    let limits = asked.as_ref().and_then(|asked| asked.resources.as_deref());
    let notify = match begin(c, &mut made, limits) {
        Ok(notify) => notify,
        Err(error) => {
            made.started.kill();
            if let Err(left) = delete::destroy(c, &made.container, &made.record) {
                c.log.warn(log::sentence(&left));
            }
            return Err(error.context("unable to start container process"));
        }
    };
    c.log.release();
    let Some(signals) = signals else {
        if let Some(notify) = notify {
            c.trace.begin("notify");
            // The container runs, whatever its manager says.
            if let Err(error) = notify.forward(made.started.pid) {
                c.log.warn(log::sentence(&error));
            }
        }
        return Ok(0);
    };
    c.trace.begin("wait");
    let warn = |error: anyhow::Error| c.log.warn(log::sentence(&error));
    let exit = foreground::wait(
        &made.started,
        made.console.take(),
        &signals,
        notify.as_ref().map(|n| (n, &warn as _)),
    );
    fault::point("run:ended")?;
    if !options.keep {
        delete::destroy(c, &made.container, &made.record)?;
    }
    if let Some(notify) = &notify {
        notify.settle()?;
    }
    Ok(exit?.status() as u8)
}

/// The program runs, and its poststart hooks have run. The socket on which it will say that it's ready.
fn begin(
    c: &Context,
    made: &mut create::Made,
    limits: Option<&str>,
) -> Result<Option<notify::Socket>> {
    fault::point("run:made")?;
    if let Some(limits) = limits {
        update::limit(c, made.cgroup.as_ref(), limits)?;
    }
    if let Some(master) = &made.console {
        foreground::resize(master.as_fd());
    }
    let notify = match &made.record.runz.notify {
        Some(host) => Some(notify::listen(made.container.path(), Some(host))?),
        None => None,
    };
    made.started
        .go(&|fail| explain::container(fail, &made.plan, &|| made.started.hook_output()))?;
    c.trace.child_left();
    c.trace.begin("poststart");
    let state = made.record.spec_state("running", made.started.pid);
    let bundle = Path::new(&made.record.runz.bundle);
    hooks::run("poststart", &made.record.runz.poststart, &state, bundle)?;
    fault::point("run:started")?;
    Ok(notify)
}
