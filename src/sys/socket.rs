//! Unix sockets: the channel between `launch` and `init`, and descriptors that are sent to others.

use super::{Errno, Result, check, check_fd, check_int, retry};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A connected pair that keeps message boundaries (socketpair(2), SOCK_SEQPACKET).
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel fills both; they are new and ours.
    unsafe {
        check_int(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()))?;
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// How many descriptors a message may carry.
pub const DESCRIPTORS: usize = 32;

/// Room for as many in a control message.
const CONTROL: usize = 16 + 4 * DESCRIPTORS;

#[repr(align(8))]
struct Control([u8; CONTROL]);

/// Sends `data`, and `fd` with it (unix(7), SCM_RIGHTS).
pub fn send(socket: impl AsFd, data: &[u8], fd: Option<BorrowedFd>) -> Result<()> {
    send_many(socket, data, fd.as_slice())
}

/// Sends `data`, and all of `fds` with it, of which there may be [`DESCRIPTORS`].
pub fn send_many(socket: impl AsFd, data: &[u8], fds: &[BorrowedFd]) -> Result<()> {
    if fds.len() > DESCRIPTORS {
        return Err(Errno::EINVAL);
    }
    let mut control = Control([0; CONTROL]);
    let mut io = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let size = (fds.len() * size_of::<RawFd>()) as u32;
    // SAFETY: the headers point to `io` and `control`, which outlive the call; `control` has room
    // for as many descriptors and is aligned for cmsghdr.
    retry(|| unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut io;
        message.msg_iovlen = 1;
        if !fds.is_empty() {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size) as usize;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as usize;
            let room = libc::CMSG_DATA(header).cast::<RawFd>();
            for (n, fd) in fds.iter().enumerate() {
                room.add(n).write_unaligned(fd.as_raw_fd());
            }
        }
        check(
            libc::sendmsg(socket.as_fd().as_raw_fd(), &message, libc::MSG_NOSIGNAL) as libc::c_long,
        )
    })
    .map(drop)
}

/// Receives a message into `data`, and the descriptor that came with it. A length of 0 means that
/// the other end is closed.
pub fn receive(socket: impl AsFd, data: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut fd = [None];
    let n = receive_many(socket, data, &mut fd)?;
    Ok((n, fd[0].take()))
}

/// Receives a message into `data`, and the descriptors that came with it into `fds`, in order; those
/// for which there is no room are closed. EMSGSIZE: it's longer than `data`.
pub fn receive_many(
    socket: impl AsFd,
    data: &mut [u8],
    fds: &mut [Option<OwnedFd>],
) -> Result<usize> {
    let mut control = Control([0; CONTROL]);
    let mut io = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    // SAFETY: as in `send_many`; a received descriptor is new and ours.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut io;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL;
        let mut once = || {
            retry(|| {
                check(libc::recvmsg(
                    socket.as_fd().as_raw_fd(),
                    &mut message,
                    libc::MSG_CMSG_CLOEXEC,
                ) as libc::c_long)
            })
        };
        // It closed with a word of ours unread. That is said once; what it said itself, and that it
        // has closed, comes after.
        let n = match once() {
            Err(Errno::ECONNRESET) => once()?,
            other => other?,
        };
        let mut room = fds.iter_mut();
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                let raw = libc::CMSG_DATA(header).cast::<RawFd>();
                for at in 0..bytes / size_of::<RawFd>() {
                    let fd = OwnedFd::from_raw_fd(raw.add(at).read_unaligned());
                    if let Some(place) = room.next() {
                        *place = Some(fd);
                    }
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
        let cut = |part: i32| message.msg_flags & part != 0;
        // There was room for more of them, but not in this process.
        if cut(libc::MSG_CTRUNC) && room.next().is_some() {
            return Err(Errno::EMFILE);
        }
        if cut(libc::MSG_TRUNC | libc::MSG_CTRUNC) {
            return Err(Errno::EMSGSIZE);
        }
        Ok(n as usize)
    }
}

/// Receives a message of at most `most` bytes as [`receive_many`] does. There is as much room as it
/// takes: to have more costs a page fault for each 4 KiB, to ask only a system call.
pub fn receive_whole(
    socket: impl AsFd,
    most: usize,
    fds: &mut [Option<OwnedFd>],
) -> Result<Vec<u8>> {
    let fd = socket.as_fd().as_raw_fd();
    let flags = libc::MSG_PEEK | libc::MSG_TRUNC;
    let once = || {
        retry(|| {
            // SAFETY: nothing is written where there is no room.
            check(unsafe { libc::recv(fd, std::ptr::null_mut(), 0, flags) } as libc::c_long)
        })
    };
    let length = match once() {
        Err(Errno::ECONNRESET) => once()?, // as above
        other => other?,
    };
    let mut bytes = vec![0; most.min(length as usize)];
    let n = receive_many(socket, &mut bytes, fds)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// Sends nothing any more; the other end sees that (shutdown(2), SHUT_WR).
pub fn say_no_more(socket: impl AsFd) -> Result<()> {
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::shutdown(socket.as_fd().as_raw_fd(), libc::SHUT_WR) }).map(drop)
}

/// Connects to the AF_UNIX stream socket at `path`. A path that is too long for sockaddr_un is
/// reached through its directory's descriptor.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let socket = check_fd(
        unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) }.into(),
    )?;
    with_address(path, |address, length| {
        retry(|| {
            // SAFETY: `address` outlives the call and `length` is within it.
            check_int(unsafe {
                libc::connect(socket.as_raw_fd(), (&raw const *address).cast(), length)
            })
        })
    })?;
    Ok(socket)
}

/// Connects to the SOCK_SEQPACKET socket at `path`, without waiting: EAGAIN when too many others are
/// waiting to be accepted. Reads of it don't wait either.
pub fn connect_packet(path: &Path) -> Result<OwnedFd> {
    let socket = unix(libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK)?;
    with_address(path, |address, length| {
        // SAFETY: `address` outlives the call and `length` is within it.
        check_int(unsafe {
            libc::connect(socket.as_raw_fd(), (&raw const *address).cast(), length)
        })
    })?;
    Ok(socket)
}

fn unix(kind: i32) -> Result<OwnedFd> {
    // SAFETY: no memory is involved.
    check_fd(unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) }.into())
}

/// Binds a socket of that kind (SOCK_STREAM, SOCK_SEQPACKET) at `path` and listens; [`accept`] doesn't
/// wait on it.
pub fn listen(path: &Path, kind: i32) -> Result<OwnedFd> {
    let socket = unix(kind | libc::SOCK_NONBLOCK)?;
    with_address(path, |address, length| {
        // SAFETY: as in `connect_packet`.
        check_int(unsafe { libc::bind(socket.as_raw_fd(), (&raw const *address).cast(), length) })
    })?;
    // SAFETY: no memory is involved.
    check_int(unsafe { libc::listen(socket.as_raw_fd(), libc::SOMAXCONN) })?;
    Ok(socket)
}

/// The next connection; EAGAIN when there is none. Reads and writes of it don't wait.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the peer's address isn't asked for.
    check_fd(unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), flags) }.into())
}

/// The uid of who has connected (unix(7), SO_PEERCRED).
pub fn peer_uid(socket: impl AsFd) -> Result<u32> {
    nix::sys::socket::getsockopt(&socket.as_fd(), nix::sys::socket::sockopt::PeerCredentials)
        .map(|credentials| credentials.uid())
}

/// A listening socket that was inherited, as [`listen`] makes them.
pub fn adopt(listener: BorrowedFd) -> Result<OwnedFd> {
    let fd = listener.as_raw_fd();
    // SAFETY: a new descriptor, and flags of an open file; no memory is involved.
    unsafe {
        check_int(libc::fcntl(
            fd,
            libc::F_SETFL,
            libc::O_RDWR | libc::O_NONBLOCK,
        ))?;
        check_fd(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3).into())
    }
}

/// Binds a datagram socket at `path` and gives it mode 0777, as notify sockets have.
pub fn bind_datagram(path: &Path) -> Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let socket = check_fd(
        unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into(),
    )?;
    with_address(path, |address, length| {
        // SAFETY: as in `connect`.
        check_int(unsafe { libc::bind(socket.as_raw_fd(), (&raw const *address).cast(), length) })
    })?;
    Ok(socket)
}

/// Connects a datagram socket to `path`; a leading `@` is the abstract namespace (sd_notify(3)).
pub fn connect_datagram(path: &Path) -> Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let socket = check_fd(
        unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into(),
    )?;
    with_address(path, |address, length| {
        if address.sun_path[0] == b'@' as libc::c_char {
            address.sun_path[0] = 0;
        }
        // SAFETY: as in `connect`.
        check_int(unsafe {
            libc::connect(socket.as_raw_fd(), (&raw const *address).cast(), length)
        })
    })?;
    Ok(socket)
}

fn with_address<T>(
    path: &Path,
    call: impl FnOnce(&mut libc::sockaddr_un, u32) -> Result<T>,
) -> Result<T> {
    // SAFETY: sockaddr_un is plain data.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    let mut bytes = path.as_os_str().as_bytes().to_vec();
    let directory;
    if bytes.len() >= address.sun_path.len() {
        let parent = path.parent().ok_or(Errno::EINVAL)?;
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let parent =
            std::ffi::CString::new(parent.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        directory = super::fs::open(super::fs::CWD, &parent, libc::O_PATH | libc::O_DIRECTORY, 0)?;
        bytes = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        bytes.extend_from_slice(name.as_bytes());
        if bytes.len() >= address.sun_path.len() {
            return Err(Errno::ENAMETOOLONG);
        }
    }
    for (to, from) in address.sun_path.iter_mut().zip(&bytes) {
        *to = *from as libc::c_char;
    }
    let path_start = std::mem::offset_of!(libc::sockaddr_un, sun_path);
    let terminator = usize::from(bytes.first() != Some(&b'@'));
    let length = path_start + bytes.len() + terminator;
    call(&mut address, length as u32)
}
