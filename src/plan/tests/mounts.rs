//! What a mount becomes.

use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MS_I_VERSION,
    MS_NOSUID, MS_RDONLY, MS_REC, MS_SHARED, MS_SILENT, MS_SLAVE, MS_STRICTATIME,
};

use super::*;

/// The template with this mount in the place of /dev/shm's.
fn mount(mount: Value) -> Mount {
    planned(&[("/mounts/3", mount)]).mounts.remove(3)
}

/// The keys that fsconfig(2) gets for these options of a new file system.
fn keys(fstype: &str, options: &[&str]) -> String {
    let mount = mount(json!({ "destination": "/a", "type": fstype, "options": options }));
    let (MountKind::New { options, .. } | MountKind::Cgroup { options }) = mount.kind else {
        panic!("not a new file system");
    };
    let text = |(key, value): &(CString, Option<CString>)| match value {
        Some(value) => format!("{}={}", key.to_str().unwrap(), value.to_str().unwrap()),
        None => key.to_str().unwrap().to_owned(),
    };
    options.iter().map(text).collect::<Vec<_>>().join(" ")
}

#[test]
fn superblock_options() {
    for (options, expected) in [
        (&["ro"][..], "ro"),
        (&["rw"], "rw"),
        (&["sync"], "sync"),
        (&["async"], "async"),
        (&["dirsync"], "dirsync"),
        (&["lazytime"], "lazytime"),
        (&["nolazytime"], "nolazytime"),
        (&["mand"], "mand"),
        (&["nomand"], "nomand"),
        (&["nosuid", "defaults", "relatime", "shared"], ""),
        (&["remount", "nosuid"], "rw"),
        (&["remount", "ro"], "ro"),
        (&["a=1,b", "c=x=y", "d="], "a=1 b c=x=y d="),
        (&["a=\"1,2\",b"], "a=\"1,2\" b"),
        (&["context=\"u:r:t:s0:c1,c2\""], "context=u:r:t:s0:c1,c2"),
        (&["a,,b", "=x", ""], "a b"),
    ] {
        assert_eq!(keys("ext4", options), expected, "{options:?}");
    }
    assert_eq!(keys("tmpfs", &["ro", "size=1"]), "size=1");
    assert_eq!(keys("cgroup", &["ro", "nsdelegate"]), "nsdelegate");
    assert_eq!(
        keys("cgroup2", &["memory_recursiveprot"]),
        "memory_recursiveprot"
    );
}

#[test]
fn read_only_at_the_end() {
    for (destination, fstype, options, late) in [
        ("/a", "tmpfs", &["ro"][..], true),
        ("/dev/", "devtmpfs", &["ro"], true),
        ("/a", "tmpfs", &["rw"], false),
        ("/a", "tmpfs", &["ro", "remount"], false),
        ("/a", "ext4", &["ro"], false),
        ("/dev", "bind", &["ro", "bind"], false),
    ] {
        let mount = mount(
            json!({ "destination": destination, "type": fstype, "source": "/x", "options": options }),
        );
        let now = mount.set & MOUNT_ATTR_RDONLY != 0;
        assert_eq!(
            mount.readonly_late, late,
            "{destination} {fstype} {options:?}"
        );
        assert_eq!(
            now,
            options.contains(&"ro") && !late,
            "{destination} {fstype} {options:?}"
        );
    }
}

#[test]
fn what_only_mount2_can_say() {
    let long = format!("lowerdir={}", "x".repeat(256));
    for (options, expected) in [
        (vec!["nosuid", "a=1"], None),
        (
            vec!["silent", "nosuid", "a=1", "b"],
            Some((c"a=1,b", MS_SILENT | MS_NOSUID)),
        ),
        (
            vec!["iversion", "ro"],
            Some((c"", MS_I_VERSION | MS_RDONLY)),
        ),
        (vec![&long[..], "strictatime"], Some((c"", MS_STRICTATIME))),
        (vec![&long[..long.len() - 1]], None),
    ] {
        let mount = mount(json!({ "destination": "/a", "type": "overlay", "options": options }));
        let MountKind::New { legacy, .. } = mount.kind else {
            panic!("not a new file system");
        };
        match (legacy, expected) {
            (None, None) => {}
            (Some((data, flags)), Some((text, expected))) => {
                assert_eq!(flags, expected, "{options:?}");
                let text = if text.is_empty() && options[0] == long {
                    long.as_bytes()
                } else {
                    text.to_bytes()
                };
                assert_eq!(data.as_bytes(), text, "{options:?}");
            }
            (got, _) => panic!("{options:?}: {got:?}"),
        }
    }
}

#[test]
fn binds() {
    let m =
        mount(json!({ "destination": "a", "source": "x/y", "options": ["rbind", "ro", "exec"] }));
    assert_eq!(m.destination.as_c_str(), c"/a");
    assert!(matches!(
        &m.kind,
        MountKind::Bind { source, recursive: true } if source.as_c_str() == c"/bundle/x/y"
    ));
    assert_eq!(m.set, MOUNT_ATTR_RDONLY);
    assert_eq!(m.clear, MOUNT_ATTR_NOEXEC);
    assert_eq!(m.replace & (m.set | m.clear), 0);
    assert_ne!(m.replace & MOUNT_ATTR_NOSUID, 0);

    let m = mount(json!({ "destination": "/a", "type": "bind", "source": "/x" }));
    assert!(matches!(
        &m.kind,
        MountKind::Bind {
            recursive: false,
            ..
        }
    ));
    assert_eq!((m.set, m.clear, m.replace), (0, 0, 0));

    let m = mount(
        json!({ "destination": "/a", "source": "/x", "options": ["bind", "rro", "slave", "rshared"] }),
    );
    assert_eq!(m.set_recursive, MOUNT_ATTR_RDONLY);
    assert_eq!((m.set, m.clear, m.replace), (0, 0, 0));
    assert_eq!(m.propagation, [MS_SLAVE, MS_SHARED | MS_REC]);

    let m =
        mount(json!({ "destination": "/a", "options": ["bind", "remount", "nodev", "noatime"] }));
    assert!(m.remount);
    assert_ne!(m.replace, 0);
    assert_eq!(m.clear, MOUNT_ATTR__ATIME);
}

#[test]
fn options_of_a_superblock_that_is_not_ours() {
    let plan = planned(&[(
        "/mounts/3",
        json!({ "destination": "/a", "source": "/x", "options": ["bind", "sync"] }),
    )]);
    assert_eq!(
        plan.warnings,
        ["mounts[3].options: sync has no effect on a bind mount; ignored"]
    );
}

#[test]
fn relative_destination() {
    let plan = planned(&[(
        "/mounts/3",
        json!({ "destination": "a/../b", "type": "tmpfs" }),
    )]);
    assert_eq!(plan.mounts[3].destination.as_c_str(), c"/b");
    assert_eq!(plan.warnings.len(), 1);
    assert!(plan.warnings[0].starts_with("mounts[3].destination: \"a/../b\" is not absolute"));
}

#[test]
fn sources() {
    for (source, expected) in [
        (json!("tmpfs"), c"tmpfs"),
        (json!(""), c"none"),
        (Value::Null, c"none"),
    ] {
        let mount = mount(json!({ "destination": "/a", "type": "tmpfs", "source": source }));
        assert!(
            matches!(&mount.kind, MountKind::New { source, .. } if source.as_c_str() == expected)
        );
    }
}

#[test]
fn idmaps() {
    let bind = |more: Value| {
        let mut mount =
            json!({ "destination": "/a", "source": "/x", "options": ["bind", "ridmap"] });
        for (key, value) in more.as_object().unwrap() {
            mount[key] = value.clone();
        }
        mount
    };
    let one = json!([{ "hostID": 1000, "containerID": 0, "size": 2 }]);
    let maps = bind(json!({ "uidMappings": one, "gidMappings": one }));
    let idmap = mount(maps).idmap.unwrap();
    assert!(idmap.recursive);
    assert_eq!(
        idmap.maps.unwrap().gid,
        [IdMap {
            container: 0,
            host: 1000,
            size: 2
        }]
    );
    let plan = planned(&[
        ("/mounts/3", bind(json!({}))),
        ("/linux/namespaces/-", json!({ "type": "user" })),
        ("/linux/uidMappings", one.clone()),
        ("/linux/gidMappings", one.clone()),
    ]);
    assert!(plan.mounts[3].idmap.as_ref().unwrap().maps.is_none());
    let plain = json!({ "destination": "/a", "source": "/x", "options": ["bind"], "uidMappings": one, "gidMappings": one });
    assert!(!mount(plain).idmap.unwrap().recursive);
}

#[test]
fn selinux_labels() {
    let host = Host {
        selinux: true,
        ..machine()
    };
    let config = changed(&[
        ("/linux/mountLabel", json!("u:r:t:s0:c1,c2")),
        ("/process/selinuxLabel", json!("u:r:p:s0")),
        (
            "/mounts/3",
            json!({ "destination": "/a", "type": "tmpfs", "options": ["silent", "size=1"] }),
        ),
    ]);
    let plan = decide_on(&config, &options(), &host).unwrap();
    let labelled: Vec<usize> = plan
        .mounts
        .iter()
        .filter(|m| match &m.kind {
            MountKind::New { options, .. } => options.iter().any(|(key, value)| {
                key.as_c_str() == c"context" && value.as_deref() == Some(c"u:r:t:s0:c1,c2")
            }),
            _ => false,
        })
        .map(|m| m.index)
        .collect();
    assert_eq!(labelled, [1, 2, 3]);
    let relabelled: Vec<usize> = plan
        .mounts
        .iter()
        .filter(|m| m.relabel.is_some())
        .map(|m| m.index)
        .collect();
    assert_eq!(relabelled, [4]);
    assert!(matches!(
        &plan.mounts[3].kind,
        MountKind::New { legacy: Some((data, _)), .. }
            if data.as_c_str() == c"size=1,context=\"u:r:t:s0:c1,c2\""
    ));
    assert_eq!(plan.process.unwrap().selinux.as_deref(), Some(c"u:r:p:s0"));
}
