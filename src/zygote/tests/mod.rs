//! The parts of the zygote that need no daemon: messages, shapes, pools, configuration, status.

mod pools;
mod shapes;

use super::config::Config;
use super::daemon;
use super::status::{self, Status};
use super::wire::{self, Cold, Maker, Reply, Request};

fn requests() -> Vec<Request> {
    vec![
        Request::Kit {
            shape: shapes::fit(shapes::SPEC, |_| {}).unwrap().shape,
            wait: true,
            devices: Some(vec![0x95, u64::MAX]),
        },
        Request::Warm { pool: "p".into() },
        Request::Drop {
            name: String::new(),
        },
        Request::Status,
        Request::Reload,
        Request::Stop,
    ]
}

#[test]
fn messages_come_as_they_went() {
    for request in requests() {
        let bytes = wire::encode(&request).unwrap();
        assert_eq!(wire::decode::<Request>(&bytes).unwrap(), request);
    }
    let status = Status {
        pid: 7,
        refill_rate: 0.5,
        pools: vec![status::Pool::default()],
        ..Status::default()
    };
    let maker = Maker {
        user: 1,
        network: u64::MAX,
        label: b"label\n\0".to_vec(),
    };
    for reply in [
        Reply::Kit {
            kinds: shapes::ALL,
            maker,
            whole: true,
            exe: Some(c"runz".into()),
            devices: true,
        },
        Reply::Cold(Cold::Broken),
        Reply::Status(Box::new(status)),
        Reply::Done,
        Reply::Refused("no".into()),
    ] {
        let bytes = wire::encode(&reply).unwrap();
        assert_eq!(wire::decode::<Reply>(&bytes).unwrap(), reply);
    }
}

#[test]
fn hostile_messages_are_refused() {
    for request in requests() {
        let good = wire::encode(&request).unwrap();
        // Cut off anywhere, with the length that it says and with the one that it has.
        for length in 0..good.len() {
            let mut cut = good[..length].to_vec();
            assert!(
                wire::decode::<Request>(&cut).is_err(),
                "{length} of {request:?}"
            );
            if length >= 12 {
                cut[8..12].copy_from_slice(&(length as u32 - 12).to_le_bytes());
                assert!(
                    wire::decode::<Request>(&cut).is_err(),
                    "{length} of {request:?}"
                );
            }
        }
        // One byte more, said or not.
        let mut longer = [&good[..], &[0]].concat();
        assert!(wire::decode::<Request>(&longer).is_err());
        longer[8..12].copy_from_slice(&(good.len() as u32 - 11).to_le_bytes());
        let said = wire::decode::<Request>(&longer).unwrap_err().to_string();
        assert_eq!(said, "1 bytes behind a message");
        // Every byte of the header counts.
        for at in 0..12 {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(wire::decode::<Request>(&bad).is_err(), "byte {at}");
        }
    }
    let mut other = wire::encode(&Request::Status).unwrap();
    other[4] = other[4].wrapping_add(1);
    let said = wire::decode::<Request>(&other).unwrap_err().to_string();
    let (theirs, ours) = (wire::VERSION + 1, wire::VERSION);
    assert_eq!(
        said,
        format!("version {theirs} of the protocol, this is version {ours}")
    );
    // Longer than a packet may be.
    let long = Request::Warm {
        pool: "x".repeat(wire::MOST),
    };
    assert!(wire::encode(&long).is_err());
}

#[test]
fn configuration() {
    let directory = std::env::temp_dir().join(format!("runz-config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("zygote.toml");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Config::read(Some(&path)).map_err(|e| format!("{e:#}"))
    };
    assert_eq!(read(""), Ok(Config::default()));
    let some = Config {
        pool: 3,
        age: 7,
        ..Config::default()
    };
    assert_eq!(read("# words\npool = 3\n\nage = 7\n"), Ok(some));
    for (text, line, word) in [
        ("pool = 3\nnonsense = 1\n", 2, "nonsense"),
        ("pool = \"3\"\n", 1, "invalid type"),
        ("\n\nrate = -1\n", 3, "-1"),
        ("pool = 3\nage = 1\n[table]\n", 3, "table"),
        ("pool\n", 1, ""),
        ("first = 99999999999999999999\n", 1, ""),
    ] {
        let said = read(text).unwrap_err();
        let wanted = format!("{}: line {line}: ", path.display());
        assert!(
            said.starts_with(&wanted) && said.contains(word),
            "{text:?}: {said}"
        );
        assert!(!said.contains('\n'), "{said}");
    }
    for (text, wanted) in [
        ("rate = 0", "rate: must be at least 1"),
        ("age = 0", "age: must be at least 1"),
        ("shapes = 0", "shapes: must be at least 1"),
    ] {
        assert!(read(text).unwrap_err().ends_with(wanted));
    }
    std::fs::remove_dir_all(&directory).unwrap();
    let said = format!("{:#}", Config::read(Some(&path)).unwrap_err());
    assert!(said.contains("zygote.toml"), "{said}");
}

#[test]
fn status_for_all() {
    let status = Status {
        pid: 42,
        resident: 3 << 20,
        pools: vec![status::Pool {
            shape: "net ipc".into(),
            ready: 4,
            hits: 11,
            misses_empty: 2,
            error: "no such device".into(),
            ..status::Pool::default()
        }],
        ..Status::default()
    };
    let table = status.table();
    assert!(table.starts_with("daemon 42: "), "{table}");
    assert!(
        table.contains("3.0 MiB") && table.contains("net ipc: no such device"),
        "{table}"
    );
    let metrics = status.metrics();
    for line in [
        "runz_zygote_resident_bytes 3145728",
        "runz_zygote_kits{kit=\"net ipc\"} 4",
        "runz_zygote_kits_handed_over_total{kit=\"net ipc\"} 11",
        "runz_zygote_misses_total{kit=\"net ipc\",why=\"empty\"} 2",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}: {metrics}");
    }
    // Each metric is described once, before its values.
    let mut described = std::collections::BTreeSet::new();
    for line in metrics.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(rest) => {
                let name = rest.split(' ').next().unwrap();
                assert!(described.insert(name.to_owned()), "{name} twice");
            }
            None if line.starts_with('#') => {}
            None => {
                let name = line.split(['{', ' ']).next().unwrap();
                assert!(described.contains(name), "{name} isn't described");
            }
        }
    }
}

/// A keeper that has just been cloned when its daemon is killed.
#[test]
fn the_lock_goes_with_the_daemon() {
    use crate::sys::process::{Clone, clone3, exit_now, pidfd_send_signal, wait};
    let directory = std::env::temp_dir().join(format!("runz-lock-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let lock = daemon::lock(&directory).unwrap();
    let (ours, theirs) = crate::sys::socket::pair().unwrap();
    let Clone::Parent { pidfd, .. } = clone3(0, None).unwrap() else {
        drop(ours);
        let _ = crate::sys::fs::read(&theirs, &mut [0]);
        exit_now(0);
    };
    drop(lock);
    let again = daemon::lock(&directory);
    pidfd_send_signal(&pidfd, libc::SIGKILL).unwrap();
    wait(&pidfd).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    again.unwrap();
}
