//! What the tests need of the machine, and the mount namespace they run in.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Set in the environment of the process that is in the mount namespace.
const INSIDE: &str = "RUNZ_TESTS_INSIDE";

/// `$0` is this program. A hybrid machine's hierarchies make place for the unified one.
const ENTER: &str = r#"
set -e
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -R /sys/fs/cgroup || :
    mount -t cgroup2 none /sys/fs/cgroup
fi
exec "$0" "$@"
"#;

/// Goes on in a mount namespace of our own. Returns only once it's there, or with why it can't be.
///
/// # Errors
/// The tests can't run on this machine; the text says why.
pub fn enter() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    if std::env::var_os(INSIDE).is_none() {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let error = Command::new("unshare")
            .args(["--mount", "sh", "-c", ENTER])
            .arg(program)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        return Err(format!("unshare: {error}"));
    }
    if !Path::new("/sys/fs/cgroup/cgroup.procs").exists() {
        return Err("no cgroup2 at /sys/fs/cgroup".to_owned());
    }
    // Containers that nobody waits for become our children, as they become a shim's.
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| e.to_string())
}

/// The runtime under test.
pub fn runtime() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("RUNZ") {
        Some(path) => path.into(),
        None => env!("CARGO_BIN_EXE_runz").into(),
    })
}

/// The directory of everything that this process makes: short, because the paths of sockets are.
pub fn scratch() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = PathBuf::from(format!("/tmp/runz-tests-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).expect("make the scratch directory");
        path
    })
}

/// Debian's static busybox, copied: a hostile container may write to what it's given.
pub fn busybox() -> io::Result<&'static Path> {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = PATH.get() {
        return Ok(path);
    }
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock();
    let copy = scratch().join("busybox");
    if !copy.exists() {
        std::fs::copy("/bin/busybox", &copy)?;
    }
    Ok(PATH.get_or_init(|| copy))
}

/// Copies this very program. By another process: if we wrote it, what another thread forks meanwhile would
/// have it open for writing, too, and who executes it would find it busy.
pub fn copy_own_program(to: &Path) {
    let own = std::env::current_exe().expect("own path");
    let status = std::process::Command::new("cp").arg(own).arg(to).status();
    assert!(status.expect("run cp").success(), "copy this program");
}

/// The cgroup that a container named `id` gets when its config doesn't say.
pub fn default_cgroup(id: &str) -> PathBuf {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let parent = Path::new(own.unwrap_or("/"))
        .parent()
        .unwrap_or(Path::new("/"));
    let below = parent.strip_prefix("/").unwrap_or(parent);
    Path::new("/sys/fs/cgroup").join(below).join(id)
}

/// Whether the unified hierarchy has `controller`.
pub fn has_controller(controller: &str) -> bool {
    let all = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    all.split_whitespace().any(|c| c == controller)
}

/// Whether the runtime under test is runc: some things rightly differ.
pub fn is_runc() -> bool {
    runtime()
        .file_name()
        .is_some_and(|n| n.to_string_lossy().starts_with("runc"))
}

/// Reaps containers' processes that became our children, as a shim does: a pid namespace ends only
/// when every process in it is reaped. Those that tests have spawned stay theirs.
pub fn reap() {
    // The unified hierarchy's: the others forget where the dead were (proc_cgroup_show).
    let place = |pid: &str| -> Option<String> {
        let all = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        all.lines()
            .find(|l| l.starts_with("0::"))
            .map(str::to_owned)
    };
    let own = place("self");
    let threads = std::fs::read_dir("/proc/self/task");
    for thread in threads.into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for pid in children.split_whitespace() {
            let cgroup = place(pid);
            if let Ok(number) = pid.parse()
                && cgroup.is_some()
                && cgroup != own
            {
                let _ = waitpid(Pid::from_raw(number), Some(WaitPidFlag::WNOHANG));
            }
        }
    }
}
