//! Stage: only what its sender may send.
//!
//! Assumes: parsed slots that are open. Leaves: packets with a source that is the sender's own and a destination that can be routed;
//! ARP and neighbour discovery for the gateway, and echo requests to it, have become answers; what a workload asks DHCP servers has
//! become a punt where control relays it, even before the workload has an endpoint: it has no address to have one with.
//! What passes between the host's own stack and an uplink is left alone here.
//! Drops: martians, spoofed sources, unknown endpoints, router messages from endpoints, ARP and ND not for the gateway,
//! questions to DHCP servers beyond their limit.
//! Sources: RFC 6890 and RFC 1812 §5.3.7 for martians, RFC 3704 for strict reverse path, RFC 4861 §7.1 for ND,
//! RFC 1542 §4 for relays.

use super::parse;
use crate::burst::{Answer, Burst, DropReason, Fragment, Network, Passage, PuntReason, Slot, Verdict};
use crate::flow::limiter::Limiter;
use crate::flow::{FlowTable, KeyKind, mapped};
use crate::header::arp::{self, Arp};
use crate::header::ethernet::Ethernet;
use crate::header::icmp;
use crate::header::icmpv6::{self, Neighbour};
use crate::header::protocol;
use crate::io::umem::Umem;
use crate::table::adjacency::AdjacencyKind;
use crate::table::interface::{Interface, InterfaceKind};
use crate::table::{GATEWAY_IPV4, GATEWAY_IPV6, Tables};

#[inline(never)]
pub fn burst(burst: &mut Burst, umem: &Umem, flows: &FlowTable, tables: &Tables, dhcp_limiter: &mut Limiter) {
    burst.undecided(|slot| {
        let Some(interface) = tables.interface(slot.ingress) else { return slot.drop(DropReason::InterfaceDown) };
        if interface.kind == InterfaceKind::Uplink {
            sort_out(slot, interface, flows, tables);
        }
        // The host's stack knows which of its own packets make sense; policy says which may pass.
        if slot.passage == Passage::None || slot.network == Network::Arp {
            slot.verdict = match tables.relays_dhcp && is_for_relay(slot, interface, tables) {
                false => admit(slot, umem.data(&slot.packet), interface, tables),
                true if dhcp_limiter.take(slot.ingress) => Verdict::Punt(PuntReason::Dhcp),
                true => Verdict::Drop(DropReason::PuntRateLimited),
            };
        }
    });
}

/// What of an uplink is the host's. Where that has an endpoint all of it is that leads to no workload. An uplink without one
/// hands over what comes to an address that flows of workloads share with the host: what is of no such flow passes on to the
/// host, as if it had never been here.
fn sort_out(slot: &mut Slot, interface: &Interface, flows: &FlowTable, tables: &Tables) {
    let is_translated = slot.flow.is_some_and(|flow| flows.is_translated(flow));
    if slot.passage == Passage::ToHost && (is_translated || leads_to_workload(slot, tables)) {
        slot.passage = Passage::None;
    }
    let is_unguarded = interface.host_endpoint.is_none();
    if is_unguarded && !is_translated && tables.translations.is_shared(slot.key.destination) {
        slot.passage = Passage::ToHost;
        slot.is_plain = false;
        // An error belongs to the flow it is about, which is not known yet; a fragment's first may be in the same burst.
        slot.is_untracked = slot.fragment != Fragment::Later && !slot.is_icmp_error;
    }
}

fn admit(slot: &Slot, bytes: &[u8], interface: &Interface, tables: &Tables) -> Verdict {
    let endpoint = tables.endpoint_of(interface);
    if interface.kind == InterfaceKind::Workload && endpoint.is_none() {
        return Verdict::Drop(DropReason::EndpointUnknown);
    }
    if slot.network == Network::Arp {
        return arp(slot, bytes);
    }
    if slot.network == Network::Ipv6 && slot.key.protocol == protocol::ICMPV6 && slot.fragment == Fragment::Whole {
        let kind = bytes.get(usize::from(slot.l4)).copied().unwrap_or(0);
        if (icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT).contains(&kind) {
            return neighbour_discovery(slot, bytes, kind, endpoint);
        }
    }
    if is_router_message(slot) {
        return Verdict::Drop(DropReason::RouterMessage);
    }
    let (source, destination) = (slot.key.source, slot.key.destination);
    if is_martian_source(source) || source == destination {
        return Verdict::Drop(DropReason::SourceMartian);
    }
    if is_gateway(destination) && interface.kind != InterfaceKind::Uplink {
        let owns = endpoint.is_none_or(|endpoint| endpoint.owns(source) || is_link_local(source));
        return match (owns, slot.key.kind) {
            (false, _) => Verdict::Drop(DropReason::SourceSpoofed),
            (true, KeyKind::EchoRequest) if slot.fragment == Fragment::Whole => Verdict::Respond(Answer::Echo),
            (true, _) => Verdict::Drop(DropReason::DestinationMartian),
        };
    }
    if endpoint.is_some_and(|endpoint| !endpoint.owns(source)) {
        return Verdict::Drop(DropReason::SourceSpoofed);
    }
    if is_link_local(source) {
        return Verdict::Drop(DropReason::SourceMartian);
    }
    if is_martian_destination(destination) {
        return Verdict::Drop(DropReason::DestinationMartian);
    }
    Verdict::Forward
}

/// What a workload asks all DHCP servers, without an address yet or from its own.
fn is_for_relay(slot: &Slot, interface: &Interface, tables: &Tables) -> bool {
    let owns = |source| tables.endpoint_of(interface).is_some_and(|endpoint| endpoint.owns(source));
    interface.kind == InterfaceKind::Workload
        && parse::is_dhcp_request(slot)
        && (slot.key.source == mapped(0) || owns(slot.key.source))
}

/// True for what we forward, or drop for want of a workload.
fn leads_to_workload(slot: &Slot, tables: &Tables) -> bool {
    let route = tables.route(slot.key.destination, slot.key.is_ipv4());
    let Some(adjacency) = tables.adjacency(route).filter(|_| !slot.is_group) else { return false };
    match adjacency.kind {
        AdjacencyKind::Blackhole => true,
        // Of next hops to choose from, few are workloads; what the host is sent in their stead it sends back to us.
        AdjacencyKind::Host | AdjacencyKind::Frame | AdjacencyKind::Group => false,
        AdjacencyKind::Forward | AdjacencyKind::Unresolved | AdjacencyKind::Unreachable => {
            tables.interface(adjacency.interface).is_some_and(|interface| interface.kind == InterfaceKind::Workload)
        }
    }
}

/// IPv4 redirects and router advertisements speak of the link they were sent on, and no router forwards them.
/// RFC 792, RFC 1256 §3.
fn is_router_message(slot: &Slot) -> bool {
    // The key of such a message has its type and code in place of ports.
    slot.network == Network::Ipv4
        && slot.key.protocol == protocol::ICMP
        && slot.key.kind == KeyKind::IcmpOther
        && matches!((slot.key.source_port >> 8) as u8, icmp::REDIRECT | icmp::ROUTER_ADVERTISEMENT)
}

/// A request for the gateway is answered; nothing else on the link is ours to know. RFC 826.
fn arp(slot: &Slot, bytes: &[u8]) -> Verdict {
    let (Some(frame), Some(packet)) = (Ethernet::at(bytes), bytes.get(slot.l3.into()..).and_then(Arp::at)) else {
        return Verdict::Drop(DropReason::ArpMalformed);
    };
    let is_known = matches!(packet.operation(), arp::REQUEST | arp::REPLY);
    if !packet.is_ethernet_ipv4() || !is_known || packet.sender_mac() != frame.source() {
        return Verdict::Drop(DropReason::ArpMalformed);
    }
    if packet.operation() == arp::REQUEST && packet.target_ip() == GATEWAY_IPV4 && packet.sender_ip() != GATEWAY_IPV4 {
        Verdict::Respond(Answer::Arp)
    } else {
        Verdict::Drop(DropReason::ArpNotForGateway)
    }
}

fn neighbour_discovery(
    slot: &Slot,
    bytes: &[u8],
    kind: u8,
    endpoint: Option<&crate::table::interface::Endpoint>,
) -> Verdict {
    if matches!(kind, icmpv6::ROUTER_ADVERTISEMENT | icmpv6::REDIRECT) {
        return Verdict::Drop(DropReason::RouterMessage);
    }
    if kind != icmpv6::NEIGHBOUR_SOLICITATION {
        return Verdict::Drop(DropReason::NdNotForGateway);
    }
    let message = bytes.get(usize::from(slot.l4)..).unwrap_or_default();
    let Some(solicitation) = Neighbour::at(message) else { return Verdict::Drop(DropReason::NdMalformed) };
    let options = message.get(icmpv6::NEIGHBOUR_LEN..).unwrap_or_default();
    let is_valid = slot.ttl == icmpv6::ND_HOP_LIMIT
        && message.get(1) == Some(&0)
        && solicitation.target() >> 120 != 0xff
        && icmpv6::options_are_valid(options);
    if !is_valid {
        return Verdict::Drop(DropReason::NdMalformed);
    }
    let source = slot.key.source;
    let owns = source == 0 || is_link_local(source) || endpoint.is_none_or(|endpoint| endpoint.owns(source));
    if !owns {
        return Verdict::Drop(DropReason::SourceSpoofed);
    }
    if solicitation.target() == GATEWAY_IPV6 {
        Verdict::Respond(Answer::NeighbourAdvertisement)
    } else {
        Verdict::Drop(DropReason::NdNotForGateway)
    }
}

fn is_gateway(address: u128) -> bool {
    address == mapped(GATEWAY_IPV4) || address == GATEWAY_IPV6
}

pub(super) fn is_link_local(address: u128) -> bool {
    address >> 118 == 0xfe80 >> 6 || is_ipv4_in(address, 0xa9fe_0000, 16)
}

fn is_ipv4_in(address: u128, prefix: u32, length: u32) -> bool {
    address >> 32 == crate::flow::MAPPED_PREFIX >> 32 && (address as u32) >> (32 - length) == prefix >> (32 - length)
}

/// Addresses that no host sends from.
pub(super) fn is_martian_source(address: u128) -> bool {
    is_martian_destination_but_link_local(address)
}

/// Addresses that no router forwards to.
fn is_martian_destination(address: u128) -> bool {
    is_link_local(address) || is_martian_destination_but_link_local(address)
}

/// Unspecified, loopback, multicast, reserved and broadcast addresses.
fn is_martian_destination_but_link_local(address: u128) -> bool {
    is_ipv4_in(address, 0, 8)
        || is_ipv4_in(address, 0x7f00_0000, 8)
        || is_ipv4_in(address, 0xe000_0000, 3)
        || address <= 1
        || address >> 120 == 0xff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::mapped_address;

    fn martian(address: &str) -> bool {
        is_martian_destination(mapped_address(address.parse().unwrap()))
    }

    #[test]
    fn martians() {
        for address in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.7.7", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
            assert!(martian(address), "{address}");
        }
        for address in ["::", "::1", "fe80::1", "febf::1", "ff02::1"] {
            assert!(martian(address), "{address}");
        }
        for address in
            ["1.0.0.1", "10.0.0.1", "126.0.0.1", "128.0.0.1", "223.255.255.255", "169.253.0.1", "169.255.0.1"]
        {
            assert!(!martian(address), "{address}");
        }
        for address in ["2001:db8::1", "fd00::1", "fec0::1", "fe7f::1"] {
            assert!(!martian(address), "{address}");
        }
    }
}
