//! Sets and tables of prefixes, for questions that are asked once per route and peer.
//!
//! ```text
//!   set     networks that lie in no other, by their first address     10.0.0.0-10.0.0.255 | 10.2.0.0-10.2.255.255 | …
//!           one search by halving: does the last that begins before us end after us?
//!   table   (network, value), and which lengths there are             one search by halving per length
//! ```
//!
//! Invariants: networks of a set are disjoint and in order; a table has every network once, without host bits, and all
//! lengths of its networks. Built once, never changed; equal sets are equal values.
//! Left out: removal, and the nearest of several.

use std::net::IpAddr;

use config::net::{Cidr, IpVersion};

/// Networks, and whether something lies in one of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PrefixSet {
    v4: Box<[Range<u32>]>,
    v6: Box<[Range<u128>]>,
}

/// First and last address.
type Range<T> = (T, T);

impl PrefixSet {
    /// The prefix is one of the networks, or inside one.
    pub fn covers(&self, prefix: &Span) -> bool {
        match *prefix {
            Span::V4(range) => covers(&self.v4, range),
            Span::V6(range) => covers(&self.v6, range),
        }
    }
}

impl FromIterator<Cidr> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = Cidr>>(networks: I) -> PrefixSet {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match Span::of(network) {
                Span::V4(range) => v4.push(range),
                Span::V6(range) => v6.push(range),
            }
        }
        PrefixSet { v4: outermost(v4), v6: outermost(v6) }
    }
}

/// A network as its addresses: worked out once, asked of many sets.
#[derive(Debug, Clone, Copy)]
pub enum Span {
    V4(Range<u32>),
    V6(Range<u128>),
}

impl Span {
    pub fn of(network: Cidr) -> Span {
        let length = u32::from(network.length());
        match network.address() {
            IpAddr::V4(address) => {
                let rest = u32::MAX.checked_shr(length).unwrap_or(0);
                let first = address.to_bits() & !rest;
                Span::V4((first, first | rest))
            }
            IpAddr::V6(address) => {
                let rest = u128::MAX.checked_shr(length).unwrap_or(0);
                let first = address.to_bits() & !rest;
                Span::V6((first, first | rest))
            }
        }
    }
}

fn covers<T: Ord + Copy>(ranges: &[Range<T>], (first, last): Range<T>) -> bool {
    let after = ranges.partition_point(|(start, _)| *start <= first);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, end)| *end >= last)
}

/// Two networks are disjoint, or one lies in the other: the one that begins first or, of those, ends last has the others.
fn outermost<T: Ord + Copy>(mut ranges: Vec<Range<T>>) -> Box<[Range<T>]> {
    ranges.sort_by(|left, right| left.0.cmp(&right.0).then(right.1.cmp(&left.1)));
    let mut kept: Vec<Range<T>> = Vec::new();
    for range in ranges {
        if kept.last().is_none_or(|(_, end)| *end < range.1) {
            kept.push(range);
        }
    }
    kept.into()
}

/// Values of networks, and which of them a prefix is inside of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PrefixTable<V> {
    entries: Box<[(Cidr, V)]>,
    /// Of IPv4 and IPv6, the shortest first.
    lengths: [Box<[u8]>; 2],
}

impl<V> Default for PrefixTable<V> {
    fn default() -> PrefixTable<V> {
        PrefixTable { entries: Box::default(), lengths: [Box::default(), Box::default()] }
    }
}

impl<V> PrefixTable<V> {
    /// Of entries with the same network the values are joined.
    pub fn new(entries: impl IntoIterator<Item = (Cidr, V)>, join: impl Fn(&mut V, V)) -> PrefixTable<V> {
        let mut sorted: Vec<(Cidr, V)> =
            entries.into_iter().map(|(network, value)| (network.masked(), value)).collect();
        // The sort keeps the order of equals.
        sorted.sort_by_key(|(network, _)| *network);
        let mut joined: Vec<(Cidr, V)> = Vec::with_capacity(sorted.len());
        for (network, value) in sorted {
            match joined.last_mut() {
                Some((last, kept)) if *last == network => join(kept, value),
                _ => joined.push((network, value)),
            }
        }
        let lengths = IpVersion::BOTH.map(|version| {
            let of_version = joined.iter().filter(|(network, _)| network.version() == version);
            let mut lengths: Vec<u8> = of_version.map(|(network, _)| network.length()).collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths.into()
        });
        PrefixTable { entries: joined.into(), lengths }
    }

    /// The values of all networks that the prefix is, or is inside of; the shortest first.
    pub fn covering(&self, prefix: Cidr) -> impl Iterator<Item = &V> {
        let [v4, v6] = &self.lengths;
        let lengths = if prefix.is_ipv4() { v4 } else { v6 };
        let networks = lengths.iter().take_while(move |length| **length <= prefix.length());
        networks.filter_map(move |length| self.get(Cidr::new(prefix.address(), *length)?.masked()))
    }

    fn get(&self, network: Cidr) -> Option<&V> {
        let at = self.entries.binary_search_by_key(&network, |(own, _)| *own).ok()?;
        self.entries.get(at).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Close together, so that many lie in others.
    fn cidr() -> impl Strategy<Value = Cidr> {
        prop_oneof![
            (any::<bool>(), 0..64u32, 0..=32u8).prop_map(|(is_high, bits, length)| {
                let address = if is_high { u32::MAX << 6 | bits } else { bits << 26 };
                Cidr::new(std::net::Ipv4Addr::from_bits(address).into(), length).unwrap()
            }),
            (0..64u128, prop_oneof![0..8u8, 120..=128u8]).prop_map(|(bits, length)| {
                Cidr::new(std::net::Ipv6Addr::from_bits(bits << 122 | bits).into(), length).unwrap()
            }),
        ]
    }

    fn is_in(prefix: Cidr, network: Cidr) -> bool {
        network.length() <= prefix.length() && network.contains(prefix.address())
    }

    proptest! {
        #[test]
        fn sets_and_tables_find_what_a_walk_finds(
            networks in proptest::collection::vec(cidr(), 0..24),
            prefixes in proptest::collection::vec(cidr(), 1..24),
        ) {
            let set: PrefixSet = networks.iter().copied().collect();
            let entries = networks.iter().enumerate().map(|(number, network)| (*network, vec![number]));
            let table = PrefixTable::new(entries, |all, more| all.extend(more));
            for prefix in prefixes.iter().chain(&networks) {
                let walked: Vec<usize> = (0..networks.len()).filter(|at| is_in(*prefix, networks[*at])).collect();
                prop_assert_eq!(set.covers(&Span::of(*prefix)), !walked.is_empty());
                let mut found: Vec<usize> = table.covering(*prefix).flatten().copied().collect();
                found.sort_unstable();
                prop_assert_eq!(found, walked);
            }
        }
    }

    #[test]
    fn neighbours_are_not_their_sum() {
        let set: PrefixSet = ["10.0.0.0/25", "10.0.0.128/25"].map(|text| text.parse().unwrap()).into_iter().collect();
        let check =
            |prefix: &str, expected| assert_eq!(set.covers(&Span::of(prefix.parse().unwrap())), expected, "{prefix}");
        check("10.0.0.128/25", true);
        check("10.0.0.255/32", true);
        check("10.0.0.0/24", false);
        check("0.0.0.0/0", false);
        check("::/0", false);
    }
}
