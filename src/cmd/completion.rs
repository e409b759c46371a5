//! `runz completion`: scripts that let a shell complete the command line.
//!
//! Made from the same definitions that parse it. Ours instead of clap_complete, which costs 105 KB of
//! binary and cannot complete what matters most here, the ids of containers (asked from `runz list -q`).

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::cli::{Completion, Shell, Tree};

/// Prints the script for a shell.
pub fn completion(options: &Completion) -> Result<()> {
    std::io::stdout()
        .write_all(script(options.shell).as_bytes())
        .context("write to stdout")
}

fn script(shell: Shell) -> String {
    let mut tree = Tree::command();
    tree.build();
    match shell {
        Shell::Bash => bash(&tree),
        Shell::Zsh => zsh(&tree),
        Shell::Fish => fish(&tree),
    }
}

/// What may stand for a value or an operand.
enum Value {
    /// The flag takes none.
    Nothing,
    OneOf(Vec<String>),
    File,
    Directory,
    /// A container that is there.
    Container,
    Program,
    Anything,
}

fn value(verb: &str, arg: &Arg) -> Value {
    if !arg.get_action().takes_values() {
        return Value::Nothing;
    }
    let all = arg.get_possible_values();
    if !all.is_empty() {
        return Value::OneOf(
            all.iter()
                .map(|value| value.get_name().to_owned())
                .collect(),
        );
    }
    match arg
        .get_value_names()
        .and_then(|names| names.first())
        .map(|name| name.as_str())
    {
        Some("FILE" | "SOCKET") => Value::File,
        Some("DIR") => Value::Directory,
        Some("command") => Value::Program,
        // These three name a container that is not there yet.
        Some("container-id") if !matches!(verb, "create" | "restore" | "run") => Value::Container,
        _ => Value::Anything,
    }
}

/// The flags that can be seen: neither hidden ones nor operands.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !arg.is_positional())
}

/// All spellings of a flag: `-b`, `--bundle`.
fn spellings(arg: &Arg) -> Vec<String> {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    short.into_iter().chain(long).collect()
}

fn repeats(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

fn help(arg: &Arg) -> String {
    arg.get_help()
        .map(|help| help.to_string())
        .unwrap_or_default()
}

fn about(command: &Command) -> String {
    command
        .get_about()
        .map(|about| about.to_string())
        .unwrap_or_default()
}

/// In single quotes, for bash and zsh.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Three tables and one function that reads them.
fn bash(tree: &Command) -> String {
    let names: Vec<&str> = tree.get_subcommands().map(Command::get_name).collect();
    let (mut all, mut values, mut operands) = (String::new(), String::new(), String::new());
    let _ = writeln!(operands, "    ,0 | help,0) kind='{}' ;;", names.join(" "));
    for command in std::iter::once(tree).chain(tree.get_subcommands()) {
        let name = command.get_name();
        let verb = if name == tree.get_name() { "" } else { name };
        let words: Vec<String> = flags(command).flat_map(spellings).collect();
        let _ = writeln!(all, "    '{verb}') kind='{}' ;;", words.join(" "));
        for arg in flags(command) {
            let patterns: Vec<String> = spellings(arg)
                .iter()
                .map(|spelling| format!("{verb},{spelling}"))
                .collect();
            if let Some(kind) = bash_kind(&value(verb, arg)) {
                let _ = writeln!(values, "    {}) kind='{kind}' ;;", patterns.join(" | "));
            }
        }
        for (at, arg) in command.get_positionals().enumerate() {
            let at = if repeats(arg) {
                "*".to_string()
            } else {
                at.to_string()
            };
            if let Some(kind) = bash_kind(&value(verb, arg)) {
                let _ = writeln!(operands, "    {verb},{at}) kind='{kind}' ;;");
            }
        }
    }
    BASH.replace("@FLAGS@", &all)
        .replace("@VALUES@", &values)
        .replace("@OPERANDS@", &operands)
}

fn bash_kind(value: &Value) -> Option<String> {
    match value {
        Value::Nothing => None,
        Value::OneOf(all) => Some(all.join(" ")),
        Value::File => Some("@file".into()),
        Value::Directory => Some("@directory".into()),
        Value::Container => Some("@container".into()),
        Value::Program => Some("@program".into()),
        Value::Anything => Some("@anything".into()),
    }
}

/// bash hands `--flag=value` over as three words, since `=` is in COMP_WORDBREAKS.
const BASH: &str = r#"# bash completion for runz, written by "runz completion bash"

# $kind: all flags of verb $1.
_runz_flags() {
    case $1 in
@FLAGS@    esac
}

# $kind: what follows flag $2 of verb $1; false if nothing does.
_runz_value() {
    case $1,$2 in
@VALUES@    *) return 1 ;;
    esac
}

# $kind: what stands at operand $2 of verb $1.
_runz_operand() {
    case $1,$2 in
@OPERANDS@    esac
}

_runz() {
    local cur=${COMP_WORDS[COMP_CWORD]} verb='' operands=0 kind='' root=() word i
    [[ $cur == '=' ]] && cur=''
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $verb =~ ^(exec|ps)$ && $operands -gt 0 ]]; then
            ((operands++))
        elif [[ $word == -* ]]; then
            if _runz_value "$verb" "$word"; then
                [[ ${COMP_WORDS[i + 1]} == '=' ]] && ((i++))
                ((i++))
                [[ $verb$word == --root ]] && root=(--root "${COMP_WORDS[i]}")
            elif [[ ${COMP_WORDS[i + 1]} == '=' ]]; then
                ((i += 2))
            fi
        elif [[ -z $verb ]]; then
            verb=$word
        else
            ((operands++))
        fi
    done
    if ((i == COMP_CWORD)); then # Not behind a flag that takes a value.
        kind=''
        if [[ $cur == -* && ! ($verb =~ ^(exec|ps)$ && $operands -gt 0) ]]; then
            _runz_flags "$verb"
        else
            _runz_operand "$verb" "$operands"
        fi
    fi
    COMPREPLY=()
    case $kind in
    @anything) return ;;
    @file) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -f -- "$cur") && return ;;
    @directory) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -d -- "$cur") && return ;;
    @program) mapfile -t COMPREPLY < <(compgen -c -- "$cur") && return ;;
    @container) kind=$("${COMP_WORDS[0]}" "${root[@]}" list -q 2>/dev/null) ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$cur")
}

complete -F _runz runz
"#;

/// `_arguments` once for the globals and once for the verb's own.
fn zsh(tree: &Command) -> String {
    let mut verbs = String::new();
    let mut cases = String::new();
    for command in tree.get_subcommands() {
        let name = command.get_name();
        let about = about(command).replace(':', r"\:");
        let _ = writeln!(verbs, "        {}", quoted(&format!("{name}:{about}")));
        let mut specs: Vec<String> = flags(command).flat_map(|arg| zsh_flag(name, arg)).collect();
        for arg in command.get_positionals() {
            let many = if repeats(arg) { "*" } else { "" };
            let colons = if arg.is_required_set() { ":" } else { "::" };
            let title = arg.get_id().as_str();
            specs.push(quoted(&match value(name, arg) {
                // The program's own arguments are completed as if it were typed alone.
                Value::Program => "*:::command:_normal".to_string(),
                value => format!(
                    "{many}{}{title}:{}",
                    if many.is_empty() { colons } else { ":" },
                    zsh_action(&value)
                ),
            }));
        }
        let _ = writeln!(
            cases,
            "        {name})\n            _arguments \\\n                {} ;;",
            specs.join(" \\\n                ")
        );
    }
    let globals: Vec<String> = flags(tree).flat_map(|arg| zsh_flag("", arg)).collect();
    ZSH.replace("@VERBS@", &verbs)
        .replace("@GLOBALS@", &globals.join(" \\\n        "))
        .replace("@CASES@", &cases)
}

/// A spec for each spelling; they exclude each other unless the flag may be repeated.
fn zsh_flag(verb: &str, arg: &Arg) -> Vec<String> {
    let all = spellings(arg);
    let head = if repeats(arg) {
        "*".to_string()
    } else {
        format!("({})", all.join(" "))
    };
    let help = help(arg)
        .replace('\\', r"\\")
        .replace('[', r"\[")
        .replace(']', r"\]")
        .replace(':', r"\:");
    let spec = |spelling: &String| {
        let value = value(verb, arg);
        let (equals, tail) = match &value {
            Value::Nothing => ("", String::new()),
            value => {
                let equals = if spelling.starts_with("--") { "=" } else { "" };
                (
                    equals,
                    format!(":{}:{}", arg.get_id().as_str(), zsh_action(value)),
                )
            }
        };
        quoted(&format!("{head}{spelling}{equals}[{help}]{tail}"))
    };
    all.iter().map(spec).collect()
}

fn zsh_action(value: &Value) -> String {
    match value {
        Value::OneOf(all) => format!("({})", all.join(" ")),
        Value::File => "_files".into(),
        Value::Directory => "_directories".into(),
        Value::Container => "_runz_containers".into(),
        Value::Program => "_command_names -e".into(),
        Value::Nothing | Value::Anything => " ".into(),
    }
}

const ZSH: &str = r#"#compdef runz
# zsh completion for runz, written by "runz completion zsh"

_runz_containers() {
    local -a ids
    ids=(${(f)"$(runz $root list -q 2>/dev/null)"})
    compadd -a ids
}

_runz() {
    local curcontext=$curcontext state line
    local -a verbs root
    local -A opt_args
    verbs=(
@VERBS@        'help:Show help for a command'
    )
    _arguments -C \
        @GLOBALS@ \
        '1:command:->verb' \
        '*::argument:->rest'
    [[ -n $opt_args[--root] ]] && root=(--root $opt_args[--root])
    case $state in
    verb) _describe command verbs ;;
    rest)
        curcontext=${curcontext%:*}-$line[1]:
        case $line[1] in
@CASES@        help) _describe command verbs ;;
        esac ;;
    esac
}

if [[ $funcstack[1] == _runz ]]; then
    _runz "$@"
else
    compdef _runz runz
fi
"#;

/// One `complete` for each flag and operand.
fn fish(tree: &Command) -> String {
    let names: Vec<&str> = tree.get_subcommands().map(Command::get_name).collect();
    let quoted = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
    let mut script = FISH.replace("@VERBS@", &names.join(" "));
    for command in std::iter::once(tree).chain(tree.get_subcommands()) {
        let name = command.get_name();
        let (verb, when) = match name == tree.get_name() {
            true => ("", "__runz_no_verb".to_string()),
            false => {
                let about = quoted(&about(command));
                let _ = writeln!(
                    script,
                    "complete -c runz -n __runz_no_verb -a {name} -d {about}"
                );
                (name, format!("'__fish_seen_subcommand_from {name}'"))
            }
        };
        for arg in flags(command) {
            let short = arg
                .get_short()
                .map(|short| format!(" -s {short}"))
                .unwrap_or_default();
            let long = arg
                .get_long()
                .map(|long| format!(" -l {long}"))
                .unwrap_or_default();
            let value = fish_value(&value(verb, arg));
            let help = quoted(&help(arg));
            let _ = writeln!(
                script,
                "complete -c runz -n {when}{short}{long}{value} -d {help}"
            );
        }
        for arg in command.get_positionals() {
            let value = fish_value(&value(verb, arg)).replace(" -x", "");
            if !value.trim().is_empty() {
                let _ = writeln!(script, "complete -c runz -n {when}{value}");
            }
        }
    }
    script
}

fn fish_value(value: &Value) -> String {
    match value {
        Value::Nothing => String::new(),
        Value::OneOf(all) => format!(" -x -a '{}'", all.join(" ")),
        Value::File => " -r -F".into(),
        Value::Directory => " -x -a '(__fish_complete_directories)'".into(),
        Value::Container => " -x -a '(__runz_containers)'".into(),
        Value::Program => " -x -a '(__fish_complete_command)'".into(),
        Value::Anything => " -x".into(),
    }
}

const FISH: &str = r#"# fish completion for runz, written by "runz completion fish"

function __runz_no_verb
    not __fish_seen_subcommand_from @VERBS@ help
end

function __runz_containers
    set -l words (commandline -opc)
    set -l root
    if set -l at (contains -i -- --root $words)
        set root --root $words[(math $at + 1)]
    end
    runz $root list -q 2>/dev/null
end

complete -c runz -f
complete -c runz -n __runz_no_verb -a help -d 'Show help for a command'
complete -c runz -n '__fish_seen_subcommand_from help' -a '@VERBS@'
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_and_flag_is_in_every_script() {
        let mut tree = Tree::command();
        tree.build();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            assert!(
                !script.contains("kernel-memory"),
                "{shell:?} shows a hidden flag"
            );
            assert!(!script.contains("@VERBS@") && !script.contains("@FLAGS@"));
            for command in std::iter::once(&tree).chain(tree.get_subcommands()) {
                assert!(
                    script.contains(command.get_name()),
                    "{shell:?} lacks {}",
                    command.get_name()
                );
                for arg in flags(command) {
                    let long = arg.get_long().unwrap();
                    let spelling = match shell {
                        Shell::Fish => format!(" -l {long}"),
                        Shell::Bash | Shell::Zsh => format!("--{long}"),
                    };
                    assert!(script.contains(&spelling), "{shell:?} lacks {spelling}");
                }
            }
        }
    }

    /// What bash offers for a command line, the last word being completed.
    fn offered(line: &[&str]) -> Vec<String> {
        let program = r#"
            source /dev/stdin
            runz() { echo "web $*"; }
            compopt() { :; }
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _runz
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let mut bash = std::process::Command::new("bash")
            .args(["-c", program, "bash"])
            .args(line)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        bash.stdin
            .take()
            .unwrap()
            .write_all(script(Shell::Bash).as_bytes())
            .unwrap();
        let output = bash.wait_with_output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn bash_completes() {
        let table: [(&[&str], &[&str]); 16] = [
            (&["runz", "cr"], &["create"]),
            (&["runz", "--log-format", ""], &["text", "json"]),
            (&["runz", "--log-format", "=", "j"], &["json"]),
            (&["runz", "--log-format", "="], &["text", "json"]),
            (&["runz", "--root", "/x", "--debug", "sp"], &["spec"]),
            (&["runz", "help", "sp"], &["spec"]),
            (&["runz", "delete", "--f"], &["--force"]),
            (&["runz", "delete", "x", "--f"], &["--force"]),
            (
                &["runz", "create", "--pi"],
                &["--pidfd-socket", "--pid-file"],
            ),
            (&["runz", "list", "-f", "t"], &["table"]),
            (&["runz", "completion", "f"], &["fish"]),
            (&["runz", "delete", "--force", ""], &["web", "list", "-q"]),
            (&["runz", "--root", "/x", "delete", "/"], &["/x"]),
            (&["runz", "--root", "=", "/x", "delete", "/"], &["/x"]),
            (&["runz", "create", "w"], &[]),
            (&["runz", "exec", "-t", "web", "--t"], &[]),
        ];
        for (line, expected) in table {
            assert_eq!(offered(line), expected, "{line:?}");
        }
    }
}
