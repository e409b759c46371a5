//! The manual says what the parser does: each verb, flag, default and choice stands in its page, and each
//! flag in a page is one.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Arg, Command, CommandFactory};

use super::Tree;

fn man() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man")
}

fn page(name: &str) -> String {
    let path = man().join(format!("{name}.8"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

fn tree() -> Command {
    let mut tree = Tree::command();
    tree.build();
    tree
}

/// Each verb's command with the name of its page.
fn verbs(tree: &Command) -> impl Iterator<Item = (String, &Command)> {
    tree.get_subcommands()
        .map(|verb| (format!("runz-{}", verb.get_name()), verb))
}

/// `-b`, `--bundle`.
fn spellings(arg: &Arg) -> Vec<String> {
    let short = arg.get_short().map(|short| format!("-{short}"));
    short
        .into_iter()
        .chain(arg.get_long().map(|long| format!("--{long}")))
        .collect()
}

fn flags_of(command: &Command) -> BTreeSet<String> {
    command.get_arguments().flat_map(spellings).collect()
}

/// The flags that a line of mdoc(7) names by its macro `Fl`.
fn flags_in(line: &str) -> Vec<String> {
    let mut flags = Vec::new();
    let mut after_fl = false;
    for word in line
        .strip_prefix('.')
        .unwrap_or_default()
        .split_whitespace()
    {
        let is_macro = word.len() == 2 && word.starts_with(|c: char| c.is_ascii_uppercase());
        if is_macro {
            after_fl = word == "Fl";
        } else if after_fl && word.contains(|c: char| c.is_ascii_alphanumeric()) {
            flags.push(format!("-{word}"));
        }
    }
    flags
}

/// The list entry whose heading names this flag: heading and text.
fn entry(page: &str, flag: &str) -> Option<String> {
    let lines: Vec<&str> = page.lines().collect();
    let start = lines.iter().position(|line| {
        line.starts_with(".It Fl") && flags_in(line).iter().any(|word| word == flag)
    })?;
    let rest = &lines[start + 1..];
    let length = rest
        .iter()
        .position(|line| line.starts_with(".It") || line.starts_with(".El"));
    Some(
        lines[start..start + 1 + length.unwrap_or(rest.len())]
            .join("\n")
            .replace(r"\-", "-"),
    )
}

/// The words of a text, without the punctuation around them.
fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| c.is_whitespace() || ";:,()|".contains(c))
        .any(|part| part == word || part.trim_end_matches('.') == word)
}

fn assert_describes(name: &str, page: &str, arg: &Arg) {
    let spellings = spellings(arg);
    let Some(flag) = spellings.last() else { return };
    if arg.is_hide_set() {
        let named: Vec<String> = page.lines().flat_map(flags_in).collect();
        assert!(
            spellings.iter().all(|flag| named.contains(flag)),
            "{name}.8 lacks {spellings:?}"
        );
        return;
    }
    let entry = entry(page, flag).unwrap_or_else(|| panic!("{name}.8 has no entry for {flag}"));
    let heading = flags_in(entry.lines().next().unwrap());
    assert_eq!(heading, spellings, "{name}.8: heading of {flag}");
    if !arg.get_action().takes_values() {
        return;
    }
    for default in arg.get_default_values() {
        let default = default.to_str().unwrap();
        assert!(
            has_word(&entry, default),
            "{name}.8: the default of {flag}, {default}"
        );
    }
    for choice in arg.get_possible_values() {
        assert!(
            has_word(&entry, choice.get_name()),
            "{name}.8: choice of {flag}: {}",
            choice.get_name()
        );
    }
    let help = arg
        .get_help()
        .map(|help| help.to_string())
        .unwrap_or_default();
    // What clap does not know of is in the help's own words.
    let told = entry.contains("The default") || entry.contains("is the default");
    assert_eq!(
        told,
        help.contains("[default:") || !arg.get_default_values().is_empty(),
        "{name}.8 or the help of {flag} has a default and the other has not"
    );
    assert_eq!(
        help.contains("(repeatable)"),
        entry.contains("Can be repeated."),
        "{name}.8: {flag} repeated?"
    );
}

#[test]
fn every_verb_has_a_page_and_every_page_a_verb() {
    let tree = tree();
    let expected: BTreeSet<String> = verbs(&tree)
        .map(|(name, _)| name)
        .chain(["runz".into()])
        .map(|name| name + ".8")
        .collect();
    let found: BTreeSet<String> = std::fs::read_dir(man())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn every_flag_stands_in_its_page() {
    let tree = tree();
    let top = page("runz");
    for arg in tree.get_arguments() {
        assert_describes("runz", &top, arg);
    }
    for (name, verb) in verbs(&tree) {
        assert!(
            top.contains(&format!("\n.It Cm {}\n", verb.get_name())),
            "runz.8 lacks {name}"
        );
        assert!(
            top.contains(&format!("\n.Xr {name} 8")),
            "runz.8 does not refer to {name}(8)"
        );
        let page = page(&name);
        // These are everywhere, and stand in runz(8).
        for arg in verb
            .get_arguments()
            .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "trace" | "zygote"))
        {
            assert_describes(&name, &page, arg);
        }
    }
}

#[test]
fn every_flag_in_a_page_is_one() {
    let tree = tree();
    let globals = flags_of(&tree);
    let all: BTreeSet<String> = tree
        .get_subcommands()
        .flat_map(flags_of)
        .chain(globals.iter().cloned())
        .collect();
    let of_verbs = verbs(&tree).map(|(name, verb)| (name, &flags_of(verb) | &globals));
    for (name, flags) in of_verbs.chain([("runz".to_string(), globals.clone())]) {
        for line in page(&name).lines() {
            for flag in flags_in(line) {
                assert!(flags.contains(&flag), "{name}.8: {flag} in {line:?}");
            }
            // Examples are not marked up, and may show other commands.
            for word in line
                .replace(r"\-", "-")
                .split(|c: char| c.is_whitespace() || "=[]".contains(c))
            {
                let long = word
                    .strip_prefix("--")
                    .is_some_and(|name| name.starts_with(char::is_alphabetic));
                assert!(!long || all.contains(word), "{name}.8: {word} in {line:?}");
            }
        }
    }
}

#[test]
fn pages_are_named_as_the_help_names_the_verb() {
    for (name, verb) in verbs(&tree()) {
        let page = page(&name);
        let about = verb.get_about().unwrap().to_string();
        let about = about[..1].to_lowercase() + &about[1..];
        let upper = name.to_uppercase();
        let verb = verb.get_name();
        for line in [
            format!(".Dt {upper} 8"),
            format!(".Nm {name}"),
            format!(".Nd {about}"),
            format!(".Nm runz {verb}"),
            ".Sh EXIT STATUS".into(),
            ".Sh EXAMPLES".into(),
        ] {
            assert!(
                page.lines().any(|other| other == line),
                "{name}.8 lacks {line:?}"
            );
        }
        for other in page
            .lines()
            .filter_map(|line| line.strip_prefix(".Xr runz-"))
        {
            let other = other.split(' ').next().unwrap();
            assert!(
                man().join(format!("runz-{other}.8")).exists(),
                "{name}.8 refers to runz-{other}(8)"
            );
        }
    }
}
