//! Any packet on the zygote's socket: it is refused in one line, or is a message that would be sent the
//! same; what it asks for is remembered, counted and told without harm.
//!
//! A module of src/main.rs, which is this target's root: what a message is made of is all over runz.

use std::time::{Duration, Instant};

use libfuzzer_sys::{Corpus, fuzz_target};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::zygote::config::Config;
use crate::zygote::pools::Pools;
use crate::zygote::wire::{self, Reply, Request};

fuzz_target!(|data: &[u8]| -> Corpus {
    let (request, reply) = (message::<Request>(data), message::<Reply>(data));
    if let Some(Reply::Status(status)) = &reply {
        let _ = (status.table(), status.metrics());
    }
    if let Some(Request::Kit { shape, .. }) = &request {
        let config = Config::default();
        let mut pools = Pools::default();
        let now = Instant::now();
        for _ in 0..2 {
            let taken = pools.take(shape, &config, now);
            assert!(taken.is_err(), "a kit that nobody made");
        }
        assert!(pools.next(&config).is_some());
        pools.made(shape, Err(anyhow::anyhow!("why")), now);
        let status = pools.status(now);
        let mut names = status.pools.iter().map(|pool| &pool.shape);
        assert!(names.all(|name| !name.contains(char::is_control)));
        let _ = (status.table(), status.metrics());
        pools.clean(&config, now + Duration::from_secs(config.age));
    }
    match request.is_some() || reply.is_some() {
        true => Corpus::Keep,
        false => Corpus::Reject,
    }
});

fn message<T: Serialize + DeserializeOwned>(data: &[u8]) -> Option<T> {
    match wire::decode::<T>(data) {
        Ok(message) => {
            let bytes = wire::encode(&message).expect("it fitted before");
            let again = wire::decode::<T>(&bytes).expect("its own bytes");
            assert_eq!(wire::encode(&again).expect("the same"), bytes);
            Some(message)
        }
        Err(error) => {
            let sentence = format!("{error:#}");
            assert!(!sentence.contains(char::is_control), "{sentence:?}");
            None
        }
    }
}
