//! A ring between two sides that share memory: one puts entries in, the other takes them out.
//!
//! ```text
//!        consumer                producer              indexes only grow, and wrap at 2³²;
//!           │                       │                  an entry lies at index & mask
//!     ─ ─ ─ ▼───────────────────────▼─ ─ ─ ─ ─ ─ ─
//!           │ published │ published │ staged │ free
//!                                            ▲ next
//! ```
//!
//! The producer writes entries at `next`, then publishes: it moves the shared index past them (release). The consumer sees
//! that index (acquire), reads the entries, and releases them by moving the other index. Each side keeps what it last saw of
//! the other's index and looks again only when that is not enough: a full burst costs two shared accesses, and a look at an
//! idle ring one load.
//!
//! The other side is the kernel, and in tests a `Consumer` or `Producer` of this file over the same memory.
//!
//! Invariants:
//! 1. `Shared` points into `region`, which it keeps: two indexes, flags, and `mask + 1` entries, a power of two.
//! 2. One side moves one index. An entry between the consumer's index and the producer's is the consumer's, any other the
//!    producer's; neither touches what is the other's. What the other side says is not believed: a distance larger than the
//!    ring counts as a full ring, and every position is masked.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::region::Region;

/// Flag that the kernel sets when it has to be woken to go on (XDP_RING_NEED_WAKEUP).
const NEED_WAKEUP: u32 = libc::XDP_RING_NEED_WAKEUP;

/// Where the parts of a ring lie in its memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) producer: usize,
    pub(super) consumer: usize,
    pub(super) flags: usize,
    pub(super) entries: usize,
}

/// What an entry may be: plain numbers, for which every pattern of bits is a value.
///
/// # Safety
///
/// Any bytes must be a valid value, and the type must have no padding.
pub(super) unsafe trait Entry: Copy + 'static {}

// SAFETY: a number.
unsafe impl Entry for u64 {}

/// A packet, or a part of one, on a ring that carries packets (struct xdp_desc).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Descriptor {
    /// Of the first byte, from the start of the frames' memory.
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) options: u32,
}

// SAFETY: numbers of 8, 4 and 4 bytes: no padding.
unsafe impl Entry for Descriptor {}

const _: () = assert!(size_of::<Descriptor>() == size_of::<libc::xdp_desc>());

struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
    _region: Arc<Region>,
}

// SAFETY: the pointers lead into `_region`, which is not tied to a thread; the entries are numbers.
unsafe impl<T: Entry> Send for Shared<T> {}

impl<T: Entry> Shared<T> {
    fn new(region: Arc<Region>, layout: Layout, size: u32) -> io::Result<Shared<T>> {
        let wrong = |what: &str| io::Error::other(format!("a ring of {size} entries: {what}"));
        if !size.is_power_of_two() {
            return Err(wrong("expected a power of two"));
        }
        let place = |offset: usize, bytes: usize, align: usize| {
            let end = offset.checked_add(bytes).ok_or_else(|| wrong("beyond the address space"))?;
            if end > region.len() || !offset.is_multiple_of(align) {
                return Err(wrong("its memory is shorter, or laid out otherwise, than the kernel says"));
            }
            // SAFETY: `offset` lies inside the region (checked above).
            Ok(unsafe { region.base().add(offset) })
        };
        let word = |offset| place(offset, size_of::<AtomicU32>(), align_of::<AtomicU32>());
        Ok(Shared {
            producer: word(layout.producer)?.cast(),
            consumer: word(layout.consumer)?.cast(),
            flags: word(layout.flags)?.cast(),
            entries: place(layout.entries, size as usize * size_of::<T>(), align_of::<T>())?.cast(),
            mask: size - 1,
            _region: region,
        })
    }

    fn size(&self) -> u32 {
        self.mask + 1
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned and inside the region, which lives as long as `self`; accessed as an atomic by both sides.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    #[inline]
    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: a masked index lies inside the array (invariant 1).
        unsafe { self.entries.as_ptr().add((index & self.mask) as usize) }
    }
}

/// The side that puts entries in.
pub(super) struct Producer<T> {
    shared: Shared<T>,
    /// Where the next entry goes.
    next: u32,
    published: u32,
    /// As last seen.
    consumed: u32,
}

impl<T: Entry> Producer<T> {
    pub(super) fn new(region: Arc<Region>, layout: Layout, size: u32) -> io::Result<Producer<T>> {
        let shared = Shared::new(region, layout, size)?;
        let next = shared.producer().load(Ordering::Relaxed);
        let consumed = shared.consumer().load(Ordering::Acquire);
        Ok(Producer { shared, next, published: next, consumed })
    }

    /// True when `wanted` more entries fit.
    #[inline]
    pub(super) fn has_room(&mut self, wanted: u32) -> bool {
        if self.room() >= wanted {
            return true;
        }
        self.consumed = self.shared.consumer().load(Ordering::Acquire);
        self.room() >= wanted
    }

    #[inline]
    fn room(&self) -> u32 {
        self.shared.size().saturating_sub(self.next.wrapping_sub(self.consumed))
    }

    /// Writes an entry that the other side does not see yet; false when there is no room.
    #[inline]
    #[must_use]
    pub(super) fn stage(&mut self, entry: T) -> bool {
        if !self.has_room(1) {
            return false;
        }
        // SAFETY: the consumer has released this place (just checked), so it is ours (invariant 2).
        unsafe { self.shared.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Entries written and not published.
    #[inline]
    pub(super) fn staged(&self) -> u32 {
        self.next.wrapping_sub(self.published)
    }

    /// The staged entry at a place, counted from the first.
    pub(super) fn staged_entry(&self, place: u32) -> Option<T> {
        // SAFETY: written by us and not published: ours (invariant 2).
        (place < self.staged()).then(|| unsafe { self.shared.entry(self.published.wrapping_add(place)).read() })
    }

    /// Shows the other side as many of the staged entries, first staged, first shown.
    #[inline]
    pub(super) fn publish(&mut self, count: u32) {
        self.published = self.published.wrapping_add(count.min(self.staged()));
        self.shared.producer().store(self.published, Ordering::Release);
    }

    #[inline]
    pub(super) fn publish_all(&mut self) {
        self.publish(self.staged());
    }

    /// Entries that the other side has not taken.
    #[inline]
    pub(super) fn untaken(&mut self) -> u32 {
        self.consumed = self.shared.consumer().load(Ordering::Acquire);
        self.published.wrapping_sub(self.consumed).min(self.shared.size())
    }

    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.shared.needs_wakeup()
    }
}

/// The side that takes entries out.
pub(super) struct Consumer<T> {
    shared: Shared<T>,
    /// What is taken next.
    next: u32,
    /// As last seen.
    produced: u32,
}

impl<T: Entry> Consumer<T> {
    pub(super) fn new(region: Arc<Region>, layout: Layout, size: u32) -> io::Result<Consumer<T>> {
        let shared = Shared::new(region, layout, size)?;
        let next = shared.consumer().load(Ordering::Relaxed);
        let produced = shared.producer().load(Ordering::Acquire);
        Ok(Consumer { shared, next, produced })
    }

    /// How many entries there are to take, at most `wanted`. One load when there are none.
    #[inline]
    pub(super) fn available(&mut self, wanted: u32) -> u32 {
        let mut available = self.produced.wrapping_sub(self.next);
        if available < wanted {
            let seen = self.shared.producer().load(Ordering::Acquire);
            available = seen.wrapping_sub(self.next).min(self.shared.size());
            self.produced = self.next.wrapping_add(available);
        }
        available.min(wanted)
    }

    /// The next entry, without another look at the shared index: `None` after what `available` has counted.
    #[inline]
    pub(super) fn take(&mut self) -> Option<T> {
        if self.next == self.produced {
            return None;
        }
        // SAFETY: published (the index was acquired) and not released: ours (invariant 2).
        let entry = unsafe { self.shared.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of all taken entries back.
    #[inline]
    pub(super) fn release(&mut self) {
        self.shared.consumer().store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
