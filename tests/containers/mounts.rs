//! Mounts, /dev, masked and read-only paths: what a container sees in /proc/self/mountinfo.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way};
use crate::tests;

pub const TESTS: Tests = tests![
    from(options_become_flags),
    from(data_reaches_the_file_system),
    from(bind_of_a_directory_and_a_file),
    from(bind_flags),
    from(relative_source),
    recursive_readonly,
    propagation_of_mounts,
    from(rootfs_propagation),
    from(mounts_stay_inside),
    from(tmpcopyup),
    from(tmpfs_keeps_the_mode),
    from(idmapped_bind),
    from(dangling_symlinks),
    from(symlinks_stay_inside),
    from(later_covers_earlier),
    from(readonly_root),
    from(cgroup_mount),
    from(dev_contents),
    from(own_devices),
    from(dev_bound_from_the_host),
    from(masked_paths),
    from(readonly_paths),
    from(shm_and_mqueue),
    overlay,
    no_pivot,
];

fn add(b: Bundle, mount: Value) -> Bundle {
    b.config(|spec| {
        let all = spec["mounts"].as_array_mut().expect("mounts");
        all.push(mount);
    })
}

/// The line of mountinfo for a mount point (proc_pid_mountinfo(5)): its options, its optional fields,
/// and the file system's own options.
fn info(text: &str, point: &str) -> (Vec<String>, String, Vec<String>) {
    let line = text.lines().rfind(|l| l.split(' ').nth(4) == Some(point));
    let line = line.unwrap_or_else(|| panic!("{point} isn't in {text}"));
    let (mount, system) = line.split_once(" - ").expect("a separator");
    let mount: Vec<_> = mount.split(' ').collect();
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    let system = system.split(' ').nth(2).expect("options");
    (list(mount[5]), mount[6..].join(" "), list(system))
}

fn mountinfo(b: Bundle) -> String {
    b.args(["cat", "/proc/self/mountinfo"]).run().ok()
}

fn options_become_flags(way: Way) {
    for (options, present, absent) in [
        (
            &["ro", "nosuid", "nodev", "noexec"][..],
            &["ro", "nosuid", "nodev", "noexec"][..],
            &["rw"][..],
        ),
        (&["nosuid", "suid"], &["rw"], &["nosuid"]),
        (&["noatime"], &["noatime"], &["relatime"]),
        (&["strictatime"], &["rw"], &["relatime", "noatime"]),
        (
            &["relatime", "nodiratime"],
            &["relatime", "nodiratime"],
            &[],
        ),
        (&["nosymfollow"], &["nosymfollow"], &[]),
        (
            &["defaults"],
            &["rw", "relatime"],
            &["nosuid", "nodev", "noexec"],
        ),
        (&["ro", "rw"], &["rw"], &["ro"]),
    ] {
        let b = add(
            Bundle::new(way),
            json!({
                "destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": options,
            }),
        );
        let (flags, _, _) = info(&mountinfo(b), "/x");
        for flag in present {
            assert!(
                flags.iter().any(|f| f == flag),
                "{options:?}: {flag} not in {flags:?}"
            );
        }
        for flag in absent {
            assert!(
                !flags.iter().any(|f| f == flag),
                "{options:?}: {flag} in {flags:?}"
            );
        }
    }
}

fn data_reaches_the_file_system(way: Way) {
    let b = add(
        Bundle::new(way),
        json!({
            "destination": "/x", "type": "tmpfs", "source": "named",
            "options": ["size=64k", "mode=1700", "uid=7", "nr_inodes=50"],
        }),
    );
    let text = mountinfo(b);
    let (_, _, data) = info(&text, "/x");
    for wanted in ["size=64k", "mode=1700", "uid=7", "nr_inodes=50"] {
        assert!(data.iter().any(|d| d == wanted), "{wanted} not in {data:?}");
    }
    assert!(text.contains(" /x rw,relatime - tmpfs named "), "{text}");
}

fn bind_of_a_directory_and_a_file(way: Way) {
    let b = Bundle::new(way);
    let dir = b.dir.join("volume");
    fs::create_dir(&dir).expect("mkdir");
    fs::write(dir.join("file"), "content\n").expect("write");
    let b = add(
        b,
        json!({"destination": "/deep/er/dir", "source": dir, "options": ["rbind"]}),
    );
    let file = dir.join("file");
    let b = add(
        b,
        json!({"destination": "/new/file", "type": "none", "source": file, "options": ["bind", "ro"]}),
    );
    let b = b.script(
        "cat /deep/er/dir/file /new/file; echo x > /deep/er/dir/other
                      echo y 2>/dev/null > /new/file || echo refused",
    );
    let out = b.make("run", &[]).run();
    assert_eq!(out.stdout, "content\ncontent\nrefused\n", "{}", out.stderr);
    assert!(dir.join("other").exists());
    // The mount points that were missing: a directory, and an empty file.
    assert!(b.rootfs("deep/er/dir").is_dir());
    assert_eq!(fs::metadata(b.rootfs("new/file")).expect("stat").len(), 0);
}

fn bind_flags(way: Way) {
    let b = Bundle::new(way);
    let dir = b.dir.to_string_lossy().into_owned();
    let b = add(
        b,
        json!({"destination": "/plain", "source": dir, "options": ["bind"]}),
    );
    let b = add(
        b,
        json!({"destination": "/strict", "source": dir, "options": ["bind", "ro", "nosuid", "nodev", "noexec"]}),
    );
    let text = mountinfo(b);
    assert_eq!(info(&text, "/plain").0[0], "rw");
    let (flags, _, _) = info(&text, "/strict");
    assert_eq!(flags[..4], ["ro", "nosuid", "nodev", "noexec"]);
    // On the mount only, not on the file system.
    assert_eq!(info(&text, "/strict").2[0], "rw");
}

fn relative_source(way: Way) {
    let b = Bundle::new(way);
    fs::write(b.dir.join("beside"), "beside\n").expect("write");
    let b = add(
        b,
        json!({"destination": "/x", "source": "beside", "options": ["bind"]}),
    );
    assert_eq!(b.args(["cat", "/x"]).run().ok(), "beside\n");
}

/// A call in a mount namespace in which `script` has made mounts.
const PRIVATE: &str = "exec unshare --mount sh -c 'SCRIPT; exec \"$@\"' sh \"$@\"";

fn recursive_readonly(way: Way) {
    let b = Bundle::new(way);
    let dir = b.dir.join("volume");
    fs::create_dir_all(dir.join("sub")).expect("mkdir");
    let source = dir.to_string_lossy().into_owned();
    let b = add(
        b,
        json!({"destination": "/rec", "source": source, "options": ["rbind", "rro"]}),
    );
    let b = add(
        b,
        json!({"destination": "/top", "source": source, "options": ["rbind", "ro"]}),
    );
    let b = add(
        b,
        json!({"destination": "/mix", "source": source, "options": ["rbind", "rnosuid", "rnoexec", "rnoatime"]}),
    );
    let b = b.args(["cat", "/proc/self/mountinfo"]);
    let script = PRIVATE.replace("SCRIPT", &format!("mount -t tmpfs tmpfs {source}/sub"));
    let text = b.make("run", &[]).shell(&script).run().ok();
    for (point, flag) in [
        ("/rec", "ro"),
        ("/rec/sub", "ro"),
        ("/top", "ro"),
        ("/top/sub", "rw"),
    ] {
        assert_eq!(info(&text, point).0[0], flag, "{point}");
    }
    for point in ["/mix", "/mix/sub"] {
        let (flags, _, _) = info(&text, point);
        assert_eq!(flags, ["rw", "nosuid", "noexec", "noatime"], "{point}");
    }
}

fn propagation_of_mounts(way: Way) {
    for (option, wanted) in [
        ("private", ""),
        ("rprivate", ""),
        ("shared", "shared:"),
        ("rslave", "master:"),
        ("unbindable", "unbindable"),
    ] {
        let b = Bundle::new(way);
        let dir = b.dir.join("volume");
        fs::create_dir(&dir).expect("mkdir");
        let source = dir.to_string_lossy().into_owned();
        let b = add(
            b,
            json!({"destination": "/x", "source": source, "options": ["bind", option]}),
        );
        let b = b.args(["cat", "/proc/self/mountinfo"]);
        let script = PRIVATE.replace(
            "SCRIPT",
            &format!("mount --bind {source} {source}; mount --make-shared {source}"),
        );
        let text = b.make("run", &[]).shell(&script).run().ok();
        let (_, fields, _) = info(&text, "/x");
        assert!(fields.starts_with(wanted), "{option}: {fields:?}");
        assert_eq!(fields.is_empty(), wanted.is_empty(), "{option}: {fields:?}");
    }
}

fn rootfs_propagation(way: Way) {
    for (value, wanted) in [
        ("private", ""),
        ("rshared", "shared:"),
        ("unbindable", "unbindable"),
    ] {
        let b = Bundle::new(way).config(|spec| spec["linux"]["rootfsPropagation"] = json!(value));
        let (_, fields, _) = info(&mountinfo(b), "/");
        assert!(fields.starts_with(wanted), "{value}: {fields:?}");
        assert_eq!(fields.is_empty(), wanted.is_empty(), "{value}: {fields:?}");
    }
}

fn mounts_stay_inside(way: Way) {
    let b = Bundle::new(way).sleeper();
    let before = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    b.run_detached().ok();
    let dir = b.dir.to_string_lossy().into_owned();
    let after = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let ours = |text: &str| text.lines().filter(|l| l.contains(&dir)).count();
    assert_eq!(ours(&before), ours(&after));
}

fn tmpcopyup(way: Way) {
    let b = Bundle::new(way);
    fs::create_dir(b.rootfs("data")).expect("mkdir");
    fs::write(b.rootfs("data/file"), "copied\n").expect("write");
    symlink("file", b.rootfs("data/link")).expect("symlink");
    let b = add(
        b,
        json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
    );
    let b =
        b.script("cat /data/file; readlink /data/link; echo x > /data/new; stat -f -c %T /data");
    assert_eq!(b.run().ok(), "copied\nfile\ntmpfs\n");
    assert!(!b.rootfs("data/new").exists());
    let b = b.config(|spec| {
        let mounts = spec["mounts"].as_array_mut().expect("mounts");
        mounts.last_mut().expect("a mount")["options"] = json!(["tmpcopyup", "ro"]);
    });
    let out = b
        .script("cat /data/file; touch /data/x 2>/dev/null || echo refused")
        .run();
    assert_eq!(out.stdout, "copied\nrefused\n", "{}", out.stderr);
}

fn tmpfs_keeps_the_mode(way: Way) {
    let b = Bundle::new(way);
    fs::create_dir(b.rootfs("data")).expect("mkdir");
    fs::set_permissions(b.rootfs("data"), fs::Permissions::from_mode(0o2710)).expect("chmod");
    let b = add(
        b,
        json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"}),
    );
    let b = add(
        b,
        json!({"destination": "/other", "type": "tmpfs", "source": "tmpfs", "options": ["mode=0701"]}),
    );
    let out = b.args(["stat", "-c", "%a", "/data", "/other"]).run().ok();
    assert_eq!(out, "2710\n701\n");
}

fn idmapped_bind(way: Way) {
    let b = Bundle::new(way);
    let dir = b.dir.join("volume");
    fs::create_dir(&dir).expect("mkdir");
    fs::write(dir.join("file"), "").expect("write");
    let chown = Command::new("chown")
        .arg("1000:1000")
        .arg(dir.join("file"))
        .status();
    assert!(chown.expect("chown").success());
    let source = dir.to_string_lossy().into_owned();
    let map = json!([{"containerID": 1000, "hostID": 7, "size": 1}, {"containerID": 0, "hostID": 9, "size": 1}]);
    let b = add(
        b,
        json!({
            "destination": "/x", "source": source, "options": ["bind", "idmap"],
            "uidMappings": map, "gidMappings": map,
        }),
    );
    let b = b.args(["stat", "-c", "%u %g", "/x/file"]);
    assert_eq!(b.run().ok(), "7 7\n");
    assert_eq!(fs::metadata(dir.join("file")).expect("stat").uid(), 1000);
}

fn dangling_symlinks(way: Way) {
    let b = Bundle::new(way);
    symlink("/not/there/yet", b.rootfs("link")).expect("symlink");
    let b = add(
        b,
        json!({"destination": "/link", "type": "tmpfs", "source": "tmpfs"}),
    );
    let out = b.script("stat -f -c %T /not/there/yet").run().ok();
    assert_eq!(out, "tmpfs\n");
}

fn symlinks_stay_inside(way: Way) {
    let b = Bundle::new(way);
    let outside = b.dir.join("outside");
    fs::create_dir(&outside).expect("mkdir");
    symlink("/../../../../../../tmp/../etc", b.rootfs("link")).expect("symlink");
    symlink(&outside, b.rootfs("away")).expect("symlink");
    let b = add(
        b,
        json!({"destination": "/link/sub", "type": "tmpfs", "source": "tmpfs"}),
    );
    let b = add(
        b,
        json!({"destination": "/away/sub", "type": "tmpfs", "source": "tmpfs"}),
    );
    b.run().ok();
    assert!(
        !outside.join("sub").exists(),
        "made a mount point outside of the rootfs"
    );
    assert!(b.rootfs("etc/sub").is_dir());
}

fn later_covers_earlier(way: Way) {
    let b = Bundle::new(way);
    let b = add(
        b,
        json!({"destination": "/x", "type": "tmpfs", "source": "one"}),
    );
    let b = add(
        b,
        json!({"destination": "/x/y", "type": "tmpfs", "source": "two"}),
    );
    let b = add(
        b,
        json!({"destination": "/x", "type": "tmpfs", "source": "three"}),
    );
    let out = b
        .script("ls /x | wc -l; grep -c ' /x' /proc/self/mountinfo")
        .run()
        .ok();
    assert_eq!(out, "0\n3\n");
}

fn readonly_root(way: Way) {
    let script = "touch /x 2>&1 || true; touch /dev/x && echo dev; cat /proc/self/mountinfo";
    let b = Bundle::new(way)
        .script(script)
        .config(|spec| spec["root"]["readonly"] = json!(true));
    let out = b.run().ok();
    assert!(
        out.contains("Read-only file system") && out.contains("\ndev\n"),
        "{out}"
    );
    assert_eq!(info(&out, "/").0[0], "ro");
    assert!(!b.rootfs("x").exists());
}

fn cgroup_mount(way: Way) {
    let b = Bundle::new(way).script(
        "stat -f -c %t /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.procs; cat /proc/self/mountinfo",
    );
    let out = b.run().ok();
    // CGROUP2_SUPER_MAGIC; with a cgroup namespace, the container's own cgroup is the root.
    assert!(out.starts_with("63677270\n1\n"), "{out}");
    assert_eq!(
        info(&out, "/sys/fs/cgroup").0[..4],
        ["ro", "nosuid", "nodev", "noexec"]
    );
}

fn dev_contents(way: Way) {
    let b = Bundle::new(way).script(
        "umask 0; cd /dev; for n in null zero full random urandom tty; do stat -c '%n %F %t:%T %a %u:%g' $n; done
         for n in fd stdin stdout stderr ptmx; do echo $n $(readlink $n); done
         stat -c '%n %a' shm pts; ls",
    );
    let out = b.run().ok();
    let c = |name: &str, number: &str| format!("{name} character special file {number} 666 0:0\n");
    let wanted = [
        c("null", "1:3"),
        c("zero", "1:5"),
        c("full", "1:7"),
        c("random", "1:8"),
        c("urandom", "1:9"),
        c("tty", "5:0"),
    ];
    let wanted = wanted.concat()
        + "fd /proc/self/fd\nstdin /proc/self/fd/0\nstdout /proc/self/fd/1\nstderr /proc/self/fd/2\n\
           ptmx pts/ptmx\nshm 1777\npts 755\n";
    assert!(out.starts_with(&wanted), "{out}\nwanted: {wanted}");
    let mut rest: Vec<_> = out[wanted.len()..].split_whitespace().collect();
    rest.retain(|n| *n != "core");
    let names = [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "urandom", "zero",
    ];
    assert_eq!(rest, names);
}

fn own_devices(way: Way) {
    let b = Bundle::new(way).script("stat -c '%F %t:%T %a %u:%g' /dev/own /deep/fifo /dev/null");
    let b = b.config(|spec| {
        spec["linux"]["devices"] = json!([
            {"path": "/dev/own", "type": "c", "major": 1, "minor": 7, "fileMode": 0o640, "uid": 3, "gid": 4},
            {"path": "/deep/fifo", "type": "p"},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
        ]);
        // A /dev/null of one's own is only allowed by a rule of one's own.
        spec["linux"]["resources"]["devices"] =
            json!([{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}]);
    });
    let wanted = "character special file 1:7 640 3:4\nfifo 0:0 666 0:0\n\
                  character special file 1:3 600 0:0\n";
    assert_eq!(b.run().ok(), wanted);
}

fn dev_bound_from_the_host(way: Way) {
    let b = Bundle::new(way).script("ls -d /dev/vda /dev/kmsg 2>/dev/null | wc -l").config(|spec| {
        spec["mounts"] = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind", "ro"]},
        ]);
    });
    let names = |dir: &str| fs::read_dir(dir).expect("list").count();
    let before = names("/dev");
    b.run().ok();
    assert_eq!(names("/dev"), before, "the host's /dev was changed");
}

fn masked_paths(way: Way) {
    let b = Bundle::new(way);
    fs::create_dir(b.rootfs("secret")).expect("mkdir");
    fs::write(b.rootfs("secret/file"), "secret\n").expect("write");
    fs::write(b.rootfs("key"), "key\n").expect("write");
    let b = b.script(
        "ls /secret | wc -l; cat /key | wc -c; touch /secret/x 2>/dev/null || echo refused
         stat -c %F /key; cat /proc/timer_list | wc -c; ls /sys/firmware | wc -l; cat /proc/self/mountinfo",
    );
    let b = b.config(|spec| {
        let all = spec["linux"]["maskedPaths"]
            .as_array_mut()
            .expect("maskedPaths");
        all.extend([json!("/secret"), json!("/key"), json!("/not/there")]);
    });
    let out = b.run().ok();
    assert!(
        out.starts_with("0\n0\nrefused\ncharacter special file\n0\n0\n"),
        "{out}"
    );
    assert_eq!(info(&out, "/secret").0[0], "ro");
}

fn readonly_paths(way: Way) {
    let b = Bundle::new(way);
    fs::create_dir(b.rootfs("fixed")).expect("mkdir");
    fs::write(b.rootfs("file"), "").expect("write");
    let b = b.script(
        "touch /fixed/x 2>/dev/null || echo refused; { echo > /file; } 2>/dev/null || echo refused
         { echo 1 > /proc/sys/kernel/domainname; } 2>/dev/null || echo refused; cat /proc/self/mountinfo",
    );
    let b = b.config(|spec| {
        let all = spec["linux"]["readonlyPaths"]
            .as_array_mut()
            .expect("readonlyPaths");
        all.extend([json!("/fixed"), json!("/file"), json!("/not/there")]);
    });
    let out = b.run().ok();
    assert!(out.starts_with("refused\nrefused\nrefused\n"), "{out}");
    assert_eq!(info(&out, "/proc/sys").0[0], "ro");
    assert_eq!(info(&out, "/proc").0[0], "rw");
}

fn shm_and_mqueue(way: Way) {
    let text = mountinfo(Bundle::new(way));
    let (flags, _, data) = info(&text, "/dev/shm");
    assert_eq!(flags[..4], ["rw", "nosuid", "nodev", "noexec"]);
    assert!(data.contains(&"size=65536k".to_owned()), "{data:?}");
    assert!(text.contains(" - mqueue mqueue "), "{text}");
    let (_, _, pts) = info(&text, "/dev/pts");
    assert!(
        pts.contains(&"gid=5".to_owned()) && pts.contains(&"ptmxmode=666".to_owned()),
        "{pts:?}"
    );
}

fn overlay(way: Way) {
    let b = Bundle::new(way);
    for name in ["lower", "upper", "work"] {
        fs::create_dir(b.dir.join(name)).expect("mkdir");
    }
    fs::write(b.dir.join("lower/file"), "lower\n").expect("write");
    let option = |key: &str, name: &str| format!("{key}={}", b.dir.join(name).display());
    let options = [
        option("lowerdir", "lower"),
        option("upperdir", "upper"),
        option("workdir", "work"),
    ];
    let b = add(
        b,
        json!({"destination": "/x", "type": "overlay", "source": "overlay", "options": options}),
    );
    let b = b.script("cat /x/file; echo new > /x/file");
    assert_eq!(b.run().ok(), "lower\n");
    let read = |name: &str| fs::read_to_string(b.dir.join(name)).expect("read");
    assert_eq!(
        (read("lower/file"), read("upper/file")),
        ("lower\n".into(), "new\n".into())
    );
}

fn no_pivot(way: Way) {
    let b =
        Bundle::new(way).script("ls -d /proc/1 /bin; ls / | grep -c tmp; cat /proc/self/mountinfo");
    let out = b.make("run", &["--no-pivot"]).run().ok();
    assert!(
        out.starts_with("/bin\n/proc/1\n0\n") || out.starts_with("/proc/1\n/bin\n0\n"),
        "{out}"
    );
    info(&out, "/proc");
}
