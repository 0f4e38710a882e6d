//! What can be asked of the speaker, and done to it, by people.

use std::net::IpAddr;
use std::time::Instant;

use config::net::Cidr;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::session::notification::shutdown;
use super::speaker::dump::DumpCall;
use super::speaker::view::{ROUTES, Which};
use super::speaker::{Action, Speaker};
use super::speaker_state::PeerKey;
use crate::http::api::{ApiError, ErrorCode};
use crate::tell::to_json;

/// One question or order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum BgpCall {
    /// Answered with `SummaryView`.
    Summary,
    /// Answered with `NeighborView`.
    Neighbor {
        peer: PeerName,
    },
    /// Routes of one peer; answered with a list of `RouteView`.
    Routes {
        peer: PeerName,
        which: Which,
        limit: Option<usize>,
    },
    /// The best routes; answered with a list of `RouteView`.
    Table {
        limit: Option<usize>,
    },
    /// The route that packets to an address take; answered with `WhyView`.
    For {
        address: IpAddr,
    },
    /// Answered with `WhyView`.
    Why {
        prefix: Cidr,
        peer: Option<IpAddr>,
    },
    /// A piece of the table as MRT; answered with `DumpView`.
    Dump(DumpCall),
    /// What happened to sessions; answered with `NewsView`.
    News {
        after: Option<u64>,
    },
    /// What was received is judged again, and asked for again.
    ReloadIn {
        peer: PeerName,
    },
    /// The peer is told everything again.
    ReloadOut {
        peer: PeerName,
    },
    /// Until it is enabled; the text is said to the peer (RFC 9003).
    Disable {
        peer: PeerName,
        text: Option<String>,
    },
    Enable {
        peer: PeerName,
    },
}

impl BgpCall {
    /// It changes something.
    pub fn is_order(&self) -> bool {
        use BgpCall::{Disable, Enable, ReloadIn, ReloadOut};
        matches!(self, ReloadIn { .. } | ReloadOut { .. } | Disable { .. } | Enable { .. })
    }
}

/// A peer by address, and by port where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerName {
    pub address: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Answers, in the thread of the speaker.
pub fn answer(
    call: &BgpCall,
    speaker: &mut Speaker,
    now: Instant,
    actions: &mut Vec<Action>,
) -> Result<Value, ApiError> {
    let find = |speaker: &Speaker, peer: &PeerName| find(speaker, peer);
    match call {
        BgpCall::Summary => Ok(to_json(&speaker.summary(now))),
        BgpCall::Neighbor { peer } => Ok(to_json(&speaker.neighbor(find(speaker, peer)?, now))),
        BgpCall::Routes { peer, which, limit } => {
            Ok(to_json(&speaker.routes(find(speaker, peer)?, *which, limit.unwrap_or(ROUTES))))
        }
        BgpCall::Table { limit } => Ok(to_json(&speaker.table(limit.unwrap_or(ROUTES)))),
        BgpCall::For { address } => {
            let prefix = speaker.prefix_for(*address);
            let why = prefix.and_then(|prefix| speaker.why(prefix, None));
            why.map(|why| to_json(&why)).ok_or_else(|| no_such(format!("no route to {address} in BGP's table")))
        }
        BgpCall::Why { prefix, peer } => {
            let why = speaker.why(prefix.masked(), *peer);
            why.map(|why| to_json(&why)).ok_or_else(|| {
                no_such(format!(
                    "nobody says anything about {}; `vrouter bgp route for` finds what covers an address",
                    prefix.masked()
                ))
            })
        }
        BgpCall::Dump(call) => Ok(to_json(&speaker.dump(call))),
        BgpCall::News { after } => Ok(to_json(&speaker.news(*after))),
        BgpCall::ReloadIn { peer } => Ok(Value::Bool(speaker.reload_in(find(speaker, peer)?, now, actions))),
        BgpCall::ReloadOut { peer } => Ok(Value::Bool(speaker.reload_out(find(speaker, peer)?))),
        BgpCall::Disable { peer, text } => {
            let notification = shutdown(text.as_deref().unwrap_or_default());
            Ok(Value::Bool(speaker.disable(find(speaker, peer)?, notification, now, actions)))
        }
        BgpCall::Enable { peer } => Ok(Value::Bool(speaker.enable(find(speaker, peer)?, now, actions))),
    }
}

fn find(speaker: &Speaker, peer: &PeerName) -> Result<PeerKey, ApiError> {
    let keys = speaker.keys_of(peer.address);
    let of_port = |key: &&PeerKey| peer.port.is_none_or(|port| port == key.port);
    let found: Vec<&PeerKey> = keys.iter().filter(of_port).collect();
    match found[..] {
        [key] => Ok(*key),
        [] => Err(no_such(format!("no BGP peer {}; `vrouter bgp summary` lists them", peer.address))),
        [..] => {
            let all: Vec<String> = keys.iter().map(PeerKey::to_string).collect();
            Err(no_such(format!("{} is the address of several peers: {}", peer.address, all.join(", "))))
        }
    }
}

fn no_such(message: String) -> ApiError {
    ApiError::new(ErrorCode::NotFound, message)
}
