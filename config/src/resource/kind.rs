//! The kinds of resource: their names, the words a person may use for them, and the key of a resource.

use std::fmt;

use crate::suggest;

/// Gives the list of all kinds to another macro, before the macro's own arguments. The names are those of the structs
/// and of the variants of `Kind` and `Resource`; the order is that of messages and of keys.
macro_rules! every_kind {
    ($then:ident!($($arguments:tt)*)) => {
        $then! {
            [
                Node WorkloadEndpoint HostEndpoint IpPool GlobalNetworkPolicy NetworkPolicy StaticRoute Profile Tier
                NetworkSet GlobalNetworkSet
                StagedNetworkPolicy StagedGlobalNetworkPolicy StagedKubernetesNetworkPolicy
                IpReservation IpamConfiguration BlockAffinity IpamBlock IpamHandle
                BgpConfiguration BgpPeer BgpFilter
                FelixConfiguration KubeControllersConfiguration ClusterInformation CalicoNodeStatus
                KubernetesNetworkPolicy ClusterNetworkPolicy Namespace ServiceAccount Service EndpointSlice
            ]
            $($arguments)*
        }
    };
}
pub(super) use every_kind;

macro_rules! define_kind {
    ([$($kind:ident)+]) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($kind,)+
        }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)+];
        }
    };
}
every_kind!(define_kind!());

/// The group of Calico's kinds.
const CALICO: &str = "projectcalico.org/v3";
/// Kubernetes' first kinds have no group.
const CORE: &str = "v1";

/// A word that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown kind {word:?}, expected one of {}{}",
    all_names(),
    suggestion.as_deref().map(|s| format!(" (did you mean {s}?)")).unwrap_or_default()
)]
pub struct UnknownKind {
    pub word: String,
    pub suggestion: Option<String>,
}

impl Kind {
    /// What tells the kind from all others, in paths, keys and messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Node => "Node",
            Kind::WorkloadEndpoint => "WorkloadEndpoint",
            Kind::HostEndpoint => "HostEndpoint",
            Kind::IpPool => "IPPool",
            Kind::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::StaticRoute => "StaticRoute",
            Kind::Profile => "Profile",
            Kind::Tier => "Tier",
            Kind::NetworkSet => "NetworkSet",
            Kind::GlobalNetworkSet => "GlobalNetworkSet",
            Kind::StagedNetworkPolicy => "StagedNetworkPolicy",
            Kind::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            Kind::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
            Kind::IpReservation => "IPReservation",
            Kind::IpamConfiguration => "IPAMConfiguration",
            Kind::BlockAffinity => "BlockAffinity",
            Kind::IpamBlock => "IPAMBlock",
            Kind::IpamHandle => "IPAMHandle",
            Kind::BgpConfiguration => "BGPConfiguration",
            Kind::BgpPeer => "BGPPeer",
            Kind::BgpFilter => "BGPFilter",
            Kind::FelixConfiguration => "FelixConfiguration",
            Kind::KubeControllersConfiguration => "KubeControllersConfiguration",
            Kind::ClusterInformation => "ClusterInformation",
            Kind::CalicoNodeStatus => "CalicoNodeStatus",
            Kind::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
            Kind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Kind::Namespace => "Namespace",
            Kind::ServiceAccount => "ServiceAccount",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
        }
    }

    /// As written in `kind:`. Two kinds are written alike and differ in their `apiVersion`.
    pub fn written(self) -> &'static str {
        match self {
            Kind::KubernetesNetworkPolicy => "NetworkPolicy",
            _ => self.name(),
        }
    }

    /// As written in a path or a list heading.
    pub fn plural(self) -> &'static str {
        self.words()[0]
    }

    pub fn is_namespaced(self) -> bool {
        matches!(
            self,
            Kind::NetworkPolicy
                | Kind::WorkloadEndpoint
                | Kind::NetworkSet
                | Kind::StagedNetworkPolicy
                | Kind::StagedKubernetesNetworkPolicy
                | Kind::KubernetesNetworkPolicy
                | Kind::ServiceAccount
                | Kind::Service
                | Kind::EndpointSlice
        )
    }

    /// As written in `apiVersion:`. Our own kinds have our own group.
    pub fn api_version(self) -> &'static str {
        match self {
            Kind::StaticRoute => "vrouter.io/v1",
            Kind::KubernetesNetworkPolicy => "networking.k8s.io/v1",
            Kind::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
            Kind::EndpointSlice => "discovery.k8s.io/v1",
            Kind::Namespace | Kind::ServiceAccount | Kind::Service => CORE,
            _ => CALICO,
        }
    }

    /// Kubernetes' own kinds have fields that mean nothing to a router; those are passed over. In all others an unknown
    /// field is a mistake.
    pub fn tolerates_unknown_fields(self) -> bool {
        !matches!(self.api_version(), CALICO) && self != Kind::StaticRoute
    }

    /// The kind a person means, in any case: `np`, `netpols`... are calicoctl's words.
    pub fn parse_word(word: &str) -> Result<Kind, UnknownKind> {
        let lower = word.to_lowercase();
        let named = Kind::ALL.iter().find(|kind| kind.words().contains(&lower.as_str()));
        named.copied().ok_or_else(|| {
            let words = Kind::ALL.iter().flat_map(|kind| kind.words().iter().copied());
            let suggestion = suggest::nearest(word, words).map(str::to_string);
            UnknownKind { word: word.to_string(), suggestion }
        })
    }

    /// The kind of exactly this `name`.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// The kind that a document with this `apiVersion:` and `kind:` is of.
    pub fn of(api_version: &str, written: &str) -> Option<Kind> {
        Kind::written_as(written).find(|kind| kind.api_version() == api_version)
    }

    /// The kinds that `kind:` alone may mean.
    pub fn written_as(written: &str) -> impl Iterator<Item = Kind> {
        Kind::ALL.iter().copied().filter(move |kind| kind.written() == written)
    }

    /// The plural first, then the other words.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Kind::Node => &["nodes", "node", "no", "nos"],
            Kind::WorkloadEndpoint => &["workloadendpoints", "workloadendpoint", "wep", "weps"],
            Kind::HostEndpoint => &["hostendpoints", "hostendpoint", "hep", "heps"],
            Kind::IpPool => &["ippools", "ippool", "ipp", "ipps", "pool", "pools"],
            Kind::GlobalNetworkPolicy => &["globalnetworkpolicies", "globalnetworkpolicy", "gnp", "gnps"],
            Kind::NetworkPolicy => {
                &["networkpolicies", "networkpolicy", "policies", "policy", "np", "nps", "pol", "pols"]
            }
            Kind::StaticRoute => &["staticroutes", "staticroute", "route", "routes", "sr"],
            Kind::Profile => &["profiles", "profile", "pro", "pros"],
            Kind::Tier => &["tiers", "tier"],
            Kind::NetworkSet => &["networksets", "networkset", "netset", "netsets"],
            Kind::GlobalNetworkSet => &["globalnetworksets", "globalnetworkset", "gnetset", "gnetsets"],
            Kind::StagedNetworkPolicy => &[
                "stagednetworkpolicies",
                "stagednetworkpolicy",
                "stagedpolicies",
                "stagedpolicy",
                "snp",
                "snps",
                "spol",
                "spols",
            ],
            Kind::StagedGlobalNetworkPolicy => {
                &["stagedglobalnetworkpolicies", "stagedglobalnetworkpolicy", "sgnp", "sgnps"]
            }
            Kind::StagedKubernetesNetworkPolicy => &[
                "stagedkubernetesnetworkpolicies",
                "stagedkubernetesnetworkpolicy",
                "stagedkubernetespolicies",
                "stagedkubernetespolicy",
                "sknp",
                "sknps",
                "skpol",
                "skpols",
            ],
            Kind::IpReservation => &["ipreservations", "ipreservation", "reservations", "reservation"],
            Kind::IpamConfiguration => &["ipamconfigurations", "ipamconfiguration", "ipamconfigs", "ipamconfig"],
            Kind::BlockAffinity => &["blockaffinities", "blockaffinity", "affinities", "affinity"],
            Kind::IpamBlock => &["ipamblocks", "ipamblock", "blocks", "block"],
            Kind::IpamHandle => &["ipamhandles", "ipamhandle", "handles", "handle"],
            Kind::BgpConfiguration => &["bgpconfigurations", "bgpconfiguration", "bgpconfigs", "bgpconfig"],
            Kind::BgpPeer => &["bgppeers", "bgppeer", "bgpp", "bgpps", "bp", "bps"],
            Kind::BgpFilter => &["bgpfilters", "bgpfilter", "bgpf", "bgpfs", "bf", "bfs"],
            Kind::FelixConfiguration => &["felixconfigurations", "felixconfiguration", "felixconfigs", "felixconfig"],
            Kind::KubeControllersConfiguration => &[
                "kubecontrollersconfigurations",
                "kubecontrollersconfiguration",
                "kubecontrollersconfigs",
                "kubecontrollersconfig",
            ],
            Kind::ClusterInformation => &["clusterinformations", "clusterinformation", "clusterinfos", "clusterinfo"],
            Kind::CalicoNodeStatus => &["caliconodestatuses", "caliconodestatus", "nodestatuses", "nodestatus"],
            Kind::KubernetesNetworkPolicy => &["kubernetesnetworkpolicies", "kubernetesnetworkpolicy", "knp", "knps"],
            Kind::ClusterNetworkPolicy => &["clusternetworkpolicies", "clusternetworkpolicy", "cnp", "cnps"],
            Kind::Namespace => &["namespaces", "namespace", "ns"],
            Kind::ServiceAccount => &["serviceaccounts", "serviceaccount", "sa"],
            Kind::Service => &["services", "service", "svc"],
            Kind::EndpointSlice => &["endpointslices", "endpointslice", "eps"],
        }
    }
}

fn all_names() -> String {
    Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What identifies a resource. The namespace is there exactly for namespaced kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    pub namespace: Option<String>,
    pub name: String,
}

impl Key {
    /// The key of a cluster-wide resource.
    pub fn cluster(kind: Kind, name: impl Into<String>) -> Key {
        Key { kind, namespace: None, name: name.into() }
    }

    pub fn namespaced(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { kind, namespace: Some(namespace.into()), name: name.into() }
    }
}

/// `NetworkPolicy shop/web`, `Node worker-1`
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let check = |word: &str, expected: &str| {
            let found = match Kind::parse_word(word) {
                Ok(kind) => kind.to_string(),
                Err(error) => format!("? {}", error.suggestion.unwrap_or_default()),
            };
            assert_eq!(found, expected, "{word}");
        };
        check("NP", "NetworkPolicy");
        check("policies", "NetworkPolicy");
        check("GlobalNetworkPolicy", "GlobalNetworkPolicy");
        check("hep", "HostEndpoint");
        check("pool", "IPPool");
        check("no", "Node");
        check("route", "StaticRoute");
        check("nod", "? node");
        check("networkpolcy", "? networkpolicy");
        check("banana", "? ");
        let message = Kind::parse_word("nod").map_err(|error| error.to_string());
        let expected = "unknown kind \"nod\", expected one of Node, WorkloadEndpoint,";
        assert!(message.is_err_and(|text| text.starts_with(expected) && text.ends_with("(did you mean node?)")));
    }

    #[test]
    fn every_kind_is_its_own_word() {
        for kind in Kind::ALL.iter().copied() {
            assert_eq!(Kind::parse_word(kind.name()), Ok(kind));
            for word in kind.words() {
                assert_eq!(Kind::parse_word(word), Ok(kind), "{word} means two kinds");
            }
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            assert_eq!(Kind::of(kind.api_version(), kind.written()), Some(kind));
        }
    }

    #[test]
    fn key_text() {
        assert_eq!(Key::namespaced(Kind::NetworkPolicy, "shop", "web").to_string(), "NetworkPolicy shop/web");
        assert_eq!(Key::cluster(Kind::IpPool, "main").to_string(), "IPPool main");
    }
}
