//! From one desired state to the next: what did not change is not disturbed.
//!
//! | what changed | what happens |
//! |---|---|
//! | who we are | every session ends (Cease, other configuration change) and begins again |
//! | a peer's transport | its session ends and begins again |
//! | a peer's terms | routes are judged again, and it is told what differs |
//! | a peer came or went | its session begins or ends |
//! | a route of ours | it is told or taken back |

use std::sync::Arc;
use std::time::Instant;

use config::net::Cidr;

use super::super::attribute::Attributes;
use super::super::message::{CEASE, Nlri, Notification, cease};
use super::super::rib::Said;
use super::super::rib::path::{Path, PeerFacts, PeerIndex};
use super::super::session::{Event as SessionEvent, Session};
use super::super::speaker_state::{Identity, LocalRoute, PeerKey, PeerState, SpeakerState};
use super::{Action, DEFERRAL, Deferral, Peer, Speaker, audience};

impl Speaker {
    pub(super) fn follow(&mut self, desired: Arc<SpeakerState>, now: Instant, out: &mut Vec<Action>) {
        let old = std::mem::replace(&mut self.desired, desired.clone());
        let is_same_identity = match (&old.identity, &desired.identity) {
            (Some(old), Some(new)) => is_same(old, new),
            (old, new) => old.is_none() && new.is_none(),
        };
        let none = Default::default();
        let wanted = if desired.identity.is_some() { &desired.peers } else { &none };
        let going: Vec<PeerKey> =
            self.peers.keys().filter(|key| !is_same_identity || !wanted.contains_key(*key)).copied().collect();
        for key in going {
            let stays = wanted.contains_key(&key);
            let why = if stays { cease::OTHER_CONFIGURATION_CHANGE } else { cease::PEER_DECONFIGURED };
            self.remove(key, Notification::new(CEASE, why), now, out);
        }
        self.follow_routes(&old, &desired);
        let Some(identity) = &desired.identity else { return };
        let is_first = old.identity.is_none();
        for (key, state) in wanted {
            if !self.peers.contains_key(key) {
                self.add(*key, identity, state, is_first, now, out);
            } else if self.peers.get(key).is_some_and(|peer| peer.state != *state) {
                self.change(*key, state, now, out);
            }
        }
        if is_first && self.restarted {
            let families = |state: &PeerState| state.transport.families.clone();
            let graceful = wanted.iter().filter(|(_, state)| !state.transport.restart.restart_time.is_zero());
            let waits_for = graceful.flat_map(|(key, state)| families(state).into_iter().map(|family| (*key, family)));
            self.deferral = Some(Deferral { until: now + DEFERRAL, waits_for: waits_for.collect() });
        }
        self.restarted = false;
    }

    fn add(
        &mut self,
        key: PeerKey,
        identity: &Identity,
        state: &PeerState,
        is_first: bool,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let internal = state.transport.local_as == state.transport.remote_as;
        let facts = PeerFacts { address: key.address, router_id: std::net::Ipv4Addr::UNSPECIFIED, internal };
        let Some(index) = self.rib.add_peer(facts) else { return };
        // Peers of one speaker must not do the same at the same moment either.
        let seed = self.seed.wrapping_add(u64::from(index.0).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let session = Session::new(key, identity.clone(), state.clone(), seed, self.restarted && is_first);
        let peer = Peer {
            index,
            session,
            state: state.clone(),
            up: None,
            deadline: None,
            faults: [0; 2],
            refusals: Default::default(),
            last_fault: None,
            no_room: 0,
            is_disabled: false,
        };
        self.set_client(index, state.terms.reflector_client);
        self.peers.insert(key, peer);
        self.session(key, SessionEvent::Start, now, out);
    }

    fn remove(&mut self, key: PeerKey, notification: Notification, now: Instant, out: &mut Vec<Action>) {
        self.session(key, SessionEvent::Stop { notification }, now, out);
        self.go_down(key, &[]);
        if let Some(peer) = self.peers.remove(&key) {
            self.timers.retain(|(_, other)| *other != key);
            self.rib.remove_peer(peer.index);
            self.clients.remove(&peer.index);
        }
    }

    fn change(&mut self, key: PeerKey, state: &PeerState, now: Instant, out: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let old = std::mem::replace(&mut peer.state, state.clone());
        let index = peer.index;
        self.session(key, SessionEvent::Update(Box::new(state.clone())), now, out);
        if old.terms == state.terms {
            return;
        }
        let is_client = state.terms.reflector_client;
        let was_client = self.clients.contains(&index);
        self.set_client(index, is_client);
        if was_client != is_client {
            // Its routes go to others than before.
            for place in self.rib.places() {
                if self.rib.entry(place).paths.iter().any(|path| path.peer == index) {
                    self.rib.touch(place);
                }
            }
        }
        if old.terms.import != state.terms.import
            || (old.terms.allow_own_as, old.terms.cluster_id) != (state.terms.allow_own_as, state.terms.cluster_id)
        {
            self.judge_again(key);
        }
        self.move_group(key);
    }

    /// A peer whose audience is another now is told what differs.
    fn move_group(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get(&key) else { return };
        let (index, Some(up)) = (peer.index, &peer.up) else { return };
        let wanted = audience(peer, &up.negotiated, &self.desired);
        let from = up.group;
        if self.groups.get(from).and_then(Option::as_ref).is_some_and(|group| group.audience == wanted) {
            return;
        }
        // Members of the old group hear of changes there first, so that what was told is what is in `sent`.
        self.settle();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(up) = peer.up.take() else { return };
        let to = self.group(wanted, &up.negotiated);
        let told = self.groups.get(from).and_then(Option::as_ref).map(|group| group.told_to(index));
        self.leave(index, from);
        if let Some(Some(group)) = self.groups.get_mut(to) {
            group.join(index, &mut self.rib, &self.clients, told.as_deref());
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.up = Some(super::Up { group: to, ..up });
        }
        self.is_quiet = false;
    }

    fn set_client(&mut self, index: PeerIndex, is_client: bool) {
        if is_client {
            self.clients.insert(index);
        } else {
            self.clients.remove(&index);
        }
    }

    fn follow_routes(&mut self, old: &SpeakerState, new: &SpeakerState) {
        let none = Default::default();
        let (before, after) = (
            if old.identity.is_some() { &old.routes } else { &none },
            if new.identity.is_some() { &new.routes } else { &none },
        );
        for (prefix, route) in before {
            if after.get(prefix).is_none_or(|now| now.kind != route.kind) {
                self.rib.withdraw(PeerIndex::LOCAL, nlri(*prefix, route));
                self.rib.set_local_interface(*prefix, None);
            }
        }
        for (prefix, route) in after {
            if before.get(prefix) != Some(route) {
                self.rib.set_local_interface(*prefix, route.interface.clone());
                let unspecified = if prefix.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                let attributes = Attributes { med: Some(route.metric), ..Attributes::local(unspecified) };
                let attributes = self.rib.store.intern(Arc::new(attributes));
                self.rib.announce(
                    PeerIndex::LOCAL,
                    nlri(*prefix, route),
                    Said { attributes, rejected: None, beats_local: false },
                );
            }
        }
    }
}

/// Whether sessions can go on.
fn is_same(old: &Identity, new: &Identity) -> bool {
    (old.as_number, old.router_id, old.cluster_id) == (new.as_number, new.router_id, new.cluster_id)
}

fn nlri(prefix: Cidr, route: &LocalRoute) -> Nlri {
    Nlri { prefix, path_id: Path::local_id(route.kind) }
}
