//! On a machine whose mounts are all shared, as systemd makes them: nothing that is mounted or unmounted
//! for a container, or in it, happens on the host.

use std::fs;

use serde_json::json;

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way};
use crate::tests;

pub const TESTS: Tests = tests![hosts_mounts_stay, mounts_of_a_container_stay_inside];

/// Such a machine, with the bundle at $D; what it has mounted before and after the call is compared.
/// $OWN: the bundle lies on a mount of its own.
const SHARED: &str = r#"exec unshare --mount sh -ec '
    mount --bind /sys/fs/cgroup /sys/fs/cgroup
    mount --make-rshared /
    if [ $OWN = yes ]; then mount --bind $D $D; cd $D; fi
    look() { cut -d " " -f 4- /proc/self/mountinfo; }
    look > $D/before
    "$@"
    look > $D/after' sh "$@""#;

/// `linux.rootfsPropagation`; the first is none.
const ALL: [&str; 9] = [
    "",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "shared",
    "rshared",
    "unbindable",
    "runbindable",
];

/// Runs the container there, with each propagation and on each kind of mount.
fn on_a_shared_machine(b: &mut Bundle, options: &[&str], values: &[&str], own: &[&str]) {
    for value in values {
        b.change(|spec| {
            // Nothing below what is unbindable can be bound.
            spec["linux"]["readonlyPaths"] = json!([]);
            spec["linux"]["maskedPaths"] = json!([]);
            let linux = spec["linux"].as_object_mut().unwrap();
            linux.remove("rootfsPropagation");
            if !value.is_empty() {
                linux.insert("rootfsPropagation".to_owned(), json!(value));
            }
        });
        for own in own {
            let call = b.make("run", options).env("D", &b.dir).env("OWN", own);
            call.shell(SHARED).run().ok();
            // Other tests' mounts come and go with their directories.
            let dir = b.dir.to_string_lossy();
            let look = |name: &str| {
                let text = fs::read_to_string(b.dir.join(name)).unwrap();
                let own = |line: &&str| !line.contains("/runz-tests-") || line.contains(&*dir);
                text.lines().filter(own).collect::<Vec<_>>().join("\n")
            };
            let (before, after) = (look("before"), look("after"));
            assert!(before.contains("shared:"), "{before}");
            let lost: Vec<_> = before.lines().filter(|l| !after.contains(l)).collect();
            let new: Vec<_> = after.lines().filter(|l| !before.contains(l)).collect();
            assert!(
                lost.is_empty() && new.is_empty(),
                "{value:?} {options:?}, own mount: {own}: gone: {lost:#?}, new: {new:#?}"
            );
        }
    }
}

fn hosts_mounts_stay(way: Way) {
    let mut b = Bundle::new(way);
    on_a_shared_machine(&mut b, &[], &ALL, &["no", "yes"]);
    // [r]private is refused without pivot_root(2).
    let others = ALL.map(|value| if value.contains("private") { "" } else { value });
    on_a_shared_machine(&mut b, &["--no-pivot"], &others, &["no", "yes"]);
}

/// The container mounts in its own root, and in a volume of the host's.
fn mounts_of_a_container_stay_inside(way: Way) {
    let b = Bundle::new(way).script("mount -t tmpfs none /mnt && mount -t tmpfs none /volume/mnt");
    fs::create_dir_all(b.dir.join("volume/mnt")).unwrap();
    fs::create_dir(b.rootfs("mnt")).unwrap();
    let volume = b.dir.join("volume");
    let mut b = b.config(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
        }
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"]}));
    });
    // With the others, mounts of volumes are meant to get out: where the volume lies on a mount that they
    // don't cut off.
    let values: Vec<_> = ALL.into_iter().filter(|v| !v.contains("shared")).collect();
    on_a_shared_machine(&mut b, &[], &values, &["no"]);
    on_a_shared_machine(&mut b, &[], &["", "rprivate", "rslave"], &["yes"]);
}
