//! Why the relay refuses packets, and how many it has refused and passed on.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a packet was not relayed: the closed list. Names are stable; they are metric labels.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Refusal { $($(#[doc = $doc])+ $name,)+ }

        impl Refusal {
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name,)+];
            pub const fn name(self) -> &'static str {
                match self { $(Refusal::$name => $text,)+ }
            }
        }
    };
}

refusals! {
    /// No whole message, or options that do not end.
    Malformed = "malformed",
    /// Longer than what goes over any link in one piece.
    TooLong = "too_long",
    /// Not for Ethernet with its addresses of six octets.
    HardwareType = "hardware_type",
    /// Of a kind that only servers send, or only clients.
    WrongDirection = "wrong_direction",
    /// By an interface whose workload's hardware address nobody has told us.
    ClientUnknown = "client_unknown",
    /// In the name of another hardware address.
    ClientSpoofed = "client_spoofed",
    /// Another relay was there before, or somebody pretends so.
    RelayedAlready = "relayed_already",
    /// From relay to relay too often.
    TooManyHops = "too_many_hops",
    /// As many questions wait for an answer as may.
    QuestionsFull = "questions_full",
    /// Another workload has asked under the same number and hardware address.
    QuestionTaken = "question_taken",
    /// From an address that is no server's.
    ServerUnknown = "server_unknown",
    /// The answer to a question of another relay.
    OtherRelay = "other_relay",
    /// Nobody has asked that, or not lately.
    QuestionUnknown = "question_unknown",
    /// More came than could be looked at.
    QueueFull = "queue_full",
    /// The socket is not there, or did not take it.
    NotSent = "not_sent",
}

/// Written by the relay, read by whoever shows them.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    replies: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
}

impl Counters {
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub fn reply(&self) {
        self.replies.fetch_add(1, Ordering::Relaxed);
    }

    pub fn refuse(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Questions and answers that were passed on.
    pub fn relayed(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.replies.load(Ordering::Relaxed))
    }

    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }
}
