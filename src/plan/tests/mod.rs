//! Whole configs through [`plan`]: what engines write, and what must be refused.

mod errors;
mod examples;

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::bundle;

/// A machine like most: root, every capability known, no LSM.
pub fn machine() -> Host {
    Host {
        euid: 0,
        egid: 0,
        in_user_namespace: false,
        last_capability: 40,
        apparmor: false,
        selinux: false,
        setgroups_denied: false,
    }
}

pub fn options() -> Options {
    Options {
        id: "web".into(),
        bundle: PathBuf::from("/bundle"),
        ..Options::default()
    }
}

/// `runc spec`'s template.
pub fn template() -> Value {
    serde_json::from_str(include_str!("../../../tests/configs/spec.json")).unwrap()
}

/// A config of podman 4, without its seccomp profile.
pub fn podman() -> Value {
    serde_json::from_str(include_str!("../../../tests/configs/podman.json")).unwrap()
}

/// `runc spec --rootless`'s template, of user 1000.
pub fn rootless() -> Value {
    let mut config: Value =
        serde_json::from_str(include_str!("../../../tests/configs/rootless.json")).unwrap();
    config["linux"]["uidMappings"][0]["hostID"] = json!(1000);
    config["linux"]["gidMappings"][0]["hostID"] = json!(1000);
    config
}

pub fn decide(config: &Value) -> Result<Plan> {
    decide_on(config, &options(), &machine())
}

pub fn decide_on(config: &Value, options: &Options, host: &Host) -> Result<Plan> {
    let (spec, warnings) = bundle::parse(config.to_string().as_bytes())?;
    let mut plan = plan(&spec, options, host)?;
    plan.warnings.splice(0..0, warnings);
    Ok(plan)
}
