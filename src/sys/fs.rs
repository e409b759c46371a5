//! Files and directories, always relative to a descriptor.

use super::{Errno, Result, check, check_fd, check_int, retry};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The current directory as a directory descriptor, for the `*at` calls.
pub const CWD: BorrowedFd<'static> =
    // SAFETY: AT_FDCWD is not -1 and is never closed.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };

/// openat2(2) resolve flags for a path inside a root file system: the descriptor is its `/`, and
/// neither `..` nor a symlink, absolute or magic, leads out.
pub const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;

/// openat(2) with O_CLOEXEC.
pub fn open(dir: impl AsFd, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    let dir = dir.as_fd().as_raw_fd();
    retry(|| {
        // SAFETY: `path` is a C string that outlives the call; the kernel copies it.
        check_fd(unsafe { libc::openat(dir, path.as_ptr(), flags | libc::O_CLOEXEC, mode) }.into())
    })
}

/// openat2(2) with O_CLOEXEC.
pub fn openat2(
    dir: impl AsFd,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd> {
    let dir = dir.as_fd().as_raw_fd();
    // SAFETY: open_how is plain data; all zeroes is its documented initial value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = mode.into();
    how.resolve = resolve;
    // A rename on the way makes RESOLVE_IN_ROOT answer EAGAIN; a hostile container may keep that
    // up, so the number of attempts is bounded (openat2(2)).
    for _ in 0..128 {
        // SAFETY: `path` and `how` outlive the call, and the size is that of `how`.
        let result = check_fd(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir,
                path.as_ptr(),
                &how,
                size_of::<libc::open_how>(),
            )
        });
        match result {
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

/// Type, permissions, device and inode of a file (fstat(2)).
pub fn fstat(fd: impl AsFd) -> Result<libc::stat> {
    // SAFETY: stat is plain data, filled by the call.
    unsafe {
        let mut stat = std::mem::zeroed();
        check_int(libc::fstat(fd.as_fd().as_raw_fd(), &mut stat))?;
        Ok(stat)
    }
}

/// fstatat(2).
pub fn stat_at(dir: impl AsFd, path: &CStr, flags: i32) -> Result<libc::stat> {
    // SAFETY: stat is plain data, filled by the call; `path` outlives it.
    unsafe {
        let mut stat = std::mem::zeroed();
        check_int(libc::fstatat(
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            &mut stat,
            flags,
        ))?;
        Ok(stat)
    }
}

/// Whether a stat's mode names that file type (S_IFDIR, …).
pub fn is_type(stat: &libc::stat, kind: libc::mode_t) -> bool {
    stat.st_mode & libc::S_IFMT == kind
}

/// The magic number of the file system of `fd` (fstatfs(2)).
pub fn fstatfs(fd: impl AsFd) -> Result<libc::c_long> {
    // SAFETY: statfs is plain data, filled by the call.
    unsafe {
        let mut statfs: libc::statfs = std::mem::zeroed();
        check_int(libc::fstatfs(fd.as_fd().as_raw_fd(), &mut statfs))?;
        Ok(statfs.f_type)
    }
}

/// mkdirat(2).
pub fn mkdir(dir: impl AsFd, path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `path` outlives the call.
    check_int(unsafe { libc::mkdirat(dir.as_fd().as_raw_fd(), path.as_ptr(), mode) }).map(drop)
}

/// mknodat(2).
pub fn mknod(dir: impl AsFd, path: &CStr, mode: u32, dev: u64) -> Result<()> {
    // SAFETY: `path` outlives the call.
    check_int(unsafe { libc::mknodat(dir.as_fd().as_raw_fd(), path.as_ptr(), mode, dev) }).map(drop)
}

/// symlinkat(2): `path` in `dir` will point to `target`.
pub fn symlink(target: &CStr, dir: impl AsFd, path: &CStr) -> Result<()> {
    // SAFETY: both strings outlive the call.
    check_int(unsafe { libc::symlinkat(target.as_ptr(), dir.as_fd().as_raw_fd(), path.as_ptr()) })
        .map(drop)
}

/// unlinkat(2); `flags` may be AT_REMOVEDIR.
pub fn unlink(dir: impl AsFd, path: &CStr, flags: i32) -> Result<()> {
    // SAFETY: `path` outlives the call.
    check_int(unsafe { libc::unlinkat(dir.as_fd().as_raw_fd(), path.as_ptr(), flags) }).map(drop)
}

/// readlinkat(2) into `buffer`; the part that was filled.
pub fn readlink<'b>(dir: impl AsFd, path: &CStr, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
    let dir = dir.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    let n = check(unsafe {
        libc::readlinkat(dir, path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    } as libc::c_long)?;
    Ok(&buffer[..n as usize])
}

/// fchown(2); `u32::MAX` leaves an id.
pub fn fchown(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::fchown(fd.as_fd().as_raw_fd(), uid, gid) }).map(drop)
}

/// fchownat(2).
pub fn chown_at(dir: impl AsFd, path: &CStr, uid: u32, gid: u32, flags: i32) -> Result<()> {
    // SAFETY: `path` outlives the call.
    check_int(unsafe { libc::fchownat(dir.as_fd().as_raw_fd(), path.as_ptr(), uid, gid, flags) })
        .map(drop)
}

/// fchmodat(2).
pub fn chmod_at(dir: impl AsFd, path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `path` outlives the call.
    check_int(unsafe { libc::fchmodat(dir.as_fd().as_raw_fd(), path.as_ptr(), mode, 0) }).map(drop)
}

/// Whether the caller may use `path` so (faccessat(2) with AT_EACCESS: by its effective ids).
pub fn access(dir: impl AsFd, path: &CStr, mode: i32) -> Result<()> {
    let dir = dir.as_fd().as_raw_fd();
    // SAFETY: `path` outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            dir,
            path.as_ptr(),
            mode,
            libc::AT_EACCESS,
        )
    })
    .map(drop)
}

/// read(2).
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    retry(|| {
        // SAFETY: the kernel writes at most `buffer.len()` bytes.
        check(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) } as libc::c_long)
            .map(|n| n as usize)
    })
}

/// write(2).
pub fn write(fd: impl AsFd, data: &[u8]) -> Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    retry(|| {
        // SAFETY: the kernel reads at most `data.len()` bytes.
        check(unsafe { libc::write(fd, data.as_ptr().cast(), data.len()) } as libc::c_long)
            .map(|n| n as usize)
    })
}

/// umask(2); the old one.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: no memory is involved; the call cannot fail.
    unsafe { libc::umask(mask) }
}

/// chdir(2).
pub fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: `path` outlives the call.
    check_int(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

/// fchdir(2).
pub fn fchdir(fd: impl AsFd) -> Result<()> {
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::fchdir(fd.as_fd().as_raw_fd()) }).map(drop)
}

/// chroot(2).
pub fn chroot(path: &CStr) -> Result<()> {
    // SAFETY: `path` outlives the call.
    check_int(unsafe { libc::chroot(path.as_ptr()) }).map(drop)
}

/// Whether the current directory can be reached from the current root. The kernel answers
/// `(unreachable)…` when it can't (getcwd(2)), which is how a working directory that leads out of
/// the container shows itself (CVE-2024-21626).
pub fn cwd_is_inside_root() -> Result<bool> {
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    let answer =
        check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) });
    match answer {
        Ok(_) => Ok(buffer[0] == b'/'),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// close_range(2): closes the descriptors from `first` to `last`.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: the caller holds no owner for a descriptor in the range, or never drops it (`init`
    // leaves by execve or _exit).
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Clears close-on-exec.
pub fn keep_over_exec(fd: impl AsFd) -> Result<()> {
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
}

/// A descriptor by its number, when one is open there. For the standard streams and for
/// `--preserve-fds`, which the caller opened.
pub fn inherited(fd: i32) -> Result<BorrowedFd<'static>> {
    // SAFETY: F_GETFD only asks whether the descriptor is open.
    check_int(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open, and nothing in this program closes a descriptor that it did not open.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A descriptor that the caller passed on to us: open, and not close-on-exec as all our own are. EBADF
/// otherwise.
pub fn passed_on(fd: i32) -> Result<BorrowedFd<'static>> {
    // SAFETY: F_GETFD only asks whether the descriptor is open, and for its flag.
    let flags = check_int(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(Errno::EBADF);
    }
    inherited(fd)
}

/// dup3(2) onto the standard streams: `to` is 0, 1 or 2, and is left open over exec.
pub fn dup_onto(fd: impl AsFd, to: i32) -> Result<()> {
    let from = fd.as_fd().as_raw_fd();
    if from == to {
        return keep_over_exec(fd);
    }
    // SAFETY: 0, 1 and 2 have no owner in this program.
    retry(|| check_int(unsafe { libc::dup3(from, to, 0) })).map(drop)
}

/// memfd_create(2), to be sealed.
pub fn memfd(name: &CStr) -> Result<OwnedFd> {
    // SAFETY: `name` outlives the call.
    check_fd(
        unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) }
            .into(),
    )
}

/// Seals a memfd against every change.
pub fn seal(fd: impl AsFd) -> Result<()> {
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

/// Whether nobody can write a file: it's a memfd that [`seal`] has sealed.
pub fn is_sealed(fd: impl AsFd) -> bool {
    // SAFETY: no memory is involved.
    let seals = check_int(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GET_SEALS) });
    seals.is_ok_and(|seals| seals & libc::F_SEAL_WRITE != 0)
}

/// pipe2(2): read end, write end.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    use std::os::fd::FromRawFd;
    let mut fds = [0; 2];
    // SAFETY: the kernel fills both; they are new and ours.
    unsafe {
        check_int(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// Whether `path` is a FIFO that somebody has open for reading (fifo(7): ENXIO otherwise). What can't
/// be opened for lack of permission is believed to be.
pub fn has_reader(path: &std::path::Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(name) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let flags = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW;
    !matches!(
        open(CWD, &name, flags, 0),
        Err(Errno::ENXIO | Errno::ENOENT)
    )
}

/// Marks every descriptor from `first` on as close-on-exec (close_range(2), CLOSE_RANGE_CLOEXEC).
pub fn close_on_exec_from(first: u32) -> Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: no descriptor is closed here.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// chmod(2) of what `fd` is, which may be O_PATH: through its link in the caller's own /proc, as
/// fchmodat2(2) came with Linux 6.6.
pub fn chmod_fd(fd: impl AsFd, mode: u32) -> Result<()> {
    let mut name = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0";
    let mut number = fd.as_fd().as_raw_fd() as u32;
    let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
    for place in name[14..14 + digits].iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
    let name = CStr::from_bytes_until_nul(&name).map_err(|_| Errno::EINVAL)?;
    chmod_at(CWD, name, mode)
}

/// Closes every descriptor from `first` on but `keep` (close_range(2)). For a clone that owns nothing of
/// what it was copied from.
pub fn close_all_but(first: u32, keep: i32) -> Result<()> {
    match u32::try_from(keep).ok().filter(|keep| *keep >= first) {
        None => close_range(first, u32::MAX),
        Some(keep) => {
            if keep > first {
                close_range(first, keep - 1)?;
            }
            close_range(keep + 1, u32::MAX)
        }
    }
}

/// Takes O_NONBLOCK from a descriptor, and from all that share its open file.
pub fn set_blocking(fd: impl AsFd) -> Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: no memory is involved.
    let flags = check_int(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) }).map(drop)
}

/// mkfifoat(2).
pub fn mkfifo(dir: impl AsFd, path: &CStr, mode: u32) -> Result<()> {
    mknod(dir, path, libc::S_IFIFO | mode, 0)
}

/// lseek(2) to the beginning.
pub fn rewind(fd: impl AsFd) -> Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::lseek(fd.as_fd().as_raw_fd(), 0, libc::SEEK_SET) }).map(drop)
}

/// Names of a directory, read into a buffer on the stack (getdents64(2)).
pub struct Entries {
    buffer: [u8; 2048],
    at: usize,
    end: usize,
}

impl Entries {
    /// An empty buffer.
    pub fn new() -> Entries {
        Entries {
            buffer: [0; 2048],
            at: 0,
            end: 0,
        }
    }

    /// Reads the next names; `false` at the end of the directory.
    pub fn fill(&mut self, directory: BorrowedFd) -> Result<bool> {
        let fd = directory.as_raw_fd();
        let length = self.buffer.len();
        // SAFETY: the kernel writes at most `length` bytes.
        let n = check(unsafe {
            libc::syscall(libc::SYS_getdents64, fd, self.buffer.as_mut_ptr(), length)
        })?;
        (self.at, self.end) = (0, n as usize);
        Ok(n > 0)
    }

    /// The next name of the buffer.
    pub fn next(&mut self) -> Option<&CStr> {
        // struct linux_dirent64: d_ino, d_off (8 bytes each), d_reclen (2), d_type (1), d_name.
        const NAME: usize = 19;
        let record = self.buffer.get(self.at..self.end)?;
        let length = usize::from(u16::from_ne_bytes([*record.get(16)?, *record.get(17)?]));
        let name = CStr::from_bytes_until_nul(record.get(NAME..length)?).ok()?;
        self.at += length;
        Some(name)
    }
}

/// Sets a file's SELinux label (setxattr(2), security.selinux).
pub fn set_label(file: impl AsFd, label: &CStr) -> Result<()> {
    let own = open(file, c".", libc::O_RDONLY, 0)?;
    // SAFETY: all strings outlive the call.
    check_int(unsafe {
        libc::fsetxattr(
            own.as_raw_fd(),
            c"security.selinux".as_ptr(),
            label.as_ptr().cast(),
            label.count_bytes(),
            0,
        )
    })
    .map(drop)
}

/// pread(2).
pub fn read_at(fd: impl AsFd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    let (data, length) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: the kernel writes at most `length` bytes.
    check(unsafe { libc::pread(fd, data, length, offset as libc::off_t) } as libc::c_long)
        .map(|n| n as usize)
}
