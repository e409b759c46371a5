//! Removing a cgroup, and giving one away.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use super::{Cgroup, failed};

/// How often, and how long at first, a cgroup is given time to empty: a killed process counts
/// until it has let go of its memory. Each wait is twice the one before: ten seconds in all.
const ATTEMPTS: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(10);

/// What a container's root must own to manage its own cgroups, on kernels that do not say
/// themselves in `/sys/kernel/cgroup/delegate`.
const DELEGATE: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// Removes the cgroup at `path` and all below. None there is fine too. Waits for processes that
/// are on their way out, up to ten seconds; kills none.
pub fn remove(path: &Path) -> Result<()> {
    // The usual case: no processes, no cgroups below.
    match rmdir(path) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EBUSY | Errno::ENOTEMPTY) => {}
        Err(errno) => {
            return Err(failed(
                format_args!("remove cgroup {}", path.display()),
                errno,
            ));
        }
    }
    match Cgroup::open_raw(path.to_owned()) {
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(failed(
            format_args!("open cgroup {}", path.display()),
            errno,
        )),
        Ok(cgroup) => cgroup.remove(),
    }
}

impl Cgroup {
    /// As [`remove`], when the cgroup is open already.
    pub fn remove(&self) -> Result<()> {
        let mut wait = FIRST_WAIT;
        let mut was_empty = false;
        for _ in 1..ATTEMPTS {
            match self.remove_tree() {
                Err(Errno::EBUSY | Errno::ENOTEMPTY) => {}
                result => {
                    return result.map_err(|errno| self.failed(format_args!("remove"), errno));
                }
            }
            match self.wait_for("populated", 0, wait) {
                // The last process is gone: try again at once, but not in a tight loop.
                Ok(true) if !was_empty => was_empty = true,
                Ok(false) => {}
                _ => std::thread::sleep(wait),
            }
            wait *= 2;
        }
        self.remove_tree()
            .map_err(|errno| match self.pids().unwrap_or_default().as_slice() {
                [] => self.failed(format_args!("remove"), errno),
                [first, rest @ ..] => self.failed(
                    format_args!(
                        "remove: process {first} and {} more are still in it",
                        rest.len()
                    ),
                    errno,
                ),
            })
    }

    /// Gives the cgroup to the root of a user namespace (cgroup-v2.rst, "Delegation
    /// Containment"): the directory and the files that only move processes and controllers
    /// within, never the limits.
    pub fn delegate_chown(&self, uid: u32, gid: u32) -> Result<()> {
        let list = std::fs::read_to_string("/sys/kernel/cgroup/delegate");
        let list = list.as_deref().unwrap_or(DELEGATE);
        for file in [""].into_iter().chain(list.lines()) {
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH;
            let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            match fchownat(&self.dir, file, owner, group, flags) {
                // Not every cgroup has every file of the list.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => {
                    return Err(self.failed(format_args!("give {file:?} to {uid}:{gid}"), errno));
                }
            }
        }
        Ok(())
    }

    /// The cgroups directly below.
    pub(super) fn children(&self) -> Result<Vec<Cgroup>, Errno> {
        let mut children = Vec::new();
        for name in self.names(Type::Directory)? {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            match openat(&self.dir, name.as_str(), flags, Mode::empty()) {
                Ok(dir) => {
                    let path = self.path.join(&name);
                    children.push(Cgroup {
                        path,
                        dir,
                        mount: None,
                        created: Vec::new(),
                    });
                }
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(children)
    }

    /// The names of this type in the directory.
    pub(super) fn names(&self, kind: Type) -> Result<Vec<String>, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&self.dir, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if entry.file_type() == Some(kind) && name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }

    /// One round of removal, the deepest first.
    fn remove_tree(&self) -> Result<(), Errno> {
        for child in self.children()? {
            child.remove_tree()?;
        }
        match rmdir(&self.path) {
            Err(Errno::ENOENT) => Ok(()),
            result => result,
        }
    }
}

fn rmdir(path: &Path) -> Result<(), Errno> {
    unlinkat(nix::fcntl::AT_FDCWD, path, UnlinkatFlags::RemoveDir)
}
