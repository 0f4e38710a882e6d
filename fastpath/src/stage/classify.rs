//! Stage: known flows whose packets `recall` did not settle.
//!
//! Assumes: admitted slots. Leaves: for a packet of a known flow its handle and the way out that was recorded, or
//! `stale` when the tables have changed since; for fragments the way of their first; for an ICMP error the flow of the
//! packet it quotes. Everything else goes on as new; a fragment whose first is not known yet as one that has to find it.
//! Drops: packets of a flow that came in by another interface, fragments without or over their first, unmatched errors.

use crate::burst::{Burst, DropReason, Fragment, Passage, Slot};
use crate::flow::{FlowHandle, FlowTable, Key, Seconds};
use crate::io::umem::Umem;
use crate::stage::{admit, parse};
use crate::table::interface::InterfaceKind;
use crate::table::{InterfaceIndex, Tables};

#[inline(never)]
pub fn burst(burst: &mut Burst, umem: &Umem, flows: &FlowTable, tables: &Tables, now: Seconds) {
    let stamp = burst.stamp;
    burst.undecided(|slot| match slot.flow.take() {
        _ if slot.is_icmp_error => error(slot, umem, flows, tables),
        Some(found) => take(slot, found, flows, tables, stamp, now),
        None => {}
    });
}

/// A fragment whose first was not remembered yet when the burst was classified: the first may have been in the same burst,
/// and `remember` has come by it since. Either it is there now, or the fragment ends here. A first that another worker
/// entered meanwhile, under other tables, is as good as none: its way out means nothing in ours.
pub fn follow_first(slot: &mut Slot, flows: &FlowTable, tables: &Tables, stamp: u32, now: Seconds) {
    let way_out = slot.adjacency;
    match flows.lookup(&slot.key, slot.hash) {
        Some(handle) => take(slot, handle, flows, tables, stamp, now),
        // The host puts its own together.
        None if is_given(slot, tables) => return,
        None => slot.drop(DropReason::FragmentWithoutFirst),
    }
    // `route` knew it already: a frame that passes has no other. But nobody knew that it is not for the host.
    match slot.passage {
        Passage::ToHost if slot.is_translated => slot.passage = Passage::None,
        Passage::ToHost | Passage::FromHost(_) => slot.adjacency = way_out,
        Passage::None => {}
    }
    let has_room = tables.adjacency(slot.adjacency).is_some_and(|way_out| slot.l3_len <= u32::from(way_out.mtu));
    if slot.is_translated && (slot.ttl <= 1 || !has_room) {
        slot.drop(DropReason::FragmentWithoutFirst);
    }
    if slot.stale {
        slot.drop(DropReason::FragmentWithoutFirst);
    }
}

/// The packet belongs to the flow, if it came in where the flow does and overwrites nothing.
fn take(slot: &mut Slot, handle: FlowHandle, flows: &FlowTable, tables: &Tables, stamp: u32, now: Seconds) {
    let decision = flows.decision(handle);
    if !is_same_side(decision.ingress, slot.ingress, tables) {
        // Another endpoint pretends to be part of this flow.
        slot.drop(DropReason::FlowWrongInterface);
        return;
    }
    if slot.fragment == Fragment::Later && slot.fragment_offset < flows.covered(handle) {
        // It would overwrite the header that was judged. RFC 1858 §4, RFC 5722 §4.
        slot.drop(DropReason::FragmentMalformed);
        return;
    }
    slot.flow = Some(handle);
    if flows.is_translated(handle) {
        slot.is_translated = true;
        slot.is_plain = false;
    }
    slot.rule = flows.rule(handle);
    slot.adjacency = decision.adjacency;
    slot.stale = slot.opens_connection() || decision.generation != stamp || decision.adjacency.is_none();
    flows.touch(handle, slot.packet.len() as u32, slot.tcp_flags, now);
}

/// An error belongs to the flow whose packet it quotes, and travels against that packet. RFC 5927 §4.
fn error(slot: &mut Slot, umem: &Umem, flows: &FlowTable, tables: &Tables) {
    let quoted = parse::quoted_key(slot, umem.data(&slot.packet));
    let handle = quoted
        // The quoted packet's sender is the one to be told.
        .filter(|quoted| quoted.source == slot.key.destination)
        .and_then(|quoted| flow_of(&quoted, flows))
        // Only who is on the quoted packet's way can know of its trouble.
        .filter(|handle| is_same_side(flows.egress(*handle), slot.ingress, tables));
    let Some(handle) = handle else {
        match (slot.passage, quoted.filter(|quoted| is_failsafe(slot.passage, quoted, tables))) {
            // Failsafe ports pass in the kernel, so there is no flow, and path MTU discovery is for them too.
            (_, Some(_)) => slot.is_untracked = true,
            // The host knows its own.
            (Passage::ToHost, None) if is_given(slot, tables) => slot.is_untracked = true,
            // A list that keeps no state may allow it.
            (Passage::ToHost | Passage::FromHost(_), None) => {}
            (Passage::None, None) => slot.drop(DropReason::IcmpErrorUnmatched),
        }
        return;
    };
    slot.is_translated = flows.is_translated(handle);
    if slot.is_translated && !enters(slot) {
        return;
    }
    slot.rule = flows.rule(handle);
    // The way to the quoted packet's sender is routed like any packet's: the recorded one may not exist yet.
    slot.flow = Some(handle.reversed());
    slot.stale = true;
}

/// The flow of a packet that somebody has quoted. Each side quotes what it saw, and of a translated flow neither saw both
/// directions as they came in: then it is found by its answer.
fn flow_of(quoted: &Key, flows: &FlowTable) -> Option<FlowHandle> {
    let find = |key: &Key| flows.lookup(key, flows.hash(key));
    let by_answer = || find(&quoted.reversed()).filter(|handle| flows.is_translated(*handle)).map(FlowHandle::reversed);
    find(quoted).or_else(by_answer)
}

/// An error about a translated flow is routed by us after all. What comes in for the host was not asked who sends it.
fn enters(slot: &mut Slot) -> bool {
    if slot.passage != Passage::None {
        slot.passage = Passage::None;
        if admit::is_martian_source(slot.key.source) || admit::is_link_local(slot.key.source) {
            slot.drop(DropReason::SourceMartian);
            return false;
        }
    }
    true
}

/// True when the quoted packet went between the host and a port that is never closed.
fn is_failsafe(passage: Passage, quoted: &Key, tables: &Tables) -> bool {
    let (local_port, remote_port, remote) = match passage {
        Passage::None => return false,
        // The error comes to the host, so the packet had come from it.
        Passage::ToHost => (quoted.source_port, quoted.destination_port, quoted.destination),
        Passage::FromHost(_) => (quoted.destination_port, quoted.source_port, quoted.source),
    };
    tables.failsafes.is_inbound(quoted.protocol, local_port, remote)
        || tables.failsafes.is_outbound(quoted.protocol, remote_port, remote)
}

/// True for what passes to the host unjudged: of an uplink without a host endpoint.
pub(super) fn is_given(slot: &Slot, tables: &Tables) -> bool {
    let is_guarded = || tables.interface(slot.ingress).is_some_and(|interface| !interface.host_endpoint.is_none());
    slot.passage == Passage::ToHost && !is_guarded()
}

/// True for the same interface, and for two uplinks: by which of them a flow returns is the fabric's business.
fn is_same_side(recorded: InterfaceIndex, actual: InterfaceIndex, tables: &Tables) -> bool {
    let is_uplink = |index| tables.interface(index).is_some_and(|interface| interface.kind == InterfaceKind::Uplink);
    recorded == actual || (is_uplink(recorded) && is_uplink(actual))
}
