//! What policy says about a packet, by walking the resources as they were written.
//!
//! No index, no set, no block: for every packet the policies are collected and sorted again, every selector is evaluated
//! on every endpoint, rules are tried one after the other. It shares nothing with the rest of this folder but
//! the resources, the selector language and the text by which people know a rule, so a fault there does not repeat itself
//! here. Tests compare the two; `vrouter policy eval --oracle` asks this one.
//!
//! ```text
//! tiers in order ─▶ policies of the tier that select the endpoint, in order ─▶ rules, one by one
//!       │ no policy selects it: next tier         Allow, Deny: decided     Log: noted, next rule     Pass: next tier
//!       │ no rule decided: what the tier says
//!       └─▶ after the last tier: profiles in the order listed ─▶ nothing decided: deny
//! ```
//!
//! A selector in a rule means addresses: a packet's address is selected if some endpoint of the cluster has it and is
//! selected. In a namespace's policy that endpoint has to be of the namespace, unless a namespace selector says otherwise.
//! Left out: what this version refuses (named ports, services, HTTP), and which endpoint a packet belongs to.
//! Sources: Calico's reference of NetworkPolicy, GlobalNetworkPolicy, Tier and Profile; for networks of one family in a
//! rule without `ipVersion`, `felix/rules/policy.go` (`FilterRuleToIPVersion`).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;

use config::net::{Cidr, IpVersion, Port};
use config::resource::{
    Action, EntityRule, FIXED_TIERS, IcmpFields, Key, Kind, PolicyType, Resource, Rule, TierAction, WorkloadEndpoint,
};
use config::selector::Selector;

use crate::resources::Resources;

const NAMESPACE: &str = "projectcalico.org/namespace";
const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";

type Labels = BTreeMap<String, String>;

/// The fields of a packet that rules look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    /// Type and code.
    pub icmp: Option<(u8, u8)>,
}

/// What is decided, and the name of the rule or default that did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allow: bool,
    pub rule: String,
    /// The first rule that wanted the packet logged.
    pub log: Option<String>,
}

/// The verdict on the first packet of a flow that the endpoint sends (egress) or receives (ingress).
pub fn judge(resources: &Resources, endpoint: &WorkloadEndpoint, direction: PolicyType, fields: &Fields) -> Verdict {
    let oracle = Oracle::new(resources);
    oracle.judge(&oracle.workload(endpoint, direction), fields)
}

/// Resources, and everything that has an address, written down once for many packets.
pub struct Oracle<'a> {
    resources: &'a Resources,
    members: Vec<Member>,
}

/// What applies to an endpoint in one direction, in the order in which it is read.
pub struct Lists {
    direction: PolicyType,
    tiers: Vec<TierOfLists>,
    profiles: Vec<List>,
    /// Names of the profiles, as the endpoint lists them.
    profile_names: Vec<String>,
}

struct TierOfLists {
    name: String,
    passes: bool,
    lists: Vec<List>,
}

/// The rules of one policy or profile.
struct List {
    owner: String,
    namespace: Option<String>,
    rules: Vec<Rule>,
}

impl<'a> Oracle<'a> {
    pub fn new(resources: &'a Resources) -> Self {
        Self { resources, members: members(resources) }
    }

    /// What applies to a workload endpoint.
    pub fn workload(&self, endpoint: &WorkloadEndpoint, direction: PolicyType) -> Lists {
        let labels = labels_of_workload(self.resources, endpoint);
        let all = policies(self.resources, direction);
        let selecting: Vec<Policy> = all.into_iter().filter(|policy| (policy.selects)(&labels)).collect();
        let mut tiers_of_lists = Vec::new();
        for (name, passes) in tiers(self.resources, &selecting) {
            let mut of_tier: Vec<&Policy> = selecting.iter().filter(|policy| policy.tier == name).collect();
            of_tier.sort_by(|left, right| {
                let ((left_order, left_name), (right_order, right_name)) = (left.rank(), right.rank());
                left_order.partial_cmp(&right_order).unwrap_or(Ordering::Equal).then(left_name.cmp(&right_name))
            });
            let lists: Vec<List> = of_tier
                .iter()
                .map(|policy| List {
                    owner: policy.key.to_string(),
                    namespace: policy.key.namespace.clone(),
                    rules: policy.rules.clone(),
                })
                .collect();
            if !lists.is_empty() {
                tiers_of_lists.push(TierOfLists { name, passes, lists });
            }
        }
        let profile_names = endpoint.spec.profiles.clone();
        let profiles = profile_names.iter().map(|name| profile(self.resources, name, direction)).collect();
        Lists { direction, tiers: tiers_of_lists, profiles, profile_names }
    }

    pub fn judge(&self, lists: &Lists, fields: &Fields) -> Verdict {
        let direction = lists.direction;
        let walk = Walk { fields, direction, members: &self.members };
        let mut log = None;
        for tier in &lists.tiers {
            match walk.first(&tier.lists, &mut log) {
                Some((Action::Allow, rule)) => return Verdict { allow: true, rule, log },
                Some((Action::Deny, rule)) => return Verdict { allow: false, rule, log },
                Some(_) => {}
                None if tier.passes => {}
                None => {
                    let rule = format!("Tier {}: end of tier, {} default deny", tier.name, word(direction));
                    return Verdict { allow: false, rule, log };
                }
            }
        }
        match walk.first(&lists.profiles, &mut log) {
            Some((action, rule)) => Verdict { allow: action == Action::Allow, rule, log },
            None if lists.profiles.is_empty() => {
                let rule = format!("no policy and no profile: {} default deny", word(direction));
                Verdict { allow: false, rule, log }
            }
            None => {
                let profiles = lists.profile_names.join(", ");
                let rule = format!("no rule of profiles {profiles} matched: {} default deny", word(direction));
                Verdict { allow: false, rule, log }
            }
        }
    }
}

fn word(direction: PolicyType) -> &'static str {
    if direction == PolicyType::Ingress { "ingress" } else { "egress" }
}

/// A policy of either kind, in one direction.
struct Policy<'a> {
    key: Key,
    tier: &'a str,
    order: f64,
    selects: Box<dyn Fn(&Labels) -> bool + 'a>,
    rules: Vec<Rule>,
}

impl Policy<'_> {
    fn namespace(&self) -> Option<&str> {
        self.key.namespace.as_deref()
    }

    fn rank(&self) -> (f64, String) {
        let namespace = self.namespace().unwrap_or_default();
        (self.order, format!("{}/{namespace}/{}", self.key.name, self.key.kind.name()))
    }
}

/// Those that say something in this direction.
fn policies(resources: &Resources, direction: PolicyType) -> Vec<Policy<'_>> {
    let choose = |ingress: &[Rule], egress: &[Rule]| match direction {
        PolicyType::Ingress => ingress.to_vec(),
        PolicyType::Egress => egress.to_vec(),
    };
    let mut found = Vec::new();
    for policy in resources.network_policies().filter(|policy| policy.spec.types.contains(&direction)) {
        let spec = &policy.spec;
        found.push(Policy {
            key: Resource::NetworkPolicy(policy.clone()).key(),
            tier: &spec.tier,
            order: spec.order.unwrap_or(f64::INFINITY),
            selects: Box::new(|labels| {
                labels.get(NAMESPACE) == policy.metadata.namespace.as_ref()
                    && spec.selector.matches(labels)
                    && holds(&spec.service_account_selector, &without_prefix(labels, "pcsa."))
            }),
            rules: choose(&spec.ingress, &spec.egress),
        });
    }
    for policy in resources.global_network_policies().filter(|policy| policy.spec.types.contains(&direction)) {
        let spec = &policy.spec;
        found.push(Policy {
            key: Resource::GlobalNetworkPolicy(policy.clone()).key(),
            tier: &spec.tier,
            order: spec.order.unwrap_or(f64::INFINITY),
            selects: Box::new(|labels| {
                spec.selector.matches(labels)
                    && written(&spec.namespace_selector).is_none_or(|selector| is_in_namespace(labels, selector))
                    && holds(&spec.service_account_selector, &without_prefix(labels, "pcsa."))
            }),
            rules: choose(&spec.ingress, &spec.egress),
        });
    }
    found
}

/// Names of tiers in order, and whether what they do not decide passes. Tiers that only policies know come last.
fn tiers(resources: &Resources, policies: &[Policy<'_>]) -> Vec<(String, bool)> {
    let mut all: Vec<(bool, f64, String, bool)> = Vec::new();
    for (name, order, action) in FIXED_TIERS {
        all.push((false, order, name.to_string(), action == TierAction::Pass));
    }
    for tier in resources.tiers() {
        all.retain(|(_, _, name, _)| *name != tier.metadata.name);
        let order = tier.spec.order.unwrap_or(f64::INFINITY);
        all.push((false, order, tier.metadata.name.clone(), tier.spec.default_action == TierAction::Pass));
    }
    for policy in policies {
        if !all.iter().any(|(_, _, name, _)| name == policy.tier) {
            all.push((true, 0.0, policy.tier.to_string(), false));
        }
    }
    all.sort_by(|left, right| {
        left.0.cmp(&right.0).then(left.1.partial_cmp(&right.1).unwrap_or(Ordering::Equal)).then(left.2.cmp(&right.2))
    });
    all.into_iter().map(|(_, _, name, passes)| (name, passes)).collect()
}

/// The name and rules of a profile. One that does not exist denies, and one that always exists allows.
fn profile(resources: &Resources, name: &str, direction: PolicyType) -> List {
    let key = Key::cluster(Kind::Profile, name).to_string();
    let (owner, rules) = match resources.profiles().find(|profile| profile.metadata.name == name) {
        _ if name == "projectcalico-default-allow" => (key, vec![Rule::any(Action::Allow)]),
        Some(profile) if direction == PolicyType::Ingress => (key, profile.spec.ingress.clone()),
        Some(profile) => (key, profile.spec.egress.clone()),
        None => (format!("{key} (does not exist)"), vec![Rule::any(Action::Deny)]),
    };
    List { owner, namespace: None, rules }
}

/// An endpoint as rules see it.
struct Member {
    labels: Labels,
    addresses: Vec<Cidr>,
}

fn members(resources: &Resources) -> Vec<Member> {
    let workloads = resources.workload_endpoints().map(|endpoint| Member {
        labels: labels_of_workload(resources, endpoint),
        addresses: endpoint.spec.ip_networks.clone(),
    });
    let hosts = resources.host_endpoints().map(|endpoint| {
        let mut labels = labels_with_profiles(resources, &endpoint.metadata.labels, &endpoint.spec.profiles);
        labels.remove(NAMESPACE);
        Member { labels, addresses: endpoint.spec.expected_ips.iter().map(|address| Cidr::host(*address)).collect() }
    });
    workloads.chain(hosts).collect()
}

fn labels_of_workload(resources: &Resources, endpoint: &WorkloadEndpoint) -> Labels {
    let mut labels = labels_with_profiles(resources, &endpoint.metadata.labels, &endpoint.spec.profiles);
    labels.insert(NAMESPACE.into(), endpoint.metadata.namespace.clone().unwrap_or_default());
    labels.insert(ORCHESTRATOR.into(), endpoint.spec.orchestrator.clone());
    if !endpoint.spec.service_account_name.is_empty() {
        labels.insert(SERVICE_ACCOUNT.into(), endpoint.spec.service_account_name.clone());
    }
    labels
}

/// Own labels, and those of profiles that nobody before gave.
fn labels_with_profiles(resources: &Resources, own: &Labels, profiles: &[String]) -> Labels {
    let mut labels = own.clone();
    for name in profiles {
        for profile in resources.profiles().filter(|profile| profile.metadata.name == *name) {
            for (label, value) in &profile.spec.labels_to_apply {
                labels.entry(label.clone()).or_insert(value.clone());
            }
        }
    }
    labels
}

/// Labels of what stands behind an endpoint (its namespace, its service account) travel with a prefix.
fn without_prefix(labels: &Labels, prefix: &str) -> Labels {
    labels.iter().filter_map(|(label, value)| Some((label.strip_prefix(prefix)?.to_string(), value.clone()))).collect()
}

fn is_in_namespace(labels: &Labels, selector: &Selector) -> bool {
    match (selector.is_all(), selector.is_global()) {
        (true, _) => labels.contains_key(NAMESPACE),
        (_, true) => !labels.contains_key(NAMESPACE),
        _ => selector.matches(&without_prefix(labels, "pcns.")),
    }
}

fn written(selector: &Option<Selector>) -> Option<&Selector> {
    selector.as_ref().filter(|selector| !selector.is_blank())
}

fn holds(selector: &Option<Selector>, labels: &Labels) -> bool {
    written(selector).is_none_or(|selector| selector.matches(labels))
}

/// One packet on its way through the rules.
struct Walk<'a> {
    fields: &'a Fields,
    direction: PolicyType,
    members: &'a [Member],
}

impl Walk<'_> {
    /// The first rule that decides, with its name.
    fn first(&self, lists: &[List], log: &mut Option<String>) -> Option<(Action, String)> {
        for List { owner, namespace, rules } in lists {
            let namespace = namespace.as_deref();
            for (position, rule) in rules.iter().enumerate().filter(|(_, rule)| self.matches(rule, namespace)) {
                let name = format!("{owner} {}[{position}]", word(self.direction));
                if rule.action != Action::Log {
                    return Some((rule.action, name));
                }
                log.get_or_insert(name);
            }
        }
        None
    }

    fn matches(&self, rule: &Rule, namespace: Option<&str>) -> bool {
        let Fields { source, destination, protocol, source_port, destination_port, icmp } = *self.fields;
        let is_icmp = |wanted: &IcmpFields| {
            let found = |kind| icmp.is_some_and(|(k, code)| k == kind && wanted.code.is_none_or(|c| c == code));
            wanted.icmp_type.map(found)
        };
        rule.ip_version.is_none_or(|wanted| wanted == IpVersion::of(source))
            && rule.protocol.is_none_or(|wanted| wanted.number() == protocol)
            && rule.not_protocol.is_none_or(|unwanted| unwanted.number() != protocol)
            && rule.icmp.as_ref().and_then(is_icmp).unwrap_or(true)
            && !rule.not_icmp.as_ref().and_then(is_icmp).unwrap_or(false)
            && self.side(&rule.source, namespace, source, source_port)
            && self.side(&rule.destination, namespace, destination, destination_port)
    }

    fn side(&self, side: &EntityRule, namespace: Option<&str>, address: IpAddr, port: u16) -> bool {
        let is_in = |nets: &[Cidr]| nets.iter().any(|net| net.contains(address));
        // A rule that speaks of networks of one family says nothing about the other.
        let is_silent = |nets: &[Cidr]| !nets.is_empty() && nets.iter().all(|net| net.is_ipv4() != address.is_ipv4());
        let is_port =
            |ports: &[Port]| ports.iter().any(|wanted| matches!(wanted, Port::Numbers(range) if range.contains(port)));
        (side.nets.is_empty() || is_in(&side.nets))
            && !is_silent(&side.not_nets)
            && !is_in(&side.not_nets)
            && (side.ports.is_empty() || is_port(&side.ports))
            && !is_port(&side.not_ports)
            && self.is_selected(side, namespace, address)
    }

    fn is_selected(&self, side: &EntityRule, namespace: Option<&str>, address: IpAddr) -> bool {
        let at_address = || self.members.iter().filter(|m| m.addresses.iter().any(|net| net.contains(address)));
        let unwanted = written(&side.not_selector);
        if unwanted.is_some_and(|selector| at_address().any(|member| selector.matches(&member.labels))) {
            return false;
        }
        let names = side.service_accounts.as_ref().map(|accounts| accounts.names.as_slice()).unwrap_or_default();
        let accounts = side.service_accounts.as_ref().and_then(|accounts| written(&accounts.selector));
        let selector = written(&side.selector);
        let namespaces = written(&side.namespace_selector);
        let is_about_endpoints = selector.is_some() || !names.is_empty() || accounts.is_some();
        let is_scoped = namespace.is_some() && (is_about_endpoints || unwanted.is_some());
        if !is_about_endpoints && namespaces.is_none() && !is_scoped {
            return true;
        }
        at_address().any(|Member { labels, .. }| {
            let is_near = match namespaces {
                Some(namespaces) => is_in_namespace(labels, namespaces),
                None => !is_scoped || labels.get(NAMESPACE).map(String::as_str) == namespace,
            };
            is_near
                && selector.is_none_or(|selector| selector.matches(labels))
                && (names.is_empty() || labels.get(SERVICE_ACCOUNT).is_some_and(|account| names.contains(account)))
                && accounts.is_none_or(|selector| selector.matches(&without_prefix(labels, "pcsa.")))
        })
    }
}
