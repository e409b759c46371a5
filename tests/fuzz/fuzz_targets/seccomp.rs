//! Any `linux.seccomp` that parses: it compiles or is refused, and a program
//! loads and returns what the profile means.

#![no_main]
#![allow(dead_code)]

#[path = "../../../src/seccomp/mod.rs"]
mod seccomp;

use libfuzzer_sys::{Corpus, fuzz_target};
use oci_spec::runtime::LinuxSeccomp;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(data) else {
        return Corpus::Reject;
    };
    if let Ok(program) = seccomp::compile(&profile) {
        seccomp::interpreter::verify(&program.filter).expect("a program that loads");
        if let Some((call, seen)) = seccomp::meaning::disagreement(&profile, &program.filter) {
            panic!("{call:x?} returns {seen:#x}");
        }
    }
    Corpus::Keep
});
