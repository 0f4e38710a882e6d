//! Packets that change threads: to the worker that owns their way out, to control, and from control.
//!
//! A packet's frame belongs to its worker's memory and stays there; the bytes are copied into a buffer, and copied into
//! the receiver's memory at the other end. Buffers go round between two rings, so none is allocated after the start:
//!
//!     sender ──[ filled ]──▶ receiver
//!        ▲───── [ empty ] ───────┘
//!
//! Invariants: one sender and one receiver per pair of rings; a buffer is in one ring or in one hand.
//! Left out: sharing frames between workers' memories, which would save one copy at the price of `unsafe`.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::table::InterfaceIndex;

/// Longest packet that can be handed over: MTU 9000 with layer 2 header, and some to spare.
pub const BUFFER_LEN: usize = 9216;

/// Bytes of a packet outside any worker's memory.
pub struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    /// Where the packet leaves, came in, or shall seem to have come in.
    pub interface: InterfaceIndex,
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: vec![0; BUFFER_LEN].into_boxed_slice(), len: 0, interface: InterfaceIndex::NONE }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Takes the bytes over; false when they do not fit.
    pub fn fill<'a>(&mut self, segments: impl Iterator<Item = &'a [u8]>) -> bool {
        self.len = 0;
        for segment in segments {
            let Some(room) = self.bytes.get_mut(self.len..self.len + segment.len()) else { return false };
            room.copy_from_slice(segment);
            self.len += segment.len();
        }
        true
    }
}

/// One direction between two threads.
#[derive(Clone)]
pub struct Lane {
    filled: Arc<ArrayQueue<Buffer>>,
    empty: Arc<ArrayQueue<Buffer>>,
}

impl Lane {
    pub fn new(depth: usize) -> Self {
        let lane = Self { filled: Arc::new(ArrayQueue::new(depth)), empty: Arc::new(ArrayQueue::new(depth)) };
        for _ in 0..depth {
            // There is room for all.
            let _ = lane.empty.push(Buffer::new());
        }
        lane
    }

    /// Sends a packet; false when the lane is full or the packet does not fit.
    pub fn send<'a>(&self, interface: InterfaceIndex, segments: impl Iterator<Item = &'a [u8]>) -> bool {
        let Some(mut buffer) = self.empty.pop() else { return false };
        let fits = buffer.fill(segments);
        buffer.interface = interface;
        // As many buffers as places: neither push can fail.
        let ring = if fits { &self.filled } else { &self.empty };
        let _ = ring.push(buffer);
        fits
    }

    /// The next packet, and what the callback makes of it.
    pub fn receive<R>(&self, take: impl FnOnce(&Buffer) -> R) -> Option<R> {
        let buffer = self.filled.pop()?;
        let result = take(&buffer);
        let _ = self.empty.push(buffer);
        Some(result)
    }

    pub fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_arrive_in_order_and_buffers_come_back() {
        let lane = Lane::new(2);
        for round in 0u8..5 {
            assert!(lane.send(InterfaceIndex(1), [&[round][..], &[round + 1]].into_iter()));
            assert!(lane.send(InterfaceIndex(2), [&[9u8][..]].into_iter()));
            assert!(!lane.send(InterfaceIndex(3), [&[7u8][..]].into_iter()), "full");
            assert_eq!(
                lane.receive(|b| (b.interface, b.bytes().to_vec())),
                Some((InterfaceIndex(1), vec![round, round + 1]))
            );
            assert_eq!(lane.receive(|b| b.interface), Some(InterfaceIndex(2)));
            assert!(lane.is_empty());
        }
    }

    #[test]
    fn a_packet_that_does_not_fit_is_refused_and_its_buffer_kept() {
        let lane = Lane::new(1);
        let big = vec![0u8; BUFFER_LEN + 1];
        assert!(!lane.send(InterfaceIndex(1), [&big[..]].into_iter()));
        assert!(lane.send(InterfaceIndex(1), [&big[..BUFFER_LEN]].into_iter()));
    }
}
