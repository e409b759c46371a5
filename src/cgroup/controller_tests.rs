//! Limits that bite. These need a machine with cgroup v2 alone and all controllers: the VM.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::events::{Happened, OomWatch};
use super::settings::{Context, Purpose};
use super::tests::{Real, decide, host, must_run};
use super::update::from_json;
use super::*;

/// The hierarchy, if it has these controllers.
fn host_with(controllers: &[&str]) -> Option<Hierarchy> {
    let hierarchy = host()?;
    let all = fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap();
    let missing = controllers
        .iter()
        .find(|name| !all.split_whitespace().any(|it| it == **name));
    match missing {
        None => Some(hierarchy),
        Some(name) => {
            assert!(!must_run("controllers"), "cannot run: no controller {name}");
            eprintln!("skipped: no controller {name}");
            None
        }
    }
}

fn text(real: &Real, file: &str) -> String {
    real.0.read(file).unwrap().trim().to_owned()
}

fn apply(real: &Real, json: &str) -> Result<()> {
    real.0.apply(&decide(json, Purpose::Create))
}

fn update(real: &Real, json: &str) -> Result<()> {
    let context = Context {
        purpose: Purpose::Update,
        device_paths: &[],
        unprivileged: false,
    };
    real.0.update(&from_json(json).unwrap(), &context).map(drop)
}

/// Runs a shell command in the cgroup.
fn run(real: &Real, command: &str) -> std::process::ExitStatus {
    use std::io::Write as _;
    let mut child = Command::new("sh")
        .args(["-c", &format!("read go; {command}")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    real.0.join(child.id() as i32).unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    child.wait().unwrap()
}

#[test]
fn every_value_is_taken_by_the_kernel() {
    let Some(hierarchy) = host_with(&["cpu", "cpuset", "io", "memory", "pids"]) else {
        return;
    };
    let real = Real::new(&hierarchy, "values");
    apply(
        &real,
        r#"{"pids":{"limit":20},
            "memory":{"limit":67108864,"swap":134217728,"reservation":33554432},
            "blockIO":{"weight":750},
            "cpu":{"shares":2048,"quota":50000,"period":20000,"burst":1000,"cpus":"0","mems":"0"},
            "unified":{"memory.high":"50331648","memory.oom.group":"1","cgroup.max.depth":"7"}}"#,
    )
    .unwrap();
    let table = [
        ("pids.max", "20"),
        ("memory.max", "67108864"),
        ("memory.swap.max", "67108864"),
        ("memory.low", "33554432"),
        ("cpu.weight", "174"),
        ("cpu.max", "50000 20000"),
        ("cpu.max.burst", "1000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("memory.high", "50331648"),
        ("memory.oom.group", "1"),
        ("cgroup.max.depth", "7"),
    ];
    for (file, expected) in table {
        assert_eq!(text(&real, file), expected, "{file}");
    }
    let weight = real
        .0
        .read("io.bfq.weight")
        .or_else(|_| real.0.read("io.weight"))
        .unwrap();
    assert!(
        ["default 750\n", "default 7475\n"].contains(&weight.as_str()),
        "{weight}"
    );
    // And all of it away again.
    let away = r#"{"pids":{"limit":-1},"memory":{"limit":-1,"reservation":-1},"cpu":{"quota":-1}}"#;
    apply(&real, away).unwrap();
    let table = [
        ("pids.max", "max"),
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
        ("memory.low", "max"),
        ("cpu.max", "max 100000"),
    ];
    for (file, expected) in table {
        assert_eq!(text(&real, file), expected, "{file}");
    }
}

#[test]
fn an_idle_cgroup_takes_no_weight() {
    let Some(hierarchy) = host_with(&["cpu"]) else {
        return;
    };
    let real = Real::new(&hierarchy, "idle");
    apply(&real, r#"{"cpu":{"idle":1}}"#).unwrap();
    assert_eq!(text(&real, "cpu.idle"), "1");
    let error = update(&real, r#"{"cpu":{"shares":1024}}"#)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("linux.resources.cpu.shares: write \"100\" to "),
        "{error}"
    );
    assert!(
        error.ends_with("cpu.weight: invalid argument (EINVAL)"),
        "{error}"
    );
    for wrong in ["-1", "2"] {
        update(&real, &format!(r#"{{"cpu":{{"idle":{wrong}}}}}"#)).unwrap_err();
    }
    update(&real, r#"{"cpu":{"idle":0,"shares":1024}}"#).unwrap();
    assert_eq!(
        (text(&real, "cpu.idle"), text(&real, "cpu.weight")),
        ("0".into(), "100".into())
    );
}

#[test]
fn updates_touch_what_they_name() {
    let Some(hierarchy) = host_with(&["cpu", "memory", "pids"]) else {
        return;
    };
    let real = Real::new(&hierarchy, "update");
    apply(
        &real,
        r#"{"pids":{"limit":20},"memory":{"limit":33554432,"swap":67108864},
            "cpu":{"quota":500000,"period":1000000}}"#,
    )
    .unwrap();
    update(&real, r#"{"memory":{"limit":67108864}}"#).unwrap();
    assert_eq!(text(&real, "memory.max"), "67108864");
    assert_eq!(text(&real, "memory.swap.max"), "33554432");
    update(&real, r#"{"cpu":{"period":900000}}"#).unwrap();
    assert_eq!(text(&real, "cpu.max"), "500000 900000");
    update(&real, r#"{"cpu":{"quota":600000}}"#).unwrap();
    assert_eq!(text(&real, "cpu.max"), "600000 900000");
    update(&real, r#"{"cpu":{"quota":-1}}"#).unwrap();
    assert_eq!(text(&real, "cpu.max"), "max 900000");
    update(&real, r#"{"memory":{"swap":100663296}}"#).unwrap();
    assert_eq!(text(&real, "memory.max"), "67108864");
    assert_eq!(text(&real, "memory.swap.max"), "33554432");
    update(&real, r#"{"memory":{"swap":5}}"#).unwrap_err();
    update(&real, r#"{"memory":{"limit":-1}}"#).unwrap();
    assert_eq!(
        (text(&real, "memory.max"), text(&real, "memory.swap.max")),
        ("max".into(), "max".into())
    );
    assert_eq!(text(&real, "pids.max"), "20");
}

#[test]
fn a_burst_above_the_old_quota_waits_for_the_new_one() {
    let Some(hierarchy) = host_with(&["cpu"]) else {
        return;
    };
    let real = Real::new(&hierarchy, "burst");
    apply(&real, r#"{"cpu":{"quota":10000}}"#).unwrap();
    // Alone it is refused, which shows that the next line is not for nothing.
    update(&real, r#"{"cpu":{"burst":20000}}"#).unwrap_err();
    update(&real, r#"{"cpu":{"burst":20000,"quota":30000}}"#).unwrap();
    assert_eq!(text(&real, "cpu.max.burst"), "20000");
}

#[test]
fn rates_are_set_and_taken_away() {
    let Some(hierarchy) = host_with(&["io"]) else {
        return;
    };
    let real = Real::new(&hierarchy, "io");
    let disks = fs::read_dir("/sys/block").unwrap().filter_map(|disk| {
        let disk = disk.unwrap().path();
        let is_disk = disk.join("device").exists() && disk.join("dev").exists();
        is_disk.then(|| {
            fs::read_to_string(disk.join("dev"))
                .unwrap()
                .trim()
                .to_owned()
        })
    });
    let disk = disks.min().expect("a disk");
    let (major, minor) = disk.split_once(':').unwrap();
    let json = |rate: u32| {
        format!(
            r#"{{"blockIO":{{"throttleReadBpsDevice":[{{"major":{major},"minor":{minor},"rate":{rate}}}],
                "throttleWriteIOPSDevice":[{{"major":{major},"minor":{minor},"rate":50}}]}}}}"#
        )
    };
    apply(&real, &json(1048576)).unwrap();
    assert_eq!(
        text(&real, "io.max"),
        format!("{disk} rbps=1048576 wbps=max riops=max wiops=50")
    );
    update(&real, &json(0)).unwrap();
    assert_eq!(
        text(&real, "io.max"),
        format!("{disk} rbps=max wbps=max riops=max wiops=50")
    );
    let nowhere = r#"{"blockIO":{"throttleReadBpsDevice":[{"major":511,"minor":99,"rate":1024}]}}"#;
    let error = apply(&real, nowhere).unwrap_err().to_string();
    assert!(
        error.starts_with("linux.resources.blockIO.throttleReadBpsDevice[0]: "),
        "{error}"
    );
    assert!(error.ends_with("(ENODEV)"), "{error}");
}

#[test]
fn too_many_processes_are_refused() {
    let Some(hierarchy) = host_with(&["pids"]) else {
        return;
    };
    let real = Real::new(&hierarchy, "pids");
    apply(&real, r#"{"pids":{"limit":1}}"#).unwrap();
    assert!(!run(&real, "/bin/true; /bin/true").success());
    apply(&real, r#"{"pids":{"limit":2}}"#).unwrap();
    assert!(run(&real, "/bin/true; /bin/true").success());
}

#[test]
fn too_much_memory_is_killed_and_told() {
    let Some(hierarchy) = host_with(&["memory"]) else {
        return;
    };
    let real = Real::new(&hierarchy, "oom");
    apply(&real, r#"{"memory":{"limit":8388608,"swap":8388608}}"#).unwrap();
    let mut keeper = real.sleeper();
    let mut watch = OomWatch::new(&real.0).unwrap();
    assert_eq!(
        watch.wait(Duration::from_millis(10)).unwrap(),
        Happened::Nothing
    );
    let status = run(&real, "exec tail /dev/zero");
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
    assert_eq!(
        watch.wait(Duration::from_secs(10)).unwrap(),
        Happened::OomKill
    );
    assert!(real.0.oom_kills().unwrap() > 0);
    assert_eq!(real.0.stats().unwrap().memory.usage.limit, 8388608);
    // More in use than this: refused when asked for, taken otherwise.
    let check = r#"{"memory":{"limit":4096,"checkBeforeUpdate":true}}"#;
    let error = update(&real, check).unwrap_err().to_string();
    assert!(
        error.starts_with("linux.resources.memory.limit: rejecting memory limit 4096 <= usage "),
        "{error}"
    );
    real.0.kill().unwrap();
    keeper.wait().unwrap();
    assert_eq!(
        watch.wait(Duration::from_secs(10)).unwrap(),
        Happened::Emptied
    );
}

#[test]
fn cpu_quota_throttles() {
    let Some(hierarchy) = host_with(&["cpu"]) else {
        return;
    };
    let real = Real::new(&hierarchy, "throttle");
    apply(&real, r#"{"cpu":{"quota":10000,"period":100000}}"#).unwrap();
    assert!(run(&real, "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); done").success());
    let cpu = real.0.stats().unwrap().cpu;
    assert!(cpu.throttling.throttled_periods > 0 && cpu.throttling.throttled_time > 0);
    assert!(cpu.usage.total > 0);
}

#[test]
fn a_threaded_parent_makes_a_threaded_cgroup() {
    let Some(hierarchy) = host_with(&["memory", "pids"]) else {
        return;
    };
    let parent = Real::new(&hierarchy, "threads");
    parent.0.write("cgroup.type", "threaded").unwrap();
    let path = parent.0.path.join("leaf");
    let settings = decide(r#"{"pids":{"limit":5}}"#, Purpose::Create);
    let leaf = Cgroup::create(&hierarchy, &path, &settings).unwrap();
    assert_eq!(leaf.read("cgroup.type").unwrap(), "domain invalid\n");
    // As the launcher does when the clone is refused.
    leaf.complete(&settings).unwrap();
    assert_eq!(leaf.read("cgroup.type").unwrap(), "threaded\n");
    assert!(leaf.pids().unwrap().is_empty());
    leaf.kill().unwrap();
    let memory = decide(r#"{"memory":{"limit":1048576}}"#, Purpose::Create);
    let error = leaf.apply(&memory).unwrap_err().to_string();
    assert!(
        error.contains("with domain controllers -- it is in threaded mode"),
        "{error}"
    );
    leaf.discard();
}
