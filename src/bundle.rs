//! A bundle: the directory and its config.json, parsed.
//!
//! The first pass is typed and strict. Only when it fails, a second one repairs what oci-spec is
//! known to refuse though runc accepts it (each repair has a name in [`REPAIRS`]), and finds the
//! place of an error that remains.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::plan;

/// A bundle whose config.json was read.
pub struct Bundle {
    /// Its directory, absolute.
    pub dir: PathBuf,
    /// config.json, its root.path absolute and without `.` and `..`.
    pub spec: Spec,
    /// What was read otherwise than it is written.
    pub warnings: Vec<String>,
}

/// The configuration's name in a bundle.
pub const CONFIG: &str = "config.json";

/// Reads the bundle in `dir`, which is absolute. An error is about the file, a line and column of
/// it, or a property by its JSON path.
pub fn load(dir: &Path) -> Result<Bundle> {
    let text = match fs::read(dir.join(CONFIG)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("JSON specification file {CONFIG} not found in {dir:?}")
        }
        Err(error) => return Err(error).with_context(|| format!("read {:?}", dir.join(CONFIG))),
    };
    let (mut spec, warnings) = parse(&text)?;
    if let Some(root) = spec.root_mut()
        && !root.path().as_os_str().is_empty()
    {
        let path = plan::clean(&dir.join(root.path()));
        root.set_path(path.into());
    }
    Ok(Bundle {
        dir: dir.to_owned(),
        spec,
        warnings,
    })
}

/// Parses a config.json and checks its version. The strings are warnings.
pub fn parse(text: &[u8]) -> Result<(Spec, Vec<String>)> {
    let (mut spec, warnings) = typed::<Spec>(text, "").context(CONFIG)?;
    pids_without_limit(&mut spec, text);
    version(spec.version()).context(CONFIG)?;
    Ok((spec, warnings))
}

/// Parses a `process` object, as `exec --process` takes it from a file. The strings are warnings.
pub fn parse_process(text: &[u8]) -> Result<(Process, Vec<String>)> {
    typed(text, "process")
}

/// Parses into the type; `prefix` is the JSON path at which the document belongs in config.json.
fn typed<T: DeserializeOwned>(text: &[u8], prefix: &str) -> Result<(T, Vec<String>)> {
    if let Ok(value) = serde_json::from_slice(text) {
        return Ok((value, Vec::new()));
    }
    let mut value: Value = serde_json::from_slice(text).map_err(|e| anyhow!("not JSON: {e}"))?;
    ensure!(value.is_object(), "is not a JSON object");
    let mut warnings = Vec::new();
    for (_, repair) in REPAIRS {
        if prefix.is_empty() {
            repair(&mut value, &mut warnings);
        } else {
            let mut outer = json!({ prefix: value.take() });
            repair(&mut outer, &mut warnings);
            value = outer[prefix].take();
        }
    }
    match serde_path_to_error::deserialize(value) {
        Ok(value) => Ok((value, warnings)),
        Err(error) => {
            let path = error.path().to_string();
            let path = match (prefix, path.as_str()) {
                ("", path) => path.to_owned(),
                (prefix, ".") => prefix.to_owned(),
                (prefix, path) => format!("{prefix}.{path}"),
            };
            Err(anyhow!("{path}: {}", error.into_inner()))
        }
    }
}

/// The version must be a semantic one; a newer minor version is accepted, a newer major one isn't.
fn version(version: &str) -> Result<()> {
    ensure!(!version.is_empty(), "ociVersion: is missing");
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = numbers.split('.').collect();
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    ensure!(
        parts.len() == 3 && parts.iter().all(number),
        "ociVersion: {version:?} is not a semantic version"
    );
    ensure!(
        matches!(parts[0], "0" | "1"),
        "ociVersion: {version:?} is not supported, accepted is 1.x.y"
    );
    Ok(())
}

/// Changes a document that oci-spec may have refused. It sees any JSON and must not assume types.
type Repair = fn(&mut Value, &mut Vec<String>);

/// What runc accepts and oci-spec 0.10 doesn't.
const REPAIRS: &[(&str, Repair)] = &[
    ("unknown capabilities are left out", capabilities),
    ("the spec's names of scheduler flags", scheduler_flags),
    ("process.user may be absent", user),
    ("a device rule's empty type means all", device_type),
    ("pids.limit may be null", pids_limit),
    (
        "a seccomp profile without action and syscalls is none",
        seccomp,
    ),
    ("what is for other platforms is ignored", platforms),
    (
        "one half of execCPUAffinity may be absent, lists may have spaces",
        affinity,
    ),
];

fn capabilities(config: &mut Value, warnings: &mut Vec<String>) {
    let Some(sets) = config.pointer_mut("/process/capabilities") else {
        return;
    };
    let mut unknown: Vec<String> = Vec::new();
    for set in [
        "bounding",
        "effective",
        "inheritable",
        "permitted",
        "ambient",
    ] {
        let Some(Value::Array(names)) = sets.get_mut(set) else {
            continue;
        };
        names.retain(|name| {
            let known = serde_json::from_value::<oci_spec::runtime::Capability>(name.clone());
            match name.as_str() {
                Some(name) if known.is_err() => {
                    if !unknown.iter().any(|u| u == name) {
                        unknown.push(name.to_owned());
                    }
                    false
                }
                _ => true,
            }
        });
    }
    if !unknown.is_empty() {
        unknown.sort_unstable();
        warnings.push(format!(
            "ignoring unknown or unavailable capabilities: [{}]",
            unknown.join(" ")
        ));
    }
}

fn scheduler_flags(config: &mut Value, _: &mut Vec<String>) {
    if let Some(Value::Array(flags)) = config.pointer_mut("/process/scheduler/flags") {
        for flag in flags {
            match flag.as_str() {
                Some("SCHED_FLAG_RESET_ON_FORK") => *flag = json!("SCHED_RESET_ON_FORK"),
                Some("SCHED_FLAG_DL_OVERRUN") => *flag = json!("SCHED_FLAG_D_L_OVERRUN"),
                _ => {}
            }
        }
    }
}

fn user(config: &mut Value, _: &mut Vec<String>) {
    if let Some(Value::Object(process)) = config.get_mut("process")
        && process.get("user").is_none_or(Value::is_null)
    {
        process.insert("user".into(), json!({}));
    }
}

fn device_type(config: &mut Value, _: &mut Vec<String>) {
    if let Some(Value::Array(rules)) = config.pointer_mut("/linux/resources/devices") {
        for rule in rules {
            if rule.get("type").is_some_and(|t| t == "") {
                rule["type"] = json!("a");
            }
        }
    }
}

fn pids_limit(config: &mut Value, _: &mut Vec<String>) {
    if let Some(resources) = config.pointer_mut("/linux/resources")
        && resources.pointer("/pids/limit").is_some_and(Value::is_null)
        && let Some(resources) = resources.as_object_mut()
    {
        // Without a limit the object says nothing.
        resources.remove("pids");
    }
}

fn seccomp(config: &mut Value, _: &mut Vec<String>) {
    let Some(Value::Object(linux)) = config.get_mut("linux") else {
        return;
    };
    let blank = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    };
    if let Some(Value::Object(seccomp)) = linux.get("seccomp")
        && blank(seccomp.get("defaultAction"))
        && blank(seccomp.get("syscalls"))
    {
        linux.remove("seccomp");
    }
}

fn platforms(config: &mut Value, _: &mut Vec<String>) {
    if let Value::Object(config) = config {
        for platform in ["solaris", "windows", "vm", "zos"] {
            config.remove(platform);
        }
        if let Some(Value::Object(process)) = config.get_mut("process") {
            process.remove("commandLine");
        }
    }
}

/// Since version 1.3 `pids` may come without `limit`, which is no limit; oci-spec makes it 0, which
/// is one. Only a 0 needs the second look.
fn pids_without_limit(spec: &mut Spec, text: &[u8]) {
    let Some(linux) = spec.linux_mut() else {
        return;
    };
    let Some(resources) = linux.resources_mut() else {
        return;
    };
    if resources.pids().is_none_or(|pids| pids.limit() != 0) {
        return;
    }
    let written: Option<Value> = serde_json::from_slice(text).ok();
    let limit = written
        .as_ref()
        .and_then(|v| v.pointer("/linux/resources/pids/limit"));
    if limit.is_none() {
        resources.set_pids(None);
    }
}

fn affinity(config: &mut Value, _: &mut Vec<String>) {
    if let Some(Value::Object(affinity)) = config.pointer_mut("/process/execCPUAffinity") {
        for half in ["initial", "final"] {
            let list = affinity.entry(half).or_insert(Value::Null);
            if let Some(text) = list.as_str() {
                let ranges: Vec<&str> = text.split(',').map(str::trim).collect();
                let ranges: Vec<&str> = ranges.into_iter().filter(|r| !r.is_empty()).collect();
                *list = match text {
                    "" => Value::Null,
                    _ => json!(ranges.join(",")),
                };
            }
        }
    }
}
