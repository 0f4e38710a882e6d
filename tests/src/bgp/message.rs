//! Messages as bytes for a speaker that may say anything: right ones made briefly, and what came taken apart far enough to judge it.
//!
//! It shares nothing with the router's own codec, so that a mistake there is not made twice.
//!
//! Sources: RFC 4271 §4, RFC 4760, RFC 5492, RFC 6793, RFC 7911.

use std::net::{IpAddr, Ipv4Addr};

use config::net::{Cidr, IpVersion};

pub const OPEN: u8 = 1;
pub const UPDATE: u8 = 2;
pub const NOTIFICATION: u8 = 3;
pub const KEEPALIVE: u8 = 4;
pub const HEADER: usize = 19;

/// A message that came: its type, and what follows the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// Code and subcode of a NOTIFICATION.
    pub fn notification(&self) -> Option<(u8, u8)> {
        match self.body[..] {
            [code, subcode, ..] if self.kind == NOTIFICATION => Some((code, subcode)),
            _ => None,
        }
    }
}

/// A message of any type with a right header.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (HEADER + body.len()) as u16;
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

pub fn keepalive() -> Vec<u8> {
    message(KEEPALIVE, &[])
}

/// What an OPEN says.
#[derive(Debug, Clone)]
pub struct Open {
    pub as_number: u32,
    pub hold_time: u16,
    pub router_id: Ipv4Addr,
    /// Code and value each.
    pub capabilities: Vec<(u8, Vec<u8>)>,
}

impl Open {
    /// Both families, route refresh, AS numbers of four octets.
    pub fn new(as_number: u32, router_id: Ipv4Addr) -> Open {
        let capabilities =
            vec![family(IpVersion::V4), family(IpVersion::V6), (2, Vec::new()), (65, as_number.to_be_bytes().to_vec())];
        Open { as_number, hold_time: 240, router_id, capabilities }
    }

    pub fn message(&self) -> Vec<u8> {
        let capability = |(code, value): &(u8, Vec<u8>)| [&[*code, value.len() as u8], &value[..]].concat();
        let capabilities: Vec<u8> = self.capabilities.iter().flat_map(capability).collect();
        let mut body = vec![4];
        // AS_TRANS, RFC 6793.
        body.extend(u16::try_from(self.as_number).unwrap_or(23456).to_be_bytes());
        body.extend(self.hold_time.to_be_bytes());
        body.extend(self.router_id.octets());
        body.extend([capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
        body.extend(capabilities);
        message(OPEN, &body)
    }
}

fn number(version: IpVersion) -> u8 {
    if version == IpVersion::V4 { 1 } else { 2 }
}

/// The capability of RFC 4760.
pub fn family(version: IpVersion) -> (u8, Vec<u8>) {
    (1, vec![0, number(version), 0, 1])
}

/// The capability of RFC 7911: both ways.
pub fn add_path(versions: &[IpVersion]) -> (u8, Vec<u8>) {
    (69, versions.iter().flat_map(|version| [0, number(*version), 1, 3]).collect())
}

/// The capability of RFC 8950: IPv4 by IPv6.
pub fn extended_next_hop() -> (u8, Vec<u8>) {
    (5, vec![0, 1, 0, 1, 0, 2])
}

/// An attribute with a length of one octet.
pub fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    [&[flags, code, value.len() as u8], value].concat()
}

/// A prefix, with the number of its path where there are such.
fn nlri(prefix: &Cidr, path: Option<u32>) -> Vec<u8> {
    let octets = match prefix.address() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut bytes = path.map_or_else(Vec::new, |path| path.to_be_bytes().to_vec());
    bytes.push(prefix.length());
    bytes.extend(&octets[..usize::from(prefix.length().div_ceil(8))]);
    bytes
}

/// What a right UPDATE says.
#[derive(Debug, Clone)]
pub struct Update {
    pub prefixes: Vec<Cidr>,
    pub next_hop: IpAddr,
    pub as_path: Vec<u32>,
    /// None towards another system.
    pub local_pref: Option<u32>,
    pub communities: Vec<u32>,
    /// AS numbers have two octets.
    pub two_octet_as: bool,
    pub path: Option<u32>,
}

impl Update {
    pub fn message(&self) -> Vec<u8> {
        let version = self.prefixes.first().map_or(IpVersion::V4, Cidr::version);
        let all: Vec<u8> = self.prefixes.iter().flat_map(|prefix| nlri(prefix, self.path)).collect();
        let mut path = Vec::new();
        if !self.as_path.is_empty() {
            path.extend([2, self.as_path.len() as u8]);
            for number in &self.as_path {
                let octets = number.to_be_bytes();
                path.extend(if self.two_octet_as { &octets[2..] } else { &octets[..] });
            }
        }
        let mut attributes = [attribute(0x40, 1, &[0]), attribute(0x40, 2, &path)].concat();
        if let Some(preference) = self.local_pref {
            attributes.extend(attribute(0x40, 5, &preference.to_be_bytes()));
        }
        if !self.communities.is_empty() {
            let value: Vec<u8> = self.communities.iter().flat_map(|community| community.to_be_bytes()).collect();
            attributes.extend(attribute(0xc0, 8, &value));
        }
        let mut after = Vec::new();
        match (version, self.next_hop) {
            (IpVersion::V4, IpAddr::V4(next_hop)) => {
                attributes.extend(attribute(0x40, 3, &next_hop.octets()));
                after = all;
            }
            (_, next_hop) => {
                let next_hop = match next_hop {
                    IpAddr::V4(address) => address.octets().to_vec(),
                    IpAddr::V6(address) => address.octets().to_vec(),
                };
                let head = [0, number(version), 1, next_hop.len() as u8];
                attributes.extend(attribute(0x80, 14, &[&head[..], &next_hop, &[0], &all].concat()));
            }
        }
        update(&[], &attributes, &after)
    }
}

/// An UPDATE of three sections, whatever is in them.
pub fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| (bytes.len() as u16).to_be_bytes();
    message(UPDATE, &[&length(withdrawn)[..], withdrawn, &length(attributes), attributes, nlri].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_made() {
        let right = Update {
            prefixes: vec![Cidr::parse("10.1.0.0/16").unwrap()],
            next_hop: "192.0.2.2".parse().unwrap(),
            as_path: vec![65001],
            local_pref: None,
            communities: vec![1],
            two_octet_as: false,
            path: None,
        };
        let body = "0000001b400101004002060201 0000fde9c00804000000014003 04c0000202 100a01".replace(' ', "");
        let hex: String = right.message()[HEADER..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, body);
        let open = Open::new(65001, Ipv4Addr::new(192, 0, 2, 2)).message();
        assert_eq!((open.len(), open[18], open[28], open[30]), (HEADER + 10 + 2 + 20, OPEN, 22, 20));
    }
}
