//! What settles a packet of an open flow, against all stages: two routers get the same packets, and before each packet one of
//! them is told the same tables anew, so that nothing it has recorded holds. Every packet must fare alike with both.

use fastpath::burst::DropReason;
use proptest::prelude::*;
use tests::packet::{self, Packet};
use tests::plan::{Plan, Rules};
use tests::router::Router;

use crate::model::{IPV4, IPV6, Shot, What, shot};

/// Who sends honestly from the addresses of `IPV4` and `IPV6`, in their order.
const OWNERS: [&str; 8] = ["a", "b", "c", "host", "up", "up", "up", "up"];

/// What happens to the tables, for both routers alike.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// An interface goes down or comes back.
    Carrier(usize, bool),
    /// Everybody's policy allows everything, or nothing. Open flows go on.
    Policy(bool),
}

/// A packet of a few flows: one of them, its way, who sends it, and what may be odd about it.
#[derive(Clone, Debug)]
struct Step {
    /// Before the packet.
    change: Option<Change>,
    flow: prop::sample::Index,
    is_reply: bool,
    /// Somebody else than the owner of its source address.
    sender: Option<&'static str>,
    ttl: u8,
    length: usize,
    flags: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let sender = prop_oneof![8 => Just(None), 1 => prop::sample::select(vec!["a", "b", "c", "up"]).prop_map(Some)];
    let ttl = prop::sample::select(vec![64u8, 64, 64, 64, 64, 1, 2, 0]);
    let length = prop::sample::select(vec![8usize, 8, 8, 100, 1480, 1600]);
    let flags = prop::sample::select(vec![
        packet::ACK,
        packet::ACK,
        packet::SYN,
        packet::SYN | packet::ACK,
        packet::FIN | packet::ACK,
        packet::RST,
    ]);
    let change = prop_oneof![
        12 => Just(None),
        1 => (0usize..3, any::<bool>()).prop_map(|(which, is_up)| Some(Change::Carrier(which, is_up))),
        1 => any::<bool>().prop_map(|allows| Some(Change::Policy(allows))),
    ];
    (change, any::<prop::sample::Index>(), any::<bool>(), sender, ttl, length, flags).prop_map(
        |(change, flow, is_reply, sender, ttl, length, flags)| Step {
            change,
            flow,
            is_reply,
            sender,
            ttl,
            length,
            flags,
        },
    )
}

fn owner(address: &str) -> &'static str {
    let position = IPV4.iter().chain(&IPV6).position(|known| *known == address);
    OWNERS[position.unwrap_or(0) % OWNERS.len()]
}

impl Change {
    fn apply(self, plan: &mut Plan) {
        match self {
            Change::Carrier(which, is_up) => plan.attachments[which].is_up = is_up,
            Change::Policy(allows) => {
                for attachment in &mut plan.attachments {
                    let rules = Rules { rules: Vec::new(), otherwise_allow: allows };
                    (attachment.egress, attachment.ingress) = (rules.clone(), rules);
                }
            }
        }
    }
}

impl Step {
    /// Who sends what.
    fn packet(&self, flows: &[Shot]) -> (&'static str, Packet) {
        let flow = self.flow.get(flows);
        let turned = |one: u16, other: u16| if self.is_reply { (other, one) } else { (one, other) };
        let (source, destination) = match self.is_reply {
            true => (flow.destination, flow.source),
            false => (flow.source, flow.destination),
        };
        let packet = Packet::new(source, destination).ttl(self.ttl).filled(self.length);
        let packet = match flow.what {
            What::Tcp(one, other) => {
                let (source, destination) = turned(one, other);
                packet.tcp(source, destination, self.flags)
            }
            What::Udp(one, other) => {
                let (source, destination) = turned(one, other);
                packet.udp(source, destination)
            }
            What::EchoRequest(identifier) | What::EchoReply(identifier) if self.is_reply => {
                packet.echo_reply(identifier, 1)
            }
            What::EchoRequest(identifier) | What::EchoReply(identifier) => packet.echo_request(identifier, 1),
            What::Sctp(one, other) => {
                let (source, destination) = turned(one, other);
                packet.sctp(source, destination)
            }
            What::Raw(number) => packet.raw(number),
        };
        (self.sender.unwrap_or(owner(source)), packet)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_settled_packet_fares_as_one_that_is_judged(
        flows in prop::collection::vec(shot(), 1..5),
        steps in prop::collection::vec(step(), 1..60),
        translates: bool,
    ) {
        let open = |plan: &mut Plan| {
            if translates {
                *plan = Plan::translating();
            }
            Change::Policy(true).apply(plan);
        };
        let (mut recalling, mut judging) = (Router::small(open), Router::small(open));
        for (number, step) in steps.iter().enumerate() {
            let (from, packet) = step.packet(&flows);
            if let Some(change) = step.change {
                recalling.update(|plan| change.apply(plan));
            }
            judging.update(|plan| step.change.iter().for_each(|change| change.apply(plan)));
            let (recalled, judged) = (recalling.fate(from, &packet), judging.fate(from, &packet));
            prop_assert_eq!(recalled, judged, "packet {} from {}: {:?}", number, from, step);
        }
        let seen = |router: &Router| {
            let mut flows: Vec<_> = router.flows().iter().map(|flow| (flow.key, flow.state, flow.packets)).collect();
            flows.sort_by_key(|(key, ..)| format!("{key:?}"));
            flows
        };
        prop_assert_eq!(seen(&recalling), seen(&judging));
    }
}

#[test]
fn what_was_decided_under_other_tables_settles_nothing() {
    let mut router = Router::small(|plan| Change::Policy(true).apply(plan));
    let packet = Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 53);
    for _ in 0..2 {
        router.fate("a", &packet).forwarded("b");
    }
    router.update(|plan| Change::Carrier(1, false).apply(plan));
    router.fate("a", &packet).dropped(DropReason::InterfaceDown);
    router.update(|plan| Change::Carrier(1, true).apply(plan));
    router.fate("a", &packet).forwarded("b");
}
