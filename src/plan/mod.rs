//! What is to be done, decided.
//!
//! [`plan`] turns config.json, the command line and what is known of the machine into a [`Plan`];
//! [`join`] does the same for a process that enters a running container. Both are pure: no I/O, no
//! clock, no file descriptor. Every rule of the runtime spec is checked here, every option string
//! becomes a number here, argv and envp are laid out here, so that the child which carries the plan
//! out (`init`) only walks it: it reads this memory after clone3(2) and allocates nothing.
//!
//! What only the kernel can answer when the container is made (does a mount's target exist in the
//! root file system? is a masked path a directory?) stays an instruction, not a decision.

mod caps;
mod decide;
mod devices;
mod hooks;
mod ids;
mod mounts;
mod namespaces;
mod options;
mod process;
mod rdt;
mod schedule;
mod strings;
mod sysctl;
pub mod text;

use std::ffi::CString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::seccomp;

pub use decide::{Container, join, keyring, plan};
pub use options::MOUNT_OPTIONS;
pub use schedule::{MEMORY_POLICY_FLAGS, MEMORY_POLICY_MODES};
pub use strings::{HOME_SIZE, Strings};
pub use text::clean;

/// A container, decided. Made by [`plan`], carried out by `launch` (parent) and `init` (child).
///
/// `serde`, here and in all that it holds, for the zygote's cache (`zygote::plans`), which keeps plans
/// in postcard's encoding: fields are told apart by their order alone.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// Absolute path of the root file system.
    pub rootfs: CString,
    /// Whether the root file system is mounted read-only at the end (`root.readonly`).
    pub readonly_rootfs: bool,
    /// Leave the old root by MS_MOVE and chroot(2) instead of pivot_root(2) (`--no-pivot`).
    pub no_pivot: bool,
    /// The session keyring to join, `_ses.<id>`; `None` with `--no-new-keyring`.
    pub keyring: Option<CString>,
    /// Namespaces to make and to join.
    pub namespaces: Namespaces,
    /// Maps of a new user namespace; empty when there is none. For one that is joined by path, what
    /// config.json claims its maps to be (engines write both): to be compared, not written.
    pub id_maps: IdMaps,
    /// Lines for `/proc/self/timens_offsets`; empty when there are none.
    pub time_offsets: Vec<u8>,
    /// Propagation (MS_SLAVE, MS_PRIVATE, … with MS_REC) given to `/` of the new mount namespace
    /// before anything is mounted.
    pub propagation: u64,
    /// Propagation (`linux.rootfsPropagation`) of the container's `/` after the pivot; 0 leaves it.
    pub rootfs_propagation: u64,
    /// `mounts`, in config order.
    pub mounts: Vec<Mount>,
    /// The device nodes and links of `/dev`; `None` when the config binds its own `/dev`.
    pub dev: Option<Dev>,
    /// `hostname`.
    pub hostname: Option<CString>,
    /// `domainname`.
    pub domainname: Option<CString>,
    /// `linux.sysctl`.
    pub sysctls: Vec<Sysctl>,
    /// `linux.mountLabel`, for mounts that no config line asks for.
    pub mount_label: Option<CString>,
    /// `linux.maskedPaths`.
    pub masked_paths: Vec<CString>,
    /// `linux.readonlyPaths`.
    pub readonly_paths: Vec<CString>,
    /// The program; `None` when the config has no `process` (allowed until `start`).
    pub process: Option<Process>,
    /// `linux.seccomp`, compiled.
    pub seccomp: Option<seccomp::Program>,
    /// `hooks`.
    pub hooks: Hooks,
    /// `linux.cgroupsPath`, as written; the driver resolves it.
    pub cgroups_path: Option<PathBuf>,
    /// `linux.resources`, converted.
    pub resources: cgroup::Settings,
    /// Give the cgroup to this host uid and gid: set with a user namespace, a private cgroup
    /// namespace and a writable cgroup mount.
    pub delegate: Option<(u32, u32)>,
    /// `linux.netDevices`: host interface name and its name in the container.
    pub net_devices: Vec<(String, String)>,
    /// `linux.intelRdt`.
    pub intel_rdt: Option<IntelRdt>,
    /// Things to say once, which change nothing (an unknown capability, …).
    pub warnings: Vec<String>,
}

/// What the command line says, as far as the plan depends on it. `serde` leaves out what is never the
/// same twice.
#[derive(Default, Serialize, Deserialize)]
pub struct Options {
    /// The container's id.
    #[serde(skip)]
    pub id: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--preserve-fds`.
    pub preserve_fds: u32,
    /// LISTEN_FDS, when LISTEN_PID names this process.
    pub listen_fds: u32,
    /// The state directory's `notify` folder, to be bound at /run/notify, when NOTIFY_SOCKET is set.
    #[serde(skip)]
    pub notify: Option<PathBuf>,
    /// Errors of cgroup permissions are forgiven, mknod(2) is not tried, …
    pub rootless: bool,
}

/// `linux.namespaces`.
#[derive(Default, Serialize, Deserialize)]
pub struct Namespaces {
    /// CLONE_NEW* flags of the namespaces to make, among them CLONE_NEWCGROUP and CLONE_NEWTIME.
    pub new: u64,
    /// Namespaces to join, in config order.
    pub join: Vec<JoinNamespace>,
}

/// A namespace that is joined by path.
#[derive(Serialize, Deserialize)]
pub struct JoinNamespace {
    /// Its CLONE_NEW* flag.
    pub kind: u64,
    /// Absolute path of an nsfs file.
    pub path: CString,
    /// Its index in `linux.namespaces`.
    pub index: usize,
}

impl Namespaces {
    /// Whether the container has its own namespace of that kind, made or joined by path.
    pub fn has(&self, kind: u64) -> bool {
        self.new & kind != 0 || self.join.iter().any(|j| j.kind == kind)
    }
}

/// The maps of a new user namespace (user_namespaces(7)).
#[derive(Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// `linux.uidMappings`.
    pub uid: Vec<IdMap>,
    /// `linux.gidMappings`.
    pub gid: Vec<IdMap>,
}

/// One line of a uid_map or gid_map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdMap {
    /// First id inside.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// One entry of `mounts`.
#[derive(Serialize, Deserialize)]
pub struct Mount {
    /// Its index in `mounts`.
    pub index: usize,
    /// Where, absolute, resolved inside the root file system.
    pub destination: CString,
    /// What.
    pub kind: MountKind,
    /// MOUNT_ATTR_* to set on the new mount. The access-time class is in here too; see
    /// mount_setattr(2).
    pub set: u64,
    /// MOUNT_ATTR_* that an option cleared by name (`rw`, `exec`, …). Has MOUNT_ATTR__ATIME when an
    /// option named the access-time class, which is in `set` then.
    pub clear: u64,
    /// Further MOUNT_ATTR_* to clear, because the options of a bind (or of a remount) replace the
    /// attributes of what is bound instead of adding to them, as with mount(8). Those of them that
    /// are locked in a user namespace stay: if mount_setattr(2) says EPERM, try without. 0 for a new
    /// mount, and for a bind without any such option.
    pub replace: u64,
    /// MOUNT_ATTR_* to set on the whole tree (`rro`, `rnosuid`, …).
    pub set_recursive: u64,
    /// MOUNT_ATTR_* to clear on the whole tree (`rrw`, …).
    pub clear_recursive: u64,
    /// Propagation changes in the given order: MS_PRIVATE, MS_SHARED, … perhaps with MS_REC.
    pub propagation: Vec<u64>,
    /// `remount`: change the flags of the mount that is already there.
    pub remount: bool,
    /// `tmpcopyup`: the tmpfs starts with a copy of what it covers.
    pub copy_up: bool,
    /// Make it read-only at the very end: a tmpfs or `/dev` with `ro`, which setup still writes to.
    pub readonly_late: bool,
    /// It goes over /proc or one of the few files below it that may be covered. Another mount whose
    /// target turns out to be on a procfs (by way of a symbolic link) is to be refused; so is a bind
    /// at /proc of anything but a procfs.
    pub over_proc: bool,
    /// The SELinux label to set on the root of the new mount afterwards: an mqueue doesn't take
    /// `context`.
    pub relabel: Option<CString>,
    /// `idmap`, `ridmap` or `uidMappings`: maps of the mount. The parent makes the tree.
    pub idmap: Option<IdMapMount>,
}

/// Maps of an idmapped mount (mount_setattr(2), MOUNT_ATTR_IDMAP).
#[derive(Serialize, Deserialize)]
pub struct IdMapMount {
    /// Container id → id on disk, as the spec words it; `None`: the container's own user namespace.
    pub maps: Option<IdMaps>,
    /// The whole tree (`ridmap`).
    pub recursive: bool,
}

/// What is mounted.
#[derive(Serialize, Deserialize)]
pub enum MountKind {
    /// A part of the host's tree.
    Bind {
        /// Absolute path on the host.
        source: CString,
        /// With everything mounted below it (`rbind`).
        recursive: bool,
    },
    /// A new instance of a file system.
    New {
        /// `type`.
        fstype: CString,
        /// `source`, `none` when absent.
        source: CString,
        /// File-system options as key and value, for fsconfig(2); superblock flags (`ro`, `sync`,
        /// …) are among them as keys.
        options: Vec<(CString, Option<CString>)>,
        /// The same options and flags for mount(2), which has no limit of 256 bytes a value: its
        /// data string and all its MS_* flags (MS_NOSUID, … too; without MS_RDONLY when
        /// `readonly_late`). `Some` only when fsconfig(2) can't say it: an option is too long, or it
        /// is `silent` or `iversion`.
        legacy: Option<(CString, u64)>,
    },
    /// cgroup2; falls back to a bind of the container's own cgroup where it can't be mounted.
    Cgroup {
        /// cgroup2 options (`nsdelegate`, …).
        options: Vec<(CString, Option<CString>)>,
    },
}

/// `/dev`: what the runtime puts there.
#[derive(Serialize, Deserialize)]
pub struct Dev {
    /// Default nodes and `linux.devices`.
    pub nodes: Vec<Node>,
    /// The host has /proc/kcore: link /dev/core to it.
    pub core: bool,
    /// Nodes can't be made by mknod(2) in a user namespace: bind the host's.
    pub bind: bool,
}

/// A device node.
#[derive(Serialize, Deserialize)]
pub struct Node {
    /// Absolute path in the container.
    pub path: CString,
    /// S_IFCHR, S_IFBLK or S_IFIFO and the permissions.
    pub mode: u32,
    /// Major and minor packed as makedev(3).
    pub dev: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Its index in `linux.devices`; `None`: one of the default nodes.
    pub index: Option<usize>,
}

/// One `linux.sysctl`.
#[derive(Serialize, Deserialize)]
pub struct Sysctl {
    /// As written in the config, for messages.
    pub key: String,
    /// Path below `/proc`.
    pub path: CString,
    /// What is written.
    pub value: Vec<u8>,
}

/// A process of the container: `process`, or what `exec` starts.
#[derive(Serialize, Deserialize)]
pub struct Process {
    /// `args`.
    pub args: Strings,
    /// `env`, last of equal keys; made by [`Strings::with_home`] when HOME is not among them.
    pub env: Strings,
    /// The paths at which the program may be: `args[0]` itself when it has a slash, else one for
    /// each directory of PATH.
    pub candidates: Vec<CString>,
    /// `cwd`, absolute.
    pub cwd: CString,
    /// `user.uid`.
    pub uid: u32,
    /// `user.gid`.
    pub gid: u32,
    /// `user.additionalGids`; `None` leaves the caller's groups (setgroups(2) denied).
    pub groups: Option<Vec<u32>>,
    /// `user.umask`, 0o022 when absent.
    pub umask: u32,
    /// `capabilities`; `None`: absent, the runtime's own set is left.
    pub capabilities: Option<Capabilities>,
    /// `noNewPrivileges`.
    pub no_new_privileges: bool,
    /// `rlimits`.
    pub rlimits: Vec<Rlimit>,
    /// `oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
    /// `scheduler`, as sched_setattr(2) takes it.
    pub scheduler: Option<Scheduler>,
    /// `ioPriority`, as ioprio_set(2) takes it.
    pub io_priority: Option<i32>,
    /// `execCPUAffinity`; only for `exec`.
    pub cpu_affinity: CpuAffinity,
    /// `linux.memoryPolicy`.
    pub memory_policy: Option<MemoryPolicy>,
    /// `linux.personality`, as personality(2) takes it.
    pub personality: Option<u64>,
    /// `terminal`.
    pub terminal: bool,
    /// `consoleSize`: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// `apparmorProfile` as it is written to the kernel: `exec <profile>`.
    pub apparmor: Option<CString>,
    /// `selinuxLabel`.
    pub selinux: Option<CString>,
    /// How many file descriptors from 3 on survive: LISTEN_FDS and `--preserve-fds`.
    pub preserve_fds: u32,
}

/// Capability sets as bit masks (capabilities(7)), bit N = capability N.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// One `process.rlimits`.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Rlimit {
    /// RLIMIT_*.
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
    /// Its index in `process.rlimits`.
    pub index: usize,
}

impl Rlimit {
    /// Whether it can't stop what init does between its last mount and execve(2): so it need not be
    /// set at the very end.
    pub fn is_harmless(&self) -> bool {
        /// More descriptors than init has open by then.
        const DESCRIPTORS: u64 = 64;
        match i64::from(self.resource) {
            n if n == i64::from(libc::RLIMIT_NOFILE) => self.soft >= DESCRIPTORS,
            n => [
                libc::RLIMIT_CORE,
                libc::RLIMIT_MEMLOCK,
                libc::RLIMIT_MSGQUEUE,
                libc::RLIMIT_NPROC,
                libc::RLIMIT_SIGPENDING,
            ]
            .iter()
            .any(|resource| n == i64::from(*resource)),
        }
    }
}

/// `process.scheduler` (sched_setattr(2)); times in nanoseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Scheduler {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// A set of CPUs as sched_setaffinity(2) takes it: bit N of the bytes = CPU N.
pub type CpuMask = Vec<u8>;

/// `process.execCPUAffinity`.
#[derive(Default, Serialize, Deserialize)]
pub struct CpuAffinity {
    /// While the runtime's child is not yet in the cgroup.
    pub initial: Option<CpuMask>,
    /// When the program runs; `None` resets to all CPUs of the cgroup.
    pub last: Option<CpuMask>,
}

/// `linux.memoryPolicy` (set_mempolicy(2)).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// MPOL_* with MPOL_F_* flags.
    pub mode: i32,
    /// Node mask, bit N of word N/64.
    pub nodes: Vec<u64>,
}

/// `hooks`, each with the array order of the config.
#[derive(Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

/// One hook. `serde`, because the Record keeps those that run after `create`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: String,
    /// argv, `path` alone when empty.
    #[serde(default)]
    pub args: Vec<String>,
    /// The whole environment; `None`: inherited (see runc-compatibility 2.2a).
    #[serde(default)]
    pub env: Option<Vec<String>>,
    /// Seconds after which it is killed.
    #[serde(default)]
    pub timeout: Option<u64>,
}

/// `linux.intelRdt`.
#[derive(Default, Serialize, Deserialize)]
pub struct IntelRdt {
    /// Group below the resctrl mount: `closID` or the container's id.
    pub group: String,
    /// Whether `closID` was given (then an existing group is used).
    pub named: bool,
    /// What is written to `schemata`, in one write(2); empty: nothing.
    pub schemata: String,
    /// `enableMonitoring`: the container's own `mon_groups/<id>`.
    pub monitoring: bool,
}

#[cfg(test)]
pub mod tests;
