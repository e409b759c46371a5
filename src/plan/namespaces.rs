//! `linux.namespaces` and what hangs on them: id maps, time offsets, propagation, host and domain
//! names, network devices.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt::Write;

use anyhow::{Result, bail, ensure};
use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME,
    CLONE_NEWUSER, CLONE_NEWUTS, MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, MS_UNBINDABLE,
};
use oci_spec::runtime as spec;
use oci_spec::runtime::LinuxNamespaceType;

use super::text::c_string;
use super::{IdMaps, JoinNamespace, Namespaces, Options, ids};
use crate::host::Host;

/// CLONE_NEW* flags as the plan keeps them.
pub const NEWUSER: u64 = CLONE_NEWUSER as u64;
#[allow(missing_docs)]
pub const NEWCGROUP: u64 = CLONE_NEWCGROUP as u64;
#[allow(missing_docs)]
pub const NEWIPC: u64 = CLONE_NEWIPC as u64;
#[allow(missing_docs)]
pub const NEWNET: u64 = CLONE_NEWNET as u64;
#[allow(missing_docs)]
pub const NEWNS: u64 = CLONE_NEWNS as u64;
#[allow(missing_docs)]
pub const NEWPID: u64 = CLONE_NEWPID as u64;
#[allow(missing_docs)]
pub const NEWTIME: u64 = CLONE_NEWTIME as u64;
#[allow(missing_docs)]
pub const NEWUTS: u64 = CLONE_NEWUTS as u64;

/// `linux.namespaces`. A kind that isn't listed is shared with the runtime.
pub fn namespaces(linux: &spec::Linux) -> Result<Namespaces> {
    let mut namespaces = Namespaces::default();
    let listed = linux.namespaces().as_deref().unwrap_or_default();
    for (index, namespace) in listed.iter().enumerate() {
        let kind = flag(namespace.typ());
        ensure!(
            !namespaces.has(kind),
            "linux.namespaces[{index}]: duplicated ns {:?}",
            name(namespace.typ())
        );
        match namespace.path() {
            Some(path) if !path.as_os_str().is_empty() => {
                let property = format!("linux.namespaces[{index}].path");
                ensure!(path.is_absolute(), "{property}: {path:?} is not absolute");
                namespaces.join.push(JoinNamespace {
                    kind,
                    path: c_string(property, path.as_os_str().as_encoded_bytes())?,
                    index,
                });
            }
            _ => namespaces.new |= kind,
        }
    }
    Ok(namespaces)
}

fn flag(kind: LinuxNamespaceType) -> u64 {
    match kind {
        LinuxNamespaceType::Mount => NEWNS,
        LinuxNamespaceType::Cgroup => NEWCGROUP,
        LinuxNamespaceType::Uts => NEWUTS,
        LinuxNamespaceType::Ipc => NEWIPC,
        LinuxNamespaceType::User => NEWUSER,
        LinuxNamespaceType::Pid => NEWPID,
        LinuxNamespaceType::Network => NEWNET,
        LinuxNamespaceType::Time => NEWTIME,
    }
}

fn name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

/// `linux.uidMappings` and `linux.gidMappings`, checked against the namespaces and the caller.
pub fn id_maps(
    linux: &spec::Linux,
    namespaces: &Namespaces,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<IdMaps> {
    let uid = linux.uid_mappings().as_deref().unwrap_or_default();
    let gid = linux.gid_mappings().as_deref().unwrap_or_default();
    let maps = IdMaps {
        uid: ids::maps("linux.uidMappings", uid)?,
        gid: ids::maps("linux.gidMappings", gid)?,
    };
    let mapped = !uid.is_empty() || !gid.is_empty();
    if !namespaces.has(NEWUSER) {
        ensure!(
            !mapped,
            "linux.uidMappings: user namespace mappings specified, but user namespace isn't \
             enabled in the config"
        );
        ensure!(
            host.euid == 0,
            "linux.namespaces: rootless container requires user namespaces"
        );
        return Ok(maps);
    }
    if namespaces.new & NEWUSER == 0 {
        if mapped {
            warnings.push(
                "linux.uidMappings: there is also a path to a user namespace to join; the \
                 mappings have to be that namespace's own"
                    .into(),
            );
        }
        return Ok(maps);
    }
    if host.euid != 0 {
        ensure!(
            !uid.is_empty(),
            "linux.uidMappings: rootless containers requires at least one UID mapping"
        );
        ensure!(
            !gid.is_empty(),
            "linux.gidMappings: rootless containers requires at least one GID mapping"
        );
    }
    ensure!(
        mapped,
        "linux.uidMappings: user namespaces enabled, but no namespace path to join nor mappings \
         to apply specified"
    );
    // Setting up is the work of the user namespace's root: what it makes must belong to somebody.
    for (name, maps) in [("uid", &maps.uid), ("gid", &maps.gid)] {
        ensure!(
            ids::host_id(maps, 0).is_some(),
            "linux.{name}Mappings: {name} 0 of the container is not mapped"
        );
    }
    Ok(maps)
}

/// `linux.timeOffsets` as lines for `/proc/PID/timens_offsets` (time_namespaces(7)).
pub fn time_offsets(
    offsets: Option<&HashMap<String, spec::LinuxTimeOffset>>,
    namespaces: &Namespaces,
) -> Result<Vec<u8>> {
    let Some(offsets) = offsets.filter(|o| !o.is_empty()) else {
        return Ok(Vec::new());
    };
    ensure!(
        namespaces.has(NEWTIME),
        "linux.timeOffsets: time namespace offsets specified, but time namespace isn't enabled in \
         the config"
    );
    ensure!(
        namespaces.new & NEWTIME != 0,
        "linux.timeOffsets: time namespace enabled, but both namespace path and time offsets \
         specified -- you may only provide one"
    );
    let mut lines = String::new();
    for clock in ["monotonic", "boottime"] {
        if let Some(offset) = offsets.get(clock) {
            let nanoseconds = offset.nanosecs().unwrap_or(0);
            ensure!(
                nanoseconds < 1_000_000_000,
                "linux.timeOffsets.{clock}.nanosecs: {nanoseconds} is not below 1000000000"
            );
            let seconds = offset.secs().unwrap_or(0);
            let _ = writeln!(lines, "{clock} {seconds} {nanoseconds}");
        }
    }
    for clock in offsets.keys() {
        ensure!(
            matches!(clock.as_str(), "monotonic" | "boottime"),
            "linux.timeOffsets: no such clock {clock:?}, accepted are monotonic and boottime"
        );
    }
    Ok(lines.into_bytes())
}

/// What `/` gets before anything is mounted, and what it gets after the pivot (0: nothing).
pub fn propagation(
    written: Option<&str>,
    namespaces: &Namespaces,
    no_pivot: bool,
) -> Result<(u64, u64)> {
    let flags = match written.unwrap_or_default() {
        // runc's default; crun's is rprivate. Mounts of the host still reach the container.
        "" => {
            let own = namespaces.has(NEWNS);
            return Ok((if own { MS_SLAVE | MS_REC } else { 0 }, 0));
        }
        "private" => MS_PRIVATE,
        "rprivate" => MS_PRIVATE | MS_REC,
        "slave" => MS_SLAVE,
        "rslave" => MS_SLAVE | MS_REC,
        "shared" => MS_SHARED,
        "rshared" => MS_SHARED | MS_REC,
        "unbindable" => MS_UNBINDABLE,
        "runbindable" => MS_UNBINDABLE | MS_REC,
        other => bail!(
            "linux.rootfsPropagation: rootfsPropagation={other:?} is not supported, accepted are \
             private, slave, shared, unbindable and the same with an r before"
        ),
    };
    if flags & MS_PRIVATE != 0 {
        ensure!(
            !no_pivot,
            "linux.rootfsPropagation: rootfsPropagation of [r]private is not safe without \
             pivot_root"
        );
        return Ok((flags, 0));
    }
    Ok((flags, flags))
}

/// The longest host or domain name (__NEW_UTS_LEN).
const MAX_UTS: usize = 64;

/// `hostname` or `domainname`.
pub fn uts(property: &str, name: Option<&str>, namespaces: &Namespaces) -> Result<Option<CString>> {
    let Some(name) = name.filter(|n| !n.is_empty()) else {
        return Ok(None);
    };
    ensure!(
        namespaces.has(NEWUTS),
        "{property}: unable to set {property} without a private UTS namespace"
    );
    ensure!(
        name.len() <= MAX_UTS,
        "{property}: {} bytes, the kernel takes {MAX_UTS}",
        name.len()
    );
    c_string(property, name).map(Some)
}

/// `linux.netDevices`, by name.
pub fn net_devices(
    devices: Option<&HashMap<String, spec::LinuxNetDevice>>,
    namespaces: &Namespaces,
    options: &Options,
    host: &Host,
) -> Result<Vec<(String, String)>> {
    let Some(devices) = devices.filter(|d| !d.is_empty()) else {
        return Ok(Vec::new());
    };
    ensure!(
        namespaces.has(NEWNET),
        "linux.netDevices: unable to move network devices without a NET namespace"
    );
    ensure!(
        host.euid == 0 && !options.rootless,
        "linux.netDevices: network devices are not supported for rootless containers"
    );
    let mut moves = Vec::with_capacity(devices.len());
    for (name, device) in devices {
        let inside = device.name().as_deref().filter(|n| !n.is_empty());
        for name in [name.as_str(), inside.unwrap_or(name)] {
            ensure!(
                is_interface_name(name),
                "linux.netDevices: invalid network device name {name:?}"
            );
        }
        moves.push((name.clone(), inside.unwrap_or(name).to_owned()));
    }
    moves.sort_unstable();
    Ok(moves)
}

/// dev_valid_name() in net/core/dev.c; IFNAMSIZ counts the null byte.
fn is_interface_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() < libc::IFNAMSIZ
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c == '\0')
}
