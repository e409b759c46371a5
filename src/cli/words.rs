//! Go's `flag` syntax, with urfave/cli's freedom to put flags after operands.
//!
//! Pure: words in, flags and operands out. It knows nothing of what a flag means, only its names and
//! whether it takes a value.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::values;

/// A flag as far as syntax goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag<'a> {
    /// The name, without dashes.
    pub long: &'a str,
    /// The one-letter name.
    pub short: Option<char>,
    /// What comes with it.
    pub takes: Takes,
}

/// What comes with a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing, or `=BOOL`.
    Nothing,
    /// One value; the last one given counts, and an empty one counts as none.
    Value,
    /// One value; the last one given counts, also if it is empty.
    ValueOrEmpty,
    /// One value each time it is given.
    Values,
}

/// A command line taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The flags that were given, as index into the flags' list and value; in the order of that list.
    /// A bool is there only if it is true.
    pub flags: Vec<(usize, OsString)>,
    /// What is no flag.
    pub operands: Vec<OsString>,
    /// `-h` or `--help` was there.
    pub help: bool,
}

/// Takes `args` apart. Where `reorder` is false, the first operand ends the flags.
///
/// The error is one line in the words of Go's `flag` package.
pub fn words(
    flags: &[Flag],
    reorder: bool,
    args: impl Iterator<Item = OsString>,
) -> Result<Words, String> {
    let mut args = args;
    let mut found = Words::default();
    // What was said of each flag, in the flags' order; more than one entry only for `Values`.
    let mut said: Vec<Vec<OsString>> = vec![Vec::new(); flags.len()];
    while let Some(word) = args.next() {
        let Some(body) = body(&word) else {
            found.operands.push(word);
            if reorder {
                continue;
            }
            break;
        };
        if body.is_empty() {
            break; // "--"
        }
        if matches!(body[0], b'-' | b'=') {
            return Err(format!("bad flag syntax: {}", word.to_string_lossy()));
        }
        let (name, value) = match body.iter().position(|&b| b == b'=') {
            Some(at) => (&body[..at], Some(OsStr::from_bytes(&body[at + 1..]))),
            None => (body, None),
        };
        let name = String::from_utf8_lossy(name);
        let Some(at) = flags.iter().position(|flag| flag.is(&name)) else {
            if name == "help" || name == "h" {
                found.help = truth(&name, value)?;
                continue;
            }
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let value = match (flags[at].takes, value) {
            (Takes::Nothing, value) => {
                OsString::from(if truth(&name, value)? { "true" } else { "" })
            }
            (_, Some(value)) => value.to_owned(),
            (_, None) => args
                .next()
                .ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        if flags[at].takes != Takes::Values {
            said[at].clear();
        }
        said[at].push(value);
    }
    found.operands.extend(args);
    for (at, values) in said.into_iter().enumerate() {
        let droppable = matches!(flags[at].takes, Takes::Nothing | Takes::Value);
        let values = values
            .into_iter()
            .filter(|value| !(droppable && value.is_empty()));
        found.flags.extend(values.map(|value| (at, value)));
    }
    Ok(found)
}

impl Words {
    /// The same in the one form that clap reads: `--long`, `--long=value`, `--`, operands.
    pub fn for_clap(self, flags: &[Flag]) -> Vec<OsString> {
        let mut all = Vec::with_capacity(self.flags.len() + 1 + self.operands.len());
        for (at, value) in self.flags {
            let mut word = OsString::from("--");
            word.push(flags[at].long);
            if flags[at].takes != Takes::Nothing {
                word.push("=");
                word.push(value);
            }
            all.push(word);
        }
        all.push("--".into());
        all.extend(self.operands);
        all
    }
}

impl Flag<'_> {
    fn is(&self, name: &str) -> bool {
        self.long == name || self.short.is_some_and(|short| name.chars().eq([short]))
    }
}

/// The word without its one or two dashes; `None` for an operand, which `-` alone is too.
fn body(word: &OsStr) -> Option<&[u8]> {
    match word.as_bytes() {
        [b'-', b'-', body @ ..] => Some(body),
        [b'-', body @ ..] if !body.is_empty() => Some(body),
        _ => None,
    }
}

fn truth(name: &str, value: Option<&OsStr>) -> Result<bool, String> {
    let Some(value) = value else { return Ok(true) };
    let value = value.to_string_lossy();
    values::bool(&value)
        .ok_or_else(|| format!("invalid boolean value {value:?} for -{name}: parse error"))
}
