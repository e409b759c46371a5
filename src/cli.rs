//! The command line: what `runz` was asked to do, as typed values.
//!
//! One struct per verb, its fields named as the flags. Clap holds the names, the help and the
//! types; [`words`] puts Go's `flag` syntax, which every engine speaks (`-no-subreaper`,
//! `--force=false`, flags after the container id), into the one form clap reads.
//! Nothing here touches the machine: paths are as given, relative to the caller's directory.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use crate::zygote::warm::Until;

mod criu;
mod globals;
#[cfg(test)]
mod manual;
mod parse;
mod plain;
#[cfg(test)]
mod tests;
mod values;
mod words;

#[cfg(test)]
use criu::CgroupsMode;
pub use criu::{Checkpoint, Restore};
pub use globals::{Caller, Root, absolute};
pub use parse::parse;

/// The version of the OCI runtime spec that this build speaks.
pub const SPEC_VERSION: &str = "1.3.0";

/// What the command line asks for.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum Parsed {
    /// Do this.
    Run(Global, Command),
    /// Nothing to do but print: help, version. The exit code is 0.
    Exit {
        /// The text for stdout, newline included.
        stdout: String,
    },
    /// The command line is wrong. `message` goes to the log of `global`, as the error of any verb does.
    Refused {
        /// The globals as far as they were understood; the default ones if they are what is wrong.
        global: Global,
        /// Usage, for stdout; may be empty.
        stdout: String,
        /// One line, runc's words, without the program's name.
        message: String,
        /// 1, or 3 for an unknown command.
        code: u8,
    },
}

/// The whole tree, for help, completion and the manual's test. A run builds one verb only.
#[derive(Debug, Parser)]
#[command(name = "runz", about = "Open Container Initiative runtime", long_about = None)]
#[command(disable_help_flag = true, disable_help_subcommand = true)]
pub struct Tree {
    #[command(flatten)]
    global: Global,
    /// Print the version
    #[arg(short, long)]
    version: bool,
    /// Print this help
    #[arg(short, long, global = true, action = clap::ArgAction::Help, display_order = 1000)]
    help: Option<bool>,
    #[command(subcommand)]
    command: Command,
}

/// The flags before the verb.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Global {
    /// Log debug messages too
    #[arg(long)]
    pub debug: bool,
    /// Write the log to this file instead of stderr
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Write log lines as text or as JSON
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Keep the state of containers in this directory [default: /run/runz, or $XDG_RUNTIME_DIR/runz for a rootless caller]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Let systemd make the cgroups; cgroupsPath is then "slice:prefix:name"
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Choose who makes the cgroups, as in crun [default: cgroupfs]
    #[arg(long, value_enum, value_name = "MANAGER")]
    pub cgroup_manager: Option<CgroupManager>,
    /// Ignore that cgroups may not be written
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    pub rootless: Rootless,
    /// Use this criu binary instead of the one in $PATH
    #[arg(long, value_name = "FILE")]
    pub criu: Option<PathBuf>,
    /// Write where the time went to this file, as Chrome trace events; also accepted after the command
    #[arg(long, global = true, value_name = "FILE", display_order = 1000)]
    pub trace: Option<PathBuf>,
    /// Take what the zygote has prepared; also accepted after the command [default: auto, or $RUNZ_ZYGOTE]
    #[arg(
        long,
        value_enum,
        global = true,
        value_name = "WHEN",
        display_order = 1000
    )]
    pub zygote: Option<Prepared>,
}

/// `--zygote`: whether a container is made of what the zygote has prepared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Prepared {
    /// As far as there is something that fits.
    #[default]
    Auto,
    /// Never ask.
    Off,
    /// Fail if there is no zygote, or it doesn't answer.
    Require,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// logrus' text lines.
    #[default]
    #[value(alias = "")]
    Text,
    /// One JSON object per line.
    Json,
}

/// `--cgroup-manager` (crun).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum CgroupManager {
    /// Directories made by runz.
    #[default]
    Cgroupfs,
    /// Transient units made by systemd.
    Systemd,
    /// No cgroup at all: the container stays in the caller's.
    Disabled,
}

/// `--rootless`: whether permission errors on cgroups are ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Rootless {
    /// Always. The aliases are the spellings of Go's `strconv.ParseBool`.
    #[value(aliases = ["1", "t", "T", "TRUE", "True"])]
    True,
    /// Never.
    #[value(aliases = ["0", "f", "F", "FALSE", "False"])]
    False,
    /// If the caller is not root, or is root of a user namespace.
    #[default]
    #[value(aliases = ["", "AUTO", "Auto"])]
    Auto,
}

/// The verb with its flags.
#[derive(Debug, Clone, PartialEq, Subcommand)]
#[allow(missing_docs, reason = "the structs say it")]
pub enum Command {
    Checkpoint(Checkpoint),
    Completion(Completion),
    Create(Create),
    Delete(Delete),
    Events(Events),
    Exec(Exec),
    Features(Features),
    Kill(Kill),
    List(List),
    Pause(Pause),
    Ps(Ps),
    Restore(Restore),
    Resume(Resume),
    Run(Run),
    Spec(Spec),
    Start(Start),
    State(State),
    Update(Update),
    Zygote(Zygote),
}

/// Create a container, its process waiting for start
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Create {
    /// Take config.json and rootfs from this directory [default: the current one]
    #[arg(short, long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Send the terminal's master end to this AF_UNIX socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Send a pidfd of the container's process to this AF_UNIX socket
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Move the root mount instead of pivot_root, for a rootfs on a ramdisk
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Pass N more file descriptors after stdio and $LISTEN_FDS
    #[arg(long, default_value = "0", value_name = "N", value_parser = values::u32)]
    pub preserve_fds: u32,
    /// Name of the container, unique under --root
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// Create a container and start it
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Run {
    /// The flags that `create` has too.
    #[command(flatten)]
    pub create: Create,
    /// Return as soon as the container runs
    #[arg(short, long)]
    pub detach: bool,
    /// Leave the container's state in place after it exits
    #[arg(long)]
    pub keep: bool,
    /// Let orphans of the container be reaped by somebody else
    #[arg(long)]
    pub no_subreaper: bool,
    /// Take a warm container of this pool of the zygote's; its bundle is the pool's
    #[arg(long, value_name = "POOL")]
    pub from: Option<String>,
    /// With --from: set an environment variable (repeatable)
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// With --from: start in this directory of the container
    #[arg(long, value_name = "PATH")]
    pub cwd: Option<String>,
    /// With --from: set the container's host name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// With --from: take limits from this file, or from stdin if it is "-", as update does
    #[arg(long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// With --from: the program and its arguments, instead of the bundle's
    #[arg(value_name = "command", trailing_var_arg = true)]
    pub args: Vec<String>,
}

/// Start the process of a created container
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Start {
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// Execute another process in a container
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Exec {
    /// Send the terminal's master end to this AF_UNIX socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Send a pidfd of the process to this AF_UNIX socket
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Start in this directory of the container
    #[arg(long, value_name = "PATH")]
    pub cwd: Option<String>,
    /// Set an environment variable (repeatable)
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Run as this user and group of the container
    #[arg(short, long, value_name = "UID[:GID]", value_parser = values::user)]
    pub user: Option<User>,
    /// Add a supplementary group id (repeatable)
    #[arg(short = 'g', long, value_name = "GID", value_parser = values::gid)]
    pub additional_gids: Vec<u32>,
    /// Take the process from this file, a JSON object like "process" in config.json
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Return as soon as the process runs
    #[arg(short, long)]
    pub detach: bool,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Set the SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// Set the AppArmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// Set no_new_privs for the process
    #[arg(long)]
    pub no_new_privs: bool,
    /// Add a capability (repeatable)
    #[arg(short, long, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Pass N more file descriptors after stdio
    #[arg(long, default_value = "0", value_name = "N", value_parser = values::u32)]
    pub preserve_fds: u32,
    /// Run in this existing sub-cgroup of the container (repeatable)
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    pub cgroup: Vec<String>,
    /// Go ahead although the container is paused
    #[arg(long)]
    pub ignore_paused: bool,
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
    /// The program and its arguments, unless --process is given
    #[arg(value_name = "command", trailing_var_arg = true)]
    pub args: Vec<String>,
}

/// `exec --user`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct User {
    /// The uid in the container's user namespace.
    pub uid: u32,
    /// The gid, where one was given.
    pub gid: Option<u32>,
}

/// Send a signal to the container's process
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Kill {
    /// Don't mind that the container is no longer running
    #[arg(short, long, hide = true)]
    pub all: bool,
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
    /// The signal, by name or number [default: SIGTERM]
    #[arg(value_name = "signal")]
    pub signal: Option<String>,
}

/// Delete a container and all it holds
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Delete {
    /// Kill the container first if it runs; do nothing if there is none
    #[arg(short, long)]
    pub force: bool,
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// Show the state of a container
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct State {
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// List the containers under --root
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct List {
    /// Print a table or JSON
    #[arg(
        short,
        long,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub format: Format,
    /// Print only the ids
    #[arg(short, long)]
    pub quiet: bool,
}

/// `list --format`, `ps --format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One line of JSON.
    Json,
}

/// Show the processes of a container
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Ps {
    /// Print a table or JSON
    #[arg(
        short,
        long,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub format: Format,
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
    /// Options for the host's ps [default: -ef]
    #[arg(value_name = "ps options", trailing_var_arg = true)]
    pub args: Vec<String>,
}

/// Suspend all processes of a container
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Pause {
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// Resume all processes of a paused container
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Resume {
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// Change the resource limits of a container
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Update {
    /// Take the limits from this file, or from stdin if it is "-"; every other flag is then ignored
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Set the weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT", value_parser = values::weight)]
    pub blkio_weight: Option<u16>,
    /// Set the length of a CFS period in µs, 0 for the system's default
    #[arg(long, value_name = "MICROSECONDS", value_parser = values::decimal_u64)]
    pub cpu_period: Option<u64>,
    /// Set the CPU time allowed in a period in µs
    #[arg(long, value_name = "MICROSECONDS", value_parser = values::decimal_i64)]
    pub cpu_quota: Option<i64>,
    /// Set the unused CPU time that may be saved up in µs
    #[arg(long, value_name = "MICROSECONDS", value_parser = values::decimal_u64)]
    pub cpu_burst: Option<u64>,
    /// Set the CPU shares, a weight relative to other containers
    #[arg(long, value_name = "SHARES", value_parser = values::decimal_u64)]
    pub cpu_share: Option<u64>,
    /// Set the length of a realtime period in µs, 0 for the system's default
    #[arg(long, value_name = "MICROSECONDS", value_parser = values::decimal_u64)]
    pub cpu_rt_period: Option<u64>,
    /// Set the realtime CPU time allowed in a period in µs
    #[arg(long, value_name = "MICROSECONDS", value_parser = values::decimal_i64)]
    pub cpu_rt_runtime: Option<i64>,
    /// Set SCHED_IDLE for the cgroup (1) or not (0)
    #[arg(long, value_name = "0|1", value_parser = values::decimal_i64)]
    pub cpu_idle: Option<i64>,
    /// Set the CPUs to use, like 0-3,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Set the memory nodes to use, like 0,1
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Do nothing: the kernel has no such limit any more
    #[arg(long, value_name = "SIZE", value_parser = values::size, hide = true)]
    pub kernel_memory: Option<i64>,
    /// Do nothing: the kernel has no such limit any more
    #[arg(long, value_name = "SIZE", value_parser = values::size, hide = true)]
    pub kernel_memory_tcp: Option<i64>,
    /// Set the memory limit, like 512m, -1 for unlimited
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub memory: Option<i64>,
    /// Set the soft memory limit
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub memory_reservation: Option<i64>,
    /// Set the limit of memory and swap together, -1 for unlimited swap
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub memory_swap: Option<i64>,
    /// Set the number of processes allowed, -1 for unlimited
    #[arg(long, value_name = "N", value_parser = values::i64)]
    pub pids_limit: Option<i64>,
    /// Set the Intel RDT schema of the L3 cache
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// Set the Intel RDT schema of the memory bandwidth
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// Show a container's statistics and OOM events as they come
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Events {
    /// Show the statistics once
    #[arg(long)]
    pub stats: bool,
    /// Show the statistics this often; never zero
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = values::interval)]
    pub interval: Duration,
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// Write a new config.json
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Spec {
    /// Write it into this directory [default: the current one]
    #[arg(short, long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Write one for a container without root
    #[arg(long)]
    pub rootless: bool,
}

/// Show what this build can do, as JSON
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Features {}

/// Write a completion script for a shell
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct Completion {
    /// The shell
    #[arg(value_enum, value_name = "shell")]
    pub shell: Shell,
}

/// `completion`'s shells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prepare parts of containers, and whole ones, before they are asked for
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Zygote {
    /// Read this file, in TOML [default: /etc/runz/zygote.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print a table or JSON
    #[arg(
        short,
        long,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub format: Format,
    /// provision: keep warm containers under this name
    #[arg(long, value_name = "POOL")]
    pub name: Option<String>,
    /// provision: make them of this bundle [default: the current directory]
    #[arg(short, long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// provision: keep as many [default: 1]
    #[arg(long, value_name = "N", value_parser = values::u32)]
    pub count: Option<u32>,
    /// provision: make them up to the start barrier, or run them until they say READY=1 on NOTIFY_SOCKET [default: created]
    #[arg(long, value_enum, value_name = "STATE")]
    pub until: Option<Until>,
    /// provision: freeze them when they are ready
    #[arg(long)]
    pub freeze: bool,
    /// What to do
    #[arg(value_enum, value_name = "action")]
    pub action: Action,
    /// The pool to drop
    #[arg(value_name = "pool")]
    pub pool: Option<String>,
}

/// `zygote`'s actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Be the daemon, in the foreground.
    Serve,
    /// Show what the daemon has, and what was asked of it.
    Status,
    /// Keep a pool of warm containers, or give it another size.
    Provision,
    /// Keep a pool no longer.
    Drop,
    /// Let the daemon read its configuration again.
    Reload,
    /// End the daemon.
    Stop,
}
