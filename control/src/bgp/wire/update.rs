//! Reads an UPDATE: three sections, the attributes one by one, and what all of that means together.
//!
//! ```text
//!     length 2 | withdrawn | length 2 | attributes | reachable
//!                                        └ flags 1 | code 1 | length 1 or 2 | value
//! ```
//!
//! Every declared length is a slice of its own; an attribute that is wrong cannot move where the next one, or the prefixes,
//! begin. What an error in an attribute leads to is said by `table`. Over all of a message the worst outcome counts.
//!
//! Where RFC 7606 leaves a choice or does not go far enough:
//! - a withdrawn section that ends within a prefix is 3/1, reachable ones 3/10, those of MP_REACH_NLRI 3/10, of MP_UNREACH_NLRI 3/9;
//! - attributes without any reachable prefix, one of which is wrong, end the session, since the prefixes may be what could
//!   not be found (§5.2); but not when all of them were framed well and MP_UNREACH_NLRI is among them: then it has said
//!   what it is about.
//!
//! Sources: RFC 4271 §4.3 and §6.3, RFC 7606, RFC 4760, RFC 4724 §2, RFC 6793 §4.2.3, RFC 7607.

use std::net::Ipv4Addr;
use std::sync::Arc;

use config::net::IpVersion;

use crate::bgp::attribute::{Aggregator, AsPath, Attributes, NextHop, Origin, OtherAttribute, code};
use crate::bgp::message::{Fault, Nlri, Notification, Outcome, Reachable, Update};

use super::Codec;
use super::as_path::{self, AS_TRANS, Width};
use super::family;
use super::nlri::{self, Skipped};
use super::reader::Reader;
use super::table::{self, Foreign, Row, flag};
use super::value;

/// UPDATE Message Error, and its subcodes. RFC 4271 §6.3.
const UPDATE_ERROR: u8 = 3;
const MALFORMED_ATTRIBUTE_LIST: u8 = 1;
const UNRECOGNIZED_WELL_KNOWN: u8 = 2;
const OPTIONAL_ATTRIBUTE: u8 = 9;
const INVALID_NETWORK_FIELD: u8 = 10;

fn malformed_list() -> Notification {
    Notification::new(UPDATE_ERROR, MALFORMED_ATTRIBUTE_LIST)
}

fn invalid_network() -> Notification {
    Notification::new(UPDATE_ERROR, INVALID_NETWORK_FIELD)
}

/// `body`: what follows the header. The error is what the peer is to be told before the session ends.
pub(super) fn decode(codec: &Codec, body: &[u8]) -> Result<Update, Notification> {
    let mut reader = Reader::new(body);
    let withdrawn = reader.long().ok_or_else(malformed_list)?;
    let attributes = reader.long().ok_or_else(malformed_list)?;
    let reachable = reader.rest();

    let mut update = Update::default();
    if withdrawn.is_empty() && attributes.is_empty() && reachable.is_empty() {
        update.end_of_rib = codec.speaks(IpVersion::V4).then_some(IpVersion::V4);
        return Ok(update);
    }
    let mut skipped = Skipped::default();
    let ids = codec.receives_path_ids(IpVersion::V4);
    nlri::read(IpVersion::V4, ids, withdrawn.rest(), &mut update.withdrawn, &mut skipped)
        .map_err(|_| malformed_list())?;
    let mut plain = Vec::new();
    nlri::read(IpVersion::V4, ids, reachable, &mut plain, &mut skipped).map_err(|_| invalid_network())?;
    let has_plain = !(update.withdrawn.is_empty() && plain.is_empty());
    if has_plain && !codec.speaks(IpVersion::V4) {
        update.withdrawn.clear();
        plain.clear();
        update.faults.push(discarded(None, "prefixes of IPv4, which was not agreed on"));
    }

    let mut found = Found::new(codec, &mut update, &mut skipped);
    found.read_all(attributes)?;
    found.finish(plain, !reachable.is_empty())?;
    if let Some(first) = skipped.first {
        let others = if skipped.count > 1 { format!(" and {} more", skipped.count - 1) } else { String::new() };
        update.faults.push(discarded(None, &format!("no route can lead to {first}{others}")));
    }
    Ok(update)
}

fn discarded(attribute: Option<u8>, reason: &str) -> Fault {
    Fault { attribute, outcome: Outcome::AttributeDiscard, reason: reason.to_owned() }
}

/// What MP_REACH_NLRI says.
struct MpReach {
    next_hop: Result<NextHop, String>,
    nlri: Vec<Nlri>,
}

/// What has been found among the attributes of one message.
struct Found<'a> {
    codec: &'a Codec,
    update: &'a mut Update,
    skipped: &'a mut Skipped,
    /// Bit `code % 64` of word `code / 64`.
    seen: [u64; 4],
    worst: Option<Outcome>,
    /// An attribute did not end where the section does.
    is_framing_broken: bool,
    /// MP_REACH_NLRI had prefixes, even if of a family that we do not speak.
    has_mp_reach: bool,
    mp_reach: Option<MpReach>,
    /// MP_UNREACH_NLRI without prefixes.
    ends: Option<IpVersion>,
    next_hop: Option<Ipv4Addr>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
    others: Vec<OtherAttribute>,
    attributes: Attributes,
}

impl<'a> Found<'a> {
    fn new(codec: &'a Codec, update: &'a mut Update, skipped: &'a mut Skipped) -> Found<'a> {
        Found {
            codec,
            update,
            skipped,
            seen: [0; 4],
            worst: None,
            is_framing_broken: false,
            has_mp_reach: false,
            mp_reach: None,
            ends: None,
            next_hop: None,
            as4_path: None,
            as4_aggregator: None,
            others: Vec::new(),
            attributes: Attributes::local(Ipv4Addr::UNSPECIFIED.into()),
        }
    }

    fn has(&self, code: u8) -> bool {
        self.seen[usize::from(code) / 64] & 1 << (code % 64) != 0
    }

    fn fault(&mut self, attribute: Option<u8>, outcome: Outcome, reason: String) {
        self.worst = self.worst.max(Some(outcome));
        self.update.faults.push(Fault { attribute, outcome, reason });
    }

    fn read_all(&mut self, mut section: Reader<'_>) -> Result<(), Notification> {
        while !section.is_empty() {
            let Some((flags, code, value)) = next(&mut section) else {
                // RFC 7606 §4: the section's own length says where the prefixes begin.
                self.is_framing_broken = true;
                let reason = "the last attribute is longer than what is left of the section".to_owned();
                self.fault(None, Outcome::TreatAsWithdraw, reason);
                break;
            };
            if self.has(code) {
                // RFC 7606 §3 g.
                if code == code::MP_REACH_NLRI || code == code::MP_UNREACH_NLRI {
                    return Err(malformed_list());
                }
                let reason = format!("{} is there more than once; the first counts", name(code));
                self.fault(Some(code), Outcome::AttributeDiscard, reason);
                continue;
            }
            self.seen[usize::from(code) / 64] |= 1 << (code % 64);
            match table::row(code) {
                Some(row) => self.known(row, flags, value)?,
                None => self.unknown(flags, code, value)?,
            }
        }
        Ok(())
    }

    fn unknown(&mut self, flags: u8, code: u8, value: &[u8]) -> Result<(), Notification> {
        if flags & flag::OPTIONAL == 0 {
            return Err(Notification::with(UPDATE_ERROR, UNRECOGNIZED_WELL_KNOWN, attribute(flags, code, value)));
        }
        // Those that are not transitive end here. RFC 4271 §9.
        if flags & flag::TRANSITIVE != 0 {
            self.others.push(OtherAttribute { code, value: value.into() });
        }
        Ok(())
    }

    fn known(&mut self, row: &Row, flags: u8, value: &[u8]) -> Result<(), Notification> {
        if row.foreign == Foreign::Discarded && !self.codec.internal {
            let reason = format!("{} comes from another system", row.name);
            self.fault(Some(row.code), Outcome::AttributeDiscard, reason);
            return Ok(());
        }
        let expected = row.class.flags();
        if flags & (flag::OPTIONAL | flag::TRANSITIVE) != expected {
            let reason = format!("{} has flags {flags:#04x}, expected {expected:#04x}", row.name);
            self.fault(Some(row.code), row.wrong_flags, reason);
            // The prefixes are still needed: they are what is withdrawn.
            if row.malformed != Outcome::SessionReset {
                return Ok(());
            }
        }
        let width = self.codec.width();
        if let Err(expected) = row.length.check(value.len(), width) {
            let reason = format!("{} is {} octets long, expected {expected}", row.name, value.len());
            self.fault(Some(row.code), row.malformed, reason);
            return Ok(());
        }
        if let Err(wrong) = self.take(row, flags, value)? {
            let outcome = wrong.outcome.unwrap_or(row.malformed);
            self.fault(Some(row.code), outcome, format!("{}: {}", row.name, wrong.reason));
        }
        Ok(())
    }

    /// Takes a value whose flags and length are right.
    fn take(&mut self, row: &Row, flags: u8, value: &[u8]) -> Result<Result<(), Wrong>, Notification> {
        let mut reader = Reader::new(value);
        let number = reader.u32().unwrap_or_default();
        match row.code {
            code::MP_REACH_NLRI => self.mp_reach(value)?,
            code::MP_UNREACH_NLRI => self.mp_unreach(flags, value)?,
            code::ORIGIN => match value.first() {
                Some(0) => self.attributes.origin = Origin::Igp,
                Some(1) => self.attributes.origin = Origin::Egp,
                Some(2) => self.attributes.origin = Origin::Incomplete,
                found => {
                    return Ok(Err(format!("found {}, expected 0 to 2", found.copied().unwrap_or_default()).into()));
                }
            },
            code::AS_PATH => match self.as_path(value) {
                Ok(path) => self.attributes.as_path = path,
                Err(reason) => return Ok(Err(reason.into())),
            },
            code::NEXT_HOP => self.next_hop = Some(Ipv4Addr::from_bits(number)),
            code::MULTI_EXIT_DISC => self.attributes.med = Some(number),
            code::LOCAL_PREF => self.attributes.local_pref = Some(number),
            code::ATOMIC_AGGREGATE => self.attributes.atomic_aggregate = true,
            code::AGGREGATOR => match value::aggregator(value, self.codec.width()) {
                Ok(aggregator) => self.attributes.aggregator = Some(aggregator),
                Err(reason) => return Ok(Err(reason.into())),
            },
            code::COMMUNITIES => self.attributes.communities = value::communities(value),
            code::EXTENDED_COMMUNITIES => self.attributes.extended_communities = value::extended_communities(value),
            code::LARGE_COMMUNITIES => self.attributes.large_communities = value::large_communities(value),
            code::ORIGINATOR_ID => self.attributes.originator_id = Some(Ipv4Addr::from_bits(number)),
            code::CLUSTER_LIST => self.attributes.cluster_list = value::cluster_list(value),
            code::ONLY_TO_CUSTOMER => self.attributes.only_to_customer = Some(number),
            // RFC 6793 §6: between speakers of long numbers these two mean nothing.
            code::AS4_PATH | code::AS4_AGGREGATOR if self.codec.four_octet_as => {
                return Ok(Err("both sides know AS numbers of four octets".to_owned().into()));
            }
            code::AS4_PATH => match as_path::read(value, Width::Four) {
                Ok(path) if !path.segments.is_empty() => {
                    self.as4_path = Some(path.without_confederation());
                }
                Ok(_) => return Ok(Err("has no segment".to_owned().into())),
                Err(reason) => return Ok(Err(reason.into())),
            },
            code::AS4_AGGREGATOR => match value::aggregator(value, Width::Four) {
                Ok(aggregator) => self.as4_aggregator = Some(aggregator),
                Err(reason) => return Ok(Err(reason.into())),
            },
            // Of no use to us, and nobody is to be told. RFC 7311 §3.
            code::AIGP => return Ok(value::check_aigp(value).map_err(Wrong::from)),
            other => {
                let checked = match other {
                    code::TUNNEL_ENCAPSULATION => value::check_tunnel_encapsulation(value).map_err(Wrong::from),
                    code::PREFIX_SID => value::check_prefix_sid(value),
                    _ => Ok(()),
                };
                if checked.is_ok() {
                    self.others.push(OtherAttribute { code: other, value: value.into() });
                }
                return Ok(checked);
            }
        }
        Ok(Ok(()))
    }

    fn as_path(&self, value: &[u8]) -> Result<AsPath, String> {
        let path = as_path::read(value, self.codec.width())?;
        let (length, longest) = (path.numbers().count(), self.codec.longest_path);
        if length > longest {
            return Err(format!("has {length} numbers, more than {longest}"));
        }
        if !self.codec.internal {
            if path.segments.is_empty() {
                return Err("is empty, and comes from another system".to_owned());
            }
            // RFC 5065 §5: the confederation is nobody else's business, so its peers do not send it.
            if path.segments.iter().any(|segment| segment.kind.is_confederation()) {
                return Err("has segments of a confederation, and comes from another system".to_owned());
            }
        }
        Ok(path)
    }

    /// RFC 4760 §3. What cannot be read as far as the prefixes ends the session: RFC 7606 §7.11.
    fn mp_reach(&mut self, value: &[u8]) -> Result<(), Notification> {
        let mut reader = Reader::new(value);
        let (afi, safi) = reader.u16().zip(reader.u8()).ok_or_else(malformed_list)?;
        let next_hop = reader.short().ok_or_else(malformed_list)?;
        // Reserved.
        reader.u8().ok_or_else(malformed_list)?;
        self.has_mp_reach = !reader.is_empty();
        let Some(family) = family::family(afi, safi).filter(|family| self.codec.speaks(*family)) else {
            let reason = format!("MP_REACH_NLRI is of AFI {afi}, SAFI {safi}, which was not agreed on");
            self.fault(Some(code::MP_REACH_NLRI), Outcome::AttributeDiscard, reason);
            return Ok(());
        };
        let octets = next_hop.rest();
        let is_expected = match (family, octets.len()) {
            (IpVersion::V4, 4) | (IpVersion::V6, 16 | 32) => true,
            (IpVersion::V4, 16 | 32) => self.codec.extended_next_hop,
            _ => false,
        };
        if !is_expected {
            return Err(malformed_list());
        }
        let mut nlri = Vec::new();
        let ids = self.codec.receives_path_ids(family);
        nlri::read(family, ids, reader.rest(), &mut nlri, self.skipped).map_err(|_| invalid_network())?;
        self.mp_reach = Some(MpReach { next_hop: value::next_hop(octets), nlri });
        Ok(())
    }

    /// RFC 4760 §4.
    fn mp_unreach(&mut self, flags: u8, value: &[u8]) -> Result<(), Notification> {
        let malformed = || {
            let data = attribute(flags, code::MP_UNREACH_NLRI, value);
            Notification::with(UPDATE_ERROR, OPTIONAL_ATTRIBUTE, data)
        };
        let mut reader = Reader::new(value);
        let (afi, safi) = reader.u16().zip(reader.u8()).ok_or_else(malformed)?;
        let Some(family) = family::family(afi, safi).filter(|family| self.codec.speaks(*family)) else {
            let reason = format!("MP_UNREACH_NLRI is of AFI {afi}, SAFI {safi}, which was not agreed on");
            self.fault(Some(code::MP_UNREACH_NLRI), Outcome::AttributeDiscard, reason);
            return Ok(());
        };
        if reader.is_empty() {
            self.ends = Some(family);
        }
        let ids = self.codec.receives_path_ids(family);
        nlri::read(family, ids, reader.rest(), &mut self.update.withdrawn, self.skipped).map_err(|_| malformed())
    }

    /// `plain`: the prefixes behind the attributes, but those that were skipped.
    fn finish(mut self, plain: Vec<Nlri>, has_plain: bool) -> Result<(), Notification> {
        let has_reachable = has_plain || self.has_mp_reach;
        if !plain.is_empty() || self.mp_reach.as_ref().is_some_and(|reach| !reach.nlri.is_empty()) {
            // RFC 7606 §3 d. What was there but wrong has had its fault.
            for code in [code::ORIGIN, code::AS_PATH] {
                if !self.has(code) {
                    self.fault(Some(code), Outcome::TreatAsWithdraw, format!("{} is missing", name(code)));
                }
            }
        }
        // The next hop counts only where it is for prefixes. RFC 4760 §3.
        let mut groups = Vec::new();
        if !plain.is_empty() {
            match self.next_hop.map(|address| value::checked(address.into())) {
                Some(Ok(address)) => groups.push((NextHop { address, link_local: None }, plain)),
                wrong => {
                    match wrong {
                        Some(Err(reason)) => self.fault(Some(code::NEXT_HOP), Outcome::TreatAsWithdraw, reason),
                        _ if self.has(code::NEXT_HOP) => (),
                        _ => {
                            let reason = "NEXT_HOP is missing".to_owned();
                            self.fault(Some(code::NEXT_HOP), Outcome::TreatAsWithdraw, reason);
                        }
                    }
                    self.update.withdrawn.extend(plain);
                }
            }
        }
        if let Some(MpReach { next_hop, nlri }) = self.mp_reach.take().filter(|reach| !reach.nlri.is_empty()) {
            match next_hop {
                Ok(next_hop) => groups.push((next_hop, nlri)),
                Err(reason) => {
                    self.fault(Some(code::MP_REACH_NLRI), Outcome::TreatAsWithdraw, reason);
                    self.update.withdrawn.extend(nlri);
                }
            }
        }

        if self.worst >= Some(Outcome::TreatAsWithdraw) {
            let has_said_what = !self.is_framing_broken && self.has(code::MP_UNREACH_NLRI);
            if !has_reachable && !has_said_what {
                return Err(malformed_list());
            }
            self.update.withdrawn.extend(groups.into_iter().flat_map(|(_, nlri)| nlri));
            return Ok(());
        }
        // Nothing but MP_UNREACH_NLRI, and that without prefixes. RFC 4724 §2.
        let mut only = [0; 4];
        only[usize::from(code::MP_UNREACH_NLRI) / 64] = 1 << (code::MP_UNREACH_NLRI % 64);
        if self.seen == only && self.update.withdrawn.is_empty() && !has_reachable && self.worst.is_none() {
            self.update.end_of_rib = self.ends;
        }
        let Some((next_hop, nlri)) = groups.pop() else { return Ok(()) };
        let mut attributes = self.attributes;
        if let (Some(long), path) = (self.as4_path, &mut attributes.as_path) {
            // RFC 6793 §4.2.3: an aggregator with a short number has not looked at those with long ones, which are from
            // before it then.
            let is_short = attributes.aggregator.is_some_and(|aggregator| aggregator.as_number != AS_TRANS);
            let is_old = is_short && self.as4_aggregator.is_some();
            if !is_old {
                *path = as_path::merge(std::mem::take(path), long);
            }
        }
        if let (Some(long), Some(aggregator)) = (self.as4_aggregator, &mut attributes.aggregator)
            && aggregator.as_number == AS_TRANS
        {
            *aggregator = long;
        }
        self.others.sort_by_key(|other| other.code);
        attributes.others = self.others.into();
        let mut tell = |attributes, nlri| {
            self.update.reachable.push(Reachable { attributes: Arc::new(attributes), nlri });
        };
        for (next_hop, nlri) in groups {
            tell(Attributes { next_hop, ..attributes.clone() }, nlri);
        }
        // Mostly there is one group, and then nothing is copied.
        tell(Attributes { next_hop, ..attributes }, nlri);
        Ok(())
    }
}

/// Flags, code and value of the next attribute; none: it does not fit.
fn next<'a>(section: &mut Reader<'a>) -> Option<(u8, u8, &'a [u8])> {
    let (flags, code) = section.u8().zip(section.u8())?;
    let value = if flags & flag::EXTENDED_LENGTH != 0 { section.long()? } else { section.short()? };
    Some((flags, code, value.rest()))
}

/// As it came, which is the data of a NOTIFICATION about it. RFC 4271 §6.3.
fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut octets = vec![flags, code];
    match u8::try_from(value.len()) {
        Ok(length) if flags & flag::EXTENDED_LENGTH == 0 => octets.push(length),
        _ => octets.extend((value.len() as u16).to_be_bytes()),
    }
    octets.extend(value);
    octets
}

fn name(code: u8) -> String {
    table::row(code).map_or_else(|| format!("attribute {code}"), |row| row.name.to_owned())
}

/// What is wrong with a value.
pub(super) struct Wrong {
    /// None: what the table says.
    pub outcome: Option<Outcome>,
    pub reason: String,
}

impl From<String> for Wrong {
    fn from(reason: String) -> Wrong {
        Wrong { outcome: None, reason }
    }
}
