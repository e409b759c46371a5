//! How much else the machine did during the run.
//!
//! Ratios hold on a busy machine only as far as its noise hits all runtimes
//! alike; a runtime of many threads suffers more. So the reader is told.

use std::fs;
use std::time::Instant;

use crate::sys;

/// A moment, with the CPU time spent up to it.
pub struct Mark {
    at: Instant,
    /// Seconds all CPUs were busy, and of these, stolen by the hypervisor.
    busy: f64,
    stolen: f64,
    /// Seconds of ours, with all children that have been waited for.
    ours: f64,
}

/// What went on beside the benchmark, in CPUs.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// Busy with others' processes and with the kernel's workers, some of which work for us.
    pub others: f64,
    /// Taken away by the hypervisor.
    pub stolen: f64,
}

impl Mark {
    /// Reads the clocks.
    pub fn now() -> Mark {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let (busy, stolen) = cpu_seconds(&stat, sys::ticks_per_second());
        Mark {
            at: Instant::now(),
            busy,
            stolen,
            ours: sys::own_cpu_seconds(),
        }
    }

    /// What went on since `self`.
    pub fn noise(&self) -> Noise {
        let now = Mark::now();
        let seconds = now.at.duration_since(self.at).as_secs_f64().max(1e-3);
        Noise {
            others: ((now.busy - self.busy - (now.ours - self.ours)) / seconds).max(0.0),
            stolen: (now.stolen - self.stolen) / seconds,
        }
    }
}

/// Busy and stolen seconds of /proc/stat's first line (proc(5)): guest time is in user already.
fn cpu_seconds(stat: &str, ticks: f64) -> (f64, f64) {
    let first = stat.lines().next().unwrap_or_default();
    let numbers = first.split_whitespace().skip(1);
    let n: Vec<f64> = numbers.filter_map(|n| n.parse().ok()).collect();
    let at = |i: usize| n.get(i).copied().unwrap_or_default() / ticks;
    // user, nice, system, (idle, iowait,) irq, softirq; steal.
    (at(0) + at(1) + at(2) + at(5) + at(6), at(7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_guest_time_are_not_busy() {
        let stat = "cpu  100 20 30 4000 500 6 7 80 9 9\ncpu0 1 1 1 1";
        assert_eq!(cpu_seconds(stat, 1.0), (163.0, 80.0));
        assert_eq!(cpu_seconds("", 1.0), (0.0, 0.0));
    }
}
