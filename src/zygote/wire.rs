//! What passes between the daemon and those who ask: one message a packet, over SOCK_SEQPACKET.
//!
//! ```text
//!   0  4  "runz"
//!   4  2  version, little-endian: only equal versions understand each other
//!   6  2  0
//!   8  4  length of what follows
//!  12     the message, as postcard encodes it
//! ```
//!
//! Descriptors come by SCM_RIGHTS. Whoever receives something else says so and hangs up: it's another
//! version, which is answered by going the cold way.

use std::ffi::CString;

use anyhow::{Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plans::Seen;
use super::shape::Shape;
use super::status::Status;
use super::warm::Provision;

/// Changes with every change of a message, of [`Shape`] or of what the descriptors are.
pub const VERSION: u16 = 2;

/// The longest message, in bytes.
pub const MOST: usize = 64 << 10;

/// The longest device filter that is asked for, in instructions: not every one would fit into a message.
pub const FILTER: usize = 2 << 10;

const MAGIC: &[u8; 4] = b"runz";
const HEADER: usize = 12;

/// What is asked of the daemon.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// A kit of this shape.
    Kit {
        /// The shape.
        shape: Shape,
        /// Make one if there is none: `--zygote require`.
        wait: bool,
        /// The device filter that the container will have; each item is one `struct bpf_insn`.
        devices: Option<Vec<u64>>,
    },
    /// A config was seen for which there is no plan. Not answered.
    Seen {
        /// What of it there isn't.
        seen: Seen,
        /// The options, as postcard encodes them.
        options: Vec<u8>,
    },
    /// A warm container of this pool. What is wanted of it comes in the next message, for its keeper.
    Warm {
        /// The pool's name.
        pool: String,
    },
    /// Keep a pool of warm containers; answered when it's filled.
    Provision(Provision),
    /// Keep it no longer.
    Drop {
        /// The pool's name.
        name: String,
    },
    /// What it has and did.
    Status,
    /// Read the configuration again.
    Reload,
    /// End.
    Stop,
}

/// What the daemon answers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// A kit. With it come the descriptors of its namespaces in the order of [`super::kit::ORDER`],
    /// those of its trees, one of the directory of the executable, and one of the device filter.
    Kit {
        /// CLONE_NEW* of its namespaces: those of the shape that can be made here.
        kinds: u64,
        /// Who made it.
        maker: Maker,
        /// The trees below /dev are in it already, and have no descriptors.
        whole: bool,
        /// The directory of the executable is there, in which it has this name.
        exe: Option<CString>,
        /// The device filter that was asked for is there.
        devices: bool,
    },
    /// There is none: go the cold way.
    Cold(Cold),
    /// As asked.
    Status(Box<Status>),
    /// It's done.
    Done,
    /// It can't be done.
    Refused(String),
}

/// What a kit's maker has in common with whoever takes it, or else the kit isn't for him.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    /// The inode of the user namespace, which owns the kit's namespaces.
    pub user: u64,
    /// The inode of the network namespace, of which a new one may inherit settings
    /// (net.core.devconf_inherit_init_net).
    pub network: u64,
    /// /proc/self/attr/current: an LSM may label files by who made them. Empty without an LSM.
    pub label: Vec<u8>,
}

/// Why there is no kit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cold {
    /// Of a shape that was never asked for before.
    New,
    /// All are taken.
    Empty,
    /// The last one couldn't be made.
    Broken,
}

impl Cold {
    /// In a word.
    pub fn words(self) -> &'static str {
        match self {
            Cold::New => "nothing of this shape is made yet",
            Cold::Empty => "all kits of this shape are taken",
            Cold::Broken => "kits of this shape can't be made",
        }
    }
}

/// Lays a message out.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 6]);
    let mut bytes = postcard::to_extend(message, bytes)?;
    let length = bytes.len() - HEADER;
    ensure!(
        bytes.len() <= MOST,
        "a message of {length} bytes is too long"
    );
    bytes[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// Reads a message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let Some((header, body)) = bytes.split_at_checked(HEADER) else {
        bail!("a message of {} bytes", bytes.len());
    };
    ensure!(&header[..4] == MAGIC, "not a message of runz");
    let version = u16::from_le_bytes([header[4], header[5]]);
    ensure!(
        version == VERSION,
        "version {version} of the protocol, this is version {VERSION}"
    );
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    ensure!(
        length as usize == body.len() && header[6..8] == [0, 0],
        "a message of another length than it says"
    );
    match postcard::take_from_bytes(body)? {
        (message, []) => Ok(message),
        (_, rest) => bail!("{} bytes behind a message", rest.len()),
    }
}
