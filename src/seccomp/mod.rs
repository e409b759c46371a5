//! `linux.seccomp` to a BPF program: pure, without the kernel, and as runc and
//! libseccomp would have it, verdict by verdict.
//!
//! ```text
//! profile ──rules.rs──▶ rules by ABI and number ──emit.rs──▶ sock_filter[]
//!              │
//!              └─ syscall.rs, table.rs: numbers by name
//! ```
//!
//! libseccomp itself takes milliseconds for the default profile of an engine,
//! which is most of the time a container start could take. What it decides is
//! kept, how it goes about it is not. What is different: several rules for one
//! call that contradict each other are taken in the profile's order where
//! libseccomp would refuse the profile.

pub mod bytes;
mod emit;
#[cfg(any(test, fuzzing))]
pub mod interpreter;
#[cfg(any(test, fuzzing))]
pub mod meaning;
mod rules;
mod syscall;
mod table;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::{Result, bail};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag as Flag};
use serde::{Deserialize, Serialize};

/// The actions that [`compile`] knows, sorted, for `features`.
pub const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// The operators that [`compile`] knows, sorted, for `features`.
pub const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// The architectures that [`compile`] accepts, sorted, for `features`. Those of
/// other machines have no effect.
pub const ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// The flags that [`compile`] knows, in runc's order, for `features`.
pub const KNOWN_FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// The flags that have an effect, for `features`: all, on the kernels that we
/// support, save that WAIT_KILLABLE_RECV came with Linux 5.19 only.
pub const SUPPORTED_FLAGS: &[&str] = KNOWN_FLAGS;

/// What seccomp(2) `SECCOMP_SET_MODE_FILTER` needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    /// The filter, at most `BPF_MAXINSNS` instructions.
    #[serde(with = "bytes")]
    pub filter: Vec<libc::sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`, with NEW_LISTENER when a rule notifies.
    pub flags: u32,
    /// Where the listener goes, when a rule notifies.
    pub listener: Option<Listener>,
    /// What was skipped, a sentence each. Of interest when debugging a profile.
    pub warnings: Vec<String>,
}

/// Who answers `SCMP_ACT_NOTIFY`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// `listenerPath`, a unix socket.
    pub path: PathBuf,
    /// `listenerMetadata`, opaque.
    pub metadata: String,
}

/// Compiles a profile for x86_64, and for x32 and i386 where it lists them.
///
/// Errors name the JSON path: a value out of range, NOTIFY where it cannot be
/// (as default action, for `write`, without `listenerPath`), a profile too large
/// for the kernel.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program> {
    let rules = rules::read(profile)?;
    let listener = match rules.notify {
        true => Some(listener(profile)?),
        false => None,
    };
    Ok(Program {
        filter: emit::program(&rules)?,
        flags: flags(profile, rules.notify),
        listener,
        warnings: rules.warnings,
    })
}

fn listener(profile: &LinuxSeccomp) -> Result<Listener> {
    match profile.listener_path() {
        Some(path) if !path.as_os_str().is_empty() => Ok(Listener {
            path: path.clone(),
            metadata: profile.listener_metadata().clone().unwrap_or_default(),
        }),
        _ => bail!("linux.seccomp.listenerPath: not set, and SCMP_ACT_NOTIFY needs it"),
    }
}

/// The flags for seccomp(2). No list means SPEC_ALLOW, an empty one none, as in
/// runc.
fn flags(profile: &LinuxSeccomp, notify: bool) -> u32 {
    let mut bits = match notify {
        true => libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
        false => 0,
    };
    let listed = profile.flags().as_deref();
    for flag in listed.unwrap_or(&[Flag::SeccompFilterFlagSpecAllow]) {
        bits |= match flag {
            // A container's init is one thread, and so is whatever it executes:
            // runc ignores this flag as well.
            Flag::SeccompFilterFlagTsync => 0,
            Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // EINVAL without NEW_LISTENER.
            Flag::SeccompFilterFlagWaitKillableRecv if !notify => 0,
            Flag::SeccompFilterFlagWaitKillableRecv => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
        };
    }
    bits as u32
}
