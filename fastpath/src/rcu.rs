//! Publish a snapshot; free the old one when every worker has moved on (quiescent-state based reclamation).
//!
//!     control   swap pointer ─▶ epoch += 1 ─▶ wait until every reader's epoch ≥ that ─▶ free the old snapshot
//!     worker    [ epoch := global ] read pointer, work … one breath …  [ epoch := global ] …   offline: asleep
//!
//! A reader announces, once a breath, that it holds nothing from before. That costs one store. A reader that sleeps is
//! *offline* and delays nobody. What was read lives as long as the borrow of the `Reader`, and the next announcement
//! needs that borrow back, so nothing old can be held on to.
//!
//! Invariants: a pointer is freed only when every online reader announced an epoch at or after the one in which it was
//! replaced; freeing happens on the publisher's thread only, never on a worker.
//! Left out: more than one publisher. The model check is in `tests` below, run with `--cfg loom`.
//! See: McKenney, Slingwine, "Read-Copy Update: Using Execution History to Solve Concurrency Problems", 1998;
//! Hart et al., "Making Lockless Synchronization Fast", 2006.

#[cfg(loom)]
use loom::sync::{
    Arc,
    atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
};

use crossbeam::utils::CachePadded;

/// The epoch of a reader that holds nothing.
const OFFLINE: u64 = u64::MAX;

/// Readers that one publisher may ever have: workers are started once, so this is a bound on cores.
const MAX_READERS: usize = if cfg!(loom) { 2 } else { 256 };

/// Epochs of the publisher and of all readers.
struct Epochs {
    current: CachePadded<AtomicU64>,
    /// What each reader announced last.
    announced: [CachePadded<AtomicU64>; MAX_READERS],
    readers: AtomicUsize,
}

impl Epochs {
    fn new() -> Self {
        Self {
            current: CachePadded::new(AtomicU64::new(1)),
            announced: std::array::from_fn(|_| CachePadded::new(AtomicU64::new(OFFLINE))),
            readers: AtomicUsize::new(0),
        }
    }

    fn register(&self) -> usize {
        let reader = self.readers.fetch_add(1, Ordering::AcqRel);
        assert!(reader < MAX_READERS, "more than {MAX_READERS} readers of one snapshot");
        reader
    }

    /// The latest epoch that every online reader has announced.
    fn passed(&self) -> u64 {
        // Pairs with the fence in `Reader::online`: either we see the reader online, or it sees the new pointer.
        fence(Ordering::SeqCst);
        let current = self.current.load(Ordering::Acquire);
        let readers = &self.announced[..self.readers.load(Ordering::Acquire)];
        readers.iter().map(|epoch| epoch.load(Ordering::Acquire)).fold(current, u64::min)
    }
}

/// Tells when something unlinked from a shared structure is no longer read by anybody.
#[derive(Clone)]
pub struct Grace(Arc<Epochs>);

impl Grace {
    /// The epoch to wait for, for something unlinked just now.
    pub fn stamp(&self) -> u64 {
        self.0.current.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Everything stamped with this or less is free.
    pub fn passed(&self) -> u64 {
        self.0.passed()
    }
}

/// Replaces the snapshot; owned by control.
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    /// Replaced snapshots with the epoch to wait for.
    retired: Vec<(u64, Box<T>)>,
}

struct Shared<T> {
    pointer: AtomicPtr<T>,
    epochs: Arc<Epochs>,
}

// SAFETY: the pointer is to a `T` that all readers share by reference and that the publisher's thread frees.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let pointer = self.pointer.load(Ordering::Acquire);
        // SAFETY: made by `Box::into_raw`; the last handle is gone, so nobody reads it.
        drop(unsafe { Box::from_raw(pointer) });
    }
}

impl<T: Send + Sync> Publisher<T> {
    pub fn new(first: T) -> Self {
        let pointer = AtomicPtr::new(Box::into_raw(Box::new(first)));
        Self { shared: Arc::new(Shared { pointer, epochs: Arc::new(Epochs::new()) }), retired: Vec::new() }
    }

    /// A handle for one worker; it starts offline.
    pub fn reader(&self) -> Reader<T> {
        let index = self.shared.epochs.register();
        Reader { shared: self.shared.clone(), index }
    }

    /// Grace periods for structures beside the snapshot.
    pub fn grace(&self) -> Grace {
        Grace(self.shared.epochs.clone())
    }

    /// Makes a snapshot the one that every breath begun from now on sees, and frees the ones nobody sees any more.
    pub fn publish(&mut self, next: T) {
        let old = self.shared.pointer.swap(Box::into_raw(Box::new(next)), Ordering::AcqRel);
        let epoch = self.shared.epochs.current.fetch_add(1, Ordering::AcqRel) + 1;
        // SAFETY: made by `Box::into_raw`, unlinked by the swap, and from here owned by `retired` alone.
        self.retired.push((epoch, unsafe { Box::from_raw(old) }));
        self.reclaim();
    }

    /// Frees what every reader has moved on from. Returns how many snapshots still wait.
    pub fn reclaim(&mut self) -> usize {
        let passed = self.shared.epochs.passed();
        self.retired.retain(|(epoch, _)| *epoch > passed);
        self.retired.len()
    }

    /// True when every reader that is awake sees the latest snapshot.
    pub fn is_settled(&mut self) -> bool {
        self.reclaim() == 0
    }

    /// The current snapshot. Only the publisher replaces it, so it lives as long as this borrow.
    pub fn current(&self) -> &T {
        // SAFETY: never null; freed only through `&mut self`.
        unsafe { &*self.shared.pointer.load(Ordering::Acquire) }
    }
}

/// Sees the snapshot; owned by one worker.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    index: usize,
}

impl<T: Send + Sync> Reader<T> {
    fn announced(&self) -> &AtomicU64 {
        &self.shared.epochs.announced[self.index]
    }

    /// Announces that nothing from before is held, and gives the current snapshot until the next call.
    #[inline]
    pub fn enter(&mut self) -> &T {
        if self.announced().load(Ordering::Relaxed) == OFFLINE {
            self.online();
        }
        let epoch = self.shared.epochs.current.load(Ordering::Acquire);
        self.announced().store(epoch, Ordering::Release);
        // SAFETY: never null. The announced epoch is at most the current one, so whatever the pointer is from here on
        // is freed only after a later announcement, which needs this borrow to have ended.
        unsafe { &*self.shared.pointer.load(Ordering::Acquire) }
    }

    /// Holds nothing until the next `enter`: call before sleeping.
    pub fn offline(&mut self) {
        self.announced().store(OFFLINE, Ordering::Release);
    }

    fn online(&mut self) {
        let epoch = self.shared.epochs.current.load(Ordering::Acquire);
        self.announced().store(epoch, Ordering::Relaxed);
        // The announcement must be visible before a pointer is read: pairs with the fence in `Epochs::passed`.
        fence(Ordering::SeqCst);
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.shared.epochs.announced[self.index].store(OFFLINE, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::atomic::AtomicBool;

    /// Tells when it has been freed.
    struct Canary(Arc<AtomicBool>);
    impl Drop for Canary {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_snapshot_in_use_is_never_freed() {
        loom::model(|| {
            let freed = [Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false))];
            let mut publisher = Publisher::new(Canary(freed[0].clone()));
            let mut reader = publisher.reader();
            let worker = loom::thread::spawn(move || {
                for _ in 0..2 {
                    let canary = reader.enter();
                    assert!(!canary.0.load(Ordering::SeqCst), "read after free");
                    reader.offline();
                }
            });
            publisher.publish(Canary(freed[1].clone()));
            publisher.reclaim();
            worker.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn old_snapshot_waits_for_the_reader_and_only_while_it_is_online() {
        let mut publisher = Publisher::new(1);
        let mut reader = publisher.reader();
        assert_eq!(*reader.enter(), 1);
        publisher.publish(2);
        assert_eq!(publisher.reclaim(), 1);
        assert_eq!(*reader.enter(), 2);
        assert_eq!(publisher.reclaim(), 0);
        publisher.publish(3);
        reader.offline();
        assert_eq!(publisher.reclaim(), 0);
        assert_eq!(*reader.enter(), 3);
    }

    #[test]
    fn grace_passes_when_every_reader_has_announced() {
        let publisher = Publisher::new(());
        let mut reader = publisher.reader();
        reader.enter();
        let grace = publisher.grace();
        let stamp = grace.stamp();
        assert!(grace.passed() < stamp);
        reader.enter();
        assert!(grace.passed() >= stamp);
    }
}
