//! Prefix → group, for a million prefixes: sorted maps with small keys, one per family (`sorted.rs`).
//!
//!     IPv4   [u8; 5]:  address, length → Entry: 4 bytes
//!     IPv6   [u8; 17]: address, length → Entry
//!
//! An entry holds the number of the group, and in the bits above what is known about the prefix in the kernel
//! (see `kernel.rs`). The maps are sorted, so that they can be gone through a piece at a time while they change: whoever does
//! so keeps the prefix where he stopped.
//!
//! Invariants: prefixes have no host bits. `lengths` counts the prefixes of each length.

mod sorted;

use std::net::IpAddr;
use std::ops::Bound;

use config::net::Cidr;

use super::GroupId;
use sorted::Sorted;

/// The bytes of the address, and the length: so nothing is lost to alignment, and their order is that of prefixes.
type Ipv4Key = [u8; 5];
type Ipv6Key = [u8; 17];

/// A group, and two marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(u32);

/// Above the number of the group.
const MARKS: u32 = !(GroupId::END - 1);
const FIRST_MARK: u32 = GroupId::END;

/// A mark that a prefix may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The kernel has a route of ours to it.
    InKernel,
    /// It was seen while the kernel's routes are looked through.
    Seen,
}

impl Mark {
    const fn bit(self) -> u32 {
        match self {
            Mark::InKernel => FIRST_MARK,
            Mark::Seen => FIRST_MARK << 1,
        }
    }
}

impl Entry {
    fn new(group: GroupId) -> Self {
        debug_assert!(group.0 < GroupId::END, "a number that leaves room for the marks");
        Self(group.0 & !MARKS)
    }

    pub fn group(self) -> GroupId {
        GroupId(self.0 & !MARKS)
    }

    pub fn has(self, mark: Mark) -> bool {
        self.0 & mark.bit() != 0
    }

    pub fn set(&mut self, mark: Mark, is_set: bool) {
        self.0 = if is_set { self.0 | mark.bit() } else { self.0 & !mark.bit() };
    }
}

/// All learned prefixes.
#[derive(Debug)]
pub struct Learned {
    ipv4: Sorted<Ipv4Key, Entry>,
    ipv6: Sorted<Ipv6Key, Entry>,
    lengths: [[u32; 129]; 2],
}

impl Default for Learned {
    fn default() -> Self {
        Self { ipv4: Sorted::default(), ipv6: Sorted::default(), lengths: [[0; 129]; 2] }
    }
}

enum Key {
    Ipv4(Ipv4Key),
    Ipv6(Ipv6Key),
}

fn key(prefix: &Cidr) -> Key {
    let length = prefix.length();
    match prefix.address() {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Key::Ipv4([a, b, c, d, length])
        }
        IpAddr::V6(address) => {
            let mut key = [length; 17];
            key[..16].copy_from_slice(&address.octets());
            Key::Ipv6(key)
        }
    }
}

fn ipv4_prefix([a, b, c, d, length]: Ipv4Key) -> Option<Cidr> {
    Cidr::new(IpAddr::from([a, b, c, d]), length)
}

fn ipv6_prefix(key: Ipv6Key) -> Option<Cidr> {
    let (address, length) = (key.first_chunk::<16>()?, key[16]);
    Cidr::new(IpAddr::from(*address), length)
}

impl Learned {
    pub fn len(&self) -> usize {
        self.ipv4.len() + self.ipv6.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Prefixes of IPv4, and of IPv6.
    pub fn counts(&self) -> [usize; 2] {
        [self.ipv4.len(), self.ipv6.len()]
    }

    pub fn get(&self, prefix: &Cidr) -> Option<Entry> {
        match key(prefix) {
            Key::Ipv4(key) => self.ipv4.get(&key),
            Key::Ipv6(key) => self.ipv6.get(&key),
        }
    }

    pub fn get_mut(&mut self, prefix: &Cidr) -> Option<&mut Entry> {
        match key(prefix) {
            Key::Ipv4(key) => self.ipv4.get_mut(&key),
            Key::Ipv6(key) => self.ipv6.get_mut(&key),
        }
    }

    /// Returns what the prefix led to. Its marks are kept.
    pub fn insert(&mut self, prefix: &Cidr, group: GroupId) -> Option<Entry> {
        let mut entry = Entry::new(group);
        let old = match key(prefix) {
            Key::Ipv4(key) => self.ipv4.insert(key, entry),
            Key::Ipv6(key) => self.ipv6.insert(key, entry),
        };
        match old {
            Some(old) => {
                entry.0 |= old.0 & MARKS;
                if let Some(place) = self.get_mut(prefix).filter(|place| **place != entry) {
                    *place = entry;
                }
            }
            None => self.count(prefix, true),
        }
        old
    }

    pub fn remove(&mut self, prefix: &Cidr) -> Option<Entry> {
        let old = match key(prefix) {
            Key::Ipv4(key) => self.ipv4.remove(&key),
            Key::Ipv6(key) => self.ipv6.remove(&key),
        };
        if old.is_some() {
            self.count(prefix, false);
        }
        old
    }

    fn count(&mut self, prefix: &Cidr, comes: bool) {
        let family = usize::from(!prefix.is_ipv4());
        if let Some(count) = self.lengths[family].get_mut(usize::from(prefix.length())) {
            *count = if comes { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// The prefixes that cover an address, the longest first.
    pub fn covering(&self, address: IpAddr) -> impl Iterator<Item = (Cidr, GroupId)> + '_ {
        let lengths = &self.lengths[usize::from(address.is_ipv6())];
        let present = lengths.iter().enumerate().rev().filter(|(_, count)| **count > 0);
        present.filter_map(move |(length, _)| {
            let prefix = Cidr::new(address, u8::try_from(length).ok()?)?.masked();
            Some((prefix, self.get(&prefix)?.group()))
        })
    }

    /// Those that were seen in the kernel are there, and no others are. Nothing is seen any more.
    pub fn settle_seen(&mut self) {
        for entry in self.ipv4.values_mut().chain(self.ipv6.values_mut()) {
            entry.set(Mark::InKernel, entry.has(Mark::Seen));
            entry.set(Mark::Seen, false);
        }
    }

    /// Those behind this one, IPv4 before IPv6; all for none.
    pub fn after(&self, last: Option<Cidr>) -> impl Iterator<Item = (Cidr, Entry)> + '_ {
        let (ipv4, ipv6) = match last.as_ref().map(key) {
            None => (Some(Bound::Unbounded), Bound::Unbounded),
            Some(Key::Ipv4(key)) => (Some(Bound::Excluded(key)), Bound::Unbounded),
            Some(Key::Ipv6(key)) => (None, Bound::Excluded(key)),
        };
        let ipv4 = ipv4.into_iter().flat_map(|from| self.ipv4.from(from));
        let ipv4 = ipv4.filter_map(|(key, entry)| Some((ipv4_prefix(key)?, entry)));
        ipv4.chain(self.ipv6.from(ipv6).filter_map(|(key, entry)| Some((ipv6_prefix(key)?, entry))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn prefix() -> impl Strategy<Value = Cidr> {
        let ipv4 =
            (0u32..64, 0u8..=32, 0u32..27).prop_map(|(a, length, shift)| (IpAddr::V4((a << shift).into()), length));
        let ipv6 =
            (0u128..64, 0u8..=128, 0u32..123).prop_map(|(a, length, shift)| (IpAddr::V6((a << shift).into()), length));
        prop_oneof![ipv4, ipv6]
            .prop_filter_map("a prefix", |(address, length)| Some(Cidr::new(address, length)?.masked()))
    }

    proptest! {
        #[test]
        fn equals_a_map(
            edits in prop::collection::vec((prefix(), prop::option::weighted(0.7, 0u32..GroupId::END)), 1..80),
            marked in prop::collection::vec(any::<bool>(), 80),
        ) {
            let (mut learned, mut plain) = (Learned::default(), BTreeMap::new());
            for ((prefix, group), marked) in edits.into_iter().zip(marked) {
                match group {
                    Some(group) => {
                        let old = learned.insert(&prefix, GroupId(group));
                        let (_, mark) = plain.insert(prefix, (group, false)).unwrap_or_default();
                        prop_assert_eq!(old.is_some_and(|old| old.has(Mark::InKernel)), mark);
                        let entry = learned.get_mut(&prefix).unwrap();
                        prop_assert_eq!(entry.has(Mark::InKernel), mark, "marks are kept");
                        entry.set(Mark::InKernel, marked);
                        prop_assert!(!entry.has(Mark::Seen));
                        plain.insert(prefix, (group, marked));
                    }
                    None => {
                        let old = learned.remove(&prefix).map(|old| (old.group().0, old.has(Mark::InKernel)));
                        prop_assert_eq!(old, plain.remove(&prefix));
                    }
                }
                prop_assert_eq!(learned.len(), plain.len());
                prop_assert_eq!(learned.get(&prefix).map(|entry| entry.group().0), plain.get(&prefix).map(|(g, _)| *g));
                let address = prefix.address();
                let mut covering: Vec<(Cidr, GroupId)> =
                    plain.iter().filter(|(p, _)| p.contains(address)).map(|(p, (group, _))| (*p, GroupId(*group))).collect();
                covering.sort_by_key(|(p, _)| std::cmp::Reverse(p.length()));
                prop_assert_eq!(learned.covering(address).collect::<Vec<_>>(), covering);
                // Piece by piece, and each once.
                let (mut all, mut last) = (Vec::new(), None);
                loop {
                    let piece: Vec<Cidr> = learned.after(last).take(3).map(|(prefix, _)| prefix).collect();
                    let Some(end) = piece.last() else { break };
                    last = Some(*end);
                    all.extend(piece);
                }
                prop_assert_eq!(all, plain.keys().copied().collect::<Vec<_>>());
            }
        }
    }
}
