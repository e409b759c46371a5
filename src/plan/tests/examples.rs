//! Configs as engines write them.

use std::fmt::Write;

use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME, MS_PRIVATE, MS_REC, MS_SLAVE,
};

use super::*;

/// One line a mount, for comparison.
fn show(mounts: &[Mount]) -> String {
    let mut text = String::new();
    for m in mounts {
        let options = |options: &[(CString, Option<CString>)]| -> String {
            let mut text = String::new();
            for (key, value) in options {
                let _ = write!(text, " {}", key.to_str().unwrap());
                if let Some(value) = value {
                    let _ = write!(text, "={}", value.to_str().unwrap());
                }
            }
            text
        };
        let kind = match &m.kind {
            MountKind::Bind { source, recursive } => {
                let verb = if *recursive { "rbind" } else { "bind" };
                format!("{verb} {}", source.to_str().unwrap())
            }
            MountKind::New {
                fstype,
                source,
                options: o,
                legacy,
            } => {
                assert!(legacy.is_none());
                let (fstype, source) = (fstype.to_str().unwrap(), source.to_str().unwrap());
                format!("{fstype} {source}{}", options(o))
            }
            MountKind::Cgroup { options: o } => format!("cgroup{}", options(o)),
        };
        let destination = m.destination.to_str().unwrap();
        let _ = write!(
            text,
            "{} {destination}: {kind}; set {:x} clear {:x} replace {:x}",
            m.index, m.set, m.clear, m.replace
        );
        if m.readonly_late {
            text.push_str(" late");
        }
        for p in &m.propagation {
            let _ = write!(text, " {p:x}");
        }
        text.push('\n');
    }
    text
}

#[test]
fn template_mounts() {
    let plan = decide(&template()).unwrap();
    assert_eq!(
        show(&plan.mounts),
        "\
0 /proc: proc proc; set 0 clear 0 replace 0
1 /dev: tmpfs tmpfs mode=755 size=65536k; set 22 clear 70 replace 0
2 /dev/pts: devpts devpts newinstance ptmxmode=0666 mode=0620 gid=5; set a clear 0 replace 0
3 /dev/shm: tmpfs shm mode=1777 size=65536k; set e clear 0 replace 0
4 /dev/mqueue: mqueue mqueue; set e clear 0 replace 0
5 /sys: sysfs sysfs ro; set f clear 0 replace 0
6 /sys/fs/cgroup: cgroup; set f clear 70 replace 0
"
    );
    assert_eq!(
        plan.mounts[1].set,
        MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME
    );
    assert_eq!(plan.mounts[1].clear, MOUNT_ATTR__ATIME);
    assert_eq!(
        plan.mounts[5].set,
        MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV | MOUNT_ATTR_RDONLY
    );
}

#[test]
fn template_rest() {
    let plan = decide(&template()).unwrap();
    assert_eq!(plan.rootfs.as_c_str(), c"rootfs");
    assert!(plan.readonly_rootfs);
    assert_eq!(plan.keyring.as_deref(), Some(c"_ses.web"));
    assert_eq!(
        plan.namespaces.new,
        NEWPID | NEWNET | NEWIPC | NEWUTS | NEWNS
    );
    assert!(plan.namespaces.join.is_empty());
    assert_eq!(plan.propagation, MS_SLAVE | MS_REC);
    assert_eq!(plan.rootfs_propagation, 0);
    assert_eq!(plan.hostname.as_deref(), Some(c"runc"));
    assert_eq!(plan.masked_paths.len(), 10);
    assert_eq!(plan.readonly_paths.len(), 5);
    assert!(plan.warnings.is_empty());
    assert!(plan.delegate.is_none());
    let dev = plan.dev.unwrap();
    assert_eq!(dev.nodes.len(), 6);
    assert!(!dev.bind && dev.core);

    let process = plan.process.unwrap();
    assert_eq!(process.args.iter().collect::<Vec<_>>(), [c"sh"]);
    assert_eq!(process.candidates.len(), 6);
    assert_eq!(process.candidates[0].as_c_str(), c"/usr/local/sbin/sh");
    assert!(process.env.home().is_some());
    assert_eq!(process.groups, Some(vec![]));
    assert_eq!(process.umask, 0o022);
    let three = 1 << 29 | 1 << 5 | 1 << 10;
    assert_eq!(
        process.capabilities,
        Some(Capabilities {
            bounding: three,
            effective: three,
            permitted: three,
            inheritable: 0,
            ambient: 0,
        })
    );
    assert!(process.no_new_privileges);
    assert_eq!(process.rlimits[0].resource, libc::RLIMIT_NOFILE);
    assert_eq!(
        (process.rlimits[0].soft, process.rlimits[0].hard),
        (1024, 1024)
    );
    assert!(process.terminal);
    assert_eq!(process.preserve_fds, 0);
}

#[test]
fn podman_mounts() {
    let plan = decide(&podman()).unwrap();
    let run = "/run/containers/storage/overlay-containers/0123456789abcdef/userdata";
    let lib = "/var/lib/containers/storage/overlay-containers/0123456789abcdef/userdata";
    let private = MS_PRIVATE | MS_REC;
    assert_eq!(
        show(&plan.mounts),
        format!(
            "\
0 /proc: proc proc; set e clear 0 replace 0
1 /dev: tmpfs tmpfs mode=755 size=65536k; set 2a clear 70 replace 0
2 /sys: sysfs sysfs ro; set f clear 0 replace 0
3 /dev/pts: devpts devpts newinstance ptmxmode=0666 mode=0620 gid=5; set a clear 0 replace 0
4 /dev/mqueue: mqueue mqueue; set e clear 0 replace 0
5 /run/.containerenv: bind {run}/.containerenv; set 0 clear 0 replace 0 {private:x}
6 /etc/hostname: bind {run}/hostname; set 0 clear 0 replace 0 {private:x}
7 /etc/hosts: bind {run}/hosts; set 0 clear 0 replace 0 {private:x}
8 /dev/shm: bind {lib}/shm; set e clear 0 replace 200001 {private:x}
9 /sys/fs/cgroup: cgroup; set f clear 70 replace 0 {private:x}
"
        )
    );
}

#[test]
fn podman_rest() {
    let plan = decide(&podman()).unwrap();
    assert_eq!(plan.sysctls.len(), 1);
    assert_eq!(
        plan.sysctls[0].path.as_c_str(),
        c"sys/net/ipv4/ping_group_range"
    );
    assert_eq!(plan.sysctls[0].value, b"0 0");
    assert_eq!(
        plan.cgroups_path.as_deref(),
        Some("/libpod_parent/libpod-0123456789abcdef".as_ref())
    );
    let process = plan.process.unwrap();
    assert_eq!(process.candidates.len(), 1);
    assert_eq!(process.candidates[0].as_c_str(), c"/bin/true");
    assert_eq!(process.umask, 0o22);
    assert!(!process.terminal);
    let capabilities = process.capabilities.unwrap();
    assert_eq!(capabilities.bounding, 0x800405fb);
    assert_eq!(capabilities.ambient, 0);
}

#[test]
fn rootless_template() {
    let host = Host {
        euid: 1000,
        ..machine()
    };
    let options = Options {
        rootless: true,
        ..options()
    };
    let plan = decide_on(&rootless(), &options, &host).unwrap();
    assert!(plan.namespaces.new & NEWUSER != 0);
    let map = IdMap {
        container: 0,
        host: 1000,
        size: 1,
    };
    assert_eq!(plan.id_maps.uid, [map]);
    assert_eq!(plan.id_maps.gid, [map]);
    assert!(plan.dev.unwrap().bind);
    assert_eq!(plan.process.unwrap().groups, None);
    assert!(plan.mounts.iter().any(|m| matches!(
        &m.kind,
        MountKind::Bind { source, recursive: true } if source.as_c_str() == c"/sys"
    )));
}

#[test]
fn process_may_be_absent() {
    let mut config = template();
    config.as_object_mut().unwrap().remove("process");
    assert!(decide(&config).unwrap().process.is_none());
}
