//! Fuzz target: what DHCP clients and servers may send to the relay, one after the other.
//!
//! An input is a row of events: a byte that says what, a length, and so many bytes. Those are a whole frame of a client, a
//! message in a right frame, or a server's datagram. What has to be right to get further is put right in most of them: the
//! hardware address, that no relay was there, and the number of the question.
//!
//! Whatever comes: what is relayed is read by us again and says the same but for `hops`, `giaddr` and option 82; it is no longer
//! than a packet; it goes to the interface of who has asked; and what is remembered is bounded.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use config::net::MacAddress;
use control::dhcp::RelayState;
use control::dhcp::count::Refusal;
use control::dhcp::frame::{self, Destination, EVERYBODY};
use control::dhcp::message::{MESSAGE_MAX, Message};
use control::dhcp::relay::{Client, Relay};
use control::host::LinkIndex;
use etherparse::{SlicedPacket, TransportSlice};

use super::{Seen, Target};

pub const DHCP: Target = Target {
    name: "dhcp",
    run,
    seeds,
    tokens: &["c\u{2}Sc", "5\u{1}\u{1}", "5\u{1}\u{2}", "5\u{1}\u{5}", "R\u{7}\u{1}\u{5}cali1"],
    longest: 2048,
    rounds: 60_000,
};

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const CIRCUIT: &str = "cali1";
/// Events of one input.
const EVENTS_MAX: usize = 24;

fn run(input: &[u8]) -> Seen {
    let mut state = RelayState { servers: vec![SERVER], own_address: OWN, link_selection: None };
    let client = Client { interface: CIRCUIT.to_owned(), link: LinkIndex(7), mac: MAC };
    let (mut relay, mut now) = (Relay::default(), Instant::now());
    let (mut rest, mut asked, mut answered, mut refused) = (input, 0, 0, None);
    for _ in 0..EVENTS_MAX {
        let [what, length, more @ ..] = rest else { break };
        let (bytes, after) = more.split_at((usize::from(*length) * 2).min(more.len()));
        rest = after;
        now += Duration::from_secs(u64::from(what >> 3));
        state.link_selection = (what & 4 != 0).then_some(Ipv4Addr::new(10, 77, 0, 1));
        let mut bytes = bytes.to_vec();
        let outcome = match what & 3 {
            0 => ask(&mut relay, &state, &client, &bytes, now).map(|()| asked += 1),
            1 => {
                mend(&mut bytes, 1, Ipv4Addr::UNSPECIFIED);
                ask(&mut relay, &state, &client, &wrapped(&bytes), now).map(|()| asked += 1)
            }
            kind => {
                if kind == 2 {
                    mend(&mut bytes, 2, OWN);
                }
                answer(&mut relay, &state, &bytes, now).map(|()| answered += 1)
            }
        };
        refused = refused.max(outcome.err());
        assert!(relay.waiting() <= 16, "one interface has {} questions", relay.waiting());
    }
    let shape = (asked.min(3), answered.min(3), refused);
    if asked + answered == 0 { Seen::refused(shape) } else { Seen::accepted(shape) }
}

fn ask(relay: &mut Relay, state: &RelayState, client: &Client, frame: &[u8], now: Instant) -> Result<(), Refusal> {
    let datagram = relay.ask(state, client, frame, now)?;
    let (_, question) = frame::read(frame).expect("it was read once");
    let (before, relayed) = (read(question), read(&datagram));
    same(&before, &relayed);
    assert_eq!((relayed.giaddr(), relayed.hops()), (OWN, before.hops() + 1));
    assert_eq!(relayed.circuit_id(), Some(CIRCUIT.as_bytes()));
    assert!((300..=MESSAGE_MAX).contains(&datagram.len()) && datagram.len() >= question.len());
    // Without the option: what the client has said, to its last option.
    let plain = relayed.without_relay_option();
    let end = question.iter().rposition(|octet| *octet != 0).map_or(0, |at| at + 1).min(plain.len());
    let differs = |at: &usize| !(24..28).contains(at) && *at != 3 && question[*at] != plain[*at];
    let first = (0..end).find(differs);
    // Behind the end of its options nothing is kept.
    assert!(first.is_none_or(|at| question[240..at].contains(&255)), "octet {first:?} was changed");
    Ok(())
}

fn answer(relay: &mut Relay, state: &RelayState, datagram: &[u8], now: Instant) -> Result<(), Refusal> {
    let answer = relay.answer(state, SERVER, datagram, now)?;
    assert_eq!(answer.link, LinkIndex(7));
    let packet = SlicedPacket::from_ethernet(&answer.frame).expect("a frame of ours");
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP: {:02x?}", answer.frame) };
    let (before, relayed) = (read(datagram), read(udp.payload()));
    same(&before, &relayed);
    assert_eq!((relayed.giaddr(), relayed.has_relay_option()), (OWN, false));
    assert!([MAC.0, [0xff; 6]].iter().any(|mac| answer.frame.starts_with(mac)));
    assert!(!before.wants_broadcast() || answer.frame.starts_with(&[0xff; 6]));
    Ok(())
}

fn read(message: &[u8]) -> Message {
    Message::read(message).unwrap_or_else(|why| panic!("{}: {message:02x?}", why.name()))
}

fn same(before: &Message, after: &Message) {
    let of = |message: &Message| (message.kind(), message.xid(), message.chaddr(), message.ciaddr(), message.yiaddr());
    assert_eq!(of(before), of(after));
}

fn mend(message: &mut [u8], op: u8, giaddr: Ipv4Addr) {
    if let Some(fixed) = message.get_mut(..34) {
        fixed[..3].copy_from_slice(&[op, 1, 6]);
        fixed[4..8].copy_from_slice(&[0, 0, 0, 9]);
        fixed[24..28].copy_from_slice(&giaddr.octets());
        fixed[28..34].copy_from_slice(&MAC.0);
    }
}

/// As a client sends it.
fn wrapped(message: &[u8]) -> Vec<u8> {
    let mut frame = frame::write(message, Ipv4Addr::UNSPECIFIED, EVERYBODY).expect("short");
    frame[6..12].copy_from_slice(&MAC.0);
    frame[34..38].copy_from_slice(&[0, 68, 0, 67]);
    frame
}

/// A lease and its end; an answer that nobody waits for; a frame as it is; options that repeat, and ones that do not end.
fn seeds() -> Vec<Vec<u8>> {
    let message = |kind: u8, options: &[u8]| {
        let mut bytes = vec![0; 236];
        mend(&mut bytes, 1, Ipv4Addr::UNSPECIFIED);
        bytes.extend([99, 130, 83, 99, 53, 1, kind]);
        bytes.extend(options);
        bytes.push(255);
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        bytes
    };
    let event = |what: u8, bytes: &[u8]| [&[what, (bytes.len() / 2) as u8], bytes].concat();
    let own = [82, 7, 1, 5, b'c', b'a', b'l', b'i', b'1'];
    let mut whole = wrapped(&message(1, &[12, 1, b'h']));
    whole.resize(whole.len().next_multiple_of(2), 0);
    let to = Destination { mac: MAC, address: OWN };
    vec![
        [
            event(1, &message(1, &[])),
            event(2, &message(2, &own)),
            event(5, &message(3, &[])),
            event(2, &message(5, &own)),
        ]
        .concat(),
        [event(1, &message(7, &[])), event(2, &message(5, &[]))].concat(),
        [event(0, &whole), event(2, &message(6, &[]))].concat(),
        [event(1, &message(3, &[55, 2, 1, 3, 55, 1, 6, 0, 0])), event(2 | 20 << 3, &message(5, &own))].concat(),
        event(1, &message(8, &[12, 200, 1])),
        event(1, &message(1, &own)),
        event(0, &frame::write(&message(2, &[]), OWN, to).expect("short")),
    ]
}
