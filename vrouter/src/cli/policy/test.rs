//! policy test: cases beside the manifests, judged by the classifier that routers use; no daemon, no root.
//!
//! ```text
//! shop/web -> shop/db tcp 4000:5432 => allow NetworkPolicy shop/db ingress[0]   # who decides may be left out
//! shop/web -> shop/db tcp6 5432     => allow                                    # by its IPv6 address
//! 192.0.2.1 -> shop/db icmp 8       => deny end-of-tier
//! 192.0.2.1 -> node1 tcp 80 in eth0 => deny end-of-tier                          # by an interface of a HostEndpoint
//! ```
//!
//! An end is an address, `namespace/pod`, the name of a pod that only one namespace has, or that of a HostEndpoint. Ports are `SOURCE:DESTINATION`
//! or the destination's alone; ICMP has `TYPE` or `TYPE/CODE`. What is expected of the rule is its name, or the name of a
//! default. Lists are asked in the order in which a router asks them: the sender's egress before the receiver's ingress.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use config::document::TEXT_MAX;
use config::net::Cidr;
use config::resource::{Resource, WorkloadEndpoint};
use control::judge::{self, Judge};
use control::policy::decided::Decided;
use serde::Serialize;
use serde_json::json;

use super::TestArguments;
use super::packet::{Direction, Packet, named_protocol};
use crate::cli::error::CliError;
use crate::cli::render::{self, harmless};
use crate::cli::{Format, input};

/// By which interface of a host endpoint a packet comes in, or leaves.
const WAYS: [&str; 2] = ["in", "out"];

/// A source port for cases that do not say one.
const ANY_PORT: u16 = 40_000;

#[derive(Debug, Default, Serialize)]
struct Report {
    cases: usize,
    failed: Vec<Failure>,
}

#[derive(Debug, Serialize, PartialEq)]
struct Failure {
    file: String,
    line: usize,
    case: String,
    expected: String,
    found: String,
}

/// False when a case failed.
pub fn test(format: Format, arguments: &TestArguments) -> Result<bool, CliError> {
    let (cases, manifests) = files(&arguments.files)?;
    if cases.is_empty() {
        return Err(CliError::Usage("no file ends in .case; cases stand in such files, beside the manifests".into()));
    }
    let resources = input::read(&manifests, arguments.walk)?;
    let mut judge = Judge::new(resources.into_iter().collect(), arguments.oracle);
    let mut report = Report::default();
    for path in cases {
        let text = read(&path)?;
        run(&path.display().to_string(), &text, &mut judge, &mut report);
    }
    let is_well = report.failed.is_empty();
    let text = render::structured(format, &report)?;
    render::print(&text.unwrap_or_else(|| outline(&report)))?;
    Ok(is_well)
}

/// Files with cases, and what the manifests are read from.
fn files(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<PathBuf>), CliError> {
    let is_cases = |path: &Path| path.extension().is_some_and(|extension| extension == "case");
    let (mut cases, mut manifests) = (Vec::new(), Vec::new());
    for path in paths {
        let failed = |source: io::Error| CliError::Read { path: path.clone(), source };
        if is_cases(path) {
            cases.push(path.clone());
            continue;
        }
        manifests.push(path.clone());
        if fs::metadata(path).map_err(failed)?.is_dir() {
            let entries: Result<Vec<_>, io::Error> = fs::read_dir(path).map_err(failed)?.collect();
            let mut found: Vec<PathBuf> = entries.map_err(failed)?.into_iter().map(|entry| entry.path()).collect();
            found.retain(|path| is_cases(path));
            found.sort();
            cases.extend(found);
        }
    }
    Ok((cases, manifests))
}

fn read(path: &Path) -> Result<String, CliError> {
    let failed = |source| CliError::Read { path: path.to_path_buf(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > TEXT_MAX as u64 {
        return Err(CliError::Usage(format!("{}: {size} bytes, expected at most {TEXT_MAX}", path.display())));
    }
    fs::read_to_string(path).map_err(failed)
}

fn run(file: &str, text: &str, judge: &mut Judge, report: &mut Report) {
    for (number, line) in text.lines().enumerate() {
        let case = line.split('#').next().unwrap_or_default().trim();
        if case.is_empty() {
            continue;
        }
        report.cases += 1;
        let (expected, found) = match check(case, judge) {
            Ok(None) => continue,
            Ok(Some((expected, found))) => (expected, found),
            Err(message) => ("a case that is understood".to_owned(), message),
        };
        report.failed.push(Failure { file: file.to_owned(), line: number + 1, case: case.to_owned(), expected, found });
    }
}

/// What was expected and what was found, when they differ.
fn check(case: &str, judge: &mut Judge) -> Result<Option<(String, String)>, String> {
    let (described, expected) = case.split_once("=>").ok_or("found no =>, expected one before the verdict")?;
    let packet = packet(described, judge)?;
    let expected: Vec<&str> = expected.split_whitespace().collect();
    let (allow, by) = match expected.split_first() {
        Some((&"allow", by)) => (true, by.join(" ")),
        Some((&"deny", by)) => (false, by.join(" ")),
        _ => return Err("found no verdict after =>, expected allow or deny".to_owned()),
    };
    let last = judge::conclusion(&packet.judge(judge, None)?);
    let rule = last.rule.as_str();
    let default = Decided::by(rule, judge.resources()).default.map(|default| default.name());
    if last.allow == allow && (by.is_empty() || by == rule || Some(by.as_str()) == default) {
        return Ok(None);
    }
    let word = |allow| if allow { "allow" } else { "deny" };
    let wanted = format!("{} {by}", word(allow));
    Ok(Some((wanted.trim_end().to_owned(), format!("{} {rule}", word(last.allow)))))
}

/// `FROM -> TO PROTOCOL [PORTS]`
fn packet(text: &str, judge: &Judge) -> Result<Packet, String> {
    let (from, rest) = text.split_once("->").ok_or("found no ->, expected one between sender and receiver")?;
    let mut words = rest.split_whitespace();
    let (Some(to), Some(protocol)) = (words.next(), words.next()) else {
        return Err("found no protocol, expected FROM -> TO PROTOCOL [PORTS]".to_owned());
    };
    let is_literal = |text: &str| text.parse::<IpAddr>().map(|address| address.is_ipv4()).ok();
    let (name, asks_for_ipv6) = match protocol.strip_suffix('6') {
        Some(name) if named_protocol(protocol).is_none() => (name, true),
        _ => (protocol, false),
    };
    let number =
        named_protocol(name).ok_or_else(|| format!("found protocol {protocol:?}, expected tcp, udp6, icmp, 47"))?;
    let wants_ipv4 = match (is_literal(from.trim()), is_literal(to)) {
        (Some(is_ipv4), _) | (None, Some(is_ipv4)) => is_ipv4,
        (None, None) => !asks_for_ipv6 && number != 58,
    };
    let mut packet = Packet {
        src: Some(address(from.trim(), wants_ipv4, judge)?),
        dst: Some(address(to, wants_ipv4, judge)?),
        proto: json!(number),
        ..Packet::default()
    };
    let mut words = words.peekable();
    if let Some(detail) = words.next_if(|word| !WAYS.contains(word)) {
        let number = |text: &str| text.parse::<u16>().map_err(|_| format!("found {text:?}, expected a number"));
        let small = |text: &str| text.parse::<u8>().map_err(|_| format!("found {text:?}, expected 0 to 255"));
        match (number_is_icmp(&packet), detail.split_once(':'), detail.split_once('/')) {
            (true, _, Some((kind, code))) => {
                (packet.icmp_type, packet.icmp_code) = (Some(small(kind)?), Some(small(code)?));
            }
            (true, _, None) => packet.icmp_type = Some(small(detail)?),
            (false, Some((source, destination)), _) => {
                (packet.sport, packet.dport) = (number(source)?, number(destination)?);
            }
            (false, None, _) => (packet.sport, packet.dport) = (ANY_PORT, number(detail)?),
        }
    }
    if let Some(way) = words.next_if(|word| WAYS.contains(word)) {
        let interface = words.next().ok_or_else(|| format!("found nothing after {way}, expected an interface"))?;
        packet.direction = Some(if way == WAYS[0] { Direction::Ingress } else { Direction::Egress });
        packet.interface = Some(interface.to_owned());
    }
    match words.next() {
        Some(word) => Err(format!("found {word:?}, expected => after the packet")),
        None => Ok(packet),
    }
}

fn number_is_icmp(packet: &Packet) -> bool {
    packet.proto == json!(1) || packet.proto == json!(58)
}

/// An address as written, or that of an endpoint.
fn address(text: &str, wants_ipv4: bool, judge: &Judge) -> Result<IpAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let found = addresses(text, judge)?.into_iter().find(|address| address.is_ipv4() == wants_ipv4);
    let family = if wants_ipv4 { "IPv4" } else { "IPv6" };
    found.ok_or_else(|| format!("{text} has no {family} address"))
}

/// All addresses of the endpoint that is called so.
fn addresses(text: &str, judge: &Judge) -> Result<Vec<IpAddr>, String> {
    let resources = judge.resources();
    let of_workload = |endpoint: &WorkloadEndpoint| endpoint.spec.ip_networks.iter().map(Cidr::address).collect();
    if text.contains('/') {
        return match resources.get(&judge.endpoint(text)?) {
            Some(Resource::WorkloadEndpoint(endpoint)) => Ok(of_workload(endpoint)),
            _ => Err(format!("found {text:?}, expected an endpoint")),
        };
    }
    let called = |endpoint: &&WorkloadEndpoint| {
        [&endpoint.spec.pod, &endpoint.spec.workload, &endpoint.metadata.name].iter().any(|name| name.as_str() == text)
    };
    let mut found = resources.workload_endpoints().filter(called);
    let host = resources.host_endpoints().find(|endpoint| endpoint.metadata.name == text);
    match (found.next(), found.next(), host) {
        (Some(endpoint), None, None) => Ok(of_workload(endpoint)),
        (None, _, Some(host)) => Ok(host.spec.expected_ips.clone()),
        (Some(_), Some(_), _) => Err(format!("found {text:?} in several namespaces, expected namespace/pod")),
        (Some(_), None, Some(_)) => {
            Err(format!("found {text:?}, which is also a HostEndpoint, expected namespace/pod"))
        }
        (None, _, None) => {
            Err(format!("found {text:?}, expected an address, the pod of a WorkloadEndpoint, or a HostEndpoint"))
        }
    }
}

fn outline(report: &Report) -> String {
    let mut text = String::new();
    for failure in &report.failed {
        let place = format!("{}:{}", failure.file, failure.line);
        text.push_str(&format!("{}: {}\n", harmless(&place), harmless(&failure.case)));
        text.push_str(&format!(
            "  expected  {}\n  found     {}\n",
            harmless(&failure.expected),
            harmless(&failure.found)
        ));
    }
    text.push_str(&format!("{} cases, {} failed\n", report.cases, report.failed.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOURCES: &str = "\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n-k8s-web-eth0, namespace: shop, labels: {app: web}}
spec: {node: n, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: cali1, ipNetworks: [10.0.0.1/32, fd00::1/128], profiles: [projectcalico-default-allow]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n-k8s-db-eth0, namespace: shop, labels: {app: db}}
spec: {node: n, orchestrator: k8s, pod: db, endpoint: eth0, interfaceName: cali2, ipNetworks: [10.0.0.2/32, fd00::2/128]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == 'web'}, destination: {ports: [5432]}}
  - {action: Allow, protocol: ICMP, icmp: {type: 8}}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: m-eth0}
spec: {node: m, interfaceName: eth0, expectedIPs: [192.0.2.1]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: hosts}
spec: {selector: '!has(app)', ingress: [{action: Allow, protocol: TCP, destination: {ports: [443]}}]}
";

    fn failures(cases: &str) -> Vec<(String, String)> {
        let resources = config::yaml::parse("case", RESOURCES).unwrap();
        let mut judge = Judge::new(resources.into_iter().collect(), false);
        let mut report = Report::default();
        run("a.case", cases, &mut judge, &mut report);
        report.failed.into_iter().map(|failure| (failure.expected, failure.found)).collect()
    }

    #[test]
    fn cases_that_hold() {
        let cases = "\
# who may reach the database
web -> db tcp 4000:5432 => allow NetworkPolicy shop/db ingress[0]
shop/web -> shop/db tcp6 5432 => allow   # by IPv6
web -> db tcp 80 => deny end-of-tier
web -> db tcp 80 => deny Tier default: end of tier, ingress default deny
10.9.9.9 -> db icmp 8/0 => allow NetworkPolicy shop/db ingress[1]
10.9.9.9 -> db icmp 3 => deny
db -> 10.9.9.9 47 => deny no-policy-no-profile
10.9.9.9 -> m-eth0 tcp 443 => allow GlobalNetworkPolicy hosts ingress[0]
10.9.9.9 -> 192.0.2.1 tcp 80 in eth0 => deny end-of-tier
m-eth0 -> 10.9.9.9 tcp 80 out eth0 => deny no-policy-no-profile
m-eth0 -> 10.9.9.9 udp 53 => allow failsafe
";
        assert_eq!(failures(cases), []);
    }

    #[test]
    fn what_differs_is_told_as_expected_and_found() {
        let check = |case: &str, expected: &str, found: &str| {
            assert_eq!(failures(case), [(expected.to_owned(), found.to_owned())], "{case}");
        };
        let denied = "deny Tier default: end of tier, ingress default deny";
        check("web -> db tcp 80 => allow", "allow", denied);
        check(
            "web -> db tcp 5432 => allow NetworkPolicy shop/db ingress[1]",
            "allow NetworkPolicy shop/db ingress[1]",
            "allow NetworkPolicy shop/db ingress[0]",
        );
        let understood = "a case that is understood";
        check("web -> db tcp 80", understood, "found no =>, expected one before the verdict");
        check(
            "web -> nobody tcp 80 => allow",
            understood,
            "found \"nobody\", expected an address, the pod of a WorkloadEndpoint, or a HostEndpoint",
        );
        check("web -> db tcp eighty => allow", understood, "found \"eighty\", expected a number");
        check("web -> db tcp 80 now => allow", understood, "found \"now\", expected => after the packet");
        check("web -> db tcp 80 => maybe", understood, "found no verdict after =>, expected allow or deny");
    }
}
