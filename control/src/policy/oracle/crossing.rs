//! Which lists a packet meets on its way through a node, told once more and without the tables.
//!
//! Sources: Calico's documentation of host endpoints: failsafe ports, pre-DNAT policy, untracked policy, forwarded traffic.

use std::collections::HashMap;
use std::net::IpAddr;

use config::net::Cidr;
use config::resource::{EndpointToHostAction, HostEndpoint, Key, Kind, PolicyType, PortProtocol, ProtoPort, Resource};
use fastpath::stage::lists::List;

use super::{Fields, Lists, Oracle, TCP, Verdict};
use crate::judge::{Crossing, Place, Said, uplink_of};
use crate::resources::Resources;

const UDP: u8 = 17;
const SCTP: u8 = 132;
const IPIP: u8 = 4;
const ICMPV6: u8 = 58;

/// Lists that were found before: a reading of everything for each packet takes long.
pub type Known = HashMap<(Key, List), Option<Lists>>;

/// Protocol, port, and whose packets it is open for.
type Failsafe = (u8, u16, Option<Cidr>);

/// What is said, in order, up to who denies.
pub fn cross(
    resources: &Resources,
    oracle: &Oracle,
    known: &mut Known,
    crossing: &Crossing,
    before: &Fields,
    fields: &Fields,
) -> Vec<Said> {
    let node = Node::of(resources, &crossing.node);
    let mut way = Way { resources, oracle, known, said: Vec::new(), node, before, fields };
    way.go(crossing);
    way.said
}

/// The endpoint that an uplink has: of those that name it the first, or else the first that has all interfaces.
pub fn host_endpoint_at(resources: &Resources, node: &str, uplink: &str) -> Option<Key> {
    let is_workloads = |name: &str| {
        let mut workloads = resources.workload_endpoints();
        workloads.any(|endpoint| endpoint.spec.node == node && endpoint.spec.interface_name == name)
    };
    let mut all: Vec<&HostEndpoint> = resources.host_endpoints().filter(|host| host.spec.node == node).collect();
    all.sort_by(|left, right| left.metadata.name.cmp(&right.metadata.name));
    let is_it = |host: &&&HostEndpoint| match host.spec.interface_name.as_str() {
        "" => uplink == uplink_of("", &host.metadata.name),
        name => name == uplink && !is_workloads(name),
    };
    let found = all.iter().find(is_it).or_else(|| all.iter().find(|host| host.spec.interface_name == "*"));
    found.map(|host| Key::cluster(Kind::HostEndpoint, &host.metadata.name))
}

/// What holds for a node.
struct Node {
    inbound: Vec<Failsafe>,
    outbound: Vec<Failsafe>,
    own: Vec<IpAddr>,
    workloads: Vec<Cidr>,
    vxlan_port: u16,
    is_vxlan_allowed: bool,
    is_ipip_allowed: bool,
    may_reach_host: bool,
}

impl Node {
    fn of(resources: &Resources, name: &str) -> Self {
        let usual = |ports: &[(u8, u16)]| ports.iter().map(|(protocol, port)| (*protocol, *port, None)).collect();
        let cluster = [179, 2379, 2380, 5473, 6443, 6666, 6667].map(|port| (TCP, port));
        let mut node = Node {
            inbound: usual(&[&[(TCP, 22), (UDP, 68)], &cluster[..]].concat()),
            outbound: usual(&[&[(UDP, 53), (UDP, 67)], &cluster[..]].concat()),
            own: Vec::new(),
            workloads: Vec::new(),
            vxlan_port: 4789,
            is_vxlan_allowed: false,
            is_ipip_allowed: false,
            may_reach_host: false,
        };
        // What is said of one node counts more than what is said of all.
        for wanted in ["default".to_owned(), format!("node.{name}")] {
            for configuration in resources.felix_configurations().filter(|felix| felix.metadata.name == wanted) {
                let spec = &configuration.spec;
                if let Some(ports) = &spec.failsafe_inbound_host_ports {
                    node.inbound = ports.iter().map(failsafe).collect();
                }
                if let Some(ports) = &spec.failsafe_outbound_host_ports {
                    node.outbound = ports.iter().map(failsafe).collect();
                }
                if let Some(action) = spec.default_endpoint_to_host_action {
                    node.may_reach_host = action != EndpointToHostAction::Drop;
                }
                node.is_vxlan_allowed = spec.allow_vxlan_packets_from_workloads.unwrap_or(node.is_vxlan_allowed);
                node.is_ipip_allowed = spec.allow_ipip_packets_from_workloads.unwrap_or(node.is_ipip_allowed);
                if let Some(port) = spec.vxlan_port.and_then(|port| u16::try_from(port.get()).ok()) {
                    node.vxlan_port = port;
                }
            }
        }
        for host in resources.host_endpoints().filter(|host| host.spec.node == name) {
            node.own.extend(&host.spec.expected_ips);
        }
        for resource in resources.nodes().filter(|resource| resource.metadata.name == name) {
            if let Some(bgp) = &resource.spec.bgp {
                node.own.extend([bgp.ipv4_address, bgp.ipv6_address].iter().flatten().map(Cidr::address));
            }
            node.own.extend(resource.spec.addresses.iter().map(|own| own.address.address()));
        }
        node.own.retain(|address| !address.is_loopback() && !stays_on_its_link(*address));
        for endpoint in resources.workload_endpoints().filter(|endpoint| endpoint.spec.node == name) {
            node.workloads.extend(&endpoint.spec.ip_networks);
        }
        node
    }

    /// Whether the host itself has an address, or would take it for its own. Of a host that nobody knows an address of,
    /// every address may be its own.
    fn has(&self, address: IpAddr) -> bool {
        let is_known = self.own.iter().any(|own| own.is_ipv4() == address.is_ipv4());
        let is_workloads = self.workloads.iter().any(|net| net.contains(address));
        !is_known || stays_on_its_link(address) || (self.own.contains(&address) && !is_workloads)
    }
}

fn failsafe(port: &ProtoPort) -> Failsafe {
    let protocol = match port.protocol {
        Some(PortProtocol::Udp) => UDP,
        Some(PortProtocol::Sctp) => SCTP,
        _ => TCP,
    };
    (protocol, port.port, port.net)
}

fn is_open(failsafes: &[Failsafe], protocol: u8, port: u16, other: IpAddr) -> bool {
    let is_it = |failsafe: &&Failsafe| (failsafe.0, failsafe.1) == (protocol, port);
    failsafes.iter().filter(is_it).any(|(_, _, net)| net.is_none_or(|net| net.contains(other)))
}

fn stays_on_its_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_multicast() || address.is_link_local() || address.is_broadcast() || address.is_unspecified()
        }
        IpAddr::V6(address) => {
            let is_nobody = address.is_unspecified() || address.is_loopback();
            is_nobody || address.is_multicast() || address.is_unicast_link_local()
        }
    }
}

struct Way<'a> {
    resources: &'a Resources,
    oracle: &'a Oracle,
    known: &'a mut Known,
    said: Vec<Said>,
    node: Node,
    before: &'a Fields,
    fields: &'a Fields,
}

/// Whether the packet is still on its way.
#[derive(PartialEq, Eq)]
enum Goes {
    On,
    NoFurther,
}

impl Way<'_> {
    fn go(&mut self, crossing: &Crossing) {
        let is_from_host = crossing.from == Place::Stack && self.node.has(self.fields.source);
        let is_to_host = crossing.to == Place::Stack && self.node.has(self.fields.destination);
        match (&crossing.from, &crossing.to) {
            (Place::Uplink(uplink), to) => {
                let endpoint = host_endpoint_at(self.resources, &crossing.node, uplink);
                self.inward(endpoint.as_ref(), to, is_to_host);
            }
            (Place::Workload(from), to) => self.by_workload(crossing, from, to),
            (Place::Stack | Place::Somebody, Place::Uplink(uplink)) => {
                let endpoint = host_endpoint_at(self.resources, &crossing.node, uplink);
                self.outward(endpoint.as_ref(), is_from_host);
            }
            // What the host sends to its workloads is not policed.
            (Place::Stack | Place::Somebody, Place::Workload(to)) if !is_from_host => {
                self.workload(to, List::WorkloadIngress);
            }
            _ => {}
        }
    }

    fn inward(&mut self, endpoint: Option<&Key>, to: &Place, is_to_host: bool) {
        let Fields { protocol, source, source_port, destination_port, .. } = *self.before;
        let is_inbound = |port| is_open(&self.node.inbound, protocol, port, source);
        let is_reply = is_open(&self.node.outbound, protocol, source_port, source);
        let (is_failsafe, is_own_failsafe) = (is_inbound(destination_port), is_inbound(self.fields.destination_port));
        if let Some(endpoint) = endpoint {
            let is_forwarded = matches!(to, Place::Workload(_) | Place::Somebody);
            if self.host(endpoint, List::UntrackedIngress, is_failsafe || is_reply) == Goes::NoFurther {
                return;
            }
            if self.was_allowed(List::UntrackedIngress) && !is_forwarded {
                return;
            }
            if self.host(endpoint, List::PreDnat, is_failsafe) == Goes::NoFurther {
                return;
            }
            if is_to_host {
                self.host(endpoint, List::HostIngress, is_own_failsafe);
                return;
            }
            if self.host(endpoint, List::ForwardIngress, false) == Goes::NoFurther {
                return;
            }
        }
        if let Place::Workload(to) = to {
            self.workload(to, List::WorkloadIngress);
        }
    }

    fn outward(&mut self, endpoint: Option<&Key>, is_from_host: bool) {
        let Some(endpoint) = endpoint else { return };
        if !is_from_host {
            self.host(endpoint, List::ForwardEgress, false);
            return;
        }
        let seen = self.before;
        let to = |seen: &Fields| is_open(&self.node.outbound, seen.protocol, seen.destination_port, seen.destination);
        let (is_failsafe, is_own_failsafe) = (to(seen), to(self.fields));
        let is_reply = is_open(&self.node.inbound, seen.protocol, seen.source_port, seen.destination);
        let goes = self.host(endpoint, List::UntrackedEgress, is_failsafe || is_reply);
        if goes == Goes::On && !self.was_allowed(List::UntrackedEgress) {
            self.host(endpoint, List::HostEgress, is_own_failsafe);
        }
    }

    fn by_workload(&mut self, crossing: &Crossing, from: &Key, to: &Place) {
        let Fields { protocol, destination_port, icmp, source, .. } = *self.fields;
        // Multicast listeners, router solicitations, neighbour discovery.
        let keeps_the_link = !source.is_ipv4()
            && protocol == ICMPV6
            && icmp.is_some_and(|(kind, _)| [130, 131, 132, 133, 135, 136].contains(&kind));
        if *to == Place::Stack {
            if keeps_the_link {
                return;
            }
            if !self.node.may_reach_host {
                self.said.push(Said::refusal("endpoint_to_host", Some(from.clone())));
                return;
            }
        }
        if protocol == IPIP && !self.node.is_ipip_allowed {
            self.said.push(Said::refusal("workload_ipip", Some(from.clone())));
            return;
        }
        if protocol == UDP && destination_port == self.node.vxlan_port && !self.node.is_vxlan_allowed {
            self.said.push(Said::refusal("workload_vxlan", Some(from.clone())));
            return;
        }
        if self.workload(from, List::WorkloadEgress) == Goes::NoFurther {
            return;
        }
        match to {
            Place::Workload(to) => _ = self.workload(to, List::WorkloadIngress),
            Place::Uplink(uplink) => {
                if let Some(endpoint) = host_endpoint_at(self.resources, &crossing.node, uplink) {
                    self.host(&endpoint, List::ForwardEgress, false);
                }
            }
            Place::Stack | Place::Somebody => {}
        }
    }

    fn workload(&mut self, key: &Key, list: List) -> Goes {
        let resources = self.resources;
        let lists = self.known.entry((key.clone(), list)).or_insert_with(|| match resources.get(key) {
            Some(Resource::WorkloadEndpoint(endpoint)) => {
                let direction = if list == List::WorkloadIngress { INGRESS } else { EGRESS };
                Some(Lists::of_workload(resources, endpoint, direction))
            }
            _ => None,
        });
        let Some(lists) = lists else { return Goes::NoFurther };
        let verdict = self.oracle.judge(lists, self.fields);
        self.say(list, key, verdict)
    }

    fn host(&mut self, key: &Key, list: List, is_failsafe: bool) -> Goes {
        let resources = self.resources;
        let lists = self.known.entry((key.clone(), list)).or_insert_with(|| match resources.get(key) {
            Some(Resource::HostEndpoint(endpoint)) => Lists::of_host(resources, endpoint, list),
            _ => None,
        });
        let Some(lists) = lists else { return Goes::On };
        if is_failsafe {
            self.said.push(Said::failsafe(list, Some(key.clone())));
            return Goes::On;
        }
        let is_early = matches!(list, List::UntrackedIngress | List::UntrackedEgress | List::PreDnat);
        let verdict = self.oracle.judge(lists, if is_early { self.before } else { self.fields });
        self.say(list, key, verdict)
    }

    fn say(&mut self, list: List, key: &Key, verdict: Verdict) -> Goes {
        let goes = if verdict.allow { Goes::On } else { Goes::NoFurther };
        self.said.push(Said { list: Some(list), endpoint: Some(key.clone()), verdict });
        goes
    }

    /// Whether a rule of the list allowed the packet.
    fn was_allowed(&self, list: List) -> bool {
        let of_list = self.said.iter().rev().find(|said| said.list == Some(list));
        of_list.is_some_and(|said| said.verdict.allow && said.verdict.rule.contains('['))
    }
}

const INGRESS: PolicyType = PolicyType::Ingress;
const EGRESS: PolicyType = PolicyType::Egress;
