//! The sentences of failures: one line that names the object, what failed and why.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way};
use crate::tests;

pub const TESTS: Tests = tests![
    create_says_what_is_wrong,
    from(run_says_what_exec_refuses),
    from(exec_says_what_is_wrong),
    namespace_denied,
    cgroup_not_writable,
    state_root_not_writable,
];

/// What is done to a bundle, and what `create` says then; ID and DIR stand for the bundle's.
type Row = (fn(&mut Bundle), &'static str);

fn write(b: &Bundle, path: &str, content: &[u8], mode: u32) {
    let path = b.rootfs(path);
    fs::write(&path, content).expect("write a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// The head of a 64-bit ELF executable for `machine`, with `interpreter` if it isn't empty (elf(5)).
fn elf(machine: u16, interpreter: &str) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    put(&2u16.to_le_bytes()); // ET_EXEC
    put(&machine.to_le_bytes());
    put(&1u32.to_le_bytes());
    put(&0x40_1000u64.to_le_bytes()); // entry
    put(&64u64.to_le_bytes()); // program headers
    put(&0u64.to_le_bytes());
    put(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        put(&half.to_le_bytes());
    }
    let length = interpreter.len() as u64 + 1;
    put(&3u32.to_le_bytes()); // PT_INTERP
    put(&4u32.to_le_bytes());
    for word in [120u64, 0, 0, length, length, 1] {
        put(&word.to_le_bytes());
    }
    put(interpreter.as_bytes());
    put(&[0]);
    file
}

fn program(b: &mut Bundle, path: &str) {
    b.change(|spec| spec["process"]["args"] = json!([path]));
}

fn mount(b: &mut Bundle, mount: Value) {
    b.change(|spec| spec["mounts"] = json!([mount]));
}

const ROWS: &[Row] = &[
    (
        |b| fs::remove_file(b.dir.join("config.json")).expect("remove"),
        r#"JSON specification file config.json not found in "DIR""#,
    ),
    (
        |b| {
            fs::write(
                b.dir.join("config.json"),
                "{\n  \"ociVersion\": \"1.0.0\",\n  \"root\": {,\n",
            )
            .expect("write")
        },
        r#"config.json: not JSON: key must be a string at line 3 column 12"#,
    ),
    (
        |b| fs::write(b.dir.join("config.json"), "").expect("write"),
        r#"config.json: not JSON: EOF while parsing a value at line 1 column 0"#,
    ),
    (
        |b| b.change(|s| s["process"]["user"]["uid"] = json!("root")),
        r#"config.json: process.user.uid: invalid type: string "root", expected u32"#,
    ),
    (
        |b| b.change(|s| s["process"]["terminal"] = json!(1)),
        r#"config.json: process.terminal: invalid type: integer `1`, expected a boolean"#,
    ),
    (
        |b| b.change(|s| s["mounts"][1]["options"] = json!("ro")),
        r#"config.json: mounts[1].options: invalid type: string "ro", expected a sequence"#,
    ),
    (
        |b| {
            b.change(|s| s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_XX"}]}]}))
        },
        r#"config.json: linux.seccomp.syscalls[0].args[0].op: unknown variant `SCMP_CMP_XX`, expected one of `SCMP_CMP_NE`, `SCMP_CMP_LT`, `SCMP_CMP_LE`, `SCMP_CMP_EQ`, `SCMP_CMP_GE`, `SCMP_CMP_GT`, `SCMP_CMP_MASKED_EQ`"#,
    ),
    (
        |b| b.change(|s| s["linux"]["namespaces"][0]["type"] = json!("zoo")),
        r#"config.json: linux.namespaces[0].type: unknown variant `zoo`, expected one of `mount`, `cgroup`, `uts`, `ipc`, `user`, `pid`, `network`, `time`"#,
    ),
    (
        |b| b.change(|s| s["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "pid"}])),
        r#"linux.namespaces[1]: duplicated ns "pid""#,
    ),
    (
        |b| b.change(|s| s["ociVersion"] = json!("2.0.0")),
        r#"config.json: ociVersion: "2.0.0" is not supported, accepted is 1.x.y"#,
    ),
    (
        |b| {
            b.change(|s| {
                s.as_object_mut().expect("object").remove("ociVersion");
            })
        },
        r#"config.json: ociVersion: is missing"#,
    ),
    (
        |b| {
            b.change(|s| {
                s.as_object_mut().expect("object").remove("root");
            })
        },
        r#"root: must be specified"#,
    ),
    (
        |b| b.change(|s| s["process"]["args"] = json!([])),
        r#"process.args: args must not be empty"#,
    ),
    (
        |b| b.change(|s| s["process"]["cwd"] = json!("relative")),
        r#"process.cwd: "relative" must be an absolute path"#,
    ),
    (
        |b| {
            b.change(|s| {
                s["process"]["rlimits"] = json!([{"type": "RLIMIT_ZOO", "soft": 1, "hard": 1}])
            })
        },
        r#"config.json: process.rlimits[0].type: unknown variant `RLIMIT_ZOO`, expected one of `RLIMIT_CPU`, `RLIMIT_FSIZE`, `RLIMIT_DATA`, `RLIMIT_STACK`, `RLIMIT_CORE`, `RLIMIT_RSS`, `RLIMIT_NPROC`, `RLIMIT_NOFILE`, `RLIMIT_MEMLOCK`, `RLIMIT_AS`, `RLIMIT_LOCKS`, `RLIMIT_SIGPENDING`, `RLIMIT_MSGQUEUE`, `RLIMIT_NICE`, `RLIMIT_RTPRIO`, `RLIMIT_RTTIME`"#,
    ),
    (
        |b| {
            b.change(|s| {
                s["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}])
            })
        },
        r#"process.rlimits[0].soft: 2 is above hard, 1"#,
    ),
    (
        |b| b.change(|s| s["root"]["path"] = json!("missing")),
        r#"root.path: invalid rootfs: "DIR/missing": no such file or directory (ENOENT)"#,
    ),
    (
        |b| b.change(|s| s["root"]["path"] = json!("config.json")),
        r#"root.path: invalid rootfs: "DIR/config.json" is not a directory"#,
    ),
    (
        |b| {
            symlink("rootfs", b.dir.join("link")).expect("symlink");
            b.change(|s| s["root"]["path"] = json!("link"))
        },
        r#"root.path: invalid rootfs: "DIR/link" is not an absolute path, or a symlink"#,
    ),
    (
        |b| program(b, "nothing"),
        r#"unable to start container process: error during container init: exec: "nothing": executable file not found in $PATH"#,
    ),
    (
        |b| program(b, "/bin/nothing"),
        r#"unable to start container process: error during container init: exec: "/bin/nothing": stat /bin/nothing: no such file or directory"#,
    ),
    (
        |b| program(b, "/bin/sh/nothing"),
        r#"unable to start container process: error during container init: exec: "/bin/sh/nothing": stat /bin/sh/nothing: not a directory"#,
    ),
    (
        |b| program(b, "/bin"),
        r#"unable to start container process: error during container init: exec: "/bin": is a directory"#,
    ),
    (
        |b| {
            write(b, "plain", b"text", 0o644);
            program(b, "/plain")
        },
        r#"unable to start container process: error during container init: exec: "/plain": permission denied"#,
    ),
    (
        |b| {
            write(b, "bin/plain", b"text", 0o644);
            program(b, "plain")
        },
        r#"unable to start container process: error during container init: exec: "plain": permission denied"#,
    ),
    (
        |b| {
            write(b, "arm", &elf(183, ""), 0o755);
            program(b, "/arm")
        },
        r#"unable to start container process: exec: "/arm": exec format error: a program for AArch64, and no binfmt_misc handler is registered"#,
    ),
    (
        |b| {
            write(b, "script", b"#! /usr/bin/python9 -u\n", 0o755);
            program(b, "/script")
        },
        r#"unable to start container process: error during container init: exec /script: no such file or directory: its interpreter "/usr/bin/python9" (line 1, after #!) is not in the container"#,
    ),
    (
        |b| {
            write(b, "dynamic", &elf(62, "/lib64/ld-zoo.so.1"), 0o755);
            program(b, "/dynamic")
        },
        r#"unable to start container process: error during container init: exec /dynamic: no such file or directory: its ELF loader "/lib64/ld-zoo.so.1" is not in the container"#,
    ),
    (
        |b| {
            write(b, "bin/dynamic", &elf(62, "/lib64/ld-zoo.so.1"), 0o755);
            program(b, "dynamic")
        },
        r#"unable to start container process: error during container init: exec dynamic: no such file or directory: its ELF loader "/lib64/ld-zoo.so.1" is not in the container"#,
    ),
    (
        |b| {
            mount(
                b,
                json!({"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]}),
            )
        },
        r#"unable to start container process: error during container init: error mounting "/no/such/source" to rootfs at "/x": mounts[0]: open source: no such file or directory (ENOENT)"#,
    ),
    (
        |b| {
            mount(
                b,
                json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=zoo"]}),
            )
        },
        r#"unable to start container process: error during container init: error mounting "tmpfs" to rootfs at "/x": mounts[0]: option "size=zoo" (tmpfs: Bad value for 'size'): invalid argument (EINVAL)"#,
    ),
    (
        |b| {
            mount(
                b,
                json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["zoo=1"]}),
            )
        },
        r#"unable to start container process: error during container init: error mounting "tmpfs" to rootfs at "/x": mounts[0]: option "zoo=1" (tmpfs: Unknown parameter 'zoo'): invalid argument (EINVAL)"#,
    ),
    (
        |b| {
            mount(
                b,
                json!({"destination": "/x", "type": "zoofs", "source": "zoo"}),
            )
        },
        r#"unable to start container process: error during container init: error mounting "zoo" to rootfs at "/x": mounts[0]: unknown file system type "zoofs": no such device (ENODEV)"#,
    ),
    (
        |b| mount(b, json!({"destination": "/x", "source": "/tmp"})),
        r#"mounts[0].type: is needed unless the options have bind or rbind"#,
    ),
    (
        |b| {
            mount(
                b,
                json!({"destination": "/", "type": "tmpfs", "source": "tmpfs"}),
            )
        },
        r#"mounts[0].destination: "/" is the root itself, nothing can be mounted there"#,
    ),
    (
        |b| {
            mount(
                b,
                json!({"destination": "/x", "type": "bind", "source": "/tmp", "options": ["bind", "size=4"]}),
            )
        },
        r#"mounts[0].options[1] "size=4": bind mounts cannot have any filesystem-specific options applied"#,
    ),
    (
        |b| {
            mount(
                b,
                json!({"destination": "/x", "type": "ext4", "source": "/dev/null"}),
            )
        },
        r#"unable to start container process: error during container init: error mounting "/dev/null" to rootfs at "/x": mounts[0]: mount (/dev/null: Can't lookup blockdev): block device required (ENOTBLK)"#,
    ),
    (
        |b| {
            fs::write(b.rootfs("file"), "").expect("write");
            mount(
                b,
                json!({"destination": "/file/x", "type": "tmpfs", "source": "tmpfs"}),
            )
        },
        r#"unable to start container process: error during container init: error mounting "tmpfs" to rootfs at "/file/x": mounts[0]: create mountpoint: not a directory (ENOTDIR)"#,
    ),
    (
        |b| {
            fs::write(b.rootfs("file"), "").expect("write");
            mount(
                b,
                json!({"destination": "/file", "type": "tmpfs", "source": "tmpfs"}),
            )
        },
        r#"unable to start container process: error during container init: error mounting "tmpfs" to rootfs at "/file": mounts[0]: attach (a directory can't be mounted on a file): not a directory (ENOTDIR)"#,
    ),
    (
        |b| {
            fs::write(b.rootfs("file"), "").expect("write");
            mount(
                b,
                json!({"destination": "/file", "type": "bind", "source": "/proc", "options": ["bind"]}),
            )
        },
        r#"unable to start container process: error during container init: error mounting "/proc" to rootfs at "/file": mounts[0]: attach (a directory can't be mounted on a file): not a directory (ENOTDIR)"#,
    ),
    (
        |b| {
            mount(
                b,
                json!({"destination": "/tmp", "type": "bind", "source": "/dev/null", "options": ["bind"]}),
            );
            fs::create_dir(b.rootfs("tmp")).expect("mkdir");
        },
        r#"unable to start container process: error during container init: error mounting "/dev/null" to rootfs at "/tmp": mounts[0]: attach (a file can't be mounted on a directory): not a directory (ENOTDIR)"#,
    ),
    (
        |b| {
            fs::write(b.rootfs("file"), "").expect("write");
            mount(
                b,
                json!({"destination": "/file", "type": "cgroup", "source": "cgroup"}),
            )
        },
        r#"unable to start container process: error during container init: error mounting "cgroup" to rootfs at "/file": mounts[0]: attach (a directory can't be mounted on a file): not a directory (ENOTDIR)"#,
    ),
    (
        |b| b.change(|s| s["process"]["user"]["uid"] = json!(u32::MAX)),
        r#"process.user.uid: cannot setuid to 4294967295, which is no user"#,
    ),
    (
        |b| {
            let limit = json!({"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1u64 << 40});
            b.change(|s| s["process"]["rlimits"] = json!([limit]));
        },
        r#"unable to start container process: process.rlimits[0]: setrlimit (RLIMIT_NOFILE can't be above /proc/sys/fs/nr_open): operation not permitted (EPERM)"#,
    ),
    (
        |b| b.change(|s| s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"})),
        r#"unable to start container process: container init was killed by signal 31: bad system call (SIGSYS); does linux.seccomp forbid what is needed to start a program?"#,
    ),
    (
        |b| b.change(|s| s["linux"]["sysctl"] = json!({"kernel.hostname": "x"})),
        r#"linux.sysctl: sysctl "kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field"#,
    ),
    (
        |b| b.change(|s| s["linux"]["sysctl"] = json!({"vm.swappiness": "1"})),
        r#"linux.sysctl: sysctl "vm.swappiness" is not in a separate kernel namespace"#,
    ),
    (
        |b| b.change(|s| s["linux"]["sysctl"] = json!({"kernel.shmmax": "zoo"})),
        r#"unable to start container process: error during container init: linux.sysctl.kernel.shmmax: write sysctl "zoo": invalid argument (EINVAL)"#,
    ),
    (
        |b| {
            b.change(|s| {
                s["linux"]["namespaces"] =
                    json!([{"type": "mount"}, {"type": "network", "path": "/no/such/netns"}])
            })
        },
        r#"unable to start container process: linux.namespaces[1].path: open "/no/such/netns": no such file or directory (ENOENT)"#,
    ),
    (
        |b| {
            b.change(|s| {
                s["linux"]["namespaces"] =
                    json!([{"type": "mount"}, {"type": "network", "path": "/proc/self/ns/ipc"}])
            })
        },
        r#"unable to start container process: linux.namespaces[1].path: "/proc/self/ns/ipc" is a namespace of another type"#,
    ),
    (
        |b| {
            b.change(|s| {
                s["linux"]["namespaces"] =
                    json!([{"type": "mount"}, {"type": "network", "path": "/bin/sh"}])
            })
        },
        r#"unable to start container process: linux.namespaces[1].path: "/bin/sh" is not a namespace"#,
    ),
    (
        |b| b.change(|s| s["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "user"}])),
        r#"linux.uidMappings: user namespaces enabled, but no namespace path to join nor mappings to apply specified"#,
    ),
    (
        |b| b.change(|s| s["linux"]["resources"]["memory"] = json!({"limit": 100000000})),
        r#"unable to start container process: linux.resources.memory.limit: controller "memory" not available in cgroup CGROUP"#,
    ),
    (
        |b| b.change(|s| s["linux"]["resources"]["cpu"] = json!({"shares": 100})),
        r#"unable to start container process: linux.resources.cpu.shares: controller "cpu" not available in cgroup CGROUP"#,
    ),
    (
        |b| b.change(|s| s["linux"]["resources"]["unified"] = json!({"zoo.max": "1"})),
        r#"unable to start container process: linux.resources.unified["zoo.max"]: unified resource "zoo.max" can't be set: controller "zoo" not available"#,
    ),
    (
        |b| b.change(|s| s["process"]["apparmorProfile"] = json!("zoo")),
        r#"process.apparmorProfile: apparmor: config provided but apparmor not supported"#,
    ),
    (
        |b| b.change(|s| s["process"]["selinuxLabel"] = json!("zoo")),
        r#"process.selinuxLabel: selinux label is specified in config, but selinux is disabled or not supported"#,
    ),
    (
        |b| {
            b.change(|s| {
                s["linux"]["devices"] =
                    json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 1}])
            })
        },
        r#"config.json: linux.devices[0].type: unknown variant `z`, expected one of `a`, `b`, `c`, `u`, `p`"#,
    ),
    (
        |b| b.change(|s| s["linux"]["rootfsPropagation"] = json!("zoo")),
        r#"linux.rootfsPropagation: rootfsPropagation="zoo" is not supported, accepted are private, slave, shared, unbindable and the same with an r before"#,
    ),
    (
        |b| b.change(|s| s["hooks"] = json!({"createRuntime": [{"path": "relative"}]})),
        r#"hooks.createRuntime[0].path: "relative" is not absolute"#,
    ),
    (
        |b| b.change(|s| s["hooks"] = json!({"createRuntime": [{"path": "/no/such/hook"}]})),
        r#"unable to start container process: error running createRuntime hook #0: fork/exec /no/such/hook: no such file or directory (ENOENT)"#,
    ),
    (
        |b| {
            b.change(|s| {
                s["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "priority": 3})
            })
        },
        r#"process.scheduler.priority: scheduler.priority can only be specified for SchedFIFO or SchedRR policy"#,
    ),
    (
        |b| b.change(|s| s["linux"]["personality"] = json!({"domain": "ZOO"})),
        r#"config.json: linux.personality.domain: unknown variant `ZOO`, expected `LINUX` or `LINUX32`"#,
    ),
];

/// A failure's line, with the bundle's own words in capitals, and without what is the same in all.
fn told(b: &Bundle, line: String, prefix: &str) -> String {
    let line = line.replace(&*b.dir.to_string_lossy(), "DIR");
    let line = line.replace(&*b.cgroup().to_string_lossy(), "CGROUP");
    let line = line.replace(&b.id, "ID");
    match line.strip_prefix(prefix) {
        Some(rest) => rest.to_owned(),
        None => panic!("{line} doesn't begin with {prefix}"),
    }
}

fn create_says_what_is_wrong(way: Way) {
    let mut wrong = String::new();
    for (spoil, wanted) in ROWS {
        let mut b = Bundle::new(way);
        // Some rows have no uts namespace.
        b.change(|spec| {
            spec.as_object_mut().expect("an object").remove("hostname");
        });
        spoil(&mut b);
        let said = told(
            &b,
            b.create().fails(),
            "runz: create \"ID\": runc create failed: ",
        );
        if said != *wanted {
            wrong.push_str(&format!("\nwanted: {wanted}\n   got: {said}"));
        }
        assert!(
            !b.root.join(&b.id).exists(),
            "{said}: left its state directory"
        );
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn run_says_what_exec_refuses(way: Way) {
    for content in [&b""[..], b"\x01\x02\x03\x04junk"] {
        let mut b = Bundle::new(way);
        write(&b, "junk", content, 0o755);
        program(&mut b, "/junk");
        let said = told(&b, b.run().fails(), "runz: run \"ID\": runc run failed: ");
        let wanted = r#"unable to start container process: exec "/junk": exec format error"#;
        assert_eq!(said, wanted);
    }
}

fn exec_says_what_is_wrong(way: Way) {
    let b = Bundle::new(way).sleeper();
    write(&b, "plain", b"text", 0o644);
    write(&b, "arm", &elf(183, ""), 0o755);
    write(&b, "script", b"#!/usr/bin/python9\n", 0o755);
    write(&b, "dynamic", &elf(62, "/lib64/ld-zoo.so.1"), 0o755);
    b.run_detached().ok();

    for (args, wanted) in [
        (
            &["nothing"][..],
            r#"exec: "nothing": executable file not found in $PATH"#,
        ),
        (
            &["/nothing"],
            r#"exec: "/nothing": stat /nothing: no such file or directory"#,
        ),
        (&["/bin"], r#"exec: "/bin": is a directory"#),
        (&["/plain"], r#"exec: "/plain": permission denied"#),
        (
            &["/arm"],
            r#"exec: "/arm": exec format error: a program for AArch64, and no binfmt_misc handler is registered"#,
        ),
        (
            &["/dynamic"],
            r#"exec /dynamic: no such file or directory: its ELF loader "/lib64/ld-zoo.so.1" is not in the container"#,
        ),
        (
            &["/script"],
            r#"exec /script: no such file or directory: its interpreter "/usr/bin/python9" (line 1, after #!) is not in the container"#,
        ),
    ] {
        let said = told(
            &b,
            b.exec(args).fails_with(255),
            "runz: exec \"ID\": exec failed: unable to start container process: ",
        );
        assert_eq!(said, wanted);
    }
    // Read by the verb, not by its flags: its exit code, and no help.
    for (flags, wanted) in [
        (
            ["--user", "root"],
            r#"invalid value "root" for flag -user: bad uid: not a number from 0 to 4294967295 (names are not looked up)"#,
        ),
        (
            ["--cgroup", "nothing"],
            r#"unable to start container process: --cgroup: cgroup not exist: CGROUP/nothing: no such file or directory (ENOENT)"#,
        ),
        (
            ["--cwd", "/bin/busybox"],
            r#"unable to start container process: process.cwd: chdir to cwd ("/bin/busybox"): not a directory (ENOTDIR)"#,
        ),
    ] {
        let out = b.call("exec").args(flags).args([&b.id, "true"]).run();
        assert_eq!(out.stdout, "", "{flags:?}");
        let said = told(&b, out.fails_with(255), "runz: exec \"ID\": exec failed: ");
        assert_eq!(said, wanted);
    }
    let out = b
        .call("exec")
        .args(["--cap", "CAP_ZOO", &b.id, "true"])
        .run();
    let said = out.exits(0).stderr;
    assert!(
        said.contains("ignoring unknown or unavailable capabilities: [CAP_ZOO]"),
        "{said}"
    );
    for (process, wanted) in [
        (
            "{",
            r#"--process "DIR/p.json": not JSON: EOF while parsing an object at line 1 column 1"#,
        ),
        (
            r#"{"cwd": 1, "args": ["sh"]}"#,
            r#"--process "DIR/p.json": process.cwd: invalid type: integer `1`, expected path string"#,
        ),
        (
            r#"{"cwd": "/", "args": []}"#,
            "process.args: args must not be empty",
        ),
    ] {
        fs::write(b.dir.join("p.json"), process).expect("write");
        let call = b
            .call("exec")
            .arg("--process")
            .arg(b.dir.join("p.json"))
            .arg(&b.id);
        let said = told(
            &b,
            call.run().fails_with(255),
            "runz: exec \"ID\": exec failed: ",
        );
        assert_eq!(said, wanted);
    }
}

fn namespace_denied(way: Way) {
    // Kits are of the host's user namespace.
    let b = Bundle::new(way).auto();
    // A user namespace has limits of its own (namespaces(7)).
    let enter = "exec unshare --user --map-root-user sh -c \
                 'echo 0 > /proc/sys/user/max_net_namespaces && exec \"$@\"' sh \"$@\"";
    let said = b.make("create", &[]).shell(enter).run().fails();
    let wanted = "make namespaces (mount, uts, ipc, pid, network, cgroup): no space left on device \
                  (ENOSPC); a limit of /proc/sys/user/max_*_namespaces, or of their nesting, is reached";
    assert!(said.ends_with(wanted), "{said}");
}

fn cgroup_not_writable(way: Way) {
    let b = Bundle::new(way);
    let enter = "exec unshare --mount sh -c \
                 'mount -o remount,bind,ro /sys/fs/cgroup && exec \"$@\"' sh \"$@\"";
    let said = b.make("create", &[]).shell(enter).run().fails();
    let wanted = format!(
        "unable to apply cgroup configuration: mkdir {}: read-only file system (EROFS)",
        b.cgroup().display()
    );
    assert!(said.ends_with(&wanted), "{said}");
}

fn state_root_not_writable(way: Way) {
    let b = Bundle::new(way).without_daemon();
    fs::write(&b.root, "").expect("write a file where the state root is to be");
    let said = b.create().fails();
    let wanted = format!(
        "make state directory {:?}: not a directory (ENOTDIR)",
        b.root.join(&b.id)
    );
    assert!(said.ends_with(&wanted), "{said}");
    fs::remove_file(&b.root).expect("remove");
}
