//! What is kept is found again, whole, by those for whom it was decided, and by nobody else.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::plan::tests::options;
use crate::{bundle, decided};

/// This machine, whoever runs the tests.
pub fn machine() -> Host {
    Host {
        euid: crate::sys::cred::effective_ids().0,
        ..plan::tests::machine()
    }
}

fn decide(config: &[u8], options: &Options) -> Decided {
    let bundle = bundle::understand(config, &options.bundle).unwrap();
    let host = Host {
        apparmor: true,
        selinux: true,
        ..machine()
    };
    decided::on(&bundle, options, &host).unwrap()
}

fn bytes(decided: &Decided) -> Vec<u8> {
    postcard::to_allocvec(decided).unwrap()
}

/// The entry of a plan.
fn joined(config: &[u8], host: &Host, decided: &Decided) -> Vec<u8> {
    let (key, bytes) = (key(&options(), host).unwrap(), bytes(decided));
    let entry = Entry::new(decided.labels, &key, config, &bytes);
    entry.join().unwrap()
}

/// Configs of engines, with seccomp profile, and one that has a bit of everything.
fn configs() -> Vec<(&'static str, Vec<u8>)> {
    macro_rules! read {
        ($($name:literal),*) => { vec![$(($name, include_bytes!(concat!("../../../tests/", $name)).to_vec())),*] };
    }
    let mut all = read!(
        "configs/spec.json",
        "configs/rootless.json",
        "configs/podman.json",
        "fuzz/corpus/config/podman",
        "fuzz/corpus/config/rootless",
        "fuzz/corpus/config/spec"
    );
    let profile: Value =
        serde_json::from_slice(include_bytes!("../../../tests/data/seccomp-podman.json")).unwrap();
    let mut podman: Value = serde_json::from_slice(&all[2].1).unwrap();
    podman["linux"]["seccomp"] = profile;
    all.push(("podman with seccomp", podman.to_string().into()));
    all.push(("everything", everything(podman).to_string().into()));
    all
}

/// What a config of podman doesn't have.
fn everything(mut config: Value) -> Value {
    let maps = json!([{ "containerID": 0, "hostID": 1000, "size": 65536 }]);
    let hooks = json!([{ "path": "/h", "args": ["h"], "env": ["A=1"], "timeout": 1 }]);
    config["hostname"] = json!("h");
    config["domainname"] = json!("d");
    config["hooks"] = json!({
        "prestart": hooks, "createRuntime": hooks, "createContainer": hooks,
        "startContainer": hooks, "poststart": hooks, "poststop": hooks,
    });
    let process = &mut config["process"];
    process["terminal"] = json!(true);
    process["consoleSize"] = json!({ "height": 1, "width": 2 });
    process["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 2 }]);
    process["oomScoreAdj"] = json!(-7);
    process["scheduler"] = json!({ "policy": "SCHED_FIFO", "priority": 1 });
    process["ioPriority"] = json!({ "class": "IOPRIO_CLASS_RT", "priority": 1 });
    process["apparmorProfile"] = json!("p");
    process["selinuxLabel"] = json!("l");
    process["user"]["additionalGids"] = json!([4, 5]);
    let capabilities = process["capabilities"]["bounding"].as_array_mut();
    capabilities.unwrap().push(json!("CAP_X"));
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.push(
        json!({ "destination": "/a", "source": "/b", "options": ["ridmap", "rbind", "ro"],
        "uidMappings": maps, "gidMappings": maps }),
    );
    mounts.push(json!({ "destination": "/c", "type": "tmpfs",
        "options": ["tmpcopyup", "size=1m", "silent", "noexec"] }));
    let linux = &mut config["linux"];
    for kind in ["user", "time"] {
        let list = linux["namespaces"].as_array_mut().unwrap();
        list.push(json!({ "type": kind }));
    }
    for namespace in linux["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "ipc" {
            namespace["path"] = json!("/proc/1/ns/ipc");
        }
    }
    linux["uidMappings"] = maps.clone();
    linux["gidMappings"] = maps;
    linux["timeOffsets"] = json!({ "monotonic": { "secs": 1, "nanosecs": 2 } });
    linux["mountLabel"] = json!("m");
    linux["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    linux["personality"] = json!({ "domain": "LINUX32" });
    linux["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0" });
    linux["intelRdt"] = json!({ "closID": "c", "enableMonitoring": true });
    linux["devices"] = json!([{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3 }]);
    let resources = &mut linux["resources"];
    resources["memory"] = json!({ "limit": 8192, "checkBeforeUpdate": true, "kernel": 1 });
    resources["blockIO"] = json!({ "weight": 10 });
    resources["cpu"] = json!({ "burst": 1, "quota": 2000, "period": 1000, "shares": 3 });
    linux["seccomp"]["listenerPath"] = json!("/run/l");
    let rules = linux["seccomp"]["syscalls"].as_array_mut().unwrap();
    rules.push(json!({ "names": ["mkdirat", "unheard_of"], "action": "SCMP_ACT_NOTIFY" }));
    config
}

fn spec() -> Vec<u8> {
    configs().swap_remove(0).1
}

/// A directory of its own, for a cache that is still to be made in it.
struct Room(PathBuf);

impl Room {
    fn new(name: &str) -> Room {
        let dir = std::env::temp_dir().join(format!("runz-plans-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Room(dir)
    }

    fn cache(&self) -> PathBuf {
        self.0.join("plans")
    }

    fn keep(&self, config: &[u8], options: &Options) -> bool {
        let decided = decide(config, options);
        keep(&self.cache(), config, options, &machine(), &decided).unwrap()
    }

    fn look(&self, config: &[u8], options: &Options) -> Option<Decided> {
        look(&self.cache(), config, options, &mut machine())
    }

    /// The files, without their order.
    fn names(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn file(&self, config: &[u8], options: &Options) -> PathBuf {
        self.cache().join(name(hash(config, options).unwrap()))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_plan_survives() {
    let room = Room::new("survives");
    for (name, config) in configs() {
        let decided = decide(&config, &options());
        let written = bytes(&decided);
        let again: Decided = postcard::from_bytes(&written).expect(name);
        assert_eq!(bytes(&again), written, "{name}");

        if decided.labels {
            // What host it was decided for isn't the one that will be looked at.
            continue;
        }
        let kept = room.keep(&config, &options());
        assert_eq!(kept, decided.plan.intel_rdt.is_none(), "{name}");
        let found = room.look(&config, &options());
        assert_eq!(found.is_some(), kept, "{name}");
        if let Some(found) = found {
            assert_eq!(bytes(&found), written, "{name}");
        }
    }
}

/// Not by their bytes: a field that isn't written down at all would be missing on both sides.
#[test]
fn parts_are_all_there() {
    let config = configs().pop().unwrap().1;
    // See `everything`; what is compared below has something in it.
    let first = decide(&config, &options());
    let again: Decided = postcard::from_bytes(&bytes(&first)).unwrap();
    let (plan, other) = (&first.plan, &again.plan);
    let filter = |plan: &plan::Plan| {
        let program = plan.seccomp.as_ref().unwrap();
        (
            crate::seccomp::bytes::of(&program.filter),
            program.flags,
            program.warnings.clone(),
        )
    };
    assert!(filter(plan).0.len() > 1000);
    assert_eq!(filter(plan), filter(other));
    assert_eq!(plan.resources, other.resources);
    assert!(!plan.resources.writes.is_empty());
    assert_eq!(plan.mounts.len(), other.mounts.len());
    assert_eq!(plan.cgroups_path, other.cgroups_path);
    assert_eq!(plan.hostname, other.hostname);
    assert_eq!(plan.masked_paths, other.masked_paths);
    assert_eq!(first.version, again.version);
    assert_eq!(first.annotations, again.annotations);
    assert!(!first.annotations.is_empty());
    let process = |plan: &plan::Plan| {
        let process = plan.process.as_ref().unwrap();
        let args: Vec<_> = process.args.iter().map(ToOwned::to_owned).collect();
        let env: Vec<_> = process.env.iter().map(ToOwned::to_owned).collect();
        (args, env, process.candidates.clone(), process.capabilities)
    };
    assert_eq!(process(plan), process(other));
}

#[test]
fn the_callers_id_is_put_in() {
    let room = Room::new("id");
    assert!(room.keep(&spec(), &options()));
    let other = Options {
        id: "other".into(),
        ..options()
    };
    let found = room.look(&spec(), &other).unwrap();
    assert_eq!(found.plan.keyring.as_deref(), Some(c"_ses.other"));
    assert_eq!(bytes(&found), bytes(&decide(&spec(), &other)));
}

#[test]
fn everything_else_is_compared() {
    let room = Room::new("compared");
    assert!(room.keep(&spec(), &options()));
    assert!(room.look(&spec(), &options()).is_some());
    let mut space = spec();
    space.push(b' ');
    assert!(room.look(&space, &options()).is_none());
    let entry = fs::read(room.file(&spec(), &options())).unwrap();
    let differs = |config: &[u8], options: &Options, mut host: Host| {
        let found = room.look(config, options).is_some() && host == machine();
        // Nor if the hash were the same.
        !found && understand(&entry, config, options, &mut host).is_none()
    };
    assert!(!differs(&spec(), &options(), machine()));
    assert!(differs(&space, &options(), machine()));
    let change: [fn(&mut Options); 6] = [
        |o| o.bundle = "/other".into(),
        |o| o.no_pivot = true,
        |o| o.no_new_keyring = true,
        |o| o.preserve_fds = 1,
        |o| o.listen_fds = 1,
        |o| o.rootless = true,
    ];
    for (index, change) in change.iter().enumerate() {
        let mut options = options();
        change(&mut options);
        assert!(differs(&spec(), &options, machine()), "{index}");
    }
    let change: [fn(&mut Host); 7] = [
        |h| h.euid += 1,
        |h| h.in_user_namespace = true,
        |h| h.last_capability = 39,
        |h| h.apparmor = true,
        |h| h.selinux = true,
        |h| h.kcore = false,
        |h| h.setgroups_denied = true,
    ];
    for (index, change) in change.iter().enumerate() {
        let mut host = machine();
        change(&mut host);
        assert!(differs(&spec(), &options(), host), "{index}");
    }
    // Another runz.
    let mut other = entry.clone();
    let build = program::build_id().unwrap();
    let at = entry.windows(build.len()).position(|w| w == build).unwrap();
    other[at] ^= 1;
    assert!(understand(&other, &spec(), &options(), &mut machine()).is_none());
}

/// Of a config with a label it matters which LSMs the host has; of one without it isn't looked at.
#[test]
fn labels() {
    let (mut config, mut host): (Value, _) = (serde_json::from_slice(&spec()).unwrap(), machine());
    config["process"]["selinuxLabel"] = json!("");
    let config = config.to_string().into_bytes();
    let bundle = bundle::understand(&config, Path::new("/bundle")).unwrap();
    let decided = decided::decide(&bundle, &options(), &mut host).unwrap();
    assert!(decided.labels);
    let entry = |host: &Host| joined(&config, host, &decided);
    let found = |entry: &[u8]| understand(entry, &config, &options(), &mut machine()).is_some();
    assert!(found(&entry(&host)));
    // What the host was thought to be before doesn't count.
    let mut unlike = Host {
        apparmor: !host.apparmor,
        selinux: !host.selinux,
        ..machine()
    };
    assert!(understand(&entry(&host), &config, &options(), &mut unlike).is_some());
    assert_eq!(unlike, host);
    host.selinux = !host.selinux;
    assert!(!found(&entry(&host)));
    assert!(!decide(&spec(), &options()).labels);
}

#[test]
fn what_depends_on_the_id_is_not_kept() {
    let room = Room::new("not-kept");
    let notify = Options {
        notify: Some("/run/runz/web/notify".into()),
        ..options()
    };
    assert!(!room.keep(&spec(), &notify));
    assert!(room.keep(&spec(), &options()));
    assert!(room.look(&spec(), &notify).is_none());
    let mut config: Value = serde_json::from_slice(&spec()).unwrap();
    config["linux"]["intelRdt"] = json!({ "enableMonitoring": true });
    let config = config.to_string().into_bytes();
    assert!(!room.keep(&config, &options()));
    assert!(room.look(&config, &options()).is_none());
}

#[test]
fn files_of_others_are_ignored() {
    let room = Room::new("others");
    assert!(room.look(&spec(), &options()).is_none());
    assert!(room.keep(&spec(), &options()));
    let file = room.file(&spec(), &options());
    assert_eq!(
        fs::metadata(room.cache()).unwrap().mode() & 0o7777,
        0o700,
        "the directory"
    );
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    for mode in [0o620, 0o602] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        assert!(room.look(&spec(), &options()).is_none(), "{mode:o}");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut stranger = machine();
    stranger.euid += 1;
    assert!(look(&room.cache(), &spec(), &options(), &mut stranger).is_none());
    assert!(read(&file, stranger.euid, |_| Some(())).is_none());
    assert!(read(&file, machine().euid, |_| Some(())).is_some());
    assert!(room.look(&spec(), &options()).is_some());

    let elsewhere = room.0.join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert!(room.look(&spec(), &options()).is_none());
    // And replaced, not followed.
    assert!(room.keep(&spec(), &options()));
    assert!(fs::symlink_metadata(&file).unwrap().is_file());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(room.look(&spec(), &options()).is_none());
    fs::remove_dir(&file).unwrap();
    File::create(&file).unwrap().set_len(1 << 40).unwrap();
    assert!(room.look(&spec(), &options()).is_none());
}

/// The name of a config that is the `index`th of many.
fn numbered(index: usize, padding: usize) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(&spec()).unwrap();
    config["annotations"] = json!({ "n": index.to_string(), "pad": "x".repeat(padding) });
    config.to_string().into()
}

fn age(file: &Path, seconds: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    let file = File::open(file).unwrap();
    file.set_modified(time).unwrap();
}

#[test]
fn the_longest_unused_make_room() {
    let room = Room::new("room");
    for index in 0..ENTRIES {
        let config = numbered(index, 0);
        assert!(room.keep(&config, &options()));
        // The first is the oldest.
        age(&room.file(&config, &options()), 10_000 - index as u64);
    }
    assert_eq!(room.names().len(), ENTRIES);
    // Used, so that the second is the one that goes.
    assert!(room.look(&numbered(0, 0), &options()).is_some());
    // The newest stays, whatever the clock says of the others.
    age(&room.file(&numbered(5, 0), &options()), 0);
    assert!(room.keep(&numbered(ENTRIES, 0), &options()));
    assert_eq!(room.names().len(), ENTRIES);
    assert!(room.look(&numbered(0, 0), &options()).is_some());
    assert!(room.look(&numbered(1, 0), &options()).is_none());
    assert!(room.look(&numbered(2, 0), &options()).is_some());
    assert!(room.look(&numbered(ENTRIES, 0), &options()).is_some());
}

#[test]
fn entries_are_bounded_in_bytes() {
    let room = Room::new("bytes");
    assert!(!room.keep(&numbered(0, LARGEST), &options()));
    // A config is in it twice: as text, and in what was decided.
    let padding = LARGEST / 2 - 8192;
    for index in 0..20 {
        assert!(room.keep(&numbered(index, padding), &options()));
    }
    let sizes = room
        .names()
        .iter()
        .map(|p| fs::metadata(p).unwrap().len())
        .sum::<u64>();
    assert!(sizes <= BYTES && sizes > BYTES / 2, "{sizes}");
}

#[test]
fn a_killed_daemon_is_cleaned_up_after() {
    let room = Room::new("killed");
    assert!(room.keep(&spec(), &options()));
    let file = room.file(&spec(), &options());
    let beside = file.with_file_name(format!(".{}", name(hash(&spec(), &options()).unwrap())));
    fs::write(&beside, "half").unwrap();
    assert!(room.keep(&spec(), &options()));
    assert_eq!(room.names(), [file]);
}

/// Cut off or changed anywhere: nothing or what was written, and no panic.
#[test]
fn hostile_entries() {
    let config = spec();
    let decided = decide(&config, &options());
    let entry = joined(&config, &machine(), &decided);
    let found = |entry: &[u8]| understand(entry, &config, &options(), &mut machine());
    assert!(found(&entry).is_some());
    for end in 0..entry.len() {
        assert!(found(&entry[..end]).is_none(), "{end}");
    }
    for at in 0..entry.len() {
        let mut entry = entry.clone();
        entry[at] ^= 1 << (at % 8);
        // The byte that says whether labels matter, and what is never read.
        assert!(found(&entry).is_none() || (16..24).contains(&at), "{at}");
    }
}

/// The same for the plan alone, without the sum that keeps such things out. What is understood can be
/// written down again.
#[test]
fn hostile_plans() {
    let configs = configs();
    for (name, config) in [configs.first().unwrap(), configs.last().unwrap()] {
        let mut decided = decide(config, &options());
        if let Some(seccomp) = &mut decided.plan.seccomp {
            // It's all one.
            seccomp.filter.truncate(2);
        }
        let written = bytes(&decided);
        for end in 0..written.len() {
            assert!(
                postcard::from_bytes::<Decided>(&written[..end]).is_err(),
                "{name}, {end}"
            );
        }
        for at in 0..written.len() {
            let mut changed = written.clone();
            changed[at] ^= 1 << (at % 8);
            if let Ok(decided) = postcard::from_bytes::<Decided>(&changed) {
                let first = bytes(&decided);
                let again: Decided = postcard::from_bytes(&first).unwrap();
                assert_eq!(bytes(&again), first, "{name}, {at}");
            }
        }
    }
    // A count of 2^63 - 1 hooks, or of whatever comes where.
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let written = bytes(&decide(&spec(), &options()));
    for at in 0..written.len() {
        let changed = [&written[..at], &huge, &written[at + 1..]].concat();
        let _ = postcard::from_bytes::<Decided>(&changed);
    }
}

#[test]
fn hashes_differ() {
    let hash = |config: &[u8]| hash(config, &options()).unwrap();
    let configs = [
        "",
        "\0",
        "\0\0",
        "a",
        "aaaaaaaa",
        "aaaaaaaab",
        "aaaaaaaaa",
        "baaaaaaaa",
    ];
    let mut hashes: Vec<u64> = configs.iter().map(|c| hash(c.as_bytes())).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), configs.len());
}

#[test]
fn sightings() {
    let mut sightings = Sightings::default();
    assert!(!sightings.seen_before(7));
    assert!(sightings.seen_before(7));
    for hash in 100..100 + REMEMBERED as u64 {
        assert!(!sightings.seen_before(hash));
    }
    assert_eq!(sightings.latest.len(), REMEMBERED);
    assert!(!sightings.seen_before(7));
    assert!(sightings.seen_before(100 + REMEMBERED as u64 - 1));
}

/// What a daemon does that hears of the same config again and again.
#[test]
fn learned_at_the_second_sighting() {
    let room = Room::new("learn");
    let mut sightings = Sightings::default();
    let learn = |sightings: &mut Sightings, config: &[u8]| {
        let again = sightings.again(Seen::new(config, &options(), false));
        learn(&room.cache(), again, config, &options(), &mut machine()).unwrap_or(false)
    };
    assert!(!learn(&mut sightings, &spec()));
    assert!(room.look(&spec(), &options()).is_none());
    assert!(!room.cache().exists());
    assert!(learn(&mut sightings, &spec()));
    assert!(room.look(&spec(), &options()).is_some());
    assert_eq!(room.names().len(), 1);
    for refused in ["", "{}", "[", "{\"linux\":{\"seccomp\":{}}}"] {
        assert!(!learn(&mut sightings, refused.as_bytes()));
        assert!(!learn(&mut sightings, refused.as_bytes()));
    }
    // Changed since it was seen; and not to be kept whole.
    let seen = Seen::new(&spec(), &options(), false);
    let learn = |config: &[u8], options: &Options| {
        super::learn(&room.cache(), seen, config, options, &mut machine()).unwrap()
    };
    assert!(learn(&spec(), &options()));
    assert!(!learn(&numbered(1, 0), &options()));
    let notify = Options {
        notify: Some("/n".into()),
        ..options()
    };
    assert!(!learn(&spec(), &notify));
    assert!(Seen::new(&spec(), &notify, false).is_nothing());
    assert_eq!(room.names().len(), 1);
}
