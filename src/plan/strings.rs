//! argv and envp, laid out for execve(2).

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};
use std::ptr;

use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// A null-terminated array of C strings as execve(2) takes it, kept with its text.
pub struct Strings {
    text: Vec<CString>,
    home: Option<Box<[Cell<u8>; HOME_SIZE]>>,
    pointers: Vec<*const c_char>,
}

/// Room for `HOME=` and a directory's path.
pub const HOME_SIZE: usize = 1024;

impl Strings {
    /// Lays out `text`.
    pub fn new(text: Vec<CString>) -> Strings {
        let mut pointers: Vec<_> = text.iter().map(|s| s.as_ptr()).collect();
        pointers.push(ptr::null());
        Strings {
            text,
            home: None,
            pointers,
        }
    }

    /// Lays out an environment without HOME: the last string is `HOME=/`, which `init` replaces by
    /// what the container's /etc/passwd says (see [`Strings::home`]).
    pub fn with_home(text: Vec<CString>) -> Strings {
        let mut strings = Strings::new(text);
        let home = Box::new([const { Cell::new(0) }; HOME_SIZE]);
        for (cell, byte) in home.iter().zip(b"HOME=/") {
            cell.set(*byte);
        }
        let end = strings.pointers.len() - 1;
        strings.pointers.insert(end, home.as_ptr().cast());
        strings.home = Some(home);
        strings
    }

    /// The buffer behind a HOME that is still to be looked up: `HOME=` and what follows, the last
    /// byte always 0. `None` when the config sets HOME.
    pub fn home(&self) -> Option<&[Cell<u8>]> {
        self.home.as_ref().map(|h| &h[..HOME_SIZE - 1])
    }

    /// The array, for as long as `self` lives.
    pub fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }

    /// The strings.
    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.text.iter().map(|s| s.as_c_str())
    }
}

/// The text, and whether there is a HOME to look up; its buffer is filled by `init` only.
impl Serialize for Strings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.text, self.home.is_some()).serialize(serializer)
    }
}

/// Laid out anew: pointers mean nothing elsewhere.
impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strings, D::Error> {
        Ok(match Deserialize::deserialize(deserializer)? {
            (text, true) => Strings::with_home(text),
            (text, false) => Strings::new(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<CString> {
        let words = text.split(' ');
        words.map(|word| CString::new(word).unwrap()).collect()
    }

    /// What execve(2) would see of them, and whether it ends with null.
    fn shape(strings: &Strings) -> (Vec<&CStr>, Option<String>, usize) {
        let home = strings.home().map(|cells| {
            let bytes = cells.iter().map(Cell::get).take_while(|b| *b != 0);
            String::from_utf8(bytes.collect()).unwrap()
        });
        (strings.iter().collect(), home, strings.pointers.len())
    }

    #[test]
    fn survive_being_written_down() {
        for (strings, pointers) in [
            (Strings::new(Vec::new()), 1),
            (Strings::new(words("a bc d")), 4),
            (Strings::with_home(words("A=1 B=2")), 4),
            (Strings::with_home(Vec::new()), 2),
        ] {
            let bytes = postcard::to_allocvec(&strings).unwrap();
            let again: Strings = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(shape(&again), shape(&strings));
            assert_eq!(again.pointers.len(), pointers);
            assert!(again.pointers.last().unwrap().is_null());
            let mut expected: Vec<*const c_char> = again.iter().map(CStr::as_ptr).collect();
            expected.extend(again.home.as_ref().map(|home| home.as_ptr().cast()));
            expected.push(ptr::null());
            assert_eq!(again.pointers, expected);
        }
    }
}
