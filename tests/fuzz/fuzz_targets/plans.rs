//! Any file of the plan cache: it is as good as none, or a plan that can be written down again. And any
//! config.json in which the seccomp profile is looked for without a parser.

#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../../src/bundle.rs"]
mod bundle;
#[path = "../../../src/cgroup/mod.rs"]
mod cgroup;
#[path = "../../../src/decided.rs"]
mod decided;
#[path = "../../../src/host.rs"]
mod host;
#[path = "../../../src/plan/mod.rs"]
mod plan;
#[path = "../../../src/zygote/plans/mod.rs"]
mod plans;
#[path = "../../../src/seccomp/mod.rs"]
mod seccomp;
#[path = "../../../src/sys/mod.rs"]
mod sys;

use decided::Decided;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    if let Ok(decided) = postcard::from_bytes::<Decided>(data) {
        let bytes = postcard::to_allocvec(&decided).expect("what was read can be written");
        let again: Decided = postcard::from_bytes(&bytes).expect("what was written can be read");
        assert_eq!(postcard::to_allocvec(&again).expect("the same"), bytes);
    }
    let mut host = host::Host {
        euid: 0,
        in_user_namespace: false,
        last_capability: 40,
        apparmor: false,
        selinux: false,
        kcore: true,
        setgroups_denied: false,
    };
    let options = plan::Options::default();
    assert!(plans::understand(data, b"{}", &options, &mut host).is_none());

    if let Some(place) = plans::filter::profile(data)
        && serde_json::from_slice::<Value>(data).is_ok()
    {
        let profile = serde_json::from_slice::<Value>(&data[place.clone()]);
        assert!(profile.is_ok_and(|profile| profile.is_object()));
        let without = [&data[..place.start], b"null", &data[place.end..]].concat();
        assert!(serde_json::from_slice::<Value>(&without).is_ok());
    }
});
