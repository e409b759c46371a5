//! What this machine is, as far as plans depend on it. Looked at once; cheap, since every create
//! pays for it: anything dear is looked up only when a config asks for it.

use std::fs;
use std::io::{self, Read as _};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::sys::{cred, process};

/// Facts about the machine and the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Effective uid of the caller.
    pub euid: u32,
    /// The caller is inside a user namespace that isn't the initial one.
    pub in_user_namespace: bool,
    /// The highest capability that the kernel knows (capabilities(7)).
    pub last_capability: u32,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// SELinux is enabled.
    pub selinux: bool,
    /// `/proc/kcore` exists.
    pub kcore: bool,
    /// `/proc/self/setgroups` says `deny`: looked at only inside a user namespace.
    pub setgroups_denied: bool,
}

/// The initial user namespace, as links of /proc name it (linux/nsfs.h, USER_NS_INIT_INO).
const INITIAL: &str = "user:[4026531837]";

/// The map of the initial user namespace (user_namespaces(7)).
const WHOLE: [&str; 3] = ["0", "0", "4294967295"];

impl Host {
    /// Looks. `in_user_namespace` is known already; `labels`: whether a config names an LSM's label, so
    /// that the LSMs matter.
    pub fn look(in_user_namespace: bool, labels: bool) -> Host {
        let (euid, _) = cred::effective_ids();
        let denied =
            || fs::read_to_string("/proc/self/setgroups").is_ok_and(|t| t.trim() == "deny");
        let mut host = Host {
            euid,
            in_user_namespace,
            last_capability: last_capability(),
            apparmor: false,
            selinux: false,
            kcore: fs::exists("/proc/kcore").unwrap_or(false),
            setgroups_denied: in_user_namespace && denied(),
        };
        if labels {
            host.look_at_labels();
        }
        host
    }

    /// Looks which LSMs there are: a config turned out to name a label.
    pub fn look_at_labels(&mut self) {
        self.apparmor = apparmor();
        self.selinux = fs::exists("/sys/fs/selinux/enforce").unwrap_or(false);
    }
}

/// Whether the caller is in a user namespace other than the initial one. One that maps all ids as that
/// does counts for it, as in runc.
pub fn in_user_namespace() -> bool {
    if fs::read_link("/proc/self/ns/user").is_ok_and(|link| link.as_os_str() == INITIAL) {
        return false;
    }
    // Without user namespaces in the kernel there is no such file.
    let map = read_short("/proc/self/uid_map");
    map.is_ok_and(|map| !String::from_utf8_lossy(&map).split_whitespace().eq(WHOLE))
}

/// Reads a file of /proc in one go: its size isn't known, so it would be read in ever larger pieces.
pub fn read_short(path: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(4 << 10);
    // Not of the file itself, which would be asked for its size.
    fs::File::open(path)?
        .take(u64::MAX)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// Not by securityfs, as runc does: podman hides that before it makes a container with a user
/// namespace.
fn apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with('Y'))
}

/// The kernel says EINVAL to the first number that it doesn't know (PR_CAPBSET_READ).
fn last_capability() -> u32 {
    // CAP_CHECKPOINT_RESTORE, of Linux 5.9, is where nearly every kernel ends.
    let mut last = 40;
    while last < 63 && process::in_bounding_set(last + 1).is_ok() {
        last += 1;
    }
    last
}

/// What `/proc/PID/stat` says: the state's letter and the start time in clock ticks since boot
/// (proc_pid_stat(5), fields 3 and 22). `None`: there is no such process.
pub fn process_stat(pid: i32) -> Result<Option<(u8, u64)>> {
    let text = match read_short(&format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("read /proc/{pid}/stat")),
    };
    let parsed = || {
        // The name, in parentheses, may hold anything.
        let end = text.iter().rposition(|b| *b == b')')?;
        let rest = std::str::from_utf8(text.get(end + 2..)?).ok()?;
        let mut fields = rest.split(' ');
        let state = *fields.next()?.as_bytes().first()?;
        Some((state, fields.nth(18)?.parse().ok()?))
    };
    parsed()
        .map(Some)
        .with_context(|| format!("/proc/{pid}/stat: not understood"))
}
