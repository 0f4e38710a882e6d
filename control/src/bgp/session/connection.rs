//! One TCP connection of a session: how far it is, what has come of the next message, and its timers.
//!
//! Bytes are taken as they come. A message that is whole in them is read where it is; only what is left over is kept, so a
//! connection never holds more than the longest message, whatever a read brings.
//!
//! Sources: RFC 4271 §4.1 and §8.2.2, RFC 8654.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::event::{ConnectionId, Negotiated};
use crate::bgp::message::{Message, Notification, Open};
use crate::bgp::wire::Codec;

/// Marker, length, type.
const HEADER: usize = 19;
/// Where the length is.
const MARKER: usize = 16;

/// How far a connection is; the states of RFC 4271 that a connection can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// TCP is not up yet.
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub id: ConnectionId,
    /// The other side made it.
    pub incoming: bool,
    pub phase: Phase,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    pub codec: Codec,
    /// The OPEN that was sent on it.
    pub ours: Option<Open>,
    pub theirs: Option<Open>,
    /// Since Established.
    pub negotiated: Option<Box<Negotiated>>,
    pub established_at: Option<Instant>,
    /// The peer's KEEPALIVE has come, and a better connection may yet come about: until when that is waited for.
    pub confirmed_until: Option<Instant>,
    /// Until when TCP has to be up, the OPEN to be here, and the HoldTimer.
    pub hold_until: Option<Instant>,
    /// It was over while we stood still, and the peer has got a little more.
    pub is_excused: bool,
    pub keepalive_at: Option<Instant>,
    pub send_hold_until: Option<Instant>,
    /// As agreed on; zero: none.
    pub hold_time: Duration,
    pub keepalive_time: Duration,
    partial: Vec<u8>,
}

impl Connection {
    pub(super) fn new(id: ConnectionId, incoming: bool, hold_until: Option<Instant>) -> Connection {
        Connection {
            id,
            incoming,
            phase: Phase::Connecting,
            local: None,
            remote: None,
            codec: Codec::new(),
            ours: None,
            theirs: None,
            negotiated: None,
            established_at: None,
            confirmed_until: None,
            hold_until,
            is_excused: false,
            keepalive_at: None,
            send_hold_until: None,
            hold_time: Duration::ZERO,
            keepalive_time: Duration::ZERO,
            partial: Vec::new(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.confirmed_until, self.hold_until, self.keepalive_at, self.send_hold_until].into_iter().flatten().min()
    }

    /// The next message of what came before and `bytes`, which loses what was used. None: more has to come.
    pub(super) fn next_message(&mut self, bytes: &mut &[u8]) -> Option<Result<Message, Notification>> {
        loop {
            if self.partial.is_empty() {
                return match self.codec.frame(bytes) {
                    Err(notification) => Some(Err(notification)),
                    Ok(length) => match length.and_then(|length| bytes.split_at_checked(length)) {
                        Some((message, rest)) => {
                            *bytes = rest;
                            Some(self.codec.decode(message))
                        }
                        None => {
                            self.partial.extend_from_slice(bytes);
                            *bytes = &[];
                            None
                        }
                    },
                };
            }
            let (wanted, rest) = bytes.split_at_checked(self.missing().min(bytes.len()))?;
            self.partial.extend_from_slice(wanted);
            *bytes = rest;
            match self.codec.frame(&self.partial) {
                Err(notification) => return Some(Err(notification)),
                Ok(length) => {
                    if length == Some(self.partial.len()) {
                        return Some(self.codec.decode(&std::mem::take(&mut self.partial)));
                    }
                    // Else the header is whole now, and says how much is missing; or there is nothing more.
                    if wanted.is_empty() {
                        return None;
                    }
                }
            }
        }
    }

    /// Octets until the header is whole, or the message.
    fn missing(&self) -> usize {
        let whole = match self.partial.get(MARKER..HEADER) {
            Some([high, low, ..]) => usize::from(u16::from_be_bytes([*high, *low])),
            _ => HEADER,
        };
        whole.saturating_sub(self.partial.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_the_longest_message() {
        let mut connection = Connection::new(ConnectionId(0), true, None);
        let mut keepalive = Vec::new();
        connection.codec.encode(&Message::Keepalive, &mut keepalive);
        // An UPDATE of 4096 octets, less one; then one octet and many messages in one read.
        let mut update = vec![0xff; MARKER];
        update.extend_from_slice(&[0x10, 0, 2]);
        update.resize(4096, 0);
        let (last, most) = update.split_last().expect("octets");
        let mut read = most;
        assert_eq!(connection.next_message(&mut read), None);
        assert_eq!((read.len(), connection.partial.len()), (0, 4095));
        let mut flood = vec![*last];
        flood.extend(keepalive.repeat(100_000));
        let mut read = &flood[..];
        assert!(matches!(connection.next_message(&mut read), Some(Ok(Message::Update(_)) | Err(_))));
        let mut count = 0;
        while let Some(message) = connection.next_message(&mut read) {
            assert_eq!(message, Ok(Message::Keepalive));
            assert_eq!(connection.partial.len(), 0);
            count += 1;
        }
        assert_eq!((count, connection.partial.capacity()), (100_000, 0));
        // What is no message is not kept at all.
        let mut read = &[0u8; 100_000][..];
        assert!(matches!(connection.next_message(&mut read), Some(Err(_))));
        assert_eq!(connection.partial.capacity(), 0);
    }
}
