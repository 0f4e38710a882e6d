//! A container's endpoint: what it is called, its pair, and whether anybody uses it.
//!
//! ```text
//! far end   here        waits to be joined, or has left
//!           elsewhere   in a container
//!           nowhere     went with the container's namespace
//! ```
//!
//! The far end waits down and silent, under a name that no prefix of workloads begins.

use std::time::{Duration, Instant};

use config::net::MacAddress;
use config::resource::{Kind, Resource, WorkloadEndpoint};
use tracing::info;

use super::error::DockerError;
use super::networks::{self, Network};
use crate::http::desk::Desk;
use crate::workload::call::NodeView;
use crate::workload::error::WorkloadError;
use crate::workload::identity::{self, Identity};
use crate::workload::service::{Workloads, blocking};
use crate::workload::wire::{self, FarEnd, Pair};

/// How long a namespace may take to go, once everybody has left it.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const GONE_PAUSE: Duration = Duration::from_millis(20);

pub fn identity_of(network: &Network, endpoint: &str) -> Identity {
    Identity {
        orchestrator: identity::DOCKER.to_string(),
        namespace: network.namespace.clone(),
        workload: endpoint.to_string(),
        container: endpoint.to_string(),
        interface: identity::FIRST_INTERFACE.to_string(),
        network: network.profile.clone(),
    }
}

/// The endpoint, if it is that identity's.
pub async fn find(desk: &Desk, identity: &Identity, node: &str) -> Result<Option<WorkloadEndpoint>, DockerError> {
    let name = identity.key(node).name;
    match networks::get(desk, Kind::WorkloadEndpoint, Some(&identity.namespace), &name).await? {
        Some(Resource::WorkloadEndpoint(endpoint)) if Identity::of(&endpoint).as_ref() == Some(identity) => {
            Ok(Some(endpoint))
        }
        _ => Ok(None),
    }
}

/// The pair, its far end waiting: the one that is there, or another.
pub async fn wired(
    identity: &Identity,
    mac: Option<MacAddress>,
    mtu: Option<u32>,
    node: &NodeView,
) -> Result<Option<MacAddress>, DockerError> {
    let pair = Pair {
        host: identity.host_interface(&node.prefix),
        alias: identity.alias(),
        far: identity.waiting_interface(&node.prefix),
        mac,
        mtu: mtu.unwrap_or(node.mtu),
        queues: 1,
        is_prepared: node.prepares,
    };
    let made = blocking(move || match wire::far_end(&pair.host, &pair.alias, &pair.far)? {
        FarEnd::Here { mac: found } if mac.is_none() || mac == found => Ok(Some(found)),
        FarEnd::Elsewhere => Ok(None),
        FarEnd::Here { .. } | FarEnd::Nowhere => {
            wire::remove(&pair.host, &pair.alias)?;
            wire::create(&pair, None).map(Some)
        }
    });
    made.await?.ok_or_else(|| DockerError::Joined { endpoint: identity.container.clone() })
}

/// Takes an endpoint away, given as `NAMESPACE/NAME`, if it is Docker's and no container has it any more. An engine that
/// starts again gives back the addresses of containers that have died, and says nothing of their endpoints.
pub async fn end_if_left(desk: &Desk, workloads: &Workloads, name: &str, node: &NodeView) -> Result<bool, DockerError> {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let stored = networks::get(desk, Kind::WorkloadEndpoint, Some(namespace), name).await?;
    let Some(Resource::WorkloadEndpoint(endpoint)) = stored else { return Ok(true) };
    let is_own = endpoint.spec.node == node.node && endpoint.spec.orchestrator == identity::DOCKER;
    let Some(identity) = Identity::of(&endpoint).filter(|_| is_own) else { return Ok(false) };
    let started = Instant::now();
    while is_elsewhere(&identity, node).await? {
        if started.elapsed() > GONE_WITHIN {
            return Ok(false);
        }
        tokio::time::sleep(GONE_PAUSE).await;
    }
    info!(
        endpoint = identity.container,
        "docker endpoint taken away: its address was given back, and no container has it"
    );
    workloads.detach(identity).await?;
    Ok(true)
}

async fn is_elsewhere(identity: &Identity, node: &NodeView) -> Result<bool, WorkloadError> {
    let (interface, alias) = (identity.host_interface(&node.prefix), identity.alias());
    let waiting = identity.waiting_interface(&node.prefix);
    let found = blocking(move || wire::far_end(&interface, &alias, &waiting)).await?;
    Ok(found == FarEnd::Elsewhere)
}
