//! The daemon: one thread, which waits for requests and makes kits in between.

use std::collections::{HashMap, VecDeque};
use std::fs::{DirBuilder, File, Permissions};
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::config::Config;
use super::kit::Workshop;
use super::parking::{Parking, Work};
use super::plans::{self, Seen, Sightings};
use super::pools::Pools;
use super::status::Status;
use super::wire::{self, Reply, Request};
use crate::host::Host;
use crate::launch::failed;
use crate::log::{Log, sentence};
use crate::plan::Options;
use crate::sys::{Errno, cred, fs, process, socket};
use crate::{bundle, fault, host};

/// Connections at a time. More are closed at once: those who asked go the cold way.
const CONNECTIONS: usize = 1024;

/// Configs that wait to be decided.
const LESSONS: usize = 16;

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Requests,
    Metrics,
    Keepers,
    Peer(u64),
}

impl Source {
    fn token(self) -> u64 {
        match self {
            Source::Signals => 0,
            Source::Requests => 1,
            Source::Metrics => 2,
            Source::Keepers => 3,
            Source::Peer(n) => n,
        }
    }

    fn of(token: u64) -> Source {
        match token {
            0 => Source::Signals,
            1 => Source::Requests,
            2 => Source::Metrics,
            3 => Source::Keepers,
            n => Source::Peer(n),
        }
    }
}

/// Somebody who is connected.
enum Peer {
    /// Sends requests.
    Asks(OwnedFd),
    /// Reads metrics.
    Scrapes(OwnedFd),
}

/// The daemon.
pub struct Daemon<'a> {
    log: &'a Log,
    path: Option<PathBuf>,
    config: Config,
    workshop: Workshop,
    pools: Pools,
    epoll: Epoll,
    requests: OwnedFd,
    metrics: OwnedFd,
    signals: OwnedFd,
    peers: HashMap<u64, Peer>,
    next_peer: u64,
    refused: u64,
    sightings: Sightings,
    /// Configs to be decided when there is time.
    seen: VecDeque<(Seen, Options)>,
    plans: PathBuf,
    begun: Instant,
    parking: Parking<'a>,
    /// Held as long as we live.
    _lock: File,
}

/// Serves the state root `root` until told to stop. `ready` is called when it does; `work` in clones.
pub fn serve(
    root: &Path,
    config: Option<&Path>,
    log: &Log,
    ready: &dyn Fn(&Path) -> Result<()>,
    work: &dyn Fn(Work) -> Result<()>,
) -> Result<()> {
    let directory = super::directory(root);
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(root)
        .with_context(|| format!("make state root {root:?}"))?;
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other.with_context(|| format!("make {directory:?}"))?,
    }
    let lock = lock(&directory)?;
    let socket = super::socket(root);
    let metrics = directory.join("metrics");
    let open_files =
        process::rlimit(libc::RLIMIT_NOFILE).map_err(|e| failed(e, "prlimit RLIMIT_NOFILE"))?;
    let settings = Config::read(config)?;
    let cap = settings.memory();
    let given = activated()?;
    let ours = given.is_none();
    let mut daemon = Daemon {
        log,
        path: config.map(Path::to_owned),
        config: settings,
        workshop: Workshop::open()?,
        pools: Pools::default(),
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| failed(e, "epoll"))?,
        requests: match given {
            Some(fd) => fd,
            None => listen(&socket, libc::SOCK_SEQPACKET)?,
        },
        metrics: listen(&metrics, libc::SOCK_STREAM)?,
        signals: signals()?,
        peers: HashMap::new(),
        next_peer: 4,
        refused: 0,
        sightings: Sightings::default(),
        seen: VecDeque::new(),
        plans: super::plans(root),
        begun: Instant::now(),
        parking: Parking::open(directory, log, open_files, cap, work)?,
        _lock: lock,
    };
    // A kit takes up to ten of them.
    process::raise_open_files().map_err(|e| failed(e, "raise RLIMIT_NOFILE"))?;
    fs::umask(0);
    daemon.watch(daemon.signals.as_fd(), Source::Signals)?;
    daemon.watch(daemon.requests.as_fd(), Source::Requests)?;
    daemon.watch(daemon.metrics.as_fd(), Source::Metrics)?;
    daemon.watch(daemon.parking.fd(), Source::Keepers)?;
    ready(&socket)?;
    let served = daemon.run();
    // Whoever comes now finds nobody, at once; unless systemd listens, who starts another one for him.
    if ours {
        let _ = std::fs::remove_file(&socket);
    }
    let _ = std::fs::remove_file(&metrics);
    served
}

/// One daemon for each state root. The lock is the process's own (fcntl_locking(2)): a clone that has just
/// been made has the file, too, and would keep a flock(2) when the daemon is killed.
pub(super) fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("open {path:?}"))?;
    let whole = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    if fcntl(&file, FcntlArg::F_SETLK(&whole)).is_err() {
        let pid = std::fs::read_to_string(&path).unwrap_or_default();
        bail!(
            "another daemon (process {}) serves {directory:?}",
            pid.trim()
        );
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", process::own_pid()))
        .with_context(|| format!("write {path:?}"))?;
    Ok(file)
}

/// The socket that systemd listens on for us (sd_listen_fds(3)); `None`: we are to make our own.
fn activated() -> Result<Option<OwnedFd>> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) || number("LISTEN_FDS") != Some(1) {
        return Ok(None);
    }
    let fd = fs::inherited(3).and_then(socket::adopt);
    fd.map(Some)
        .map_err(|e| failed(e, "LISTEN_FDS: descriptor 3"))
}

fn listen(path: &Path, kind: i32) -> Result<OwnedFd> {
    // Of a daemon that was killed: we hold the lock.
    let _ = std::fs::remove_file(path);
    let fd =
        socket::listen(path, kind).map_err(|e| failed(e, format_args!("listen on {path:?}")))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .with_context(|| format!("chmod {path:?}"))?;
    Ok(fd)
}

fn signals() -> Result<OwnedFd> {
    let all = process::all_signals();
    process::set_signal_mask(&all).map_err(|e| failed(e, "sigprocmask"))?;
    process::signalfd(&all).map_err(|e| failed(e, "signalfd"))
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Then {
    Serve,
    Stop,
}

impl Daemon<'_> {
    fn watch(&self, fd: BorrowedFd, source: Source) -> Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, source.token());
        self.epoll
            .add(fd, event)
            .map_err(|e| failed(e, "EPOLL_CTL_ADD"))
    }

    fn run(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        let mut clean = None;
        loop {
            let now = Instant::now();
            let others = self.parking.memory();
            if others != self.pools.others {
                // Kits make room.
                self.pools.others = others;
                clean = None;
            }
            if clean.is_none_or(|at| at <= now) {
                clean = self.pools.clean(&self.config, now);
            }
            let due = match self.seen.is_empty() {
                true => self.pools.next(&self.config).map(|(at, _)| at),
                false => Some(now),
            };
            let until = due
                .into_iter()
                .chain(clean)
                .chain(self.parking.due(now, self.config.quiet()));
            let until = until.min();
            let wait = match until {
                None => EpollTimeout::NONE,
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    // Not before its time, or we would be back at once.
                    let left = left + Duration::from_micros(if left.is_zero() { 0 } else { 999 });
                    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
                }
            };
            let n = match self.epoll.wait(&mut events, wait) {
                Err(Errno::EINTR) => continue,
                other => other.map_err(|e| failed(e, "epoll_wait"))?,
            };
            for event in &events[..n] {
                if self.serve(Source::of(event.data())) == Then::Stop {
                    return Ok(());
                }
            }
            // Only when nobody waits.
            if n == 0 {
                self.parking.tend(Instant::now(), self.config.quiet());
                if !self.learn() {
                    self.refill();
                }
            }
        }
    }

    /// Decides one config that was seen, and keeps that. Whether there was one.
    fn learn(&mut self) -> bool {
        let Some((seen, options)) = self.seen.pop_front() else {
            return false;
        };
        let kept = || {
            let config = bundle::read(&options.bundle)?;
            let mut host = Host::look(host::in_user_namespace(), false);
            plans::learn(&self.plans, seen, &config, &options, &mut host)
        };
        if let Err(error) = kept() {
            self.log.debug(format_args!(
                "zygote: no plan is kept: {}",
                sentence(&error)
            ));
        }
        true
    }

    /// Makes one kit, if it's time.
    fn refill(&mut self) {
        let now = Instant::now();
        let Some((at, shape)) = self.pools.next(&self.config) else {
            return;
        };
        if at > now {
            return;
        }
        let shape = shape.clone();
        let kit = self.workshop.make(&shape);
        let why = kit.as_ref().err().map(sentence);
        let logged = self.pools.made(&shape, kit, Instant::now());
        if let Some(why) = why.filter(|_| logged) {
            self.log.warn(format_args!("zygote: {why}"));
        }
    }

    fn serve(&mut self, source: Source) -> Then {
        match source {
            Source::Signals => return self.signal(),
            Source::Requests | Source::Metrics => return self.accept(source),
            Source::Keepers => self.parking.hear(),
            Source::Peer(token) => {
                let Some(peer) = self.peers.remove(&token) else {
                    return Then::Serve;
                };
                match peer {
                    Peer::Scrapes(fd) => self.scrape(&fd),
                    Peer::Asks(fd) => match self.hear(&fd) {
                        Ok(Some(then)) => {
                            // He may ask again.
                            self.peers.insert(token, Peer::Asks(fd));
                            return then;
                        }
                        Ok(None) => {}
                        Err(error) => {
                            self.refused += 1;
                            let why = sentence(&error);
                            // Not one line for each, if somebody means it.
                            if self.refused.is_power_of_two() {
                                let n = self.refused;
                                self.log
                                    .warn(format_args!("zygote: refused, {n} by now: {why}"));
                            }
                            let _ = self.answer(&fd, &Reply::Refused(why), &[]);
                        }
                    },
                }
            }
        }
        Then::Serve
    }

    fn signal(&mut self) -> Then {
        while let Ok(Some(number)) = process::next_signal(&self.signals) {
            match number {
                libc::SIGTERM | libc::SIGINT => return Then::Stop,
                libc::SIGHUP => {
                    if let Err(error) = self.reload() {
                        self.log.warn(format_args!("zygote: {}", sentence(&error)));
                    }
                }
                // Keepers, and what they have left to us.
                libc::SIGCHLD => {
                    while let Ok(Some(pid)) = process::ended_child() {
                        process::reap(pid);
                        self.parking.reaped(pid);
                    }
                }
                _ => {}
            }
        }
        Then::Serve
    }

    fn reload(&mut self) -> Result<()> {
        self.config = Config::read(self.path.as_deref())?;
        self.pools.clean(&self.config, Instant::now());
        self.parking.limit(self.config.memory());
        Ok(())
    }

    fn accept(&mut self, source: Source) -> Then {
        loop {
            let (accepted, kind): (_, fn(OwnedFd) -> Peer) = match source {
                Source::Metrics => (socket::accept(&self.metrics), Peer::Scrapes),
                _ => (socket::accept(&self.requests), Peer::Asks),
            };
            let fd = match accepted {
                Ok(fd) => fd,
                Err(Errno::EMFILE | Errno::ENFILE) if self.make_room() => continue,
                Err(_) => return Then::Serve,
            };
            // Closed at once when there is no room, or it isn't one of ours.
            let own = cred::effective_ids().0;
            let allowed = socket::peer_uid(&fd).is_ok_and(|uid| uid == own);
            if !allowed {
                self.refused += 1;
            }
            if !allowed || self.peers.len() >= CONNECTIONS {
                continue;
            }
            let token = self.next_peer;
            self.next_peer += 1;
            if self.watch(fd.as_fd(), Source::Peer(token)).is_err() {
                continue;
            }
            self.peers.insert(token, kind(fd));
            // What is asked for comes with the connection.
            if source == Source::Requests && self.serve(Source::Peer(token)) == Then::Stop {
                return Then::Stop;
            }
        }
    }

    /// Lets go of descriptors, for a caller who waits wakes us again and again: of a kit, or else of
    /// everybody who is connected. Whether there was anything.
    fn make_room(&mut self) -> bool {
        if self.pools.shed() {
            return true;
        }
        if self.peers.is_empty() {
            // Rather late than in circles.
            std::thread::sleep(self.config.quiet());
            return false;
        }
        self.peers.clear();
        true
    }

    /// Takes one request; `None`: he has left.
    fn hear(&mut self, peer: &OwnedFd) -> Result<Option<Then>> {
        // No request comes with descriptors.
        let bytes = match socket::receive_whole(peer, wire::MOST, &mut []) {
            Err(Errno::ECONNRESET) => return Ok(None),
            Err(Errno::EAGAIN) => return Ok(Some(Then::Serve)),
            other => other.map_err(|e| failed(e, "receive"))?,
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        let reply = match wire::decode(&bytes)? {
            Request::Kit {
                shape,
                wait,
                devices,
            } => {
                fault::point("zygote:asked")?;
                let now = Instant::now();
                let kit = match self.pools.take(&shape, &self.config, now) {
                    Err(_) if wait => {
                        let kit = self.workshop.make(&shape)?;
                        self.pools.straight(&shape, kit.cost);
                        Ok(kit)
                    }
                    other => other,
                };
                match kit {
                    Ok(kit) => {
                        let exe = self.workshop.exe.as_ref();
                        let filter = devices.as_deref().and_then(|p| self.workshop.filter(p));
                        let unknown = devices.as_ref().filter(|_| filter.is_none()).cloned();
                        let reply = Reply::Kit {
                            kinds: kit.kinds,
                            exe: exe.map(|(_, name)| name.clone()),
                            devices: filter.is_some(),
                            maker: self.workshop.maker.clone(),
                            whole: kit.whole,
                        };
                        let fds = kit.descriptors.iter().chain(exe.map(|(fd, _)| fd));
                        let fds = fds.chain(filter);
                        let fds: Vec<_> = fds.map(|fd| fd.as_fd()).collect();
                        fault::point("zygote:taken")?;
                        // Sent or not: it's used once.
                        self.answer(peer, &reply, &fds)?;
                        fault::point("zygote:answered")?;
                        if let Some(program) = unknown {
                            self.workshop.load_filter(program);
                        }
                        return Ok(Some(Then::Serve));
                    }
                    Err(why) => Reply::Cold(why),
                }
            }
            Request::Seen { seen, options } => {
                let again = self.sightings.again(seen);
                if !again.is_nothing() && self.seen.len() < LESSONS {
                    self.seen
                        .push_back((again, postcard::from_bytes(&options)?));
                }
                return Ok(Some(Then::Serve));
            }
            Request::Warm { pool } => {
                // From here on he talks to somebody else, of whom we must hear nothing.
                let _ = self.epoll.delete(peer);
                self.parking.take(&pool, peer);
                return Ok(None);
            }
            Request::Provision(provision) => {
                let waits = peer.try_clone().context("dup")?;
                match self.parking.provision(provision, waits) {
                    Ok(()) => return Ok(Some(Then::Serve)),
                    Err(error) => Reply::Refused(sentence(&error)),
                }
            }
            Request::Drop { name } => match self.parking.drop_pool(&name) {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Refused(sentence(&error)),
            },
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::Reload => match self.reload() {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Refused(sentence(&error)),
            },
            Request::Stop => {
                self.answer(peer, &Reply::Done, &[])?;
                return Ok(Some(Then::Stop));
            }
        };
        self.answer(peer, &reply, &[]).map(|()| Some(Then::Serve))
    }

    fn answer(&self, peer: &OwnedFd, reply: &Reply, fds: &[BorrowedFd]) -> Result<()> {
        let bytes = wire::encode(reply)?;
        match socket::send_many(peer, &bytes, fds) {
            // He has left, or doesn't read.
            Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET | Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(failed(errno, "answer")),
        }
    }

    fn status(&mut self) -> Status {
        let now = Instant::now();
        let pages = || {
            let text = std::fs::read_to_string("/proc/self/statm").ok()?;
            text.split(' ').nth(1)?.parse::<u64>().ok()
        };
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Status {
            pid: process::own_pid(),
            uptime: now.saturating_duration_since(self.begun).as_secs(),
            resident: pages().unwrap_or(0) * 4096,
            descriptors: open as u64,
            refused: self.refused,
            warm: self.parking.status(now),
            warm_memory: self.parking.memory(),
            memory_cap: self.config.memory(),
            ..self.pools.status(now)
        }
    }

    /// Answers HTTP with HTTP, and who says nothing with the bare text.
    fn scrape(&mut self, peer: &OwnedFd) {
        let mut request = [0; 4096];
        let n = fs::read(peer, &mut request).unwrap_or(0);
        let text = self.status().metrics();
        let head = match request[..n].starts_with(b"GET ") {
            true => format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                text.len()
            ),
            false => String::new(),
        };
        let _ = socket::send(peer, (head + &text).as_bytes(), None);
    }
}
