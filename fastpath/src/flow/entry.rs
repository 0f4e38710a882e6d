//! An entry of the flow table: one flow, both directions, three cache lines.
//!
//!     line 0  addresses, state, version, whose it is          written when a flow begins, ends or changes its state
//!     line 1  forward: key, way out, rule, counters           all that a packet of the forward direction needs
//!     line 2  reverse: the same                               all that a packet of the reverse direction needs
//!
//! A packet of an open IPv4 flow touches one line: its direction's. IPv6 addresses do not fit there twice, so an IPv6
//! packet also reads line 0, which is written only when the flow's state changes. The two directions, which arrive at
//! different interfaces and perhaps at different workers, count in lines of their own.
//!
//! Invariants: the version is odd while the entry is a flow; what identifies a flow changes only while it is even.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use zerocopy::FromZeros;

use super::table::Direction;
use super::tcp_state::{self, State};
use super::translation::{Sources, Translated};
use super::{FlowView, Key, Seconds};
use crate::mapped;
use crate::table::{AdjacencyIndex, InterfaceIndex, RuleIndex};

/// What is recorded for packets of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Where packets of this direction come in.
    pub ingress: InterfaceIndex,
    /// Where they go; NONE until the first packet of the direction has been routed.
    pub adjacency: AdjacencyIndex,
    /// The tables under which the way out was found.
    pub generation: u32,
}

/// A key in the form in which it is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packed {
    /// IPv4: both addresses. IPv6: a mixture of them, to tell most strangers without a look at line 0.
    addresses: u64,
    /// Ports, protocol, kind and family.
    ports: u64,
}

/// In `Packed::ports`, where the key's own words have a zero.
const IPV4: u64 = 1 << 16;

impl Packed {
    #[inline(always)]
    pub(super) fn of(key: &Key) -> Self {
        let ports = key.ports_word();
        if key.is_ipv4() {
            let addresses = (key.source as u64) << 32 | u64::from(key.destination as u32);
            return Self { addresses, ports: ports | IPV4 };
        }
        let [a, b, c, d, _] = key.words();
        Self { addresses: a ^ b.rotate_left(17) ^ c.rotate_left(31) ^ d.rotate_left(47), ports }
    }

    #[inline(always)]
    pub(super) fn is_ipv4(self) -> bool {
        self.ports & IPV4 != 0
    }

    /// All of an IPv4 key, in one piece.
    #[inline(always)]
    pub(super) fn whole(self) -> u128 {
        u128::from(self.addresses) << 64 | u128::from(self.ports)
    }
}

#[derive(FromZeros)]
#[repr(C, align(64))]
struct Shared {
    key: [AtomicU64; 5],
    /// Odd while this is a flow.
    version: AtomicU32,
    created: AtomicU32,
    /// Where the forward direction comes in, and where it leaves.
    interfaces: [AtomicU16; 2],
    /// The interface whose quota the flow counts against.
    charged: AtomicU16,
    /// Of fragments: how much of the datagram the first one covered, in bytes.
    covered: AtomicU16,
    state: AtomicU8,
}

/// Written by packets of one direction only.
#[derive(FromZeros)]
#[repr(C, align(64))]
pub(super) struct Side {
    addresses: AtomicU64,
    ports: AtomicU64,
    /// Way out and generation in one word: they change together.
    decision: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
    rule: AtomicU32,
    last_seen: AtomicU32,
    /// `Translated` as a word, the same in both.
    translation: AtomicU32,
    ingress: AtomicU16,
    tcp_flags: AtomicU8,
}

#[derive(FromZeros)]
#[repr(C, align(64))]
pub(super) struct Entry {
    shared: Shared,
    sides: [Side; 2],
}

const _: () = assert!(size_of::<Shared>() == 64 && size_of::<Side>() == 64 && size_of::<Entry>() == 192);

impl Entry {
    /// Fills a free entry, which becomes a flow; `answer` is the key of its other direction.
    pub(super) fn fill(&self, flow: &FlowView, answer: &Key, covered: u16, charged: InterfaceIndex) {
        for (word, value) in flow.key.words().into_iter().enumerate() {
            self.shared.key[word].store(value, Ordering::Relaxed);
        }
        self.shared.created.store(flow.created, Ordering::Relaxed);
        self.shared.interfaces[0].store(flow.ingress.0, Ordering::Relaxed);
        self.shared.interfaces[1].store(flow.egress.0, Ordering::Relaxed);
        self.shared.charged.store(charged.0, Ordering::Relaxed);
        self.shared.covered.store(covered, Ordering::Relaxed);
        self.shared.state.store(flow.state as u8, Ordering::Relaxed);
        let other = match flow.translated {
            // Fragments have one direction; the other's place has room for an address.
            Translated::Fragment(_, address) => Packed { addresses: (address >> 64) as u64, ports: address as u64 },
            _ => Packed::of(answer),
        };
        let word = flow.translated.word();
        let ends = [(Packed::of(&flow.key), flow.ingress), (other, flow.egress)];
        for (position, (side, (packed, ingress))) in self.sides.iter().zip(ends).enumerate() {
            side.translation.store(word, Ordering::Relaxed);
            side.addresses.store(packed.addresses, Ordering::Relaxed);
            side.ports.store(packed.ports, Ordering::Relaxed);
            side.packets.store(flow.packets[position], Ordering::Relaxed);
            side.bytes.store(flow.bytes[position], Ordering::Relaxed);
            side.rule.store(flow.rule.0, Ordering::Relaxed);
            side.last_seen.store(flow.seen[position], Ordering::Relaxed);
            side.ingress.store(ingress.0, Ordering::Relaxed);
            side.tcp_flags.store(flow.tcp_flags[position], Ordering::Relaxed);
        }
        // Even to odd: what was written above is visible to whoever sees the odd version.
        self.shared.version.fetch_add(1, Ordering::Release);
    }

    /// Asks for all of it.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        mapped::prefetch(&self.shared);
        self.sides.iter().for_each(mapped::prefetch);
    }

    /// The flow is over; the entry may be filled again after a grace period.
    pub(super) fn clear(&self) {
        self.shared.version.fetch_add(1, Ordering::Release);
    }

    /// The version, if this is a flow.
    pub(super) fn version(&self) -> Option<u32> {
        let version = self.shared.version.load(Ordering::Acquire);
        (version & 1 == 1).then_some(version)
    }

    #[inline(always)]
    pub(super) fn side(&self, direction: Direction) -> &Side {
        &self.sides[direction as usize]
    }

    /// True when this is the key of packets of that direction.
    #[inline(always)]
    pub(super) fn holds(&self, direction: Direction, packed: Packed, key: &Key, sources: &Sources) -> bool {
        self.holds_at_once(direction, packed, key)
            || self.side(direction).is_alike(packed)
                && self.side(direction).is_translated()
                && self.has_addresses_outside(direction, key, sources)
    }

    /// The same for what is asked about every packet, which may be no for an IPv6 flow that is translated.
    #[inline(always)]
    pub(super) fn holds_at_once(&self, direction: Direction, packed: Packed, key: &Key) -> bool {
        self.side(direction).is_alike(packed) && (packed.is_ipv4() || self.has_addresses(direction, key))
    }

    /// Of a flow that is not translated.
    fn has_addresses(&self, direction: Direction, key: &Key) -> bool {
        if self.side(direction).is_translated() {
            return false;
        }
        let stored: [u64; 4] = std::array::from_fn(|word| self.shared.key[word].load(Ordering::Relaxed));
        let [a, b, c, d, _] = key.words();
        stored
            == match direction {
                Direction::Forward => [a, b, c, d],
                Direction::Reverse => [c, d, a, b],
            }
    }

    #[cold]
    #[inline(never)]
    fn has_addresses_outside(&self, direction: Direction, key: &Key, sources: &Sources) -> bool {
        let own = self.key_of(direction, sources);
        (own.source, own.destination) == (key.source, key.destination)
    }

    /// The key that packets of that direction come in with.
    pub(super) fn key_of(&self, direction: Direction, sources: &Sources) -> Key {
        sources.key_of(&self.key(), self.translated(), direction)
    }

    /// What stands in place of the source outside.
    pub(super) fn translated(&self) -> Translated {
        let [forward, reverse] = &self.sides;
        let word = forward.translation.load(Ordering::Relaxed);
        let half = |half: &AtomicU64| u128::from(half.load(Ordering::Relaxed));
        Translated::from_word(word, half(&reverse.addresses) << 64 | half(&reverse.ports))
    }

    /// The key of the flow's first packet.
    pub(super) fn key(&self) -> Key {
        Key::from_words(std::array::from_fn(|word| self.shared.key[word].load(Ordering::Relaxed)))
    }

    /// The interface by which packets of that direction leave: where the other direction comes in.
    pub(super) fn egress(&self, direction: Direction) -> InterfaceIndex {
        InterfaceIndex(self.shared.interfaces[direction as usize ^ 1].load(Ordering::Relaxed))
    }

    pub(super) fn uses(&self, interface: InterfaceIndex) -> bool {
        self.shared.interfaces.iter().any(|own| own.load(Ordering::Relaxed) == interface.0)
    }

    pub(super) fn charged(&self) -> InterfaceIndex {
        InterfaceIndex(self.shared.charged.load(Ordering::Relaxed))
    }

    pub(super) fn covered(&self) -> u16 {
        self.shared.covered.load(Ordering::Relaxed)
    }

    pub(super) fn state(&self) -> State {
        State::from_bits(self.shared.state.load(Ordering::Relaxed))
    }

    pub(super) fn set_state(&self, state: State) {
        self.shared.state.store(state as u8, Ordering::Relaxed);
    }

    pub(super) fn last_seen(&self) -> Seconds {
        self.sides.iter().map(|side| side.last_seen.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// Moves the state on. Only a packet that shows something new can do that; see `Side::count`.
    #[cold]
    pub(super) fn advance(&self, direction: Direction, flags: u8) {
        let seen = |side: &Side| side.tcp_flags.load(Ordering::Relaxed);
        let (own, other) = (seen(&self.sides[direction as usize]), seen(&self.sides[direction as usize ^ 1]));
        let state = self.state();
        let next = tcp_state::next(state, direction, flags, own, other);
        if next != state {
            self.set_state(next);
        }
    }

    /// A look at a live flow, whole or not at all.
    pub(super) fn view(&self) -> Option<FlowView> {
        let version = self.version()?;
        let each = |get: fn(&Side) -> u64| self.sides.each_ref().map(get);
        let view = FlowView {
            key: self.key(),
            state: self.state(),
            rule: self.sides[0].rule(),
            translated: self.translated(),
            ingress: self.sides[0].decision().ingress,
            egress: self.egress(Direction::Forward),
            created: self.shared.created.load(Ordering::Relaxed),
            seen: self.sides.each_ref().map(|side| side.last_seen.load(Ordering::Relaxed)),
            packets: each(|side| side.packets.load(Ordering::Relaxed)),
            bytes: each(|side| side.bytes.load(Ordering::Relaxed)),
            tcp_flags: self.sides.each_ref().map(|side| side.tcp_flags.load(Ordering::Relaxed)),
        };
        std::sync::atomic::fence(Ordering::Acquire);
        (self.shared.version.load(Ordering::Relaxed) == version).then_some(view)
    }
}

impl Side {
    #[inline(always)]
    pub(super) fn decision(&self) -> Decision {
        let word = self.decision.load(Ordering::Relaxed);
        Decision {
            ingress: InterfaceIndex(self.ingress.load(Ordering::Relaxed)),
            adjacency: AdjacencyIndex((word >> 32) as u32),
            generation: word as u32,
        }
    }

    pub(super) fn decide(&self, adjacency: AdjacencyIndex, generation: u32) {
        self.decision.store(u64::from(adjacency.0) << 32 | u64::from(generation), Ordering::Relaxed);
    }

    /// True when the key that is stored looks like this; for IPv4 it is the same then.
    #[inline(always)]
    fn is_alike(&self, packed: Packed) -> bool {
        self.addresses.load(Ordering::Relaxed) == packed.addresses && self.ports.load(Ordering::Relaxed) == packed.ports
    }

    /// True when packets of this direction change more than their way.
    #[inline(always)]
    pub(super) fn is_translated(&self) -> bool {
        self.translation.load(Ordering::Relaxed) != 0
    }

    #[inline(always)]
    pub(super) fn rule(&self) -> RuleIndex {
        RuleIndex(self.rule.load(Ordering::Relaxed))
    }

    /// Counts a packet. True when it shows what this direction has not shown before, so that the state may move.
    #[inline(always)]
    pub(super) fn count(&self, bytes: u32, tcp_flags: u8, now: Seconds) -> bool {
        // One writer a direction at a time, so load and store; a lost count under re-homing would be harmless.
        let packets = self.packets.load(Ordering::Relaxed);
        self.packets.store(packets.wrapping_add(1), Ordering::Relaxed);
        self.bytes.store(self.bytes.load(Ordering::Relaxed).wrapping_add(u64::from(bytes)), Ordering::Relaxed);
        if self.last_seen.load(Ordering::Relaxed) != now {
            self.last_seen.store(now, Ordering::Relaxed);
        }
        let seen = self.tcp_flags.load(Ordering::Relaxed);
        let is_news = seen | tcp_flags != seen;
        if is_news {
            self.tcp_flags.store(seen | tcp_flags, Ordering::Relaxed);
        }
        is_news || packets == 0 || tcp_flags & tcp_state::TURNS != 0
    }
}
