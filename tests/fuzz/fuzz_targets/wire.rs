//! Any packet on one of the zygote's sockets, the daemon's or a keeper's: it is refused in one line, or is a
//! message that would be sent the same; what it asks for is remembered, counted and told without harm, and
//! reaches a parked init as what it may follow.
//!
//! A module of src/main.rs, which is this target's root: what a message is made of is all over runz.

use std::ffi::CString;
use std::time::{Duration, Instant};

use anyhow::Result;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bundle::understand;
use crate::cgroup::update;
use crate::host::Host;
use crate::init::park::{self, Orders};
use crate::plan::{self, IdMaps};
use crate::store::check_id;
use crate::zygote::config::Config;
use crate::zygote::pools::Pools;
use crate::zygote::warm::{self, Answer, Order, Report};
use crate::zygote::wire::{self, Reply, Request};

fuzz_target!(|data: &[u8]| -> Corpus {
    let daemons = [asked(data), answered(data)];
    let keepers = [
        ordered(data),
        message::<Answer>(warm::decode, warm::encode, data).is_some(),
        message::<Report>(warm::decode, warm::encode, data).is_some(),
        park::check(&mut data.to_owned()),
    ];
    match daemons.iter().chain(&keepers).any(|is| *is) {
        true => Corpus::Keep,
        false => Corpus::Reject,
    }
});

/// Something is asked of the daemon.
fn asked(data: &[u8]) -> bool {
    let request = message::<Request>(wire::decode, wire::encode, data);
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
    request.is_some()
}

/// The daemon answers.
fn answered(data: &[u8]) -> bool {
    let reply = message::<Reply>(wire::decode, wire::encode, data);
    if let Some(Reply::Status(status)) = &reply {
        let _ = (status.table(), status.metrics());
    }
    reply.is_some()
}

/// A caller tells a keeper what he wants of a container, and the keeper its init.
fn ordered(data: &[u8]) -> bool {
    let Some(order) = message::<Order>(warm::decode, warm::encode, data) else {
        return false;
    };
    let _ = check_id(&order.id);
    if let Some(text) = &order.resources {
        let _ = update::from_json(text);
    }
    let text = include_bytes!("../../configs/spec.json");
    let mut spec = understand(text, "/bundle".as_ref()).expect("a config").spec;
    order.changes.apply(&mut spec);
    let host = Host {
        euid: 0,
        in_user_namespace: false,
        last_capability: 40,
        apparmor: false,
        selinux: false,
        kcore: true,
        setgroups_denied: false,
    };
    let none = IdMaps::default();
    let inside = plan::Container {
        id_maps: &none,
        umask: None,
        personality: None,
        memory_policy: None,
        preserve_fds: 0,
    };
    let process = spec.process().as_ref().expect("a process");
    let Ok(process) = plan::join(process, inside, &host, &mut Vec::new()) else {
        return true;
    };
    let hostname = order.changes.hostname.map(CString::new);
    let hostname = hostname.and_then(Result::ok);
    let orders = Orders {
        process: &process,
        hostname: hostname.as_deref(),
        domainname: None,
        keyring: Some(c"_ses.id"),
        carried: order.caller.carried(&order.caller),
    };
    if let Ok(mut bytes) = orders.encode() {
        assert!(park::check(&mut bytes), "its own orders");
    }
    true
}

fn message<T: Serialize + DeserializeOwned>(
    decode: fn(&[u8]) -> Result<T>,
    encode: fn(&T) -> Result<Vec<u8>>,
    data: &[u8],
) -> Option<T> {
    match decode(data) {
        Ok(message) => {
            let bytes = encode(&message).expect("it fitted before");
            let again = decode(&bytes).expect("its own bytes");
            assert_eq!(encode(&again).expect("the same"), bytes);
            Some(message)
        }
        Err(error) => {
            let sentence = format!("{error:#}");
            assert!(!sentence.contains(char::is_control), "{sentence:?}");
            None
        }
    }
}
