//! What every store must do, whatever is behind it. Run it with a function that gives a new,
//! empty store each time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::resource::{Key, Kind, Resource};
use serde_json::json;

use super::{Datastore, Outcome, Revision, StoreError, Stored, SyncEvent, Syncer, Update, Watch, Write};

/// A moment all tests share; stores take the time from the caller.
pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// A profile; `content` is what tells two versions apart.
pub(super) fn profile(name: &str, content: u8) -> Resource {
    let value = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "Profile",
        "metadata": { "name": name },
        "spec": { "labelsToApply": { "content": content.to_string() } },
    });
    Resource::from_json(&value).expect("a valid profile")
}

pub(super) fn key(name: &str) -> Key {
    profile(name, 0).key()
}

/// Objects as a follower has them after `events`.
pub(super) fn replay(objects: &mut BTreeMap<Key, Arc<Resource>>, updates: Vec<Update>) {
    for update in updates {
        match update.value {
            Some(resource) => objects.insert(update.key, resource),
            None => objects.remove(&update.key),
        };
    }
}

pub(super) async fn contents(store: &impl Datastore) -> BTreeMap<Key, Arc<Resource>> {
    let (objects, _) = store.list(None).await.unwrap();
    let pair = |stored: Stored| (stored.resource.key(), stored.resource);
    objects.into_iter().map(pair).collect()
}

/// The suite.
pub(super) async fn check_all<D: Datastore + Clone>(new: impl Fn() -> D) {
    an_empty_store_is_at_zero(new()).await;
    a_created_object_gets_its_identity(new()).await;
    creating_twice_or_with_a_version_is_refused(new()).await;
    an_update_compares_and_keeps_identity(new()).await;
    writing_the_same_again_changes_nothing(new()).await;
    a_delete_compares(new()).await;
    a_commit_is_all_or_nothing(new()).await;
    a_preview_changes_nothing(new()).await;
    a_list_can_be_of_one_kind(new()).await;
    a_watch_replays_in_order_and_whole(new()).await;
    a_watch_from_the_future_is_refused(new()).await;
    a_watch_waits_for_the_next_commit(new()).await;
    a_syncer_follows(new()).await;
}

async fn put(store: &impl Datastore, name: &str, content: u8) -> Revision {
    let writes = vec![Write::Put(profile(name, content))];
    store.commit(writes, now()).await.unwrap().revision
}

async fn an_empty_store_is_at_zero(store: impl Datastore) {
    assert_eq!(store.list(None).await.unwrap(), (vec![], Revision(0)));
    let missing = store.get(&key("a")).await;
    assert!(matches!(missing, Err(StoreError::NotFound(found)) if found == key("a")));
}

async fn a_created_object_gets_its_identity(store: impl Datastore) {
    let writes = vec![Write::Create(profile("a", 1))];
    let committed = store.commit(writes, now()).await.unwrap();
    let stored = store.get(&key("a")).await.unwrap();

    assert_eq!(committed.results[0].outcome, Outcome::Created);
    assert_eq!(committed.results[0].resource, stored.resource);
    assert_eq!(stored.revision, committed.revision);
    let metadata = stored.resource.metadata();
    assert_eq!(metadata.resource_version.as_deref(), Some(committed.revision.to_string().as_str()));
    assert_eq!(metadata.uid.as_deref().map(str::len), Some(36));
    assert_eq!(metadata.creation_timestamp.as_deref(), Some("2023-11-14T22:13:20Z"));
}

async fn creating_twice_or_with_a_version_is_refused(store: impl Datastore) {
    let mut versioned = profile("a", 1);
    versioned.metadata_mut().resource_version = Some("1".to_string());
    let refused = store.commit(vec![Write::Create(versioned)], now()).await;
    assert!(matches!(refused, Err(StoreError::VersionOnCreate { .. })));

    put(&store, "a", 1).await;
    let writes = vec![Write::Create(profile("a", 2))];
    let refused = store.commit(writes, now()).await;
    assert!(matches!(refused, Err(StoreError::AlreadyExists(_))));
}

async fn an_update_compares_and_keeps_identity(store: impl Datastore) {
    let update = |resource, expected| vec![Write::Update { resource, expected }];
    let missing = store.commit(update(profile("a", 1), None), now()).await;
    assert!(matches!(missing, Err(StoreError::NotFound(_))));

    let first = put(&store, "a", 1).await;
    let read = Resource::clone(&store.get(&key("a")).await.unwrap().resource);
    let second = put(&store, "a", 2).await;
    let stale = store.commit(update(read.clone(), None), now()).await;
    assert!(matches!(
        stale,
        Err(StoreError::Conflict { found, expected, .. }) if found == second && expected == first
    ));
    let stale = store.commit(vec![Write::Put(read.clone())], now()).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));

    let mut stranger = profile("a", 3);
    stranger.metadata_mut().uid = Some("another".to_string());
    let replaced = store.commit(update(stranger, None), now()).await;
    assert!(matches!(replaced, Err(StoreError::Replaced { .. })));

    let mut garbled = profile("a", 3);
    garbled.metadata_mut().resource_version = Some("one".to_string());
    let refused = store.commit(update(garbled, None), now()).await;
    assert!(matches!(refused, Err(StoreError::BadVersion { .. })));

    let later = now() + Duration::from_secs(60);
    let writes = update(profile("a", 3), Some(second));
    let third = store.commit(writes, later).await.unwrap();
    let changed = &third.results[0].resource;
    assert!(third.revision > second);
    assert_eq!(changed.metadata().uid, read.metadata().uid);
    assert_eq!(changed.metadata().creation_timestamp, read.metadata().creation_timestamp);
}

async fn writing_the_same_again_changes_nothing(store: impl Datastore) {
    let revision = put(&store, "a", 1).await;
    let writes = vec![Write::Put(profile("a", 1))];
    let again = store.commit(writes, now()).await.unwrap();
    assert_eq!(again.revision, revision);
    assert_eq!(again.results[0].outcome, Outcome::Unchanged);
}

async fn a_delete_compares(store: impl Datastore) {
    let delete = |expected| {
        let key = key("a");
        vec![Write::Delete { key, expected }]
    };
    let missing = store.commit(delete(None), now()).await;
    assert!(matches!(missing, Err(StoreError::NotFound(_))));

    let first = put(&store, "a", 1).await;
    let second = put(&store, "a", 2).await;
    let stale = store.commit(delete(Some(first)), now()).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    let deleted = store.commit(delete(Some(second)), now()).await.unwrap();
    assert_eq!(deleted.results[0].outcome, Outcome::Deleted);
    assert!(deleted.revision > second);
    assert!(store.get(&key("a")).await.is_err());
}

async fn a_commit_is_all_or_nothing(store: impl Datastore) {
    let before = put(&store, "a", 1).await;
    let writes = vec![Write::Put(profile("b", 1)), Write::Put(profile("a", 2)), Write::Create(profile("a", 3))];
    let twice = store.commit(writes.clone(), now()).await;
    assert!(matches!(twice, Err(StoreError::WrittenTwice(_))));
    let refused = store.commit(vec![writes[0].clone(), writes[2].clone()], now()).await;
    assert!(matches!(refused, Err(StoreError::AlreadyExists(_))));
    let (objects, revision) = store.list(None).await.unwrap();
    assert_eq!((objects.len(), revision), (1, before));

    let kept = store.commit(writes[..2].to_vec(), now()).await.unwrap();
    for name in ["a", "b"] {
        let stored = store.get(&key(name)).await.unwrap();
        assert_eq!(stored.revision, kept.revision);
    }
}

async fn a_preview_changes_nothing(store: impl Datastore) {
    let before = put(&store, "a", 1).await;
    let writes = vec![Write::Put(profile("a", 1)), Write::Put(profile("b", 1))];
    let preview = store.preview(writes, now()).await.unwrap();
    let outcomes: Vec<Outcome> = preview.results.iter().map(|result| result.outcome).collect();
    assert_eq!(outcomes, [Outcome::Unchanged, Outcome::Created]);
    assert_eq!(store.list(None).await.unwrap().1, before);
}

async fn a_list_can_be_of_one_kind(store: impl Datastore) {
    put(&store, "b", 1).await;
    put(&store, "a", 1).await;
    let (profiles, _) = store.list(Some(Kind::Profile)).await.unwrap();
    let names: Vec<String> = profiles.iter().map(|profile| profile.resource.key().name).collect();
    assert_eq!(names, ["a", "b"]);
    let (tiers, revision) = store.list(Some(Kind::Tier)).await.unwrap();
    assert_eq!((tiers.len(), revision), (0, Revision(2)));
}

async fn a_watch_replays_in_order_and_whole(store: impl Datastore) {
    put(&store, "before", 1).await;
    let mut objects = contents(&store).await;
    let from = store.list(None).await.unwrap().1;
    put(&store, "a", 1).await;
    let both = vec![Write::Put(profile("a", 2)), Write::Put(profile("b", 1))];
    let both = store.commit(both, now()).await.unwrap().revision;
    let gone = vec![Write::Delete { key: key("before"), expected: None }];
    let last = store.commit(gone, now()).await.unwrap().revision;

    let mut watch = store.watch(from).await.unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|update: &Update| update.revision < last) {
        let batch = watch.next().await.unwrap();
        let in_both = batch.iter().filter(|update| update.revision == both);
        assert!([0, 2].contains(&in_both.count()), "a commit was split");
        seen.extend(batch);
    }
    assert_eq!(seen.len(), 4);
    assert!(seen.is_sorted_by_key(|update| update.revision));
    assert!(seen.iter().all(|update| update.revision > from));
    replay(&mut objects, seen);
    assert_eq!(objects, contents(&store).await);
}

async fn a_watch_from_the_future_is_refused(store: impl Datastore) {
    put(&store, "a", 1).await;
    let refused = store.watch(Revision(1_000_000)).await.err();
    assert!(matches!(refused, Some(StoreError::WentBackwards { .. })));
}

async fn a_watch_waits_for_the_next_commit(store: impl Datastore) {
    let from = put(&store, "a", 1).await;
    let mut watch = store.watch(from).await.unwrap();
    // Given up half-way and asked again: nothing may be lost.
    for content in 2..5 {
        let (update, ()) = tokio::join!(watch.next(), async {
            put(&store, "a", content).await;
        });
        assert_eq!(update.unwrap().len(), 1);
    }
}

async fn a_syncer_follows<D: Datastore + Clone>(store: D) {
    put(&store, "a", 1).await;
    let mut syncer = Syncer::new(store.clone());
    let SyncEvent::Snapshot(snapshot) = syncer.next().await.unwrap() else {
        panic!("the first event is the snapshot");
    };
    assert_eq!(snapshot.len(), 1);
    assert_eq!(syncer.next().await.unwrap(), SyncEvent::InSync);

    let revision = put(&store, "b", 1).await;
    let SyncEvent::Updates(updates) = syncer.next().await.unwrap() else {
        panic!("a change was made");
    };
    assert_eq!(updates[0].key, key("b"));
    assert_eq!(syncer.revision(), revision);
}
