//! `tmpcopyup`: fills a new tmpfs with what it will cover. No allocation: one buffer a level, a
//! bounded depth.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::sys::fs;
use crate::sys::{Errno, Result};

/// Deeper trees are refused (ELOOP): the recursion lives on the stack.
const DEPTH: usize = 64;

/// Copies the content of directory `from` into directory `to`: modes, owners, links and nodes too.
pub fn copy(from: BorrowedFd, to: BorrowedFd) -> Result<()> {
    let from = fs::open(from, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    directory(from.as_fd(), to, DEPTH)
}

fn directory(from: BorrowedFd, to: BorrowedFd, depth: usize) -> Result<()> {
    if depth == 0 {
        return Err(Errno::ELOOP);
    }
    let mut buffer = fs::Entries::new();
    while buffer.fill(from)? {
        while let Some(name) = buffer.next() {
            if name != c"." && name != c".." {
                entry(from, to, name, depth)?;
            }
        }
    }
    Ok(())
}

fn entry(from: BorrowedFd, to: BorrowedFd, name: &CStr, depth: usize) -> Result<()> {
    let stat = fs::stat_at(from, name, libc::AT_SYMLINK_NOFOLLOW)?;
    let mode = stat.st_mode & 0o7777;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            fs::mkdir(to, name, mode)?;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let below = fs::open(from, name, flags, 0)?;
            let made = fs::open(to, name, flags, 0)?;
            directory(below.as_fd(), made.as_fd(), depth - 1)?;
        }
        libc::S_IFREG => {
            let source = fs::open(
                from,
                name,
                libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK,
                0,
            )?;
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
            let target = fs::open(to, name, flags, mode)?;
            let mut data = [0; 4096];
            loop {
                let n = fs::read(&source, &mut data)?;
                if n == 0 {
                    break;
                }
                let mut rest = &data[..n];
                while !rest.is_empty() {
                    rest = &rest[fs::write(&target, rest)?..];
                }
            }
        }
        libc::S_IFLNK => {
            let mut target = [0; libc::PATH_MAX as usize + 1];
            let length = fs::readlink(from, name, &mut target[..libc::PATH_MAX as usize])?.len();
            let target =
                CStr::from_bytes_with_nul(&target[..=length]).map_err(|_| Errno::EINVAL)?;
            fs::symlink(target, to, name)?;
        }
        // A socket is of no use without its process.
        libc::S_IFSOCK => return Ok(()),
        _ => fs::mknod(to, name, stat.st_mode, stat.st_rdev)?,
    }
    if stat.st_uid != 0 || stat.st_gid != 0 {
        fs::chown_at(
            to,
            name,
            stat.st_uid,
            stat.st_gid,
            libc::AT_SYMLINK_NOFOLLOW,
        )?;
    }
    // chown clears set-id bits.
    if !fs::is_type(&stat, libc::S_IFLNK) {
        fs::chmod_at(to, name, mode)?;
    }
    Ok(())
}
