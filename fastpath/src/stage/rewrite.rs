//! Stage: packets as they leave.
//!
//! Assumes: slots that will be forwarded, with a way out. Leaves: a partial transport checksum marked, TTL one less with the
//! header checksum updated, the layer 2 header of the adjacency in front. Of a frame that passes between the host's stack
//! and an uplink only the source MAC address changes, and its checksum if it was partial.
//! Drops: `interface_down` when the way out has gone, `vlan_unexpected` for a chained packet whose tags would change.
//! Sources: RFC 1624 for the update, RFC 1812 §5.3.1 for TTL; docs/decisions for what a veth leaves in a checksum field.

use crate::burst::{Burst, DropReason, Fragment, Network, Slot};
use crate::header::checksum::{self, pseudo_header};
use crate::header::ethernet;
use crate::header::udp::{self, Udp};
use crate::header::{protocol, tcp};
use crate::io::umem::Umem;
use crate::packet::Offload;
use crate::table::adjacency::{Adjacency, AdjacencyKind};
use crate::table::interface::InterfaceKind;
use crate::table::{InterfaceIndex, Tables};

#[inline(never)]
pub fn burst(burst: &mut Burst, umem: &mut Umem, tables: &Tables) {
    let mut last = (InterfaceIndex::NONE, false);
    for slot in burst.forward() {
        let Some(adjacency) = tables.adjacency(slot.adjacency) else {
            slot.drop(DropReason::InterfaceDown);
            continue;
        };
        if slot.ingress != last.0 {
            let is_uplink = tables.interface(slot.ingress).is_some_and(|i| i.kind == InterfaceKind::Uplink);
            last = (slot.ingress, is_uplink);
        }
        // A NIC delivers finished checksums; a veth delivers what the sender's stack left for hardware to finish.
        let is_from_uplink = last.1;
        if usual(slot, umem.data_mut(&slot.packet), adjacency, is_from_uplink) {
            continue;
        }
        if let Err(reason) = unusual(slot, umem, adjacency, is_from_uplink) {
            slot.drop(reason);
        }
    }
}

/// The usual packet, at once: plain TCP or UDP of which only TTL and MAC addresses change. False, and nothing done, for all
/// others.
#[inline(always)]
fn usual(slot: &Slot, bytes: &mut [u8], adjacency: &Adjacency, is_from_uplink: bool) -> bool {
    const L3: usize = ethernet::HEADER_LEN;
    let Some(addresses) = adjacency.untagged() else { return false };
    let is_plain = slot.is_plain & (usize::from(slot.l3) == L3);
    if !is_plain || !is_from_uplink && may_be_partial(slot, bytes) {
        return false;
    }
    let Some(frame) = bytes.first_chunk_mut::<{ L3 + 20 }>() else { return false };
    match slot.network {
        Network::Ipv4 => {
            frame[L3 + 8] = frame[L3 + 8].saturating_sub(1);
            let sum = u16::from_be_bytes([frame[L3 + 10], frame[L3 + 11]]);
            frame[L3 + 10..L3 + 12].copy_from_slice(&checksum::after_ttl(sum).to_be_bytes());
        }
        Network::Ipv6 => frame[L3 + 7] = frame[L3 + 7].saturating_sub(1),
        Network::None | Network::Arp => return false,
    }
    frame[..12].copy_from_slice(addresses);
    true
}

/// True when the transport checksum could be the sum of the pseudo header alone, so that it has to be looked at closely.
#[inline(always)]
fn may_be_partial(slot: &Slot, bytes: &[u8]) -> bool {
    let l4 = usize::from(slot.l4);
    let word = |at: usize| {
        let field = bytes.get(l4.wrapping_add(at)..)?.first_chunk()?;
        Some(u16::from_be_bytes(*field))
    };
    // A datagram that is shorter than its packet has another sum, and says how long it is.
    let (field, covered) = match slot.key.protocol {
        protocol::UDP => (word(udp::CHECKSUM_OFFSET), word(udp::LENGTH_OFFSET).map(usize::from)),
        protocol::TCP => (word(tcp::CHECKSUM_OFFSET), Some(slot.l4_len())),
        _ => return true,
    };
    let (Some(field), Some(covered)) = (field, covered) else { return true };
    let is_ipv4 = slot.network == Network::Ipv4;
    pseudo_header(slot.key.source, slot.key.destination, is_ipv4, slot.key.protocol, covered).is_alike(field)
}

/// Any packet, step by step.
#[inline(never)]
fn unusual(slot: &mut Slot, umem: &mut Umem, adjacency: &Adjacency, is_from_uplink: bool) -> Result<(), DropReason> {
    if adjacency.kind == AdjacencyKind::Frame {
        // The kernel that reads it checks what a veth behind an uplink may have left partial.
        if slot.fragment == Fragment::Whole && may_be_partial(slot, umem.data(&slot.packet)) {
            mark_checksum(slot, umem);
        }
        if let (Some(field), Some(source)) =
            (umem.data_mut(&slot.packet).get_mut(6..12), adjacency.rewrite().get(6..12))
        {
            field.copy_from_slice(source);
        }
        return Ok(());
    }
    // Where an end has been replaced that is done, and the slot has the key from before.
    if !slot.is_translated {
        finish(slot, umem, is_from_uplink);
    }
    age(slot, umem.data_mut(&slot.packet));
    layer2(slot, umem, adjacency)
}

/// Marks a checksum that is partial, where one may be.
pub(super) fn finish(slot: &mut Slot, umem: &mut Umem, is_from_uplink: bool) {
    if !is_from_uplink && slot.fragment == Fragment::Whole && may_be_partial(slot, umem.data(&slot.packet)) {
        mark_checksum(slot, umem);
    }
}

/// Marks a partial checksum, so that whoever sends the packet finishes it: the kernel, hardware, or a queue that has neither.
///
/// A back-end that knows says so in the packet's offload, and is believed. AF_XDP does not tell: there such a field is known by
/// its value, the sum of the pseudo header, not complemented. A finished checksum that looks like that by chance is computed
/// again and comes out the same. That of UDP covers what UDP's own length counts, which may end before the packet does, and
/// what a frame holds after its packet is no part of any: such packets, which nobody else could finish, are finished at once.
/// RFC 768, RFC 9868.
fn mark_checksum(slot: &mut Slot, umem: &mut Umem) {
    if slot.packet.offload.checksum_start != 0 {
        return;
    }
    let offset = match slot.key.protocol {
        protocol::TCP => tcp::CHECKSUM_OFFSET,
        protocol::UDP => udp::CHECKSUM_OFFSET,
        _ => return,
    };
    let l4 = usize::from(slot.l4);
    let length = match slot.key.protocol {
        protocol::UDP => {
            let header = umem.data(&slot.packet).get(l4..).and_then(Udp::at);
            header.map_or(0, |header| header.len()).min(slot.l4_len())
        }
        _ => slot.l4_len(),
    };
    let (key, is_ipv4) = (&slot.key, slot.network == Network::Ipv4);
    let pseudo = pseudo_header(key.source, key.destination, is_ipv4, key.protocol, length).fold();
    let at = l4 + offset;
    let Some(field) = umem.data(&slot.packet).get(at..at + 2) else { return };
    if field != pseudo.to_be_bytes() {
        return;
    }
    let partial = Offload { checksum_start: slot.l4, checksum_offset: offset as u16, ..Offload::default() };
    if l4 + length == slot.packet.len() {
        slot.packet.offload = partial;
    } else {
        umem.finish_checksum(&slot.packet, l4 + length, partial);
    }
}

/// Takes one from TTL or hop limit; `route` has checked that there is one to take.
fn age(slot: &Slot, bytes: &mut [u8]) {
    let Some(header) = bytes.get_mut(slot.l3.into()..) else { return };
    match slot.network {
        Network::Ipv4 => {
            let Some(header) = header.first_chunk_mut::<12>() else { return };
            let old = u16::from_be_bytes([header[8], header[9]]);
            header[8] = header[8].saturating_sub(1);
            let new = u16::from_be_bytes([header[8], header[9]]);
            let sum = checksum::update(u16::from_be_bytes([header[10], header[11]]), old, new);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Network::Ipv6 => {
            if let Some(hop_limit) = header.get_mut(7) {
                *hop_limit = hop_limit.saturating_sub(1);
            }
        }
        Network::None | Network::Arp => {}
    }
}

/// Writes the layer 2 header. Its length only changes between interfaces with different tags.
fn layer2(slot: &mut Slot, umem: &mut Umem, adjacency: &Adjacency) -> Result<(), DropReason> {
    let rewrite = adjacency.rewrite();
    let (old, new) = (usize::from(slot.l3), rewrite.len() + 2);
    if old != new {
        shift(slot, umem, old, new)?;
    }
    let header = umem.data_mut(&slot.packet).get_mut(..new).ok_or(DropReason::FrameTooShort)?;
    header[..new - 2].copy_from_slice(rewrite);
    let ethertype = match slot.network {
        Network::Ipv6 => ethernet::ETHERTYPE_IPV6,
        _ => ethernet::ETHERTYPE_IPV4,
    };
    header[new - 2..].copy_from_slice(&ethertype.to_be_bytes());
    Ok(())
}

/// Moves the network packet, since the start of a frame cannot be moved.
fn shift(slot: &mut Slot, umem: &mut Umem, old: usize, new: usize) -> Result<(), DropReason> {
    if slot.packet.is_chained() {
        return Err(DropReason::VlanUnexpected);
    }
    let length = slot.packet.len();
    if new > old && !umem.set_len(&mut slot.packet, length + new - old) {
        return Err(DropReason::TooBig);
    }
    umem.data_mut(&slot.packet).copy_within(old..length, new);
    if new < old && !umem.set_len(&mut slot.packet, length - (old - new)) {
        return Err(DropReason::FrameTooShort);
    }
    slot.l4 = slot.l4 + new as u16 - old as u16;
    if slot.packet.offload.checksum_start != 0 {
        slot.packet.offload.checksum_start = slot.l4;
    }
    slot.l3 = new as u16;
    Ok(())
}
