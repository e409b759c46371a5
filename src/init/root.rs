//! The root file system: entered, left behind, hidden in parts, made read-only.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::message::{At, Fail, Step};
use super::{Context, path};
use crate::plan::Plan;
use crate::sys::fs::{self, CWD};
use crate::sys::mount::{self, Attr};
use crate::sys::{Errno, Result};

pub fn propagate(fd: impl AsFd, recursive: bool, propagation: u64) -> Result<()> {
    let attr = Attr {
        propagation,
        ..Attr::default()
    };
    mount::set_attr(fd, recursive, attr)
}

/// Cuts the mount namespace off from the host's and mounts the root file system on itself, so that
/// it can be pivoted to. The descriptor is its `/` from here on.
pub fn prepare(c: &Context) -> std::result::Result<OwnedFd, Fail> {
    let plan = c.plan;
    if !c.own_mounts {
        // It stays mounted when the container is gone, as in runc; whoever shares his mount namespace
        // unmounts it.
        let tree = mount::clone_tree(CWD, &plan.rootfs, true).at(Step::Rootfs)?;
        propagate(&tree, true, libc::MS_PRIVATE).at(Step::Propagation)?;
        return on_itself(c, tree);
    }
    if let Some(namespace) = c.kit.and_then(|kit| {
        let mut all = kit.namespaces.iter();
        all.find(|(kind, _)| *kind == libc::CLONE_NEWNS as u64)
    }) {
        return in_kit(c, &namespace.1);
    }
    let host = fs::open(CWD, c"/", libc::O_PATH, 0).at(Step::Propagation)?;
    let kind = plan.propagation & !libc::MS_REC;
    propagate(&host, plan.propagation & libc::MS_REC != 0, kind).at(Step::Propagation)?;
    // pivot_root(2) refuses a shared mount, what is mounted next must not propagate to the host, and what
    // is unbindable could not be copied, either.
    if !cut_off(plan) {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let around = fs::open(CWD, &plan.rootfs, flags, 0).at(Step::Propagation)?;
        propagate_around(around, libc::MS_PRIVATE).at(Step::Propagation)?;
    }
    let tree = mount::clone_tree(CWD, &plan.rootfs, true).at(Step::Rootfs)?;
    on_itself(c, tree)
}

/// Whether nothing of the copied mount table is a peer of the host's mounts any more. Without MS_REC only
/// `/` itself isn't.
fn cut_off(plan: &Plan) -> bool {
    plan.propagation & libc::MS_REC != 0
        && plan.propagation & (libc::MS_PRIVATE | libc::MS_SLAVE) != 0
}

/// Enters a mount namespace of a kit: what is needed of the host is taken along, as cut off from it as
/// in a copy of the mount table.
fn in_kit(c: &Context, namespace: &OwnedFd) -> std::result::Result<OwnedFd, Fail> {
    let plan = c.plan;
    let kind = plan.propagation & !libc::MS_REC;
    let tree = mount::clone_tree(CWD, &plan.rootfs, true).at(Step::Rootfs)?;
    propagate(&tree, true, kind).at(Step::Propagation)?;
    super::mounts::sources(c, kind)?;
    crate::sys::process::setns(namespace, libc::CLONE_NEWNS as u64).at(Step::Kit)?;
    // Over the one directory that is there. We are still in that; see `pivot`.
    let target = fs::open(CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).at(Step::Kit)?;
    mount::move_mount(&tree, &target).at(Step::Rootfs)?;
    Ok(tree)
}

/// Mounts the copy of the root file system over it.
fn on_itself(c: &Context, tree: OwnedFd) -> std::result::Result<OwnedFd, Fail> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let target = fs::open(CWD, &c.plan.rootfs, flags, 0).at(Step::Rootfs)?;
    mount::move_mount(&tree, &target).at(Step::Rootfs)?;
    Ok(tree)
}

/// Changes the mount in which a directory lies. One that isn't the root of a mount answers EINVAL; then
/// its parent may be.
fn propagate_around(mut at: OwnedFd, propagation: u64) -> Result<()> {
    for _ in 0..libc::PATH_MAX {
        match propagate(&at, false, propagation) {
            Err(Errno::EINVAL) => at = fs::open(&at, c"..", libc::O_PATH, 0)?,
            other => return other,
        }
    }
    Err(Errno::ELOOP)
}

/// Makes the root file system the process's root and leaves the host's behind.
pub fn pivot(c: &Context, root: BorrowedFd) -> std::result::Result<(), Fail> {
    let plan = c.plan;
    fs::fchdir(root).at(Step::Pivot)?;
    if !c.own_mounts {
        return fs::chroot(c".").at(Step::Pivot);
    }
    if c.kit
        .is_some_and(|kit| kit.kinds() & libc::CLONE_NEWNS as u64 != 0)
    {
        // It lies over the empty root of its mount namespace already: nothing is there to be left.
        fs::chroot(c".").at(Step::Pivot)?;
        fs::chdir(c"/").at(Step::Pivot)?;
        return rootfs_propagation(plan, root);
    }
    // The mount of the executable joins the old root, and leaves with it: closed on its own, it would
    // be a second wait for an RCU grace period. Where it can't, that is all that is lost.
    if let Some((exe, directory)) = c.common.exe.as_ref().and_then(|exe| exe.mount)
        && plan.propagation & libc::MS_SHARED == 0
        && let Ok(target) = fs::open(CWD, directory, libc::O_PATH | libc::O_DIRECTORY, 0)
    {
        let _ = mount::move_mount(exe, target);
    }
    if plan.no_pivot {
        for point in c.bare {
            unmount(plan, point).at(Step::Pivot)?;
        }
        fs::fchdir(root).at(Step::Pivot)?;
        let host = fs::open(CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).at(Step::Pivot)?;
        mount::move_mount(root, &host).at(Step::Pivot)?;
        fs::chroot(c".").at(Step::Pivot)?;
        fs::chdir(c"/").at(Step::Pivot)?;
    } else {
        let old = fs::open(CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).at(Step::Pivot)?;
        mount::pivot_root_here().at(Step::Pivot)?;
        // The old root lies over the new one now. It must be no peer of the host's mounts when it
        // is unmounted, or they would go with it.
        fs::fchdir(&old).at(Step::Pivot)?;
        if !cut_off(plan) {
            propagate(&old, true, libc::MS_SLAVE).at(Step::Pivot)?;
        }
        mount::detach(c".").at(Step::Pivot)?;
        fs::chdir(c"/").at(Step::Pivot)?;
    }
    rootfs_propagation(plan, root)
}

fn rootfs_propagation(plan: &Plan, root: BorrowedFd) -> std::result::Result<(), Fail> {
    if plan.rootfs_propagation == 0 {
        return Ok(());
    }
    let recursive = plan.rootfs_propagation & libc::MS_REC != 0;
    propagate(root, recursive, plan.rootfs_propagation & !libc::MS_REC).at(Step::RootfsPropagation)
}

/// Unmounts what the host has there, or covers it where that isn't ours to do (a user namespace).
fn unmount(plan: &Plan, point: &CStr) -> Result<()> {
    let there = match fs::open(CWD, point, libc::O_PATH, 0) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    // The host must keep its own: an unmount happens to every peer of what it's mounted on.
    if !cut_off(plan) {
        propagate_around(fs::open(&there, c"..", libc::O_PATH, 0)?, libc::MS_SLAVE)?;
    }
    match propagate(&there, true, libc::MS_SLAVE) {
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(errno),
    }
    match mount::detach(point) {
        Err(Errno::EINVAL | Errno::EPERM) => {
            mount::mount(Some(c"tmpfs"), point, Some(c"tmpfs"), 0, None)
        }
        other => other,
    }
}

/// `root.readonly`.
pub fn readonly(root: BorrowedFd) -> Result<()> {
    let attr = Attr {
        set: libc::MOUNT_ATTR_RDONLY,
        ..Attr::default()
    };
    mount::set_attr(root, false, attr)
}

/// Opens what a path of `readonlyPaths` or `maskedPaths` is. What is below a procfs or sysfs that we
/// mounted is looked for in that very mount: another container that shares the directory may have
/// moved it, and put something else in its place (CVE-2019-19921, CVE-2025-31133).
fn target(c: &Context, root: BorrowedFd, name: &CStr) -> Result<OwnedFd> {
    for (m, cell) in c.plan.mounts.iter().zip(c.late).rev() {
        let at = m.destination.count_bytes();
        let bytes = name.to_bytes_with_nul();
        let below = bytes.starts_with(m.destination.to_bytes()) && bytes.get(at) == Some(&b'/');
        if let Some(tree) = cell.take() {
            let opened = match below.then(|| CStr::from_bytes_with_nul(&bytes[at + 1..])) {
                Some(Ok(rest)) => Some(path::open(tree.as_fd(), rest)),
                _ => None,
            };
            cell.set(Some(tree));
            if let Some(opened) = opened {
                return opened;
            }
        }
    }
    path::open(root, name)
}

/// `linux.readonlyPaths`: each is bound on itself, read-only. What isn't there needs no protection.
pub fn readonly_paths(c: &Context, root: BorrowedFd) -> std::result::Result<(), Fail> {
    let attr = Attr {
        set: libc::MOUNT_ATTR_RDONLY,
        ..Attr::default()
    };
    for (i, name) in c.plan.readonly_paths.iter().enumerate() {
        let target = match target(c, root, name) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            other => other.of(Step::ReadonlyPath, i)?,
        };
        let tree = mount::clone_tree(&target, c"", true).of(Step::ReadonlyPath, i)?;
        mount::set_attr(&tree, false, attr).of(Step::ReadonlyPath, i)?;
        mount::move_mount(&tree, &target).of(Step::ReadonlyPath, i)?;
    }
    Ok(())
}

/// The host's /dev/null, to be laid over masked files. It's taken before the pivot and by
/// its device number: a root file system that has something else there gains nothing
/// (CVE-2025-31133).
pub fn null(c: &Context) -> std::result::Result<Option<OwnedFd>, Fail> {
    if c.plan.masked_paths.is_empty() {
        return Ok(None);
    }
    let tree = mount::clone_tree(CWD, c"/dev/null", false).at(Step::MaskedPath)?;
    let stat = fs::fstat(&tree).at(Step::MaskedPath)?;
    if !fs::is_type(&stat, libc::S_IFCHR) || stat.st_rdev != libc::makedev(1, 3) {
        return Err(Fail::new(Step::MaskedPath, Errno::ENODEV)
            .noting(b"the host's /dev/null isn't the null device"));
    }
    Ok(Some(tree))
}

/// `linux.maskedPaths`: /dev/null over files, one shared empty read-only tmpfs over directories (one
/// superblock, however many they are). What isn't there needs no mask.
pub fn masked_paths(
    c: &Context,
    root: BorrowedFd,
    null: Option<OwnedFd>,
) -> std::result::Result<(), Fail> {
    let mut over_files = Cover::new(null);
    let mut over_directories = Cover::new(c.kit.and_then(|kit| kit.mask.take()));
    for (i, name) in c.plan.masked_paths.iter().enumerate() {
        let target = match target(c, root, name) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            other => other.of(Step::MaskedPath, i)?,
        };
        let stat = fs::fstat(&target).of(Step::MaskedPath, i)?;
        let cover = if fs::is_type(&stat, libc::S_IFDIR) {
            if over_directories.tree.is_none() {
                over_directories = Cover::new(Some(empty(c).of(Step::MaskedPath, i)?));
            }
            &mut over_directories
        } else {
            &mut over_files
        };
        cover.lay(target.as_fd(), &stat).of(Step::MaskedPath, i)?;
    }
    Ok(())
}

/// A mount that is laid over many things: the first time it's attached, afterwards copied. (Before
/// Linux 6.15 only an attached mount can be copied.)
struct Cover {
    tree: Option<OwnedFd>,
    /// Its inode, once it's attached.
    attached: Option<(u64, u64)>,
}

impl Cover {
    fn new(tree: Option<OwnedFd>) -> Cover {
        Cover {
            tree,
            attached: None,
        }
    }

    /// Lays it over `target`, whose status is `there`. A path that is listed twice, or leads to the
    /// same place, is masked once.
    fn lay(&mut self, target: BorrowedFd, there: &libc::stat) -> Result<()> {
        let tree = self.tree.as_ref().ok_or(Errno::ENODEV)?;
        match self.attached {
            None => {
                mount::move_mount(tree, target)?;
                let own = fs::fstat(tree)?;
                self.attached = Some((own.st_dev, own.st_ino));
                Ok(())
            }
            Some(own) if own == (there.st_dev, there.st_ino) => Ok(()),
            Some(_) => mount::move_mount(mount::clone_tree(tree, c"", false)?, target),
        }
    }
}

/// Options of a tmpfs that is empty, read-only and can't grow. The root takes an inode; Ubuntu's kernels
/// count one more.
pub const MASK: [(&CStr, Option<&CStr>); 3] = [
    (c"nr_blocks", Some(c"1")),
    (c"nr_inodes", Some(c"2")),
    (c"ro", None),
];

/// What is laid over directories.
fn empty(c: &Context) -> Result<OwnedFd> {
    let context = mount::fsopen(c"tmpfs")?;
    mount::fsconfig(&context, c"source", Some(c"tmpfs"))?;
    for (key, value) in MASK {
        mount::fsconfig(&context, key, value)?;
    }
    if let Some(label) = c.plan.mount_label.as_deref() {
        mount::fsconfig(&context, c"context", Some(label))?;
    }
    mount::fsconfig_create(&context)?;
    mount::fsmount(&context, libc::MOUNT_ATTR_RDONLY)
}
