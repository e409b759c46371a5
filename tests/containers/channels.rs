//! Side channels: logs, descriptors, sockets, the terminal.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way, socket, wait_for};
use crate::tests;

pub const TESTS: Tests = tests![
    json_log_is_one_object,
    json_log_of_success_is_empty,
    text_log,
    warnings_go_to_the_log,
    from(preserved_fds),
    missing_preserved_fd,
    from(leaked_fds_are_closed),
    listen_fds,
    from(listen_fds_of_another_process),
    from(environment_stays_outside),
    notify_socket,
    notify_socket_with_run,
    console_socket,
    console_socket_at_a_long_path,
    from(console_socket_of_exec),
    terminal_rules,
    pidfd_socket,
    from(pidfd_socket_of_exec),
    from(foreground_terminal),
    from(foreground_exec_terminal),
    stdio_is_inherited,
    from(stdio_belongs_to_the_user),
    from(stdin_is_read),
    from(signals_are_forwarded),
    from(killed_by_a_signal),
    from(exec_exit_codes),
    from(exec_pid_file),
    from(orphans_are_reaped),
];

fn log(b: &Bundle, format: &str, words: &[&str]) -> (String, String) {
    let file = b.dir.join("log");
    let path = file.to_string_lossy().into_owned();
    let call = b
        .globals(["--log", &path, "--log-format", format])
        .args(words);
    let out = call.arg("-b").arg(&b.dir).arg(&b.id).run();
    let text = fs::read_to_string(&file).unwrap_or_default();
    (text, out.stderr)
}

fn json_log_is_one_object(way: Way) {
    let b = Bundle::new(way).args(["nothing"]).config(|spec| {
        // Something to warn of, which must not make a second object.
        spec["process"]["capabilities"]["bounding"] = json!(["CAP_ZOO"]);
    });
    for verb in ["create", "run"] {
        let _ = fs::remove_file(b.dir.join("log"));
        let (text, stderr) = log(&b, "json", &[verb]);
        let object: Value = serde_json::from_str(&text).expect("one JSON object");
        assert_eq!(object["level"], "error");
        let said = object["msg"].as_str().expect("msg");
        assert!(
            said.contains("executable file not found in $PATH"),
            "{said}"
        );
        assert_eq!(stderr, format!("runz: {said}\n"));
        let time = object["time"].as_str().expect("time");
        let shape: String = time
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        let wanted = ["0000-00-00T00:00:00Z", "0000-00-00T00:00:00+00:00"];
        assert!(wanted.contains(&&*shape), "{time}");
    }
}

fn json_log_of_success_is_empty(way: Way) {
    let b = Bundle::new(way);
    assert_eq!(log(&b, "json", &["run"]), (String::new(), String::new()));
}

fn text_log(way: Way) {
    let b = Bundle::new(way).args(["nothing"]);
    let (text, stderr) = log(&b, "text", &["create"]);
    assert!(text.starts_with("time=\""), "{text}");
    assert!(
        text.contains(" level=error msg=\"create \\\"") && text.contains(": runc create failed: "),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(stderr.starts_with("runz: create "), "{stderr}");
    let said = b.globals(["--log-format", "xml", "list"]).run().fails();
    assert!(said.contains("invalid log-format: xml"), "{said}");
}

fn warnings_go_to_the_log(way: Way) {
    let b = Bundle::new(way).config(|spec| {
        spec["process"]["capabilities"]["bounding"] = json!(["CAP_ZOO", "CAP_KILL"]);
    });
    let (text, stderr) = log(&b, "text", &["run"]);
    assert!(
        text.contains("level=warning") && text.contains("CAP_ZOO"),
        "{text}"
    );
    assert_eq!(stderr, "");
    let out = b.run().exits(0);
    assert!(out.stderr.contains("CAP_ZOO"), "{}", out.stderr);
    assert_eq!(out.stdout, "");
}

const LIST_FDS: &str = "for n in 0 1 2 3 4 5 6 7 8 9; do
    if [ -e /proc/self/fd/$n ]; then echo \"$n $(readlink /proc/$$/fd/$n)\"; fi; done";

fn preserved_fds(way: Way) {
    let b = Bundle::new(way).args(["ls", "/proc/self/fd"]);
    // ls itself opens one, the lowest that is free.
    let open = "exec 3</dev/zero 4</dev/null 5</dev/full 6</dev/zero; exec \"$@\"";
    let out = b
        .make("run", &["--preserve-fds", "2"])
        .shell(open)
        .run()
        .ok();
    assert_eq!(
        out.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3", "4", "5"]
    );
    let b = b.script("cat <&4; readlink /proc/$$/fd/3");
    fs::write(b.dir.join("four"), "four\n").expect("write");
    let open = format!("exec 3</dev/zero 4<{}/four; exec \"$@\"", b.dir.display());
    let out = b.make("run", &["--preserve-fds=2"]).shell(&open).run().ok();
    assert_eq!(out, "four\n/dev/zero\n");
    let b = b.sleeper();
    b.run_detached().ok();
    let call = b
        .call("exec")
        .args(["--preserve-fds", "2", &b.id, "cat", "/proc/self/fd/4"]);
    assert_eq!(call.shell(&open).run().ok(), "four\n");
}

fn missing_preserved_fd(way: Way) {
    let b = Bundle::new(way);
    let open = "exec 3</dev/zero 4<&-; exec \"$@\"";
    let said = b
        .make("create", &["--preserve-fds", "2"])
        .shell(open)
        .run()
        .fails();
    assert!(
        said.contains("unable to stat preserved-fd 1 (of 2)"),
        "{said}"
    );
}

fn leaked_fds_are_closed(way: Way) {
    let b = Bundle::new(way).args(["ls", "/proc/self/fd"]);
    let open = "exec 3</ 5</dev/zero 9</dev/zero; exec \"$@\"";
    let wanted = ["0", "1", "2", "3"];
    let out = b.make("run", &[]).shell(open).run().ok();
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), wanted);
    let b = b.sleeper();
    b.run_detached().ok();
    let call = b.call("exec").args([&b.id, "ls", "/proc/self/fd"]);
    let out = call.shell(open).run().ok();
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), wanted);
    assert_eq!(b.inside(LIST_FDS).lines().count(), 3);
}

fn listen_fds(way: Way) {
    let b = Bundle::new(way).script("echo $LISTEN_FDS $LISTEN_PID \"$LISTEN_FDNAMES\"; cat <&3");
    fs::write(b.dir.join("three"), "three\n").expect("write");
    let open = format!(
        "exec 3<{}/three; export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=x; exec \"$@\"",
        b.dir.display()
    );
    let out = b.make("run", &[]).shell(&open).run().ok();
    assert_eq!(out, "1 1 \nthree\n");
    // Those to preserve come after them.
    let b = b.script("cat <&3; cat <&4");
    let open = open.replace("exec \"$@\"", "exec 4<$0.four; exec \"$@\"");
    let open = open.replace("$0.four", &format!("{}/config.json", b.dir.display()));
    let out = b
        .make("run", &["--preserve-fds", "1"])
        .shell(&open)
        .run()
        .ok();
    assert!(out.starts_with("three\n{"), "{out}");
}

fn listen_fds_of_another_process(way: Way) {
    let b = Bundle::new(way).script("echo \"$LISTEN_FDS,$LISTEN_PID\"; ls /proc/self/fd | wc -l");
    let open = "exec 3</dev/zero; export LISTEN_FDS=1 LISTEN_PID=1; exec \"$@\"";
    let out = b.make("run", &[]).shell(open).run().ok();
    assert_eq!(out, ",\n4\n");
}

fn environment_stays_outside(way: Way) {
    let b = Bundle::new(way).args(["env"]).config(|spec| {
        spec["process"]["env"] = json!(["PATH=/bin", "A=1", "B=2", "A=3"]);
    });
    let out = b
        .make("run", &[])
        .env("SECRET", "x")
        .env("HOME", "/elsewhere")
        .run()
        .ok();
    let mut lines: Vec<_> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=3", "B=2", "HOME=/", "PATH=/bin"]);
}

/// A service manager's end of NOTIFY_SOCKET.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(b: &Bundle) -> Manager {
        let path = b.dir.join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind");
        socket
            .set_read_timeout(Some(crate::harness::PATIENCE))
            .expect("set a timeout");
        Manager { socket, path }
    }

    /// The next message; a descriptor with it is closed, which lets a barrier pass.
    fn next(&self) -> String {
        let (data, _fds) = socket::receive(self.socket.as_fd());
        String::from_utf8_lossy(&data).into_owned()
    }
}

fn notify_socket(way: Way) {
    let b = Bundle::new(way)
        .script("echo $NOTIFY_SOCKET > /name; stat -c '%F %a' $NOTIFY_SOCKET > /kind; sleep 100");
    let manager = Manager::new(&b);
    b.make("create", &[])
        .env("NOTIFY_SOCKET", &manager.path)
        .run()
        .ok();
    let mut start = b.call("start").arg(&b.id).spawn();
    assert_eq!(b.wait_file("name"), "/run/notify/notify.sock\n");
    assert_eq!(b.wait_file("kind"), "socket 777\n");
    assert!(!start.ended(), "start didn't wait for READY");
    // The container's end, seen from here.
    let inside = b.root.join(&b.id).join("notify/notify.sock");
    let program = UnixDatagram::unbound().expect("socket");
    program.send_to(b"STATUS=x", &inside).expect("send");
    program
        .send_to(b"STATUS=y\nREADY=1\n", &inside)
        .expect("send");
    assert_eq!(manager.next().trim_end(), "READY=1");
    assert_eq!(manager.next(), format!("MAINPID={}", b.pid()));
    assert_eq!(manager.next(), "BARRIER=1");
    start.wait().ok();
}

fn notify_socket_with_run(way: Way) {
    let b = Bundle::new(way).sleeper();
    let manager = Manager::new(&b);
    let run = b
        .make("run", &["-d"])
        .env("NOTIFY_SOCKET", &manager.path)
        .spawn();
    let inside = b.root.join(&b.id).join("notify/notify.sock");
    let program = UnixDatagram::unbound().expect("socket");
    wait_for("the container's notify socket", || {
        program.send_to(b"READY=1", &inside).ok()
    });
    assert_eq!(manager.next().trim_end(), "READY=1");
    assert!(manager.next().starts_with("MAINPID="));
    assert_eq!(manager.next(), "BARRIER=1");
    run.wait().ok();
}

fn with_terminal(b: Bundle) -> Bundle {
    b.config(|spec| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    })
}

/// Accepts one connection and takes what is sent.
pub fn take(listener: &UnixListener) -> (Vec<u8>, OwnedFd) {
    listener.set_nonblocking(true).expect("set O_NONBLOCK");
    let stream = wait_for("a connection", || listener.accept().ok()).0;
    stream.set_nonblocking(false).expect("clear O_NONBLOCK");
    let (data, mut fds) = socket::receive(stream.as_fd());
    assert_eq!(fds.len(), 1, "descriptors sent");
    (data, fds.remove(0))
}

/// Reads a terminal's master until `end`.
pub fn read_until(master: &mut File, end: &str) -> String {
    let mut all = String::new();
    while !all.contains(end) {
        let mut data = [0; 512];
        let n = master.read(&mut data).unwrap_or(0);
        assert!(n > 0, "the terminal ended after {all:?}");
        all.push_str(&String::from_utf8_lossy(&data[..n]));
    }
    all
}

const TERMINAL_FACTS: &str =
    "tty; stty size; ls -l /dev/console >/dev/null && stat -c %F /dev/console
    readlink /proc/self/fd/2; echo typed $(head -n 1); echo end-of-facts; while :; do sleep 0.05; done";

fn check_console(b: &Bundle, listener: &UnixListener) {
    let (data, fd) = take(listener);
    assert!(!data.is_empty());
    let mut master = File::from(fd);
    b.start().ok();
    master.write_all(b"hello\n").expect("type");
    let all = read_until(&mut master, "end-of-facts");
    for wanted in [
        "/dev/pts/0\r\n",
        "33 77\r\n",
        "character special file\r\n",
        "typed hello\r\n",
    ] {
        assert!(all.contains(wanted), "{wanted:?} is not in {all:?}");
    }
    // It's its controlling terminal: ^C arrives.
    master.write_all(b"\x03").expect("type");
    b.wait_status("stopped");
}

fn console_socket(way: Way) {
    let b = with_terminal(Bundle::new(way)).script(&format!("trap 'exit 0' INT\n{TERMINAL_FACTS}"));
    let path = b.dir.join("console");
    let listener = UnixListener::bind(&path).expect("bind");
    b.make("create", &["--console-socket", &path.to_string_lossy()])
        .run()
        .ok();
    check_console(&b, &listener);
}

fn console_socket_at_a_long_path(way: Way) {
    let b = with_terminal(Bundle::new(way)).script(&format!("trap 'exit 0' INT\n{TERMINAL_FACTS}"));
    // Longer than sun_path (unix(7)): reached by us with a relative path.
    let deep = b.dir.join("d".repeat(90));
    fs::create_dir(&deep).expect("make a directory");
    let path = deep.join("c".repeat(150 - deep.as_os_str().len() - 1));
    assert_eq!(path.as_os_str().len(), 150);
    let short = b.dir.join("short");
    let listener = UnixListener::bind(&short).expect("bind");
    fs::rename(&short, &path).expect("rename");
    b.make("create", &["--console-socket", &path.to_string_lossy()])
        .run()
        .ok();
    check_console(&b, &listener);
}

fn console_socket_of_exec(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let path = b.dir.join("console");
    let listener = UnixListener::bind(&path).expect("bind");
    let call = b
        .call("exec")
        .args(["-d", "-t", "--console-socket", &path.to_string_lossy()]);
    call.args([&b.id, "sh", "-c", "tty; echo end-of-facts"])
        .run()
        .ok();
    let (_, fd) = take(&listener);
    let all = read_until(&mut File::from(fd), "end-of-facts");
    assert!(all.contains("/dev/pts/0\r\n"), "{all:?}");
}

fn terminal_rules(way: Way) {
    let b = with_terminal(Bundle::new(way));
    let said = b.create().fails();
    let wanted = "cannot allocate tty if runc will detach without setting console socket";
    assert!(said.ends_with(wanted), "{said}");
    let b = b.config(|spec| spec["process"]["terminal"] = json!(false));
    let said = b.make("create", &["--console-socket", "/x"]).run().fails();
    let wanted = "cannot use console socket if runc will not detach or allocate tty";
    assert!(said.ends_with(wanted), "{said}");
}

fn check_pidfd(fd: &OwnedFd, pid: i32) {
    use std::os::fd::AsRawFd;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).expect("read");
    let line = info.lines().find_map(|l| l.strip_prefix("Pid:"));
    assert_eq!(line.map(str::trim), Some(&*pid.to_string()), "{info}");
}

fn pidfd_socket(way: Way) {
    let b = Bundle::new(way).sleeper();
    let path = b.dir.join("pidfd");
    let listener = UnixListener::bind(&path).expect("bind");
    b.make("create", &["--pidfd-socket", &path.to_string_lossy()])
        .run()
        .ok();
    let (data, fd) = take(&listener);
    assert_eq!(data, b"standard");
    check_pidfd(&fd, b.pid());
}

fn pidfd_socket_of_exec(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let (path, pid) = (b.dir.join("pidfd"), b.dir.join("pid"));
    let listener = UnixListener::bind(&path).expect("bind");
    let call = b
        .call("exec")
        .arg("-d")
        .arg("--pidfd-socket")
        .arg(&path)
        .arg("--pid-file")
        .arg(&pid);
    call.args([&b.id, "sleep", "100"]).run().ok();
    let (data, fd) = take(&listener);
    assert_eq!(data, b"setns");
    let pid = fs::read_to_string(pid).expect("read the pid file");
    check_pidfd(&fd, pid.parse().expect("digits only"));
}

/// A terminal of our own, for the runtime to be called on.
pub fn our_terminal() -> (File, [Stdio; 3]) {
    let size = nix::pty::Winsize {
        ws_row: 24,
        ws_col: 99,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = nix::pty::openpty(Some(&size), None).expect("openpty");
    let slave = || Stdio::from(pty.slave.try_clone().expect("dup"));
    (File::from(pty.master), [slave(), slave(), slave()])
}

fn foreground_terminal(way: Way) {
    let b = Bundle::new(way)
        .config(|spec| spec["process"]["terminal"] = json!(true))
        .script("tty; stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.02; done");
    let (mut master, stdio) = our_terminal();
    let before = nix::sys::termios::tcgetattr(&master).expect("tcgetattr");
    let run = b.make("run", &[]).stdio(stdio).spawn();
    let all = read_until(&mut master, "ready");
    assert!(
        all.contains("/dev/pts/0\r\n") && all.contains("24 99\r\n"),
        "{all:?}"
    );
    let raw = nix::sys::termios::tcgetattr(&master).expect("tcgetattr");
    assert!(
        !raw.local_flags
            .contains(nix::sys::termios::LocalFlags::ECHO),
        "not raw"
    );
    let size = std::process::Command::new("stty")
        .args(["rows", "50", "cols", "60"])
        .stdin(Stdio::from(master.try_clone().expect("dup")))
        .status();
    assert!(size.expect("stty").success());
    run.signal(Signal::SIGWINCH);
    let all = read_until(&mut master, "50 60\r\n");
    assert!(!all.is_empty());
    run.wait().exits(5);
    let after = nix::sys::termios::tcgetattr(&master).expect("tcgetattr");
    assert_eq!(after, before, "the terminal isn't restored");
}

fn foreground_exec_terminal(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let (mut master, stdio) = our_terminal();
    let call = b.call("exec").args([
        "--tty",
        &b.id,
        "sh",
        "-c",
        "tty; read x; echo got $x; exit 3",
    ]);
    let run = call.stdio(stdio).spawn();
    read_until(&mut master, "/dev/pts/0\r\n");
    master.write_all(b"word\n").expect("type");
    read_until(&mut master, "got word\r\n");
    run.wait().exits(3);
}

fn stdio_is_inherited(way: Way) {
    let b = Bundle::new(way)
        .script("readlink /proc/self/fd/1; echo again > /dev/stdout; echo e > /dev/stderr");
    let run = b.make("create", &[]).spawn();
    wait_for("create", || {
        b.root.join(&b.id).join("state.json").exists().then_some(())
    });
    b.start().ok();
    run.wait_stdout("again");
    run.wait().exits(0);
}

fn stdio_belongs_to_the_user(way: Way) {
    let b = Bundle::new(way)
        .script("stat -L -c %u /proc/self/fd/0 /proc/self/fd/1; echo hello > /dev/stdout")
        .config(|spec| spec["process"]["user"] = json!({"uid": 1000, "gid": 1000}));
    let out = b
        .make("run", &[])
        .shell("\"$@\" 0<&0 2>&1 | cat")
        .run()
        .ok();
    assert!(out.ends_with("hello\n"), "{out}");
    let lines: Vec<_> = out.lines().collect();
    // The pipe was given to it; /dev/null, at stdin, wasn't.
    assert_eq!(lines[..2], ["0", "1000"], "{out}");
    let null = fs::metadata("/dev/null").expect("stat /dev/null");
    assert_eq!(null.uid(), 0);
}

fn stdin_is_read(way: Way) {
    let b = Bundle::new(way).args(["cat"]);
    let text = "line\n".repeat(40_000);
    assert_eq!(b.make("run", &[]).stdin(&text).run().ok().len(), text.len());
    let b = b.sleeper();
    b.run_detached().ok();
    let out = b.call("exec").args([&b.id, "cat"]).stdin(&text).run().ok();
    assert_eq!(out.len(), text.len());
}

fn signals_are_forwarded(way: Way) {
    let b = Bundle::new(way).script(
        "for s in HUP INT TERM USR1 USR2 QUIT; do trap \"echo $s\" $s; done
         trap 'exit 9' ALRM; echo ready; while :; do sleep 0.02; done",
    );
    let run = b.make("run", &[]).spawn();
    run.wait_stdout("ready");
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGQUIT,
    ] {
        run.signal(signal);
        run.wait_stdout(&signal.as_str()[3..]);
    }
    run.signal(Signal::SIGALRM);
    run.wait().exits(9);
    let b = b.sleeper();
    b.run_detached().ok();
    let script = "trap 'exit 8' USR1; echo ready; while :; do sleep 0.02; done";
    let exec = b.call("exec").args([&b.id, "sh", "-c", script]).spawn();
    exec.wait_stdout("ready");
    exec.signal(Signal::SIGUSR1);
    exec.wait().exits(8);
}

fn killed_by_a_signal(way: Way) {
    let b = Bundle::new(way).sleeper();
    let run = b.make("run", &[]).spawn();
    wait_for("running", || {
        (b.verb("state").stdout.contains("\"running\"")).then_some(())
    });
    b.kill("KILL").ok();
    run.wait().exits(128 + 9);
    assert!(b.verb("state").fails().contains("does not exist"));
}

fn exec_exit_codes(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    b.exec(["sh", "-c", "exit 7"]).exits(7);
    b.exec(["sh", "-c", "kill -9 $$"]).exits(137);
    b.exec(["sh", "-c", "kill -TERM $$"]).exits(143);
    b.exec(["no-such-program"]).fails_with(255);
    b.call("exec")
        .args(["--cwd", "/no/such/directory/..", &b.id, "pwd"])
        .run();
}

fn exec_pid_file(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let file = b.dir.join("exec.pid");
    let exec = |word: &str| {
        let call = b.call("exec").arg("-d").arg("--pid-file").arg(&file);
        call.args([&b.id, word, "100"]).run()
    };
    exec("sleep").ok();
    let pid = fs::read_to_string(&file).expect("read the pid file");
    let name = fs::read_to_string(Path::new("/proc").join(&pid).join("comm")).expect("read comm");
    assert_eq!(name, "sleep\n");
    fs::remove_file(&file).expect("remove");
    exec("no-such-program").fails_with(255);
    assert!(!file.exists(), "a pid file of a failure");
}

fn orphans_are_reaped(way: Way) {
    // Without a pid namespace of its own, the container's orphans come to the runtime in the foreground.
    let b = Bundle::new(way)
        .script(
            "(sleep 0.05 & echo $! > /orphan); sleep 0.3; p=$(cat /orphan)
                 if [ -e /proc/$p ]; then grep State /proc/$p/status; else echo reaped; fi",
        )
        .config(|spec| {
            let all = spec["linux"]["namespaces"]
                .as_array_mut()
                .expect("namespaces");
            all.retain(|n| n["type"] != "pid");
        });
    assert_eq!(b.run().ok(), "reaped\n");
}
