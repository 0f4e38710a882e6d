//! What is relayed, to whom, and what is refused; judged by a codec that is not ours.

#![allow(clippy::unwrap_used)]

use dhcproto::v4::relay::{RelayCode, RelayInfo};
use dhcproto::v4::{self, DhcpOption, Flags, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const LINK: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const LEASED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

fn state() -> RelayState {
    RelayState { servers: vec![SERVER], own_address: OWN, link_selection: Some(LINK) }
}

fn client(number: u32) -> Client {
    Client { interface: format!("cali{number}"), link: LinkIndex(number), mac: MAC }
}

fn message(kind: MessageType) -> v4::Message {
    let mut message = v4::Message::new_with_id(
        7,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        &MAC.0,
    );
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

fn frame_of(message: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(MAC.0, [0xff; 6]).ipv4([0; 4], [255; 4], 16).udp(68, 67);
    let mut frame = Vec::new();
    builder.write(&mut frame, message).unwrap();
    frame
}

/// What the servers get, as they read it.
fn asked(relay: &mut Relay, question: &v4::Message, now: Instant) -> Result<v4::Message, Refusal> {
    let datagram = relay.ask(&state(), &client(1), &frame_of(&question.to_vec().unwrap()), now)?;
    Ok(v4::Message::from_bytes(&datagram).unwrap())
}

/// A server's answer to what it has been asked.
fn reply(asked: &v4::Message, kind: MessageType, yiaddr: Ipv4Addr) -> v4::Message {
    let mut reply = asked.clone();
    reply.set_opcode(Opcode::BootReply).set_hops(0).set_yiaddr(yiaddr);
    reply.opts_mut().insert(DhcpOption::MessageType(kind));
    reply
}

/// Where the frame goes, by MAC and IPv4 address, and the message in it; all checksums have to be right.
fn answered(answer: &Answer) -> (MacAddress, Ipv4Addr, v4::Message) {
    let packet = SlicedPacket::from_ethernet(&answer.frame).unwrap();
    let Some(etherparse::LinkSlice::Ethernet2(link)) = packet.link else { panic!("no Ethernet") };
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (&packet.net, &packet.transport) else {
        panic!("no UDP in IPv4")
    };
    let header = ip.header().to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum);
    let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
    assert_eq!(sum, udp.checksum());
    assert_eq!((udp.source_port(), udp.destination_port()), (67, 68));
    assert_eq!((link.source(), ip.header().source_addr()), (crate::host::GATEWAY_MAC.0, OWN));
    let message = v4::Message::from_bytes(udp.payload()).unwrap();
    (MacAddress(link.destination()), ip.header().destination_addr(), message)
}

#[test]
fn a_question_goes_to_the_servers_and_the_answer_comes_back() {
    let (mut relay, now) = (Relay::default(), Instant::now());
    let question = asked(&mut relay, &message(MessageType::Discover), now).unwrap();
    assert_eq!((question.giaddr(), question.hops(), question.xid()), (OWN, 1, 7));
    let Some(DhcpOption::RelayAgentInformation(option)) = question.opts().get(OptionCode::RelayAgentInformation) else {
        panic!("no option 82: {question:?}")
    };
    assert_eq!(option.get(RelayCode::AgentCircuitId), Some(&RelayInfo::AgentCircuitId(b"cali1".to_vec())));
    assert_eq!(option.get(RelayCode::LinkSelection), Some(&RelayInfo::LinkSelection(LINK)));
    let offer = reply(&question, MessageType::Offer, LEASED).to_vec().unwrap();
    let answer = relay.answer(&state(), SERVER, &offer, now).unwrap();
    assert_eq!(answer.link, LinkIndex(1));
    let (mac, address, message) = answered(&answer);
    assert_eq!((mac, address), (MAC, LEASED));
    assert_eq!(message.opts().get(OptionCode::RelayAgentInformation), None);
    assert_eq!((message.yiaddr(), message.xid(), message.giaddr()), (LEASED, 7, OWN));
    assert!(offer.len() < 300 && answer.frame.len() == 14 + 20 + 8 + 300, "padded as BOOTP wants it");
}

/// RFC 2131 §4.1: by what the client has said it can hear.
#[test]
fn an_answer_is_sent_as_the_client_can_hear_it() {
    let check = |is_broadcast: bool, yiaddr: Ipv4Addr, ciaddr: Ipv4Addr, mac: MacAddress, address: Ipv4Addr| {
        let (mut relay, now) = (Relay::default(), Instant::now());
        let mut question = message(MessageType::Request);
        question.set_ciaddr(ciaddr);
        if is_broadcast {
            question.set_flags(Flags::default().set_broadcast());
        }
        let question = asked(&mut relay, &question, now).unwrap();
        let reply = reply(&question, MessageType::Ack, yiaddr).to_vec().unwrap();
        let (found_mac, found_address, _) = answered(&relay.answer(&state(), SERVER, &reply, now).unwrap());
        assert_eq!((found_mac, found_address), (mac, address));
    };
    let (nobody, everybody, all) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, MacAddress([0xff; 6]));
    check(false, LEASED, nobody, MAC, LEASED);
    check(true, LEASED, nobody, all, everybody);
    check(false, LEASED, LEASED, MAC, LEASED);
    check(false, nobody, LEASED, MAC, LEASED);
    check(false, nobody, nobody, all, everybody);
}

#[test]
fn who_asks_wrongly_is_refused() {
    let check = |expected: Refusal, change: fn(&mut v4::Message)| {
        let mut question = message(MessageType::Discover);
        change(&mut question);
        assert_eq!(asked(&mut Relay::default(), &question, Instant::now()).unwrap_err(), expected);
    };
    check(Refusal::ClientSpoofed, |message| {
        message.set_chaddr(&[2, 0, 0, 0, 0, 2]);
    });
    check(Refusal::RelayedAlready, |message| {
        message.set_giaddr(OWN);
    });
    check(Refusal::RelayedAlready, |message| {
        let mut option = v4::relay::RelayAgentInformation::default();
        option.insert(RelayInfo::AgentRemoteId(vec![7]));
        message.opts_mut().insert(DhcpOption::RelayAgentInformation(option));
    });
    check(Refusal::TooManyHops, |message| {
        message.set_hops(16);
    });
    check(Refusal::TooManyHops, |message| {
        message.set_hops(255);
    });
    check(Refusal::WrongDirection, |message| {
        message.set_opcode(Opcode::BootReply);
    });
    check(Refusal::WrongDirection, |message| {
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::Ack));
    });
    check(Refusal::WrongDirection, |message| {
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::LeaseQuery));
    });
    check(Refusal::HardwareType, |message| {
        message.set_htype(v4::HType::IEEE802);
    });
    check(Refusal::Malformed, |message| drop(message.opts_mut().remove(OptionCode::MessageType)));
    check(Refusal::TooLong, |message| {
        let long = v4::UnknownOption::new(OptionCode::from(224), vec![7; 1300]);
        message.opts_mut().insert(DhcpOption::Unknown(long));
    });
    let mut relay = Relay::default();
    let whole = frame_of(&message(MessageType::Discover).to_vec().unwrap());
    for length in 0..whole.len() {
        assert!(relay.ask(&state(), &client(1), &whole[..length], Instant::now()).is_err(), "{length}");
    }
    // The frame has another sender than the message.
    let mut spoofed = whole.clone();
    spoofed[11] ^= 1;
    let refused = relay.ask(&state(), &client(1), &spoofed, Instant::now());
    assert_eq!(refused, Err(Refusal::ClientSpoofed));
    // A workload as a server.
    let mut server = whole;
    server[34..38].copy_from_slice(&[0, 67, 0, 68]);
    assert_eq!(relay.ask(&state(), &client(1), &server, Instant::now()), Err(Refusal::Malformed));
    assert_eq!(relay.waiting(), 0);
}

#[test]
fn who_answers_wrongly_is_refused() {
    let (mut relay, now) = (Relay::default(), Instant::now());
    let question = asked(&mut relay, &message(MessageType::Discover), now).unwrap();
    let mut check = |expected: Refusal, from: Ipv4Addr, after: Duration, change: &dyn Fn(&mut v4::Message)| {
        let mut offer = reply(&question, MessageType::Offer, LEASED);
        change(&mut offer);
        let bytes = offer.to_vec().unwrap();
        assert_eq!(relay.answer(&state(), from, &bytes, now + after), Err(expected));
    };
    check(Refusal::ServerUnknown, LEASED, Duration::ZERO, &|_| {});
    check(Refusal::QuestionUnknown, SERVER, PATIENCE, &|_| {});
    check(Refusal::QuestionUnknown, SERVER, Duration::ZERO, &|message| {
        message.set_xid(8);
    });
    check(Refusal::QuestionUnknown, SERVER, Duration::ZERO, &|message| {
        message.set_chaddr(&[2, 0, 0, 0, 0, 2]);
    });
    check(Refusal::OtherRelay, SERVER, Duration::ZERO, &|message| {
        message.set_giaddr(LEASED);
    });
    check(Refusal::WrongDirection, SERVER, Duration::ZERO, &|message| {
        message.set_opcode(Opcode::BootRequest);
    });
    check(Refusal::QuestionUnknown, SERVER, Duration::ZERO, &|message| {
        let mut option = v4::relay::RelayAgentInformation::default();
        option.insert(RelayInfo::AgentCircuitId(b"cali2".to_vec()));
        message.opts_mut().insert(DhcpOption::RelayAgentInformation(option));
    });
    // A server that does not say the option again is one all the same.
    let mut plain = reply(&question, MessageType::Offer, LEASED);
    plain.opts_mut().remove(OptionCode::RelayAgentInformation);
    assert!(relay.answer(&state(), SERVER, &plain.to_vec().unwrap(), now).is_ok());
}

/// A release is answered by nobody, and nothing is remembered of it.
#[test]
fn what_is_remembered_is_bounded() {
    let (mut relay, now) = (Relay::default(), Instant::now());
    let mut ask = |number: u32, xid: u32, at: Instant, kind: MessageType| {
        let mut question = message(kind);
        question.set_xid(xid);
        let asked = relay.ask(&state(), &client(number), &frame_of(&question.to_vec().unwrap()), at);
        (asked.err(), relay.waiting())
    };
    assert_eq!(ask(1, 1, now, MessageType::Release), (None, 0));
    assert_eq!(ask(1, 1, now, MessageType::Decline), (None, 0));
    for xid in 0..100 {
        let expected = (xid as usize + 1).min(PER_INTERFACE);
        assert_eq!(ask(1, xid, now, MessageType::Discover), (None, expected));
    }
    // The youngest of them, once more, and by somebody else.
    assert_eq!(ask(1, 99, now, MessageType::Request), (None, PER_INTERFACE));
    assert_eq!(ask(2, 99, now, MessageType::Discover), (Some(Refusal::QuestionTaken), PER_INTERFACE));
    assert_eq!(ask(2, 99, now + PATIENCE, MessageType::Discover), (None, 1));
    for number in 0..QUESTIONS as u32 {
        ask(number, 1000 + number, now + PATIENCE, MessageType::Discover);
    }
    assert_eq!(ask(9999, 5, now + PATIENCE, MessageType::Discover), (Some(Refusal::QuestionsFull), QUESTIONS));
    assert_eq!(ask(9999, 5, now + 2 * PATIENCE, MessageType::Discover), (None, 1));
}

/// Options as anybody may write them, in any order, and twice; none of ours.
fn options() -> impl Strategy<Value = Vec<u8>> {
    let code = (1u8..255).prop_filter("has a meaning here", |code| ![53, 82].contains(code));
    let option = (code, prop::collection::vec(any::<u8>(), 0..40), 0usize..3);
    prop::collection::vec(option, 0..12).prop_map(|all| {
        let mut bytes = Vec::new();
        for (code, value, pads) in all {
            bytes.extend([code, value.len() as u8]);
            bytes.extend(value);
            bytes.extend(vec![0; pads]);
        }
        bytes
    })
}

proptest! {
    /// Octet by octet, but for what a relay may change.
    #[test]
    fn whatever_is_relayed_is_otherwise_the_same(
        fixed in prop::collection::vec(any::<u8>(), 236),
        before in options(),
        after in options(),
        padding in 0usize..100,
        has_link: bool,
    ) {
        let mut question = fixed;
        question[..4].copy_from_slice(&[1, 1, 6, 3]);
        question[24..28].fill(0);
        question[28..34].copy_from_slice(&MAC.0);
        question.extend([99, 130, 83, 99]);
        let options = [before, vec![53, 1, 1], after].concat();
        question.extend(&options);
        question.push(255);
        question.resize(question.len() + padding, 0);
        let state = RelayState { link_selection: has_link.then_some(LINK), ..state() };
        let (mut relay, now) = (Relay::default(), Instant::now());
        let asked = relay.ask(&state, &client(1), &frame_of(&question), now).unwrap();
        let mut expected = question.clone();
        expected[3] += 1;
        expected[24..28].copy_from_slice(&OWN.octets());
        let end = 240 + options.len();
        prop_assert_eq!(&asked[..end], &expected[..end]);
        let own: &[u8] = if has_link { &[82, 13, 1, 5, b'c', b'a', b'l', b'i', b'1', 5, 4, 10, 77, 0, 1, 255] }
            else { &[82, 7, 1, 5, b'c', b'a', b'l', b'i', b'1', 255] };
        prop_assert_eq!(&asked[end..end + own.len()], own);
        prop_assert!(asked[end + own.len()..].iter().all(|octet| *octet == 0));
        prop_assert!(asked.len() >= question.len().max(300));
        // And back: the answer has what the question has, and the option is gone.
        let mut reply = asked.clone();
        reply[0] = 2;
        reply[end - (options.len() - options.windows(3).position(|three| three == [53, 1, 1]).unwrap()) + 2] = 2;
        if let Ok(Answer { frame, .. }) = relay.answer(&state, SERVER, &reply, now) {
            let message = &frame[42..];
            prop_assert_eq!(&message[..end], &reply[..end]);
            prop_assert_eq!(message[end], 255);
            prop_assert!(message[end + 1..].iter().all(|octet| *octet == 0) && message.len() >= 300);
        }
    }
}
