//! `start`: releases the start barrier.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Context;
use crate::init::message::{self, Message, Step};
use crate::launch::{explain, failed};
use crate::status::{self, Status};
use crate::store::{self, Container, Record};
use crate::sys::{Errno, fs, process};
use crate::{cli, fault, hooks, notify};

/// `start`.
pub fn start(c: &Context, options: &cli::Start) -> Result<u8> {
    c.trace.begin("record");
    let (container, record) = store::open(&c.root, &options.id)?;
    let status = record.status(&container)?;
    if let Err(refusal) = status::may_start(status) {
        bail!(refusal);
    }
    if !record.runz.process {
        bail!("process property must not be empty: the config has no process to start");
    }
    // Whoever starts it may wait for it on another socket than whoever made it.
    let own = std::env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty());
    let notify = match &record.runz.notify {
        Some(host) => {
            let host = own.map_or(host.clone(), PathBuf::from);
            Some(notify::listen(container.path(), Some(&host))?)
        }
        None => None,
    };
    fault::point("start:found")?;
    c.trace.begin("release");
    release(&container, &record)?;
    fault::point("start:released")?;
    if !record.runz.poststart.is_empty() {
        c.trace.begin("poststart");
        let state = record.spec_state("running", record.init_process_pid);
        let bundle = Path::new(&record.runz.bundle);
        if let Err(error) = hooks::run("poststart", &record.runz.poststart, &state, bundle) {
            // The spec: the container is to be stopped.
            let _ = process::pidfd_open(record.init_process_pid)
                .and_then(|fd| process::pidfd_send_signal(fd, libc::SIGKILL));
            return Err(error);
        }
    }
    fault::point("start:poststart")?;
    if let Some(notify) = notify {
        c.trace.begin("notify");
        notify.forward(record.init_process_pid)?;
    }
    Ok(0)
}

/// Writes the byte that init waits for. Only where something depends on it (hooks) do we wait for the
/// program to run: nobody else can tell the difference, and everybody gains the time.
fn release(container: &Container, record: &Record) -> Result<()> {
    let path = container.fifo();
    let name = CString::new(path.as_os_str().as_bytes())?;
    let open = |flags| fs::open(fs::CWD, &name, flags | libc::O_NONBLOCK, 0);
    let write = match open(libc::O_WRONLY) {
        // Nobody reads: init is gone, or has gone on already.
        Err(Errno::ENXIO | Errno::ENOENT) => {
            let alive = record.alive()?;
            let status = if alive {
                Status::Running
            } else {
                Status::Stopped
            };
            let refusal = status::may_start(status).err();
            bail!(refusal.unwrap_or("container not running"));
        }
        other => other.map_err(|e| failed(e, format_args!("open {path:?}")))?,
    };
    let waits = record.runz.start_container || !record.runz.poststart.is_empty();
    let read = match waits {
        true => Some(open(libc::O_RDONLY).map_err(|e| failed(e, format_args!("open {path:?}")))?),
        false => None,
    };
    fault::point("start:opened")?;
    fs::write(&write, &[0]).map_err(|e| failed(e, format_args!("write {path:?}")))?;
    fault::point("start:written")?;
    drop(write);
    std::fs::remove_file(&path).with_context(|| format!("remove {path:?}"))?;
    let Some(read) = read else {
        return Ok(());
    };
    // Init is the last writer. When it executes the program, or ends, its descriptor closes; what is
    // left to read then is why it failed.
    process::wait_hangup(read.as_fd()).map_err(|e| failed(e, "wait for the program to start"))?;
    let mut bytes = [0; message::SIZE];
    let n = fs::read(&read, &mut bytes).unwrap_or(0);
    match Message::decode(&bytes[..n]) {
        Some(Message::Failed(fail)) => {
            let i = fail.index;
            match fail.step {
                Step::StartContainerHook => {
                    bail!("{}", explain::hook_alone("startContainer", &fail))
                }
                _ => bail!(
                    "exec: {} (step {:?} {i})",
                    explain::words(fail.errno),
                    fail.step
                ),
            }
        }
        _ => Ok(()),
    }
}
