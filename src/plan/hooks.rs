//! `hooks`.

use anyhow::{Result, ensure};
use oci_spec::runtime as spec;

use super::text::within;
use super::{Hook, Hooks};

/// All six kinds of hooks, each in config order.
pub fn hooks(hooks: &spec::Hooks) -> Result<Hooks> {
    #[allow(deprecated)] // prestart is deprecated by the spec, and still what engines write
    let prestart = hooks.prestart();
    Ok(Hooks {
        prestart: list("prestart", prestart)?,
        create_runtime: list("createRuntime", hooks.create_runtime())?,
        create_container: list("createContainer", hooks.create_container())?,
        start_container: list("startContainer", hooks.start_container())?,
        poststart: list("poststart", hooks.poststart())?,
        poststop: list("poststop", hooks.poststop())?,
    })
}

fn list(kind: &str, hooks: &Option<Vec<spec::Hook>>) -> Result<Vec<Hook>> {
    let hooks = hooks.as_deref().unwrap_or_default();
    hooks
        .iter()
        .enumerate()
        .map(|(i, hook)| decide(hook).map_err(|e| within(format_args!("hooks.{kind}[{i}]"), e)))
        .collect()
}

fn decide(hook: &spec::Hook) -> Result<Hook> {
    let path = hook.path();
    ensure!(path.is_absolute(), "path: {path:?} is not absolute");
    ensure!(
        !path.as_os_str().as_encoded_bytes().contains(&0),
        "path: has a null byte"
    );
    for (property, strings) in [("args", hook.args()), ("env", hook.env())] {
        for (i, text) in strings.iter().flatten().enumerate() {
            ensure!(!text.contains('\0'), "{property}[{i}]: has a null byte");
        }
    }
    Ok(Hook {
        path: path.to_string_lossy().into_owned(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone(),
        timeout: match hook.timeout() {
            None => None,
            Some(seconds) => {
                ensure!(seconds > 0, "timeout: {seconds} is not greater than 0");
                Some(seconds as u64)
            }
        },
    })
}
