//! `create`: everything up to the start barrier. The first half of `run`, too.

use std::cell::{Cell, OnceCell};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Context, record};
use crate::cgroup::Cgroup;
use crate::cli::Prepared;
use crate::decided::{self, Decided};
use crate::init::message::{COMMITTED, GO};
use crate::launch::{self, Started, failed};
use crate::plan::{Options, Plan};
use crate::store::{self, Container, Record};
use crate::sys::{Errno, fs};
use crate::zygote::wire::{FILTER, Request};
use crate::zygote::{self, client, plans, shape};
use crate::{bundle, cgroup, cli, fault, hooks, host, log, rdt, seccomp};

/// `create`.
pub fn create(c: &Context, options: &cli::Create) -> Result<u8> {
    let made = make(c, options, None, Kind::Create, None)?;
    made.started.committed()?;
    fault::point("create:released")?;
    // We end now. To give it back piece by piece would be to copy the pages that init shares.
    std::mem::forget(made);
    Ok(0)
}

/// For what a container is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// With a start barrier.
    Create,
    /// To run at once; nobody waits for it.
    RunDetached,
    /// To run at once, with us as its parent.
    RunForeground,
    /// Warm: parked before anything that its caller may want otherwise.
    Parked,
    /// Warm: to run at once, until it says that it's ready.
    Ready,
}

impl Kind {
    /// Made before anybody asked for it.
    fn is_warm(self) -> bool {
        matches!(self, Kind::Parked | Kind::Ready)
    }
}

/// A container that exists, its init parked.
pub struct Made {
    /// Its init.
    pub started: Started,
    /// Its directory.
    pub container: Container,
    /// Its Record.
    pub record: Record,
    /// Its cgroup.
    pub cgroup: Option<Cgroup>,
    /// What was decided.
    pub plan: Plan,
    /// The master of its terminal, in the foreground and of a warm one.
    pub console: Option<std::os::fd::OwnedFd>,
}

/// Makes a container. Whatever fails, nothing of it is left. `changes`: what the config shall say
/// instead.
pub fn make(
    c: &Context,
    options: &cli::Create,
    changes: Option<&bundle::Changes>,
    kind: Kind,
    signal_mask: Option<libc::sigset_t>,
) -> Result<Made> {
    c.trace.begin("bundle");
    let resolve = |path: &Path| cli::absolute(&c.cwd, path);
    let directory = match &options.bundle {
        Some(path) => resolve(path),
        None => c.cwd.clone(),
    };
    store::check_id(&options.id)?;
    let config = bundle::read(&directory)?;
    // A warm one is the daemon's child, whose own manager is none of its business.
    let notify = std::env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty() && !kind.is_warm());
    let reports = notify.is_some() || kind == Kind::Ready;
    let state_directory = c.root.path.join(&options.id);
    let plan_options = Options {
        id: options.id.clone(),
        bundle: directory.clone(),
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        preserve_fds: options.preserve_fds,
        listen_fds: listen_fds(),
        notify: reports.then(|| state_directory.join("notify")),
        rootless: c.rootless,
    };
    let (mut decided, kept) = decide(c, &config, changes, &plan_options)?;
    // Beside where it says: there are several of a pool's config.
    if let Some(path) = &mut decided.plan.cgroups_path
        && (kind.is_warm() || changes.is_some())
    {
        path.set_file_name(&options.id);
    }
    let plan = &decided.plan;
    let terminal = plan.process.as_ref().is_some_and(|p| p.terminal);
    check_terminal(terminal, kind, options.console_socket.is_some())?;
    for warning in decided.warnings.iter().chain(&plan.warnings) {
        c.log.warn(warning);
    }
    if let Some(seccomp) = &plan.seccomp {
        for warning in &seccomp.warnings {
            c.log.debug(warning);
        }
        c.log
            .debug(format_args!("seccomp filter flags: {}", seccomp.flags));
    }
    check_rootfs(plan)?;
    // Nobody has anything to do between the Record and the program.
    let at_once = !terminal
        && notify.is_none()
        && changes.is_none()
        && options.pid_file.is_none()
        && options.pidfd_socket.is_none();
    let word = match kind {
        Kind::Create => Some(COMMITTED),
        Kind::RunDetached | Kind::RunForeground if at_once => Some(GO),
        _ => None,
    };

    c.trace.begin("ask for a kit");
    let asked = match connect(c)? {
        Some(client) => {
            let seen = || match kept {
                Kept::Whole => plans::Seen::default(),
                _ if changes.is_some() => plans::Seen::default(),
                _ => plans::Seen::new(&config, &plan_options, kept == Kept::Filter),
            };
            ask(c, client, plan, seen, &plan_options)?
        }
        None => None,
    };
    c.trace.begin("reserve");
    fault::point("create:planned")?;
    let container = store::reserve(&c.root, &options.id)?;
    let result = build(
        c,
        options,
        kind,
        signal_mask,
        &container,
        &decided,
        &directory,
        notify,
        asked,
        word,
    );
    match result {
        Ok((started, record, cgroup, console)) => Ok(Made {
            started,
            container,
            record,
            cgroup,
            plan: decided.plan,
            console,
        }),
        Err(error) => {
            let _ = container.remove();
            Err(error)
        }
    }
}

/// How much of a decision was there already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Nothing,
    /// The compiled filter.
    Filter,
    Whole,
}

/// Decides a config, as far as that wasn't done when the zygote saw it before.
fn decide(
    c: &Context,
    config: &[u8],
    changes: Option<&bundle::Changes>,
    options: &Options,
) -> Result<(Decided, Kept)> {
    let mut host = host::Host::look(c.in_user_namespace, false);
    if c.zygote != Prepared::Off && changes.is_none() {
        c.trace.begin("kept plan");
        let plans = zygote::plans(&c.root.path);
        // Where there are none, nothing is hashed.
        if plans.is_dir() {
            if let Some(decided) = plans::look(&plans, config, options, &mut host) {
                return Ok((decided, Kept::Whole));
            }
            if let Some(decided) = plans::filter::decide(&plans, config, options, &mut host) {
                return Ok((decided, Kept::Filter));
            }
        }
    }
    let mut bundle = bundle::understand(config, &options.bundle)?;
    if let Some(changes) = changes {
        changes.apply(&mut bundle.spec);
    }
    c.trace.begin("plan");
    let decided = decided::decide(&bundle, options, &mut host)?;
    Ok((decided, Kept::Nothing))
}

type Built = (
    Started,
    Record,
    Option<Cgroup>,
    Option<std::os::fd::OwnedFd>,
);

#[expect(
    clippy::too_many_arguments,
    reason = "one caller: the second half of `make`"
)]
fn build(
    c: &Context,
    options: &cli::Create,
    kind: Kind,
    signal_mask: Option<libc::sigset_t>,
    container: &Container,
    decided: &Decided,
    bundle: &Path,
    notify: Option<std::ffi::OsString>,
    asked: Option<client::Asked>,
    word: Option<u8>,
) -> Result<Built> {
    let Decided {
        plan, annotations, ..
    } = decided;
    fault::point("create:reserved")?;
    if notify.is_some() || kind == Kind::Ready {
        std::fs::create_dir(container.path().join("notify"))
            .context("make the folder of the notify socket")?;
    }
    c.trace.begin("cgroup");
    let request = cgroup::Request {
        id: &options.id,
        cgroups_path: plan.cgroups_path.as_deref(),
        settings: &plan.resources,
        rootless: c.rootless,
    };
    let place = c.driver.place(&request)?;
    if let Some(place) = &place {
        container.note("cgroup", place.path())?;
        fault::point("create:noted")?;
    }
    let cgroup = match &place {
        Some(place) => place.create(&request)?,
        None => None,
    };
    let bundle_text = bundle.to_string_lossy().into_owned();
    let state = |status: &str, pid: i32| {
        store::spec_state(&options.id, status, pid, &bundle_text, annotations)
    };
    let mut record = record::begin(c, options, decided, &bundle_text, cgroup.as_ref(), notify);
    let result = (|| {
        fault::point("create:cgroup")?;
        if let Some(cgroup) = &cgroup {
            cgroup.apply_limits(&plan.resources)?;
            if let Some((uid, gid)) = plan.delegate {
                cgroup.delegate_chown(uid, gid)?;
            }
        }
        if let Some(rdt) = &plan.intel_rdt {
            let mut note = |what: &str, path: &Path| container.note(what, path);
            let groups = rdt::prepare(rdt, &options.id, &rdt::root()?, &mut note)?;
            record.set_rdt(groups);
        }
        fault::point("create:applied")?;
        if let Some(cgroup) = &cgroup {
            c.log
                .debug(format_args!("cgroup {:?} is made and limited", cgroup.path));
        }
        let fifo = (kind == Kind::Create).then(|| container.fifo());
        let (asked, kit) = (Cell::new(asked), OnceCell::new());
        let ahead = || {
            let taken = take(c, asked.take())?;
            Ok(taken.map(|taken| kit.get_or_init(|| taken).borrow()))
        };
        let started = launch::container(launch::Request {
            plan,
            cgroup: cgroup.as_ref(),
            ahead: &ahead,
            fifo: fifo.as_deref(),
            signal_mask,
            hooks: &mut |pid| {
                let state = state("creating", pid);
                hooks::run("prestart", &plan.hooks.prestart, &state, bundle)?;
                hooks::run("createRuntime", &plan.hooks.create_runtime, &state, bundle)
            },
            state: &state,
            meanwhile: &mut |pid| {
                record::finish(&mut record, pid)?;
                rdt::add(&record, pid)?;
                if let Some(cgroup) = &cgroup {
                    // The device filter, too, takes its time to load, and is there before anything of
                    // the container runs.
                    let loaded = kit.get().and_then(|kit| kit.devices.as_ref());
                    cgroup.apply_devices(&plan.resources, loaded.map(|fd| fd.as_fd()))?;
                    cgroup.complete(&plan.resources)?;
                }
                if let Some(filter) = &plan.seccomp {
                    container
                        .write("seccomp.bpf", seccomp::bytes::of(&filter.filter).as_slice())?;
                }
                container.prepare(&record)?;
                fault::point("create:prepared")
            },
            rooted: &|| {
                container.commit()?;
                fault::point("create:committed")
            },
            word,
            park: kind == Kind::Parked,
            trace: c.trace,
        })?;
        c.log.debug(format_args!(
            "process {} is the container's init",
            started.pid
        ));
        settle(c, options, kind, started)
    })();
    match result {
        Ok((started, console)) => Ok((started, record, cgroup, console)),
        Err(error) => {
            if let Some(cgroup) = cgroup {
                let _ = cgroup.kill();
                let _ = cgroup.remove();
                cgroup.discard();
            }
            let _ = rdt::remove(&record);
            // As in runc, whatever ran before. Of a warm one nobody knows.
            if !kind.is_warm() {
                let poststop = &plan.hooks.poststop;
                if let Err(e) = hooks::run_all("poststop", poststop, &state("stopped", 0), bundle) {
                    c.log.warn(log::sentence(&e));
                }
            }
            Err(error.context("unable to start container process"))
        }
    }
}

/// Connects to the zygote; `None`: the container is made the cold way.
fn connect(c: &Context) -> Result<Option<client::Client>> {
    match c.zygote {
        Prepared::Off => Ok(None),
        Prepared::Auto => Ok(client::connect(&c.root.path).ok()),
        Prepared::Require => client::connect(&c.root.path)
            .map(Some)
            .map_err(|e| failed(e, "--zygote=require: connect to the zygote")),
    }
}

/// Asks the zygote for what fits the plan; `None`: it gives nothing. `seen`: of a config that it had no
/// plan for.
fn ask(
    c: &Context,
    client: client::Client,
    plan: &Plan,
    seen: impl FnOnce() -> plans::Seen,
    options: &Options,
) -> Result<Option<client::Asked>> {
    let cold = |why: &dyn std::fmt::Display| {
        c.log.debug(format_args!("zygote: no kit: {why}"));
        None
    };
    let ask = || -> Result<_> {
        let fit = shape::of(plan);
        let devices = plan.resources.devices.as_ref();
        let devices = devices.filter(|f| f.program.len() <= FILTER);
        // First, for it's answered while we go on.
        if let Ok(fit) = &fit {
            client.ask(&Request::Kit {
                shape: fit.shape.clone(),
                wait: c.zygote == Prepared::Require,
                devices: devices.map(|f| f.program.clone()),
            })?;
        }
        let seen = seen();
        if !seen.is_nothing() {
            client.tell_seen(seen, options)?;
        }
        Ok(match fit {
            Ok(fit) => Some(client.asked(fit, plan.mounts.len(), c.zygote)),
            Err(why) => cold(&why),
        })
    };
    match ask() {
        Err(error) if c.zygote == Prepared::Require => Err(error.context("--zygote=require")),
        Err(error) => Ok(cold(&error)),
        Ok(asked) => Ok(asked),
    }
}

/// The kit that was asked for, if there is one.
fn take(c: &Context, asked: Option<client::Asked>) -> Result<Option<client::Kit>> {
    let Some(asked) = asked else {
        return Ok(None);
    };
    c.trace.begin("wait for the kit");
    match asked.kit() {
        Err(error) if c.zygote == Prepared::Require => Err(error.context("--zygote=require")),
        Err(error) => {
            c.log.debug(format_args!("zygote: no kit: {error:#}"));
            Ok(None)
        }
        Ok(kit) => Ok(Some(kit)),
    }
}

/// What happens once init waits: descriptors go where they were asked to go.
fn settle(
    c: &Context,
    options: &cli::Create,
    kind: Kind,
    mut started: Started,
) -> Result<(Started, Option<std::os::fd::OwnedFd>)> {
    c.trace.begin("settle");
    let result = (|| {
        let (terminal, pidfd) = (&options.console_socket, &options.pidfd_socket);
        let mut console = started.console.take();
        if !kind.is_warm() {
            let own = started.pidfd.as_fd();
            console = super::give_away(c, console, own, terminal, pidfd, b"standard")?;
        }
        fault::point("create:settled")?;
        if let Some(path) = &options.pid_file {
            write_pid_file(&cli::absolute(&c.cwd, path), started.pid)?;
        }
        fault::point("create:pidfile")?;
        Ok(console)
    })();
    match result {
        Ok(console) => Ok((
            started,
            if kind == Kind::RunForeground || kind.is_warm() {
                console
            } else {
                None
            },
        )),
        Err(error) => {
            started.kill();
            Err(error)
        }
    }
}

/// The rules of section 1.11: a terminal whose master nobody takes, or a socket that nothing is sent
/// to, are mistakes.
pub fn check_terminal(terminal: bool, kind: Kind, socket: bool) -> Result<()> {
    if kind.is_warm() {
        return Ok(());
    }
    let detached = kind != Kind::RunForeground;
    ensure!(
        !(detached && terminal && !socket),
        "cannot allocate tty if runc will detach without setting console socket"
    );
    ensure!(
        !socket || (detached && terminal),
        "cannot use console socket if runc will not detach or allocate tty"
    );
    Ok(())
}

/// What the plan couldn't look at.
fn check_rootfs(plan: &Plan) -> Result<()> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let found = fs::openat2(fs::CWD, &plan.rootfs, flags, 0, libc::RESOLVE_NO_SYMLINKS);
    let path = plan.rootfs.to_string_lossy();
    match found {
        Ok(_) => Ok(()),
        Err(Errno::ELOOP) => {
            bail!("root.path: invalid rootfs: {path:?} is not an absolute path, or a symlink")
        }
        Err(Errno::ENOTDIR) => bail!("root.path: invalid rootfs: {path:?} is not a directory"),
        Err(errno) => Err(failed(
            errno,
            format_args!("root.path: invalid rootfs: {path:?}"),
        )),
    }
}

/// LISTEN_FDS, if they are meant for us (sd_listen_fds(3)).
pub fn listen_fds() -> u32 {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    match number("LISTEN_PID") {
        Some(pid) if pid == std::process::id() => number("LISTEN_FDS").unwrap_or(0),
        _ => 0,
    }
}

/// The pid, without a newline, so that nobody ever reads half of it: written beside, then renamed.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().context("--pid-file: no file name")?;
    let beside = path.with_file_name(format!(".{}", name.to_string_lossy()));
    let write = || {
        use std::io::Write;
        let make = || std::fs::File::create_new(&beside);
        let mut file = match make() {
            // Left by a run that was killed; removed, for it may also be somebody's symlink.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&beside)?;
                make()?
            }
            other => other?,
        };
        file.write_all(pid.to_string().as_bytes())?;
        fault::point("pidfile:written").map_err(std::io::Error::other)?;
        std::fs::rename(&beside, path)
    };
    write().with_context(|| format!("write pid file {path:?}"))
}
