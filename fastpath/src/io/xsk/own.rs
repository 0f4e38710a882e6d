//! AF_XDP sockets by system calls alone.
//!
//! ```text
//!     Region ── frames of the worker ── registered by the first socket, shared by all others
//!        │                              (or registered once more, by a socket that stands alone)
//!        └── stays mapped as long as any socket, memory or Umem has it
//! ```
//!
//! A socket is made, told the sizes of its rings, has them mapped, and is bound; the kernel wants it in this order.
//! The frames are registered with room in front of each packet for what the kernel should do while it sends it
//! (`METADATA`); a kernel that does not know this gets them without, and the queue does that work itself.
//!
//! Left out: unaligned frames, and attaching programs (`program.rs`).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::XskOptions;
use crate::io::region::Region;
use crate::io::ring::{Consumer, Descriptor, Layout, Producer};
use crate::packet::FrameIndex;

/// Bytes in front of a packet that speak of it to the kernel (struct xsk_tx_metadata, with its largest request).
pub(super) const METADATA: usize = 24;

/// How long a driver may take to let a queue go, and how often it is looked. A network card is started anew for it.
const RELEASE: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(1);

/// Where the frames are, and what further sockets share them with.
pub(super) struct OwnMemory {
    region: Arc<Region>,
    frame_size: u32,
    ring_size: u32,
    /// The socket that registered the frames for all.
    registrant: OnceLock<OwnedFd>,
    /// The kernel reads what stands in front of a packet.
    has_metadata: OnceLock<bool>,
}

/// A bound socket and its rings.
pub(super) struct OwnRings {
    pub(super) receive: Consumer<Descriptor>,
    pub(super) transmit: Producer<Descriptor>,
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    pub(super) frame_size: u64,
    pub(super) socket: OwnedFd,
    /// The kernel writes to the frames as long as the socket is open.
    _frames: Arc<Region>,
}

impl OwnMemory {
    pub(super) fn new(options: &XskOptions) -> io::Result<OwnMemory> {
        let region = Region::of_our_own(options.frame_size * options.frame_count as usize)?;
        Ok(OwnMemory {
            region: Arc::new(region),
            frame_size: options.frame_size as u32,
            ring_size: options.ring_size,
            registrant: OnceLock::new(),
            has_metadata: OnceLock::new(),
        })
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    pub(super) fn has_metadata(&self) -> bool {
        self.has_metadata.get().copied().unwrap_or(false)
    }

    /// Binds a socket that registers the frames. The first such socket is what others share; a later one has them for
    /// itself alone, in a mode of its own.
    pub(super) fn bind_registering(&self, interface: &str, queue: u32, flags: u16) -> io::Result<OwnRings> {
        let socket = socket()?;
        let has_metadata = self.register(socket.as_raw_fd())?;
        let rings = self.rings(socket)?;
        bind(rings.socket.as_raw_fd(), interface, queue, flags, None)?;
        if self.registrant.get().is_none() {
            let _ = self.has_metadata.set(has_metadata);
            let _ = self.registrant.set(rings.socket.try_clone()?);
        }
        Ok(rings)
    }

    /// Binds a socket that shares the first one's registration, mode and all.
    pub(super) fn bind_sharing(&self, interface: &str, queue: u32) -> io::Result<OwnRings> {
        let registrant = self.registrant.get().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let rings = self.rings(socket()?)?;
        let fd = rings.socket.as_raw_fd();
        bind(fd, interface, queue, libc::XDP_SHARED_UMEM, Some(registrant.as_raw_fd()))?;
        Ok(rings)
    }

    /// True when the kernel will read metadata. Kernels before 6.11 do not know the flag.
    fn register(&self, fd: RawFd) -> io::Result<bool> {
        let plain = libc::xdp_umem_reg {
            addr: self.region.base().as_ptr().expose_provenance() as u64,
            len: self.region.len() as u64,
            chunk_size: self.frame_size,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        let flags = libc::XDP_UMEM_TX_METADATA_LEN;
        let asking = libc::xdp_umem_reg { flags, tx_metadata_len: METADATA as u32, ..plain };
        match set_option(fd, libc::XDP_UMEM_REG, &asking) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                set_option(fd, libc::XDP_UMEM_REG, &plain)?;
                Ok(false)
            }
            result => result.map(|()| true),
        }
    }

    fn rings(&self, socket: OwnedFd) -> io::Result<OwnRings> {
        let fd = socket.as_raw_fd();
        let size = self.ring_size;
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING] {
            set_option(fd, ring, &size)?;
        }
        let offsets = offsets(fd)?;
        let map = |layout: libc::xdp_ring_offset, at: u64, entry: usize| {
            let entries = layout.desc as usize;
            let region = Region::of_descriptor(fd, entries + size as usize * entry, at as i64)?;
            let (producer, consumer) = (layout.producer as usize, layout.consumer as usize);
            Ok::<_, io::Error>((Arc::new(region), Layout { producer, consumer, flags: layout.flags as usize, entries }))
        };
        let (packet, frame) = (size_of::<Descriptor>(), size_of::<u64>());
        let (receive, receive_layout) = map(offsets.rx, libc::XDP_PGOFF_RX_RING as u64, packet)?;
        let (transmit, transmit_layout) = map(offsets.tx, libc::XDP_PGOFF_TX_RING as u64, packet)?;
        let (fill, fill_layout) = map(offsets.fr, libc::XDP_UMEM_PGOFF_FILL_RING, frame)?;
        let (completion, completion_layout) = map(offsets.cr, libc::XDP_UMEM_PGOFF_COMPLETION_RING, frame)?;
        Ok(OwnRings {
            receive: Consumer::new(receive, receive_layout, size)?,
            transmit: Producer::new(transmit, transmit_layout, size)?,
            fill: Producer::new(fill, fill_layout, size)?,
            completion: Consumer::new(completion, completion_layout, size)?,
            frame_size: self.frame_size.into(),
            socket,
            _frames: self.region.clone(),
        })
    }
}

impl OwnRings {
    /// See `Rings::lend`.
    pub(super) fn lend(&mut self, count: usize, mut next: impl FnMut() -> Option<FrameIndex>) -> usize {
        let mut lent = 0;
        while lent < count && self.fill.has_room(1) {
            let Some(frame) = next() else { break };
            let staged = self.fill.stage(u64::from(frame.0) * self.frame_size);
            debug_assert!(staged, "the ring had room a moment ago");
            lent += 1;
        }
        self.fill.publish_all();
        lent
    }
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: makes a descriptor, which is owned from here on.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until the driver of an interface has let a queue go whose socket was closed: the kernel tells it some time later,
/// and until then it may write to the frames it was given. A queue that it still has cannot be bound again. False: not
/// within `RELEASE`, or there is no way to tell.
pub(super) fn await_release(interface_index: u32, queue: u32) -> bool {
    let deadline = Instant::now() + RELEASE;
    loop {
        match probe(interface_index, queue) {
            Ok(()) => return true,
            Err(error) => match error.raw_os_error() {
                // Its driver went with it.
                Some(libc::ENODEV | libc::ENXIO) => return true,
                Some(libc::EBUSY) if Instant::now() < deadline => std::thread::sleep(GLANCE),
                _ => return false,
            },
        }
    }
}

/// Binds a socket with a frame of its own to a queue, copying, which concerns no driver; and closes it.
fn probe(interface_index: u32, queue: u32) -> io::Result<()> {
    let options = XskOptions { frame_count: 1, ring_size: 1, ..XskOptions::new("", queue) };
    let memory = OwnMemory::new(&XskOptions { frame_size: 4096, ..options })?;
    let socket = socket()?;
    memory.register(socket.as_raw_fd())?;
    let rings = memory.rings(socket)?;
    bind_index(rings.socket.as_raw_fd(), interface_index, queue, libc::XDP_COPY, None)
}

/// `None`: there is no such interface in the calling thread's network namespace.
pub(super) fn interface_index(interface: &str) -> Option<u32> {
    let name = CString::new(interface).ok()?;
    // SAFETY: the name ends with a zero byte and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

fn bind(fd: RawFd, interface: &str, queue: u32, flags: u16, shared: Option<RawFd>) -> io::Result<()> {
    let index = interface_index(interface).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    bind_index(fd, index, queue, flags, shared)
}

fn bind_index(fd: RawFd, index: u32, queue: u32, flags: u16, shared: Option<RawFd>) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared.map_or(0, |fd| fd as u32),
    };
    let length = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: the address outlives the call, and its size is passed.
    let result = unsafe { libc::bind(fd, (&raw const address).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_option<T: Copy>(fd: RawFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let place: *const T = value;
    // SAFETY: the value outlives the call, and its size is passed.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_XDP, option, place.cast(), size_of::<T>() as u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Where the parts of the rings lie. Kernels before 5.4, which tell less, are refused.
fn offsets(fd: RawFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: the structure is integers only, for which zero is a value.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
    let mut length = size;
    let place: *mut libc::xdp_mmap_offsets = &mut offsets;
    // SAFETY: both pointers are to values that outlive the call, and `length` is the size of the first.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, place.cast(), &mut length) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if length != size {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok(offsets)
}
