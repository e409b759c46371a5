//! Namespaces, new and joined (namespaces(7)).

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way};
use crate::tests;

pub const TESTS: Tests = tests![
    from(new_ones_are_new),
    from(unlisted_ones_are_shared),
    from(joined_by_path),
    from(pid_namespace_joined),
    from(user_namespace_new),
    from(user_namespace_joined),
    from(user_namespace_with_exec),
    from(many_mappings),
    from(setgroups_in_a_user_namespace),
    from(time_offsets),
    from(time_offsets_with_exec),
    from(loopback_is_up),
    from(hostname_and_domainname),
    hostname_needs_uts,
    from(exec_enters_all),
    from(init_is_pid_one),
    from(own_session),
    no_mount_namespace,
    from(binds_of_what_the_users_cannot_reach),
];

/// The kinds of a config with their names in /proc/PID/ns.
const KINDS: [(&str, &str); 7] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

const LINKS: &str = "for n in pid net ipc uts mnt cgroup time user; do
    echo $n $(readlink /proc/self/ns/$n); done";

fn ours(name: &str) -> String {
    let link = fs::read_link(format!("/proc/self/ns/{name}")).expect("readlink");
    format!("{name} {}", link.display())
}

fn set(spec: &mut Value, kinds: &[&str]) {
    let all: Vec<_> = kinds.iter().map(|kind| json!({"type": kind})).collect();
    spec["linux"]["namespaces"] = json!(all);
    if !kinds.contains(&"uts") {
        spec.as_object_mut().expect("an object").remove("hostname");
    }
}

fn new_ones_are_new(way: Way) {
    let b = Bundle::new(way).script(LINKS).config(|spec| {
        set(spec, &KINDS.map(|(kind, _)| kind));
    });
    let links = b.run().ok();
    for (_, name) in KINDS {
        assert!(
            !links.contains(&format!("{}\n", ours(name))),
            "{name} is shared: {links}"
        );
    }
    assert!(links.contains(&ours("user")), "{links}");
}

fn unlisted_ones_are_shared(way: Way) {
    let b = Bundle::new(way)
        .script(LINKS)
        .config(|spec| set(spec, &["mount"]));
    let links = b.run().ok();
    for (_, name) in KINDS.iter().filter(|(_, name)| *name != "mnt") {
        assert!(
            links.contains(&format!("{}\n", ours(name))),
            "{name} isn't shared: {links}"
        );
    }
}

/// A process in namespaces of its own, for others to join.
struct Host(Child);

impl Host {
    fn new(flags: &[&str]) -> Host {
        let mut command = Command::new("unshare");
        command
            .args(flags)
            .args(["sh", "-c", "echo ready; exec sleep 1000"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare");
        let mut line = [0; 6];
        let out = child.stdout.as_mut().expect("stdout");
        std::io::Read::read_exact(out, &mut line).expect("its namespaces are made");
        Host(child)
    }

    fn path(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.0.id())
    }

    fn link(&self, name: &str) -> String {
        fs::read_link(self.path(name))
            .expect("readlink")
            .display()
            .to_string()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn joined_by_path(way: Way) {
    let host = Host::new(&["--net", "--ipc", "--uts", "--cgroup"]);
    for (kind, name) in [
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("cgroup", "cgroup"),
    ] {
        let b = Bundle::new(way).script(LINKS).config(|spec| {
            set(spec, &["mount", "pid"]);
            let all = spec["linux"]["namespaces"]
                .as_array_mut()
                .expect("namespaces");
            all.push(json!({"type": kind, "path": host.path(name)}));
        });
        let links = b.run().ok();
        assert!(
            links.contains(&format!("{name} {}\n", host.link(name))),
            "{kind}: {links}"
        );
    }
    // A mount namespace joined: its own root is used as it is.
    let host = Host::new(&["--mount"]);
    let b = Bundle::new(way).script(LINKS).config(|spec| {
        set(spec, &["pid"]);
        let all = spec["linux"]["namespaces"]
            .as_array_mut()
            .expect("namespaces");
        all.push(json!({"type": "mount", "path": host.path("mnt")}));
        for paths in ["maskedPaths", "readonlyPaths"] {
            spec["linux"].as_object_mut().expect("linux").remove(paths);
        }
    });
    let links = b.run().ok();
    assert!(
        links.contains(&format!("mnt {}\n", host.link("mnt"))),
        "{links}"
    );
    let host = Host::new(&["--time", "--fork", "--kill-child"]);
    let b = Bundle::new(way).script(LINKS).config(|spec| {
        set(spec, &["mount"]);
        let all = spec["linux"]["namespaces"]
            .as_array_mut()
            .expect("namespaces");
        all.push(json!({"type": "time", "path": host.path("time_for_children")}));
    });
    let links = b.run().ok();
    assert!(
        links.contains(&format!("time {}\n", host.link("time_for_children"))),
        "{links}"
    );
}

fn pid_namespace_joined(way: Way) {
    let first = Bundle::new(way).sleeper();
    first.run_detached().ok();
    let path = format!("/proc/{}/ns/pid", first.pid());
    let b = Bundle::new(way)
        .script("echo pid $$; grep -c . /proc/1/cmdline")
        .config(|spec| {
            set(spec, &["mount"]);
            let all = spec["linux"]["namespaces"]
                .as_array_mut()
                .expect("namespaces");
            all.push(json!({"type": "pid", "path": path}));
        });
    let out = b.run().ok();
    assert!(
        out.starts_with("pid ") && !out.starts_with("pid 1\n"),
        "{out}"
    );
    let b = b.sleeper();
    b.run_detached().ok();
    let seen = first.inside("ps | grep -c 'sleep 1'");
    assert_ne!(seen.trim(), "0");
    let link = fs::read_link(format!("/proc/{}/ns/pid", b.pid())).expect("readlink");
    assert_eq!(link, fs::read_link(&path).expect("readlink"));
    b.kill("KILL").ok();
    b.wait_status("stopped");
    assert_eq!(
        first.status(),
        "running",
        "the other container died with it"
    );
}

/// A user namespace in which root is a user whom nobody is.
fn with_users(spec: &mut Value) {
    let all = spec["linux"]["namespaces"]
        .as_array_mut()
        .expect("namespaces");
    all.push(json!({"type": "user"}));
    for maps in ["uidMappings", "gidMappings"] {
        spec["linux"][maps] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    }
}

/// A bundle whose rootfs belongs to the users of `with_users`.
pub fn users_bundle(way: Way) -> Bundle {
    let b = Bundle::new(way).config(with_users);
    // Not busybox, which all tests have.
    for directory in ["", "bin"] {
        chown(b.rootfs(directory), Some(100_000), Some(100_000)).expect("chown");
    }
    b
}

fn user_namespace_new(way: Way) {
    let b = users_bundle(way).script(
        "id -u; id -g; tr -s ' ' < /proc/self/uid_map; tr -s ' ' < /proc/self/gid_map
         stat -c %u /bin; touch /new; stat -c %u /dev/null; echo > /dev/null && echo writable",
    );
    let out = b.run().ok();
    let lines: Vec<_> = out.lines().map(str::trim).collect();
    let wanted = ["0", "0", "0 100000 65536", "0 100000 65536", "0"];
    assert_eq!(lines[..5], wanted, "{out}");
    assert_eq!(lines.last(), Some(&"writable"), "{out}");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(b.rootfs("new")).expect("stat").uid(), 100_000);
    let link = fs::read_link("/proc/self/ns/user").expect("readlink");
    let b = b.sleeper();
    b.run_detached().ok();
    assert_ne!(
        fs::read_link(format!("/proc/{}/ns/user", b.pid())).expect("readlink"),
        link
    );
}

fn user_namespace_joined(way: Way) {
    let first = users_bundle(way).sleeper();
    first.run_detached().ok();
    let path = format!("/proc/{}/ns/user", first.pid());
    let b = users_bundle(way).script(LINKS).config(|spec| {
        set(spec, &["mount", "pid", "ipc"]);
        let all = spec["linux"]["namespaces"]
            .as_array_mut()
            .expect("namespaces");
        all.push(json!({"type": "user", "path": path}));
        for maps in ["uidMappings", "gidMappings"] {
            spec["linux"].as_object_mut().expect("linux").remove(maps);
        }
        // Without a network namespace it owns, sysfs can't be mounted (user_namespaces(7)).
        let mounts = spec["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|m| m["destination"] != "/sys" && m["type"] != "cgroup");
    });
    let wanted = fs::read_link(&path).expect("readlink");
    let links = b.run().ok();
    assert!(
        links.contains(&format!("user {}\n", wanted.display())),
        "{links}"
    );
}

fn user_namespace_with_exec(way: Way) {
    let b = users_bundle(way).sleeper();
    b.run_detached().ok();
    assert_eq!(b.inside("id -u; touch /made"), "0\n");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(b.rootfs("made")).expect("stat").uid(), 100_000);
    let call = b.call("exec").args(["--user", "7:8", &b.id, "id", "-u"]);
    assert_eq!(call.run().ok(), "7\n");
}

fn many_mappings(way: Way) {
    // 340 are allowed, but in less than a page of text (user_namespaces(7)).
    let b = users_bundle(way)
        .script("grep -c . /proc/self/uid_map")
        .config(|spec| {
            let all: Vec<_> = (0..250)
                .map(|i| json!({"containerID": i, "hostID": 100_000 + i, "size": 1}))
                .collect();
            spec["linux"]["uidMappings"] = json!(all);
        });
    assert_eq!(b.run().ok(), "250\n");
}

fn setgroups_in_a_user_namespace(way: Way) {
    let b = users_bundle(way)
        .script("id -G; cat /proc/self/setgroups")
        .config(|spec| {
            spec["process"]["user"]["additionalGids"] = json!([5, 6]);
        });
    assert_eq!(b.run().ok(), "0 5 6\nallow\n");
}

fn time_offsets(way: Way) {
    let b =
        Bundle::new(way).script("cut -d. -f1 /proc/uptime; tr -s ' ' < /proc/self/timens_offsets");
    let b = b.config(|spec| {
        let all = spec["linux"]["namespaces"]
            .as_array_mut()
            .expect("namespaces");
        all.push(json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({
            "boottime": {"secs": 1_000_000, "nanosecs": 5},
            "monotonic": {"secs": 2_000_000},
        });
    });
    let out = b.run().ok();
    let mut lines = out.lines();
    let uptime: u64 = lines.next().and_then(|l| l.parse().ok()).expect("a number");
    assert!(uptime >= 1_000_000, "{out}");
    let rest: Vec<_> = lines.collect();
    assert_eq!(rest, ["monotonic 2000000 0", "boottime 1000000 5"]);
    let b = b.config(|spec| set(spec, &["mount", "pid"]));
    let said = b.create().fails();
    assert!(said.contains("linux.timeOffsets"), "{said}");
}

fn time_offsets_with_exec(way: Way) {
    let b = Bundle::new(way).sleeper().config(|spec| {
        let all = spec["linux"]["namespaces"]
            .as_array_mut()
            .expect("namespaces");
        all.push(json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}});
    });
    b.run_detached().ok();
    let uptime: u64 = b
        .inside("cut -d. -f1 /proc/uptime")
        .trim()
        .parse()
        .expect("a number");
    assert!(uptime >= 1_000_000, "{uptime}");
}

fn loopback_is_up(way: Way) {
    let out = Bundle::new(way).args(["ip", "-o", "addr"]).run().ok();
    assert!(
        out.contains("127.0.0.1/8") && out.contains("UP") | out.contains("lo"),
        "{out}"
    );
    let out = Bundle::new(way)
        .args(["ip", "link", "show", "lo"])
        .run()
        .ok();
    assert!(out.contains(",UP,"), "{out}");
}

fn hostname_and_domainname(way: Way) {
    let b = Bundle::new(way).script("hostname; cat /proc/sys/kernel/domainname");
    let b = b.config(|spec| {
        spec["hostname"] = json!("a-name");
        spec["domainname"] = json!("a.domain");
    });
    assert_eq!(b.run().ok(), "a-name\na.domain\n");
}

fn hostname_needs_uts(way: Way) {
    for key in ["hostname", "domainname"] {
        let b = Bundle::new(way).config(|spec| {
            set(spec, &["mount", "pid"]);
            spec[key] = json!("x");
        });
        let said = b.create().fails();
        let wanted = format!("unable to set {key} without a private UTS namespace");
        assert!(said.contains(&wanted), "{said}");
    }
}

fn exec_enters_all(way: Way) {
    let b = Bundle::new(way).sleeper().config(|spec| {
        set(spec, &KINDS.map(|(kind, _)| kind));
    });
    b.run_detached().ok();
    let links = b.inside(LINKS);
    for (_, name) in KINDS {
        let init = fs::read_link(format!("/proc/{}/ns/{name}", b.pid())).expect("readlink");
        assert!(
            links.contains(&format!("{name} {}\n", init.display())),
            "{name}: {links}"
        );
    }
    let cgroup = b.inside("grep ^0:: /proc/self/cgroup");
    assert_eq!(cgroup, "0::/\n");
}

fn init_is_pid_one(way: Way) {
    let b = Bundle::new(way).script("echo $$; ps | wc -l");
    assert!(b.run().ok().starts_with("1\n"));
}

fn own_session(way: Way) {
    let b = Bundle::new(way).script("cut -d' ' -f5,6 /proc/1/stat");
    assert_eq!(b.run().ok(), "1 1\n");
    let b = b.sleeper();
    b.run_detached().ok();
    let out = b
        .exec(["sh", "-c", "echo $$ $(cut -d' ' -f6 /proc/$$/stat)"])
        .ok();
    let all: Vec<_> = out.split_whitespace().collect();
    assert_eq!(all[0], all[1], "exec isn't the leader of a session");
}

fn no_mount_namespace(way: Way) {
    // The host's mounts would be changed: only without anything to change.
    let b = Bundle::new(way).config(|spec| set(spec, &["pid"]));
    let said = b.create().fails();
    assert!(said.contains("private MNT namespace"), "{said}");
}

/// Binds in a user namespace: of a directory that its users may not enter, of a part of an earlier
/// mount as the host would name it, and one with maps of its own. The runtime takes them in the
/// container's mount namespace, in the config's order.
fn binds_of_what_the_users_cannot_reach(way: Way) {
    for users in [false, true] {
        let mut b = match users {
            true => users_bundle(way),
            false => Bundle::new(way),
        };
        let volume = b.dir.join("volume");
        let inner = volume.join("inner");
        fs::create_dir_all(&inner).expect("mkdir");
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o700)).expect("chmod");
        fs::write(inner.join("file"), "seen").expect("write");
        let first = b.rootfs("first").to_string_lossy().into_owned();
        let map = json!([{"containerID": 0, "hostID": 100_007, "size": 1}]);
        b.change(|spec| {
            let all = spec["mounts"].as_array_mut().expect("mounts");
            for (at, source) in [
                ("/first", inner.to_string_lossy().into_owned()),
                ("/second", first.clone()),
            ] {
                all.push(json!({"destination": at, "source": source, "options": ["bind"]}));
            }
            all.push(json!({
                "destination": "/mapped", "source": first, "options": ["bind"],
                "uidMappings": map, "gidMappings": map,
            }));
        });
        let b = b.script("cat /second/file; stat -c ' %u' /mapped/file");
        let owner = if users { 7 } else { 100_007 };
        assert_eq!(b.run().ok(), format!("seen {owner}\n"));
    }
}
