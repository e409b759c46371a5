//! `mounts`: each entry becomes a [`Mount`] whose options are numbers and fsconfig(2) keys.
//!
//! Rules that need the host or the root file system are left to `init`: whether a source exists,
//! whether what is bound at `/proc` really is a procfs, where a destination leads.

use std::ffi::CString;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use libc::{MOUNT_ATTR_RDONLY, MS_BIND, MS_RDONLY, MS_REC, MS_REMOUNT};
use oci_spec::runtime as spec;

use super::options::{Folded, ONLY_MOUNT2, PER_SUPERBLOCK, fold};
use super::text::{c_string, clean, within};
use super::{IdMapMount, IdMaps, Mount, MountKind, ids};

/// What the rest of the config says that mounts depend on.
pub struct Surroundings<'a> {
    /// The bundle, against which a bind's source is resolved.
    pub bundle: &'a Path,
    /// `root.path`: a destination below it is meant as seen from the host, as in runc.
    pub rootfs: &'a Path,
    /// `linux.mountLabel`, without null bytes.
    pub label: Option<&'a str>,
    /// The container has a user namespace.
    pub user_namespace: bool,
    /// The caller isn't root.
    pub rootless: bool,
    /// Maps of the user namespace; empty if there is none, or if they aren't known.
    pub id_maps: &'a IdMaps,
}

/// fsconfig(2) takes strings of at most this many bytes (fs/fsopen.c, strndup_user(…, 256)).
const MAX_FSCONFIG: usize = 255;

/// mount(2) takes at most a page of data, its terminating null byte included.
const MAX_MOUNT_DATA: usize = 4095;

/// What may be mounted below /proc: files that lxcfs and the like emulate (CVE-2019-19921 is why
/// nothing else may).
const BELOW_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Decides all `mounts`. An error names the property that is wrong.
pub fn mounts(
    mounts: &[spec::Mount],
    around: &Surroundings,
    warnings: &mut Vec<String>,
) -> Result<Vec<Mount>> {
    mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| {
            decide(index, mount, around, warnings)
                .map_err(|error| within(format_args!("mounts[{index}]"), error))
        })
        .collect()
}

/// The bind of the runtime's own `notify` directory at /run/notify, from which the container's
/// program reaches NOTIFY_SOCKET.
pub fn notify(index: usize, directory: &Path) -> Result<Mount> {
    let options = ["ro", "nosuid", "nodev", "noexec"].map(String::from);
    let folded = fold(&options);
    Ok(Mount {
        index,
        destination: CString::from(c"/run/notify"),
        kind: MountKind::Bind {
            source: c_string("NOTIFY_SOCKET", directory.as_os_str().as_encoded_bytes())?,
            recursive: false,
        },
        set: folded.set(),
        clear: folded.clear(),
        replace: folded.replace(),
        set_recursive: 0,
        clear_recursive: 0,
        propagation: Vec::new(),
        remount: false,
        copy_up: false,
        readonly_late: false,
        over_proc: false,
        relabel: None,
        idmap: None,
    })
}

fn decide(
    index: usize,
    mount: &spec::Mount,
    around: &Surroundings,
    warnings: &mut Vec<String>,
) -> Result<Mount> {
    let written = mount.destination().as_os_str().as_encoded_bytes();
    ensure!(!written.is_empty(), "destination: is empty");
    if written[0] != b'/' {
        warnings.push(format!(
            "mounts[{index}].destination: {:?} is not absolute, which is deprecated; taken as \
             relative to /",
            mount.destination()
        ));
    }
    let destination = below(around.rootfs, clean(mount.destination()));
    ensure!(
        destination != "/",
        "destination: {written:?} is the root itself, nothing can be mounted there",
        written = mount.destination()
    );
    let options = mount.options().as_deref().unwrap_or_default();
    let folded = fold(options);
    let fstype = mount.typ().as_deref().unwrap_or_default();
    let bind = folded.flags & MS_BIND != 0 || fstype == "bind";
    let remount = folded.flags & MS_REMOUNT != 0;
    let over_proc = over_proc(&destination, bind, fstype)?;

    // Setup still writes to these two, so that they become read-only at the very end.
    let readonly = folded.flags & MS_RDONLY != 0;
    let late = readonly && !bind && !remount && (fstype == "tmpfs" || destination == "/dev");

    if around.rootless && !around.id_maps.uid.is_empty() {
        owners_are_mapped(&folded, around.id_maps)?;
    }
    if folded.copy_up {
        ensure!(
            fstype == "tmpfs" && !bind,
            "options: tmpcopyup is only possible for a tmpfs"
        );
    }

    let kind = if bind {
        if let Some((i, option)) = folded.data.first() {
            bail!(
                "options[{i}] {option:?}: bind mounts cannot have any filesystem-specific options \
                 applied"
            );
        }
        superblock_is_not_ours(index, &folded, "a bind mount", warnings);
        bind_kind(mount, around, folded.flags & MS_REC != 0, remount)?
    } else {
        ensure!(
            !fstype.is_empty() || remount,
            "type: is needed unless the options have bind or rbind"
        );
        if matches!(fstype, "cgroup" | "cgroup2") {
            superblock_is_not_ours(index, &folded, "cgroup2", warnings);
            MountKind::Cgroup {
                options: pairs(&folded.data)?,
            }
        } else {
            new_kind(mount, fstype, &folded, around, late)?
        }
    };
    let readonly_now = if late { MOUNT_ATTR_RDONLY } else { 0 };
    Ok(Mount {
        index,
        destination: c_string("destination", destination.as_bytes())?,
        set: folded.set() & !readonly_now,
        clear: folded.clear(),
        replace: if (bind || remount) && folded.names_attributes() {
            folded.replace()
        } else {
            0
        },
        set_recursive: folded.set_tree,
        clear_recursive: folded.clear_tree,
        remount,
        copy_up: folded.copy_up,
        readonly_late: late,
        over_proc,
        relabel: match around.label {
            Some(label) if fstype == "mqueue" && !bind => {
                Some(c_string("linux.mountLabel", label)?)
            }
            _ => None,
        },
        idmap: idmap(mount, &folded, bind, around)?,
        propagation: folded.propagation,
        kind,
    })
}

/// A destination without the path of the root file system in front of it.
fn below(rootfs: &Path, destination: String) -> String {
    let rootfs = clean(rootfs);
    if rootfs == "/" {
        return destination;
    }
    match destination.strip_prefix(&rootfs) {
        Some("") => "/".to_owned(),
        Some(rest) if rest.starts_with('/') => rest.to_owned(),
        _ => destination,
    }
}

/// Nothing may hide or replace parts of /proc but what is known to be harmless (CVE-2019-16884,
/// CVE-2019-19921, CVE-2025-31133). Whether it is one of these.
fn over_proc(destination: &str, bind: bool, fstype: &str) -> Result<bool> {
    let Some(rest) = destination.strip_prefix("/proc") else {
        return Ok(false);
    };
    if rest.is_empty() {
        ensure!(
            bind || fstype == "proc",
            "destination: \"/proc\" cannot be mounted because it is not of type proc"
        );
    } else if rest.starts_with('/') {
        ensure!(
            BELOW_PROC.contains(&destination),
            "destination: {destination:?} cannot be mounted because it is inside /proc"
        );
    }
    Ok(rest.is_empty() || rest.starts_with('/'))
}

/// Without root on the host, `uid=` and `gid=` of a file system must be ids that the user namespace
/// maps.
fn owners_are_mapped(folded: &Folded, maps: &IdMaps) -> Result<()> {
    for (i, option) in &folded.data {
        let (maps, id) = if let Some(id) = option.strip_prefix("uid=") {
            (&maps.uid, id)
        } else if let Some(id) = option.strip_prefix("gid=") {
            (&maps.gid, id)
        } else {
            continue;
        };
        // Anything but a number is the file system's to refuse.
        if let Ok(id) = id.parse() {
            ensure!(
                ids::host_id(maps, id).is_some(),
                "options[{i}]: cannot specify {option} mount option for rootless container: id \
                 {id} is not mapped"
            );
        }
    }
    Ok(())
}

/// Warns of options for the superblock where the superblock isn't made here: mount(2) ignores them
/// silently.
fn superblock_is_not_ours(index: usize, folded: &Folded, what: &str, warnings: &mut Vec<String>) {
    for (flag, name, _) in PER_SUPERBLOCK {
        if folded.flags & flag != 0 {
            warnings.push(format!(
                "mounts[{index}].options: {name} has no effect on {what}; ignored"
            ));
        }
    }
}

fn bind_kind(
    mount: &spec::Mount,
    around: &Surroundings,
    recursive: bool,
    remount: bool,
) -> Result<MountKind> {
    let source = match mount.source() {
        Some(source) if source.is_absolute() => source.clone(),
        Some(source) if !source.as_os_str().is_empty() => around.bundle.join(source),
        _ if remount => Default::default(),
        _ => bail!("source: is needed for a bind mount"),
    };
    Ok(MountKind::Bind {
        source: c_string("source", source.as_os_str().as_encoded_bytes())?,
        recursive,
    })
}

fn new_kind(
    mount: &spec::Mount,
    fstype: &str,
    folded: &Folded,
    around: &Surroundings,
    late: bool,
) -> Result<MountKind> {
    let mut options = pairs(&folded.data)?;
    let mut flags = folded.flags & !(MS_BIND | MS_REC | MS_REMOUNT);
    let mut data: Vec<&str> = folded.data.iter().map(|(_, option)| *option).collect();
    if late {
        flags &= !MS_RDONLY;
    }

    if flags & MS_RDONLY != 0 {
        options.push((c"ro".into(), None));
    } else if folded.cleared & MS_RDONLY != 0 || folded.flags & MS_REMOUNT != 0 {
        // MS_REMOUNT without MS_RDONLY makes a superblock writable.
        options.push((c"rw".into(), None));
    }
    for (flag, set, clear) in PER_SUPERBLOCK {
        let key = if flags & flag != 0 {
            *set
        } else if folded.cleared & flag != 0 {
            *clear
        } else {
            continue;
        };
        options.push((c_string("options", key)?, None));
    }

    // proc and sysfs have their own labels, mqueue takes one only afterwards.
    let context;
    if let Some(label) = around.label
        && !matches!(fstype, "proc" | "sysfs" | "mqueue")
    {
        options.push((
            c"context".into(),
            Some(c_string("linux.mountLabel", label)?),
        ));
        context = format!("context=\"{label}\"");
        data.push(&context);
    }

    let too_long = options.iter().any(|(key, value)| {
        key.count_bytes() > MAX_FSCONFIG
            || value
                .as_ref()
                .is_some_and(|v| v.count_bytes() > MAX_FSCONFIG)
    });
    let legacy = if too_long || flags & ONLY_MOUNT2 != 0 {
        let data = data.join(",");
        ensure!(
            data.len() <= MAX_MOUNT_DATA,
            "options: {} bytes of data for the file system, the kernel takes {MAX_MOUNT_DATA}",
            data.len()
        );
        Some((c_string("options", data)?, flags))
    } else {
        None
    };
    let source = match mount.source() {
        Some(source) if !source.as_os_str().is_empty() => {
            c_string("source", source.as_os_str().as_encoded_bytes())?
        }
        _ => c"none".into(),
    };
    Ok(MountKind::New {
        fstype: c_string("type", fstype)?,
        source,
        options,
        legacy,
    })
}

/// The file system's own options as fsconfig(2) takes them. One string may hold several, separated
/// by commas outside double quotes, as in mount(2)'s data.
fn pairs(data: &[(usize, &str)]) -> Result<Vec<(CString, Option<CString>)>> {
    let mut pairs = Vec::with_capacity(data.len() + 2);
    for (i, option) in data {
        let pair = |text: &str| -> Result<(CString, Option<CString>)> {
            let name = || format!("options[{i}]");
            Ok(match text.split_once('=') {
                Some((key, value)) => (
                    c_string(name(), key)?,
                    Some(c_string(name(), unquoted(key, value))?),
                ),
                None => (c_string(name(), text)?, None),
            })
        };
        for text in split(option) {
            // What mount(2) skips, too (fs/fs_context.c, vfs_parse_monolithic_sep).
            if !text.is_empty() && !text.starts_with('=') {
                pairs.push(pair(text)?);
            }
        }
    }
    Ok(pairs)
}

/// Splits at commas outside double quotes.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

/// SELinux labels hold commas and are quoted for mount(2), which takes the quotes off again;
/// fsconfig(2) wants them without.
fn unquoted<'a>(key: &str, value: &'a str) -> &'a str {
    if !matches!(key, "context" | "fscontext" | "defcontext" | "rootcontext") {
        return value;
    }
    value
        .strip_prefix('"')
        .and_then(|v| v.strip_suffix('"'))
        .unwrap_or(value)
}

fn idmap(
    mount: &spec::Mount,
    folded: &Folded,
    bind: bool,
    around: &Surroundings,
) -> Result<Option<IdMapMount>> {
    let uid = mount.uid_mappings().as_deref().unwrap_or_default();
    let gid = mount.gid_mappings().as_deref().unwrap_or_default();
    let mapped = !uid.is_empty() || !gid.is_empty();
    if folded.idmap.is_none() && !mapped {
        return Ok(None);
    }
    ensure!(
        bind,
        "options: id-mapped mounts are only supported for bind-mounts"
    );
    ensure!(
        !around.rootless,
        "options: id-mapped mounts are not supported for rootless containers"
    );
    ensure!(
        uid.is_empty() == gid.is_empty() && (mapped || around.user_namespace),
        "uidMappings: id-mapped mounts must have both uid and gid mappings specified"
    );
    Ok(Some(IdMapMount {
        maps: if mapped {
            Some(IdMaps {
                uid: ids::maps("uidMappings", uid)?,
                gid: ids::maps("gidMappings", gid)?,
            })
        } else {
            None
        },
        recursive: folded.idmap == Some(true),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_may_be_written_as_the_host_sees_them() {
        for (rootfs, destination, expected) in [
            ("/b/rootfs", "/b/rootfs/mnt/x", "/mnt/x"),
            ("/b/rootfs/", "/b/rootfs", "/"),
            ("/b/rootfs", "/b/rootfs2/x", "/b/rootfs2/x"),
            ("/", "/mnt", "/mnt"),
        ] {
            assert_eq!(below(Path::new(rootfs), destination.to_owned()), expected);
        }
    }
}
