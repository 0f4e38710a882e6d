//! ClusterInformation: what the cluster is, and whether its datastore may be used. There is one, named `default`.

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::is_default;
use super::metadata::Metadata;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterInformation {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: ClusterInformationSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterInformationSpec {
    /// Written once, at random.
    #[serde(rename = "clusterGUID", skip_serializing_if = "is_default")]
    pub cluster_guid: String,
    /// Such as `k8s,bgp`.
    #[serde(skip_serializing_if = "is_default")]
    pub cluster_type: String,
    #[serde(skip_serializing_if = "is_default")]
    pub calico_version: String,
    /// False: everybody stands by, such as during a migration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datastore_ready: Option<bool>,
    #[serde(skip_serializing_if = "is_default")]
    pub variant: String,
}

impl ClusterInformation {
    pub(super) fn validate(&self, _: &mut Check) {}
}
