//! What warm containers are made of, as far as it's noticed that it has changed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bundle;

/// What tells one bundle from another.
pub struct Bundle {
    /// config.json's device, inode, time of change and size: as long as they are the same, it's not read.
    config: [i64; 5],
    /// A hash of its content.
    hash: u64,
    /// The root file system.
    rootfs: PathBuf,
    /// Its device and inode.
    place: (u64, u64),
}

impl Bundle {
    /// Looks at the bundle in `directory`; what is `known` of it isn't read again.
    pub fn look(directory: &Path, known: Option<&Bundle>) -> Result<Bundle> {
        let path = directory.join(bundle::CONFIG);
        let found = std::fs::metadata(&path).with_context(|| format!("stat {path:?}"))?;
        let config = [
            found.dev() as i64,
            found.ino() as i64,
            found.mtime(),
            found.mtime_nsec(),
            found.size() as i64,
        ];
        let (hash, rootfs) = match known.filter(|known| known.config == config) {
            Some(known) => (known.hash, known.rootfs.clone()),
            None => {
                let text = bundle::read(directory)?;
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                let bundle = bundle::understand(&text, directory)?;
                let root = bundle.spec.root().as_ref().context("root: is missing")?;
                (hasher.finish(), root.path().clone())
            }
        };
        let found = std::fs::metadata(&rootfs).with_context(|| format!("root.path: {rootfs:?}"))?;
        Ok(Bundle {
            config,
            hash,
            rootfs,
            place: (found.dev(), found.ino()),
        })
    }

    /// Whether the same is made of both.
    pub fn is(&self, other: &Bundle) -> bool {
        (self.hash, &self.rootfs, self.place) == (other.hash, &other.rootfs, other.place)
    }
}
