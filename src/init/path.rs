//! Paths inside the root file system: resolved by the kernel with the root as `/`, and only handed on
//! as descriptors (openat2(2), RESOLVE_IN_ROOT). A rootfs may hold any symlink it likes.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::fs::{self, IN_ROOT};
use crate::sys::{Errno, Result};

/// A path built on the stack.
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    /// An empty one.
    pub fn new() -> Self {
        Text {
            bytes: [0; N],
            length: 0,
        }
    }

    /// Appends; ENAMETOOLONG when there is no room left for it and the terminator.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.length + bytes.len();
        if end >= N {
            return Err(Errno::ENAMETOOLONG);
        }
        self.bytes[self.length..end].copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }

    /// Appends a number.
    pub fn push_number(&mut self, mut number: u32, base: u32) -> Result<()> {
        let mut digits = [0; 32];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b"0123456789abcdef"[(number % base) as usize];
            number /= base;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[at..])
    }

    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// As a C string; EINVAL when a NUL is inside.
    pub fn c_str(&self) -> Result<&CStr> {
        CStr::from_bytes_with_nul(&self.bytes[..self.length + 1]).map_err(|_| Errno::EINVAL)
    }
}

/// Opens what `path` is inside `root`, as O_PATH.
pub fn open(root: BorrowedFd, path: &CStr) -> Result<OwnedFd> {
    fs::openat2(root, path, libc::O_PATH, 0, IN_ROOT)
}

/// Opens `path` inside `root` as O_PATH, made first if it's missing: directories with mode 0755, and
/// the last part as an empty file unless `directory`.
pub fn open_or_make(root: BorrowedFd, path: &CStr, directory: bool) -> Result<OwnedFd> {
    match open(root, path) {
        Err(Errno::ENOENT) => make(root, path.to_bytes(), directory),
        other => other,
    }
}

/// How many dangling symlinks are followed, as the kernel's MAXSYMLINKS.
const LINKS: usize = 40;

// On its own: what it needs of the stack would be touched page by page even where nothing is missing.
#[inline(never)]
fn make(root: BorrowedFd, path: &[u8], directory: bool) -> Result<OwnedFd> {
    // Each round walks from the root. It ends at the target, or at a symlink that points to nothing;
    // then the link's target takes the place of the part walked so far, and the next round begins.
    let mut text = Text::<{ libc::PATH_MAX as usize }>::new();
    text.push(path)?;
    for _ in 0..LINKS {
        match walk(root, text.bytes(), directory)? {
            Walked::There(fd) => return Ok(fd),
            Walked::Link(next) => text = next,
        }
    }
    Err(Errno::ELOOP)
}

#[expect(clippy::large_enum_variant, reason = "init has no heap")]
enum Walked {
    There(OwnedFd),
    Link(Text<{ libc::PATH_MAX as usize }>),
}

fn walk(root: BorrowedFd, path: &[u8], directory: bool) -> Result<Walked> {
    let mut parent = open(root, c"/")?;
    let mut prefix = Text::<{ libc::PATH_MAX as usize }>::new();
    let mut rest = path;
    loop {
        let (name, after) = split(rest);
        if name.is_empty() {
            return Ok(Walked::There(parent));
        }
        let last = split(after).0.is_empty();
        let start = prefix.length;
        prefix.push(b"/")?;
        prefix.push(name)?;
        let opened = match open(root, prefix.c_str()?) {
            Err(Errno::ENOENT) => {
                let mut own = Text::<256>::new();
                own.push(name)?;
                let made = if last && !directory {
                    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
                    fs::open(&parent, own.c_str()?, flags, 0o755).map(drop)
                } else {
                    fs::mkdir(&parent, own.c_str()?, 0o755)
                };
                match made {
                    Ok(()) => open(root, prefix.c_str()?)?,
                    Err(Errno::EEXIST) => {
                        let mut buffer = [0; libc::PATH_MAX as usize];
                        let target = fs::readlink(&parent, own.c_str()?, &mut buffer)?;
                        let mut next = Text::new();
                        if !target.starts_with(b"/") {
                            next.push(&prefix.bytes()[..start])?;
                            next.push(b"/")?;
                        }
                        next.push(target)?;
                        next.push(b"/")?;
                        next.push(after)?;
                        return Ok(Walked::Link(next));
                    }
                    Err(errno) => return Err(errno),
                }
            }
            other => other?,
        };
        parent = opened;
        rest = after;
    }
}

/// The first part of a path and what follows it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let start = path.iter().position(|b| *b != b'/').unwrap_or(path.len());
    let path = &path[start..];
    let end = path.iter().position(|b| *b == b'/').unwrap_or(path.len());
    path.split_at(end)
}

/// The directory of an absolute path, opened inside `root` and made if it's missing, and the last
/// part of the path.
pub fn open_parent<'p>(root: BorrowedFd, path: &'p CStr) -> Result<(OwnedFd, &'p CStr)> {
    let bytes = path.to_bytes_with_nul();
    let slash = bytes
        .iter()
        .rposition(|b| *b == b'/')
        .ok_or(Errno::EINVAL)?;
    let name = CStr::from_bytes_with_nul(&bytes[slash + 1..]).map_err(|_| Errno::EINVAL)?;
    let mut directory = Text::<{ libc::PATH_MAX as usize }>::new();
    directory.push(b"/")?;
    directory.push(&bytes[..slash])?;
    Ok((open_or_make(root, directory.c_str()?, true)?, name))
}

/// Whether `fd` is on a file system of that magic number (statfs(2)).
pub fn is_on(fd: impl AsFd, magic: libc::c_long) -> bool {
    fs::fstatfs(fd).is_ok_and(|found| found == magic)
}
