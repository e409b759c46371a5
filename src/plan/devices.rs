//! `/dev`: the default nodes and `linux.devices`.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use libc::{S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT};
use oci_spec::runtime as spec;
use oci_spec::runtime::LinuxDeviceType;

use super::text::{c_string, clean, within};
use super::{Dev, Mount, MountKind, Node};

/// Nodes that every container has (runtime spec, config-linux.md, "Default Devices").
const DEFAULT: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Major and minor numbers have 12 and 20 bits (include/linux/kdev_t.h).
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

/// Decides what is put into /dev; `None` when a mount binds another /dev there, which is left as it
/// is. With `core`, /dev/core is a link to /proc/kcore. With `bind`, nodes can't be made and the host's are bound.
pub fn dev(
    devices: &[spec::LinuxDevice],
    mounts: &[Mount],
    core: bool,
    bind: bool,
) -> Result<Option<Dev>> {
    let mut nodes = Vec::with_capacity(DEFAULT.len() + devices.len());
    for (path, major, minor) in DEFAULT {
        if !devices.iter().any(|d| d.path() == Path::new(path)) {
            nodes.push(Node {
                path: c_string("/dev", *path)?,
                mode: S_IFCHR | 0o666,
                dev: libc::makedev(*major, *minor),
                uid: 0,
                gid: 0,
                index: None,
            });
        }
    }
    for (index, device) in devices.iter().enumerate() {
        let node = node(index, device)
            .map_err(|error| within(format_args!("linux.devices[{index}]"), error))?;
        nodes.push(node);
    }
    let covered = mounts
        .iter()
        .any(|m| matches!(m.kind, MountKind::Bind { .. }) && m.destination.as_bytes() == b"/dev");
    Ok(if covered {
        None
    } else {
        Some(Dev { nodes, core, bind })
    })
}

fn node(index: usize, device: &spec::LinuxDevice) -> Result<Node> {
    let path = device.path();
    ensure!(path.is_absolute(), "path: {path:?} is not absolute");
    let path = clean(path);
    ensure!(path != "/", "path: {path:?} is the root itself");
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => S_IFCHR,
        LinuxDeviceType::B => S_IFBLK,
        LinuxDeviceType::P => S_IFIFO,
        LinuxDeviceType::A => bail!("type: invalid device type \"a\", accepted are c, u, b and p"),
    };
    let dev = if kind == S_IFIFO {
        0
    } else {
        let (major, minor) = (device.major(), device.minor());
        ensure!(
            (0..=MAX_MAJOR).contains(&major),
            "major: {major} is not between 0 and {MAX_MAJOR}"
        );
        ensure!(
            (0..=MAX_MINOR).contains(&minor),
            "minor: {minor} is not between 0 and {MAX_MINOR}"
        );
        libc::makedev(major as u32, minor as u32)
    };
    // Engines copy st_mode, whose file type is dropped here, as in runc.
    let mode = device.file_mode().unwrap_or(0o666) & !S_IFMT;
    ensure!(mode <= 0o7777, "fileMode: {mode:#o} is not a file mode");
    Ok(Node {
        path: c_string("path", path)?,
        mode: kind | mode,
        dev,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        index: Some(index),
    })
}
