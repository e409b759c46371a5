//! What a process becomes.

use libc::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

use super::*;

#[test]
fn apparmor() {
    let host = Host {
        apparmor: true,
        ..machine()
    };
    let config = changed(&[("/process/apparmorProfile", json!("web"))]);
    let process = decide_on(&config, &options(), &host).unwrap().process;
    assert_eq!(process.unwrap().apparmor.as_deref(), Some(c"exec web"));
}

#[test]
fn notify_and_listen() {
    let options = Options {
        notify: Some("/run/runz/web/notify".into()),
        listen_fds: 2,
        preserve_fds: 3,
        ..options()
    };
    let config = changed(&[(
        "/process/env",
        json!(["NOTIFY_SOCKET=/x", "LISTEN_PID=7", "A=1"]),
    )]);
    let plan = decide_on(&config, &options, &machine()).unwrap();
    let notify = plan.mounts.last().unwrap();
    assert_eq!(notify.index, 7);
    assert_eq!(notify.destination.as_c_str(), c"/run/notify");
    assert_eq!(
        notify.set,
        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
    );
    let process = plan.process.unwrap();
    assert_eq!(
        process.env.iter().collect::<Vec<_>>(),
        [
            c"A=1",
            c"LISTEN_FDS=2",
            c"LISTEN_PID=1",
            c"NOTIFY_SOCKET=/run/notify/notify.sock"
        ]
    );
    assert_eq!(process.preserve_fds, 5);
}

#[test]
fn environment() {
    for (written, expected, home) in [
        (json!(["A=1", "B=2", "A=3"]), vec![c"B=2", c"A=3"], false),
        (json!(["HOME=/h"]), vec![c"HOME=/h"], true),
        (json!(["HOME="]), vec![], false),
        (json!(["HOME=/h", "HOME="]), vec![], false),
        (json!(["HOME=", "HOME=/h"]), vec![c"HOME=/h"], true),
        (json!(["A==1", "A=\n"]), vec![c"A=\n"], false),
    ] {
        let process = planned(&[("/process/env", written.clone())])
            .process
            .unwrap();
        assert_eq!(
            process.env.iter().collect::<Vec<_>>(),
            expected,
            "{written}"
        );
        assert_eq!(process.env.home().is_none(), home, "{written}");
    }
}

#[test]
fn candidates() {
    for (program, path, expected) in [
        ("sh", "PATH=/bin:/usr/bin", vec![c"/bin/sh", c"/usr/bin/sh"]),
        ("sh", "PATH=/a::b", vec![c"/a/sh", c"./sh", c"b/sh"]),
        ("/bin/sh", "PATH=/x", vec![c"/bin/sh"]),
        ("./sh", "PATH=/x", vec![c"./sh"]),
        ("sh", "PATH=", vec![]),
        ("sh", "A=1", vec![]),
        ("", "PATH=/x", vec![]),
    ] {
        let process = planned(&[
            ("/process/env", json!([path])),
            ("/process/args", json!([program])),
        ])
        .process
        .unwrap();
        assert_eq!(
            process.candidates,
            expected
                .iter()
                .map(|c| CString::from(*c))
                .collect::<Vec<_>>()
        );
    }
}

#[test]
fn terminal_size() {
    for (terminal, size, expected) in [
        (true, json!({ "height": 25, "width": 80 }), Some((25, 80))),
        (true, json!({ "height": 0, "width": 80 }), None),
        (false, json!({ "height": 25, "width": 80 }), None),
    ] {
        let process = planned(&[
            ("/process/terminal", json!(terminal)),
            ("/process/consoleSize", size),
        ])
        .process
        .unwrap();
        assert_eq!(process.console_size, expected);
        assert_eq!(process.terminal, terminal);
    }
}

#[test]
fn capabilities() {
    let host = Host {
        last_capability: 37,
        ..machine()
    };
    let config = changed(&[(
        "/process/capabilities",
        json!({
            "bounding": ["CAP_CHOWN", "CAP_BPF", "CAP_AUDIT_READ"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "inheritable": ["CAP_CHOWN"],
            "ambient": ["CAP_CHOWN", "CAP_KILL"],
        }),
    )]);
    let plan = decide_on(&config, &options(), &host).unwrap();
    assert_eq!(
        plan.process.unwrap().capabilities.unwrap(),
        Capabilities {
            bounding: 1 | 1 << 37,
            effective: 0,
            permitted: 1 | 1 << 5,
            inheritable: 1,
            ambient: 1,
        }
    );
    assert_eq!(
        plan.warnings,
        [
            "ignoring unknown or unavailable capabilities: [CAP_BPF]",
            "process.capabilities.ambient: can't raise ambient capability CAP_KILL: not among the permitted and the \
             inheritable; ignored"
        ]
    );
    let absent = planned(&[("/process/capabilities", Value::Null)]);
    assert!(absent.process.unwrap().capabilities.is_none());
    let empty = planned(&[("/process/capabilities", json!({}))]);
    assert_eq!(
        empty.process.unwrap().capabilities,
        Some(Capabilities::default())
    );
}

#[test]
fn capability_numbers() {
    // The caps crate has the kernel's numbers, too.
    for (number, capability) in CAPABILITIES.iter().enumerate() {
        let same: ::caps::Capability = capability_name(*capability).parse().unwrap();
        assert_eq!(same.index() as usize, number, "{same}");
    }
    assert_eq!(CAPABILITIES.len(), ::caps::all().len());
}

#[test]
fn scheduling() {
    let process = planned(&[
        (
            "/process/scheduler",
            json!({ "policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3,
                "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RECLAIM"] }),
        ),
        (
            "/process/ioPriority",
            json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 4 }),
        ),
    ])
    .process
    .unwrap();
    assert_eq!(
        process.scheduler,
        Some(Scheduler {
            policy: 6,
            flags: 7,
            nice: 0,
            priority: 0,
            runtime: 1,
            deadline: 2,
            period: 3,
        })
    );
    assert_eq!(process.io_priority, Some(3 << 13));
    for (class, expected) in [("RT", 1 << 13 | 4), ("BE", 2 << 13 | 4)] {
        let class = format!("IOPRIO_CLASS_{class}");
        let process = planned(&[(
            "/process/ioPriority",
            json!({ "class": class, "priority": 4 }),
        )])
        .process;
        assert_eq!(process.unwrap().io_priority, Some(expected));
    }
}

#[test]
fn numa_and_personality() {
    let process = planned(&[
        (
            "/linux/memoryPolicy",
            json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0-1, 64", "flags": ["MPOL_F_STATIC_NODES"] }),
        ),
        ("/linux/personality", json!({ "domain": "LINUX32" })),
    ])
    .process
    .unwrap();
    assert_eq!(
        process.memory_policy,
        Some(MemoryPolicy {
            mode: 3 | 1 << 15,
            nodes: vec![3, 1],
        })
    );
    assert_eq!(process.personality, Some(8));
}

#[test]
fn a_process_that_joins() {
    let config = changed(&[(
        "/process/execCPUAffinity",
        json!({ "initial": "0, 8-9", "final": "1" }),
    )]);
    let init = decide(&config).unwrap().process.unwrap();
    assert!(init.cpu_affinity.initial.is_none());

    let text = config["process"].to_string();
    let (process, _) = bundle::parse_process(text.as_bytes()).unwrap();
    let none = IdMaps::default();
    let container = |umask| Container {
        id_maps: &none,
        umask,
        personality: Some(8),
        memory_policy: None,
        preserve_fds: 1,
    };
    let mut warnings = Vec::new();
    let joined = join(&process, container(Some(0o27)), &machine(), &mut warnings).unwrap();
    assert_eq!(joined.umask, 0o27);
    assert_eq!(joined.personality, Some(8));
    assert_eq!(joined.preserve_fds, 1);
    let mask = |low: u8, high: u8| Some(vec![low, high, 0, 0, 0, 0, 0, 0]);
    assert_eq!(joined.cpu_affinity.initial, mask(1, 3));
    assert_eq!(joined.cpu_affinity.last, mask(2, 0));

    let mut own = process.clone();
    own.user_mut().set_umask(Some(0o77));
    let joined = join(&own, container(Some(0o27)), &machine(), &mut warnings).unwrap();
    assert_eq!(joined.umask, 0o77);
    let joined = join(&process, container(None), &machine(), &mut warnings).unwrap();
    assert_eq!(joined.umask, 0o22);
}
