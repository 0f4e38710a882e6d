//! Stage: may this flow be?
//!
//! Assumes: routed slots. Leaves: only packets of known flows, and first packets of flows that both the sender's egress
//! policy and the receiver's ingress policy allow, with the rule that did. A fragment that is not the first has been
//! judged with its first; an ICMP error with the flow it is about.
//! Drops: `policy_egress`, `policy_ingress`, each with its rule.

use crate::burst::{Burst, DropReason, Fragment, Slot};
use crate::flow::table::Direction;
use crate::flow::{FlowTable, Key};
use crate::table::acl::{Decision, Outcome, Question};
use crate::table::interface::InterfaceKind;
use crate::table::{InterfaceIndex, PolicyChange, Tables};

pub fn burst(burst: &mut Burst, flows: &FlowTable, tables: &Tables) {
    for slot in burst.forward() {
        let egress = tables.adjacency(slot.adjacency).map_or(slot.ingress, |adjacency| adjacency.interface);
        match slot.flow {
            // Decided with its first, which may be in this burst: `remember` sees to it that there is one.
            None if slot.fragment == Fragment::Later => {}
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

fn judge(slot: &mut Slot, key: Key, from: InterfaceIndex, to: InterfaceIndex, tables: &Tables) {
    // Probes from the host to its own workloads are not policed.
    if tables.interface(from).is_some_and(|interface| interface.kind == InterfaceKind::Host) {
        return;
    }
    let question = Question {
        source: key.source,
        destination: key.destination,
        is_ipv4: key.is_ipv4(),
        protocol: key.protocol,
        source_port: if key.icmp().is_some() { 0 } else { key.source_port },
        destination_port: if key.icmp().is_some() { 0 } else { key.destination_port },
        icmp: key.icmp(),
    };
    let classes = tables.policy.classify(&question);
    let endpoint = |index| tables.interface(index).and_then(|interface| tables.endpoint_of(interface));
    let sides = [
        (endpoint(from).map(|endpoint| endpoint.egress), DropReason::PolicyEgress),
        (endpoint(to).map(|endpoint| endpoint.ingress), DropReason::PolicyIngress),
    ];
    for (program, reason) in sides {
        let Some(program) = program else { continue };
        let Decision { outcome, rule, log } = tables.policy.evaluate(program, &classes);
        slot.rule = rule;
        if slot.log.is_none() {
            slot.log = log;
        }
        if outcome != Outcome::Allow {
            slot.drop(reason);
            return;
        }
    }
}
