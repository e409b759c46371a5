//! Writing to fake trees: plain directories, where every failure can be had.

use std::fs;

use super::settings::{Check, Purpose};
use super::tests::{Tree, decide};
use super::*;

fn apply(tree: &Tree, json: &str, purpose: Purpose) -> Result<()> {
    tree.open().apply(&decide(json, purpose))
}

#[test]
fn values_reach_their_files() {
    let tree = Tree::new(&[
        ("memory.max", ""),
        ("pids.max", ""),
        ("cgroup.controllers", ""),
    ]);
    let json = r#"{"memory":{"limit":1000,"swap":1000},"pids":{"limit":5}}"#;
    apply(&tree, json, Purpose::Create).unwrap();
    assert_eq!(tree.text("memory.max"), "1000");
    assert_eq!(tree.text("pids.max"), "5");
}

#[test]
fn io_weight_is_used_without_bfq() {
    let json = r#"{"blockIO":{"weight":750}}"#;
    let iocost = Tree::new(&[("io.weight", "")]);
    apply(&iocost, json, Purpose::Create).unwrap();
    assert_eq!(iocost.text("io.weight"), "7475");
    let both = Tree::new(&[("io.weight", ""), ("io.bfq.weight", "")]);
    apply(&both, json, Purpose::Create).unwrap();
    assert_eq!(
        (both.text("io.weight"), both.text("io.bfq.weight")),
        ("".into(), "750".into())
    );
}

#[test]
fn a_period_alone_keeps_the_quota() {
    let tree = Tree::new(&[("cpu.max", "50000 100000\n")]);
    apply(&tree, r#"{"cpu":{"period":20000}}"#, Purpose::Update).unwrap();
    assert!(tree.text("cpu.max").starts_with("50000 20000"));
}

#[test]
fn failures_name_setting_file_and_cause() {
    let tree = Tree::new(&[("cgroup.controllers", "cpu pids\n")]);
    let at = tree.0.display().to_string();
    let table = [
        (
            r#"{"memory":{"limit":1000}}"#,
            format!(
                "linux.resources.memory.limit: controller \"memory\" not available in cgroup {at}"
            ),
        ),
        (
            r#"{"memory":{"limit":1000,"swap":2000}}"#,
            format!(
                "linux.resources.memory.swap: controller \"memory\" not available in cgroup {at}"
            ),
        ),
        (
            r#"{"pids":{"limit":5}}"#,
            format!(
                "linux.resources.pids.limit: write \"5\" to {at}/pids.max: no such file or directory (ENOENT)"
            ),
        ),
        (
            r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":10}]}}"#,
            format!(
                "linux.resources.blockIO.weightDevice[0].weight: controller \"io\" not available in cgroup {at}"
            ),
        ),
        (
            r#"{"unified":{"memory.high":"1"}}"#,
            "linux.resources.unified[\"memory.high\"]: unified resource \"memory.high\" can't be set: controller \"memory\" not available"
                .into(),
        ),
        (
            r#"{"unified":{"cgroup.nope":"1\n"}}"#,
            format!(
                "linux.resources.unified[\"cgroup.nope\"]: write \"1\" to {at}/cgroup.nope: no such file or directory (ENOENT)"
            ),
        ),
    ];
    for (json, expected) in table {
        let error = apply(&tree, json, Purpose::Create).unwrap_err();
        assert_eq!(format!("{error:#}"), expected);
    }
}

#[test]
fn a_file_that_is_a_link_is_not_followed() {
    let tree = Tree::new(&[("victim", "old")]);
    std::os::unix::fs::symlink(tree.0.join("victim"), tree.0.join("pids.max")).unwrap();
    let error = apply(&tree, r#"{"pids":{"limit":5}}"#, Purpose::Create).unwrap_err();
    assert!(error.to_string().ends_with("(ELOOP)"), "{error}");
    assert_eq!(tree.text("victim"), "old");
}

#[test]
fn a_limit_below_usage_is_refused_when_asked_for() {
    let tree = Tree::new(&[("memory.max", "old"), ("memory.current", "5000\n")]);
    let error = |json| apply(&tree, json, Purpose::Update).unwrap_err().to_string();
    assert_eq!(
        error(r#"{"memory":{"limit":5000,"checkBeforeUpdate":true}}"#),
        "linux.resources.memory.limit: rejecting memory limit 5000 <= usage 5000"
    );
    assert_eq!(
        error(r#"{"memory":{"limit":4000,"swap":4500,"checkBeforeUpdate":true}}"#),
        "linux.resources.memory.swap: rejecting memory+swap limit 4500 <= usage 5000"
    );
    assert_eq!(tree.text("memory.max"), "old");
    let enough = r#"{"memory":{"limit":5001,"checkBeforeUpdate":true}}"#;
    apply(&tree, enough, Purpose::Update).unwrap();
    assert_eq!(tree.text("memory.max"), "5001");
    // Nothing to compare with.
    fs::remove_file(tree.0.join("memory.current")).unwrap();
    let settings = Settings {
        check: Some(Check { limit: 1, swap: 0 }),
        ..Settings::default()
    };
    tree.open().apply(&settings).unwrap();
}

#[test]
fn controllers_are_switched_on_where_they_are_missing() {
    let files = [
        ("cgroup.controllers", "cpu io memory\n"),
        ("cgroup.subtree_control", "cpu\n"),
    ];
    let tree = Tree::new(&files);
    let hierarchy = Hierarchy {
        mount: tree.0.clone(),
        own: String::new(),
    };
    let create =
        |path: &str| Cgroup::create(&hierarchy, &tree.0.join(path), &Settings::default()).unwrap();
    // The parent was there: nothing is looked at until it must be.
    let cgroup = create("a");
    assert_eq!(tree.text("cgroup.subtree_control"), "cpu\n");
    // Which is when a file is missing, though it may be.
    let swap = decide(r#"{"memory":{"swap":-1}}"#, Purpose::Create);
    cgroup.apply(&swap).unwrap();
    assert_eq!(tree.text("cgroup.subtree_control"), "+io +memory");
    cgroup.discard();
    // Or when the parent is new.
    fs::write(tree.0.join("cgroup.subtree_control"), "cpu io\n").unwrap();
    create("b/c").discard();
    assert_eq!(tree.text("cgroup.subtree_control"), "+memory");
    assert!(!tree.0.join("b").exists());
    // All there: left alone.
    fs::write(tree.0.join("cgroup.subtree_control"), "cpu memory io\n").unwrap();
    create("b/c").discard();
    assert_eq!(tree.text("cgroup.subtree_control"), "cpu memory io\n");
}

#[test]
fn a_threaded_subtree_takes_only_threaded_controllers() {
    let files = [
        ("cgroup.controllers", "cpu memory pids\n"),
        ("cgroup.subtree_control", ""),
    ];
    let tree = Tree::new(&files);
    let hierarchy = Hierarchy {
        mount: tree.0.clone(),
        own: String::new(),
    };
    let (parent, path) = (tree.0.join("a"), tree.0.join("a/b/c"));
    fs::create_dir(&parent).unwrap();
    let at = parent.display();
    let memory = decide(r#"{"memory":{"limit":1}}"#, Purpose::Create);
    let pids = decide(r#"{"pids":{"limit":1}}"#, Purpose::Create);
    let set_type = |kind: &str| fs::write(parent.join("cgroup.type"), kind).unwrap();
    let error = || {
        Cgroup::create(&hierarchy, &path, &memory)
            .unwrap_err()
            .to_string()
    };

    set_type("domain invalid\n");
    assert_eq!(
        error(),
        format!(
            "cannot enter cgroupv2 \"{at}\" with domain controllers -- it is in an invalid state"
        )
    );
    assert!(!parent.join("b").exists());
    set_type("threaded\n");
    assert_eq!(
        error(),
        format!("cannot enter cgroupv2 \"{at}\" with domain controllers -- it is in threaded mode")
    );
    set_type("domain invalid\n");
    Cgroup::create(&hierarchy, &path, &pids).unwrap().discard();
    assert_eq!(tree.text("a/cgroup.type"), "threaded");
    set_type("domain\n");
    Cgroup::create(&hierarchy, &path, &memory)
        .unwrap()
        .discard();
    assert_eq!(tree.text("a/cgroup.type"), "domain\n");
}

#[test]
fn rootless_goes_without_a_cgroup_only_if_none_was_asked_for() {
    // Nobody can make a directory in /proc.
    let hierarchy = Hierarchy {
        mount: "/proc".into(),
        own: "/a/b".into(),
    };
    let limited = decide(r#"{"pids":{"limit":5}}"#, Purpose::Create);
    let free = Settings::default();
    let create = |cgroups_path: Option<&str>, settings, rootless| {
        let cgroups_path = cgroups_path.map(Path::new);
        let request = Request {
            id: "x",
            cgroups_path,
            settings,
            rootless,
        };
        let path = hierarchy::path(&hierarchy, cgroups_path, "x");
        match create::for_container(&hierarchy, &path, &request) {
            Ok(cgroup) => format!("{:?}", cgroup.map(|cgroup| cgroup.path)),
            Err(error) => format!("{error:#}"),
        }
    };
    let mkdir = "mkdir /proc/a: no such file or directory (ENOENT)";
    assert_eq!(create(None, &free, true), "None");
    assert_eq!(
        create(None, &limited, true),
        format!(
            "rootless needs no limits + no cgrouppath when no permission is granted for cgroups: \
             {mkdir}"
        )
    );
    let refused = format!("unable to apply cgroup configuration: {mkdir}");
    assert_eq!(create(Some("/a/x"), &free, true), refused);
    assert_eq!(create(None, &free, false), refused);
    assert_eq!(
        create(Some("/"), &free, true),
        "unable to apply cgroup configuration: cgroup /proc: not below /proc"
    );
}

#[test]
fn an_update_that_fails_leaves_everything_as_it_was() {
    let files = [
        ("cgroup.controllers", "pids cpu memory\n"),
        ("pids.max", "20\n"),
        ("memory.max", ""),
    ];
    let tree = Tree::new(&files);
    let context = settings::Context {
        purpose: Purpose::Update,
        device_paths: &[],
        unprivileged: false,
    };
    let json = r#"{"pids":{"limit":5},"memory":{"limit":7},"cpu":{"shares":1024}}"#;
    let resources = update::from_json(json).unwrap();
    let error = tree.open().update(&resources, &context).unwrap_err();
    assert!(error.to_string().contains("cpu.weight"), "{error}");
    assert_eq!(tree.text("pids.max"), "20\n");
    assert_eq!(tree.text("memory.max"), "\n");
}
