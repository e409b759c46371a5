//! The mounts of the container. Each is made detached, given its attributes, and only then attached
//! to a target that was opened inside the root: nothing is ever mounted by path.

use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::message::{Fail, Message, MountStep, Step};
use super::{Context, Ready, copy_up, path};
use crate::plan::{Mount, MountKind};
use crate::sys::fs::{self, CWD};
use crate::sys::mount::{self, Attr};
use crate::sys::{self, Errno, socket};

/// Carries out `mounts`, in order.
pub fn all(c: &Context, root: BorrowedFd) -> Result<(), Fail> {
    for (i, m) in c.plan.mounts.iter().enumerate() {
        c.trace(Step::Mount, i);
        one(c, root, i, m).map_err(|fail| fail.of(i))?;
    }
    Ok(())
}

/// Takes the sources of all binds along, before a mount namespace is entered that has none of them.
pub fn sources(c: &Context, propagation: u64) -> Result<(), Fail> {
    for (i, m) in c.plan.mounts.iter().enumerate() {
        if let MountKind::Bind { source, recursive } = &m.kind
            && !m.remount
            && let Some(cell) = c.sources.get(i)
        {
            let taken = || {
                let tree = source_tree(c, i, m, source, *recursive)?;
                super::root::propagate(&tree, true, propagation)
                    .map_err(fail(MountStep::Source))?;
                Ok(tree)
            };
            cell.set(Some(taken().map_err(|fail: Fail| fail.of(i))?));
        }
    }
    Ok(())
}

fn fail(step: MountStep) -> impl Fn(Errno) -> Fail {
    move |errno| Fail::new(Step::Mount, errno).at(step as u32)
}

fn one(c: &Context, root: BorrowedFd, i: usize, m: &Mount) -> Result<(), Fail> {
    if m.remount {
        let target = path::open(root, &m.destination).map_err(fail(MountStep::Target))?;
        return attributes(target.as_fd(), m);
    }
    let fstype = match &m.kind {
        MountKind::New { fstype, .. } => fstype.as_bytes(),
        _ => b"",
    };
    if fstype == b"sysfs" {
        // It shows the network namespace of whoever mounts it.
        c.join_network()?;
    }
    let (tree, target) = match &m.kind {
        MountKind::Bind { source, recursive } => {
            let tree = match c.sources.get(i).and_then(Cell::take) {
                Some(tree) => tree,
                None => source_tree(c, i, m, source, *recursive)?,
            };
            let is_directory = fs::fstat(&tree)
                .map(|s| fs::is_type(&s, libc::S_IFDIR))
                .map_err(fail(MountStep::Source))?;
            let target = path::open_or_make(root, &m.destination, is_directory)
                .map_err(fail(MountStep::MakeTarget))?;
            (tree, target)
        }
        MountKind::New {
            fstype: name,
            source,
            options,
            legacy,
        } => {
            let ready = match c.kit.and_then(|kit| kit.trees.get(i)) {
                Some(Ready::Attached) => return Ok(()),
                Some(Ready::Tree(tree)) => tree.take(),
                _ => None,
            };
            let (target, there) = match fstype {
                b"proc" | b"sysfs" => (ordinary_directory(root, &m.destination)?, true),
                _ => match path::open(root, &m.destination) {
                    Err(Errno::ENOENT) => {
                        let made = path::open_or_make(root, &m.destination, true);
                        (made.map_err(fail(MountStep::MakeTarget))?, false)
                    }
                    found => (found.map_err(fail(MountStep::MakeTarget))?, true),
                },
            };
            // Only what the root file system has, not what is made here.
            let inherit = fstype == b"tmpfs" && there;
            if let Some((data, flags)) = legacy {
                only_proc_over_proc(m, None, &target)?;
                return by_mount(root, m, name, source, data, *flags, &target);
            }
            let inherit = inherit.then_some(target.as_fd());
            let tree = match ready {
                Some(tree) => tree,
                None => new(name, source, options, m.set, inherit)?,
            };
            if let Some(target) = inherit {
                inherit_owner(&tree, options, target).map_err(fail(MountStep::Make))?;
            }
            (tree, target)
        }
        MountKind::Cgroup { options } => {
            let target = path::open_or_make(root, &m.destination, true)
                .map_err(fail(MountStep::MakeTarget))?;
            (cgroup(c, options, m)?, target)
        }
    };
    only_proc_over_proc(m, Some(&tree), &target)?;
    // A new mount was born with its attributes; a bind has its source's.
    if matches!(m.kind, MountKind::Bind { .. }) {
        attributes(tree.as_fd(), m)?;
    } else {
        recursive_attributes(tree.as_fd(), m)?;
    }
    if m.copy_up {
        copy_up::copy(target.as_fd(), tree.as_fd()).map_err(fail(MountStep::CopyUp))?;
    }
    mount::move_mount(&tree, &target).map_err(|errno| unlike(errno, &tree, &target))?;
    if let Some(label) = &m.relabel {
        fs::set_label(&tree, label).map_err(fail(MountStep::Label))?;
    }
    propagation(tree.as_fd(), m)?;
    if m.readonly_late || fstype == b"proc" || fstype == b"sysfs" {
        c.late[i].set(Some(tree));
    }
    Ok(())
}

/// Why a tree can't be attached: move_mount(2) says EINVAL for almost anything, also for a directory on
/// a file, for which mount(2) says ENOTDIR, and docker looks for those words (not for "is a directory").
fn unlike(errno: Errno, tree: &OwnedFd, target: &OwnedFd) -> Fail {
    let directory = |fd: &OwnedFd| fs::fstat(fd).map(|s| fs::is_type(&s, libc::S_IFDIR));
    let (words, errno) = match (errno, directory(tree), directory(target)) {
        (Errno::EINVAL, Ok(true), Ok(false)) => (
            &b"a directory can't be mounted on a file"[..],
            Errno::ENOTDIR,
        ),
        (Errno::EINVAL, Ok(false), Ok(true)) => (
            &b"a file can't be mounted on a directory"[..],
            Errno::ENOTDIR,
        ),
        _ => (&b""[..], errno),
    };
    fail(MountStep::Attach)(errno).noting(words)
}

/// The tree of a bind. In a user namespace we may not be able to reach the source, nor to map it:
/// then the parent does.
fn source_tree(
    c: &Context,
    i: usize,
    m: &Mount,
    source: &CStr,
    recursive: bool,
) -> Result<OwnedFd, Fail> {
    let user = c.plan.namespaces.has(libc::CLONE_NEWUSER as u64);
    let idmap = m.idmap.as_ref().map(|m| m.recursive);
    let opened = match user && idmap.is_some() {
        true => Err(Errno::EPERM),
        false => bind(source, recursive, idmap.zip(c.id_maps[i].as_ref())),
    };
    match opened {
        Err(refused @ (Errno::EACCES | Errno::EPERM)) if user => {
            let ask = Message::Source { index: i as u32 };
            c.send(&ask, None).map_err(fail(MountStep::Source))?;
            let mut errno = [0; 4];
            match socket::receive(c.common.channel, &mut errno) {
                Ok((_, Some(tree))) => Ok(tree),
                Ok((4, None)) => match Errno::from_raw(i32::from_ne_bytes(errno)) {
                    // Without root there is no more that it could do.
                    Errno::EPERM => Err(refused),
                    errno => Err(errno),
                },
                Ok(_) => Err(Errno::EPIPE),
                Err(errno) => Err(errno),
            }
        }
        opened => opened,
    }
    .map_err(fail(MountStep::Source))
}

/// A detached copy of the tree at `source`, with the maps of a user namespace on its root or on all
/// of it (`idmap`).
pub fn bind(
    source: &CStr,
    recursive: bool,
    idmap: Option<(bool, &OwnedFd)>,
) -> sys::Result<OwnedFd> {
    let tree = mount::clone_tree(CWD, source, recursive)?;
    if let Some((recursive, namespace)) = idmap {
        let attr = Attr {
            set: libc::MOUNT_ATTR_IDMAP,
            userns: Some(namespace.as_raw_fd()),
            ..Attr::default()
        };
        mount::set_attr(&tree, recursive, attr)?;
    }
    Ok(tree)
}

fn propagation(tree: BorrowedFd, m: &Mount) -> Result<(), Fail> {
    for kind in &m.propagation {
        let attr = Attr {
            propagation: kind & !libc::MS_REC,
            ..Attr::default()
        };
        mount::set_attr(tree, kind & libc::MS_REC != 0, attr)
            .map_err(fail(MountStep::Propagation))?;
    }
    Ok(())
}

/// Gives a bind, or a mount that is there, the attributes that its options name. As in mount(8) they
/// replace those of what is bound, but for locked ones in a user namespace, unless an option cleared
/// one by name: that is an error then, rather than a mount which is not as it was asked for.
fn attributes(tree: BorrowedFd, m: &Mount) -> Result<(), Fail> {
    if m.set | m.clear | m.replace != 0 {
        let attr = Attr {
            set: m.set,
            clear: m.clear | m.replace,
            ..Attr::default()
        };
        match mount::set_attr(tree, false, attr) {
            Err(Errno::EPERM) if m.replace != 0 => {
                // Never locked: symbolic links (fs/namespace.c, can_change_locked_flags). Access times
                // are locked as a whole, and only here when an option is about them.
                let firm = libc::MOUNT_ATTR_NOSYMFOLLOW | libc::MOUNT_ATTR_NODIRATIME;
                let kept = Attr {
                    clear: m.clear | m.replace & firm,
                    ..attr
                };
                mount::set_attr(tree, false, kept).map_err(fail(MountStep::LockedFlags))?;
            }
            other => other.map_err(fail(MountStep::Attributes))?,
        }
    }
    recursive_attributes(tree, m)
}

fn recursive_attributes(tree: BorrowedFd, m: &Mount) -> Result<(), Fail> {
    if m.set_recursive | m.clear_recursive == 0 {
        return Ok(());
    }
    let attr = Attr {
        set: m.set_recursive,
        clear: m.clear_recursive,
        ..Attr::default()
    };
    mount::set_attr(tree, true, attr).map_err(fail(MountStep::Recursive))
}

/// A new instance of a file system, detached. A tmpfs that says nothing of its root's mode takes that
/// of the directory that it covers (`inherit`).
fn new(
    fstype: &CStr,
    source: &CStr,
    options: &[(std::ffi::CString, Option<std::ffi::CString>)],
    attr: u64,
    inherit: Option<BorrowedFd>,
) -> Result<OwnedFd, Fail> {
    let context = mount::fsopen(fstype).map_err(fail(MountStep::Type))?;
    let words = |f: Fail| {
        let mut text = [0; super::message::NOTE];
        match fs::read(&context, &mut text) {
            Ok(n) => f.noting(&text[..n]),
            Err(_) => f,
        }
    };
    if !source.is_empty() {
        mount::fsconfig(&context, c"source", Some(source))
            .map_err(|e| words(fail(MountStep::Source)(e)))?;
    }
    for (k, (key, value)) in options.iter().enumerate() {
        mount::fsconfig(&context, key, value.as_deref()).map_err(|errno| {
            words(Fail::new(Step::Mount, errno).at(MountStep::Option as u32 | (k as u32) << 8))
        })?;
    }
    if let Some(target) = inherit
        && !options.iter().any(|(key, _)| key.as_bytes() == b"mode")
    {
        inherit_mode(&context, target).map_err(fail(MountStep::Make))?;
    }
    mount::fsconfig_create(&context).map_err(|e| words(fail(MountStep::Make)(e)))?;
    mount::fsmount(&context, attr).map_err(|e| words(fail(MountStep::Make)(e)))
}

fn inherit_mode(context: &OwnedFd, target: BorrowedFd) -> sys::Result<()> {
    let mut mode = path::Text::<32>::new();
    mode.push_number(fs::fstat(target)?.st_mode & 0o7777, 8)?;
    mount::fsconfig(context, c"mode", Some(mode.c_str()?))
}

/// Gives a tmpfs, be it new or made ahead, the owner of the directory that it covers, where no option
/// says another. One that has no id in our user namespace can't be named; root stays then.
fn inherit_owner(
    tree: &OwnedFd,
    options: &[(std::ffi::CString, Option<std::ffi::CString>)],
    target: BorrowedFd,
) -> sys::Result<()> {
    let stat = fs::fstat(target)?;
    let set = |name: &[u8]| options.iter().any(|(key, _)| key.as_bytes() == name);
    for (name, uid, gid) in [
        (&b"uid"[..], stat.st_uid, u32::MAX),
        (b"gid", u32::MAX, stat.st_gid),
    ] {
        if uid.min(gid) != 0 && !set(name) {
            // A new mount's descriptor is O_PATH, with which fchown(2) does nothing.
            let _ = fs::chown_at(tree, c"", uid, gid, libc::AT_EMPTY_PATH);
        }
    }
    Ok(())
}

/// The old way, for options that fsconfig(2) can't take. The target is named through the host's
/// /proc, which is still there: the descriptor decides, not the path.
fn by_mount(
    root: BorrowedFd,
    m: &Mount,
    fstype: &CStr,
    source: &CStr,
    data: &CStr,
    flags: u64,
    target: &OwnedFd,
) -> Result<(), Fail> {
    let mut name = path::Text::<64>::new();
    name.push(b"/proc/self/fd/")
        .and_then(|()| name.push_number(target.as_raw_fd() as u32, 10))
        .map_err(fail(MountStep::Attach))?;
    let name = name.c_str().map_err(fail(MountStep::Attach))?;
    mount::mount(Some(source), name, Some(fstype), flags, Some(data))
        .map_err(fail(MountStep::Make))?;
    let tree = path::open(root, &m.destination).map_err(fail(MountStep::Target))?;
    recursive_attributes(tree.as_fd(), m)?;
    propagation(tree.as_fd(), m)
}

/// cgroup2. Where it can't be mounted (a user namespace without a cgroup namespace of its own, a
/// sandbox), the container's own cgroup is bound instead, or the whole hierarchy when the container
/// shares the cgroup namespace; as in runc.
fn cgroup(
    c: &Context,
    options: &[(std::ffi::CString, Option<std::ffi::CString>)],
    m: &Mount,
) -> Result<OwnedFd, Fail> {
    let refused = match new(c"cgroup2", c"cgroup", options, m.set, None) {
        Err(fail) if matches!(fail.errno, Errno::EPERM | Errno::EBUSY) => fail,
        other => return other,
    };
    let tree = mount::clone_tree(CWD, c.cgroup_source, false).map_err(|_| refused)?;
    attributes(tree.as_fd(), m)?;
    Ok(tree)
}

/// procfs and sysfs may not be mounted through a symlink: what comes after trusts their paths
/// (CVE-2019-16884, CVE-2019-19921).
fn ordinary_directory(root: BorrowedFd, destination: &CStr) -> Result<OwnedFd, Fail> {
    let resolve = fs::IN_ROOT | libc::RESOLVE_NO_SYMLINKS;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let open = || fs::openat2(root, destination, flags, 0, resolve);
    let opened = match open() {
        Err(Errno::ENOENT) => {
            path::open_or_make(root, destination, true).map_err(fail(MountStep::MakeTarget))?;
            // What was made may be a symlink's target by now.
            open()
        }
        other => other,
    };
    opened.map_err(|errno| match errno {
        Errno::ELOOP | Errno::ENOTDIR => {
            fail(MountStep::NotProc)(errno).noting(b"must be mounted on ordinary directory")
        }
        errno => fail(MountStep::MakeTarget)(errno),
    })
}

/// A mount over a part of /proc that isn't one of the few known ones would feed the runtime and the
/// LSMs a fake, and so would one at /proc that is no procfs. By which path the target was reached
/// doesn't count (CVE-2019-16884, CVE-2019-19921).
fn only_proc_over_proc(m: &Mount, tree: Option<&OwnedFd>, target: &OwnedFd) -> Result<(), Fail> {
    let refused = |words: &[u8]| Err(fail(MountStep::NotProc)(Errno::EPERM).noting(words));
    if !m.over_proc && path::is_on(target, libc::PROC_SUPER_MAGIC) {
        return refused(b"cannot be mounted because it is inside /proc");
    }
    let whole = m.destination.as_bytes() == b"/proc";
    if whole && tree.is_some_and(|tree| !path::is_on(tree, libc::PROC_SUPER_MAGIC)) {
        return refused(b"only a procfs may be mounted at /proc");
    }
    Ok(())
}

/// `ro` of those mounts that setup still wrote to.
pub fn readonly_late(c: &Context) -> Result<(), Fail> {
    for (i, (m, cell)) in c.plan.mounts.iter().zip(c.late).enumerate() {
        if !m.readonly_late {
            continue;
        }
        if let Some(tree) = cell.take() {
            let attr = Attr {
                set: libc::MOUNT_ATTR_RDONLY,
                ..Attr::default()
            };
            mount::set_attr(&tree, false, attr).map_err(|e| fail(MountStep::Readonly)(e).of(i))?;
            cell.set(Some(tree));
        }
    }
    Ok(())
}
