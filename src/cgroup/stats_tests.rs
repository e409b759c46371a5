//! Files of a cgroup, as a kernel with all controllers shows them, and the JSON they become.

use serde_json::{Value, json};

use super::*;
use crate::cgroup::events::{Happened, OomWatch, oom_line, stats_line, stream};
use crate::cgroup::tests::{Real, Tree, host};

const FILES: [(&str, &str); 26] = [
    (
        "cpu.stat",
        "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\ncore_sched.force_idle_usec 0\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\nnr_bursts 0\nburst_usec 0\n",
    ),
    (
        "cpu.pressure",
        "some avg10=1.50 avg60=0.25 avg300=0.01 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    ),
    ("memory.stat", "anon 4096\nfile 8192\nkernel 100\n"),
    ("memory.current", "12388\n"),
    ("memory.max", "1048576\n"),
    ("memory.peak", "20000\n"),
    ("memory.swap.current", "12\n"),
    ("memory.swap.max", "1000\n"),
    ("memory.swap.peak", "50\n"),
    (
        "memory.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
    ),
    ("pids.current", "3\n"),
    ("pids.max", "20\n"),
    (
        "io.stat",
        "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=7\n253:0\n0:0 rbytes=0\n",
    ),
    ("hugetlb.2MB.current", "1\n"),
    ("hugetlb.2MB.max", "max\n"),
    ("hugetlb.2MB.rsvd.current", "2097152\n"),
    ("hugetlb.2MB.rsvd.max", "max\n"),
    ("hugetlb.2MB.events", "max 5\n"),
    ("hugetlb.2MB.events.local", "max 0\n"),
    ("hugetlb.1GB.current", "0\n"),
    ("hugetlb.1GB.events", "max 0\n"),
    ("cgroup.procs", "1\n2\n"),
    ("cgroup.events", "populated 1\nfrozen 0\n"),
    (
        "memory.events",
        "low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\noom_group_kill 0\n",
    ),
    ("rdma.current", ""),
    ("misc.current", ""),
];

fn stats_of(files: &[(&str, &str)]) -> Value {
    let stats = Tree::new(files).open().stats().unwrap();
    serde_json::from_str(&stats_line("web", &stats).unwrap()).unwrap()
}

fn empty_cpuset() -> Value {
    json!({"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,
        "memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,
        "sched_relax_domain_level":0})
}

#[test]
fn statistics_have_the_shape_of_runc() {
    let idle = json!({"avg10":0.0,"avg60":0.0,"avg300":0.0,"total":9});
    let expected = json!({"type":"stats","id":"web","data":{
        "cpu": {
            "usage": {"total":3000000,"kernel":1000000,"user":2000000},
            "throttling": {"periods":4,"throttledPeriods":3,"throttledTime":2000},
            "psi": {"some":{"avg10":1.5,"avg60":0.25,"avg300":0.01,"total":77}},
        },
        "cpuset": empty_cpuset(),
        "memory": {
            "cache": 8192,
            "usage": {"limit":1048576,"usage":12388,"max":20000,"failcnt":0},
            "swap": {"limit":1049576,"usage":12400,"failcnt":0},
            "raw": {"anon":4096,"file":8192,"kernel":100},
            "psi": {"full":idle},
        },
        "pids": {"current":3,"limit":20},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major":8,"minor":16,"op":"Read","value":1},
                {"major":8,"minor":16,"op":"Write","value":2},
                {"major":8,"minor":16,"op":"Discard","value":5},
                {"op":"Read"},
            ],
            "ioServicedRecursive": [
                {"major":8,"minor":16,"op":"Read","value":3},
                {"major":8,"minor":16,"op":"Write","value":4},
                {"major":8,"minor":16,"op":"Discard","value":6},
            ],
        },
        "hugetlb": {"2MB":{"usage":2097152,"failcnt":5},"1GB":{"failcnt":0}},
        "intel_rdt": {},
        "network_interfaces": null,
    }});
    assert_eq!(stats_of(&FILES), expected);
}

#[test]
fn without_controllers_there_is_little_to_tell() {
    let expected = json!({"type":"stats","id":"web","data":{
        "cpu": {"usage": {"total":5000,"kernel":0,"user":0}},
        "cpuset": empty_cpuset(),
        "memory": {},
        "pids": {"current":2},
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    }});
    assert_eq!(
        stats_of(&[("cpu.stat", "usage_usec 5\n"), ("cgroup.procs", "1\n2\n")]),
        expected
    );
}

#[test]
fn unlimited_is_the_largest_number_and_no_limit_of_tasks() {
    let files = [
        ("memory.stat", "file 1\n"),
        ("memory.current", "5\n"),
        ("memory.max", "max\n"),
        ("memory.swap.current", "1\n"),
        ("memory.swap.max", "max\n"),
        ("pids.current", "1\n"),
        ("pids.max", "max\n"),
    ];
    let stats = Tree::new(&files).open().stats().unwrap();
    assert_eq!(
        (stats.memory.usage.limit, stats.memory.swap.limit),
        (u64::MAX, u64::MAX)
    );
    assert_eq!((stats.memory.swap.usage, stats.pids.limit), (6, 0));
    // No swap accounting: as if there were no swap.
    let stats = Tree::new(&files[..3]).open().stats().unwrap();
    assert_eq!(
        (stats.memory.swap.limit, stats.memory.swap.usage),
        (u64::MAX, 5)
    );
}

#[test]
fn the_root_cgroup_counts_the_machine() {
    let raw = pairs("anon 10\nfile 20\n");
    let meminfo = "MemTotal:       100 kB\nSwapTotal:      5 kB\nSwapFree:       3 kB\n";
    let (usage, swap) = root_memory(&raw, meminfo);
    assert_eq!((usage.usage, usage.limit), (30, u64::MAX));
    assert_eq!((swap.usage, swap.limit), (30 + 2048, u64::MAX));
}

#[test]
fn real_cgroups_have_statistics() {
    let Some(hierarchy) = host() else { return };
    let real = Real::new(&hierarchy, "stats");
    let mut child = real.sleeper();
    let stats = real.0.stats().unwrap();
    assert_eq!(stats.pids.current, 1);
    real.0.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn only_new_oom_kills_are_told() {
    let tree = Tree::new(&FILES);
    let cgroup = tree.open();
    let kills = |count: u32| {
        let text = format!("oom 9\noom_kill {count}\n");
        std::fs::write(tree.0.join("memory.events"), text).unwrap();
    };
    let soon = std::time::Duration::from_millis(20);
    let mut watch = OomWatch::new(&cgroup).unwrap();
    assert_eq!(watch.wait(soon).unwrap(), Happened::Nothing);
    kills(1);
    assert_eq!(watch.wait(soon).unwrap(), Happened::Nothing);
    kills(3);
    assert_eq!(watch.wait(soon).unwrap(), Happened::OomKill);
    assert_eq!(watch.wait(soon).unwrap(), Happened::Nothing);
    std::fs::write(tree.0.join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
    assert_eq!(watch.wait(soon).unwrap(), Happened::Emptied);
    assert_eq!(
        oom_line("a\"b").unwrap(),
        "{\"type\":\"oom\",\"id\":\"a\\\"b\"}\n"
    );
}

#[test]
fn the_stream_ends_with_the_last_process() {
    let Some(hierarchy) = host() else { return };
    let real = Real::new(&hierarchy, "stream");
    let mut child = real.sleeper();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let path = real.0.path.clone();
    let streaming = std::thread::spawn(move || {
        let cgroup = Cgroup::open(&path).unwrap();
        stream(
            &cgroup,
            "web",
            std::time::Duration::from_millis(5),
            &|| cgroup.stats(),
            &mut writer,
        )
    });
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&first["type"], &first["id"]),
        (&json!("stats"), &json!("web"))
    );
    lines.next().unwrap().unwrap();
    real.0.kill().unwrap();
    child.wait().unwrap();
    streaming.join().unwrap().unwrap();
    assert!(lines.all(|line| line.is_ok()));
}
