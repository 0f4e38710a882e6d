//! The embedded store: what every store promises, damage, and power cuts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use config::resource::Resource;
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::suite::{self, contents, key, now, profile, replay};
use super::super::{SyncEvent, Syncer};
use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// A new folder for one store.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state").join(FILE_NAME)
    }

    fn open(&self) -> Result<Embedded, StoreError> {
        Embedded::open(&self.folder.path().join("state"))
    }
}

async fn put(store: &Embedded, name: &str, content: u8) -> Revision {
    let writes = vec![Write::Put(profile(name, content))];
    store.commit(writes, now()).await.unwrap().revision
}

async fn fill(store: &Embedded) {
    for number in 0..40u8 {
        put(store, &format!("profile-{}", number % 15), number).await;
    }
}

#[test]
fn it_passes_the_suite() {
    let places = std::cell::RefCell::new(Vec::new());
    runtime().block_on(suite::check_all(|| {
        let place = Place::new();
        let store = place.open().unwrap();
        places.borrow_mut().push(place);
        store
    }));
}

#[test]
fn only_the_owner_can_read_it() {
    let place = Place::new();
    drop(place.open().unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&place.path()), 0o600);
    assert_eq!(mode(place.path().parent().unwrap()), 0o700);
    assert_eq!(fs::read_dir(place.path().parent().unwrap()).unwrap().count(), 1);

    fs::set_permissions(place.path(), Permissions::from_mode(0o644)).unwrap();
    drop(place.open().unwrap());
    assert_eq!(mode(&place.path()), 0o600);
}

#[test]
fn it_is_opened_once() {
    let place = Place::new();
    let store = place.open().unwrap();
    assert!(matches!(place.open(), Err(StoreError::InUse { .. })));
    drop(store);
    place.open().unwrap();
}

#[test]
fn history_is_bounded_and_a_lost_one_is_said() {
    runtime().block_on(async {
        let place = Place::new();
        let store = place.open().unwrap();
        put(&store, "first", 1).await;
        let mut syncer = Syncer::new(store.clone());
        let SyncEvent::Snapshot(snapshot) = syncer.next().await.unwrap() else {
            panic!("the first event is the snapshot");
        };
        assert_eq!(syncer.next().await.unwrap(), SyncEvent::InSync);
        let pair = |stored: Stored| (stored.resource.key(), stored.resource);
        let mut objects: BTreeMap<Key, _> = snapshot.into_iter().map(pair).collect();

        let first = store.list(None).await.unwrap().1;
        let many = |count: usize, content| {
            let new = |number| Write::Put(profile(&format!("profile-{number}"), content));
            (0..count).map(new).collect::<Vec<_>>()
        };
        store.commit(many(6_000, 1), now()).await.unwrap();
        let gone = vec![Write::Delete { key: key("first"), expected: None }];
        store.commit(gone, now()).await.unwrap();
        store.commit(many(6_000, 2), now()).await.unwrap();
        assert!(store.shared.lock().mirror.history.len() <= MAX_HISTORY);
        let lost = store.watch(first).await.err();
        assert!(matches!(lost, Some(StoreError::Compacted { .. })));

        // The delete is only in the difference.
        let SyncEvent::Updates(updates) = syncer.next().await.unwrap() else {
            panic!("much has changed");
        };
        assert_eq!(updates[0].key, key("first"));
        assert_eq!(updates[0].value, None);
        replay(&mut objects, updates);
        assert_eq!(objects, contents(&store).await);
        assert_eq!(syncer.next().await.unwrap(), SyncEvent::InSync);

        // The latest commit stays, however large; a watch survives reopening.
        let before = store.list(None).await.unwrap().1;
        store.commit(many(MAX_WRITES_PER_COMMIT, 3), now()).await.unwrap();
        drop((store, syncer));
        let store = place.open().unwrap();
        let mut watch = store.watch(before).await.unwrap();
        assert_eq!(watch.next().await.unwrap().len(), MAX_WRITES_PER_COMMIT);
    });
}

#[test]
fn a_watch_ends_with_the_store() {
    runtime().block_on(async {
        let place = Place::new();
        let store = place.open().unwrap();
        let mut watch = store.watch(Revision(0)).await.unwrap();
        let (ended, ()) = tokio::join!(watch.next(), async { drop(store) });
        assert!(matches!(ended, Err(StoreError::Closed)));
    });
}

#[test]
fn limits_are_said() {
    runtime().block_on(async {
        let place = Place::new();
        let store = place.open().unwrap();
        let new = |number| Write::Put(profile(&format!("profile-{number}"), 0));
        let many = (0..=MAX_WRITES_PER_COMMIT).map(new).collect();
        let refused = store.commit(many, now()).await;
        assert!(matches!(refused, Err(StoreError::TooManyWrites { .. })));

        let mut large = profile("large", 0);
        let label = "x".repeat(MAX_OBJECT_BYTES);
        large.metadata_mut().labels.insert("label".to_string(), label);
        let refused = store.commit(vec![Write::Put(large)], now()).await;
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    });
}

#[test]
fn a_file_that_is_not_ours_is_refused() {
    let check = |content: &[u8]| {
        let place = Place::new();
        drop(place.open().unwrap());
        fs::write(place.path(), content).unwrap();
        let error = place.open().err().expect("refused");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("store.redb"));
        assert_eq!(fs::read(place.path()).unwrap(), content, "must not be touched");
    };
    check(b"");
    check(b"apiVersion: projectcalico.org/v3\n");
    check(&[0; 8_192]);
    check(&[0xff; 100_000]);
}

#[test]
fn a_cut_file_is_refused() {
    let place = Place::new();
    let store = place.open().unwrap();
    runtime().block_on(fill(&store));
    drop(store);
    let whole = fs::read(place.path()).unwrap();
    for parts in 1..20 {
        fs::write(place.path(), &whole[..whole.len() * parts / 20]).unwrap();
        assert!(place.open().is_err(), "{parts} of 20 parts were accepted");
    }
}

/// What is in the store, unless it is refused.
fn accepted(place: &Place) -> Option<(BTreeMap<Key, Arc<Resource>>, Revision)> {
    let store = place.open().ok()?;
    runtime().block_on(async {
        let revision = store.list(None).await.unwrap().1;
        Some((contents(&store).await, revision))
    })
}

#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    let place = Place::new();
    let store = place.open().unwrap();
    runtime().block_on(fill(&store));
    drop(store);
    let expected = accepted(&place).unwrap();
    let whole = fs::read(place.path()).unwrap();
    let used: Vec<usize> = (0..whole.len()).filter(|index| whole[*index] != 0).collect();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut random = move |below: usize| runner.rng().random_range(0..below);
    let mut refused = 0;
    for _ in 0..600 {
        let mut bytes = whole.clone();
        bytes[used[random(used.len())]] ^= 1 << random(8);
        fs::write(place.path(), bytes).unwrap();
        match accepted(&place) {
            Some(found) => assert_eq!(found, expected),
            None => refused += 1,
        }
    }
    assert!(refused > 100, "only {refused} of 600 flips were seen");
}

/// The power goes at any moment of a commit: any part of its writes may have reached the disk.
#[test]
fn a_power_cut_keeps_every_acknowledged_commit() {
    const PAGE: usize = 512;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut random = move |below: usize| runner.rng().random_range(0..below);
    let place = Place::new();
    let cut = Place::new();
    drop(cut.open().unwrap());
    let store = place.open().unwrap();
    for round in 0..40u8 {
        let before = fs::read(place.path()).unwrap();
        let acknowledged = runtime().block_on(async { store.list(None).await.unwrap().1 });
        runtime().block_on(put(&store, &format!("profile-{}", round % 7), round));
        let after = fs::read(place.path()).unwrap();
        for _ in 0..5 {
            let mut image = before.clone();
            image.resize(after.len().max(before.len()), 0);
            for start in (0..after.len()).step_by(PAGE) {
                if random(2) == 0 {
                    let end = (start + PAGE).min(after.len());
                    image[start..end].copy_from_slice(&after[start..end]);
                }
            }
            fs::write(cut.path(), image).unwrap();
            let (_, revision) = accepted(&cut).expect("opens after a power cut");
            assert!(revision >= acknowledged);
            assert!(revision.0 <= acknowledged.0 + 1);
        }
    }
}

/// Needs the right to mount; without it the test says so and ends.
#[test]
fn a_full_disk_refuses_writes_and_goes_on_reading() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    let place = Place::new();
    let none: Option<&str> = None;
    // The tests' own mount namespace is that of this thread alone, and ends with it.
    let mounted = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .and_then(|()| {
            let size = Some("size=4m");
            mount(Some("tmpfs"), place.folder.path(), Some("tmpfs"), MsFlags::empty(), size)
        });
    if let Err(error) = mounted {
        eprintln!("skipped: cannot mount a small file system: {error}");
        return;
    }
    runtime().block_on(async {
        let store = place.open().unwrap();
        put(&store, "small", 1).await;
        let filler = place.folder.path().join("filler");
        let mut written = 0;
        for chunk in [1 << 20, 1 << 16, 1 << 12] {
            let mut content = fs::read(&filler).unwrap_or_default();
            loop {
                content.resize(content.len() + chunk, 1);
                if fs::write(&filler, &content).is_err() {
                    break;
                }
                written = content.len();
            }
            fs::write(&filler, vec![1; written]).unwrap();
        }

        let large = |number: usize| {
            let mut profile = profile(&format!("large-{number}"), 0);
            let label = "x".repeat(100_000);
            profile.metadata_mut().labels.insert("label".to_string(), label);
            vec![Write::Put(profile)]
        };
        let mut kept = 1;
        let error = loop {
            match store.commit(large(kept), now()).await {
                Ok(_) => kept += 1,
                Err(error) => break error,
            }
            assert!(kept < 100, "the disk never became full");
        };
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
        for _ in 0..3 {
            store.commit(large(kept), now()).await.unwrap_err();
            assert_eq!(contents(&store).await.len(), kept);
        }

        fs::remove_file(&filler).unwrap();
        store.commit(large(kept), now()).await.unwrap();
        drop(store);
        let store = place.open().unwrap();
        assert_eq!(contents(&store).await.len(), kept + 1);
    });
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(u8, Option<u8>)>),
    Follow,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0..12u8, proptest::option::weighted(0.7, 0..6u8));
    prop_oneof![
        8 => proptest::collection::vec(write, 1..6).prop_map(Step::Commit),
        3 => Just(Step::Follow),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The store against a map, a follower against the store.
    #[test]
    fn it_behaves_like_a_map(steps in proptest::collection::vec(step(), 1..40)) {
        runtime().block_on(async {
            let place = Place::new();
            let mut store = place.open().unwrap();
            let mut model: BTreeMap<u8, u8> = BTreeMap::new();
            let mut revision = Revision(0);
            let mut follower = BTreeMap::new();
            let mut followed = Revision(0);
            for step in steps {
                match step {
                    Step::Commit(writes) => {
                        let mut next = model.clone();
                        let mut is_legal = true;
                        let mut names = BTreeSet::new();
                        let mut asked = Vec::new();
                        for (name, content) in writes {
                            is_legal &= names.insert(name);
                            let text = format!("profile-{name}");
                            asked.push(match content {
                                Some(content) => {
                                    next.insert(name, content);
                                    Write::Put(profile(&text, content))
                                }
                                None => {
                                    is_legal &= next.remove(&name).is_some();
                                    Write::Delete { key: key(&text), expected: None }
                                }
                            });
                        }
                        let result = store.commit(asked, now()).await;
                        prop_assert_eq!(result.is_ok(), is_legal);
                        if is_legal {
                            revision.0 += u64::from(next != model);
                            model = next;
                        }
                    }
                    Step::Follow => {
                        let mut watch = store.watch(followed).await.unwrap();
                        while followed < revision {
                            let updates = watch.next().await.unwrap();
                            followed = updates.last().unwrap().revision;
                            replay(&mut follower, updates);
                        }
                        prop_assert_eq!(&follower, &contents(&store).await);
                    }
                    Step::Reopen => {
                        drop(store);
                        store = place.open().unwrap();
                    }
                }
                prop_assert_eq!(store.list(None).await.unwrap().1, revision);
            }
            drop(store);
            let store = place.open().unwrap();
            let found = contents(&store).await;
            prop_assert_eq!(found.len(), model.len());
            for (name, content) in model {
                let text = format!("profile-{name}");
                let mut resource = Resource::clone(&found[&key(&text)]);
                let metadata = resource.metadata_mut();
                metadata.uid = None;
                metadata.creation_timestamp = None;
                metadata.resource_version = None;
                prop_assert_eq!(resource, profile(&text, content));
            }
            Ok(())
        })?;
    }
}
