//! The flags of checkpoint and restore, which are criu's.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values;

/// Checkpoint a running container
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Checkpoint {
    /// Write criu's image files here [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    pub image_path: Option<PathBuf>,
    /// Write criu's work files and logs here
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Find the images of an earlier pre-dump here, relative to --image-path
    #[arg(long, value_name = "DIR")]
    pub parent_path: Option<PathBuf>,
    /// Leave the container running
    #[arg(long)]
    pub leave_running: bool,
    /// Allow open TCP connections
    #[arg(long)]
    pub tcp_established: bool,
    /// Skip TCP connections that are being made
    #[arg(long)]
    pub tcp_skip_in_flight: bool,
    /// Allow unlinked files to be linked back
    #[arg(long)]
    pub link_remap: bool,
    /// Allow external unix sockets
    #[arg(long)]
    pub ext_unix_sk: bool,
    /// Allow shell jobs
    #[arg(long)]
    pub shell_job: bool,
    /// Serve memory pages lazily, by userfaultfd
    #[arg(long)]
    pub lazy_pages: bool,
    /// Write \0 to this file descriptor once the lazy pages can be served
    #[arg(long, default_value = "-1", value_name = "N", value_parser = values::i32)]
    pub status_fd: i32,
    /// Send the pages to this page server
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub page_server: Option<String>,
    /// Handle file locks
    #[arg(long)]
    pub file_locks: bool,
    /// Dump only the memory and leave the container running
    #[arg(long)]
    pub pre_dump: bool,
    /// Choose how cgroups are saved [default: soft]
    #[arg(long, value_enum, value_name = "MODE")]
    pub manage_cgroups_mode: Option<CgroupsMode>,
    /// Leave this namespace empty: network (repeatable)
    #[arg(long, value_name = "NAMESPACE")]
    pub empty_ns: Vec<String>,
    /// Deduplicate the memory images
    #[arg(long)]
    pub auto_dedup: bool,
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// Restore a container from a checkpoint
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Restore {
    /// Send the terminal's master end to this AF_UNIX socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Read criu's image files from here [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    pub image_path: Option<PathBuf>,
    /// Write criu's work files and logs here
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    pub tcp_established: bool,
    /// Allow external unix sockets
    #[arg(long)]
    pub ext_unix_sk: bool,
    /// Allow shell jobs
    #[arg(long)]
    pub shell_job: bool,
    /// Handle file locks
    #[arg(long)]
    pub file_locks: bool,
    /// Choose how cgroups are restored [default: soft]
    #[arg(long, value_enum, value_name = "MODE")]
    pub manage_cgroups_mode: Option<CgroupsMode>,
    /// Take config.json and rootfs from this directory [default: the current one]
    #[arg(short, long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Return as soon as the container runs
    #[arg(short, long)]
    pub detach: bool,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Let orphans of the container be reaped by somebody else
    #[arg(long)]
    pub no_subreaper: bool,
    /// Move the root mount instead of pivot_root, for a rootfs on a ramdisk
    #[arg(long)]
    pub no_pivot: bool,
    /// Leave this namespace empty: network (repeatable)
    #[arg(long, value_name = "NAMESPACE")]
    pub empty_ns: Vec<String>,
    /// Deduplicate the memory images
    #[arg(long)]
    pub auto_dedup: bool,
    /// Load memory pages lazily, by userfaultfd
    #[arg(long)]
    pub lazy_pages: bool,
    /// Restore with this LSM profile
    #[arg(long, value_name = "TYPE:NAME")]
    pub lsm_profile: Option<String>,
    /// Restore mounts with this SELinux context
    #[arg(long, value_name = "CONTEXT")]
    pub lsm_mount_context: Option<String>,
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// `--manage-cgroups-mode` of checkpoint and restore: criu's modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "criu(8) says it")]
pub enum CgroupsMode {
    Soft,
    Full,
    Strict,
    Ignore,
}
