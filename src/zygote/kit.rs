//! A kit: what a container needs of the kernel, made ahead and kept as descriptors.
//!
//! It has no process. The daemon unshares, opens what came of it, and goes back; only the mount
//! namespace needs a model to be copied from: one that is empty, so that the host's mount table is
//! neither copied nor ever seen.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use libc::{CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS};

use super::caller;
use super::shape::{Place, Shape, Tree};
use super::wire::Maker;
use crate::init;
use crate::launch::{exe, failed};
use crate::plan::{Dev, Node};
use crate::sys::fs::{self, CWD};
use crate::sys::mount::{self, Attr};
use crate::sys::process::{self, Clone};
use crate::sys::{Errno, net, socket};
use crate::{cgroup, fault};

/// The kinds of namespaces in a kit, in the order of their descriptors, and their files in /proc/self.
pub const ORDER: [(u64, &CStr); 4] = [
    (CLONE_NEWNET as u64, c"ns/net"),
    (CLONE_NEWIPC as u64, c"ns/ipc"),
    (CLONE_NEWUTS as u64, c"ns/uts"),
    (CLONE_NEWNS as u64, c"ns/mnt"),
];

const NS: u64 = CLONE_NEWNS as u64;

/// A kit.
pub struct Kit {
    /// CLONE_NEW* of its namespaces.
    pub kinds: u64,
    /// What is sent: see [`ORDER`], then the trees.
    pub descriptors: Vec<OwnedFd>,
    /// The trees below /dev are attached in it.
    pub whole: bool,
    /// When it was made.
    pub made: Instant,
    /// What that took.
    pub cost: Duration,
}

/// How many device filters are kept: containers of one machine differ in little but their names.
const FILTERS: usize = 8;

/// Makes kits.
pub struct Workshop {
    /// /proc/self.
    own: OwnedFd,
    /// Our own namespaces, as [`ORDER`].
    home: Vec<OwnedFd>,
    root: OwnedFd,
    /// The mount namespace to be copied; `None`: none can be made here, for the host's root is the
    /// kernel's first file system itself.
    bare: Option<OwnedFd>,
    /// The directory of our executable, read-only, and its name. It's given along with each kit, and closed by all
    /// who take it: to close it last would be to wait for an RCU grace period (see `launch::exe`).
    pub exe: Option<(OwnedFd, CString)>,
    /// Device filters that were asked for, the latest last. Nobody can change one that is loaded, so all
    /// containers that want the same have the same: to load it takes longer than to clone a process.
    filters: Vec<(Vec<u64>, OwnedFd)>,
    /// A mount can be attached to one that is attached nowhere itself (Linux 6.15).
    nested: bool,
    /// What those who take a kit compare with what they are.
    pub maker: Maker,
}

/// Who we are, as far as it matters for kits.
pub fn maker() -> Result<Maker> {
    let [user, network] = caller::namespaces([c"user", c"net"])?;
    Ok(Maker {
        user,
        network,
        label: caller::label(),
    })
}

impl Workshop {
    /// Opens our own namespaces and makes the model.
    pub fn open() -> Result<Workshop> {
        let directory = libc::O_PATH | libc::O_DIRECTORY;
        let open = |path: &CStr| {
            fs::open(CWD, path, directory, 0).map_err(|e| failed(e, format_args!("open {path:?}")))
        };
        // By its number: in a kit's mount namespace there is no /proc.
        let path = CString::new(format!("/proc/{}", process::own_pid()))?;
        let own = open(&path)?;
        let mut home = Vec::new();
        for (_, name) in ORDER {
            let fd = fs::open(&own, name, libc::O_RDONLY, 0);
            home.push(fd.map_err(|e| failed(e, format_args!("open /proc/self/{name:?}")))?);
        }
        Ok(Workshop {
            own,
            home,
            root: open(c"/")?,
            bare: match fault::point("kit:bare") {
                Ok(()) => bare()?,
                Err(_) => None,
            },
            exe: exe::directory().ok(),
            filters: Vec::new(),
            nested: fault::point("kit:nested").is_ok(),
            maker: maker()?,
        })
    }

    /// The device filter with these instructions, if it was loaded before.
    pub fn filter(&self, program: &[u64]) -> Option<&OwnedFd> {
        let found = self.filters.iter().find(|(its, _)| its == program);
        found.map(|(_, fd)| fd)
    }

    /// Loads a device filter for those who will ask for it. Where that fails they do it themselves.
    pub fn load_filter(&mut self, program: Vec<u64>) {
        if let Ok(fd) = cgroup::load_filter(&program) {
            if self.filters.len() == FILTERS {
                self.filters.remove(0);
            }
            self.filters.push((program, fd));
        }
    }

    /// Makes a kit. Where it fails we are in our own namespaces again; if not even that works, there is
    /// nothing that we could go on with, and the process ends.
    pub fn make(&mut self, shape: &Shape) -> Result<Kit> {
        let begun = Instant::now();
        let kinds = match self.bare {
            Some(_) => shape.kinds,
            None => shape.kinds & !NS,
        };
        let made = self.parts(shape, kinds);
        if let Err(error) = self.go_home(kinds) {
            crate::log::Log::stderr().fail(&format!("zygote: {error:#}"));
            process::exit_now(1);
        }
        let (descriptors, whole) = made?;
        Ok(Kit {
            kinds,
            descriptors,
            whole,
            made: Instant::now(),
            cost: begun.elapsed(),
        })
    }

    fn go_home(&self, kinds: u64) -> Result<()> {
        for ((kind, name), fd) in ORDER.iter().zip(&self.home) {
            if kinds & kind != 0 {
                process::setns(fd, *kind)
                    .map_err(|e| failed(e, format_args!("return to our own {name:?}")))?;
            }
        }
        if kinds & NS != 0 {
            // To enter a mount namespace is to be put at its root.
            fs::fchdir(&self.root)
                .and_then(|()| fs::chroot(c"."))
                .map_err(|e| failed(e, "return to our own root"))?;
        }
        Ok(())
    }

    fn parts(&mut self, shape: &Shape, kinds: u64) -> Result<(Vec<OwnedFd>, bool)> {
        let flat = kinds & !NS;
        if flat & !((CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) as u64) != 0 {
            bail!("namespaces {kinds:#x}: not of a kit");
        }
        let refused = |e: Errno| failed(e, "make namespaces");
        if flat != 0 {
            process::unshare(flat).map_err(refused)?;
        }
        if flat & CLONE_NEWNET as u64 != 0 {
            net::loopback_up().map_err(|e| failed(e, "bring up the loopback interface"))?;
        }
        // While we are in the namespaces that they shall show.
        let mut trees = Vec::new();
        for tree in &shape.trees {
            trees.push(make_tree(tree, shape).with_context(|| format!("mount {:?}", tree.fstype))?);
        }
        fault::point("kit:mounted")?;
        let whole = self.nested && self.assemble(shape, &trees)?;
        if let Some(bare) = self.bare.as_ref().filter(|_| kinds & NS != 0) {
            process::setns(bare, NS)
                .and_then(|()| process::unshare(NS))
                .map_err(|e| failed(e, "make a mount namespace"))?;
        }
        fault::point("kit:away")?;
        let mut descriptors = Vec::new();
        for (_, name) in ORDER.iter().filter(|(kind, _)| kinds & kind != 0) {
            let fd = fs::open(&self.own, name, libc::O_RDONLY, 0);
            descriptors.push(fd.map_err(|e| failed(e, format_args!("open /proc/self/{name:?}")))?);
        }
        let sent = shape.trees.iter().zip(trees);
        let sent = sent.filter(|(tree, _)| !(whole && matches!(tree.place, Place::BelowDev(_))));
        descriptors.extend(sent.map(|(_, fd)| fd));
        // And the executable's directory, and the device filter.
        if descriptors.len() + 2 > socket::DESCRIPTORS {
            bail!("a kit of {} descriptors", descriptors.len());
        }
        Ok((descriptors, whole))
    }

    /// Attaches what belongs below /dev to /dev. Whether this kernel does.
    fn assemble(&mut self, shape: &Shape, trees: &[OwnedFd]) -> Result<bool> {
        let with = || shape.trees.iter().zip(trees);
        let Some((_, dev)) = with().find(|(tree, _)| matches!(tree.place, Place::Dev { .. }))
        else {
            return Ok(false);
        };
        for (tree, fd) in with() {
            let Place::BelowDev(name) = &tree.place else {
                continue;
            };
            let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let attached = fs::open(dev, name, flags, 0).and_then(|to| mount::move_mount(fd, to));
            match attached {
                Ok(()) => {}
                // The first one says no, or none does.
                Err(Errno::EINVAL) => {
                    self.nested = false;
                    return Ok(false);
                }
                Err(e) => return Err(failed(e, format_args!("attach /dev/{name:?}"))),
            }
        }
        Ok(true)
    }
}

/// Makes one file system, attached nowhere.
fn make_tree(tree: &Tree, shape: &Shape) -> Result<OwnedFd> {
    // Whoever asks is who we are, and could mount these himself; but nothing else, for nothing else
    // is known to depend only on what is compared.
    if !matches!(
        tree.fstype.as_bytes(),
        b"tmpfs" | b"devpts" | b"mqueue" | b"sysfs"
    ) {
        bail!("not of a kit");
    }
    let make = || {
        let context = mount::fsopen(&tree.fstype)?;
        if !tree.source.is_empty() {
            mount::fsconfig(&context, c"source", Some(&tree.source))?;
        }
        for (key, value) in &tree.options {
            mount::fsconfig(&context, key, value.as_deref())?;
        }
        mount::fsconfig_create(&context)?;
        mount::fsmount(&context, tree.attributes)
    };
    let made = make().map_err(|e| failed(e, "make it"))?;
    if let Place::Dev { nodes, core } = &tree.place {
        // As it would be in the plan's order: mounts come before nodes.
        for tree in &shape.trees {
            if let Place::BelowDev(name) = &tree.place {
                fs::mkdir(&made, name, 0o755)
                    .map_err(|e| failed(e, format_args!("make /dev/{name:?}")))?;
            }
        }
        let node = |(name, mode, dev, uid, gid): &(CString, u32, u64, u32, u32)| Node {
            path: name.clone(),
            mode: *mode,
            dev: *dev,
            uid: *uid,
            gid: *gid,
            index: None,
        };
        let dev = Dev {
            nodes: nodes.iter().map(node).collect(),
            core: *core,
            bind: false,
        };
        init::fill_dev(made.as_fd(), &dev)
            .map_err(|fail| failed(fail.errno, format_args!("make nodes ({:?})", fail.step)))?;
    }
    Ok(made)
}

/// A mount namespace without any mount of the host. A child makes it: we stay where we are.
/// `None`: the host's root can't be left, as it lies over nothing.
fn bare() -> Result<Option<OwnedFd>> {
    let (ours, theirs) = socket::pair().map_err(|e| failed(e, "socketpair"))?;
    let (pid, pidfd) = match process::clone3(NS, None) {
        Ok(Clone::Child) => {
            drop(ours);
            let word = match empty() {
                Ok(()) => 0i32,
                Err(errno) => errno as i32,
            };
            let _ = fs::write(&theirs, &word.to_ne_bytes());
            // Until it's open.
            let _ = fs::read(&theirs, &mut [0]);
            process::exit_now(0);
        }
        Ok(Clone::Parent { pid, pidfd }) => (pid, pidfd),
        Err(e) => return Err(failed(e, "make a mount namespace")),
    };
    drop(theirs);
    let mut word = [0; 4];
    let told = fs::read(&ours, &mut word);
    let path = CString::new(format!("/proc/{pid}/ns/mnt"))?;
    let opened = fs::open(CWD, &path, libc::O_RDONLY, 0);
    drop(ours);
    let _ = process::wait(&pidfd);
    match (told, i32::from_ne_bytes(word)) {
        (Ok(4), 0) => opened
            .map(Some)
            .map_err(|e| failed(e, format_args!("open {path:?}"))),
        (Ok(4), errno) => match Errno::from_raw(errno) {
            Errno::EINVAL => Ok(None),
            errno => Err(failed(errno, "make an empty mount namespace")),
        },
        _ => Err(anyhow!("make an empty mount namespace: its maker died")),
    }
}

/// In the child: leaves only what all mount namespaces begin with, the kernel's own first file system.
/// A container's root file system then lies over it, as it does after pivot_root(2).
fn empty() -> crate::sys::Result<()> {
    let host = fs::open(CWD, c"/", libc::O_PATH, 0)?;
    let private = Attr {
        propagation: libc::MS_PRIVATE,
        ..Attr::default()
    };
    mount::set_attr(&host, true, private)?;
    mount::detach(c"/")
}
