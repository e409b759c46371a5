//! `delete`: what a container held is given back.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use super::Context;
use crate::cgroup::{self, Cgroup};
use crate::status::Status;
use crate::store::{self, Container, Missing, Record};
use crate::sys::{Errno, process};
use crate::{cli, fault, hooks, log, rdt};

/// How long a killed init may take to go, as in runc: its memory may be large, its file systems slow.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// `delete`.
pub fn delete(c: &Context, options: &cli::Delete) -> Result<u8> {
    if let Some(record) = take_away(c, options)? {
        poststop(c, &record);
    }
    Ok(0)
}

/// All of it but the poststop hooks; `None`: there was no whole container.
pub fn take_away(c: &Context, options: &cli::Delete) -> Result<Option<Record>> {
    c.trace.begin("record");
    let (container, record) = match store::open(&c.root, &options.id) {
        Ok(found) => found,
        Err(error) if error.is::<Missing>() => {
            // What a `create` left that was killed half way, and what nobody can use.
            if let Some(half) = store::leftovers(&c.root, &options.id)? {
                remove_half(&half)?;
            }
            if options.force {
                return Ok(None);
            }
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let _lock = container.lock()?;
    fault::point("delete:locked")?;
    c.trace.begin("kill");
    match record.status(&container)? {
        Status::Stopped => {}
        Status::Created => kill(&record)?,
        _ if options.force => kill(&record)?,
        status => bail!(
            "cannot delete container {} that is not stopped: {status}",
            options.id
        ),
    }
    fault::point("delete:killed")?;
    remove(c, &container, &record)?;
    Ok(Some(record))
}

/// Kills a container's init and waits for its end.
fn kill(record: &Record) -> Result<()> {
    let pidfd = match process::pidfd_open(record.init_process_pid) {
        Ok(pidfd) => pidfd,
        Err(Errno::ESRCH) => return Ok(()),
        Err(errno) => return Err(crate::launch::failed(errno, "pidfd_open")),
    };
    // Between the Record and the pidfd the pid may have gone to somebody else.
    if !record.alive()? {
        return Ok(());
    }
    match process::pidfd_send_signal(&pidfd, libc::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => return Err(crate::launch::failed(errno, "kill init")),
    }
    if let Some(path) = &record.runz.cgroup
        && let Ok(cgroup) = Cgroup::open(path)
    {
        // Without a pid namespace of its own, init doesn't take the others with it; a frozen cgroup
        // dies, too.
        cgroup.kill()?;
        cgroup.thaw()?;
    }
    match process::wait_gone(pidfd.as_fd(), KILL_WAIT) {
        Ok(true) => Ok(()),
        Ok(false) => bail!("container init still running"),
        Err(errno) => Err(crate::launch::failed(errno, "wait for init to end")),
    }
}

/// Removes all that a stopped container held, its Record last, and runs its poststop hooks.
pub fn destroy(c: &Context, container: &Container, record: &Record) -> Result<()> {
    remove(c, container, record)?;
    poststop(c, record);
    Ok(())
}

/// Without the hooks.
pub fn remove(c: &Context, container: &Container, record: &Record) -> Result<()> {
    c.trace.begin("cgroup");
    if let Some(path) = &record.runz.cgroup {
        // Usually empty: one rmdir. Otherwise processes are left which init didn't take along.
        if std::fs::remove_dir(path).is_err()
            && let Ok(cgroup) = Cgroup::open(path)
        {
            let _ = cgroup.kill();
            let _ = cgroup.thaw();
            cgroup::remove(path)?;
        }
    }
    fault::point("delete:cgroup")?;
    rdt::remove(record)?;
    c.trace.begin("remove");
    container.remove()?;
    fault::point("delete:removed")
}

/// Runs the poststop hooks of a container that is gone. They inherit what the calling process has.
pub fn poststop(c: &Context, record: &Record) {
    c.trace.begin("poststop");
    let state = record.spec_state("stopped", 0);
    let bundle = Path::new(&record.runz.bundle);
    // The spec: a failure is to be logged, and the others run all the same.
    if let Err(error) = hooks::run_all("poststop", &record.runz.poststop, &state, bundle) {
        c.log.warn(log::sentence(&error));
    }
}

/// How long the init of a killed `create` may take to see that it has no parent any more.
const ORPHAN_WAIT: Duration = Duration::from_secs(2);

/// Removes what a killed `create` left: perhaps an init and its cgroup.
fn remove_half(container: &Container) -> Result<()> {
    if let Some(record) = container.prepared() {
        kill(&record)?;
        if let Some(path) = &record.runz.cgroup {
            cgroup::remove(path)?;
        }
    } else if let Some(path) = container.noted("cgroup") {
        // The note says where a cgroup was to be made: who is in there may be another container, which
        // was there before and for whose sake `create` would have refused. So nobody is killed; an
        // init of ours ends by itself, because its parent is gone.
        let tries = ORPHAN_WAIT.as_millis() / 10;
        for _ in 0..tries {
            match std::fs::remove_dir(&path) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                _ => break,
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    rdt::remove_noted(container)?;
    container.remove()
}
