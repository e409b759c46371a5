//! Python with numpy: how long until it answers, started cold and from a pool of ready ones.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::bundle::Kind;
use crate::cases::{Bench, Scene, Unit, progress, row};
use crate::runtime::{Slot, Way};
use crate::sys::Stdio;

/// Debian's python3-numpy.
const NUMPY: &str = "/usr/lib/python3/dist-packages/numpy";

/// It says that it's ready, and answers one line of its standard input.
const PROGRAM: &str = "\
import os, socket, sys
import numpy
if path := os.environ.get('NOTIFY_SOCKET'):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(b'READY=1', path)
print(numpy.arange(int(sys.stdin.readline())).sum(), flush=True)
";

/// How many ready ones there are.
const READY: usize = 5;

impl Bench<'_> {
    /// From the spawn of `run` to the first byte of output.
    ///
    /// # Errors
    /// What keeps the whole run from going on.
    pub fn python(&mut self) -> Result<()> {
        let kind = Kind::Python;
        if !Path::new(NUMPY).exists() {
            eprintln!("python: left out, no {NUMPY} (package python3-numpy)");
            return Ok(());
        }
        progress(Scene::Plain, kind, "first output");
        let args = ["/usr/bin/python3", "-c", PROGRAM];
        let mut slots = Vec::new();
        for runtime in self.runtimes {
            let id = format!("{}-{}-python", self.home.prefix, runtime.name);
            let bundle = self.home.bundle(kind, &id, &args)?;
            let pool = self.home.pool(kind);
            if let (Way::From, Some(daemon)) = (runtime.way, &runtime.daemon) {
                let made = daemon
                    .provision(&pool, &bundle, READY, "ready")
                    .and_then(|()| runtime.settle().map_err(anyhow::Error::msg));
                if let Err(error) = made {
                    eprintln!("{}: {error:#}", runtime.name);
                }
            }
            slots.push(Slot::new(runtime, &id, &bundle, (&pool, &[]))?);
        }
        let mut input = File::from(crate::sys::memfd()?);
        input.write_all(b"1000\n").context("write the input")?;
        let stdio = Stdio::new()?;
        // A cold one takes a hundred times what others do.
        let rounds = (self.effort.runs / 5).max(5);
        let taken = self.interleave("run", rounds, 2, |i| {
            input.rewind().map_err(|e| e.to_string())?;
            let told = |what: &dyn std::fmt::Display| match stdio.last_error() {
                Some(line) => format!("run: {line}"),
                None => format!("run: {what}"),
            };
            match stdio.first_output(slots[i].run_command(), &input) {
                Ok((first, 0)) => Ok(first),
                Ok((_, status)) => Err(told(&format_args!("wait status {status:#x}"))),
                Err(error) => Err(told(&error)),
            }
            .inspect_err(|_| slots[i].remove())
        });
        let cells = taken
            .iter()
            .map(|t| t.cell(|ns| *ns as f64 / 1e6))
            .collect();
        (self.emit)(row(Scene::Plain, kind, "first output", Unit::Millis, cells));
        Ok(())
    }
}
