//! Every drop reason is reached, and every malformed input of the list in docs/TESTING.md ends in the one it should.
//!
//! `cases` matches on the reason without a wildcard: a new reason does not compile until it has a case.

use fastpath::burst::DropReason;
use fastpath::table::interface::WorkloadTunnels;
use fastpath::table::translation::Ports;
use tests::packet::{self, ACK, FIN, Packet, RST, SYN};
use tests::plan::{HostLists, Plan, Rule, Rules, Way};
use tests::router::{Fate, Options, Router};

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const A6: &str = "fd00::1";
const B6: &str = "fd00::2";
const HOST: &str = "10.9.9.9";
const GATEWAY: &str = "169.254.1.1";
const GATEWAY6: &str = "fe80::ecee:eeff:feee:eeee";
const A_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Where the headers of an untagged frame begin.
const L3: usize = 14;
const L4: usize = L3 + 20;
const L4_V6: usize = L3 + 40;

/// The routes by the uplink have several next hops, of which none is left.
fn without_next_hops(plan: &mut Plan) {
    for (_, way) in plan.routes.iter_mut().filter(|(_, way)| *way == Way::Via("up".to_string())) {
        *way = Way::Choice(Vec::new());
    }
}

/// Sources are translated, to one port.
fn translating(plan: &mut Plan) {
    *plan = Plan::translating();
    plan.ports = Ports { first: 20_000, last: 20_000 };
}

/// One way to reach a reason.
struct Case {
    what: &'static str,
    options: Options,
    change: fn(&mut Plan),
    act: Box<dyn Fn(&mut Router) -> Fate>,
}

fn case(what: &'static str, act: impl Fn(&mut Router) -> Fate + 'static) -> Case {
    Case { what, options: Options::default(), change: |_| {}, act: Box::new(act) }
}

impl Case {
    fn on(mut self, change: fn(&mut Plan)) -> Case {
        self.change = change;
        self
    }

    fn sized(mut self, options: Options) -> Case {
        self.options = options;
        self
    }
}

/// A packet from an attachment.
fn packet(what: &'static str, from: &'static str, packet: Packet) -> Case {
    case(what, move |router| router.fate(from, &packet))
}

/// A good frame from `a`, damaged.
fn damaged(what: &'static str, packet: Packet, damage: impl Fn(&mut Vec<u8>) + 'static) -> Case {
    case(what, move |router| {
        let mut frame = router.frame("a", &packet);
        damage(&mut frame);
        router.fate_of_frame("a", &frame)
    })
}

/// The same, with a right header checksum after the damage.
fn damaged_ipv4(what: &'static str, packet: Packet, damage: impl Fn(&mut Vec<u8>) + 'static) -> Case {
    damaged(what, packet, move |frame| {
        damage(frame);
        packet::repair_ipv4(&mut frame[L3..]);
    })
}

/// ARP from `a`, changed.
fn arp(what: &'static str, operation: u16, change: impl Fn(&mut Vec<u8>) + 'static) -> Case {
    case(what, move |router| {
        let gateway = GATEWAY.parse().unwrap();
        let mut arp = packet::arp(operation, A_MAC, A.parse().unwrap(), [0; 6], gateway);
        change(&mut arp);
        let frame = router.plan.at("a").link().frame(&arp, 0x0806);
        router.fate_of_frame("a", &frame)
    })
}

fn udp() -> Packet {
    Packet::new(A, B).udp(4000, 53).filled(20)
}

fn udp_to(port: u16) -> Packet {
    Packet::new(A, B).udp(4000, port)
}

fn udp6() -> Packet {
    Packet::new(A6, B6).udp(4000, 53).filled(20)
}

fn syn() -> Packet {
    Packet::new(A, B).tcp(4000, 80, SYN)
}

fn solicitation(target: &str) -> Packet {
    Packet::new(A6, GATEWAY6).solicitation(target.parse().unwrap(), A_MAC)
}

/// An open UDP flow from a to b, and what it began with.
fn open(router: &mut Router) -> Packet {
    let first = udp();
    router.fate("a", &first).forwarded("b");
    first
}

fn cases(reason: DropReason) -> Vec<Case> {
    use DropReason::*;
    match reason {
        DropReason::TranslationImpossible => {
            let esp = Packet::new(A, "192.0.2.1").raw(50).filled(8);
            vec![packet("no ports to tell answers apart by", "a", esp).on(translating)]
        }
        DropReason::SourcePortsExhausted => {
            vec![
                case("one port, and two flows to one place", |router| {
                    router.fate("a", &Packet::new(A, "192.0.2.1").udp(1, 53)).forwarded("up");
                    router.fate("a", &Packet::new(A, "192.0.2.1").udp(2, 53))
                })
                .on(translating),
            ]
        }
        FrameTooShort => vec![
            case("no byte at all", |router| router.fate_of_frame("a", &[])),
            damaged("13 bytes", udp(), |frame| frame.truncate(13)),
            case("a tag cut short", |router| {
                let mut frame = router.frame("a", &udp());
                frame[12..14].copy_from_slice(&[0x81, 0]);
                frame.truncate(17);
                router.fate_of_frame("a", &frame)
            }),
        ],
        MacNotOurs => vec![
            damaged("another station's address", udp(), |frame| frame[5] = 0x11),
            damaged("a neighbour workload's address", udp(), |frame| {
                frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
            }),
        ],
        MacSourceGroup => vec![damaged("multicast source", udp(), |frame| frame[6] |= 1)],
        VlanUnexpected => vec![
            case("a tag where there is none", |router| {
                let mut link = router.plan.at("a").link();
                link.tags = [5, 0];
                router.fate_of_frame("a", &udp().frame(&link))
            }),
            case("no tag where there is one", |router| {
                let mut link = router.plan.at("up").link();
                link.tags = [0, 0];
                router.fate_of_frame("up", &Packet::new("192.0.2.1", A).frame(&link))
            })
            .on(|plan| plan.at_mut("up").tags = [7, 0]),
            case("another tag", |router| {
                let mut link = router.plan.at("up").link();
                link.tags = [8, 0];
                router.fate_of_frame("up", &Packet::new("192.0.2.1", A).frame(&link))
            })
            .on(|plan| plan.at_mut("up").tags = [7, 0]),
            damaged("three tags", udp(), |frame| {
                let tags = [0x81, 0, 0, 1].repeat(3);
                frame.splice(12..12, tags);
            }),
            damaged("eight priority tags", udp(), |frame| {
                let tags = [0x81, 0, 0, 0].repeat(8);
                frame.splice(12..12, tags);
            }),
            case("a chained packet whose tags would change", |router| {
                let packet = Packet::new(A, "192.0.2.1").udp(1, 2).filled(4000);
                router.fate("a", &packet)
            })
            .on(|plan| {
                plan.at_mut("up").tags = [7, 0];
                plan.at_mut("up").mtu = 9000;
            }),
        ],
        EthertypeUnknown => vec![
            damaged("LLDP", udp(), |frame| frame[12..14].copy_from_slice(&[0x88, 0xcc])),
            damaged("MPLS", udp(), |frame| frame[12..14].copy_from_slice(&[0x88, 0x47])),
            damaged("LLC, a length instead of a type", udp(), |frame| frame[12..14].copy_from_slice(&[0, 46])),
        ],
        ArpMalformed => vec![
            arp("cut", 1, |arp| arp.truncate(27)),
            arp("hardware type", 1, |arp| arp[1] = 6),
            arp("address length", 1, |arp| arp[5] = 16),
            arp("an operation beyond reply", 3, |_| {}),
            arp("sender MAC that is not the frame's", 1, |arp| arp[13] = 9),
        ],
        ArpNotForGateway => vec![
            arp("somebody else's address", 1, |arp| arp[24..28].copy_from_slice(&[10, 0, 0, 2])),
            arp("a reply", 2, |_| {}),
            arp("one who claims to be the gateway", 1, |arp| arp[14..18].copy_from_slice(&[169, 254, 1, 1])),
        ],
        Ipv4Malformed => vec![
            damaged("header cut", udp(), |frame| frame.truncate(L3 + 19)),
            damaged("version 5", udp(), |frame| frame[L3] = 0x55),
            damaged_ipv4("header length of 4 words", udp(), |frame| frame[L3] = 0x44),
            damaged("header longer than the packet", udp(), |frame| {
                frame[L3] = 0x4f;
                frame.truncate(L3 + 48);
            }),
            damaged_ipv4("total length below the header's", udp(), |frame| frame[L3 + 3] = 19),
            damaged_ipv4("total length one beyond the frame", udp(), |frame| frame[L3 + 3] += 1),
            packet("option of length 0", "a", udp().options(&[7, 0, 0, 0])),
            packet("option of length 1", "a", udp().options(&[7, 1, 0, 0])),
            packet("option beyond the header", "a", udp().options(&[7, 9, 4, 0])),
        ],
        Ipv4Checksum => vec![
            damaged("one bit wrong", udp(), |frame| frame[L3 + 10] ^= 1),
            damaged("TTL changed on the way", udp(), |frame| frame[L3 + 8] -= 1),
        ],
        Ipv4SourceRoute => vec![
            packet("loose", "a", udp().options(&[131, 7, 4, 10, 0, 0, 3])),
            packet("strict, behind another option", "a", udp().options(&[1, 137, 7, 4, 10, 0, 0, 3])),
        ],
        Ipv6Malformed => vec![
            damaged("header cut", udp6(), |frame| frame.truncate(L3 + 39)),
            damaged("version 4 announced as IPv6", udp6(), |frame| frame[L3] = 0x45),
            damaged("payload length one beyond the frame", udp6(), |frame| frame[L3 + 5] += 1),
            damaged("a jumbogram", udp6(), |frame| {
                frame[L3 + 4..L3 + 7].fill(0);
            }),
            packet("extension header beyond the packet", "a", udp6().raw(60).payload(&[17, 4, 0, 0, 0, 0, 0, 0])),
            packet("extension header cut", "a", udp6().raw(60).payload(&[17, 0, 0])),
            packet("hop-by-hop not first", "a", udp6().extension(60, &[0; 6]).extension(0, &[0; 6])),
            packet(
                "two fragment headers",
                "a",
                udp6().extension(44, &[0, 1, 0, 0, 0, 9]).extension(44, &[0, 1, 0, 0, 0, 9]),
            ),
            packet(
                "authentication header beyond the packet",
                "a",
                udp6().raw(51).payload(&[17, 200, 0, 0, 0, 0, 0, 0]),
            ),
        ],
        Ipv6ChainTooLong => vec![
            packet("nine headers", "a", (0..9).fold(udp6(), |packet, _| packet.extension(60, &[0; 6]))),
            packet("two of 264 bytes", "a", udp6().extension(60, &[0; 262]).extension(60, &[0; 262])),
        ],
        Ipv6RoutingHeader => vec![packet("type 0", "a", udp6().extension(43, &[0, 1, 0, 0, 0, 0]))],
        TransportMalformed => vec![
            packet("TCP of 19 bytes", "a", udp().raw(packet::TCP).payload(&[0; 19])),
            damaged("TCP header length of 4 words", syn(), |frame| frame[L4 + 12] = 4 << 4),
            damaged("TCP header beyond the packet", syn(), |frame| frame[L4 + 12] = 6 << 4),
            packet("UDP of 7 bytes", "a", udp().raw(packet::UDP).payload(&[0; 7])),
            damaged("UDP length below 8", udp(), |frame| frame[L4 + 5] = 7),
            damaged("UDP length beyond the packet", udp(), |frame| frame[L4 + 5] += 1),
            packet("UDP over IPv6 without checksum", "a", udp6().checksum(0)),
            packet("SCTP of 11 bytes", "a", udp().raw(packet::SCTP).payload(&[0; 11])),
            packet("ICMP of 7 bytes", "a", udp().raw(packet::ICMP).payload(&[8, 0, 0, 0, 0, 0, 0])),
            packet("ICMPv6 of 7 bytes", "a", udp6().raw(packet::ICMPV6).payload(&[128, 0, 0, 0, 0, 0, 0])),
            damaged("TCP cut behind a whole IPv6 header", Packet::new(A6, B6).tcp(1, 2, SYN), |frame| {
                frame[L3 + 5] = 19;
                frame.truncate(L4_V6 + 19);
            }),
        ],
        TcpFlags => vec![
            packet("none", "a", Packet::new(A, B).tcp(1, 2, 0)),
            packet("SYN and FIN", "a", Packet::new(A, B).tcp(1, 2, SYN | FIN)),
            packet("SYN and RST", "a", Packet::new(A, B).tcp(1, 2, SYN | RST)),
            packet("all", "a", Packet::new(A6, B6).tcp(1, 2, 0xff)),
        ],
        FragmentMalformed => vec![
            case("first with half a TCP header", |router| router.fate_of_bytes("a", &syn().fragment(0, 8))),
            case("first with half a UDP header over IPv6", |router| {
                router.fate_of_bytes("a", &udp6().piece(&[0; 0], 0, true))
            }),
            case("not the last and not a multiple of 8", |router| {
                router.fate_of_bytes("a", &udp().piece(&[0; 21], 8, true))
            }),
            case("later without payload", |router| router.fate_of_bytes("a", &udp().piece(&[], 8, false))),
            case("beyond 65,535 bytes", |router| router.fate_of_bytes("a", &udp().piece(&[0; 16], 65_528, false))),
            case("over its first, IPv4", |router| {
                let whole = udp().filled(100);
                router.fate_of_bytes("a", &whole.fragment(0, 40)).forwarded("b");
                router.fate_of_bytes("a", &whole.piece(&[0; 80], 8, false))
            }),
            case("over its first, IPv6", |router| {
                let whole = udp6().filled(100);
                router.fate_of_bytes("a", &whole.fragment(0, 40)).forwarded("b");
                router.fate_of_bytes("a", &whole.piece(&[0; 80], 32, false))
            }),
        ],
        FragmentWithoutFirst => vec![
            case("IPv4", |router| router.fate_of_bytes("a", &udp().piece(&[0; 16], 64, false))),
            case("IPv6", |router| router.fate_of_bytes("a", &udp6().piece(&[0; 16], 64, true))),
            case("whose first was denied", |router| {
                let whole = udp().filled(100);
                router.fate_of_bytes("a", &whole.fragment(0, 40)).dropped(PolicyIngress);
                router.fate_of_bytes("a", &whole.fragment(40, 80))
            })
            .on(|plan| plan.at_mut("b").ingress = Rules::only([])),
        ],
        SourceMartian => vec![
            packet("loopback", "up", Packet::new("127.0.0.1", A)),
            packet("unspecified", "up", Packet::new("0.0.0.0", A)),
            packet("multicast", "a", Packet::new("224.0.0.1", B)),
            packet("broadcast", "a", Packet::new("255.255.255.255", B)),
            packet("link-local, towards a workload", "up", Packet::new("169.254.7.7", A)),
            packet("its own destination", "a", Packet::new(A, A)),
            packet("IPv6 loopback", "up", Packet::new("::1", A6)),
            packet("IPv6 unspecified", "a", Packet::new("::", B6)),
            packet("IPv6 multicast", "a", Packet::new("ff02::1", B6)),
            packet("IPv6 link-local, towards a workload", "up", Packet::new("fe80::7", A6)),
            packet("an IPv4 address in an IPv6 header", "a", udp6_between("::ffff:10.0.0.1", B6)),
            packet("to an IPv4 address in an IPv6 header", "a", udp6_between(A6, "::ffff:10.0.0.2")),
        ],
        DestinationMartian => vec![
            packet("loopback", "a", Packet::new(A, "127.0.0.1")),
            packet("multicast", "a", Packet::new(A, "224.0.0.251")),
            packet("broadcast", "a", Packet::new(A, "255.255.255.255")),
            packet("link-local that is not the gateway", "a", Packet::new(A, "169.254.169.254")),
            packet("IPv6 loopback", "a", Packet::new(A6, "::1")),
            packet("IPv6 multicast", "a", Packet::new(A6, "ff05::2")),
            packet("IPv6 link-local that is not the gateway", "a", Packet::new(A6, "fe80::1")),
            packet("the gateway, and not an echo request", "a", Packet::new(A, GATEWAY).tcp(1, 80, SYN)),
            packet("the gateway over IPv6, and not an echo request", "a", Packet::new(A6, GATEWAY6)),
            packet("the gateway's address from the uplink", "up", Packet::new("192.0.2.1", GATEWAY)),
            damaged("DHCP to the broadcast MAC address", udp(), |frame| frame[..6].fill(0xff)),
            damaged("IPv6 to a group MAC address", udp6(), |frame| {
                frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
            }),
        ],
        SourceSpoofed => vec![
            packet("another endpoint's address", "a", Packet::new("10.0.0.3", B)),
            packet("a remote address", "a", Packet::new("192.0.2.1", B)),
            packet("the node's address", "a", Packet::new("10.9.9.9", B)),
            packet("another endpoint's IPv6 address", "a", Packet::new("fd00::3", B6)),
            packet("to the gateway", "a", Packet::new("10.0.0.3", GATEWAY).echo_request(1, 1)),
            packet(
                "neighbour solicitation",
                "a",
                Packet::new("fd00::3", GATEWAY6).solicitation(GATEWAY6.parse().unwrap(), A_MAC),
            ),
        ],
        EndpointUnknown => vec![
            packet("nothing is known about it", "a", udp()).on(|plan| plan.at_mut("a").has_endpoint = false),
            arp("its ARP", 1, |_| {}).on(|plan| plan.at_mut("a").has_endpoint = false),
        ],
        RouterMessage => vec![
            packet("router advertisement", "a", Packet::new(A6, B6).icmp(134, 0, [0; 4]).ttl(255).payload(&[0; 8])),
            packet(
                "router advertisement to the gateway",
                "a",
                Packet::new(A6, GATEWAY6).icmp(134, 0, [0; 4]).ttl(255).payload(&[0; 8]),
            ),
            packet("redirect", "a", Packet::new(A6, B6).icmp(137, 0, [0; 4]).ttl(255).payload(&[0; 32])),
        ],
        NdMalformed => vec![
            packet("hop limit below 255", "a", solicitation(GATEWAY6).ttl(254)),
            packet("cut", "a", Packet::new(A6, GATEWAY6).icmp(135, 0, [0; 4]).ttl(255).payload(&[0; 15])),
            packet("multicast target", "a", solicitation("ff02::1")),
            packet("code", "a", Packet::new(A6, GATEWAY6).icmp(135, 1, [0; 4]).ttl(255).payload(&[0; 16])),
            packet(
                "option of length 0",
                "a",
                Packet::new(A6, GATEWAY6).icmp(135, 0, [0; 4]).ttl(255).payload(&{
                    let mut body = [0u8; 24];
                    body[0] = 0xfe;
                    body[1] = 0x80;
                    body[16] = 1;
                    body
                }),
            ),
            packet(
                "option beyond the packet",
                "a",
                Packet::new(A6, GATEWAY6).icmp(135, 0, [0; 4]).ttl(255).payload(&{
                    let mut body = [0u8; 24];
                    body[16..18].copy_from_slice(&[1, 2]);
                    body
                }),
            ),
        ],
        NdNotForGateway => vec![
            packet("somebody else's address", "a", solicitation(B6)),
            packet("an advertisement", "a", Packet::new(A6, B6).icmp(136, 0, [0; 4]).ttl(255).payload(&[0; 16])),
            packet("router solicitation", "a", Packet::new(A6, GATEWAY6).icmp(133, 0, [0; 4]).ttl(255)),
        ],
        FlowWrongInterface => vec![
            case("somebody else goes on with a flow", |router| {
                let first = open(router);
                // The address has a new owner now.
                router.update(move_a_to_c);
                router.fate("c", &first)
            }),
            case("the reply comes from somebody else", |router| {
                let first = Packet::new(A, "192.0.2.1").udp(4000, 53);
                router.fate("a", &first).forwarded("up");
                router.update(|plan| plan.at_mut("b").addresses.push("192.0.2.1".parse().unwrap()));
                router.fate("b", &Packet::new("192.0.2.1", A).udp(53, 4000))
            }),
            case("the way out leads to another endpoint now", |router| {
                let first = open(router);
                router.update(|plan| {
                    let address = plan.at_mut("b").addresses.remove(0);
                    plan.at_mut("c").addresses.push(address);
                });
                router.fate("a", &first)
            }),
        ],
        FlowTableFull => vec![
            case("more new flows in one breath than the table holds", |router| {
                router.observe(|router| {
                    for port in 0..60 {
                        for (from, source) in [("a", A), ("c", "10.0.0.3")] {
                            let frame = router.frame(from, &Packet::new(source, B).udp(4000 + port, 53));
                            router.send(from, &frame);
                        }
                    }
                    router.breathe();
                })
            })
            .sized(Options { flows: 64, ..Options::default() }),
        ],
        FlowQuota => vec![
            case("more new flows than one endpoint may have, while another goes on", |router| {
                router.observe(|router| {
                    for port in 0..40 {
                        let frame = router.frame("a", &Packet::new(A, B).udp(4000 + port, 53));
                        router.send("a", &frame);
                    }
                    let frame = router.frame("c", &Packet::new("10.0.0.3", B).udp(4000, 53));
                    router.send("c", &frame);
                    router.breathe();
                })
            })
            .sized(Options { quota: 1, ..Options::default() }),
        ],
        IcmpErrorUnmatched => vec![
            packet("about a packet nobody sent", "b", Packet::new(B, A).unreachable(&udp().bytes())),
            packet("over IPv6", "b", Packet::new(B6, A6).unreachable(&udp6().bytes())),
            case("to one who did not send the quoted packet", |router| {
                let first = open(router);
                router.fate("b", &Packet::new(B, "10.0.0.3").unreachable(&first.bytes()))
            }),
            case("a quote without ports", |router| {
                let first = open(router);
                router.fate("b", &Packet::new(B, A).unreachable(&first.bytes()[..24 - 1]))
            }),
            case("a quote of a later fragment", |router| {
                open(router);
                router.fate("b", &Packet::new(B, A).unreachable(&udp().piece(&[0; 16], 64, false)))
            }),
            case("about an error", |router| {
                let first = open(router);
                let error = Packet::new(A, B).unreachable(&first.bytes());
                router.fate("b", &Packet::new(B, A).unreachable(&error.bytes()))
            }),
            case("a quote of the wrong version", |router| {
                let first = open(router);
                let mut quote = first.bytes();
                quote[0] = 0x65;
                router.fate("b", &Packet::new(B, A).unreachable(&quote))
            }),
            packet("without a quote", "b", Packet::new(B, A).unreachable(&[])),
        ],
        PolicyEgress => vec![
            packet("default deny", "a", udp()).on(|plan| plan.at_mut("a").egress = Rules::only([])),
            packet("towards the uplink", "a", Packet::new(A, "192.0.2.1")).on(|plan| {
                plan.at_mut("a").egress = Rules::only([Rule::allow(packet::UDP).to_net("10.0.0.0/8")]);
            }),
            packet("towards the uplink, IPv6", "a", Packet::new(A6, "2001:db8::1")).on(|plan| {
                plan.at_mut("a").egress = Rules::only([Rule::allow(packet::UDP).to_net("fd00::/64")]);
            }),
        ],
        PolicyIngress => vec![
            packet("default deny", "a", udp()).on(|plan| plan.at_mut("b").ingress = Rules::only([])),
            packet("another port", "a", syn()).on(|plan| {
                plan.at_mut("b").ingress = Rules::only([Rule::allow(packet::TCP).to_port(81)]);
            }),
            packet("from the uplink", "up", Packet::new("192.0.2.1", A)).on(|plan| {
                plan.at_mut("a").ingress = Rules::only([Rule::allow(packet::UDP).from_net("10.0.0.0/8")]);
            }),
            packet("an ACK without a flow is judged like any first packet", "a", Packet::new(A, B).tcp(1, 80, ACK))
                .on(|plan| plan.at_mut("b").ingress = Rules::only([])),
            case("an echo request is no reply to the opposite request", |router| {
                router.fate("a", &Packet::new(A, B).echo_request(7, 1)).forwarded("b");
                router.fate("b", &Packet::new(B, A).echo_request(7, 1))
            })
            .on(|plan| plan.at_mut("a").ingress = Rules::only([])),
        ],
        WorkloadVxlan => vec![packet("to the VXLAN port", "a", udp_to(4789)).on(deny_tunnels)],
        WorkloadIpip => vec![packet("IP in IP", "a", Packet::new(A, "192.0.2.1").raw(4)).on(deny_tunnels)],
        HostIngress => vec![
            packet("to the host", "up", Packet::new("192.0.2.1", HOST).tcp(4000, 80, SYN)).on(guard),
            packet("to everybody", "up", Packet::new("192.0.2.1", "255.255.255.255").udp(68, 67)).on(guard),
        ],
        HostEgress => vec![
            case("from the host", |router| {
                router.fate_from_host("up", &Packet::new(HOST, "192.0.2.1").tcp(4000, 80, SYN))
            })
            .on(guard),
        ],
        HostForwardIngress => vec![
            packet("to a workload", "up", Packet::new("192.0.2.1", A).tcp(4000, 80, SYN)).on(guard),
            packet("to what the kernel forwards", "up", Packet::new("192.0.2.1", "172.17.0.2").udp(1, 2)).on(guard),
        ],
        HostForwardEgress => vec![
            packet("from a workload", "a", Packet::new(A, "192.0.2.1").tcp(4000, 80, SYN)).on(guard),
            case("from what the kernel forwards", |router| {
                router.fate_from_host("up", &Packet::new("172.17.0.2", "192.0.2.1").udp(1, 2))
            })
            .on(guard),
        ],
        HostUntrackedIngress => vec![
            packet("to the host", "up", Packet::new("192.0.2.1", HOST).udp(4000, 7)).on(guard),
            packet("to a workload", "up", Packet::new("192.0.2.1", A).udp(4000, 7)).on(guard),
        ],
        HostUntrackedEgress => vec![
            case("from the host", |router| router.fate_from_host("up", &Packet::new(HOST, "192.0.2.1").udp(4000, 7)))
                .on(guard),
        ],
        HostPreDnat => vec![
            packet("to the host", "up", Packet::new("192.0.2.1", HOST).udp(4000, 8)).on(guard),
            packet("to a workload", "up", Packet::new("192.0.2.1", A).udp(4000, 8)).on(guard),
        ],
        NoRoute => vec![case("a later fragment whose route is gone: no error may be sent", |router| {
            let whole = Packet::new(A, "192.0.2.1").udp(1, 2).filled(100);
            router.fate_of_bytes("a", &whole.fragment(0, 40)).forwarded("up");
            router.update(|plan| plan.routes.retain(|(_, way)| *way != Way::Via("up".to_string())));
            router.fate_of_bytes("a", &whole.fragment(40, 80))
        })],
        Blackhole => {
            vec![packet("IPv4", "a", Packet::new(A, "10.66.1.2")), packet("IPv6", "a", Packet::new(A6, "fd66::1"))]
        }
        NextHopsGone => vec![
            packet("IPv4", "a", Packet::new(A, "192.0.2.1").udp(1, 2)).on(without_next_hops),
            packet("IPv6", "a", Packet::new(A6, "2001:db8::1").udp(1, 2)).on(without_next_hops),
            case("of a flow that went by one of them", |router| {
                let packet = Packet::new(A, "192.0.2.1").udp(4000, 53);
                router.fate("a", &packet).forwarded("up");
                router.update(without_next_hops);
                router.fate("a", &packet)
            }),
        ],
        NotLocal => vec![
            packet("from uplink to uplink", "up", Packet::new("192.0.2.1", "192.0.2.2")),
            packet("IPv6", "up", Packet::new("2001:db8::1", "2001:db8::2")),
        ],
        EndpointToHost => vec![
            packet("IPv4", "a", Packet::new(A, "10.9.9.9").tcp(1, 22, SYN)),
            packet("IPv6", "a", Packet::new(A6, "fd09::9").echo_request(1, 1)),
        ],
        NeighbourUnresolved => vec![case("an error for one whose neighbour does not answer", |router| {
            let asked = Packet::new("192.0.2.1", A).udp(4000, 53);
            router.fate("up", &asked).forwarded("a");
            router.update(|plan| {
                for (_, way) in &mut plan.routes {
                    if *way == Way::Via("up".to_string()) {
                        *way = Way::Unreachable("up".to_string());
                    }
                }
            });
            router.fate("a", &Packet::new(A, "192.0.2.1").unreachable(&asked.bytes()))
        })],
        TtlExceeded => vec![case("an error that has travelled too far: no error about an error", |router| {
            let first = open(router);
            router.fate("b", &Packet::new(B, A).unreachable(&first.bytes()).ttl(1))
        })],
        TooBig => vec![
            case("a later fragment that does not fit: no error may be sent", |router| {
                let whole = Packet::new(A, "192.0.2.1").udp(1, 2).filled(1400);
                router.fate_of_bytes("a", &whole.fragment(0, 40)).forwarded("up");
                router.fate_of_bytes("a", &whole.fragment(40, 1368))
            })
            .on(|plan| plan.at_mut("up").mtu = 1280),
        ],
        AnswerRateLimited => vec![case("more than a worker may answer at once", |router| {
            for sequence in 0..101 {
                let frame = router.frame("a", &Packet::new(A, GATEWAY).echo_request(1, sequence));
                router.send("a", &frame);
            }
            // Two breaths in one moment: the queue's budget is less than the limiter's.
            router.observe(|router| (0..2).for_each(|_| router.breathe_unheard()))
        })],
        InterfaceDown => vec![
            packet("the way out is down", "a", udp()).on(|plan| plan.at_mut("b").is_up = false),
            packet("the tables do not know where it came from", "host", Packet::new("10.9.9.9", A))
                .on(|plan| plan.at_mut("host").is_known = false),
            packet("the way out is gone", "a", udp()).on(|plan| plan.at_mut("b").is_known = false),
        ],
        TransmitRingFull => vec![
            case("nobody reads at the other end", |router| {
                for port in 0..4 {
                    let frame = router.frame("a", &Packet::new(A, B).udp(port, 53));
                    router.send("a", &frame);
                    router.breathe_unheard();
                }
                router.fate("a", &Packet::new(A, B).udp(9, 53))
            })
            .sized(Options { ring: 4, ..Options::default() }),
        ],
        HandoffRingFull => vec![
            case("the other worker is busy", |router| {
                for port in 0..fastpath::handoff::RING / 1400 {
                    let frame = router.frame("a", &Packet::new(A, B).udp(port as u16, 53).filled(1400));
                    router.send("a", &frame);
                    router.breathe_one(0);
                }
                router.observe(|router| {
                    let frame = router.frame("a", &Packet::new(A, B).udp(9999, 53).filled(1400));
                    router.send("a", &frame);
                    router.breathe_one(0);
                })
            })
            .on(|plan| plan.at_mut("b").owner = 1)
            .sized(Options { workers: 2, ..Options::default() }),
        ],
        PuntRingFull => vec![case("control does not look", |router| {
            for port in 0..fastpath::worker::PUNT_DEPTH as u16 {
                let frame = router.frame("a", &Packet::new(A, "10.77.0.1").udp(port, 53));
                router.send("a", &frame);
            }
            router.breathe();
            router.breathe();
            router.fate("a", &Packet::new(A, "10.77.0.1").udp(9999, 53))
        })],
        PuntRateLimited => vec![
            case("more questions to DHCP servers than one workload may ask at once", |router| {
                let frame = router.frame("a", &Packet::new("0.0.0.0", "255.255.255.255").udp(68, 67));
                for _ in 0..11 {
                    router.send("a", &frame);
                }
                router.observe(|router| (0..2).for_each(|_| router.breathe_unheard()))
            })
            .on(|plan| plan.relays_dhcp = true),
        ],
        FramesExhausted => vec![
            case("from control, longer than all frames together", |router| {
                router.observe(|router| {
                    let frame = router.frame("a", &Packet::new(A, B).udp(1, 2).filled(5000));
                    router.inject("a", &frame);
                    router.breathe();
                })
            })
            .sized(Options { frames: 2, ..Options::default() }),
        ],
    }
}

/// An IPv6 packet between addresses of which one is an IPv4 address in mapped form.
fn udp6_between(source: &str, destination: &str) -> Packet {
    Packet::new(source.parse::<std::net::Ipv6Addr>().unwrap(), destination.parse::<std::net::Ipv6Addr>().unwrap())
}

/// A host endpoint that lets nothing through, and denies UDP 7 without state and UDP 8 before it is routed.
fn guard(plan: &mut Plan) {
    let deny = |port| Rule { deny: true, ..Rule::allow(packet::UDP).to_port(port) };
    plan.at_mut("up").host = Some(HostLists {
        untracked_ingress: Some(vec![deny(7)]),
        untracked_egress: Some(vec![deny(7)]),
        pre_dnat: Some(vec![deny(8)]),
        forward_ingress: Some(Rules::only([])),
        forward_egress: Some(Rules::only([])),
        ingress: Rules::only([]),
        egress: Rules::only([]),
    });
}

fn deny_tunnels(plan: &mut Plan) {
    plan.workload_tunnels = WorkloadTunnels { vxlan_port: Some(4789), is_ipip_denied: true };
}

fn move_a_to_c(plan: &mut Plan) {
    let addresses = std::mem::take(&mut plan.at_mut("a").addresses);
    plan.at_mut("c").addresses.extend(addresses);
}

#[test]
fn every_reason_is_reached_by_every_case() {
    let mut failures = Vec::new();
    for reason in DropReason::ALL {
        let cases = cases(*reason);
        assert!(!cases.is_empty(), "{} has no case", reason.name());
        for case in cases {
            let mut plan = Plan::small();
            (case.change)(&mut plan);
            let mut router = Router::with(plan, case.options);
            let fate = (case.act)(&mut router);
            if fate != Fate::Dropped(*reason) {
                failures.push(format!("{}: {}: {fate}", reason.name(), case.what));
            }
        }
    }
    assert!(failures.is_empty(), "{} cases ended elsewhere:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_drop_is_counted_once_for_worker_interface_and_rule() {
    let mut router = Router::small(|plan| plan.at_mut("b").ingress = Rules::only([]));
    for _ in 0..3 {
        router.fate("a", &udp()).dropped(DropReason::PolicyIngress);
    }
    assert_eq!(router.dropped(DropReason::PolicyIngress), 3);
    let remote = router.remote(0);
    let by_interface = remote.counters.interface(router.plan.index("a"));
    assert_eq!(by_interface.dropped[DropReason::PolicyIngress as usize].get(), 3);
    let record = remote.records.pop().expect("a drop leaves a record");
    assert_eq!(record.reason, Some(DropReason::PolicyIngress));
    assert_eq!(remote.counters.rule(record.rule).get(), 3);
}

#[test]
fn names_are_distinct_and_described() {
    let names: std::collections::BTreeSet<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), DropReason::ALL.len());
    for reason in DropReason::ALL {
        assert!(reason.description().ends_with('.'), "{}: {}", reason.name(), reason.description());
    }
}
