//! What is remembered of a container: its directory below the state root.
//!
//! ```text
//! <root>/<id>/            0711   made by `create`: this reserves the id
//!   cgroup                →      the container's cgroup, before that is made: what a killed `create`
//!                                leaves behind can be found by `delete --force`
//!   rdt, rdt-monitoring   →      the same for resctrl groups
//!   state.json            0600   the Record, written beside and renamed: the container exists
//!   exec.fifo             0622   the start barrier; its presence means `created`
//!   seccomp.bpf           0600   the compiled filter, for `exec`
//!   notify/notify.sock           where the container reports, when NOTIFY_SOCKET was set
//! ```
//!
//! state.json has the shape of runc's, as far as others read it, and under `runz` what later verbs
//! need: they never read config.json again, except where runc's contract says so.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cli::Root;
use crate::plan::{Hook, IdMap};
use crate::status::{self, Status};
use crate::{cgroup, host, rdt, sys};

/// state.json.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "runc's names; see libcontainer's State")]
pub struct Record {
    pub id: String,
    pub init_process_pid: i32,
    /// Clock ticks since boot, so that a pid that is used again isn't taken for the container's.
    pub init_process_start: u64,
    /// RFC 3339, UTC.
    pub created: String,
    pub config: Config,
    pub rootless: bool,
    pub cgroup_paths: BTreeMap<String, String>,
    pub namespace_paths: BTreeMap<String, String>,
    /// What the standard streams were, for CRIU.
    pub external_descriptors: Vec<String>,
    /// The resctrl group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub intel_rdt_path: String,
    /// The resctrl monitoring group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub intel_rdt_mon_path: String,
    pub runz: Own,
}

/// The part of libcontainer's config that outsiders read.
#[derive(Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Config {
    pub rootfs: String,
    pub readonlyfs: bool,
    pub hostname: String,
    pub no_pivot_root: bool,
    pub mounts: Vec<Mount>,
    pub namespaces: Vec<Namespace>,
    pub labels: Vec<String>,
    pub version: String,
    pub no_new_keyring: bool,
}

/// One mount in libcontainer's words.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Mount {
    pub source: String,
    pub destination: String,
    pub device: String,
}

/// One namespace in libcontainer's words: `NEWNET`, and its path when it was joined.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Namespace {
    #[serde(rename = "type")]
    pub kind: String,
    pub path: String,
}

/// What the later verbs need.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Own {
    /// Absolute path of the bundle.
    pub bundle: String,
    /// `annotations`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The container's cgroup; `None`: it has none of its own.
    pub cgroup: Option<PathBuf>,
    /// CLONE_NEW* of the namespaces that aren't the runtime's: those that `exec` enters.
    pub namespaces: u64,
    /// Whether there is a `process`.
    pub process: bool,
    /// `process.user.umask`, for `exec`.
    pub umask: u32,
    /// `linux.personality`, for `exec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personality: Option<u64>,
    /// `linux.memoryPolicy`, for `exec`: mode and node words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<(i32, Vec<u64>)>,
    /// Flags of the filter in seccomp.bpf; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_flags: Option<u32>,
    /// listenerPath and listenerMetadata, when the filter notifies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_listener: Option<(PathBuf, String)>,
    /// The session keyring's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<String>,
    /// Maps of the user namespace, when it was made for this container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uid_map: Vec<IdMap>,
    /// The same for groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gid_map: Vec<IdMap>,
    /// Whether `start` must wait for the program to run: there are startContainer hooks.
    #[serde(default)]
    pub start_container: bool,
    /// `hooks.poststart`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// `hooks.poststop`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
    /// NOTIFY_SOCKET of the caller, to which `start` forwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<PathBuf>,
    /// A resctrl group that was made for this container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt_created: Option<PathBuf>,
    /// A resctrl monitoring group that was made for this container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt_monitoring: Option<PathBuf>,
}

/// No container of that id.
#[derive(Debug)]
pub struct Missing;

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("container does not exist")
    }
}

impl std::error::Error for Missing {}

/// Checks a container's id (runc's rule: it becomes a file name).
pub fn check_id(id: &str) -> Result<()> {
    if id.is_empty() {
        bail!("container id cannot be empty");
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if !id.chars().all(fits) || id == "." || id == ".." {
        bail!("invalid container ID format");
    }
    Ok(())
}

/// An id that was reserved for a new container. Dropped, it stays; see [`Container::remove`].
pub fn reserve(root: &Root, id: &str) -> Result<Container> {
    check_id(id)?;
    let directory = root.path.join(id);
    let make = |path: &Path| DirBuilder::new().mode(0o711).create(path);
    let made = match make(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // The root is for its owner only, as runc's: containers' pids and paths are in it.
            DirBuilder::new()
                .recursive(true)
                .mode(if root.sticky { 0o700 } else { 0o711 })
                .create(&root.path)
                .with_context(|| format!("make state root {:?}", root.path))?;
            if root.sticky {
                let sticky = fs::Permissions::from_mode(0o1700);
                fs::set_permissions(&root.path, sticky)
                    .with_context(|| format!("set the sticky bit of {:?}", root.path))?;
            }
            make(&directory)
        }
        other => other,
    };
    match made {
        Ok(()) => Ok(Container { directory }),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("container with given ID already exists")
        }
        Err(error) => Err(error).with_context(|| format!("make state directory {directory:?}")),
    }
}

/// Gives the container in the state directory `from` that id: it's moved below the root.
pub fn adopt(root: &Root, from: &Path, id: &str) -> Result<(Container, Record)> {
    check_id(id)?;
    let to = root.path.join(id);
    let at = nix::fcntl::AT_FDCWD;
    let flags = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
    match nix::fcntl::renameat2(at, from, at, &to, flags) {
        Ok(()) => open(root, id),
        Err(sys::Errno::EEXIST) => bail!("container with given ID already exists"),
        Err(errno) => bail!("rename {from:?} to {to:?}: {}", sys::words(errno)),
    }
}

/// The state directory of one container.
#[derive(Debug)]
pub struct Container {
    directory: PathBuf,
}

impl Container {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The start barrier's path.
    pub fn fifo(&self) -> PathBuf {
        self.directory.join("exec.fifo")
    }

    /// Notes what is about to be made outside of this directory: `cgroup`, `rdt`, `rdt-monitoring`.
    pub fn note(&self, what: &str, path: &Path) -> Result<()> {
        symlink(path, self.directory.join(what))
            .with_context(|| format!("note {what} in {:?}", self.directory))
    }

    /// What was noted.
    pub fn noted(&self, what: &str) -> Option<PathBuf> {
        fs::read_link(self.directory.join(what)).ok()
    }

    /// Writes a file of the directory, readable by its owner only.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content))
            .with_context(|| format!("write {path:?}"))
    }

    /// Puts the Record beside its place, so that [`commit`](Self::commit) is one rename.
    pub fn prepare(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec(record).context("state.json")?;
        self.write(PREPARED, &text)
    }

    /// The Record of a container that was never committed; `None`: nothing readable was written yet.
    pub fn prepared(&self) -> Option<Record> {
        let text = fs::read(self.directory.join(PREPARED)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// From here on the container exists.
    pub fn commit(&self) -> Result<()> {
        let place = self.directory.join(STATE);
        fs::rename(self.directory.join(PREPARED), &place)
            .with_context(|| format!("rename to {place:?}"))
    }

    /// Removes the directory and what the runtime put there.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {:?}", self.directory))
            }
            _ => Ok(()),
        }
    }

    /// Locks the directory against another verb at the same time; the lock lasts as long as the file
    /// is open.
    pub fn lock(&self) -> Result<File> {
        let file =
            File::open(&self.directory).with_context(|| format!("open {:?}", self.directory))?;
        file.try_lock()
            .context("another runz is at work on the container")?;
        Ok(file)
    }
}

const STATE: &str = "state.json";
const PREPARED: &str = ".state.json";

/// The directory of a container that may be half made, or not there at all.
pub fn leftovers(root: &Root, id: &str) -> Result<Option<Container>> {
    check_id(id)?;
    let directory = root.path.join(id);
    // Not by statx(2), after whose first failure std looks whether the kernel has it at all.
    let there = nix::unistd::access(&directory, nix::unistd::AccessFlags::F_OK).is_ok();
    Ok(there.then_some(Container { directory }))
}

/// Opens a container. [`Missing`] when there is none.
pub fn open(root: &Root, id: &str) -> Result<(Container, Record)> {
    check_id(id)?;
    let directory = root.path.join(id);
    let path = directory.join(STATE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Missing.into()),
        Err(error) => return Err(error).with_context(|| format!("read {path:?}")),
    };
    let record = serde_json::from_slice(&text).with_context(|| format!("{path:?}"))?;
    Ok((Container { directory }, record))
}

/// The ids of all containers, sorted; half made ones too. A root that doesn't exist has none, unless
/// it was asked for by name.
pub fn list(root: &Root) -> Result<Vec<String>> {
    let entries = match fs::read_dir(&root.path) {
        Err(error) if error.kind() == ErrorKind::NotFound && !root.explicit => return Ok(vec![]),
        other => other.with_context(|| format!("open state root {:?}", root.path))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("read state root {:?}", root.path))?;
        let name = entry.file_name();
        if let Some(id) = name.to_str().filter(|id| check_id(id).is_ok())
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            ids.push(id.to_owned());
        }
    }
    ids.sort();
    Ok(ids)
}

impl Record {
    /// Whether the container's init is there.
    pub fn alive(&self) -> Result<bool> {
        let stat = host::process_stat(self.init_process_pid)?;
        Ok(stat.is_some_and(|(state, start)| {
            !matches!(state, b'Z' | b'X') && start == self.init_process_start
        }))
    }

    /// The container's state now.
    pub fn status(&self, container: &Container) -> Result<Status> {
        let alive = self.alive()?;
        let frozen = match &self.runz.cgroup {
            Some(path) if alive => cgroup::is_frozen(path)?,
            _ => false,
        };
        Ok(status::status(status::Facts {
            alive,
            frozen,
            // A `start` that was killed may have left the file, but then init no longer has it open.
            waiting: sys::fs::has_reader(&container.fifo()),
        }))
    }

    /// Notes the resctrl groups.
    pub fn set_rdt(&mut self, groups: rdt::Groups) {
        fn text(path: &Path) -> String {
            path.to_string_lossy().into_owned()
        }
        self.intel_rdt_path = text(&groups.group);
        self.intel_rdt_mon_path = groups.monitoring.as_deref().map(text).unwrap_or_default();
        self.runz.rdt_created = groups.created;
        self.runz.rdt_monitoring = groups.monitoring_created;
    }

    /// The state as hooks and the seccomp agent read it (runtime-spec, "State"). `pid` 0 leaves the
    /// key out.
    pub fn spec_state(&self, status: &str, pid: i32) -> Vec<u8> {
        spec_state(
            &self.id,
            status,
            pid,
            &self.runz.bundle,
            &self.runz.annotations,
        )
    }
}

/// See [`Record::spec_state`].
pub fn spec_state(
    id: &str,
    status: &str,
    pid: i32,
    bundle: &str,
    annotations: &BTreeMap<String, String>,
) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct State<'a> {
        oci_version: &'a str,
        id: &'a str,
        status: &'a str,
        #[serde(skip_serializing_if = "zero")]
        pid: i32,
        bundle: &'a str,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: &'a BTreeMap<String, String>,
    }
    fn zero(pid: &i32) -> bool {
        *pid == 0
    }
    let state = State {
        oci_version: crate::cli::SPEC_VERSION,
        id,
        status,
        pid,
        bundle,
        annotations,
    };
    serde_json::to_vec(&state).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_file_names() {
        for id in ["a", "web-1", "A_b+c.d", "..."] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", "a\0"] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn hook_state_has_the_specs_keys() {
        let none = BTreeMap::new();
        let text = spec_state("x", "stopped", 0, "/b", &none);
        let expected = r#"{"ociVersion":"1.3.0","id":"x","status":"stopped","bundle":"/b"}"#;
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
