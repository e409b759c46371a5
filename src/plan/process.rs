//! `process`, for the container's first process and for those that `exec` adds: argv and envp, where
//! the program may be, user, limits, labels.

use std::ffi::CString;

use anyhow::{Context, Result, ensure};
use oci_spec::runtime as spec;
use oci_spec::runtime::PosixRlimitType;

use super::schedule::{cpu_affinity, io_priority, scheduler};
use super::text::c_string;
use super::{CpuAffinity, IdMaps, MemoryPolicy, Process, Rlimit, Strings, caps, ids};
use crate::host::Host;

/// What a process depends on beside its own `process` object.
pub struct Setting<'a> {
    /// Maps of the container's user namespace; empty if it has none, or if they aren't known.
    pub id_maps: &'a IdMaps,
    /// Where a umask comes from that `process.user` doesn't give.
    pub umask: u32,
    /// LISTEN_FDS, of which the program is told.
    pub listen_fds: u32,
    /// File descriptors to keep after those.
    pub preserve_fds: u32,
    /// The runtime's `notify` directory is bound at /run/notify.
    pub notify: bool,
    /// `linux.personality`.
    pub personality: Option<u64>,
    /// `linux.memoryPolicy`.
    pub memory_policy: Option<MemoryPolicy>,
}

/// Decides a process. Errors name the property that is wrong.
pub fn process(
    process: &spec::Process,
    setting: Setting,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Process> {
    let args = process.args().as_deref().unwrap_or_default();
    ensure!(!args.is_empty(), "process.args: args must not be empty");
    let cwd = process.cwd();
    ensure!(
        !cwd.as_os_str().is_empty(),
        "process.cwd: must not be empty"
    );
    ensure!(
        cwd.is_absolute(),
        "process.cwd: {cwd:?} must be an absolute path"
    );
    let written = process.env().as_deref().unwrap_or_default();
    let Environment { text, home, path } = environment(written, &setting)?;
    let candidates = candidates(&args[0], path.unwrap_or_default())?;
    let label = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let apparmor = label(process.apparmor_profile());
    ensure!(
        apparmor.is_none() || host.apparmor,
        "process.apparmorProfile: apparmor: config provided but apparmor not supported"
    );
    let selinux = label(process.selinux_label());
    ensure!(
        selinux.is_none() || host.selinux,
        "process.selinuxLabel: selinux label is specified in config, but selinux is disabled or \
         not supported"
    );
    let oom_score_adj = process.oom_score_adj();
    if let Some(score) = oom_score_adj {
        ensure!(
            (-1000..=1000).contains(&score),
            "process.oomScoreAdj: {score} is not between -1000 and 1000"
        );
    }
    let terminal = process.terminal().unwrap_or(false);
    Ok(Process {
        args: Strings::new(c_strings("process.args", args)?),
        env: if home {
            Strings::new(text)
        } else {
            Strings::with_home(text)
        },
        candidates,
        cwd: c_string("process.cwd", cwd.as_os_str().as_encoded_bytes())?,
        uid: process.user().uid(),
        gid: process.user().gid(),
        groups: groups(process.user(), &setting, host)?,
        umask: umask(process.user(), &setting)?,
        capabilities: match process.capabilities() {
            Some(capabilities) => Some(caps::capabilities(capabilities, host, warnings)?),
            None => None,
        },
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default())?,
        oom_score_adj,
        scheduler: match process.scheduler() {
            Some(written) => Some(scheduler(written, warnings)?),
            None => None,
        },
        io_priority: process
            .io_priority()
            .as_ref()
            .map(io_priority)
            .transpose()?,
        cpu_affinity: match process.exec_cpu_affinity() {
            Some(affinity) => cpu_affinity(affinity)?,
            None => CpuAffinity::default(),
        },
        memory_policy: setting.memory_policy,
        personality: setting.personality,
        console_size: match process.console_size() {
            Some(size) if terminal => console_size(&size)?,
            _ => None,
        },
        terminal,
        apparmor: match apparmor {
            Some(profile) => Some(c_string(
                "process.apparmorProfile",
                format!("exec {profile}"),
            )?),
            None => None,
        },
        selinux: match selinux {
            Some(label) => Some(c_string("process.selinuxLabel", label)?),
            None => None,
        },
        preserve_fds: setting
            .listen_fds
            .checked_add(setting.preserve_fds)
            .context("too many file descriptors to preserve")?,
    })
}

fn c_strings(property: &str, strings: &[String]) -> Result<Vec<CString>> {
    strings
        .iter()
        .enumerate()
        .map(|(i, text)| match CString::new(text.as_str()) {
            Ok(text) => Ok(text),
            Err(_) => c_string(format!("{property}[{i}]"), text.as_str()),
        })
        .collect()
}

struct Environment<'a> {
    text: Vec<CString>,
    /// HOME is among them.
    home: bool,
    /// PATH, if it is.
    path: Option<&'a str>,
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET=/run/notify/notify.sock";

/// `process.env` without duplicates: of equal names the last wins, and keeps its place. An empty
/// HOME counts as none.
fn environment<'a>(written: &'a [String], setting: &Setting) -> Result<Environment<'a>> {
    let mut text = Vec::with_capacity(written.len() + 4);
    let mut home = false;
    let mut path = None;
    let mut names = Vec::with_capacity(written.len());
    for (i, entry) in written.iter().enumerate() {
        let (name, value) = entry.split_once('=').with_context(|| {
            format!("process.env[{i}]: invalid environment variable: missing '='")
        })?;
        ensure!(
            !name.is_empty(),
            "process.env[{i}]: invalid environment variable: name cannot be empty"
        );
        names.push((name, value));
    }
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_unstable_by_key(|&i| (names[i].0, i));
    let mut overridden = vec![false; names.len()];
    for pair in order.windows(2) {
        overridden[pair[0]] = names[pair[0]].0 == names[pair[1]].0;
    }
    for (i, (name, value)) in names.iter().enumerate() {
        if overridden[i] {
            continue;
        }
        match *name {
            "HOME" if value.is_empty() => continue,
            "HOME" => home = true,
            "PATH" => path = Some(*value),
            "NOTIFY_SOCKET" if setting.notify => continue,
            "LISTEN_FDS" | "LISTEN_PID" if setting.listen_fds > 0 => continue,
            _ => {}
        }
        text.push(c_string(
            format_args!("process.env[{i}]"),
            written[i].as_str(),
        )?);
    }
    if setting.listen_fds > 0 {
        let count = format!("LISTEN_FDS={}", setting.listen_fds);
        text.push(c_string("LISTEN_FDS", count)?);
        text.push(c"LISTEN_PID=1".into());
    }
    if setting.notify {
        text.push(c_string("NOTIFY_SOCKET", NOTIFY_SOCKET)?);
    }
    Ok(Environment { text, home, path })
}

/// Where the program may be. A name with a slash is a path; any other is looked for in the
/// container's PATH, whose empty entries stand for the working directory, as in execvp(3). There
/// is no default PATH, as in runc.
fn candidates(program: &str, path: &str) -> Result<Vec<CString>> {
    if program.contains('/') {
        return Ok(vec![c_string("process.args[0]", program)?]);
    }
    if program.is_empty() || path.is_empty() {
        return Ok(Vec::new());
    }
    path.split(':')
        .map(|directory| match directory {
            "" => c_string("process.args[0]", format!("./{program}")),
            _ => c_string("PATH in process.env", format!("{directory}/{program}")),
        })
        .collect()
}

/// `user.additionalGids`, checked, or `None` if setgroups(2) is denied.
fn groups(user: &spec::User, setting: &Setting, host: &Host) -> Result<Option<Vec<u32>>> {
    let IdMaps { uid, gid } = setting.id_maps;
    // To setresuid(2) and setresgid(2) it means "leave it as it is": root's.
    const NOBODY: u32 = u32::MAX;
    ensure!(
        user.uid() != NOBODY,
        "process.user.uid: cannot setuid to {NOBODY}, which is no user"
    );
    ensure!(
        user.gid() != NOBODY,
        "process.user.gid: cannot setgid to {NOBODY}, which is no group"
    );
    if !uid.is_empty() {
        ensure!(
            ids::host_id(uid, user.uid()).is_some(),
            "process.user.uid: cannot setuid to unmapped uid {} in user namespace",
            user.uid()
        );
    }
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if !gid.is_empty() {
        ensure!(
            ids::host_id(gid, user.gid()).is_some(),
            "process.user.gid: cannot setgid to unmapped gid {} in user namespace",
            user.gid()
        );
        for (i, group) in groups.iter().enumerate() {
            ensure!(
                ids::host_id(gid, *group).is_some(),
                "process.user.additionalGids[{i}]: gid {group} is not mapped in the user namespace"
            );
        }
    }
    if host.euid != 0 {
        ensure!(
            groups.is_empty(),
            "process.user.additionalGids: cannot set any additional groups in a rootless container"
        );
    }
    // A map of one's own gid is written without privilege only after setgroups(2) is denied
    // (user_namespaces(7)).
    let own = host.euid != 0 && matches!(gid[..], [only] if only.size == 1);
    if host.setgroups_denied || own {
        ensure!(
            groups.is_empty(),
            "process.user.additionalGids: setgroups(2) is denied in this user namespace"
        );
        return Ok(None);
    }
    Ok(Some(groups.to_vec()))
}

fn umask(user: &spec::User, setting: &Setting) -> Result<u32> {
    let umask = user.umask().unwrap_or(setting.umask);
    ensure!(
        umask <= 0o777,
        "process.user.umask: {umask:#o} is not between 0 and 0o777"
    );
    Ok(umask)
}

/// `consoleSize`; a size of which a half is 0 leaves the terminal's own.
fn console_size(size: &spec::Box) -> Result<Option<(u16, u16)>> {
    let side = |name: &str, value: u64| {
        let max = u16::MAX;
        ensure!(
            value <= u64::from(max),
            "process.consoleSize.{name}: {value} is above {max}"
        );
        Ok(value as u16)
    };
    let (rows, columns) = (side("height", size.height())?, side("width", size.width())?);
    Ok((rows != 0 && columns != 0).then_some((rows, columns)))
}

fn rlimits(written: &[spec::PosixRlimit]) -> Result<Vec<Rlimit>> {
    let mut rlimits: Vec<Rlimit> = Vec::with_capacity(written.len());
    for (index, limit) in written.iter().enumerate() {
        let resource = resource(limit.typ());
        if let Some(first) = rlimits.iter().find(|l| l.resource == resource) {
            anyhow::bail!(
                "process.rlimits[{index}].type: {} is also process.rlimits[{}]",
                limit.typ(),
                first.index
            );
        }
        ensure!(
            limit.soft() <= limit.hard(),
            "process.rlimits[{index}].soft: {} is above hard, {}",
            limit.soft(),
            limit.hard()
        );
        rlimits.push(Rlimit {
            resource,
            soft: limit.soft(),
            hard: limit.hard(),
            index,
        });
    }
    Ok(rlimits)
}

fn resource(kind: PosixRlimitType) -> u32 {
    let resource = match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    // c_int with musl, an unsigned enum with glibc.
    #[allow(clippy::unnecessary_cast)]
    {
        resource as u32
    }
}
