//! The kinds of resource: their names, the words a person may use for them, and the key of a resource.

use std::fmt;

use crate::suggest;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Node,
    WorkloadEndpoint,
    HostEndpoint,
    IpPool,
    GlobalNetworkPolicy,
    NetworkPolicy,
    StaticRoute,
    Profile,
    Tier,
}

/// A word that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown kind {word:?}, expected one of {}{}",
    Kind::ALL.map(Kind::name).join(", "),
    suggestion.as_deref().map(|s| format!(" (did you mean {s}?)")).unwrap_or_default()
)]
pub struct UnknownKind {
    pub word: String,
    pub suggestion: Option<String>,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Node,
        Kind::WorkloadEndpoint,
        Kind::HostEndpoint,
        Kind::IpPool,
        Kind::GlobalNetworkPolicy,
        Kind::NetworkPolicy,
        Kind::StaticRoute,
        Kind::Profile,
        Kind::Tier,
    ];

    /// As written in `kind:`.
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
        }
    }

    /// As written in a path or a list heading.
    pub fn plural(self) -> &'static str {
        self.words()[0]
    }

    pub fn is_namespaced(self) -> bool {
        matches!(self, Kind::NetworkPolicy | Kind::WorkloadEndpoint)
    }

    /// As written in `apiVersion:`. Our own kinds have our own group.
    pub fn api_version(self) -> &'static str {
        match self {
            Kind::StaticRoute => "vrouter.io/v1",
            _ => "projectcalico.org/v3",
        }
    }

    /// The kind a person means, in any case: `np`, `netpols`... are calicoctl's words.
    pub fn parse_word(word: &str) -> Result<Kind, UnknownKind> {
        let lower = word.to_lowercase();
        let named = Kind::ALL.into_iter().find(|kind| kind.words().contains(&lower.as_str()));
        named.ok_or_else(|| {
            let words = Kind::ALL.into_iter().flat_map(|kind| kind.words().iter().copied());
            let suggestion = suggest::nearest(word, words).map(str::to_string);
            UnknownKind { word: word.to_string(), suggestion }
        })
    }

    /// The kind exactly named in `kind:`.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The plural first, then the other words.
    fn words(self) -> &'static [&'static str] {
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
        }
    }
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
        for kind in Kind::ALL {
            assert_eq!(Kind::parse_word(kind.name()), Ok(kind));
            assert_eq!(Kind::parse_word(kind.plural()), Ok(kind));
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
    }

    #[test]
    fn key_text() {
        assert_eq!(Key::namespaced(Kind::NetworkPolicy, "shop", "web").to_string(), "NetworkPolicy shop/web");
        assert_eq!(Key::cluster(Kind::IpPool, "main").to_string(), "IPPool main");
    }
}
