//! Intel RDT: resctrl groups (Documentation/filesystems/resctrl.rst).

use anyhow::Result;

use crate::store::Record;

/// Removes the groups that were made for a container.
pub fn remove(record: &Record) -> Result<()> {
    for path in record
        .runz
        .rdt_monitoring
        .iter()
        .chain(&record.runz.rdt_created)
    {
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(anyhow::Error::new(error).context(format!("remove {path:?}")));
            }
            _ => {}
        }
    }
    Ok(())
}
