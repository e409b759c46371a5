//! Strings of the config on their way to the kernel: C strings, clean paths, lists of numbers.

use std::ffi::CString;
use std::fmt::Display;
use std::path::{Component, Path};

use anyhow::{Context, Error, Result, anyhow, ensure};

/// A C string; `name` is the property it comes from.
pub fn c_string(name: impl Display, text: impl Into<Vec<u8>>) -> Result<CString> {
    match CString::new(text) {
        Ok(text) => Ok(text),
        Err(error) => anyhow::bail!("{name}: has a null byte at {}", error.nul_position()),
    }
}

/// The error of a property, given the path of the object that it is in: `mounts[3]` and `type: …`
/// become `mounts[3].type: …`.
pub fn within(object: impl Display, error: Error) -> Error {
    anyhow!("{object}.{error:#}")
}

/// The path without `.`, `..` and repeated slashes, absolute. By its letters only: what symbolic
/// links make of it is for openat2(2) to find out.
pub fn clean(path: &Path) -> String {
    let mut clean = String::with_capacity(path.as_os_str().len() + 1);
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                clean.push('/');
                clean.push_str(&name.to_string_lossy());
            }
            Component::ParentDir => clean.truncate(clean.rfind('/').unwrap_or(0)),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean.is_empty() {
        clean.push('/');
    }
    clean
}

/// The highest CPU or memory node that a list may name, as in runc.
const MAX_NUMBER: u32 = 64 * 1024;

/// The ranges of a list such as `0-3,7`, the form of cpuset(7). Spaces around and empty elements
/// are allowed. An empty list has no ranges.
pub fn ranges(list: &str) -> Result<Vec<(u32, u32)>> {
    let mut ranges = Vec::new();
    for range in list.split(',').map(str::trim).filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| -> Result<u32> {
            let number = text
                .parse()
                .with_context(|| format!("{range:?} is neither a number nor a range"))?;
            ensure!(
                number <= MAX_NUMBER,
                "values larger than {MAX_NUMBER} are not supported"
            );
            Ok(number)
        };
        let (first, last) = (number(first)?, number(last)?);
        ensure!(first <= last, "invalid range: {range}");
        ranges.push((first, last));
    }
    Ok(ranges)
}

/// A bit mask of the ranges: bit N of word N/64.
pub fn mask(ranges: &[(u32, u32)]) -> Vec<u64> {
    let words = ranges.iter().map(|(_, last)| last / 64 + 1).max();
    let mut mask = vec![0; words.unwrap_or(0) as usize];
    for (first, last) in ranges {
        for number in *first..=*last {
            mask[number as usize / 64] |= 1 << (number % 64);
        }
    }
    mask
}
