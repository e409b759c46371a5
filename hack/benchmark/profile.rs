//! podman's default seccomp profile, from its package's file to an OCI document.
//!
//! The file holds rules for several architectures and capability sets; each has
//! `includes` and `excludes` that say when it counts (containers-common,
//! pkg/seccomp: arches, caps). The OCI form has none of these.

use serde_json::{Map, Value, json};

/// Where the package golang-github-containers-common puts the profile.
pub const PATH: &str = "/usr/share/containers/seccomp.json";

/// The capabilities that podman gives a container by default (containers.conf(5), default_capabilities).
pub const PODMAN_CAPS: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The names of this machine's architecture: in `includes`, and in the profile's `archMap`.
const ARCH: (&str, &str) = if cfg!(target_arch = "aarch64") {
    ("arm64", "SCMP_ARCH_AARCH64")
} else {
    ("amd64", "SCMP_ARCH_X86_64")
};

/// The profile as it holds for `caps` on this machine, in OCI form.
pub fn resolve(profile: &Value, caps: &[&str]) -> Value {
    let syscalls: Vec<Value> = list(&profile["syscalls"])
        .filter(|rule| counts(rule, caps))
        .map(oci_rule)
        .collect();
    let mut oci = Map::new();
    for key in ["defaultAction", "defaultErrnoRet"] {
        if let Some(value) = profile.get(key) {
            oci.insert(key.into(), value.clone());
        }
    }
    let architectures = list(&profile["archMap"])
        .find(|entry| entry["architecture"] == ARCH.1)
        .map(|entry| {
            let mut all = vec![entry["architecture"].clone()];
            all.extend(list(&entry["subArchitectures"]).cloned());
            all
        });
    oci.insert(
        "architectures".into(),
        json!(architectures.unwrap_or_default()),
    );
    oci.insert("syscalls".into(), json!(syscalls));
    Value::Object(oci)
}

fn counts(rule: &Value, caps: &[&str]) -> bool {
    let has = |cap: &Value| cap.as_str().is_some_and(|cap| caps.contains(&cap));
    let here = |arch: &Value| arch == ARCH.0;
    let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
    let mut arches = list(&includes["arches"]).peekable();
    !list(&excludes["arches"]).any(here)
        && !list(&excludes["caps"]).any(has)
        && (arches.peek().is_none() || arches.any(here))
        && list(&includes["caps"]).all(has)
}

fn oci_rule(rule: &Value) -> Value {
    let mut oci = json!({ "names": rule["names"], "action": rule["action"] });
    if let Some(errno) = rule.get("errnoRet") {
        oci["errnoRet"] = errno.clone();
    }
    let args: Vec<Value> = list(&rule["args"]).map(oci_arg).collect();
    if !args.is_empty() {
        oci["args"] = json!(args);
    }
    oci
}

fn oci_arg(arg: &Value) -> Value {
    let mut oci = json!({ "index": arg["index"], "value": arg["value"], "op": arg["op"] });
    if arg["valueTwo"].as_u64().is_some_and(|two| two != 0) {
        oci["valueTwo"] = arg["valueTwo"].clone();
    }
    oci
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_by_capability_and_architecture() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "ENOSYS",
            "archMap": [
                { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
                { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_X86"] }
            ],
            "syscalls": [
                { "names": ["always"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {} },
                { "names": ["null"], "action": "SCMP_ACT_ALLOW", "args": null },
                { "names": ["here"], "action": "A", "includes": { "arches": ["amd64", "arm64"] } },
                { "names": ["elsewhere"], "action": "A", "includes": { "arches": ["s390x"] } },
                { "names": ["with"], "action": "A", "includes": { "caps": ["CAP_KILL"] } },
                { "names": ["with more"], "action": "A", "includes": { "caps": ["CAP_KILL", "CAP_SYS_ADMIN"] } },
                { "names": ["without"], "action": "A", "excludes": { "caps": ["CAP_KILL"] } },
                { "names": ["errno"], "action": "A", "errnoRet": 1, "errno": "EPERM",
                  "excludes": { "caps": ["CAP_SYS_ADMIN"] },
                  "args": [{ "index": 1, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ" }] }
            ]
        });
        let oci = resolve(&profile, &["CAP_KILL"]);
        let names: Vec<_> = list(&oci["syscalls"])
            .map(|rule| &rule["names"][0])
            .collect();
        assert_eq!(names, ["always", "null", "here", "with", "errno"]);
        assert_eq!(oci["architectures"][1], "SCMP_ARCH_X86");
        assert_eq!(oci["defaultErrnoRet"], 38);
        assert_eq!(
            oci["syscalls"][4],
            json!({ "names": ["errno"], "action": "A", "errnoRet": 1,
                "args": [{ "index": 1, "value": 8, "op": "SCMP_CMP_EQ" }] })
        );
        assert_eq!(
            oci["syscalls"][0],
            json!({ "names": ["always"], "action": "SCMP_ACT_ALLOW" })
        );
    }
}
