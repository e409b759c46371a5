//! runz: an OCI container runtime.

fn main() {
    println!("runz");
}
