//! Which changes the speaker has to be worked out anew for.
//!
//! Endpoints of other nodes and slices of services nobody tells come and go all day in a large cluster; nothing of the speaker
//! depends on them. What does is worked out whole: it takes a walk over nodes, peers and services.
//!
//! Invariant: a change that is of no interest leaves the state as it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use config::resource::{BgpConfiguration, DEFAULT_CONFIGURATION, Key, Kind, Resource};

use crate::bgp::speaker_state::SpeakerState;
use crate::policy::local;
use crate::resources::Resources;

use super::Secrets;

/// What one node's speaker depends on, kept up to date change by change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest {
    node: String,
    /// The node's workload endpoints. Its host endpoints are among nobody's routes.
    endpoints: BTreeSet<Key>,
}

impl Interest {
    /// Of a node in a cluster without any resource.
    pub fn new(node: &str) -> Interest {
        Interest { node: node.to_owned(), endpoints: BTreeSet::new() }
    }

    /// Worked out from nothing.
    pub fn of(resources: &Resources, node: &str) -> Interest {
        let all = resources.of_kind(Kind::WorkloadEndpoint);
        let own = all.filter(|(_, endpoint)| local::is_of_node(Some(endpoint), node));
        Interest { node: node.to_owned(), endpoints: own.map(|(key, _)| key.clone()).collect() }
    }

    /// Whether these, which came, went or changed, may have changed what the speaker should be. Call it with every change: it
    /// remembers whose endpoints are this node's.
    pub fn follow(&mut self, resources: &Resources, changed: &BTreeSet<Arc<Key>>) -> bool {
        let mut is_concerned = false;
        for (key, resource) in resources.along(changed) {
            is_concerned |= match key.kind {
                Kind::Node | Kind::BgpConfiguration | Kind::BgpPeer | Kind::BgpFilter => true,
                Kind::BlockAffinity | Kind::IpPool | Kind::StaticRoute => true,
                Kind::WorkloadEndpoint => self.endpoint_changed(key, resource),
                Kind::Service | Kind::EndpointSlice => tells_services(resources),
                Kind::Profile | Kind::Namespace | Kind::ServiceAccount => selects_workloads(resources),
                _ => false,
            };
        }
        is_concerned
    }

    /// What the speaker should be.
    pub fn desired(&self, resources: &Resources, secrets: Secrets<'_>) -> SpeakerState {
        super::state(resources, &self.node, &self.endpoints, secrets)
    }

    fn endpoint_changed(&mut self, key: &Key, resource: Option<&Resource>) -> bool {
        let is_own = local::is_of_node(resource, &self.node);
        let was_own = match is_own {
            true => !self.endpoints.insert(key.clone()),
            false => self.endpoints.remove(key),
        };
        was_own || is_own
    }
}

fn tells_services(resources: &Resources) -> bool {
    default_configuration(resources).is_some_and(|configuration| {
        let spec = &configuration.spec;
        let ranges = [&spec.service_cluster_ips, &spec.service_external_ips, &spec.service_load_balancer_ips];
        ranges.iter().any(|ranges| !ranges.is_empty())
    })
}

/// Selectors see the labels that workloads have from their profiles.
fn selects_workloads(resources: &Resources) -> bool {
    resources.bgp_peers().any(|peer| peer.spec.local_workload_selector.is_some())
}

fn default_configuration(resources: &Resources) -> Option<&BgpConfiguration> {
    match resources.get(&Key::cluster(Kind::BgpConfiguration, DEFAULT_CONFIGURATION))? {
        Resource::BgpConfiguration(configuration) => Some(configuration),
        _ => None,
    }
}
