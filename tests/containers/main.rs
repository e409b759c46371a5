//! Real containers, made by the built binary as root on this machine; black box.
//!
//! `cargo test --test containers` or `cargo nextest run`. The process first enters a mount namespace
//! of its own, with the unified cgroup hierarchy at /sys/fs/cgroup (`harness::host`), so that the
//! machine may be a hybrid one. Environment: `RUNZ` names another binary to test, even runc;
//! `RUNZ_MUST_RUN=1` makes a skipped test a failed one.
//!
//! A test is a function that takes the way in which containers are to be made, and is listed in its
//! module's `TESTS`; its name begins with the way's. Every test runs cold and with kits, those listed as
//! `from(...)` with warm containers, too. Those that aren't have no `run` for one to be taken: they are about
//! `create`, about what a warm container refuses (runz-zygote(8)), about what making one says, or of a config
//! that no two containers may have at a time.

mod cgroups;
mod channels;
mod devices;
mod dump;
mod errors;
mod escape;
#[cfg(feature = "fault")]
mod faults;
mod foreground;
mod harness;
#[cfg(feature = "fault")]
mod held;
mod hooks;
mod hostile;
mod inside;
mod lifecycle;
mod masks;
mod mounts;
mod namespaces;
mod net;
mod process;
mod propagation;
mod refused;
mod same;
mod seccomp;
mod soak;
mod starved;
mod trace;
mod verbs;
mod warm;
mod zygote;

use harness::runner::{self, Tests};

const MODULES: &[(&str, Tests)] = &[
    ("cgroups", cgroups::TESTS),
    ("channels", channels::TESTS),
    ("devices", devices::TESTS),
    ("errors", errors::TESTS),
    ("escape", escape::TESTS),
    #[cfg(feature = "fault")]
    ("faults", faults::TESTS),
    ("foreground", foreground::TESTS),
    #[cfg(feature = "fault")]
    ("held", held::TESTS),
    ("hooks", hooks::TESTS),
    ("hostile", hostile::TESTS),
    ("lifecycle", lifecycle::TESTS),
    ("masks", masks::TESTS),
    ("mounts", mounts::TESTS),
    ("namespaces", namespaces::TESTS),
    ("net", net::TESTS),
    ("process", process::TESTS),
    ("propagation", propagation::TESTS),
    ("refused", refused::TESTS),
    ("same", same::TESTS),
    ("seccomp", seccomp::TESTS),
    ("soak", soak::TESTS),
    ("starved", starved::TESTS),
    ("trace", trace::TESTS),
    ("verbs", verbs::TESTS),
    ("warm", warm::TESTS),
    #[cfg(feature = "fault")]
    ("warm", warm::FAULTS),
    ("zygote", zygote::TESTS),
    #[cfg(feature = "fault")]
    ("zygote", zygote::FAULTS),
];

fn main() -> std::process::ExitCode {
    if let Some(code) = inside::play() {
        return code;
    }
    runner::main(MODULES)
}
