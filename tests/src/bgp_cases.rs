//! UPDATEs that are wrong in one thing, as text: `tests/data/bgp/rfc7606.txt`, whose header explains the form.
//!
//! The same cases go through the decoder alone (here) and over a session between a raw speaker and the router (in
//! `tests/scenario`), where a route that is told after each of them shows that it was dealt with.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use config::net::Cidr;

/// One message, and what has to become of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Case {
    pub name: String,
    pub about: String,
    pub session: Session,
    /// From a peer in our own system.
    pub ibgp: Expected,
    /// From one in another system.
    pub ebgp: Expected,
    pub withdrawn: Vec<u8>,
    pub attributes: Vec<u8>,
    pub nlri: Vec<u8>,
    /// What the message says of the attributes' length, where that is a lie.
    pub length: Option<u16>,
    pub routes: Vec<Cidr>,
    /// Withdrawn, whatever becomes of the rest.
    pub gone: Vec<Cidr>,
    /// Attributes that are passed on, with Partial set.
    pub passes: Vec<u8>,
    pub stops: Vec<u8>,
}

/// What was agreed on besides the usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Session {
    pub two_octet_as: bool,
    pub extended_next_hop: bool,
    pub path_ids: bool,
    pub ipv4_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expected {
    Accept,
    Discard,
    Withdraw,
    #[default]
    Nothing,
    Reset(u8, u8),
}

impl Case {
    /// The whole message, header and all.
    pub fn message(&self) -> Vec<u8> {
        let length = self.length.unwrap_or(self.attributes.len() as u16);
        let body = [
            &(self.withdrawn.len() as u16).to_be_bytes()[..],
            &self.withdrawn,
            &length.to_be_bytes(),
            &self.attributes,
            &self.nlri,
        ]
        .concat();
        message(UPDATE, &body)
    }
}

const UPDATE: u8 = 2;

/// A message of any type with a right header.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = 19 + body.len() as u16;
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// All cases of the file.
pub fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/bgp/rfc7606.txt");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads the text. The error says which line is wrong, and why.
pub fn parse(text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    let mut names = BTreeSet::new();
    let mut is_in_attributes = false;
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = |what: &str| format!("line {number}: {what}");
        let code = line.split('#').next().unwrap_or_default();
        if code.trim().is_empty() {
            continue;
        }
        if code.starts_with(' ') {
            let case = cases.last_mut().filter(|_| is_in_attributes).ok_or_else(|| wrong("continues nothing"))?;
            case.attributes.extend(hex(code).map_err(|error| wrong(&error))?);
            continue;
        }
        let (word, rest) = code.trim().split_once(' ').unwrap_or((code.trim(), ""));
        is_in_attributes = word == "attributes";
        if word == "case" {
            if !names.insert(rest.to_owned()) {
                return Err(wrong(&format!("a second case {rest}")));
            }
            cases.push(Case { name: rest.to_owned(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| wrong("comes before the first case"))?;
        let done = line_of(case, word, rest);
        done.map_err(|error| wrong(&error))?;
    }
    Ok(cases)
}

fn line_of(case: &mut Case, word: &str, rest: &str) -> Result<(), String> {
    let cidrs = || -> Result<Vec<Cidr>, String> {
        rest.split_whitespace().map(|text| Cidr::parse(text).map_err(|error| error.to_string())).collect()
    };
    let codes = || -> Result<Vec<u8>, String> {
        rest.split_whitespace().map(|text| text.parse().map_err(|error| format!("{text}: {error}"))).collect()
    };
    match word {
        "about" => case.about = rest.to_owned(),
        "session" => {
            for word in rest.split_whitespace() {
                *match word {
                    "two-octet-as" => &mut case.session.two_octet_as,
                    "extended-next-hop" => &mut case.session.extended_next_hop,
                    "path-ids" => &mut case.session.path_ids,
                    "ipv4-only" => &mut case.session.ipv4_only,
                    other => return Err(format!("no such thing to agree on: {other}")),
                } = true;
            }
        }
        "ibgp" => case.ibgp = expected(rest)?,
        "ebgp" => case.ebgp = expected(rest)?,
        "withdrawn" => case.withdrawn = hex(rest)?,
        "attributes" => case.attributes = hex(rest)?,
        "nlri" => case.nlri = hex(rest)?,
        "length" => case.length = Some(rest.parse().map_err(|error| format!("{rest}: {error}"))?),
        "routes" => case.routes = cidrs()?,
        "gone" => case.gone = cidrs()?,
        "passes" => case.passes = codes()?,
        "stops" => case.stops = codes()?,
        other => return Err(format!("no such line: {other}")),
    }
    Ok(())
}

fn expected(text: &str) -> Result<Expected, String> {
    Ok(match text {
        "accept" => Expected::Accept,
        "discard" => Expected::Discard,
        "withdraw" => Expected::Withdraw,
        "nothing" => Expected::Nothing,
        _ => {
            let wrong = || format!("no such outcome: {text}");
            let (code, subcode) =
                text.strip_prefix("reset ").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
            Expected::Reset(code.parse().map_err(|_| wrong())?, subcode.parse().map_err(|_| wrong())?)
        }
    })
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    text.split_whitespace()
        .map(|pair| u8::from_str_radix(pair, 16).map_err(|error| format!("{pair}: {error}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use config::net::IpVersion;
    use control::bgp::message::{AddPath, Capabilities, Message, Nlri, Open, Outcome, Update};
    use control::bgp::wire::Codec;

    use super::*;

    fn codec(session: Session, internal: bool) -> Codec {
        let both = [IpVersion::V4, IpVersion::V6];
        let add_path = |family| AddPath { family, send: true, receive: true };
        let capabilities = Capabilities {
            families: if session.ipv4_only { vec![IpVersion::V4] } else { both.to_vec() },
            four_octet_as: !session.two_octet_as,
            extended_next_hop: session.extended_next_hop,
            add_path: if session.path_ids { both.map(add_path).to_vec() } else { Vec::new() },
            ..Capabilities::default()
        };
        let open = Open {
            as_number: 64512,
            hold_time: Duration::from_secs(90),
            router_id: Ipv4Addr::new(192, 0, 2, 1),
            capabilities,
        };
        Codec::agreed(&open, &open, internal)
    }

    /// What has become of the routes of a case. The error is for people.
    fn outcome(case: &Case, codec: &Codec) -> Result<Expected, String> {
        let update = match codec.decode(&case.message()) {
            Err(notification) => return Ok(Expected::Reset(notification.code, notification.subcode)),
            Ok(Message::Update(update)) => update,
            Ok(other) => return Err(format!("read as {other:?}")),
        };
        if update.faults.iter().any(|fault| fault.outcome == Outcome::SessionReset) {
            return Err(format!("asks for a reset and goes on: {:?}", update.faults));
        }
        let is_withdrawn = |prefix: &Cidr| update.withdrawn.iter().any(|nlri| nlri.prefix == *prefix);
        if let Some(prefix) = case.gone.iter().find(|prefix| !is_withdrawn(prefix)) {
            return Err(format!("{prefix} is not withdrawn"));
        }
        let told: Vec<Nlri> = update.reachable.iter().flat_map(|reachable| reachable.nlri.iter().copied()).collect();
        let count = |is_in: &dyn Fn(&Cidr) -> bool| case.routes.iter().filter(|prefix| is_in(prefix)).count();
        let reachable = count(&|prefix| told.iter().any(|nlri| nlri.prefix == *prefix));
        let withdrawn = count(&is_withdrawn);
        let all = case.routes.len();
        match (reachable, withdrawn) {
            (0, 0) => Ok(Expected::Nothing),
            (0, withdrawn) if withdrawn == all => Ok(Expected::Withdraw),
            (reachable, _) if reachable == all && update.faults.is_empty() => Ok(Expected::Accept),
            (reachable, _) if reachable == all => Ok(Expected::Discard),
            _ => Err(format!("{reachable} of {all} routes taken, {withdrawn} withdrawn")),
        }
        .and_then(|outcome| {
            passes(case, codec, &update)?;
            Ok(outcome)
        })
    }

    /// What the next router would be told of the attributes.
    fn passes(case: &Case, codec: &Codec, update: &Update) -> Result<(), String> {
        let mut told = BTreeSet::new();
        for reachable in &update.reachable {
            let mut each = |message: &[u8], _| {
                // Header, no withdrawn routes, length of the attributes.
                let length = usize::from(u16::from_be_bytes([message[21], message[22]]));
                let mut rest = &message[23..23 + length];
                while let [flags, code, length @ ..] = rest {
                    let (octets, start) = match (flags & 0x10, length) {
                        (0, [short, ..]) => (usize::from(*short), 3),
                        (_, [high, low, ..]) => (usize::from(u16::from_be_bytes([*high, *low])), 4),
                        _ => panic!("an attribute without a length"),
                    };
                    told.insert((*code, flags & 0x20 != 0));
                    rest = &rest[start + octets..];
                }
            };
            codec.reach(&reachable.attributes, &reachable.nlri, &mut each).map_err(|error| error.to_string())?;
        }
        if let Some(code) = case.passes.iter().find(|code| !told.contains(&(**code, true))) {
            return Err(format!("attribute {code} is not passed on as Partial: {told:?}"));
        }
        match case.stops.iter().find(|code| told.iter().any(|(told, _)| told == *code)) {
            Some(code) => Err(format!("attribute {code} is passed on: {told:?}")),
            None => Ok(()),
        }
    }

    #[test]
    fn every_case_ends_as_it_has_to() {
        let mut wrong = Vec::new();
        for case in cases() {
            for (internal, kind, expected) in [(true, "ibgp", case.ibgp), (false, "ebgp", case.ebgp)] {
                let found = outcome(&case, &codec(case.session, internal));
                if found != Ok(expected) {
                    wrong.push(format!("{} {kind}: expected {expected:?}, found {found:?}", case.name));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn the_cases_show_every_outcome() {
        let all = cases();
        for expected in [Expected::Accept, Expected::Discard, Expected::Withdraw, Expected::Nothing] {
            assert!(all.iter().any(|case| case.ibgp == expected), "{expected:?}");
        }
        assert!(all.iter().any(|case| matches!(case.ebgp, Expected::Reset(..))));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let check = |text: &str, expected: &str| {
            assert_eq!(parse(text).unwrap_err(), expected);
        };
        check("ibgp accept", "line 1: comes before the first case");
        check("case a\ncase a", "line 2: a second case a");
        check("case a\n  00", "line 2: continues nothing");
        check("case a\nibgp reset 3", "line 2: no such outcome: reset 3");
        check("case a\nattributes\n    0g # what", "line 3: 0g: invalid digit found in string");
        check("case a\nsize 3", "line 2: no such line: size");
    }
}
