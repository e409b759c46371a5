//! What the other properties become.

use libc::{MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, S_IFBLK, S_IFCHR, S_IFIFO};

use super::*;

#[test]
fn namespaces() {
    let plan = planned(&[
        (
            "/linux/namespaces/1",
            json!({ "type": "network", "path": "/run/netns/a" }),
        ),
        ("/linux/namespaces/-", json!({ "type": "time", "path": "" })),
        ("/linux/namespaces/-", json!({ "type": "cgroup" })),
        (
            "/linux/timeOffsets",
            json!({ "boottime": { "secs": -5, "nanosecs": 7 }, "monotonic": { "secs": 1 } }),
        ),
    ]);
    assert_eq!(
        plan.namespaces.new,
        NEWPID | NEWIPC | NEWUTS | NEWNS | NEWTIME | NEWCGROUP
    );
    let join = &plan.namespaces.join[0];
    assert_eq!((join.kind, join.index), (NEWNET, 1));
    assert_eq!(join.path.as_c_str(), c"/run/netns/a");
    assert_eq!(plan.time_offsets, b"monotonic 1 0\nboottime -5 7\n");
}

#[test]
fn maps_of_a_joined_user_namespace() {
    let one = json!([{ "hostID": 1000, "containerID": 0, "size": 1 }]);
    let plan = planned(&[
        (
            "/linux/namespaces/-",
            json!({ "type": "user", "path": "/proc/7/ns/user" }),
        ),
        ("/linux/uidMappings", one.clone()),
        ("/linux/gidMappings", one),
        // Not checked: the maps are only what the config claims.
        ("/process/user/uid", json!(5)),
    ]);
    assert_eq!(plan.id_maps.uid.len(), 1);
    assert_eq!(plan.namespaces.new & NEWUSER, 0);
    assert_eq!(plan.warnings.len(), 1);
    assert!(plan.dev.unwrap().bind);
}

#[test]
fn root_propagation() {
    for (written, no_pivot, expected) in [
        ("", false, (MS_SLAVE | MS_REC, 0)),
        ("private", false, (MS_PRIVATE, 0)),
        ("rprivate", false, (MS_PRIVATE | MS_REC, 0)),
        ("shared", false, (MS_SHARED, MS_SHARED)),
        ("rslave", true, (MS_SLAVE | MS_REC, MS_SLAVE | MS_REC)),
    ] {
        let options = Options {
            no_pivot,
            ..options()
        };
        let config = changed(&[("/linux/rootfsPropagation", json!(written))]);
        let plan = decide_on(&config, &options, &machine()).unwrap();
        assert_eq!((plan.propagation, plan.rootfs_propagation), expected);
    }
    let shared = planned(&[
        ("/linux/namespaces", json!([{ "type": "uts" }])),
        ("/linux/maskedPaths", Value::Null),
        ("/linux/readonlyPaths", Value::Null),
    ]);
    assert_eq!(shared.propagation, 0);
}

#[test]
fn cgroup_delegation() {
    let one = json!([{ "hostID": 1000, "containerID": 0, "size": 10 }]);
    let delegated = |options: Value, namespace: &str, uid: u32| {
        planned(&[
            ("/linux/namespaces/-", json!({ "type": "user" })),
            ("/linux/namespaces/-", json!({ "type": namespace })),
            ("/linux/uidMappings", one.clone()),
            ("/linux/gidMappings", one.clone()),
            ("/mounts/6/options", options),
            ("/process/user/uid", json!(uid)),
        ])
        .delegate
    };
    assert_eq!(delegated(json!(["rw"]), "cgroup", 0), Some((1000, 1000)));
    assert_eq!(delegated(json!(["rw"]), "cgroup", 5), Some((1005, 1000)));
    assert_eq!(delegated(json!(["ro"]), "cgroup", 0), None);
    assert_eq!(delegated(json!(["rw"]), "time", 0), None);
}

#[test]
fn device_nodes() {
    let plan = planned(&[(
        "/linux/devices",
        json!([
            { "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600 },
            { "path": "/dev/disk/x", "type": "b", "major": 8, "minor": 1, "uid": 3, "gid": 4 },
            { "path": "/dev/pipe", "type": "p", "fileMode": 0o20640 },
        ]),
    )]);
    let nodes = plan.dev.unwrap().nodes;
    let shown: Vec<_> = nodes
        .iter()
        .map(|n| {
            let path = n.path.to_str().unwrap();
            (
                path,
                n.mode,
                libc::major(n.dev),
                libc::minor(n.dev),
                n.index,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("/dev/zero", S_IFCHR | 0o666, 1, 5, None),
            ("/dev/full", S_IFCHR | 0o666, 1, 7, None),
            ("/dev/random", S_IFCHR | 0o666, 1, 8, None),
            ("/dev/urandom", S_IFCHR | 0o666, 1, 9, None),
            ("/dev/tty", S_IFCHR | 0o666, 5, 0, None),
            ("/dev/null", S_IFCHR | 0o600, 1, 3, Some(0)),
            ("/dev/disk/x", S_IFBLK | 0o666, 8, 1, Some(1)),
            ("/dev/pipe", S_IFIFO | 0o640, 0, 0, Some(2)),
        ]
    );
    assert_eq!((nodes[6].uid, nodes[6].gid), (3, 4));

    let bound = planned(&[(
        "/mounts/1",
        json!({ "destination": "/dev/", "source": "/dev", "options": ["rbind"] }),
    )]);
    assert!(bound.dev.is_none());
}

#[test]
fn sysctls() {
    let plan = planned(&[(
        "/linux/sysctl",
        json!({
            "net/ipv4/conf/eth0.1/forwarding": "1",
            "net.ipv4.conf.eth0/1.rp_filter": "2",
            "kernel.shm_rmid_forced": "1",
            "fs.mqueue.msg_max": "5",
            "kernel.domainname": "x",
        }),
    )]);
    let paths: Vec<&str> = plan
        .sysctls
        .iter()
        .map(|s| s.path.to_str().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "sys/fs/mqueue/msg_max",
            "sys/kernel/domainname",
            "sys/kernel/shm_rmid_forced",
            "sys/net/ipv4/conf/eth0.1/rp_filter",
            "sys/net/ipv4/conf/eth0.1/forwarding",
        ]
    );
}

#[test]
fn network_devices() {
    let plan = planned(&[(
        "/linux/netDevices",
        json!({ "eth1": { "name": "net1" }, "eth0": {}, "abcdefghijklmno": { "name": "" } }),
    )]);
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        plan.net_devices,
        [
            pair("abcdefghijklmno", "abcdefghijklmno"),
            pair("eth0", "eth0"),
            pair("eth1", "net1")
        ]
    );
}

#[test]
fn hooks() {
    let plan = planned(&[(
        "/hooks",
        json!({
            "prestart": [{ "path": "/a" }],
            "createRuntime": [{ "path": "/b", "args": ["x"], "env": [], "timeout": 3 }],
            "createContainer": [{ "path": "/c" }],
            "startContainer": [{ "path": "/d" }],
            "poststart": [{ "path": "/e" }],
            "poststop": [{ "path": "/f" }, { "path": "/g" }],
        }),
    )]);
    let hooks = plan.hooks;
    let paths = [
        &hooks.prestart,
        &hooks.create_runtime,
        &hooks.create_container,
        &hooks.start_container,
        &hooks.poststart,
        &hooks.poststop,
    ]
    .map(|list| list.iter().map(|h| h.path.as_str()).collect::<String>());
    assert_eq!(paths, ["/a", "/b", "/c", "/d", "/e", "/f/g"]);
    assert_eq!(hooks.prestart[0].env, None);
    assert_eq!(hooks.create_runtime[0].env, Some(vec![]));
    assert_eq!(hooks.create_runtime[0].args, ["x"]);
    assert_eq!(hooks.create_runtime[0].timeout, Some(3));
}

#[test]
fn intel_rdt() {
    for (written, group, named, schemata) in [
        (json!({}), "web", false, ""),
        (
            json!({ "closID": "gold", "l3CacheSchema": "L3:0=f\nMB:0=5", "memBwSchema": "MB:0=20",
                "schemata": ["L2:0=1"] }),
            "gold",
            true,
            "L3:0=f\nMB:0=20\nL2:0=1\n",
        ),
        (
            json!({ "l3CacheSchema": "L3:0=f\nMB:0=5" }),
            "web",
            false,
            "L3:0=f\nMB:0=5\n",
        ),
        (json!({ "closID": "/", "enableCMT": true }), "/", true, ""),
    ] {
        let rdt = planned(&[("/linux/intelRdt", written)]).intel_rdt.unwrap();
        assert_eq!(
            (&rdt.group[..], rdt.named, &rdt.schemata[..]),
            (group, named, schemata)
        );
        assert!(!rdt.monitoring);
    }
}

#[test]
fn command_line() {
    let options = Options {
        no_new_keyring: true,
        no_pivot: true,
        ..options()
    };
    let plan = decide_on(&template(), &options, &machine()).unwrap();
    assert!(plan.keyring.is_none());
    assert!(plan.no_pivot);
}

#[test]
fn config_without_linux() {
    let config = json!({ "ociVersion": "1.0.0", "root": { "path": "/r" } });
    let plan = decide(&config).unwrap();
    assert_eq!(plan.namespaces.new, 0);
    assert!(plan.masked_paths.is_empty() && plan.mounts.is_empty());
    assert_eq!(plan.propagation, 0);
}
