//! A runtime in the table: a name, the start of its command line, and its environment.
//!
//! Anything that answers runc's verbs fits, so the same binary may stand here
//! several times, each with other global flags or variables.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sys::{self, Command, Exit, How, Stdio};

/// One runtime.
pub struct Runtime {
    /// Its name in the table.
    pub name: String,
    /// Its program and the arguments that stand before every verb.
    pub prefix: Vec<String>,
    /// `KEY=VALUE` strings beside PATH.
    pub env: Vec<String>,
    /// The first line of `--version`; or why there is none.
    pub version: String,
    /// Its state directory, of this run only.
    pub root: PathBuf,
}

/// The programs that are looked for on PATH.
const PEERS: [&str; 3] = ["crun", "runc", "youki"];

/// Puts together the runtimes of one run: runz first, then peers found, then peers given.
///
/// A given peer takes the place of a found one of the same name. `given` holds `NAME=PATH [ARG…]`,
/// `env` holds `NAME:KEY=VALUE`.
///
/// # Errors
/// An argument of another form, or an environment for a runtime that is not there.
pub fn collect(runz: Option<&str>, given: &[String], env: &[String]) -> Result<Vec<Runtime>> {
    let mut list: Vec<Runtime> = Vec::new();
    if let Some(path) = runz {
        list.push(Runtime::new("runz", path));
    }
    for name in PEERS {
        if let Some(path) = on_path(name) {
            list.push(Runtime::new(name, &path.to_string_lossy()));
        }
    }
    for peer in given {
        let (name, command) = match peer.split_once('=') {
            Some((name, command)) if is_name(name) && !command.trim().is_empty() => (name, command),
            _ => bail!("--peer {peer}: not of the form NAME=PATH"),
        };
        let runtime = Runtime::new(name, command);
        match list.iter_mut().find(|other| other.name == name) {
            Some(other) => *other = runtime,
            None => list.push(runtime),
        }
    }
    for entry in env {
        let Some((name, pair)) = entry.split_once(':').filter(|(_, pair)| pair.contains('='))
        else {
            bail!("--peer-env {entry}: not of the form NAME:KEY=VALUE");
        };
        let runtime = list.iter_mut().find(|runtime| runtime.name == name);
        let runtime =
            runtime.with_context(|| format!("--peer-env {entry}: no runtime \"{name}\""))?;
        runtime.env.push(pair.to_string());
    }
    Ok(list)
}

/// Names become parts of container ids and of file names.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-_.".contains(c);
    !name.is_empty() && name.chars().all(plain)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

impl Runtime {
    fn new(name: &str, command: &str) -> Runtime {
        Runtime {
            name: name.to_string(),
            prefix: command.split_whitespace().map(str::to_string).collect(),
            env: Vec::new(),
            version: String::new(),
            root: PathBuf::new(),
        }
    }

    /// Asks for the version. A runtime that can't answer keeps its place; its cells will say more.
    pub fn ask_version(&mut self) {
        let mut command = std::process::Command::new(&self.prefix[0]);
        command.arg("--version");
        for (key, value) in self.env.iter().filter_map(|pair| pair.split_once('=')) {
            command.env(key, value);
        }
        self.version = match command.output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.lines().next().unwrap_or("no version").to_string()
            }
            Err(error) => format!("no version: {error}"),
        };
    }

    /// The command line for a verb.
    ///
    /// # Errors
    /// An argument with a NUL in it.
    pub fn command(&self, args: &[&str]) -> io::Result<Command> {
        let root = self.root.to_string_lossy();
        let mut argv: Vec<CString> = Vec::new();
        for arg in &self.prefix {
            argv.push(sys::text(arg)?);
        }
        for arg in ["--root", &root].into_iter().chain(args.iter().copied()) {
            argv.push(sys::text(arg)?);
        }
        let mut env = vec![sys::text(
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )?];
        for pair in &self.env {
            env.push(sys::text(pair)?);
        }
        Ok(Command { argv, env })
    }
}

/// One container that is made again and again: its prepared command lines.
pub struct Slot {
    stdio: Stdio,
    pid_file: PathBuf,
    create: Command,
    start: Command,
    exec: Command,
    exec_proof: Command,
    delete: Command,
    force: Command,
    run: Command,
}

/// A program that shows by its exit code that it ran.
pub const PROOF: [&str; 3] = ["/bin/sh", "-c", "exit 42"];

/// The three timed steps of one container's life.
pub struct Life {
    /// `create`.
    pub create: Exit,
    /// `start`.
    pub start: Exit,
    /// `delete` of the stopped container.
    pub delete: Exit,
}

/// What one command did, or the line that tells why it failed.
pub type Outcome<T> = std::result::Result<T, String>;

impl Slot {
    /// Prepares the container `id` of `bundle` for `runtime`.
    ///
    /// # Errors
    /// What the streams or the command lines failed on.
    pub fn new(runtime: &Runtime, id: &str, bundle: &Path) -> Result<Slot> {
        let pid_file = bundle.join(format!("{id}.pid"));
        let (dir, file) = (bundle.to_string_lossy(), pid_file.to_string_lossy());
        Ok(Slot {
            stdio: Stdio::new().context("open the standard streams")?,
            create: runtime.command(&["create", "--bundle", &dir, "--pid-file", &file, id])?,
            start: runtime.command(&["start", id])?,
            exec: runtime.command(&["exec", id, "/bin/true"])?,
            exec_proof: runtime.command(&["exec", id, "/bin/sh", "-c", "exit 42"])?,
            delete: runtime.command(&["delete", id])?,
            force: runtime.command(&["delete", "--force", id])?,
            run: runtime.command(&["run", "--bundle", &dir, id])?,
            pid_file,
        })
    }

    /// create, start, wait for the end of the program, delete.
    ///
    /// # Errors
    /// The failed verb and its last line; the container is then gone.
    pub fn life(&self) -> Outcome<Life> {
        let life = || {
            let create = self.step("create", &self.create, How::Spawn)?;
            let pid = self.pid()?;
            let start = self.step("start", &self.start, How::Spawn)?;
            sys::wait(pid).map_err(|e| format!("wait for init: {e}"))?;
            // A later create that writes none must not be taken for a success.
            let _ = fs::remove_file(&self.pid_file);
            let delete = self.step("delete", &self.delete, How::Spawn)?;
            Ok(Life {
                create,
                start,
                delete,
            })
        };
        life().inspect_err(|_| self.remove())
    }

    /// `run` in the foreground.
    ///
    /// # Errors
    /// Its last line; the container is then gone.
    pub fn run(&self) -> Outcome<Exit> {
        self.step("run", &self.run, How::Spawn)
            .inspect_err(|_| self.remove())
    }

    /// `exec` of /bin/true in the running container.
    ///
    /// # Errors
    /// Its last line.
    pub fn exec(&self) -> Outcome<Exit> {
        self.step("exec", &self.exec, How::Spawn)
    }

    /// Shows that `run` of a program that exits with 42 (`PROOF`) ran it: a runtime that only says
    /// so would be the fastest.
    ///
    /// # Errors
    /// What it did instead; the container is then gone.
    pub fn prove_run(&self) -> Outcome<()> {
        self.prove("run", &self.run).inspect_err(|_| self.remove())
    }

    /// Shows that `exec` runs its program, in the same way.
    ///
    /// # Errors
    /// What it did instead.
    pub fn prove_exec(&self) -> Outcome<()> {
        self.prove("exec", &self.exec_proof)
    }

    fn prove(&self, verb: &str, command: &Command) -> Outcome<()> {
        match self.stdio.run(command, How::Spawn) {
            Ok(exit) if exit.status == 42 << 8 => Ok(()),
            Ok(exit) if exit.status == 0 => {
                Err(format!("{verb}: exit 0 of a program that exits with 42"))
            }
            Ok(_) => Err(format!(
                "{verb}: {}",
                self.stdio.last_error().unwrap_or_default()
            )),
            Err(error) => Err(format!("{verb}: {error}")),
        }
    }

    /// `create` alone, made for measuring memory (`How::Fork`), and init's pid.
    ///
    /// # Errors
    /// Its last line; the container is then gone.
    pub fn create(&self) -> Outcome<(Exit, i32)> {
        let create = || Ok((self.step("create", &self.create, How::Fork)?, self.pid()?));
        create().inspect_err(|_| self.remove())
    }

    /// create and start, of a container that stays.
    ///
    /// # Errors
    /// The failed verb and its last line; the container is then gone.
    pub fn live(&self) -> Outcome<()> {
        let live = || {
            self.step("create", &self.create, How::Spawn)?;
            self.step("start", &self.start, How::Spawn)
        };
        live().map(drop).inspect_err(|_| self.remove())
    }

    /// Takes the container away in whatever state it is.
    pub fn remove(&self) {
        // Killed and reaped first: delete would wait for a process that only we can reap.
        if let Ok(pid) = self.pid() {
            sys::end_child(pid);
        }
        let _ = self.step("delete", &self.force, How::Spawn);
        let _ = fs::remove_file(&self.pid_file);
    }

    fn pid(&self) -> Outcome<i32> {
        let text = fs::read_to_string(&self.pid_file).map_err(|e| format!("pid file: {e}"))?;
        match text.trim().parse() {
            Ok(pid) if pid > 0 => Ok(pid),
            _ => Err(format!("pid file: \"{}\" is no pid", text.trim())),
        }
    }

    fn step(&self, verb: &str, command: &Command, how: How) -> Outcome<Exit> {
        match self.stdio.run(command, how) {
            Ok(exit) if exit.status == 0 => Ok(exit),
            Ok(exit) => Err(match self.stdio.last_error() {
                Some(line) => format!("{verb}: {line}"),
                None => format!("{verb}: wait status {:#x}, no message", exit.status),
            }),
            Err(error) => Err(format!("{verb}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_commands_with_environment() {
        let given = ["zz=/opt/zz --zygote off".to_string()];
        let env = ["zz:LD_PRELOAD=/x=y".to_string()];
        let list = collect(Some("/r/runz"), &given, &env).unwrap();
        let last = list.last().unwrap();
        assert_eq!(list[0].name, "runz");
        assert_eq!(
            (last.name.as_str(), &last.prefix[1..]),
            ("zz", &["--zygote".to_string(), "off".into()][..])
        );
        assert_eq!(last.env, ["LD_PRELOAD=/x=y"]);

        let twice = ["a=/1".to_string(), "a=/2".to_string()];
        let list = collect(None, &twice, &[]).unwrap();
        assert_eq!(list.iter().filter(|r| r.name == "a").count(), 1);
        assert_eq!(list.last().unwrap().prefix, ["/2"]);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for (peer, env) in [
            ("a", "a:K=V"),
            ("a=", "a:K=V"),
            ("a/b=/x", "a:K=V"),
            ("a=/x", "b:K=V"),
            ("a=/x", "a:K"),
        ] {
            let result = collect(None, &[peer.to_string()], &[env.to_string()]);
            assert!(result.is_err(), "{peer} {env}");
        }
    }
}
