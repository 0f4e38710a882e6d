//! BGPFilter: which routes a peer is told, and which are taken from it. The first rule that matches decides.

use serde::{Deserialize, Serialize};

use super::bgp_configuration::{RoutePriority, is_interface_pattern};
use super::check::{Check, quoted};
use super::community::Community;
use super::form::{blank_is_absent, is_default};
use super::metadata::Metadata;
use super::node::AsNumber;
use super::word::words;
use crate::net::{Cidr, IpVersion};

const OPERATIONS_MAX: usize = 10;
const PREPENDED_MAX: usize = 10;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BgpFilter {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: BgpFilterSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BgpFilterSpec {
    #[serde(rename = "exportV4", skip_serializing_if = "is_default")]
    pub export_v4: Vec<BgpFilterRule>,
    #[serde(rename = "importV4", skip_serializing_if = "is_default")]
    pub import_v4: Vec<BgpFilterRule>,
    #[serde(rename = "exportV6", skip_serializing_if = "is_default")]
    pub export_v6: Vec<BgpFilterRule>,
    #[serde(rename = "importV6", skip_serializing_if = "is_default")]
    pub import_v6: Vec<BgpFilterRule>,
}

/// All fields that are there must match; a rule with none matches every route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpFilterRule {
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Cidr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<BgpFilterPrefixLength>,
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub source: Option<BgpFilterSource>,
    /// A name, in which `*` stands for anything.
    #[serde(default, skip_serializing_if = "is_default")]
    pub interface: String,
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub match_operator: Option<BgpFilterOperator>,
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<BgpFilterPeerType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<BgpFilterCommunities>,
    #[serde(default, rename = "asPathPrefix", skip_serializing_if = "is_default")]
    pub as_path_prefix: Vec<AsNumber>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<RoutePriority>,
    pub action: BgpFilterAction,
    /// What is changed about a route that is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<BgpFilterOperation>>,
}

words! {
    BgpFilterSource: exact {
        /// Learned by BGP.
        RemotePeers = "RemotePeers",
    }
    BgpFilterOperator: exact {
        Equal = "Equal",
        NotEqual = "NotEqual",
        In = "In",
        NotIn = "NotIn",
    }
    BgpFilterPeerType: exact {
        External = "eBGP",
        Internal = "iBGP",
    }
    BgpFilterAction: exact {
        Accept = "Accept",
        Reject = "Reject",
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BgpFilterPrefixLength {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BgpFilterCommunities {
    pub values: Vec<Community>,
}

/// One change; exactly one field is there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BgpFilterOperation {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_community: Option<AddCommunity>,
    #[serde(rename = "prependASPath", skip_serializing_if = "Option::is_none")]
    pub prepend_as_path: Option<PrependAsPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_priority: Option<SetPriority>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddCommunity {
    pub value: Community,
}

/// The path begins with these afterwards, in this order.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PrependAsPath {
    pub prefix: Vec<AsNumber>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetPriority {
    pub value: RoutePriority,
}

impl BgpFilter {
    pub(super) fn validate(&self, check: &mut Check) {
        let lists = [
            ("exportV4", &self.spec.export_v4, IpVersion::V4),
            ("importV4", &self.spec.import_v4, IpVersion::V4),
            ("exportV6", &self.spec.export_v6, IpVersion::V6),
            ("importV6", &self.spec.import_v6, IpVersion::V6),
        ];
        check.field("spec", |check| {
            for (name, rules, version) in lists {
                check.each(name, rules, |check, rule| rule.validate(version, check));
            }
        });
    }
}

impl BgpFilterRule {
    fn validate(&self, version: IpVersion, check: &mut Check) {
        if let Some(cidr) = self.cidr.filter(|cidr| cidr.version() != version) {
            check.refuse_field("cidr", cidr, format!("an IPv{version} CIDR, in this list"));
        }
        match (&self.cidr, &self.match_operator) {
            (Some(_), None) => {
                let expected = format!("one of {}, beside a cidr", BgpFilterOperator::WORDS.join(", "));
                check.refuse_field("matchOperator", "nothing", expected);
            }
            (None, Some(_)) => check.refuse_field("cidr", "nothing", "a CIDR beside matchOperator"),
            _ => {}
        }
        if let Some(length) = &self.prefix_length {
            if self.cidr.is_none() {
                check.refuse_field("prefixLength", "prefix lengths without a cidr", "a cidr beside them");
            }
            check.field("prefixLength", |check| length.validate(version, check));
        }
        if !self.interface.is_empty() && !is_interface_pattern(&self.interface) {
            let expected = "an interface name of 1-15 letters, digits, '_', '.', '-' or '*'";
            check.refuse_field("interface", quoted(&self.interface), expected);
        }
        if let Some(communities) = &self.communities
            && communities.values.len() != 1
        {
            let found = format!("{} values", communities.values.len());
            check.field("communities", |check| check.refuse_field("values", found, "exactly one community"));
        }
        if let Some(operations) = &self.operations {
            self.validate_operations(operations, check);
        }
    }

    fn validate_operations(&self, operations: &[BgpFilterOperation], check: &mut Check) {
        if self.action != BgpFilterAction::Accept {
            check.refuse_field("operations", "operations on a rejected route", "none, unless the action is Accept");
        }
        if operations.is_empty() {
            check.refuse_field("operations", "an empty list", "at least one operation, or no list");
        }
        check.at_most("operations", operations.len(), OPERATIONS_MAX);
        check.each("operations", operations, |check, operation| {
            let set = [
                operation.add_community.is_some(),
                operation.prepend_as_path.is_some(),
                operation.set_priority.is_some(),
            ];
            let count = set.iter().filter(|is_set| **is_set).count();
            if count != 1 {
                let expected = "exactly one of addCommunity, prependASPath, setPriority";
                check.refuse(format_args!("{count} operations in one entry"), expected);
            }
            if let Some(prepend) = &operation.prepend_as_path {
                let length = prepend.prefix.len();
                if !(1..=PREPENDED_MAX).contains(&length) {
                    let expected = format!("1-{PREPENDED_MAX} AS numbers");
                    check.field("prependASPath", |check| check.refuse_field("prefix", length, expected));
                }
            }
        });
    }
}

impl BgpFilterPrefixLength {
    fn validate(&self, version: IpVersion, check: &mut Check) {
        let most = version.address_bits();
        for (name, length) in [("min", self.min), ("max", self.max)] {
            if let Some(length) = length.filter(|length| *length > most) {
                check.refuse_field(name, length, format!("a prefix length 0-{most}"));
            }
        }
        if let (Some(min), Some(max)) = (self.min, self.max)
            && min > max
        {
            check.refuse_field("max", max, format!("a prefix length of at least min, {min}"));
        }
    }
}
