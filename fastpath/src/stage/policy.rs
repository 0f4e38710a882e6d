//! Stage: may this flow be?
//!
//! Assumes: routed slots. Leaves: only packets of known flows, and first packets of flows that everybody on the way
//! allows, with the rule that did. A fragment that is not the first has been judged with its first; an ICMP error with
//! the flow it is about.
//!
//! ```text
//!   uplink ─▶ untracked ─▶ preDNAT ─┬▶ forward ─▶ ingress of the workload ─▶ workload
//!                                   └▶ ingress of the host endpoint ─▶ host
//!   workload ─▶ tunnels ─▶ egress of the workload ─┬▶ ingress of the next workload
//!                                                  ├▶ forward ─▶ uplink
//!                                                  └▶ host
//!   host ─▶ untracked ─▶ egress of the host endpoint ─▶ uplink
//! ```
//!
//! The untracked lists keep no state and are asked about every packet, those of known flows included.
//! Drops: those of which [`DropReason::is_policy`] is true, each with its rule; `workload_vxlan`, `workload_ipip`;
//! `icmp_error_unmatched` for an error that passes to or from the host and that no untracked list allowed.
//! Sources: Calico's documentation of host endpoints and of failsafe ports.

use crate::burst::{Burst, DropReason, Fragment, Passage, Slot};
use crate::flow::table::Direction;
use crate::flow::{FlowTable, Key};
use crate::header::protocol;
use crate::table::acl::{Classes, Decision, Outcome, Question};
use crate::table::interface::{HostEndpoint, Interface, InterfaceKind};
use crate::table::{InterfaceIndex, PolicyChange, ProgramIndex, Tables};

pub fn burst(burst: &mut Burst, flows: &FlowTable, tables: &Tables) {
    for slot in burst.forward() {
        if slot.is_untracked || !goes_on(slot, tables) {
            continue;
        }
        let egress = tables.adjacency(slot.adjacency).map_or(slot.ingress, |adjacency| adjacency.interface);
        match slot.flow {
            // Decided with its first, which may be in this burst: `remember` sees to it that there is one.
            None if slot.fragment == Fragment::Later => {}
            None if slot.is_orphan => slot.drop(DropReason::IcmpErrorUnmatched),
            None => judge(slot, slot.key, slot.ingress, egress, tables),
            // Decided with the first fragment, or with the flow it is about.
            Some(_) if slot.fragment == Fragment::Later || slot.is_icmp_error => {}
            Some(_) if slot.reopens => judge(slot, slot.key, slot.ingress, egress, tables),
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
    }
}

/// ICMPv6 that keeps a link going, which a workload may always send to its host: multicast listeners, router
/// solicitations, neighbour discovery.
pub fn is_link_upkeep(key: &Key) -> bool {
    let is_icmpv6 = key.protocol == protocol::ICMPV6 && !key.is_ipv4();
    is_icmpv6 && key.icmp().is_some_and(|(kind, _)| matches!(kind, 130..=133 | 135 | 136))
}

/// Asks the lists that keep no state. False: the packet is decided.
fn goes_on(slot: &mut Slot, tables: &Tables) -> bool {
    let (at, is_inward) = match slot.passage {
        Passage::FromHost(uplink) => (uplink, false),
        Passage::ToHost | Passage::None => (slot.ingress, true),
    };
    let endpoint = tables.interface(at).and_then(|interface| tables.host_endpoint_of(interface));
    let Some(endpoint) = endpoint.filter(|_| slot.fragment != Fragment::Later) else { return true };
    let (program, reason) = match is_inward {
        true => (endpoint.untracked_ingress, DropReason::HostUntrackedIngress),
        // On the way out the list is for the host's own packets only.
        false if !is_hosts(slot.key.source, tables) => return true,
        false => (endpoint.untracked_egress, DropReason::HostUntrackedEgress),
    };
    // Where nothing is remembered, the answers of failsafe ports have to be let through by their ports.
    let (key, failsafes) = (&slot.key, &tables.failsafes);
    let (local_port, remote_port, remote) = match is_inward {
        true => (key.destination_port, key.source_port, key.source),
        false => (key.source_port, key.destination_port, key.destination),
    };
    let is_failsafe = failsafes.is_inbound(key.protocol, local_port, remote)
        || failsafes.is_outbound(key.protocol, remote_port, remote);
    if program.is_none() || is_failsafe {
        return true;
    }
    let classes = tables.policy.classify(&question(key));
    match ask(slot, program, &classes, reason, tables) {
        Outcome::Deny => false,
        // What is only forwarded is still asked for its other lists, and tracked.
        Outcome::Allow if slot.passage != Passage::None => {
            slot.is_untracked = true;
            false
        }
        Outcome::Allow | Outcome::Undecided => true,
    }
}

fn judge(slot: &mut Slot, key: Key, from: InterfaceIndex, to: InterfaceIndex, tables: &Tables) {
    let (Some(from), Some(to)) = (tables.interface(from), tables.interface(to)) else { return };
    match (from.kind, to.kind) {
        (InterfaceKind::Uplink, InterfaceKind::Host) => to_host(slot, &key, from, tables),
        (InterfaceKind::Host, InterfaceKind::Uplink) => from_host(slot, &key, to, tables),
        // Probes from the host to its own workloads are not policed. What its kernel forwards for others is.
        (InterfaceKind::Host, _) if is_hosts(key.source, tables) => {}
        (InterfaceKind::Workload, InterfaceKind::Host) if is_link_upkeep(&key) => {}
        _ => forwarded(slot, &key, from, to, tables),
    }
}

fn to_host(slot: &mut Slot, key: &Key, from: &Interface, tables: &Tables) {
    let Some(endpoint) = tables.host_endpoint_of(from) else { return };
    let classes = tables.policy.classify(&question(key));
    if is_denied_before(slot, key, endpoint, &classes, tables) {
        return;
    }
    // What the kernel forwards to others, say to a container of its own, is not for the host.
    if !slot.is_group && !is_hosts(key.destination, tables) {
        ask(slot, endpoint.forward_ingress, &classes, DropReason::HostForwardIngress, tables);
    } else if !tables.failsafes.is_inbound(key.protocol, key.destination_port, key.source) {
        require(slot, endpoint.ingress, &classes, DropReason::HostIngress, tables);
    }
}

fn from_host(slot: &mut Slot, key: &Key, to: &Interface, tables: &Tables) {
    let Some(endpoint) = tables.host_endpoint_of(to) else { return };
    let classes = tables.policy.classify(&question(key));
    if !is_hosts(key.source, tables) {
        ask(slot, endpoint.forward_egress, &classes, DropReason::HostForwardEgress, tables);
    } else if !tables.failsafes.is_outbound(key.protocol, key.destination_port, key.destination) {
        require(slot, endpoint.egress, &classes, DropReason::HostEgress, tables);
    }
}

fn forwarded(slot: &mut Slot, key: &Key, from: &Interface, to: &Interface, tables: &Tables) {
    let classes = tables.policy.classify(&question(key));
    if let Some(endpoint) = tables.host_endpoint_of(from) {
        let is_denied = is_denied_before(slot, key, endpoint, &classes, tables);
        let (program, reason) = (endpoint.forward_ingress, DropReason::HostForwardIngress);
        if is_denied || ask(slot, program, &classes, reason, tables) == Outcome::Deny {
            return;
        }
    }
    if let Some(reason) = forged_tunnel(key, tables).filter(|_| from.kind == InterfaceKind::Workload) {
        slot.drop(reason);
        return;
    }
    let sides = [
        (tables.endpoint_of(from).map(|endpoint| endpoint.egress), DropReason::PolicyEgress),
        (tables.endpoint_of(to).map(|endpoint| endpoint.ingress), DropReason::PolicyIngress),
    ];
    for (program, reason) in sides {
        if program.is_some_and(|program| !require(slot, program, &classes, reason, tables)) {
            return;
        }
    }
    if let Some(endpoint) = tables.host_endpoint_of(to) {
        ask(slot, endpoint.forward_egress, &classes, DropReason::HostForwardEgress, tables);
    }
}

/// The list that is asked before anybody knows where the packet goes; failsafe ports are open wherever they lead.
fn is_denied_before(slot: &mut Slot, key: &Key, of: &HostEndpoint, classes: &Classes, tables: &Tables) -> bool {
    !tables.failsafes.is_inbound(key.protocol, key.destination_port, key.source)
        && ask(slot, of.pre_dnat, classes, DropReason::HostPreDnat, tables) == Outcome::Deny
}

/// A workload that speaks as one of the node's own tunnels.
fn forged_tunnel(key: &Key, tables: &Tables) -> Option<DropReason> {
    let tunnels = &tables.workload_tunnels;
    match key.protocol {
        protocol::IPIP if tunnels.is_ipip_denied => Some(DropReason::WorkloadIpip),
        protocol::UDP if tunnels.vxlan_port == Some(key.destination_port) => Some(DropReason::WorkloadVxlan),
        _ => None,
    }
}

/// A program that has to allow. True if it did.
fn require(slot: &mut Slot, program: ProgramIndex, classes: &Classes, reason: DropReason, tables: &Tables) -> bool {
    let decision = tables.policy.evaluate(program, classes);
    note(slot, &decision);
    if decision.outcome != Outcome::Allow {
        slot.drop(reason);
    }
    decision.outcome == Outcome::Allow
}

/// A program that may deny, if there is one.
fn ask(slot: &mut Slot, program: ProgramIndex, classes: &Classes, reason: DropReason, tables: &Tables) -> Outcome {
    if program.is_none() {
        return Outcome::Undecided;
    }
    let decision = tables.policy.evaluate(program, classes);
    note(slot, &decision);
    if decision.outcome == Outcome::Deny {
        slot.drop(reason);
    }
    decision.outcome
}

fn note(slot: &mut Slot, decision: &Decision) {
    if decision.outcome != Outcome::Undecided {
        slot.rule = decision.rule;
    }
    if slot.log.is_none() {
        slot.log = decision.log;
    }
}

/// True for the host's own addresses, and for those that never leave a link.
fn is_hosts(address: u128, tables: &Tables) -> bool {
    const BROADCAST: u128 = crate::flow::mapped(u32::MAX);
    const UNSPECIFIED: u128 = crate::flow::mapped(0);
    let is_multicast = address >> 120 == 0xff || address >> 28 == crate::flow::mapped(0xe000_0000) >> 28;
    let is_special = address <= 1 || address == UNSPECIFIED || address == BROADCAST;
    is_special || is_multicast || super::admit::is_link_local(address) || tables.is_own(address)
}

fn question(key: &Key) -> Question {
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
