//! Warm containers: `zygote provision` and `run --from`.

mod created;
pub mod deaths;
mod hooks;
mod pool;
mod ready;
mod soak;
mod starved;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Call, Daemon, Output, host, wait_for};
use crate::inside::ROLE;
use crate::tests;
use created::*;
use deaths::*;
use hooks::*;
use pool::*;
use ready::*;
use soak::*;
use starved::*;

pub const TESTS: Tests = tests![
    takes_what_its_caller_says,
    looks_like_a_cold_one,
    detached,
    signals_and_exit_codes,
    terminal,
    terminal_handed_on,
    ready_goes_on_from_where_it_was,
    ready_is_frozen,
    ready_with_terminal,
    ready_detached,
    random_numbers_differ,
    not_ready_is_told,
    pool_refills_and_resizes,
    memory_is_capped,
    pool_stays_when_provision_fails,
    cold_when_there_is_none,
    cold_ones_side_by_side,
    cold_when_it_does_not_fit,
    changed_bundle_is_noticed,
    daemon_killed,
    daemon_killed_in_the_foreground,
    keeper_killed,
    caller_killed,
    mistakes_are_the_same,
    limits,
    refused_bundles,
    few_descriptors_of_the_caller,
    few_descriptors_of_the_daemon,
    few_descriptors_of_the_keeper,
    full_state_root,
    more_callers_than_containers,
    soak,
    hooks_inherit_from_the_caller,
    daemon_keeps_its_environment,
];

/// With a runz that is killed, or fails, at every step.
#[cfg(feature = "fault")]
pub const FAULTS: Tests = tests![
    caller_killed_at_every_step,
    keeper_killed_at_every_step,
    killed_before_it_runs,
];

/// A daemon and one pool of it. Dropped, nothing may be left of either.
pub struct Pool {
    pub b: Bundle,
    daemon: Option<Daemon>,
}

impl Pool {
    /// A daemon without a pool.
    pub fn new(b: Bundle) -> Pool {
        let mut pool = Pool { b, daemon: None };
        pool.serve(&[]);
        pool
    }

    /// A pool of created ones.
    pub fn created(b: Bundle, count: u32) -> Pool {
        let pool = Pool::new(b);
        pool.provision(&["--count", &count.to_string()]).ok();
        pool
    }

    /// A pool of ready ones of role `answer`.
    pub fn ready(b: Bundle, count: u32, more: &[&str]) -> Pool {
        let pool = Pool::new(answers(b));
        let count = count.to_string();
        let options = [&["--until", "ready", "--count", &count], more].concat();
        pool.provision(&options).ok();
        pool
    }

    /// Starts a daemon.
    pub fn serve(&mut self, environment: &[(&str, &str)]) {
        let daemon = Daemon::with(&self.b.root, &[], |command| {
            command.envs(environment.iter().copied());
        });
        self.daemon = Some(daemon);
    }

    /// Kills the daemon.
    pub fn kill(&mut self) {
        self.daemon.take().expect("a daemon").kill();
    }

    /// `zygote provision`: the pool has the name of the bundle's id.
    pub fn provision(&self, options: &[&str]) -> Output {
        let call = self
            .b
            .call("zygote")
            .args(["provision", "--name", &self.b.id]);
        call.arg("--bundle").arg(&self.b.dir).args(options).run()
    }

    /// The id of a container, which no other test has: their cgroups are beside each other.
    pub fn name(&self, id: &str) -> String {
        let short = id.bytes().all(|b| b.is_ascii_alphanumeric());
        match short {
            true => format!("{id}-{}", self.b.id),
            false => id.to_owned(),
        }
    }

    /// `run --from` with options before the id.
    pub fn from(&self, options: &[&str], id: &str) -> Call {
        self.b
            .call("run")
            .args(["--from", &self.b.id])
            .args(options)
            .arg(self.name(id))
    }

    /// The same, but it must be a warm one.
    pub fn warm(&self, options: &[&str], id: &str) -> Call {
        self.from(&[&["--zygote", "require"], options].concat(), id)
    }

    /// The pool, as `zygote status` shows it.
    pub fn status(&self) -> Value {
        let text = self
            .b
            .call("zygote")
            .args(["status", "--format=json"])
            .run()
            .ok();
        let status: Value = serde_json::from_str(&text).expect("JSON");
        let pools = status["warm"].as_array().expect("pools").iter();
        let mut own = pools.filter(|p| p["name"] == json!(self.b.id));
        own.next().cloned().unwrap_or(Value::Null)
    }

    /// Removes a container of a caller, running or not.
    pub fn delete(&self, name: &str) {
        let call = self.b.call("delete").arg("--force");
        call.arg(self.name(name)).run().ok();
    }

    /// Waits until there are as many.
    #[track_caller]
    pub fn wait_ready(&self, count: u64) {
        wait_for(&format!("{count} warm containers"), || {
            (self.status()["ready"] == json!(count)).then_some(())
        });
    }

    /// Directories of warm containers that nobody has taken.
    pub fn parked(&self) -> Vec<String> {
        names(self.b.root.join("@zygote/warm"))
    }

    /// cgroups of the pool's containers.
    pub fn cgroups(&self) -> Vec<String> {
        let parent = self.b.cgroup();
        let prefix = format!("{}-", self.b.id);
        let all = names(parent.parent().expect("a parent").to_owned());
        all.into_iter().filter(|n| n.starts_with(&prefix)).collect()
    }

    /// Waits until a container, its cgroup and its keeper are gone, and the pool is whole again.
    #[track_caller]
    pub fn settled(&self, parked: usize) {
        wait_for("nothing but the parked", || {
            let whole = self.parked().len() == parked && self.cgroups().len() == parked;
            whole.then_some(())
        });
    }
}

fn names(directory: PathBuf) -> Vec<String> {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    all.map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.daemon = None;
        let ids = names(self.b.root.clone());
        for id in ids.iter().filter(|id| !id.starts_with('@')) {
            self.b.call("delete").args(["--force", id]).run();
        }
        if !std::thread::panicking() {
            self.settled(0);
        }
        let _ = fs::remove_dir_all(self.b.root.join("@zygote"));
    }
}

/// Its program is this very one, in role `answer`.
fn answers(b: Bundle) -> Bundle {
    host::copy_own_program(&b.rootfs("/answer"));
    let role = format!("{ROLE}=answer");
    b.args(["/answer"])
        .config(|spec| spec["process"]["env"] = json!(["PATH=/bin", role]))
}

fn with_terminal(b: Bundle) -> Bundle {
    b.config(|spec| spec["process"]["terminal"] = json!(true))
}

/// Waits until the daemon has as many children.
#[track_caller]
fn keepers(p: &Pool, count: usize) {
    let pid = p.daemon.as_ref().expect("a daemon").pid();
    wait_for(&format!("{count} keepers"), || {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        (text.ok()?.split_whitespace().count() == count).then_some(())
    });
}
