//! What the verbs are told by engines and by people.

use super::*;

/// What containerd, podman, CRI-O and conmon send (runc-compatibility.md, section 4).
#[test]
fn engines_are_understood() {
    let create = Create {
        id: id(),
        ..Create::default()
    };
    let exec = Exec {
        id: id(),
        ..Exec::default()
    };
    let restore = Restore {
        id: id(),
        ..Restore::default()
    };
    for (line, expected) in [
        (
            "create --bundle /b --pid-file /b/init.pid --console-socket /s --no-pivot --no-new-keyring web",
            Command::Create(Create {
                bundle: Some("/b".into()),
                pid_file: Some("/b/init.pid".into()),
                console_socket: Some("/s".into()),
                no_pivot: true,
                no_new_keyring: true,
                ..create.clone()
            }),
        ),
        (
            "create --bundle /b --pid-file /p --preserve-fds 2 web",
            Command::Create(Create {
                bundle: Some("/b".into()),
                pid_file: Some("/p".into()),
                preserve_fds: 2,
                ..create.clone()
            }),
        ),
        ("start web", Command::Start(Start { id: id() })),
        (
            "exec --process /tmp/p --console-socket /s --detach --pid-file /b/1.pid web",
            Command::Exec(Exec {
                process: Some("/tmp/p".into()),
                console_socket: Some("/s".into()),
                detach: true,
                pid_file: Some("/b/1.pid".into()),
                ..exec.clone()
            }),
        ),
        (
            "exec --pid-file /p --process /f --detach --preserve-fds 1 web",
            Command::Exec(Exec {
                process: Some("/f".into()),
                detach: true,
                pid_file: Some("/p".into()),
                preserve_fds: 1,
                ..exec.clone()
            }),
        ),
        (
            "exec --process /f web",
            Command::Exec(Exec {
                process: Some("/f".into()),
                ..exec.clone()
            }),
        ),
        (
            "kill --all web 9",
            Command::Kill(Kill {
                all: true,
                id: id(),
                signal: Some("9".into()),
            }),
        ),
        (
            "kill -a web KILL",
            Command::Kill(Kill {
                all: true,
                id: id(),
                signal: Some("KILL".into()),
            }),
        ),
        (
            "kill web 15",
            Command::Kill(Kill {
                all: false,
                id: id(),
                signal: Some("15".into()),
            }),
        ),
        (
            "delete web",
            Command::Delete(Delete {
                force: false,
                id: id(),
            }),
        ),
        (
            "delete --force web",
            Command::Delete(Delete {
                force: true,
                id: id(),
            }),
        ),
        ("pause web", Command::Pause(Pause { id: id() })),
        ("resume web", Command::Resume(Resume { id: id() })),
        ("state web", Command::State(State { id: id() })),
        (
            "ps --format json web",
            Command::Ps(Ps {
                format: Format::Json,
                id: id(),
                args: vec![],
            }),
        ),
        (
            "update --resources=- web",
            Command::Update(Update {
                resources: Some("-".into()),
                id: id(),
                ..Update::default()
            }),
        ),
        (
            "update --resources - web",
            Command::Update(Update {
                resources: Some("-".into()),
                id: id(),
                ..Update::default()
            }),
        ),
        (
            "checkpoint --image-path /i --work-path /w --leave-running --tcp-established --file-locks \
             --pre-dump --parent-path ../pre --empty-ns network web",
            Command::Checkpoint(Checkpoint {
                image_path: Some("/i".into()),
                work_path: Some("/w".into()),
                parent_path: Some("../pre".into()),
                leave_running: true,
                tcp_established: true,
                file_locks: true,
                pre_dump: true,
                empty_ns: vec!["network".into()],
                status_fd: -1,
                id: id(),
                ..Checkpoint::default()
            }),
        ),
        (
            "restore --detach --pid-file /p --image-path /i --work-path /w -no-subreaper --no-pivot \
             --bundle /b web",
            Command::Restore(Restore {
                detach: true,
                pid_file: Some("/p".into()),
                image_path: Some("/i".into()),
                work_path: Some("/w".into()),
                no_subreaper: true,
                no_pivot: true,
                bundle: Some("/b".into()),
                ..restore.clone()
            }),
        ),
        ("features", Command::Features(Features {})),
    ] {
        assert_eq!(command(line), expected, "{line:?}");
        let globals = "--root /run/containerd/runc/k8s.io --log /b/log.json --log-format json --systemd-cgroup";
        let (global, same) = run(&format!("{globals} {line}"));
        assert_eq!(same, expected, "{line:?}");
        let all = Global {
            root: Some("/run/containerd/runc/k8s.io".into()),
            log: Some("/b/log.json".into()),
            log_format: LogFormat::Json,
            systemd_cgroup: true,
            ..Global::default()
        };
        assert_eq!(global, all, "{line:?}");
    }
}

#[test]
fn people_are_understood() {
    let all = |words: &[&str]| {
        words
            .iter()
            .map(|word| word.to_string())
            .collect::<Vec<_>>()
    };
    let exec = Exec {
        id: id(),
        ..Exec::default()
    };
    let update = Update {
        id: id(),
        ..Update::default()
    };
    for (line, expected) in [
        (
            "run -d --keep web --no-subreaper -b /b",
            Command::Run(Run {
                create: Create {
                    bundle: Some("/b".into()),
                    id: id(),
                    ..Create::default()
                },
                detach: true,
                keep: true,
                no_subreaper: true,
                ..Run::default()
            }),
        ),
        (
            "run --from lambda -e A=1 web --cwd /x -d -- sh -c exit",
            Command::Run(Run {
                create: Create {
                    id: id(),
                    ..Create::default()
                },
                detach: true,
                from: Some("lambda".into()),
                env: vec!["A=1".into()],
                cwd: Some("/x".into()),
                args: vec!["sh".into(), "-c".into(), "exit".into()],
                ..Run::default()
            }),
        ),
        (
            "delete web -f",
            Command::Delete(Delete {
                force: true,
                id: id(),
            }),
        ),
        (
            "delete web --force=false",
            Command::Delete(Delete {
                force: false,
                id: id(),
            }),
        ),
        // runc takes "9" for the container here, as its reordering thinks it a value of --all.
        (
            "kill web --all 9",
            Command::Kill(Kill {
                all: true,
                id: id(),
                signal: Some("9".into()),
            }),
        ),
        (
            "kill web",
            Command::Kill(Kill {
                all: false,
                id: id(),
                signal: None,
            }),
        ),
        (
            "exec -t -e A=1 --env B=2,3 -e C= -u 7:8 -g 1 -g 2 -c CAP_CHOWN --cwd /w --no-new-privs \
             --cgroup a --cgroup cpu:b --ignore-paused --process-label l --apparmor p web sh -c id",
            Command::Exec(Exec {
                tty: true,
                env: all(&["A=1", "B=2,3", "C="]),
                user: Some(User {
                    uid: 7,
                    gid: Some(8),
                }),
                additional_gids: vec![1, 2],
                cap: all(&["CAP_CHOWN"]),
                cwd: Some("/w".into()),
                no_new_privs: true,
                cgroup: all(&["a", "cpu:b"]),
                ignore_paused: true,
                process_label: Some("l".into()),
                apparmor: Some("p".into()),
                args: all(&["sh", "-c", "id"]),
                ..exec.clone()
            }),
        ),
        ("exec web ls -h --help -x", {
            Command::Exec(Exec {
                args: all(&["ls", "-h", "--help", "-x"]),
                ..exec.clone()
            })
        }),
        // runc would execute "--".
        (
            "exec web -- ls --",
            Command::Exec(Exec {
                args: all(&["ls", "--"]),
                ..exec.clone()
            }),
        ),
        (
            "exec -- web -- ls",
            Command::Exec(Exec {
                args: all(&["ls"]),
                ..exec.clone()
            }),
        ),
        (
            "exec web ls -- x",
            Command::Exec(Exec {
                args: all(&["ls", "--", "x"]),
                ..exec.clone()
            }),
        ),
        (
            "exec web _ _",
            Command::Exec(Exec {
                args: all(&["", ""]),
                ..exec.clone()
            }),
        ),
        ("exec web", Command::Exec(exec.clone())),
        ("ps web -o pid -x", {
            Command::Ps(Ps {
                format: Format::Table,
                id: id(),
                args: all(&["-o", "pid", "-x"]),
            })
        }),
        (
            "ps -f json web",
            Command::Ps(Ps {
                format: Format::Json,
                id: id(),
                args: vec![],
            }),
        ),
        (
            "list",
            Command::List(List {
                format: Format::Table,
                quiet: false,
            }),
        ),
        (
            "list -q -f json",
            Command::List(List {
                format: Format::Json,
                quiet: true,
            }),
        ),
        ("events web", {
            Command::Events(Events {
                stats: false,
                interval: Duration::from_secs(5),
                id: id(),
            })
        }),
        ("events --stats --interval=1m30s web", {
            Command::Events(Events {
                stats: true,
                interval: Duration::from_secs(90),
                id: id(),
            })
        }),
        ("spec", Command::Spec(Spec::default())),
        (
            "spec --rootless -b /b",
            Command::Spec(Spec {
                bundle: Some("/b".into()),
                rootless: true,
            }),
        ),
        (
            "completion zsh",
            Command::Completion(Completion { shell: Shell::Zsh }),
        ),
        (
            "update --memory 512m --memory-swap -1 --cpu-quota -1 --cpu-period 100000 --pids-limit -1 \
             --cpuset-cpus 0-3 --blkio-weight 500 --cpu-idle 1 --kernel-memory 1g web",
            Command::Update(Update {
                memory: Some(512 << 20),
                memory_swap: Some(-1),
                cpu_quota: Some(-1),
                cpu_period: Some(100_000),
                pids_limit: Some(-1),
                cpuset_cpus: Some("0-3".into()),
                blkio_weight: Some(500),
                cpu_idle: Some(1),
                kernel_memory: Some(1 << 30),
                ..update.clone()
            }),
        ),
        (
            "update --memory= --cpuset-cpus _ web",
            Command::Update(update.clone()),
        ),
        ("checkpoint web", {
            Command::Checkpoint(Checkpoint {
                status_fd: -1,
                id: id(),
                ..Checkpoint::default()
            })
        }),
        ("restore --manage-cgroups-mode=ignore web", {
            Command::Restore(Restore {
                manage_cgroups_mode: Some(CgroupsMode::Ignore),
                id: id(),
                ..Restore::default()
            })
        }),
        (
            "create -- -x",
            Command::Create(Create {
                id: "-x".into(),
                ..Create::default()
            }),
        ),
        ("create _", Command::Create(Create::default())),
    ] {
        assert_eq!(command(line), expected, "{line:?}");
    }
}
