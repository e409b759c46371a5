//! `zygote`: the daemon, and what is asked of it by hand.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::{Context, delete, keep};
use crate::cli::{self, Action, Format, Prepared, Root, Zygote};
use crate::launch::exe;
use crate::log::{Log, sentence};
use crate::sys::Errno;
use crate::trace::Trace;
use crate::zygote::Work;
use crate::zygote::client::{self, LONG};
use crate::zygote::daemon;
use crate::zygote::warm::{self, Provision};
use crate::zygote::wire::{Reply, Request};
use crate::{launch, notify};

/// `zygote`.
pub fn zygote(c: &Context, options: &Zygote) -> Result<u8> {
    check(options)?;
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
        Action::Provision => {
            let name = options
                .name
                .clone()
                .context("provision: --name is missing")?;
            let bundle = match &options.bundle {
                Some(path) => cli::absolute(&c.cwd, path),
                None => c.cwd.clone(),
            };
            let request = Request::Provision(Provision {
                name,
                bundle,
                count: options.count.unwrap_or(1),
                until: options.until.unwrap_or_default(),
                freeze: options.freeze,
            });
            // As long as it takes to make them: the daemon says when one can't be.
            done(ask_until(c, &request, None)?)?;
        }
        Action::Drop => {
            let name = options.pool.clone().context("drop: which pool?")?;
            done(ask(c, &Request::Drop { name })?)?;
        }
        Action::Reload => done(ask(c, &Request::Reload)?)?,
        Action::Stop => done(ask(c, &Request::Stop)?)?,
    }
    Ok(0)
}

fn serve(c: &Context, options: &Zygote) -> Result<()> {
    // Lest its file be busy, or replaced, as long as we run: and what we clone needs no protection.
    exe::run_from_sealed_copy()?;
    if let Err(error) = exe::gather() {
        c.log.debug(sentence(&error));
    }
    c.log.release();
    daemon::serve(
        &c.root.path,
        options.config.as_deref(),
        c.log,
        &|socket| {
            let mut stdout = std::io::stdout();
            writeln!(stdout, "runz zygote: serving {}", socket.display())
                .and_then(|()| stdout.flush())
                .context("write to stdout")?;
            match std::env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty()) {
                Some(socket) => notify::say(Path::new(&socket), b"READY=1"),
                None => Ok(()),
            }
        },
        &|work| in_clone(c, work),
    )
}

/// What a flag is for, and for what alone.
fn check(o: &Zygote) -> Result<()> {
    let provision = o.action == Action::Provision;
    let flags = [
        (o.name.is_some() && !provision, "--name", "provision"),
        (o.bundle.is_some() && !provision, "--bundle", "provision"),
        (o.count.is_some() && !provision, "--count", "provision"),
        (o.until.is_some() && !provision, "--until", "provision"),
        (o.freeze && !provision, "--freeze", "provision"),
        (
            o.config.is_some() && o.action != Action::Serve,
            "--config",
            "serve",
        ),
        (
            o.pool.is_some() && o.action != Action::Drop,
            "a pool's name",
            "drop",
        ),
    ];
    match flags.iter().find(|(wrong, ..)| *wrong) {
        Some((_, flag, action)) => bail!("{flag}: only with {action}"),
        None => Ok(()),
    }
}

/// What a clone of the daemon does, which has none of its descriptors but the standard streams.
fn in_clone(c: &Context, work: Work) -> Result<()> {
    let log = Log::stderr();
    let trace = Trace::new(None, 0)?;
    let c = Context {
        root: Root {
            path: crate::zygote::directory(&c.root.path).join("warm"),
            explicit: true,
            sticky: false,
        },
        log: &log,
        trace: &trace,
        cwd: c.cwd.clone(),
        zygote: Prepared::Off,
        ..*c
    };
    match work {
        Work::Keep {
            provision,
            directory,
            daemon,
        } => keep::keep(
            &c,
            keep::Keep {
                provision,
                directory,
                daemon,
            },
        ),
        Work::Remove(names) => {
            for name in names {
                let options = cli::Delete {
                    force: true,
                    id: name.clone(),
                };
                // Nobody was given it, so its hooks know nothing of it.
                if let Err(error) = delete::take_away(&c, &options) {
                    log.warn(sentence(&error));
                }
            }
            Ok(())
        }
    }
}

fn ask(c: &Context, request: &Request) -> Result<Reply> {
    ask_until(c, request, Some(Instant::now() + LONG))
}

fn ask_until(c: &Context, request: &Request, deadline: Option<Instant>) -> Result<Reply> {
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
    if deadline.is_none() {
        warm::await_readable(client.fd(), None)?;
    }
    let deadline = deadline.unwrap_or_else(|| Instant::now() + LONG);
    Ok(client.answer(deadline)?.0)
}

fn done(reply: Reply) -> Result<()> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Refused(why) => bail!("{why}"),
        _ => bail!("the daemon answered something else"),
    }
}
