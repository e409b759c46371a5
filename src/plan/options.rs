//! The strings of `mounts[].options`: which are flags of mount(2), which are attributes of
//! mount_setattr(2) for a whole tree, which are propagation, and which are the file system's own.
//!
//! An option list is folded into MS_* flags first, exactly as runc and mount(8) do (a later option
//! takes back an earlier one), and only the result is translated to the new mount API, so that both
//! say the same.

use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME, MS_BIND, MS_DIRSYNC, MS_I_VERSION, MS_LAZYTIME,
    MS_MANDLOCK, MS_NOATIME, MS_NODEV, MS_NODIRATIME, MS_NOEXEC, MS_NOSUID, MS_NOSYMFOLLOW,
    MS_PRIVATE, MS_RDONLY, MS_REC, MS_RELATIME, MS_REMOUNT, MS_SHARED, MS_SILENT, MS_SLAVE,
    MS_STRICTATIME, MS_SYNCHRONOUS, MS_UNBINDABLE,
};

/// What an option string asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meaning {
    /// `defaults`.
    Nothing,
    /// MS_* flags to set.
    Set(u64),
    /// MS_* flags to clear.
    Clear(u64),
    /// MS_PRIVATE and the like, perhaps with MS_REC.
    Propagation(u64),
    /// MOUNT_ATTR_* to set on the whole tree.
    SetTree(u64),
    /// MOUNT_ATTR_* to clear on the whole tree.
    ClearTree(u64),
    /// `tmpcopyup`.
    CopyUp,
}

use Meaning::{Clear, ClearTree, CopyUp, Nothing, Propagation, Set, SetTree};

/// Every option that isn't left to the file system, sorted by name. `idmap` and `ridmap` are not
/// here: runc doesn't list them among its mount options.
const TABLE: &[(&str, Meaning)] = &[
    ("async", Clear(MS_SYNCHRONOUS)),
    ("atime", Clear(MS_NOATIME)),
    ("bind", Set(MS_BIND)),
    ("defaults", Nothing),
    ("dev", Clear(MS_NODEV)),
    ("diratime", Clear(MS_NODIRATIME)),
    ("dirsync", Set(MS_DIRSYNC)),
    ("exec", Clear(MS_NOEXEC)),
    ("iversion", Set(MS_I_VERSION)),
    ("lazytime", Set(MS_LAZYTIME)),
    ("loud", Clear(MS_SILENT)),
    ("mand", Set(MS_MANDLOCK)),
    ("noatime", Set(MS_NOATIME)),
    ("nodev", Set(MS_NODEV)),
    ("nodiratime", Set(MS_NODIRATIME)),
    ("noexec", Set(MS_NOEXEC)),
    ("noiversion", Clear(MS_I_VERSION)),
    ("nolazytime", Clear(MS_LAZYTIME)),
    ("nomand", Clear(MS_MANDLOCK)),
    ("norelatime", Clear(MS_RELATIME)),
    ("nostrictatime", Clear(MS_STRICTATIME)),
    ("nosuid", Set(MS_NOSUID)),
    ("nosymfollow", Set(MS_NOSYMFOLLOW)),
    ("private", Propagation(MS_PRIVATE)),
    ("ratime", ClearTree(MOUNT_ATTR_NOATIME)),
    ("rbind", Set(MS_BIND | MS_REC)),
    ("rdev", ClearTree(MOUNT_ATTR_NODEV)),
    ("rdiratime", ClearTree(MOUNT_ATTR_NODIRATIME)),
    ("relatime", Set(MS_RELATIME)),
    ("remount", Set(MS_REMOUNT)),
    ("rexec", ClearTree(MOUNT_ATTR_NOEXEC)),
    ("rnoatime", SetTree(MOUNT_ATTR_NOATIME)),
    ("rnodev", SetTree(MOUNT_ATTR_NODEV)),
    ("rnodiratime", SetTree(MOUNT_ATTR_NODIRATIME)),
    ("rnoexec", SetTree(MOUNT_ATTR_NOEXEC)),
    ("rnorelatime", ClearTree(MOUNT_ATTR_RELATIME)),
    ("rnostrictatime", ClearTree(MOUNT_ATTR_STRICTATIME)),
    ("rnosuid", SetTree(MOUNT_ATTR_NOSUID)),
    ("rnosymfollow", SetTree(MOUNT_ATTR_NOSYMFOLLOW)),
    ("ro", Set(MS_RDONLY)),
    ("rprivate", Propagation(MS_PRIVATE | MS_REC)),
    ("rrelatime", SetTree(MOUNT_ATTR_RELATIME)),
    ("rro", SetTree(MOUNT_ATTR_RDONLY)),
    ("rrw", ClearTree(MOUNT_ATTR_RDONLY)),
    ("rshared", Propagation(MS_SHARED | MS_REC)),
    ("rslave", Propagation(MS_SLAVE | MS_REC)),
    ("rstrictatime", SetTree(MOUNT_ATTR_STRICTATIME)),
    ("rsuid", ClearTree(MOUNT_ATTR_NOSUID)),
    ("rsymfollow", ClearTree(MOUNT_ATTR_NOSYMFOLLOW)),
    ("runbindable", Propagation(MS_UNBINDABLE | MS_REC)),
    ("rw", Clear(MS_RDONLY)),
    ("shared", Propagation(MS_SHARED)),
    ("silent", Set(MS_SILENT)),
    ("slave", Propagation(MS_SLAVE)),
    ("strictatime", Set(MS_STRICTATIME)),
    ("suid", Clear(MS_NOSUID)),
    ("symfollow", Clear(MS_NOSYMFOLLOW)),
    ("sync", Set(MS_SYNCHRONOUS)),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(MS_UNBINDABLE)),
];

/// The names of all mount options that aren't left to the file system, sorted: `mountOptions` of
/// `features`. Engines look for `rro` in it.
pub const MOUNT_OPTIONS: &[&str] = &{
    let mut names = [""; TABLE.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = TABLE[i].0;
        i += 1;
    }
    names
};

/// MS_* flags that belong to one mount, beside its MOUNT_ATTR_*; access times are apart.
const PER_MOUNT: &[(u64, u64)] = &[
    (MS_RDONLY, MOUNT_ATTR_RDONLY),
    (MS_NOSUID, MOUNT_ATTR_NOSUID),
    (MS_NODEV, MOUNT_ATTR_NODEV),
    (MS_NOEXEC, MOUNT_ATTR_NOEXEC),
    (MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
];

/// MS_* flags that belong to the superblock, with the fsconfig(2) keys that set and clear them
/// (fs/fs_context.c, common_set_sb_flag and common_clear_sb_flag). `ro` is not among them: see
/// `mounts`.
pub const PER_SUPERBLOCK: &[(u64, &str, &str)] = &[
    (MS_SYNCHRONOUS, "sync", "async"),
    (MS_DIRSYNC, "dirsync", ""),
    (MS_LAZYTIME, "lazytime", "nolazytime"),
    (MS_MANDLOCK, "mand", "nomand"),
];

/// MS_* flags of the superblock for which fsconfig(2) has no key, so that only mount(2) can set
/// them.
pub const ONLY_MOUNT2: u64 = MS_SILENT | MS_I_VERSION;

const ATIME: u64 = MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME;

/// `mounts[].options`, folded.
#[derive(Default, Debug)]
pub struct Folded<'a> {
    /// MS_* flags in the end set.
    pub flags: u64,
    /// MS_* flags in the end cleared by name.
    pub cleared: u64,
    /// Propagation changes in the given order.
    pub propagation: Vec<u64>,
    /// MOUNT_ATTR_* to set on the whole tree.
    pub set_tree: u64,
    /// MOUNT_ATTR_* to clear on the whole tree.
    pub clear_tree: u64,
    /// `tmpcopyup`.
    pub copy_up: bool,
    /// `idmap` (false) or `ridmap` (true).
    pub idmap: Option<bool>,
    /// What is left to the file system, with its index.
    pub data: Vec<(usize, &'a str)>,
}

/// Folds an option list. A later option takes back an earlier one that contradicts it.
pub fn fold(options: &[String]) -> Folded<'_> {
    let mut folded = Folded::default();
    for (index, option) in options.iter().enumerate() {
        let known = TABLE.binary_search_by(|(name, _)| (*name).cmp(option.as_str()));
        match known.map(|i| TABLE[i].1) {
            Ok(Nothing) => {}
            Ok(Set(flags)) => {
                folded.flags |= flags;
                folded.cleared &= !flags;
            }
            Ok(Clear(flags)) => {
                folded.flags &= !flags;
                folded.cleared |= flags;
            }
            Ok(Propagation(flags)) => folded.propagation.push(flags),
            Ok(SetTree(attributes)) => {
                // The access-time classes are values, not bits: a later one replaces an earlier.
                if attributes & MOUNT_ATTR__ATIME == attributes {
                    folded.set_tree &= !MOUNT_ATTR__ATIME;
                    folded.clear_tree |= MOUNT_ATTR__ATIME;
                } else {
                    folded.clear_tree &= !attributes;
                }
                folded.set_tree |= attributes;
            }
            Ok(ClearTree(attributes)) => {
                if attributes & MOUNT_ATTR__ATIME == attributes {
                    folded.clear_tree |= MOUNT_ATTR__ATIME;
                }
                folded.clear_tree |= attributes;
                folded.set_tree &= !attributes;
            }
            Ok(CopyUp) => folded.copy_up = true,
            Err(_) => match option.as_str() {
                "idmap" => folded.idmap = Some(false),
                "ridmap" => folded.idmap = Some(true),
                _ => folded.data.push((index, option)),
            },
        }
    }
    folded
}

impl Folded<'_> {
    /// MOUNT_ATTR_* to set on the mount. With the access-time class if [`Folded::names_atime`].
    pub fn set(&self) -> u64 {
        per_mount(self.flags) | atime(self.flags)
    }

    /// MOUNT_ATTR_* that options cleared by name, and MOUNT_ATTR__ATIME if an access-time class is
    /// set: mount_setattr(2) changes the class only as a whole.
    pub fn clear(&self) -> u64 {
        let class = if self.names_atime() {
            MOUNT_ATTR__ATIME
        } else {
            0
        };
        per_mount(self.cleared) | class
    }

    /// Everything that set() leaves out, when a mount's attributes are replaced as a whole: what
    /// mount(2) with MS_REMOUNT does. Access times stay as they are unless one is set.
    pub fn replace(&self) -> u64 {
        let mut all = per_mount(!0);
        if self.names_atime() {
            all |= MOUNT_ATTR_NODIRATIME;
        }
        all & !self.set() & !self.clear()
    }

    /// Whether any option is about the attributes of the one mount.
    pub fn names_attributes(&self) -> bool {
        (self.flags | self.cleared) & !(MS_BIND | MS_REC | MS_REMOUNT) != 0
    }

    /// Whether an option sets an access-time class; those that clear one (`atime`, `norelatime`)
    /// leave a mount as it is (mount(8), "the naive way").
    fn names_atime(&self) -> bool {
        self.flags & ATIME != 0
    }
}

fn per_mount(flags: u64) -> u64 {
    PER_MOUNT
        .iter()
        .filter(|(ms, _)| flags & ms != 0)
        .fold(0, |set, (_, attribute)| set | attribute)
}

/// The access-time class and MOUNT_ATTR_NODIRATIME as mount(2) understands MS_* flags
/// (fs/namespace.c, path_mount): strictatime beats noatime beats relatime, the default.
fn atime(flags: u64) -> u64 {
    let class = if flags & MS_STRICTATIME != 0 {
        MOUNT_ATTR_STRICTATIME
    } else if flags & MS_NOATIME != 0 {
        MOUNT_ATTR_NOATIME
    } else {
        MOUNT_ATTR_RELATIME
    };
    if flags & MS_NODIRATIME != 0 {
        class | MOUNT_ATTR_NODIRATIME
    } else {
        class
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn table_is_sorted_and_runc_s() {
        assert!(MOUNT_OPTIONS.is_sorted_by(|a, b| a < b));
        assert_eq!(MOUNT_OPTIONS.len(), 60);
        assert!(MOUNT_OPTIONS.contains(&"rro"));
    }

    /// Every option alone: the mount's attributes set and cleared.
    #[test]
    fn attributes() {
        const NAMED: u64 = MOUNT_ATTR__ATIME;
        for (option, set, clear) in [
            ("ro", MOUNT_ATTR_RDONLY, 0),
            ("rw", 0, MOUNT_ATTR_RDONLY),
            ("nosuid", MOUNT_ATTR_NOSUID, 0),
            ("suid", 0, MOUNT_ATTR_NOSUID),
            ("nodev", MOUNT_ATTR_NODEV, 0),
            ("dev", 0, MOUNT_ATTR_NODEV),
            ("noexec", MOUNT_ATTR_NOEXEC, 0),
            ("exec", 0, MOUNT_ATTR_NOEXEC),
            ("nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0),
            ("symfollow", 0, MOUNT_ATTR_NOSYMFOLLOW),
            ("noatime", MOUNT_ATTR_NOATIME, NAMED),
            ("atime", 0, 0),
            ("relatime", MOUNT_ATTR_RELATIME, NAMED),
            ("norelatime", 0, 0),
            ("strictatime", MOUNT_ATTR_STRICTATIME, NAMED),
            ("nostrictatime", 0, 0),
            ("nodiratime", MOUNT_ATTR_NODIRATIME, NAMED),
            ("diratime", 0, 0),
            ("defaults", 0, 0),
            ("bind", 0, 0),
            ("rbind", 0, 0),
            ("remount", 0, 0),
            ("sync", 0, 0),
            ("async", 0, 0),
            ("dirsync", 0, 0),
            ("mand", 0, 0),
            ("nomand", 0, 0),
            ("lazytime", 0, 0),
            ("nolazytime", 0, 0),
            ("iversion", 0, 0),
            ("noiversion", 0, 0),
            ("silent", 0, 0),
            ("loud", 0, 0),
            // Combinations: the later wins, but strictatime beats noatime as in mount(2).
            ("ro rw", 0, MOUNT_ATTR_RDONLY),
            ("rw ro", MOUNT_ATTR_RDONLY, 0),
            ("noatime strictatime", MOUNT_ATTR_STRICTATIME, NAMED),
            ("strictatime noatime", MOUNT_ATTR_STRICTATIME, NAMED),
            ("noatime relatime", MOUNT_ATTR_NOATIME, NAMED),
            ("noatime atime", 0, 0),
            (
                "nodiratime strictatime",
                MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_STRICTATIME,
                NAMED,
            ),
            (
                "nosuid dev exec ro",
                MOUNT_ATTR_NOSUID | MOUNT_ATTR_RDONLY,
                MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
            ),
        ] {
            let words = words(option);
            let folded = fold(&words);
            assert_eq!((folded.set(), folded.clear()), (set, clear), "{option}");
            assert!(folded.data.is_empty(), "{option}");
        }
    }

    #[test]
    fn attributes_of_the_tree() {
        for (option, set, clear) in [
            ("rro", MOUNT_ATTR_RDONLY, 0),
            ("rrw", 0, MOUNT_ATTR_RDONLY),
            ("rnosuid", MOUNT_ATTR_NOSUID, 0),
            ("rsuid", 0, MOUNT_ATTR_NOSUID),
            ("rnodev", MOUNT_ATTR_NODEV, 0),
            ("rdev", 0, MOUNT_ATTR_NODEV),
            ("rnoexec", MOUNT_ATTR_NOEXEC, 0),
            ("rexec", 0, MOUNT_ATTR_NOEXEC),
            ("rnodiratime", MOUNT_ATTR_NODIRATIME, 0),
            ("rdiratime", 0, MOUNT_ATTR_NODIRATIME),
            ("rnosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0),
            ("rsymfollow", 0, MOUNT_ATTR_NOSYMFOLLOW),
            ("rnoatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
            ("ratime", 0, MOUNT_ATTR__ATIME),
            ("rrelatime", 0, MOUNT_ATTR__ATIME),
            ("rnorelatime", 0, MOUNT_ATTR__ATIME),
            ("rstrictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
            ("rnostrictatime", 0, MOUNT_ATTR__ATIME),
            // An access-time class is a value: two of them together would be EINVAL.
            (
                "rnoatime rstrictatime",
                MOUNT_ATTR_STRICTATIME,
                MOUNT_ATTR__ATIME,
            ),
            ("rro rrw", 0, MOUNT_ATTR_RDONLY),
            ("rrw rro", MOUNT_ATTR_RDONLY, 0),
        ] {
            let words = words(option);
            let folded = fold(&words);
            assert_eq!(
                (folded.set_tree, folded.clear_tree),
                (set, clear),
                "{option}"
            );
            assert!(!folded.names_attributes(), "{option}");
        }
    }

    /// What a bind's options replace: everything but access times, and those too if one is set.
    #[test]
    fn replaced() {
        let all = MOUNT_ATTR_RDONLY
            | MOUNT_ATTR_NOSUID
            | MOUNT_ATTR_NODEV
            | MOUNT_ATTR_NOEXEC
            | MOUNT_ATTR_NOSYMFOLLOW;
        for (option, replace) in [
            ("ro", all & !MOUNT_ATTR_RDONLY),
            ("dev", all & !MOUNT_ATTR_NODEV),
            ("atime", all),
            ("noatime", all | MOUNT_ATTR_NODIRATIME),
            ("nodiratime", all),
        ] {
            let words = words(option);
            assert_eq!(fold(&words).replace(), replace, "{option}");
        }
    }

    #[test]
    fn the_rest() {
        let words = words("shared size=5 rslave tmpcopyup ridmap nfsvers=4");
        let folded = fold(&words);
        assert_eq!(folded.propagation, [MS_SHARED, MS_SLAVE | MS_REC]);
        assert_eq!(folded.data, [(1, "size=5"), (5, "nfsvers=4")]);
        assert!(folded.copy_up);
        assert_eq!(folded.idmap, Some(true));
        for (name, flags) in [
            ("private", MS_PRIVATE),
            ("rprivate", MS_PRIVATE | MS_REC),
            ("shared", MS_SHARED),
            ("rshared", MS_SHARED | MS_REC),
            ("slave", MS_SLAVE),
            ("rslave", MS_SLAVE | MS_REC),
            ("unbindable", MS_UNBINDABLE),
            ("runbindable", MS_UNBINDABLE | MS_REC),
        ] {
            assert_eq!(fold(&[name.to_owned()]).propagation, [flags], "{name}");
        }
    }
}
