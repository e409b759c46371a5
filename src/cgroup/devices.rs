//! The device rules of a container, as an eBPF program. Pure.
//!
//! cgroup v2 has no devices controller: a program of type `BPF_PROG_TYPE_CGROUP_DEVICE` is asked
//! at every open and mknod of a device node, with the type, the numbers and the wanted access.
//!
//! For each of `r`, `w` and `m` the last rule that speaks of it decides, and what no rule speaks
//! of is denied; access is granted if everything that is asked for is. So a `deny w` holds against
//! an open for reading and writing too. Where runc accepts a rule set, this is what it does, but
//! for one case: `r` granted by one pattern and `w` by another add up.

use anyhow::{Result, bail};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// Bits of the wanted access (linux/bpf.h, BPF_DEVCG_ACC_*).
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const RWM: u32 = READ | WRITE | MKNOD;

/// What kind of device node (linux/bpf.h, BPF_DEVCG_DEV_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A block device.
    Block = 1,
    /// A character device.
    Char = 2,
}

/// How many bits of a device number are the minor number (linux/kdev_t.h).
const MINOR_BITS: u32 = 20;

/// One rule; `None` matches everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether access is granted or refused.
    pub allow: bool,
    /// The type of device node.
    pub kind: Option<Kind>,
    /// The major number.
    pub major: Option<u32>,
    /// The minor number.
    pub minor: Option<u32>,
    /// Bits of access: 1 mknod, 2 read, 4 write.
    pub access: u32,
}

impl Rule {
    /// Whether `self` speaks of everything that `other` speaks of.
    fn covers(&self, other: &Rule) -> bool {
        fn wider<T: PartialEq>(this: Option<T>, that: Option<T>) -> bool {
            this.is_none() || this == that
        }
        wider(self.kind, other.kind)
            && wider(self.major, other.major)
            && wider(self.minor, other.minor)
            && self.access & other.access == other.access
    }

    fn is_everything(&self) -> bool {
        self.covers(&EVERYTHING)
    }

    /// Whether there can be such a device: the kernel's numbers have 12 and 20 bits
    /// (linux/kdev_t.h).
    fn is_possible(&self) -> bool {
        self.major.is_none_or(|major| major >> 12 == 0)
            && self.minor.is_none_or(|minor| minor >> MINOR_BITS == 0)
    }
}

/// What every container may do, whatever its rules say (runc, specconv's AllowedDevices). The path
/// is that of a device that a container always has.
const BUILT_IN: [(&str, Rule); 10] = [
    (
        "",
        Rule {
            access: MKNOD,
            ..EVERYTHING
        },
    ),
    ("/dev/null", char_device(1, Some(3))),
    ("/dev/random", char_device(1, Some(8))),
    ("/dev/full", char_device(1, Some(7))),
    ("/dev/tty", char_device(5, Some(0))),
    ("/dev/zero", char_device(1, Some(5))),
    ("/dev/urandom", char_device(1, Some(9))),
    ("", char_device(136, None)),     // /dev/pts/*
    ("", char_device(5, Some(2))),    // /dev/ptmx
    ("", char_device(10, Some(200))), // /dev/net/tun
];

/// Allows everything.
const EVERYTHING: Rule = Rule {
    allow: true,
    kind: None,
    major: None,
    minor: None,
    access: RWM,
};

const fn char_device(major: u32, minor: Option<u32>) -> Rule {
    Rule {
        kind: Some(Kind::Char),
        major: Some(major),
        minor,
        ..EVERYTHING
    }
}

/// A jump in a program is at most so far (`off` of `struct bpf_insn`); a rule has at most five
/// instructions.
const MAX_RULES: usize = i16::MAX as usize / 5 - 10;

/// The rules in force: those of `linux.resources.devices`, then the built-in ones, less those for
/// a path that `linux.devices` defines anew (`paths`). Rules without effect are left out.
pub fn rules(config: &[LinuxDeviceCgroup], paths: &[&str]) -> Result<Vec<Rule>> {
    if config.len() > MAX_RULES {
        bail!(
            "linux.resources.devices: {} are more than {MAX_RULES} rules",
            config.len()
        );
    }
    let mut rules = Vec::with_capacity(config.len() + BUILT_IN.len());
    for (index, rule) in config.iter().enumerate() {
        rules.push(read(rule, index)?);
    }
    for (path, rule) in BUILT_IN {
        if path.is_empty() || !paths.contains(&path) {
            rules.push(rule);
        }
    }
    Ok(without_effectless(&rules))
}

/// Whether the rules allow everything, so that no filter is needed.
pub fn allow_all(rules: &[Rule]) -> bool {
    rules == [EVERYTHING]
}

/// Whether the null device may be opened for reading and writing.
pub fn allow_null(rules: &[Rule]) -> bool {
    let allowed = |access: u32| {
        let null = Rule {
            access,
            ..char_device(1, Some(3))
        };
        let last = rules.iter().rev().find(|rule| rule.covers(&null));
        last.is_some_and(|rule| rule.allow)
    };
    allowed(READ) && allowed(WRITE)
}

fn read(rule: &LinuxDeviceCgroup, index: usize) -> Result<Rule> {
    let json = format!("linux.resources.devices[{index}]");
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(Kind::Block),
        Some(LinuxDeviceType::C) => Some(Kind::Char),
        Some(other) => bail!("{json}.type: {:?} is not one of a, b, c", other.as_str()),
    };
    let number = |name: &str, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => match u32::try_from(value) {
            Ok(value) => Ok(Some(value)),
            Err(_) => bail!("{json}.{name}: {value} is neither a device number nor -1 (any)"),
        },
    };
    let text = rule.access().as_deref().unwrap_or_default();
    let mut access = 0;
    for letter in text.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            // runc drops letters that it does not know, and its own tests have an "a" in a rule
            // that denies. There it is safe to take it for what it stands for elsewhere: all.
            'a' if !rule.allow() => RWM,
            _ => bail!("{json}.access: {text:?} has other letters than r, w, m"),
        };
    }
    if access == 0 {
        bail!("{json}.access: cannot be empty");
    }
    Ok(Rule {
        allow: rule.allow(),
        kind,
        major: number("major", rule.major())?,
        minor: number("minor", rule.minor())?,
        access,
    })
}

/// Leaves out what a later rule overrides, what is so anyway, and what cannot be. Engines send the
/// built-in rules themselves, so this is often half of them.
fn without_effectless(rules: &[Rule]) -> Vec<Rule> {
    let overridden = |index: usize| rules[index + 1..].iter().any(|it| it.covers(&rules[index]));
    let mut kept: Vec<Rule> = Vec::with_capacity(rules.len());
    for (index, rule) in rules.iter().enumerate() {
        // Before the first rule that differs from it, all is as the default has it: denied, or
        // what a rule for everything says, which can only come first now.
        let as_before = match kept.as_slice() {
            [] => !rule.allow,
            [first] => first.is_everything() && first.allow == rule.allow,
            _ => false,
        };
        if !as_before && rule.is_possible() && !overridden(index) {
            kept.push(*rule);
        }
    }
    kept
}

/// The program for these rules, as [`rules`] gives them; each item is one `struct bpf_insn`.
///
/// `r2` is the type, `r3` the access that is still to be granted, `r4` and `r5` the numbers, `r6`
/// both in one. Rules are tried from the last to the first. A branch costs the verifier three
/// microseconds, and it sees the program at every create: so there are as few as can be. Rules
/// that are next to each other and agree are in any order, hence tried together, by type.
pub fn program(rules: &[Rule]) -> Vec<u64> {
    let (default, rules) = match rules {
        [first, rest @ ..] if first.is_everything() => (first.allow, rest),
        rules => (false, rules),
    };
    let mut code = vec![
        load(3, 0), // struct bpf_cgroup_dev_ctx: access_type, major, minor
        move_register(2, 3),
        and(2, 0xffff),
        shift_right(3, 16),
        load(4, 4),
        load(5, 8),
        move_register(6, 4),
        shift_left(6, MINOR_BITS),
        or_register(6, 5),
    ];
    for agreeing in rules.chunk_by(|one, next| one.allow == next.allow).rev() {
        for kind in [None, Some(Kind::Block), Some(Kind::Char)] {
            let of_kind: Vec<&Rule> = agreeing.iter().filter(|rule| rule.kind == kind).collect();
            if let (Some(kind), false) = (kind, of_kind.is_empty()) {
                let body: Vec<Instruction> =
                    of_kind.iter().flat_map(|rule| code_of(rule)).collect();
                code.push(unless_equal(2, kind as u32, Target::Skip(body.len())));
                code.extend(body);
            } else {
                code.extend(of_kind.iter().flat_map(|rule| code_of(rule)));
            }
        }
    }
    finish(code, default)
}

/// Jumps to the verdict of the rule if its numbers and access decide; falls through otherwise.
fn code_of(rule: &Rule) -> Vec<Instruction> {
    let verdict = Target::Verdict(rule.allow);
    let number = match (rule.major, rule.minor) {
        (None, None) => None,
        (Some(major), None) => Some((4, major)),
        (None, Some(minor)) => Some((5, minor)),
        (Some(major), Some(minor)) => Some((6, major << MINOR_BITS | minor)),
    };
    if rule.access == RWM {
        return vec![match number {
            Some((register, number)) => if_equal(register, number, verdict),
            None => jump(verdict),
        }];
    }
    let decide = if rule.allow {
        vec![and(3, !rule.access), if_equal(3, 0, verdict)]
    } else {
        vec![if_any_bit(3, rule.access, verdict)]
    };
    let skip = Target::Skip(decide.len());
    number
        .map(|(register, number)| unless_equal(register, number, skip))
        .into_iter()
        .chain(decide)
        .collect()
}

/// Appends the verdicts, the default one first, and settles where the jumps go.
fn finish(mut code: Vec<Instruction>, default: bool) -> Vec<u64> {
    let end = code.len();
    // Only if it is used: the verifier refuses what cannot be reached.
    let other = code
        .iter()
        .any(|it| matches!(it.to, Some(Target::Verdict(to)) if to != default));
    code.extend(return_value(default));
    if other {
        code.extend(return_value(!default));
    }
    let offset = |at: usize, instruction: &Instruction| match instruction.to {
        None => instruction.offset,
        Some(Target::Skip(count)) => count as i16,
        Some(Target::Verdict(to)) if to == default => (end - at - 1) as i16,
        Some(Target::Verdict(_)) => (end + RETURN_LENGTH - at - 1) as i16,
    };
    code.iter()
        .enumerate()
        .map(|(at, it)| it.encode(offset(at, it)))
        .collect()
}

/// One `struct bpf_insn` (linux/bpf.h; the codes are in Documentation/bpf/standardization), with
/// the jump not yet settled.
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: u32,
    to: Option<Target>,
}

/// Where a jump goes.
#[derive(Clone, Copy)]
enum Target {
    /// Over so many instructions.
    Skip(usize),
    /// To the end, which allows or denies.
    Verdict(bool),
}

/// How many instructions [`return_value`] takes.
const RETURN_LENGTH: usize = 2;

impl Instruction {
    fn encode(&self, offset: i16) -> u64 {
        u64::from(self.code)
            | u64::from(self.destination) << 8
            | u64::from(self.source) << 12
            | u64::from(offset as u16) << 16
            | u64::from(self.immediate) << 32
    }
}

fn instruction(code: u8, destination: u8, immediate: u32) -> Instruction {
    Instruction {
        code,
        destination,
        source: 0,
        offset: 0,
        immediate,
        to: None,
    }
}

/// `destination = *(u32 *)(r1 + offset)`: LDX, MEM, W; r1 is the context.
fn load(destination: u8, offset: i16) -> Instruction {
    Instruction {
        source: 1,
        offset,
        ..instruction(0x61, destination, 0)
    }
}

/// ALU, MOV, X.
fn move_register(destination: u8, source: u8) -> Instruction {
    Instruction {
        source,
        ..instruction(0xbc, destination, 0)
    }
}

/// ALU, OR, X.
fn or_register(destination: u8, source: u8) -> Instruction {
    Instruction {
        source,
        ..instruction(0x4c, destination, 0)
    }
}

/// ALU, AND, K.
fn and(register: u8, mask: u32) -> Instruction {
    instruction(0x54, register, mask)
}

/// ALU, RSH, K.
fn shift_right(register: u8, bits: u32) -> Instruction {
    instruction(0x74, register, bits)
}

/// ALU, LSH, K.
fn shift_left(register: u8, bits: u32) -> Instruction {
    instruction(0x64, register, bits)
}

/// JMP32, JEQ, K.
fn if_equal(register: u8, value: u32, to: Target) -> Instruction {
    Instruction {
        to: Some(to),
        ..instruction(0x16, register, value)
    }
}

/// JMP32, JNE, K.
fn unless_equal(register: u8, value: u32, to: Target) -> Instruction {
    Instruction {
        to: Some(to),
        ..instruction(0x56, register, value)
    }
}

/// JMP32, JSET, K.
fn if_any_bit(register: u8, bits: u32, to: Target) -> Instruction {
    Instruction {
        to: Some(to),
        ..instruction(0x46, register, bits)
    }
}

/// JMP, JA.
fn jump(to: Target) -> Instruction {
    Instruction {
        to: Some(to),
        ..instruction(0x05, 0, 0)
    }
}

/// `return allow`: ALU, MOV, K; JMP, EXIT.
fn return_value(allow: bool) -> [Instruction; RETURN_LENGTH] {
    [
        instruction(0xb4, 0, u32::from(allow)),
        instruction(0x95, 0, 0),
    ]
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
