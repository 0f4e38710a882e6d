//! What is taken from peers and told to them: the filters that a peer names, and what is built in.
//!
//! A filter that is not there: Calico passes over it, and so takes and tells more than was asked for. Here nothing passes
//! it, and a problem says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::net::IpVersion;
use config::resource::{
    BgpConfigurationSpec, BgpFilter, Community, Key, Kind, ProgramClusterRoutes, Resource, ServiceIpBlock,
};

use super::cluster::Cluster;
use super::routes::LocalRoutes;
use crate::bgp::rules::filter::{Direction, FilterRule, FilterRules, rules_of};
use crate::bgp::rules::prefixes::PrefixTable;
use crate::bgp::rules::{BuiltIn, ExportRules, Filters, ImportRules};
use crate::resources::Resources;

/// The rules of a peer, in both directions.
pub type Rules = (Arc<ImportRules>, Arc<ExportRules>);

/// Makes rules; peers that name the same filters have the same ones.
pub struct Policy<'a> {
    resources: &'a Resources,
    normal_priorities: [u32; 2],
    built_in: Arc<BuiltIn>,
    made: BTreeMap<(&'a [String], bool), Rules>,
}

impl<'a> Policy<'a> {
    pub fn new(resources: &'a Resources, cluster: &Cluster<'_>, routes: &LocalRoutes) -> Policy<'a> {
        Policy {
            resources,
            normal_priorities: IpVersion::BOTH.map(|version| cluster.normal_priority(version)),
            built_in: Arc::new(built_in(resources, cluster, routes)),
            made: BTreeMap::new(),
        }
    }

    /// `are_required`: a peer of another system that has no rules is told nothing.
    pub fn rules(&mut self, filters: &'a [String], are_required: bool) -> Rules {
        if let Some(made) = self.made.get(&(filters, are_required)) {
            return made.clone();
        }
        let of = |direction| {
            let [v4, v6] = IpVersion::BOTH.map(|version| self.filters(filters, direction, version));
            Filters { v4, v6, are_required }
        };
        let [normal_priority_v4, normal_priority_v6] = self.normal_priorities;
        let import = ImportRules { filters: of(Direction::Import), normal_priority_v4, normal_priority_v6 };
        let export = ExportRules { filters: of(Direction::Export), built_in: Some(self.built_in.clone()) };
        let rules = (Arc::new(import), Arc::new(export));
        self.made.insert((filters, are_required), rules.clone());
        rules
    }

    fn filters(&self, names: &[String], direction: Direction, version: IpVersion) -> FilterRules {
        let mut rules = Vec::new();
        for name in names {
            match self.filter(name) {
                Some(filter) => rules.extend(rules_of(filter, direction, version)),
                None => rules.push(FilterRule::missing(name)),
            }
        }
        FilterRules::new(rules)
    }

    pub fn is_missing(&self, filter: &str) -> bool {
        self.filter(filter).is_none()
    }

    fn filter(&self, name: &str) -> Option<&'a BgpFilter> {
        match self.resources.get(&Key::cluster(Kind::BgpFilter, name))? {
            Resource::BgpFilter(filter) => Some(filter),
            _ => None,
        }
    }
}

fn built_in(resources: &Resources, cluster: &Cluster<'_>, routes: &LocalRoutes) -> BuiltIn {
    let pools = |is_told: bool| {
        let pools = resources.ip_pools().filter(move |pool| pool.spec.disable_bgp_export != is_told);
        pools.map(|pool| pool.spec.cidr).collect()
    };
    let reflected = |blocks: fn(&BgpConfigurationSpec) -> &[ServiceIpBlock]| {
        let blocks = cluster.global(|spec| Some(blocks(spec))).unwrap_or_default();
        let blocks = if cluster.own.cluster_id.is_some() { blocks } else { &[] };
        blocks.iter().map(|block| block.cidr)
    };
    let reflected_services =
        reflected(|spec| &spec.service_load_balancer_ips).chain(reflected(|spec| &spec.service_external_ips)).collect();
    BuiltIn {
        normal_priority_v4: cluster.normal_priority(IpVersion::V4),
        normal_priority_v6: cluster.normal_priority(IpVersion::V6),
        disabled_pools: pools(false),
        enabled_pools: pools(true),
        tunnel_interfaces: tunnel_interfaces(cluster),
        communities: communities(cluster),
        blocks: routes.blocks.iter().copied().collect(),
        exact_blocks: routes.blocks.iter().copied().collect(),
        services: routes.services.iter().copied().collect(),
        reflected_services,
    }
}

/// Routes into tunnels are made on every node by whoever makes the tunnels: VXLAN and WireGuard always, IPIP unless the
/// configuration leaves its routes to BGP.
fn tunnel_interfaces(cluster: &Cluster<'_>) -> Vec<String> {
    let programs_ipip = matches!(
        cluster.global(|spec| spec.program_cluster_routes),
        Some(ProgramClusterRoutes::Enabled | ProgramClusterRoutes::EnabledIpipOnly)
    );
    let ipip = (!programs_ipip).then_some("tunl0");
    ["*.cali", "*.calico"].into_iter().chain(ipip).map(str::to_owned).collect()
}

/// A node's own advertisements stand in place of those for all.
fn communities(cluster: &Cluster<'_>) -> PrefixTable<Vec<Community>> {
    let spec = cluster.setting(|spec| (!spec.prefix_advertisements.is_empty()).then_some(spec));
    let Some(spec) = spec else { return PrefixTable::default() };
    let value = |written: &str| {
        let named = spec.communities.iter().find(|community| community.name == written);
        Community::parse(named.map_or(written, |community| &community.value))
    };
    let entries = spec.prefix_advertisements.iter().map(|advertisement| {
        let communities = advertisement.communities.iter().filter_map(|written| value(written)).collect();
        (advertisement.cidr, communities)
    });
    PrefixTable::new(entries, |all: &mut Vec<Community>, more| all.extend(more))
}
