//! cgroups, as far as this machine's unified hierarchy goes: a hybrid one has few controllers.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way, host, skip};
use crate::tests;

pub const TESTS: Tests = tests![
    init_is_in_it_when_created,
    from(removed_by_delete),
    paths,
    missing_controllers_are_named,
    hybrid_layout,
    not_empty_is_refused,
    disabled,
    from(device_filter),
    from(exec_joins_it),
    from(exec_into_a_sub_cgroup),
    from(exec_beside_inner_cgroups),
    from(update_refuses_what_is_missing),
    hugetlb,
];

fn place(pid: i32) -> String {
    let all = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("read cgroup");
    let line = all.lines().find_map(|l| l.strip_prefix("0::"));
    line.expect("a cgroup of the unified hierarchy").to_owned()
}

fn init_is_in_it_when_created(way: Way) {
    let b = Bundle::new(way);
    b.create().ok();
    let procs = fs::read_to_string(b.cgroup().join("cgroup.procs")).expect("read cgroup.procs");
    assert_eq!(procs, format!("{}\n", b.pid()));
}

fn removed_by_delete(way: Way) {
    let b = Bundle::new(way).script("mkdir -p /sys/fs/cgroup/in/ner; exit 0");
    let b = b.config(|spec| {
        for mount in spec["mounts"].as_array_mut().expect("mounts") {
            if mount["type"] == "cgroup" {
                mount["options"] = json!(["rw"]);
            }
        }
    });
    b.run_detached().ok();
    b.wait_status("stopped");
    assert!(b.cgroup().join("in/ner").exists());
    b.delete().ok();
    assert!(!b.cgroup().exists());
}

fn paths(way: Way) {
    let top = format!("runz-tests-{}", std::process::id());
    for (path, wanted) in [
        (format!("/{top}/abs"), format!("/{top}/abs")),
        (format!("{top}/rel"), format!("/{top}/rel")),
        (format!("/{top}/../../../{top}/up"), format!("/{top}/up")),
    ] {
        let b = Bundle::new(way).sleeper();
        let b = b.config(|spec| spec["linux"]["cgroupsPath"] = json!(path));
        b.run_detached().ok();
        assert_eq!(place(b.pid()), wanted, "{path}");
        b.call("delete").args(["--force", &b.id]).run().ok();
        assert!(!Path::new("/sys/fs/cgroup").join(&wanted[1..]).exists());
    }
    let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(top));
}

fn missing_controllers_are_named(way: Way) {
    for (key, value, controller) in [
        ("memory", json!({"limit": 1 << 26}), "memory"),
        ("cpu", json!({"quota": 50_000}), "cpu"),
        ("pids", json!({"limit": 10}), "pids"),
        ("blockIO", json!({"weight": 100}), "io"),
    ] {
        if host::has_controller(controller) {
            skip("this machine has the controllers");
        }
        let b = Bundle::new(way).config(|spec| spec["linux"]["resources"][key] = value);
        let said = b.create().fails();
        assert!(said.contains("linux.resources"), "{said}");
        assert!(
            said.contains(&format!("controller \"{controller}\"")),
            "{said}"
        );
    }
}

fn hybrid_layout(way: Way) {
    let b = Bundle::new(way).sleeper();
    let enter = "exec unshare --mount sh -c '
        umount /sys/fs/cgroup && mount -t tmpfs tmpfs /sys/fs/cgroup && mkdir /sys/fs/cgroup/unified &&
        mount -t cgroup2 none /sys/fs/cgroup/unified && exec \"$@\"' sh \"$@\"";
    b.make("run", &["-d"]).shell(enter).run().ok();
    assert_eq!(place(b.pid()), format!("/{}", b.id));
    b.call("pause").arg(&b.id).shell(enter).run().ok();
    b.call("resume").arg(&b.id).shell(enter).run().ok();
    b.call("exec").args([&b.id, "true"]).shell(enter).run().ok();
    b.call("delete").args(["-f", &b.id]).shell(enter).run().ok();
    assert!(!b.cgroup().exists());
}

fn not_empty_is_refused(way: Way) {
    let first = Bundle::new(way).sleeper();
    first.run_detached().ok();
    let b = Bundle::new(way)
        .config(|spec| spec["linux"]["cgroupsPath"] = json!(format!("/{}", first.id)));
    let said = b.create().fails();
    assert!(said.contains("container's cgroup is not empty: "), "{said}");
    assert_eq!(first.status(), "running");
}

fn disabled(way: Way) {
    let b = Bundle::new(way).sleeper();
    let call = b.globals(["--cgroup-manager", "disabled", "run", "-d", "-b"]);
    call.arg(&b.dir).arg(&b.id).run().ok();
    assert_eq!(place(b.pid()), place(std::process::id() as i32));
    assert!(!b.cgroup().exists());
    b.call("delete").args(["-f", &b.id]).run().ok();
}

fn device_filter(way: Way) {
    let script = "mknod /tmp-full c 1 7 2>/dev/null; mknod /loop b 7 0
                  head -c 1 /tmp-full | wc -c; { head -c 1 /loop 2>&1; } | grep -c 'not permitted'";
    let b = Bundle::new(way).script(script).config(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
        }
    });
    // Default rules: every node may be made, few may be opened.
    assert_eq!(b.run().ok(), "1\n1\n");
    let b = b.config(|spec| {
        let rules = spec["linux"]["resources"]["devices"]
            .as_array_mut()
            .expect("devices");
        rules.push(json!({"allow": true, "type": "b", "major": 7, "minor": 0, "access": "r"}));
    });
    fs::remove_file(b.rootfs("loop")).expect("remove");
    fs::remove_file(b.rootfs("tmp-full")).expect("remove");
    assert_eq!(b.run().stdout, "1\n0\n");
}

fn exec_joins_it(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let file = b.dir.join("pid");
    b.call("exec")
        .arg("-d")
        .arg("--pid-file")
        .arg(&file)
        .args([&b.id, "sleep", "100"])
        .run()
        .ok();
    let pid = fs::read_to_string(file)
        .expect("read")
        .parse()
        .expect("a pid");
    assert_eq!(place(pid), place(b.pid()));
}

fn exec_into_a_sub_cgroup(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    fs::create_dir(b.cgroup().join("sub")).expect("mkdir");
    let file = b.dir.join("pid");
    let call = b
        .call("exec")
        .args(["-d", "--cgroup", "sub", "--pid-file"])
        .arg(&file);
    call.args([&b.id, "sleep", "100"]).run().ok();
    let pid = fs::read_to_string(file)
        .expect("read")
        .parse()
        .expect("a pid");
    assert_eq!(place(pid), format!("{}/sub", place(b.pid())));
    let call = b.call("exec").args(["--cgroup", "missing", &b.id, "true"]);
    let said = call.run().fails_with(255);
    assert!(said.contains("missing"), "{said}");
}

fn exec_beside_inner_cgroups(way: Way) {
    // With a controller enabled below, processes may only be in leaves (cgroups(7)).
    if !host::has_controller("hugetlb") {
        skip("no controller to enable");
    }
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let leaf = b.cgroup().join("leaf");
    fs::create_dir(&leaf).expect("mkdir");
    fs::write(leaf.join("cgroup.procs"), b.pid().to_string()).expect("move init");
    for pid in fs::read_to_string(b.cgroup().join("cgroup.procs"))
        .expect("read")
        .lines()
    {
        fs::write(leaf.join("cgroup.procs"), pid).expect("move a child");
    }
    if fs::write(b.cgroup().join("cgroup.subtree_control"), "+hugetlb").is_err() {
        skip("the controller can't be enabled here");
    }
    b.exec(["true"]).ok();
}

fn update_refuses_what_is_missing(way: Way) {
    if host::has_controller("memory") {
        skip("this machine has the controllers");
    }
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let said = b
        .call("update")
        .args(["--memory", "64m", &b.id])
        .run()
        .fails();
    assert!(said.contains("memory"), "{said}");
    let call = b.call("update").args(["--resources", "-", &b.id]);
    let said = call.stdin(r#"{"pids": {"limit": 5}}"#).run().fails();
    assert!(said.contains("pids"), "{said}");
    let call = b.call("update").args(["-r", "-", &b.id]);
    let said = call.stdin("{").run().fails();
    assert!(said.contains("EOF"), "{said}");
}

fn hugetlb(way: Way) {
    if !host::has_controller("hugetlb") {
        skip("no hugetlb controller");
    }
    let limit: Value = json!([{"pageSize": "2MB", "limit": 4 << 20}]);
    let b = Bundle::new(way).config(|spec| spec["linux"]["resources"]["hugepageLimits"] = limit);
    b.create().ok();
    let max = fs::read_to_string(b.cgroup().join("hugetlb.2MB.max")).expect("read");
    assert_eq!(max, "4194304\n");
}
