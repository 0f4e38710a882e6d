//! Translation of a flow's source: what stands in place of it outside, and what of a packet that changes.
//!
//! ```text
//!   workload                                                     outside
//!   10.65.0.5:4000 ─▶ 198.51.100.7:53   forward: source       192.0.2.1:20011 ─▶ 198.51.100.7:53
//!   10.65.0.5:4000 ◀─ 198.51.100.7:53   reverse: destination  192.0.2.1:20011 ◀─ 198.51.100.7:53
//! ```
//!
//! A translated flow is entered under the key of its first packet, as any flow; its other direction under the key that
//! answers have, which is not the reversed one. So each packet is found by what it has in its headers when it comes in.
//!
//! The fragments of a datagram that are not its first have no ports and stand for one direction alone: their entry says which
//! end changes, and into which address.
//!
//! Invariants: a source keeps its number for the life of the table, so that what an entry says never changes its meaning.

use std::num::NonZeroU8;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::Key;
use super::table::Direction;

/// Addresses of the node that sources have been translated to since it started.
const SOURCES: usize = 255;

/// An address that sources are translated to: its place among [`Sources`], and 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SourceIndex(NonZeroU8);

impl SourceIndex {
    fn of_place(place: usize) -> Option<Self> {
        u8::try_from(place + 1).ok().and_then(NonZeroU8::new).map(Self)
    }

    fn place(self) -> usize {
        usize::from(self.0.get() - 1)
    }
}

/// What stands in place of a flow's source outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    pub source: SourceIndex,
    /// Of TCP and UDP the port; of ICMP echo the identifier.
    pub port: u16,
}

/// Which end of a packet is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Source,
    Destination,
}

/// What is written into a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replacement {
    pub end: End,
    /// IPv4 mapped.
    pub address: u128,
    /// Port or identifier; none in a fragment that is not the first.
    pub port: Option<u16>,
}

/// What an entry says of translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Translated {
    #[default]
    No,
    /// The flow's source.
    Flow(Translation),
    /// One end of the fragments of a datagram.
    Fragment(End, u128),
}

/// The word in which an entry keeps it: 0 for none, else what it is in the upper byte. A fragment's address stands elsewhere.
const FLOW: u32 = 1 << 24;
const FRAGMENT_SOURCE: u32 = 2 << 24;
const FRAGMENT_DESTINATION: u32 = 3 << 24;
const KIND: u32 = 0xff << 24;

impl Translated {
    pub(super) fn word(self) -> u32 {
        match self {
            Self::No => 0,
            Self::Flow(Translation { source, port }) => FLOW | u32::from(source.0.get()) << 16 | u32::from(port),
            Self::Fragment(End::Source, _) => FRAGMENT_SOURCE,
            Self::Fragment(End::Destination, _) => FRAGMENT_DESTINATION,
        }
    }

    /// `address` is that of a fragment's entry.
    pub(super) fn from_word(word: u32, address: u128) -> Self {
        match (word & KIND, NonZeroU8::new((word >> 16) as u8)) {
            (FLOW, Some(source)) => Self::Flow(Translation { source: SourceIndex(source), port: word as u16 }),
            (FRAGMENT_SOURCE, _) => Self::Fragment(End::Source, address),
            (FRAGMENT_DESTINATION, _) => Self::Fragment(End::Destination, address),
            _ => Self::No,
        }
    }
}

/// The addresses that sources are translated to, numbered for good. One adds, all read.
pub struct Sources {
    /// Upper and lower half of each.
    addresses: [[AtomicU64; 2]; SOURCES],
    count: AtomicUsize,
}

impl Default for Sources {
    fn default() -> Self {
        Self { addresses: std::array::from_fn(|_| Default::default()), count: AtomicUsize::new(0) }
    }
}

impl Sources {
    /// True as long as no address has been added.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// The number of an address, which gets one if it has none. For control alone. `None`: there are 255 others.
    pub fn add(&self, address: u128) -> Option<SourceIndex> {
        if let Some(known) = self.find(address) {
            return Some(known);
        }
        let place = self.count.load(Ordering::Relaxed);
        let [upper, lower] = self.addresses.get(place)?;
        upper.store((address >> 64) as u64, Ordering::Relaxed);
        lower.store(address as u64, Ordering::Relaxed);
        // Whoever counts it sees it.
        self.count.store(place + 1, Ordering::Release);
        SourceIndex::of_place(place)
    }

    /// Takes over another's numbers. Only as long as it has none of its own.
    pub fn copy_from(&self, other: &Sources) {
        for place in 0..other.count.load(Ordering::Acquire).min(SOURCES) {
            self.add(other.at(place));
        }
    }

    /// The number of an address, if it has one.
    pub fn find(&self, address: u128) -> Option<SourceIndex> {
        let count = self.count.load(Ordering::Acquire).min(SOURCES);
        (0..count).find(|place| self.at(*place) == address).and_then(SourceIndex::of_place)
    }

    /// The address of that number.
    pub fn address(&self, source: SourceIndex) -> u128 {
        self.at(source.place())
    }

    fn at(&self, place: usize) -> u128 {
        let Some([upper, lower]) = self.addresses.get(place) else { return 0 };
        u128::from(upper.load(Ordering::Relaxed)) << 64 | u128::from(lower.load(Ordering::Relaxed))
    }

    /// The key of a flow's packets in that direction, as they come in. `key` is that of its first packet.
    #[inline]
    pub(super) fn key_of(&self, key: &Key, translated: Translated, direction: Direction) -> Key {
        match (direction, translated) {
            (Direction::Forward, _) => *key,
            (Direction::Reverse, Translated::Flow(translation)) => self.answer(key, translation),
            (Direction::Reverse, _) => key.reversed(),
        }
    }

    /// The key that answers to a translated flow have.
    #[cold]
    #[inline(never)]
    pub fn answer(&self, key: &Key, translation: Translation) -> Key {
        self.outside(key, translation).reversed()
    }

    /// The key that a flow's first packet has after translation.
    fn outside(&self, key: &Key, translation: Translation) -> Key {
        Key { source: self.address(translation.source), source_port: translation.port, ..*key }
    }

    /// What is written into a flow's packets in that direction.
    pub(super) fn replacement(&self, key: &Key, translated: Translated, direction: Direction) -> Option<Replacement> {
        Some(match (translated, direction) {
            (Translated::No, _) => return None,
            (Translated::Flow(Translation { source, port }), Direction::Forward) => {
                Replacement { end: End::Source, address: self.address(source), port: Some(port) }
            }
            (Translated::Flow(_), Direction::Reverse) => {
                Replacement { end: End::Destination, address: key.source, port: Some(key.source_port) }
            }
            (Translated::Fragment(end, address), _) => Replacement { end, address, port: None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::key;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_source_has_one_number_and_keeps_it() {
        let sources = Sources::default();
        let numbers: Vec<_> = (1..=255).map(|address| sources.add(address).unwrap()).collect();
        assert_eq!(sources.add(256), None, "there is room for 255");
        for (address, number) in (1..).zip(numbers) {
            assert_eq!((sources.add(address), sources.find(address)), (Some(number), Some(number)));
            assert_eq!(sources.address(number), address);
        }
        assert_eq!(sources.find(0), None);
    }

    proptest! {
        #[test]
        fn a_word_keeps_what_it_says(place in 0usize..255, port: u16, address: u128, kind in 0..4) {
            let translated = match kind {
                0 => Translated::No,
                1 => Translated::Flow(Translation { source: SourceIndex::of_place(place).unwrap(), port }),
                2 => Translated::Fragment(End::Source, address),
                _ => Translated::Fragment(End::Destination, address),
            };
            prop_assert_eq!(Translated::from_word(translated.word(), address), translated);
        }

        #[test]
        fn an_answer_comes_back_to_who_asked(key in key(), address: u128, port: u16) {
            let sources = Sources::default();
            let translated = Translated::Flow(Translation { source: sources.add(address).unwrap(), port });
            let replace = |key: Key, direction| {
                let Replacement { end, address, port } = sources.replacement(&key, translated, direction).unwrap();
                let port = port.unwrap();
                match end {
                    End::Source => Key { source: address, source_port: port, ..key },
                    End::Destination => Key { destination: address, destination_port: port, ..key },
                }
            };
            // What goes out, turned round, is what comes in, ...
            let outside = replace(key, Direction::Forward);
            prop_assert_eq!(outside.reversed(), sources.key_of(&key, translated, Direction::Reverse));
            // ... and becomes the turned first packet.
            let back = sources.replacement(&key, translated, Direction::Reverse).unwrap();
            let inside = Key { destination: back.address, destination_port: back.port.unwrap(), ..outside.reversed() };
            prop_assert_eq!(inside, key.reversed());
        }
    }
}
