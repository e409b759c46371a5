//! Seccomp: what a filter does to a running program, and the listener.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way, socket, wait_for};
use crate::tests;

pub const TESTS: Tests = tests![
    from(errno_of_each_rule),
    from(default_action),
    from(arguments),
    from(kill_ends_the_process),
    from(exec_is_filtered_too),
    from(filter_without_no_new_privileges),
    from(unknown_names_are_skipped),
    listener_is_handed_over,
];

fn filter(b: Bundle, seccomp: Value) -> Bundle {
    b.config(|spec| spec["linux"]["seccomp"] = seccomp)
}

fn deny(name: &str, rule: Value) -> Value {
    let mut rule = rule;
    rule["names"] = json!([name]);
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [rule],
    })
}

const MKDIR: &str = "mkdir /made 2>&1; echo done";

fn errno_of_each_rule(way: Way) {
    for (rule, wanted) in [
        (
            json!({"action": "SCMP_ACT_ERRNO"}),
            "Operation not permitted",
        ),
        (
            json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 28}),
            "No space left on device",
        ),
        (
            json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 38}),
            "Function not implemented",
        ),
    ] {
        let b = filter(Bundle::new(way).script(MKDIR), deny("mkdir", rule));
        let out = b.run().ok();
        assert!(out.contains(wanted) && out.ends_with("done\n"), "{out}");
        assert!(!b.rootfs("made").exists());
    }
}

fn default_action(way: Way) {
    let b = filter(
        Bundle::new(way).script(MKDIR),
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 13,
            "syscalls": [{
                "names": ["execve", "brk", "mmap", "munmap", "mprotect", "read", "write", "open",
                    "openat", "close", "fstat", "stat", "newfstatat", "lseek", "ioctl", "fcntl",
                    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "arch_prctl", "set_tid_address",
                    "set_robust_list", "rseq", "prlimit64", "readlink", "readlinkat", "getrandom",
                    "uname", "getuid", "geteuid", "getgid", "getegid", "getpid", "getppid", "getcwd",
                    "clone", "fork", "vfork", "wait4", "exit", "exit_group", "dup2", "poll", "access",
                    "setuid", "setgid", "setgroups", "capset", "capget", "prctl", "chdir", "fchdir",
                    "close_range", "writev", "sysinfo", "umask", "getpgrp", "setsid", "futex"],
                "action": "SCMP_ACT_ALLOW",
            }],
        }),
    );
    let out = b.run().ok();
    assert!(
        out.contains("Permission denied") && out.ends_with("done\n"),
        "{out}"
    );
}

fn arguments(way: Way) {
    // kill(2) with signal 10 only.
    let rule = json!({
        "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
        "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}],
    });
    let b = filter(
        Bundle::new(way).script("sleep 10 & kill -10 $! 2>&1; kill -15 $! && echo killed"),
        deny("kill", rule),
    );
    let out = b.run().ok();
    assert!(
        out.contains("Invalid argument") && out.ends_with("killed\n"),
        "{out}"
    );
}

fn kill_ends_the_process(way: Way) {
    for action in ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL", "SCMP_ACT_TRAP"] {
        let b = filter(
            Bundle::new(way).script("mkdir /made; echo code $?"),
            deny("mkdir", json!({"action": action})),
        );
        // SIGSYS, 31.
        assert_eq!(b.run().exits(0).stdout, "code 159\n", "{action}");
    }
}

fn exec_is_filtered_too(way: Way) {
    let rule = json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 28});
    let b = filter(Bundle::new(way).sleeper(), deny("mkdir", rule));
    b.run_detached().ok();
    let out = b.inside(MKDIR);
    assert!(out.contains("No space left"), "{out}");
    let status = b.inside("grep -E '^Seccomp:' /proc/self/status");
    assert_eq!(status, "Seccomp:\t2\n");
}

fn filter_without_no_new_privileges(way: Way) {
    let rule = json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 28});
    let b = filter(
        Bundle::new(way)
            .script("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; mkdir /made 2>&1; :"),
        deny("mkdir", rule),
    );
    let b = b.config(|spec| spec["process"]["noNewPrivileges"] = json!(false));
    let out = b.run().ok();
    assert!(out.starts_with("NoNewPrivs:\t0\nSeccomp:\t2\n"), "{out}");
    assert!(out.contains("No space left"), "{out}");
}

fn unknown_names_are_skipped(way: Way) {
    let mut profile = deny("mkdir", json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 28}));
    profile["syscalls"][0]["names"] = json!(["zoo_call", "mkdir"]);
    let b = filter(Bundle::new(way).script(MKDIR), profile);
    assert!(b.run().ok().contains("No space left"));
}

fn listener_is_handed_over(way: Way) {
    let b = Bundle::new(way);
    let path = b.dir.join("agent");
    let listener = UnixListener::bind(&path).expect("bind");
    listener.set_nonblocking(true).expect("set O_NONBLOCK");
    let mut profile = deny("mkdir", json!({"action": "SCMP_ACT_NOTIFY"}));
    profile["listenerPath"] = json!(path);
    profile["listenerMetadata"] = json!("words of ours");
    let b = filter(b.script(MKDIR), profile);
    let take = || {
        let stream = wait_for("the runtime's connection", || listener.accept().ok()).0;
        stream.set_nonblocking(false).expect("clear O_NONBLOCK");
        let (data, fds) = socket::receive(stream.as_fd());
        assert_eq!(fds.len(), 1);
        let state: Value = serde_json::from_slice(&data).expect("JSON");
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "words of ours");
        assert_eq!(state["state"]["id"], b.id);
        (state, fds)
    };
    let create = b.make("create", &[]).spawn();
    let (state, fds) = take();
    create.wait().ok();
    assert_eq!(state["state"]["status"], "creating");
    assert_eq!(state["pid"], b.pid());
    use std::os::fd::AsRawFd;
    let kind = fs::read_link(format!("/proc/self/fd/{}", fds[0].as_raw_fd())).expect("readlink");
    assert_eq!(kind.to_string_lossy(), "anon_inode:seccomp notify");
    // Nobody answers any more: the kernel says ENOSYS (seccomp_unotify(2)).
    drop(fds);
    let exec = b.call("exec").args([&b.id, "sh", "-c", MKDIR]).spawn();
    let (state, fds) = take();
    assert_eq!(state["state"]["status"], "running");
    drop(fds);
    let out = exec.wait().ok();
    assert!(out.contains("Function not implemented"), "{out}");
}
