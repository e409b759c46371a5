//! Warm containers whose program runs already.

use std::fs::{self, File};

use serde_json::json;

use super::{Pool, keepers, with_terminal};
use crate::channels::{our_terminal, read_until};
use crate::harness::{Bundle, Way, wait_for};

pub fn ready_goes_on_from_where_it_was(way: Way) {
    let p = Pool::ready(Bundle::new(way), 1, &[]);
    let call = p
        .warm(&["--hostname=given"], "one")
        .stdin("hello\nexit 4\n");
    let out = call.run().exits(4);
    let lines: Vec<_> = out.stdout.lines().collect();
    assert_eq!(lines, ["warming up", "hello given"], "{out:?}");
    assert_eq!(out.stderr, "on stderr\n");
    p.wait_ready(1);
    p.settled(1);
    // The end of stdin reaches it; and all that it writes its caller.
    let call = p
        .warm(&[], "two")
        .stdin(format!("{}\n", "x".repeat(300_000)));
    let out = call.run().exits(0);
    assert!(
        out.stdout.contains(&"x".repeat(300_000)),
        "{}",
        out.stdout.len()
    );
    assert!(out.stdout.ends_with("end\n"));
}

pub fn ready_is_frozen(way: Way) {
    let p = Pool::ready(Bundle::new(way), 1, &["--freeze"]);
    assert_eq!(p.status()["until"], json!("frozen"));
    let cgroup = p.b.cgroup().with_file_name(&p.cgroups()[0]);
    let events = fs::read_to_string(cgroup.join("cgroup.events")).expect("read");
    assert!(events.contains("frozen 1"), "{events}");
    let out = p.warm(&[], "one").stdin("hello\nexit 4\n").run().exits(4);
    assert!(out.stdout.contains("hello "), "{out:?}");
    p.wait_ready(1);
    // Frozen ones can be dropped.
    p.b.call("zygote").args(["drop", &p.b.id]).run().ok();
    p.settled(0);
}

pub fn ready_with_terminal(way: Way) {
    for more in [&[][..], &["--freeze"]] {
        let p = Pool::ready(with_terminal(Bundle::new(way)), 1, more);
        let (mut master, stdio) = our_terminal();
        let run = p.warm(&[], "one").stdio(stdio).spawn();
        let mut all = read_until(&mut master, "on stderr");
        std::io::Write::write_all(&mut master, b"hello\n").expect("type");
        all += &read_until(&mut master, "hello ");
        std::io::Write::write_all(&mut master, b"exit 8\n").expect("type");
        run.wait().exits(8);
        // What it wrote before has no more CRs than what it wrote since.
        assert!(all.contains("warming up\r\n"), "{all:?}");
        assert!(!all.contains("\r\r"), "{all:?}");
    }
}

pub fn ready_detached(way: Way) {
    let p = Pool::ready(Bundle::new(way), 1, &[]);
    let b = &p.b;
    let (read, write) = nix::unistd::pipe().expect("pipe");
    let out = File::create(b.dir.join("out")).expect("create");
    let err = File::create(b.dir.join("err")).expect("create");
    let call = p
        .warm(&["-d"], &b.id)
        .stdio([read.into(), out.into(), err.into()]);
    call.run().ok();
    assert_eq!(b.status(), "running");
    let mut write = File::from(write);
    std::io::Write::write_all(&mut write, b"later\n").expect("write");
    wait_for("an answer", || {
        let out = fs::read_to_string(b.dir.join("out")).expect("read");
        out.contains("later ").then_some(())
    });
    std::io::Write::write_all(&mut write, b"exit 0\n").expect("write");
    b.wait_status("stopped");
    b.delete().ok();
    // Its keeper has nothing left to do.
    p.wait_ready(1);
    p.settled(1);
    keepers(&p, 1);
}

pub fn random_numbers_differ(way: Way) {
    for more in [&[][..], &["--freeze"]] {
        let p = Pool::ready(Bundle::new(way), 4, more);
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..8 {
            p.wait_ready(4);
            let call = p.warm(&[], &format!("c{n}")).stdin("random\nexit 0\n");
            let out = call.run().exits(0).stdout;
            let numbers: Vec<_> = out
                .lines()
                .filter_map(|l| l.strip_prefix("random "))
                .collect();
            // Before it was ready, and after.
            assert_eq!(numbers.len(), 2, "{out}");
            for number in numbers {
                assert_eq!(number.len(), 32, "{out}");
                assert!(seen.insert(number.to_owned()), "twice: {number}");
            }
        }
    }
}

pub fn not_ready_is_told(way: Way) {
    let p = Pool::new(Bundle::new(way).script("echo why >&2; exit 3"));
    let said = p.provision(&["--until=ready"]).fails();
    assert!(
        said.contains("it said \"why\": the program ended (exit status 3) before it said READY=1"),
        "{said}"
    );
    let status = p.status();
    assert_eq!(
        (&status["ready"], &status["failed"]),
        (&json!(0), &json!(1))
    );
    assert!(
        status["error"].to_string().contains("exit status 3"),
        "{status}"
    );
    // Who waited was told: the log need not be.
    let log = p.daemon.as_ref().expect("a daemon").stderr();
    assert!(!log.contains("exit status 3"), "{log}");
    // Whoever asks goes the cold way.
    let out = p.from(&[], "one").args(["--", "echo", "cold"]).run().ok();
    assert_eq!(out, "cold\n");
    let said = p.warm(&[], "one").run().fails();
    assert!(said.contains("none could be made: "), "{said}");
}
