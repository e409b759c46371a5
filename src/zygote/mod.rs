//! The zygote: a daemon that makes parts of containers, and whole ones, before they are asked for.
//!
//! ```text
//! <state root>/@zygote/     0700   `@` can't stand in a container's id
//!   lock                           held by the daemon, with its pid: there is one for each state root
//!   socket                  0600   where it's asked (SOCK_SEQPACKET; see `wire`)
//!   metrics                 0600   the status as Prometheus text, to whoever connects
//!   plans/                  0700   what was decided of configs that were seen before (see `plans`)
//! ```
//!
//! A container's init has to be a descendant of its caller: engines wait for that very pid. So the
//! daemon hands over a [`kit`]: kernel objects that need no process, as descriptors; the caller clones
//! init itself. What fits a plan is its [`shape::Shape`]. Everything here is optional: without a daemon,
//! or with one that doesn't answer within [`client::PATIENCE`], containers are made as ever.

mod bundle;
pub mod caller;
pub mod client;
pub mod config;
pub mod daemon;
pub mod kit;
pub mod memory;
mod parking;
pub mod plans;
pub mod pools;
pub mod shape;
pub mod status;
pub mod warm;
pub mod wire;

use std::path::{Path, PathBuf};

pub use parking::Work;

/// The directory of the zygote of a state root.
pub fn directory(root: &Path) -> PathBuf {
    root.join("@zygote")
}

/// Where the daemon of a state root is asked.
pub fn socket(root: &Path) -> PathBuf {
    directory(root).join("socket")
}

/// Where decided configs are kept.
pub fn plans(root: &Path) -> PathBuf {
    directory(root).join("plans")
}

#[cfg(test)]
mod tests;
