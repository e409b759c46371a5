//! All that a program can see of its container and of itself, as lines of text; and a caller in whose
//! process everything that is inherited is unusual. Both are played by this program elsewhere (`inside`).
//!
//! What is left out, or counted instead of named, is what differs between any two runs of one
//! container: times, counters, sizes of memory, numbers of inodes, mounts, devices and peer groups.

#![allow(unsafe_code, reason = "system calls that no crate of ours has")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Prints everything.
pub fn dump() {
    let mut all = Dump(String::new());
    all.processes();
    all.credentials();
    all.descriptors();
    all.mounts();
    all.devices();
    all.kernel();
    all.network();
    all.keyrings();
    std::io::stdout()
        .write_all(all.0.as_bytes())
        .expect("write the dump");
}

struct Dump(String);

/// Numbers for names, in the order of their first use.
#[derive(Default)]
struct Numbers(BTreeMap<String, usize>);

impl Numbers {
    fn of(&mut self, name: &str) -> usize {
        let next = self.0.len();
        *self.0.entry(name.to_owned()).or_insert(next)
    }
}

/// A file's text, or why it can't be read.
fn text(path: impl AsRef<Path>) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).replace('\0', "\\0"),
        Err(error) => format!("{error}"),
    }
}

fn link(path: impl AsRef<Path>) -> String {
    match fs::read_link(path) {
        Ok(target) => target.to_string_lossy().into_owned(),
        Err(error) => format!("{error}"),
    }
}

/// `socket:[123]` without the number.
fn no_inode(link: &str) -> &str {
    link.split_once(":[").map_or(link, |(kind, _)| kind)
}

/// What a system call answers, by number.
fn answer(value: libc::c_long) -> String {
    match value {
        -1 => std::io::Error::last_os_error().to_string(),
        value => value.to_string(),
    }
}

impl Dump {
    fn say(&mut self, name: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        for line in value.lines() {
            self.0.push_str(&format!("{name}: {line}\n"));
        }
        if value.is_empty() {
            self.0.push_str(&format!("{name}:\n"));
        }
    }

    fn file(&mut self, path: &str) {
        self.say(path, text(path));
    }

    fn processes(&mut self) {
        let changes = |line: &&str| {
            let name = line.split(':').next().unwrap_or_default();
            name.starts_with("Vm")
                || name.starts_with("Rss")
                || name.ends_with("ctxt_switches")
                || matches!(name, "HugetlbPages" | "SigQ" | "FDSize")
        };
        let status = text("/proc/self/status");
        for line in status.lines().filter(|line| !changes(line)) {
            self.say("status", line);
        }
        for name in [
            "limits",
            "cgroup",
            "environ",
            "cmdline",
            "comm",
            "oom_score_adj",
            "timens_offsets",
            "coredump_filter",
            "personality",
            "timerslack_ns",
            "loginuid",
            "sessionid",
            "cpuset",
            "uid_map",
            "gid_map",
            "projid_map",
            "setgroups",
            "timers",
        ] {
            self.file(&format!("/proc/self/{name}"));
        }
        let group = text("/proc/self/autogroup");
        self.say("autogroup", group.split_once(' ').map_or("", |(_, g)| g));
        for line in text("/proc/self/sched").lines() {
            let name = line.split([' ', ':']).next().unwrap_or_default();
            if matches!(name, "policy" | "prio" | "uclamp.min" | "uclamp.max") {
                self.say("sched", line);
            }
        }
        // After the name: state ppid pgrp session tty_nr tpgid flags … priority nice num_threads …
        // exit_signal processor rt_priority policy.
        let stat = text("/proc/self/stat");
        let stat: Vec<_> = stat
            .rsplit_once(") ")
            .map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
        for (at, name) in [
            (1, "ppid"),
            (2, "pgrp"),
            (3, "session"),
            (4, "tty"),
            (5, "tpgid"),
            (6, "flags"),
            (15, "priority"),
            (16, "nice"),
            (17, "threads"),
            (35, "exit signal"),
            (37, "realtime"),
            (38, "policy"),
        ] {
            self.say(name, stat.get(at).unwrap_or(&""));
        }
        for name in ["exe", "cwd", "root"] {
            self.say(name, link(format!("/proc/self/{name}")));
        }
        for entry in list("/proc/self/attr") {
            if fs::metadata(&entry).is_ok_and(|m| m.is_file()) {
                self.file(&entry);
            }
        }
        let mut maps: Vec<_> = text("/proc/self/maps")
            .lines()
            .filter_map(|line| Some(line.get(73..)?.to_owned()))
            .collect();
        maps.dedup();
        self.say("maps", maps.join(" "));
        // By an ordinary program of the script that starts this one: our own runtime changes some.
        self.say("signals", std::env::var("SIGNALS").unwrap_or_default());
        for entry in list("/proc") {
            if entry.trim_start_matches("/proc/").parse::<u32>().is_ok() {
                self.say("process", text(format!("{entry}/comm")).trim_end());
            }
        }
    }

    fn credentials(&mut self) {
        // SAFETY: no memory of ours is involved but the buffers that are given with their sizes.
        unsafe {
            self.say("umask", format!("{:o}", libc::umask(0)));
            let mut groups = [0; 1024];
            let n = libc::getgroups(1024, groups.as_mut_ptr());
            self.say(
                "groups",
                format!("{:?}", groups.get(..n as usize).unwrap_or(&[])),
            );
            for (name, option) in [
                ("dumpable", libc::PR_GET_DUMPABLE),
                ("keepcaps", libc::PR_GET_KEEPCAPS),
                ("no_new_privs", libc::PR_GET_NO_NEW_PRIVS),
                ("securebits", libc::PR_GET_SECUREBITS),
                ("timerslack", libc::PR_GET_TIMERSLACK),
                ("thp_disable", libc::PR_GET_THP_DISABLE),
                ("mce_kill", libc::PR_MCE_KILL_GET),
                ("io_flusher", 58),
                ("mdwe", libc::PR_GET_MDWE),
                ("memory_merge", 68),
            ] {
                self.say(name, answer(libc::prctl(option, 0, 0, 0, 0).into()));
            }
            let mut word = 0i32;
            libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut word);
            self.say("subreaper", word);
            libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut word);
            self.say("pdeathsig", word);
            self.say("ioprio", answer(libc::syscall(libc::SYS_ioprio_get, 1, 0)));
            let mut mask = [0u64; 16];
            libc::syscall(libc::SYS_sched_getaffinity, 0, 128, mask.as_mut_ptr());
            self.say("affinity", format!("{mask:x?}"));
            let mut mode = 0i32;
            let mut nodes = [0u64; 16];
            let to = nodes.as_mut_ptr();
            let got = libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, to, 1025, 0, 0);
            self.say("mempolicy", format!("{} {mode} {nodes:x?}", answer(got)));
            self.say("secure", libc::getauxval(libc::AT_SECURE));
            let mut names: libc::utsname = std::mem::zeroed();
            libc::uname(&raw mut names);
            let name = |field: &[libc::c_char]| {
                let bytes: Vec<u8> = field.iter().map(|c| *c as u8).collect();
                String::from_utf8_lossy(&bytes)
                    .trim_end_matches('\0')
                    .to_owned()
            };
            self.say("nodename", name(&names.nodename));
            self.say("domainname", name(&names.domainname));
        }
    }

    fn descriptors(&mut self) {
        for entry in list("/proc/self/fd") {
            let target = link(&entry);
            // That of the listing itself.
            if target.ends_with("/fd") {
                continue;
            }
            let kind = fs::metadata(&entry).map(|m| (m.mode(), m.rdev()));
            let number = entry.trim_start_matches("/proc/self/fd/");
            let info = text(format!("/proc/self/fdinfo/{number}"));
            let flags = info.lines().find(|line| line.starts_with("flags"));
            self.say(
                "fd",
                format!("{number} {} {kind:?} {flags:?}", no_inode(&target)),
            );
        }
        for entry in list("/proc/self/ns") {
            self.say("ns", format!("{entry} {}", no_inode(&link(&entry))));
        }
    }

    /// Their order; then sorted by where they are, those at one place in theirs.
    fn mounts(&mut self) {
        let table = text("/proc/self/mountinfo");
        let mut lines: Vec<Vec<&str>> = table.lines().map(|l| l.split(' ').collect()).collect();
        let (mut ids, mut devices, mut groups) = <(Numbers, Numbers, Numbers)>::default();
        for words in &lines {
            self.say("mounted next", words[4]);
        }
        lines.sort_by_key(|words| words[4].to_owned());
        for words in &lines {
            ids.of(words[0]);
        }
        for words in &lines {
            let end = words.iter().position(|w| *w == "-").unwrap_or(words.len());
            let optional = words[6..end].iter().map(|word| match word.split_once(':') {
                Some((kind, group)) => format!("{kind}:{}", groups.of(group)),
                None => (*word).to_owned(),
            });
            let optional: Vec<_> = optional.collect();
            let parent = ids
                .0
                .get(words[1])
                .map_or("outside".to_owned(), usize::to_string);
            self.say(
                "mount",
                format!(
                    "{} of {parent} on device {} {} {} {} {optional:?} {}",
                    ids.of(words[0]),
                    devices.of(words[2]),
                    words[3],
                    words[4],
                    words[5],
                    words[end..].join(" "),
                ),
            );
            let Ok(path) = CString::new(words[4]) else {
                continue;
            };
            // SAFETY: the path and the structure outlive the call.
            let found: (libc::statfs, i32) = unsafe {
                let mut found = std::mem::zeroed();
                let said = libc::statfs(path.as_ptr(), &raw mut found);
                (found, said)
            };
            let (s, said) = found;
            // Others are the host's, where much goes on: the root file system, too, where /tmp is a tmpfs.
            let device = |path: &str| fs::metadata(path).ok().map(|m| m.dev());
            let sizes = match s.f_type {
                libc::TMPFS_MAGIC if device(words[4]) != device("/") => {
                    (s.f_blocks, s.f_bfree, s.f_files, s.f_ffree)
                }
                _ => (0, 0, 0, 0),
            };
            self.say(
                "statfs",
                format!("{} {said} {:x} {sizes:?}", words[4], s.f_type),
            );
            if let Ok(m) = fs::symlink_metadata(words[4]) {
                let links = if m.is_dir() { 0 } else { m.nlink() };
                let about = (m.uid(), m.gid(), links);
                self.say("mounted", format!("{} {:o} {about:?}", words[4], m.mode()));
            }
        }
    }

    /// /dev: as it's listed, and sorted.
    fn devices(&mut self) {
        for directory in ["/dev", "/"] {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
            self.say("listed", names.collect::<Vec<_>>().join(" "));
        }
        self.tree(Path::new("/dev"));
    }

    fn tree(&mut self, path: &Path) {
        let Ok(m) = fs::symlink_metadata(path) else {
            return;
        };
        let to = match m.file_type() {
            kind if kind.is_symlink() => link(path),
            kind if kind.is_char_device() || kind.is_block_device() => format!("{:x}", m.rdev()),
            _ => String::new(),
        };
        let (mode, owner) = (m.mode(), (m.uid(), m.gid(), m.nlink()));
        self.say(&path.to_string_lossy(), format!("{mode:o} {owner:?} {to}"));
        if m.is_dir() {
            for entry in list(&path.to_string_lossy()) {
                self.tree(Path::new(&entry));
            }
        }
    }

    /// Sysctls that are a namespace's, and what is in the ipc namespace.
    fn kernel(&mut self) {
        for name in [
            "auto_msgmni",
            "domainname",
            "hostname",
            "msg_next_id",
            "msgmax",
            "msgmnb",
            "msgmni",
            "sem",
            "sem_next_id",
            "shm_next_id",
            "shm_rmid_forced",
            "shmall",
            "shmmax",
            "shmmni",
        ] {
            self.file(&format!("/proc/sys/kernel/{name}"));
        }
        for directory in ["/proc/sys/fs/mqueue", "/proc/sys/user", "/proc/sys/net"] {
            self.sysctls(directory);
        }
        for name in ["msg", "sem", "shm"] {
            self.file(&format!("/proc/sysvipc/{name}"));
        }
        for directory in [
            "/dev/mqueue",
            "/dev/shm",
            "/sys",
            "/sys/class/net",
            "/sys/fs",
        ] {
            self.say(directory, list(directory).join(" "));
        }
    }

    fn sysctls(&mut self, directory: &str) {
        for entry in list(directory) {
            if fs::metadata(&entry).is_ok_and(|m| m.is_dir()) {
                self.sysctls(&entry);
            // Random, each time it's read; counts of the whole host.
            } else if !entry.ends_with("tcp_fastopen_key") && !entry.ends_with("_count") {
                self.file(&entry);
                let mode = fs::metadata(&entry).map_or(0, |m| m.mode());
                self.say(&entry, format!("{mode:o}"));
            }
        }
    }

    fn network(&mut self) {
        for name in [
            "dev",
            "if_inet6",
            "route",
            "ipv6_route",
            "fib_trie",
            "igmp",
            "igmp6",
            "sockstat",
            "sockstat6",
            "tcp",
            "tcp6",
            "udp",
            "udp6",
            "raw",
            "packet",
            "dev_mcast",
            "arp",
        ] {
            self.file(&format!("/proc/self/net/{name}"));
        }
        // Without addresses and inodes; those of the kernel have pid 0.
        for name in ["netlink", "unix"] {
            for line in text(format!("/proc/self/net/{name}")).lines().skip(1) {
                let words: Vec<_> = line.split_whitespace().collect();
                self.say(name, words[1..3.min(words.len())].join(" "));
            }
        }
        for interface in list("/sys/class/net") {
            for name in [
                "address",
                "flags",
                "mtu",
                "operstate",
                "ifindex",
                "tx_queue_len",
                "type",
            ] {
                self.file(&format!("{interface}/{name}"));
            }
        }
    }

    fn keyrings(&mut self) {
        // keyctl(2): thread, process, session, user, user session.
        for keyring in -5..0 {
            let (names, keys) = (describe(keyring), contents(keyring));
            self.say("keyring", format!("{keyring} {names}"));
            for key in keys {
                self.say("key", format!("{keyring} {}", describe(key)));
            }
        }
    }
}

fn describe(key: i32) -> String {
    let mut buffer = [0u8; 512];
    // SAFETY: the buffer is given with its size.
    let n = unsafe { libc::syscall(libc::SYS_keyctl, 6, key, buffer.as_mut_ptr(), 512) };
    match usize::try_from(n) {
        Ok(n) => String::from_utf8_lossy(&buffer[..n.min(512)]).into_owned(),
        Err(_) => std::io::Error::last_os_error().to_string(),
    }
}

fn contents(keyring: i32) -> Vec<i32> {
    let mut keys = [0i32; 64];
    // SAFETY: the buffer is given with its size.
    let n = unsafe { libc::syscall(libc::SYS_keyctl, 11, keyring, keys.as_mut_ptr(), 256) };
    keys[..usize::try_from(n).map_or(0, |n| n.min(256) / 4)].to_vec()
}

/// The paths in a directory, sorted.
fn list(path: &str) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries
        .map(|e| e.path().to_string_lossy().into_owned())
        .collect();
    paths.sort();
    paths
}

/// Makes everything unusual that a process passes on, and executes what it's told, `argument`: a number
/// (0, 1) and a program, whose arguments are our own.
pub fn odd(argument: &str) {
    let (which, program) = argument.split_once(' ').expect("a number and a program");
    let which: i32 = which.parse().expect("a number");
    let write = |path: &str, text: String| {
        fs::write(path, text).unwrap_or_else(|e| panic!("{path}: {e}"));
    };
    write("/proc/self/oom_score_adj", (100 + 50 * which).to_string());
    write("/proc/self/coredump_filter", format!("{:#x}", 1 + which));
    let signals = [
        [libc::SIGHUP, libc::SIGUSR1, libc::SIGPIPE],
        [libc::SIGINT, libc::SIGUSR2, libc::SIGWINCH],
    ];
    let signals = signals[which as usize];
    let name = CString::new(format!("odd{which}")).expect("no NUL");
    // SAFETY: no memory of ours is involved but what outlives each call.
    unsafe {
        libc::umask(0o77 >> which);
        assert_eq!(libc::unshare(libc::CLONE_NEWUTS), 0, "unshare");
        libc::sethostname(name.as_ptr(), name.count_bytes());
        libc::setdomainname(name.as_ptr(), name.count_bytes());
        libc::setpriority(libc::PRIO_PROCESS, 0, 3 + which);
        libc::syscall(libc::SYS_ioprio_set, 1, 0, 2 << 13 | (5 + which));
        libc::prctl(libc::PR_SET_TIMERSLACK, 60_000 + which);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 - which);
        libc::prctl(libc::PR_SET_THP_DISABLE, 1 - which, 0, 0, 0);
        // MPOL_BIND, MPOL_INTERLEAVE, to the first node.
        let node = [1u64];
        libc::syscall(libc::SYS_set_mempolicy, 2 + which, node.as_ptr(), 65);
        let groups = [500 + which as u32, 600];
        libc::setgroups(1 + which as usize, groups.as_ptr());
        for (resource, least) in [
            (libc::RLIMIT_NOFILE, 400),
            (libc::RLIMIT_CORE, 1000),
            (libc::RLIMIT_STACK, 4 << 20),
            (libc::RLIMIT_MSGQUEUE, 5000),
            (libc::RLIMIT_NICE, 5),
        ] {
            let value = least + which as u64;
            let mut limit = std::mem::zeroed::<libc::rlimit>();
            libc::getrlimit(resource, &raw mut limit);
            limit.rlim_cur = value;
            // The daemon is the first: not everybody may raise what he has lowered.
            if which > 0 {
                limit.rlim_max = value + 10;
            }
            libc::setrlimit(resource, &raw const limit);
        }
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGALRM + which);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_DFL);
        }
        for signal in signals {
            libc::signal(signal, libc::SIG_IGN);
        }
        let mask = [1u64 << (which & 1), 0];
        libc::syscall(libc::SYS_sched_setaffinity, 0, 16, mask.as_ptr());
        // keyctl(2), KEYCTL_JOIN_SESSION_KEYRING.
        libc::syscall(libc::SYS_keyctl, 1, name.as_ptr());
        libc::personality(libc::ADDR_NO_RANDOMIZE as u64 * which as u64);
        libc::setsid();
        libc::dup2(2, 60 + which);
    }
    let words = std::iter::once(program.into()).chain(std::env::args_os().skip(1));
    let words: Vec<CString> = words
        .map(|w| CString::new(w.as_bytes()).expect("no NUL"))
        .collect();
    let vars = std::env::vars_os().filter(|(name, _)| name != super::inside::ROLE);
    let vars: Vec<CString> = vars
        .map(|(name, value)| {
            let both = [name.as_bytes(), b"=", value.as_bytes()].concat();
            CString::new(both).expect("no NUL")
        })
        .collect();
    let error = nix::unistd::execve(&words[0], &words, &vars);
    panic!("{program}: {error:?}");
}
