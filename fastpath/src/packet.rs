//! `Packet`, the owning token of one received packet.
//!
//! A packet is one frame of a worker's memory, or a chain of frames when it is larger than a frame (MTU 9000
//! on 4 KiB frames). The token says where the bytes of the first frame are; the rest of the chain is known to
//! the [`Umem`](crate::io::umem::Umem) that the frame belongs to. Stages only ever look at the first frame:
//! every header lies in it.
//!
//! Invariants: a token is made only by a `Umem` and ends only in one (freed, or moved to a ring). It is neither
//! `Copy` nor `Clone`, so a frame has one owner; a debug build panics when a token is dropped by accident.
//! Left out: the bytes. Borrow them from the `Umem` against the token.

/// Number of a frame within its worker's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct FrameIndex(pub u32);

/// What the offload hardware, real or virtual, left for us to do. Part of the descriptor from the first day, so
/// that an attachment that carries super-packets or partial checksums needs no change in any stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// Payload bytes per segment when this is a super-packet, else 0.
    pub gso_size: u16,
    /// Offset of the first summed byte from the start of the packet when the checksum is still partial, else 0.
    pub checksum_start: u16,
    /// Offset of the checksum field from `checksum_start`.
    pub checksum_offset: u16,
}

impl Offload {
    /// Offset of the checksum field from the start of the packet.
    pub fn field(&self) -> usize {
        usize::from(self.checksum_start) + usize::from(self.checksum_offset)
    }
}

/// The owning token of a packet.
#[derive(Debug)]
pub struct Packet {
    pub(crate) frame: FrameIndex,
    /// Offset of the first byte from the start of its frame.
    pub(crate) offset: u16,
    /// Bytes in the first frame.
    pub(crate) head: u16,
    /// Bytes in all frames.
    pub(crate) total: u32,
    pub offload: Offload,
}

impl Packet {
    /// Bytes in the first frame: all that stages may read.
    pub fn head_len(&self) -> usize {
        usize::from(self.head)
    }

    /// Bytes in the whole packet, layer 2 included.
    pub fn len(&self) -> usize {
        self.total as usize
    }

    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// True when the packet continues in further frames.
    pub fn is_chained(&self) -> bool {
        self.total > u32::from(self.head)
    }

    /// Ends the token's life on purpose; only the owner of the frame may call it.
    pub(crate) fn into_frame(self) -> FrameIndex {
        let frame = self.frame;
        std::mem::forget(self);
        frame
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // A lost token is a lost frame. In a release build the frame stays lost and the frame audit shows it.
        debug_assert!(std::thread::panicking(), "packet of frame {} lost", self.frame.0);
    }
}
