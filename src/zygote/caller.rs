//! Who calls: all that a container takes from whoever starts it without a word in its config. A warm
//! container is the daemon's child, so it has to be given the caller's; and where that can't be done,
//! the container isn't for him.
//!
//! Of what fork(2) and execve(2) pass on the rest needs nothing. Init makes it anew in every container:
//! descriptors, directory, session, CPU affinity, autogroup, session keyring; umask and what
//! config.json names. execve clears it, also the caller's own: pending attributes of LSMs, user space
//! dispatch, shadow stacks, CPUID faulting, rseq, dumpable. Not to be seen, and the daemon's: audit's
//! login id and session, a Landlock domain, what PR_SET_TIMERSLACK 0 returns to, the default keyring for
//! requested keys, inherited perf events and tracers.

use std::ffi::{CStr, CString};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::host;
use crate::init::park::Carried;
use crate::launch::failed;
use crate::plan::{Plan, Scheduler, text};
use crate::sys::cred::NODE_WORDS;
use crate::sys::{cred, fs, process};

/// RLIMIT_NLIMITS (asm-generic/resource.h).
const LIMITS: u32 = 16;

/// SCHED_FLAG_RESET_ON_FORK (sched(7)).
const RESET_ON_FORK: u64 = 1;

/// Namespaces, by their names in /proc/PID/ns.
const NAMESPACES: [(&CStr, i32); 10] = [
    (c"mnt", libc::CLONE_NEWNS),
    (c"user", libc::CLONE_NEWUSER),
    (c"pid", libc::CLONE_NEWPID),
    (c"net", libc::CLONE_NEWNET),
    (c"ipc", libc::CLONE_NEWIPC),
    (c"uts", libc::CLONE_NEWUTS),
    (c"cgroup", libc::CLONE_NEWCGROUP),
    (c"time", libc::CLONE_NEWTIME),
    // Those of children, which need not be one's own (pid_namespaces(7)).
    (c"pid_for_children", libc::CLONE_NEWPID),
    (c"time_for_children", libc::CLONE_NEWTIME),
];

/// What a process has that its children inherit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Caller {
    /// The inode of each of [`NAMESPACES`].
    namespaces: Vec<u64>,
    /// Device and inode of `/`.
    root: (u64, u64),
    /// /proc/self/attr/current; empty without an LSM.
    label: Vec<u8>,
    /// Lines of /proc/self/status: what may be done is the same for both, or the container isn't for
    /// him.
    privileges: Vec<String>,
    /// Supplementary groups, as /proc/self/status has them.
    groups: String,
    /// Blocked and ignored signals.
    signals: (u64, u64),
    /// Soft and hard limit of each resource.
    limits: Vec<(u64, u64)>,
    /// oom_score_adj.
    oom_score_adj: i32,
    /// sched_getattr(2): policy, flags, nice value, priority, runtime, deadline, period.
    scheduler: (u32, u64, i32, u32, u64, u64, u64),
    /// ioprio_get(2).
    io_priority: i32,
    /// PR_GET_TIMERSLACK.
    timer_slack: u64,
    /// coredump_filter.
    dump: u64,
    /// personality(2).
    personality: u64,
    /// PR_GET_THP_DISABLE.
    huge_pages: u64,
    /// get_mempolicy(2): mode and nodes.
    memory_policy: (i32, [u64; NODE_WORDS]),
    /// See there.
    switches: [i64; cred::SWITCHES.len()],
    /// The umask.
    pub umask: u32,
    /// The host's and the domain's name.
    names: (CString, CString),
}

/// What must be equal in /proc/self/status.
const PRIVILEGES: [&str; 12] = [
    "Uid:",
    "Gid:",
    "NoNewPrivs:",
    "Seccomp:",
    // Of two with as many nothing is known but that.
    "Seccomp_filters:",
    "CapInh:",
    "CapPrm:",
    "CapEff:",
    "CapBnd:",
    "CapAmb:",
    // PR_SET_SPECULATION_CTRL.
    "Speculation_Store_Bypass:",
    "SpeculationIndirectBranch:",
];

fn read(path: &str) -> Result<String> {
    let text = host::read_short(path).with_context(|| format!("read {path}"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The inodes of namespaces of this process, by their names in /proc/self/ns; 0 where a kernel hasn't the
/// kind. As the links say: to follow one would be to open the namespace.
pub fn namespaces<const N: usize>(names: [&CStr; N]) -> Result<[u64; N]> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let directory = fs::open(fs::CWD, c"/proc/self/ns", flags, 0)
        .map_err(|e| failed(e, "open /proc/self/ns"))?;
    let inode = |name: &CStr| {
        let mut link = [0; 64];
        // `net:[4026531833]`
        let link = fs::readlink(&directory, name, &mut link).ok()?;
        let digits = link.strip_suffix(b"]")?.rsplit(|b| *b == b'[').next()?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    Ok(names.map(|name| inode(name).unwrap_or(0)))
}

/// Device and inode of what is there.
fn inode(path: &str) -> Result<(u64, u64)> {
    let found = std::fs::metadata(path).with_context(|| format!("stat {path}"))?;
    Ok((found.dev(), found.ino()))
}

/// The calling process's security label; empty without an LSM.
pub fn label() -> Vec<u8> {
    if cred::is_unlabelled() {
        return Vec::new();
    }
    std::fs::read("/proc/self/attr/current").unwrap_or_default()
}

impl Caller {
    /// Looks at the calling process. To be asked before it blocks signals.
    pub fn look() -> Result<Caller> {
        let status = read("/proc/self/status")?;
        let line = |name: &str| {
            let found = status.lines().find_map(|l| l.strip_prefix(name));
            found.unwrap_or_default().trim().to_owned()
        };
        let mask = |name: &str| u64::from_str_radix(&line(name), 16).unwrap_or(0);
        let mut limits = Vec::new();
        for resource in 0..LIMITS {
            limits.push(process::rlimit(resource).map_err(|e| failed(e, "prlimit"))?);
        }
        let dump = read("/proc/self/coredump_filter").unwrap_or_default();
        let s = cred::sched_getattr().map_err(|e| failed(e, "sched_getattr"))?;
        Ok(Caller {
            namespaces: namespaces(NAMESPACES.map(|(name, _)| name))?.to_vec(),
            root: inode("/")?,
            label: label(),
            privileges: PRIVILEGES.iter().map(|name| line(name)).collect(),
            groups: line("Groups:"),
            signals: (mask("SigBlk:"), mask("SigIgn:")),
            limits,
            oom_score_adj: read("/proc/self/oom_score_adj")?
                .trim()
                .parse()
                .context("/proc/self/oom_score_adj")?,
            scheduler: (
                s.policy, s.flags, s.nice, s.priority, s.runtime, s.deadline, s.period,
            ),
            io_priority: cred::ioprio_get().map_err(|e| failed(e, "ioprio_get"))?,
            timer_slack: cred::timer_slack().map_err(|e| failed(e, "PR_GET_TIMERSLACK"))?,
            dump: u64::from_str_radix(dump.trim(), 16).unwrap_or(0),
            personality: cred::own_personality().map_err(|e| failed(e, "personality"))?,
            huge_pages: cred::huge_pages().unwrap_or(0),
            memory_policy: cred::own_mempolicy().unwrap_or_default(),
            switches: cred::switches(),
            umask: u32::from_str_radix(&line("Umask:"), 8).context("/proc/self/status: Umask")?,
            names: cred::host_names().map_err(|e| failed(e, "uname"))?,
        })
    }

    /// Why what `own` process has made isn't for this caller; `Ok`: it is.
    pub fn fits(&self, own: &Caller, plan: &Plan) -> Result<()> {
        let always = libc::CLONE_NEWNS | libc::CLONE_NEWUSER | libc::CLONE_NEWPID;
        for ((name, kind), (his, ours)) in NAMESPACES
            .iter()
            .zip(self.namespaces.iter().zip(&own.namespaces))
        {
            let new = plan.namespaces.new & *kind as u64 != 0 && always & kind == 0;
            if !new && his != ours {
                let name = name.to_string_lossy();
                bail!("the zygote is in another {name} namespace");
            }
        }
        if self.root != own.root {
            bail!("the zygote has another root directory");
        }
        if self.label != own.label {
            bail!("the zygote has another security label");
        }
        let pairs = self.privileges.iter().zip(&own.privileges);
        for (name, (his, ours)) in PRIVILEGES.iter().zip(pairs) {
            if his != ours {
                bail!("the zygote has other privileges ({name} {ours}, not {his})");
            }
        }
        let pairs = self.switches.iter().zip(&own.switches);
        for (name, (his, ours)) in cred::SWITCHES.iter().zip(pairs) {
            if his != ours {
                bail!("the zygote has another {name} ({ours}, not {his})");
            }
        }
        let inherits_groups = plan.process.as_ref().is_some_and(|p| p.groups.is_none());
        if inherits_groups && self.groups != own.groups {
            bail!("the zygote has other groups");
        }
        if self.scheduler.1 & RESET_ON_FORK != 0 {
            bail!("a scheduling policy that children don't inherit");
        }
        Ok(())
    }

    /// Gives a process that inherited from `own` what it would have inherited from this caller, as far as
    /// that is done from outside.
    pub fn give(&self, own: &Caller, plan: &Plan, pid: i32) -> Result<()> {
        let p = plan.process.as_ref();
        let named =
            |resource: u32| p.is_some_and(|p| p.rlimits.iter().any(|l| l.resource == resource));
        for (resource, (his, ours)) in (0u32..).zip(self.limits.iter().zip(&own.limits)) {
            if his != ours && !named(resource) {
                process::set_rlimit(pid, resource, his.0, his.1)
                    .map_err(|e| failed(e, format_args!("prlimit {resource}")))?;
            }
        }
        let write = |file: &str, text: String| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::write(&path, text).with_context(|| format!("write {path}"))
        };
        if self.oom_score_adj != own.oom_score_adj && p.is_none_or(|p| p.oom_score_adj.is_none()) {
            write("oom_score_adj", self.oom_score_adj.to_string())?;
        }
        if self.dump != own.dump {
            write("coredump_filter", format!("{:#x}", self.dump))?;
        }
        if self.timer_slack != own.timer_slack {
            write("timerslack_ns", self.timer_slack.to_string())?;
        }
        if self.scheduler != own.scheduler {
            let (policy, flags, nice, priority, runtime, deadline, period) = self.scheduler;
            let attr = Scheduler {
                policy,
                flags,
                nice,
                priority,
                runtime,
                deadline,
                period,
            };
            cred::sched_setattr_of(pid, &attr).map_err(|e| failed(e, "sched_setattr"))?;
        }
        if self.io_priority != own.io_priority {
            cred::ioprio_set_of(pid, self.io_priority).map_err(|e| failed(e, "ioprio_set"))?;
        }
        Ok(())
    }

    /// The host's and the domain's name, where a UTS namespace of its own would have got them from this
    /// caller.
    pub fn names(&self, plan: &Plan) -> (Option<&CStr>, Option<&CStr>) {
        let new = plan.namespaces.new & libc::CLONE_NEWUTS as u64 != 0;
        let (host, domain) = (&plan.hostname, &plan.domainname);
        (
            (new && host.is_none()).then_some(&*self.names.0),
            (new && domain.is_none()).then_some(&*self.names.1),
        )
    }

    /// Why a container that is confined to these memory nodes isn't for this caller: init would be refused
    /// a policy that names others, when there's no cold way any more.
    pub fn fits_nodes(&self, own: &Caller, nodes: impl FnOnce() -> Option<String>) -> Result<()> {
        if self.memory_policy != own.memory_policy
            && let Some(list) = nodes()
            && !all_in(&self.memory_policy.1, &list)?
        {
            bail!(
                "the container's memory nodes ({}) lack some of the caller's memory policy",
                list.trim()
            );
        }
        Ok(())
    }

    /// The rest, which only the process itself can do.
    pub fn carried(&self, own: &Caller) -> Carried {
        let other = |other: bool| other.then_some(());
        Carried {
            blocked: self.signals.0,
            ignored: self.signals.1,
            personality: other(self.personality != own.personality).map(|()| self.personality),
            huge_pages: other(self.huge_pages != own.huge_pages).map(|()| self.huge_pages),
            memory_policy: other(self.memory_policy != own.memory_policy)
                .map(|()| self.memory_policy),
        }
    }
}

/// Whether each node of a mask is in a list.
fn all_in(nodes: &[u64], list: &str) -> Result<bool> {
    let there = text::mask(&text::ranges(list)?);
    let there = there.iter().copied().chain(std::iter::repeat(0));
    Ok(nodes
        .iter()
        .zip(there)
        .all(|(asked, there)| asked & !there == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_among_those_of_a_cpuset() {
        let mut nodes = [0; NODE_WORDS];
        assert!(all_in(&nodes, "\n").unwrap());
        nodes[0] = 0b101;
        nodes[1] = 1;
        for (list, wanted) in [
            ("0,2,64\n", true),
            ("0-99", true),
            ("0-63", false),
            ("0-1,64", false),
            ("", false),
        ] {
            assert_eq!(all_in(&nodes, list).unwrap(), wanted, "{list:?}");
        }
    }
}
