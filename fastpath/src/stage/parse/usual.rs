//! The usual packet, read at once: TCP or UDP in untagged IPv4 without options, or in IPv6 without extension headers, whole,
//! for our own MAC address.
//!
//! All other packets, and whatever is wrong with one, are left to the patient way of `parse.rs`, which comes to the same
//! where both can.
//! See: RFC 1071 §2 (B) for sums that do not care about the order of bytes.

use crate::burst::{Network, Slot};
use crate::flow::mapped;
use crate::header::{ethernet, ipv4, ipv6, protocol, tcp, udp};
use crate::table::interface::{Interface, InterfaceKind};

const L3: usize = ethernet::HEADER_LEN;

/// Fills the slot, and returns the length that the packet should have. `None`: it has to be looked at piece by piece.
#[inline(always)]
pub(super) fn parse(slot: &mut Slot, bytes: &[u8], interface: &Interface) -> Option<usize> {
    // What has a host endpoint behind it, or comes from the host, passes in ways of its own.
    let is_routed = match interface.kind {
        InterfaceKind::Workload => true,
        InterfaceKind::Uplink => interface.host_endpoint.is_none(),
        InterfaceKind::Host => false,
    };
    // The shortest frame there is holds all that is read of IPv4 here.
    let frame = bytes.first_chunk::<{ L3 + 40 }>()?;
    let is_ours = frame[..6] == interface.mac && frame[6] & 1 == 0;
    if !(is_routed & is_ours & (interface.tags == [0; 2])) {
        return None;
    }
    // What lies in further frames counts as present.
    let room = slot.packet.len() - L3;
    let (l3_len, l4_len, protocol) = match u16::from_be_bytes([frame[12], frame[13]]) {
        ethernet::ETHERTYPE_IPV4 => ipv4(slot, frame, room)?,
        ethernet::ETHERTYPE_IPV6 => ipv6(slot, frame, room)?,
        _ => return None,
    };
    let l4 = L3 + l3_len - l4_len;
    let transport = bytes.get(l4..)?.first_chunk::<8>()?;
    let word = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
    let flags = match protocol {
        protocol::UDP => {
            let length = usize::from(word(4));
            let has_checksum = word(6) != 0 || slot.network == Network::Ipv4;
            if length < udp::HEADER_LEN || length > l4_len || !has_checksum {
                return None;
            }
            0
        }
        protocol::TCP => {
            let &[offset, flags] = bytes.get(l4 + 12..)?.first_chunk::<2>()?;
            let header_len = usize::from(offset >> 4) * 4;
            if header_len < tcp::HEADER_LEN || header_len > l4_len || !tcp::flags_are_valid(flags) {
                return None;
            }
            flags
        }
        _ => return None,
    };
    slot.l3 = L3 as u16;
    slot.l4 = l4 as u16;
    slot.l3_len = l3_len as u32;
    slot.tcp_flags = flags;
    slot.key.protocol = protocol;
    slot.key.source_port = word(0);
    slot.key.destination_port = word(2);
    slot.is_plain = !slot.opens_connection();
    Some(L3 + l3_len)
}

/// Lengths of packet and payload, and the protocol.
type Usual = (usize, usize, u8);

#[inline(always)]
fn ipv4(slot: &mut Slot, frame: &[u8; L3 + 40], room: usize) -> Option<Usual> {
    let header = frame.get(L3..)?.first_chunk::<20>()?;
    // Bytes are added as they lie: ones' complement sums do not care, and all ones are all ones. RFC 1071 §2 (B).
    let word = |at: usize| u64::from(u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    let sum = word(0) + word(4) + word(8) + word(12) + word(16);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let is_whole_sum = sum == 0xffff;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // Neither an offset nor more to come.
    let is_whole = u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0;
    let fits = (total_len >= ipv4::HEADER_LEN) & (total_len <= room);
    if !((header[0] == 0x45) & is_whole_sum & is_whole & fits) {
        return None;
    }
    slot.network = Network::Ipv4;
    slot.ttl = header[8];
    slot.identification = u32::from(u16::from_be_bytes([header[4], header[5]]));
    slot.key.source = mapped(u32::from_be_bytes([header[12], header[13], header[14], header[15]]));
    slot.key.destination = mapped(u32::from_be_bytes([header[16], header[17], header[18], header[19]]));
    Some((total_len, total_len - ipv4::HEADER_LEN, header[9]))
}

#[inline(always)]
fn ipv6(slot: &mut Slot, frame: &[u8; L3 + 40], room: usize) -> Option<Usual> {
    let header = frame.get(L3..)?.first_chunk::<40>()?;
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let source = u128::from_be_bytes(*header[8..].first_chunk()?);
    let destination = u128::from_be_bytes(*header[24..].first_chunk()?);
    let is_mapped = |address: u128| address >> 32 == crate::flow::MAPPED_PREFIX >> 32;
    let fits = ipv6::HEADER_LEN + payload_len <= room;
    if header[0] >> 4 != 6 || !fits || is_mapped(source) || is_mapped(destination) {
        return None;
    }
    slot.network = Network::Ipv6;
    slot.ttl = header[7];
    slot.key.source = source;
    slot.key.destination = destination;
    Some((ipv6::HEADER_LEN + payload_len, payload_len, header[6]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::burst::DropReason;
    use crate::header::{build, checksum};
    use crate::io::umem::Umem;
    use crate::table::Tables;
    use crate::table::{AdjacencyIndex, EndpointIndex, HostEndpointIndex, WorkerIndex};
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn interface(kind: InterfaceKind) -> Interface {
        Interface {
            kind,
            mac: MAC,
            mtu: 1500,
            tags: [0; 2],
            owner: WorkerIndex(0),
            endpoint: EndpointIndex::NONE,
            is_up: true,
            host_endpoint: HostEndpointIndex::NONE,
            to_host: AdjacencyIndex::NONE,
            from_host: AdjacencyIndex::NONE,
        }
    }

    /// A right packet of either family and of TCP or UDP, padded or not.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        (any::<[u8; 4]>(), any::<(bool, bool)>(), any::<(u16, u16, u8)>(), 0usize..40, 0usize..20).prop_map(
            |(ends, (is_ipv4, is_tcp), (source_port, destination_port, flags), payload, padding)| {
                let protocol = if is_tcp { protocol::TCP } else { protocol::UDP };
                let length = payload + if is_tcp { 20 } else { 8 };
                let mut bytes = [MAC, [2, 0, 0, 0, 0, 9]].concat();
                if is_ipv4 {
                    bytes.extend(ethernet::ETHERTYPE_IPV4.to_be_bytes());
                    let addresses = (0x0a00_0000 | u32::from(ends[0]), 0x0a01_0000 | u32::from(ends[1]));
                    bytes.extend(build::ipv4(addresses.0, addresses.1, protocol, length));
                } else {
                    bytes.extend(ethernet::ETHERTYPE_IPV6.to_be_bytes());
                    let addresses =
                        (0xfd00_u128 << 112 | u128::from(ends[0]), 0xfd01_u128 << 112 | u128::from(ends[1]));
                    bytes.extend(build::ipv6(addresses.0, addresses.1, protocol, 64, length));
                }
                let transport = bytes.len();
                bytes.extend(source_port.to_be_bytes());
                bytes.extend(destination_port.to_be_bytes());
                bytes.resize(transport + length, 0);
                if is_tcp {
                    bytes[transport + 12..transport + 14].copy_from_slice(&[0x50, flags]);
                } else {
                    bytes[transport + 4..transport + 6].copy_from_slice(&(length as u16).to_be_bytes());
                    bytes[transport + 6..transport + 8].copy_from_slice(&[ends[2], ends[3]]);
                }
                bytes.resize(bytes.len() + padding, 0);
                bytes
            },
        )
    }

    /// Any packet has to look the same to both ways of reading it, or to one of them only: the patient one.
    fn check(bytes: &[u8], kind: InterfaceKind) -> bool {
        let mut umem = Umem::heap(2048, 2);
        let (interface, tables) = (interface(kind), Tables::default());
        let mut look = |parse: fn(&mut Slot, &[u8], &Interface, &Tables) -> Result<usize, DropReason>| {
            let Some(packet) = umem.copy_in([bytes]) else { unreachable!("two frames are enough") };
            let mut slot = Slot::new(packet, crate::table::InterfaceIndex(1));
            let result = parse(&mut slot, bytes, &interface, &tables);
            let mut seen = format!("{slot:?}");
            // The frame differs, and nothing else.
            seen.replace_range(..seen.find("offset").unwrap_or(0), "");
            umem.free(slot.packet);
            (result, seen)
        };
        let quick = look(|slot, bytes, interface, _| parse(slot, bytes, interface).ok_or(DropReason::FrameTooShort));
        let patient = look(crate::stage::parse::parse);
        if quick.0.is_ok() {
            assert_eq!(quick, patient, "{bytes:02x?}");
        }
        quick.0.is_ok()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn the_usual_packet_is_read_as_any_other(frame in frame(), is_uplink: bool) {
            let kind = if is_uplink { InterfaceKind::Uplink } else { InterfaceKind::Workload };
            let is_usual = check(&frame, kind);
            // What is right is read at once, but for odd flags and a missing checksum in IPv6.
            let is_tcp = frame[14 + 9] == protocol::TCP && frame[14] == 0x45;
            if frame[14] == 0x45 && !is_tcp {
                prop_assert!(is_usual || frame.len() < 54);
            }
        }

        #[test]
        fn a_broken_packet_is_read_as_any_other(
            frame in frame(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            is_cut: bool,
            mends: bool,
        ) {
            let mut frame = frame;
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if is_cut {
                frame.truncate(cut.index(frame.len()).max(1));
            }
            // A right checksum over wrong fields comes further.
            if mends && frame.len() >= 34 {
                frame[24..26].fill(0);
                let sum = checksum::Sum::new().bytes(&frame[14..34]).finish();
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            for kind in [InterfaceKind::Workload, InterfaceKind::Uplink, InterfaceKind::Host] {
                check(&frame, kind);
            }
        }
    }
}
