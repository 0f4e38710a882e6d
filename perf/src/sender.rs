//! A sender out of an AF_XDP socket at A: packets of a capture, or made ones, at a rate or as fast as it goes.
//!
//! ```text
//!     Capture ─┐
//!     Maker ───┴─▶ copied into a frame ──▶ end0, one socket ──▶ near-a
//! ```
//!
//! It is slower than the generator inside the kernel ([`fastpath::io::blast`]): every packet becomes a socket buffer. It is what there
//! is where live frames cannot be had, and where packets should come as an endpoint's do.
//!
//! Who falls behind may catch up by `CATCH_UP` packets and no more; the rest was never sent, and whoever measures counts
//! it as lost. Bound on memory: the frames of one socket, 8 MiB.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastpath::header::checksum::{Sum, pseudo_header};
use fastpath::header::{ethernet, protocol};
use fastpath::io::Queue;
use fastpath::io::blast::{PORTS, STAMP_LEN};
use fastpath::io::xsk::{QueueOptions, XskMemory, XskOptions};
use nix::time::{ClockId, clock_gettime};

use crate::lab::LabError;
use crate::replay::Capture;
use crate::traffic::{FIRST_PORT, Traffic};

/// Packets that may be sent at once after a delay: what is due while the kernel sends a batch, and somebody else has the core.
const CATCH_UP: u64 = 256;
const UDP_LEN: usize = 8;

/// What is sent.
pub enum Contents {
    Replayed(Capture),
    Made(Traffic),
}

/// How it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Packets a second; none: as many as can be.
    pub rate: Option<f64>,
    /// Sequence number of the first.
    pub sequence: u64,
    /// Packets that are handed to the socket at once.
    pub batch: u32,
}

pub struct Sender {
    contents: Contents,
    sent: AtomicU64,
    missed: AtomicU64,
}

impl Sender {
    pub fn new(contents: Contents) -> Sender {
        Sender { contents, sent: AtomicU64::new(0), missed: AtomicU64::new(0) }
    }

    pub fn is_replaying(&self) -> bool {
        matches!(self.contents, Contents::Replayed(_))
    }

    /// Packets sent in this run, and those whose time was over before their turn.
    pub fn progress(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }

    pub fn reset(&self) {
        self.sent.store(0, Ordering::Relaxed);
        self.missed.store(0, Ordering::Relaxed);
    }

    /// Sends until stopped. To be called in A's namespace.
    pub fn run(&self, pace: Pace, is_stopped: &AtomicBool) -> Result<(), LabError> {
        match &self.contents {
            Contents::Replayed(capture) => {
                let mut frames = capture.frames.iter().cycle();
                self.send(pace, is_stopped, |copy| frames.next().is_some_and(|frame| copy(frame)))
            }
            Contents::Made(traffic) => {
                let mut maker = Maker::new(traffic, pace.sequence);
                self.send(pace, is_stopped, |copy| {
                    let is_copied = copy(maker.make(now()));
                    if !is_copied {
                        maker.back();
                    }
                    is_copied
                })
            }
        }
    }

    /// `next` hands the next frame to whoever copies it; false when that had no room.
    fn send(
        &self,
        pace: Pace,
        is_stopped: &AtomicBool,
        mut next: impl FnMut(&mut dyn FnMut(&[u8]) -> bool) -> bool,
    ) -> Result<(), LabError> {
        let (mut umem, memory) = XskMemory::new(XskOptions::new("end0", 0))?;
        let mut queue = memory.open("end0", 0, QueueOptions::default())?;
        let mut schedule = Schedule::new(pace.rate);
        let start = Instant::now();
        while !is_stopped.load(Ordering::Relaxed) {
            let count = schedule.due(start.elapsed()).min(u64::from(pace.batch));
            for _ in 0..count {
                let is_sent = next(&mut |frame| {
                    let Some(packet) = umem.copy_in([frame]) else { return false };
                    let refused = queue.send(&mut umem, packet).err();
                    refused.map(|packet| umem.free(packet)).is_none()
                });
                if !is_sent {
                    break;
                }
                schedule.sent += 1;
            }
            queue.flush(&mut umem);
            queue.reclaim(&mut umem);
            self.sent.store(schedule.sent, Ordering::Relaxed);
            self.missed.store(schedule.missed, Ordering::Relaxed);
        }
        queue.close(&mut umem);
        Ok(())
    }
}

/// When packets are due.
struct Schedule {
    rate: Option<f64>,
    sent: u64,
    missed: u64,
}

impl Schedule {
    fn new(rate: Option<f64>) -> Schedule {
        Schedule { rate, sent: 0, missed: 0 }
    }

    /// Packets that may be sent now. What is more than [`CATCH_UP`] behind is missed.
    fn due(&mut self, elapsed: Duration) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let all = (elapsed.as_secs_f64() * rate) as u64;
        let behind = all.saturating_sub(self.sent + self.missed);
        self.missed += behind.saturating_sub(CATCH_UP);
        behind.min(CATCH_UP)
    }
}

/// Nanoseconds of the clock that stamps are in.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    time.map_or(0, |time| time.as_nanos() as u64)
}

/// Makes the frames that the generator inside the kernel makes: flows, sequence numbers, times and checksums.
pub struct Maker {
    templates: Vec<Template>,
    flows: u64,
    flow: u64,
    /// Of the next packet, as is `template`.
    sequence: u64,
    template: usize,
}

struct Template {
    frame: Vec<u8>,
    is_ipv4: bool,
    /// Where the last 32 bits of the source address are, and UDP.
    source_at: usize,
    udp_at: usize,
    source: u32,
    /// Sums of what is the same in every packet.
    ip_sum: Sum,
    udp_sum: Sum,
}

impl Maker {
    pub fn new(traffic: &Traffic, sequence: u64) -> Maker {
        let templates = traffic.frames().into_iter().map(Template::new).collect();
        Maker { templates, flows: u64::from(traffic.flows.max(1)), flow: 0, sequence, template: 0 }
    }

    /// The next frame, sent at this time.
    pub fn make(&mut self, time: u64) -> &[u8] {
        let (flow, sequence, number) = (self.flow, self.sequence, self.template);
        self.flow = (flow + 1) % self.flows;
        self.sequence += 1;
        self.template = (number + 1) % self.templates.len();
        self.templates[number].fill(flow, sequence, time)
    }

    /// The last frame was not sent; the next one is it again.
    fn back(&mut self) {
        self.flow = (self.flow + self.flows - 1) % self.flows;
        self.sequence -= 1;
        self.template = (self.template + self.templates.len() - 1) % self.templates.len();
    }
}

impl Template {
    /// From a frame of [`crate::traffic::frame`]. What each packet has of its own is zero in it.
    fn new(mut frame: Vec<u8>) -> Template {
        let ip = ethernet::HEADER_LEN;
        let is_ipv4 = frame[12..14] == ethernet::ETHERTYPE_IPV4.to_be_bytes();
        let (udp_at, source_at, address_at, address_len) =
            if is_ipv4 { (ip + 20, ip + 12, ip + 12, 4) } else { (ip + 40, ip + 20, ip + 8, 16) };
        let word = |at: usize, length: usize| {
            frame[at..at + length].iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte))
        };
        let source = word(source_at, 4) as u32;
        let from = word(address_at, address_len) & !u128::from(u32::MAX);
        let to = word(address_at + address_len, address_len);
        frame[source_at..source_at + 4].fill(0);
        frame[udp_at..udp_at + 2].fill(0);
        frame[udp_at + 6..udp_at + 8].fill(0);
        frame[udp_at + UDP_LEN + 4..udp_at + UDP_LEN + STAMP_LEN].fill(0);
        if is_ipv4 {
            frame[ip + 10..ip + 12].fill(0);
        }
        let ip_sum = Sum::new().bytes(&frame[ip..udp_at]);
        let udp_sum = pseudo_header(from, to, is_ipv4, protocol::UDP, frame.len() - udp_at).bytes(&frame[udp_at..]);
        Template { frame, is_ipv4, source_at, udp_at, source, ip_sum, udp_sum }
    }

    fn fill(&mut self, flow: u64, sequence: u64, time: u64) -> &[u8] {
        let source = (self.source + (flow / u64::from(PORTS)) as u32).to_be_bytes();
        let port = (FIRST_PORT + (flow % u64::from(PORTS)) as u16).to_be_bytes();
        let (udp, stamp) = (self.udp_at, self.udp_at + UDP_LEN);
        let (sequence, time) = (&sequence.to_be_bytes()[2..], time.to_be_bytes());
        self.frame[self.source_at..self.source_at + 4].copy_from_slice(&source);
        self.frame[udp..udp + 2].copy_from_slice(&port);
        self.frame[stamp + 4..stamp + 10].copy_from_slice(sequence);
        self.frame[stamp + 10..stamp + STAMP_LEN].copy_from_slice(&time);
        if self.is_ipv4 {
            let checksum = self.ip_sum.bytes(&source).finish();
            self.frame[ethernet::HEADER_LEN + 10..ethernet::HEADER_LEN + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        let sum = self.udp_sum.bytes(&source).bytes(&port).bytes(sequence).bytes(&time);
        // A sum that comes out as 0 would mean in UDP that there is none. RFC 768.
        let checksum = match sum.finish() {
            0 => 0xffff,
            checksum => checksum,
        };
        self.frame[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger;
    use crate::random::Random;
    use crate::traffic::{Family, Size};

    #[test]
    fn frames_of_all_sizes_families_and_flows_are_right() {
        let mut random = Random::new(3);
        for (size, family) in [
            (Size::Fixed(64), Family::Ipv4),
            (Size::Fixed(65), Family::Ipv4),
            (Size::Fixed(1518), Family::Ipv4),
            (Size::Imix, Family::Ipv6),
        ] {
            let mut maker = Maker::new(&Traffic { size, family, flows: 3000 }, 1 << 40);
            for number in 0..7000 {
                let time = random.next_u64();
                let stamp = ledger::check(maker.make(time)).map(|stamp| (stamp.flow, stamp.sequence, stamp.sent));
                assert_eq!(stamp, Some((number % 3000, (1 << 40) + number, time)));
            }
        }
    }

    #[test]
    fn a_frame_that_was_not_sent_comes_again() {
        let mut maker = Maker::new(&Traffic { size: Size::Imix, family: Family::Ipv4, flows: 2 }, 5);
        for _ in 0..30 {
            let frame = maker.make(1).to_vec();
            maker.back();
            assert_eq!(maker.make(1), frame);
        }
    }

    #[test]
    fn who_falls_behind_catches_up_by_a_little() {
        let mut schedule = Schedule::new(Some(1000.0));
        assert_eq!(schedule.due(Duration::from_millis(10)), 10);
        schedule.sent = 10;
        assert_eq!((schedule.due(Duration::from_millis(10)), schedule.missed), (0, 0));
        assert_eq!((schedule.due(Duration::from_secs(1)), schedule.missed), (CATCH_UP, 990 - CATCH_UP));
        assert_eq!(Schedule::new(None).due(Duration::ZERO), u64::MAX);
    }
}
