//! Stage: frames out, and every fate counted, once.
//!
//! Assumes: slots with their last verdict. Leaves: an empty burst. A packet goes to a queue of this worker, to the
//! worker that owns its way out, to control, or back to the free frames.
//! Drops: `transmit_ring_full`, `handoff_ring_full`, `punt_ring_full`, `interface_down`.

use crate::burst::{Burst, DropReason, Slot, Verdict};
use crate::flow::Key;
use crate::handoff::{Incoming, Lane, Outgoing};
use crate::interfaces::Interfaces;
use crate::io::Queue;
use crate::io::umem::Umem;
use crate::packet::Packet;
use crate::stats::counters::Counters;
use crate::stats::record::{RecordKind, Recorder};
use crate::table::{InterfaceIndex, Tables, WorkerIndex};

/// Where packets go that do not leave by a queue of this worker.
pub struct Exits<'a> {
    /// Who sends.
    pub worker: WorkerIndex,
    /// To each worker; the way to oneself stays empty.
    pub handoff: &'a mut [Outgoing],
    pub punt: &'a Lane,
    /// None: nothing is recorded.
    pub records: Option<&'a mut Recorder>,
    /// Of the tables that decided.
    pub generation: u32,
}

/// Most packets taken from one other worker in one breath.
const HANDIN_BUDGET: usize = 256;

pub fn burst<Q: Queue>(
    burst: &mut Burst,
    interfaces: &mut Interfaces<Q>,
    umem: &mut Umem,
    tables: &Tables,
    exits: &mut Exits<'_>,
    counters: &Counters,
) {
    for mut slot in burst.slots.drain(..) {
        let egress = match slot.verdict {
            Verdict::Forward => tables.adjacency(slot.adjacency).map(|adjacency| adjacency.interface),
            Verdict::Respond(_) => Some(slot.ingress),
            Verdict::Punt(_) => {
                if exits.punt.send(slot.ingress, umem.segments(&slot.packet)) {
                    counters.punted.add(1);
                    note(&slot, exits, counters);
                    umem.free(slot.packet);
                    continue;
                }
                slot.drop(DropReason::PuntRingFull);
                None
            }
            Verdict::Drop(_) => None,
        };
        let Some(egress) = egress else {
            discard(slot, umem, exits, counters);
            continue;
        };
        if let Some(attached) = interfaces.to_send(egress) {
            let length = slot.packet.len() as u64;
            let is_answer = matches!(slot.verdict, Verdict::Respond(_));
            let Slot { packet, .. } = slot;
            match attached.queue.send(umem, packet) {
                Ok(()) => {
                    if is_answer {
                        counters.answered.add(1)
                    } else {
                        counters.sent.add(1)
                    }
                    let interface = counters.interface(egress);
                    interface.sent_packets.add(1);
                    interface.sent_bytes.add(length);
                    if !slot.log.is_none() {
                        let kind = RecordKind { reason: None, rule: slot.rule, log: slot.log, ingress: slot.ingress };
                        keep(kind, &slot.key, exits, counters);
                    }
                }
                Err(packet) => {
                    slot.packet = packet;
                    slot.drop(DropReason::TransmitRingFull);
                    discard(slot, umem, exits, counters);
                }
            }
            continue;
        }
        hand_off(slot, egress, umem, tables, exits, counters);
    }
}

fn hand_off(
    mut slot: Slot,
    egress: InterfaceIndex,
    umem: &mut Umem,
    tables: &Tables,
    exits: &mut Exits<'_>,
    counters: &Counters,
) {
    // What is this worker's own has no queue: it is gone.
    let owner = tables.interface(egress).map(|interface| interface.owner).filter(|owner| *owner != exits.worker);
    // Only the bytes go over.
    let offload = std::mem::take(&mut slot.packet.offload);
    umem.finish_checksum(&slot.packet, slot.packet.len(), offload);
    let lane = owner.and_then(|owner| exits.handoff.get_mut(owner.index()));
    match lane.map(|lane| lane.send(egress, umem.segments(&slot.packet))) {
        Some(true) => {
            counters.handed_off.add(1);
            note(&slot, exits, counters);
            umem.free(slot.packet);
        }
        Some(false) => {
            slot.drop(DropReason::HandoffRingFull);
            discard(slot, umem, exits, counters);
        }
        None => {
            slot.drop(DropReason::InterfaceDown);
            discard(slot, umem, exits, counters);
        }
    }
}

/// Sends what other workers handed over. Their packets are finished: nothing is decided here.
pub fn handed_in<Q: Queue>(
    lanes: &mut [Incoming],
    interfaces: &mut Interfaces<Q>,
    umem: &mut Umem,
    counters: &Counters,
) -> usize {
    let mut taken = 0;
    for lane in lanes {
        for _ in 0..HANDIN_BUDGET {
            let Some((packet, egress)) = lane.receive(|interface, pieces| (umem.copy_in(pieces), interface)) else {
                break;
            };
            taken += 1;
            counters.handed_in.add(1);
            let interface = counters.interface(egress);
            match send_one(packet, egress, interfaces, umem) {
                Ok(length) => {
                    counters.sent.add(1);
                    interface.sent_packets.add(1);
                    interface.sent_bytes.add(length);
                }
                Err(reason) => {
                    counters.dropped[reason as usize].add(1);
                    interface.dropped[reason as usize].add(1);
                }
            }
        }
    }
    taken
}

fn send_one<Q: Queue>(
    packet: Option<Packet>,
    egress: InterfaceIndex,
    interfaces: &mut Interfaces<Q>,
    umem: &mut Umem,
) -> Result<u64, DropReason> {
    let packet = packet.ok_or(DropReason::FramesExhausted)?;
    let Some(attached) = interfaces.to_send(egress) else {
        umem.free(packet);
        return Err(DropReason::InterfaceDown);
    };
    let length = packet.len() as u64;
    attached.queue.send(umem, packet).map_err(|packet| {
        umem.free(packet);
        DropReason::TransmitRingFull
    })?;
    Ok(length)
}

/// The end of a dropped packet.
fn discard(slot: Slot, umem: &mut Umem, exits: &mut Exits<'_>, counters: &Counters) {
    if let Verdict::Drop(reason) = slot.verdict {
        counters.dropped[reason as usize].add(1);
        counters.interface(slot.ingress).dropped[reason as usize].add(1);
        if reason.is_policy() {
            counters.rule(slot.rule).add(1);
        }
    }
    note(&slot, exits, counters);
    umem.free(slot.packet);
}

fn note(slot: &Slot, exits: &mut Exits<'_>, counters: &Counters) {
    if let Some(kind) = RecordKind::of(slot) {
        keep(kind, &slot.key, exits, counters);
    }
}

fn keep(kind: RecordKind, key: &Key, exits: &mut Exits<'_>, counters: &Counters) {
    let generation = exits.generation;
    if exits.records.as_deref_mut().is_some_and(|records| !records.keep(kind, key, generation)) {
        counters.records_lost.add(1);
    }
}
