//! `XskQueue`, a `Queue` over one AF_XDP socket.
//!
//! ```text
//!     free ──lend──▶ fill ring ──▶ kernel ──▶ receive ring ──▶ packet ──▶ transmit ring ──▶ kernel ──▶ completion ring ──▶ free
//!                    refill                    receive          send        flush                        reap
//! ```
//!
//! Filling: a queue starts with `FIRST_FILL` frames in the kernel's hands, and wants `ACTIVE_FILL` when packets begin to arrive.
//! When the kernel has used half of them before we came back, that number doubles: at the pace of a sender that doubles too, no packet finds the ring empty. It may grow
//! beyond the queue's share of the worker's frames while there is plenty, and shrinks again when most of it stays unused.
//! Frames that arrive are replaced only up to that number, and never from the last eighth of the pool, which is for replies
//! and for other queues.
//!
//! Sending: packets are staged one by one and shown to the kernel once per flush. In copy mode the kernel sends only when
//! kicked, a bounded number of packets per kick, so `flush` kicks until the ring is empty or two kicks in a row have moved
//! nothing. A veth whose far end receives on a thread of its own holds 256 packets and loses what exceeds them; it gives a
//! frame back when that thread has taken the packet. So in copy mode at most `WINDOW` frames are on their way at a time, and
//! what is beyond waits here, where nothing is lost, as long as the worker has frames to spare. The window is advice: if none
//! comes back for `PATIENCE` flushes, the rest is sent all the same.
//!
//! Checksums: a packet may carry a partial one. The kernel is asked to finish it, in the bytes before the packet, where it
//! can; else it is finished here.
//!
//! Packets of several frames arrive and leave as several descriptors. `Assembler` puts arriving ones together, across
//! calls where a budget cuts between them; leaving ones go on the ring all or none.
//!
//! Invariant: `lent` counts the frames that the kernel may fill or has filled, `in_flight` those published and not come
//! back; with the staged ones they are what the journal says is with this queue.
//! Left out: taking frames back from the fill ring, which the kernel does not offer; a queue that is idle after a burst
//! keeps its share until packets arrive or it is closed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::assemble::{Assembler, Piece};
use super::own::{self, METADATA};
use super::rings::Rings;
use super::{QueueOptions, XskMemory, copy_mode};
use crate::io::ring::Descriptor;
use crate::io::umem::{HEADROOM, Holder, Released, Umem};
use crate::io::{CopyMode, Queue, QueueStatistics, Retired};
use crate::packet::{FrameIndex, Offload, Packet};

/// Frames that a queue starts with.
const FIRST_FILL: usize = 64;

/// Frames that a queue wants when packets arrive, if there are plenty: a sender's first burst.
const ACTIVE_FILL: usize = 256;

/// Fewest frames that a queue's share may shrink to when a worker has very many queues.
const SMALLEST_SHARE: usize = 8;

/// Refills in a row with nearly all frames unused after which a queue is content with half of them.
const CALM: u32 = 4096;

/// Most frames handed to a kernel that copies and not come back. The ring of a veth has 256 places, of which it frees some
/// later than it takes packets out, and the host may send there too.
const WINDOW: u32 = 192;

/// Flushes in a row without a frame come back after which the window is not kept: some tens of milliseconds.
const PATIENCE: u32 = 1 << 16;

/// Descriptor options: the packet goes on in the next descriptor; there is something in front of it for the kernel.
const XDP_PKT_CONTD: u32 = libc::XDP_PKT_CONTD;
const XDP_TX_METADATA: u32 = libc::XDP_TX_METADATA;

/// Shortest packet that can be sent: an Ethernet header. The kernel keeps the frame of an empty one.
const SHORTEST_PACKET: usize = 14;

/// Attempts to get transmitted frames back before the socket is closed all the same.
const CLOSE_ATTEMPTS: usize = 4;

/// One socket, bound to one queue of one interface.
pub struct XskQueue {
    rings: Rings,
    /// Frames that the kernel may fill, or has filled and we have not read.
    lent: usize,
    fill_target: usize,
    /// Frames shown to the kernel and not come back.
    in_flight: u32,
    /// True when packets may wait in the transmit ring for a kick.
    unsent: bool,
    /// True when frames have arrived since the last refill.
    received: bool,
    /// The kernel finishes checksums.
    finishes_checksums: bool,
    copy_mode: CopyMode,
    multi_buffer: bool,
    busy_poll: bool,
    /// This queue's name in the journal; taken with the first frame.
    holder: Option<Holder>,
    fd: RawFd,
    frame_size: usize,
    /// Where the memory starts; see `holder`.
    base: usize,
    fill_limit: usize,
    /// Refills in a row that found nearly all frames unused.
    calm: u32,
    /// Flushes in a row that found the window full.
    patience: u32,
    assembler: Assembler,
    /// Descriptors on the completion ring that named a frame which was not ours to get back.
    invalid: u64,
    interface: String,
    interface_index: u32,
    queue_id: u32,
}

/// A queue that its worker has let go, and whose socket is still open.
pub struct RetiredQueue {
    holder: Option<Holder>,
    rings: Rings,
    copy_mode: CopyMode,
    interface_index: u32,
    queue_id: u32,
}

impl Retired for RetiredQueue {
    /// Closes the socket. Where frames are copied the kernel returns from that when nothing receives into them any more, which
    /// takes it 8 to 16 ms. A driver that uses them in place is told later: its frames come back when it has let the queue
    /// go, and never if it has not within `RELEASE`, because it could still write to them.
    fn close(self) -> Released {
        drop(self.rings);
        let is_released =
            self.copy_mode != CopyMode::ZeroCopy || own::await_release(self.interface_index, self.queue_id);
        Released(self.holder.filter(|_| is_released))
    }
}

/// A second hold on a queue's socket, to read what the kernel counts there while a worker has the queue.
///
/// The socket stays open as long as this exists: let it go before the worker closes the queue.
pub struct QueueWatch(OwnedFd);

impl QueueWatch {
    /// The socket, for the map of sockets of another program.
    pub fn map_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// What the kernel has counted since the socket was made.
    pub fn statistics(&self) -> QueueStatistics {
        kernel_statistics(self.0.as_raw_fd())
    }
}

/// `XDP_STATISTICS` of a socket (include/uapi/linux/if_xdp.h).
fn kernel_statistics(fd: RawFd) -> QueueStatistics {
    // SAFETY: the structure is integers only, for which zero is a value.
    let mut kernel: libc::xdp_statistics = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::xdp_statistics>() as libc::socklen_t;
    let place: *mut libc::xdp_statistics = &mut kernel;
    // SAFETY: both pointers are to values that outlive the call, and `length` is the size of the first. The call fails
    // only for a descriptor that is not an AF_XDP socket, and then leaves zeroes.
    unsafe { libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_STATISTICS, place.cast(), &mut length) };
    QueueStatistics {
        receive_dropped: kernel.rx_dropped,
        receive_ring_full: kernel.rx_ring_full,
        fill_ring_empty: kernel.rx_fill_ring_empty_descs,
        invalid_descriptors: kernel.rx_invalid_descs + kernel.tx_invalid_descs,
    }
}

impl XskQueue {
    pub(super) fn new(
        memory: &XskMemory,
        rings: Rings,
        interface: String,
        queue_id: u32,
        multi_buffer: bool,
        options: QueueOptions,
    ) -> XskQueue {
        let copy_mode = copy_mode(rings.fd());
        // None: it has just gone, and whoever used its frames with it.
        let interface_index = own::interface_index(&interface).unwrap_or(0);
        let shared = &memory.shared;
        let fill_limit = options.fill_limit.min(shared.options.ring_size as usize);
        XskQueue {
            lent: 0,
            fill_target: FIRST_FILL.min(fill_limit),
            in_flight: 0,
            unsent: false,
            received: false,
            // A driver that uses frames in place may not know how.
            finishes_checksums: memory.finishes_checksums() && copy_mode == CopyMode::Copy,
            copy_mode,
            multi_buffer,
            busy_poll: options.busy_poll,
            holder: None,
            fd: rings.fd(),
            frame_size: shared.options.frame_size,
            base: shared.base,
            fill_limit,
            calm: 0,
            patience: 0,
            assembler: Assembler::default(),
            invalid: 0,
            interface,
            interface_index,
            queue_id,
            rings,
        }
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    pub fn queue_id(&self) -> u32 {
        self.queue_id
    }

    pub fn copy_mode(&self) -> CopyMode {
        self.copy_mode
    }

    /// Packets may be longer than a frame.
    pub fn is_multi_buffer(&self) -> bool {
        self.multi_buffer
    }

    /// Receiving polls the driver.
    pub fn is_busy_polled(&self) -> bool {
        self.busy_poll
    }

    /// The socket, for the program's map of sockets.
    pub fn map_fd(&self) -> RawFd {
        self.fd
    }

    /// Another hold on the socket, for who wants to read its statistics elsewhere.
    pub fn watch(&self) -> io::Result<QueueWatch> {
        // SAFETY: the descriptor is the socket's, which `self` keeps open during the call.
        unsafe { BorrowedFd::borrow_raw(self.fd) }.try_clone_to_owned().map(QueueWatch)
    }

    /// This queue's name. Frames of another memory would be booked to the wrong owner, so that is checked here, where
    /// every operation begins.
    fn holder(&mut self, umem: &mut Umem) -> Holder {
        assert!(umem.starts_at(self.base), "queue {} of {} used with other frames", self.queue_id, self.interface);
        *self.holder.get_or_insert_with(|| umem.enroll())
    }

    /// Frees the frames that the kernel has transmitted.
    fn reap(&mut self, umem: &mut Umem) {
        if self.in_flight == 0 {
            return;
        }
        let holder = self.holder(umem);
        let (mut back, mut invalid) = (0, 0);
        self.rings.complete(self.in_flight, |frame| {
            if umem.take_back(frame, holder) {
                back += 1;
            } else {
                invalid += 1;
            }
        });
        self.in_flight -= back;
        self.invalid += invalid;
    }

    /// Lends the kernel frames up to the target.
    fn refill(&mut self, umem: &mut Umem) {
        if !self.received && self.lent >= self.fill_target {
            return;
        }
        let holder = self.holder(umem);
        if self.received {
            self.adjust();
        }
        self.received = false;
        let share = (umem.frame_count() / 2 / umem.enrolled()).max(SMALLEST_SHARE);
        // What is free beyond a quarter of all frames may go to whoever has shown that it needs more.
        let plenty = match self.fill_target > FIRST_FILL {
            true => umem.free_frames().saturating_sub(umem.frame_count() / 4) + self.lent,
            false => 0,
        };
        self.fill_target = self.fill_target.min(self.fill_limit.min(share.max(plenty)));
        // The last eighth is for sending; of that, half helps those out that have hardly a frame to receive into.
        let reserve = umem.frame_count() / 8;
        let least = SMALLEST_SHARE.saturating_sub(self.lent).min(umem.free_frames().saturating_sub(reserve / 2));
        let room = umem.free_frames().saturating_sub(reserve).max(least);
        let wanted = self.fill_target.saturating_sub(self.lent).min(room);
        if wanted > 0 {
            self.lent += self.rings.lend(wanted, || umem.lend(holder));
        }
        if self.copy_mode == CopyMode::ZeroCopy && self.rings.fill_needs_wakeup() {
            // A driver that is not ready is asked again with the next refill.
            self.poll_driver();
        }
    }

    /// Lets the driver see to what has arrived and to the fill ring.
    fn poll_driver(&self) {
        let nowhere = std::ptr::null_mut();
        // SAFETY: no buffer is passed.
        unsafe { libc::recvfrom(self.fd, nowhere, 0, libc::MSG_DONTWAIT, std::ptr::null_mut(), std::ptr::null_mut()) };
    }

    /// Makes the target fit what the kernel has used since the last refill.
    fn adjust(&mut self) {
        let active = ACTIVE_FILL.min(self.fill_limit);
        if self.fill_target < active {
            self.fill_target = active;
            return;
        }
        let unused = self.rings.unfilled() as usize;
        if unused <= self.fill_target / 2 {
            self.fill_target = (self.fill_target * 2).min(self.fill_limit);
            self.calm = 0;
        } else if unused < self.fill_target / 8 * 7 {
            self.calm = 0;
        } else {
            self.calm += 1;
            if self.calm >= CALM && self.fill_target > active {
                self.fill_target = (self.fill_target / 2).max(active);
                self.calm = 0;
            }
        }
    }

    /// Asks the kernel to send what is on the transmit ring.
    fn kick(&self) -> io::Result<()> {
        // SAFETY: no buffer is passed.
        let result = unsafe { libc::sendto(self.fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Shows the kernel staged packets, whole ones, as many as the window has room for.
    fn publish(&mut self) {
        let staged = self.rings.staged();
        let mut count = staged;
        if self.copy_mode == CopyMode::Copy && self.patience < PATIENCE {
            count = staged.min(WINDOW.saturating_sub(self.in_flight));
            // Up to the end of a packet.
            while count > 0
                && count < staged
                && self.rings.staged_at(count - 1).is_some_and(|last| last.options & XDP_PKT_CONTD != 0)
            {
                count += 1;
            }
        }
        if count > 0 {
            self.rings.publish(count);
            self.in_flight += count;
        }
    }

    /// Kicks until the kernel has taken what it was shown, or takes no more. False when it cannot send at all.
    fn push(&mut self, umem: &mut Umem) -> bool {
        let mut before = self.rings.untaken();
        let mut idle_kicks = 0;
        while before > 0 && idle_kicks < 2 {
            if let Err(error) = self.kick() {
                match error.raw_os_error() {
                    // More to send than one kick may, or no room in the kernel at present.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => {}
                    // The interface is down or gone. What is on the ring stays there until it is up, or we close.
                    _ => return false,
                }
            }
            let now = self.rings.untaken();
            if now == before {
                // Perhaps the completion ring is full.
                self.reap(umem);
                idle_kicks += 1;
            } else {
                idle_kicks = 0;
            }
            before = now;
        }
        true
    }

    /// A partial checksum: asks the kernel to finish it, or finishes it. Options of the descriptor.
    fn finish_checksum(&self, umem: &mut Umem, packet: &mut Packet) -> u32 {
        let offload = std::mem::take(&mut packet.offload);
        if offload.checksum_start == 0 {
            return 0;
        }
        if self.finishes_checksums && umem.write_metadata(packet, &metadata(offload)) {
            return XDP_TX_METADATA;
        }
        umem.finish_checksum(packet, packet.len(), offload);
        0
    }
}

/// What stands in front of a packet whose checksum the kernel is to finish (struct xsk_tx_metadata): flags, then where
/// summing starts and, from there, where the checksum goes.
fn metadata(offload: Offload) -> [u8; METADATA] {
    let mut bytes = [0; METADATA];
    bytes[..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
    bytes[8..10].copy_from_slice(&offload.checksum_start.to_ne_bytes());
    bytes[10..12].copy_from_slice(&offload.checksum_offset.to_ne_bytes());
    bytes
}

const _: () = assert!(METADATA <= HEADROOM);

impl Queue for XskQueue {
    type Retired = RetiredQueue;

    #[inline]
    fn has_arrived(&mut self) -> bool {
        // Nothing arrives at a queue that is polled before `receive` has asked for it.
        self.busy_poll || self.rings.has_received()
    }

    fn receive(&mut self, umem: &mut Umem, budget: usize, out: &mut Vec<Packet>) {
        if !self.rings.has_received() {
            if !self.busy_poll {
                return;
            }
            self.poll_driver();
        }
        let holder = self.holder(umem);
        let (frame_size, assembler) = (self.frame_size as u64, &mut self.assembler);
        let count = self.rings.receive(budget as u32, |descriptor| {
            let piece = Piece {
                frame: FrameIndex((descriptor.address / frame_size) as u32),
                offset: (descriptor.address % frame_size) as usize,
                len: descriptor.length as usize,
                more: descriptor.options & XDP_PKT_CONTD != 0,
            };
            out.extend(assembler.accept(umem, holder, piece));
        });
        self.received |= count > 0;
        self.lent -= count.min(self.lent);
    }

    fn send(&mut self, umem: &mut Umem, mut packet: Packet) -> Result<(), Packet> {
        let frames = if packet.is_chained() { umem.chain_len(&packet) } else { 1 };
        if packet.len() < SHORTEST_PACKET || (frames > 1 && !self.multi_buffer) {
            return Err(packet);
        }
        if !self.rings.has_room(frames as u32) {
            return Err(packet);
        }
        // Those that wait for a slow receiver must not have the frames that all others need.
        if self.rings.staged() >= WINDOW && umem.free_frames() < umem.frame_count() / 4 {
            return Err(packet);
        }
        let holder = self.holder(umem);
        let mut options = self.finish_checksum(umem, &mut packet);
        let (frame_size, rings) = (self.frame_size as u64, &mut self.rings);
        let mut left = frames;
        umem.surrender(packet, holder, |frame, len| {
            left -= 1;
            if left > 0 {
                options |= XDP_PKT_CONTD;
            } else {
                options &= !XDP_PKT_CONTD;
            }
            let address = u64::from(frame.0) * frame_size + HEADROOM as u64;
            let staged = rings.stage(Descriptor { address, length: len as u32, options });
            debug_assert!(staged, "the ring had room a moment ago");
            options = 0;
        });
        self.unsent = true;
        Ok(())
    }

    fn flush(&mut self, umem: &mut Umem) {
        if !self.unsent {
            return;
        }
        if self.copy_mode == CopyMode::ZeroCopy {
            self.publish();
            // The driver sends on its own once awake. If it is not ready, or has taken as much as it has room for and will
            // not come back for the rest by itself, the next flush asks again.
            let is_refused = self.rings.transmit_needs_wakeup() && self.kick().is_err();
            self.unsent = is_refused || self.rings.untaken() > 0;
            return;
        }
        loop {
            self.reap(umem);
            self.publish();
            if !self.push(umem) {
                return;
            }
            self.unsent = self.rings.staged() > 0 || self.rings.untaken() > 0;
            if !self.unsent {
                self.patience = 0;
                return;
            }
            let before = self.in_flight;
            self.reap(umem);
            if self.in_flight == before {
                self.patience = self.patience.saturating_add(1);
                return;
            }
            self.patience = 0;
        }
    }

    fn reclaim(&mut self, umem: &mut Umem) {
        self.reap(umem);
        self.refill(umem);
    }

    fn is_settled(&self) -> bool {
        self.in_flight == 0 && !self.unsent && !self.received && self.lent >= self.fill_target
    }

    fn is_held_up(&self) -> bool {
        self.rings.staged() > 0 && self.patience > 0 && self.patience <= PATIENCE
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.fd)
    }

    fn statistics(&self) -> QueueStatistics {
        let kernel = kernel_statistics(self.fd);
        let invalid_descriptors = kernel.invalid_descriptors + self.assembler.invalid() + self.invalid;
        QueueStatistics { invalid_descriptors, ..kernel }
    }

    fn retire(mut self, umem: &mut Umem) -> RetiredQueue {
        for _ in 0..CLOSE_ATTEMPTS {
            if self.in_flight == 0 && self.rings.staged() == 0 {
                break;
            }
            self.flush(umem);
            self.reap(umem);
        }
        self.assembler.abandon(umem);
        RetiredQueue {
            holder: self.holder,
            rings: self.rings,
            copy_mode: self.copy_mode,
            interface_index: self.interface_index,
            queue_id: self.queue_id,
        }
    }
}

/// A queue is opened by the control thread and used by a worker.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<XskQueue>();
    is_send::<XskMemory>();
    is_send::<RetiredQueue>();
};
