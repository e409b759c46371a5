//! The program: where it is, and whether execve(2) will take it. The kernel answers ENOENT alike for a
//! missing program, a missing `#!` interpreter and a missing ELF loader; here they are told apart.

use std::ffi::CStr;

use super::message::{Fail, Step};
use super::park::Candidates;
use super::path::Text;
use crate::sys::Errno;
use crate::sys::fs::{self, CWD};

/// The first of `candidates` that can be executed, as execvp(3) searches, and its ELF machine if that
/// isn't this one's. What execve(2) will refuse is said now, while somebody listens.
pub fn find(candidates: Candidates<'_>) -> Result<(&CStr, u16), Fail> {
    let several = candidates.iter().nth(1).is_some();
    let mut denied = None;
    for (i, candidate) in candidates.iter().enumerate() {
        match executable(candidate) {
            Ok(()) => return look(candidate).map(|machine| (candidate, machine)),
            Err(Errno::ENOENT | Errno::ENOTDIR) if several => {}
            Err(errno) if several => denied = denied.or(Some((i, errno))),
            Err(errno) => return Err(Fail::new(Step::Executable, errno).of(i)),
        }
    }
    let (i, errno) = denied.unwrap_or((0, Errno::ENOENT));
    Err(Fail::new(Step::Executable, errno).of(i))
}

fn executable(candidate: &CStr) -> Result<(), Errno> {
    let stat = fs::stat_at(CWD, candidate, 0)?;
    if fs::is_type(&stat, libc::S_IFDIR) {
        return Err(Errno::EISDIR);
    }
    if !fs::is_type(&stat, libc::S_IFREG) {
        return Err(Errno::EACCES);
    }
    fs::access(CWD, candidate, libc::X_OK)
}

const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// Reads the head of the file. One that may be executed but not read, or is no format that is known
/// here (binfmt_misc), is the kernel's affair.
fn look(program: &CStr) -> Result<u16, Fail> {
    let mut head = [0; 512];
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let Ok(file) = fs::open(CWD, program, flags, 0) else {
        return Ok(0);
    };
    let Ok(n) = fs::read(&file, &mut head) else {
        return Ok(0);
    };
    let head = &head[..n];
    if let Some(line) = head.strip_prefix(b"#!") {
        // execve(2), "Interpreter scripts": spaces and tabs, then the path up to white space.
        let blank = |b: &u8| *b == b' ' || *b == b'\t';
        let start = line.iter().position(|b| !blank(b)).unwrap_or(line.len());
        let line = &line[start..];
        let end = line.iter().position(|b| blank(b) || *b == b'\n' || *b == 0);
        let Some(end) = end.filter(|end| *end > 0) else {
            return Ok(0);
        };
        return needed(&line[..end], Step::Interpreter).map(|()| 0);
    }
    let half = |at: usize| Some(u16::from_le_bytes([*head.get(at)?, *head.get(at + 1)?]));
    if !head.starts_with(b"\x7fELF") {
        return Ok(0);
    }
    // elf(5): e_machine; e_phoff, e_phentsize and e_phnum of ELFCLASS64.
    let machine = half(18).unwrap_or(0);
    if machine != EM_X86_64 {
        return Ok(if machine == EM_386 { 0 } else { machine });
    }
    let word = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let (Some(headers), Some(size), Some(number)) = (word(32), half(54), half(56)) else {
        return Ok(0);
    };
    for i in 0..usize::from(number) {
        let at = headers as usize + i * usize::from(size);
        let kind = head.get(at..at + 4).map(|b| [b[0], b[1], b[2], b[3]]);
        if kind.map(u32::from_le_bytes) != Some(libc::PT_INTERP) {
            continue;
        }
        let (Some(start), Some(length)) = (word(at + 8), word(at + 32)) else {
            break;
        };
        let mut loader = [0; 256];
        let length = (length as usize).saturating_sub(1).min(loader.len());
        let read = fs::read_at(&file, &mut loader[..length], start);
        if read == Ok(length) && length > 0 {
            needed(&loader[..length], Step::Loader)?;
        }
        break;
    }
    Ok(0)
}

/// Fails when a file that the kernel will open for execve isn't there.
fn needed(path: &[u8], step: Step) -> Result<(), Fail> {
    let mut text = Text::<512>::new();
    if text.push(path).is_err() {
        return Ok(());
    }
    let Ok(name) = text.c_str() else {
        return Ok(());
    };
    match fs::access(CWD, name, libc::F_OK) {
        Err(errno @ (Errno::ENOENT | Errno::ENOTDIR)) => Err(Fail::new(step, errno).noting(path)),
        _ => Ok(()),
    }
}
