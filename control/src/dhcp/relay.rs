//! The relay itself: a client's frame becomes a datagram for the servers, a server's datagram becomes a frame for the client.
//!
//! ```text
//!   client ─frame─▶ ask ─▶ datagram for every server        what was asked, by whom, for `PATIENCE`
//!   client ◀─frame─ answer ◀─ datagram of a server  ◀───────┘ by number and hardware address
//! ```
//!
//! Invariants: an answer goes to the interface that the question came by, and nowhere else; what has expired is never believed.
//! Bounds: `QUESTIONS` questions that wait for an answer, `PER_INTERFACE` of one interface, whose oldest make room for new ones.
//! Left out: sockets, and time by itself: nothing has to happen when a question expires.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use config::net::MacAddress;

use super::RelayState;
use super::count::Refusal;
use super::frame::{self, Destination};
use super::message::{Message, Op};
use crate::host::LinkIndex;

/// A client that waits longer has asked again. RFC 2131 §4.1.
const PATIENCE: Duration = Duration::from_secs(64);
const QUESTIONS: usize = 4096;
/// A workload has one client, which asks one thing after the other.
const PER_INTERFACE: usize = 16;
/// How often what has expired is forgotten.
const SWEEP: Duration = Duration::from_secs(1);
/// RFC 1542 §4.1.1.
const HOPS_MAX: u8 = 16;

/// Who asks: whom the interface belongs to that a frame came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub interface: String,
    pub link: LinkIndex,
    /// Its hardware address, by its endpoint or by who made the interface.
    pub mac: MacAddress,
}

/// A frame to be sent by a host side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub link: LinkIndex,
    pub frame: Vec<u8>,
}

#[derive(Debug, Default)]
pub struct Relay {
    questions: HashMap<(u32, MacAddress), Question>,
    /// In the order in which they were asked last.
    by_interface: HashMap<LinkIndex, VecDeque<(u32, MacAddress)>>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Question {
    client: Client,
    until: Instant,
}

impl Relay {
    /// What goes to the servers.
    pub fn ask(&mut self, state: &RelayState, client: &Client, frame: &[u8], now: Instant) -> Result<Vec<u8>, Refusal> {
        let (sender, bytes) = frame::read(frame)?;
        let message = Message::read(bytes)?;
        if message.kind().op() != Op::Request {
            return Err(Refusal::WrongDirection);
        }
        if message.chaddr() != client.mac || sender != client.mac {
            return Err(Refusal::ClientSpoofed);
        }
        // Nobody who relays is behind a workload's interface. RFC 3046 §2.1.
        if message.giaddr() != Ipv4Addr::UNSPECIFIED || message.has_relay_option() {
            return Err(Refusal::RelayedAlready);
        }
        if message.hops() >= HOPS_MAX {
            return Err(Refusal::TooManyHops);
        }
        let (key, is_answered) = ((message.xid(), message.chaddr()), message.kind().is_answered());
        let datagram = message.relayed(state.own_address, &client.interface, state.link_selection)?;
        if is_answered {
            self.remember(key, client, now)?;
        }
        Ok(datagram)
    }

    /// What goes to the client.
    pub fn answer(
        &mut self,
        state: &RelayState,
        server: Ipv4Addr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Answer, Refusal> {
        if !state.servers.contains(&server) {
            return Err(Refusal::ServerUnknown);
        }
        let message = Message::read(datagram)?;
        if message.kind().op() != Op::Reply {
            return Err(Refusal::WrongDirection);
        }
        if message.giaddr() != state.own_address {
            return Err(Refusal::OtherRelay);
        }
        let question = self.questions.get(&(message.xid(), message.chaddr())).filter(|question| question.until > now);
        let Client { interface, link, mac } = &question.ok_or(Refusal::QuestionUnknown)?.client;
        // A server that knows the option says it again; one that does not is a server all the same. RFC 3046 §2.2.
        if message.circuit_id().is_some_and(|circuit| circuit != interface.as_bytes()) {
            return Err(Refusal::QuestionUnknown);
        }
        let to = destination(&message, *mac);
        let frame = frame::write(&message.without_relay_option(), state.own_address, to)?;
        Ok(Answer { link: *link, frame })
    }

    /// Questions that are waited for; those too that have expired and not been forgotten yet.
    pub fn waiting(&self) -> usize {
        self.questions.len()
    }

    fn remember(&mut self, key: (u32, MacAddress), client: &Client, now: Instant) -> Result<(), Refusal> {
        self.sweep(now);
        let known = self.questions.get(&key);
        if known.is_some_and(|known| known.until > now && known.client.link != client.link) {
            return Err(Refusal::QuestionTaken);
        }
        let own = self.by_interface.entry(client.link).or_default();
        own.retain(|other| *other != key);
        if known.is_none() {
            if own.len() >= PER_INTERFACE
                && let Some(oldest) = own.pop_front()
            {
                self.questions.remove(&oldest);
            }
            if self.questions.len() >= QUESTIONS {
                return Err(Refusal::QuestionsFull);
            }
        }
        own.push_back(key);
        self.questions.insert(key, Question { client: client.clone(), until: now + PATIENCE });
        Ok(())
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.questions.retain(|_, question| question.until > now);
        let questions = &self.questions;
        self.by_interface.retain(|link, keys| {
            keys.retain(|key| questions.get(key).is_some_and(|question| question.client.link == *link));
            !keys.is_empty()
        });
    }
}

/// RFC 1542 §4.1.2; an answer that gives no address goes to the one that the client has. RFC 2131 §4.3.5.
fn destination(message: &Message, mac: MacAddress) -> Destination {
    let address = match (message.yiaddr(), message.ciaddr()) {
        (Ipv4Addr::UNSPECIFIED, own) => own,
        (given, _) => given,
    };
    match message.wants_broadcast() || address == Ipv4Addr::UNSPECIFIED {
        true => frame::EVERYBODY,
        false => Destination { mac, address },
    }
}

#[cfg(test)]
mod tests;
