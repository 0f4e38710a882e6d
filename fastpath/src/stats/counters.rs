//! Counters of one worker: written by it alone, read by anybody at any time.
//!
//! Packets in = packets accounted for: `received + injected + handed_in` equals `sent + answered + punted + handed_off`
//! and all drops, after every breath.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::burst::DropReason;
use crate::table::{InterfaceIndex, RuleIndex};

/// Interfaces that can be attached at one time.
pub const MAX_INTERFACES: usize = 4096;
/// Rules whose denials are counted one by one; those numbered beyond share the last counter.
pub const MAX_RULES: usize = 65_536;
/// Number of drop reasons.
pub const REASONS: usize = DropReason::ALL.len();

/// A number with one writer.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    #[inline(always)]
    pub fn add(&self, value: u64) {
        // One writer, so no atomic addition is needed.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Counters of one interface, as seen by one worker.
#[derive(Debug)]
pub struct InterfaceCounters {
    pub received_packets: Counter,
    pub received_bytes: Counter,
    pub sent_packets: Counter,
    pub sent_bytes: Counter,
    /// Packets that came in by this interface and were dropped, by reason.
    pub dropped: [Counter; REASONS],
}

impl Default for InterfaceCounters {
    fn default() -> Self {
        Self {
            received_packets: Counter::default(),
            received_bytes: Counter::default(),
            sent_packets: Counter::default(),
            sent_bytes: Counter::default(),
            dropped: std::array::from_fn(|_| Counter::default()),
        }
    }
}

/// Counters of one worker, in cache lines of their own: what others write beside them would slow its owner down.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    /// Packets from interfaces.
    pub received: Counter,
    /// Packets from control.
    pub injected: Counter,
    /// Packets from other workers, to be sent by this one.
    pub handed_in: Counter,
    pub sent: Counter,
    pub answered: Counter,
    pub punted: Counter,
    /// Packets passed to the worker that owns their way out.
    pub handed_off: Counter,
    pub dropped: [Counter; REASONS],
    /// Drop and log records that found their ring full.
    pub records_lost: Counter,
    pub breaths: Counter,
    /// Breaths with at least one packet.
    pub bursts: Counter,
    /// Nanoseconds spent in breaths with packets.
    pub busy_nanoseconds: Counter,
    pub sleeps: Counter,
    pub flows: Counter,
    pub frames_free: Counter,
    pub frames_total: Counter,
    /// Commands carried out: control waits for this to grow.
    pub commands: Counter,
    /// Distribution of breath times, in buckets of powers of two of nanoseconds.
    pub breath_time: [Counter; 40],
    interfaces: Box<[InterfaceCounters]>,
    rules: Box<[Counter]>,
}

impl Default for Counters {
    fn default() -> Self {
        let counter = Counter::default;
        Self {
            received: counter(),
            injected: counter(),
            handed_in: counter(),
            sent: counter(),
            answered: counter(),
            punted: counter(),
            handed_off: counter(),
            dropped: std::array::from_fn(|_| Counter::default()),
            records_lost: counter(),
            breaths: counter(),
            bursts: counter(),
            busy_nanoseconds: counter(),
            sleeps: counter(),
            flows: counter(),
            frames_free: counter(),
            frames_total: counter(),
            commands: counter(),
            breath_time: std::array::from_fn(|_| Counter::default()),
            interfaces: (0..MAX_INTERFACES).map(|_| InterfaceCounters::default()).collect(),
            rules: (0..MAX_RULES).map(|_| Counter::default()).collect(),
        }
    }
}

impl Counters {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Interfaces beyond the bound share the last counters; control does not attach that many.
    #[inline(always)]
    pub fn interface(&self, index: InterfaceIndex) -> &InterfaceCounters {
        &self.interfaces[index.index().min(MAX_INTERFACES - 1)]
    }

    #[inline(always)]
    pub fn rule(&self, index: RuleIndex) -> &Counter {
        &self.rules[index.index().min(MAX_RULES - 1)]
    }

    pub fn packets_in(&self) -> u64 {
        self.received.get() + self.injected.get() + self.handed_in.get()
    }

    pub fn packets_dropped(&self) -> u64 {
        self.dropped.iter().map(Counter::get).sum()
    }

    pub fn packets_accounted(&self) -> u64 {
        self.sent.get() + self.answered.get() + self.punted.get() + self.handed_off.get() + self.packets_dropped()
    }

    /// A percentile of breath times with packets: the upper edge of its bucket, in nanoseconds.
    pub fn breath_percentile(&self, percent: f64) -> u64 {
        let total: u64 = self.breath_time.iter().map(Counter::get).sum();
        let wanted = (total as f64 * percent / 100.0).ceil() as u64;
        let mut seen = 0;
        for (power, counter) in self.breath_time.iter().enumerate() {
            seen += counter.get();
            if seen >= wanted && seen > 0 {
                return 1 << power;
            }
        }
        0
    }
}
