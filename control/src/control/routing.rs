//! BGP and BFD beside control: what they should be goes there, what they find comes back.
//!
//! ```text
//!   resources ─desired─▶ thread bgp ─forwarding─▶ rib ─reachability─▶ thread bgp
//!                    └─▶ thread bfd ─up, down──▶ rib, thread bgp
//! ```
//!
//! A neighbour that BFD finds gone is taken out of all groups of next hops at once, before BGP has said anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use config::net::Cidr;
use config::resource::Key;
use config::settings::Settings;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::Control;
use super::secrets::Secrets;
use crate::bfd::{Bfd, BfdKey, Change};
use crate::bgp::call::{self, BgpCall};
use crate::bgp::desired::Interest;
use crate::bgp::session::BfdFinding;
use crate::bgp::speaker::Speaker;
use crate::bgp::speaker_state::{BfdState, LocalRouteKind, SpeakerState};
use crate::bgp::thread::{Bgp, Input, Output};
use crate::datastore::Datastore;
use crate::event::Event;
use crate::http::api::ApiError;
use crate::rib::LearnedBatch;
use crate::tell::chain;

/// How often secrets are looked at.
const SECRETS_PAUSE: Duration = Duration::from_secs(1);

/// The threads, and what they were told last.
pub struct Routing {
    bgp: Bgp,
    outputs: mpsc::Receiver<Output>,
    bfd: Option<(Bfd, mpsc::Receiver<Change>)>,
    interest: Interest,
    desired: Arc<SpeakerState>,
    /// When that changed last.
    reconfigured: Option<SystemTime>,
    watched: BTreeSet<IpAddr>,
    /// Neighbours that BFD has found gone.
    down: BTreeSet<IpAddr>,
    secrets: Secrets,
    /// When they were looked at last.
    looked: Instant,
}

impl Routing {
    /// Starts BGP's thread, by the settings. `restarted`: an earlier process of this boot spoke for the node, and peers that
    /// can have kept its routes.
    ///
    /// Errors: the thread cannot be made.
    pub fn start(settings: &Settings, restarted: bool) -> std::io::Result<Routing> {
        let node = &settings.node_name;
        let (bgp, outputs) = Bgp::start(node, restarted, settings.bmp_station)?;
        let interest = Interest::new(node);
        Ok(Routing {
            bgp,
            outputs,
            bfd: None,
            interest,
            desired: Arc::default(),
            reconfigured: None,
            watched: BTreeSet::new(),
            down: BTreeSet::new(),
            secrets: Secrets::default(),
            looked: Instant::now(),
        })
    }

    /// What one of the threads says next.
    pub async fn next(&mut self) -> Event {
        let changes = self.bfd.as_mut().map(|(_, changes)| changes);
        let change = async {
            match changes {
                Some(changes) => changes.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(change) = change => Event::Bfd(change),
            Some(output) = self.outputs.recv() => Event::Bgp(output),
            else => std::future::pending().await,
        }
    }

    /// Ends the threads. Peers that can keep our routes do.
    pub fn stop(self) {
        drop(self.bfd);
        self.bgp.stop(None);
    }

    /// Sends a question to the speaker, whose thread answers it.
    pub(super) async fn ask(&self, call: BgpCall, reply: oneshot::Sender<Result<Value, ApiError>>) {
        self.bgp
            .tell(Input::Call(Box::new(move |speaker, now, actions| {
                let _ = reply.send(call::answer(&call, speaker, now, actions));
            })))
            .await;
    }

    /// Sends anything else to be looked up there.
    pub(super) async fn call(&self, call: impl FnOnce(&Speaker, Instant) + Send + 'static) {
        self.bgp.tell(Input::Call(Box::new(move |speaker, now, _| call(speaker, now)))).await;
    }

    pub(super) fn reconfigured(&self) -> Option<SystemTime> {
        self.reconfigured
    }

    /// The node's own, of the families that it speaks.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        self.desired.identity.as_ref().map_or(&[], |identity| &identity.addresses)
    }

    /// Blocks of addresses of this node.
    pub(super) fn blocks(&self) -> BTreeSet<Cidr> {
        let blocks = self.desired.routes.iter().filter(|(_, route)| route.kind == LocalRouteKind::Block);
        blocks.map(|(block, _)| *block).collect()
    }

    /// Peers that are reached by a gateway.
    pub(super) fn gateways(&self) -> BTreeMap<IpAddr, IpAddr> {
        self.desired.gateways.clone()
    }

    async fn follow(&mut self, wanted: SpeakerState) -> Vec<String> {
        let mut problems = wanted.problems.clone();
        if *self.desired == wanted {
            return problems;
        }
        self.desired = Arc::new(wanted);
        self.reconfigured = Some(SystemTime::now());
        problems.extend(self.want_bfd());
        self.bgp.tell(Input::Desired(self.desired.clone())).await;
        problems
    }

    /// Sessions of BFD, whose thread is there when there is one.
    fn want_bfd(&mut self) -> Option<String> {
        let wanted = self.desired.peers.iter().filter_map(|(key, peer)| {
            let local = peer.transport.local_address;
            Some((BfdKey { peer: key.address, local, interface: None }, peer.transport.bfd?))
        });
        let wanted: BTreeMap<BfdKey, BfdState> = wanted.collect();
        if self.bfd.is_none() && !wanted.is_empty() {
            match Bfd::start() {
                Ok(started) => self.bfd = Some(started),
                Err(error) => return Some(format!("BFD: {}", chain(&error))),
            }
        }
        if let Some((bfd, _)) = &self.bfd {
            bfd.want(wanted);
        }
        None
    }

    /// Which next hops are asked for that were not, and the other way round.
    fn watch(&mut self, wanted: BTreeSet<IpAddr>) -> Vec<(IpAddr, bool)> {
        let gone = self.watched.difference(&wanted).map(|next_hop| (*next_hop, false));
        let come = wanted.difference(&self.watched).map(|next_hop| (*next_hop, true));
        let changes = gone.chain(come).collect();
        self.watched = wanted;
        changes
    }
}

impl<D: Datastore> Control<D> {
    /// Works out what the speaker should be, if one of these may change it.
    pub(super) async fn follow_routing(&mut self, changed: &BTreeSet<Arc<Key>>) {
        if self.routing.interest.follow(&self.resources, changed) {
            self.want_routing().await;
        }
    }

    async fn want_routing(&mut self) {
        let Routing { secrets, interest, .. } = &mut self.routing;
        let wanted = secrets.with(&self.settings.secrets, |look| interest.desired(&self.resources, look));
        let before = (self.routing.blocks(), self.routing.gateways());
        let problems = self.routing.follow(wanted).await;
        self.dirty.tables |= before != (self.routing.blocks(), self.routing.gateways());
        self.note("bgp", problems);
        // Nobody will say any more that these are back.
        let routing = &mut self.routing;
        let is_watched = |address: &IpAddr| {
            routing.desired.peers.iter().any(|(key, peer)| key.address == *address && peer.transport.bfd.is_some())
        };
        let forgotten: Vec<IpAddr> = routing.down.iter().filter(|address| !is_watched(address)).copied().collect();
        for address in forgotten {
            self.routing.down.remove(&address);
            self.next_hop_up(address);
        }
    }

    pub(super) async fn bgp_said(&mut self, output: Output) {
        match output {
            Output::Forwarding(changes) => self.learned(changes),
            Output::NextHops(wanted) => {
                let watched = self.routing.watch(wanted);
                self.learned(LearnedBatch { watched, ..LearnedBatch::default() });
            }
            Output::Problems(problems) => self.note("bgp sockets", problems),
        }
    }

    pub(super) async fn bfd_said(&mut self, change: Change) {
        let address = change.key.peer;
        tracing::info!(peer = %change.key, up = change.up, diagnostic = ?change.diagnostic, "bfd");
        if change.is_failure {
            self.routing.down.insert(address);
            self.next_hop_down(address);
            // First the packets, then what BGP makes of it.
            self.settle().await;
        } else if self.routing.down.remove(&address) || change.up {
            // It is there again, or has shut BFD down on purpose, which says nothing about packets (RFC 5882 §4.2).
            self.next_hop_up(address);
        }
        let finding = match (change.up, change.is_failure) {
            (true, _) => BfdFinding::Up,
            (false, true) => BfdFinding::Failed,
            (false, false) => BfdFinding::Down,
        };
        self.routing.bgp.tell(Input::Bfd { address, finding }).await;
    }

    /// Tells BGP which next hops can be reached.
    pub(super) async fn tell_reachability(&mut self) {
        let reachability = self.take_reachability();
        if !reachability.is_empty() {
            self.routing.bgp.tell(Input::NextHops(reachability)).await;
        }
    }

    /// Whether a secret of some session is another now, or there at last.
    pub(super) async fn look_for_secrets(&mut self) {
        if self.routing.looked.elapsed() < SECRETS_PAUSE {
            return;
        }
        self.routing.looked = Instant::now();
        if self.routing.secrets.look(&self.settings.secrets) {
            self.want_routing().await;
        }
    }
}
