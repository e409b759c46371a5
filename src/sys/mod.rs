//! System calls: thin, typed, with errno results. The only `unsafe` of the program lives here.
//!
//! The functions named in `init` run in a child made by clone3(2) from a process whose memory it
//! shares copy-on-write: none of them allocates, formats, logs or panics. Paths are `&CStr` for that
//! reason; descriptors are owned (`OwnedFd`) or borrowed (`BorrowedFd`), and always close-on-exec.
#![allow(unsafe_code)]

pub mod bpf;
pub mod cred;
pub mod fs;
#[cfg(all(
    not(test),
    not(fuzzing),
    target_env = "gnu",
    target_arch = "x86_64",
    target_feature = "crt-static"
))]
mod libc_start;
pub mod mem;
pub mod mount;
pub mod net;
pub mod netlink;
pub mod process;
pub mod program;
pub mod socket;
#[cfg(not(test))]
#[cfg(not(fuzzing))]
mod start;
pub mod tty;

pub use nix::errno::Errno;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// What a system call answers.
pub type Result<T> = std::result::Result<T, Errno>;

/// `no such file or directory (ENOENT)`, in lower case, as Go writes it: callers of runc look for
/// `permission denied` and `no such process`.
pub fn words(errno: Errno) -> String {
    match errno {
        Errno::UnknownErrno => "unknown error".to_owned(),
        errno => format!("{} ({errno:?})", errno.desc().to_lowercase()),
    }
}

/// `bad system call (SIGSYS)`: the signals that end a process by a fault of its own, as Go names
/// them; others by their name alone.
pub fn signal_words(number: i32) -> String {
    let words = match number {
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGPIPE => "broken pipe",
        libc::SIGTERM => "terminated",
        libc::SIGSYS => "bad system call",
        _ => "",
    };
    let name = nix::sys::signal::Signal::try_from(number).map_or("", |s| s.as_str());
    match (words, name) {
        ("", "") => number.to_string(),
        ("", name) => name.to_owned(),
        (words, name) => format!("{words} ({name})"),
    }
}

/// The value of a system call, or its errno.
fn check(value: libc::c_long) -> Result<libc::c_long> {
    match value {
        -1 => Err(Errno::last()),
        value => Ok(value),
    }
}

/// The same for the C library's `int` functions.
fn check_int(value: libc::c_int) -> Result<libc::c_int> {
    check(value.into()).map(|v| v as libc::c_int)
}

/// The descriptor that a system call answered.
fn check_fd(value: libc::c_long) -> Result<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    check(value).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => continue,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_go() {
        let denied = "permission denied (EACCES)";
        assert_eq!(words(Errno::EACCES), denied);
        for (number, expected) in [
            (libc::SIGSYS, "bad system call (SIGSYS)"),
            (libc::SIGUSR1, "SIGUSR1"),
            (40, "40"),
        ] {
            assert_eq!(signal_words(number), expected);
        }
    }
}
