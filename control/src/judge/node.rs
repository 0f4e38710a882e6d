//! What the router of one node would have: its tables, over interfaces that are made up around the resources.
//!
//! Every endpoint's interface is there, up and attached; so is every uplink that a host endpoint names or is found by, one
//! more for all others, and the way to the host. The host has the addresses that its host endpoints expect and that its Node
//! resource says. A host of which no address of a family is known is taken to have any that is no workload's.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use config::resource::{ALL_INTERFACES, HostEndpoint, Key, PolicyType};
use fastpath::flow::mapped_address;
use fastpath::rcu::Publisher;
use fastpath::stage::lists::{self, End, List, Step, Way};
use fastpath::stage::policy;
use fastpath::table::acl::{Decision, Outcome, Question};
use fastpath::table::interface::InterfaceKind;
use fastpath::table::{InterfaceIndex, RuleIndex, Tables, WorkerIndex};

use super::{Crossing, Place, Said};
use crate::compile::{Attachment, Choices, HostView, PolicyCompiler, RouteCompiler, RuleNames, compile};
use crate::felix::FelixSettings;
use crate::guard;
use crate::host::{InterfaceAddress, Link, LinkIndex};
use crate::policy::Calculation;
use crate::policy::decided;
use crate::policy::oracle::{Fields, Verdict};
use crate::resources::Resources;

/// Uplinks and the host's addresses on each.
pub type Uplinks = BTreeMap<String, Vec<IpAddr>>;

/// What is no uplink's name in Linux, and stands for all uplinks that nobody names.
pub const OTHER_UPLINK: &str = ALL_INTERFACES;

/// The made-up way to the host; no interface can be called so.
const HOST: &str = "to the host";

/// What the router of one node would have.
pub struct NodeTables {
    tables: Tables,
    names: RuleNames,
    workloads: HashMap<Key, InterfaceIndex>,
    uplinks: HashMap<String, InterfaceIndex>,
    host: InterfaceIndex,
    /// Which host endpoint each uplink has.
    host_endpoints: HashMap<String, Key>,
    /// The families of which the host is known to have an address: IPv4, IPv6.
    knows_own: [bool; 2],
    pub problems: Vec<String>,
}

/// The uplink of a host endpoint, where nobody knows the interfaces.
pub fn uplink_of(interface: &str, name: &str) -> String {
    if interface.is_empty() { format!("of {name}") } else { interface.to_owned() }
}

impl NodeTables {
    /// `uplinks` are those the node has; made up from its host endpoints when nobody knows.
    pub fn of(resources: &Resources, node: &str, uplinks: Option<&Uplinks>) -> Result<Self, String> {
        // Whether a source is the endpoint's own is not asked here.
        let felix = FelixSettings { allows_spoofing: true, ..FelixSettings::default() };
        let mut calculation = Calculation::new(node, felix);
        calculation.update(resources, &resources.keys().cloned().collect());
        let changes = calculation.take_changes();
        let mut names = RuleNames::default();
        let policy = PolicyCompiler::default().update(calculation.state(), &changes, &mut names);
        let state = calculation.state();
        let mut kernel = Kernel::default();
        let mut workloads = HashMap::new();
        for endpoint in &state.endpoints {
            let index = kernel.attach(&endpoint.interface, InterfaceKind::Workload, node)?;
            workloads.insert(endpoint.key.clone(), index);
        }
        let is_workloads = |name: &str| kernel.attached.contains_key(name);
        let uplinks = uplinks.cloned().unwrap_or_else(|| made_up_uplinks(resources, node, is_workloads));
        let mut by_name = HashMap::new();
        let mut addresses = Vec::new();
        for (name, own) in &uplinks {
            if kernel.attached.contains_key(name) {
                continue;
            }
            by_name.insert(name.clone(), kernel.attach(name, InterfaceKind::Uplink, node)?);
            let link = LinkIndex(kernel.links.len() as u32);
            let on_link = |address: &IpAddr| InterfaceAddress {
                link,
                address: *address,
                prefix_length: if address.is_ipv4() { 32 } else { 128 },
            };
            addresses.extend(own.iter().map(on_link));
        }
        let host = kernel.attach(HOST, InterfaceKind::Host, node)?;
        let claims = guard::claims(state, &kernel.links, &addresses, &kernel.attached);
        let key = |position: usize| state.host_endpoints[position].key.clone();
        let host_endpoints = claims.into_iter().map(|(name, position)| (name, key(position))).collect();
        let view = HostView {
            links: &kernel.links,
            neighbours: &BTreeMap::new(),
            routes: &[],
            addresses: &addresses,
            attached: &kernel.attached,
            host_link: None,
        };
        let choices = Choices { felix: state.felix.clone(), ..Choices::default() };
        let mut routes = RouteCompiler::new(Publisher::new(()).grace());
        let tables = compile(state, policy, &mut routes, &view, &choices, 1).tables;
        routes.apply();
        let own = || addresses.iter().map(|own| own.address).chain(state.node_addresses.iter().copied());
        let knows = |is_ipv4: bool| own().any(|address| address.is_ipv4() == is_ipv4 && !is_of_link(address));
        Ok(Self {
            tables,
            names,
            workloads,
            uplinks: by_name,
            host,
            host_endpoints,
            knows_own: [knows(true), knows(false)],
            problems: state.problems.clone(),
        })
    }

    /// The host endpoint of an uplink.
    pub fn host_endpoint(&self, uplink: &str) -> Option<&Key> {
        self.host_endpoints.get(uplink)
    }

    /// Whether the node has that end of a way.
    pub fn has(&self, place: &Place) -> bool {
        match place {
            Place::Workload(key) => self.workloads.contains_key(key),
            Place::Uplink(name) => self.uplinks.contains_key(name),
            Place::Stack | Place::Somebody => true,
        }
    }

    /// What one endpoint's policy says. None when another endpoint has its interface or address.
    pub fn verdict(&self, endpoint: &Key, direction: PolicyType, fields: &Fields) -> Option<Verdict> {
        let interface = self.tables.interface(*self.workloads.get(endpoint)?)?;
        let endpoint = self.tables.endpoint_of(interface)?;
        let program = match direction {
            PolicyType::Ingress => endpoint.ingress,
            PolicyType::Egress => endpoint.egress,
        };
        let decision = self.tables.policy.evaluate(program, &self.tables.policy.classify(&question(fields)));
        Some(self.named(&decision, List::WorkloadIngress))
    }

    /// What is said on a way through the node, in the order in which it is asked. None when an end of it is not there.
    pub fn cross(&self, crossing: &Crossing, before: &Fields, fields: &Fields) -> Option<Vec<Said>> {
        let (before, packet) = (question(before), question(fields));
        let (from, to) = (self.from(crossing, &packet)?, self.to(crossing, &packet)?);
        let mut said = Vec::new();
        let is_to_stack = matches!(to, End::Host | End::Kernel);
        if matches!(from, End::Workload(_)) && is_to_stack && !lists::may_reach_host(&packet, &self.tables) {
            said.push(Said::refusal(decided::ENDPOINT_TO_HOST, crossing.from.workload()));
            return Some(said);
        }
        let way = Way { from, to, before: &before, packet: &packet };
        lists::walk(&way, &self.tables, |step| match step {
            Step::Ask(list, program) => {
                let seen = if list.is_before_translation() { &before } else { &packet };
                let decision = self.tables.policy.evaluate(program, &self.tables.policy.classify(seen));
                let verdict = self.named(&decision, list);
                said.push(Said { list: Some(list), endpoint: self.whose(list, crossing), verdict });
                decision.outcome
            }
            Step::Open(list) => {
                said.push(Said::failsafe(list, self.whose(list, crossing)));
                Outcome::Undecided
            }
            Step::Refuse(reason) => {
                said.push(Said::refusal(reason.name(), crossing.from.workload()));
                Outcome::Deny
            }
        });
        Some(said)
    }

    fn from(&self, crossing: &Crossing, packet: &Question) -> Option<End<'_>> {
        match &crossing.from {
            Place::Somebody => Some(End::Kernel),
            place => self.end(place, packet.source, packet),
        }
    }

    fn to(&self, crossing: &Crossing, packet: &Question) -> Option<End<'_>> {
        match &crossing.to {
            Place::Somebody => Some(End::Workload(None)),
            place => self.end(place, packet.destination, packet),
        }
    }

    fn end(&self, place: &Place, address: u128, packet: &Question) -> Option<End<'_>> {
        let index = match place {
            Place::Workload(key) => *self.workloads.get(key)?,
            Place::Uplink(name) => *self.uplinks.get(name)?,
            Place::Stack | Place::Somebody => self.host,
        };
        // One end at a time: the other one's address plays no part.
        let alone = Question { source: address, destination: address, ..*packet };
        let (end, _) = policy::ends(false, &alone, index, index, &self.tables)?;
        let knows_own = self.knows_own[usize::from(!packet.is_ipv4)];
        Some(if matches!(end, End::Kernel) && !knows_own { End::Host } else { end })
    }

    fn whose(&self, list: List, crossing: &Crossing) -> Option<Key> {
        let place = if list.is_at_the_start() { &crossing.from } else { &crossing.to };
        match place {
            Place::Workload(key) => Some(key.clone()),
            Place::Uplink(name) => self.host_endpoints.get(name).cloned(),
            Place::Stack | Place::Somebody => None,
        }
    }

    /// A decision in the words of the oracle.
    fn named(&self, decision: &Decision, list: List) -> Verdict {
        let name = |index: RuleIndex| self.names.name(index).map(str::to_owned);
        Verdict {
            allow: !list.stops_at(decision.outcome),
            rule: name(decision.rule).unwrap_or_default(),
            log: name(decision.log),
        }
    }
}

/// Link-local and loopback addresses are nobody's own.
fn is_of_link(address: IpAddr) -> bool {
    address.is_loopback() || lists::never_leaves_a_link(mapped_address(address))
}

fn made_up_uplinks(resources: &Resources, node: &str, is_workloads: impl Fn(&str) -> bool) -> Uplinks {
    let mut uplinks = Uplinks::from([(OTHER_UPLINK.to_owned(), Vec::new())]);
    let mut given = HashSet::new();
    let mut own: Vec<&HostEndpoint> = resources.host_endpoints().filter(|host| host.spec.node == node).collect();
    // An address is on the interface that is named with it, if there is one. A workload's interface that a host endpoint
    // names stays a workload's.
    own.sort_by_key(|host| (is_workloads(&host.spec.interface_name), host.spec.interface_name.is_empty()));
    for HostEndpoint { metadata, spec } in own {
        let uplink = match is_workloads(&spec.interface_name) {
            true => OTHER_UPLINK.to_owned(),
            false => uplink_of(&spec.interface_name, &metadata.name),
        };
        let on = uplinks.entry(uplink).or_default();
        on.extend(spec.expected_ips.iter().filter(|address| given.insert(**address)));
    }
    uplinks
}

#[derive(Default)]
struct Kernel {
    links: BTreeMap<LinkIndex, Link>,
    attached: BTreeMap<String, Attachment>,
}

impl Kernel {
    fn attach(&mut self, name: &str, kind: InterfaceKind, node: &str) -> Result<InterfaceIndex, String> {
        let number = u16::try_from(self.links.len()).ok().filter(|number| *number < u16::MAX);
        let number = number.ok_or_else(|| format!("node {node} has more than {} interfaces", u16::MAX - 1))?;
        let (index, link) = (InterfaceIndex(number), LinkIndex(u32::from(number) + 1));
        self.links.insert(link, Link::named(link, name));
        self.attached.insert(name.to_owned(), Attachment { index, link, kind, owner: WorkerIndex(0) });
        Ok(index)
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
