//! What each path attribute has to look like, and what becomes of an UPDATE in which it does not.
//!
//! | outcome | meaning |
//! |---|---|
//! | `AttributeDiscard` | the route is taken as if the attribute were not there |
//! | `TreatAsWithdraw` | the routes of the message are gone; the session goes on |
//! | `SessionReset` | the session ends with a NOTIFICATION |
//!
//! Nothing in here depends on who the peer is but `foreign`: inside our own system an error is no reason to be stricter.
//!
//! Sources: RFC 7606 §3 and §7, and for what is not in it the RFC that defines the attribute, named beside its row.

use crate::bgp::attribute::code;
use crate::bgp::message::Outcome::{self, AttributeDiscard, SessionReset, TreatAsWithdraw};

use super::as_path::Width;

#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub code: u8,
    pub name: &'static str,
    pub class: Class,
    pub length: Length,
    /// Optional and transitive do not say what `class` says. RFC 7606 §3 c.
    pub wrong_flags: Outcome,
    /// Wrong length, or a value that means nothing.
    pub malformed: Outcome,
    /// From a peer of another system it counts for nothing, however it looks.
    pub foreign: Foreign,
}

/// RFC 4271 §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    WellKnown,
    OptionalTransitive,
    OptionalNonTransitive,
}

/// Octets of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Exactly(usize),
    /// As many as AS numbers have octets on this session, and so many more.
    NumberAnd(usize),
    /// Not zero.
    MultipleOf(usize),
    /// Looked at together with the value.
    Any,
}

impl Length {
    /// Whether so many octets are right; the error says what is.
    pub fn check(self, octets: usize, width: Width) -> Result<(), String> {
        match self {
            Length::Exactly(length) if octets != length => Err(length.to_string()),
            Length::NumberAnd(length) if octets != width.octets() + length => {
                Err((width.octets() + length).to_string())
            }
            Length::MultipleOf(length) if octets == 0 || !octets.is_multiple_of(length) => {
                Err(format!("a multiple of {length}"))
            }
            _ => Ok(()),
        }
    }
}

/// What a peer of another system says with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    Counts,
    Discarded,
}

/// The attribute flags. RFC 4271 §4.3.
pub(super) mod flag {
    pub const OPTIONAL: u8 = 0x80;
    pub const TRANSITIVE: u8 = 0x40;
    pub const PARTIAL: u8 = 0x20;
    pub const EXTENDED_LENGTH: u8 = 0x10;
}

impl Class {
    pub fn flags(self) -> u8 {
        match self {
            Class::WellKnown => flag::TRANSITIVE,
            Class::OptionalTransitive => flag::OPTIONAL | flag::TRANSITIVE,
            Class::OptionalNonTransitive => flag::OPTIONAL,
        }
    }
}

/// None: an attribute that we do not know.
pub(super) fn row(code: u8) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.code == code)
}

const fn row_of(code: u8, name: &'static str, class: Class, length: Length, malformed: Outcome) -> Row {
    Row { code, name, class, length, wrong_flags: TreatAsWithdraw, malformed, foreign: Foreign::Counts }
}

use Class::{OptionalNonTransitive, OptionalTransitive, WellKnown};
use Length::{Any, Exactly, MultipleOf, NumberAnd};

/// By code.
#[rustfmt::skip]
const TABLE: [Row; 21] = [
    row_of(code::ORIGIN,           "ORIGIN",           WellKnown,             Exactly(1),    TreatAsWithdraw),  // §7.1
    row_of(code::AS_PATH,          "AS_PATH",          WellKnown,             Any,           TreatAsWithdraw),  // §7.2
    row_of(code::NEXT_HOP,         "NEXT_HOP",         WellKnown,             Exactly(4),    TreatAsWithdraw),  // §7.3
    row_of(code::MULTI_EXIT_DISC,  "MULTI_EXIT_DISC",  OptionalNonTransitive, Exactly(4),    TreatAsWithdraw),  // §7.4
    // §7.5
    Row { foreign: Foreign::Discarded, ..row_of(code::LOCAL_PREF, "LOCAL_PREF", WellKnown, Exactly(4), TreatAsWithdraw) },
    row_of(code::ATOMIC_AGGREGATE, "ATOMIC_AGGREGATE", WellKnown,             Exactly(0),    AttributeDiscard), // §7.6
    row_of(code::AGGREGATOR,       "AGGREGATOR",       OptionalTransitive,    NumberAnd(4),  AttributeDiscard), // §7.7
    row_of(code::COMMUNITIES,      "COMMUNITIES",      OptionalTransitive,    MultipleOf(4), TreatAsWithdraw),  // §7.8
    // §7.9, §7.10
    Row { foreign: Foreign::Discarded, ..row_of(code::ORIGINATOR_ID, "ORIGINATOR_ID", OptionalNonTransitive, Exactly(4), TreatAsWithdraw) },
    Row { foreign: Foreign::Discarded, ..row_of(code::CLUSTER_LIST, "CLUSTER_LIST", OptionalNonTransitive, MultipleOf(4), TreatAsWithdraw) },
    // §7.11, §7.12: without the prefixes nobody knows what to withdraw.
    row_of(code::MP_REACH_NLRI,    "MP_REACH_NLRI",    OptionalNonTransitive, Any,           SessionReset),
    row_of(code::MP_UNREACH_NLRI,  "MP_UNREACH_NLRI",  OptionalNonTransitive, Any,           SessionReset),
    row_of(code::EXTENDED_COMMUNITIES, "EXTENDED_COMMUNITIES", OptionalTransitive, MultipleOf(8), TreatAsWithdraw), // §7.14
    // RFC 6793 §6: discarded whatever is wrong with them.
    Row { wrong_flags: AttributeDiscard, ..row_of(code::AS4_PATH, "AS4_PATH", OptionalTransitive, Any, AttributeDiscard) },
    Row { wrong_flags: AttributeDiscard, ..row_of(code::AS4_AGGREGATOR, "AS4_AGGREGATOR", OptionalTransitive, Exactly(8), AttributeDiscard) },
    row_of(code::TUNNEL_ENCAPSULATION, "TUNNEL_ENCAPSULATION", OptionalTransitive, Any,      TreatAsWithdraw),  // RFC 9012 §13
    row_of(code::IPV6_EXTENDED_COMMUNITIES, "IPV6_EXTENDED_COMMUNITIES", OptionalTransitive, MultipleOf(20), TreatAsWithdraw), // §7.15
    // RFC 7311 §3: not enabled, so it is discarded in any case; what is wrong with it is worth a word.
    Row { wrong_flags: AttributeDiscard, ..row_of(code::AIGP, "AIGP", OptionalNonTransitive, Any, AttributeDiscard) },
    row_of(code::LARGE_COMMUNITIES, "LARGE_COMMUNITIES", OptionalTransitive,  MultipleOf(12), TreatAsWithdraw), // RFC 8092 §5
    row_of(code::ONLY_TO_CUSTOMER, "ONLY_TO_CUSTOMER", OptionalTransitive,    Exactly(4),    TreatAsWithdraw),  // RFC 9234 §5
    // RFC 8669 §5, §6.
    Row { foreign: Foreign::Discarded, ..row_of(code::PREFIX_SID, "PREFIX_SID", OptionalTransitive, Any, AttributeDiscard) },
];
