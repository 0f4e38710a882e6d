//! Reads the values of path attributes whose length is right, and looks at the structure of those that are only passed on.
//!
//! Sources: RFC 4271 §4.3, RFC 1997, RFC 4360, RFC 8092, RFC 4456 §8, RFC 2545 §3, RFC 8950 §3, RFC 7311 §3, RFC 9012 §2 and
//! §13, RFC 8669 §3, RFC 9252 §2 and §7, RFC 7607.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bgp::attribute::{Aggregator, NextHop};
use crate::bgp::message::Outcome;

use super::as_path::Width;
use super::reader::Reader;
use super::update::Wrong;

/// Tunnels in one attribute; a message has room for more, nobody has use for them.
const TUNNELS_MAX: usize = 64;

pub(super) fn aggregator(value: &[u8], width: Width) -> Result<Aggregator, String> {
    let mut reader = Reader::new(value);
    let as_number = match width {
        Width::Two => reader.u16().map(u32::from),
        Width::Four => reader.u32(),
    };
    let (as_number, router_id) = as_number.zip(reader.u32()).ok_or("is too short")?;
    if as_number == 0 {
        return Err("found AS 0".to_owned());
    }
    Ok(Aggregator { as_number, router_id: Ipv4Addr::from_bits(router_id) })
}

pub(super) fn communities(value: &[u8]) -> Box<[u32]> {
    sorted(value.as_chunks().0.iter().map(|octets| u32::from_be_bytes(*octets)).collect())
}

pub(super) fn extended_communities(value: &[u8]) -> Box<[[u8; 8]]> {
    sorted(value.as_chunks().0.to_vec())
}

pub(super) fn large_communities(value: &[u8]) -> Box<[(u32, u32, u32)]> {
    let community = |octets: &[u8; 12]| {
        let (parts, _) = octets.as_chunks::<4>();
        let mut parts = parts.iter().map(|part| u32::from_be_bytes(*part));
        let mut next = || parts.next().unwrap_or_default();
        (next(), next(), next())
    };
    sorted(value.as_chunks().0.iter().map(community).collect())
}

pub(super) fn cluster_list(value: &[u8]) -> Box<[Ipv4Addr]> {
    value.as_chunks().0.iter().map(|octets: &[u8; 4]| Ipv4Addr::from(*octets)).collect()
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Box<[T]> {
    values.sort_unstable();
    values.dedup();
    values.into()
}

/// The next hop of MP_REACH_NLRI: 4, 16 or 32 octets. The error is for people.
pub(super) fn next_hop(octets: &[u8]) -> Result<NextHop, String> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Ok(NextHop { address: checked(Ipv4Addr::from(octets).into())?, link_local: None });
    }
    let mut reader = Reader::new(octets);
    let first = reader.array().map(Ipv6Addr::from).ok_or("the next hop is too short")?;
    let second = reader.array().map(Ipv6Addr::from);
    // RFC 2545 §3: the second is a link-local address; what is none is as good as not there.
    let link_local = second.filter(Ipv6Addr::is_unicast_link_local);
    // Speakers without a global address on the link say none, or the link-local one twice.
    let address = match link_local {
        Some(link_local) if first.is_unspecified() || first.is_unicast_link_local() => link_local,
        _ => first,
    };
    // An IPv4 next hop of IPv6 routes. RFC 4659 §3.2.1.2 has the same form for VPNs.
    let address = address.to_ipv4_mapped().map_or(IpAddr::from(address), IpAddr::from);
    let address = checked(address)?;
    Ok(NextHop { address, link_local: link_local.filter(|link_local| IpAddr::from(*link_local) != address) })
}

/// RFC 4271 §6.3: it has to be the address of a host.
pub(super) fn checked(address: IpAddr) -> Result<IpAddr, String> {
    let is_host = match address {
        IpAddr::V4(address) => !(address.octets()[0] == 0 || address.is_loopback() || address.octets()[0] >= 224),
        IpAddr::V6(address) => !(address.is_unspecified() || address.is_loopback() || address.is_multicast()),
    };
    if is_host { Ok(address) } else { Err(format!("the next hop {address} is not the address of a host")) }
}

/// Type of 1 octet, length of 2 that counts these three as well. RFC 7311 §3.
pub(super) fn check_aigp(value: &[u8]) -> Result<(), String> {
    const METRIC: u8 = 1;
    const METRIC_LENGTH: u16 = 11;
    let mut reader = Reader::new(value);
    if reader.is_empty() {
        return Err("has no TLV".to_owned());
    }
    while !reader.is_empty() {
        let (kind, length) = reader.u8().zip(reader.u16()).ok_or("a TLV ends within its header")?;
        if kind == METRIC && length != METRIC_LENGTH {
            return Err(format!("the metric is {length} octets long, expected {METRIC_LENGTH}"));
        }
        let rest = usize::from(length).checked_sub(3).and_then(|length| reader.take(length));
        rest.ok_or_else(|| format!("a TLV of type {kind} is {length} octets long, which is not there"))?;
    }
    Ok(())
}

/// ```text
///     type 2 | length 2 | sub-TLVs: type 1 | length 1, or 2 from type 128 on | value
/// ```
///
/// RFC 9012 §2, §13.
pub(super) fn check_tunnel_encapsulation(value: &[u8]) -> Result<(), String> {
    let mut reader = Reader::new(value);
    if reader.is_empty() {
        return Err("has no tunnel".to_owned());
    }
    let mut tunnels = 0;
    while !reader.is_empty() {
        tunnels += 1;
        if tunnels > TUNNELS_MAX {
            return Err(format!("has more than {TUNNELS_MAX} tunnels"));
        }
        let kind = reader.u16().ok_or("a tunnel ends within its type")?;
        let mut parts = reader.long().ok_or_else(|| format!("a tunnel of type {kind} is longer than the attribute"))?;
        while !parts.is_empty() {
            let part = parts.u8().ok_or("a sub-TLV has no type")?;
            let inner = if part < 128 { parts.short() } else { parts.long() };
            inner.ok_or_else(|| format!("a sub-TLV of type {part} is longer than its tunnel"))?;
        }
    }
    Ok(())
}

/// TLVs with a type of 1 and a length of 2 octets, down to three levels. What is wrong with services of SRv6 costs the
/// route, anything else the attribute. RFC 8669 §3 and §6, RFC 9252 §2 and §7.
pub(super) fn check_prefix_sid(value: &[u8]) -> Result<(), Wrong> {
    let mut reader = Reader::new(value);
    if reader.is_empty() {
        return Err("has no TLV".to_owned().into());
    }
    while !reader.is_empty() {
        let (kind, value) = tlv(&mut reader)?;
        let length = value.rest().len();
        match kind {
            1 if length != 7 => return Err(format!("the label index is {length} octets long, expected 7").into()),
            3 if length < 2 || !(length - 2).is_multiple_of(6) => {
                return Err(format!(
                    "the originator's blocks are {length} octets long, expected 2 and a multiple of 6"
                )
                .into());
            }
            5 | 6 => {
                check_srv6_service(value).map_err(|reason| Wrong { outcome: Some(Outcome::TreatAsWithdraw), reason })?
            }
            _ => (),
        }
    }
    Ok(())
}

fn check_srv6_service(mut service: Reader<'_>) -> Result<(), String> {
    const SID: u8 = 1;
    const SID_LENGTH: usize = 21;
    const STRUCTURE: u8 = 1;
    const STRUCTURE_LENGTH: usize = 6;
    service.u8().ok_or("an SRv6 service is empty")?;
    while !service.is_empty() {
        let (kind, mut sub) = tlv(&mut service)?;
        if kind != SID {
            continue;
        }
        sub.take(SID_LENGTH).ok_or_else(|| format!("an SRv6 SID is shorter than {SID_LENGTH} octets"))?;
        while !sub.is_empty() {
            let (kind, value) = tlv(&mut sub)?;
            if kind == STRUCTURE && value.rest().len() != STRUCTURE_LENGTH {
                return Err(format!("the structure of an SRv6 SID is not {STRUCTURE_LENGTH} octets long"));
            }
        }
    }
    Ok(())
}

fn tlv<'a>(reader: &mut Reader<'a>) -> Result<(u8, Reader<'a>), String> {
    let kind = reader.u8().ok_or("a TLV has no type")?;
    let value = reader.long().ok_or_else(|| format!("a TLV of type {kind} is longer than what it is in"))?;
    Ok((kind, value))
}
