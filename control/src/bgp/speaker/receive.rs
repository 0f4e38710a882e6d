//! What is taken from a peer: checks that every route has to pass, then the import rules.
//!
//! What is refused is kept with the reason, so that a person can ask for it, and so that rules can change without asking the peer
//! again.

use std::sync::Arc;
use std::time::Instant;

use super::super::attribute::Attributes;
use super::super::message::{Nlri, Outcome, Role, Update};
use super::super::rib::path::{Path, Rejected, Stale};
use super::super::rib::{Rib, Said};
use super::super::rules::{Candidate, Judgement, Source};
use super::super::session::Event as SessionEvent;
use super::super::speaker_state::{PeerKey, PeerState, SpeakerState};
use super::{Action, Note, Speaker};
use config::net::{Cidr, IpVersion};

impl Speaker {
    pub(super) fn receive(&mut self, key: PeerKey, update: Update, now: Instant, out: &mut Vec<Action>) {
        self.tell_update(key, &update, now);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(up) = &peer.up else { return };
        for fault in &update.faults {
            let count = match fault.outcome {
                Outcome::AttributeDiscard => &mut peer.faults[0],
                Outcome::TreatAsWithdraw | Outcome::SessionReset => &mut peer.faults[1],
            };
            *count = count.saturating_add(1);
            peer.last_fault = Some(fault.reason.clone());
        }
        let is_malformed = update.faults.iter().any(|fault| fault.outcome != Outcome::AttributeDiscard);
        let refusals = &mut peer.refusals;
        refusals.malformed_updates = refusals.malformed_updates.saturating_add(is_malformed.into());
        let internal = up.negotiated.internal;
        let index = peer.index;
        for nlri in &update.withdrawn {
            let was_known = self.rib.withdraw(index, *nlri);
            refusals.unknown_withdraws = refusals.unknown_withdraws.saturating_add((!was_known).into());
        }
        let mut families = [false; 2];
        for reachable in update.reachable {
            let received = self.rib.store.intern(reachable.attributes);
            let checked = checked(&mut self.rib, &received, &peer.state, internal, &self.desired);
            for nlri in reachable.nlri {
                families[nlri.prefix.version().index()] = true;
                let said = said(&mut self.rib, nlri.prefix, &received, &checked, &peer.state, internal);
                refusals.count(said.rejected);
                if !self.rib.announce(index, nlri, said) {
                    peer.no_room = peer.no_room.saturating_add(1);
                }
            }
        }
        let limit = peer.state.terms.max_prefixes.count;
        if !update.faults.is_empty() {
            self.note(Note::Faults(key, update.faults), out);
        }
        for family in IpVersion::BOTH.into_iter().filter(|family| families[family.index()]) {
            if self.rib.counts(index, family).received > limit {
                self.session(key, SessionEvent::MaxPrefixes { family }, now, out);
            }
        }
    }

    /// Judges everything that a peer has said again, by rules that may have changed.
    pub(super) fn judge_again(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get(&key) else { return };
        let internal = self.rib.facts(peer.index).is_some_and(|facts| facts.internal);
        let mut all = Vec::new();
        for (_, prefix, entry) in self.rib.iter() {
            all.extend(entry.paths.iter().filter(|path| path.peer == peer.index).map(|path| (prefix, path.clone())));
        }
        for (prefix, path) in all {
            let received = path.received().clone();
            let checked = checked(&mut self.rib, &received, &peer.state, internal, &self.desired);
            let said = said(&mut self.rib, prefix, &received, &checked, &peer.state, internal);
            let nlri = Nlri { prefix, path_id: path.path_id };
            let stale = path.stale;
            self.rib.announce(path.peer, nlri, said);
            if stale != Stale::No {
                self.rib.edit_one(path.peer, nlri, |path| path.stale = stale);
            }
        }
    }
}

/// The attributes with which a route goes on, if it does.
fn checked(
    rib: &mut Rib,
    received: &Arc<Attributes>,
    peer: &PeerState,
    internal: bool,
    desired: &SpeakerState,
) -> Result<Arc<Attributes>, Rejected> {
    let changed = check(received, peer, internal, desired)?;
    Ok(changed.map_or_else(|| received.clone(), |changed| made_of(rib, received, changed)))
}

/// What was made of attributes, in the store and with what it was made of, if that is something else.
fn made_of(rib: &mut Rib, received: &Arc<Attributes>, mut changed: Attributes) -> Arc<Attributes> {
    changed.received = None;
    if changed == **received {
        return received.clone();
    }
    changed.received = Some(received.clone());
    rib.store.intern(Arc::new(changed))
}

/// Checks that do not depend on the prefix. Some: with other attributes.
fn check(
    attributes: &Attributes,
    peer: &PeerState,
    internal: bool,
    desired: &SpeakerState,
) -> Result<Option<Attributes>, Rejected> {
    let transport = &peer.transport;
    let Some(identity) = &desired.identity else { return Ok(None) };
    let is_ours = |number: &u32| *number == transport.local_as || *number == identity.as_number;
    let ours = attributes.as_path.numbers().filter(is_ours).count();
    if ours > peer.terms.allow_own_as as usize {
        return Err(Rejected::OwnAs);
    }
    if internal {
        if attributes.originator_id == Some(identity.router_id) {
            return Err(Rejected::OwnOriginator);
        }
        let cluster = peer.terms.cluster_id.or(identity.cluster_id);
        if cluster.is_some_and(|cluster| attributes.cluster_list.contains(&cluster)) {
            return Err(Rejected::OwnCluster);
        }
    }
    let next_hop = attributes.next_hop.address;
    if transport.local_address == Some(next_hop) || identity.addresses.contains(&next_hop) {
        return Err(Rejected::OwnNextHop);
    }
    if internal {
        return Ok(None);
    }
    // A route server does not put itself into the path (RFC 7947 §2.2.2).
    let is_transparent = transport.role == Some(Role::RouteServerClient);
    if !is_transparent && attributes.as_path.neighbour() != Some(transport.remote_as) {
        return Err(Rejected::FirstAs);
    }
    // RFC 9234 §5, on ingress.
    let marked = attributes.only_to_customer;
    match transport.role {
        Some(Role::Provider | Role::RouteServer) if marked.is_some() => Err(Rejected::RouteLeak),
        Some(Role::Peer) if marked.is_some_and(|number| number != transport.remote_as) => Err(Rejected::RouteLeak),
        Some(Role::Customer | Role::RouteServerClient | Role::Peer) if marked.is_none() => {
            Ok(Some(Attributes { only_to_customer: Some(transport.remote_as), ..attributes.clone() }))
        }
        _ => Ok(None),
    }
}

/// The rules' word on one prefix.
fn said(
    rib: &mut Rib,
    prefix: Cidr,
    received: &Arc<Attributes>,
    checked: &Result<Arc<Attributes>, Rejected>,
    peer: &PeerState,
    internal: bool,
) -> Said {
    let attributes = match checked {
        Ok(attributes) => attributes,
        Err(rejected) => {
            let attributes = received.clone();
            return Said { attributes, rejected: Some(*rejected), beats_local: false };
        }
    };
    let candidate = Candidate { prefix, attributes, source: Source::Peer { internal } };
    let (attributes, rejected) = match peer.terms.import.judge(&candidate, internal) {
        Judgement::Accept => (attributes.clone(), None),
        Judgement::Change(changed) => (made_of(rib, received, *changed), None),
        Judgement::Reject(_) => (received.clone(), Some(Rejected::Rules)),
    };
    let beats_local = internal && rejected.is_none() && peer.terms.import.beats_local(prefix, &attributes);
    Said { attributes, rejected, beats_local }
}

/// For people: why the rules refuse a path.
pub(super) fn rules_reason(prefix: Cidr, path: &Path, peer: &PeerState, internal: bool) -> Option<String> {
    let candidate = Candidate { prefix, attributes: &path.attributes, source: Source::Peer { internal } };
    peer.terms.import.refusal(&candidate, internal)
}
