//! Writing settings to a cgroup, its device filter included.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Result, anyhow, bail};
use nix::errno::Errno;

use super::settings::{Check, Filter, Mode, Write};
use super::{Cgroup, Settings, failed};
use crate::sys::bpf;

/// What bpftool shows as the name of the filter.
const FILTER_NAME: &str = "runz_devices";

/// Loads a device filter; each item of `program` is one `struct bpf_insn`.
pub fn load_filter(program: &[u64]) -> Result<OwnedFd, Errno> {
    bpf::load(program, FILTER_NAME)
}

impl Cgroup {
    /// Writes all settings, in their order, and attaches the device filter. The first failure
    /// ends it; what was written before stays, so a new cgroup is then to be discarded.
    pub fn apply(&self, settings: &Settings) -> Result<()> {
        self.apply_limits(settings)?;
        self.apply_devices(settings, None)
    }

    /// The first half of [`apply`](Self::apply): what must be in force before a process of the
    /// container is born.
    pub fn apply_limits(&self, settings: &Settings) -> Result<()> {
        if let Some(check) = settings.check {
            self.refuse_if_below_usage(check)?;
        }
        let mut again = None;
        let mut completed = false;
        for write in &settings.writes {
            let mut result = self.set(write);
            if result == Err(Errno::ENOENT) && !completed {
                // Nobody has switched the controller on yet, perhaps.
                self.complete(settings)?;
                completed = true;
                result = self.set(write);
            }
            match result {
                Ok(()) => {}
                Err(Errno::ENOENT) if write.mode == Mode::IfPresent => {}
                Err(Errno::EINVAL) if write.mode == Mode::AgainAfterNext => {
                    again = Some(write);
                    continue;
                }
                Err(errno) => return Err(self.explain(write, errno)),
            }
            if let Some(earlier) = again.take() {
                self.set(earlier)
                    .map_err(|errno| self.explain(earlier, errno))?;
            }
        }
        Ok(())
    }

    /// The second half of [`apply`](Self::apply): only needed before the container's own code
    /// runs, so it can be done while init is at work. `loaded`: the device filter, by
    /// [`load_filter`]; without one, or where it can't be attached, it's loaded here.
    pub fn apply_devices(&self, settings: &Settings, loaded: Option<BorrowedFd>) -> Result<()> {
        match &settings.devices {
            Some(_) if loaded.is_some_and(|it| self.attach_program(it).is_ok()) => Ok(()),
            Some(filter) => self.attach_devices(filter),
            None => Ok(()),
        }
    }

    /// Loads the device filter and attaches it, in place of the one that may be there.
    pub fn attach_devices(&self, filter: &Filter) -> Result<()> {
        let attached = load_filter(&filter.program)
            .map_err(|errno| ("load", errno))
            .and_then(|program| self.attach_program(program.as_fd()));
        match attached {
            Err((action, errno)) if !filter.optional => {
                let what = format_args!("linux.resources.devices: {action} device filter");
                Err(failed(
                    format_args!("{what} of cgroup {}", self.path.display()),
                    errno,
                ))
            }
            _ => Ok(()),
        }
    }

    /// Attaches a device filter that is loaded already, as [`attach_devices`](Self::attach_devices)
    /// does. The error says at what, and the errno.
    pub fn attach_program(&self, new: BorrowedFd) -> Result<(), (&'static str, Errno)> {
        let mut old = Vec::new();
        // A cgroup that was made here has no filter yet.
        if !self.is_new() {
            for id in bpf::attached(self.dir()).map_err(|errno| ("list", errno))? {
                match bpf::by_id(id) {
                    Ok(program) => old.push(program),
                    // Gone, or hidden by an LSM. A filter can only forbid more: one that stays
                    // behind is safe.
                    Err(Errno::ENOENT | Errno::EACCES | Errno::EPERM) => {}
                    Err(errno) => return Err(("open old", errno)),
                }
            }
        }
        // In place, so that no access falls between the old filter and the new one.
        if let [only] = old.as_slice() {
            match bpf::attach(self.dir(), new, Some(only.as_fd())) {
                // Somebody else has replaced it since.
                Err(Errno::ENOENT | Errno::EINVAL) => {}
                result => return result.map_err(|errno| ("replace", errno)),
            }
        }
        bpf::attach(self.dir(), new, None).map_err(|errno| ("attach", errno))?;
        for program in old {
            match bpf::detach(self.dir(), program.as_fd()) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(("detach old", errno)),
            }
        }
        Ok(())
    }

    /// Writes settings to a cgroup in use: all of them, or, after a failure, none.
    pub(super) fn change(&self, settings: &Settings) -> Result<()> {
        let mut before: Vec<(&str, String)> = Vec::new();
        for write in &settings.writes {
            // Files with a line for each device (`8:0 rbps=max`) do not take back what they show.
            if let Ok(text) = self.read(&write.file)
                && !text.contains('=')
                && text.lines().count() <= 1
                && !before.iter().any(|(file, _)| *file == write.file)
            {
                before.push((&write.file, text));
            }
        }
        let result = self.apply(settings);
        if result.is_err() {
            for (file, text) in before.iter().rev() {
                // The failure to tell is the first.
                let _ = self.write(file, if text.is_empty() { "\n" } else { text });
            }
        }
        result
    }

    fn set(&self, write: &Write) -> Result<(), Errno> {
        match &write.mode {
            Mode::Plain | Mode::IfPresent | Mode::AgainAfterNext => {
                self.write(&write.file, &write.value)
            }
            Mode::Else(file, value) => match self.write(&write.file, &write.value) {
                Err(Errno::ENOENT) => self.write(file, value),
                result => result,
            },
            Mode::KeepFirstWord => {
                let text = self.read(&write.file)?;
                let first = text.split_whitespace().next().unwrap_or("max");
                self.write(&write.file, &format!("{first} {}", write.value))
            }
        }
    }

    /// The sentence for a setting that could not be written.
    fn explain(&self, write: &Write, errno: Errno) -> anyhow::Error {
        let Write {
            file, value, json, ..
        } = write;
        let at = self.path.display();
        if errno == Errno::ENOENT
            && let Some(controller) = write.controller().filter(|name| *name != "cgroup")
            && let Ok(own) = self.read("cgroup.controllers")
            && !own.split_whitespace().any(|name| name == controller)
        {
            if json.starts_with("linux.resources.unified[") {
                return anyhow!(
                    "{json}: unified resource {file:?} can't be set: controller {controller:?} not available"
                );
            }
            return anyhow!("{json}: controller {controller:?} not available in cgroup {at}");
        }
        let hint = match (errno, file.as_ref()) {
            (Errno::ENOENT, "io.bfq.weight") => ", which only the BFQ scheduler has",
            _ => "",
        };
        let value = value.trim_end();
        failed(
            format_args!("{json}: write {value:?} to {at}/{file}{hint}"),
            errno,
        )
    }

    /// `memory.checkBeforeUpdate`: a limit below what is in use would have the kernel kill.
    fn refuse_if_below_usage(&self, check: Check) -> Result<()> {
        // As in runc: where usage cannot be read there is nothing to compare with.
        let Ok(Ok(usage)) = self
            .read("memory.current")
            .map(|text| text.trim().parse::<u64>())
        else {
            return Ok(());
        };
        let Check { limit, swap } = check;
        if swap > 0 && swap <= usage {
            bail!(
                "linux.resources.memory.swap: rejecting memory+swap limit {swap} <= usage {usage}"
            );
        }
        if limit > 0 && limit <= usage {
            bail!("linux.resources.memory.limit: rejecting memory limit {limit} <= usage {usage}");
        }
        Ok(())
    }
}
