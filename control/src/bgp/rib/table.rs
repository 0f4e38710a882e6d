//! Prefixes, each at a place that it keeps: a slab in pieces, and an index over it.
//!
//! ```text
//!   prefix ──hash──▶ [ place | place | … ]           index: 4 octets a place
//!                        └──▶ piece 0 [ entry … ] piece 1 [ entry … ] …   1024 entries a piece, never moved
//! ```
//!
//! Others keep what belongs to a prefix in tables of their own by the same place, and walk all prefixes by counting, with
//! changes in between.
//!
//! Invariants: a place in the index holds an entry with that prefix; a free place is in `free` and in no index.
//! Left out: order. Who wants prefixes sorted sorts them.

use config::net::Cidr;
use hashbrown::HashTable;

/// Entries in a piece.
pub const PIECE: usize = 1024;
/// Prefixes in all: what fits in 32 bits leaves no room for "none".
const PLACES_MAX: usize = 1 << 30;

/// The place of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixIndex(pub u32);

impl PrefixIndex {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
pub struct Table<T> {
    pieces: Vec<Box<[(Cidr, T)]>>,
    free: Vec<u32>,
    /// Places that were ever given.
    begun: usize,
    index: HashTable<u32>,
    hasher: ahash::RandomState,
}

impl<T: Default> Default for Table<T> {
    fn default() -> Self {
        Table {
            pieces: Vec::new(),
            free: Vec::new(),
            begun: 0,
            index: HashTable::new(),
            hasher: ahash::RandomState::new(),
        }
    }
}

impl<T: Default> Table<T> {
    pub fn find(&self, prefix: &Cidr) -> Option<PrefixIndex> {
        let hash = self.hasher.hash_one(prefix);
        self.index.find(hash, |place| at(&self.pieces, *place).0 == *prefix).copied().map(PrefixIndex)
    }

    /// The place of a prefix, with a new entry if it has none. None: the table is full.
    pub fn find_or_insert(&mut self, prefix: &Cidr) -> Option<PrefixIndex> {
        let hash = self.hasher.hash_one(prefix);
        if let Some(place) = self.index.find(hash, |place| at(&self.pieces, *place).0 == *prefix) {
            return Some(PrefixIndex(*place));
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.begun >= PLACES_MAX => return None,
            None => {
                if self.begun == self.pieces.len() * PIECE {
                    let empty = std::iter::repeat_with(|| (*prefix, T::default())).take(PIECE);
                    self.pieces.push(empty.collect());
                }
                self.begun += 1;
                (self.begun - 1) as u32
            }
        };
        *at_mut(&mut self.pieces, place) = (*prefix, T::default());
        let (pieces, hasher) = (&self.pieces, &self.hasher);
        self.index.insert_unique(hash, place, |place| hasher.hash_one(at(pieces, *place).0));
        Some(PrefixIndex(place))
    }

    /// Frees a place, for another prefix.
    pub fn remove(&mut self, place: PrefixIndex) {
        let prefix = self.prefix(place);
        let hash = self.hasher.hash_one(prefix);
        if let Ok(found) = self.index.find_entry(hash, |other| *other == place.0) {
            found.remove();
            *at_mut(&mut self.pieces, place.0) = (prefix, T::default());
            self.free.push(place.0);
        }
    }

    pub fn prefix(&self, place: PrefixIndex) -> Cidr {
        at(&self.pieces, place.0).0
    }

    pub fn get(&self, place: PrefixIndex) -> &T {
        &at(&self.pieces, place.0).1
    }

    pub fn get_mut(&mut self, place: PrefixIndex) -> &mut T {
        &mut at_mut(&mut self.pieces, place.0).1
    }

    /// Prefixes.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// All places that were ever given, free ones too: those have the entry of a new prefix.
    pub fn places(&self) -> impl Iterator<Item = PrefixIndex> + use<T> {
        (0..self.begun as u32).map(PrefixIndex)
    }

    /// All entries by place.
    pub fn iter(&self) -> impl Iterator<Item = (PrefixIndex, Cidr, &T)> {
        let all = self.pieces.iter().flat_map(|piece| piece.iter()).take(self.begun);
        all.zip(0..).map(|((prefix, entry), place)| (PrefixIndex(place), *prefix, entry))
    }
}

/// Panics unless the place was given.
fn at<T>(pieces: &[Box<[(Cidr, T)]>], place: u32) -> &(Cidr, T) {
    &pieces[place as usize / PIECE][place as usize % PIECE]
}

fn at_mut<T>(pieces: &mut [Box<[(Cidr, T)]>], place: u32) -> &mut (Cidr, T) {
    &mut pieces[place as usize / PIECE][place as usize % PIECE]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn prefix(number: u32) -> Cidr {
        Cidr::new(std::net::Ipv4Addr::from(number << 8).into(), 24).unwrap()
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0u32..40, any::<bool>()), 0..300)) {
            let mut table: Table<u32> = Table::default();
            let mut map = BTreeMap::new();
            for (number, insert) in steps {
                let wanted = prefix(number);
                if insert {
                    let place = table.find_or_insert(&wanted).unwrap();
                    *table.get_mut(place) = number + 1;
                    map.insert(wanted, number + 1);
                } else if let Some(place) = table.find(&wanted) {
                    table.remove(place);
                    prop_assert!(map.remove(&wanted).is_some());
                }
                prop_assert_eq!(table.len(), map.len());
                let found: BTreeMap<Cidr, u32> =
                    table.iter().filter(|(_, _, value)| **value > 0).map(|(_, prefix, value)| (prefix, *value)).collect();
                prop_assert_eq!(&found, &map);
                let all = (0..40).map(prefix).all(|p| table.find(&p).map(|at| *table.get(at)) == map.get(&p).copied());
                prop_assert!(all);
            }
        }
    }
}
