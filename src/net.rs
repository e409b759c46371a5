//! `linux.netDevices`: interfaces that move into the container's network namespace (rtnetlink(7)).
//!
//! What an interface is (its MTU, its hardware address) goes along with it. Its addresses don't: the
//! kernel drops them on the way, so those that somebody configured are given to it again.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};

use crate::launch::failed;
use crate::sys::netlink::{self, Request, Socket, attributes};
use crate::sys::{Errno, process};

/// Moves each device to the network namespace of process `pid`, under its new name.
///
/// The calling thread visits that namespace, for its sockets: the process must be single-threaded,
/// or at least not be doing anything with the network elsewhere.
pub fn move_devices(devices: &[(String, String)], pid: i32) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let open = |path: &str| {
        File::open(path).with_context(|| format!("linux.netDevices: open network namespace {path}"))
    };
    let here = open("/proc/thread-self/ns/net")?;
    let there = open(&format!("/proc/{pid}/ns/net"))?;
    let id = |ns: &File| ns.metadata().map(|m| (m.dev(), m.ino())).ok();
    ensure!(
        id(&here) != id(&there),
        "linux.netDevices: the container has the runtime's own network namespace"
    );
    let mut outside = Socket::open().map_err(|e| failed(e, "linux.netDevices: open a socket"))?;
    let enter = |ns: &File| process::setns(ns, libc::CLONE_NEWNET as u64);
    enter(&there).map_err(|e| failed(e, "linux.netDevices: enter the container's namespace"))?;
    let inside = Socket::open();
    enter(&here).map_err(|e| failed(e, "linux.netDevices: return from the namespace"))?;
    let mut inside =
        inside.map_err(|e| failed(e, "linux.netDevices: open a socket in the namespace"))?;
    for (name, new_name) in devices {
        move_device(&mut outside, &mut inside, &there, name, new_name)
            .with_context(|| format!("linux.netDevices.{name}"))?;
    }
    Ok(())
}

fn move_device(
    outside: &mut Socket,
    inside: &mut Socket,
    namespace: &File,
    name: &str,
    new_name: &str,
) -> Result<()> {
    let index = index(outside, name).map_err(|e| failed(e, "find the interface"))?;
    // First of all: IPv6 addresses go as soon as the interface is down.
    let addresses = addresses(outside, index).map_err(|e| failed(e, "list its addresses"))?;
    set_up(outside, index, false).map_err(|e| failed(e, "set it down"))?;
    // One request, so that its old name doesn't collide with one in the container, nor its new name
    // with one on the host.
    let namespace = namespace.as_raw_fd().to_ne_bytes();
    let request = Request::new(libc::RTM_NEWLINK, 0, &link_header(index, 0, 0))
        .attribute(libc::IFLA_IFNAME, &terminated(new_name))
        .attribute(libc::IFLA_NET_NS_FD, &namespace);
    outside.ask(request).map_err(|e| {
        let what = format_args!("move it to the container's network namespace as {new_name:?}");
        failed(e, what)
    })?;
    // Its number may have been taken there.
    let index = self::index(inside, new_name).map_err(|e| failed(e, "find it in the container"))?;
    for address in addresses {
        let text = address.text();
        inside
            .ask(address.request(index))
            .map_err(|e| failed(e, format_args!("give it its address {text}")))?;
    }
    set_up(inside, index, true).map_err(|e| failed(e, "set it up"))
}

/// struct ifinfomsg.
fn link_header(index: i32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// The number of an interface. ENODEV: there is none of that name.
fn index(socket: &mut Socket, name: &str) -> Result<i32, Errno> {
    let request = Request::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0))
        .attribute(libc::IFLA_IFNAME, &terminated(name));
    let link = socket.get(request)?;
    let index = netlink::word(&link, 4).ok_or(Errno::EPROTO)?;
    Ok(index.cast_signed())
}

fn set_up(socket: &mut Socket, index: i32, up: bool) -> Result<(), Errno> {
    const UP: u32 = libc::IFF_UP as u32;
    let flags = if up { UP } else { 0 };
    let header = link_header(index, flags, UP);
    socket.ask(Request::new(libc::RTM_NEWLINK, 0, &header))
}

/// An address of an interface, as far as it moves along.
#[derive(Default)]
struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// IFA_FLAGS and IFA_RT_PRIORITY (linux/if_addr.h).
const FLAGS: u16 = 8;
const PRIORITY: u16 = 9;

/// How somebody configured an address, as opposed to what became of it (IFA_F_*).
const KEPT: u32 = libc::IFA_F_NODAD
    | libc::IFA_F_HOMEADDRESS
    | libc::IFA_F_MANAGETEMPADDR
    | libc::IFA_F_NOPREFIXROUTE
    | libc::IFA_F_MCAUTOJOIN;

/// The permanent addresses of global scope: the others belong to the host's network, or are the
/// kernel's own business.
fn addresses(socket: &mut Socket, index: i32) -> Result<Vec<Address>, Errno> {
    // The kernel says when an answer isn't whole because something changed; then it's asked again.
    for _ in 0..16 {
        let mut list = Vec::new();
        let request = Request::new(libc::RTM_GETADDR, 0, &[0; 8]);
        match socket.dump(request, &mut |_, body| list.extend(address(body, index))) {
            Err(Errno::EINTR) => continue,
            other => return other.map(|()| list),
        }
    }
    Err(Errno::EINTR)
}

/// Reads an ifaddrmsg; `None`: it's not one of ours.
fn address(body: &[u8], index: i32) -> Option<Address> {
    let (&[family, prefix, flags, scope], rest) = body.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let mut found = Address {
        family,
        prefix,
        flags: flags.into(),
        attributes: Vec::new(),
    };
    for (kind, value) in attributes(rest) {
        match kind {
            // All of them, where the header has room for eight.
            FLAGS => found.flags = netlink::word(value, 0)?,
            libc::IFA_ADDRESS | libc::IFA_LOCAL | libc::IFA_BROADCAST | PRIORITY => {
                found.attributes.push((kind, value.to_vec()));
            }
            // A label is the interface's old name.
            _ => {}
        }
    }
    let ours = i32::from_ne_bytes(*number) == index
        && found.flags & libc::IFA_F_PERMANENT != 0
        && scope == libc::RT_SCOPE_UNIVERSE;
    ours.then_some(found)
}

impl Address {
    fn request(self, index: i32) -> Request {
        let mut header = [
            self.family,
            self.prefix,
            0,
            libc::RT_SCOPE_UNIVERSE,
            0,
            0,
            0,
            0,
        ];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let request = Request::new(libc::RTM_NEWADDR, flags, &header)
            .attribute(FLAGS, &(self.flags & KEPT).to_ne_bytes());
        self.attributes
            .iter()
            .fold(request, |request, (kind, value)| {
                request.attribute(*kind, value)
            })
    }

    /// For messages: `192.0.2.1/24`.
    fn text(&self) -> String {
        let value = |wanted: u16| self.attributes.iter().find(|(kind, _)| *kind == wanted);
        let bytes = value(libc::IFA_LOCAL).or_else(|| value(libc::IFA_ADDRESS));
        let bytes = bytes.map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
        let ip = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(four), _) => std::net::IpAddr::from(four).to_string(),
            (_, Ok(sixteen)) => std::net::IpAddr::from(sixteen).to_string(),
            _ => String::new(),
        };
        format!("{ip}/{}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// ip(8) in this thread's network namespace, or in that of a process.
    fn ip(inside: Option<&Child>, words: &str) -> String {
        let mut command = match inside {
            None => Command::new("ip"),
            Some(child) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/proc/{}/ns/net", child.id()));
                command.arg("ip");
                command
            }
        };
        let output = command.args(words.split(' ')).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "ip {words}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A network namespace for this thread, as the host's, and a process in another one.
    struct Namespaces(Child);

    impl Namespaces {
        fn new() -> Namespaces {
            process::unshare(libc::CLONE_NEWNET as u64).unwrap();
            let mut command = Command::new("unshare");
            command.args(["--net", "sh", "-c", "echo; exec sleep 1000"]);
            let mut child = command
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = [0];
            let out = child.stdout.as_mut().unwrap();
            std::io::Read::read_exact(out, &mut line).unwrap();
            Namespaces(child)
        }

        fn move_devices(&self, devices: &[(&str, &str)]) -> Result<()> {
            let devices: Vec<_> = devices
                .iter()
                .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
                .collect();
            move_devices(&devices, self.0.id() as i32)
        }
    }

    impl Drop for Namespaces {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_device_keeps_what_was_configured() {
        let there = Namespaces::new();
        ip(None, "link add v0 type veth peer name v1");
        ip(None, "link set v0 mtu 1789 address 02:11:22:33:44:55 up");
        ip(None, "address add 192.0.2.1/24 brd + dev v0 label v0:old");
        ip(None, "address add 203.0.113.9/24 dev v0 scope link");
        ip(None, "address add 198.51.100.1 peer 198.51.100.2/32 dev v0");
        ip(None, "address add 2001:db8::1/64 dev v0 nodad");
        ip(
            None,
            "address add 2001:db8::2/64 dev v0 valid_lft 1000 preferred_lft 1000",
        );
        there.move_devices(&[("v0", "eth0")]).unwrap();

        let shown = ip(Some(&there.0), "address show dev eth0");
        for expected in [
            "eth0@if",
            "mtu 1789",
            "link/ether 02:11:22:33:44:55",
            "inet 192.0.2.1/24 brd 192.0.2.255 scope global eth0\n",
            "inet 198.51.100.1 peer 198.51.100.2/32 scope global",
            "inet6 2001:db8::1/64 scope global nodad",
            ",UP",
        ] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
        for dropped in ["203.0.113.9", "2001:db8::2", "v0:old"] {
            assert!(!shown.contains(dropped), "{dropped}: {shown}");
        }
        let left = ip(None, "-brief link");
        assert!(left.contains("v1@") && !left.contains("v0@v1"), "{left}");
    }

    #[test]
    fn a_number_and_a_name_may_be_taken() {
        let there = Namespaces::new();
        // The numbers begin anew in each namespace.
        ip(Some(&there.0), "link add v0 type veth peer name x1");
        ip(None, "link add v0 type veth peer name v1");
        ip(None, "link add w0 type veth peer name w1");
        ip(None, "address add 192.0.2.1/24 dev v0");
        there.move_devices(&[("v0", "eth0"), ("w0", "v1")]).unwrap();
        let shown = ip(Some(&there.0), "address show dev eth0");
        assert!(shown.contains("inet 192.0.2.1/24"), "{shown}");
        assert!(ip(Some(&there.0), "-brief link").contains("v1@if"));
    }

    #[test]
    fn errors_name_the_device() {
        let there = Namespaces::new();
        let error = |devices: &[(&str, &str)]| {
            crate::log::sentence(&there.move_devices(devices).unwrap_err())
        };
        assert_eq!(
            error(&[("nosuch0", "eth0")]),
            "linux.netDevices.nosuch0: find the interface: no such device (ENODEV)"
        );
        ip(Some(&there.0), "link add eth0 type veth peer name eth1");
        ip(None, "link add v0 type veth peer name v1");
        assert_eq!(
            error(&[("v0", "eth0")]),
            "linux.netDevices.v0: move it to the container's network namespace as \"eth0\": file \
             exists (EEXIST)"
        );
        let here = move_devices(
            &[("v0".into(), "v9".into())],
            nix::unistd::gettid().as_raw(),
        );
        assert!(here.unwrap_err().to_string().contains("runtime's own"));
    }
}
