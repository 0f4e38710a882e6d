//! Stage: remember what was decided.
//!
//! Assumes: slots that passed policy. Leaves: new flows in the flow table, known flows with their way out up to date,
//! and for a first fragment an entry that its followers will find.
//! Drops: `flow_table_full`, `flow_quota`, `source_ports_exhausted`; a flow that cannot be remembered may not begin, since its replies would be dropped.
//! `fragment_without_first`, and what `classify` drops, for fragments that came in one burst with their first or have none.

use crate::burst::{Burst, DropReason, Fragment, Slot};
use crate::flow::translation::Translated;
use crate::flow::writer::{InsertError, NewFlow};
use crate::flow::{FlowHandle, FlowWriter, Key, Seconds};
use crate::header::tcp;
use crate::stage::{classify, parse, translate};
use crate::table::interface::InterfaceKind;
use crate::table::{InterfaceIndex, Tables};

#[inline(never)]
pub fn burst(burst: &mut Burst, flows: &mut FlowWriter, tables: &Tables, now: Seconds) {
    let stamp = burst.stamp;
    // What entering a flow will touch is on its way before the first is entered.
    burst.undecided(|slot| {
        if slot.flow.is_none() && !slot.is_untracked {
            flows.expect(&slot.key);
        }
    });
    burst.undecided(|slot| {
        match slot.flow {
            Some(handle) if slot.stale && !slot.is_icmp_error => {
                flows.table().set_way_out(handle, slot.adjacency, stamp);
            }
            Some(_) => {}
            // Nothing is kept of what was allowed without state.
            None if slot.is_untracked => {}
            None if slot.fragment == Fragment::Later => classify::follow_first(slot, flows.table(), tables, stamp, now),
            // The end of a flow that we do not know is not the beginning of one.
            None if slot.tcp_flags & tcp::RST != 0 => {}
            None if slot.is_translated => enter_translated(slot, flows, (tables, stamp), now),
            None => {
                enter(slot, (slot.key, slot.hash), Translated::No, flows, (tables, stamp), now);
            }
        }
        if slot.fragment == Fragment::First && !classify::is_given(slot, tables) {
            let key = parse::fragment_key(slot);
            let hash = flows.table().hash(&key);
            let replacement = slot.flow.filter(|_| slot.is_translated).and_then(|flow| flows.table().replacement(flow));
            let translated = replacement.map_or(Translated::No, |with| Translated::Fragment(with.end, with.address));
            enter(slot, (key, hash), translated, flows, (tables, stamp), now);
        }
    });
}

/// One after the other: what was entered just now has its port.
#[cold]
#[inline(never)]
fn enter_translated(slot: &mut Slot, flows: &mut FlowWriter, (tables, stamp): (&Tables, u32), now: Seconds) {
    let Some(translation) = translate::choose(slot, flows, tables) else {
        return slot.drop(DropReason::SourcePortsExhausted);
    };
    let translated = Translated::Flow(translation);
    // `rewrite` asks it what to write.
    slot.flow = enter(slot, (slot.key, slot.hash), translated, flows, (tables, stamp), now);
    slot.is_translated = slot.flow.is_some_and(|flow| flows.table().is_translated(flow));
    slot.is_plain = false;
}

fn enter(
    slot: &mut Slot,
    (key, hash): (Key, u64),
    translated: Translated,
    flows: &mut FlowWriter,
    (tables, stamp): (&Tables, u32),
    now: Seconds,
) -> Option<FlowHandle> {
    let egress = tables.adjacency(slot.adjacency).map_or(slot.ingress, |adjacency| adjacency.interface);
    let new = NewFlow {
        key,
        hash,
        ingress: slot.ingress,
        egress,
        charged: charged(slot.ingress, egress, tables),
        adjacency: slot.adjacency,
        generation: stamp,
        rule: slot.rule,
        tcp_flags: slot.tcp_flags,
        bytes: slot.packet.len() as u32,
        covered: if slot.fragment == Fragment::First { slot.fragment_len } else { 0 },
        translated,
    };
    match flows.insert(&new, now) {
        Ok(flow) => return Some(flow),
        Err(InsertError::Full) => slot.drop(DropReason::FlowTableFull),
        Err(InsertError::Quota) => slot.drop(DropReason::FlowQuota),
    }
    None
}

/// Whose quota a flow counts against: the sender's, but an uplink sends for everybody, so then the receiver's.
fn charged(ingress: InterfaceIndex, egress: InterfaceIndex, tables: &Tables) -> InterfaceIndex {
    let is_uplink = tables.interface(ingress).is_some_and(|interface| interface.kind == InterfaceKind::Uplink);
    if is_uplink { egress } else { ingress }
}
