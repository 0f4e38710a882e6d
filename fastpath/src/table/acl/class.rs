//! Classes: the partition of a field's values that no rule can split further.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{AddressRange, IcmpMatch, L4Match, PortRange, SideMatch};
use crate::header::protocol;

/// Addresses by the nets and sets that contain them.
#[derive(Debug)]
pub(super) struct AddressClasses {
    /// Where the class changes: sorted, first is 0.
    starts: Vec<u128>,
    classes: Vec<u32>,
    /// Per class, the sorted ids of the nets and sets that contain it.
    members: Vec<Vec<u32>>,
    net_ids: HashMap<AddressRange, u32>,
    /// The id of the first set; sets are numbered behind the nets.
    first_set: u32,
}

impl Default for AddressClasses {
    fn default() -> Self {
        Self::build(std::iter::empty(), &[])
    }
}

impl AddressClasses {
    pub(super) fn build(nets: impl Iterator<Item = AddressRange>, sets: &[Vec<AddressRange>]) -> Self {
        let nets: BTreeSet<AddressRange> = nets.collect();
        let net_ids: HashMap<AddressRange, u32> = nets.iter().copied().zip(0..).collect();
        let first_set = nets.len() as u32;
        let of_nets = nets.iter().map(|net| (*net, net_ids[net]));
        let of_sets = sets.iter().zip(first_set..).flat_map(|(set, id)| set.iter().map(move |range| (*range, id)));
        // At an address, which ids begin (+1) and which have ended (-1).
        let mut edges: BTreeMap<u128, Vec<(u32, i32)>> = BTreeMap::new();
        for ((first, last), id) in of_nets.chain(of_sets) {
            edges.entry(first).or_default().push((id, 1));
            if let Some(after) = last.checked_add(1) {
                edges.entry(after).or_default().push((id, -1));
            }
        }
        edges.entry(0).or_default();

        let mut result = Self { starts: Vec::new(), classes: Vec::new(), members: Vec::new(), net_ids, first_set };
        let mut interned: HashMap<Vec<u32>, u32> = HashMap::new();
        // Ranges of one set may overlap, so an id is open as long as any of its ranges is.
        let mut open: BTreeMap<u32, i32> = BTreeMap::new();
        for (start, changes) in edges {
            for (id, change) in changes {
                let count = open.entry(id).or_insert(0);
                *count += change;
                if *count == 0 {
                    open.remove(&id);
                }
            }
            let ids: Vec<u32> = open.keys().copied().collect();
            let class = *interned.entry(ids).or_insert_with_key(|ids| {
                result.members.push(ids.clone());
                result.members.len() as u32 - 1
            });
            if result.classes.last() != Some(&class) {
                result.starts.push(start);
                result.classes.push(class);
            }
        }
        result
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    #[inline]
    pub(super) fn class(&self, address: u128) -> u32 {
        self.classes[self.starts.partition_point(|start| *start <= address) - 1]
    }

    /// The test that a side's addresses put to a class.
    pub(super) fn condition(&self, side: &SideMatch) -> Option<impl Fn(u32) -> bool + use<'_>> {
        let SideMatch { nets, never, not_nets, sets, not_sets, .. } = side;
        if !never && nets.is_empty() && not_nets.is_empty() && sets.is_empty() && not_sets.is_empty() {
            return None;
        }
        let net_ids = |nets: &[AddressRange]| -> Vec<u32> { nets.iter().map(|net| self.net_ids[net]).collect() };
        let set_ids = |sets: &[usize]| -> Vec<u32> { sets.iter().map(|set| self.first_set + *set as u32).collect() };
        let (never, nets, not_nets) = (*never, net_ids(nets), net_ids(not_nets));
        let (sets, not_sets) = (set_ids(sets), set_ids(not_sets));
        Some(move |class: u32| {
            let members = &self.members[class as usize];
            let is_member = |id: &u32| members.binary_search(id).is_ok();
            !never
                && (nets.is_empty() || nets.iter().any(is_member))
                && !not_nets.iter().any(is_member)
                && sets.iter().all(is_member)
                && !not_sets.iter().any(is_member)
        })
    }
}

/// Ports by the ranges that contain them.
#[derive(Debug)]
pub(super) struct PortClasses {
    /// First port of each class; a class is a run of ports.
    starts: Vec<u16>,
    table: Vec<u16>,
}

impl Default for PortClasses {
    fn default() -> Self {
        Self::build(std::iter::empty())
    }
}

impl PortClasses {
    pub(super) fn build(ranges: impl Iterator<Item = PortRange>) -> Self {
        let mut starts = BTreeSet::from([0u16]);
        for (first, last) in ranges {
            starts.insert(first);
            starts.extend(last.checked_add(1));
        }
        let starts: Vec<u16> = starts.into_iter().collect();
        let mut table = vec![0u16; 1 << 16];
        for (class, pair) in starts.iter().enumerate() {
            table[usize::from(*pair)..].fill(class as u16);
        }
        Self { starts, table }
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    #[inline(always)]
    pub(super) fn class(&self, port: u16) -> u32 {
        u32::from(self.table[usize::from(port)])
    }

    /// The test that a side's ports put to a class.
    pub(super) fn condition(&self, side: &SideMatch) -> Option<impl Fn(u32) -> bool + use<'_>> {
        if side.ports.is_empty() && side.not_ports.is_empty() {
            return None;
        }
        let (ports, not_ports) = (side.ports.clone(), side.not_ports.clone());
        Some(move |class: u32| {
            let port = self.starts[class as usize];
            let is_inside = |range: &PortRange| range.0 <= port && port <= range.1;
            (ports.is_empty() || ports.iter().any(is_inside)) && !not_ports.iter().any(is_inside)
        })
    }
}

/// Family, protocol, ICMP type and code, by the conditions that hold for them.
#[derive(Debug)]
pub(super) struct L4Classes {
    /// By family and protocol; for ICMP only when no rule looks at types.
    protocols: Vec<u16>,
    /// ICMP and ICMPv6, by type and code; empty when no rule looks at types.
    icmp: [Vec<u16>; 2],
    /// One packet of each class.
    samples: Vec<Sample>,
}

type Sample = (bool, u8, Option<(u8, u8)>);

impl Default for L4Classes {
    fn default() -> Self {
        Self::build(std::iter::empty())
    }
}

impl L4Classes {
    pub(super) fn build(matches: impl Iterator<Item = L4Match>) -> Self {
        let matches: BTreeSet<L4Match> = matches.collect();
        let mut interned: HashMap<Vec<bool>, u16> = HashMap::new();
        let mut samples: Vec<Sample> = Vec::new();
        let mut class_of = |sample: Sample| {
            let holds = matches.iter().map(|m| m.holds(sample.0, sample.1, sample.2)).collect();
            *interned.entry(holds).or_insert_with(|| {
                samples.push(sample);
                samples.len() as u16 - 1
            })
        };
        let mut protocols = Vec::with_capacity(512);
        for is_ipv4 in [false, true] {
            for number in 0..=255 {
                protocols.push(class_of((is_ipv4, number, None)));
            }
        }
        let mentioned: BTreeSet<IcmpMatch> = matches.iter().flat_map(|m| [m.icmp, m.not_icmp]).flatten().collect();
        let icmp = [(false, protocol::ICMPV6), (true, protocol::ICMP)].map(|(is_ipv4, number)| {
            if mentioned.is_empty() {
                return Vec::new();
            }
            // A type that no rule mentions behaves like any other such type.
            let mut unmentioned = None;
            let mut table = Vec::with_capacity(1 << 16);
            for kind in 0..=255u8 {
                for code in 0..=255u8 {
                    let class = if mentioned.iter().any(|m| m.kind == kind) {
                        class_of((is_ipv4, number, Some((kind, code))))
                    } else {
                        *unmentioned.get_or_insert_with(|| class_of((is_ipv4, number, Some((kind, code)))))
                    };
                    table.push(class);
                }
            }
            table
        });
        Self { protocols, icmp, samples }
    }

    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    #[inline]
    pub(super) fn class(&self, is_ipv4: bool, number: u8, icmp: Option<(u8, u8)>) -> u32 {
        let family = usize::from(is_ipv4);
        if let (Some((kind, code)), table) = (icmp, &self.icmp[family])
            && !table.is_empty()
        {
            return u32::from(table[usize::from(kind) << 8 | usize::from(code)]);
        }
        u32::from(self.protocols[family << 8 | usize::from(number)])
    }

    /// The test that a rule's protocol part puts to a class.
    pub(super) fn condition(&self, wanted: L4Match) -> Option<impl Fn(u32) -> bool + use<'_>> {
        if wanted == L4Match::default() {
            return None;
        }
        Some(move |class: u32| {
            let (is_ipv4, number, icmp) = self.samples[class as usize];
            wanted.holds(is_ipv4, number, icmp)
        })
    }
}
