//! What an operator wants done, and the end.

use std::time::Instant;

use super::super::message::{Notification, Refresh, RefreshSubtype};
use super::super::session::Event as SessionEvent;
use super::super::speaker_state::PeerKey;
use super::{Action, Speaker};

impl Speaker {
    /// The session is ended with this, and not tried again until it is enabled.
    pub fn disable(&mut self, key: PeerKey, notification: Notification, now: Instant, out: &mut Vec<Action>) -> bool {
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        peer.is_disabled = true;
        self.session(key, SessionEvent::Stop { notification }, now, out);
        true
    }

    pub fn enable(&mut self, key: PeerKey, now: Instant, out: &mut Vec<Action>) -> bool {
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        peer.is_disabled = false;
        self.session(key, SessionEvent::Start, now, out);
        true
    }

    /// Everything that was received is judged again; peers that can are asked for it again.
    pub fn reload_in(&mut self, key: PeerKey, now: Instant, out: &mut Vec<Action>) -> bool {
        let Some(peer) = self.peers.get(&key) else { return false };
        let families = peer.state.transport.families.clone();
        self.judge_again(key);
        for family in families {
            self.session(key, SessionEvent::RequestRefresh(family), now, out);
        }
        true
    }

    /// The peer is told everything again.
    pub fn reload_out(&mut self, key: PeerKey) -> bool {
        let Some(peer) = self.peers.get(&key) else { return false };
        for family in peer.state.transport.families.clone() {
            self.refresh(key, Refresh { family: Some(family), subtype: RefreshSubtype::Request });
        }
        true
    }

    /// The end: every session is told, gracefully if the peer is to keep our routes.
    pub fn shut_down(&mut self, notification: Option<Notification>, now: Instant, out: &mut Vec<Action>) {
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(notification) = notification.clone() else { break };
            self.session(key, SessionEvent::Stop { notification }, now, out);
        }
        self.end_monitoring(now);
    }
}
