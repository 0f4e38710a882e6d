//! Stage: frames in.
//!
//! Gathers from all interfaces of the worker that have packets, so that many quiet endpoints together fill one burst; what
//! there is room for is shared out by `Interfaces::share`. Then come packets that control injects; they pass all stages as if
//! they had arrived by their interface.
//! Leaves: slots with packet and ingress interface.

use crate::burst::{Burst, Slot};
use crate::handoff::Lane;
use crate::interfaces::Interfaces;
use crate::io::Queue;
use crate::io::umem::Umem;
use crate::mapped::prefetch;
use crate::packet::Packet;
use crate::pipeline::Now;
use crate::stats::counters::Counters;

/// Most injected packets in one breath.
const INJECT_BUDGET: usize = 8;

pub fn burst<Q: Queue>(
    burst: &mut Burst,
    interfaces: &mut Interfaces<Q>,
    umem: &mut Umem,
    inject: &Lane,
    received: &mut Vec<Packet>,
    now: Now,
    counters: &Counters,
) {
    interfaces.look(now);
    interfaces.share(burst.room(), |attached, budget| {
        attached.queue.receive(umem, budget, received);
        let count = received.len();
        if count == 0 {
            return 0;
        }
        let interface = counters.interface(attached.interface);
        counters.received.add(count as u64);
        interface.received_packets.add(count as u64);
        for packet in received.iter() {
            // The kernel wrote it on another core; by the time `parse` comes to it, it is here.
            if let Some(first) = umem.data(packet).first() {
                prefetch(first);
            }
        }
        for packet in received.drain(..) {
            interface.received_bytes.add(packet.len() as u64);
            burst.slots.push(Slot::new(packet, attached.interface));
        }
        count
    });
    for _ in 0..INJECT_BUDGET.min(burst.room()) {
        let taken = inject.receive(|buffer| (umem.copy_in([buffer.bytes()]), buffer.interface));
        match taken {
            Some((Some(packet), interface)) => {
                counters.injected.add(1);
                burst.slots.push(Slot::new(packet, interface));
            }
            Some((None, _)) => {
                counters.injected.add(1);
                counters.dropped[crate::burst::DropReason::FramesExhausted as usize].add(1);
            }
            None => break,
        }
    }
}
