//! Root file systems and volumes that were made to harm: nothing of the host's is changed or mounted
//! over, whatever they hold.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Output, Way};
use crate::tests;

pub const TESTS: Tests = tests![
    mount_targets_are_symlinks,
    proc_is_mounted_on_a_directory_only,
    from(shared_mounts_get_nothing),
    device_nodes_are_replaced,
    console_is_a_symlink,
    from(passwd_is_hostile),
    cwd_is_hostile,
    from(cwd_of_exec_is_hostile),
    from(cwd_leads_out_through_other_processes),
];

/// A directory of the host beside the rootfs, and how the host looks.
pub struct Host {
    pub outside: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Host {
    pub fn new(b: &Bundle) -> Host {
        let outside = b.dir.join("outside");
        fs::create_dir(&outside).unwrap();
        for name in ["null", "secret", "passwd", "kcore"] {
            fs::write(outside.join(name), "untouched\n").unwrap();
        }
        fs::create_dir(outside.join("attr")).unwrap();
        let before = look(&outside);
        Host { outside, before }
    }

    #[track_caller]
    pub fn is_untouched(&self, what: &str) {
        let after = look(&self.outside);
        for (path, was) in &self.before {
            assert_eq!(after.get(path), Some(was), "{what}: {path:?}");
        }
        let new: Vec<_> = after
            .keys()
            .filter(|p| !self.before.contains_key(*p))
            .collect();
        assert!(new.is_empty(), "{what}: new on the host: {new:?}");
    }
}

fn look(outside: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut note = |path: &Path| {
        let Ok(m) = fs::symlink_metadata(path) else {
            return;
        };
        let content = match m.is_file() && path.starts_with(outside) {
            true => String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned(),
            false => String::new(),
        };
        let (mode, uid, dev) = (m.mode(), m.uid(), m.rdev());
        all.insert(path.to_owned(), format!("{mode:o} {uid} {dev} {content}"));
    };
    for directory in [
        outside,
        Path::new("/"),
        Path::new("/etc"),
        Path::new("/dev"),
    ] {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            note(&entry.path());
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    // Other tests mount in their own directories.
    let mounts = mounts.lines().filter(|line| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        !point.starts_with("/tmp/runz-tests") || point.starts_with(&*outside.to_string_lossy())
    });
    let mounts: Vec<_> = mounts.map(|l| l.split(' ').nth(4).unwrap()).collect();
    all.insert("mounts".into(), mounts.join("\n"));
    all
}

/// It ran, or it failed with one line and left nothing.
#[track_caller]
pub fn one_line(b: &Bundle, what: &str, output: &Output) -> bool {
    let line = output.stderr.trim_end();
    assert!(!line.contains('\n'), "{what}: {line}");
    assert!(
        !b.root.join(&b.id).exists(),
        "{what}: left in the state root"
    );
    assert!(!b.cgroup().exists(), "{what}: its cgroup is left");
    if output.code != 0 {
        assert!(
            line.starts_with("runz: "),
            "{what}: exit {}: {line}",
            output.code
        );
        assert_eq!(output.code, 1, "{what}: {line}");
    }
    output.code == 0
}

pub fn replace_by_link(path: &Path, target: &str) {
    let _ = fs::remove_dir_all(path);
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
}

fn mount_targets_are_symlinks(way: Way) {
    let destinations = [
        "/proc",
        "/sys",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys/fs/cgroup",
        "/data",
        "/etc/hosts",
    ];
    let count = |text: &str| text.lines().count();
    for destination in destinations {
        let b = Bundle::new(way).args(["cat", "/proc/self/mountinfo"]);
        let host = Host::new(&b);
        let b = b.config(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            let source = host.outside.join("attr");
            mounts.push(json!({"destination": "/data", "type": "bind", "source": source, "options": ["rbind"]}));
            mounts.push(json!({
                "destination": "/etc/hosts", "type": "bind", "source": host.outside.join("secret"), "options": ["bind", "ro"],
            }));
            // So that the rootfs decides what is there.
            let below = format!("{destination}/");
            let above = |d: &str| destination.starts_with(&format!("{d}/"));
            mounts.retain(|m| {
                let d = m["destination"].as_str().unwrap();
                !above(d) && !d.starts_with(&below)
            });
        });
        let outside = host.outside.to_string_lossy().into_owned();
        let plain = count(&b.run().ok());
        for target in [
            "/",
            ".",
            "..",
            "../../../../../../../../..",
            "/etc",
            &outside,
            "/nowhere/at/all",
            "/proc/self/fd",
            "/proc/self/cwd",
            "/proc/self/root",
            "/proc/1/root/etc",
            "../../../../../../../etc",
            "loop",
        ] {
            let path = b.rootfs(destination);
            let target = match target {
                "loop" => path.file_name().unwrap().to_string_lossy().into_owned(),
                target => target.to_owned(),
            };
            let what = format!("{destination} -> {target}");
            replace_by_link(&path, &target);
            let output = b.run();
            if one_line(&b, &what, &output) {
                // What is mounted elsewhere than in the root is not to be seen from there.
                assert_eq!(count(&output.stdout), plain, "{what}: {}", output.stdout);
            }
            host.is_untouched(&what);
        }
    }
}

fn proc_is_mounted_on_a_directory_only(way: Way) {
    let b = Bundle::new(way);
    for destination in ["/proc", "/sys"] {
        replace_by_link(&b.rootfs(destination), "/etc");
        let line = b.run().fails();
        assert!(
            line.contains("must be mounted on ordinary directory"),
            "{line}"
        );
        fs::remove_file(b.rootfs(destination)).unwrap();
    }
    b.run().ok();
}

/// The bundle lies on a mount that is shared, and so is the container's root: nothing propagates out.
fn shared_mounts_get_nothing(way: Way) {
    let b = Bundle::new(way).config(|spec| spec["linux"]["rootfsPropagation"] = json!("shared"));
    let host = Host::new(&b);
    let rootfs = b.rootfs("/");
    let mount = |args: &[&str]| {
        let status = std::process::Command::new("mount")
            .args(args)
            .status()
            .unwrap();
        assert!(status.success(), "mount {args:?}");
    };
    let path = rootfs.to_string_lossy();
    let path = path.trim_end_matches('/');
    mount(&["--bind", path, path]);
    mount(&["--make-shared", path]);
    let points = || {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines().filter(|l| l.contains(path)).count()
    };
    let output = b.run();
    let after = points();
    let status = std::process::Command::new("umount")
        .args(["--recursive", path])
        .status()
        .unwrap();
    assert!(status.success());
    output.ok();
    assert_eq!(after, 1, "mounts of the container are on the host");
    host.is_untouched("rootfsPropagation: shared");
}

fn device_nodes_are_replaced(way: Way) {
    let b = Bundle::new(way)
        .args(["stat", "-c", "%F", "/dev/null"])
        .config(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        });
    let host = Host::new(&b);
    let null = b.rootfs("/dev/null");
    fs::create_dir(b.rootfs("/dev")).unwrap();
    let outside = host.outside.join("null").to_string_lossy().into_owned();
    for target in [
        &*outside,
        "/etc/passwd",
        "../../../../../../../etc/passwd",
        "nowhere",
        "/proc/self/fd/0",
    ] {
        replace_by_link(&null, target);
        let line = b.run().fails();
        assert!(
            line.contains("error creating device nodes: \"/dev/null\""),
            "{line}"
        );
        host.is_untouched(target);
    }
    fs::remove_file(&null).unwrap();
    fs::write(&null, "").unwrap();
    b.run().fails();
    fs::remove_file(&null).unwrap();
    mkfifo(&null, Mode::S_IRWXU).unwrap();
    b.run().fails();
    fs::remove_file(&null).unwrap();
    fs::create_dir(&null).unwrap();
    b.run().fails();
    fs::remove_dir(&null).unwrap();
    // A node of another device, then the right one with the wrong mode.
    let node = |rdev, mode: u32| {
        let mode = Mode::from_bits_truncate(mode);
        nix::sys::stat::mknod(&null, nix::sys::stat::SFlag::S_IFCHR, mode, rdev).unwrap();
    };
    node(nix::sys::stat::makedev(1, 5), 0o666);
    b.run().fails();
    fs::remove_file(&null).unwrap();
    node(nix::sys::stat::makedev(1, 3), 0o600);
    assert_eq!(b.run().ok(), "character special file\n");
    assert_eq!(fs::metadata(&null).unwrap().mode() & 0o777, 0o666);
    // Links of /dev that lead elsewhere stay, and nothing goes through them.
    for link in ["fd", "stdin", "stdout", "stderr", "core"] {
        replace_by_link(&b.rootfs(&format!("/dev/{link}")), &outside);
    }
    replace_by_link(&b.rootfs("/dev/ptmx"), &outside);
    b.run().ok();
    assert_eq!(
        fs::read_link(b.rootfs("/dev/ptmx")).unwrap(),
        Path::new("pts/ptmx")
    );
    host.is_untouched("device nodes");
}

/// CVE-2025-52565: the console is bound on what /dev/console is in the root, and on nothing else.
fn console_is_a_symlink(way: Way) {
    let b = Bundle::new(way)
        .script("tty; test -e /dev/console; true")
        .config(|spec| {
            spec["process"]["terminal"] = json!(true);
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|m| m["destination"] != "/dev");
        });
    let host = Host::new(&b);
    fs::create_dir_all(b.rootfs("/dev/pts")).unwrap();
    let outside = host.outside.join("secret").to_string_lossy().into_owned();
    for target in [
        &*outside,
        "/etc/passwd",
        "../../../../../../../etc/passwd",
        "/proc/self/fd/0",
        "pts/0",
    ] {
        replace_by_link(&b.rootfs("/dev/console"), target);
        one_line(&b, target, &b.run());
        host.is_untouched(target);
    }
    // A multiplexer that isn't the container's.
    let b = b.config(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] != "/dev/pts");
    });
    fs::remove_file(b.rootfs("/dev/console")).unwrap();
    let line = b.run().fails();
    assert!(line.contains("process.terminal: set up console"), "{line}");
}

fn passwd_is_hostile(way: Way) {
    let b = Bundle::new(way).script("echo $HOME").config(|spec| {
        spec["process"]["user"] = json!({"uid": 0, "gid": 0});
        spec["process"]["env"] = json!(["PATH=/bin"]);
    });
    let host = Host::new(&b);
    let path = b.rootfs("/etc/passwd");
    fs::create_dir_all(b.rootfs("/etc")).unwrap();
    fs::write(
        host.outside.join("passwd"),
        "root:x:0:0::/of-the-host:/bin/sh\n",
    )
    .unwrap();
    let outside = host.outside.join("passwd").to_string_lossy().into_owned();
    let relative = format!("../..{outside}");
    let up = format!("../../../../../../../..{outside}");
    for target in [
        &*outside,
        &relative,
        &up,
        "/etc/shadow",
        "passwd",
        "/dev/zero",
        "/proc/kmsg",
    ] {
        replace_by_link(&path, target);
        assert_eq!(b.run().ok(), "/\n", "{target}");
    }
    // By what is open at that time, be it the caller's or the runtime's.
    let leak = format!(
        "exec 7<{outside} 8</ 9<{}; exec \"$@\"",
        host.outside.display()
    );
    for n in 3..24 {
        for tail in ["", "/passwd", &outside] {
            replace_by_link(&path, &format!("/proc/self/fd/{n}{tail}"));
            let output = b.make("run", &[]).shell(&leak).run();
            assert_eq!(output.ok(), "/\n", "descriptor {n}{tail}");
        }
    }
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    assert_eq!(b.run().ok(), "/\n", "a FIFO");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(b.run().ok(), "/\n", "a directory");
    fs::remove_dir(&path).unwrap();
    // Endless lines that are nobody's: it's not read to its end.
    let mut text = "x:x:1:1::/x:\n".repeat(500_000);
    text.push_str("root:x:0:0::/too-late:\n");
    fs::write(&path, &text).unwrap();
    assert_eq!(b.run().ok(), "/\n", "a large file");
    fs::write(&path, "root:x:0:0::/found:\n").unwrap();
    assert_eq!(b.run().ok(), "/found\n");
    // More than fits into the slot, no newline, bytes that are no text.
    let long = format!("root:x:0:0::/{}:\n", "x".repeat(8000));
    fs::write(&path, long).unwrap();
    assert_eq!(b.run().ok(), "/\n", "a long line");
    fs::write(&path, b"\xff\xfe\0:::\nroot:x:0:0::/last").unwrap();
    assert_eq!(b.run().ok(), "/last\n");
}

/// CVE-2024-21626, first half: a working directory that leads out of the container.
fn cwd_is_hostile(way: Way) {
    let b =
        Bundle::new(way).script("pwd; ls -a . ..; cat secret ../outside/secret 2>/dev/null; true");
    let host = Host::new(&b);
    let outside = host.outside.to_string_lossy().into_owned();
    let leak = format!("exec 7<{outside} 8</ 9<{outside}; exec \"$@\"");
    fs::create_dir(b.rootfs("/etc")).unwrap();
    let mut cwds: Vec<String> = (3..24).map(|n| format!("/proc/self/fd/{n}")).collect();
    cwds.extend((3..24).map(|n| format!("/proc/self/fd/{n}/../../..")));
    let others = [
        "/proc/self/cwd",
        "/proc/self/cwd/..",
        "/proc/1/cwd",
        "/proc/self/root/..",
    ];
    cwds.extend(others.map(str::to_owned));
    for (i, target) in cwds
        .into_iter()
        .chain([outside.clone(), "..".to_owned()])
        .enumerate()
    {
        // Directly, and by a symlink of the rootfs.
        for link in [false, true] {
            let cwd = match link {
                true => {
                    replace_by_link(&b.rootfs(&format!("/cwd{i}")), &target);
                    format!("/cwd{i}")
                }
                false if target.starts_with('/') => target.clone(),
                false => continue,
            };
            let mut spec: Value =
                serde_json::from_slice(&fs::read(b.dir.join("config.json")).unwrap()).unwrap();
            spec["process"]["cwd"] = json!(cwd);
            fs::write(b.dir.join("config.json"), spec.to_string()).unwrap();
            let output = b.make("run", &[]).shell(&leak).run();
            let what = format!("cwd {cwd} ({target})");
            if one_line(&b, &what, &output) || !output.stdout.is_empty() {
                assert!(
                    !output.stdout.contains("untouched"),
                    "{what}: {}",
                    output.stdout
                );
                assert!(
                    !output.stdout.contains("config.json"),
                    "{what}: {}",
                    output.stdout
                );
            }
            host.is_untouched(&what);
        }
    }
}

/// The same for exec, where /proc/self/fd is there already; and for the program's path.
fn cwd_of_exec_is_hostile(way: Way) {
    let b = Bundle::new(way).args(["sleep", "1000"]);
    let host = Host::new(&b);
    let outside = host.outside.to_string_lossy().into_owned();
    let leak = format!("exec 7<{outside} 8</ 9<{outside}; exec \"$@\"");
    fs::copy("/bin/busybox", host.outside.join("sh")).unwrap();
    let host = Host {
        before: look(&host.outside),
        ..host
    };
    b.run_detached().ok();
    for n in 3..24 {
        for tail in ["", "/..", "/../.."] {
            let cwd = format!("/proc/self/fd/{n}{tail}");
            let call =
                b.call("exec")
                    .args(["--cwd", &cwd, &b.id, "sh", "-c", "pwd; ls -a; cat secret"]);
            let output = call.shell(&leak).run();
            assert!(
                !output.stdout.contains("untouched"),
                "{cwd}: {}",
                output.stdout
            );
            assert!(
                !output.stdout.contains("config.json"),
                "{cwd}: {}",
                output.stdout
            );
            let program = format!("/proc/self/fd/{n}{tail}/sh");
            let call = b.call("exec").args([&b.id, &program, "-c", "echo ran"]);
            let output = call.shell(&leak).run().exits(255);
            assert_eq!(output.stdout, "", "{program}");
            assert_eq!(
                output.stderr.lines().count(),
                1,
                "{program}: {}",
                output.stderr
            );
        }
    }
    assert_eq!(
        b.call("exec")
            .args(["--cwd", "/bin", &b.id, "pwd"])
            .run()
            .ok(),
        "/bin\n"
    );
    host.is_untouched("exec");
}

/// Where the container sees the host's processes, their links in /proc lead out: what getcwd(2) says
/// decides.
fn cwd_leads_out_through_other_processes(way: Way) {
    let b = Bundle::new(way).args(["sleep", "1000"]).config(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|n| n["type"] != "pid");
    });
    b.run_detached().ok();
    let own = std::process::id();
    for path in [format!("/proc/{own}/cwd"), format!("/proc/{own}/root/etc")] {
        let call = b.call("exec").args(["--cwd", &path, &b.id, "pwd"]);
        let line = call.run().fails_with(255);
        assert!(
            line.contains("outside of container mount namespace root"),
            "{line}"
        );
    }
}
