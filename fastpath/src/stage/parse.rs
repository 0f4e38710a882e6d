//! Stage: from bytes to offsets and the flow key.
//!
//! Assumes: slots fresh from `rx`. Leaves: `network`, `l3`, `l4`, `l3_len`, `key` and its hash, fragment facts, TTL; or a drop. The
//! packet is cut to the length its network header gives, so that padding is never judged nor forwarded.
//! Drops: everything malformed. Every length is checked against what contains it, the frame first.
//! Sources: RFC 791, 8200, 792, 4443, 9293, 768; RFC 1858 and RFC 5722 for fragments.

use crate::burst::{Burst, DropReason, Fragment, Network, Passage, Slot, Verdict};
use crate::flow::{FlowTable, Key, KeyKind, mapped};
use crate::header::checksum::Sum;
use crate::header::ethernet::{self, Ethernet, Tag};
use crate::header::icmp::{self, Icmp};
use crate::header::ipv4::{self, Ipv4};
use crate::header::ipv6::{self, ChainError, Ipv6};
use crate::header::tcp::{self, Tcp};
use crate::header::udp::{self, Udp};
use crate::header::{icmpv6, protocol};
use crate::io::umem::Umem;
use crate::table::interface::{Interface, InterfaceKind};
use crate::table::{InterfaceIndex, Tables};

mod usual;

use usual::Entrance;

/// The largest datagram. RFC 791 §3.1.
const MAX_DATAGRAM: usize = 65_535;

#[inline(never)]
pub fn burst(burst: &mut Burst, umem: &mut Umem, flows: &FlowTable, tables: &Tables) {
    let mut last = (InterfaceIndex::NONE, None);
    for slot in burst.forward() {
        if slot.ingress != last.0 {
            last = (slot.ingress, tables.interface(slot.ingress).map(Entrance::new));
        }
        let Some(entrance) = &last.1 else {
            slot.drop(DropReason::InterfaceDown);
            continue;
        };
        let result = match usual::parse(slot, umem.data(&slot.packet), entrance, flows) {
            Some(length) => Ok(length),
            None => {
                let result = parse(slot, umem.data(&slot.packet), entrance.interface, tables);
                slot.hash = flows.hash(&slot.key);
                result
            }
        };
        flows.prefetch_bucket(slot.hash);
        match result {
            // A datagram longer than its packet was refused, so this only ever cuts padding.
            Ok(length) if length < slot.packet.len() => {
                if !umem.set_len(&mut slot.packet, length) {
                    slot.drop(DropReason::FrameTooShort);
                }
            }
            Ok(_) => {}
            Err(reason) => slot.verdict = Verdict::Drop(reason),
        }
    }
}

/// Fills the slot from the packet's first frame, piece by piece. Returns the length that the packet should have.
#[inline(never)]
fn parse(slot: &mut Slot, bytes: &[u8], interface: &Interface, tables: &Tables) -> Result<usize, DropReason> {
    let frame = Ethernet::at(bytes).ok_or(DropReason::FrameTooShort)?;
    let destination = frame.destination();
    slot.passage = passage(&frame, interface, tables)?;
    let is_outgoing = matches!(slot.passage, Passage::FromHost(_));
    if destination != interface.mac && !ethernet::is_group(&destination) && !is_outgoing {
        return Err(DropReason::MacNotOurs);
    }
    if ethernet::is_group(&frame.source()) {
        return Err(DropReason::MacSourceGroup);
    }
    let (ethertype, l3) = strip_tags(bytes, frame.ethertype(), interface)?;
    slot.l3 = l3 as u16;
    let packet = bytes.get(l3..).ok_or(DropReason::FrameTooShort)?;
    // What lies in further frames counts as present, but headers must be in the first.
    let available = slot.packet.len() - l3;
    slot.is_group = ethernet::is_group(&destination);
    // Groups are the host's business, where it has an endpoint.
    let is_group = slot.is_group && slot.passage == Passage::None;
    let relays_dhcp = tables.relays_dhcp && interface.kind == InterfaceKind::Workload;
    let length = match ethertype {
        // What DHCP servers are asked is the only thing we take, where somebody relays it.
        ethernet::ETHERTYPE_IPV4 if is_group && relays_dhcp => match ipv4(slot, packet, available) {
            Ok(length) if is_dhcp_request(slot) => Ok(l3 + length),
            _ => Err(DropReason::DestinationMartian),
        },
        ethernet::ETHERTYPE_IPV4 if is_group => Err(DropReason::DestinationMartian),
        ethernet::ETHERTYPE_IPV4 => ipv4(slot, packet, available).map(|length| l3 + length),
        ethernet::ETHERTYPE_IPV6 => {
            let length = ipv6(slot, packet, available)?;
            // Neighbour discovery is the only thing we take from a group address.
            if is_group && !is_neighbour_solicitation(slot, packet) {
                return Err(DropReason::DestinationMartian);
            }
            Ok(l3 + length)
        }
        ethernet::ETHERTYPE_ARP => {
            slot.network = Network::Arp;
            Ok(slot.packet.len())
        }
        _ => Err(DropReason::EthertypeUnknown),
    }?;
    let is_one_to_one = slot.passage == Passage::None && !slot.is_group && slot.network != Network::Arp;
    let is_whole = slot.fragment == Fragment::Whole && !slot.is_icmp_error;
    slot.is_plain = is_one_to_one && is_whole && !slot.opens_connection();
    Ok(length)
}

/// What arrives at an uplink with a host endpoint is the host's unless it leads to a workload, which `admit` finds out.
/// What the host sends by an uplink comes by the private pair and says so in its source address.
fn passage(frame: &Ethernet<'_>, interface: &Interface, tables: &Tables) -> Result<Passage, DropReason> {
    match (interface.kind, ethernet::link_of(&frame.source())) {
        (InterfaceKind::Uplink, _) if !interface.host_endpoint.is_none() => Ok(Passage::ToHost),
        (InterfaceKind::Host, Some(link)) => {
            tables.uplink(link).map(Passage::FromHost).ok_or(DropReason::InterfaceDown)
        }
        _ => Ok(Passage::None),
    }
}

/// Takes off at most two tags, which must be those of the interface; a priority tag (VLAN 0) counts as none.
fn strip_tags(bytes: &[u8], mut ethertype: u16, interface: &Interface) -> Result<(u16, usize), DropReason> {
    let mut offset = ethernet::HEADER_LEN;
    let mut found = [0u16; 2];
    let mut count = 0;
    for _ in 0..2 {
        if !ethernet::is_tag(ethertype) {
            break;
        }
        let tag = bytes.get(offset..).and_then(Tag::at).ok_or(DropReason::FrameTooShort)?;
        if tag.vlan() != 0 {
            found[count] = tag.vlan();
            count += 1;
        }
        ethertype = tag.ethertype();
        offset += ethernet::TAG_LEN;
    }
    if ethernet::is_tag(ethertype) || found != interface.tags {
        return Err(DropReason::VlanUnexpected);
    }
    // An endpoint has no use for a priority tag either, but many stacks send it: harmless.
    debug_assert!(interface.kind != InterfaceKind::Workload || interface.tags == [0; 2]);
    Ok((ethertype, offset))
}

fn ipv4(slot: &mut Slot, packet: &[u8], available: usize) -> Result<usize, DropReason> {
    use DropReason::Ipv4Malformed;
    let header = Ipv4::at(packet).ok_or(Ipv4Malformed)?;
    let (header_len, total_len) = (header.header_len(), header.total_len());
    if header.version() != 4 || header_len < ipv4::HEADER_LEN || total_len < header_len || total_len > available {
        return Err(Ipv4Malformed);
    }
    let whole_header = packet.get(..header_len).ok_or(Ipv4Malformed)?;
    // A header that includes its checksum sums up to all ones.
    if Sum::new().bytes(whole_header).fold() != 0xffff {
        return Err(DropReason::Ipv4Checksum);
    }
    if header_len > ipv4::HEADER_LEN {
        match ipv4::options(&whole_header[ipv4::HEADER_LEN..]) {
            ipv4::Options::Harmless => {}
            ipv4::Options::SourceRoute => return Err(DropReason::Ipv4SourceRoute),
            ipv4::Options::Malformed => return Err(Ipv4Malformed),
        }
    }
    slot.network = Network::Ipv4;
    slot.l3_len = total_len as u32;
    slot.l4 = slot.l3 + header_len as u16;
    slot.ttl = header.ttl();
    slot.identification = header.identification().into();
    slot.key.source = mapped(header.source());
    slot.key.destination = mapped(header.destination());
    slot.key.protocol = header.protocol();
    fragment(slot, header.fragment_offset(), header.more_fragments(), total_len - header_len)?;
    let payload = &packet[header_len..total_len.min(packet.len())];
    transport(slot, payload, total_len - header_len)?;
    Ok(total_len)
}

fn ipv6(slot: &mut Slot, packet: &[u8], available: usize) -> Result<usize, DropReason> {
    use DropReason::Ipv6Malformed;
    let header = Ipv6::at(packet).ok_or(Ipv6Malformed)?;
    let total_len = ipv6::HEADER_LEN + header.payload_len();
    // A payload length of 0 would mean a jumbogram, which no link here can carry.
    if header.version() != 6 || total_len > available || (header.payload_len() == 0 && header.next_header() == 0) {
        return Err(Ipv6Malformed);
    }
    let present = &packet[..total_len.min(packet.len())];
    let chain = ipv6::walk(present, header.next_header()).map_err(|error| match error {
        ChainError::Malformed => Ipv6Malformed,
        ChainError::TooLong => DropReason::Ipv6ChainTooLong,
        ChainError::RoutingType0 => DropReason::Ipv6RoutingHeader,
    })?;
    slot.network = Network::Ipv6;
    slot.l3_len = total_len as u32;
    slot.l4 = slot.l3 + chain.offset as u16;
    slot.ttl = header.hop_limit();
    slot.key.source = header.source();
    slot.key.destination = header.destination();
    slot.key.protocol = chain.protocol;
    // A v4-mapped address on the wire would pass for IPv4 in keys and policies. RFC 4942 §2.2.
    if slot.key.is_ipv4() || slot.key.destination >> 32 == crate::flow::MAPPED_PREFIX >> 32 {
        return Err(DropReason::SourceMartian);
    }
    if let Some(found) = chain.fragment {
        slot.identification = found.identification;
        fragment(slot, found.offset, found.more, total_len - found.start)?;
    }
    let payload = present.get(chain.offset..).ok_or(Ipv6Malformed)?;
    transport(slot, payload, total_len - chain.offset)?;
    Ok(total_len)
}

/// Records which part of the datagram this is. An "atomic" fragment (offset 0, no more) is a whole packet. RFC 6946.
fn fragment(slot: &mut Slot, offset: usize, more: bool, payload: usize) -> Result<(), DropReason> {
    slot.fragment = match (offset, more) {
        (0, false) => return Ok(()),
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    };
    let is_uneven = more && !payload.is_multiple_of(8);
    if is_uneven || payload == 0 || offset + payload > MAX_DATAGRAM {
        return Err(DropReason::FragmentMalformed);
    }
    slot.fragment_offset = offset as u16;
    slot.fragment_len = payload as u16;
    Ok(())
}

/// Reads the transport header. `length` is that of header and payload by the network header's word.
fn transport(slot: &mut Slot, payload: &[u8], length: usize) -> Result<(), DropReason> {
    if slot.fragment == Fragment::Later {
        slot.key = fragment_key(slot);
        return Ok(());
    }
    // The header of a first fragment must be whole: RFC 1858 §3, RFC 7112 §5.
    let cut = match slot.fragment {
        Fragment::First => DropReason::FragmentMalformed,
        _ => DropReason::TransportMalformed,
    };
    match slot.key.protocol {
        protocol::TCP => {
            let header = Tcp::at(payload).ok_or(cut)?;
            if header.header_len() < tcp::HEADER_LEN || header.header_len() > length {
                return Err(cut);
            }
            if !tcp::flags_are_valid(header.flags()) {
                return Err(DropReason::TcpFlags);
            }
            slot.tcp_flags = header.flags();
            slot.key.source_port = header.source_port();
            slot.key.destination_port = header.destination_port();
        }
        protocol::UDP | protocol::UDPLITE => {
            let header = Udp::at(payload).ok_or(cut)?;
            let is_udp = slot.key.protocol == protocol::UDP;
            // A first fragment carries only part of the datagram that the UDP length counts.
            let is_long = slot.fragment == Fragment::Whole && header.len() > length;
            if is_udp && (header.len() < udp::HEADER_LEN || is_long) {
                return Err(cut);
            }
            // RFC 8200 §8.1: over IPv6 the checksum is not optional. RFC 6935: but for tunnels, which the host may have.
            let is_needed = slot.passage == Passage::None;
            if is_udp && is_needed && slot.network == Network::Ipv6 && header.checksum() == 0 {
                return Err(DropReason::TransportMalformed);
            }
            slot.key.source_port = header.source_port();
            slot.key.destination_port = header.destination_port();
        }
        protocol::SCTP => {
            // Common header of 12 bytes: RFC 9260 §3.1.
            let header = Udp::at(payload).filter(|_| length >= 12).ok_or(cut)?;
            slot.key.source_port = header.source_port();
            slot.key.destination_port = header.destination_port();
        }
        protocol::ICMP if slot.network == Network::Ipv4 => icmp(slot, payload, cut)?,
        protocol::ICMPV6 if slot.network == Network::Ipv6 => icmp(slot, payload, cut)?,
        _ => {}
    }
    Ok(())
}

fn icmp(slot: &mut Slot, payload: &[u8], cut: DropReason) -> Result<(), DropReason> {
    let header = Icmp::at(payload).ok_or(cut)?;
    let is_ipv4 = slot.network == Network::Ipv4;
    let (is_error, request, reply) = if is_ipv4 {
        (icmp::is_error(header.kind()), icmp::ECHO_REQUEST, icmp::ECHO_REPLY)
    } else {
        (icmpv6::is_error(header.kind()), icmpv6::ECHO_REQUEST, icmpv6::ECHO_REPLY)
    };
    let kind = header.kind();
    if kind == request || kind == reply {
        slot.key.kind = if kind == request { KeyKind::EchoRequest } else { KeyKind::EchoReply };
        // Request and reply have the identifier on opposite sides, as ports would.
        match slot.key.kind {
            KeyKind::EchoRequest => slot.key.source_port = header.identifier(),
            _ => slot.key.destination_port = header.identifier(),
        }
        return Ok(());
    }
    slot.key.kind = KeyKind::IcmpOther;
    slot.key.source_port = u16::from(kind) << 8 | u16::from(header.code());
    slot.key.destination_port = slot.key.source_port;
    if is_error && slot.fragment == Fragment::Whole {
        slot.is_icmp_error = true;
    }
    Ok(())
}

/// The key under which the fragments of one datagram find each other. RFC 791 §2.3, RFC 8200 §4.5.
pub fn fragment_key(slot: &Slot) -> Key {
    Key {
        source: slot.key.source,
        destination: slot.key.destination,
        source_port: (slot.identification >> 16) as u16,
        destination_port: slot.identification as u16,
        // IPv6 identifies by addresses and identification alone.
        protocol: if slot.network == Network::Ipv4 { slot.key.protocol } else { 0 },
        kind: KeyKind::Fragment,
    }
}

/// The key of the packet that an ICMP error quotes, if enough of it is there.
pub fn quoted_key(slot: &Slot, bytes: &[u8]) -> Option<Key> {
    let quote = bytes.get(usize::from(slot.l4) + icmp::HEADER_LEN..)?;
    let (source, destination, number, header_len) = match slot.network {
        Network::Ipv4 => {
            let header = Ipv4::at(quote)?;
            if header.version() != 4 || header.header_len() < ipv4::HEADER_LEN || header.fragment_offset() != 0 {
                return None;
            }
            (mapped(header.source()), mapped(header.destination()), header.protocol(), header.header_len())
        }
        Network::Ipv6 => {
            let header = Ipv6::at(quote)?;
            let chain = ipv6::walk(quote, header.next_header()).ok()?;
            if header.version() != 6 || chain.fragment.is_some_and(|fragment| fragment.offset > 0) {
                return None;
            }
            (header.source(), header.destination(), chain.protocol, chain.offset)
        }
        Network::None | Network::Arp => return None,
    };
    let mut key = Key { source, destination, protocol: number, ..Key::default() };
    let transport = quote.get(header_len..)?;
    match (number, slot.network) {
        // Eight bytes are all that an error must quote, and all that this reads. RFC 792.
        (protocol::TCP | protocol::UDP | protocol::UDPLITE | protocol::SCTP, _) => {
            let header = Udp::at(transport)?;
            key.source_port = header.source_port();
            key.destination_port = header.destination_port();
        }
        (protocol::ICMP, Network::Ipv4) | (protocol::ICMPV6, Network::Ipv6) => {
            let header = Icmp::at(transport)?;
            match header.kind() {
                icmp::ECHO_REQUEST | icmpv6::ECHO_REQUEST => {
                    key.kind = KeyKind::EchoRequest;
                    key.source_port = header.identifier();
                }
                icmp::ECHO_REPLY | icmpv6::ECHO_REPLY => {
                    key.kind = KeyKind::EchoReply;
                    key.destination_port = header.identifier();
                }
                // An error about an error, or about a message that starts nothing.
                _ => return None,
            }
        }
        _ => {}
    }
    Some(key)
}

/// From a DHCP client to whoever is a server. RFC 2131 §4.1.
pub(super) fn is_dhcp_request(slot: &Slot) -> bool {
    slot.network == Network::Ipv4
        && slot.key.protocol == protocol::UDP
        && slot.fragment == Fragment::Whole
        && (slot.key.source_port, slot.key.destination_port) == (udp::DHCP_CLIENT, udp::DHCP_SERVER)
        && slot.key.destination == mapped(u32::MAX)
}

fn is_neighbour_solicitation(slot: &Slot, packet: &[u8]) -> bool {
    let offset = usize::from(slot.l4 - slot.l3);
    slot.key.protocol == protocol::ICMPV6
        && slot.fragment == Fragment::Whole
        && packet.get(offset) == Some(&icmpv6::NEIGHBOUR_SOLICITATION)
}
