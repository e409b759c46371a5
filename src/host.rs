//! What this machine is, as far as plans depend on it. Looked at once; cheap, since every create
//! pays for it: anything dear is looked up only when a config asks for it.

/// Facts about the machine and the caller.
pub struct Host {
    /// Effective uid of the caller.
    pub euid: u32,
    /// Effective gid of the caller.
    pub egid: u32,
    /// The caller is inside a user namespace that isn't the initial one.
    pub in_user_namespace: bool,
    /// The highest capability that the kernel knows (capabilities(7)).
    pub last_capability: u32,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// SELinux is enabled.
    pub selinux: bool,
    /// `/proc/kcore` exists.
    pub kcore: bool,
    /// `/proc/self/setgroups` says `deny`: looked at only inside a user namespace.
    pub setgroups_denied: bool,
}
