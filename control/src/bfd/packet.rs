//! The BFD control packet, and the checks a received one has to pass.
//!
//! ```text
//!   0                   1                   2                   3
//!   | vers | diagnostic |sta|P|F|C|A|D|M| detect mult  |    length     |
//!   |                       my discriminator                           |
//!   |                      your discriminator                          |
//!   |                desired min tx interval, µs                       |
//!   |                required min rx interval, µs                      |
//!   |             required min echo rx interval, µs                    |
//! ```
//!
//! `decode` makes the checks of RFC 5880 §6.8.6 that need no session, in the order they have there; whose packet it is, and
//! from where it may come, is for the caller to find out. The first check that fails gives the reason.
//!
//! Invariant: a packet that was decoded has a discriminator of its sender and a multiplier above zero, and is encoded to the
//! same bytes (but for what a longer payload had behind it).
//! Left out: authentication. A packet that has it is refused, because no session here uses it.
//! Sources: RFC 5880 §4.1, §6.8.6, §6.8.7.

use std::fmt;
use std::time::Duration;

/// Bytes of a control packet without authentication.
pub const LENGTH: usize = 24;
/// The same with the two bytes that every kind of authentication begins with.
const LENGTH_AUTHENTICATED: usize = 26;
const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// What one side tells the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packet {
    pub diagnostic: Diagnostic,
    pub state: State,
    pub poll: bool,
    pub is_final: bool,
    /// The sender's BFD goes on when its control plane stops.
    pub control_plane_independent: bool,
    pub demand: bool,
    pub detect_mult: u8,
    pub my_discriminator: u32,
    /// Zero: the sender does not know it yet.
    pub your_discriminator: u32,
    pub desired_min_tx: Micros,
    /// Zero: nothing is to be sent periodically.
    pub required_min_rx: Micros,
    /// Zero: no echo.
    pub required_min_echo_rx: Micros,
}

/// An interval as it stands in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub u32);

impl Micros {
    /// What is too long for a packet is said as the longest.
    pub fn of(interval: Duration) -> Micros {
        Micros(u32::try_from(interval.as_micros()).unwrap_or(u32::MAX))
    }

    pub fn duration(self) -> Duration {
        Duration::from_micros(u64::from(self.0))
    }
}

/// RFC 5880 §4.1, Sta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    AdminDown,
    Down,
    Init,
    Up,
}

impl State {
    fn bits(self) -> u8 {
        match self {
            State::AdminDown => 0,
            State::Down => 1,
            State::Init => 2,
            State::Up => 3,
        }
    }

    fn of(bits: u8) -> State {
        match bits & 3 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::AdminDown => "AdminDown",
            State::Down => "Down",
            State::Init => "Init",
            State::Up => "Up",
        })
    }
}

/// Why a side last left `Up`. RFC 5880 §4.1, Diag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Diagnostic {
    #[default]
    None,
    DetectionTimeExpired,
    EchoFailed,
    NeighbourSignaledDown,
    ForwardingPlaneReset,
    PathDown,
    ConcatenatedPathDown,
    AdministrativelyDown,
    ReverseConcatenatedPathDown,
    /// 9 to 31; kept as it came.
    Reserved(u8),
}

impl Diagnostic {
    pub fn code(self) -> u8 {
        match self {
            Diagnostic::None => 0,
            Diagnostic::DetectionTimeExpired => 1,
            Diagnostic::EchoFailed => 2,
            Diagnostic::NeighbourSignaledDown => 3,
            Diagnostic::ForwardingPlaneReset => 4,
            Diagnostic::PathDown => 5,
            Diagnostic::ConcatenatedPathDown => 6,
            Diagnostic::AdministrativelyDown => 7,
            Diagnostic::ReverseConcatenatedPathDown => 8,
            Diagnostic::Reserved(code) => code & 0x1f,
        }
    }

    pub fn of(code: u8) -> Diagnostic {
        match code & 0x1f {
            0 => Diagnostic::None,
            1 => Diagnostic::DetectionTimeExpired,
            2 => Diagnostic::EchoFailed,
            3 => Diagnostic::NeighbourSignaledDown,
            4 => Diagnostic::ForwardingPlaneReset,
            5 => Diagnostic::PathDown,
            6 => Diagnostic::ConcatenatedPathDown,
            7 => Diagnostic::AdministrativelyDown,
            8 => Diagnostic::ReverseConcatenatedPathDown,
            code => Diagnostic::Reserved(code),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Diagnostic::None => "no diagnostic",
            Diagnostic::DetectionTimeExpired => "control detection time expired",
            Diagnostic::EchoFailed => "echo function failed",
            Diagnostic::NeighbourSignaledDown => "neighbour signaled session down",
            Diagnostic::ForwardingPlaneReset => "forwarding plane reset",
            Diagnostic::PathDown => "path down",
            Diagnostic::ConcatenatedPathDown => "concatenated path down",
            Diagnostic::AdministrativelyDown => "administratively down",
            Diagnostic::ReverseConcatenatedPathDown => "reverse concatenated path down",
            Diagnostic::Reserved(code) => return write!(f, "diagnostic {code}"),
        })
    }
}

/// Why a received packet was dropped. The first ones are `decode`'s, in the order of its checks; the rest are found with the
/// session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    Short,
    Version,
    Length,
    LengthBeyondPayload,
    MultiplierZero,
    Multipoint,
    MyDiscriminatorZero,
    /// Your discriminator is zero, and the state says that it must be known.
    YourDiscriminatorZero,
    /// It has authentication and the session has not.
    Authentication,
    /// RFC 5881 §5, RFC 5883 §5: it came from farther away than it may.
    Ttl,
    /// Your discriminator is of no session.
    UnknownDiscriminator,
    /// No session is configured with that neighbour.
    UnknownNeighbour,
    /// It is for another session than the port, the interface or the address it came by says.
    WrongPath,
}

impl Refused {
    pub const ALL: [Refused; 13] = [
        Refused::Short,
        Refused::Version,
        Refused::Length,
        Refused::LengthBeyondPayload,
        Refused::MultiplierZero,
        Refused::Multipoint,
        Refused::MyDiscriminatorZero,
        Refused::YourDiscriminatorZero,
        Refused::Authentication,
        Refused::Ttl,
        Refused::UnknownDiscriminator,
        Refused::UnknownNeighbour,
        Refused::WrongPath,
    ];

    /// A word for counters.
    pub fn name(self) -> &'static str {
        match self {
            Refused::Short => "short",
            Refused::Version => "version",
            Refused::Length => "length",
            Refused::LengthBeyondPayload => "length_beyond_payload",
            Refused::MultiplierZero => "multiplier_zero",
            Refused::Multipoint => "multipoint",
            Refused::MyDiscriminatorZero => "my_discriminator_zero",
            Refused::YourDiscriminatorZero => "your_discriminator_zero",
            Refused::Authentication => "authentication",
            Refused::Ttl => "ttl",
            Refused::UnknownDiscriminator => "unknown_discriminator",
            Refused::UnknownNeighbour => "unknown_neighbour",
            Refused::WrongPath => "wrong_path",
        }
    }
}

impl Packet {
    /// Reads the payload of a UDP packet.
    ///
    /// The check for authentication comes before the session is known, where RFC 5880 §6.8.6 has it after; the outcome is the
    /// same, since no session has authentication.
    pub fn decode(payload: &[u8]) -> Result<Packet, Refused> {
        let bytes: &[u8; LENGTH] = payload.first_chunk().ok_or(Refused::Short)?;
        let [first, second, detect_mult, length, words @ ..] = bytes;
        if first >> 5 != VERSION {
            return Err(Refused::Version);
        }
        let has_authentication = second & AUTHENTICATION != 0;
        let shortest = if has_authentication { LENGTH_AUTHENTICATED } else { LENGTH };
        if usize::from(*length) < shortest {
            return Err(Refused::Length);
        }
        if usize::from(*length) > payload.len() {
            return Err(Refused::LengthBeyondPayload);
        }
        if *detect_mult == 0 {
            return Err(Refused::MultiplierZero);
        }
        if second & MULTIPOINT != 0 {
            return Err(Refused::Multipoint);
        }
        let (words, _) = words.as_chunks::<4>();
        let word = |index: usize| words.get(index).map_or(0, |word| u32::from_be_bytes(*word));
        let my_discriminator = word(0);
        if my_discriminator == 0 {
            return Err(Refused::MyDiscriminatorZero);
        }
        let state = State::of(second >> 6);
        let your_discriminator = word(1);
        if your_discriminator == 0 && !matches!(state, State::Down | State::AdminDown) {
            return Err(Refused::YourDiscriminatorZero);
        }
        if has_authentication {
            return Err(Refused::Authentication);
        }
        Ok(Packet {
            diagnostic: Diagnostic::of(*first),
            state,
            poll: second & POLL != 0,
            is_final: second & FINAL != 0,
            control_plane_independent: second & CONTROL_PLANE_INDEPENDENT != 0,
            demand: second & DEMAND != 0,
            detect_mult: *detect_mult,
            my_discriminator,
            your_discriminator,
            desired_min_tx: Micros(word(2)),
            required_min_rx: Micros(word(3)),
            required_min_echo_rx: Micros(word(4)),
        })
    }

    pub fn encode(&self) -> [u8; LENGTH] {
        let mut flags = self.state.bits() << 6;
        for (is_set, flag) in [
            (self.poll, POLL),
            (self.is_final, FINAL),
            (self.control_plane_independent, CONTROL_PLANE_INDEPENDENT),
            (self.demand, DEMAND),
        ] {
            flags |= if is_set { flag } else { 0 };
        }
        let mut bytes = [0; LENGTH];
        let head = [VERSION << 5 | self.diagnostic.code(), flags, self.detect_mult, LENGTH as u8];
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx.0,
            self.required_min_rx.0,
            self.required_min_echo_rx.0,
        ];
        let all = head.into_iter().chain(words.into_iter().flat_map(u32::to_be_bytes));
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::NeighbourSignaledDown,
            state: State::Up,
            poll: true,
            is_final: false,
            control_plane_independent: true,
            demand: false,
            detect_mult: 3,
            my_discriminator: 0x0102_0304,
            your_discriminator: 0x0506_0708,
            desired_min_tx: Micros(10_000),
            required_min_rx: Micros(20_000),
            required_min_echo_rx: Micros(0),
        }
    }

    /// A good packet with some bytes changed.
    fn with(changes: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = packet().encode().to_vec();
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        bytes
    }

    #[track_caller]
    fn check(payload: &[u8], expected: Result<Packet, Refused>) {
        assert_eq!(Packet::decode(payload), expected, "{payload:02x?}");
    }

    #[test]
    fn a_packet_as_it_stands_on_the_wire() {
        let bytes = [0x23, 0xe8, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x27, 0x10, 0, 0, 0x4e, 0x20, 0, 0, 0, 0];
        assert_eq!(packet().encode(), bytes);
        check(&bytes, Ok(packet()));
        // RFC 5880 §6.8.6: the length may be less than the payload; what follows says nothing.
        check(&[&bytes[..], &[1, 2, 3]].concat(), Ok(packet()));
    }

    #[test]
    fn every_check_of_reception_has_its_reason() {
        check(&[], Err(Refused::Short));
        check(&with(&[])[..23], Err(Refused::Short));
        check(&with(&[(0, 0x03)]), Err(Refused::Version));
        check(&with(&[(0, 0x43)]), Err(Refused::Version));
        check(&with(&[(3, 23)]), Err(Refused::Length));
        check(&with(&[(1, 0xc4), (3, 25)]), Err(Refused::Length));
        check(&with(&[(3, 25)]), Err(Refused::LengthBeyondPayload));
        check(&with(&[(2, 0)]), Err(Refused::MultiplierZero));
        check(&with(&[(1, 0xc1)]), Err(Refused::Multipoint));
        check(&with(&[(4, 0), (5, 0), (6, 0), (7, 0)]), Err(Refused::MyDiscriminatorZero));
        let no_discriminator = [(8, 0), (9, 0), (10, 0), (11, 0)];
        for (flags, expected) in [(0x00, true), (0x40, true), (0x80, false), (0xc0, false)] {
            let decoded = Packet::decode(&with(&[&no_discriminator[..], &[(1, flags)]].concat()));
            assert_eq!(decoded.is_ok(), expected, "{flags:#x}");
            assert!(expected || decoded == Err(Refused::YourDiscriminatorZero));
        }
        check(&[with(&[(1, 0xc4), (3, 26)]), vec![1, 2]].concat(), Err(Refused::Authentication));
    }

    #[test]
    fn the_first_check_that_fails_is_told() {
        let all_wrong = with(&[(0, 0), (1, 0xc5), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0)]);
        check(&all_wrong, Err(Refused::Version));
        check(&with(&[(1, 0xc1), (2, 0), (3, 200)]), Err(Refused::LengthBeyondPayload));
        check(&with(&[(1, 0xc1), (2, 0)]), Err(Refused::MultiplierZero));
    }

    #[test]
    fn every_diagnostic_and_state_is_kept() {
        for code in 0..32 {
            assert_eq!(Diagnostic::of(code).code(), code);
        }
        for state in [State::AdminDown, State::Down, State::Init, State::Up] {
            let packet = Packet { state, ..packet() };
            check(&packet.encode(), Ok(packet));
        }
    }

    #[test]
    fn intervals_are_microseconds() {
        assert_eq!(Micros::of(Duration::from_millis(10)), Micros(10_000));
        assert_eq!(Micros::of(Duration::from_secs(1_000_000)), Micros(u32::MAX));
        assert_eq!(Micros(1_000_000).duration(), Duration::from_secs(1));
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        let names: std::collections::BTreeSet<&str> = Refused::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Refused::ALL.len());
    }
}
