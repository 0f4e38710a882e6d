//! AF_XDP: frames registered with the kernel, and the sockets that use them.
//!
//! ```text
//!     control thread                                   worker
//!     XskMemory::new ──────────── Umem ──────────────▶ all its frames
//!     XskMemory::open(interface, queue) ── XskQueue ─▶ one more queue
//! ```
//!
//! All sockets of a worker share its memory, and the kernel knows that memory by the socket that was bound first. If
//! that socket's interface disappears, no further socket can be bound (EBADF). The first socket is therefore an anchor:
//! it is bound to an interface that the router owns for life, a private veth with one queue per worker, and is kept
//! as long as the memory. The anchor also decides for all others whether frames are copied, and whether packets may be
//! longer than a frame.
//!
//! Invariant: a socket is made with INHIBIT_PROG_LOAD, always; the program on the interface is ours (`program.rs`).
//! Left out: what xsk-rs cannot do, which is transmit metadata, memory of our own, and moving a packet's start.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use super::CopyMode;
use super::umem::Umem;

mod assemble;
mod queue;

pub use queue::{QueueWatch, RetiredQueue, XskQueue};

/// Numbers of socket options that the C library has no names for; see linux/if_xdp.h.
const SOL_XDP: libc::c_int = 283;
const XDP_OPTIONS: libc::c_int = 8;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Packets that one kick may send; 32 in kernels where this cannot be set.
const KICK_BUDGET: u32 = 256;

/// Bytes of sent packets that the kernel may hold for one socket before it refuses more.
const SEND_BUFFER: libc::c_int = 4 << 20;

/// The kernel releases a socket some time after it is closed, so a process that starts again finds its queues taken.
const BIND_ATTEMPTS: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What the frames of a worker should be.
#[derive(Clone, Debug)]
pub struct XskOptions {
    /// 2048, or 4096 for packets of more than 1792 bytes, which then may take several frames.
    pub frame_size: usize,
    /// The kernel keeps about 125 bytes per frame and socket: thousands, not millions.
    pub frame_count: u32,
    /// Entries of each of a socket's four rings; a power of two.
    pub ring_size: u32,
    /// An interface that lives longer than all others, and a queue of it that no other worker has.
    pub anchor: (String, u32),
    /// Ask for frames that the driver uses in place. Only for an anchor that is a network card, and then for
    /// interfaces that can all do it.
    pub zero_copy: bool,
}

impl XskOptions {
    pub fn new(anchor_interface: &str, anchor_queue: u32) -> XskOptions {
        XskOptions {
            frame_size: 2048,
            frame_count: 4096,
            ring_size: 2048,
            anchor: (anchor_interface.to_owned(), anchor_queue),
            zero_copy: false,
        }
    }
}

/// What one queue may use of the worker's frames.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Most frames that wait to be filled. A queue starts with few and is given more when it runs out.
    pub fill_limit: usize,
}

impl Default for QueueOptions {
    fn default() -> QueueOptions {
        QueueOptions { fill_limit: 512 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum XskError {
    #[error("register frames with the kernel: frame size {given}, expected 2048 or 4096")]
    FrameSize { given: usize },
    #[error("register frames with the kernel: no frames asked for, expected at least 1")]
    FrameCount,
    #[error("register frames with the kernel: ring size {given}, expected a power of two")]
    RingSize { given: u32 },
    #[error("register {bytes} bytes of frames with the kernel: needs memory and CAP_NET_RAW, or less of them")]
    Register { bytes: usize, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("name an interface {name:?}: expected no zero byte")]
    Name { name: String },
    #[error("bind a socket to queue {queue} of {interface}: {advice}")]
    Bind { interface: String, queue: u32, advice: &'static str, source: io::Error },
    #[error("bind a socket to queue {queue} of {interface}: another socket of this worker has it")]
    Taken { interface: String, queue: u32 },
}

/// The frames of one worker as the control thread sees them: what further sockets are bound to.
#[derive(Clone)]
pub struct XskMemory {
    shared: Arc<Shared>,
}

struct Shared {
    umem: xsk_rs::Umem,
    /// Address of the first frame.
    base: usize,
    /// One descriptor per frame, at the common packet start; the only way to have one is to keep it.
    descriptors: Arc<[FrameDesc]>,
    options: XskOptions,
    multi_buffer: bool,
    /// Kept although unused: while it lives, others can be bound. Taken out when its own queue is asked for.
    anchor: Mutex<Option<Rings>>,
}

/// A bound socket.
struct Rings {
    transmit: TxQueue,
    receive: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
}

impl XskMemory {
    /// Registers frames with the kernel and binds the anchor.
    pub fn new(options: XskOptions) -> Result<(Umem, XskMemory), XskError> {
        if !matches!(options.frame_size, 2048 | 4096) {
            return Err(XskError::FrameSize { given: options.frame_size });
        }
        let frame_count = NonZeroU32::new(options.frame_count).ok_or(XskError::FrameCount)?;
        let bytes = options.frame_size * options.frame_count as usize;
        let config = umem_config(&options)?;
        let (umem, mut descriptors) = xsk_rs::Umem::new(config, frame_count, false)
            .map_err(|error| XskError::Register { bytes, source: error.into() })?;
        let base = first_byte(&umem, &mut descriptors[0]);
        let (rings, multi_buffer) = bind_anchor(&umem, &options)?;
        let shared = Arc::new(Shared {
            umem,
            base: base.as_ptr().addr(),
            descriptors: descriptors.into(),
            options,
            multi_buffer,
            anchor: Mutex::new(Some(rings)),
        });
        let (size, count) = (shared.options.frame_size, shared.options.frame_count as usize);
        // SAFETY: `base` is the start of the memory that xsk-rs mapped for `count` frames of `size` bytes, and unmaps
        // when the last handle on it is gone; `shared` is one. xsk-rs looks at the bytes only through descriptors,
        // which do not leave `queue.rs`.
        let frames = unsafe { Umem::new(base, size, count, Box::new(shared.clone())) };
        Ok((frames, XskMemory { shared }))
    }

    /// True when packets may be longer than a frame; interfaces then need the program with frags.
    pub fn multi_buffer(&self) -> bool {
        self.shared.multi_buffer
    }

    /// Binds a socket to a queue of an interface in the calling thread's network namespace. Waits, for less than a
    /// second in all, while the kernel is still releasing the queue.
    pub fn open(&self, interface: &str, queue: u32, options: QueueOptions) -> Result<XskQueue, XskError> {
        let shared = &self.shared;
        let is_anchor = shared.options.anchor.0 == interface && shared.options.anchor.1 == queue;
        let rings = if is_anchor {
            let mut anchor = shared.anchor.lock().unwrap_or_else(PoisonError::into_inner);
            anchor.take().ok_or_else(|| XskError::Taken { interface: interface.to_owned(), queue })?
        } else {
            // Flags are the anchor's: the kernel refuses any on a socket that shares its memory.
            bind(&shared.umem, interface, queue, shared.options.ring_size, BindFlags::empty())?
        };
        let fd = rings.receive.fd().as_raw_fd();
        set_send_limits(fd);
        Ok(XskQueue::new(self, rings, interface.to_owned(), queue, copy_mode(fd), options))
    }
}

fn umem_config(options: &XskOptions) -> Result<UmemConfig, XskError> {
    let ring_size = ring_size(options.ring_size)?;
    let wrong_size = |_| XskError::FrameSize { given: options.frame_size };
    let frame_size = FrameSize::new(options.frame_size as u32).map_err(wrong_size)?;
    UmemConfig::builder()
        .frame_size(frame_size)
        .frame_headroom(0)
        .fill_queue_size(ring_size)
        .comp_queue_size(ring_size)
        .build()
        .map_err(|_| XskError::FrameSize { given: options.frame_size })
}

fn ring_size(given: u32) -> Result<QueueSize, XskError> {
    QueueSize::new(given).map_err(|_| XskError::RingSize { given })
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

/// Binds the first socket of a memory, with as much as the kernel and the interface can do. True when that includes
/// packets of several frames.
fn bind_anchor(umem: &xsk_rs::Umem, options: &XskOptions) -> Result<(Rings, bool), XskError> {
    let (interface, queue) = (&options.anchor.0, options.anchor.1);
    let copy_modes: &[BindFlags] =
        if options.zero_copy { &[BindFlags::XDP_ZEROCOPY, BindFlags::XDP_COPY] } else { &[BindFlags::XDP_COPY] };
    // Frames of 2048 bytes are for networks where no packet needs two.
    let lengths: &[BindFlags] =
        if options.frame_size >= 4096 { &[BindFlags::XDP_USE_SG, BindFlags::empty()] } else { &[BindFlags::empty()] };
    let mut refusal = None;
    for copy_mode in copy_modes {
        for length in lengths {
            let flags = *copy_mode | *length | BindFlags::XDP_USE_NEED_WAKEUP;
            match bind(umem, interface, queue, options.ring_size, flags) {
                Ok(rings) => return Ok((rings, flags.contains(BindFlags::XDP_USE_SG))),
                Err(error @ XskError::Bind { .. }) if is_unsupported(&error) => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
    }
    Err(refusal.unwrap_or(XskError::FrameCount))
}

fn is_unsupported(error: &XskError) -> bool {
    let XskError::Bind { source, .. } = error else { return false };
    matches!(source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn bind(
    umem: &xsk_rs::Umem,
    interface: &str,
    queue: u32,
    ring_entries: u32,
    flags: BindFlags,
) -> Result<Rings, XskError> {
    let name: Interface = interface.parse().map_err(|_| XskError::Name { name: interface.to_owned() })?;
    let ring_size = ring_size(ring_entries)?;
    let config = SocketConfig::builder()
        .rx_queue_size(ring_size)
        .tx_queue_size(ring_size)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build();
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        // SAFETY: the one condition is INHIBIT_PROG_LOAD for a pair that is bound already, and it is always set.
        let error = match unsafe { Socket::new(config, umem, &name, queue) } {
            Ok((transmit, receive, Some((fill, completion)))) => {
                return Ok(Rings { transmit, receive, fill, completion });
            }
            Ok((_, _, None)) => return Err(XskError::Taken { interface: interface.to_owned(), queue }),
            Err(error) => os_error(&error),
        };
        if error.raw_os_error() != Some(libc::EBUSY) || attempt == BIND_ATTEMPTS {
            return Err(XskError::Bind {
                interface: interface.to_owned(),
                queue,
                advice: advice(&error),
                source: error,
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    unreachable!("the last attempt returns")
}

/// The kernel's own answer, from inside the error that xsk-rs wrapped around it.
fn os_error(error: &xsk_rs::socket::SocketCreateError) -> io::Error {
    let inner = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    match inner.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "needs CAP_NET_RAW",
        Some(libc::ENODEV | libc::ENXIO) => "no such interface in this network namespace",
        Some(libc::EBUSY) => "another process has a socket there",
        Some(libc::EINVAL) => "the interface has no such queue",
        Some(libc::EBADF) => "the anchor interface is gone; start again with one that stays",
        Some(libc::EOPNOTSUPP) => "its driver cannot do what the other sockets of this worker do (zero-copy)",
        Some(libc::ENETDOWN) => "the interface is down; set it up first",
        Some(libc::ENOMEM | libc::ENOBUFS) => "the kernel has no memory for its table of frames",
        _ => "the kernel refused",
    }
}

fn copy_mode(fd: RawFd) -> CopyMode {
    let mut options: u32 = 0;
    let mut length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: four writable bytes, and their number, are passed.
    let result = unsafe { libc::getsockopt(fd, SOL_XDP, XDP_OPTIONS, (&raw mut options).cast(), &mut length) };
    if result == 0 && options & XDP_OPTIONS_ZEROCOPY != 0 { CopyMode::ZeroCopy } else { CopyMode::Copy }
}

/// Asks for larger limits on what is on its way out. A kernel that refuses sends less at a time, and nothing is lost.
fn set_send_limits(fd: RawFd) {
    set_option(fd, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, KICK_BUDGET as libc::c_int);
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER);
}

fn set_option(fd: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: four readable bytes, and their number, are passed.
    unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) };
}
