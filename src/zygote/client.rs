//! Whoever makes a container asks for a kit, and goes the cold way if there is none.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::kit::{self, ORDER};
use super::plans;
use super::shape::{Fit, Place};
use super::warm;
use super::wire::{self, Reply, Request};
use crate::cli::Prepared;
use crate::init::{self, Ready};
use crate::launch::{self, failed};
use crate::plan::Options;
use crate::sys::{Errno, socket};

/// How long an answer is waited for: a cold start takes a tenth of it.
pub const PATIENCE: Duration = Duration::from_millis(20);

/// The same where nothing else will do.
pub const LONG: Duration = Duration::from_secs(10);

/// How long an answer is waited for by who wants it so.
pub fn patience(use_it: Prepared) -> Duration {
    match use_it {
        Prepared::Require => LONG,
        _ => PATIENCE,
    }
}

/// A connection to the daemon.
pub struct Client {
    socket: OwnedFd,
}

/// Connects to the daemon of a state root. Nobody there costs one failed call; one who doesn't take
/// connections is as good as nobody.
pub fn connect(root: &Path) -> Result<Client, Errno> {
    socket::connect_packet(&super::socket(root)).map(|socket| Client { socket })
}

impl Client {
    /// To send more over.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The connection: from here on it's with somebody else.
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// Asks.
    pub fn ask(&self, request: &Request) -> Result<()> {
        let bytes = wire::encode(request)?;
        socket::send(&self.socket, &bytes, None).map_err(|e| failed(e, "ask the zygote"))
    }

    /// A kit was asked for, for a plan with as many `mounts`.
    pub fn asked(self, fit: Fit, mounts: usize, use_it: Prepared) -> Asked {
        Asked {
            client: self,
            fit,
            mounts,
            until: Instant::now() + patience(use_it),
        }
    }

    /// Tells of a config for which there was no plan; not answered.
    pub fn tell_seen(&self, seen: plans::Seen, options: &Options) -> Result<()> {
        let options = postcard::to_allocvec(options)?;
        self.ask(&Request::Seen { seen, options })
    }

    /// What is answered, until `deadline`, and the descriptors that come with it.
    pub fn answer(&self, deadline: Instant) -> Result<(Reply, Vec<OwnedFd>)> {
        if !warm::await_readable(self.socket.as_fd(), Some(deadline))? {
            bail!("the zygote doesn't answer");
        }
        let mut fds: [Option<OwnedFd>; socket::DESCRIPTORS] = [const { None }; _];
        let bytes = socket::receive_whole(&self.socket, wire::MOST, &mut fds)
            .map_err(|e| failed(e, "hear from the zygote"))?;
        if bytes.is_empty() {
            bail!("the zygote has hung up");
        }
        Ok((wire::decode(&bytes)?, fds.into_iter().flatten().collect()))
    }
}

/// A kit as init takes it.
pub struct Kit {
    namespaces: Vec<(u64, OwnedFd)>,
    trees: Vec<Ready>,
    dev: bool,
    mask: Cell<Option<OwnedFd>>,
    /// The directory of the zygote's executable, read-only, and its name.
    exe: Option<(OwnedFd, CString)>,
    /// The plan's device filter, loaded.
    pub devices: Option<OwnedFd>,
}

impl Kit {
    /// What is needed of it.
    pub fn borrow(&self) -> launch::Ahead<'_> {
        launch::Ahead {
            kit: init::Kit {
                namespaces: &self.namespaces,
                trees: &self.trees,
                dev: self.dev,
                mask: &self.mask,
            },
            exe: self.exe.as_ref().map(|(fd, name)| (fd, name.as_c_str())),
        }
    }
}

/// A kit that was asked for.
pub struct Asked {
    client: Client,
    fit: Fit,
    mounts: usize,
    until: Instant,
}

impl Asked {
    /// The kit; why there is none, otherwise.
    pub fn kit(self) -> Result<Kit> {
        let own = kit::maker()?;
        let (reply, fds) = self.client.answer(self.until)?;
        let (kinds, maker, whole, exe, devices) = match reply {
            Reply::Kit {
                kinds,
                maker,
                whole,
                exe,
                devices,
            } => (kinds, maker, whole, exe, devices),
            Reply::Cold(why) => bail!("{}", why.words()),
            Reply::Refused(why) => bail!("the zygote refused: {why}"),
            _ => bail!("the zygote answered something else"),
        };
        if maker != own {
            bail!("the zygote is in another user or network namespace, or has another label");
        }
        let shape = &self.fit.shape;
        if kinds & !shape.kinds != 0 {
            bail!("the zygote sent namespaces that it wasn't asked for");
        }
        let kinds = ORDER.iter().filter(|(kind, _)| kinds & kind != 0);
        let kinds: Vec<u64> = kinds.map(|(kind, _)| *kind).collect();
        let attached = |place: &Place| whole && matches!(place, Place::BelowDev(_));
        let with = shape.trees.iter().filter(|tree| !attached(&tree.place));
        if fds.len()
            != kinds.len() + with.count() + usize::from(exe.is_some()) + usize::from(devices)
        {
            bail!("the zygote sent {} descriptors", fds.len());
        }
        let mut fds = fds.into_iter().peekable();
        let namespaces = kinds.into_iter().zip(fds.by_ref()).collect();
        let mut trees: Vec<Ready> = (0..self.mounts).map(|_| Ready::No).collect();
        let mut dev = false;
        let masks = shape
            .trees
            .last()
            .is_some_and(|tree| tree.place == Place::Mask);
        for (tree, at) in shape.trees.iter().zip(&self.fit.at) {
            dev |= matches!(tree.place, Place::Dev { .. });
            let ready = match attached(&tree.place) {
                true => Some(Ready::Attached),
                false => fds.next().map(|fd| Ready::Tree(Cell::new(Some(fd)))),
            };
            if let (Some(place), Some(ready)) = (trees.get_mut(*at), ready) {
                *place = ready;
            }
        }
        Ok(Kit {
            namespaces,
            trees,
            dev,
            mask: Cell::new(fds.next_if(|_| masks)),
            exe: exe.and_then(|name| Some((fds.next()?, name))),
            devices: fds.next(),
        })
    }
}
