//! A config with a profile that was seen before is decided as it would be without the cache.

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::plan::tests::options;
use crate::zygote::plans::tests::machine;
use crate::zygote::plans::{Seen, Sightings, learn};

fn podman() -> Value {
    let config = include_bytes!("../../../../tests/configs/podman.json");
    let profile = include_bytes!("../../../../tests/data/seccomp-podman.json");
    let mut config: Value = serde_json::from_slice(config).unwrap();
    config["linux"]["seccomp"] = serde_json::from_slice(profile).unwrap();
    config
}

fn whole(config: &[u8]) -> Vec<u8> {
    let bundle = bundle::understand(config, Path::new("/bundle")).unwrap();
    let decided = decided::decide(&bundle, &options(), &mut machine()).unwrap();
    postcard::to_allocvec(&decided).unwrap()
}

/// What is decided with the cache, as bytes.
fn cached(dir: &Path, config: &[u8]) -> Option<Vec<u8>> {
    let decided = decide(dir, config, &options(), &mut machine())?;
    Some(postcard::to_allocvec(&decided).unwrap())
}

#[test]
fn shared_by_containers_of_one_engine() {
    let dir = std::env::temp_dir().join(format!("runz-filters-{}", std::process::id()));
    let mut sightings = Sightings::default();
    let containers = ["a", "b", "c"].map(|hostname| {
        let mut config = podman();
        config["hostname"] = json!(hostname);
        config
    });
    // The profile, being the same text; white space is another text.
    let compact = |config: &Value| config.to_string().into_bytes();
    let pretty = |config: &Value| serde_json::to_vec_pretty(config).unwrap();
    for config in &containers[..2] {
        assert!(cached(&dir, &compact(config)).is_none());
        let config = compact(config);
        let again = sightings.again(Seen::new(&config, &options(), false));
        learn(&dir, again, &config, &options(), &mut machine()).unwrap();
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    let third = compact(&containers[2]);
    assert_eq!(cached(&dir, &third).unwrap(), whole(&third));
    assert!(cached(&dir, &pretty(&containers[2])).is_none());

    // Of a config that is refused, or needs repairs, nothing is said.
    let mut wrong = containers[2].clone();
    wrong["process"]["cwd"] = json!("relative");
    assert!(cached(&dir, &compact(&wrong)).is_none());
    wrong = containers[2].clone();
    wrong["process"]["capabilities"]["bounding"] = json!(["CAP_X"]);
    assert!(bundle::understand(&compact(&wrong), Path::new("/bundle")).is_ok());
    assert!(cached(&dir, &compact(&wrong)).is_none());

    // Members that are there twice: which one counts is the parser's to say.
    let text = String::from_utf8(third.clone()).unwrap();
    for twice in [
        text.replacen("\"linux\":{", "\"linux\":{\"seccomp\":null,", 1),
        text.replacen("\"linux\":{", "\"linux\":{\"seccom\\u0070\":null,", 1),
        text.replacen("\"seccomp\":", "\"seccomp\":null,\"seccomp\":", 1),
        format!("{},\"linux\":{{}}}}", &text[..text.len() - 1]),
        format!("{},\"\\u006cinux\":{{}}}}", &text[..text.len() - 1]),
    ] {
        assert_ne!(twice, text);
        assert!(serde_json::from_str::<Value>(&twice).is_ok());
        assert!(cached(&dir, twice.as_bytes()).is_none(), "{twice}");
    }

    // Another profile, or of another runz, of the same name.
    let path = fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&path).unwrap();
    for part in [&b"SCMP_ACT_ALLO"[..], program::build_id().unwrap()] {
        let mut bytes = bytes.clone();
        let at = bytes.windows(part.len()).position(|w| w == part);
        bytes[at.unwrap()] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(cached(&dir, &third).is_none());
    }
    fs::write(&path, &bytes).unwrap();
    assert!(cached(&dir, &third).is_some());
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn members_are_found_where_the_parser_finds_them() {
    let deep = json!({ "seccomp": 1, "linux": { "seccomp": 2 }, "s": "}\"]{\\" });
    for config in [
        json!({}),
        json!({ "a": [1, -2.5e3, true, null, "x"], "b": deep }),
        json!({ "linux": deep, "z": [] }),
        json!({ "a": "\"linux\":", "b\\": "\\", "linux": { "q": [[{}]], "seccomp": deep } }),
        json!({ "linux": [deep] }),
        json!({ "linux": "seccomp" }),
        json!([deep]),
        json!(7),
    ] {
        for text in [
            config.to_string(),
            serde_json::to_string_pretty(&config).unwrap(),
            format!(" \n{config}\t"),
        ] {
            let text = text.as_bytes();
            let linux = member(text, 0, b"linux");
            let parsed = |start: &usize| -> Value {
                let end = value(text, *start).unwrap();
                serde_json::from_slice(&text[*start..end]).unwrap()
            };
            assert_eq!(linux.as_ref().map(parsed).as_ref(), config.get("linux"));
            let seccomp = linux.and_then(|at| member(text, at, b"seccomp"));
            let expected = config.get("linux").and_then(|linux| linux.get("seccomp"));
            assert_eq!(seccomp.as_ref().map(parsed).as_ref(), expected);
        }
    }
}

#[test]
fn no_text_is_too_strange() {
    let mut config = podman();
    let rules = config["linux"]["seccomp"]["syscalls"].as_array_mut();
    rules.unwrap().truncate(3);
    let text = config.to_string().into_bytes();
    for end in 0..text.len() {
        profile(&text[..end]);
    }
    for at in 0..text.len() {
        for byte in *b"\"\\{}[],: \0\xff" {
            let mut text = text[..text.len().min(at + 40)].to_vec();
            text[at] = byte;
            profile(&text);
            member(&text, at, b"seccomp");
        }
    }
    for text in [
        "{\"",
        "{\"a\\",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":}",
        "{,",
        "{\"linux\":]",
    ] {
        assert_eq!(profile(text.as_bytes()), None, "{text}");
    }
}
