//! `runz spec`: writes a config.json to start from.
//!
//! Byte for byte what runc 1.5 writes on a cgroup v2 host, but for the host name. The two templates are
//! whole files, so that what is written can be read in one place.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::Spec;

/// For root. Tab-indented, no newline at the end.
const CONFIG: &str = include_str!("spec/config.json");

/// For everybody else: no network namespace of its own, a user namespace with one id, a bound /sys, no `gid=`
/// in mounts, no limits. `UID` and `GID` stand for the caller's.
const ROOTLESS: &str = include_str!("spec/rootless.json");

/// Writes config.json into `options.bundle`, or the current directory; never over an existing file.
///
/// `uid` and `gid` are the caller's effective ids, which `--rootless` maps.
pub fn spec(options: &Spec, uid: u32, gid: u32) -> Result<()> {
    let path = options
        .bundle
        .as_deref()
        .unwrap_or(Path::new(""))
        .join("config.json");
    // Without O_EXCL a symlink that leads nowhere would be followed and its target created.
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("File config.json exists. Remove it first");
        }
        Err(error) => return Err(error).with_context(|| format!("create {path:?}")),
    };
    let ids = options.rootless.then_some((uid, gid));
    file.write_all(config(ids).as_bytes())
        .with_context(|| format!("write {path:?}"))
}

/// The config for root, or the rootless one for these ids.
fn config(ids: Option<(u32, u32)>) -> String {
    match ids {
        None => CONFIG.to_owned(),
        Some((uid, gid)) => ROOTLESS
            .replace("UID,", &format!("{uid},"))
            .replace("GID,", &format!("{gid},")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cli::SPEC_VERSION;

    fn parsed(ids: Option<(u32, u32)>) -> Value {
        serde_json::from_str(&config(ids)).unwrap()
    }

    #[test]
    fn templates_are_valid_specs() {
        for ids in [None, Some((1000, 100))] {
            let text = config(ids);
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
            assert_eq!(spec.version(), SPEC_VERSION);
            assert!(text.starts_with("{\n\t\"ociVersion\"") && text.ends_with("\n\t}\n}"));
        }
    }

    /// What runc's ToRootless does to the ordinary spec.
    #[test]
    fn rootless_differs_as_in_runc() {
        let mut expected = parsed(None);
        let linux = expected["linux"].as_object_mut().unwrap();
        linux.remove("resources");
        linux.insert(
            "uidMappings".into(),
            json!([{"containerID": 0, "hostID": 1000, "size": 1}]),
        );
        linux.insert(
            "gidMappings".into(),
            json!([{"containerID": 0, "hostID": 100, "size": 1}]),
        );
        let namespaces = linux["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
        for mount in expected["mounts"].as_array_mut().unwrap() {
            if mount["destination"] == "/sys" {
                *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
            }
            if let Some(Value::Array(options)) = mount.get_mut("options") {
                options.retain(|option| option != "gid=5");
            }
        }
        assert_eq!(parsed(Some((1000, 100))), expected);
    }

    #[test]
    fn an_existing_file_is_kept() {
        let dir = std::env::temp_dir().join(format!("runz-spec-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let options = Spec {
            bundle: Some(dir.clone()),
            rootless: true,
        };
        spec(&options, 7, 8).unwrap();
        let written = std::fs::read_to_string(dir.join("config.json")).unwrap();
        assert_eq!(written, config(Some((7, 8))));

        let error = spec(&options, 0, 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "File config.json exists. Remove it first"
        );
        assert_eq!(
            std::fs::read_to_string(dir.join("config.json")).unwrap(),
            written
        );

        std::fs::remove_file(dir.join("config.json")).unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.join("config.json")).unwrap();
        assert!(spec(&options, 0, 0).is_err());
        assert!(!dir.join("elsewhere").exists());
        std::fs::remove_dir_all(&dir).unwrap();

        let error = format!("{:#}", spec(&options, 0, 0).unwrap_err());
        assert!(
            error.starts_with("create \"/") && error.contains("No such file"),
            "{error}"
        );
    }
}
