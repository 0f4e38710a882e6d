//! What is taken from a peer, and what is told to it: Calico's BGPFilters and built-in rules, as values.
//!
//! `desired` makes them, the speaker asks them. Peers with equal rules can share what is told (`Eq` and `Hash`).
//!
//! Sources: Calico's BGPFilter; RFC 8212 for what happens without rules.

use std::borrow::Cow;

use config::net::Cidr;

use super::attribute::Attributes;
use super::speaker_state::LocalRouteKind;

/// A route that is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub prefix: Cidr,
    pub attributes: &'a Attributes,
    pub source: Source<'a>,
}

/// Where a route is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    Local {
        kind: LocalRouteKind,
        metric: u32,
        interface: Option<&'a str>,
    },
    /// Learned by BGP; internal: from our own system.
    Peer {
        internal: bool,
    },
}

/// What rules say.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgement {
    Accept,
    /// Accepted with other attributes.
    Change(Box<Attributes>),
    /// Why, for people.
    Reject(Cow<'static, str>),
}

/// What is taken from one peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ImportRules {}

impl ImportRules {
    /// `internal`: the peer is in our own system.
    pub fn judge(&self, _candidate: &Candidate<'_>, _internal: bool) -> Judgement {
        Judgement::Accept
    }
}

/// What is told to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ExportRules {}

impl ExportRules {
    /// `internal`: the peer is in our own system.
    pub fn judge(&self, _candidate: &Candidate<'_>, _internal: bool) -> Judgement {
        Judgement::Accept
    }
}
