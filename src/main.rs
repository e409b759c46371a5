//! runz: an OCI container runtime that starts containers faster than any other.
//!
//! ```text
//! argv ──cli──▶ Command ─┐
//! config.json ─bundle──▶ Spec ─┼─plan──▶ Plan ──launch──▶ init (child) ──▶ execve
//! /proc,/sys ──host──▶ Host ─┘             │
//!                                          └──store──▶ Record (state.json)
//! ```
//!
//! `plan` and `seccomp` decide and are pure; `launch` acts in the parent, `init` in the child; `sys`
//! has all the `unsafe`. README, "How it works", tells more.

#![cfg_attr(not(test), no_main)]
#![cfg_attr(fuzzing, allow(dead_code))]

mod bundle;
mod cgroup;
mod cli;
mod cmd;
mod decided;
mod fault;
mod hooks;
mod host;
mod init;
mod launch;
mod log;
mod net;
mod notify;
mod plan;
mod rdt;
mod seccomp;
mod status;
mod store;
mod sys;
mod trace;
mod zygote;

#[cfg(fuzzing)]
#[path = "../tests/fuzz/fuzz_targets/wire.rs"]
mod wire;

use std::io::Write as _;

use cli::Parsed;
use log::Log;

/// Does what the command line says; the exit code. Called by `sys::start`.
#[cfg_attr(test, expect(dead_code, reason = "tests have a main of their own"))]
fn start() -> u8 {
    let begun = sys::process::monotonic();
    let (global, command) = match cli::parse(std::env::args_os()) {
        Parsed::Run(global, command) => (global, command),
        Parsed::Exit { stdout } => {
            let _ = std::io::stdout().write_all(stdout.as_bytes());
            return 0;
        }
        Parsed::Refused {
            global,
            stdout,
            message,
            code,
        } => {
            let _ = std::io::stdout().write_all(stdout.as_bytes());
            Log::open(&global)
                .unwrap_or_else(|_| Log::stderr())
                .fail(&message);
            return code;
        }
    };
    let missing = cmd::missing_descriptor(&command);
    let log = match Log::open(&global) {
        Ok(log) => log,
        Err(error) => {
            Log::stderr().fail(&log::sentence(&error));
            return 1;
        }
    };
    let done = match missing {
        Some(error) => Err(error),
        None => cmd::run(&global, &command, &log, begun),
    };
    match done {
        Ok(code) => {
            log.release();
            code
        }
        Err(error) => {
            log.fail(&log::sentence(&error));
            cmd::failure(&command)
        }
    }
}
