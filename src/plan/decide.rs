//! [`plan`] and [`join`]: the whole of a config, property by property.

use std::ffi::CString;

use anyhow::{Result, anyhow, ensure};
use oci_spec::runtime as spec;

use super::namespaces::{self, NEWCGROUP, NEWNS, NEWUSER};
use super::schedule::{memory_policy, personality};
use super::{
    CpuAffinity, Hooks, IdMaps, MemoryPolicy, Mount, MountKind, Namespaces, Options, Plan, Process,
    devices, hooks, ids, mounts, process, rdt, sysctl, text,
};
use crate::cgroup;
use crate::cgroup::settings::{Context, Purpose};
use crate::host::Host;
use crate::seccomp;

/// Decides a container. Errors name the property of config.json that is wrong by its JSON path.
pub fn plan(spec: &spec::Spec, options: &Options, host: &Host) -> Result<Plan> {
    let mut warnings = Vec::new();
    let root = spec.root().as_ref();
    let root = root.ok_or_else(|| anyhow!("root: must be specified"))?;
    ensure!(
        !root.path().as_os_str().is_empty(),
        "root.path: must be specified"
    );
    let none;
    let linux = match spec.linux() {
        Some(linux) => linux,
        None => {
            none = no_linux();
            &none
        }
    };

    let namespaces = namespaces::namespaces(linux)?;
    let id_maps = namespaces::id_maps(linux, &namespaces, host, &mut warnings)?;
    let (propagation, rootfs_propagation) = namespaces::propagation(
        linux.rootfs_propagation().as_deref(),
        &namespaces,
        options.no_pivot,
    )?;
    let masked_paths = paths("linux.maskedPaths", linux.masked_paths(), &namespaces)?;
    let readonly_paths = paths("linux.readonlyPaths", linux.readonly_paths(), &namespaces)?;

    let label = linux.mount_label().as_deref().filter(|l| !l.is_empty());
    ensure!(
        label.is_none_or(|l| !l.contains('\0')),
        "linux.mountLabel: has a null byte"
    );
    ensure!(
        label.is_none() || host.selinux,
        "linux.mountLabel: selinux label is specified in config, but selinux is disabled or not \
         supported"
    );
    let user_namespace = namespaces.has(NEWUSER);
    let around = mounts::Surroundings {
        bundle: &options.bundle,
        rootfs: root.path(),
        label,
        user_namespace,
        rootless: host.euid != 0,
        id_maps: known_maps(&namespaces, &id_maps),
    };
    let written = spec.mounts().as_deref().unwrap_or_default();
    let mut mounts = mounts::mounts(written, &around, &mut warnings)?;
    let dev = devices::dev(
        linux.devices().as_deref().unwrap_or_default(),
        &mounts,
        host.kcore,
        user_namespace || host.in_user_namespace || host.euid != 0,
    )?;
    let user = spec.process().as_ref().map(|p| p.user());
    let delegate = delegate(&mounts, &namespaces, &id_maps, user);
    if let Some(notify) = &options.notify {
        mounts.push(mounts::notify(mounts.len(), notify)?);
    }

    let resources = resources(linux, options, host)?;
    warnings.extend(resources.warnings.iter().map(|w| w.to_string()));

    let process = match spec.process() {
        None => None,
        Some(process) => {
            let setting = process::Setting {
                id_maps: known_maps(&namespaces, &id_maps),
                umask: UMASK,
                listen_fds: options.listen_fds,
                preserve_fds: options.preserve_fds,
                notify: options.notify.is_some(),
                personality: linux.personality().as_ref().map(personality).transpose()?,
                memory_policy: linux
                    .memory_policy()
                    .as_ref()
                    .map(memory_policy)
                    .transpose()?,
            };
            let mut process = process::process(process, setting, host, &mut warnings)?;
            // Only for processes that enter a container; checked all the same.
            process.cpu_affinity = CpuAffinity::default();
            Some(process)
        }
    };

    Ok(Plan {
        rootfs: text::c_string("root.path", root.path().as_os_str().as_encoded_bytes())?,
        readonly_rootfs: root.readonly().unwrap_or(false),
        no_pivot: options.no_pivot,
        keyring: keyring(options)?,
        time_offsets: namespaces::time_offsets(linux.time_offsets().as_ref(), &namespaces)?,
        propagation,
        rootfs_propagation,
        mounts,
        dev,
        hostname: namespaces::uts("hostname", spec.hostname().as_deref(), &namespaces)?,
        domainname: namespaces::uts("domainname", spec.domainname().as_deref(), &namespaces)?,
        sysctls: sysctl::sysctls(linux.sysctl().as_ref(), &namespaces)?,
        mount_label: match label {
            Some(label) => Some(text::c_string("linux.mountLabel", label.as_bytes())?),
            None => None,
        },
        masked_paths,
        readonly_paths,
        process,
        seccomp: match linux.seccomp() {
            Some(seccomp) => Some(seccomp::compile(seccomp)?),
            None => None,
        },
        hooks: match spec.hooks() {
            Some(hooks) => hooks::hooks(hooks)?,
            None => Hooks::default(),
        },
        cgroups_path: linux
            .cgroups_path()
            .clone()
            .filter(|p| !p.as_os_str().is_empty()),
        resources,
        delegate,
        net_devices: namespaces::net_devices(
            linux.net_devices().as_ref(),
            &namespaces,
            options,
            host,
        )?,
        intel_rdt: match linux.intel_rdt() {
            Some(rdt) => Some(rdt::intel_rdt(rdt, &options.id)?),
            None => None,
        },
        namespaces,
        id_maps,
        warnings,
    })
}

/// The session keyring of a container, by its id: as runc names it.
pub fn keyring(options: &Options) -> Result<Option<CString>> {
    match options.no_new_keyring {
        true => Ok(None),
        false => text::c_string("id", format!("_ses.{}", options.id)).map(Some),
    }
}

/// What a process that enters a container takes from it, and from the command line of `exec`.
pub struct Container<'a> {
    /// Maps of its user namespace; empty if it has none, or if they aren't known.
    pub id_maps: &'a IdMaps,
    /// The umask of the container's own process, for one that gives none.
    pub umask: Option<u32>,
    /// `linux.personality`, as [`personality`] decided it.
    pub personality: Option<u64>,
    /// `linux.memoryPolicy`, as [`memory_policy`] decided it.
    pub memory_policy: Option<MemoryPolicy>,
    /// `--preserve-fds`.
    pub preserve_fds: u32,
}

/// Decides a process that enters a running container: a `process` object, be it a file's or the
/// bundle's changed by `exec`'s flags. Nothing but what is in `container` is inherited.
pub fn join(
    process: &spec::Process,
    container: Container,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Process> {
    let setting = process::Setting {
        id_maps: container.id_maps,
        umask: container.umask.unwrap_or(UMASK),
        listen_fds: 0,
        preserve_fds: container.preserve_fds,
        notify: false,
        personality: container.personality,
        memory_policy: container.memory_policy,
    };
    process::process(process, setting, host, warnings)
}

/// The umask of a process that gives none, as in runc; the spec would leave the runtime's.
const UMASK: u32 = 0o022;

/// What a config without `linux` says: no namespaces, nothing masked.
fn no_linux() -> spec::Linux {
    let mut linux = spec::Linux::default();
    linux
        .set_namespaces(None)
        .set_masked_paths(None)
        .set_readonly_paths(None)
        .set_resources(None);
    linux
}

/// `linux.resources`. Without them there is still the device filter.
fn resources(linux: &spec::Linux, options: &Options, host: &Host) -> Result<cgroup::Settings> {
    let devices = linux.devices().as_deref().unwrap_or_default();
    let device_paths: Vec<&str> = devices.iter().filter_map(|d| d.path().to_str()).collect();
    let context = Context {
        purpose: Purpose::Create,
        device_paths: &device_paths,
        unprivileged: options.rootless || host.euid != 0 || host.in_user_namespace,
    };
    match linux.resources() {
        Some(resources) => cgroup::settings(resources, &context),
        None => cgroup::settings(&spec::LinuxResources::default(), &context),
    }
}

/// `maskedPaths` or `readonlyPaths`.
fn paths(
    property: &str,
    paths: &Option<Vec<String>>,
    namespaces: &Namespaces,
) -> Result<Vec<CString>> {
    let paths = paths.as_deref().unwrap_or_default();
    ensure!(
        paths.is_empty() || namespaces.has(NEWNS),
        "{property}: unable to restrict sys entries without a private MNT namespace"
    );
    paths
        .iter()
        .enumerate()
        .map(|(i, path)| {
            ensure!(
                path.starts_with('/'),
                "{property}[{i}]: {path:?} is not absolute"
            );
            text::c_string(format_args!("{property}[{i}]"), path.as_str())
        })
        .collect()
}

/// The maps, if they are those of the namespace for sure: those of one that is joined are only what
/// config.json claims.
fn known_maps<'a>(namespaces: &Namespaces, maps: &'a IdMaps) -> &'a IdMaps {
    static NONE: IdMaps = IdMaps {
        uid: Vec::new(),
        gid: Vec::new(),
    };
    if namespaces.new & NEWUSER != 0 {
        maps
    } else {
        &NONE
    }
}

/// Who on the host is to own the container's cgroup, so that the container can manage it: the user
/// of its process, as in runc.
fn delegate(
    mounts: &[Mount],
    namespaces: &Namespaces,
    maps: &IdMaps,
    user: Option<&spec::User>,
) -> Option<(u32, u32)> {
    let writable = mounts.iter().any(|m| {
        matches!(m.kind, MountKind::Cgroup { .. })
            && m.destination.as_bytes() == b"/sys/fs/cgroup"
            && m.set & libc::MOUNT_ATTR_RDONLY == 0
    });
    if namespaces.new & NEWCGROUP == 0 || !namespaces.has(NEWUSER) || !writable {
        return None;
    }
    let (uid, gid) = user.map_or((0, 0), |u| (u.uid(), u.gid()));
    ids::host_id(&maps.uid, uid).zip(ids::host_id(&maps.gid, gid))
}
