//! Stage: another source for what leaves the node.
//!
//! Assumes: slots that passed policy, with their way out. Leaves: new flows that need another source marked; `remember` finds
//! a port for each, one after the other. Before `rewrite`, `apply` puts both into the packets of all translated flows.
//! Drops: `translation_impossible`. What should be translated and cannot be does not leave: its source means nothing outside,
//! and would tell what is inside.
//! Sources: RFC 4787 §4.1 for the choice of ports, RFC 6056 §3.3.3 for its seed.

use crate::burst::{Burst, DropReason, Fragment, Passage, Slot};
use crate::flow::translation::{SourceIndex, Translated, Translation};
use crate::flow::{FlowHandle, FlowTable, FlowWriter, KeyKind};
use crate::header::{protocol, tcp};
use crate::io::umem::Umem;
use crate::stage::rewrite;
use crate::table::Tables;
use crate::table::interface::{Interface, InterfaceKind};

mod ends;

/// Ports looked at to find one that is free.
const TRIED: u32 = 128;

#[inline(never)]
pub fn burst(burst: &mut Burst, flows: &FlowWriter, tables: &Tables) {
    burst.undecided(|slot| match slot.flow {
        Some(handle) if slot.is_translated && slot.stale => keep(slot, handle, flows, tables),
        Some(_) => {}
        None if tables.translations.sources.is_empty() => {}
        None => mark(slot, tables),
    });
}

/// A flow whose address the node has no more comes to an end; its next packet begins another.
fn keep(slot: &mut Slot, handle: FlowHandle, flows: &FlowWriter, tables: &Tables) {
    if let Translated::Flow(translation) = flows.table().translated(handle)
        && !tables.translations.is_in_use(translation.source)
    {
        flows.table().end(handle);
        slot.drop(DropReason::TranslationImpossible);
    }
}

/// Puts the address and port of the flow's other side into packets. Nothing is looked at as long as no flow has ever been
/// translated.
#[inline(never)]
pub fn apply(burst: &mut Burst, umem: &mut Umem, flows: &FlowTable, tables: &Tables) {
    if flows.sources().is_empty() {
        return;
    }
    for slot in burst.forward().filter(|slot| slot.is_translated) {
        let is_from_uplink = tables.interface(slot.ingress).is_some_and(|i| i.kind == InterfaceKind::Uplink);
        // A partial checksum is known by what it is about, so before that changes.
        rewrite::finish(slot, umem, is_from_uplink);
        let replacement = slot.flow.and_then(|flow| flows.replacement(flow));
        if replacement.and_then(|with| ends::replace(slot, umem.data_mut(&slot.packet), with)).is_none() {
            slot.drop(DropReason::TranslationImpossible);
        }
    }
}

fn mark(slot: &mut Slot, tables: &Tables) {
    // What follows a first fragment goes its way.
    if slot.is_untracked || slot.passage != Passage::None || slot.fragment == Fragment::Later {
        return;
    }
    if !is_wanted(slot, tables) {
        return;
    }
    slot.is_translated = is_translatable(slot) && source(slot, tables).is_some();
    if !slot.is_translated {
        slot.drop(DropReason::TranslationImpossible);
    }
}

/// True when a flow that begins with this packet needs another source.
fn is_wanted(slot: &Slot, tables: &Tables) -> bool {
    let is_from_workload = tables.interface(slot.ingress).is_some_and(|i| i.kind == InterfaceKind::Workload);
    let leaves = egress(slot, tables).is_some_and(|i| i.kind == InterfaceKind::Uplink);
    is_from_workload && leaves && tables.translations.applies(slot.key.source, slot.key.destination)
}

fn egress<'a>(slot: &Slot, tables: &'a Tables) -> Option<&'a Interface> {
    tables.interface(tables.adjacency(slot.adjacency)?.interface)
}

/// The address that stands for sources on the packet's way out.
pub fn source(slot: &Slot, tables: &Tables) -> Option<SourceIndex> {
    let [ipv4, ipv6] = egress(slot, tables)?.outside;
    if slot.key.is_ipv4() { ipv4 } else { ipv6 }
}

/// Answers have to be told apart by something. A reset is nobody's beginning.
fn is_translatable(slot: &Slot) -> bool {
    match slot.key.kind {
        KeyKind::Ports => {
            let has_ports = matches!(slot.key.protocol, protocol::TCP | protocol::UDP | protocol::UDPLITE);
            has_ports && slot.tcp_flags & tcp::RST == 0
        }
        KeyKind::EchoRequest => true,
        KeyKind::EchoReply | KeyKind::IcmpOther | KeyKind::Fragment => false,
    }
}

/// The address, and a port of this worker's under which nobody awaits answers from there. Equal keys begin to look at equal
/// places.
pub(super) fn choose(slot: &Slot, flows: &FlowWriter, tables: &Tables) -> Option<Translation> {
    let source = source(slot, tables)?;
    let (index, workers) = flows.share();
    let table = flows.table();
    let part = tables.translations.ports.part(index, workers)?;
    part.from(slot.hash >> 8, TRIED).map(|port| Translation { source, port }).find(|translation| {
        let answer = table.sources().answer(&slot.key, *translation);
        table.lookup(&answer, table.hash(&answer)).is_none()
    })
}
