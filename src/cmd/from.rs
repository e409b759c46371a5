//! `run --from`: a warm container of a pool is handed over. Where there is none, the caller makes one
//! of the pool's bundle.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::{Context, create, delete};
use crate::bundle::Changes;
use crate::cli::{self, Prepared};
use crate::launch::foreground::{self, Signals, Target};
use crate::launch::{self, failed};
use crate::store::{self, Container, Record};
use crate::sys::process::{self, Exit};
use crate::sys::{fs, socket};
use crate::zygote::caller::Caller;
use crate::zygote::client::{self, Client};
use crate::zygote::warm::{self, Answer, Order, Provision};
use crate::zygote::wire::{Reply, Request};
use crate::{fault, hooks, log};

/// How long its keeper may take to prepare a container that was promised.
const PREPARE_WAIT: Duration = Duration::from_secs(10);

/// What `run --from` is asked for.
pub struct Asked<'a> {
    /// The pool.
    pub pool: &'a str,
    /// What it shall be otherwise than the pool's config says.
    pub changes: Changes,
    /// Limits, as JSON.
    pub resources: Option<String>,
}

/// What the flags ask for; `None`: nothing of a pool.
pub fn asked<'a>(c: &Context, options: &'a cli::Run) -> Result<Option<Asked<'a>>> {
    let Some(pool) = &options.from else {
        let only = [
            (!options.env.is_empty(), "env"),
            (options.cwd.is_some(), "cwd"),
            (options.hostname.is_some(), "hostname"),
            (options.resources.is_some(), "resources"),
        ];
        if let Some((_, flag)) = only.iter().find(|(given, _)| *given) {
            bail!("--{flag}: only with --from; config.json says it otherwise");
        }
        return Ok(None);
    };
    ensure!(
        options.create.bundle.is_none(),
        "--bundle: not with --from, whose pool has one"
    );
    let resources = match &options.resources {
        Some(path) => Some(super::update::read(c, path)?),
        None => None,
    };
    Ok(Some(Asked {
        pool,
        changes: Changes {
            args: options.args.clone(),
            env: options.env.clone(),
            cwd: options.cwd.clone(),
            hostname: options.hostname.clone(),
        },
        resources,
    }))
}

/// The bundle of a pool, for who has to make a container himself.
pub fn bundle(c: &Context, pool: &str) -> Result<std::path::PathBuf> {
    let path = crate::zygote::directory(&c.root.path).join("pools.json");
    let text = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            bail!("--from {pool:?}: no such pool; see runz zygote provision")
        }
        other => other.with_context(|| format!("read {path:?}"))?,
    };
    let pools: Vec<Provision> =
        serde_json::from_slice(&text).with_context(|| format!("{path:?}"))?;
    let found = pools.into_iter().find(|p| p.name == pool);
    let found = found.with_context(|| format!("--from {pool:?}: no such pool"))?;
    Ok(found.bundle)
}

/// What a warm container was asked of, and what we were before signals were blocked.
pub struct Waiting {
    client: Client,
    caller: Caller,
}

/// Asks for a warm container. `None`: there is none, go the cold way.
pub fn ask(c: &Context, options: &cli::Run, asked: &Asked) -> Result<Option<Waiting>> {
    store::check_id(&options.create.id)?;
    if store::leftovers(&c.root, &options.create.id)?.is_some() {
        bail!("container with given ID already exists");
    }
    c.trace.begin("ask for a warm container");
    let ask = || -> Result<_> {
        check_fit(options)?;
        let client =
            client::connect(&c.root.path).map_err(|e| failed(e, "connect to the zygote"))?;
        client.ask(&Request::Warm {
            pool: asked.pool.to_owned(),
        })?;
        // While the keeper is woken.
        c.trace.begin("look at the caller");
        let caller = Caller::look()?;
        c.trace.begin("ask for a warm container");
        Ok(Waiting { client, caller })
    };
    or_cold(c, ask())
}

/// Takes the warm container that was asked for and runs it; its exit code. `None`: there is none.
pub fn run(
    c: &Context,
    options: &cli::Run,
    asked: &Asked,
    waiting: Waiting,
    signals: Option<&Signals>,
) -> Result<Option<u8>> {
    match or_cold(c, promised(c, options, asked, waiting))? {
        Some(prepared) => prepared.start(c, options, signals).map(Some),
        None => Ok(None),
    }
}

/// Where there is no warm container the cold way is gone, unless the caller wants no other.
fn or_cold<T>(c: &Context, result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if c.zygote == Prepared::Require => Err(error.context("--zygote=require")),
        Err(error) => {
            let why = log::sentence(&error);
            c.log
                .debug(format_args!("zygote: no warm container: {why}"));
            Ok(None)
        }
    }
}

/// A warm container that waits for its caller's word.
struct Warm {
    connection: OwnedFd,
    directory: String,
    pid: i32,
    pidfd: OwnedFd,
    /// Where init is told to go, if not by its keeper.
    channel: Option<OwnedFd>,
    console: Option<OwnedFd>,
    /// What it has written to it already.
    early: Vec<u8>,
}

/// What a warm container can't be given.
fn check_fit(options: &cli::Run) -> Result<()> {
    let create = &options.create;
    let environment = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let unfit = [
        (environment("NOTIFY_SOCKET"), "NOTIFY_SOCKET is set"),
        (create::listen_fds() > 0, "LISTEN_FDS is set"),
        (create.preserve_fds > 0, "--preserve-fds"),
        (create.no_pivot, "--no-pivot"),
        (create.no_new_keyring, "--no-new-keyring"),
    ];
    match unfit.iter().find(|(unfit, _)| *unfit) {
        Some((_, why)) => bail!("{why}"),
        None => Ok(()),
    }
}

/// Says what is wanted. An error says why there is none; then nothing has happened.
fn promised(c: &Context, options: &cli::Run, asked: &Asked, waiting: Waiting) -> Result<Warm> {
    let Waiting { client, caller } = waiting;
    let order = Order {
        id: options.create.id.clone(),
        changes: asked.changes.clone(),
        resources: asked.resources.clone(),
        streams: launch::external_descriptors(),
        foreground: !options.detach,
        caller,
    };
    // One that is closed is the container's as a closed one is when it's made the cold way.
    let null = fs::open(fs::CWD, c"/dev/null", libc::O_RDWR, 0)
        .map_err(|e| failed(e, "open /dev/null"))?;
    let streams = [0, 1, 2].map(|n| fs::inherited(n).unwrap_or(null.as_fd()));
    let sent = warm::send(client.fd(), &order, &streams);
    // Where that failed he has hung up already, and this says why.
    let patience = client::patience(c.zygote);
    match client.answer(Instant::now() + patience)?.0 {
        Reply::Done => {}
        Reply::Refused(why) => bail!("{why}"),
        _ => bail!("the zygote answered something else"),
    }
    sent?;
    let connection = client.into_fd();
    c.trace.begin("wait for its keeper");
    let deadline = Some(Instant::now() + PREPARE_WAIT);
    match warm::receive::<Answer>(&connection, deadline)? {
        Some((
            Answer::Prepared {
                directory,
                pid,
                direct,
            },
            fds,
        )) => {
            let mut fds = fds.into_iter().peekable();
            Ok(Warm {
                directory,
                pid,
                pidfd: fds.next().context("no pidfd came with it")?,
                channel: fds.next_if(|_| direct),
                console: fds.next(),
                early: Vec::new(),
                connection,
            })
        }
        Some((Answer::Refused(why), _)) => bail!("{why}"),
        Some(_) => bail!("its keeper answered something else"),
        None => bail!("its keeper is gone"),
    }
}

impl Warm {
    fn start(mut self, c: &Context, options: &cli::Run, signals: Option<&Signals>) -> Result<u8> {
        c.trace.begin("settle");
        let adopted = self.adopt(c, options);
        let (container, record) = adopted.map_err(|error| self.abandon(c, None, error))?;
        let begun = self.begin(c, options, &record);
        let console = begun.map_err(|error| self.abandon(c, Some(&record), error))?;
        c.trace.begin("poststart");
        let state = record.spec_state("running", self.pid);
        let bundle = Path::new(&record.runz.bundle);
        let told = hooks::run("poststart", &record.runz.poststart, &state, bundle)
            .and_then(|()| fault::point("from:running"));
        if let Err(error) = told {
            self.kill();
            if let Err(left) = delete::destroy(c, &container, &record) {
                c.log.warn(log::sentence(&left));
            }
            return Err(error.context("unable to start container process"));
        }
        c.log.release();
        let Some(signals) = signals else {
            return Ok(0);
        };
        c.trace.begin("wait");
        let early = std::mem::take(&mut self.early);
        let failed = Cell::new(None);
        let exit = || match warm::receive::<Answer>(&self.connection, None) {
            Ok(Some((
                Answer::Ended {
                    signal: true,
                    number,
                },
                _,
            ))) => Ok(Exit::Signal(number)),
            Ok(Some((Answer::Ended { number, .. }, _))) => Ok(Exit::Code(number)),
            Ok(Some((Answer::Failed(why), _))) => {
                failed.set(Some(why));
                bail!("it couldn't be started")
            }
            _ => bail!("the container's keeper is gone, and its exit status with it"),
        };
        let target = Target {
            pid: self.pid,
            pidfd: self.pidfd.as_fd(),
            end: self.connection.as_fd(),
            exit: &exit,
        };
        let exit = foreground::wait_for(&target, console, early, signals, None);
        if let Some(why) = failed.take() {
            return Err(self.abandon(c, Some(&record), anyhow!(why)));
        }
        if exit.is_err() {
            self.kill();
        }
        fault::point("from:ended")?;
        if !options.keep {
            delete::destroy(c, &container, &record)?;
        }
        Ok(exit?.status() as u8)
    }

    /// Gives it its id.
    fn adopt(&self, c: &Context, options: &cli::Run) -> Result<(Container, Record)> {
        let create = &options.create;
        let kind = match options.detach {
            true => create::Kind::RunDetached,
            false => create::Kind::RunForeground,
        };
        create::check_terminal(
            self.console.is_some(),
            kind,
            create.console_socket.is_some(),
        )?;
        fault::point("from:prepared")?;
        let from = crate::zygote::directory(&c.root.path).join("warm");
        store::adopt(&c.root, &from.join(&self.directory), &create.id)
    }

    /// Everything up to a running program, or one that will be heard of when it has ended. The terminal's
    /// master is ours where nobody else took it.
    fn begin(
        &mut self,
        c: &Context,
        options: &cli::Run,
        record: &Record,
    ) -> Result<Option<OwnedFd>> {
        fault::point("from:adopted")?;
        let create = &options.create;
        let socket = &create.console_socket;
        let (console, pidfd) = (self.console.take(), self.pidfd.as_fd());
        if let Some(master) = console.as_ref().filter(|_| socket.is_none()) {
            self.early = foreground::take_late(master)?;
        }
        let console =
            super::give_away(c, console, pidfd, socket, &create.pidfd_socket, b"standard")?;
        if let Some(path) = &create.pid_file {
            create::write_pid_file(&cli::absolute(&c.cwd, path), self.pid)?;
        }
        if let Some(master) = &console {
            foreground::resize(master.as_fd());
        }
        fault::point("from:settled")?;
        c.trace.begin("execve");
        if let Some(channel) = self.channel.take() {
            launch::go(channel.as_fd())?;
        }
        socket::send(&self.connection, warm::GO, None)
            .map_err(|e| failed(e, "tell its keeper to go on"))?;
        if !warm::is_told(!options.detach, record) {
            return Ok(console);
        }
        match warm::receive::<Answer>(&self.connection, None)? {
            Some((Answer::Running, _)) => Ok(console),
            Some((Answer::Failed(why), _)) => bail!("{why}"),
            Some(_) => bail!("its keeper answered something else"),
            None => bail!("its keeper is gone"),
        }
    }

    fn kill(&self) {
        let _ = process::pidfd_send_signal(&self.pidfd, libc::SIGKILL);
        let _ = process::wait_gone(self.pidfd.as_fd(), PREPARE_WAIT);
    }

    /// Gives it up for this reason. Its keeper removes it, which is waited for; unless it's him who has
    /// died. `adopted`: it had its id, so there are hooks to be run.
    fn abandon(&self, c: &Context, adopted: Option<&Record>, why: anyhow::Error) -> anyhow::Error {
        let _ = socket::say_no_more(&self.connection);
        let deadline = Instant::now() + PREPARE_WAIT;
        while let Ok(Some(_)) = warm::receive::<Answer>(&self.connection, Some(deadline)) {}
        if let Some(record) = adopted {
            if let Ok((container, his)) = store::open(&c.root, &record.id)
                && his.init_process_pid == self.pid
            {
                self.kill();
                if let Err(left) = delete::remove(c, &container, record) {
                    c.log.warn(log::sentence(&left));
                }
            }
            delete::poststop(c, record);
        }
        why.context("unable to start container process")
    }
}
