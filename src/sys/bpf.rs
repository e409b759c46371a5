//! bpf(2), as far as a cgroup's device filter needs it: load a program of type
//! `BPF_PROG_TYPE_CGROUP_DEVICE`, list, attach and detach them.
//!
//! Nothing here raises `RLIMIT_MEMLOCK`: since Linux 5.11 (commit 97306be45fbe)
//! programs are charged to the caller's memory cgroup instead, and 5.14 is the
//! oldest kernel that is supported.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// The program may stand beside others on the same cgroup (linux/bpf.h).
pub const ALLOW_MULTI: u32 = 1 << 1;
/// The program takes the place of the one in `replace_bpf_fd` (linux/bpf.h).
const REPLACE: u32 = 1 << 2;

/// Commands of bpf(2) (enum bpf_cmd).
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;

/// How many programs of one type one cgroup can hold (BPF_CGROUP_MAX_PROGS).
const MAX_PROGRAMS: usize = 64;

/// The verifier gives up with EAGAIN when a signal is pending; so often is it
/// started again.
const LOAD_ATTEMPTS: usize = 30;

/// `union bpf_attr` for BPF_PROG_LOAD, up to the program's name.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// `union bpf_attr` for BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// `union bpf_attr` for BPF_PROG_QUERY. Linux 6.17 to 7.1 write `revision`
/// whatever size they are told (fixed by 21c4b99b27f3), so the whole struct is here.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Loads a device filter; each item of `program` is one `struct bpf_insn`.
/// `name` (at most 15 bytes of `[A-Za-z0-9_.]`) is what bpftool shows.
pub fn load(program: &[u64], name: &str) -> Result<OwnedFd, Errno> {
    let mut prog_name = [0; 16];
    let length = name.len().min(15);
    prog_name[..length].copy_from_slice(&name.as_bytes()[..length]);
    let mut attr = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
    };
    for _ in 1..LOAD_ATTEMPTS {
        // SAFETY: `program` and the licence outlive the call; the kernel copies both.
        match unsafe { bpf(PROG_LOAD, &mut attr) } {
            Err(Errno::EAGAIN) => continue,
            result => return result.map(owned),
        }
    }
    Err(Errno::EAGAIN)
}

/// Attaches `program` to `cgroup` beside what is there (`ALLOW_MULTI`), or in
/// place of `old`.
pub fn attach(
    cgroup: BorrowedFd,
    program: BorrowedFd,
    old: Option<BorrowedFd>,
) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI | if old.is_some() { REPLACE } else { 0 },
        replace_bpf_fd: old.map_or(0, number),
    };
    // SAFETY: the struct holds no pointer.
    unsafe { bpf(PROG_ATTACH, &mut attr) }.map(drop)
}

/// Detaches `program` from `cgroup`; ENOENT if it is not there.
pub fn detach(cgroup: BorrowedFd, program: BorrowedFd) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: CGROUP_DEVICE,
        attach_flags: 0,
        replace_bpf_fd: 0,
    };
    // SAFETY: the struct holds no pointer.
    unsafe { bpf(PROG_DETACH, &mut attr) }.map(drop)
}

/// The ids of the device filters that are attached to `cgroup` itself.
pub fn attached(cgroup: BorrowedFd) -> Result<Vec<u32>, Errno> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut attr = Query {
        target_fd: number(cgroup),
        attach_type: CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGRAMS as u32,
        ..Query::default()
    };
    // SAFETY: the kernel writes at most `prog_cnt` ids; `ids` has that many and outlives the call.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    Ok(ids[..MAX_PROGRAMS.min(attr.prog_cnt as usize)].to_vec())
}

/// A descriptor of the program with this id; ENOENT if it is gone, EACCES or
/// EPERM where an LSM hides it.
pub fn by_id(id: u32) -> Result<OwnedFd, Errno> {
    let mut attr = [id, 0, 0];
    // SAFETY: the array holds no pointer.
    unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) }.map(owned)
}

/// # Safety
/// `attr` is laid out as `union bpf_attr` for `command`, and every pointer in it is valid.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> Result<i32, Errno> {
    // SAFETY: the kernel reads size_of::<T>() bytes at `attr`, a live exclusive
    // reference, and takes what lies beyond as zero; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    Errno::result(result).map(|value| value as i32)
}

/// Owns the descriptor that bpf(2) returned; the kernel has made it close-on-exec.
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: `fd` was just returned by the kernel and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn number(fd: BorrowedFd) -> u32 {
    fd.as_raw_fd() as u32
}
