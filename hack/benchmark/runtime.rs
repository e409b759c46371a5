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
use crate::zygote::Daemon;

/// How a runtime comes by its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It makes them when asked.
    Cold,
    /// Of kits that its zygote's daemon has made ahead.
    Kit,
    /// Its zygote's daemon has made them ahead, whole: `run --from`.
    From,
}

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
    /// How it makes containers.
    pub way: Way,
    /// The daemon that serves its state directory.
    pub daemon: Option<Daemon>,
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
        list.extend(ways(path));
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

/// The ways of a runz that knows them: `runz-kit`, `runz-from`.
fn ways(path: &str) -> Vec<Runtime> {
    let help = |args: &[&str]| -> String {
        let output = std::process::Command::new(path).args(args).output();
        output.map_or(String::new(), |o| {
            String::from_utf8_lossy(&o.stdout).into_owned()
        })
    };
    let way = |name: &str, way: Way| Runtime {
        way,
        env: vec![REQUIRE.to_string()],
        ..Runtime::new(name, path)
    };
    let mut list = Vec::new();
    if help(&["zygote", "--help"]).contains("serve") {
        list.push(way("runz-kit", Way::Kit));
    }
    if help(&["run", "--help"]).contains("--from")
        && help(&["zygote", "--help"]).contains("provision")
    {
        list.push(way("runz-from", Way::From));
    }
    list
}

/// That it fails rather than make a container the ordinary way, which would be measured instead.
const REQUIRE: &str = "RUNZ_ZYGOTE=require";

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
            way: Way::Cold,
            daemon: None,
        }
    }

    /// Whether a case means anything for it: an exec has no use for a kit, and a whole container of a
    /// pool is only ever run.
    pub fn can(&self, case: &str) -> bool {
        match self.way {
            Way::Cold => true,
            Way::Kit => case != "exec",
            Way::From => case == "run",
        }
    }

    /// The same without a daemon.
    pub fn anew(&self) -> Runtime {
        Runtime {
            name: self.name.clone(),
            prefix: self.prefix.clone(),
            env: self.env.clone(),
            version: self.version.clone(),
            root: self.root.clone(),
            way: self.way,
            daemon: None,
        }
    }

    /// Waits until its daemon has made what it lacks, so that the next one has the machine for himself.
    ///
    /// # Errors
    /// That it doesn't, and why.
    pub fn settle(&self) -> Outcome<()> {
        self.daemon.as_ref().map_or(Ok(()), Daemon::settle)
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
        self.command_with(args, &self.env)
    }

    fn command_with(&self, args: &[&str], pairs: &[String]) -> io::Result<Command> {
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
        for pair in pairs {
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
    /// The same where a zygote that has nothing left is no failure.
    create_relaxed: Command,
    run_relaxed: Command,
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
    /// Prepares the container `id` of `bundle` for `runtime`. One that takes whole containers from
    /// pools takes it `from` this pool, to run these arguments if there are any.
    ///
    /// # Errors
    /// What the streams or the command lines failed on.
    pub fn new(
        runtime: &Runtime,
        id: &str,
        bundle: &Path,
        (pool, args): (&str, &[&str]),
    ) -> Result<Slot> {
        let pid_file = bundle.join(format!("{id}.pid"));
        let (dir, file) = (bundle.to_string_lossy(), pid_file.to_string_lossy());
        let run = match runtime.way {
            Way::From if args.is_empty() => vec!["run", "--from", pool, id],
            Way::From => [&["run", "--from", pool, id, "--"], args].concat(),
            _ => vec!["run", "--bundle", &dir, id],
        };
        // Its daemon needs not be there for every loop at every moment, nor would a user's.
        let relaxed: Vec<String> = runtime
            .env
            .iter()
            .filter(|e| *e != REQUIRE)
            .cloned()
            .collect();
        Ok(Slot {
            stdio: Stdio::new().context("open the standard streams")?,
            create: runtime.command(&["create", "--bundle", &dir, "--pid-file", &file, id])?,
            start: runtime.command(&["start", id])?,
            exec: runtime.command(&["exec", id, "/bin/true"])?,
            exec_proof: runtime.command(&["exec", id, "/bin/sh", "-c", "exit 42"])?,
            delete: runtime.command(&["delete", id])?,
            force: runtime.command(&["delete", "--force", id])?,
            create_relaxed: runtime.command_with(
                &["create", "--bundle", &dir, "--pid-file", &file, id],
                &relaxed,
            )?,
            run_relaxed: runtime.command_with(&run, &relaxed)?,
            run: runtime.command(&run)?,
            pid_file,
        })
    }

    /// create, start, wait for the end of the program, delete.
    ///
    /// # Errors
    /// The failed verb and its last line; the container is then gone.
    pub fn life(&self) -> Outcome<Life> {
        self.life_by(&self.create)
    }

    /// The same; where a zygote has nothing left, the ordinary way.
    ///
    /// # Errors
    /// As [`Slot::life`].
    pub fn relaxed_life(&self) -> Outcome<Life> {
        self.life_by(&self.create_relaxed)
    }

    fn life_by(&self, create: &Command) -> Outcome<Life> {
        let life = || {
            let create = self.step("create", create, How::Spawn)?;
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

    /// The same; where a zygote has nothing left, the ordinary way.
    ///
    /// # Errors
    /// As [`Slot::run`].
    pub fn relaxed_run(&self) -> Outcome<Exit> {
        self.step("run", &self.run_relaxed, How::Spawn)
            .inspect_err(|_| self.remove())
    }

    /// What `create` is, to be done by somebody else.
    pub fn create_command(&self) -> &Command {
        &self.create
    }

    /// What `run` is, to be done by somebody else.
    pub fn run_command(&self) -> &Command {
        &self.run
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
