//! The sentence that a child's failure becomes. The only place where this is put into words.

use std::ffi::CStr;
use std::fmt::Display;

use crate::init::hooks::{SIGNALLED, TIMED_OUT};
use crate::init::message::{Fail, MountStep, Step};
use crate::plan::{MountKind, Plan, Process};
use crate::sys::{self, Errno};

pub use crate::sys::words;

fn text(c: &CStr) -> std::borrow::Cow<'_, str> {
    c.to_string_lossy()
}

/// Explains a failure of a container's init. `hook_output`: what its hooks printed.
pub fn container(fail: &Fail, plan: &Plan, hook_output: &dyn Fn() -> String) -> String {
    let i = fail.index as usize;
    let because = words(fail.errno);
    let said = |what: &dyn Display| format!("{what}: {because}");
    match fail.step {
        Step::Mount => mount(fail, plan),
        Step::JoinNamespace => match plan.namespaces.join.iter().find(|j| j.index == i) {
            Some(j) => said(&format_args!(
                "linux.namespaces[{i}]: join namespace {:?}",
                text(&j.path)
            )),
            None => said(&"join namespaces"),
        },
        Step::Rootfs => said(&format_args!(
            "preparing rootfs: mount {:?} on itself",
            text(&plan.rootfs)
        )),
        Step::Dev => match plan.dev.as_ref().and_then(|dev| dev.nodes.get(i)) {
            Some(node) => {
                let json = match node.index {
                    Some(index) => format!("linux.devices[{index}]: "),
                    None => String::new(),
                };
                said(&format_args!(
                    "{json}error creating device nodes: {:?}",
                    text(&node.path)
                ))
            }
            None => said(&"error creating device nodes: /dev"),
        },
        Step::Sysctl => {
            let Some(sysctl) = plan.sysctls.get(i) else {
                return said(&"linux.sysctl: write sysctl");
            };
            let value = String::from_utf8_lossy(&sysctl.value);
            said(&format_args!(
                "linux.sysctl.{}: write sysctl {value:?}",
                sysctl.key
            ))
        }
        Step::ReadonlyPath => {
            let path = plan.readonly_paths.get(i).map(|p| text(p));
            let path = path.unwrap_or_default();
            said(&format_args!(
                "linux.readonlyPaths[{i}]: can't make {path:?} read-only"
            ))
        }
        Step::MaskedPath if !fail.text().is_empty() => {
            said(&format_args!("linux.maskedPaths: {}", fail.text()))
        }
        Step::MaskedPath => {
            let path = plan.masked_paths.get(i).map(|p| text(p));
            let path = path.unwrap_or_default();
            said(&format_args!(
                "linux.maskedPaths[{i}]: can't mask path {path:?}"
            ))
        }
        Step::CreateContainerHook => hook("createContainer", fail, hook_output),
        Step::StartContainerHook => hook("startContainer", fail, hook_output),
        Step::Hostname => said(&"hostname: sethostname"),
        Step::Domainname => said(&"domainname: setdomainname"),
        _ => match &plan.process {
            Some(p) => process(fail, p),
            None => other(fail),
        },
    }
}

fn hook(kind: &str, fail: &Fail, output: &dyn Fn() -> String) -> String {
    let i = fail.index;
    let how = match fail.detail {
        TIMED_OUT => "hook ran past its timeout".to_owned(),
        n if n > SIGNALLED => {
            let signal = sys::signal_words((n - SIGNALLED) as i32);
            format!("signal: {signal}, {}", output())
        }
        0 => words(fail.errno),
        code => format!("exit status {code}, {}", output()),
    };
    format!("error running {kind} hook #{i}: {how}")
}

/// Explains a failure of the steps that every process takes.
pub fn process(fail: &Fail, p: &Process) -> String {
    let because = words(fail.errno);
    let said = |what: &dyn Display| format!("{what}: {because}");
    let name = p.args.iter().next().map(|a| text(a)).unwrap_or_default();
    match fail.step {
        Step::Cwd => said(&format_args!(
            "process.cwd: chdir to cwd ({:?})",
            text(&p.cwd)
        )),
        Step::CwdOutside => format!(
            "process.cwd: current working directory is outside of container mount namespace root: {:?}",
            text(&p.cwd)
        ),
        Step::Executable => match fail.errno {
            // The words that engines know (runc-compatibility 1.4): from Go's exec.LookPath.
            Errno::ENOENT | Errno::ENOTDIR if !name.contains('/') => {
                format!("exec: {name:?}: executable file not found in $PATH")
            }
            Errno::ENOENT => format!("exec: {name:?}: stat {name}: no such file or directory"),
            Errno::ENOTDIR => format!("exec: {name:?}: stat {name}: not a directory"),
            Errno::EACCES => format!("exec: {name:?}: permission denied"),
            Errno::EISDIR => format!("exec: {name:?}: is a directory"),
            errno => format!("exec: {name:?}: {}", words(errno)),
        },
        Step::Interpreter => format!(
            "exec {name}: no such file or directory: its interpreter {:?} (line 1, after #!) is not in the container",
            fail.text()
        ),
        Step::Loader => format!(
            "exec {name}: no such file or directory: its ELF loader {:?} is not in the container",
            fail.text()
        ),
        Step::Exec => {
            let hint = match fail.errno {
                Errno::ENOEXEC => "exec format error",
                Errno::ENOENT => "no such file or directory",
                Errno::EACCES => "permission denied",
                _ => return format!("exec {name:?}: {because}"),
            };
            format!("exec {name:?}: {hint}")
        }
        Step::Capabilities => said(&"process.capabilities: can't apply capabilities"),
        Step::Ambient => said(&"process.capabilities.ambient"),
        Step::Groups => said(&"process.user.additionalGids: setgroups"),
        Step::Gid => said(&format_args!("process.user.gid: setgid {}", p.gid)),
        Step::Uid => said(&format_args!("process.user.uid: setuid {}", p.uid)),
        Step::Stdio if !fail.text().is_empty() => said(&format_args!(
            "error reopening /dev/null inside container: {}",
            fail.text()
        )),
        Step::Stdio => said(&format_args!("give stdio to user {}", p.uid)),
        Step::Scheduler
            if fail.errno == Errno::EPERM
                && p.scheduler
                    .is_some_and(|s| s.policy == libc::SCHED_DEADLINE as u32) =>
        {
            // sched_setattr(2), EPERM.
            said(
                &"process.scheduler: sched_setattr: process scheduler can't be used together with \
                  AllowedCPUs",
            )
        }
        Step::Scheduler => said(&"process.scheduler: sched_setattr"),
        Step::IoPriority => said(&"process.ioPriority: ioprio_set"),
        Step::Personality => said(&"linux.personality: personality"),
        Step::MemoryPolicy => said(&"linux.memoryPolicy: set_mempolicy"),
        Step::Seccomp => said(&"linux.seccomp: error loading seccomp filter"),
        Step::NoNewPrivileges => said(&"process.noNewPrivileges: prctl"),
        Step::Console => {
            let words = fail.text();
            let detail = if words.is_empty() {
                String::new()
            } else {
                format!(" ({words})")
            };
            format!("process.terminal: set up console{detail}: {because}")
        }
        Step::PreserveFds => {
            let n = p.preserve_fds;
            format!(
                "unable to stat preserved-fd {} (of {n}): {because}",
                fail.index
            )
        }
        Step::Apparmor => {
            let value = p.apparmor.as_deref().map(text).unwrap_or_default();
            let profile = value.strip_prefix("exec ").unwrap_or(&value);
            let hint = match fail.errno {
                Errno::ENOENT => " (is it loaded?)",
                _ => "",
            };
            said(&format_args!(
                "process.apparmorProfile: unable to apply apparmor profile {profile:?}{hint}: \
                 write /proc/self/attr/apparmor/exec"
            ))
        }
        Step::Selinux => {
            let label = p.selinux.as_deref().map(text).unwrap_or_default();
            said(&format_args!(
                "process.selinuxLabel: error setting SELinux label {label:?}: write \
                 /proc/self/attr/exec"
            ))
        }
        _ => other(fail),
    }
}

fn other(fail: &Fail) -> String {
    let what = match fail.step {
        Step::Seal => "protect the runtime's executable (prctl PR_SET_MM_MAP)",
        Step::Session => "setsid",
        Step::Parked => "take over what the caller wants",
        Step::Keyring => "unable to join session keyring",
        Step::JoinNamespace => "join the container's namespaces",
        Step::Namespaces => "make namespaces",
        Step::TimeOffsets => "linux.timeOffsets: enter the time namespace",
        Step::BecomeRoot => "become root of the user namespace",
        Step::JoinNetwork => "enter the network namespace",
        Step::Loopback => "bring up the loopback interface",
        Step::Propagation => "linux.rootfsPropagation: set the propagation of /",
        Step::Pivot => "pivot to the root file system",
        Step::RootfsPropagation => "linux.rootfsPropagation",
        Step::DevLink => "make the links of /dev",
        Step::ReadonlyRootfs => "root.readonly: remount rootfs",
        Step::Proc => "mount a private procfs",
        Step::Cwd => "process.cwd",
        _ => "container init",
    };
    format!("{what}: {}", words(fail.errno))
}

fn mount(fail: &Fail, plan: &Plan) -> String {
    let i = fail.index as usize;
    let because = words(fail.errno);
    let Some(m) = plan.mounts.get(i) else {
        return format!("mounts: {because}");
    };
    let (source, options) = match &m.kind {
        MountKind::Bind { source, .. } => (text(source), &[][..]),
        MountKind::New {
            source, options, ..
        } => (text(source), options.as_slice()),
        MountKind::Cgroup { options } => ("cgroup".into(), options.as_slice()),
    };
    let target = text(&m.destination);
    let at = format!(
        "error mounting {source:?} to rootfs at {target:?}: mounts[{}]",
        m.index
    );
    let noted = fail.text();
    let kernel = match noted.strip_prefix("e ").unwrap_or(&noted) {
        "" => String::new(),
        words => format!(" ({words})"),
    };
    let what = match fail.detail & 0xff {
        x if x == MountStep::Source as u32 && m.idmap.is_some() => {
            let hint = match fail.errno {
                Errno::EINVAL => " (does its file system support id-mapped mounts?)",
                _ => "",
            };
            format!("open source and map its ids{hint}")
        }
        x if x == MountStep::Source as u32 => "open source".to_owned(),
        x if x == MountStep::Target as u32 => "open the mount point".to_owned(),
        x if x == MountStep::MakeTarget as u32 => "create mountpoint".to_owned(),
        x if x == MountStep::Type as u32 => match &m.kind {
            MountKind::New { fstype, .. } => format!("unknown file system type {:?}", text(fstype)),
            _ => "cgroup2".to_owned(),
        },
        x if x == MountStep::Option as u32 => match options.get((fail.detail >> 8) as usize) {
            Some((key, Some(value))) => {
                format!("option {:?}", format!("{}={}", text(key), text(value)))
            }
            Some((key, None)) => format!("option {:?}", text(key)),
            None => "option".to_owned(),
        },
        x if x == MountStep::Attach as u32 => "attach".to_owned(),
        x if x == MountStep::Attributes as u32 => "set flags".to_owned(),
        x if x == MountStep::LockedFlags as u32 => "cannot clear locked flags".to_owned(),
        x if x == MountStep::Recursive as u32 => "set recursive flags".to_owned(),
        x if x == MountStep::Propagation as u32 => "set propagation".to_owned(),
        x if x == MountStep::CopyUp as u32 => "tmpcopyup".to_owned(),
        x if x == MountStep::Label as u32 => "linux.mountLabel".to_owned(),
        x if x == MountStep::Readonly as u32 => "make it read-only".to_owned(),
        x if x == MountStep::NotProc as u32 => {
            return format!("{at}: {noted}");
        }
        _ => "mount".to_owned(),
    };
    format!("{at}: {what}{kernel}: {because}")
}

/// A failed hook of which only the record is at hand.
pub fn hook_alone(kind: &str, fail: &Fail) -> String {
    hook(kind, fail, &|| match &*fail.text() {
        "" => "it said nothing".to_owned(),
        words => format!("it said: {words}"),
    })
}
