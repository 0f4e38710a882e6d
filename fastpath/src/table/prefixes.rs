//! Which IPv4 prefixes there are, and where each leads: what the writer of `dir24.rs` keeps beside the table it paints.
//!
//! ```text
//!   /0 – /24   present  one bit each, by number: a one, then the bits of the prefix      4 MiB for any number of routes
//!   /0 – /23   values   number → value                                                   two fifths of a full table
//!   /24        (none)   the table has it in its slot, while nothing longer is in the same /24
//!   /25 – /32  inner    address, length → value; then the /24 around them is in here too
//! ```
//!
//! A million routes are mostly /24s, whose values are in the table already: so a route costs a few octets, and a trie of all of
//! them would cost as much as a third of the table.
//!
//! Invariants: a number has a value exactly if its bit is set, but for /24s. A /24 is in `inner` exactly if it is present and
//! a longer prefix is within it.
//! Left out: the values of /24s with nothing longer in them: who asks has the slot.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Longest prefix that has a bit, and number of bits in a word.
const SHORT: u8 = 24;
const WORD: u32 = u64::BITS;

/// A prefix of at most 24 bits: a one, and then its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Number(u32);

impl Number {
    /// Of the prefix of that length around the address. Panics for one of more than 24 bits.
    pub fn of(address: u32, length: u8) -> Self {
        assert!(length <= SHORT, "a prefix that has a number");
        Self((1 << 31 | address >> 1) >> (31 - length))
    }

    fn length(self) -> u8 {
        (u32::BITS - 1 - self.0.leading_zeros()) as u8
    }

    /// Its /24s.
    pub fn slots(self) -> Range<u32> {
        let shift = SHORT - self.length();
        (self.0 << shift) - (1 << SHORT)..((self.0 + 1) << shift) - (1 << SHORT)
    }

    fn parent(self) -> Option<Self> {
        (self.0 > 1).then_some(Self(self.0 >> 1))
    }

    fn halves(self) -> [Self; 2] {
        [Self(self.0 << 1), Self(self.0 << 1 | 1)]
    }

    /// The numbers of all prefixes that are so many bits longer.
    fn within(self, longer: u8) -> Range<u32> {
        self.0 << longer..(self.0 + 1) << longer
    }
}

/// All prefixes.
#[derive(Debug)]
pub struct Prefixes {
    present: Vec<u64>,
    values: HashMap<u32, u32, ahash::RandomState>,
    inner: BTreeMap<(u32, u8), u32>,
    count: usize,
}

impl Default for Prefixes {
    fn default() -> Self {
        let present = vec![0; (2 << SHORT) / WORD as usize];
        Self { present, values: HashMap::default(), inner: BTreeMap::new(), count: 0 }
    }
}

impl Prefixes {
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it is there, itself.
    fn has(&self, number: Number) -> bool {
        self.present[(number.0 / WORD) as usize] & 1 << (number.0 % WORD) != 0
    }

    /// Returns whether it was there.
    fn set(&mut self, number: Number, is_present: bool) -> bool {
        let (word, bit) = (&mut self.present[(number.0 / WORD) as usize], 1 << (number.0 % WORD));
        let was_present = *word & bit != 0;
        *word = if is_present { *word | bit } else { *word & !bit };
        was_present
    }

    /// Adds a prefix without host bits, or gives it another value. Returns the one it had. `slot` has the value of a /24 that
    /// is present and has nothing longer in it.
    pub fn insert(&mut self, address: u32, length: u8, value: u32, slot: impl Fn(u32) -> u32) -> Option<u32> {
        let old = match length {
            ..SHORT => {
                self.set(Number::of(address, length), true);
                self.values.insert(Number::of(address, length).0, value)
            }
            SHORT => {
                let was_present = self.set(Number::of(address, SHORT), true);
                if self.inner.range(of_slot(address >> 8)).next().is_some() {
                    self.inner.insert((address, SHORT), value)
                } else {
                    was_present.then(|| slot(address >> 8))
                }
            }
            _ => {
                let whole = address & !255;
                if self.has(Number::of(whole, SHORT)) {
                    self.inner.entry((whole, SHORT)).or_insert_with(|| slot(whole >> 8));
                }
                self.inner.insert((address, length), value)
            }
        };
        self.count += usize::from(old.is_none());
        old
    }

    /// Takes a prefix away. Returns the value that it had. `slot` as above.
    pub fn remove(&mut self, address: u32, length: u8, slot: impl Fn(u32) -> u32) -> Option<u32> {
        let old = match length {
            ..SHORT => {
                self.set(Number::of(address, length), false);
                self.values.remove(&Number::of(address, length).0)
            }
            SHORT => {
                let was_present = self.set(Number::of(address, SHORT), false);
                let inner = self.inner.remove(&(address, SHORT));
                inner.or_else(|| was_present.then(|| slot(address >> 8)))
            }
            _ => self.inner.remove(&(address, length)),
        };
        self.count -= usize::from(old.is_some());
        old
    }

    /// The value of the longest prefix around this one; the default route is none of them.
    pub fn around(&self, number: Number) -> Option<u32> {
        let mut around = number.parent()?;
        while around.length() > 0 {
            if self.has(around) {
                return self.values.get(&around.0).copied();
            }
            around = around.parent()?;
        }
        None
    }

    /// The same for the addresses of a /24 with longer prefixes in it, where these are not.
    pub fn around_inner(&self, at: u32) -> Option<u32> {
        let whole = Number::of(at << 8, SHORT);
        if self.has(whole) { self.inner.get(&(at << 8, SHORT)).copied() } else { self.around(whole) }
    }

    /// Prefixes longer than /24 in a /24, outer ones before those within them: address, length, value.
    pub fn inner(&self, at: u32) -> impl Iterator<Item = (u32, u8, u32)> {
        let all = self.inner.range(of_slot(at)).filter(|((_, length), _)| *length > SHORT);
        all.map(|((address, length), value)| (*address, *length, *value))
    }

    /// The first /24 of these that has longer prefixes in it.
    pub fn first_with_inner(&self, slots: Range<u32>) -> Option<u32> {
        // The last of them may be the last of all.
        let (first, last) = (slots.start, slots.end.checked_sub(1).filter(|last| *last >= slots.start)?);
        let found = self.inner.range(*of_slot(first).start()..=*of_slot(last).end());
        found.map(|((address, _), _)| address >> 8).next()
    }

    /// Gives all /24s of a prefix that no longer prefix of at most 24 bits has, in order.
    pub fn free(&self, number: Number, each: &mut impl FnMut(Range<u32>)) {
        let mut longer = (1..=SHORT - number.length()).rev();
        if !longer.any(|longer| self.has_any(number.within(longer))) {
            return each(number.slots());
        }
        for half in number.halves() {
            if !self.has(half) {
                self.free(half, each);
            }
        }
    }

    /// Whether one of these numbers is present. There is at least one.
    fn has_any(&self, numbers: Range<u32>) -> bool {
        let (first, last) = (numbers.start, numbers.end - 1);
        let words = &self.present[(first / WORD) as usize..=(last / WORD) as usize];
        let (below, above) = (u64::MAX << (first % WORD), u64::MAX >> (WORD - 1 - last % WORD));
        match words {
            [one] => one & below & above != 0,
            [first, middle @ .., last] => {
                first & below != 0 || last & above != 0 || middle.iter().any(|word| *word != 0)
            }
            [] => false,
        }
    }
}

/// Keys of what is in a /24, itself included.
fn of_slot(at: u32) -> std::ops::RangeInclusive<(u32, u8)> {
    (at << 8, SHORT)..=(at << 8 | 255, u32::BITS as u8)
}

#[cfg(test)]
mod tests {
    use super::super::lpm::Address;
    use super::super::test_routes::ipv4_prefix;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_those_of_a_tree() {
        assert_eq!([Number::of(0, 0), Number::of(u32::MAX, 0)], [Number(1); 2]);
        assert_eq!([Number::of(0, 1), Number::of(1 << 31, 1)], Number(1).halves());
        assert_eq!(Number::of(0x0a01_0200, 24).slots(), 0x0a_0102..0x0a_0103);
        assert_eq!(Number::of(0x0a00_0000, 8).slots(), 0x0a_0000..0x0b_0000);
        assert_eq!(Number::of(0, 0).slots(), 0..1 << 24);
        assert_eq!(Number::of(u32::MAX, 24).slots(), (1 << 24) - 1..1 << 24);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn equals_a_sorted_map(edits in prop::collection::vec((ipv4_prefix(), any::<bool>()), 1..120)) {
            let mut prefixes = Prefixes::default();
            // The twin: all of them, sorted.
            let mut plain: BTreeMap<(u32, u8), u32> = BTreeMap::new();
            for ((address, length, value), is_inserted) in edits {
                let address = address.range(length).0;
                let slot = |at: u32| plain[&(at << 8, SHORT)];
                if is_inserted {
                    let old = prefixes.insert(address, length, value, slot);
                    prop_assert_eq!(old, plain.insert((address, length), value));
                } else {
                    let old = prefixes.remove(address, length, slot);
                    prop_assert_eq!(old, plain.remove(&(address, length)));
                }
                prop_assert_eq!(prefixes.len(), plain.len());
                // What is around, in and beside it.
                let covers = |outer: &(u32, u8), inner: (u32, u8)| outer.1 < inner.1 && inner.0.range(outer.1).0 == outer.0;
                let around = |of: (u32, u8)| {
                    let outer = plain.iter().filter(|(outer, _)| outer.1 > 0 && covers(outer, of));
                    outer.max_by_key(|(outer, _)| outer.1).map(|(_, value)| *value)
                };
                let at = address >> 8;
                let inner: Vec<(u32, u8, u32)> =
                    plain.iter().filter(|((a, l), _)| a >> 8 == at && *l > SHORT).map(|((a, l), v)| (*a, *l, *v)).collect();
                prop_assert_eq!(prefixes.inner(at).collect::<Vec<_>>(), inner.clone());
                if !inner.is_empty() {
                    prop_assert_eq!(prefixes.around_inner(at), around((at << 8, SHORT + 1)));
                }
                if length <= SHORT {
                    let number = Number::of(address, length);
                    prop_assert_eq!(prefixes.around(number), around((address, length)));
                    // Few enough to be looked at one by one.
                    if length >= 14 {
                        let is_free = |at: &u32| !plain.keys().any(|p| p.1 > length && p.1 <= SHORT && (at << 8).range(p.1).0 == p.0);
                        let mut free = Vec::new();
                        prefixes.free(number, &mut |range| free.extend(range));
                        prop_assert_eq!(free, number.slots().filter(is_free).collect::<Vec<_>>());
                    }
                    let first = plain.keys().filter(|p| p.1 > SHORT && number.slots().contains(&(p.0 >> 8))).map(|p| p.0 >> 8).min();
                    // A /24 that had longer ones in it may still be found.
                    let found = prefixes.first_with_inner(number.slots());
                    prop_assert!(found == first || found.is_some_and(|found| plain.contains_key(&(found << 8, SHORT))));
                }
            }
        }
    }
}
