//! The two bundles that are measured, as config.json documents.
//!
//! `spec` is what `runc spec` writes on a cgroup v2 host, without the terminal.
//! `podman` is what podman 4.3 writes for `podman create --network none` (seen in
//! its userdata/config.json), with its resolv.conf. All runtimes get the same documents.
//!
//! Two things depend on the host. Resource limits are capped at the driver's own hard limits,
//! since raising them needs CAP_SYS_RESOURCE. podman's pids limit is left out
//! where cgroup v2 has no pids controller.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::profile;
use crate::sys;

/// Which of the two bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The `spec` command's template.
    Spec,
    /// A bundle like podman's.
    Podman,
    /// Python with numpy, of the host's /usr.
    Python,
}

impl Kind {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Spec => "spec",
            Kind::Podman => "podman",
            Kind::Python => "python",
        }
    }
}

/// Where everything of one run lives, and what the bundles take from the host.
pub struct Home {
    /// The run's temporary directory, a tmpfs.
    pub dir: PathBuf,
    /// The prefix of all container ids and cgroups of this run.
    pub prefix: String,
    /// podman's resolved seccomp profile; none where its package is not installed.
    pub seccomp: Option<Value>,
    /// Whether the cgroup v2 hierarchy has the pids controller.
    pub pids: bool,
}

impl Home {
    /// Fills the temporary directory: the root file system and the files podman binds.
    ///
    /// # Errors
    /// What could not be written, or that Debian's busybox-static is missing.
    pub fn fill(&self) -> Result<()> {
        let root = self.rootfs();
        for dir in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
            fs::create_dir_all(root.join(dir))
                .with_context(|| format!("create {dir} in rootfs"))?;
        }
        // Debian's busybox-static is the only static one of the usual places.
        fs::copy("/bin/busybox", root.join("bin/busybox"))
            .context("copy /bin/busybox (package busybox-static)")?;
        for name in ["sh", "sleep", "true"] {
            symlink("busybox", root.join("bin").join(name))?;
        }
        let python = self.dir.join("python");
        for dir in [
            "dev",
            "etc/alternatives",
            "proc",
            "run",
            "sys",
            "tmp",
            "usr",
        ] {
            fs::create_dir_all(python.join(dir))
                .with_context(|| format!("create {dir} for python"))?;
        }
        for link in ["bin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), python.join(link))?;
        }
        let files = self.dir.join("files");
        fs::create_dir_all(files.join("shm")).context("create the files of podman's mounts")?;
        for (name, text) in [
            ("hosts", "127.0.0.1 localhost\n"),
            ("resolv.conf", "nameserver 127.0.0.1\n"),
            ("hostname", "bench\n"),
            ("containerenv", ""),
        ] {
            fs::write(files.join(name), text).with_context(|| format!("write {name}"))?;
        }
        Ok(())
    }

    /// Writes a bundle for the container `id` that runs `args`; its directory.
    ///
    /// # Errors
    /// What could not be written.
    pub fn bundle(&self, kind: Kind, id: &str, args: &[&str]) -> Result<PathBuf> {
        let config = match kind {
            Kind::Spec => self.spec(args),
            Kind::Podman => self.podman(id, args)?,
            Kind::Python => self.python(args),
        };
        let dir = self
            .dir
            .join("bundles")
            .join(format!("{}-{id}", kind.name()));
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let text = serde_json::to_vec(&config).context("print config.json")?;
        fs::write(dir.join("config.json"), text).context("write config.json")?;
        Ok(dir)
    }

    /// The cgroup of this run, below which daemons and podman's containers are.
    pub fn cgroup(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(&self.prefix)
    }

    /// The name of the pool of warm containers of a bundle.
    pub fn pool(&self, kind: Kind) -> String {
        format!("{}-{}", self.prefix, kind.name())
    }

    /// The spec bundle with what a program of the host's needs, to be read only.
    fn python(&self, args: &[&str]) -> Value {
        let mut config = self.spec(args);
        config["root"] = json!({ "path": self.dir.join("python") });
        if let Some(mounts) = config["mounts"].as_array_mut() {
            mounts.push(
                json!({ "destination": "/usr", "type": "bind", "source": "/usr",
                "options": ["bind", "ro", "nosuid", "nodev"] }),
            );
            // Where Debian's libblas and liblapack are found.
            mounts.push(json!({ "destination": "/etc/alternatives", "type": "bind",
                "source": "/etc/alternatives", "options": ["bind", "ro"] }));
        }
        config
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    fn spec(&self, args: &[&str]) -> Value {
        let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": args,
                "env": [PATH, "TERM=xterm"],
                "cwd": "/",
                "capabilities": {
                    "bounding": caps, "effective": caps, "permitted": caps, "ambient": caps
                },
                "rlimits": [rlimit("RLIMIT_NOFILE", libc::RLIMIT_NOFILE, 1024)],
                "noNewPrivileges": true
            },
            "root": { "path": self.rootfs(), "readonly": true },
            "hostname": "bench",
            "mounts": [
                special("/proc", "proc", "proc", &[]),
                special("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
                special("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance",
                    "ptmxmode=0666", "mode=0620", "gid=5"]),
                special("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
                special("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
                special("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
                special("/sys/fs/cgroup", "cgroup", "cgroup",
                    &["nosuid", "noexec", "nodev", "relatime", "ro"]),
            ],
            "linux": {
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
                "namespaces": namespaces(),
                "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
                    "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                    "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
            }
        })
    }

    fn podman(&self, id: &str, args: &[&str]) -> Result<Value> {
        let seccomp = self.seccomp.as_ref().with_context(|| {
            format!(
                "open {} (package golang-github-containers-common)",
                profile::PATH
            )
        })?;
        let caps = profile::PODMAN_CAPS;
        let files = self.dir.join("files");
        let bind = |to: &str, from: &str, more: &[&str]| {
            let options: Vec<&str> = ["bind", "rprivate"].iter().chain(more).copied().collect();
            json!({ "destination": to, "type": "bind", "source": files.join(from), "options": options })
        };
        let mut resources = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
        if self.pids {
            resources["pids"] = json!({ "limit": 2048 });
        }
        Ok(json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0, "umask": 0o022 },
                "args": args,
                "env": [PATH, "TERM=xterm", "HOSTNAME=bench"],
                "cwd": "/",
                "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
                "rlimits": [
                    rlimit("RLIMIT_NOFILE", libc::RLIMIT_NOFILE, 1_048_576),
                    rlimit("RLIMIT_NPROC", libc::RLIMIT_NPROC, 32_768),
                ]
            },
            "root": { "path": self.rootfs() },
            "hostname": "bench",
            "mounts": [
                special("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
                special("/dev", "tmpfs", "tmpfs",
                    &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]),
                special("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
                special("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance",
                    "ptmxmode=0666", "mode=0620", "gid=5"]),
                special("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
                bind("/etc/hosts", "hosts", &[]),
                bind("/dev/shm", "shm", &["nosuid", "noexec", "nodev"]),
                bind("/run/.containerenv", "containerenv", &[]),
                bind("/etc/hostname", "hostname", &[]),
                bind("/etc/resolv.conf", "resolv.conf", &[]),
                special("/sys/fs/cgroup", "cgroup", "cgroup",
                    &["rprivate", "nosuid", "noexec", "nodev", "relatime", "ro"]),
            ],
            "annotations": {
                "io.container.manager": "libpod",
                "io.kubernetes.cri-o.TTY": "false",
                "io.podman.annotations.autoremove": "FALSE",
                "io.podman.annotations.init": "FALSE",
                "io.podman.annotations.privileged": "FALSE",
                "io.podman.annotations.publish-all": "FALSE",
                "org.opencontainers.image.stopSignal": "15"
            },
            "linux": {
                "sysctl": { "net.ipv4.ping_group_range": "0 0" },
                "resources": resources,
                "cgroupsPath": format!("/{}/libpod-{id}", self.prefix),
                "namespaces": namespaces(),
                "seccomp": seccomp,
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
                    "/sys/firmware", "/sys/fs/selinux", "/sys/dev/block"],
                "readonlyPaths": ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                    "/proc/sysrq-trigger"]
            }
        }))
    }
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn special(to: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": to, "type": kind, "source": source, "options": options })
}

fn namespaces() -> Value {
    let types = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    types.iter().map(|t| json!({ "type": t })).collect()
}

fn rlimit(name: &str, resource: libc::__rlimit_resource_t, wanted: u64) -> Value {
    let limit = wanted.min(sys::hard_limit(resource));
    json!({ "type": name, "hard": limit, "soft": limit })
}

/// Whether the cgroup v2 hierarchy at /sys/fs/cgroup has `controller`.
pub fn has_controller(controller: &str) -> bool {
    fs::read_to_string(Path::new("/sys/fs/cgroup/cgroup.controllers"))
        .is_ok_and(|list| list.split_whitespace().any(|c| c == controller))
}
