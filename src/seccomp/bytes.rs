//! A compiled filter as bytes: each instruction as it lies in memory.

use std::fmt;

use libc::sock_filter;
use serde::de::{Deserializer, Error, Visitor};
use serde::ser::Serializer;

/// Bytes of an instruction.
const SIZE: usize = 8;

/// The filter's bytes.
pub fn of(filter: &[sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(filter.len() * SIZE);
    for instruction in filter {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.push(instruction.jt);
        bytes.push(instruction.jf);
        bytes.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    bytes
}

/// The filter of such bytes. Half an instruction at the end is left out.
pub fn filter(bytes: &[u8]) -> Vec<sock_filter> {
    let instruction = |b: &[u8]| sock_filter {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    bytes.chunks_exact(SIZE).map(instruction).collect()
}

/// For `serde(with)`.
pub fn serialize<S: Serializer>(filter: &[sock_filter], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(&of(filter))
}

/// For `serde(with)`.
pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<sock_filter>, D::Error> {
    deserializer.deserialize_bytes(Bytes)
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<sock_filter>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("whole instructions")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        match bytes.len() % SIZE {
            0 => Ok(filter(bytes)),
            _ => Err(E::invalid_length(bytes.len(), &self)),
        }
    }
}
