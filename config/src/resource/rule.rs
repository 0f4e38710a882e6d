//! One rule of a policy or profile: the shape, and what makes a rule contradict itself.
//!
//! Within a rule all fields must hold; entries of one list are alternatives; the `not...` lists mean
//! "none of". See: Calico, "Network policy" resource reference, EntityRule.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::check::{Check, quoted};
use super::form::{blank_is_absent, is_default};
use crate::net::{Cidr, IpVersion, Port, Protocol};
use crate::selector::Selector;

/// Rules in one direction of one policy.
const RULES_MAX: usize = 1024;
const NETS_MAX: usize = 256;
const PORTS_MAX: usize = 50;
const HTTP_ENTRIES_MAX: usize = 20;
const HTTP_PATH_MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    Allow,
    Deny,
    /// Log and go on with the next rule.
    Log,
    /// Leave this tier and go on with the next.
    Pass,
}

/// A direction as seen from the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PolicyType {
    Ingress,
    Egress,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub action: Action,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<IpVersion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IcmpFields>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_protocol: Option<Protocol>,
    #[serde(default, rename = "notICMP", skip_serializing_if = "Option::is_none")]
    pub not_icmp: Option<IcmpFields>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub source: EntityRule,
    #[serde(default, skip_serializing_if = "is_default")]
    pub destination: EntityRule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpMatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<RuleMetadata>,
}

impl Rule {
    /// A rule that matches everything.
    pub fn any(action: Action) -> Rule {
        Rule {
            action,
            ip_version: None,
            protocol: None,
            icmp: None,
            not_protocol: None,
            not_icmp: None,
            source: EntityRule::default(),
            destination: EntityRule::default(),
            http: None,
            metadata: None,
        }
    }
}

/// One side of a rule: sender or receiver.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EntityRule {
    #[serde(skip_serializing_if = "is_default")]
    pub nets: Vec<Cidr>,
    /// None when blank: a side with a selector is limited to the policy's namespace, one without is not.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<ServiceMatch>,
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<Port>,
    #[serde(skip_serializing_if = "is_default")]
    pub not_nets: Vec<Cidr>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub not_selector: Option<Selector>,
    #[serde(skip_serializing_if = "is_default")]
    pub not_ports: Vec<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<ServiceAccountMatch>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceMatch {
    pub name: String,
    /// Blank means the policy's own namespace.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceAccountMatch {
    #[serde(skip_serializing_if = "is_default")]
    pub names: Vec<String>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IcmpFields {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

/// Stored and validated; a router of packets matches on the other fields only.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatch {
    #[serde(skip_serializing_if = "is_default")]
    pub methods: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub paths: Vec<HttpPath>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpPath {
    #[serde(skip_serializing_if = "is_default")]
    pub exact: String,
    #[serde(skip_serializing_if = "is_default")]
    pub prefix: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleMetadata {
    #[serde(skip_serializing_if = "is_default")]
    pub annotations: BTreeMap<String, String>,
}

/// Where a list of rules stands, which decides what its rules may say.
#[derive(Debug, Clone, Copy)]
pub(super) struct RuleContext {
    pub(super) direction: PolicyType,
    /// Not inside a namespace, so a service must name its own.
    pub(super) is_global: bool,
}

/// Both lists of a policy or profile.
pub(super) fn validate_rules(ingress: &[Rule], egress: &[Rule], is_global: bool, check: &mut Check) {
    let lists = [("ingress", ingress, PolicyType::Ingress), ("egress", egress, PolicyType::Egress)];
    for (name, rules, direction) in lists {
        check.at_most(name, rules.len(), RULES_MAX);
        let context = RuleContext { direction, is_global };
        check.each(name, rules, |check, rule| rule.validate(context, check));
    }
}

impl Rule {
    fn validate(&self, context: RuleContext, check: &mut Check) {
        self.validate_icmp(check);
        self.validate_families(check);
        self.validate_ports(check);
        for (name, side) in [("source", &self.source), ("destination", &self.destination)] {
            check.field(name, |check| {
                side.validate(check);
                side.validate_services(name, context, check);
            });
        }
        if let Some(http) = &self.http {
            self.validate_http(http, context, check);
        }
        if let Some(metadata) = &self.metadata {
            check.field("metadata", |check| check.annotations("annotations", &metadata.annotations));
        }
    }

    fn validate_icmp(&self, check: &mut Check) {
        let is_icmp = self.protocol.is_some_and(|protocol| implied_version(protocol).is_some());
        for (name, icmp) in [("icmp", &self.icmp), ("notICMP", &self.not_icmp)] {
            let Some(icmp) = icmp else { continue };
            if !is_icmp {
                check.refuse_field(name, "ICMP fields", "none, unless the rule's protocol is ICMP or ICMPv6");
            }
            if icmp.icmp_type == Some(255) {
                check.field(name, |check| check.refuse_field("type", 255, "a number 0-254"));
            }
            if icmp.code.is_some() && icmp.icmp_type.is_none() {
                check.field(name, |check| check.refuse_field("code", "a code without a type", "a type beside it"));
            }
        }
        for (name, protocol) in [("protocol", self.protocol), ("notProtocol", self.not_protocol)] {
            let implied = protocol.and_then(implied_version);
            if let (Some(protocol), Some(implied), Some(asked)) = (protocol, implied, self.ip_version)
                && implied != asked
            {
                let expected = format!("ipVersion {implied}, which {name} {protocol} implies");
                check.refuse_field("ipVersion", asked, expected);
            }
        }
    }

    /// One address family in the whole rule, and the one `ipVersion` names.
    fn validate_families(&self, check: &mut Check) {
        let mut family = self.ip_version;
        for (side_name, side) in [("source", &self.source), ("destination", &self.destination)] {
            for (list_name, nets) in [("nets", &side.nets), ("notNets", &side.not_nets)] {
                check.each(&format!("{side_name}.{list_name}"), nets, |check, net| {
                    let expected = *family.get_or_insert(net.version());
                    if net.version() != expected {
                        check.refuse(net, format!("an IPv{expected} CIDR like the rest of the rule"));
                        check.help("write one rule for each family");
                    }
                });
            }
        }
    }

    fn validate_ports(&self, check: &mut Check) {
        if self.protocol.is_some_and(|protocol| protocol.has_ports()) {
            return;
        }
        for (side_name, side) in [("source", &self.source), ("destination", &self.destination)] {
            for (list_name, ports) in [("ports", &side.ports), ("notPorts", &side.not_ports)] {
                let numeric = ports.iter().find(|port| matches!(port, Port::Numbers(_)));
                if let Some(port) = numeric {
                    let found = match self.protocol {
                        Some(protocol) => format!("port {port} with protocol {protocol}"),
                        None => format!("port {port} without a protocol"),
                    };
                    let path = format!("{side_name}.{list_name}");
                    check.refuse_field(&path, found, "protocol TCP, UDP or SCTP beside numeric ports");
                }
            }
        }
    }

    fn validate_http(&self, http: &HttpMatch, context: RuleContext, check: &mut Check) {
        if self.action != Action::Allow {
            check.refuse_field("http", format_args!("an HTTP match with action {}", self.action), "action Allow");
        }
        if context.direction == PolicyType::Egress {
            check.refuse_field("http", "an HTTP match in an egress rule", "HTTP matches in ingress rules only");
        }
        if let Some(protocol) = self.protocol.filter(|protocol| *protocol != Protocol::TCP) {
            check.refuse_field("http", format_args!("an HTTP match with protocol {protocol}"), "protocol TCP or none");
        }
        check.field("http", |check| http.validate(check));
    }
}

impl EntityRule {
    fn validate(&self, check: &mut Check) {
        check.at_most("nets", self.nets.len(), NETS_MAX);
        check.at_most("notNets", self.not_nets.len(), NETS_MAX);
        check.at_most("ports", self.ports.len(), PORTS_MAX);
        check.at_most("notPorts", self.not_ports.len(), PORTS_MAX);
        check.each("notNets", &self.not_nets, |check, net| {
            if net.length() == 0 {
                check.refuse(net, "a smaller network: not everything leaves nothing to match");
            }
        });
        for (name, selector) in [("selector", &self.selector), ("notSelector", &self.not_selector)] {
            if let Some(selector) = selector {
                check.selector(name, selector);
            }
        }
        if let Some(selector) = &self.namespace_selector {
            check.selector_or_global("namespaceSelector", selector);
        }
        if let Some(accounts) = &self.service_accounts {
            check.field("serviceAccounts", |check| {
                check.each("names", &accounts.names, |check, name| {
                    if !super::check::is_subdomain(name) {
                        check.refuse(quoted(name), "a service account name");
                    }
                });
                if let Some(selector) = &accounts.selector {
                    check.selector("selector", selector);
                }
            });
        }
    }

    fn validate_services(&self, side: &str, context: RuleContext, check: &mut Check) {
        let Some(services) = &self.services else { return };
        let (place, is_in_place) = match context.direction {
            PolicyType::Ingress => ("source", side == "source"),
            PolicyType::Egress => ("destination", side == "destination"),
        };
        if !is_in_place {
            let expected = format!("services in the {place} only, in {} rules", context.direction);
            check.refuse_field("services", format_args!("services in the {side}"), expected);
        }
        let has_ports = !self.ports.is_empty() || !self.not_ports.is_empty();
        let excluded = [
            ("selector", self.selector.is_some()),
            ("notSelector", self.not_selector.is_some()),
            ("namespaceSelector", self.namespace_selector.is_some()),
            ("nets", !self.nets.is_empty()),
            ("notNets", !self.not_nets.is_empty()),
            ("serviceAccounts", self.service_accounts.is_some()),
            // A service brings its own ports.
            ("ports or notPorts", has_ports && context.direction == PolicyType::Egress),
        ];
        for (name, _) in excluded.iter().filter(|(_, is_set)| *is_set) {
            check.refuse_field("services", format_args!("services together with {name}"), "one or the other");
        }
        check.field("services", |check| {
            check.required_name("name", &services.name, "a service name");
            if context.is_global {
                let expected = "the service's namespace: a global rule has none of its own";
                check.required_name("namespace", &services.namespace, expected);
            } else {
                check.name("namespace", &services.namespace);
            }
        });
    }
}

impl HttpMatch {
    fn validate(&self, check: &mut Check) {
        check.at_most("methods", self.methods.len(), HTTP_ENTRIES_MAX);
        check.at_most("paths", self.paths.len(), HTTP_ENTRIES_MAX);
        check.distinct("methods", &self.methods);
        check.each("paths", &self.paths, |check, path| match (path.exact.is_empty(), path.prefix.is_empty()) {
            (true, true) => check.refuse("neither exact nor prefix", "exactly one of them"),
            (false, false) => check.refuse("both exact and prefix", "exactly one of them"),
            (false, true) => check.field("exact", |check| validate_http_path(&path.exact, check)),
            (true, false) => check.field("prefix", |check| validate_http_path(&path.prefix, check)),
        });
    }
}

fn validate_http_path(path: &str, check: &mut Check) {
    let is_path = path.starts_with('/') && !path.contains(['?', '#', ' ', '\t', '\n', '\r']);
    if !is_path || path.len() > HTTP_PATH_MAX {
        check.refuse(quoted(path), "a path starting with '/', without '?', '#' or blanks, at most 1024 bytes");
    }
}

fn implied_version(protocol: Protocol) -> Option<IpVersion> {
    if protocol == Protocol::ICMP {
        Some(IpVersion::V4)
    } else if protocol == Protocol::ICMPV6 {
        Some(IpVersion::V6)
    } else {
        None
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl PolicyType {
    /// As rules and answers name it.
    pub fn word(self) -> &'static str {
        match self {
            PolicyType::Ingress => "ingress",
            PolicyType::Egress => "egress",
        }
    }
}

impl fmt::Display for PolicyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
