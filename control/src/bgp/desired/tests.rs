//! The cases in tests/data/bgp: resources in, sessions and routes out.
//!
//! ```text
//! == what the case is about
//! on a b                                     nodes that are looked at; all others are only there
//! secret NAME/KEY [long]                     a secret that is there; one that is too long
//! KIND/NAME LABEL=VALUE @NOTE=VALUE spec: {} a resource; @ is for annotations; lines that are indented belong to it
//! ask NODE import|export FILTER PREFIX WORD.. what a filter makes of a route: `path 1,2`, `community 65000:1`, `preference N`,
//!                                            `metric N`, `interface NAME`, `local`, `external`
//! => what is found
//! ```
//!
//! `UPDATE_CASES=1` writes what is found into the files instead of comparing.

use std::fmt::Write;
use std::path::PathBuf;

use config::resource::{Community, Key, Kind, Resource};
use config::yaml;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::bgp::attribute::{AsPath, Attributes};
use crate::bgp::rules::explain::explain;
use crate::bgp::rules::filter::{Direction, add_community};
use crate::bgp::rules::{Candidate, Judgement, Source};
use crate::bgp::speaker_state::{
    LocalRouteKind, MaxPrefixes, NextHopMode, Password, PeerKind, PeerState, SpeakerState,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/bgp")
}

fn check(file: &str) {
    let path = folder().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut parts = text.split("\n== ");
    let mut found = parts.next().unwrap().to_owned();
    for case in parts {
        let asked: Vec<&str> = case.lines().filter(|line| !line.starts_with("=>")).collect();
        write!(found, "\n== {}\n{}", asked.join("\n").trim_end(), play(&asked)).unwrap();
    }
    if std::env::var_os("UPDATE_CASES").is_some() {
        return std::fs::write(&path, found).unwrap();
    }
    for (number, (expected, found)) in text.lines().zip(found.lines()).enumerate() {
        assert_eq!(found, expected, "{file}, line {}", number + 1);
    }
    assert_eq!(found.lines().count(), text.lines().count(), "{file} ends elsewhere");
}

#[test]
fn sessions() {
    check("sessions.txt");
}

#[test]
fn routes() {
    check("routes.txt");
}

#[test]
fn rules() {
    check("rules.txt");
}

/// One case, without its title line's mark.
fn play(lines: &[&str]) -> String {
    let mut resources = Vec::new();
    let (mut nodes, mut secrets, mut questions) = (Vec::new(), Vec::new(), Vec::new());
    for statement in statements(lines.get(1..).unwrap_or_default()) {
        let (word, rest) = statement.split_once(' ').unwrap_or((&statement, ""));
        match word {
            "on" => nodes.extend(rest.split(' ').map(str::to_owned)),
            "secret" => secrets.push(rest.to_owned()),
            "ask" => questions.push(rest.to_owned()),
            _ => resources.extend(resource(&statement)),
        }
    }
    let mut reversed = resources.clone();
    reversed.reverse();
    let resources: Resources = resources.into_iter().collect();
    let reversed: Resources = reversed.into_iter().collect();
    let secret = |name: &str, key: &str| {
        let found = secrets.iter().find_map(|secret| secret.strip_prefix(&format!("{name}/{key}")))?;
        Some(if found.is_empty() { "hunter2".into() } else { "x".repeat(81).into() })
    };
    let mut out = String::new();
    for node in &nodes {
        let state = desired(&resources, node, &secret);
        assert_eq!(state, desired(&reversed, node, &secret), "the order of resources changes something");
        out.push_str(&told(node, &state));
    }
    for question in &questions {
        writeln!(out, "=> {question}").unwrap();
        answer(&resources, question).iter().for_each(|line| writeln!(out, "=>   {line}").unwrap());
    }
    out
}

/// Lines, with the indented ones that belong to them.
fn statements(lines: &[&str]) -> Vec<String> {
    let mut statements: Vec<String> = Vec::new();
    for line in lines.iter().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        match statements.last_mut() {
            Some(last) if line.starts_with(' ') => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => statements.push((*line).to_owned()),
        }
    }
    statements
}

fn resource(statement: &str) -> Vec<Resource> {
    let mut words = statement.splitn(2, ' ');
    let (kind, name) = words.next().unwrap().split_once('/').unwrap();
    let kind = Kind::from_name(kind).unwrap_or_else(|| panic!("{statement}"));
    let (namespace, name) = name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
    let (mut labels, mut annotations) = (json!({}), json!({}));
    let mut rest = words.next().unwrap_or_default();
    while let Some((word, after)) = rest.split_once(' ') {
        let Some((key, value)) = word.split_once('=') else { break };
        let value = value.replace('_', " ");
        match key.strip_prefix('@') {
            Some(key) => annotations[key] = value.into(),
            None => labels[key] = value.into(),
        }
        rest = after;
    }
    let mut metadata = json!({"name": name, "labels": labels, "annotations": annotations});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    let document =
        format!("{{apiVersion: {}, kind: {}, metadata: {metadata}, {rest}}}", kind.api_version(), kind.written());
    yaml::parse("case", &document).unwrap_or_else(|problems| panic!("{statement}: {problems:?}"))
}

/// A node's state as a table.
fn told(node: &str, state: &SpeakerState) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "=> {}", text.trim_end()).unwrap();
    match &state.identity {
        None => line(format!("{node} does not speak")),
        Some(identity) => {
            let mut text = format!("{node} AS {} id {}", identity.as_number, identity.router_id);
            if identity.listen_port != 179 {
                write!(text, " port {}", identity.listen_port).unwrap();
            }
            for address in &identity.listen_addresses {
                write!(text, " at {address}").unwrap();
            }
            if let Some(cluster) = identity.cluster_id {
                write!(text, " reflects for {cluster}").unwrap();
            }
            line(text);
        }
    }
    for (key, peer) in &state.peers {
        line(format!("  {:<24} {key:<14} {}", peer.name, session(peer)));
    }
    for (peer, gateway) in &state.gateways {
        line(format!("  {peer} by {gateway}"));
    }
    for (prefix, route) in &state.routes {
        let interface = route.interface.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        let kind = format!("{:?}", route.kind).to_lowercase();
        line(format!("  {prefix:<18} {kind} {}{interface}: {}", route.metric, who_is_told(state, *prefix)));
    }
    for problem in &state.problems {
        line(format!("  ! {problem}"));
    }
    out
}

fn session(peer: &PeerState) -> String {
    let (transport, terms) = (&peer.transport, &peer.terms);
    let mut text = format!("AS {}", transport.remote_as);
    match transport.local_address {
        Some(address) => write!(text, " from {address}").unwrap(),
        None => text.push_str(" from anywhere"),
    }
    let mut add = |is_there: bool, what: String| {
        if is_there {
            write!(text, ", {what}").unwrap();
        }
    };
    add(transport.local_as == transport.remote_as, "iBGP".to_owned());
    add(transport.local_as != transport.remote_as, format!("eBGP as {}", transport.local_as));
    add(transport.passive, "passive".to_owned());
    if let Some(cluster) = terms.cluster_id {
        add(true, format!("{}client of {cluster}", if terms.reflector_client { "" } else { "no " }));
    }
    add(terms.next_hop != NextHopMode::Auto, format!("next hop {:?}", terms.next_hop));
    match &transport.password {
        Some(Password::Known(_)) => add(true, "password".to_owned()),
        Some(Password::Missing(what)) => add(true, format!("no password ({what})")),
        None => {}
    }
    add(transport.ttl_security.is_some(), format!("within {} hops", transport.ttl_security.unwrap_or_default()));
    add(transport.hold_time.as_secs() != 240, format!("hold {:?}", transport.hold_time));
    if let Some(time) = transport.keepalive_time {
        add(true, format!("keepalive {time:?}"));
    }
    add(transport.restart.restart_time.as_secs() != 120, format!("restart {:?}", transport.restart.restart_time));
    add(!transport.restart.long_lived_time.is_zero(), format!("long-lived {:?}", transport.restart.long_lived_time));
    add(terms.allow_own_as != 0, format!("own AS {} times", terms.allow_own_as));
    if terms.max_prefixes != MaxPrefixes::default() {
        let limit = terms.max_prefixes;
        let after = limit.restart_after.map(|time| format!(", again after {time:?}")).unwrap_or_default();
        add(true, format!("at most {} prefixes{after}", limit.count));
    }
    if let Some(role) = transport.role {
        add(true, format!("role {role:?}"));
    }
    if let Some(bfd) = transport.bfd {
        let hops = if bfd.multihop { "multihop" } else { "one hop" };
        add(true, format!("bfd {:?}/{:?} x {} {hops}", bfd.min_tx, bfd.min_rx, bfd.multiplier));
    }
    let families: Vec<String> = transport.families.iter().map(ToString::to_string).collect();
    write!(text, "; IPv{}; {}", families.join(" and "), peer.origin).unwrap();
    text
}

/// Peers that are told a route, and why the others are not.
fn who_is_told(state: &SpeakerState, prefix: config::net::Cidr) -> String {
    let route = &state.routes[&prefix];
    let attributes = Attributes::local(prefix.address());
    let source = Source::Local { kind: route.kind, metric: route.metric, interface: route.interface.as_deref() };
    let candidate = Candidate { prefix, attributes: &attributes, source };
    let mut answers: Vec<(String, Vec<&str>)> = Vec::new();
    for peer in state.peers.values() {
        let internal = peer.transport.local_as == peer.transport.remote_as;
        let answer = match peer.terms.export.judge(&candidate, internal) {
            Judgement::Accept => "told".to_owned(),
            Judgement::Change(changed) => format!("told{}", differences(&attributes, &changed)),
            Judgement::Reject(why) => format!("not told, {why}"),
        };
        match answers.iter_mut().find(|(said, _)| *said == answer) {
            Some((_, peers)) => peers.push(&peer.name),
            None => answers.push((answer, vec![&peer.name])),
        }
    }
    match answers.as_slice() {
        [(answer, _)] => answer.clone(),
        several => several
            .iter()
            .map(|(answer, peers)| format!("{}: {answer}", peers.join(" ")))
            .collect::<Vec<_>>()
            .join("; "),
    }
}

fn differences(from: &Attributes, to: &Attributes) -> String {
    let mut text = String::new();
    if from.local_pref != to.local_pref {
        write!(text, " preference {}", to.local_pref.unwrap_or_default()).unwrap();
    }
    for community in &to.communities {
        write!(text, " {}:{}", community >> 16, community & 0xffff).unwrap();
    }
    for (a, b, c) in &to.large_communities {
        write!(text, " {a}:{b}:{c}").unwrap();
    }
    if from.as_path != to.as_path {
        let numbers: Vec<String> = to.as_path.numbers().map(|number| number.to_string()).collect();
        write!(text, " path {}", numbers.join(" ")).unwrap();
    }
    text
}

/// `import FILTER PREFIX WORD..`
fn answer(resources: &Resources, question: &str) -> Vec<String> {
    let mut words = question.split_whitespace();
    let mut next = || words.next().unwrap_or_else(|| panic!("{question}: too short"));
    let direction = if next() == "import" { Direction::Import } else { Direction::Export };
    let (filter, prefix) = (next().to_owned(), next().parse().unwrap());
    let Some(Resource::BgpFilter(filter)) = resources.get(&Key::cluster(Kind::BgpFilter, filter)) else {
        panic!("{question}: no such filter")
    };
    let mut attributes = Attributes::local(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    let (mut internal, mut is_local, mut metric, mut interface) = (true, false, 1024, None);
    while let Some(word) = words.next() {
        match word {
            "path" => {
                let numbers: Vec<u32> =
                    words.next().unwrap().split(',').map(|number| number.parse().unwrap()).collect();
                attributes.as_path = AsPath::sequence(numbers);
            }
            "community" => add_community(&mut attributes, Community::parse(words.next().unwrap()).unwrap()),
            "preference" => attributes.local_pref = words.next().unwrap().parse().ok(),
            "metric" => metric = words.next().unwrap().parse().unwrap(),
            "interface" => interface = words.next(),
            "local" => is_local = true,
            "external" => internal = false,
            _ => panic!("{question}: {word}?"),
        }
    }
    let source = match is_local {
        true => Source::Local { kind: LocalRouteKind::Endpoint, metric, interface },
        false => Source::Peer { internal },
    };
    explain(filter, direction, &Candidate { prefix, attributes: &attributes, source }, internal)
}

/// Resources of the kinds that come and go while a cluster runs, a few names each.
fn passing() -> impl Strategy<Value = Resource> {
    let endpoint = (0..3u8, any::<bool>(), any::<bool>()).prop_map(|(number, is_own, is_router)| {
        let (node, label) = (if is_own { "n0" } else { "n1" }, if is_router { "app=router " } else { "" });
        format!(
            "WorkloadEndpoint/default/w{number} {label}spec: {{node: {node}, orchestrator: k8s, pod: w{number}, endpoint: eth0, \
             interfaceName: cali{number}, mac: '02:00:00:00:00:01', ipNetworks: [10.65.0.{number}/32], profiles: [p]}}"
        )
    });
    let service = any::<bool>().prop_map(|is_local| {
        let policy = if is_local { "Local" } else { "Cluster" };
        format!("Service/default/s spec: {{type: NodePort, clusterIP: 10.96.0.1, externalTrafficPolicy: {policy}}}")
    });
    let slice = any::<bool>().prop_map(|is_own| {
        let node = if is_own { "n0" } else { "n1" };
        format!(
            "EndpointSlice/default/s kubernetes.io/service-name=s addressType: IPv4, \
             endpoints: [{{addresses: [10.65.0.1], nodeName: {node}}}]"
        )
    });
    let configuration = (any::<bool>(), any::<bool>()).prop_map(|(has_ranges, has_address)| {
        let ranges = if has_ranges { "serviceClusterIPs: [{cidr: 10.96.0.0/12}], " } else { "" };
        let address = if has_address { "localWorkloadPeeringIPV4: 169.254.1.179" } else { "" };
        format!("BGPConfiguration/default spec: {{{ranges}{address}}}")
    });
    let profile = any::<bool>().prop_map(|is_red| {
        format!("Profile/p spec: {{labelsToApply: {{tenant: {}}}}}", if is_red { "red" } else { "blue" })
    });
    let peer = Just(
        "BGPPeer/local spec: {localWorkloadSelector: app == 'router' && tenant == 'red', asNumber: 65001}".to_owned(),
    );
    let node =
        (0..2u8).prop_map(|number| format!("Node/n{number} spec: {{bgp: {{ipv4Address: 10.0.0.{}/24}}}}", number + 1));
    let pool = Just("IPPool/pool spec: {cidr: 10.65.0.0/16}".to_owned());
    let other = Just("NetworkPolicy/default/x spec: {selector: all()}".to_owned());
    let statement = prop_oneof![
        4 => endpoint, 2 => service, 2 => slice, 1 => configuration, 1 => profile, 1 => peer, 1 => node, 1 => pool, 1 => other
    ];
    statement.prop_map(|statement| resource(&statement).remove(0))
}

proptest! {
    /// What comes, goes and changes, and is of no interest, changes nothing.
    #[test]
    fn what_is_of_no_interest_changes_nothing(
        steps in proptest::collection::vec((passing(), proptest::bool::weighted(0.3)), 1..40),
    ) {
        let none = |_: &str, _: &str| None;
        let mut resources = Resources::default();
        let mut interest = Interest::new("n0");
        let mut state = interest.desired(&resources, &none);
        for (resource, is_gone) in steps {
            let key = Arc::new(resource.key());
            match is_gone {
                true => resources.remove(&key),
                false => resources.put(resource),
            }
            let is_concerned = interest.follow(&resources, &[key.clone()].into_iter().collect());
            let now = interest.desired(&resources, &none);
            prop_assert!(is_concerned || now == state, "{key} is of no interest");
            prop_assert_eq!(&now, &desired(&resources, "n0", &none));
            prop_assert_eq!(&interest, &Interest::of(&resources, "n0"));
            state = now;
        }
    }
}

/// A few nodes with labels, addresses, numbers and reflectors, and peers among them.
fn cluster() -> impl Strategy<Value = Vec<Resource>> {
    let node = (any::<[bool; 4]>(), 0..3u8, prop_oneof![3 => Just(0), 1 => 1790..1793u16]);
    let end = prop_oneof![
        Just(String::new()),
        (0..6usize).prop_map(|number| format!("node: n{number}")),
        Just("nodeSelector: has(x)".to_owned()),
        Just("nodeSelector: '!has(y)'".to_owned()),
    ];
    let other = prop_oneof![
        Just("peerSelector: has(y)".to_owned()),
        Just("peerSelector: all()".to_owned()),
        (0..6usize).prop_map(|number| format!("peerIP: 10.0.0.{}", number + 8)),
        (0..6usize).prop_map(|number| format!("peerIP: 'fd00::{}'", number + 8)),
    ];
    let nodes = proptest::collection::vec(node, 1..6);
    let peers = proptest::collection::vec((end, other), 0..4);
    (nodes, peers, any::<bool>()).prop_map(|(nodes, peers, has_mesh)| {
        let mut statements = vec![format!("BGPConfiguration/default spec: {{nodeToNodeMeshEnabled: {has_mesh}}}")];
        for (number, ([has_x, has_y, has_ipv6, is_reflector], system, port)) in nodes.into_iter().enumerate() {
            if port > 0 {
                statements.push(format!("BGPConfiguration/node.n{number} spec: {{listenPort: {port}}}"));
            }
            let labels = [has_x.then_some("x=1 "), has_y.then_some("y=1 ")].into_iter().flatten().collect::<String>();
            let ipv6 = if has_ipv6 { format!(", ipv6Address: 'fd00::{}/64'", number + 8) } else { String::new() };
            let reflects = if is_reflector { ", routeReflectorClusterID: 1.0.0.1" } else { "" };
            let system = if system > 0 { format!(", asNumber: {}", 65000 + u32::from(system)) } else { String::new() };
            statements.push(format!(
                "Node/n{number} {labels}spec: {{bgp: {{ipv4Address: 10.0.0.{}/24{ipv6}{reflects}{system}}}}}",
                number + 8
            ));
        }
        for (number, (end, other)) in peers.into_iter().enumerate() {
            let end = if end.is_empty() { end } else { format!("{end}, ") };
            statements.push(format!("BGPPeer/p{number} spec: {{{end}{other}}}"));
        }
        statements.iter().flat_map(|statement| resource(statement)).collect()
    })
}

proptest! {
    /// Sessions between nodes are on both sides, agree on who they are, and somebody connects.
    #[test]
    fn both_sides_have_a_session(cluster in cluster()) {
        let resources: Resources = cluster.into_iter().collect();
        let none = |_: &str, _: &str| None;
        let names: Vec<String> = resources.nodes().map(|node| node.metadata.name.clone()).collect();
        let states: Vec<SpeakerState> = names.iter().map(|name| desired(&resources, name, &none)).collect();
        let at = |address| states.iter().position(|state| state.peers.values().any(|peer| peer.transport.local_address == Some(address)));
        for state in &states {
            for (key, peer) in &state.peers {
                let Some(number) = at(key.address) else {
                    // Somebody who is no node, or of another number.
                    prop_assert!(!resources.nodes().any(|node| {
                        let bgp = node.spec.bgp.as_ref().unwrap();
                        [bgp.ipv4_address, bgp.ipv6_address].iter().flatten().any(|own| own.address() == key.address)
                    }) || peer.origin != "node-to-node mesh", "{key} has nobody");
                    continue;
                };
                let own = peer.transport.local_address.unwrap();
                let back = states[number].peers.iter().find(|(key, _)| key.address == own);
                prop_assert!(back.is_some(), "{} {key} has no other side", peer.name);
                let (_, back) = back.unwrap();
                prop_assert_eq!(states[number].identity.as_ref().map(|identity| identity.listen_port), Some(key.port));
                prop_assert_eq!(back.transport.local_as, peer.transport.remote_as);
                prop_assert_eq!(back.transport.remote_as, peer.transport.local_as);
                prop_assert!(!(back.transport.passive && peer.transport.passive));
                prop_assert!(peer.kind != PeerKind::LocalWorkload);
                prop_assert_eq!(peer.kind == PeerKind::NodeMesh, back.kind == PeerKind::NodeMesh);
            }
        }
    }
}
