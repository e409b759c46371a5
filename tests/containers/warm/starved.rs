//! Warm containers where there is nothing left to take: descriptors, disk, containers. Whoever asks gets one
//! all the same, made as ever, or one clear line; and nothing stays behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};

use super::deaths::keeper_pids;
use super::{Pool, keepers};
use crate::harness::{Bundle, Daemon, Output, Way};
use crate::starved::mounted;

fn greets(way: Way) -> Bundle {
    Bundle::new(way).args(["echo", "hi"])
}

/// It ran, or failed with one line that names the cause, and is gone. Whether it ran.
#[track_caller]
fn ran(p: &Pool, what: &str, cause: &str, output: Output) -> bool {
    let ran = output.code == 0;
    match ran {
        true => assert_eq!(output.stdout, "hi\n", "{what}"),
        false => {
            let line = output.fails();
            assert!(line.starts_with("runz: "), "{what}: {line}");
            assert!(line.contains(cause), "{what}: {line}");
        }
    }
    assert!(!p.b.root.join(p.name("one")).exists(), "{what}: it's left");
    ran
}

/// Whole again: another one is taken.
#[track_caller]
fn recovers(p: &Pool) {
    p.wait_ready(1);
    p.settled(1);
    assert_eq!(p.warm(&[], "one").run().ok(), "hi\n");
    p.wait_ready(1);
    p.settled(1);
    keepers(p, 1);
}

/// EMFILE in the caller, with every number of descriptors from too few to enough.
pub fn few_descriptors_of_the_caller(way: Way) {
    let p = Pool::created(greets(way), 1);
    let (mut failed, mut taken) = (0, 0);
    for limit in 4..36 {
        p.wait_ready(1);
        let before = p.status()["hits"].clone();
        let call = p.from(&[], "one");
        let call = call.shell(&format!("ulimit -n {limit}; exec \"$@\""));
        match ran(&p, &format!("{limit} descriptors"), "", call.run()) {
            true => taken += usize::from(p.status()["hits"] != before),
            false => failed += 1,
        }
    }
    assert!(failed > 0 && taken > 0, "{failed} failed, {taken} taken");
    recovers(&p);
}

/// Sets how many descriptors a process may have from now on.
fn may_open(pid: i32, limit: usize) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string()]);
    // The soft limit: not everybody may raise the hard one again.
    let status = command.arg(format!("--nofile={limit}:")).status();
    assert!(status.expect("prlimit").success());
}

/// EMFILE in the daemon, when it's asked and when it makes another one.
pub fn few_descriptors_of_the_daemon(way: Way) {
    // Without kits, of which it would let go first.
    let mut p = Pool::new(greets(way));
    let config = p.b.dir.join("zygote.toml");
    fs::write(&config, "kits = 0\n").expect("write");
    p.kill();
    let flags = ["--config", &config.to_string_lossy()];
    p.daemon = Some(Daemon::with(&p.b.root, &flags, |_| {}));
    p.provision(&[]).ok();
    let pid = p.daemon.as_ref().expect("a daemon").pid();
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count();
    for more in 0..5 {
        recovers(&p);
        may_open(pid, open() + more);
        for n in 0..3 {
            let what = format!("{more} more descriptors, {n}");
            assert!(ran(&p, &what, "", p.from(&[], "one").run()), "{what}");
        }
        may_open(pid, 1000);
    }
    recovers(&p);
}

/// EMFILE in the keeper, when it hands over what it has made.
pub fn few_descriptors_of_the_keeper(way: Way) {
    for p in [
        Pool::created(greets(way), 1),
        Pool::ready(Bundle::new(way), 1, &[]),
    ] {
        let (mut cold, mut taken) = (0, 0);
        for limit in 3..20 {
            p.wait_ready(1);
            keepers(&p, 1);
            may_open(keeper_pids(&p)[0], limit);
            let call = p.from(&[], "one").env("RUNZ_ZYGOTE", "require");
            let output = call.stdin("exit 0\n").run();
            match output.code {
                0 => taken += 1,
                _ => {
                    let line = output.fails();
                    // One that can't even have the connection can't say so.
                    let causes = ["EMFILE", "EPIPE", "its keeper is gone"];
                    let causes = &causes[..if limit < 5 { 3 } else { 1 }];
                    let told = causes.iter().any(|cause| line.contains(cause));
                    assert!(told, "{limit} descriptors: {line}");
                    // He would have gone the cold way.
                    assert!(
                        line.contains("--zygote=require: "),
                        "{limit} descriptors: {line}"
                    );
                    cold += 1;
                }
            }
            assert!(!p.b.root.join(p.name("one")).exists());
            p.settled(1);
        }
        assert!(cold > 0 && taken > 0, "{cold} cold, {taken} taken");
        p.wait_ready(1);
        p.settled(1);
        keepers(&p, 1);
    }
}

fn remount(path: &Path, options: &str) {
    let mut command = Command::new("mount");
    command
        .args(["-o", &format!("remount,{options}")])
        .arg(path);
    assert!(command.status().expect("mount").success(), "{options}");
}

/// ENOSPC: no inode for what is to be written, or no block.
pub fn full_state_root(way: Way) {
    let b = greets(way).without_daemon();
    let root = b.root.clone();
    let p = mounted(&root, "size=1m", || {
        let mut p = Pool::created(b, 1);
        let (mut refused, mut taken) = (0, 0);
        let mut one = |p: &Pool, what: &str| {
            match ran(p, what, "ENOSPC", p.warm(&[], "one").run()) {
                true => taken += 1,
                false => refused += 1,
            }
            // What was refused is gone, and has made room.
            ran(p, what, "ENOSPC", p.from(&[], "one").run());
            let said = p.provision(&["--count=2"]);
            if said.code != 0 {
                said.fails();
            }
            // What was remembered is what is remembered, or something else; but not nothing.
            let pools = fs::read(root.join("@zygote/pools.json")).expect("pools.json");
            let pools: Value = serde_json::from_slice(&pools).expect("JSON");
            assert_eq!(pools[0]["name"], json!(p.b.id), "{what}");
        };
        let again = |p: &Pool| {
            p.provision(&["--count=1"]).ok();
            recovers(p);
        };
        for more in 0..8 {
            let used = statvfs(&root).expect("statvfs");
            let used = used.files() - used.files_free();
            remount(&root, &format!("nr_inodes={}", used + more));
            one(&p, &format!("{more} inodes"));
            remount(&root, "nr_inodes=10000");
            again(&p);
        }
        for pages in 0..3 {
            let free = statvfs(&root).expect("statvfs").blocks_free() - pages;
            fs::write(root.join("@fill"), vec![b'x'; free as usize * 4096]).expect("fill");
            one(&p, &format!("{pages} pages"));
            fs::remove_file(root.join("@fill")).expect("remove");
            again(&p);
        }
        assert!(refused > 0 && taken > 0, "{refused} refused, {taken} taken");
        p.kill();
        p.settled(0);
        p
    });
    drop(p);
}

/// Nobody waits for others, and nobody gets what another one has.
pub fn more_callers_than_containers(way: Way) {
    let p = Pool::created(greets(way), 2);
    let ids: Vec<String> = (0..12).map(|n| format!("c{n}")).collect();
    let calls: Vec<_> = ids.iter().map(|id| p.from(&[], id).spawn()).collect();
    for call in calls {
        assert_eq!(call.wait().ok(), "hi\n");
    }
    p.wait_ready(2);
    p.settled(2);
    keepers(&p, 2);
    let status = p.status();
    let number = |name: &str| status[name].as_u64().expect("a number");
    assert_eq!(number("hits") + number("misses"), 12, "{status}");
    assert!(number("hits") >= 2 && number("misses") > 0, "{status}");
}
