//! The runtime's own executable as the child shall have it: through a mount that is read-only and in
//! nobody's namespace (see `sys::mem` for why).

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::init;
use crate::plan::Strings;
use crate::sys::fs::CWD;
use crate::sys::mount::{self, Attr};
use crate::sys::{self, Errno, mem};

/// The executable, protected.
pub struct Exe {
    /// Where it's mapped.
    pub image: mem::Image,
    /// The same file through the read-only mount, or a sealed copy.
    pub file: OwnedFd,
    /// The mount, and the directory that it's a copy of. As long as it's open, it's in an anonymous
    /// namespace; the child closes it before any code of the container runs.
    pub mount: Option<(OwnedFd, CString)>,
}

/// Opens it so. `None`: nobody in the container could write it anyway, because even we can't. `kept`:
/// a read-only mount of its directory that somebody else keeps, and its name there.
pub fn protect(kept: Option<(&OwnedFd, &CStr)>) -> Result<Option<Exe>> {
    if let Some((mount, name)) = kept
        && let Ok(file) = open(mount, name)
    {
        return Ok(Some(Exe {
            image: mem::image(),
            file,
            mount: None,
        }));
    }
    let path = fs::read_link("/proc/self/exe").context("readlink /proc/self/exe")?;
    match through_mount(&path) {
        Ok(exe) => Ok(Some(exe)),
        // Not root; or it was removed, or replaced, since we were started from it; or it's on a mount
        // that can't be copied: unbindable, or of another mount namespace.
        Err(Errno::EPERM | Errno::EACCES | Errno::ENOENT | Errno::ESTALE | Errno::EINVAL) => {
            if own().is_ok_and(sys::fs::is_sealed) {
                return Ok(None);
            }
            let euid = sys::cred::effective_ids().0;
            let owner = fs::metadata("/proc/self/exe")
                .context("stat /proc/self/exe")?
                .uid();
            let writable = sys::fs::access(CWD, c"/proc/self/exe", libc::W_OK).is_ok();
            if euid != 0 && owner != euid && !writable {
                return Ok(None);
            }
            sealed_copy(NAME).map(Some)
        }
        Err(errno) => Err(super::failed(errno, format_args!("protect {path:?}"))),
    }
}

fn own() -> sys::Result<OwnedFd> {
    sys::fs::open(CWD, c"/proc/self/exe", libc::O_RDONLY, 0)
}

/// Executes this very command again, from a sealed copy of the binary, unless that is what runs: for
/// a process that lives long. Its file may be replaced, and its clones need no protection.
pub fn run_from_sealed_copy() -> Result<()> {
    let exe = own().map_err(|e| super::failed(e, "open /proc/self/exe"))?;
    if sys::fs::is_sealed(&exe) {
        return Ok(());
    }
    // Its name is all that it knows of where it comes from: what is in the environment, hooks and others
    // would inherit.
    let path = fs::read_link("/proc/self/exe").context("readlink /proc/self/exe")?;
    let name = c_string(path.as_os_str()).unwrap_or_default();
    let copy = match name.count_bytes() {
        ..=LONGEST_NAME => sealed_copy(&name)?,
        _ => sealed_copy(NAME)?,
    };
    let pair = |(key, value): (OsString, OsString)| [key, value].join(OsStr::new("="));
    let vars = std::env::vars_os().map(pair);
    let strings = |text: Vec<OsString>| -> Result<Strings> {
        let text: sys::Result<_> = text.iter().map(|s| c_string(s)).collect();
        Ok(Strings::new(
            text.map_err(|e| super::failed(e, "copy the command line"))?,
        ))
    };
    let (args, vars) = (
        strings(std::env::args_os().collect())?,
        strings(vars.collect())?,
    );
    let errno = sys::process::execveat(&copy.file, args.as_ptr(), vars.as_ptr());
    Err(super::failed(errno, "execute the sealed copy"))
}

fn c_string(text: &OsStr) -> sys::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL)
}

/// A read-only copy of a directory's mount.
fn readonly(directory: &CStr) -> sys::Result<OwnedFd> {
    let mount = mount::clone_tree(CWD, directory, false)?;
    let attr = Attr {
        set: libc::MOUNT_ATTR_RDONLY,
        ..Attr::default()
    };
    mount::set_attr(&mount, false, attr)?;
    Ok(mount)
}

/// Opens our own executable in a directory.
fn open(directory: &OwnedFd, name: &CStr) -> sys::Result<OwnedFd> {
    let file = sys::fs::open(directory, name, libc::O_RDONLY, 0)?;
    // The path may name another file by now: one that isn't mapped here would be executed instead.
    let (found, own) = (
        sys::fs::fstat(&file)?,
        sys::fs::stat_at(CWD, c"/proc/self/exe", 0)?,
    );
    if (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino) {
        return Err(Errno::ESTALE);
    }
    Ok(file)
}

fn through_mount(path: &Path) -> sys::Result<Exe> {
    let directory = c_string(path.parent().ok_or(Errno::ENOENT)?.as_os_str())?;
    let name = c_string(path.file_name().ok_or(Errno::ENOENT)?)?;
    let mount = readonly(&directory)?;
    let file = open(&mount, &name)?;
    Ok(Exe {
        image: mem::image(),
        file,
        mount: Some((mount, directory)),
    })
}

/// A copy that need not tell where it comes from.
const NAME: &CStr = c"runz";
/// memfd_create(2): the longest name, in bytes.
const LONGEST_NAME: usize = 249;

/// The directory of the executable that this process is a sealed copy of, read-only, and its name there, to
/// be kept for others (see [`protect`]).
pub fn directory() -> Result<(OwnedFd, CString)> {
    let copy = fs::read_link("/proc/self/exe").context("readlink /proc/self/exe")?;
    let name = copy.as_os_str().as_bytes().strip_prefix(b"/memfd:");
    let name = name.and_then(|name| name.strip_suffix(b" (deleted)"));
    let path = Path::new(OsStr::from_bytes(name.unwrap_or_default()));
    if !path.is_absolute() {
        bail!("{copy:?} is no copy that tells of what");
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let open = || {
        let name = c_string(path.file_name().ok_or(Errno::ENOENT)?)?;
        Ok((readonly(&c_string(directory.as_os_str())?)?, name))
    };
    open().map_err(|e| super::failed(e, format_args!("keep the directory of {path:?}")))
}

/// Has the executable that this process is a sealed copy of kept in memory in large pages, so that all who
/// execute it have less to map and to unmap: it's mostly there in small ones, as it was written or faulted in.
pub fn gather() -> Result<()> {
    let (directory, name) = directory()?;
    let file = sys::fs::open(&directory, &name, libc::O_RDONLY, 0);
    file.and_then(|file| mem::gather(file.as_fd()))
        .map_err(|e| super::failed(e, "read the executable in large pages"))
}

/// A copy in memory that nobody can change (memfd_create(2)). Dear, about a millisecond and the size
/// of the binary; only where no mount can be made.
fn sealed_copy(name: &CStr) -> Result<Exe> {
    let content = fs::read("/proc/self/exe").context("read /proc/self/exe")?;
    let make = || {
        let file = sys::fs::memfd(name)?;
        let mut rest = &content[..];
        while !rest.is_empty() {
            rest = &rest[sys::fs::write(&file, rest)?..];
        }
        sys::fs::seal(&file)?;
        Ok(file)
    };
    let file = make().map_err(|errno| super::failed(errno, "copy the executable to memory"))?;
    Ok(Exe {
        image: mem::image(),
        file,
        mount: None,
    })
}

impl Exe {
    /// What the child needs of it.
    pub fn borrow(&self) -> init::Exe<'_> {
        init::Exe {
            image: &self.image,
            file: self.file.as_fd(),
            mount: self
                .mount
                .as_ref()
                .map(|(fd, path)| (fd.as_fd(), path.as_c_str())),
        }
    }
}
