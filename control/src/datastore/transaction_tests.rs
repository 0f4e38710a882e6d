//! The history of transactions, undo, and what waits for a confirmation, on the embedded store.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::suite::{key, now, profile};
use super::transaction::{MAX_TRANSACTION_BYTES, MAX_TRANSACTIONS};
use super::undo::{self, Undo};
use super::*;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: TempDir::new().unwrap() }
    }

    fn open(&self) -> Embedded {
        Embedded::open(self.folder.path()).unwrap()
    }
}

fn ana() -> Author {
    Author { name: "ana".to_string(), uid: Some(1000) }
}

fn note(confirm: Option<u64>) -> Note {
    let confirm_within = confirm.map(Duration::from_secs);
    Note { author: ana(), verb: "apply".to_string(), undoes: None, confirm_within, is_report: false }
}

fn later(seconds: u64) -> SystemTime {
    now() + Duration::from_secs(seconds)
}

async fn put(store: &Embedded, name: &str, content: u8) -> Revision {
    store.commit_as(vec![Write::Put(profile(name, content))], &note(None), now()).await.unwrap().revision
}

async fn content(store: &Embedded, name: &str) -> Option<String> {
    let stored = store.get(&key(name)).await.ok()?;
    Some(stored.resource.to_json()["spec"]["labelsToApply"]["content"].as_str().unwrap().to_string())
}

async fn take_back(store: &Embedded, revision: Option<u64>, force: bool) -> Result<Revision, StoreError> {
    let wish = Undo { revision: revision.map(Revision), force, dry_run: false };
    undo::undo(store, &wish, ana(), "undo", now()).await.map(|(undone, _)| undone)
}

#[tokio::test]
async fn a_transaction_is_remembered_over_a_restart() {
    let place = Place::new();
    let store = place.open();
    put(&store, "a", 1).await;
    let writes =
        vec![Write::Put(profile("a", 2)), Write::Put(profile("b", 1)), Write::Delete { key: key("a"), expected: None }];
    assert!(store.commit_as(writes, &note(None), now()).await.is_err());
    store.commit_as(vec![Write::Put(profile("a", 2)), Write::Put(profile("b", 1))], &note(None), now()).await.unwrap();
    // What changes nothing is no transaction.
    put(&store, "a", 2).await;
    let before = store.transactions().await.unwrap();
    drop(store);
    let after = place.open().transactions().await.unwrap();
    assert_eq!(before, after);
    assert_eq!(after.len(), 2);
    let last = &after[1];
    assert_eq!((last.revision, last.author.name.as_str(), last.verb.as_str()), (2, "ana", "apply"));
    let [a, b] = &last.changes[..] else { panic!("{last:?}") };
    assert_eq!(a.before.as_ref().unwrap().read().unwrap()["spec"]["labelsToApply"]["content"], "1");
    assert_eq!(a.after.as_ref().unwrap().read().unwrap()["spec"]["labelsToApply"]["content"], "2");
    assert_eq!((b.before.is_none(), b.object().as_str()), (true, "Profile b"));
}

#[tokio::test]
async fn undo_takes_back_all_of_a_transaction_and_can_be_undone() {
    let place = Place::new();
    let store = place.open();
    put(&store, "changed", 1).await;
    put(&store, "deleted", 1).await;
    let writes = vec![
        Write::Put(profile("changed", 2)),
        Write::Delete { key: key("deleted"), expected: None },
        Write::Put(profile("made", 1)),
    ];
    store.commit_as(writes, &note(None), now()).await.unwrap();
    let contents =
        async || [content(&store, "changed").await, content(&store, "deleted").await, content(&store, "made").await];
    let text = |text: &str| Some(text.to_string());
    assert_eq!(contents().await, [text("2"), None, text("1")]);
    assert_eq!(take_back(&store, None, false).await.unwrap(), Revision(3));
    assert_eq!(contents().await, [text("1"), text("1"), None]);
    assert_eq!(store.transactions().await.unwrap().last().unwrap().undoes, Some(3));
    assert_eq!(take_back(&store, None, false).await.unwrap(), Revision(4));
    assert_eq!(contents().await, [text("2"), None, text("1")]);
}

#[tokio::test]
async fn undo_does_not_take_back_what_others_did_since() {
    let place = Place::new();
    let store = place.open();
    let empty = take_back(&store, None, false).await;
    assert!(matches!(empty, Err(StoreError::NothingToUndo)));
    put(&store, "a", 1).await;
    put(&store, "a", 2).await;
    put(&store, "a", 3).await;
    let error = take_back(&store, Some(2), false).await.unwrap_err();
    assert!(error.to_string().contains("Profile a changed again at revision 3"), "{error}");
    assert!(matches!(take_back(&store, Some(9), false).await, Err(StoreError::NoSuchTransaction { .. })));
    take_back(&store, Some(2), true).await.unwrap();
    assert_eq!(content(&store, "a").await.as_deref(), Some("1"));

    store.commit(vec![Write::Delete { key: key("a"), expected: None }], now()).await.unwrap();
    let error = take_back(&store, Some(3), false).await.unwrap_err();
    assert!(error.to_string().contains("Profile a was deleted since"), "{error}");
    put(&store, "a", 7).await;
    let error = take_back(&store, Some(5), false).await.unwrap_err();
    assert!(error.to_string().contains("Profile a was made anew at revision 6"), "{error}");
    take_back(&store, Some(5), true).await.unwrap();
    assert_eq!(content(&store, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn what_is_not_confirmed_is_undone_also_after_a_restart() {
    let place = Place::new();
    let store = place.open();
    put(&store, "a", 1).await;
    let writes = vec![Write::Put(profile("a", 2)), Write::Put(profile("b", 1))];
    store.commit_as(writes, &note(Some(60)), now()).await.unwrap();
    assert_eq!(undo::expire(&store, later(59)).await.unwrap(), None);
    drop(store);

    let store = place.open();
    assert_eq!(store.pending().await.unwrap().map(|pending| pending.revision), Some(2));
    assert_eq!(undo::expire(&store, later(60)).await.unwrap(), Some(Revision(2)));
    assert_eq!((content(&store, "a").await.as_deref(), content(&store, "b").await), (Some("1"), None));
    assert_eq!(store.pending().await.unwrap(), None);
    assert_eq!(undo::expire(&store, later(600)).await.unwrap(), None);
    drop(store);
    assert_eq!(place.open().pending().await.unwrap(), None);
}

#[tokio::test]
async fn a_clock_that_goes_back_does_not_keep_an_unconfirmed_change() {
    let place = Place::new();
    let store = place.open();
    store.commit_as(vec![Write::Put(profile("a", 2))], &note(Some(60)), now()).await.unwrap();
    assert_eq!(undo::expire(&store, now() - Duration::from_secs(5)).await.unwrap(), Some(Revision(1)));
}

#[tokio::test]
async fn what_is_confirmed_stays() {
    let place = Place::new();
    let store = place.open();
    assert!(matches!(store.confirm().await, Err(StoreError::NothingToConfirm)));
    store.commit_as(vec![Write::Put(profile("a", 1))], &note(Some(60)), now()).await.unwrap();
    assert_eq!(store.confirm().await.unwrap().revision, 1);
    drop(store);
    let store = place.open();
    assert_eq!(undo::expire(&store, later(1000)).await.unwrap(), None);
    assert_eq!(content(&store, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn what_waits_is_not_written_by_others() {
    let place = Place::new();
    let store = place.open();
    store.commit_as(vec![Write::Put(profile("a", 1))], &note(Some(60)), now()).await.unwrap();
    let refused = store.commit(vec![Write::Put(profile("a", 2))], now()).await;
    assert!(matches!(refused, Err(StoreError::AwaitsConfirmation { .. })));
    let refused = store.preview(vec![Write::Delete { key: key("a"), expected: None }], now()).await;
    assert!(matches!(refused, Err(StoreError::AwaitsConfirmation { .. })));
    let refused = store.commit_as(vec![Write::Put(profile("b", 2))], &note(Some(60)), now()).await;
    assert!(matches!(refused, Err(StoreError::ConfirmPending { .. })));
    // The same again is no write, and others' objects are free.
    put(&store, "a", 1).await;
    put(&store, "b", 1).await;
    take_back(&store, Some(1), false).await.unwrap();
    assert_eq!(store.pending().await.unwrap(), None);
    put(&store, "a", 2).await;
}

#[tokio::test]
async fn the_history_is_bounded_and_keeps_what_waits() {
    let place = Place::new();
    let store = place.open();
    store.commit_as(vec![Write::Put(profile("waits", 1))], &note(Some(3600)), now()).await.unwrap();
    for round in 0..MAX_TRANSACTIONS {
        put(&store, &format!("p{round}"), 1).await;
    }
    let revisions = |kept: Vec<std::sync::Arc<Transaction>>| kept.iter().map(|t| t.revision).collect::<Vec<_>>();
    let kept = revisions(store.transactions().await.unwrap());
    assert_eq!((kept.len(), kept[0], kept[1]), (MAX_TRANSACTIONS, 1, 3));
    drop(store);
    let store = place.open();
    assert_eq!(revisions(store.transactions().await.unwrap()), kept);
    assert_eq!(undo::expire(&store, later(3600)).await.unwrap(), Some(Revision(1)));
    put(&store, "last", 1).await;
    let kept = revisions(store.transactions().await.unwrap());
    assert_eq!((kept.len(), kept[0]), (MAX_TRANSACTIONS, 4));
}

#[tokio::test]
async fn a_transaction_that_is_too_large_is_remembered_without_objects() {
    let place = Place::new();
    let store = place.open();
    let large = |number: usize| {
        let mut resource = profile(&format!("large-{number}"), 1);
        let text = "x".repeat(200 * 1024);
        resource.metadata_mut().annotations.insert("note".to_string(), text);
        Write::Put(resource)
    };
    let writes = || (0..MAX_TRANSACTION_BYTES / (200 * 1024) + 1).map(large).collect::<Vec<_>>();
    let refused = store.commit_as(writes(), &note(Some(60)), now()).await;
    assert!(matches!(refused, Err(StoreError::ConfirmTooLarge { .. })));
    store.commit_as(writes(), &note(None), now()).await.unwrap();
    let kept = store.transactions().await.unwrap();
    assert!(!kept[0].is_whole && kept[0].changes.len() > 50 && kept[0].changes[0].after.is_none());
    assert!(matches!(take_back(&store, None, false).await, Err(StoreError::UndoNotKept { .. })));
}

#[tokio::test]
async fn a_report_is_stored_and_not_remembered() {
    let place = Place::new();
    let store = place.open();
    put(&store, "a", 1).await;
    let before = store.transactions().await.unwrap();
    store.commit_as(vec![Write::Put(profile("a", 2))], &Note::report(), now()).await.unwrap();
    assert_eq!(store.transactions().await.unwrap(), before);
    drop(store);
    let store = place.open();
    assert_eq!(store.transactions().await.unwrap(), before);
    assert_eq!(content(&store, "a").await.as_deref(), Some("2"));
}
