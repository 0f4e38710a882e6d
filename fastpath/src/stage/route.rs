//! Stage: the way out.
//!
//! Assumes: classified slots. Leaves: an adjacency that exists and is up, with TTL to spare and room for the packet; or
//! an answer, a punt, a drop. A known flow keeps its recorded way unless the tables have changed.
//! A route that leads to a group becomes the way of one member here, by the flow; no stage after this one knows of groups.
//! Drops: no route, blackhole, own host, interface gone, between uplinks, no next hop of a group left.
//! Sources: RFC 1812 §5.2 and §5.3.1, RFC 1191 §3, RFC 8201 §4.

use crate::burst::{Answer, Burst, DropReason, Fragment, Passage, PuntReason, Slot, Verdict};
use crate::flow::FlowTable;
use crate::flow::translation::{End, Replacement};
use crate::stage::{lists, policy};
use crate::table::adjacency::{Adjacency, AdjacencyKind};
use crate::table::interface::InterfaceKind;
use crate::table::routes::Destination;
use crate::table::{AdjacencyIndex, InterfaceIndex, Tables};

#[inline(never)]
pub fn burst(burst: &mut Burst, flows: &FlowTable, tables: &Tables) {
    look_up(burst, flows, tables);
    burst.undecided(|slot| {
        match slot.passage {
            // The kernel has routed it, or will: there is one way, whatever was recorded.
            Passage::ToHost => slot.adjacency = passage(slot.ingress, tables)[0],
            Passage::FromHost(uplink) => slot.adjacency = passage(uplink, tables)[1],
            Passage::None => {}
        }
        if let Err(verdict) = way_out::<true>(slot, flows, tables) {
            slot.verdict = verdict;
        }
    });
}

/// All destinations that have to be looked up, at once: their waits for memory overlap.
fn look_up(burst: &mut Burst, flows: &FlowTable, tables: &Tables) {
    let is_asked = |slot: &Slot| slot.passage == Passage::None && (slot.flow.is_none() || slot.stale);
    let mut lookup = std::mem::take(&mut burst.lookup);
    lookup.destinations.clear();
    burst.undecided(|slot| {
        if is_asked(slot) {
            let destination = Destination { address: destination(slot, flows), is_ipv4: slot.key.is_ipv4() };
            lookup.destinations.push(destination);
        }
    });
    if !lookup.destinations.is_empty() {
        lookup.adjacencies.clear();
        lookup.adjacencies.resize(lookup.destinations.len(), AdjacencyIndex::NONE);
        tables.routes.lookup_burst(&lookup.destinations, &mut lookup.adjacencies);
        let mut adjacencies = lookup.adjacencies.iter();
        burst.undecided(|slot| {
            if is_asked(slot)
                && let Some(adjacency) = adjacencies.next()
            {
                slot.adjacency = *adjacency;
            }
        });
    }
    burst.lookup = lookup;
}

/// Where the packet will be for when it leaves.
#[inline(always)]
fn destination(slot: &Slot, flows: &FlowTable) -> u128 {
    if slot.is_translated { inside(slot, flows) } else { slot.key.destination }
}

#[cold]
#[inline(never)]
fn inside(slot: &Slot, flows: &FlowTable) -> u128 {
    match slot.flow.and_then(|flow| flows.replacement(flow)) {
        Some(Replacement { end: End::Destination, address, .. }) => address,
        _ => slot.key.destination,
    }
}

/// The ways to the host's stack and from there, of an uplink.
fn passage(uplink: InterfaceIndex, tables: &Tables) -> [AdjacencyIndex; 2] {
    let ways = tables.interface(uplink).map(|interface| [interface.to_host, interface.from_host]);
    ways.unwrap_or([AdjacencyIndex::NONE; 2])
}

/// A way by a group is that of a member, and no member is a choice itself: `MAY_CHOOSE` says that this is not a member yet.
/// Two functions, so that the one that all packets go through is still made in place.
fn way_out<const MAY_CHOOSE: bool>(slot: &mut Slot, flows: &FlowTable, tables: &Tables) -> Result<(), Verdict> {
    let Some(adjacency) = tables.adjacency(slot.adjacency) else {
        return Err(match slot.passage {
            // Not ours yet: a route of the snapshot that is being published.
            Passage::None if !slot.adjacency.is_none() => Verdict::Drop(DropReason::Blackhole),
            Passage::None => Verdict::Respond(Answer::Unreachable),
            Passage::ToHost | Passage::FromHost(_) => Verdict::Drop(DropReason::InterfaceDown),
        });
    };
    match adjacency.kind {
        AdjacencyKind::Forward | AdjacencyKind::Host => {}
        AdjacencyKind::Frame => return frame_out(slot, adjacency, flows, tables),
        AdjacencyKind::Unresolved => return Err(Verdict::Punt(PuntReason::Resolve)),
        AdjacencyKind::Unreachable => return Err(Verdict::Respond(Answer::HostUnreachable)),
        AdjacencyKind::Blackhole => return Err(Verdict::Drop(DropReason::Blackhole)),
        AdjacencyKind::Group if MAY_CHOOSE => return by_member(slot, adjacency, flows, tables),
        AdjacencyKind::Group => return Err(Verdict::Drop(DropReason::NextHopsGone)),
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
            if slot.flow.is_none() && slot.fragment != Fragment::Later && !may_reach_host(slot, tables) =>
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

/// Chooses among the members of a group. Once for a flow, and again when the tables have changed.
#[cold]
#[inline(never)]
fn by_member(slot: &mut Slot, choice: &Adjacency, flows: &FlowTable, tables: &Tables) -> Result<(), Verdict> {
    let member = choice.group().map_or(AdjacencyIndex::NONE, |group| tables.groups.pick(group, &slot.key));
    if member.is_none() {
        return Err(Verdict::Drop(DropReason::NextHopsGone));
    }
    slot.adjacency = member;
    way_out::<false>(slot, flows, tables)
}

/// Asked about few packets, and kept out of the way of all others.
#[cold]
#[inline(never)]
fn may_reach_host(slot: &Slot, tables: &Tables) -> bool {
    lists::may_reach_host(&policy::question(&slot.key), tables)
}

/// A frame that passes is not routed by us, so nobody is told why it could not.
fn frame_out(slot: &mut Slot, adjacency: &Adjacency, flows: &FlowTable, tables: &Tables) -> Result<(), Verdict> {
    if !tables.interface(adjacency.interface).is_some_and(|interface| interface.is_up) {
        return Err(Verdict::Drop(DropReason::InterfaceDown));
    }
    follow(slot, adjacency, flows, tables)?;
    if slot.l3_len > u32::from(adjacency.mtu) {
        return Err(Verdict::Drop(DropReason::TooBig));
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
