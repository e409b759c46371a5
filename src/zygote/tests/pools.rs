//! Which kits there are, and when the next one is made.

use std::time::{Duration, Instant};

use super::super::config::{Config, KIT_MEMORY};
use super::super::kit::Kit;
use super::super::pools::Pools;
use super::super::shape::Shape;
use super::super::wire::Cold;
use super::shapes::{ALL, SPEC, add, fit, mount};

fn kit(made: Instant) -> Kit {
    Kit {
        kinds: ALL,
        descriptors: Vec::new(),
        whole: true,
        made,
        cost: Duration::from_micros(500),
    }
}

fn shape(kinds: u64) -> Shape {
    Shape {
        kinds,
        trees: Vec::new(),
    }
}

/// Makes what is wanted until nothing is. How many were made, and the time at the end.
fn fill(pools: &mut Pools, config: &Config, mut now: Instant) -> (usize, Instant) {
    let mut count = 0;
    while let Some((at, shape)) = pools.next(config) {
        assert!(at <= now.max(at), "never before its time");
        now = now.max(at);
        let shape = shape.clone();
        pools.made(&shape, Ok(kit(now)), now);
        count += 1;
        assert!(count < 10_000, "it never ends");
    }
    (count, now)
}

fn ready(pools: &Pools, now: Instant) -> Vec<u64> {
    pools.status(now).pools.iter().map(|p| p.ready).collect()
}

#[test]
fn pools_follow_demand() {
    let config = Config {
        pool: 20,
        ..Config::default()
    };
    let (mut pools, now) = (Pools::default(), Instant::now());
    let one = shape(ALL);
    assert!(pools.next(&config).is_none());
    assert_eq!(pools.take(&one, &config, now).err(), Some(Cold::New));
    let (made, mut now) = fill(&mut pools, &config, now);
    assert_eq!(made, config.first);
    // Each time that more are wanted than there are the next ones are twice as many.
    for wanted in [8, 16, 20, 20] {
        while pools.take(&one, &config, now).is_ok() {}
        now = fill(&mut pools, &config, now).1;
        assert_eq!(ready(&pools, now), [wanted]);
    }
    // The newest goes first, the oldest is too old first.
    let age = Duration::from_secs(config.age);
    pools.clean(&config, now + age / 2);
    assert_eq!(ready(&pools, now), [20]);
    assert!(pools.take(&one, &config, now + age / 2).is_ok());
    pools.clean(&config, now + age);
    assert_eq!(ready(&pools, now + age), [0]);
    // Asked for half an age ago: still known, but of fewer.
    let target = pools.status(now + age).pools[0].target;
    assert!((1..20).contains(&target), "{target}");
    pools.clean(&config, now + age * 2);
    assert!(pools.status(now).pools.is_empty());
}

#[test]
fn pools_keep_to_their_caps() {
    let shapes: Vec<Shape> = (1..8).map(shape).collect();
    for (config, most) in [
        (
            Config {
                kits: 7,
                ..Config::default()
            },
            7,
        ),
        (
            Config {
                memory: 0,
                ..Config::default()
            },
            0,
        ),
        (
            Config {
                pool: 0,
                ..Config::default()
            },
            0,
        ),
        (
            Config {
                pool: 2,
                ..Config::default()
            },
            14,
        ),
        (
            Config {
                first: 0,
                ..Config::default()
            },
            0,
        ),
        (
            Config {
                shapes: 3,
                ..Config::default()
            },
            12,
        ),
    ] {
        let (mut pools, mut now) = (Pools::default(), Instant::now());
        for shape in &shapes {
            now += Duration::from_millis(1);
            assert_eq!(pools.take(shape, &config, now).err(), Some(Cold::New));
        }
        now = fill(&mut pools, &config, now).1;
        let all: u64 = ready(&pools, now).iter().sum();
        assert_eq!(all, most, "{config:?}");
        assert!(ready(&pools, now).len() <= config.shapes);
    }
    // Smaller caps throw away what is too much.
    let (mut pools, mut now) = (Pools::default(), Instant::now());
    for shape in &shapes {
        let _ = pools.take(shape, &Config::default(), now);
    }
    now = fill(&mut pools, &Config::default(), now).1;
    for (config, most) in [
        (
            Config {
                pool: 3,
                ..Config::default()
            },
            21,
        ),
        (
            Config {
                kits: 5,
                ..Config::default()
            },
            5,
        ),
        (
            Config {
                memory: 0,
                ..Config::default()
            },
            0,
        ),
    ] {
        pools.clean(&config, now);
        assert_eq!(ready(&pools, now).iter().sum::<u64>(), most, "{config:?}");
    }
    // So do warm containers, which come first.
    let config = Config::default();
    now = fill(&mut pools, &config, now + Duration::from_secs(60)).1;
    pools.others = config.memory() - 3 * KIT_MEMORY - 1;
    pools.clean(&config, now);
    assert_eq!(ready(&pools, now).iter().sum::<u64>(), 3);
    assert!(pools.next(&config).is_none());
}

/// Not faster than `rate`; and while some are left, not until nobody has asked for `quiet`.
#[test]
fn pools_take_their_time() {
    let config = Config {
        first: 100,
        pool: 100,
        rate: 10,
        quiet: 500,
        ..Config::default()
    };
    let (mut pools, now) = (Pools::default(), Instant::now());
    let one = shape(ALL);
    let _ = pools.take(&one, &config, now);
    // At once: there is none.
    assert_eq!(pools.next(&config).unwrap().0, now);
    pools.made(&one, Ok(kit(now)), now);
    assert_eq!(
        pools.next(&config).unwrap().0,
        now + Duration::from_millis(100)
    );
    let (_, end) = fill(&mut pools, &config, now);
    assert!(end >= now + Duration::from_millis(9900), "{:?}", end - now);
    assert_eq!(pools.status(end).refill_rate, 100.0 / 60.0);
    // An hour later nothing was made lately.
    assert_eq!(
        pools.status(end + Duration::from_secs(3600)).refill_rate,
        0.0
    );
    // Until less than an eighth is left; then as fast as `rate` allows.
    for left in (12..100).rev() {
        assert!(pools.take(&one, &config, end).is_ok());
        let pause = Duration::from_millis(if left > 12 { 500 } else { 100 });
        assert_eq!(pools.next(&config).unwrap().0, end + pause, "{left}");
    }
}

#[test]
fn what_cannot_be_made_is_not_tried_again_at_once() {
    let config = Config::default();
    let (mut pools, now) = (Pools::default(), Instant::now());
    let one = shape(ALL);
    let _ = pools.take(&one, &config, now);
    pools.made(&one, Err(anyhow::anyhow!("why")), now);
    assert_eq!(pools.take(&one, &config, now).err(), Some(Cold::Broken));
    let again = pools.next(&config).unwrap().0;
    assert_eq!(again, now + Duration::from_secs(10));
    let status = pools.status(now);
    assert_eq!(
        (&*status.pools[0].error, status.pools[0].misses_broken),
        ("why", 1)
    );
    pools.made(&one, Ok(kit(again)), again);
    assert!(pools.take(&one, &config, again).is_ok());
    assert_eq!(pools.status(again).pools[0].error, "");
    // The first of many failures are logged, then ever fewer, of whatever shape.
    let mut logged = 1;
    for n in 2..=1000u64 {
        let one = shape(n);
        let _ = pools.take(&one, &config, now);
        logged += u32::from(pools.made(&one, Err(anyhow::anyhow!("why")), now));
    }
    assert_eq!(logged, 10);
}

/// Names come from config.json, and become labels of metrics.
#[test]
fn names_are_harmless() {
    let (mut pools, now) = (Pools::default(), Instant::now());
    let odd = fit(SPEC, |c| {
        let mount = mount("/dev/a\"b\\c\nd", "tmpfs", &["mode=755"]);
        add(c, mount);
    });
    let _ = pools.take(&odd.unwrap().shape, &Config::default(), now);
    let text = pools.status(now).metrics();
    assert!(text.contains("a?b?c?d"), "{text}");
}
