//! A packet as it is described, and what is said of it as JSON.

use std::net::IpAddr;

use config::net::Protocol;
use config::resource::PolicyType;
use control::judge::{Judge, Question, Said};
use control::policy::decided::{Decided, list_name};
use control::policy::oracle::{Fields, Verdict};
use serde::Deserialize;
use serde_json::{Value, json};

/// What is expected of a protocol.
pub const PROTOCOL: &str = "a number from 0 to 255, or one of tcp, udp, icmp, icmpv6, sctp, udplite";

/// One line of `policy eval`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Packet {
    /// Given back as it is.
    #[serde(default)]
    pub id: Value,
    pub src: Option<IpAddr>,
    pub dst: Option<IpAddr>,
    pub proto: Value,
    #[serde(default)]
    pub sport: u16,
    #[serde(default)]
    pub dport: u16,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
    pub endpoint: Option<String>,
    pub interface: Option<String>,
    pub direction: Option<Direction>,
    /// What the packet was sent to before translation: what untracked and preDNAT lists look at.
    #[serde(rename = "preNATDst")]
    pub pre_nat_dst: Option<IpAddr>,
    #[serde(rename = "preNATDport")]
    pub pre_nat_dport: Option<u16>,
}

#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Ingress,
    Egress,
}

impl From<Direction> for PolicyType {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => PolicyType::Ingress,
            Direction::Egress => PolicyType::Egress,
        }
    }
}

impl Packet {
    /// What rules look at.
    pub fn fields(&self) -> Result<Fields, String> {
        let source = self.src.ok_or("src: found nothing, expected an address")?;
        let destination = self.dst.ok_or("dst: found nothing, expected an address")?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(format!("dst: found {destination}, expected an address of the family of {source}"));
        }
        if let Some(before) = self.pre_nat_dst.filter(|before| before.is_ipv4() != source.is_ipv4()) {
            return Err(format!("preNATDst: found {before}, expected an address of the family of {source}"));
        }
        let protocol = protocol(&self.proto)?;
        // Of the other family's ICMP the type is not looked at, by routers neither.
        let has_type = protocol == if source.is_ipv4() { 1 } else { 58 };
        let has_ports = fastpath::header::protocol::has_ports(protocol);
        let before_nat = self.pre_nat_dport.unwrap_or(0);
        for (name, port) in [("sport", self.sport), ("dport", self.dport), ("preNATDport", before_nat)] {
            let is_given = port != 0;
            if is_given && !has_ports {
                return Err(format!("{name}: found a port, expected none for protocol {protocol}"));
            }
        }
        for (name, is_given) in [("icmpType", self.icmp_type.is_some()), ("icmpCode", self.icmp_code.is_some())] {
            if is_given && !has_type {
                return Err(format!("{name}: found a number, expected none for protocol {protocol}"));
            }
        }
        Ok(Fields {
            source,
            destination,
            protocol,
            source_port: self.sport,
            destination_port: self.dport,
            icmp: has_type.then_some((self.icmp_type.unwrap_or(0), self.icmp_code.unwrap_or(0))),
        })
    }

    /// The packet as it was before its destination was translated.
    fn before(&self, fields: &Fields) -> Fields {
        Fields {
            destination: self.pre_nat_dst.unwrap_or(fields.destination),
            destination_port: self.pre_nat_dport.unwrap_or(fields.destination_port),
            ..fields.clone()
        }
    }

    /// What is said of the packet, one list after the other, until one denies.
    pub fn judge(&self, judge: &mut Judge, node: Option<&str>) -> Result<Vec<Said>, String> {
        let fields = self.fields()?;
        judge.ask(&Question {
            endpoint: self.endpoint.clone(),
            interface: self.interface.clone(),
            direction: self.direction.map(PolicyType::from),
            node: node.map(str::to_owned),
            before: self.before(&fields),
            fields,
        })
    }
}

fn protocol(value: &Value) -> Result<u8, String> {
    let refused = || format!("proto: found {value}, expected {PROTOCOL}");
    match value {
        Value::Number(number) => number.as_u64().and_then(|number| u8::try_from(number).ok()).ok_or_else(refused),
        Value::String(text) => named_protocol(text).ok_or_else(refused),
        _ => Err(refused()),
    }
}

/// The number of a protocol, by any spelling of its name or as a number.
pub fn named_protocol(text: &str) -> Option<u8> {
    let known = ["TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite"];
    let exact = known.iter().find(|name| name.eq_ignore_ascii_case(text)).copied();
    match exact {
        Some(name) => Protocol::parse(name).ok().map(|protocol| protocol.number()),
        None => text.parse().ok(),
    }
}

/// A decision as JSON. A list that did not decide has the verdict `pass`.
pub fn said_as_json(said: &Said, judge: &Judge) -> Value {
    let mut json = verdict_as_json(&said.verdict, judge);
    if said.verdict.rule.is_empty() {
        json["verdict"] = json!("pass");
        json["name"] = Value::Null;
    }
    json["direction"] = json!(said.direction().word());
    json["endpoint"] = json!(said.endpoint.as_ref().map(ToString::to_string));
    json["list"] = json!(said.list.map(list_name));
    json
}

pub fn verdict_as_json(verdict: &Verdict, judge: &Judge) -> Value {
    let decided = Decided::by(&verdict.rule, judge.resources());
    let mut json = json!({
        "verdict": if verdict.allow { "allow" } else { "deny" },
        "tier": decided.tier,
        "policy": decided.policy,
        "rule": decided.rule(),
        "position": decided.position,
        "default": decided.default.map(|default| default.name()),
        "name": verdict.rule,
    });
    if let Some(log) = &verdict.log {
        json["log"] = json!(log);
    }
    json
}
