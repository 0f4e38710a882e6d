//! All resources as the datastore has them now: the input of every calculation.

use std::collections::BTreeMap;

use config::resource::{
    BgpConfiguration, BgpFilter, BgpPeer, BlockAffinity, ClusterNetworkPolicy, EndpointSlice, FelixConfiguration,
    GlobalNetworkPolicy, GlobalNetworkSet, HostEndpoint, IpPool, IpReservation, IpamConfiguration, Key,
    KubernetesNetworkPolicy, Namespace, NetworkPolicy, NetworkSet, Node, Profile, Resource, Service, ServiceAccount,
    StagedGlobalNetworkPolicy, StagedKubernetesNetworkPolicy, StagedNetworkPolicy, StaticRoute, Tier, WorkloadEndpoint,
};

use crate::datastore::{SyncEvent, Update};

/// Resources by key, in key order.
#[derive(Debug, Default, Clone)]
pub struct Resources(BTreeMap<Key, Resource>);

macro_rules! of_kind {
    ($($name:ident: $kind:ident,)+) => {
        $(pub fn $name(&self) -> impl Iterator<Item = &$kind> {
            self.0.values().filter_map(|resource| match resource {
                Resource::$kind(resource) => Some(resource),
                _ => None,
            })
        })+
    };
}

impl Resources {
    of_kind! {
        workload_endpoints: WorkloadEndpoint,
        host_endpoints: HostEndpoint,
        network_policies: NetworkPolicy,
        global_network_policies: GlobalNetworkPolicy,
        tiers: Tier,
        profiles: Profile,
        nodes: Node,
        ip_pools: IpPool,
        static_routes: StaticRoute,
        network_sets: NetworkSet,
        global_network_sets: GlobalNetworkSet,
        staged_network_policies: StagedNetworkPolicy,
        staged_global_network_policies: StagedGlobalNetworkPolicy,
        staged_kubernetes_network_policies: StagedKubernetesNetworkPolicy,
        kubernetes_network_policies: KubernetesNetworkPolicy,
        cluster_network_policies: ClusterNetworkPolicy,
        namespaces: Namespace,
        service_accounts: ServiceAccount,
        services: Service,
        endpoint_slices: EndpointSlice,
        felix_configurations: FelixConfiguration,
        bgp_configurations: BgpConfiguration,
        bgp_peers: BgpPeer,
        bgp_filters: BgpFilter,
        ip_reservations: IpReservation,
        ipam_configurations: IpamConfiguration,
        block_affinities: BlockAffinity,
    }

    pub fn put(&mut self, resource: Resource) {
        self.0.insert(resource.key(), resource);
    }

    pub fn remove(&mut self, key: &Key) {
        self.0.remove(key);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Follows the datastore. True when something may have changed.
    pub fn follow(&mut self, event: SyncEvent) -> bool {
        match event {
            SyncEvent::Snapshot(objects) => {
                self.0 = objects.into_iter().map(|stored| (stored.resource.key(), stored.resource)).collect();
                true
            }
            SyncEvent::Updates(updates) => {
                for Update { key, value, .. } in updates {
                    match value {
                        Some(resource) => self.put(resource),
                        None => self.remove(&key),
                    }
                }
                true
            }
            SyncEvent::InSync => false,
        }
    }
}

impl FromIterator<Resource> for Resources {
    fn from_iter<I: IntoIterator<Item = Resource>>(resources: I) -> Self {
        let mut result = Self::default();
        resources.into_iter().for_each(|resource| result.put(resource));
        result
    }
}
