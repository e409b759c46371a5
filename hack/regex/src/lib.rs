//! `regex` for oci-spec: see Cargo.toml.

pub use regex_lite::*;
