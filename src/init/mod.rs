//! The child: from clone3(2) to execve(2), one straight list of steps.
//!
//! Contract: one thread, on a copy of the parent's memory. It reads what the parent laid out, and
//! allocates nothing, formats nothing, logs nothing, and cannot panic: the container's memory limit
//! is charged for it from its first instruction. A step that fails becomes a [`Fail`], the parent's
//! business from there. It leaves by execve(2) or _exit(2).
//!
//! [`container`] makes a container's init, [`entry`] a process that enters a running one. Why the
//! steps stand in this order is said at each.

mod copy_up;
mod dev;
mod finish;
pub mod hooks;
pub mod message;
mod mounts;
mod namespaces;
pub mod park;
mod path;
mod process;
mod program;
mod root;

pub use dev::fill as fill_dev;
pub use mounts::bind;
pub use root::MASK;

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::plan::{Plan, Process};
use crate::seccomp;
use crate::sys::process::Clone;
use crate::sys::{self, Errno, cred, fs, mem, net, socket};
use finish::{Finish, close_all};
use message::{At, COMMITTED, Fail, HOOKS_DONE, MAPPED, MOVED, Message, Step};
use park::Program;

/// The runtime's own executable, protected (see `launch::exe`).
pub struct Exe<'a> {
    /// Where it's mapped.
    pub image: &'a mem::Image,
    /// The file to map instead.
    pub file: BorrowedFd<'a>,
    /// The read-only mount that it was opened through, and the directory that this is a copy of.
    pub mount: Option<(BorrowedFd<'a>, &'a CStr)>,
}

/// What the zygote has made ahead (`zygote::kit`).
#[derive(Clone, Copy)]
pub struct Kit<'a> {
    /// Namespaces to enter instead of making them, each with its CLONE_NEW*. A mount namespace is
    /// empty.
    pub namespaces: &'a [(u64, OwnedFd)],
    /// File systems to attach instead of mounting them, as many as `plan.mounts`.
    pub trees: &'a [Ready],
    /// The one at /dev has its nodes and links.
    pub dev: bool,
    /// What is laid over masked directories.
    pub mask: &'a Cell<Option<OwnedFd>>,
}

impl Kit<'_> {
    /// CLONE_NEW* of its namespaces.
    pub fn kinds(&self) -> u64 {
        self.namespaces.iter().fold(0, |all, (kind, _)| all | kind)
    }
}

/// How much of a mount is there.
pub enum Ready {
    /// Nothing.
    No,
    /// All but that it's attached.
    Tree(Cell<Option<OwnedFd>>),
    /// It's in the tree at /dev.
    Attached,
}

/// What both kinds of children have.
pub struct Common<'a> {
    /// Our end of the channel to the parent.
    pub channel: BorrowedFd<'a>,
    /// The executable through a read-only mount, and where it's mapped; `None`: it needs no
    /// protection (see `launch::exe`).
    pub exe: Option<Exe<'a>>,
    /// The signal mask that the caller had.
    pub signal_mask: Option<libc::sigset_t>,
    /// The parent is root, whom the kernel lets reach into a process that isn't dumpable, too.
    pub root: bool,
    /// Where `--trace` keeps the time of each step.
    pub times: Option<&'a mem::Shared>,
}

/// What a container's init needs beside the plan: descriptors that the parent opened.
pub struct Context<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// See [`Common`].
    pub common: Common<'a>,
    /// The start barrier: exec.fifo, open for reading and writing; `None` for `run`.
    pub fifo: Option<BorrowedFd<'a>>,
    /// Namespaces to join, as `plan.namespaces.join`.
    pub join: &'a [OwnedFd],
    /// The user namespaces whose maps idmapped mounts get, as `plan.mounts`.
    pub id_maps: &'a [Option<OwnedFd>],
    /// Mounts that become read-only at the end, and procfs and sysfs, in which paths are hidden;
    /// filled by `mounts`; as many as `plan.mounts`.
    pub late: &'a [Cell<Option<OwnedFd>>],
    /// Mounts of the host to be unmounted before its root is covered (see `launch::bare`).
    pub bare: &'a [CString],
    /// Whether there is a mount namespace that isn't the host's.
    pub own_mounts: bool,
    /// The parent makes the network namespace meanwhile, and sends it: [`Context::join_network`].
    pub network: Cell<bool>,
    /// What was made ahead.
    pub kit: Option<Kit<'a>>,
    /// For a kit's mount namespace, in which no source of a bind can be found: their trees, as
    /// `plan.mounts`.
    pub sources: &'a [Cell<Option<OwnedFd>>],
    /// The names of a uts namespace that is new and that the config leaves as the caller's.
    pub host_names: Option<(&'a CStr, &'a CStr)>,
    /// Namespaces that are to be made after a user namespace was joined, because it shall own them.
    pub after_join: u64,
    /// What is bound where cgroup2 can't be mounted.
    pub cgroup_source: &'a CStr,
    /// The parent has hooks to run once the mounts are made, or hook states to fill in.
    pub parent_hooks: bool,
    /// createContainer.
    pub create_container: hooks::Kind<'a>,
    /// startContainer.
    pub start_container: hooks::Kind<'a>,
    /// It's a warm container's init: it waits for a caller before it looks for its program, and receives
    /// here what that wants.
    pub park: Option<&'a park::Room>,
}

/// What a process that enters a container needs.
pub struct Entry<'a> {
    /// The process.
    pub process: &'a Process,
    /// The container's filter.
    pub seccomp: Option<&'a seccomp::Program>,
    /// See [`Common`].
    pub common: Common<'a>,
    /// A pidfd of the container's init.
    pub init: BorrowedFd<'a>,
    /// CLONE_NEW* of the namespaces to enter.
    pub kinds: u64,
    /// The container's session keyring.
    pub keyring: Option<&'a CStr>,
}

impl Common<'_> {
    /// Notes the time at which a step begins.
    fn trace(&self, step: Step, index: usize) {
        crate::fault::step(step, index);
        if let Some(times) = self.times {
            let n = times.get(0) as usize;
            times.set(1 + 2 * n, (step as u64) << 32 | index as u64);
            times.set(2 + 2 * n, sys::process::monotonic());
            times.set(0, n as u64 + 1);
        }
    }

    /// Without a descriptor by write(2): a seccomp profile that is strict need allow no more than
    /// runc's own child needs.
    fn send(&self, message: &Message, fd: Option<BorrowedFd>) -> sys::Result<()> {
        match fd {
            Some(_) => socket::send(self.channel, &message.encode(), fd),
            None => fs::write(self.channel, &message.encode()).map(drop),
        }
    }

    /// The parent's next word. Without a parent there is nobody to go on for.
    fn await_parent(&self) -> u8 {
        let mut word = [0];
        match fs::read(self.channel, &mut word) {
            Ok(1) => word[0],
            _ => sys::process::exit_now(1),
        }
    }

    fn await_word(&self, word: u8) {
        if self.await_parent() != word {
            sys::process::exit_now(1);
        }
    }

    /// First of all, in every child.
    fn begin(&self) -> Result<(), Fail> {
        if let Some(mask) = &self.signal_mask {
            sys::process::set_signal_mask(mask).at(Step::Parent)?;
        }
        // clone3 put us into the cgroup, where the caller's mask may mean other CPUs or none at all;
        // runc resets it, too. Where that's refused the mask stays.
        let _ = cred::set_affinity(0, &[0xff; 128]);
        let _ = sys::process::set_name(c"runz:init");
        fs::umask(0);
        Ok(())
    }

    /// Takes the executable out of the container's reach. Whether it's done: it needs privileges, which
    /// somebody who is not root has only in the user namespace that is about to be joined (`joins`).
    fn seal(&self, joins: bool) -> Result<bool, Fail> {
        let Some(exe) = &self.exe else {
            return Ok(true);
        };
        self.trace(Step::Seal, 0);
        match mem::run_from(exe.image, exe.file) {
            Err(Errno::EPERM) if joins => Ok(false),
            other => other.map(|()| true).at(Step::Seal),
        }
    }
}

impl Common<'_> {
    /// Shuts others of the container out of /proc/PID of this process, which has the parent's memory and a
    /// few descriptors until it executes (CVE-2016-9962): those with the same user, and those with
    /// CAP_SYS_PTRACE in the container's user namespace. A parent who isn't root would be shut out, too.
    fn hide(&self) -> Result<(), Fail> {
        match self.root {
            true => sys::process::set_dumpable(false).at(Step::Session),
            false => Ok(()),
        }
    }
}

impl Context<'_> {
    fn trace(&self, step: Step, index: usize) {
        self.common.trace(step, index);
    }

    fn send(&self, message: &Message, fd: Option<BorrowedFd>) -> sys::Result<()> {
        self.common.send(message, fd)
    }

    /// Enters the network namespace that the parent has made while we worked: of all that is made for a
    /// container it takes longest. To be called before anything looks at the network.
    fn join_network(&self) -> Result<(), Fail> {
        if !self.network.take() {
            return Ok(());
        }
        self.trace(Step::JoinNetwork, 0);
        match socket::receive(self.common.channel, &mut [0]) {
            Ok((1, Some(network))) => {
                let kind = libc::CLONE_NEWNET as u64;
                sys::process::setns(network, kind).at(Step::JoinNetwork)
            }
            _ => sys::process::exit_now(1),
        }
    }
}

/// Becomes a container's init. Never returns.
pub fn container(c: &Context) -> ! {
    match container_steps(c) {
        Ok(never) => match never {},
        Err(fail) => leave(&c.common, fail),
    }
}

/// Enters a running container. Never returns.
pub fn entry(e: &Entry) -> ! {
    match entry_steps(e) {
        Ok(never) => match never {},
        Err(fail) => leave(&e.common, fail),
    }
}

/// What a list of steps yields when all went well: nothing, for the program runs in its place.
enum Never {}

fn leave(common: &Common, fail: Fail) -> ! {
    let _ = common.send(&Message::Failed(fail), None);
    sys::process::exit_now(1)
}

fn container_steps(c: &Context) -> Result<Never, Fail> {
    let plan = c.plan;
    let new = plan.namespaces.new;
    let own_user = new & libc::CLONE_NEWUSER as u64 != 0;
    if own_user {
        // Until the maps are written we are nobody, and may not even open the executable.
        c.common.await_word(MAPPED);
        become_root(!hidden(c))?;
    }
    c.common.begin()?;
    let joins = plan.namespaces.join.iter();
    let joins_user = joins.clone().any(|j| j.kind == libc::CLONE_NEWUSER as u64);
    let sealed = c.common.seal(joins_user)?;

    c.trace(Step::Session, 0);
    namespaces::join(c)?;
    if !sealed {
        c.common.seal(false)?;
    }
    sys::process::setsid().at(Step::Session)?;
    if let Some(name) = &plan.keyring {
        c.trace(Step::Keyring, 0);
        session_keyring(name)?;
    }
    // Now that we are in our cgroup: a cgroup namespace made by clone3 would have the caller's
    // cgroup as its root.
    if new & libc::CLONE_NEWCGROUP as u64 != 0 {
        sys::process::unshare(libc::CLONE_NEWCGROUP as u64).at(Step::Namespaces)?;
    }
    if new & libc::CLONE_NEWTIME as u64 != 0 {
        namespaces::time(plan)?;
    }
    let in_kit = c.kit.map_or(0, |kit| kit.kinds());
    if new & !in_kit & libc::CLONE_NEWNET as u64 != 0 && !c.network.get() {
        c.trace(Step::Loopback, 0);
        net::loopback_up().at(Step::Loopback)?;
    }
    if new & libc::CLONE_NEWPID as u64 == 0 {
        // Others of the same pid namespace must not look into /proc/PID of this process.
        sys::process::set_dumpable(false).at(Step::Session)?;
    }

    let null = root::null(c)?;
    if let Some(kit) = &c.kit {
        c.trace(Step::Kit, 0);
        for (kind, namespace) in kit.namespaces {
            if *kind != libc::CLONE_NEWNS as u64 {
                sys::process::setns(namespace, *kind).at(Step::Kit)?;
            }
        }
    }
    c.trace(Step::Rootfs, 0);
    let root = root::prepare(c)?;
    mounts::all(c, root.as_fd())?;
    c.join_network()?;
    if let Some(dev) = &plan.dev {
        c.trace(Step::Dev, 0);
        dev::setup(root.as_fd(), dev, c.kit.is_some_and(|kit| kit.dev))?;
    }
    if c.parent_hooks {
        c.send(&Message::Hooks, None).at(Step::Parent)?;
        c.common.await_word(HOOKS_DONE);
    }
    if !c.create_container.hooks.is_empty() {
        fs::fchdir(&root).at(Step::CreateContainerHook)?;
        hooks::run(&c.create_container, None, Step::CreateContainerHook)?;
    }
    if let Some(p) = plan.process.as_ref().filter(|p| p.terminal) {
        c.trace(Step::Console, 0);
        dev::terminal(&c.common, root.as_fd(), p.console_size, true)?;
    }

    c.trace(Step::Pivot, 0);
    root::pivot(c, root.as_fd())?;
    dev::reopen_null(root.as_fd(), plan)?;
    if let Some(p) = &plan.process {
        path::open_or_make(root.as_fd(), &p.cwd, true).at(Step::Cwd)?;
    }
    // Only now: nothing above may be stopped by it.
    mounts::readonly_late(c)?;
    if plan.readonly_rootfs {
        root::readonly(root.as_fd()).at(Step::ReadonlyRootfs)?;
    }
    let own = c.host_names;
    if let Some(name) = plan.hostname.as_deref().or(own.map(|own| own.0)) {
        cred::sethostname(name).at(Step::Hostname)?;
    }
    if let Some(name) = plan.domainname.as_deref().or(own.map(|own| own.1)) {
        cred::setdomainname(name).at(Step::Domainname)?;
    }
    let labels = plan
        .process
        .as_ref()
        .is_some_and(|p| p.apparmor.is_some() || p.selinux.is_some());
    let proc = match labels || !plan.sysctls.is_empty() {
        true => Some(process::private_proc()?),
        false => None,
    };
    if let Some(proc) = proc.as_ref().filter(|_| !plan.sysctls.is_empty()) {
        c.trace(Step::Sysctl, 0);
        for (i, sysctl) in plan.sysctls.iter().enumerate() {
            process::write_proc(proc.as_fd(), &sysctl.path, &sysctl.value).of(Step::Sysctl, i)?;
        }
    }
    c.trace(Step::ReadonlyPath, 0);
    root::readonly_paths(c, root.as_fd())?;
    c.trace(Step::MaskedPath, 0);
    root::masked_paths(c, root.as_fd(), null)?;
    if c.park.is_none() {
        c.send(&Message::Rooted, None).at(Step::Parent)?;
    }

    let Some(p) = &plan.process else {
        // Allowed until `start`, which will say so.
        return wait_for_nothing(c);
    };
    c.trace(Step::Capabilities, 0);
    process::bound(p)?;
    let mut room = park::Taken::from(c.park);
    let program = match c.park {
        Some(_) => park::wait(c, &mut room, root.as_fd())?,
        None => Program::of(p),
    };
    let finish = Finish {
        process: p,
        program,
        seccomp: plan.seccomp.as_ref(),
        common: &c.common,
        fifo: c.fifo,
        start_container: Some(&c.start_container),
    };
    let done = finish.run(root.as_fd(), proc.as_ref().map(|p| p.as_fd()));
    // Its descriptors were closed by number: they must not be closed again by their owners.
    std::mem::forget((root, proc));
    done
}

fn entry_steps(e: &Entry) -> Result<Never, Fail> {
    e.common.begin()?;
    let user = e.kinds & libc::CLONE_NEWUSER as u64 != 0;
    let sealed = e.common.seal(user)?;
    e.common.trace(Step::JoinNamespace, 0);
    // All in one call: the kernel checks each against the credentials that the others give.
    sys::process::setns(e.init, e.kinds).at(Step::JoinNamespace)?;
    if !sealed {
        e.common.seal(false)?;
    }
    if e.kinds & libc::CLONE_NEWPID as u64 != 0 {
        appear(e)?;
    }
    sys::process::setsid().at(Step::Session)?;
    if user {
        become_root(!e.common.root)?;
    }
    if let Some(name) = e.keyring {
        session_keyring(name)?;
    }
    let root = fs::open(fs::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).at(Step::Pivot)?;
    let p = e.process;
    let proc = match p.apparmor.is_some() || p.selinux.is_some() {
        true => Some(process::private_proc()?),
        false => None,
    };
    if p.terminal {
        dev::terminal(&e.common, root.as_fd(), p.console_size, false)?;
    }
    e.common.trace(Step::Capabilities, 0);
    process::bound(p)?;
    let finish = Finish {
        process: p,
        program: Program::of(p),
        seccomp: e.seccomp,
        common: &e.common,
        fifo: None,
        start_container: None,
    };
    let done = finish.run(root.as_fd(), proc.as_ref().map(|p| p.as_fd()));
    // Its descriptors were closed by number: they must not be closed again by their owners.
    std::mem::forget((root, proc));
    done
}

/// Enters the pid namespace, which only a child does: it goes on in our place, as our parent's child.
/// Its processes see it from its first instruction, and one with CAP_SYS_PTRACE can look into it and
/// take what it has: so the host's root, its binary and all descriptors are behind us by now.
fn appear(e: &Entry) -> Result<(), Fail> {
    close_all(
        3 + e.process.preserve_fds,
        &mut [e.common.channel.as_raw_fd()],
    )?;
    match sys::process::clone3(libc::CLONE_PARENT as u64, None).at(Step::Namespaces)? {
        // What we say next must not overtake it.
        Clone::Child => {
            e.common.await_word(MOVED);
            Ok(())
        }
        Clone::Parent { pid, .. } => {
            let moved = e.common.send(&Message::Moved { pid }, None);
            sys::process::exit_now(moved.is_err().into())
        }
    }
}

/// A container without a `process`: it exists, and `start` refuses.
fn wait_for_nothing(c: &Context) -> Result<Never, Fail> {
    let ready = Message::Ready { machine: 0 };
    c.send(&ready, None).at(Step::Parent)?;
    c.common.await_word(COMMITTED);
    if let Some(fifo) = c.fifo {
        let _ = fs::read(fifo, &mut [0]);
    }
    sys::process::exit_now(1)
}

/// Whether others of the container's pid namespace may see its init, and must not look into it even for a
/// moment. Offsets of a time namespace are written by our own files in /proc, and a parent who isn't root
/// reaches for them: then only once that is done.
fn hidden(c: &Context) -> bool {
    let new = c.plan.namespaces.new;
    let (pid, time) = (libc::CLONE_NEWPID as u64, libc::CLONE_NEWTIME as u64);
    c.common.root && new & (pid | time) == 0
}

/// Root of a user namespace that we have just entered. Its groups are dropped where that is allowed:
/// they would be those of the caller. `dumpable`: whether our own files in /proc shall be ours.
fn become_root(dumpable: bool) -> Result<(), Fail> {
    match cred::setgroups(&[]) {
        Ok(()) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(Fail::new(Step::BecomeRoot, errno)),
    }
    cred::setgid(0).at(Step::BecomeRoot)?;
    cred::setuid(0).at(Step::BecomeRoot)?;
    // The change of ids made us undumpable, unless fs.suid_dumpable says otherwise, and our own files in
    // /proc the host root's.
    sys::process::set_dumpable(dumpable).at(Step::BecomeRoot)
}

/// The session keyring, so that the container sees none of the caller's keys. Kernels without keys,
/// and sandboxes that forbid them, have none to see.
fn session_keyring(name: &CStr) -> Result<(), Fail> {
    // What exec needs to join it: search for possessor and user (keyctl_setperm(3)).
    const SEARCH: u32 = 0x0808_0000;
    match cred::join_session_keyring(name) {
        Ok(serial) => match cred::widen_key(serial, SEARCH) {
            Ok(()) | Err(Errno::ENOSYS) => Ok(()),
            Err(errno) => Err(Fail::new(Step::Keyring, errno)),
        },
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(errno) => Err(Fail::new(Step::Keyring, errno)),
    }
}
