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
}

/// What every container may do, whatever its rules say (runc, specconv's AllowedDevices):
/// path, type, major, minor, access. The path is the device that a container always has.
const BUILT_IN: [(&str, Kind, Option<u32>, Option<u32>, u32); 11] = [
    ("", Kind::Char, None, None, MKNOD),
    ("", Kind::Block, None, None, MKNOD),
    ("/dev/null", Kind::Char, Some(1), Some(3), RWM),
    ("/dev/random", Kind::Char, Some(1), Some(8), RWM),
    ("/dev/full", Kind::Char, Some(1), Some(7), RWM),
    ("/dev/tty", Kind::Char, Some(5), Some(0), RWM),
    ("/dev/zero", Kind::Char, Some(1), Some(5), RWM),
    ("/dev/urandom", Kind::Char, Some(1), Some(9), RWM),
    ("", Kind::Char, Some(136), None, RWM),     // /dev/pts/*
    ("", Kind::Char, Some(5), Some(2), RWM),    // /dev/ptmx
    ("", Kind::Char, Some(10), Some(200), RWM), // /dev/net/tun
];

/// The rules in force: those of `linux.resources.devices`, then the built-in ones, less those for
/// a path that `linux.devices` defines anew (`paths`). Rules without effect are left out.
pub fn rules(config: &[LinuxDeviceCgroup], paths: &[&str]) -> Result<Vec<Rule>> {
    let mut rules = Vec::with_capacity(config.len() + BUILT_IN.len());
    for (index, rule) in config.iter().enumerate() {
        rules.push(read(rule, index)?);
    }
    for (path, kind, major, minor, access) in BUILT_IN {
        if path.is_empty() || !paths.contains(&path) {
            rules.push(Rule {
                allow: true,
                kind: Some(kind),
                major,
                minor,
                access,
            });
        }
    }
    Ok(without_effectless(&rules))
}

/// Whether the rules allow everything, so that no filter is needed.
pub fn allow_all(rules: &[Rule]) -> bool {
    let everything = Rule {
        allow: true,
        kind: None,
        major: None,
        minor: None,
        access: RWM,
    };
    rules.contains(&everything) && rules.iter().all(|rule| rule.allow)
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

/// Leaves out what a later rule overrides, and denials of what nothing has granted. Engines send
/// the built-in rules themselves, so this is often half of them.
fn without_effectless(rules: &[Rule]) -> Vec<Rule> {
    let overridden =
        |(index, rule): (usize, &Rule)| rules[index + 1..].iter().any(|later| later.covers(rule));
    rules
        .iter()
        .enumerate()
        .filter(|rule| !overridden(*rule))
        .map(|(_, rule)| *rule)
        .skip_while(|rule| !rule.allow)
        .collect()
}

/// The program for these rules; each item is one `struct bpf_insn`.
///
/// `r2` is the type, `r3` the access that is still to be granted, `r4` and `r5` the numbers.
/// Rules are tried from the last to the first.
pub fn program(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        load(3, 0), // struct bpf_cgroup_dev_ctx: access_type, major, minor
        move_register(2, 3),
        and(2, 0xffff),
        shift_right(3, 16),
        load(4, 4),
        load(5, 8),
    ];
    let mut open_end = true;
    for rule in rules.iter().rev() {
        let block = block(rule);
        // A rule for everything ends the program: the verifier refuses what cannot be reached.
        open_end = block.len() > RETURN_LENGTH;
        program.extend(block);
        if !open_end {
            break;
        }
    }
    if open_end {
        program.extend(return_value(false));
    }
    program.into_iter().map(Instruction::encode).collect()
}

/// The code of one rule: falls through to the next rule if it does not decide.
fn block(rule: &Rule) -> Vec<Instruction> {
    let mut block = Vec::with_capacity(8);
    if let Some(kind) = rule.kind {
        block.push(unless_equal(2, kind as u32));
    }
    if let Some(major) = rule.major {
        block.push(unless_equal(4, major));
    }
    if let Some(minor) = rule.minor {
        block.push(unless_equal(5, minor));
    }
    if rule.access != RWM {
        if rule.allow {
            block.push(and(3, !rule.access));
            block.push(unless_equal(3, 0));
        } else {
            block.push(if_any_bit(3, rule.access));
            block.push(jump());
        }
    }
    block.extend(return_value(rule.allow));
    let length = block.len();
    for (index, instruction) in block.iter_mut().enumerate() {
        if instruction.offset == TO_NEXT_RULE {
            instruction.offset = (length - index - 1) as i16;
        }
    }
    block
}

/// One `struct bpf_insn` (linux/bpf.h; the codes are in Documentation/bpf/standardization).
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: u32,
}

/// Stands for the offset to the end of the block until its length is known.
const TO_NEXT_RULE: i16 = i16::MAX;

/// How many instructions [`return_value`] takes.
const RETURN_LENGTH: usize = 2;

impl Instruction {
    fn encode(self) -> u64 {
        u64::from(self.code)
            | u64::from(self.destination) << 8
            | u64::from(self.source) << 12
            | u64::from(self.offset as u16) << 16
            | u64::from(self.immediate) << 32
    }
}

fn instruction(code: u8, destination: u8, offset: i16, immediate: u32) -> Instruction {
    Instruction {
        code,
        destination,
        source: 0,
        offset,
        immediate,
    }
}

/// `destination = *(u32 *)(r1 + offset)`: LDX, MEM, W; r1 is the context.
fn load(destination: u8, offset: i16) -> Instruction {
    Instruction {
        source: 1,
        ..instruction(0x61, destination, offset, 0)
    }
}

/// ALU, MOV, X.
fn move_register(destination: u8, source: u8) -> Instruction {
    Instruction {
        source,
        ..instruction(0xbc, destination, 0, 0)
    }
}

/// ALU, AND, K.
fn and(register: u8, mask: u32) -> Instruction {
    instruction(0x54, register, 0, mask)
}

/// ALU, RSH, K.
fn shift_right(register: u8, bits: u32) -> Instruction {
    instruction(0x74, register, 0, bits)
}

/// To the next rule unless the register has this value: JMP32, JNE, K.
fn unless_equal(register: u8, value: u32) -> Instruction {
    instruction(0x56, register, TO_NEXT_RULE, value)
}

/// Skips one instruction if the register has one of these bits: JMP32, JSET, K.
fn if_any_bit(register: u8, bits: u32) -> Instruction {
    instruction(0x46, register, 1, bits)
}

/// To the next rule: JMP, JA.
fn jump() -> Instruction {
    instruction(0x05, 0, TO_NEXT_RULE, 0)
}

/// `return allow`: ALU, MOV, K; JMP, EXIT.
fn return_value(allow: bool) -> [Instruction; RETURN_LENGTH] {
    [
        instruction(0xb4, 0, 0, u32::from(allow)),
        instruction(0x95, 0, 0, 0),
    ]
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
