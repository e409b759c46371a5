//! Making a container's cgroup.
//!
//! The usual case costs one mkdir and one open. What takes a look at every ancestor, to switch
//! controllers on and to check the cgroups' types, is put off until something is missing, or
//! until the container is on its way: [`Cgroup::complete`].

use std::fs::{Permissions, set_permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkdir;

use super::{Cgroup, Hierarchy, Request, Settings, failed, settings};

/// Makes the cgroup with the cgroupfs driver; see [`super::Place::create`].
pub(super) fn for_container(
    hierarchy: &Hierarchy,
    path: &Path,
    request: &Request,
) -> Result<Option<Cgroup>> {
    let without_path = request
        .cgroups_path
        .is_none_or(|path| path.as_os_str().is_empty());
    match Cgroup::create(hierarchy, path, request.settings) {
        Ok(cgroup) => {
            let shared = request.rootless && without_path;
            match cgroup.refuse_if_used(shared) {
                Ok(()) => Ok(Some(cgroup)),
                Err(error) => {
                    cgroup.discard();
                    Err(error)
                }
            }
        }
        Err(error) if request.rootless && without_path => {
            if request.settings.writes.is_empty() {
                return Ok(None);
            }
            Err(error.context(
                "rootless needs no limits + no cgrouppath when no permission is granted for cgroups",
            ))
        }
        Err(error) => Err(error.context("unable to apply cgroup configuration")),
    }
}

impl Cgroup {
    /// If its directory was made for it: gives it the mode that it would have, had somebody with this umask
    /// made it.
    pub fn remask(&self, umask: u32) -> Result<()> {
        if !self.is_new() {
            return Ok(());
        }
        set_permissions(&self.path, Permissions::from_mode(0o755 & !umask))
            .with_context(|| format!("chmod {}", self.path.display()))
    }

    /// Makes the directory `path` and what is missing above it. On failure the directories made
    /// are removed again.
    pub fn create(hierarchy: &Hierarchy, path: &Path, settings: &Settings) -> Result<Cgroup> {
        // Nor the root itself, which would be frozen, killed and removed with the container.
        if !path.starts_with(&hierarchy.mount) || path == hierarchy.mount {
            bail!(
                "cgroup {}: not below {}",
                path.display(),
                hierarchy.mount.display()
            );
        }
        let mut created = Vec::new();
        let made = make(path, &mut created)
            .map_err(|(path, errno)| failed(format_args!("mkdir {}", path.display()), errno))
            .and_then(|()| {
                let mut cgroup = Cgroup::open_raw(path.to_owned())
                    .map_err(|errno| failed(format_args!("open {}", path.display()), errno))?;
                cgroup.mount = Some(hierarchy.mount.clone());
                // A parent that is new itself has no controller switched on for its children.
                if created.len() > 1 {
                    cgroup.complete(settings)?;
                }
                Ok(cgroup)
            });
        match made {
            Ok(cgroup) => Ok(Cgroup { created, ..cgroup }),
            Err(error) => {
                remove_created(&created);
                Err(error)
            }
        }
    }

    /// Sees to it that the cgroup has all controllers of the hierarchy, so that all statistics are
    /// there, and that it is of a type that takes processes. Controllers that cannot be had are
    /// no error here; a setting that needs one is, in [`apply`](Self::apply), which calls this
    /// itself when a file is missing.
    ///
    /// To be called once the container's init is on its way, as nothing there waits for it; and
    /// before a second attempt when `clone3(CLONE_INTO_CGROUP)` says EOPNOTSUPP.
    ///
    /// Does nothing to a cgroup that was only opened.
    pub fn complete(&self, settings: &Settings) -> Result<()> {
        let Some(mount) = &self.mount else {
            return Ok(());
        };
        let available = read(&mount.join("cgroup.controllers"))
            .with_context(|| format!("no cgroup v2 hierarchy at {}", mount.display()))?;
        let own = self.read("cgroup.controllers").unwrap_or_default();
        // A threaded cgroup has no domain controllers: one that has is of the right type.
        if own == available && settings::has_domain_controller(&own) {
            return Ok(());
        }
        let mut current = mount.clone();
        let below = self.path.strip_prefix(mount).unwrap_or(Path::new(""));
        for name in below {
            enable(&current);
            current.push(name);
            settle_type(&current, settings)?;
        }
        Ok(())
    }

    /// Whether the cgroup was made here, so that nobody else can be in it.
    pub fn is_new(&self) -> bool {
        self.created.last() == Some(&self.path)
    }

    /// Takes back [`create`](Self::create): removes the directories that it made, and only those.
    pub fn discard(self) {
        remove_created(&self.created);
    }

    /// Refuses a cgroup that was there before and has processes: two containers in one cgroup
    /// would freeze and kill each other. Or that is frozen: init would never get to its first
    /// instruction.
    fn refuse_if_used(&self, may_be_shared: bool) -> Result<()> {
        if self.is_new() || may_be_shared {
            return Ok(());
        }
        let count = self.pids()?.len();
        if count > 0 {
            bail!("container's cgroup is not empty: {count} process(es) found");
        }
        if self.is_frozen()? {
            bail!("container's cgroup unexpectedly frozen");
        }
        Ok(())
    }
}

/// Makes `path`, and its parents if they are missing. What was made goes into `created`.
fn make(path: &Path, created: &mut Vec<PathBuf>) -> Result<(), (PathBuf, Errno)> {
    let mode = Mode::S_IRWXU | Mode::S_IRGRP | Mode::S_IXGRP | Mode::S_IROTH | Mode::S_IXOTH;
    match mkdir(path, mode) {
        Ok(()) => {
            created.push(path.to_owned());
            Ok(())
        }
        Err(Errno::EEXIST) => Ok(()),
        Err(Errno::ENOENT) => match path.parent() {
            Some(parent) => {
                make(parent, created)?;
                make_again(path, mode, created)
            }
            None => Err((path.to_owned(), Errno::ENOENT)),
        },
        Err(errno) => Err((path.to_owned(), errno)),
    }
}

/// After the parent was made. ENOENT now means that somebody removed it: no second round.
fn make_again(path: &Path, mode: Mode, created: &mut Vec<PathBuf>) -> Result<(), (PathBuf, Errno)> {
    match mkdir(path, mode) {
        Ok(()) => {
            created.push(path.to_owned());
            Ok(())
        }
        Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err((path.to_owned(), errno)),
    }
}

fn remove_created(created: &[PathBuf]) {
    for path in created.iter().rev() {
        // Somebody may be using it by now, then it stays. The error that led here is what counts.
        let _ = std::fs::remove_dir(path);
    }
}

/// Switches on for the children of `path` what `path` itself has. Not everything can always be:
/// a cgroup with processes cannot, nor one that belongs to someone else.
fn enable(path: &Path) {
    let available = read(&path.join("cgroup.controllers")).unwrap_or_default();
    let control = path.join("cgroup.subtree_control");
    let enabled = read(&control).unwrap_or_default();
    let is_missing = |name: &&str| !enabled.split_whitespace().any(|other| other == *name);
    let missing: Vec<String> = available
        .split_whitespace()
        .filter(is_missing)
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() || std::fs::write(&control, missing.join(" ")).is_ok() {
        return;
    }
    for name in missing {
        let _ = std::fs::write(&control, name);
    }
}

/// A cgroup in a threaded subtree starts as "domain invalid" and takes no process. It can become
/// threaded, but then it has no domain controllers (cgroups(7), "Thread mode").
fn settle_type(path: &Path, settings: &Settings) -> Result<()> {
    let file = path.join("cgroup.type");
    let kind = read(&file).unwrap_or_default();
    let kind = kind.trim_end();
    match kind {
        "domain invalid" if settings.needs_domain() => bail!(
            "cannot enter cgroupv2 {:?} with domain controllers -- it is in an invalid state",
            path.display().to_string()
        ),
        "domain invalid" => {
            // If that is refused, the clone into the cgroup is too, and says so.
            let _ = std::fs::write(&file, "threaded");
            Ok(())
        }
        "domain threaded" | "threaded" if settings.needs_domain() => bail!(
            "cannot enter cgroupv2 {:?} with domain controllers -- it is in {kind} mode",
            path.display().to_string()
        ),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    loop {
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => return result,
        }
    }
}
