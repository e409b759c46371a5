//! Where the program begins: the C library's `main`, not Rust's.
//!
//! Rust's own start reads /proc/self/maps, makes a signal stack and ignores SIGPIPE, which together
//! cost a tenth of a `start`, and which a child made by clone3 would have to undo. Nothing here
//! needs any of it; the arguments reach `std::env` all the same.

use std::io::Write;

/// Called by the C library.
// SAFETY: the one definition of this symbol.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> libc::c_int {
    let code = crate::start();
    // What Rust's own start would do at the end. Destructors and atexit handlers have nothing to do.
    let _ = std::io::stdout().flush();
    super::process::exit_now(code.into())
}
