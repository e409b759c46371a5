//! Every conversion, as a table: resources in JSON, then what is written.

use super::*;

fn decide(json: &str, purpose: Purpose) -> Result<Settings> {
    let resources = serde_json::from_str(json).unwrap();
    settings(
        &resources,
        &Context {
            purpose,
            device_paths: &[],
            unprivileged: false,
        },
    )
}

/// `file=value` for each write, separated by `; `.
fn writes(json: &str, purpose: Purpose) -> String {
    let settings = decide(json, purpose).unwrap_or_else(|error| panic!("{json}: {error:#}"));
    let one = |write: &Write| format!("{}={}", write.file, write.value);
    settings
        .writes
        .iter()
        .map(one)
        .collect::<Vec<_>>()
        .join("; ")
}

#[test]
fn values_are_converted() {
    let table = [
        ("{}", ""),
        // pids
        (r#"{"pids":{"limit":20}}"#, "pids.max=20"),
        (r#"{"pids":{"limit":0}}"#, "pids.max=1"),
        (r#"{"pids":{"limit":-1}}"#, "pids.max=max"),
        (r#"{"pids":{"limit":-7}}"#, "pids.max=max"),
        // memory
        (r#"{"memory":{}}"#, ""),
        (r#"{"memory":{"limit":0,"swap":0,"reservation":0}}"#, ""),
        (r#"{"memory":{"limit":1000}}"#, "memory.max=1000"),
        (
            r#"{"memory":{"limit":1000,"swap":3000}}"#,
            "memory.swap.max=2000; memory.max=1000",
        ),
        (
            r#"{"memory":{"limit":1000,"swap":1000}}"#,
            "memory.swap.max=0; memory.max=1000",
        ),
        (
            r#"{"memory":{"limit":1000,"swap":-1}}"#,
            "memory.swap.max=max; memory.max=1000",
        ),
        (
            r#"{"memory":{"limit":-1}}"#,
            "memory.swap.max=max; memory.max=max",
        ),
        (
            r#"{"memory":{"limit":-1,"swap":3000}}"#,
            "memory.swap.max=3000; memory.max=max",
        ),
        (r#"{"memory":{"swap":-1}}"#, "memory.swap.max=max"),
        (r#"{"memory":{"reservation":500}}"#, "memory.low=500"),
        (r#"{"memory":{"reservation":-1}}"#, "memory.low=max"),
        (
            r#"{"memory":{"swappiness":60,"disableOOMKiller":true,"useHierarchy":true,"kernelTCP":5}}"#,
            "",
        ),
        // blockIO
        (r#"{"blockIO":{"weight":0}}"#, ""),
        (r#"{"blockIO":{"weight":10}}"#, "io.bfq.weight=10"),
        (
            r#"{"blockIO":{"leafWeight":100,"weight":750}}"#,
            "io.bfq.weight=750",
        ),
        (
            r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":444},{"major":8,"minor":1,"leafWeight":3},{"major":8,"minor":2,"weight":0}]}}"#,
            "io.bfq.weight=8:0 444; io.bfq.weight=8:2 0",
        ),
        (
            r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1048576}],
                "throttleWriteBpsDevice":[{"major":8,"minor":1,"rate":2}],
                "throttleReadIOPSDevice":[{"major":8,"minor":2,"rate":3},{"major":8,"minor":3,"rate":0}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":4,"rate":18446744073709551615}]}}"#,
            "io.max=8:0 rbps=1048576; io.max=8:1 wbps=2; io.max=8:2 riops=3; io.max=8:3 riops=max; \
             io.max=8:4 wiops=18446744073709551615",
        ),
        // cpu
        (
            r#"{"cpu":{"shares":0,"quota":0,"period":0,"cpus":"","mems":""}}"#,
            "",
        ),
        (r#"{"cpu":{"shares":1024}}"#, "cpu.weight=100"),
        (r#"{"cpu":{"quota":50000}}"#, "cpu.max=50000 100000"),
        (
            r#"{"cpu":{"quota":50000,"period":20000}}"#,
            "cpu.max=50000 20000",
        ),
        (r#"{"cpu":{"quota":-1}}"#, "cpu.max=max 100000"),
        (
            r#"{"cpu":{"quota":-1,"period":20000}}"#,
            "cpu.max=max 20000",
        ),
        (r#"{"cpu":{"period":20000}}"#, "cpu.max=max 20000"),
        (r#"{"cpu":{"burst":0}}"#, "cpu.max.burst=0"),
        (
            r#"{"cpu":{"burst":100,"quota":5000}}"#,
            "cpu.max.burst=100; cpu.max=5000 100000",
        ),
        (r#"{"cpu":{"idle":1}}"#, "cpu.idle=1"),
        (
            r#"{"cpu":{"idle":0,"shares":2}}"#,
            "cpu.idle=0; cpu.weight=1",
        ),
        (
            r#"{"cpu":{"realtimeRuntime":950000,"realtimePeriod":1000000}}"#,
            "",
        ),
        (
            r#"{"cpu":{"cpus":"0-1,3","mems":"0"}}"#,
            "cpuset.cpus=0-1,3; cpuset.mems=0",
        ),
        // hugepages
        (
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304},{"pageSize":"1GB","limit":0}]}"#,
            "hugetlb.2MB.max=4194304; hugetlb.2MB.rsvd.max=4194304; hugetlb.1GB.max=0; hugetlb.1GB.rsvd.max=0",
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"64KB","limit":-1}]}"#,
            "hugetlb.64KB.max=max; hugetlb.64KB.rsvd.max=max",
        ),
        // rdma
        (
            r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"mlx4_0":{"hcaObjects":1},"x":{}}}"#,
            "rdma.max=mlx4_0 hca_object=1; rdma.max=mlx5_1 hca_handle=3 hca_object=10000",
        ),
        // network: v1 only
        (
            r#"{"network":{"classID":1,"priorities":[{"name":"eth0","priority":5}]}}"#,
            "",
        ),
        // unified
        (
            r#"{"unified":{"pids.max":"99","io.max":"8:0 riops=1\n8:16 wiops=2\n","cpuset.cpus":""}}"#,
            "cpuset.cpus=\n; io.max=8:0 riops=1\n; io.max=8:16 wiops=2\n; pids.max=99",
        ),
        // the order
        (
            r#"{"unified":{"memory.min":"1"},"rdma":{"x":{"hcaHandles":1}},"hugepageLimits":[{"pageSize":"2MB","limit":1}],
                "cpu":{"cpus":"0","quota":5000,"shares":2,"burst":1,"mems":"0"},"blockIO":{"weight":10},
                "memory":{"reservation":1,"limit":2,"swap":2},"pids":{"limit":1}}"#,
            "pids.max=1; memory.swap.max=0; memory.max=2; memory.low=1; io.bfq.weight=10; cpu.weight=1; \
             cpu.max.burst=1; cpu.max=5000 100000; cpuset.cpus=0; cpuset.mems=0; hugetlb.2MB.max=1; \
             hugetlb.2MB.rsvd.max=1; rdma.max=x hca_handle=1; memory.min=1",
        ),
    ];
    for (json, expected) in table {
        assert_eq!(writes(json, Purpose::Create), expected, "{json}");
    }
}

#[test]
fn an_update_keeps_the_other_half_of_cpu_max() {
    assert_eq!(
        writes(r#"{"cpu":{"quota":5000}}"#, Purpose::Update),
        "cpu.max=5000"
    );
    assert_eq!(
        writes(r#"{"cpu":{"quota":-1}}"#, Purpose::Update),
        "cpu.max=max"
    );
    let settings = decide(r#"{"cpu":{"period":20000}}"#, Purpose::Update).unwrap();
    assert_eq!(settings.writes[0].value, "20000");
    assert_eq!(settings.writes[0].mode, Mode::KeepFirstWord);
}

#[test]
fn shares_become_weights() {
    // Ends, default and neighbours as in runc; 100 and 3333 computed by hand from the formula.
    let table = [
        (0, 0),
        (1, 1),
        (2, 1),
        (3, 2),
        (100, 17),
        (1024, 100),
        (3333, 256),
        (262_143, 10_000),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ];
    for (shares, expected) in table {
        assert_eq!(weight(shares), expected, "{shares}");
    }
}

#[test]
fn io_weight_stands_in_for_bfq() {
    for (weight, expected) in [(10, 1), (100, 910), (750, 7475), (1000, 10_000)] {
        let settings = decide(
            &format!(r#"{{"blockIO":{{"weight":{weight}}}}}"#),
            Purpose::Create,
        )
        .unwrap();
        assert_eq!(
            settings.writes[0].mode,
            Mode::Else("io.weight".into(), format!("{expected}"))
        );
    }
}

#[test]
fn some_files_may_be_missing() {
    let optional = |json| {
        let settings = decide(json, Purpose::Create).unwrap();
        settings
            .writes
            .iter()
            .map(|write| write.mode == Mode::IfPresent)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        optional(r#"{"memory":{"limit":1,"swap":-1}}"#),
        [true, false]
    );
    assert_eq!(
        optional(r#"{"memory":{"limit":1,"swap":1}}"#),
        [true, false]
    );
    assert_eq!(
        optional(r#"{"memory":{"limit":1,"swap":2}}"#),
        [false, false]
    );
    assert_eq!(
        optional(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":1}]}"#),
        [false, true]
    );
}

#[test]
fn burst_is_tried_again_only_if_a_quota_follows() {
    let mode = |json| {
        decide(json, Purpose::Create).unwrap().writes[0]
            .mode
            .clone()
    };
    assert_eq!(mode(r#"{"cpu":{"burst":100}}"#), Mode::Plain);
    assert_eq!(
        mode(r#"{"cpu":{"burst":100,"quota":5000}}"#),
        Mode::AgainAfterNext
    );
}

#[test]
fn wrong_values_name_themselves() {
    let table = [
        (
            r#"{"memory":{"limit":-5}}"#,
            "linux.resources.memory.limit: -5 is neither a size nor -1 (unlimited)",
        ),
        (
            r#"{"memory":{"reservation":-2}}"#,
            "linux.resources.memory.reservation: -2 is neither a size nor -1 (unlimited)",
        ),
        (
            r#"{"memory":{"swap":5}}"#,
            "linux.resources.memory.swap: unable to set swap limit without memory limit",
        ),
        (
            r#"{"memory":{"limit":6,"swap":5}}"#,
            "linux.resources.memory.swap: memory+swap limit should be >= memory limit (5 < 6)",
        ),
        (
            r#"{"blockIO":{"weight":9}}"#,
            "linux.resources.blockIO.weight: 9 is not between 10 and 1000",
        ),
        (
            r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0},{"major":8,"minor":1,"weight":1001}]}}"#,
            "linux.resources.blockIO.weightDevice[1].weight: 1001 is not between 10 and 1000",
        ),
        (
            r#"{"cpu":{"idle":1,"shares":5}}"#,
            "linux.resources.cpu.shares: 5 cannot be set together with cpu.idle 1",
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-2}]}"#,
            "linux.resources.hugepageLimits[0].limit: -2 is neither a size nor -1 (unlimited)",
        ),
        (
            r#"{"unified":{"a/b.max":"1"}}"#,
            "linux.resources.unified[\"a/b.max\"]: unified resource \"a/b.max\" must be a file name (no slashes)",
        ),
        (
            r#"{"unified":{"tasks":"1"}}"#,
            "linux.resources.unified[\"tasks\"]: unified resource \"tasks\" must be in the form CONTROLLER.PARAMETER",
        ),
    ];
    for (json, expected) in table {
        assert_eq!(
            decide(json, Purpose::Create).unwrap_err().to_string(),
            expected
        );
    }
    for size in [
        "", "2M", "2mb", "MB", "02MB", "2MBMB", "../2MB", "2KBMB", "2 MB",
    ] {
        let json = format!(r#"{{"hugepageLimits":[{{"pageSize":"{size}","limit":1}}]}}"#);
        let error = decide(&json, Purpose::Create).unwrap_err().to_string();
        assert!(
            error.starts_with("linux.resources.hugepageLimits[0].pageSize: "),
            "{error}"
        );
    }
}

#[test]
fn needed_controllers_are_those_of_the_files() {
    let json = r#"{"memory":{"limit":1},"unified":{"pids.max":"1","cgroup.max.depth":"1"}}"#;
    let settings = decide(json, Purpose::Create).unwrap();
    assert_eq!(
        settings.controllers().collect::<Vec<_>>(),
        ["memory", "pids"]
    );
    assert!(settings.needs_domain());
    let threaded = r#"{"pids":{"limit":1},"cpu":{"shares":5,"cpus":"0"}}"#;
    assert!(!decide(threaded, Purpose::Create).unwrap().needs_domain());
    assert!(has_domain_controller("cpuset cpu io pids"));
    assert!(!has_domain_controller("cpuset cpu pids\n"));
}

#[test]
fn a_filter_is_made_when_it_means_something() {
    let optional = |json, purpose| decide(json, purpose).unwrap().devices.map(|it| it.optional);
    let nothing = "{}";
    let everything = r#"{"devices":[{"allow":true,"access":"rwm"}]}"#;
    let something = r#"{"devices":[{"allow":false,"access":"rwm"}]}"#;
    assert_eq!(optional(nothing, Purpose::Create), Some(false));
    assert_eq!(optional(something, Purpose::Create), Some(false));
    assert_eq!(optional(everything, Purpose::Create), None);
    assert_eq!(optional(nothing, Purpose::Update), None);
    assert_eq!(optional(r#"{"devices":[]}"#, Purpose::Update), None);
    assert_eq!(optional(something, Purpose::Update), Some(false));
    assert_eq!(optional(everything, Purpose::Update), Some(true));
}

#[test]
fn checks_and_warnings_are_kept_for_later() {
    let json = r#"{"memory":{"limit":10,"swap":-1,"kernel":5,"checkBeforeUpdate":true}}"#;
    let settings = decide(json, Purpose::Update).unwrap();
    assert_eq!(settings.check, Some(Check { limit: 10, swap: 0 }));
    assert_eq!(settings.warnings.len(), 1);
    let unlimited = r#"{"memory":{"limit":-1,"checkBeforeUpdate":true}}"#;
    assert_eq!(decide(unlimited, Purpose::Update).unwrap().check, None);
}
