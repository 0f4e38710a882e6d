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
//!
//! | file | what it reads |
//! |---|---|
//! | `crossing.rs` | which lists a packet meets on its way through a node |
//! | `policies.rs` | policies of every kind, tiers, profiles |
//! | `matching.rs` `kubernetes.rs` | whether a rule is about a packet; one of Calico's, one of Kubernetes' |
//! | `members.rs` | who has which addresses, labels and ports |
//! | `near.rs` | the rule that almost matched |
//!
//! Left out: HTTP, which is no matter of packets, and which endpoint a packet belongs to. Staged policies are never looked at.
//! Sources: Calico's reference of NetworkPolicy, GlobalNetworkPolicy, Tier and Profile; for networks of one family in a
//! rule without `ipVersion`, `felix/rules/policy.go` (`FilterRuleToIPVersion`).

use std::net::IpAddr;

use config::resource::{Action, HostEndpoint, PolicyType, Rule, WorkloadEndpoint};
use fastpath::stage::lists;

use crate::resources::Resources;

pub mod crossing;
mod kubernetes;
mod matching;
mod members;
mod near;
mod policies;

use kubernetes::PeerRule;
use matching::Walk;
use members::Labels;
pub use members::{Member, Slice};
pub use near::{Difference, Near};
use policies::Policy;

const TCP: u8 = 6;

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
    /// Blank when nothing in a list decided, and the packet goes on.
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
    /// Names of the profiles, as the endpoint lists them. None where profiles have no say: what nothing decides goes on.
    profile_names: Option<Vec<String>>,
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
    rules: Vec<WrittenRule>,
}

/// A rule in the words of whoever wrote it.
#[derive(Clone)]
enum WrittenRule {
    Calico(Box<Rule>),
    Kubernetes(PeerRule),
}

impl WrittenRule {
    fn action(&self) -> Action {
        match self {
            WrittenRule::Calico(rule) => rule.action,
            WrittenRule::Kubernetes(rule) => rule.action,
        }
    }
}

impl Lists {
    /// What applies to a workload endpoint.
    pub fn of_workload(resources: &Resources, endpoint: &WorkloadEndpoint, direction: PolicyType) -> Self {
        let labels = members::labels_of_workload(resources, endpoint);
        let mut lists = Self::selecting(resources, &labels, direction, |policy| policy.is_normal());
        lists.add_profiles(resources, &endpoint.spec.profiles);
        lists
    }

    /// One list of a host endpoint. None when it is not asked, for want of a policy.
    pub fn of_host(resources: &Resources, endpoint: &HostEndpoint, list: lists::List) -> Option<Self> {
        use lists::List::*;
        let labels = members::labels_of_host(resources, endpoint);
        let direction = if list.is_ingress() { PolicyType::Ingress } else { PolicyType::Egress };
        let has_all_interfaces = endpoint.spec.interface_name == "*";
        let mut lists = Self::selecting(resources, &labels, direction, |policy| match list {
            // Not known for all interfaces at once.
            UntrackedIngress | UntrackedEgress => policy.is_untracked && !has_all_interfaces,
            PreDnat => policy.is_pre_dnat,
            ForwardIngress | ForwardEgress => policy.is_normal() && policy.is_for_forwarded,
            HostIngress | HostEgress => policy.is_normal(),
            WorkloadIngress | WorkloadEgress => false,
        });
        match list {
            HostIngress | HostEgress => lists.add_profiles(resources, &endpoint.spec.profiles),
            // What these do not decide goes on, also at the end of a tier.
            UntrackedIngress | UntrackedEgress | PreDnat => lists.tiers.iter_mut().for_each(|tier| tier.passes = true),
            _ => {}
        }
        (lists.profile_names.is_some() || !lists.tiers.is_empty()).then_some(lists)
    }

    /// Rules that are known already, in order, with their owner and its namespace; who looks at them knows what they come to.
    pub fn written<'a>(
        direction: PolicyType,
        rules: impl Iterator<Item = (String, Option<&'a str>, &'a [Rule])>,
    ) -> Self {
        let list = |(owner, namespace, rules): (String, Option<&str>, &[Rule])| List {
            owner,
            namespace: namespace.map(str::to_owned),
            rules: policies::calico(rules),
        };
        let lists = rules.map(list).collect();
        let tier = TierOfLists { name: String::new(), passes: true, lists };
        Self { direction, tiers: vec![tier], profiles: Vec::new(), profile_names: None }
    }

    fn selecting(
        resources: &Resources,
        labels: &Labels,
        direction: PolicyType,
        is_meant: impl Fn(&Policy<'_>) -> bool,
    ) -> Self {
        let mut selecting = policies::policies(resources, direction);
        selecting.retain(|policy| is_meant(policy) && (policy.selects)(labels));
        let mut tiers = Vec::new();
        for (name, passes) in policies::tiers(resources, &selecting) {
            let lists: Vec<List> = policies::in_order(&selecting, &name).map(Policy::list).collect();
            if !lists.is_empty() {
                tiers.push(TierOfLists { name, passes, lists });
            }
        }
        Self { direction, tiers, profiles: Vec::new(), profile_names: None }
    }

    fn add_profiles(&mut self, resources: &Resources, names: &[String]) {
        self.profiles = names.iter().map(|name| policies::profile(resources, name, self.direction)).collect();
        self.profile_names = Some(names.to_vec());
    }
}

impl Oracle {
    pub fn new(resources: &Resources) -> Self {
        Self { members: members::members(resources), slices: members::slices(resources) }
    }

    /// For packets whose addresses are those of the members given.
    pub fn of_few(members: Vec<Member>, slices: Vec<Slice>) -> Self {
        Self { members, slices }
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
        let Some(names) = &lists.profile_names else { return Verdict { allow: true, rule: String::new(), log } };
        match walk.first(&lists.profiles, &mut log) {
            Some((action, rule)) => Verdict { allow: action == Action::Allow, rule, log },
            None if names.is_empty() => {
                let rule = format!("no policy and no profile: {} default deny", word(direction));
                Verdict { allow: false, rule, log }
            }
            None => {
                let profiles = names.join(", ");
                let rule = format!("no rule of profiles {profiles} matched: {} default deny", word(direction));
                Verdict { allow: false, rule, log }
            }
        }
    }
}

fn word(direction: PolicyType) -> &'static str {
    if direction == PolicyType::Ingress { "ingress" } else { "egress" }
}
