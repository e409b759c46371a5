//! Measures `seccomp::compile`, and what its program costs: to load, and on
//! every system call. Run by hack/benchmark/seccomp, beside libseccomp.c, which does
//! the same with the same profile. Prints a JSON object.

#![allow(dead_code, unsafe_code)]

#[path = "../../src/seccomp/mod.rs"]
mod seccomp;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use oci_spec::runtime::LinuxSeccomp;

const COMPILES: usize = 1000;
const LOADS: usize = 200;
const BATCHES: usize = 20;
const CALLS: u32 = 50_000;

fn main() -> Result<()> {
    let path = std::env::args().nth(1);
    let path = path.unwrap_or_else(|| "tests/data/seccomp-podman.json".to_owned());
    let text = std::fs::read_to_string(&path).context(path)?;
    let profile: LinuxSeccomp = serde_json::from_str(&text)?;

    let mut compile = Vec::with_capacity(COMPILES);
    for _ in 0..COMPILES {
        let start = Instant::now();
        let program = seccomp::compile(&profile)?;
        compile.push(start.elapsed().as_nanos());
        drop(program);
    }
    let program = seccomp::compile(&profile)?;

    let bare = (
        nanoseconds(libc::SYS_getppid),
        nanoseconds(libc::SYS_personality),
    );
    let mut load = Vec::with_capacity(LOADS);
    for _ in 1..LOADS {
        load.push(filtered(&program.filter, || ())?.0);
    }
    let measure = || {
        (
            nanoseconds(libc::SYS_getppid),
            nanoseconds(libc::SYS_personality),
        )
    };
    let (last, slow) = filtered(&program.filter, measure)?;
    load.push(last);

    println!(
        "{{\"compile_us\": {:.1}, \"instructions\": {}, \"load_us\": {:.1}, \
         \"getppid_ns\": {:.1}, \"personality_ns\": {:.1}, \
         \"unfiltered_getppid_ns\": {:.1}, \"unfiltered_personality_ns\": {:.1}}}",
        median(compile),
        program.filter.len(),
        median(load),
        slow.0,
        slow.1,
        bare.0,
        bare.1,
    );
    Ok(())
}

/// In microseconds, of nanoseconds.
fn median(mut samples: Vec<u128>) -> f64 {
    samples.sort_unstable();
    samples[samples.len() / 2] as f64 / 1000.0
}

/// What one call takes, in the best of several batches. Of the two measured, the
/// kernel knows for getppid(2) that its verdict is the same whatever the arguments,
/// and does not run the filter; for personality(2) it does.
fn nanoseconds(number: libc::c_long) -> f64 {
    let batch = || {
        let start = Instant::now();
        for _ in 0..CALLS {
            // SAFETY: getppid takes no arguments; personality(0xffffffff) only
            // reads. Neither touches memory.
            unsafe { libc::syscall(number, 0xffff_ffff_u64) };
        }
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..BATCHES).map(|_| batch()).fold(f64::INFINITY, f64::min)
}

/// Loads `filter` into a thread of its own, where `then` runs. Returns the
/// nanoseconds of loading.
fn filtered<T: Send>(filter: &[libc::sock_filter], then: fn() -> T) -> Result<(u128, T)> {
    let thread = || {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: PR_SET_NO_NEW_PRIVS takes no pointer. It concerns this thread,
        // which ends with this function.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        let start = Instant::now();
        // SAFETY: the kernel reads `program` and `len` instructions behind it,
        // and keeps neither.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const program,
            )
        };
        let load = start.elapsed().as_nanos();
        if result != 0 {
            bail!("seccomp: {}", std::io::Error::last_os_error());
        }
        Ok((load, then()))
    };
    std::thread::scope(|scope| match scope.spawn(thread).join() {
        Ok(result) => result,
        Err(_) => bail!("the filtered thread panicked"),
    })
}
