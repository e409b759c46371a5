//! What must be refused of a process, with the sentence.

use super::*;

#[test]
fn process() {
    for (pointer, value, sentence) in [
        ("args", json!([]), "args: args must not be empty"),
        ("args", Value::Null, "args: args must not be empty"),
        ("args", json!(["a", "b\0"]), "args[1]: has a null byte at 1"),
        ("cwd", json!(""), "cwd: must not be empty"),
        ("cwd", json!("x"), "cwd: \"x\" must be an absolute path"),
        ("cwd", json!("/\0"), "cwd: has a null byte at 1"),
        (
            "env",
            json!(["A=1", "B"]),
            "env[1]: invalid environment variable: missing '='",
        ),
        (
            "env",
            json!(["=1"]),
            "env[0]: invalid environment variable: name cannot be empty",
        ),
        ("env", json!(["A=\0"]), "env[0]: has a null byte at 2"),
        (
            "oomScoreAdj",
            json!(1001),
            "oomScoreAdj: 1001 is not between -1000 and 1000",
        ),
        (
            "user/umask",
            json!(0o1000),
            "user.umask: 0o1000 is not between 0 and 0o777",
        ),
        (
            "consoleSize",
            json!({ "height": 65536, "width": 1 }),
            "consoleSize.height: 65536 is above 65535",
        ),
        (
            "rlimits",
            json!([{ "type": "RLIMIT_AS", "soft": 2, "hard": 1 }]),
            "rlimits[0].soft: 2 is above hard, 1",
        ),
        (
            "rlimits",
            json!([{ "type": "RLIMIT_AS" }, { "type": "RLIMIT_CPU" }, { "type": "RLIMIT_AS" }]),
            "rlimits[2].type: RLIMIT_AS is also process.rlimits[0]",
        ),
        (
            "capabilities",
            json!({ "effective": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"] }),
            "capabilities.effective: CAP_CHOWN not among the permitted",
        ),
        (
            "ioPriority",
            json!({ "class": "IOPRIO_CLASS_RT", "priority": 8 }),
            "ioPriority.priority: invalid ioPriority.Priority: 8, accepted are 0 to 7",
        ),
        (
            "execCPUAffinity",
            json!({ "initial": "3-1", "final": "1" }),
            "execCPUAffinity.initial: invalid range: 3-1",
        ),
        (
            "execCPUAffinity",
            json!({ "initial": null, "final": "0,65537" }),
            "execCPUAffinity.final: values larger than 65536 are not supported",
        ),
    ] {
        refused(
            &[(&format!("/process/{pointer}"), value)],
            &format!("process.{sentence}"),
        );
    }
}

#[test]
fn scheduler() {
    for (value, sentence) in [
        (
            json!({ "policy": "SCHED_OTHER", "nice": 20 }),
            ".nice: invalid scheduler.nice: 20 when scheduler.policy is SCHED_OTHER",
        ),
        (
            json!({ "policy": "SCHED_OTHER", "priority": 1 }),
            ".priority: scheduler.priority can only be specified for SchedFIFO or SchedRR policy",
        ),
        (
            json!({ "policy": "SCHED_RR", "priority": -1 }),
            ".priority: -1 is negative",
        ),
        (
            json!({ "policy": "SCHED_RR", "period": 1 }),
            ": scheduler runtime/deadline/period can only be specified for SchedDeadline policy",
        ),
        (
            json!({ "policy": "SCHED_ISO" }),
            ".policy: SCHED_ISO is reserved but not implemented in the kernel, accepted are \
             SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE and SCHED_DEADLINE",
        ),
    ] {
        refused(
            &[("/process/scheduler", value)],
            &format!("process.scheduler{sentence}"),
        );
    }
}

#[test]
fn memory_policy_and_personality() {
    for (value, sentence) in [
        (
            json!({ "mode": "MPOL_DEFAULT", "nodes": "0-1" }),
            "memory policy mode requires 0 nodes but got 2",
        ),
        (
            json!({ "mode": "MPOL_BIND" }),
            "memory policy mode requires at least one node but got 0",
        ),
        (
            json!({ "mode": "MPOL_BIND", "nodes": "2-1" }),
            "invalid memory policy node: invalid range: 2-1",
        ),
        (
            json!({ "mode": "MPOL_BIND", "nodes": "," }),
            "no members found in set \",\"",
        ),
    ] {
        refused(
            &[("/linux/memoryPolicy", value)],
            &format!("linux.memoryPolicy.nodes: {sentence}"),
        );
    }
    refused(
        &[(
            "/linux/personality",
            json!({ "domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"] }),
        )],
        "linux.personality.flags: [\"ADDR_NO_RANDOMIZE\"] are not supported, none are",
    );
}
