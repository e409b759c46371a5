//! The keeper of one warm container: makes it, waits for a caller, hands it over. A clone of the
//! daemon's; see `zygote::warm` for what passes between the three.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime as spec;

use super::create::{self, Kind, Made};
use super::{Context, delete, record, update};
use crate::init::park::Orders;
use crate::launch::flow::Flow;
use crate::launch::foreground::{self, Signals};
use crate::launch::{self, explain, failed};
use crate::plan::{self, IdMaps};
use crate::store;
use crate::sys::process::{self, Exit};
use crate::sys::{Errno, fs, socket};
use crate::zygote::caller::Caller;
use crate::zygote::memory::Taken;
use crate::zygote::warm::{self, Answer, Order, Provision, Report, Until};
use crate::{bundle, cli, fault, host, log, notify};

/// How long a program may take to say that it's ready.
const READY_WAIT: Duration = Duration::from_secs(60);

/// How long a caller may take for a word that costs him nothing.
const WORD_WAIT: Duration = Duration::from_secs(10);

/// How long a caller may take to remove a container that has ended.
const CLEANUP_WAIT: Duration = Duration::from_secs(1);

/// What is asked of a keeper.
pub struct Keep<'a> {
    /// What it makes.
    pub provision: &'a Provision,
    /// The container's name below `@zygote/warm`.
    pub directory: &'a str,
    /// The daemon's socket.
    pub daemon: OwnedFd,
}

/// Makes a warm container and keeps it until it's somebody's, or nobody's. `c` is that of the state
/// root `@zygote/warm`.
pub fn keep(c: &Context, asked: Keep) -> Result<()> {
    let begun = process::monotonic();
    let made = Warm::make(c, &asked);
    let warm = match made {
        Ok(Some(warm)) => warm,
        Ok(None) => return Ok(()),
        Err(error) => {
            let report = Report::Failed(log::sentence(&error));
            return warm::send(&asked.daemon, &report, &[]);
        }
    };
    let cost = (process::monotonic() - begun) / 1000;
    let cgroup = warm
        .made
        .cgroup
        .as_ref()
        .map(|cgroup| cgroup.path.as_path());
    let taken = Taken::by(warm.made.started.pid, cgroup);
    if warm::send(&asked.daemon, &Report::Parked { cost, taken }, &[]).is_err() {
        return warm.destroy(c).map(drop);
    }
    fault::point("keep:parked")?;
    let Some(connection) = warm.wait(&asked.daemon)? else {
        return warm.destroy(c).map(drop);
    };
    drop(asked.daemon);
    warm.hand_over(c, connection)
}

/// A warm container.
struct Warm {
    made: Made,
    /// `process` of its config.
    process: spec::Process,
    until: Until,
    /// Our ends of its standard streams, where it has them already.
    streams: Option<[OwnedFd; 3]>,
    own: Caller,
    signals: Signals,
    /// Its mount namespace: so its mounts go when the keeper does, and not while its caller waits for
    /// its end.
    _mounts: OwnedFd,
}

impl Warm {
    /// `None`: the daemon has gone meanwhile, or doesn't want it any more.
    fn make(c: &Context, asked: &Keep) -> Result<Option<Warm>> {
        let provision = asked.provision;
        process::set_subreaper().map_err(|e| failed(e, "prctl PR_SET_CHILD_SUBREAPER"))?;
        let own = Caller::look()?;
        let signals = Signals::block()?;
        let bundle = bundle::load(&provision.bundle)?;
        let process = fit(&bundle.spec, provision)?;
        let terminal = process.terminal() == Some(true);
        let null = fs::open(fs::CWD, c"/dev/null", libc::O_RDWR, 0)
            .map_err(|e| failed(e, "open /dev/null"))?;
        let mut streams = None;
        let mut its = [const { None }; 3];
        if provision.until == Until::Ready && !terminal {
            let pipe = || fs::pipe().map_err(|e| failed(e, "pipe"));
            let [(stdin, to), (from, stdout), (errors, stderr)] = [pipe()?, pipe()?, pipe()?];
            streams = Some([to, from, errors]);
            its = [Some(stdin), Some(stdout), Some(stderr)];
        }
        for (number, fd) in its.iter().enumerate() {
            let fd = fd.as_ref().unwrap_or(&null);
            fs::dup_onto(fd, number as i32).map_err(|e| failed(e, "dup"))?;
        }
        drop(its);
        let options = cli::Create {
            bundle: Some(provision.bundle.clone()),
            id: asked.directory.to_owned(),
            ..cli::Create::default()
        };
        let kind = match provision.until {
            Until::Created => Kind::Parked,
            Until::Ready => Kind::Ready,
        };
        let made = create::make(c, &options, None, kind, Some(signals.before))?;
        for number in 0..3 {
            fs::dup_onto(&null, number).map_err(|e| failed(e, "dup"))?;
        }
        let mounts = CString::new(format!("/proc/{}/ns/mnt", made.started.pid))?;
        let mounts = fs::open(fs::CWD, &mounts, libc::O_RDONLY, 0)
            .map_err(|e| failed(e, format_args!("open {mounts:?}")))?;
        let mut warm = Warm {
            _mounts: mounts,
            made,
            process,
            until: provision.until,
            streams,
            own,
            signals,
        };
        if warm.until == Until::Created {
            return Ok(Some(warm));
        }
        match warm.warm_up(provision, &asked.daemon) {
            Ok(true) => Ok(Some(warm)),
            Ok(false) => warm.destroy(c).map(|_| None),
            Err(error) => {
                let error = match warm.said() {
                    said if said.is_empty() => error,
                    said => error.context(format!("it said {said:?}")),
                };
                let _ = warm.destroy(c);
                Err(error)
            }
        }
    }

    /// Lets the program run until it's ready. `false`: nobody wants it any more.
    fn warm_up(&mut self, provision: &Provision, daemon: &OwnedFd) -> Result<bool> {
        let socket = notify::listen(self.made.container.path(), None)?;
        let Made { started, plan, .. } = &self.made;
        started.go(&|fail| explain::container(fail, plan, &|| started.hook_output()))?;
        let deadline = Instant::now() + READY_WAIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [
                PollFd::new(socket.fd(), PollFlags::POLLIN),
                PollFd::new(started.pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(daemon.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.fd(), PollFlags::POLLIN),
            ];
            match poll(
                &mut fds,
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
            ) {
                Ok(0) => bail!("not ready after {} s", READY_WAIT.as_secs()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno, "poll")),
            }
            let [said, ended, gone, signal] = fds.map(|fd| fd.any() == Some(true));
            // It's not asked for a container that isn't there.
            if gone || (signal && self.told_to_end()?) {
                return Ok(false);
            }
            if said && socket.pass(started.pid)? {
                break;
            }
            if ended && !said {
                let how = match process::wait(&started.pidfd) {
                    Ok(Exit::Signal(n)) => format!("signal {n}"),
                    Ok(Exit::Code(n)) => format!("exit status {n}"),
                    Err(errno) => explain::words(errno),
                };
                bail!("the program ended ({how}) before it said READY=1 on NOTIFY_SOCKET");
            }
        }
        if provision.freeze {
            let cgroup = self.made.cgroup.as_ref();
            cgroup.context("--freeze: it has no cgroup")?.freeze()?;
        }
        Ok(true)
    }

    /// The beginning of what a program that failed has said on its stderr.
    fn said(&self) -> String {
        let mut text = [0; 512];
        let n = match &self.streams {
            Some([_, _, errors])
                if warm::await_readable(errors.as_fd(), Some(Instant::now())).unwrap_or(false) =>
            {
                fs::read(errors, &mut text).unwrap_or(0)
            }
            _ => 0,
        };
        String::from_utf8_lossy(&text[..n]).trim().to_owned()
    }

    /// Reads signals; whether one was meant to end us.
    fn told_to_end(&self) -> Result<bool> {
        let mut end = false;
        while let Some(signal) =
            process::next_signal(self.signals.fd()).map_err(|e| failed(e, "read a signal"))?
        {
            match signal {
                libc::SIGCHLD => foreground::reap_others(self.made.started.pid),
                libc::SIGTERM | libc::SIGINT | libc::SIGHUP => end = true,
                _ => {}
            }
        }
        Ok(end)
    }

    /// Waits for a caller: his connection. `None`: the container is to go.
    fn wait(&self, daemon: &OwnedFd) -> Result<Option<OwnedFd>> {
        loop {
            let mut fds = [
                PollFd::new(daemon.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.made.started.pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno, "poll")),
            }
            let [asked, ended, signal] = fds.map(|fd| fd.any() == Some(true));
            if asked {
                let (n, connection) =
                    socket::receive(daemon, &mut [0]).map_err(|e| failed(e, "receive"))?;
                return Ok(connection.filter(|_| n > 0));
            }
            if ended {
                let report = Report::Failed("the program has ended".to_owned());
                let _ = warm::send(daemon, &report, &[]);
                return Ok(None);
            }
            if signal && self.told_to_end()? {
                return Ok(None);
            }
        }
    }

    /// Kills it and removes what is left of it, wherever it is by now: whether that was at its caller's.
    /// Its poststop hooks are not for one that nobody had.
    fn destroy(&self, c: &Context) -> Result<bool> {
        self.made.started.kill_with(self.made.cgroup.as_ref());
        let record = &self.made.record;
        let of_callers = callers_root(c).and_then(|root| store::open(&root, &record.id).ok());
        match of_callers {
            Some((container, his))
                if (his.init_process_pid, his.init_process_start)
                    == (record.init_process_pid, record.init_process_start) =>
            {
                delete::remove(c, &container, record).map(|()| true)
            }
            _ => delete::remove(c, &self.made.container, record).map(|()| false),
        }
    }

    /// The same while it's handed over. Its caller is told why, and runs the hooks; without him they are
    /// ours.
    fn give_up(&self, c: &Context, connection: &OwnedFd, why: &anyhow::Error) -> Result<()> {
        let destroyed = self.destroy(c);
        let answer = Answer::Failed(log::sentence(why));
        let told = warm::send(connection, &answer, &[]);
        if destroyed? && told.is_err() {
            delete::poststop(c, &self.made.record);
        }
        Ok(())
    }

    /// Hands it over to whoever is connected.
    fn hand_over(mut self, c: &Context, connection: OwnedFd) -> Result<()> {
        // It was the daemon's, which never waits.
        fs::set_blocking(&connection).map_err(|e| failed(e, "fcntl"))?;
        let soon = || Some(Instant::now() + WORD_WAIT);
        let order = match warm::receive::<Order>(&connection, soon()) {
            Ok(Some((order, fds))) => Ok((order, fds)),
            Ok(None) => return self.destroy(c).map(drop),
            Err(error) => Err(error),
        };
        let prepared = order.and_then(|(order, fds)| {
            let fds: Result<[OwnedFd; 3], _> = fds.try_into();
            let Ok(fds) = fds else {
                bail!("three streams are needed");
            };
            self.prepare(c, &order, &fds).map(|()| (order, fds))
        });
        let (order, fds) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                // First it's gone, then he may try again.
                let destroyed = self.destroy(c);
                let answer = Answer::Refused(log::sentence(&error));
                let _ = warm::send(&connection, &answer, &[]);
                return destroyed.map(drop);
            }
        };
        fault::point("keep:prepared")?;
        let directory = self.made.container.path().file_name().unwrap_or_default();
        let directory = directory.to_string_lossy().into_owned();
        let pid = self.made.started.pid;
        let console = self.made.console.take();
        let Made { started, plan, .. } = &mut self.made;
        let pidfd = started.pidfd.try_clone().context("dup")?;
        let channel = match self.until {
            Until::Created => launch::channel(started, plan)?,
            Until::Ready => None,
        };
        let direct = channel.is_some();
        let mut with = vec![pidfd.as_fd()];
        with.extend(channel);
        with.extend(console.as_ref().map(AsFd::as_fd));
        let answer = Answer::Prepared {
            directory,
            pid,
            direct,
        };
        if warm::send(&connection, &answer, &with).is_err() {
            return self.destroy(c).map(drop);
        }
        drop(with);
        drop((pidfd, console));
        let mut word = [0; 8];
        let said = warm::await_readable(connection.as_fd(), soon())?
            && socket::receive(&connection, &mut word).is_ok_and(|(n, _)| &word[..n] == warm::GO);
        if !said {
            let why = anyhow!("its caller has given up");
            return self.give_up(c, &connection, &why);
        }
        fault::point("keep:told")?;
        let Made {
            started,
            plan,
            record,
            cgroup,
            ..
        } = &mut self.made;
        let gone = match self.until {
            Until::Created => {
                let state = |status: &str, pid| record.spec_state(status, pid);
                launch::resume(started, direct, plan, cgroup.as_ref(), &state)
            }
            Until::Ready => match cgroup {
                Some(cgroup) => cgroup.thaw(),
                None => Ok(()),
            },
        };
        if let Err(error) = gone {
            return self.give_up(c, &connection, &error);
        }
        let told = match warm::is_told(order.foreground, &self.made.record) {
            true => warm::send(&connection, &Answer::Running, &[]),
            false if foreground::ready(connection.as_fd(), PollFlags::POLLIN) => {
                Err(anyhow!("its caller has given up"))
            }
            false => Ok(()),
        };
        if let Err(gone) = told {
            return self.give_up(c, &connection, &gone);
        }
        fault::point("keep:running")?;
        let mut flows = match self.streams.take() {
            Some([stdin, stdout, stderr]) => {
                let [input, output, errors] = fds;
                vec![
                    Flow::new(stdout, output),
                    Flow::new(stderr, errors),
                    Flow::new(input, stdin),
                ]
            }
            None => {
                drop(fds);
                Vec::new()
            }
        };
        let connection = order.foreground.then_some(connection);
        self.stay(connection, &mut flows)
    }

    /// Everything but to let it go; its init need not be ready yet.
    fn prepare(&mut self, c: &Context, order: &Order, fds: &[OwnedFd; 3]) -> Result<()> {
        store::check_id(&order.id)?;
        let until = self.until;
        let (own, caller) = (&self.own, &order.caller);
        let Made {
            started,
            container,
            record,
            cgroup,
            plan,
            console,
        } = &mut self.made;
        caller.fits(own, plan)?;
        ensure!(
            until == Until::Created || !order.changes.of_process(),
            "its program runs already: it can't be given arguments, environment or directory"
        );
        let hostname = match &order.changes.hostname {
            Some(name) => {
                ensure!(
                    plan.namespaces.has(libc::CLONE_NEWUTS as u64),
                    "hostname: unable to set hostname without a private UTS namespace"
                );
                Some(CString::new(name.as_str()).context("hostname")?)
            }
            None => None,
        };
        if order.changes.of_process() {
            let mut process = self.process.clone();
            order.changes.apply_to_process(&mut process);
            plan.process = Some(planned(c, plan, &process)?);
        }
        if let Some(cgroup) = cgroup.as_ref().filter(|_| caller.umask != own.umask) {
            cgroup.remask(caller.umask)?;
        }
        if let Some(text) = &order.resources {
            update::limit(c, cgroup.as_ref(), text)?;
        }
        caller.fits_nodes(own, || cgroup.as_ref()?.memory_nodes())?;
        if let Some(name) = &hostname {
            record.config.hostname = name.to_string_lossy().into_owned();
        }
        record.id.clone_from(&order.id);
        record.created = record::rfc3339_nano();
        record.external_descriptors.clone_from(&order.streams);
        if until == Until::Ready {
            if let Some(name) = &hostname {
                set_hostname(started.pid, name)?;
            }
            container.prepare(record)?;
            return container.commit();
        }
        caller.give(own, plan, started.pid)?;
        let keyring = match &plan.keyring {
            Some(_) => Some(CString::new(format!("_ses.{}", order.id))?),
            None => None,
        };
        record.runz.keyring = keyring
            .as_ref()
            .map(|name| name.to_string_lossy().into_owned());
        let streams: Vec<BorrowedFd> = match console {
            Some(_) => Vec::new(),
            None => fds.iter().map(AsFd::as_fd).collect(),
        };
        let process = plan.process.as_ref().context("it has no process")?;
        let names = caller.names(plan);
        let orders = Orders {
            process,
            hostname: hostname.as_deref().or(names.0),
            domainname: names.1,
            keyring: keyring.as_deref(),
            carried: caller.carried(own),
        };
        launch::order(started, &orders, &streams)?;
        container.prepare(record)?;
        container.commit()
    }

    /// Passes on what comes, until there is nothing left to do for it. `caller`: who waits for its end.
    fn stay(&self, mut caller: Option<OwnedFd>, flows: &mut [Flow]) -> Result<()> {
        let started = &self.made.started;
        let mut ended = None;
        let mut idle = false;
        loop {
            // The first two come from the container. Somebody may hold on to them after its end: that
            // must not keep the caller.
            let more = flows.iter().take(2).any(Flow::goes_on);
            if let Some(exit) = ended
                && (!more || idle)
                && let Some(caller) = caller.take()
            {
                tell(&caller, exit);
                if !more {
                    // He cleans up now. What goes with us, its mounts most of all, would be in his way.
                    let end = Instant::now() + CLEANUP_WAIT;
                    let _ = warm::await_readable(caller.as_fd(), Some(end));
                }
            }
            let input = ended.is_none() && flows.get(2).is_some_and(Flow::goes_on);
            // Without him its end is somebody else's to wait for.
            if caller.is_none() && !more && !input {
                if ended.is_some() {
                    let _ = process::wait(&started.pidfd);
                }
                return Ok(());
            }
            let mut fds = vec![PollFd::new(self.signals.fd(), PollFlags::POLLIN)];
            if ended.is_none() {
                fds.push(PollFd::new(started.pidfd.as_fd(), PollFlags::POLLIN));
            }
            if let Some(caller) = &caller {
                fds.push(PollFd::new(caller.as_fd(), PollFlags::POLLIN));
            }
            fds.extend(flows.iter().filter_map(Flow::wanted));
            let timeout = match ended {
                Some(_) if caller.is_some() => PollTimeout::from(100u8),
                _ => PollTimeout::NONE,
            };
            idle = match poll(&mut fds, timeout) {
                Ok(n) => n == 0,
                Err(Errno::EINTR) => false,
                Err(errno) => return Err(failed(errno, "poll")),
            };
            drop(fds);
            self.told_to_end()?;
            if ended.is_none() && foreground::ready(started.pidfd.as_fd(), PollFlags::POLLIN) {
                // Reaped when its caller knows: that takes its time, too.
                ended = Some(process::ended(&started.pidfd).map_err(|e| failed(e, "wait"))?);
            }
            for flow in flows.iter_mut() {
                flow.go_on();
            }
            // He says nothing any more: what is readable is his end.
            caller = caller.filter(|c| !foreground::ready(c.as_fd(), PollFlags::POLLIN));
        }
    }
}

fn tell(caller: &OwnedFd, exit: Exit) {
    let (signal, number) = match exit {
        Exit::Code(n) => (false, n),
        Exit::Signal(n) => (true, n),
    };
    let _ = warm::send(caller, &Answer::Ended { signal, number }, &[]);
}

/// The state root of those who call: that in which `@zygote/warm` is.
fn callers_root(c: &Context) -> Option<cli::Root> {
    let path = c.root.path.parent().and_then(Path::parent)?;
    Some(cli::Root {
        path: path.to_owned(),
        ..c.root.clone()
    })
}

/// Whether several containers can be made of a config before it's known what for; its process.
fn fit(spec: &spec::Spec, provision: &Provision) -> Result<spec::Process> {
    let process = spec.process().clone();
    let process = process.context("process: a warm container needs one")?;
    if let Some(hooks) = spec.hooks() {
        let set = |hooks: &Option<Vec<spec::Hook>>| hooks.as_ref().is_some_and(|h| !h.is_empty());
        let early = set(hooks.prestart())
            || set(hooks.create_runtime())
            || set(hooks.create_container())
            || set(hooks.start_container());
        ensure!(
            !early,
            "hooks: they would be told of another id than the container will have"
        );
    }
    let seccomp = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    ensure!(
        provision.until == Until::Created || seccomp.is_none_or(|s| s.listener_path().is_none()),
        "linux.seccomp.listenerPath: its agent would be told of another id than the container will have"
    );
    Ok(process)
}

/// A process of the container, decided.
fn planned(c: &Context, plan: &plan::Plan, process: &spec::Process) -> Result<plan::Process> {
    let before = plan.process.as_ref();
    let labels = before.is_some_and(|p| p.apparmor.is_some() || p.selinux.is_some());
    let none = IdMaps::default();
    let inside = plan::Container {
        id_maps: match plan.namespaces.new & libc::CLONE_NEWUSER as u64 {
            0 => &none,
            _ => &plan.id_maps,
        },
        umask: before.map(|p| p.umask),
        personality: before.and_then(|p| p.personality),
        memory_policy: before.and_then(|p| p.memory_policy.clone()),
        preserve_fds: 0,
    };
    let host = host::Host::look(c.in_user_namespace, labels);
    plan::join(process, inside, &host, &mut Vec::new())
}

/// Sets the host's name of a process's UTS namespace.
fn set_hostname(pid: i32, name: &std::ffi::CStr) -> Result<()> {
    let open = |pid: &str| {
        let path = CString::new(format!("/proc/{pid}/ns/uts"))?;
        fs::open(fs::CWD, &path, libc::O_RDONLY, 0)
            .map_err(|e| failed(e, format_args!("open {path:?}")))
    };
    let kind = libc::CLONE_NEWUTS as u64;
    let (own, its) = (open("self")?, open(&pid.to_string())?);
    process::setns(its, kind).map_err(|e| failed(e, "join the container's UTS namespace"))?;
    let set = crate::sys::cred::sethostname(name).map_err(|e| failed(e, "hostname: sethostname"));
    process::setns(own, kind).map_err(|e| failed(e, "return to the UTS namespace"))?;
    set
}
