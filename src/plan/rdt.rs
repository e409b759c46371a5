//! `linux.intelRdt` (Documentation/filesystems/resctrl.rst in the kernel).

use anyhow::{Result, ensure};
use oci_spec::runtime::LinuxIntelRdt;

use super::IntelRdt;

/// Decides the resctrl group and what is written to its `schemata`.
pub fn intel_rdt(rdt: &LinuxIntelRdt, id: &str) -> Result<IntelRdt> {
    let named = rdt.clos_id().as_deref().filter(|name| !name.is_empty());
    if let Some(name) = named {
        // A lone slash is the root group.
        ensure!(
            !matches!(name, "." | "..") && (name == "/" || !name.contains(['/', '\0'])),
            "linux.intelRdt.closID: invalid intelRdt.ClosID {name:?}"
        );
    }
    let l3 = rdt.l3_cache_schema().as_deref().unwrap_or_default();
    let bandwidth = rdt.mem_bw_schema().as_deref().unwrap_or_default();
    ensure!(
        !bandwidth.trim().contains('\n'),
        "linux.intelRdt.memBwSchema: has more than one line"
    );
    // memBwSchema replaces bandwidth lines that l3CacheSchema holds (runtime spec, config-linux.md).
    let l3_lines = l3
        .lines()
        .filter(|line| bandwidth.is_empty() || !line.trim_start().starts_with("MB:"));
    let more = rdt.schemata().as_deref().unwrap_or_default();
    let lines = l3_lines
        .chain([bandwidth])
        .chain(more.iter().map(String::as_str));
    let mut schemata = String::new();
    for line in lines.map(str::trim).filter(|line| !line.is_empty()) {
        schemata.push_str(line);
        schemata.push('\n');
    }
    Ok(IntelRdt {
        group: named.unwrap_or(id).to_owned(),
        named: named.is_some(),
        schemata,
        monitoring: rdt.enable_monitoring().unwrap_or(false),
    })
}
