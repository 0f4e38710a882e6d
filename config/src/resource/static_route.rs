//! StaticRoute: a route written by hand. Our own kind, in our own API group.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::{blank_is_absent, is_default};
use super::metadata::Metadata;
use crate::net::{Cidr, IpVersion};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StaticRoute {
    #[serde(default)]
    pub metadata: Metadata,
    pub spec: StaticRouteSpec,
}

/// Where packets to `destination` go: to a neighbour, out of an interface, or nowhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StaticRouteSpec {
    pub destination: Cidr,
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<IpAddr>,
    /// Alone: the destination is on this link. With a next hop: the link the next hop is on.
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The only node the route is for; absent means every node.
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub blackhole: bool,
}

impl StaticRoute {
    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| self.spec.validate(check));
    }
}

impl StaticRouteSpec {
    fn validate(&self, check: &mut Check) {
        if !self.destination.is_masked() {
            let expected = format!("{}, without host bits", self.destination.masked());
            check.refuse_field("destination", self.destination, expected);
        }
        match (self.next_hop.is_some() || self.interface.is_some(), self.blackhole) {
            (false, false) => check.refuse("no way out", "one of nextHop, interface, or blackhole: true"),
            (true, true) => check.refuse_field("blackhole", "true beside a way out", "one or the other"),
            _ => {}
        }
        if let Some(next_hop) = self.next_hop {
            if IpVersion::of(next_hop) != self.destination.version() {
                let expected = format!("an IPv{} address like the destination", self.destination.version());
                check.refuse_field("nextHop", next_hop, expected);
            }
            if next_hop.is_unspecified() || next_hop.is_multicast() {
                check.refuse_field("nextHop", next_hop, "the unicast address of a neighbour");
            }
        }
        if let Some(interface) = &self.interface {
            check.interface("interface", interface);
        }
        if let Some(node) = &self.node {
            check.name("node", node);
        }
    }
}
