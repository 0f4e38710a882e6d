//! Headers that we write ourselves. Each function fills the fixed part of one header; lengths are the caller's proof.

use super::checksum::{Sum, pseudo_header};
use super::ethernet::Mac;
use super::{arp, icmp, icmpv6, ipv4, ipv6, protocol};

/// What a host that sends a new packet puts into TTL. RFC 1700; Linux and BSD agree.
pub const TTL: u8 = 64;

/// An IPv4 header without options and with its checksum.
pub fn ipv4(source: u32, destination: u32, number: u8, payload_len: usize) -> [u8; ipv4::HEADER_LEN] {
    let mut header = [0u8; ipv4::HEADER_LEN];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((ipv4::HEADER_LEN + payload_len) as u16).to_be_bytes());
    // Do not fragment: with that set an identification of 0 is fine. RFC 6864 §4.1.
    header[6] = 0x40;
    header[8] = TTL;
    header[9] = number;
    header[12..16].copy_from_slice(&source.to_be_bytes());
    header[16..20].copy_from_slice(&destination.to_be_bytes());
    let checksum = Sum::new().bytes(&header).finish();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// An IPv6 header.
pub fn ipv6(source: u128, destination: u128, number: u8, hop_limit: u8, payload_len: usize) -> [u8; ipv6::HEADER_LEN] {
    let mut header = [0u8; ipv6::HEADER_LEN];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(payload_len as u16).to_be_bytes());
    header[6] = number;
    header[7] = hop_limit;
    header[8..24].copy_from_slice(&source.to_be_bytes());
    header[24..40].copy_from_slice(&destination.to_be_bytes());
    header
}

/// An ICMP error's header; `rest` holds what the type defines, `quote` follows it. RFC 792.
pub fn icmp_error(kind: u8, code: u8, rest: u32, quote: &[u8]) -> [u8; icmp::HEADER_LEN] {
    finish(icmp_header(kind, code, rest), Sum::new(), quote)
}

/// The same for ICMPv6, whose checksum covers the pseudo header. RFC 4443 §2.3.
pub fn icmpv6_error(
    kind: u8,
    code: u8,
    rest: u32,
    quote: &[u8],
    source: u128,
    destination: u128,
) -> [u8; icmp::HEADER_LEN] {
    let length = icmp::HEADER_LEN + quote.len();
    let sum = pseudo_header(source, destination, false, protocol::ICMPV6, length);
    finish(icmp_header(kind, code, rest), sum, quote)
}

fn icmp_header(kind: u8, code: u8, rest: u32) -> [u8; icmp::HEADER_LEN] {
    let mut header = [0u8; icmp::HEADER_LEN];
    header[0] = kind;
    header[1] = code;
    header[4..8].copy_from_slice(&rest.to_be_bytes());
    header
}

fn finish(mut header: [u8; icmp::HEADER_LEN], sum: Sum, payload: &[u8]) -> [u8; icmp::HEADER_LEN] {
    let checksum = sum.bytes(&header).bytes(payload).finish();
    header[2..4].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// An ARP reply. RFC 826.
pub fn arp_reply(our_mac: Mac, our_ip: u32, their_mac: Mac, their_ip: u32) -> [u8; arp::LEN] {
    arp(arp::REPLY, our_mac, our_ip, their_mac, their_ip)
}

/// An ARP request. RFC 826.
pub fn arp_request(our_mac: Mac, our_ip: u32, their_ip: u32) -> [u8; arp::LEN] {
    arp(arp::REQUEST, our_mac, our_ip, [0; 6], their_ip)
}

fn arp(operation: u16, our_mac: Mac, our_ip: u32, their_mac: Mac, their_ip: u32) -> [u8; arp::LEN] {
    let mut packet = [0u8; arp::LEN];
    packet[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    packet[6..8].copy_from_slice(&operation.to_be_bytes());
    packet[8..14].copy_from_slice(&our_mac);
    packet[14..18].copy_from_slice(&our_ip.to_be_bytes());
    packet[18..24].copy_from_slice(&their_mac);
    packet[24..28].copy_from_slice(&their_ip.to_be_bytes());
    packet
}

/// Length of a neighbour advertisement with the target link-layer address option.
pub const ADVERTISEMENT_LEN: usize = icmpv6::NEIGHBOUR_LEN + 8;

/// A neighbour advertisement from a router, with its MAC address. RFC 4861 §4.4 and §4.6.1.
pub fn neighbour_advertisement(
    target: u128,
    mac: Mac,
    destination: u128,
    is_solicited: bool,
) -> [u8; ADVERTISEMENT_LEN] {
    const ROUTER: u8 = 0x80;
    const SOLICITED: u8 = 0x40;
    const OVERRIDE: u8 = 0x20;
    let mut message = [0u8; ADVERTISEMENT_LEN];
    message[0] = icmpv6::NEIGHBOUR_ADVERTISEMENT;
    message[4] = ROUTER | OVERRIDE | if is_solicited { SOLICITED } else { 0 };
    message[8..24].copy_from_slice(&target.to_be_bytes());
    message[24..26].copy_from_slice(&[2, 1]);
    message[26..32].copy_from_slice(&mac);
    let sum = pseudo_header(target, destination, false, protocol::ICMPV6, ADVERTISEMENT_LEN);
    let checksum = sum.bytes(&message).finish();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}
