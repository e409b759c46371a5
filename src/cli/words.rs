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

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: [Flag; 5] = [
        Flag {
            long: "force",
            short: Some('f'),
            takes: Takes::Nothing,
        },
        Flag {
            long: "bundle",
            short: Some('b'),
            takes: Takes::Value,
        },
        Flag {
            long: "env",
            short: Some('e'),
            takes: Takes::Values,
        },
        Flag {
            long: "format",
            short: None,
            takes: Takes::ValueOrEmpty,
        },
        Flag {
            long: "no-pivot",
            short: None,
            takes: Takes::Nothing,
        },
    ];

    fn taken(line: &str, reorder: bool) -> Result<Words, String> {
        // `_` stands for an empty word.
        let word = |word: &str| OsString::from(if word == "_" { "" } else { word });
        words(&FLAGS, reorder, line.split_whitespace().map(word))
    }

    /// What clap is given.
    fn canonical(line: &str, reorder: bool) -> String {
        let words = taken(line, reorder).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let all = words.for_clap(&FLAGS);
        let all: Vec<&str> = all.iter().map(|word| word.to_str().unwrap()).collect();
        all.join(" ")
    }

    #[test]
    fn flags_come_in_gos_syntax() {
        for (line, expected) in [
            ("", "--"),
            ("id", "-- id"),
            // One dash or two, long or short.
            ("-force id", "--force -- id"),
            ("--force id", "--force -- id"),
            ("-f id", "--force -- id"),
            ("--f id", "--force -- id"),
            ("-no-pivot id", "--no-pivot -- id"),
            // Bools: a value only behind "=".
            ("--force=true id", "--force -- id"),
            ("--force=1 id", "--force -- id"),
            ("-f=T id", "--force -- id"),
            ("--force=false id", "-- id"),
            ("--force=F id", "-- id"),
            ("--force=0 id", "-- id"),
            ("--force false", "--force -- false"),
            ("--force --force=false id", "-- id"),
            ("--force=false --force id", "--force -- id"),
            // Values: behind "=" or the next word, whatever that is.
            ("--bundle=/b id", "--bundle=/b -- id"),
            ("--bundle /b id", "--bundle=/b -- id"),
            ("-bundle /b id", "--bundle=/b -- id"),
            ("-b=/b id", "--bundle=/b -- id"),
            ("-b a=b id", "--bundle=a=b -- id"),
            ("-b=a=b id", "--bundle=a=b -- id"),
            ("--bundle --force id", "--bundle=--force -- id"),
            ("--bundle -- id", "--bundle=-- -- id"),
            ("--bundle -1 id", "--bundle=-1 -- id"),
            ("--bundle - id", "--bundle=- -- id"),
            // The last one counts, or all of them.
            ("-b 1 --bundle 2 id", "--bundle=2 -- id"),
            ("-e 1 --env 2 -e=3 id", "--env=1 --env=2 --env=3 -- id"),
            // Empty values.
            ("--bundle= id", "-- id"),
            ("--bundle _ id", "-- id"),
            ("--bundle 1 --bundle= id", "-- id"),
            ("--format= id", "--format= -- id"),
            ("-e _ -e= id", "--env= --env= -- id"),
        ] {
            assert_eq!(canonical(line, true), expected, "{line:?}");
        }
    }

    #[test]
    fn operands_may_stand_before_flags() {
        for (line, reordered, not) in [
            ("id --force", "--force -- id", "-- id --force"),
            ("id -b /b x", "--bundle=/b -- id x", "-- id -b /b x"),
            (
                "-f id --env 1 x",
                "--force --env=1 -- id x",
                "--force -- id --env 1 x",
            ),
            ("id - x", "-- id - x", "-- id - x"),
            ("- --force", "--force -- -", "-- - --force"),
            ("_ --force", "--force -- ", "--  --force"),
            ("id -- --force", "-- id --force", "-- id -- --force"),
            ("-- id --force", "-- id --force", "-- id --force"),
            ("-f -- -- id", "--force -- -- id", "--force -- -- id"),
            ("id --help", "-- id", "-- id --help"),
            ("id --bogus=1 --", "", "-- id --bogus=1 --"),
        ] {
            if !reordered.is_empty() {
                assert_eq!(canonical(line, true), reordered, "{line:?}");
            }
            assert_eq!(canonical(line, false), not, "{line:?}");
        }
    }

    #[test]
    fn help_is_a_flag_of_every_command() {
        for (line, help) in [
            ("-h", true),
            ("--help", true),
            ("-help id", true),
            ("id --help", true),
            ("--h=true", true),
            ("--help=false id", false),
            ("-- --help", false),
            ("-b --help", false),
        ] {
            assert_eq!(taken(line, true).unwrap().help, help, "{line:?}");
        }
        // Unless it has one of that name itself.
        let own = [Flag {
            long: "host",
            short: Some('h'),
            takes: Takes::Value,
        }];
        let words = words(&own, true, ["-h", "x"].map(OsString::from).into_iter()).unwrap();
        assert!(!words.help && words.flags == [(0, "x".into())]);
    }

    #[test]
    fn mistakes_are_told_in_gos_words() {
        for (line, expected) in [
            ("--bogus", "flag provided but not defined: -bogus"),
            ("-bogus=1", "flag provided but not defined: -bogus"),
            ("-x", "flag provided but not defined: -x"),
            ("-fb x", "flag provided but not defined: -fb"),
            ("-b/x", "flag provided but not defined: -b/x"),
            ("id --bogus", "flag provided but not defined: -bogus"),
            ("--help --bogus", "flag provided but not defined: -bogus"),
            ("---force", "bad flag syntax: ---force"),
            ("--=x", "bad flag syntax: --=x"),
            ("-=x", "bad flag syntax: -=x"),
            ("--bundle", "flag needs an argument: -bundle"),
            ("-b", "flag needs an argument: -b"),
            ("id -e", "flag needs an argument: -e"),
            (
                "--force=maybe",
                "invalid boolean value \"maybe\" for -force: parse error",
            ),
            ("-f=", "invalid boolean value \"\" for -f: parse error"),
            (
                "--help=x",
                "invalid boolean value \"x\" for -help: parse error",
            ),
        ] {
            assert_eq!(taken(line, true).unwrap_err(), expected, "{line:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_pass() {
        let bad = |text: &[u8]| OsStr::from_bytes(text).to_owned();
        let line = [bad(b"--bundle=\xff"), bad(b"\xfe")];
        let words = words(&FLAGS, true, line.into_iter()).unwrap();
        assert_eq!(
            words.for_clap(&FLAGS),
            [bad(b"--bundle=\xff"), "--".into(), bad(b"\xfe")]
        );
        let error = super::words(&FLAGS, true, [bad(b"--\xff")].into_iter()).unwrap_err();
        assert_eq!(error, "flag provided but not defined: -\u{fffd}");
    }
}
