//! Any config.json: it is refused in one line or becomes a plan, for root and for a user, and so
//! does its process as one that joins.

#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../../src/bundle.rs"]
mod bundle;
#[path = "../../../src/cgroup/mod.rs"]
mod cgroup;
#[path = "../../../src/host.rs"]
mod host;
#[path = "../../../src/plan/mod.rs"]
mod plan;
#[path = "../../../src/seccomp/mod.rs"]
mod seccomp;
#[path = "../../../src/sys/mod.rs"]
mod sys;

use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    let spec = match bundle::parse(data) {
        Ok((spec, _)) => spec,
        Err(error) => {
            one_line(&error);
            return Corpus::Reject;
        }
    };
    for euid in [0, 1000] {
        let host = host::Host {
            euid,
            in_user_namespace: false,
            last_capability: 40,
            apparmor: true,
            selinux: true,
            kcore: true,
            setgroups_denied: false,
        };
        let options = plan::Options {
            id: "id".into(),
            bundle: "/bundle".into(),
            listen_fds: 1,
            notify: Some("/run/id/notify".into()),
            rootless: euid != 0,
            ..Default::default()
        };
        if let Err(error) = plan::plan(&spec, &options, &host) {
            one_line(&error);
        }
        if let Some(process) = spec.process() {
            let container = plan::Container {
                id_maps: &plan::IdMaps::default(),
                umask: None,
                personality: None,
                memory_policy: None,
                preserve_fds: 0,
            };
            if let Err(error) = plan::join(process, container, &host, &mut Vec::new()) {
                one_line(&error);
            }
        }
    }
    Corpus::Keep
});

fn one_line(error: &anyhow::Error) {
    let sentence = format!("{error:#}");
    assert!(!sentence.contains(char::is_control), "{sentence:?}");
}
