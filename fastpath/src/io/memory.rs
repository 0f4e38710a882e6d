//! Queues without a kernel.
//!
//! `MemoryQueue` is a pair of bounded rings whose far ends a test holds: what the test pushes is received, and what
//! is sent can be popped. It behaves like a socket where that matters: a full ring refuses, a packet that finds no
//! free frame is lost and counted, and what was sent does not go before `flush`.
//!
//! ```text
//!     FarEnd::push ──▶ [ arriving ] ──▶ receive      worker      send ──▶ [ staged ] ─flush─▶ [ left ] ──▶ FarEnd::pop
//! ```
//!
//! `ReplayQueue` is for benchmarks: it receives the same packets for ever and counts what it is sent, without a lock
//! between, so that a measurement is of the stages.
//!
//! Left out: sleeping. Neither has a descriptor, so a worker polls them.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::umem::Umem;
use super::{Queue, QueueStatistics};
use crate::packet::Packet;

/// The worker's end of a pair of rings in memory.
pub struct MemoryQueue {
    rings: Arc<Mutex<Rings>>,
    /// Packets in `arriving`, to be read without the lock.
    waiting: Arc<AtomicUsize>,
    /// Sent and not flushed.
    staged: VecDeque<Vec<u8>>,
    capacity: usize,
}

/// The other end; clones share it, so that several threads of a test can hold it.
#[derive(Clone)]
pub struct FarEnd {
    rings: Arc<Mutex<Rings>>,
    waiting: Arc<AtomicUsize>,
    capacity: usize,
}

#[derive(Default)]
struct Rings {
    arriving: VecDeque<Vec<u8>>,
    left: VecDeque<Vec<u8>>,
    statistics: QueueStatistics,
}

impl MemoryQueue {
    /// Two rings of `capacity` packets each.
    pub fn pair(capacity: usize) -> (MemoryQueue, FarEnd) {
        let rings = Arc::new(Mutex::new(Rings::default()));
        let waiting = Arc::new(AtomicUsize::new(0));
        let far_end = FarEnd { rings: rings.clone(), waiting: waiting.clone(), capacity };
        (MemoryQueue { rings, waiting, staged: VecDeque::new(), capacity }, far_end)
    }
}

impl Queue for MemoryQueue {
    type Retired = ();

    fn has_arrived(&mut self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    fn receive(&mut self, umem: &mut Umem, budget: usize, out: &mut Vec<Packet>) {
        if !self.has_arrived() {
            return;
        }
        let mut rings = lock(&self.rings);
        for _ in 0..budget {
            let Some(bytes) = rings.arriving.pop_front() else { return };
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            match umem.copy_in([bytes.as_slice()]) {
                Some(packet) => out.push(packet),
                None => rings.statistics.fill_ring_empty += 1,
            }
        }
    }

    fn send(&mut self, umem: &mut Umem, mut packet: Packet) -> Result<(), Packet> {
        if self.staged.len() + lock(&self.rings).left.len() >= self.capacity {
            return Err(packet);
        }
        let offload = std::mem::take(&mut packet.offload);
        umem.finish_checksum(&packet, packet.len(), offload);
        let mut bytes = Vec::with_capacity(packet.len());
        umem.segments(&packet).for_each(|segment| bytes.extend_from_slice(segment));
        self.staged.push_back(bytes);
        umem.free(packet);
        Ok(())
    }

    fn flush(&mut self, _umem: &mut Umem) {
        if !self.staged.is_empty() {
            lock(&self.rings).left.append(&mut self.staged);
        }
    }

    fn reclaim(&mut self, _umem: &mut Umem) {}

    fn is_settled(&self) -> bool {
        true
    }

    fn is_held_up(&self) -> bool {
        false
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }

    fn statistics(&self) -> QueueStatistics {
        lock(&self.rings).statistics
    }

    fn retire(self, _umem: &mut Umem) {}
}

impl FarEnd {
    /// Lets a packet arrive; false when the ring is full, and the packet is lost, as on a wire.
    pub fn push(&self, bytes: &[u8]) -> bool {
        let mut rings = lock(&self.rings);
        if rings.arriving.len() >= self.capacity {
            rings.statistics.receive_ring_full += 1;
            return false;
        }
        rings.arriving.push_back(bytes.to_vec());
        self.waiting.fetch_add(1, Ordering::Release);
        true
    }

    /// Lets packets arrive until the ring is full; how many did.
    pub fn push_many<'a>(&self, packets: impl IntoIterator<Item = &'a [u8]>) -> usize {
        packets.into_iter().take_while(|bytes| self.push(bytes)).count()
    }

    /// The packet that left first.
    pub fn pop(&self) -> Option<Vec<u8>> {
        lock(&self.rings).left.pop_front()
    }

    /// All packets that have left, in order.
    pub fn pop_all(&self) -> Vec<Vec<u8>> {
        lock(&self.rings).left.drain(..).collect()
    }

    /// Packets that nobody has received yet.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }
}

/// A panic elsewhere in a test leaves whole packets in the rings: there is nothing to repair.
fn lock(rings: &Mutex<Rings>) -> MutexGuard<'_, Rings> {
    rings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Receives the same packets again and again; drops what it is sent.
pub struct ReplayQueue {
    packets: Vec<Vec<u8>>,
    next: usize,
    received: u64,
    sent: u64,
    sent_bytes: u64,
    counts: Arc<ReplayCounts>,
}

/// What a `ReplayQueue` has done, up to its last flush; readable while a worker owns the queue.
#[derive(Default)]
#[repr(align(128))]
pub struct ReplayCounts {
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub sent_bytes: AtomicU64,
}

impl ReplayQueue {
    /// A queue on which `packets` arrive in order and then from the first again; with none, it only takes packets.
    pub fn new(packets: Vec<Vec<u8>>) -> (ReplayQueue, Arc<ReplayCounts>) {
        let counts = Arc::new(ReplayCounts::default());
        let queue = ReplayQueue { packets, next: 0, received: 0, sent: 0, sent_bytes: 0, counts: counts.clone() };
        (queue, counts)
    }
}

impl Queue for ReplayQueue {
    type Retired = ();

    fn has_arrived(&mut self) -> bool {
        !self.packets.is_empty()
    }

    fn receive(&mut self, umem: &mut Umem, budget: usize, out: &mut Vec<Packet>) {
        if self.packets.is_empty() {
            return;
        }
        for _ in 0..budget {
            let Some(packet) = umem.copy_in([self.packets[self.next].as_slice()]) else { return };
            out.push(packet);
            self.received += 1;
            self.next = if self.next + 1 == self.packets.len() { 0 } else { self.next + 1 };
        }
    }

    fn send(&mut self, umem: &mut Umem, mut packet: Packet) -> Result<(), Packet> {
        let offload = std::mem::take(&mut packet.offload);
        umem.finish_checksum(&packet, packet.len(), offload);
        self.sent += 1;
        self.sent_bytes += packet.len() as u64;
        umem.free(packet);
        Ok(())
    }

    fn flush(&mut self, _umem: &mut Umem) {
        self.counts.received.store(self.received, Ordering::Relaxed);
        self.counts.sent.store(self.sent, Ordering::Relaxed);
        self.counts.sent_bytes.store(self.sent_bytes, Ordering::Relaxed);
    }

    fn reclaim(&mut self, _umem: &mut Umem) {}

    fn is_settled(&self) -> bool {
        true
    }

    fn is_held_up(&self) -> bool {
        false
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }

    fn statistics(&self) -> QueueStatistics {
        QueueStatistics::default()
    }

    fn retire(self, _umem: &mut Umem) {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn receive(queue: &mut MemoryQueue, umem: &mut Umem, budget: usize) -> Vec<Packet> {
        let mut out = Vec::new();
        queue.receive(umem, budget, &mut out);
        out
    }

    #[test]
    fn a_packet_goes_through_unchanged_whatever_its_length() {
        let mut umem = Umem::heap(2048, 16);
        let (mut queue, far_end) = MemoryQueue::pair(4);
        for len in [0, 1, 60, 1792, 1793, 9014] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            assert!(far_end.push(&bytes));
            for packet in receive(&mut queue, &mut umem, 8) {
                queue.send(&mut umem, packet).unwrap();
            }
            assert_eq!(far_end.pop(), None, "left before the flush");
            queue.flush(&mut umem);
            assert_eq!(far_end.pop(), Some(bytes));
        }
        assert_eq!(umem.free_frames(), 16);
    }

    #[test]
    fn full_rings_refuse() {
        let mut umem = Umem::heap(2048, 16);
        let (mut queue, far_end) = MemoryQueue::pair(2);
        assert_eq!(far_end.push_many([[1].as_slice(), &[2], &[3]]), 2);
        assert_eq!(queue.statistics().receive_ring_full, 1);
        assert_eq!(far_end.waiting(), 2);
        assert_eq!(receive(&mut queue, &mut umem, 1).into_iter().map(|packet| umem.free(packet)).count(), 1);
        for packet in receive(&mut queue, &mut umem, 8) {
            queue.send(&mut umem, packet).unwrap();
        }
        let second = umem.allocate().unwrap();
        queue.send(&mut umem, second).unwrap();
        queue.flush(&mut umem);
        let third = umem.allocate().unwrap();
        let refused = queue.send(&mut umem, third).unwrap_err();
        umem.free(refused);
        assert_eq!(far_end.pop_all(), [vec![2], vec![]]);
        assert_eq!(umem.free_frames(), 16);
    }

    #[test]
    fn a_packet_without_a_frame_is_lost_and_counted() {
        let mut umem = Umem::heap(2048, 1);
        let (mut queue, far_end) = MemoryQueue::pair(4);
        assert_eq!(far_end.push_many([[1].as_slice(), &[2]]), 2);
        for packet in receive(&mut queue, &mut umem, 8) {
            umem.free(packet);
        }
        assert_eq!(queue.statistics().fill_ring_empty, 1);
        assert_eq!(umem.free_frames(), 1);
    }

    #[test]
    fn a_replay_starts_again_and_counts() {
        let mut umem = Umem::heap(2048, 8);
        let (mut queue, counts) = ReplayQueue::new(vec![vec![1], vec![2, 2], vec![3, 3, 3]]);
        let mut out = Vec::new();
        queue.receive(&mut umem, 5, &mut out);
        assert_eq!(out.iter().map(Packet::len).collect::<Vec<_>>(), [1, 2, 3, 1, 2]);
        for packet in out {
            queue.send(&mut umem, packet).unwrap();
        }
        queue.flush(&mut umem);
        assert_eq!(counts.sent.load(Ordering::Relaxed), 5);
        assert_eq!(counts.sent_bytes.load(Ordering::Relaxed), 9);
        assert_eq!(counts.received.load(Ordering::Relaxed), 5);
        assert_eq!(umem.free_frames(), 8);
    }
}
