//! What the process becomes before it becomes the program: ids, capabilities, scheduling, labels,
//! seccomp. Shared by a container's init and by processes that enter it.

use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use super::message::{At, Fail, Step};
use super::path;
use crate::plan::Process;
use crate::seccomp;
use crate::sys::{Errno, Result, cred, fs, mount, process};

/// Settings that need no privilege to be lost first: no_new_privs, scheduler, I/O priority,
/// personality, memory policy. seccomp comes later and could forbid them.
pub fn settings(p: &Process) -> std::result::Result<(), Fail> {
    if p.no_new_privileges {
        process::set_no_new_privileges().at(Step::NoNewPrivileges)?;
    }
    if let Some(scheduler) = &p.scheduler {
        cred::sched_setattr(scheduler).at(Step::Scheduler)?;
    }
    if let Some(priority) = p.io_priority {
        cred::ioprio_set(priority).at(Step::IoPriority)?;
    }
    if let Some(persona) = p.personality {
        cred::personality(persona).at(Step::Personality)?;
    }
    if let Some(policy) = &p.memory_policy {
        cred::set_mempolicy(policy.mode, &policy.nodes).at(Step::MemoryPolicy)?;
    }
    Ok(())
}

/// A procfs of the caller's pid namespace that nobody else has seen, for sysctls and labels: what
/// the container has at /proc may be anything (CVE-2025-52881, CVE-2019-16884).
pub fn private_proc() -> std::result::Result<std::os::fd::OwnedFd, Fail> {
    let context = mount::fsopen(c"proc").at(Step::Proc)?;
    mount::fsconfig_create(&context).at(Step::Proc)?;
    mount::fsmount(&context, 0).at(Step::Proc)
}

/// Writes a file of a private procfs, in one write.
pub fn write_proc(proc: BorrowedFd, name: &CStr, value: &[u8]) -> Result<()> {
    // /proc/self is a link to a directory: NO_SYMLINKS must not hold for the way there, and it's
    // a magic link of the kernel's own, not of anybody's root.
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV;
    let file = fs::openat2(proc, name, libc::O_WRONLY | libc::O_NOFOLLOW, 0, resolve)?;
    if !path::is_on(&file, libc::PROC_SUPER_MAGIC) {
        return Err(Errno::EXDEV);
    }
    match fs::write(file, value)? {
        n if n == value.len() => Ok(()),
        _ => Err(Errno::EIO),
    }
}

/// `apparmorProfile`, for the next execve(2).
pub fn apparmor(proc: BorrowedFd, profile: &CStr) -> std::result::Result<(), Fail> {
    let value = profile.to_bytes();
    match write_proc(proc, c"self/attr/apparmor/exec", value) {
        Err(Errno::ENOENT) => write_proc(proc, c"self/attr/exec", value),
        other => other,
    }
    .at(Step::Apparmor)
}

/// `selinuxLabel`, for the next execve(2), and for keys that are made before it.
pub fn selinux(proc: BorrowedFd, label: &CStr) -> std::result::Result<(), Fail> {
    write_proc(proc, c"self/attr/exec", label.to_bytes()).at(Step::Selinux)
}

/// Loads the filter; the number of its listener, if it notifies.
pub fn seccomp(program: &seccomp::Program) -> std::result::Result<i32, Fail> {
    use std::os::fd::IntoRawFd;
    let mut flags = program.flags;
    let listener = match cred::seccomp(&program.filter, flags) {
        // Kernels before 5.19 don't know it; the spec calls it a wish.
        Err(Errno::EINVAL) if flags & WAIT_KILLABLE_RECV != 0 => {
            flags &= !WAIT_KILLABLE_RECV;
            cred::seccomp(&program.filter, flags)
        }
        other => other,
    }
    .at(Step::Seccomp)?;
    // It stays open until execve: the parent fetches it by number.
    Ok(listener.map_or(-1, IntoRawFd::into_raw_fd))
}

/// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (linux/seccomp.h).
const WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Gives up what programs shall never have (capabilities(7), "Capability bounding set"). Needs
/// CAP_SETPCAP; nothing of what init does itself needs them.
pub fn bound(p: &Process) -> std::result::Result<(), Fail> {
    let Some(caps) = &p.capabilities else {
        return Ok(());
    };
    for number in (0..u64::BITS).filter(|number| caps.bounding & 1 << number == 0) {
        match process::drop_bounding(number) {
            Ok(()) => {}
            // The kernel knows no such capability, nor any above it.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(Fail::new(Step::Capabilities, errno)),
        }
    }
    Ok(())
}

/// Becomes the user, with its groups and capabilities, in the working directory. Order matters: groups
/// and ids need CAP_SETGID and CAP_SETUID, and what remains is set last, from the permitted set that
/// PR_SET_KEEPCAPS saved.
pub fn become_user(p: &Process, cwd: &CStr) -> std::result::Result<(), Fail> {
    own_stdio(p).at(Step::Stdio)?;
    let early = fs::chdir(cwd);
    if !matches!(early, Ok(()) | Err(Errno::EPERM | Errno::EACCES)) {
        early.at(Step::Cwd)?;
    }
    process::keep_capabilities(true).at(Step::Capabilities)?;
    if let Some(groups) = &p.groups {
        cred::setgroups(groups).at(Step::Groups)?;
    }
    cred::setgid(p.gid).at(Step::Gid)?;
    cred::setuid(p.uid).at(Step::Uid)?;
    process::keep_capabilities(false).at(Step::Capabilities)?;
    // A directory that only the user may enter (an NFS home without root access).
    if early.is_err() {
        fs::chdir(cwd).at(Step::Cwd)?;
    }
    match fs::cwd_is_inside_root() {
        Ok(true) => {}
        Ok(false) => return Err(Fail::new(Step::CwdOutside, Errno::ENOENT)),
        Err(errno) => return Err(Fail::new(Step::Cwd, errno)),
    }
    if let Some(caps) = &p.capabilities {
        cred::capset(caps.effective, caps.permitted, caps.inheritable).at(Step::Capabilities)?;
        process::clear_ambient().at(Step::Ambient)?;
        for number in (0..u64::BITS).filter(|n| caps.ambient & 1 << n != 0) {
            // As in runc, one that can't be raised (not inheritable) is not fatal.
            let _ = process::raise_ambient(number);
        }
    }
    Ok(())
}

/// Gives the standard streams to the user, so that it can open them again by /dev/stdout. Not
/// /dev/null, and not what can't be given (a file of the host in a user namespace, a read-only one).
fn own_stdio(p: &Process) -> Result<()> {
    for stream in 0..3 {
        let Ok(fd) = fs::inherited(stream) else {
            continue;
        };
        let stat = fs::fstat(fd)?;
        let null = fs::is_type(&stat, libc::S_IFCHR) && stat.st_rdev == libc::makedev(1, 3);
        if stat.st_uid == p.uid || null {
            continue;
        }
        match fs::fchown(fd, p.uid, u32::MAX) {
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS | Errno::ENOSYS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Up to 4 MiB of /etc/passwd are read.
const PASSWD_READS: usize = 1024;

/// Fills in HOME from the container's /etc/passwd, when the config gives none. A file that can't be
/// read, or has no such user, leaves `/`.
pub fn home(uid: u32, slot: &[Cell<u8>], root: BorrowedFd) {
    let Ok(file) = fs::openat2(
        root,
        c"/etc/passwd",
        libc::O_RDONLY | libc::O_NONBLOCK,
        0,
        fs::IN_ROOT,
    ) else {
        return;
    };
    let mut buffer = [0; 4096];
    let mut filled = 0;
    // Bounded: the file is the container's and may never end.
    for _ in 0..PASSWD_READS {
        let Ok(n) = fs::read(&file, &mut buffer[filled..]) else {
            return;
        };
        filled += n;
        let mut start = 0;
        while let Some(end) = buffer[start..filled].iter().position(|b| *b == b'\n') {
            if take_home(&buffer[start..start + end], uid, slot) {
                return;
            }
            start += end + 1;
        }
        if n == 0 {
            take_home(&buffer[start..filled], uid, slot);
            return;
        }
        // A line longer than the buffer is nobody's.
        if start == 0 && filled == buffer.len() {
            return;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}

/// Takes the home directory of a passwd(5) line whose uid is ours.
fn take_home(line: &[u8], uid: u32, slot: &[Cell<u8>]) -> bool {
    let mut fields = line.split(|b| *b == b':');
    let Some(number) = fields.nth(2) else {
        return false;
    };
    let parsed = std::str::from_utf8(number)
        .ok()
        .and_then(|n| n.parse().ok());
    let Some(home) = fields.nth(2).filter(|_| parsed == Some(uid)) else {
        return false;
    };
    const NAME: usize = "HOME=".len();
    if home.is_empty() || NAME + home.len() >= slot.len() {
        return true;
    }
    for (cell, byte) in slot[NAME..].iter().zip(home.iter().chain([&0])) {
        cell.set(*byte);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// Whatever is handed in as a procfs: what is found there must be one, and nothing mounted over it.
    #[test]
    fn only_a_procfs_is_written_to() {
        let dir = std::env::temp_dir().join(format!("runz-write-proc-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("exec"), "fake").unwrap();
        let path = std::ffi::CString::new(dir.to_str().unwrap()).unwrap();
        let open = |path: &CStr| {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            fs::open(fs::CWD, path, flags, 0).unwrap()
        };
        let written = write_proc(open(&path).as_fd(), c"exec", b"label");
        let text = std::fs::read_to_string(dir.join("exec")).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((written, &*text), (Err(Errno::EXDEV), "fake"));
        // Nor what is mounted below, nor what a link leads to.
        let root = open(c"/");
        let name = c"proc/self/comm";
        assert_eq!(write_proc(root.as_fd(), name, b"x"), Err(Errno::EXDEV));
        let proc = open(c"/proc");
        assert_eq!(write_proc(proc.as_fd(), c"self/comm", b"runz"), Ok(()));
        assert_eq!(
            write_proc(proc.as_fd(), c"self/exe", b"x"),
            Err(Errno::ELOOP)
        );
    }
}
