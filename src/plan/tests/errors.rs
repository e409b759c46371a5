//! What must be refused, with the sentence.

use super::*;

/// One mount in the place of the template's /dev/shm.
fn mount_refused(mount: Value, sentence: &str) {
    refused(&[("/mounts/3", mount)], &format!("mounts[3].{sentence}"));
}

#[test]
fn root() {
    refused(&[("/root", Value::Null)], "root: must be specified");
    refused(&[("/root/path", json!(""))], "root.path: must be specified");
    refused(
        &[("/root/path", json!("/a\0b"))],
        "root.path: has a null byte at 2",
    );
}

#[test]
fn host_and_domain_name() {
    let namespaces = ("/linux/namespaces", json!([{ "type": "mount" }]));
    refused(
        std::slice::from_ref(&namespaces),
        "hostname: unable to set hostname without a private UTS namespace",
    );
    refused(
        &[
            namespaces,
            ("/hostname", json!("")),
            ("/domainname", json!("x")),
        ],
        "domainname: unable to set domainname without a private UTS namespace",
    );
    refused(
        &[("/hostname", json!("x".repeat(65)))],
        "hostname: 65 bytes, the kernel takes 64",
    );
    refused(
        &[("/hostname", json!("x\0y"))],
        "hostname: has a null byte at 1",
    );
}

#[test]
fn namespaces() {
    refused(
        &[("/linux/namespaces/-", json!({ "type": "network" }))],
        "linux.namespaces[5]: duplicated ns \"network\"",
    );
    refused(
        &[(
            "/linux/namespaces/1",
            json!({ "type": "network", "path": "net" }),
        )],
        "linux.namespaces[1].path: \"net\" is not absolute",
    );
    refused(
        &[(
            "/linux/namespaces/1",
            json!({ "type": "network", "path": "/n\0" }),
        )],
        "linux.namespaces[1].path: has a null byte at 2",
    );
    refused(
        &[("/linux/namespaces", json!([{ "type": "uts" }]))],
        "linux.maskedPaths: unable to restrict sys entries without a private MNT namespace",
    );
    refused(
        &[
            ("/linux/namespaces", json!([{ "type": "uts" }])),
            ("/linux/maskedPaths", json!([])),
        ],
        "linux.readonlyPaths: unable to restrict sys entries without a private MNT namespace",
    );
    refused(
        &[("/linux/maskedPaths/1", json!("proc/keys"))],
        "linux.maskedPaths[1]: \"proc/keys\" is not absolute",
    );
    refused(
        &[("/linux/readonlyPaths/0", json!("/p\0"))],
        "linux.readonlyPaths[0]: has a null byte at 2",
    );
}

#[test]
fn user_namespaces() {
    let user = |path: &str| {
        (
            "/linux/namespaces/-",
            json!({ "type": "user", "path": path }),
        )
    };
    let line = |host: u32, inside: u32, size: u32| json!({ "hostID": host, "containerID": inside, "size": size });
    let one = || json!([line(1000, 0, 1)]);
    refused(
        &[("/linux/uidMappings", one())],
        "linux.uidMappings: user namespace mappings specified, but user namespace isn't enabled \
         in the config",
    );
    refused(
        &[user("")],
        "linux.uidMappings: user namespaces enabled, but no namespace path to join nor mappings \
         to apply specified",
    );
    refused(
        &[user(""), ("/linux/uidMappings", one())],
        "linux.gidMappings: gid 0 of the container is not mapped",
    );
    refused(
        &[
            user(""),
            ("/linux/uidMappings", json!([line(1000, 1, 1)])),
            ("/linux/gidMappings", one()),
        ],
        "linux.uidMappings: uid 0 of the container is not mapped",
    );
    refused(
        &[user(""), ("/linux/uidMappings", json!([line(1000, 0, 0)]))],
        "linux.uidMappings[0].size: must be greater than 0",
    );
    refused(
        &[
            user(""),
            ("/linux/uidMappings", json!([line(4294967295, 0, 1)])),
        ],
        "linux.uidMappings[0].size: hostID 4294967295 and 1 more go beyond the last id",
    );
    refused(
        &[
            user(""),
            (
                "/linux/gidMappings",
                json!([line(0, 0, 10), line(100, 9, 1)]),
            ),
        ],
        "linux.gidMappings[1]: overlaps linux.gidMappings[0]",
    );
    let many: Vec<Value> = (0..341).map(|i| line(i, i, 1)).collect();
    refused(
        &[user(""), ("/linux/uidMappings", json!(many))],
        "linux.uidMappings: 341 entries, the kernel takes 340",
    );
    let mapped = [
        user(""),
        ("/linux/uidMappings", one()),
        ("/linux/gidMappings", one()),
    ];
    let with = |pointer, value| {
        let mut changes = mapped.to_vec();
        changes.push((pointer, value));
        changes
    };
    for maps in [&[][..], &mapped] {
        let nobody = |pointer| {
            let mut changes = maps.to_vec();
            changes.push((pointer, json!(4_294_967_295u32)));
            changes
        };
        refused(
            &nobody("/process/user/uid"),
            "process.user.uid: cannot setuid to 4294967295, which is no user",
        );
        refused(
            &nobody("/process/user/gid"),
            "process.user.gid: cannot setgid to 4294967295, which is no group",
        );
    }
    refused(
        &with("/process/user/uid", json!(1)),
        "process.user.uid: cannot setuid to unmapped uid 1 in user namespace",
    );
    refused(
        &with("/process/user/gid", json!(5)),
        "process.user.gid: cannot setgid to unmapped gid 5 in user namespace",
    );
    refused(
        &with("/process/user/additionalGids", json!([0, 7])),
        "process.user.additionalGids[1]: gid 7 is not mapped in the user namespace",
    );
}

#[test]
fn rootless_callers() {
    let host = Host {
        euid: 1000,
        ..machine()
    };
    let refused = |config: &Value, sentence: &str| refused_on(&host, &options(), config, sentence);
    refused(
        &template(),
        "linux.namespaces: rootless container requires user namespaces",
    );
    let mut config = super::rootless();
    set(&mut config, "/linux/uidMappings", json!([]));
    refused(
        &config,
        "linux.uidMappings: rootless containers requires at least one UID mapping",
    );
    let mut config = super::rootless();
    set(&mut config, "/linux/gidMappings", Value::Null);
    refused(
        &config,
        "linux.gidMappings: rootless containers requires at least one GID mapping",
    );
    let mut config = super::rootless();
    set(&mut config, "/process/user/additionalGids", json!([0]));
    refused(
        &config,
        "process.user.additionalGids: cannot set any additional groups in a rootless container",
    );
    let mut config = super::rootless();
    set(
        &mut config,
        "/mounts/2/options",
        json!(["mode=0620", "gid=5"]),
    );
    refused(
        &config,
        "mounts[2].options[1]: cannot specify gid=5 mount option for rootless container: id 5 is \
         not mapped",
    );
    let mut config = super::rootless();
    let idmapped = json!({ "destination": "/a", "source": "/a", "options": ["bind", "idmap"] });
    set(&mut config, "/mounts/2", idmapped);
    refused(
        &config,
        "mounts[2].options: id-mapped mounts are not supported for rootless containers",
    );
    let mut config = super::rootless();
    set(
        &mut config,
        "/linux/namespaces/-",
        json!({ "type": "network" }),
    );
    set(&mut config, "/linux/netDevices", json!({ "eth0": {} }));
    refused(
        &config,
        "linux.netDevices: network devices are not supported for rootless containers",
    );
}

#[test]
fn groups_where_they_are_denied() {
    let host = Host {
        in_user_namespace: true,
        setgroups_denied: true,
        ..machine()
    };
    assert_eq!(
        decide_on(&template(), &options(), &host)
            .unwrap()
            .process
            .unwrap()
            .groups,
        None
    );
    refused_on(
        &host,
        &options(),
        &changed(&[("/process/user/additionalGids", json!([10]))]),
        "process.user.additionalGids: setgroups(2) is denied in this user namespace",
    );
}

#[test]
fn time_offsets() {
    let offsets = |value| ("/linux/timeOffsets", value);
    let time = |path: &str| {
        (
            "/linux/namespaces/-",
            json!({ "type": "time", "path": path }),
        )
    };
    refused(
        &[offsets(json!({ "boottime": { "secs": 1 } }))],
        "linux.timeOffsets: time namespace offsets specified, but time namespace isn't enabled in \
         the config",
    );
    refused(
        &[
            time("/proc/1/ns/time"),
            offsets(json!({ "boottime": { "secs": 1 } })),
        ],
        "linux.timeOffsets: time namespace enabled, but both namespace path and time offsets \
         specified -- you may only provide one",
    );
    refused(
        &[time(""), offsets(json!({ "realtime": { "secs": 1 } }))],
        "linux.timeOffsets: no such clock \"realtime\", accepted are monotonic and boottime",
    );
    refused(
        &[
            time(""),
            offsets(json!({ "monotonic": { "nanosecs": 1000000000 } })),
        ],
        "linux.timeOffsets.monotonic.nanosecs: 1000000000 is not below 1000000000",
    );
}

#[test]
fn propagation() {
    refused(
        &[("/linux/rootfsPropagation", json!("public"))],
        "linux.rootfsPropagation: rootfsPropagation=\"public\" is not supported, accepted are private, \
         slave, shared, unbindable and the same with an r before",
    );
    let options = Options {
        no_pivot: true,
        ..options()
    };
    refused_on(
        &machine(),
        &options,
        &changed(&[("/linux/rootfsPropagation", json!("rprivate"))]),
        "linux.rootfsPropagation: rootfsPropagation of [r]private is not safe without pivot_root",
    );
}

#[test]
fn mounts() {
    let bind = |options: Value| json!({ "destination": "/a", "source": "/b", "options": options });
    mount_refused(
        bind(json!(["bind", "ro", "size=5"])),
        "options[2] \"size=5\": bind mounts cannot have any filesystem-specific options applied",
    );
    mount_refused(
        json!({ "destination": "/a", "options": ["rbind"] }),
        "source: is needed for a bind mount",
    );
    mount_refused(
        json!({ "destination": "/a", "source": "x" }),
        "type: is needed unless the options have bind or rbind",
    );
    mount_refused(
        json!({ "destination": "", "type": "tmpfs" }),
        "destination: is empty",
    );
    mount_refused(
        json!({ "destination": "/a/..", "type": "tmpfs" }),
        "destination: \"/a/..\" is the root itself, nothing can be mounted there",
    );
    mount_refused(
        json!({ "destination": "/a\0", "type": "tmpfs" }),
        "destination: has a null byte at 2",
    );
    mount_refused(
        json!({ "destination": "/a", "type": "tm\0pfs" }),
        "type: has a null byte at 2",
    );
    mount_refused(
        json!({ "destination": "/a", "type": "tmpfs", "source": "\0" }),
        "source: has a null byte at 0",
    );
    mount_refused(
        json!({ "destination": "/a", "type": "tmpfs", "options": ["size=1", "mode=\0"] }),
        "options[1]: has a null byte at 0",
    );
    mount_refused(
        json!({ "destination": "/a", "type": "sysfs", "options": ["tmpcopyup"] }),
        "options: tmpcopyup is only possible for a tmpfs",
    );
    let long = "x".repeat(5000);
    mount_refused(
        json!({ "destination": "/a", "type": "overlay", "options": [format!("lowerdir={long}")] }),
        "options: 5009 bytes of data for the file system, the kernel takes 4095",
    );
}

#[test]
fn mounts_over_proc() {
    mount_refused(
        json!({ "destination": "/proc/", "type": "tmpfs" }),
        "destination: \"/proc\" cannot be mounted because it is not of type proc",
    );
    mount_refused(
        json!({ "destination": "/x/../proc//sys", "type": "tmpfs" }),
        "destination: \"/proc/sys\" cannot be mounted because it is inside /proc",
    );
    mount_refused(
        json!({ "destination": "/proc/self", "source": "/x", "options": ["bind"] }),
        "destination: \"/proc/self\" cannot be mounted because it is inside /proc",
    );
    mount_refused(
        json!({ "destination": "/proc/uptime/x", "source": "/x", "options": ["bind"] }),
        "destination: \"/proc/uptime/x\" cannot be mounted because it is inside /proc",
    );
    for (destination, over_proc) in [
        ("/proc", true),
        ("/proc/uptime", true),
        ("/proc/sys/kernel/ns_last_pid", true),
        ("/process", false),
        ("/x/proc/sys", false),
    ] {
        let mount = json!({ "destination": destination, "source": "/x", "options": ["bind"] });
        let plan = decide(&changed(&[("/mounts/3", mount)])).unwrap();
        assert_eq!(plan.mounts[3].over_proc, over_proc, "{destination}");
    }
}

#[test]
fn idmapped_mounts() {
    let one = json!([{ "hostID": 1000, "containerID": 0, "size": 1 }]);
    mount_refused(
        json!({ "destination": "/a", "type": "tmpfs", "options": ["idmap"] }),
        "options: id-mapped mounts are only supported for bind-mounts",
    );
    mount_refused(
        json!({ "destination": "/a", "source": "/b", "options": ["bind", "idmap"] }),
        "uidMappings: id-mapped mounts must have both uid and gid mappings specified",
    );
    mount_refused(
        json!({ "destination": "/a", "source": "/b", "options": ["bind"], "uidMappings": one }),
        "uidMappings: id-mapped mounts must have both uid and gid mappings specified",
    );
    let none = json!([{ "hostID": 1000, "containerID": 0, "size": 0 }]);
    mount_refused(
        json!({ "destination": "/a", "source": "/b", "options": ["bind"], "uidMappings": one, "gidMappings": none }),
        "gidMappings[0].size: must be greater than 0",
    );
}

#[test]
fn labels_without_their_modules() {
    refused(
        &[("/linux/mountLabel", json!("a:b:c:s0"))],
        "linux.mountLabel: selinux label is specified in config, but selinux is disabled or not \
         supported",
    );
    refused(
        &[("/process/selinuxLabel", json!("a:b:c:s0"))],
        "process.selinuxLabel: selinux label is specified in config, but selinux is disabled or \
         not supported",
    );
    refused(
        &[("/process/apparmorProfile", json!("web"))],
        "process.apparmorProfile: apparmor: config provided but apparmor not supported",
    );
    refused(
        &[("/linux/mountLabel", json!("a\0b"))],
        "linux.mountLabel: has a null byte",
    );
}

#[test]
fn devices() {
    let refused = |device: Value, sentence: &str| {
        refused(
            &[("/linux/devices/-", device)],
            &format!("linux.devices[0].{sentence}"),
        );
    };
    refused(
        json!({ "path": "/dev/x", "type": "a" }),
        "type: invalid device type \"a\", accepted are c, u, b and p",
    );
    refused(
        json!({ "path": "dev/x", "type": "c" }),
        "path: \"dev/x\" is not absolute",
    );
    refused(
        json!({ "path": "/dev/..", "type": "c" }),
        "path: \"/\" is the root itself",
    );
    refused(
        json!({ "path": "/dev/x", "type": "c", "major": -1 }),
        "major: -1 is not between 0 and 4095",
    );
    refused(
        json!({ "path": "/dev/x", "type": "b", "major": 1, "minor": 1048576 }),
        "minor: 1048576 is not between 0 and 1048575",
    );
    refused(
        json!({ "path": "/dev/x", "type": "c", "fileMode": 0o1000777 }),
        "fileMode: 0o1000777 is not a file mode",
    );
    refused(
        json!({ "path": "/dev/\0", "type": "c" }),
        "path: has a null byte at 5",
    );
}

#[test]
fn sysctl() {
    let host = [(
        "/linux/namespaces",
        json!([{ "type": "mount" }, { "type": "uts" }]),
    )];
    for (changes, key, sentence) in [
        (
            &host[..0],
            "kernel.panic",
            "sysctl \"kernel.panic\" is not in a separate kernel namespace",
        ),
        (
            &host[..0],
            "vm.swappiness",
            "sysctl \"vm.swappiness\" is not in a separate kernel namespace",
        ),
        (
            &host[..0],
            "kernel/hostname",
            "sysctl \"kernel/hostname\" is not allowed as it conflicts with the OCI \"hostname\" \
             field",
        ),
        (
            &host[..0],
            "user.max_pid_namespaces",
            "setting ucounts without a user namespace not allowed: \"user.max_pid_namespaces\"",
        ),
        (
            &host[..0],
            "net/../kernel/panic",
            "\"net/../kernel/panic\" is not the name of a sysctl",
        ),
        (
            &host[..0],
            "net.ipv4..x",
            "\"net.ipv4..x\" is not the name of a sysctl",
        ),
        (&host[..0], "", "\"\" is not the name of a sysctl"),
        (
            &host,
            "kernel.sem",
            "sysctl \"kernel.sem\" is not allowed in the hosts ipc namespace",
        ),
        (
            &host,
            "fs.mqueue.msg_max",
            "sysctl \"fs.mqueue.msg_max\" is not allowed in the hosts ipc namespace",
        ),
        (
            &host,
            "net.core.somaxconn",
            "sysctl \"net.core.somaxconn\" not allowed in host network namespace",
        ),
    ] {
        let mut config = changed(changes);
        config["linux"]["sysctl"] = json!({ key: "1" });
        refused_on(
            &machine(),
            &options(),
            &config,
            &format!("linux.sysctl: {sentence}"),
        );
    }
}

#[test]
fn network_devices() {
    let devices = |value| ("/linux/netDevices", value);
    for name in ["", ".", "a/b", "a:b", "a b", "abcdefghijklmnop"] {
        refused(
            &[devices(json!({ "eth0": { "name": "eth1" }, name: {} }))],
            &format!("linux.netDevices: invalid network device name {name:?}"),
        );
    }
    refused(
        &[devices(json!({ "eth0": { "name": "x/y" } }))],
        "linux.netDevices: invalid network device name \"x/y\"",
    );
    refused(
        &[
            (
                "/linux/namespaces",
                json!([{ "type": "mount" }, { "type": "uts" }]),
            ),
            devices(json!({ "eth0": {} })),
        ],
        "linux.netDevices: unable to move network devices without a NET namespace",
    );
}

#[test]
fn hooks() {
    let refused = |hook: Value, sentence: &str| {
        refused(
            &[("/hooks/createRuntime", json!([{ "path": "/x" }, hook]))],
            &format!("hooks.createRuntime[1].{sentence}"),
        );
    };
    refused(json!({ "path": "x" }), "path: \"x\" is not absolute");
    refused(
        json!({ "path": "/x", "timeout": 0 }),
        "timeout: 0 is not greater than 0",
    );
    refused(json!({ "path": "/\0" }), "path: has a null byte");
    refused(
        json!({ "path": "/x", "args": ["a", "\0"] }),
        "args[1]: has a null byte",
    );
    refused(
        json!({ "path": "/x", "env": ["\0"] }),
        "env[0]: has a null byte",
    );
}

#[test]
fn intel_rdt() {
    for name in [".", "..", "a/b", "/a"] {
        refused(
            &[("/linux/intelRdt", json!({ "closID": name }))],
            &format!("linux.intelRdt.closID: invalid intelRdt.ClosID {name:?}"),
        );
    }
    refused(
        &[(
            "/linux/intelRdt",
            json!({ "memBwSchema": "MB:0=10\nL3:0=f" }),
        )],
        "linux.intelRdt.memBwSchema: has more than one line",
    );
}
