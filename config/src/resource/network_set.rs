//! NetworkSet and GlobalNetworkSet: networks that rules select by labels, as they select endpoints.

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::is_default;
use super::metadata::Metadata;
use crate::net::Cidr;

/// In one namespace, whose labels it inherits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkSet {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: NetworkSetSpec,
}

/// In no namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GlobalNetworkSet {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: NetworkSetSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSetSpec {
    #[serde(skip_serializing_if = "is_default")]
    pub nets: Vec<Cidr>,
}

impl NetworkSet {
    pub(super) fn validate(&self, check: &mut Check) {
        self.metadata.refuse_reserved_labels(check);
    }
}

impl GlobalNetworkSet {
    pub(super) fn validate(&self, check: &mut Check) {
        self.metadata.refuse_reserved_labels(check);
    }
}
