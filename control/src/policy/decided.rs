//! The name of a rule or default, taken apart for whoever reads answers by machine.
//!
//! Rules are counted and recorded under the name people know them by, such as `NetworkPolicy shop/db ingress[0]`. This is
//! the way back: to the policy, its tier, the direction and the position. A name that is none of the known forms keeps
//! its text and has nothing else.

use config::resource::{Key, Kind, PolicyType};

use fastpath::burst::DropReason;
use fastpath::stage::lists::List;

use super::active::Policy;
use crate::resources::Resources;

/// Who decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decided {
    /// None for profiles, and when nothing applied.
    pub tier: Option<String>,
    /// Kind, namespace and name of the policy or profile; none for a default.
    pub policy: Option<String>,
    /// The position among the rules of this direction; none for a default.
    pub position: Option<usize>,
    pub direction: Option<PolicyType>,
    pub default: Option<DefaultDecision>,
}

/// What decides when no rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultDecision {
    /// A tier has policies for the endpoint, none of their rules decided, and the tier does not pass.
    EndOfTier,
    /// No rule of the endpoint's profiles matched.
    NoProfileMatched,
    /// Nothing selects the endpoint and it lists no profile.
    NoPolicyNoProfile,
    /// The port is one that policy never closes to the host.
    Failsafe,
    /// No list of a host endpoint on the way decides: the packet goes on.
    NothingDenies,
    /// A workload spoke as one of the node's tunnels.
    WorkloadTunnel,
    /// A workload spoke to its own host, and the default endpoint-to-host action is Drop.
    EndpointToHost,
}

/// What is said where no list is asked or decides. Drops are named as they are counted.
pub const NOTHING_DENIES: &str = "no list of a host endpoint denies";
pub const ENDPOINT_TO_HOST: &str = DropReason::EndpointToHost.name();
const FAILSAFE: &str = "failsafe port";

/// What a list of an endpoint is called.
pub fn list_name(list: List) -> &'static str {
    match list {
        List::UntrackedIngress | List::UntrackedEgress => "untracked",
        List::PreDnat => "preDNAT",
        List::ForwardIngress | List::ForwardEgress => "forward",
        List::HostIngress | List::HostEgress | List::WorkloadIngress | List::WorkloadEgress => "normal",
    }
}

/// Whether it is about packets that come in or go out.
pub fn direction(list: List) -> PolicyType {
    if list.is_ingress() { PolicyType::Ingress } else { PolicyType::Egress }
}

/// The name of what leaves a port open in a list.
pub fn failsafe(list: List) -> String {
    format!("{FAILSAFE}: {}", direction(list).word())
}

impl DefaultDecision {
    pub fn name(self) -> &'static str {
        match self {
            Self::EndOfTier => "end-of-tier",
            Self::NoProfileMatched => "no-profile-matched",
            Self::NoPolicyNoProfile => "no-policy-no-profile",
            Self::Failsafe => "failsafe",
            Self::NothingDenies => "nothing-denies",
            Self::WorkloadTunnel => "workload-tunnel",
            Self::EndpointToHost => "endpoint-to-host",
        }
    }
}

impl Decided {
    /// `resources` are those the name was made from: they know the tier of a policy.
    pub fn by(name: &str, resources: &Resources) -> Self {
        if let Some((before, _)) = name.split_once(" default deny") {
            return Self::by_default(before);
        }
        if let Some((default, direction)) = Self::beside_lists(name) {
            return Self { default: Some(default), direction, ..Self::default() };
        }
        let Some((owner, rest)) = name.split_once('[').and_then(|(before, after)| {
            let (owner, direction) = before.rsplit_once(' ')?;
            Some((owner, (direction, after)))
        }) else {
            return Self::default();
        };
        let (direction, after) = rest;
        Self {
            tier: tier_of(owner, resources),
            policy: Some(owner.to_owned()),
            position: after.split_once(']').and_then(|(position, _)| position.parse().ok()),
            direction: direction_of(direction),
            default: None,
        }
    }

    fn beside_lists(name: &str) -> Option<(DefaultDecision, Option<PolicyType>)> {
        const TUNNELS: [&str; 2] = [DropReason::WorkloadVxlan.name(), DropReason::WorkloadIpip.name()];
        match name.strip_prefix(FAILSAFE).and_then(|rest| rest.strip_prefix(": ")) {
            Some(word) => Some((DefaultDecision::Failsafe, direction_of(word))),
            None if name == NOTHING_DENIES => Some((DefaultDecision::NothingDenies, None)),
            None if name == ENDPOINT_TO_HOST => Some((DefaultDecision::EndpointToHost, Some(PolicyType::Egress))),
            None if TUNNELS.contains(&name) => Some((DefaultDecision::WorkloadTunnel, Some(PolicyType::Egress))),
            None => None,
        }
    }

    fn by_default(name: &str) -> Self {
        let direction = name.rsplit_once(' ').and_then(|(_, word)| direction_of(word));
        let (tier, default) = match name.strip_prefix("Tier ").and_then(|rest| rest.split_once(": ")) {
            Some((tier, _)) => (Some(tier.to_owned()), DefaultDecision::EndOfTier),
            None if name.starts_with("no rule of profiles") => (None, DefaultDecision::NoProfileMatched),
            None => (None, DefaultDecision::NoPolicyNoProfile),
        };
        Self { tier, policy: None, position: None, direction, default: Some(default) }
    }

    /// The rule within its policy, as in `ingress[0]`, or the name of the default.
    pub fn rule(&self) -> Option<String> {
        match (self.default, self.direction, self.position) {
            (Some(default), ..) => Some(default.name().to_owned()),
            (None, Some(direction), Some(position)) => Some(format!("{}[{position}]", direction.word())),
            _ => None,
        }
    }
}

fn direction_of(word: &str) -> Option<PolicyType> {
    match word {
        "ingress" => Some(PolicyType::Ingress),
        "egress" => Some(PolicyType::Egress),
        _ => None,
    }
}

/// The tier of a policy by the text of its key; profiles have none.
fn tier_of(owner: &str, resources: &Resources) -> Option<String> {
    let (kind, name) = owner.split_once(' ')?;
    let kind = Kind::from_name(kind)?;
    let key = match kind.is_namespaced() {
        true => name.split_once('/').map(|(namespace, name)| Key::namespaced(kind, namespace, name))?,
        false => Key::cluster(kind, name),
    };
    Policy::of(resources.get(&key)?).map(|policy| policy.tier)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, tier: Option<&str>, policy: Option<&str>, rule: Option<&str>) {
        let yaml = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\n\
                    spec: {tier: first}\n---\n\
                    apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\n\
                    spec: {podSelector: {}}\n---\n\
                    apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: admin}\n\
                    spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}\n";
        let resources: Resources = config::yaml::parse("case", yaml).expect("legal").into_iter().collect();
        let found = Decided::by(name, &resources);
        let found = (found.tier.as_deref(), found.policy.as_deref(), found.rule());
        assert_eq!(found, (tier, policy, rule.map(str::to_owned)), "{name}");
    }

    #[test]
    fn names_taken_apart() {
        let db = Some("NetworkPolicy shop/db");
        check("NetworkPolicy shop/db ingress[0]", Some("first"), db, Some("ingress[0]"));
        check("NetworkPolicy shop/db egress[12]", Some("first"), db, Some("egress[12]"));
        check("GlobalNetworkPolicy gone ingress[3]", None, Some("GlobalNetworkPolicy gone"), Some("ingress[3]"));
        let kubernetes = Some("KubernetesNetworkPolicy shop/db");
        check("KubernetesNetworkPolicy shop/db ingress[1]", Some("default"), kubernetes, Some("ingress[1]"));
        let admin = Some("ClusterNetworkPolicy admin");
        check("ClusterNetworkPolicy admin ingress[0]", Some("kube-admin"), admin, Some("ingress[0]"));
        check("Profile kns.shop egress[0]", None, Some("Profile kns.shop"), Some("egress[0]"));
        let missing = "Profile p0 (does not exist)";
        check("Profile p0 (does not exist) ingress[0]", None, Some(missing), Some("ingress[0]"));
        check("Tier first: end of tier, ingress default deny", Some("first"), None, Some("end-of-tier"));
        check("no policy and no profile: egress default deny", None, None, Some("no-policy-no-profile"));
        let name = "no rule of profiles p0, p1 matched: ingress default deny";
        check(name, None, None, Some("no-profile-matched"));
        check("failsafe port: ingress", None, None, Some("failsafe"));
        check("no list of a host endpoint denies", None, None, Some("nothing-denies"));
        check("workload_ipip", None, None, Some("workload-tunnel"));
        check("endpoint_to_host", None, None, Some("endpoint-to-host"));
        check("something else", None, None, None);
    }
}
