//! All that `create` wants of a config.json, decided: the plan, and what of the document goes into the
//! Record besides. Made here only, for the caller that goes the cold path and for the zygote's cache
//! alike; see `zygote::plans`.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::host::Host;
use crate::plan::{self, Options, Plan};

/// A config.json, decided.
#[derive(Serialize, Deserialize)]
pub struct Decided {
    /// What is to be done.
    pub plan: Plan,
    /// `ociVersion`.
    pub version: String,
    /// `annotations`.
    pub annotations: BTreeMap<String, String>,
    /// What was read otherwise than it is written. The plan has its own.
    pub warnings: Vec<String>,
    /// The config names an LSM's label, so that it mattered which of them the host has.
    pub labels: bool,
}

/// Decides a bundle. `host` is looked at for LSMs, if the config names a label of one. Errors name the
/// property of config.json that is wrong by its JSON path.
pub fn decide(bundle: &Bundle, options: &Options, host: &mut Host) -> Result<Decided> {
    if labels(bundle) {
        host.look_at_labels();
    }
    on(bundle, options, host)
}

/// Decides a bundle for a host of which all is known.
pub fn on(bundle: &Bundle, options: &Options, host: &Host) -> Result<Decided> {
    let spec = &bundle.spec;
    let plan = plan::plan(spec, options, host)?;
    let annotations = spec.annotations().iter().flatten();
    Ok(Decided {
        plan,
        version: spec.version().clone(),
        annotations: annotations.map(|(k, v)| (k.clone(), v.clone())).collect(),
        warnings: bundle.warnings.clone(),
        labels: labels(bundle),
    })
}

fn labels(bundle: &Bundle) -> bool {
    let linux = bundle.spec.linux().as_ref();
    let process = bundle.spec.process().as_ref();
    linux.is_some_and(|l| l.mount_label().is_some())
        || process.is_some_and(|p| p.apparmor_profile().is_some() || p.selinux_label().is_some())
}
