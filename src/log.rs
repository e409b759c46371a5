//! Messages to whoever called: logrus' text or JSON lines, to stderr or to `--log FILE`.
//!
//! Engines read these. containerd takes the file as a stream of JSON objects and shows the last error;
//! podman reads the whole file as *one* JSON object; both, CRI-O and conmon read stderr. Therefore:
//!
//! - On failure, the last thing written is one error: a line in the log and, where the log is a file, one
//!   human line on stderr as well.
//! - In JSON, warnings are held back until [`Log::release`]. If the verb fails before that, they go into
//!   the error's own object, as `"warnings"`, which all readers skip: the file then holds exactly one object.
//! - In text, and with `--debug`, everything is written at once.
//! - Nothing ever goes to stdout, and nothing at all is written when there is nothing to say.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::Location;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use crate::cli::{Global, LogFormat};

/// The log of one run. Every method that writes ignores that it could not: there is nobody to tell.
#[derive(Debug)]
pub struct Log {
    /// `None` is stderr.
    file: Option<File>,
    format: LogFormat,
    debug: bool,
    /// Warnings that wait for the outcome; `None` once they need not wait.
    held: RefCell<Option<Vec<Warning>>>,
}

/// A warning that waits, as it will be written, and as the error's object will tell it.
#[derive(Debug)]
struct Warning {
    line: String,
    message: String,
}

/// How grave an entry is, by logrus' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Debug,
    Warning,
    Error,
}

impl Log {
    /// The log that `--debug`, `--log` and `--log-format` ask for.
    ///
    /// The file is made with mode 0644 and appended to, each line by one synchronous write. A prefix `file:`
    /// is crun's way to say the same; its `journald:` and `syslog:` are refused.
    pub fn open(global: &Global) -> Result<Log> {
        let file = global.log.as_deref().map(open).transpose()?;
        let holds = global.log_format == LogFormat::Json && !global.debug;
        Ok(Log {
            file,
            format: global.log_format,
            debug: global.debug,
            held: RefCell::new(holds.then(Vec::new)),
        })
    }

    /// The log where none could be opened: text on stderr.
    pub fn stderr() -> Log {
        Log {
            file: None,
            format: LogFormat::Text,
            debug: false,
            held: RefCell::new(None),
        }
    }

    /// Says what happens, if `--debug` was given; the message is not even formatted otherwise.
    #[track_caller]
    pub fn debug(&self, message: impl fmt::Display) {
        if self.debug {
            self.write(&self.line(Level::Debug, &message.to_string(), Location::caller(), &[]));
        }
    }

    /// Says that something was put up with. It never changes the outcome.
    #[track_caller]
    pub fn warn(&self, message: impl fmt::Display) {
        let message = message.to_string();
        let line = self.line(Level::Warning, &message, Location::caller(), &[]);
        match &mut *self.held.borrow_mut() {
            Some(held) => held.push(Warning { line, message }),
            None => self.write(&line),
        }
    }

    /// Writes the warnings that were held back, and holds back no more. To be called at success, and in
    /// verbs that stay (`run`, `events`) as soon as the container runs.
    pub fn release(&self) {
        for warning in self.held.borrow_mut().take().unwrap_or_default() {
            self.write(&warning.line);
        }
    }

    /// Says why the verb failed, once, as the last thing: `message` in the log, `runz: message` on stderr.
    ///
    /// With JSON on stderr, the object is the only thing there.
    #[track_caller]
    pub fn fail(&self, message: &str) {
        let message = message.trim_end();
        let warnings = self.held.borrow_mut().take().unwrap_or_default();
        if self.file.is_some() || self.format == LogFormat::Json {
            self.write(&self.line(Level::Error, message, Location::caller(), &warnings));
        }
        if self.file.is_some() || self.format == LogFormat::Text {
            let _ = std::io::stderr().write_all(format!("runz: {}\n", visible(message)).as_bytes());
        }
    }

    /// One line of the log, newline included.
    fn line(&self, level: Level, message: &str, at: &Location, warnings: &[Warning]) -> String {
        let time = rfc3339(
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        );
        let file = self.debug.then(|| format!("{}:{}", at.file(), at.line()));
        match self.format {
            LogFormat::Text => text(level, message, &time, file.as_deref()),
            LogFormat::Json => json(level, message, &time, file.as_deref(), warnings),
        }
    }

    fn write(&self, line: &str) {
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let path = match path.to_str() {
        Some(text) if text.starts_with("journald:") || text.starts_with("syslog:") => {
            bail!("--log {text:?}: only a file can be written to");
        }
        Some(text) => Path::new(text.strip_prefix("file:").unwrap_or(text)),
        None => path,
    };
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(libc::O_SYNC)
        .open(path)
        .with_context(|| format!("open log file {path:?}"))
}

/// logrus' TextFormatter without a terminal.
fn text(level: Level, message: &str, time: &str, file: Option<&str>) -> String {
    let mut line = format!("time=\"{time}\" level={} msg=", level.name());
    push_text(&mut line, message);
    if let Some(file) = file {
        line.push_str(" file=");
        push_text(&mut line, file);
    }
    line.push('\n');
    line
}

/// logrus' JSONFormatter: the keys in alphabetical order, one object a line.
fn json(
    level: Level,
    message: &str,
    time: &str,
    file: Option<&str>,
    warnings: &[Warning],
) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut line = String::from("{");
    if let Some(file) = file {
        let _ = write!(line, "\"file\":{},", quoted(file));
    }
    let _ = write!(
        line,
        "\"level\":\"{}\",\"msg\":{},\"time\":\"{time}\"",
        level.name(),
        quoted(message)
    );
    if !warnings.is_empty() {
        let all: Vec<String> = warnings
            .iter()
            .map(|warning| quoted(&warning.message))
            .collect();
        let _ = write!(line, ",\"warnings\":[{}]", all.join(","));
    }
    line.push_str("}\n");
    line
}

/// A value of a text line, quoted as Go's `%q` if it is more than one plain word.
fn push_text(line: &mut String, value: &str) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b);
    if value.bytes().all(plain) {
        line.push_str(value);
        return;
    }
    line.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            line.push('\\');
        }
        push_visible(line, c);
    }
    line.push('"');
}

/// The message without anything that could end the line or command a terminal: parts of it may come
/// from a config or a container.
fn visible(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    message.chars().for_each(|c| push_visible(&mut line, c));
    line
}

/// Go's escapes for control characters, everything else as it is.
fn push_visible(line: &mut String, c: char) {
    let _ = match c {
        '\n' => line.write_str("\\n"),
        '\r' => line.write_str("\\r"),
        '\t' => line.write_str("\\t"),
        c if c.is_ascii_control() => write!(line, "\\x{:02x}", u32::from(c)),
        c if c.is_control() => write!(line, "\\u{:04x}", u32::from(c)),
        c => line.write_char(c),
    };
}

/// An error with its causes in one line, the most general first, each errno with its name:
/// `mounts[3] "/etc/hosts": open source "/x": no such file or directory (ENOENT)`.
pub fn sentence(error: &anyhow::Error) -> String {
    let part = |cause: &(dyn std::error::Error + 'static)| {
        let errno = match (
            cause.downcast_ref::<Errno>(),
            cause.downcast_ref::<std::io::Error>(),
        ) {
            (Some(errno), _) => Some(*errno),
            (None, Some(error)) => error.raw_os_error().map(Errno::from_raw),
            (None, None) => None,
        };
        match errno {
            Some(errno) => crate::sys::words(errno),
            None => cause.to_string(),
        }
    };
    error.chain().map(part).collect::<Vec<_>>().join(": ")
}

/// A time since the epoch as UTC in RFC 3339, whole seconds: `2026-01-02T03:04:05Z`.
pub fn rfc3339(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day since 1970-01-01.
///
/// The year is counted from March, so that the leap day is its last: then the month's lengths follow one
/// formula (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(day: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468; // from 0000-03-01
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let day = day + DAYS_TO_1970;
    let era = day / DAYS_IN_400_YEARS;
    let day = day % DAYS_IN_400_YEARS;
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (
        400 * era + year + u64::from(month <= 2),
        month,
        day - (153 * from_march + 2) / 5 + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc3339() {
        // date -u -d @N +%FT%TZ
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (68_169_599, "1972-02-28T23:59:59Z"),
            (68_169_600, "1972-02-29T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_323_045, "2026-01-02T03:04:05Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(Duration::new(seconds, 999_999_999)), expected);
        }
    }

    #[test]
    fn dates_follow_each_other() {
        let leap =
            |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for number in 0..200_000 {
            assert_eq!(civil(number), (year, month, day));
            let length = match month {
                2 if leap(year) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn errors_are_one_sentence() {
        use anyhow::{Error, anyhow};
        let gone = || std::io::Error::from_raw_os_error(libc::ENOENT);
        for (error, expected) in [
            (
                anyhow!("container does not exist"),
                "container does not exist",
            ),
            (anyhow!("b").context("a"), "a: b"),
            (Error::new(gone()), "no such file or directory (ENOENT)"),
            (
                Error::new(gone())
                    .context("open source \"/x\"")
                    .context("mounts[3]"),
                "mounts[3]: open source \"/x\": no such file or directory (ENOENT)",
            ),
            (
                Error::new(Errno::EPERM).context("clone3"),
                "clone3: operation not permitted (EPERM)",
            ),
            (
                Error::new(std::io::Error::other("odd")).context("a"),
                "a: odd",
            ),
        ] {
            assert_eq!(sentence(&error), expected);
        }
    }

    #[test]
    fn text_lines_are_logrus() {
        // As runc 1.3.6 prints them.
        let line = |message| text(Level::Error, message, "2026-01-02T03:04:05Z", None);
        let head = "time=\"2026-01-02T03:04:05Z\" level=error msg=";
        for (message, expected) in [
            ("word-._/@^+9", "word-._/@^+9"),
            ("", ""),
            ("two words", "\"two words\""),
            ("a=b", "\"a=b\""),
            ("say \"x\" \\", "\"say \\\"x\\\" \\\\\""),
            ("a\nb\tc\x1b[0m\x7f", "\"a\\nb\\tc\\x1b[0m\\x7f\""),
            ("grün \u{85}", "\"grün \\u0085\""),
        ] {
            assert_eq!(line(message), format!("{head}{expected}\n"));
        }
        let line = text(
            Level::Debug,
            "x",
            "2026-01-02T03:04:05Z",
            Some("src/a.rs:7"),
        );
        assert_eq!(
            line,
            "time=\"2026-01-02T03:04:05Z\" level=debug msg=x file=\"src/a.rs:7\"\n"
        );
    }

    #[test]
    fn json_lines_are_logrus() {
        let line = json(
            Level::Warning,
            "a \"b\"\n\x1b<é",
            "2026-01-02T03:04:05Z",
            None,
            &[],
        );
        let expected = "{\"level\":\"warning\",\"msg\":\"a \\\"b\\\"\\n\\u001b<é\",\"time\":\"2026-01-02T03:04:05Z\"}\n";
        assert_eq!(line, expected);
        let line = json(
            Level::Debug,
            "x",
            "2026-01-02T03:04:05Z",
            Some("src/a.rs:7"),
            &[],
        );
        let expected = "{\"file\":\"src/a.rs:7\",\"level\":\"debug\",\"msg\":\"x\",\"time\":\"2026-01-02T03:04:05Z\"}\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn stderr_shows_one_harmless_line() {
        assert_eq!(visible("a\nb\x1b[31m \"ü\""), "a\\nb\\x1b[31m \"ü\"");
    }

    /// A log into a file of its own, and a way to read it back.
    fn logged(name: &str, format: LogFormat, debug: bool, say: impl FnOnce(&Log)) -> String {
        let path = std::env::temp_dir().join(format!("runz-log-{}-{name}", std::process::id()));
        let log = Some(path.clone());
        say(&Log::open(&Global {
            log,
            log_format: format,
            debug,
            ..Global::default()
        })
        .unwrap());
        let all = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        all
    }

    /// The lines as (level, msg) with the number of warnings inside.
    fn objects(all: &str) -> Vec<(String, String, usize)> {
        let object = |line| {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| object[key].as_str().unwrap().to_owned();
            (
                text("level"),
                text("msg"),
                object["warnings"].as_array().map_or(0, Vec::len),
            )
        };
        all.lines().map(object).collect()
    }

    #[test]
    fn a_failure_is_one_json_object() {
        let all = logged("fail", LogFormat::Json, false, |log| {
            log.debug("not asked for");
            log.warn("first");
            log.warn(format_args!("second {}", 2));
            log.fail("create \"web\": no\n");
        });
        assert_eq!(
            objects(&all),
            [("error".into(), "create \"web\": no".into(), 2)]
        );
        let object: serde_json::Value = serde_json::from_str(&all).unwrap();
        assert_eq!(object["warnings"], serde_json::json!(["first", "second 2"]));
    }

    #[test]
    fn a_success_shows_its_warnings() {
        let all = logged("release", LogFormat::Json, false, |log| {
            log.warn("first");
            log.release();
            log.warn("second");
            log.release();
        });
        let warning = |message: &str| ("warning".to_string(), message.to_string(), 0);
        assert_eq!(objects(&all), [warning("first"), warning("second")]);
        assert_eq!(logged("silent", LogFormat::Json, false, Log::release), "");
    }

    #[test]
    fn debug_and_text_hold_nothing_back() {
        let all = logged("debug", LogFormat::Json, true, |log| {
            log.debug("d");
            log.warn("w");
            log.fail("e");
        });
        let levels: Vec<String> = objects(&all).into_iter().map(|(level, ..)| level).collect();
        assert_eq!(levels, ["debug", "warning", "error"]);
        assert!(
            all.lines()
                .all(|line| line.contains("\"file\":\"src/log.rs:")),
            "{all}"
        );

        let all = logged("text", LogFormat::Text, false, |log| {
            log.warn("w");
            log.fail("e");
        });
        let tails: Vec<&str> = all
            .lines()
            .map(|line| line.split_once(' ').unwrap().1)
            .collect();
        assert_eq!(tails, ["level=warning msg=w", "level=error msg=e"]);
    }

    #[test]
    fn the_file_is_appended_to_and_named_in_errors() {
        let path = std::env::temp_dir().join(format!("runz-log-{}-append", std::process::id()));
        std::fs::write(&path, "before\n").unwrap();
        let log = Some(format!("file:{}", path.display()).into());
        Log::open(&Global {
            log,
            ..Global::default()
        })
        .unwrap()
        .warn("after");
        let all = std::fs::read_to_string(&path).unwrap();
        assert!(
            all.starts_with("before\ntime=") && all.ends_with("msg=after\n"),
            "{all}"
        );
        std::fs::remove_file(&path).unwrap();

        for (log, expected) in [
            (
                "/nonexistent/log",
                "open log file \"/nonexistent/log\": No such file or directory (os error 2)",
            ),
            (
                "journald:web",
                "--log \"journald:web\": only a file can be written to",
            ),
            (
                "syslog:web",
                "--log \"syslog:web\": only a file can be written to",
            ),
        ] {
            let error = Log::open(&Global {
                log: Some(log.into()),
                ..Global::default()
            })
            .unwrap_err();
            assert_eq!(format!("{error:#}"), expected);
        }
    }
}
