//! Processes and namespaces: clone3(2), pidfds, setns(2), execve(2).

use super::{Errno, Result, check, check_fd, check_int, retry};
use std::ffi::{CStr, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What clone3(2) made.
pub enum Clone {
    /// In the new process.
    Child,
    /// In the caller.
    Parent {
        /// The child's pid in the caller's pid namespace.
        pid: i32,
        /// A pidfd of the child.
        pidfd: OwnedFd,
    },
}

/// CLONE_INTO_CGROUP (linux/sched.h); libc's constant is an int, which it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// clone3(2) without a shared memory: a fork with `flags` (CLONE_NEW*, CLONE_PARENT), born in the
/// cgroup whose directory is `cgroup`.
///
/// The child runs on a copy of the caller's stack and memory; the C library knows nothing of it,
/// which is why nothing that takes a lock or runs an atexit handler may be called in it.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd>) -> Result<Clone> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain data; zero means "not given" for every field.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    // A sibling takes the exit signal of its maker; the kernel refuses another one.
    if flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM, so the child has its own copy of everything that we own; `args` and
    // `pidfd` outlive the call.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    })?;
    if pid == 0 {
        return Ok(Clone::Child);
    }
    Ok(Clone::Parent {
        pid: pid as i32,
        // SAFETY: the kernel has just put it there for us.
        pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
    })
}

/// pidfd_open(2).
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no memory is involved. A pidfd is always close-on-exec.
    check_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let info = std::ptr::null::<u8>();
    // SAFETY: a null siginfo means kill(2)'s.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) }).map(drop)
}

/// A copy of descriptor `fd` of another process (pidfd_getfd(2)).
pub fn pidfd_getfd(pidfd: impl AsFd, fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: no memory is involved.
    check_fd(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_fd().as_raw_fd(), fd, 0) })
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// The status as shells and runc give it: 128 + the signal's number.
    pub fn status(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// Waits for our child behind `pidfd` and reaps it (waitid(2), P_PIDFD).
pub fn wait(pidfd: impl AsFd) -> Result<Exit> {
    wait_for(pidfd, 0)
}

/// The same without reaping it.
pub fn ended(pidfd: impl AsFd) -> Result<Exit> {
    wait_for(pidfd, libc::WNOWAIT)
}

fn wait_for(pidfd: impl AsFd, flags: i32) -> Result<Exit> {
    let fd = pidfd.as_fd().as_raw_fd();
    let flags = flags | libc::WEXITED | libc::__WALL;
    retry(|| {
        // SAFETY: siginfo_t is plain data, filled by the call.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            check_int(libc::waitid(libc::P_PIDFD, fd as u32, &mut info, flags))?;
            Ok(exit(&info))
        }
    })
}

/// The pid of a child that has ended and wasn't reaped yet, left as it is; `None`: there is none
/// (waitid(2), WNOWAIT).
pub fn ended_child() -> Result<Option<i32>> {
    // SAFETY: siginfo_t is plain data, filled by the call.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        match check_int(libc::waitid(libc::P_ALL, 0, &mut info, flags)) {
            Err(Errno::ECHILD) => Ok(None),
            Err(errno) => Err(errno),
            Ok(_) => Ok(Some(info.si_pid()).filter(|pid| *pid != 0)),
        }
    }
}

/// Reaps a child that has ended.
pub fn reap(pid: i32) {
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) };
}

fn exit(info: &libc::siginfo_t) -> Exit {
    // SAFETY: waitid has filled the SIGCHLD part of the union.
    let status = unsafe { info.si_status() };
    match info.si_code {
        libc::CLD_EXITED => Exit::Code(status),
        _ => Exit::Signal(status),
    }
}

/// setns(2): `fd` is an nsfs file, or a pidfd with several CLONE_NEW* in `kinds`.
pub fn setns(fd: impl AsFd, kinds: u64) -> Result<()> {
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kinds as i32) }).map(drop)
}

/// unshare(2).
pub fn unshare(kinds: u64) -> Result<()> {
    // SAFETY: no memory is involved; none of the kinds used here unshares memory or descriptors.
    check_int(unsafe { libc::unshare(kinds as i32) }).map(drop)
}

/// execve(2). Returns only on failure.
///
/// `argv` and `envp` come from `plan::Strings::as_ptr` or `init::park`, which keep them null-terminated.
pub fn execve(path: &CStr, argv: *const *const c_char, envp: *const *const c_char) -> Errno {
    // SAFETY: see above; the strings live in what was laid out before the clone, and outlive the process.
    unsafe { libc::execve(path.as_ptr(), argv, envp) };
    Errno::last()
}

/// Executes the file that is open (execveat(2), AT_EMPTY_PATH); see [`execve`].
pub fn execveat(file: impl AsFd, argv: *const *const c_char, envp: *const *const c_char) -> Errno {
    let fd = file.as_fd().as_raw_fd();
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: as in `execve`; the path is an empty static string.
    unsafe { libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), argv, envp, flags) };
    Errno::last()
}

/// _exit(2): no atexit handler, no flush of a copied stdio buffer.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// setsid(2).
pub fn setsid() -> Result<()> {
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::setsid() }).map(drop)
}

/// Sets the signal mask; the old one.
pub fn set_signal_mask(mask: &libc::sigset_t) -> Result<libc::sigset_t> {
    // SAFETY: sigset_t is plain data.
    unsafe {
        let mut old = std::mem::zeroed();
        check_int(libc::sigprocmask(libc::SIG_SETMASK, mask, &mut old))?;
        Ok(old)
    }
}

/// Every signal.
pub fn all_signals() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, filled by the call, which cannot fail.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        set
    }
}

/// The signals of a mask as /proc/PID/status shows it: bit N-1 = signal N.
pub fn signal_set(bits: u64) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, made and filled by the calls, which cannot fail for numbers
    // from 1 to 64.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in (1..=64).filter(|n| bits & 1 << (n - 1) != 0) {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// Ignores a signal, over execve(2) too.
pub fn ignore(signal: i32) -> Result<()> {
    disposition(signal, libc::SIG_IGN)
}

/// Takes back what was done about any signal.
pub fn default_signals() {
    for signal in 1..=64 {
        let _ = disposition(signal, libc::SIG_DFL);
    }
}

fn disposition(signal: i32, what: libc::sighandler_t) -> Result<()> {
    // The kernel's own struct: handler, flags, restorer, mask. The C library refuses signals 32 and 33,
    // which a caller may well ignore.
    let action = [what as u64, 0, 0, 0];
    let size = size_of::<u64>();
    let old = std::ptr::null_mut::<u64>();
    // SAFETY: `action` outlives the call; neither of the two dispositions is a handler, so that the
    // restorer isn't needed.
    check(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), old, size) })
        .map(drop)
}

/// A descriptor from which blocked signals are read (signalfd(2)).
pub fn signalfd(mask: &libc::sigset_t) -> Result<OwnedFd> {
    // SAFETY: `mask` outlives the call.
    check_fd(unsafe { libc::signalfd(-1, mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) }.into())
}

/// Lets `signal` end this process even as the init of a pid namespace, which is spared what it has no
/// handler for (pid_namespaces(7)). One that is ignored stays so; execve(2) takes the handler back.
pub fn die_of(signal: i32) -> Result<()> {
    extern "C" fn end(signal: libc::c_int) {
        exit_now(128 + signal)
    }
    // SAFETY: sigaction is plain data, filled by the first call; the handler does nothing but
    // _exit(2).
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        check_int(libc::sigaction(signal, std::ptr::null(), &raw mut action))?;
        if action.sa_sigaction == libc::SIG_DFL {
            action.sa_sigaction = end as extern "C" fn(libc::c_int) as usize;
            check_int(libc::sigaction(
                signal,
                &raw const action,
                std::ptr::null_mut(),
            ))?;
        }
        Ok(())
    }
}

/// The next signal of a signalfd; `None` when there is none. Those of our own making, as SIGPIPE by
/// write(2), are passed over.
pub fn next_signal(fd: impl AsFd) -> Result<Option<i32>> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    let word = |info: &[u8], at: usize| {
        i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]])
    };
    let sender = std::mem::offset_of!(libc::signalfd_siginfo, ssi_pid);
    match super::fs::read(&fd, &mut info) {
        Ok(n) if n == info.len() => {
            let number = word(&info, 0);
            if number == libc::SIGPIPE && word(&info, sender) == own_pid() {
                return next_signal(fd);
            }
            Ok(Some(number))
        }
        Ok(_) | Err(Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Raises the soft limit of open files to the hard one (setrlimit(2)).
pub fn raise_open_files() -> Result<()> {
    // SAFETY: rlimit is plain data, filled by the first call.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        check_int(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check_int(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)).map(drop)
    }
}

/// prctl(2) with integer arguments; its value.
fn prctl(option: i32, a: u64, b: u64) -> Result<i32> {
    // SAFETY: the options used below take integers only.
    check_int(unsafe { libc::prctl(option, a, b, 0u64, 0u64) })
}

/// Becomes the one to whom orphaned descendants are given (PR_SET_CHILD_SUBREAPER).
pub fn set_subreaper() -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

/// Nobody but a process with CAP_SYS_PTRACE over our user namespace may look into /proc/PID of
/// this one (PR_SET_DUMPABLE).
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into(), 0).map(drop)
}

/// Whether the bounding set holds capability `number`; EINVAL when the kernel knows no such one.
pub fn in_bounding_set(number: u32) -> Result<bool> {
    prctl(libc::PR_CAPBSET_READ, number.into(), 0).map(|v| v == 1)
}

/// Removes a capability from the bounding set.
pub fn drop_bounding(number: u32) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, number.into(), 0).map(drop)
}

/// Adds a capability to the ambient set.
pub fn raise_ambient(number: u32) -> Result<()> {
    let raise = libc::PR_CAP_AMBIENT_RAISE as u64;
    prctl(libc::PR_CAP_AMBIENT, raise, number.into()).map(drop)
}

/// Empties the ambient set.
pub fn clear_ambient() -> Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as u64,
        0,
    )
    .map(drop)
}

/// Keeps the permitted set over a change of uid (PR_SET_KEEPCAPS).
pub fn keep_capabilities(keep: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

/// PR_SET_NO_NEW_PRIVS.
pub fn set_no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// The signal that this process gets when its parent dies (PR_SET_PDEATHSIG); 0 for none.
pub fn set_death_signal(signal: i32) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64, 0).map(drop)
}

/// The process's name as ps(1) shows it (PR_SET_NAME).
pub fn set_name(name: &CStr) -> Result<()> {
    prctl(libc::PR_SET_NAME, name.as_ptr() as u64, 0).map(drop)
}

/// prlimit(2): sets a limit of another process.
pub fn set_rlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` outlives the call; the old limits aren't asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            &limit,
            std::ptr::null::<u8>(),
        )
    })
    .map(drop)
}

/// prlimit(2): a limit of the calling process, soft and hard.
pub fn rlimit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes `limit`, which outlives the call; no new limits are given.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<u8>(),
            &raw mut limit,
        )
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Random bytes (getrandom(2)).
pub fn random(bytes: &mut [u8]) -> Result<()> {
    // SAFETY: the kernel fills as many bytes as there are, up to 256 of them at once.
    let n =
        check(unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0) })?;
    match n as usize == bytes.len() {
        true => Ok(()),
        false => Err(Errno::EIO),
    }
}

/// The caller's pid as its own pid namespace numbers it.
pub fn own_pid() -> i32 {
    // SAFETY: no memory is involved; the call cannot fail.
    unsafe { libc::syscall(libc::SYS_getpid) as i32 }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic() -> u64 {
    // SAFETY: timespec is plain data, filled by the call; CLOCK_MONOTONIC always exists.
    unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }
}

/// Waits for our child as [`wait`] does, at most `timeout` milliseconds; `None`: it still runs.
pub fn wait_until(pidfd: BorrowedFd, timeout: Option<i32>) -> Result<Option<Exit>> {
    let deadline = timeout.map(|t| monotonic() + t.max(0) as u64 * 1_000_000);
    match poll_one(pidfd, libc::POLLIN, deadline)? {
        true => wait(pidfd).map(Some),
        false => Ok(None),
    }
}

/// Waits for a signal (pause(2)); only for a parked child.
pub fn pause() {
    // SAFETY: no memory is involved.
    unsafe { libc::pause() };
}

/// The CLONE_NEW* flag of an nsfs file (ioctl_nsfs(2), NS_GET_NSTYPE).
pub fn namespace_kind(fd: impl AsFd) -> Result<u64> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the ioctl takes no argument.
    check_int(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_NSTYPE) })
        .map(|k| k as u32 as u64)
}

/// Waits until a process that need not be our child has ended, at most `limit`; whether it has. A
/// zombie counts: it holds nothing any more.
pub fn wait_gone(pidfd: BorrowedFd, limit: std::time::Duration) -> Result<bool> {
    poll_one(
        pidfd,
        libc::POLLIN,
        Some(monotonic() + limit.as_nanos() as u64),
    )
}

/// Waits until nobody holds the other end of a pipe any more.
pub fn wait_hangup(fd: BorrowedFd) -> Result<()> {
    poll_one(fd, 0, None).map(drop)
}

/// Polls one descriptor until `deadline` (CLOCK_MONOTONIC, ns); whether there was something.
fn poll_one(fd: BorrowedFd, events: i16, deadline: Option<u64>) -> Result<bool> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    loop {
        let rest = match deadline {
            None => -1,
            Some(deadline) => {
                let rest = deadline.saturating_sub(monotonic()).div_ceil(1_000_000);
                i32::try_from(rest).unwrap_or(i32::MAX)
            }
        };
        // SAFETY: one pollfd that outlives the call.
        match check_int(unsafe { libc::poll(&mut poll, 1, rest) }) {
            Err(Errno::EINTR) => continue,
            other => return other.map(|n| n > 0),
        }
    }
}
