//! Programs against meanings: golden ones, an engine's, and (`random.rs`) random
//! ones.

mod random;

use std::fmt::Write;

use libc::sock_filter;
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::interpreter::{Call, run, verify};
use super::meaning::{disagreement, numbers};
use super::syscall::{Abi, NONE, find};
use super::table::SYSCALLS;
use super::{ACTIONS, ARCHITECTURES, KNOWN_FLAGS, OPERATORS, Program, compile};

const PODMAN: &str = include_str!("../../tests/data/seccomp-podman.json");
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL: u32 = 0;
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;

fn profile(value: Value) -> LinuxSeccomp {
    serde_json::from_value(value).unwrap()
}

/// Compiles, and compares every verdict with what the profile means.
fn checked(profile: &LinuxSeccomp) -> Program {
    let program = compile(profile).unwrap();
    verify(&program.filter).unwrap();
    if let Some((call, seen)) = disagreement(profile, &program.filter) {
        panic!(
            "{call:x?}: {seen:#x}\n{}\n{}",
            listing(&program.filter),
            serde_json::to_string_pretty(profile).unwrap()
        );
    }
    program
}

fn error(value: Value) -> String {
    compile(&profile(value)).unwrap_err().to_string()
}

/// A verdict for one call with its leading arguments.
fn verdict(program: &Program, arch: u32, nr: u32, leading: &[u64]) -> u32 {
    let mut args = [0; 6];
    args[..leading.len()].copy_from_slice(leading);
    run(&program.filter, &Call { arch, nr, args }).0
}

fn listing(filter: &[sock_filter]) -> String {
    let mut text = String::new();
    for (pc, i) in filter.iter().enumerate() {
        let (yes, no) = (pc + 1 + usize::from(i.jt), pc + 1 + usize::from(i.jf));
        let _ = match i.code {
            0x20 => writeln!(text, "{pc}: load [{}]", i.k),
            0x54 => writeln!(text, "{pc}: and {:#x}", i.k),
            0x05 => writeln!(text, "{pc}: goto {}", pc + 1 + i.k as usize),
            0x15 => writeln!(text, "{pc}: == {:#x} ? {yes} : {no}", i.k),
            0x25 => writeln!(text, "{pc}: > {:#x} ? {yes} : {no}", i.k),
            0x35 => writeln!(text, "{pc}: >= {:#x} ? {yes} : {no}", i.k),
            _ => writeln!(text, "{pc}: return {:#x}", i.k),
        };
    }
    text
}

#[test]
fn table_is_sorted_and_found() {
    assert!(SYSCALLS.is_sorted_by(|a, b| a.name < b.name));
    for syscall in SYSCALLS {
        assert_eq!(find(syscall.name).unwrap().name, syscall.name);
    }
    for unknown in ["", "readx", "rea", "Read", "sysmips", "s390_pci_mmio_read"] {
        assert!(find(unknown).is_none(), "{unknown}");
    }
    // As the C library of the machine has it.
    let read = find("read").unwrap();
    assert_eq!(read.number(Abi::X86_64), Some(libc::SYS_read as u16));
    assert_eq!(read.number(Abi::I386), Some(3));
    let openat2 = find("openat2").unwrap();
    assert_eq!(openat2.number(Abi::X86_64), Some(libc::SYS_openat2 as u16));
    // Calls that only one ABI has.
    assert_eq!(find("readv").unwrap().number(Abi::X32), Some(515));
    assert_eq!(find("_llseek").unwrap().number(Abi::X86_64), None);
    assert_eq!(find("send").unwrap().multiplexed(), Some((102, 9)));
    assert_eq!(find("shmctl").unwrap().multiplexed(), Some((117, 24)));
    assert_eq!(read.multiplexed(), None);
    assert_eq!(NONE, u16::MAX);
}

#[test]
fn table_is_recent() {
    // Linux 6.12 and 6.18.
    for (name, number) in [("setxattrat", 463), ("file_setattr", 469)] {
        assert_eq!(find(name).unwrap().number(Abi::X86_64), Some(number));
    }
}

#[test]
fn feature_lists_parse() {
    let parses = |field: &str, name: &str| {
        let mut value = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        value[field] = match field {
            "defaultAction" => json!(name),
            _ => json!([name]),
        };
        serde_json::from_value::<LinuxSeccomp>(value).unwrap();
    };
    ACTIONS
        .iter()
        .for_each(|name| parses("defaultAction", name));
    ARCHITECTURES
        .iter()
        .for_each(|name| parses("architectures", name));
    KNOWN_FLAGS.iter().for_each(|name| parses("flags", name));
    for op in OPERATORS {
        profile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 1, "op": op}]}
        ]}));
    }
    for list in [ACTIONS, OPERATORS, ARCHITECTURES] {
        assert!(list.is_sorted());
    }
}

#[test]
fn allow_list_golden() {
    let program = checked(&profile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["read", "write", "close", "exit_group"], "action": "SCMP_ACT_ALLOW"}]
    })));
    assert_eq!(
        listing(&program.filter),
        "0: load [4]\n\
         1: == 0xc000003e ? 2 : 13\n\
         2: load [0]\n\
         3: >= 0x40000000 ? 9 : 4\n\
         4: >= 0xe7 ? 7 : 5\n\
         5: >= 0x4 ? 14 : 6\n\
         6: == 0x2 ? 14 : 8\n\
         7: >= 0xe8 ? 11 : 8\n\
         8: return 0x7fff0000\n\
         9: >= 0xc0000000 ? 12 : 10\n\
         10: >= 0x80000000 ? 11 : 13\n\
         11: return 0x50026\n\
         12: >= 0xffffffff ? 14 : 13\n\
         13: return 0x0\n\
         14: return 0x50001\n"
    );
}

#[test]
fn conditions_golden() {
    let program = checked(&profile(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
            "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]
    })));
    assert_eq!(
        listing(&program.filter),
        "0: load [4]\n\
         1: == 0xc000003e ? 3 : 2\n\
         2: == 0x40000003 ? 14 : 13\n\
         3: load [0]\n\
         4: >= 0x40000000 ? 12 : 5\n\
         5: == 0x87 ? 6 : 20\n\
         6: load [20]\n\
         7: == 0x0 ? 8 : 11\n\
         8: load [16]\n\
         9: == 0x8 ? 10 : 11\n\
         10: return 0x50016\n\
         11: return 0x7fff0000\n\
         12: >= 0xffffffff ? 20 : 13\n\
         13: return 0x0\n\
         14: load [0]\n\
         15: == 0x88 ? 16 : 20\n\
         16: load [16]\n\
         17: == 0x8 ? 18 : 19\n\
         18: return 0x50016\n\
         19: return 0x7fff0000\n\
         20: return 0x7fff0000\n"
    );
}

#[test]
fn podman_profile() {
    let profile: LinuxSeccomp = serde_json::from_str(PODMAN).unwrap();
    let program = checked(&profile);
    assert!(program.filter.len() < 700, "{}", program.filter.len());
    let args = [u64::MAX; 6];
    let longest = numbers().flat_map(|nr| [X86_64, I386].map(|arch| Call { arch, nr, args }));
    let longest = longest.map(|call| run(&program.filter, &call).1).max();
    assert!(longest < Some(45), "{longest:?}");
    assert_eq!(
        verdict(&program, X86_64, libc::SYS_clone3 as u32, &[]),
        ALLOW
    );
    assert_eq!(
        verdict(&program, X86_64, libc::SYS_mount as u32, &[]),
        ALLOW
    );
    assert_eq!(
        verdict(&program, X86_64, libc::SYS_bpf as u32, &[]),
        ERRNO | 1
    );
    assert_eq!(verdict(&program, X86_64, 5000, &[]), ERRNO | 38);
    assert_eq!(program.flags, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32);
    assert!(program.listener.is_none());
    println!(
        "{} instructions, {longest:?} steps, {:?}",
        program.filter.len(),
        program.warnings
    );
}

#[test]
fn architectures() {
    let listing = |architectures: &[&str]| {
        checked(&profile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": architectures,
            "syscalls": [{"names": ["read", "exit"], "action": "SCMP_ACT_ALLOW"}]
        })))
    };
    for (architectures, x32, i386) in [
        (&[][..], KILL, KILL),
        (&["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"], KILL, KILL),
        (&["SCMP_ARCH_X32"], ALLOW, KILL),
        (&["SCMP_ARCH_X86"], KILL, ALLOW),
        (
            &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            ALLOW,
            ALLOW,
        ),
    ] {
        let program = listing(architectures);
        assert_eq!(verdict(&program, X86_64, 0, &[]), ALLOW);
        assert_eq!(
            verdict(&program, X86_64, X32_BIT, &[]),
            x32,
            "{architectures:?}"
        );
        assert_eq!(verdict(&program, I386, 3, &[]), i386, "{architectures:?}");
        assert_eq!(verdict(&program, 0xc000_00b7, 63, &[]), KILL);
    }
}

#[test]
fn unconditional_rules_win() {
    let eq = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]);
    let some = json!({"names": ["read"], "action": "SCMP_ACT_KILL_PROCESS", "args": eq});
    let all = json!({"names": ["read"], "action": "SCMP_ACT_LOG"});
    let late = json!({"names": ["read"], "action": "SCMP_ACT_TRAP"});
    for order in [
        [&some, &all, &late],
        [&all, &some, &late],
        [&all, &late, &some],
    ] {
        let program = checked(&profile(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": order}),
        ));
        assert_eq!(verdict(&program, X86_64, 0, &[1]), 0x7ffc_0000);
        assert_eq!(verdict(&program, X86_64, 0, &[2]), 0x7ffc_0000);
    }
}

#[test]
fn overlapping_rules() {
    // What libseccomp 2.6.1 answers, whichever of the two rules is added first.
    let arg = |index: usize, op: &str, value: u64| json!([{"index": index, "value": value, "op": format!("SCMP_CMP_{op}")}]);
    for (log, trap, args) in [
        (arg(0, "EQ", 1), arg(1, "EQ", 2), [1, 2]),
        (arg(0, "GE", 1), arg(0, "EQ", 8), [8, 0]),
        (arg(0, "GE", 1), arg(0, "LE", 8), [8, 0]),
        (arg(0, "GT", 1), arg(0, "GT", 8), [9, 0]),
        (arg(0, "LT", 16), arg(0, "LT", 8), [2, 0]),
        (arg(0, "LT", 16), arg(0, "NE", 8), [2, 0]),
    ] {
        let log = json!({"names": ["ioctl"], "action": "SCMP_ACT_LOG", "args": log});
        let trap = json!({"names": ["ioctl"], "action": "SCMP_ACT_TRAP", "args": trap});
        for order in [[&log, &trap], [&trap, &log]] {
            let rules = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": order});
            let program = checked(&profile(rules));
            let seen = verdict(&program, X86_64, libc::SYS_ioctl as u32, &args);
            assert_eq!(seen, libc::SECCOMP_RET_TRAP, "{order:?}");
        }
    }
    // Of rules that begin alike, the profile's first one.
    let one = json!({"index": 0, "value": 1, "op": "SCMP_CMP_EQ"});
    let two = json!({"index": 1, "value": 2, "op": "SCMP_CMP_EQ"});
    let log = json!({"names": ["ioctl"], "action": "SCMP_ACT_LOG", "args": [one]});
    let trap = json!({"names": ["ioctl"], "action": "SCMP_ACT_TRAP", "args": [one, two]});
    for (order, expected) in [
        ([&log, &trap], libc::SECCOMP_RET_LOG),
        ([&trap, &log], libc::SECCOMP_RET_TRAP),
    ] {
        let program = checked(&profile(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": order}),
        ));
        assert_eq!(
            verdict(&program, X86_64, libc::SYS_ioctl as u32, &[1, 2]),
            expected
        );
    }
}

#[test]
fn multiplexed_calls() {
    let rule = |name: &str, action: &str| {
        json!({"names": [name], "action": action,
            "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]})
    };
    let rules = [
        rule("socket", "SCMP_ACT_ALLOW"),
        rule("shmat", "SCMP_ACT_LOG"),
    ];
    let program = checked(&profile(json!({"defaultAction": "SCMP_ACT_TRAP",
        "architectures": ["SCMP_ARCH_X86"], "syscalls": rules})));
    // The family is out of sight in socketcall(2): any socket will do.
    assert_eq!(verdict(&program, I386, 102, &[1]), ALLOW);
    assert_eq!(verdict(&program, I386, 102, &[2]), libc::SECCOMP_RET_TRAP);
    assert_eq!(verdict(&program, I386, 117, &[21]), libc::SECCOMP_RET_LOG);
    // By its own number it is the family that counts.
    assert_eq!(verdict(&program, I386, 359, &[2]), ALLOW);
    assert_eq!(verdict(&program, I386, 359, &[1]), libc::SECCOMP_RET_TRAP);
}

#[test]
fn newer_calls() {
    let verdicts = |names: &[&str], default: &str| {
        let program = checked(&profile(json!({"defaultAction": default,
            "architectures": ["SCMP_ARCH_X32", "SCMP_ARCH_X86"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_LOG"}]})));
        [(X86_64, 400), (X86_64, X32_BIT + 600), (I386, 400)]
            .map(|(arch, nr)| verdict(&program, arch, nr, &[]))
    };
    let (new, trap) = (ERRNO | 38, libc::SECCOMP_RET_TRAP);
    assert_eq!(verdicts(&["write"], "SCMP_ACT_TRAP"), [new; 3]);
    assert_eq!(verdicts(&["openat2"], "SCMP_ACT_TRAP"), [trap, new, trap]);
    // Names without a number, and number 0: nothing to be newer than. x32's
    // numbers have a bit set.
    assert_eq!(verdicts(&["nosuchcall"], "SCMP_ACT_TRAP"), [trap; 3]);
    assert_eq!(verdicts(&["read"], "SCMP_ACT_TRAP"), [trap, new, new]);
    assert_eq!(verdicts(&["socket"], "SCMP_ACT_TRAP"), [new, new, trap]);
    for (default, action) in [
        ("SCMP_ACT_ALLOW", ALLOW),
        ("SCMP_ACT_LOG", libc::SECCOMP_RET_LOG),
        ("SCMP_ACT_TRACE", libc::SECCOMP_RET_TRACE | 1),
    ] {
        assert_eq!(verdicts(&["write"], default), [action; 3]);
    }
    // A rule that only repeats the default still names its call.
    let program = checked(&profile(json!({"defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["openat2"], "action": "SCMP_ACT_ERRNO"}]})));
    assert_eq!(verdict(&program, X86_64, 437, &[]), ERRNO | 1);
    assert_eq!(verdict(&program, X86_64, 438, &[]), ERRNO | 38);
}

#[test]
fn listener() {
    let notify = |extra: Value, name: &str| {
        let mut value = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "m", "flags": [],
            "syscalls": [{"names": [name], "action": "SCMP_ACT_NOTIFY"}]});
        value
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        value
    };
    let program = checked(&profile(notify(json!({"listenerPath": "/agent"}), "mkdir")));
    let listener = program.listener.unwrap();
    assert_eq!(listener.path.to_str(), Some("/agent"));
    assert_eq!(listener.metadata, "m");
    assert_eq!(program.flags, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32);

    for extra in [json!({}), json!({"listenerPath": ""})] {
        assert_eq!(
            error(notify(extra, "mkdir")),
            "linux.seccomp.listenerPath: not set, and SCMP_ACT_NOTIFY needs it"
        );
    }
    assert_eq!(
        error(notify(json!({"listenerPath": "/agent"}), "write")),
        "linux.seccomp.syscalls[0].names[0]: SCMP_ACT_NOTIFY cannot be used for the write syscall"
    );
    assert_eq!(
        error(json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/agent"})),
        "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action"
    );
    // A listener without a rule for it is nobody's business.
    let unused = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/agent"});
    assert_eq!(compile(&profile(unused)).unwrap().listener, None);
}

#[test]
fn flags() {
    let flags = |flags: Option<&[&str]>, action: &str| {
        let mut value = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/agent",
            "syscalls": [{"names": ["mkdir"], "action": action}]});
        if let Some(flags) = flags {
            value["flags"] = json!(flags);
        }
        compile(&profile(value)).unwrap().flags
    };
    assert_eq!(flags(None, "SCMP_ACT_LOG"), 4);
    assert_eq!(flags(None, "SCMP_ACT_NOTIFY"), 4 | 8);
    assert_eq!(flags(Some(&[]), "SCMP_ACT_LOG"), 0);
    assert_eq!(flags(Some(KNOWN_FLAGS), "SCMP_ACT_LOG"), 2 | 4);
    assert_eq!(flags(Some(KNOWN_FLAGS), "SCMP_ACT_NOTIFY"), 2 | 4 | 8 | 32);
}

#[test]
fn errors_name_the_path() {
    let arg = json!([{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]);
    let syscalls = |entry: Value| {
        let first = json!({"names": ["read"], "action": "SCMP_ACT_LOG"});
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [first, entry]})
    };
    for (value, message) in [
        (
            syscalls(json!({"names": ["read"], "action": "SCMP_ACT_LOG", "args": arg})),
            "linux.seccomp.syscalls[1].args[0].index: 6 is above 5",
        ),
        (
            syscalls(json!({"names": ["read", ""], "action": "SCMP_ACT_LOG"})),
            "linux.seccomp.syscalls[1].names[1]: empty system call name",
        ),
        (
            syscalls(json!({"names": [], "action": "SCMP_ACT_ERRNO", "errnoRet": 65536})),
            "linux.seccomp.syscalls[1].errnoRet: 65536 is above 65535",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 65536}),
            "linux.seccomp.defaultErrnoRet: 65536 is above 65535",
        ),
    ] {
        assert_eq!(error(value), message);
    }
}

#[test]
fn unknown_names_are_skipped() {
    let program = checked(&profile(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["read", "s390_runtime_instr"], "action": "SCMP_ACT_LOG"}]
    })));
    assert_eq!(
        program.warnings,
        ["linux.seccomp.syscalls[0].names[1]: unknown system call \"s390_runtime_instr\" ignored"]
    );
}

#[test]
fn too_large() {
    let entries: Vec<Value> = (0..2000)
        .map(|i| {
            json!({"names": ["ioctl"], "action": "SCMP_ACT_LOG",
                "args": [{"index": 1, "value": i, "op": "SCMP_CMP_EQ"}]})
        })
        .collect();
    let message = error(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entries}));
    assert!(
        message.starts_with("linux.seccomp: the filter has 1"),
        "{message}"
    );
    assert!(
        message.ends_with("instructions; the kernel takes 4096"),
        "{message}"
    );
}

#[test]
fn long_jumps_and_shared_rules() {
    // A thousand conditions between the ends of the tree, each for three calls.
    let entries: Vec<Value> = (0..200)
        .map(|i| {
            json!({"names": ["ioctl", "fcntl", "prctl"], "action": "SCMP_ACT_LOG",
                "args": [{"index": 1, "value": i, "op": "SCMP_CMP_EQ"}]})
        })
        .collect();
    let program = checked(&profile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": entries
    })));
    assert!(
        program.filter.len() < 200 * 8 + 60,
        "{}",
        program.filter.len()
    );
    assert_eq!(
        verdict(&program, X86_64, libc::SYS_ioctl as u32, &[0, 199]),
        0x7ffc_0000
    );
    assert_eq!(verdict(&program, I386, 172, &[0, 200]), ERRNO | 1);
}

#[test]
fn docker_like_shapes() {
    // moby's: clone without namespaces, clone3 as ENOSYS, sockets by family.
    let masked =
        json!([{"index": 0, "value": 2114060288u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]);
    let family = |op: &str| json!([{"index": 0, "value": 40, "op": op}]);
    let program = checked(&profile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["read", "write", "futex_waitv", "sendto", "shmat"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": masked},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": family("SCMP_CMP_LT")},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": family("SCMP_CMP_GT")},
        ]
    })));
    assert_eq!(
        verdict(&program, X86_64, libc::SYS_clone as u32, &[0x11]),
        ALLOW
    );
    assert_eq!(
        verdict(&program, X86_64, libc::SYS_clone as u32, &[0x1000_0011]),
        ERRNO | 1
    );
    assert_eq!(
        verdict(&program, X86_64, libc::SYS_clone3 as u32, &[]),
        ERRNO | 38
    );
    assert_eq!(
        verdict(&program, X86_64, libc::SYS_socket as u32, &[40]),
        ERRNO | 1
    );
    assert_eq!(
        verdict(&program, X86_64, libc::SYS_socket as u32, &[1]),
        ALLOW
    );
    // Newest is futex_waitv, 449.
    assert_eq!(verdict(&program, X86_64, 448, &[]), ERRNO | 1);
    assert_eq!(verdict(&program, X86_64, 450, &[]), ERRNO | 38);
    // i386: socketcall(SYS_SENDTO) and ipc(SHMAT) as well, nothing else of them.
    assert_eq!(verdict(&program, I386, 102, &[11]), ALLOW);
    assert_eq!(verdict(&program, I386, 117, &[21]), ALLOW);
    assert_eq!(verdict(&program, I386, 117, &[22]), ERRNO | 1);
}
