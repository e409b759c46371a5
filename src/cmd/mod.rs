//! The verbs, one a file.

pub mod completion;
mod create;
mod delete;
mod events;
mod exec;
pub mod features;
mod from;
pub mod keep;
mod kill;
mod list;
mod pause;
mod ps;
mod record;
mod run;
pub mod spec;
mod start;
mod state;
mod update;
mod zygote;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use clap::ValueEnum;

use crate::cli::{self, Caller, CgroupManager, Command, Global, Prepared, Root};
use crate::log::Log;
use crate::trace::Trace;
use crate::{cgroup, host, launch, sys};

/// What every verb is given.
pub struct Context<'a> {
    /// The state root.
    pub root: Root,
    /// Errors of cgroup permissions are forgiven.
    pub rootless: bool,
    /// The caller is in a user namespace that isn't the initial one.
    pub in_user_namespace: bool,
    /// Who makes the cgroups.
    pub driver: cgroup::Driver,
    /// Where messages go.
    pub log: &'a Log,
    /// Where times go.
    pub trace: &'a Trace,
    /// The caller's working directory.
    pub cwd: PathBuf,
    /// Whether the zygote is asked.
    pub zygote: Prepared,
}

/// Does what `command` says; its exit code. `begun` is when the process did (CLOCK_MONOTONIC, ns).
pub fn run(global: &Global, command: &Command, log: &Log, begun: u64) -> Result<u8> {
    let trace = Trace::new(global.trace.as_deref(), begun)?;
    let result = perform(global, command, log, &trace);
    let written = trace.write(name(command), result.as_ref().ok().copied());
    // What was done is done; and if it failed, that is what there is to say.
    if let Err(error) = written {
        log.warn(crate::log::sentence(&error));
    }
    result
}

fn perform(global: &Global, command: &Command, log: &Log, trace: &Trace) -> Result<u8> {
    match command {
        Command::Completion(options) => {
            trace.begin("print");
            return completion::completion(options).map(|()| 0);
        }
        Command::Spec(options) => {
            trace.begin("write");
            let (uid, gid) = sys::cred::effective_ids();
            return spec::spec(options, uid, gid).map(|()| 0);
        }
        Command::Features(_) => {
            trace.begin("print");
            return features::print().map(|()| 0);
        }
        _ => {}
    }
    trace.begin("context");
    let c = context(global, log, trace)?;
    match command {
        Command::Create(options) => create::create(&c, options)
            .context("runc create failed")
            .with_context(|| verb("create", &options.id)),
        Command::Run(options) => run::run(&c, options)
            .context("runc run failed")
            .with_context(|| verb("run", &options.create.id)),
        Command::Exec(options) => exec::exec(&c, options)
            .context("exec failed")
            .with_context(|| verb("exec", &options.id)),
        Command::Start(options) => {
            start::start(&c, options).with_context(|| verb("start", &options.id))
        }
        Command::Kill(options) => {
            kill::kill(&c, options).with_context(|| verb("kill", &options.id))
        }
        Command::Delete(options) => {
            delete::delete(&c, options).with_context(|| verb("delete", &options.id))
        }
        Command::State(options) => {
            state::state(&c, options).with_context(|| verb("state", &options.id))
        }
        Command::List(options) => list::list(&c, options),
        Command::Ps(options) => ps::ps(&c, options).with_context(|| verb("ps", &options.id)),
        Command::Pause(options) => {
            pause::pause(&c, &options.id).with_context(|| verb("pause", &options.id))
        }
        Command::Resume(options) => {
            pause::resume(&c, &options.id).with_context(|| verb("resume", &options.id))
        }
        Command::Update(options) => {
            update::update(&c, options).with_context(|| verb("update", &options.id))
        }
        Command::Events(options) => {
            events::events(&c, options).with_context(|| verb("events", &options.id))
        }
        Command::Zygote(options) => zygote::zygote(&c, options).context("zygote"),
        Command::Checkpoint(_) => Err(anyhow::anyhow!("checkpoint is not in this build")),
        Command::Restore(_) => Err(anyhow::anyhow!("restore is not in this build")),
        Command::Completion(_) | Command::Spec(_) | Command::Features(_) => Ok(0),
    }
}

/// The verb.
fn name(command: &Command) -> &'static str {
    match command {
        Command::Checkpoint(_) => "checkpoint",
        Command::Completion(_) => "completion",
        Command::Create(_) => "create",
        Command::Delete(_) => "delete",
        Command::Events(_) => "events",
        Command::Exec(_) => "exec",
        Command::Features(_) => "features",
        Command::Kill(_) => "kill",
        Command::List(_) => "list",
        Command::Pause(_) => "pause",
        Command::Ps(_) => "ps",
        Command::Restore(_) => "restore",
        Command::Resume(_) => "resume",
        Command::Run(_) => "run",
        Command::Spec(_) => "spec",
        Command::Start(_) => "start",
        Command::State(_) => "state",
        Command::Update(_) => "update",
        Command::Zygote(_) => "zygote",
    }
}

/// Why the descriptors that a program is to be given can't be: one isn't open. To be asked before we
/// open any, for one of ours could take its number, and would be passed on.
pub fn missing_descriptor(command: &Command) -> Option<anyhow::Error> {
    let (listen, preserve, context) = match command {
        Command::Create(o) => (create::listen_fds(), o.preserve_fds, "runc create failed"),
        Command::Run(o) => (
            create::listen_fds(),
            o.create.preserve_fds,
            "runc run failed",
        ),
        Command::Exec(o) => (0, o.preserve_fds, "exec failed"),
        _ => return None,
    };
    let closed = |n: &u32| {
        let number = i32::try_from(n.saturating_add(3)).unwrap_or(i32::MAX);
        sys::fs::inherited(number).err()
    };
    let n = (0..listen.saturating_add(preserve)).find(|n| closed(n).is_some())?;
    let errno = closed(&n)?;
    let name = match n.checked_sub(listen) {
        None => format!("LISTEN_FDS: descriptor {n} (of {listen})"),
        Some(n) => format!("unable to stat preserved-fd {n} (of {preserve})"),
    };
    Some(launch::failed(errno, name).context(context))
}

/// Sends a child's terminal and its pidfd (`child`) to the sockets that were named; `kind` is what the pidfd's
/// receiver reads. The terminal's master, where no socket took it: it's ours to serve.
fn give_away(
    c: &Context,
    mut console: Option<OwnedFd>,
    child: BorrowedFd,
    console_socket: &Option<PathBuf>,
    pidfd_socket: &Option<PathBuf>,
    kind: &[u8],
) -> Result<Option<OwnedFd>> {
    if let (Some(path), Some(master)) = (console_socket, &console) {
        let path = cli::absolute(&c.cwd, path);
        launch::hand_over("console socket", &path, b"/dev/ptmx", master.as_fd())?;
        console = None;
    }
    if let Some(master) = &console {
        launch::foreground::take(master)?;
    }
    if let Some(path) = pidfd_socket {
        let path = cli::absolute(&c.cwd, path);
        launch::hand_over("pidfd socket", &path, kind, child)?;
    }
    Ok(console)
}

fn verb(name: &str, id: &str) -> String {
    format!("{name} {id:?}")
}

/// The exit code of a failure: 255 for `exec`, so that it differs from most programs' own.
pub fn failure(command: &Command) -> u8 {
    match command {
        Command::Exec(_) => 255,
        _ => 1,
    }
}

fn context<'a>(global: &Global, log: &'a Log, trace: &'a Trace) -> Result<Context<'a>> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let caller = Caller {
        euid: sys::cred::effective_ids().0,
        in_userns: host::in_user_namespace(),
        user: std::env::var_os("USER"),
        xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
        cwd: cwd.clone(),
    };
    Ok(Context {
        root: global.root(&caller)?,
        in_user_namespace: caller.in_userns,
        rootless: global.rootless_cgroups(&caller, || None),
        driver: match global.cgroups() {
            CgroupManager::Cgroupfs => cgroup::Driver::Fs,
            CgroupManager::Systemd => cgroup::Driver::Systemd,
            CgroupManager::Disabled => cgroup::Driver::None,
        },
        log,
        trace,
        cwd,
        zygote: prepared(global)?,
    })
}

/// `--zygote`, or what the environment says: engines pass no flags of ours.
fn prepared(global: &Global) -> Result<Prepared> {
    if let Some(given) = global.zygote {
        return Ok(given);
    }
    match std::env::var_os("RUNZ_ZYGOTE") {
        Some(text) if !text.is_empty() => {
            let text = text.to_string_lossy();
            let known = Prepared::from_str(&text, false);
            known.map_err(|_| {
                anyhow::anyhow!("RUNZ_ZYGOTE: {text:?} is not one of auto, off, require")
            })
        }
        _ => Ok(Prepared::Auto),
    }
}
