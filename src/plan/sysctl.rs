//! `linux.sysctl`: only what belongs to a namespace of the container (namespaces(7)) may be set.

use std::collections::HashMap;

use anyhow::{Result, bail, ensure};

use super::namespaces::{NEWIPC, NEWNET, NEWUSER, NEWUTS};
use super::text::c_string;
use super::{Namespaces, Sysctl};

/// The parameters of System V IPC, below `kernel/`.
const IPC: &[&str] = &[
    "msgmax",
    "msgmnb",
    "msgmni",
    "sem",
    "shmall",
    "shmmax",
    "shmmni",
    "shm_rmid_forced",
];

/// `linux.sysctl`, by key. A network namespace joined by path must not be the host's: that needs a
/// look at the file, so whoever joins it checks.
pub fn sysctls(
    sysctl: Option<&HashMap<String, String>>,
    namespaces: &Namespaces,
) -> Result<Vec<Sysctl>> {
    let Some(sysctl) = sysctl else {
        return Ok(Vec::new());
    };
    let mut sysctls = Vec::with_capacity(sysctl.len());
    for (key, value) in sysctl {
        let path = path(key);
        ensure!(
            path.split('/').all(|part| !matches!(part, "" | "." | "..")),
            "linux.sysctl: {key:?} is not the name of a sysctl"
        );
        allowed(key, &path, namespaces)?;
        sysctls.push(Sysctl {
            key: key.clone(),
            path: c_string("linux.sysctl", format!("sys/{path}"))?,
            value: value.clone().into_bytes(),
        });
    }
    sysctls.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(sysctls)
}

/// A sysctl's path below /proc/sys. Both separators are accepted; the first one in the key is it,
/// and then the other stands for itself: `net.ipv4.conf.eth0/1.x` and `net/ipv4/conf/eth0.1/x` are
/// the same (sysctl(8)).
fn path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(i) if key.as_bytes()[i] == b'.' => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

fn allowed(key: &str, path: &str, namespaces: &Namespaces) -> Result<()> {
    let (root, rest) = path.split_once('/').unwrap_or((path, ""));
    match root {
        "kernel" if IPC.contains(&rest) => ipc(key, namespaces),
        "fs" if rest.starts_with("mqueue/") => ipc(key, namespaces),
        "net" => {
            ensure!(
                namespaces.has(NEWNET),
                "linux.sysctl: sysctl {key:?} not allowed in host network namespace"
            );
            Ok(())
        }
        "kernel" if rest == "hostname" && namespaces.has(NEWUTS) => bail!(
            "linux.sysctl: sysctl {key:?} is not allowed as it conflicts with the OCI \
             \"hostname\" field"
        ),
        "kernel" if rest == "domainname" && namespaces.has(NEWUTS) => Ok(()),
        "user" => {
            ensure!(
                namespaces.has(NEWUSER),
                "linux.sysctl: setting ucounts without a user namespace not allowed: {key:?}"
            );
            Ok(())
        }
        _ => bail!("linux.sysctl: sysctl {key:?} is not in a separate kernel namespace"),
    }
}

fn ipc(key: &str, namespaces: &Namespaces) -> Result<()> {
    ensure!(
        namespaces.has(NEWIPC),
        "linux.sysctl: sysctl {key:?} is not allowed in the hosts ipc namespace"
    );
    Ok(())
}
