//! Random resources through calculation and compilation, against the oracle that walks the resources.
//!
//! ```text
//! random resources ─┬─calculate─▶ NodeState ─compile─▶ Tables ─evaluate─▶ verdict, rule, log ─┐
//!                   └─────────────────────── oracle ────────────────────▶ verdict, rule, log ─┴─ equal
//! ```

use std::collections::BTreeSet;

use config::resource::{PolicyType, Resource, WorkloadEndpoint};
use control::felix::FelixSettings;
use control::judge::question;
use control::policy::Calculation;
use control::policy::oracle::{self, Fields, Lists, Near, Oracle, Verdict};
use control::resources::Resources;
use control::show::nearest::nearest;
use fastpath::table::acl::Outcome;
use fastpath::table::{RuleIndex, Tables};
use tests::node::{NODE, Node};
use tests::plan::{Attachment, Plan};
use tests::random::Random;

use crate::seeds::{ENDPOINTS, any_address, endpoint, interface, resource, with_seeds};

/// A node with an interface for every endpoint there may be.
pub fn plan() -> Plan {
    let workload = |number: usize| Attachment::workload(&interface(number), number as u8, &[]);
    Plan { attachments: (0..ENDPOINTS).map(workload).collect(), routes: Vec::new(), ..Plan::small() }
}

pub fn packet(random: &mut Random) -> Fields {
    let is_ipv4 = random.chance(60);
    let (icmp, request) = if is_ipv4 { (1, 8) } else { (58, 128) };
    let protocol = random.pick(&[6, 6, 6, 17, 17, 132, 136, icmp, icmp, 47]);
    let has_ports = [6, 17, 132, 136].contains(&protocol);
    let port = |random: &mut Random| if has_ports { random.pick(&[1, 79, 80, 81, 82, 443, 65535]) } else { 0 };
    Fields {
        source: any_address(random, is_ipv4),
        destination: any_address(random, is_ipv4),
        protocol,
        source_port: port(random),
        destination_port: port(random),
        icmp: (protocol == icmp).then(|| (random.pick(&[request, request, 3]), random.pick(&[0, 1]))),
    }
}

/// What the tables say; none when they have no endpoint behind the interface.
pub fn evaluate(
    tables: &Tables,
    node: &Node,
    plan: &Plan,
    name: &str,
    direction: PolicyType,
    fields: &Fields,
) -> Option<Verdict> {
    let endpoint = tables.interface(plan.index(name)).and_then(|interface| tables.endpoint_of(interface))?;
    let program = match direction {
        PolicyType::Ingress => endpoint.ingress,
        PolicyType::Egress => endpoint.egress,
    };
    let question = question(fields);
    let classes = tables.policy.classify(&question);
    let decision = tables.policy.evaluate(program, &classes);
    assert_eq!(decision, tables.policy.evaluate_plainly(program, &classes), "with vector instructions and without");
    let name = |index: RuleIndex| node.names.name(index).map(str::to_owned);
    let rule = name(decision.rule).expect("every decision has a name");
    Some(Verdict { allow: decision.outcome == Outcome::Allow, rule, log: name(decision.log) })
}

pub fn local(resources: &Resources) -> Vec<WorkloadEndpoint> {
    resources.workload_endpoints().filter(|endpoint| endpoint.spec.node == NODE).cloned().collect()
}

/// One random set of resources and many packets, at every endpoint and both ways. Returns how many were compared.
fn compare(random: &mut Random, packets: usize) -> usize {
    let mut node = Node::default();
    for _ in 0..3 {
        node.resources.put(endpoint(random));
    }
    for _ in 0..5 + random.below(30) {
        node.resources.put(resource(random));
    }
    let plan = plan();
    let tables = node.tables(&plan, 1);
    let oracle = Oracle::new(&node.resources);
    let mut places = Vec::new();
    for endpoint in local(&node.resources) {
        for direction in [PolicyType::Ingress, PolicyType::Egress] {
            let lists = Lists::of_workload(&node.resources, &endpoint, direction);
            places.push((endpoint.spec.interface_name.clone(), direction, lists));
        }
    }
    for _ in 0..packets {
        let fields = packet(random);
        for (interface, direction, lists) in &places {
            let expected = oracle.judge(lists, &fields);
            let found = evaluate(&tables, &node, &plan, interface, *direction, &fields);
            let resources = || written(&node.resources);
            assert_eq!(found.as_ref(), Some(&expected), "{direction:?} of {interface}: {fields:?}\n{}", resources());
        }
    }
    packets * places.len()
}

#[test]
fn tables_say_what_a_naive_reading_of_the_resources_says() {
    with_seeds(400, |random| {
        compare(random, 60);
    });
}

/// `POLICY_PAIRS=10000000 cargo test --release -p tests --test sim as_many_pairs` runs for long.
#[test]
fn as_many_pairs_as_were_asked_for() {
    let wanted = std::env::var("POLICY_PAIRS").ok().map_or(20_000, |text| text.parse::<usize>().expect("a number"));
    let compared = std::cell::Cell::new(0);
    let mut seed = 1_000_000;
    while compared.get() < wanted {
        let named = std::panic::catch_unwind(|| compare(&mut Random::new(seed), 500));
        compared.set(compared.get() + named.unwrap_or_else(|_| panic!("failed with seed {seed}, 500 packets")));
        seed += 1;
    }
    println!("{} pairs of a policy set and a packet, {} sets", compared.get(), seed - 1_000_000);
}

/// What almost matched, found among the lists of one endpoint and whoever has the two addresses, is what the naive reading finds
/// among everything. Kubernetes' rules are left out: the oracle has no words for them.
#[test]
fn what_almost_matched_needs_no_look_at_the_cluster() {
    let compared = std::cell::Cell::new(0);
    with_seeds(150, |random| {
        let mut resources: Resources = (0..3).map(|_| endpoint(random)).collect();
        for _ in 0..20 {
            let resource = resource(random);
            if !matches!(resource, Resource::KubernetesNetworkPolicy(_) | Resource::ClusterNetworkPolicy(_)) {
                resources.put(resource);
            }
        }
        let mut calculation = Calculation::new(NODE, FelixSettings::default());
        calculation.update(&resources, &resources.keys().cloned().collect());
        let oracle = Oracle::new(&resources);
        for state in &calculation.state().endpoints {
            let Some(Resource::WorkloadEndpoint(endpoint)) = resources.get(&state.key) else { continue };
            let lists = Lists::of_workload(&resources, endpoint, PolicyType::Ingress);
            for _ in 0..20 {
                let fields = packet(random);
                let verdict = oracle.judge(&lists, &fields);
                let told = |near: Near| {
                    let wanted: Vec<String> = near.differences.into_iter().map(|differs| differs.wanted).collect();
                    (near.rule, wanted)
                };
                let expected = oracle.nearest(&lists, &fields, &verdict).map(told);
                // Stand-ins for profiles are nobody's rules.
                let is_made_up = |(rule, _): &(String, _)| rule.contains("default-allow") || rule.contains("not exist");
                if expected.as_ref().is_some_and(is_made_up) {
                    continue;
                }
                let found = nearest(&calculation, &state.ingress, PolicyType::Ingress, &fields, &verdict).map(told);
                assert_eq!(found, expected, "{}: {fields:?}\n{}", state.key, written(&resources));
                compared.set(compared.get() + usize::from(found.is_some()));
            }
        }
    });
    assert!(compared.get() > 500, "only {} rules almost matched", compared.get());
}

/// The comparison is worth something only if packets meet rules of every sort.
#[test]
fn random_packets_reach_every_kind_of_decision() {
    let kinds = std::cell::RefCell::new(BTreeSet::new());
    with_seeds(100, |random| {
        let mut resources: Resources = (0..3).map(|_| endpoint(random)).collect();
        for _ in 0..20 {
            resources.put(resource(random));
        }
        for endpoint in local(&resources) {
            let verdict = oracle::judge(&resources, &endpoint, PolicyType::Ingress, &packet(random));
            let by = verdict.rule.split(' ').next().unwrap().to_string();
            kinds.borrow_mut().insert((by, verdict.allow, verdict.log.is_some()));
        }
    });
    let kinds = kinds.into_inner();
    for by in ["NetworkPolicy", "GlobalNetworkPolicy", "ClusterNetworkPolicy", "Profile"] {
        assert!(kinds.contains(&(by.to_string(), true, false)), "no packet allowed by a {by}: {kinds:?}");
        assert!(kinds.contains(&(by.to_string(), false, false)), "no packet denied by a {by}: {kinds:?}");
    }
    let kubernetes = ("KubernetesNetworkPolicy".to_string(), true, false);
    assert!(kinds.contains(&kubernetes), "no packet allowed by a KubernetesNetworkPolicy: {kinds:?}");
    for by in ["Tier", "no"] {
        assert!(kinds.contains(&(by.to_string(), false, false)), "no packet denied by {by}: {kinds:?}");
    }
    assert!(kinds.iter().any(|(_, _, is_logged)| *is_logged));
}

/// The resources of a failure, to be read or applied.
pub fn written(resources: &Resources) -> String {
    let all = resources.keys().filter_map(|key| resources.get(key));
    all.map(|resource| resource.to_json().to_string()).collect::<Vec<_>>().join("\n")
}
