//! What a warm container takes of the memory, as far as it's cheap to know.
//!
//! Its processes' and its keeper's share of what is mapped (Pss, smaps_rollup in proc(5)). Where there is
//! a memory controller, in place of the container's processes what is charged to its cgroup
//! (memory.current), which has page cache and some of the kernel's memory, too. And [`KERNEL`].

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What one takes of the kernel's memory, in bytes: namespaces, mounts, cgroup, processes. 442 KiB for each of
/// a hundred of `runz spec`'s config, by /proc/meminfo on Linux 6.18.
pub const KERNEL: u64 = 448 << 10;

/// The least that one takes; for a pool of which none was made yet.
pub const LEAST: u64 = 1 << 20;

/// What one takes.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// What stays as it was when it was made.
    fixed: u64,
    /// What its cgroup is charged.
    charged: u64,
    /// Where that stands; `None`: nothing is charged here.
    charge: Option<PathBuf>,
}

impl Taken {
    /// What the calling keeper's container takes.
    pub fn by(init: i32, cgroup: Option<&Path>) -> Taken {
        let mut taken = Taken {
            fixed: KERNEL + share("self"),
            ..Taken::default()
        };
        let file = cgroup.map(|path| path.join("memory.current"));
        if let Some(file) = file.filter(|file| file.exists()) {
            taken.charge = Some(file);
            taken.look();
            return taken;
        }
        let list = cgroup.and_then(|path| std::fs::read_to_string(path.join("cgroup.procs")).ok());
        let list = list.unwrap_or_else(|| init.to_string());
        taken.fixed += list.lines().map(share).sum::<u64>();
        taken
    }

    /// Looks again what is charged.
    pub fn look(&mut self) {
        let text = self.charge.as_ref().map(std::fs::read_to_string);
        let now = text.and_then(|text| text.ok()?.trim().parse().ok());
        self.charged = now.unwrap_or(self.charged);
    }

    /// All of it, in bytes.
    pub fn bytes(&self) -> u64 {
        self.fixed + self.charged
    }
}

/// A process's share of the memory that is mapped; of one that has ended: nothing.
fn share(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.unwrap_or(0) << 10
}

/// What all may take, and do.
#[derive(Clone, Copy)]
pub struct Room {
    /// The cap, in bytes.
    pub cap: u64,
    /// What is taken of it.
    pub taken: u64,
}

impl Room {
    /// Whether there is room for as much more.
    pub fn has(self, bytes: u64) -> bool {
        self.taken + bytes <= self.cap
    }

    /// Why there is none.
    pub fn words(self, bytes: u64) -> String {
        let mib = |bytes: u64| bytes as f64 / 1048576.0;
        format!(
            "warm containers take {:.1} MiB, another one would {:.1} MiB, and memory is capped at {:.0} MiB",
            mib(self.taken),
            mib(bytes),
            mib(self.cap)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_is_looked_at_again() {
        let directory = std::env::temp_dir().join(format!("runz-charge-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let write = |text: &str| std::fs::write(directory.join("memory.current"), text).unwrap();
        write("10485760\n");
        let mut taken = Taken::by(1, Some(&directory));
        let own = taken.bytes() - (10 << 20);
        assert!(own > KERNEL, "{own}: without our own pages");
        write("20971520\n");
        assert_eq!(taken.bytes(), own + (10 << 20));
        taken.look();
        assert_eq!(taken.bytes(), own + (20 << 20));
        // Gone with its container: nothing new is known.
        std::fs::remove_dir_all(&directory).unwrap();
        taken.look();
        assert_eq!(taken.bytes(), own + (20 << 20));
    }

    #[test]
    fn where_nothing_is_charged_processes_are_asked() {
        let directory = std::env::temp_dir().join(format!("runz-procs-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let write = |text: String| std::fs::write(directory.join("cgroup.procs"), text).unwrap();
        let own = std::process::id();
        write(String::new());
        let none = Taken::by(1, Some(&directory)).bytes();
        write(format!("{own}\n{own}\n{}\n", i32::MAX));
        let twice = Taken::by(1, Some(&directory)).bytes();
        std::fs::remove_dir_all(&directory).unwrap();
        // Other tests come and go meanwhile.
        let (keeper, all) = (none - KERNEL, twice - KERNEL);
        assert!(all > keeper * 2, "{keeper} {all}");
        assert!(Taken::by(own as i32, None).bytes() > none);
    }

    #[test]
    fn there_is_room_up_to_the_cap() {
        let room = Room {
            cap: 10 << 20,
            taken: 6 << 20,
        };
        assert!(room.has(4 << 20) && !room.has((4 << 20) + 1));
        assert_eq!(
            room.words(5 << 20),
            "warm containers take 6.0 MiB, another one would 5.0 MiB, and memory is capped at 10 MiB"
        );
    }
}
