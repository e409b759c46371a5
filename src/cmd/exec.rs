//! `exec`: another process in a running container.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use oci_spec::runtime as spec;

use super::Context;
use super::create::write_pid_file;
use crate::cgroup::{self, Cgroup};
use crate::launch::{self, explain, failed, foreground};
use crate::plan::{self, IdMaps, MemoryPolicy};
use crate::status;
use crate::store::{self, Container, Record};
use crate::sys::process;
use crate::{bundle, cli, fault, host, rdt, seccomp};

/// `exec`.
pub fn exec(c: &Context, options: &cli::Exec) -> Result<u8> {
    c.trace.begin("read");
    fault::point("exec:asked")?;
    let (container, record) = store::open(&c.root, &options.id)?;
    let status = record.status(&container)?;
    if let Err(refusal) = status::may_exec(status, options.ignore_paused) {
        bail!(refusal);
    }
    let process = asked_for(c, options, &record)?;
    let terminal = process.terminal() == Some(true);
    ensure!(
        !(options.detach && terminal && options.console_socket.is_none()),
        "cannot allocate tty if runc will detach without setting console socket"
    );
    ensure!(
        options.console_socket.is_none() || (options.detach && terminal),
        "cannot use console socket if runc will not detach or allocate tty"
    );
    c.trace.begin("plan");
    let labels = process.apparmor_profile().is_some() || process.selinux_label().is_some();
    let host = host::Host::look(c.in_user_namespace, labels);
    let maps = IdMaps {
        uid: record.runz.uid_map.clone(),
        gid: record.runz.gid_map.clone(),
    };
    let inside = plan::Container {
        id_maps: &maps,
        umask: Some(record.runz.umask),
        personality: record.runz.personality,
        memory_policy: record
            .runz
            .memory_policy
            .clone()
            .map(|(mode, nodes)| MemoryPolicy { mode, nodes }),
        preserve_fds: options.preserve_fds,
    };
    let mut warnings = Vec::new();
    let process = plan::join(&process, inside, &host, &mut warnings)?;
    for warning in &warnings {
        c.log.warn(warning);
    }
    let filter = filter(&container, &record)?;
    if let Some(filter) = &filter {
        c.log
            .debug(format_args!("seccomp filter flags: {}", filter.flags));
    }
    let init = process::pidfd_open(record.init_process_pid).map_err(|e| failed(e, "pidfd_open"))?;
    ensure!(record.alive()?, "cannot exec in a stopped container");
    let keyring = match &record.runz.keyring {
        Some(name) => Some(CString::new(name.as_str())?),
        None => None,
    };
    let signals = match options.detach {
        true => None,
        false => Some(foreground::Signals::block()?),
    };
    let request = launch::EntryRequest {
        process: &process,
        seccomp: filter.as_ref(),
        state: &record.spec_state("running", record.init_process_pid),
        cgroup: None,
        init: init.as_fd(),
        kinds: record.runz.namespaces,
        keyring: keyring.as_deref(),
        signal_mask: signals.as_ref().map(|s| s.before),
        go: !process.terminal
            && options.pidfd_socket.is_none()
            && record.intel_rdt_path.is_empty()
            && record.intel_rdt_mon_path.is_empty(),
        trace: c.trace,
    };
    let mut started =
        enter(request, options, &record).context("unable to start container process")?;
    c.log
        .debug(format_args!("process {} is in the container", started.pid));
    c.trace.begin("settle");
    let settled = (|| -> Result<_> {
        rdt::add(&record, started.pid)?;
        fault::point("exec:ready")?;
        let (terminal, pidfd) = (&options.console_socket, &options.pidfd_socket);
        let console = started.console.take();
        let console =
            super::give_away(c, console, started.pidfd.as_fd(), terminal, pidfd, b"setns")?;
        if let Some(master) = &console {
            foreground::resize(master.as_fd());
        }
        fault::point("exec:settled")?;
        c.trace.begin("execve");
        started.go(&|fail| explain::process(fail, &process))?;
        c.trace.child_left();
        fault::point("exec:running")?;
        Ok(console)
    })()
    .context("unable to start container process")
    .and_then(|console| {
        // Only for a process that runs: conmon takes the file for a success.
        if let Some(path) = &options.pid_file {
            write_pid_file(&cli::absolute(&c.cwd, path), started.pid)?;
        }
        Ok(console)
    });
    let console = match settled {
        Ok(console) => console,
        Err(error) => {
            started.kill();
            return Err(error);
        }
    };
    fault::point("exec:pidfile")?;
    c.log.release();
    match signals {
        None => Ok(0),
        Some(signals) => {
            c.trace.begin("wait");
            let exit = foreground::wait(&started, console, &signals, None)?;
            Ok(exit.status() as u8)
        }
    }
}

/// The process object: that of `--process`, or the bundle's with what the flags change.
fn asked_for(c: &Context, options: &cli::Exec, record: &Record) -> Result<spec::Process> {
    if let Some(path) = &options.process {
        let path = cli::absolute(&c.cwd, path);
        let text = std::fs::read(&path).with_context(|| format!("read {path:?}"))?;
        let (mut process, warnings) =
            bundle::parse_process(&text).with_context(|| format!("--process {path:?}"))?;
        warnings.iter().for_each(|w| c.log.warn(w));
        if options.tty {
            process.set_terminal(Some(true));
        }
        return Ok(process);
    }
    ensure!(!options.args.is_empty(), "process args cannot be empty");
    let bundle = bundle::load(Path::new(&record.runz.bundle))?;
    let process = bundle.spec.process().clone();
    let mut process = process.context("process property must not be empty")?;
    process.set_args(Some(options.args.clone()));
    process.set_terminal(Some(options.tty));
    if !options.tty {
        process.set_console_size(None);
    }
    if let Some(cwd) = &options.cwd {
        process.set_cwd(cwd.into());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(options.env.iter().cloned());
    process.set_env(Some(env));
    if let Some(profile) = &options.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &options.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if options.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    let mut user = process.user().clone();
    if let Some(asked) = &options.user {
        user.set_uid(asked.uid);
        if let Some(gid) = asked.gid {
            user.set_gid(gid);
        }
    }
    if !options.additional_gids.is_empty() {
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        gids.extend(&options.additional_gids);
        user.set_additional_gids(Some(gids));
    }
    process.set_user(user);
    if !options.cap.is_empty() {
        add_capabilities(c, &mut process, &options.cap);
    }
    Ok(process)
}

/// `--cap`: into bounding, effective and permitted; into ambient only where it's inheritable, for the
/// kernel would refuse it otherwise. Names that nobody knows are warned of, as those of config.json.
fn add_capabilities(c: &Context, process: &mut spec::Process, names: &[String]) {
    let mut sets = process.capabilities().clone().unwrap_or_default();
    for name in names {
        let Ok(cap) = serde_json::from_value::<spec::Capability>(name.as_str().into()) else {
            let why = "ignoring unknown or unavailable capabilities";
            c.log.warn(format_args!("--cap: {why}: [{name}]"));
            continue;
        };
        let add = |set: &Option<spec::Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(cap);
            Some(set)
        };
        let (bounding, effective) = (add(sets.bounding()), add(sets.effective()));
        let (permitted, ambient) = (add(sets.permitted()), add(sets.ambient()));
        let inheritable = sets
            .inheritable()
            .as_ref()
            .is_some_and(|s| s.contains(&cap));
        sets.set_bounding(bounding)
            .set_effective(effective)
            .set_permitted(permitted);
        if inheritable {
            sets.set_ambient(ambient);
        }
    }
    process.set_capabilities(Some(sets));
}

/// The container's filter, as `create` compiled it.
fn filter(container: &Container, record: &Record) -> Result<Option<seccomp::Program>> {
    let Some(flags) = record.runz.seccomp_flags else {
        return Ok(None);
    };
    let path = container.path().join("seccomp.bpf");
    let bytes = std::fs::read(&path).with_context(|| format!("read {path:?}"))?;
    let listener = record.runz.seccomp_listener.clone();
    Ok(Some(seccomp::Program {
        filter: seccomp::bytes::filter(&bytes),
        flags,
        listener: listener.map(|(path, metadata)| seccomp::Listener { path, metadata }),
        warnings: Vec::new(),
    }))
}

/// Clones into the container's cgroup. Where that is refused, because processes may not be in an inner
/// cgroup (the container has made some below) or because it's gone, into init's own, unless one was
/// asked for.
fn enter(
    request: launch::EntryRequest,
    options: &cli::Exec,
    record: &Record,
) -> Result<launch::Started> {
    let Some(path) = &record.runz.cgroup else {
        ensure!(
            options.cgroup.is_empty(),
            "--cgroup: the container has no cgroup of its own"
        );
        return launch::entry(&request);
    };
    let own = Cgroup::open(path).context("container's cgroup");
    let mut sub = None;
    for asked in &options.cgroup {
        // `controller:path` is cgroup v1's; on v2 there is one path (runc takes the last).
        sub = match asked.split_once(':') {
            None => Some(asked.as_str()),
            Some(("", sub)) => Some(sub),
            Some(_) => bail!("--cgroup {asked:?}: controllers can't be named on cgroup v2"),
        };
    }
    let place = match sub {
        None => own,
        Some(sub) => own?.sub(sub).context("--cgroup"),
    };
    let born = place.and_then(|place| {
        launch::entry(&launch::EntryRequest {
            cgroup: Some(&place),
            ..request
        })
    });
    let refused = match born {
        Err(error) if options.cgroup.is_empty() => error,
        other => return other,
    };
    let hierarchy = cgroup::Hierarchy::find(Some(Path::new("/")))?;
    // Where init has ended meanwhile there is no other place.
    let current = match hierarchy.cgroup_of(record.init_process_pid) {
        Ok(current) if current != *path => Cgroup::open(&current)?,
        _ => return Err(refused),
    };
    launch::entry(&launch::EntryRequest {
        cgroup: Some(&current),
        ..request
    })
}
