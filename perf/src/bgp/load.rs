//! Routes to be told, as messages that only have to be sent: sets of attributes with a few prefixes each, as the public network has.

use std::net::Ipv4Addr;

use super::wire::{self, Attributes, Prefix};
use crate::random::Random;
use crate::route_sets;

/// Prefixes of a set: one more than a number that is `MORE` on average.
const MORE: f64 = 4.8;
const MOST: usize = 200;

/// So many prefixes of the public network, in no order.
pub fn prefixes(count: usize) -> Vec<Prefix> {
    // Some more, because a speaker takes no route to itself: 127.0.0.0/8.
    let all = route_sets::public_ipv4(count + count / 50 + 16);
    let usable = all.iter().filter(|(address, length, _)| *length > 0 && address >> 24 != 127);
    usable.take(count).map(|(address, length, _)| (*address, *length)).collect()
}

/// Who tells them.
#[derive(Clone, Copy, Debug)]
pub struct Teller {
    pub address: Ipv4Addr,
    /// The first of every path; none: the teller is in the system that it tells them to.
    pub as_number: Option<u32>,
}

/// All UPDATEs about these prefixes, one after the other, and an end. Also how many sets there were.
pub fn updates(prefixes: &[Prefix], teller: Teller, seed: u64) -> (Vec<u8>, usize) {
    let mut random = Random::new(seed);
    let mut bytes = Vec::new();
    let mut sets = 0;
    let mut left = prefixes;
    while !left.is_empty() {
        // Many of one, few of many: the exponential distribution.
        let share = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let size = 1 + (-MORE * (1.0 - share).ln()).round() as usize;
        let (set, rest) = left.split_at(size.min(MOST).min(left.len()));
        wire::update(&mut bytes, &attributes(teller, &mut random), set);
        sets += 1;
        left = rest;
    }
    wire::end_of_rib(&mut bytes);
    (bytes, sets)
}

fn attributes(teller: Teller, random: &mut Random) -> Attributes {
    let length = 1 + random.below(4) + random.below(3);
    let further: Vec<u32> = (0..length).map(|_| 1000 + random.below(60_000) as u32).collect();
    let communities = if random.below(2) == 0 { 0 } else { 1 + random.below(6) };
    Attributes {
        as_path: teller.as_number.into_iter().chain(further).collect(),
        next_hop: teller.address,
        med: (random.below(3) == 0).then(|| random.below(200) as u32),
        local_pref: teller.as_number.is_none().then_some(100),
        communities: (0..communities)
            .map(|_| (3356 + random.below(50) as u32) << 16 | random.below(3000) as u32)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_prefixes_are_told_once_in_sets_of_a_few() {
        let prefixes = prefixes(50_000);
        assert_eq!(prefixes.len(), 50_000);
        let teller = Teller { address: Ipv4Addr::new(10, 99, 1, 1), as_number: Some(65001) };
        let (bytes, sets) = updates(&prefixes, teller, 1);
        let mut walker = wire::Walker::default();
        walker.walk(&bytes, &mut |_| {}).unwrap();
        assert_eq!(walker.seen.reachable, 50_000);
        let each = 50_000.0 / sets as f64;
        assert!((5.3..6.3).contains(&each), "{each} prefixes of a set");
    }
}
