//! A call of the runtime.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{host, wait_for};

/// A call to be made. stdin is /dev/null unless told; stdout and stderr are files, which a container
/// may keep open after the runtime has ended.
pub struct Call {
    words: Vec<String>,
    shell: Option<String>,
    command: Box<dyn Fn(&mut Command)>,
    stdin: Vec<u8>,
    given: Option<[Stdio; 3]>,
}

/// What a call came to.
#[derive(Debug)]
pub struct Output {
    /// The exit code, or minus the signal that ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    call: String,
}

/// A call under way; killed when dropped.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    call: String,
}

impl Call {
    /// `runz WORDS…`.
    pub fn new<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Call {
        Call {
            words: words.into_iter().map(|w| w.as_ref().to_owned()).collect(),
            shell: None,
            command: Box::new(|_| {}),
            stdin: Vec::new(),
            given: None,
        }
    }

    /// One more word.
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Call {
        self.words
            .push(word.as_ref().to_string_lossy().into_owned());
        self
    }

    /// More words.
    pub fn args<S: AsRef<str>>(mut self, words: impl IntoIterator<Item = S>) -> Call {
        self.words
            .extend(words.into_iter().map(|w| w.as_ref().to_owned()));
        self
    }

    /// Changes to the process itself: its environment, its directory.
    pub fn with(mut self, change: impl Fn(&mut Command) + 'static) -> Call {
        let before = self.command;
        self.command = Box::new(move |c| {
            before(c);
            change(c);
        });
        self
    }

    /// An environment variable.
    pub fn env(self, name: &str, value: impl AsRef<OsStr>) -> Call {
        let (name, value) = (name.to_owned(), value.as_ref().to_owned());
        self.with(move |c| {
            c.env(&name, &value);
        })
    }

    /// The call is made by a shell's `script`, in which it is `"$@"`; to be ended by `exec "$@"`
    /// where the runtime is to be that process. For descriptors, limits, namespaces.
    pub fn shell(mut self, script: &str) -> Call {
        self.shell = Some(script.to_owned());
        self
    }

    /// What is read from stdin.
    pub fn stdin(mut self, data: impl AsRef<[u8]>) -> Call {
        self.stdin = data.as_ref().to_owned();
        self
    }

    /// stdin, stdout and stderr as given, instead of files of ours.
    pub fn stdio(mut self, all: [Stdio; 3]) -> Call {
        self.given = Some(all);
        self
    }

    /// Makes the call.
    pub fn spawn(self) -> Running {
        let program = host::runtime();
        let mut command = match &self.shell {
            Some(script) => {
                let mut c = Command::new("sh");
                c.args(["-c", script, "sh"]).arg(program);
                c
            }
            None => Command::new(program),
        };
        command.args(&self.words);
        for name in [
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "LISTEN_PID",
            "XDG_RUNTIME_DIR",
            "RUNZ_ZYGOTE",
        ] {
            command.env_remove(name);
        }
        (self.command)(&mut command);
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = |name: &str| host::scratch().join(format!("{number}.{name}"));
        let (stdout, stderr) = (path("out"), path("err"));
        let create = |path: &PathBuf| {
            let mut options = File::options();
            let file = options.read(true).append(true).create_new(true).open(path);
            file.expect("create an output file")
        };
        let (out, err) = (create(&stdout), create(&stderr));
        match self.given {
            Some([input, output, error]) => {
                command.stdin(input).stdout(output).stderr(error);
            }
            None => {
                command.stdin(input(&self.stdin)).stdout(out).stderr(err);
            }
        }
        let call = format!("runz {}", self.words.join(" "));
        let child = command.spawn().unwrap_or_else(|e| panic!("{call}: {e}"));
        Running {
            child,
            stdout,
            stderr,
            call,
        }
    }

    /// Makes the call and waits for its end.
    pub fn run(self) -> Output {
        self.spawn().wait()
    }
}

fn input(data: &[u8]) -> Stdio {
    if data.is_empty() {
        return Stdio::null();
    }
    let memory = nix::sys::memfd::memfd_create(c"stdin", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let mut file = File::from(memory.expect("memfd_create"));
    file.write_all(data).expect("write stdin");
    file.seek(SeekFrom::Start(0)).expect("seek stdin");
    file.into()
}

impl Running {
    /// Its process id; the shell's, if there is one that doesn't exec.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("signal the runtime");
    }

    /// What it, and whoever has its stdout, wrote so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// The same of stderr.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until stdout holds `text`.
    pub fn wait_stdout(&self, text: &str) {
        wait_for(&format!("{text:?} of {}", self.call), || {
            self.stdout().contains(text).then_some(())
        });
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("wait for the runtime")
            .is_some()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Output {
        let call = self.call.clone();
        let status = wait_for(&format!("the end of {call}"), || {
            self.child.try_wait().expect("wait for the runtime")
        });
        Output {
            code: code(status),
            stdout: self.stdout(),
            stderr: self.stderr(),
            call,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &PathBuf) -> String {
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|mut f| f.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An exit code, or minus a signal.
pub fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| -status.signal().unwrap_or(0))
}

impl Output {
    /// Checks that it ended well, without a word on stderr. What it printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(
            self.code == 0 && self.stderr.is_empty(),
            "{}: exit {}, stderr: {}stdout: {}",
            self.call,
            self.code,
            self.stderr,
            self.stdout
        );
        self.stdout
    }

    /// Checks that it ended with `code`. The output whole.
    #[track_caller]
    pub fn exits(self, code: i32) -> Output {
        assert_eq!(self.code, code, "{}: stderr: {}", self.call, self.stderr);
        self
    }

    /// Checks that it failed with exit code 1 and one line. The line.
    #[track_caller]
    pub fn fails(self) -> String {
        self.fails_with(1)
    }

    /// Checks that it failed with `code` and one line. The line.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> String {
        let line = self.stderr.trim_end_matches('\n').to_owned();
        assert!(
            self.code == code && !line.is_empty() && !line.contains('\n'),
            "{}: exit {} instead of {code}, or not one line; stderr: {}stdout: {}",
            self.call,
            self.code,
            self.stderr,
            self.stdout
        );
        line
    }
}
