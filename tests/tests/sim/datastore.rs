//! The embedded datastore while things go wrong: races, slow watchers, killed writers, damaged files.
//!
//! Writers and watchers are real threads of this process. The writer that is killed is another process: this test binary
//! runs itself, for one test that does nothing unless it is told a folder, and kills it while it writes.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, SystemTime};

use config::resource::{Key, Kind, Resource};
use control::datastore::{Datastore, Embedded, Revision, StoreError, Stored, SyncEvent, Syncer, Watch, Write};
use control::resources::Resources;
use serde_json::json;
use tempfile::TempDir;

use tests::random::Random;

use crate::seeds::with_seeds;

/// Tells the re-executed test binary to be the writer in this folder.
const WRITER: &str = "SIM_DATASTORE_WRITER";

/// The embedded store is ready at the first poll; what has to wait is `None`.
fn poll<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    poll(future).expect("ready at once")
}

fn moment() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// A profile whose content is a number.
fn profile(name: &str, content: u64) -> Resource {
    let spec = json!({ "labelsToApply": { "content": content.to_string() } });
    let metadata = json!({ "name": name });
    let json = json!({ "apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": metadata, "spec": spec });
    Resource::from_json(&json).unwrap()
}

fn key(name: &str) -> Key {
    Key::cluster(Kind::Profile, name)
}

fn content(resource: &Resource) -> u64 {
    let Resource::Profile(profile) = resource else { panic!("only profiles are written here") };
    profile.spec.labels_to_apply["content"].parse().unwrap()
}

fn put(store: &Embedded, name: &str, content: u64) -> Revision {
    now(store.commit(vec![Write::Put(profile(name, content))], moment())).unwrap().revision
}

/// Name to content.
fn contents(store: &Embedded) -> BTreeMap<String, u64> {
    let (objects, _) = now(store.list(None)).unwrap();
    objects.iter().map(|stored| (stored.resource.key().name, content(&stored.resource))).collect()
}

fn followed(resources: &Resources) -> BTreeMap<String, u64> {
    let pair = |profile: &config::resource::Profile| {
        (profile.metadata.name.clone(), content(&Resource::Profile(profile.clone())))
    };
    resources.profiles().map(pair).collect()
}

/// Takes everything the syncer has for now. Errors are returned after what came before them.
fn drain(syncer: &mut Syncer<Embedded>, resources: &mut Resources) -> Result<(), StoreError> {
    while let Some(event) = poll(syncer.next()) {
        resources.follow(event?);
    }
    Ok(())
}

#[test]
fn no_update_is_lost_between_writers_that_compare() {
    const WRITERS: u64 = 4;
    const EACH: u64 = 25;
    let folder = TempDir::new().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    put(&store, "counter", 0);
    // Each adds one to what it read, and reads again when somebody was faster. Returns how often that was.
    let count = |store: Embedded| {
        let mut conflicts = 0;
        for _ in 0..EACH {
            loop {
                let Stored { resource, revision, .. } = now(store.get(&key("counter"))).unwrap();
                // Without this, one writer is often done before the next begins.
                thread::yield_now();
                let next = profile("counter", content(&resource) + 1);
                let write = Write::Update { resource: next, expected: Some(revision) };
                match now(store.commit(vec![write], moment())) {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => conflicts += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        conflicts
    };
    let conflicts: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS).map(|_| scope.spawn(|| count(store.clone()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(contents(&store)["counter"], WRITERS * EACH);
    assert_eq!(now(store.list(None)).unwrap().1, Revision(1 + WRITERS * EACH), "one revision per change");
    assert!(conflicts > 0, "the writers never met, so nothing was tried");
}

#[test]
fn a_commit_of_many_is_seen_whole_or_not_at_all() {
    let folder = TempDir::new().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let both = |content| vec![Write::Put(profile("a", content)), Write::Put(profile("b", content))];
    now(store.commit(both(0), moment())).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for content in 1..60 {
                now(store.commit(both(content), moment())).unwrap();
            }
        });
        while !writer.is_finished() {
            let seen = contents(&store);
            assert_eq!(seen["a"], seen["b"]);
        }
    });
    assert_eq!(contents(&store), BTreeMap::from([("a".into(), 59), ("b".into(), 59)]));
}

/// One random write, with or without a comparison that may be wrong.
fn write(random: &mut Random, store: &Embedded) {
    let name = random.pick(&["a", "b", "c", "d", "e"]);
    let known = now(store.get(&key(name))).ok().map(|stored| stored.revision);
    let expected =
        known.filter(|_| random.chance(50)).map(|revision| Revision(revision.0 - u64::from(random.chance(20))));
    let content = random.below(1000) as u64;
    let write = match random.below(4) {
        0 => Write::Create(profile(name, content)),
        1 => Write::Update { resource: profile(name, content), expected },
        2 => Write::Put(profile(name, content)),
        _ => Write::Delete { key: key(name), expected },
    };
    match now(store.commit(vec![write], moment())) {
        Ok(_) | Err(StoreError::NotFound(_) | StoreError::AlreadyExists(_) | StoreError::Conflict { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_follower_ends_with_what_the_store_has_however_often_it_is_cut_off() {
    with_seeds(12, |random| {
        let folder = TempDir::new().unwrap();
        let mut store = Embedded::open(folder.path()).unwrap();
        let mut syncer = Syncer::new(store.clone());
        let mut resources = Resources::default();
        for _ in 0..40 {
            match random.below(8) {
                // The daemon is started again: the syncer begins with a snapshot, what control has stays until then.
                0 => {
                    drop((store, syncer));
                    store = Embedded::open(folder.path()).unwrap();
                    syncer = Syncer::new(store.clone());
                }
                // The follower is waited for, given up and asked again.
                1 | 2 => drain(&mut syncer, &mut resources).unwrap(),
                _ => write(random, &store),
            }
        }
        drain(&mut syncer, &mut resources).unwrap();
        assert_eq!(followed(&resources), contents(&store));
        assert_eq!(syncer.revision(), now(store.list(None)).unwrap().1);
    });
}

/// More changes than the history keeps: the follower lists again and learns of deletes that nobody tells it of.
#[test]
fn a_follower_that_falls_behind_lists_again() {
    let folder = TempDir::new().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    for name in ["stays", "changes", "goes"] {
        put(&store, name, 1);
    }
    let mut syncer = Syncer::new(store.clone());
    let mut resources = Resources::default();
    drain(&mut syncer, &mut resources).unwrap();
    let mut slow_watch = now(store.watch(syncer.revision())).unwrap();

    put(&store, "changes", 2);
    now(store.commit(vec![Write::Delete { key: key("goes"), expected: None }], moment())).unwrap();
    let many = |round: u64| (0..5000).map(|number| Write::Put(profile(&format!("n{number}"), round))).collect();
    for round in 0..3 {
        now(store.commit(many(round), moment())).unwrap();
    }
    assert!(matches!(poll(slow_watch.next()), Some(Err(StoreError::Compacted { .. }))), "the history was kept");
    let Some(Ok(SyncEvent::Updates(updates))) = poll(syncer.next()) else { panic!("expected the difference") };
    assert!(updates.iter().any(|update| update.key == key("goes") && update.value.is_none()));
    assert!(!updates.iter().any(|update| update.key == key("stays")), "nothing happened to it");
    resources.follow(SyncEvent::Updates(updates));
    drain(&mut syncer, &mut resources).unwrap();
    assert_eq!(followed(&resources), contents(&store));
}

/// Not a test of its own: the process that `a_killed_writer_loses_nothing_acknowledged` starts and kills. It says the
/// number of every commit that the store acknowledged.
#[test]
fn writer_to_be_killed() {
    let Some(folder) = std::env::var_os(WRITER) else { return };
    let store = Embedded::open(Path::new(&folder)).unwrap();
    let first = contents(&store).get("a").map_or(1, |last| last + 1);
    for number in first.. {
        let writes = vec![Write::Put(profile("a", number)), Write::Put(profile(&format!("n{}", number % 7), number))];
        now(store.commit(writes, moment())).unwrap();
        eprintln!("acknowledged {number}");
    }
}

#[test]
fn a_killed_writer_loses_nothing_acknowledged() {
    with_seeds(6, |random| {
        let folder = TempDir::new().unwrap();
        let mut acknowledged = 0;
        for _ in 0..3 {
            let mut writer = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "datastore::writer_to_be_killed", "--nocapture"])
                .env(WRITER, folder.path())
                .env_remove("SIM_SEED")
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(writer.stderr.take().unwrap()).lines();
            let mut read = |line: std::io::Result<String>| {
                let number = line.unwrap().strip_prefix("acknowledged ").map(|number| number.parse::<u64>().unwrap());
                acknowledged = number.unwrap_or(acknowledged);
            };
            lines.by_ref().take(1 + random.below(30)).for_each(&mut read);
            // Wherever it is now: deciding, writing, syncing. What it said in the meantime counts too.
            for _ in 0..random.below(2000) {
                std::hint::spin_loop();
            }
            writer.kill().unwrap();
            writer.wait().unwrap();
            lines.for_each(read);

            let store = Embedded::open(folder.path()).unwrap();
            let found = contents(&store);
            let last = found["a"];
            // One more may have reached the disk before it could be said.
            assert!((acknowledged..=acknowledged + 1).contains(&last), "{acknowledged} acknowledged, {last} found");
            assert_eq!(found[&format!("n{}", last % 7)], last, "half of a commit");
            assert_eq!(now(store.list(None)).unwrap().1, Revision(last));
        }
    });
}

/// The file of the only store in a folder.
fn file(folder: &Path) -> PathBuf {
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files.next().unwrap();
    assert_eq!(files.next(), None);
    file
}

#[test]
fn a_damaged_file_is_refused_by_name_and_left_as_it_is() {
    with_seeds(40, |random| {
        let folder = TempDir::new().unwrap();
        let store = Embedded::open(folder.path()).unwrap();
        for number in 0..20 {
            put(&store, &format!("n{number}"), number);
        }
        let whole = contents(&store);
        drop(store);
        let path = file(folder.path());
        let mut bytes = fs::read(&path).unwrap();
        let what = random.below(4);
        match what {
            0 => bytes.clear(),
            1 => bytes.truncate(random.below(bytes.len())),
            2 => bytes = (0..4096).map(|_| random.below(256) as u8).collect(),
            _ => {
                let (from, length) = (random.below(bytes.len()), 1 + random.below(5000));
                bytes.iter_mut().skip(from).take(length).for_each(|byte| *byte = !*byte);
            }
        }
        fs::write(&path, &bytes).unwrap();
        match Embedded::open(folder.path()) {
            Err(error) => {
                assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Format { .. }), "{error:?}");
                let text = error.to_string();
                assert!(text.contains(path.to_str().unwrap()), "the file is named: {text}");
                assert!(fs::metadata(&path).is_ok(), "the file is still there");
                if what != 3 {
                    assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was written over it");
                }
            }
            // Bytes that mean nothing may be damaged without harm.
            Ok(store) => assert!(what == 3 && contents(&store) == whole, "damage went unnoticed"),
        }
        // And it is not taken for an empty store by the next one either, whatever the first has done.
        if what != 3 {
            assert!(Embedded::open(folder.path()).is_err());
        }
    });
}
