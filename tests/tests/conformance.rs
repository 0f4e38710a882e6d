//! Calico's own policy programs and packets, read in place from the shared conformance data.
//!
//! ```text
//! program ─┬─▶ AclSpec ─build─▶ Acl ─evaluate─▶ verdict ─┐
//!          └─▶ walked as it is written ────────▶ verdict ─┴─ both as Calico says
//! ```
//!
//! Programs of hosts are several lists, asked one after the other; [`judge`] has the order, and both ways share it. The data
//! is not part of this repository; without it the test says "skipped" and passes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use config::net::Cidr;
use fastpath::flow::mapped_address;
use fastpath::table::acl::{
    Acl, AclSpec, Action, AddressRange, IcmpMatch, L4Match, Outcome, PortMember, PortRange, ProgramEnd, ProgramSpec,
    Question, RuleSpec, SideMatch, TierEnd, TierSpec,
};
use fastpath::table::{ProgramIndex, RuleIndex};
use serde_json::Value;

/// The lists a program may have, each with the profiles behind it, and whether its end denies.
const LISTS: [(&str, &str, bool); 4] = [
    ("tiers", "profiles", true),
    ("hostPreDnatTiers", "", false),
    ("hostForwardTiers", "", false),
    ("hostNormalTiers", "hostProfiles", true),
];

#[derive(Clone, Copy, Debug)]
struct Packet {
    question: Question,
    before_nat: Question,
    is_from_or_to_host: bool,
}

#[test]
fn programs_decide_as_calico_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/policy-verdicts.jsonl");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is not here", path.display());
        return;
    };
    let (mut programs, mut packets) = (0, 0);
    let mut wrong = Vec::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        programs += 1;
        let compiled = Compiled::of(&case);
        for (field, expected) in
            [("allowed", Outcome::Allow), ("dropped", Outcome::Deny), ("unmatched", Outcome::Undecided)]
        {
            for described in list(&case[field]) {
                let packet = packet(described);
                packets += 1;
                let by_tables = judge(&case["policy"], &packet, |list, question| compiled.ask(list, question));
                let by_hand = judge(&case["policy"], &packet, |list, question| walk(&case, list, question));
                if (by_tables, by_hand) != (expected, expected) {
                    let id = &case["id"];
                    wrong.push(format!("{id} {described}: {expected:?}, tables {by_tables:?}, by hand {by_hand:?}"));
                }
            }
        }
    }
    println!("{programs} programs, {packets} packets");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(programs >= 99 && packets >= 595, "the data has shrunk: {programs} programs, {packets} packets");
}

/// The order in which the lists of a program are asked.
fn judge(policy: &Value, packet: &Packet, ask: impl Fn(usize, &Question) -> Outcome) -> Outcome {
    let is = |field: &str| policy[field] == Value::Bool(true);
    let has = |list: usize| !list_of(policy, list).is_empty();
    if is("forXDP") {
        return ask(3, &packet.question);
    }
    let before = if has(1) { ask(1, &packet.before_nat) } else { Outcome::Undecided };
    let host = match before {
        Outcome::Undecided if packet.is_from_or_to_host && is("suppressNormalHostPolicy") => Outcome::Allow,
        Outcome::Undecided if packet.is_from_or_to_host && is("forHostInterface") => ask(3, &packet.question),
        Outcome::Undecided if !packet.is_from_or_to_host && has(2) => ask(2, &packet.question),
        decided => decided,
    };
    match host {
        Outcome::Deny => Outcome::Deny,
        // Nothing forbade it on the way through the host.
        Outcome::Allow | Outcome::Undecided if is("forHostInterface") => Outcome::Allow,
        Outcome::Allow | Outcome::Undecided => ask(0, &packet.question),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn list_of(policy: &Value, position: usize) -> &[Value] {
    list(&policy[LISTS[position].0])
}

fn packet(value: &Value) -> Packet {
    let address = |field: &str| value[field].as_str().map(|text| text.parse::<IpAddr>().unwrap());
    let number = |field: &str| value[field].as_u64().unwrap_or(0);
    let (source, destination) = (address("src").unwrap(), address("dst").unwrap());
    let protocol = number("proto") as u8;
    let has_type = protocol == if source.is_ipv4() { 1 } else { 58 };
    let question = Question {
        source: mapped_address(source),
        destination: mapped_address(destination),
        is_ipv4: source.is_ipv4(),
        protocol,
        source_port: number("sport") as u16,
        destination_port: number("dport") as u16,
        icmp: has_type.then(|| (number("icmpType") as u8, number("icmpCode") as u8)),
    };
    let mut before_nat = question;
    if let Some(address) = address("preNATDst") {
        before_nat.destination = mapped_address(address);
        before_nat.destination_port = number("preNATDport") as u16;
    }
    let is = |field: &str| value[field] == Value::Bool(true);
    Packet { question, before_nat, is_from_or_to_host: is("fromHost") || is("toHost") }
}

fn protocol(value: &Value) -> u8 {
    match value.as_str() {
        None => value.as_u64().unwrap() as u8,
        Some("icmp") => 1,
        Some("tcp") => 6,
        Some("udp") => 17,
        Some("icmpv6") => 58,
        Some("sctp") => 132,
        Some("udplite") => 136,
        Some(other) => other.parse().unwrap(),
    }
}

fn range(text: &str) -> AddressRange {
    let cidr = if text.contains('/') { Cidr::parse(text).unwrap() } else { Cidr::host(text.parse().unwrap()) };
    let bits = if cidr.is_ipv4() { 32 } else { 128 } - u32::from(cidr.length());
    let first = mapped_address(cidr.masked().address());
    (first, first | (1u128.checked_shl(bits).unwrap_or(0).wrapping_sub(1)))
}

fn is_ports(member: &str) -> bool {
    member.contains(',')
}

/// `10.0.0.2/32,tcp:80`
fn port_member(member: &str) -> PortMember {
    let (address, port) = member.split_once(',').unwrap();
    let (name, number) = port.split_once(':').unwrap();
    (range(address).0, protocol(&Value::from(name)), number.parse().unwrap())
}

fn members<'a>(case: &'a Value, set: &str) -> Vec<&'a str> {
    list(&case["ipSets"][set]).iter().map(|member| member.as_str().unwrap()).collect()
}

fn action(rule: &Value) -> Action {
    match rule["action"].as_str().unwrap().to_ascii_lowercase().as_str() {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        "pass" | "next-tier" => Action::Pass,
        "log" => Action::Log,
        other => panic!("action {other}"),
    }
}

fn passes(tier: &Value) -> bool {
    tier["endAction"] == "pass"
}

/// A program compiled, and where its lists are.
struct Compiled {
    acl: Acl,
}

impl Compiled {
    fn of(case: &Value) -> Compiled {
        let mut spec = AclSpec::default();
        let (mut sets, mut port_sets) = (BTreeMap::new(), BTreeMap::new());
        for name in case["ipSets"].as_object().unwrap().keys() {
            let members = members(case, name);
            if members.iter().any(|member| is_ports(member)) {
                port_sets.insert(name.clone(), spec.port_sets.len());
                spec.port_sets.push(members.into_iter().map(port_member).collect());
            } else {
                sets.insert(name.clone(), spec.sets.len());
                spec.sets.push(members.into_iter().map(range).collect());
            }
        }
        let rule = |value: &Value| rule(value, &sets, &port_sets);
        for (tiers, profiles, denies) in LISTS {
            let mut blocks = |owners: &Value| -> Vec<usize> {
                let rules = list(owners).iter().map(|owner| list(&owner["rules"]).iter().map(rule).collect());
                let first = spec.blocks.len();
                spec.blocks.extend(rules);
                (first..spec.blocks.len()).collect()
            };
            let mut program = ProgramSpec { tiers: Vec::new(), profiles: Vec::new(), end: ProgramEnd::Undecided };
            for tier in list(&case["policy"][tiers]) {
                let end = if passes(tier) { TierEnd::Pass } else { TierEnd::Deny(RuleIndex(0)) };
                let blocks = blocks(&tier["policies"]);
                program.tiers.push(TierSpec { blocks, end });
            }
            program.profiles = blocks(&case["policy"][profiles]);
            if denies && case["policy"]["forXDP"] != Value::Bool(true) {
                program.end = ProgramEnd::Deny(RuleIndex(0));
            }
            spec.programs.push(program);
        }
        Compiled { acl: Acl::build(&spec) }
    }

    fn ask(&self, list: usize, question: &Question) -> Outcome {
        let program = ProgramIndex(list as u32);
        let classes = self.acl.classify(question);
        let decision = self.acl.evaluate(program, &classes);
        assert_eq!(decision, self.acl.evaluate_plainly(program, &classes));
        decision.outcome
    }
}

fn rule(value: &Value, sets: &BTreeMap<String, usize>, port_sets: &BTreeMap<String, usize>) -> RuleSpec {
    let icmp = |field: &str| {
        let kind = value[field]["type"].as_u64()? as u8;
        Some(IcmpMatch { kind, code: value[field]["code"].as_u64().map(|code| code as u8) })
    };
    let number = |field: &str| Some(&value[field]).filter(|value| !value.is_null()).map(protocol);
    let l4 = L4Match {
        is_ipv4: None,
        protocol: number("protocol"),
        not_protocol: number("notProtocol"),
        icmp: icmp("icmp"),
        not_icmp: icmp("notIcmp"),
    };
    let side = |prefix: &str, not: &str| {
        let nets = |field: String| list(&value[field]).iter().map(|net| range(net.as_str().unwrap())).collect();
        let ports = |field: String| -> Vec<PortRange> { list(&value[field]).iter().map(port_range).collect() };
        let named = |field: String, sets: &BTreeMap<String, usize>| -> Vec<usize> {
            list(&value[field]).iter().map(|id| sets[id.as_str().unwrap()]).collect()
        };
        SideMatch {
            nets: nets(format!("{prefix}Net")),
            not_nets: nets(format!("{not}Net")),
            sets: named(format!("{prefix}IpSetIds"), sets),
            not_sets: named(format!("{not}IpSetIds"), sets),
            ports: ports(format!("{prefix}Ports")),
            not_ports: ports(format!("{not}Ports")),
            named_ports: named(format!("{prefix}NamedPortIpSetIds"), port_sets),
            not_named_ports: named(format!("{not}NamedPortIpSetIds"), port_sets),
            ..SideMatch::default()
        }
    };
    let (source, destination) = (side("src", "notSrc"), side("dst", "notDst"));
    RuleSpec { l4, source, destination, action: action(value), index: RuleIndex(0) }
}

fn port_range(value: &Value) -> PortRange {
    (value["first"].as_u64().unwrap() as u16, value["last"].as_u64().unwrap() as u16)
}

/// The obvious way: every rule of the list as it is written.
fn walk(case: &Value, position: usize, question: &Question) -> Outcome {
    let (tiers, profiles, denies) = LISTS[position];
    let policy = &case["policy"];
    let first = |owners: &Value| {
        let rules = list(owners).iter().flat_map(|owner| list(&owner["rules"]));
        rules.filter(|rule| holds(case, rule, question)).map(action).find(|action| *action != Action::Log)
    };
    for tier in list(&policy[tiers]) {
        match first(&tier["policies"]) {
            Some(Action::Allow) => return Outcome::Allow,
            Some(Action::Deny) => return Outcome::Deny,
            None if !passes(tier) => return Outcome::Deny,
            _ => {}
        }
    }
    match first(&policy[profiles]) {
        Some(Action::Allow) => Outcome::Allow,
        None if !denies || policy["forXDP"] == Value::Bool(true) => Outcome::Undecided,
        _ => Outcome::Deny,
    }
}

fn holds(case: &Value, rule: &Value, question: &Question) -> bool {
    let is_protocol =
        |field: &str| Some(&rule[field]).filter(|v| !v.is_null()).map(|v| protocol(v) == question.protocol);
    let is_icmp = |field: &str| {
        let wanted = Some(&rule[field]).filter(|value| !value.is_null())?;
        let same = |field: &str, found: u8| wanted[field].as_u64().is_none_or(|wanted| wanted == u64::from(found));
        Some(question.icmp.is_some_and(|(kind, code)| same("type", kind) && same("code", code)))
    };
    is_protocol("protocol") != Some(false)
        && is_protocol("notProtocol") != Some(true)
        && is_icmp("icmp") != Some(false)
        && is_icmp("notIcmp") != Some(true)
        && side_holds(case, rule, ("src", "notSrc"), question.source, question.protocol, question.source_port)
        && side_holds(case, rule, ("dst", "notDst"), question.destination, question.protocol, question.destination_port)
}

fn side_holds(case: &Value, rule: &Value, names: (&str, &str), address: u128, protocol: u8, port: u16) -> bool {
    let is_inside = |text: &str| range(text).0 <= address && address <= range(text).1;
    let entries = |prefix: &str, suffix: &str| list(&rule[format!("{prefix}{suffix}")]).to_vec();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let in_net = |net: &Value| is_inside(&text(net));
    let in_set = |set: &Value| members(case, &text(set)).into_iter().any(is_inside);
    let in_port = |range: &Value| port_range(range).0 <= port && port <= port_range(range).1;
    let in_named = |set: &Value| {
        members(case, &text(set)).into_iter().any(|member| port_member(member) == (address, protocol, port))
    };
    let (wanted, unwanted) = names;
    let nets = entries(wanted, "Net");
    let (ports, named) = (entries(wanted, "Ports"), entries(wanted, "NamedPortIpSetIds"));
    (nets.is_empty() || nets.iter().any(in_net))
        && entries(wanted, "IpSetIds").iter().all(in_set)
        && (ports.is_empty() && named.is_empty() || ports.iter().any(in_port) || named.iter().any(in_named))
        && !entries(unwanted, "Net").iter().any(in_net)
        && !entries(unwanted, "IpSetIds").iter().any(in_set)
        && !entries(unwanted, "Ports").iter().any(in_port)
        && !entries(unwanted, "NamedPortIpSetIds").iter().any(in_named)
}
