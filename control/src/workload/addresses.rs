//! Addresses of workloads: asked of this cluster's pools, given back, and looked for where nobody has them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use config::net::Cidr;

use super::call::Ask;
use super::error::WorkloadError;
use super::identity::{self, Identity};
use super::service::Workloads;
use crate::http::api::ApiCall;
use crate::ipam::call::{
    AllocationView, AssignCall, AssignView, IpamCall, PoolView, PoolsView, ReleaseCall, ReleaseView,
};

/// Addresses that one call releases.
const RELEASED: usize = 1024;

impl Workloads {
    /// Whether the container has these addresses of the pools.
    pub async fn check_assigned(&self, identity: &Identity, addresses: &[IpAddr]) -> Result<(), WorkloadError> {
        let held = self.allocations().await?;
        let handle = identity.handle();
        let is_held = |address: &&IpAddr| {
            held.iter().any(|held| held.address == **address && held.handle.as_ref() == Some(&handle))
        };
        match addresses.iter().find(|address| !is_held(address)) {
            None => Ok(()),
            Some(missing) => Err(WorkloadError::Differs {
                endpoint: identity.workload.clone(),
                interface: identity.interface.clone(),
                reason: format!("{missing} is not assigned to it"),
            }),
        }
    }

    /// Whether a pool of the family has a free address.
    pub async fn has_pool(&self, is_ipv4: bool) -> Result<bool, WorkloadError> {
        let view: PoolsView = self.desk.ask_patiently(ApiCall::Ipam(IpamCall::Pools), "the pools").await?;
        let of_family = |pool: &PoolView| Cidr::parse(&pool.cidr).is_ok_and(|cidr| cidr.is_ipv4() == is_ipv4);
        Ok(view.pools.iter().any(|pool| of_family(pool) && !pool.is_disabled && pool.counts.free > 0))
    }

    /// For somebody else's main plugin: addresses, and nothing is attached.
    pub async fn assign_alone(&self, identity: &Identity, ask: &Ask) -> Result<Vec<IpAddr>, WorkloadError> {
        let _turn = self.turn(identity).await?;
        self.node().await?;
        self.assign_as(identity, identity.attributes_alone(), ask).await
    }

    /// Releases those of the network whose container and interface are not valid, and not on their way either.
    pub async fn collect_alone(
        &self,
        network: &str,
        is_valid: impl Fn(&str, &str) -> bool,
    ) -> Result<usize, WorkloadError> {
        let watch = self.watch();
        let is_lost = |held: &AllocationView| {
            let [container, interface, of] = identity::ALONE.map(|name| held.attributes.get(name).map(String::as_str));
            let is_known = container.zip(interface).is_some_and(|(container, interface)| {
                is_valid(container, interface) || watch.has_seen(network, container, interface)
            });
            of == Some(network) && !is_known
        };
        self.release_which(is_lost).await
    }

    /// Addresses of the pools.
    pub async fn assign(&self, identity: &Identity, ask: &Ask) -> Result<Vec<IpAddr>, WorkloadError> {
        self.assign_as(identity, identity.attributes(), ask).await
    }

    async fn assign_as(
        &self,
        identity: &Identity,
        attributes: BTreeMap<String, String>,
        ask: &Ask,
    ) -> Result<Vec<IpAddr>, WorkloadError> {
        let by_name = !ask.addresses.is_empty();
        let call = AssignCall {
            ipv4: usize::from(ask.ipv4 && !by_name),
            ipv6: usize::from(ask.ipv6 && !by_name),
            addresses: ask.addresses.clone(),
            handle: Some(identity.handle()),
            attributes,
            namespace: Some(identity.namespace.clone()),
            ipv4_pools: ask.ipv4_pools.clone(),
            ipv6_pools: ask.ipv6_pools.clone(),
            ..AssignCall::default()
        };
        let view: AssignView = self.desk.ask_patiently(ApiCall::Ipam(IpamCall::Assign(call)), "an assignment").await?;
        Ok(view.addresses.into_iter().map(|given| given.address).collect())
    }

    /// All addresses of that handle; none is fine.
    pub async fn release(&self, handle: String) -> Result<usize, WorkloadError> {
        let call = ReleaseCall { handle: Some(handle), ..ReleaseCall::default() };
        let view: ReleaseView = self.desk.ask_patiently(ApiCall::Ipam(IpamCall::Release(call)), "a release").await?;
        Ok(view.released.len())
    }

    /// Releases what this node's containers were given and no endpoint has.
    pub(super) async fn release_unattached(&self) -> Result<usize, WorkloadError> {
        let is_lost =
            |held: &AllocationView| !held.is_attached && held.attributes.contains_key(identity::ATTRIBUTES[0]);
        self.release_which(is_lost).await
    }

    /// Releases those of this node's containers of which that can be said.
    async fn release_which(&self, is_lost: impl Fn(&AllocationView) -> bool) -> Result<usize, WorkloadError> {
        let lost = self.allocations().await?.into_iter().filter(is_lost);
        let lost: Vec<ReleaseCall> = lost
            .map(|held| ReleaseCall { address: Some(held.address), handle: held.handle, sequence: held.sequence })
            .collect();
        let mut released = 0;
        for addresses in lost.chunks(RELEASED) {
            let call = IpamCall::ReleaseAll { addresses: addresses.to_vec() };
            let view: ReleaseView = self.desk.ask_patiently(ApiCall::Ipam(call), "a release").await?;
            released += view.released.len();
        }
        Ok(released)
    }

    async fn allocations(&self) -> Result<Vec<AllocationView>, WorkloadError> {
        Ok(self.desk.ask_patiently(ApiCall::Ipam(IpamCall::Allocations), "allocations").await?)
    }
}
