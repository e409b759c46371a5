//! A container's cgroup: made, limited, frozen, killed, measured and removed. cgroup v2 only.
//!
//! [`settings`] and [`devices`] decide and are pure; the rest acts. Everything inside a cgroup is
//! reached through the descriptor of its directory, never again by its path: a cgroup of the same
//! name that takes its place meanwhile is not touched.
//!
//! Sources: Documentation/admin-guide/cgroup-v2.rst, cgroups(7), config-linux.md of the OCI
//! runtime specification.

mod apply;
mod create;
pub mod devices;
pub mod events;
mod freeze;
pub mod hierarchy;
mod remove;
pub mod settings;
pub mod stats;
pub mod update;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{read, write};

pub use apply::load_filter;
pub use freeze::is_frozen;
pub use hierarchy::Hierarchy;
pub use remove::remove;
pub use settings::{Settings, settings};

/// Who manages cgroups: `--cgroup-manager`, `--systemd-cgroup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// Directories and files of the cgroup file system.
    #[default]
    Fs,
    /// Units of systemd.
    Systemd,
    /// Nobody: the container stays in the caller's cgroup.
    None,
}

/// What [`Driver::create`] needs to know of a container.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The container's id: the cgroup's name where the config gives none.
    pub id: &'a str,
    /// `linux.cgroupsPath`.
    pub cgroups_path: Option<&'a Path>,
    /// What will be written to the cgroup.
    pub settings: &'a Settings,
    /// Go on without a cgroup where there is no permission for one and none was asked for.
    pub rootless: bool,
}

/// Where the cgroup of a container is to be; nothing is made yet.
#[derive(Debug)]
pub struct Place {
    hierarchy: Hierarchy,
    path: PathBuf,
}

impl Driver {
    /// Finds the place of a new container's cgroup. `None`: it gets none of its own.
    pub fn place(self, request: &Request) -> Result<Option<Place>> {
        match self {
            Driver::Fs => {
                let hierarchy = Hierarchy::find(request.cgroups_path)?;
                let path = hierarchy::path(&hierarchy, request.cgroups_path, request.id);
                Ok(Some(Place { hierarchy, path }))
            }
            Driver::Systemd => bail!("the systemd cgroup driver is not yet in this build"),
            Driver::None => match request.settings.writes.first() {
                // Device rules may stand: engines send them always, and they are no resource.
                None => Ok(None),
                Some(write) => bail!("{}: cgroups are disabled", write.json),
            },
        }
    }
}

impl Place {
    /// The cgroup's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the cgroup. `None`: there is no permission, and a rootless container asks for nothing
    /// that needs one.
    ///
    /// The settings are not yet written: see [`Cgroup::apply`].
    pub fn create(&self, request: &Request) -> Result<Option<Cgroup>> {
        create::for_container(&self.hierarchy, &self.path, request)
    }
}

/// One cgroup, open.
#[derive(Debug)]
pub struct Cgroup {
    /// Its directory.
    pub path: PathBuf,
    dir: OwnedFd,
    /// Where the hierarchy is mounted, if the cgroup comes from [`create`](Self::create).
    mount: Option<PathBuf>,
    /// The directories that were made for it, the outermost first.
    created: Vec<PathBuf>,
}

impl Cgroup {
    /// Opens an existing cgroup.
    pub fn open(path: &Path) -> Result<Cgroup> {
        match Cgroup::open_raw(path.to_owned()) {
            Err(Errno::ENOENT) => Err(failed(
                format_args!("cgroup not exist: {}", path.display()),
                Errno::ENOENT,
            )),
            Err(errno) => Err(failed(
                format_args!("open cgroup {}", path.display()),
                errno,
            )),
            Ok(cgroup) => Ok(cgroup),
        }
    }

    /// The directory, for `clone3(CLONE_INTO_CGROUP)`.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Opens a cgroup below this one; `sub` is taken from here and never leads out.
    pub fn sub(&self, sub: &str) -> Result<Cgroup> {
        if Path::new(sub)
            .components()
            .any(|part| part == std::path::Component::ParentDir)
        {
            bail!("bad sub cgroup path: {sub}");
        }
        Cgroup::open(&self.path.join(sub.trim_start_matches('/')))
    }

    /// Moves a process here.
    #[cfg(test)]
    pub fn join(&self, pid: i32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
            .map_err(|errno| self.failed(format_args!("move process {pid}"), errno))
    }

    fn open_raw(path: PathBuf) -> Result<Cgroup, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(&path, flags, Mode::empty())?;
        Ok(Cgroup {
            path,
            dir,
            mount: None,
            created: Vec::new(),
        })
    }

    fn open_file(&self, file: &str, access: OFlag) -> Result<OwnedFd, Errno> {
        let flags = access | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.dir, file, flags, Mode::empty())
    }

    /// The memory nodes that its processes may use, as a list (cpuset(7)); `None`: there's no cpuset
    /// controller.
    pub fn memory_nodes(&self) -> Option<String> {
        self.read("cpuset.mems.effective").ok()
    }

    /// The content of a file of the cgroup.
    fn read(&self, file: &str) -> Result<String, Errno> {
        read_all(self.open_file(file, OFlag::O_RDONLY)?.as_fd())
    }

    /// Writes a value: cgroup files take one value a write(2), whole or not at all.
    fn write(&self, file: &str, value: &str) -> Result<(), Errno> {
        let file = self.open_file(file, OFlag::O_WRONLY)?;
        loop {
            match write(&file, value.as_bytes()) {
                Err(Errno::EINTR) => continue,
                result => return result.map(drop),
            }
        }
    }

    /// The value behind `key` in a file of lines `key value`.
    fn keyed(&self, file: &str, key: &str) -> Result<Option<u64>, Errno> {
        Ok(find_key(&self.read(file)?, key))
    }

    fn failed(&self, what: std::fmt::Arguments, errno: Errno) -> anyhow::Error {
        failed(
            format_args!("cgroup {}: {what}", self.path.display()),
            errno,
        )
    }
}

/// `what: no such file or directory (ENOENT)`. The text of the errno is in lower case, as Go
/// writes it: callers of runc look for `permission denied` and `no such process`.
fn failed(what: std::fmt::Arguments, errno: Errno) -> anyhow::Error {
    anyhow!("{what}: {}", crate::sys::words(errno))
}

fn find_key(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        if name == key {
            value.trim().parse().ok()
        } else {
            None
        }
    })
}

fn read_all(file: BorrowedFd) -> Result<String, Errno> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match read(file, &mut buffer) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&buffer[..length]),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod controller_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tree_tests;
