//! The rule that almost matched: what a person wants to know who asks why.
//!
//! Of the rules that would have decided otherwise, the one whose conditions fail in the fewest places; of several, the
//! first. A rule that matches and was not reached counts as the nearest of all.

use config::net::{IpVersion, Port};
use config::resource::{Action, EntityRule, Rule};

use super::matching::{End, Walk, is_about_members, is_wanted, written};
use super::{Fields, Lists, Oracle, Verdict, WrittenRule, word};

/// A rule that did not decide, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Near {
    /// As rules are named everywhere.
    pub rule: String,
    pub would_allow: bool,
    /// Empty when it matches and another rule was before it.
    pub differences: Vec<Difference>,
}

/// One condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What the rule wants, such as `destination port 443`.
    pub wanted: String,
    /// What the packet has, such as `80`.
    pub found: String,
}

impl Oracle {
    /// The rule that would have turned the verdict and came nearest.
    pub fn nearest(&self, lists: &Lists, fields: &Fields, verdict: &Verdict) -> Option<Near> {
        let walk = Walk { fields, direction: lists.direction, members: &self.members, slices: &self.slices };
        let wanted = if verdict.allow { Action::Deny } else { Action::Allow };
        let all = lists.tiers.iter().flat_map(|tier| &tier.lists).chain(&lists.profiles);
        let mut nearest: Option<Near> = None;
        for list in all {
            for (position, rule) in list.rules.iter().enumerate() {
                let WrittenRule::Calico(rule) = rule else { continue };
                if rule.action != wanted {
                    continue;
                }
                let name = format!("{} {}[{position}]", list.owner, word(lists.direction));
                let differences = walk.differences(rule, list.namespace.as_deref());
                if nearest.as_ref().is_none_or(|known| differences.len() < known.differences.len()) {
                    nearest = Some(Near { rule: name, would_allow: !verdict.allow, differences });
                }
            }
        }
        nearest
    }
}

impl Walk<'_> {
    fn differences(&self, rule: &Rule, namespace: Option<&str>) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut differs = |holds: bool, wanted: String, found: String| {
            if !holds {
                differences.push(Difference { wanted, found });
            }
        };
        let Fields { source, protocol, icmp, .. } = *self.fields;
        let family = |version| if version == IpVersion::V4 { "IPv4" } else { "IPv6" };
        if let Some(version) = rule.ip_version {
            let own = IpVersion::of(source);
            differs(version == own, family(version).into(), family(own).into());
        }
        let own = crate::show::protocol_name(protocol);
        if let Some(wanted) = rule.protocol {
            differs(wanted.number() == protocol, format!("protocol {wanted}"), own.clone());
        }
        if let Some(unwanted) = rule.not_protocol {
            differs(unwanted.number() != protocol, format!("any protocol but {unwanted}"), own);
        }
        for (fields, is_wanted) in [(&rule.icmp, true), (&rule.not_icmp, false)] {
            let Some(fields) = fields else { continue };
            let Some(kind) = fields.icmp_type else { continue };
            let is_it = icmp.is_some_and(|(k, code)| k == kind && fields.code.is_none_or(|wanted| wanted == code));
            let code = fields.code.map_or(String::new(), |code| format!(" code {code}"));
            let but = if is_wanted { "" } else { "any but " };
            let found = icmp.map_or("none".to_owned(), |(kind, code)| format!("type {kind} code {code}"));
            differs(is_it == is_wanted, format!("{but}ICMP type {kind}{code}"), found);
        }
        differences.extend(self.of_side("source", &rule.source, End::source(rule, namespace, self.fields)));
        differences.extend(self.of_side(
            "destination",
            &rule.destination,
            End::destination(rule, namespace, self.fields),
        ));
        differences
    }

    fn of_side(&self, name: &str, side: &EntityRule, end: End<'_>) -> Vec<Difference> {
        let mut differences = Vec::new();
        // Each condition alone, by leaving out all others.
        let mut differs = |only: EntityRule, wanted: String, found: String| {
            if !self.side(&only, End { ..end }) {
                differences.push(Difference { wanted, found });
            }
        };
        let address = end.address.to_string();
        if !side.nets.is_empty() {
            let only = EntityRule { nets: side.nets.clone(), ..EntityRule::default() };
            differs(only, format!("{name} in {}", join(&side.nets)), address.clone());
        }
        if !side.not_nets.is_empty() {
            let only = EntityRule { not_nets: side.not_nets.clone(), ..EntityRule::default() };
            differs(only, format!("{name} not in {}", join(&side.not_nets)), address.clone());
        }
        for (ports, is_wanted) in [(&side.ports, true), (&side.not_ports, false)] {
            if ports.is_empty() {
                continue;
            }
            // Port names are those of whoever is selected.
            let selecting = EntityRule { ports: Vec::new(), not_ports: Vec::new(), ..side.clone() };
            let only_by_name = ports.iter().all(|port| matches!(port, Port::Named(_)));
            let base = if only_by_name { selecting } else { EntityRule::default() };
            let word = if ports.len() > 1 { "ports" } else { "port" };
            let (only, wanted) = match is_wanted {
                true => (EntityRule { ports: ports.clone(), ..base }, format!("{name} {word} {}", join(ports))),
                false => (
                    EntityRule { not_ports: ports.clone(), ..base },
                    format!("{name} {word} other than {}", join(ports)),
                ),
            };
            differs(only, wanted, end.port.to_string());
        }
        if let Some(service) = &side.services {
            let only = EntityRule { services: side.services.clone(), ..EntityRule::default() };
            differs(only, format!("{name} of Service {}", service.name), format!("{address}:{}", end.port));
        }
        let is_wanted = |member: &super::Member| is_wanted(member, side, end.namespace);
        if is_about_members(side, end.namespace) && !self.at(end.address).any(is_wanted) {
            differences
                .push(Difference { wanted: format!("{name} {}", selection(side, &end)), found: self.who(&end, side) });
        } else if !self.is_selected(side, &end) || self.is_excluded(side, &end) {
            let unwanted = written(&side.not_selector).map(|selector| selector.text().to_owned()).unwrap_or_default();
            differences.push(Difference { wanted: format!("{name} not {unwanted}"), found: self.who(&end, side) });
        }
        differences
    }

    /// Who has the address, with the labels that the side speaks of.
    fn who(&self, end: &End<'_>, side: &EntityRule) -> String {
        let text = selection(side, end) + &written(&side.not_selector).map(|s| s.text().to_owned()).unwrap_or_default();
        let describe = |member: &super::Member| {
            let spoken_of = member.labels.iter().filter(|(name, _)| {
                let bare = name.strip_prefix("pcns.").or(name.strip_prefix("pcsa.")).unwrap_or(name);
                let is_elsewhere =
                    end.namespace.is_some_and(|namespace| member.labels.get(*name).is_some_and(|own| own != namespace));
                text.contains(bare) || (name.as_str() == super::members::NAMESPACE && is_elsewhere)
            });
            let labels: Vec<String> = spoken_of.map(|(name, value)| format!("{name}={value:?}")).collect();
            match labels.is_empty() {
                true => format!("{} without such labels", member.name),
                false => format!("{} with {}", member.name, labels.join(", ")),
            }
        };
        let all: Vec<String> = self.at(end.address).take(MAX_MEMBERS).map(describe).collect();
        match all.is_empty() {
            true => format!("{}, which belongs to nobody known", end.address),
            false => format!("{} of {}", end.address, all.join(" and ")),
        }
    }
}

/// Owners of one address that are told.
const MAX_MEMBERS: usize = 3;

/// The positive selectors of a side as one text.
fn selection(side: &EntityRule, end: &End<'_>) -> String {
    let mut parts = Vec::new();
    if let Some(selector) = written(&side.selector) {
        parts.push(selector.text().to_owned());
    }
    let accounts = side.service_accounts.clone().unwrap_or_default();
    if !accounts.names.is_empty() {
        parts.push(format!("serviceaccount {}", accounts.names.join(" or ")));
    }
    if let Some(selector) = written(&accounts.selector) {
        parts.push(format!("serviceaccount labels {}", selector.text()));
    }
    match (written(&side.namespace_selector), end.namespace) {
        (Some(selector), _) => parts.push(format!("namespace {}", selector.text())),
        (None, Some(namespace)) => parts.push(format!("in namespace {namespace}")),
        (None, None) => {}
    }
    parts.join(", ")
}

fn join(list: &[impl ToString]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Near {
    /// One sentence.
    pub fn sentence(&self) -> String {
        let verb = if self.would_allow { "allows" } else { "denies" };
        if self.differences.is_empty() {
            return format!("{} {verb} the packet, and another rule comes before it", self.rule);
        }
        let wanted: Vec<&str> = self.differences.iter().map(|difference| difference.wanted.as_str()).collect();
        let found: Vec<&str> = self.differences.iter().map(|difference| difference.found.as_str()).collect();
        format!("{} {verb} {}; the packet has {}", self.rule, wanted.join(" and "), found.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;
    use config::resource::PolicyType;
    use std::net::IpAddr;

    const RESOURCES: &str = "\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n-k8s-web-eth0, namespace: shop, labels: {app: web}}
spec: {node: n, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: cali1, ipNetworks: [10.0.0.1/32]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n-k8s-db-eth0, namespace: shop, labels: {app: db}}
spec: {node: n, orchestrator: k8s, pod: db, endpoint: eth0, interfaceName: cali2, ipNetworks: [10.0.0.2/32]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == 'api'}, destination: {ports: [5432]}}
  - {action: Deny, protocol: UDP, source: {nets: [10.0.0.0/8]}}
  - {action: Allow, protocol: UDP}
  - {action: Allow, protocol: ICMP, icmp: {type: 8}, source: {notNets: [10.0.0.0/24]}}
";

    fn check(protocol: u8, port: u16, expected: &str) {
        let resources: Resources = config::yaml::parse("case", RESOURCES).expect("legal").into_iter().collect();
        let db = resources.workload_endpoints().find(|endpoint| endpoint.spec.pod == "db").expect("the pod");
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let icmp = (protocol == 1).then_some((8, 0));
        let (source, destination) = (address("10.0.0.1"), address("10.0.0.2"));
        let fields = Fields { source, destination, protocol, source_port: 4000, destination_port: port, icmp };
        let oracle = Oracle::new(&resources);
        let lists = Lists::of_workload(&resources, db, PolicyType::Ingress);
        let verdict = oracle.judge(&lists, &fields);
        let near = oracle.nearest(&lists, &fields, &verdict).map(|near| near.sentence());
        assert_eq!(near.as_deref(), Some(expected));
    }

    #[test]
    fn the_rule_that_almost_matched_is_told_with_what_differed() {
        check(
            6,
            5432,
            "NetworkPolicy shop/db ingress[0] allows source app == 'api', in namespace shop; the packet has \
             10.0.0.1 of WorkloadEndpoint shop/n-k8s-web-eth0 with app=\"web\"",
        );
        check(17, 53, "NetworkPolicy shop/db ingress[2] allows the packet, and another rule comes before it");
        check(1, 0, "NetworkPolicy shop/db ingress[2] allows protocol UDP; the packet has icmp");
        check(47, 0, "NetworkPolicy shop/db ingress[2] allows protocol UDP; the packet has 47");
    }
}
