//! Random profiles, the same on every run. tests/fuzz has the other kind.

use oci_spec::runtime::LinuxSeccomp;
use serde_json::json;

use super::super::table::SYSCALLS;
use super::super::{ACTIONS, OPERATORS};
use super::{checked, profile};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }

    fn profile(&mut self) -> LinuxSeccomp {
        let values = [
            0,
            1,
            2,
            8,
            0xffff_ffff,
            0x1_0000_0000,
            0x1_0000_0001,
            u64::MAX,
        ];
        // Few names in some profiles, so that rules meet.
        let names = match self.below(3) {
            0 => &SYSCALLS[340..360],
            _ => SYSCALLS,
        };
        let mut entries = Vec::new();
        for _ in 0..self.below(40) {
            let mut args = Vec::new();
            for _ in 0..self.below(8).saturating_sub(4) {
                let value = values[self.below(8) as usize];
                let two = values[self.below(8) as usize];
                let op = self.pick(OPERATORS);
                args.push(
                    json!({"index": self.below(6), "value": value, "valueTwo": two, "op": op}),
                );
            }
            let count = 1 + self.below(if args.is_empty() { 60 } else { 3 });
            let from = self.below(names.len() as u64) as usize;
            let mut list: Vec<_> = names[from..].iter().map(|s| s.name).collect();
            list.truncate(count as usize);
            let action = self.pick(ACTIONS);
            list.retain(|&name| !(name == "write" && action == "SCMP_ACT_NOTIFY"));
            entries.push(
                json!({"names": list, "action": action, "errnoRet": self.below(3), "args": args}),
            );
        }
        let mut default = self.pick(ACTIONS);
        if default == "SCMP_ACT_NOTIFY" {
            default = "SCMP_ACT_ERRNO";
        }
        let arches: Vec<_> = [
            "SCMP_ARCH_X86_64",
            "SCMP_ARCH_X86",
            "SCMP_ARCH_X32",
            "SCMP_ARCH_ARM",
        ]
        .into_iter()
        .filter(|_| self.below(2) == 0)
        .collect();
        profile(
            json!({"defaultAction": default, "architectures": arches, "listenerPath": "/agent",
            "syscalls": entries}),
        )
    }
}

#[test]
fn random_profiles() {
    let mut random = Random(0x7275_6e7a);
    for _ in 0..25 {
        let profile = random.profile();
        checked(&profile);
    }
}
