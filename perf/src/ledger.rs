//! What has become of the packets of one trial, flow by flow: pure bookkeeping over what a sink has read.
//!
//! ```text
//!     frame ──check──▶ stamp: flow, sequence, sent at ──accept──▶ Record of the flow ──▶ totals, histogram
//! ```
//!
//! The generator sends flow 0, 1, 2 … and begins again, with sequence numbers that go up by one. So the sequence number says
//! which packet of which flow this is, and the addresses and ports have to say the same. Each flow has the highest number that
//! came, and a bit for each of the 64 before it. A packet is
//!
//! - **first** when none of its number came before and it is within those 64 or beyond the highest,
//! - **reordered** too, when a later one of its flow came before it (RFC 4737 §3, by flow),
//! - **twice** when its bit is set; one that is older than 64 of its flow counts as reordered, because that is not known,
//! - **late** when it is of an earlier trial,
//! - **damaged** when a length or a checksum is wrong, or its flow is not the one its number says.
//!
//! Bound: [`MOST_FLOWS`] flows of 24 bytes. Left out: whether TTL went down, which not every forwarder does.

use fastpath::header::checksum::{Sum, pseudo_header};
use fastpath::header::{ethernet, protocol};
use fastpath::io::blast::{MAGIC, PORTS, STAMP_LEN};
use hdrhistogram::Histogram;

use crate::tables::{A_IPV4, A_IPV6};
use crate::traffic::FIRST_PORT;

/// 96 MiB of records.
pub const MOST_FLOWS: u32 = 1 << 22;
/// Longest that a packet may take and still be told from others.
const LONGEST: u64 = 60_000_000_000;
const WINDOW: u64 = 64;
const UDP_LEN: usize = 8;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// Last byte of a destination MAC that no packet should have.
const MARK: u8 = fastpath::io::gauge::MARK;

/// What a packet says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    pub flow: u64,
    pub sequence: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub sent: u64,
    pub is_marked: bool,
}

/// What becomes of a packet that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    First { is_reordered: bool },
    Twice,
    Late,
    Damaged,
}

/// Packets of one trial, by their fates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Read {
    pub first: u64,
    pub reordered: u64,
    pub twice: u64,
    pub late: u64,
    pub damaged: u64,
    pub marked: u64,
}

impl Read {
    pub fn sum(&self) -> u64 {
        self.first + self.twice + self.late + self.damaged
    }
}

/// What was lost, by flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowLoss {
    pub flows: u64,
    /// Flows that have lost a packet.
    pub with_loss: u64,
    /// Most that one flow has lost.
    pub worst: u64,
}

#[derive(Clone, Copy, Default)]
struct Record {
    /// One more than the highest number that came.
    next: u64,
    /// Bit i: the packet i before the highest came.
    window: u64,
    first: u64,
}

pub struct Ledger {
    records: Vec<Record>,
    /// Sequence number of the trial's first packet.
    begin: u64,
    read: Read,
    latencies: Histogram<u64>,
}

impl Ledger {
    /// For so many flows, at most [`MOST_FLOWS`].
    pub fn new(flows: u32) -> Ledger {
        let flows = flows.clamp(1, MOST_FLOWS);
        let bounded = Histogram::new_with_bounds(1, LONGEST, 3);
        let latencies = bounded.unwrap_or_else(|error| unreachable!("bounds of a histogram: {error}"));
        Ledger { records: vec![Record::default(); flows as usize], begin: 0, read: Read::default(), latencies }
    }

    /// A trial whose first packet has this sequence number.
    pub fn begin(&mut self, sequence: u64) {
        self.records.fill(Record::default());
        self.begin = sequence;
        self.read = Read::default();
        self.latencies.reset();
    }

    /// Books a frame.
    pub fn accept(&mut self, arrived: u64, frame: &[u8]) -> Fate {
        let stamp = check(frame);
        let fate = stamp.map_or(Fate::Damaged, |stamp| self.book(stamp.flow, stamp.sequence));
        match fate {
            Fate::First { is_reordered } => {
                self.read.first += 1;
                self.read.reordered += u64::from(is_reordered);
                self.read.marked += u64::from(stamp.is_some_and(|stamp| stamp.is_marked));
                let taken = arrived.saturating_sub(stamp.map_or(arrived, |stamp| stamp.sent));
                self.latencies.saturating_record(taken);
            }
            Fate::Twice => self.read.twice += 1,
            Fate::Late => self.read.late += 1,
            Fate::Damaged => self.read.damaged += 1,
        }
        fate
    }

    fn book(&mut self, flow: u64, sequence: u64) -> Fate {
        let Some(position) = sequence.checked_sub(self.begin) else { return Fate::Late };
        let flows = self.records.len() as u64;
        if position % flows != flow {
            return Fate::Damaged;
        }
        let (number, record) = (position / flows, &mut self.records[flow as usize]);
        if number >= record.next {
            let step = number + 1 - record.next;
            record.window = record.window.checked_shl(step.min(WINDOW) as u32).unwrap_or(0) | 1;
            record.next = number + 1;
            record.first += 1;
            return Fate::First { is_reordered: false };
        }
        let back = record.next - 1 - number;
        if back < WINDOW {
            if record.window >> back & 1 == 1 {
                return Fate::Twice;
            }
            record.window |= 1 << back;
        }
        record.first += 1;
        Fate::First { is_reordered: true }
    }

    pub fn read(&self) -> Read {
        self.read
    }

    /// Nanoseconds, and how many packets took them.
    pub fn latencies(&self) -> Vec<(u64, u64)> {
        let recorded = self.latencies.iter_recorded();
        recorded.map(|value| (value.value_iterated_to(), value.count_at_value())).collect()
    }

    /// What the flows have lost of so many packets of the trial.
    pub fn flow_loss(&self, sent: u64) -> FlowLoss {
        let flows = self.records.len() as u64;
        let mut loss = FlowLoss { flows: flows.min(sent), ..FlowLoss::default() };
        for (flow, record) in self.records.iter().enumerate() {
            let of_flow = sent / flows + u64::from((flow as u64) < sent % flows);
            let lost = of_flow.saturating_sub(record.first);
            loss.with_loss += u64::from(lost > 0);
            loss.worst = loss.worst.max(lost);
        }
        loss
    }
}

/// The stamp of a frame whose lengths and checksums are right.
pub fn check(frame: &[u8]) -> Option<Stamp> {
    let half = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let ip = frame.get(ethernet::HEADER_LEN..)?;
    let (header, source, destination, first) = match half(12)? {
        ethernet::ETHERTYPE_IPV4 => {
            let header = ip.get(..IPV4_LEN)?;
            let is_whole = header[0] == 0x45 && usize::from(half(16)?) == ip.len() && header[9] == protocol::UDP;
            if !is_whole || Sum::new().bytes(header).fold() != 0xffff {
                return None;
            }
            let word = |at: usize| header[at..at + 4].iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
            (IPV4_LEN, word(12), word(16), u128::from(A_IPV4) + 2)
        }
        ethernet::ETHERTYPE_IPV6 => {
            let header = ip.get(..IPV6_LEN)?;
            let is_whole = usize::from(half(18)?) == ip.len() - IPV6_LEN && header[6] == protocol::UDP;
            if !is_whole {
                return None;
            }
            let address = |at: usize| header[at..at + 16].iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
            (IPV6_LEN, address(8), address(24), A_IPV6 + 2)
        }
        _ => return None,
    };
    let udp = ip.get(header..)?;
    let payload = udp.get(UDP_LEN..)?;
    let stamp = payload.get(..STAMP_LEN)?;
    let number = |from: usize, to: usize| stamp[from..to].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let udp_at = ethernet::HEADER_LEN + header;
    let sum = pseudo_header(source, destination, header == IPV4_LEN, protocol::UDP, udp.len()).bytes(udp);
    let is_right = usize::from(half(udp_at + 4)?) == udp.len() && half(udp_at + 6)? != 0 && sum.fold() == 0xffff;
    if !is_right || number(0, 4) != u64::from(MAGIC) {
        return None;
    }
    let host = u64::try_from(source.checked_sub(first)?).ok().filter(|host| *host <= u64::from(u32::MAX))?;
    let port = u64::from(half(udp_at)?.checked_sub(FIRST_PORT)?);
    if port >= u64::from(PORTS) {
        return None;
    }
    Some(Stamp {
        flow: host * u64::from(PORTS) + port,
        sequence: number(4, 10),
        sent: number(10, 18),
        is_marked: frame[5] == MARK,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::random::Random;
    use crate::sender::Maker;
    use crate::traffic::{Family, Size, Traffic};

    /// The obvious twin: all numbers that came, of each flow.
    #[derive(Default)]
    struct Journal {
        came: Vec<HashSet<u64>>,
    }

    impl Journal {
        fn book(&mut self, begin: u64, flow: u64, sequence: u64) -> Fate {
            if sequence < begin {
                return Fate::Late;
            }
            let flows = self.came.len() as u64;
            if (sequence - begin) % flows != flow {
                return Fate::Damaged;
            }
            let (number, came) = ((sequence - begin) / flows, &mut self.came[flow as usize]);
            let highest = came.iter().max().copied();
            let is_recent = highest.is_none_or(|highest| highest < number + WINDOW);
            if came.contains(&number) && is_recent {
                return Fate::Twice;
            }
            came.insert(number);
            Fate::First { is_reordered: highest.is_some_and(|highest| highest > number) }
        }
    }

    #[test]
    fn fates_are_those_of_a_set_of_numbers() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let flows = 1 + random.below(5) as u32;
            let begin = random.below(1000);
            let mut ledger = Ledger::new(flows);
            ledger.begin(begin);
            let mut journal = Journal { came: vec![HashSet::new(); flows as usize] };
            let mut position = 0;
            let mut counted = Read::default();
            for _ in 0..500 {
                // Mostly forward; now and then back, far back, far ahead, or before the beginning.
                position = match random.below(10) {
                    0 => position + random.below(400 * u64::from(flows)),
                    1 | 2 => (position + 3).saturating_sub(random.below(70 * u64::from(flows))),
                    _ => position + 1,
                };
                let sequence = (begin + position).saturating_sub(random.below(50) / 49 * 2000);
                let right = sequence.wrapping_sub(begin) % u64::from(flows);
                let flow = (right + random.below(40) / 39) % u64::from(flows);
                let fate = ledger.book(flow, sequence);
                assert_eq!(fate, journal.book(begin, flow, sequence), "seed {seed}, sequence {sequence}");
                match fate {
                    Fate::First { .. } => counted.first += 1,
                    Fate::Twice => counted.twice += 1,
                    Fate::Late => counted.late += 1,
                    Fate::Damaged => counted.damaged += 1,
                }
            }
            assert_eq!(counted.sum(), 500);
            assert!(counted.first > 0, "seed {seed}");
        }
    }

    #[test]
    fn loss_is_told_by_flow() {
        let mut ledger = Ledger::new(4);
        ledger.begin(100);
        for sequence in (100..110).filter(|sequence| ![101, 105, 102].contains(sequence)) {
            ledger.book((sequence - 100) % 4, sequence);
        }
        assert_eq!(ledger.flow_loss(10), FlowLoss { flows: 4, with_loss: 2, worst: 2 });
        ledger.begin(110);
        assert_eq!(ledger.flow_loss(0), FlowLoss::default());
        assert_eq!(ledger.book(0, 109), Fate::Late);
    }

    #[test]
    fn frames_that_were_made_are_right_and_no_bit_of_them_can_be_changed_unseen() {
        for (family, flow) in [(Family::Ipv4, 0), (Family::Ipv6, 5000)] {
            let traffic = Traffic { size: Size::Fixed(84), family, flows: 10_000 };
            let mut maker = Maker::new(&traffic, 0);
            let mut frame = Vec::new();
            for _ in 0..=flow {
                frame.clear();
                frame.extend_from_slice(maker.make(77));
            }
            let stamp = Stamp { flow, sequence: flow, sent: 77, is_marked: false };
            assert_eq!(check(&frame), Some(stamp));
            let mut ledger = Ledger::new(10_000);
            ledger.begin(0);
            assert_eq!(ledger.accept(1077, &frame), Fate::First { is_reordered: false });
            assert_eq!(ledger.accept(1077, &frame), Fate::Twice);
            assert_eq!(
                ledger.latencies().iter().map(|(value, count)| (value / 10, *count)).collect::<Vec<_>>(),
                [(100, 1)]
            );
            // MAC addresses, the traffic class, the flow label and the hop limit of IPv6 are under no checksum.
            let covered = if family == Family::Ipv4 { 12 } else { 18 };
            for bit in (covered * 8..frame.len() * 8).filter(|bit| family == Family::Ipv4 || bit / 8 != 21) {
                frame[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(check(&frame), None, "{family:?}, bit {bit}");
                frame[bit / 8] ^= 1 << (bit % 8);
            }
            for length in 0..frame.len() {
                assert_eq!(check(&frame[..length]), None, "{family:?}, {length}");
            }
        }
    }

    #[test]
    fn bytes_of_any_kind_are_read_without_harm() {
        let mut random = Random::new(1);
        for length in 0..200 {
            let mut bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
            if length > 14 {
                let ethertype = [ethernet::ETHERTYPE_IPV4, ethernet::ETHERTYPE_IPV6][length % 2];
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            assert_eq!(check(&bytes), None);
        }
    }
}
