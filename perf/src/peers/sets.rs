//! Rules and keys in the form that `rte_acl` takes them, which is what `perf/peers/dpdk_tables.c` reads.
//!
//! The rules are those of [`crate::tables::policy`], all of which can be said: addresses as prefixes, ports as ranges, a protocol under
//! a mask. Of the keys one half matches a rule taken at random, unless one before it does, and one half only the last.

use fastpath::flow::MAPPED_PREFIX;
use fastpath::table::acl::{AclSpec, Question, RuleSpec, SideMatch};

use crate::random::Random;
use crate::route_sets::KEYS;
use crate::tables;

/// A rule as `rte_acl` takes it: addresses as prefixes, ports as ranges, and a protocol under a mask.
pub fn rule_words(rule: &RuleSpec) -> Option<[u32; 10]> {
    let plain = |side: &SideMatch| {
        !side.never
            && side.nets.len() <= 1
            && side.ports.len() <= 1
            && side.not_nets.is_empty()
            && side.sets.is_empty()
            && side.not_sets.is_empty()
            && side.named_ports.is_empty()
            && side.not_ports.is_empty()
            && side.not_named_ports.is_empty()
    };
    if !plain(&rule.source) || !plain(&rule.destination) || rule.l4.icmp.is_some() || rule.l4.not_protocol.is_some() {
        return None;
    }
    let net = |nets: &[(u128, u128)]| match nets.first() {
        Some((first, last)) => {
            let host_bits = (last - first + 1).ilog2();
            (*first as u32, 32 - host_bits)
        }
        None => (0, 0),
    };
    let ports = |ports: &[(u16, u16)]| match ports.first() {
        Some((first, last)) => (u32::from(*first), u32::from(*last)),
        None => (0, u32::from(u16::MAX)),
    };
    let ((source, source_length), (destination, destination_length)) =
        (net(&rule.source.nets), net(&rule.destination.nets));
    let (source_ports, destination_ports) = (ports(&rule.source.ports), ports(&rule.destination.ports));
    let (protocol, mask) = rule.l4.protocol.map_or((0, 0), |protocol| (u32::from(protocol), 0xff));
    Some([
        source,
        source_length,
        destination,
        destination_length,
        source_ports.0,
        source_ports.1,
        destination_ports.0,
        destination_ports.1,
        protocol,
        mask,
    ])
}

pub fn questions(spec: &AclSpec) -> Vec<Question> {
    let mut random = Random::new(3);
    let block = &spec.blocks[0];
    let mut question = |position: usize| {
        let rule = &block[random.below(block.len() as u64) as usize];
        let net = rule.source.nets.first().filter(|_| position.is_multiple_of(2));
        let source = match net {
            Some((first, last)) => first + u128::from(random.below((last - first + 1) as u64)),
            None => MAPPED_PREFIX | u128::from(tables::A_IPV4 | random.below(1 << 16) as u32),
        };
        Question {
            source,
            destination: MAPPED_PREFIX | u128::from(tables::B_IPV4 | random.below(1 << 16) as u32),
            is_ipv4: true,
            protocol: rule.l4.protocol.unwrap_or(17),
            source_port: random.next_u64() as u16,
            destination_port: rule.destination.ports.first().map_or(9, |(first, _)| *first),
            icmp: None,
        }
    };
    (0..KEYS).map(&mut question).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_can_be_said() {
        let spec = tables::policy(100);
        let words: Vec<_> = spec.blocks[0].iter().map(rule_words).collect();
        assert!(words.iter().all(Option::is_some));
        assert_eq!(words[99], Some([0, 0, 0, 0, 0, 65535, 0, 65535, 0, 0]));
    }
}
