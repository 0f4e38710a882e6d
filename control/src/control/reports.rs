//! Reports of this node, for every CalicoNodeStatus that names it: when they are due, what the speaker says, and the writing.
//!
//! ```text
//!   due? ─question─▶ thread bgp ─answer─▶ report ─commit─▶ datastore      looked at once a second
//! ```
//!
//! The spec stays as it is. A report is no change that anybody asked for: the history of changes does not remember it.
//!
//! Bounds: one question at a time; all reports that are due are one commit.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use config::resource::{CalicoNodeStatusSpec, Key, Kind, Resource};
use tokio::sync::oneshot;

use super::Control;
use crate::bgp::speaker::view::{RouteView, SummaryView};
use crate::datastore::{Datastore, Note, StoreError, Write};
use crate::node_report::{self, Facts, ROUTES};
use crate::resources::Resources;
use crate::tell::chain;

/// How often it is looked what is due.
const PAUSE: Duration = Duration::from_secs(1);

/// What was reported, and what is asked.
pub struct Reports {
    looked: Instant,
    known: BTreeMap<Key, Known>,
    asked: Option<Asked>,
}

struct Known {
    spec: CalicoNodeStatusSpec,
    at: Instant,
}

struct Asked {
    keys: Vec<Key>,
    answer: oneshot::Receiver<(SummaryView, Vec<RouteView>)>,
}

impl Reports {
    pub fn new(now: Instant) -> Reports {
        Reports { looked: now, known: BTreeMap::new(), asked: None }
    }

    /// The objects that want a report of this node now. A period of zero wants one for each spec.
    fn due(&mut self, resources: &Resources, node: &str, now: Instant) -> Vec<Key> {
        self.known.retain(|key, _| resources.get(key).is_some());
        let mut due = Vec::new();
        for (key, resource) in resources.of_kind(Kind::CalicoNodeStatus) {
            let Resource::CalicoNodeStatus(wish) = resource else { continue };
            if wish.spec.node != node {
                continue;
            }
            let period = wish.spec.update_period_seconds.map_or(0, |period| period.get());
            let period = Duration::from_secs(period.unsigned_abs());
            let is_reported = self.known.get(key).is_some_and(|known| {
                // Who writes the object without its status asks again.
                let is_there = wish.status.last_updated.is_some();
                let is_fresh = period.is_zero() || now.saturating_duration_since(known.at) < period;
                known.spec == wish.spec && is_fresh && (is_there || now.saturating_duration_since(known.at) < PAUSE)
            });
            if !is_reported {
                self.known.insert(key.clone(), Known { spec: wish.spec.clone(), at: now });
                due.push(key.clone());
            }
        }
        due
    }
}

impl<D: Datastore> Control<D> {
    /// One step of what there is to be reported.
    pub(super) async fn report(&mut self) {
        if let Some(asked) = &mut self.reports.asked {
            match asked.answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                Err(oneshot::error::TryRecvError::Closed) => self.reports.asked = None,
                Ok((speaker, routes)) => {
                    let keys = std::mem::take(&mut asked.keys);
                    self.reports.asked = None;
                    self.write_reports(keys, &speaker, &routes).await;
                }
            }
        }
        if self.reports.looked.elapsed() < PAUSE || !self.is_ready() {
            return;
        }
        self.reports.looked = Instant::now();
        let keys = self.reports.due(&self.resources, &self.settings.node_name, Instant::now());
        if keys.is_empty() {
            return;
        }
        let (reply, answer) = oneshot::channel();
        self.routing
            .call(move |speaker, now| {
                let _ = reply.send((speaker.summary(now), speaker.first_paths(ROUTES)));
            })
            .await;
        self.reports.asked = Some(Asked { keys, answer });
    }

    async fn write_reports(&mut self, keys: Vec<Key>, speaker: &SummaryView, routes: &[RouteView]) {
        let now = SystemTime::now();
        let interface = |address: IpAddr| self.route_to(address)?.interface.clone();
        let facts = Facts {
            now,
            begun: now.checked_sub(self.started.elapsed()).unwrap_or(now),
            reconfigured: self.routing.reconfigured(),
            speaker,
            addresses: self.routing.addresses(),
            routes,
            interface: &interface,
        };
        let mut writes = Vec::with_capacity(keys.len());
        for key in &keys {
            // As it is now: what was written meanwhile is no conflict.
            let Ok(stored) = self.store.get(key).await else { continue };
            let Resource::CalicoNodeStatus(wish) = &*stored.resource else { continue };
            let mut wish = wish.clone();
            wish.status = node_report::report(&wish.spec.classes, &facts);
            writes.push(Write::Update { resource: Resource::CalicoNodeStatus(wish), expected: None });
        }
        let written = self.store.commit_as(writes, &Note::report(), now).await;
        let problems = match written {
            Ok(_) => Vec::new(),
            Err(error) => {
                keys.iter().for_each(|key| drop(self.reports.known.remove(key)));
                match error {
                    // Somebody has changed it, or waits for a confirmation: later.
                    StoreError::Conflict { .. } | StoreError::NotFound(_) => Vec::new(),
                    error => vec![format!("CalicoNodeStatus could not be written: {}", chain(&error))],
                }
            }
        };
        self.note("reports", problems);
    }
}

#[cfg(test)]
mod tests {
    use config::resource::{CalicoNodeStatus, Metadata, NodeStatusClass, Number};

    use super::*;

    fn wish(name: &str, node: &str, period: i64) -> CalicoNodeStatus {
        CalicoNodeStatus {
            metadata: Metadata::named(name),
            spec: CalicoNodeStatusSpec {
                node: node.to_owned(),
                classes: vec![NodeStatusClass::Bgp],
                update_period_seconds: Number::new(period),
            },
            status: Default::default(),
        }
    }

    /// Names of what is due at a second; those are reported at once.
    fn due(reports: &mut Reports, resources: &mut Resources, start: Instant, second: u64) -> Vec<String> {
        let keys = reports.due(resources, "node-1", start + Duration::from_secs(second));
        for key in &keys {
            let Some(Resource::CalicoNodeStatus(wish)) = resources.get(key).cloned() else { panic!("{key}") };
            let mut wish = wish;
            wish.status.last_updated = Some("now".to_owned());
            resources.put(Resource::CalicoNodeStatus(wish));
        }
        keys.into_iter().map(|key| key.name).collect()
    }

    #[test]
    fn a_report_is_due_by_its_period_and_by_its_spec() {
        let start = Instant::now();
        let (mut reports, mut resources) = (Reports::new(start), Resources::default());
        for wish in [wish("often", "node-1", 10), wish("once", "node-1", 0), wish("other", "node-2", 10)] {
            resources.put(Resource::CalicoNodeStatus(wish));
        }
        let mut check = |resources: &mut Resources, second: u64, expected: &[&str]| {
            assert_eq!(due(&mut reports, resources, start, second), expected, "at {second}");
        };
        check(&mut resources, 0, &["often", "once"]);
        check(&mut resources, 9, &[]);
        check(&mut resources, 10, &["often"]);
        // Applied anew, without its status: what was reported is gone.
        resources.put(Resource::CalicoNodeStatus(wish("once", "node-1", 0)));
        check(&mut resources, 11, &["once"]);
        let mut changed = wish("once", "node-1", 0);
        changed.spec.classes.push(NodeStatusClass::Agent);
        changed.status.last_updated = Some("before".to_owned());
        resources.put(Resource::CalicoNodeStatus(changed));
        check(&mut resources, 12, &["once"]);
        check(&mut resources, 13, &[]);
        resources.remove(&Key::cluster(Kind::CalicoNodeStatus, "often"));
        check(&mut resources, 30, &[]);
    }
}
