//! What of a config can be made ahead.

use libc::{CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS};
use serde_json::{Value, json};

use super::super::shape::{self, Fit, Place, Shape, Tree};
use crate::plan::tests::{machine, options};
use crate::{bundle, decided};

pub const SPEC: &[u8] = include_bytes!("../../../tests/configs/spec.json");
const PODMAN: &[u8] = include_bytes!("../../../tests/configs/podman.json");

const NS: u64 = CLONE_NEWNS as u64;
pub const ALL: u64 = (CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) as u64 | NS;

/// The shape of a config that is changed.
pub fn fit(config: &[u8], change: impl FnOnce(&mut Value)) -> Result<Fit, &'static str> {
    let mut config: Value = serde_json::from_slice(config).unwrap();
    change(&mut config);
    let (options, host) = (options(), machine());
    let text = serde_json::to_vec(&config).unwrap();
    let bundle = bundle::understand(&text, &options.bundle).unwrap();
    shape::of(&decided::on(&bundle, &options, &host).unwrap().plan)
}

/// What is in a kit, in a word each.
fn words(shape: &Shape) -> String {
    let mut words = Vec::new();
    for (kind, word) in [
        (CLONE_NEWNET as u64, "net"),
        (CLONE_NEWIPC as u64, "ipc"),
        (CLONE_NEWUTS as u64, "uts"),
        (NS, "mnt"),
    ] {
        if shape.kinds & kind != 0 {
            words.push(word.to_owned());
        }
    }
    for tree in &shape.trees {
        words.push(match &tree.place {
            Place::Dev { nodes, core } => {
                format!("dev:{}{}", nodes.len(), ["", "+core"][usize::from(*core)])
            }
            Place::BelowDev(name) => name.to_string_lossy().into_owned(),
            Place::Alone => tree.fstype.to_string_lossy().into_owned(),
            Place::Mask => continue,
        });
    }
    words.join(" ")
}

pub fn mount(destination: &str, fstype: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": fstype, "source": fstype, "options": options})
}

fn bind(destination: &str, source: &str) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]})
}

#[test]
fn shapes() {
    const WHOLE: &str = "net ipc uts mnt dev:6+core pts shm mqueue sysfs";
    type Change = fn(&mut Value);
    let table: &[(&str, &[u8], Change, &str)] = &[
        ("spec", SPEC, |_| {}, WHOLE),
        (
            "podman",
            PODMAN,
            |_| {},
            "net ipc uts mnt dev:6+core sysfs pts mqueue",
        ),
        (
            "no ipc",
            SPEC,
            |c| namespaces(c, |n| n["type"] != "ipc"),
            "net uts mnt dev:6+core pts shm sysfs",
        ),
        (
            "no network: the host's sysfs",
            SPEC,
            |c| namespaces(c, |n| n["type"] != "network"),
            "ipc uts mnt dev:6+core pts shm mqueue",
        ),
        (
            "by path",
            SPEC,
            |c| {
                for n in c["linux"]["namespaces"].as_array_mut().unwrap() {
                    if n["type"] == "network" {
                        n["path"] = json!("/run/netns/x");
                    }
                }
            },
            "ipc uts mnt dev:6+core pts shm mqueue",
        ),
        (
            "a hook that may look for the host's files",
            SPEC,
            |c| c["hooks"] = json!({"createContainer": [{"path": "/bin/true"}]}),
            "net ipc uts dev:6+core pts shm mqueue sysfs",
        ),
        (
            "a hook that runs inside",
            SPEC,
            |c| c["hooks"] = json!({"startContainer": [{"path": "/bin/true"}]}),
            WHOLE,
        ),
        (
            "shared with the host",
            SPEC,
            |c| c["linux"]["rootfsPropagation"] = json!("shared"),
            "net ipc uts dev:6+core pts shm mqueue sysfs",
        ),
        (
            "a bind from anywhere",
            SPEC,
            |c| add(c, bind("/x", "/etc/hosts")),
            WHOLE,
        ),
        (
            "a bind from below rootfs: mounts before it are in it",
            SPEC,
            |c| add(c, bind("/x", "/bundle/rootfs/y")),
            "net ipc uts dev:6+core pts shm mqueue sysfs",
        ),
        (
            "an overlay, whose layers are the host's",
            SPEC,
            |c| add(c, mount("/x", "overlay", &["lowerdir=/a:/b"])),
            "net ipc uts dev:6+core pts shm mqueue sysfs",
        ),
        (
            "a device",
            SPEC,
            |c| add(c, mount("/x", "ext4", &[])),
            "net ipc uts dev:6+core pts shm mqueue sysfs",
        ),
        (
            "over a node",
            SPEC,
            |c| add(c, bind("/dev/null", "/dev/null")),
            "net ipc uts sysfs",
        ),
        (
            "over a link",
            SPEC,
            |c| add(c, bind("/dev/ptmx", "/dev/ptmx")),
            "net ipc uts sysfs",
        ),
        (
            "deep below /dev",
            SPEC,
            |c| add(c, bind("/dev/shm/x", "/x")),
            "net ipc uts sysfs",
        ),
        (
            "a second /dev",
            SPEC,
            |c| add(c, mount("/dev", "tmpfs", &["mode=755"])),
            "net ipc uts sysfs",
        ),
        (
            "/dev without a mode has that of what it covers",
            SPEC,
            |c| c["mounts"][1]["options"] = json!(["nosuid"]),
            "net ipc uts sysfs",
        ),
        (
            "a tmpfs without a mode",
            SPEC,
            |c| add(c, mount("/dev/x", "tmpfs", &["size=1k"])),
            WHOLE,
        ),
        (
            "a tmpfs elsewhere",
            SPEC,
            |c| add(c, mount("/run", "tmpfs", &["mode=755"])),
            WHOLE,
        ),
        (
            "made read-only in the end",
            SPEC,
            |c| c["mounts"][1]["options"] = json!(["mode=755", "ro"]),
            "net ipc uts sysfs",
        ),
        (
            "propagation of its own",
            SPEC,
            |c| c["mounts"][2]["options"] = json!(["newinstance", "rshared"]),
            "net ipc uts mnt dev:6+core shm mqueue sysfs",
        ),
        (
            "devices, of which one is elsewhere",
            SPEC,
            |c| {
                c["linux"]["devices"] = json!([
                    {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
                    {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200},
                ]);
            },
            "net ipc uts mnt dev:7+core pts shm mqueue sysfs",
        ),
    ];
    for (what, config, change, wanted) in table {
        let fit = fit(config, change).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(words(&fit.shape), *wanted, "{what}");
        let masks = |tree: &&Tree| tree.place == Place::Mask;
        assert!(
            fit.shape.trees.last().is_some_and(|tree| masks(&tree)),
            "{what}"
        );
        assert_eq!(fit.at.len(), fit.shape.trees.len() - 1, "{what}");
        assert!(fit.at.is_sorted(), "{what}: {:?}", fit.at);
    }
}

#[test]
fn a_mask_only_where_it_is_laid_over_something() {
    let fit = fit(SPEC, |c| c["linux"]["maskedPaths"] = json!([])).unwrap();
    assert!(!fit.shape.trees.iter().any(|tree| tree.place == Place::Mask));
}

#[test]
fn nothing_of_these() {
    let user = fit(SPEC, |c| {
        let all = c["linux"]["namespaces"].as_array_mut().unwrap();
        all.push(json!({"type": "user"}));
        for maps in ["uidMappings", "gidMappings"] {
            c["linux"][maps] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        }
    });
    assert_eq!(user.unwrap_err(), "a user namespace owns all else");
    let bare = fit(SPEC, |c| {
        namespaces(c, |n| n["type"] == "mount" || n["type"] == "pid");
        c.as_object_mut().unwrap().remove("hostname");
        c["mounts"] = json!([mount("/proc", "proc", &[])]);
    });
    let why = bare.map(|fit| words(&fit.shape)).unwrap_err();
    assert_eq!(why, "no namespace of its own, and no standard mount");
}

/// Whatever makes a difference to a kit makes another shape; what doesn't, doesn't.
#[test]
fn equal_shapes() {
    let spec = fit(SPEC, |_| {}).unwrap().shape;
    type Change = fn(&mut Value);
    let other: &[Change] = &[
        |c| c["mounts"][1]["options"] = json!(["mode=755", "size=1k"]),
        |c| c["mounts"][1]["options"] = json!(["nosuid", "strictatime", "mode=700", "size=65536k"]),
        |c| c["mounts"][1]["source"] = json!("other"),
        |c| {
            c["linux"]["devices"] = json!([{"path": "/dev/a", "type": "c", "major": 1, "minor": 3}])
        },
        |c| namespaces(c, |n| n["type"] != "uts"),
    ];
    for (i, change) in other.iter().enumerate() {
        let changed = fit(SPEC, |c| {
            c.as_object_mut().unwrap().remove("hostname");
            change(c);
        });
        assert_ne!(changed.unwrap().shape, spec, "change {i}");
    }
    let same: &[Change] = &[
        |c| c["process"]["args"] = json!(["other"]),
        |c| c["hostname"] = json!("other"),
        |c| c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"}),
        |c| add(c, bind("/etc/hosts", "/x")),
        |c| c["root"] = json!({"path": "/elsewhere"}),
    ];
    for (i, change) in same.iter().enumerate() {
        assert_eq!(fit(SPEC, change).unwrap().shape, spec, "change {i}");
    }
}

fn namespaces(config: &mut Value, keep: impl Fn(&Value) -> bool) {
    let all = config["linux"]["namespaces"].as_array_mut().unwrap();
    all.retain(keep);
    if !config["linux"]["namespaces"].to_string().contains("uts") {
        config.as_object_mut().unwrap().remove("hostname");
    }
}

pub fn add(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().unwrap().push(mount);
}
