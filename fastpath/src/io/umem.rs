//! `Umem`, the frames of one worker.
//!
//! One piece of memory cut into frames of equal size, and for each frame a line in three tables: who has it, which
//! frame continues its packet, and how many bytes that one holds. The same struct serves AF_XDP (the memory is
//! registered with the kernel) and queues in memory (it is on the heap).
//!
//! ```text
//!              allocate, copy_in                 send
//!      FREE ───────────────────────▶ HELD ───────────────────▶ in queue N ──┐
//!       ▲ ▲          free             ▲ └──── a Packet token                │ transmitted
//!       │ └───────────────────────────┘            received                 │
//!       │                             └──────────────────────── in queue N ◀┼─ lent to fill ─ FREE
//!       └───────────────────────────────────────────────────────────────────┘
//!
//!      frame:  | headroom, 256 bytes | packet ........ | room to grow |
//! ```
//!
//! Invariants:
//! 1. `base` points to `frame_size * frame_count` bytes that live as long as `backing` and belong to this `Umem`.
//! 2. The kernel touches a frame only while the journal says that a queue has it; user code only while it is HELD,
//!    through the one token that stands for it. Tokens and queues are used with the `Umem` they belong to: a worker
//!    has only one, queues check it once per call, and tokens in debug builds.
//! 3. A packet starts `HEADROOM` bytes into each of its frames, for its whole life. xsk-rs can neither build a
//!    descriptor from an address nor move the start of one, so nothing here does.
//! 4. Every frame has exactly one holder; `audit` adds up to `frame_count`.
//!
//! Left out: sharing frames between workers. A packet that changes worker is copied (`segments`, then `copy_in`).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::ptr::NonNull;

use crate::header::checksum::Sum;
use crate::packet::{FrameIndex, Offload, Packet};

/// Bytes ahead of a packet in each of its frames; the kernel puts received packets there too (XDP_PACKET_HEADROOM).
pub const HEADROOM: usize = 256;

/// Frames of the longest packet: the kernel's MAX_SKB_FRAGS and the first.
pub const LONGEST_CHAIN: usize = 18;

const SMALLEST_FRAME: usize = 512;
const LARGEST_FRAME: usize = 32_768;

/// Journal entries. All smaller values are the number of a queue.
const FREE: u16 = u16::MAX;
const HELD: u16 = u16::MAX - 1;
const QUEUES: usize = HELD as usize;

/// End of a chain.
const NONE: u32 = u32::MAX;

/// A queue's name in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Holder(u16);

/// The name of a queue whose socket is closed: what it had may be taken back, by [`Umem::recover`].
#[must_use = "the frames of the closed queue are still booked to it"]
#[derive(Debug)]
pub struct Released(pub(super) Option<Holder>);

/// Where all frames are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameCount {
    pub free: usize,
    /// With the worker, as packets.
    pub held: usize,
    /// Waiting to be filled, filled and not yet read, or being transmitted.
    pub in_queues: usize,
}

impl FrameCount {
    pub fn sum(&self) -> usize {
        self.free + self.held + self.in_queues
    }
}

/// The frames of one worker. See the head of the file.
pub struct Umem {
    base: NonNull<u8>,
    frame_size: usize,
    /// Packet bytes that a frame can hold.
    room: usize,
    /// Last freed, first used: its bytes are the likeliest to be in the cache.
    free: Vec<u32>,
    journal: Vec<u16>,
    chain: Vec<Link>,
    /// True for numbers in use as `Holder`.
    queues: Vec<bool>,
    /// Whatever owns the memory; dropped last, never looked at.
    _backing: Box<dyn Any + Send>,
}

/// What a frame knows about the packet it carries a part of.
#[derive(Clone, Copy)]
struct Link {
    /// The frame that continues the packet.
    next: u32,
    /// Bytes in this frame; unused for the first frame of a packet, whose token has it.
    len: u16,
}

const UNLINKED: Link = Link { next: NONE, len: 0 };

// SAFETY: `base` points into memory owned by `_backing`, which is Send, and nothing else in user space points there
// (invariant 1). All access goes through `&self` and `&mut self`.
unsafe impl Send for Umem {}

impl Umem {
    /// Frames on the heap, zeroed; for queues in memory.
    pub fn heap(frame_size: usize, frame_count: usize) -> Umem {
        let memory = HeapMemory::new(frame_size * frame_count);
        let base = memory.base;
        // SAFETY: `memory` is that many bytes, owned by the box, and has given out no other pointer.
        unsafe { Umem::new(base, frame_size, frame_count, Box::new(memory)) }
    }

    /// Frames in memory that something else owns.
    ///
    /// # Safety
    ///
    /// `base` must point to `frame_size * frame_count` readable and writable bytes that stay so until `backing` is
    /// dropped, and that nobody else touches but the kernel, for frames that a queue has.
    pub(super) unsafe fn new(
        base: NonNull<u8>,
        frame_size: usize,
        frame_count: usize,
        backing: Box<dyn Any + Send>,
    ) -> Umem {
        assert!(
            (SMALLEST_FRAME..=LARGEST_FRAME).contains(&frame_size),
            "frame size {frame_size} outside {SMALLEST_FRAME}..={LARGEST_FRAME}"
        );
        assert!(frame_count > 0, "a worker needs frames");
        assert!(frame_count < NONE as usize, "frame count {frame_count} does not fit its index");
        assert!(frame_size.checked_mul(frame_count).is_some(), "{frame_count} frames do not fit the address space");
        Umem {
            base,
            frame_size,
            room: frame_size - HEADROOM,
            free: (0..frame_count as u32).rev().collect(),
            journal: vec![FREE; frame_count],
            chain: vec![UNLINKED; frame_count],
            queues: Vec::new(),
            _backing: backing,
        }
    }

    pub fn frame_size(&self) -> usize {
        self.frame_size
    }

    pub fn frame_count(&self) -> usize {
        self.journal.len()
    }

    pub fn free_frames(&self) -> usize {
        self.free.len()
    }

    /// Packet bytes that one frame can hold.
    pub fn frame_room(&self) -> usize {
        self.room
    }

    /// The bytes of the packet's first frame.
    #[inline(always)]
    pub fn data(&self, packet: &Packet) -> &[u8] {
        debug_assert_eq!(usize::from(packet.offset), HEADROOM, "invariant 3");
        self.slice(packet.frame.0, packet.head_len())
    }

    /// The bytes of the packet's first frame, to be changed.
    #[inline(always)]
    pub fn data_mut(&mut self, packet: &Packet) -> &mut [u8] {
        self.slice_mut(packet.frame.0, packet.head_len())
    }

    /// All bytes of the packet, frame by frame.
    pub fn segments(&self, packet: &Packet) -> impl Iterator<Item = &[u8]> + Clone {
        let first = self.data(packet);
        let mut left = packet.len() - packet.head_len();
        let mut frame = packet.frame.0;
        let tail = std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            frame = self.chain[frame as usize].next;
            let segment = self.slice(frame, usize::from(self.chain[frame as usize].len));
            left -= segment.len();
            Some(segment)
        });
        std::iter::once(first).chain(tail)
    }

    /// Shows every frame of the packet to `change`, first to last.
    pub fn for_each_segment_mut(&mut self, packet: &Packet, mut change: impl FnMut(&mut [u8])) {
        change(self.data_mut(packet));
        let mut left = packet.len() - packet.head_len();
        let mut frame = packet.frame.0;
        while left > 0 {
            frame = self.chain[frame as usize].next;
            let segment = self.slice_mut(frame, usize::from(self.chain[frame as usize].len));
            left -= segment.len();
            change(segment);
        }
    }

    /// An empty packet; `None` when all frames are in use.
    pub fn allocate(&mut self) -> Option<Packet> {
        let frame = self.free.pop()?;
        self.journal[frame as usize] = HELD;
        self.chain[frame as usize] = UNLINKED;
        Some(token(frame))
    }

    /// Gives the packet another length. Shrinking works at any length and frees the frames that fall off. Growing
    /// works within the first frame and shows zeroes; false, and nothing done, when the frame has no room for it or
    /// the packet goes on in another one.
    #[must_use]
    pub fn set_len(&mut self, packet: &mut Packet, len: usize) -> bool {
        if len > packet.len() {
            return self.grow(packet, len);
        }
        if len <= packet.head_len() {
            let tail = self.chain[packet.frame.0 as usize].next;
            self.chain[packet.frame.0 as usize] = UNLINKED;
            self.free_chain(tail);
            packet.head = len as u16;
        } else {
            self.truncate_tail(packet.frame.0, len - packet.head_len());
        }
        packet.total = len as u32;
        true
    }

    /// Finishes a partial checksum, whose field holds what is summed before the packet's own bytes, of which those before
    /// `end` count. A packet that has none, or whose checksum would lie outside its first frame, stays as it is.
    pub fn finish_checksum(&mut self, packet: &Packet, end: usize, offload: Offload) {
        let (start, at) = (usize::from(offload.checksum_start), offload.field());
        if start == 0 || at + 2 > packet.head_len() {
            return;
        }
        let mut sum = Sum::new();
        let mut position = 0;
        for segment in self.segments(packet) {
            // The field itself counts as what it holds.
            let skip = start.saturating_sub(position).min(segment.len());
            let stop = end.saturating_sub(position).clamp(skip, segment.len());
            sum = sum.bytes_at((position + skip) - start.min(position + skip), &segment[skip..stop]);
            position += segment.len();
        }
        // A sum that comes out as 0 means in UDP that there is none, and is the same number as all ones. RFC 768.
        let value = match sum.finish() {
            0 => 0xffff,
            value => value,
        };
        if let Some(field) = self.data_mut(packet).get_mut(at..at + 2) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Ends a packet; its frames are free again.
    pub fn free(&mut self, packet: Packet) {
        let frame = packet.into_frame();
        self.free_chain(frame.0);
    }

    /// A packet with these bytes, in as many frames as they need. `None`, and nothing taken, when that is more frames
    /// than are free or than a chain may have.
    pub fn copy_in<'a>(&mut self, segments: impl IntoIterator<Item = &'a [u8]>) -> Option<Packet> {
        let mut packet = self.allocate()?;
        let mut last = packet.frame.0;
        let mut frames = 1;
        for mut rest in segments {
            while !rest.is_empty() {
                let used = self.used(&packet, last);
                if used == self.frame_room() {
                    if frames == LONGEST_CHAIN {
                        self.free(packet);
                        return None;
                    }
                    let Some(next) = self.free.pop() else {
                        self.free(packet);
                        return None;
                    };
                    self.journal[next as usize] = HELD;
                    self.chain[next as usize] = UNLINKED;
                    self.chain[last as usize].next = next;
                    last = next;
                    frames += 1;
                    continue;
                }
                let count = rest.len().min(self.frame_room() - used);
                self.slice_mut(last, used + count)[used..].copy_from_slice(&rest[..count]);
                self.extend(&mut packet, last, count);
                rest = &rest[count..];
            }
        }
        Some(packet)
    }

    /// Frees the frames that a closed queue had. Returns how many there were.
    pub fn recover(&mut self, released: Released) -> usize {
        released.0.map_or(0, |holder| self.recall(holder))
    }

    /// Counts the frames by holder, one by one; for tests and for the health check, not for every breath.
    pub fn audit(&self) -> FrameCount {
        let mut count = FrameCount::default();
        for holder in &self.journal {
            match *holder {
                FREE => count.free += 1,
                HELD => count.held += 1,
                _ => count.in_queues += 1,
            }
        }
        debug_assert_eq!(count.free, self.free.len(), "journal and free list disagree");
        count
    }

    fn grow(&mut self, packet: &mut Packet, len: usize) -> bool {
        if packet.is_chained() || len > self.frame_room() {
            return false;
        }
        // Whatever packet was here before must not show through.
        self.slice_mut(packet.frame.0, len)[packet.head_len()..].fill(0);
        packet.head = len as u16;
        packet.total = len as u32;
        true
    }

    /// Cuts the chain that follows `frame` down to `len` bytes, more than none.
    fn truncate_tail(&mut self, frame: u32, len: usize) {
        let mut left = len;
        let mut frame = self.chain[frame as usize].next;
        while left > usize::from(self.chain[frame as usize].len) {
            left -= usize::from(self.chain[frame as usize].len);
            frame = self.chain[frame as usize].next;
        }
        let surplus = self.chain[frame as usize].next;
        self.chain[frame as usize] = Link { next: NONE, len: left as u16 };
        self.free_chain(surplus);
    }

    fn free_chain(&mut self, first: u32) {
        let mut frame = first;
        while frame != NONE {
            let index = frame as usize;
            debug_assert_eq!(self.journal[index], HELD, "frame {index} freed by one who does not have it");
            self.journal[index] = FREE;
            self.free.push(frame);
            frame = std::mem::replace(&mut self.chain[index], UNLINKED).next;
        }
    }

    fn used(&self, packet: &Packet, frame: u32) -> usize {
        if frame == packet.frame.0 { packet.head_len() } else { usize::from(self.chain[frame as usize].len) }
    }

    fn extend(&mut self, packet: &mut Packet, frame: u32, count: usize) {
        if frame == packet.frame.0 {
            packet.head += count as u16;
        } else {
            self.chain[frame as usize].len += count as u16;
        }
        packet.total += count as u32;
    }

    /// The first `len` packet bytes of a frame.
    fn slice(&self, frame: u32, len: usize) -> &[u8] {
        let start = self.start(frame, len);
        // SAFETY: `start` checked that the bytes lie in this frame of our memory (invariant 1). The frame is HELD, so
        // the kernel does not write to it (invariant 2), and `&self` keeps user code from doing so.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(start), len) }
    }

    fn slice_mut(&mut self, frame: u32, len: usize) -> &mut [u8] {
        let start = self.start(frame, len);
        // SAFETY: as in `slice`; `&mut self` keeps user code from any other access.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(start), len) }
    }

    /// Offset of a frame's packet bytes in our memory. Checked in release builds too: a token of another worker's
    /// memory must not reach past the end of this one.
    #[inline(always)]
    fn start(&self, frame: u32, len: usize) -> usize {
        debug_assert_eq!(self.journal[frame as usize], HELD, "frame {frame} looked at by one who does not have it");
        assert!(((frame as usize) < self.journal.len()) & (len <= self.room), "{len} bytes do not fit frame {frame}");
        // Cannot wrap: `new` has made sure that the last byte of the last frame has an address.
        (frame as usize).wrapping_mul(self.frame_size).wrapping_add(HEADROOM)
    }
}

/// What queues do with frames. Each function moves frames from one holder to another and checks that they were there:
/// what the kernel hands back is taken only if it was the kernel's.
impl Umem {
    /// A new name in the journal, for a queue that is about to take frames.
    pub(super) fn enroll(&mut self) -> Holder {
        let number = match self.queues.iter().position(|used| !used) {
            Some(number) => number,
            None => {
                assert!(self.queues.len() < QUEUES, "more than {QUEUES} queues on one worker");
                self.queues.push(false);
                self.queues.len() - 1
            }
        };
        self.queues[number] = true;
        Holder(number as u16)
    }

    /// True for the memory that starts at `address`.
    pub(super) fn starts_at(&self, address: usize) -> bool {
        self.base.as_ptr().addr() == address
    }

    /// Queues that have a name now.
    pub(super) fn enrolled(&self) -> usize {
        self.queues.iter().filter(|used| **used).count()
    }

    /// Frees all frames of a queue that is gone, and its name. Returns how many there were.
    pub(super) fn recall(&mut self, holder: Holder) -> usize {
        let before = self.free.len();
        for frame in 0..self.journal.len() {
            if self.journal[frame] == holder.0 {
                self.journal[frame] = FREE;
                self.chain[frame] = UNLINKED;
                self.free.push(frame as u32);
            }
        }
        self.queues[usize::from(holder.0)] = false;
        self.free.len() - before
    }

    /// Free to queue: a frame to receive into.
    pub(super) fn lend(&mut self, holder: Holder) -> Option<FrameIndex> {
        let frame = self.free.pop()?;
        self.journal[frame as usize] = holder.0;
        Some(FrameIndex(frame))
    }

    /// Queue to free: a transmitted frame, or a lent one that the ring did not take.
    #[must_use]
    pub(super) fn take_back(&mut self, frame: FrameIndex, holder: Holder) -> bool {
        if !self.is_with(frame, holder) {
            return false;
        }
        self.journal[frame.0 as usize] = FREE;
        self.chain[frame.0 as usize] = UNLINKED;
        self.free.push(frame.0);
        true
    }

    /// Queue to worker: the first frame of a received packet.
    pub(super) fn receive(&mut self, frame: FrameIndex, holder: Holder, len: usize) -> Option<Packet> {
        if !self.is_with(frame, holder) || len > self.frame_room() {
            return None;
        }
        self.journal[frame.0 as usize] = HELD;
        self.chain[frame.0 as usize] = UNLINKED;
        let mut packet = token(frame.0);
        packet.head = len as u16;
        packet.total = len as u32;
        Some(packet)
    }

    /// Queue to worker: a further frame of a packet whose last frame so far is `last`.
    #[must_use]
    pub(super) fn receive_more(
        &mut self,
        packet: &mut Packet,
        last: FrameIndex,
        frame: FrameIndex,
        holder: Holder,
        len: usize,
    ) -> bool {
        if !self.is_with(frame, holder) || len > self.frame_room() || len == 0 {
            return false;
        }
        self.journal[frame.0 as usize] = HELD;
        self.chain[frame.0 as usize] = Link { next: NONE, len: len as u16 };
        self.chain[last.0 as usize].next = frame.0;
        packet.total += len as u32;
        true
    }

    /// Moves a received packet's bytes to where every packet starts. Only an XDP program other than ours, or a driver
    /// with a headroom of its own, makes this necessary.
    #[must_use]
    pub(super) fn align(&mut self, frame: FrameIndex, holder: Holder, offset: usize, len: usize) -> bool {
        if !self.is_with(frame, holder) || len > self.frame_room() || offset + len > self.frame_size {
            return false;
        }
        let start = frame.0 as usize * self.frame_size;
        // SAFETY: both ranges lie in one frame of our memory (checked above, invariant 1). The kernel has handed the
        // frame back, although the journal does not say so yet, and `&mut self` excludes other user code.
        unsafe {
            let from = self.base.as_ptr().add(start + offset);
            let to = self.base.as_ptr().add(start + HEADROOM);
            std::ptr::copy(from, to, len);
        }
        true
    }

    /// Writes what the kernel is to do with a packet in front of it; false when there is no room.
    #[must_use]
    pub(super) fn write_metadata(&mut self, packet: &Packet, bytes: &[u8]) -> bool {
        debug_assert_eq!(self.journal[packet.frame.0 as usize], HELD, "a packet is its owner's");
        let offset = usize::from(packet.offset);
        if bytes.len() > offset || offset > self.frame_size || packet.frame.0 as usize >= self.journal.len() {
            return false;
        }
        let start = packet.frame.0 as usize * self.frame_size + offset - bytes.len();
        // SAFETY: the range lies in one frame of our memory (checked above, invariant 1), which the token owns, and
        // `&mut self` excludes other user code.
        unsafe { self.base.as_ptr().add(start).copy_from(bytes.as_ptr(), bytes.len()) };
        true
    }

    /// Frames of a packet.
    pub(super) fn chain_len(&self, packet: &Packet) -> usize {
        let mut frames = 1;
        let mut frame = self.chain[packet.frame.0 as usize].next;
        while frame != NONE {
            frames += 1;
            frame = self.chain[frame as usize].next;
        }
        frames
    }

    /// Worker to queue: all frames of a packet that is to be sent, shown to `each` with their lengths, first to last.
    pub(super) fn surrender(&mut self, packet: Packet, holder: Holder, mut each: impl FnMut(FrameIndex, usize)) {
        let mut len = packet.head_len();
        let mut frame = packet.into_frame().0;
        loop {
            debug_assert_eq!(self.journal[frame as usize], HELD, "frame {frame} sent by one who does not have it");
            self.journal[frame as usize] = holder.0;
            each(FrameIndex(frame), len);
            frame = std::mem::replace(&mut self.chain[frame as usize], UNLINKED).next;
            if frame == NONE {
                return;
            }
            len = usize::from(self.chain[frame as usize].len);
        }
    }

    fn is_with(&self, frame: FrameIndex, holder: Holder) -> bool {
        self.journal.get(frame.0 as usize) == Some(&holder.0)
    }
}

fn token(frame: u32) -> Packet {
    Packet { frame: FrameIndex(frame), offset: HEADROOM as u16, head: 0, total: 0, offload: Offload::default() }
}

/// Zeroed memory from the allocator, aligned as the kernel would align it.
struct HeapMemory {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is owned by this struct alone and is not tied to a thread.
unsafe impl Send for HeapMemory {}

impl HeapMemory {
    const PAGE: usize = 4096;

    fn new(len: usize) -> HeapMemory {
        assert!(len > 0, "a worker needs frames");
        let Ok(layout) = Layout::from_size_align(len, Self::PAGE) else {
            panic!("{len} bytes of frames are more than the address space has");
        };
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(memory) else { handle_alloc_error(layout) };
        HeapMemory { base, layout }
    }
}

impl Drop for HeapMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests;
