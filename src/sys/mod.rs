//! Thin wrappers of system calls: the only place with `unsafe`.
#![allow(unsafe_code)]

pub mod bpf;
