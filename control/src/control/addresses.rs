//! Addresses given out and back for whoever asks, and collected where nobody has them any more.
//!
//! ```text
//!   request ─▶ orders that wait ─settle─▶ one commit ─▶ all are answered
//!   tick ────▶ once a minute: what nobody has any more
//! ```
//!
//! Orders are answered when they are stored: no table depends on them. What does, a block that the node tells by BGP, comes
//! back by the watch like any change.

use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tokio::sync::oneshot;

use super::Control;
use crate::datastore::Datastore;
use crate::http::api::ApiError;
use crate::ipam::call::IpamCall;
use crate::ipam::service::Ipam;
use crate::tell::{chain, to_json};

/// How often it is looked for what nobody has.
const COLLECT_PAUSE: Duration = Duration::from_secs(60);

type Reply = oneshot::Sender<Result<Value, ApiError>>;

/// The records, and who waits.
pub(super) struct Addresses {
    pub(super) ipam: Ipam,
    waiting: Vec<(IpamCall, Reply)>,
    collected: Instant,
}

impl Addresses {
    pub(super) fn new(now: Instant) -> Addresses {
        Addresses { ipam: Ipam::default(), waiting: Vec::new(), collected: now }
    }
}

impl<D: Datastore> Control<D> {
    /// Answers a question; an order waits for those that have come with it.
    pub(super) fn ask_addresses(&mut self, call: IpamCall, reply: Reply) {
        if call.is_order() {
            self.addresses.waiting.push((call, reply));
            return;
        }
        let answer = self.addresses.ipam.ask(&self.resources, &self.settings.node_name, &call, SystemTime::now());
        let _ = reply.send(Ok(answer));
    }

    /// Carries out all orders that wait.
    pub(super) async fn carry_out_orders(&mut self) {
        if self.addresses.waiting.is_empty() {
            return;
        }
        let (orders, replies): (Vec<IpamCall>, Vec<Reply>) =
            std::mem::take(&mut self.addresses.waiting).into_iter().unzip();
        let node = &self.settings.node_name;
        let done = self.addresses.ipam.carry_out(&self.store, &self.resources, node, &orders, SystemTime::now()).await;
        for (reply, done) in replies.into_iter().zip(done) {
            let answer = done.map(|done| to_json(&done)).map_err(ApiError::from);
            let _ = reply.send(answer);
        }
    }

    /// Takes back what nobody has any more.
    pub(super) async fn collect_addresses(&mut self) {
        if self.addresses.collected.elapsed() < COLLECT_PAUSE || !self.is_ready() {
            return;
        }
        self.addresses.collected = Instant::now();
        let node = &self.settings.node_name;
        let collected = self.addresses.ipam.collect(&self.store, &self.resources, node, SystemTime::now()).await;
        let problems = match collected {
            Ok(collected) => {
                for address in &collected.addresses {
                    tracing::warn!(%address, "released: nobody has had it for the grace period");
                }
                if collected.blocks + collected.handles > 0 {
                    let (blocks, handles) = (collected.blocks, collected.handles);
                    tracing::info!(blocks, handles, "blocks given up, counts of handles put right");
                }
                Vec::new()
            }
            Err(error) => vec![format!("addresses that nobody has could not be released: {}", chain(&error))],
        };
        self.note("addresses", problems);
    }
}
