//! Which interface of which workload: the names that follow from it.
//!
//! | name | form |
//! |---|---|
//! | endpoint | `<node>-<orchestrator>-<workload>-<interface>`, each part with its `-` doubled, as Calico derives it |
//! | host side | the workload prefix and the first hex digits of a hash of everything |
//! | alias of the host side | `vrouter:` and all digits: what bears it is this one's and nobody else's |
//! | handle of the addresses | `<network>.<container>`; a second interface of a container adds `@<interface>` |
//!
//! A container's id may be longer than a resource's name, or have other characters: then the name has a piece of its hash, and
//! the whole id is kept beside it, in an annotation. Nothing is ever found by the name alone.

use std::collections::BTreeMap;

use config::resource::{Key, Kind, WorkloadEndpoint, WorkloadEndpointSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub const CNI: &str = "cni";
pub const KUBERNETES: &str = "k8s";
pub const DOCKER: &str = "libnetwork";
pub const BY_HAND: &str = "vrouter";

/// Attributes of an address: whose it is. One that an address plugin has given to somebody else's main plugin has names of its
/// own: no endpoint will ever have it, and it is not lost for that.
pub const ATTRIBUTES: [&str; 3] = ["container", "interface", "network"];
pub const ALONE: [&str; 3] = ["ipam-container", "ipam-interface", "ipam-network"];

/// What an attached endpoint says of itself, in its annotations.
const CONTAINER: &str = "vrouter/container";
const NETWORK: &str = "vrouter/network";
const INTERFACE: &str = "vrouter/interface";
const WORKLOAD: &str = "vrouter/workload";

/// What the alias of every host side begins with.
pub const ALIAS: &str = "vrouter:";

/// What far ends are called as long as they wait on the host, unless workloads' host sides are called so.
const WAITING: [&str; 2] = ["temp", "wait"];

/// The interface that a workload has first.
pub const FIRST_INTERFACE: &str = "eth0";

const INTERFACE_NAME_MAX: usize = 15;
/// Digits of a host side's name, as Calico has them.
const DIGITS: usize = 11;
/// Of a part of an endpoint's name.
const PART_MAX: usize = 63;

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Identity {
    pub orchestrator: String,
    pub namespace: String,
    /// The pod's name where there is one, else the container's id.
    pub workload: String,
    pub container: String,
    /// As the workload calls it.
    pub interface: String,
    pub network: String,
}

impl Identity {
    /// Of an endpoint that was attached; none for those that somebody applied.
    pub fn of(endpoint: &WorkloadEndpoint) -> Option<Identity> {
        let annotations = &endpoint.metadata.annotations;
        let text = |name: &str| annotations.get(name).cloned();
        Some(Identity {
            orchestrator: endpoint.spec.orchestrator.clone(),
            namespace: endpoint.metadata.namespace.clone().unwrap_or_default(),
            workload: text(WORKLOAD)?,
            container: text(CONTAINER)?,
            interface: text(INTERFACE)?,
            network: text(NETWORK)?,
        })
    }

    /// What `of` reads.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let pairs = [
            (CONTAINER, &self.container),
            (NETWORK, &self.network),
            (INTERFACE, &self.interface),
            (WORKLOAD, &self.workload),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_string(), value.clone())).collect()
    }

    /// The fields that say who it is.
    pub fn spec(&self, node: &str) -> WorkloadEndpointSpec {
        let workload = legal(&self.workload);
        // A pod's is whole, as the runtime's own tools print it; elsewhere it is the workload in the endpoint's name.
        let is_whole =
            self.orchestrator == KUBERNETES && self.container.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let container = if is_whole { self.container.clone() } else { legal(&self.container).replace('.', "-") };
        WorkloadEndpointSpec {
            orchestrator: self.orchestrator.clone(),
            node: node.to_string(),
            endpoint: legal(&self.interface),
            container_id: container,
            pod: if self.orchestrator == KUBERNETES { workload.clone() } else { String::new() },
            workload: if self.orchestrator == KUBERNETES { String::new() } else { workload },
            ..WorkloadEndpointSpec::default()
        }
    }

    pub fn key(&self, node: &str) -> Key {
        let spec = self.spec(node);
        let workload = if spec.pod.is_empty() { &spec.workload } else { &spec.pod };
        let parts = [&spec.node, &spec.orchestrator, workload, &spec.endpoint];
        let name = parts.map(|part| part.replace('-', "--")).join("-");
        Key::namespaced(Kind::WorkloadEndpoint, &self.namespace, &name)
    }

    pub fn host_interface(&self, prefix: &str) -> String {
        let room = INTERFACE_NAME_MAX.saturating_sub(prefix.len());
        format!("{prefix}{}", &self.digits()[..room.min(DIGITS)])
    }

    /// The far end's name while it is on the host: no prefix of workloads begins it.
    pub fn waiting_interface(&self, prefix: &str) -> String {
        let is_free = |word: &&&str| prefix.is_empty() || !word.starts_with(prefix);
        self.host_interface(WAITING.iter().find(is_free).unwrap_or(&WAITING[0]))
    }

    pub fn alias(&self) -> String {
        format!("{ALIAS}{}", self.digits())
    }

    pub fn handle(&self) -> String {
        match self.interface == FIRST_INTERFACE {
            true => format!("{}.{}", self.network, self.container),
            false => format!("{}.{}@{}", self.network, self.container, self.interface),
        }
    }

    /// What the addresses are kept with.
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = self.whose(ATTRIBUTES);
        attributes.insert("namespace".to_string(), self.namespace.clone());
        attributes.insert("pod".to_string(), self.workload.clone());
        attributes
    }

    /// The same, where the endpoint is somebody else's.
    pub fn attributes_alone(&self) -> BTreeMap<String, String> {
        self.whose(ALONE)
    }

    fn whose(&self, [container, interface, network]: [&str; 3]) -> BTreeMap<String, String> {
        let pairs = [(container, &self.container), (interface, &self.interface), (network, &self.network)];
        pairs.into_iter().map(|(name, value)| (name.to_string(), value.clone())).collect()
    }

    fn digits(&self) -> String {
        let mut hash = Sha256::new();
        for part in
            [&self.network, &self.orchestrator, &self.namespace, &self.workload, &self.container, &self.interface]
        {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hex(&hash.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text where it may be part of a resource's name, else what is left of it and a piece of its hash.
pub fn legal(text: &str) -> String {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_legal = text.len() <= PART_MAX
        && text.split('.').all(|label| {
            let (first, last) = (label.bytes().next(), label.bytes().last());
            first.is_some_and(is_inner)
                && last.is_some_and(is_inner)
                && label.bytes().all(|byte| is_inner(byte) || byte == b'-')
        });
    if is_legal {
        return text.to_string();
    }
    let kept = text.bytes().map(|byte| byte.to_ascii_lowercase()).filter(|byte| is_inner(*byte));
    let kept: String = kept.take(PART_MAX - 24).map(char::from).collect();
    format!("{kept}x{}", &hex(&Sha256::digest(text))[..16])
}

#[cfg(test)]
mod tests {
    use config::resource::{Metadata, Resource};

    use super::*;

    fn identity(container: &str, interface: &str) -> Identity {
        Identity {
            orchestrator: CNI.to_string(),
            namespace: "default".to_string(),
            workload: container.to_string(),
            container: container.to_string(),
            interface: interface.to_string(),
            network: "pods".to_string(),
        }
    }

    fn endpoint(identity: &Identity) -> WorkloadEndpoint {
        let key = identity.key("n1");
        let metadata =
            Metadata { annotations: identity.annotations(), ..Metadata::namespaced(&identity.namespace, &key.name) };
        let spec = WorkloadEndpointSpec { interface_name: identity.host_interface("cali"), ..identity.spec("n1") };
        WorkloadEndpoint { metadata, spec }
    }

    /// Whatever a runtime may call a container, the endpoint is valid, and says who it is.
    #[test]
    fn any_container_has_a_valid_endpoint() {
        let long = "a".repeat(255);
        for container in ["4f1c", "default-web_1.A", "A", "0", "a.b", "a-", "a..b", long.as_str()] {
            for interface in ["eth0", "net1", "Eth0.5", "a_b@c", "en--"] {
                let mut identity = identity(container, interface);
                for orchestrator in [CNI, KUBERNETES] {
                    identity.orchestrator = orchestrator.to_string();
                    let endpoint = endpoint(&identity);
                    let problems = Resource::WorkloadEndpoint(endpoint.clone()).validate();
                    assert!(problems.is_empty(), "{container} {interface}: {problems:?}");
                    assert_eq!(Identity::of(&endpoint), Some(identity.clone()));
                    assert!(identity.host_interface("cali").len() <= INTERFACE_NAME_MAX);
                }
            }
        }
    }

    /// Ids that look alike where they are cut, or without what cannot be in a name, are not taken for each other.
    #[test]
    fn nobody_is_somebody_else() {
        let (a, b) = (format!("{}1", "a".repeat(254)), format!("{}2", "a".repeat(254)));
        for (one, other) in [("web_1", "web.1"), ("Web", "web"), (a.as_str(), b.as_str())] {
            let (one, other) = (identity(one, "eth0"), identity(other, "eth0"));
            assert_ne!(one.key("n1"), other.key("n1"));
            assert_ne!(one.alias(), other.alias());
            assert_ne!(one.handle(), other.handle());
        }
        let (first, second) = (identity("a", "eth0"), identity("a", "net1"));
        assert_ne!(first.handle(), second.handle());
        assert_ne!(first.host_interface("cali"), second.host_interface("cali"));
        // What is between the parts counts.
        let moved = Identity { network: "podsc".to_string(), orchestrator: "ni".to_string(), ..first.clone() };
        assert_ne!(first.alias(), moved.alias());
    }

    #[test]
    fn a_pod_keeps_its_containers_id() {
        let id = "0123456789abcdef".repeat(4);
        let pod =
            Identity { orchestrator: KUBERNETES.to_string(), workload: "web".to_string(), ..identity(&id, "eth0") };
        assert_eq!(pod.spec("n1").container_id, id);
        assert_eq!(identity(&id, "eth0").spec("n1").derived_name(), identity(&id, "eth0").key("n1").name);
    }

    #[test]
    fn names_are_calicos() {
        let identity = identity("4f1c", "eth0");
        assert_eq!(identity.key("node-1").name, "node--1-cni-4f1c-eth0");
        assert_eq!(identity.handle(), "pods.4f1c");
        assert_eq!(identity.host_interface("cali").len(), 15);
        assert!(identity.waiting_interface("cali").starts_with("temp"));
        assert!(identity.waiting_interface("te").starts_with("wait"));
    }
}
