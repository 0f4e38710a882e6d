//! What the speaker of a node should be, worked out from the resources of the cluster. A function of them and nothing else.
//!
//! ```text
//! Node, BGPConfiguration ─▶ cluster ─┬─▶ peerings ─▶ session ─┐
//! BGPPeer ───────────────────────────┘        BGPFilter ──────┼──▶ SpeakerState
//! BlockAffinity, WorkloadEndpoint, Service, IPPool ─▶ routes ─┘
//! ```
//!
//! | file | what it decides |
//! |---|---|
//! | `cluster.rs` | which nodes there are, what they are called and who this one is |
//! | `peerings.rs` | who speaks to whom |
//! | `session.rs` | how: what makes a session, and its terms |
//! | `policy.rs` | what is taken and told |
//! | `routes.rs` `services.rs` | what there is to tell |
//! | `interest.rs` | which changes matter |
//!
//! Invariants: any order of resources ends in the same state; of two definitions of one session the explicit one is taken,
//! of two explicit ones the first by name, those for all nodes before those for some.
//! Left out: what the kernel knows (routes of others, which addresses are there), and settings of the process.
//! Sources: Calico's BGPConfiguration, BGPPeer, BGPFilter and Node; what confd makes of them for BIRD.

mod cluster;
mod interest;
mod peerings;
mod policy;
mod routes;
mod services;
mod session;

use std::collections::BTreeSet;
use std::sync::Arc;

use config::resource::Key;

use super::speaker_state::{Identity, SpeakerState};
use crate::resources::Resources;
use cluster::Cluster;
pub use interest::Interest;
use policy::Policy;
use session::Sessions;

/// Looks up a secret by name and key. None: it is not there, or not yet.
pub type Secrets<'a> = &'a dyn Fn(&str, &str) -> Option<Arc<str>>;

/// What the speaker of the node of this name should be.
pub fn desired(resources: &Resources, node: &str, secrets: Secrets<'_>) -> SpeakerState {
    Interest::of(resources, node).desired(resources, secrets)
}

fn state(resources: &Resources, node: &str, endpoints: &BTreeSet<Key>, secrets: Secrets<'_>) -> SpeakerState {
    let mut state = SpeakerState::default();
    let Some(cluster) = Cluster::of(resources, node) else { return state };
    let endpoints = routes::endpoints(resources, endpoints);
    let routes = routes::of_node(resources, &cluster, &endpoints);
    let peerings = peerings::of_node(resources, &cluster, &endpoints, &mut state.problems);
    let mut sessions = Sessions::new(&cluster, secrets, Policy::new(resources, &cluster, &routes));
    for (key, peering) in peerings {
        if let Some(gateway) = peering.gateway() {
            state.gateways.insert(key.address, gateway);
        }
        if let Some(peer) = sessions.session(key, &peering) {
            state.peers.insert(key, peer);
        }
    }
    state.problems.append(&mut sessions.problems);
    state.problems.sort();
    state.problems.dedup();
    state.routes = routes.routes;
    state.identity = (!state.peers.is_empty()).then(|| identity(&cluster));
    state
}

fn identity(cluster: &Cluster<'_>) -> Identity {
    Identity {
        as_number: cluster.own.as_number,
        router_id: cluster.router_id(),
        listen_port: cluster.own.port,
        listen_addresses: cluster.listen_addresses(),
        cluster_id: cluster.own.cluster_id,
        addresses: [cluster.own.ipv4, cluster.own.ipv6].into_iter().flatten().map(|cidr| cidr.address()).collect(),
    }
}

#[cfg(test)]
mod tests;
