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
//! Left out: HTTP, which is no matter of packets, and which endpoint a packet belongs to. Staged policies are never looked at.
//! Sources: Calico's reference of NetworkPolicy, GlobalNetworkPolicy, Tier and Profile; for networks of one family in a
//! rule without `ipVersion`, `felix/rules/policy.go` (`FilterRuleToIPVersion`).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;

use config::net::{Cidr, IpVersion, Port};
use config::resource::{
    Action, EntityRule, FIXED_TIERS, GlobalNetworkPolicySpec, IcmpFields, Key, Kind, PolicyType, Resource, Rule,
    TierAction, WorkloadEndpoint,
};
use config::selector::Selector;

use crate::resources::Resources;

mod near;
pub use near::{Difference, Near};

const NAMESPACE: &str = "projectcalico.org/namespace";
const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";

const TCP: u8 = 6;

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
    Oracle::new(resources).judge(&Lists::of_workload(resources, endpoint, direction), fields)
}

/// Everything that rules can mean, written down once for many packets.
pub struct Oracle {
    members: Vec<Member>,
    slices: Vec<Slice>,
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

impl Lists {
    /// What applies to a workload endpoint.
    pub fn of_workload(resources: &Resources, endpoint: &WorkloadEndpoint, direction: PolicyType) -> Self {
        let labels = labels_of_workload(resources, endpoint);
        let all = policies(resources, direction);
        let selecting: Vec<Policy> = all.into_iter().filter(|policy| (policy.selects)(&labels)).collect();
        let mut tiers_of_lists = Vec::new();
        for (name, passes) in tiers(resources, &selecting) {
            let mut of_tier: Vec<&Policy> = selecting.iter().filter(|policy| policy.tier == name).collect();
            of_tier.sort_by(|left, right| {
                let ((left_order, left_name), (right_order, right_name)) = (left.rank(), right.rank());
                left_order.partial_cmp(&right_order).unwrap_or(Ordering::Equal).then(left_name.cmp(&right_name))
            });
            let list = |policy: &&Policy| List {
                owner: policy.key.to_string(),
                namespace: policy.key.namespace.clone(),
                rules: policy.rules.clone(),
            };
            let lists: Vec<List> = of_tier.iter().map(list).collect();
            if !lists.is_empty() {
                tiers_of_lists.push(TierOfLists { name, passes, lists });
            }
        }
        let profile_names = endpoint.spec.profiles.clone();
        let profiles = profile_names.iter().map(|name| profile(resources, name, direction)).collect();
        Self { direction, tiers: tiers_of_lists, profiles, profile_names }
    }
}

impl Oracle {
    pub fn new(resources: &Resources) -> Self {
        Self { members: members(resources), slices: slices(resources) }
    }

    pub fn judge(&self, lists: &Lists, fields: &Fields) -> Verdict {
        let direction = lists.direction;
        let walk = Walk { fields, direction, members: &self.members, slices: &self.slices };
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
    // What acts before tracking or translation is for hosts alone.
    let is_normal = |spec: &GlobalNetworkPolicySpec| !spec.do_not_track && !spec.pre_dnat;
    let global = resources.global_network_policies().filter(|policy| is_normal(&policy.spec));
    for policy in global.filter(|policy| policy.spec.types.contains(&direction)) {
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

/// An endpoint or network set as rules see it.
struct Member {
    /// Kind, namespace and name.
    name: String,
    labels: Labels,
    addresses: Vec<Cidr>,
    /// Name, protocol and number.
    ports: Vec<(String, u8, u16)>,
}

fn members(resources: &Resources) -> Vec<Member> {
    let workloads = resources.workload_endpoints().map(|endpoint| Member {
        name: Resource::WorkloadEndpoint(endpoint.clone()).key().to_string(),
        labels: labels_of_workload(resources, endpoint),
        addresses: endpoint.spec.ip_networks.clone(),
        ports: endpoint
            .spec
            .ports
            .iter()
            .filter_map(|port| Some((port.name.as_ref()?.as_str().to_string(), port.protocol.number(), port.port)))
            .collect(),
    });
    let hosts = resources.host_endpoints().map(|endpoint| {
        let mut labels = labels_with_profiles(resources, &endpoint.metadata.labels, &endpoint.spec.profiles);
        labels.remove(NAMESPACE);
        let ports = endpoint.spec.ports.iter();
        Member {
            name: Resource::HostEndpoint(endpoint.clone()).key().to_string(),
            labels,
            addresses: endpoint.spec.expected_ips.iter().map(|address| Cidr::host(*address)).collect(),
            ports: ports.map(|port| (port.name.as_str().to_string(), port.protocol.number(), port.port)).collect(),
        }
    });
    let sets = resources.network_sets().map(|set| {
        let namespace = set.metadata.namespace.clone().unwrap_or_default();
        let mut labels = labels_with_profiles(resources, &set.metadata.labels, &[format!("kns.{namespace}")]);
        labels.insert(NAMESPACE.into(), namespace);
        let name = Resource::NetworkSet(set.clone()).key().to_string();
        Member { name, labels, addresses: set.spec.nets.clone(), ports: Vec::new() }
    });
    let global_sets = resources.global_network_sets().map(|set| {
        let mut labels = set.metadata.labels.clone();
        labels.remove(NAMESPACE);
        let name = Resource::GlobalNetworkSet(set.clone()).key().to_string();
        Member { name, labels, addresses: set.spec.nets.clone(), ports: Vec::new() }
    });
    workloads.chain(hosts).chain(sets).chain(global_sets).collect()
}

/// A part of what a Service leads to.
struct Slice {
    namespace: String,
    service: String,
    addresses: Vec<IpAddr>,
    /// Protocol and number. A port without a number is all ports, which rules do not mean.
    ports: Vec<(u8, u16)>,
}

fn slices(resources: &Resources) -> Vec<Slice> {
    let labelled = resources.endpoint_slices().filter_map(|slice| {
        let service = slice.metadata.labels.get("kubernetes.io/service-name")?;
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let ports = slice.ports.iter();
        Some(Slice {
            namespace: slice.metadata.namespace.clone().unwrap_or_default(),
            service: service.clone(),
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
            ports: ports.filter_map(|port| Some((port.protocol.map_or(TCP, |p| p.number()), port.port?))).collect(),
        })
    });
    labelled.collect()
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
    slices: &'a [Slice],
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

    fn side(&self, side: &EntityRule, end: End<'_>) -> bool {
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
            && !self.is_excluded(side, address)
            && self.is_of_service(side, &end)
    }

    fn at(&self, address: IpAddr) -> impl Iterator<Item = &Member> {
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

    fn is_selected(&self, side: &EntityRule, end: &End<'_>) -> bool {
        !is_about_members(side, end.namespace)
            || self.at(end.address).any(|member| is_meant(member, side, end.namespace))
    }

    fn is_excluded(&self, side: &EntityRule, address: IpAddr) -> bool {
        let unwanted = written(&side.not_selector);
        unwanted.is_some_and(|selector| self.at(address).any(|member| selector.matches(&member.labels)))
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
struct End<'a> {
    address: IpAddr,
    port: u16,
    protocol: u8,
    /// The protocol of the ports that names in the rule mean.
    named_protocol: u8,
    is_source: bool,
    /// Of the policy.
    namespace: Option<&'a str>,
}

impl<'a> End<'a> {
    fn source(rule: &Rule, namespace: Option<&'a str>, fields: &Fields) -> Self {
        let Fields { source, source_port, protocol, .. } = *fields;
        let named_protocol = named_protocol(rule);
        Self { address: source, port: source_port, protocol, named_protocol, is_source: true, namespace }
    }

    fn destination(rule: &Rule, namespace: Option<&'a str>, fields: &Fields) -> Self {
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
fn is_about_members(side: &EntityRule, namespace: Option<&str>) -> bool {
    is_about_labels(side)
        || written(&side.namespace_selector).is_some()
        || (namespace.is_some() && written(&side.not_selector).is_some())
}

fn is_about_labels(side: &EntityRule) -> bool {
    let accounts = side.service_accounts.as_ref();
    written(&side.selector).is_some()
        || accounts.is_some_and(|accounts| !accounts.names.is_empty() || written(&accounts.selector).is_some())
}

/// Whether the positive selectors of a side select a member.
fn is_meant(member: &Member, side: &EntityRule, namespace: Option<&str>) -> bool {
    let labels = &member.labels;
    let is_near = match (written(&side.namespace_selector), namespace) {
        (Some(namespaces), _) => is_in_namespace(labels, namespaces),
        (None, Some(namespace)) => labels.get(NAMESPACE).map(String::as_str) == Some(namespace),
        (None, None) => true,
    };
    let accounts = side.service_accounts.clone().unwrap_or_default();
    is_near
        && holds(&side.selector, labels)
        && (accounts.names.is_empty() || labels.get(SERVICE_ACCOUNT).is_some_and(|own| accounts.names.contains(own)))
        && holds(&accounts.selector, &without_prefix(labels, "pcsa."))
}
