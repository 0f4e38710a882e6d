//! Verdicts of the production classifier where no router runs.
//!
//! ```text
//! Resources ─policy::calculate─▶ NodeState ─compile─▶ Tables ─classify, evaluate─▶ verdict, rule
//!            once for every node whose endpoints are asked about
//! ```
//!
//! A node is made up around the calculation: every interface that endpoints name is there, up and attached. Nothing else
//! differs from what a router does with the same resources.
//!
//! Invariant: nodes are calculated at most once. Left out: routes, and what host endpoints say.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use config::net::Cidr;
use config::resource::{Key, Kind, PolicyType, Resource, WorkloadEndpoint};
use fastpath::flow::mapped_address;
use fastpath::table::acl::{Outcome, Question};
use fastpath::table::interface::InterfaceKind;
use fastpath::table::{InterfaceIndex, RuleIndex, Tables, WorkerIndex};

use crate::compile::{Attachment, Choices, HostView, PolicyCompiler, RuleNames, compile};
use crate::felix::FelixSettings;
use crate::host::{Link, LinkIndex};
use crate::policy::Calculation;
use crate::policy::oracle::{Fields, Lists, Oracle, Verdict};
use crate::resources::Resources;

/// The naive reading, and the lists of rules it has found so far.
type Naive = (Oracle, HashMap<(Key, PolicyType), Lists>);

/// Resources that can be asked about packets.
pub struct Judge {
    resources: Resources,
    nodes: BTreeMap<String, NodeTables>,
    /// Endpoints by the addresses that are theirs alone.
    owners: HashMap<IpAddr, Key>,
    /// The few that own more than single addresses.
    prefixes: Vec<(Cidr, Key)>,
    /// Each by its name, and by the name of its pod.
    named: HashMap<String, Key>,
    /// By interface name: node and endpoint.
    interfaces: HashMap<String, Vec<(String, Key)>>,
    /// The naive reading of the resources, when that is asked in place of the tables.
    oracle: Option<Naive>,
}

/// What the router of one node would have.
struct NodeTables {
    tables: Tables,
    names: RuleNames,
    interfaces: HashMap<Key, InterfaceIndex>,
    problems: Vec<String>,
}

impl Judge {
    pub fn new(resources: Resources, by_oracle: bool) -> Self {
        let resources = with_interfaces(resources);
        let mut judge = Self {
            nodes: BTreeMap::new(),
            owners: HashMap::new(),
            prefixes: Vec::new(),
            named: HashMap::new(),
            interfaces: HashMap::new(),
            oracle: by_oracle.then(|| (Oracle::new(&resources), HashMap::new())),
            resources,
        };
        for endpoint in judge.resources.workload_endpoints() {
            let key = key_of(endpoint);
            let namespace = key.namespace.clone().unwrap_or_default();
            for network in &endpoint.spec.ip_networks {
                match network.is_host() {
                    true => drop(judge.owners.entry(network.address()).or_insert_with(|| key.clone())),
                    false => judge.prefixes.push((*network, key.clone())),
                }
            }
            let on_interface = judge.interfaces.entry(endpoint.spec.interface_name.clone()).or_default();
            on_interface.push((endpoint.spec.node.clone(), key.clone()));
            for name in [&endpoint.spec.pod, &endpoint.spec.workload].into_iter().filter(|name| !name.is_empty()) {
                judge.named.entry(format!("{namespace}/{name}")).or_insert_with(|| key.clone());
            }
        }
        let by_name = judge.resources.workload_endpoints().map(key_of);
        judge
            .named
            .extend(by_name.map(|key| (format!("{}/{}", key.namespace.as_deref().unwrap_or_default(), key.name), key)));
        judge
    }

    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// The endpoint called `namespace/name` or `namespace/pod`.
    pub fn endpoint(&self, name: &str) -> Result<Key, String> {
        let expected = "namespace/name of a WorkloadEndpoint, or namespace/pod";
        self.named.get(name).cloned().ok_or_else(|| format!("endpoint: found \"{name}\", expected {expected}"))
    }

    /// The endpoint behind an interface, of one node or of all.
    pub fn on_interface(&self, name: &str, node: Option<&str>) -> Result<Key, String> {
        let known = self.interfaces.get(name).map(Vec::as_slice).unwrap_or_default();
        let mut found = known.iter().filter(|(on, _)| node.is_none_or(|node| on == node));
        let Some((first, key)) = found.next() else {
            return Err(format!("interface: found \"{name}\", expected the interface of a WorkloadEndpoint"));
        };
        match found.find(|(other, _)| other != first) {
            Some((other, _)) => Err(format!(
                "interface: found \"{name}\" on the nodes {first} and {other}, expected one; say which with --node"
            )),
            // Should two on one node claim it, the other one's problem names this one.
            None => Ok(key.clone()),
        }
    }

    /// The endpoint that an address belongs to.
    pub fn owner(&self, address: IpAddr) -> Option<Key> {
        let covering = || self.prefixes.iter().filter(|(prefix, _)| prefix.contains(address));
        let by_prefix = || covering().max_by_key(|(prefix, _)| prefix.length()).map(|(_, key)| key.clone());
        self.owners.get(&address).cloned().or_else(by_prefix)
    }

    /// The node an endpoint is on.
    pub fn node_of(&self, endpoint: &Key) -> Option<&str> {
        match self.resources.get(endpoint)? {
            Resource::WorkloadEndpoint(endpoint) => Some(&endpoint.spec.node),
            _ => None,
        }
    }

    /// What the endpoint's policy says about the first packet of a flow that it sends (egress) or receives (ingress).
    pub fn verdict(&mut self, endpoint: &Key, direction: PolicyType, fields: &Fields) -> Result<Verdict, String> {
        let Some(Resource::WorkloadEndpoint(resource)) = self.resources.get(endpoint) else {
            return Err(format!("{endpoint} is not among the resources"));
        };
        if let Some((oracle, lists)) = &mut self.oracle {
            let lists = lists.entry((endpoint.clone(), direction));
            let lists = lists.or_insert_with(|| Lists::of_workload(&self.resources, resource, direction));
            return Ok(oracle.judge(lists, fields));
        }
        let node = &resource.spec.node;
        if !self.nodes.contains_key(node) {
            let tables = NodeTables::of(&self.resources, node)?;
            self.nodes.insert(node.clone(), tables);
        }
        let of_node = &self.nodes[node];
        of_node.verdict(endpoint, direction, fields).ok_or_else(|| {
            let name = &endpoint.name;
            let about = of_node.problems.iter().find(|problem| problem.contains(name.as_str()));
            about.cloned().unwrap_or_else(|| format!("{endpoint} is inactive on node {node}"))
        })
    }
}

impl NodeTables {
    fn of(resources: &Resources, node: &str) -> Result<Self, String> {
        // Whether a source is the endpoint's own is not asked here.
        let felix = FelixSettings { allows_spoofing: true, ..FelixSettings::default() };
        let mut calculation = Calculation::new(node, felix);
        calculation.update(resources, &resources.keys().cloned().collect());
        let changes = calculation.take_changes();
        let mut names = RuleNames::default();
        let policy = PolicyCompiler::default().update(calculation.state(), &changes, &mut names);
        let state = calculation.state();
        let mut links = BTreeMap::new();
        let mut attached = BTreeMap::new();
        let mut interfaces = HashMap::new();
        for (position, endpoint) in state.endpoints.iter().enumerate() {
            let number = u16::try_from(position).ok().filter(|number| *number < u16::MAX);
            let number = number.ok_or_else(|| format!("node {node} has more than {} endpoints", u16::MAX - 1))?;
            let (index, link) = (InterfaceIndex(number), LinkIndex(u32::from(number) + 1));
            let name = endpoint.interface.clone();
            links.insert(link, made_up_link(link, &name));
            let attachment = Attachment { index, link, kind: InterfaceKind::Workload, owner: WorkerIndex(0) };
            attached.insert(name, attachment);
            interfaces.insert(endpoint.key.clone(), index);
        }
        let host = HostView {
            links: &links,
            neighbours: &BTreeMap::new(),
            routes: &[],
            addresses: &[],
            attached: &attached,
            host_link: None,
        };
        let tables = compile(state, policy, &host, &Choices::default(), 1).tables;
        Ok(Self { tables, names, interfaces, problems: state.problems.clone() })
    }

    /// None when another endpoint has its interface or address.
    fn verdict(&self, endpoint: &Key, direction: PolicyType, fields: &Fields) -> Option<Verdict> {
        let interface = self.tables.interface(*self.interfaces.get(endpoint)?)?;
        let endpoint = self.tables.endpoint_of(interface)?;
        let program = match direction {
            PolicyType::Ingress => endpoint.ingress,
            PolicyType::Egress => endpoint.egress,
        };
        let decision = self.tables.policy.evaluate(program, &self.tables.policy.classify(&question(fields)));
        let name = |index: RuleIndex| self.names.name(index).map(str::to_owned);
        Some(Verdict {
            allow: decision.outcome == Outcome::Allow,
            rule: name(decision.rule).unwrap_or_default(),
            log: name(decision.log),
        })
    }
}

/// A packet as the classifier is asked about it.
pub fn question(fields: &Fields) -> Question {
    Question {
        source: mapped_address(fields.source),
        destination: mapped_address(fields.destination),
        is_ipv4: fields.source.is_ipv4(),
        protocol: fields.protocol,
        source_port: fields.source_port,
        destination_port: fields.destination_port,
        icmp: fields.icmp,
    }
}

fn key_of(endpoint: &WorkloadEndpoint) -> Key {
    let namespace = endpoint.metadata.namespace.clone().unwrap_or_default();
    Key::namespaced(Kind::WorkloadEndpoint, namespace, &endpoint.metadata.name)
}

/// An endpoint whose interface is not said gets one of its own: it is about to be asked, not attached.
fn with_interfaces(resources: Resources) -> Resources {
    let unnamed: Vec<WorkloadEndpoint> =
        resources.workload_endpoints().filter(|endpoint| endpoint.spec.interface_name.is_empty()).cloned().collect();
    let mut resources = resources;
    for (number, mut endpoint) in unnamed.into_iter().enumerate() {
        endpoint.spec.interface_name = format!("unnamed-{number}");
        resources.put(Resource::WorkloadEndpoint(endpoint));
    }
    resources
}

fn made_up_link(index: LinkIndex, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mac: None,
        mtu: 1500,
        up: true,
        running: true,
        loopback: false,
        kind: None,
        tx_queues: 1,
        rx_queues: 1,
        xdp: None,
        peer: None,
        controller: None,
    }
}

#[cfg(test)]
mod tests;
