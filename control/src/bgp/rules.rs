//! What is taken from a peer, and what is told to it: Calico's BGPFilters and built-in rules, as values.
//!
//! `desired` makes them, the speaker asks them, once per route and peer. Peers with equal rules can share what is told
//! (`Eq` and `Hash`). Nothing is allocated where nothing changes.
//!
//! ```text
//!   import   filters ─▶ accept
//!   export   metric ─▶ filters ─▶ pools that are not told ─▶ interfaces ─▶ communities ─▶ blocks ─▶ services ─▶ pools ─▶ reject
//! ```
//!
//! | file | what it knows |
//! |---|---|
//! | `filter.rs` | the rules of BGPFilters |
//! | `prefixes.rs` | sets and tables of prefixes |
//! | `explain.rs` | the same, in words |
//!
//! Sources: Calico's BGPFilter, and the filters that confd writes for BIRD; RFC 8212 for what happens without rules.

pub mod explain;
pub mod filter;
pub mod prefixes;

use std::borrow::Cow;
use std::sync::Arc;

use config::net::{Cidr, IpVersion};
use config::resource::Community;

use super::attribute::Attributes;
use super::speaker_state::LocalRouteKind;
use filter::{Asked, FilterRule, FilterRules, Operation, PREFERENCE_DEFAULT, PREFERENCE_SUM};
use prefixes::{PrefixSet, PrefixTable, Span};

/// A route that is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub prefix: Cidr,
    pub attributes: &'a Attributes,
    pub source: Source<'a>,
}

/// Where a route is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    Local {
        kind: LocalRouteKind,
        metric: u32,
        interface: Option<&'a str>,
    },
    /// Learned by BGP; internal: from our own system.
    Peer {
        internal: bool,
    },
}

/// What rules say.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgement {
    Accept,
    /// Accepted with other attributes.
    Change(Box<Attributes>),
    /// Why, for people.
    Reject(Cow<'static, str>),
}

/// What is taken from one peer. The default takes everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ImportRules {
    pub filters: Filters,
    /// Metrics of routes that have nothing special; zero: no route is better than one of this node.
    pub normal_priority_v4: u32,
    pub normal_priority_v6: u32,
}

/// The filters of one peer in one direction, and whether it has to have some.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Filters {
    pub v4: FilterRules,
    pub v6: FilterRules,
    /// A peer of another system that has no rules here says and is told nothing (RFC 8212).
    pub are_required: bool,
}

/// What is told to one peer. The default tells everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ExportRules {
    pub filters: Filters,
    /// What a node tells where no filter decides.
    pub built_in: Option<Arc<BuiltIn>>,
}

/// Calico's rules for what a node tells: the same for all its peers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct BuiltIn {
    /// Metrics of routes that have nothing special.
    pub normal_priority_v4: u32,
    pub normal_priority_v6: u32,
    /// Pools that are not told.
    pub disabled_pools: PrefixSet,
    pub enabled_pools: PrefixSet,
    /// Interfaces whose routes are not told inside the system; `*` stands for anything.
    pub tunnel_interfaces: Vec<String>,
    pub communities: PrefixTable<Vec<Community>>,
    /// Confirmed blocks of this node.
    pub blocks: PrefixSet,
    /// The same, in order.
    pub exact_blocks: Vec<Cidr>,
    /// What this node tells of services.
    pub services: PrefixSet,
    /// Ranges of services that a reflector passes on.
    pub reflected_services: PrefixSet,
}

/// Interfaces of a dataplane whose routes never leave the node.
const NODE_INTERFACES: &str = "bpf*.cali";

const BY_FILTER: &str = "a BGPFilter rejects it";
const NO_POLICY: &str = "the peer is of another system and no BGPFilter has rules for it (RFC 8212)";

impl Filters {
    pub fn of(&self, version: IpVersion) -> &FilterRules {
        match version {
            IpVersion::V4 => &self.v4,
            IpVersion::V6 => &self.v6,
        }
    }

    fn decide(&self, asked: &Asked<'_>) -> Decision<'_> {
        let rules = self.of(asked.prefix.version());
        if self.are_required && !asked.internal && rules.is_empty() {
            return Decision::Reject(NO_POLICY);
        }
        rules.first(asked).map_or(Decision::Open, Decision::Filter)
    }
}

/// Who decided.
enum Decision<'a> {
    Filter(&'a FilterRule),
    /// By a built-in rule, with communities of these.
    Accept(&'static str),
    Reject(&'static str),
    /// Nobody.
    Open,
}

impl ImportRules {
    /// `internal`: the peer is in our own system.
    pub fn judge(&self, candidate: &Candidate<'_>, internal: bool) -> Judgement {
        let asked = Asked::of(candidate, internal);
        match self.filters.decide(&asked) {
            Decision::Filter(rule) if !rule.accepts => Judgement::Reject(BY_FILTER.into()),
            Decision::Filter(rule) if rule.operations.is_empty() => Judgement::Accept,
            Decision::Filter(rule) => {
                let mut attributes = asked.attributes.clone();
                rule.operations.iter().for_each(|operation| operation.apply(&mut attributes));
                changed(asked.attributes, attributes)
            }
            Decision::Reject(why) => Judgement::Reject(why.into()),
            Decision::Accept(_) | Decision::Open => Judgement::Accept,
        }
    }

    /// Whether a route that was taken goes before one of this node: it says that its metric is better than that of a route
    /// that has nothing special. So does a workload that is moving, and is at its new node before it is gone from its old.
    pub fn beats_local(&self, prefix: Cidr, attributes: &Attributes) -> bool {
        let normal = match prefix.version() {
            IpVersion::V4 => self.normal_priority_v4,
            IpVersion::V6 => self.normal_priority_v6,
        };
        let preference = attributes.local_pref.unwrap_or(PREFERENCE_DEFAULT);
        PREFERENCE_SUM.saturating_sub(preference) < normal
    }
}

impl ExportRules {
    /// `internal`: the peer is in our own system.
    pub fn judge(&self, candidate: &Candidate<'_>, internal: bool) -> Judgement {
        let asked = Asked::of(candidate, internal);
        match self.decide(&asked) {
            Decision::Filter(rule) if !rule.accepts => Judgement::Reject(BY_FILTER.into()),
            Decision::Filter(rule) => told(&asked, &rule.operations, None),
            Decision::Accept(_) => told(&asked, &[], self.built_in.as_deref()),
            Decision::Open => told(&asked, &[], None),
            Decision::Reject(why) => Judgement::Reject(why.into()),
        }
    }

    fn decide(&self, asked: &Asked<'_>) -> Decision<'_> {
        match (self.filters.decide(asked), &self.built_in) {
            (Decision::Open, Some(built_in)) => built_in.decide(asked),
            (decision, _) => decision,
        }
    }
}

impl BuiltIn {
    /// The order is Calico's, and matters: what lies in a block is decided there, whatever comes after.
    fn decide(&self, asked: &Asked<'_>) -> Decision<'static> {
        let prefix = asked.prefix;
        let span = Span::of(prefix);
        if asked.is_static {
            return Decision::Reject("it is a StaticRoute, and no BGPFilter accepts it");
        }
        if self.disabled_pools.covers(&span) {
            return Decision::Reject("it is in an IPPool with disableBGPExport");
        }
        if let Some(interface) = asked.interface {
            if asked.internal && self.tunnel_interfaces.iter().any(|pattern| filter::is_like(interface, pattern)) {
                return Decision::Reject("it leads into a tunnel, which every node has by itself");
            }
            if filter::is_like(interface, NODE_INTERFACES) {
                return Decision::Reject("it is for this node only");
            }
        }
        if self.blocks.covers(&span) {
            if self.exact_blocks.binary_search(&prefix).is_ok() {
                return Decision::Accept("it is a block of this node");
            }
            // Live migration: a better route than the block's has to be known everywhere.
            if PREFERENCE_SUM.saturating_sub(asked.preference) < self.normal_priority(prefix.version()) {
                return Decision::Accept("it is better than its block");
            }
            return Decision::Reject("it is told by its block");
        }
        if self.services.covers(&span) {
            return Decision::Accept("it is of a service that this node tells");
        }
        if self.reflected_services.covers(&span) {
            return Decision::Accept("it is in a range of services, and this node reflects routes");
        }
        if self.enabled_pools.covers(&span) {
            return Decision::Accept("it is in an IPPool");
        }
        Decision::Reject("it is in no block, service range or IPPool")
    }

    fn normal_priority(&self, version: IpVersion) -> u32 {
        match version {
            IpVersion::V4 => self.normal_priority_v4,
            IpVersion::V6 => self.normal_priority_v6,
        }
    }
}

/// What a route that is accepted is told as.
fn told(asked: &Asked<'_>, operations: &[Operation], communities: Option<&BuiltIn>) -> Judgement {
    let mut added = communities.into_iter().flat_map(|built_in| built_in.communities.covering(asked.prefix)).flatten();
    // The metric of a route of ours goes along as its preference. To other systems none is told (RFC 4271 §5.1.5).
    let is_preference_new =
        asked.internal && !asked.is_learned && asked.attributes.local_pref != Some(asked.preference);
    let first = added.next();
    if !is_preference_new && operations.is_empty() && first.is_none() {
        return Judgement::Accept;
    }
    let mut attributes = asked.attributes.clone();
    if is_preference_new {
        attributes.local_pref = Some(asked.preference);
    }
    operations.iter().for_each(|operation| operation.apply(&mut attributes));
    first.into_iter().chain(added).for_each(|community| filter::add_community(&mut attributes, *community));
    changed(asked.attributes, attributes)
}

fn changed(from: &Attributes, to: Attributes) -> Judgement {
    if *from == to { Judgement::Accept } else { Judgement::Change(Box::new(to)) }
}

#[cfg(test)]
mod tests;
