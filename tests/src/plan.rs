//! A small node as a test describes it, and the tables that follow from it.
//!
//! A `Plan` is plain data: attachments, routes, and per endpoint an ordered list of rules in each direction. `tables`
//! turns it into what workers read; `model` reads the same plan the slow way. Nothing here uses the control crate, so a
//! test of the fast path fails for a fault of the fast path only.
//!
//! ```text
//!      a 10.0.0.1 fd00::1 ─┐                  ┌─ up    192.0.2.0/24, 2001:db8::/32 by a neighbour
//!      b 10.0.0.2 fd00::2 ─┼─ [ Plan::small ] ┤
//!      c 10.0.0.3 fd00::3 ─┘                  └─ host  10.9.9.9, fd09::9
//!      10.66/16, fd66::/16 blackhole    10.77/16, fd77::/16 unresolved    10.88/16, fd88::/16 unreachable
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use fastpath::flow::translation::Sources;
use fastpath::flow::{MAPPED_PREFIX, mapped_address};
use fastpath::header::ethernet;
use fastpath::table::acl::{
    Acl, AclSpec, Action, AddressRange, IcmpMatch, L4Match, PortRange, ProgramEnd, ProgramSpec, RuleSpec, SideMatch,
    TierEnd, TierSpec,
};
use fastpath::table::adjacency::{Adjacency, AdjacencyKind};
use fastpath::table::group::Buckets;
use fastpath::table::interface::{
    Endpoint, Failsafe, Failsafes, HostEndpoint, Interface, InterfaceKind, WorkloadTunnels,
};
use fastpath::table::routes::Routes;
use fastpath::table::translation::{Ports, Ranges, Translations};
use fastpath::table::{
    AdjacencyIndex, EndpointIndex, GroupIndex, HostEndpointIndex, InterfaceIndex, PolicyChange, ProgramIndex,
    RouterAddresses, RuleIndex, Tables, WorkerIndex,
};

use crate::packet::{Link, Mac, ToAddress};

/// The MAC address of every workload interface, as in Calico.
pub const OUR_MAC: Mac = [0xee; 6];
pub const MTU: u16 = 1500;

/// A prefix: address and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net(pub IpAddr, pub u8);

impl Net {
    pub fn new(text: &str) -> Net {
        let (address, length) = text.split_once('/').unwrap_or((text, ""));
        let address = address.to_address();
        let most = if address.is_ipv4() { 32 } else { 128 };
        Net(address, length.parse().unwrap_or(most))
    }

    /// First and last address, in the form that policy uses. An IPv6 prefix around the mapped IPv4 addresses has a
    /// hole there: it says nothing about IPv4.
    pub fn ranges(self) -> Vec<AddressRange> {
        const MAPPED: AddressRange = (MAPPED_PREFIX, MAPPED_PREFIX | 0xffff_ffff);
        let (first, last) = self.range();
        if self.0.is_ipv4() || last < MAPPED.0 || first > MAPPED.1 {
            return vec![(first, last)];
        }
        vec![(first, MAPPED.0 - 1), (MAPPED.1 + 1, last)]
    }

    fn range(self) -> AddressRange {
        let address = mapped_address(self.0);
        let length = u32::from(self.1) + if self.0.is_ipv4() { 96 } else { 0 };
        let host = u128::MAX.checked_shr(length).unwrap_or(0);
        (address & !host, address | host)
    }

    pub fn contains(self, address: IpAddr) -> bool {
        let (first, last) = self.range();
        address.is_ipv4() == self.0.is_ipv4() && (first..=last).contains(&mapped_address(address))
    }
}

/// A rule; empty lists do not constrain.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub deny: bool,
    pub is_ipv4: Option<bool>,
    pub protocol: Option<u8>,
    pub icmp: Option<(u8, Option<u8>)>,
    pub from: Vec<Net>,
    pub to: Vec<Net>,
    pub from_ports: Vec<PortRange>,
    pub to_ports: Vec<PortRange>,
    /// Note the packet and go on.
    pub log: bool,
}

impl Rule {
    pub fn allow(protocol: u8) -> Rule {
        Rule { protocol: Some(protocol), ..Rule::default() }
    }

    pub fn to_port(mut self, port: u16) -> Rule {
        self.to_ports.push((port, port));
        self
    }

    pub fn from_net(mut self, net: &str) -> Rule {
        self.from.push(Net::new(net));
        self
    }

    pub fn to_net(mut self, net: &str) -> Rule {
        self.to.push(Net::new(net));
        self
    }
}

/// What an endpoint enforces in one direction.
#[derive(Clone, Debug)]
pub struct Rules {
    pub rules: Vec<Rule>,
    /// What happens to a packet that no rule matches.
    pub otherwise_allow: bool,
}

impl Rules {
    /// No policy applies.
    pub fn open() -> Rules {
        Rules { rules: Vec::new(), otherwise_allow: true }
    }

    /// Only what these allow.
    pub fn only(rules: impl IntoIterator<Item = Rule>) -> Rules {
        Rules { rules: rules.into_iter().collect(), otherwise_allow: false }
    }
}

/// What an uplink enforces towards the host behind it. None: no policy in that list.
#[derive(Clone, Debug)]
pub struct HostLists {
    pub untracked_ingress: Option<Vec<Rule>>,
    pub untracked_egress: Option<Vec<Rule>>,
    pub pre_dnat: Option<Vec<Rule>>,
    pub forward_ingress: Option<Rules>,
    pub forward_egress: Option<Rules>,
    pub ingress: Rules,
    pub egress: Rules,
}

impl Default for HostLists {
    /// Everything passes.
    fn default() -> Self {
        HostLists {
            untracked_ingress: None,
            untracked_egress: None,
            pre_dnat: None,
            forward_ingress: None,
            forward_egress: None,
            ingress: Rules::open(),
            egress: Rules::open(),
        }
    }
}

/// An attachment and what is behind it.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub name: String,
    pub kind: InterfaceKind,
    /// Ours.
    pub mac: Mac,
    /// That of the workload or next hop.
    pub peer_mac: Mac,
    pub mtu: u16,
    pub tags: [u16; 2],
    pub owner: u16,
    pub is_up: bool,
    /// False: the tables say nothing about it.
    pub is_known: bool,
    /// Of a workload: what it may send from, and what is routed to it. Of an uplink: the host's own there.
    pub addresses: Vec<IpAddr>,
    /// Of a workload: false means that nothing is known about it.
    pub has_endpoint: bool,
    pub egress: Rules,
    pub ingress: Rules,
    /// Of an uplink.
    pub host: Option<HostLists>,
    /// Of an uplink: what translated sources have outside.
    pub outside: Vec<IpAddr>,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the attachment of that name, to its peer.
    Via(String),
    /// By the attachment, whose peer's MAC address is not known.
    Unresolved(String),
    Unreachable(String),
    Blackhole,
    /// By one of these attachments, to its peer; in turn over the buckets of a group. By none: every next hop is gone.
    Choice(Vec<String>),
}

/// A node.
#[derive(Clone, Debug)]
pub struct Plan {
    pub attachments: Vec<Attachment>,
    /// Beside those to the endpoints' own addresses.
    pub routes: Vec<(Net, Way)>,
    pub addresses: RouterAddresses,
    pub policy_change: PolicyChange,
    pub endpoint_to_host: bool,
    /// What workloads ask DHCP servers goes to control.
    pub relays_dhcp: bool,
    /// Ports of the host that are never closed, and ports it may always reach: protocol and port.
    pub failsafe_inbound: Vec<(u8, u16)>,
    pub failsafe_outbound: Vec<(u8, u16)>,
    pub workload_tunnels: WorkloadTunnels,
    /// Whose sources are translated, but not on the way to whom.
    pub translated: Vec<Net>,
    pub exempt: Vec<Net>,
    pub ports: Ports,
}

impl Attachment {
    pub fn workload(name: &str, number: u8, addresses: &[&str]) -> Attachment {
        Attachment {
            name: name.to_string(),
            kind: InterfaceKind::Workload,
            mac: OUR_MAC,
            peer_mac: [2, 0, 0, 0, 0, number],
            mtu: MTU,
            tags: [0; 2],
            owner: 0,
            is_up: true,
            is_known: true,
            addresses: addresses.iter().map(|address| address.to_address()).collect(),
            has_endpoint: true,
            egress: Rules::open(),
            ingress: Rules::open(),
            host: None,
            outside: Vec::new(),
        }
    }

    pub fn shared(name: &str, number: u8, kind: InterfaceKind) -> Attachment {
        Attachment {
            kind,
            mac: [2, 0xaa, 0, 0, 0, number],
            peer_mac: [2, 0xbb, 0, 0, 0, number],
            has_endpoint: false,
            ..Attachment::workload(name, number, &[])
        }
    }

    /// The layer 2 header of a frame that the peer sends us.
    pub fn link(&self) -> Link {
        Link { destination: self.mac, source: self.peer_mac, tags: self.tags }
    }
}

impl Plan {
    /// The node in the file's header: everything may talk to everything.
    pub fn small() -> Plan {
        let route = |net: &str, way: Way| (Net::new(net), way);
        let up = || "up".to_string();
        Plan {
            attachments: vec![
                Attachment::workload("a", 1, &["10.0.0.1", "fd00::1"]),
                Attachment::workload("b", 2, &["10.0.0.2", "fd00::2"]),
                Attachment::workload("c", 3, &["10.0.0.3", "fd00::3"]),
                Attachment::shared("up", 4, InterfaceKind::Uplink),
                Attachment::shared("host", 5, InterfaceKind::Host),
            ],
            routes: vec![
                route("192.0.2.0/24", Way::Via(up())),
                route("2001:db8::/32", Way::Via(up())),
                route("10.9.9.9", Way::Via("host".to_string())),
                route("fd09::9", Way::Via("host".to_string())),
                route("10.66.0.0/16", Way::Blackhole),
                route("fd66::/16", Way::Blackhole),
                route("10.77.0.0/16", Way::Unresolved(up())),
                route("fd77::/16", Way::Unresolved(up())),
                route("10.88.0.0/16", Way::Unreachable(up())),
                route("fd88::/16", Way::Unreachable(up())),
            ],
            addresses: RouterAddresses {
                node_ipv4: Some(u32::from_be_bytes([10, 9, 9, 9])),
                node_ipv6: Some(0xfd09_0000_0000_0000_0000_0000_0000_0009),
            },
            policy_change: PolicyChange::Preserve,
            endpoint_to_host: false,
            relays_dhcp: false,
            failsafe_inbound: Vec::new(),
            failsafe_outbound: Vec::new(),
            workload_tunnels: WorkloadTunnels::default(),
            translated: Vec::new(),
            exempt: Vec::new(),
            ports: Ports::default(),
        }
    }

    /// The same, translated: workloads have other sources outside, which are the host's addresses on the uplink.
    pub fn translating() -> Plan {
        let mut plan = Plan::small();
        plan.translated = vec![Net::new("10.0.0.0/24"), Net::new("fd00::/64")];
        plan.exempt = plan.translated.clone();
        let up = plan.at_mut("up");
        up.outside = vec!["192.0.2.254".to_address(), "2001:db8::fe".to_address()];
        up.addresses = up.outside.clone();
        plan
    }

    pub fn index(&self, name: &str) -> InterfaceIndex {
        let position = self.attachments.iter().position(|attachment| attachment.name == name);
        InterfaceIndex(position.unwrap_or_else(|| panic!("no attachment {name:?}")) as u16)
    }

    pub fn at(&self, name: &str) -> &Attachment {
        &self.attachments[self.index(name).index()]
    }

    pub fn at_mut(&mut self, name: &str) -> &mut Attachment {
        let index = self.index(name).index();
        &mut self.attachments[index]
    }

    /// All routes: those given and one to each address of each endpoint.
    pub fn all_routes(&self) -> Vec<(Net, Way)> {
        let host = self.attachments.iter().find(|attachment| attachment.kind == InterfaceKind::Host);
        let own = self.attachments.iter().flat_map(|attachment| {
            let holder = host.filter(|_| attachment.kind == InterfaceKind::Uplink).unwrap_or(attachment);
            attachment.addresses.iter().map(|address| (Net::new(&address.to_string()), Way::Via(holder.name.clone())))
        });
        self.routes.iter().cloned().chain(own).collect()
    }

    /// What workers read.
    pub fn tables(&self, generation: u32) -> Tables {
        let mut builder = Builder::default();
        let failsafe =
            |(protocol, port): &(u8, u16)| Failsafe { protocol: *protocol, port: *port, remote: (0, u128::MAX) };
        let all = |ports: &[(u8, u16)]| ports.iter().map(failsafe).collect();
        let mut tables = Tables {
            generation,
            addresses: self.addresses,
            policy_change: self.policy_change,
            endpoint_to_host: self.endpoint_to_host,
            relays_dhcp: self.relays_dhcp,
            failsafes: Failsafes { inbound: all(&self.failsafe_inbound), outbound: all(&self.failsafe_outbound) },
            workload_tunnels: self.workload_tunnels,
            ..Tables::default()
        };
        for attachment in &self.attachments {
            let mut endpoint = EndpointIndex::NONE;
            if attachment.has_endpoint {
                endpoint = EndpointIndex(tables.endpoints.len() as u32);
                tables.endpoints.push(Endpoint {
                    sources: attachment.addresses.iter().map(|a| (mapped_address(*a), mapped_address(*a))).collect(),
                    egress: builder.program(&attachment.egress),
                    ingress: builder.program(&attachment.ingress),
                });
            }
            let mut host_endpoint = HostEndpointIndex::NONE;
            if let Some(lists) = &attachment.host {
                host_endpoint = HostEndpointIndex(tables.host_endpoints.len() as u16);
                tables.host_endpoints.push(builder.host_endpoint(lists));
            }
            let (to_host, from_host) = self.passage(attachment, &mut tables);
            tables.interfaces.push(attachment.is_known.then_some(Interface {
                kind: attachment.kind,
                mac: attachment.mac,
                mtu: attachment.mtu,
                tags: attachment.tags,
                owner: WorkerIndex(attachment.owner),
                endpoint,
                is_up: attachment.is_up,
                host_endpoint,
                to_host,
                from_host,
                outside: [None; 2],
            }));
        }
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for (net, way) in self.all_routes() {
            let way_out = match &way {
                Way::Choice(owners) => self.choice(owners, &mut tables),
                way => self.adjacency(way, &tables),
            };
            let adjacency = tables.adjacencies.len() as u32;
            tables.adjacencies.push(way_out);
            match net.0 {
                IpAddr::V4(address) => ipv4.push((address.to_bits(), net.1, adjacency)),
                IpAddr::V6(address) => ipv6.push((address.to_bits(), net.1, adjacency)),
            }
        }
        tables.routes = Routes::build(ipv4, ipv6);
        tables.policy = Acl::build(&builder.spec);
        tables
    }

    /// Adds what is translated, with addresses numbered as the flow table has them.
    pub fn translate(&self, tables: &mut Tables, sources: &Sources) {
        let ranges = |nets: &[Net]| Ranges::new(nets.iter().flat_map(|net| net.ranges()).collect());
        let mut outside = Vec::new();
        for (attachment, interface) in self.attachments.iter().zip(&mut tables.interfaces) {
            let Some(interface) = interface else { continue };
            for address in &attachment.outside {
                let number = sources.add(mapped_address(*address)).expect("few addresses");
                outside.push((mapped_address(*address), number));
                interface.outside[usize::from(address.is_ipv6())] = Some(number);
            }
        }
        tables.translations = Translations {
            sources: ranges(&self.translated),
            exempt: ranges(&self.exempt),
            ports: self.ports,
            outside,
        };
    }

    /// The kernel's number of an attachment, as the private pair's frames carry it.
    pub fn link_number(&self, name: &str) -> u32 {
        u32::from(self.index(name).0) + 1
    }

    /// The ways of frames between the host and an uplink.
    fn passage(&self, attachment: &Attachment, tables: &mut Tables) -> (AdjacencyIndex, AdjacencyIndex) {
        let host = self.attachments.iter().find(|other| other.kind == InterfaceKind::Host);
        let (InterfaceKind::Uplink, Some(host)) = (attachment.kind, host) else {
            return (AdjacencyIndex::NONE, AdjacencyIndex::NONE);
        };
        let (own, number) = (self.index(&attachment.name), self.link_number(&attachment.name));
        let tag = ethernet::link_mac(number).expect("a small number");
        let mut frame = |interface, mtu, source| {
            let kind = AdjacencyKind::Frame;
            tables.adjacencies.push(Adjacency::new(kind, interface, EndpointIndex::NONE, mtu, [0; 6], source, [0; 2]));
            AdjacencyIndex(tables.adjacencies.len() as u32 - 1)
        };
        let ways = (frame(self.index(&host.name), host.mtu, tag), frame(own, attachment.mtu, attachment.mac));
        tables.uplinks.push((number, own));
        ways
    }

    /// A group whose buckets these have in turn, and the ways of its members.
    fn choice(&self, owners: &[String], tables: &mut Tables) -> Adjacency {
        let mut places = BTreeMap::new();
        for owner in owners {
            let way = self.adjacency(&Way::Via(owner.clone()), tables);
            places.entry(owner).or_insert_with(|| {
                tables.adjacencies.push(way);
                AdjacencyIndex(tables.adjacencies.len() as u32 - 1)
            });
        }
        if owners.is_empty() {
            return Adjacency::choice(GroupIndex::NONE);
        }
        let groups = &mut tables.groups.groups;
        groups.push(Buckets(std::array::from_fn(|bucket| places[&owners[bucket % owners.len()]])));
        Adjacency::choice(GroupIndex(groups.len() as u32 - 1))
    }

    fn adjacency(&self, way: &Way, tables: &Tables) -> Adjacency {
        let without = |kind, name: &String| Adjacency::without_rewrite(kind, self.index(name));
        match way {
            Way::Blackhole | Way::Choice(_) => {
                Adjacency::without_rewrite(AdjacencyKind::Blackhole, InterfaceIndex::NONE)
            }
            Way::Unresolved(name) => without(AdjacencyKind::Unresolved, name),
            Way::Unreachable(name) => without(AdjacencyKind::Unreachable, name),
            Way::Via(name) => {
                let index = self.index(name);
                let attachment = &self.attachments[index.index()];
                let kind =
                    if attachment.kind == InterfaceKind::Host { AdjacencyKind::Host } else { AdjacencyKind::Forward };
                let endpoint = tables.interface(index).map_or(EndpointIndex::NONE, |interface| interface.endpoint);
                let Attachment { peer_mac, mac, mtu, tags, .. } = *attachment;
                Adjacency::new(kind, index, endpoint, mtu, peer_mac, mac, tags)
            }
        }
    }
}

/// Numbers rules and programs as they come.
#[derive(Default)]
struct Builder {
    spec: AclSpec,
    rules: u32,
}

impl Builder {
    fn program(&mut self, rules: &Rules) -> ProgramIndex {
        let block: Vec<RuleSpec> = rules.rules.iter().map(|rule| self.rule(rule)).collect();
        let block_index = self.spec.blocks.len();
        self.spec.blocks.push(block);
        let mut profiles = Vec::new();
        let mut end = TierEnd::Deny(self.next());
        if rules.otherwise_allow {
            end = TierEnd::Pass;
            let everything = Rule::default();
            let everything = self.rule(&everything);
            profiles.push(self.spec.blocks.len());
            self.spec.blocks.push(vec![everything]);
        }
        let end_of_program = ProgramEnd::Deny(self.next());
        self.spec.programs.push(ProgramSpec {
            tiers: vec![TierSpec { blocks: vec![block_index], end }],
            profiles,
            end: end_of_program,
        });
        ProgramIndex(self.spec.programs.len() as u32 - 1)
    }

    fn host_endpoint(&mut self, lists: &HostLists) -> HostEndpoint {
        let mut undecided =
            |rules: &Option<Vec<Rule>>| rules.as_ref().map_or(ProgramIndex::NONE, |rules| self.list(rules, true));
        let untracked_ingress = undecided(&lists.untracked_ingress);
        let untracked_egress = undecided(&lists.untracked_egress);
        let pre_dnat = undecided(&lists.pre_dnat);
        let mut forward = |rules: &Option<Rules>| {
            rules.as_ref().map_or(ProgramIndex::NONE, |rules| self.list(&rules.rules, rules.otherwise_allow))
        };
        let forward_ingress = forward(&lists.forward_ingress);
        let forward_egress = forward(&lists.forward_egress);
        HostEndpoint {
            untracked_ingress,
            untracked_egress,
            pre_dnat,
            forward_ingress,
            forward_egress,
            ingress: self.program(&lists.ingress),
            egress: self.program(&lists.egress),
        }
    }

    /// A program that leaves it open what becomes of a packet that nothing in it decided.
    fn list(&mut self, rules: &[Rule], is_open: bool) -> ProgramIndex {
        let block: Vec<RuleSpec> = rules.iter().map(|rule| self.rule(rule)).collect();
        self.spec.blocks.push(block);
        let end = if is_open { TierEnd::Pass } else { TierEnd::Deny(self.next()) };
        let tiers = vec![TierSpec { blocks: vec![self.spec.blocks.len() - 1], end }];
        self.spec.programs.push(ProgramSpec { tiers, profiles: Vec::new(), end: ProgramEnd::Undecided });
        ProgramIndex(self.spec.programs.len() as u32 - 1)
    }

    fn next(&mut self) -> RuleIndex {
        self.rules += 1;
        RuleIndex(self.rules - 1)
    }

    fn rule(&mut self, rule: &Rule) -> RuleSpec {
        let side = |nets: &[Net], ports: &[PortRange]| SideMatch {
            nets: nets.iter().flat_map(|net| net.ranges()).collect(),
            ports: ports.to_vec(),
            ..SideMatch::default()
        };
        let action = match rule {
            Rule { log: true, .. } => Action::Log,
            Rule { deny: true, .. } => Action::Deny,
            _ => Action::Allow,
        };
        RuleSpec {
            l4: L4Match {
                is_ipv4: rule.is_ipv4,
                protocol: rule.protocol,
                icmp: rule.icmp.map(|(kind, code)| IcmpMatch { kind, code }),
                ..L4Match::default()
            },
            source: side(&rule.from, &rule.from_ports),
            destination: side(&rule.to, &rule.to_ports),
            action,
            index: self.next(),
        }
    }
}
