//! The daemon's side of warm containers: which there shall be, and their keepers.
//!
//! A keeper is a clone of the daemon; one is at work at a time, so that whoever asks has the CPUs. What
//! was provisioned is remembered in `pools.json`, and made again by the next daemon.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::bundle::Bundle;
use super::memory::{LEAST, Room, Taken};
use super::status;
use super::warm::{self, Answer, Provision, Report, Until};
use super::wire::{self, Reply};
use crate::launch::failed;
use crate::log::{Log, sentence};
use crate::sys::process::{self, Clone};
use crate::sys::{fs, socket};

/// The most containers of one pool.
const MOST: u32 = 1000;

/// How often bundles are looked at when nobody asks for them.
const LOOK: Duration = Duration::from_secs(10);

/// After a failure: first, and at most; each further one doubles it.
const PENALTY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is done in a clone of the daemon.
pub enum Work<'a> {
    /// Make a warm container and keep it.
    Keep {
        /// Of what.
        provision: &'a Provision,
        /// Its directory below `@zygote/warm`.
        directory: &'a str,
        /// The daemon's socket.
        daemon: OwnedFd,
    },
    /// Remove what is left in these directories.
    Remove(&'a [String]),
}

/// All pools of warm containers.
pub struct Parking<'a> {
    /// `@zygote`.
    directory: PathBuf,
    log: &'a Log,
    work: &'a dyn Fn(Work) -> Result<()>,
    /// What a clone gets back: the limit of open files that the daemon was started with.
    open_files: (u64, u64),
    epoll: Epoll,
    pools: Vec<Pool>,
    /// All keepers that live, and the directories of their containers until those are somebody's.
    keepers: Vec<(i32, String)>,
    next: u64,
    looked: Instant,
    /// What all containers may take, in bytes.
    cap: u64,
}

/// The keeper of one container.
struct Keeper {
    token: u64,
    socket: OwnedFd,
    /// The pool's generation when it began.
    generation: u64,
    since: Instant,
    taken: Taken,
}

struct Pool {
    provision: Provision,
    /// What containers are made of now; why none can be.
    bundle: Result<Bundle, String>,
    /// Changes with the bundle: what was made of another one isn't handed over.
    generation: u64,
    parked: VecDeque<Keeper>,
    making: Option<Keeper>,
    /// What the last one took that was made, in bytes.
    takes: u64,
    /// When one was handed over last.
    taken: Option<Instant>,
    /// Why the last one couldn't be made, how often in a row, and when to try again.
    failed: Option<(String, u32, Instant)>,
    /// Those who wait until all are there.
    waiting: Vec<OwnedFd>,
    seen: status::Warm,
}

impl Pool {
    fn new(provision: Provision) -> Pool {
        Pool {
            bundle: Err(String::new()),
            generation: 0,
            parked: VecDeque::new(),
            making: None,
            takes: LEAST,
            taken: None,
            failed: None,
            waiting: Vec::new(),
            seen: status::Warm {
                name: provision.name.clone(),
                ..status::Warm::default()
            },
            provision,
        }
    }

    /// Looks whether the bundle is another one by now; then what was made of the old one goes.
    fn look(&mut self) {
        let known = self.bundle.as_ref().ok();
        let bundle = Bundle::look(&self.provision.bundle, known).map_err(|e| sentence(&e));
        let same = match (&self.bundle, &bundle) {
            (Ok(known), Ok(found)) => known.is(found),
            (Err(known), Err(found)) => known == found,
            _ => false,
        };
        self.bundle = bundle;
        if !same {
            self.generation += 1;
            self.failed = None;
            self.takes = LEAST;
            // Its keeper sees that nobody wants it any more.
            self.seen.replaced += self.parked.len() as u64;
            self.parked.clear();
        }
    }

    /// When the next one is to be made; `None`: all are there, or on their way. As with kits, those who
    /// ask have the CPUs first, as long as an eighth of the pool is left.
    fn due(&self, now: Instant, quiet: Duration, room: Room) -> Option<Instant> {
        let (ready, count) = (self.parked.len(), self.provision.count as usize);
        let wanted = ready < count && self.making.is_none() && self.bundle.is_ok();
        let wanted = wanted && room.has(self.takes);
        let rest = self.taken.filter(|_| ready * 8 >= count);
        let at = match &self.failed {
            Some((_, _, again)) => *again,
            None => rest.map_or(now, |taken| taken + quiet),
        };
        wanted.then_some(at)
    }

    fn memory(&self) -> u64 {
        self.parked.iter().map(|keeper| keeper.taken.bytes()).sum()
    }

    /// Why there are no more, and none will be by itself.
    fn stuck(&self, room: Room) -> Option<String> {
        let (ready, count) = (self.parked.len(), self.provision.count as usize);
        match (&self.bundle, &self.failed) {
            (Err(why), _) | (_, Some((why, ..))) => Some(why.clone()),
            _ if ready < count && !room.has(self.takes) => {
                Some(format!("{ready} of {count}: {}", room.words(self.takes)))
            }
            _ => None,
        }
    }

    fn answer_waiting(&mut self, room: Room) {
        let all = self.parked.len() >= self.provision.count as usize;
        let reply = match self.stuck(room) {
            Some(why) => Reply::Refused(why),
            None if all => Reply::Done,
            None => return,
        };
        for peer in self.waiting.drain(..) {
            tell(&peer, &reply);
        }
    }

    /// One couldn't be made, or has died. Not one line of the log for each, if that goes on; and none where
    /// somebody waits for it, who will be told.
    fn fail(&mut self, why: String, now: Instant, log: &Log) {
        let times = self.failed.as_ref().map_or(0, |(_, times, _)| *times) + 1;
        let penalty = PENALTY.0 * 2u32.saturating_pow(times.min(10) - 1);
        self.failed = Some((why.clone(), times, now + penalty.min(PENALTY.1)));
        self.seen.failed += 1;
        if self.waiting.is_empty() && self.seen.failed.is_power_of_two() {
            let (name, n) = (&self.provision.name, self.seen.failed);
            log.warn(format_args!(
                "zygote: pool {name:?}: {why}; failed, {n} by now"
            ));
        }
    }
}

/// Answers; whoever has left, or doesn't read, isn't waited for.
fn tell(peer: &OwnedFd, reply: &Reply) {
    if let Ok(bytes) = wire::encode(reply) {
        let _ = socket::send(peer, &bytes, None);
    }
}

impl<'a> Parking<'a> {
    /// Takes up what an earlier daemon has left: its pools are made again, its containers removed.
    pub fn open(
        directory: PathBuf,
        log: &'a Log,
        open_files: (u64, u64),
        cap: u64,
        work: &'a dyn Fn(Work) -> Result<()>,
    ) -> Result<Parking<'a>> {
        let mut parking = Parking {
            directory,
            log,
            work,
            open_files,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| failed(e, "epoll"))?,
            pools: Vec::new(),
            keepers: Vec::new(),
            next: 0,
            looked: Instant::now(),
            cap,
        };
        // Containers outlive those who made them, and are given to us.
        process::set_subreaper().map_err(|e| failed(e, "prctl PR_SET_CHILD_SUBREAPER"))?;
        parking.remove_leftovers();
        for provision in parking.remembered()? {
            let mut pool = Pool::new(provision);
            pool.look();
            parking.pools.push(pool);
        }
        Ok(parking)
    }

    /// Readable when there is something for [`hear`](Self::hear).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// What all containers take that nobody has, in bytes.
    pub fn memory(&self) -> u64 {
        self.pools.iter().map(Pool::memory).sum()
    }

    fn room(&self) -> Room {
        Room {
            cap: self.cap,
            taken: self.memory(),
        }
    }

    /// What all containers may take from now on. Those that are too many go.
    pub fn limit(&mut self, cap: u64) {
        self.cap = cap;
        while self.memory() > cap {
            let most = self.pools.iter_mut().max_by_key(|pool| pool.memory());
            let Some(pool) = most else { break };
            // The youngest: it has waited least.
            if pool.parked.pop_back().is_some() {
                pool.seen.dropped += 1;
            }
        }
    }

    fn list(&self) -> PathBuf {
        self.directory.join("pools.json")
    }

    fn remembered(&self) -> Result<Vec<Provision>> {
        let path = self.list();
        match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            other => {
                let text = other.with_context(|| format!("read {path:?}"))?;
                serde_json::from_slice(&text).with_context(|| format!("{path:?}"))
            }
        }
    }

    fn remember(&self) -> Result<()> {
        let all: Vec<&Provision> = self.pools.iter().map(|pool| &pool.provision).collect();
        let text = serde_json::to_vec_pretty(&all)?;
        let (path, beside) = (self.list(), self.directory.join(".pools.json"));
        std::fs::write(&beside, text)
            .and_then(|()| std::fs::rename(&beside, &path))
            .with_context(|| format!("write {path:?}"))
    }

    fn remove_leftovers(&mut self) {
        let entries = std::fs::read_dir(self.directory.join("warm"));
        let names = entries.into_iter().flatten().flatten();
        let names: Vec<String> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        self.remove(&names);
    }

    fn remove(&mut self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        if let Err(error) = self.clone(Work::Remove(names)) {
            self.log.warn(format_args!("zygote: {error:#}"));
        }
    }

    /// A child has ended. If it was a keeper, and its container is still where it was made, it was killed:
    /// whoever ends by himself has removed it, or it's somebody's.
    pub fn reaped(&mut self, pid: i32) {
        let Some(at) = self.keepers.iter().position(|(its, _)| *its == pid) else {
            return;
        };
        let (_, directory) = self.keepers.swap_remove(at);
        if self.directory.join("warm").join(&directory).exists() {
            self.remove(&[directory]);
        }
    }

    /// Does something in a clone of this process; its pid.
    fn clone(&self, work: Work) -> Result<i32> {
        let cloned = process::clone3(0, None).map_err(|e| failed(e, "clone3"))?;
        if let Clone::Parent { pid, .. } = cloned {
            return Ok(pid);
        }
        let (own, keep) = match &work {
            Work::Keep { daemon, .. } => ("runz:keeper", daemon.as_raw_fd()),
            Work::Remove(_) => ("runz:remover", -1),
        };
        let name = std::ffi::CString::new(own).unwrap_or_default();
        let _ = process::set_name(&name);
        // Nothing of the daemon's: neither what it holds nor what it ignores.
        let begin = || {
            fs::close_all_but(3, keep)?;
            process::default_signals();
            process::set_signal_mask(&process::signal_set(0))?;
            fs::umask(0o022);
            let (soft, hard) = self.open_files;
            process::set_rlimit(0, libc::RLIMIT_NOFILE, soft, hard)
        };
        let done = begin()
            .map_err(|e| failed(e, "begin"))
            .and_then(|()| (self.work)(work));
        process::exit_now(done.is_err().into())
    }

    /// Adds a pool, or gives it another size. `peer` is answered when all of it is there.
    pub fn provision(&mut self, provision: Provision, peer: OwnedFd) -> Result<()> {
        crate::store::check_id(&provision.name).context("--name")?;
        ensure!(provision.count <= MOST, "--count: at most {MOST}");
        ensure!(
            !provision.freeze || provision.until == Until::Ready,
            "--freeze: only with --until=ready; one that is created does nothing anyway"
        );
        // One that can't be read changes nothing: the pool stays as it is.
        Bundle::look(&provision.bundle, None)?;
        let at = self
            .pools
            .iter()
            .position(|p| p.provision.name == provision.name);
        let mut pool = match at {
            Some(at) => {
                let mut pool = self.pools.remove(at);
                let count = provision.count;
                let resized = Provision {
                    count,
                    ..pool.provision.clone()
                };
                if resized != provision {
                    pool.generation += 1;
                    pool.takes = LEAST;
                    pool.bundle = Err(String::new());
                    pool.parked.clear();
                }
                pool.provision = provision;
                pool.parked.truncate(count as usize);
                pool.failed = None;
                pool
            }
            None => Pool::new(provision),
        };
        pool.look();
        pool.waiting.push(peer);
        let at = self
            .pools
            .partition_point(|p| p.provision.name < pool.provision.name);
        self.pools.insert(at, pool);
        let room = self.room();
        self.pools[at].answer_waiting(room);
        self.remember()
    }

    /// Forgets a pool; its containers go.
    pub fn drop_pool(&mut self, name: &str) -> Result<()> {
        let at = self.pools.iter().position(|p| p.provision.name == name);
        let Some(at) = at else {
            bail!("no pool {name:?}");
        };
        self.pools.remove(at);
        self.remember()
    }

    /// Gives a caller's connection to the keeper that has waited longest. Who gets none is told why.
    pub fn take(&mut self, name: &str, peer: &OwnedFd) {
        let room = self.room();
        let found = self.pools.iter_mut().find(|p| p.provision.name == name);
        let Some(pool) = found else {
            tell(peer, &Reply::Refused(format!("no pool {name:?}")));
            return;
        };
        pool.look();
        if pool.parked.is_empty() {
            pool.seen.misses += 1;
            let why = match pool.stuck(room) {
                Some(why) => format!("none could be made: {why}"),
                None => "all are taken".to_owned(),
            };
            tell(peer, &Reply::Refused(why));
            return;
        }
        tell(peer, &Reply::Done);
        while let Some(keeper) = pool.parked.pop_front() {
            if socket::send(&keeper.socket, &[0], Some(peer.as_fd())).is_ok() {
                pool.seen.hits += 1;
                pool.taken = Some(Instant::now());
                return;
            }
            // It has died.
        }
        pool.seen.misses += 1;
        let _ = warm::send(peer, &Answer::Refused("all are taken".to_owned()), &[]);
    }

    /// When there is something to be done without being asked.
    pub fn due(&self, now: Instant, quiet: Duration) -> Option<Instant> {
        let busy = self.pools.iter().any(|pool| pool.making.is_some());
        let room = self.room();
        let next = match busy {
            true => None,
            false => self
                .pools
                .iter()
                .filter_map(|pool| pool.due(now, quiet, room))
                .min(),
        };
        let look = (!self.pools.is_empty()).then(|| self.looked + LOOK);
        next.into_iter().chain(look).min()
    }

    /// Does it.
    pub fn tend(&mut self, now: Instant, quiet: Duration) {
        if self.looked + LOOK <= now {
            self.looked = now;
            self.pools.iter_mut().for_each(Pool::look);
            self.weigh();
            self.limit(self.cap);
        }
        if self.pools.iter().any(|pool| pool.making.is_some()) {
            return;
        }
        let room = self.room();
        // The emptiest first.
        let due = (0..self.pools.len())
            .filter(|at| {
                self.pools[*at]
                    .due(now, quiet, room)
                    .is_some_and(|due| due <= now)
            })
            .min_by_key(|at| self.pools[*at].parked.len());
        let Some(at) = due else { return };
        self.pools[at].look();
        match self.make(at, now) {
            Ok(()) => {}
            Err(error) => {
                self.pools[at].fail(sentence(&error), now, self.log);
                self.pools[at].answer_waiting(room);
            }
        }
    }

    fn make(&mut self, at: usize, now: Instant) -> Result<()> {
        let (ours, its) = socket::pair().map_err(|e| failed(e, "socketpair"))?;
        let mut random = [0; 4];
        process::random(&mut random).map_err(|e| failed(e, "getrandom"))?;
        let pool = &self.pools[at];
        let name = &pool.provision.name;
        let directory = format!("{name}-{:08x}", u32::from_ne_bytes(random));
        let token = self.next;
        self.next += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.epoll
            .add(&ours, event)
            .map_err(|e| failed(e, "EPOLL_CTL_ADD"))?;
        let pid = self.clone(Work::Keep {
            provision: &pool.provision,
            directory: &directory,
            daemon: its,
        })?;
        let generation = pool.generation;
        self.keepers.push((pid, directory));
        self.pools[at].making = Some(Keeper {
            token,
            socket: ours,
            generation,
            since: now,
            taken: Taken::default(),
        });
        Ok(())
    }

    /// Hears what keepers say.
    pub fn hear(&mut self) {
        let mut events = [EpollEvent::empty(); 32];
        let Ok(n) = self.epoll.wait(&mut events, EpollTimeout::ZERO) else {
            return;
        };
        for event in &events[..n] {
            self.hear_one(event.data());
        }
    }

    fn hear_one(&mut self, token: u64) {
        let now = Instant::now();
        let is = |keeper: &Keeper| keeper.token == token;
        let found = self.pools.iter_mut().enumerate().find_map(|(at, pool)| {
            if let Some(keeper) = pool.making.take_if(|k| is(k)) {
                return Some((at, keeper));
            }
            let parked = pool.parked.iter().position(is)?;
            let keeper = pool.parked.remove(parked)?;
            Some((at, keeper))
        });
        let Some((at, mut keeper)) = found else {
            return;
        };
        let pool = &mut self.pools[at];
        match warm::receive::<Report>(&keeper.socket, Some(now)) {
            Ok(Some((Report::Parked { cost, taken }, _))) => {
                pool.seen.made += 1;
                pool.seen.cost = cost;
                pool.failed = None;
                // Of another bundle, or one too many: it sees that nobody wants it.
                if keeper.generation == pool.generation
                    && pool.parked.len() < pool.provision.count as usize
                {
                    pool.takes = taken.bytes();
                    keeper.taken = taken;
                    pool.parked.push_back(keeper);
                }
                self.limit(self.cap);
            }
            other => {
                let why = match other {
                    Ok(Some((Report::Failed(why), _))) => why,
                    _ => "its keeper was killed".to_owned(),
                };
                pool.fail(why, now, self.log);
            }
        }
        let room = self.room();
        self.pools[at].answer_waiting(room);
    }

    /// Looks what those take that may take more by now: a program that runs is not done.
    fn weigh(&mut self) {
        for pool in &mut self.pools {
            let provision = &pool.provision;
            if provision.until == Until::Ready && !provision.freeze {
                for keeper in &mut pool.parked {
                    keeper.taken.look();
                    // The next one will come to that, too.
                    pool.takes = pool.takes.max(keeper.taken.bytes());
                }
            }
        }
    }

    /// For `status`.
    pub fn status(&mut self, now: Instant) -> Vec<status::Warm> {
        self.weigh();
        let room = self.room();
        let one = |pool: &Pool| status::Warm {
            bundle: pool.provision.bundle.display().to_string(),
            until: match (pool.provision.until, pool.provision.freeze) {
                (Until::Created, _) => "created",
                (Until::Ready, false) => "ready",
                (Until::Ready, true) => "frozen",
            }
            .to_owned(),
            ready: pool.parked.len() as u64,
            target: pool.provision.count.into(),
            oldest: pool.parked.front().map_or(0, |keeper| {
                now.saturating_duration_since(keeper.since).as_secs()
            }),
            memory: pool.memory(),
            error: pool.stuck(room).unwrap_or_default(),
            ..pool.seen.clone()
        };
        self.pools.iter().map(one).collect()
    }
}
