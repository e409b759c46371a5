//! `zygote`: the daemon, and what is asked of it by hand.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::Context;
use crate::cli::{Action, Format, Zygote};
use crate::launch::exe;
use crate::sys::Errno;
use crate::zygote::client::{self, LONG};
use crate::zygote::daemon;
use crate::zygote::wire::{Reply, Request};
use crate::{launch, notify};

/// `zygote`.
pub fn zygote(c: &Context, options: &Zygote) -> Result<u8> {
    match options.action {
        Action::Serve => serve(c, options)?,
        Action::Status => {
            let Reply::Status(status) = ask(c, &Request::Status)? else {
                bail!("the daemon answered something else");
            };
            let text = match options.format {
                Format::Table => status.table(),
                Format::Json => serde_json::to_string(&status)? + "\n",
            };
            std::io::stdout()
                .write_all(text.as_bytes())
                .context("write to stdout")?;
        }
        Action::Reload => done(ask(c, &Request::Reload)?)?,
        Action::Stop => done(ask(c, &Request::Stop)?)?,
    }
    Ok(0)
}

fn serve(c: &Context, options: &Zygote) -> Result<()> {
    // Lest its file be busy, or replaced, as long as we run: and what we clone needs no protection.
    exe::run_from_sealed_copy()?;
    c.log.release();
    daemon::serve(&c.root.path, options.config.as_deref(), c.log, &|socket| {
        let mut stdout = std::io::stdout();
        writeln!(stdout, "runz zygote: serving {}", socket.display())
            .and_then(|()| stdout.flush())
            .context("write to stdout")?;
        match std::env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty()) {
            Some(socket) => notify::say(Path::new(&socket), b"READY=1"),
            None => Ok(()),
        }
    })
}

fn ask(c: &Context, request: &Request) -> Result<Reply> {
    let client = match client::connect(&c.root.path) {
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => {
            bail!(
                "no daemon serves {:?}: start one with `runz zygote serve`",
                c.root.path
            )
        }
        other => other.map_err(|e| launch::failed(e, "connect to the daemon"))?,
    };
    client.ask(request)?;
    Ok(client.answer(Instant::now() + LONG)?.0)
}

fn done(reply: Reply) -> Result<()> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Refused(why) => bail!("{why}"),
        _ => bail!("the daemon answered something else"),
    }
}
