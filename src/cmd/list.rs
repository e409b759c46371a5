//! `list`: all containers below the state root.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context as _, Result};

use super::Context;
use super::state::show;
use crate::cli::{self, Format};
use crate::{log, store};

/// `list`.
pub fn list(c: &Context, options: &cli::List) -> Result<u8> {
    c.trace.begin("records");
    let mut containers = Vec::new();
    for id in store::list(&c.root)? {
        match store::open(&c.root, &id) {
            Ok(found) => containers.push(found),
            // Half made, or just deleted.
            Err(error) if error.is::<store::Missing>() => {}
            Err(error) => c.log.warn(format_args!(
                "load container {id:?}: {}",
                log::sentence(&error)
            )),
        }
    }
    let mut text = String::new();
    if options.quiet {
        for (_, record) in &containers {
            let _ = writeln!(text, "{}", record.id);
        }
        return print(&text);
    }
    let mut shown = Vec::new();
    for (container, record) in &containers {
        let mut one = show(container, record)?;
        one.owner = owner(container);
        shown.push(one);
    }
    match options.format {
        Format::Json if shown.is_empty() => text.push_str("null"),
        Format::Json => text = serde_json::to_string(&shown)?,
        Format::Table => {
            let mut rows =
                vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from)];
            rows.extend(shown.iter().map(|s| {
                [
                    s.id.to_owned(),
                    s.pid.to_string(),
                    s.status.clone(),
                    s.bundle.to_owned(),
                    s.created.to_owned(),
                    s.owner.clone(),
                ]
            }));
            text = table(&rows);
        }
    }
    print(&text)
}

fn print(text: &str) -> Result<u8> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("write to stdout")?;
    Ok(0)
}

/// Columns at least 12 wide with 3 spaces between, as Go's tabwriter lays out runc's.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    const PADDING: usize = 3;
    const MINIMUM: usize = 12;
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count() + PADDING);
        cells.max().unwrap_or(0).max(MINIMUM)
    };
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths).take(N - 1) {
            let _ = write!(text, "{cell:<width$}");
        }
        let _ = writeln!(text, "{}", row[N - 1]);
    }
    text
}

/// Who owns a container: the name of its directory's owner, `#uid` when it has none.
fn owner(container: &store::Container) -> String {
    let Ok(metadata) = std::fs::metadata(container.path()) else {
        return String::new();
    };
    let uid = metadata.uid().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_padded() {
        let rows = [["ID", "PID", "X"], ["a-very-long-id", "1", "y"]];
        let text = table(&rows.map(|row| row.map(String::from)));
        assert_eq!(
            text,
            "ID               PID         X\na-very-long-id   1           y\n"
        );
    }
}
