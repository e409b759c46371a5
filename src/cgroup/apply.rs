//! Writing settings to a cgroup, its device filter included.

use std::os::fd::AsFd;

use anyhow::{Result, anyhow, bail};
use nix::errno::Errno;

use super::settings::{Check, Filter, Mode, Write};
use super::{Cgroup, Settings, failed};
use crate::sys::bpf;

/// What bpftool shows as the name of the filter.
const FILTER_NAME: &str = "runz_devices";

impl Cgroup {
    /// Writes all settings, in their order, and attaches the device filter. The first failure
    /// ends it; what was written before stays.
    pub fn apply(&self, settings: &Settings) -> Result<()> {
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
        match &settings.devices {
            Some(filter) => self.attach_devices(filter),
            None => Ok(()),
        }
    }

    /// Attaches the device filter, in place of the one that may be there.
    pub fn attach_devices(&self, filter: &Filter) -> Result<()> {
        match self.replace_filter(filter) {
            Err(_) if filter.optional => Ok(()),
            Err((action, errno)) => {
                let what = format_args!("linux.resources.devices: {action} device filter");
                Err(failed(
                    format_args!("{what} of cgroup {}", self.path.display()),
                    errno,
                ))
            }
            Ok(()) => Ok(()),
        }
    }

    fn replace_filter(&self, filter: &Filter) -> Result<(), (&'static str, Errno)> {
        let new = bpf::load(&filter.program, FILTER_NAME).map_err(|errno| ("load", errno))?;
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
            match bpf::attach(self.dir(), new.as_fd(), Some(only.as_fd())) {
                // Somebody else has replaced it since.
                Err(Errno::ENOENT | Errno::EINVAL) => {}
                result => return result.map_err(|errno| ("replace", errno)),
            }
        }
        bpf::attach(self.dir(), new.as_fd(), None).map_err(|errno| ("attach", errno))?;
        for program in old {
            match bpf::detach(self.dir(), program.as_fd()) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(("detach old", errno)),
            }
        }
        Ok(())
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
                    "unified resource {file:?} can't be set: controller {controller:?} not available"
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
            bail!("rejecting memory+swap limit {swap} <= usage {usage}");
        }
        if limit > 0 && limit <= usage {
            bail!("rejecting memory limit {limit} <= usage {usage}");
        }
        Ok(())
    }
}
