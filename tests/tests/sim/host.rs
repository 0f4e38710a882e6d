//! Random host endpoints and packets: which lists are asked, in which order, and what they say.
//!
//! ```text
//! random resources ─┬─ calculate, compile ─▶ Tables ─ lists::walk ─▶ list, endpoint, verdict, rule, log … ─┐
//!                   └────────────── oracle, that walks the resources ──────────────────────────────────────┴─ equal
//! ```

use std::collections::BTreeSet;

use config::resource::{Key, Kind, Resource};
use control::judge::{Crossing, Judge, OTHER_UPLINK, Place, Said, uplink_of};
use control::policy::decided::Decided;
use control::policy::oracle::Fields;
use control::resources::Resources;
use fastpath::stage::lists::List;
use tests::node::NODE;
use tests::random::Random;

use crate::policy::{local, packet, written};
use crate::seeds::{endpoint, felix, host_endpoint, host_policy, resource, with_seeds};

/// A node with host endpoints and what applies to them.
fn resources(random: &mut Random) -> Resources {
    let mut resources: Resources = (0..3).map(|_| endpoint(random)).collect();
    for _ in 0..2 + random.below(3) {
        resources.put(host_endpoint(random));
    }
    for _ in 0..3 + random.below(8) {
        resources.put(host_policy(random));
    }
    for _ in 0..1 + random.below(3) {
        resources.put(felix(random));
    }
    for _ in 0..3 + random.below(15) {
        resources.put(resource(random));
    }
    resources
}

/// Every end that a packet may have: workloads, uplinks, the host's stack, somebody else.
fn places(resources: &Resources) -> Vec<Place> {
    let workloads = local(resources).into_iter().map(|endpoint| Resource::WorkloadEndpoint(endpoint).key());
    let mut places: Vec<Place> = workloads.map(Place::Workload).collect();
    // An interface that a workload has is no uplink, whatever a host endpoint says.
    let is_named = |name: &&str| {
        let mut named = resources.host_endpoints().filter(|host| host.spec.node == NODE);
        named.any(|host| host.spec.interface_name == **name)
    };
    let uplinks = ["eth0", "eth1"].into_iter().filter(is_named).chain([OTHER_UPLINK]);
    places.extend(uplinks.map(|name| Place::Uplink(name.to_owned())));
    let found = resources.host_endpoints().filter(|host| host.spec.node == NODE && host.spec.interface_name.is_empty());
    places.extend(found.map(|host| Place::Uplink(uplink_of("", &host.metadata.name))));
    places.extend([Place::Stack, Place::Stack, Place::Somebody]);
    places
}

fn crossing(random: &mut Random, places: &[Place]) -> Crossing {
    loop {
        let (from, to) = (random.pick(places), random.pick(places));
        let is_stack = |place: &Place| matches!(place, Place::Stack | Place::Somebody);
        let leads_nowhere =
            matches!((&from, &to), (Place::Uplink(_), Place::Uplink(_))) || (is_stack(&from) && is_stack(&to));
        if !leads_nowhere && from != to {
            return Crossing { node: NODE.to_owned(), from, to };
        }
    }
}

/// A packet, and what it was before its destination was translated.
fn packets(random: &mut Random, crossing: &Crossing) -> (Fields, Fields) {
    let mut fields = packet(random);
    // The address that host endpoints expect.
    let own = if fields.source.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" }.parse().expect("an address");
    if crossing.from == Place::Stack && random.chance(50) {
        fields.source = own;
    }
    if crossing.to == Place::Stack && random.chance(50) {
        fields.destination = own;
    }
    if random.chance(8) {
        let special = if fields.source.is_ipv4() { "224.0.0.5" } else { "fe80::5" };
        let address = special.parse().expect("an address");
        if random.chance(50) { fields.source = address } else { fields.destination = address }
    }
    if random.chance(5) {
        fields = Fields { protocol: 4, source_port: 0, destination_port: 0, icmp: None, ..fields };
    }
    if fields.icmp.is_some() && !fields.source.is_ipv4() && random.chance(30) {
        fields.icmp = Some((135, 0));
    }
    let mut before = fields.clone();
    if random.chance(30) {
        let other = packet(random);
        if other.source.is_ipv4() == fields.source.is_ipv4() {
            before.destination = other.destination;
        }
        if before.destination_port != 0 && other.destination_port != 0 {
            before.destination_port = other.destination_port;
        }
    }
    (before, fields)
}

/// What is said by the tables, after it was compared with the oracle; for many packets.
fn compare(random: &mut Random, packets_each: usize) -> Vec<Said> {
    let resources = resources(random);
    let (mut tables, mut oracle) = (Judge::new(resources.clone(), false), Judge::new(resources.clone(), true));
    let places = places(&resources);
    let mut all = Vec::new();
    for _ in 0..packets_each {
        let crossing = crossing(random, &places);
        let (before, fields) = packets(random, &crossing);
        let found = tables.cross(&crossing, &before, &fields);
        let expected = oracle.cross(&crossing, &before, &fields);
        assert_eq!(found, expected, "{crossing:?}: {fields:?} after {before:?}\n{}", written(&resources));
        all.extend(found.expect("a way through the node"));
    }
    all
}

#[test]
fn tables_ask_host_endpoints_as_a_naive_reading_of_the_resources_does() {
    with_seeds(200, |random| {
        compare(random, 100);
    });
}

/// The comparison is worth something only if packets meet every list, and every answer there.
#[test]
fn random_packets_reach_every_list() {
    let seen = std::cell::RefCell::new(BTreeSet::new());
    with_seeds(300, |random| {
        for said in compare(random, 150) {
            let rule = said.verdict.rule.as_str();
            let default = Decided::by(rule, &Resources::default()).default.map(|default| default.name());
            let answer = match (default, rule.is_empty(), said.verdict.allow) {
                (Some(default), ..) => default,
                (None, true, _) => "pass",
                (None, false, true) => "allow",
                (None, false, false) => "deny",
            };
            let kind = said.endpoint.map(|Key { kind, .. }| kind == Kind::HostEndpoint);
            seen.borrow_mut().insert((said.list, answer, kind));
        }
    });
    let seen = seen.into_inner();
    let mut missing = Vec::new();
    let mut expect = |list: Option<List>, answer, is_host| {
        if !seen.contains(&(list, answer, Some(is_host))) {
            missing.push((list, answer));
        }
    };
    for list in List::ALL {
        let is_host = list.is_of_host_endpoint();
        for answer in ["allow", "deny"] {
            expect(Some(list), answer, is_host);
        }
        match list {
            List::UntrackedIngress | List::UntrackedEgress | List::PreDnat => {
                expect(Some(list), "pass", is_host);
                expect(Some(list), "failsafe", is_host);
            }
            List::HostIngress | List::HostEgress => {
                expect(Some(list), "end-of-tier", is_host);
                expect(Some(list), "failsafe", is_host);
            }
            List::ForwardIngress | List::ForwardEgress => {
                expect(Some(list), "pass", is_host);
                expect(Some(list), "end-of-tier", is_host);
            }
            List::WorkloadIngress | List::WorkloadEgress => expect(Some(list), "end-of-tier", is_host),
        }
    }
    expect(None, "workload-tunnel", false);
    expect(None, "endpoint-to-host", false);
    assert!(missing.is_empty(), "no packet met {missing:?}");
}
