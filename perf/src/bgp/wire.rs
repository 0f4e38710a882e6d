//! The little of BGP's bytes that a load needs: OPEN, UPDATE and KEEPALIVE made, and UPDATEs walked through to count what they say.
//!
//! ```text
//!     read() ─▶ [ rest of a message | message | message | begin of … ] ─▶ Walker ─▶ Seen { reachable, withdrawn, … }
//! ```
//!
//! Bounds: a message of at most 4096 octets is made; one of up to 65535 is taken. A length that cannot be is an error, and the
//! connection is given up: what is measured must not be wrong.
//!
//! Left out: IPv6, and everything about an attribute but where it ends. Sources: RFC 4271 §4, RFC 6793.

use std::net::Ipv4Addr;

const HEADER: usize = 19;
const MAXIMUM: usize = 4096;
pub const AS_TRANS: u16 = 23456;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;

const MED: u8 = 4;
const MP_REACH_NLRI: u8 = 14;

/// An address and its length; no host bits.
pub type Prefix = (u32, u8);

/// What a set of routes has in common.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// The nearest first.
    pub as_path: Vec<u32>,
    pub next_hop: Ipv4Addr,
    pub med: Option<u32>,
    /// Towards a peer of the same system.
    pub local_pref: Option<u32>,
    pub communities: Vec<u32>,
}

fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0xff; 16]);
    out.extend([0, 0, kind]);
    body(out);
    let length = (out.len() - start) as u16;
    out[start + 16..start + 18].copy_from_slice(&length.to_be_bytes());
}

pub fn keepalive(out: &mut Vec<u8>) {
    message(out, KEEPALIVE, |_| {});
}

/// IPv4 unicast, route refresh, AS numbers of four octets.
pub fn open(out: &mut Vec<u8>, as_number: u32, hold_time: u16, router_id: Ipv4Addr) {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 2, 0, 65, 4];
    capabilities.extend(as_number.to_be_bytes());
    message(out, OPEN, |out| {
        out.push(4);
        out.extend(u16::try_from(as_number).unwrap_or(AS_TRANS).to_be_bytes());
        out.extend(hold_time.to_be_bytes());
        out.extend(router_id.octets());
        // One parameter, the capabilities. RFC 5492.
        out.extend([capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
        out.extend(capabilities);
    });
}

fn attribute(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(length) => out.extend([flags, code, length]),
        Err(_) => {
            out.extend([flags | 0x10, code]);
            out.extend((value.len() as u16).to_be_bytes());
        }
    }
    out.extend(value);
}

fn attributes(of: &Attributes) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    attribute(&mut out, 0x40, 1, &[0]);
    let mut path = Vec::new();
    if !of.as_path.is_empty() {
        path.extend([2, of.as_path.len() as u8]);
        path.extend(of.as_path.iter().flat_map(|number| number.to_be_bytes()));
    }
    attribute(&mut out, 0x40, 2, &path);
    attribute(&mut out, 0x40, 3, &of.next_hop.octets());
    if let Some(med) = of.med {
        attribute(&mut out, 0x80, MED, &med.to_be_bytes());
    }
    if let Some(preference) = of.local_pref {
        attribute(&mut out, 0x40, 5, &preference.to_be_bytes());
    }
    if !of.communities.is_empty() {
        let value: Vec<u8> = of.communities.iter().flat_map(|community| community.to_be_bytes()).collect();
        attribute(&mut out, 0xc0, 8, &value);
    }
    out
}

/// As many UPDATEs as the prefixes need.
pub fn update(out: &mut Vec<u8>, of: &Attributes, prefixes: &[Prefix]) {
    let attributes = attributes(of);
    let room = MAXIMUM - HEADER - 4 - attributes.len();
    // Five octets for a prefix at most.
    for prefixes in prefixes.chunks(room / 5) {
        message(out, UPDATE, |out| {
            out.extend([0, 0]);
            out.extend((attributes.len() as u16).to_be_bytes());
            out.extend(&attributes);
            for (address, length) in prefixes {
                out.push(*length);
                out.extend(&address.to_be_bytes()[..usize::from(length.div_ceil(8))]);
            }
        });
    }
}

/// RFC 4724 §2.
pub fn end_of_rib(out: &mut Vec<u8>) {
    message(out, UPDATE, |out| out.extend([0; 4]));
}

/// What has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub opens: u64,
    pub keepalives: u64,
    pub updates: u64,
    /// Prefixes told as reachable, and as not.
    pub reachable: u64,
    pub withdrawn: u64,
    /// Code and subcode: the session is over.
    pub notification: Option<(u8, u8)>,
}

/// Cuts what was read into messages, and walks through them.
#[derive(Default)]
pub struct Walker {
    pub seen: Seen,
    /// The begin of a message whose rest has not come.
    rest: Vec<u8>,
}

impl Walker {
    /// `on_med` is told the MED of every UPDATE that has one. Nothing is kept of a message that is whole.
    pub fn walk(&mut self, bytes: &[u8], on_med: &mut impl FnMut(u32)) -> Result<(), String> {
        let mut held = std::mem::take(&mut self.rest);
        let mut left = if held.is_empty() {
            bytes
        } else {
            held.extend(bytes);
            &held[..]
        };
        while let [_, .., _] = left {
            let Some(header) = left.first_chunk::<HEADER>() else { break };
            let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
            if length < HEADER {
                return Err(format!("a message of {length} octets"));
            }
            let Some(message) = left.get(..length) else { break };
            self.message(header[18], &message[HEADER..], on_med)?;
            left = &left[length..];
        }
        self.rest = left.to_vec();
        Ok(())
    }

    fn message(&mut self, kind: u8, body: &[u8], on_med: &mut impl FnMut(u32)) -> Result<(), String> {
        match kind {
            OPEN => self.seen.opens += 1,
            UPDATE => {
                self.seen.updates += 1;
                self.update(body, on_med).ok_or("an UPDATE that ends too early")?;
            }
            NOTIFICATION => {
                let reason = body.first_chunk::<2>().copied().unwrap_or_default();
                self.seen.notification = Some((reason[0], reason[1]));
            }
            KEEPALIVE => self.seen.keepalives += 1,
            _ => {}
        }
        Ok(())
    }

    fn update(&mut self, body: &[u8], on_med: &mut impl FnMut(u32)) -> Option<()> {
        let (withdrawn, rest) = sized(body)?;
        let (attributes, nlri) = sized(rest)?;
        self.seen.withdrawn += count(withdrawn)?;
        self.seen.reachable += count(nlri)?;
        let mut left = attributes;
        while let [flags, code, rest @ ..] = left {
            let (value, rest) = if flags & 0x10 == 0 {
                let (length, rest) = rest.split_first()?;
                rest.split_at_checked(usize::from(*length))?
            } else {
                sized(rest)?
            };
            match *code {
                MED => on_med(u32::from_be_bytes(value.try_into().ok()?)),
                // Family, subsequent family, next hop by its length, an octet that means nothing.
                MP_REACH_NLRI => {
                    let after = 5 + usize::from(*value.get(3)?);
                    self.seen.reachable += count(value.get(after..)?)?;
                }
                _ => {}
            }
            left = rest;
        }
        Some(())
    }
}

/// A piece with its length of two octets in front, and what follows.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// Prefixes in a row of them.
fn count(mut nlri: &[u8]) -> Option<u64> {
    let mut count = 0;
    while let [length, rest @ ..] = nlri {
        nlri = rest.get(usize::from(length.div_ceil(8))..)?;
        count += 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_counted_however_it_is_cut() {
        let of = Attributes {
            as_path: vec![65001, 4_200_000_000],
            next_hop: Ipv4Addr::new(10, 0, 0, 1),
            med: Some(7),
            local_pref: None,
            communities: vec![1, 2],
        };
        let prefixes: Vec<Prefix> = (0..2000).map(|number| (0x0a00_0000 + number * 256, 24)).collect();
        let mut bytes = Vec::new();
        open(&mut bytes, 65001, 90, Ipv4Addr::new(10, 0, 0, 1));
        update(&mut bytes, &of, &prefixes);
        update(&mut bytes, &of, &[(0, 0), (0xffff_ffff, 32)]);
        end_of_rib(&mut bytes);
        keepalive(&mut bytes);
        for piece in [1, 7, 19, 4096, bytes.len()] {
            let mut walker = Walker::default();
            let mut meds = Vec::new();
            for bytes in bytes.chunks(piece) {
                walker.walk(bytes, &mut |med| meds.push(med)).unwrap();
            }
            let expected =
                Seen { opens: 1, keepalives: 1, updates: 5, reachable: 2002, withdrawn: 0, notification: None };
            assert_eq!((walker.seen, meds, walker.rest.len()), (expected, vec![7; 4], 0), "pieces of {piece}");
        }
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let mut bytes = Vec::new();
        message(&mut bytes, UPDATE, |out| out.extend([0, 0, 0, 9]));
        assert!(Walker::default().walk(&bytes, &mut |_| {}).is_err());
        bytes[17] = 3;
        assert!(Walker::default().walk(&bytes, &mut |_| {}).is_err());
    }
}
