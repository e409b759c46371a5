//! `kill`: sends a signal to a container's init.

use anyhow::{Result, bail};

use super::Context;
use crate::cgroup::Cgroup;
use crate::sys::{Errno, process};
use crate::{cli, store};

/// `kill`.
pub fn kill(c: &Context, options: &cli::Kill) -> Result<u8> {
    c.trace.begin("record");
    // An empty word is none, as in runc: a script's variable that isn't set.
    let signal = options.signal.as_deref().filter(|s| !s.is_empty());
    let signal = parse(signal.unwrap_or("SIGTERM"))?;
    let (_, record) = store::open(&c.root, &options.id)?;
    c.trace.begin("signal");
    let namespaces = &record.config.namespaces;
    let own_pid_namespace = namespaces
        .iter()
        .any(|n| n.kind == "NEWPID" && n.path.is_empty());
    let cgroup = record.runz.cgroup.as_deref();
    let pidfd = match process::pidfd_open(record.init_process_pid) {
        Ok(pidfd) => Some(pidfd),
        Err(Errno::ESRCH) => None,
        Err(errno) => return Err(crate::launch::failed(errno, "pidfd_open")),
    };
    let alive = record.alive()?;
    if signal == libc::SIGKILL && !own_pid_namespace {
        // Init doesn't take the others with it. They may even outlive it.
        if let Some(cgroup) = cgroup.and_then(|path| Cgroup::open(path).ok())
            && (alive || options.all || !cgroup.pids()?.is_empty())
        {
            cgroup.kill()?;
            cgroup.thaw()?;
            return Ok(0);
        }
    }
    let (Some(pidfd), true) = (pidfd, alive) else {
        if options.all {
            return Ok(0);
        }
        bail!("container not running");
    };
    match process::pidfd_send_signal(pidfd, signal) {
        Ok(()) => {}
        Err(Errno::ESRCH) if options.all => return Ok(0),
        Err(Errno::ESRCH) => bail!("container not running: no such process"),
        Err(errno) => return Err(crate::launch::failed(errno, "pidfd_send_signal")),
    }
    if signal == libc::SIGKILL
        && let Some(cgroup) = cgroup.and_then(|path| Cgroup::open(path).ok())
    {
        // A paused container would never die: the freezer holds even the killed in cgroup v1's
        // way of thinking, and engines expect it to be thawed.
        cgroup.thaw()?;
    }
    Ok(0)
}

/// Signals by name, without `SIG`; those of signal(7), x86.
const NAMES: &[(&str, i32)] = &[
    ("ABRT", libc::SIGABRT),
    ("ALRM", libc::SIGALRM),
    ("BUS", libc::SIGBUS),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("FPE", libc::SIGFPE),
    ("HUP", libc::SIGHUP),
    ("ILL", libc::SIGILL),
    ("INT", libc::SIGINT),
    ("IO", libc::SIGIO),
    ("IOT", libc::SIGIOT),
    ("KILL", libc::SIGKILL),
    ("PIPE", libc::SIGPIPE),
    ("POLL", libc::SIGPOLL),
    ("PROF", libc::SIGPROF),
    ("PWR", libc::SIGPWR),
    ("QUIT", libc::SIGQUIT),
    ("SEGV", libc::SIGSEGV),
    ("STKFLT", libc::SIGSTKFLT),
    ("STOP", libc::SIGSTOP),
    ("SYS", libc::SIGSYS),
    ("TERM", libc::SIGTERM),
    ("TRAP", libc::SIGTRAP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("VTALRM", libc::SIGVTALRM),
    ("WINCH", libc::SIGWINCH),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
];

/// The first and last real-time signal as the C library numbers them (signal(7)).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// A signal by number, by name with or without `SIG`, in any case; `RTMIN+n` and `RTMAX-n` too, as in
/// crun.
fn parse(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        if (0..=RTMAX).contains(&number) {
            return Ok(number);
        }
        bail!("unknown signal {text:?}");
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let real_time = match name {
        "RTMIN" => Some(RTMIN),
        "RTMAX" => Some(RTMAX),
        _ => {
            let plus = name
                .strip_prefix("RTMIN+")
                .and_then(|n| n.parse::<u8>().ok());
            let minus = name
                .strip_prefix("RTMAX-")
                .and_then(|n| n.parse::<u8>().ok());
            let plus = plus.map(|n| RTMIN + i32::from(n));
            plus.or(minus.map(|n| RTMAX - i32::from(n)))
        }
    };
    match real_time.filter(|n| (RTMIN..=RTMAX).contains(n)) {
        Some(number) => Ok(number),
        None => bail!("unknown signal {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("0", 0),
            ("9", 9),
            ("64", 64),
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigterm", 15),
            ("usr1", 10),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmax-2", 62),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "65", "-1", "SIGSIGTERM", "RTMIN+31", "RTMAX-31", "FOO"] {
            let message = parse(text).unwrap_err().to_string();
            assert_eq!(message, format!("unknown signal {text:?}"));
        }
    }
}
