//! KubeControllersConfiguration: what the controllers that follow Kubernetes do. There is one, named `default`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::duration::TimeSpan;
use super::form::{blank_is_absent, is_default};
use super::metadata::Metadata;
use super::number::Number;
use super::pattern::Pattern;
use super::word::{Switch, words};
use crate::net::Cidr;
use crate::selector::Selector;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KubeControllersConfiguration {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Box<KubeControllersConfigurationSpec>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: KubeControllersConfigurationStatus,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubeControllersConfigurationSpec {
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<ControllerLogSeverity>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub health_checks: Option<Switch>,
    #[serde(
        rename = "etcdV3CompactionPeriod",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub etcd_v3_compaction_period: Option<TimeSpan>,
    /// 0 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_port: Option<Number<0, 65_535>>,
    #[serde(skip_serializing_if = "is_default")]
    pub controllers: ControllersConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug_profile_port: Option<Number<0, 65_535>>,
}

words! {
    ControllerLogSeverity: exact {
        None = "None",
        Debug = "Debug",
        Info = "Info",
        Warning = "Warning",
        Error = "Error",
        Fatal = "Fatal",
        Panic = "Panic",
    }
    AssignIps: exact {
        AllServices = "AllServices",
        RequestedServicesOnly = "RequestedServicesOnly",
    }
}

/// A controller that is there runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ControllersConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeControllerConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<ReconcilingControllerConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_endpoint: Option<ReconcilingControllerConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ReconcilingControllerConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<ReconcilingControllerConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerControllerConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationControllerConfig>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeControllerConfig {
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub reconciler_period: Option<TimeSpan>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub sync_labels: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_endpoint: Option<AutoHostEndpointConfig>,
    /// 0 never takes back an address that seems lost.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub leak_grace_period: Option<TimeSpan>,
}

/// Host endpoints that are made for every node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AutoHostEndpointConfig {
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub auto_create: Option<Switch>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub create_default_host_endpoint: Option<Switch>,
    #[serde(skip_serializing_if = "is_default")]
    pub templates: Vec<HostEndpointTemplate>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostEndpointTemplate {
    /// The endpoint is called `<node>-<this>-auto-hep`.
    #[serde(skip_serializing_if = "is_default")]
    pub generate_name: String,
    #[serde(rename = "interfaceCIDRs", skip_serializing_if = "is_default")]
    pub interface_cidrs: Vec<Cidr>,
    /// One endpoint for each interface of the node that it matches.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub interface_pattern: Option<Pattern>,
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReconcilingControllerConfig {
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub reconciler_period: Option<TimeSpan>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancerControllerConfig {
    #[serde(rename = "assignIPs", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub assign_ips: Option<AssignIps>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MigrationControllerConfig {
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub policy_name_migrator: Option<Switch>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubeControllersConfigurationStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_config: Option<KubeControllersConfigurationSpec>,
    #[serde(skip_serializing_if = "is_default")]
    pub environment_vars: BTreeMap<String, String>,
}

impl KubeControllersConfiguration {
    pub(super) fn validate(&self, check: &mut Check) {
        let templates = self.spec.controllers.node.as_ref().and_then(|node| node.host_endpoint.as_ref());
        let templates = templates.map_or(&[][..], |endpoints| &endpoints.templates);
        check.field("spec.controllers.node.hostEndpoint", |check| {
            check.each("templates", templates, |check, template| template.validate(check));
        });
    }
}

impl HostEndpointTemplate {
    fn validate(&self, check: &mut Check) {
        check.name("generateName", &self.generate_name);
        check.labels("labels", &self.labels);
        check.annotations("annotations", &self.annotations);
        if let Some(selector) = &self.node_selector {
            check.selector("nodeSelector", selector);
        }
    }
}
