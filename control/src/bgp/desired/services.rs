//! What a node tells of services: ranges whole, and addresses one by one.
//!
//! | addresses | told |
//! |---|---|
//! | ranges of BGPConfiguration | by every node; those of load balancers only while they are aggregated |
//! | of a service with `externalTrafficPolicy: Local` | one by one, by nodes with a ready endpoint of it |
//! | of load balancers that are not aggregated | one by one, by every node, while there is a ready endpoint |
//! | ranges of one external or load balancer address | one by one, with their service |
//!
//! A node labelled `node.kubernetes.io/exclude-from-external-load-balancers: "true"` tells nothing of services. Two services
//! may have one address; it is told while one of them is.
//!
//! Sources: Calico's documentation of service advertisement, confd's route generator.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use config::net::{Cidr, IpVersion};
use config::resource::{
    AddressType, BgpConfigurationSpec, ClusterIp, EndpointSlice, Service, ServiceIpBlock, ServiceType, Switch,
    TrafficPolicy,
};

use super::cluster::Cluster;
use crate::resources::Resources;

const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The service that a slice is of.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Every prefix of services that the node tells.
pub fn of_node(resources: &Resources, cluster: &Cluster<'_>) -> BTreeSet<Cidr> {
    let is_excluded = cluster.own.labels.get(EXCLUDED) == Some("true");
    let Some(spec) = cluster.global(Some).filter(|_| !is_excluded) else { return BTreeSet::new() };
    let ranges = Ranges::of(spec);
    if ranges.are_empty() {
        return BTreeSet::new();
    }
    let mut told: BTreeSet<Cidr> = ranges.whole().collect();
    let slices = slices(resources);
    for service in resources.services() {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let of_service = slices.get(&(namespace, service.metadata.name.as_str()));
        if ranges.is_told(service, of_service.map_or(&[], Vec::as_slice), &cluster.own.names) {
            told.extend(ranges.addresses(service).map(Cidr::host));
        }
    }
    told
}

type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

fn slices(resources: &Resources) -> Slices<'_> {
    let mut slices = Slices::new();
    for slice in resources.endpoint_slices() {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        if let Some(service) = slice.metadata.labels.get(SERVICE_NAME) {
            slices.entry((namespace, service)).or_default().push(slice);
        }
    }
    slices
}

struct Ranges {
    cluster: Vec<Cidr>,
    external: Vec<Cidr>,
    load_balancer: Vec<Cidr>,
    is_aggregated: bool,
}

impl Ranges {
    fn of(spec: &BgpConfigurationSpec) -> Ranges {
        let cidrs = |blocks: &[ServiceIpBlock]| blocks.iter().map(|block| block.cidr.masked()).collect();
        Ranges {
            cluster: cidrs(&spec.service_cluster_ips),
            external: cidrs(&spec.service_external_ips),
            load_balancer: cidrs(&spec.service_load_balancer_ips),
            is_aggregated: spec.service_load_balancer_aggregation != Some(Switch::Disabled),
        }
    }

    fn are_empty(&self) -> bool {
        self.cluster.is_empty() && self.external.is_empty() && self.load_balancer.is_empty()
    }

    /// What every node tells. One address alone would draw all traffic of a service to nodes that do not have it.
    fn whole(&self) -> impl Iterator<Item = Cidr> {
        let load_balancer = if self.is_aggregated { self.load_balancer.as_slice() } else { &[] };
        let networks = self.external.iter().chain(load_balancer).filter(|range| !range.is_host());
        self.cluster.iter().chain(networks).copied()
    }

    /// Whether this node tells the addresses of a service.
    fn is_told(&self, service: &Service, slices: &[&EndpointSlice], node: &[&str]) -> bool {
        let spec = &service.spec;
        let has_address = cluster_ips(service).next().is_some();
        // Nobody knows yet where a service without any slice is.
        if spec.service_type == ServiceType::ExternalName || !has_address || slices.is_empty() {
            return false;
        }
        let is_local = spec.external_traffic_policy == Some(TrafficPolicy::Local);
        if spec.external_traffic_policy == Some(TrafficPolicy::Cluster) && self.has_single_address(service) {
            return true;
        }
        // The ranges are told, and are enough.
        if !is_local && self.is_aggregated {
            return false;
        }
        let families: BTreeSet<IpVersion> = cluster_ips(service).map(IpVersion::of).collect();
        let is_served = |slice: &&EndpointSlice| match slice.address_type {
            AddressType::Ipv4 => families.contains(&IpVersion::V4),
            AddressType::Ipv6 => families.contains(&IpVersion::V6),
            AddressType::Fqdn => false,
        };
        let endpoints = slices.iter().copied().filter(is_served).flat_map(|slice| &slice.endpoints);
        let mut ready = endpoints.filter(|endpoint| endpoint.conditions.ready != Some(false));
        ready.any(|endpoint| !is_local || node.contains(&endpoint.node_name.as_str()))
    }

    fn has_single_address(&self, service: &Service) -> bool {
        let is_single = |ranges: &[Cidr], address: IpAddr| ranges.contains(&Cidr::host(address));
        let spec = &service.spec;
        let mut balanced = spec.load_balancer_ip.into_iter().chain(ingress(service));
        let is_balanced = spec.service_type == ServiceType::LoadBalancer
            && balanced.any(|address| is_single(&self.load_balancer, address));
        is_balanced || spec.external_ips.iter().any(|address| is_single(&self.external, *address))
    }

    /// Those that lie in a range.
    fn addresses<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = IpAddr> + 'a {
        let is_in = |ranges: &[Cidr], address: &IpAddr| ranges.iter().any(|range| range.contains(*address));
        let cluster = cluster_ips(service).filter(move |address| is_in(&self.cluster, address));
        let external = service.spec.external_ips.iter().copied().filter(move |address| is_in(&self.external, address));
        cluster.chain(external).chain(ingress(service).filter(move |address| is_in(&self.load_balancer, address)))
    }
}

fn cluster_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let all = service.spec.cluster_ip.iter().chain(&service.spec.cluster_ips);
    all.filter_map(|address| match address {
        ClusterIp::Address(address) => Some(*address),
        ClusterIp::Headless => None,
    })
}

fn ingress(service: &Service) -> impl Iterator<Item = IpAddr> {
    service.status.load_balancer.ingress.iter().filter_map(|ingress| ingress.ip)
}
