//! Nothing left to take: descriptors, disk, cgroups, controllers. One clear line, and nothing is left.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way, host};
use crate::tests;

pub const TESTS: Tests = tests![
    few_descriptors,
    from(few_descriptors_for_exec),
    full_state_root,
    readonly_state_root,
    no_more_cgroups,
    no_more_processes,
    missing_controller,
];

/// It worked, or failed with one line and left nothing. Whether it worked.
#[track_caller]
fn clean(b: &Bundle, what: &str, output: crate::harness::Output, code: i32) -> bool {
    if output.code == 0 {
        return true;
    }
    let line = output.fails_with(code);
    assert!(line.starts_with("runz: "), "{what}: {line}");
    assert!(
        !b.root.join(&b.id).exists(),
        "{what}: left in the state root after {line}"
    );
    assert!(
        !b.cgroup().exists(),
        "{what}: its cgroup is left after {line}"
    );
    false
}

/// With every number of descriptors from too few to enough (EMFILE).
fn few_descriptors(way: Way) {
    let hook = json!([{"path": "/bin/true"}]);
    let b = Bundle::new(way).config(|spec| {
        spec["hooks"] =
            json!({"createRuntime": hook, "createContainer": hook, "startContainer": hook});
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        spec["process"].as_object_mut().unwrap().remove("rlimits");
    });
    let (mut failed, mut said, mut ran) = (0, 0, 0);
    for limit in 4..48 {
        let what = format!("{limit} descriptors");
        let call = b
            .make("run", &[])
            .shell(&format!("ulimit -n {limit}; exec \"$@\""));
        let output = call.run();
        said +=
            usize::from(output.stderr.contains("EMFILE") || output.stderr.contains("os error 24"));
        match clean(&b, &what, output, 1) {
            true => ran += 1,
            false => failed += 1,
        }
    }
    assert!(failed > 0 && ran > 0, "{failed} failed, {ran} ran");
    assert!(
        said * 2 >= failed,
        "only {said} of {failed} failures name the cause"
    );
}

fn few_descriptors_for_exec(way: Way) {
    let b = Bundle::new(way).args(["sleep", "1000"]).config(|spec| {
        spec["process"].as_object_mut().unwrap().remove("rlimits");
    });
    b.run_detached().ok();
    let procs = || fs::read_to_string(b.cgroup().join("cgroup.procs")).unwrap();
    let before = procs();
    let (mut failed, mut ran) = (0, 0);
    for limit in 4..32 {
        let call = b.call("exec").args([&b.id, "true"]);
        let output = call.shell(&format!("ulimit -n {limit}; exec \"$@\"")).run();
        match output.code {
            0 => ran += 1,
            _ => {
                output.fails_with(255);
                failed += 1;
            }
        }
        assert_eq!(procs(), before, "{limit} descriptors: a process is left");
    }
    assert!(failed > 0 && ran > 0, "{failed} failed, {ran} ran");
    assert_eq!(b.status(), "running");
}

/// Acts with a tmpfs as the state root.
pub fn mounted<T>(root: &Path, options: &str, act: impl FnOnce() -> T) -> T {
    fs::create_dir_all(root).unwrap();
    let mount = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).arg(root).status().unwrap();
        assert!(status.success(), "{program} {args:?}");
    };
    mount("mount", &["-t", "tmpfs", "-o", options, "tmpfs"]);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
    mount("umount", &["--lazy"]);
    result.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
}

fn full_state_root(way: Way) {
    // The socket is covered, too.
    let b = Bundle::new(way).auto().config(|spec| {
        spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]});
    });
    // Inodes: the root's own, then one after the other of the container's.
    let mut worked = false;
    let mut failed = 0;
    for inodes in 1..9 {
        mounted(&b.root, &format!("nr_inodes={inodes}"), || {
            let output = b.create();
            if !output.stderr.is_empty() {
                assert!(
                    output.stderr.contains("ENOSPC") || output.stderr.contains("os error 28"),
                    "{}",
                    output.stderr
                );
            }
            worked = clean(&b, &format!("{inodes} inodes"), output, 1);
            failed += usize::from(!worked);
            b.call("delete").args(["--force", &b.id]).run().ok();
        });
    }
    assert!(worked && failed > 2, "{failed} failed");
    // Blocks: none left for the files' content.
    for free in 0..3 {
        mounted(&b.root, "size=64k", || {
            let fill = 16 - free;
            fs::write(b.root.join("fill"), vec![b'x'; fill * 4096]).unwrap();
            let output = b.create();
            let what = format!("{free} free pages");
            if free == 0 {
                let line = output.stderr.clone();
                assert!(!clean(&b, &what, output, 1), "{what}: it worked");
                assert!(
                    line.contains("ENOSPC") || line.contains("os error 28"),
                    "{line}"
                );
            } else {
                clean(&b, &what, output, 1);
            }
            b.call("delete").args(["--force", &b.id]).run().ok();
        });
    }
}

fn readonly_state_root(way: Way) {
    let b = Bundle::new(way).auto();
    mounted(&b.root, "ro", || {
        let output = b.run();
        let line = output.stderr.clone();
        assert!(!clean(&b, "read-only", output, 1), "it worked");
        assert!(
            line.to_lowercase().contains("read-only file system"),
            "{line}"
        );
    });
}

/// A cgroup of our own for a container to be made in, with the file's value.
fn below(b: Bundle, name: &str, file: &str, value: &str, act: impl FnOnce(Bundle, &Path)) {
    let parent = b.cgroup().with_file_name(format!("{}-{name}", b.id));
    fs::create_dir(&parent).unwrap();
    fs::write(parent.join(file), value).unwrap();
    let path = parent.join("c");
    let config = format!(
        "/{}",
        path.strip_prefix("/sys/fs/cgroup").unwrap().display()
    );
    let b = b.config(|spec| spec["linux"]["cgroupsPath"] = json!(config));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(b, &path)));
    let removed = fs::remove_dir(&parent);
    if let Err(payload) = result {
        std::panic::resume_unwind(payload);
    }
    removed.expect("nothing is left in the cgroup");
}

fn no_more_cgroups(way: Way) {
    below(
        Bundle::new(way),
        "full",
        "cgroup.max.descendants",
        "0",
        |b, _| {
            let line = b.run().fails();
            assert!(line.contains("EAGAIN"), "{line}");
            assert!(!b.root.join(&b.id).exists(), "left in the state root");
        },
    );
}

/// RLIMIT_NPROC: the clone is refused.
fn no_more_processes(way: Way) {
    // It doesn't bind root, but another user in whose name nothing else runs.
    let b = Bundle::new(way).config(|spec| {
        spec["process"].as_object_mut().unwrap().remove("rlimits");
    });
    let cgroup = b.cgroup();
    if !host::has_controller("pids") {
        // No limit of processes can be had: the next best is a cgroup that takes none (threaded).
        let parent = cgroup.with_file_name(format!("{}-threaded", b.id));
        fs::create_dir_all(parent.join("c")).unwrap();
        fs::write(parent.join("c/cgroup.type"), "threaded").unwrap();
        let path = format!(
            "/{}/d",
            parent.strip_prefix("/sys/fs/cgroup").unwrap().display()
        );
        let b = b.config(|spec| spec["linux"]["cgroupsPath"] = json!(path));
        let output = b.run();
        let left = parent.join("d").exists();
        fs::remove_dir(parent.join("c")).unwrap();
        let removed = fs::remove_dir(&parent);
        clean(&b, "threaded", output, 1);
        assert!(!left, "its cgroup is left");
        removed.unwrap();
        return;
    }
    below(b, "pids", "cgroup.max.depth", "3", |b, path| {
        let b = b.config(|spec| spec["linux"]["resources"]["pids"] = json!({"limit": 1}));
        fs::write(path.with_file_name("cgroup.subtree_control"), "+pids").unwrap();
        fs::write(path.with_file_name("pids.max"), "0").unwrap();
        let line = b.run().fails();
        assert!(line.contains("EAGAIN"), "{line}");
        assert!(!b.root.join(&b.id).exists(), "left in the state root");
    });
}

/// A limit whose controller this machine hasn't, by name. Where it has all of them there is none to
/// miss.
fn missing_controller(way: Way) {
    for (controller, key, value) in [
        ("memory", "memory", json!({"limit": 64 << 20})),
        ("pids", "pids", json!({"limit": 10})),
        ("cpuset", "cpu", json!({"cpus": "0"})),
        ("io", "blockIO", json!({"weight": 100})),
        (
            "hugetlb",
            "hugepageLimits",
            json!([{"pageSize": "2MB", "limit": 0}]),
        ),
        ("rdma", "rdma", json!({"mlx5_1": {"hcaHandles": 3}})),
    ] {
        if host::has_controller(controller) {
            continue;
        }
        let b = Bundle::new(way).config(|spec| spec["linux"]["resources"][key] = value);
        let output = b.run();
        let line = output.stderr.clone();
        assert!(!clean(&b, controller, output, 1), "{controller}: it worked");
        assert!(line.contains(controller), "{controller}: {line}");
    }
}
