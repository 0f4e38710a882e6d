//! What is said about packets where no router runs.
//!
//! ```text
//! Resources ─policy::calculate─▶ NodeState ─compile─▶ Tables ─lists::walk─▶ verdicts, rules
//!            once for every node whose endpoints are asked about
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `node.rs` | the tables of a node, and the lists they ask: the same as the stage |
//! | `places.rs` | whose addresses, interfaces and names are whose |
//! | `ask.rs` | whose policy a question means, and which ways a packet takes |
//!
//! A node is made up around the calculation: every interface that endpoints name is there, up and attached. Nothing else
//! differs from what a router does with the same resources. With the oracle, what the tables say is replaced by a naive
//! reading of the resources; the question stays the same.
//!
//! Invariant: nodes are calculated at most once. Left out: routes.

mod ask;
mod node;
mod places;

use std::collections::{BTreeMap, HashMap};

use config::resource::{Key, PolicyType, Resource};
use fastpath::stage::lists::List;

pub use ask::Question;
pub use node::{OTHER_UPLINK, Uplinks, question, uplink_of};

use crate::policy::decided;
use crate::policy::oracle::{Fields, Lists, Oracle, Verdict, crossing};
use crate::resources::Resources;
use node::NodeTables;
use places::Places;

/// The naive reading, and the lists of rules it has found so far.
type Naive = (Oracle, HashMap<(Key, PolicyType), Lists>, crossing::Known);

/// Resources that can be asked about packets.
pub struct Judge {
    resources: Resources,
    places: Places,
    nodes: BTreeMap<String, NodeTables>,
    /// The uplinks of the node that is real.
    real: Option<(String, Uplinks)>,
    /// The naive reading of the resources, when that is asked in place of the tables.
    oracle: Option<Naive>,
}

/// One end of a packet's way through a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Workload(Key),
    /// By the name of the interface.
    Uplink(String),
    /// The host's stack: its processes, or its kernel that forwards, by the address.
    Stack,
    /// Whom the node forwards for, and whose policy is not asked.
    Somebody,
}

impl Place {
    fn workload(&self) -> Option<Key> {
        match self {
            Place::Workload(key) => Some(key.clone()),
            _ => None,
        }
    }
}

/// A packet's way through a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossing {
    pub node: String,
    pub from: Place,
    pub to: Place,
}

/// What one list said, or what stood in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// None where it is no list's word.
    pub list: Option<List>,
    pub endpoint: Option<Key>,
    /// Without a rule when nothing in the list decided and the packet goes on.
    pub verdict: Verdict,
}

impl Said {
    /// A list that is not asked, because of the port.
    pub fn failsafe(list: List, endpoint: Option<Key>) -> Self {
        let verdict = Verdict { allow: true, rule: decided::failsafe(list), log: None };
        Self { list: Some(list), endpoint, verdict }
    }

    pub fn refusal(name: &str, endpoint: Option<Key>) -> Self {
        Self { list: None, endpoint, verdict: Verdict { allow: false, rule: name.to_owned(), log: None } }
    }

    pub fn direction(&self) -> PolicyType {
        self.list.map_or(PolicyType::Egress, decided::direction)
    }
}

/// What comes of a way: the last decision, or, when no list decided, that the packet goes on.
pub fn conclusion(said: &[Said]) -> Verdict {
    let log = said.iter().find_map(|said| said.verdict.log.clone());
    let last = said.iter().rev().find(|said| !said.verdict.rule.is_empty());
    match last {
        Some(said) => said.verdict.clone(),
        None => Verdict { allow: true, rule: decided::NOTHING_DENIES.to_owned(), log },
    }
}

impl Judge {
    pub fn new(resources: Resources, by_oracle: bool) -> Self {
        let resources = places::with_interfaces(resources);
        Self {
            nodes: BTreeMap::new(),
            real: None,
            places: Places::of(&resources),
            oracle: by_oracle.then(|| (Oracle::new(&resources), HashMap::new(), crossing::Known::default())),
            resources,
        }
    }

    /// For the node that is real: its uplinks, and the host's addresses on each.
    pub fn with_uplinks(self, node: &str, uplinks: Uplinks) -> Self {
        Self { real: Some((node.to_owned(), uplinks)), ..self }
    }

    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// What the endpoint's policy says about the first packet of a flow that it sends (egress) or receives (ingress).
    pub fn verdict(&mut self, endpoint: &Key, direction: PolicyType, fields: &Fields) -> Result<Verdict, String> {
        let Some(Resource::WorkloadEndpoint(resource)) = self.resources.get(endpoint) else {
            return Err(format!("{endpoint} is not among the resources"));
        };
        if let Some((oracle, lists, _)) = &mut self.oracle {
            let lists = lists.entry((endpoint.clone(), direction));
            let lists = lists.or_insert_with(|| Lists::of_workload(&self.resources, resource, direction));
            return Ok(oracle.judge(lists, fields));
        }
        let node = resource.spec.node.clone();
        let found = self.tables(&node)?.verdict(endpoint, direction, fields);
        found.ok_or_else(|| self.why_inactive(&node, endpoint))
    }

    /// What is said on the way, in the order in which a router asks. `before` is the packet before its destination was
    /// translated.
    pub fn cross(&mut self, crossing: &Crossing, before: &Fields, fields: &Fields) -> Result<Vec<Said>, String> {
        if matches!((&crossing.from, &crossing.to), (Place::Uplink(_), Place::Uplink(_))) {
            return Err("a node does not forward from one uplink to another".to_owned());
        }
        if let Some((oracle, _, known)) = &mut self.oracle {
            return Ok(crossing::cross(&self.resources, oracle, known, crossing, before, fields));
        }
        let found = self.tables(&crossing.node)?.cross(crossing, before, fields);
        found.ok_or_else(|| {
            let known = &self.nodes[&crossing.node];
            let missing = [&crossing.from, &crossing.to].into_iter().find(|place| !known.has(place));
            match missing {
                Some(Place::Workload(key)) => self.why_inactive(&crossing.node, key),
                Some(Place::Uplink(name)) => format!("node {} has no uplink {name}", crossing.node),
                _ => format!("node {} has no such interface", crossing.node),
            }
        })
    }

    fn tables(&mut self, node: &str) -> Result<&NodeTables, String> {
        if !self.nodes.contains_key(node) {
            let real = self.real.as_ref().filter(|(name, _)| name == node).map(|(_, uplinks)| uplinks);
            let tables = NodeTables::of(&self.resources, node, real)?;
            self.nodes.insert(node.to_owned(), tables);
        }
        Ok(&self.nodes[node])
    }

    fn why_inactive(&self, node: &str, endpoint: &Key) -> String {
        let problems = self.nodes.get(node).map(|tables| tables.problems.as_slice()).unwrap_or_default();
        let about = problems.iter().find(|problem| problem.contains(endpoint.name.as_str()));
        about.cloned().unwrap_or_else(|| format!("{endpoint} is inactive on node {node}"))
    }
}

#[cfg(test)]
mod tests;
