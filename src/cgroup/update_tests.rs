//! Flags and files, and what they come to.

use super::*;
use crate::cgroup::Settings;

fn decide(resources: &LinuxResources) -> Settings {
    let context = Context {
        purpose: Purpose::Update,
        device_paths: &[],
        unprivileged: false,
    };
    settings(resources, &context).unwrap()
}

fn writes(resources: &LinuxResources) -> String {
    let writes = decide(resources).writes;
    let one = |write: &super::super::settings::Write| format!("{}={}", write.file, write.value);
    writes.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[test]
fn sizes_have_suffixes() {
    let table = [
        ("0", 0),
        ("100", 100),
        ("100b", 100),
        ("1k", 1024),
        ("1K", 1024),
        ("1kb", 1024),
        ("1KiB", 1024),
        ("32 kb", 32768),
        ("50M", 52_428_800),
        ("1.5g", 1_610_612_736),
        (".5k", 512),
        ("2t", 2_199_023_255_552),
        ("1p", 1 << 50),
        ("9223372036854775807", i64::MAX),
    ];
    for (text, expected) in table {
        assert_eq!(bytes(text).unwrap(), expected, "{text}");
    }
    let wrong = [
        "",
        "k",
        "-5",
        "-1k",
        "+1",
        "1e3",
        "1x",
        "1kk",
        "1  k",
        "1ib",
        " 1",
        "1k ",
        "1.2.3",
        "0x10",
        "9223372036854775808",
        "9000p",
        "nan",
        "inf",
    ];
    for text in wrong {
        assert!(bytes(text).is_err(), "{text}");
    }
}

#[test]
fn flags_become_resources() {
    let some = |text: &str| Some(text.to_owned());
    let flags = Flags {
        blkio_weight: some("750"),
        cpu_period: some("900000"),
        cpu_quota: some("600000"),
        cpu_burst: some("5"),
        cpu_share: some("1024"),
        cpu_rt_period: some("1"),
        cpu_rt_runtime: some("1"),
        cpu_idle: None,
        cpuset_cpus: some("0"),
        cpuset_mems: some("0"),
        memory: some("64M"),
        memory_reservation: some("32M"),
        memory_swap: some("128M"),
        kernel_memory: some("1k"),
        kernel_memory_tcp: some("1k"),
        pids_limit: some("10"),
    };
    let resources = from_flags(&flags).unwrap();
    assert_eq!(
        writes(&resources),
        "pids.max=10; memory.swap.max=67108864; memory.max=67108864; memory.low=33554432; \
         io.bfq.weight=750; cpu.weight=100; cpu.max.burst=5; cpu.max=600000 900000; \
         cpuset.cpus=0; cpuset.mems=0"
    );
    assert_eq!(decide(&resources).warnings.len(), 1);
    assert_eq!(writes(&from_flags(&Flags::default()).unwrap()), "");
    let empty = Flags {
        memory: some(""),
        cpu_share: some(""),
        cpuset_cpus: some(""),
        ..Flags::default()
    };
    assert_eq!(writes(&from_flags(&empty).unwrap()), "");
}

#[test]
fn single_flags_touch_single_files() {
    let some = |text: &str| Some(text.to_owned());
    let none = Flags::default;
    let table = [
        (
            Flags {
                memory: some("-1"),
                ..none()
            },
            "memory.swap.max=max; memory.max=max",
        ),
        (
            Flags {
                memory: some("1k"),
                ..none()
            },
            "memory.max=1024",
        ),
        (
            Flags {
                memory_swap: some("-1"),
                ..none()
            },
            "memory.swap.max=max",
        ),
        (
            Flags {
                pids_limit: some("-1"),
                ..none()
            },
            "pids.max=max",
        ),
        (
            Flags {
                pids_limit: some("0"),
                ..none()
            },
            "pids.max=1",
        ),
        (
            Flags {
                cpu_idle: some("1"),
                ..none()
            },
            "cpu.idle=1",
        ),
        (
            Flags {
                cpu_quota: some("-1"),
                ..none()
            },
            "cpu.max=max",
        ),
        (
            Flags {
                cpu_burst: some("0"),
                ..none()
            },
            "cpu.max.burst=0",
        ),
    ];
    for (flags, expected) in table {
        assert_eq!(writes(&from_flags(&flags).unwrap()), expected);
    }
}

#[test]
fn wrong_flags_name_themselves() {
    let error = |flags: &Flags| format!("{:#}", from_flags(flags).unwrap_err());
    let some = |text: &str| Some(text.to_owned());
    let memory = Flags {
        memory: some("12x"),
        ..Flags::default()
    };
    assert_eq!(
        error(&memory),
        "invalid value for memory: invalid size: '12x'"
    );
    let shares = Flags {
        cpu_share: some("-1"),
        ..Flags::default()
    };
    assert_eq!(
        error(&shares),
        "invalid value for cpu-share: \"-1\": invalid digit found in string"
    );
}

#[test]
fn files_are_read_as_leniently_as_go_does() {
    // The spellings are of runc's own tests.
    let table = [
        ("{}", ""),
        (r#"{"CPU":{"Cpus":"1"}}"#, "cpuset.cpus=1"),
        (r#"{"pids":{}}"#, ""),
        (r#"{"pids":{"limit":null}}"#, ""),
        (
            r#"{"pids":null,"memory":{"limit":5,"swap":null}}"#,
            "memory.max=5",
        ),
        (
            r#"{"hugepageLimits":[{"pagesize":"2MB","limit":1}]}"#,
            "hugetlb.2MB.max=1; hugetlb.2MB.rsvd.max=1",
        ),
        (
            r#"{"blockio":{"ThrottleReadIOPSDevice":[{"Major":8,"minor":0,"rate":5}]}}"#,
            "io.max=8:0 riops=5",
        ),
        (
            r#"{"rdma":{"Name":{"HcaHandles":2}}}"#,
            "rdma.max=Name hca_handle=2",
        ),
        (r#"{"unified":{"CPU.max":"5"}} trailing"#, "CPU.max=5"),
    ];
    for (text, expected) in table {
        assert_eq!(writes(&from_json(text).unwrap()), expected, "{text}");
    }
    let device = from_json(r#"{"devices":[{"type":"","allow":true,"access":"rwm"}]}"#).unwrap();
    assert!(decide(&device).devices.unwrap().optional);
    assert!(
        from_json("{")
            .unwrap_err()
            .to_string()
            .starts_with("resources")
    );
    assert!(from_json(r#"{"memory":{"limit":"1"}}"#).is_err());
}
