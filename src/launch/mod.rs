//! The parent's side: a plan becomes a process.
//!
//! [`container`] makes the cgroup's child by one clone3(2) and serves it until it's ready; the caller
//! commits the Record and lets it go on. See `init::message` for what passes between the two. Whatever
//! fails, what was made is taken back: the child is killed, nothing is left behind.

mod bare;
mod entry;
pub mod exe;
pub mod explain;
pub mod flow;
pub mod foreground;
mod idmap;
mod inside;
pub mod namespaces;
mod parked;
mod started;

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cgroup::Cgroup;
use crate::init::message::{Fail, HOOKS_DONE, MAPPED, Message, NETWORK};
use crate::init::park::Room;
use crate::plan::Plan;
use crate::sys::process::{self, Clone};
use crate::sys::{self, Errno, fs, mem, socket};
use crate::trace::Trace;
use crate::{fault, host, init};
use exe::Exe;
use inside::HookFiles;
use started::set_oom_score_adj;

pub use entry::{EntryRequest, entry};
pub use parked::{channel, go, order, resume};
pub use started::{Started, hand_over};

/// `what: no such file or directory (ENOENT)`.
pub fn failed(errno: Errno, what: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{what}: {}", explain::words(errno))
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
    /// What the zygote has made ahead. Asked for when all else is prepared: it may be on its way.
    pub ahead: &'a dyn Fn() -> Result<Option<Ahead<'a>>>,
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
    /// Done when the container has a root that is its own: whoever finds it may enter it.
    pub rooted: &'a dyn Fn() -> Result<()>,
    /// What it's told then, if it need not wait until it's ready.
    pub word: Option<u8>,
    /// It's a warm container: serve init until it's parked. See [`resume`].
    pub park: bool,
    /// Where the times go.
    pub trace: &'a Trace,
}

/// What the zygote has made ahead.
#[derive(Clone, Copy)]
pub struct Ahead<'a> {
    /// For init.
    pub kit: init::Kit<'a>,
    /// A read-only mount of the executable's directory, that the zygote keeps, and its name there.
    pub exe: Option<(&'a OwnedFd, &'a CStr)>,
}

/// Makes a container's init and serves it until only the start barrier and execve are left, or until
/// it's parked.
pub fn container(request: Request) -> Result<Started> {
    let plan = request.plan;
    let new = plan.namespaces.new;
    let user = libc::CLONE_NEWUSER as u64;
    let pid_kind = libc::CLONE_NEWPID as u64;
    request.trace.begin("prepare");
    let join = namespaces::open(plan)?;
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
    let room = request.park.then(Room::new);
    let times = request.trace.steps()?;
    let (ours, theirs) = socket::pair().map_err(|e| failed(e, "socketpair"))?;
    let ahead = (request.ahead)()?;
    let kit = ahead.map(|ahead| ahead.kit);
    let mut exe = exe::protect(ahead.and_then(|ahead| ahead.exe))?;
    // Namespaces of which init makes itself (cgroup, time), and those that a joined user namespace is
    // to own.
    let by_child = libc::CLONE_NEWCGROUP as u64 | libc::CLONE_NEWTIME as u64;
    let network = libc::CLONE_NEWNET as u64;
    let in_kit = kit.map_or(0, |kit| kit.kinds());
    let by_us = match plan.namespaces.has(user) {
        true => 0,
        false => new & network & !in_kit,
    };
    let (flags, after_join) = match joins(user) {
        true => (0, new & !by_child),
        false => (new & !by_child & !by_us & !in_kit, 0),
    };
    // A new uts namespace has the names of its maker's.
    let host_names = match in_kit & libc::CLONE_NEWUTS as u64 {
        0 => None,
        _ => Some(sys::cred::host_names().map_err(|e| failed(e, "uname"))?),
    };
    let sources: Vec<Cell<Option<OwnedFd>>> = match in_kit & libc::CLONE_NEWNS as u64 {
        0 => Vec::new(),
        _ => plan.mounts.iter().map(|_| Cell::new(None)).collect(),
    };
    // Processes of other containers are in there, too, and see the child from its first instruction.
    if joins(pid_kind)
        && let Some(Exe { image, file, .. }) = &exe
    {
        match mem::run_from(image, file.as_fd()) {
            Ok(()) => exe = None,
            // Not root: the child has the privileges, in its user namespace.
            Err(Errno::EPERM) => {}
            Err(errno) => return Err(failed(errno, "protect the runtime's executable")),
        }
    }
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
                root: sys::cred::effective_ids().0 == 0,
                times,
            },
            fifo: fifo.as_ref().map(|f| f.as_fd()),
            join: &join,
            id_maps: &id_maps,
            late: &late,
            bare: &bare,
            own_mounts: plan.namespaces.has(libc::CLONE_NEWNS as u64),
            network: Cell::new(by_us != 0),
            kit,
            sources: &sources,
            host_names: host_names
                .as_ref()
                .map(|(h, d)| (h.as_c_str(), d.as_c_str())),
            after_join,
            cgroup_source: &cgroup_source,
            parent_hooks: files.any(plan),
            create_container: files.kind(&files.create_container, 0, theirs.as_fd()),
            start_container: files.kind(&files.start_container, 1, theirs.as_fd()),
            park: room.as_ref(),
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
    trace_child(request.trace, pid, plan, kit);
    let mut started = Started {
        pid,
        pidfd,
        channel: ours,
        console: None,
        hooks: None,
        limited: false,
        init: true,
        told: None,
        exe: Cell::new(None),
    };
    let served = send_network(&started, by_us != 0, &request)
        .and_then(|()| serve(&mut started, request, kit, &files, &id_maps));
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
    kit: Option<init::Kit>,
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
        plan,
        cgroup,
        hooks,
        state,
        rooted,
        word,
        ..
    } = request;
    let explained = |fail: &Fail| {
        let why = explain::container(fail, plan, &|| files.output());
        format!("error during container init: {why}")
    };
    loop {
        match started.next(cgroup, &explained)? {
            Message::Failed(fail) => bail!("{}", explained(&fail)),
            Message::Moved { pid } => {
                started.moved(pid)?;
                trace_child(request.trace, pid, plan, kit);
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
            Message::Parked => return rooted(),
            Message::Rooted => {
                request.trace.begin("commit");
                rooted()?;
                if let Some(word) = word {
                    started.tell_early(word, plan.process.as_ref(), plan.seccomp.as_ref())?;
                }
                request.trace.begin("wait for init");
            }
            Message::Ready { machine } => {
                fault::point("launch:ready")?;
                return started.ready(plan.process.as_ref(), machine);
            }
        }
    }
}

fn trace_child(trace: &Trace, pid: i32, plan: &Plan, kit: Option<init::Kit>) {
    trace.child(pid, || {
        let warm = |index| match kit.and_then(|kit| kit.trees.get(index)) {
            None | Some(init::Ready::No) => "",
            Some(_) => " (kit)",
        };
        let mounts = plan.mounts.iter().enumerate();
        let text = mounts.map(|(i, m)| format!("{:?}{}", m.destination.to_string_lossy(), warm(i)));
        text.collect()
    });
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

/// The start time of our own child, which can't be gone as long as we haven't waited for it.
pub fn start_time(pid: i32) -> Result<u64> {
    let stat = host::process_stat(pid)?;
    Ok(stat.with_context(|| format!("process {pid} is gone"))?.1)
}

/// Not used by `launch` itself, but needed where a Record is made from a plan.
pub fn external_descriptors() -> Vec<String> {
    // By the directory: to look each up from `/` takes twice as long.
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let directory = fs::open(fs::CWD, c"/proc/self/fd", flags, 0);
    let link = |name: &CStr| {
        let mut path = [0; libc::PATH_MAX as usize];
        let path = fs::readlink(directory.as_ref().ok()?, name, &mut path).ok()?;
        Some(String::from_utf8_lossy(path).into_owned())
    };
    let names = [c"0", c"1", c"2"];
    names.map(|name| link(name).unwrap_or_default()).to_vec()
}
