//! Stage: remember what was decided.
//!
//! Assumes: slots that passed policy. Leaves: new flows in the flow table, known flows with their way out up to date,
//! and for a first fragment an entry that its followers will find.
//! Drops: `flow_table_full`, `flow_quota`; a flow that cannot be remembered may not begin, since its replies would be dropped.
//! `fragment_without_first`, and what `classify` drops, for fragments that came in one burst with their first or have none.

use crate::burst::{Burst, DropReason, Fragment, Slot};
use crate::flow::writer::{InsertError, NewFlow};
use crate::flow::{FlowWriter, Key, Seconds};
use crate::header::tcp;
use crate::stage::{classify, parse};
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
            None => enter(slot, slot.key, slot.hash, flows, (tables, stamp), now),
        }
        if slot.fragment == Fragment::First {
            let key = parse::fragment_key(slot);
            let hash = flows.table().hash(&key);
            enter(slot, key, hash, flows, (tables, stamp), now);
        }
    });
}

fn enter(slot: &mut Slot, key: Key, hash: u64, flows: &mut FlowWriter, (tables, stamp): (&Tables, u32), now: Seconds) {
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
    };
    match flows.insert(&new, now) {
        Ok(_) => {}
        Err(InsertError::Full) => slot.drop(DropReason::FlowTableFull),
        Err(InsertError::Quota) => slot.drop(DropReason::FlowQuota),
    }
}

/// Whose quota a flow counts against: the sender's, but an uplink sends for everybody, so then the receiver's.
fn charged(ingress: InterfaceIndex, egress: InterfaceIndex, tables: &Tables) -> InterfaceIndex {
    let is_uplink = tables.interface(ingress).is_some_and(|interface| interface.kind == InterfaceKind::Uplink);
    if is_uplink { egress } else { ingress }
}
