//! BGPPeer: a session to somebody: an address, other nodes, or workloads of this node.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bgp_annotations::{Annotated, BgpAnnotations};
use super::bgp_configuration::BgpPassword;
use super::check::{Check, is_subdomain, quoted};
use super::duration::TimeSpan;
use super::form::{blank_is_absent, is_default};
use super::metadata::Metadata;
use super::node::AsNumber;
use super::word::words;
use crate::selector::Selector;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BgpPeer {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: BgpPeerSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BgpPeerSpec {
    /// The local node; with neither this nor a selector, every node.
    #[serde(skip_serializing_if = "is_default")]
    pub node: String,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
    #[serde(rename = "peerIP", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub peer_ip: Option<PeerAddress>,
    /// The peer's.
    #[serde(skip_serializing_if = "is_default")]
    pub as_number: AsNumber,
    /// Who the node says it is, to this peer.
    #[serde(rename = "localASNumber", skip_serializing_if = "Option::is_none")]
    pub local_as_number: Option<AsNumber>,
    /// Peers that are nodes.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub peer_selector: Option<Selector>,
    /// The older form of `nextHopMode: Keep`.
    #[serde(skip_serializing_if = "is_default")]
    pub keep_original_next_hop: bool,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub next_hop_mode: Option<NextHopMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<BgpPassword>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub source_address: Option<SourceAddress>,
    /// How the loss of the peer is noticed, beside the hold timer.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub failure_detection_mode: Option<FailureDetectionMode>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub restart_mode: Option<RestartMode>,
    /// The restart time, 120 s when absent; with LongLivedGracefulRestart how long routes are stale, 3600 s when absent.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub max_restart_time: Option<TimeSpan>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<TimeSpan>,
    /// How often the own number may stand in a path.
    #[serde(rename = "numAllowedLocalASNumbers", skip_serializing_if = "Option::is_none")]
    pub num_allowed_local_as_numbers: Option<u32>,
    /// Hops the peer may be away (RFC 5082).
    #[serde(rename = "ttlSecurity", skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// The gateway to the peer.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub reachable_by: Option<IpAddr>,
    /// BGPFilters, in order.
    #[serde(skip_serializing_if = "is_default")]
    pub filters: Vec<String>,
    /// Peers that are workloads of the local node.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub local_workload_selector: Option<Selector>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub reverse_peering: Option<ReversePeering>,
}

words! {
    NextHopMode: exact {
        /// Self towards other systems, unchanged inside.
        Auto = "Auto",
        Itself = "Self",
        Keep = "Keep",
    }
    SourceAddress: exact {
        UseNodeIp = "UseNodeIP",
        None = "None",
    }
    FailureDetectionMode: exact {
        None = "None",
        BfdIfDirectlyConnected = "BFDIfDirectlyConnected",
    }
    /// What becomes of routes while the other side restarts.
    RestartMode: exact {
        /// RFC 4724.
        GracefulRestart = "GracefulRestart",
        /// RFC 9494, after it.
        LongLivedGracefulRestart = "LongLivedGracefulRestart",
    }
    /// Whether nodes that are selected as peers peer back by themselves.
    ReversePeering: exact {
        Auto = "Auto",
        Manual = "Manual",
    }
}

/// An address, and the port if it is not the usual one: `10.0.0.1`, `10.0.0.1:1790`, `[fd00::1]:1790`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl PeerAddress {
    pub const EXPECTED: &'static str =
        "an address, or an address and port 1-65535 such as 10.0.0.1:179 or [fd00::1]:179";

    pub fn parse(text: &str) -> Option<PeerAddress> {
        if let Ok(address) = text.parse() {
            return Some(PeerAddress { address, port: None });
        }
        let (host, port) = text.rsplit_once(':')?;
        let address = match host.strip_prefix('[') {
            Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?),
            None => IpAddr::V4(host.parse().ok()?),
        };
        let is_plain = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port: &u16| *port != 0 && is_plain)?;
        Some(PeerAddress { address, port: Some(port) })
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (address, None) => address.fmt(f),
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
        }
    }
}

impl Serialize for PeerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PeerAddress, D::Error> {
        super::word::read_text(deserializer, PeerAddress::EXPECTED, PeerAddress::parse)
    }
}

impl BgpPeer {
    pub(super) fn validate(&self, check: &mut Check) {
        BgpAnnotations::validate(&self.metadata.annotations, Annotated::Peer, check);
        let (annotations, _) = BgpAnnotations::read(&self.metadata.annotations, Annotated::Peer);
        check.field("spec", |check| {
            if annotations.bfd.is_some() && self.spec.failure_detection_mode == Some(FailureDetectionMode::None) {
                let expected = "BFDIfDirectlyConnected, or nothing, beside it";
                check.refuse_field("failureDetectionMode", "None beside annotation bgp.vrouter.io/bfd", expected);
            }
            self.spec.validate_who(check);
            self.spec.validate_how(check);
        });
    }
}

impl BgpPeerSpec {
    /// Which nodes speak to whom.
    fn validate_who(&self, check: &mut Check) {
        check.name("node", &self.node);
        if !self.node.is_empty() && self.node_selector.is_some() {
            check.refuse_field("nodeSelector", "both node and nodeSelector", "at most one of them");
        }
        let selectors = [
            ("nodeSelector", &self.node_selector),
            ("peerSelector", &self.peer_selector),
            ("localWorkloadSelector", &self.local_workload_selector),
        ];
        for (name, selector) in selectors {
            if let Some(selector) = selector {
                check.selector(name, selector);
            }
        }
        let has_number = self.as_number != AsNumber::default();
        if self.peer_selector.is_some() {
            if self.peer_ip.is_some() {
                check.refuse_field("peerSelector", "both peerIP and peerSelector", "at most one of them");
            }
            if has_number {
                let expected = "none: selected nodes have numbers of their own";
                check.refuse_field("asNumber", "asNumber beside peerSelector", expected);
            }
        }
        if self.local_workload_selector.is_some() {
            if self.peer_ip.is_some() || self.peer_selector.is_some() {
                let expected = "localWorkloadSelector without peerIP and peerSelector";
                check.refuse_field("localWorkloadSelector", "several ways to say who the peer is", expected);
            }
            if !has_number {
                check.refuse_field("asNumber", "nothing", "the AS number of the local workloads");
            }
        }
    }

    fn validate_how(&self, check: &mut Check) {
        if self.keep_original_next_hop && self.next_hop_mode.is_some() {
            let expected = "nextHopMode alone";
            check.refuse_field("keepOriginalNextHop", "both keepOriginalNextHop and nextHopMode", expected);
        }
        if let Some(password) = &self.password {
            check.field("password", |check| password.validate(check));
        }
        if let Some(gateway) = self.reachable_by {
            match self.peer_ip {
                None => check.refuse_field("reachableBy", "a gateway without peerIP", "peerIP beside it"),
                Some(peer) if peer.address.is_ipv4() != gateway.is_ipv4() => {
                    check.refuse_field("reachableBy", gateway, "an address of the same family as peerIP");
                }
                Some(_) => {}
            }
        }
        check.each("filters", &self.filters, |check, filter| {
            if !is_subdomain(filter) {
                check.refuse(quoted(filter), "the name of a BGPFilter");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_addresses() {
        for text in ["10.0.0.1", "fd00::1", "10.0.0.1:179", "[fd00::1]:65535"] {
            assert_eq!(PeerAddress::parse(text).map(|address| address.to_string()).as_deref(), Some(text));
        }
        for text in ["", "x", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:", "[10.0.0.1]:1", "[fd00::1]", "[]:1", ":1"] {
            assert_eq!(PeerAddress::parse(text), None, "{text:?}");
        }
    }
}
