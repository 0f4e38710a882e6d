//! The policy part of `NodeState` → the fast path's policy tables, change by change.
//!
//! Sets and blocks get positions, rules get numbers; what changed is handed to the editor, which knows what workers have to
//! see in one step. A set that no rule refers to any more is emptied after the tables without it are published: until then
//! its members keep their meaning.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use config::net::{Cidr, IpVersion, PortRange};
use config::resource::{Action, Key, PolicyType};
use fastpath::flow::mapped_address;
use fastpath::table::ProgramIndex;
use fastpath::table::acl::{
    self, Acl, Editor, IcmpMatch, L4Match, ProgramSpec, RuleSpec, SideMatch, TierEnd, TierSpec,
};
use fastpath::table::interface::HostEndpoint;

use super::{RuleNames, range_of};
use crate::node_state::{
    BlockName, Changes, HostEndpointState, Member, NodeState, Program, ProgramEnd, ResolvedRule, ResolvedSide, SetName,
};
use crate::policy::Calculation;
use crate::resources::Resources;

/// Programs of one host endpoint.
const HOST_PROGRAMS: usize = 7;

/// The policy of the node, as workers have it.
#[derive(Default)]
pub struct PolicyCompiler {
    editor: Editor,
    sets: Positions<SetName>,
    blocks: Positions<BlockName>,
    /// Sets that are in no rule any more, with the members they still have.
    retired: Vec<(usize, Vec<Member>)>,
    /// The programs of the last call and what became of them. Most are the very same the next time, with all their blocks.
    programs: Vec<(Option<Arc<Program>>, ProgramSpec)>,
    acl: Acl,
}

impl PolicyCompiler {
    /// Brings the state up to date with changed resources, and the policy with the state. True when the state is another
    /// than before. What comes back has to be published before the next call.
    pub fn follow(
        &mut self,
        calculation: &mut Calculation,
        resources: &Resources,
        changed: &BTreeSet<Arc<Key>>,
        names: &mut RuleNames,
    ) -> (bool, Acl) {
        calculation.update(resources, changed);
        let changes = calculation.take_changes();
        (!changes.is_empty(), self.update(calculation.state(), &changes, names))
    }

    /// Follows the changes of a state since the last call. What comes back has to be published before the next call.
    pub fn update(&mut self, state: &NodeState, changes: &Changes, names: &mut RuleNames) -> Acl {
        if changes.is_empty() {
            return self.acl.clone();
        }
        self.empty_retired(usize::MAX);
        for (set, members) in &changes.sets {
            let of =
                |is_added: bool| members.iter().filter(move |(_, added)| **added == is_added).map(|(member, _)| member);
            if !state.sets.contains_key(set) {
                if let Some(position) = self.sets.remove(set) {
                    self.retired.push((position, of(false).cloned().collect()));
                }
                continue;
            }
            let position = self.sets.position(set);
            change_set(&mut self.editor, position, of(true), of(false));
        }
        for block in &changes.blocks {
            match state.blocks.get(block) {
                Some(rules) => {
                    let specs = rules.iter().flat_map(|rule| self.rules(rule, names)).collect();
                    self.editor.put_block(self.blocks.position(block), specs);
                }
                None => {
                    if let Some(position) = self.blocks.remove(block) {
                        self.blocks.give_back(position);
                        self.editor.remove_block(position);
                    }
                }
            }
        }
        if changes.other || !changes.blocks.is_empty() {
            let mut known = std::mem::take(&mut self.programs).into_iter();
            for program in programs(state) {
                let spec = match known.next() {
                    Some((known, spec)) if is_same(known.as_ref(), program) => spec,
                    _ => self.program(program, names),
                };
                self.programs.push((program.cloned(), spec));
            }
            self.editor.set_programs(self.programs.iter().map(|(_, spec)| spec.clone()).collect());
        }
        self.acl = self.editor.commit();
        self.acl.clone()
    }

    /// Empties sets that workers do not ask about any more, a few at a time. Nothing has to be published for it.
    pub fn tidy(&mut self) {
        if self.empty_retired(1) {
            self.acl = self.editor.commit();
        }
    }

    fn empty_retired(&mut self, most: usize) -> bool {
        let count = self.retired.len().min(most);
        for (position, members) in self.retired.drain(..count) {
            change_set(&mut self.editor, position, [].iter(), members.iter());
            self.sets.give_back(position);
        }
        count > 0
    }

    fn program(&mut self, program: Option<&Arc<Program>>, names: &mut RuleNames) -> ProgramSpec {
        let Some(program) = program else {
            return ProgramSpec { tiers: Vec::new(), profiles: Vec::new(), end: acl::ProgramEnd::Undecided };
        };
        let tiers = program.tiers.iter().map(|tier| TierSpec {
            blocks: tier.blocks.iter().map(|block| self.blocks.position(block)).collect(),
            end: tier.end.as_ref().map_or(TierEnd::Pass, |name| TierEnd::Deny(names.index(name))),
        });
        ProgramSpec {
            tiers: tiers.collect(),
            profiles: program.profiles.iter().map(|block| self.blocks.position(block)).collect(),
            end: match &program.end {
                ProgramEnd::Deny(name) => acl::ProgramEnd::Deny(names.index(name)),
                ProgramEnd::Undecided => acl::ProgramEnd::Undecided,
            },
        }
    }

    /// A rule as the fast path has it: one per family that its prefixes leave possible.
    fn rules(&mut self, rule: &ResolvedRule, names: &mut RuleNames) -> Vec<RuleSpec> {
        let index = names.index(&rule.name);
        let has_nets =
            [&rule.source, &rule.destination].iter().any(|side| !side.nets.is_empty() || !side.not_nets.is_empty());
        let families: &[Option<bool>] = match rule.ip_version {
            Some(IpVersion::V4) => &[Some(true)],
            Some(IpVersion::V6) => &[Some(false)],
            None if has_nets => &[Some(true), Some(false)],
            None => &[None],
        };
        let l4 = |is_ipv4| L4Match {
            is_ipv4,
            protocol: rule.protocol,
            not_protocol: rule.not_protocol,
            icmp: rule.icmp.map(|(kind, code)| IcmpMatch { kind, code }),
            not_icmp: rule.not_icmp.map(|(kind, code)| IcmpMatch { kind, code }),
        };
        let action = match rule.action {
            Action::Allow => acl::Action::Allow,
            Action::Deny => acl::Action::Deny,
            Action::Log => acl::Action::Log,
            Action::Pass => acl::Action::Pass,
        };
        let of_family = |is_ipv4: &Option<bool>| RuleSpec {
            l4: l4(*is_ipv4),
            source: self.side(&rule.source, *is_ipv4),
            destination: self.side(&rule.destination, *is_ipv4),
            action,
            index,
        };
        families.iter().map(of_family).collect()
    }

    fn side(&mut self, side: &ResolvedSide, is_ipv4: Option<bool>) -> SideMatch {
        let of_family = |prefix: &&Cidr| is_ipv4.is_none_or(|wanted| wanted == prefix.is_ipv4());
        let nets: Vec<_> = side.nets.iter().filter(of_family).map(range_of).collect();
        let not_nets: Vec<_> = side.not_nets.iter().filter(of_family).map(range_of).collect();
        let ports = |ranges: &[PortRange]| ranges.iter().map(|range| (range.first(), range.last())).collect();
        // Exclusions too: "not from 10.0.0.0/8" is said of IPv4, and no reason to allow all of IPv6.
        let is_silent = |of_family: &[_], all: &[Cidr]| of_family.is_empty() && !all.is_empty();
        let mut sets = |names: &[SetName]| names.iter().map(|name| self.sets.position(name)).collect();
        SideMatch {
            never: is_silent(&nets, &side.nets) || is_silent(&not_nets, &side.not_nets),
            nets,
            not_nets,
            sets: sets(&side.sets),
            not_sets: sets(&side.not_sets),
            ports: ports(&side.ports),
            named_ports: sets(&side.named_ports),
            not_ports: ports(&side.not_ports),
            not_named_ports: sets(&side.not_named_ports),
            services: sets(&side.services),
        }
    }
}

fn change_set<'a>(
    editor: &mut Editor,
    position: usize,
    added: impl Iterator<Item = &'a Member>,
    removed: impl Iterator<Item = &'a Member>,
) {
    let (mut nets, mut ports) = (Split::default(), Split::default());
    for (member, is_added) in added.map(|member| (member, true)).chain(removed.map(|member| (member, false))) {
        match member {
            Member::Net(net) => nets.put(range_of(net), is_added),
            Member::Port(address, protocol, port) => ports.put((mapped_address(*address), *protocol, *port), is_added),
        }
    }
    let Split { added, removed } = nets;
    editor.change_set(position, &added, &removed);
    let Split { added, removed } = ports;
    editor.change_port_set(position, &added, &removed);
}

struct Split<T> {
    added: Vec<T>,
    removed: Vec<T>,
}

impl<T> Default for Split<T> {
    fn default() -> Self {
        Self { added: Vec::new(), removed: Vec::new() }
    }
}

impl<T> Split<T> {
    fn put(&mut self, item: T, is_added: bool) {
        if is_added { self.added.push(item) } else { self.removed.push(item) }
    }
}

/// Whether it is not only an equal program, but the one that was there.
fn is_same(known: Option<&Arc<Program>>, program: Option<&Arc<Program>>) -> bool {
    match (known, program) {
        (Some(known), Some(program)) => Arc::ptr_eq(known, program),
        (known, program) => known.is_none() && program.is_none(),
    }
}

/// All programs of a state, in the order of their positions.
fn programs(state: &NodeState) -> impl Iterator<Item = Option<&Arc<Program>>> {
    let endpoints = state.endpoints.iter().flat_map(|endpoint| [Some(&endpoint.ingress), Some(&endpoint.egress)]);
    endpoints.chain(state.host_endpoints.iter().flat_map(host_programs))
}

fn host_programs(endpoint: &HostEndpointState) -> [Option<&Arc<Program>>; HOST_PROGRAMS] {
    [
        Some(&endpoint.ingress),
        Some(&endpoint.egress),
        endpoint.forward_ingress.as_ref(),
        endpoint.forward_egress.as_ref(),
        endpoint.untracked_ingress.as_ref(),
        endpoint.untracked_egress.as_ref(),
        endpoint.pre_dnat.as_ref(),
    ]
}

/// The program of the endpoint at a position of `NodeState::endpoints`.
pub(super) fn endpoint_program(position: usize, direction: PolicyType) -> ProgramIndex {
    ProgramIndex(position as u32 * 2 + u32::from(direction == PolicyType::Egress))
}

/// The lists of a host endpoint, as the stages need them.
pub(super) fn host_lists(state: &NodeState, position: usize) -> HostEndpoint {
    let endpoint = &state.host_endpoints[position];
    let first = state.endpoints.len() * 2 + position * HOST_PROGRAMS;
    let present = host_programs(endpoint).map(|program| program.is_some());
    let program = |list: usize| match present[list] {
        true => ProgramIndex((first + list) as u32),
        false => ProgramIndex::NONE,
    };
    HostEndpoint {
        ingress: program(0),
        egress: program(1),
        forward_ingress: program(2),
        forward_egress: program(3),
        untracked_ingress: program(4),
        untracked_egress: program(5),
        pre_dnat: program(6),
    }
}

/// Names and the positions they have, which are used again.
struct Positions<N> {
    of: HashMap<N, usize>,
    free: Vec<usize>,
    next: usize,
}

impl<N> Default for Positions<N> {
    fn default() -> Self {
        Self { of: HashMap::new(), free: Vec::new(), next: 0 }
    }
}

impl<N: Clone + Eq + Hash> Positions<N> {
    fn position(&mut self, name: &N) -> usize {
        if let Some(position) = self.of.get(name) {
            return *position;
        }
        let position = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        self.of.insert(name.clone(), position);
        position
    }

    fn remove(&mut self, name: &N) -> Option<usize> {
        self.of.remove(name)
    }

    fn give_back(&mut self, position: usize) {
        self.free.push(position);
    }
}
