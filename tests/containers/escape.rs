//! The runtime's own executable and descriptors, out of the container's reach.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Call, Way, host, wait_for};
use crate::namespaces::users_bundle;
use crate::{inside, tests};

pub const TESTS: Tests = tests![
    binary_is_safe_from_an_entrypoint,
    from(binary_is_safe_from_an_exec_target),
    from(binary_is_safe_from_a_replaced_binary),
    from(binary_is_safe_from_what_enters),
    binary_is_safe_while_a_container_waits,
    stack_frames_have_a_canary,
    another_file_in_the_place_of_the_binary,
    waiting_init_is_out_of_reach,
    half_made_init_is_out_of_reach,
    from(interpreter_is_the_runtime),
    users_own_binary_is_sealed,
    no_descriptor_leaks,
    preserved_descriptors_are_those_asked_for,
    hooks_get_no_descriptor,
];

/// A copy of the runtime, that an attack may spoil.
struct Copy {
    path: PathBuf,
    content: Vec<u8>,
}

impl Copy {
    fn new(b: &Bundle) -> Copy {
        let path = b.dir.join("runz-copy");
        // No other file has that size: the attack must hit this one. Made by a shell, because a file that
        // is written here would be open in other tests' children, too, and couldn't be executed.
        let script = "cp \"$0\" \"$1\" && printf copy >> \"$1\"";
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", script]).arg(host::runtime()).arg(&path);
        assert!(shell.status().unwrap().success());
        let content = fs::read(&path).unwrap();
        Copy { path, content }
    }

    /// Has the call made by the copy. `script` ends with `exec "$@"`.
    fn makes(&self, call: Call) -> Call {
        let path = self.path.to_string_lossy();
        call.shell(&format!("shift; exec {path} \"$@\""))
    }

    fn role(&self) -> String {
        let (size, path) = (self.content.len(), self.path.display());
        format!("{}=overwrite {size} {path}", inside::ROLE)
    }

    #[track_caller]
    fn is_unchanged(&self, what: &str) {
        assert!(
            fs::read(&self.path).unwrap() == self.content,
            "{what}: the runtime was overwritten"
        );
    }

    /// What the attacker printed: it had the executable, and could do nothing with it.
    #[track_caller]
    fn resisted(&self, what: &str, printed: &str) {
        assert!(printed.starts_with("took "), "{what}: {printed}");
        assert!(
            !printed.starts_with("took 0\n"),
            "{what}: nothing was attacked: {printed}"
        );
        assert!(!printed.contains("WROTE"), "{what}: {printed}");
        assert!(!printed.contains("REACHED"), "{what}: {printed}");
        self.is_unchanged(what);
    }
}

/// All capabilities, no mask, no filter: all that a container without a user namespace can have.
fn privileged(spec: &mut Value) {
    // As many as we have ourselves.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status
        .lines()
        .find_map(|l| l.strip_prefix("CapPrm:"))
        .unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    let all: Vec<_> = (0..CAPABILITIES.len())
        .filter(|n| mask & 1 << n != 0)
        .map(|n| format!("CAP_{}", CAPABILITIES[n]))
        .collect();
    for set in ["bounding", "effective", "permitted"] {
        spec["process"]["capabilities"][set] = json!(all);
    }
    spec["linux"]["maskedPaths"] = json!([]);
    spec["linux"]["readonlyPaths"] = json!([]);
    spec["process"]["noNewPrivileges"] = json!(false);
}

/// capabilities(7), by number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A privileged container with the attacker in it, and a bundle on whose config.json the runtime
/// waits for ever when it's made to run inside.
fn bundle(way: Way) -> (Bundle, Copy) {
    let b = Bundle::new(way).config(privileged);
    let attack = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(b.rootfs("/attack"))
        .status();
    assert!(attack.unwrap().success());
    fs::create_dir(b.rootfs("/b")).unwrap();
    mkfifo(&b.rootfs("/b/config.json"), Mode::S_IRWXU).unwrap();
    let copy = Copy::new(&b);
    (b, copy)
}

/// The runtime as the container's own program: it stays until somebody writes the FIFO, or kills it.
const WAITS: [&str; 7] = [
    "/proc/self/exe",
    "--root",
    "/r",
    "run",
    "--bundle",
    "/b",
    "x",
];

/// The attacker as the program of a container, from which nobody outside waits: a process of the
/// host's that executed the copy would keep it from being written (ETXTBSY).
fn attacked(b: Bundle, copy: &Copy) -> Bundle {
    let role = copy.role();
    let b = b
        .script("/attack > /found 2>&1; echo end > /end")
        .config(|spec| {
            let env = spec["process"]["env"].as_array_mut().unwrap();
            env.push(json!(role));
        });
    copy.makes(b.make("run", &["--detach"])).run().ok();
    b
}

/// What the attacker found.
fn found(b: &Bundle) -> String {
    b.wait_file("/end");
    fs::read_to_string(b.rootfs("/found")).unwrap()
}

/// CVE-2019-5736 with `/proc/self/exe` as the entrypoint, in a pod: another container of the same pid
/// namespace attacks.
fn binary_is_safe_from_an_entrypoint(way: Way) {
    // Made before, for the attack takes its time, and no more.
    let (other, _) = bundle(way);
    let (b, copy) = bundle(way);
    let b = attacked(b, &copy);
    let pid = b.pid();
    let other = other.args(WAITS).config(|spec| {
        for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "pid" {
                namespace["path"] = json!(format!("/proc/{pid}/ns/pid"));
            }
        }
    });
    copy.makes(other.make("run", &["--detach"])).run().ok();
    // While it's made, init has the host's root, as it needs what is to be mounted; in a shared pid
    // namespace whoever has CAP_SYS_PTRACE sees that, with runc too.
    let found = found(&b);
    let lines = found.lines().filter(|line| !line.starts_with("REACHED"));
    let lines: Vec<_> = lines.collect();
    copy.resisted("entrypoint", &format!("{}\n", lines.join("\n")));
}

/// As the target of exec.
fn binary_is_safe_from_an_exec_target(way: Way) {
    let (b, copy) = bundle(way);
    let b = attacked(b, &copy);
    let mut words = vec!["--detach", &*b.id];
    words.extend(WAITS);
    copy.makes(b.call("exec").args(words)).run().ok();
    copy.resisted("exec target", &found(&b));
}

/// Processes on their way into the container are seen there before they execute anything.
fn binary_is_safe_from_what_enters(way: Way) {
    let (b, copy) = bundle(way);
    let b = attacked(b, &copy);
    while !b.rootfs("/end").exists() {
        let call = b.call("exec").args(["--detach", &b.id, "true"]);
        // It may be killed, or the container at its end.
        copy.makes(call).run();
    }
    let found = found(&b);
    assert!(!found.contains("WROTE"), "{found}");
    assert!(!found.contains("REACHED"), "{found}");
    copy.is_unchanged("entering");
}

/// The runtime's binary was removed, or another put in its place, since it was started: the container
/// gets a sealed copy.
fn binary_is_safe_from_a_replaced_binary(way: Way) {
    for script in [
        "cp P P.old; exec 9<P.old; rm P.old",
        "cp P P.old; exec 9<P.old; rm P.old; cp P 'P.old (deleted)'",
        "cp P P.old; exec 9<P.old; cp P P.new; mv P.new P.old",
    ] {
        let (b, copy) = bundle(way);
        let b = attacked(b, &copy);
        let path = copy.path.to_string_lossy().into_owned();
        let script = format!(
            "shift; {}; exec /proc/self/fd/9 \"$@\"",
            script.replace('P', &path)
        );
        let mut words = vec!["--detach", &*b.id];
        words.extend(WAITS);
        b.call("exec").args(words).shell(&script).run().ok();
        copy.resisted(&script, &found(&b));
        for name in ["runz-copy.old", "runz-copy.old (deleted)"] {
            let other = fs::read(b.dir.join(name));
            assert!(
                other.is_err() || other.unwrap() == copy.content,
                "{name} was overwritten"
            );
        }
    }
}

/// A container that is created and not started: its init waits as the runtime's executable, and processes
/// that enter see it. Once the program runs in its place nobody executes the file any more.
fn binary_is_safe_while_a_container_waits(way: Way) {
    let (b, copy) = bundle(way);
    let b = b.args(["sleep", "1000"]);
    copy.makes(b.make("create", &[])).run().ok();
    let attack = "/attack > /found 2>&1; echo end > /end";
    let words = ["--detach", "--env", &copy.role(), &b.id, "sh", "-c", attack];
    b.call("exec").args(words).run().ok();
    wait_for("an attacker who has the executable", || {
        b.rootfs("/taken").exists().then_some(())
    });
    b.start().ok();
    copy.resisted("created", &found(&b));
}

/// A container's process looks into every other one that is the runtime's still.
pub const LOOK_AT_THE_RUNTIMES: &str = r#"
    for p in /proc/[0-9]*; do
        [ "$(cat $p/comm 2>/dev/null)" = runz:init ] || continue
        echo found
        for file in environ maps mem auxv; do
            (: < $p/$file) 2>/dev/null && echo "opened $file"
        done
        for link in exe root cwd fd/0 fd/3 fd/4 fd/5 fd/6 fd/7 fd/8; do
            readlink $p/$link
        done
    done
    true"#;

/// Before it's started, init still has the memory that it shared with its parent: nobody of its pid
/// namespace, though he has the same capabilities, looks into it.
fn waiting_init_is_out_of_reach(way: Way) {
    let b = Bundle::new(way).args(["sleep", "1000"]);
    b.create().ok();
    assert_eq!(b.inside(LOOK_AT_THE_RUNTIMES), "found\n", "its own");
    b.start().ok();
    let pid = b.pid();
    let pod = Bundle::new(way).args(["sleep", "1000"]).config(|spec| {
        for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "pid" {
                namespace["path"] = json!(format!("/proc/{pid}/ns/pid"));
            }
        }
    });
    pod.create().ok();
    assert_eq!(b.inside(LOOK_AT_THE_RUNTIMES), "found\n", "a pod's");
}

/// The C library's start puts the kernel's random bytes where its functions look for them.
fn stack_frames_have_a_canary(way: Way) {
    let b = Bundle::new(way);
    b.create().ok();
    let pid = b.pid();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
    let auxv = fs::read(format!("/proc/{pid}/auxv")).unwrap();
    let at_random = auxv
        .chunks_exact(16)
        .find(|entry| word(&entry[..8]) == libc::AT_RANDOM)
        .unwrap();
    let mut random = [0; 16];
    memory
        .read_exact_at(&mut random, word(&at_random[8..]))
        .unwrap();
    random[0] = 0; // ends a string

    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let found = maps.lines().filter(|l| l.contains(" rw-p ")).any(|line| {
        let (first, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [first, end] = [first, end].map(|n| u64::from_str_radix(n, 16).unwrap());
        let mut content = vec![0; (end - first) as usize];
        memory.read_exact_at(&mut content, first).unwrap();
        content.windows(16).step_by(8).any(|words| words == random)
    });
    assert!(found, "{maps}");
}

/// A container with a user namespace, and the bundle of another one in its pid namespace and that.
pub fn pod_of_users(way: Way) -> (Bundle, Bundle) {
    let b = users_bundle(way).sleeper().config(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SYS_PTRACE"]);
        }
    });
    b.run_detached().ok();
    let pid = b.pid();
    let pod = users_bundle(way).config(|spec| {
        for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            let kind = namespace["type"].as_str().unwrap().to_owned();
            if matches!(&*kind, "pid" | "user") {
                namespace["path"] = json!(format!("/proc/{pid}/ns/{kind}"));
            }
        }
        for maps in ["uidMappings", "gidMappings"] {
            spec["linux"].as_object_mut().unwrap().remove(maps);
        }
    });
    (b, pod)
}

/// Before the pivot, its init's root is the host's.
fn half_made_init_is_out_of_reach(way: Way) {
    let (b, pod) = pod_of_users(way);
    let fifo = pod.dir.join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let mut pod = pod.config(|spec| {
        let args = json!(["cat", fifo]);
        spec["hooks"] = json!({"createRuntime": [{"path": "/bin/cat", "args": args}]});
    });
    // With offsets, init writes a file of its own in /proc before.
    for time in [false, true] {
        if time {
            pod.change(|spec| {
                let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.push(json!({"type": "time"}));
                let offsets = json!({"monotonic": {"secs": 7, "nanosecs": 0}});
                spec["linux"]["timeOffsets"] = offsets;
            });
        }
        let making = pod.make("run", &[]).spawn();
        // Before that it may be seen in passing.
        wait_for("an init that waits for its hooks", || {
            let hook = fs::read_to_string(format!("/proc/{0}/task/{0}/children", making.pid()));
            let children = hook.unwrap_or_default();
            let mut all = children.split_whitespace();
            all.any(|pid| {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
                comm.is_ok_and(|comm| comm == "cat\n")
            })
            .then_some(())
        });
        let seen = b.inside(LOOK_AT_THE_RUNTIMES);
        fs::write(&fifo, "").unwrap();
        making.wait().ok();
        assert_eq!(seen, "found\n");
    }
}

/// Something else is found by the binary's path by now: it's not mapped in the runtime's place.
fn another_file_in_the_place_of_the_binary(way: Way) {
    // By what the kernel says of a file that was removed; and by the very path, on another mount.
    for place in [
        r#"cp "$1" $D/x; exec 9<$D/x; rm $D/x; cp $D/junk "$D/x (deleted)""#,
        r#"mkdir $D/bin $D/over; cp "$1" $D/bin/x; cp $D/junk $D/over/x; exec 9<$D/bin/x
           mount --bind $D/over $D/bin"#,
    ] {
        let b = Bundle::new(way);
        let length = fs::metadata(host::runtime()).unwrap().len();
        fs::write(b.dir.join("junk"), vec![0xcc; length as usize]).unwrap();
        let dir = b.dir.join("place");
        let script = format!(
            "D={0}; rm -rf $D; mkdir $D; cp {0}/../junk $D
             exec unshare --mount sh -ec '{place}; shift; exec /proc/self/fd/9 \"$@\"' sh \"$@\"",
            dir.display()
        );
        let script = format!("export D; {script}");
        b.make("run", &[]).shell(&script).run().ok();
        let b = b.sleeper();
        b.run_detached().ok();
        let call = b.call("exec").args([&b.id, "echo", "ran"]);
        assert_eq!(call.shell(&script).run().ok(), "ran\n", "{place}");
    }
}

/// `#!/proc/self/exe`: the runtime is made to run by its own child's execve.
fn interpreter_is_the_runtime(way: Way) {
    let (b, copy) = bundle(way);
    fs::write(b.rootfs("/script"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(b.rootfs("/script"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("/proc/self/exe", b.rootfs("/link")).unwrap();
    for program in ["/script", "/link", "/proc/self/exe"] {
        let b = Bundle::new(way).config(|spec| {
            privileged(spec);
            spec["process"]["args"] = json!([program, "no-such-command"]);
            spec["root"]["path"] = json!(b.rootfs("/"));
        });
        // It runs, as the container's program, and knows no such command.
        let output = copy.makes(b.make("run", &[])).run();
        assert_ne!(output.code, 0, "{program}");
        copy.is_unchanged(program);
    }
}

/// Without root nobody can make the mount, nor seal before there is a user namespace: a user who owns
/// the binary gets a sealed copy all the same, in create and in exec.
fn users_own_binary_is_sealed(way: Way) {
    let (b, copy) = bundle(way);
    // The daemon serves its own user only.
    let b = b.auto();
    let dir = b.dir.to_string_lossy().into_owned();
    let template = b.dir.join("rootless");
    fs::create_dir(&template).unwrap();
    let spec = Call::new(["spec", "--rootless", "--bundle"]).arg(&template);
    spec.run().ok();
    let text = fs::read(template.join("config.json")).unwrap();
    let mut b = b;
    let role = copy.role();
    b.change(|spec| {
        *spec = serde_json::from_slice(&text).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["sh", "-c", "/attack > /found 2>&1; echo end > /end"]);
        spec["process"]["env"]
            .as_array_mut()
            .unwrap()
            .push(json!(role));
        spec["root"]["readonly"] = json!(false);
        for maps in ["uidMappings", "gidMappings"] {
            spec["linux"][maps] = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
        }
    });
    let status = Command::new("chown")
        .args(["-R", &format!("{USER}:{USER}"), &dir])
        .status();
    assert!(status.unwrap().success());
    let path = copy.path.to_string_lossy();
    let as_user = format!(
        "shift; exec setpriv --reuid {USER} --regid {USER} --clear-groups \
         env XDG_RUNTIME_DIR={dir} {path} \"$@\""
    );
    let made = b.make("run", &["--detach"]).shell(&as_user).run();
    made.exits(0);
    let file = b.dir.join("pid").to_string_lossy().into_owned();
    let mut words = vec!["--detach", "--pid-file", &file, &*b.id];
    words.extend(WAITS);
    let call = b.call("exec").args(words);
    call.shell(&as_user).run().exits(0);
    let found = found(&b);
    // It was killed, in a cgroup that is ours: nobody else reaps it.
    let pid = fs::read_to_string(&file).unwrap().parse().unwrap();
    let _ = waitpid(Pid::from_raw(pid), None);
    copy.resisted("a user's own binary", &found);
}

/// Nobody's number on most machines.
const USER: u32 = 61_234;

/// Opens a directory, a file and a socket-like pair in the runtime's caller.
const LEAK: &str = "exec 3</ 5</etc/passwd 7</etc 8</ 9<>/dev/zero; exec \"$@\"";

/// The descriptors of a process, once they are no more than `count`.
fn open(pid: i32, count: usize) -> Vec<u32> {
    let list = || {
        let mut all: Vec<u32> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().parse().unwrap())
            .collect();
        all.sort_unstable();
        all
    };
    // Until it executes its program it has a few of the runtime's.
    wait_for("the program's descriptors alone", || {
        (list().len() <= count).then(list)
    })
}

fn no_descriptor_leaks(way: Way) {
    let b = Bundle::new(way).args(["sleep", "1000"]);
    b.make("create", &[]).shell(LEAK).run().ok();
    b.call("start").arg(&b.id).shell(LEAK).run().ok();
    assert_eq!(open(b.pid(), 3), [0, 1, 2]);
    let file = b.dir.join("pid").to_string_lossy().into_owned();
    let call = b
        .call("exec")
        .args(["--detach", "--pid-file", &file, &b.id, "sleep", "1000"]);
    call.shell(LEAK).run().ok();
    let pid = fs::read_to_string(&file).unwrap().parse().unwrap();
    assert_eq!(open(pid, 3), [0, 1, 2]);
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let _ = waitpid(Pid::from_raw(pid), None);
}

fn preserved_descriptors_are_those_asked_for(way: Way) {
    let leak = "exec 3</ 4</etc/passwd 5</etc 9</; exec \"$@\"";
    let b = Bundle::new(way).args(["sleep", "1000"]);
    let call = b
        .make("run", &["--detach", "--preserve-fds", "2"])
        .shell(leak);
    call.run().ok();
    assert_eq!(open(b.pid(), 5), [0, 1, 2, 3, 4]);
    b.call("delete").args(["--force", &b.id]).run().ok();
    // One of them isn't open.
    let call = b.make("run", &["--preserve-fds", "4"]).shell(leak);
    let line = call.run().fails();
    assert!(line.contains("preserved-fd 3"), "{line}");
}

fn hooks_get_no_descriptor(way: Way) {
    let kinds = [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ];
    let b = Bundle::new(way).args(["true"]);
    let out = b.dir.join("fds");
    fs::create_dir(&out).unwrap();
    let b = b.config(|spec| {
        for kind in kinds {
            let (directory, shell) = match kind {
                "startContainer" => ("/".to_owned(), "/bin/sh"),
                _ => (out.to_string_lossy().into_owned(), "/bin/sh"),
            };
            let script = format!("cd /proc/self/fd; for f in *; do [ -h $f ] && echo $f; done > {directory}/{kind}; true");
            spec["hooks"][kind] = json!([{"path": shell, "args": ["sh", "-c", script]}]);
        }
    });
    b.make("run", &[]).shell(LEAK).run().ok();
    for kind in kinds {
        let path = match kind {
            "startContainer" => b.rootfs("/startContainer"),
            _ => out.join(kind),
        };
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let numbers: Vec<u32> = text.lines().map(|l| l.parse().unwrap()).collect();
        // The shell's own: its script is no file, but it may keep what it redirects (10).
        let foreign: Vec<_> = numbers.iter().filter(|n| **n > 2 && **n != 10).collect();
        assert!(
            foreign.len() <= 1 && !foreign.contains(&&5) && !foreign.contains(&&9),
            "{kind}: {numbers:?}"
        );
    }
}
