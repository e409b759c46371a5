//! Values as Go's `flag`, `strconv`, `time` and docker's `units` read them, since callers write them so.
//!
//! Each function is a clap value parser; its error is only the reason, the flag is named by the caller.

use std::num::IntErrorKind;
use std::time::Duration;

use super::User;

/// Go's wording for a value that its `flag` package cannot read.
pub const PARSE_ERROR: &str = "parse error";

/// Go's wording for a number that does not fit.
pub const OUT_OF_RANGE: &str = "value out of range";

/// `strconv.ParseBool`.
pub fn bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A decimal, or with a prefix a binary, octal or hexadecimal number (`strconv.ParseInt` with base 0).
pub fn i64(text: &str) -> Result<i64, &'static str> {
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => ("-", &text[1..]),
        Some(b'+') => ("", &text[1..]),
        _ => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    if !digits
        .as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric)
    {
        return Err(PARSE_ERROR);
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|error| match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => OUT_OF_RANGE,
        _ => PARSE_ERROR,
    })
}

/// [`i64()`] in 32 bits.
pub fn i32(text: &str) -> Result<i32, &'static str> {
    i64(text)?.try_into().map_err(|_| OUT_OF_RANGE)
}

/// [`i64()`], never negative, in 32 bits.
pub fn u32(text: &str) -> Result<u32, &'static str> {
    i64(text)?.try_into().map_err(|_| OUT_OF_RANGE)
}

/// A decimal number without sign (`strconv.ParseUint` with base 10).
pub fn decimal_u64(text: &str) -> Result<u64, &'static str> {
    if text.starts_with('+') {
        return Err("invalid syntax");
    }
    text.parse().map_err(|_| "invalid syntax")
}

/// A decimal number (`strconv.ParseInt` with base 10).
pub fn decimal_i64(text: &str) -> Result<i64, &'static str> {
    text.parse().map_err(|_| "invalid syntax")
}

/// `UID[:GID]`, both decimal.
pub fn user(text: &str) -> Result<User, &'static str> {
    const BAD_UID: &str = "bad uid: not a number from 0 to 4294967295 (names are not looked up)";
    const BAD_GID: &str = "bad gid: not a number from 0 to 4294967295 (names are not looked up)";
    let (uid, gid) = match text.split_once(':') {
        None => (text, None),
        Some((uid, gid)) => (uid, Some(gid)),
    };
    Ok(User {
        uid: uid.parse().map_err(|_| BAD_UID)?,
        gid: gid
            .map(|gid| gid.parse().map_err(|_| BAD_GID))
            .transpose()?,
    })
}

/// A group id: [`i64()`], never negative, in 32 bits.
pub fn gid(text: &str) -> Result<u32, &'static str> {
    match i64(text)? {
        number if number < 0 => Err("additional-gids must be a positive number"),
        number => number.try_into().map_err(|_| OUT_OF_RANGE),
    }
}

/// A weight of block I/O: [`i64()`] in 16 bits.
pub fn weight(text: &str) -> Result<u16, &'static str> {
    i64(text)?.try_into().map_err(|_| "not between 10 and 1000")
}

/// A number of bytes: `1073741824`, `512m`, `1.5GiB`, `64 KB` (all powers of 1024), or `-1` for unlimited.
/// docker's `units.RAMInBytes`, which truncates fractions.
pub fn size(text: &str) -> Result<i64, &'static str> {
    const INVALID: &str = "invalid size";
    if text == "-1" {
        return Ok(-1);
    }
    let end = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')
        .ok_or(INVALID)?;
    let (number, suffix) = (&text[..=end], text[end + 1..].to_ascii_lowercase());
    let number = number.strip_suffix(' ').unwrap_or(number);
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(INVALID);
    }
    let number: f64 = number.parse().map_err(|_| INVALID)?;
    let power = match suffix.as_bytes().first() {
        None => 0,
        Some(b'b') if suffix.len() == 1 => 0,
        Some(unit) if matches!(&suffix[1..], "" | "b" | "ib") => {
            1 + b"kmgtp"
                .iter()
                .position(|u| u == unit)
                .ok_or("invalid suffix")?
        }
        Some(_) => return Err("invalid suffix"),
    };
    let bytes = number * 1024f64.powi(power as i32);
    if bytes >= i64::MAX as f64 {
        return Err("more than 2^63 bytes");
    }
    Ok(bytes as i64)
}

/// A duration above zero, as Go's `time.ParseDuration` reads it: `5s`, `100ms`, `1m30s`, `1.5h`.
pub fn interval(text: &str) -> Result<Duration, &'static str> {
    const POSITIVE: &str = "duration interval must be greater than 0";
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e0),
        ("us", 1e3),
        ("\u{b5}s", 1e3),  // µs with the micro sign
        ("\u{3bc}s", 1e3), // μs with the Greek letter
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 60e9),
        ("h", 3600e9),
    ];
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Err(POSITIVE);
    }
    if rest.is_empty() {
        return Err(PARSE_ERROR);
    }
    let mut nanoseconds = 0f64;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or(PARSE_ERROR)?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let number: f64 = number.parse().map_err(|_| PARSE_ERROR)?;
        let (_, factor) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or(PARSE_ERROR)?;
        nanoseconds += number * factor;
        rest = tail;
    }
    match nanoseconds {
        n if n > i64::MAX as f64 => Err(PARSE_ERROR),
        n if negative || n < 1.0 => Err(POSITIVE),
        n => Ok(Duration::from_nanos(n as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bools() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(bool(text), Some(true), "{text:?}");
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(bool(text), Some(false), "{text:?}");
        }
        for text in ["", "yes", "tRUE", " true", "2"] {
            assert_eq!(bool(text), None, "{text:?}");
        }
    }

    #[test]
    fn integers_of_any_base() {
        for (text, expected) in [
            ("0", 0),
            ("3", 3),
            ("-1", -1),
            ("+7", 7),
            ("0x1F", 31),
            ("-0x1f", -31),
            ("0b101", 5),
            ("0o17", 15),
            ("017", 15),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(i64(text), Ok(expected), "{text:?}");
        }
        for text in [
            "", "-", "x", "1x", " 1", "1 ", "1.5", "0x", "--1", "0x-1", "08", "++1",
        ] {
            assert_eq!(i64(text), Err(PARSE_ERROR), "{text:?}");
        }
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
        ] {
            assert_eq!(i64(text), Err(OUT_OF_RANGE), "{text:?}");
        }
        assert_eq!(
            (u32("4294967295"), u32("4294967296")),
            (Ok(u32::MAX), Err(OUT_OF_RANGE))
        );
        assert_eq!((u32("-1"), u32("x")), (Err(OUT_OF_RANGE), Err(PARSE_ERROR)));
        assert_eq!(
            (weight("65535"), weight("65536")),
            (Ok(u16::MAX), Err("not between 10 and 1000"))
        );
        assert_eq!(
            (gid("4294967295"), gid("4294967296"), gid("x")),
            (Ok(u32::MAX), Err(OUT_OF_RANGE), Err(PARSE_ERROR))
        );
        assert_eq!((i32("-1"), i32("2147483648")), (Ok(-1), Err(OUT_OF_RANGE)));
    }

    #[test]
    fn decimal_integers() {
        assert_eq!(
            (decimal_u64("0"), decimal_u64("18446744073709551615")),
            (Ok(0), Ok(u64::MAX))
        );
        for text in ["", "-1", "+1", "0x1", "1.5", "18446744073709551616"] {
            assert!(decimal_u64(text).is_err(), "{text:?}");
        }
        assert_eq!(
            (decimal_i64("-1"), decimal_i64("+1"), decimal_i64("010")),
            (Ok(-1), Ok(1), Ok(10))
        );
        for text in ["", "x", "0x1", "1 "] {
            assert!(decimal_i64(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn users() {
        assert_eq!(user("7"), Ok(User { uid: 7, gid: None }));
        assert_eq!(
            user("7:8"),
            Ok(User {
                uid: 7,
                gid: Some(8)
            })
        );
        for text in ["", "root", "7:", ":8", "7:8:9", "-1", "7:x", "4294967296"] {
            assert!(user(text).is_err(), "{text:?}");
        }
    }

    /// The table of docker's go-units, and what it refuses.
    #[test]
    fn sizes() {
        const K: i64 = 1024;
        for (text, expected) in [
            ("0", 0),
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("32k", 32 * K),
            ("32K", 32 * K),
            ("32kb", 32 * K),
            ("32Kb", 32 * K),
            ("32Kib", 32 * K),
            ("32KIB", 32 * K),
            ("32Mb", 32 * K * K),
            ("32Gb", 32 * K * K * K),
            ("32Tb", 32 * K * K * K * K),
            ("32Pb", 32 * K * K * K * K * K),
            ("32.5kB", 32 * K + K / 2),
            ("32.5 kB", 32 * K + K / 2),
            ("32 mb", 32 * K * K),
            ("1.5GiB", 3 * K * K * K / 2),
            ("0.3", 0),
            (".5k", 512),
            ("1.k", K),
            ("-1", -1),
        ] {
            assert_eq!(size(text), Ok(expected), "{text:?}");
        }
        for text in [
            "", "hello", "-32", "-1k", ".3.kB", " 32", "32m b", "32bm", "32bb", "32kbb", "1e3",
            "9e", "8192p",
        ] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn intervals() {
        for (text, expected) in [
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("100ms", 100_000_000),
            ("1m", 60_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1h1m1s1ms1us1ns", 3_661_001_001_001),
            ("2\u{b5}s", 2_000),
            ("2\u{3bc}s", 2_000),
        ] {
            assert_eq!(
                interval(text),
                Ok(Duration::from_nanos(expected)),
                "{text:?}"
            );
        }
        for text in ["0", "0s", "-1s", "0.1ns"] {
            assert_eq!(
                interval(text),
                Err("duration interval must be greater than 0"),
                "{text:?}"
            );
        }
        for text in [
            "",
            "+",
            "5",
            "s",
            ".s",
            "5x",
            "5s3",
            "1 s",
            "1.2.3s",
            "999999999h",
        ] {
            let error = interval(text).unwrap_err();
            assert_ne!(
                error, "duration interval must be greater than 0",
                "{text:?}"
            );
        }
    }
}
