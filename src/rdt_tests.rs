use std::path::{Path, PathBuf};

use super::*;
use crate::log::sentence;

/// A directory that looks like resctrl, but for what the kernel does by itself.
struct Fake(PathBuf);

const ROOT: &str = "    L3:0=fffff;1=fffff\n    MB:0= 100;1= 100\n";

impl Fake {
    fn new(name: &str) -> Fake {
        let path = std::env::temp_dir().join(format!("runz-rdt-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let fake = Fake(path);
        fake.put("schemata", ROOT);
        fake.put("tasks", "1\n");
        fake.put("info/last_cmd_status", "ok\n");
        fake.put("info/L3/cbm_mask", "fffff\n");
        fake.put("info/L3/min_cbm_bits", "1\n");
        fake.put("info/L3/num_closids", "16\n");
        fake.put("info/MB/bandwidth_gran", "10\n");
        fake.put("info/MB/delay_linear", "1\n");
        fake.put("info/MB/min_bandwidth", "10\n");
        fake.put("info/MB/num_closids", "8\n");
        fake
    }

    fn put(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }

    fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    /// The kernel's files are no obstacle to rmdir(2).
    fn empty(&self, group: &str) {
        for file in ["schemata", "tasks"] {
            let _ = fs::remove_file(self.0.join(group).join(file));
        }
        let _ = fs::remove_dir(self.0.join(group).join("mon_groups"));
    }

    /// A group that somebody has made.
    fn group(&self, name: &str, schemata: &str) {
        self.put(&format!("{name}/schemata"), schemata);
        self.put(&format!("{name}/tasks"), "");
        fs::create_dir(self.0.join(name).join("mon_groups")).unwrap();
    }

    fn prepare(&self, rdt: &IntelRdt) -> Result<Groups> {
        prepare(rdt, "web", &self.0, &mut |_, _| Ok(()))
    }

    fn refused(&self, rdt: &IntelRdt) -> String {
        sentence(&self.prepare(rdt).err().unwrap()).replace(&*self.0.to_string_lossy(), "R")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn own(schemata: &str) -> IntelRdt {
    IntelRdt {
        group: "web".into(),
        named: false,
        schemata: schemata.into(),
        monitoring: false,
    }
}

fn named(group: &str, schemata: &str) -> IntelRdt {
    IntelRdt {
        group: group.into(),
        named: true,
        ..own(schemata)
    }
}

fn record(groups: Groups) -> Record {
    let text = r#"{"id": "web", "init_process_pid": 7, "init_process_start": 1, "created": "",
        "config": {"rootfs": "/", "readonlyfs": false, "hostname": "", "no_pivot_root": false,
        "mounts": [], "namespaces": [], "labels": [], "version": "", "no_new_keyring": false},
        "rootless": false, "cgroup_paths": {}, "namespace_paths": {}, "external_descriptors": [],
        "runz": {"bundle": "/b", "cgroup": null, "namespaces": 0, "process": true, "umask": 18}}"#;
    let mut record: Record = serde_json::from_str(text).unwrap();
    record.set_rdt(groups);
    record
}

#[test]
fn without_a_name_the_group_is_the_containers_own() {
    let fake = Fake::new("own");
    let mut noted = Vec::new();
    let groups = prepare(
        &own("L3:0=f\nMB:0=20\n"),
        "web",
        &fake.0,
        &mut |what, path| {
            assert!(!path.exists(), "noted too late");
            noted.push((what.to_owned(), path.to_owned()));
            Ok(())
        },
    );
    let record = record(groups.unwrap());
    assert_eq!(noted, [("rdt".to_owned(), fake.0.join("web"))]);
    assert_eq!(fake.read("web/schemata"), "L3:0=f\nMB:0=20\n");
    add(&record, 4711).unwrap();
    assert_eq!(fake.read("web/tasks"), "4711");
    assert_eq!(record.intel_rdt_path, fake.0.join("web").to_string_lossy());
    fake.empty("web");
    remove(&record).unwrap();
    assert!(!fake.has("web"));
    // A second time is none too many.
    remove(&record).unwrap();
}

#[test]
fn a_group_that_was_there_stays() {
    let fake = Fake::new("stays");
    fake.group("web", ROOT);
    let record = record(fake.prepare(&own("L3:0=f\n")).unwrap());
    assert_eq!(fake.read("web/schemata"), "L3:0=f\n");
    fake.empty("web");
    remove(&record).unwrap();
    assert!(fake.has("web"));
}

#[test]
fn a_named_group_without_schemata_must_exist() {
    let fake = Fake::new("named");
    assert_eq!(
        fake.refused(&named("gold", "")),
        "linux.intelRdt.closID: \"R/gold\" doesn't exist, and without schemata, l3CacheSchema and \
         memBwSchema it isn't made"
    );
    assert!(!fake.has("gold"));
    fake.group("gold", "L3:0=f0;1=f0\n");
    let record = record(fake.prepare(&named("gold", "")).unwrap());
    assert_eq!(fake.read("gold/schemata"), "L3:0=f0;1=f0\n");
    add(&record, 4711).unwrap();
    assert_eq!(fake.read("gold/tasks"), "4711");
    fake.empty("gold");
    remove(&record).unwrap();
    assert!(fake.has("gold"));
}

#[test]
fn a_named_group_with_schemata_is_made_or_must_agree() {
    let fake = Fake::new("agree");
    let record = record(fake.prepare(&named("new", "L3:0=f\n")).unwrap());
    assert_eq!(fake.read("new/schemata"), "L3:0=f\n");
    // Somebody else's process has joined it by its name.
    fake.put("new/tasks", "99\n");
    remove(&record).unwrap();
    assert_eq!(fake.read("new/tasks"), "99\n");
    fake.empty("new");
    remove(&record).unwrap();
    assert!(!fake.has("new"));

    let there = "    L3:0=000f0;1=fffff\n    MB:0=  30;1= 100\n";
    fake.group("gold", there);
    // Not all domains need be named; the kernel rounds bandwidth up to its steps.
    for same in [
        "L3:0=f0\n",
        "L3: 1=FFFFF;0=0f0\n",
        "MB:0=30\n",
        "MB:0=21;1=100\n",
    ] {
        let groups = fake.prepare(&named("gold", same)).unwrap();
        assert!(groups.created.is_none());
        assert_eq!(fake.read("gold/schemata"), there, "{same}");
    }
    for other in [
        "L3:0=f\n",
        "L3:2=f0\n",
        "MB:0=40\n",
        "MB:0=19\n",
        "L2:0=f\n",
    ] {
        let error = fake.refused(&named("gold", other));
        let start = format!("linux.intelRdt: {}", other.trim_end());
        assert!(error.starts_with(&start), "{error}");
        assert_eq!(fake.read("gold/schemata"), there, "{other}");
    }
    assert!(fake.has("gold"));
}

#[test]
fn a_slash_is_the_root_group() {
    let fake = Fake::new("root");
    let rdt = IntelRdt {
        monitoring: true,
        ..named("/", "")
    };
    fs::create_dir(fake.0.join("mon_groups")).unwrap();
    let record = record(fake.prepare(&rdt).unwrap());
    assert_eq!(record.intel_rdt_path, fake.0.to_string_lossy());
    add(&record, 4711).unwrap();
    assert_eq!(fake.read("tasks"), "4711");
    assert_eq!(fake.read("mon_groups/web/tasks"), "4711");
    fake.empty("mon_groups/web");
    remove(&record).unwrap();
    assert!(!fake.has("mon_groups/web") && fake.has("schemata"));
}

#[test]
fn monitoring_has_a_group_of_its_own() {
    let fake = Fake::new("monitoring");
    let rdt = IntelRdt {
        monitoring: true,
        ..named("gold", "")
    };
    fake.group("gold", ROOT);
    let groups = fake.prepare(&rdt).unwrap();
    assert!(groups.created.is_none());
    let record = record(groups);
    assert_eq!(
        record.intel_rdt_mon_path,
        fake.0.join("gold/mon_groups/web").to_string_lossy()
    );
    add(&record, 4711).unwrap();
    assert_eq!(fake.read("gold/tasks"), "4711");
    assert_eq!(fake.read("gold/mon_groups/web/tasks"), "4711");
    fake.empty("gold/mon_groups/web");
    remove(&record).unwrap();
    assert!(!fake.has("gold/mon_groups/web") && fake.has("gold/mon_groups"));
    // One that was there stays.
    fs::create_dir(fake.0.join("gold/mon_groups/web")).unwrap();
    assert!(fake.prepare(&rdt).unwrap().monitoring_created.is_none());
}

#[test]
fn a_failure_leaves_nothing_and_says_the_kernels_words() {
    let fake = Fake::new("failure");
    fake.put(
        "info/last_cmd_status",
        "the mask f0f has non-consecutive 1-bits\n",
    );
    // Its mon_groups is missing, so that the second mkdir fails.
    let rdt = IntelRdt {
        monitoring: true,
        ..own("")
    };
    let error = fake.refused(&rdt);
    assert!(
        error.starts_with("linux.intelRdt.enableMonitoring: "),
        "{error}"
    );
    assert!(
        error.ends_with("(ENOENT); last_cmd_status: the mask f0f has non-consecutive 1-bits"),
        "{error}"
    );
    assert!(!fake.has("web"));
}

#[test]
fn update_writes_what_is_asked_for_at_once() {
    let fake = Fake::new("update");
    let container = record(fake.prepare(&own("L3:0=f\n")).unwrap());
    assert!(change(&container, None, Some("")).unwrap().is_none());
    let both = change(&container, Some("L3:0=ff"), Some("MB:0=50")).unwrap();
    assert_eq!(fake.read("web/schemata"), "L3:0=f\n");
    both.unwrap().apply().unwrap();
    assert_eq!(fake.read("web/schemata"), "L3:0=ff\nMB:0=50\n");

    let refused =
        |record: &Record, l3, bandwidth| change(record, l3, bandwidth).err().unwrap().to_string();
    fs::remove_dir_all(fake.0.join("info/MB")).unwrap();
    assert_eq!(
        refused(&container, None, Some("MB:0=50")),
        "Intel RDT/MBA: memory bandwidth schema is not enabled"
    );
    fs::remove_dir_all(fake.0.join("info/L3")).unwrap();
    assert_eq!(
        refused(&container, Some("L3:0=f"), None),
        "Intel RDT/CAT: l3 cache schema is not enabled"
    );
    assert_eq!(
        refused(&record(Groups::default()), Some("L3:0=f"), None),
        "updating a non-existent Intel RDT configuration is not supported"
    );
}

#[test]
fn statistics_have_runcs_shape() {
    let fake = Fake::new("statistics");
    fake.put(
        "info/L3_MON/mon_features",
        "llc_occupancy\nmbm_total_bytes\n",
    );
    fake.group("web", "L3:0=f;1=f\nMB:0=20;1=20\n");
    for (cache, n) in [("mon_L3_01", 20), ("mon_L3_00", 10)] {
        let put = |file: &str, n: u64| {
            fake.put(&format!("web/mon_data/{cache}/{file}"), &format!("{n}\n"));
        };
        put("llc_occupancy", n);
        put("mbm_total_bytes", n + 1);
        put("mbm_local_bytes", 99);
    }
    let record = record(Groups {
        group: fake.0.join("web"),
        ..Groups::default()
    });
    let found = serde_json::to_value(statistics(&record).unwrap()).unwrap();
    assert_eq!(
        found,
        serde_json::json!({
            "l3_cache_info": {"cbm_mask": "fffff", "min_cbm_bits": 1, "num_closids": 16},
            "l3_cache_schema_root": "L3:0=fffff;1=fffff",
            "l3_cache_schema": "L3:0=f;1=f",
            "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10,
                "num_closids": 8},
            "mem_bw_schema_root": "MB:0= 100;1= 100",
            "mem_bw_schema": "MB:0=20;1=20",
            "schemata": ["L3:0=f;1=f", "MB:0=20;1=20"],
            "mbm_stats": [{"mbm_total_bytes": 11, "mbm_local_bytes": 0},
                {"mbm_total_bytes": 21, "mbm_local_bytes": 0}],
            "cmt_stats": [{"llc_occupancy": 10}, {"llc_occupancy": 20}],
        })
    );
}

#[test]
fn the_mount_is_found_by_its_type() {
    let mounts = "22 1 0:20 / /sys rw - sysfs sysfs rw\n\
                  40 22 0:33 / /mnt/a\\040b rw,relatime shared:5 - resctrl resctrl rw\n";
    assert_eq!(mount_point(mounts).as_deref(), Some(Path::new("/mnt/a b")));
    assert_eq!(
        mount_point("22 1 0:20 / /resctrl rw - sysfs sysfs rw\n"),
        None
    );
}
