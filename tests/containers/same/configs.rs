//! The configs of which the two are compared.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{compare, difference, go, in_any_order, look, looker, same, same_by, same_with};
use crate::harness::{Way, wait_for};
use crate::inside::ROLE;

pub fn spec_config(way: Way) {
    same_with(way, "runz spec", |spec| {
        spec["root"]["readonly"] = json!(true);
    });
}

/// What podman writes, with files of our own to bind.
pub fn podman_config(way: Way) {
    let mut b = looker(way);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs/podman.json");
    let mut podman: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let sources = b.dir.join("userdata");
    fs::create_dir_all(sources.join("shm")).unwrap();
    for mount in podman["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "bind" {
            let name = Path::new(mount["source"].as_str().unwrap()).file_name();
            let source = sources.join(name.unwrap());
            if !source.is_dir() {
                fs::write(&source, "text\n").unwrap();
            }
            mount["source"] = json!(source);
        }
    }
    b.change(|spec| {
        podman["root"] = spec["root"].clone();
        podman["process"]["args"] = spec["process"]["args"].clone();
        podman["process"]["env"] = spec["process"]["env"].clone();
        podman["process"]["rlimits"] = spec["process"]["rlimits"].clone();
        let linux = podman["linux"].as_object_mut().unwrap();
        // Not every machine has the controllers.
        linux.remove("cgroupsPath");
        linux["resources"] = json!({"devices": linux["resources"]["devices"]});
        *spec = podman;
    });
    same(&b, "podman");
}

/// Mounts of all kinds, of which a kit has some.
pub fn mounts(way: Way) {
    let b = looker(way);
    let source = b.dir.join("source");
    fs::create_dir_all(source.join("below")).unwrap();
    fs::write(source.join("file"), "text\n").unwrap();
    fs::create_dir_all(b.rootfs("/full")).unwrap();
    fs::write(b.rootfs("/full/file"), "text\n").unwrap();
    chown(b.rootfs("/full"), Some(3), Some(4)).unwrap();
    let bind = |destination: &str, options: &[&str]| json!({"destination": destination, "type": "bind", "source": source, "options": options});
    let tmpfs = |destination: &str, options: &[&str]| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options});
    let b = b.config(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.extend([
            bind("/a", &["rbind", "ro"]),
            bind("/b", &["bind", "rshared"]),
            bind("/c", &["bind", "rslave", "nosuid", "noexec"]),
            bind("/d", &["rbind", "rprivate", "noatime"]),
            bind("/dir/deep/down", &["bind"]),
            json!({"destination": "/file", "type": "bind", "source": source.join("file"), "options": ["bind"]}),
            tmpfs("/t", &["mode=1777", "size=100k"]),
            tmpfs("/full", &[]),
            tmpfs("/copied", &["tmpcopyup"]),
            tmpfs("/dev/own", &["mode=0700", "uid=5", "gid=6", "nr_inodes=20"]),
            tmpfs("/dev/plain", &["size=10k"]),
            tmpfs("/run", &["ro", "nosuid", "mode=755"]),
            json!({"destination": "/queues", "type": "mqueue", "source": "mqueue"}),
            json!({"destination": "/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "mode=600"]}),
            json!({"destination": "/sys2", "type": "sysfs", "source": "sysfs", "options": ["nosuid"]}),
            json!({"destination": "/a", "type": "none", "options": ["remount", "bind", "nodev"]}),
            bind("/t/nested", &["rbind", "runbindable"]),
        ]);
    });
    same(&b, "mounts");
    // Over a node, a link, and deeper below /dev: kits have no /dev then.
    for destination in ["/dev/null", "/dev/core", "/dev/shm/x", "/dev"] {
        let b = looker(way).config(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.push(tmpfs(destination, &["mode=755"]));
            if destination == "/dev/null" {
                let null = json!({"destination": destination, "type": "bind", "source": destination, "options": ["bind", "ro"]});
                *mounts.last_mut().unwrap() = null;
            }
        });
        same_by(&b, destination, &[], &|call| call);
    }
    let none = looker(way).config(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] == "/proc");
    });
    same(&none, "only proc");
}

pub fn devices(way: Way) {
    same_with(way, "devices", |spec| {
        spec["linux"]["devices"] = json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666},
            {"path": "/dev/loop9", "type": "b", "major": 7, "minor": 9, "uid": 1},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o602},
            {"path": "/elsewhere/zero", "type": "c", "major": 1, "minor": 5},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 2},
        ]);
        // Whoever names a standard device has to allow it, too.
        let rules = spec["linux"]["resources"]["devices"]
            .as_array_mut()
            .unwrap();
        rules.push(json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}));
    });
}

/// A root file system that has a /dev already, whose owner and content differ from a new one's.
pub fn dev_of_somebody_else(way: Way) {
    let b = looker(way);
    for name in ["/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/proc"] {
        fs::create_dir_all(b.rootfs(name)).unwrap();
        chown(b.rootfs(name), Some(11), Some(12)).unwrap();
    }
    fs::write(b.rootfs("/dev/null"), "").unwrap();
    chown(b.rootfs("/dev"), Some(1234), Some(4321)).unwrap();
    same(&b, "a /dev of somebody else");
    chown(b.rootfs("/dev"), Some(0), Some(4321)).unwrap();
    let b = b.config(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        for mount in mounts {
            if mount["type"] == "tmpfs" {
                let options = mount["options"].as_array_mut().unwrap();
                options.retain(|o| !o.as_str().unwrap().starts_with("mode="));
            }
        }
    });
    same(&b, "the same without modes");
}

pub fn sysctls(way: Way) {
    same_with(way, "sysctls", |spec| {
        spec["hostname"] = json!("host");
        spec["domainname"] = json!("domain");
        spec["linux"]["sysctl"] = json!({
            "net.ipv4.ip_forward": "1",
            "net.ipv4.conf.lo.forwarding": "1",
            "net.core.somaxconn": "77",
            "kernel.shmmax": "65536",
            "kernel.msgmni": "12",
            "kernel.sem": "1 2 3 4",
            "fs.mqueue.msg_max": "3",
        });
    });
}

/// One namespace less, of each kind; one by its path; one more.
pub fn namespaces(way: Way) {
    for kind in ["network", "ipc", "uts", "pid", "cgroup"] {
        let b = looker(way).config(|spec| {
            let all = spec["linux"]["namespaces"].as_array_mut().unwrap();
            all.retain(|n| n["type"] != kind);
            if kind == "uts" {
                spec.as_object_mut().unwrap().remove("hostname");
            }
        });
        // What others do on the host shows.
        let quiet = |mut seen: super::Seen| {
            let shared = |line: &str| match kind {
                "network" => ["netlink", "unix", "/proc/self/net", "/proc/sys/net"]
                    .iter()
                    .any(|s| line.starts_with(s)),
                "pid" => [
                    "process",
                    "status: Pid",
                    "status: PPid",
                    "status: Tgid",
                    "status: NS",
                    "ppid",
                    "pgrp",
                    "session",
                ]
                .iter()
                .any(|s| line.starts_with(s)),
                "ipc" => line.starts_with("/proc/sysvipc"),
                _ => false,
            };
            let lines = seen.inside.lines().filter(|line| !shared(line));
            seen.inside = lines.collect::<Vec<_>>().join("\n");
            seen
        };
        let warm = quiet(look(&b, "require", &[], &|call| call));
        let cold = quiet(look(&b, "off", &[], &|call| call));
        compare(&b, &format!("no {kind} namespace"), cold, warm);
    }
    same_with(way, "a time namespace", |spec| {
        let all = spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.push(json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1000, "nanosecs": 5}});
    });
    // By path, as engines do: held by a process that sleeps.
    let mut holder = Command::new("unshare")
        .args(["--net", "--ipc", "--uts", "sleep", "1000"])
        .spawn()
        .unwrap();
    let own = fs::read_link("/proc/self/ns/uts").unwrap();
    let path = |name: &str| format!("/proc/{}/ns/{name}", holder.id());
    wait_for("the holder's namespaces", || {
        (fs::read_link(path("uts")).ok()? != own).then_some(())
    });
    let b = looker(way).config(|spec| {
        for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            match namespace["type"].as_str().unwrap() {
                "network" => namespace["path"] = json!(path("net")),
                name @ ("ipc" | "uts") => namespace["path"] = json!(path(name)),
                _ => {}
            }
        }
        spec.as_object_mut().unwrap().remove("hostname");
    });
    let hits = same_by(&b, "namespaces by path", &[], &|call| call);
    let _ = (holder.kill(), holder.wait());
    assert_eq!(hits, 2);
    let user = looker(way).config(|spec| {
        let all = spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.push(json!({"type": "user"}));
        for maps in ["uidMappings", "gidMappings"] {
            spec["linux"][maps] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
    });
    for path in ["", "/look"] {
        chown(user.rootfs(path), Some(100_000), Some(100_000)).unwrap();
    }
    let hits = same_by(&user, "a user namespace", &[], &|call| call);
    let right = if way == Way::From { 2 } else { 0 };
    assert_eq!(hits, right, "a kit was taken into a user namespace");
}

pub fn rootfs_propagation(way: Way) {
    for propagation in [
        "private",
        "rprivate",
        "slave",
        "rslave",
        "shared",
        "rshared",
        "unbindable",
        "runbindable",
    ] {
        let b = looker(way).config(|spec| {
            spec["linux"]["rootfsPropagation"] = json!(propagation);
            if propagation == "runbindable" {
                // To be read-only is to be bound.
                spec["linux"]["readonlyPaths"] = json!([]);
            }
        });
        let hits = same_by(&b, propagation, &[], &|call| call);
        assert_eq!(hits, 2, "{propagation}");
    }
    if way == Way::From {
        // These are made as ever.
        return;
    }
    let b = looker(way);
    same_by(&b, "no pivot", &["--no-pivot"], &|call| call);
    same_by(&b, "no new keyring", &["--no-new-keyring"], &|call| call);
}

/// Hooks of each kind see the same.
pub fn hooks(way: Way) {
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
    ] {
        let b = looker(way);
        let seen = match kind {
            "startContainer" => PathBuf::from("/seen"),
            _ => b.dir.join("seen"),
        };
        let script = format!(
            "(pwd; ls /; ls /dev; cut -d' ' -f4- /proc/self/mountinfo | sed 's/:[0-9]*//g' | sort; \
             grep -E '^(Sig[BIC]|Umask|Cap|Groups)' /proc/self/status; cat /proc/self/net/dev; hostname) \
             > {}",
            seen.display()
        );
        let b = b.config(|spec| {
            spec["hooks"][kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script],
                "env": ["PATH=/bin:/usr/bin"]}]);
            if kind == "startContainer" {
                spec["process"]["env"] = json!([format!("{ROLE}=dump"), "PATH=/bin"]);
            }
        });
        let seen = match kind {
            "startContainer" => b.rootfs("/seen"),
            _ => seen,
        };
        fs::write(&seen, "").unwrap();
        let mut both = Vec::new();
        for zygote in ["require", "off"] {
            let inside = look(&b, zygote, &[], &|call| call);
            both.push((inside, fs::read_to_string(&seen).unwrap()));
        }
        let (cold, cold_hook) = both.pop().unwrap();
        let (warm, warm_hook) = both.pop().unwrap();
        assert_eq!(difference(&cold_hook, &warm_hook), "", "{kind}");
        assert!(cold_hook.contains("SigBlk"), "{kind}: {cold_hook}");
        compare(&b, kind, cold, warm);
    }
}

pub fn process(way: Way) {
    same_with(way, "process", |spec| {
        spec["process"]["user"] =
            json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o27});
        spec["process"]["cwd"] = json!("/made/here");
        spec["process"]["oomScoreAdj"] = json!(321);
        spec["process"]["noNewPrivileges"] = json!(true);
        spec["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 111, "hard": 222},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 333},
        ]);
        spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 4});
        spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
        spec["linux"]["personality"] = json!({"domain": "LINUX"});
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}],
        });
    });
}

pub fn terminal(way: Way) {
    let b = looker(way).config(|spec| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"height": 20, "width": 30});
    });
    let run = |zygote: &str| {
        let call = match zygote {
            "off" => b.make_of_bundle("run", &[]),
            _ => b.make("run", &[]),
        };
        let run = call.env("RUNZ_ZYGOTE", zygote).spawn();
        let _held = (way == Way::From).then(|| go(&b));
        run.wait().ok()
    };
    let (kit, cold) = (run("require"), run("off"));
    assert!(cold.contains("/dev/console"), "{cold}");
    let [kit, cold] = [kit, cold].map(|text| in_any_order(way, text));
    assert_eq!(difference(&cold, &kit), "");
}
