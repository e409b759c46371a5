//! Command lines as callers write them, and what is made of them. They were tried on runc 1.3.6 too, which
//! agrees unless a comment tells otherwise.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::CommandFactory;

use super::*;

mod accepted;

/// Reads a command line without the program's name; `_` stands for an empty word.
fn parsed(line: &str) -> Parsed {
    let word = |word: &str| OsString::from(if word == "_" { "" } else { word });
    let args = || std::iter::once("runz".into()).chain(line.split_whitespace().map(word));
    let parsed = parse(args());
    // Whichever way it's read.
    assert_eq!(parsed, parse::parse_after(|_, _| None, args()), "{line:?}");
    parsed
}

fn run(line: &str) -> (Global, Command) {
    match parsed(line) {
        Parsed::Run(global, command) => (global, command),
        other => panic!("{line:?}: {other:?}"),
    }
}

fn command(line: &str) -> Command {
    run(line).1
}

/// What is said of a refused line: message, code, first line on stdout.
fn refused(line: &str) -> (String, u8, String) {
    match parsed(line) {
        Parsed::Refused {
            message,
            code,
            stdout,
            ..
        } => (
            message,
            code,
            stdout.lines().next().unwrap_or_default().to_owned(),
        ),
        other => panic!("{line:?}: {other:?}"),
    }
}

fn id() -> String {
    "web".into()
}

#[test]
fn clap_finds_no_fault_in_the_tree() {
    Tree::command().debug_assert();
}

#[test]
fn every_verb_of_the_tree_is_parsed() {
    for verb in Tree::command().get_subcommands() {
        let name = verb.get_name();
        match parsed(&format!("{name} --help")) {
            Parsed::Exit { stdout } => {
                let mut lines = stdout.lines();
                assert_eq!(lines.next(), Some("NAME:"));
                let about = lines.next().unwrap();
                assert!(
                    about.starts_with(&format!("   runz {name} - ")),
                    "{about:?}"
                );
            }
            other => panic!("{name}: {other:?}"),
        }
        for line in [
            format!("help {name}"),
            format!("{name} -h"),
            format!("h {name}"),
        ] {
            assert_eq!(parsed(&line), parsed(&format!("{name} --help")), "{line:?}");
        }
    }
}

#[test]
fn help_lines_are_imperative_and_one_sentence() {
    for verb in Tree::command().get_subcommands() {
        let about = verb.get_about().unwrap().to_string();
        let first = about.split(' ').next().unwrap();
        assert!(!first.ends_with('s') && !about.ends_with('.'), "{about:?}");
    }
}

#[test]
fn no_command_is_help() {
    let Parsed::Exit { stdout } = parsed("") else {
        panic!()
    };
    assert!(stdout.starts_with("NAME:\n   runz - Open Container Initiative runtime\n\nUSAGE:\n"));
    assert!(!stdout.contains("{"), "{stdout}");
    for verb in Tree::command().get_subcommands() {
        assert!(
            stdout.contains(&format!("\n  {}  ", verb.get_name())),
            "{}",
            verb.get_name()
        );
    }
    for line in [
        "-h",
        "--help",
        "help",
        "h",
        "--debug",
        "--help create",
        "--log-format xml -h",
    ] {
        assert_eq!(
            parsed(line),
            Parsed::Exit {
                stdout: stdout.clone()
            },
            "{line:?}"
        );
    }
}

#[test]
fn version_is_as_engines_read_it() {
    let Parsed::Exit { stdout } = parsed("--version") else {
        panic!()
    };
    let mut lines = stdout.lines();
    assert_eq!(
        lines.next(),
        Some(concat!("runz version ", env!("CARGO_PKG_VERSION")))
    );
    let rest: Vec<&str> = lines.filter(|line| !line.starts_with("commit: ")).collect();
    assert_eq!(rest, ["spec: 1.3.0"]);
    for line in [
        "-v",
        "-version",
        "--version create",
        "--log-format xml --version",
        "-v --root /",
    ] {
        assert_eq!(
            parsed(line),
            Parsed::Exit {
                stdout: stdout.clone()
            },
            "{line:?}"
        );
    }
}

/// The table that spares clap is the one that clap has.
#[test]
fn globals_are_clap_globals() {
    use super::words::{Flag, Takes};
    let tree = Tree::command();
    let of_clap: Vec<Flag> = parse::flags(&tree);
    let help = Flag {
        long: "help",
        short: Some('h'),
        takes: Takes::Value,
    };
    let mut of_clap: Vec<Flag> = of_clap.into_iter().filter(|flag| *flag != help).collect();
    // The one exception: an empty --root is refused instead of ignored.
    for flag in of_clap.iter_mut().filter(|flag| flag.long == "root") {
        flag.takes = Takes::ValueOrEmpty;
    }
    assert_eq!(parse::GLOBALS.to_vec(), of_clap);
}

#[test]
fn globals_are_set() {
    let default = Global::default();
    assert_eq!(run("list").0, default);
    for (line, expected) in [
        (
            "--debug",
            Global {
                debug: true,
                ..default.clone()
            },
        ),
        ("--debug=false", default.clone()),
        (
            "-debug",
            Global {
                debug: true,
                ..default.clone()
            },
        ),
        (
            "--log /l",
            Global {
                log: Some("/l".into()),
                ..default.clone()
            },
        ),
        ("--log=", default.clone()),
        ("--log _", default.clone()),
        (
            "--log-format json",
            Global {
                log_format: LogFormat::Json,
                ..default.clone()
            },
        ),
        ("--log-format=text", default.clone()),
        ("--log-format=", default.clone()),
        (
            "--root /r",
            Global {
                root: Some("/r".into()),
                ..default.clone()
            },
        ),
        (
            "-root r",
            Global {
                root: Some("r".into()),
                ..default.clone()
            },
        ),
        (
            "--systemd-cgroup",
            Global {
                systemd_cgroup: true,
                ..default.clone()
            },
        ),
        ("--cgroup-manager=disabled", {
            Global {
                cgroup_manager: Some(CgroupManager::Disabled),
                ..default.clone()
            }
        }),
        ("--cgroup-manager systemd", {
            Global {
                cgroup_manager: Some(CgroupManager::Systemd),
                ..default.clone()
            }
        }),
        (
            "--rootless true",
            Global {
                rootless: Rootless::True,
                ..default.clone()
            },
        ),
        (
            "--rootless=1",
            Global {
                rootless: Rootless::True,
                ..default.clone()
            },
        ),
        (
            "--rootless F",
            Global {
                rootless: Rootless::False,
                ..default.clone()
            },
        ),
        ("--rootless auto", default.clone()),
        ("--rootless _", default.clone()),
        (
            "--criu /c",
            Global {
                criu: Some("/c".into()),
                ..default.clone()
            },
        ),
        (
            "--trace /t",
            Global {
                trace: Some("/t".into()),
                ..default.clone()
            },
        ),
        ("--", default.clone()),
    ] {
        assert_eq!(run(&format!("{line} list")).0, expected, "{line:?}");
    }
}

#[test]
fn trace_may_stand_behind_the_verb() {
    for line in [
        "--trace /t start web",
        "start --trace /t web",
        "start web -trace=/t",
        "--trace /x start web --trace /t",
    ] {
        let (global, command) = run(line);
        assert_eq!(
            (global.trace, command),
            (Some("/t".into()), Command::Start(Start { id: id() })),
            "{line:?}"
        );
    }
    // There, it belongs to the program.
    let (global, command) = run("exec web prog --trace /t");
    let args = ["prog", "--trace", "/t"].map(String::from).to_vec();
    assert_eq!(
        (global.trace, command),
        (
            None,
            Command::Exec(Exec {
                id: id(),
                args,
                ..Exec::default()
            })
        )
    );
    // Other globals are no flags of a verb.
    assert_eq!(
        refused("start --debug web").0,
        "flag provided but not defined: -debug"
    );
}

#[test]
fn mistakes_are_told_as_runc_tells_them() {
    let usage = |message: &str| format!("Incorrect Usage: {message}");
    for (line, message) in [
        (
            "create --bogus web",
            "flag provided but not defined: -bogus",
        ),
        // runc counts it as an argument, and complains of that.
        (
            "create web --bogus",
            "flag provided but not defined: -bogus",
        ),
        ("create ---x web", "bad flag syntax: ---x"),
        ("create --bundle", "flag needs an argument: -bundle"),
        (
            "restore --lsm-mount-context",
            "flag needs an argument: -lsm-mount-context",
        ),
        (
            "create --no-pivot=maybe web",
            "invalid boolean value \"maybe\" for -no-pivot: parse error",
        ),
        (
            "create --preserve-fds x web",
            "invalid value \"x\" for flag -preserve-fds: parse error",
        ),
        (
            "create --preserve-fds= web",
            "invalid value \"\" for flag -preserve-fds: parse error",
        ),
        (
            "create --preserve-fds=99999999999999999999 web",
            "invalid value \"99999999999999999999\" for flag -preserve-fds: value out of range",
        ),
        ("exec -e", "flag needs an argument: -e"),
        (
            "exec -g x web ls",
            "invalid value \"x\" for flag -additional-gids: parse error",
        ),
        ("list --format", "flag needs an argument: -format"),
        (
            "events --interval 1q web",
            "invalid value \"1q\" for flag -interval: parse error",
        ),
        ("update --pids-limit 1.5 web", {
            "invalid value \"1.5\" for flag -pids-limit: parse error"
        }),
        ("--bogus list", "flag provided but not defined: -bogus"),
        ("--log", "flag needs an argument: -log"),
        (
            "--debug=maybe list",
            "invalid boolean value \"maybe\" for -debug: parse error",
        ),
    ] {
        assert_eq!(
            refused(line),
            (message.into(), 1, usage(message)),
            "{line:?}"
        );
    }
}

/// What runc's flags let pass as text and its verbs refuse: one line, no help, the verb's exit code.
#[test]
fn what_a_verb_reads_itself_is_its_own_error() {
    const UID: &str = "bad uid: not a number from 0 to 4294967295 (names are not looked up)";
    const GID: &str = "bad gid: not a number from 0 to 4294967295 (names are not looked up)";
    let user = |value, why| {
        format!("exec \"web\": exec failed: invalid value \"{value}\" for flag -user: {why}")
    };
    for (line, code, message) in [
        ("exec -u root web ls", 255, user("root", UID)),
        ("exec -u 0:root web ls", 255, user("0:root", GID)),
        ("exec -u 0: web ls", 255, user("0:", GID)),
        ("exec -u -1 web ls", 255, user("-1", UID)),
        ("exec -u 4294967296 web ls", 255, user("4294967296", UID)),
        (
            "exec -g -1 web ls",
            255,
            "exec \"web\": exec failed: invalid value \"-1\" for flag -additional-gids: additional-gids must be a positive number".into(),
        ),
        (
            "list -f yaml",
            1,
            "invalid format option \"yaml\": not one of table, json".into(),
        ),
        (
            "ps -f= web",
            1,
            "ps \"web\": invalid format option \"\": not one of table, json".into(),
        ),
        (
            "events --interval 0s web",
            1,
            "events \"web\": invalid value \"0s\" for flag -interval: duration interval must be greater than 0".into(),
        ),
        (
            "update --memory 1q web",
            1,
            "update \"web\": invalid value \"1q\" for flag -memory: invalid suffix".into(),
        ),
        (
            "update --cpu-share -1 web",
            1,
            "update \"web\": invalid value \"-1\" for flag -cpu-share: invalid syntax".into(),
        ),
        (
            "update --blkio-weight 70000 web",
            1,
            "update \"web\": invalid value \"70000\" for flag -blkio-weight: not between 10 and 1000".into(),
        ),
        (
            "checkpoint --manage-cgroups-mode x web",
            1,
            "checkpoint \"web\": invalid value \"x\" for flag -manage-cgroups-mode: not one of soft, full, strict, ignore".into(),
        ),
        (
            "completion tcsh",
            1,
            "invalid <shell> \"tcsh\": not one of bash, zsh, fish".into(),
        ),
        ("--log-format xml list", 1, "invalid log-format: xml".into()),
        // runc looks only when it needs it.
        (
            "--rootless maybe list",
            1,
            "invalid value \"maybe\" for flag -rootless: not one of true, false, auto".into(),
        ),
        (
            "--cgroup-manager x list",
            1,
            "invalid value \"x\" for flag -cgroup-manager: not one of cgroupfs, systemd, disabled"
                .into(),
        ),
        // runc takes the current directory.
        (
            "--root= list",
            1,
            "Option --root argument should not be empty".into(),
        ),
    ] {
        assert_eq!(refused(line), (message, code, String::new()), "{line:?}");
    }
}

#[test]
fn arguments_are_counted() {
    for (line, message) in [
        ("create", "\"create\" requires exactly 1 argument(s)"),
        ("create a b", "\"create\" requires exactly 1 argument(s)"),
        (
            "create -- a -b",
            "\"create\" requires exactly 1 argument(s)",
        ),
        ("list a", "\"list\" requires exactly 0 argument(s)"),
        ("features a", "\"features\" requires exactly 0 argument(s)"),
        ("kill", "\"kill\" requires a minimum of 1 argument(s)"),
        ("kill a b c", "\"kill\" requires a maximum of 2 argument(s)"),
        ("exec", "\"exec\" requires a minimum of 1 argument(s)"),
        ("ps -f json", "\"ps\" requires a minimum of 1 argument(s)"),
        (
            "completion",
            "\"completion\" requires exactly 1 argument(s)",
        ),
    ] {
        assert_eq!(
            refused(line),
            (message.into(), 1, "Incorrect Usage.".into()),
            "{line:?}"
        );
    }
}

#[test]
fn unknown_commands_exit_with_3() {
    for line in [
        "foo",
        "foo -h",
        "help foo",
        "--debug foo create",
        "_",
        "Create",
    ] {
        let name = match line {
            "_" => "",
            "Create" => line,
            _ => "foo",
        };
        assert_eq!(
            refused(line),
            (format!("No help topic for '{name}'"), 3, String::new()),
            "{line:?}"
        );
    }
}

/// containerd and podman read the reason from the log.
#[test]
fn a_refusal_is_logged_where_the_globals_say() {
    for line in [
        "--log /l --log-format json create --bogus",
        "--log /l --log-format json create",
        "--log /l --log-format json foo",
    ] {
        let Parsed::Refused { global, .. } = parsed(line) else {
            panic!("{line:?}")
        };
        assert_eq!(
            (global.log, global.log_format),
            (Some("/l".into()), LogFormat::Json),
            "{line:?}"
        );
    }
}

#[test]
fn bytes_that_are_no_utf8_are_paths_or_refused() {
    let bad = OsString::from_vec(b"/\xff".to_vec());
    let line = |words: &[&OsString]| parse(words.iter().map(|word| (*word).clone()));
    let word = |word: &str| OsString::from(word);
    let create = line(&[
        &word("runz"),
        &word("create"),
        &word("-b"),
        &bad,
        &word("web"),
    ]);
    let expected = Create {
        bundle: Some(bad.clone().into()),
        id: id(),
        ..Create::default()
    };
    assert_eq!(
        create,
        Parsed::Run(Global::default(), Command::Create(expected))
    );
    match line(&[&word("runz"), &word("exec"), &word("web"), &bad]) {
        Parsed::Refused {
            message, code: 1, ..
        } => assert_eq!(message, "an argument is not valid UTF-8"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_arguments_at_all_is_help_too() {
    assert_eq!(parse(std::iter::empty()), parsed(""));
}
