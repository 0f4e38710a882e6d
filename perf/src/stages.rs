//! Bursts through the stages on one core, for whoever measures them: by the clock or by counting instructions.

use std::time::Instant;

use fastpath::burst::{BURST, Burst, Slot, Verdict};
use fastpath::flow::{FlowTable, FlowWriter, mapped};
use fastpath::header::{build, ethernet, ipv6, protocol};
use fastpath::io::umem::Umem;
use fastpath::pipeline::{Now, Pipeline, Stage};
use fastpath::rcu::Publisher;
use fastpath::table::Tables;

use crate::frames;
use crate::tables::{self, A, A_IPV6, A_MAC, B_IPV6, ROUTER_MAC};

pub(crate) const STAGES: [Stage; 10] = [
    Stage::Parse,
    Stage::Recall,
    Stage::Admit,
    Stage::Classify,
    Stage::Route,
    Stage::Policy,
    Stage::Translate,
    Stage::Remember,
    Stage::Respond,
    Stage::Rewrite,
];

/// 192.0.2.1: what stands for translated sources.
const OUTSIDE: u32 = 0xc000_0201;

/// Smallest Ethernet frame without its checksum.
pub(crate) const SHORT: usize = 60;

/// Pipeline, tables and frames, and a clock that stands still.
pub(crate) struct Bench {
    pipeline: Pipeline,
    tables: Tables,
    umem: Umem,
    burst: Burst,
    frame: Vec<u8>,
    /// Its grace periods are what flows are freed by.
    _publisher: Publisher<()>,
}

/// Time of a burst, in all and by stage.
pub(crate) struct Burst256 {
    pub(crate) nanoseconds: u64,
    pub(crate) stages: [u64; STAGES.len()],
}

impl Bench {
    pub(crate) fn new(tables: Tables, flow_capacity: usize, frame: Vec<u8>) -> Bench {
        let publisher = Publisher::new(());
        let table = FlowTable::new(flow_capacity as u32);
        Bench {
            pipeline: Pipeline::new(FlowWriter::new(table, 0, 1, publisher.grace()).with_quota(u32::MAX)),
            tables,
            umem: Umem::heap(2048, 2 * BURST),
            burst: Burst::with_capacity(),
            frame,
            _publisher: publisher,
        }
    }

    /// The same, where the source of what goes from A to B is translated: B is an uplink.
    pub(crate) fn translating(mut self) -> Bench {
        let number = self.pipeline.flows.table().sources().add(mapped(OUTSIDE));
        tables::translate(&mut self.tables, number.map(|number| (mapped(OUTSIDE), number)));
        self
    }

    /// Passes a burst of packets of these flows and checks that all were forwarded.
    pub(crate) fn pass(&mut self, by_stage: bool, mut flow: impl FnMut() -> u32) -> Burst256 {
        let (burst, umem) = (&mut self.burst, &mut self.umem);
        for _ in 0..BURST {
            let Some(packet) = umem.copy_in([self.frame.as_slice()]) else { break };
            write_flow(umem.data_mut(&packet), flow());
            burst.slots.push(Slot::new(packet, A));
        }
        let count = burst.slots.len();
        assert_eq!(count, BURST, "frames for a burst");
        let mut stages = [0; STAGES.len()];
        let start = Instant::now();
        if by_stage {
            let mut last = start;
            self.pipeline.run(burst, umem, &self.tables, Now(1), |stage, _, _| {
                let now = Instant::now();
                stages[stage as usize] = (now - last).as_nanos() as u64;
                last = now;
            });
        } else {
            measured(&mut self.pipeline, burst, umem, &self.tables);
        }
        let nanoseconds = start.elapsed().as_nanos() as u64;
        for slot in burst.slots.drain(..) {
            assert_eq!(slot.verdict, Verdict::Forward, "a packet of the measurement was not forwarded");
            umem.free(slot.packet);
        }
        Burst256 { nanoseconds, stages }
    }
}

impl Bench {
    /// The same tables, newer: every recorded decision is to be found again.
    pub(crate) fn renew(&mut self) {
        self.tables.generation += 1;
    }
}

/// What is measured, and nothing else: the name that instructions are counted by.
#[inline(never)]
fn measured(pipeline: &mut Pipeline, burst: &mut Burst, umem: &mut Umem, tables: &Tables) {
    pipeline.run(burst, umem, tables, Now(1), |_, _, _| {});
}

fn write_flow(frame: &mut [u8], flow: u32) {
    if frame[12..14] == ethernet::ETHERTYPE_IPV6.to_be_bytes() {
        frame[IPV6_SOURCE_AT..][..4].copy_from_slice(&flow.to_be_bytes());
        return;
    }
    let is_partial = frame[40..42] != [0; 2];
    frames::address(frame, flow);
    if is_partial {
        frames::leave_partial_checksum(frame);
    }
}

/// Where the last four bytes of the source address are.
const IPV6_SOURCE_AT: usize = ethernet::HEADER_LEN + 20;

/// An IPv6 frame of `length` bytes from A to B.
pub(crate) fn udp6_frame(length: usize) -> Vec<u8> {
    let datagram = length - ethernet::HEADER_LEN - ipv6::HEADER_LEN;
    let mut frame = [ROUTER_MAC, A_MAC].concat();
    frame.extend(ethernet::ETHERTYPE_IPV6.to_be_bytes());
    frame.extend(build::ipv6(A_IPV6 | 2, B_IPV6 | 2, protocol::UDP, 64, datagram));
    let udp = frame.len();
    frame.resize(length, 0);
    for (at, value) in [(0, 4000), (2, 53), (4, datagram as u16), (6, 0x5555)] {
        frame[udp + at..][..2].copy_from_slice(&value.to_be_bytes());
    }
    frame
}

/// Flows in an order that no prefetcher guesses; every one comes once in a round.
pub(crate) struct Order {
    count: u32,
    mask: u32,
    next: u32,
}

impl Order {
    pub(crate) fn new(count: usize) -> Order {
        Order { count: count as u32, mask: count.next_power_of_two() as u32 - 1, next: 0 }
    }

    pub(crate) fn next(&mut self) -> u32 {
        loop {
            // Full period modulo a power of two: odd increment, multiplier 1 modulo 4. Hull, Dobell, 1962.
            self.next = self.next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & self.mask;
            if self.next < self.count {
                return self.next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_visits_every_flow_once_a_round() {
        for count in [1, 64, 1000] {
            let mut order = Order::new(count);
            let mut seen: Vec<u32> = (0..count).map(|_| order.next()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count as u32).collect::<Vec<_>>());
        }
    }
}
