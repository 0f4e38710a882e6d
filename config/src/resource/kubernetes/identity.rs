//! Namespace and ServiceAccount: only their labels mean something to a router. `convert` makes profiles of them.

use serde::{Deserialize, Serialize};

use crate::resource::check::Check;
use crate::resource::metadata::Metadata;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Namespace {
    #[serde(default)]
    pub metadata: Metadata,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceAccount {
    #[serde(default)]
    pub metadata: Metadata,
}

impl Namespace {
    pub(in crate::resource) fn validate(&self, _: &mut Check) {}
}

impl ServiceAccount {
    pub(in crate::resource) fn validate(&self, _: &mut Check) {}
}
