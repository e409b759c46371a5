//! The plan cache: configs that were seen before, decided.
//!
//! ```text
//! @zygote/plans/                  0700
//!   <hash of options and config>  0600   head, key, config, decided: see [`Entry`]
//!   <hash of a seccomp profile>          the same: key, profile, program (see `filter`)
//! ```
//!
//! The daemon writes ([`learn`]), whoever makes a container reads ([`look`]). An entry has everything
//! that a decision depends on, config.json whole among it, and all of it is compared: the hash only
//! finds the file. Where the decision has the container's id in it, it is the caller's that is put
//! there; what else depends on the id, or on NOTIFY_SOCKET, is not kept.
//!
//! Engines write the id and paths of the one container into its config.json, so that none is like
//! another. The largest part, the seccomp profile, is: of those the compiled filters are kept.

pub mod filter;

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::bundle;
use crate::decided::{self, Decided};
use crate::host::Host;
use crate::plan::{self, Options};
use crate::sys::program;

/// How an entry begins. The number is for what is outside of the build id's reach: this layout.
const MAGIC: [u8; 8] = *b"runzpln\x01";
/// The largest entry, in bytes. Those of engines have some 20,000.
const LARGEST: usize = 256 << 10;
/// How many entries there are at most.
const ENTRIES: usize = 64;
/// How large all of them may be, in bytes: the state root is memory.
const BYTES: u64 = 2 << 20;
/// An entry that is used has its mtime set, but not more often than this.
const FRESH: Duration = Duration::from_secs(60);

/// Looks for what was decided of a config: `None`, and the caller decides itself. `dir` is the cache's,
/// `config` the text of config.json. `host` is looked at for LSMs, if the config names a label of one.
///
/// What can't be read, or isn't ours alone, is as good as not there.
pub fn look(dir: &Path, config: &[u8], options: &Options, host: &mut Host) -> Option<Decided> {
    if options.notify.is_some() {
        return None;
    }
    let path = dir.join(name(hash(config, options)?));
    let euid = host.euid;
    read(&path, euid, |bytes| {
        understand(bytes, config, options, host)
    })
}

/// Reads a file, if it is `euid`'s alone, and lets `understand` make something of it.
fn read<T>(path: &Path, euid: u32, understand: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    let found = file.metadata().ok()?;
    let size = usize::try_from(found.len()).ok()?;
    let ours = found.uid() == euid && found.mode() & 0o022 == 0;
    if !ours || !found.is_file() || size > LARGEST {
        return None;
    }
    let mut bytes = vec![0; size];
    file.read_exact(&mut bytes).ok()?;
    let understood = understand(&bytes)?;
    let now = SystemTime::now();
    let used = found.modified().ok()?;
    if now.duration_since(used).map_or(true, |age| age > FRESH) {
        let _ = file.set_modified(now);
    }
    Some(understood)
}

/// What an entry has for this config, these options and this host; anything may be in `bytes`.
pub fn understand(
    bytes: &[u8],
    config: &[u8],
    options: &Options,
    host: &mut Host,
) -> Option<Decided> {
    let entry = Entry::split(bytes)?;
    if entry.config != config || entry.sum != mix(0, entry.decided) {
        return None;
    }
    if entry.labels {
        host.look_at_labels();
    }
    if entry.key != key(options, host)? {
        return None;
    }
    let mut decided: Decided = postcard::from_bytes(entry.decided).ok()?;
    decided.plan.keyring = plan::keyring(options).ok()?;
    Some(decided)
}

/// Keeps what was decided, for those who come after; whether it is of a kind that is kept. `dir` is made
/// if it isn't there. The entries that weren't used for longest make room.
///
/// # Errors
/// What the file system says.
pub fn keep(
    dir: &Path,
    config: &[u8],
    options: &Options,
    host: &Host,
    decided: &Decided,
) -> Result<bool> {
    // A group of resctrl may have the id's name.
    if options.notify.is_some() || decided.plan.intel_rdt.is_some() {
        return Ok(false);
    }
    let entry = || {
        let (key, bytes) = (key(options, host)?, postcard::to_allocvec(decided).ok()?);
        let entry = Entry::new(decided.labels, &key, config, &bytes).join()?;
        Some((hash(config, options)?, entry))
    };
    match entry() {
        Some((hash, entry)) => write(dir, &name(hash), &entry),
        None => Ok(false),
    }
}

/// Writes a file, and makes room for it; whether it isn't too large.
fn write(dir: &Path, name: &str, entry: &[u8]) -> Result<bool> {
    if entry.len() > LARGEST {
        return Ok(false);
    }
    let (path, beside) = (dir.join(name), dir.join(format!(".{name}")));
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("make {dir:?}"));
        }
        _ => {}
    }
    let write = || {
        // What a daemon that was killed has left.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(entry)?;
        fs::rename(&beside, &path)
    };
    write().with_context(|| format!("write {path:?}"))?;
    make_room(dir, &path)?;
    Ok(true)
}

/// Removes what is too much, but not `newest`.
fn make_room(dir: &Path, newest: &Path) -> Result<()> {
    let list = || -> std::io::Result<Vec<_>> {
        let mut others = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let found = fs::symlink_metadata(&path)?;
            others.push((path != newest, found.modified()?, found.len(), path));
        }
        Ok(others)
    };
    let mut entries = list().with_context(|| format!("list {dir:?}"))?;
    // The newest first, the longest unused last.
    entries.sort_by_key(|(other, used, ..)| (*other, std::cmp::Reverse(*used)));
    let mut bytes = 0;
    for (index, (other, _, size, path)) in entries.iter().enumerate() {
        bytes += size;
        if *other && (index >= ENTRIES || bytes > BYTES) {
            fs::remove_file(path).with_context(|| format!("remove {path:?}"))?;
        }
    }
    Ok(())
}

/// A file of the cache: [`MAGIC`], four little-endian words (the sizes of key and config, whether labels
/// matter, 0), [`Entry::sum`], then the three parts.
struct Entry<'a> {
    /// The config names an LSM's label.
    labels: bool,
    /// [`mix`] of `decided`: a machine that lost its power may have left something else.
    sum: u64,
    /// What the decision depends on beside the text: see [`key`].
    key: &'a [u8],
    /// The text: config.json.
    config: &'a [u8],
    /// What was decided, by postcard.
    decided: &'a [u8],
}

impl<'a> Entry<'a> {
    fn new(labels: bool, key: &'a [u8], config: &'a [u8], decided: &'a [u8]) -> Entry<'a> {
        Entry {
            labels,
            sum: mix(0, decided),
            key,
            config,
            decided,
        }
    }

    /// The entry's bytes; `None`: it's larger than can be written down.
    fn join(&self) -> Option<Vec<u8>> {
        let parts = [self.key, self.config, self.decided];
        let mut bytes = MAGIC.to_vec();
        let size = |part: &[u8]| u32::try_from(part.len()).ok();
        let (key, config) = (size(self.key)?, size(self.config)?);
        for word in [key, config, u32::from(self.labels), 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.sum.to_le_bytes());
        for part in parts {
            bytes.extend_from_slice(part);
        }
        Some(bytes)
    }

    fn split(bytes: &'a [u8]) -> Option<Entry<'a>> {
        let (magic, bytes) = bytes.split_first_chunk()?;
        let (words, bytes) = bytes.split_first_chunk::<16>()?;
        let (sum, bytes) = bytes.split_first_chunk()?;
        let word = |i: usize| [words[i], words[i + 1], words[i + 2], words[i + 3]];
        let size = |i: usize| usize::try_from(u32::from_le_bytes(word(i))).ok();
        let (key, bytes) = bytes.split_at_checked(size(0)?)?;
        let (config, decided) = bytes.split_at_checked(size(4)?)?;
        (*magic == MAGIC).then_some(Entry {
            labels: size(8)? != 0,
            sum: u64::from_le_bytes(*sum),
            key,
            config,
            decided,
        })
    }
}

/// All that a decision depends on beside the config: which runz this is, the command line, the host.
/// `None`: it can't be told.
fn key(options: &Options, host: &Host) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(256);
    key.extend_from_slice(program::build_id()?);
    postcard::to_extend(&(options, host), key).ok()
}

fn name(hash: u64) -> String {
    format!("{hash:016x}")
}

/// A number for a config and the options, by which it is found and remembered; `None`: of a bundle
/// whose path is no text nothing is kept.
fn hash(config: &[u8], options: &Options) -> Option<u64> {
    let options = postcard::to_allocvec(options).ok()?;
    Some(mix(mix(0, &options), config))
}

/// A fast hash, eight bytes a step. Nobody gains by what collides: everything is compared.
fn mix(seed: u64, bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(step(seed, bytes.len() as u64), |h, w| {
        step(h, u64::from_le_bytes(*w))
    });
    let hash = rest.iter().fold(hash, |h, byte| step(h, u64::from(*byte)));
    (hash ^ (hash >> 32)).wrapping_mul(FACTOR)
}

/// A config that its reader had to decide, or a part of it: hashes of what wasn't there.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The [`hash`] of the config, of which there is no plan.
    whole: Option<u64>,
    /// The [`filter::hash`] of its profile, of which there is no filter.
    profile: Option<u64>,
}

impl Seen {
    /// A config for which [`look`] had nothing; `filtered`: [`filter::decide`] had.
    pub fn new(config: &[u8], options: &Options, filtered: bool) -> Seen {
        let whole = || hash(config, options);
        let profile = || filter::profile(config).map(|at| filter::hash(&config[at]));
        Seen {
            whole: options.notify.is_none().then(whole).flatten(),
            profile: (!filtered).then(profile).flatten(),
        }
    }

    /// There is nothing to be learned.
    pub fn is_nothing(&self) -> bool {
        *self == Seen::default()
    }
}

/// Decides and keeps what was seen of a config, if that is still the same; whether it was, and of a kind
/// that is kept.
///
/// # Errors
/// Why it's refused, or what the file system says.
pub fn learn(
    dir: &Path,
    seen: Seen,
    config: &[u8],
    options: &Options,
    host: &mut Host,
) -> Result<bool> {
    let now = Seen::new(config, options, false);
    let mut kept = false;
    if seen.profile.is_some()
        && seen.profile == now.profile
        && let Some(at) = filter::profile(config)
    {
        kept = filter::keep(dir, &config[at], host.euid)?;
    }
    if seen.whole.is_some() && seen.whole == now.whole {
        let bundle = bundle::understand(config, &options.bundle)?;
        let decided = decided::decide(&bundle, options, host)?;
        kept |= keep(dir, config, options, host, &decided)?;
    }
    Ok(kept)
}

/// The texts that the daemon has heard of lately, by their hashes: something is kept at the second
/// sighting, for the configs of an engine are mostly seen once only.
#[derive(Default)]
pub struct Sightings {
    latest: VecDeque<u64>,
}

/// How many are remembered.
const REMEMBERED: usize = 256;

impl Sightings {
    /// What of it was seen before; from now on all of it was.
    pub fn again(&mut self, seen: Seen) -> Seen {
        Seen {
            whole: seen.whole.filter(|hash| self.seen_before(*hash)),
            profile: seen.profile.filter(|hash| self.seen_before(*hash)),
        }
    }

    fn seen_before(&mut self, hash: u64) -> bool {
        if self.latest.contains(&hash) {
            return true;
        }
        if self.latest.len() == REMEMBERED {
            self.latest.pop_front();
        }
        self.latest.push_back(hash);
        false
    }
}

#[cfg(test)]
pub mod tests;
