//! A child that was made: what is said to it, heard from it and done to it until it runs its program.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::inside::HookFiles;
use super::{exe, failed};
use crate::cgroup::Cgroup;
use crate::init::message::{self, COMMITTED, Fail, GO, MOVED, Message};
use crate::plan::{Process, Rlimit};
use crate::seccomp;
use crate::sys::process::{self, Exit};
use crate::sys::{Errno, cred, socket};

/// A child that was made and lives: a container's init, or a process in a container.
pub struct Started {
    /// Its pid in our pid namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// Our end of the channel.
    pub(super) channel: OwnedFd,
    /// The master of its terminal.
    pub console: Option<OwnedFd>,
    /// What hooks read and print that run inside.
    pub(super) hooks: Option<HookFiles>,
    /// It has its harmless limits.
    pub(super) limited: bool,
    /// It's a container's init: others may know of it.
    pub(super) init: bool,
    /// What it was told before it was ready.
    pub(super) told: Option<u8>,
    /// The executable's mount, if the child should not be the last to close it: that takes a wait for
    /// an RCU grace period.
    pub(super) exe: Cell<Option<exe::Exe>>,
}

impl Started {
    /// The child goes on as another process, and has ended itself.
    pub(super) fn moved(&mut self, pid: i32) -> Result<()> {
        let _ = process::wait(&self.pidfd);
        self.pidfd =
            process::pidfd_open(pid).map_err(|e| failed(e, "open the container's process"))?;
        self.pid = pid;
        self.tell(MOVED)
    }

    pub(super) fn tell(&self, word: u8) -> Result<()> {
        // A child that has died in the meantime: its end of the channel tells, or its exit.
        match socket::send(&self.channel, &[word], None) {
            Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            Err(errno) => Err(failed(errno, "tell the container's process to go on")),
        }
    }

    /// What the hooks that run inside have printed.
    pub fn hook_output(&self) -> String {
        self.hooks
            .as_ref()
            .map(HookFiles::output)
            .unwrap_or_default()
    }

    /// The container exists: wait at the start barrier.
    pub fn committed(&self) -> Result<()> {
        match self.told {
            Some(_) => Ok(()),
            None => self.tell(COMMITTED),
        }
    }

    /// Execute the program now. Returns when it runs, with what stopped it otherwise.
    pub fn go(&self, explained: &dyn Fn(&Fail) -> String) -> Result<()> {
        if self.told.is_none() {
            self.tell(GO)?;
        }
        drop(self.exe.take());
        let mut bytes = [0; message::SIZE];
        match socket::receive(&self.channel, &mut bytes) {
            // Its end closed on execve. Or it died: who waits for it learns how.
            Ok((0, _)) | Err(Errno::ECONNRESET) => Ok(()),
            Ok((n, _)) => match Message::decode(&bytes[..n]) {
                Some(Message::Failed(fail)) => bail!("{}", explained(&fail)),
                _ => bail!("unexpected message of the container's process"),
            },
            Err(errno) => Err(failed(errno, "wait for the program to start")),
        }
    }

    /// What it says next. `cgroup`: it's in there.
    pub(super) fn next(
        &mut self,
        cgroup: Option<&Cgroup>,
        explained: &dyn Fn(&Fail) -> String,
    ) -> Result<Message> {
        let mut bytes = [0; message::SIZE];
        loop {
            let (n, fd) = match socket::receive(&self.channel, &mut bytes) {
                // It left with something of ours unread. The error comes first, and once; its own last
                // word stands behind it.
                Err(Errno::ECONNRESET) => continue,
                other => other.map_err(|e| failed(e, "hear from the container's process"))?,
            };
            if n == 0 {
                return self.ended(cgroup);
            }
            match Message::decode(&bytes[..n]) {
                Some(Message::Console) => self.console = fd,
                Some(Message::Failed(fail)) => bail!("{}", explained(&fail)),
                Some(message) => return Ok(message),
                None => bail!("unexpected message of the container's process"),
            }
        }
    }

    /// A child that ended and said nothing.
    fn ended(&self, cgroup: Option<&Cgroup>) -> Result<Message> {
        let exit = process::ended(&self.pidfd).map_err(|e| failed(e, "container init"))?;
        let oom = || cgroup.is_some_and(|cgroup| cgroup.oom_kills().is_ok_and(|kills| kills > 0));
        match exit {
            Exit::Signal(libc::SIGKILL) if oom() => {
                bail!("container init was OOM-killed (memory limit too low?)")
            }
            // Where even exit_group(2) is refused there's only one way left to end.
            Exit::Signal(n @ (libc::SIGSYS | libc::SIGSEGV)) => bail!(
                "container init was killed by signal {n}: {}; does linux.seccomp forbid what is needed to start a program?",
                crate::sys::signal_words(n)
            ),
            // The container exists, so somebody may have killed it. He did not see that its program did
            // not run yet; who waits for it learns how it ended.
            Exit::Signal(_) if self.init && self.told == Some(GO) => {
                Ok(Message::Ready { machine: 0 })
            }
            Exit::Signal(n) => {
                let signal = crate::sys::signal_words(n);
                bail!("container init was killed by signal {n}: {signal}")
            }
            Exit::Code(n) => bail!("container init exited with status {n}"),
        }
    }

    pub(super) fn ready(&mut self, p: Option<&Process>, machine: u16) -> Result<()> {
        if machine != 0 && !foreign_formats() {
            let name = p.and_then(|p| p.args.iter().next());
            let name = name.map(|n| n.to_string_lossy()).unwrap_or_default();
            bail!(
                "exec: {name:?}: exec format error: a program for {}, and no binfmt_misc handler is registered",
                architecture(machine)
            );
        }
        self.limit(p, |limit| !self.limited || !limit.is_harmless())
    }

    /// Tells it what it would be told when it's ready, where that need not be waited for: what there would
    /// be to do then is done now. It need not be woken for it then.
    pub(super) fn tell_early(
        &mut self,
        word: u8,
        p: Option<&Process>,
        seccomp: Option<&seccomp::Program>,
    ) -> Result<()> {
        if self.let_go(p, seccomp)?.is_some() {
            self.tell(word)?;
            self.told = Some(word);
        }
        Ok(())
    }

    /// Does what there is to do before it goes. If it may then go as soon as it's ready: where it's told.
    pub(super) fn let_go(
        &mut self,
        p: Option<&Process>,
        seccomp: Option<&seccomp::Program>,
    ) -> Result<Option<BorrowedFd<'_>>> {
        self.limit(p, Rlimit::is_harmless)?;
        self.limited = true;
        // It would be gone before it was fetched.
        let listener = seccomp.is_some_and(|s| s.listener.is_some());
        let late = p.is_some_and(|p| !p.rlimits.iter().all(Rlimit::is_harmless));
        Ok((!listener && !late).then_some(self.channel.as_fd()))
    }

    /// Sets those of the limits: from outside, with the caller's privileges, for raising a hard limit
    /// works in a user namespace, too.
    fn limit(&self, p: Option<&Process>, which: impl Fn(&Rlimit) -> bool) -> Result<()> {
        let all = p.map_or(&[][..], |p| &p.rlimits);
        for limit in all.iter().filter(|limit| which(limit)) {
            let set = || process::set_rlimit(self.pid, limit.resource, limit.soft, limit.hard);
            let set = match set() {
                Err(Errno::EPERM) => self.as_its_user(set),
                other => other,
            };
            set.map_err(|e| {
                // setrlimit(2), EPERM: for everybody, root too.
                let hint = match (e, limit.resource as i64) {
                    (Errno::EPERM, resource) if resource == libc::RLIMIT_NOFILE as i64 => {
                        " (RLIMIT_NOFILE can't be above /proc/sys/fs/nr_open)"
                    }
                    _ => "",
                };
                failed(
                    e,
                    format_args!("process.rlimits[{}]: setrlimit{hint}", limit.index),
                )
            })?;
        }
        Ok(())
    }

    /// Without CAP_SYS_RESOURCE one may only set the limits of who has one's own real ids (prlimit(2)).
    fn as_its_user(&self, set: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", self.pid)) else {
            return Err(Errno::EPERM);
        };
        let real = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let (Some(uid), Some(gid)) = (real("Uid:"), real("Gid:")) else {
            return Err(Errno::EPERM);
        };
        let (own_uid, own_gid) = cred::real_ids();
        let done = cred::set_real_ids(uid, gid).and_then(|()| set());
        cred::set_real_ids(own_uid, own_gid)?;
        done
    }

    /// Sends a listener to the profile's agent (runtime-spec, "Container Process State").
    pub(super) fn hand_over_listener(
        &self,
        program: Option<&seccomp::Program>,
        number: i32,
        state: &[u8],
    ) -> Result<()> {
        let Some(agent) = program.and_then(|p| p.listener.as_ref()) else {
            bail!("linux.seccomp: a listener that nobody asked for");
        };
        let fd = process::pidfd_getfd(&self.pidfd, number)
            .map_err(|e| failed(e, "linux.seccomp: fetch the listener"))?;
        let state: serde_json::Value = serde_json::from_slice(state)?;
        let text = serde_json::json!({
            "ociVersion": crate::cli::SPEC_VERSION,
            "fds": ["seccompFd"],
            "pid": self.pid,
            "metadata": agent.metadata,
            "state": state,
        });
        let text = text.to_string();
        hand_over("its socket", &agent.path, text.as_bytes(), fd.as_fd())
            .context("linux.seccomp.listenerPath: failed to connect with seccomp agent")
    }

    /// Ends it with all that is in its cgroup, be they frozen, and reaps it.
    pub fn kill_with(&self, cgroup: Option<&Cgroup>) {
        if let Some(cgroup) = cgroup {
            let _ = cgroup.kill();
            let _ = cgroup.thaw();
        }
        self.kill();
    }

    /// Ends it and reaps it.
    pub fn kill(&self) {
        let _ = process::pidfd_send_signal(&self.pidfd, libc::SIGKILL);
        let _ = process::wait(&self.pidfd);
    }
}

/// `process.oomScoreAdj`.
pub(super) fn set_oom_score_adj(pid: i32, adj: i32) -> Result<()> {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), adj.to_string())
        .context("process.oomScoreAdj: failed to update /proc/self/oom_score_adj")
}

/// Whether something runs programs of other machines here (binfmt_misc).
fn foreign_formats() -> bool {
    let Ok(entries) = std::fs::read_dir("/proc/sys/fs/binfmt_misc") else {
        return false;
    };
    let special = ["register", "status"];
    entries
        .flatten()
        .any(|e| !special.iter().any(|name| e.file_name() == *name))
}

/// A name for an ELF machine (elf.h).
fn architecture(machine: u16) -> String {
    match machine {
        8 => "MIPS".to_owned(),
        20 => "PowerPC".to_owned(),
        21 => "64-bit PowerPC".to_owned(),
        22 => "S/390".to_owned(),
        40 => "ARM".to_owned(),
        183 => "AArch64".to_owned(),
        243 => "RISC-V".to_owned(),
        258 => "LoongArch".to_owned(),
        n => format!("ELF machine {n}"),
    }
}

/// Sends `fd` and a payload over a stream socket at `path`: the master of a terminal, a pidfd, a
/// seccomp listener.
pub fn hand_over(what: &str, path: &Path, payload: &[u8], fd: BorrowedFd) -> Result<()> {
    let socket =
        socket::connect(path).map_err(|e| failed(e, format_args!("connect to {what} {path:?}")))?;
    socket::send(socket, payload, Some(fd))
        .map_err(|e| failed(e, format_args!("send to {what} {path:?}")))
}
