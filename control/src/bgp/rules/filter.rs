//! BGPFilters as they are asked: the rules of all filters of a peer in one list, of which the first that matches is final.
//!
//! A rule matches when all its conditions do. Where there are many rules, those that name networks are found by the prefix;
//! the others are tried one after the other:
//!
//! ```text
//!   prefix ──▶ table of networks ──▶ numbers of rules ─┐
//!              rules without network (by number) ──────┴─▶ the least number that matches
//! ```
//!
//! Preferences: Calico writes the metric of a route, and BGP carries 2147483647 - metric as the local preference.
//! Left out: the interface that a learned route leads to. Only routes of this node have one here.
//!
//! Sources: Calico's BGPFilter, and what confd makes of it for BIRD.

use std::fmt;
use std::sync::Arc;

use config::net::{Cidr, IpVersion};
use config::resource::{
    BgpFilter, BgpFilterAction, BgpFilterOperation, BgpFilterOperator, BgpFilterPeerType, BgpFilterRule, Community,
};

use super::prefixes::PrefixTable;
use super::{Candidate, Source};
use crate::bgp::attribute::{AsPath, Attributes, SegmentKind};
use crate::bgp::speaker_state::LocalRouteKind;

/// What a metric and its local preference come to together.
pub const PREFERENCE_SUM: u32 = 2_147_483_647;
/// What a route has that says nothing (RFC 4271 leaves it to us; BIRD's default).
pub const PREFERENCE_DEFAULT: u32 = 100;
/// Fewer rules than these are not worth a table.
const WALKED_MAX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Import,
    Export,
}

/// A route as rules see it.
pub struct Asked<'a> {
    pub prefix: Cidr,
    pub attributes: &'a Attributes,
    /// With the metric of a route of ours.
    pub preference: u32,
    pub is_learned: bool,
    pub is_static: bool,
    pub interface: Option<&'a str>,
    /// The peer is in our own system.
    pub internal: bool,
}

impl<'a> Asked<'a> {
    pub fn of(candidate: &Candidate<'a>, internal: bool) -> Asked<'a> {
        let Candidate { prefix, attributes, source } = *candidate;
        let (is_learned, is_static, interface) = match source {
            Source::Local { kind, interface, .. } => (false, kind == LocalRouteKind::Static, interface),
            Source::Peer { .. } => (true, false, None),
        };
        Asked { prefix, attributes, preference: preference(candidate), is_learned, is_static, interface, internal }
    }
}

/// The local preference of a route of ours comes from its metric; a learned one has what it came with.
pub fn preference(candidate: &Candidate<'_>) -> u32 {
    match candidate.source {
        Source::Local { metric, .. } => PREFERENCE_SUM.saturating_sub(metric),
        Source::Peer { .. } => candidate.attributes.local_pref.unwrap_or(PREFERENCE_DEFAULT),
    }
}

/// Rules of several filters, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FilterRules {
    rules: Box<[FilterRule]>,
    /// Rules by their network; none where there are few.
    by_network: Option<PrefixTable<Vec<u32>>>,
    /// The numbers of the others.
    anywhere: Box<[u32]>,
}

impl FilterRules {
    pub fn new(rules: Vec<FilterRule>) -> FilterRules {
        let numbered = || rules.iter().zip(0..);
        if rules.len() <= WALKED_MAX {
            return FilterRules { rules: rules.into(), by_network: None, anywhere: Box::default() };
        }
        let entries = numbered().filter_map(|(rule, number)| Some((rule.network()?, vec![number])));
        let by_network = PrefixTable::new(entries, |all, more| all.extend(more));
        let anywhere = numbered().filter(|(rule, _)| rule.network().is_none()).map(|(_, number)| number).collect();
        FilterRules { rules: rules.into(), by_network: Some(by_network), anywhere }
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The first rule that matches.
    pub fn first(&self, asked: &Asked<'_>) -> Option<&FilterRule> {
        let Some(by_network) = &self.by_network else {
            return self.rules.iter().find(|rule| rule.matches(asked));
        };
        let mut best: Option<(u32, &FilterRule)> = None;
        for numbers in by_network.covering(asked.prefix).map(Vec::as_slice).chain([&*self.anywhere]) {
            let worth = numbers.iter().take_while(|number| best.is_none_or(|(best, _)| **number < best));
            let mut rules = worth.filter_map(|number| Some((*number, self.rules.get(usize::try_from(*number).ok()?)?)));
            if let Some(found) = rules.find(|(_, rule)| rule.matches(asked)) {
                best = Some(found);
            }
        }
        best.map(|(_, rule)| rule)
    }
}

/// One rule, with nothing left to read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilterRule {
    /// `BGPFilter edge, importV4[2]`.
    pub name: Arc<str>,
    prefix: Option<PrefixMatch>,
    from_peers: bool,
    interface: Option<Box<str>>,
    peer_type: Option<BgpFilterPeerType>,
    community: Option<Community>,
    path_start: Box<[u32]>,
    preference: Option<u32>,
    pub accepts: bool,
    pub operations: Box<[Operation]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PrefixMatch {
    network: Cidr,
    is_exact: bool,
    is_negated: bool,
    least: u8,
    most: u8,
}

/// What is changed about a route that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    AddCommunity(Community),
    Prepend(Box<[u32]>),
    SetPreference(u32),
}

/// The rules of one direction and family.
pub fn rules_of(filter: &BgpFilter, direction: Direction, version: IpVersion) -> impl Iterator<Item = FilterRule> {
    let (list, rules) = written(filter, direction, version);
    let name = move |number| format!("BGPFilter {}, {list}[{number}]", filter.metadata.name);
    rules.iter().enumerate().map(move |(number, rule)| FilterRule::of(name(number), rule, version))
}

fn written(filter: &BgpFilter, direction: Direction, version: IpVersion) -> (&'static str, &[BgpFilterRule]) {
    match (direction, version) {
        (Direction::Import, IpVersion::V4) => ("importV4", &filter.spec.import_v4),
        (Direction::Import, IpVersion::V6) => ("importV6", &filter.spec.import_v6),
        (Direction::Export, IpVersion::V4) => ("exportV4", &filter.spec.export_v4),
        (Direction::Export, IpVersion::V6) => ("exportV6", &filter.spec.export_v6),
    }
}

impl FilterRule {
    fn of(name: String, rule: &BgpFilterRule, version: IpVersion) -> FilterRule {
        let operations = rule.operations.iter().flatten().filter_map(Operation::of).collect();
        FilterRule {
            name: name.into(),
            prefix: rule.cidr.map(|network| PrefixMatch::of(network, rule, version)),
            from_peers: rule.source.is_some(),
            interface: (!rule.interface.is_empty()).then(|| rule.interface.as_str().into()),
            peer_type: rule.peer_type,
            community: rule.communities.as_ref().and_then(|communities| communities.values.first().copied()),
            path_start: rule.as_path_prefix.iter().map(|number| number.0).collect(),
            preference: rule.priority.and_then(|priority| as_preference(priority.get())),
            accepts: rule.action == BgpFilterAction::Accept,
            operations,
        }
    }

    /// Rejects everything, in place of a filter that is not there.
    pub fn missing(filter: &str) -> FilterRule {
        FilterRule {
            name: format!("BGPFilter {filter}, which is not there").into(),
            prefix: None,
            from_peers: false,
            interface: None,
            peer_type: None,
            community: None,
            path_start: Box::default(),
            preference: None,
            accepts: false,
            operations: Box::default(),
        }
    }

    /// What a prefix has to lie in for the rule to match.
    fn network(&self) -> Option<Cidr> {
        self.prefix.filter(|prefix| !prefix.is_negated).map(|prefix| prefix.network)
    }

    pub fn matches(&self, asked: &Asked<'_>) -> bool {
        self.prefix.is_none_or(|prefix| prefix.matches(asked.prefix))
            && (!self.from_peers || asked.is_learned)
            && self.interface.as_ref().is_none_or(|pattern| asked.interface.is_some_and(|name| is_like(name, pattern)))
            && self.peer_type.is_none_or(|wanted| (wanted == BgpFilterPeerType::Internal) == asked.internal)
            && self.community.is_none_or(|community| has(asked.attributes, community))
            && starts_with(&asked.attributes.as_path, &self.path_start)
            && self.preference.is_none_or(|preference| preference == asked.preference)
    }

    /// The first condition that does not hold, for people. None: the rule matches.
    pub fn mismatch(&self, asked: &Asked<'_>) -> Option<String> {
        if let Some(wanted) = self.prefix.filter(|wanted| !wanted.matches(asked.prefix)) {
            return Some(format!("{} {wanted}", asked.prefix));
        }
        if self.from_peers && !asked.is_learned {
            return Some("the route is of this node and not from a peer".to_owned());
        }
        if let Some(pattern) = &self.interface {
            match asked.interface {
                None => return Some(format!("the route has no interface, and {pattern} is asked for")),
                Some(name) if !is_like(name, pattern) => return Some(format!("interface {name} is not {pattern}")),
                Some(_) => {}
            }
        }
        if let Some(wanted) = self.peer_type.filter(|wanted| (*wanted == BgpFilterPeerType::Internal) != asked.internal)
        {
            let actual = if asked.internal { "iBGP" } else { "eBGP" };
            return Some(format!("the peer is {actual} and not {wanted}"));
        }
        if let Some(community) = self.community.filter(|community| !has(asked.attributes, *community)) {
            return Some(format!("the route has no community {community}"));
        }
        if !starts_with(&asked.attributes.as_path, &self.path_start) {
            let wanted: Vec<String> = self.path_start.iter().map(u32::to_string).collect();
            return Some(format!("its AS path does not begin with {}", wanted.join(" ")));
        }
        let wanted = self.preference.filter(|preference| *preference != asked.preference)?;
        let metric = |preference: u32| PREFERENCE_SUM.saturating_sub(preference);
        Some(format!("its priority is {} and not {}", metric(asked.preference), metric(wanted)))
    }
}

impl PrefixMatch {
    fn of(network: Cidr, rule: &BgpFilterRule, version: IpVersion) -> PrefixMatch {
        let (is_exact, is_negated) = match rule.match_operator {
            Some(BgpFilterOperator::Equal) => (true, false),
            Some(BgpFilterOperator::NotEqual) => (true, true),
            Some(BgpFilterOperator::NotIn) => (false, true),
            // A network without an operator is refused where it is written.
            Some(BgpFilterOperator::In) | None => (false, false),
        };
        let length = rule.prefix_length.as_ref();
        PrefixMatch {
            network: network.masked(),
            is_exact,
            is_negated,
            least: length.and_then(|length| length.min).unwrap_or(0),
            most: length.and_then(|length| length.max).unwrap_or(version.address_bits()),
        }
    }

    fn matches(&self, prefix: Cidr) -> bool {
        let is_inside = self.network.length() <= prefix.length() && self.network.contains(prefix.address());
        let is_long = !self.is_exact || self.network.length() == prefix.length();
        let has_length = (self.least..=self.most).contains(&prefix.length());
        (is_inside && is_long && has_length) != self.is_negated
    }
}

/// What does not hold: `is not in 10.0.0.0/8`.
impl fmt::Display for PrefixMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.is_exact, self.is_negated) {
            (true, false) => "is not ",
            (true, true) => "is ",
            (false, false) => "is not in ",
            (false, true) => "is in ",
        })?;
        write!(f, "{}", self.network)?;
        match self.least > 0 || self.most < self.network.version().address_bits() {
            true => write!(f, " with length {}-{}", self.least, self.most),
            false => Ok(()),
        }
    }
}

impl Operation {
    fn of(written: &BgpFilterOperation) -> Option<Operation> {
        if let Some(add) = &written.add_community {
            return Some(Operation::AddCommunity(add.value));
        }
        if let Some(prepend) = &written.prepend_as_path {
            return Some(Operation::Prepend(prepend.prefix.iter().map(|number| number.0).collect()));
        }
        let set = written.set_priority.as_ref()?;
        as_preference(set.value.get()).map(Operation::SetPreference)
    }

    pub fn apply(&self, attributes: &mut Attributes) {
        match self {
            Operation::AddCommunity(community) => add_community(attributes, *community),
            Operation::Prepend(numbers) => attributes.as_path = attributes.as_path.prepended(numbers),
            Operation::SetPreference(preference) => attributes.local_pref = Some(*preference),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::AddCommunity(community) => write!(f, "community {community} is added"),
            Operation::Prepend(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
                write!(f, "{} is put before the AS path", numbers.join(" "))
            }
            Operation::SetPreference(preference) => {
                write!(f, "priority becomes {}", PREFERENCE_SUM.saturating_sub(*preference))
            }
        }
    }
}

fn as_preference(metric: i64) -> Option<u32> {
    u32::try_from(metric).ok().map(|metric| PREFERENCE_SUM.saturating_sub(metric))
}

fn standard(high: u16, low: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}

pub fn has(attributes: &Attributes, community: Community) -> bool {
    match community {
        Community::Standard(high, low) => attributes.has_community(standard(high, low)),
        Community::Large(a, b, c) => attributes.large_communities.contains(&(a, b, c)),
    }
}

/// Each once, in order.
pub fn add_community(attributes: &mut Attributes, community: Community) {
    match community {
        Community::Standard(high, low) => insert(&mut attributes.communities, standard(high, low)),
        Community::Large(a, b, c) => insert(&mut attributes.large_communities, (a, b, c)),
    }
}

fn insert<T: Ord + Copy>(values: &mut Box<[T]>, value: T) {
    if let Err(at) = values.binary_search(&value) {
        let mut all = std::mem::take(values).into_vec();
        all.insert(at, value);
        *values = all.into();
    }
}

/// A set stands for one step of the path, and is whichever of its numbers is asked for.
fn starts_with(path: &AsPath, wanted: &[u32]) -> bool {
    let mut wanted = wanted.iter();
    for segment in &path.segments {
        match segment.kind {
            SegmentKind::Sequence | SegmentKind::ConfederationSequence => {
                for number in &segment.numbers {
                    match wanted.next() {
                        Some(next) if next != number => return false,
                        Some(_) => {}
                        None => return true,
                    }
                }
            }
            SegmentKind::Set | SegmentKind::ConfederationSet => match wanted.next() {
                Some(next) if !segment.numbers.contains(next) => return false,
                Some(_) => {}
                None => return true,
            },
        }
    }
    wanted.next().is_none()
}

/// `*` stands for any text, also none.
pub fn is_like(name: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = rest.get(at.saturating_add(piece.len())..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests;
