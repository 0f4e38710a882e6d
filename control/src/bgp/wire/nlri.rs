//! Prefixes: one octet of length in bits, then as many octets as these bits need; a path identifier in front where that was
//! agreed on.
//!
//! Host bits are cleared when they are read. What no route can lead to (multicast, loopback) is skipped and counted.
//! Left out: labels and route distinguishers; families that have them are not spoken.
//!
//! Sources: RFC 4271 §4.3 and §6.3, RFC 4760 §5, RFC 7911 §3, RFC 7606 §5.3.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use config::net::{Cidr, IpVersion};

use crate::bgp::message::Nlri;

/// Octets of a path identifier.
const PATH_ID: usize = 4;
/// Octets of the longest prefix with its identifier.
pub(super) const LONGEST: usize = PATH_ID + 1 + 16;

/// The field cannot be read: where prefixes begin and end is not known from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Prefixes that were skipped because no route can lead there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Skipped {
    pub count: usize,
    pub first: Option<Cidr>,
}

/// Appends every prefix of the field.
pub(super) fn read(
    family: IpVersion,
    has_ids: bool,
    field: &[u8],
    out: &mut Vec<Nlri>,
    skipped: &mut Skipped,
) -> Result<(), Unreadable> {
    match (family, has_ids) {
        (IpVersion::V4, false) => read_as::<4, false>(field, out, skipped),
        (IpVersion::V4, true) => read_as::<4, true>(field, out, skipped),
        (IpVersion::V6, false) => read_as::<16, false>(field, out, skipped),
        (IpVersion::V6, true) => read_as::<16, true>(field, out, skipped),
    }
}

/// `OCTETS`: of an address. One loop for each of the four forms, without a branch inside for what never changes.
fn read_as<const OCTETS: usize, const IDS: bool>(
    mut field: &[u8],
    out: &mut Vec<Nlri>,
    skipped: &mut Skipped,
) -> Result<(), Unreadable> {
    // Most are about as long as a /24 or a /48; shorter ones make the vector grow.
    let usual = if OCTETS == 4 { 4 } else { 7 } + if IDS { PATH_ID } else { 0 };
    out.reserve(field.len() / usual + 1);
    while !field.is_empty() {
        let mut path_id = 0;
        if IDS {
            let (id, rest) = field.split_first_chunk::<PATH_ID>().ok_or(Unreadable)?;
            (path_id, field) = (u32::from_be_bytes(*id), rest);
        }
        let (&length, rest) = field.split_first().ok_or(Unreadable)?;
        let count = usize::from(length).div_ceil(8);
        // Near the end of the field there are fewer octets than an address has.
        let octets = match rest.first_chunk::<OCTETS>() {
            Some(octets) if count <= OCTETS => *octets,
            _ => {
                let mut octets = [0; OCTETS];
                let given = rest.get(..count).ok_or(Unreadable)?;
                octets.get_mut(..count).ok_or(Unreadable)?.copy_from_slice(given);
                octets
            }
        };
        field = rest.get(count..).ok_or(Unreadable)?;
        let (prefix, leads_nowhere) = prefix(&octets, length).ok_or(Unreadable)?;
        if leads_nowhere {
            skipped.count += 1;
            skipped.first.get_or_insert(prefix);
        } else {
            out.push(Nlri { prefix, path_id });
        }
    }
    Ok(())
}

/// None: longer than the address. True: no route leads there (RFC 4271 §6.3: semantically incorrect, to be ignored).
#[inline]
fn prefix<const OCTETS: usize>(octets: &[u8; OCTETS], length: u8) -> Option<(Cidr, bool)> {
    if let Some(octets) = octets.first_chunk::<16>() {
        let bits =
            u128::from_be_bytes(*octets) & u128::MAX.checked_shl(128u32.checked_sub(length.into())?).unwrap_or(0);
        let address = Ipv6Addr::from_bits(bits);
        let leads_nowhere = match bits >> 120 {
            0xff => length >= 8,
            0xfe => length >= 10 && address.is_unicast_link_local(),
            0 => length == 128 && bits <= 1,
            _ => false,
        };
        return Some((Cidr::new(address.into(), length)?, leads_nowhere));
    }
    let bits = u32::from_be_bytes(*octets.first_chunk::<4>()?);
    let bits = bits & u32::MAX.checked_shl(32u32.checked_sub(length.into())?).unwrap_or(0);
    let leads_nowhere = match bits >> 24 {
        224..=239 => length >= 4,
        127 => length >= 8,
        0 => length == 32 && bits == 0,
        _ => false,
    };
    Some((Cidr::new(Ipv4Addr::from_bits(bits).into(), length)?, leads_nowhere))
}

/// Writes as many as the field has room for: how many, and the octets they took. All of one family.
pub(super) fn write(family: IpVersion, has_ids: bool, nlri: &[Nlri], field: &mut [u8]) -> (usize, usize) {
    match (family, has_ids) {
        (IpVersion::V4, false) => write_as::<4, false>(nlri, field),
        (IpVersion::V4, true) => write_as::<4, true>(nlri, field),
        (IpVersion::V6, false) => write_as::<16, false>(nlri, field),
        (IpVersion::V6, true) => write_as::<16, true>(nlri, field),
    }
}

fn write_as<const OCTETS: usize, const IDS: bool>(nlri: &[Nlri], mut field: &mut [u8]) -> (usize, usize) {
    let room = field.len();
    let mut taken = 0;
    for one in nlri {
        let mut front = [0; PATH_ID + 1];
        front[..PATH_ID].copy_from_slice(&one.path_id.to_be_bytes());
        front[PATH_ID] = one.prefix.length();
        let front = if IDS { &front[..] } else { &front[PATH_ID..] };
        let address = address::<OCTETS>(one.prefix.address());
        let count = usize::from(one.prefix.length()).div_ceil(8);
        if field.len() < front.len() + count {
            break;
        }
        let (head, rest) = std::mem::take(&mut field).split_at_mut(front.len());
        head.copy_from_slice(front);
        // The whole address where there is room: what is too much is written over by the next.
        match rest.first_chunk_mut::<OCTETS>() {
            Some(whole) => *whole = address,
            None => rest[..count].copy_from_slice(&address[..count]),
        }
        field = &mut rest[count..];
        taken += 1;
    }
    (taken, room - field.len())
}

#[inline]
fn address<const OCTETS: usize>(address: IpAddr) -> [u8; OCTETS] {
    let mut octets = [0; OCTETS];
    match (address, OCTETS) {
        (IpAddr::V4(v4), 4) => octets.copy_from_slice(&v4.octets()),
        (IpAddr::V6(v6), 16) => octets.copy_from_slice(&v6.octets()),
        (other, _) => unreachable!("prefixes of two families in one call: {other}"),
    }
    octets
}
