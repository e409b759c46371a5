//! Plain command lines of the verbs of which thousands run, without clap.
//!
//! What clap needs to know of a verb takes longer to lay out than a `start` needs for all the rest, so
//! lines of ordinary flags are read here. Whatever isn't plain, wrong or rare is left to clap, and what
//! is read here means the same there: every command line of the tests is read both ways.

use std::ffi::OsString;

use super::words::{Flag, Takes, Words, words};
use super::{Command, Create, Delete, Exec, Kill, Run, Start, State};

const fn flag(long: &'static str, short: Option<char>, takes: Takes) -> Flag<'static> {
    Flag { long, short, takes }
}

/// Paths, and what is on or off.
const CREATE: [Flag; 6] = [
    flag("bundle", Some('b'), Takes::Value),
    flag("console-socket", None, Takes::Value),
    flag("pidfd-socket", None, Takes::Value),
    flag("pid-file", None, Takes::Value),
    flag("no-pivot", None, Takes::Nothing),
    flag("no-new-keyring", None, Takes::Nothing),
];
const RUN: [Flag; 10] = [
    CREATE[0],
    CREATE[1],
    CREATE[2],
    CREATE[3],
    CREATE[4],
    CREATE[5],
    flag("detach", Some('d'), Takes::Nothing),
    flag("keep", None, Takes::Nothing),
    flag("no-subreaper", None, Takes::Nothing),
    flag("from", None, Takes::Value),
];
const EXEC: [Flag; 6] = [
    flag("process", Some('p'), Takes::Value),
    flag("console-socket", None, Takes::Value),
    flag("pidfd-socket", None, Takes::Value),
    flag("pid-file", None, Takes::Value),
    flag("detach", Some('d'), Takes::Nothing),
    flag("tty", Some('t'), Takes::Nothing),
];
const DELETE: [Flag; 1] = [flag("force", Some('f'), Takes::Nothing)];

/// Reads what follows the verb `name`; `None`: it's for clap.
pub fn read(name: &str, args: &[OsString]) -> Option<Command> {
    let given = |flags: &[Flag], reorder| {
        let given = words(flags, reorder, args.iter().cloned()).ok()?;
        (!given.help).then_some(given)
    };
    match name {
        "create" => {
            let Words {
                flags, operands, ..
            } = given(&CREATE, true)?;
            let mut create = Create::default();
            for (at, value) in flags {
                set_create(&mut create, CREATE[at].long, value)?;
            }
            [create.id] = texts(operands)?.try_into().ok()?;
            Some(Command::Create(create))
        }
        "run" => {
            let Words {
                flags, operands, ..
            } = given(&RUN, true)?;
            let mut run = Run::default();
            for (at, value) in flags {
                match RUN[at].long {
                    "detach" => run.detach = true,
                    "keep" => run.keep = true,
                    "no-subreaper" => run.no_subreaper = true,
                    "from" => run.from = Some(value.into_string().ok()?),
                    name => set_create(&mut run.create, name, value)?,
                }
            }
            let mut operands = texts(operands)?.into_iter();
            run.create.id = operands.next()?;
            run.args = operands.collect();
            // What follows the id is the program of a warm container.
            (run.args.is_empty() || run.from.is_some()).then_some(Command::Run(run))
        }
        "exec" => {
            let Words {
                flags, operands, ..
            } = given(&EXEC, false)?;
            let mut exec = Exec::default();
            for (at, value) in flags {
                match EXEC[at].long {
                    "process" => exec.process = Some(value.into()),
                    "console-socket" => exec.console_socket = Some(value.into()),
                    "pidfd-socket" => exec.pidfd_socket = Some(value.into()),
                    "pid-file" => exec.pid_file = Some(value.into()),
                    "detach" => exec.detach = true,
                    "tty" => exec.tty = true,
                    _ => return None,
                }
            }
            let mut operands = texts(operands)?.into_iter();
            exec.id = operands.next()?;
            exec.args = operands.collect();
            let dashes = exec.args.first().is_some_and(|word| word == "--");
            (!dashes).then_some(Command::Exec(exec))
        }
        "start" => {
            let [id] = texts(given(&[], true)?.operands)?.try_into().ok()?;
            Some(Command::Start(Start { id }))
        }
        "state" => {
            let [id] = texts(given(&[], true)?.operands)?.try_into().ok()?;
            Some(Command::State(State { id }))
        }
        "kill" => {
            let mut operands = texts(given(&[], true)?.operands)?.into_iter();
            let (id, signal) = (operands.next()?, operands.next());
            let kill = Kill {
                all: false,
                id,
                signal,
            };
            operands.next().is_none().then_some(Command::Kill(kill))
        }
        "delete" => {
            let given = given(&DELETE, true)?;
            let force = !given.flags.is_empty();
            let [id] = texts(given.operands)?.try_into().ok()?;
            Some(Command::Delete(Delete { force, id }))
        }
        _ => None,
    }
}

/// Sets a flag that `create` and `run` have.
fn set_create(create: &mut Create, long: &str, value: OsString) -> Option<()> {
    match long {
        "bundle" => create.bundle = Some(value.into()),
        "console-socket" => create.console_socket = Some(value.into()),
        "pidfd-socket" => create.pidfd_socket = Some(value.into()),
        "pid-file" => create.pid_file = Some(value.into()),
        "no-pivot" => create.no_pivot = true,
        "no-new-keyring" => create.no_new_keyring = true,
        _ => return None,
    }
    Some(())
}

/// As text, unless one isn't UTF-8.
fn texts(operands: Vec<OsString>) -> Option<Vec<String>> {
    operands
        .into_iter()
        .map(|word| word.into_string().ok())
        .collect()
}
