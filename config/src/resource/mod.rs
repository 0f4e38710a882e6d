//! Resources: what was asked of the router, one file per kind.
//!
//! Each kind has the same parts: a struct of `metadata` and `spec`, its defaults (`apply_defaults`),
//! and its rules (`validate`). Decoding reads every field of the kind's form with its type and refuses fields
//! it does not know, but for Kubernetes' own kinds, which have more than is of use here; what only makes
//! sense together is for `validate`.
//!
//!     JSON or YAML ──decode──▶ Resource ──apply_defaults──▶ Resource ──validate──▶ problems
//!
//! Invariants: a `Resource` that came through `yaml::parse` has its defaults and no problems; one
//! from `from_json` has its defaults, and may have been stored by a version with other rules.
//! Left out: what spans several resources (overlapping pools, a policy in a tier that is not there).

mod bgp_annotations;
mod bgp_configuration;
mod bgp_filter;
mod bgp_peer;
mod calico_node_status;
mod check;
mod cluster_information;
mod community;
mod duration;
mod felix_configuration;
mod felix_values;
mod form;
mod global_network_policy;
mod host_endpoint;
mod ip_pool;
mod ipam;
mod ipam_block;
mod ipam_handle;
mod kind;
mod kube_controllers;
mod kubernetes;
mod labels;
mod metadata;
mod network_policy;
mod network_set;
mod node;
mod number;
mod pattern;
mod profile;
mod qos;
mod rule;
mod staged_policy;
mod static_route;
mod status;
mod tier;
mod word;
mod workload_endpoint;
mod written;

use serde::{Serialize, Serializer};
use serde_json::Value;

pub use bgp_annotations::{Annotated, BGP_GROUP, BfdTimers, BgpAnnotations, BgpRole, WrongAnnotation};
pub use bgp_configuration::{
    BgpConfiguration, BgpConfigurationSpec, BgpPassword, BindMode, DEFAULT_CONFIGURATION, LogSeverity, NamedCommunity,
    PrefixAdvertisement, ProgramClusterRoutes, RoutePriority, SecretKeySelector, ServiceIpBlock,
};
pub use bgp_filter::{
    AddCommunity, BgpFilter, BgpFilterAction, BgpFilterCommunities, BgpFilterOperation, BgpFilterOperator,
    BgpFilterPeerType, BgpFilterPrefixLength, BgpFilterRule, BgpFilterSource, BgpFilterSpec, PrependAsPath,
    SetPriority,
};
pub use bgp_peer::{
    BgpPeer, BgpPeerSpec, FailureDetectionMode, NextHopMode, PeerAddress, RestartMode, ReversePeering, SourceAddress,
};
pub use calico_node_status::{
    BgpDaemonState, BgpDaemonStatus, BgpPeerType, BgpSessionState, CalicoNodeStatus, CalicoNodeStatusReport,
    CalicoNodeStatusSpec, NodeAgentStatus, NodeBgpStatus, NodePeer, NodeRoute, NodeRouteLearnedFrom, NodeRouteSource,
    NodeRouteType, NodeRoutesStatus, NodeStatusClass,
};
pub use check::{FieldError, NAME_MAX};
pub use cluster_information::{ClusterInformation, ClusterInformationSpec};
pub use community::Community;
pub use duration::TimeSpan;
pub use felix_configuration::{FelixConfiguration, FelixConfigurationSpec};
pub use felix_values::*;
pub use global_network_policy::{GlobalNetworkPolicy, GlobalNetworkPolicySpec};
pub use host_endpoint::{ALL_INTERFACES, EndpointPort, HostEndpoint, HostEndpointSpec};
pub use ip_pool::{AllowedUse, AssignmentMode, EncapsulationMode, IpPool, IpPoolSpec, IpPoolStatus};
pub use ipam::{
    AffinityType, BlockAffinity, BlockAffinitySpec, BlockAffinityState, IpReservation, IpReservationSpec,
    IpamConfiguration, IpamConfigurationSpec,
};
pub use ipam_block::{AllocationAttributes, BlockOwner, IpamBlock, IpamBlockSpec, block_name};
pub use ipam_handle::{IpamHandle, IpamHandleSpec, handle_name};
pub use kind::{Key, Kind, UnknownKind};
pub use kube_controllers::{
    AssignIps, AutoHostEndpointConfig, ControllerLogSeverity, ControllersConfig, HostEndpointTemplate,
    KubeControllersConfiguration, KubeControllersConfigurationSpec, KubeControllersConfigurationStatus,
    LoadBalancerControllerConfig, MigrationControllerConfig, NodeControllerConfig, ReconcilingControllerConfig,
};
pub use kubernetes::*;
pub use labels::{Labels, Texts};
pub use metadata::{DEFAULT_NAMESPACE, INHERITED_FROM_ACCOUNT, INHERITED_FROM_NAMESPACE, Metadata, NAMESPACE_LABEL};
pub use network_policy::{DEFAULT_TIER, NetworkPolicy, NetworkPolicySpec, PerformanceHint, TIER_LABEL};
pub use network_set::{GlobalNetworkSet, NetworkSet, NetworkSetSpec};
pub use node::{
    AsNumber, Node, NodeAddress, NodeAddressType, NodeBgpSpec, NodeInterface, NodeSpec, NodeStatus, NodeWireguardSpec,
    OrchRef,
};
pub use number::Number;
pub use pattern::Pattern;
pub use profile::{Profile, ProfileSpec};
pub use qos::{Dscp, QosControls};
pub use rule::{
    Action, EntityRule, HttpMatch, HttpPath, IcmpFields, PolicyType, Rule, RuleMetadata, ServiceAccountMatch,
    ServiceMatch,
};
pub use staged_policy::{
    StagedAction, StagedGlobalNetworkPolicy, StagedGlobalNetworkPolicySpec, StagedNetworkPolicy,
    StagedNetworkPolicySpec,
};
pub use static_route::{StaticRoute, StaticRouteSpec};
pub use status::Condition;
pub use tier::{FIXED_TIERS, Tier, TierAction, TierSpec, TierStatus};
pub use word::Switch;
pub use workload_endpoint::{IpNat, WorkloadEndpoint, WorkloadEndpointPort, WorkloadEndpointSpec};

use crate::decode::{Decoded, Strictness, decode};
use crate::document::{self, Node as Document};
use crate::suggest;
use check::Check;
pub(crate) use check::{is_interface, is_label_key, is_label_value, is_subdomain, quoted};
use kind::every_kind;

macro_rules! define_resource {
    ([$($kind:ident)+]) => {
        #[derive(Debug, Clone, PartialEq)]
        // Endpoints are by far the most numerous and among the largest; kinds that are larger box their spec.
        #[allow(clippy::large_enum_variant)]
        pub enum Resource {
            $($kind($kind),)+
        }

        impl Resource {
            pub fn kind(&self) -> Kind {
                match self {
                    $(Resource::$kind(_) => Kind::$kind,)+
                }
            }
        }
    };
}
every_kind!(define_resource!());

/// The same expression for whichever kind it is.
macro_rules! for_kind {
    ([$($kind:ident)+] $resource:expr, $inner:ident => $body:expr) => {
        match $resource {
            $(Resource::$kind($inner) => $body,)+
        }
    };
}

macro_rules! decode_kind {
    ([$($kind:ident)+] $of:expr, $document:expr, $path:expr, $strictness:expr) => {
        match $of {
            $(Kind::$kind => decode($document, $path, $strictness).map(Resource::$kind),)+
        }
    };
}

// A hundred thousand of them have to fit.
const _: () = assert!(size_of::<Resource>() <= 768);

impl Resource {
    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        let kind = self.kind();
        let namespace = metadata.namespace.clone().filter(|_| kind.is_namespaced());
        Key { kind, namespace, name: metadata.name.clone() }
    }

    pub fn metadata(&self) -> &Metadata {
        every_kind!(for_kind!(self, inner => &inner.metadata))
    }

    pub fn metadata_mut(&mut self) -> &mut Metadata {
        every_kind!(for_kind!(self, inner => &mut inner.metadata))
    }

    /// Fills what was left out. Doing it again changes nothing.
    pub fn apply_defaults(&mut self) {
        let kind = self.kind();
        self.metadata_mut().apply_defaults(kind);
        match self {
            Resource::NetworkPolicy(policy) => policy.apply_defaults(),
            Resource::GlobalNetworkPolicy(policy) => policy.apply_defaults(),
            Resource::IpPool(pool) => pool.apply_defaults(),
            Resource::StagedNetworkPolicy(policy) => policy.apply_defaults(),
            Resource::StagedGlobalNetworkPolicy(policy) => policy.apply_defaults(),
            Resource::StagedKubernetesNetworkPolicy(policy) => policy.apply_defaults(),
            Resource::KubernetesNetworkPolicy(policy) => policy.apply_defaults(),
            _ => {}
        }
    }

    /// All problems, in the order of the fields.
    pub fn validate(&self) -> Vec<FieldError> {
        let mut check = Check::default();
        self.metadata().validate(self.kind(), &mut check);
        every_kind!(for_kind!(self, inner => inner.validate(&mut check)));
        check.finish()
    }

    /// Calico's v3 form.
    pub fn to_json(&self) -> Value {
        // Serialising our own structs cannot fail: their map keys are strings.
        let mut json = every_kind!(for_kind!(self, inner => serde_json::to_value(inner))).unwrap_or_default();
        json["apiVersion"] = self.kind().api_version().into();
        json["kind"] = self.kind().written().into();
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
    let strictness = match kind.tolerates_unknown_fields() {
        true => Strictness::PassOver,
        false => Strictness::Refuse,
    };
    let decoded = every_kind!(decode_kind!(kind, document, path, strictness));
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

/// The fields there are where the document has one of the name `probe`, which is in no struct.
#[cfg(test)]
pub(crate) fn fields_at(document: &Document, kind: Kind, probe: &str) -> Option<Vec<String>> {
    let decoded = every_kind!(decode_kind!(kind, document, "", Strictness::Refuse));
    let Decoded { problems, .. } = decoded;
    let is_probe =
        |error: &FieldError| error.path.rsplit('.').next() == Some(probe) && error.found == "an unknown field";
    let (_, error) = problems.into_iter().find(|(_, error)| is_probe(error))?;
    Some(error.expected.trim_start_matches("one of ").split(", ").map(str::to_string).collect())
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
    let Some(written) = document.get("kind") else {
        return match listed_kind {
            Some(kind) => read_version(document, &[kind], path, listed_kind),
            None => {
                let error = FieldError {
                    path: at("kind"),
                    found: "nothing".to_string(),
                    expected: "the kind of resource, such as NetworkPolicy".to_string(),
                    help: None,
                };
                Err(Box::new((document.position, error)))
            }
        };
    };
    let kinds: Vec<Kind> = Kind::written_as(written.as_text().unwrap_or_default()).collect();
    if kinds.is_empty() {
        let distinct = Kind::ALL.iter().filter(|kind| kind.written() == kind.name());
        let names: Vec<&str> = distinct.map(|kind| kind.written()).collect();
        let help = suggest::nearest(written.as_text().unwrap_or_default(), names.iter().copied());
        let help = help.map(|name| format!("did you mean {name}?"));
        return Err(problem(written, at("kind"), format!("one of {}", names.join(", ")), help));
    }
    read_version(document, &kinds, path, listed_kind)
}

/// Which of the kinds that are written alike the document's `apiVersion` means.
fn read_version(
    document: &Document,
    kinds: &[Kind],
    path: &str,
    listed_kind: Option<Kind>,
) -> Result<Kind, Box<(document::Position, FieldError)>> {
    let path = if path.is_empty() { "apiVersion".to_string() } else { format!("{path}.apiVersion") };
    let versions = || kinds.iter().map(|kind| kind.api_version()).collect::<Vec<_>>().join(" or ");
    let (position, found, expected) = match document.get("apiVersion") {
        Some(node) => match kinds.iter().find(|kind| node.as_text() == Some(kind.api_version())) {
            Some(kind) => return Ok(*kind),
            None => {
                let expected = format!("{} for kind {}", versions(), kinds[0].written());
                (node.position, node.describe(), expected)
            }
        },
        None => match listed_kind {
            Some(listed) => return Ok(if kinds.contains(&listed) { listed } else { kinds[0] }),
            None => (document.position, "nothing".to_string(), format!("apiVersion: {}", versions())),
        },
    };
    Err(Box::new((position, FieldError { path, found, expected, help: None })))
}

#[cfg(test)]
mod tests;
