//! `ps`: the processes of a container.

use std::io::Write;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::Context;
use crate::cgroup::Cgroup;
use crate::cli::{self, Format};
use crate::store;

/// `ps`.
pub fn ps(c: &Context, options: &cli::Ps) -> Result<u8> {
    c.trace.begin("record");
    let (_, record) = store::open(&c.root, &options.id)?;
    let pids = match &record.runz.cgroup {
        Some(path) => match Cgroup::open(path) {
            Ok(cgroup) => cgroup.pids()?,
            Err(_) if !record.alive()? => bail!("container not running"),
            Err(error) => return Err(error),
        },
        None if record.alive()? => vec![record.init_process_pid],
        None => vec![],
    };
    let mut out = std::io::stdout();
    if options.format == Format::Json {
        let text = match pids.is_empty() {
            true => "null".to_owned(),
            false => serde_json::to_string(&pids)?,
        };
        writeln!(out, "{text}").context("write to stdout")?;
        return Ok(0);
    }
    let args = match options.args.is_empty() {
        true => &["-ef".to_owned()][..],
        false => &options.args,
    };
    let output = Command::new("ps").args(args).output().context("run ps")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "ps {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    out.write_all(filter(&text, &pids)?.as_bytes())
        .context("write to stdout")?;
    Ok(0)
}

/// The header of ps's table and the lines of those pids.
fn filter(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let Some(column) = header.split_whitespace().position(|name| name == "PID") else {
        bail!("couldn't find PID field in ps output");
    };
    let mut kept = format!("{header}\n");
    for line in lines.filter(|line| !line.is_empty()) {
        let pid = line.split_whitespace().nth(column);
        let Some(Ok(pid)) = pid.map(str::parse::<i32>) else {
            bail!("unexpected pid in ps output: {line:?}");
        };
        if pids.contains(&pid) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn lines_are_kept_by_pid() {
        let text = "UID  PID CMD\nroot 1 init\nroot 12 sh -c 1\n";
        assert_eq!(
            filter(text, &[12]).unwrap(),
            "UID  PID CMD\nroot 12 sh -c 1\n"
        );
        assert!(filter("UID CMD\n", &[]).is_err());
    }
}
