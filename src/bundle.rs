//! A bundle: the directory and its config.json, parsed.
//!
//! The first pass is typed and strict. Only when it fails, a second one repairs what oci-spec is
//! known to refuse though runc accepts it (each repair has a name in [`REPAIRS`]), and finds the
//! place of an error that remains.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{cgroup, plan};

/// A bundle whose config.json was read.
pub struct Bundle {
    /// config.json, its root.path absolute and without `.` and `..`.
    pub spec: Spec,
    /// What was read otherwise than it is written.
    pub warnings: Vec<String>,
}

/// What `run --from` changes of a config.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Changes {
    /// `process.args`, unless empty.
    pub args: Vec<String>,
    /// What is added to `process.env`.
    pub env: Vec<String>,
    /// `process.cwd`.
    pub cwd: Option<String>,
    /// `hostname`.
    pub hostname: Option<String>,
}

impl Changes {
    /// Whether it's about the process, which one that runs already can't be given.
    pub fn of_process(&self) -> bool {
        !self.args.is_empty() || !self.env.is_empty() || self.cwd.is_some()
    }

    /// Changes a config.
    pub fn apply(&self, spec: &mut Spec) {
        if let Some(process) = spec.process_mut() {
            self.apply_to_process(process);
        }
        if self.hostname.is_some() {
            spec.set_hostname(self.hostname.clone());
        }
    }

    /// Changes its process.
    pub fn apply_to_process(&self, process: &mut Process) {
        if !self.args.is_empty() {
            process.set_args(Some(self.args.clone()));
        }
        if !self.env.is_empty() {
            let mut env = process.env().clone().unwrap_or_default();
            env.extend(self.env.iter().cloned());
            process.set_env(Some(env));
        }
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.into());
        }
    }
}

/// The configuration's name in a bundle.
pub const CONFIG: &str = "config.json";

/// Reads the bundle in `dir`, which is absolute. An error is about the file, a line and column of
/// it, or a property by its JSON path.
pub fn load(dir: &Path) -> Result<Bundle> {
    understand(&read(dir)?, dir)
}

/// The text of the config.json in `dir`.
pub fn read(dir: &Path) -> Result<Vec<u8>> {
    match fs::read(dir.join(CONFIG)) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("JSON specification file {CONFIG} not found in {dir:?}")
        }
        Err(error) => Err(error).with_context(|| format!("read {:?}", dir.join(CONFIG))),
    }
}

/// The bundle in `dir` whose config.json has this text.
pub fn understand(text: &[u8], dir: &Path) -> Result<Bundle> {
    let (mut spec, warnings) = parse(text)?;
    absolute_root(&mut spec, dir);
    Ok(Bundle { spec, warnings })
}

/// The same, but nothing is repaired, and why it's refused isn't told.
pub fn understand_strictly(text: &[u8], dir: &Path) -> Option<Bundle> {
    let mut spec: Spec = serde_json::from_slice(text).ok()?;
    check(&mut spec, text).ok()?;
    absolute_root(&mut spec, dir);
    Some(Bundle {
        spec,
        warnings: Vec::new(),
    })
}

fn absolute_root(spec: &mut Spec, dir: &Path) {
    if let Some(root) = spec.root_mut()
        && !root.path().as_os_str().is_empty()
    {
        let path = plan::clean(&dir.join(root.path()));
        root.set_path(path.into());
    }
}

/// Parses a config.json and checks its version. The strings are warnings.
pub fn parse(text: &[u8]) -> Result<(Spec, Vec<String>)> {
    let (mut spec, warnings) = typed::<Spec>(text, "").context(CONFIG)?;
    check(&mut spec, text)?;
    Ok((spec, warnings))
}

/// What remains to be seen to of a document that oci-spec takes.
fn check(spec: &mut Spec, text: &[u8]) -> Result<()> {
    pids_without_limit(spec, text);
    hugepages_without_size(spec, text);
    version(spec.version()).context(CONFIG)
}

/// Parses a `process` object, as `exec --process` takes it from a file. The strings are warnings.
pub fn parse_process(text: &[u8]) -> Result<(Process, Vec<String>)> {
    typed(text, "process")
}

/// Parses into the type; `prefix` is the JSON path at which the document belongs in config.json.
fn typed<T: DeserializeOwned>(text: &[u8], prefix: &str) -> Result<(T, Vec<String>)> {
    // A list would be taken for the values of the first properties.
    let object = text.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    if object && let Ok(value) = serde_json::from_slice(text) {
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
            Err(anyhow!(one_line(&format!(
                "{path}: {}{}",
                known_words(&path),
                error.into_inner()
            ))))
        }
    }
}

/// What runc says of a property that can't be read, where somebody looks for it.
fn known_words(path: &str) -> &'static str {
    if path.starts_with("linux.memoryPolicy.flags") {
        "invalid memory policy flag: "
    } else if path.starts_with("linux.memoryPolicy") {
        "invalid memory policy mode: "
    } else {
        ""
    }
}

/// serde_json quotes what it read as it is; a sentence has no control characters.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
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

/// Where Go reads names in any case, `pagesize` for example, oci-spec leaves out what it doesn't know. A
/// page size that is missing gets the second look.
fn hugepages_without_size(spec: &mut Spec, text: &[u8]) {
    let Some(resources) = spec
        .linux_mut()
        .as_mut()
        .and_then(|l| l.resources_mut().as_mut())
    else {
        return;
    };
    let limits = resources.hugepage_limits().as_deref().unwrap_or_default();
    if limits.iter().all(|limit| !limit.page_size().is_empty()) {
        return;
    }
    let read = || {
        let mut written: Value = serde_json::from_slice(text).ok()?;
        let written = written.pointer_mut("/linux/resources")?;
        cgroup::update::normalize(written);
        serde_json::from_value(written.get("hugepageLimits")?.clone()).ok()
    };
    if let Some(limits) = read() {
        resources.set_hugepage_limits(Some(limits));
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn page_sizes_may_be_written_in_lower_case() {
        let mut config = minimal();
        config["linux"] = json!({"resources": {
            "hugepageLimits": [{"pagesize": "2MB", "limit": 4096}]
        }});
        let (spec, _) = parse(config.to_string().as_bytes()).unwrap();
        let resources = spec.linux().as_ref().unwrap().resources().as_ref();
        let limits = resources.unwrap().hugepage_limits().as_ref().unwrap();
        assert_eq!(limits[0].page_size(), "2MB");
    }

    fn minimal() -> Value {
        json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs" },
            "process": { "args": ["sh"], "cwd": "/", "user": {} },
        })
    }

    fn error(text: &str) -> String {
        format!("{:#}", parse(text.as_bytes()).err().unwrap())
    }

    /// The minimal config with one value changed by its JSON pointer.
    fn with(pointer: &str, value: Value) -> String {
        let mut config = minimal();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let mut at = &mut config;
        for part in parent.split('/').skip(1) {
            at = &mut at[part];
        }
        at[key] = value;
        config.to_string()
    }

    #[test]
    fn missing_file() {
        let error = load(Path::new("/nonexistent")).err().unwrap();
        assert_eq!(
            format!("{error:#}"),
            "JSON specification file config.json not found in \"/nonexistent\""
        );
    }

    #[test]
    fn root_is_made_absolute() {
        let dir = std::env::temp_dir().join(format!("runz-bundle-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for (written, expected) in [
            ("rootfs", dir.join("rootfs")),
            ("./a/../rootfs/", dir.join("rootfs")),
            ("/r//s", PathBuf::from("/r/s")),
            ("", PathBuf::new()),
        ] {
            fs::write(dir.join(CONFIG), with("/root/path", json!(written))).unwrap();
            let bundle = load(&dir).unwrap();
            assert_eq!(bundle.spec.root().as_ref().unwrap().path(), &expected);
            assert!(bundle.warnings.is_empty());
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn errors() {
        for (text, sentence) in [
            (
                "{\n  \"a\": 1,\n}".to_owned(),
                "config.json: not JSON: trailing comma at line 3 column 1",
            ),
            (
                String::new(),
                "config.json: not JSON: EOF while parsing a value at line 1 column 0",
            ),
            ("null".into(), "config.json: is not a JSON object"),
            ("7".into(), "config.json: is not a JSON object"),
            ("{}".into(), "config.json: ociVersion: is missing"),
            (" []".into(), "config.json: is not a JSON object"),
            (
                with("/ociVersion", json!("1.0")),
                "config.json: ociVersion: \"1.0\" is not a semantic version",
            ),
            (
                with("/ociVersion", json!("2.0.0")),
                "config.json: ociVersion: \"2.0.0\" is not supported, accepted is 1.x.y",
            ),
            (
                with("/process/args", json!(["a", 1])),
                "config.json: process.args[1]: invalid type: integer `1`, expected a string",
            ),
            (
                with("/process/cwd", Value::Null),
                "config.json: process.cwd: invalid type: null, expected path string",
            ),
            (
                with("/process/rlimits", json!([{ "type": "RLIMIT_X" }])),
                "config.json: process.rlimits[0].type: unknown variant `RLIMIT_X`, expected one \
                 of `RLIMIT_CPU`, `RLIMIT_FSIZE`, `RLIMIT_DATA`, `RLIMIT_STACK`, `RLIMIT_CORE`, \
                 `RLIMIT_RSS`, `RLIMIT_NPROC`, `RLIMIT_NOFILE`, `RLIMIT_MEMLOCK`, `RLIMIT_AS`, \
                 `RLIMIT_LOCKS`, `RLIMIT_SIGPENDING`, `RLIMIT_MSGQUEUE`, `RLIMIT_NICE`, \
                 `RLIMIT_RTPRIO`, `RLIMIT_RTTIME`",
            ),
            (
                with(
                    "/linux",
                    json!({ "namespaces": [{ "type": "pid" }, { "type": "net" }] }),
                ),
                "config.json: linux.namespaces[1].type: unknown variant `net`, expected one of \
                 `mount`, `cgroup`, `uts`, `ipc`, `user`, `pid`, `network`, `time`",
            ),
        ] {
            assert_eq!(error(&text), sentence);
        }
        let error = parse_process(b"{\"user\":{\"uid\":-1}}").err().unwrap();
        assert!(format!("{error:#}").starts_with("process.user.uid: invalid value"));
    }

    #[test]
    fn versions() {
        for version in [
            "1.0.0",
            "1.3.0",
            "1.99.0",
            "1.0.2-dev",
            "1.1.0+dev",
            "0.5.0",
        ] {
            assert!(parse(with("/ociVersion", json!(version)).as_bytes()).is_ok());
        }
        for version in ["", "1", "1.0", "1.0.x", "v1.0.0", "1.0.0.0", "1..0"] {
            assert!(parse(with("/ociVersion", json!(version)).as_bytes()).is_err());
        }
    }

    /// What oci-spec refuses and runc accepts. Each is refused without its repair.
    #[test]
    fn repairs() {
        let parsed = |pointer: &str, value: Value| {
            let text = with(pointer, value);
            assert!(serde_json::from_str::<Spec>(&text).is_err(), "{text}");
            parse(text.as_bytes()).unwrap()
        };
        let process = |spec: &Spec| spec.process().clone().unwrap();

        let (spec, warnings) = parsed(
            "/process/capabilities",
            json!({ "bounding": ["CAP_KILL", "CAP_X"], "effective": ["CAP_A", "CAP_X"] }),
        );
        assert_eq!(
            warnings,
            ["ignoring unknown or unavailable capabilities: [CAP_A CAP_X]"]
        );
        let capabilities = process(&spec).capabilities().clone().unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
        assert_eq!(capabilities.effective().as_ref().unwrap().len(), 0);

        let (spec, _) = parsed(
            "/process/scheduler",
            json!({ "policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"] }),
        );
        let scheduler = process(&spec).scheduler().clone().unwrap();
        assert_eq!(scheduler.flags().as_ref().unwrap().len(), 2);

        let (spec, _) = parsed("/process/user", Value::Null);
        assert_eq!(process(&spec).user().uid(), 0);

        let (spec, _) = parsed(
            "/linux",
            json!({ "resources": { "devices": [{ "allow": true, "type": "", "access": "r" }] } }),
        );
        let resources = |spec: &Spec| spec.linux().clone().unwrap().resources().clone().unwrap();
        let kind = resources(&spec).devices().as_ref().unwrap()[0].typ();
        assert_eq!(kind, Some(oci_spec::runtime::LinuxDeviceType::A));

        let (spec, _) = parsed(
            "/linux",
            json!({ "resources": { "pids": { "limit": null } } }),
        );
        assert!(resources(&spec).pids().is_none());

        let (spec, _) = parsed("/linux", json!({ "seccomp": { "defaultAction": "" } }));
        assert!(spec.linux().as_ref().unwrap().seccomp().is_none());

        let (spec, _) = parsed("/process/execCPUAffinity", json!({ "final": " 0, 2-3," }));
        let affinity = process(&spec).exec_cpu_affinity().clone().unwrap();
        assert_eq!(affinity.cpu_affinity_final().as_deref(), Some("0,2-3"));
        assert!(affinity.initial().is_none());

        parsed("/windows", json!(1));
        parsed("/process/commandLine", json!(["x"]));
    }

    #[test]
    fn pids() {
        let limit = |pids: Value| {
            let text = with("/linux", json!({ "resources": { "pids": pids } }));
            let (spec, _) = parse(text.as_bytes()).unwrap();
            let resources = spec.linux().clone().unwrap().resources().clone().unwrap();
            resources.pids().map(|p| p.limit())
        };
        assert_eq!(limit(json!({})), None);
        assert_eq!(limit(json!({ "limit": 0 })), Some(0));
        assert_eq!(limit(json!({ "limit": -1 })), Some(-1));
    }

    #[test]
    fn every_repair_survives_any_document() {
        for document in [
            json!({ "process": [], "linux": "x" }),
            json!({ "process": { "capabilities": 1, "scheduler": null, "execCPUAffinity": [] } }),
            json!({ "linux": { "resources": { "devices": [1, null, "x"], "pids": [] }, "seccomp": 1 } }),
            json!({ "process": { "capabilities": { "bounding": [1, null] } } }),
        ] {
            for (name, repair) in REPAIRS {
                repair(&mut document.clone(), &mut Vec::new());
                assert!(!name.is_empty());
            }
        }
    }
}
