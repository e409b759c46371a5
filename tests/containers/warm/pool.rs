//! Pools: their size, what they are made of, and who goes the cold way.

use std::fs::{self};
use std::process::Command;

use serde_json::{Value, json};

use super::{Pool, keepers};
use crate::harness::{Bundle, Daemon, Way, wait_for};

pub fn pool_refills_and_resizes(way: Way) {
    let p = Pool::created(Bundle::new(way), 3);
    assert_eq!(p.parked().len(), 3);
    for n in 0..3 {
        p.warm(&[], &format!("c{n}")).run().ok();
    }
    p.wait_ready(3);
    let status = p.status();
    assert_eq!(status["hits"], json!(3));
    assert_eq!(status["made"], json!(6));
    let table = p.b.call("zygote").arg("status").run().ok();
    let row = table.lines().find(|line| line.contains(&p.b.id));
    let row: Vec<_> = row.expect(&table).split_whitespace().collect();
    let found = row.windows(2).any(|w| w == [p.b.id.as_str(), "created"]);
    assert!(found, "{table}");
    p.provision(&["--count=1"]).ok();
    p.settled(1);
    p.provision(&["--count=4"]).ok();
    p.wait_ready(4);
    p.settled(4);
    keepers(&p, 4);
    p.b.call("zygote").args(["drop", &p.b.id]).run().ok();
    p.settled(0);
    keepers(&p, 0);
    assert_eq!(p.status(), Value::Null);
    let said = p.b.call("zygote").args(["drop", &p.b.id]).run().fails();
    assert!(said.contains("no pool"), "{said}");
    let said = p.from(&[], "one").run().fails();
    assert!(said.contains("no such pool"), "{said}");
}

pub fn pool_stays_when_provision_fails(way: Way) {
    let p = Pool::created(Bundle::new(way).args(["echo", "hi"]), 1);
    let call = p.b.call("zygote").args(["provision", "--name", &p.b.id]);
    let said = call.args(["--bundle", "/nowhere"]).run().fails();
    assert!(said.contains("/nowhere/config.json"), "{said}");
    assert_eq!(p.status()["ready"], json!(1));
    assert_eq!(p.warm(&[], "one").run().ok(), "hi\n");
}

/// As many as the memory has room for, and a word about the rest.
pub fn memory_is_capped(way: Way) {
    let mut p = Pool::created(Bundle::new(way), 0);
    let config = p.b.dir.join("zygote.toml");
    let cap = |mib: u32| fs::write(&config, format!("memory = {mib}\n")).expect("write");
    cap(8);
    p.kill();
    let flags = ["--config", &config.to_string_lossy()];
    p.daemon = Some(Daemon::with(&p.b.root, &flags, |_| {}));
    let said = p.provision(&["--count=20"]).fails();
    assert!(said.contains(" of 20: warm containers take "), "{said}");
    assert!(said.contains("memory is capped at 8 MiB"), "{said}");
    let ready = |status: &Value| status["ready"].as_u64().expect("a number");
    let memory = |status: &Value| status["memory"].as_u64().expect("a number");
    let status = p.status();
    let first = ready(&status);
    assert!((1..20).contains(&first), "{status}");
    assert!((1 << 20..=8 << 20).contains(&memory(&status)), "{status}");
    assert!(
        status["error"].to_string().contains("capped at 8 MiB"),
        "{status}"
    );
    let table = p.b.call("zygote").arg("status").run().ok();
    assert!(table.contains("they may take 8 MiB"), "{table}");
    assert!(table.contains(": warm containers take "), "{table}");
    // Who takes them makes room for others: not for as many, as they don't all have the same size.
    for n in 0..first {
        p.warm(&[], &format!("c{n}")).run().ok();
    }
    wait_for("as many as there is room for", || {
        let status = p.status();
        let full = status["error"].to_string().contains("capped at 8 MiB");
        (full && ready(&status) > 0).then_some(())
    });
    // One that asks for no more than there are gets them.
    p.provision(&["--count=1"]).ok();
    assert!(p.provision(&["--count=20"]).fails().contains("capped"));
    cap(4);
    p.b.call("zygote").arg("reload").run().ok();
    let status = p.status();
    assert!(
        ready(&status) < first && memory(&status) <= 4 << 20,
        "{status}"
    );
    assert!(status["dropped"].as_u64() > Some(0), "{status}");
    cap(400);
    p.b.call("zygote").arg("reload").run().ok();
    p.wait_ready(20);
    assert_eq!(p.status()["error"], json!(""));
}

pub fn cold_when_there_is_none(way: Way) {
    let mut p = Pool::created(Bundle::new(way).args(["echo", "hi"]), 0);
    let said = p.warm(&[], "one").run().fails();
    assert!(said.contains("all are taken"), "{said}");
    let script = "echo $A; pwd; hostname";
    let call = || {
        let options = ["--env=A=5", "--cwd=/bin", "--hostname=cold"];
        p.from(&options, "one").args(["--", "sh", "-c", script])
    };
    assert_eq!(call().run().ok(), "5\n/bin\ncold\n");
    assert_eq!(p.status()["misses"], json!(2));
    assert_eq!(
        call().env("RUNZ_ZYGOTE", "off").run().ok(),
        "5\n/bin\ncold\n"
    );
    p.kill();
    let call = p
        .from(&["--env=A=5"], "one")
        .args(["--", "sh", "-c", "echo $A"]);
    assert_eq!(call.run().ok(), "5\n");
    let said = p.warm(&[], "one").run().fails();
    assert!(said.contains("connect to the zygote"), "{said}");
    // Without --from there is nothing to be changed.
    let said = p.b.make("run", &["--cwd=/bin"]).run().fails();
    assert!(said.contains("--cwd: only with --from"), "{said}");
}

pub fn cold_ones_side_by_side(way: Way) {
    let b = Bundle::new(way).sleeper();
    let path = format!("/{}-pool", b.id);
    let b = b.config(|spec| spec["linux"]["cgroupsPath"] = json!(path));
    let p = Pool::created(b, 0);
    for id in ["one", "two"] {
        p.from(&["--detach"], id).run().ok();
    }
    for id in ["one", "two"] {
        p.delete(id);
    }
}

pub fn cold_when_it_does_not_fit(way: Way) {
    let p = Pool::ready(Bundle::new(way), 2, &[]);
    // It runs already.
    let out = p.from(&[], "one").args(["--", "echo", "other"]).run().ok();
    assert_eq!(out, "other\n");
    let said = p.warm(&["--env=A=1"], "one").run().fails();
    assert!(said.contains("its program runs already"), "{said}");
    p.wait_ready(2);
    for (script, why) in [
        ("exec setpriv --no-new-privs \"$@\"", "NoNewPrivs"),
        ("exec setpriv --bounding-set=-sys_time \"$@\"", "CapPrm"),
        (
            "exec setpriv --securebits=+no_setuid_fixup \"$@\"",
            "PR_SET_SECUREBITS",
        ),
        ("exec unshare --mount \"$@\"", "mnt namespace"),
        ("exec unshare --pid \"$@\"", "pid_for_children namespace"),
        ("NOTIFY_SOCKET=/x exec \"$@\"", "NOTIFY_SOCKET"),
        ("exec \"$@\" 3</dev/null", "preserve"),
    ] {
        let options: &[&str] = match why {
            "preserve" => &["--preserve-fds=1"],
            _ => &[],
        };
        let said = p.warm(options, "one").shell(script).run().fails();
        assert!(said.contains(why), "{script}: {said}");
        p.wait_ready(2);
    }
    // The network namespace is the container's own.
    let call = p.warm(&[], "one").shell("exec unshare --net \"$@\"");
    call.stdin("exit 4\n").run().exits(4);
}

pub fn changed_bundle_is_noticed(way: Way) {
    let mut p = Pool::created(Bundle::new(way).args(["echo", "old"]), 2);
    let before = p.parked();
    // Written anew, but the same: nothing happens.
    p.b.change(|_| {});
    assert_eq!(p.warm(&[], "one").run().ok(), "old\n");
    p.wait_ready(2);
    assert_eq!(p.status()["replaced"], json!(0));
    assert_eq!(p.parked().iter().filter(|d| before.contains(d)).count(), 1);
    p.b.change(|spec| spec["process"]["args"] = json!(["echo", "new"]));
    // Whoever asks first goes the cold way.
    assert_eq!(p.from(&[], "two").run().ok(), "new\n");
    p.wait_ready(2);
    assert_eq!(p.status()["replaced"], json!(2));
    assert_eq!(p.warm(&[], "three").run().ok(), "new\n");
    p.wait_ready(2);
    p.settled(2);
    // Another root file system of the same name.
    let rootfs = p.b.rootfs("/");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(&rootfs)
        .arg(p.b.dir.join("copy"))
        .status();
    assert!(copied.expect("cp").success());
    fs::rename(&rootfs, p.b.dir.join("away")).expect("rename");
    fs::rename(p.b.dir.join("copy"), &rootfs).expect("rename");
    assert_eq!(p.from(&[], "four").run().ok(), "new\n");
    p.wait_ready(2);
    assert_eq!(p.status()["replaced"], json!(4));
}

pub fn refused_bundles(way: Way) {
    let mut p = Pool::new(Bundle::new(way));
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
    ] {
        p.b.change(|spec| spec["hooks"] = json!({kind: [{"path": "/bin/true"}]}));
        let said = p.provision(&[]).fails();
        assert!(
            said.contains("hooks: they would be told of another id"),
            "{said}"
        );
    }
    // These are told the right one.
    p.b.change(|spec| {
        let note = |name: &str| {
            let script = format!("cat > {}", p_dir(spec, name));
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
        };
        spec["hooks"] = json!({"poststart": note("poststart"), "poststop": note("poststop")});
    });
    p.provision(&[]).ok();
    p.warm(&[], "one").run().ok();
    for name in ["poststart", "poststop"] {
        let told = fs::read_to_string(format!("/tmp/runz-warm-{name}")).expect("told");
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(told["id"], json!(p.name("one")));
        let _ = fs::remove_file(format!("/tmp/runz-warm-{name}"));
    }
    let freeze = p.provision(&["--freeze"]).fails();
    assert!(
        freeze.contains("--freeze: only with --until=ready"),
        "{freeze}"
    );
    let missing =
        p.b.call("zygote")
            .args(["provision", "--name=x", "--bundle=/nowhere"]);
    let said = missing.run().fails();
    assert!(said.contains("config.json"), "{said}");
}

fn p_dir(_: &Value, name: &str) -> String {
    format!("/tmp/runz-warm-{name}")
}
