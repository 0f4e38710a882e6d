//! What is known about a route: the path attributes, in the order and form that the decision wants them.
//!
//! One value is shared by all routes that have it. Equal attributes are equal values, whatever order and flags they came in.
//!
//! Sources: RFC 4271 §5, RFC 4456 §8, RFC 1997, RFC 4360, RFC 8092, RFC 5701, RFC 9234 §5.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Attribute type codes.
pub mod code {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MULTI_EXIT_DISC: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH_NLRI: u8 = 14;
    pub const MP_UNREACH_NLRI: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const TUNNEL_ENCAPSULATION: u8 = 23;
    pub const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    pub const AIGP: u8 = 26;
    pub const LARGE_COMMUNITIES: u8 = 32;
    pub const ONLY_TO_CUSTOMER: u8 = 35;
    pub const PREFIX_SID: u8 = 40;
}

/// Well-known communities (RFC 1997, RFC 9494).
pub mod community {
    pub const NO_EXPORT: u32 = 0xffff_ff01;
    pub const NO_ADVERTISE: u32 = 0xffff_ff02;
    pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
    pub const LLGR_STALE: u32 = 0xffff_0006;
    pub const NO_LLGR: u32 = 0xffff_0007;
}

/// What is said about a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attributes {
    pub origin: Origin,
    pub as_path: AsPath,
    pub next_hop: NextHop,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub atomic_aggregate: bool,
    pub aggregator: Option<Aggregator>,
    /// Sorted, each once.
    pub communities: Box<[u32]>,
    /// Sorted, each once.
    pub extended_communities: Box<[[u8; 8]]>,
    /// Sorted, each once.
    pub large_communities: Box<[(u32, u32, u32)]>,
    pub originator_id: Option<Ipv4Addr>,
    /// The nearest first.
    pub cluster_list: Box<[Ipv4Addr]>,
    /// RFC 9234.
    pub only_to_customer: Option<u32>,
    /// Optional transitive ones that we do not know: to be passed on. By code.
    pub others: Box<[OtherAttribute]>,
    /// What a peer said, where import rules made this of it: routes with the same attributes have that in common nearly always.
    /// None in what is told.
    pub received: Option<Arc<Attributes>>,
}

impl Attributes {
    /// Those of a route of this node.
    pub fn local(next_hop: IpAddr) -> Attributes {
        Attributes {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop: NextHop { address: next_hop, link_local: None },
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Box::default(),
            extended_communities: Box::default(),
            large_communities: Box::default(),
            originator_id: None,
            cluster_list: Box::default(),
            only_to_customer: None,
            others: Box::default(),
            received: None,
        }
    }

    pub fn has_community(&self, community: u32) -> bool {
        self.communities.contains(&community)
    }
}

/// Lower is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    Igp,
    Egp,
    Incomplete,
}

/// Where packets go next. The link-local address is used when it is there and the peer is on the link (RFC 2545 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    pub address: IpAddr,
    pub link_local: Option<Ipv6Addr>,
}

/// Who formed the aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Aggregator {
    pub as_number: u32,
    pub router_id: Ipv4Addr,
}

/// The systems that a route went through, the nearest first. Numbers of four octets, whoever said them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct AsPath {
    pub segments: Box<[Segment]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Segment {
    pub kind: SegmentKind,
    pub numbers: Box<[u32]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    Set,
    Sequence,
    /// RFC 5065.
    ConfederationSequence,
    ConfederationSet,
}

impl SegmentKind {
    pub fn is_confederation(self) -> bool {
        matches!(self, SegmentKind::ConfederationSequence | SegmentKind::ConfederationSet)
    }
}

impl AsPath {
    /// A path of one sequence.
    pub fn sequence(numbers: impl Into<Box<[u32]>>) -> AsPath {
        let numbers = numbers.into();
        if numbers.is_empty() {
            return AsPath::default();
        }
        AsPath { segments: Box::new([Segment { kind: SegmentKind::Sequence, numbers }]) }
    }

    /// As the decision counts: a set is one, confederations none. RFC 4271 §9.1.2.2 a, RFC 5065 §5.3.
    pub fn length(&self) -> usize {
        let count = |segment: &Segment| match segment.kind {
            SegmentKind::Sequence => segment.numbers.len(),
            SegmentKind::Set => 1,
            SegmentKind::ConfederationSequence | SegmentKind::ConfederationSet => 0,
        };
        self.segments.iter().map(count).sum()
    }

    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.segments.iter().flat_map(|segment| segment.numbers.iter().copied())
    }

    /// The system that the route came from: the first of the first sequence.
    pub fn neighbour(&self) -> Option<u32> {
        let first = self.segments.iter().find(|segment| !segment.kind.is_confederation())?;
        if first.kind == SegmentKind::Sequence { first.numbers.first().copied() } else { None }
    }

    /// The system that the route began in, if one.
    pub fn origin(&self) -> Option<u32> {
        let last = self.segments.last()?;
        if last.kind == SegmentKind::Sequence { last.numbers.last().copied() } else { None }
    }

    /// Without what is a confederation's own, as others are told. RFC 5065 §4.
    pub fn without_confederation(self) -> AsPath {
        if !self.segments.iter().any(|segment| segment.kind.is_confederation()) {
            return self;
        }
        AsPath { segments: self.segments.into_iter().filter(|segment| !segment.kind.is_confederation()).collect() }
    }

    /// With these in front; a segment holds at most 255. RFC 4271 §5.1.2.
    pub fn prepended(&self, numbers: &[u32]) -> AsPath {
        if numbers.is_empty() {
            return self.clone();
        }
        let mut front = numbers.to_vec();
        let mut rest = &self.segments[..];
        if let [first, others @ ..] = rest
            && first.kind == SegmentKind::Sequence
        {
            front.extend(first.numbers.iter());
            rest = others;
        }
        // Only the foremost may be short, so that equal paths are equal values.
        let short = front.len() % SEGMENT_MAX;
        let (short, full) = front.split_at(short);
        let pieces = (!short.is_empty()).then_some(short).into_iter().chain(full.chunks(SEGMENT_MAX));
        let pieces = pieces.map(|numbers| Segment { kind: SegmentKind::Sequence, numbers: numbers.into() });
        AsPath { segments: pieces.chain(rest.iter().cloned()).collect() }
    }
}

/// Numbers in one segment: the count is one octet.
const SEGMENT_MAX: usize = 255;

/// An attribute that is passed on as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OtherAttribute {
    pub code: u8,
    pub value: Box<[u8]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_counted_and_prepended() {
        let set = Segment { kind: SegmentKind::Set, numbers: Box::new([7, 8]) };
        let path = AsPath { segments: Box::new([set]) };
        assert_eq!(path.length(), 1);
        assert_eq!((path.neighbour(), path.origin()), (None, None));
        let path = path.prepended(&[1]);
        assert_eq!((path.length(), path.neighbour()), (2, Some(1)));
        let path = path.prepended(&[2, 3]);
        assert_eq!(path.segments[0].numbers[..], [2, 3, 1]);
        let long = AsPath::sequence(vec![9; 254]).prepended(&[1, 2, 3]);
        let lengths: Vec<usize> = long.segments.iter().map(|segment| segment.numbers.len()).collect();
        assert_eq!((lengths, long.length(), long.neighbour(), long.origin()), (vec![2, 255], 257, Some(1), Some(9)));
        assert_eq!(AsPath::sequence(vec![]), AsPath::default());
    }
}
