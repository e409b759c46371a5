//! The Record of a container that is being made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;

use super::Context;
use crate::cgroup::Cgroup;
use crate::decided::Decided;
use crate::plan::MountKind;
use crate::store::{self, Record};
use crate::{cli, launch, log};

/// A Record, but for what is known only when there is a process.
pub fn begin(
    c: &Context,
    options: &cli::Create,
    decided: &Decided,
    bundle: &str,
    cgroup: Option<&Cgroup>,
    notify: Option<std::ffi::OsString>,
) -> Record {
    let Decided {
        plan, annotations, ..
    } = decided;
    let mut labels = vec![format!("bundle={bundle}")];
    labels.extend(annotations.iter().map(|(k, v)| format!("{k}={v}")));
    let names = launch::namespaces::NAMES;
    let namespaces = names.iter().filter(|(flag, ..)| plan.namespaces.has(*flag));
    let path_of = |flag: u64| {
        let joined = plan.namespaces.join.iter().find(|j| j.kind == flag);
        joined.map_or(String::new(), |j| j.path.to_string_lossy().into_owned())
    };
    let text = |s: &std::ffi::CStr| s.to_string_lossy().into_owned();
    let mounts = plan.mounts.iter().map(|m| {
        let (source, device) = match &m.kind {
            MountKind::Bind { source, .. } => (text(source), "bind".to_owned()),
            MountKind::New { source, fstype, .. } => (text(source), text(fstype)),
            MountKind::Cgroup { .. } => ("cgroup".to_owned(), "cgroup".to_owned()),
        };
        store::Mount {
            source,
            destination: text(&m.destination),
            device,
        }
    });
    let mut cgroup_paths = BTreeMap::new();
    if let Some(cgroup) = cgroup {
        cgroup_paths.insert(String::new(), cgroup.path.to_string_lossy().into_owned());
    }
    let mut kinds = 0;
    for (flag, ..) in names {
        if plan.namespaces.has(*flag) {
            kinds |= flag;
        }
    }
    let process = plan.process.as_ref();
    Record {
        id: options.id.clone(),
        init_process_pid: 0,
        init_process_start: 0,
        created: rfc3339_nano(),
        config: store::Config {
            rootfs: text(&plan.rootfs),
            readonlyfs: plan.readonly_rootfs,
            hostname: plan.hostname.as_deref().map(text).unwrap_or_default(),
            no_pivot_root: plan.no_pivot,
            mounts: mounts.collect(),
            namespaces: namespaces
                .map(|(flag, _, name)| store::Namespace {
                    kind: (*name).to_owned(),
                    path: path_of(*flag),
                })
                .collect(),
            labels,
            version: decided.version.clone(),
            no_new_keyring: options.no_new_keyring,
        },
        rootless: c.rootless,
        cgroup_paths,
        namespace_paths: BTreeMap::new(),
        external_descriptors: Vec::new(),
        intel_rdt_path: String::new(),
        intel_rdt_mon_path: String::new(),
        runz: store::Own {
            bundle: bundle.to_owned(),
            annotations: annotations.clone(),
            cgroup: cgroup.map(|cg| cg.path.clone()),
            namespaces: kinds,
            process: process.is_some(),
            umask: process.map_or(0o022, |p| p.umask),
            personality: process.and_then(|p| p.personality),
            memory_policy: process
                .and_then(|p| p.memory_policy.as_ref())
                .map(|m| (m.mode, m.nodes.clone())),
            seccomp_flags: plan.seccomp.as_ref().map(|s| s.flags),
            seccomp_listener: plan
                .seccomp
                .as_ref()
                .and_then(|s| s.listener.as_ref())
                .map(|l| (l.path.clone(), l.metadata.clone())),
            keyring: plan.keyring.as_deref().map(text),
            uid_map: plan.id_maps.uid.clone(),
            gid_map: plan.id_maps.gid.clone(),
            start_container: !plan.hooks.start_container.is_empty(),
            poststart: plan.hooks.poststart.clone(),
            poststop: plan.hooks.poststop.clone(),
            notify: notify.map(PathBuf::from),
            rdt_created: None,
            rdt_monitoring: None,
        },
    }
}

/// What a Record has of a process.
pub fn finish(record: &mut Record, pid: i32) -> Result<()> {
    record.init_process_pid = pid;
    record.init_process_start = launch::start_time(pid)?;
    record.external_descriptors = launch::external_descriptors();
    const FILES: [(&str, &str); 8] = [
        ("NEWCGROUP", "cgroup"),
        ("NEWIPC", "ipc"),
        ("NEWNET", "net"),
        ("NEWNS", "mnt"),
        ("NEWPID", "pid"),
        ("NEWTIME", "time"),
        ("NEWUSER", "user"),
        ("NEWUTS", "uts"),
    ];
    for (name, file) in FILES {
        record
            .namespace_paths
            .insert(name.to_owned(), format!("/proc/{pid}/ns/{file}"));
    }
    Ok(())
}

/// Now, as Go's RFC3339Nano.
pub fn rfc3339_nano() -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = log::rfc3339(now);
    let nanos = format!("{:09}", now.subsec_nanos());
    let nanos = nanos.trim_end_matches('0');
    if nanos.is_empty() {
        return seconds;
    }
    format!("{}.{nanos}Z", seconds.trim_end_matches('Z'))
}
