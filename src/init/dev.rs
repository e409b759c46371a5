//! `/dev`: device nodes, the usual links, the console.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::message::{At, Fail, Message, Step};
use super::{Common, path};
use crate::plan::{Dev, Node, Plan};
use crate::sys::fs::{self, CWD};
use crate::sys::{Errno, Result, mount, tty};

/// Links of `/dev` (runtime-spec, config-linux.md, "Default Devices"); the last is only made where
/// the host has what it points to.
const LINKS: &[(&CStr, &CStr)] = &[
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"/proc/kcore", c"core"),
];

/// Makes the nodes and links. `ready`: those that lie directly in `/dev` are there.
pub fn setup(root: BorrowedFd, dev: &Dev, ready: bool) -> std::result::Result<(), Fail> {
    let directory = path::open_or_make(root, c"/dev", true).at(Step::Dev)?;
    for (i, node) in dev.nodes.iter().enumerate() {
        match name(node) {
            Some(_) if ready => Ok(()),
            Some(name) => node_at(directory.as_fd(), name, node, dev.bind),
            None => path::open_parent(root, &node.path)
                .and_then(|(parent, name)| node_at(parent.as_fd(), name, node, dev.bind)),
        }
        .of(Step::Dev, i)?;
    }
    if ready {
        return Ok(());
    }
    links(&directory, dev)
}

/// The nodes and links of a `/dev` that is mounted nowhere yet; of each node's path only the name.
pub fn fill(directory: BorrowedFd, dev: &Dev) -> std::result::Result<(), Fail> {
    for (i, node) in dev.nodes.iter().enumerate() {
        node_at(directory, &node.path, node, false).of(Step::Dev, i)?;
    }
    links(directory, dev)
}

fn links(directory: impl AsFd, dev: &Dev) -> std::result::Result<(), Fail> {
    let directory = directory.as_fd();
    for (i, (target, name)) in LINKS.iter().enumerate() {
        if *name == c"core" && !dev.core {
            continue;
        }
        match fs::symlink(target, directory, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(Fail::new(Step::DevLink, errno).of(i)),
        }
    }
    // Whatever the root file system has there: it must lead to the container's own devpts.
    match fs::unlink(directory, c"ptmx", 0) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(Fail::new(Step::DevLink, errno).of(LINKS.len())),
    }
    fs::symlink(c"pts/ptmx", directory, c"ptmx").of(Step::DevLink, LINKS.len())
}

/// The name of a node directly in `/dev`, as nearly all of them are.
fn name(node: &Node) -> Option<&CStr> {
    match node.path.as_bytes_with_nul().strip_prefix(b"/dev/") {
        Some(name) if !name.contains(&b'/') => CStr::from_bytes_with_nul(name).ok(),
        _ => None,
    }
}

fn node_at(parent: BorrowedFd, name: &CStr, node: &Node, bind: bool) -> Result<()> {
    if bind {
        return bind_node(parent, name, node);
    }
    match fs::mknod(parent, name, node.mode, node.dev) {
        Ok(()) if (node.uid, node.gid) == (0, 0) => return Ok(()),
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(Errno::EPERM) => return bind_node(parent, name, node),
        Err(errno) => return Err(errno),
    }
    // One descriptor for the look and the changes: another container may share this directory and put
    // something else there in between, such as a link to a node of the host's.
    let file = fs::open(parent, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let there = fs::fstat(&file)?;
    let same = fs::is_type(&there, node.mode & libc::S_IFMT)
        && (there.st_rdev == node.dev || node.mode & libc::S_IFMT == libc::S_IFIFO);
    if !same {
        return Err(Errno::EEXIST);
    }
    if (there.st_uid, there.st_gid) != (node.uid, node.gid) {
        fs::chown_at(&file, c"", node.uid, node.gid, libc::AT_EMPTY_PATH)?;
    }
    if there.st_mode & 0o7777 != node.mode & 0o7777 {
        fs::chmod_fd(&file, node.mode & 0o7777)?;
    }
    Ok(())
}

/// In a user namespace nodes can't be made: an empty file, and the host's node over it.
fn bind_node(parent: BorrowedFd, name: &CStr, node: &Node) -> Result<()> {
    let tree = mount::clone_tree(CWD, &node.path, false)?;
    // Never opened otherwise than as O_PATH: it may be a FIFO, on which open(2) would wait.
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    match fs::open(parent, name, flags, 0o666) {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let target = fs::open(parent, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    if fs::is_type(&fs::fstat(&target)?, libc::S_IFLNK) {
        return Err(Errno::ELOOP);
    }
    mount::move_mount(&tree, &target)
}

/// DEVPTS_SUPER_MAGIC (linux/magic.h).
const DEVPTS: libc::c_long = 0x1cd1;

/// Opens a terminal in the container's own devpts, makes its slave the standard streams, and hands
/// its master to the parent. `console`: bind the slave on /dev/console as well.
///
/// What /dev/ptmx leads to is checked on the descriptor: a devpts's multiplexer, nothing else
/// (CVE-2025-52565).
pub fn terminal(
    c: &Common,
    root: BorrowedFd,
    size: Option<(u16, u16)>,
    console: bool,
) -> std::result::Result<(), Fail> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = fs::openat2(root, c"/dev/ptmx", flags, 0, fs::IN_ROOT).at(Step::Console)?;
    let stat = fs::fstat(&master).at(Step::Console)?;
    if stat.st_rdev != libc::makedev(5, 2) || !path::is_on(&master, DEVPTS) {
        return Err(Fail::new(Step::Console, Errno::ENODEV).noting(b"/dev/ptmx is no devpts"));
    }
    tty::unlock(&master).at(Step::Console)?;
    let slave = tty::slave(&master).at(Step::Console)?;
    if let Some((rows, columns)) = size {
        tty::set_size(&master, rows, columns).at(Step::Console)?;
    }
    if console {
        let tree = mount::clone_tree(&slave, c"", false).at(Step::Console)?;
        let target = path::open_or_make(root, c"/dev/console", false).at(Step::Console)?;
        mount::move_mount(&tree, &target).at(Step::Console)?;
    }
    c.send(&Message::Console, Some(master.as_fd()))
        .at(Step::Console)?;
    drop(master);
    for stream in 0..3 {
        fs::dup_onto(&slave, stream).at(Step::Console)?;
    }
    tty::set_controlling(&slave).at(Step::Console)
}

/// Standard streams that are the host's /dev/null become the container's: the host's inode must not
/// be reachable through /proc/self/fd. In a /dev that isn't ours to fill it need not be there.
pub fn reopen_null(root: BorrowedFd, plan: &Plan) -> std::result::Result<(), Fail> {
    let mut own = None;
    for stream in 0..3 {
        let Ok(fd) = fs::inherited(stream) else {
            continue;
        };
        if !is_null(fd).of(Step::Stdio, stream as usize)? {
            continue;
        }
        if own.is_none() {
            own = own_null(root, plan)?;
        }
        if let Some(own) = &own {
            fs::dup_onto(own, stream).of(Step::Stdio, stream as usize)?;
        }
    }
    Ok(())
}

fn is_null(fd: impl AsFd) -> Result<bool> {
    let stat = fs::fstat(fd)?;
    Ok(fs::is_type(&stat, libc::S_IFCHR) && stat.st_rdev == libc::makedev(1, 3))
}

/// The container's null device; `None`: somebody else's /dev has none.
fn own_null(root: BorrowedFd, plan: &Plan) -> std::result::Result<Option<OwnedFd>, Fail> {
    let ours = plan.dev.is_some();
    // The config has its own /dev/null, and doesn't allow this device. Not left to open(2): the filter is
    // loaded meanwhile.
    if ours && plan.resources.refuses_null() {
        return Err(Fail::new(Step::Stdio, Errno::EPERM).noting(b"open /dev/null"));
    }
    // Another device may do something when it's opened.
    let there = path::open(root, c"/dev/null");
    if !there.is_ok_and(|there| is_null(there) == Ok(true)) {
        if !ours {
            return Ok(None);
        }
        let words = b"can't reopen /dev/null: container's /dev/null is invalid";
        return Err(Fail::new(Step::Stdio, Errno::ENODEV).noting(words));
    }
    let own = fs::openat2(root, c"/dev/null", libc::O_RDWR, 0, fs::IN_ROOT);
    Ok(own.ok().filter(|own| is_null(own) == Ok(true)))
}
