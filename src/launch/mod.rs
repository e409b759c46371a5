//! The parent's side: a plan becomes a process.
//!
//! [`container`] makes the cgroup's child by one clone3(2) and serves it until it's ready; the caller
//! commits the Record and lets it go on. See `init::message` for what passes between the two. Whatever
//! fails, what was made is taken back: the child is killed, nothing is left behind.

mod bare;
pub mod exe;
pub mod explain;
pub mod foreground;
mod idmap;
pub mod namespaces;

use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cgroup::Cgroup;
use crate::init::{self, hooks, message};
use crate::plan::{Hook, Plan, Process, Strings};
use crate::sys::process::{self, Clone, Exit};
use crate::sys::{self, Errno, cred, fs, socket};
use crate::trace::Trace;
use crate::{fault, host, seccomp};
use message::{COMMITTED, Fail, GO, HOOKS_DONE, MAPPED, Message, NETWORK};

/// `what: no such file or directory (ENOENT)`.
pub fn failed(errno: Errno, what: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{what}: {}", explain::words(errno))
}

/// A child that was made and lives: a container's init, or a process in a container.
pub struct Started {
    /// Its pid in our pid namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// Our end of the channel.
    channel: OwnedFd,
    /// The master of its terminal.
    pub console: Option<OwnedFd>,
    /// What hooks read and print that run inside.
    hooks: Option<HookFiles>,
}

/// What the parent does when the child's mounts are made, before it goes on: prestart and
/// createRuntime hooks, the states of hooks that run inside.
pub type HooksStep<'a> = &'a mut dyn FnMut(i32) -> Result<()>;

/// What [`container`] needs beside the plan.
pub struct Request<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The container's cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// exec.fifo, when there is a start barrier.
    pub fifo: Option<&'a Path>,
    /// Signals are blocked, and this was the mask before.
    pub signal_mask: Option<libc::sigset_t>,
    /// Prestart and createRuntime hooks, given the pid.
    pub hooks: HooksStep<'a>,
    /// State JSON for hooks that run inside, given their status.
    pub state: &'a dyn Fn(&str, i32) -> Vec<u8>,
    /// Done as soon as the pid is known, while the child works.
    pub meanwhile: &'a mut dyn FnMut(i32) -> Result<()>,
    /// Where the times go.
    pub trace: &'a Trace,
}

/// Makes a container's init and serves it until only the start barrier and execve are left.
pub fn container(request: Request) -> Result<Started> {
    let plan = request.plan;
    let new = plan.namespaces.new;
    let user = libc::CLONE_NEWUSER as u64;
    let pid_kind = libc::CLONE_NEWPID as u64;
    request.trace.begin("prepare");
    let exe = exe::protect()?;
    let join = namespaces::open(&plan.namespaces)?;
    let joins = |kind: u64| plan.namespaces.join.iter().any(|j| j.kind == kind);
    if joins(user) {
        idmap::same_maps(plan, &join)?;
    }
    let id_maps = idmap::of_mounts(plan)?;
    let bare = bare::mounts(plan)?;
    let late: Vec<Cell<Option<OwnedFd>>> = plan.mounts.iter().map(|_| Cell::new(None)).collect();
    let fifo = match request.fifo {
        Some(path) => Some(open_fifo(path, plan)?),
        None => None,
    };
    let files = HookFiles::new(plan)?;
    let cgroup_source = match request.cgroup {
        Some(cgroup) if plan.namespaces.has(libc::CLONE_NEWCGROUP as u64) => cgroup.path.as_path(),
        _ => Path::new("/sys/fs/cgroup"),
    };
    let cgroup_source = CString::new(cgroup_source.as_os_str().as_bytes())?;
    let times = request.trace.steps()?;
    // Namespaces of which init makes itself (cgroup, time), and those that a joined user namespace is
    // to own.
    let by_child = libc::CLONE_NEWCGROUP as u64 | libc::CLONE_NEWTIME as u64;
    let network = libc::CLONE_NEWNET as u64;
    let by_us = match plan.namespaces.has(user) {
        true => 0,
        false => new & network,
    };
    let (flags, after_join) = match joins(user) {
        true => (0, new & !by_child),
        false => (new & !by_child & !by_us, 0),
    };
    let (ours, theirs) = socket::pair().map_err(|e| failed(e, "socketpair"))?;

    // Only children enter a pid namespace; we go back to our own, for hooks are our children too.
    let back = match plan.namespaces.join.iter().position(|j| j.kind == pid_kind) {
        Some(at) => {
            let own = fs::open(fs::CWD, c"/proc/self/ns/pid", libc::O_RDONLY, 0)
                .map_err(|e| failed(e, "open /proc/self/ns/pid"))?;
            process::setns(&join[at], pid_kind).map_err(|e| {
                let j = &plan.namespaces.join[at];
                failed(
                    e,
                    format_args!("linux.namespaces[{}]: join namespace {:?}", j.index, j.path),
                )
            })?;
            Some(own)
        }
        None => None,
    };
    fault::point("launch:prepared")?;
    request.trace.begin("clone3");
    let cloned = process::clone3(flags, request.cgroup.map(Cgroup::dir));
    if let Ok(Clone::Child) = cloned {
        drop(ours);
        let context = init::Context {
            plan,
            common: init::Common {
                channel: theirs.as_fd(),
                exe: exe.as_ref().map(exe::Exe::borrow),
                signal_mask: request.signal_mask,
                times,
            },
            fifo: fifo.as_ref().map(|f| f.as_fd()),
            join: &join,
            id_maps: &id_maps,
            late: &late,
            bare: &bare,
            own_mounts: plan.namespaces.has(libc::CLONE_NEWNS as u64),
            network: Cell::new(by_us != 0),
            after_join,
            cgroup_source: &cgroup_source,
            mount_label: None,
            parent_hooks: files.any(plan),
            create_container: files.kind(&files.create_container, 0, theirs.as_fd()),
            start_container: files.kind(&files.start_container, 1, theirs.as_fd()),
        };
        init::container(&context);
    }
    // The child has its own, and closes it last: that takes a while, but nobody waits for it.
    drop((theirs, exe));
    if let Some(own) = back {
        process::setns(own, pid_kind).map_err(|e| failed(e, "return to the pid namespace"))?;
    }
    let (pid, pidfd) = match cloned {
        Ok(Clone::Parent { pid, pidfd }) => (pid, pidfd),
        Ok(Clone::Child) => process::exit_now(1),
        Err(errno) => return Err(namespaces::refused(errno, plan, request.cgroup)),
    };
    trace_child(request.trace, pid, plan);
    let mut started = Started {
        pid,
        pidfd,
        channel: ours,
        console: None,
        hooks: None,
    };
    let served = send_network(&started, by_us != 0, &request)
        .and_then(|()| serve(&mut started, request, &files, &id_maps));
    match served {
        Ok(()) => {
            started.hooks = Some(files);
            Ok(started)
        }
        Err(error) => {
            started.kill();
            Err(error)
        }
    }
}

/// Makes the network namespace while the child mounts: nothing else takes as long, and nothing else
/// needs it until late. It belongs to our user namespace, as it would by clone3(2).
fn send_network(started: &Started, wanted: bool, request: &Request) -> Result<()> {
    if !wanted {
        return Ok(());
    }
    request.trace.begin("network namespace");
    let kind = libc::CLONE_NEWNET as u64;
    let open = || fs::open(fs::CWD, c"/proc/self/ns/net", libc::O_RDONLY, 0);
    let describe = |e| failed(e, "open /proc/self/ns/net");
    let own = open().map_err(describe)?;
    process::unshare(kind).map_err(|e| namespaces::refused(e, request.plan, None))?;
    let made = sys::net::loopback_up()
        .map_err(|e| failed(e, "bring up the loopback interface"))
        .and_then(|()| open().map_err(describe));
    process::setns(own, kind).map_err(|e| failed(e, "return to the network namespace"))?;
    match socket::send(&started.channel, &[NETWORK], Some(made?.as_fd())) {
        // It has died: its end of the channel tells why.
        Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
        Err(errno) => Err(failed(errno, "send the network namespace")),
    }
}

fn serve(
    started: &mut Started,
    request: Request,
    files: &HookFiles,
    id_maps: &[Option<OwnedFd>],
) -> Result<()> {
    let plan = request.plan;
    fault::point("launch:cloned")?;
    if plan.namespaces.new & libc::CLONE_NEWUSER as u64 != 0 {
        request.trace.begin("id maps");
        idmap::write(started.pid, &plan.id_maps)?;
        started.tell(MAPPED)?;
    }
    if let Some(adj) = plan.process.as_ref().and_then(|p| p.oom_score_adj) {
        set_oom_score_adj(started.pid, adj)?;
    }
    request.trace.begin("record");
    (request.meanwhile)(started.pid)?;
    request.trace.begin("wait for init");
    let Request {
        plan, hooks, state, ..
    } = request;
    let explained = |fail: &Fail| {
        let why = explain::container(fail, plan, &|| files.output());
        format!("error during container init: {why}")
    };
    loop {
        match started.next(&explained)? {
            Message::Failed(fail) => bail!("{}", explained(&fail)),
            Message::Moved { pid } => {
                let _ = process::wait(&started.pidfd);
                started.pidfd = process::pidfd_open(pid)
                    .map_err(|e| failed(e, "open the container's process"))?;
                started.pid = pid;
                trace_child(request.trace, pid, plan);
                (request.meanwhile)(pid)?;
            }
            Message::Hooks => {
                request.trace.begin("hooks");
                fault::point("launch:hooks")?;
                // Here, as all of its namespaces are there, and it waits: sysctls and hooks find the
                // devices in their place.
                crate::net::move_devices(&plan.net_devices, started.pid)?;
                hooks(started.pid)?;
                fault::point("launch:hooked")?;
                let own = plan.namespaces.has(libc::CLONE_NEWPID as u64);
                files.fill(state, if own { 1 } else { started.pid })?;
                started.tell(HOOKS_DONE)?;
                request.trace.begin("wait for init");
            }
            Message::Source { index } => {
                idmap::send_source(started, plan, index, id_maps)?;
            }
            Message::Console => {}
            Message::Listener { number } => {
                let state = state("creating", started.pid);
                started.hand_over_listener(plan.seccomp.as_ref(), number, &state)?;
            }
            Message::Ready { machine } => {
                fault::point("launch:ready")?;
                return started.ready(plan.process.as_ref(), machine);
            }
        }
    }
}

fn trace_child(trace: &Trace, pid: i32, plan: &Plan) {
    trace.child(pid, || {
        let mounts = plan.mounts.iter();
        let text = mounts.map(|m| m.destination.to_string_lossy().into_owned());
        text.collect()
    });
}

/// What [`entry`] needs.
pub struct EntryRequest<'a> {
    /// The process.
    pub process: &'a Process,
    /// The container's filter.
    pub seccomp: Option<&'a seccomp::Program>,
    /// The container's state, for the filter's agent.
    pub state: &'a [u8],
    /// Where it's born.
    pub cgroup: Option<&'a Cgroup>,
    /// A pidfd of the container's init.
    pub init: BorrowedFd<'a>,
    /// CLONE_NEW* of the namespaces to enter.
    pub kinds: u64,
    /// The container's session keyring.
    pub keyring: Option<&'a std::ffi::CStr>,
    /// Signals are blocked, and this was the mask before.
    pub signal_mask: Option<libc::sigset_t>,
    /// Where the times go.
    pub trace: &'a Trace,
}

/// Makes a process in a running container, ready for execve.
pub fn entry(request: &EntryRequest) -> Result<Started> {
    request.trace.begin("prepare");
    let exe = exe::protect()?;
    let (ours, theirs) = socket::pair().map_err(|e| failed(e, "socketpair"))?;
    let pid_kind = libc::CLONE_NEWPID as u64;
    let p = request.process;
    if let Some(mask) = &p.cpu_affinity.initial {
        sys::cred::set_affinity(0, mask)
            .map_err(|e| failed(e, "process.execCPUAffinity.initial: sched_setaffinity"))?;
    }
    // The processes of the container see the child as soon as it's in their pid namespace, and it
    // holds our memory and descriptors until it executes.
    process::set_dumpable(false).map_err(|e| failed(e, "prctl PR_SET_DUMPABLE"))?;
    if request.kinds & pid_kind != 0 {
        process::setns(request.init, pid_kind)
            .map_err(|e| failed(e, "join the container's pid namespace"))?;
    }
    let times = request.trace.steps()?;
    fault::point("exec:joined")?;
    request.trace.begin("clone3");
    let cloned = process::clone3(0, request.cgroup.map(Cgroup::dir));
    if let Ok(Clone::Child) = cloned {
        drop(ours);
        init::entry(&init::Entry {
            process: p,
            seccomp: request.seccomp,
            common: init::Common {
                channel: theirs.as_fd(),
                exe: exe.as_ref().map(exe::Exe::borrow),
                signal_mask: request.signal_mask,
                times,
            },
            init: request.init,
            kinds: request.kinds & !pid_kind,
            keyring: request.keyring,
        });
    }
    drop((theirs, exe));
    let (pid, pidfd) = match cloned {
        Ok(Clone::Parent { pid, pidfd }) => (pid, pidfd),
        Ok(Clone::Child) => process::exit_now(1),
        Err(errno) => {
            // runc's words, which it says of a write to cgroup.procs.
            let place = match request.cgroup {
                Some(cgroup) => format!(
                    ": adding pid of the new process to cgroups {:?}",
                    cgroup.path
                ),
                None => String::new(),
            };
            return Err(failed(errno, format_args!("clone3{place}")));
        }
    };
    request.trace.child(pid, Vec::new);
    let mut started = Started {
        pid,
        pidfd,
        channel: ours,
        console: None,
        hooks: None,
    };
    match serve_entry(&mut started, request) {
        Ok(()) => Ok(started),
        Err(error) => {
            started.kill();
            Err(error)
        }
    }
}

fn serve_entry(started: &mut Started, request: &EntryRequest) -> Result<()> {
    let p = request.process;
    fault::point("exec:cloned")?;
    if let Some(adj) = p.oom_score_adj {
        set_oom_score_adj(started.pid, adj)?;
    }
    let explained = |fail: &Fail| explain::process(fail, p);
    loop {
        match started.next(&explained)? {
            Message::Failed(fail) => bail!("{}", explained(&fail)),
            Message::Listener { number } => {
                started.hand_over_listener(request.seccomp, number, request.state)?;
            }
            Message::Ready { machine } => {
                if let Some(mask) = &p.cpu_affinity.last {
                    sys::cred::set_affinity(started.pid, mask).map_err(|e| {
                        failed(e, "process.execCPUAffinity.final: sched_setaffinity")
                    })?;
                }
                return started.ready(Some(p), machine);
            }
            _ => {}
        }
    }
}

impl Started {
    fn tell(&self, word: u8) -> Result<()> {
        // A child that has died in the meantime: its end of the channel tells, or its exit.
        match socket::send(&self.channel, &[word], None) {
            Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            Err(errno) => Err(failed(errno, "tell the container's process to go on")),
        }
    }

    /// What the hooks that run inside have printed.
    pub fn hook_output(&self) -> String {
        self.hooks
            .as_ref()
            .map(HookFiles::output)
            .unwrap_or_default()
    }

    /// The container exists: wait at the start barrier.
    pub fn committed(&self) -> Result<()> {
        self.tell(COMMITTED)
    }

    /// Execute the program now. Returns when it runs, with what stopped it otherwise.
    pub fn go(&self, explained: &dyn Fn(&Fail) -> String) -> Result<()> {
        self.tell(GO)?;
        let mut bytes = [0; message::SIZE];
        match socket::receive(&self.channel, &mut bytes) {
            // Its end closed on execve. Or it died: who waits for it learns how.
            Ok((0, _)) | Err(Errno::ECONNRESET) => Ok(()),
            Ok((n, _)) => match Message::decode(&bytes[..n]) {
                Some(Message::Failed(fail)) => bail!("{}", explained(&fail)),
                _ => bail!("unexpected message of the container's process"),
            },
            Err(errno) => Err(failed(errno, "wait for the program to start")),
        }
    }

    /// Execute the program now; whoever waits for it learns what became of it.
    pub fn go_unseen(&self) -> Result<()> {
        self.tell(GO)
    }

    fn next(&mut self, explained: &dyn Fn(&Fail) -> String) -> Result<Message> {
        let mut bytes = [0; message::SIZE];
        loop {
            let (n, fd) = match socket::receive(&self.channel, &mut bytes) {
                Err(Errno::ECONNRESET) => (0, None),
                other => other.map_err(|e| failed(e, "hear from the container's process"))?,
            };
            if n == 0 {
                bail!("{}", self.death());
            }
            match Message::decode(&bytes[..n]) {
                Some(Message::Console) => self.console = fd,
                Some(Message::Failed(fail)) => bail!("{}", explained(&fail)),
                Some(message) => return Ok(message),
                None => bail!("unexpected message of the container's process"),
            }
        }
    }

    /// How a child ended that said nothing.
    fn death(&self) -> String {
        match process::wait(&self.pidfd) {
            Ok(Exit::Signal(libc::SIGKILL)) => {
                "container init was OOM-killed (memory limit too low?)".to_owned()
            }
            Ok(Exit::Signal(n)) => format!("container init was killed by signal {n}"),
            Ok(Exit::Code(n)) => format!("container init exited with status {n}"),
            Err(errno) => format!("container init: {}", explain::words(errno)),
        }
    }

    fn ready(&mut self, p: Option<&Process>, machine: u16) -> Result<()> {
        if machine != 0 && !foreign_formats() {
            let name = p.and_then(|p| p.args.iter().next());
            let name = name.map(|n| n.to_string_lossy()).unwrap_or_default();
            bail!(
                "exec: {name:?}: exec format error: a program for {}, and no binfmt_misc handler is registered",
                architecture(machine)
            );
        }
        // From outside, with the caller's privileges: raising a hard limit works in a user namespace
        // too.
        for limit in p.map_or(&[][..], |p| &p.rlimits) {
            let set = || process::set_rlimit(self.pid, limit.resource, limit.soft, limit.hard);
            let set = match set() {
                Err(Errno::EPERM) => self.as_its_user(set),
                other => other,
            };
            set.map_err(|e| {
                failed(
                    e,
                    format_args!("process.rlimits[{}]: setrlimit", limit.index),
                )
            })?;
        }
        Ok(())
    }

    /// Without CAP_SYS_RESOURCE one may only set the limits of who has one's own real ids (prlimit(2)).
    fn as_its_user(&self, set: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", self.pid)) else {
            return Err(Errno::EPERM);
        };
        let real = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let (Some(uid), Some(gid)) = (real("Uid:"), real("Gid:")) else {
            return Err(Errno::EPERM);
        };
        let (own_uid, own_gid) = cred::real_ids();
        let done = cred::set_real_ids(uid, gid).and_then(|()| set());
        cred::set_real_ids(own_uid, own_gid)?;
        done
    }

    /// Sends a listener to the profile's agent (runtime-spec, "Container Process State").
    fn hand_over_listener(
        &self,
        program: Option<&seccomp::Program>,
        number: i32,
        state: &[u8],
    ) -> Result<()> {
        let Some(agent) = program.and_then(|p| p.listener.as_ref()) else {
            bail!("linux.seccomp: a listener that nobody asked for");
        };
        let fd = process::pidfd_getfd(&self.pidfd, number)
            .map_err(|e| failed(e, "linux.seccomp: fetch the listener"))?;
        let state: serde_json::Value = serde_json::from_slice(state)?;
        let text = serde_json::json!({
            "ociVersion": crate::cli::SPEC_VERSION,
            "fds": ["seccompFd"],
            "pid": self.pid,
            "metadata": agent.metadata,
            "state": state,
        });
        let text = text.to_string();
        hand_over("its socket", &agent.path, text.as_bytes(), fd.as_fd())
            .context("linux.seccomp.listenerPath: failed to connect with seccomp agent")
    }

    /// Ends it and reaps it.
    pub fn kill(&self) {
        let _ = process::pidfd_send_signal(&self.pidfd, libc::SIGKILL);
        let _ = process::wait(&self.pidfd);
    }
}

fn set_oom_score_adj(pid: i32, adj: i32) -> Result<()> {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), adj.to_string())
        .context("process.oomScoreAdj: failed to update /proc/self/oom_score_adj")
}

/// Makes exec.fifo and opens it so that neither end waits for the other: a reader that is its own
/// writer never sees the end of the file.
fn open_fifo(path: &Path, plan: &Plan) -> Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let describe = |errno| failed(errno, format_args!("make {path:?}"));
    fs::mkfifo(fs::CWD, &name, 0o622).map_err(describe)?;
    let fifo = fs::open(fs::CWD, &name, libc::O_RDWR, 0).map_err(describe)?;
    let host = |maps: &[crate::plan::IdMap]| maps.iter().find(|m| m.container == 0).map(|m| m.host);
    if let (Some(uid), Some(gid)) = (host(&plan.id_maps.uid), host(&plan.id_maps.gid)) {
        // Not where the caller may not give it away.
        let _ = fs::fchown(&fifo, uid, gid);
    }
    Ok(fifo)
}

/// Whether something runs programs of other machines here (binfmt_misc).
fn foreign_formats() -> bool {
    let Ok(entries) = std::fs::read_dir("/proc/sys/fs/binfmt_misc") else {
        return false;
    };
    let special = ["register", "status"];
    entries
        .flatten()
        .any(|e| !special.iter().any(|name| e.file_name() == *name))
}

/// A name for an ELF machine (elf.h).
fn architecture(machine: u16) -> String {
    match machine {
        8 => "MIPS".to_owned(),
        20 => "PowerPC".to_owned(),
        21 => "64-bit PowerPC".to_owned(),
        22 => "S/390".to_owned(),
        40 => "ARM".to_owned(),
        183 => "AArch64".to_owned(),
        243 => "RISC-V".to_owned(),
        258 => "LoongArch".to_owned(),
        n => format!("ELF machine {n}"),
    }
}

/// Files of the hooks that run inside: what they read, and what they print.
struct HookFiles {
    create_container: Vec<hooks::Laid>,
    start_container: Vec<hooks::Laid>,
    files: Option<[File; 4]>,
}

impl HookFiles {
    fn new(plan: &Plan) -> Result<HookFiles> {
        let lay = |hooks: &[Hook]| hooks.iter().map(lay).collect::<Result<Vec<_>>>();
        let create_container = lay(&plan.hooks.create_container)?;
        let start_container = lay(&plan.hooks.start_container)?;
        let files = if create_container.is_empty() && start_container.is_empty() {
            None
        } else {
            let file = || {
                fs::memfd(c"hook")
                    .map(File::from)
                    .map_err(|e| failed(e, "memfd_create for hooks"))
            };
            Some([file()?, file()?, file()?, file()?])
        };
        Ok(HookFiles {
            create_container,
            start_container,
            files,
        })
    }

    fn any(&self, plan: &Plan) -> bool {
        self.files.is_some()
            || !plan.net_devices.is_empty()
            || !plan.hooks.prestart.is_empty()
            || !plan.hooks.create_runtime.is_empty()
    }

    /// What the hooks of one kind read (0: createContainer, 1: startContainer) and print. Without any
    /// hooks `nothing` stands for the files.
    fn kind<'a>(
        &'a self,
        hooks: &'a [hooks::Laid],
        at: usize,
        nothing: BorrowedFd<'a>,
    ) -> hooks::Kind<'a> {
        let file = |at: usize| {
            self.files
                .as_ref()
                .map_or(nothing, |files| files[at].as_fd())
        };
        hooks::Kind {
            hooks,
            state: file(at),
            output: (file(2), file(3)),
        }
    }

    fn fill(&self, state: &dyn Fn(&str, i32) -> Vec<u8>, pid: i32) -> Result<()> {
        use std::io::Write;
        if let Some(files) = &self.files {
            for (mut file, status) in files.iter().zip(["creating", "created"]) {
                file.write_all(&state(status, pid))
                    .context("write the state for hooks")?;
            }
        }
        Ok(())
    }

    fn output(&self) -> String {
        match &self.files {
            Some(files) => format!(
                "stdout: {}, stderr: {}",
                crate::hooks::text(&files[2]),
                crate::hooks::text(&files[3])
            ),
            None => String::new(),
        }
    }
}

fn lay(hook: &Hook) -> Result<hooks::Laid> {
    let strings = |list: &[String]| -> Result<Strings> {
        let text: Result<Vec<_>, _> = list.iter().map(|s| CString::new(s.as_str())).collect();
        Ok(Strings::new(text.context("hooks: a NUL byte")?))
    };
    let args = match hook.args.is_empty() {
        true => strings(std::slice::from_ref(&hook.path))?,
        false => strings(&hook.args)?,
    };
    Ok(hooks::Laid {
        path: CString::new(hook.path.as_str()).context("hooks: a NUL byte")?,
        args,
        env: hook.env.as_deref().map(strings).transpose()?,
        timeout: hook
            .timeout
            .map(|s| i32::try_from(s.saturating_mul(1000)).unwrap_or(i32::MAX)),
    })
}

/// Sends `fd` and a payload over a stream socket at `path`: the master of a terminal, a pidfd, a
/// seccomp listener.
pub fn hand_over(what: &str, path: &Path, payload: &[u8], fd: BorrowedFd) -> Result<()> {
    let socket =
        socket::connect(path).map_err(|e| failed(e, format_args!("connect to {what} {path:?}")))?;
    socket::send(socket, payload, Some(fd))
        .map_err(|e| failed(e, format_args!("send to {what} {path:?}")))
}

/// The start time of our own child, which can't be gone as long as we haven't waited for it.
pub fn start_time(pid: i32) -> Result<u64> {
    let stat = host::process_stat(pid)?;
    Ok(stat.with_context(|| format!("process {pid} is gone"))?.1)
}

/// Not used by `launch` itself, but needed where a Record is made from a plan.
pub fn external_descriptors() -> Vec<String> {
    (0..3)
        .map(|n| {
            std::fs::read_link(format!("/proc/self/fd/{n}"))
                .map(|p| p.to_string_lossy().into_owned())
                .unwrap_or_default()
        })
        .collect()
}
