//! NodeState → fastpath::Tables; the only file that sees both.
//!
//! Also what follows from the same facts: the prefixes that uplinks hand to us, and what the kernel of the host should be
//! told. A function of what should be (`NodeState`) and what is there (`HostView`); names of rules are numbered for good,
//! so that counters outlive a snapshot.
//!
//! Routes, of equal prefixes the later wins: the kernel's routes by uplinks, neighbours on uplinks, pools and the node's blocks
//! (nowhere), static routes, the node's own addresses, local endpoints. How each stands against a learned route, `rib` says.

mod host;
mod policy;
mod routes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use config::net::{Cidr, MacAddress};
use config::resource::PolicyType;
use config::settings::EndpointToHostAction;
use fastpath::flow::{mapped, mapped_address};
use fastpath::header::ethernet;
use fastpath::table::acl::Acl;
use fastpath::table::adjacency::{Adjacency, AdjacencyKind};
use fastpath::table::interface::{Endpoint, Interface, InterfaceKind};
use fastpath::table::translation::Translations;
use fastpath::table::{
    AdjacencyIndex, EndpointIndex, HostEndpointIndex, InterfaceIndex, PolicyChange, RouterAddresses, RuleIndex, Tables,
    WorkerIndex,
};

pub use policy::PolicyCompiler;
use routes::{Local, Snapshot, Way};
pub use routes::{Refresh, RouteCompiler};

use crate::felix::FelixSettings;
use crate::guard;
use crate::host::{GATEWAY_MAC, InterfaceAddress, Link, LinkIndex, Neighbour, NextHop, Route, Target};
use crate::node_state::{NodeState, RouteTarget};
use crate::reconcile::HostState;
use crate::rib::nexthop::{Hops, Member, Path, Strength};

/// An interface that is attached to the fast path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub index: InterfaceIndex,
    pub link: LinkIndex,
    pub kind: InterfaceKind,
    /// The worker that transmits for those that have no queue here.
    pub owner: WorkerIndex,
}

/// What is there, as far as it matters.
pub struct HostView<'a> {
    pub links: &'a BTreeMap<LinkIndex, Link>,
    pub neighbours: &'a BTreeMap<(LinkIndex, IpAddr), Neighbour>,
    pub routes: &'a [Route],
    pub addresses: &'a [InterfaceAddress],
    /// By interface name.
    pub attached: &'a BTreeMap<String, Attachment>,
    /// The kernel's end of the private pair.
    pub host_link: Option<LinkIndex>,
}

/// Settings that shape the tables.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    pub policy_change: PolicyChange,
    pub felix: FelixSettings,
    /// Makes this node's choices among next hops its own.
    pub seed: u64,
    /// Blocks of addresses that are this node's, but for those of one address.
    pub blocks: BTreeSet<Cidr>,
    /// BGP peers, and the gateway that each is reached by.
    pub gateways: BTreeMap<IpAddr, IpAddr>,
    /// What workloads ask DHCP servers is relayed.
    pub relays_dhcp: bool,
}

/// What comes out.
pub struct Compiled {
    pub tables: Tables,
    /// What uplinks hand to the fast path.
    pub prefixes: Vec<(IpAddr, u8)>,
    /// What the kernel should be told.
    pub desired: HostState,
    pub routes: Vec<RouteRow>,
}

/// A route as shown.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteRow {
    pub prefix: Cidr,
    pub kind: RouteRowKind,
    pub next_hop: Option<IpAddr>,
    pub interface: Option<String>,
    pub mac: Option<MacAddress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteRowKind {
    LocalEndpoint,
    NextHop,
    Blackhole,
    Host,
}

/// Names of rules and defaults, numbered for good.
#[derive(Debug, Default)]
pub struct RuleNames {
    names: Vec<String>,
    index: HashMap<String, u32>,
}

impl RuleNames {
    pub fn index(&mut self, name: &str) -> RuleIndex {
        if let Some(index) = self.index.get(name) {
            return RuleIndex(*index);
        }
        let index = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.index.insert(name.to_owned(), index);
        RuleIndex(index)
    }

    pub fn name(&self, index: RuleIndex) -> Option<&str> {
        self.names.get(index.index()).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (RuleIndex, &str)> {
        (0..).map(RuleIndex).zip(self.names.iter().map(String::as_str))
    }
}

/// The tables are to be published, and after that [`RouteCompiler::apply`] to be called.
pub fn compile(
    state: &NodeState,
    policy: Acl,
    places: &mut RouteCompiler,
    host: &HostView<'_>,
    choices: &Choices,
    generation: u32,
) -> Compiled {
    let mut compiler = Compiler {
        state,
        host,
        places,
        ways: BTreeMap::new(),
        routes: BTreeMap::new(),
        paths: BTreeMap::new(),
        managed: BTreeSet::new(),
    };
    compiler.kernel_routes();
    compiler.pools();
    compiler.blocks(&choices.blocks);
    compiler.static_routes();
    compiler.own_addresses();
    let (mut interfaces, endpoints) = compiler.interfaces();
    compiler.next_hops();
    let claims = guard::claims(state, host.links, host.addresses, host.attached);
    let mut host_endpoints = Vec::new();
    for (name, position) in &claims {
        let Some(attachment) = host.attached.get(name).filter(|a| a.kind == InterfaceKind::Uplink) else { continue };
        let Some(Some(interface)) = interfaces.get_mut(attachment.index.index()) else { continue };
        interface.host_endpoint = HostEndpointIndex(host_endpoints.len() as u16);
        host_endpoints.push(policy::host_lists(state, *position));
    }

    let prefixes = our_prefixes(state);
    let desired = compiler.desired(claims.keys(), choices);
    let Compiler { places, ways, routes: rows, .. } = compiler;
    let local = rows.iter().map(|(prefix, (local, _))| (prefix.masked(), *local)).collect();
    let Snapshot { adjacencies, mut groups, routes } = places.follow(ways, local);
    groups.seed = choices.seed;
    let tables = Tables {
        generation,
        interfaces,
        endpoints,
        host_endpoints,
        uplinks: guard::uplinks(host.attached),
        failsafes: guard::failsafes(&choices.felix),
        workload_tunnels: guard::workload_tunnels(&choices.felix),
        adjacencies,
        groups,
        routes,
        policy,
        addresses: router_addresses(state),
        policy_change: choices.policy_change,
        // `translation::complete` fills it in.
        translations: Translations::default(),
        relays_dhcp: choices.relays_dhcp,
        endpoint_to_host: choices.felix.endpoint_to_host != EndpointToHostAction::Drop,
    };
    Compiled { tables, prefixes, desired, routes: rows.into_values().map(|(_, row)| row).collect() }
}

struct Compiler<'a> {
    state: &'a NodeState,
    host: &'a HostView<'a>,
    places: &'a mut RouteCompiler,
    ways: BTreeMap<Way, Adjacency>,
    /// A later insertion of the same prefix wins.
    routes: BTreeMap<Cidr, (Local, RouteRow)>,
    /// The same as next hops of learned routes see them, with those by links that are no uplinks.
    paths: BTreeMap<Cidr, Path>,
    /// Next hops that the kernel shall keep resolved.
    managed: BTreeSet<(LinkIndex, IpAddr)>,
}

impl Compiler<'_> {
    fn add(&mut self, way: Way, adjacency: Adjacency) -> AdjacencyIndex {
        self.ways.insert(way, adjacency);
        self.places.place(way)
    }

    fn link_of(&self, attachment: &Attachment) -> Option<&Link> {
        self.host.links.get(&attachment.link)
    }

    fn uplinks(&self) -> impl Iterator<Item = (&String, &Attachment)> {
        self.host.attached.iter().filter(|(_, attachment)| attachment.kind == InterfaceKind::Uplink)
    }

    fn uplink_of(&self, link: LinkIndex) -> Option<(String, Attachment)> {
        self.uplinks().find(|(_, a)| a.link == link).map(|(name, attachment)| (name.clone(), attachment.clone()))
    }

    /// The way to a neighbour on an uplink; unresolved as long as the kernel does not know its MAC address.
    fn next_hop(&mut self, uplink: &Attachment, address: IpAddr) -> (AdjacencyIndex, Option<MacAddress>) {
        let Some(link) = self.link_of(uplink).cloned() else {
            let nowhere = Adjacency::without_rewrite(AdjacencyKind::Blackhole, uplink.index);
            return (self.add(Way::NextHop(uplink.index, address), nowhere), None);
        };
        let neighbour = self.host.neighbours.get(&(link.index, address));
        let mac = neighbour.and_then(Neighbour::usable_mac);
        let kind = match neighbour {
            _ if mac.is_some() => AdjacencyKind::Forward,
            Some(neighbour) if neighbour.has_failed() => AdjacencyKind::Unreachable,
            _ => AdjacencyKind::Unresolved,
        };
        let source = link.mac.unwrap_or_default();
        let adjacency = Adjacency::new(
            kind,
            uplink.index,
            EndpointIndex::NONE,
            mtu_of(&link),
            mac.unwrap_or_default().0,
            source.0,
            [0; 2],
        );
        (self.add(Way::NextHop(uplink.index, address), adjacency), mac)
    }

    fn route_by(
        &mut self,
        prefix: Cidr,
        name: &str,
        uplink: &Attachment,
        next_hop: Option<IpAddr>,
        strength: Strength,
    ) {
        let (place, mac) = match next_hop {
            Some(address) => self.next_hop(uplink, address),
            // Everybody in the prefix is a neighbour; whoever is not known yet has to be resolved first.
            None => {
                let on_link = Adjacency::without_rewrite(AdjacencyKind::Unresolved, uplink.index);
                (self.add(Way::OnLink(uplink.index), on_link), None)
            }
        };
        let row = RouteRow { prefix, kind: RouteRowKind::NextHop, next_hop, interface: Some(name.to_owned()), mac };
        self.routes.insert(prefix, (Local { place, strength }, row));
    }

    fn path(&mut self, prefix: Cidr, hops: Hops, strength: Strength) {
        self.paths.insert(prefix.masked(), Path { hops, strength });
    }

    /// What the kernel routes by uplinks, and every neighbour it knows there.
    fn kernel_routes(&mut self) {
        let mut best: BTreeMap<Cidr, (u32, &[NextHop])> = BTreeMap::new();
        for route in self.host.routes {
            let Target::Forward(hops) = &route.target else { continue };
            let entry = best.entry(route.destination()).or_insert((route.metric, hops));
            if route.metric < entry.0 {
                *entry = (route.metric, hops);
            }
        }
        for (prefix, (metric, hops)) in &best {
            let is_link_local =
                matches!(prefix.address(), IpAddr::V6(a) if a.is_unicast_link_local() || a.is_multicast());
            let Some(NextHop { link, gateway, .. }) = hops.first().filter(|_| !is_link_local) else { continue };
            let strength = Strength::Metric(*metric);
            // What leads to endpoints by the private pair is a copy of routes that are known better.
            let others = hops.iter().filter(|hop| Some(hop.link) != self.host.host_link);
            let others: Vec<_> = others.map(|hop| (hop.link, hop.gateway)).collect();
            if !others.is_empty() {
                self.path(*prefix, Hops::Links(others), strength);
            }
            let Some((name, uplink)) = self.uplink_of(*link) else { continue };
            if let Some(gateway) = gateway {
                self.managed.insert((*link, *gateway));
            }
            self.route_by(*prefix, &name, &uplink, *gateway, strength);
        }
        let on_link = |link: LinkIndex, address: IpAddr| {
            best.iter().any(|(prefix, (_, hops))| {
                hops.first().is_some_and(|hop| hop.link == link && hop.gateway.is_none()) && prefix.contains(address)
            })
        };
        let known: Vec<(LinkIndex, IpAddr)> = self
            .host
            .neighbours
            .values()
            .filter(|neighbour| neighbour.usable_mac().is_some() || neighbour.has_failed())
            .filter(|neighbour| on_link(neighbour.link, neighbour.address))
            .map(|neighbour| (neighbour.link, neighbour.address))
            .collect();
        for (link, address) in known {
            if let Some((name, uplink)) = self.uplink_of(link) {
                self.route_by(Cidr::host(address), &name, &uplink, Some(address), Strength::Weak);
            }
        }
    }

    fn blackhole(&mut self, prefix: Cidr, strength: Strength) {
        let nowhere = Adjacency::without_rewrite(AdjacencyKind::Blackhole, InterfaceIndex::NONE);
        let place = self.add(Way::Nowhere, nowhere);
        let row = RouteRow { prefix, kind: RouteRowKind::Blackhole, next_hop: None, interface: None, mac: None };
        self.path(prefix, Hops::Nowhere, strength);
        self.routes.insert(prefix, (Local { place, strength }, row));
    }

    fn pools(&mut self) {
        for pool in &self.state.pools {
            self.blackhole(*pool, Strength::Weak);
        }
    }

    /// In a block of this node endpoints have routes of their own, and nobody else has any.
    fn blocks(&mut self, blocks: &BTreeSet<Cidr>) {
        for block in blocks {
            self.blackhole(*block, Strength::Firm);
        }
    }

    fn static_routes(&mut self) {
        for route in &self.state.static_routes {
            match &route.target {
                RouteTarget::Blackhole => self.blackhole(route.destination, Strength::Firm),
                RouteTarget::Interface(name) => {
                    if let Some(uplink) = self.named_uplink(name) {
                        self.path(route.destination, Hops::Links(vec![(uplink.link, None)]), Strength::Firm);
                        self.route_by(route.destination, name, &uplink, None, Strength::Firm);
                    }
                }
                RouteTarget::NextHop { address, interface } => {
                    let found = match interface {
                        Some(name) => self.named_uplink(name).map(|uplink| (name.clone(), uplink)),
                        None => self.uplink_towards(*address),
                    };
                    if let Some((name, uplink)) = found {
                        self.managed.insert((uplink.link, *address));
                        let hops = Hops::Links(vec![(uplink.link, Some(*address))]);
                        self.path(route.destination, hops, Strength::Firm);
                        self.route_by(route.destination, &name, &uplink, Some(*address), Strength::Firm);
                    }
                }
            }
        }
    }

    fn named_uplink(&self, name: &str) -> Option<Attachment> {
        self.host.attached.get(name).filter(|attachment| attachment.kind == InterfaceKind::Uplink).cloned()
    }

    /// The uplink on which the address is a neighbour, by the kernel's addresses.
    fn uplink_towards(&self, address: IpAddr) -> Option<(String, Attachment)> {
        let is_near = |own: &&InterfaceAddress| {
            Cidr::new(own.address, own.prefix_length).is_some_and(|subnet| subnet.masked().contains(address))
        };
        self.host.addresses.iter().filter(is_near).find_map(|own| self.uplink_of(own.link))
    }

    /// The host's own addresses lead to the host, whatever interface they are on.
    fn own_addresses(&mut self) {
        let own: BTreeSet<IpAddr> = self
            .host
            .addresses
            .iter()
            .map(|address| address.address)
            .chain(self.state.node_addresses.iter().copied())
            .filter(|address| !address.is_loopback() && !is_link_local(*address))
            .collect();
        for address in &own {
            self.path(Cidr::host(*address), Hops::Nowhere, Strength::Firm);
        }
        let Some((name, attachment)) =
            self.host.attached.iter().find(|(_, attachment)| attachment.kind == InterfaceKind::Host)
        else {
            return;
        };
        let (name, index) = (name.clone(), attachment.index);
        let kernel_end = self.host.host_link.and_then(|link| self.host.links.get(&link));
        let (mac, mtu) = kernel_end.map_or((None, 1500), |link| (link.mac, mtu_of(link)));
        for address in own {
            let adjacency = Adjacency::new(
                AdjacencyKind::Host,
                index,
                EndpointIndex::NONE,
                mtu,
                mac.unwrap_or_default().0,
                GATEWAY_MAC.0,
                [0; 2],
            );
            let place = self.add(Way::Host, adjacency);
            let prefix = Cidr::host(address);
            let row = RouteRow { prefix, kind: RouteRowKind::Host, next_hop: None, interface: Some(name.clone()), mac };
            self.routes.insert(prefix, (Local { place, strength: Strength::Firm }, row));
        }
    }

    /// Ways to the next hops of learned routes, which the kernel keeps resolved.
    fn next_hops(&mut self) {
        self.places.rib.kernel.set_host_link(self.host.host_link);
        self.places.rib.set_own(std::mem::take(&mut self.paths));
        self.places.rib.resolve();
        let members = self.places.rib.members();
        let uplinks: BTreeMap<LinkIndex, Attachment> = self.uplinks().map(|(_, a)| (a.link, a.clone())).collect();
        for member in &members {
            if let Member::Neighbour { link, address } = member
                && let Some(uplink) = uplinks.get(link)
            {
                self.managed.insert((*link, *address));
                self.next_hop(uplink, *address);
            }
        }
        self.places.set_members(members, uplinks.into_iter().map(|(link, uplink)| (link, uplink.index)).collect());
    }

    /// Interfaces as the stages need them, and endpoints with their routes.
    fn interfaces(&mut self) -> (Vec<Option<Interface>>, Vec<Endpoint>) {
        let mut interfaces: Vec<Option<Interface>> = Vec::new();
        let mut endpoints = Vec::new();
        let by_interface: HashMap<&str, usize> =
            self.state.endpoints.iter().enumerate().map(|(i, endpoint)| (endpoint.interface.as_str(), i)).collect();
        for (name, attachment) in self.host.attached {
            let Some(link) = self.link_of(attachment).cloned() else { continue };
            let mut interface = Interface {
                kind: attachment.kind,
                mac: link.mac.unwrap_or_default().0,
                mtu: mtu_of(&link),
                tags: [0; 2],
                owner: attachment.owner,
                endpoint: EndpointIndex::NONE,
                is_up: link.can_carry(),
                host_endpoint: HostEndpointIndex::NONE,
                to_host: AdjacencyIndex::NONE,
                from_host: AdjacencyIndex::NONE,
                outside: [None; 2],
            };
            if attachment.kind == InterfaceKind::Uplink {
                (interface.to_host, interface.from_host) = self.passage(attachment, &interface);
            }
            if let (InterfaceKind::Workload, Some(position)) = (attachment.kind, by_interface.get(name.as_str())) {
                let endpoint = &self.state.endpoints[*position];
                interface.endpoint = EndpointIndex(endpoints.len() as u32);
                endpoints.push(Endpoint {
                    sources: endpoint.addresses.iter().chain(&endpoint.spoofed).map(range_of).collect(),
                    egress: policy::endpoint_program(*position, PolicyType::Egress),
                    ingress: policy::endpoint_program(*position, PolicyType::Ingress),
                });
                let kind = if endpoint.mac.is_some() { AdjacencyKind::Forward } else { AdjacencyKind::Unreachable };
                let mac = endpoint.mac;
                let adjacency = Adjacency::new(
                    kind,
                    attachment.index,
                    interface.endpoint,
                    interface.mtu,
                    mac.unwrap_or_default().0,
                    interface.mac,
                    [0; 2],
                );
                let local =
                    Local { place: self.add(Way::Endpoint(attachment.index), adjacency), strength: Strength::Firm };
                for address in &endpoint.addresses {
                    let prefix = address.masked();
                    self.path(prefix, Hops::Endpoint(attachment.index), Strength::Firm);
                    let interface = Some(name.clone());
                    let row = RouteRow { prefix, kind: RouteRowKind::LocalEndpoint, next_hop: None, interface, mac };
                    self.routes.insert(prefix, (local, row));
                }
            }
            let at = attachment.index.index();
            if interfaces.len() <= at {
                interfaces.resize(at + 1, None);
            }
            interfaces[at] = Some(interface);
        }
        (interfaces, endpoints)
    }

    /// The ways of frames that pass unchanged between an uplink and the host's stack.
    fn passage(&mut self, uplink: &Attachment, interface: &Interface) -> (AdjacencyIndex, AdjacencyIndex) {
        let host = self.host.attached.values().find(|attachment| attachment.kind == InterfaceKind::Host);
        let (Some(host), Some(tag)) = (host, ethernet::link_mac(uplink.link.0)) else {
            return (AdjacencyIndex::NONE, AdjacencyIndex::NONE);
        };
        let (to, mtu) = (host.index, self.link_of(host).map_or(interface.mtu, mtu_of));
        let frame = |interface, mtu, source| {
            Adjacency::new(AdjacencyKind::Frame, interface, EndpointIndex::NONE, mtu, [0; 6], source, [0; 2])
        };
        let inward = self.add(Way::ToHost(uplink.index), frame(to, mtu, tag));
        let outward = self.add(Way::FromHost(uplink.index), frame(uplink.index, interface.mtu, interface.mac));
        (inward, outward)
    }
}

/// What is ours on an uplink: the endpoints, and the pools they come from.
pub fn our_prefixes(state: &NodeState) -> Vec<(IpAddr, u8)> {
    let endpoints = state.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    let all: BTreeSet<(IpAddr, u8)> =
        endpoints.chain(&state.pools).map(|prefix| (prefix.masked().address(), prefix.length())).collect();
    all.into_iter().collect()
}

/// A number that is a node's own, and the same after a restart: FNV-1a of its name.
pub fn seed_of(node: &str) -> u64 {
    node.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn mtu_of(link: &Link) -> u16 {
    u16::try_from(link.mtu).unwrap_or(u16::MAX)
}

fn router_addresses(state: &NodeState) -> RouterAddresses {
    let first = |is_ipv4: bool| state.node_addresses.iter().find(|address| address.is_ipv4() == is_ipv4);
    RouterAddresses {
        node_ipv4: first(true).map(|address| mapped_address(*address) as u32),
        node_ipv6: first(false).map(|address| mapped_address(*address)),
    }
}

/// First and last address of a prefix, IPv4 mapped.
pub(crate) fn range_of(prefix: &Cidr) -> (u128, u128) {
    let length = u32::from(prefix.length());
    match prefix.masked().address() {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(length).unwrap_or(0);
            (mapped(address.to_bits()), mapped(address.to_bits() | host))
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(length).unwrap_or(0);
            (address.to_bits(), address.to_bits() | host)
        }
    }
}
