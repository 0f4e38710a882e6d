//! One described packet through the production stages: what each decided, and by which rule.
//!
//! The packet is built here, put into memory of its own, and judged by `fastpath::pipeline` with the tables in force and
//! an empty flow table, as the first packet of a flow. Nothing is sent and no counter moves.

use std::net::IpAddr;

use config::resource::Resource;
use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep};
use fastpath::burst::{Burst, Fragment, Passage, Slot, Verdict};
use fastpath::flow::{FlowTable, FlowWriter, KeyKind, unmapped_address};
use fastpath::header::ethernet;
use fastpath::io::umem::Umem;
use fastpath::pipeline::{Now, Pipeline, Stage};
use fastpath::rcu::Publisher;
use fastpath::stage::lists::{self, Step, Way};
use fastpath::stage::{policy, translate};
use fastpath::table::acl::Outcome;
use fastpath::table::adjacency::AdjacencyKind;
use fastpath::table::interface::InterfaceKind;
use fastpath::table::{InterfaceIndex, Tables};

use crate::compile::RuleNames;
use crate::control::{Control, HOST_INTERFACE};
use crate::http::api::{ApiError, ErrorCode};
use crate::http::views::{DecisionView, TraceRequest, TraceStageView, TraceTransport, TraceView};
use crate::policy::decided::{self, Decided};
use crate::policy::oracle;
use crate::show::why::{self, Asked};

/// The sender's side of the made-up link.
const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Stands for the host as a sender.
const HOST: &str = "host";

pub fn trace<D>(control: &Control<D>, request: &TraceRequest) -> Result<TraceView, ApiError> {
    let invalid = |message: String| ApiError::new(ErrorCode::Invalid, message);
    let ingress = ingress(control, &request.from)?;
    let tables = control.publisher.current();
    let interface = tables.interface(ingress).ok_or_else(|| {
        ApiError::new(
            ErrorCode::Unavailable,
            format!("interface of {} is not in the tables yet; try again", request.from),
        )
    })?;
    let sender = sender(control, request)?;
    let bytes = build(request, sender, interface.mac).map_err(invalid)?;

    let mut umem = Umem::heap(2048, 4);
    let packet = umem
        .copy_in([bytes.as_slice()])
        .ok_or_else(|| ApiError::new(ErrorCode::Internal, "the described packet does not fit a frame"))?;
    let scratch = Publisher::new(());
    let flows = FlowTable::new(64);
    flows.sources().copy_from(control.flows.sources());
    let mut pipeline = Pipeline::new(FlowWriter::new(flows, 0, 1, scratch.grace()));
    let mut burst = Burst::with_capacity();
    burst.slots.push(Slot::new(packet, ingress));

    let mut stages = Vec::new();
    let mut before = Verdict::Forward;
    let known = |index: InterfaceIndex| control.attachments.name_of(index).unwrap_or("?").to_owned();
    pipeline.run(&mut burst, &mut umem, tables, Now(0), |stage, burst, _| {
        let Some(slot) = burst.slots.first() else { return };
        // Nothing is recalled of an empty flow table.
        if stage == Stage::Recall {
            return;
        }
        // Most packets keep their source.
        if stage == Stage::Translate && slot.verdict == Verdict::Forward && !slot.is_translated {
            return;
        }
        // A stage that found the packet decided already has nothing to say about it; `respond` writes the answer.
        let is_answer = matches!(before, Verdict::Respond(_)) && stage == Stage::Respond;
        if before != Verdict::Forward && !is_answer {
            return;
        }
        let decision = match slot.verdict {
            Verdict::Forward => "ok".to_owned(),
            verdict => describe(verdict),
        };
        let detail = detail(stage, slot, tables, &control.names, &known);
        stages.push(TraceStageView { stage: stage.name().into(), decision, detail });
        before = slot.verdict;
    });
    let slot = burst.slots.pop().ok_or_else(|| ApiError::new(ErrorCode::Internal, "the traced packet was lost"))?;
    let was_asked = stages.iter().any(|stage| stage.stage == Stage::Policy.name());
    let view = TraceView {
        stages,
        verdict: describe(slot.verdict),
        rule: control.names.name(slot.rule).map(str::to_owned),
        generation: tables.generation,
        decisions: if was_asked { decisions(control, tables, &slot) } else { Vec::new() },
    };
    umem.free(slot.packet);
    Ok(view)
}

/// What is said on the way, as the stage asks; what almost turned it is beside.
fn decisions<D>(control: &Control<D>, tables: &Tables, slot: &Slot) -> Vec<DecisionView> {
    if slot.fragment == Fragment::Later {
        return Vec::new();
    }
    let egress = tables.adjacency(slot.adjacency).map_or(slot.ingress, |adjacency| adjacency.interface);
    let packet = policy::question(&slot.key);
    let Some((from, to)) = policy::ends(slot.is_group, &packet, slot.ingress, egress, tables) else {
        return Vec::new();
    };
    let fields = why::fields(&slot.key);
    let classes = tables.policy.classify(&packet);
    let way = Way { from, to, before: &packet, packet: &packet };
    let claims = control.claims();
    let mut decisions = Vec::new();
    lists::walk(&way, tables, |step| {
        let (list, outcome, rule) = match step {
            // The stage itself says so.
            Step::Refuse(_) => return Outcome::Deny,
            Step::Open(list) => (list, Outcome::Undecided, decided::failsafe(list)),
            Step::Ask(list, program) => {
                let decision = tables.policy.evaluate(program, &classes);
                (list, decision.outcome, control.names.name(decision.rule).unwrap_or_default().to_owned())
            }
        };
        let interface = control.attachments.name_of(if list.is_at_the_start() { slot.ingress } else { egress });
        let endpoint = interface.and_then(|name| why::on_interface(control, &claims, list, name));
        let decided = Decided::by(&rule, &control.resources);
        let allow = !matches!(step, Step::Ask(list, _) if list.stops_at(outcome));
        let verdict = oracle::Verdict { allow, rule, log: None };
        decisions.push(why::decision(control, &Asked { list, endpoint, fields: &fields }, &verdict, &decided));
        outcome
    });
    decisions
}

/// The MAC address that a packet of this sender has. What the host sends by an uplink says by which.
fn sender<D>(control: &Control<D>, request: &TraceRequest) -> Result<[u8; 6], ApiError> {
    let Some(out) = &request.out else { return Ok(SENDER_MAC) };
    let refused =
        |expected: &str| ApiError::new(ErrorCode::Invalid, format!("out: found \"{out}\", expected {expected}"));
    if request.from != HOST {
        return Err(refused("none: only for what the host sends is it not the route that says so"));
    }
    let uplinks = control.attachments.view().iter().filter(|(_, a)| a.kind == InterfaceKind::Uplink);
    let known: Vec<&str> = uplinks.map(|(name, _)| name.as_str()).collect();
    let uplink = control.attachments.view().get(out).filter(|_| known.contains(&out.as_str()));
    uplink
        .and_then(|attachment| ethernet::link_mac(attachment.link.0))
        .ok_or_else(|| refused(&format!("one of the uplinks {}", known.join(", "))))
}

/// The interface that a packet of this sender comes in by.
fn ingress<D>(control: &Control<D>, from: &str) -> Result<InterfaceIndex, ApiError> {
    let endpoint = control.state().endpoints.iter().find(|endpoint| {
        let namespace = endpoint.key.namespace.as_deref().unwrap_or_default();
        let is_pod = match control.resources.get(&endpoint.key) {
            Some(Resource::WorkloadEndpoint(resource)) => from == format!("{namespace}/{}", resource.spec.pod),
            _ => false,
        };
        is_pod || from == format!("{namespace}/{}", endpoint.key.name)
    });
    let from = if from == HOST { HOST_INTERFACE } else { from };
    let name = endpoint.map_or(from, |endpoint| endpoint.interface.as_str());
    control.attachments.view().get(name).map(|attachment| attachment.index).ok_or_else(|| {
        let known: Vec<&str> = control.attachments.view().keys().map(String::as_str).collect();
        let message = format!(
            "from: found \"{from}\", expected namespace/pod of an endpoint of this node, host, or one of the interfaces {}",
            known.join(", ")
        );
        ApiError::new(ErrorCode::NotFound, message)
    })
}

fn build(request: &TraceRequest, sender: [u8; 6], destination_mac: [u8; 6]) -> Result<Vec<u8>, String> {
    let ethernet = PacketBuilder::ethernet2(sender, destination_mac);
    let ttl = request.ttl;
    let (builder, is_ipv4) = match (request.source, request.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            (ethernet.ipv4(source.octets(), destination.octets(), ttl), true)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            (ethernet.ipv6(source.octets(), destination.octets(), ttl), false)
        }
        (source, destination) => {
            return Err(format!("destination: found {destination}, expected an address of the family of {source}"));
        }
    };
    let mut bytes = transport(builder, request.transport, is_ipv4)?;
    if request.is_fragment {
        if !is_ipv4 {
            return Err("fragment: expected IPv4 addresses; describe the first fragment instead".into());
        }
        later_fragment(&mut bytes);
    }
    Ok(bytes)
}

fn transport(
    builder: PacketBuilderStep<etherparse::IpHeaders>,
    transport: TraceTransport,
    is_ipv4: bool,
) -> Result<Vec<u8>, String> {
    const PAYLOAD: &[u8] = b"vrouter trace";
    let mut bytes = Vec::new();
    let failed = |error: etherparse::err::packet::BuildWriteError| format!("build the described packet: {error}");
    match transport {
        TraceTransport::Tcp { source_port, destination_port } => {
            builder.tcp(source_port, destination_port, 1, 65_535).syn().write(&mut bytes, &[]).map_err(failed)?;
        }
        TraceTransport::Udp { source_port, destination_port } => {
            builder.udp(source_port, destination_port).write(&mut bytes, PAYLOAD).map_err(failed)?;
        }
        TraceTransport::IcmpEcho if is_ipv4 => {
            builder.icmpv4_echo_request(1, 1).write(&mut bytes, PAYLOAD).map_err(failed)?;
        }
        TraceTransport::IcmpEcho => {
            builder.icmpv6_echo_request(1, 1).write(&mut bytes, PAYLOAD).map_err(failed)?;
        }
        TraceTransport::Other { number } => {
            builder.write(&mut bytes, IpNumber(number), &[0; 32]).map_err(failed)?;
        }
    }
    Ok(bytes)
}

/// Turns a built IPv4 packet into one from the middle of a datagram.
fn later_fragment(bytes: &mut [u8]) {
    use fastpath::header::{checksum::Sum, ethernet, ipv4};
    let Some(header) = bytes.get_mut(ethernet::HEADER_LEN..ethernet::HEADER_LEN + ipv4::HEADER_LEN) else { return };
    // Offset 1480 bytes, the last of its datagram.
    header[6..8].copy_from_slice(&185u16.to_be_bytes());
    header[10..12].fill(0);
    let sum = Sum::new().bytes(header).finish();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn describe(verdict: Verdict) -> String {
    match verdict {
        Verdict::Forward => "forward".into(),
        Verdict::Respond(answer) => format!("respond: {answer:?}").to_lowercase(),
        Verdict::Punt(reason) => format!("punt: {reason:?}").to_lowercase(),
        Verdict::Drop(reason) => format!("drop: {}", reason.name()),
    }
}

/// What a stage found out, in the user's terms.
fn detail(
    stage: Stage,
    slot: &Slot,
    tables: &Tables,
    names: &RuleNames,
    interface: &impl Fn(InterfaceIndex) -> String,
) -> String {
    if let Verdict::Drop(reason) = slot.verdict {
        let rule = names.name(slot.rule).map_or(String::new(), |rule| format!("; rule: {rule}"));
        return format!("{}{rule}", reason.description());
    }
    let key = &slot.key;
    match stage {
        Stage::Parse => {
            let ports = match key.kind {
                KeyKind::Ports => format!(", ports {} → {}", key.source_port, key.destination_port),
                KeyKind::Fragment => ", a later fragment".into(),
                KeyKind::EchoRequest | KeyKind::EchoReply | KeyKind::IcmpOther => String::new(),
            };
            let (source, destination) = (unmapped_address(key.source), unmapped_address(key.destination));
            let protocol = crate::show::protocol_name(key.protocol);
            format!("{source} → {destination}, protocol {protocol}{ports}, TTL {}", slot.ttl)
        }
        Stage::Admit if matches!(slot.verdict, Verdict::Punt(_)) => "relayed to the DHCP servers".into(),
        Stage::Admit if slot.passage != Passage::None => "left to the host's stack".into(),
        Stage::Admit => format!("source belongs to the sender on {}", interface(slot.ingress)),
        Stage::Recall => String::new(),
        Stage::Classify => match slot.flow {
            Some(_) => "part of a known flow".into(),
            None if slot.fragment == Fragment::Later => "a fragment whose first has to be found".into(),
            None => "first packet of a new flow".into(),
        },
        Stage::Route => match tables.adjacency(slot.adjacency) {
            None => "no route".into(),
            Some(adjacency) => match adjacency.kind {
                AdjacencyKind::Unresolved => "the next hop's MAC address is not known yet".into(),
                AdjacencyKind::Host => "to the host itself".into(),
                AdjacencyKind::Frame => format!("passes unchanged to {}", interface(adjacency.interface)),
                _ => format!("leaves by {}, MTU {}", interface(adjacency.interface), adjacency.mtu),
            },
        },
        Stage::Policy if slot.fragment == Fragment::Later => "judged with its first".into(),
        Stage::Policy => {
            names.name(slot.rule).map_or("no policy applies on the way".into(), |rule| format!("allowed by {rule}"))
        }
        Stage::Translate => {
            match translate::source(slot, tables).and_then(|number| tables.translations.address(number)) {
                Some(address) => format!(
                    "its source becomes {}, with a port of {}",
                    unmapped_address(address),
                    tables.translations.ports
                ),
                None => "keeps its source".into(),
            }
        }
        Stage::Remember => "flow entered: replies will pass".into(),
        Stage::Respond => match slot.verdict {
            Verdict::Respond(_) => "the answer goes back to the sender".into(),
            _ => "nothing to answer".into(),
        },
        Stage::Rewrite => format!("TTL {}, layer 2 header of the way out", slot.ttl.saturating_sub(1)),
    }
}
