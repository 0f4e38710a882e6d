//! Messages that all peers of a group are told, each encoded once.
//!
//! ```text
//!   first                                    end
//!     │ m │ m │ m │ m │ m │ m │ m │ m │ m │   ◀─ push
//!               ▲           ▲        ▲
//!             peer a      peer b   peer c        each at its own place, each at its own pace
//! ```
//!
//! Invariant: `bytes` is the sum over the messages. Whoever owns it keeps it at `BYTES_MAX`.

use std::collections::VecDeque;

use super::super::rib::path::PeerIndex;
use super::super::rib::table::PrefixIndex;

/// Octets kept for peers that are behind.
pub const BYTES_MAX: usize = 16 << 20;

/// Who a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum For {
    /// All but who said it; `PeerIndex::LOCAL`: all.
    AllBut(PeerIndex),
    Only(PeerIndex),
}

impl For {
    pub fn includes(self, peer: PeerIndex) -> bool {
        match self {
            For::AllBut(source) => source != peer,
            For::Only(one) => one == peer,
        }
    }
}

#[derive(Debug)]
pub struct Logged {
    pub to: For,
    pub bytes: Box<[u8]>,
    /// What it is about: prefixes, and our numbers of paths to them.
    pub about: Box<[(PrefixIndex, u16)]>,
}

#[derive(Debug, Default)]
pub struct Log {
    messages: VecDeque<Logged>,
    /// The number of the first message that is kept.
    first: u64,
    bytes: usize,
}

impl Log {
    pub fn push(&mut self, message: Logged) {
        self.bytes += cost(&message);
        self.messages.push_back(message);
    }

    /// The number that the next message will have.
    pub fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    /// The number of the message in the middle of those that are kept.
    pub fn middle(&self) -> u64 {
        self.end() - self.messages.len() as u64 / 2
    }

    /// The octets that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// None: it is gone, or not there yet.
    pub fn get(&self, number: u64) -> Option<&Logged> {
        self.messages.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Messages from a number on.
    pub fn since(&self, number: u64) -> impl Iterator<Item = &Logged> {
        let skipped = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.messages.iter().skip(skipped)
    }

    /// Forgets messages before a number.
    pub fn forget(&mut self, number: u64) {
        while self.first < number
            && let Some(message) = self.messages.pop_front()
        {
            self.bytes -= cost(&message);
            self.first += 1;
        }
    }
}

fn cost(message: &Logged) -> usize {
    message.bytes.len() + size_of_val(&*message.about) + size_of::<Logged>()
}
