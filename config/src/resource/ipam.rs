//! What addresses are handed out by: IPReservation, IPAMConfiguration and BlockAffinity.

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::{blank_is_absent, blank_is_default, is_default};
use super::metadata::Metadata;
use super::number::Number;
use super::word::{Switch, words};
use crate::net::Cidr;

/// Addresses that are not handed out by themselves; asking for one by name still works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpReservation {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: IpReservationSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IpReservationSpec {
    #[serde(rename = "reservedCIDRs", skip_serializing_if = "is_default")]
    pub reserved_cidrs: Vec<Cidr>,
}

impl IpReservation {
    pub(super) fn validate(&self, _: &mut Check) {}
}

/// How blocks of addresses go to nodes. There is one, named `default`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpamConfiguration {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: IpamConfigurationSpec,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IpamConfigurationSpec {
    /// A node hands out addresses of its own blocks only.
    pub strict_affinity: bool,
    /// 0 leaves it to the allocator.
    #[serde(skip_serializing_if = "is_default")]
    pub max_blocks_per_host: u32,
    pub auto_allocate_blocks: bool,
    /// Whether a virtual machine keeps its address when it is made anew or moves; enabled when absent.
    #[serde(
        rename = "kubeVirtVMAddressPersistence",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub kube_virt_vm_address_persistence: Option<Switch>,
    /// How long a released address rests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_cooldown_seconds: Option<Number<0, 1200>>,
}

impl Default for IpamConfigurationSpec {
    fn default() -> IpamConfigurationSpec {
        IpamConfigurationSpec {
            strict_affinity: false,
            max_blocks_per_host: 0,
            auto_allocate_blocks: true,
            kube_virt_vm_address_persistence: None,
            ip_cooldown_seconds: None,
        }
    }
}

impl IpamConfiguration {
    pub(super) fn validate(&self, check: &mut Check) {
        const BLOCKS_MAX: u32 = 1_000_000;
        let spec = &self.spec;
        check.field("spec", |check| {
            if spec.max_blocks_per_host > BLOCKS_MAX {
                check.refuse_field("maxBlocksPerHost", spec.max_blocks_per_host, format!("at most {BLOCKS_MAX}"));
            }
            if spec.max_blocks_per_host > 0 && !spec.strict_affinity {
                let expected = "strictAffinity: true beside it, or 0";
                check.refuse_field("maxBlocksPerHost", spec.max_blocks_per_host, expected);
            }
            if !spec.auto_allocate_blocks && !spec.strict_affinity {
                let expected = "true, or strictAffinity: true beside it";
                check.refuse_field("autoAllocateBlocks", "false without strictAffinity", expected);
            }
        });
    }
}

/// Which node a block of addresses belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockAffinity {
    #[serde(default)]
    pub metadata: Metadata,
    pub spec: BlockAffinitySpec,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockAffinitySpec {
    #[serde(default, deserialize_with = "blank_is_default")]
    pub state: BlockAffinityState,
    /// A node, or the name of whoever else owns the block.
    #[serde(default, skip_serializing_if = "is_default")]
    pub node: String,
    #[serde(default, rename = "type", deserialize_with = "blank_is_default")]
    pub affinity_type: AffinityType,
    pub cidr: Cidr,
    /// Set in the store only, on the way to the deletion.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deleted: bool,
}

words! {
    #[derive(Default)]
    BlockAffinityState: exact {
        #[default]
        Confirmed = "confirmed",
        Pending = "pending",
        PendingDeletion = "pendingDeletion",
    }
    #[derive(Default)]
    AffinityType: exact {
        #[default]
        Host = "host",
        /// Not a node's, such as the blocks that load balancer addresses come from.
        Virtual = "virtual",
    }
}

impl BlockAffinity {
    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| {
            if self.spec.deleted {
                check.refuse_field("deleted", true, "false: delete the resource instead");
            }
            check.masked("cidr", &self.spec.cidr);
        });
    }
}
