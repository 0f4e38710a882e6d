//! Rules without names, and the programs that endpoints enforce.
//!
//! A policy becomes one block per direction, made when the first program names it and shared by all that do. Sets are shared
//! by all rules with the same selector.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use config::net::{Port, PortRange};
use config::resource::{Action, EntityRule, IcmpFields, Key, Kind, PolicyType, Rule};
use config::selector::Selector;

use super::active::{self, Policy};
use super::ipsets::SetSource;
use super::order::{OrderedTier, Rank};
use crate::node_state::{BlockName, Program, ProgramEnd, ResolvedRule, ResolvedSide, SetName, TierProgram};

/// The profile that always exists and allows everything both ways.
pub const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// The policies that select an endpoint, by tier and in order.
pub type Selecting = BTreeMap<String, BTreeMap<Rank, Arc<Policy>>>;

/// Which list of an endpoint a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Policies, then profiles, then deny.
    Normal,
    /// What is forwarded through a host endpoint: policies alone, and nothing is denied for want of one.
    Forward,
    /// Before translation, or without tracking: what no rule decides goes on, also at the end of a tier.
    Early(active::Stage),
}

impl List {
    fn has(self, policy: &Policy) -> bool {
        match self {
            List::Normal => policy.stage == active::Stage::Normal,
            List::Forward => policy.stage == active::Stage::Normal && policy.applies_on_forward,
            List::Early(stage) => policy.stage == stage,
        }
    }
}

/// The program of an endpoint that these policies select. A list that is not `Normal` and has no policy is none.
pub fn program(
    list: List,
    tiers: &[OrderedTier],
    selecting: &Selecting,
    profiles: &[String],
    direction: PolicyType,
    known_profiles: impl Fn(&str) -> bool,
) -> Option<Program> {
    let mut program = Program { tiers: Vec::new(), profiles: Vec::new(), end: ProgramEnd::Undecided };
    let known = tiers.iter().map(|tier| (tier.name.as_str(), tier.passes));
    // A tier that nobody made comes after all others and denies.
    let unknown = selecting.keys().filter(|name| tiers.iter().all(|tier| tier.name != **name));
    for (name, passes) in known.chain(unknown.map(|name| (name.as_str(), false))) {
        let policies = selecting.get(name).into_iter().flat_map(BTreeMap::values);
        let policies = policies.filter(|policy| policy.governs(direction) && list.has(policy));
        let blocks: Vec<BlockName> = policies.map(|policy| policy.block(direction).clone()).collect();
        // A tier without a policy for this endpoint and direction is as if it were not there.
        if blocks.is_empty() {
            continue;
        }
        let passes = passes || matches!(list, List::Early(_));
        let end = (!passes).then(|| format!("Tier {name}: end of tier, {} default deny", direction.word()));
        program.tiers.push(TierProgram { blocks, end });
    }
    if list == List::Normal {
        program.profiles = profiles.iter().map(|name| profile_block(name, direction, known_profiles(name))).collect();
        program.end = ProgramEnd::Deny(no_match_name(profiles, direction));
    } else if program.tiers.is_empty() {
        return None;
    }
    Some(program)
}

/// What the rules of a profile are called.
pub fn profile_block(name: &str, direction: PolicyType, is_known: bool) -> BlockName {
    let owner = Key::cluster(Kind::Profile, name).to_string();
    match is_known || name == DEFAULT_ALLOW {
        true => BlockName::new(owner, direction),
        // A profile that does not exist denies.
        false => BlockName::new(format!("{owner} (does not exist)"), direction),
    }
}

/// Rules as they are written, or what stands in for them.
pub enum Rules<'a> {
    Written {
        rules: &'a [Rule],
        namespace: Option<&'a str>,
    },
    /// Of the profile that always exists.
    AllowAll,
    /// Of a profile that does not exist.
    DenyAll,
}

/// Rules without names. `set` is told of every set that is referred to, once for each reference.
pub fn block(name: &BlockName, rules: Rules<'_>, set: &mut impl FnMut(SetSource) -> SetName) -> Vec<ResolvedRule> {
    let one;
    let (rules, namespace) = match rules {
        Rules::Written { rules, namespace } => (rules, namespace),
        Rules::AllowAll => {
            one = [Rule::any(Action::Allow)];
            (&one[..], None)
        }
        Rules::DenyAll => {
            one = [Rule::any(Action::Deny)];
            (&one[..], None)
        }
    };
    let numbered = rules.iter().enumerate();
    numbered.map(|(position, written)| rule(written, format!("{name}[{position}]"), namespace, set)).collect()
}

fn rule(
    rule: &Rule,
    name: String,
    namespace: Option<&str>,
    set: &mut impl FnMut(SetSource) -> SetName,
) -> ResolvedRule {
    let protocol = rule.protocol.map(|protocol| protocol.number());
    // A name means a port of UDP or SCTP in a rule about those, and else one of TCP (`felix/calc/rule_scanner.go`).
    let of_names = protocol.filter(|number| [UDP, SCTP].contains(number)).unwrap_or(TCP);
    ResolvedRule {
        name,
        action: rule.action,
        ip_version: rule.ip_version,
        protocol,
        not_protocol: rule.not_protocol.map(|protocol| protocol.number()),
        icmp: rule.icmp.as_ref().and_then(icmp),
        not_icmp: rule.not_icmp.as_ref().and_then(icmp),
        source: side(&rule.source, of_names, false, namespace, set),
        destination: side(&rule.destination, of_names, true, namespace, set),
    }
}

fn side(
    side: &EntityRule,
    protocol: u8,
    is_destination: bool,
    namespace: Option<&str>,
    set: &mut impl FnMut(SetSource) -> SetName,
) -> ResolvedSide {
    let unwanted = side.not_selector.clone().filter(|selector| !selector.is_blank());
    // Where somebody is wanted, who is not wanted is one of them: an address that two have may be meant because of either.
    // Alone, it is an address that nobody unwanted has (Calico: felix/calc/rule_scanner.go, `combineMatchesIfPossible`).
    let (selector, excluded) = match (positive(side, namespace), unwanted) {
        (Some(wanted), Some(unwanted)) => (Some(wanted.and_not(&unwanted)), None),
        others => others,
    };
    let mut named = |ports: &[Port]| -> Vec<SetName> {
        let names = ports.iter().filter_map(|port| match port {
            Port::Named(name) => Some(name.as_str().to_owned()),
            Port::Numbers(_) => None,
        });
        let selector = selector.clone().unwrap_or_else(Selector::all);
        names.map(|port| set(SetSource::NamedPort { selector: selector.clone(), protocol, port })).collect()
    };
    let (named_ports, not_named_ports) = (named(&side.ports), named(&side.not_ports));
    let service = side.services.as_ref().map(|service| SetSource::Service {
        namespace: match service.namespace.is_empty() {
            true => namespace.unwrap_or_default().to_owned(),
            false => service.namespace.clone(),
        },
        name: service.name.clone(),
        // Where a packet goes is an address and a port; where it comes from, an address.
        with_ports: is_destination,
    });
    let mut sets: Vec<SetName> = selector.map(|selector| set(SetSource::Selector(selector))).into_iter().collect();
    let mut services = Vec::new();
    if let Some(service) = service {
        if is_destination { services.push(set(service)) } else { sets.push(set(service)) }
    }
    ResolvedSide {
        nets: side.nets.clone(),
        not_nets: side.not_nets.clone(),
        sets,
        not_sets: excluded.map(|selector| set(SetSource::Selector(selector))).into_iter().collect(),
        ports: ranges(&side.ports),
        named_ports,
        not_ports: ranges(&side.not_ports),
        not_named_ports,
        services,
    }
}

/// The sets that rules refer to, once for each reference.
pub fn sets(rules: &[ResolvedRule]) -> impl Iterator<Item = &SetName> {
    let sides = rules.iter().flat_map(|rule| [&rule.source, &rule.destination]);
    sides.flat_map(|side| {
        let addresses = side.sets.iter().chain(&side.not_sets);
        addresses.chain(&side.named_ports).chain(&side.not_named_ports).chain(&side.services)
    })
}

/// The selector that the positive parts of a side add up to, if there is one.
fn positive(side: &EntityRule, namespace: Option<&str>) -> Option<Selector> {
    let present = |selector: &Option<Selector>| selector.clone().filter(|selector| !selector.is_blank());
    let selector = present(&side.selector);
    let accounts = side.service_accounts.as_ref();
    let by_name = accounts.filter(|a| !a.names.is_empty()).map(|a| active::with_accounts(&a.names));
    let by_label = accounts.and_then(|a| present(&a.selector)).map(|selector| active::of_accounts(&selector));
    let namespaces = match (present(&side.namespace_selector), namespace) {
        (Some(namespaces), _) => Some(active::in_namespaces(&namespaces)),
        // In a namespace's policy a selector means endpoints of that namespace.
        (None, Some(namespace)) if selector.is_some() || by_name.is_some() || by_label.is_some() => {
            Some(active::of_namespace(namespace))
        }
        (None, Some(namespace)) if present(&side.not_selector).is_some() => Some(active::of_namespace(namespace)),
        (None, _) => None,
    };
    let parts = [namespaces, selector, by_name, by_label];
    parts.iter().any(Option::is_some).then(|| active::all_of(parts))
}

fn ranges(ports: &[Port]) -> Vec<PortRange> {
    let numeric = ports.iter().filter_map(|port| match port {
        Port::Numbers(range) => Some(*range),
        Port::Named(_) => None,
    });
    numeric.collect()
}

fn icmp(fields: &IcmpFields) -> Option<(u8, Option<u8>)> {
    fields.icmp_type.map(|kind| (kind, fields.code))
}

fn no_match_name(profiles: &[String], direction: PolicyType) -> String {
    match profiles {
        [] => format!("no policy and no profile: {} default deny", direction.word()),
        _ => format!("no rule of profiles {} matched: {} default deny", profiles.join(", "), direction.word()),
    }
}

/// How many programs use each block.
#[derive(Debug, Default)]
pub struct BlockUsers(HashMap<BlockName, usize>);

impl BlockUsers {
    /// True for the first use.
    pub fn add(&mut self, name: &BlockName) -> bool {
        let users = self.0.entry(name.clone()).or_insert(0);
        *users += 1;
        *users == 1
    }

    /// True for the last use.
    pub fn remove(&mut self, name: &BlockName) -> bool {
        let Some(users) = self.0.get_mut(name) else { return false };
        *users -= 1;
        let is_last = *users == 0;
        if is_last {
            self.0.remove(name);
        }
        is_last
    }

    pub fn is_used(&self, name: &BlockName) -> bool {
        self.0.contains_key(name)
    }
}
