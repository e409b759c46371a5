//! `runz features`: what this build can do, as JSON (runtime-spec, features.md).
//!
//! Engines decide by it: containerd and CRI-O ask `mountOptions` for `rro` and
//! `linux.mountExtensions.idmap` before they use them, CRI-O refuses a document without the versions. It is
//! read together with stderr, so nothing else may be printed. The lists come from the modules that
//! honour them; only what the whole program settles is written down here.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::cli::SPEC_VERSION;
use crate::{plan, seccomp};

/// What other modules know: names exactly as in config.json, sorted.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The mount options that `plan` knows, without those that take a value.
    pub mount_options: &'a [&'a str],
    /// Seccomp: what the compiler knows.
    pub seccomp: Seccomp<'a>,
    /// Modes of `linux.memoryPolicy`.
    pub memory_policy_modes: &'a [&'a str],
    /// Flags of `linux.memoryPolicy`.
    pub memory_policy_flags: &'a [&'a str],
    /// The systemd cgroup driver works, for root and for users.
    pub systemd: bool,
    /// `linux.resources.rdma` is applied.
    pub rdma: bool,
    /// `process.apparmorProfile` is applied.
    pub apparmor: bool,
    /// `process.selinuxLabel` and `linux.mountLabel` are applied.
    pub selinux: bool,
    /// `linux.intelRdt` is applied, with `schemata` and `enableMonitoring`.
    pub intel_rdt: bool,
    /// Mounts with `uidMappings` and `gidMappings`, or `idmap`, work.
    pub idmap: bool,
    /// `linux.netDevices` is applied.
    pub net_devices: bool,
    /// `checkpoint` and `restore` work.
    pub checkpoint: bool,
}

/// `linux.seccomp` of the document.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp<'a> {
    /// Whether seccomp works at all.
    pub enabled: bool,
    /// `SCMP_ACT_…`
    pub actions: &'a [&'a str],
    /// `SCMP_CMP_…`
    pub operators: &'a [&'a str],
    /// `SCMP_ARCH_…`
    pub archs: &'a [&'a str],
    /// `SECCOMP_FILTER_FLAG_…` that are not an error.
    pub known_flags: &'a [&'a str],
    /// Those of them that have an effect here.
    pub supported_flags: &'a [&'a str],
}

/// `features`.
pub fn print() -> Result<()> {
    features(&Known {
        mount_options: plan::MOUNT_OPTIONS,
        seccomp: Seccomp {
            enabled: true,
            actions: seccomp::ACTIONS,
            operators: seccomp::OPERATORS,
            archs: seccomp::ARCHITECTURES,
            known_flags: seccomp::KNOWN_FLAGS,
            supported_flags: seccomp::SUPPORTED_FLAGS,
        },
        memory_policy_modes: plan::MEMORY_POLICY_MODES,
        memory_policy_flags: plan::MEMORY_POLICY_FLAGS,
        systemd: false,
        rdma: true,
        apparmor: true,
        selinux: true,
        intel_rdt: true,
        idmap: true,
        net_devices: true,
        checkpoint: false,
    })
}

/// Prints the document.
fn features(known: &Known) -> Result<()> {
    std::io::stdout()
        .write_all(&document(known)?)
        .context("write to stdout")
}

/// The document, indented by four spaces, with a newline at the end.
fn document(known: &Known) -> Result<Vec<u8>> {
    let capabilities = capabilities();
    let mut annotations = BTreeMap::from([
        (
            "org.opencontainers.runc.checkpoint.enabled",
            if known.checkpoint { "true" } else { "false" },
        ),
        ("org.runz.version", env!("CARGO_PKG_VERSION")),
    ]);
    if let Some(commit) = option_env!("RUNZ_COMMIT") {
        annotations.insert("org.runz.commit", commit);
    }
    let enabled = |enabled| Enabled { enabled };
    let document = Document {
        oci_version_min: "1.0.0",
        oci_version_max: SPEC_VERSION,
        hooks: &[
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ],
        mount_options: known.mount_options,
        linux: Linux {
            namespaces: &[
                "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
            ],
            capabilities: &capabilities,
            cgroup: Cgroup {
                v1: false,
                v2: true,
                systemd: known.systemd,
                systemd_user: known.systemd,
                rdma: known.rdma,
            },
            seccomp: known.seccomp,
            apparmor: enabled(known.apparmor),
            selinux: enabled(known.selinux),
            intel_rdt: IntelRdt {
                enabled: known.intel_rdt,
                schemata: known.intel_rdt,
                monitoring: known.intel_rdt,
            },
            memory_policy: MemoryPolicy {
                modes: known.memory_policy_modes,
                flags: known.memory_policy_flags,
            },
            mount_extensions: MountExtensions {
                idmap: enabled(known.idmap),
            },
            net_devices: enabled(known.net_devices),
        },
        annotations,
        potentially_unsafe_config_annotations: &[
            "bundle",
            "org.systemd.property.",
            "org.criu.config",
        ],
    };
    let mut text = Vec::with_capacity(8192);
    let mut serializer =
        Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    document
        .serialize(&mut serializer)
        .context("write features as JSON")?;
    text.push(b'\n');
    Ok(text)
}

/// The names of all capabilities of capabilities(7), by number.
fn capabilities() -> Vec<String> {
    let mut all: Vec<caps::Capability> = caps::all().into_iter().collect();
    all.sort_by_key(|capability| capability.index());
    all.iter()
        .map(|capability| capability.to_string())
        .collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    oci_version_min: &'a str,
    oci_version_max: &'a str,
    hooks: &'a [&'a str],
    mount_options: &'a [&'a str],
    linux: Linux<'a>,
    annotations: BTreeMap<&'a str, &'a str>,
    potentially_unsafe_config_annotations: &'a [&'a str],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux<'a> {
    namespaces: &'a [&'a str],
    capabilities: &'a [String],
    cgroup: Cgroup,
    seccomp: Seccomp<'a>,
    apparmor: Enabled,
    selinux: Enabled,
    intel_rdt: IntelRdt,
    memory_policy: MemoryPolicy<'a>,
    mount_extensions: MountExtensions,
    net_devices: Enabled,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cgroup {
    v1: bool,
    v2: bool,
    systemd: bool,
    systemd_user: bool,
    rdma: bool,
}

#[derive(Serialize)]
struct IntelRdt {
    enabled: bool,
    schemata: bool,
    monitoring: bool,
}

#[derive(Serialize)]
struct MemoryPolicy<'a> {
    modes: &'a [&'a str],
    flags: &'a [&'a str],
}

#[derive(Serialize)]
struct MountExtensions {
    idmap: Enabled,
}

#[derive(Serialize)]
struct Enabled {
    enabled: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KNOWN: Known = Known {
        mount_options: &["ro", "rro", "rw"],
        seccomp: Seccomp {
            enabled: true,
            actions: &["SCMP_ACT_ALLOW"],
            operators: &["SCMP_CMP_EQ"],
            archs: &["SCMP_ARCH_X86_64"],
            known_flags: &["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
            supported_flags: &["SECCOMP_FILTER_FLAG_LOG"],
        },
        memory_policy_modes: &["MPOL_BIND"],
        memory_policy_flags: &["MPOL_F_STATIC_NODES"],
        systemd: false,
        rdma: true,
        apparmor: true,
        selinux: false,
        intel_rdt: true,
        idmap: true,
        net_devices: false,
        checkpoint: false,
    };

    fn parsed(known: &Known) -> Value {
        serde_json::from_slice(&document(known).unwrap()).unwrap()
    }

    /// The keys and their order are those of runc 1.5.1.
    #[test]
    fn the_document_has_runcs_shape() {
        let text = String::from_utf8(document(&KNOWN).unwrap()).unwrap();
        let keys: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("    \"") || line.starts_with("        \""))
            .filter_map(|line| {
                line.split_once(':')
                    .map(|(key, _)| key.trim().trim_matches('"'))
            })
            .collect();
        assert_eq!(
            keys,
            [
                "ociVersionMin",
                "ociVersionMax",
                "hooks",
                "mountOptions",
                "linux",
                "namespaces",
                "capabilities",
                "cgroup",
                "seccomp",
                "apparmor",
                "selinux",
                "intelRdt",
                "memoryPolicy",
                "mountExtensions",
                "netDevices",
                "annotations",
                "org.opencontainers.runc.checkpoint.enabled",
                "org.runz.version",
                "potentiallyUnsafeConfigAnnotations",
            ]
        );
        assert!(
            text.starts_with("{\n    \"ociVersionMin\": \"1.0.0\",\n") && text.ends_with("]\n}\n")
        );
    }

    #[test]
    fn the_document_says_what_is_known() {
        let document = parsed(&KNOWN);
        assert_eq!(document["ociVersionMax"], "1.3.0");
        assert_eq!(document["mountOptions"], json!(["ro", "rro", "rw"]));
        assert_eq!(
            document["linux"]["cgroup"],
            json!({"v1": false, "v2": true, "systemd": false, "systemdUser": false, "rdma": true})
        );
        assert_eq!(
            document["linux"]["seccomp"],
            json!({"enabled": true, "actions": ["SCMP_ACT_ALLOW"], "operators": ["SCMP_CMP_EQ"],
                "archs": ["SCMP_ARCH_X86_64"],
                "knownFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
                "supportedFlags": ["SECCOMP_FILTER_FLAG_LOG"]})
        );
        assert_eq!(
            document["linux"]["memoryPolicy"],
            json!({"modes": ["MPOL_BIND"], "flags": ["MPOL_F_STATIC_NODES"]})
        );
        assert_eq!(
            document["linux"]["mountExtensions"],
            json!({"idmap": {"enabled": true}})
        );
        assert_eq!(
            document["annotations"]["org.opencontainers.runc.checkpoint.enabled"],
            "false"
        );

        let document = parsed(&Known {
            systemd: true,
            checkpoint: true,
            intel_rdt: false,
            ..KNOWN
        });
        assert_eq!(document["linux"]["cgroup"]["systemdUser"], true);
        assert_eq!(
            document["linux"]["intelRdt"],
            json!({"enabled": false, "schemata": false, "monitoring": false})
        );
        assert_eq!(
            document["annotations"]["org.opencontainers.runc.checkpoint.enabled"],
            "true"
        );
    }

    #[test]
    fn capabilities_stand_by_number() {
        let capabilities = capabilities();
        assert_eq!(capabilities.len(), 41);
        assert_eq!(capabilities[0], "CAP_CHOWN");
        assert_eq!(capabilities[21], "CAP_SYS_ADMIN");
        assert_eq!(capabilities[40], "CAP_CHECKPOINT_RESTORE");
    }
}
