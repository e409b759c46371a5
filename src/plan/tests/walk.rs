//! Every property of a large config replaced by everything that it should not be: no panic, and an
//! error that is one line.

use super::*;

/// All that a config can hold, more or less.
fn large() -> Value {
    let map = json!([{ "hostID": 1000, "containerID": 0, "size": 1000 }]);
    let mut config = podman();
    for (pointer, value) in [
        ("/linux/namespaces/-", json!({ "type": "user" })),
        ("/linux/namespaces/-", json!({ "type": "time" })),
        ("/linux/uidMappings", map.clone()),
        ("/linux/gidMappings", map.clone()),
        (
            "/linux/timeOffsets/boottime",
            json!({ "secs": 1, "nanosecs": 2 }),
        ),
        (
            "/linux/devices",
            json!([{ "path": "/dev/x", "type": "c", "major": 1, "minor": 2, "fileMode": 3, "uid": 4, "gid": 5 }]),
        ),
        ("/linux/netDevices/eth0", json!({ "name": "eth1" })),
        (
            "/linux/intelRdt",
            json!({ "closID": "a", "l3CacheSchema": "L3:0=f", "schemata": ["MB:0=1"] }),
        ),
        (
            "/linux/memoryPolicy",
            json!({ "mode": "MPOL_BIND", "nodes": "0-1", "flags": [] }),
        ),
        (
            "/linux/personality",
            json!({ "domain": "LINUX", "flags": [] }),
        ),
        ("/linux/rootfsPropagation", json!("rshared")),
        (
            "/process/scheduler",
            json!({ "policy": "SCHED_FIFO", "nice": 0, "priority": 1, "flags": [], "runtime": 0 }),
        ),
        (
            "/process/ioPriority",
            json!({ "class": "IOPRIO_CLASS_RT", "priority": 1 }),
        ),
        (
            "/process/execCPUAffinity",
            json!({ "initial": "0", "final": "1-2" }),
        ),
        ("/process/consoleSize", json!({ "height": 1, "width": 1 })),
        ("/process/terminal", json!(true)),
        ("/process/user/additionalGids", json!([1])),
        (
            "/hooks",
            json!({ "poststop": [{ "path": "/x", "args": ["a"], "env": ["A=1"], "timeout": 1 }] }),
        ),
        (
            "/mounts/-",
            json!({ "destination": "/m", "source": "/n", "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map }),
        ),
        ("/vm", json!({})),
    ] {
        set(&mut config, pointer, value);
    }
    config
}

/// JSON pointers of everything in the value.
fn pointers(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                pointers(
                    value,
                    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")),
                    all,
                );
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                pointers(value, format!("{at}/{i}"), all);
            }
        }
        _ => {}
    }
    all.push(at);
}

#[test]
fn everything_replaced() {
    let config = large();
    decide(&config).unwrap();
    let mut all = Vec::new();
    pointers(&config, String::new(), &mut all);
    let values = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(4294967295u64),
        json!(18446744073709551615u64),
        json!(1.5),
        json!(""),
        json!("\0"),
        json!("/"),
        json!("0-4294967295"),
        json!("=\n"),
        json!([]),
        json!(["", null]),
        json!([[]]),
        json!({}),
        json!({ "": "" }),
    ];
    let (mut refused, mut accepted) = (0, 0);
    for pointer in &all {
        for value in &values {
            let mut config = config.clone();
            *config.pointer_mut(pointer).unwrap() = value.clone();
            match decide(&config) {
                Ok(_) => accepted += 1,
                Err(error) => {
                    refused += 1;
                    let sentence = format!("{error:#}");
                    assert!(
                        !sentence.contains('\n'),
                        "{pointer} = {value}: {sentence:?}"
                    );
                    assert!(
                        !sentence.contains('\0'),
                        "{pointer} = {value}: {sentence:?}"
                    );
                }
            }
        }
    }
    // Neither a parser that refuses all nor one that accepts all is walked here.
    assert!(refused > 1000 && accepted > 300, "{refused} {accepted}");
}
