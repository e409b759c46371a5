//! Writing to fake trees (plain directories), and real cgroups where the tests run as root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::settings::{Check, Mode, Purpose, Write};
use super::*;

/// A directory of its own for one test, removed at the end.
pub(super) struct Tree(pub(super) PathBuf);

impl Tree {
    pub(super) fn new(files: &[(&str, &str)]) -> Tree {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("runz-tree-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        for (file, text) in files {
            fs::write(path.join(file), text).unwrap();
        }
        Tree(path)
    }

    pub(super) fn open(&self) -> Cgroup {
        Cgroup::open(&self.0).unwrap()
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Settings without a device filter, which only a real cgroup can take.
pub(super) fn decide(json: &str, purpose: Purpose) -> Settings {
    let resources = serde_json::from_str(json).unwrap();
    let context = settings::Context {
        purpose,
        device_paths: &[],
        unprivileged: false,
    };
    Settings {
        devices: None,
        ..super::settings(&resources, &context).unwrap()
    }
}

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
            "unified resource \"memory.high\" can't be set: controller \"memory\" not available"
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
        "rejecting memory limit 5000 <= usage 5000"
    );
    assert_eq!(
        error(r#"{"memory":{"limit":4000,"swap":4500,"checkBeforeUpdate":true}}"#),
        "rejecting memory+swap limit 4500 <= usage 5000"
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

/// The hierarchy of this machine, or `None` where the test cannot run.
pub(super) fn host() -> Option<Hierarchy> {
    match Hierarchy::find(None) {
        Ok(hierarchy) if nix::unistd::geteuid().is_root() => Some(hierarchy),
        result => {
            let reason = result
                .err()
                .map_or("not root".to_owned(), |error| error.to_string());
            assert!(!must_run("root"), "cannot run: {reason}");
            eprintln!("skipped: {reason}");
            None
        }
    }
}

/// Whether tests that need this must not be skipped: `RUNZ_MUST_RUN=root,controllers`.
pub(super) fn must_run(what: &str) -> bool {
    std::env::var("RUNZ_MUST_RUN").is_ok_and(|list| list.split(',').any(|word| word == what))
}

/// A real cgroup for one test, removed at the end with whatever is in it.
pub(super) struct Real(pub(super) Cgroup);

impl Real {
    pub(super) fn new(hierarchy: &Hierarchy, name: &str) -> Real {
        let path = hierarchy
            .mount
            .join(format!("runz-test-{}-{name}", std::process::id()));
        Real(Cgroup::create(hierarchy, &path, &Settings::default()).unwrap())
    }

    /// A process in the cgroup, until it is killed.
    pub(super) fn sleeper(&self) -> std::process::Child {
        let child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        self.0.join(child.id() as i32).unwrap();
        child
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.remove();
    }
}

#[test]
fn a_cgroup_is_made_with_its_parents_and_removed() {
    let Some(hierarchy) = host() else { return };
    let top = hierarchy
        .mount
        .join(format!("runz-test-top-{}", std::process::id()));
    let path = top.join("a/b");
    let cgroup = Cgroup::create(&hierarchy, &path, &Settings::default()).unwrap();
    assert!(cgroup.is_new());
    let all = fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap();
    assert_eq!(cgroup.read("cgroup.controllers").unwrap(), all);
    // A second time it is there already.
    let again = Cgroup::create(&hierarchy, &path, &Settings::default()).unwrap();
    assert!(!again.is_new());
    again.discard();
    assert!(path.exists());
    cgroup.discard();
    assert!(!top.exists());
    // Removal takes what is below along, and what is not there is fine.
    Cgroup::create(&hierarchy, &path, &Settings::default()).unwrap();
    remove(&top).unwrap();
    assert!(!top.exists());
    remove(&top).unwrap();
}

#[test]
fn a_used_cgroup_is_refused() {
    let Some(hierarchy) = host() else { return };
    let real = Real::new(&hierarchy, "used");
    let inner = real.0.path.strip_prefix(&hierarchy.mount).unwrap();
    let cgroups_path = Path::new("/").join(inner);
    let request = Request {
        id: "x",
        cgroups_path: Some(&cgroups_path),
        settings: &Settings::default(),
        rootless: false,
    };
    // Empty: taken as it is.
    Driver::Fs.create(&request).unwrap().unwrap();
    real.0.freeze().unwrap();
    let error = Driver::Fs.create(&request).unwrap_err();
    assert_eq!(error.to_string(), "container's cgroup unexpectedly frozen");
    real.0.thaw().unwrap();
    let mut child = real.sleeper();
    let error = Driver::Fs.create(&request).unwrap_err();
    assert_eq!(
        error.to_string(),
        "container's cgroup is not empty: 1 process(es) found"
    );
    assert!(real.0.path.exists());
    real.0.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn processes_are_frozen_thawed_and_killed() {
    let Some(hierarchy) = host() else { return };
    let real = Real::new(&hierarchy, "freeze");
    let mut child = real.sleeper();
    let path = real.0.path.clone();
    assert_eq!(real.0.pids().unwrap(), [child.id() as i32]);
    assert!(!freeze::is_frozen(&path).unwrap());
    real.0.freeze().unwrap();
    assert!(real.0.is_frozen().unwrap() && freeze::is_frozen(&path).unwrap());
    real.0.freeze().unwrap();
    real.0.thaw().unwrap();
    assert!(!real.0.is_frozen().unwrap());
    // Frozen processes die as well.
    real.0.freeze().unwrap();
    real.0.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
    remove(&path).unwrap();
    assert!(!freeze::is_frozen(&path).unwrap());
    assert!(!real.0.is_frozen().unwrap());
    assert!(real.0.pids().unwrap().is_empty());
}

#[test]
fn processes_below_are_listed_and_killed_one_by_one() {
    let Some(hierarchy) = host() else { return };
    let real = Real::new(&hierarchy, "each");
    fs::create_dir(real.0.path.join("sub")).unwrap();
    let mut outer = real.sleeper();
    let mut inner = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    real.0.sub("sub").unwrap().join(inner.id() as i32).unwrap();
    let mut pids = real.0.pids().unwrap();
    pids.sort_unstable();
    let mut expected = [outer.id() as i32, inner.id() as i32];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    real.0.kill_each().unwrap();
    outer.wait().unwrap();
    inner.wait().unwrap();
    assert!(!real.0.is_frozen().unwrap());
    // Both are gone, but `sub` is still there.
    real.0.remove().unwrap();
    assert!(!real.0.path.exists());
}

#[test]
fn removal_waits_for_the_last_process() {
    let Some(hierarchy) = host() else { return };
    let real = Real::new(&hierarchy, "wait");
    let mut child = real.sleeper();
    let killer = std::thread::spawn({
        let cgroup = Cgroup::open(&real.0.path).unwrap();
        move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            cgroup.kill().unwrap();
            child.wait().unwrap();
        }
    });
    remove(&real.0.path).unwrap();
    killer.join().unwrap();
    assert!(!real.0.path.exists());
}

#[test]
fn a_sub_cgroup_does_not_lead_out() {
    let Some(hierarchy) = host() else { return };
    let real = Real::new(&hierarchy, "sub");
    assert_eq!(
        real.0.sub("../x").unwrap_err().to_string(),
        "bad sub cgroup path: ../x"
    );
    assert_eq!(real.0.sub("/").unwrap().path, real.0.path.join(""));
    let missing = real.0.sub("/sys").unwrap_err().to_string();
    assert_eq!(
        missing,
        format!("cgroup not exist: {}/sys", real.0.path.display())
    );
}

#[test]
fn delegation_gives_the_directory_and_three_files() {
    use std::os::unix::fs::MetadataExt;
    let Some(hierarchy) = host() else { return };
    let real = Real::new(&hierarchy, "delegate");
    real.0.delegate_chown(1234, 4321).unwrap();
    let owner = |file: &str| {
        let meta = fs::metadata(real.0.path.join(file)).unwrap();
        (meta.uid(), meta.gid())
    };
    for file in [
        "",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
    ] {
        assert_eq!(owner(file), (1234, 4321), "{file}");
    }
    assert_eq!(owner("cgroup.freeze"), (0, 0));
}

#[test]
fn drivers_that_do_nothing_say_so() {
    let limited = decide(r#"{"pids":{"limit":5}}"#, Purpose::Create);
    let free = Settings::default();
    let request = |settings| Request {
        id: "x",
        cgroups_path: None,
        settings,
        rootless: false,
    };
    let error = Driver::Systemd.create(&request(&free)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the systemd cgroup driver is not yet in this build"
    );
    assert!(Driver::None.create(&request(&free)).unwrap().is_none());
    let error = Driver::None.create(&request(&limited)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "linux.resources.pids.limit: cgroups are disabled"
    );
}

/// Whether a process in the cgroup can open the device node for reading.
fn can_read(cgroup: &Cgroup, node: &str) -> bool {
    use std::io::Write as _;
    let mut child = std::process::Command::new("sh")
        .args(["-c", &format!("read go && exec 3<{node}")])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    cgroup.join(child.id() as i32).unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    child.wait().unwrap().success()
}

fn filter(json: &str, purpose: Purpose) -> settings::Filter {
    let resources = serde_json::from_str(&format!(r#"{{"devices":{json}}}"#)).unwrap();
    let context = settings::Context {
        purpose,
        device_paths: &["/dev/zero"],
        unprivileged: false,
    };
    super::settings(&resources, &context)
        .unwrap()
        .devices
        .unwrap()
}

#[test]
fn a_device_filter_bites_and_is_replaced() {
    use crate::sys::bpf;
    let Some(hierarchy) = host() else { return };
    let real = Real::new(&hierarchy, "devices");
    assert!(can_read(&real.0, "/dev/zero"));
    // linux.devices has /dev/zero, so it is no longer allowed by itself.
    real.0
        .attach_devices(&filter("[]", Purpose::Create))
        .unwrap();
    assert!(!can_read(&real.0, "/dev/zero"));
    assert!(can_read(&real.0, "/dev/null"));

    let opened = Cgroup::open(&real.0.path).unwrap();
    let zero = r#"[{"allow":true,"type":"c","major":1,"minor":5,"access":"r"}]"#;
    let first = bpf::attached(opened.dir()).unwrap();
    opened
        .attach_devices(&filter(zero, Purpose::Update))
        .unwrap();
    let second = bpf::attached(opened.dir()).unwrap();
    assert!(first.len() == 1 && second.len() == 1 && first != second);
    assert!(can_read(&real.0, "/dev/zero"));

    // Several old ones, as systemd leaves them: one new.
    let strict = filter("[]", Purpose::Create);
    let more = bpf::load(&strict.program, "more").unwrap();
    bpf::attach(opened.dir(), more.as_fd(), None).unwrap();
    assert!(!can_read(&real.0, "/dev/zero"));
    let everything = r#"[{"allow":true,"access":"rwm"}]"#;
    opened
        .attach_devices(&filter(everything, Purpose::Update))
        .unwrap();
    assert_eq!(bpf::attached(opened.dir()).unwrap().len(), 1);
    assert!(can_read(&real.0, "/dev/zero"));
}

#[test]
fn the_kernel_takes_every_kind_of_rule() {
    let Some(hierarchy) = host() else { return };
    let real = Real::new(&hierarchy, "rules");
    let table = [
        r#"[{"allow":true,"access":"r"},{"allow":false,"type":"b","access":"m"}]"#,
        r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"minor":1,"access":"rw"}]"#,
        r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","access":"rwm"}]"#,
        r#"[{"allow":true,"type":"a","major":4294967295,"minor":4294967295,"access":"m"}]"#,
    ];
    for json in table {
        real.0
            .attach_devices(&filter(json, Purpose::Create))
            .unwrap();
    }
}

#[test]
fn an_optional_filter_may_fail() {
    // Not a cgroup: nothing can be attached.
    let tree = Tree::new(&[]);
    let strict = filter("[]", Purpose::Create);
    let error = tree.open().attach_devices(&strict).unwrap_err().to_string();
    assert!(error.starts_with("linux.resources.devices: "), "{error}");
    tree.open()
        .attach_devices(&settings::Filter {
            optional: true,
            ..strict
        })
        .unwrap();
}
