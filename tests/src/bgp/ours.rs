//! Our router as a speaker among neighbours: its sessions as resources, and what its command line says of them.

use std::fmt::Write as _;

use serde::Deserialize;

use super::neighbour::SOON;
use crate::daemon::Daemon;
use crate::wait;

/// The number that Calico gives a node when nobody says another.
pub const AS_NUMBER: u32 = 64512;

/// A session that our router should have, as a BGPPeer.
#[derive(Debug, Clone)]
pub struct Session {
    pub address: String,
    pub as_number: u32,
    /// Fields of the spec besides, as YAML in one line each.
    pub spec: Vec<&'static str>,
    /// Annotations: what Calico has no field for.
    pub annotations: Vec<(&'static str, &'static str)>,
}

impl Session {
    pub fn new(address: &str, as_number: u32) -> Session {
        Session { address: address.to_owned(), as_number, spec: Vec::new(), annotations: Vec::new() }
    }

    fn manifest(&self) -> String {
        let name = self.address.replace([':', '.'], "-");
        let mut text = format!("---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: peer{name}\n");
        if !self.annotations.is_empty() {
            text += "  annotations:\n";
            for (key, value) in &self.annotations {
                let _ = writeln!(text, "    bgp.vrouter.io/{key}: \"{value}\"");
            }
        }
        let _ = write!(text, "spec:\n  node: router\n  peerIP: \"{}\"\n  asNumber: {}\n", self.address, self.as_number);
        self.spec.iter().for_each(|line| text += &format!("  {line}\n"));
        text
    }
}

/// A pool that all endpoints of the stories are in, no mesh, and these sessions. `more` is said of BGPConfiguration.
pub fn manifests(sessions: &[Session], more: &str) -> String {
    let head = "apiVersion: projectcalico.org/v3\n";
    let mut text = format!(
        "{head}kind: IPPool\nmetadata: {{ name: four }}\nspec: {{ cidr: 10.65.0.0/16 }}\n---\n\
         {head}kind: IPPool\nmetadata: {{ name: six }}\nspec: {{ cidr: \"fd65::/64\" }}\n---\n\
         {head}kind: BGPConfiguration\nmetadata: {{ name: default }}\nspec: {{ nodeToNodeMeshEnabled: false{more} }}\n---\n\
         {head}kind: BGPFilter\nmetadata: {{ name: everything }}\n\
         spec: {{ exportV4: [{{ action: Accept }}], exportV6: [{{ action: Accept }}] }}\n"
    );
    sessions.iter().for_each(|session| text += &session.manifest());
    text
}

#[derive(Deserialize)]
struct Summary {
    peers: Vec<PeerView>,
}

/// What `vrouter bgp summary -o json` says of a session.
#[derive(Debug, Clone, Deserialize)]
pub struct PeerView {
    pub address: String,
    pub state: String,
    #[serde(default)]
    pub received: u64,
    #[serde(default)]
    pub accepted: u64,
    #[serde(default)]
    pub advertised: u64,
}

#[track_caller]
pub fn peers(daemon: &Daemon) -> Vec<PeerView> {
    let text = daemon.cli(&["bgp", "summary", "-o", "json"]);
    let summary: Summary = serde_json::from_str(&text).unwrap_or_else(|error| panic!("bgp summary: {error}: {text}"));
    summary.peers
}

#[track_caller]
pub fn until_established(daemon: &Daemon, address: &str) -> PeerView {
    wait::until(&format!("our session with {address}: {}", daemon.cli(&["bgp", "summary"])), SOON, || {
        peers(daemon).into_iter().find(|peer| peer.address == address && peer.state == "Established")
    })
}
