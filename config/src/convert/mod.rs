//! Kubernetes' objects to Calico's resources: what the policy calculation works on.
//!
//! | from | to | file |
//! |---|---|---|
//! | NetworkPolicy (networking.k8s.io) | NetworkPolicy in tier `default`, order 1000 | `network_policy.rs` |
//! | StagedKubernetesNetworkPolicy | the same, unless it is to be deleted or ignored | `network_policy.rs` |
//! | ClusterNetworkPolicy | GlobalNetworkPolicy in tier `kube-admin` or `kube-baseline` | `cluster_network_policy.rs` |
//! | Namespace, ServiceAccount | Profile `kns.<name>`, `ksa.<namespace>.<name>` | `profile.rs` |
//!
//! Pure functions of one object. They take whatever could be decoded, valid or not, because the object may come from an
//! API server that knows more than we do, and never allow more than the object says: a rule that allows is left out
//! when it cannot be converted, one that denies becomes one that denies everything. What was left out is told.
//!
//! The results keep the name of their object, which may be longer or have more dots than a resource of that kind may;
//! they are not stored. Whoever names them in rules and counters takes the object's own key.

mod cluster_network_policy;
mod network_policy;
mod ports;
mod profile;
mod selector;

pub use cluster_network_policy::{ADMIN_TIER, BASELINE_TIER, cluster_network_policy};
pub use network_policy::{KUBERNETES_POLICY_ORDER, network_policy, staged_network_policy};
pub use profile::{
    ProfileSource, namespace_profile, namespace_profile_name, service_account_profile, service_account_profile_name,
    source_of_profile,
};

use crate::resource::{FieldError, Metadata};

/// A resource, and what of its object is not in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted<T> {
    pub resource: T,
    /// Paths are those of the object.
    pub left_out: Vec<FieldError>,
}

/// Who the object is: what selectors and people see, without the marks of its store.
fn identity(of: &Metadata) -> Metadata {
    Metadata {
        name: of.name.clone(),
        namespace: of.namespace.clone(),
        labels: of.labels.clone(),
        annotations: of.annotations.clone(),
        uid: of.uid.clone(),
        ..Metadata::default()
    }
}

/// Why a rule cannot be converted: where in the rule, what was found, what would be right.
struct Obstacle {
    path: String,
    found: String,
    expected: &'static str,
}

impl Obstacle {
    fn new(path: impl Into<String>, found: impl Into<String>, expected: &'static str) -> Obstacle {
        Obstacle { path: path.into(), found: found.into(), expected }
    }

    fn under(self, outer: &str) -> Obstacle {
        let path = if self.path.is_empty() { outer.to_string() } else { format!("{outer}.{}", self.path) };
        Obstacle { path, ..self }
    }

    fn told(self, consequence: &str) -> FieldError {
        let Obstacle { path, found, expected } = self;
        FieldError { path, found, expected: expected.to_string(), help: Some(consequence.to_string()) }
    }
}

#[cfg(test)]
mod tests;
