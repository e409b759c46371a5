//! Compiled filters of seccomp profiles that were seen before.
//!
//! The profile's text is found in config.json and taken out of it, unparsed: only what remains goes
//! through the parser and the plan. That is sound because the text is a JSON value by itself, which was
//! parsed when it was kept, and because the rest is parsed strictly: a config in which members are twice
//! (so that it isn't clear which profile counts) or that needs repairs is decided whole.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use oci_spec::runtime::LinuxSeccomp;

use super::{Entry, mix, name, read, write};
use crate::bundle;
use crate::decided::{self, Decided};
use crate::host::Host;
use crate::plan::Options;
use crate::seccomp::{self, Program};
use crate::sys::program;

/// A profile shorter than this compiles as fast as it is looked for.
const WORTH_IT: usize = 512;

/// Decides a config whose seccomp profile was seen before. `None`: it wasn't, or there is something about
/// the config, be it an error; the caller decides itself.
pub fn decide(dir: &Path, config: &[u8], options: &Options, host: &mut Host) -> Option<Decided> {
    let place = profile(config)?;
    let text = &config[place.clone()];
    let program = look(dir, text, host.euid)?;
    let without = [&config[..place.start], b"null", &config[place.end..]].concat();
    let bundle = bundle::understand_strictly(&without, &options.bundle)?;
    let mut decided = decided::decide(&bundle, options, host).ok()?;
    decided.plan.seccomp = Some(program);
    Some(decided)
}

/// Looks for the filter of a profile.
fn look(dir: &Path, profile: &[u8], euid: u32) -> Option<Program> {
    read(&dir.join(name(hash(profile))), euid, |bytes| {
        let entry = Entry::split(bytes)?;
        let same = entry.key == program::build_id()?
            && entry.config == profile
            && entry.sum == mix(0, entry.decided);
        same.then(|| postcard::from_bytes(entry.decided).ok())?
    })
}

/// Keeps the filter of a profile; whether it is of a kind that is kept. See [`super::keep`].
///
/// # Errors
/// What the file system says.
pub fn keep(dir: &Path, profile: &[u8], euid: u32) -> Result<bool> {
    if look(dir, profile, euid).is_some() {
        return Ok(true);
    }
    let entry = || {
        let parsed: LinuxSeccomp = serde_json::from_slice(profile).ok()?;
        let program = postcard::to_allocvec(&seccomp::compile(&parsed).ok()?).ok()?;
        Entry::new(false, program::build_id()?, profile, &program).join()
    };
    match entry() {
        Some(entry) => write(dir, &name(hash(profile)), &entry),
        None => Ok(false),
    }
}

/// A number for a profile, by which it is found and remembered.
pub fn hash(profile: &[u8]) -> u64 {
    mix(1, profile)
}

/// Where in the text of a config.json the value of `linux.seccomp` is; `None`: nowhere, or it is no
/// object, or not worth it.
pub fn profile(config: &[u8]) -> Option<Range<usize>> {
    let start = member(config, member(config, 0, b"linux")?, b"seccomp")?;
    let place = start..value(config, start)?;
    (config.get(start) == Some(&b'{') && place.len() >= WORTH_IT).then_some(place)
}

/// Where the value of a member begins in the object that begins at `start`. Of what isn't JSON anything may
/// come, but no panic.
fn member(text: &[u8], start: usize, wanted: &[u8]) -> Option<usize> {
    let mut at = blank(text, start);
    if text.get(at) != Some(&b'{') {
        return None;
    }
    loop {
        // Behind the brace, or behind a comma.
        at = blank(text, at + 1);
        let end = string(text, at)?;
        let found = text.get(at + 1..end - 1)? == wanted;
        at = blank(text, end);
        if text.get(at) != Some(&b':') {
            return None;
        }
        at = blank(text, at + 1);
        if found {
            return Some(at);
        }
        at = blank(text, value(text, at)?);
        if text.get(at) != Some(&b',') {
            return None;
        }
    }
}

/// The end of the value that begins at `start`: of a string, of all that is between brackets, or of a
/// number or word.
fn value(text: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut depth) = (start, 0usize);
    loop {
        match *text.get(at)? {
            b'"' => at = string(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            // No value at all.
            b'}' | b']' | b',' if depth == 0 => return None,
            _ if depth == 0 => {
                let plain = |b: &u8| !b", }]\n\r\t".contains(b);
                at += text[at..].iter().take_while(|b| plain(b)).count();
                return Some(at);
            }
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The end of the string that begins at `start`, behind its second quote.
fn string(text: &[u8], start: usize) -> Option<usize> {
    if text.get(start) != Some(&b'"') {
        return None;
    }
    let mut at = start + 1;
    loop {
        match *text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The first place from `at` on that isn't white space.
fn blank(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let white = |b: &&u8| matches!(b, b' ' | b'\n' | b'\r' | b'\t');
    at + rest.iter().take_while(white).count()
}

#[cfg(test)]
mod tests;
