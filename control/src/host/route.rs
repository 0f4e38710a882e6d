//! The kernel's routes of the main table: all of them to read, ours to write.
//!
//! Ours carry protocol 196 and are added with NLM_F_EXCL, so that a route of somebody else with the
//! same destination and metric is an error here and never overwritten. Deleting names the protocol, so
//! that the kernel itself refuses to remove another's.
//!
//! ```text
//! fd00:10::5/128 via fe80::ecee:eeff:feee:eeee dev vrouter metric 1024 proto 196
//! 10.0.0.5/32    via 169.254.1.1 onlink        dev vrouter metric 1024 proto 196
//! ```
//!
//! Left out: other tables, rules, and next hop objects (the kernel also reports those expanded).

use std::net::IpAddr;

use config::net::Cidr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Host, HostError, LEARNED, LinkIndex, PROTOCOL, family_of};

/// Metric of our routes: Calico's for workload routes, and the one the kernel gives IPv6 routes without.
pub const METRIC: u32 = 1024;

const ESRCH: i32 = 3;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// A route of the main table. Its destination is masked: host bits are clear.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    destination: Cidr,
    /// Lower wins. Destination and metric together name a route in the kernel.
    pub metric: u32,
    /// The source address the host itself prefers on this route.
    pub source: Option<IpAddr>,
    pub target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// To one of these; more than one is a multipath route.
    Forward(Vec<NextHop>),
    /// Dropped without an answer.
    Blackhole,
    /// Any other kind (unreachable, prohibit, ...); read only.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    pub link: LinkIndex,
    /// None: the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Take the gateway for a neighbour although no address of the link covers it. Set when writing a
    /// route; IPv6 link-local gateways need none, and the kernel reports none there.
    pub onlink: bool,
}

/// The kernel's answer to "where would this packet go".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    pub link: LinkIndex,
    /// The neighbour to send to; None: the destination itself.
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
    /// The destination is an address of this host.
    pub is_local: bool,
}

impl Route {
    pub fn new(destination: Cidr, metric: u32, target: Target) -> Route {
        Route { destination: destination.masked(), metric, source: None, target }
    }

    pub fn destination(&self) -> Cidr {
        self.destination
    }

    pub fn is_default(&self) -> bool {
        self.destination.length() == 0
    }

    /// What names a route in the kernel: two routes with equal keys cannot both exist.
    pub fn key(&self) -> (Cidr, u32) {
        (self.destination, self.metric)
    }

    /// The links it needs.
    pub fn links(&self) -> impl Iterator<Item = LinkIndex> {
        let hops = match &self.target {
            Target::Forward(hops) => hops.as_slice(),
            Target::Blackhole | Target::Other => &[],
        };
        hops.iter().map(|hop| hop.link)
    }
}

impl Host {
    /// Every route of the main table, in both families, but those to learned prefixes, which we made of others.
    pub async fn routes(&self) -> Result<Vec<Route>, HostError> {
        let messages = self.dump_routes().await?;
        let others = messages.iter().filter(|message| u8::from(message.header.protocol) != LEARNED);
        Ok(others.filter_map(parse).collect())
    }

    /// Routes that cover everything, best first.
    pub async fn default_routes(&self) -> Result<Vec<Route>, HostError> {
        let mut routes = self.routes().await?;
        routes.retain(Route::is_default);
        routes.sort_by_key(|route| route.metric);
        Ok(routes)
    }

    /// The routes that carry our mark.
    pub async fn our_routes(&self) -> Result<Vec<Route>, HostError> {
        let messages = self.dump_routes().await?;
        let ours = messages.iter().filter(|message| u8::from(message.header.protocol) == PROTOCOL);
        Ok(ours.filter_map(parse).collect())
    }

    /// Adds a route of ours. An equal one of ours is fine; one of somebody else's is an error.
    pub async fn add_route(&self, route: &Route) -> Result<(), HostError> {
        let request = RouteNetlinkMessage::NewRoute(message_of(route, self.mark));
        let action = || format!("add route to {}", route.destination);
        let added = self.change(action, request, NLM_F_CREATE | NLM_F_EXCL).await;
        match added {
            Err(error) if error.errno() == Some(EEXIST) => {
                if self.our_routes().await?.contains(route) {
                    return Ok(());
                }
                Err(HostError::ForeignRoute { prefix: route.destination, metric: route.metric })
            }
            result => result,
        }
    }

    /// Changes a route of ours in one step. `old` must have been read as ours just now: the kernel
    /// replaces whatever has the same destination and metric.
    pub async fn replace_route(&self, old: &Route, new: &Route) -> Result<(), HostError> {
        assert_eq!(old.key(), new.key());
        let request = RouteNetlinkMessage::NewRoute(message_of(new, self.mark));
        let action = || format!("replace route to {}", new.destination);
        self.change(action, request, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Deletes a route of ours; one that is gone already, or whose link is, is fine.
    pub async fn delete_route(&self, route: &Route) -> Result<(), HostError> {
        let request = RouteNetlinkMessage::DelRoute(message_of(route, self.mark));
        let action = || format!("delete route to {}", route.destination);
        match self.change(action, request, 0).await {
            Err(error) if matches!(error.errno(), Some(ESRCH | ENODEV | ENETUNREACH)) => Ok(()),
            result => result,
        }
    }

    /// Asks the kernel's own forwarding table. None: it has no way there, or refuses it by a route.
    pub async fn route_get(&self, destination: IpAddr) -> Result<Option<Lookup>, HostError> {
        let host = Cidr::host(destination);
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(destination);
        message.header.destination_prefix_length = host.length();
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        let action = || format!("look up route to {destination}");
        let request = RouteNetlinkMessage::GetRoute(message);
        let answer = match self.get(action, request).await {
            Ok(RouteNetlinkMessage::NewRoute(answer)) => answer,
            Ok(other) => {
                return Err(HostError::Protocol { action: action(), detail: format!("{other:?}") });
            }
            // EINVAL and EACCES are how blackhole and prohibit routes answer.
            Err(error) if matches!(error.errno(), Some(ENETUNREACH | EHOSTUNREACH | EINVAL | EACCES)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        Ok(lookup_of(&answer))
    }

    async fn dump_routes(&self) -> Result<Vec<RouteMessage>, HostError> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(message);
            let messages = self.dump(|| "list routes".to_owned(), request).await?;
            all.extend(messages.into_iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) if is_main(&route) => Some(route),
                _ => None,
            }));
        }
        Ok(all)
    }
}

pub(super) fn message_of(route: &Route, mark: u8) -> RouteMessage {
    let destination = route.destination;
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(destination.address());
    message.header.destination_prefix_length = destination.length();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(mark);
    message.attributes =
        vec![RouteAttribute::Destination(destination.address().into()), RouteAttribute::Priority(route.metric)];
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    message.header.kind = match route.target {
        Target::Forward(_) => RouteType::Unicast,
        Target::Blackhole | Target::Other => RouteType::BlackHole,
    };
    match &route.target {
        Target::Forward(hops) => {
            if let [hop] = hops.as_slice() {
                message.attributes.push(RouteAttribute::Oif(hop.link.0));
                message.attributes.extend(hop.gateway.map(|gateway| gateway_of(destination, gateway)));
                if hop.onlink {
                    message.header.flags = RouteFlags::Onlink;
                }
                if hop.gateway.is_none() && destination.is_ipv4() {
                    message.header.scope = RouteScope::Link;
                }
            } else {
                let hops = hops.iter().map(|hop| multipath_of(destination, hop));
                message.attributes.push(RouteAttribute::MultiPath(hops.collect()));
            }
        }
        Target::Blackhole | Target::Other => {}
    }
    message
}

/// RTA_GATEWAY within a family, RTA_VIA for an IPv4 destination behind an IPv6 neighbour.
fn gateway_of(destination: Cidr, gateway: IpAddr) -> RouteAttribute {
    match gateway {
        IpAddr::V6(v6) if destination.is_ipv4() => RouteAttribute::Via(RouteVia::Inet6(v6)),
        _ => RouteAttribute::Gateway(gateway.into()),
    }
}

fn multipath_of(destination: Cidr, hop: &NextHop) -> RouteNextHop {
    let mut next_hop = RouteNextHop::default();
    next_hop.interface_index = hop.link.0;
    next_hop.attributes.extend(hop.gateway.map(|gateway| gateway_of(destination, gateway)));
    if hop.onlink {
        next_hop.flags = RouteNextHopFlags::Onlink;
    }
    next_hop
}

pub(super) fn is_main(message: &RouteMessage) -> bool {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let table = attribute.unwrap_or(u32::from(message.header.table));
    // The IPv6 dump also lists cached clones of routes (path MTU exceptions).
    let is_clone = message.header.flags.contains(RouteFlags::Cloned);
    table == u32::from(RouteHeader::RT_TABLE_MAIN) && !is_clone
}

pub(super) fn parse(message: &RouteMessage) -> Option<Route> {
    let mut address = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let mut metric = 0;
    let mut source = None;
    let mut multipath = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(destination) => address = ip_of(destination)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            RouteAttribute::MultiPath(hops) => {
                multipath.extend(hops.iter().map(|hop| NextHop {
                    link: LinkIndex(hop.interface_index),
                    gateway: gateway_in(&hop.attributes),
                    onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
                }));
            }
            _ => {}
        }
    }
    let target = match message.header.kind {
        RouteType::Unicast if !multipath.is_empty() => Target::Forward(multipath),
        RouteType::Unicast => Target::Forward(vec![NextHop {
            link: link_in(&message.attributes)?,
            gateway: gateway_in(&message.attributes),
            onlink: message.header.flags.contains(RouteFlags::Onlink),
        }]),
        RouteType::BlackHole => Target::Blackhole,
        _ => Target::Other,
    };
    let destination = Cidr::new(address, message.header.destination_prefix_length)?;
    Some(Route { source, ..Route::new(destination, metric, target) })
}

fn lookup_of(message: &RouteMessage) -> Option<Lookup> {
    match message.header.kind {
        RouteType::Unicast | RouteType::Local => {}
        _ => return None,
    }
    let source = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(address) => ip_of(address),
        _ => None,
    });
    Some(Lookup {
        link: link_in(&message.attributes)?,
        gateway: gateway_in(&message.attributes),
        source,
        is_local: message.header.kind == RouteType::Local,
    })
}

fn link_in(attributes: &[RouteAttribute]) -> Option<LinkIndex> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(LinkIndex(*index)),
        _ => None,
    })
}

fn gateway_in(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
