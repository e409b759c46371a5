//! `process.capabilities` as bit masks (capabilities(7)).

use std::collections::HashSet;

use anyhow::{Result, ensure};
use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::Capabilities;
use crate::host::Host;

/// The capabilities by their numbers (include/uapi/linux/capability.h).
pub const CAPABILITIES: &[Capability] = &[
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Decides the five sets. What the kernel doesn't know, or can't raise as ambient, is left out with
/// a warning, as in runc.
pub fn capabilities(
    written: &LinuxCapabilities,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Capabilities> {
    let known = u64::MAX >> (63 - host.last_capability.min(63));
    let mut unknown = 0;
    let mut set = |capabilities: &Option<HashSet<Capability>>| {
        let mask = mask(capabilities);
        unknown |= mask & !known;
        mask & known
    };
    let mut sets = Capabilities {
        bounding: set(written.bounding()),
        effective: set(written.effective()),
        permitted: set(written.permitted()),
        inheritable: set(written.inheritable()),
        ambient: set(written.ambient()),
    };
    if unknown != 0 {
        warnings.push(format!(
            "ignoring unknown or unavailable capabilities: [{}]",
            names(unknown)
        ));
    }
    let beyond = sets.effective & !sets.permitted;
    ensure!(
        beyond == 0,
        "process.capabilities.effective: {} not among the permitted",
        names(beyond)
    );
    let lost = sets.ambient & !(sets.permitted & sets.inheritable);
    if lost != 0 {
        warnings.push(format!(
            "process.capabilities.ambient: can't raise ambient capability {}: not among the permitted and the \
             inheritable; ignored",
            names(lost)
        ));
        sets.ambient &= !lost;
    }
    Ok(sets)
}

fn mask(capabilities: &Option<HashSet<Capability>>) -> u64 {
    capabilities
        .iter()
        .flatten()
        .fold(0, |mask, capability| mask | 1 << number(*capability))
}

/// The kernel's number of a capability.
fn number(capability: Capability) -> u32 {
    // Linear, and still cheap: 41 bytes are compared.
    let position = CAPABILITIES.iter().position(|c| *c == capability);
    position.map_or(63, |number| number as u32)
}

fn names(mask: u64) -> String {
    let names: Vec<String> = CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| mask >> number & 1 != 0)
        .map(|(_, capability)| capability_name(*capability))
        .collect();
    names.join(" ")
}

/// `CAP_…`, as `features` and messages write it.
pub fn capability_name(capability: Capability) -> String {
    format!("CAP_{capability}")
}
