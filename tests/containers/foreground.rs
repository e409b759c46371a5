//! `run` and `exec` in the foreground, where things get stuck: full terminals, those who hold them
//! open, readers that leave, a manager that waits for READY.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;

use crate::harness::runner::Tests;
use crate::harness::{Bundle, PATIENCE, Way, socket, wait_for};
use crate::tests;

pub const TESTS: Tests = tests![
    from(input_does_not_stop_output),
    from(background_process_holds_the_terminal),
    from(nobody_reads_the_output),
    ready_in_the_foreground,
    start_has_a_socket_of_its_own,
    a_manager_that_is_gone,
];

/// stdin and stdout are pipes, stderr is the terminal. Our ends: what stdin reads, what stdout wrote,
/// the terminal's master.
fn pipes_and_terminal() -> (std::io::PipeWriter, std::io::PipeReader, File, [Stdio; 3]) {
    let (stdin, input) = std::io::pipe().expect("pipe");
    let (output, stdout) = std::io::pipe().expect("pipe");
    let pty = nix::pty::openpty(None, None).expect("openpty");
    let stdio = [stdin.into(), stdout.into(), pty.slave.into()];
    (input, output, pty.master.into(), stdio)
}

fn input_does_not_stop_output(way: Way) {
    const SIZE: usize = 200_000;
    let b = Bundle::new(way)
        .config(|spec| spec["process"]["terminal"] = json!(true))
        .script(&format!("stty raw -echo; echo ready; head -c {SIZE}"));
    let (mut input, mut output, _master, stdio) = pipes_and_terminal();
    let run = b.make("run", &[]).stdio(stdio).spawn();
    let mut ready = [0; 6];
    output.read_exact(&mut ready).expect("read");
    // More than all buffers on the way hold, before anything of it is read.
    let typing = std::thread::spawn(move || input.write_all(&vec![b'x'; SIZE]));
    let mut all = Vec::new();
    let reading = std::thread::spawn(move || output.read_to_end(&mut all).map(|_| all));
    run.wait().exits(0);
    typing.join().unwrap().expect("type");
    assert_eq!(reading.join().unwrap().expect("read").len(), SIZE);
}

fn background_process_holds_the_terminal(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    for background in ["sleep 1000", "yes"] {
        let (_input, mut output, _master, stdio) = pipes_and_terminal();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            output.read_to_end(&mut all).map(|_| all)
        });
        let call = b.call("exec").args(["-t", &b.id, "sh", "-c"]);
        let script = format!("trap '' HUP; {background} & seq 1 1500; exit 3");
        call.arg(&script).stdio(stdio).run().exits(3);
        let all = String::from_utf8(reading.join().unwrap().expect("read")).expect("text");
        assert!(all.contains("\n1500\n"), "{background}: {}", all.len());
    }
}

fn nobody_reads_the_output(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    // The terminal hangs up: SIGHUP. And the SIGPIPE of our own write is no business of the container's.
    let ignoring = "trap '' HUP; trap 'exit 7' PIPE; echo x; sleep 0.3; exit 3";
    for (script, code) in [("exec yes", 129), (ignoring, 3)] {
        let (_input, output, _master, stdio) = pipes_and_terminal();
        drop(output);
        let call = b.call("exec").args(["-t", &b.id, "sh", "-c", script]);
        call.stdio(stdio).run().exits(code);
    }
}

/// A service manager's end of NOTIFY_SOCKET.
struct Manager(UnixDatagram, PathBuf);

impl Manager {
    fn new(b: &Bundle, name: &str) -> Manager {
        let path = b.dir.join(name);
        let socket = UnixDatagram::bind(&path).expect("bind");
        socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        Manager(socket, path)
    }

    fn next(&self) -> String {
        let (data, _fds) = socket::receive(self.0.as_fd());
        String::from_utf8_lossy(&data).trim_end().to_owned()
    }
}

/// Says something to the container's socket, from outside.
fn say(b: &Bundle, text: &str) {
    let inside = b.root.join(&b.id).join("notify/notify.sock");
    let program = UnixDatagram::unbound().expect("socket");
    wait_for("the container's notify socket", || {
        program.send_to(text.as_bytes(), &inside).ok()
    });
}

fn ready_in_the_foreground(way: Way) {
    let b = Bundle::new(way).script("while ! test -e /go; do sleep 0.02; done; exit 6");
    let manager = Manager::new(&b, "manager");
    let run = b.make("run", &[]).env("NOTIFY_SOCKET", &manager.1).spawn();
    say(&b, "STATUS=x\nREADY=1");
    assert_eq!(manager.next(), "READY=1");
    // The main process is the one that stays.
    assert_eq!(manager.next(), format!("MAINPID={}", run.pid()));
    assert_eq!(manager.next(), "BARRIER=1");
    // Later ones are taken, more than the socket holds, but told to nobody.
    for _ in 0..50 {
        say(&b, "READY=1");
    }
    std::fs::write(b.rootfs("go"), "").expect("let it go");
    run.wait().exits(6);
    manager.0.set_nonblocking(true).expect("set O_NONBLOCK");
    assert!(manager.0.recv(&mut [0; 64]).is_err());
}

fn start_has_a_socket_of_its_own(way: Way) {
    let b = Bundle::new(way).sleeper();
    let (one, other) = (Manager::new(&b, "one"), Manager::new(&b, "other"));
    let create = b.make("create", &[]).env("NOTIFY_SOCKET", &one.1);
    create.run().ok();
    // What a killed `start` left is in nobody's way.
    let stale = b.root.join(&b.id).join("notify/notify.sock");
    drop(UnixDatagram::bind(&stale).expect("bind"));
    let start = b.call("start").arg(&b.id).env("NOTIFY_SOCKET", &other.1);
    let start = start.spawn();
    say(&b, "READY=1");
    assert_eq!(other.next(), "READY=1");
    assert_eq!(other.next(), format!("MAINPID={}", b.pid()));
    assert_eq!(other.next(), "BARRIER=1");
    start.wait().ok();
}

fn a_manager_that_is_gone(way: Way) {
    let b = Bundle::new(way).script("while ! test -e /go; do sleep 0.02; done; exit 6");
    let gone = Path::new("/nonexistent/manager");
    let run = b.make("run", &[]).env("NOTIFY_SOCKET", gone).spawn();
    say(&b, "READY=1");
    wait_for("a warning", || {
        run.stderr().contains("/nonexistent/manager").then_some(())
    });
    say(&b, "READY=1");
    std::fs::write(b.rootfs("go"), "").expect("let it go");
    let output = run.wait().exits(6);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    assert!(!b.root.join(&b.id).exists());
}
