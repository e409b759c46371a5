//! `linux.netDevices`.

use std::process::Command;

use serde_json::json;

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Way};
use crate::tests;

pub const TESTS: Tests = tests![
    from(moves_devices),
    from(moves_into_a_joined_namespace),
    names_what_fails
];

/// ip(8), as root on the host, for the duration of a test.
fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status();
    let status = status.expect("ip of package iproute2");
    assert!(status.success(), "ip {words}");
}

/// Two interfaces on the host, named after the bundle; gone with it.
struct Pair(String, String);

impl Pair {
    fn new(b: &Bundle) -> Pair {
        // IFNAMSIZ is 16.
        let number: String = b.id.chars().filter(char::is_ascii_alphanumeric).collect();
        let number = &number[number.len().saturating_sub(9)..];
        let pair = Pair(format!("rz{number}a"), format!("rz{number}b"));
        ip(&format!(
            "link add {} type veth peer name {}",
            pair.0, pair.1
        ));
        pair
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Whichever is still here takes the other with it.
        for name in [&self.0, &self.1] {
            let mut command = Command::new("ip");
            let _ = command.args(["link", "delete", name]).output();
        }
    }
}

fn moves_devices(way: Way) {
    let b = Bundle::new(way).script("ip address show; cat /proc/sys/net/ipv4/conf/eth7/forwarding");
    let pair = Pair::new(&b);
    ip(&format!("link set {} mtu 1789", pair.0));
    ip(&format!("address add 192.0.2.7/24 dev {}", pair.0));
    let b = b.config(|spec| {
        spec["linux"]["netDevices"] = json!({ &pair.0: {"name": "eth7"}, &pair.1: {} });
        // Its sysctls are there when it has arrived.
        spec["linux"]["sysctl"] = json!({"net.ipv4.conf.eth7.forwarding": "1"});
    });
    let shown = b.run().ok();
    for expected in ["eth7@", "mtu 1789", "inet 192.0.2.7/24", &pair.1] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(shown.ends_with("\n1\n"), "{shown}");
    let host = Command::new("ip").arg("link").output().unwrap().stdout;
    assert!(!String::from_utf8_lossy(&host).contains(&pair.0));
}

fn moves_into_a_joined_namespace(way: Way) {
    let b = Bundle::new(way).script("ip link show");
    let pair = Pair::new(&b);
    let mut other = Command::new("unshare")
        .args(["--net", "sleep", "1000"])
        .spawn()
        .expect("unshare of package util-linux");
    let path = format!("/proc/{}/ns/net", other.id());
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    crate::harness::wait_for("a network namespace", || {
        std::fs::read_link(&path).ok().filter(|n| *n != own)
    });
    let b = b.config(|spec| {
        for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "network" {
                namespace["path"] = json!(path);
            }
        }
        spec["linux"]["netDevices"] = json!({ &pair.0: {"name": "eth7"} });
    });
    let output = b.run();
    let _ = other.kill();
    let _ = other.wait();
    assert!(output.ok().contains("eth7@"));
}

fn names_what_fails(way: Way) {
    let b = Bundle::new(way).config(|spec| {
        spec["linux"]["netDevices"] = json!({"nosuch0": {}});
    });
    let error = b.create().fails();
    let expected = "linux.netDevices.nosuch0: find the interface: no such device (ENODEV)";
    assert!(error.ends_with(expected), "{error}");
}
