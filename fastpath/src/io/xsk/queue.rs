//! `XskQueue`, a `Queue` over one AF_XDP socket.
//!
//! ```text
//!     free ──lend──▶ fill ring ──▶ kernel ──▶ receive ring ──▶ packet ──▶ transmit ring ──▶ kernel ──▶ completion ring ──▶ free
//!                    refill                    receive          send        flush                        reap
//! ```
//!
//! Filling: a queue starts with `FIRST_FILL` frames in the kernel's hands. When the kernel has used them all before we
//! came back, that number doubles, up to this queue's share of the worker's frames. Frames that arrive are replaced
//! only up to that number, and never from the last eighth of the pool, which is for replies and for other queues.
//!
//! Sending: in copy mode the kernel sends only when kicked, a bounded number of packets per kick, so `flush` kicks
//! until the ring is empty or two kicks in a row have moved nothing. What is left goes with the next flush.
//!
//! Packets of several frames arrive and leave as several descriptors. `Assembler` puts arriving ones together, across
//! calls where a budget cuts between them; leaving ones go on the ring all or none.
//!
//! Invariant: `lent` and `in_flight` count the frames that the journal says are with this queue.
//! Left out: taking frames back from the fill ring, which the kernel does not offer; a queue that is idle after a burst
//! keeps its share until packets arrive or it is closed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use super::assemble::{Assembler, Piece};
use super::{QueueOptions, Rings, XskMemory};
use crate::io::umem::{Holder, LONGEST_CHAIN, Released, Umem};
use crate::io::{CopyMode, Queue, QueueStatistics};
use crate::packet::{FrameIndex, Packet};

/// Frames that a queue starts with.
const FIRST_FILL: usize = 64;

/// Fewest frames that a queue's share may shrink to when a worker has very many queues.
const SMALLEST_SHARE: usize = 8;

/// Descriptors moved per ring operation.
const BATCH: usize = 64;

/// Descriptor option: the packet goes on in the next descriptor.
const XDP_PKT_CONTD: u32 = 1;

/// Shortest packet that can be sent: an Ethernet header. The kernel keeps the frame of an empty one.
const SHORTEST_PACKET: usize = 14;

/// Attempts to get transmitted frames back before the socket is closed all the same.
const CLOSE_ATTEMPTS: usize = 4;

/// One socket, bound to one queue of one interface.
pub struct XskQueue {
    interface: String,
    queue_id: u32,
    copy_mode: CopyMode,
    multi_buffer: bool,
    fd: RawFd,
    receive: RxQueue,
    transmit: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    umem: xsk_rs::Umem,
    descriptors: Arc<[FrameDesc]>,
    /// Where the memory starts; see `holder`.
    base: usize,
    frame_size: usize,
    ring_size: u32,
    /// This queue's name in the journal; taken with the first frame.
    holder: Option<Holder>,
    /// Frames that the kernel may fill, or has filled and we have not read.
    lent: usize,
    fill_target: usize,
    fill_limit: usize,
    /// Frames sent and not come back.
    in_flight: usize,
    /// True when packets may wait in the transmit ring for a kick.
    unsent: bool,
    /// True when frames have arrived since the last refill.
    received: bool,
    assembler: Assembler,
    /// Descriptors on the completion ring that named a frame which was not ours to get back.
    invalid: u64,
    batch: Box<[FrameDesc; BATCH]>,
    chain: Vec<FrameDesc>,
}

/// A queue that its worker has let go, and whose socket is still open.
pub struct RetiredQueue {
    holder: Option<Holder>,
    rings: (RxQueue, TxQueue, FillQueue, CompQueue),
}

impl RetiredQueue {
    /// Closes the socket. The kernel returns from that when nothing receives into its frames any more, which takes it
    /// 8 to 16 ms.
    pub fn close(self) -> Released {
        drop(self.rings);
        Released(self.holder)
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
        copy_mode: CopyMode,
        options: QueueOptions,
    ) -> XskQueue {
        let shared = &memory.shared;
        XskQueue {
            interface,
            queue_id,
            copy_mode,
            multi_buffer: shared.multi_buffer,
            fd: rings.receive.fd().as_raw_fd(),
            receive: rings.receive,
            transmit: rings.transmit,
            fill: rings.fill,
            completion: rings.completion,
            umem: shared.umem.clone(),
            descriptors: shared.descriptors.clone(),
            base: shared.base,
            frame_size: shared.options.frame_size,
            ring_size: shared.options.ring_size,
            holder: None,
            lent: 0,
            fill_target: FIRST_FILL.min(options.fill_limit),
            fill_limit: options.fill_limit.min(shared.options.ring_size as usize),
            in_flight: 0,
            unsent: false,
            received: false,
            assembler: Assembler::default(),
            invalid: 0,
            batch: Box::new([FrameDesc::default(); BATCH]),
            chain: Vec::with_capacity(LONGEST_CHAIN),
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

    /// The socket, for the program's map of sockets.
    pub fn map_fd(&self) -> RawFd {
        self.fd
    }

    /// Another hold on the socket, for who wants to read its statistics elsewhere.
    pub fn watch(&self) -> io::Result<QueueWatch> {
        // SAFETY: the descriptor is the socket's, which `self` keeps open during the call.
        unsafe { BorrowedFd::borrow_raw(self.fd) }.try_clone_to_owned().map(QueueWatch)
    }

    /// The worker's half of closing, which does not pause it. `RetiredQueue::close` is the other half, for another
    /// thread; the frames come back to the worker with what that returns.
    pub fn retire(mut self, umem: &mut Umem) -> RetiredQueue {
        for _ in 0..CLOSE_ATTEMPTS {
            if self.in_flight == 0 {
                break;
            }
            self.flush(umem);
            self.reap(umem);
        }
        self.assembler.abandon(umem);
        RetiredQueue { holder: self.holder, rings: (self.receive, self.transmit, self.fill, self.completion) }
    }

    /// This queue's name. Frames of another memory would be booked to the wrong owner, so that is checked here, where
    /// every operation begins.
    fn holder(&mut self, umem: &mut Umem) -> Holder {
        assert!(umem.starts_at(self.base), "queue {} of {} used with other frames", self.queue_id, self.interface);
        *self.holder.get_or_insert_with(|| umem.enroll())
    }

    /// Frees the frames that the kernel has transmitted.
    fn reap(&mut self, umem: &mut Umem) {
        let holder = self.holder(umem);
        while self.in_flight > 0 {
            // SAFETY: the ring and the descriptors belong to one memory; what it names is checked by `take_back`.
            let count = unsafe { self.completion.consume(&mut self.batch[..]) };
            for descriptor in &self.batch[..count] {
                let frame = FrameIndex((descriptor.addr() / self.frame_size) as u32);
                if umem.take_back(frame, holder) {
                    self.in_flight -= 1;
                } else {
                    self.invalid += 1;
                }
            }
            if count < BATCH {
                return;
            }
        }
    }

    /// Lends the kernel frames up to the target.
    fn refill(&mut self, umem: &mut Umem) {
        if !self.received && self.lent >= self.fill_target {
            return;
        }
        let holder = self.holder(umem);
        let share = (umem.frame_count() / 2 / umem.enrolled()).max(SMALLEST_SHARE);
        let limit = self.fill_limit.min(share);
        if self.received && self.fill.nb_free_exact() == self.ring_size {
            self.fill_target *= 2;
        }
        self.received = false;
        self.fill_target = self.fill_target.min(limit);
        let reserve = umem.frame_count() / 8;
        let room = umem.free_frames().saturating_sub(reserve);
        let mut wanted = self.fill_target.saturating_sub(self.lent).min(room);
        while wanted > 0 {
            let count = self.lend(umem, holder, wanted.min(BATCH));
            if count == 0 {
                break;
            }
            wanted -= count;
        }
        if self.fill.needs_wakeup() && self.copy_mode == CopyMode::ZeroCopy {
            // SAFETY: no buffer is passed. Failure means that the driver is not ready; the next refill asks again.
            unsafe {
                libc::recvfrom(
                    self.fd,
                    std::ptr::null_mut(),
                    0,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                )
            };
        }
    }

    /// Puts `count` frames on the fill ring, at most `BATCH`; how many it took.
    fn lend(&mut self, umem: &mut Umem, holder: Holder, count: usize) -> usize {
        let mut taken = 0;
        for slot in &mut self.batch[..count] {
            let Some(frame) = umem.lend(holder) else { break };
            *slot = self.descriptors[frame.0 as usize];
            taken += 1;
        }
        // SAFETY: the descriptors are of this memory, and `Umem::lend` has made their frames this queue's: they were
        // free, so neither a packet nor another ring has them.
        let produced = unsafe { self.fill.produce(&self.batch[..taken]) };
        for slot in &self.batch[produced..taken] {
            let frame = FrameIndex((slot.addr() / self.frame_size) as u32);
            let returned = umem.take_back(frame, holder);
            debug_assert!(returned, "frame {} was lent a moment ago", frame.0);
        }
        self.lent += produced;
        produced
    }

    /// Asks the kernel to send what is on the transmit ring.
    fn kick(&self) -> io::Result<()> {
        // SAFETY: no buffer is passed.
        let result = unsafe { libc::sendto(self.fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn waiting(&mut self) -> u32 {
        self.ring_size - self.transmit.nb_free_exact()
    }
}

impl Queue for XskQueue {
    fn has_arrived(&mut self) -> bool {
        self.receive.nb_avail(1) > 0
    }

    fn receive(&mut self, umem: &mut Umem, budget: usize, out: &mut Vec<Packet>) {
        let holder = self.holder(umem);
        let mut left = budget;
        while left > 0 {
            let wanted = left.min(BATCH);
            // SAFETY: the ring and the descriptors belong to one memory; what it names is checked by `Umem::receive`.
            let count = unsafe { self.receive.consume(&mut self.batch[..wanted]) };
            if count == 0 {
                return;
            }
            self.received = true;
            self.lent -= count.min(self.lent);
            for descriptor in &self.batch[..count] {
                let piece = Piece {
                    frame: FrameIndex((descriptor.addr() / self.frame_size) as u32),
                    offset: descriptor.addr() % self.frame_size,
                    len: descriptor.lengths().data(),
                    more: descriptor.has_more_frames(),
                };
                out.extend(self.assembler.accept(umem, holder, piece));
            }
            if count < wanted {
                return;
            }
            left -= count;
        }
    }

    fn send(&mut self, umem: &mut Umem, packet: Packet) -> Result<(), Packet> {
        let frames = if packet.is_chained() { umem.chain_len(&packet) } else { 1 };
        if packet.len() < SHORTEST_PACKET || (frames > 1 && !self.multi_buffer) {
            return Err(packet);
        }
        if self.transmit.nb_free(frames as u32) < frames as u32 {
            return Err(packet);
        }
        let holder = self.holder(umem);
        self.chain.clear();
        umem.surrender(packet, holder, |frame, len| {
            let mut descriptor = self.descriptors[frame.0 as usize];
            // SAFETY: the frame is of this memory; it was the packet's, and is not on the ring yet.
            unsafe { self.umem.data_mut(&mut descriptor) }.cursor().set_pos(len);
            descriptor.set_options(XDP_PKT_CONTD);
            self.chain.push(descriptor);
        });
        if let Some(last) = self.chain.last_mut() {
            last.set_options(0);
        }
        // SAFETY: the descriptors are of this memory, and `Umem::surrender` has made their frames this queue's.
        let produced = unsafe { self.transmit.produce(&self.chain) };
        debug_assert_eq!(produced, frames, "the ring had room a moment ago");
        self.in_flight += produced;
        self.unsent = true;
        Ok(())
    }

    fn flush(&mut self, umem: &mut Umem) {
        if !self.unsent {
            return;
        }
        if self.copy_mode == CopyMode::ZeroCopy {
            if self.transmit.needs_wakeup() {
                // The driver sends on its own once awake; if it is not ready, the next flush asks again.
                self.unsent = self.kick().is_err();
            } else {
                self.unsent = false;
            }
            return;
        }
        let mut before = self.waiting();
        let mut idle_kicks = 0;
        while before > 0 && idle_kicks < 2 {
            if let Err(error) = self.kick() {
                match error.raw_os_error() {
                    // More to send than one kick may, or no room in the kernel at present.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => {}
                    // The interface is down or gone. What is on the ring stays there until it is up, or we close.
                    _ => return,
                }
            }
            let now = self.waiting();
            if now == before {
                // Perhaps the completion ring is full.
                self.reap(umem);
                idle_kicks += 1;
            } else {
                idle_kicks = 0;
            }
            before = now;
        }
        self.unsent = before > 0;
    }

    fn reclaim(&mut self, umem: &mut Umem) {
        self.reap(umem);
        self.refill(umem);
    }

    fn is_settled(&self) -> bool {
        self.in_flight == 0 && !self.received && self.lent >= self.fill_target
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.fd)
    }

    fn statistics(&self) -> QueueStatistics {
        let kernel = kernel_statistics(self.fd);
        let invalid_descriptors = kernel.invalid_descriptors + self.assembler.invalid() + self.invalid;
        QueueStatistics { invalid_descriptors, ..kernel }
    }

    fn close(self, umem: &mut Umem) {
        let released = self.retire(umem).close();
        umem.recover(released);
    }
}

/// A queue is opened by the control thread and used by a worker.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<XskQueue>();
    is_send::<XskMemory>();
    is_send::<RetiredQueue>();
};
