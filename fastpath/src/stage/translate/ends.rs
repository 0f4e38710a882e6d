//! Another address, and another port, at one end of a packet: bytes and checksums.
//!
//! | what | changes |
//! |---|---|
//! | network header | the address; in IPv4 the header checksum |
//! | TCP, UDP, UDP-Lite | the port; the checksum for both, which covers the address too |
//! | ICMP echo | the identifier; the checksum, in IPv6 for the address too |
//! | ICMP error | the same at the other end of what it quotes, as far as that is there; its own checksum for all of it |
//! | later fragments | the address alone |
//!
//! Nothing is summed up anew: each field that is replaced gives the change of the sum, and changes add up.
//! A checksum that is still partial is the sum of the pseudo header, not complemented, in which no port counts.
//! Sources: RFC 1624 equation 3; RFC 768 for the checksum that UDP leaves out; RFC 5508 §4.2 for errors.

use crate::burst::{Fragment, Network, Slot};
use crate::flow::translation::{End, Replacement};
use crate::header::checksum::Change;
use crate::header::{icmp, ipv4, ipv6, protocol, tcp, udp};

/// Puts the replacement into a whole packet, a fragment, or an ICMP error. `None`: a header is not where it should be, and
/// the packet may be half changed.
pub(super) fn replace(slot: &Slot, bytes: &mut [u8], with: Replacement) -> Option<()> {
    let (l3, l4) = (usize::from(slot.l3), usize::from(slot.l4));
    let is_ipv4 = slot.network == Network::Ipv4;
    let address = network(bytes.get_mut(l3..)?, is_ipv4, with.end, with.address)?;
    let payload = bytes.get_mut(l4..)?;
    if slot.is_icmp_error {
        let quote = quoted(payload.get_mut(icmp::HEADER_LEN..)?, is_ipv4, with)?;
        let pseudo = if is_ipv4 { Change::NONE } else { address };
        return adjust(payload, icmp::CHECKSUM_OFFSET, quote.and(pseudo)).map(|_| ());
    }
    match (slot.fragment, with.port) {
        (Fragment::Later, _) | (_, None) => Some(()),
        (_, Some(port)) => {
            let is_partial = slot.packet.offload.checksum_start != 0;
            transport(payload, slot.key.protocol, is_ipv4, with.end, port, address, is_partial).map(|_| ())
        }
    }
}

/// The address in a network header, and the header's own checksum. Returns the change of the address.
fn network(header: &mut [u8], is_ipv4: bool, end: End, address: u128) -> Option<Change> {
    if is_ipv4 {
        let at = if end == End::Source { ipv4::SOURCE_OFFSET } else { ipv4::DESTINATION_OFFSET };
        let change = put(header, at, &(address as u32).to_be_bytes())?;
        adjust(header, ipv4::CHECKSUM_OFFSET, change)?;
        Some(change)
    } else {
        let at = if end == End::Source { ipv6::SOURCE_OFFSET } else { ipv6::DESTINATION_OFFSET };
        put(header, at, &address.to_be_bytes())
    }
}

/// The port or identifier in a transport header, and the checksum as far as it is there. Returns the change of all of it.
fn transport(
    header: &mut [u8],
    protocol: u8,
    is_ipv4: bool,
    end: End,
    port: u16,
    address: Change,
    is_partial: bool,
) -> Option<Change> {
    let is_echo = matches!(protocol, protocol::ICMP | protocol::ICMPV6);
    let at = match end {
        _ if is_echo => icmp::IDENTIFIER_OFFSET,
        End::Source => 0,
        End::Destination => 2,
    };
    let changed = put(header, at, &port.to_be_bytes())?;
    let (checksum, covered) = match protocol {
        protocol::ICMP => (icmp::CHECKSUM_OFFSET, changed),
        protocol::ICMPV6 => (icmp::CHECKSUM_OFFSET, changed.and(address)),
        protocol::TCP => (tcp::CHECKSUM_OFFSET, changed.and(address)),
        protocol::UDP | protocol::UDPLITE => (udp::CHECKSUM_OFFSET, changed.and(address)),
        _ => return None,
    };
    let Some(field) = header.get_mut(checksum..).and_then(|rest| rest.first_chunk_mut::<2>()) else {
        // An error need not quote more than eight bytes.
        return Some(changed);
    };
    let old = u16::from_be_bytes(*field);
    let new = match protocol {
        _ if is_partial => !address.apply(!old),
        protocol::UDP if old == 0 && is_ipv4 => 0,
        // A sum of zero would say that there is none.
        protocol::UDP => match covered.apply(old) {
            0 => 0xffff,
            sum => sum,
        },
        _ => covered.apply(old),
    };
    *field = new.to_be_bytes();
    Some(changed.and(Change::of_word(old, new)))
}

/// What an error quotes went the other way: there the other end is the one. Returns the change of the whole quote.
fn quoted(quote: &mut [u8], is_ipv4: bool, with: Replacement) -> Option<Change> {
    let end = if with.end == End::Source { End::Destination } else { End::Source };
    let (protocol, start) = if is_ipv4 {
        let header = ipv4::Ipv4::at(quote)?;
        (header.protocol(), header.header_len())
    } else {
        let chain = ipv6::walk(quote, ipv6::Ipv6::at(quote)?.next_header()).ok()?;
        (chain.protocol, chain.offset)
    };
    let address = network(quote, is_ipv4, end, with.address)?;
    // In IPv4 the header's checksum has taken the change back.
    let own = if is_ipv4 { Change::NONE } else { address };
    let transport = transport(quote.get_mut(start..)?, protocol, is_ipv4, end, with.port?, address, false)?;
    Some(own.and(transport))
}

/// Writes over what is there, at an even place. Returns the change of the sum.
fn put(bytes: &mut [u8], at: usize, new: &[u8]) -> Option<Change> {
    let field = bytes.get_mut(at..at + new.len())?;
    let change = Change::of(field, new);
    field.copy_from_slice(new);
    Some(change)
}

/// Makes a checksum right for what has changed under it. Returns the change of the field itself.
fn adjust(bytes: &mut [u8], at: usize, change: Change) -> Option<Change> {
    let field = bytes.get_mut(at..)?.first_chunk_mut::<2>()?;
    let old = u16::from_be_bytes(*field);
    let new = change.apply(old);
    *field = new.to_be_bytes();
    Some(Change::of_word(old, new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::mapped;
    use crate::header::build;
    use crate::header::checksum::{Sum, pseudo_header};
    use crate::io::umem::Umem;
    use crate::packet::Offload;
    use crate::table::InterfaceIndex;
    use proptest::prelude::*;

    /// All that a packet is made from.
    #[derive(Clone, Debug)]
    struct Made {
        is_ipv4: bool,
        source: u128,
        destination: u128,
        protocol: u8,
        /// Of an echo, the first is the identifier.
        ports: [u16; 2],
        payload: Vec<u8>,
        is_partial: bool,
        is_without: bool,
    }

    impl Made {
        fn transport(&self) -> Vec<u8> {
            let [one, other] = self.ports.map(u16::to_be_bytes);
            let length = self.header_len() + self.payload.len();
            let (mut bytes, at) = match self.protocol {
                protocol::TCP => ([one, other].concat(), tcp::CHECKSUM_OFFSET),
                protocol::UDP | protocol::UDPLITE => {
                    ([one, other, (length as u16).to_be_bytes()].concat(), udp::CHECKSUM_OFFSET)
                }
                _ => ([[8, 0], [0; 2], one, other].concat(), icmp::CHECKSUM_OFFSET),
            };
            bytes.resize(self.header_len(), 0);
            bytes.extend(&self.payload);
            let pseudo = pseudo_header(self.source, self.destination, self.is_ipv4, self.protocol, length);
            let start = if self.protocol == protocol::ICMP { Sum::new() } else { pseudo };
            let checksum = match start.bytes(&bytes).finish() {
                _ if self.is_without => 0,
                _ if self.is_partial => pseudo.fold(),
                0 if self.protocol == protocol::UDP => 0xffff,
                sum => sum,
            };
            bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
            bytes
        }

        fn header_len(&self) -> usize {
            if self.protocol == protocol::TCP { 20 } else { 8 }
        }

        fn packet(&self) -> Vec<u8> {
            let transport = self.transport();
            self.behind_network(self.protocol, &transport)
        }

        fn behind_network(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
            let mut bytes = match self.is_ipv4 {
                true => build::ipv4(self.source as u32, self.destination as u32, protocol, payload.len()).to_vec(),
                false => build::ipv6(self.source, self.destination, protocol, 64, payload.len()).to_vec(),
            };
            bytes.extend(payload);
            bytes
        }

        fn turned(&self) -> Self {
            Self { source: self.destination, destination: self.source, ..self.clone() }
        }

        /// The obvious way: made anew.
        fn with(&self, with: Replacement) -> Self {
            let mut other = self.clone();
            let is_echo = matches!(self.protocol, protocol::ICMP | protocol::ICMPV6);
            match with.end {
                End::Source => other.source = with.address,
                End::Destination => other.destination = with.address,
            }
            let place = if with.end == End::Source || is_echo { 0 } else { 1 };
            other.ports[place] = with.port.unwrap_or(other.ports[place]);
            other
        }
    }

    fn made() -> impl Strategy<Value = Made> {
        let ends = (any::<[u32; 2]>(), any::<[u16; 2]>());
        let kind = (any::<bool>(), 0usize..4, 0u8..8);
        (ends, kind, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|((ends, ports), kind, payload)| {
            let (is_ipv4, number, state) = kind;
            let last = if is_ipv4 { protocol::ICMP } else { protocol::ICMPV6 };
            let protocol = [protocol::TCP, protocol::UDP, protocol::UDPLITE, last][number];
            let address = |end: u32| if is_ipv4 { mapped(end) } else { 0xfd00 << 112 | u128::from(end) << 40 };
            let may_be_partial = matches!(protocol, protocol::TCP | protocol::UDP);
            Made {
                is_ipv4,
                source: address(ends[0]),
                destination: address(ends[1]),
                protocol,
                ports,
                payload,
                is_partial: may_be_partial && state == 0,
                is_without: protocol == protocol::UDP && is_ipv4 && state == 1,
            }
        })
    }

    fn replacement(is_ipv4: bool, is_source: bool, address: u128, port: u16) -> Replacement {
        let address = if is_ipv4 { mapped(address as u32) } else { address | 1 << 127 };
        let end = if is_source { End::Source } else { End::Destination };
        Replacement { end, address, port: Some(port) }
    }

    /// What `replace` makes of a network packet.
    fn replaced(made: &Made, bytes: &[u8], is_icmp_error: bool, with: Replacement) -> Vec<u8> {
        let mut umem = Umem::heap(2048, 1);
        let Some(packet) = umem.copy_in([bytes]) else { unreachable!("one frame is enough") };
        let mut slot = Slot::new(packet, InterfaceIndex(0));
        slot.network = if made.is_ipv4 { Network::Ipv4 } else { Network::Ipv6 };
        slot.l4 = if made.is_ipv4 { 20 } else { 40 };
        slot.key.protocol = made.protocol;
        slot.is_icmp_error = is_icmp_error;
        if made.is_partial && !is_icmp_error {
            slot.packet.offload = Offload { checksum_start: slot.l4, ..Offload::default() };
        }
        let mut bytes = bytes.to_vec();
        assert_eq!(replace(&slot, &mut bytes, with), Some(()));
        umem.free(slot.packet);
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_is_replaced_is_what_would_be_made(made in made(), is_source: bool, address: u128, port: u16) {
            let with = replacement(made.is_ipv4, is_source, address, port);
            prop_assert_eq!(replaced(&made, &made.packet(), false, with), made.with(with).packet());
        }

        #[test]
        fn a_later_fragment_has_another_address_alone(made in made(), is_source: bool, address: u128) {
            let with = Replacement { port: None, ..replacement(made.is_ipv4, is_source, address, 0) };
            let fragment = |made: &Made| made.behind_network(made.protocol, &made.payload);
            prop_assert_eq!(replaced(&made, &fragment(&made), false, with), fragment(&made.with(with)));
        }

        #[test]
        fn an_error_quotes_the_other_end(made in made(), is_source: bool, address: u128, port: u16, cut in 4usize..30) {
            let made = Made { is_partial: false, ..made };
            let with = replacement(made.is_ipv4, is_source, address, port);
            let error = |outer: &Made, quoted: &Made| {
                let header_len = if outer.is_ipv4 { 20 } else { 40 };
                let mut quote = quoted.packet();
                quote.truncate(header_len + 2 * cut);
                let message = match outer.is_ipv4 {
                    true => build::icmp_error(3, 3, 0, &quote),
                    false => build::icmpv6_error(1, 4, 0, &quote, outer.source, outer.destination),
                };
                let protocol = if outer.is_ipv4 { protocol::ICMP } else { protocol::ICMPV6 };
                outer.behind_network(protocol, &[&message[..], &quote].concat())
            };
            // Who is told is who sent.
            let outer = made.turned();
            let other = match with.end {
                End::Source => Replacement { end: End::Destination, ..with },
                End::Destination => Replacement { end: End::Source, ..with },
            };
            let expected = error(&outer.with(Replacement { port: None, ..with }), &made.with(other));
            prop_assert_eq!(replaced(&made, &error(&outer, &made), true, with), expected);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..120), made in made(), l4 in 0u16..80, is_error: bool, is_source: bool) {
            let mut umem = Umem::heap(2048, 1);
            let Some(packet) = umem.copy_in([&bytes[..]]) else { return Ok(()) };
            let mut slot = Slot::new(packet, InterfaceIndex(0));
            slot.network = if made.is_ipv4 { Network::Ipv4 } else { Network::Ipv6 };
            (slot.l4, slot.key.protocol, slot.is_icmp_error) = (l4, made.protocol, is_error);
            let mut bytes = bytes;
            let length = bytes.len();
            let _ = replace(&slot, &mut bytes, replacement(made.is_ipv4, is_source, 5, 6));
            prop_assert_eq!(bytes.len(), length);
            umem.free(slot.packet);
        }
    }
}
