//! Writes UPDATEs: attributes once, then as many messages as their prefixes need.
//!
//! ```text
//!     header 19 | 0 | length │ MP_REACH_NLRI (prefixes grow here)  │ the other attributes │
//!     header 19 | 0 | length │ the attributes                      │ prefixes grow here   │      IPv4 with an IPv4 next hop
//! ```
//!
//! What comes before and after the prefixes is the same in all messages; it is written once and copied.
//!
//! Invariants: no message is longer than was agreed on; MP_REACH_NLRI is the first attribute (RFC 7606 §5.1), the others come in
//! the order of their codes (RFC 4271 §5); attributes that mean something only inside our own system do not leave it.
//! Left out: packing routes with the same attributes together, which is up to who calls.
//!
//! Sources: RFC 4271 §4.3 and §5, RFC 4760 §3 and §4, RFC 2545 §3, RFC 8950 §3, RFC 4724 §2, RFC 6793 §4.2.2, RFC 8654 §4.

use std::net::{IpAddr, Ipv6Addr};

use config::net::IpVersion;

use crate::bgp::attribute::{Aggregator, Attributes, NextHop, Origin, OtherAttribute, code};
use crate::bgp::message::Nlri;

use super::as_path::{self, Width};
use super::family::{UNICAST, afi};
use super::nlri;
use super::table::{Class, flag};
use super::{Codec, HEADER, Kind, LONGEST_EXTENDED, header};

/// Why routes cannot be told; the peer has to be told that they are gone. RFC 8654 §4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsayable {
    #[error("the attributes leave no room for a prefix in a message of {0} octets")]
    TooLong(usize),
    #[error("an IPv6 next hop of IPv4 routes, which was not agreed on")]
    NextHop,
}

/// What is around the prefixes of every message of one call.
struct Frame {
    /// From the header on.
    front: Vec<u8>,
    back: Vec<u8>,
    /// Where a length of two octets belongs, for what is between it and the end of the prefixes.
    inner: Option<usize>,
    /// `back` is inside the attributes: the prefixes are part of one.
    is_multiprotocol: bool,
}

/// Octets that attributes usually take; more make a vector grow.
const USUAL_ATTRIBUTES: usize = 128;

/// Room for a message with these prefixes, or for as many as fit.
fn usual_size(codec: &Codec, nlri: &[Nlri]) -> usize {
    nlri.len().saturating_mul(nlri::LONGEST).saturating_add(ATTRIBUTES + 2 * USUAL_ATTRIBUTES).min(codec.longest())
}

/// Where the length of the attributes is in a message that withdraws nothing.
const ATTRIBUTES_LENGTH: usize = HEADER + 2;
const ATTRIBUTES: usize = ATTRIBUTES_LENGTH + 2;

/// Calls `each` with whole messages and how many prefixes are in each. All prefixes are of one family.
pub(super) fn reach(
    codec: &Codec,
    attributes: &Attributes,
    nlri: &[Nlri],
    each: &mut impl FnMut(&[u8], usize),
) -> Result<(), Unsayable> {
    let Some(first) = nlri.first() else { return Ok(()) };
    let family = first.prefix.version();
    let mut front = header(Kind::Update, usual_size(codec, nlri));
    front.extend([0; 4]);
    let frame = if family == IpVersion::V4 && attributes.next_hop.address.is_ipv4() {
        write_attributes(codec, attributes, true, &mut front);
        set_length(&mut front, ATTRIBUTES_LENGTH, ATTRIBUTES);
        Frame { front, back: Vec::new(), inner: None, is_multiprotocol: false }
    } else {
        if family == IpVersion::V4 && !codec.extended_next_hop {
            return Err(Unsayable::NextHop);
        }
        front.extend([Class::OptionalNonTransitive.flags() | flag::EXTENDED_LENGTH, code::MP_REACH_NLRI, 0, 0]);
        let inner = Some(front.len() - 2);
        front.extend(afi(family).to_be_bytes());
        front.push(UNICAST);
        write_next_hop(attributes.next_hop, &mut front);
        // Reserved.
        front.push(0);
        let mut others = Vec::with_capacity(USUAL_ATTRIBUTES);
        write_attributes(codec, attributes, false, &mut others);
        Frame { front, back: others, inner, is_multiprotocol: true }
    };
    cut(codec, family, frame, nlri, each)
}

/// The same for prefixes that are gone.
pub(super) fn withdraw(codec: &Codec, nlri: &[Nlri], each: &mut impl FnMut(&[u8], usize)) -> Result<(), Unsayable> {
    let Some(first) = nlri.first() else { return Ok(()) };
    let family = first.prefix.version();
    let mut front = header(Kind::Update, usual_size(codec, nlri));
    front.extend([0; 2]);
    let frame = match family {
        IpVersion::V4 => Frame { front, back: vec![0; 2], inner: Some(HEADER), is_multiprotocol: false },
        IpVersion::V6 => {
            front.extend([0; 2]);
            front.extend([Class::OptionalNonTransitive.flags() | flag::EXTENDED_LENGTH, code::MP_UNREACH_NLRI, 0, 0]);
            let inner = Some(front.len() - 2);
            front.extend(afi(family).to_be_bytes());
            front.push(UNICAST);
            Frame { front, back: Vec::new(), inner, is_multiprotocol: true }
        }
    };
    cut(codec, family, frame, nlri, each)
}

/// Appends the message that says that all has been told. RFC 4724 §2.
pub(super) fn end_of_rib(family: IpVersion, out: &mut Vec<u8>) {
    let mut message = header(Kind::Update, 0);
    match family {
        IpVersion::V4 => message.extend([0; 4]),
        IpVersion::V6 => {
            message.extend([0; 4]);
            message.extend([Class::OptionalNonTransitive.flags(), code::MP_UNREACH_NLRI, 3]);
            message.extend(afi(family).to_be_bytes());
            message.push(UNICAST);
            set_length(&mut message, ATTRIBUTES_LENGTH, ATTRIBUTES);
        }
    }
    super::set_message_length(&mut message);
    out.extend(message);
}

fn cut(
    codec: &Codec,
    family: IpVersion,
    frame: Frame,
    mut nlri: &[Nlri],
    each: &mut impl FnMut(&[u8], usize),
) -> Result<(), Unsayable> {
    let ids = codec.sends_path_ids(family);
    let longest = codec.longest();
    let Frame { front, back, inner, is_multiprotocol } = frame;
    let too_long = Unsayable::TooLong(longest);
    let room = longest.checked_sub(front.len() + back.len()).ok_or(too_long)?;
    // No more than the prefixes can need.
    let room = room.min(nlri.len().saturating_mul(nlri::LONGEST));
    let begin = front.len();
    let mut message = front;
    while !nlri.is_empty() {
        message.resize(begin + room, 0);
        let (count, octets) = nlri::write(family, ids, nlri, message.get_mut(begin..).unwrap_or_default());
        if count == 0 {
            return Err(too_long);
        }
        message.truncate(begin + octets);
        let is_short = is_multiprotocol && shorten(&mut message, inner);
        if let Some(at) = inner.filter(|_| !is_short) {
            set_length(&mut message, at, at + 2);
        }
        message.extend(&back);
        if is_multiprotocol {
            set_length(&mut message, ATTRIBUTES_LENGTH, ATTRIBUTES);
        }
        super::set_message_length(&mut message);
        each(&message, count);
        nlri = nlri.get(count..).unwrap_or_default();
        if let Some(at) = inner.filter(|_| is_short) {
            lengthen(&mut message, at);
        }
    }
    Ok(())
}

/// Gives the attribute at the end a length of one octet if that is enough. RFC 4271 §4.3.
fn shorten(message: &mut Vec<u8>, inner: Option<usize>) -> bool {
    let Some(at) = inner else { return false };
    let Ok(length) = u8::try_from(message.len() - at - 2) else { return false };
    if let [flags, _, _, low] = &mut message[at - 2..at + 2] {
        *flags &= !flag::EXTENDED_LENGTH;
        *low = length;
    }
    message.remove(at);
    true
}

/// Takes that back, for the next message.
fn lengthen(message: &mut Vec<u8>, at: usize) {
    message.insert(at, 0);
    message[at - 2] |= flag::EXTENDED_LENGTH;
}

/// Puts at `at` how many octets there are from `from` on.
fn set_length(message: &mut [u8], at: usize, from: usize) {
    let length = message.len() - from;
    debug_assert!(length <= LONGEST_EXTENDED, "an attribute is no longer than a message");
    if let Some(octets) = message.get_mut(at..at + 2) {
        octets.copy_from_slice(&(length as u16).to_be_bytes());
    }
}

/// Appends attributes as a dump of a table has them: numbers of four octets, and of MP_REACH_NLRI the next hop alone.
/// RFC 6396 §4.3.4.
pub(super) fn dump(family: IpVersion, attributes: &Attributes, out: &mut Vec<u8>) {
    let codec = Codec { internal: true, four_octet_as: true, ..Codec::new() };
    let is_plain = family == IpVersion::V4 && attributes.next_hop.address.is_ipv4();
    if !is_plain {
        let mut value = Vec::new();
        write_next_hop(attributes.next_hop, &mut value);
        write_attribute(Class::OptionalNonTransitive.flags(), code::MP_REACH_NLRI, &value, out);
    }
    write_attributes(&codec, attributes, is_plain, out);
}

/// Length and addresses, as MP_REACH_NLRI has them. RFC 2545 §3, RFC 8950 §3.
fn write_next_hop(next_hop: NextHop, out: &mut Vec<u8>) {
    let octets = |address: Ipv6Addr| address.octets();
    let address = match next_hop.address {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => address.to_ipv6_mapped(),
    };
    match next_hop.link_local {
        Some(link_local) => {
            out.push(32);
            out.extend(octets(address));
            out.extend(octets(link_local));
        }
        None => {
            out.push(16);
            out.extend(octets(address));
        }
    }
}

/// All attributes but MP_REACH_NLRI and MP_UNREACH_NLRI, in the order of their codes.
pub(super) fn write_attributes(codec: &Codec, attributes: &Attributes, has_next_hop: bool, out: &mut Vec<u8>) {
    let Attributes {
        origin,
        as_path,
        next_hop,
        med,
        local_pref,
        atomic_aggregate,
        aggregator,
        communities,
        extended_communities,
        large_communities,
        originator_id,
        cluster_list,
        only_to_customer,
        others,
        received: _,
    } = attributes;
    let width = codec.width();
    let internal = codec.internal;
    let mut others = others.iter().peekable();
    let mut value = Vec::with_capacity(USUAL_ATTRIBUTES);
    let mut say = |code: u8, class: Class, value: &mut Vec<u8>, out: &mut Vec<u8>| {
        while let Some(other) = others.next_if(|other| other.code < code) {
            write_other(other, out);
        }
        write_attribute(class.flags(), code, value, out);
        value.clear();
    };

    let origin = match origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    };
    value.push(origin);
    say(code::ORIGIN, Class::WellKnown, &mut value, out);
    as_path::write(as_path, width, &mut value);
    say(code::AS_PATH, Class::WellKnown, &mut value, out);
    if let (true, IpAddr::V4(address)) = (has_next_hop, next_hop.address) {
        value.extend(address.octets());
        say(code::NEXT_HOP, Class::WellKnown, &mut value, out);
    }
    if let Some(med) = med {
        value.extend(med.to_be_bytes());
        say(code::MULTI_EXIT_DISC, Class::OptionalNonTransitive, &mut value, out);
    }
    // RFC 4271 §5.1.5: not to other systems.
    if let Some(local_pref) = local_pref.filter(|_| internal) {
        value.extend(local_pref.to_be_bytes());
        say(code::LOCAL_PREF, Class::WellKnown, &mut value, out);
    }
    if *atomic_aggregate {
        say(code::ATOMIC_AGGREGATE, Class::WellKnown, &mut value, out);
    }
    if let Some(Aggregator { as_number, router_id }) = aggregator {
        match width {
            Width::Two => value.extend(as_path::two_octets(*as_number).to_be_bytes()),
            Width::Four => value.extend(as_number.to_be_bytes()),
        }
        value.extend(router_id.octets());
        say(code::AGGREGATOR, Class::OptionalTransitive, &mut value, out);
    }
    if !communities.is_empty() {
        value.extend(communities.iter().flat_map(|community| community.to_be_bytes()));
        say(code::COMMUNITIES, Class::OptionalTransitive, &mut value, out);
    }
    // RFC 4456 §8: neither to other systems.
    if let Some(originator_id) = originator_id.filter(|_| internal) {
        value.extend(originator_id.octets());
        say(code::ORIGINATOR_ID, Class::OptionalNonTransitive, &mut value, out);
    }
    if internal && !cluster_list.is_empty() {
        value.extend(cluster_list.iter().flat_map(|cluster| cluster.octets()));
        say(code::CLUSTER_LIST, Class::OptionalNonTransitive, &mut value, out);
    }
    if !extended_communities.is_empty() {
        value.extend(extended_communities.iter().flatten());
        say(code::EXTENDED_COMMUNITIES, Class::OptionalTransitive, &mut value, out);
    }
    if width == Width::Two && as_path::needs_four(as_path) {
        as_path::write(&as_path.clone().without_confederation(), Width::Four, &mut value);
        // It may have been the confederation alone that needed it.
        if !value.is_empty() {
            say(code::AS4_PATH, Class::OptionalTransitive, &mut value, out);
        }
    }
    if let Some(Aggregator { as_number, router_id }) = aggregator
        && width == Width::Two
        && *as_number > u16::MAX.into()
    {
        value.extend(as_number.to_be_bytes());
        value.extend(router_id.octets());
        say(code::AS4_AGGREGATOR, Class::OptionalTransitive, &mut value, out);
    }
    if !large_communities.is_empty() {
        let parts = large_communities.iter().flat_map(|(a, b, c)| [a, b, c]);
        value.extend(parts.flat_map(|part| part.to_be_bytes()));
        say(code::LARGE_COMMUNITIES, Class::OptionalTransitive, &mut value, out);
    }
    if let Some(only_to_customer) = only_to_customer {
        value.extend(only_to_customer.to_be_bytes());
        say(code::ONLY_TO_CUSTOMER, Class::OptionalTransitive, &mut value, out);
    }
    for other in others {
        write_other(other, out);
    }
}

/// One that we do not know is passed on with a word about that. RFC 4271 §9.
fn write_other(other: &OtherAttribute, out: &mut Vec<u8>) {
    write_attribute(Class::OptionalTransitive.flags() | flag::PARTIAL, other.code, &other.value, out);
}

fn write_attribute(flags: u8, code: u8, value: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(value.len()) {
        Ok(length) => out.extend([flags, code, length]),
        Err(_) => {
            out.extend([flags | flag::EXTENDED_LENGTH, code]);
            out.extend((value.len() as u16).to_be_bytes());
        }
    }
    out.extend(value);
}
