//! From TCP flags to the state that decides how long an idle flow lives and who is evicted first.
//!
//! No window tracking: a flow that is picked up in the middle, or of which one direction takes another way, must go on.
//! Timeouts are those of Calico's eBPF dataplane.

use super::table::Direction;
use super::{Key, KeyKind, Seconds};
use crate::header::{protocol, tcp};

/// What is known about a flow's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// Lost a slot to another flow; freed by the next sweep.
    Evicted = 0,
    /// Only the fragments of one datagram.
    Fragment = 1,
    /// TCP, and no answer yet.
    TcpOpening = 2,
    TcpEstablished = 3,
    /// Both sides have sent FIN.
    TcpClosing = 4,
    TcpReset = 5,
    /// UDP and other protocols, and no answer yet.
    Unreplied = 6,
    Udp = 7,
    Icmp = 8,
    Other = 9,
}

impl State {
    pub const ALL: [State; 10] = {
        use State::*;
        [Evicted, Fragment, TcpOpening, TcpEstablished, TcpClosing, TcpReset, Unreplied, Udp, Icmp, Other]
    };
    /// No flow is idle for longer than this.
    pub const LONGEST_TIMEOUT: Seconds = 3600;

    /// The state of this number, if there is one. The numbers stand in saved flows, and are not given twice.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    pub(super) fn from_bits(bits: u8) -> Self {
        Self::from_number(bits).unwrap_or(State::Evicted)
    }

    /// True when a flow of this key can be in this state.
    pub fn fits(self, key: &Key) -> bool {
        match self {
            State::Evicted => false,
            State::Fragment => key.kind == KeyKind::Fragment,
            State::TcpOpening | State::TcpEstablished | State::TcpClosing | State::TcpReset => {
                key.kind == KeyKind::Ports && key.protocol == protocol::TCP
            }
            State::Icmp => matches!(key.protocol, protocol::ICMP | protocol::ICMPV6) && key.kind != KeyKind::Fragment,
            State::Unreplied | State::Udp | State::Other => {
                key.kind == KeyKind::Ports && !matches!(key.protocol, protocol::TCP | protocol::ICMP | protocol::ICMPV6)
            }
        }
    }

    /// How long the flow may be idle.
    pub fn timeout(self) -> Seconds {
        match self {
            State::Evicted => 0,
            State::Fragment => 2,
            State::TcpOpening => 20,
            State::TcpEstablished => 3600,
            State::TcpClosing => 30,
            State::TcpReset => 40,
            State::Unreplied | State::Udp => 60,
            State::Icmp => 5,
            State::Other => 600,
        }
    }

    /// Who goes first when there is no room; `None` never goes.
    pub(super) fn eviction_class(self) -> Option<u8> {
        match self {
            State::Evicted | State::TcpClosing | State::TcpReset => Some(0),
            State::Fragment | State::TcpOpening | State::Unreplied => Some(1),
            State::Icmp | State::Udp | State::Other => Some(2),
            State::TcpEstablished => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            State::Evicted => "evicted",
            State::Fragment => "fragment",
            State::TcpOpening => "opening",
            State::TcpEstablished => "established",
            State::TcpClosing => "closing",
            State::TcpReset => "reset",
            State::Unreplied => "unreplied",
            State::Udp => "udp",
            State::Icmp => "icmp",
            State::Other => "other",
        }
    }
}

/// Flags that may move the state each time they are seen, and not only the first time.
pub(super) const TURNS: u8 = tcp::SYN | tcp::RST;

/// The state of a flow that begins with this packet.
pub fn first(key: &Key, _tcp_flags: u8) -> State {
    match (key.kind, key.protocol) {
        (KeyKind::Fragment, _) => State::Fragment,
        (_, protocol::TCP) => State::TcpOpening,
        (_, protocol::ICMP | protocol::ICMPV6) => State::Icmp,
        _ => State::Unreplied,
    }
}

/// The state after one more packet. `own` and `other` are the flags seen so far in the packet's and in the opposite
/// direction.
#[inline]
pub fn next(state: State, direction: Direction, flags: u8, own: u8, other: u8) -> State {
    match state {
        State::TcpOpening | State::TcpEstablished | State::TcpClosing if flags & tcp::RST != 0 => State::TcpReset,
        State::TcpOpening | State::TcpEstablished if own & other & tcp::FIN != 0 => State::TcpClosing,
        // Established only when each side has acknowledged the other: a spoofed SYN and its answer are not enough.
        State::TcpOpening if own & other & tcp::ACK != 0 => State::TcpEstablished,
        // The same ports are used again.
        State::TcpClosing | State::TcpReset if flags & (tcp::SYN | tcp::ACK) == tcp::SYN => State::TcpOpening,
        State::Unreplied if direction == Direction::Reverse => State::Udp,
        state => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Forward, Reverse};

    /// Walks a TCP conversation and returns the state after each packet.
    fn walk(packets: &[(Direction, u8)]) -> Vec<State> {
        let mut seen = [0u8; 2];
        let mut state = State::TcpOpening;
        packets
            .iter()
            .map(|(direction, flags)| {
                let own = *direction as usize;
                seen[own] |= flags;
                state = next(state, *direction, *flags, seen[own], seen[own ^ 1]);
                state
            })
            .collect()
    }

    #[test]
    fn handshake_establishes_and_two_fins_close() {
        use State::*;
        let states = walk(&[
            (Forward, tcp::SYN),
            (Reverse, tcp::SYN | tcp::ACK),
            (Forward, tcp::ACK),
            (Forward, tcp::ACK | tcp::FIN),
            (Reverse, tcp::ACK | tcp::FIN),
            (Forward, tcp::ACK),
            (Forward, tcp::SYN),
        ]);
        let expected = [TcpOpening, TcpOpening, TcpEstablished, TcpEstablished, TcpClosing, TcpClosing, TcpOpening];
        assert_eq!(states, expected);
    }

    #[test]
    fn numbers_and_the_longest_timeout_are_right() {
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!((state as usize, State::from_number(number as u8)), (number, Some(state)));
        }
        assert_eq!(State::from_number(10), None);
        assert_eq!(State::ALL.into_iter().map(State::timeout).max(), Some(State::LONGEST_TIMEOUT));
    }

    #[test]
    fn reset_shortens_the_life_of_a_flow() {
        assert_eq!(walk(&[(Forward, tcp::SYN), (Reverse, tcp::RST | tcp::ACK)]).last(), Some(&State::TcpReset));
    }

    #[test]
    fn one_side_alone_never_establishes() {
        assert_eq!(
            walk(&[(Forward, tcp::SYN), (Forward, tcp::ACK), (Forward, tcp::ACK)]).last(),
            Some(&State::TcpOpening)
        );
    }
}
