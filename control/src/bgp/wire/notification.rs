//! NOTIFICATIONs for people: a name for every code, and the text that an operator sends along when a session is shut down.
//!
//! Sources: RFC 4271 §4.5 and §6, RFC 4486, RFC 6608, RFC 7313 §5, RFC 8203 and RFC 9003 (which allows 255 octets), RFC 8538 §3,
//! RFC 9234 §4.2, RFC 9384, RFC 9687.

use std::fmt::Write;

use crate::bgp::message::cease::{ADMINISTRATIVE_RESET, ADMINISTRATIVE_SHUTDOWN, HARD_RESET, MAXIMUM_PREFIXES};
use crate::bgp::message::{CEASE, Notification};

use super::reader::Reader;

/// Octets of a text: its length is one octet. RFC 9003 §2.
pub const TEXT_MAX: usize = 255;

/// The data of a shutdown or reset, from as much of the text as fits.
pub fn shutdown_data(text: &str) -> Vec<u8> {
    let text = text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or_default();
    let mut data = vec![text.len() as u8];
    data.extend(text.as_bytes());
    data
}

/// What the other side's operator says. None: nothing, or nothing readable. Safe to show.
pub fn shutdown_text(notification: &Notification) -> Option<String> {
    let Notification { code: CEASE, subcode: ADMINISTRATIVE_SHUTDOWN | ADMINISTRATIVE_RESET, data } = notification
    else {
        return None;
    };
    let text = Reader::new(data).short()?.rest();
    (!text.is_empty()).then(|| escaped(text))
}

/// The NOTIFICATION within a hard reset. RFC 8538 §3.
pub fn hard_reset_cause(notification: &Notification) -> Option<Notification> {
    let Notification { code: CEASE, subcode: HARD_RESET, data } = notification else { return None };
    let [code, subcode, data @ ..] = &data[..] else { return None };
    Some(Notification::with(*code, *subcode, data))
}

/// A hard reset because of this one: nothing is kept, graceful restart or not.
pub fn hard_reset(cause: &Notification) -> Notification {
    let mut data = vec![cause.code, cause.subcode];
    data.extend(&cause.data);
    Notification::with(CEASE, HARD_RESET, data)
}

/// Octets that come from somebody else, as text without a character that does something: those, and what is no UTF-8, as
/// `\xNN`.
fn escaped(text: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => shown.push_str("\\\\"),
                // Right-to-left and the like turn the rest of the line around.
                _ if character.is_control() || is_format(character) => {
                    let mut octets = [0; 4];
                    hex(character.encode_utf8(&mut octets).as_bytes(), &mut shown);
                }
                _ => shown.push(character),
            }
        }
        hex(chunk.invalid(), &mut shown);
    }
    shown
}

fn is_format(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn hex(octets: &[u8], shown: &mut String) {
    for octet in octets {
        // Writing to a string does not fail.
        let _ = write!(shown, "\\x{octet:02x}");
    }
}

/// `Cease/Administrative Shutdown (6/2): "maintenance"`.
pub fn describe(notification: &Notification) -> String {
    let Notification { code, subcode, data } = notification;
    let mut text = match subcode_name(*code, *subcode) {
        Some(name) => format!("{}/{name} ({code}/{subcode})", code_name(*code)),
        None => format!("{} ({code}/{subcode})", code_name(*code)),
    };
    let more = match (*code, *subcode, &data[..]) {
        (CEASE, ADMINISTRATIVE_SHUTDOWN | ADMINISTRATIVE_RESET, _) => {
            shutdown_text(notification).map(|said| format!("\"{said}\""))
        }
        // One level only: a hard reset within a hard reset is not looked into.
        (CEASE, HARD_RESET, [code, subcode, ..]) => {
            let name = subcode_name(*code, *subcode).map(|name| format!("/{name}")).unwrap_or_default();
            let said = hard_reset_cause(notification).and_then(|cause| shutdown_text(&cause));
            let said = said.map(|said| format!(": \"{said}\"")).unwrap_or_default();
            Some(format!("{}{name} ({code}/{subcode}){said}", code_name(*code)))
        }
        // RFC 4486 §4: AFI, SAFI and the limit.
        (CEASE, MAXIMUM_PREFIXES, [a0, a1, safi, l0, l1, l2, l3]) => {
            let (afi, limit) = (u16::from_be_bytes([*a0, *a1]), u32::from_be_bytes([*l0, *l1, *l2, *l3]));
            Some(format!("limit {limit} of AFI {afi}, SAFI {safi}"))
        }
        (1, 2, [l0, l1]) => Some(format!("length {}", u16::from_be_bytes([*l0, *l1]))),
        (1, 3, [kind]) => Some(format!("type {kind}")),
        (2, 1, [v0, v1]) => Some(format!("version {}", u16::from_be_bytes([*v0, *v1]))),
        (2, 7, [capability, ..]) => Some(format!("capability {capability}")),
        (3, 2..=9, [_, attribute, ..]) => Some(format!("attribute {attribute}")),
        _ => None,
    };
    if let Some(more) = more {
        text.push_str(": ");
        text.push_str(&more);
    }
    text
}

fn code_name(code: u8) -> &'static str {
    match code {
        1 => "Message Header Error",
        2 => "OPEN Message Error",
        3 => "UPDATE Message Error",
        4 => "Hold Timer Expired",
        5 => "Finite State Machine Error",
        6 => "Cease",
        7 => "ROUTE-REFRESH Message Error",
        8 => "Send Hold Timer Expired",
        _ => "unknown error",
    }
}

/// None: the code has none, or this one is not known.
fn subcode_name(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (1, 1) => "Connection Not Synchronized",
        (1, 2) => "Bad Message Length",
        (1, 3) => "Bad Message Type",
        (2, 1) => "Unsupported Version Number",
        (2, 2) => "Bad Peer AS",
        (2, 3) => "Bad BGP Identifier",
        (2, 4) => "Unsupported Optional Parameter",
        (2, 5) => "Authentication Failure",
        (2, 6) => "Unacceptable Hold Time",
        (2, 7) => "Unsupported Capability",
        (2, 11) => "Role Mismatch",
        (3, 1) => "Malformed Attribute List",
        (3, 2) => "Unrecognized Well-known Attribute",
        (3, 3) => "Missing Well-known Attribute",
        (3, 4) => "Attribute Flags Error",
        (3, 5) => "Attribute Length Error",
        (3, 6) => "Invalid ORIGIN Attribute",
        (3, 7) => "AS Routing Loop",
        (3, 8) => "Invalid NEXT_HOP Attribute",
        (3, 9) => "Optional Attribute Error",
        (3, 10) => "Invalid Network Field",
        (3, 11) => "Malformed AS_PATH",
        (5, 1) => "Receive Unexpected Message in OpenSent State",
        (5, 2) => "Receive Unexpected Message in OpenConfirm State",
        (5, 3) => "Receive Unexpected Message in Established State",
        (6, 1) => "Maximum Number of Prefixes Reached",
        (6, 2) => "Administrative Shutdown",
        (6, 3) => "Peer De-configured",
        (6, 4) => "Administrative Reset",
        (6, 5) => "Connection Rejected",
        (6, 6) => "Other Configuration Change",
        (6, 7) => "Connection Collision Resolution",
        (6, 8) => "Out of Resources",
        (6, 9) => "Hard Reset",
        (6, 10) => "BFD Down",
        (7, 1) => "Invalid Message Length",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_have_names() {
        let check = |code, subcode, data: &[u8], expected: &str| {
            assert_eq!(describe(&Notification::with(code, subcode, data)), expected);
        };
        check(1, 2, &[0, 18], "Message Header Error/Bad Message Length (1/2): length 18");
        check(1, 3, &[6], "Message Header Error/Bad Message Type (1/3): type 6");
        check(2, 0, &[], "OPEN Message Error (2/0)");
        check(2, 1, &[0, 4], "OPEN Message Error/Unsupported Version Number (2/1): version 4");
        check(2, 11, &[], "OPEN Message Error/Role Mismatch (2/11)");
        check(3, 2, &[0x40, 200, 0], "UPDATE Message Error/Unrecognized Well-known Attribute (3/2): attribute 200");
        check(4, 0, &[], "Hold Timer Expired (4/0)");
        check(5, 3, &[], "Finite State Machine Error/Receive Unexpected Message in Established State (5/3)");
        check(
            6,
            1,
            &[0, 1, 1, 0, 0, 3, 232],
            "Cease/Maximum Number of Prefixes Reached (6/1): limit 1000 of AFI 1, SAFI 1",
        );
        check(6, 2, &[], "Cease/Administrative Shutdown (6/2)");
        check(6, 2, b"\x05later", "Cease/Administrative Shutdown (6/2): \"later\"");
        check(6, 4, b"\x06later", "Cease/Administrative Reset (6/4)");
        check(6, 9, &[6, 3], "Cease/Hard Reset (6/9): Cease/Peer De-configured (6/3)");
        check(6, 9, b"\x06\x02\x02hi", "Cease/Hard Reset (6/9): Cease/Administrative Shutdown (6/2): \"hi\"");
        check(6, 9, &[6], "Cease/Hard Reset (6/9)");
        check(6, 10, &[], "Cease/BFD Down (6/10)");
        check(7, 1, &[], "ROUTE-REFRESH Message Error/Invalid Message Length (7/1)");
        check(8, 0, &[], "Send Hold Timer Expired (8/0)");
        check(99, 7, &[], "unknown error (99/7)");
    }

    #[test]
    fn what_an_operator_says_is_shown_and_does_nothing() {
        let check = |data: &[u8], expected: Option<&str>| {
            let found = shutdown_text(&Notification::with(CEASE, ADMINISTRATIVE_SHUTDOWN, data));
            assert_eq!(found.as_deref(), expected);
        };
        let of = |text: &[u8]| [&[text.len() as u8][..], text].concat();
        check(&of("bis später".as_bytes()), Some("bis später"));
        check(&of(b"a\x1b[2J\n\"\\"), Some("a\\x1b[2J\\x0a\"\\\\"));
        check(&of(b"\xff\xfeok\xc3"), Some("\\xff\\xfeok\\xc3"));
        check(&of("\u{202e}txt".as_bytes()), Some("\\xe2\\x80\\xaetxt"));
        check(&of(&[b'x'; 255]), Some(&"x".repeat(255)));
        check(&[], None);
        check(&[0], None);
        check(&[200, b'x'], None);
        // What follows the text is not looked at.
        check(b"\x02okmore", Some("ok"));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let check = |text: &str, length: usize| {
            let data = shutdown_data(text);
            assert_eq!((data.len(), usize::from(data[0])), (length + 1, length));
            assert!(text.as_bytes().starts_with(&data[1..]));
        };
        check("", 0);
        check("later", 5);
        check(&"x".repeat(300), 255);
        check(&"ä".repeat(200), 254);
    }

    #[test]
    fn a_hard_reset_says_what_is_behind_it() {
        let cause = Notification::with(CEASE, ADMINISTRATIVE_SHUTDOWN, shutdown_data("bye"));
        let hard = hard_reset(&cause);
        assert_eq!((hard.code, hard.subcode), (6, 9));
        assert_eq!(hard_reset_cause(&hard), Some(cause));
        assert_eq!(hard_reset_cause(&Notification::new(6, 2)), None);
    }
}
