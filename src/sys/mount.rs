//! The mount calls: fsopen(2) and its family, mount_setattr(2), and the old mount(2) for what they
//! can't do.

use super::{Result, check, check_fd, check_int};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;

/// A context in which a new instance of a file system is described (fsopen(2)).
pub fn fsopen(fstype: &CStr) -> Result<OwnedFd> {
    // SAFETY: `fstype` outlives the call.
    check_fd(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) })
}

/// Sets an option: `key=value`, or the flag `key` (fsconfig(2)). Values of more than 255 bytes are
/// refused by the kernel (EINVAL).
pub fn fsconfig(context: impl AsFd, key: &CStr, value: Option<&CStr>) -> Result<()> {
    let fd = context.as_fd().as_raw_fd();
    let (command, value) = match value {
        Some(value) => (FSCONFIG_SET_STRING, value.as_ptr()),
        None => (FSCONFIG_SET_FLAG, ptr::null()),
    };
    // SAFETY: both strings outlive the call.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key.as_ptr(), value, 0) })
        .map(drop)
}

/// Makes the file system that the context describes.
pub fn fsconfig_create(context: impl AsFd) -> Result<()> {
    let null = ptr::null::<u8>();
    let fd = context.as_fd().as_raw_fd();
    // SAFETY: this command takes no key and no value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, null, null, 0) })
        .map(drop)
}

/// A detached mount of the file system that the context made (fsmount(2)); `attr` is MOUNT_ATTR_*.
pub fn fsmount(context: impl AsFd, attr: u64) -> Result<OwnedFd> {
    let fd = context.as_fd().as_raw_fd();
    // SAFETY: no memory is involved.
    check_fd(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, attr as u32) })
}

/// A detached copy of the mount at `path`, or of the whole tree (open_tree(2), OPEN_TREE_CLONE).
/// With an empty `path`, of what `dir` is.
pub fn clone_tree(dir: impl AsFd, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as u32;
    }
    let dir = dir.as_fd().as_raw_fd();
    // SAFETY: `path` outlives the call.
    check_fd(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

/// Attaches a detached mount, or moves an attached one, onto what `target` is (move_mount(2)).
pub fn move_mount(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty static strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    })
    .map(drop)
}

/// Changes to a mount (mount_setattr(2)).
#[derive(Default, Clone, Copy)]
pub struct Attr {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
    /// MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE; 0 leaves it.
    pub propagation: u64,
    /// The user namespace of MOUNT_ATTR_IDMAP.
    pub userns: Option<i32>,
}

/// mount_setattr(2) on what `mount` is, or on its whole tree.
pub fn set_attr(mount: impl AsFd, recursive: bool, attr: Attr) -> Result<()> {
    let raw = libc::mount_attr {
        attr_set: attr.set,
        attr_clr: attr.clear,
        propagation: attr.propagation,
        userns_fd: attr.userns.unwrap_or(0) as u64,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    let fd = mount.as_fd().as_raw_fd();
    // SAFETY: the path is an empty static string; `raw` outlives the call and the size is its own.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            flags,
            &raw,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// mount(2). Only for what the calls above can't do.
pub fn mount(
    source: Option<&CStr>,
    target: &CStr,
    fstype: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> Result<()> {
    let pointer = |s: Option<&CStr>| s.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null or a C string that outlives the call.
    check_int(unsafe {
        libc::mount(
            pointer(source),
            target.as_ptr(),
            pointer(fstype),
            flags,
            pointer(data).cast(),
        )
    })
    .map(drop)
}

/// umount2(2) with MNT_DETACH.
pub fn detach(target: &CStr) -> Result<()> {
    // SAFETY: `target` outlives the call.
    check_int(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// pivot_root(".", "."): the current directory becomes the root, the old root lies on top of it
/// until `detach(".")` (pivot_root(2), NOTES).
pub fn pivot_root_here() -> Result<()> {
    // SAFETY: both paths are static strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}
