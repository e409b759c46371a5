//! The runtime's own executable, out of the container's reach (CVE-2019-5736).
//!
//! A process of the container that gets hold of `/proc/PID/exe` of the runtime's child, or is made to
//! execute it (`#!/proc/self/exe`), could overwrite the host's binary. runc and crun execute
//! themselves again from a sealed copy or mount, which costs an execve for each container. Here the
//! child stays: it maps the same file again through a read-only mount that belongs to no
//! namespace, and tells the kernel that this is its executable (prctl(2), PR_SET_MM_MAP). From then
//! on nothing leads to a writable mount of the binary: opening `/proc/PID/exe` for writing is EROFS,
//! and the mount can't be made writable, because mount_setattr(2) and mount(2) refuse a mount that is
//! in no mount namespace.

use super::{Errno, Result, check_int};
use std::os::fd::{AsRawFd, BorrowedFd};

/// One loaded segment of the executable.
struct Segment {
    start: usize,
    /// Length of the part that is mapped from the file.
    length: usize,
    offset: i64,
    protection: i32,
}

/// Where the executable is mapped, looked up before the clone.
pub struct Image {
    segments: Vec<Segment>,
}

/// The program headers of the running executable (elf(5), getauxval(3)).
pub fn image() -> Image {
    // SAFETY: the kernel put the address and the number of the program headers of this very
    // executable there; they stay mapped for its whole life. The executable is not relocated
    // (`relocation-model=static`), so p_vaddr is an address.
    let headers = unsafe {
        let first = libc::getauxval(libc::AT_PHDR) as *const libc::Elf64_Phdr;
        std::slice::from_raw_parts(first, libc::getauxval(libc::AT_PHNUM) as usize)
    };
    let mut segments: Vec<Segment> = headers
        .iter()
        .filter(|h| h.p_type == libc::PT_LOAD && h.p_filesz > 0)
        .map(|h| {
            let lead = h.p_vaddr as usize % PAGE;
            let mut protection = 0;
            for (flag, bit) in [
                (libc::PF_R, libc::PROT_READ),
                (libc::PF_W, libc::PROT_WRITE),
                (libc::PF_X, libc::PROT_EXEC),
            ] {
                if h.p_flags & flag != 0 {
                    protection |= bit;
                }
            }
            Segment {
                start: h.p_vaddr as usize - lead,
                length: (h.p_filesz as usize + lead).next_multiple_of(PAGE),
                offset: h.p_offset as i64 - lead as i64,
                protection,
            }
        })
        .collect();
    // What may be written is exchanged without the file: in one piece, where it follows each other.
    segments.dedup_by(|next, before| {
        let both = before.protection & next.protection & libc::PROT_WRITE != 0;
        let one = both && before.start + before.length == next.start;
        before.length += if one { next.length } else { 0 };
        one
    });
    Image { segments }
}

const PAGE: usize = 4096;

/// `struct prctl_mm_map` (linux/prctl.h).
#[repr(C)]
struct MmMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

const PR_SET_MM_MAP: u64 = 14;

/// Makes `exe`, the same file through another mount, the executable of the calling process, and maps
/// `image` from it. Only for a child that is about to leave by execve.
///
/// Needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in the caller's user namespace.
pub fn run_from(image: &Image, exe: BorrowedFd) -> Result<()> {
    let fd = exe.as_raw_fd();
    let mut code = (u64::MAX, 0);
    let mut data = (u64::MAX, 0);
    for segment in &image.segments {
        let Segment {
            start,
            length,
            offset,
            protection,
        } = *segment;
        let writable = protection & libc::PROT_WRITE != 0;
        let span = if writable { &mut data } else { &mut code };
        span.0 = span.0.min(start as u64);
        span.1 = span.1.max((start + length) as u64);
        // SAFETY: the file's bytes are those that are mapped there now; a read-only segment is
        // exchanged for itself, in one step, even where this code lies in it.
        unsafe {
            if writable {
                unfile(start, length)?;
            } else {
                let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
                mapped(libc::mmap(
                    start as _, length, protection, flags, fd, offset,
                ))?;
            }
        }
    }
    // SAFETY: asks where the heap ends.
    let brk = unsafe { libc::syscall(libc::SYS_brk, 0) } as u64;
    let stack = &raw const brk as u64;
    // Every field must be given. Those that are only shown in /proc (the arguments) are left empty:
    // ps(1) then shows the process's name in brackets.
    let map = MmMap {
        start_code: code.0,
        end_code: code.1,
        start_data: data.0,
        end_data: data.1,
        start_brk: brk,
        brk,
        start_stack: stack,
        arg_start: stack,
        arg_end: stack,
        env_start: stack,
        env_end: stack,
        auxv: 0,
        auxv_size: 0,
        exe_fd: fd as u32,
    };
    // SAFETY: `map` outlives the call; the kernel checks the addresses and only records them.
    check_int(unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            PR_SET_MM_MAP,
            &raw const map,
            size_of::<MmMap>(),
            0u64,
        )
    })
    .map(drop)
}

/// Exchanges memory that was mapped from a file and may have been written for memory with the same
/// content and no file: copied beside it, and moved there in one step.
///
/// # Safety
/// `[start, start + length)` is mapped.
unsafe fn unfile(start: usize, length: usize) -> Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // All at once: each page would be a fault.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    // SAFETY: a new mapping, a copy inside both mappings, then one move onto the old.
    unsafe {
        let new = libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0);
        let new = mapped(new)?;
        libc::memcpy(new.cast(), start as _, length);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let moved = libc::mremap(new.cast(), length, length, flags, start as *mut u8);
        mapped(moved).map(drop)
    }
}

fn mapped(address: *mut libc::c_void) -> Result<*mut u8> {
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    Ok(address.cast())
}

/// Makes the kernel keep a file's content in pages as large as can be, by which it's mapped faster: it's
/// read in anew, unless somebody has it mapped. Where a file system has no large pages, in small ones.
pub fn gather(file: BorrowedFd) -> Result<()> {
    let (fd, length) = (file.as_raw_fd(), super::fs::fstat(file)?.st_size as usize);
    // SAFETY: a new mapping of a file, of which nothing is read here.
    unsafe {
        // What isn't written out yet isn't let go of.
        check_int(libc::fdatasync(fd))?;
        match libc::posix_fadvise(fd, 0, 0, libc::POSIX_FADV_DONTNEED) {
            0 => {}
            errno => return Err(Errno::from_raw(errno)),
        }
        let flags = libc::MAP_SHARED;
        let start = libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, flags, fd, 0);
        let start = mapped(start)?.cast();
        // Readahead goes by it (mm/filemap.c, do_sync_mmap_readahead). A kernel without large pages refuses
        // it; what was let go of is read in all the same.
        libc::madvise(start, length, libc::MADV_HUGEPAGE);
        let done = check_int(libc::madvise(start, length, libc::MADV_POPULATE_READ));
        libc::munmap(start, length);
        done.map(drop)
    }
}

/// Memory that a child made by clone3 shares with its parent (mmap(2), MAP_SHARED): for the times of
/// `--trace`.
pub struct Shared {
    start: *mut u64,
    words: usize,
}

impl Shared {
    /// `words` zeroes.
    pub fn new(words: usize) -> Result<Shared> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, never unmapped.
        let start = mapped(unsafe {
            libc::mmap(std::ptr::null_mut(), words * 8, protection, flags, -1, 0)
        })?;
        Ok(Shared {
            start: start.cast(),
            words,
        })
    }

    /// Writes a word; out of range it does nothing.
    pub fn set(&self, index: usize, value: u64) {
        if index < self.words {
            // SAFETY: in range; volatile, because the other process reads it.
            unsafe { self.start.add(index).write_volatile(value) }
        }
    }

    /// Reads a word.
    pub fn get(&self, index: usize) -> u64 {
        if index >= self.words {
            return 0;
        }
        // SAFETY: in range; volatile, because the other process writes it.
        unsafe { self.start.add(index).read_volatile() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_gathered_file_is_in_memory_and_the_same() {
        let path = std::env::temp_dir().join(format!("runz-gather-{}", std::process::id()));
        let content: Vec<u8> = (0..5 << 20).map(|i: u32| (i >> 8) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        gather(file.as_fd()).unwrap();
        let mut there = vec![0; content.len() / PAGE];
        // SAFETY: a new mapping, of which nothing is read.
        unsafe {
            let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
            let fd = file.as_raw_fd();
            let null = std::ptr::null_mut();
            let start = libc::mmap(null, content.len(), protection, flags, fd, 0);
            mapped(start).unwrap();
            check_int(libc::mincore(start, content.len(), there.as_mut_ptr())).unwrap();
            libc::munmap(start, content.len());
        }
        assert!(there.iter().all(|page| page & 1 == 1));
        assert_eq!(std::fs::read(&path).unwrap(), content);
        std::fs::remove_file(&path).unwrap();
    }
}
