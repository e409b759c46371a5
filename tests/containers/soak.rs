//! Many containers through one daemon: nothing grows.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::harness::runner::Tests;
use crate::harness::{Call, Daemon, Way, wait_for};
use crate::tests;
use crate::zygote::{configured, daemon};

pub const TESTS: Tests = tests![soak];

/// What the kernel and the daemon hold.
#[derive(Debug)]
pub struct Held {
    mounts: usize,
    cgroups: usize,
    namespaces: usize,
    descriptors: usize,
    resident: u64,
}

impl Held {
    /// Checks that nothing has grown since `before`, in which `many` containers were made.
    #[track_caller]
    pub fn same(&self, before: &Held, many: usize) {
        let exact = |h: &Held| (h.namespaces, h.descriptors);
        assert_eq!(exact(before), exact(self));
        // Others make containers meanwhile; but not as many.
        let slack = 60.min(many / 3);
        assert!(
            self.mounts < before.mounts + slack
                && self.cgroups < before.cgroups + slack
                && self.resident < before.resident + (1 << 20),
            "{before:?} {self:?}"
        );
    }
}

/// What it holds once the connections over which it was asked are closed at its end, too.
pub fn held(daemon: &Daemon) -> Held {
    let resident = daemon.status()["resident"].as_u64().unwrap();
    let look = || {
        let held = held_now(daemon.pid(), resident);
        std::thread::sleep(Duration::from_millis(50));
        let again = held_now(daemon.pid(), resident);
        (held.descriptors == again.descriptors).then_some(again)
    };
    wait_for("closed connections", look)
}

fn held_now(pid: i32, resident: u64) -> Held {
    let lines = |path: &str| fs::read_to_string(path).unwrap().lines().count();
    let cgroups = || {
        // Those of this run, by their names.
        let own = format!("t{}-*", std::process::id());
        let mut found = Command::new("find");
        found.args(["/sys/fs/cgroup", "-type", "d", "-name", &own]);
        found
            .output()
            .unwrap()
            .stdout
            .split(|b| *b == b'\n')
            .count()
    };
    let mut namespaces = BTreeSet::new();
    let mut descriptors = 0;
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        descriptors += 1;
        let link = fs::read_link(fd.path()).unwrap_or_default();
        if link.to_string_lossy().contains(":[4") {
            namespaces.insert(link);
        }
    }
    Held {
        mounts: lines("/proc/self/mountinfo"),
        cgroups: cgroups(),
        namespaces: namespaces.len(),
        descriptors,
        resident,
    }
}

/// Waits until it does nothing for two seconds: who works without being asked never does.
pub fn rests(pid: i32) {
    wait_for("its rest", || {
        let before = worked(pid);
        std::thread::sleep(Duration::from_secs(2));
        (before == worked(pid)).then_some(())
    });
}

/// utime and stime.
fn worked(pid: i32) -> (String, String) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let words: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (words[11].to_owned(), words[12].to_owned())
}

/// How many containers: RUNZ_SOAK, or not so many.
pub fn many() -> usize {
    let many = std::env::var("RUNZ_SOAK").ok().and_then(|n| n.parse().ok());
    many.unwrap_or(200)
}

/// Many containers, RUNZ_SOAK of them (hack/test's stage `soak`), four at a time: the daemon has what it had, and
/// rests.
fn soak(way: Way) {
    let many = many();
    let b = configured(way, "first = 8\npool = 8\n");
    let cycles = |n: usize, name: &str| {
        for i in 0..n {
            let id = format!("{}-{name}-{i}", b.id);
            let zygote = |call: Call| call.env("RUNZ_ZYGOTE", "require");
            let made = zygote(b.call("create").arg("--bundle").arg(&b.dir).arg(&id));
            made.run().ok();
            b.call("start").arg(&id).run().ok();
            b.call("delete").args(["--force", &id]).run().ok();
        }
    };
    let settled = || {
        wait_for("a full pool", || {
            (daemon(&b).sum("ready") == 8).then_some(())
        });
    };
    cycles(20, "first");
    settled();
    let before = held(daemon(&b));
    std::thread::scope(|scope| {
        for loops in 0..4 {
            let cycles = &cycles;
            scope.spawn(move || cycles(many / 4, &loops.to_string()));
        }
    });
    settled();
    assert_eq!(daemon(&b).sum("hits") as usize, 20 + many / 4 * 4);
    let after = held(daemon(&b));
    after.same(&before, many);
    rests(daemon(&b).pid());
}
