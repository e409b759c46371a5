//! Faults for tests: at a named point the process is killed, or the step fails. Compiled only with the
//! feature `fault`; without it both functions are empty, and no released binary has any of this.
//!
//! `RUNZ_FAULT=POINT=ACTION`. POINT is the name given to [`point`], or `child:STEP[:INDEX]` for a step
//! of `init` by its name in `init::message`. ACTION is `kill` (SIGKILL to the process that gets there),
//! `eio` (a point of the parent fails with EIO), `stop` (SIGSTOP to itself) or, in the child, `orphan`: SIGKILL to the parent
//! (not after init has closed its descriptors, from Step::Executable on).

#[cfg(not(feature = "fault"))]
mod here {
    use crate::init::message::Step;

    /// Nothing.
    #[inline(always)]
    pub fn point(_name: &str) -> anyhow::Result<()> {
        Ok(())
    }

    /// Nothing.
    #[inline(always)]
    pub fn step(_step: Step, _index: usize) {}
}

#[cfg(feature = "fault")]
mod here {
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::OnceLock;
    use std::time::Duration;

    use crate::init::message::{STEPS, Step};
    use crate::launch::failed;
    use crate::sys::process::{self, own_pid, pidfd_open, pidfd_send_signal};
    use crate::sys::{self, Errno};

    #[derive(PartialEq, Eq)]
    enum Action {
        Kill,
        Fail,
        Stop,
        Orphan,
    }

    struct Fault {
        point: String,
        step: Option<(Step, usize)>,
        action: Action,
        /// For `orphan`: the process that asked first, the child's parent; and a word to its killer.
        parent: Option<(OwnedFd, OwnedFd)>,
    }

    static FAULT: OnceLock<Option<Fault>> = OnceLock::new();

    fn read() -> Option<Fault> {
        let text = std::env::var("RUNZ_FAULT").ok()?;
        let (point, action) = text.rsplit_once('=')?;
        let step = point.strip_prefix("child:").and_then(|step| {
            let (name, index) = step.split_once(':').unwrap_or((step, "0"));
            let known = STEPS.iter().find(|known| format!("{known:?}") == name)?;
            Some((*known, index.parse().ok()?))
        });
        let action = match action {
            "kill" => Action::Kill,
            "eio" => Action::Fail,
            "stop" => Action::Stop,
            "orphan" => Action::Orphan,
            _ => return None,
        };
        let parent = match action {
            Action::Orphan => Some((pidfd_open(own_pid()).ok()?, killer()?)),
            _ => None,
        };
        Some(Fault {
            point: point.to_owned(),
            step,
            action,
            parent,
        })
    }

    /// A process that kills this one when told to: a child in a pid namespace of its own can't.
    fn killer() -> Option<OwnedFd> {
        let victim = pidfd_open(own_pid()).ok()?;
        let (read, write) = sys::fs::pipe().ok()?;
        if let process::Clone::Child = process::clone3(0, None).ok()? {
            drop(write);
            if sys::fs::read(&read, &mut [0]) == Ok(1) {
                let _ = pidfd_send_signal(&victim, libc::SIGKILL);
            }
            process::exit_now(0);
        }
        Some(write)
    }

    /// A point of the parent.
    pub fn point(name: &str) -> anyhow::Result<()> {
        match FAULT.get_or_init(read) {
            Some(fault) if fault.point == name => match fault.action {
                Action::Fail => Err(failed(Errno::EIO, format_args!("fault at {name}"))),
                Action::Stop => {
                    stop();
                    Ok(())
                }
                _ => die(),
            },
            _ => Ok(()),
        }
    }

    /// A step of the child. Allocates nothing.
    pub fn step(step: Step, index: usize) {
        let Some(Some(fault)) = FAULT.get() else {
            return;
        };
        if fault.step != Some((step, index)) {
            return;
        }
        let Some((parent, killer)) = &fault.parent else {
            match fault.action {
                Action::Stop => return stop(),
                _ => die(),
            }
        };
        let _ = sys::fs::write(killer, &[0]);
        let _ = process::wait_gone(parent.as_fd(), Duration::from_secs(10));
    }

    fn stop() {
        let own = pidfd_open(own_pid());
        let _ = own.and_then(|own| pidfd_send_signal(own, libc::SIGSTOP));
    }

    fn die() -> ! {
        let own = sys::process::pidfd_open(own_pid());
        let _ = own.and_then(|own| pidfd_send_signal(own, libc::SIGKILL));
        // The init of a pid namespace can't be killed from inside; by a trap it can.
        std::process::abort()
    }
}

pub use here::{point, step};
