//! OPEN, and the capabilities in it.
//!
//! ```text
//!     version 1 | AS 2 | hold time 2 | router id 4 | length 1 | parameters
//!     parameter: type 1 | length 1 | capabilities: code 1 | length 1 | value
//! ```
//!
//! When the parameters are longer than 255 octets, their length is said once more with two octets, and so is that of each
//! parameter (RFC 9072). A capability that is malformed is taken for absent and named in `others`, for one family that we do
//! not know does not take the others away; but AS numbers are identity, so a malformed one ends the session.
//!
//! Sources: RFC 4271 §4.2 and §6.2, RFC 5492, RFC 9072, and the RFC of each capability, named beside it.

use std::net::Ipv4Addr;
use std::time::Duration;

use config::net::IpVersion;

use crate::bgp::message::{AddPath, Capabilities, GracefulRestart, LongLived, Notification, Open, Role};

use super::as_path::two_octets;
use super::family::{self, UNICAST, afi};
use super::reader::Reader;

const VERSION: u8 = 4;
/// The parameter that holds capabilities. RFC 5492 §4.
const CAPABILITIES: u8 = 2;
/// Stands where the first parameter's type would: lengths have two octets from here on. RFC 9072 §2.
const EXTENDED: u8 = 255;

/// OPEN Message Error, and its subcodes. RFC 4271 §6.2.
const OPEN_ERROR: u8 = 2;
const UNSPECIFIC: u8 = 0;
const UNSUPPORTED_VERSION: u8 = 1;
const BAD_PEER_AS: u8 = 2;
const BAD_IDENTIFIER: u8 = 3;
const UNSUPPORTED_PARAMETER: u8 = 4;
const UNACCEPTABLE_HOLD_TIME: u8 = 6;

/// Capability codes.
mod code {
    pub const MULTIPROTOCOL: u8 = 1; // RFC 4760
    pub const ROUTE_REFRESH: u8 = 2; // RFC 2918
    pub const EXTENDED_NEXT_HOP: u8 = 5; // RFC 8950
    pub const EXTENDED_MESSAGE: u8 = 6; // RFC 8654
    pub const ROLE: u8 = 9; // RFC 9234
    pub const GRACEFUL_RESTART: u8 = 64; // RFC 4724
    pub const FOUR_OCTET_AS: u8 = 65; // RFC 6793
    pub const ADD_PATH: u8 = 69; // RFC 7911
    pub const ENHANCED_REFRESH: u8 = 70; // RFC 7313
    pub const LONG_LIVED: u8 = 71; // RFC 9494
}

/// `body`: what follows the header.
pub(super) fn decode(body: &[u8]) -> Result<Open, Notification> {
    let malformed = || Notification::new(OPEN_ERROR, UNSPECIFIC);
    let mut reader = Reader::new(body);
    let version = reader.u8().ok_or_else(malformed)?;
    if version != VERSION {
        // RFC 4271 §6.2: the version that we would speak, in two octets.
        return Err(Notification::with(OPEN_ERROR, UNSUPPORTED_VERSION, [0, VERSION]));
    }
    let as_number = reader.u16().ok_or_else(malformed)?;
    let hold_time = reader.u16().ok_or_else(malformed)?;
    let router_id = reader.u32().ok_or_else(malformed)?;
    let (capabilities, long_number) = parameters(reader)?;
    let as_number = long_number.unwrap_or(as_number.into());
    // RFC 7607 §2.
    if as_number == 0 {
        return Err(Notification::new(OPEN_ERROR, BAD_PEER_AS));
    }
    if matches!(hold_time, 1 | 2) {
        return Err(Notification::with(OPEN_ERROR, UNACCEPTABLE_HOLD_TIME, hold_time.to_be_bytes()));
    }
    // RFC 6286 §2.2.
    if router_id == 0 {
        return Err(Notification::new(OPEN_ERROR, BAD_IDENTIFIER));
    }
    let hold_time = Duration::from_secs(hold_time.into());
    Ok(Open { as_number, hold_time, router_id: Ipv4Addr::from_bits(router_id), capabilities })
}

/// What follows the fixed part; and the AS number of four octets, if there is one.
fn parameters(mut reader: Reader<'_>) -> Result<(Capabilities, Option<u32>), Notification> {
    let malformed = || Notification::new(OPEN_ERROR, UNSPECIFIC);
    let length = reader.u8().ok_or_else(malformed)?;
    let is_extended = length != 0 && reader.rest().first() == Some(&EXTENDED);
    let mut parameters = if is_extended {
        reader.u8();
        reader.long().ok_or_else(malformed)?
    } else {
        reader.take(length.into()).map(Reader::new).ok_or_else(malformed)?
    };
    if !reader.is_empty() {
        return Err(malformed());
    }
    let (mut capabilities, mut as_number) = (Capabilities::default(), None);
    while !parameters.is_empty() {
        let kind = parameters.u8().ok_or_else(malformed)?;
        let value = if is_extended { parameters.long() } else { parameters.short() };
        let mut value = value.ok_or_else(malformed)?;
        if kind != CAPABILITIES {
            return Err(Notification::new(OPEN_ERROR, UNSUPPORTED_PARAMETER));
        }
        while !value.is_empty() {
            let code = value.u8().ok_or_else(malformed)?;
            let value = value.short().ok_or_else(malformed)?;
            if code == code::FOUR_OCTET_AS {
                let number: [u8; 4] = value.rest().try_into().map_err(|_| malformed())?;
                capabilities.four_octet_as = true;
                as_number = Some(u32::from_be_bytes(number));
            } else if take(&mut capabilities, code, value).is_none() {
                push_once(&mut capabilities.others, code);
            }
        }
    }
    Ok((capabilities, as_number))
}

/// None: unknown, or malformed.
fn take(capabilities: &mut Capabilities, code: u8, mut value: Reader<'_>) -> Option<()> {
    let is_empty = value.is_empty().then_some(());
    match code {
        code::MULTIPROTOCOL => {
            let [a0, a1, _, safi] = value.rest().try_into().ok()?;
            if let Some(family) = family::family(u16::from_be_bytes([a0, a1]), safi) {
                push_once(&mut capabilities.families, family);
            }
        }
        code::ROUTE_REFRESH => {
            is_empty?;
            capabilities.route_refresh = true;
        }
        code::ENHANCED_REFRESH => {
            is_empty?;
            capabilities.enhanced_refresh = true;
        }
        code::EXTENDED_MESSAGE => {
            is_empty?;
            capabilities.extended_message = true;
        }
        code::ROLE => {
            let [role] = value.rest().try_into().ok()?;
            capabilities.role = Some(match role {
                0 => Role::Provider,
                1 => Role::RouteServer,
                2 => Role::RouteServerClient,
                3 => Role::Customer,
                4 => Role::Peer,
                _ => return None,
            });
        }
        code::EXTENDED_NEXT_HOP => {
            for tuple in whole_chunks::<6>(value.rest())? {
                // AFI, SAFI (of two octets here), AFI of the next hop. RFC 8950 §4.
                capabilities.extended_next_hop |= *tuple == [0, 1, 0, UNICAST, 0, 2];
            }
        }
        code::GRACEFUL_RESTART => {
            let front = value.u16()?;
            let restarting = front & 0x8000 != 0;
            let notification = front & 0x4000 != 0;
            let restart_time = Duration::from_secs((front & 0x0fff).into());
            let mut families = Vec::new();
            for [a0, a1, safi, flags] in whole_chunks::<4>(value.rest())? {
                if let Some(family) = family::family(u16::from_be_bytes([*a0, *a1]), *safi)
                    && families.iter().all(|(known, _)| *known != family)
                {
                    families.push((family, flags & 0x80 != 0));
                }
            }
            capabilities.graceful_restart = Some(GracefulRestart { restarting, notification, restart_time, families });
        }
        code::LONG_LIVED => {
            for [a0, a1, safi, flags, t0, t1, t2] in whole_chunks::<7>(value.rest())? {
                let Some(family) = family::family(u16::from_be_bytes([*a0, *a1]), *safi) else { continue };
                let stale_time = Duration::from_secs(u32::from_be_bytes([0, *t0, *t1, *t2]).into());
                if capabilities.long_lived.iter().all(|known| known.family != family) {
                    capabilities.long_lived.push(LongLived { family, forwarding: flags & 0x80 != 0, stale_time });
                }
            }
        }
        code::ADD_PATH => {
            for [a0, a1, safi, what] in whole_chunks::<4>(value.rest())? {
                let Some(family) = family::family(u16::from_be_bytes([*a0, *a1]), *safi) else { continue };
                // RFC 7911 §4: any other value, and the whole tuple is ignored. Of several the last counts.
                if matches!(what, 1..=3) {
                    capabilities.add_path.retain(|known| known.family != family);
                    capabilities.add_path.push(AddPath { family, receive: what & 1 != 0, send: what & 2 != 0 });
                }
            }
        }
        _ => return None,
    }
    Some(())
}

fn whole_chunks<const N: usize>(value: &[u8]) -> Option<&[[u8; N]]> {
    let (chunks, rest) = value.as_chunks();
    rest.is_empty().then_some(chunks)
}

fn push_once<T: PartialEq>(values: &mut Vec<T>, value: T) {
    if !values.contains(&value) {
        values.push(value);
    }
}

/// Appends what follows the header.
pub(super) fn encode(open: &Open, out: &mut Vec<u8>) {
    let capabilities = capabilities(open);
    out.push(VERSION);
    out.extend(two_octets(open.as_number).to_be_bytes());
    out.extend((open.hold_time.as_secs().min(u16::MAX.into()) as u16).to_be_bytes());
    out.extend(open.router_id.octets());
    // All in one parameter.
    match u8::try_from(capabilities.len() + 2) {
        _ if capabilities.is_empty() => out.push(0),
        Ok(length) => out.extend([length, CAPABILITIES, capabilities.len() as u8]),
        Err(_) => {
            let length = capabilities.len() as u16;
            out.extend([EXTENDED, EXTENDED]);
            out.extend((length + 3).to_be_bytes());
            out.push(CAPABILITIES);
            out.extend(length.to_be_bytes());
        }
    }
    out.extend(capabilities);
}

fn capabilities(open: &Open) -> Vec<u8> {
    let Capabilities {
        families,
        route_refresh,
        enhanced_refresh,
        four_octet_as,
        extended_message,
        graceful_restart,
        long_lived,
        add_path,
        extended_next_hop,
        role,
        // Their values are not known.
        others: _,
    } = &open.capabilities;
    let mut out = Vec::new();
    // A value of more than 255 octets cannot be said; none of these comes near it with two families.
    let mut say = |code: u8, value: &[u8]| {
        out.extend([code, value.len() as u8]);
        out.extend(value);
    };
    let unicast = |family: IpVersion| {
        let [a0, a1] = afi(family).to_be_bytes();
        [a0, a1, UNICAST]
    };
    for family in families {
        let [a0, a1, safi] = unicast(*family);
        say(code::MULTIPROTOCOL, &[a0, a1, 0, safi]);
    }
    if *route_refresh {
        say(code::ROUTE_REFRESH, &[]);
    }
    if *extended_next_hop {
        say(code::EXTENDED_NEXT_HOP, &[0, 1, 0, UNICAST, 0, 2]);
    }
    if *extended_message {
        say(code::EXTENDED_MESSAGE, &[]);
    }
    if let Some(role) = role {
        let role = match role {
            Role::Provider => 0,
            Role::RouteServer => 1,
            Role::RouteServerClient => 2,
            Role::Customer => 3,
            Role::Peer => 4,
        };
        say(code::ROLE, &[role]);
    }
    if let Some(GracefulRestart { restarting, notification, restart_time, families }) = graceful_restart {
        let time = restart_time.as_secs().min(0x0fff) as u16;
        let front = u16::from(*restarting) << 15 | u16::from(*notification) << 14 | time;
        let mut value = front.to_be_bytes().to_vec();
        for (family, forwarding) in families {
            value.extend(unicast(*family));
            value.push(u8::from(*forwarding) << 7);
        }
        say(code::GRACEFUL_RESTART, &value);
    }
    if *four_octet_as {
        say(code::FOUR_OCTET_AS, &open.as_number.to_be_bytes());
    }
    let mut value = Vec::new();
    for AddPath { family, send, receive } in add_path.iter().filter(|add_path| add_path.send || add_path.receive) {
        value.extend(unicast(*family));
        value.push(u8::from(*receive) | u8::from(*send) << 1);
    }
    if !value.is_empty() {
        say(code::ADD_PATH, &value);
    }
    if *enhanced_refresh {
        say(code::ENHANCED_REFRESH, &[]);
    }
    let mut value = Vec::new();
    for LongLived { family, forwarding, stale_time } in long_lived {
        value.extend(unicast(*family));
        value.push(u8::from(*forwarding) << 7);
        let time = stale_time.as_secs().min(0x00ff_ffff) as u32;
        value.extend(time.to_be_bytes().into_iter().skip(1));
    }
    if !value.is_empty() {
        say(code::LONG_LIVED, &value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXED: [u8; 9] = [4, 0xfd, 0xe9, 0, 90, 192, 0, 2, 1];

    /// An OPEN with this after its fixed part.
    fn with(rest: &[u8]) -> Result<Open, Notification> {
        decode(&[&FIXED[..], rest].concat())
    }

    /// One with these capabilities, in one parameter.
    fn capable(capabilities: &[u8]) -> Result<Open, Notification> {
        let length = capabilities.len() as u8;
        with(&[&[length + 2, CAPABILITIES, length], capabilities].concat())
    }

    fn refused(found: Result<Open, Notification>, code: u8, subcode: u8, data: &[u8]) {
        assert_eq!(found, Err(Notification::with(code, subcode, data)));
    }

    #[test]
    fn what_ends_the_session() {
        for length in 0..FIXED.len() {
            let found = decode(&FIXED[..length]);
            assert_eq!(found.map_err(|error| (error.code, error.subcode)), Err((2, 0)), "{length} octets");
        }
        refused(with(&[]), 2, 0, &[]);
        refused(decode(&[3, 0xfd, 0xe9, 0, 90, 192, 0, 2, 1, 0]), 2, 1, &[0, 4]);
        refused(decode(&[4, 0, 0, 0, 90, 192, 0, 2, 1, 0]), 2, 2, &[]);
        refused(decode(&[4, 0xfd, 0xe9, 0, 90, 0, 0, 0, 0, 0]), 2, 3, &[]);
        refused(decode(&[4, 0xfd, 0xe9, 0, 1, 192, 0, 2, 1, 0]), 2, 6, &[0, 1]);
        refused(decode(&[4, 0xfd, 0xe9, 0, 2, 192, 0, 2, 1, 0]), 2, 6, &[0, 2]);
        // Parameters longer than the message, or shorter.
        refused(with(&[4, 2, 0]), 2, 0, &[]);
        refused(with(&[2, 2, 1]), 2, 0, &[]);
        refused(with(&[1, 2]), 2, 0, &[]);
        refused(with(&[0, 2, 0]), 2, 0, &[]);
        refused(with(&[2, 2, 0, 9]), 2, 0, &[]);
        // The extended form: longer than the message, or shorter.
        refused(with(&[255, 255, 0, 9, 2, 0, 0]), 2, 0, &[]);
        refused(with(&[255, 255, 0, 0, 2]), 2, 0, &[]);
        refused(with(&[255, 255, 0]), 2, 0, &[]);
        refused(with(&[255, 255, 0, 3, 2, 0, 1]), 2, 0, &[]);
        // A parameter that is no capability.
        refused(with(&[3, 1, 1, 0]), 2, 4, &[]);
        // A capability longer than its parameter.
        refused(capable(&[2, 1]), 2, 0, &[]);
        refused(capable(&[2]), 2, 0, &[]);
        // AS numbers are identity.
        refused(capable(&[65, 3, 0, 1, 0]), 2, 0, &[]);
        refused(capable(&[65, 5, 0, 1, 0, 0, 0]), 2, 0, &[]);
        refused(capable(&[65, 0]), 2, 0, &[]);
        refused(capable(&[65, 4, 0, 0, 0, 0]), 2, 2, &[]);
    }

    #[test]
    fn malformed_capabilities_are_taken_for_absent() {
        let check = |capability: &[u8]| {
            let found = capable(capability).unwrap().capabilities;
            assert_eq!(
                found,
                Capabilities { others: vec![capability[0]], ..Capabilities::default() },
                "{capability:?}"
            );
        };
        check(&[1, 3, 0, 1, 0]);
        check(&[1, 5, 0, 1, 0, 1, 0]);
        check(&[2, 1, 0]);
        check(&[5, 5, 0, 1, 0, 1, 0]);
        check(&[6, 1, 0]);
        check(&[9, 0]);
        check(&[9, 1, 5]);
        check(&[9, 2, 0, 0]);
        check(&[64, 1, 0]);
        check(&[64, 5, 0, 120, 0, 1, 1]);
        check(&[69, 3, 0, 1, 1]);
        check(&[70, 1, 0]);
        check(&[71, 6, 0, 1, 1, 0x80, 0, 0]);
        // Of names and versions nothing is read, whatever they say of their lengths.
        check(&[73, 2, 9, 9]);
        check(&[75, 0]);
        check(&[75, 1, 64]);
    }

    #[test]
    fn a_family_that_we_do_not_know_takes_nothing_away() {
        // AFI 25, SAFI 70 (EVPN), and one that nobody has.
        let found = capable(&[
            1, 4, 0, 25, 0, 70, 1, 4, 0xff, 0xff, 0, 0xff, 1, 4, 0, 2, 0, 1, 64, 10, 0x80, 120, 0xff, 0xff, 1, 0x80, 0,
            2, 1, 0x80, 69, 12, 0, 25, 70, 3, 0, 2, 1, 3, 0, 1, 1, 9,
        ]);
        let families = vec![(IpVersion::V6, true)];
        let restart_time = Duration::from_secs(120);
        let restart = GracefulRestart { restarting: true, notification: false, restart_time, families };
        let expected = Capabilities {
            families: vec![IpVersion::V6],
            graceful_restart: Some(restart),
            add_path: vec![AddPath { family: IpVersion::V6, send: true, receive: true }],
            ..Capabilities::default()
        };
        assert_eq!(found.unwrap().capabilities, expected);
    }

    #[test]
    fn the_number_in_the_capability_decides() {
        let open = capable(&[65, 4, 0, 1, 0, 0]).unwrap();
        assert_eq!((open.as_number, open.capabilities.four_octet_as), (65536, true));
        let open = with(&[0]).unwrap();
        assert_eq!((open.as_number, open.capabilities.four_octet_as), (65001, false));
    }

    #[test]
    fn lengths_of_two_octets_are_read() {
        // RFC 9072: any length in the octet before, as long as it is not zero.
        for length in [1, 4, 255] {
            let open = with(&[length, 255, 0, 9, 2, 0, 6, 65, 4, 0, 1, 0, 0]).unwrap();
            assert_eq!(open.as_number, 65536);
        }
        let long = [&[255, 255, 1, 2, 2, 0, 255, 73, 253][..], &[0; 253]].concat();
        assert_eq!(with(&long).unwrap().capabilities.others, [73]);
    }
}
