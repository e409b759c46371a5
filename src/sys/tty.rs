//! Pseudo-terminals (pty(7), ioctl_tty(2)).

use super::{Result, check_fd, check_int};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Unlocks the slave of a pty master (TIOCSPTLCK).
pub fn unlock(master: impl AsFd) -> Result<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: the kernel reads one int.
    check_int(unsafe {
        libc::ioctl(
            master.as_fd().as_raw_fd(),
            libc::TIOCSPTLCK,
            &raw const unlocked,
        )
    })
    .map(drop)
}

/// Opens a master's slave without a path (TIOCGPTPEER).
pub fn slave(master: impl AsFd) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is an integer.
    check_fd(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// Makes a terminal the controlling one of the caller's session (TIOCSCTTY).
pub fn set_controlling(slave: impl AsFd) -> Result<()> {
    // SAFETY: the argument is an integer.
    check_int(unsafe { libc::ioctl(slave.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Rows and columns (TIOCSWINSZ).
pub fn set_size(terminal: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` outlives the call.
    check_int(unsafe {
        libc::ioctl(
            terminal.as_fd().as_raw_fd(),
            libc::TIOCSWINSZ,
            &raw const size,
        )
    })
    .map(drop)
}

/// Copies the size of one terminal to another, unless it's nothing: nobody has set it then.
pub fn copy_size(from: impl AsFd, to: impl AsFd) -> Result<()> {
    // SAFETY: winsize is plain data, filled by the first call.
    unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        let size = &raw mut size;
        check_int(libc::ioctl(
            from.as_fd().as_raw_fd(),
            libc::TIOCGWINSZ,
            size,
        ))?;
        if ((*size).ws_row, (*size).ws_col) == (0, 0) {
            return Ok(());
        }
        check_int(libc::ioctl(to.as_fd().as_raw_fd(), libc::TIOCSWINSZ, size)).map(drop)
    }
}
