//! Which lists of rules are asked about a packet, and in which order: said once, for the stage and for who only talks of it.
//!
//! ```text
//!   uplink ─▶ untracked ─▶ preDNAT ─┬▶ forward ─▶ ingress of the workload ─▶ workload
//!                                   ├▶ forward ─▶ kernel, for somebody else
//!                                   └▶ ingress of the host endpoint ─▶ host
//!   workload ─▶ tunnels ─▶ egress of the workload ─┬▶ ingress of the next workload
//!                                                  ├▶ forward ─▶ uplink
//!                                                  └▶ host
//!   host ─▶ untracked ─▶ egress of the host endpoint ─▶ uplink
//!   kernel, for somebody else ─▶ forward ─▶ uplink
//! ```
//!
//! Pure: who asks brings the packet and its ends, and says what each list answered. Untracked and preDNAT lists see the
//! packet as it was before its destination was translated; here nothing translates, so both are the same to the stage.
//! Sources: Calico's documentation of host endpoints and of failsafe ports.

use std::ops::ControlFlow;

use crate::burst::DropReason;
use crate::flow::{MAPPED_PREFIX, mapped};
use crate::header::protocol;
use crate::table::acl::{Outcome, Question};
use crate::table::interface::{Endpoint, HostEndpoint};
use crate::table::{ProgramIndex, Tables};

/// A list of rules, by its place on the way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum List {
    UntrackedIngress,
    PreDnat,
    ForwardIngress,
    HostIngress,
    WorkloadEgress,
    WorkloadIngress,
    UntrackedEgress,
    HostEgress,
    ForwardEgress,
}

impl List {
    pub const ALL: [List; 9] = [
        List::UntrackedIngress,
        List::PreDnat,
        List::ForwardIngress,
        List::HostIngress,
        List::WorkloadEgress,
        List::WorkloadIngress,
        List::UntrackedEgress,
        List::HostEgress,
        List::ForwardEgress,
    ];

    /// What a packet is dropped as that the list denies.
    pub const fn drop_reason(self) -> DropReason {
        match self {
            List::UntrackedIngress => DropReason::HostUntrackedIngress,
            List::PreDnat => DropReason::HostPreDnat,
            List::ForwardIngress => DropReason::HostForwardIngress,
            List::HostIngress => DropReason::HostIngress,
            List::WorkloadEgress => DropReason::PolicyEgress,
            List::WorkloadIngress => DropReason::PolicyIngress,
            List::UntrackedEgress => DropReason::HostUntrackedEgress,
            List::HostEgress => DropReason::HostEgress,
            List::ForwardEgress => DropReason::HostForwardEgress,
        }
    }

    /// True when a packet that the list answers so goes no further. Lists of workloads and of the host itself have to
    /// allow; the others may deny.
    pub fn stops_at(self, outcome: Outcome) -> bool {
        let has_to_allow =
            matches!(self, List::WorkloadEgress | List::WorkloadIngress | List::HostIngress | List::HostEgress);
        outcome == Outcome::Deny || (has_to_allow && outcome != Outcome::Allow)
    }

    /// True for what is asked before destinations are translated.
    pub const fn is_before_translation(self) -> bool {
        matches!(self, List::UntrackedIngress | List::UntrackedEgress | List::PreDnat)
    }

    /// True for what is enforced on packets that come in or go to whoever it is about.
    pub const fn is_ingress(self) -> bool {
        matches!(
            self,
            List::UntrackedIngress | List::PreDnat | List::ForwardIngress | List::HostIngress | List::WorkloadIngress
        )
    }

    /// True for what is asked where the packet comes from; the rest is asked where it goes.
    pub const fn is_at_the_start(self) -> bool {
        self.is_ingress() == self.is_of_host_endpoint()
    }

    /// True for the lists of host endpoints.
    pub const fn is_of_host_endpoint(self) -> bool {
        !matches!(self, List::WorkloadEgress | List::WorkloadIngress)
    }
}

/// Where a packet comes from or goes to. An interface without an endpoint has no list.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    Workload(Option<&'a Endpoint>),
    Uplink(Option<&'a HostEndpoint>),
    /// The host's own processes.
    Host,
    /// The host's kernel, that forwards for somebody else.
    Kernel,
}

/// A packet that travels.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    pub from: End<'a>,
    pub to: End<'a>,
    /// The packet before its destination was translated, and after.
    pub before: &'a Question,
    pub packet: &'a Question,
}

/// One thing that happens to a packet on its way.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// The list is asked.
    Ask(List, ProgramIndex),
    /// The list is there and is not asked: it is about a port that is never closed.
    Open(List),
    /// No list is asked any more: workloads may not speak as the node's tunnels.
    Refuse(DropReason),
}

/// All of a first packet's way. `visit` says what came of each step; the way ends where a list stops it.
pub fn walk(way: &Way<'_>, tables: &Tables, mut visit: impl FnMut(Step) -> Outcome) {
    if let Some(step) = untracked(way, tables) {
        let outcome = visit(step);
        if matches!(step, Step::Ask(list, _) if list.stops_at(outcome) || (outcome == Outcome::Allow && way.passes_the_stack()))
        {
            return;
        }
    }
    let _ended = tracked(way, tables, |step| {
        let outcome = visit(step);
        match step {
            Step::Ask(list, _) if list.stops_at(outcome) => ControlFlow::Break(()),
            Step::Refuse(_) => ControlFlow::Break(()),
            Step::Ask(..) | Step::Open(_) => ControlFlow::Continue(()),
        }
    });
}

impl Way<'_> {
    /// True where an untracked list that allows has the last word. What is only forwarded is still asked for its other
    /// lists, and tracked.
    fn passes_the_stack(&self) -> bool {
        let is_stack = |end: &End<'_>| matches!(end, End::Host | End::Kernel);
        is_stack(&self.from) || is_stack(&self.to)
    }
}

/// The list that keeps no state and is asked about every packet, those of known flows included. Where nothing is
/// remembered, the answers of failsafe ports have to be let through by their ports.
#[inline]
pub fn untracked(way: &Way<'_>, tables: &Tables) -> Option<Step> {
    let (packet, failsafes) = (way.before, &tables.failsafes);
    let (list, program, local_port, remote_port, remote) = match (way.from, way.to) {
        (End::Uplink(Some(endpoint)), _) => {
            let (local, remote) = (packet.destination_port, packet.source_port);
            (List::UntrackedIngress, endpoint.untracked_ingress, local, remote, packet.source)
        }
        // On the way out the list is for the host's own packets only.
        (End::Host, End::Uplink(Some(endpoint))) => {
            let (local, remote) = (packet.source_port, packet.destination_port);
            (List::UntrackedEgress, endpoint.untracked_egress, local, remote, packet.destination)
        }
        _ => return None,
    };
    if program.is_none() {
        return None;
    }
    let is_failsafe = failsafes.is_inbound(packet.protocol, local_port, remote)
        || failsafes.is_outbound(packet.protocol, remote_port, remote);
    Some(if is_failsafe { Step::Open(list) } else { Step::Ask(list, program) })
}

/// What is asked about the first packet of a flow, until `visit` breaks off.
#[inline]
pub fn tracked(way: &Way<'_>, tables: &Tables, mut visit: impl FnMut(Step) -> ControlFlow<()>) -> ControlFlow<()> {
    let Way { packet, .. } = *way;
    match (way.from, way.to) {
        (End::Uplink(None), End::Host | End::Kernel) | (End::Host | End::Kernel, End::Uplink(None)) => {}
        (End::Uplink(Some(endpoint)), End::Host) => {
            before_translation(way, endpoint, tables, &mut visit)?;
            let is_failsafe = tables.failsafes.is_inbound(packet.protocol, packet.destination_port, packet.source);
            visit(own(List::HostIngress, endpoint.ingress, is_failsafe))?;
        }
        (End::Host, End::Uplink(Some(endpoint))) => {
            let Question { protocol, destination_port, destination, .. } = *packet;
            let is_failsafe = tables.failsafes.is_outbound(protocol, destination_port, destination);
            visit(own(List::HostEgress, endpoint.egress, is_failsafe))?;
        }
        // Probes from the host to its own workloads are not policed. What its kernel forwards for others is.
        (End::Host, _) => {}
        (End::Workload(_), End::Host | End::Kernel) if is_link_upkeep(packet) => {}
        (from, to) => {
            if let End::Uplink(Some(endpoint)) = from {
                before_translation(way, endpoint, tables, &mut visit)?;
                present(List::ForwardIngress, endpoint.forward_ingress, &mut visit)?;
            }
            if let End::Workload(endpoint) = from {
                if let Some(reason) = forged_tunnel(packet, tables) {
                    visit(Step::Refuse(reason))?;
                }
                if let Some(endpoint) = endpoint {
                    visit(Step::Ask(List::WorkloadEgress, endpoint.egress))?;
                }
            }
            if let End::Workload(Some(endpoint)) = to {
                visit(Step::Ask(List::WorkloadIngress, endpoint.ingress))?;
            }
            if let End::Uplink(Some(endpoint)) = to {
                present(List::ForwardEgress, endpoint.forward_egress, &mut visit)?;
            }
        }
    }
    ControlFlow::Continue(())
}

/// The list that is asked before anybody knows where the packet goes; failsafe ports are open wherever they lead.
fn before_translation(
    way: &Way<'_>,
    endpoint: &HostEndpoint,
    tables: &Tables,
    visit: &mut impl FnMut(Step) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Question { protocol, destination_port, source, .. } = *way.before;
    match endpoint.pre_dnat {
        program if program.is_none() => ControlFlow::Continue(()),
        program => visit(own(List::PreDnat, program, tables.failsafes.is_inbound(protocol, destination_port, source))),
    }
}

fn own(list: List, program: ProgramIndex, is_failsafe: bool) -> Step {
    if is_failsafe { Step::Open(list) } else { Step::Ask(list, program) }
}

/// A list that is asked if it is there.
fn present(list: List, program: ProgramIndex, visit: &mut impl FnMut(Step) -> ControlFlow<()>) -> ControlFlow<()> {
    if program.is_none() { ControlFlow::Continue(()) } else { visit(Step::Ask(list, program)) }
}

/// A workload that speaks as one of the node's own tunnels.
fn forged_tunnel(packet: &Question, tables: &Tables) -> Option<DropReason> {
    let tunnels = &tables.workload_tunnels;
    match packet.protocol {
        protocol::IPIP if tunnels.is_ipip_denied => Some(DropReason::WorkloadIpip),
        protocol::UDP if tunnels.vxlan_port == Some(packet.destination_port) => Some(DropReason::WorkloadVxlan),
        _ => None,
    }
}

/// True for what a workload may send to its own host: everything by a setting, and what keeps the link going.
pub fn may_reach_host(packet: &Question, tables: &Tables) -> bool {
    tables.endpoint_to_host || is_link_upkeep(packet)
}

/// ICMPv6 that keeps a link going, which a workload may always send to its host: multicast listeners, router
/// solicitations, neighbour discovery.
pub fn is_link_upkeep(packet: &Question) -> bool {
    let is_icmpv6 = packet.protocol == protocol::ICMPV6 && !packet.is_ipv4;
    is_icmpv6 && packet.icmp.is_some_and(|(kind, _)| matches!(kind, 130..=133 | 135 | 136))
}

/// True for the host's own addresses, and for those that never leave a link.
pub fn is_hosts(address: u128, tables: &Tables) -> bool {
    never_leaves_a_link(address) || tables.is_own(address)
}

/// Groups, broadcasts, link-local and unspecified addresses.
pub fn never_leaves_a_link(address: u128) -> bool {
    const BROADCAST: u128 = mapped(u32::MAX);
    const UNSPECIFIED: u128 = MAPPED_PREFIX;
    let is_multicast = address >> 120 == 0xff || address >> 28 == mapped(0xe000_0000) >> 28;
    let is_special = address <= 1 || address == UNSPECIFIED || address == BROADCAST;
    is_special || is_multicast || super::admit::is_link_local(address)
}
