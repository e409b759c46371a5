//! What the global flags mean for this caller: pure functions of the flags and [`Caller`].

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};

use super::{CgroupManager, Global, Rootless};

/// Who calls: all that the decisions here depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// geteuid(2).
    pub euid: u32,
    /// Whether the caller is in a user namespace other than the initial one.
    pub in_userns: bool,
    /// `$USER`.
    pub user: Option<OsString>,
    /// `$XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<OsString>,
    /// getcwd(2).
    pub cwd: PathBuf,
}

/// The directory of all containers' states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Absolute, without `.` and `..`.
    pub path: PathBuf,
    /// Given by `--root`: then `list` wants it to exist.
    pub explicit: bool,
    /// Under `$XDG_RUNTIME_DIR`: to be made with mode 01700, as the sticky bit keeps
    /// systemd-tmpfiles from pruning it (XDG base directory specification).
    pub sticky: bool,
}

impl Global {
    /// The state root: `--root`, `$XDG_RUNTIME_DIR/runz` for a rootless caller, or `/run/runz`.
    ///
    /// Fails if `--root` comes out as `/`.
    pub fn root(&self, caller: &Caller) -> Result<Root> {
        if let Some(root) = &self.root {
            let path = absolute(&caller.cwd, root);
            if path == Path::new("/") {
                bail!("Option --root argument should not be set to /");
            }
            return Ok(Root {
                path,
                explicit: true,
                sticky: false,
            });
        }
        match &caller.xdg_runtime_dir {
            Some(dir) if !dir.is_empty() && caller.keeps_to_itself() => {
                let path = absolute(&caller.cwd, &Path::new(dir).join("runz"));
                Ok(Root {
                    path,
                    explicit: false,
                    sticky: true,
                })
            }
            _ => Ok(Root {
                path: "/run/runz".into(),
                explicit: false,
                sticky: false,
            }),
        }
    }

    /// Whether permission errors on cgroups are ignored.
    ///
    /// `systemd_owner` is asked only for root in a user namespace with the systemd driver: the uid that
    /// systemd's user instance runs as, seen from the initial namespace; `None` if it can't be told.
    pub fn rootless_cgroups(
        &self,
        caller: &Caller,
        systemd_owner: impl FnOnce() -> Option<u32>,
    ) -> bool {
        match self.rootless {
            Rootless::True => true,
            Rootless::False => false,
            Rootless::Auto if caller.euid != 0 => true,
            Rootless::Auto if !caller.in_userns => false,
            Rootless::Auto if self.cgroups() == CgroupManager::Systemd => {
                systemd_owner().unwrap_or(0) != 0
            }
            Rootless::Auto => true,
        }
    }

    /// Who makes the cgroups. `--cgroup-manager` wins over `--systemd-cgroup`.
    pub fn cgroups(&self) -> CgroupManager {
        match (self.cgroup_manager, self.systemd_cgroup) {
            (Some(manager), _) => manager,
            (None, true) => CgroupManager::Systemd,
            (None, false) => CgroupManager::Cgroupfs,
        }
    }
}

impl Caller {
    /// Whether state belongs into the user's own directory: not for real root, whose
    /// `$XDG_RUNTIME_DIR` may be a leftover of su(1), nor for `USER=root` in a user namespace.
    fn keeps_to_itself(&self) -> bool {
        self.euid != 0 || (self.in_userns && self.user.as_ref().is_none_or(|user| user != "root"))
    }
}

/// `path` seen from `cwd`, with `.` and `..` taken out by name only (Go's `filepath.Abs`).
pub fn absolute(cwd: &Path, path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in cwd.join(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_user() -> Caller {
        Caller {
            euid: 0,
            in_userns: false,
            user: None,
            xdg_runtime_dir: None,
            cwd: "/home/me".into(),
        }
    }

    #[test]
    fn root_is_the_default_one_or_the_users() {
        let xdg = Some(OsString::from("/run/user/7"));
        let table = [
            // euid, in a userns, USER, XDG_RUNTIME_DIR, expected
            (0, false, None, None, "/run/runz"),
            (0, false, None, xdg.clone(), "/run/runz"),
            (7, false, None, xdg.clone(), "/run/user/7/runz"),
            (7, false, None, None, "/run/runz"),
            (7, false, None, Some(OsString::new()), "/run/runz"),
            (7, false, Some("root"), xdg.clone(), "/run/user/7/runz"),
            (0, true, None, xdg.clone(), "/run/user/7/runz"),
            (0, true, Some("me"), xdg.clone(), "/run/user/7/runz"),
            (0, true, Some("root"), xdg.clone(), "/run/runz"),
        ];
        for (euid, in_userns, user, xdg_runtime_dir, path) in table {
            let caller = Caller {
                euid,
                in_userns,
                user: user.map(OsString::from),
                xdg_runtime_dir,
                ..root_user()
            };
            let root = Global::default().root(&caller).unwrap();
            let sticky = path != "/run/runz";
            assert_eq!(
                root,
                Root {
                    path: path.into(),
                    explicit: false,
                    sticky
                },
                "{caller:?}"
            );
        }
    }

    #[test]
    fn root_is_made_absolute() {
        let root = |root: &str| {
            Global {
                root: Some(root.into()),
                ..Global::default()
            }
            .root(&root_user())
        };
        for (given, path) in [
            ("/x", "/x"),
            ("x", "/home/me/x"),
            ("./x/", "/home/me/x"),
            ("../x", "/home/x"),
            ("/a/../../b//c/.", "/b/c"),
        ] {
            assert_eq!(
                root(given).unwrap(),
                Root {
                    path: path.into(),
                    explicit: true,
                    sticky: false
                }
            );
        }
        for given in ["/", "../..", "../../..", "/x/.."] {
            let error = root(given).unwrap_err().to_string();
            assert_eq!(error, "Option --root argument should not be set to /");
        }
    }

    #[test]
    fn rootless_is_told_or_guessed() {
        use CgroupManager::{Cgroupfs, Systemd};
        let table = [
            // --rootless, euid, in a userns, driver, owner, expected
            (Rootless::True, 0, false, Cgroupfs, None, true),
            (Rootless::False, 7, true, Cgroupfs, None, false),
            (Rootless::Auto, 7, false, Cgroupfs, None, true),
            (Rootless::Auto, 0, false, Cgroupfs, None, false),
            (Rootless::Auto, 0, true, Cgroupfs, None, true),
            (Rootless::Auto, 0, true, Systemd, Some(7), true),
            (Rootless::Auto, 0, true, Systemd, Some(0), false),
            (Rootless::Auto, 0, true, Systemd, None, false),
        ];
        for (rootless, euid, in_userns, manager, owner, expected) in table {
            let global = Global {
                rootless,
                cgroup_manager: Some(manager),
                ..Global::default()
            };
            let caller = Caller {
                euid,
                in_userns,
                ..root_user()
            };
            let asks = euid == 0 && in_userns && manager == Systemd && rootless == Rootless::Auto;
            let is = global.rootless_cgroups(&caller, || {
                assert!(asks, "systemd was asked for nothing");
                owner
            });
            assert_eq!(is, expected, "{global:?} {caller:?}");
        }
    }

    #[test]
    fn cgroup_manager_wins_over_systemd_cgroup() {
        use CgroupManager::{Cgroupfs, Disabled, Systemd};
        for (cgroup_manager, systemd_cgroup, expected) in [
            (None, false, Cgroupfs),
            (None, true, Systemd),
            (Some(Disabled), true, Disabled),
            (Some(Cgroupfs), true, Cgroupfs),
            (Some(Systemd), false, Systemd),
        ] {
            let global = Global {
                cgroup_manager,
                systemd_cgroup,
                ..Global::default()
            };
            assert_eq!(global.cgroups(), expected);
        }
    }
}
