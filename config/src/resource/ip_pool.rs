//! IPPool: a range of addresses for workloads, tunnels or load balancers, and how it is reached.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::{blank_is_absent, blank_is_default, is_default};
use super::metadata::Metadata;
use super::status::Condition;
use crate::net::{Cidr, IpVersion};
use crate::selector::Selector;

const ALLOWED_USES_MAX: usize = 10;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpPool {
    #[serde(default)]
    pub metadata: Metadata,
    pub spec: IpPoolSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: IpPoolStatus,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolSpec {
    pub cidr: Cidr,
    #[serde(default, deserialize_with = "blank_is_default")]
    pub vxlan_mode: EncapsulationMode,
    #[serde(default, deserialize_with = "blank_is_default")]
    pub ipip_mode: EncapsulationMode,
    /// Translate the source of traffic that leaves all pools.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nat_outgoing: bool,
    /// No new automatic allocation.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disabled: bool,
    #[serde(default, rename = "disableBGPExport", skip_serializing_if = "is_default")]
    pub disable_bgp_export: bool,
    /// Prefix length of the blocks the pool is handed out in.
    #[serde(default)]
    pub block_size: u8,
    /// Nodes that may allocate.
    #[serde(default, deserialize_with = "blank_is_default")]
    pub node_selector: Selector,
    /// Namespaces that may allocate.
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// Ask `is_for`: none named has a meaning.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allowed_uses: Vec<AllowedUse>,
    #[serde(default)]
    pub assignment_mode: AssignmentMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EncapsulationMode {
    #[default]
    Never,
    Always,
    /// Only towards nodes in another subnet.
    CrossSubnet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllowedUse {
    Workload,
    Tunnel,
    LoadBalancer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AssignmentMode {
    #[default]
    Automatic,
    /// Only when asked for by name or address.
    Manual,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IpPoolStatus {
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<Condition>,
}

impl IpPool {
    pub(super) fn apply_defaults(&mut self) {
        let spec = &mut self.spec;
        if spec.block_size == 0 {
            spec.block_size = if spec.cidr.is_ipv4() { 26 } else { 122 };
        }
        if spec.node_selector.is_blank() {
            spec.node_selector = Selector::all();
        }
    }

    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| self.spec.validate(check));
    }
}

impl IpPoolSpec {
    /// What the pool serves; one that names no use serves workloads and tunnels.
    pub fn is_for(&self, wanted: AllowedUse) -> bool {
        self.allowed_uses.contains(&wanted) || (self.allowed_uses.is_empty() && wanted != AllowedUse::LoadBalancer)
    }

    fn validate(&self, check: &mut Check) {
        self.validate_cidr(check);
        if self.ipip_mode != EncapsulationMode::Never {
            if self.vxlan_mode != EncapsulationMode::Never {
                check.refuse_field("ipipMode", "both ipipMode and vxlanMode", "at most one of them");
            }
            if !self.cidr.is_ipv4() {
                check.refuse_field("ipipMode", format_args!("{} on an IPv6 pool", self.ipip_mode), "Never");
            }
        }
        check.selector("nodeSelector", &self.node_selector);
        if let Some(selector) = &self.namespace_selector {
            check.selector("namespaceSelector", selector);
        }
        self.validate_uses(check);
    }

    fn validate_cidr(&self, check: &mut Check) {
        if !self.cidr.is_masked() {
            check.refuse_field("cidr", self.cidr, format!("{}, without host bits", self.cidr.masked()));
        }
        if link_local(self.cidr.version()).overlaps(&self.cidr) {
            check.refuse_field("cidr", self.cidr, "a network that does not overlap link-local addresses");
        }
        let (least, most) = match self.cidr.version() {
            IpVersion::V4 => (20, 32),
            IpVersion::V6 => (116, 128),
        };
        if !(least..=most).contains(&self.block_size) {
            let expected = format!("a prefix length {least}-{most}");
            check.refuse_field("blockSize", self.block_size, expected);
        } else if self.cidr.length() > self.block_size && !self.disabled {
            let expected = format!("a network of at least one block, /{} or larger", self.block_size);
            check.refuse_field("cidr", self.cidr, expected);
            check.help("set blockSize to the pool's own length to have one block");
        }
    }

    fn validate_uses(&self, check: &mut Check) {
        check.at_most("allowedUses", self.allowed_uses.len(), ALLOWED_USES_MAX);
        // Named uses only: a pool that names none serves tunnels too, but nobody asked for that.
        let is_named = |wanted| self.allowed_uses.contains(&wanted);
        if is_named(AllowedUse::LoadBalancer) {
            if is_named(AllowedUse::Workload) || is_named(AllowedUse::Tunnel) {
                check.refuse_field("allowedUses", "LoadBalancer with another use", "LoadBalancer alone");
            }
            for (name, mode) in [("ipipMode", self.ipip_mode), ("vxlanMode", self.vxlan_mode)] {
                if mode != EncapsulationMode::Never {
                    check.refuse_field(name, mode, "Never, for a LoadBalancer pool");
                }
            }
            if self.disable_bgp_export {
                check.refuse_field("disableBGPExport", true, "false, for a LoadBalancer pool");
            }
            if !self.node_selector.is_all() {
                check.refuse_field("nodeSelector", &self.node_selector, "all(), for a LoadBalancer pool");
            }
        }
        if self.namespace_selector.is_some() && is_named(AllowedUse::Tunnel) {
            check.refuse_field("namespaceSelector", "a namespace selector", "none, for a Tunnel pool");
        }
    }
}

fn link_local(version: IpVersion) -> Cidr {
    let (address, length): (IpAddr, u8) = match version {
        IpVersion::V4 => (Ipv4Addr::new(169, 254, 0, 0).into(), 16),
        IpVersion::V6 => (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 10),
    };
    Cidr::new(address, length).unwrap_or(Cidr::host(address))
}

impl fmt::Display for EncapsulationMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
