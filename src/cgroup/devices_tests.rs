//! The program is run by a small interpreter and compared, request by request, with the plain
//! meaning of the rules.

use super::*;

/// Runs a program as the kernel would, with its context (access_type, major, minor).
fn run(program: &[u64], context: [u32; 3]) -> bool {
    let mut registers = [0u64; 11];
    let mut at = 0i64;
    loop {
        let word = program[at as usize];
        let (destination, source) = ((word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
        let (offset, immediate) = ((word >> 16) as i16, (word >> 32) as u32);
        let value = registers[destination] as u32;
        at += 1;
        match word as u8 {
            0x61 => {
                assert_eq!((source, offset % 4), (1, 0), "only the context can be read");
                registers[destination] = u64::from(context[offset as usize / 4]);
            }
            0xb4 => registers[destination] = u64::from(immediate),
            0xbc => registers[destination] = u64::from(registers[source] as u32),
            0x54 => registers[destination] = u64::from(value & immediate),
            0x4c => registers[destination] = u64::from(value | registers[source] as u32),
            0x64 => registers[destination] = u64::from(value << immediate),
            0x74 => registers[destination] = u64::from(value >> immediate),
            0x16 if value == immediate => at += i64::from(offset),
            0x56 if value != immediate => at += i64::from(offset),
            0x46 if value & immediate != 0 => at += i64::from(offset),
            0x05 => at += i64::from(offset),
            0x16 | 0x56 | 0x46 => {}
            0x95 => return registers[0] == 1,
            code => panic!("unknown instruction {code:#x}"),
        }
        assert!(offset >= 0, "the program must not loop");
    }
}

/// What the rules mean: for each bit, the last rule that speaks of it; denied if none does.
fn allowed(rules: &[Rule], kind: Kind, major: u32, minor: u32, access: u32) -> bool {
    [MKNOD, READ, WRITE]
        .into_iter()
        .filter(|bit| access & bit != 0)
        .all(|bit| {
            let mut verdict = false;
            for rule in rules {
                let matches = rule.kind.is_none_or(|wanted| wanted == kind)
                    && rule.major.is_none_or(|wanted| wanted == major)
                    && rule.minor.is_none_or(|wanted| wanted == minor)
                    && rule.access & bit != 0;
                if matches {
                    verdict = rule.allow;
                }
            }
            verdict
        })
}

/// Compares over all types, accesses and every number that a rule names, and one that none does.
fn compare(all: &[Rule]) {
    let effective = without_effectless(all);
    let program = program(&effective);
    let mut numbers: Vec<u32> = all
        .iter()
        .flat_map(|rule| [rule.major, rule.minor])
        .flatten()
        .collect();
    // The kernel has no others.
    numbers.retain(|number| *number < 1 << 12);
    numbers.push(77);
    numbers.sort_unstable();
    numbers.dedup();
    for kind in [Kind::Block, Kind::Char] {
        for access in 1..=RWM {
            for &major in &numbers {
                for &minor in &numbers {
                    let context = [access << 16 | kind as u32, major, minor];
                    assert_eq!(
                        run(&program, context),
                        allowed(all, kind, major, minor, access),
                        "{kind:?} {major}:{minor} access {access} of {all:#?}"
                    );
                }
            }
        }
    }
}

fn parse(json: &str) -> Vec<LinuxDeviceCgroup> {
    serde_json::from_str(json).unwrap()
}

/// As written: `rules` without leaving anything out.
fn all_rules(json: &str) -> Vec<Rule> {
    let built_in = BUILT_IN.map(|(_, rule)| rule);
    let config = parse(json);
    let own = config
        .iter()
        .enumerate()
        .map(|(index, rule)| read(rule, index).unwrap());
    own.chain(built_in).collect()
}

#[test]
fn programs_mean_what_rules_say() {
    let table = [
        "[]",
        r#"[{"allow":false,"access":"rwm"}]"#,
        r#"[{"allow":true,"access":"rwm"}]"#,
        r#"[{"allow":true,"access":"r"}]"#,
        r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","access":"w"}]"#,
        r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"},
            {"allow":true,"type":"b","major":8,"access":"r"},{"allow":false,"type":"b","major":8,"minor":3,"access":"r"}]"#,
        r#"[{"allow":true,"type":"c","major":4294967295,"minor":2147483648,"access":"rw"}]"#,
        r#"[{"allow":true,"type":"a","major":-1,"minor":-1,"access":"rwm"},{"allow":false,"access":"m"}]"#,
    ];
    for json in table {
        compare(&all_rules(json));
    }
}

#[test]
fn programs_mean_what_random_rules_say() {
    // A fixed xorshift: the same rules in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..400 {
        let rules: Vec<Rule> = (0..random(9))
            .map(|_| Rule {
                allow: random(2) == 0,
                kind: [None, Some(Kind::Block), Some(Kind::Char)][random(3) as usize],
                major: [None, Some(1), Some(8)][random(3) as usize],
                minor: [None, Some(3), Some(8)][random(3) as usize],
                access: random(7) as u32 + 1,
            })
            .collect();
        compare(&rules);
    }
}

#[test]
fn a_partial_denial_holds_against_a_wider_request() {
    let rules = rules(
        &parse(
            r#"[{"allow":true,"type":"b","major":8,"access":"rwm"},
                {"allow":false,"type":"b","major":8,"minor":1,"access":"w"}]"#,
        ),
        &[],
    )
    .unwrap();
    let program = program(&rules);
    let block = |access: u32, minor| run(&program, [access << 16 | 1, 8, minor]);
    assert!(block(READ, 1));
    assert!(!block(WRITE, 1));
    assert!(!block(READ | WRITE, 1));
    assert!(block(READ | WRITE, 2));
}

#[test]
fn rules_that_engines_repeat_cost_nothing() {
    let bare = rules(&parse(r#"[{"allow":false,"access":"rwm"}]"#), &[]).unwrap();
    let repeated = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","access":"m"},
        {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]"#;
    assert_eq!(rules(&parse(repeated), &[]).unwrap(), bare);
    assert_eq!(bare.len(), BUILT_IN.len());
}

#[test]
fn a_configured_device_takes_its_built_in_rule_away() {
    let rules_for = |paths: &[&str]| rules(&[], paths).unwrap();
    assert!(run(
        &program(&rules_for(&["/dev/fuse"])),
        [READ << 16 | 2, 1, 3]
    ));
    assert!(!run(
        &program(&rules_for(&["/dev/null"])),
        [READ << 16 | 2, 1, 3]
    ));
}

#[test]
fn numbers_that_no_device_has_match_none() {
    // 0x1001 in 12 bits is 1, and 0x100003 in 20 bits is 3.
    let json = r#"[{"allow":true,"type":"c","major":4097,"minor":77,"access":"rwm"},
        {"allow":true,"type":"c","major":4174,"access":"rwm"},
        {"allow":true,"type":"c","major":77,"minor":1048579,"access":"rwm"}]"#;
    let program = program(&rules(&parse(json), &[]).unwrap());
    assert!(!run(&program, [READ << 16 | 2, 1, 77]));
    assert!(!run(&program, [READ << 16 | 2, 77, 3]));
    assert!(!run(&program, [READ << 16 | 2, 78, 3]));
}

#[test]
fn everything_allowed_is_recognised() {
    let all = |json: &str| allow_all(&rules(&parse(json), &[]).unwrap());
    assert!(all(r#"[{"allow":true,"access":"rwm"}]"#));
    assert!(all(
        r#"[{"allow":false,"access":"rwm"},{"allow":true,"access":"mrw"}]"#
    ));
    assert!(!all(
        r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","access":"w"}]"#
    ));
    assert!(!all(r#"[{"allow":true,"access":"rw"}]"#));
    assert!(!all("[]"));
}

#[test]
fn wrong_rules_name_themselves() {
    let table = [
        (
            r#"[{"allow":true,"access":"rwx"}]"#,
            "linux.resources.devices[0].access: \"rwx\" has other letters than r, w, m",
        ),
        (
            r#"[{"allow":true,"access":""}]"#,
            "linux.resources.devices[0].access: cannot be empty",
        ),
        (
            r#"[{"allow":true}]"#,
            "linux.resources.devices[0].access: cannot be empty",
        ),
        (
            r#"[{"allow":true,"access":"r"},{"allow":true,"type":"p","access":"r"}]"#,
            "linux.resources.devices[1].type: \"p\" is not one of a, b, c",
        ),
        (
            r#"[{"allow":true,"major":-2,"access":"r"}]"#,
            "linux.resources.devices[0].major: -2 is neither a device number nor -1 (any)",
        ),
        (
            r#"[{"allow":true,"minor":4294967296,"access":"r"}]"#,
            "linux.resources.devices[0].minor: 4294967296 is neither a device number nor -1 (any)",
        ),
    ];
    for (json, expected) in table {
        assert_eq!(rules(&parse(json), &[]).unwrap_err().to_string(), expected);
    }
    // runc's tests (update.bats) have this one, and it must stand.
    let odd = r#"[{"allow":false,"type":"c","major":1,"minor":11,"access":"rwa"}]"#;
    rules(&parse(odd), &[]).unwrap();
}

#[test]
fn the_null_device_is_allowed_unless_a_config_has_its_own() {
    let null = |json: &str, paths: &[&str]| allow_null(&rules(&parse(json), paths).unwrap());
    let own = ["/dev/null"];
    assert!(null("[]", &[]));
    assert!(null(
        r#"[{"allow": false, "access": "rwm"}]"#,
        &["/dev/zero"]
    ));
    assert!(!null("[]", &own));
    for (rest, wanted) in [
        (r#""access": "rwm""#, true),
        (r#""type": "c", "major": 1, "access": "rw""#, true),
        (
            r#""type": "c", "major": 1, "minor": 3, "access": "w""#,
            false,
        ),
        (
            r#""type": "b", "major": 1, "minor": 3, "access": "rw""#,
            false,
        ),
    ] {
        let rule = format!(r#"{{"allow": true, {rest}}}"#);
        assert_eq!(null(&format!("[{rule}]"), &own), wanted, "{rest}");
        let denied = format!(r#"[{rule}, {{"allow": false, "access": "w"}}]"#);
        assert!(!null(&denied, &own), "{rest}");
    }
}
