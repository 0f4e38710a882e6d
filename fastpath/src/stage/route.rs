//! Stage: the way out.
//!
//! Assumes: classified slots. Leaves: an adjacency that exists and is up, with TTL to spare and room for the packet; or
//! an answer, a punt, a drop. A known flow keeps its recorded way unless the tables have changed.
//! Drops: no route, blackhole, own host, interface gone, between uplinks.
//! Sources: RFC 1812 §5.2 and §5.3.1, RFC 1191 §3, RFC 8201 §4.

use crate::burst::{Answer, Burst, DropReason, Fragment, PuntReason, Slot, Verdict};
use crate::flow::FlowTable;
use crate::table::Tables;
use crate::table::adjacency::{Adjacency, AdjacencyKind};
use crate::table::interface::InterfaceKind;

pub fn burst(burst: &mut Burst, flows: &FlowTable, tables: &Tables) {
    for slot in burst.forward() {
        if slot.flow.is_none() || slot.stale {
            slot.adjacency = tables.route(slot.key.destination, slot.key.is_ipv4());
        }
        if let Err(verdict) = way_out(slot, flows, tables) {
            slot.verdict = verdict;
        }
    }
}

fn way_out(slot: &mut Slot, flows: &FlowTable, tables: &Tables) -> Result<(), Verdict> {
    let Some(adjacency) = tables.adjacency(slot.adjacency) else {
        return Err(Verdict::Respond(Answer::Unreachable));
    };
    match adjacency.kind {
        AdjacencyKind::Forward | AdjacencyKind::Host => {}
        AdjacencyKind::Unresolved => return Err(Verdict::Punt(PuntReason::Resolve)),
        AdjacencyKind::Unreachable => return Err(Verdict::Respond(Answer::HostUnreachable)),
        AdjacencyKind::Blackhole => return Err(Verdict::Drop(DropReason::Blackhole)),
    }
    let (Some(ingress), Some(egress)) = (tables.interface(slot.ingress), tables.interface(adjacency.interface)) else {
        return Err(Verdict::Drop(DropReason::InterfaceDown));
    };
    if !egress.is_up {
        return Err(Verdict::Drop(DropReason::InterfaceDown));
    }
    match (ingress.kind, egress.kind) {
        (InterfaceKind::Uplink, InterfaceKind::Uplink) => return Err(Verdict::Drop(DropReason::NotLocal)),
        // A reply to what the host itself began is not a request to the host.
        (InterfaceKind::Workload, InterfaceKind::Host)
            if slot.flow.is_none() && slot.fragment != Fragment::Later && !tables.endpoint_to_host =>
        {
            return Err(Verdict::Drop(DropReason::EndpointToHost));
        }
        _ => {}
    }
    follow(slot, adjacency, flows, tables)?;
    if slot.ttl <= 1 {
        return Err(Verdict::Respond(Answer::TimeExceeded));
    }
    if slot.l3_len > u32::from(adjacency.mtu) {
        // Fragmenting is left to the sender in both families: it learns the MTU once and for good.
        return Err(Verdict::Respond(Answer::TooBig(adjacency.mtu)));
    }
    Ok(())
}

/// A flow whose way leads to another endpoint than the one that was asked may not go on: its address has a new owner.
fn follow(slot: &mut Slot, adjacency: &Adjacency, flows: &FlowTable, tables: &Tables) -> Result<(), Verdict> {
    let Some(handle) = slot.flow.filter(|_| slot.stale && !slot.is_icmp_error) else { return Ok(()) };
    let recorded = flows.egress(handle);
    let is_workload = |index| tables.interface(index).is_some_and(|i| i.kind == InterfaceKind::Workload);
    if adjacency.interface != recorded && (is_workload(recorded) || is_workload(adjacency.interface)) {
        return Err(Verdict::Drop(DropReason::FlowWrongInterface));
    }
    Ok(())
}
