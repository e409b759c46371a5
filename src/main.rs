//! runz: an OCI container runtime.

#[allow(dead_code)]
mod seccomp;

fn main() {
    println!("runz");
}
