//! All resources as the datastore has them now: the input of every calculation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use config::resource::{
    BgpConfiguration, BgpFilter, BgpPeer, BlockAffinity, ClusterNetworkPolicy, EndpointSlice, FelixConfiguration,
    GlobalNetworkPolicy, GlobalNetworkSet, HostEndpoint, IpPool, IpReservation, IpamConfiguration, Key, Kind,
    KubernetesNetworkPolicy, Namespace, NetworkPolicy, NetworkSet, Node, Profile, Resource, Service, ServiceAccount,
    StagedGlobalNetworkPolicy, StagedKubernetesNetworkPolicy, StagedNetworkPolicy, StaticRoute, Tier, WorkloadEndpoint,
};

use crate::datastore::{SyncEvent, Update};

/// Resources by key, in key order; shared with the store, so that a copy costs little.
#[derive(Debug, Default, Clone)]
pub struct Resources(BTreeMap<Key, Arc<Resource>>);

macro_rules! of_kind {
    ($($name:ident: $kind:ident,)+) => {
        $(pub fn $name(&self) -> impl Iterator<Item = &$kind> {
            self.of_kind(Kind::$kind).filter_map(|(_, resource)| match resource {
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

    /// All of one kind, in key order.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Resource)> {
        let first = Key { kind, namespace: None, name: String::new() };
        self.0.range(first..).take_while(move |(key, _)| key.kind == kind).map(|(key, resource)| (key, &**resource))
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.keys()
    }

    pub fn put(&mut self, resource: impl Into<Arc<Resource>>) {
        let resource = resource.into();
        self.0.insert(resource.key(), resource);
    }

    pub fn get(&self, key: &Key) -> Option<&Resource> {
        self.0.get(key).map(|resource| &**resource)
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

    /// Follows the datastore. Returns what may be another resource now, or gone.
    pub fn follow(&mut self, event: SyncEvent) -> BTreeSet<Key> {
        match event {
            SyncEvent::Snapshot(objects) => {
                let old = std::mem::take(&mut self.0).into_keys();
                self.0 = objects.into_iter().map(|stored| (stored.resource.key(), stored.resource)).collect();
                old.chain(self.0.keys().cloned()).collect()
            }
            SyncEvent::Updates(updates) => {
                let keys = updates.iter().map(|update| update.key.clone()).collect();
                for Update { key, value, .. } in updates {
                    match value {
                        Some(resource) => self.put(resource),
                        None => self.remove(&key),
                    }
                }
                keys
            }
            SyncEvent::InSync => BTreeSet::new(),
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
