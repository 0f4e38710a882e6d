//! Flows: tracked connections and what was decided about them.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | the key of a flow |
//! | `table.rs` | the table all workers share: lookup, what is recorded |
//! | `bucket.rs`, `entry.rs` | its two parts: where a key is found, and what a flow is |
//! | `writer.rs` | what one worker enters and removes: insert, eviction, quotas |
//! | `translation.rs` | what stands in place of a flow's source outside |
//! | `tcp_state.rs` | from TCP flags to the state that decides how long an idle flow lives |
//! | `expiry.rs` | the sweep: each worker ages the entries it made |
//! | `restore.rs` | a flow as plain values, and how it comes back after a restart |
//! | `limiter.rs` | how many answers an interface gets, and how much of what it sends goes to control |
//!
//! The two directions of a flow arrive at different interfaces and so, perhaps, at different workers. Therefore there
//! is one table, read without locks by all; the entries of a worker are allocated, aged and freed by that worker only.

mod bucket;
mod entry;
pub mod expiry;
pub mod limiter;
pub mod restore;
pub mod table;
pub mod tcp_state;
pub mod translation;
pub mod writer;

pub use restore::FlowView;
pub use table::{FlowHandle, FlowTable};
pub use writer::FlowWriter;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Seconds since the worker clock began; all a flow remembers of time.
pub type Seconds = u32;

/// Prefix of IPv4 addresses in mapped form, `::ffff:0:0/96`. RFC 4291 §2.5.5.2.
pub const MAPPED_PREFIX: u128 = 0xffff_0000_0000;

/// An IPv4 address in the form that keys and policies use.
pub const fn mapped(address: u32) -> u128 {
    MAPPED_PREFIX | address as u128
}

/// An address in the form that keys and policies use.
pub fn mapped_address(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => mapped(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The other way round.
pub fn unmapped_address(address: u128) -> IpAddr {
    if address >> 32 == MAPPED_PREFIX >> 32 {
        IpAddr::V4(Ipv4Addr::from_bits(address as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(address))
    }
}

/// What two packets of one flow and one direction have in common. Every field that a verdict reads is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Key {
    /// IPv4 addresses are mapped.
    pub source: u128,
    pub destination: u128,
    /// TCP, UDP, SCTP: the port. ICMP echo: the identifier. Other ICMP: type and code. A fragment: half of its id.
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    pub kind: KeyKind,
}

/// Keeps keys apart whose numbers mean different things.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
#[repr(u8)]
pub enum KeyKind {
    #[default]
    Ports = 0,
    /// An echo request; its reverse is the reply, so that a request never passes as somebody's reply.
    EchoRequest = 2,
    EchoReply = 3,
    /// Any other ICMP message: its reverse is itself with addresses swapped.
    IcmpOther = 4,
    /// The fragments of one datagram; no reverse.
    Fragment = 6,
}

impl KeyKind {
    /// The kind of this number, if there is one. The numbers stand in saved flows, and are not given twice.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Ports,
            2 => Self::EchoRequest,
            3 => Self::EchoReply,
            4 => Self::IcmpOther,
            6 => Self::Fragment,
            _ => return None,
        })
    }
}

impl Key {
    pub fn is_ipv4(&self) -> bool {
        self.source >> 32 == MAPPED_PREFIX >> 32
    }

    /// The key of packets in the other direction.
    pub fn reversed(&self) -> Self {
        let kind = match self.kind {
            KeyKind::EchoRequest => KeyKind::EchoReply,
            KeyKind::EchoReply => KeyKind::EchoRequest,
            kind => kind,
        };
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            kind,
        }
    }

    /// Type and code, if this is the key of an ICMP message.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        use crate::header::{icmp, icmpv6};
        let is_ipv4 = self.is_ipv4();
        match self.kind {
            KeyKind::EchoRequest => Some((if is_ipv4 { icmp::ECHO_REQUEST } else { icmpv6::ECHO_REQUEST }, 0)),
            KeyKind::EchoReply => Some((if is_ipv4 { icmp::ECHO_REPLY } else { icmpv6::ECHO_REPLY }, 0)),
            KeyKind::IcmpOther => Some(((self.source_port >> 8) as u8, self.source_port as u8)),
            KeyKind::Ports | KeyKind::Fragment => None,
        }
    }

    /// Five words: the form in which a key is stored.
    pub(crate) fn words(&self) -> [u64; 5] {
        [
            (self.source >> 64) as u64,
            self.source as u64,
            (self.destination >> 64) as u64,
            self.destination as u64,
            self.ports_word(),
        ]
    }

    /// Ports, protocol and kind; the other bits are zero.
    #[inline(always)]
    pub(crate) fn ports_word(&self) -> u64 {
        u64::from(self.source_port) << 48
            | u64::from(self.destination_port) << 32
            | u64::from(self.protocol) << 8
            | u64::from(self.kind as u8)
    }

    pub(crate) fn from_words(words: [u64; 5]) -> Self {
        Self {
            source: u128::from(words[0]) << 64 | u128::from(words[1]),
            destination: u128::from(words[2]) << 64 | u128::from(words[3]),
            source_port: (words[4] >> 48) as u16,
            destination_port: (words[4] >> 32) as u16,
            protocol: (words[4] >> 8) as u8,
            kind: KeyKind::from_number(words[4] as u8).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn key() -> impl Strategy<Value = Key> {
        let kind = prop::sample::select(vec![
            KeyKind::Ports,
            KeyKind::EchoRequest,
            KeyKind::EchoReply,
            KeyKind::IcmpOther,
            KeyKind::Fragment,
        ]);
        (any::<u128>(), any::<u128>(), any::<u16>(), any::<u16>(), any::<u8>(), kind).prop_map(
            |(source, destination, source_port, destination_port, protocol, kind)| Key {
                source,
                destination,
                source_port,
                destination_port,
                protocol,
                kind,
            },
        )
    }

    proptest! {
        #[test]
        fn words_keep_every_field(key in key()) {
            prop_assert_eq!(Key::from_words(key.words()), key);
        }

        #[test]
        fn reversing_twice_changes_nothing(key in key()) {
            prop_assert_eq!(key.reversed().reversed(), key);
        }
    }

    #[test]
    fn an_echo_request_is_not_the_reply_of_the_opposite_request() {
        let request = Key {
            source: 1,
            destination: 2,
            source_port: 7,
            destination_port: 7,
            protocol: 1,
            kind: KeyKind::EchoRequest,
        };
        let opposite = Key { source: 2, destination: 1, ..request };
        assert_ne!(request.reversed(), opposite);
    }
}
