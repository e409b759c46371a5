//! Whole configs through [`plan`]: what engines write, and what must be refused.

mod details;
mod errors;
mod examples;
mod mounts;
mod process;
mod process_errors;
mod walk;

use std::path::PathBuf;

use serde_json::{Value, json};

use anyhow::Result;

use super::caps::{CAPABILITIES, capability_name};
use super::namespaces::{NEWCGROUP, NEWIPC, NEWNET, NEWNS, NEWPID, NEWTIME, NEWUSER, NEWUTS};
use super::*;
use crate::bundle;
use crate::host::Host;

/// A machine like most: root, every capability known, no LSM.
pub fn machine() -> Host {
    Host {
        euid: 0,
        in_user_namespace: false,
        last_capability: 40,
        apparmor: false,
        selinux: false,
        kcore: true,
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

/// The template with changes; each is a JSON pointer and the value that is put there.
pub fn changed(changes: &[(&str, Value)]) -> Value {
    let mut config = template();
    for (pointer, value) in changes {
        set(&mut config, pointer, value.clone());
    }
    config
}

/// Puts a value at a JSON pointer, making objects on the way; `-` appends to an array.
pub fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut at = config;
    for part in pointer.split('/').skip(1) {
        if at.is_null() {
            *at = if part == "-" { json!([]) } else { json!({}) };
        }
        at = match at {
            Value::Array(list) => {
                let index = part.parse().unwrap_or(list.len());
                while list.len() <= index {
                    list.push(Value::Null);
                }
                &mut list[index]
            }
            other => &mut other[part],
        };
    }
    *at = value;
}

pub fn refused(changes: &[(&str, Value)], sentence: &str) {
    refused_on(&machine(), &options(), &changed(changes), sentence);
}

pub fn refused_on(host: &Host, options: &Options, config: &Value, sentence: &str) {
    match decide_on(config, options, host) {
        Ok(_) => panic!("accepted, but should say {sentence:?}"),
        Err(error) => assert_eq!(format!("{error:#}"), sentence),
    }
}

pub fn planned(changes: &[(&str, Value)]) -> Plan {
    decide(&changed(changes)).unwrap()
}
