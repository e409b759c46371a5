//! Hooks that run inside: laid out for the child before the clone, their files filled in afterwards.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context as _, Result};

use super::failed;
use crate::init::hooks;
use crate::plan::{Hook, Plan, Strings};
use crate::sys::fs;

/// Files of the hooks that run inside: what they read, and what they print.
pub struct HookFiles {
    pub(super) create_container: Vec<hooks::Laid>,
    pub(super) start_container: Vec<hooks::Laid>,
    files: Option<[File; 4]>,
}

impl HookFiles {
    pub(super) fn new(plan: &Plan) -> Result<HookFiles> {
        let lay = |hooks: &[Hook]| hooks.iter().map(lay).collect::<Result<Vec<_>>>();
        let create_container = lay(&plan.hooks.create_container)?;
        let start_container = lay(&plan.hooks.start_container)?;
        let files = if create_container.is_empty() && start_container.is_empty() {
            None
        } else {
            let file = || {
                fs::memfd(c"hook")
                    .map(File::from)
                    .map_err(|e| failed(e, "memfd_create for hooks"))
            };
            Some([file()?, file()?, file()?, file()?])
        };
        Ok(HookFiles {
            create_container,
            start_container,
            files,
        })
    }

    pub(super) fn any(&self, plan: &Plan) -> bool {
        self.files.is_some()
            || !plan.net_devices.is_empty()
            || !plan.hooks.prestart.is_empty()
            || !plan.hooks.create_runtime.is_empty()
    }

    /// What the hooks of one kind read (0: createContainer, 1: startContainer) and print. Without any
    /// hooks `nothing` stands for the files.
    pub(super) fn kind<'a>(
        &'a self,
        hooks: &'a [hooks::Laid],
        at: usize,
        nothing: BorrowedFd<'a>,
    ) -> hooks::Kind<'a> {
        let file = |at: usize| {
            self.files
                .as_ref()
                .map_or(nothing, |files| files[at].as_fd())
        };
        hooks::Kind {
            hooks,
            state: file(at),
            output: (file(2), file(3)),
        }
    }

    pub(super) fn fill(&self, state: &dyn Fn(&str, i32) -> Vec<u8>, pid: i32) -> Result<()> {
        use std::io::Write;
        if let Some(files) = &self.files {
            for (mut file, status) in files.iter().zip(["creating", "created"]) {
                file.write_all(&state(status, pid))
                    .context("write the state for hooks")?;
            }
        }
        Ok(())
    }

    pub(super) fn output(&self) -> String {
        match &self.files {
            Some(files) => format!(
                "stdout: {}, stderr: {}",
                crate::hooks::text(&files[2]),
                crate::hooks::text(&files[3])
            ),
            None => String::new(),
        }
    }
}

fn lay(hook: &Hook) -> Result<hooks::Laid> {
    let strings = |list: &[String]| -> Result<Strings> {
        let text: Result<Vec<_>, _> = list.iter().map(|s| CString::new(s.as_str())).collect();
        Ok(Strings::new(text.context("hooks: a NUL byte")?))
    };
    let args = match hook.args.is_empty() {
        true => strings(std::slice::from_ref(&hook.path))?,
        false => strings(&hook.args)?,
    };
    Ok(hooks::Laid {
        path: CString::new(hook.path.as_str()).context("hooks: a NUL byte")?,
        args,
        env: hook.env.as_deref().map(strings).transpose()?,
        timeout: hook
            .timeout
            .map(|s| i32::try_from(s.saturating_mul(1000)).unwrap_or(i32::MAX)),
    })
}
