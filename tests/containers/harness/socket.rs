//! Messages with descriptors (unix(7), SCM_RIGHTS).

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Receives one message, and what descriptors come with it.
#[allow(unsafe_code)]
pub fn receive(socket: BorrowedFd) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut data = vec![0; 8192];
    let mut space = nix::cmsg_space!([i32; 8]);
    let mut parts = [IoSliceMut::new(&mut data)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags);
    let message = message.expect("receive a message");
    let mut fds = Vec::new();
    for control in message.cmsgs().expect("control messages") {
        if let ControlMessageOwned::ScmRights(all) = control {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else has them.
            fds.extend(
                all.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    let n = message.bytes;
    data.truncate(n);
    (data, fds)
}
