//! runz: an OCI container runtime.

#[allow(dead_code)]
mod seccomp;
#[allow(dead_code, unused_imports)] // until the verbs use it
mod cgroup;
mod sys;

fn main() {
    println!("runz");
}
