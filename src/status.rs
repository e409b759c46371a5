//! Which state a container is in, and which verb is allowed in which. Pure.

use std::fmt;

/// A container's state (runtime-spec, "State"), and `paused`, which runc adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// What is known of a container.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Its init is there: not gone, no zombie, and the one that was recorded.
    pub alive: bool,
    /// Its cgroup is frozen.
    pub frozen: bool,
    /// Its start barrier, exec.fifo, is still there.
    pub waiting: bool,
}

/// runc's order: a frozen container is paused even if it was never started.
pub fn status(facts: Facts) -> Status {
    match facts {
        Facts { alive: false, .. } => Status::Stopped,
        Facts { frozen: true, .. } => Status::Paused,
        Facts { waiting: true, .. } => Status::Created,
        _ => Status::Running,
    }
}

/// Why a verb is not allowed; the words are runc's, which engines and scripts look for.
pub type Refusal = &'static str;

/// `start`.
pub fn may_start(status: Status) -> Result<(), Refusal> {
    match status {
        Status::Created => Ok(()),
        Status::Running => Err("cannot start an already running container"),
        Status::Stopped => Err("cannot start a container that has stopped"),
        Status::Paused => Err("cannot start a container in the paused state"),
    }
}

/// `exec`.
pub fn may_exec(status: Status, ignore_paused: bool) -> Result<(), Refusal> {
    match status {
        Status::Stopped => Err("cannot exec in a stopped container"),
        Status::Paused if !ignore_paused => {
            Err("cannot exec in a paused container (use --ignore-paused to override)")
        }
        _ => Ok(()),
    }
}

/// `pause`.
pub fn may_pause(status: Status) -> Result<(), Refusal> {
    match status {
        Status::Created | Status::Running => Ok(()),
        Status::Paused => Err("container not running or created: paused"),
        Status::Stopped => Err("container not running"),
    }
}

/// `resume`.
pub fn may_resume(status: Status) -> Result<(), Refusal> {
    match status {
        Status::Paused => Ok(()),
        _ => Err("container not paused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_from_facts() {
        let of = |alive, frozen, waiting| {
            status(Facts {
                alive,
                frozen,
                waiting,
            })
        };
        assert_eq!(of(true, false, true), Status::Created);
        assert_eq!(of(true, false, false), Status::Running);
        assert_eq!(of(true, true, false), Status::Paused);
        assert_eq!(of(true, true, true), Status::Paused);
        for (frozen, waiting) in [(false, false), (true, false), (false, true), (true, true)] {
            assert_eq!(of(false, frozen, waiting), Status::Stopped);
        }
    }

    #[test]
    fn verbs_and_states() {
        use Status::*;
        let all = [Created, Running, Paused, Stopped];
        let allowed = |may: fn(Status) -> Result<(), Refusal>| all.map(|s| may(s).is_ok());
        assert_eq!(allowed(may_start), [true, false, false, false]);
        assert_eq!(allowed(|s| may_exec(s, false)), [true, true, false, false]);
        assert_eq!(allowed(|s| may_exec(s, true)), [true, true, true, false]);
        assert_eq!(allowed(may_pause), [true, true, false, false]);
        assert_eq!(allowed(may_resume), [false, false, true, false]);
    }
}
