//! IPAMHandle: in which blocks somebody has addresses, and how many.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::check::{self, Check, quoted};
use super::metadata::Metadata;
use crate::net::Cidr;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpamHandle {
    #[serde(default)]
    pub metadata: Metadata,
    pub spec: IpamHandleSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct IpamHandleSpec {
    #[serde(rename = "handleID")]
    pub handle_id: String,
    /// Addresses by block.
    #[serde(default)]
    pub block: BTreeMap<String, u64>,
    /// Set in the store only, on the way to the deletion.
    #[serde(default)]
    pub deleted: bool,
}

/// What the record of a handle is called: the handle in lower case, as Calico has it, or its hash where that is no name.
pub fn handle_name(handle: &str) -> String {
    let lower = handle.to_lowercase();
    match check::is_subdomain(&lower) {
        true => lower,
        false => {
            let hash = Sha256::digest(handle.as_bytes());
            let text: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("handle-{text}")
        }
    }
}

impl IpamHandle {
    pub(super) fn validate(&self, check: &mut Check) {
        let expected = handle_name(&self.spec.handle_id);
        if self.metadata.name != expected {
            check.refuse_field(
                "metadata.name",
                quoted(&self.metadata.name),
                format!("{expected}, after spec.handleID"),
            );
        }
        check.field("spec", |check| {
            if self.spec.handle_id.is_empty() {
                check.refuse_field("handleID", "nothing", "a handle");
            }
            for cidr in self.spec.block.keys() {
                if Cidr::parse(cidr).is_err() {
                    check.refuse_field(&check::entry("block", cidr), quoted(cidr), "a block such as 10.0.0.0/26");
                }
            }
            if self.spec.deleted {
                check.refuse_field("deleted", true, "false: delete the resource instead");
            }
        });
    }
}
