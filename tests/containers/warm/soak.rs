//! Many warm containers of one daemon: nothing grows, nobody stays.

use super::{Pool, keepers};
use crate::harness::{Bundle, Way, wait_for};
use crate::soak::{held, many};

/// A tenth of what the other soak makes: half of them in the foreground, half of them detached and deleted.
/// Pools come, change and go meanwhile.
pub fn soak(way: Way) {
    const PARKED: u32 = 4;
    let many = many() / 10;
    let p = Pool::created(Bundle::new(way), PARKED);
    let daemon = p.daemon.as_ref().expect("a daemon");
    let run = |n: usize| {
        let detach: &[&str] = if n.is_multiple_of(2) {
            &["--detach"]
        } else {
            &[]
        };
        let id = format!("c{n}");
        wait_for("a warm container", || {
            let output = p.warm(detach, &id).run();
            // It's faster than the daemon.
            let none = output.code != 0 && output.stderr.contains("all are taken");
            (!none).then(|| output.ok())
        });
        if n.is_multiple_of(2) {
            p.delete(&id);
        }
        match n % 20 {
            5 => p.provision(&["--count=1"]).ok(),
            10 => p.provision(&["--count", &PARKED.to_string()]).ok(),
            15 => {
                p.b.call("zygote").args(["drop", &p.b.id]).run().ok();
                p.provision(&["--count", &PARKED.to_string()]).ok()
            }
            _ => String::new(),
        };
    };
    let settled = || {
        p.wait_ready(PARKED.into());
        p.settled(PARKED as usize);
        keepers(&p, PARKED as usize);
    };
    (0..20).for_each(run);
    settled();
    let before = held(daemon);
    (20..20 + many).for_each(run);
    settled();
    held(daemon).same(&before, many);
}
