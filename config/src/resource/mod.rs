//! Resources: what was asked of the router, one file per kind.
//!
//! Each kind has the same parts: a struct of `metadata` and `spec`, its defaults (`apply_defaults`),
//! and its rules (`validate`). Decoding reads every field of Calico's v3 form with its type and
//! refuses fields it does not know; what only makes sense together is for `validate`.
//!
//!     JSON or YAML ──decode──▶ Resource ──apply_defaults──▶ Resource ──validate──▶ problems
//!
//! Invariants: a `Resource` that came through `yaml::parse` has its defaults and no problems; one
//! from `from_json` has its defaults, and may have been stored by a version with other rules.
//! Left out: what spans several resources (overlapping pools, a policy in a tier that is not there).

mod check;
mod form;
mod global_network_policy;
mod host_endpoint;
mod ip_pool;
mod kind;
mod metadata;
mod network_policy;
mod node;
mod profile;
mod qos;
mod rule;
mod static_route;
mod status;
mod tier;
mod workload_endpoint;

use serde::{Serialize, Serializer};
use serde_json::Value;

pub use check::{FieldError, NAME_MAX};
pub use global_network_policy::{GlobalNetworkPolicy, GlobalNetworkPolicySpec};
pub use host_endpoint::{ALL_INTERFACES, EndpointPort, HostEndpoint, HostEndpointSpec};
pub use ip_pool::{AllowedUse, AssignmentMode, EncapsulationMode, IpPool, IpPoolSpec, IpPoolStatus};
pub use kind::{Key, Kind, UnknownKind};
pub use metadata::{DEFAULT_NAMESPACE, Metadata};
pub use network_policy::{DEFAULT_TIER, NetworkPolicy, NetworkPolicySpec, PerformanceHint, TIER_LABEL};
pub use node::{
    AsNumber, Node, NodeAddress, NodeAddressType, NodeBgpSpec, NodeInterface, NodeSpec, NodeStatus, NodeWireguardSpec,
    OrchRef,
};
pub use profile::{Profile, ProfileSpec};
pub use qos::{Dscp, QosControls};
pub use rule::{
    Action, EntityRule, HttpMatch, HttpPath, IcmpFields, PolicyType, Rule, RuleMetadata, ServiceAccountMatch,
    ServiceMatch,
};
pub use static_route::{StaticRoute, StaticRouteSpec};
pub use status::Condition;
pub use tier::{FIXED_TIERS, Tier, TierAction, TierSpec, TierStatus};
pub use workload_endpoint::{IpNat, WorkloadEndpoint, WorkloadEndpointPort, WorkloadEndpointSpec};

use crate::decode::{Decoded, decode};
use crate::document::{self, Node as Document};
use crate::suggest;
use check::Check;
pub(crate) use check::{is_interface, is_subdomain, quoted};

#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    Node(Node),
    WorkloadEndpoint(WorkloadEndpoint),
    HostEndpoint(HostEndpoint),
    IpPool(IpPool),
    GlobalNetworkPolicy(GlobalNetworkPolicy),
    NetworkPolicy(NetworkPolicy),
    StaticRoute(StaticRoute),
    Profile(Profile),
    Tier(Tier),
}

/// The same expression for whichever kind it is.
macro_rules! for_kind {
    ($resource:expr, $inner:ident => $body:expr) => {
        match $resource {
            Resource::Node($inner) => $body,
            Resource::WorkloadEndpoint($inner) => $body,
            Resource::HostEndpoint($inner) => $body,
            Resource::IpPool($inner) => $body,
            Resource::GlobalNetworkPolicy($inner) => $body,
            Resource::NetworkPolicy($inner) => $body,
            Resource::StaticRoute($inner) => $body,
            Resource::Profile($inner) => $body,
            Resource::Tier($inner) => $body,
        }
    };
}

impl Resource {
    pub fn kind(&self) -> Kind {
        match self {
            Resource::Node(_) => Kind::Node,
            Resource::WorkloadEndpoint(_) => Kind::WorkloadEndpoint,
            Resource::HostEndpoint(_) => Kind::HostEndpoint,
            Resource::IpPool(_) => Kind::IpPool,
            Resource::GlobalNetworkPolicy(_) => Kind::GlobalNetworkPolicy,
            Resource::NetworkPolicy(_) => Kind::NetworkPolicy,
            Resource::StaticRoute(_) => Kind::StaticRoute,
            Resource::Profile(_) => Kind::Profile,
            Resource::Tier(_) => Kind::Tier,
        }
    }

    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        let kind = self.kind();
        let namespace = metadata.namespace.clone().filter(|_| kind.is_namespaced());
        Key { kind, namespace, name: metadata.name.clone() }
    }

    pub fn metadata(&self) -> &Metadata {
        for_kind!(self, inner => &inner.metadata)
    }

    pub fn metadata_mut(&mut self) -> &mut Metadata {
        for_kind!(self, inner => &mut inner.metadata)
    }

    /// Fills what was left out. Doing it again changes nothing.
    pub fn apply_defaults(&mut self) {
        let kind = self.kind();
        self.metadata_mut().apply_defaults(kind);
        match self {
            Resource::NetworkPolicy(policy) => policy.apply_defaults(),
            Resource::GlobalNetworkPolicy(policy) => policy.apply_defaults(),
            Resource::IpPool(pool) => pool.apply_defaults(),
            _ => {}
        }
    }

    /// All problems, in the order of the fields.
    pub fn validate(&self) -> Vec<FieldError> {
        let mut check = Check::default();
        self.metadata().validate(self.kind(), &mut check);
        for_kind!(self, inner => inner.validate(&mut check));
        check.finish()
    }

    /// Calico's v3 form.
    pub fn to_json(&self) -> Value {
        // Serialising our own structs cannot fail: their map keys are strings.
        let mut json = for_kind!(self, inner => serde_json::to_value(inner)).unwrap_or_default();
        json["apiVersion"] = self.kind().api_version().into();
        json["kind"] = self.kind().name().into();
        json
    }

    /// Reads Calico's v3 form and applies the defaults. The rules of `validate` are not checked.
    pub fn from_json(json: &Value) -> Result<Resource, Vec<FieldError>> {
        let document = Document::from_json(json);
        let read = read(&document, "", None);
        match read.resource {
            Some(resource) if read.problems.is_empty() => Ok(resource),
            _ => Err(read.problems.into_iter().map(|(_, error)| error).collect()),
        }
    }
}

impl Serialize for Resource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

/// What became of one document.
pub(crate) struct Read {
    /// With defaults; there may be one beside problems, to look for more problems in.
    pub(crate) resource: Option<Resource>,
    pub(crate) problems: Vec<(document::Position, FieldError)>,
    /// Paths in the resource where nothing is, because what was written there could not be read.
    pub(crate) left_out: Vec<String>,
}

/// Reads the resource at `path` of a document. `listed_kind` is the kind a list gives its items.
pub(crate) fn read(document: &Document, path: &str, listed_kind: Option<Kind>) -> Read {
    let mut read = Read { resource: None, problems: Vec::new(), left_out: Vec::new() };
    let kind = match read_kind(document, path, listed_kind) {
        Ok(kind) => kind,
        Err(problem) => {
            read.problems.push(*problem);
            return read;
        }
    };
    let decoded = match kind {
        Kind::Node => decode(document, path).map(Resource::Node),
        Kind::WorkloadEndpoint => decode(document, path).map(Resource::WorkloadEndpoint),
        Kind::HostEndpoint => decode(document, path).map(Resource::HostEndpoint),
        Kind::IpPool => decode(document, path).map(Resource::IpPool),
        Kind::GlobalNetworkPolicy => decode(document, path).map(Resource::GlobalNetworkPolicy),
        Kind::NetworkPolicy => decode(document, path).map(Resource::NetworkPolicy),
        Kind::StaticRoute => decode(document, path).map(Resource::StaticRoute),
        Kind::Profile => decode(document, path).map(Resource::Profile),
        Kind::Tier => decode(document, path).map(Resource::Tier),
    };
    let Decoded { value, problems, left_out } = decoded;
    read.resource = value.map(|mut resource| {
        resource.apply_defaults();
        resource
    });
    read.problems = problems;
    let inner = |gap: String| gap.strip_prefix(path).unwrap_or(&gap).trim_start_matches('.').to_string();
    read.left_out = left_out.into_iter().map(inner).collect();
    read
}

/// The kind the document says it is, with the `apiVersion` that belongs to it.
fn read_kind(
    document: &Document,
    path: &str,
    listed_kind: Option<Kind>,
) -> Result<Kind, Box<(document::Position, FieldError)>> {
    let at = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    let problem = |node: &Document, path: String, expected: String, help: Option<String>| {
        Box::new((node.position, FieldError { path, found: node.describe(), expected, help }))
    };
    if !document.is_map() {
        let expected = "a resource: a map with apiVersion, kind, metadata and spec".to_string();
        return Err(problem(document, path.to_string(), expected, None));
    }
    let kind = match (document.get("kind"), listed_kind) {
        (Some(node), _) => node.as_text().and_then(Kind::from_name).ok_or_else(|| {
            let names = Kind::ALL.map(Kind::name);
            let help = suggest::nearest(node.as_text().unwrap_or_default(), names);
            let help = help.map(|name| format!("did you mean {name}?"));
            problem(node, at("kind"), format!("one of {}", names.join(", ")), help)
        })?,
        (None, Some(kind)) => kind,
        (None, None) => {
            let error = FieldError {
                path: at("kind"),
                found: "nothing".to_string(),
                expected: "the kind of resource, such as NetworkPolicy".to_string(),
                help: None,
            };
            return Err(Box::new((document.position, error)));
        }
    };
    match document.get("apiVersion") {
        Some(node) if node.as_text() != Some(kind.api_version()) => {
            let expected = format!("{} for kind {kind}", kind.api_version());
            Err(problem(node, at("apiVersion"), expected, None))
        }
        None if listed_kind.is_none() => {
            let error = FieldError {
                path: at("apiVersion"),
                found: "nothing".to_string(),
                expected: format!("apiVersion: {}", kind.api_version()),
                help: None,
            };
            Err(Box::new((document.position, error)))
        }
        _ => Ok(kind),
    }
}

#[cfg(test)]
mod tests;
