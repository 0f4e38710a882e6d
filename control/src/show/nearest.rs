//! What almost turned a decision: looked for in the lists of the one endpoint that was asked, among those who have the two
//! addresses of the packet. However large the cluster is, nothing else is looked at.

use std::collections::BTreeSet;

use config::resource::{PolicyType, Rule};

use crate::node_state::{self, Program};
use crate::policy::Calculation;
use crate::policy::oracle::{Fields, Lists, Member, Near, Oracle, Slice, Verdict};

/// The rule of a program in force that would have turned the verdict and came nearest.
pub fn nearest(
    calculation: &Calculation,
    program: &Program,
    direction: PolicyType,
    fields: &Fields,
    verdict: &Verdict,
) -> Option<Near> {
    let written: Vec<_> = program.blocks().filter_map(|block| calculation.written(block)).collect();
    let services: BTreeSet<(String, String)> =
        written.iter().flat_map(|list| list.rules.iter().flat_map(|rule| services(rule, list.namespace))).collect();
    let slices = services.iter().flat_map(|(namespace, service)| slices(calculation, namespace, service, fields));
    let ends: BTreeSet<_> = [fields.source, fields.destination].into();
    let members = ends.iter().flat_map(|address| calculation.at(*address)).map(|(key, item)| Member {
        name: key.to_string(),
        labels: item.labels.iter().map(|(label, value)| (label.to_string(), value.to_string())).collect(),
        addresses: item.nets.to_vec(),
        ports: item.ports.iter().map(|(name, protocol, port)| (name.to_string(), *protocol, *port)).collect(),
    });
    let oracle = Oracle::of_few(members.collect(), slices.collect());
    let lists = written.into_iter().map(|list| (list.owner, list.namespace, list.rules));
    oracle.nearest(&Lists::written(direction, lists), fields, verdict)
}

/// The Services that a rule of a namespace's policy names.
fn services(rule: &Rule, namespace: Option<&str>) -> Vec<(String, String)> {
    let sides = [&rule.source, &rule.destination];
    let named = sides.into_iter().filter_map(|side| side.services.as_ref()).map(|service| {
        let of = if service.namespace.is_empty() { namespace.unwrap_or_default() } else { &service.namespace };
        (of.to_owned(), service.name.clone())
    });
    named.collect()
}

/// As much of a Service as is about the packet's addresses.
fn slices(calculation: &Calculation, namespace: &str, service: &str, fields: &Fields) -> Vec<Slice> {
    let is_end = |address| address == fields.source || address == fields.destination;
    let members = calculation.service(namespace, service).into_iter();
    let parts = members.map(|member| match member {
        node_state::Member::Net(net) => (net.address(), Vec::new()),
        node_state::Member::Port(address, protocol, port) => (address, vec![(protocol, port)]),
    });
    let slice = |(address, ports)| Slice {
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        addresses: vec![address],
        ports,
    };
    parts.filter(|(address, _)| is_end(*address)).map(slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::felix::FelixSettings;
    use crate::resources::Resources;

    const RESOURCES: &str = "\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n-k8s-web-eth0, namespace: shop, labels: {app: web}}
spec: {node: m, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: cali1, ipNetworks: [10.0.0.1/32]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n-k8s-db-eth0, namespace: shop, labels: {app: db}}
spec: {node: n, orchestrator: k8s, pod: db, endpoint: eth0, interfaceName: cali2, ipNetworks: [10.0.0.2/32]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: all-of-it, labels: {app: api}}
spec: {nets: [10.0.0.128/25]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: api}}}], ports: [{port: 5432}]}]
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n-eth0}
spec: {node: n, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: hosts}
spec:
  selector: '!has(app)'
  applyOnForward: true
  ingress: [{action: Allow, protocol: TCP, source: {selector: app == 'api'}, destination: {ports: [443]}}]
";

    fn check(program: impl Fn(&Calculation) -> &Program, port: u16, expected: &str) {
        let resources: Resources = config::yaml::parse("case", RESOURCES).expect("legal").into_iter().collect();
        let mut calculation = Calculation::new("n", FelixSettings::default());
        calculation.update(&resources, &resources.keys().cloned().collect());
        let address = |text: &str| text.parse().expect("an address");
        let (source, destination) = (address("10.0.0.1"), address("10.0.0.2"));
        let fields = Fields { source, destination, protocol: 6, source_port: 1, destination_port: port, icmp: None };
        let verdict = Verdict { allow: false, rule: String::new(), log: None };
        let found = nearest(&calculation, program(&calculation), PolicyType::Ingress, &fields, &verdict);
        assert_eq!(found.map(|near| near.sentence()).as_deref(), Some(expected));
    }

    #[test]
    fn the_lists_in_force_and_the_two_addresses_are_enough() {
        check(
            |calculation| &calculation.state().endpoints[0].ingress,
            5432,
            "KubernetesNetworkPolicy shop/db ingress[0] allows source projectcalico.org/orchestrator == 'k8s' && app == 'api', in \
             namespace shop; the packet has 10.0.0.1 of WorkloadEndpoint shop/n-k8s-web-eth0 with app=\"web\", \
             projectcalico.org/orchestrator=\"k8s\"",
        );
        check(
            |calculation| calculation.state().host_endpoints[0].forward_ingress.as_ref().expect("a list"),
            443,
            "GlobalNetworkPolicy hosts ingress[0] allows source app == 'api'; the packet has 10.0.0.1 of \
             WorkloadEndpoint shop/n-k8s-web-eth0 with app=\"web\"",
        );
    }
}
