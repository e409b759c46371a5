//! Where the cgroup v2 hierarchy is mounted, and where in it a container belongs.
//!
//! The path rules are runc's (cgroupfs driver): an absolute `linux.cgroupsPath` counts from the
//! mount, a relative or missing one from the parent of the caller's own cgroup. The caller's own
//! cgroup has processes, so no controller could be enabled below it; its parent can have none.

use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::{failed, read_all};

/// Where a host has its v2 hierarchy: whole, or beside v1 (a hybrid host).
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The mounted v2 hierarchy, and the caller's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The mount point of the cgroup2 file system.
    pub mount: PathBuf,
    /// The caller's own cgroup, as in `/proc/self/cgroup`: `/user.slice/x.scope`. Empty where
    /// [`find`](Self::find) was told that it is not needed.
    pub own: String,
}

impl Hierarchy {
    /// Finds the hierarchy by its file system's magic. The caller's own cgroup is only looked up
    /// if `cgroups_path` needs it.
    pub fn find(cgroups_path: Option<&Path>) -> Result<Hierarchy> {
        let is_cgroup2 = |mount: &&&str| {
            statfs(**mount).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
        };
        let Some(mount) = MOUNTS.iter().find(is_cgroup2) else {
            bail!(
                "no cgroup v2 hierarchy is mounted at {}",
                MOUNTS.join(" or ")
            );
        };
        let own = if cgroups_path.is_some_and(Path::is_absolute) {
            String::new()
        } else {
            of_process("self")?
        };
        Ok(Hierarchy {
            mount: PathBuf::from(mount),
            own,
        })
    }
}

impl Hierarchy {
    /// The directory of the cgroup that a process is in now. It need not be its container's: init
    /// may have moved below it (then nothing else can be put into the container's cgroup, EBUSY).
    pub fn cgroup_of(&self, pid: i32) -> Result<PathBuf> {
        Ok(self
            .mount
            .join(clean(Path::new(&of_process(&pid.to_string())?))))
    }
}

fn of_process(process: &str) -> Result<String> {
    let path = format!("/proc/{process}/cgroup");
    let file = std::fs::File::open(&path).with_context(|| format!("open {path}"))?;
    let text =
        read_all(file.as_fd()).map_err(|errno| failed(format_args!("read {path}"), errno))?;
    let own = own(&text).with_context(|| format!("{path} has no line for cgroup v2"))?;
    Ok(own.to_owned())
}

/// The v2 cgroup in the text of a `/proc/PID/cgroup`: the line that starts with `0::`.
pub fn own(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    // The kernel marks a cgroup that was removed while processes were still in it.
    Some(path.strip_suffix(" (deleted)").unwrap_or(path))
}

/// The directory of a container's cgroup. `..` never leads out of the hierarchy.
pub fn path(hierarchy: &Hierarchy, cgroups_path: Option<&Path>, id: &str) -> PathBuf {
    let mut path = hierarchy.mount.clone();
    match cgroups_path.filter(|path| !path.as_os_str().is_empty()) {
        Some(absolute) if absolute.is_absolute() => path.extend(clean(absolute).iter()),
        relative => {
            path.extend(clean(Path::new(&hierarchy.own)).parent());
            path.extend(clean(relative.unwrap_or(Path::new(id))).iter());
        }
    }
    path
}

/// `path` without `.`, `..`, empty components and the leading slash, as if `/` were the root.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_runc() {
        // (own cgroup, linux.cgroupsPath, expected)
        let table = [
            ("/", None, "/cg/web"),
            ("/user.slice/session-1.scope", None, "/cg/user.slice/web"),
            ("/a/b/c", None, "/cg/a/b/web"),
            ("/a/b", Some(""), "/cg/a/web"),
            ("/a/b", Some("x/y"), "/cg/a/x/y"),
            ("/a/b", Some("./x/../y"), "/cg/a/y"),
            ("/a/b", Some("../../../x"), "/cg/a/x"),
            ("/a/b", Some("/x/y"), "/cg/x/y"),
            ("", Some("/x//y/"), "/cg/x/y"),
            ("", Some("/../../etc"), "/cg/etc"),
            ("", Some("/x/../../../etc"), "/cg/etc"),
            ("", Some("/"), "/cg"),
            // Seen from a cgroup namespace whose root is elsewhere.
            ("/../x/y", None, "/cg/x/web"),
        ];
        for (own, cgroups_path, expected) in table {
            let hierarchy = Hierarchy {
                mount: "/cg".into(),
                own: own.into(),
            };
            let found = path(&hierarchy, cgroups_path.map(Path::new), "web");
            assert_eq!(found, Path::new(expected), "{own} {cgroups_path:?}");
        }
    }

    #[test]
    fn own_cgroup_is_the_v2_line() {
        let hybrid = "3:cpuset:/x\n1:name=systemd:/y\n0::/user.slice/a b\n";
        assert_eq!(own(hybrid), Some("/user.slice/a b"));
        assert_eq!(own("0::/gone (deleted)\n"), Some("/gone"));
        assert_eq!(own("3:cpuset:/x\n"), None);
        assert_eq!(own(""), None);
    }
}
