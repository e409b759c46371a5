//! The kernel calls of the benchmark driver, and its only `unsafe` code.
//!
//! What is timed is one interval: from just before the spawn to just after the
//! wait. Both ends are kept as cheap as they can be: posix_spawn (vfork and
//! exec, no copy of this process), a pidfd to bound the wait, and wait4.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr;

/// A program with its arguments and its whole environment.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// Path of the program, then its arguments.
    pub argv: Vec<CString>,
    /// `KEY=VALUE` strings; nothing is inherited.
    pub env: Vec<CString>,
}

/// How a child is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// posix_spawn: the fast way, for times.
    Spawn,
    /// fork and exec, for memory: `ru_maxrss` survives exec, and a vfork child
    /// begins with this whole process' peak (fs/exec.c, exec_mmap).
    Fork,
}

/// What wait4(2) and the clock said of one finished process.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Nanoseconds from before the spawn until after the wait.
    pub wall_ns: u64,
    /// User and system time of the process and of the children it waited for, in microseconds.
    pub cpu_us: u64,
    /// Largest resident set of the process and of the children it waited for, in KiB.
    pub maxrss_kib: u64,
    /// The wait status.
    pub status: i32,
}

/// Where a child's standard streams go: /dev/null, and a memfd for its errors.
pub struct Stdio {
    null: OwnedFd,
    errors: File,
}

/// Longest time one command may take before it is killed.
const LIMIT_MS: i32 = 60_000;

impl Stdio {
    /// Opens the streams.
    ///
    /// # Errors
    /// The errno of open(2), memfd_create(2) or fcntl(2).
    pub fn new() -> io::Result<Stdio> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let errors = memfd()?;
        // Several processes write to it at a time: each at its end.
        // SAFETY: F_SETFL takes an int and touches no memory.
        check(unsafe { libc::fcntl(errors.as_raw_fd(), libc::F_SETFL, libc::O_APPEND) })?;
        Ok(Stdio {
            null: null.into(),
            errors: errors.into(),
        })
    }

    /// The last line that the last command wrote to stderr, if any.
    pub fn last_error(&self) -> Option<String> {
        let mut text = Vec::new();
        let mut file = &self.errors;
        let _ = file.rewind();
        let _ = file.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rfind(|line| !line.trim().is_empty())?;
        Some(line.trim().to_string())
    }

    /// Runs one command to its end.
    ///
    /// # Errors
    /// The errno of the spawn or the wait; `TimedOut` after a minute, the process then being killed.
    pub fn run(&self, command: &Command, how: How) -> io::Result<Exit> {
        self.errors.set_len(0)?;
        let argv = pointers(&command.argv);
        let env = pointers(&command.env);
        let start = now_ns();
        let pid = match how {
            How::Spawn => self.spawn(&argv, &env, &self.null, &self.null)?,
            How::Fork => self.fork(&argv, &env)?,
        };
        let (status, usage) = wait(pid)?;
        Ok(exit(now_ns() - start, status, &usage))
    }

    /// Runs commands that all begin at once: each waits behind a gate, and execs when it opens. Their
    /// times are from that moment on.
    ///
    /// # Errors
    /// The errno of a clone or a wait. Children that were made are killed by the caller's cleaning up.
    pub fn burst(&self, commands: &[&Command]) -> io::Result<Vec<Exit>> {
        self.errors.set_len(0)?;
        let (gate, opener) = pipe()?;
        // Theirs until they have execed, so after an error they are nobody's any more.
        let mut behind = ManuallyDrop::new(Vec::new());
        let mut waiting = Vec::new();
        for command in commands {
            behind.push(Box::new(Behind {
                argv: pointers(&command.argv),
                env: pointers(&command.env),
                streams: [
                    self.null.as_raw_fd(),
                    self.null.as_raw_fd(),
                    self.errors.as_raw_fd(),
                ],
                gate: gate.as_raw_fd(),
                opener: opener.as_raw_fd(),
                stack: vec![0; STACK],
            }));
        }
        for child in behind.iter_mut() {
            let pid = child.clone_vm()?;
            waiting.push((pid, pidfd_open(pid)?));
        }
        // Until the last of them stands there.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let start = now_ns();
        drop(opener);
        let mut exits = Vec::new();
        while !waiting.is_empty() {
            let mut polled: Vec<libc::pollfd> =
                waiting.iter().map(|(_, fd)| readable(fd)).collect();
            // SAFETY: as many pollfds as the count says.
            let ready =
                unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, LIMIT_MS) };
            let now = now_ns();
            if check(ready)? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "no exit within 60 s",
                ));
            }
            let mut flags = polled.iter().map(|fd| fd.revents != 0);
            let (ended, left) = waiting
                .into_iter()
                .partition(|_| flags.next() == Some(true));
            waiting = left;
            let ended: Vec<(i32, OwnedFd)> = ended;
            for (pid, _) in ended {
                let (status, usage) = wait(pid)?;
                exits.push(exit(now - start, status, &usage));
            }
        }
        drop(ManuallyDrop::into_inner(behind));
        Ok(exits)
    }

    /// Runs a command that reads `input`, to the first byte that it writes, and then to its end. The
    /// nanoseconds up to that byte, and its wait status.
    ///
    /// # Errors
    /// The errno of the spawn or the wait; `TimedOut` after a minute without a byte or an end.
    pub fn first_output(&self, command: &Command, input: &File) -> io::Result<(u64, i32)> {
        self.errors.set_len(0)?;
        let (output, theirs) = pipe()?;
        let (argv, env) = (pointers(&command.argv), pointers(&command.env));
        let start = now_ns();
        let pid = self.spawn(&argv, &env, input, &theirs)?;
        drop(theirs);
        let mut polled = readable(&output);
        // SAFETY: one pollfd, as the count says.
        check(unsafe { libc::poll(&mut polled, 1, LIMIT_MS) })?;
        let first = now_ns() - start;
        let wrote = polled.revents & libc::POLLIN != 0;
        io::copy(&mut File::from(output), &mut io::sink())?;
        let (status, _) = wait(pid)?;
        match wrote {
            true => Ok((first, status)),
            false => Err(io::Error::other(format!(
                "no output, wait status {status:#x}"
            ))),
        }
    }

    fn spawn(
        &self,
        argv: &[*mut libc::c_char],
        env: &[*mut libc::c_char],
        input: &impl AsRawFd,
        output: &impl AsRawFd,
    ) -> io::Result<i32> {
        let mut pid = 0;
        let mut actions = MaybeUninit::uninit();
        let mut attr = MaybeUninit::uninit();
        // SAFETY: both objects are initialised before use and destroyed once; argv and env are
        // null-terminated arrays of pointers into strings that outlive this call (`pointers`).
        let error = unsafe {
            libc::posix_spawn_file_actions_init(actions.as_mut_ptr());
            libc::posix_spawnattr_init(attr.as_mut_ptr());
            let (input, output) = (input.as_raw_fd(), output.as_raw_fd());
            for (from, to) in [(input, 0), (output, 1), (self.errors.as_raw_fd(), 2)] {
                libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), from, to);
            }
            let mut all = MaybeUninit::uninit();
            let mut none = MaybeUninit::uninit();
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(none.as_mut_ptr());
            libc::posix_spawnattr_setsigdefault(attr.as_mut_ptr(), all.as_ptr());
            libc::posix_spawnattr_setsigmask(attr.as_mut_ptr(), none.as_ptr());
            let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
            libc::posix_spawnattr_setflags(attr.as_mut_ptr(), flags as libc::c_short);
            let error = libc::posix_spawn(
                &mut pid,
                argv[0],
                actions.as_ptr(),
                attr.as_ptr(),
                argv.as_ptr(),
                env.as_ptr(),
            );
            libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
            libc::posix_spawnattr_destroy(attr.as_mut_ptr());
            error
        };
        match error {
            0 => Ok(pid),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    fn fork(&self, argv: &[*mut libc::c_char], env: &[*mut libc::c_char]) -> io::Result<i32> {
        // SAFETY: the child calls only async-signal-safe functions, on memory made before the fork.
        unsafe {
            let pid = check(libc::fork())?;
            if pid == 0 {
                libc::dup2(self.null.as_raw_fd(), 0);
                libc::dup2(self.null.as_raw_fd(), 1);
                libc::dup2(self.errors.as_raw_fd(), 2);
                libc::execve(argv[0], argv.as_ptr().cast(), env.as_ptr().cast());
                libc::_exit(127);
            }
            Ok(pid)
        }
    }
}

/// A child's stack up to its exec, in bytes.
const STACK: usize = 32 << 10;

/// A child that waits behind a gate. It shares our memory: a copy of it would have to be thrown away
/// by each of them within the time that is measured.
struct Behind {
    argv: Vec<*mut libc::c_char>,
    env: Vec<*mut libc::c_char>,
    streams: [i32; 3],
    /// A pipe's two ends. The child waits until nobody has the second one any more.
    gate: i32,
    opener: i32,
    stack: Vec<u8>,
}

impl Behind {
    fn clone_vm(&mut self) -> io::Result<i32> {
        let own = &raw mut *self;
        // SAFETY: the stack is used by nobody else, and both it and `self` are kept until the child has
        // execed; one past its last byte, at a multiple of 16, is where a stack begins.
        unsafe {
            let top = self.stack.as_mut_ptr().add(STACK);
            let top = top.sub(top.addr() % 16);
            let flags = libc::CLONE_VM | libc::SIGCHLD;
            check(libc::clone(behind, top.cast(), flags, own.cast()))
        }
    }
}

/// What such a child does.
extern "C" fn behind(child: *mut libc::c_void) -> i32 {
    // SAFETY: `clone_vm` has given a `Behind`, which nobody changes. Only async-signal-safe functions
    // are called; the descriptors are the child's own copies.
    unsafe {
        let child = &*child.cast::<Behind>();
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::close(child.opener);
        let mut byte = 0u8;
        libc::read(child.gate, (&raw mut byte).cast(), 1);
        for (stream, fd) in (0..).zip(child.streams) {
            libc::dup2(fd, stream);
        }
        libc::execve(
            child.argv[0],
            child.argv.as_ptr().cast(),
            child.env.as_ptr().cast(),
        );
        libc::_exit(127);
    }
}

/// A file without a name.
///
/// # Errors
/// The errno of memfd_create(2).
pub fn memfd() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string literal; the result is checked below.
    let fd = unsafe { libc::memfd_create(c"bench".as_ptr(), libc::MFD_CLOEXEC) };
    check(fd)?;
    // SAFETY: memfd_create just returned this fd and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A null-terminated array of pointers to `strings`, which must outlive it.
fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    let mut list: Vec<_> = strings.iter().map(|s| s.as_ptr().cast_mut()).collect();
    list.push(ptr::null_mut());
    list
}

fn exit(wall_ns: u64, status: i32, usage: &libc::rusage) -> Exit {
    let micros = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    Exit {
        wall_ns,
        cpu_us: micros(usage.ru_utime) + micros(usage.ru_stime),
        maxrss_kib: usage.ru_maxrss as u64,
        status,
    }
}

/// A pipe's reading and writing end, both close-on-exec.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the pointer is to two integers; both descriptors are new and nobody else's.
    unsafe {
        check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
    check(fd)?;
    // SAFETY: pidfd_open just returned this fd and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn readable(fd: &impl AsRawFd) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Waits for one child of this process, at most a minute.
///
/// # Errors
/// `TimedOut` after a minute, the child then being killed and reaped; else the errno of wait4(2).
pub fn wait(pid: i32) -> io::Result<(i32, libc::rusage)> {
    let pidfd = pidfd_open(pid)?;
    let mut poll = readable(&pidfd);
    // SAFETY: one pollfd, as the count says.
    let ready = unsafe { libc::poll(&mut poll, 1, LIMIT_MS) };
    if ready == 0 {
        kill(pid, libc::SIGKILL);
    }
    let mut status = 0;
    let mut usage = MaybeUninit::zeroed();
    // SAFETY: both pointers are to live objects of the right type.
    check(unsafe { libc::wait4(pid, &mut status, 0, usage.as_mut_ptr()) })?;
    if ready == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "no exit within 60 s",
        ));
    }
    // SAFETY: zeroed is a valid rusage, and wait4 has filled it.
    Ok((status, unsafe { usage.assume_init() }))
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Gives this thread a mount namespace whose changes stay inside it.
///
/// The tree is made shared afterwards, within the new namespace: so is every host that systemd
/// has booted, and copying shared mounts is what runtimes do there.
///
/// # Errors
/// The errno of unshare(2) or mount(2).
pub fn private_mounts() -> io::Result<()> {
    // SAFETY: unshare takes an integer; this process has one thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let root = Path::new("/");
    mount("", root, "", libc::MS_REC | libc::MS_PRIVATE, "")?;
    mount("", root, "", libc::MS_REC | libc::MS_SHARED, "")
}

/// mount(2): `kind` is the file system type, `source` may be a path for a bind mount.
///
/// # Errors
/// Its errno.
pub fn mount(
    source: &str,
    target: &Path,
    kind: &str,
    flags: libc::c_ulong,
    data: &str,
) -> io::Result<()> {
    let (source, target) = (text(source)?, text(&target.to_string_lossy())?);
    let (kind, data) = (text(kind)?, text(data)?);
    // SAFETY: four C strings that outlive the call.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    check(result).map(drop)
}

/// umount2(2) with MNT_DETACH: the mount and all below it go, busy or not.
///
/// # Errors
/// Its errno.
pub fn detach(target: &Path) -> io::Result<()> {
    let target = text(&target.to_string_lossy())?;
    // SAFETY: a C string that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// kill(2), its errors (the process is gone) ignored. Only for children not yet reaped.
fn kill(pid: i32, signal: i32) {
    // SAFETY: kill takes two integers.
    unsafe { libc::kill(pid, signal) };
}

/// Kills and reaps `pid` if it is a child of this process; a stale number harms nobody.
pub fn end_child(pid: i32) {
    let mut info = MaybeUninit::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is to a live siginfo_t.
    let ours = unsafe { libc::waitid(libc::P_PID, pid as u32, info.as_mut_ptr(), flags) };
    if ours == 0 {
        kill(pid, libc::SIGKILL);
        let _ = wait(pid);
    }
}

/// Makes this process the parent of its orphaned descendants, as engines' monitors are.
pub fn adopt_orphans() {
    // SAFETY: prctl with integers only.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Reaps every child that has ended. Only for moments when nobody waits for one of his own.
pub fn reap() {
    // SAFETY: a null status pointer is allowed.
    while unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// CPU seconds of this process and of the children it has waited for, with theirs.
pub fn own_cpu_seconds() -> f64 {
    let of = |who| {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: zeroed is a valid rusage, and getrusage fills it.
        let usage = unsafe {
            libc::getrusage(who, usage.as_mut_ptr());
            usage.assume_init()
        };
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}

/// CPU microseconds of this process alone.
pub fn self_cpu_us() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: zeroed is a valid rusage, and getrusage fills it.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    exit(0, 0, &usage).cpu_us
}

/// The unit of /proc/stat.
pub fn ticks_per_second() -> f64 {
    // SAFETY: sysconf takes an integer.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

/// Makes this process lead a session that the scheduler prefers to all others.
///
/// Where autogroups are on, nice values count only within a session; this raises the session's
/// own (sched(7)). A runtime that makes a session for its container is out of it from there on.
pub fn take_precedence() -> io::Result<()> {
    // SAFETY: both calls take integers only.
    unsafe {
        libc::setsid();
        check(libc::setpriority(libc::PRIO_PROCESS, 0, -20))?;
    }
    match std::fs::write("/proc/self/autogroup", "-20") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The kernel's release and the machine's architecture.
pub fn uname() -> (String, String) {
    let mut names = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: uname fills the struct; zeroed is a valid one, its strings end within their arrays.
    unsafe {
        libc::uname(names.as_mut_ptr());
        let names = names.assume_init();
        let field = |f: &[libc::c_char]| CStr::from_ptr(f.as_ptr()).to_string_lossy().into_owned();
        (field(&names.release), field(&names.machine))
    }
}

/// The hard limit of `resource` (`RLIMIT_…`) that this process has.
pub fn hard_limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live rlimit.
    unsafe { libc::getrlimit(resource, &mut limit) };
    limit.rlim_max
}

/// Runs `work` in a child process and waits for it; its exit code, or none if it was killed.
///
/// SIGINT, SIGTERM and SIGHUP end the child, never this process, so that the caller can clean up
/// after it however it ended.
///
/// # Errors
/// The errno of fork(2) or waitpid(2).
pub fn guard(work: impl FnOnce() -> i32) -> io::Result<Option<i32>> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is initialised by sigemptyset before any other use; this process has one
    // thread, so the child may do whatever it likes; all pointers are to live objects.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
        let child = check(libc::fork())?;
        if child == 0 {
            libc::sigprocmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut());
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            let code = work();
            libc::_exit(code);
        }
        loop {
            let signal = libc::sigwaitinfo(set.as_ptr(), ptr::null_mut());
            if signal > 0 && signal != libc::SIGCHLD {
                libc::kill(child, libc::SIGKILL);
            }
            let mut status = 0;
            if check(libc::waitpid(child, &mut status, libc::WNOHANG))? == child {
                return Ok(libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)));
            }
        }
    }
}

/// `text` as a C string.
///
/// # Errors
/// `InvalidInput` where it holds a NUL.
pub fn text(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::from)
}

fn check(result: i32) -> io::Result<i32> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}
