//! Stage: may this flow be?
//!
//! Assumes: routed slots. Leaves: only packets of known flows, and first packets of flows that everybody on the way
//! allows, with the rule that did. A fragment that is not the first has been judged with its first; an ICMP error with
//! the flow it is about.
//!
//! Who is on the way, and in which order they are asked, is `lists.rs`. The untracked lists keep no state and are asked
//! about every packet, those of known flows included.
//! Drops: those of which [`DropReason::is_policy`] is true, each with its rule; `workload_vxlan`, `workload_ipip`;
//! `icmp_error_unmatched` for an error that passes to or from the host and that no untracked list allowed.

use std::ops::ControlFlow;

use crate::burst::{Burst, DropReason, Fragment, Passage, Slot};
use crate::flow::table::Direction;
use crate::flow::{FlowHandle, FlowTable, Key};
use crate::stage::lists::{self, End, Step, Way};
use crate::table::acl::{Decision, Outcome, Question};
use crate::table::interface::InterfaceKind;
use crate::table::{InterfaceIndex, PolicyChange, Tables};

#[inline(never)]
pub fn burst(burst: &mut Burst, flows: &FlowTable, tables: &Tables) {
    burst.undecided(|slot| {
        if slot.is_untracked || !goes_on(slot, tables) {
            return;
        }
        let egress = tables.adjacency(slot.adjacency).map_or(slot.ingress, |adjacency| adjacency.interface);
        match slot.flow {
            // Decided with its first, which may be in this burst: `remember` sees to it that there is one.
            None if slot.fragment == Fragment::Later => {}
            None if slot.is_orphan() => slot.drop(DropReason::IcmpErrorUnmatched),
            None => judge(slot, slot.key, slot.ingress, egress, tables),
            // Decided with the first fragment, or with the flow it is about.
            Some(_) if slot.fragment == Fragment::Later || slot.is_icmp_error => {}
            Some(handle) if slot.opens_connection() => {
                judge(slot, key_inside(slot, handle, flows), slot.ingress, egress, tables);
            }
            // Decided under older tables, and the setting says to decide again: as its first packet was.
            Some(handle) if slot.stale && tables.policy_change == PolicyChange::Reevaluate => {
                let (from, to) = match handle.direction() {
                    Direction::Forward => (slot.ingress, egress),
                    Direction::Reverse => (egress, slot.ingress),
                };
                judge(slot, flows.key(handle), from, to, tables);
            }
            Some(_) => {}
        }
    });
}

/// A packet of a known flow as the workloads see it.
fn key_inside(slot: &Slot, handle: FlowHandle, flows: &FlowTable) -> Key {
    match handle.direction() {
        _ if !slot.is_translated => slot.key,
        Direction::Forward => flows.key(handle),
        Direction::Reverse => flows.key(handle).reversed(),
    }
}

/// Asks the list that keeps no state. False: the packet is decided.
fn goes_on(slot: &mut Slot, tables: &Tables) -> bool {
    let at = match slot.passage {
        Passage::FromHost(uplink) => uplink,
        Passage::ToHost | Passage::None => slot.ingress,
    };
    let endpoint = tables.interface(at).and_then(|interface| tables.host_endpoint_of(interface));
    let Some(endpoint) = endpoint.filter(|_| slot.fragment != Fragment::Later) else { return true };
    if endpoint.untracked_ingress.is_none() && endpoint.untracked_egress.is_none() {
        return true;
    }
    let packet = question(&slot.key);
    let uplink = End::Uplink(Some(endpoint));
    let (from, to) = match slot.passage {
        Passage::None => (uplink, End::Workload(None)),
        Passage::ToHost => (uplink, End::Host),
        Passage::FromHost(_) => (stack(slot.key.source, tables), uplink),
    };
    let way = Way { from, to, before: &packet, packet: &packet };
    let Some(Step::Ask(list, program)) = lists::untracked(&way, tables) else { return true };
    let decision = tables.policy.evaluate(program, &tables.policy.classify(&packet));
    note(slot, &decision);
    if list.stops_at(decision.outcome) {
        slot.drop(list.drop_reason());
        return false;
    }
    // What is only forwarded is still asked for its other lists, and tracked.
    slot.is_untracked = decision.outcome == Outcome::Allow && slot.passage != Passage::None;
    !slot.is_untracked
}

fn judge(slot: &mut Slot, key: Key, from: InterfaceIndex, to: InterfaceIndex, tables: &Tables) {
    let packet = question(&key);
    let Some((from, to)) = ends(slot.is_group, &packet, from, to, tables) else { return };
    let way = Way { from, to, before: &packet, packet: &packet };
    let mut classes = None;
    let _ended = lists::tracked(&way, tables, |step| match step {
        Step::Open(_) => ControlFlow::Continue(()),
        Step::Refuse(reason) => {
            slot.drop(reason);
            ControlFlow::Break(())
        }
        Step::Ask(list, program) => {
            let classes = classes.get_or_insert_with(|| tables.policy.classify(&packet));
            let decision = tables.policy.evaluate(program, classes);
            note(slot, &decision);
            if !list.stops_at(decision.outcome) {
                return ControlFlow::Continue(());
            }
            slot.drop(list.drop_reason());
            ControlFlow::Break(())
        }
    });
}

/// The ends of a packet's way between two interfaces. A group address of layer 2 is for the host itself.
pub fn ends<'a>(
    is_group: bool,
    packet: &Question,
    from: InterfaceIndex,
    to: InterfaceIndex,
    tables: &'a Tables,
) -> Option<(End<'a>, End<'a>)> {
    let end = |index, is_hosts: &dyn Fn() -> bool| {
        let interface = tables.interface(index)?;
        Some(match interface.kind {
            InterfaceKind::Workload => End::Workload(tables.endpoint_of(interface)),
            InterfaceKind::Uplink => End::Uplink(tables.host_endpoint_of(interface)),
            InterfaceKind::Host if is_hosts() => End::Host,
            InterfaceKind::Host => End::Kernel,
        })
    };
    let from = end(from, &|| lists::is_hosts(packet.source, tables))?;
    let to = end(to, &|| is_group || lists::is_hosts(packet.destination, tables))?;
    Some((from, to))
}

/// The host's stack: its processes, or its kernel that forwards.
fn stack<'a>(address: u128, tables: &Tables) -> End<'a> {
    if lists::is_hosts(address, tables) { End::Host } else { End::Kernel }
}

fn note(slot: &mut Slot, decision: &Decision) {
    if decision.outcome != Outcome::Undecided {
        slot.rule = decision.rule;
    }
    if slot.log.is_none() {
        slot.log = decision.log;
    }
}

/// What rules look at in a packet of this key.
pub fn question(key: &Key) -> Question {
    let icmp = key.icmp();
    Question {
        source: key.source,
        destination: key.destination,
        is_ipv4: key.is_ipv4(),
        protocol: key.protocol,
        source_port: if icmp.is_some() { 0 } else { key.source_port },
        destination_port: if icmp.is_some() { 0 } else { key.destination_port },
        icmp,
    }
}
