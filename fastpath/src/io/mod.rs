//! Where frames enter and leave.
//!
//! | file | what it holds |
//! |---|---|
//! | `umem.rs` | frames of one worker: memory, free list, chains, who holds which frame |
//! | `xsk.rs` | `Queue` over AF_XDP sockets, by xsk-rs or by system calls of our own |
//! | `ring.rs`, `region.rs` | a ring shared with the kernel; memory by the page |
//! | `memory.rs` | `Queue` over rings in memory: tests, benches, trace |
//! | `program.rs`, `steer.bpf.c` | our XDP program and its loader |
//! | `attached.rs` | which XDP programs an interface has |
//! | `guard.rs`, `guard.bpf.c` | the programs of an uplink with a host endpoint |
//! | `shared.rs` | which addresses of the node stand for workloads outside, as an uplink's program knows them |
//! | `blast.rs`, `gauge.rs`, `sink.rs` | for measurements: packets made and counted inside the kernel; stamped on their way to a socket |
//! | `transport.rs` | options of TCP sockets that no safe crate knows |
//! | `sleep.rs` | epoll and eventfd: where a worker with nothing to do waits |
//!
//! The contract is [`Queue`]: receive, send, flush, reclaim, a descriptor to sleep on. It says nothing that only one
//! back-end could do, and leaves room for what the present ones cannot: a packet says where it starts, what is left to finish
//! of its checksum, and how long its segments are, and a queue that is given one does what its other side will not.
//! Decision 0011. All `unsafe` of the crate lives in this folder and in `rcu.rs`.

mod attached;
pub mod blast;
pub mod gauge;
pub mod guard;
pub mod memory;
pub mod program;
pub(crate) mod region;
mod ring;
pub mod shared;
pub mod sink;
pub mod sleep;
pub mod transport;
pub mod umem;
pub mod xsk;

use std::os::fd::RawFd;

use crate::packet::Packet;
use umem::{Released, Umem};

/// One queue of one interface, owned by one worker.
///
/// Every packet that a queue hands out or takes in lives in the `Umem` passed along, which is always the same one.
pub trait Queue {
    /// What is left of it when its worker has let it go.
    type Retired: Retired;

    /// Whether a packet waits to be received: the cheapest possible look, for queues where nearly always none does. Never a
    /// syscall, and nothing changes.
    fn has_arrived(&mut self) -> bool;

    /// Moves at most `budget` received packets to `out`. No syscall when nothing has arrived, but for a queue that polls its
    /// driver.
    fn receive(&mut self, umem: &mut Umem, budget: usize, out: &mut Vec<Packet>);

    /// Queues a packet for transmission; a partial checksum is finished, here or beyond. Gives it back when the ring is full.
    fn send(&mut self, umem: &mut Umem, packet: Packet) -> Result<(), Packet>;

    /// Makes queued packets go, as many kicks as that takes.
    fn flush(&mut self, umem: &mut Umem);

    /// Takes transmitted frames back and gives free ones to the receive side.
    fn reclaim(&mut self, umem: &mut Umem);

    /// True when nothing is on its way out and the receive side has all the frames it should: nobody need come back to
    /// this queue until a packet arrives.
    fn is_settled(&self) -> bool;

    /// True when packets wait here for the other side to take earlier ones. It will not tell when it has: come back soon.
    fn is_held_up(&self) -> bool;

    /// The descriptor that becomes readable when a packet arrives; none for a queue that cannot be slept on.
    fn fd(&self) -> Option<RawFd>;

    /// What the kernel or the back-end counted on its side of the rings.
    fn statistics(&self) -> QueueStatistics;

    /// The worker's half of ending the queue, which waits for nobody. The frames that it still has come back with what
    /// closing the rest returns.
    fn retire(self, umem: &mut Umem) -> Self::Retired;

    /// Both halves: every frame it held is free again when this returns.
    fn close(self, umem: &mut Umem)
    where
        Self: Sized,
    {
        let released = self.retire(umem).close();
        umem.recover(released);
    }
}

/// A queue that its worker has let go.
pub trait Retired: Send {
    /// Ends it, and takes the time that this takes.
    fn close(self) -> Released;
}

/// Nothing is left, and there were no frames.
impl Retired for () {
    fn close(self) -> Released {
        Released(None)
    }
}

/// Counters kept beyond our side of the rings.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct QueueStatistics {
    /// Packets larger than a frame, or otherwise refused by the kernel before they reached us.
    pub receive_dropped: u64,
    /// Packets lost because we had not emptied the receive ring.
    pub receive_ring_full: u64,
    /// Packets lost because no free frame was waiting.
    pub fill_ring_empty: u64,
    pub invalid_descriptors: u64,
}

/// How an interface is attached; shown per queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's generic receive path, after the driver.
    Generic,
}

/// How frames cross the kernel boundary; shown per queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyMode {
    ZeroCopy,
    Copy,
    /// No kernel involved.
    Memory,
}
