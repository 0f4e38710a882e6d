//! Packets that change threads: to the worker that owns their way out, to control, and from control.
//!
//! A packet's frame belongs to its worker's memory and stays there; the bytes are copied, and copied again into the receiver's
//! memory at the other end. Between two workers they lie one behind the other in a ring of bytes, so that what is in use is
//! as small as what is on its way, and each thread reads or writes memory in order:
//!
//!     ┌─────────────┬───────────┬─────────────┬──────────┬─ ─ ─
//!     │ length, out │ bytes     │ length, out │ bytes    │        Outgoing::send ─▶ Incoming::receive
//!     └─────────────┴───────────┴─────────────┴──────────┴─ ─ ─
//!
//! To and from control, where packets are few, whole buffers go round between two rings, of which several threads may hold
//! an end:
//!
//!     sender ──[ filled ]──▶ receiver
//!        ▲───── [ empty ] ───────┘
//!
//! Invariants: nothing is allocated after the start; a record is seen whole or not at all; a buffer is in one ring or in one
//! hand.
//! Left out: sharing frames between workers' memories, which would save one copy at the price of `unsafe`.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::table::InterfaceIndex;

/// Longest packet that can be handed over: MTU 9000 with layer 2 header, and some to spare.
pub const BUFFER_LEN: usize = 9216;

/// Bytes on their way from one worker to another: some seven hundred packets of 1500 bytes, a hundred of 9000.
pub const RING: usize = 1 << 20;

/// Ahead of each packet's bytes: how many there are, in four bytes, and the interface it leaves by, in two. Two are free.
const RECORD: usize = 8;

/// The way from one worker to another.
pub fn pair(capacity: usize) -> (Outgoing, Incoming) {
    let (producer, consumer) = RingBuffer::new(capacity);
    (Outgoing(producer), Incoming(consumer))
}

/// The sender's end.
pub struct Outgoing(Producer<u8>);

/// The receiver's end.
pub struct Incoming(Consumer<u8>);

impl Outgoing {
    /// Sends a packet; false when there is no room for it.
    pub fn send<'a>(&mut self, interface: InterfaceIndex, segments: impl Iterator<Item = &'a [u8]> + Clone) -> bool {
        let length: usize = segments.clone().map(<[u8]>::len).sum();
        let whole = RECORD + length;
        // What was free when last looked is free still. The receiver's own word costs a cache line.
        if length > BUFFER_LEN || (self.0.cached_slots() < whole && self.0.slots() < whole) {
            return false;
        }
        let mut record = [0; RECORD];
        record[..4].copy_from_slice(&(length as u32).to_ne_bytes());
        record[4..6].copy_from_slice(&interface.0.to_ne_bytes());
        // There is room for all of it: none of these can fail.
        let mut is_sent = self.0.push_entire_slice(&record).is_ok();
        for segment in segments {
            is_sent &= self.0.push_entire_slice(segment).is_ok();
        }
        debug_assert!(is_sent, "there was room");
        is_sent
    }

    /// True when the receiver has taken everything.
    pub fn is_empty(&self) -> bool {
        self.0.slots() == self.0.buffer().capacity()
    }
}

impl Incoming {
    /// The next packet, in at most two pieces, and what the callback makes of it.
    pub fn receive<R>(&mut self, take: impl FnOnce(InterfaceIndex, [&[u8]; 2]) -> R) -> Option<R> {
        let mut record = [0; RECORD];
        {
            let chunk = self.0.read_chunk(RECORD).ok()?;
            let (first, second) = chunk.as_slices();
            record[..first.len()].copy_from_slice(first);
            record[first.len()..].copy_from_slice(second);
        }
        let [a, b, c, d, e, f, ..] = record;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        // Its bytes follow at once: until they are here, it is not.
        let chunk = self.0.read_chunk(RECORD + length).ok()?;
        let (first, second) = chunk.as_slices();
        let pieces = match first.len().checked_sub(RECORD) {
            Some(_) => [&first[RECORD..], second],
            None => [&second[RECORD - first.len()..], &[]],
        };
        let result = take(InterfaceIndex(u16::from_ne_bytes([e, f])), pieces);
        chunk.commit_all();
        Some(result)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

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

/// One direction between a worker and control.
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

    #[test]
    fn a_ring_gives_back_what_was_put_in_whatever_the_lengths() {
        let (mut outgoing, mut incoming) = pair(257);
        let mut expected = std::collections::VecDeque::new();
        let mut length = 0;
        for step in 0..10_000u32 {
            length = (length * 31 + 7) % 90;
            let bytes: Vec<u8> = (0..length as u32).map(|index| (index + step) as u8).collect();
            let (first, second) = bytes.split_at(length / 3);
            let used: usize = expected.iter().map(|(_, bytes): &(_, Vec<u8>)| RECORD + bytes.len()).sum();
            let interface = InterfaceIndex(step as u16);
            let is_sent = outgoing.send(interface, [first, second].into_iter());
            assert_eq!(is_sent, used + RECORD + length <= 257, "all that there is room for");
            if is_sent {
                expected.push_back((interface, bytes));
            }
            if step % 3 > 0 {
                let received = incoming.receive(|interface, pieces| (interface, pieces.concat()));
                assert_eq!(received, expected.pop_front());
            }
            assert_eq!((outgoing.is_empty(), incoming.is_empty()), (expected.is_empty(), expected.is_empty()));
        }
    }

    #[test]
    fn a_ring_between_threads_loses_nothing_and_keeps_the_order() {
        let (mut outgoing, mut incoming) = pair(4096);
        let sender = std::thread::spawn(move || {
            for number in 0..20_000u32 {
                let bytes = number.to_ne_bytes().repeat(1 + number as usize % 40);
                while !outgoing.send(InterfaceIndex(number as u16), [&bytes[..]].into_iter()) {
                    std::thread::yield_now();
                }
            }
        });
        for number in 0..20_000u32 {
            let received = loop {
                match incoming.receive(|interface, pieces| (interface, pieces.concat())) {
                    Some(received) => break received,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(received.0, InterfaceIndex(number as u16));
            assert_eq!(received.1, number.to_ne_bytes().repeat(1 + number as usize % 40));
        }
        sender.join().unwrap_or_else(|_| panic!("the sender failed"));
    }
}
