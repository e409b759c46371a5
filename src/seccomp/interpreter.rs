//! A classic BPF interpreter for seccomp programs, as strict as the kernel's
//! verifier (seccomp_check_filter in kernel/seccomp.c, bpf_check_classic in
//! net/core/filter.c). For tests and the fuzz target only.

use libc::sock_filter;

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// The number, with x32's bit.
    pub nr: u32,
    /// The arguments.
    pub args: [u64; 6],
}

/// Whether the kernel would load `filter`; if not, why.
pub fn verify(filter: &[sock_filter]) -> Result<(), String> {
    if filter.is_empty() || filter.len() > 4096 {
        return Err(format!("{} instructions", filter.len()));
    }
    for (pc, i) in filter.iter().enumerate() {
        let rest = filter.len() - pc - 1;
        let fits = match i.code {
            0x20 => i.k % 4 == 0 && i.k < 64,
            0x05 => (i.k as usize) < rest,
            0x15 | 0x25 | 0x35 | 0x45 => usize::from(i.jt.max(i.jf)) < rest,
            0x54 | 0x06 => true,
            _ => false,
        };
        if !fits {
            return Err(format!(
                "instruction {pc}: {:#x} {} {} {:#x}",
                i.code, i.jt, i.jf, i.k
            ));
        }
    }
    match filter[filter.len() - 1].code {
        0x06 => Ok(()),
        _ => Err("does not end in a return".to_owned()),
    }
}

/// What a verified `filter` returns for `call`, and after how many instructions.
pub fn run(filter: &[sock_filter], call: &Call) -> (u32, usize) {
    let load = |offset: u32| match offset {
        0 => call.nr,
        4 => call.arch,
        // The instruction pointer: no program of ours looks at it.
        8 | 12 => 0,
        _ if offset.is_multiple_of(8) => call.args[offset as usize / 8 - 2] as u32,
        _ => (call.args[offset as usize / 8 - 2] >> 32) as u32,
    };
    let (mut a, mut pc) = (0, 0);
    for steps in 1.. {
        let i = &filter[pc];
        pc += 1;
        let branch = |taken| usize::from(if taken { i.jt } else { i.jf });
        match i.code {
            0x20 => a = load(i.k),
            0x54 => a &= i.k,
            0x05 => pc += i.k as usize,
            0x15 => pc += branch(a == i.k),
            0x25 => pc += branch(a > i.k),
            0x35 => pc += branch(a >= i.k),
            0x45 => pc += branch(a & i.k != 0),
            _ => return (i.k, steps),
        }
    }
    unreachable!("verified programs end")
}
