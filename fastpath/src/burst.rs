//! A burst: the packets of one breath, each with what the stages found out about it.
//!
//! `Slot` is the only thing that travels between stages. A stage reads and writes slots whose verdict is still
//! `Forward`; a slot that got another verdict keeps it to the end, where `tx` counts it once.

use crate::flow::{self, FlowHandle};
use crate::header::{protocol, tcp};
use crate::packet::Packet;
use crate::table::routes::Destination;
use crate::table::{AdjacencyIndex, InterfaceIndex, RuleIndex};

/// Most packets in one breath.
pub const BURST: usize = 256;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Still on its way; after the last stage: transmit it.
    Forward,
    /// Consumed; `respond` turns it into an answer.
    Respond(Answer),
    /// Control has to see it.
    Punt(PuntReason),
    Drop(DropReason),
}

/// What we answer ourselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// ARP reply for the gateway.
    Arp,
    /// Neighbour advertisement for the gateway.
    NeighbourAdvertisement,
    /// Echo reply from the gateway.
    Echo,
    TimeExceeded,
    /// No route, or a blackhole: destination unreachable.
    Unreachable,
    /// The next hop did not answer: host or address unreachable.
    HostUnreachable,
    /// Fragmentation needed, or packet too big, with the MTU that fits.
    TooBig(u16),
}

impl Answer {
    /// The drop that remains when the answer may not be sent (rate limit, or nothing may be answered).
    pub fn unanswered(self) -> DropReason {
        match self {
            Answer::Arp => DropReason::ArpNotForGateway,
            Answer::NeighbourAdvertisement => DropReason::NdNotForGateway,
            Answer::Echo => DropReason::AnswerRateLimited,
            Answer::TimeExceeded => DropReason::TtlExceeded,
            Answer::Unreachable => DropReason::NoRoute,
            Answer::HostUnreachable => DropReason::NeighbourUnresolved,
            Answer::TooBig(_) => DropReason::TooBig,
        }
    }
}

/// Why control has to see a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PuntReason {
    /// The next hop's MAC address is not known yet; control resolves it and sends the packet again.
    Resolve,
    /// A workload asks for an address; control relays the question.
    Dhcp,
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a packet was dropped: the closed list. Names are stable; they are metric labels.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)+ }

        impl DropReason {
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)+];
            /// The name under which the reason is counted and shown.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)+ }
            }
            /// One sentence for people.
            pub const fn description(self) -> &'static str {
                match self { $(DropReason::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than an Ethernet header and what it announces.
    FrameTooShort = "frame_too_short",
    /// The destination MAC address is not that of the interface.
    MacNotOurs = "mac_not_ours",
    /// The source MAC address is a group address.
    MacSourceGroup = "mac_source_group",
    /// The VLAN tags are not those of the interface, or there are more than two.
    VlanUnexpected = "vlan_unexpected",
    /// Neither IPv4, IPv6 nor ARP.
    EthertypeUnknown = "ethertype_unknown",
    /// ARP that is not Ethernet/IPv4, is cut, or lies about its sender.
    ArpMalformed = "arp_malformed",
    /// ARP that does not ask for the gateway.
    ArpNotForGateway = "arp_not_for_gateway",
    /// IPv4 header that is cut, too short or longer than the packet.
    Ipv4Malformed = "ipv4_malformed",
    /// The IPv4 header checksum is wrong.
    Ipv4Checksum = "ipv4_checksum",
    /// IPv4 source route option.
    Ipv4SourceRoute = "ipv4_source_route",
    /// IPv6 header or extension header that is cut or misplaced.
    Ipv6Malformed = "ipv6_malformed",
    /// More, or longer, IPv6 extension headers than the bound.
    Ipv6ChainTooLong = "ipv6_chain_too_long",
    /// IPv6 type 0 routing header.
    Ipv6RoutingHeader = "ipv6_routing_header",
    /// TCP, UDP, SCTP or ICMP header that is cut or contradicts the packet's length.
    TransportMalformed = "transport_malformed",
    /// TCP flags that no TCP sends.
    TcpFlags = "tcp_flags",
    /// First fragment without a whole transport header, a fragment over it, or one beyond 65,535 bytes.
    FragmentMalformed = "fragment_malformed",
    /// Non-first fragment whose first fragment was not seen or not allowed.
    FragmentWithoutFirst = "fragment_without_first",
    /// The source is no unicast address that can be routed.
    SourceMartian = "source_martian",
    /// The destination is loopback, link-local, multicast or unspecified.
    DestinationMartian = "destination_martian",
    /// The source address does not belong to the sending endpoint.
    SourceSpoofed = "source_spoofed",
    /// The interface has no endpoint: nothing says what it may do.
    EndpointUnknown = "endpoint_unknown",
    /// Router advertisement or redirect: it speaks of another link.
    RouterMessage = "router_message",
    /// Neighbour discovery that breaks RFC 4861 §7.1.
    NdMalformed = "nd_malformed",
    /// Neighbour discovery that does not ask for the gateway.
    NdNotForGateway = "nd_not_for_gateway",
    /// Packet of a known flow that came in by an interface the flow does not use.
    FlowWrongInterface = "flow_wrong_interface",
    /// The flow table has no room for a new flow.
    FlowTableFull = "flow_table_full",
    /// The endpoint has as many flows as one may have.
    FlowQuota = "flow_quota",
    /// ICMP error about a packet that no open flow sent.
    IcmpErrorUnmatched = "icmp_error_unmatched",
    /// Denied by the sender's egress policy.
    PolicyEgress = "policy_egress",
    /// Denied by the receiver's ingress policy.
    PolicyIngress = "policy_ingress",
    /// From a workload to the VXLAN port: it may not speak as a tunnel of the node.
    WorkloadVxlan = "workload_vxlan",
    /// IP in IP from a workload: it may not speak as a tunnel of the node.
    WorkloadIpip = "workload_ipip",
    /// To the host itself, denied by the ingress policy of its host endpoint.
    HostIngress = "host_ingress",
    /// From the host itself, denied by the egress policy of its host endpoint.
    HostEgress = "host_egress",
    /// Forwarded inward through a host endpoint, denied by a policy with applyOnForward.
    HostForwardIngress = "host_forward_ingress",
    /// Forwarded outward through a host endpoint, denied by a policy with applyOnForward.
    HostForwardEgress = "host_forward_egress",
    /// Denied on arrival by a host endpoint's policy with doNotTrack.
    HostUntrackedIngress = "host_untracked_ingress",
    /// From the host itself, denied by a host endpoint's policy with doNotTrack.
    HostUntrackedEgress = "host_untracked_egress",
    /// Denied on arrival by a host endpoint's policy with preDNAT.
    HostPreDnat = "host_pre_dnat",
    /// No route to the destination.
    NoRoute = "no_route",
    /// The route says to discard.
    Blackhole = "blackhole",
    /// None of the next hops that the route has is left.
    NextHopsGone = "next_hops_gone",
    /// The packet would leave by an uplink it may not be forwarded between.
    NotLocal = "not_local",
    /// From an endpoint to its own host, which the default endpoint-to-host action denies.
    EndpointToHost = "endpoint_to_host",
    /// The next hop's MAC address is not known.
    NeighbourUnresolved = "neighbour_unresolved",
    /// TTL or hop limit used up.
    TtlExceeded = "ttl_exceeded",
    /// Larger than the MTU of the way out and not to be fragmented by us.
    TooBig = "too_big",
    /// The source has to be translated and cannot be: its protocol has no ports, or the node no address there (any more).
    TranslationImpossible = "translation_impossible",
    /// Every port tried for a translated source is taken by a flow to the same destination.
    SourcePortsExhausted = "source_ports_exhausted",
    /// An answer was due but the limit on answers was reached.
    AnswerRateLimited = "answer_rate_limited",
    /// The interface to send by is gone or down.
    InterfaceDown = "interface_down",
    /// The transmit ring of the interface is full.
    TransmitRingFull = "transmit_ring_full",
    /// The ring to the worker that owns the interface is full.
    HandoffRingFull = "handoff_ring_full",
    /// The ring to control is full.
    PuntRingFull = "punt_ring_full",
    /// Control had to see it but the limit on what one interface may send there was reached.
    PuntRateLimited = "punt_rate_limited",
    /// No free frame.
    FramesExhausted = "frames_exhausted",
}

impl DropReason {
    /// True when a rule decided, whose number is in the slot.
    pub const fn is_policy(self) -> bool {
        matches!(
            self,
            Self::PolicyEgress
                | Self::PolicyIngress
                | Self::HostIngress
                | Self::HostEgress
                | Self::HostForwardIngress
                | Self::HostForwardEgress
                | Self::HostUntrackedIngress
                | Self::HostUntrackedEgress
                | Self::HostPreDnat
        )
    }
}

/// What kind of network header the packet has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Network {
    #[default]
    None,
    Arp,
    Ipv4,
    Ipv6,
}

/// Which part of a datagram the packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fragment {
    #[default]
    Whole,
    First,
    Later,
}

/// Whether a packet passes between the host's own stack and an uplink with a host endpoint. Its frame is not ours to
/// rewrite then: the kernel has made it, or will read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Passage {
    #[default]
    None,
    ToHost,
    /// By this uplink.
    FromHost(InterfaceIndex),
}

/// One packet and what is known about it.
#[derive(Debug)]
pub struct Slot {
    pub packet: Packet,
    /// The 5-tuple, complete after `parse` unless the packet is a non-first fragment or an ICMP error.
    pub key: flow::Key,
    pub hash: u64,
    pub verdict: Verdict,
    pub ingress: InterfaceIndex,
    /// The way out: set by `classify` for a known flow, by `route` otherwise.
    pub adjacency: AdjacencyIndex,
    /// The known flow, and the direction this packet travels in it. Before `classify`: found, and not believed yet.
    pub flow: Option<FlowHandle>,
    /// The flow's recorded decision is older than the tables: decide again where it may have changed.
    pub stale: bool,
    /// An address and a port change on the way: as the known flow says, or as its uplink will have it for a new one.
    pub is_translated: bool,
    /// The rule that decided: the deny rule of a drop, the last allow rule of a new flow.
    pub rule: RuleIndex,
    /// A `Log` rule matched on the way.
    pub log: RuleIndex,
    pub network: Network,
    pub fragment: Fragment,
    /// Header offsets from the start of the packet, and the length of the network packet, all within the first frame.
    pub l3: u16,
    pub l4: u16,
    pub l3_len: u32,
    pub identification: u32,
    /// Byte offset of a non-first fragment's payload in its datagram, and how much of the datagram a fragment carries.
    pub fragment_offset: u16,
    pub fragment_len: u16,
    pub tcp_flags: u8,
    pub ttl: u8,
    /// A whole packet from one to one that we route, is no error, and does not open a TCP connection: what was decided for
    /// its flow goes for it too. After `recall` also: only its way changes.
    pub is_plain: bool,
    /// Quotes another packet.
    pub is_icmp_error: bool,
    /// Sent to a group or to everybody on the link.
    pub is_group: bool,
    pub passage: Passage,
    /// Allowed by a list that keeps no state: it opens no flow.
    pub is_untracked: bool,
}

impl Slot {
    /// A slot about which nothing is known but where it came from.
    pub fn new(packet: Packet, ingress: InterfaceIndex) -> Self {
        Self {
            packet,
            key: flow::Key::default(),
            hash: 0,
            verdict: Verdict::Forward,
            ingress,
            adjacency: AdjacencyIndex::NONE,
            flow: None,
            stale: false,
            is_translated: false,
            rule: RuleIndex::NONE,
            log: RuleIndex::NONE,
            network: Network::None,
            fragment: Fragment::Whole,
            l3: 0,
            l4: 0,
            l3_len: 0,
            identification: 0,
            fragment_offset: 0,
            fragment_len: 0,
            tcp_flags: 0,
            ttl: 0,
            is_plain: false,
            is_icmp_error: false,
            is_group: false,
            passage: Passage::None,
            is_untracked: false,
        }
    }

    /// Opens a TCP connection; under the key of a known flow anew, so that policy decides as for a new one.
    #[inline]
    pub fn opens_connection(&self) -> bool {
        self.key.protocol == protocol::TCP && self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// After `classify`: an ICMP error about a packet of no flow we know, on the way from or to the host.
    pub fn is_orphan(&self) -> bool {
        self.is_icmp_error && self.flow.is_none()
    }

    pub fn drop(&mut self, reason: DropReason) {
        self.verdict = Verdict::Drop(reason);
    }

    /// Length of the transport header and payload, by the network header's word.
    pub fn l4_len(&self) -> usize {
        self.l3_len as usize - usize::from(self.l4 - self.l3)
    }
}

const _: () = assert!(size_of::<Slot>() <= 128);

/// The packets of one breath.
pub struct Burst {
    pub slots: Vec<Slot>,
    /// Positions of the slots that the recorded decision of an open flow did not settle: those between `recall` and
    /// `rewrite` look at no others.
    open: Vec<u16>,
    /// The tables' stamp at the beginning of the breath.
    pub stamp: u32,
    /// What `route` asks about at once.
    pub(crate) lookup: Lookup,
}

/// Destinations, and where they lead.
#[derive(Default)]
pub(crate) struct Lookup {
    pub(crate) destinations: Vec<Destination>,
    pub(crate) adjacencies: Vec<AdjacencyIndex>,
}

impl Burst {
    /// A burst that never allocates again.
    pub fn with_capacity() -> Self {
        let lookup = Lookup { destinations: Vec::with_capacity(BURST), adjacencies: Vec::with_capacity(BURST) };
        Self { slots: Vec::with_capacity(BURST), open: Vec::with_capacity(BURST), stamp: 0, lookup }
    }

    pub fn is_full(&self) -> bool {
        self.slots.len() >= BURST
    }

    pub fn room(&self) -> usize {
        BURST - self.slots.len()
    }

    /// The slots still on their way.
    pub fn forward(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(|slot| matches!(slot.verdict, Verdict::Forward))
    }

    /// Shows every slot, and leaves those open of which `is_open` says so.
    pub(crate) fn sort_out(&mut self, mut is_open: impl FnMut(&mut Slot) -> bool) {
        self.open.clear();
        for (position, slot) in (0..).zip(&mut self.slots) {
            if is_open(slot) {
                self.open.push(position);
            }
        }
    }

    /// The open slots, whatever their verdict.
    pub(crate) fn each_open(&mut self, mut visit: impl FnMut(&mut Slot)) {
        for position in &self.open {
            if let Some(slot) = self.slots.get_mut(usize::from(*position)) {
                visit(slot);
            }
        }
    }

    /// The open slots still on their way.
    pub(crate) fn undecided(&mut self, mut visit: impl FnMut(&mut Slot)) {
        self.each_open(|slot| {
            if slot.verdict == Verdict::Forward {
                visit(slot);
            }
        });
    }
}
