//! runz: an OCI container runtime.

#[allow(dead_code)]
#![allow(dead_code)]

mod bundle;
mod cgroup;
mod host;
mod plan;
mod seccomp;
#[allow(dead_code, unused_imports)] // until the verbs use it
mod cgroup;
mod sys;
mod cli;
mod cmd;
mod log;

fn main() {
    match cli::parse(std::env::args_os()) {
        cli::Parsed::Run(_, cli::Command::Completion(options)) => {
            let _ = cmd::completion::completion(&options);
        }
        cli::Parsed::Run(global, command) => println!("{global:?} {command:?}"),
        cli::Parsed::Exit { stdout } => print!("{stdout}"),
        cli::Parsed::Refused {
            stdout,
            message,
            code,
            ..
        } => {
            print!("{stdout}");
            eprintln!("runz: {message}");
            std::process::exit(code.into());
        }
    }
}
