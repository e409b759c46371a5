//! The zygote: what is made before it is asked for.

#[allow(dead_code, reason = "until the daemon is there")]
pub mod plans;
