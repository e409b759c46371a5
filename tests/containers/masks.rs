//! What is hidden from a container, or written for it, goes by what things are, not by their names:
//! masked paths, sysctls, /proc, under symlinks, fakes and swaps.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Output, Way};
use crate::hostile::{Host, one_line, replace_by_link};
use crate::tests;

pub const TESTS: Tests = tests![
    masks_are_symlinks,
    fakes_of_proc_are_refused,
    from(sysctls_go_to_the_real_proc),
    from(labels_go_to_the_real_proc),
    proc_is_swapped_meanwhile,
    volume_is_swapped_meanwhile,
];

fn masks_are_symlinks(way: Way) {
    let b = Bundle::new(way);
    let host = Host::new(&b);
    let outside = host.outside.join("secret").to_string_lossy().into_owned();
    fs::create_dir_all(b.rootfs("/etc/dir")).unwrap();
    fs::write(b.rootfs("/etc/own"), "own\n").unwrap();
    fs::write(b.rootfs("/etc/dir/file"), "own\n").unwrap();
    for (name, target) in [
        ("a", "/etc/own"),
        ("b", &*outside),
        ("c", "/etc/dir"),
        ("d", "../../../../../../../../etc/passwd"),
        ("e", "/proc/self/fd/0"),
        ("f", "nowhere"),
        ("g", "/proc/kcore"),
    ] {
        replace_by_link(&b.rootfs(&format!("/{name}")), target);
    }
    for key in ["maskedPaths", "readonlyPaths"] {
        // One at a time, for some are refused.
        for name in ["a", "b", "c", "d", "e", "f", "g"] {
            let path = format!("/{name}");
            let mut spec: Value =
                serde_json::from_slice(&fs::read(b.dir.join("config.json")).unwrap()).unwrap();
            spec["linux"]["maskedPaths"] = json!([]);
            spec["linux"]["readonlyPaths"] = json!([]);
            spec["linux"][key] = json!([path]);
            let script = format!("cat {path} {path}/file 2>/dev/null; echo x >> {path}; true");
            spec["process"]["args"] = json!(["sh", "-c", script]);
            fs::write(b.dir.join("config.json"), spec.to_string()).unwrap();
            let output = b.run();
            let what = format!("{key} {path}");
            one_line_of_script(&b, &what, &output);
            if key == "maskedPaths" {
                assert!(!output.stdout.contains("own"), "{what}: {}", output.stdout);
            }
            host.is_untouched(&what);
        }
    }
    assert_eq!(fs::read_to_string(b.rootfs("/etc/own")).unwrap(), "own\n");
}

/// As [`one_line`], where the program itself may have written to stderr.
#[track_caller]
fn one_line_of_script(b: &Bundle, what: &str, output: &Output) {
    assert!(
        !b.root.join(&b.id).exists(),
        "{what}: left in the state root"
    );
    assert!(!b.cgroup().exists(), "{what}: its cgroup is left");
    let ours = output
        .stderr
        .lines()
        .filter(|l| l.starts_with("runz: "))
        .count();
    assert_eq!(
        ours,
        usize::from(output.code != 0),
        "{what}: {}",
        output.stderr
    );
}

/// CVE-2019-16884, CVE-2019-19921: a volume in the place of /proc, or of a part of it.
fn fakes_of_proc_are_refused(way: Way) {
    let b = Bundle::new(way);
    let host = Host::new(&b);
    replace_by_link(&b.rootfs("/link"), "/proc");
    replace_by_link(&b.rootfs("/deep"), "/proc/self");
    let mounts = |b: &Bundle| -> Value {
        let text = fs::read(b.dir.join("config.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["mounts"].clone()
    };
    let plain = mounts(&b);
    let mut b = b;
    for destination in [
        "/proc/self/attr",
        "/proc/1/attr",
        "/proc/sys",
        "/link/sys",
        "/link/self/attr",
        "/deep/attr",
        "/proc",
        "/link",
    ] {
        for (kind, source, options) in [
            ("bind", host.outside.join("attr"), json!(["bind"])),
            ("tmpfs", "tmpfs".into(), json!([])),
        ] {
            if kind == "tmpfs" && destination.ends_with("proc") {
                continue;
            }
            b.change(|spec| {
                spec["mounts"] = plain.clone();
                let mount = json!({"destination": destination, "type": kind, "source": source, "options": options});
                spec["mounts"].as_array_mut().unwrap().push(mount);
            });
            let line = b.run().fails();
            assert!(line.contains("/proc"), "{kind} on {destination}: {line}");
            host.is_untouched(destination);
        }
    }
    b.change(|spec| spec["mounts"] = plain.clone());
    b.run().ok();
}

/// CVE-2025-52881: what is written for the container goes to the kernel, whatever the rootfs has at
/// /proc/sys.
fn sysctls_go_to_the_real_proc(way: Way) {
    let b = Bundle::new(way).args(["sleep", "1000"]).config(|spec| {
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| m["destination"] != "/proc");
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4711"});
        spec["linux"]["maskedPaths"] = json!([]);
        spec["linux"]["readonlyPaths"] = json!([]);
    });
    let host = Host::new(&b);
    fs::create_dir_all(b.rootfs("/proc/sys/net/ipv4")).unwrap();
    let fake = b.rootfs("/proc/sys/net/ipv4/ip_forward");
    fs::write(&fake, "fake\n").unwrap();
    replace_by_link(
        &b.rootfs("/proc/sys/kernel"),
        &host.outside.to_string_lossy(),
    );
    b.run_detached().ok();
    assert_eq!(fs::read_to_string(&fake).unwrap(), "fake\n");
    let pid = b.pid().to_string();
    let read = |kind: &str, path: &str| {
        let output = std::process::Command::new("nsenter")
            .args(["-t", &pid, kind, "cat", path])
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(read("--net", "/proc/sys/net/ipv4/ip_forward"), "1\n");
    assert_eq!(read("--ipc", "/proc/sys/kernel/msgmax"), "4711\n");
    host.is_untouched("sysctls");
}

/// A machine whose kernel says that it has AppArmor and SELinux. It hasn't, or knows no such label.
const LABELLED: &str = "exec unshare --mount sh -ec '
    mount -t tmpfs none /sys/module
    mkdir -p /sys/module/apparmor/parameters
    echo Y > /sys/module/apparmor/parameters/enabled
    mount -t tmpfs none /sys/fs
    mkdir /sys/fs/cgroup /sys/fs/selinux
    mount -t cgroup2 none /sys/fs/cgroup
    echo 1 > /sys/fs/selinux/enforce
    exec \"$@\"' sh \"$@\"";

/// The same CVE with the labels of LSMs: a write that went astray would leave the program without its
/// profile, and nobody would know.
fn labels_go_to_the_real_proc(way: Way) {
    let mut b = Bundle::new(way).sleeper().config(|spec| {
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| m["destination"] != "/proc");
        spec["linux"]["maskedPaths"] = json!([]);
        spec["linux"]["readonlyPaths"] = json!([]);
    });
    let fakes = [
        "/proc/self/attr/exec",
        "/proc/self/attr/apparmor/exec",
        "/proc/thread-self/attr/exec",
        "/proc/thread-self/attr/apparmor/exec",
    ];
    for fake in fakes {
        let path = b.rootfs(fake);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "fake\n").unwrap();
    }
    b.run_detached().ok();
    let unspoilt = |b: &Bundle, what: &str| {
        for fake in fakes {
            let text = fs::read_to_string(b.rootfs(fake)).unwrap();
            assert_eq!(text, "fake\n", "{what}: written to {fake}");
        }
    };
    for (flag, words) in [
        ("--apparmor", "write /proc/self/attr/apparmor/exec: "),
        ("--process-label", "write /proc/self/attr/exec: "),
    ] {
        let call = b.call("exec").args([flag, "no-such-label", &b.id, "true"]);
        let line = call.shell(LABELLED).run().fails_with(255);
        assert!(line.contains(words) && !line.ends_with("(EXDEV)"), "{line}");
        unspoilt(&b, flag);
    }
    b.call("delete").args(["--force", &b.id]).run().ok();
    for (key, words) in [
        ("apparmorProfile", "write /proc/self/attr/apparmor/exec: "),
        ("selinuxLabel", "write /proc/self/attr/exec: "),
    ] {
        b.change(|spec| {
            let process = spec["process"].as_object_mut().unwrap();
            process.remove("apparmorProfile");
            process.insert(key.to_owned(), json!("no-such-label"));
        });
        let line = b.make("create", &[]).shell(LABELLED).run().fails();
        assert!(line.contains(words) && !line.ends_with("(EXDEV)"), "{line}");
        unspoilt(&b, key);
    }
}

/// Exchanges two paths as fast as it can, as another container that shares the directory would, while
/// `act` runs.
pub fn swapping(one: &Path, other: &Path, act: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        done.store(true, Ordering::Relaxed);
        if let Err(payload) = result {
            std::panic::resume_unwind(payload);
        }
    });
}

/// How often a race is tried.
pub const ROUNDS: usize = 60;

/// /proc is a directory one moment and a symlink the next: procfs is never mounted through it, and
/// what is to be masked in it is masked wherever it went.
fn proc_is_swapped_meanwhile(way: Way) {
    let script = "for d in /proc /fake /swap; do grep -q processor $d/cpuinfo && echo bare $d; done; \
                  [ -e /fake/self ] && echo through; true";
    let b = Bundle::new(way)
        .script(script)
        .config(|spec| spec["linux"]["maskedPaths"] = json!(["/proc/cpuinfo"]));
    let host = Host::new(&b);
    fs::create_dir(b.rootfs("/proc")).unwrap();
    fs::create_dir(b.rootfs("/fake")).unwrap();
    replace_by_link(&b.rootfs("/swap"), "/fake");
    let mut ran = 0;
    swapping(&b.rootfs("/proc"), &b.rootfs("/swap"), || {
        for _ in 0..ROUNDS {
            let output = b.run();
            one_line_of_script(&b, "swapped /proc", &output);
            assert_eq!(output.stdout, "", "{}", output.stderr);
            ran += usize::from(output.code == 0);
            host.is_untouched("swapped /proc");
        }
    });
    assert!(ran > 0, "the swap always won: nothing was tested");
}

/// A volume's directory is swapped with symlinks that lead out while things are mounted and masked in
/// it.
fn volume_is_swapped_meanwhile(way: Way) {
    let b = Bundle::new(way).args(["true"]);
    let host = Host::new(&b);
    let volume = b.dir.join("volume");
    fs::create_dir_all(volume.join("x/attr")).unwrap();
    fs::write(volume.join("x/secret"), "of the volume\n").unwrap();
    let outside = host.outside.to_string_lossy().into_owned();
    let b = b.config(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(
            json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind"]}),
        );
        mounts.push(json!({"destination": "/vol/x/attr", "type": "tmpfs", "source": "tmpfs"}));
        mounts.push(json!({"destination": "/vol/x/new/dir", "type": "tmpfs", "source": "tmpfs"}));
        spec["linux"]["maskedPaths"] = json!(["/vol/x/secret", "/vol/x/attr", "/vol/x/kcore"]);
        spec["linux"]["readonlyPaths"] = json!(["/vol/x/null", "/vol/x"]);
        spec["process"]["cwd"] = json!("/vol/x/cwd");
    });
    for target in [
        &*outside,
        "../../../../../../../..",
        "/proc/self/root",
        "/etc",
    ] {
        replace_by_link(&volume.join("y"), target);
        swapping(&volume.join("x"), &volume.join("y"), || {
            for _ in 0..ROUNDS / 4 {
                let output = b.run();
                one_line(&b, target, &output);
                host.is_untouched(target);
            }
        });
        let x = volume.join("x");
        if fs::symlink_metadata(&x).unwrap().is_symlink() {
            let _ = renameat2(
                AT_FDCWD,
                &x,
                AT_FDCWD,
                &volume.join("y"),
                RenameFlags::RENAME_EXCHANGE,
            );
        }
    }
}
