//! Received descriptors put together to packets.
//!
//! The kernel marks every descriptor of a packet but the last with "more follows". A packet that cannot be taken, because
//! a descriptor of it makes no sense, is given up whole: what has come is freed and what is still to come passes by.
//!
//! Invariant: a frame is taken only if the journal says that it is with the queue. Whatever a descriptor says, no frame
//! gets two owners and no byte outside a frame is looked at.

use crate::io::umem::{HEADROOM, Holder, LONGEST_CHAIN, Umem};
use crate::packet::{FrameIndex, Packet};

/// One received descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) frame: FrameIndex,
    /// Of the first byte, from the start of the frame.
    pub(super) offset: usize,
    pub(super) len: usize,
    /// True when the packet goes on in the next descriptor.
    pub(super) more: bool,
}

#[derive(Default)]
pub(super) struct Assembler {
    partial: Option<Partial>,
    /// True while the rest of a packet that was given up is still arriving.
    skipping: bool,
    invalid: u64,
}

/// A packet whose last frames have not arrived.
struct Partial {
    packet: Packet,
    last: FrameIndex,
    frames: usize,
}

impl Assembler {
    /// Takes the next descriptor; a packet when it was the last of one.
    pub(super) fn accept(&mut self, umem: &mut Umem, holder: Holder, piece: Piece) -> Option<Packet> {
        if self.skipping {
            let _ = umem.take_back(piece.frame, holder);
            self.skipping = piece.more;
            return None;
        }
        let aligned = piece.offset == HEADROOM || umem.align(piece.frame, holder, piece.offset, piece.len);
        let joined = if aligned { join(umem, holder, self.partial.take(), piece) } else { Err(self.partial.take()) };
        match joined {
            Ok(partial) if piece.more => {
                self.partial = Some(partial);
                None
            }
            Ok(partial) => Some(partial.packet),
            Err(partial) => {
                self.invalid += 1;
                self.skipping = piece.more;
                // A frame that is not with this queue stays where it is.
                let _ = umem.take_back(piece.frame, holder);
                if let Some(partial) = partial {
                    umem.free(partial.packet);
                }
                None
            }
        }
    }

    /// Packets given up.
    pub(super) fn invalid(&self) -> u64 {
        self.invalid
    }

    /// Frees what has arrived of a packet that will never be whole.
    pub(super) fn abandon(&mut self, umem: &mut Umem) {
        if let Some(partial) = self.partial.take() {
            umem.free(partial.packet);
        }
    }
}

/// The packet so far with one more frame; the packet so far when that cannot be.
fn join(umem: &mut Umem, holder: Holder, so_far: Option<Partial>, piece: Piece) -> Result<Partial, Option<Partial>> {
    let Some(mut partial) = so_far else {
        let packet = umem.receive(piece.frame, holder, piece.len).ok_or(None)?;
        return Ok(Partial { packet, last: piece.frame, frames: 1 });
    };
    if partial.frames == LONGEST_CHAIN
        || !umem.receive_more(&mut partial.packet, partial.last, piece.frame, holder, piece.len)
    {
        return Err(Some(partial));
    }
    partial.last = piece.frame;
    partial.frames += 1;
    Ok(partial)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::io::umem::FrameCount;

    const FRAME: usize = 512;
    const ROOM: usize = FRAME - HEADROOM;
    const FRAMES: usize = 32;

    /// Feeds descriptors whose frames are lent first; the lengths of the packets that come out.
    fn check(pieces: &[(usize, usize, bool)], expected: &[usize], invalid: u64) {
        let mut umem = Umem::heap(FRAME, FRAMES);
        let holder = umem.enroll();
        let mut assembler = Assembler::default();
        let mut lengths = Vec::new();
        for (offset, len, more) in pieces {
            let frame = umem.lend(holder).unwrap();
            let piece = Piece { frame, offset: *offset, len: *len, more: *more };
            if let Some(packet) = assembler.accept(&mut umem, holder, piece) {
                assert_eq!(umem.segments(&packet).map(<[u8]>::len).sum::<usize>(), packet.len());
                lengths.push(packet.len());
                umem.free(packet);
            }
        }
        assert_eq!(lengths, expected);
        assert_eq!(assembler.invalid(), invalid);
        assembler.abandon(&mut umem);
        assert_eq!(umem.audit(), FrameCount { free: FRAMES, held: 0, in_queues: 0 });
    }

    #[test]
    fn packets_come_out_whole_or_not_at_all() {
        let at = HEADROOM;
        check(&[(at, 60, false), (at, 70, false)], &[60, 70], 0);
        check(&[(at, ROOM, true), (at, ROOM, true), (at, 5, false), (at, 60, false)], &[2 * ROOM + 5, 60], 0);
        check(&[(at, ROOM, true)], &[], 0);
        check(&[(at + 2, 60, false), (at - 2, 60, false)], &[60, 60], 0);
        check(&[(at, ROOM + 1, false), (at, 60, false)], &[60], 1);
        check(&[(at, ROOM, true), (at, 0, true), (at, 5, false), (at, 60, false)], &[60], 1);
        check(&[(at, ROOM + 1, true), (at, 1, true), (at, 5, false), (at, 60, false)], &[60], 1);
        check(&[(FRAME - 1, 2, true), (at, 5, false), (at, 60, false)], &[60], 1);
        let longest = [vec![(at, 1, true); LONGEST_CHAIN - 1], vec![(at, 1, false)]].concat();
        check(&longest, &[LONGEST_CHAIN], 0);
        let longer = [vec![(at, 1, true); LONGEST_CHAIN], vec![(at, 1, false), (at, 60, false)]].concat();
        check(&longer, &[60], 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_descriptor_gives_a_frame_two_owners(
            pieces in prop::collection::vec((0..FRAMES as u32 + 4, 0..FRAME + 8, 0..FRAME + 8, any::<bool>()), 0..100),
        ) {
            let mut umem = Umem::heap(FRAME, FRAMES);
            let holder = umem.enroll();
            let other = umem.enroll();
            let foreign = umem.lend(other).unwrap();
            let mut assembler = Assembler::default();
            let mut packets = Vec::new();
            for (frame, offset, len, more) in pieces {
                let _ = umem.lend(holder);
                let piece = Piece { frame: FrameIndex(frame), offset, len, more };
                packets.extend(assembler.accept(&mut umem, holder, piece));
            }
            prop_assert!(packets.iter().all(|packet| packet.frame != foreign));
            packets.into_iter().for_each(|packet| umem.free(packet));
            assembler.abandon(&mut umem);
            prop_assert_eq!(umem.audit().held, 0);
            umem.recall(holder);
            prop_assert_eq!(umem.recall(other), 1);
            prop_assert_eq!(umem.free_frames(), FRAMES);
        }
    }
}
