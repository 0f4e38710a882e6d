//! policy eval: packets as JSON lines in, verdicts as JSON lines out.

use control::judge::{self, Judge};
use serde_json::Value;

use super::EvalArguments;
use super::packet::{Packet, said_as_json, verdict_as_json};
use crate::cli::error::CliError;
use crate::cli::{input, lines};

const EXPECTED: &str = r#"a packet such as {"src": "10.0.0.1", "dst": "10.0.0.2", "proto": "tcp", "dport": 80}"#;

pub fn eval(arguments: &EvalArguments) -> Result<(), CliError> {
    let resources = input::read(&arguments.files, arguments.walk)?;
    let mut judge = Judge::new(resources.into_iter().collect(), arguments.oracle);
    lines::answer(EXPECTED, |packet: Packet| answer(&mut judge, &packet, arguments.node.as_deref()))
}

/// The decision that counts is the last: the one that denied, or that of the receiver. What was asked before is beside it.
fn answer(judge: &mut Judge, packet: &Packet, node: Option<&str>) -> Result<Value, String> {
    let said = packet.judge(judge, node)?;
    let all: Vec<Value> = said.iter().map(|said| said_as_json(said, judge)).collect();
    let decided = said.iter().rposition(|said| !said.verdict.rule.is_empty());
    let mut answer = match decided {
        Some(position) => all[position].clone(),
        None => verdict_as_json(&judge::conclusion(&said), judge),
    };
    if !packet.id.is_null() {
        answer["id"] = packet.id.clone();
    }
    if all.len() > 1 || decided.is_none() {
        answer["decisions"] = Value::Array(all);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RESOURCES: &str = "\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n-k8s-web-eth0, namespace: shop, labels: {app: web}}
spec: {node: n, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: cali1, ipNetworks: [10.0.0.1/32], profiles: [projectcalico-default-allow]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: m-k8s-db-eth0, namespace: shop, labels: {app: db}}
spec: {node: m, orchestrator: k8s, pod: db, endpoint: eth0, interfaceName: cali2, ipNetworks: [10.0.0.2/32]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Log}
  - {action: Allow, protocol: TCP, source: {selector: app == 'web'}, destination: {ports: [5432]}}
  - {action: Deny, protocol: ICMP, icmp: {type: 8}}
";

    fn check(line: &str, expected: &[(&str, Value)]) {
        for by_oracle in [false, true] {
            let resources = config::yaml::parse("case", RESOURCES).unwrap();
            let mut judge = Judge::new(resources.into_iter().collect(), by_oracle);
            let packet = serde_json::from_str::<Packet>(line).map_err(|error| error.to_string());
            let found = packet.and_then(|packet| answer(&mut judge, &packet, None));
            let found = found.unwrap_or_else(|error| json!({ "error": error }));
            for (field, value) in expected {
                assert_eq!(&found[field], value, "{line}: {field} of {found}");
            }
        }
    }

    #[test]
    fn verdicts_with_their_reasons() {
        check(
            r#"{"id": 7, "src": "10.0.0.1", "dst": "10.0.0.2", "proto": "tcp", "sport": 4000, "dport": 5432}"#,
            &[
                ("id", json!(7)),
                ("verdict", json!("allow")),
                ("tier", json!("default")),
                ("policy", json!("NetworkPolicy shop/db")),
                ("rule", json!("ingress[1]")),
                ("position", json!(1)),
                ("default", Value::Null),
                ("direction", json!("ingress")),
                ("log", json!("NetworkPolicy shop/db ingress[0]")),
            ],
        );
        check(
            r#"{"src": "10.0.0.1", "dst": "10.0.0.2", "proto": 6, "dport": 80}"#,
            &[("verdict", json!("deny")), ("tier", json!("default")), ("rule", json!("end-of-tier"))],
        );
        check(
            r#"{"src": "10.9.9.9", "dst": "10.0.0.2", "proto": "ICMP", "icmpType": 8}"#,
            &[("verdict", json!("deny")), ("rule", json!("ingress[2]")), ("decisions", Value::Null)],
        );
        check(
            r#"{"src": "10.0.0.2", "dst": "10.9.9.9", "proto": 253}"#,
            &[("verdict", json!("deny")), ("tier", Value::Null), ("rule", json!("no-policy-no-profile"))],
        );
        check(
            r#"{"src": "10.0.0.1", "dst": "10.9.9.9", "proto": "udp", "endpoint": "shop/web"}"#,
            &[("verdict", json!("allow")), ("policy", json!("Profile projectcalico-default-allow"))],
        );
        check(
            r#"{"src": "1.1.1.1", "dst": "10.9.9.9", "proto": "udp", "interface": "cali2", "direction": "ingress"}"#,
            &[("verdict", json!("deny")), ("endpoint", json!("WorkloadEndpoint shop/m-k8s-db-eth0"))],
        );
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let refused = |line: &str, message: &str| check(line, &[("error", json!(message))]);
        refused(
            r#"{"src": "10.0.0.1", "dst": "fd00::1", "proto": 6}"#,
            "dst: found fd00::1, expected an address of the family of 10.0.0.1",
        );
        refused(
            r#"{"src": "10.0.0.1", "dst": "10.0.0.2", "proto": "tpc"}"#,
            "proto: found \"tpc\", expected a number from 0 to 255, or one of tcp, udp, icmp, icmpv6, sctp, udplite",
        );
        refused(
            r#"{"src": "9.0.0.1", "dst": "9.0.0.2", "proto": 6}"#,
            "neither src 9.0.0.1 nor dst 9.0.0.2 belongs to an endpoint that is asked; say endpoint or interface, and direction",
        );
        refused(
            r#"{"src": "10.0.0.1", "dst": "10.0.0.2", "proto": 6, "icmpType": 8}"#,
            "icmpType: found a number, expected none for protocol 6",
        );
    }
}
