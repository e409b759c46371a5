//! Namespaces that a config names by path, and what it means when the kernel refuses new ones.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use anyhow::{Result, anyhow, bail};

use super::{explain, failed};
use crate::cgroup::Cgroup;
use crate::plan::Plan;
use crate::sys::{Errno, fs, process};

/// Opens the namespaces to join, and checks that each is of the kind it's named as.
pub fn open(plan: &Plan) -> Result<Vec<OwnedFd>> {
    let mut opened = Vec::new();
    for j in &plan.namespaces.join {
        let name = format_args!("linux.namespaces[{}].path", j.index).to_string();
        let path = j.path.to_string_lossy();
        let fd = fs::open(fs::CWD, &j.path, libc::O_RDONLY, 0)
            .map_err(|e| failed(e, format_args!("{name}: open {path:?}")))?;
        match process::namespace_kind(&fd) {
            Ok(kind) if kind == j.kind => {}
            Ok(_) => bail!("{name}: {path:?} is a namespace of another type"),
            Err(_) => bail!("{name}: {path:?} is not a namespace"),
        }
        let net = |key: &str| key.starts_with("net.") || key.starts_with("net/");
        if let Some(sysctl) = plan.sysctls.iter().find(|s| net(&s.key))
            && j.kind == libc::CLONE_NEWNET as u64
            && is_own(&fd, "/proc/self/ns/net")
        {
            let key = &sysctl.key;
            bail!("linux.sysctl: sysctl {key:?} not allowed in host network namespace");
        }
        opened.push(fd);
    }
    Ok(opened)
}

/// Whether a namespace is the one of ours at `path`.
fn is_own(namespace: &OwnedFd, path: &str) -> bool {
    let there = fs::stat_at(namespace, c"", libc::AT_EMPTY_PATH);
    let own = std::fs::metadata(path);
    matches!((there, own), (Ok(there), Ok(own)) if (there.st_dev, there.st_ino) == (own.dev(), own.ino()))
}

/// The names of clone flags, as the spec has them.
pub const NAMES: &[(u64, &str, &str)] = &[
    (libc::CLONE_NEWNS as u64, "mount", "NEWNS"),
    (libc::CLONE_NEWUTS as u64, "uts", "NEWUTS"),
    (libc::CLONE_NEWIPC as u64, "ipc", "NEWIPC"),
    (libc::CLONE_NEWUSER as u64, "user", "NEWUSER"),
    (libc::CLONE_NEWPID as u64, "pid", "NEWPID"),
    (libc::CLONE_NEWNET as u64, "network", "NEWNET"),
    (libc::CLONE_NEWCGROUP as u64, "cgroup", "NEWCGROUP"),
    (libc::CLONE_NEWTIME as u64, "time", "NEWTIME"),
];

/// Why clone3(2) said no.
pub fn refused(errno: Errno, plan: &Plan, cgroup: Option<&Cgroup>) -> anyhow::Error {
    let new = plan.namespaces.new;
    let list: Vec<_> = NAMES
        .iter()
        .filter(|(flag, ..)| new & flag != 0)
        .map(|(_, name, _)| *name)
        .collect();
    let what = format!("make namespaces ({})", list.join(", "));
    let because = explain::words(errno);
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let user = new & libc::CLONE_NEWUSER as u64 != 0;
    let hint = match errno {
        Errno::EPERM
            if user && read("/proc/sys/kernel/unprivileged_userns_clone").trim() == "0" =>
        {
            "sysctl kernel.unprivileged_userns_clone is 0"
        }
        Errno::EPERM if !user => "it needs CAP_SYS_ADMIN, or a user namespace in linux.namespaces",
        Errno::EPERM => "user namespaces are forbidden here, by an LSM or a sandbox",
        Errno::ENOSPC => {
            "a limit of /proc/sys/user/max_*_namespaces, or of their nesting, is reached"
        }
        Errno::EINVAL => "this kernel lacks one of them",
        Errno::EAGAIN => "too many processes",
        Errno::EBUSY | Errno::EOPNOTSUPP | Errno::ENODEV if cgroup.is_some() => {
            let path = cgroup
                .map(|c| c.path.display().to_string())
                .unwrap_or_default();
            return anyhow!("linux.cgroupsPath: clone into cgroup {path}: {because}");
        }
        _ => return anyhow!("{what}: {because}"),
    };
    anyhow!("{what}: {because}; {hint}")
}
