//! AF_XDP sockets by xsk-rs.
//!
//! xsk-rs makes the memory, the sockets and the rings, and hands descriptors out that are used by index here: it cannot make
//! one from an address. A ring operation is a call into a C library for each descriptor, so packets are gathered and
//! produced together.
//!
//! Invariant: a socket is made with INHIBIT_PROG_LOAD, always; the program on the interface is ours (`program.rs`).
//! Left out: what xsk-rs cannot do, which is metadata on transmit, memory of our own, and moving a packet's start.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use super::{XskError, XskOptions};
use crate::io::ring::Descriptor;
use crate::io::umem::HEADROOM;
use crate::packet::FrameIndex;

/// Descriptors moved per ring operation.
const BATCH: usize = 64;

/// The frames as xsk-rs has them.
pub(super) struct ForeignMemory {
    umem: xsk_rs::Umem,
    base: NonNull<u8>,
    /// One descriptor per frame, at the common packet start; the only way to have one is to keep it.
    descriptors: Arc<[FrameDesc]>,
    frame_size: usize,
    ring_size: QueueSize,
}

// SAFETY: `base` is an address that is only handed on, to who argues for its use; the rest is Send and Sync.
unsafe impl Send for ForeignMemory {}
// SAFETY: as above.
unsafe impl Sync for ForeignMemory {}

/// A bound socket.
pub(super) struct ForeignRings {
    pub(super) transmit: TxQueue,
    receive: RxQueue,
    pub(super) fill: FillQueue,
    completion: CompQueue,
    umem: xsk_rs::Umem,
    descriptors: Arc<[FrameDesc]>,
    frame_size: usize,
    ring_size: u32,
    /// To be produced with the next publication.
    pub(super) staged: Vec<FrameDesc>,
    /// Room on the transmit ring, as last seen, the staged not counted.
    room: usize,
    batch: Box<[FrameDesc; BATCH]>,
}

impl ForeignMemory {
    pub(super) fn new(options: &XskOptions) -> Result<ForeignMemory, XskError> {
        let frame_count = NonZeroU32::new(options.frame_count).ok_or(XskError::FrameCount)?;
        let ring_size =
            QueueSize::new(options.ring_size).map_err(|_| XskError::RingSize { given: options.ring_size })?;
        let wrong_size = || XskError::FrameSize { given: options.frame_size };
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(options.frame_size as u32).map_err(|_| wrong_size())?)
            .frame_headroom(0)
            .fill_queue_size(ring_size)
            .comp_queue_size(ring_size)
            .build()
            .map_err(|_| wrong_size())?;
        let bytes = options.frame_size * options.frame_count as usize;
        let (umem, mut descriptors) = xsk_rs::Umem::new(config, frame_count, false)
            .map_err(|error| XskError::Register { bytes, source: error.into() })?;
        let base = first_byte(&umem, &mut descriptors[0]);
        Ok(ForeignMemory { umem, base, descriptors: descriptors.into(), frame_size: options.frame_size, ring_size })
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Binds a socket, once. The first one decides the mode for all; others are to be bound without flags. `None`: another
    /// socket of this memory has the queue.
    pub(super) fn bind(&self, interface: &str, queue: u32, flags: u16) -> io::Result<Option<ForeignRings>> {
        let name: Interface = interface.parse().map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
        let config = SocketConfig::builder()
            .rx_queue_size(self.ring_size)
            .tx_queue_size(self.ring_size)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::from_bits_truncate(flags))
            .build();
        // SAFETY: the one condition is INHIBIT_PROG_LOAD for a pair that is bound already, and it is always set.
        let (transmit, receive, rings) =
            unsafe { Socket::new(config, &self.umem, &name, queue) }.map_err(|error| os_error(&error))?;
        let Some((fill, completion)) = rings else { return Ok(None) };
        let ring_size = self.ring_size.get();
        Ok(Some(ForeignRings {
            transmit,
            receive,
            fill,
            completion,
            umem: self.umem.clone(),
            descriptors: self.descriptors.clone(),
            frame_size: self.frame_size,
            ring_size,
            staged: Vec::with_capacity(ring_size as usize),
            room: 0,
            batch: Box::new([FrameDesc::default(); BATCH]),
        }))
    }
}

/// Where the memory of `umem` starts.
fn first_byte(umem: &xsk_rs::Umem, first: &mut FrameDesc) -> NonNull<u8> {
    // SAFETY: `first` describes the first frame of `umem`, which nobody has used yet. Its headroom starts with it.
    let mut headroom = unsafe { umem.headroom_mut(first) };
    let address = headroom.contents_mut().as_mut_ptr().expose_provenance();
    // The slice was an empty one. The right to the whole mapping comes from xsk-rs having passed it to C code.
    let base = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: a slice's address is never null.
    unsafe { NonNull::new_unchecked(base) }
}

/// The kernel's own answer, from inside the error that xsk-rs wrapped around it.
fn os_error(error: &xsk_rs::socket::SocketCreateError) -> io::Error {
    let inner = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    match inner.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}

/// What `Rings` asks of every back-end; see there.
impl ForeignRings {
    pub(super) fn fd(&self) -> RawFd {
        self.receive.fd().as_raw_fd()
    }

    pub(super) fn has_received(&mut self) -> bool {
        self.receive.nb_avail(1) > 0
    }

    pub(super) fn receive(&mut self, budget: usize, mut each: impl FnMut(Descriptor)) -> usize {
        let mut received = 0;
        while received < budget {
            let wanted = BATCH.min(budget - received);
            // SAFETY: the ring and the descriptors belong to one memory; what it names is checked by `Umem::receive`.
            let count = unsafe { self.receive.consume(&mut self.batch[..wanted]) };
            for descriptor in &self.batch[..count] {
                let options = if descriptor.has_more_frames() { libc::XDP_PKT_CONTD } else { 0 };
                let (address, length) = (descriptor.addr() as u64, descriptor.lengths().data() as u32);
                each(Descriptor { address, length, options });
            }
            received += count;
            if count < wanted {
                break;
            }
        }
        received
    }

    pub(super) fn has_room(&mut self, wanted: usize) -> bool {
        if self.room < self.staged.len() + wanted {
            self.room = self.transmit.nb_free_exact() as usize;
        }
        self.room >= self.staged.len() + wanted
    }

    pub(super) fn stage(&mut self, wanted: Descriptor) -> bool {
        if !self.has_room(1) {
            return false;
        }
        let Some(known) = self.descriptors.get((wanted.address / self.frame_size as u64) as usize) else {
            return false;
        };
        let mut descriptor = *known;
        debug_assert_eq!(wanted.address % self.frame_size as u64, HEADROOM as u64, "it cannot be moved");
        // SAFETY: the frame is of this memory; it is the queue's, and is not on the ring yet.
        unsafe { self.umem.data_mut(&mut descriptor) }.cursor().set_pos(wanted.length as usize);
        descriptor.set_options(wanted.options);
        self.staged.push(descriptor);
        true
    }

    pub(super) fn staged_at(&self, place: usize) -> Option<Descriptor> {
        let descriptor = self.staged.get(place)?;
        let options = if descriptor.has_more_frames() { libc::XDP_PKT_CONTD } else { 0 };
        let (address, length) = (descriptor.addr() as u64, descriptor.lengths().data() as u32);
        Some(Descriptor { address, length, options })
    }

    pub(super) fn publish(&mut self, count: usize) {
        let count = count.min(self.staged.len());
        // SAFETY: the descriptors are of this memory, and the queue has made their frames its own.
        let produced = unsafe { self.transmit.produce(&self.staged[..count]) };
        self.staged.drain(..produced);
        self.room = self.room.saturating_sub(produced);
    }

    pub(super) fn untaken(&mut self) -> u32 {
        self.ring_size.saturating_sub(self.transmit.nb_free_exact())
    }

    pub(super) fn complete(&mut self, budget: usize, mut each: impl FnMut(FrameIndex)) -> usize {
        let mut completed = 0;
        while completed < budget {
            let wanted = BATCH.min(budget - completed);
            // SAFETY: the ring and the descriptors belong to one memory; what it names is checked by `take_back`.
            let count = unsafe { self.completion.consume(&mut self.batch[..wanted]) };
            for descriptor in &self.batch[..count] {
                each(FrameIndex((descriptor.addr() / self.frame_size) as u32));
            }
            completed += count;
            if count < wanted {
                break;
            }
        }
        completed
    }

    pub(super) fn unfilled(&mut self) -> u32 {
        self.ring_size.saturating_sub(self.fill.nb_free_exact())
    }

    pub(super) fn lend(&mut self, count: usize, mut next: impl FnMut() -> Option<FrameIndex>) -> usize {
        let count = count.min(self.fill.nb_free_exact() as usize);
        let mut lent = 0;
        while lent < count {
            let mut gathered = 0;
            while gathered < BATCH.min(count - lent) {
                let Some(frame) = next() else { break };
                self.batch[gathered] = self.descriptors[frame.0 as usize];
                gathered += 1;
            }
            if gathered == 0 {
                break;
            }
            // SAFETY: the descriptors are of this memory, and the queue has made their frames its own: they were free, so
            // neither a packet nor another ring has them.
            let produced = unsafe { self.fill.produce(&self.batch[..gathered]) };
            debug_assert_eq!(produced, gathered, "the ring had room a moment ago");
            lent += gathered;
        }
        lent
    }
}
