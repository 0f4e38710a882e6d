//! Stage: what we answer ourselves.
//!
//! Assumes: slots with the verdict `Respond`. Leaves: the answer in the frame of the packet that asked for it, ready to
//! leave by the interface it came from; or a drop where nothing may be answered or the limit is reached.
//! Sources: RFC 826, 4861 §7.2.4, 792, 4443; RFC 1122 §3.2.2 and RFC 4443 §2.4 for when an error must not be sent;
//! RFC 1812 §4.3.2.3 for how much to quote.

use crate::burst::{Answer, Burst, DropReason, Fragment, Network, Slot, Verdict};
use crate::flow::limiter::Limiter;
use crate::header::arp::{self, Arp};
use crate::header::checksum;
use crate::header::ethernet::{self, Ethernet, Mac};
use crate::header::icmpv6::{self, Neighbour};
use crate::header::{build, icmp, ipv4, ipv6, protocol};
use crate::io::umem::Umem;
use crate::packet::Packet;
use crate::table::{GATEWAY_IPV4, GATEWAY_IPV6, RouterAddresses, Tables};

/// An IPv4 error as a whole is at most this long. RFC 1812 §4.3.2.3.
const MAX_IPV4_ERROR: usize = 576;
/// An IPv6 error as a whole fits the least MTU. RFC 4443 §2.4 (c).
const MAX_IPV6_ERROR: usize = ipv6::MIN_MTU as usize;
/// All nodes on the link, to whom a solicitation without a source is answered. RFC 4861 §7.2.4.
const ALL_NODES: u128 = 0xff02_0000_0000_0000_0000_0000_0000_0001;

#[inline(never)]
pub fn burst(burst: &mut Burst, umem: &mut Umem, tables: &Tables, limiter: &mut Limiter) {
    burst.each_open(|slot| {
        let Verdict::Respond(answer) = slot.verdict else { return };
        let Some(interface) = tables.interface(slot.ingress) else { return slot.drop(DropReason::InterfaceDown) };
        if !limiter.take(slot.ingress) {
            return slot.drop(DropReason::AnswerRateLimited);
        }
        let is_written = match answer {
            Answer::Arp => arp_reply(slot, umem, interface.mac),
            Answer::NeighbourAdvertisement => advertisement(slot, umem, interface.mac),
            Answer::Echo => echo_reply(slot, umem, interface.mac),
            Answer::TimeExceeded | Answer::Unreachable | Answer::HostUnreachable | Answer::TooBig(_) => {
                error(slot, umem, interface.mac, answer, tables.addresses)
            }
        };
        if is_written.is_none() {
            slot.drop(answer.unanswered());
        }
    });
}

/// Turns the layer 2 header round, tags and all. `l3` is where it ends.
fn turn(bytes: &mut [u8], l3: usize, our_mac: Mac, ethertype: u16) -> Option<()> {
    let their_mac = Ethernet::at(bytes)?.source();
    let header = bytes.get_mut(..l3)?;
    header[..6].copy_from_slice(&their_mac);
    header[6..12].copy_from_slice(&our_mac);
    header[l3 - 2..].copy_from_slice(&ethertype.to_be_bytes());
    Some(())
}

/// Sets the packet's length and writes the pieces one after the other behind the layer 2 header.
fn write(umem: &mut Umem, packet: &mut Packet, l3: usize, pieces: &[&[u8]]) -> Option<()> {
    let length = l3 + pieces.iter().map(|piece| piece.len()).sum::<usize>();
    if !umem.set_len(packet, length) {
        return None;
    }
    let mut rest = umem.data_mut(packet).get_mut(l3..)?;
    for piece in pieces {
        let (head, tail) = rest.split_at_mut_checked(piece.len())?;
        head.copy_from_slice(piece);
        rest = tail;
    }
    Some(())
}

fn arp_reply(slot: &mut Slot, umem: &mut Umem, our_mac: Mac) -> Option<()> {
    let l3 = usize::from(slot.l3);
    let bytes = umem.data_mut(&slot.packet);
    let request = Arp::at(bytes.get(l3..)?)?;
    let reply = build::arp_reply(our_mac, GATEWAY_IPV4, request.sender_mac(), request.sender_ip());
    turn(bytes, l3, our_mac, ethernet::ETHERTYPE_ARP)?;
    write(umem, &mut slot.packet, l3, &[&reply])?;
    debug_assert_eq!(slot.packet.len(), l3 + arp::LEN);
    Some(())
}

fn advertisement(slot: &mut Slot, umem: &mut Umem, our_mac: Mac) -> Option<()> {
    let l3 = usize::from(slot.l3);
    let bytes = umem.data_mut(&slot.packet);
    let target = Neighbour::at(bytes.get(usize::from(slot.l4)..)?)?.target();
    let is_solicited = slot.key.source != 0;
    let destination = if is_solicited { slot.key.source } else { ALL_NODES };
    let message = build::neighbour_advertisement(target, our_mac, destination, is_solicited);
    let header = build::ipv6(target, destination, protocol::ICMPV6, icmpv6::ND_HOP_LIMIT, message.len());
    turn(bytes, l3, our_mac, ethernet::ETHERTYPE_IPV6)?;
    if !is_solicited {
        // The group address of "all nodes". RFC 2464 §7.
        bytes.get_mut(..6)?.copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    }
    write(umem, &mut slot.packet, l3, &[&header, &message])
}

/// Swaps addresses and changes the type, which keeps the rest of the checksum.
fn echo_reply(slot: &mut Slot, umem: &mut Umem, our_mac: Mac) -> Option<()> {
    let (l3, l4) = (usize::from(slot.l3), usize::from(slot.l4));
    let is_ipv4 = slot.network == Network::Ipv4;
    let bytes = umem.data_mut(&slot.packet);
    let (ethertype, reply, at, length) = if is_ipv4 {
        (ethernet::ETHERTYPE_IPV4, icmp::ECHO_REPLY, l3 + 12, 4)
    } else {
        (ethernet::ETHERTYPE_IPV6, icmpv6::ECHO_REPLY, l3 + 8, 16)
    };
    turn(bytes, l3, our_mac, ethertype)?;
    let (source, destination) = bytes.get_mut(at..at + 2 * length)?.split_at_mut(length);
    source.swap_with_slice(destination);
    let message = bytes.get_mut(l4..)?.first_chunk_mut::<4>()?;
    let old = u16::from_be_bytes([message[0], message[1]]);
    message[0] = reply;
    let new = u16::from_be_bytes([message[0], message[1]]);
    let sum = checksum::update(u16::from_be_bytes([message[2], message[3]]), old, new);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Builds an error about the packet, from as much of it as may be quoted.
fn error(slot: &mut Slot, umem: &mut Umem, our_mac: Mac, answer: Answer, addresses: RouterAddresses) -> Option<()> {
    // No error about an error, about anything but a first fragment, or to nobody in particular.
    if slot.is_icmp_error || slot.fragment == Fragment::Later {
        return None;
    }
    let l3 = usize::from(slot.l3);
    let is_ipv4 = slot.network == Network::Ipv4;
    let (most, ours) = if is_ipv4 {
        (MAX_IPV4_ERROR, ipv4::HEADER_LEN + icmp::HEADER_LEN)
    } else {
        (MAX_IPV6_ERROR, ipv6::HEADER_LEN + icmp::HEADER_LEN)
    };
    let mut quote = [0u8; MAX_IPV6_ERROR];
    let bytes = umem.data_mut(&slot.packet);
    let present = bytes.get(l3..)?;
    let length = present.len().min(slot.l3_len as usize).min(most - ours);
    let quote = quote.get_mut(..length)?;
    quote.copy_from_slice(&present[..length]);
    let ethertype = if is_ipv4 { ethernet::ETHERTYPE_IPV4 } else { ethernet::ETHERTYPE_IPV6 };
    turn(bytes, l3, our_mac, ethertype)?;
    let to = slot.key.source;
    if is_ipv4 {
        let (kind, code, rest) = match answer {
            Answer::TimeExceeded => (icmp::TIME_EXCEEDED, 0, 0),
            Answer::TooBig(mtu) => (icmp::UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED, u32::from(mtu)),
            Answer::HostUnreachable => (icmp::UNREACHABLE, icmp::CODE_HOST_UNREACHABLE, 0),
            _ => (icmp::UNREACHABLE, icmp::CODE_NET_UNREACHABLE, 0),
        };
        let from = addresses.node_ipv4.unwrap_or(GATEWAY_IPV4);
        let message = build::icmp_error(kind, code, rest, quote);
        let header = build::ipv4(from, to as u32, protocol::ICMP, message.len() + quote.len());
        write(umem, &mut slot.packet, l3, &[&header, &message, quote])
    } else {
        let (kind, code, rest) = match answer {
            Answer::TimeExceeded => (icmpv6::TIME_EXCEEDED, 0, 0),
            Answer::TooBig(mtu) => (icmpv6::PACKET_TOO_BIG, 0, u32::from(mtu)),
            Answer::HostUnreachable => (icmpv6::UNREACHABLE, icmpv6::CODE_ADDRESS_UNREACHABLE, 0),
            _ => (icmpv6::UNREACHABLE, icmpv6::CODE_NO_ROUTE, 0),
        };
        let from = addresses.node_ipv6.unwrap_or(GATEWAY_IPV6);
        let message = build::icmpv6_error(kind, code, rest, quote, from, to);
        let header = build::ipv6(from, to, protocol::ICMPV6, build::TTL, message.len() + quote.len());
        write(umem, &mut slot.packet, l3, &[&header, &message, quote])
    }
}
