//! Rules without names, and the programs that endpoints enforce.
//!
//! A policy becomes one block per direction, made once and shared by all endpoints it selects; endpoints with equal lists
//! of blocks share a program. Sets are shared by all rules with the same selector.

use std::collections::BTreeMap;

use config::net::{Cidr, Port, PortRange};
use config::resource::{Action, EntityRule, IcmpFields, Key, PolicyType, Rule};
use config::selector::Selector;

use super::active::{self, Policy};
use super::ipsets::Members;
use super::labels::Profiles;
use super::order::{self, OrderedTier};
use super::supported;
use crate::node_state::{Block, Program, ResolvedRule, ResolvedSide, TierProgram};

/// The profile that always exists and allows everything both ways.
pub const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// Collects sets, blocks and programs while endpoints are gone through.
pub struct Builder<'a> {
    members: &'a Members,
    profiles: &'a Profiles<'a>,
    sets: Vec<Vec<Cidr>>,
    set_of: BTreeMap<String, usize>,
    blocks: Vec<Block>,
    block_of: BTreeMap<(String, bool), usize>,
    programs: Vec<Program>,
}

impl<'a> Builder<'a> {
    pub fn new(members: &'a Members, profiles: &'a Profiles<'a>) -> Self {
        Self {
            members,
            profiles,
            sets: Vec::new(),
            set_of: BTreeMap::new(),
            blocks: Vec::new(),
            block_of: BTreeMap::new(),
            programs: Vec::new(),
        }
    }

    pub fn finish(self) -> (Vec<Vec<Cidr>>, Vec<Block>, Vec<Program>) {
        (self.sets, self.blocks, self.programs)
    }

    /// The program of an endpoint that these policies select. Returns its position.
    pub fn program(
        &mut self,
        tiers: &[OrderedTier],
        selecting: &[&Policy],
        profiles: &[String],
        direction: PolicyType,
    ) -> usize {
        let mut program =
            Program { tiers: Vec::new(), profiles: Vec::new(), no_match: no_match_name(profiles, direction) };
        for tier in tiers {
            let mut policies: Vec<&Policy> = selecting
                .iter()
                .copied()
                .filter(|policy| policy.tier == tier.name && policy.types.contains(&direction))
                .collect();
            // A tier without a policy for this endpoint and direction is as if it were not there.
            if policies.is_empty() {
                continue;
            }
            policies.sort_by(|left, right| order::compare_policies(left, right));
            let blocks = policies.iter().map(|policy| self.policy_block(policy, direction)).collect();
            let end =
                (!tier.passes).then(|| format!("Tier {}: end of tier, {} default deny", tier.name, word(direction)));
            program.tiers.push(TierProgram { blocks, end });
        }
        program.profiles = profiles.iter().map(|name| self.profile_block(name, direction)).collect();
        match self.programs.iter().position(|known| *known == program) {
            Some(position) => position,
            None => {
                self.programs.push(program);
                self.programs.len() - 1
            }
        }
    }

    fn policy_block(&mut self, policy: &Policy, direction: PolicyType) -> usize {
        let owner = policy.key.to_string();
        self.block(owner, policy.rules(direction), policy.key.namespace.as_deref(), direction)
    }

    fn profile_block(&mut self, name: &str, direction: PolicyType) -> usize {
        let owner = Key::cluster(config::resource::Kind::Profile, name).to_string();
        match self.profiles.get(name) {
            _ if name == DEFAULT_ALLOW => self.block(owner, &[Rule::any(Action::Allow)], None, direction),
            Some(profile) => {
                let rules = match direction {
                    PolicyType::Ingress => &profile.spec.ingress,
                    PolicyType::Egress => &profile.spec.egress,
                };
                self.block(owner, rules, None, direction)
            }
            // A profile that does not exist denies.
            None => self.block(format!("{owner} (does not exist)"), &[Rule::any(Action::Deny)], None, direction),
        }
    }

    fn block(&mut self, owner: String, rules: &[Rule], namespace: Option<&str>, direction: PolicyType) -> usize {
        let key = (owner, direction == PolicyType::Ingress);
        if let Some(position) = self.block_of.get(&key) {
            return *position;
        }
        let name = |position: usize| format!("{} {}[{position}]", key.0, word(direction));
        let rules =
            rules.iter().enumerate().map(|(position, rule)| self.rule(rule, name(position), namespace)).collect();
        self.blocks.push(Block { rules });
        self.block_of.insert(key, self.blocks.len() - 1);
        self.blocks.len() - 1
    }

    fn rule(&mut self, rule: &Rule, name: String, namespace: Option<&str>) -> ResolvedRule {
        // Such a rule is refused when it is written. One that is stored all the same must not come to mean more than it says.
        let deny = Rule::any(Action::Deny);
        let (rule, name) = match supported::can_enforce(rule) {
            true => (rule, name),
            false => (&deny, format!("{name} (cannot be enforced)")),
        };
        ResolvedRule {
            name,
            action: rule.action,
            ip_version: rule.ip_version,
            protocol: rule.protocol.map(|protocol| protocol.number()),
            not_protocol: rule.not_protocol.map(|protocol| protocol.number()),
            icmp: rule.icmp.as_ref().and_then(icmp),
            not_icmp: rule.not_icmp.as_ref().and_then(icmp),
            source: self.side(&rule.source, namespace),
            destination: self.side(&rule.destination, namespace),
        }
    }

    fn side(&mut self, side: &EntityRule, namespace: Option<&str>) -> ResolvedSide {
        let selected = positive(side, namespace).map(|selector| self.set(&selector));
        let excluded = side.not_selector.as_ref().filter(|selector| !selector.is_blank()).map(|s| self.set(s));
        ResolvedSide {
            nets: side.nets.clone(),
            not_nets: side.not_nets.clone(),
            sets: selected.into_iter().collect(),
            not_sets: excluded.into_iter().collect(),
            ports: ranges(&side.ports),
            not_ports: ranges(&side.not_ports),
        }
    }

    fn set(&mut self, selector: &Selector) -> usize {
        let text = selector.to_string();
        if let Some(position) = self.set_of.get(&text) {
            return *position;
        }
        self.sets.push(self.members.of(selector));
        self.set_of.insert(text, self.sets.len() - 1);
        self.sets.len() - 1
    }
}

/// The selector that the positive parts of a side add up to, if there is one.
fn positive(side: &EntityRule, namespace: Option<&str>) -> Option<Selector> {
    let present = |selector: &Option<Selector>| selector.clone().filter(|selector| !selector.is_blank());
    let selector = present(&side.selector);
    let accounts = side.service_accounts.as_ref();
    let by_name = accounts.filter(|a| !a.names.is_empty()).map(|a| active::with_accounts(&a.names));
    let by_label = accounts.and_then(|a| present(&a.selector)).map(|selector| selector.prefix_labels("pcsa."));
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

fn word(direction: PolicyType) -> &'static str {
    match direction {
        PolicyType::Ingress => "ingress",
        PolicyType::Egress => "egress",
    }
}

fn no_match_name(profiles: &[String], direction: PolicyType) -> String {
    match profiles {
        [] => format!("no policy and no profile: {} default deny", word(direction)),
        _ => format!("no rule of profiles {} matched: {} default deny", profiles.join(", "), word(direction)),
    }
}
