//! A hundred creates at once: what each of them takes, and how many there are a second.

use anyhow::Result;

use crate::bundle::Kind;
use crate::cases::{Bench, Cell, POOLED, Scene, Unit, progress, row};
use crate::runtime::{Outcome, Runtime, Slot, Way};
use crate::sys::{Command, Stdio};
use crate::zygote::Daemon;

/// Creates at once; and kits in the pool.
const AT_ONCE: usize = 100;

/// What one burst took: milliseconds of each create, and creates a second up to the last one's end.
type Burst = (Vec<f64>, f64);

impl Bench<'_> {
    /// Bursts of all that can create, in rounds as everything else. Every container has a config that
    /// nobody has seen before.
    ///
    /// # Errors
    /// What keeps the whole run from going on.
    pub fn burst(&mut self, kind: Kind) -> Result<()> {
        progress(Scene::Plain, kind, &format!("{AT_ONCE} creates at once"));
        // Daemons of their own, with pools of that size: those of the other cases have small ones.
        let mut own = Vec::new();
        for runtime in self.runtimes {
            own.push(match runtime.way {
                Way::Kit => Some(self.crowd(runtime, kind)?),
                _ => None,
            });
        }
        let stdio = Stdio::new()?;
        let rounds = (self.effort.runs / 40).clamp(2, 5);
        let mut number = 0;
        let taken = self.interleave("create", rounds, 1, |i| {
            let runtime = own[i].as_ref().unwrap_or(&self.runtimes[i]);
            number += 1;
            let burst = self.once(runtime, kind, number, &stdio);
            runtime.settle()?;
            burst
        });
        own.into_iter()
            .flatten()
            .filter_map(|runtime| runtime.daemon)
            .for_each(Daemon::stop);
        let each = taken.iter().map(|t| Cell {
            samples: t.samples.iter().flat_map(|b| b.0.clone()).collect(),
            ..t.cell(|_| 0.0)
        });
        let rates = taken.iter().map(|t| t.cell(|b| b.1));
        let (each, rates) = (each.collect(), rates.collect());
        let mut emit =
            |case: &str, unit, cells| (self.emit)(row(Scene::Plain, kind, case, unit, cells));
        emit("create, burst", Unit::Millis, each);
        emit("burst", Unit::PerSecond, rates);
        Ok(())
    }

    /// The same runtime with another state directory, whose daemon has as many kits as will be asked
    /// for at once.
    fn crowd(&self, runtime: &Runtime, kind: Kind) -> Result<Runtime> {
        let name = format!("{}-burst-{}", runtime.name, kind.name());
        let mut crowd = Runtime {
            root: runtime.root.with_file_name(&name),
            ..runtime.anew()
        };
        crowd.daemon = Some(Daemon::start(
            self.home,
            &runtime.prefix[0],
            &crowd.root,
            (AT_ONCE, AT_ONCE),
        )?);
        // It learns what kits are wanted, and makes them.
        let id = format!("{}-{name}", self.home.prefix);
        let bundle = self.home.bundle(kind, &id, &POOLED)?;
        let first = Slot::new(&crowd, &id, &bundle, ("", &[]))?.life();
        if let Err(line) = first.map(drop).and_then(|()| crowd.settle()) {
            eprintln!("{}: {line}", runtime.name);
        }
        Ok(crowd)
    }

    fn once(&self, runtime: &Runtime, kind: Kind, number: usize, stdio: &Stdio) -> Outcome<Burst> {
        let slot = |i: usize| -> Result<Slot> {
            let id = format!("{}-{}-burst-{number}-{i}", self.home.prefix, runtime.name);
            let bundle = self.home.bundle(kind, &id, &POOLED)?;
            Slot::new(runtime, &id, &bundle, ("", &[]))
        };
        let slots: Result<Vec<Slot>> = (0..AT_ONCE).map(slot).collect();
        let slots = slots.map_err(|e| format!("{e:#}"))?;
        let commands: Vec<&Command> = slots.iter().map(Slot::create_command).collect();
        let exits = stdio.burst(&commands);
        slots.iter().for_each(Slot::remove);
        let exits = exits.map_err(|e| format!("create: {e}"))?;
        let failed = exits.iter().filter(|exit| exit.status != 0).count();
        if failed > 0 {
            let line = stdio.last_error().unwrap_or_default();
            return Err(format!("create: {failed} of {AT_ONCE} failed: {line}"));
        }
        let times: Vec<f64> = exits.iter().map(|e| e.wall_ns as f64 / 1e6).collect();
        let last = times.iter().copied().fold(0.0, f64::max);
        Ok((times, AT_ONCE as f64 * 1e3 / last))
    }
}
