//! `hooks`.

use anyhow::{Context, Result, ensure};
use oci_spec::runtime as spec;

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
        .map(|(index, hook)| decide(hook).with_context(|| format!("hooks.{kind}[{index}]")))
        .collect()
}

fn decide(hook: &spec::Hook) -> Result<Hook> {
    let path = hook.path();
    ensure!(path.is_absolute(), "path: {path:?} is not absolute");
    let strings = [hook.args(), hook.env()];
    ensure!(
        !path.as_os_str().as_encoded_bytes().contains(&0)
            && !strings
                .into_iter()
                .flatten()
                .flatten()
                .any(|s| s.contains('\0')),
        "a string has a null byte"
    );
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
