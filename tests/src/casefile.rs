//! Cases in text that a network engineer can read and extend.
//!
//! ```text
//! # a changed policy does not cut a connection it had allowed
//! endpoint web 10.0.0.2 fd00::2 role=web
//! endpoint lb  10.0.0.9 role=lb
//! uplink   up  192.0.2.0/24
//! policy   allow-web on role=='web' ingress tcp from role=='lb' to 80
//! lb -> web tcp 4000:80 syn  => forward
//! update   allow-web on role=='web' ingress tcp from role=='lb' to 8080
//! lb -> web tcp 4001:80 syn  => drop policy_ingress
//! ```
//!
//! | line | meaning |
//! |---|---|
//! | `endpoint NAME ADDRESS.. LABEL=VALUE..` | a workload endpoint of this node, in namespace `default` |
//! | `uplink NAME PREFIX.. [has ADDRESS..]` | an uplink with a router behind it that leads to the prefixes; what the host has there |
//! | `host [PREFIX..]` | the way to the host, and what its kernel forwards to |
//! | `hostendpoint NAME UPLINK LABEL=VALUE..` | a host endpoint there; on every uplink with `*`, or where an address is |
//! | `policy NAME [order N] [LIST] on SELECTOR DIRECTION RULE [; RULE].. [DIRECTION ..]` | a global network policy, `LIST` may be `untracked`, `prednat` or `forward` |
//! | `update ..`, `delete NAME` | the same policy changed, or gone; a host endpoint gone |
//! | `setting reevaluate`, `setting preserve` | what a change of policy does to open flows |
//! | `failsafe inbound PORT..`, `failsafe outbound PORT..` | failsafe ports as Felix writes them, or `none`, in place of Calico's |
//! | `FROM -> TO PROTOCOL PORT:PORT FLAG.. => VERDICT` | a packet, and what becomes of it |
//!
//! A rule is `[allow|deny|pass|log] [PROTOCOL] [from PEER] [to PEER|PORTS] [port PORTS]`, a peer a selector or a prefix,
//! and `none` stands for no rule at all. The label `profile` names a profile in its place. The ends of a packet are endpoints,
//! `host`, or addresses behind an uplink or the host; with a name, IPv6 is meant when the protocol ends in 6 (`tcp6`, `udp6`,
//! `echo6`). What the host sends by an uplink takes the way that frames take from its kernel. `echo N`, `reply N` and `proto N`
//! have no ports.
//! Verdicts are `forward`, `answer`, `punt`, and `drop` with the name of the reason or the beginning of it.
//!
//! Everything goes through the control crate's calculation and the whole pipeline. Sources of the form: STYLE §10.

use std::net::IpAddr;

use config::failsafe::FailsafePort;
use config::resource::{Key, Kind};
use fastpath::table::PolicyChange;
use fastpath::table::interface::InterfaceKind;

use crate::node::{NODE, Node};
use crate::packet::{self, Packet};
use crate::plan::{Attachment, Net, Plan, Way};
use crate::router::{Fate, Router};

/// A line that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseError {
    pub line: usize,
    pub message: String,
}

impl std::fmt::Display for CaseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

type Parsed<T> = Result<T, String>;

/// The node itself, as the end of a packet.
const HOST: &str = "host";

/// Plays a case file and returns it with every verdict as it was found. A verdict that agrees with the one in the file
/// stays as it was written.
pub fn play(text: &str) -> Result<String, CaseError> {
    let mut play = Play::default();
    let mut found = String::new();
    for (number, line) in text.lines().enumerate() {
        let line = play.line(line).map_err(|message| CaseError { line: number + 1, message })?;
        found.push_str(&line);
        found.push('\n');
    }
    Ok(found)
}

/// A file being played.
#[derive(Default)]
struct Play {
    node: Node,
    attachments: Vec<Attachment>,
    routes: Vec<(Net, Way)>,
    /// Made at the first packet: endpoints and uplinks come before it.
    router: Option<Router>,
    is_stale: bool,
}

impl Play {
    fn line(&mut self, line: &str) -> Parsed<String> {
        let statement = line.split('#').next().unwrap_or("").trim();
        let (word, rest) = statement.split_once(char::is_whitespace).unwrap_or((statement, ""));
        match word {
            "" => {}
            "endpoint" => self.endpoint(rest)?,
            "uplink" => self.uplink(rest)?,
            "host" if !statement.contains("->") => self.host(rest)?,
            "hostendpoint" => self.host_endpoint(rest)?,
            "policy" | "update" => self.policy(rest)?,
            "delete" => {
                for kind in [Kind::GlobalNetworkPolicy, Kind::HostEndpoint] {
                    self.node.delete(&Key::cluster(kind, rest.trim()));
                }
                self.is_stale = true;
            }
            "setting" => self.setting(rest.trim())?,
            "failsafe" => self.failsafe(rest)?,
            _ if statement.contains("->") => return self.packet(line, statement),
            _ => return Err(format!("{word:?} begins no statement")),
        }
        Ok(line.to_string())
    }

    fn endpoint(&mut self, rest: &str) -> Parsed<()> {
        let (name, mut attachment) = self.attachment(rest, InterfaceKind::Workload)?;
        let (labels, profiles) = labels(rest);
        for word in rest.split_whitespace().skip(1) {
            match word.split_once('=') {
                Some(_) => {}
                None => {
                    attachment
                        .addresses
                        .push(word.parse().map_err(|_| format!("{word:?} is no address and no label"))?);
                }
            }
        }
        let networks: Vec<String> = attachment
            .addresses
            .iter()
            .map(|address| format!("\"{address}/{}\"", if address.is_ipv4() { 32 } else { 128 }))
            .collect();
        let mac: Vec<String> = attachment.peer_mac.iter().map(|byte| format!("{byte:02x}")).collect();
        self.node.apply(&format!(
            "{{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {{name: {NODE}-k8s-{name}-eth0, \
             namespace: default, labels: {{{labels}}}}}, spec: {{node: {NODE}, orchestrator: k8s, pod: {name}, endpoint: eth0, \
             interfaceName: {name}, mac: \"{}\", ipNetworks: [{}], profiles: [{profiles}]}}}}",
            mac.join(":"),
            networks.join(", "),
        ))?;
        self.attachments.push(attachment);
        Ok(())
    }

    fn uplink(&mut self, rest: &str) -> Parsed<()> {
        let (prefixes, own) = rest.split_once(" has ").unwrap_or((rest, ""));
        let (name, mut attachment) = self.attachment(prefixes, InterfaceKind::Uplink)?;
        for net in prefixes.split_whitespace().skip(1) {
            self.routes.push((net_of(net)?, Way::Via(name.clone())));
        }
        let own: Parsed<Vec<IpAddr>> =
            own.split_whitespace().map(|word| word.parse().map_err(|_| format!("{word:?} is no address"))).collect();
        attachment.addresses = own?;
        self.attachments.push(attachment);
        Ok(())
    }

    fn host(&mut self, rest: &str) -> Parsed<()> {
        let (name, attachment) = self.attachment(HOST, InterfaceKind::Host)?;
        for net in rest.split_whitespace() {
            self.routes.push((net_of(net)?, Way::Via(name.clone())));
        }
        self.attachments.push(attachment);
        Ok(())
    }

    fn host_endpoint(&mut self, rest: &str) -> Parsed<()> {
        let mut words = rest.split_whitespace();
        let (Some(name), Some(place)) = (words.next(), words.next()) else {
            return Err("a host endpoint has a name and a place: an uplink, * or an address".to_string());
        };
        let place = match place.parse::<IpAddr>() {
            Ok(_) => format!("expectedIPs: [\"{place}\"]"),
            Err(_) => format!("interfaceName: \"{place}\""),
        };
        let (labels, profiles) = labels(rest);
        self.is_stale = true;
        self.node.apply(&format!(
            "{{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {{name: {name}, labels: {{{labels}}}}}, \
             spec: {{node: {NODE}, {place}, profiles: [{profiles}]}}}}"
        ))
    }

    fn failsafe(&mut self, rest: &str) -> Parsed<()> {
        let (direction, ports) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        let ports = ports.split_whitespace().filter(|word| *word != "none");
        let ports: Parsed<Vec<FailsafePort>> =
            ports.map(|word| FailsafePort::parse(word).ok_or(format!("{word:?} is no failsafe port"))).collect();
        let felix = &mut self.node.choices.felix;
        match direction {
            "inbound" => felix.failsafe_inbound = ports?,
            "outbound" => felix.failsafe_outbound = ports?,
            _ => return Err(format!("{direction:?} is no direction: inbound or outbound")),
        }
        self.is_stale = true;
        Ok(())
    }

    fn attachment(&self, rest: &str, kind: InterfaceKind) -> Parsed<(String, Attachment)> {
        if self.router.is_some() {
            return Err("endpoints and uplinks come before the first packet".to_string());
        }
        let name = rest.split_whitespace().next().ok_or("a name is missing")?;
        let number = self.attachments.len() as u8 + 1;
        let attachment = match kind {
            InterfaceKind::Workload => Attachment::workload(name, number, &[]),
            _ => Attachment::shared(name, number, kind),
        };
        Ok((name.to_string(), attachment))
    }

    fn policy(&mut self, rest: &str) -> Parsed<()> {
        let mut words = rest.split_whitespace().peekable();
        let name = words.next().ok_or("a policy needs a name")?;
        let mut order = String::new();
        if words.next_if_eq(&"order").is_some() {
            order = format!("order: {}, ", words.next().ok_or("a number follows `order`")?);
        }
        let list = match words.next_if(|word| ["untracked", "prednat", "forward"].contains(word)) {
            Some("untracked") => "doNotTrack: true, applyOnForward: true, ",
            Some("prednat") => "preDNAT: true, applyOnForward: true, ",
            Some(_) => "applyOnForward: true, ",
            None => "",
        };
        if words.next() != Some("on") {
            return Err("`on SELECTOR` is missing".to_string());
        }
        let selector = take_until(&mut words, &["ingress", "egress"]);
        let mut directions = [("ingress", Vec::new()), ("egress", Vec::new())];
        let mut types = Vec::new();
        while let Some(direction) = words.next() {
            types.push(if direction == "ingress" { "Ingress" } else { "Egress" });
            let rules = take_until(&mut words, &["ingress", "egress"]);
            let rules: Parsed<Vec<String>> = rules.split(';').filter(|rule| rule.trim() != "none").map(rule).collect();
            directions[usize::from(direction == "egress")].1 = rules?;
        }
        let rules: Vec<String> =
            directions.iter().map(|(direction, rules)| format!("{direction}: [{}]", rules.join(", "))).collect();
        self.node.apply(&format!(
            "{{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {{name: {name}}}, spec: {{{order}{list}\
             selector: \"{selector}\", types: [{}], {}}}}}",
            types.join(", "),
            rules.join(", ")
        ))?;
        self.is_stale = true;
        Ok(())
    }

    fn setting(&mut self, word: &str) -> Parsed<()> {
        self.node.choices.policy_change = match word {
            "preserve" => PolicyChange::Preserve,
            "reevaluate" => PolicyChange::Reevaluate,
            _ => return Err(format!("{word:?} is no setting: preserve or reevaluate")),
        };
        self.is_stale = true;
        Ok(())
    }

    fn packet(&mut self, line: &str, statement: &str) -> Parsed<String> {
        let (what, expected) = statement.split_once("=>").ok_or("`=> VERDICT` is missing")?;
        let (from, rest) = what.split_once("->").ok_or("`->` is missing")?;
        let mut words = rest.split_whitespace();
        let to = words.next().ok_or("a packet goes somewhere")?;
        let protocol = words.next().ok_or("a packet has a protocol")?;
        let details: Vec<&str> = words.collect();
        let is_ipv4 = !protocol.ends_with('6');
        let source = self.address(from.trim(), is_ipv4)?;
        let destination = self.address(to, is_ipv4)?;
        let packet = describe(Packet::new(source, destination), protocol, &details)?;
        let ingress = self.holder(source)?;
        let egress = self.holder(destination).ok();

        let Play { router, node, attachments, routes, is_stale } = self;
        let router = router.get_or_insert_with(|| {
            *is_stale = true;
            let mut plan = Plan::small();
            plan.attachments = attachments.clone();
            plan.routes = routes.clone();
            Router::new(plan)
        });
        if std::mem::take(is_stale) {
            router.publish(|plan, generation| node.tables(plan, generation));
        }
        let is_uplink = |name: &&String| router.plan.at(name).kind == InterfaceKind::Uplink;
        let fate = match egress.as_ref().filter(is_uplink).filter(|_| ingress == HOST) {
            Some(uplink) => router.fate_from_host(uplink, &packet),
            None => router.fate(&ingress, &packet),
        };
        let found = verdict(&fate);
        let expected = expected.trim();
        let agrees = match (found.strip_prefix("drop "), expected.strip_prefix("drop ")) {
            (Some(found), Some(expected)) => found.starts_with(expected.trim()),
            _ => found == expected,
        };
        if agrees {
            return Ok(line.to_string());
        }
        let comment = line.split_once('#').map_or(String::new(), |(_, comment)| format!("  #{comment}"));
        Ok(format!("{}=> {found}{comment}", &line[..line.find("=>").unwrap_or(0)]))
    }

    /// An address as written, or that of an endpoint.
    fn address(&self, word: &str, is_ipv4: bool) -> Parsed<IpAddr> {
        if let Ok(address) = word.parse() {
            return Ok(address);
        }
        let called = |attachment: &&Attachment| {
            attachment.name == word || (word == HOST && attachment.kind == InterfaceKind::Uplink)
        };
        if !self.attachments.iter().any(|attachment| attachment.name == word) {
            return Err(format!("nothing is called {word:?}"));
        }
        let mut addresses = self.attachments.iter().filter(called).flat_map(|attachment| &attachment.addresses);
        let found = addresses.find(|address| address.is_ipv4() == is_ipv4);
        found.copied().ok_or(format!("{word} has no address of that family"))
    }

    /// The attachment behind which an address is.
    fn holder(&self, address: IpAddr) -> Parsed<String> {
        let own = self.attachments.iter().find(|attachment| attachment.addresses.contains(&address));
        let behind = self.routes.iter().find(|(net, _)| net.contains(address)).map(|(_, way)| way);
        match (own, behind) {
            (Some(attachment), _) if attachment.kind == InterfaceKind::Uplink => Ok(HOST.to_string()),
            (Some(attachment), _) => Ok(attachment.name.clone()),
            (None, Some(Way::Via(name))) => Ok(name.clone()),
            _ => Err(format!("nobody has {address}")),
        }
    }
}

/// Labels in YAML's flow form, and the profiles among them.
fn labels(text: &str) -> (String, String) {
    let (profiles, labels): (Vec<_>, Vec<_>) =
        text.split_whitespace().filter_map(|word| word.split_once('=')).partition(|(label, _)| *label == "profile");
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}: {value}")).collect();
    let profiles: Vec<&str> = profiles.into_iter().map(|(_, name)| name).collect();
    (labels.join(", "), profiles.join(", "))
}

fn net_of(word: &str) -> Parsed<Net> {
    let (address, length) = word.split_once('/').unwrap_or((word, "0"));
    let is_net = address.parse::<IpAddr>().is_ok() && length.parse::<u8>().is_ok_and(|length| length <= 128);
    is_net.then(|| Net::new(word)).ok_or(format!("{word:?} is no prefix"))
}

/// Words up to one of `ends`, which stays.
fn take_until<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>, ends: &[&str]) -> String {
    std::iter::from_fn(|| words.next_if(|word| !ends.contains(word))).collect::<Vec<_>>().join(" ")
}

/// A rule as YAML in flow style.
fn rule(text: &str) -> Parsed<String> {
    let mut words = text.split_whitespace().peekable();
    let mut parts = Vec::new();
    let action = words.next_if(|word| ["allow", "deny", "pass", "log"].contains(word)).unwrap_or("allow");
    parts.push(format!("action: {}{}", action[..1].to_uppercase(), &action[1..]));
    let is_keyword = |word: &str| ["from", "to", "port"].contains(&word);
    if let Some(protocol) = words.next_if(|word| !is_keyword(word)) {
        let name = match protocol {
            "icmp" => "ICMP",
            "icmpv6" => "ICMPv6",
            "udplite" => "UDPLite",
            other => &other.to_uppercase(),
        };
        parts.push(format!("protocol: {name}"));
    }
    let (mut source, mut destination) = (Vec::new(), Vec::new());
    while let Some(keyword) = words.next() {
        let value = take_until(&mut words, &["from", "to", "port"]);
        let is_ports = value.chars().all(|c| c.is_ascii_digit() || [',', ':', ' '].contains(&c));
        match keyword {
            "from" => source.push(peer(&value)),
            "to" | "port" if is_ports => destination.push(format!("ports: [{}]", ports(&value))),
            "to" => destination.push(peer(&value)),
            other => return Err(format!("{other:?} has no place in a rule: from, to, port")),
        }
    }
    for (side, fields) in [("source", source), ("destination", destination)] {
        if !fields.is_empty() {
            parts.push(format!("{side}: {{{}}}", fields.join(", ")));
        }
    }
    Ok(format!("{{{}}}", parts.join(", ")))
}

fn peer(value: &str) -> String {
    let is_prefix = value.split(['/', ',']).next().is_some_and(|address| address.parse::<IpAddr>().is_ok());
    if !is_prefix {
        return format!("selector: \"{value}\"");
    }
    let nets: Vec<String> = value.split(',').map(|net| format!("\"{}\"", net.trim())).collect();
    format!("nets: [{}]", nets.join(", "))
}

fn ports(value: &str) -> String {
    value.split(',').map(|port| format!("\"{}\"", port.trim())).collect::<Vec<_>>().join(", ")
}

fn describe(packet: Packet, protocol: &str, details: &[&str]) -> Parsed<Packet> {
    let number = |text: Option<&&str>| -> Parsed<u16> {
        let text = text.ok_or("a number is missing")?;
        text.parse().map_err(|_| format!("{text:?} is no number"))
    };
    let name = protocol.trim_end_matches('6');
    match name {
        "echo" => return Ok(packet.echo_request(number(details.first())?, 1)),
        "reply" => return Ok(packet.echo_reply(number(details.first())?, 1)),
        "proto" => return Ok(packet.raw(number(details.first())? as u8)),
        _ => {}
    }
    let (source, destination) =
        details.first().and_then(|ports| ports.split_once(':')).ok_or("PORT:PORT is missing")?;
    let (source, destination) = (number(Some(&source))?, number(Some(&destination))?);
    let mut flags = 0;
    for word in details.get(1..).unwrap_or_default() {
        flags |= match *word {
            "syn" => packet::SYN,
            "ack" => packet::ACK,
            "fin" => packet::FIN,
            "rst" => packet::RST,
            other => return Err(format!("{other:?} is no TCP flag")),
        };
    }
    match name {
        "tcp" => Ok(packet.tcp(source, destination, if flags == 0 { packet::ACK } else { flags })),
        "udp" => Ok(packet.udp(source, destination)),
        "sctp" => Ok(packet.sctp(source, destination)),
        other => Err(format!("{other:?} is no protocol: tcp, udp, sctp, echo, reply, proto")),
    }
}

fn verdict(fate: &Fate) -> String {
    match fate {
        Fate::Forwarded { .. } => "forward".to_string(),
        Fate::Answered(_) => "answer".to_string(),
        Fate::Punted(_) => "punt".to_string(),
        Fate::Dropped(reason) => format!("drop {}", reason.name()),
        Fate::NotReceived => "lost".to_string(),
    }
}
