//! Writes rules down as a classic BPF program.
//!
//! An audit architecture's numbers are cut into segments with one outcome each,
//! and a balanced tree of comparisons finds the segment, so that a call costs
//! O(log n) instructions, and so does each of the hundreds of calls that the
//! kernel tries out when it loads a filter (seccomp_cache_prepare in
//! kernel/seccomp.c). Conditions on arguments are seccompiler's.
//!
//! BPF only jumps forward, conditionally no farther than 255 instructions: the
//! program is written from its end to its start, when every target is known.

use anyhow::{Result, bail};
use libc::sock_filter;
use oci_spec::runtime::LinuxSeccompOperator as Op;
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::rules::{Rule, Rules, Verdicts};

/// `AUDIT_ARCH_X86_64` of linux/audit.h.
pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// `AUDIT_ARCH_I386` of linux/audit.h.
pub const AUDIT_ARCH_I386: u32 = 0x4000_0003;
/// `__X32_SYSCALL_BIT` of asm/unistd.h.
pub const X32_BIT: u32 = 0x4000_0000;

/// What libseccomp returns for an ABI that the filter does not have.
const BAD_ARCH: u32 = libc::SECCOMP_RET_KILL_THREAD;
/// What runc returns for a system call that the profile is too old to know.
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;

/// How far a conditional jump may go, less the jumps that `near` and a node's
/// own leaves can put in between.
const REACH: usize = 250;

/// How many lone numbers within a segment are tested one after the other rather
/// than splitting it: each saves an instruction, and costs one for its neighbours.
const MAX_LONE: usize = 2;

/// What becomes of a number.
#[derive(Clone, Copy)]
enum Outcome<'a> {
    /// Return this.
    Return(u32),
    /// Try these rules, then return the default.
    Try(&'a [Rule]),
}

/// Numbers from `start` to the next segment.
struct Segment<'a> {
    start: u32,
    outcome: Outcome<'a>,
}

/// The program for `rules`. Errors: more instructions than the kernel takes
/// (`BPF_MAXINSNS`, linux/bpf_common.h).
pub fn program(rules: &Rules) -> Result<Vec<sock_filter>> {
    let mut code = Code {
        reversed: Vec::with_capacity(1024),
        returns: Vec::new(),
        tries: Vec::new(),
        default: rules.default,
    };
    let i386 = match &rules.i386 {
        Some(i386) => Some(code.section(&segments_i386(rules, i386))?),
        None => None,
    };
    let x86_64 = code.section(&segments_x86_64(rules))?;

    let mut other = code.ret(BAD_ARCH);
    if let Some(i386) = i386 {
        let i386 = code.near(i386);
        other = code.near(other);
        other = code.branch(EQUAL, AUDIT_ARCH_I386, i386, other);
    }
    let x86_64 = code.near(x86_64);
    code.branch(EQUAL, AUDIT_ARCH_X86_64, x86_64, other);
    code.push(LOAD, 0, 0, ARCH);

    let mut filter = code.reversed;
    if filter.len() > libc::BPF_MAXINSNS as usize {
        bail!(
            "linux.seccomp: the filter has {} instructions; the kernel takes {}",
            filter.len(),
            libc::BPF_MAXINSNS
        );
    }
    filter.reverse();
    Ok(filter)
}

fn segments_i386<'a>(rules: &Rules, i386: &'a Verdicts) -> Vec<Segment<'a>> {
    let mut segments = Vec::with_capacity(256);
    abi(&mut segments, i386, 0, rules);
    segments
}

/// The numbers of x86_64 and, from bit 30 on, of x32. Without x32, libseccomp
/// treats these as of a bad architecture, but for -1: a tracer skips a call
/// by that number, and may do so. runc's ENOSYS comes first, and tests bit 30
/// where libseccomp compares, which shows for numbers no kernel has.
fn segments_x86_64(rules: &Rules) -> Vec<Segment<'_>> {
    let mut segments = Vec::with_capacity(256);
    let too_new = |verdicts: &Verdicts| match verdicts.newest {
        Some(_) if rules.enosys => Some(ENOSYS),
        _ => None,
    };
    abi(&mut segments, &rules.x86_64, 0, rules);
    match &rules.x32 {
        Some(x32) => {
            abi(&mut segments, x32, X32_BIT, rules);
            let other = too_new(&rules.x86_64).unwrap_or(rules.default);
            push(&mut segments, 0x8000_0000, Outcome::Return(other));
            let other = too_new(x32).unwrap_or(rules.default);
            push(&mut segments, 0xc000_0000, Outcome::Return(other));
        }
        None => {
            push(&mut segments, X32_BIT, Outcome::Return(BAD_ARCH));
            let other = too_new(&rules.x86_64).unwrap_or(BAD_ARCH);
            push(&mut segments, 0x8000_0000, Outcome::Return(other));
            push(&mut segments, 0xc000_0000, Outcome::Return(BAD_ARCH));
            push(&mut segments, u32::MAX, Outcome::Return(rules.default));
        }
    }
    segments
}

/// Appends the segments of one ABI, whose numbers start at `base`.
fn abi<'a>(segments: &mut Vec<Segment<'a>>, verdicts: &'a Verdicts, base: u32, rules: &Rules) {
    let newest = match verdicts.newest {
        Some(newest) if rules.enosys => u32::from(newest),
        _ => u32::MAX,
    };
    let mut sometimes = verdicts.sometimes.as_slice();
    for (number, always) in (0_u32..).zip(&verdicts.always) {
        let outcome = match always {
            Some(action) => Outcome::Return(*action),
            None => match sometimes
                .iter()
                .take_while(|r| u32::from(r.number) == number)
                .count()
            {
                // A named number may be beyond the newest: i386's socket(2).
                0 if number > newest => Outcome::Return(ENOSYS),
                0 => Outcome::Return(rules.default),
                n => {
                    let (these, others) = sometimes.split_at(n);
                    sometimes = others;
                    Outcome::Try(these)
                }
            },
        };
        push(segments, base + number, outcome);
    }
    let beyond = if newest == u32::MAX {
        rules.default
    } else {
        ENOSYS
    };
    push(
        segments,
        base + verdicts.always.len() as u32,
        Outcome::Return(beyond),
    );
}

/// Appends a segment, unless it only continues the last one.
fn push<'a>(segments: &mut Vec<Segment<'a>>, start: u32, outcome: Outcome<'a>) {
    match segments.last() {
        Some(last) if same(last.outcome, outcome) => (),
        _ => segments.push(Segment { start, outcome }),
    }
}

fn same(a: Outcome<'_>, b: Outcome<'_>) -> bool {
    match (a, b) {
        (Outcome::Return(a), Outcome::Return(b)) => a == b,
        (Outcome::Try(a), Outcome::Try(b)) => alike(a, b),
        _ => false,
    }
}

/// Whether the rules are the same but for the number they are for.
fn alike(a: &[Rule], b: &[Rule]) -> bool {
    a.len() == b.len()
        && (a.iter().zip(b))
            .all(|(a, b)| (a.action, a.wide) == (b.action, b.wide) && a.conditions == b.conditions)
}

/// A program being written, last instruction first. A position in `reversed`
/// serves as label: it stays what it is, whatever comes before it.
struct Code<'a> {
    reversed: Vec<sock_filter>,
    /// Where the nearest return of each value is.
    returns: Vec<(u32, usize)>,
    /// Where rules have been written: one entry of a profile often is for many
    /// system calls, and always for all ABIs.
    tries: Vec<(&'a [Rule], usize)>,
    default: u32,
}

impl<'a> Code<'a> {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// How many instructions a jump written next would skip.
    fn distance(&self, label: usize) -> usize {
        self.reversed.len() - label - 1
    }

    /// A place within reach that leads to `label`.
    fn near(&mut self, label: usize) -> usize {
        match self.distance(label) {
            0..=REACH => label,
            far => self.push(JUMP, 0, 0, far as u32),
        }
    }

    fn branch(&mut self, code: u16, k: u32, yes: usize, no: usize) -> usize {
        let (jt, jf) = (self.distance(yes), self.distance(no));
        debug_assert!(jt <= 255 && jf <= 255);
        self.push(code, jt as u8, jf as u8, k)
    }

    /// A return of `value` within reach, shared where possible.
    fn ret(&mut self, value: u32) -> usize {
        let near = self.returns.iter().position(|&(v, _)| v == value);
        if let Some(i) = near {
            if self.distance(self.returns[i].1) <= REACH {
                return self.returns[i].1;
            }
            self.returns.swap_remove(i);
        }
        let label = self.push(RETURN, 0, 0, value);
        self.returns.push((value, label));
        label
    }

    /// The search through `segments`, which are not empty, with the load of the
    /// number in front.
    fn section(&mut self, segments: &[Segment<'a>]) -> Result<usize> {
        // A node of the tree is a segment, or several of one outcome together
        // with the lone numbers between them.
        let mut nodes = Vec::with_capacity(segments.len());
        let mut rest = segments;
        while !rest.is_empty() {
            let mut len = 1;
            while len < 1 + 2 * MAX_LONE
                && let [_, lone, last, ..] = &rest[len - 1..]
                && lone.start + 1 == last.start
                && same(rest[0].outcome, last.outcome)
            {
                len += 2;
            }
            let (node, others) = rest.split_at(len);
            nodes.push(node);
            rest = others;
        }
        self.search(&nodes)?;
        Ok(self.push(LOAD, 0, 0, NR))
    }

    fn search(&mut self, nodes: &[&[Segment<'a>]]) -> Result<usize> {
        if let [node] = nodes {
            return self.node(node);
        }
        let (low, high) = nodes.split_at(nodes.len() / 2);
        let yes = self.search(high)?;
        let no = self.search(low)?;
        let yes = self.near(yes);
        let no = self.near(no);
        Ok(self.branch(AT_LEAST, high[0][0].start, yes, no))
    }

    fn node(&mut self, segments: &[Segment<'a>]) -> Result<usize> {
        let mut no = self.outcome(segments[0].outcome)?;
        for lone in segments.iter().skip(1).step_by(2).rev() {
            let yes = self.outcome(lone.outcome)?;
            no = self.near(no);
            let yes = self.near(yes);
            no = self.branch(EQUAL, lone.start, yes, no);
        }
        Ok(no)
    }

    fn outcome(&mut self, outcome: Outcome<'a>) -> Result<usize> {
        let rules = match outcome {
            Outcome::Return(value) => return Ok(self.ret(value)),
            Outcome::Try(rules) => rules,
        };
        if let Some(written) = self.tries.iter().find(|(other, _)| alike(other, rules)) {
            return Ok(written.1);
        }
        let mut label = self.push(RETURN, 0, 0, self.default);
        for rule in rules.iter().rev() {
            self.push(RETURN, 0, 0, rule.action);
            label = self.conditions(rule)?;
        }
        self.tries.push((rules, label));
        Ok(label)
    }

    /// Falls through to the next instruction where all conditions hold, and
    /// skips it where not.
    fn conditions(&mut self, rule: &Rule) -> Result<usize> {
        let conditions = rule.conditions.iter().map(|c| {
            let op = match c.op {
                Op::ScmpCmpNe => SeccompCmpOp::Ne,
                Op::ScmpCmpLt => SeccompCmpOp::Lt,
                Op::ScmpCmpLe => SeccompCmpOp::Le,
                Op::ScmpCmpEq => SeccompCmpOp::Eq,
                Op::ScmpCmpGe => SeccompCmpOp::Ge,
                Op::ScmpCmpGt => SeccompCmpOp::Gt,
                Op::ScmpCmpMaskedEq => SeccompCmpOp::MaskedEq(c.mask),
            };
            let length = match rule.wide {
                true => SeccompCmpArgLen::Qword,
                false => SeccompCmpArgLen::Dword,
            };
            SeccompCondition::new(c.index, length, op, c.value)
        });
        let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
        let program: seccompiler::BpfProgram = rule.into();
        // It starts with a jump over a jump that nothing else comes to.
        let needed = match program.as_slice() {
            [over, jump, rest @ ..] if (over.code, over.k) == (JUMP, 1) && jump.code == JUMP => {
                rest
            }
            all => all,
        };
        for i in needed.iter().rev() {
            self.push(i.code, i.jt, i.jf, i.k);
        }
        Ok(self.reversed.len() - 1)
    }
}
