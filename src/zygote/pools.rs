//! Which kits there are, and which are to be made next.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::config::{Config, KIT_MEMORY};
use super::kit::Kit;
use super::shape::{Place, Shape};
use super::status;
use super::wire::Cold;

/// All kits.
#[derive(Default)]
pub struct Pools {
    pools: HashMap<Shape, Pool>,
    /// When kits were made, within the last minute.
    recent: VecDeque<Instant>,
    last_request: Option<Instant>,
    /// How many couldn't be made.
    failed: u64,
    /// What else takes of the memory that kits may take, in bytes.
    pub others: u64,
}

struct Pool {
    kits: VecDeque<Kit>,
    target: usize,
    asked: Instant,
    /// Why none can be made, and when to try again.
    error: Option<(String, Instant)>,
    seen: status::Pool,
}

/// How long to wait after a failure.
const PENALTY: Duration = Duration::from_secs(10);

impl Pools {
    /// Takes a kit out.
    pub fn take(&mut self, shape: &Shape, config: &Config, now: Instant) -> Result<Kit, Cold> {
        self.last_request = Some(now);
        let Some(pool) = self.pools.get_mut(shape) else {
            self.remember(shape, config, now);
            return Err(Cold::New);
        };
        pool.asked = now;
        if let Some(kit) = pool.kits.pop_back() {
            pool.seen.hits += 1;
            return Ok(kit);
        }
        if pool.error.is_some() {
            pool.seen.misses_broken += 1;
            return Err(Cold::Broken);
        }
        // More were wanted than we thought.
        pool.target = (pool.target * 2).clamp(1, config.pool.max(1));
        pool.seen.misses_empty += 1;
        Err(Cold::Empty)
    }

    /// One was made and handed over at once.
    pub fn straight(&mut self, shape: &Shape, cost: Duration) {
        if let Some(pool) = self.pools.get_mut(shape) {
            pool.made(cost);
            pool.seen.hits += 1;
        }
    }

    fn remember(&mut self, shape: &Shape, config: &Config, now: Instant) {
        while self.pools.len() >= config.shapes {
            let oldest = self.pools.iter().min_by_key(|(_, pool)| pool.asked);
            let Some(oldest) = oldest.map(|(shape, _)| shape.clone()) else {
                break;
            };
            self.pools.remove(&oldest);
        }
        let pool = Pool {
            kits: VecDeque::new(),
            target: config.first.min(config.pool),
            asked: now,
            error: None,
            seen: status::Pool {
                shape: words(shape),
                misses_new: 1,
                ..status::Pool::default()
            },
        };
        self.pools.insert(shape.clone(), pool);
    }

    fn count(&self) -> usize {
        self.pools.values().map(|pool| pool.kits.len()).sum()
    }

    /// What is to be made next, and when; `None`: nothing.
    pub fn next(&self, config: &Config) -> Option<(Instant, &Shape)> {
        if self.count() >= config.most(self.others) {
            return None;
        }
        let short = |pool: &Pool| pool.target.min(config.pool).saturating_sub(pool.kits.len());
        let wanting = self.pools.iter().filter(|(_, pool)| short(pool) > 0);
        let due = wanting.map(|(shape, pool)| {
            let mut at = pool.asked;
            if let Some((_, again)) = &pool.error {
                at = *again;
            } else if pool.kits.len() * 8 >= pool.target {
                // Those who ask have the CPUs first, as long as it isn't they who will have to wait.
                at = self.last_request.unwrap_or(at) + config.quiet();
            }
            if let Some(last) = self.recent.back() {
                at = at.max(*last + config.pause());
            }
            (at, pool.kits.len(), shape)
        });
        let next = due.min_by_key(|(at, ready, _)| (*at, *ready))?;
        Some((next.0, next.2))
    }

    /// A kit was made, or couldn't be: then, whether that is to be logged. Not one line for each, as who asks
    /// for new shapes again and again could fill the log.
    pub fn made(&mut self, shape: &Shape, kit: anyhow::Result<Kit>, now: Instant) -> bool {
        self.recent.push_back(now);
        self.forget_recent(now);
        self.failed += u64::from(kit.is_err());
        let logged = kit.is_err() && self.failed.is_power_of_two();
        let Some(pool) = self.pools.get_mut(shape) else {
            return logged;
        };
        match kit {
            Ok(kit) => {
                pool.made(kit.cost);
                pool.error = None;
                pool.kits.push_back(kit);
            }
            Err(error) => pool.error = Some((format!("{error:#}"), now + PENALTY)),
        }
        logged
    }

    fn forget_recent(&mut self, now: Instant) {
        let minute = Duration::from_secs(60);
        while self
            .recent
            .front()
            .is_some_and(|t| now.saturating_duration_since(*t) > minute)
        {
            self.recent.pop_front();
        }
    }

    /// Throws away what is too old or too much. When there will be something to throw away next.
    pub fn clean(&mut self, config: &Config, now: Instant) -> Option<Instant> {
        let age = Duration::from_secs(config.age);
        let too_old = |at: Instant| now.saturating_duration_since(at) >= age;
        // Nobody asks for them any more.
        self.pools.retain(|_, pool| !too_old(pool.asked));
        for pool in self.pools.values_mut() {
            pool.target = pool.target.min(config.pool);
            while pool.kits.front().is_some_and(|kit| too_old(kit.made))
                || pool.kits.len() > config.pool
            {
                pool.kits.pop_front();
                pool.seen.dropped += 1;
                // They were more than were needed all that time.
                pool.target = (pool.target - pool.target / 4).max(config.first.min(config.pool));
            }
        }
        while self.count() > config.most(self.others) && self.shed() {}
        let pools = self.pools.values();
        let ends = pools.map(|pool| {
            pool.kits
                .front()
                .map_or(pool.asked, |k| k.made.min(pool.asked))
        });
        ends.min().map(|first| first + age)
    }

    /// Throws away the oldest kit of the largest pool; whether there was one.
    pub fn shed(&mut self) -> bool {
        let largest = self.pools.values_mut().max_by_key(|pool| pool.kits.len());
        let Some(pool) = largest.filter(|pool| !pool.kits.is_empty()) else {
            return false;
        };
        pool.kits.pop_front();
        pool.seen.dropped += 1;
        true
    }

    /// Everything, to be told.
    pub fn status(&self, now: Instant) -> status::Status {
        let minute = Duration::from_secs(60);
        let recent = self.recent.iter();
        let recent = recent.filter(|t| now.saturating_duration_since(**t) <= minute);
        let mut pools: Vec<_> = self.pools.values().map(|pool| pool.status(now)).collect();
        pools.sort_by(|a, b| (b.hits, &a.shape).cmp(&(a.hits, &b.shape)));
        status::Status {
            kit_memory: self.count() as u64 * KIT_MEMORY,
            refill_rate: recent.count() as f64 / 60.0,
            pools,
            ..status::Status::default()
        }
    }
}

impl Pool {
    fn made(&mut self, cost: Duration) {
        let cost = cost.as_secs_f64() * 1e6;
        self.seen.cost = match self.seen.made {
            0 => cost,
            _ => self.seen.cost * 0.9 + cost * 0.1,
        };
        self.seen.made += 1;
    }

    fn status(&self, now: Instant) -> status::Pool {
        let oldest = self.kits.front();
        status::Pool {
            ready: self.kits.len() as u64,
            target: self.target as u64,
            oldest: oldest.map_or(0, |kit| now.saturating_duration_since(kit.made).as_secs()),
            error: self
                .error
                .as_ref()
                .map_or(String::new(), |(e, _)| e.clone()),
            ..self.seen.clone()
        }
    }
}

/// `net ipc uts mnt /dev{pts,shm} sysfs`.
fn words(shape: &Shape) -> String {
    let kinds = super::kit::ORDER
        .iter()
        .filter(|(kind, _)| shape.kinds & kind != 0);
    let mut words: Vec<String> = kinds
        .filter_map(|(_, name)| Some(name.to_str().ok()?.strip_prefix("ns/")?.to_owned()))
        .collect();
    let mut below = Vec::new();
    let mut nodes = 0;
    for tree in &shape.trees {
        match &tree.place {
            Place::Dev { nodes: list, .. } => nodes = list.len(),
            Place::BelowDev(name) => below.push(name.to_string_lossy().into_owned()),
            Place::Alone => words.push(tree.fstype.to_string_lossy().into_owned()),
            Place::Mask => words.push("masks".to_owned()),
        }
    }
    if nodes > 0 {
        words.push(format!("dev({nodes} nodes)"));
    }
    words.extend(below);
    // They become labels of metrics, and names come from config.json.
    words
        .join(" ")
        .replace(|c: char| c.is_control() || c == '"' || c == '\\', "?")
}
