//! Endpoints written for those who attach workloads, and what they have to know of the node.
//!
//! ```text
//!   order ─▶ orders that wait ─settle─▶ one commit ─watch─▶ tables ─▶ all are answered: in force
//! ```
//!
//! Nobody wants to take back that a container came or went: the history does not have these writes.
//!
//! Bounds: `BATCH` orders in one commit; what fails is tried once more alone.

use std::collections::BTreeSet;
use std::time::SystemTime;

use config::resource::{Key, Resource};
use serde_json::Value;

use super::{Control, Reply};
use crate::datastore::{Datastore, Note, Revision, StoreError, Write};
use crate::http::api::{ApiError, ErrorCode};
use crate::tell::to_json;
use crate::workload::call::{EndpointCall, NodeView, ReadyView};
use crate::workload::identity::Identity;

/// Orders in one commit; each writes at most two objects.
const BATCH: usize = 256;

const USUAL_MTU: u32 = 1500;

/// What an order writes, and what it is answered with.
type Planned = (Vec<Write>, Value);

impl<D: Datastore> Control<D> {
    /// Answers a question; an order waits for those that have come with it.
    pub(super) fn ask_endpoints(&mut self, call: EndpointCall, reply: Reply) {
        let answer = match call {
            EndpointCall::Put { .. } | EndpointCall::Delete { .. } => return self.orders.push((call, reply)),
            EndpointCall::Node if self.is_ready() => Ok(to_json(&self.node_view())),
            EndpointCall::Node => {
                let message = "the daemon is starting: no tables are in force yet; try again";
                Err(ApiError::new(ErrorCode::Unavailable, message))
            }
            EndpointCall::Ready { interface } => Ok(to_json(&self.readiness(&interface))),
            EndpointCall::List => Ok(to_json(&self.attached_endpoints())),
        };
        let _ = reply.send(answer);
    }

    fn node_view(&self) -> NodeView {
        let uplinks = self.kernel.links.values().filter(|link| self.settings.uplinks.contains(&link.name));
        NodeView {
            node: self.settings.node_name.clone(),
            prefix: self.settings.default_workload_interface_prefix.clone(),
            mtu: uplinks.map(|link| link.mtu).min().unwrap_or(USUAL_MTU),
            prepares: self.attachments.recipe.prepare_endpoints,
        }
    }

    /// Whether packets of the interface are judged by its endpoint's policy.
    fn readiness(&self, interface: &str) -> ReadyView {
        let is_ready = self.attachments.view().contains_key(interface)
            && self.state().endpoints.iter().any(|endpoint| endpoint.interface == interface);
        let about = |part: &str| {
            let problems = self.problems.get(part).into_iter().flatten();
            problems.filter(|problem| problem.contains(interface)).cloned()
        };
        let problems = if is_ready { Vec::new() } else { about("interfaces").chain(about("resources")).collect() };
        ReadyView { is_ready, problems }
    }

    fn attached_endpoints(&self) -> Vec<Value> {
        let node = &self.settings.node_name;
        let own = self.resources.workload_endpoints().filter(|endpoint| endpoint.spec.node == *node);
        own.filter(|endpoint| Identity::of(endpoint).is_some()).map(to_json).collect()
    }

    /// Writes what waits; whoever ordered it is answered when it is in force.
    pub(super) async fn write_endpoints(&mut self) {
        while !self.orders.is_empty() {
            let batch: Vec<_> = self.orders.drain(..self.orders.len().min(BATCH)).collect();
            let mut keys = BTreeSet::new();
            let (mut together, mut alone) = (Vec::new(), Vec::new());
            for (call, reply) in batch {
                match self.plan(&call).await {
                    // One object twice cannot be in one commit. What stands beside an endpoint is the same for all.
                    Ok((mut writes, value)) => match writes.first().is_none_or(|write| !keys.contains(&write.key())) {
                        true => {
                            let mut position = 0;
                            writes.retain(|write| {
                                position += 1;
                                position == 1 || !keys.contains(&write.key())
                            });
                            keys.extend(writes.iter().map(Write::key));
                            together.push((call, reply, writes, value));
                        }
                        false => alone.push((call, reply)),
                    },
                    Err(error) => drop(reply.send(Err(error.into()))),
                }
            }
            let writes: Vec<Write> = together.iter().flat_map(|(_, _, writes, _)| writes).cloned().collect();
            match self.commit_endpoints(writes).await {
                Ok(revision) => {
                    let written = together.into_iter().map(|(_, reply, _, value)| (revision, reply, value));
                    self.unanswered.extend(written);
                }
                // Somebody's fault is not everybody's.
                Err(_) => alone.extend(together.into_iter().map(|(call, reply, ..)| (call, reply))),
            }
            for (call, reply) in alone {
                let written = match self.plan(&call).await {
                    Ok((writes, value)) => self.commit_endpoints(writes).await.map(|revision| (revision, value)),
                    Err(error) => Err(error),
                };
                match written {
                    Ok((revision, value)) => self.unanswered.push((revision, reply, value)),
                    Err(error) => drop(reply.send(Err(error.into()))),
                }
            }
        }
    }

    async fn plan(&self, call: &EndpointCall) -> Result<Planned, StoreError> {
        match call {
            EndpointCall::Put { endpoint, companion } => {
                let mut writes = vec![Write::Put(Resource::WorkloadEndpoint((**endpoint).clone()))];
                if let Some(companion) = companion
                    && !self.is_stored(&companion.key()).await?
                {
                    writes.push(Write::Put((**companion).clone()));
                }
                Ok((writes, Value::Null))
            }
            EndpointCall::Delete { key, container } => {
                let stored = match self.store.get(key).await {
                    Ok(stored) => stored,
                    Err(StoreError::NotFound(_)) => return Ok((Vec::new(), Value::Bool(false))),
                    Err(error) => return Err(error),
                };
                let is_theirs = match &*stored.resource {
                    Resource::WorkloadEndpoint(endpoint) => {
                        Identity::of(endpoint).is_some_and(|identity| identity.container == *container)
                    }
                    _ => false,
                };
                match is_theirs {
                    true => {
                        let delete = Write::Delete { key: key.clone(), expected: Some(stored.revision) };
                        Ok((vec![delete], Value::Bool(true)))
                    }
                    false => Ok((Vec::new(), Value::Bool(false))),
                }
            }
            EndpointCall::Node | EndpointCall::Ready { .. } | EndpointCall::List => Ok((Vec::new(), Value::Null)),
        }
    }

    async fn is_stored(&self, key: &Key) -> Result<bool, StoreError> {
        match self.store.get(key).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The revision that has to be in force.
    async fn commit_endpoints(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
        if writes.is_empty() {
            return Ok(Revision(0));
        }
        let note = Note { is_report: true, ..Note::own("attach") };
        Ok(self.store.commit_as(writes, &note, SystemTime::now()).await?.revision)
    }
}
