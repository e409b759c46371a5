//! System calls by name, for the three ABIs an x86_64 kernel serves.
//!
//! Profiles name some 400 calls and each is looked up on every `create`, so the
//! table of `table.rs` gets a hash index, laid out by the compiler.

use super::table::SYSCALLS;

/// A system call that an ABI does not have.
pub const NONE: u16 = u16::MAX;
/// Added to the first argument of ipc(2) in [`Syscall::multiplexed`], to tell
/// it from that of socketcall(2), whose numbers end at 20.
pub const IPC: u8 = 64;

/// i386's socketcall(2), which stands for every call of linux/net.h.
const I386_SOCKETCALL: u16 = 102;
/// i386's ipc(2), which stands for every call of linux/ipc.h.
const I386_IPC: u16 = 117;

/// The calling conventions of one x86_64 kernel. x32 arrives as x86_64, with
/// bit 30 of the number set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit, `AUDIT_ARCH_X86_64`.
    X86_64,
    /// 32-bit pointers in 64-bit mode, `AUDIT_ARCH_X86_64` too.
    X32,
    /// 32-bit, `AUDIT_ARCH_I386`.
    I386,
}

/// One system call: a row of the table.
pub struct Syscall {
    /// As in `__NR_name`.
    pub name: &'static str,
    /// By [`Abi`]; [`NONE`] where the ABI lacks it. x32 without its bit 30.
    numbers: [u16; 3],
    /// See [`Syscall::multiplexed`].
    mux: u8,
}

impl Syscall {
    /// The number of this call on `abi`, x32 without its bit 30.
    pub fn number(&self, abi: Abi) -> Option<u16> {
        Some(self.numbers[abi as usize]).filter(|&n| n != NONE)
    }

    /// The call that stands for this one on i386, beside its own number if it
    /// has any, and the first argument that selects it: (102, 1) for socket(2).
    pub fn multiplexed(&self) -> Option<(u16, u64)> {
        match self.mux {
            0 => None,
            call @ 1..IPC => Some((I386_SOCKETCALL, u64::from(call))),
            call => Some((I386_IPC, u64::from(call - IPC))),
        }
    }
}

/// A row of `table.rs`.
pub const fn row(name: &'static str, x86_64: u16, x32: u16, i386: u16, mux: u8) -> Syscall {
    Syscall {
        name,
        numbers: [x86_64, x32, i386],
        mux,
    }
}

/// One more than the highest number of any ABI.
pub const LIMIT: usize = limit();

const fn limit() -> usize {
    let (mut limit, mut i) = (0, 0);
    while i < SYSCALLS.len() * 3 {
        let number = SYSCALLS[i / 3].numbers[i % 3];
        if number != NONE && number as usize >= limit {
            limit = number as usize + 1;
        }
        i += 1;
    }
    limit
}

/// Slots of the hash index: a power of two, so sparse that most names are found
/// at once. A slot holds a row's index plus one; 0 is free.
const SLOTS: usize = 2048;
static INDEX: [u16; SLOTS] = index();

const fn index() -> [u16; SLOTS] {
    let mut index = [0; SLOTS];
    let mut i = 0;
    while i < SYSCALLS.len() {
        let mut slot = hash(SYSCALLS[i].name.as_bytes());
        while index[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        i += 1;
        index[slot] = i as u16;
    }
    index
}

/// FNV-1a, folded to a slot.
const fn hash(name: &[u8]) -> usize {
    let mut hash = 0x811c_9dc5_u32;
    let mut i = 0;
    while i < name.len() {
        hash = (hash ^ name[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    ((hash ^ hash >> 16) as usize) % SLOTS
}

/// The system call of this name, if any x86 ABI has it.
pub fn find(name: &str) -> Option<&'static Syscall> {
    let mut slot = hash(name.as_bytes());
    while INDEX[slot] != 0 {
        let syscall = &SYSCALLS[usize::from(INDEX[slot]) - 1];
        if syscall.name == name {
            return Some(syscall);
        }
        slot = (slot + 1) % SLOTS;
    }
    None
}
