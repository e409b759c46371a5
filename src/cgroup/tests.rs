//! Real cgroups, where the tests run as root; and what the other tests are made of.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use super::settings::Purpose;
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

    pub(super) fn text(&self, file: &str) -> String {
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
    let create = || {
        Driver::Fs
            .place(&request)
            .unwrap()
            .unwrap()
            .create(&request)
    };
    // Empty: taken as it is.
    create().unwrap().unwrap();
    real.0.freeze().unwrap();
    let error = create().unwrap_err();
    assert_eq!(error.to_string(), "container's cgroup unexpectedly frozen");
    real.0.thaw().unwrap();
    let mut child = real.sleeper();
    let error = create().unwrap_err();
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
    assert_eq!(hierarchy.cgroup_of(child.id() as i32).unwrap(), path);
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
        format!(
            "cgroup not exist: {}/sys: no such file or directory (ENOENT)",
            real.0.path.display()
        )
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
    let error = Driver::Systemd.place(&request(&free)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the systemd cgroup driver is not yet in this build"
    );
    assert!(Driver::None.place(&request(&free)).unwrap().is_none());
    let error = Driver::None.place(&request(&limited)).unwrap_err();
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
fn a_loaded_device_filter_serves_many() {
    use crate::sys::bpf;
    let Some(hierarchy) = host() else { return };
    let devices = filter("[]", Purpose::Create);
    let loaded = load_filter(&devices.program).unwrap();
    let settings = Settings {
        devices: Some(devices),
        ..Settings::default()
    };
    let cgroups = ["loaded1", "loaded2", "loaded3"].map(|name| Real::new(&hierarchy, name));
    let null = std::fs::File::open("/dev/null").unwrap();
    // The last one can't be attached.
    for (real, with) in cgroups
        .iter()
        .zip([loaded.as_fd(), loaded.as_fd(), null.as_fd()])
    {
        real.0.apply_devices(&settings, Some(with)).unwrap();
        assert!(!can_read(&real.0, "/dev/zero"));
        assert!(can_read(&real.0, "/dev/null"));
    }
    let [first, second, own] = cgroups.map(|real| bpf::attached(real.0.dir()).unwrap());
    assert!(first.len() == 1 && first == second && own.len() == 1 && own != first);
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
