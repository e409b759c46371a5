//! What of a plan can be made ahead, without knowing anything of the one container. Pure.
//!
//! Kits are kept by their shape: two plans of equal shape get the same from the kernel. Whatever depends
//! on more than the shape, be it the caller, the host's files or the container, is not in it.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWUTS};
use serde::{Deserialize, Serialize};

use crate::init::MASK;
use crate::plan::{Dev, Mount, MountKind, Node, Plan};

/// The shape of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// CLONE_NEW* of the namespaces: of network, ipc, uts and mount.
    pub kinds: u64,
    /// File systems, in the plan's order.
    pub trees: Vec<Tree>,
}

/// A file system that is made ahead.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tree {
    /// `tmpfs`, `devpts`, `mqueue` or `sysfs`.
    pub fstype: CString,
    /// `source`.
    pub source: CString,
    /// Options for fsconfig(2).
    pub options: Vec<(CString, Option<CString>)>,
    /// MOUNT_ATTR_*.
    pub attributes: u64,
    /// What it is.
    pub place: Place,
}

/// Where a tree belongs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// It's `/dev`: with these nodes, and the standard links.
    Dev {
        /// Name, mode, device, owner.
        nodes: Vec<(CString, u32, u64, u32, u32)>,
        /// With a link to /proc/kcore.
        core: bool,
    },
    /// Directly below `/dev`, which is a tree itself.
    BelowDev(CString),
    /// Anywhere.
    Alone,
    /// Over the directories of `linux.maskedPaths`. The last one.
    Mask,
}

/// A plan's shape, and which of its mounts the trees are for.
#[derive(Debug)]
pub struct Fit {
    /// The shape.
    pub shape: Shape,
    /// For each tree but the mask, the index in the plan's mounts.
    pub at: Vec<usize>,
}

const NET: u64 = CLONE_NEWNET as u64;
const IPC: u64 = CLONE_NEWIPC as u64;
const NS: u64 = CLONE_NEWNS as u64;

/// The shape of a plan; why nothing of it can be made ahead, otherwise.
pub fn of(plan: &Plan) -> Result<Fit, &'static str> {
    if plan.namespaces.has(CLONE_NEWUSER as u64) {
        return Err("a user namespace owns all else");
    }
    let mut kinds = plan.namespaces.new & (NET | IPC | CLONE_NEWUTS as u64);
    let dev = plan.dev.as_ref().filter(|dev| !dev.bind);
    let has_dev = dev.is_some_and(|dev| dev_is_ours(plan, dev));
    // A /dev that isn't ours may be full of what init has to bind from the host's, or to change.
    if plan.namespaces.new & NS != 0 && has_dev && bare(plan) {
        kinds |= NS;
    }
    let mut fit = Fit {
        shape: Shape {
            kinds,
            trees: Vec::new(),
        },
        at: Vec::new(),
    };
    for (index, mount) in plan.mounts.iter().enumerate() {
        if let Some(tree) = tree(mount, kinds, dev.filter(|_| has_dev)) {
            fit.shape.trees.push(tree);
            fit.at.push(index);
        }
    }
    if kinds == 0 && fit.at.is_empty() {
        return Err("no namespace of its own, and no standard mount");
    }
    if !plan.masked_paths.is_empty() && plan.mount_label.is_none() {
        fit.shape.trees.push(mask());
    }
    Ok(fit)
}

/// What init mounts itself, otherwise.
fn mask() -> Tree {
    let own =
        |(key, value): &(&CStr, Option<&CStr>)| ((*key).to_owned(), value.map(CStr::to_owned));
    Tree {
        fstype: c"tmpfs".to_owned(),
        source: c"tmpfs".to_owned(),
        options: MASK.iter().map(own).collect(),
        attributes: libc::MOUNT_ATTR_RDONLY,
        place: Place::Mask,
    }
}

/// Whether the mount namespace may be one that never saw the host's mounts.
fn bare(plan: &Plan) -> bool {
    let cut_off = libc::MS_REC | libc::MS_SLAVE;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    let hooks = &plan.hooks;
    let path = |text: &'_ CStr| Path::new(OsStr::from_bytes(text.to_bytes())).to_owned();
    let rootfs = path(&plan.rootfs);
    !plan.no_pivot
        && (plan.propagation == cut_off || plan.propagation == private)
        // They may look for the host's files, or for the root file system by its host's path, in the
        // container's mount namespace.
        && hooks.prestart.is_empty()
        && hooks.create_runtime.is_empty()
        && hooks.create_container.is_empty()
        && plan.mounts.iter().all(|m| match &m.kind {
            // Mounts that come before it would be in the source, were it opened when its turn comes.
            MountKind::Bind { source, .. } => !path(source).starts_with(&rootfs),
            // By the target's path in the host's /proc, if it's `legacy`.
            MountKind::New { fstype, legacy, .. } => {
                legacy.is_none() && PATHLESS.contains(&fstype.as_bytes())
            }
            MountKind::Cgroup { .. } => true,
        })
}

/// File systems whose source and options name nothing in another one: the path of a device or of a layer
/// would be looked up in the mount namespace.
const PATHLESS: [&[u8]; 6] = [b"tmpfs", b"proc", b"sysfs", b"devpts", b"mqueue", b"ramfs"];

/// What follows `/dev/` in a path of one more component.
fn below_dev(path: &CString) -> Option<&[u8]> {
    let name = path.as_bytes().strip_prefix(b"/dev/")?;
    (!name.contains(&b'/') && !name.is_empty()).then_some(name)
}

/// Whether `/dev` is a tmpfs in which nothing but nodes and directories of mounts is made, in whatever
/// order.
fn dev_is_ours(plan: &Plan, dev: &Dev) -> bool {
    let mut of_dev = plan.mounts.iter().filter(|m| {
        let path = m.destination.as_bytes();
        path == b"/dev" || path.starts_with(b"/dev/")
    });
    let Some(root) = of_dev.next() else {
        return false;
    };
    if root.destination.as_bytes() != b"/dev" || !standard(root, b"tmpfs") {
        return false;
    }
    // A mount over a node, or a link: only in the plan's order is it clear what comes out.
    let links: [&[u8]; 6] = [b"fd", b"stdin", b"stdout", b"stderr", b"core", b"ptmx"];
    let taken = |name: &[u8]| {
        links.contains(&name) || dev.nodes.iter().any(|n| below_dev(&n.path) == Some(name))
    };
    of_dev.all(|m| match below_dev(&m.destination) {
        Some(name) => !taken(name) && !m.remount,
        None => false,
    })
}

/// A new file system whose options say all there is to say.
fn standard(m: &Mount, fstype: &[u8]) -> bool {
    let MountKind::New {
        fstype: its,
        options,
        legacy: None,
        ..
    } = &m.kind
    else {
        return false;
    };
    // Otherwise its root has the mode of the directory that it covers.
    let mode = fstype != b"tmpfs" || options.iter().any(|(key, _)| key.as_bytes() == b"mode");
    its.as_bytes() == fstype
        && mode
        && !m.remount
        && !m.copy_up
        && !m.readonly_late
        && m.relabel.is_none()
        && m.idmap.is_none()
        && m.propagation.is_empty()
        && m.set_recursive | m.clear_recursive == 0
}

fn tree(m: &Mount, kinds: u64, dev: Option<&Dev>) -> Option<Tree> {
    let MountKind::New {
        fstype,
        source,
        options,
        ..
    } = &m.kind
    else {
        return None;
    };
    if !standard(m, fstype.as_bytes()) {
        return None;
    }
    let name = below_dev(&m.destination);
    let place = match (fstype.as_bytes(), dev) {
        (b"sysfs", _) if kinds & NET != 0 => Place::Alone,
        (b"tmpfs", Some(dev)) if m.destination.as_bytes() == b"/dev" => Place::Dev {
            nodes: dev.nodes.iter().filter_map(node).collect(),
            core: dev.core,
        },
        (b"tmpfs" | b"devpts", Some(_)) => Place::BelowDev(CString::new(name?).ok()?),
        (b"mqueue", Some(_)) if kinds & IPC != 0 => Place::BelowDev(CString::new(name?).ok()?),
        _ => return None,
    };
    Some(Tree {
        fstype: fstype.clone(),
        source: source.clone(),
        options: options.clone(),
        attributes: m.set,
        place,
    })
}

/// A node directly in `/dev`.
fn node(node: &Node) -> Option<(CString, u32, u64, u32, u32)> {
    let name = CString::new(below_dev(&node.path)?).ok()?;
    Some((name, node.mode, node.dev, node.uid, node.gid))
}
