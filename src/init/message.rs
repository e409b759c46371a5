//! What the child tells its parent: fixed records over a SOCK_SEQPACKET pair, one a message.
//!
//! ```text
//!   parent (launch)                          child (init)
//!        │  ── MAPPED ──────────────────────▶  │   only with a new user namespace
//!        │  ── NETWORK (+ namespace) ───────▶  │   without a user namespace, if it's new
//!        │  ◀──────────────────────── Source   │   for each bind that only the parent can make
//!        │  ── a byte and the tree, or errno ▶ │
//!        │  ◀───────────────────────── Moved   │   only where it had to go on as a child of its own
//!        │  ── MOVED ───────────────────────▶  │
//!        │  ◀───────────────────────── Hooks   │   mounts are made; only with hooks that run now
//!        │  ── HOOKS_DONE ──────────────────▶  │
//!        │  ◀──────────── Console (+ master)   │   only with a terminal
//!        │  ◀──────────────────────── Rooted   │   the Record is committed meanwhile
//!        │  ◀──────────────────────── Parked   │   instead, a warm container's: it waits for a caller
//!        │  ── orders (+ stdio) ────────────▶  │   see `init::park`
//!        │  ◀────────────────────── Listener   │   only with a seccomp filter that notifies
//!        │  ◀───────────────────────── Ready   │   nothing is left but to wait and execve
//!        │  ── COMMITTED (wait for start) ──▶  │   after the Record is on disk
//!        │  ── or GO (run, exec) ───────────▶  │   either even before Ready, if nothing is to be done then
//!        │  ◀── Failed, at any point, or EOF   │
//! ```
//!
//! A child that reads EOF instead of an answer exits: its parent is dead and nobody knows of it.

use crate::sys::Errno;

/// To the child: the id maps are written.
pub const MAPPED: u8 = b'm';
/// To the child: its network namespace comes with this message.
pub const NETWORK: u8 = b'n';
/// To the child: it's known under its new pid (after [`Message::Moved`]).
pub const MOVED: u8 = b'v';
/// To the child: prestart and createRuntime hooks have run, hook states are filled in.
pub const HOOKS_DONE: u8 = b'h';
/// To the child: the container exists; wait at the start barrier.
pub const COMMITTED: u8 = b'c';
/// To the child: execute the program now.
pub const GO: u8 = b'g';

/// A step of the child, for the sentence that its failure becomes. The order is that of `init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Step {
    Parent,
    Seal,
    Affinity,
    Session,
    Keyring,
    JoinNamespace,
    Namespaces,
    TimeOffsets,
    BecomeRoot,
    Loopback,
    JoinNetwork,
    Kit,
    Propagation,
    Rootfs,
    Mount,
    Dev,
    DevLink,
    Console,
    CreateContainerHook,
    Pivot,
    RootfsPropagation,
    Stdio,
    ReadonlyRootfs,
    Hostname,
    Domainname,
    Proc,
    Sysctl,
    ReadonlyPath,
    MaskedPath,
    Capabilities,
    Parked,
    NoNewPrivileges,
    Scheduler,
    IoPriority,
    Personality,
    MemoryPolicy,
    Apparmor,
    Selinux,
    Seccomp,
    Cwd,
    CwdOutside,
    Groups,
    Gid,
    Uid,
    Ambient,
    PreserveFds,
    Executable,
    Interpreter,
    Loader,
    Barrier,
    StartContainerHook,
    Exec,
}

/// What of a mount failed; in `Fail::detail`, an option's index above it (`<< 8`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum MountStep {
    Source = 1,
    Target,
    MakeTarget,
    Type,
    Option,
    Make,
    Attach,
    Attributes,
    LockedFlags,
    Recursive,
    Propagation,
    CopyUp,
    Label,
    NotProc,
    Readonly,
}

/// Room for a few words of the kernel's or a path.
pub const NOTE: usize = 96;

/// Why the child gave up. Small, `Copy`, made without allocation; the parent, which has the plan,
/// turns it into a sentence.
#[derive(Debug, Clone, Copy)]
pub struct Fail {
    /// Where.
    pub step: Step,
    /// Which one of several: an index into the plan's list for that step.
    pub index: u32,
    /// What of it: see `MountStep`; an exit status for hooks.
    pub detail: u32,
    /// Why.
    pub errno: Errno,
    /// A path or the kernel's own words, zero-padded.
    pub note: [u8; NOTE],
}

impl Fail {
    /// A failure of `step`.
    pub fn new(step: Step, errno: Errno) -> Fail {
        Fail {
            step,
            index: 0,
            detail: 0,
            errno,
            note: [0; NOTE],
        }
    }

    /// Which one.
    pub fn of(mut self, index: usize) -> Fail {
        self.index = index as u32;
        self
    }

    /// What of it.
    pub fn at(mut self, detail: u32) -> Fail {
        self.detail = detail;
        self
    }

    /// With words; what doesn't fit is cut off.
    pub fn noting(mut self, text: &[u8]) -> Fail {
        for (to, from) in self.note.iter_mut().zip(text) {
            *to = *from;
        }
        self
    }

    /// The words.
    pub fn text(&self) -> String {
        let end = self.note.iter().position(|b| *b == 0).unwrap_or(NOTE);
        String::from_utf8_lossy(&self.note[..end]).trim().to_owned()
    }
}

/// Turns a system call's errno into a failure of a step.
pub trait At<T> {
    /// The failure of `step`.
    fn at(self, step: Step) -> Result<T, Fail>;
    /// The failure of the `index`-th object of `step`.
    fn of(self, step: Step, index: usize) -> Result<T, Fail>;
}

impl<T> At<T> for crate::sys::Result<T> {
    fn at(self, step: Step) -> Result<T, Fail> {
        self.map_err(|errno| Fail::new(step, errno))
    }

    fn of(self, step: Step, index: usize) -> Result<T, Fail> {
        self.map_err(|errno| Fail::new(step, errno).of(index))
    }
}

/// A message of the child.
#[derive(Debug, Clone, Copy)]
pub enum Message {
    /// It gave up.
    Failed(Fail),
    /// It may not open the source of a bind, or give it its id maps: send it the tree, or the errno.
    Source {
        /// The index in the plan's mounts.
        index: u32,
    },
    /// The mounts are made: run the hooks, answer HOOKS_DONE.
    Hooks,
    /// The master end of its terminal comes with this message.
    Console,
    /// It goes on as another process, of this pid; see CLONE_PARENT.
    Moved {
        /// The pid, in the parent's pid namespace.
        pid: i32,
    },
    /// The filter is loaded, and whatever it notifies of waits for the agent from now on: fetch the
    /// listener with pidfd_getfd(2) and hand it over.
    Listener {
        /// Its number.
        number: i32,
    },
    /// It has done all that needs no caller: send it [`super::park::Orders`].
    Parked,
    /// The container's file systems are as its program will find them, and whoever enters it is where
    /// he should be.
    Rooted,
    /// Nothing is left but the start barrier and execve(2).
    Ready {
        /// The ELF machine of the program when it isn't this machine's; 0: it is.
        machine: u16,
    },
}

/// Bytes of a message.
pub const SIZE: usize = 16 + NOTE;

impl Message {
    /// Lays a message out.
    pub fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let (kind, step, a, b, c) = match self {
            Message::Failed(f) => (1, f.step as u16, f.index, f.detail, f.errno as i32),
            Message::Hooks => (2, 0, 0, 0, 0),
            Message::Console => (3, 0, 0, 0, 0),
            Message::Moved { pid } => (5, 0, 0, 0, *pid),
            Message::Source { index } => (6, 0, *index, 0, 0),
            Message::Ready { machine } => (4, *machine, 0, 0, 0),
            Message::Listener { number } => (7, 0, 0, 0, *number),
            Message::Parked => (8, 0, 0, 0, 0),
            Message::Rooted => (9, 0, 0, 0, 0),
        };
        bytes[0] = kind;
        bytes[2..4].copy_from_slice(&step.to_ne_bytes());
        bytes[4..8].copy_from_slice(&a.to_ne_bytes());
        bytes[8..12].copy_from_slice(&b.to_ne_bytes());
        bytes[12..16].copy_from_slice(&c.to_ne_bytes());
        if let Message::Failed(fail) = self {
            bytes[16..].copy_from_slice(&fail.note);
        }
        bytes
    }

    /// Reads a message; `None`: it isn't one.
    pub fn decode(bytes: &[u8]) -> Option<Message> {
        let bytes: &[u8; SIZE] = bytes.try_into().ok()?;
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let half = u16::from_ne_bytes([bytes[2], bytes[3]]);
        let errno = i32::from_ne_bytes(word(12));
        Some(match bytes[0] {
            1 => {
                let mut note = [0; NOTE];
                note.copy_from_slice(&bytes[16..]);
                Message::Failed(Fail {
                    step: *STEPS.get(usize::from(half))?,
                    index: u32::from_ne_bytes(word(4)),
                    detail: u32::from_ne_bytes(word(8)),
                    errno: Errno::from_raw(errno),
                    note,
                })
            }
            2 => Message::Hooks,
            3 => Message::Console,
            4 => Message::Ready { machine: half },
            5 => Message::Moved { pid: errno },
            7 => Message::Listener { number: errno },
            8 => Message::Parked,
            9 => Message::Rooted,
            6 => Message::Source {
                index: u32::from_ne_bytes(word(4)),
            },
            _ => return None,
        })
    }
}

/// Every step, by number.
pub const STEPS: &[Step] = &[
    Step::Parent,
    Step::Seal,
    Step::Affinity,
    Step::Session,
    Step::Keyring,
    Step::JoinNamespace,
    Step::Namespaces,
    Step::TimeOffsets,
    Step::BecomeRoot,
    Step::Loopback,
    Step::JoinNetwork,
    Step::Kit,
    Step::Propagation,
    Step::Rootfs,
    Step::Mount,
    Step::Dev,
    Step::DevLink,
    Step::Console,
    Step::CreateContainerHook,
    Step::Pivot,
    Step::RootfsPropagation,
    Step::Stdio,
    Step::ReadonlyRootfs,
    Step::Hostname,
    Step::Domainname,
    Step::Proc,
    Step::Sysctl,
    Step::ReadonlyPath,
    Step::MaskedPath,
    Step::Capabilities,
    Step::Parked,
    Step::NoNewPrivileges,
    Step::Scheduler,
    Step::IoPriority,
    Step::Personality,
    Step::MemoryPolicy,
    Step::Apparmor,
    Step::Selinux,
    Step::Seccomp,
    Step::Cwd,
    Step::CwdOutside,
    Step::Groups,
    Step::Gid,
    Step::Uid,
    Step::Ambient,
    Step::PreserveFds,
    Step::Executable,
    Step::Interpreter,
    Step::Loader,
    Step::Barrier,
    Step::StartContainerHook,
    Step::Exec,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_stand_at_their_numbers() {
        for (number, step) in STEPS.iter().enumerate() {
            assert_eq!(number, *step as usize);
        }
        assert_eq!(STEPS.len(), Step::Exec as usize + 1);
    }

    #[test]
    fn a_failure_survives_the_channel() {
        let fail = Fail::new(Step::Mount, Errno::ENOENT)
            .of(3)
            .at(77)
            .noting(b"tmpfs: Unknown parameter");
        let Some(Message::Failed(read)) = Message::decode(&Message::Failed(fail).encode()) else {
            panic!("not read as a failure");
        };
        assert_eq!((read.step, read.index, read.detail), (Step::Mount, 3, 77));
        assert_eq!(read.errno, Errno::ENOENT);
        assert_eq!(read.text(), "tmpfs: Unknown parameter");
        assert!(Message::decode(&[10; SIZE]).is_none());
        assert!(Message::decode(&[1; 4]).is_none());
    }
}
