//! `state`: one container as JSON.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::Context;
use crate::cli::{self, SPEC_VERSION};
use crate::status::Status;
use crate::store::{self, Container, Record};

/// What `state` and `list` show (runtime-spec, "State", and what runc adds).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown<'a> {
    oci_version: &'static str,
    /// The id.
    pub id: &'a str,
    /// 0 when stopped.
    pub pid: i32,
    /// `created`, …
    pub status: String,
    /// Absolute.
    pub bundle: &'a str,
    rootfs: &'a str,
    /// RFC 3339.
    pub created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    /// A user's name; only `list` fills it in.
    pub owner: String,
}

/// Looks.
pub fn show<'a>(container: &Container, record: &'a Record) -> Result<Shown<'a>> {
    let status = record.status(container)?;
    Ok(Shown {
        oci_version: SPEC_VERSION,
        id: &record.id,
        pid: match status {
            Status::Stopped => 0,
            _ => record.init_process_pid,
        },
        status: status.to_string(),
        bundle: &record.runz.bundle,
        rootfs: &record.config.rootfs,
        created: &record.created,
        annotations: &record.runz.annotations,
        owner: String::new(),
    })
}

/// `state`.
pub fn state(c: &Context, options: &cli::State) -> Result<u8> {
    c.trace.begin("record");
    let (container, record) = store::open(&c.root, &options.id)?;
    let text = serde_json::to_vec_pretty(&show(&container, &record)?)?;
    std::io::stdout()
        .write_all(&text)
        .context("write to stdout")?;
    Ok(0)
}
