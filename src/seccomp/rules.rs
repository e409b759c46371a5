//! Reads a profile into rules by ABI and number.
//!
//! Everything libseccomp and runc decide before there is any BPF is decided
//! here, their way: which rule wins, what is skipped, which numbers are too new
//! to be known to the profile. `emit.rs` only writes it down.

use anyhow::{Result, bail};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op,
};

use super::syscall::{self, Abi, LIMIT, Syscall};

/// A profile, read.
pub struct Rules {
    /// What seccomp(2) is to return for a call without a rule.
    pub default: u32,
    /// Whether a number beyond the newest one the profile names gets ENOSYS,
    /// see [`Verdicts::newest`]. As in runc (libcontainer/seccomp/patchbpf):
    /// unless the default action lets calls through.
    pub enosys: bool,
    /// The native ABI, which is always filtered.
    pub x86_64: Verdicts,
    /// Where the profile lists it.
    pub x32: Option<Verdicts>,
    /// Where the profile lists it.
    pub i386: Option<Verdicts>,
    /// Whether a rule hands calls to a listener.
    pub notify: bool,
    /// What was skipped.
    pub warnings: Vec<String>,
}

/// What becomes of an ABI's calls.
pub struct Verdicts {
    abi: Abi,
    /// See [`Rule::wide`]: libseccomp takes x32 for a 32-bit ABI as well.
    wide: bool,
    /// By number: the action, whatever the arguments.
    pub always: Vec<Option<u32>>,
    /// Rules that look at arguments, by number and then in the order in which
    /// they are tried. None is for a number in `always`.
    pub sometimes: Vec<Rule>,
    /// The highest number that the profile names, whatever the action: None
    /// when it names none, or only 0, as runc has it. Calls that i386
    /// multiplexes do not count, as libseccomp resolves them to no number.
    pub newest: Option<u16>,
}

/// An action for calls whose arguments fulfil all conditions.
pub struct Rule {
    /// The system call, x32 without its bit 30.
    pub number: u16,
    /// Whether arguments are compared in full, or by their lower halves only.
    pub wide: bool,
    /// At least one, in ascending order of their index.
    pub conditions: Vec<Condition>,
    /// What seccomp(2) is to return.
    pub action: u32,
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Of the argument, 0 to 5.
    pub index: u8,
    /// How to compare.
    pub op: Op,
    /// With what.
    pub value: u64,
    /// What to look at, where `op` is `SCMP_CMP_MASKED_EQ`; otherwise all.
    pub mask: u64,
}

/// Reads `profile`. Errors name the JSON path.
pub fn read(profile: &LinuxSeccomp) -> Result<Rules> {
    let default = action(
        profile.default_action(),
        profile.default_errno_ret(),
        || "linux.seccomp.defaultErrnoRet".to_owned(),
    )?;
    if profile.default_action() == Action::ScmpActNotify {
        bail!("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action");
    }

    // The architectures of other machines are legal, and have no effect here.
    let listed = |arch| (profile.architectures().iter().flatten()).any(|&listed| listed == arch);
    let mut rules = Rules {
        default,
        enosys: !matches!(
            profile.default_action(),
            Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace
        ),
        x86_64: Verdicts::new(Abi::X86_64),
        x32: listed(Arch::ScmpArchX32).then(|| Verdicts::new(Abi::X32)),
        i386: listed(Arch::ScmpArchX86).then(|| Verdicts::new(Abi::I386)),
        notify: false,
        warnings: Vec::new(),
    };

    for (i, entry) in profile.syscalls().iter().flatten().enumerate() {
        let action = action(entry.action(), entry.errno_ret(), || {
            format!("linux.seccomp.syscalls[{i}].errnoRet")
        })?;
        let alternatives = alternatives(entry.args().as_deref().unwrap_or_default(), i)?;
        let notify = entry.action() == Action::ScmpActNotify;
        for (j, name) in entry.names().iter().enumerate() {
            match name.as_str() {
                "" => bail!("linux.seccomp.syscalls[{i}].names[{j}]: empty system call name"),
                // Whoever passes the listener on must be able to write, and may
                // be subject to the filter by then.
                "write" if notify => bail!(
                    "linux.seccomp.syscalls[{i}].names[{j}]: SCMP_ACT_NOTIFY cannot be used for the write syscall"
                ),
                _ => rules.notify |= notify,
            }
            match syscall::find(name) {
                Some(syscall) => {
                    let abis = [
                        Some(&mut rules.x86_64),
                        rules.x32.as_mut(),
                        rules.i386.as_mut(),
                    ];
                    for abi in abis.into_iter().flatten() {
                        // A rule that repeats the default is no rule: libseccomp
                        // refuses it, runc leaves it out. It has been named, though.
                        abi.name(syscall);
                        if action != default {
                            abi.add(syscall, &alternatives, action);
                        }
                    }
                }
                None => rules.warnings.push(format!(
                    "linux.seccomp.syscalls[{i}].names[{j}]: unknown system call \"{name}\" ignored"
                )),
            }
        }
    }

    let abis = [
        Some(&mut rules.x86_64),
        rules.x32.as_mut(),
        rules.i386.as_mut(),
    ];
    for abi in abis.into_iter().flatten() {
        abi.settle();
    }
    Ok(rules)
}

/// The return value for seccomp(2). `errno` is EPERM by default, and means
/// nothing but to ERRNO and TRACE: runc ignores it elsewhere, so do we.
fn action(action: Action, errno: Option<u32>, path: impl Fn() -> String) -> Result<u32> {
    let errno = errno.unwrap_or(libc::EPERM.unsigned_abs());
    let with = |ret: u32| match errno {
        0..=libc::SECCOMP_RET_DATA => Ok(ret | errno),
        _ => bail!("{}: {errno} is above {}", path(), libc::SECCOMP_RET_DATA),
    };
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => Ok(libc::SECCOMP_RET_KILL_THREAD),
        Action::ScmpActKillProcess => Ok(libc::SECCOMP_RET_KILL_PROCESS),
        Action::ScmpActTrap => Ok(libc::SECCOMP_RET_TRAP),
        Action::ScmpActErrno => with(libc::SECCOMP_RET_ERRNO),
        Action::ScmpActNotify => Ok(libc::SECCOMP_RET_USER_NOTIF),
        Action::ScmpActTrace => with(libc::SECCOMP_RET_TRACE),
        Action::ScmpActLog => Ok(libc::SECCOMP_RET_LOG),
        Action::ScmpActAllow => Ok(libc::SECCOMP_RET_ALLOW),
    }
}

/// The conditions under which entry `i` of the profile applies: one list, of
/// which all must hold, or, when two look at the same argument, as many lists
/// as conditions. libseccomp can have but one condition on an argument; runc
/// splits such entries, which makes them alternatives.
fn alternatives(args: &[LinuxSeccompArg], i: usize) -> Result<Vec<Vec<Condition>>> {
    let mut conditions = Vec::with_capacity(args.len());
    let mut used = [false; 6];
    let mut split = false;
    for (j, arg) in args.iter().enumerate() {
        let Some(used) = used.get_mut(arg.index()) else {
            bail!(
                "linux.seccomp.syscalls[{i}].args[{j}].index: {} is above 5",
                arg.index()
            );
        };
        split |= std::mem::replace(used, true);
        let (value, mask) = match arg.op() {
            Op::ScmpCmpMaskedEq => (arg.value_two().unwrap_or(0), arg.value()),
            _ => (arg.value(), u64::MAX),
        };
        conditions.push(Condition {
            index: arg.index() as u8,
            op: arg.op(),
            value,
            mask,
        });
    }
    if split {
        return Ok(conditions.into_iter().map(|one| vec![one]).collect());
    }
    conditions.sort_unstable_by_key(|c| c.index);
    Ok(if args.is_empty() {
        vec![]
    } else {
        vec![conditions]
    })
}

impl Verdicts {
    fn new(abi: Abi) -> Self {
        Verdicts {
            abi,
            wide: abi == Abi::X86_64,
            always: vec![None; LIMIT],
            sometimes: Vec::new(),
            newest: None,
        }
    }

    /// Takes note that the profile names `syscall`.
    fn name(&mut self, syscall: &Syscall) {
        match syscall.number(self.abi) {
            None => (),
            // x32's read is 0x40000000 to runc, everyone else's 0 is "none".
            Some(0) if self.abi != Abi::X32 => (),
            Some(_) if self.abi == Abi::I386 && syscall.multiplexed().is_some() => (),
            number => self.newest = self.newest.max(number),
        }
    }

    /// Adds a rule for `syscall` under each of `alternatives`, or an
    /// unconditional one if there are none.
    fn add(&mut self, syscall: &Syscall, alternatives: &[Vec<Condition>], action: u32) {
        if let Some(number) = syscall.number(self.abi) {
            match alternatives {
                [] => self.insert(number, Vec::new(), action),
                _ => (alternatives.iter()).for_each(|a| self.insert(number, a.clone(), action)),
            }
        }
        let (Abi::I386, Some((number, call))) = (self.abi, syscall.multiplexed()) else {
            return;
        };
        // The arguments of a multiplexed call are in memory, out of reach. As in
        // libseccomp, a condition on the first is dropped in favour of the
        // selector, and the others are kept, though they see other things.
        let selector = Condition {
            index: 0,
            op: Op::ScmpCmpEq,
            value: call,
            mask: u64::MAX,
        };
        match alternatives {
            [] => self.insert(number, vec![selector], action),
            _ => alternatives.iter().for_each(|alternative| {
                let others = alternative.iter().filter(|c| c.index != 0);
                let conditions = [&selector].into_iter().chain(others).copied().collect();
                self.insert(number, conditions, action);
            }),
        }
    }

    /// Adds one rule. The first unconditional one for a number stays.
    fn insert(&mut self, number: u16, mut conditions: Vec<Condition>, action: u32) {
        // A mask without bits always matches.
        let bits = if self.wide {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        };
        conditions.retain(|c| c.mask & bits != 0);
        if conditions.is_empty() {
            self.always[usize::from(number)].get_or_insert(action);
        } else {
            self.sometimes.push(Rule {
                number,
                wide: self.wide,
                conditions,
                action,
            });
        }
    }

    /// Puts the rules that look at arguments in the order of their evaluation.
    /// An unconditional rule beats them all, wherever it stands: libseccomp
    /// keeps the "shorter" filter.
    fn settle(&mut self) {
        let mut added = std::mem::take(&mut self.sometimes);
        added.retain(|rule| self.always[usize::from(rule.number)].is_none());
        added.sort_by_key(|rule| rule.number);
        let mut start = 0;
        for new in added {
            let rules = &mut self.sometimes;
            if rules.last().is_some_and(|last| last.number != new.number) {
                start = rules.len();
            }
            let mut same = rules[start..].iter();
            if same.any(|old| old.conditions == new.conditions) {
                continue;
            }
            let mut same = rules[start..].iter();
            match same.position(|old| goes_before(&new.conditions, &old.conditions, new.wide)) {
                Some(at) => rules.insert(start + at, new),
                None => rules.push(new),
            }
        }
    }
}

/// Whether libseccomp tries a rule with conditions `new` before one with `old`
/// that was added earlier. It keeps a tree, one level a half of an argument,
/// sorted (`_db_chain_lt` in its db.c) so that late arguments come before early
/// ones, (in)equality before less and less before greater, and large values
/// before small ones except for less. Where it has no preference, or refuses
/// the profile as contradictory, the profile's order decides.
fn goes_before(new: &[Condition], old: &[Condition], wide: bool) -> bool {
    let rank = |op| match op {
        Op::ScmpCmpEq | Op::ScmpCmpNe | Op::ScmpCmpMaskedEq => 3,
        Op::ScmpCmpLt | Op::ScmpCmpLe => 2,
        Op::ScmpCmpGt | Op::ScmpCmpGe => 1,
    };
    for (new, old) in new.iter().zip(old) {
        if new.index != old.index {
            return new.index > old.index;
        }
        if rank(new.op) != rank(old.op) {
            return rank(new.op) > rank(old.op);
        }
        let halves: &[u32] = if wide { &[32, 0] } else { &[0] };
        for half in halves {
            let datum = |c: &Condition| ((c.value & c.mask) >> half) as u32;
            let mask = |c: &Condition| (c.mask >> half) as u32;
            if datum(new) != datum(old) {
                return (datum(new) > datum(old)) == (rank(new.op) != 2);
            }
            if mask(new) != mask(old) {
                return false;
            }
        }
        if new.op != old.op {
            return false;
        }
    }
    false
}
