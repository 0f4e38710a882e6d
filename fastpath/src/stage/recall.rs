//! Stage: packets of open flows whose recorded decision still holds.
//!
//! Assumes: parsed slots. Leaves: a packet that repeats what was decided under these same tables with its way out, counted;
//! it is settled, and `admit` to `remember` do not look at it again. All others are open, with the flow they were found to
//! belong to, if any.
//!
//! Why nothing else needs to be asked: a direction's decision is recorded by `remember`, after a packet with this very key
//! came in by this very interface and passed every stage between, and it counts only under the tables of that time. What
//! depends on more than key, interface and tables is either looked at here (TTL, length) or makes a packet not plain:
//! fragments, errors, groups, packets that pass to or from the host's stack, and those that open a connection anew.
//!
//! In rounds, so that the lines that are touched are on their way before they are needed: `parse` has asked for the bucket,
//! the first round here asks for the entry, the second reads it.

use crate::burst::{Burst, Slot, Verdict};
use crate::flow::{FlowHandle, FlowTable, Seconds};
use crate::table::Tables;
use crate::table::adjacency::AdjacencyKind;

#[inline(never)]
pub fn burst(burst: &mut Burst, flows: &FlowTable, tables: &Tables, now: Seconds) {
    for slot in burst.forward() {
        slot.flow = flows.candidate(slot.hash);
    }
    let stamp = burst.stamp;
    burst.sort_out(|slot| matches!(slot.verdict, Verdict::Forward) && !settle(slot, flows, tables, stamp, now));
}

/// True when nothing is left to decide.
#[inline(always)]
fn settle(slot: &mut Slot, flows: &FlowTable, tables: &Tables, stamp: u32, now: Seconds) -> bool {
    let Some(candidate) = slot.flow else { return false };
    if !flows.is(candidate, &slot.key) {
        return settle_stranger(slot, flows, tables, stamp, now);
    }
    repeat(slot, candidate, flows, tables, stamp, now)
}

/// Another flow of the same tag, or one that takes a longer look.
#[cold]
#[inline(never)]
fn settle_stranger(slot: &mut Slot, flows: &FlowTable, tables: &Tables, stamp: u32, now: Seconds) -> bool {
    slot.flow = flows.lookup(&slot.key, slot.hash);
    slot.flow.is_some_and(|found| repeat(slot, found, flows, tables, stamp, now))
}

/// Takes over what is recorded, if it still holds.
#[inline(always)]
fn repeat(slot: &mut Slot, flow: FlowHandle, flows: &FlowTable, tables: &Tables, stamp: u32, now: Seconds) -> bool {
    let decision = flows.decision(flow);
    let repeats = slot.is_plain & (decision.generation == stamp) & (decision.ingress == slot.ingress);
    let Some(adjacency) = tables.adjacency(decision.adjacency).filter(|_| repeats) else { return false };
    let leads_out = matches!(adjacency.kind, AdjacencyKind::Forward | AdjacencyKind::Host);
    if !leads_out || slot.ttl <= 1 || slot.l3_len > u32::from(adjacency.mtu) {
        return false;
    }
    slot.adjacency = decision.adjacency;
    slot.rule = flows.rule(flow);
    let is_translated = flows.is_translated(flow);
    slot.is_translated = is_translated;
    slot.is_plain = !is_translated;
    flows.touch(flow, slot.packet.len() as u32, slot.tcp_flags, now);
    true
}
