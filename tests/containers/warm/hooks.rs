//! Hooks of warm containers, and what they inherit.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::Pool;
use crate::harness::{Bundle, Daemon, Way, host};

/// A pool whose poststart and poststop hooks tell their environment, and where.
fn telling(way: Way) -> (Pool, [PathBuf; 2]) {
    let b = Bundle::new(way);
    let told = ["poststart", "poststop"].map(|kind| b.dir.join(kind));
    let hook = |path: &PathBuf| {
        let script = format!("cat /proc/self/environ > {}", path.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let hooks = json!({"poststart": hook(&told[0]), "poststop": hook(&told[1])});
    let b = b.config(|spec| spec["hooks"] = hooks);
    fs::write(b.rootfs("/bad"), "\x7fELF").expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(b.rootfs("/bad"), mode).expect("chmod");
    (Pool::created(b, 1), told)
}

/// What they have told, in order; then it's forgotten.
fn take(told: &[PathBuf; 2]) -> [Option<Vec<String>>; 2] {
    told.each_ref().map(|path| {
        let text = fs::read_to_string(path).ok()?;
        fs::remove_file(path).expect("remove");
        let mut all: Vec<_> = text.split('\0').map(str::to_owned).collect();
        all.sort_unstable();
        Some(all)
    })
}

pub fn hooks_inherit_from_the_caller(way: Way) {
    let (p, told) = telling(way);
    for (options, program, code) in [
        (&[][..], "true", 0),
        // Where it fails at its last step, and before that.
        (&[], "/bad", 1),
        (&["--pid-file=/nowhere/pid"], "true", 1),
    ] {
        let call = |zygote: &str| {
            let options = [&["--zygote", zygote], options].concat();
            let call = p.from(&options, "one").args(["--", program]);
            call.env("CALLERS", "1").run().exits(code);
            take(&told)
        };
        let cold = call("off");
        let stopped = cold[1].as_ref().expect("poststop ran");
        assert!(stopped.contains(&"CALLERS=1".to_owned()), "{stopped:?}");
        assert_eq!(cold[0].is_some(), code == 0, "poststart");
        p.wait_ready(1);
        assert_eq!(call("require"), cold, "{options:?} {program}");
        p.wait_ready(1);
    }
    // One that nobody had has none.
    p.b.call("zygote").args(["drop", &p.b.id]).run().ok();
    p.settled(0);
    assert_eq!(take(&told), [None, None]);
}

/// It runs from a copy of its binary, which no variable tells: those who are started by it would have it.
pub fn daemon_keeps_its_environment(way: Way) {
    let mut p = Pool::created(Bundle::new(way), 0);
    p.kill();
    let environment = ["A=1", "PATH=/bin"];
    let daemon = Daemon::of(host::runtime(), &p.b.root, &[], |command| {
        command.env_clear();
        command.envs(environment.map(|line| line.split_once('=').expect("a value")));
    });
    let environ = fs::read_to_string(format!("/proc/{}/environ", daemon.pid())).expect("read");
    let environ: Vec<_> = environ.split_terminator('\0').collect();
    assert_eq!(environ, environment);
    // What it's a copy of is known all the same.
    let exe = fs::read_link(format!("/proc/{}/exe", daemon.pid())).expect("readlink");
    let own = host::runtime().canonicalize().expect("a path");
    let wanted = format!("/memfd:{} (deleted)", own.display());
    assert_eq!(exe.to_string_lossy(), wanted);
    p.daemon = Some(daemon);
}
