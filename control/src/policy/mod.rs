//! From resources to what this node should be. A function of the current resources, never of how they came about.
//!
//! ```text
//!                        ┌─▶ labels ─▶ items ─▶ sets ──────────────────────┐ members
//! Profile, Namespace ────┤                       ▲                         │
//! WorkloadEndpoint ──────┤                       │ referred to             ├──▶ NodeState, and Changes
//! HostEndpoint, sets ────┘   ┌─▶ active ─▶ programs ─▶ blocks ─────────────┤ rules
//! Tier, policies ────────────┘   which endpoints, in which order           │
//! Node, IPPool, StaticRoute ───────────────────────────────────────────────┘ routes
//! ```
//!
//! Told which resources are others now, it works out again what depends on them, and nothing else: a label that changes on
//! one of a hundred thousand endpoints is a look at the few selectors that could match it.
//!
//! | file | what it decides |
//! |---|---|
//! | `labels.rs` | the labels of an endpoint, own and inherited |
//! | `items.rs` | what selectors can mean, and where a label occurs |
//! | `selector_index.rs` | which selectors could match |
//! | `ipsets.rs` | the members of sets |
//! | `active.rs` | which policies select an endpoint |
//! | `order.rs` | in which order tiers and policies apply |
//! | `endpoint_rules.rs` | rules without names, programs per endpoint |
//! | `local.rs` | which endpoints are this node's |
//! | `ignored.rs` | which fields are not looked at, which is told to whoever writes them |
//! | `decided.rs` | the name of a rule, taken apart again for whoever reads answers by machine |
//! | `oracle.rs` | the same, read naively: what all of it is compared with |
//!
//! Sources: Calico's documentation of network policy, and shared semantics in docs/ARCHITECTURE.md.

pub mod active;
pub mod decided;
pub mod endpoint_rules;
pub mod ignored;
pub mod ipsets;
pub mod items;
pub mod labels;
pub mod local;
pub mod oracle;
pub mod order;
pub mod selector_index;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use config::convert::{self, ProfileSource};
use config::resource::{ALL_INTERFACES, Key, Kind, PolicyType, Resource, Rule};

use crate::felix::FelixSettings;
use crate::node_state::{BlockName, Changes, EndpointState, HostEndpointState, Member, NodeState, Program};
use crate::resources::Resources;
use crate::translation::{self, SourceTranslation};
use active::{Policy, Stage};
use endpoint_rules::{BlockUsers, DEFAULT_ALLOW, List, Rules, Selecting};
use ipsets::{Membership, Sets};
use items::{Item, Items};
use labels::ProfileLabels;
use order::OrderedTier;

/// What the node of this name should be, worked out from nothing.
pub fn calculate(resources: &Resources, node: &str, felix: &FelixSettings) -> NodeState {
    let mut calculation = Calculation::new(node, felix.clone());
    calculation.update(resources, &resources.keys().cloned().collect());
    calculation.state
}

/// What a node should be, kept up to date.
#[derive(Debug)]
pub struct Calculation {
    node: String,
    /// Where no FelixConfiguration says otherwise.
    felix: FelixSettings,
    state: NodeState,
    changes: Changes,
    profiles: BTreeMap<String, Profile>,
    profile_labels: ProfileLabels,
    items: Items,
    sets: Sets,
    tiers: Vec<OrderedTier>,
    policies: HashMap<Key, Arc<Policy>>,
    /// Endpoints that name this node.
    own: BTreeSet<Key>,
    /// What is wrong with those that it does not have.
    problems: Vec<String>,
    /// Those of them that it has: what applies to each.
    local: BTreeMap<Key, Local>,
    users: BlockUsers,
    /// Whose rules a block holds; of blocks in use.
    owners: HashMap<BlockName, Owner>,
}

/// Rules with who wrote them.
pub struct Written<'a> {
    pub owner: String,
    pub namespace: Option<&'a str>,
    pub rules: &'a [Rule],
}

/// Rules that endpoints name.
#[derive(Debug, Clone, PartialEq, Default)]
struct Profile {
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

#[derive(Debug, Default)]
struct Local {
    selecting: Selecting,
    programs: Vec<Option<Arc<Program>>>,
}

#[derive(Debug, Clone)]
enum Owner {
    Policy(Key, PolicyType),
    Profile(String, PolicyType),
}

/// The programs of a workload endpoint, and of a host endpoint, in the order they are kept in.
const WORKLOAD: [(List, PolicyType); 2] = [(List::Normal, PolicyType::Ingress), (List::Normal, PolicyType::Egress)];
const HOST: [(List, PolicyType); 7] = [
    (List::Normal, PolicyType::Ingress),
    (List::Normal, PolicyType::Egress),
    (List::Forward, PolicyType::Ingress),
    (List::Forward, PolicyType::Egress),
    (List::Early(Stage::Untracked), PolicyType::Ingress),
    (List::Early(Stage::Untracked), PolicyType::Egress),
    (List::Early(Stage::PreDnat), PolicyType::Ingress),
];

impl Calculation {
    /// `felix` is what holds where no FelixConfiguration says otherwise.
    pub fn new(node: &str, felix: FelixSettings) -> Self {
        Self {
            node: node.to_owned(),
            state: NodeState { felix: felix.clone(), ..NodeState::default() },
            felix,
            changes: Changes::default(),
            profiles: BTreeMap::new(),
            profile_labels: ProfileLabels::new(),
            items: Items::default(),
            sets: Sets::default(),
            tiers: order::tiers(&Resources::default()),
            policies: HashMap::new(),
            own: BTreeSet::new(),
            problems: Vec::new(),
            local: BTreeMap::new(),
            users: BlockUsers::default(),
            owners: HashMap::new(),
        }
    }

    pub fn state(&self) -> &NodeState {
        &self.state
    }

    /// The rules of a block that is in force, as they were written.
    pub fn written(&self, block: &BlockName) -> Option<Written<'_>> {
        match self.owners.get(block)? {
            Owner::Policy(key, direction) => {
                let policy = self.policies.get(key)?;
                let namespace = key.namespace.as_deref();
                Some(Written { owner: key.to_string(), namespace, rules: policy.rules(*direction) })
            }
            Owner::Profile(name, direction) => {
                let profile = self.profiles.get(name)?;
                let rules = if *direction == PolicyType::Ingress { &profile.ingress } else { &profile.egress };
                Some(Written { owner: Key::cluster(Kind::Profile, name).to_string(), namespace: None, rules })
            }
        }
    }

    /// Who has an address, of the whole cluster, with what rules know of them.
    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = (&Key, &Item)> {
        self.items.at(address)
    }

    /// What a Service leads to.
    pub fn service(&self, namespace: &str, service: &str) -> BTreeSet<Member> {
        self.sets.service(namespace, service)
    }

    /// How the state differs from what it was when this was asked last.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Works out again what depends on the resources of these keys. They may have come, gone or changed, or be as they were.
    pub fn update(&mut self, resources: &Resources, changed: &BTreeSet<Arc<Key>>) {
        let mut stale_blocks = BTreeSet::new();
        let mut stale_programs = BTreeSet::new();
        let mut changed_items: BTreeSet<Arc<Key>> = changed.iter().filter(|key| is_item(key.kind)).cloned().collect();
        for name in changed.iter().filter_map(|key| profile_name(key)).collect::<BTreeSet<String>>() {
            self.profile_changed(&name, resources, &mut changed_items, &mut stale_blocks, &mut stale_programs);
        }
        let mut are_locals_stale = false;
        for (key, resource) in resources.along(&changed_items) {
            self.item_changed(key, resource);
            let (was, is) = (self.own.contains(&**key), local::is_of_node(resource, &self.node));
            are_locals_stale |= was || is;
            if is {
                self.own.insert(Key::clone(key))
            } else {
                self.own.remove(&**key)
            };
        }
        for key in changed.iter().filter(|key| key.kind == Kind::EndpointSlice) {
            let slice = match resources.get(key) {
                Some(Resource::EndpointSlice(slice)) => Some(slice),
                _ => None,
            };
            let mut membership = Membership { members: &mut self.state.sets, changes: &mut self.changes.sets };
            self.sets.slice_changed(key, slice, &mut membership);
        }
        if changed.iter().any(|key| key.kind == Kind::FelixConfiguration) {
            let felix = self.felix.with(resources, &self.node);
            are_locals_stale |= felix.allows_spoofing != self.state.felix.allows_spoofing;
            self.changes.other |= felix != self.state.felix;
            self.state.felix = felix;
        }
        if are_locals_stale {
            self.locals_changed(resources, &changed_items, &mut stale_programs);
        }
        for key in changed.iter().filter(|key| active::is_policy(key.kind)) {
            self.policy_changed(key, resources.get(key), &mut stale_blocks, &mut stale_programs);
        }
        if changed.iter().any(|key| key.kind == Kind::Tier) {
            let tiers = order::tiers(resources);
            if tiers != self.tiers {
                self.tiers = tiers;
                stale_programs.extend(self.local.keys().cloned());
            }
        }
        let has_new_programs = !stale_programs.is_empty();
        for key in stale_programs {
            self.make_programs(&key, resources, &mut stale_blocks);
        }
        for name in stale_blocks {
            self.make_block(&name);
        }
        let others = [Kind::Node, Kind::IpPool, Kind::StaticRoute, Kind::FelixConfiguration];
        if are_locals_stale || has_new_programs || changed.iter().any(|key| others.contains(&key.kind)) {
            self.changes.other |= self.rest(resources);
        }
    }

    fn profile_changed(
        &mut self,
        name: &str,
        resources: &Resources,
        changed_items: &mut BTreeSet<Arc<Key>>,
        stale_blocks: &mut BTreeSet<BlockName>,
        stale_programs: &mut BTreeSet<Key>,
    ) {
        let (profile, labels) = profile(resources, name).unzip();
        if self.profile_labels.get(name) != labels.as_ref() {
            changed_items.extend(self.items.listing(name).cloned());
            match labels {
                Some(labels) => self.profile_labels.insert(name.to_owned(), labels),
                None => self.profile_labels.remove(name),
            };
        }
        let old = self.profiles.get(name);
        if old == profile.as_ref() {
            return;
        }
        if old.is_some() != profile.is_some() {
            // Whoever lists it has another block in its place.
            let listing = self.items.listing(name).filter(|key| self.local.contains_key(&***key));
            stale_programs.extend(listing.map(|key| Key::clone(key)));
        }
        match profile {
            Some(profile) => self.profiles.insert(name.to_owned(), profile),
            None => self.profiles.remove(name),
        };
        for direction in [PolicyType::Ingress, PolicyType::Egress] {
            stale_blocks.insert(endpoint_rules::profile_block(name, direction, true));
        }
    }

    fn item_changed(&mut self, key: &Arc<Key>, resource: Option<&Resource>) {
        let item = resource.and_then(|resource| Item::of(resource, &self.profile_labels));
        if item.is_some() && self.items.by_key(key) == item.as_ref() {
            return;
        }
        let Some((id, old)) = self.items.replace(key, item) else { return };
        let mut membership = Membership { members: &mut self.state.sets, changes: &mut self.changes.sets };
        self.sets.item_changed(id, old.as_ref(), self.items.get(id), &mut membership);
    }

    /// Endpoints came or went, or have other labels, profiles or addresses.
    fn locals_changed(
        &mut self,
        resources: &Resources,
        changed_items: &BTreeSet<Arc<Key>>,
        stale_programs: &mut BTreeSet<Key>,
    ) {
        let local::Active { keys: now, problems, closed } =
            local::active(resources, &self.own, self.state.felix.allows_spoofing);
        self.changes.other |= closed != self.state.closed_interfaces;
        self.problems = problems;
        self.state.closed_interfaces = closed;
        let gone: Vec<Key> = self.local.keys().filter(|key| !now.contains(*key)).cloned().collect();
        for key in gone {
            let old = self.local.remove(&key);
            for block in
                old.iter().flat_map(|local| local.programs.iter().flatten()).flat_map(|program| program.blocks())
            {
                self.forget_block(block);
            }
        }
        for key in now {
            let is_new = !self.local.contains_key(&key);
            if !is_new && !changed_items.contains(&key) {
                continue;
            }
            let Some(item) = self.items.by_key(&key) else { continue };
            let mut selecting = Selecting::new();
            for policy in self.policies.values().filter(|policy| policy.selects(&item.labels)) {
                selecting.entry(policy.tier.clone()).or_default().insert(policy.rank.clone(), policy.clone());
            }
            self.local.entry(key.clone()).or_default().selecting = selecting;
            stale_programs.insert(key);
        }
    }

    fn policy_changed(
        &mut self,
        key: &Key,
        resource: Option<&Resource>,
        stale_blocks: &mut BTreeSet<BlockName>,
        stale_programs: &mut BTreeSet<Key>,
    ) {
        let new = resource.and_then(Policy::of).map(Arc::new);
        let old = self.policies.get(key).cloned();
        if old == new {
            return;
        }
        for (endpoint, local) in &mut self.local {
            let Some(item) = self.items.by_key(endpoint) else { continue };
            let mut is_stale = false;
            if let Some(old) = &old
                && let Some(tier) = local.selecting.get_mut(&old.tier)
            {
                is_stale |= tier.remove(&old.rank).is_some();
                if tier.is_empty() {
                    local.selecting.remove(&old.tier);
                }
            }
            if let Some(new) = new.as_ref().filter(|new| new.selects(&item.labels)) {
                local.selecting.entry(new.tier.clone()).or_default().insert(new.rank.clone(), new.clone());
                is_stale = true;
            }
            if is_stale {
                stale_programs.insert(endpoint.clone());
            }
        }
        for policy in [&old, &new].into_iter().flatten() {
            stale_blocks
                .extend([PolicyType::Ingress, PolicyType::Egress].map(|direction| policy.block(direction).clone()));
        }
        match new {
            Some(new) => self.policies.insert(key.clone(), new),
            None => self.policies.remove(key),
        };
    }

    /// The programs of an endpoint, anew. Blocks that were in no program so far become stale.
    fn make_programs(&mut self, key: &Key, resources: &Resources, stale_blocks: &mut BTreeSet<BlockName>) {
        let Some(local) = self.local.get(key) else { return };
        let (profiles, lists, has_all_interfaces) = match resources.get(key) {
            Some(Resource::WorkloadEndpoint(endpoint)) => (&endpoint.spec.profiles, &WORKLOAD[..], false),
            Some(Resource::HostEndpoint(endpoint)) => {
                (&endpoint.spec.profiles, &HOST[..], endpoint.spec.interface_name == ALL_INTERFACES)
            }
            _ => return,
        };
        let is_known = |name: &str| self.profiles.contains_key(name);
        // Calico knows no untracked policy for all interfaces at once, and leaves it out there.
        let is_known_there = |list: &List| !has_all_interfaces || *list != List::Early(Stage::Untracked);
        let make = |(list, direction): &(List, PolicyType)| {
            if !is_known_there(list) {
                return None;
            }
            endpoint_rules::program(*list, &self.tiers, &local.selecting, profiles, *direction, is_known)
        };
        let new: Vec<Option<Program>> = lists.iter().map(make).collect();
        let mut owners: Vec<(BlockName, Owner)> = Vec::new();
        for (_, direction) in lists {
            for policy in local.selecting.values().flat_map(BTreeMap::values) {
                owners.push((policy.block(*direction).clone(), Owner::Policy(policy.key.clone(), *direction)));
            }
            for profile in profiles {
                let block = endpoint_rules::profile_block(profile, *direction, is_known(profile));
                owners.push((block, Owner::Profile(profile.clone(), *direction)));
            }
        }
        // Programs that are as they were stay the very same, so that whoever follows can tell by looking at them.
        let old = local.programs.clone();
        let new: Vec<Option<Arc<Program>>> = new
            .into_iter()
            .enumerate()
            .map(|(position, program)| {
                let known = old.get(position).and_then(Option::as_ref);
                program.map(|program| known.filter(|known| ***known == program).cloned().unwrap_or(Arc::new(program)))
            })
            .collect();
        for block in new.iter().flatten().flat_map(|program| program.blocks()) {
            if self.users.add(block) {
                stale_blocks.insert(block.clone());
            }
        }
        self.owners.extend(owners.into_iter().filter(|(block, _)| self.users.is_used(block)));
        for block in old.iter().flatten().flat_map(|program| program.blocks()) {
            self.forget_block(block);
        }
        if let Some(local) = self.local.get_mut(key) {
            local.programs = new;
        }
    }

    /// One program less names the block. The last one takes it along, and the sets that only it referred to.
    fn forget_block(&mut self, name: &BlockName) {
        if !self.users.remove(name) {
            return;
        }
        self.owners.remove(name);
        self.replace_block(name, None);
    }

    fn make_block(&mut self, name: &BlockName) {
        if !self.users.is_used(name) {
            return;
        }
        let Some(owner) = self.owners.get(name).cloned() else { return };
        let mut membership = Membership { members: &mut self.state.sets, changes: &mut self.changes.sets };
        let mut set = |source| self.sets.acquire(source, &self.items, &mut membership);
        let rules = match &owner {
            Owner::Policy(key, direction) => self.policies.get(key).map(|policy| {
                let rules = Rules::Written { rules: policy.rules(*direction), namespace: key.namespace.as_deref() };
                endpoint_rules::block(name, rules, &mut set)
            }),
            Owner::Profile(profile, direction) => {
                let written = self.profiles.get(profile).map(|profile| match direction {
                    PolicyType::Ingress => profile.ingress.as_slice(),
                    PolicyType::Egress => profile.egress.as_slice(),
                });
                let rules = match written {
                    _ if profile == DEFAULT_ALLOW => Rules::AllowAll,
                    Some(rules) => Rules::Written { rules, namespace: None },
                    None => Rules::DenyAll,
                };
                Some(endpoint_rules::block(name, rules, &mut set))
            }
        };
        self.replace_block(name, rules);
    }

    /// The new rules have their sets already; those of the old ones are given up.
    fn replace_block(&mut self, name: &BlockName, rules: Option<Vec<crate::node_state::ResolvedRule>>) {
        let rules: Option<Arc<[_]>> = rules.map(Into::into);
        let old = self.state.blocks.get(name).cloned();
        if old != rules {
            self.changes.blocks.insert(name.clone());
            match &rules {
                Some(rules) => self.state.blocks.insert(name.clone(), rules.clone()),
                None => self.state.blocks.remove(name),
            };
        }
        let mut membership = Membership { members: &mut self.state.sets, changes: &mut self.changes.sets };
        for set in old.iter().flat_map(|rules| endpoint_rules::sets(rules)) {
            self.sets.release(set, &self.items, &mut membership);
        }
    }

    /// Endpoints, routes and what else is small. True when something is not as it was.
    fn rest(&mut self, resources: &Resources) -> bool {
        let program = |local: &Local, position: usize| local.programs.get(position).cloned().flatten();
        // Endpoints have their programs; one that had none would have to let nothing through.
        let closed = || Arc::new(Program::closed());
        let (mut endpoints, mut host_endpoints) = (Vec::new(), Vec::new());
        for (key, local) in &self.local {
            match resources.get(key) {
                Some(Resource::WorkloadEndpoint(endpoint)) => endpoints.push(EndpointState {
                    key: key.clone(),
                    interface: endpoint.spec.interface_name.clone(),
                    mac: endpoint.spec.mac,
                    addresses: endpoint.spec.ip_networks.clone(),
                    spoofed: endpoint.spec.allow_spoofed_source_prefixes.clone(),
                    ingress: program(local, 0).unwrap_or_else(closed),
                    egress: program(local, 1).unwrap_or_else(closed),
                }),
                Some(Resource::HostEndpoint(endpoint)) => host_endpoints.push(HostEndpointState {
                    key: key.clone(),
                    interface: endpoint.spec.interface_name.clone(),
                    expected_addresses: endpoint.spec.expected_ips.clone(),
                    ingress: program(local, 0).unwrap_or_else(closed),
                    egress: program(local, 1).unwrap_or_else(closed),
                    forward_ingress: program(local, 2),
                    forward_egress: program(local, 3),
                    untracked_ingress: program(local, 4),
                    untracked_egress: program(local, 5),
                    pre_dnat: program(local, 6),
                }),
                _ => {}
            }
        }
        let problems: Vec<String> = self.problems.iter().cloned().chain(self.not_enforced(resources)).collect();
        let state = &mut self.state;
        let static_routes = local::static_routes(resources, &self.node);
        let pools = local::pools(resources);
        let own = translation::endpoints(resources, self.local.keys());
        let translated = SourceTranslation::of(resources, state.felix.nat_exempts_nodes, own);
        let node_addresses = local::node_addresses(resources, &self.node);
        let is_same = endpoints == state.endpoints
            && host_endpoints == state.host_endpoints
            && static_routes == state.static_routes
            && pools == state.pools
            && translated == state.translated
            && node_addresses == state.node_addresses
            && problems == state.problems;
        state.endpoints = endpoints;
        state.host_endpoints = host_endpoints;
        state.static_routes = static_routes;
        state.pools = pools;
        state.translated = translated;
        state.node_addresses = node_addresses;
        state.problems = problems;
        !is_same
    }

    /// Untracked policies that select an endpoint of all interfaces, which has no list for them.
    fn not_enforced(&self, resources: &Resources) -> Vec<String> {
        let has_all = |key: &&Key| match resources.get(key) {
            Some(Resource::HostEndpoint(endpoint)) => endpoint.spec.interface_name == ALL_INTERFACES,
            _ => false,
        };
        let mut problems = Vec::new();
        for key in self.local.keys().filter(has_all) {
            let selecting = self.local[key].selecting.values().flat_map(BTreeMap::values);
            for policy in selecting.filter(|policy| policy.stage == Stage::Untracked) {
                problems.push(format!(
                    "{} is not enforced on {key}: no doNotTrack policy is where interfaceName is *; name the interface",
                    policy.key
                ));
            }
        }
        problems
    }
}

/// Kinds that selectors in rules can mean.
fn is_item(kind: Kind) -> bool {
    matches!(kind, Kind::WorkloadEndpoint | Kind::HostEndpoint | Kind::NetworkSet | Kind::GlobalNetworkSet)
}

/// The profile that a resource is, or stands for.
fn profile_name(key: &Key) -> Option<String> {
    match key.kind {
        Kind::Profile => Some(key.name.clone()),
        Kind::Namespace => Some(convert::namespace_profile_name(&key.name)),
        Kind::ServiceAccount => {
            let namespace = key.namespace.as_deref().unwrap_or_default();
            Some(convert::service_account_profile_name(namespace, &key.name))
        }
        _ => None,
    }
}

/// The rules and labels of a profile: of the resource of that name, or else of what it stands for in Kubernetes.
fn profile(resources: &Resources, name: &str) -> Option<(Profile, BTreeMap<String, String>)> {
    let found = match resources.get(&Key::cluster(Kind::Profile, name)) {
        Some(Resource::Profile(profile)) => profile.clone(),
        _ => converted_profile(resources, name)?,
    };
    let spec = found.spec;
    Some((Profile { ingress: spec.ingress, egress: spec.egress }, spec.labels_to_apply))
}

/// The labels that a profile gives to whoever lists it.
pub fn labels_of_profile(resources: &Resources, name: &str) -> Option<BTreeMap<String, String>> {
    profile(resources, name).map(|(_, labels)| labels)
}

/// The profile of a namespace or a service account.
fn converted_profile(resources: &Resources, name: &str) -> Option<config::resource::Profile> {
    let key = match convert::source_of_profile(name)? {
        ProfileSource::Namespace(namespace) => Key::cluster(Kind::Namespace, namespace),
        ProfileSource::ServiceAccount { namespace, name } => Key::namespaced(Kind::ServiceAccount, namespace, name),
    };
    match resources.get(&key)? {
        Resource::Namespace(namespace) => Some(convert::namespace_profile(namespace)),
        Resource::ServiceAccount(account) => Some(convert::service_account_profile(account)),
        _ => None,
    }
}
