//! Fuzz target: the parse stage alone, against `etherparse`.
//!
//! An input is one unit of a conversation (see `frames.rs`). Where both accept the frame, they agree on family, addresses,
//! protocol, ports, offsets, length and fragment; and what the stage leaves lies within the packet, whoever accepts it.
//! Left out: that both refuse the same frames. The stage is stricter on purpose, and not everywhere.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use fastpath::burst::{Burst, Fragment, Network, Slot, Verdict};
use fastpath::flow::{FlowTable, KeyKind, mapped_address};
use fastpath::io::umem::Umem;
use fastpath::stage::parse;
use fastpath::table::{InterfaceIndex, Tables};

use super::frames::{self, unit};
use super::{Seen, Target};
use crate::decode::hex;
use crate::packet::{ICMP, ICMPV6, TCP, UDP};
use crate::plan::{OUR_MAC, Plan};

const AUTHENTICATION: u8 = 51;

pub const PARSE: Target =
    Target { name: "parse", run, seeds: frames::PACKET.seeds, tokens: frames::TOKENS, longest: 4000, rounds: 40_000 };

fn run(input: &[u8]) -> Seen {
    let Some((control, frame, _)) = unit(input) else { return Seen::refused(0) };
    let mut frame = frame.to_vec();
    static TABLES: OnceLock<Tables> = OnceLock::new();
    static FLOWS: OnceLock<Arc<FlowTable>> = OnceLock::new();
    let tables = TABLES.get_or_init(|| Plan::small().tables(1));
    if control & 8 != 0 && frame.len() >= 34 {
        if frame[0] & 1 == 0 {
            frame[..6].copy_from_slice(&OUR_MAC);
        }
        frames::repair(&mut frame, control & 16 != 0);
    }
    let mut umem = Umem::heap(2048, 4);
    let Some(packet) = umem.copy_in([frame.as_slice()]) else { return Seen::refused(1) };
    let mut burst = Burst::with_capacity();
    burst.slots.push(Slot::new(packet, InterfaceIndex(0)));
    let flows = FLOWS.get_or_init(|| FlowTable::new(64));
    parse::burst(&mut burst, &mut umem, flows, tables);
    let slot = burst.slots.pop().expect("as many as before");
    let seen = judge(&slot, &frame);
    umem.free(slot.packet);
    seen
}

fn judge(slot: &Slot, frame: &[u8]) -> Seen {
    if let Verdict::Drop(reason) = slot.verdict {
        return Seen::refused((2, reason));
    }
    assert_eq!(slot.verdict, Verdict::Forward);
    let said = || format!("{slot:?}\n{}", hex(frame));
    let shape = (
        slot.network as u8,
        slot.fragment as u8,
        slot.key.protocol,
        slot.key.kind as u8,
        slot.l4 - slot.l3.min(slot.l4),
    );
    if slot.network == Network::Arp {
        return Seen::accepted(shape);
    }
    let (l3, l4, length) = (usize::from(slot.l3), usize::from(slot.l4), slot.l3_len as usize);
    assert_eq!(slot.packet.len(), l3 + length, "not cut to its length: {}", said());
    assert!(l3 < l4 && l4 <= slot.packet.head_len() && l4 <= l3 + length, "offsets: {}", said());
    let Ok(theirs) = SlicedPacket::from_ethernet(&frame[..l3 + length]) else { return Seen::accepted((shape, false)) };
    assert_eq!(l3, 14 + 4 * theirs.vlan_ids().len(), "layer 3: {}", said());
    let (source, destination): (IpAddr, IpAddr);
    let (header_len, their_length, ttl, protocol, is_fragment);
    match &theirs.net {
        Some(NetSlice::Ipv4(packet)) => {
            let header = packet.header();
            (source, destination) = (header.source_addr().into(), header.destination_addr().into());
            header_len = header.slice().len();
            their_length = usize::from(header.total_len());
            (ttl, protocol) = (header.ttl(), header.protocol().0);
            is_fragment = header.is_fragmenting_payload();
            assert_eq!(slot.network, Network::Ipv4, "{}", said());
            if slot.fragment == Fragment::Later {
                assert_eq!(slot.fragment_offset, header.fragments_offset().value() * 8, "{}", said());
            }
        }
        Some(NetSlice::Ipv6(packet)) => {
            let header = packet.header();
            (source, destination) = (header.source_addr().into(), header.destination_addr().into());
            header_len = 40 + packet.extensions().slice().len();
            their_length = 40 + usize::from(header.payload_length());
            (ttl, protocol) = (header.hop_limit(), packet.payload().ip_number.0);
            is_fragment = packet.is_payload_fragmented();
            assert_eq!(slot.network, Network::Ipv6, "{}", said());
        }
        _ => panic!("no IP packet: {}", said()),
    }
    assert_eq!((slot.key.source, slot.key.destination), (mapped_address(source), mapped_address(destination)));
    assert_eq!((length, slot.ttl), (their_length, ttl), "{}", said());
    assert_eq!(slot.fragment != Fragment::Whole, is_fragment, "fragment: {}", said());
    if slot.fragment == Fragment::Later {
        // Behind its header there is payload, which the other decoder may take for more headers.
        assert_eq!(slot.key.kind, KeyKind::Fragment);
        return Seen::accepted((shape, true));
    }
    assert_eq!((slot.key.protocol, l4 - l3), (protocol, header_len), "{}", said());
    if slot.fragment == Fragment::First {
        return Seen::accepted((shape, true));
    }
    // The other decoder looks behind an authentication header of IPv4, too; to us it is a protocol without ports.
    if source.is_ipv4() && protocol == AUTHENTICATION {
        assert_eq!(slot.key.kind, KeyKind::Ports, "{}", said());
        return Seen::accepted((shape, true));
    }
    let ports = (slot.key.source_port, slot.key.destination_port);
    match &theirs.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!((TCP, ports), (protocol, (tcp.source_port(), tcp.destination_port())), "{}", said());
            assert_eq!(slot.tcp_flags, tcp.header_slice()[13], "{}", said());
        }
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!((UDP, ports), (protocol, (udp.source_port(), udp.destination_port())), "{}", said());
        }
        Some(TransportSlice::Icmpv4(icmp)) if source.is_ipv4() => {
            assert_eq!(protocol, ICMP);
            echo(slot, icmp.slice(), 8, 0, &said);
        }
        Some(TransportSlice::Icmpv6(icmp)) if source.is_ipv6() => {
            assert_eq!(protocol, ICMPV6);
            echo(slot, icmp.slice(), 128, 129, &said);
        }
        _ => {
            assert!(![TCP, UDP].contains(&protocol), "only we read a transport header: {}", said());
            // ICMP behind the other family's header is a protocol like any other.
            assert!(
                ![ICMP, ICMPV6].contains(&protocol) || (slot.key.kind, ports) == (KeyKind::Ports, (0, 0)),
                "{}",
                said()
            );
        }
    }
    Seen::accepted((shape, true))
}

fn echo(slot: &Slot, message: &[u8], request: u8, reply: u8, said: &dyn Fn() -> String) {
    let identifier = u16::from_be_bytes([message[4], message[5]]);
    let found = (slot.key.kind, slot.key.source_port, slot.key.destination_port);
    if message[0] == request {
        assert_eq!(found, (KeyKind::EchoRequest, identifier, 0), "{}", said());
    } else if message[0] == reply {
        assert_eq!(found, (KeyKind::EchoReply, 0, identifier), "{}", said());
    } else {
        assert_eq!(found.0, KeyKind::IcmpOther, "{}", said());
    }
}
