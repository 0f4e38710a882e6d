//! IPAMBlock: who has which address of a block.
//!
//! ```text
//!   allocations  [ 0, null, 1, 0, … ]      one entry for each address: null is free, a number is an entry of
//!   attributes   [ {handle_id, secondary}, {releasedAt} ]      addresses with equal attributes share one
//!   unallocated  [ 1, 5, 6, … ]            free addresses, the one to be given out next first
//! ```
//!
//! The record of Calico's Kubernetes datastore, field by field. What is done with it is in `control::ipam`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::check::{Check, quoted};
use super::form::{blank_is_absent, is_default};
use super::metadata::Metadata;
use crate::net::{Cidr, IpVersion};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpamBlock {
    #[serde(default)]
    pub metadata: Metadata,
    pub spec: IpamBlockSpec,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamBlockSpec {
    pub cidr: Cidr,
    /// `host:NODE` or `virtual:NAME`; ask `owner`.
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// RFC 3339.
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    #[serde(default)]
    pub allocations: Vec<Option<u32>>,
    #[serde(default)]
    pub unallocated: Vec<u32>,
    #[serde(default)]
    pub attributes: Vec<AllocationAttributes>,
    /// Grows with every write.
    #[serde(default)]
    pub sequence_number: u64,
    /// The number the block had when an address was given out, by the address's place in the block.
    #[serde(default)]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// Set in the store only, on the way to the deletion.
    #[serde(default)]
    pub deleted: bool,
    /// Of old releases; nobody asks for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strict_affinity: bool,
}

/// Whose an address is. One that was released a moment ago, and rests, has no handle but the time of its release.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AllocationAttributes {
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub secondary: BTreeMap<String, String>,
    /// Of a virtual machine's other pod while it moves.
    #[serde(skip_serializing_if = "is_default")]
    pub alternate: BTreeMap<String, String>,
    /// RFC 3339.
    #[serde(rename = "releasedAt", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
}

/// Whom a block belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockOwner {
    Host(String),
    Virtual(String),
}

impl BlockOwner {
    pub fn parse(text: &str) -> Option<BlockOwner> {
        match text.split_once(':')? {
            (_, "") => None,
            ("host", name) => Some(BlockOwner::Host(name.to_string())),
            ("virtual", name) => Some(BlockOwner::Virtual(name.to_string())),
            _ => None,
        }
    }

    pub fn name(&self) -> &str {
        match self {
            BlockOwner::Host(name) | BlockOwner::Virtual(name) => name,
        }
    }
}

/// As it is written in a block.
impl fmt::Display for BlockOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockOwner::Host(name) => write!(f, "host:{name}"),
            BlockOwner::Virtual(name) => write!(f, "virtual:{name}"),
        }
    }
}

/// What the block of these addresses is called: `10-0-0-0-26`.
pub fn block_name(cidr: &Cidr) -> String {
    let name = cidr.to_string().replace(['.', ':', '/'], "-");
    // A name begins with a letter or digit.
    if name.starts_with('-') { format!("0{name}") } else { name }
}

/// The shortest prefix a block may have: 4096 addresses.
fn shortest(version: IpVersion) -> u8 {
    version.address_bits() - 12
}

impl IpamBlock {
    pub(super) fn validate(&self, check: &mut Check) {
        let expected = block_name(&self.spec.cidr);
        if self.metadata.name != expected {
            check.refuse_field("metadata.name", quoted(&self.metadata.name), format!("{expected}, after spec.cidr"));
        }
        check.field("spec", |check| self.spec.validate(check));
    }
}

impl IpamBlockSpec {
    pub fn owner(&self) -> Option<BlockOwner> {
        BlockOwner::parse(self.affinity.as_deref()?)
    }

    /// How many addresses it has.
    pub fn size(&self) -> usize {
        let host_bits = self.cidr.version().address_bits() - self.cidr.length();
        // A stored block may say that it is larger than one may be.
        1 << host_bits.min(12)
    }

    pub fn address(&self, ordinal: usize) -> IpAddr {
        match self.cidr.masked().address() {
            IpAddr::V4(first) => IpAddr::V4((first.to_bits().wrapping_add(ordinal as u32)).into()),
            IpAddr::V6(first) => IpAddr::V6((first.to_bits().wrapping_add(ordinal as u128)).into()),
        }
    }

    /// The address's place in the block.
    pub fn ordinal(&self, address: IpAddr) -> Option<usize> {
        let distance = match (self.cidr.masked().address(), address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => u128::from(address.to_bits().checked_sub(first.to_bits())?),
            (IpAddr::V6(first), IpAddr::V6(address)) => address.to_bits().checked_sub(first.to_bits())?,
            _ => return None,
        };
        usize::try_from(distance).ok().filter(|ordinal| *ordinal < self.size())
    }

    fn validate(&self, check: &mut Check) {
        check.masked("cidr", &self.cidr);
        if self.cidr.length() < shortest(self.cidr.version()) {
            let expected = format!("a prefix length of at least {}", shortest(self.cidr.version()));
            return check.refuse_field("cidr", self.cidr, expected);
        }
        if let Some(affinity) = self.affinity.as_deref().filter(|text| BlockOwner::parse(text).is_none()) {
            check.refuse_field("affinity", quoted(affinity), "host:NODE or virtual:NAME");
        }
        let size = self.size();
        if self.allocations.len() != size {
            let found = format!("{} entries", self.allocations.len());
            check.refuse_field("allocations", found, format!("{size}, one for each address of {}", self.cidr));
        }
        let count = self.attributes.len();
        check.each("allocations", &self.allocations, |check, index| {
            if let Some(index) = index.filter(|index| *index as usize >= count) {
                check.refuse(index, format!("null, or the number of one of the {count} entries of attributes"));
            }
        });
        let mut seen = BTreeSet::new();
        check.each("unallocated", &self.unallocated, |check, ordinal| {
            let entry = self.allocations.get(*ordinal as usize);
            if entry.is_none() {
                check.refuse(ordinal, format!("a number less than {size}"));
            } else if entry != Some(&None) {
                check.refuse(ordinal, "an address that allocations has as free");
            } else if !seen.insert(*ordinal) {
                check.refuse(ordinal, "each address once");
            }
        });
        if self.deleted {
            check.refuse_field("deleted", true, "false: delete the resource instead");
        }
    }
}
