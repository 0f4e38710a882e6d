//! CalicoNodeStatus: asks one node to report about itself, and holds the report.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::{blank_is_absent, is_default};
use super::metadata::Metadata;
use super::number::Number;
use super::word::words;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalicoNodeStatus {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: CalicoNodeStatusSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: CalicoNodeStatusReport,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CalicoNodeStatusSpec {
    pub node: String,
    pub classes: Vec<NodeStatusClass>,
    /// 0 reports once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_period_seconds: Option<Number<0, 86_400>>,
}

words! {
    /// A part of the report.
    NodeStatusClass: exact {
        Agent = "Agent",
        Bgp = "BGP",
        Routes = "Routes",
    }
    BgpDaemonState: exact {
        Ready = "Ready",
        NotReady = "NotReady",
    }
    BgpPeerType: exact {
        NodeMesh = "NodeMesh",
        NodePeer = "NodePeer",
        GlobalPeer = "GlobalPeer",
    }
    BgpSessionState: exact {
        Idle = "Idle",
        Connect = "Connect",
        Active = "Active",
        OpenSent = "OpenSent",
        OpenConfirm = "OpenConfirm",
        Established = "Established",
        Close = "Close",
    }
    /// In force, or a candidate.
    NodeRouteType: exact {
        Fib = "FIB",
        Rib = "RIB",
    }
    NodeRouteSource: exact {
        Kernel = "Kernel",
        Static = "Static",
        Direct = "Direct",
        NodeMesh = "NodeMesh",
        BgpPeer = "BGPPeer",
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CalicoNodeStatusReport {
    /// RFC 3339.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub agent: NodeAgentStatus,
    #[serde(skip_serializing_if = "is_default")]
    pub bgp: NodeBgpStatus,
    #[serde(skip_serializing_if = "is_default")]
    pub routes: NodeRoutesStatus,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAgentStatus {
    #[serde(rename = "birdV4", skip_serializing_if = "is_default")]
    pub bird_v4: BgpDaemonStatus,
    #[serde(rename = "birdV6", skip_serializing_if = "is_default")]
    pub bird_v6: BgpDaemonStatus,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BgpDaemonStatus {
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub state: Option<BgpDaemonState>,
    #[serde(skip_serializing_if = "is_default")]
    pub version: String,
    #[serde(rename = "routerID", skip_serializing_if = "is_default")]
    pub router_id: String,
    #[serde(skip_serializing_if = "is_default")]
    pub last_boot_time: String,
    #[serde(skip_serializing_if = "is_default")]
    pub last_reconfiguration_time: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeBgpStatus {
    #[serde(rename = "numberEstablishedV4")]
    pub number_established_v4: u32,
    #[serde(rename = "numberNotEstablishedV4")]
    pub number_not_established_v4: u32,
    #[serde(rename = "numberEstablishedV6")]
    pub number_established_v6: u32,
    #[serde(rename = "numberNotEstablishedV6")]
    pub number_not_established_v6: u32,
    #[serde(rename = "peersV4", skip_serializing_if = "is_default")]
    pub peers_v4: Vec<NodePeer>,
    #[serde(rename = "peersV6", skip_serializing_if = "is_default")]
    pub peers_v6: Vec<NodePeer>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodePeer {
    #[serde(rename = "peerIP", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub peer_ip: Option<IpAddr>,
    #[serde(rename = "type", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<BgpPeerType>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub state: Option<BgpSessionState>,
    #[serde(skip_serializing_if = "is_default")]
    pub since: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeRoutesStatus {
    #[serde(rename = "routesV4", skip_serializing_if = "is_default")]
    pub routes_v4: Vec<NodeRoute>,
    #[serde(rename = "routesV6", skip_serializing_if = "is_default")]
    pub routes_v6: Vec<NodeRoute>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeRoute {
    #[serde(rename = "type", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub route_type: Option<NodeRouteType>,
    #[serde(skip_serializing_if = "is_default")]
    pub destination: String,
    #[serde(skip_serializing_if = "is_default")]
    pub gateway: String,
    #[serde(skip_serializing_if = "is_default")]
    pub interface: String,
    #[serde(skip_serializing_if = "is_default")]
    pub learned_from: NodeRouteLearnedFrom,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeRouteLearnedFrom {
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub source_type: Option<NodeRouteSource>,
    #[serde(rename = "peerIP", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub peer_ip: Option<IpAddr>,
}

impl CalicoNodeStatus {
    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| {
            check.required_name("node", &self.spec.node, "the name of the node that is to report");
            if self.spec.classes.is_empty() {
                let expected = format!("at least one of {}", NodeStatusClass::WORDS.join(", "));
                check.refuse_field("classes", "nothing", expected);
            }
            check.distinct("classes", &self.spec.classes);
            if self.spec.update_period_seconds.is_none() {
                check.refuse_field("updatePeriodSeconds", "nothing", "a number of seconds, or 0 for one report");
            }
        });
    }
}
