//! Network interfaces.

use super::{Result, check_fd, check_int};
use std::os::fd::AsRawFd;

/// Sets the loopback interface of the caller's network namespace up (netdevice(7), SIOCSIFFLAGS).
pub fn loopback_up() -> Result<()> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: ifreq is plain data; its flags are those that the ioctl reads.
    unsafe {
        let socket = check_fd(libc::socket(libc::AF_INET, kind, 0).into())?;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        check_int(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            &raw mut request,
        ))
        .map(drop)
    }
}
