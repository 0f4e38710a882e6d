//! The state of a node is a function of the resources, not of the way they came.
//!
//! ```text
//! the same final objects ─┬─ one snapshot ───────────────────────────────────┐
//!                         ├─ updates one by one, in another order ───────────┼─▶ one NodeState, one set of verdicts
//!                         ├─ grouped, with detours: older versions, deletes ─┤
//!                         └─ a snapshot of something else, then another ─────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use config::resource::{Key, PolicyType, Resource};
use control::datastore::{Revision, Stored, SyncEvent, Update};
use control::felix::FelixSettings;
use control::node_state::{Member, NodeState, SetMembers, SetName};
use control::policy::{Calculation, calculate};
use control::resources::Resources;
use fastpath::flow::mapped_address;
use fastpath::table::adjacency::AdjacencyKind;
use fastpath::table::{EndpointIndex, InterfaceIndex, Tables};
use tests::node::{NODE, Node};
use tests::random::Random;

use crate::policy::{evaluate, packet, plan};
use crate::seeds::{ENDPOINTS, interface, resource, rival_endpoint, with_seeds};

/// Objects by key; some endpoints claim what others have.
fn objects(random: &mut Random) -> BTreeMap<Key, Resource> {
    let count = random.below(30);
    let any = |random: &mut Random| if random.chance(20) { rival_endpoint(random) } else { resource(random) };
    (0..count).map(|_| any(random)).map(|resource| (resource.key(), resource)).collect()
}

fn put(resource: &Resource) -> Update {
    Update { revision: Revision(0), key: resource.key(), value: Some(Arc::new(resource.clone())) }
}

fn delete(key: &Key) -> Update {
    Update { revision: Revision(0), key: key.clone(), value: None }
}

fn snapshot(objects: &BTreeMap<Key, Resource>) -> SyncEvent {
    let stored = objects.iter().map(|(key, resource)| {
        let (key, resource) = (Arc::new(key.clone()), Arc::new(resource.clone()));
        Stored { key, resource, revision: Revision(0) }
    });
    SyncEvent::Snapshot(stored.collect())
}

/// Events that end in `wanted`: each object's last update is the right one, everything else is a detour.
fn history(random: &mut Random, wanted: &BTreeMap<Key, Resource>) -> Vec<SyncEvent> {
    let mut last: Vec<Update> = wanted.values().map(put).collect();
    random.shuffle(&mut last);
    let mut updates: Vec<Update> = Vec::new();
    // Objects that are not wanted come and go; wanted ones come as something else first.
    for detour in objects(random).values() {
        updates.push(put(detour));
    }
    let gone: Vec<Key> = updates.iter().map(|update| update.key.clone()).collect();
    for update in last {
        let is_deleted_first = random.chance(20);
        updates.extend(is_deleted_first.then(|| delete(&update.key)));
        updates.push(update);
    }
    for key in gone.iter().filter(|key| !wanted.contains_key(key)) {
        let at = updates.iter().rposition(|update| update.key == *key).unwrap() + 1;
        let at = at + random.below(updates.len() - at + 1);
        updates.insert(at, delete(key));
    }
    // The store gives a snapshot at any time it has lost the history; what comes after it may be old news.
    let mut events = Vec::new();
    if random.chance(30) {
        events.push(snapshot(&objects(random)));
        events.push(snapshot(&BTreeMap::new()));
    }
    let mut rest = updates.as_slice();
    while !rest.is_empty() {
        let (group, after) = rest.split_at(1 + random.below(rest.len().min(5)));
        events.push(SyncEvent::Updates(group.to_vec()));
        if random.chance(20) {
            events.push(SyncEvent::InSync);
        }
        rest = after;
    }
    if random.chance(30) {
        events.push(snapshot(wanted));
    }
    events
}

/// The state of a node that follows events as control does: it settles whenever it likes, which must not matter.
struct Follower {
    resources: Resources,
    calculation: Calculation,
    changed: BTreeSet<Arc<Key>>,
    /// What whoever follows the changes knows.
    known: NodeState,
}

impl Default for Follower {
    fn default() -> Self {
        Self {
            resources: Resources::default(),
            calculation: Calculation::new(NODE, FelixSettings::default()),
            changed: BTreeSet::new(),
            known: NodeState::default(),
        }
    }
}

impl Follower {
    fn follow(&mut self, random: &mut Random, events: Vec<SyncEvent>) {
        for event in events {
            self.changed.extend(self.resources.follow(event));
            if random.chance(30) {
                self.settle();
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        self.calculation.update(&self.resources, &std::mem::take(&mut self.changed));
        let changes = self.calculation.take_changes();
        let state = self.calculation.state();
        // The changes lead from the state before to this one, and say nothing that is not so.
        for (set, members) in &changes.sets {
            let known = self.known.sets.entry(set.clone()).or_default();
            for (member, is_added) in members {
                assert_eq!(known.contains_key(member), !is_added, "{member:?} of {set} came or went");
                if *is_added {
                    known.insert(member.clone(), 1)
                } else {
                    known.remove(member)
                };
            }
        }
        let members = |sets: &BTreeMap<SetName, SetMembers>| -> BTreeMap<SetName, BTreeSet<Member>> {
            let filled = sets.iter().filter(|(_, members)| !members.is_empty());
            filled.map(|(set, members)| (set.clone(), members.keys().cloned().collect())).collect()
        };
        assert_eq!(members(&self.known.sets), members(&state.sets));
        for block in &changes.blocks {
            match state.blocks.get(block) {
                Some(rules) => self.known.blocks.insert(block.clone(), rules.clone()),
                None => self.known.blocks.remove(block),
            };
        }
        assert_eq!(self.known.blocks, state.blocks);
        if !changes.other {
            assert_eq!(self.known.endpoints, state.endpoints);
            assert_eq!(self.known.host_endpoints, state.host_endpoints);
            assert_eq!(self.known.static_routes, state.static_routes);
            assert_eq!(self.known.pools, state.pools);
        }
        self.known = state.clone();
    }
}

#[test]
fn any_order_and_grouping_ends_in_the_same_state() {
    with_seeds(300, |random| {
        let wanted = objects(random);
        let expected = calculate(&wanted.values().cloned().collect(), NODE, &FelixSettings::default());
        for _ in 0..4 {
            let events = history(random, &wanted);
            let mut follower = Follower::default();
            follower.follow(random, events);
            assert_eq!(follower.resources.len(), wanted.len());
            assert_eq!(*follower.calculation.state(), expected);
        }
    });
}

#[test]
fn any_order_ends_in_the_same_verdicts() {
    with_seeds(60, |random| {
        let wanted = objects(random);
        let plan = plan();
        let mut one = Node::default();
        one.resources = wanted.values().cloned().collect();
        // The other one compiles on the way: rules are numbered as they come, the verdicts stay the same.
        let mut other = Node::default();
        let mut generation = 0;
        for event in history(random, &wanted) {
            other.resources.follow(event);
            generation += 1;
            other.tables(&plan, generation);
        }
        let (tables, other_tables) = (one.tables(&plan, 1), other.tables(&plan, generation + 1));
        for _ in 0..100 {
            let fields = packet(random);
            let (name, direction) =
                (interface(random.below(ENDPOINTS)), random.pick(&[PolicyType::Ingress, PolicyType::Egress]));
            assert_eq!(
                evaluate(&tables, &one, &plan, &name, direction, &fields),
                evaluate(&other_tables, &other, &plan, &name, direction, &fields),
                "{direction} of {name}: {fields:?}"
            );
            for address in [fields.source, fields.destination] {
                assert_eq!(way(&tables, address), way(&other_tables, address), "the way to {address}");
            }
        }
    });
}

/// What becomes of packets to an address, whatever the number of the adjacency.
fn way(tables: &Tables, address: IpAddr) -> Option<(AdjacencyKind, InterfaceIndex, EndpointIndex, Vec<u8>)> {
    let adjacency = tables.adjacency(tables.route(mapped_address(address), address.is_ipv4()))?;
    Some((adjacency.kind, adjacency.interface, adjacency.endpoint, adjacency.rewrite().to_vec()))
}

#[test]
fn what_is_built_up_can_be_torn_down() {
    with_seeds(100, |random| {
        let wanted = objects(random);
        let mut follower = Follower::default();
        let events = history(random, &wanted);
        follower.follow(random, events);
        let mut keys: Vec<&Key> = wanted.keys().collect();
        random.shuffle(&mut keys);
        let events = keys.into_iter().map(|key| SyncEvent::Updates(vec![delete(key)])).collect();
        follower.follow(random, events);
        assert!(follower.resources.is_empty());
        assert_eq!(*follower.calculation.state(), NodeState::default());
    });
}
