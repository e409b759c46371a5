//! The plan cache: configs that were seen before, decided.
//!
//! ```text
//! @zygote/plans/                  0700
//!   <hash of options and config>  0600   head, key, config, decided: see [`Entry`]
//! ```
//!
//! The daemon writes ([`keep`]), whoever makes a container reads ([`look`]). An entry has everything
//! that a decision depends on, config.json whole among it, and all of it is compared: the hash only
//! finds the file. Where the decision has the container's id in it, it is the caller's that is put
//! there; what else depends on the id, or on NOTIFY_SOCKET, is not kept.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::decided::Decided;
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
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(dir.join(name(hash(config, options)?)))
        .ok()?;
    let found = file.metadata().ok()?;
    let size = usize::try_from(found.len()).ok()?;
    let ours = found.uid() == host.euid && found.mode() & 0o022 == 0;
    if !ours || !found.is_file() || size > LARGEST {
        return None;
    }
    let mut bytes = vec![0; size];
    file.read_exact(&mut bytes).ok()?;
    let decided = understand(&bytes, config, options, host)?;
    let now = SystemTime::now();
    let used = found.modified().ok()?;
    if now.duration_since(used).map_or(true, |age| age > FRESH) {
        let _ = file.set_modified(now);
    }
    Some(decided)
}

/// What an entry has for this config, these options and this host; anything may be in `bytes`.
pub fn understand(
    bytes: &[u8],
    config: &[u8],
    options: &Options,
    host: &mut Host,
) -> Option<Decided> {
    let entry = Entry::split(bytes)?;
    if entry.config != config {
        return None;
    }
    if entry.labels {
        host.look_at_labels();
    }
    if entry.key != key(options, host)? || entry.sum != mix(0, entry.decided) {
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
    let entry = hash(config, options).zip(Entry::join(config, options, host, decided));
    let Some((hash, entry)) = entry else {
        return Ok(false);
    };
    if entry.len() > LARGEST {
        return Ok(false);
    }
    let name = name(hash);
    let (path, beside) = (dir.join(&name), dir.join(format!(".{name}")));
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
        file.write_all(&entry)?;
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
    /// See [`key`].
    key: &'a [u8],
    /// config.json.
    config: &'a [u8],
    /// [`Decided`].
    decided: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The bytes of an entry; `None`: it can't be written down.
    fn join(config: &[u8], options: &Options, host: &Host, decided: &Decided) -> Option<Vec<u8>> {
        let key = key(options, host)?;
        let mut bytes = Vec::with_capacity(config.len() + (8 << 10));
        bytes.extend_from_slice(&MAGIC);
        let (keys, configs) = (key.len().try_into().ok()?, config.len().try_into().ok()?);
        for word in [keys, configs, u32::from(decided.labels), 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let decided = postcard::to_allocvec(decided).ok()?;
        bytes.extend_from_slice(&mix(0, &decided).to_le_bytes());
        for part in [key.as_slice(), config, &decided] {
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
pub fn hash(config: &[u8], options: &Options) -> Option<u64> {
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

/// The configs that the daemon has heard of lately, by their [`hash`]: a plan is kept at the second
/// sighting, for those of an engine are often seen once only.
#[derive(Default)]
pub struct Sightings {
    latest: VecDeque<u64>,
}

/// How many configs are remembered.
const REMEMBERED: usize = 256;

impl Sightings {
    /// Whether it was seen before; from now on it was.
    pub fn seen_before(&mut self, hash: u64) -> bool {
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
mod tests;
