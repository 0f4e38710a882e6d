//! The four rings of a bound socket, whoever works them: xsk-rs or this crate.
//!
//! What a queue does with its socket is said once, in `queue.rs`; here is all that it asks of the rings. Packets that are
//! staged are not the kernel's yet: it sees them when they are published, as many at a time as the queue thinks right.

use std::os::fd::{AsRawFd, RawFd};

use super::foreign::ForeignRings;
use super::own::OwnRings;
use crate::io::ring::Descriptor;
use crate::packet::FrameIndex;

pub(super) enum Rings {
    XskRs(ForeignRings),
    Own(OwnRings),
}

impl Rings {
    pub(super) fn fd(&self) -> RawFd {
        match self {
            Rings::XskRs(rings) => rings.fd(),
            Rings::Own(rings) => rings.socket.as_raw_fd(),
        }
    }

    /// Whether a descriptor waits to be received. One load.
    #[inline]
    pub(super) fn has_received(&mut self) -> bool {
        match self {
            Rings::XskRs(rings) => rings.has_received(),
            Rings::Own(rings) => rings.receive.available(1) > 0,
        }
    }

    /// Shows at most `budget` received descriptors to `each`; how many there were. Nothing but a look when there are none.
    #[inline]
    pub(super) fn receive(&mut self, budget: u32, mut each: impl FnMut(Descriptor)) -> usize {
        match self {
            Rings::XskRs(rings) => rings.receive(budget as usize, each),
            Rings::Own(rings) => {
                let count = rings.receive.available(budget);
                if count > 0 {
                    for descriptor in (0..count).map_while(|_| rings.receive.take()) {
                        each(descriptor);
                    }
                    rings.receive.release();
                }
                count as usize
            }
        }
    }

    /// True when so many more descriptors can be staged.
    #[inline]
    pub(super) fn has_room(&mut self, wanted: u32) -> bool {
        match self {
            Rings::XskRs(rings) => rings.has_room(wanted as usize),
            Rings::Own(rings) => rings.transmit.has_room(wanted),
        }
    }

    /// Writes a descriptor that the kernel does not see yet; false when there is no room.
    #[inline]
    #[must_use]
    pub(super) fn stage(&mut self, descriptor: Descriptor) -> bool {
        match self {
            Rings::XskRs(rings) => rings.stage(descriptor),
            Rings::Own(rings) => rings.transmit.stage(descriptor),
        }
    }

    /// Descriptors staged and not published.
    #[inline]
    pub(super) fn staged(&self) -> u32 {
        match self {
            Rings::XskRs(rings) => rings.staged.len() as u32,
            Rings::Own(rings) => rings.transmit.staged(),
        }
    }

    /// The staged descriptor at a place, counted from the oldest.
    pub(super) fn staged_at(&self, place: u32) -> Option<Descriptor> {
        match self {
            Rings::XskRs(rings) => rings.staged_at(place as usize),
            Rings::Own(rings) => rings.transmit.staged_entry(place),
        }
    }

    /// Shows the kernel the oldest staged descriptors.
    pub(super) fn publish(&mut self, count: u32) {
        match self {
            Rings::XskRs(rings) => rings.publish(count as usize),
            Rings::Own(rings) => rings.transmit.publish(count),
        }
    }

    /// Published descriptors that the kernel has not taken.
    pub(super) fn untaken(&mut self) -> u32 {
        match self {
            Rings::XskRs(rings) => rings.untaken(),
            Rings::Own(rings) => rings.transmit.untaken(),
        }
    }

    /// Shows every transmitted frame to `each`, at most `budget`; how many there were.
    pub(super) fn complete(&mut self, budget: u32, mut each: impl FnMut(FrameIndex)) -> usize {
        match self {
            Rings::XskRs(rings) => rings.complete(budget as usize, each),
            Rings::Own(rings) => {
                let count = rings.completion.available(budget);
                if count > 0 {
                    for address in (0..count).map_while(|_| rings.completion.take()) {
                        each(FrameIndex((address / rings.frame_size) as u32));
                    }
                    rings.completion.release();
                }
                count as usize
            }
        }
    }

    /// Frames on the fill ring that the kernel has not taken.
    pub(super) fn unfilled(&mut self) -> u32 {
        match self {
            Rings::XskRs(rings) => rings.unfilled(),
            Rings::Own(rings) => rings.fill.untaken(),
        }
    }

    /// Puts the frames that `next` gives on the fill ring, as many as fit and at most `count`; how many it took.
    pub(super) fn lend(&mut self, count: usize, next: impl FnMut() -> Option<FrameIndex>) -> usize {
        match self {
            Rings::XskRs(rings) => rings.lend(count, next),
            Rings::Own(rings) => rings.lend(count, next),
        }
    }

    /// The driver has stopped taking frames until it is called.
    pub(super) fn fill_needs_wakeup(&self) -> bool {
        match self {
            Rings::XskRs(rings) => rings.fill.needs_wakeup(),
            Rings::Own(rings) => rings.fill.needs_wakeup(),
        }
    }

    /// The driver has stopped sending until it is called.
    pub(super) fn transmit_needs_wakeup(&self) -> bool {
        match self {
            Rings::XskRs(rings) => rings.transmit.needs_wakeup(),
            Rings::Own(rings) => rings.transmit.needs_wakeup(),
        }
    }
}
