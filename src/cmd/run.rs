//! `run`: create and start in one. In the foreground we are the container's parent: signals and the
//! terminal pass through, its status becomes ours, and it's deleted when it ends.

use std::path::Path;

use anyhow::Result;

use super::Context;
use super::create::{self, Kind};
use super::delete;
use crate::launch::{explain, failed, foreground};
use crate::sys::process;
use crate::{cli, fault, hooks};

/// `run`.
pub fn run(c: &Context, options: &cli::Run) -> Result<u8> {
    let kind = match options.detach {
        true => Kind::RunDetached,
        false => Kind::RunForeground,
    };
    if kind == Kind::RunForeground && !options.no_subreaper {
        process::set_subreaper().map_err(|e| failed(e, "prctl PR_SET_CHILD_SUBREAPER"))?;
    }
    // Before there is a child whose end could be missed.
    let signals = match kind {
        Kind::RunForeground => Some(foreground::Signals::block()?),
        _ => None,
    };
    let mask = signals.as_ref().map(|s| s.before);
    let mut made = create::make(c, &options.create, kind, mask)?;
    c.trace.begin("start");
    fault::point("run:made")?;
    let notify = match &made.record.runz.notify {
        Some(host) => Some(crate::notify::listen(made.container.path(), host)?),
        None => None,
    };
    let started = made
        .started
        .go(&|fail| explain::container(fail, &made.plan, &|| String::new()));
    let poststart = started.and_then(|()| {
        let state = made.record.spec_state("running", made.started.pid);
        let bundle = Path::new(&made.record.runz.bundle);
        hooks::run("poststart", &made.record.runz.poststart, &state, bundle)
    });
    if let Err(error) = poststart {
        made.started.kill();
        delete::destroy(c, &made.container, &made.record)?;
        return Err(error.context("unable to start container process"));
    }
    fault::point("run:started")?;
    c.log.release();
    let Some(signals) = signals else {
        if let Some(notify) = notify {
            notify.forward(made.started.pid)?;
        }
        return Ok(0);
    };
    let exit = foreground::wait(
        &made.started,
        made.console.take(),
        &signals,
        notify.as_ref(),
    );
    fault::point("run:ended")?;
    if !options.keep {
        delete::destroy(c, &made.container, &made.record)?;
    }
    Ok(exit?.status() as u8)
}
