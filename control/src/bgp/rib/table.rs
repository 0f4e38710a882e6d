//! Prefixes, each at a place that it keeps: slabs in pieces, and an index over them.
//!
//! ```text
//!   prefix ──hash──▶ [ place | place | … ]           index: 4 octets a place
//!                        ├──▶ piece 0 [ key … ]   piece 1 [ key … ]   …   1024 a piece, never moved
//!                        └──▶ piece 0 [ entry … ] piece 1 [ entry … ] …
//!   key   IPv4: address, length   IPv6: where the prefix stands in a list of its own
//! ```
//!
//! Others keep what belongs to a prefix in tables of their own by the same place, and walk all prefixes by counting, with
//! changes in between.
//!
//! Invariants: a place in the index has the key of its prefix; a free place is in `free` and in no index, and no prefix of
//! IPv6 is its.
//! Left out: order. Who wants prefixes sorted sorts them.

use std::net::{IpAddr, Ipv4Addr};

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
    keys: Keys,
    pieces: Vec<Box<[T]>>,
    free: Vec<u32>,
    /// Places that were ever given.
    begun: usize,
    index: HashTable<u32>,
    hasher: ahash::RandomState,
}

impl<T: Default> Default for Table<T> {
    fn default() -> Self {
        Table {
            keys: Keys::default(),
            pieces: Vec::new(),
            free: Vec::new(),
            begun: 0,
            index: HashTable::new(),
            hasher: ahash::RandomState::new(),
        }
    }
}

impl<T> Table<T> {
    /// Octets for a prefix of IPv4: key, entry, and place in the index. One of IPv6 takes those of a `Cidr` more.
    pub const ROW: usize = size_of::<u64>() + size_of::<T>() + size_of::<u32>();
}

impl<T: Default> Table<T> {
    pub fn find(&self, prefix: &Cidr) -> Option<PrefixIndex> {
        let hash = self.hasher.hash_one(prefix);
        self.index.find(hash, |place| self.keys.is(*place, prefix)).copied().map(PrefixIndex)
    }

    /// The place of a prefix, with a new entry if it has none. None: the table is full.
    pub fn find_or_insert(&mut self, prefix: &Cidr) -> Option<PrefixIndex> {
        let hash = self.hasher.hash_one(prefix);
        if let Some(place) = self.index.find(hash, |place| self.keys.is(*place, prefix)) {
            return Some(PrefixIndex(*place));
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.begun >= PLACES_MAX => return None,
            None => {
                if self.begun == self.pieces.len() * PIECE {
                    self.pieces.push(std::iter::repeat_with(T::default).take(PIECE).collect());
                    self.keys.pieces.push(Box::new([0; PIECE]));
                }
                self.begun += 1;
                (self.begun - 1) as u32
            }
        };
        self.keys.set(place, prefix);
        let (keys, hasher) = (&self.keys, &self.hasher);
        self.index.insert_unique(hash, place, |place| hasher.hash_one(keys.get(*place)));
        Some(PrefixIndex(place))
    }

    /// Frees a place, for another prefix.
    pub fn remove(&mut self, place: PrefixIndex) {
        let hash = self.hasher.hash_one(self.prefix(place));
        if let Ok(found) = self.index.find_entry(hash, |other| *other == place.0) {
            found.remove();
            *self.get_mut(place) = T::default();
            self.keys.clear(place.0);
            self.free.push(place.0);
        }
    }

    /// The prefix at a place; another one where the place is free.
    pub fn prefix(&self, place: PrefixIndex) -> Cidr {
        self.keys.get(place.0)
    }

    /// Panics unless the place was given.
    pub fn get(&self, place: PrefixIndex) -> &T {
        &self.pieces[place.index() / PIECE][place.index() % PIECE]
    }

    pub fn get_mut(&mut self, place: PrefixIndex) -> &mut T {
        &mut self.pieces[place.index() / PIECE][place.index() % PIECE]
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
        all.zip(0..).map(|(entry, place)| (PrefixIndex(place), self.keys.get(place), entry))
    }
}

/// Says that a key is the position of a prefix of IPv6.
const IPV6: u64 = 1 << 63;

/// Prefixes by place, in 8 octets where they are of IPv4.
#[derive(Debug, Default)]
struct Keys {
    pieces: Vec<Box<[u64; PIECE]>>,
    ipv6: Vec<Cidr>,
    free: Vec<usize>,
}

impl Keys {
    fn key(&self, place: u32) -> u64 {
        self.pieces[place as usize / PIECE][place as usize % PIECE]
    }

    fn get(&self, place: u32) -> Cidr {
        let key = self.key(place);
        if key & IPV6 != 0 {
            return self.ipv6[(key & !IPV6) as usize];
        }
        let address = IpAddr::V4(Ipv4Addr::from_bits((key >> 8) as u32));
        // The length is that of a prefix, so it fits.
        Cidr::new(address, key as u8).unwrap_or(Cidr::host(address))
    }

    fn is(&self, place: u32, prefix: &Cidr) -> bool {
        let key = self.key(place);
        match ipv4(prefix) {
            Some(wanted) => key == wanted,
            None => key & IPV6 != 0 && self.ipv6[(key & !IPV6) as usize] == *prefix,
        }
    }

    fn set(&mut self, place: u32, prefix: &Cidr) {
        let key = ipv4(prefix).unwrap_or_else(|| {
            let position = self.free.pop().unwrap_or(self.ipv6.len());
            match self.ipv6.get_mut(position) {
                Some(free) => *free = *prefix,
                None => self.ipv6.push(*prefix),
            }
            IPV6 | position as u64
        });
        self.pieces[place as usize / PIECE][place as usize % PIECE] = key;
    }

    /// The place has no prefix any more.
    fn clear(&mut self, place: u32) {
        let key = std::mem::take(&mut self.pieces[place as usize / PIECE][place as usize % PIECE]);
        if key & IPV6 != 0 {
            self.free.push((key & !IPV6) as usize);
        }
    }
}

fn ipv4(prefix: &Cidr) -> Option<u64> {
    match prefix.address() {
        IpAddr::V4(address) => Some(u64::from(address.to_bits()) << 8 | u64::from(prefix.length())),
        IpAddr::V6(_) => None,
    }
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
