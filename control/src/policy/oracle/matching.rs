//! Whether a rule is about a packet: condition by condition.

use std::net::IpAddr;

use config::net::{Cidr, IpVersion, Port};
use config::resource::{Action, EntityRule, IcmpFields, PolicyType, Rule};
use config::selector::Selector;

use super::members::{self, Labels, Member, NAMESPACE, SERVICE_ACCOUNT, Slice};
use super::{Fields, List, TCP, WrittenRule, word};

/// One packet on its way through the rules.
pub struct Walk<'a> {
    pub fields: &'a Fields,
    pub direction: PolicyType,
    pub members: &'a [Member],
    pub slices: &'a [Slice],
}

impl Walk<'_> {
    /// The first rule that decides, with its name.
    pub fn first(&self, lists: &[List], log: &mut Option<String>) -> Option<(Action, String)> {
        for List { owner, namespace, rules } in lists {
            let matching = rules.iter().enumerate().filter(|(_, written)| match written {
                WrittenRule::Calico(rule) => self.matches(rule, namespace.as_deref()),
                WrittenRule::Kubernetes(rule) => rule.matches(self),
            });
            for (position, rule) in matching {
                let name = format!("{owner} {}[{position}]", word(self.direction));
                match rule.action() {
                    Action::Log => _ = log.get_or_insert(name),
                    action => return Some((action, name)),
                }
            }
        }
        None
    }

    fn matches(&self, rule: &Rule, namespace: Option<&str>) -> bool {
        let Fields { source, protocol, icmp, .. } = *self.fields;
        let is_icmp = |wanted: &IcmpFields| {
            let found = |kind| icmp.is_some_and(|(k, code)| k == kind && wanted.code.is_none_or(|c| c == code));
            wanted.icmp_type.map(found)
        };
        rule.ip_version.is_none_or(|wanted| wanted == IpVersion::of(source))
            && rule.protocol.is_none_or(|wanted| wanted.number() == protocol)
            && rule.not_protocol.is_none_or(|unwanted| unwanted.number() != protocol)
            && rule.icmp.as_ref().and_then(is_icmp).unwrap_or(true)
            && !rule.not_icmp.as_ref().and_then(is_icmp).unwrap_or(false)
            && self.side(&rule.source, End::source(rule, namespace, self.fields))
            && self.side(&rule.destination, End::destination(rule, namespace, self.fields))
    }

    pub fn side(&self, side: &EntityRule, end: End<'_>) -> bool {
        let address = end.address;
        let is_in = |nets: &[Cidr]| nets.iter().any(|net| net.contains(address));
        // A rule that speaks of networks of one family says nothing about the other.
        let is_silent = |nets: &[Cidr]| !nets.is_empty() && nets.iter().all(|net| net.is_ipv4() != address.is_ipv4());
        (side.nets.is_empty() || is_in(&side.nets))
            && !is_silent(&side.not_nets)
            && !is_in(&side.not_nets)
            && (side.ports.is_empty() || self.is_port(&side.ports, side, &end))
            && !self.is_port(&side.not_ports, side, &end)
            && self.is_selected(side, &end)
            && !self.is_excluded(side, &end)
            && self.is_of_service(side, &end)
    }

    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.addresses.iter().any(|net| net.contains(address)))
    }

    /// A number that is listed, or a port of that name of whoever the side selects.
    fn is_port(&self, ports: &[Port], side: &EntityRule, end: &End<'_>) -> bool {
        ports.iter().any(|wanted| match wanted {
            Port::Numbers(range) => range.contains(end.port),
            Port::Named(name) => self.at(end.address).any(|member| {
                let known = (name.as_str().to_string(), end.named_protocol, end.port);
                end.named_protocol == end.protocol
                    && member.ports.contains(&known)
                    && (!is_about_members(side, end.namespace) || is_meant(member, side, end.namespace))
            }),
        })
    }

    pub fn is_selected(&self, side: &EntityRule, end: &End<'_>) -> bool {
        !is_about_members(side, end.namespace)
            || self.at(end.address).any(|member| is_meant(member, side, end.namespace))
    }

    /// Of a side that wants nobody: whether somebody has the address whom it does not want.
    pub fn is_excluded(&self, side: &EntityRule, end: &End<'_>) -> bool {
        !is_about_members(side, end.namespace) && self.at(end.address).any(|member| is_unwanted(member, side))
    }

    fn is_of_service(&self, side: &EntityRule, end: &End<'_>) -> bool {
        let Some(service) = &side.services else { return true };
        let namespace = match service.namespace.as_str() {
            "" => end.namespace.unwrap_or_default(),
            namespace => namespace,
        };
        self.slices.iter().any(|slice| {
            (slice.namespace.as_str(), slice.service.as_str()) == (namespace, service.name.as_str())
                && slice.addresses.contains(&end.address)
                // Where a packet goes is an address and a port; where it comes from, an address.
                && (end.is_source || slice.ports.contains(&(end.protocol, end.port)))
        })
    }
}

/// One end of a packet, as one side of a rule of a policy looks at it.
pub struct End<'a> {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: u8,
    /// The protocol of the ports that names in the rule mean.
    pub named_protocol: u8,
    pub is_source: bool,
    /// Of the policy.
    pub namespace: Option<&'a str>,
}

impl<'a> End<'a> {
    pub fn source(rule: &Rule, namespace: Option<&'a str>, fields: &Fields) -> Self {
        let Fields { source, source_port, protocol, .. } = *fields;
        let named_protocol = named_protocol(rule);
        Self { address: source, port: source_port, protocol, named_protocol, is_source: true, namespace }
    }

    pub fn destination(rule: &Rule, namespace: Option<&'a str>, fields: &Fields) -> Self {
        let Fields { destination, destination_port, protocol, .. } = *fields;
        let named_protocol = named_protocol(rule);
        Self { address: destination, port: destination_port, protocol, named_protocol, is_source: false, namespace }
    }
}

/// A rule that says no protocol means a port of TCP by a name.
fn named_protocol(rule: &Rule) -> u8 {
    const OTHERS: [u8; 2] = [17, 132];
    rule.protocol.map(|protocol| protocol.number()).filter(|number| OTHERS.contains(number)).unwrap_or(TCP)
}

/// A side that wants an address to belong to somebody.
pub fn is_about_members(side: &EntityRule, namespace: Option<&str>) -> bool {
    is_about_labels(side)
        || written(&side.namespace_selector).is_some()
        || (namespace.is_some() && written(&side.not_selector).is_some())
}

fn is_about_labels(side: &EntityRule) -> bool {
    let accounts = side.service_accounts.as_ref();
    written(&side.selector).is_some()
        || accounts.is_some_and(|accounts| !accounts.names.is_empty() || written(&accounts.selector).is_some())
}

/// Whether the selectors of a side select a member, the positive ones and not the negative one.
fn is_meant(member: &Member, side: &EntityRule, namespace: Option<&str>) -> bool {
    is_wanted(member, side, namespace) && !is_unwanted(member, side)
}

fn is_unwanted(member: &Member, side: &EntityRule) -> bool {
    written(&side.not_selector).is_some_and(|selector| selector.matches(&member.labels))
}

pub fn is_wanted(member: &Member, side: &EntityRule, namespace: Option<&str>) -> bool {
    let labels = &member.labels;
    let is_near = match (written(&side.namespace_selector), namespace) {
        (Some(namespaces), _) => members::is_in_namespace(labels, namespaces),
        (None, Some(namespace)) => labels.get(NAMESPACE).map(String::as_str) == Some(namespace),
        (None, None) => true,
    };
    let accounts = side.service_accounts.clone().unwrap_or_default();
    is_near
        && holds(&side.selector, labels)
        && (accounts.names.is_empty() || labels.get(SERVICE_ACCOUNT).is_some_and(|own| accounts.names.contains(own)))
        && holds(&accounts.selector, &members::without_prefix(labels, "pcsa."))
}

pub fn written(selector: &Option<Selector>) -> Option<&Selector> {
    selector.as_ref().filter(|selector| !selector.is_blank())
}

pub fn holds(selector: &Option<Selector>, labels: &Labels) -> bool {
    written(selector).is_none_or(|selector| selector.matches(labels))
}
