//! Bytes to messages and back, in the way that was agreed on for one connection.
//!
//! ```text
//!     buffer ──frame──▶ one message ──decode──▶ Message        marker 16 | length 2 | type 1 | body
//!     Message, or attributes and prefixes ──encode, reach, withdraw──▶ messages
//! ```
//!
//! | file | what it knows |
//! |---|---|
//! | `open.rs` | OPEN and capabilities |
//! | `update.rs` `table.rs` | UPDATE as it is read: sections, attributes; what a wrong one leads to (RFC 7606) |
//! | `value.rs` `as_path.rs` `nlri.rs` | values of attributes, paths, prefixes |
//! | `write.rs` | UPDATEs as they are written |
//! | `notification.rs` | NOTIFICATIONs for people |
//! | `family.rs` `reader.rs` | families as numbers; reading without running past the end |
//!
//! Invariants: whatever bytes come, there is a message or what the peer is to be told; nothing is read outside of what a
//! length announces; memory is bounded by the message. What is decoded and encoded again decodes to the same.
//! Left out: ORF (RFC 5291) and the CAPABILITY message, which are not offered.
//!
//! Sources: RFC 4271 §4 and §6.1, RFC 8654, RFC 7313 §5, and what each file names.

mod as_path;
mod family;
mod nlri;
pub mod notification;
mod open;
mod reader;
mod table;
mod update;
mod value;
mod write;

use config::net::IpVersion;

use super::attribute::Attributes;
use super::message::{AddPath, Message, Nlri, Notification, Open, Refresh, RefreshSubtype, Update};
use as_path::Width;
use family::afi;
use reader::Reader;

pub(super) use as_path::two_octets;
pub(super) use family::afi_and_safi;
pub use notification::describe;
pub use write::Unsayable;

/// Marker, length and type. RFC 4271 §4.1.
pub const HEADER: usize = 19;
/// The longest message before anything else was agreed on. RFC 4271 §4.1.
pub const LONGEST: usize = 4096;
/// The longest one after. RFC 8654 §3.
pub const LONGEST_EXTENDED: usize = 65535;
/// AS numbers in a path that is believed, if nothing else is said.
pub const LONGEST_PATH: usize = 1000;

const MARKER: [u8; 16] = [0xff; 16];

/// Message Header Error, and its subcodes. RFC 4271 §6.1.
const HEADER_ERROR: u8 = 1;
const NOT_SYNCHRONIZED: u8 = 1;
const BAD_LENGTH: u8 = 2;
const BAD_TYPE: u8 = 3;
/// ROUTE-REFRESH Message Error. RFC 7313 §5.
const REFRESH_ERROR: u8 = 7;
const REFRESH_LENGTH: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open = 1,
    Update = 2,
    Notification = 3,
    Keepalive = 4,
    Refresh = 5,
}

impl Kind {
    fn of(number: u8) -> Option<Kind> {
        [Kind::Open, Kind::Update, Kind::Notification, Kind::Keepalive, Kind::Refresh]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }

    fn of_message(message: &Message) -> Kind {
        match message {
            Message::Open(_) => Kind::Open,
            Message::Update(_) => Kind::Update,
            Message::Notification(_) => Kind::Notification,
            Message::Keepalive => Kind::Keepalive,
            Message::Refresh(_) => Kind::Refresh,
        }
    }

    /// Octets of the whole message. RFC 4271 §4, RFC 2918 §3.
    fn shortest(self) -> usize {
        match self {
            Kind::Open => 29,
            Kind::Update => 23,
            Kind::Notification => 21,
            Kind::Keepalive => 19,
            Kind::Refresh => 23,
        }
    }

    fn longest(self, codec: &Codec) -> usize {
        match self {
            Kind::Keepalive => HEADER,
            // RFC 8654 §4: whoever is told something with it may not have agreed yet.
            Kind::Open => LONGEST,
            _ => codec.longest(),
        }
    }
}

/// What was agreed on for one connection: how its messages are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codec {
    internal: bool,
    four_octet_as: bool,
    extended_message: bool,
    extended_next_hop: bool,
    enhanced_refresh: bool,
    longest_path: usize,
    families: &'static [IpVersion],
    /// By family.
    sends_path_ids: [bool; 2],
    receives_path_ids: [bool; 2],
}

impl Default for Codec {
    fn default() -> Codec {
        Codec::new()
    }
}

impl Codec {
    /// As long as no OPENs were exchanged: what everybody understands.
    pub fn new() -> Codec {
        Codec {
            internal: false,
            four_octet_as: false,
            extended_message: false,
            extended_next_hop: false,
            enhanced_refresh: false,
            longest_path: LONGEST_PATH,
            families: &[IpVersion::V4],
            sends_path_ids: [false; 2],
            receives_path_ids: [false; 2],
        }
    }

    /// What both can do. `internal`: the peer is in our own system.
    pub fn agreed(ours: &Open, theirs: &Open, internal: bool) -> Codec {
        let (ours, theirs) = (&ours.capabilities, &theirs.capabilities);
        let both_speak = |family: IpVersion| {
            let speaks = |families: &[IpVersion]| match families {
                // RFC 4760 §8: who says nothing speaks IPv4.
                [] => family == IpVersion::V4,
                families => families.contains(&family),
            };
            speaks(&ours.families) && speaks(&theirs.families)
        };
        let families: &[IpVersion] = match (both_speak(IpVersion::V4), both_speak(IpVersion::V6)) {
            (true, true) => &[IpVersion::V4, IpVersion::V6],
            (true, false) => &[IpVersion::V4],
            (false, true) => &[IpVersion::V6],
            (false, false) => &[],
        };
        let mut codec = Codec {
            internal,
            four_octet_as: ours.four_octet_as && theirs.four_octet_as,
            extended_message: ours.extended_message && theirs.extended_message,
            extended_next_hop: ours.extended_next_hop && theirs.extended_next_hop,
            enhanced_refresh: ours.enhanced_refresh && theirs.enhanced_refresh,
            families,
            ..Codec::new()
        };
        // RFC 7911 §4: one side sends what the other takes.
        let can = |add_path: &[AddPath], family: IpVersion, what: fn(&AddPath) -> bool| {
            add_path.iter().any(|add_path| add_path.family == family && what(add_path))
        };
        let (sends, receives) = (|one: &AddPath| one.send, |one: &AddPath| one.receive);
        for &family in families {
            let slot = family.index();
            codec.sends_path_ids[slot] = can(&ours.add_path, family, sends) && can(&theirs.add_path, family, receives);
            codec.receives_path_ids[slot] =
                can(&ours.add_path, family, receives) && can(&theirs.add_path, family, sends);
        }
        codec
    }

    /// The same, with another limit for the numbers in a path; routes with more are withdrawn.
    pub fn with_longest_path(self, numbers: usize) -> Codec {
        Codec { longest_path: numbers, ..self }
    }

    /// How a monitoring station is told what came with this: AS numbers of four octets, and the peer's numbers of paths. The
    /// family of a next hop is no question, for it came so.
    pub fn as_received(self) -> Codec {
        let sends_path_ids = self.receives_path_ids;
        Codec { four_octet_as: true, extended_next_hop: true, sends_path_ids, ..self }
    }

    pub fn with_extended_messages(self) -> Codec {
        Codec { extended_message: true, ..self }
    }

    /// Families that both speak, IPv4 first.
    pub fn families(&self) -> &[IpVersion] {
        self.families
    }

    fn speaks(&self, family: IpVersion) -> bool {
        self.families.contains(&family)
    }

    /// What we tell of this family has numbers for paths.
    pub fn sends_path_ids(&self, family: IpVersion) -> bool {
        self.sends_path_ids[family.index()]
    }

    /// What we are told of this family has numbers for paths.
    pub fn receives_path_ids(&self, family: IpVersion) -> bool {
        self.receives_path_ids[family.index()]
    }

    /// IPv4 routes may have an IPv6 next hop.
    pub fn extended_next_hop(&self) -> bool {
        self.extended_next_hop
    }

    /// Both sides know AS numbers of four octets.
    pub fn four_octet_as(&self) -> bool {
        self.four_octet_as
    }

    /// Octets of the longest message that may be sent.
    pub fn longest(&self) -> usize {
        if self.extended_message { LONGEST_EXTENDED } else { LONGEST }
    }

    fn width(&self) -> Width {
        if self.four_octet_as { Width::Four } else { Width::Two }
    }

    /// Length of the first whole message in the buffer; none: more octets are needed. The error is what the peer is to be
    /// told before the connection ends: nobody knows where the next message begins.
    pub fn frame(&self, buffer: &[u8]) -> Result<Option<usize>, Notification> {
        let marker = buffer.get(..MARKER.len()).unwrap_or(buffer);
        if marker.iter().any(|octet| *octet != 0xff) {
            return Err(Notification::new(HEADER_ERROR, NOT_SYNCHRONIZED));
        }
        let mut reader = Reader::new(buffer.get(MARKER.len()..).unwrap_or_default());
        let Some(length) = reader.u16() else { return Ok(None) };
        // RFC 4271 §6.1: the data is the length that was found.
        let bad_length = || Notification::with(HEADER_ERROR, BAD_LENGTH, length.to_be_bytes());
        let length = usize::from(length);
        if !(HEADER..=self.longest()).contains(&length) {
            return Err(bad_length());
        }
        let Some(kind) = reader.u8() else { return Ok(None) };
        let kind = Kind::of(kind).ok_or_else(|| Notification::with(HEADER_ERROR, BAD_TYPE, [kind]))?;
        if !(kind.shortest()..=kind.longest(self)).contains(&length) {
            return Err(bad_length());
        }
        Ok((buffer.len() >= length).then_some(length))
    }

    /// Reads one whole message, header and all. The error is what the peer is to be told before the session ends.
    pub fn decode(&self, message: &[u8]) -> Result<Message, Notification> {
        let found = self.frame(message)?;
        if found != Some(message.len()) {
            let length = message.len().min(LONGEST_EXTENDED) as u16;
            return Err(Notification::with(HEADER_ERROR, BAD_LENGTH, length.to_be_bytes()));
        }
        let mut reader = Reader::new(message.get(HEADER - 1..).unwrap_or_default());
        let kind = reader.u8().and_then(Kind::of);
        let body = reader.rest();
        match kind {
            Some(Kind::Open) => open::decode(body).map(Message::Open),
            Some(Kind::Update) => update::decode(self, body).map(Message::Update),
            Some(Kind::Notification) => {
                let (code, subcode) = reader.u8().zip(reader.u8()).unwrap_or_default();
                Ok(Message::Notification(Notification::with(code, subcode, reader.rest())))
            }
            Some(Kind::Keepalive) | None => Ok(Message::Keepalive),
            Some(Kind::Refresh) => refresh(self, message, body).map(Message::Refresh),
        }
    }

    /// Appends a message; an UPDATE as one or more. What cannot be said of an UPDATE's routes is said to be gone.
    pub fn encode(&self, message: &Message, out: &mut Vec<u8>) {
        let mut octets = header(Kind::of_message(message), 0);
        match message {
            Message::Update(update) => return self.encode_update(update, out),
            Message::Open(open) => open::encode(open, &mut octets),
            Message::Notification(Notification { code, subcode, data }) => {
                octets.extend([*code, *subcode]);
                let room = self.longest().saturating_sub(octets.len());
                octets.extend(data.iter().take(room));
            }
            Message::Refresh(Refresh { family, subtype }) => {
                let subtype = match subtype {
                    RefreshSubtype::Request => 0,
                    RefreshSubtype::Begin => 1,
                    RefreshSubtype::End => 2,
                };
                let (afi, safi) = family.map_or((0, 0), |family| (afi(family), family::UNICAST));
                octets.extend(afi.to_be_bytes());
                octets.extend([subtype, safi]);
            }
            Message::Keepalive => (),
        }
        set_message_length(&mut octets);
        out.extend(octets);
    }

    fn encode_update(&self, update: &Update, out: &mut Vec<u8>) {
        let Update { withdrawn, reachable, end_of_rib, faults: _ } = update;
        let mut gone = withdrawn.clone();
        let mut told: Vec<u8> = Vec::new();
        for reachable in reachable {
            let mut each = |message: &[u8], _| told.extend(message);
            if self.reach(&reachable.attributes, &reachable.nlri, &mut each).is_err() {
                gone.extend(&reachable.nlri);
            }
        }
        for family in IpVersion::BOTH {
            let nlri: Vec<Nlri> = gone.iter().copied().filter(|nlri| nlri.prefix.version() == family).collect();
            self.withdraw(&nlri, &mut |message: &[u8], _| out.extend(message));
        }
        out.extend(told);
        if let Some(family) = end_of_rib {
            self.end_of_rib(*family, out);
        }
    }

    /// Calls `each` with every message that it takes to tell of these routes, and how many of them are in it.
    /// All prefixes are of one family.
    ///
    /// # Errors
    /// Nothing was said: the attributes do not fit, or the next hop cannot be said. If the peer knows of these prefixes, it has
    /// to be told that they are gone.
    pub fn reach(
        &self,
        attributes: &Attributes,
        nlri: &[Nlri],
        each: &mut impl FnMut(&[u8], usize),
    ) -> Result<(), Unsayable> {
        write::reach(self, attributes, nlri, each)
    }

    /// The same for prefixes that are gone.
    pub fn withdraw(&self, nlri: &[Nlri], each: &mut impl FnMut(&[u8], usize)) {
        let said = write::withdraw(self, nlri, each);
        debug_assert_eq!(said, Ok(()), "every prefix fits into the shortest message that there is");
    }

    /// Appends the message that says that all has been told of a family.
    pub fn end_of_rib(&self, family: IpVersion, out: &mut Vec<u8>) {
        write::end_of_rib(family, out);
    }
}

/// The number of its type. RFC 4271 §4.1.
pub fn message_type(message: &Message) -> u8 {
    Kind::of_message(message) as u8
}

/// Appends attributes as a dump of a table has them: all that is known, with AS numbers of four octets. RFC 6396 §4.3.4.
pub fn dump_attributes(family: IpVersion, attributes: &Attributes, out: &mut Vec<u8>) {
    write::dump(family, attributes, out);
}

fn refresh(codec: &Codec, message: &[u8], body: &[u8]) -> Result<Refresh, Notification> {
    let subtype = match body.get(2) {
        Some(1) if codec.enhanced_refresh => RefreshSubtype::Begin,
        Some(2) if codec.enhanced_refresh => RefreshSubtype::End,
        // RFC 7313 §5: to be ignored, so it is about a family that we do not speak.
        Some(3..) if codec.enhanced_refresh => return Ok(Refresh { family: None, subtype: RefreshSubtype::Request }),
        // Without RFC 7313 the octet is reserved, and nobody looks at it. RFC 2918 §3.
        _ => RefreshSubtype::Request,
    };
    // RFC 7313 §5: the data is the whole message. Longer ones ask for filters, which are not offered.
    let &[a0, a1, _, safi] = body else {
        return Err(Notification::with(REFRESH_ERROR, REFRESH_LENGTH, message));
    };
    Ok(Refresh { family: family::family(u16::from_be_bytes([a0, a1]), safi), subtype })
}

/// A header whose length is still to be set, in a vector with room for so many octets.
fn header(kind: Kind, size: usize) -> Vec<u8> {
    let mut octets = Vec::with_capacity(size.max(HEADER));
    octets.extend(MARKER);
    octets.extend([0, 0, kind as u8]);
    octets
}

fn set_message_length(message: &mut [u8]) {
    debug_assert!(message.len() <= LONGEST_EXTENDED, "no message is longer");
    let length = message.len() as u16;
    if let Some(octets) = message.get_mut(MARKER.len()..MARKER.len() + 2) {
        octets.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
