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
use crate::datastore::{Datastore, Note, Revision, StoreError, Stored, Write};
use crate::http::api::{ApiError, ErrorCode};
use crate::tell::to_json;
use crate::workload::call::{EndpointCall, NodeView, ReadyView};
use crate::workload::identity::Identity;

/// Orders in one commit; each writes at most two objects.
const BATCH: usize = 256;

const USUAL_MTU: u32 = 1500;

/// What an order comes to.
struct Planned {
    /// Of the endpoint; nothing where there is nothing to do.
    write: Option<Write>,
    /// Of what has to be beside it, which is the same for all who need it.
    companion: Option<Write>,
    answer: Value,
}

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
            EndpointCall::Wired { interface, mac } => {
                self.expect_dhcp(interface, mac);
                Ok(Value::Null)
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
            dhcp: self.dhcp_relay(),
        }
    }

    /// Whether packets of the interface are judged by its endpoint's policy.
    fn readiness(&self, interface: &str) -> ReadyView {
        let is_attached = self.attachments.view().contains_key(interface);
        let is_ready = is_attached && self.state().endpoints.iter().any(|endpoint| endpoint.interface == interface);
        let about = |part: &str| {
            let problems = self.problems.get(part).into_iter().flatten();
            problems.filter(|problem| problem.contains(interface)).cloned()
        };
        let problems = if is_ready { Vec::new() } else { about("interfaces").chain(about("resources")).collect() };
        ReadyView { is_ready, is_attached, problems }
    }

    fn attached_endpoints(&self) -> Vec<Value> {
        let node = &self.settings.node_name;
        let own = self.resources.workload_endpoints().filter(|endpoint| endpoint.spec.node == *node);
        own.filter(|endpoint| Identity::of(endpoint).is_some()).map(to_json).collect()
    }

    /// Writes what waits; whoever ordered it is answered when it is in force.
    pub(super) async fn write_endpoints(&mut self) {
        if !self.orders.is_empty() {
            // What a workload gives back when it goes is its own as long as it has an endpoint.
            self.take_punts();
        }
        while !self.orders.is_empty() {
            let batch: Vec<_> = self.orders.drain(..self.orders.len().min(BATCH)).collect();
            let (mut keys, mut writes) = (BTreeSet::new(), Vec::new());
            let (mut together, mut alone) = (Vec::new(), Vec::new());
            for (call, reply) in batch {
                let planned = match self.plan(&call).await {
                    Ok(planned) => planned,
                    Err(error) => {
                        let _ = reply.send(Err(error.into()));
                        continue;
                    }
                };
                // One object twice cannot be in one commit.
                if planned.write.as_ref().is_some_and(|write| !keys.insert(write.key())) {
                    alone.push((call, reply));
                    continue;
                }
                writes.extend(planned.write);
                writes.extend(planned.companion.filter(|write| keys.insert(write.key())));
                together.push((call, reply, planned.answer));
            }
            match self.commit_endpoints(writes).await {
                Ok(revision) => {
                    self.unanswered.extend(together.into_iter().map(|(_, reply, answer)| (revision, reply, answer)));
                }
                // Somebody's fault is not everybody's.
                Err(_) => alone.extend(together.into_iter().map(|(call, reply, _)| (call, reply))),
            }
            for (call, reply) in alone {
                match self.write_alone(&call).await {
                    Ok((revision, answer)) => self.unanswered.push((revision, reply, answer)),
                    Err(error) => drop(reply.send(Err(error.into()))),
                }
            }
        }
    }

    async fn write_alone(&self, call: &EndpointCall) -> Result<(Revision, Value), StoreError> {
        let Planned { write, companion, answer } = self.plan(call).await?;
        let revision = self.commit_endpoints(write.into_iter().chain(companion).collect()).await?;
        Ok((revision, answer))
    }

    async fn plan(&self, call: &EndpointCall) -> Result<Planned, StoreError> {
        let nothing = |answer| Planned { write: None, companion: None, answer };
        match call {
            EndpointCall::Put { endpoint, companion } => {
                let write = Some(Write::Put(Resource::WorkloadEndpoint((**endpoint).clone())));
                let companion = match companion {
                    Some(companion) if self.stored(&companion.key()).await?.is_none() => {
                        Some(Write::Create((**companion).clone()))
                    }
                    _ => None,
                };
                Ok(Planned { write, companion, answer: Value::Null })
            }
            EndpointCall::Delete { key, container } => {
                let is_theirs = |stored: &Stored| match &*stored.resource {
                    Resource::WorkloadEndpoint(endpoint) => {
                        Identity::of(endpoint).is_some_and(|identity| identity.container == *container)
                    }
                    _ => false,
                };
                Ok(match self.stored(key).await?.filter(is_theirs) {
                    Some(stored) => {
                        let write = Some(Write::Delete { key: key.clone(), expected: Some(stored.revision) });
                        Planned { write, ..nothing(Value::Bool(true)) }
                    }
                    None => nothing(Value::Bool(false)),
                })
            }
            EndpointCall::Node | EndpointCall::Wired { .. } | EndpointCall::Ready { .. } | EndpointCall::List => {
                Ok(nothing(Value::Null))
            }
        }
    }

    async fn stored(&self, key: &Key) -> Result<Option<Stored>, StoreError> {
        match self.store.get(key).await {
            Ok(stored) => Ok(Some(stored)),
            Err(StoreError::NotFound(_)) => Ok(None),
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
