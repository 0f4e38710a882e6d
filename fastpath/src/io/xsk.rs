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
//! longer than a frame. A queue that must not follow it, because its network card uses frames in place, registers the same
//! memory once more and stands alone.
//!
//! | file | what it holds |
//! |---|---|
//! | `queue.rs` | what a queue does with its socket: lend, receive, send, take back |
//! | `rings.rs` | the four rings of a socket, whoever works them |
//! | `own.rs` | sockets and rings by system calls (`Backend::Raw`) |
//! | `foreign.rs` | sockets and rings by xsk-rs (`Backend::XskRs`) |
//! | `assemble.rs` | descriptors put together to packets |

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::CopyMode;
use super::umem::Umem;
use crate::mapped::Extent;
use foreign::ForeignMemory;
use own::OwnMemory;
use rings::Rings;

mod assemble;
mod foreign;
mod own;
mod queue;
mod rings;

pub use queue::{QueueWatch, RetiredQueue, XskQueue};

/// Numbers of socket options that the C library has no names for; see linux/if_xdp.h.
const SOL_XDP: libc::c_int = 283;
const XDP_OPTIONS: libc::c_int = 8;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// The same; see asm-generic/socket.h.
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;

/// How long a call may poll a driver that has nothing, and packets it takes from it.
const BUSY_POLL_MICROSECONDS: libc::c_int = 20;
const BUSY_POLL_BUDGET: libc::c_int = 64;

/// Packets that one kick may send; 32 in kernels where this cannot be set.
const KICK_BUDGET: u32 = 256;

/// Bytes of sent packets that the kernel may hold for one socket before it refuses more.
const SEND_BUFFER: libc::c_int = 4 << 20;

/// The kernel releases a socket some time after it is closed, so a process that starts again finds its queues taken.
const BIND_ATTEMPTS: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Who makes the sockets and works their rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Backend {
    /// xsk-rs.
    XskRs,
    /// This crate, by system calls.
    #[default]
    Raw,
}

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
    pub backend: Backend,
}

impl XskOptions {
    pub fn new(anchor_interface: &str, anchor_queue: u32) -> XskOptions {
        XskOptions {
            frame_size: 2048,
            frame_count: 4096,
            ring_size: 2048,
            anchor: (anchor_interface.to_owned(), anchor_queue),
            zero_copy: false,
            backend: Backend::default(),
        }
    }
}

/// What one queue may use of the worker's frames.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Most frames that wait to be filled. A queue starts with few and is given more before it runs out.
    pub fill_limit: usize,
    /// Stand alone, with the frames registered once more, and used in place if the driver can do that. A back-end that
    /// cannot register memory twice lets the queue share what the others have.
    pub alone: bool,
    /// Poll the driver from the worker's receive calls, instead of waiting for its interrupts. Where the kernel refuses, the
    /// queue waits for interrupts. Not for a veth: there the sender does the driver's work.
    pub busy_poll: bool,
    /// No packet of this interface is longer than a frame, whatever others carry. Many drivers use frames in place only
    /// then.
    pub is_short: bool,
}

impl Default for QueueOptions {
    fn default() -> QueueOptions {
        QueueOptions { fill_limit: 2048, alone: false, busy_poll: false, is_short: false }
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
    frames: Frames,
    /// Address of the first frame.
    base: usize,
    options: XskOptions,
    multi_buffer: bool,
    /// Kept although unused: while it lives, others can be bound. Taken out when its own queue is asked for.
    anchor: Mutex<Option<Rings>>,
}

enum Frames {
    XskRs(ForeignMemory),
    Own(OwnMemory),
}

impl XskMemory {
    /// Registers frames with the kernel and binds the anchor.
    pub fn new(options: XskOptions) -> Result<(Umem, XskMemory), XskError> {
        if !matches!(options.frame_size, 2048 | 4096) {
            return Err(XskError::FrameSize { given: options.frame_size });
        }
        if options.frame_count == 0 {
            return Err(XskError::FrameCount);
        }
        if !options.ring_size.is_power_of_two() {
            return Err(XskError::RingSize { given: options.ring_size });
        }
        let bytes = options.frame_size * options.frame_count as usize;
        let (frames, base) = match options.backend {
            Backend::XskRs => {
                let memory = ForeignMemory::new(&options)?;
                let base = memory.base();
                (Frames::XskRs(memory), base)
            }
            Backend::Raw => {
                let memory =
                    OwnMemory::new(&options).map_err(|source| XskError::Register { bytes, source: source.into() })?;
                let base = memory.region().base();
                (Frames::Own(memory), base)
            }
        };
        let (rings, multi_buffer) = frames.bind_anchor(&options)?;
        let shared = Arc::new(Shared {
            frames,
            base: base.as_ptr().addr(),
            options,
            multi_buffer,
            anchor: Mutex::new(Some(rings)),
        });
        let (size, count) = (shared.options.frame_size, shared.options.frame_count as usize);
        // SAFETY: `base` is the start of the memory that was mapped for `count` frames of `size` bytes, and is unmapped
        // when the last handle on it is gone; `shared` is one. xsk-rs looks at the bytes only through descriptors, which
        // do not leave `foreign.rs`; `own.rs` does not look at them at all.
        let frames = unsafe { Umem::new(base, size, count, Box::new(shared.clone())) };
        Ok((frames, XskMemory { shared }))
    }

    /// True when packets may be longer than a frame; interfaces then need the program with frags.
    pub fn multi_buffer(&self) -> bool {
        self.shared.multi_buffer
    }

    /// True when the kernel finishes checksums of packets that leave by a queue whose frames are copied.
    pub fn finishes_checksums(&self) -> bool {
        match &self.shared.frames {
            Frames::XskRs(_) => false,
            Frames::Own(memory) => memory.has_metadata(),
        }
    }

    /// What the frames take.
    pub fn extent(&self) -> Extent {
        let allocated = self.shared.options.frame_size * self.shared.options.frame_count as usize;
        match &self.shared.frames {
            // xsk-rs says no more; a frame is touched when the kernel fills it.
            Frames::XskRs(_) => Extent::of_heap(allocated),
            Frames::Own(memory) => Extent { allocated, resident: memory.region().resident() },
        }
    }

    /// Binds a socket to a queue of an interface in the calling thread's network namespace. Waits, for less than a
    /// second in all, while the kernel is still releasing the queue.
    pub fn open(&self, interface: &str, queue: u32, options: QueueOptions) -> Result<XskQueue, XskError> {
        let shared = &self.shared;
        let is_anchor = shared.options.anchor.0 == interface && shared.options.anchor.1 == queue;
        let (rings, multi_buffer) = if is_anchor {
            let mut anchor = shared.anchor.lock().unwrap_or_else(PoisonError::into_inner);
            let rings = anchor.take().ok_or_else(|| XskError::Taken { interface: interface.to_owned(), queue })?;
            (rings, shared.multi_buffer)
        } else {
            shared.open(interface, queue, options)?
        };
        let fd = rings.fd();
        set_send_limits(fd);
        let busy_poll = set_busy_poll(fd, options.busy_poll, copy_mode(fd));
        let options = QueueOptions { busy_poll, ..options };
        Ok(XskQueue::new(self, rings, interface.to_owned(), queue, multi_buffer, options))
    }
}

impl Shared {
    /// The rings of a queue, and whether its packets may take several frames.
    fn open(&self, interface: &str, queue: u32, options: QueueOptions) -> Result<(Rings, bool), XskError> {
        if options.alone
            && let Frames::Own(memory) = &self.frames
        {
            let lengths: &[u16] = match (self.multi_buffer, options.is_short) {
                (true, true) => &[libc::XDP_USE_SG, 0],
                (true, false) => &[libc::XDP_USE_SG],
                (false, _) => &[0],
            };
            for mode in [libc::XDP_ZEROCOPY, libc::XDP_COPY] {
                for length in lengths {
                    let flags = mode | length | libc::XDP_USE_NEED_WAKEUP;
                    match bind(interface, queue, || memory.bind_registering(interface, queue, flags).map(Some)) {
                        Err(error) if is_unsupported(&error) => {}
                        result => return result.map(|rings| (Rings::Own(rings), *length != 0)),
                    }
                }
            }
        }
        let rings = match &self.frames {
            // Flags are the anchor's: the kernel refuses any on a socket that shares its memory.
            Frames::XskRs(memory) => bind(interface, queue, || memory.bind(interface, queue, 0)).map(foreign),
            Frames::Own(memory) => {
                bind(interface, queue, || memory.bind_sharing(interface, queue).map(Some)).map(Rings::Own)
            }
        };
        rings.map(|rings| (rings, self.multi_buffer))
    }
}

impl Frames {
    /// Binds the first socket of a memory, with as much as the kernel and the interface can do. True when that includes
    /// packets of several frames.
    fn bind_anchor(&self, options: &XskOptions) -> Result<(Rings, bool), XskError> {
        let (interface, queue) = (&options.anchor.0, options.anchor.1);
        let copy_modes: &[u16] =
            if options.zero_copy { &[libc::XDP_ZEROCOPY, libc::XDP_COPY] } else { &[libc::XDP_COPY] };
        // Frames of 2048 bytes are for networks where no packet needs two.
        let lengths: &[u16] = if options.frame_size >= 4096 { &[libc::XDP_USE_SG, 0] } else { &[0] };
        let mut refusal = None;
        for copy_mode in copy_modes {
            for length in lengths {
                let flags = *copy_mode | *length | libc::XDP_USE_NEED_WAKEUP;
                let result = match self {
                    Frames::XskRs(memory) => {
                        bind(interface, queue, || memory.bind(interface, queue, flags)).map(foreign)
                    }
                    Frames::Own(memory) => {
                        bind(interface, queue, || memory.bind_registering(interface, queue, flags).map(Some))
                            .map(Rings::Own)
                    }
                };
                match result {
                    Ok(rings) => return Ok((rings, *length != 0)),
                    Err(error) if is_unsupported(&error) => refusal = Some(error),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(refusal.unwrap_or(XskError::FrameCount))
    }
}

fn foreign(rings: foreign::ForeignRings) -> Rings {
    Rings::XskRs(rings)
}

fn is_unsupported(error: &XskError) -> bool {
    let XskError::Bind { source, .. } = error else { return false };
    matches!(source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// Calls `attempt` until the queue is free, a few times. `None` from it: a socket of the same memory has the queue.
fn bind<T>(interface: &str, queue: u32, attempt: impl Fn() -> io::Result<Option<T>>) -> Result<T, XskError> {
    let mut pause = FIRST_PAUSE;
    for number in 1.. {
        let source = match attempt() {
            Ok(Some(rings)) => return Ok(rings),
            Ok(None) => return Err(XskError::Taken { interface: interface.to_owned(), queue }),
            Err(error) => error,
        };
        if source.raw_os_error() != Some(libc::EBUSY) || number == BIND_ATTEMPTS {
            let (interface, advice) = (interface.to_owned(), advice(&source));
            return Err(XskError::Bind { interface, queue, advice, source });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    unreachable!("the last attempt returns")
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

/// True when calls on the socket will poll the driver. Kernels before 5.11 do not know how.
///
/// A socket whose frames are used in place polls in any case, once with each call it makes to wake the driver: some drivers
/// (virtio_net) do not look at the fill ring when they are woken, and one that has run out of frames would never receive
/// again. It is not told to prefer polling, because then the kernel expects that what polls the receive side also sends,
/// and where that is not so nothing is sent.
fn set_busy_poll(fd: RawFd, is_asked: bool, copy_mode: CopyMode) -> bool {
    let (in_place, level) = (copy_mode == CopyMode::ZeroCopy, libc::SOL_SOCKET);
    if !is_asked && !in_place {
        return false;
    }
    let is_preferred = in_place || set_option(fd, level, SO_PREFER_BUSY_POLL, 1);
    is_preferred
        && set_option(fd, level, libc::SO_BUSY_POLL, BUSY_POLL_MICROSECONDS)
        && set_option(fd, level, SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET)
        && is_asked
}

/// False: the kernel refused.
fn set_option(fd: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> bool {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: four readable bytes, and their number, are passed.
    unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) == 0 }
}
