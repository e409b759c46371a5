//! A warm container's init: it has done all that needs no caller, and waits for one.
//!
//! What the caller wants comes as one message and stays where it was received: in memory that was
//! laid out before the clone, for init allocates nothing. Its strings follow each other, each with its
//! null; pointers to them are put into an array beside it.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr;

use super::message::{At, Fail, Message, Step};
use super::{Context, dev, session_keyring};
use crate::plan::{HOME_SIZE, Process, Strings};
use crate::sys::cred::NODE_WORDS;
use crate::sys::{Errno, cred, fs, process, socket};

/// Bytes of the longest orders: those that fit into one message of a socket.
pub const LONGEST: usize = 160 << 10;
/// How many strings they may have.
const STRINGS: usize = 8 << 10;

/// Where orders are received.
pub struct Room {
    bytes: Cell<Vec<u8>>,
    pointers: Cell<Vec<*const c_char>>,
}

impl Room {
    /// Room that isn't touched until it's used, and so takes no memory.
    pub fn new() -> Room {
        Room {
            bytes: Cell::new(vec![0; LONGEST]),
            pointers: Cell::new(vec![ptr::null(); STRINGS]),
        }
    }
}

/// What is carried over from the caller that only a process itself can set. All else is set from
/// outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Blocked signals, bit N-1 = signal N.
    pub blocked: u64,
    /// Ignored signals.
    pub ignored: u64,
    /// personality(2); `None`: it stays as it is.
    pub personality: Option<u64>,
    /// Transparent huge pages (PR_SET_THP_DISABLE and its flags); `None`: it stays as it is.
    pub huge_pages: Option<u64>,
    /// set_mempolicy(2), mode and nodes; `None`: it stays as it is.
    pub memory_policy: Option<(i32, [u64; NODE_WORDS])>,
}

/// What the program is, and what it's given: that of the plan, or that of the orders.
pub struct Program<'a> {
    /// argv, as execve(2) takes it.
    pub args: *const *const c_char,
    /// envp, as execve(2) takes it.
    pub env: *const *const c_char,
    /// The buffer behind a HOME that is to be looked up.
    pub home: Option<&'a [Cell<u8>]>,
    /// The working directory.
    pub cwd: &'a CStr,
    /// Where the program may be.
    pub candidates: Candidates<'a>,
}

/// Paths at which a program may be.
#[derive(Clone, Copy)]
pub enum Candidates<'a> {
    /// The plan's.
    Planned(&'a [CString]),
    /// Those of orders: strings, one after the other.
    Ordered(&'a [u8]),
}

impl<'a> Candidates<'a> {
    /// One by one.
    pub fn iter(self) -> impl Iterator<Item = &'a CStr> {
        let mut rest = self;
        std::iter::from_fn(move || match &mut rest {
            Candidates::Planned(all) => {
                let (first, others) = all.split_first()?;
                *all = others;
                Some(first.as_c_str())
            }
            Candidates::Ordered(all) => next(all),
        })
    }
}

impl<'a> Program<'a> {
    /// What the plan says.
    pub fn of(p: &'a Process) -> Program<'a> {
        Program {
            args: p.args.as_ptr(),
            env: p.env.as_ptr(),
            home: Strings::home(&p.env),
            cwd: &p.cwd,
            candidates: Candidates::Planned(&p.candidates),
        }
    }
}

/// Takes the first of strings that follow each other.
fn next<'a>(strings: &mut &'a [u8]) -> Option<&'a CStr> {
    let first = CStr::from_bytes_until_nul(strings).ok()?;
    *strings = strings.get(first.count_bytes() + 1..)?;
    Some(first)
}

/// What the parent says when there is a caller.
pub struct Orders<'a> {
    /// argv, envp, working directory and the program's places.
    pub process: &'a Process,
    /// The host's name; `None`: the one that init has set already.
    pub hostname: Option<&'a CStr>,
    /// The domain's name, likewise.
    pub domainname: Option<&'a CStr>,
    /// The session keyring to join, that of the container's own id.
    pub keyring: Option<&'a CStr>,
    /// See [`Carried`].
    pub carried: Carried,
}

/// Words before the strings.
const HEAD: usize = 9 + NODE_WORDS;
/// Bit of the first word: there is a host's name.
const HOSTNAME: u64 = 1;
/// Bit of the first word: there is a keyring.
const KEYRING: u64 = 2;
/// Bit of the first word: the environment ends with a HOME to be looked up.
const HOME: u64 = 4;
/// Bit of the first word: a personality is given.
const PERSONALITY: u64 = 8;
/// Bit of the first word: huge pages are given.
const HUGE_PAGES: u64 = 16;
/// Bit of the first word: a memory policy is given.
const MEMORY_POLICY: u64 = 32;
/// Bit of the first word: there is a domain's name.
const DOMAINNAME: u64 = 64;

impl Orders<'_> {
    /// Lays the message out. E2BIG: it's longer than what init has room for.
    pub fn encode(&self) -> Result<Vec<u8>, Errno> {
        let p = self.process;
        let carried = &self.carried;
        let home = Strings::home(&p.env);
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        let flags = flag(self.hostname.is_some(), HOSTNAME)
            | flag(self.domainname.is_some(), DOMAINNAME)
            | flag(self.keyring.is_some(), KEYRING)
            | flag(home.is_some(), HOME)
            | flag(carried.personality.is_some(), PERSONALITY)
            | flag(carried.huge_pages.is_some(), HUGE_PAGES)
            | flag(carried.memory_policy.is_some(), MEMORY_POLICY);
        let (args, env) = (p.args.iter().count(), p.env.iter().count());
        // Both arrays end with a null; HOME may be one more.
        if args + env + 3 > STRINGS {
            return Err(Errno::E2BIG);
        }
        let (mode, nodes) = carried.memory_policy.unwrap_or_default();
        let head: [u64; HEAD - NODE_WORDS] = [
            flags,
            carried.blocked,
            carried.ignored,
            carried.personality.unwrap_or(0),
            args as u64,
            env as u64,
            p.candidates.len() as u64,
            carried.huge_pages.unwrap_or(0),
            mode as u64,
        ];
        let head = head.iter().chain(&nodes);
        let mut bytes: Vec<u8> = head.flat_map(|word| word.to_ne_bytes()).collect();
        let one = [p.cwd.as_c_str()].into_iter();
        let strings = one
            .chain(self.hostname)
            .chain(self.domainname)
            .chain(self.keyring)
            .chain(p.args.iter())
            .chain(p.env.iter())
            .chain(p.candidates.iter().map(|c| c.as_c_str()));
        for text in strings {
            bytes.extend_from_slice(text.to_bytes_with_nul());
        }
        if let Some(home) = home {
            bytes.extend(home.iter().map(Cell::get));
            bytes.push(0);
        }
        match bytes.len() {
            0..=LONGEST => Ok(bytes),
            _ => Err(Errno::E2BIG),
        }
    }
}

/// Memory of [`Room`], in use.
#[derive(Default)]
pub struct Taken {
    bytes: Vec<u8>,
    pointers: Vec<*const c_char>,
}

impl Taken {
    /// Takes what is there. Nothing is allocated: what is left in its place is empty.
    pub fn from(room: Option<&Room>) -> Taken {
        match room {
            Some(room) => Taken {
                bytes: room.bytes.take(),
                pointers: room.pointers.take(),
            },
            None => Taken::default(),
        }
    }
}

/// Says that everything is made that needs no caller, waits for one, and becomes what it orders.
pub fn wait<'a>(c: &Context, room: &'a mut Taken, root: BorrowedFd) -> Result<Program<'a>, Fail> {
    c.trace(Step::Parked, 0);
    c.send(&Message::Parked, None).at(Step::Parent)?;
    let mut streams: [Option<OwnedFd>; 3] = [const { None }; 3];
    // Without a parent there is nobody to go on for.
    let n = match socket::receive_many(c.common.channel, &mut room.bytes, &mut streams) {
        Ok(n) if n > 0 => n,
        _ => process::exit_now(1),
    };
    for (stream, fd) in streams.iter().enumerate() {
        if let Some(fd) = fd {
            fs::dup_onto(fd, stream as i32).of(Step::Stdio, stream)?;
        }
    }
    if streams.iter().any(Option::is_some) {
        dev::reopen_null(root, c.plan)?;
    }
    drop(streams);
    let Some(orders) = decode(&mut room.bytes[..n], &mut room.pointers) else {
        return Err(Fail::new(Step::Parked, Errno::EBADMSG));
    };
    if let Some(name) = orders.keyring {
        session_keyring(name)?;
    }
    if let Some(name) = orders.hostname {
        cred::sethostname(name).at(Step::Hostname)?;
    }
    if let Some(name) = orders.domainname {
        cred::setdomainname(name).at(Step::Domainname)?;
    }
    become_callers(&orders.carried)?;
    Ok(orders.program)
}

fn become_callers(carried: &Carried) -> Result<(), Fail> {
    if let Some(persona) = carried.personality {
        cred::personality(persona).at(Step::Personality)?;
    }
    if let Some(value) = carried.huge_pages {
        cred::set_huge_pages(value).at(Step::Parked)?;
    }
    if let Some((mode, nodes)) = carried.memory_policy {
        // Of nodes that our cpuset has: the keeper has looked.
        cred::set_mempolicy(mode, &nodes).at(Step::MemoryPolicy)?;
    }
    for signal in (1..=64).filter(|n| carried.ignored & 1 << (n - 1) != 0) {
        process::ignore(signal).at(Step::Parked)?;
    }
    let mask = process::signal_set(carried.blocked);
    process::set_signal_mask(&mask).at(Step::Parked).map(drop)
}

struct Decoded<'a> {
    program: Program<'a>,
    hostname: Option<&'a CStr>,
    domainname: Option<&'a CStr>,
    keyring: Option<&'a CStr>,
    carried: Carried,
}

/// Reads orders. They are our own parent's; what isn't right is a mistake, not an attack, but never a
/// panic.
fn decode<'a>(bytes: &'a mut [u8], pointers: &'a mut [*const c_char]) -> Option<Decoded<'a>> {
    let word = |at: usize| {
        let bytes = bytes.get(at * 8..at * 8 + 8)?;
        bytes.try_into().ok().map(u64::from_ne_bytes)
    };
    let flags = word(0)?;
    let has = |bit: u64| flags & bit != 0;
    let mut nodes = [0; NODE_WORDS];
    for (at, node) in nodes.iter_mut().enumerate() {
        *node = word(HEAD - NODE_WORDS + at)?;
    }
    let policy = (word(8)? as i32, nodes);
    let carried = Carried {
        blocked: word(1)?,
        ignored: word(2)?,
        personality: word(3).filter(|_| has(PERSONALITY)),
        huge_pages: word(7).filter(|_| has(HUGE_PAGES)),
        memory_policy: has(MEMORY_POLICY).then_some(policy),
    };
    let (args, env) = (word(4)? as usize, word(5)? as usize);
    let candidates = word(6)? as usize;
    let slot = if has(HOME) { HOME_SIZE } else { 0 };
    let end = bytes.len().checked_sub(slot)?;
    let (text, slot) = bytes.split_at_mut(end);
    let mut text = text.get(HEAD * 8..)?;
    let cwd = next(&mut text)?;
    let mut optional = |bit: u64| match has(bit) {
        true => next(&mut text).map(Some),
        false => Some(None),
    };
    let (hostname, domainname) = (optional(HOSTNAME)?, optional(DOMAINNAME)?);
    let keyring = optional(KEYRING)?;
    let (argv, envp) = pointers.split_at_mut_checked(args.checked_add(1)?)?;
    for place in argv.iter_mut().take(args) {
        *place = next(&mut text)?.as_ptr();
    }
    let envp = envp.get_mut(..env.checked_add(2)?)?;
    for place in envp.iter_mut().take(env) {
        *place = next(&mut text)?.as_ptr();
    }
    let mut home = None;
    if has(HOME) {
        if let Some(last) = slot.last_mut() {
            *last = 0;
        }
        let cells = Cell::from_mut(slot).as_slice_of_cells();
        envp[env] = cells.as_ptr().cast();
        // The last byte stays a null.
        home = cells.get(..HOME_SIZE - 1);
    }
    let rest = text;
    for _ in 0..candidates {
        next(&mut text)?;
    }
    Some(Decoded {
        program: Program {
            args: argv.as_ptr(),
            env: envp.as_ptr(),
            home,
            cwd,
            candidates: Candidates::Ordered(&rest[..rest.len() - text.len()]),
        },
        hostname,
        domainname,
        keyring,
        carried,
    })
}

/// Whether these are orders, of which then every string that is pointed to must be among the bytes.
#[cfg(fuzzing)]
pub fn check(bytes: &mut [u8]) -> bool {
    let mut pointers = vec![ptr::null(); STRINGS];
    let start = bytes.as_ptr() as usize;
    let Some(decoded) = decode(bytes, &mut pointers) else {
        return false;
    };
    let _ = decoded.program.candidates.iter().count();
    for pointer in pointers.iter().filter(|pointer| !pointer.is_null()) {
        let text = &bytes[*pointer as usize - start..];
        assert!(
            CStr::from_bytes_until_nul(text).is_ok(),
            "a string without an end"
        );
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::plan;
    use serde_json::{Value, json};

    fn process(value: Value) -> Process {
        let mut whole: Value =
            serde_json::from_str(include_str!("../../tests/configs/spec.json")).unwrap();
        let own = whole["process"].as_object_mut().unwrap();
        own.extend(value.as_object().unwrap().clone());
        let (spec, _) =
            crate::bundle::parse_process(whole["process"].to_string().as_bytes()).unwrap();
        let none = plan::IdMaps::default();
        let inside = plan::Container {
            id_maps: &none,
            umask: None,
            personality: None,
            memory_policy: None,
            preserve_fds: 0,
        };
        plan::join(&spec, inside, &Host::look(false, false), &mut Vec::new()).unwrap()
    }

    /// The strings of an array as execve(2) would find them, told by where they point.
    fn strings(mut array: &[*const c_char], bytes: &[u8]) -> Vec<String> {
        let base = bytes.as_ptr() as usize;
        let mut all = Vec::new();
        while let Some((first, rest)) = array.split_first().filter(|(p, _)| !p.is_null()) {
            let mut text = &bytes[*first as usize - base..];
            all.push(next(&mut text).unwrap().to_str().unwrap().to_owned());
            array = rest;
        }
        all
    }

    #[test]
    fn orders_arrive_as_they_were_given() {
        for env in [
            json!(["PATH=/bin:/sbin", "A="]),
            json!(["HOME=/x", "PATH=/bin:/sbin"]),
        ] {
            let p = process(json!({"args": ["cat", ""], "env": env, "cwd": "/tmp"}));
            let orders = Orders {
                process: &p,
                hostname: Some(c"web"),
                domainname: Some(c"(none)"),
                keyring: None,
                carried: Carried {
                    blocked: 1 << 33,
                    ignored: 1,
                    personality: None,
                    huge_pages: Some(3),
                    memory_policy: Some((2, [5; NODE_WORDS])),
                },
            };
            let mut bytes = orders.encode().unwrap();
            let copy = bytes.clone();
            let start = bytes.as_ptr() as usize;
            let mut pointers = vec![ptr::null(); STRINGS];
            let decoded = decode(&mut bytes, &mut pointers).unwrap();
            assert_eq!(decoded.hostname, Some(c"web"));
            assert_eq!(decoded.domainname, Some(c"(none)"));
            assert_eq!(decoded.keyring, None);
            assert_eq!(decoded.carried, orders.carried);
            assert_eq!(decoded.program.cwd, c"/tmp");
            let candidates: Vec<_> = decoded.program.candidates.iter().collect();
            assert_eq!(candidates, [c"/bin/cat", c"/sbin/cat"]);
            assert_eq!(
                decoded.program.home.map(|h| h.len()),
                Strings::home(&p.env).map(|h| h.len())
            );
            // The same offsets in the copy, which nothing borrows.
            let moved = pointers.iter().map(|p| match p.is_null() {
                true => ptr::null(),
                false => copy.as_ptr().wrapping_add(*p as usize - start).cast(),
            });
            let moved: Vec<*const c_char> = moved.collect();
            assert_eq!(strings(&moved, &copy), ["cat", ""]);
            let mut expected: Vec<_> = p.env.iter().map(|e| e.to_str().unwrap()).collect();
            if Strings::home(&p.env).is_some() {
                expected.push("HOME=/");
            }
            assert_eq!(strings(&moved[3..], &copy), expected);
        }
    }

    #[test]
    fn cut_orders_are_none_and_long_ones_are_refused() {
        let p = process(json!({"args": ["cat"]}));
        let orders = Orders {
            process: &p,
            hostname: None,
            domainname: None,
            keyring: Some(c"_ses.web"),
            carried: Carried::default(),
        };
        let whole = orders.encode().unwrap();
        // Without the room for HOME, of which any part would do.
        for end in 0..whole.len() - HOME_SIZE {
            let mut pointers = vec![ptr::null(); STRINGS];
            assert!(
                decode(&mut whole[..end].to_vec(), &mut pointers).is_none(),
                "{end}"
            );
        }
        assert!(decode(&mut whole.clone(), &mut [ptr::null(); 3]).is_none());
        for args in [vec!["x".repeat(LONGEST)], vec!["x".to_owned(); STRINGS]] {
            let p = process(json!({ "args": args }));
            let orders = Orders {
                process: &p,
                ..orders
            };
            assert_eq!(orders.encode(), Err(Errno::E2BIG));
        }
    }
}
