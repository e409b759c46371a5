//! `process`: credentials, limits, scheduling; and what `exec` makes of them.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way, host, skip};
use crate::tests;

pub const TESTS: Tests = tests![
    from(user_and_groups),
    from(capabilities),
    from(capabilities_of_another_user),
    unknown_capability,
    from(ambient_capabilities),
    from(capabilities_absent),
    from(rlimits),
    from(rlimits_of_another_user),
    from(umask),
    from(oom_score_adj),
    from(oom_score_adj_is_inherited),
    from(no_new_privileges),
    from(scheduler),
    from(scheduler_of_exec),
    from(io_priority),
    from(personality),
    from(working_directory),
    from(working_directory_is_made),
    from(home),
    from(path_finds_the_program),
    from(signals_are_fresh),
    from(affinity_is_reset),
    from(exec_cpu_affinity),
    from(exec_options),
    from(exec_process_file),
    from(exec_user),
    from(exec_capabilities),
    exec_into_created,
    from(sysctls),
    sysctls_of_the_host_are_refused,
    from(keyring),
    from(memory_policy),
];

/// A field of /proc/self/status, of a grep that looks at itself.
fn field(b: Bundle, names: &str) -> String {
    let pattern = format!("^({names}):");
    b.args(["grep", "-E", &pattern, "/proc/self/status"])
        .run()
        .ok()
        .replace('\t', " ")
}

fn user(b: Bundle, user: Value) -> Bundle {
    b.config(|spec| spec["process"]["user"] = user)
}

fn user_and_groups(way: Way) {
    let b = user(
        Bundle::new(way),
        json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6]}),
    );
    let out = field(b, "Uid|Gid|Groups");
    assert_eq!(
        out,
        "Uid: 1000 1000 1000 1000\nGid: 1001 1001 1001 1001\nGroups: 5 6 \n"
    );
    let out = field(Bundle::new(way), "Groups");
    assert_eq!(out.trim_end(), "Groups:", "the caller's groups came along");
}

const KILL: &str = "0000000000000020"; // capability 5

fn sets(spec: &mut Value, names: &[&str], caps: Value) {
    spec["process"]["capabilities"] = json!({});
    for name in names {
        spec["process"]["capabilities"][name] = caps.clone();
    }
}

fn capabilities(way: Way) {
    let b = Bundle::new(way).config(|spec| {
        sets(
            spec,
            &["bounding", "effective", "permitted"],
            json!(["CAP_KILL"]),
        );
    });
    let zero = "0000000000000000";
    let wanted =
        format!("CapInh: {zero}\nCapPrm: {KILL}\nCapEff: {KILL}\nCapBnd: {KILL}\nCapAmb: {zero}\n");
    assert_eq!(field(b, "Cap.*"), wanted);
    let b = Bundle::new(way).config(|spec| sets(spec, &[], json!([])));
    let out = field(b, "Cap.*");
    assert!(out.lines().all(|l| l.ends_with(zero)), "{out}");
}

fn capabilities_of_another_user(way: Way) {
    let b = user(Bundle::new(way), json!({"uid": 1000, "gid": 1000})).config(|spec| {
        sets(
            spec,
            &["bounding", "effective", "permitted"],
            json!(["CAP_KILL"]),
        );
    });
    // execve(2) by another than root keeps only ambient ones (capabilities(7)).
    let out = field(b, "CapPrm|CapEff|CapBnd");
    assert_eq!(
        out,
        format!("CapPrm: {:016x}\nCapEff: {:016x}\nCapBnd: {KILL}\n", 0, 0)
    );
}

fn ambient_capabilities(way: Way) {
    let b = user(Bundle::new(way), json!({"uid": 1000, "gid": 1000})).config(|spec| {
        let all = [
            "bounding",
            "effective",
            "permitted",
            "inheritable",
            "ambient",
        ];
        sets(spec, &all, json!(["CAP_KILL"]));
    });
    let out = field(b, "Cap.*");
    assert!(out.lines().all(|l| l.ends_with(KILL)), "{out}");
}

fn unknown_capability(way: Way) {
    let b = Bundle::new(way)
        .args(["grep", "CapEff", "/proc/self/status"])
        .config(|spec| {
            let all = ["bounding", "effective", "permitted"];
            sets(spec, &all, json!(["CAP_KILL", "CAP_ZOO"]));
        });
    let out = b.run().exits(0);
    assert!(out.stderr.contains("CAP_ZOO"), "{}", out.stderr);
    assert_eq!(out.stdout, format!("CapEff:\t{KILL}\n"));
}

fn capabilities_absent(way: Way) {
    let b = Bundle::new(way).config(|spec| {
        spec["process"]
            .as_object_mut()
            .expect("process")
            .remove("capabilities");
    });
    let own = fs::read_to_string("/proc/self/status").expect("read status");
    let own = own
        .lines()
        .find(|l| l.starts_with("CapBnd"))
        .expect("CapBnd")
        .replace('\t', " ");
    assert_eq!(
        field(b, "CapBnd").trim_end(),
        own,
        "runc leaves what the caller has"
    );
}

fn limits(spec: &mut Value) {
    spec["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 111, "hard": 222},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_STACK", "soft": 4 << 20, "hard": 8 << 20},
    ]);
}

const LIMITS: &str = "grep -E 'open files|core file|stack' /proc/self/limits | tr -s ' '";
const LIMITED: &str = "Max stack size 4194304 8388608 bytes \nMax core file size 0 0 bytes \n\
                       Max open files 111 222 files \n";

fn rlimits(way: Way) {
    let b = Bundle::new(way).script(LIMITS).config(limits);
    assert_eq!(b.run().ok(), LIMITED);
    let b = b.sleeper();
    b.run_detached().ok();
    assert_eq!(b.inside(LIMITS), LIMITED);
}

fn rlimits_of_another_user(way: Way) {
    let b = user(Bundle::new(way), json!({"uid": 1000, "gid": 1000}))
        .script(LIMITS)
        .config(limits);
    assert_eq!(b.run().ok(), LIMITED);
    let b = b.sleeper();
    b.run_detached().ok();
    assert_eq!(b.inside(LIMITS), LIMITED);
    let call = b
        .call("exec")
        .args(["--user", "7", &b.id, "sh", "-c", LIMITS]);
    assert_eq!(call.run().ok(), LIMITED);
}

fn umask(way: Way) {
    let b = Bundle::new(way).script("umask");
    assert_eq!(
        b.make("run", &[])
            .shell("umask 0777; exec \"$@\"")
            .run()
            .ok(),
        "0022\n"
    );
    let b = user(b, json!({"uid": 0, "gid": 0, "umask": 0o077}));
    assert_eq!(b.run().ok(), "0077\n");
    let b = b.sleeper();
    b.run_detached().ok();
    assert_eq!(b.inside("umask"), "0077\n");
    // As in crun: a process object's own umask holds.
    let process = json!({"cwd": "/", "args": ["/bin/sh", "-c", "umask"], "user": {"uid": 0, "gid": 0, "umask": 0o027}});
    assert_eq!(exec_process(&b, process).run().ok(), "0027\n");
}

fn oom_score_adj(way: Way) {
    let b = Bundle::new(way).args(["cat", "/proc/self/oom_score_adj"]);
    let b = b.config(|spec| spec["process"]["oomScoreAdj"] = json!(321));
    assert_eq!(b.run().ok(), "321\n");
    let b = b.sleeper();
    b.run_detached().ok();
    assert_eq!(b.inside("cat /proc/self/oom_score_adj"), "321\n");
}

fn oom_score_adj_is_inherited(way: Way) {
    let b = Bundle::new(way).args(["cat", "/proc/self/oom_score_adj"]);
    let shell = "echo 123 > /proc/self/oom_score_adj; exec \"$@\"";
    assert_eq!(b.make("run", &[]).shell(shell).run().ok(), "123\n");
}

fn no_new_privileges(way: Way) {
    for value in [true, false] {
        let b = Bundle::new(way).config(|spec| spec["process"]["noNewPrivileges"] = json!(value));
        let out = field(b, "NoNewPrivs");
        assert_eq!(out, format!("NoNewPrivs: {}\n", u8::from(value)));
    }
}

/// The policy and the nice value of init (proc_pid_stat(5)).
const POLICY: &str = "set -- $(cut -d')' -f2 /proc/self/stat); echo policy ${39} nice ${17}";

fn scheduler(way: Way) {
    // SCHED_IDLE has no nice value of its own: what runz was called with stays.
    let nice = Command::new("nice")
        .output()
        .expect("nice of package coreutils");
    let idle = format!("policy 5 nice {}", String::from_utf8_lossy(&nice.stdout));
    for (scheduler, wanted) in [
        (
            json!({"policy": "SCHED_BATCH", "nice": 5}),
            "policy 3 nice 5\n",
        ),
        (
            json!({"policy": "SCHED_OTHER", "nice": 7}),
            "policy 0 nice 7\n",
        ),
        (json!({"policy": "SCHED_IDLE"}), &idle),
    ] {
        let b = Bundle::new(way).script(POLICY);
        let b = b.config(|spec| spec["process"]["scheduler"] = scheduler);
        assert_eq!(b.run().ok(), wanted);
    }
}

fn scheduler_of_exec(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let process = json!({
        "cwd": "/", "args": ["/bin/sh", "-c", POLICY], "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin"],
        "scheduler": {"policy": "SCHED_BATCH", "nice": 3},
    });
    assert_eq!(exec_process(&b, process).run().ok(), "policy 3 nice 3\n");
}

fn io_priority(way: Way) {
    let b = Bundle::new(way).sleeper().config(|spec| {
        spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    });
    b.run_detached().ok();
    let out = std::process::Command::new("ionice")
        .args(["-p", &b.pid().to_string()])
        .output();
    let Ok(out) = out else { skip("no ionice") };
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "best-effort: prio 6\n"
    );
}

fn personality(way: Way) {
    let b = Bundle::new(way).args(["uname", "-m"]);
    let b = b.config(|spec| spec["linux"]["personality"] = json!({"domain": "LINUX32"}));
    assert_eq!(b.run().ok(), "i686\n");
    let b = b.sleeper();
    b.run_detached().ok();
    assert_eq!(b.inside("uname -m"), "i686\n");
}

fn working_directory(way: Way) {
    let b = Bundle::new(way)
        .args(["pwd"])
        .config(|spec| spec["process"]["cwd"] = json!("/bin"));
    assert_eq!(b.run().ok(), "/bin\n");
}

fn working_directory_is_made(way: Way) {
    let b = Bundle::new(way).script("pwd; stat -c '%a %u' .");
    let b = user(b, json!({"uid": 1000, "gid": 1000}));
    let b = b.config(|spec| spec["process"]["cwd"] = json!("/new/er"));
    assert_eq!(b.run().ok(), "/new/er\n755 0\n");
}

fn home(way: Way) {
    let b = user(
        Bundle::new(way).script("echo $HOME"),
        json!({"uid": 1000, "gid": 1000}),
    );
    assert_eq!(b.run().ok(), "/\n");
    fs::create_dir(b.rootfs("etc")).expect("mkdir");
    let passwd = "root:x:0:0::/root:/bin/sh\nname:x:1000:1000::/home/name:/bin/sh\n";
    fs::write(b.rootfs("etc/passwd"), passwd).expect("write");
    assert_eq!(b.run().ok(), "/home/name\n");
    let b = b.sleeper();
    b.run_detached().ok();
    assert_eq!(b.inside("echo $HOME"), "/home/name\n");
    let call = b
        .call("exec")
        .args(["--user", "0", &b.id, "sh", "-c", "echo $HOME"]);
    assert_eq!(call.run().ok(), "/root\n");
    let call = b
        .call("exec")
        .args(["-e", "HOME=/own", &b.id, "sh", "-c", "echo $HOME"]);
    assert_eq!(call.run().ok(), "/own\n");
}

fn path_finds_the_program(way: Way) {
    let b = Bundle::new(way).args(["own-name"]).config(|spec| {
        spec["process"]["env"] = json!(["PATH=/nowhere:/else:/bin"]);
    });
    fs::create_dir(b.rootfs("else")).expect("mkdir");
    std::os::unix::fs::symlink("/bin/busybox", b.rootfs("else/echo")).expect("symlink");
    let b = b.args(["echo", "found"]);
    assert_eq!(b.run().ok(), "found\n");
    let b = b
        .args(["./echo", "found"])
        .config(|spec| spec["process"]["cwd"] = json!("/else"));
    assert_eq!(b.run().ok(), "found\n");
}

fn signals_are_fresh(way: Way) {
    let b = Bundle::new(way);
    let b = b.args(["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]);
    let zero = "0000000000000000";
    let wanted = format!("SigBlk:\t{zero}\nSigIgn:\t{zero}\nSigCgt:\t{zero}\n");
    // posix_spawn(3), by which tests call the runtime, ignores the C library's own two, 32 and 33, or
    // only the first of them (glibc 2.41).
    let pure = |out: String| {
        out.replace("SigIgn:\t0000000180000000", &format!("SigIgn:\t{zero}"))
            .replace("SigIgn:\t0000000080000000", &format!("SigIgn:\t{zero}"))
    };
    // Nothing of what the runtime blocks and ignores for itself.
    assert_eq!(pure(b.run().ok()), wanted);
    let b = b.sleeper();
    b.run_detached().ok();
    let out = b
        .exec(["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"])
        .ok();
    assert_eq!(pure(out), wanted);
}

const CPUS: &str = "grep Cpus_allowed_list /proc/self/status | cut -f2";

fn cpus() -> String {
    let all = fs::read_to_string("/sys/devices/system/cpu/online").expect("read");
    if all.trim() == "0" {
        skip("one CPU");
    }
    all
}

fn affinity_is_reset(way: Way) {
    let all = cpus();
    let b = Bundle::new(way).script(CPUS);
    let out = b
        .make("run", &[])
        .shell("exec taskset -c 0 \"$@\"")
        .run()
        .ok();
    assert_eq!(out, all);
}

fn exec_cpu_affinity(way: Way) {
    cpus();
    let b = Bundle::new(way).sleeper().config(|spec| {
        spec["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "1"});
    });
    b.run_detached().ok();
    assert_eq!(b.inside(CPUS), "1\n");
}

/// `exec --process` of a process object.
fn exec_process(b: &Bundle, process: Value) -> crate::harness::Call {
    let path = b.dir.join("process.json");
    fs::write(&path, process.to_string()).expect("write");
    b.call("exec").arg("--process").arg(path).arg(&b.id)
}

fn exec_options(way: Way) {
    let b = Bundle::new(way).sleeper().config(|spec| {
        spec["process"]["env"] = json!(["PATH=/bin", "A=config"]);
    });
    b.run_detached().ok();
    let call = b
        .call("exec")
        .args(["--cwd", "/bin", "-e", "A=flag", "--env", "B=b", &b.id]);
    assert_eq!(
        call.args(["sh", "-c", "pwd; echo $A $B"]).run().ok(),
        "/bin\nflag b\n"
    );
    // Flags end at the id: the rest is the program's.
    let out = b.exec(["echo", "--cwd", "-e", "x"]).ok();
    assert_eq!(out, "--cwd -e x\n");
    let call = b.call("exec").args([
        "--no-new-privs",
        &b.id,
        "grep",
        "NoNewPrivs",
        "/proc/self/status",
    ]);
    assert_eq!(call.run().ok(), "NoNewPrivs:\t1\n");
    let call = b
        .call("exec")
        .args(["-d", &b.id, "sh", "-c", "echo out > /detached; sleep 0.1"]);
    call.run().ok();
    assert_eq!(b.wait_file("detached"), "out\n");
}

fn exec_process_file(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let process = json!({
        "cwd": "/bin", "args": ["/bin/sh", "-c", "pwd; id -u; id -g; echo $X; grep CapEff /proc/self/status; exit 4"],
        "env": ["PATH=/bin", "X=y"], "user": {"uid": 3, "gid": 4},
        "noNewPrivileges": true,
    });
    let out = exec_process(&b, process).run().exits(4);
    assert!(
        out.stdout.starts_with("/bin\n3\n4\ny\nCapEff:"),
        "{}",
        out.stdout
    );
}

fn exec_user(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let call = b
        .call("exec")
        .args(["-u", "7:8", "-g", "9", "-g", "10", &b.id, "sh", "-c"]);
    assert_eq!(call.arg("id -u; id -G").run().ok(), "7\n8 9 10\n");
    let call = b
        .call("exec")
        .args(["--user=7", &b.id, "sh", "-c", "id -u; id -g"]);
    assert_eq!(call.run().ok(), "7\n0\n");
    b.call("exec")
        .args(["--user", "root", &b.id, "true"])
        .run()
        .exits(255);
}

fn exec_capabilities(way: Way) {
    let b = Bundle::new(way).sleeper().config(|spec| {
        sets(
            spec,
            &["bounding", "effective", "permitted"],
            json!(["CAP_KILL"]),
        );
    });
    b.run_detached().ok();
    let grep = ["grep", "-E", "Cap(Eff|Bnd)", "/proc/self/status"];
    assert_eq!(
        b.exec(grep).ok(),
        format!("CapEff:\t{KILL}\nCapBnd:\t{KILL}\n")
    );
    let call = b
        .call("exec")
        .args(["--cap", "CAP_CHOWN", "-c", "CAP_SYSLOG", &b.id])
        .args(grep);
    let more = format!("{:016x}", 0x20 | 1 | 1_u64 << 34);
    assert_eq!(
        call.run().ok(),
        format!("CapEff:\t{more}\nCapBnd:\t{more}\n")
    );
}

fn exec_into_created(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.create().ok();
    assert_eq!(b.inside("echo here"), "here\n");
    assert_eq!(b.status(), "created");
    b.start().ok();
}

fn sysctls(way: Way) {
    let b = Bundle::new(way).script(
        "cd /proc/sys; cat kernel/shmmax kernel/msgmax fs/mqueue/queues_max net/ipv4/ip_forward net/ipv4/conf/lo/forwarding",
    );
    let b = b.config(|spec| {
        spec["linux"]["sysctl"] = json!({
            "kernel.shmmax": "65536", "kernel/msgmax": "4096", "fs.mqueue.queues_max": "11",
            "net.ipv4.ip_forward": "1", "net/ipv4/conf/lo/forwarding": "0",
        });
    });
    assert_eq!(b.run().ok(), "65536\n4096\n11\n1\n0\n");
}

fn sysctls_of_the_host_are_refused(way: Way) {
    for (key, kinds) in [
        ("kernel.shmmax", &["mount", "network"][..]),
        ("net.ipv4.ip_forward", &["mount", "ipc"]),
        ("kernel.domainname", &["mount", "ipc"]),
        ("user.max_net_namespaces", &["mount"]),
        ("vm.overcommit_memory", &["mount"]),
        ("kernel.core_pattern", &["mount"]),
        ("kernel/../vm/swappiness", &["mount"]),
    ] {
        let b = Bundle::new(way).config(|spec| {
            let all: Vec<_> = kinds.iter().map(|kind| json!({"type": kind})).collect();
            spec["linux"]["namespaces"] = json!(all);
            spec["linux"]["sysctl"] = json!({key: "1"});
            spec.as_object_mut().expect("an object").remove("hostname");
        });
        let said = b.create().fails();
        assert!(
            said.contains(key) && said.contains("linux.sysctl"),
            "{said}"
        );
    }
    // The host's own network namespace by path is no private one.
    let b = Bundle::new(way).config(|spec| {
        spec["linux"]["namespaces"] = json!([
            {"type": "mount"}, {"type": "network", "path": format!("/proc/{}/ns/net", std::process::id())},
        ]);
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        spec.as_object_mut().expect("an object").remove("hostname");
    });
    let said = b.create().fails();
    assert!(said.contains("net.ipv4.ip_forward"), "{said}");
}

fn keyring(way: Way) {
    let bundle = || {
        Bundle::new(way).args(["cat", "/proc/keys"]).config(|spec| {
            let all = spec["linux"]["maskedPaths"]
                .as_array_mut()
                .expect("maskedPaths");
            all.retain(|p| p != "/proc/keys");
        })
    };
    let b = bundle();
    assert!(b.run().ok().contains(&format!("_ses.{}:", b.id)));
    let b = b.sleeper();
    b.run_detached().ok();
    let keys = b.inside("cat /proc/keys");
    assert!(
        keys.contains(&format!("_ses.{}:", b.id)),
        "exec has another session keyring"
    );
    // The kernel takes its time to forget keys: another id.
    let b = bundle();
    let out = b.make("run", &["--no-new-keyring"]).run().ok();
    assert!(!out.contains(&format!("_ses.{}:", b.id)), "{out}");
}

fn memory_policy(way: Way) {
    if host::is_runc() || !std::path::Path::new("/proc/self/numa_maps").exists() {
        skip("no NUMA");
    }
    let b = Bundle::new(way)
        .script("head -n 1 /proc/self/numa_maps")
        .config(|spec| {
            spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
        });
    assert!(b.run().ok().contains(" bind:0 "));
}
