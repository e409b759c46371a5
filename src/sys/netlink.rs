//! rtnetlink(7): requests about network interfaces, and their answers.
//!
//! All numbers are in the machine's byte order; headers and attributes begin at multiples of four.

use super::{Errno, Result, check, check_fd, retry};
use std::os::fd::{AsRawFd, OwnedFd};

/// A NETLINK_ROUTE socket. It belongs to the network namespace in which it was opened, wherever its
/// owner goes from there.
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// A request: a header, the family's own header, attributes.
pub struct Request(Vec<u8>);

/// Length of nlmsghdr.
const HEADER: usize = 16;
/// Length of rtattr.
const ATTRIBUTE: usize = 4;
/// The kernel never sends more in one datagram of a dump (netlink(7): 8 KiB or a page; since 4.9 up to 32 KiB).
const LARGEST: usize = 32 << 10;

impl Request {
    /// A request of `kind` (RTM_*), acknowledged unless `flags` (NLM_F_*) ask for a dump.
    pub fn new(kind: u16, flags: i32, header: &[u8]) -> Request {
        let mut bytes = vec![0; HEADER];
        let flags = flags | libc::NLM_F_REQUEST;
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
        bytes.extend_from_slice(header);
        Request(bytes)
    }

    /// Adds an attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        let length = (ATTRIBUTE + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

impl Socket {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> Result<Socket> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is involved.
        let fd =
            check_fd(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) }.into())?;
        Ok(Socket { fd, sequence: 0 })
    }

    /// Sends a request and waits for the kernel to have done it.
    pub fn ask(&mut self, request: Request) -> Result<()> {
        self.talk(request, libc::NLM_F_ACK, &mut |_, _| {})
    }

    /// Sends a request for one object; its message without the header.
    pub fn get(&mut self, request: Request) -> Result<Vec<u8>> {
        let mut found = Vec::new();
        self.talk(request, libc::NLM_F_ACK, &mut |_, body| {
            found = body.to_vec();
        })?;
        Ok(found)
    }

    /// Sends a request for all objects; `each` gets their kind and message without the header. EINTR:
    /// something changed meanwhile, so that the list may not be whole.
    pub fn dump(&mut self, request: Request, each: &mut dyn FnMut(u16, &[u8])) -> Result<()> {
        self.talk(request, libc::NLM_F_DUMP, each)
    }

    fn talk(
        &mut self,
        mut request: Request,
        flags: i32,
        each: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<()> {
        self.sequence += 1;
        let bytes = &mut request.0;
        let length = bytes.len() as u32;
        let all = flags as u16 | u16::from_ne_bytes([bytes[6], bytes[7]]);
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[6..8].copy_from_slice(&all.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        let fd = self.fd.as_raw_fd();
        let (from, length) = (bytes.as_ptr().cast(), bytes.len());
        retry(|| {
            // SAFETY: `bytes` outlives the call. Without an address it's the kernel that is meant.
            check(unsafe { libc::send(fd, from, length, 0) } as libc::c_long)
        })?;
        let mut buffer = vec![0u8; LARGEST];
        let mut interrupted = false;
        loop {
            let (to, length) = (buffer.as_mut_ptr().cast(), buffer.len());
            let n = retry(|| {
                // SAFETY: the kernel writes at most the buffer's length.
                check(unsafe { libc::recv(fd, to, length, 0) } as libc::c_long)
            })?;
            for message in messages(&buffer[..n as usize]) {
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        return match word(message.body, 0).map(u32::cast_signed) {
                            Some(error) if error < 0 => Err(Errno::from_raw(-error)),
                            _ if interrupted => Err(Errno::EINTR),
                            _ => Ok(()),
                        };
                    }
                    _ => each(message.kind, message.body),
                }
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = word(bytes, 0)? as usize;
        let body = bytes.get(HEADER..length)?;
        let message = Message {
            kind: half(bytes, 4)?,
            flags: half(bytes, 6)?,
            sequence: word(bytes, 8)?,
            body,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes of a message, behind its own header: their kinds, without flags, and values.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const NLA_TYPE_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The 32-bit number at an offset.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}
