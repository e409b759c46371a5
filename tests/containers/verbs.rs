//! What list, ps, state, events, features, spec and completion print, and how words are parsed.

use std::fs;

use serde_json::{Value, json};

use crate::harness::runner::Tests;
use crate::harness::{Bundle, Call, Way, host};
use crate::tests;

pub const TESTS: Tests = tests![
    from(state_schema),
    state_file,
    list_of_nothing,
    list_table_and_json,
    from(ps_table_and_json),
    from(events_stats),
    features_schema,
    spec_template,
    spec_rootless_template,
    completion_of_shells,
    version,
    words,
    criu_verbs_say_so,
];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

/// Go's RFC3339Nano.
fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.len() >= 20 && text.as_bytes()[10] == b'T' && text.ends_with('Z')
}

fn state_schema(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let text = b.verb("state").ok();
    assert!(text.starts_with("{\n  \"ociVersion\": \"1."), "{text}");
    let state = json(&text);
    let mut all = keys(&state);
    all.sort_unstable();
    let wanted = [
        "bundle",
        "created",
        "id",
        "ociVersion",
        "owner",
        "pid",
        "rootfs",
        "status",
    ];
    assert_eq!(all, wanted);
    assert_eq!(
        state["rootfs"],
        *b.rootfs("").to_string_lossy().trim_end_matches('/')
    );
    assert_eq!(state["owner"], "");
    assert!(is_time(&state["created"]), "{text}");
    let b = Bundle::new(way).config(|spec| spec["annotations"] = json!({"k.v": "w"}));
    b.create().ok();
    assert_eq!(b.state()["annotations"], json!({"k.v": "w"}));
}

fn state_file(way: Way) {
    let b = Bundle::new(way)
        .sleeper()
        .config(|spec| spec["annotations"] = json!({"a": "b"}));
    b.create().ok();
    let dir = b.root.join(&b.id);
    assert!(dir.join("exec.fifo").exists());
    let state = json(&fs::read_to_string(dir.join("state.json")).expect("read state.json"));
    assert_eq!(state["id"], b.id);
    assert_eq!(state["init_process_pid"], b.pid());
    assert!(state["init_process_start"].is_number());
    assert_eq!(state["cgroup_paths"][""], *b.cgroup().to_string_lossy());
    let namespace = format!("/proc/{}/ns/net", b.pid());
    assert_eq!(state["namespace_paths"]["NEWNET"], namespace);
    let labels = state["config"]["labels"].as_array().expect("labels");
    assert!(labels.contains(&json!("a=b")), "{labels:?}");
    assert!(
        labels.contains(&json!(format!("bundle={}", b.dir.display()))),
        "{labels:?}"
    );
    assert_eq!(
        state["external_descriptors"].as_array().map(Vec::len),
        Some(3)
    );
    use std::os::unix::fs::PermissionsExt;
    let mode = |path| fs::metadata(path).expect("stat").permissions().mode() & 0o777;
    assert_eq!(mode(dir.join("state.json")), 0o600);
    assert_eq!(mode(dir.clone()), 0o711);
    b.start().ok();
    assert!(!dir.join("exec.fifo").exists());
}

fn list_of_nothing(way: Way) {
    let b = Bundle::new(way).without_daemon();
    let said = b.call("list").run().fails();
    assert!(said.contains(&*b.root.to_string_lossy()), "{said}");
    fs::create_dir(&b.root).expect("mkdir");
    assert_eq!(
        b.call("list").args(["-f", "json"]).run().ok().trim_end(),
        "null"
    );
    assert_eq!(b.call("list").arg("-q").run().ok(), "");
    assert_eq!(b.call("list").run().ok().lines().count(), 1);
}

fn list_table_and_json(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.create().ok();
    let table = b.call("list").run().ok();
    let lines: Vec<Vec<_>> = table
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0],
        ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    );
    let (pid, dir) = (b.pid().to_string(), b.dir.to_string_lossy());
    assert_eq!(lines[1][..4], [&*b.id, &*pid, "created", &*dir]);
    assert_eq!(lines[1][5], "root");
    let all = json(&b.call("list").args(["--format", "json"]).run().ok());
    let mut state = b.state();
    state["owner"] = json!("root");
    assert_eq!(all, json!([state]));
    assert_eq!(
        b.call("list").arg("--quiet").run().ok(),
        format!("{}\n", b.id)
    );
    let said = b.call("list").args(["-f", "xml"]).run().fails();
    assert!(said.contains("xml"), "{said}");
}

fn ps_table_and_json(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let pids = json(&b.call("ps").args(["-f", "json", &b.id]).run().ok());
    let pids = pids.as_array().expect("an array");
    assert!(pids.contains(&json!(b.pid())), "{pids:?}");
    let table = b.verb("ps").ok();
    assert!(table.starts_with("UID "), "{table}");
    assert!(
        table
            .lines()
            .any(|l| l.split_whitespace().nth(1) == Some(&b.pid().to_string())),
        "{table}"
    );
    let out = b.call("ps").args([&b.id, "-o", "pid,comm"]).run().ok();
    assert!(out.trim_start().starts_with("PID COMMAND"), "{out}");
    assert!(out.contains(" sh\n"), "{out}");
}

fn events_stats(way: Way) {
    let b = Bundle::new(way).sleeper();
    b.run_detached().ok();
    let text = b.call("events").args(["--stats", &b.id]).run().ok();
    assert_eq!(text.lines().count(), 1);
    let event = json(&text);
    assert_eq!(
        (&event["type"], &event["id"]),
        (&json!("stats"), &json!(b.id))
    );
    let data = &event["data"];
    for key in ["cpu", "memory", "pids", "blkio", "hugetlb", "intel_rdt"] {
        assert!(data[key].is_object(), "{key}: {data}");
    }
    assert!(data["cpu"]["usage"]["total"].is_number(), "{data}");
    // Without --stats: a line each interval, until the container is gone.
    let events = b.call("events").args(["--interval", "20ms", &b.id]).spawn();
    events.wait_stdout("}\n{");
    b.kill("KILL").ok();
    let out = events.wait().exits(0);
    assert!(out.stdout.lines().all(|l| json(l)["id"] == b.id.as_str()));
}

fn features_schema(_: Way) {
    let out = Call::new(["features"]).run();
    assert_eq!(out.stderr, "");
    let all = json(&out.ok());
    assert_eq!(all["ociVersionMin"], "1.0.0");
    assert!(
        all["ociVersionMax"]
            .as_str()
            .expect("a version")
            .starts_with("1.")
    );
    let has = |list: &Value, name: &str| list.as_array().is_some_and(|l| l.contains(&json!(name)));
    for option in ["ro", "rro", "rbind", "nosymfollow", "rprivate", "tmpcopyup"] {
        assert!(has(&all["mountOptions"], option), "{option}");
    }
    assert_eq!(all["hooks"].as_array().map(Vec::len), Some(6));
    let linux = &all["linux"];
    for kind in [
        "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
    ] {
        assert!(has(&linux["namespaces"], kind), "{kind}");
    }
    assert!(has(&linux["capabilities"], "CAP_SYS_ADMIN"));
    assert_eq!(linux["mountExtensions"]["idmap"]["enabled"], true);
    assert_eq!(linux["seccomp"]["enabled"], true);
    assert!(has(&linux["seccomp"]["archs"], "SCMP_ARCH_X86_64"));
    assert!(has(&linux["seccomp"]["actions"], "SCMP_ACT_NOTIFY"));
    assert_eq!(linux["cgroup"]["v2"], true);
    assert_eq!(linux["cgroup"]["v1"], false);
}

/// Writes a template into a new directory; its text.
fn template(b: &Bundle, options: &[&str]) -> String {
    let dir = b.dir.join(format!("spec{}", options.len()));
    fs::create_dir(&dir).expect("mkdir");
    let spec = || {
        Call::new(["spec", "--bundle"])
            .arg(&dir)
            .args(options)
            .run()
    };
    assert_eq!(spec().ok(), "");
    let said = spec().fails();
    assert!(
        said.contains("File config.json exists. Remove it first"),
        "{said}"
    );
    fs::read_to_string(dir.join("config.json")).expect("read config.json")
}

fn spec_template(way: Way) {
    let b = Bundle::new(way);
    let text = template(&b, &[]);
    assert!(
        text.starts_with("{\n\t\"ociVersion\": \"1.") && text.ends_with('}'),
        "{text}"
    );
    let spec = json(&text);
    assert_eq!(spec["process"]["args"], json!(["sh"]));
    assert_eq!(spec["process"]["terminal"], true);
    assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": true}));
    assert!(spec["linux"]["resources"]["devices"].is_array());
}

fn spec_rootless_template(way: Way) {
    let b = Bundle::new(way);
    let spec = json(&template(&b, &["--rootless"]));
    let kinds: Vec<_> = spec["linux"]["namespaces"]
        .as_array()
        .expect("namespaces")
        .iter()
        .filter_map(|n| n["type"].as_str())
        .collect();
    assert!(
        kinds.contains(&"user") && !kinds.contains(&"network"),
        "{kinds:?}"
    );
    assert_eq!(
        spec["linux"]["uidMappings"],
        json!([{"containerID": 0, "hostID": 0, "size": 1}])
    );
    assert_eq!(spec["linux"].get("resources"), None);
    assert!(!spec["mounts"].to_string().contains("gid=5"));
}

fn completion_of_shells(_: Way) {
    for shell in ["bash", "zsh", "fish"] {
        let text = Call::new(["completion", shell]).run().ok();
        assert!(
            text.contains("runz") && text.contains("checkpoint"),
            "{shell}"
        );
    }
    // bash must at least take it.
    let script = Call::new(["completion", "bash"]).run().ok();
    let path = host::scratch().join("completion.bash");
    fs::write(&path, script).expect("write");
    let status = std::process::Command::new("bash")
        .arg("-n")
        .arg(&path)
        .status();
    assert!(status.expect("run bash").success());
}

fn version(_: Way) {
    for word in ["--version", "-v"] {
        let text = Call::new([word]).run().ok();
        let mut lines = text.lines();
        assert!(
            lines.next().is_some_and(|l| l.starts_with("runz version ")),
            "{text}"
        );
        assert!(lines.any(|l| l.starts_with("spec: 1.")), "{text}");
    }
}

fn words(way: Way) {
    let b = Bundle::new(way);
    let dir = b.dir.to_string_lossy().into_owned();
    // Flags after the id, one dash, a bool with a value.
    b.call("run")
        .args([&b.id, "-d=true", "-bundle", &dir])
        .run()
        .ok();
    b.wait_status("stopped");
    b.call("delete").args([&b.id, "--force=false"]).run().ok();
    b.call("run")
        .args(["--detach=false", "--bundle", &dir, "--", &b.id])
        .run()
        .ok();
    let said = Call::new(["frobnicate"]).run().exits(3).stderr;
    assert!(said.contains("frobnicate"), "{said}");
    let said = b.call("list").arg("--zoo").run().exits(1).stderr;
    assert!(
        said.contains("flag provided but not defined: -zoo"),
        "{said}"
    );
    let said = b
        .call("restore")
        .arg("--lsm-mount-context")
        .run()
        .exits(1)
        .stderr;
    assert!(said.contains("flag needs an argument"), "{said}");
    let said = b.call("state").run().exits(1).stderr;
    assert!(said.contains("requires exactly 1 argument"), "{said}");
    let said = Call::new(["--root", "/", "list"]).run().fails();
    assert!(
        said.contains("Option --root argument should not be set to /"),
        "{said}"
    );
    for verb in ["create", "exec", "checkpoint", "update"] {
        Call::new([verb, "--help"]).run().ok();
        Call::new(["help", verb]).run().ok();
    }
    Call::new([""; 0]).run().ok();
}

fn criu_verbs_say_so(way: Way) {
    let b = Bundle::new(way);
    let said = b
        .call("restore")
        .args(["-no-subreaper", "-d", "-b", "/x", &b.id])
        .run()
        .fails();
    assert!(said.contains("not in this build"), "{said}");
    let said = b
        .call("checkpoint")
        .args(["--leave-running", "--image-path", "/x", &b.id])
        .run()
        .fails();
    assert!(said.contains("not in this build"), "{said}");
}
