//! Credentials and what else a process carries over execve(2): ids, capabilities, keyring,
//! scheduling, memory policy, personality, seccomp.

use super::{Errno, Result, check, check_fd, check_int};
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

/// setgroups(2).
pub fn setgroups(groups: &[u32]) -> Result<()> {
    // SAFETY: the kernel reads `groups.len()` ids. The raw call, because the C library's would
    // signal other threads.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// setresgid(2) with all three ids.
pub fn setgid(gid: u32) -> Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// setresuid(2) with all three ids.
pub fn setuid(uid: u32) -> Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// _LINUX_CAPABILITY_VERSION_3 (linux/capability.h).
const CAP_VERSION: u32 = 0x2008_0522;

/// capset(2) of the calling thread; bit N is capability N.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = CapHeader {
        version: CAP_VERSION,
        pid: 0,
    };
    let half = |shift: u32| CapData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes two data structs; all outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) }).map(drop)
}

/// Whether no LSM has a label for the calling process (lsm_get_self_attr(2), of Linux 6.8). `false`: one
/// has, or the kernel can't tell.
pub fn is_unlabelled() -> bool {
    // linux/lsm.h
    const LSM_ATTR_CURRENT: u32 = 100;
    const SYS_LSM_GET_SELF_ATTR: libc::c_long = 459;
    let mut size = 0u32;
    // SAFETY: nothing is written but the size, which outlives the call.
    let asked = check(unsafe {
        let none = std::ptr::null_mut::<u8>();
        libc::syscall(
            SYS_LSM_GET_SELF_ATTR,
            LSM_ATTR_CURRENT,
            none,
            &raw mut size,
            0,
        )
    });
    asked == Err(Errno::EOPNOTSUPP)
}

const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
const KEYCTL_SETPERM: i32 = 5;
const KEYCTL_DESCRIBE: i32 = 6;

/// Joins the session keyring of that name, or makes it (keyctl_join_session_keyring(3)); its serial.
pub fn join_session_keyring(name: &CStr) -> Result<i32> {
    // SAFETY: `name` outlives the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
        .map(|serial| serial as i32)
}

/// Adds permission bits to a key (keyctl_setperm(3)); the present ones are read from its
/// description, `type;uid;gid;perm;…` with perm in hex.
pub fn widen_key(serial: i32, add: u32) -> Result<()> {
    let mut text = [0u8; 512];
    // SAFETY: the kernel writes at most `text.len()` bytes.
    let length = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_DESCRIBE,
            serial,
            text.as_mut_ptr(),
            text.len(),
        )
    })? as usize;
    let text = &text[..length.min(text.len())];
    let field = text.split(|b| *b == b';').nth(3).unwrap_or_default();
    let mut perm = 0u32;
    for digit in field.iter().filter_map(|b| (*b as char).to_digit(16)) {
        perm = perm << 4 | digit;
    }
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, perm | add) }).map(drop)
}

/// personality(2).
pub fn personality(persona: u64) -> Result<()> {
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::personality(persona) }).map(drop)
}

/// PR_SET_THP_DISABLE: whether the calling process gets no transparent huge pages, and its flags; as
/// [`huge_pages`] tells it.
pub fn set_huge_pages(value: u64) -> Result<()> {
    let option = libc::PR_SET_THP_DISABLE;
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::prctl(option, value & 1, value & !1, 0u64, 0u64) }).map(drop)
}

/// PR_GET_THP_DISABLE: 0, or 1 and flags.
pub fn huge_pages() -> Result<u64> {
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0u64, 0u64, 0u64, 0u64) })
        .map(|v| v as u64)
}

/// What prctl(2) tells of a process that its children inherit and keep over execve(2), and for which
/// there is nothing better.
pub const SWITCHES: [&str; 7] = [
    "PR_SET_SECUREBITS",
    "PR_MCE_KILL",
    "PR_SET_IO_FLUSHER",
    "PR_SET_MDWE",
    "PR_SET_MEMORY_MERGE",
    "PR_SET_TSC",
    "PR_SCHED_CORE",
];

/// The calling process's [`SWITCHES`]; those that the kernel doesn't know, or doesn't tell, are -1.
pub fn switches() -> [i64; SWITCHES.len()] {
    // linux/prctl.h
    const PR_GET_IO_FLUSHER: i32 = 58;
    const PR_GET_MDWE: i32 = 66;
    const PR_GET_MEMORY_MERGE: i32 = 68;
    let get = |option: i32| {
        // SAFETY: no memory is involved.
        i64::from(unsafe { libc::prctl(option, 0u64, 0u64, 0u64, 0u64) })
    };
    let (mut tsc, mut core) = (-1i32, 0u64);
    // SAFETY: both are written to, by one of the calls each. The second's arguments: PR_SCHED_CORE_GET,
    // of this thread, of it alone.
    unsafe {
        libc::prctl(libc::PR_GET_TSC, &raw mut tsc, 0u64, 0u64, 0u64);
        libc::prctl(libc::PR_SCHED_CORE, 0u64, 0u64, 0u64, &raw mut core);
    }
    [
        get(libc::PR_GET_SECUREBITS),
        get(libc::PR_MCE_KILL_GET),
        get(PR_GET_IO_FLUSHER),
        get(PR_GET_MDWE),
        get(PR_GET_MEMORY_MERGE),
        tsc.into(),
        core as i64,
    ]
}

/// The caller's personality(2).
pub fn own_personality() -> Result<u64> {
    // SAFETY: no memory is involved; 0xffffffff only asks.
    check_int(unsafe { libc::personality(0xffff_ffff) }).map(|v| v as u32 as u64)
}

/// The timer slack of the calling thread in nanoseconds (PR_GET_TIMERSLACK).
pub fn timer_slack() -> Result<u64> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_GET_TIMERSLACK, 0, 0, 0, 0) })
        .map(|v| v as u64)
}

/// sched_getattr(2) of the calling thread.
pub fn sched_getattr() -> Result<crate::plan::Scheduler> {
    let size = size_of::<libc::sched_attr>();
    // SAFETY: sched_attr is plain data; the kernel writes no more than `size`.
    let raw = unsafe {
        let mut raw: libc::sched_attr = std::mem::zeroed();
        check(libc::syscall(
            libc::SYS_sched_getattr,
            0,
            &raw mut raw,
            size,
            0,
        ))?;
        raw
    };
    Ok(crate::plan::Scheduler {
        policy: raw.sched_policy,
        flags: raw.sched_flags,
        nice: raw.sched_nice,
        priority: raw.sched_priority,
        runtime: raw.sched_runtime,
        deadline: raw.sched_deadline,
        period: raw.sched_period,
    })
}

/// sched_setattr(2) of another process.
pub fn sched_setattr_of(pid: i32, attr: &crate::plan::Scheduler) -> Result<()> {
    set_scheduler(pid, attr)
}

const IOPRIO_WHO_PROCESS: i32 = 1;

/// The I/O priority of the calling thread (ioprio_get(2)).
pub fn ioprio_get() -> Result<i32> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) }).map(|v| v as i32)
}

/// ioprio_set(2) of another process.
pub fn ioprio_set_of(pid: i32, priority: i32) -> Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, pid, priority) })
        .map(drop)
}

/// sched_setattr(2) of the calling thread.
pub fn sched_setattr(attr: &crate::plan::Scheduler) -> Result<()> {
    set_scheduler(0, attr)
}

fn set_scheduler(pid: i32, attr: &crate::plan::Scheduler) -> Result<()> {
    let raw = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: attr.policy,
        sched_flags: attr.flags,
        sched_nice: attr.nice,
        sched_priority: attr.priority,
        sched_runtime: attr.runtime,
        sched_deadline: attr.deadline,
        sched_period: attr.period,
    };
    // SAFETY: `raw` outlives the call and says its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw, 0) }).map(drop)
}

/// ioprio_set(2) of the calling process group, as runc does.
pub fn ioprio_set(priority: i32) -> Result<()> {
    const IOPRIO_WHO_PGRP: i32 = 2;
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PGRP, 0, priority) }).map(drop)
}

/// set_mempolicy(2); bit N of word N/64 of `nodes` is node N.
pub fn set_mempolicy(mode: i32, nodes: &[u64]) -> Result<()> {
    let (pointer, bits) = match nodes {
        [] => (std::ptr::null(), 0),
        // The kernel reads one bit less than it is told (set_mempolicy(2), BUGS).
        nodes => (nodes.as_ptr(), nodes.len() * 64 + 1),
    };
    // SAFETY: the kernel reads `nodes.len()` words.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) }).map(drop)
}

/// Words of nodes that [`own_mempolicy`] tells: as many nodes as a kernel can have (CONFIG_NODES_SHIFT).
pub const NODE_WORDS: usize = 16;

/// The calling thread's memory policy: mode with its flags, and nodes (get_mempolicy(2)). ENOSYS: there is
/// no NUMA.
pub fn own_mempolicy() -> Result<(i32, [u64; NODE_WORDS])> {
    let (mut mode, mut nodes) = (0i32, [0u64; NODE_WORDS]);
    let bits = nodes.len() * 64 + 1;
    // SAFETY: the kernel writes the mode, and no more nodes than `nodes` has.
    check(unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            nodes.as_mut_ptr(),
            bits,
            0,
            0,
        )
    })?;
    Ok((mode, nodes))
}

/// sched_setaffinity(2) of `pid` (0: the caller); bit N of the bytes is CPU N.
pub fn set_affinity(pid: i32, mask: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads `mask.len()` bytes.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, pid, mask.len(), mask.as_ptr()) })
        .map(drop)
}

/// Loads a filter for the calling thread (seccomp(2), SECCOMP_SET_MODE_FILTER). With
/// SECCOMP_FILTER_FLAG_NEW_LISTENER, the descriptor for notifications.
pub fn seccomp(filter: &[libc::sock_filter], flags: u32) -> Result<Option<OwnedFd>> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program; it does not write to it.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &program,
        )
    };
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 != 0 {
        return check_fd(answer).map(Some);
    }
    check(answer)?;
    Ok(None)
}

/// The host name and the domain name of the caller's uts namespace (uname(2)).
pub fn host_names() -> Result<(CString, CString)> {
    // SAFETY: utsname is plain data, filled by the call with terminated strings.
    unsafe {
        let mut names: libc::utsname = std::mem::zeroed();
        check_int(libc::uname(&raw mut names))?;
        let text = |name: &[libc::c_char]| CStr::from_ptr(name.as_ptr()).to_owned();
        Ok((text(&names.nodename), text(&names.domainname)))
    }
}

/// sethostname(2).
pub fn sethostname(name: &CStr) -> Result<()> {
    // SAFETY: the kernel reads as many bytes as the string has.
    check_int(unsafe { libc::sethostname(name.as_ptr(), name.count_bytes()) }).map(drop)
}

/// setdomainname(2).
pub fn setdomainname(name: &CStr) -> Result<()> {
    // SAFETY: the kernel reads as many bytes as the string has.
    check_int(unsafe { libc::setdomainname(name.as_ptr(), name.count_bytes()) }).map(drop)
}

/// The caller's real uid and gid.
pub fn real_ids() -> (u32, u32) {
    // SAFETY: no memory is involved; the calls cannot fail.
    unsafe { (libc::getuid(), libc::getgid()) }
}

/// setresuid(2) and setresgid(2) of the real ids only: what the caller may do stays.
pub fn set_real_ids(uid: u32, gid: u32) -> Result<()> {
    let same = u32::MAX;
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, same, same) })?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, same, same) }).map(drop)
}

/// The caller's effective uid and gid.
pub fn effective_ids() -> (u32, u32) {
    // SAFETY: no memory is involved; the calls cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}
