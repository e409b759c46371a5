//! What a profile means, call by call, without any compiling: the yardstick for
//! the tests and the fuzz target. Slow, and written from the profile's side,
//! while `rules.rs` is written from the numbers' side.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op,
};

use super::interpreter::Call;
use super::syscall::{Abi, find};

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;
const KILL: u32 = 0;
const ENOSYS: u32 = 0x0005_0000 | 38;

/// The rules of a profile for one architecture and number.
pub struct Meaning<'a> {
    /// The verdict, if it depends on nothing else.
    settled: Option<u32>,
    default: u32,
    wide: bool,
    rules: Vec<Entry<'a>>,
}

/// A rule: an entry of the profile, as seen by one of its system calls.
struct Entry<'a> {
    action: u32,
    args: &'a [LinuxSeccompArg],
    /// What the first argument must be, where i386 multiplexes the call.
    selector: Option<u64>,
}

fn number(action: Action, errno: Option<u32>) -> u32 {
    match action {
        Action::ScmpActErrno => 0x0005_0000 | errno.unwrap_or(1),
        Action::ScmpActTrace => 0x7ff0_0000 | errno.unwrap_or(1),
        other => other.into(),
    }
}

fn lists(profile: &LinuxSeccomp, arch: Arch) -> bool {
    profile
        .architectures()
        .as_ref()
        .is_some_and(|list| list.contains(&arch))
}

impl<'a> Meaning<'a> {
    /// Of calls number `nr` (with x32's bit) on `arch`.
    pub fn new(profile: &'a LinuxSeccomp, arch: u32, nr: u32) -> Self {
        let default = number(profile.default_action(), profile.default_errno_ret());
        let x32 = lists(profile, Arch::ScmpArchX32);
        let abi = match arch {
            X86_64 if nr & X32_BIT == 0 => Some(Abi::X86_64),
            X86_64 if x32 => Some(Abi::X32),
            I386 if lists(profile, Arch::ScmpArchX86) => Some(Abi::I386),
            _ => None,
        };
        let offset = if abi == Some(Abi::X32) { X32_BIT } else { 0 };
        let mut meaning = Meaning {
            settled: None,
            default,
            wide: abi == Some(Abi::X86_64),
            rules: Vec::new(),
        };

        let mut newest = 0;
        for entry in profile.syscalls().iter().flatten() {
            for name in entry.names() {
                let (Some(call), Some(abi)) = (find(name), abi) else {
                    continue;
                };
                let direct = call.number(abi).map(|n| u32::from(n) + offset);
                let mux = call.multiplexed().filter(|_| abi == Abi::I386);
                if mux.is_none() {
                    newest = newest.max(direct.unwrap_or(0));
                }
                let selector = mux.filter(|m| u32::from(m.0) == nr).map(|m| m.1);
                let action = number(entry.action(), entry.errno_ret());
                if action != default && (direct == Some(nr) || selector.is_some()) {
                    meaning.rules.push(Entry {
                        action,
                        args: entry.args().as_deref().unwrap_or_default(),
                        selector,
                    });
                }
            }
        }

        let permissive = [
            Action::ScmpActAllow,
            Action::ScmpActLog,
            Action::ScmpActTrace,
        ];
        let enosys = !permissive.contains(&profile.default_action());
        if enosys && newest > 0 && nr > newest && meaning.rules.is_empty() {
            meaning.settled = Some(ENOSYS);
        } else if ![X86_64, I386].contains(&arch)
            || (arch == I386 && abi.is_none())
            || (arch == X86_64 && !x32 && (X32_BIT..u32::MAX).contains(&nr))
        {
            meaning.settled = Some(KILL);
        }
        meaning
    }

    /// Whether `seen` is right for `call`. Where several rules with arguments
    /// apply, any of them will do: their order has its own tests.
    pub fn allows(&self, call: &Call, seen: u32) -> bool {
        if let Some(settled) = self.settled {
            return seen == settled;
        }
        if let Some(first) = self.rules.iter().find(|rule| self.unconditional(rule)) {
            return seen == first.action;
        }
        let mut applicable = self
            .rules
            .iter()
            .filter(|rule| self.applies(rule, call))
            .peekable();
        match applicable.peek() {
            None => seen == self.default,
            Some(_) => applicable.any(|rule| rule.action == seen),
        }
    }

    fn vacuous(&self, arg: &LinuxSeccompArg) -> bool {
        let mask = if self.wide {
            arg.value()
        } else {
            arg.value() & 0xffff_ffff
        };
        arg.op() == Op::ScmpCmpMaskedEq && mask == 0
    }

    fn alternative(&self, rule: &Entry<'_>) -> bool {
        let args = rule.args;
        (0..args.len()).any(|i| args[..i].iter().any(|a| a.index() == args[i].index()))
    }

    fn unconditional(&self, rule: &Entry<'_>) -> bool {
        rule.selector.is_none()
            && match self.alternative(rule) {
                true => rule.args.iter().any(|arg| self.vacuous(arg)),
                false => rule.args.iter().all(|arg| self.vacuous(arg)),
            }
    }

    fn applies(&self, rule: &Entry<'_>, call: &Call) -> bool {
        if rule
            .selector
            .is_some_and(|s| s != call.args[0] & 0xffff_ffff)
        {
            return false;
        }
        let mut holds = rule.args.iter().map(|arg| {
            if rule.selector.is_some() && arg.index() == 0 {
                return true;
            }
            let bits = if self.wide { u64::MAX } else { 0xffff_ffff };
            let (is, value) = (call.args[arg.index()] & bits, arg.value() & bits);
            match arg.op() {
                Op::ScmpCmpNe => is != value,
                Op::ScmpCmpLt => is < value,
                Op::ScmpCmpLe => is <= value,
                Op::ScmpCmpEq => is == value,
                Op::ScmpCmpGe => is >= value,
                Op::ScmpCmpGt => is > value,
                Op::ScmpCmpMaskedEq => is & value == arg.value_two().unwrap_or(0) & value,
            }
        });
        match self.alternative(rule) {
            true => holds.any(|h| h),
            false => holds.all(|h| h),
        }
    }
}

/// Numbers of every kind: all that exist, their surroundings, and extremes.
pub fn numbers() -> impl Iterator<Item = u32> {
    let bases = [0, X32_BIT, 0x8000_0000, 0xc000_0000];
    let near = |base: u32| (0..600).map(move |n| base + n);
    let far = [
        0x3fff_ffff,
        0x7fff_ffff,
        0xbfff_ffff,
        0xffff_fffe,
        0xffff_ffff,
    ];
    bases.into_iter().flat_map(near).chain(far)
}

/// Arguments on both sides of every border that `profile` draws.
pub fn arguments(profile: &LinuxSeccomp) -> Vec<[u64; 6]> {
    let mut all = vec![[0; 6], [u64::MAX; 6], [1, 2, 3, 4, 5, 6]];
    let entries = profile.syscalls().iter().flatten();
    for arg in entries.flat_map(|e| e.args().iter().flatten()) {
        for value in [arg.value(), arg.value_two().unwrap_or(0)] {
            for near in [
                value.wrapping_sub(1),
                value,
                value.wrapping_add(1),
                value ^ 1 << 32,
                !value,
            ] {
                let mut args = all[all.len() - 1];
                if let Some(a) = args.get_mut(arg.index()) {
                    *a = near;
                }
                if !all.contains(&args) {
                    all.push(args);
                }
            }
        }
        if all.len() > 200 {
            break;
        }
    }
    // Selectors of socketcall(2) and ipc(2).
    for call in 1..25 {
        let mut args = all[all.len() / 2];
        args[0] = call;
        all.push(args);
    }
    all
}

/// The first call for which `filter` is not what `profile` means.
pub fn disagreement(profile: &LinuxSeccomp, filter: &[libc::sock_filter]) -> Option<(Call, u32)> {
    let arguments = arguments(profile);
    for arch in [X86_64, I386, 0xc000_00b7] {
        for nr in numbers() {
            let meaning = Meaning::new(profile, arch, nr);
            let differs = meaning.settled.is_none()
                && meaning.rules.iter().any(|r| !meaning.unconditional(r));
            let tried = if differs { arguments.len() } else { 2 };
            for &args in &arguments[..tried] {
                let call = Call { arch, nr, args };
                let (seen, _) = super::interpreter::run(filter, &call);
                if !meaning.allows(&call, seen) {
                    return Some((call, seen));
                }
            }
        }
    }
    None
}
