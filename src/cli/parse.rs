//! From argv to [`Parsed`]: the globals, the verb, then the verb's flags and operands.
//!
//! Every create and start pays for this, so clap builds only the verb that is named, and not even that
//! for a plain line (see `plain`); the globals are read without it. Nearly all of the cost is page
//! faults on clap's code. The refusals are runc's (urfave/cli 1.22), word for word.

use std::error::Error as _;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches};

use super::plain;
use super::words::{Flag, Takes, words};
use super::*;

/// A verb's flags, and the global ones that may stand among them.
#[derive(Debug, Args)]
struct Verb<V: Args> {
    #[command(flatten)]
    verb: V,
    #[arg(long)]
    trace: Option<PathBuf>,
    #[arg(long, value_enum)]
    zygote: Option<Prepared>,
}

/// Reads a verb and what follows it, if it can.
type First = fn(&str, &[OsString]) -> Option<Command>;

/// Why there is no command to run.
enum Stop {
    Print(String),
    Refuse {
        stdout: String,
        message: String,
        code: u8,
    },
}

/// Reads a command line, the program's name first.
pub fn parse(args: impl Iterator<Item = OsString>) -> Parsed {
    parse_after(plain::read, args)
}

/// The same, where `first` has a try at what follows the globals.
pub(super) fn parse_after(first: First, args: impl Iterator<Item = OsString>) -> Parsed {
    let mut global = Global::default();
    match command(first, &mut global, &mut args.skip(1)) {
        Ok(command) => Parsed::Run(global, command),
        Err(Stop::Print(stdout)) => Parsed::Exit { stdout },
        Err(Stop::Refuse {
            stdout,
            message,
            code,
        }) => Parsed::Refused {
            global,
            stdout,
            message,
            code,
        },
    }
}

/// The globals go to `global` one by one, so that a mistake after `--log` is logged there.
fn command(
    first: First,
    global: &mut Global,
    args: &mut dyn Iterator<Item = OsString>,
) -> Result<Command, Stop> {
    let before = words(&GLOBALS, false, args).map_err(|reason| misuse(None, &reason))?;
    // These two win over anything else that is wrong, as long as the flags are known.
    if before.help {
        return Err(Stop::Print(help(None)));
    }
    if before
        .flags
        .iter()
        .any(|&(at, _)| GLOBALS[at].long == "version")
    {
        return Err(Stop::Print(version()));
    }
    for (at, value) in before.flags {
        set(global, GLOBALS[at].long, value).map_err(|reason| Stop::Refuse {
            stdout: String::new(),
            message: reason,
            code: 1,
        })?;
    }

    let mut args = before.operands.into_iter();
    let name = args.next();
    if let Some(name) = name.as_ref().and_then(|name| name.to_str())
        && let Some(command) = first(name, args.as_slice())
    {
        return Ok(command);
    }
    match name.as_ref().map(|name| name.to_string_lossy()).as_deref() {
        None => Err(Stop::Print(help(None))),
        Some("checkpoint") => verb("checkpoint", global, args).map(Command::Checkpoint),
        Some("completion") => verb("completion", global, args).map(Command::Completion),
        Some("create") => verb("create", global, args).map(Command::Create),
        Some("delete") => verb("delete", global, args).map(Command::Delete),
        Some("events") => verb("events", global, args).map(Command::Events),
        Some("exec") => verb("exec", global, args).map(Command::Exec),
        Some("features") => verb("features", global, args).map(Command::Features),
        Some("kill") => verb("kill", global, args).map(Command::Kill),
        Some("list") => verb("list", global, args).map(Command::List),
        Some("pause") => verb("pause", global, args).map(Command::Pause),
        Some("ps") => verb("ps", global, args).map(Command::Ps),
        Some("restore") => verb("restore", global, args).map(Command::Restore),
        Some("resume") => verb("resume", global, args).map(Command::Resume),
        Some("run") => verb("run", global, args).map(Command::Run),
        Some("spec") => verb("spec", global, args).map(Command::Spec),
        Some("start") => verb("start", global, args).map(Command::Start),
        Some("state") => verb("state", global, args).map(Command::State),
        Some("update") => verb("update", global, args).map(Command::Update),
        Some("zygote") => verb("zygote", global, args).map(Command::Zygote),
        Some("help" | "h") => match args
            .next()
            .map(|topic| topic.to_string_lossy().into_owned())
        {
            None => Err(Stop::Print(help(None))),
            Some(topic) if is_verb(&topic) => Err(Stop::Print(help(Some(&topic)))),
            Some(topic) => Err(unknown(&topic)),
        },
        Some(name) => Err(unknown(name)),
    }
}

/// The flags before the verb; a test holds them against clap's.
pub(super) const GLOBALS: [Flag; 11] = [
    Flag {
        long: "debug",
        short: None,
        takes: Takes::Nothing,
    },
    Flag {
        long: "log",
        short: None,
        takes: Takes::Value,
    },
    Flag {
        long: "log-format",
        short: None,
        takes: Takes::ValueOrEmpty,
    },
    Flag {
        long: "root",
        short: None,
        takes: Takes::ValueOrEmpty,
    },
    Flag {
        long: "systemd-cgroup",
        short: None,
        takes: Takes::Nothing,
    },
    Flag {
        long: "cgroup-manager",
        short: None,
        takes: Takes::Value,
    },
    Flag {
        long: "rootless",
        short: None,
        takes: Takes::ValueOrEmpty,
    },
    Flag {
        long: "criu",
        short: None,
        takes: Takes::Value,
    },
    Flag {
        long: "trace",
        short: None,
        takes: Takes::Value,
    },
    Flag {
        long: "zygote",
        short: None,
        takes: Takes::Value,
    },
    Flag {
        long: "version",
        short: Some('v'),
        takes: Takes::Nothing,
    },
];

/// Sets one global.
fn set(global: &mut Global, name: &str, value: OsString) -> Result<(), String> {
    let text = value.to_string_lossy();
    let one_of = |all| format!("invalid value {text:?} for flag -{name}: not one of {all}");
    match name {
        "debug" => global.debug = true,
        "log" => global.log = Some(value.into()),
        "log-format" => {
            global.log_format = LogFormat::from_str(&text, false)
                .map_err(|_| format!("invalid log-format: {text}"))?;
        }
        // A script whose variable is unset must not get the default root. (runc: the current directory.)
        "root" if value.is_empty() => {
            return Err("Option --root argument should not be empty".into());
        }
        "root" => global.root = Some(value.into()),
        "systemd-cgroup" => global.systemd_cgroup = true,
        "cgroup-manager" => {
            let manager = CgroupManager::from_str(&text, false);
            global.cgroup_manager =
                Some(manager.map_err(|_| one_of("cgroupfs, systemd, disabled"))?);
        }
        "rootless" => {
            global.rootless =
                Rootless::from_str(&text, false).map_err(|_| one_of("true, false, auto"))?;
        }
        "criu" => global.criu = Some(value.into()),
        "trace" => global.trace = Some(value.into()),
        "zygote" => {
            let when = Prepared::from_str(&text, false);
            global.zygote = Some(when.map_err(|_| one_of("auto, off, require"))?);
        }
        _ => return Err(format!("flag provided but not defined: -{name}")),
    }
    Ok(())
}

/// Reads what follows the verb.
fn verb<V: Args>(
    name: &'static str,
    global: &mut Global,
    args: std::vec::IntoIter<OsString>,
) -> Result<V, Stop> {
    let command = Verb::<V>::augment_args(clap::Command::new(name).no_binary_name(true));
    let given = Verb::<V>::from_arg_matches_mut(&mut matches(name, command, args)?)
        .map_err(|error| misuse(Some(name), &error.to_string()))?;
    if given.trace.is_some() {
        global.trace = given.trace;
    }
    if given.zygote.is_some() {
        global.zygote = given.zygote;
    }
    Ok(given.verb)
}

/// The part of [`verb`] that is the same for all of them.
fn matches(
    name: &'static str,
    mut command: clap::Command,
    args: std::vec::IntoIter<OsString>,
) -> Result<ArgMatches, Stop> {
    // What follows the id belongs to the command there, respectively to ps.
    let reorder = !matches!(name, "exec" | "ps");
    let flags = flags(&command);
    let mut given = words(&flags, reorder, args).map_err(|reason| misuse(Some(name), &reason))?;
    if given.help {
        return Err(Stop::Print(help(Some(name))));
    }
    if name == "exec" && given.operands.get(1).is_some_and(|word| word == "--") {
        given.operands.remove(1); // `exec ID -- CMD`: runc would look for a program named "--".
    }
    // What follows the id is the command of a warm container, and only theirs.
    let cold = name == "run" && !given.flags.iter().any(|&(at, _)| flags[at].long == "from");
    check_operands(name, &command, given.operands.len(), cold)?;
    let id = given.operands.first().cloned();
    let args = given.for_clap(&flags);
    command
        .try_get_matches_from_mut(args)
        .map_err(|error| match unreadable(&error) {
            true => misuse(Some(name), &reason(&error)),
            false => refusal(name, id, &reason(&error)),
        })
}

/// `checkArgs` of runc's utils.go. `id_alone`: nothing may follow the id.
fn check_operands(
    name: &str,
    command: &clap::Command,
    count: usize,
    id_alone: bool,
) -> Result<(), Stop> {
    let least = command
        .get_positionals()
        .filter(|arg| arg.is_required_set())
        .count();
    let several = |arg: &clap::Arg| matches!(arg.get_action(), ArgAction::Append);
    let most = match command.get_positionals().any(several) {
        true if id_alone => 1,
        true => usize::MAX,
        false => command.get_positionals().count(),
    };
    let (bound, number) = match count {
        _ if (least..=most).contains(&count) => return Ok(()),
        _ if least == most => ("exactly", least),
        _ if count < least => ("a minimum of", least),
        _ => ("a maximum of", most),
    };
    Err(Stop::Refuse {
        stdout: format!("Incorrect Usage.\n\n{}", help(Some(name))),
        message: format!("{name:?} requires {bound} {number} argument(s)"),
        code: 1,
    })
}

/// The flags of a command, as [`words`] wants them.
pub(super) fn flags(command: &clap::Command) -> Vec<Flag<'_>> {
    let flag = |arg| {
        let arg: &clap::Arg = arg;
        let takes = match arg.get_action() {
            ArgAction::SetTrue => Takes::Nothing,
            ArgAction::Append => Takes::Values,
            _ if arg.get_default_values().is_empty() => Takes::Value,
            _ => Takes::ValueOrEmpty,
        };
        Some(Flag {
            long: arg.get_long()?,
            short: arg.get_short(),
            takes,
        })
    };
    command.get_arguments().filter_map(flag).collect()
}

/// What clap found wrong. As the words are already in its syntax, that can only be a value.
fn reason(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let arg = context(ContextKind::InvalidArg);
    let value = context(ContextKind::InvalidValue);
    let reason = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(reason), _) => reason.to_string(),
        (None, Some(ContextValue::Strings(valid))) => format!("not one of {}", valid.join(", ")),
        (None, _) => "not allowed here".to_string(),
    };
    if error.kind() == ErrorKind::InvalidUtf8 {
        return "an argument is not valid UTF-8".into();
    }
    match arg.strip_prefix("--").and_then(|arg| arg.split(' ').next()) {
        Some("format") => format!("invalid format option {value:?}: {reason}"),
        Some(flag) => format!("invalid value {value:?} for flag -{flag}: {reason}"),
        None => format!("invalid {arg} {value:?}: {reason}"),
    }
}

/// Whether Go's `flag` package would refuse the value itself. The others are the verb's to refuse: in
/// its own words, with its own exit code, and without help.
fn unreadable(error: &clap::Error) -> bool {
    match error.source() {
        Some(reason) => matches!(
            reason.to_string().as_str(),
            values::PARSE_ERROR | values::OUT_OF_RANGE
        ),
        None => error.kind() == ErrorKind::InvalidUtf8,
    }
}

/// A verb's refusal of a value: what `cmd` makes of any error of the verb.
fn refusal(name: &str, id: Option<OsString>, reason: &str) -> Stop {
    let id = id.unwrap_or_default();
    let (message, code) = match name {
        "exec" => (format!("exec {id:?}: exec failed: {reason}"), 255),
        "list" | "completion" => (reason.to_owned(), 1),
        _ => (format!("{name} {id:?}: {reason}"), 1),
    };
    Stop::Refuse {
        stdout: String::new(),
        message,
        code,
    }
}

fn misuse(name: Option<&str>, reason: &str) -> Stop {
    Stop::Refuse {
        stdout: format!("Incorrect Usage: {reason}\n\n{}", help(name)),
        message: reason.to_string(),
        code: 1,
    }
}

fn unknown(name: &str) -> Stop {
    Stop::Refuse {
        stdout: String::new(),
        message: format!("No help topic for '{name}'"),
        code: 3,
    }
}

fn is_verb(name: &str) -> bool {
    Tree::command().find_subcommand(name).is_some()
}

/// The help of a verb, or of the program; in the shape of runc's, whose first lines its tests read.
fn help(verb: Option<&str>) -> String {
    let mut tree = Tree::command();
    tree.build();
    let Some(command) = verb.and_then(|verb| tree.find_subcommand_mut(verb)) else {
        return tree.help_template(TOP_HELP).render_help().to_string();
    };
    let name = command.get_name();
    let operands = match command.get_positionals().next() {
        Some(_) => "\n\nARGUMENTS:\n{positionals}",
        None => "",
    };
    let template = format!(
        "NAME:\n   runz {name} - {{about}}\n\nUSAGE:\n   {{usage}}{operands}\n\nOPTIONS:\n{{options}}"
    );
    command
        .clone()
        .help_template(template)
        .render_help()
        .to_string()
}

const TOP_HELP: &str = "\
NAME:
   runz - {about}

USAGE:
   runz [global options] command [command options] [arguments...]

COMMANDS:
{subcommands}
  help        Show help for a command

GLOBAL OPTIONS:
{options}";

/// Docker, go-runc and podman read these lines by their first words.
fn version() -> String {
    let commit = match option_env!("RUNZ_COMMIT") {
        Some(commit) => format!("commit: {commit}\n"),
        None => String::new(),
    };
    format!(
        "runz version {}\n{commit}spec: {SPEC_VERSION}\n",
        env!("CARGO_PKG_VERSION")
    )
}
