//! A bucket of the flow table's index: eight tags and the flows they stand for, in one cache line.
//!
//!     8 × tag:16   compared all at once
//!     8 × handle   0 = empty
//!     spilled      flows whose first bucket this is and that stand in their second
//!
//! A packet looks into its second bucket only if the first has spilled, which few do; so most look at one line, and strangers
//! do too. `spilled` is counted up before the handle is set there and down after it is gone, so nobody misses a flow.
//!
//! A handle is set and cleared by compare-and-swap; its tag follows. A reader that meets the new handle under the old tag
//! misses it, which means only that policy decides; one that meets a stranger under its tag compares keys.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use zerocopy::FromZeros;

use super::table::FlowHandle;

pub(super) const WAYS: usize = 8;
/// A bucket whose first so many ways are taken is no longer everybody's first choice.
pub(super) const CROWDED: usize = 6;
/// Tags in a word.
const LANES: usize = 4;
/// The lowest and the highest bit of every lane.
const LOW: u128 = u128::MAX / 0xffff;
const HIGH: u128 = LOW << 15;

#[derive(FromZeros)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    tags: [AtomicU64; WAYS / LANES],
    handles: [AtomicU32; WAYS],
    spilled: AtomicU32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The first flow under this tag, if there is one.
    #[inline(always)]
    pub(super) fn first(&self, tag: u16) -> Option<FlowHandle> {
        self.find(tag, |_| true)
    }

    /// The first flow under this tag that `is_it`.
    #[inline(always)]
    pub(super) fn find(&self, tag: u16, mut is_it: impl FnMut(FlowHandle) -> bool) -> Option<FlowHandle> {
        let mut found = self.matches(tag);
        // One round in all but one of thousands of packets.
        while found != 0 {
            let handle = self.handle(found.trailing_zeros() as usize / 16).filter(|handle| is_it(*handle));
            if handle.is_some() {
                return handle;
            }
            found &= found - 1;
        }
        None
    }

    /// The highest bit of every lane whose tag this is, and now and then that of one above such a lane.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u128 {
        let [low, high] = self.tags.each_ref().map(|tags| tags.load(Ordering::Relaxed));
        let different = (u128::from(high) << 64 | u128::from(low)) ^ (u128::from(tag) * LOW);
        different.wrapping_sub(LOW) & !different & HIGH
    }

    #[inline(always)]
    fn handle(&self, way: usize) -> Option<FlowHandle> {
        FlowHandle::from_word(self.handles.get(way)?.load(Ordering::Acquire))
    }

    /// True when a flow that is not here may be in its second bucket.
    #[inline(always)]
    pub(super) fn has_spilled(&self) -> bool {
        self.spilled.load(Ordering::Relaxed) != 0
    }

    #[cfg(test)]
    pub(super) fn spilled(&self) -> u32 {
        self.spilled.load(Ordering::Relaxed)
    }

    /// A flow is about to be put into its second bucket.
    pub(super) fn spill(&self) {
        self.spilled.fetch_add(1, Ordering::AcqRel);
    }

    /// A flow has left its second bucket.
    pub(super) fn unspill(&self) {
        self.spilled.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn used(&self) -> usize {
        self.handles.iter().filter(|handle| handle.load(Ordering::Relaxed) != 0).count()
    }

    /// Flows here, with their ways.
    pub(super) fn flows(&self) -> impl Iterator<Item = (usize, FlowHandle)> + '_ {
        (0..WAYS).filter_map(|way| Some((way, FlowHandle::from_word(self.handles[way].load(Ordering::Relaxed))?)))
    }

    /// Puts a flow into an empty one of these ways.
    pub(super) fn add(&self, mut ways: Range<usize>, tag: u16, handle: FlowHandle) -> bool {
        ways.any(|way| self.swap(way, 0, handle.word()) && self.set_tag(way, tag))
    }

    /// Puts a flow where another one is.
    pub(super) fn replace(&self, way: usize, old: FlowHandle, tag: u16, handle: FlowHandle) -> bool {
        self.swap(way, old.word(), handle.word()) && self.set_tag(way, tag)
    }

    /// Takes a flow out, if it is here.
    pub(super) fn remove(&self, handle: FlowHandle) -> bool {
        (0..WAYS).any(|way| self.swap(way, handle.word(), 0))
    }

    fn swap(&self, way: usize, old: u32, new: u32) -> bool {
        let slot = &self.handles[way];
        slot.load(Ordering::Relaxed) == old
            && slot.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Always true, so that it can stand at the end of a condition.
    fn set_tag(&self, way: usize, tag: u16) -> bool {
        let shift = way % LANES * 16;
        let place = |tags: u64| Some(tags & !(0xffff << shift) | u64::from(tag) << shift);
        self.tags[way / LANES].fetch_update(Ordering::Release, Ordering::Relaxed, place).is_ok()
    }
}
