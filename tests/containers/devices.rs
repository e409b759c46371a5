//! /dev: whatever a root file system or a volume has there, no node of the host's changes, and nothing
//! passes for a device that it isn't.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way};
use crate::hostile::{Host, one_line, replace_by_link};
use crate::masks::{ROUNDS, swapping};
use crate::namespaces::users_bundle;
use crate::tests;

pub const TESTS: Tests = tests![
    owner_of_a_linked_node_stays,
    owner_of_a_swapped_node_stays,
    nodes_are_not_bound_over_links,
    terminals_come_from_a_devpts,
    stdio_becomes_the_containers_null,
    masks_are_of_the_real_null,
    null_is_another_device,
];

/// A node of the null device.
fn null_node(path: &Path) {
    let mode = Mode::from_bits_truncate(0o600);
    mknod(path, SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
}

#[track_caller]
fn is_roots(node: &Path, what: &str) {
    let m = fs::metadata(node).unwrap();
    let seen = (m.uid(), m.gid(), m.mode() & 0o7777);
    assert_eq!(seen, (0, 0, 0o600), "{what}");
}

/// A bundle whose /dev is a directory of the rootfs, with a node to be given to somebody else; and a
/// node of the host's.
fn bundle(way: Way) -> (Bundle, PathBuf) {
    let b = Bundle::new(way).config(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        spec["linux"]["devices"] = json!([
            {"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "uid": 1, "gid": 2, "fileMode": 0o666},
        ]);
    });
    fs::create_dir(b.rootfs("/dev")).unwrap();
    let node = b.dir.join("node");
    null_node(&node);
    (b, node)
}

fn owner_of_a_linked_node_stays(way: Way) {
    let (b, node) = bundle(way);
    let path = node.to_string_lossy().into_owned();
    for target in [&*path, "../../node"] {
        replace_by_link(&b.rootfs("/dev/x"), target);
        let line = b.run().fails();
        assert!(
            line.contains("error creating device nodes: \"/dev/x\""),
            "{line}"
        );
        is_roots(&node, target);
    }
    fs::remove_file(b.rootfs("/dev/x")).unwrap();
    // One that is there already is changed to what the config says, by mode and owner.
    for _ in 0..2 {
        b.run().ok();
        let m = fs::symlink_metadata(b.rootfs("/dev/x")).unwrap();
        assert_eq!((m.uid(), m.gid(), m.mode() & 0o7777), (1, 2, 0o666));
        fs::remove_file(b.rootfs("/dev/x")).unwrap();
        null_node(&b.rootfs("/dev/x"));
    }
}

/// Somebody who shares the directory puts a link in the place of the node.
fn owner_of_a_swapped_node_stays(way: Way) {
    let (b, node) = bundle(way);
    // Each entry gives it to another one.
    let b = b.config(|spec| {
        let one = spec["linux"]["devices"][0].clone();
        let all = (0..400).map(|n| {
            let mut one = one.clone();
            one["uid"] = json!(1 + n % 2);
            one
        });
        spec["linux"]["devices"] = all.collect();
    });
    null_node(&b.rootfs("/dev/x"));
    replace_by_link(&b.rootfs("/dev/y"), &node.to_string_lossy());
    swapping(&b.rootfs("/dev/x"), &b.rootfs("/dev/y"), || {
        for _ in 0..ROUNDS {
            one_line(&b, "swapped node", &b.run());
            is_roots(&node, "swapped node");
        }
    });
}

/// In a user namespace the host's nodes are bound.
fn nodes_are_not_bound_over_links(way: Way) {
    let b = users_bundle(way).config(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    });
    fs::create_dir(b.rootfs("/dev")).unwrap();
    std::os::unix::fs::chown(b.rootfs("/dev"), Some(100_000), Some(100_000)).unwrap();
    let host = Host::new(&b);
    let outside = host.outside.join("null").to_string_lossy().into_owned();
    for target in [
        &*outside,
        "/etc/passwd",
        "nowhere",
        "../bin/busybox",
        "/proc/self/fd/0",
    ] {
        replace_by_link(&b.rootfs("/dev/full"), target);
        let line = b.run().fails();
        assert!(
            line.ends_with("error creating device nodes: \"/dev/full\": too many symbolic links encountered (ELOOP)"),
            "{target}: {line}"
        );
        host.is_untouched(target);
    }
}

/// CVE-2025-52565: what /dev/ptmx leads to is the multiplexer of a devpts, and neither another file there
/// nor a node of that number elsewhere.
fn terminals_come_from_a_devpts(way: Way) {
    let refused =
        "process.terminal: set up console (/dev/ptmx is no devpts): no such device (ENODEV)";
    let b = Bundle::new(way).script("tty").config(|spec| {
        spec["process"]["terminal"] = json!(true);
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] != "/dev");
        // Beside such a node the kernel looks for a devpts by this name.
        for m in mounts.iter_mut().filter(|m| m["destination"] == "/dev/pts") {
            m["destination"] = json!("/dev/pts/pts");
        }
    });
    let ptmx = b.rootfs("/dev/pts/ptmx");
    fs::create_dir_all(b.rootfs("/dev/pts/pts")).unwrap();
    mknod(&ptmx, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(5, 2)).unwrap();
    let line = b.run().fails();
    assert!(line.ends_with(refused), "{line}");
    fs::remove_file(&ptmx).unwrap();
    fs::write(&ptmx, "").unwrap();
    let line = b.run().fails();
    assert!(line.ends_with(refused), "{line}");

    // In a container that runs, and may do what it likes with its /dev.
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let exec = |script: &str| {
        b.inside(script);
        b.call("exec").args(["--tty", &b.id, "tty"]).run()
    };
    assert_eq!(exec("true").ok().trim(), "/dev/pts/0");
    for script in [
        "ln -s /dev/null /dev/ptmx",
        "touch /file; ln -s /file /dev/ptmx",
        "mkfifo /dev/ptmx",
    ] {
        let line = exec(&format!("rm /dev/ptmx; {script}")).fails_with(255);
        assert!(line.ends_with(refused), "{script}: {line}");
    }
    // Another file of the devpts: a terminal that somebody holds open.
    let hold = b.call("exec").args(["--tty", &b.id, "sleep", "1000"]);
    b.inside("rm /dev/ptmx; ln -s pts/ptmx /dev/ptmx");
    let held = hold.spawn();
    crate::harness::wait_for("a terminal", || {
        (b.inside("ls /dev/pts") == "0\nptmx\n").then_some(())
    });
    let line = exec("rm /dev/ptmx; ln -s pts/0 /dev/ptmx").fails_with(255);
    assert!(line.ends_with(refused), "{line}");
    drop(held);
}

/// Standard input is the container's /dev/null.
#[track_caller]
fn same(text: &str) {
    let (null, stdin) = text.trim().split_once('\n').unwrap();
    assert_eq!(null, stdin);
    let m = fs::metadata("/dev/null").unwrap();
    assert_ne!(null, format!("{}:{}", m.dev(), m.ino()));
}

/// The host's /dev/null, as standard streams, would lead to the host's /dev.
fn stdio_becomes_the_containers_null(way: Way) {
    let look = "stat -L -c %d:%i /dev/null /proc/self/fd/0";
    let b = Bundle::new(way).script(look);
    same(&b.run().ok());
}

/// A mask over a file is the null device, whatever lies at the host's /dev/null.
fn masks_are_of_the_real_null(way: Way) {
    let b = Bundle::new(way)
        .script("stat -c %t:%T /proc/keys; wc -c < /proc/keys")
        .config(|spec| spec["linux"]["maskedPaths"] = json!(["/proc/keys"]));
    assert_eq!(b.run().ok(), "1:3\n0\n");
    for place in ["/bin/sh", "/dev/zero"] {
        let cover = format!(
            "exec unshare --mount sh -ec 'mount --bind {place} /dev/null; exec \"$@\"' sh \"$@\""
        );
        let line = b.make("run", &[]).shell(&cover).run().fails();
        assert!(line.ends_with("linux.maskedPaths: the host's /dev/null isn't the null device: no such device (ENODEV)"), "{place}: {line}");
    }
}

/// A config with a /dev/null of its own, which takes the rule away that allows the null device: it never
/// depends on when the filter is loaded, or on what the host has there, what becomes of standard streams.
fn null_is_another_device(way: Way) {
    let invalid = "error during container init: error reopening /dev/null inside container: \
                   can't reopen /dev/null: container's /dev/null is invalid: no such device (ENODEV)";
    let refused = "error during container init: error reopening /dev/null inside container: \
                   open /dev/null: operation not permitted (EPERM)";
    let both = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"});
    let write = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "w"});
    for (minor, rules, wanted) in [
        (5, json!([both]), invalid),
        (3, json!([both]), ""),
        (3, json!([{"allow": true, "access": "rwm"}]), ""),
        (3, json!([]), refused),
        (3, json!([write]), refused),
    ] {
        let b = Bundle::new(way)
            .script("stat -L -c %d:%i /dev/null /proc/self/fd/0; cat")
            .config(|spec| {
                spec["linux"]["devices"] =
                    json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": minor}]);
                spec["linux"]["resources"]["devices"] = rules.clone();
            });
        for _ in 0..3 {
            let output = b.run();
            match wanted {
                "" => same(&output.ok()),
                wanted => {
                    let line = output.fails();
                    assert!(line.ends_with(wanted), "{minor} {rules}: {line}");
                }
            }
        }
        // Streams that aren't the null device need none.
        let output = b.make("run", &[]).stdin("given").run();
        assert!(output.ok().ends_with("\ngiven"), "{minor} {rules}");
    }
}
