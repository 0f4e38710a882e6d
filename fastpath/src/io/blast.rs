//! A generator of packets inside the kernel, for measurements: `blast.bpf.c` and how it is told what to send.
//!
//! ```text
//!     Blast::load(frames) ── set(Plan) ── run: BPF_PROG_TEST_RUN, live frames ──▶ interface ──▶ its peer
//!                                          ▲ a thread of the caller's, in the interface's network namespace
//!                                interrupt ┘
//! ```
//!
//! The peer of a veth takes such frames only while it receives by NAPI: with an XDP program, or with GRO switched on.
//!
//! `run` is one system call for as long as packets are wanted, because setting one up costs some tens of milliseconds.
//! A signal without effect of its own, SIGUSR1, ends it; the process gets a handler for that with the first `Blast`.
//!
//! Left out: anything but UDP in IPv4 without options or in IPv6 without extension headers. Needs Linux 5.18.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::Ebpf;
use aya::maps::{Array, MapData, MapError};
use aya::programs::Xdp;
use libbpf_sys::{BPF_F_TEST_XDP_LIVE_FRAMES, bpf_prog_test_run_opts, bpf_test_run_opts};

use super::program::{ProgramError, take_map, with_loader};
use crate::header::checksum::{Sum, pseudo_header};
use crate::header::{ethernet, ipv4, ipv6, protocol};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/blast.bpf.o"));

/// Bytes behind the UDP header that every packet carries; see stamp.bpf.h, as for the next.
pub const STAMP_LEN: usize = 18;
pub const MAGIC: u32 = 0x5652_4231;

/// Different frames that are sent in turn.
pub const MOST_TEMPLATES: usize = 16;
/// Ports of one source address; flows beyond that number have other addresses.
pub const PORTS: u32 = 1024;

const TIME_SHIFT: u32 = 8;
const UDP_LEN: usize = 8;
const TEMPLATE_LEN: usize = 88;
const HEADERS_LEN: usize = 64;
/// Runs of the program in one system call; it is made again until somebody interrupts.
const REPEAT: libc::c_int = libc::c_int::MAX;

#[derive(Debug, thiserror::Error)]
pub enum BlastError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(
        "take frame {number} as a template: expected UDP of at least {STAMP_LEN} bytes, in IPv4 without options or IPv6"
    )]
    Template { number: usize },
    #[error("take {count} frames as templates: expected 1 to {MOST_TEMPLATES}")]
    Templates { count: usize },
    #[error("tell the generator what to send")]
    Map(#[source] MapError),
    #[error("send live frames: needs CAP_NET_ADMIN, CAP_BPF and Linux 5.18 or later")]
    Run(#[source] io::Error),
}

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where, by its number in the namespace of the thread that runs.
    pub interface: u32,
    pub flows: u32,
    /// Packets a second; none: as many as can be.
    pub rate: Option<f64>,
    /// Packets that may be caught up with at once after a delay.
    pub burst: u32,
    /// Packets in all; none: until interrupted.
    pub limit: Option<u64>,
    /// Sequence number of the first.
    pub sequence: u64,
    /// Packets that are handed to the interface at once, at most 256.
    pub batch: u32,
}

/// How far a generator is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    pub sent: u64,
    /// Packets whose time was over before the generator came to them.
    pub missed: u64,
    /// Sequence number of the next.
    pub sequence: u64,
}

/// A loaded generator.
pub struct Blast {
    fd: RawFd,
    plan: Array<MapData, [u64; 8]>,
    progress: Array<MapData, [u64; 8]>,
    /// Every byte of a frame is taken from here, or written by the program.
    longest: Vec<u8>,
    templates: u64,
    batch: u32,
    /// Owns the program behind `fd`.
    _object: Ebpf,
}

impl Blast {
    /// Frames to be sent in turn, each as flow 0 would have it. The program fills in source address and port of other
    /// flows, the stamp and both checksums.
    pub fn load(frames: &[Vec<u8>]) -> Result<Blast, BlastError> {
        if !(1..=MOST_TEMPLATES).contains(&frames.len()) {
            return Err(BlastError::Templates { count: frames.len() });
        }
        let name = "blast";
        let failed = |error: aya::programs::ProgramError| ProgramError::Load { name, source: error.into() };
        let mut object = with_loader(name, OBJECT)?;
        let program = object.program_mut(name).ok_or(ProgramError::Missing { what: "program", name })?;
        let program: &mut Xdp = program.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        let fd = program.fd().map_err(failed)?.as_fd().as_raw_fd();
        let mut templates: Array<MapData, [u8; TEMPLATE_LEN]> = take_map(&mut object, "templates")?;
        for (number, frame) in frames.iter().enumerate() {
            let template = template(frame).ok_or(BlastError::Template { number })?;
            templates.set(number as u32, template, 0).map_err(BlastError::Map)?;
        }
        let longest = frames.iter().max_by_key(|frame| frame.len()).cloned().unwrap_or_default();
        hear_interruptions();
        Ok(Blast {
            fd,
            plan: take_map(&mut object, "plan")?,
            progress: take_map(&mut object, "progress")?,
            longest,
            templates: frames.len() as u64,
            batch: 0,
            _object: object,
        })
    }

    /// What the next run sends; counts begin at 0 again.
    pub fn set(&mut self, plan: &Plan) -> Result<(), BlastError> {
        let interval = plan.rate.map_or(0, |rate| (1e9 * f64::from(1 << TIME_SHIFT) / rate.max(1e-3)) as u64);
        let words = [
            u64::from(plan.interface),
            self.templates,
            u64::from(plan.flows.max(1)),
            interval,
            interval.saturating_mul(u64::from(plan.burst)),
            plan.limit.unwrap_or(0),
            0,
            0,
        ];
        self.plan.set(0, words, 0).map_err(BlastError::Map)?;
        self.progress.set(0, [plan.sequence, 0, 0, 0, 0, 0, 0, 0], 0).map_err(BlastError::Map)?;
        self.batch = plan.batch.clamp(1, 256);
        Ok(())
    }

    pub fn progress(&self) -> Result<Progress, BlastError> {
        let [sequence, sent, _, _, _, missed, ..] = self.progress.get(&0, 0).map_err(BlastError::Map)?;
        Ok(Progress { sent, missed, sequence })
    }

    /// Sends until `is_stopped` is set and [`interrupt`] has been called for this thread, again and again until the
    /// thread has seen it. To be called in the interface's network namespace.
    pub fn run(&self, is_stopped: &AtomicBool) -> Result<(), BlastError> {
        while !is_stopped.load(Ordering::SeqCst) {
            let mut options = bpf_test_run_opts {
                sz: size_of::<bpf_test_run_opts>() as _,
                data_in: self.longest.as_ptr().cast(),
                data_size_in: self.longest.len() as u32,
                repeat: REPEAT,
                flags: BPF_F_TEST_XDP_LIVE_FRAMES,
                batch_size: self.batch,
                ..bpf_test_run_opts::default()
            };
            // SAFETY: `fd` is a loaded program, which `_object` keeps; `data_in` and its length are those of a vector
            // that outlives the call, which only reads it; nothing is asked to be written.
            let result = unsafe { bpf_prog_test_run_opts(self.fd, &raw mut options) };
            if result < 0 && result != -libc::EINTR {
                return Err(BlastError::Run(io::Error::from_raw_os_error(-result)));
            }
        }
        Ok(())
    }
}

/// Ends the system call that a thread of this process is in. A thread that is about to begin one does not notice.
pub fn interrupt(thread: i32) {
    // SAFETY: takes three numbers and no pointer. SIGUSR1 has a handler since a `Blast` was loaded; without one there is
    // no thread that runs it, and nobody calls this.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) };
}

/// A signal without handler would end the process; one that is ignored would not end the system call.
fn hear_interruptions() {
    extern "C" fn nothing(_: libc::c_int) {}
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the structure is integers and an address, for which zero is a value; the handler does nothing, so that
        // it may run at any point of any thread.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
        }
    });
}

/// `struct template` of blast.bpf.c.
fn template(frame: &[u8]) -> Option<[u8; TEMPLATE_LEN]> {
    let ethertype = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let (is_ipv6, ip_len) = match ethertype {
        ethernet::ETHERTYPE_IPV4 if frame.get(14) == Some(&0x45) => (false, ipv4::HEADER_LEN),
        ethernet::ETHERTYPE_IPV6 => (true, ipv6::HEADER_LEN),
        _ => return None,
    };
    let ip_at = ethernet::HEADER_LEN;
    let udp_at = ip_at + ip_len;
    let headers_len = udp_at + UDP_LEN;
    // The source address ends before the destination begins.
    let (number_at, source_end, destination_end) = if is_ipv6 { (6, 24, 40) } else { (9, 16, 20) };
    if frame.len() < headers_len + STAMP_LEN || frame[ip_at + number_at] != protocol::UDP {
        return None;
    }
    let mut headers = frame[..headers_len].to_vec();
    let ip = |from: usize, to: usize| &frame[ip_at + from..ip_at + to];
    let source = u32::from_be_bytes(ip(source_end - 4, source_end).try_into().ok()?);
    let port = u16::from_be_bytes([frame[udp_at], frame[udp_at + 1]]);
    let address = |bytes: &[u8]| bytes.iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
    let length = destination_end - source_end;
    let (from, to) = (address(ip(source_end - length, source_end)), address(ip(source_end, destination_end)));
    // Without what each packet has of its own: the end of the source address, port, checksums, the stamp but for its magic.
    headers[udp_at..udp_at + 2].fill(0);
    headers[udp_at + 6..].fill(0);
    let rest = &frame[headers_len + STAMP_LEN..];
    let constant = from & !u128::from(u32::MAX);
    let udp_sum = pseudo_header(constant, to, !is_ipv6, protocol::UDP, frame.len() - udp_at)
        .bytes(&headers[udp_at..])
        .bytes(&MAGIC.to_be_bytes())
        .bytes(rest)
        .fold();
    let mut ip_sum = 0;
    if !is_ipv6 {
        headers[ip_at + 10..ip_at + 16].fill(0);
        ip_sum = Sum::new().bytes(&headers[ip_at..udp_at]).fold();
    }
    let mut bytes = [0; TEMPLATE_LEN];
    bytes[..headers_len].copy_from_slice(&headers);
    let words =
        [frame.len() as u32, u32::from(is_ipv6), source, u32::from(port), u32::from(ip_sum), u32::from(udp_sum)];
    for (place, word) in bytes[HEADERS_LEN..].as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_ne_bytes();
    }
    Some(bytes)
}
