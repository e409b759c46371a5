//! Id maps: of a new user namespace, and of idmapped mounts. Also mount sources that a container in
//! a user namespace could not open itself.

use std::ffi::CStr;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{Started, failed};
use crate::init::bind;
use crate::plan::{IdMap, IdMaps, MountKind, Plan};
use crate::sys::fs::CWD;
use crate::sys::process::{self, Clone};
use crate::sys::{self, socket};

/// Writes the maps of a child's new user namespace (user_namespaces(7)): directly, or where that is
/// refused by newuidmap(1) and newgidmap(1).
pub fn write(pid: i32, maps: &IdMaps) -> Result<()> {
    write_map(pid, "uid", &maps.uid)?;
    write_map(pid, "gid", &maps.gid)
}

fn write_map(pid: i32, kind: &str, maps: &[IdMap]) -> Result<()> {
    if maps.is_empty() {
        return Ok(());
    }
    let path = format!("/proc/{pid}/{kind}_map");
    let refused = match write_text(&path, maps) {
        Ok(()) => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => error,
        Err(error) => {
            return Err(error).with_context(|| format!("linux.{kind}Mappings: write {path}"));
        }
    };
    // A single group that is our own may be mapped by anybody who gives up setgroups(2) first.
    let own = sys::cred::effective_ids();
    let single = maps.len() == 1 && maps[0].size == 1;
    if kind == "gid" && single && maps[0].host == own.1 && own.0 != 0 {
        let setgroups = format!("/proc/{pid}/setgroups");
        fs::write(&setgroups, "deny").with_context(|| format!("write {setgroups}"))?;
        return write_text(&path, maps).with_context(|| format!("write {path}"));
    }
    let tool = format!("new{kind}map");
    let mut command = Command::new(&tool);
    command.arg(pid.to_string());
    for map in maps {
        command.args([map.container, map.host, map.size].map(|n| n.to_string()));
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(_) => {
            return Err(refused).with_context(|| {
                format!("linux.{kind}Mappings: write {path} (and {tool} can't be run)")
            });
        }
    };
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim().replace('\n', "; ");
    let text = text.strip_prefix(&format!("{tool}: ")).unwrap_or(&text);
    ensure!(
        output.status.success(),
        "linux.{kind}Mappings: {tool}: {text} (allowed is what /etc/sub{kind} says)"
    );
    Ok(())
}

fn write_text(path: &str, maps: &[IdMap]) -> std::io::Result<()> {
    let mut text = String::new();
    for map in maps {
        text += &format!("{} {} {}\n", map.container, map.host, map.size);
    }
    // One write(2): the kernel takes the whole map or nothing.
    fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// A user namespace that was joined by path must have the maps that the config claims.
pub fn same_maps(plan: &Plan, join: &[OwnedFd]) -> Result<()> {
    if plan.id_maps == IdMaps::default() {
        return Ok(());
    }
    let user = libc::CLONE_NEWUSER as u64;
    let Some(at) = plan.namespaces.join.iter().position(|j| j.kind == user) else {
        return Ok(());
    };
    let found = maps_of(&join[at]).context("read the maps of the user namespace")?;
    if found != plan.id_maps {
        bail!(
            "user namespaces enabled, but both namespace path and non-matching mapping specified -- you may only provide one"
        );
    }
    Ok(())
}

/// The maps of a user namespace, read by a child that enters it.
fn maps_of(namespace: &OwnedFd) -> Result<IdMaps> {
    let child = park(0, Some(namespace))?;
    let read = |kind: &str| -> Result<Vec<IdMap>> {
        let path = format!("/proc/{}/{kind}_map", child.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        text.lines()
            .map(|line| {
                let mut numbers = line.split_whitespace().map(str::parse::<u32>);
                match (numbers.next(), numbers.next(), numbers.next()) {
                    (Some(Ok(container)), Some(Ok(host)), Some(Ok(size))) => Ok(IdMap {
                        container,
                        host,
                        size,
                    }),
                    _ => bail!("{path}: not understood: {line:?}"),
                }
            })
            .collect()
    };
    Ok(IdMaps {
        uid: read("uid")?,
        gid: read("gid")?,
    })
}

/// A child that does nothing but hold a user namespace.
struct Parked {
    pid: i32,
    pidfd: OwnedFd,
}

impl Drop for Parked {
    fn drop(&mut self) {
        let _ = process::pidfd_send_signal(&self.pidfd, libc::SIGKILL);
        let _ = process::wait(&self.pidfd);
    }
}

/// Clones one, in new namespaces (`flags`) or in `namespace`, and waits until it's there.
fn park(flags: u64, namespace: Option<&OwnedFd>) -> Result<Parked> {
    let (read, write) = sys::fs::pipe().map_err(|e| failed(e, "pipe"))?;
    match process::clone3(flags, None).map_err(|e| failed(e, "clone into a user namespace"))? {
        Clone::Child => {
            // If we are killed, so is it.
            let _ = process::set_death_signal(libc::SIGKILL);
            let joined =
                namespace.map_or(Ok(()), |n| process::setns(n, libc::CLONE_NEWUSER as u64));
            let _ = sys::fs::write(&write, &[joined.is_ok().into()]);
            loop {
                process::pause();
            }
        }
        Clone::Parent { pid, pidfd } => {
            let parked = Parked { pid, pidfd };
            drop(write);
            let mut word = [0];
            match sys::fs::read(&read, &mut word) {
                Ok(1) if word[0] == 1 => Ok(parked),
                _ => bail!("enter the user namespace: refused"),
            }
        }
    }
}

/// The user namespaces whose maps the idmapped mounts get, one for each of the plan's mounts.
pub fn of_mounts(plan: &Plan) -> Result<Vec<Option<OwnedFd>>> {
    plan.mounts
        .iter()
        .map(|m| {
            let Some(idmap) = &m.idmap else {
                return Ok(None);
            };
            let maps = idmap.maps.as_ref().unwrap_or(&plan.id_maps);
            namespace_of(maps, plan).map(Some).with_context(|| {
                format!(
                    "mounts[{}] {:?}: make a user namespace for its maps",
                    m.index, m.destination
                )
            })
        })
        .collect()
}

/// Sends the tree of a bind to a child in a user namespace which may not open the source, or which
/// may not map it. The tree is taken in the child's mount namespace: the source may lie in what the
/// child has mounted before, and a flag of the host's that is locked there stays so.
pub fn send_source(
    started: &Started,
    plan: &Plan,
    index: u32,
    id_maps: &[Option<OwnedFd>],
) -> Result<()> {
    let index = index as usize;
    let Some(MountKind::Bind { source, recursive }) = plan.mounts.get(index).map(|m| &m.kind)
    else {
        bail!("mounts: the container's process asks for what isn't a bind");
    };
    let idmap = plan.mounts[index].idmap.as_ref();
    let namespace = id_maps.get(index).and_then(Option::as_ref);
    let tree = || {
        process::setns(&started.pidfd, libc::CLONE_NEWNS as u64)?;
        bind(
            source,
            *recursive,
            idmap.map(|m| m.recursive).zip(namespace),
        )
    };
    // Only a child can go: whoever enters another mount namespace has no way back to his root.
    match process::clone3(0, None).map_err(|e| failed(e, "clone a process to open a source"))? {
        Clone::Child => {
            let sent = match tree() {
                Ok(tree) => socket::send(&started.channel, &[0], Some(tree.as_fd())),
                Err(errno) => socket::send(&started.channel, &(errno as i32).to_ne_bytes(), None),
            };
            process::exit_now(sent.is_err().into())
        }
        Clone::Parent { pidfd, .. } => {
            process::wait(&pidfd).map_err(|e| failed(e, "wait for who opens a source"))?;
            Ok(())
        }
    }
}

/// A user namespace with those maps.
fn namespace_of(maps: &IdMaps, plan: &Plan) -> Result<OwnedFd> {
    let user = libc::CLONE_NEWUSER as u64;
    if maps.uid.is_empty()
        && let Some(j) = plan.namespaces.join.iter().find(|j| j.kind == user)
    {
        return open(&j.path);
    }
    let child = park(user, None)?;
    write(child.pid, maps)?;
    let path = std::ffi::CString::new(format!("/proc/{}/ns/user", child.pid))?;
    open(&path)
}

fn open(path: &CStr) -> Result<OwnedFd> {
    sys::fs::open(CWD, path, libc::O_RDONLY, 0)
        .map_err(|e| failed(e, format_args!("open {path:?}")))
}
