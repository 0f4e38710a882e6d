//! All resources as the datastore has them now: the input of every calculation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use config::resource::{
    BgpConfiguration, BgpFilter, BgpPeer, BlockAffinity, ClusterNetworkPolicy, EndpointSlice, FelixConfiguration,
    GlobalNetworkPolicy, GlobalNetworkSet, HostEndpoint, IpPool, IpReservation, IpamBlock, IpamConfiguration,
    IpamHandle, Key, Kind, KubernetesNetworkPolicy, Namespace, NetworkPolicy, NetworkSet, Node, Profile, Resource,
    Service, ServiceAccount, StagedGlobalNetworkPolicy, StagedKubernetesNetworkPolicy, StagedNetworkPolicy,
    StaticRoute, Tier, WorkloadEndpoint,
};

use crate::datastore::{SyncEvent, Update};

/// Resources by key, in key order. Both are shared with the store, so that a copy costs little.
#[derive(Debug, Default, Clone)]
pub struct Resources(BTreeMap<Arc<Key>, Arc<Resource>>);

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
        ipam_blocks: IpamBlock,
        ipam_handles: IpamHandle,
    }

    /// All of one kind, in key order.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Resource)> {
        let first = Key { kind, namespace: None, name: String::new() };
        let found = self.0.range::<Key, _>(first..).take_while(move |(key, _)| key.kind == kind);
        found.map(|(key, resource)| (&**key, &**resource))
    }

    pub fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.0.keys()
    }

    pub fn put(&mut self, resource: impl Into<Arc<Resource>>) {
        let resource = resource.into();
        self.0.insert(Arc::new(resource.key()), resource);
    }

    pub fn get(&self, key: &Key) -> Option<&Resource> {
        self.0.get(key).map(|resource| &**resource)
    }

    /// What is under these keys. Many are not looked up one by one: both are in order, so one walk finds them all.
    pub fn along<'a>(
        &'a self,
        keys: &'a BTreeSet<Arc<Key>>,
    ) -> impl Iterator<Item = (&'a Arc<Key>, Option<&'a Resource>)> {
        let is_worth_a_walk = keys.len() > self.len() / 16;
        let mut walk = self.0.iter().peekable();
        keys.iter().map(move |key| {
            if !is_worth_a_walk {
                return (key, self.get(key));
            }
            while walk.next_if(|(own, _)| !Arc::ptr_eq(own, key) && *own < key).is_some() {}
            let found = walk.next_if(|(own, _)| *own == key);
            (key, found.map(|(_, resource)| &**resource))
        })
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
    pub fn follow(&mut self, event: SyncEvent) -> BTreeSet<Arc<Key>> {
        match event {
            SyncEvent::Snapshot(objects) => {
                let old = std::mem::take(&mut self.0).into_keys();
                self.0 = objects.into_iter().map(|stored| (stored.key, stored.resource)).collect();
                old.chain(self.0.keys().cloned()).collect()
            }
            SyncEvent::Updates(updates) => {
                let mut keys = BTreeSet::new();
                for Update { key, value, .. } in updates {
                    let key = Arc::new(key);
                    match value {
                        Some(resource) => {
                            self.0.insert(key.clone(), resource);
                        }
                        None => self.remove(&key),
                    }
                    keys.insert(key);
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

#[cfg(test)]
mod tests {
    use config::resource::Metadata;

    use super::*;

    #[test]
    fn a_walk_finds_what_a_look_up_finds() {
        let namespace = |number: u32| {
            let metadata = Metadata::named(format!("namespace-{number:03}"));
            Resource::Namespace(Namespace { metadata })
        };
        let resources: Resources = (0..100).filter(|number| number % 3 != 0).map(namespace).collect();
        let check = |numbers: &[u32]| {
            let keys: BTreeSet<Arc<Key>> = numbers.iter().map(|number| Arc::new(namespace(*number).key())).collect();
            let found: Vec<_> = resources.along(&keys).collect();
            let expected: Vec<_> = keys.iter().map(|key| (key, resources.get(key))).collect();
            assert_eq!(found, expected);
        };
        check(&[]);
        check(&[4]);
        check(&[3, 4, 98, 99, 100]);
        check(&(0..120).collect::<Vec<_>>());
        check(&(50..60).collect::<Vec<_>>());
        assert!(resources.keys().all(|key| resources.get(key).is_some()));
    }
}
