//! What a frame holds, by a decoder that is not ours.
//!
//! `View::of` reads a frame with `etherparse` and recomputes every checksum it finds; `View` prints as one line:
//!
//! ```text
//!     02:00:00:00:00:02 < ee:ee:ee:ee:ee:ee  10.0.0.1 > 10.0.0.2 ttl 63 tcp 4000 > 80 [syn] 5 bytes
//! ```
//!
//! Left out: SCTP's CRC32C, which nothing here computes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::packet::Mac;

/// A frame, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub destination_mac: Mac,
    pub source_mac: Mac,
    /// VLAN identifiers, outermost first.
    pub tags: Vec<u16>,
    pub network: Network,
    pub transport: Transport,
    /// What follows the transport header; behind the network header where there is none.
    pub payload: Vec<u8>,
    /// Checksums that are wrong, and bytes that do not belong to the packet.
    pub faults: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    Arp { operation: u16, sender_mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr },
    Ip { source: IpAddr, destination: IpAddr, ttl: u8, protocol: u8, is_fragment: bool },
    Other(u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp { source: u16, destination: u16, flags: u8 },
    Udp { source: u16, destination: u16 },
    Icmp { kind: u8, code: u8, rest: [u8; 4] },
    None,
}

impl View {
    pub fn of(frame: &[u8]) -> Result<View, String> {
        let sliced = SlicedPacket::from_ethernet(frame).map_err(|error| format!("{error} in {}", hex(frame)))?;
        let tags: Vec<u16> = sliced.vlan_ids().iter().map(|id| id.value()).collect();
        let l3 = 14 + 4 * tags.len();
        let mut faults = Vec::new();
        let network = network(&sliced, frame, l3, &mut faults);
        let (transport, payload) = transport(&sliced, &network, &mut faults);
        let payload = match payload {
            Some(payload) => payload.to_vec(),
            None => sliced.ip_payload().map(|payload| payload.payload.to_vec()).unwrap_or_default(),
        };
        let mut macs = [[0u8; 6]; 2];
        macs[0].copy_from_slice(&frame[..6]);
        macs[1].copy_from_slice(&frame[6..12]);
        Ok(View { destination_mac: macs[0], source_mac: macs[1], tags, network, transport, payload, faults })
    }

    /// Decodes a frame that must be right in every respect that can be checked.
    pub fn sound(frame: &[u8]) -> View {
        match View::of(frame) {
            Ok(view) if view.faults.is_empty() => view,
            Ok(view) => panic!("{view}: {:?} in {}", view.faults, hex(frame)),
            Err(error) => panic!("{error}"),
        }
    }

    pub fn source(&self) -> Option<IpAddr> {
        if let Network::Ip { source, .. } = self.network { Some(source) } else { None }
    }

    pub fn destination(&self) -> Option<IpAddr> {
        if let Network::Ip { destination, .. } = self.network { Some(destination) } else { None }
    }

    pub fn ttl(&self) -> Option<u8> {
        if let Network::Ip { ttl, .. } = self.network { Some(ttl) } else { None }
    }

    /// Type, code and the four bytes that depend on them.
    pub fn icmp(&self) -> Option<(u8, u8, [u8; 4])> {
        if let Transport::Icmp { kind, code, rest } = self.transport { Some((kind, code, rest)) } else { None }
    }
}

fn network(sliced: &SlicedPacket<'_>, frame: &[u8], l3: usize, faults: &mut Vec<String>) -> Network {
    let mut check_length = |length: usize| {
        if frame.len() != l3 + length {
            faults.push(format!("frame of {} bytes around a packet of {length} at {l3}", frame.len()));
        }
    };
    match &sliced.net {
        Some(NetSlice::Ipv4(packet)) => {
            let header = packet.header();
            check_length(header.total_len().into());
            if header.header_checksum() != header.to_header().calc_header_checksum() {
                faults.push("wrong IPv4 header checksum".to_string());
            }
            Network::Ip {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                ttl: header.ttl(),
                protocol: packet.payload_ip_number().0,
                is_fragment: packet.is_payload_fragmented(),
            }
        }
        Some(NetSlice::Ipv6(packet)) => {
            let header = packet.header();
            check_length(40 + usize::from(header.payload_length()));
            Network::Ip {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                ttl: header.hop_limit(),
                protocol: packet.payload().ip_number.0,
                is_fragment: packet.is_payload_fragmented(),
            }
        }
        Some(NetSlice::Arp(packet)) => {
            let mac = |bytes: &[u8]| -> Mac { bytes.try_into().unwrap_or_default() };
            let address = |bytes: &[u8]| Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap_or_default());
            Network::Arp {
                operation: packet.operation().0,
                sender_mac: mac(packet.sender_hw_addr()),
                sender: address(packet.sender_protocol_addr()),
                target_mac: mac(packet.target_hw_addr()),
                target: address(packet.target_protocol_addr()),
            }
        }
        None => Network::Other(sliced.payload_ether_type().map_or(0, |ethertype| ethertype.0)),
    }
}

fn transport<'a>(
    sliced: &SlicedPacket<'a>,
    network: &Network,
    faults: &mut Vec<String>,
) -> (Transport, Option<&'a [u8]>) {
    let Network::Ip { source, destination, is_fragment, .. } = *network else { return (Transport::None, None) };
    // The checksum of a fragmented datagram covers what is not here.
    let mut check = |found: u16, computed: Option<u16>, what: &str| {
        if !is_fragment && Some(found) != computed {
            faults.push(format!("{what} checksum {found:#06x}, computed {computed:#06x?}"));
        }
    };
    match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let computed = match (source, destination) {
                (IpAddr::V4(s), IpAddr::V4(d)) => tcp.calc_checksum_ipv4(s.octets(), d.octets()).ok(),
                (IpAddr::V6(s), IpAddr::V6(d)) => tcp.calc_checksum_ipv6(s.octets(), d.octets()).ok(),
                _ => None,
            };
            check(tcp.checksum(), computed, "TCP");
            let flags = tcp.header_slice()[13];
            (
                Transport::Tcp { source: tcp.source_port(), destination: tcp.destination_port(), flags },
                Some(tcp.payload()),
            )
        }
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            let computed = match (source, destination) {
                // RFC 768: none was computed.
                (IpAddr::V4(_), _) if udp.checksum() == 0 => Some(0),
                (IpAddr::V4(s), IpAddr::V4(d)) => {
                    header.calc_checksum_ipv4_raw(s.octets(), d.octets(), udp.payload()).ok()
                }
                (IpAddr::V6(s), IpAddr::V6(d)) => {
                    header.calc_checksum_ipv6_raw(s.octets(), d.octets(), udp.payload()).ok()
                }
                _ => None,
            };
            check(udp.checksum(), computed, "UDP");
            (Transport::Udp { source: udp.source_port(), destination: udp.destination_port() }, Some(udp.payload()))
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            // A message that includes its checksum sums up to all ones.
            check(crate::packet::sum(icmp.slice()), Some(0), "ICMP");
            let whole = icmp.slice();
            (message(whole), whole.get(8..))
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            if let (IpAddr::V6(s), IpAddr::V6(d)) = (source, destination) {
                let is_valid = icmp.is_checksum_valid(s.octets(), d.octets());
                check(u16::from(!is_valid), Some(0), "ICMPv6");
            }
            let whole = icmp.slice();
            (message(whole), whole.get(8..))
        }
        Some(TransportSlice::Igmp(_)) | None => (Transport::None, None),
    }
}

fn message(whole: &[u8]) -> Transport {
    let rest = whole.get(4..8).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    Transport::Icmp { kind: whole[0], code: whole[1], rest }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} < {}  ", mac_text(&self.destination_mac), mac_text(&self.source_mac))?;
        for tag in &self.tags {
            write!(f, "vlan {tag} ")?;
        }
        match &self.network {
            Network::Arp { operation, sender, target, .. } => return write!(f, "arp {operation} {sender} > {target}"),
            Network::Other(ethertype) => return write!(f, "ethertype {ethertype:#06x}"),
            Network::Ip { source, destination, ttl, protocol, is_fragment } => {
                write!(f, "{source} > {destination} ttl {ttl} ")?;
                if *is_fragment {
                    write!(f, "fragment ")?;
                }
                match &self.transport {
                    Transport::Tcp { source, destination, flags } => {
                        write!(f, "tcp {source} > {destination} [{}]", flags_text(*flags))?;
                    }
                    Transport::Udp { source, destination } => write!(f, "udp {source} > {destination}")?,
                    Transport::Icmp { kind, code, .. } => write!(f, "icmp {kind}/{code}")?,
                    Transport::None => write!(f, "protocol {protocol}")?,
                }
            }
        }
        write!(f, " {} bytes", self.payload.len())
    }
}

pub fn flags_text(flags: u8) -> String {
    const NAMES: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    let set: Vec<&str> = NAMES.iter().enumerate().filter(|(bit, _)| flags >> bit & 1 == 1).map(|(_, n)| *n).collect();
    set.join("+")
}

fn mac_text(mac: &Mac) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
