//! Packets as they are written in tests.
//!
//! A packet is made valid and then made wrong, field by field: whatever is not set is computed. Checksums are summed by
//! the plainest loop there is, on purpose not by the code under test.
//!
//! ```text
//!     Packet::new("10.0.0.1", "10.0.0.2").tcp(4000, 80, SYN).payload(b"hello").ttl(3)
//!         .bytes()                    the network packet
//!         .frame(&Link { .. })        with Ethernet header and tags in front
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const FRAGMENT: u8 = 44;
pub const ICMPV6: u8 = 58;
pub const DESTINATION_OPTIONS: u8 = 60;
pub const SCTP: u8 = 132;

pub type Mac = [u8; 6];

/// The layer 2 header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub destination: Mac,
    pub source: Mac,
    /// VLAN tags, outermost first; 0 = none.
    pub tags: [u16; 2],
}

/// What follows the network header.
#[derive(Clone, Debug)]
enum Transport {
    Ports {
        number: u8,
        source: u16,
        destination: u16,
        flags: u8,
    },
    /// Type, code and the four bytes that depend on them.
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
    /// Nothing that we build: the payload is all there is.
    Raw {
        number: u8,
    },
}

/// What stands in the transport checksum field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksum {
    Right,
    /// The sum of the pseudo header: what a veth leaves for hardware to finish.
    Partial,
    Exactly(u16),
}

/// A packet under construction.
#[derive(Clone, Debug)]
pub struct Packet {
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    identification: u32,
    dont_fragment: bool,
    /// Offset in bytes, more follow.
    fragment: Option<(usize, bool)>,
    /// IPv4 options, a multiple of four bytes.
    options: Vec<u8>,
    /// IPv6 extension headers ahead of a fragment header: number and body behind the first two bytes.
    extensions: Vec<(u8, Vec<u8>)>,
    transport: Transport,
    checksum: Checksum,
    payload: Vec<u8>,
}

impl Packet {
    /// An empty UDP packet between two addresses of one family.
    pub fn new(source: impl ToAddress, destination: impl ToAddress) -> Self {
        let (source, destination) = (source.to_address(), destination.to_address());
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "{source} and {destination} are of different families");
        Self {
            source,
            destination,
            ttl: 64,
            identification: 0x1234,
            dont_fragment: true,
            fragment: None,
            options: Vec::new(),
            extensions: Vec::new(),
            transport: Transport::Ports { number: UDP, source: 4000, destination: 53, flags: 0 },
            checksum: Checksum::Right,
            payload: Vec::new(),
        }
    }

    pub fn tcp(self, source: u16, destination: u16, flags: u8) -> Self {
        self.transport(Transport::Ports { number: TCP, source, destination, flags })
    }

    pub fn udp(self, source: u16, destination: u16) -> Self {
        self.transport(Transport::Ports { number: UDP, source, destination, flags: 0 })
    }

    pub fn sctp(self, source: u16, destination: u16) -> Self {
        self.transport(Transport::Ports { number: SCTP, source, destination, flags: 0 })
    }

    pub fn icmp(self, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        self.transport(Transport::Icmp { kind, code, rest })
    }

    pub fn echo_request(self, identifier: u16, sequence: u16) -> Self {
        let kind = if self.source.is_ipv4() { 8 } else { 128 };
        self.echo(kind, identifier, sequence)
    }

    pub fn echo_reply(self, identifier: u16, sequence: u16) -> Self {
        let kind = if self.source.is_ipv4() { 0 } else { 129 };
        self.echo(kind, identifier, sequence)
    }

    fn echo(self, kind: u8, identifier: u16, sequence: u16) -> Self {
        let ([a, b], [c, d]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
        self.icmp(kind, 0, [a, b, c, d])
    }

    /// "Destination unreachable, port unreachable" about a packet.
    pub fn unreachable(self, quote: &[u8]) -> Self {
        let (kind, code) = if self.source.is_ipv4() { (3, 3) } else { (1, 4) };
        self.icmp(kind, code, [0; 4]).payload(quote)
    }

    /// "Fragmentation needed" or "packet too big" about a packet.
    pub fn too_big(self, mtu: u16, quote: &[u8]) -> Self {
        let [a, b] = mtu.to_be_bytes();
        let (kind, code) = if self.source.is_ipv4() { (3, 4) } else { (2, 0) };
        self.icmp(kind, code, [0, 0, a, b]).payload(quote)
    }

    /// A neighbour solicitation with the sender's MAC address as option. RFC 4861 §4.3.
    pub fn solicitation(self, target: Ipv6Addr, mac: Mac) -> Self {
        let mut body = target.octets().to_vec();
        body.extend([1, 1]);
        body.extend(mac);
        self.icmp(135, 0, [0; 4]).ttl(255).payload(&body)
    }

    /// Any protocol; the payload is what follows the network header.
    pub fn raw(self, number: u8) -> Self {
        self.transport(Transport::Raw { number })
    }

    fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    pub fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }

    /// A payload of that many bytes that differ from one to the next.
    pub fn filled(self, length: usize) -> Self {
        let bytes: Vec<u8> = (0..length).map(|position| (position * 7 + 3) as u8).collect();
        self.payload(&bytes)
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn identification(mut self, identification: u32) -> Self {
        self.identification = identification;
        self
    }

    pub fn may_fragment(mut self) -> Self {
        self.dont_fragment = false;
        self
    }

    /// IPv4 options; padded with zeroes to the next four bytes.
    pub fn options(mut self, bytes: &[u8]) -> Self {
        self.options = bytes.to_vec();
        self.options.resize(bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Another IPv6 extension header: its number and what follows its first two bytes. The length byte is computed.
    pub fn extension(mut self, number: u8, body: &[u8]) -> Self {
        self.extensions.push((number, body.to_vec()));
        self
    }

    /// Leaves the checksum as a veth does: for hardware to finish.
    pub fn partial_checksum(mut self) -> Self {
        self.checksum = Checksum::Partial;
        self
    }

    /// Whatever stands there, right or wrong.
    pub fn checksum(mut self, value: u16) -> Self {
        self.checksum = Checksum::Exactly(value);
        self
    }

    pub fn source(&self) -> IpAddr {
        self.source
    }

    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// The network packet.
    pub fn bytes(&self) -> Vec<u8> {
        self.network(&self.transport_bytes())
    }

    /// The same in a frame.
    pub fn frame(&self, link: &Link) -> Vec<u8> {
        link.frame(&self.bytes(), self.ethertype())
    }

    pub fn ethertype(&self) -> u16 {
        if self.source.is_ipv4() { 0x0800 } else { 0x86dd }
    }

    /// One fragment of this packet: bytes `offset..offset + length` of what can be fragmented. With a length beyond the
    /// end it is the last.
    pub fn fragment(&self, offset: usize, length: usize) -> Vec<u8> {
        let whole = self.transport_bytes();
        let end = (offset + length).min(whole.len());
        self.piece(&whole[offset..end], offset, end < whole.len())
    }

    /// A fragment with these bytes at that offset, whether or not they come from anywhere.
    pub fn piece(&self, bytes: &[u8], offset: usize, more: bool) -> Vec<u8> {
        let mut fragment = self.clone();
        fragment.fragment = Some((offset, more));
        fragment.dont_fragment = false;
        fragment.network(bytes)
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Ports { number, .. } | Transport::Raw { number } => number,
            Transport::Icmp { .. } if self.source.is_ipv4() => ICMP,
            Transport::Icmp { .. } => ICMPV6,
        }
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let mut bytes = match self.transport {
            Transport::Ports { number: TCP, source, destination, flags } => {
                let mut header = vec![0u8; 20];
                header[..2].copy_from_slice(&source.to_be_bytes());
                header[2..4].copy_from_slice(&destination.to_be_bytes());
                header[4..8].copy_from_slice(&1000u32.to_be_bytes());
                header[12] = 5 << 4;
                header[13] = flags;
                header[14..16].copy_from_slice(&0xffffu16.to_be_bytes());
                header
            }
            Transport::Ports { number: SCTP, source, destination, .. } => {
                let mut header = vec![0u8; 12];
                header[..2].copy_from_slice(&source.to_be_bytes());
                header[2..4].copy_from_slice(&destination.to_be_bytes());
                header
            }
            Transport::Ports { source, destination, .. } => {
                let mut header = vec![0u8; 8];
                header[..2].copy_from_slice(&source.to_be_bytes());
                header[2..4].copy_from_slice(&destination.to_be_bytes());
                header[4..6].copy_from_slice(&((8 + self.payload.len()) as u16).to_be_bytes());
                header
            }
            Transport::Icmp { kind, code, rest } => [&[kind, code, 0, 0][..], &rest].concat(),
            Transport::Raw { .. } => Vec::new(),
        };
        bytes.extend_from_slice(&self.payload);
        let at = match self.protocol() {
            TCP => 16,
            UDP => 6,
            ICMP | ICMPV6 => 2,
            _ => return bytes,
        };
        if let Some(value) = self.checksum_value(&bytes)
            && let Some(field) = bytes.get_mut(at..at + 2)
        {
            field.copy_from_slice(&value.to_be_bytes());
        }
        bytes
    }

    fn checksum_value(&self, bytes: &[u8]) -> Option<u16> {
        if matches!(self.transport, Transport::Raw { .. }) {
            return None;
        }
        let pseudo = match self.protocol() {
            ICMP => Vec::new(),
            number => pseudo_header(self.source, self.destination, number, bytes.len()),
        };
        Some(match self.checksum {
            Checksum::Exactly(value) => value,
            Checksum::Partial => !sum(&pseudo),
            Checksum::Right => match sum(&[&pseudo[..], bytes].concat()) {
                0 if self.protocol() == UDP => 0xffff,
                value => value,
            },
        })
    }

    fn network(&self, transport: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.ipv4(source, destination, transport),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.ipv6(source, destination, transport),
            _ => unreachable!("checked by the constructor"),
        }
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr, transport: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut header = vec![0u8; 20];
        header[0] = 0x40 | (header_len / 4) as u8;
        header[2..4].copy_from_slice(&((header_len + transport.len()) as u16).to_be_bytes());
        header[4..6].copy_from_slice(&(self.identification as u16).to_be_bytes());
        let (offset, more) = self.fragment.unwrap_or((0, false));
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(more) << 13 | (offset / 8) as u16;
        header[6..8].copy_from_slice(&flags.to_be_bytes());
        header[8] = self.ttl;
        header[9] = self.protocol();
        header[12..16].copy_from_slice(&source.octets());
        header[16..20].copy_from_slice(&destination.octets());
        header.extend_from_slice(&self.options);
        let checksum = sum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        [&header[..], transport].concat()
    }

    fn ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr, transport: &[u8]) -> Vec<u8> {
        let mut chain = self.extensions.clone();
        if let Some((offset, more)) = self.fragment {
            let field = (offset as u16 & 0xfff8) | u16::from(more);
            let body = [&field.to_be_bytes()[..], &self.identification.to_be_bytes()].concat();
            chain.push((FRAGMENT, body));
        }
        let numbers: Vec<u8> = chain.iter().map(|(number, _)| *number).chain([self.protocol()]).collect();
        let mut body = Vec::new();
        for ((number, content), next) in chain.iter().zip(&numbers[1..]) {
            let length = match *number {
                FRAGMENT => 0,
                // Authentication counts in units of four, minus two. RFC 4302 §2.2.
                51 => ((content.len() + 2) / 4).saturating_sub(2),
                _ => (content.len() + 2) / 8 - 1,
            };
            body.extend([*next, length as u8]);
            body.extend_from_slice(content);
        }
        body.extend_from_slice(transport);
        let mut header = vec![0u8; 40];
        header[0] = 0x60;
        header[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
        header[6] = numbers[0];
        header[7] = self.ttl;
        header[8..24].copy_from_slice(&source.octets());
        header[24..40].copy_from_slice(&destination.octets());
        [header, body].concat()
    }
}

impl Link {
    /// A frame around a payload.
    pub fn frame(&self, payload: &[u8], ethertype: u16) -> Vec<u8> {
        let mut bytes = [self.destination, self.source].concat();
        let tags: Vec<u16> = self.tags.into_iter().filter(|tag| *tag != 0).collect();
        for (position, tag) in tags.iter().enumerate() {
            let announced: u16 = if tags.len() == 2 && position == 0 { 0x88a8 } else { 0x8100 };
            bytes.extend(announced.to_be_bytes());
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }
}

/// An ARP packet. RFC 826.
pub fn arp(operation: u16, sender_mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend(sender_mac);
    bytes.extend(sender.octets());
    bytes.extend(target_mac);
    bytes.extend(target.octets());
    bytes
}

/// The Internet checksum, byte pair by byte pair. RFC 1071.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The pseudo header. RFC 9293 §3.1, RFC 8200 §8.1.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = (length as u16).to_be_bytes();
            [&source.octets()[..], &destination.octets(), &[0, protocol], &length].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = (length as u32).to_be_bytes();
            [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, protocol]].concat()
        }
        _ => unreachable!("addresses of one packet are of one family"),
    }
}

/// Repairs the IPv4 header checksum of a network packet that was edited.
pub fn repair_ipv4(packet: &mut [u8]) {
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    packet[10..12].fill(0);
    let value = sum(&packet[..header_len.clamp(20, packet.len())]);
    packet[10..12].copy_from_slice(&value.to_be_bytes());
}

/// What an address can be written as.
pub trait ToAddress {
    fn to_address(&self) -> IpAddr;
}

impl ToAddress for IpAddr {
    fn to_address(&self) -> IpAddr {
        *self
    }
}

impl ToAddress for &str {
    fn to_address(&self) -> IpAddr {
        self.parse().unwrap_or_else(|_| panic!("{self:?} is no address"))
    }
}

impl ToAddress for Ipv4Addr {
    fn to_address(&self) -> IpAddr {
        (*self).into()
    }
}

impl ToAddress for Ipv6Addr {
    fn to_address(&self) -> IpAddr {
        (*self).into()
    }
}
