//! A bundle, with the containers that are made of it.

use std::cell::Cell;
use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::call::{Call, Output};
use super::zygote::Daemon;
use super::{PATIENCE, host, wait_for};

/// How containers are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From nothing.
    Cold,
    /// With what a daemon, one for each bundle's state root, has made ahead.
    Kit,
    /// Whole ones that such a daemon has made: every `run` is `run --from`. For tests that say so.
    From,
}

impl Way {
    /// Every way.
    pub const ALL: &[Way] = &[Way::Cold, Way::Kit, Way::From];

    /// What the way says of the zygote (RUNZ_ZYGOTE). Configs of which nothing can be made ahead go
    /// the cold way by themselves.
    fn zygote(self) -> &'static str {
        match self {
            Way::Cold => "auto",
            Way::Kit | Way::From => "require",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Way::Cold => "cold",
            Way::Kit => "kit",
            Way::From => "from",
        })
    }
}

/// What a warm container can't be asked for: such a `run` is made as ever (runz-zygote(8)).
const NOT_WARM: [&str; 3] = ["--no-pivot", "--no-new-keyring", "--preserve-fds"];

thread_local! {
    /// How many warm containers the bundles of this thread have taken.
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// How many warm containers were taken since it was last asked, by bundles that are gone.
pub fn taken() -> u64 {
    TAKEN.take()
}

/// The busybox applets of a rootfs.
const APPLETS: &[&str] = &[
    "awk", "cat", "chmod", "chown", "chroot", "cp", "cut", "dd", "df", "echo", "env", "expr",
    "false", "find", "grep", "head", "hostname", "id", "ip", "kill", "ln", "ls", "mkdir", "mkfifo",
    "mknod", "mount", "mv", "nc", "nice", "printf", "ps", "pwd", "readlink", "rm", "rmdir", "sed",
    "seq", "sh", "sleep", "sort", "stat", "stty", "sync", "tail", "tee", "test", "touch", "tr",
    "true", "tty", "umount", "uname", "unshare", "wc", "xargs",
];

/// A bundle with its own state root. Dropped, it takes with it whatever its containers left, and
/// the test fails if they left more than they should.
pub struct Bundle {
    /// The bundle directory; has `rootfs` and config.json.
    pub dir: PathBuf,
    /// The state root, `--root`.
    pub root: PathBuf,
    /// An id that no other bundle has.
    pub id: String,
    /// The daemon of its state root.
    pub daemon: Option<Daemon>,
    /// How its containers are made.
    pub way: Way,
    /// What its calls are told of the zygote (RUNZ_ZYGOTE).
    zygote: &'static str,
    /// The cgroup of its container, if that had one of another name than its id.
    warm_cgroup: Mutex<Option<PathBuf>>,
    spec: Value,
}

/// What `runz spec` writes.
fn template() -> Value {
    static SPEC: OnceLock<Value> = OnceLock::new();
    let make = || {
        let dir = host::scratch().join("spec");
        fs::create_dir(&dir).expect("make a directory");
        Call::new(["spec", "--bundle"]).arg(&dir).run().ok();
        let text = fs::read(dir.join("config.json")).expect("read the template");
        serde_json::from_slice(&text).expect("parse the template")
    };
    SPEC.get_or_init(make).clone()
}

impl Bundle {
    /// A bundle of `runz spec`, but without terminal, and with a busybox to run: its program is
    /// `true`, its root writable.
    pub fn new(way: Way) -> Bundle {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("t{}-{number}", std::process::id());
        let dir = host::scratch().join(format!("b{number}"));
        let bin = dir.join("rootfs/bin");
        fs::create_dir_all(&bin).expect("make a rootfs");
        let busybox = host::busybox().expect("copy /bin/busybox of package busybox-static");
        fs::hard_link(busybox, bin.join("busybox")).expect("link busybox");
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).expect("link an applet");
        }
        let root = dir.join("state");
        let daemon = match way {
            Way::Cold => None,
            Way::Kit | Way::From => Some(Daemon::start(&root)),
        };
        let bundle = Bundle {
            dir,
            root,
            id,
            daemon,
            way,
            zygote: way.zygote(),
            warm_cgroup: Mutex::default(),
            spec: template(),
        };
        bundle.config(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["process"]["args"] = json!(["true"]);
            spec["root"]["readonly"] = json!(false);
        })
    }

    /// Changes config.json.
    pub fn config(mut self, change: impl FnOnce(&mut Value)) -> Bundle {
        self.change(change);
        self
    }

    /// Changes config.json later.
    pub fn change(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.spec);
        let text = serde_json::to_vec_pretty(&self.spec).expect("write JSON");
        fs::write(self.dir.join("config.json"), text).expect("write config.json");
    }

    /// The program and its arguments.
    pub fn args<S: AsRef<str>>(self, args: impl IntoIterator<Item = S>) -> Bundle {
        let args: Vec<_> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        self.config(|spec| spec["process"]["args"] = json!(args))
    }

    /// The program is a shell script.
    pub fn script(self, script: &str) -> Bundle {
        self.args(["sh", "-c", script])
    }

    /// The program sleeps, and ends on SIGTERM.
    pub fn sleeper(self) -> Bundle {
        self.script("trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done")
    }

    /// It's no error when the daemon can't be used.
    pub fn auto(mut self) -> Bundle {
        self.zygote = "auto";
        self
    }

    /// There is no daemon, and no state root yet.
    pub fn without_daemon(mut self) -> Bundle {
        drop(self.daemon.take());
        let _ = fs::remove_dir_all(&self.root);
        self.auto()
    }

    /// A path of the rootfs.
    pub fn rootfs(&self, path: &str) -> PathBuf {
        self.dir.join("rootfs").join(path.trim_start_matches('/'))
    }

    /// The cgroup of the container, unless its config says otherwise.
    pub fn cgroup(&self) -> PathBuf {
        let own = host::default_cgroup(&self.id);
        if self.way != Way::From {
            return own;
        }
        // A warm one's stays where it was made.
        let mut warm = self.warm_cgroup.lock().expect("the lock");
        let record = fs::read(self.root.join(&self.id).join("state.json")).unwrap_or_default();
        if let Ok(record) = serde_json::from_slice::<Value>(&record) {
            *warm = record["cgroup_paths"][""].as_str().map(PathBuf::from);
        }
        warm.clone().unwrap_or(own)
    }

    /// `runz --root ROOT VERB`, to be completed.
    pub fn call(&self, verb: &str) -> Call {
        self.globals::<&str>([]).arg(verb)
    }

    /// `runz --root ROOT GLOBALS…`, to be completed by a verb.
    pub fn globals<S: AsRef<str>>(&self, globals: impl IntoIterator<Item = S>) -> Call {
        let call = Call::new(["--root"]).arg(&self.root);
        call.env("RUNZ_ZYGOTE", self.zygote).args(globals)
    }

    /// `runz VERB --bundle DIR ID` with `options` before the id: for `create` and `run`.
    #[track_caller]
    pub fn make(&self, verb: &str, options: &[&str]) -> Call {
        let cold = |o: &&str| NOT_WARM.iter().any(|not| o.starts_with(not));
        if self.way == Way::From && verb == "run" && !options.iter().any(cold) {
            return self.from(options);
        }
        self.make_of_bundle(verb, options)
    }

    /// The same, and not [`Way::From`] even then.
    pub fn make_of_bundle(&self, verb: &str, options: &[&str]) -> Call {
        let call = self.call(verb).arg("--bundle").arg(&self.dir);
        call.args(options).arg(&self.id)
    }

    /// `zygote provision`, of a pool that has the name of the id.
    #[track_caller]
    pub fn provision(&self, count: u32) {
        let call = self.call("zygote").args(["provision", "--name", &self.id]);
        let call = call.arg("--bundle").arg(&self.dir);
        call.args(["--count", &count.to_string()]).run().ok();
    }

    /// `run --from`, which must get the one container that the daemon has made of what the bundle is by
    /// now. The arguments are the config's, but the caller's to say.
    #[track_caller]
    fn from(&self, options: &[&str]) -> Call {
        self.provision(0);
        self.provision(1);
        let call = self
            .call("run")
            .args(["--zygote=require", "--from", &self.id]);
        let args = self.spec["process"]["args"]
            .as_array()
            .into_iter()
            .flatten();
        let call = call.args(options).args([&self.id, "--"]);
        call.args(args.filter_map(Value::as_str))
    }

    /// `create`.
    pub fn create(&self) -> Output {
        self.make("create", &[]).run()
    }

    /// `run`, in the foreground.
    pub fn run(&self) -> Output {
        self.make("run", &[]).run()
    }

    /// `run --detach`.
    pub fn run_detached(&self) -> Output {
        self.make("run", &["--detach"]).run()
    }

    /// `start`.
    pub fn start(&self) -> Output {
        self.verb("start")
    }

    /// `exec ID ARGS…`.
    pub fn exec<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.call("exec").arg(&self.id).args(args).run()
    }

    /// `exec ID sh -c SCRIPT`; what it prints.
    #[track_caller]
    pub fn inside(&self, script: &str) -> String {
        self.exec(["sh", "-c", script]).ok()
    }

    /// `kill ID SIGNAL`.
    pub fn kill(&self, signal: &str) -> Output {
        self.call("kill").arg(&self.id).arg(signal).run()
    }

    /// `delete`.
    pub fn delete(&self) -> Output {
        self.verb("delete")
    }

    /// `VERB ID`.
    pub fn verb(&self, verb: &str) -> Output {
        self.call(verb).arg(&self.id).run()
    }

    /// What `state` prints.
    #[track_caller]
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.verb("state").ok()).expect("state prints JSON")
    }

    /// The container's status.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The pid of the container's init.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().unwrap_or_default() as i32
    }

    /// Waits until the container has a status.
    #[track_caller]
    pub fn wait_status(&self, status: &str) {
        wait_for(&format!("status {status}"), || {
            (self.status() == status).then_some(())
        });
    }

    /// Waits for a file of the rootfs that a container writes at once; its content.
    pub fn wait_file(&self, path: &str) -> String {
        let path = self.rootfs(path);
        wait_for(&format!("{path:?}"), || {
            let text = fs::read_to_string(&path).ok();
            text.filter(|t| t.ends_with('\n'))
        })
    }

    /// Deletes what is left, by force; what could not be given back.
    fn clear(&self) -> Vec<String> {
        let mut left = Vec::new();
        let ids = || names(&self.root).into_iter().filter(|n| n != "@zygote");
        for id in ids() {
            let deleted = self.call("delete").args(["--force", &id]).run();
            if deleted.code != 0 {
                left.push(format!("delete --force: {}", deleted.stderr));
            }
        }
        for id in ids() {
            left.push(format!("{} in the state root", id));
        }
        let cgroup = self.cgroup();
        if cgroup.exists() {
            left.push(format!("cgroup {cgroup:?}"));
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
            wait_for("an empty cgroup", || {
                let _ = fs::remove_dir(&cgroup);
                (!cgroup.exists()).then_some(())
            });
        }
        if self.way == Way::From {
            left.extend(self.clear_warm());
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let dir = self.dir.to_string_lossy();
        let mut points: Vec<_> = mounts.lines().filter_map(|l| l.split(' ').nth(1)).collect();
        points.retain(|point| point.starts_with(&*dir));
        for point in points.iter().rev() {
            left.push(format!("mount {point}"));
            let _ = Command::new("umount").args(["--lazy", point]).status();
        }
        left
    }
}

impl Bundle {
    /// Counts the warm containers that were taken, and lets the others go; what stays behind.
    fn clear_warm(&self) -> Vec<String> {
        let Some(daemon) = &self.daemon else {
            return Vec::new();
        };
        let status = self.call("zygote").args(["status", "--format=json"]).run();
        let status: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
        let pools = status["warm"].as_array().into_iter().flatten();
        let taken: u64 = pools.filter_map(|pool| pool["hits"].as_u64()).sum();
        TAKEN.set(TAKEN.get() + taken);
        daemon.signal(Signal::SIGKILL);
        let prefix = format!("{}-", self.id);
        let cgroups = self.cgroup().with_file_name("");
        let begin = Instant::now();
        loop {
            let mut left = names(&self.root.join("@zygote/warm"));
            let cgroups = names(&cgroups).into_iter();
            left.extend(cgroups.filter(|name| name.starts_with(&prefix)));
            if left.is_empty() || begin.elapsed() > PATIENCE {
                return left;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let all = fs::read_dir(dir).into_iter().flatten().flatten();
    all.map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let left = self.clear();
        drop(self.daemon.take());
        let _ = fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left behind: {}", left.join("; "));
        }
    }
}
