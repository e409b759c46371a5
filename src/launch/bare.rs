//! What `--no-pivot` leaves within reach: the host's mounts below the container's root. The kernel lets
//! a container in a user namespace of its own mount a procfs without masks as long as a whole one is
//! somewhere in its mount namespace (fs/namespace.c, mount_too_revealing), be it hidden or not.

use std::ffi::CString;

use anyhow::{Context as _, Result};

use crate::plan::Plan;

/// The mount points of the host's whole procfs and sysfs, which init is to unmount before it moves the
/// root file system over `/`; none unless `--no-pivot`.
pub fn mounts(plan: &Plan) -> Result<Vec<CString>> {
    if !plan.no_pivot {
        return Ok(Vec::new());
    }
    let text = std::fs::read("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(parse(&text, plan.rootfs.as_bytes()))
}

/// Reads a mountinfo file (proc_pid_mountinfo(5)). What lies in the root file system is the container's
/// own.
fn parse(mountinfo: &[u8], rootfs: &[u8]) -> Vec<CString> {
    let mut found = Vec::new();
    for line in mountinfo.split(|b| *b == b'\n') {
        let mut fields = line.split(|b| *b == b' ');
        let (Some(b"/"), Some(point)) = (fields.nth(3), fields.next()) else {
            continue;
        };
        let kind = fields.skip_while(|field| *field != b"-").nth(1);
        if !matches!(kind, Some(b"proc" | b"sysfs")) {
            continue;
        }
        let point = unescape(point);
        let inside = point
            .strip_prefix(rootfs)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        if !inside {
            found.extend(CString::new(point));
        }
    }
    found
}

/// Takes back `\040` and the like.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let octal = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn whole_procfs_and_sysfs_outside_the_rootfs() {
        let text = b"22 1 0:20 / /proc rw - proc proc rw\n\
            23 1 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
            24 22 0:20 /sys /proc/sys ro - proc proc rw\n\
            25 1 0:22 / /a\\040b\\134 rw master:1 - proc none rw\n\
            26 1 0:23 / /b/rootfs/proc rw - proc proc rw\n\
            27 1 0:24 / /b/rootfs2 rw - proc proc rw\n\
            28 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            not a line\n";
        let found = parse(text, b"/b/rootfs");
        assert_eq!(found, [c"/proc", c"/sys", c"/a b\\", c"/b/rootfs2"]);
    }
}
