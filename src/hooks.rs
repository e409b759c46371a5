//! Hooks that run outside the container, in the runtime's namespaces: prestart, createRuntime,
//! poststart, poststop (runtime-spec, "POSIX-platform Hooks").

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::plan::Hook;
use crate::sys::process::{Exit, pidfd_open, pidfd_send_signal, wait, wait_until};
use crate::sys::{self, Errno};

/// Runs `hooks` of one kind, one after the other, until one fails. `state` is what they read.
pub fn run(kind: &str, hooks: &[Hook], state: &[u8], bundle: &Path) -> Result<()> {
    for (i, hook) in hooks.iter().enumerate() {
        one(hook, state, bundle).with_context(|| format!("error running {kind} hook #{i}"))?;
    }
    Ok(())
}

/// Runs all of them, whatever happens to each; the first failure. For poststop hooks, all of which
/// are to run (runtime-spec, "Lifecycle").
pub fn run_all(kind: &str, hooks: &[Hook], state: &[u8], bundle: &Path) -> Result<()> {
    let mut result = Ok(());
    for (i, hook) in hooks.iter().enumerate() {
        let ran =
            one(hook, state, bundle).with_context(|| format!("error running {kind} hook #{i}"));
        result = result.and(ran);
    }
    result
}

fn one(hook: &Hook, state: &[u8], bundle: &Path) -> Result<()> {
    let errno = |errno: Errno| std::io::Error::from(errno);
    // Files in memory: a hook that never reads, or prints a lot, can't block us.
    let file = || sys::fs::memfd(c"hook").map(File::from).map_err(errno);
    let (mut input, output, error) = (file()?, file()?, file()?);
    input.write_all(state)?;
    input.rewind()?;
    let mut command = Command::new(&hook.path);
    command
        .current_dir(bundle)
        .stdin(OwnedFd::from(input))
        .stdout(Stdio::from(output.try_clone()?))
        .stderr(Stdio::from(error.try_clone()?));
    if let Some((name, rest)) = hook.args.split_first() {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        command.args(rest);
    }
    if let Some(env) = &hook.env {
        command.env_clear();
        command.envs(env.iter().filter_map(|line| line.split_once('=')));
    }
    // What the caller left open is no business of a hook's. The container's own descriptors
    // (--preserve-fds) are marked again by init.
    sys::fs::close_on_exec_from(3).map_err(errno)?;
    let child = command
        .spawn()
        .with_context(|| format!("fork/exec {}", hook.path))?;
    let pidfd = pidfd_open(child.id() as i32).map_err(errno)?;
    let limit = hook
        .timeout
        .map(|s| i32::try_from(s.saturating_mul(1000)).unwrap_or(i32::MAX));
    let texts = || format!("stdout: {}, stderr: {}", text(&output), text(&error));
    match wait_until(pidfd.as_fd(), limit).map_err(errno)? {
        Some(Exit::Code(0)) => Ok(()),
        Some(Exit::Code(code)) => bail!("exit status {code}, {}", texts()),
        Some(Exit::Signal(n)) => bail!("signal: {}, {}", sys::signal_words(n), texts()),
        None => {
            let _ = pidfd_send_signal(&pidfd, libc::SIGKILL);
            let _ = wait(&pidfd);
            let seconds = hook.timeout.unwrap_or_default() as f64;
            bail!("hook ran past specified timeout of {seconds:.1}s")
        }
    }
}

/// What a hook printed, in one line.
pub fn text(file: &File) -> String {
    let mut bytes = Vec::new();
    let mut file = file;
    let _ = file.rewind();
    let _ = file.take(16 << 10).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes)
        .trim_end()
        .replace('\n', "; ")
}
