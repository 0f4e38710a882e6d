//! Fuzz targets over the whole pipeline: any frames from any side, and quotes in ICMP errors.
//!
//! An input is a conversation, one frame after the other through one router:
//!
//! ```text
//!     control 1 | length 2 | frame ..      control: sender (3 bits), repair (0x08), leave a partial checksum (0x10)
//! ```
//!
//! Repair gives the frame the MAC address of the interface and a right IPv4 header checksum, without which mutation would
//! rarely get past them. Promises:
//!
//! - no panic, and every packet is accounted for (the router and its worker assert that);
//! - what is forwarded is what came in, byte by byte, but for layer 2, TTL, header checksum and a completed checksum;
//! - it has a source that is its sender's and leaves where its destination is;
//! - an answer is right in every checksum and goes to who asked; an ICMP error quotes what was sent;
//! - nothing reaches endpoint `c`, which sends nothing and whose policy lets nothing in.

use std::net::IpAddr;

use fastpath::burst::DropReason;
use fastpath::table::interface::InterfaceKind;

use super::{Seen, Target};
use crate::decode::{Network, Transport, View, hex};
use crate::packet::{self, ACK, Packet, SYN, ToAddress};
use crate::plan::{Attachment, Net, Plan, Rules, Way};
use crate::router::{Fate, Options, Router};

pub const PACKET: Target =
    Target { name: "packet", run: packet, seeds: packet_seeds, tokens: TOKENS, longest: 6000, rounds: 3_000 };

pub const ICMP: Target =
    Target { name: "icmp", run: icmp, seeds: icmp_seeds, tokens: TOKENS, longest: 1500, rounds: 3_000 };

/// Who may send. `c` is not among them.
const SENDERS: [&str; 6] = ["a", "b", "up", "host", "tagged", "double"];
pub(super) const REPAIR: u8 = 0x08;
const PARTIAL: u8 = 0x10;
/// Frames in one conversation.
const FRAMES_MAX: usize = 8;

/// Pieces of headers: ethertypes, first bytes, addresses that can be confused, extension headers.
pub(super) const TOKENS: &[&str] = &[
    "\u{8}\0E\0",
    "\u{8}\u{6}\0\u{1}\u{8}\0\u{6}\u{4}\0\u{1}",
    "\n\0\0\u{1}",
    "\n\0\0\u{2}",
    "\n\0\0\u{3}",
    "\n\t\t\t",
    "\u{7f}\0\0\u{1}",
    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    "<\0\0\0\0\0\0\0",
    ",\0\0\0\0\0\0\u{1}",
    ",\0\0\u{1}\0\0\0\u{1}",
    "+\0\0\0\0\0\0\0",
    "3\u{1}\0\0\0\0\0\0\0\0\0\0",
    "P\u{2}",
    " \0",
    "@\0@\u{6}",
    "@\0@\u{11}",
    "@\0@\u{1}",
];

fn plan() -> Plan {
    let mut plan = Plan::small();
    plan.at_mut("c").ingress = Rules::only([]);
    let mut tagged = Attachment::shared("tagged", 6, InterfaceKind::Uplink);
    (tagged.tags, tagged.mtu) = ([100, 0], 1400);
    let mut double = Attachment::shared("double", 7, InterfaceKind::Uplink);
    double.tags = [100, 200];
    plan.attachments.extend([tagged, double]);
    for (net, name) in
        [("198.18.0.0/16", "tagged"), ("2001:2::/48", "tagged"), ("198.19.0.0/16", "double"), ("2001:3::/48", "double")]
    {
        plan.routes.push((Net::new(net), Way::Via(name.to_string())));
    }
    plan
}

fn router() -> Router {
    Router::with(plan(), Options { frames: 32, ring: 16, flows: 64, ..Options::default() })
}

fn packet(input: &[u8]) -> Seen {
    let mut router = router();
    converse(input, |control, frame| {
        let from = SENDERS[usize::from(control & 7) % SENDERS.len()];
        let frame = repaired(&router, from, control, frame);
        let fate = router.fate_of_frame(from, &frame);
        let (kind, detail) = judge(&router.plan, from, &frame, &fate);
        let is_accepted = matches!(fate, Fate::Forwarded { .. } | Fate::Answered(_) | Fate::Punted(_));
        (is_accepted, (control & 7, kind ^ detail << 2))
    })
}

/// Takes a conversation apart. `say` says of a frame whether it was accepted, and what tells its fate from others.
pub(super) fn converse(input: &[u8], mut say: impl FnMut(u8, &[u8]) -> (bool, (u8, u8))) -> Seen {
    let mut shape: Vec<(u8, u8)> = Vec::new();
    let mut is_accepted = false;
    let mut rest = input;
    while let Some((control, frame, next)) = unit(rest) {
        rest = next;
        if shape.len() == FRAMES_MAX {
            break;
        }
        let (accepted, seen) = say(control, frame);
        is_accepted |= accepted;
        shape.push(seen);
    }
    let seen = if is_accepted { Seen::accepted } else { Seen::refused };
    seen(shape)
}

/// Control byte, frame, and what follows; the last frame may be shorter than it says.
pub(super) fn unit(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [control, high, low, rest @ ..] = input else { return None };
    let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
    let (frame, rest) = rest.split_at(length);
    Some((*control, frame, rest))
}

fn repaired(router: &Router, from: &str, control: u8, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if control & REPAIR == 0 || frame.len() < 34 {
        return frame;
    }
    if frame[0] & 1 == 0 {
        frame[..6].copy_from_slice(&router.plan.at(from).mac);
    }
    repair(&mut frame, control & PARTIAL != 0);
    frame
}

/// Gives an IPv4 header its checksum, and TCP and UDP what a veth leaves there.
pub(super) fn repair(frame: &mut [u8], is_partial: bool) {
    let l3 = layer3(frame);
    let Some(header) = frame.get_mut(l3..) else { return };
    let header_len = match header.first().map(|byte| byte >> 4) {
        Some(4) => usize::from(header[0] & 15) * 4,
        Some(6) => 40,
        _ => return,
    };
    if header.len() < header_len.max(20) {
        return;
    }
    if header[0] >> 4 == 4 && header_len >= 20 {
        header[10..12].fill(0);
        let sum = packet::sum(&header[..header_len]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if let Some((at, partial)) = partial_checksum(header).filter(|_| is_partial) {
        header[at..at + 2].copy_from_slice(&partial.to_be_bytes());
    }
}

/// Of a whole TCP or UDP packet without extension headers: where its checksum is, and what a veth would leave there.
fn partial_checksum(network: &[u8]) -> Option<(usize, u16)> {
    let ip = Ip::of(network)?;
    let at = ip.header_len + if ip.protocol == packet::TCP { 16 } else { 6 };
    let is_there = ip.is_whole && matches!(ip.protocol, packet::TCP | packet::UDP) && at + 2 <= network.len();
    let covered = is_there.then(|| covered(&ip, network).len())?;
    Some((at, !packet::sum(&packet::pseudo_header(ip.source, ip.destination, ip.protocol, covered))))
}

/// An IP header read the plain way; extension headers are not followed.
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ttl_at: usize,
    header_len: usize,
    length: usize,
    is_whole: bool,
}

impl Ip {
    fn of(bytes: &[u8]) -> Option<Ip> {
        let number = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        match bytes.first()? >> 4 {
            4 if bytes.len() >= 20 => Some(Ip {
                source: <[u8; 4]>::try_from(&bytes[12..16]).ok()?.into(),
                destination: <[u8; 4]>::try_from(&bytes[16..20]).ok()?.into(),
                protocol: bytes[9],
                ttl_at: 8,
                header_len: usize::from(bytes[0] & 15) * 4,
                length: number(2),
                is_whole: number(6) & 0x3fff == 0,
            }),
            6 if bytes.len() >= 40 => Some(Ip {
                source: <[u8; 16]>::try_from(&bytes[8..24]).ok()?.into(),
                destination: <[u8; 16]>::try_from(&bytes[24..40]).ok()?.into(),
                protocol: bytes[6],
                ttl_at: 7,
                header_len: 40,
                length: 40 + number(4),
                is_whole: bytes[6] != packet::FRAGMENT,
            }),
            _ => None,
        }
    }
}

/// Where the network header begins: behind at most two tags.
fn layer3(frame: &[u8]) -> usize {
    let is_tag = |at: usize| matches!(frame.get(at - 2..at), Some([0x81, 0] | [0x88, 0xa8]));
    let tags = if !is_tag(14) { 0 } else { 1 + usize::from(is_tag(18)) };
    14 + 4 * tags
}

/// Checks what became of a frame. Returns two numbers that tell fates apart.
fn judge(plan: &Plan, from: &str, sent: &[u8], fate: &Fate) -> (u8, u8) {
    match fate {
        Fate::Dropped(reason) => (0, *reason as u8),
        Fate::NotReceived => panic!("not received: {}", hex(sent)),
        Fate::Punted(_) => {
            own_source(plan, from, sent, &sent[layer3(sent)..]);
            (1, 0)
        }
        Fate::Forwarded { on, frame } => {
            forwarded(plan, from, sent, on, frame);
            (2, plan.index(on).0 as u8)
        }
        Fate::Answered(frame) => (3, answered(plan, from, sent, frame)),
    }
}

fn forwarded(plan: &Plan, from: &str, sent: &[u8], on: &str, left: &[u8]) {
    let said = || format!("{} from {from} left by {on} as {}", hex(sent), hex(left));
    assert_ne!(on, "c", "nothing may reach c: {}", said());
    let to = plan.at(on);
    let link = crate::packet::Link { destination: to.peer_mac, source: to.mac, tags: to.tags };
    let before = &sent[layer3(sent)..];
    let Some(ip) = Ip::of(before) else { panic!("no IP packet: {}", said()) };
    own_source(plan, from, sent, before);
    let is_there = match to.kind {
        InterfaceKind::Workload => to.addresses.contains(&ip.destination),
        _ => plan.routes.iter().any(|(net, way)| net.contains(ip.destination) && *way == Way::Via(on.to_string())),
    };
    assert!(is_there, "{} is not by {on}: {}", ip.destination, said());
    assert!(ip.length <= usize::from(to.mtu), "larger than the MTU: {}", said());
    assert!(before[ip.ttl_at] > 1, "TTL used up: {}", said());

    // What should have left, but for the checksums.
    let mut expected = before[..ip.length].to_vec();
    expected[ip.ttl_at] -= 1;
    let l3 = link.frame(&[], 0).len();
    assert_eq!(left.len(), l3 + ip.length, "padding, or a piece missing: {}", said());
    let after = &left[l3..];
    if ip.source.is_ipv4() {
        assert_eq!(packet::sum(&after[..ip.header_len]), 0, "IPv4 header checksum: {}", said());
        expected[10..12].copy_from_slice(&after[10..12]);
    }
    let is_from_veth = plan.at(from).kind != InterfaceKind::Uplink;
    if let Some((at, partial)) = partial_checksum(before).filter(|_| is_from_veth)
        && expected[at..at + 2] == partial.to_be_bytes()
    {
        let covered = covered(&ip, after);
        let pseudo = packet::pseudo_header(ip.source, ip.destination, ip.protocol, covered.len());
        assert_eq!(packet::sum(&[&pseudo[..], covered].concat()), 0, "checksum not completed: {}", said());
        expected[at..at + 2].copy_from_slice(&after[at..at + 2]);
    }
    let ethertype = if ip.source.is_ipv4() { 0x0800 } else { 0x86dd };
    let expected = link.frame(&expected, ethertype);
    let tag = |frame: &[u8]| frame.get(12..l3 - 2).map(|tags| tags.iter().skip(2).step_by(4).copied().collect());
    let (wanted, found): (Option<Vec<u8>>, Option<Vec<u8>>) = (tag(&expected), tag(left));
    assert_eq!(wanted, found, "tags: {}", said());
    assert_eq!(expected[l3 - 2..], left[l3 - 2..], "changed on the way: {}", said());
    assert_eq!(expected[..12], left[..12], "MAC addresses: {}", said());
    if View::of(&link.frame(&before[..ip.length], ethertype)).is_ok_and(|view| view.faults.is_empty()) {
        View::sound(left);
    }
}

/// What a transport checksum covers: UDP has a length of its own. RFC 768.
fn covered<'a>(ip: &Ip, network: &'a [u8]) -> &'a [u8] {
    let transport = &network[ip.header_len..ip.length.clamp(ip.header_len, network.len())];
    let own = transport.get(4..6).map_or(0, |own| usize::from(own[0]) << 8 | usize::from(own[1]));
    if ip.protocol == packet::UDP { &transport[..own.min(transport.len())] } else { transport }
}

fn own_source(plan: &Plan, from: &str, sent: &[u8], network: &[u8]) {
    let from = plan.at(from);
    if from.kind == InterfaceKind::Workload {
        let ip = Ip::of(network).expect("an IP packet");
        assert!(from.addresses.contains(&ip.source), "from a spoofed source {}: {}", ip.source, hex(sent));
    }
}

fn answered(plan: &Plan, from: &str, sent: &[u8], answer: &[u8]) -> u8 {
    let said = || format!("{} from {from} answered {}", hex(sent), hex(answer));
    let view = View::of(answer).unwrap_or_else(|error| panic!("{error}: {}", said()));
    let from = plan.at(from);
    let asked = Ip::of(&sent[layer3(sent)..]);
    let is_echo = matches!(view.transport, Transport::Icmp { kind: 0 | 129, .. });
    // The checksum of an echo follows from that of the request, right or wrong.
    if !is_echo || View::of(sent).is_ok_and(|view| view.faults.is_empty()) {
        assert!(view.faults.is_empty(), "{:?}: {}", view.faults, said());
    }
    let is_to_group = view.destination_mac[0] & 1 == 1;
    assert!(is_to_group || view.destination_mac == sent[6..12], "not to who asked: {}", said());
    assert_eq!(view.source_mac, from.mac, "{}", said());
    let (Network::Ip { destination, ttl, .. }, Some(asked)) = (&view.network, asked) else { return 1 };
    let is_link_local = match destination {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    };
    let is_own = from.kind != InterfaceKind::Workload || from.addresses.contains(destination) || is_link_local;
    assert!(is_own || is_to_group, "an answer to {destination}, which is not its sender's: {}", said());
    assert!(is_to_group || *destination == asked.source, "an answer to another: {}", said());
    assert!(*ttl > 0, "{}", said());
    match view.transport {
        // Errors quote what was asked, from its start, and fit.
        Transport::Icmp { kind: kind @ (1..=3 | 11), .. } => {
            let most = if asked.source.is_ipv4() { 576 - 28 } else { 1280 - 48 };
            let whole = &sent[layer3(sent)..][..asked.length];
            assert_eq!(view.payload, whole[..whole.len().min(most)], "the quote: {}", said());
            kind
        }
        Transport::Icmp { kind, .. } => kind,
        _ => panic!("an answer of a kind that nobody gives: {}", said()),
    }
}

/// Flows from a to b that an ICMP error may be about: family and packet.
fn conversations() -> Vec<Packet> {
    let mut found = Vec::new();
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        found.push(Packet::new(a, b).tcp(4000, 80, SYN));
        found.push(Packet::new(a, b).udp(4001, 53).filled(8));
        found.push(Packet::new(a, b).echo_request(7, 1));
        found.push(Packet::new(a, b).sctp(4002, 99));
    }
    found
}

/// The input is what `b` quotes in an error to `a`, or to somebody far away: family and destination, type, code, four
/// bytes, quote. It may pass only to `a`, and only if it is about a flow of theirs. What `a` then sends with a used-up TTL is quoted by us, whatever it is.
fn icmp(input: &[u8]) -> Seen {
    let [family, kind, code, rest @ ..] = input else { return Seen::refused(0) };
    let Some((head, quote)) = rest.split_first_chunk::<4>() else { return Seen::refused(1) };
    let is_ipv4 = family & 1 == 0;
    let mut router = router();
    for packet in conversations() {
        router.fate("a", &packet).forwarded("b");
    }
    let (a, b, far) =
        if is_ipv4 { ("10.0.0.1", "10.0.0.2", "192.0.2.1") } else { ("fd00::1", "fd00::2", "2001:db8::1") };
    let to = if family & 2 == 0 { a } else { far };
    let kinds: &[u8] = if is_ipv4 { &[3, 4, 5, 11, 12] } else { &[1, 2, 3, 4, 100, 127] };
    let kind = kinds[usize::from(*kind) % kinds.len()];
    let error = Packet::new(b, to).icmp(kind, *code, *head).payload(quote);
    let frame = router.frame("b", &error);
    let fate = router.fate("b", &error);
    judge(&router.plan, "b", &frame, &fate);
    let is_passed = match &fate {
        Fate::Forwarded { on, .. } => {
            assert_eq!((on.as_str(), to), ("a", a), "told to who did not send it: {}", hex(quote));
            assert!(conversations().iter().any(|packet| is_about(quote, packet)), "about no flow: {}", hex(quote));
            true
        }
        Fate::Dropped(DropReason::IcmpErrorUnmatched | DropReason::RouterMessage) => false,
        other => panic!("an error about {} is {other}", hex(quote)),
    };
    // Any payload, quoted in turn; behind UDP, so that it is no error itself.
    let packet = Packet::new(a, b).udp(4001, 53).payload(quote).ttl(1);
    let frame = router.frame("a", &packet);
    let fate = router.fate("a", &packet);
    assert!(matches!(fate, Fate::Answered(_)), "not answered: {fate}");
    judge(&router.plan, "a", &frame, &fate);
    let seen = if is_passed { Seen::accepted } else { Seen::refused };
    seen((is_ipv4, kind, quote.get(if is_ipv4 { 9 } else { 6 }), quote.len().min(48)))
}

/// Whether a quote can be of that packet: the same ends, and the same ports somewhere behind the header.
fn is_about(quote: &[u8], packet: &Packet) -> bool {
    let sent = packet.bytes();
    let Some((quoted, flow)) = Ip::of(quote).zip(Ip::of(&sent)) else { return false };
    let ends = (quoted.source, quoted.destination) == (flow.source, flow.destination);
    let is_echo = matches!(flow.protocol, packet::ICMP | packet::ICMPV6);
    let ports = if is_echo { 4..6 } else { 0..4 };
    let ports = &sent[flow.header_len..][ports];
    let behind = quote.get(quoted.header_len..).unwrap_or_default();
    ends && behind.windows(ports.len()).any(|bytes| bytes == ports)
}

fn conversation(frames: &[(&str, u8, Vec<u8>)]) -> Vec<u8> {
    let mut input = Vec::new();
    for (from, control, frame) in frames {
        let sender = SENDERS.iter().position(|name| name == from).expect("a sender") as u8;
        input.push(sender | control);
        input.extend((frame.len() as u16).to_be_bytes());
        input.extend(frame);
    }
    input
}

fn packet_seeds() -> Vec<Vec<u8>> {
    let plan = plan();
    let frame = |from: &str, packet: &Packet| plan.at(from).link().frame(&packet.bytes(), packet.ethertype());
    let piece = |from: &str, packet: &Packet, bytes: &[u8]| plan.at(from).link().frame(bytes, packet.ethertype());
    let mut seeds = Vec::new();
    for (a, b, c, far, tagged, double, gateway) in [
        ("10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1", "198.18.0.1", "198.19.0.1", "169.254.1.1"),
        ("fd00::1", "fd00::2", "fd00::3", "2001:db8::1", "2001:2::1", "2001:3::1", "fe80::ecee:eeff:feee:eeee"),
    ] {
        let syn = Packet::new(a, b).tcp(4000, 80, SYN);
        let answer = Packet::new(b, a).tcp(80, 4000, SYN | ACK).filled(3);
        let datagram = Packet::new(a, b).udp(4000, 53).filled(64).may_fragment();
        for packet in [
            syn.clone(),
            datagram.clone(),
            datagram.clone().ttl(1),
            Packet::new(a, b).sctp(1, 2),
            Packet::new(a, b).raw(47).filled(8),
            Packet::new(a, far).tcp(1, 2, SYN).partial_checksum().filled(7),
            Packet::new(a, tagged).udp(1, 2).partial_checksum().filled(1370),
            Packet::new(a, double).udp(1, 2).filled(5),
            Packet::new(a, far).tcp(1, 2, SYN).filled(3000),
            Packet::new(a, gateway).echo_request(7, 1).filled(9),
            Packet::new(a, c).udp(1, 2),
        ] {
            seeds.push(conversation(&[("a", REPAIR, frame("a", &packet))]));
        }
        seeds.push(conversation(&[
            ("a", REPAIR, frame("a", &syn)),
            ("b", REPAIR, frame("b", &answer)),
            ("b", REPAIR, frame("b", &Packet::new(b, a).unreachable(&syn.bytes()))),
        ]));
        seeds.push(conversation(&[
            ("up", REPAIR, frame("up", &Packet::new(far, a).tcp(4000, 80, SYN))),
            ("a", REPAIR | PARTIAL, frame("a", &Packet::new(a, far).tcp(80, 4000, SYN | ACK))),
        ]));
        // By the uplink with the address of c, and a's answer to it.
        seeds.push(conversation(&[
            ("up", REPAIR, frame("up", &Packet::new(c, a).udp(1, 2))),
            ("a", REPAIR, frame("a", &Packet::new(a, c).udp(2, 1))),
        ]));
        seeds.push(conversation(&[
            ("tagged", REPAIR, frame("tagged", &Packet::new(tagged, b).udp(1, 2).filled(9))),
            ("double", REPAIR, frame("double", &Packet::new(double, b).udp(1, 2).filled(9))),
        ]));
        seeds.push(conversation(&[
            ("a", REPAIR, piece("a", &datagram, &datagram.fragment(0, 40))),
            ("a", REPAIR, piece("a", &datagram, &datagram.fragment(40, 80))),
            ("a", REPAIR, piece("a", &datagram, &datagram.fragment(8, 80))),
        ]));
    }
    let long = Packet::new("fd00::1", "fd00::2").tcp(1, 2, SYN);
    for packet in [
        long.clone().extension(packet::DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]),
        long.clone().extension(0, &[1, 4, 0, 0, 0, 0]).extension(43, &[2, 0, 0, 0, 0, 0]),
        long.clone().extension(51, &[0; 10]),
        Packet::new("10.0.0.1", "10.0.0.2").options(&[7, 7, 4, 0, 0, 0, 0, 0]),
        Packet::new("fd00::1", "ff02::1:ffee:eeee")
            .solicitation("fe80::ecee:eeff:feee:eeee".parse().expect("an address"), [2, 0, 0, 0, 0, 1]),
    ] {
        seeds.push(conversation(&[("a", REPAIR, frame("a", &packet))]));
    }
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1][..], &[0; 6], &[169, 254, 1, 1]].concat();
    seeds.push(conversation(&[("a", 0, plan.at("a").link().frame(&arp, 0x0806))]));
    seeds
}

fn icmp_seeds() -> Vec<Vec<u8>> {
    let about = |packet: &Packet| {
        let family = u8::from(packet.ethertype() != 0x0800);
        [&[family, 0, 0, 0, 0, 5, 0x78][..], &packet.bytes()].concat()
    };
    let mut seeds: Vec<Vec<u8>> = conversations().iter().map(about).collect();
    let (a, b): (IpAddr, IpAddr) = ("fd00::1".to_address(), "fd00::2".to_address());
    let behind = Packet::new(a, b).tcp(4000, 80, SYN).extension(packet::DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]);
    seeds.push(about(&behind));
    let mut elsewhere = about(&conversations()[0]);
    elsewhere[0] |= 2;
    seeds.push(elsewhere);
    seeds.push(about(&Packet::new("10.0.0.1", "10.0.0.2").tcp(4000, 80, SYN).options(&[1, 1, 1, 1])));
    seeds
}
