//! Which sets an address, or a port of an address, is in: value → class.
//!
//! A class stands for a list of sets; all addresses that are in the same sets have the same class. Single addresses are
//! slots of a hash table, found by linear probing; prefixes are steps along the line of all addresses, asked when an
//! address has no slot. A slot's class is one word that control may store while workers read:
//!
//!     address ──hash──▶ [ key | class ] [ key | class ] [ empty ]      a slot's key is written once, before its class
//!                            │ no slot
//!                            └──▶ steps: first address → class
//!
//! Invariants: a slot with a class other than EMPTY has its whole key; a key is never removed or overwritten, only its
//! class changes; at most half of the slots are used; the class of an address with a slot counts the prefixes around it.
//! Left out: growing in place. Control makes a larger table and publishes it.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::spec::AddressRange;

/// A list of sets, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub(super) struct Class(pub(super) u32);

impl Class {
    /// In no set.
    pub(super) const NONE: Self = Self(0);
}

/// Marks a slot that has no key yet; any other value is a class + 1.
const EMPTY: u32 = 0;

/// An address (`port` is 0), or a port of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) address: u128,
    /// Protocol and port above a mark that tells them from an address alone.
    port: u32,
}

impl Member {
    pub(super) fn address(address: u128) -> Self {
        Self { address, port: 0 }
    }

    pub(super) fn port(address: u128, protocol: u8, port: u16) -> Self {
        Self { address, port: 1 << 24 | u32::from(protocol) << 16 | u32::from(port) }
    }

    /// The greatest member at an address.
    pub(super) fn last_of(address: u128) -> Self {
        Self { address, port: u32::MAX }
    }

    pub(super) fn is_address(self) -> bool {
        self.port == 0
    }
}

#[derive(Default)]
#[repr(align(32))]
struct Slot {
    address: [AtomicU64; 2],
    port: AtomicU32,
    class: AtomicU32,
}

const _: () = assert!(size_of::<Slot>() == 32);

/// Member → class.
pub(super) struct Members {
    slots: Box<[Slot]>,
    hasher: ahash::RandomState,
    prefixes: Arc<Prefixes>,
}

/// Where the sets that prefixes put an address in change.
#[derive(Clone, Debug, Default)]
pub(super) struct Prefixes {
    /// Sorted, the first is 0; or none at all.
    starts: Box<[u128]>,
    classes: Box<[Class]>,
}

impl Prefixes {
    pub(super) fn new(steps: Vec<(u128, Class)>) -> Self {
        let (starts, classes): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
        Self { starts: starts.into(), classes: classes.into() }
    }

    #[inline]
    pub(super) fn class(&self, address: u128) -> Class {
        match self.starts.partition_point(|start| *start <= address) {
            0 => Class::NONE,
            after => self.classes[after - 1],
        }
    }

    /// Of all steps, in order.
    pub(super) fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Runs of addresses whose class differs between the two.
    pub(super) fn differences(&self, other: &Self) -> Vec<AddressRange> {
        let mut starts: Vec<u128> = self.starts.iter().chain(&other.starts).copied().collect();
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([u128::MAX]);
        let runs = starts.iter().copied().zip(ends);
        runs.filter(|(first, _)| self.class(*first) != other.class(*first)).collect()
    }
}

impl Default for Members {
    fn default() -> Self {
        Self::with_room(0, Arc::default())
    }
}

impl Members {
    /// An empty table with room for that many members.
    pub(super) fn with_room(members: usize, prefixes: Arc<Prefixes>) -> Self {
        let slots = (members.max(8) * 2).next_power_of_two();
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            // Keyed, so that nobody outside can choose addresses that fall on each other.
            hasher: ahash::RandomState::new(),
            prefixes,
        }
    }

    /// Bytes on the heap.
    pub(super) fn size(&self) -> usize {
        let Prefixes { starts, classes } = &*self.prefixes;
        size_of_val(&*self.slots) + size_of_val(&**starts) + size_of_val(&**classes)
    }

    /// The most members it may hold.
    pub(super) fn room(&self) -> usize {
        self.slots.len() / 2
    }

    /// The same members with the same classes, apart from this one.
    pub(super) fn copy(&self, prefixes: Arc<Prefixes>) -> Self {
        let copy = |slot: &Slot| Slot {
            address: [0, 1].map(|half| AtomicU64::new(slot.address[half].load(Ordering::Relaxed))),
            port: AtomicU32::new(slot.port.load(Ordering::Relaxed)),
            class: AtomicU32::new(slot.class.load(Ordering::Relaxed)),
        };
        Self { slots: self.slots.iter().map(copy).collect(), hasher: self.hasher.clone(), prefixes }
    }

    pub(super) fn prefixes(&self) -> &Arc<Prefixes> {
        &self.prefixes
    }

    fn home(&self, member: Member) -> usize {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u128(member.address);
        hasher.write_u32(member.port);
        hasher.finish() as usize & (self.slots.len() - 1)
    }

    /// The class of an address.
    #[inline]
    pub(super) fn class_of_address(&self, address: u128) -> Class {
        self.find(Member::address(address)).unwrap_or_else(|| self.prefixes.class(address))
    }

    /// The class of a port of an address.
    #[inline]
    pub(super) fn class_of_port(&self, address: u128, protocol: u8, port: u16) -> Class {
        self.find(Member::port(address, protocol, port)).unwrap_or(Class::NONE)
    }

    #[inline]
    fn find(&self, member: Member) -> Option<Class> {
        let mut position = self.home(member);
        loop {
            let slot = &self.slots[position];
            let class = slot.class.load(Ordering::Acquire);
            if class == EMPTY {
                return None;
            }
            if slot.holds(member) {
                return Some(Class(class - 1));
            }
            position = (position + 1) & (self.slots.len() - 1);
        }
    }

    /// Stores a member's class; workers see the old one or the new one. Control only, and within `room`.
    pub(super) fn set(&self, member: Member, class: Class) {
        let mut position = self.home(member);
        loop {
            let slot = &self.slots[position];
            let is_empty = slot.class.load(Ordering::Relaxed) == EMPTY;
            if is_empty {
                slot.address[0].store((member.address >> 64) as u64, Ordering::Relaxed);
                slot.address[1].store(member.address as u64, Ordering::Relaxed);
                slot.port.store(member.port, Ordering::Relaxed);
            }
            if is_empty || slot.holds(member) {
                slot.class.store(class.0 + 1, Ordering::Release);
                return;
            }
            position = (position + 1) & (self.slots.len() - 1);
        }
    }
}

impl Slot {
    #[inline(always)]
    fn holds(&self, member: Member) -> bool {
        self.address[1].load(Ordering::Relaxed) == member.address as u64
            && self.address[0].load(Ordering::Relaxed) == (member.address >> 64) as u64
            && self.port.load(Ordering::Relaxed) == member.port
    }
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Members")
            .field("slots", &self.slots.len())
            .field("prefixes", &self.prefixes.starts.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn equals_a_map(changes in prop::collection::vec((0u128..40, 0u32..6, 0u32..5), 0..200)) {
            let mut expected: HashMap<Member, Class> = HashMap::new();
            let mut members = Members::with_room(8, Arc::new(Prefixes::new(vec![(0, Class::NONE), (20, Class(9))])));
            for (address, port, class) in changes {
                let member = if port == 0 { Member::address(address) } else { Member::port(address, 6, port as u16) };
                expected.insert(member, Class(class));
                if expected.len() > members.room() {
                    let larger = Members::with_room(expected.len() * 2, members.prefixes.clone());
                    expected.iter().for_each(|(member, class)| larger.set(*member, *class));
                    members = larger;
                }
                members.set(member, Class(class));
            }
            let copy = members.copy(members.prefixes.clone());
            for members in [&members, &copy] {
                for address in 0..40 {
                    let otherwise = if address < 20 { Class::NONE } else { Class(9) };
                    let wanted = expected.get(&Member::address(address)).copied().unwrap_or(otherwise);
                    prop_assert_eq!(members.class_of_address(address), wanted);
                    for port in 1..6 {
                        let wanted = expected.get(&Member::port(address, 6, port)).copied().unwrap_or(Class::NONE);
                        prop_assert_eq!(members.class_of_port(address, 6, port), wanted);
                    }
                }
            }
        }
    }

    #[test]
    fn differences_are_the_runs_that_changed() {
        let prefixes =
            |steps: &[(u128, u32)]| Prefixes::new(steps.iter().map(|(at, class)| (*at, Class(*class))).collect());
        let old = prefixes(&[(0, 0), (10, 1), (20, 0)]);
        let new = prefixes(&[(0, 0), (15, 1), (30, 0)]);
        assert_eq!(old.differences(&new), [(10, 14), (20, 29)]);
        assert_eq!(old.differences(&old), []);
        assert_eq!(Prefixes::default().differences(&old), [(10, 19)]);
    }
}
