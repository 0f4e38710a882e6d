//! What a route becomes on the way to a group of peers, or why it is not told.
//!
//! In this order: who may be told at all (RFC 4271 §9.2, RFC 4456 §6), communities that forbid it (RFC 1997), roles (RFC 9234
//! §5), long-lived stale routes (RFC 9494 §4.3), the export rules, and last what every route has changed on its way.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use config::net::{Cidr, IpVersion};

use super::super::attribute::{Attributes, NextHop, community};
use super::super::decision::DEFAULT_LOCAL_PREF;
use super::super::message::Role;
use super::super::rib::Rib;
use super::super::rib::path::{Path, PeerFacts, Stale};
use super::super::rules::{Candidate, ExportRules, Judgement, Source};
use super::super::speaker_state::{LocalRouteKind, NextHopMode};

/// What all peers of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// In our own system.
    pub internal: bool,
    /// Reflector clients of ours.
    pub client: bool,
    /// We reflect, as this cluster.
    pub cluster_id: Option<Ipv4Addr>,
    pub local_as: u32,
    pub next_hop: NextHopMode,
    /// Our own address for IPv4 routes, and for IPv6 routes.
    pub own_next_hops: [Option<NextHop>; 2],
    /// Families that may be told, in the order of `IpVersion::BOTH`.
    pub families: [bool; 2],
    /// IPv4 routes may have an IPv6 next hop.
    pub extended_next_hop: bool,
    pub sends_path_ids: [bool; 2],
    pub four_octet_as: bool,
    pub longest: usize,
    /// What we are to them.
    pub role: Option<Role>,
    /// They know what to do with stale routes.
    pub long_lived: bool,
    pub export: Arc<ExportRules>,
}

/// Why a path is not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTold {
    Family,
    /// From our own system, to our own system, and neither is a client.
    Internal,
    NoAdvertise,
    NoExport,
    /// It would go the wrong way between systems.
    RouteLeak,
    LongLivedStale,
    Rules(Cow<'static, str>),
    /// We have no address of a family that the peer can use as the next hop.
    NextHop,
    /// It is from that very peer.
    FromThere,
    NotBest,
}

impl NotTold {
    pub fn reason(&self) -> &str {
        match self {
            NotTold::Family => "the session does not carry this family",
            NotTold::Internal => "learned inside our own system, and neither side is a reflector client",
            NotTold::NoAdvertise => "it has the community NO_ADVERTISE",
            NotTold::NoExport => "it has the community NO_EXPORT",
            NotTold::RouteLeak => "it came from a provider or peer, and may go to customers only (OTC)",
            NotTold::LongLivedStale => "it is long-lived stale, and the peer does not know of that",
            NotTold::Rules(reason) => reason,
            NotTold::NextHop => "there is no next hop of a family that the session carries",
            NotTold::FromThere => "the peer said it itself",
            NotTold::NotBest => "it is not the best path",
        }
    }
}

/// Whether a path goes to the audience, and with which attributes. Not interned.
pub fn export(rib: &Rib, prefix: Cidr, path: &Path, is_client: bool, to: &Audience) -> Result<Attributes, NotTold> {
    let changed = admit(rib, prefix, path, is_client, to)?;
    finish(rib, prefix.version(), path, changed.map_or_else(|| (*path.attributes).clone(), |changed| *changed), to)
}

/// Whether a path goes to the audience. Some: with these attributes, for the rules say so of this prefix.
pub fn admit(
    rib: &Rib,
    prefix: Cidr,
    path: &Path,
    is_client: bool,
    to: &Audience,
) -> Result<Option<Box<Attributes>>, NotTold> {
    let family = prefix.version();
    if !to.families[family.index()] {
        return Err(NotTold::Family);
    }
    if is_reflected(path, rib.facts(path.peer), to) && (to.cluster_id.is_none() || !(is_client || to.client)) {
        return Err(NotTold::Internal);
    }
    let attributes = &*path.attributes;
    if attributes.has_community(community::NO_ADVERTISE) {
        return Err(NotTold::NoAdvertise);
    }
    let is_kept_inside = [community::NO_EXPORT, community::NO_EXPORT_SUBCONFED];
    if !to.internal && is_kept_inside.iter().any(|community| attributes.has_community(*community)) {
        return Err(NotTold::NoExport);
    }
    let goes_up = matches!(to.role, Some(Role::Customer | Role::Peer | Role::RouteServerClient));
    if !to.internal && goes_up && attributes.only_to_customer.is_some() {
        return Err(NotTold::RouteLeak);
    }
    if path.stale == Stale::LongLived && !to.long_lived {
        return Err(NotTold::LongLivedStale);
    }
    match to.export.judge(&candidate(rib, prefix, path), to.internal) {
        Judgement::Accept => Ok(None),
        Judgement::Change(changed) => Ok(Some(changed)),
        Judgement::Reject(reason) => Err(NotTold::Rules(reason)),
    }
}

/// What every route has changed on its way, which is the same for all of a family that have their attributes, their peer and
/// whether they are stale in common.
pub fn finish(
    rib: &Rib,
    family: IpVersion,
    path: &Path,
    mut changed: Attributes,
    to: &Audience,
) -> Result<Attributes, NotTold> {
    let local = path.local_kind();
    let facts = rib.facts(path.peer);
    let is_reflected = is_reflected(path, facts, to);
    changed.received = None;
    if path.stale == Stale::LongLived {
        changed.communities = with(&changed.communities, community::LLGR_STALE);
    }
    if local.is_some() {
        // The metric of a local route travels beside it, not as a MED.
        changed.med = None;
    }
    changed.next_hop = next_hop(&changed, local, family, to)?;
    if to.internal {
        changed.local_pref = Some(changed.local_pref.unwrap_or(DEFAULT_LOCAL_PREF));
        if is_reflected {
            // RFC 4456 §8: set once, by the first reflector.
            let originator = facts.map_or(Ipv4Addr::UNSPECIFIED, |facts| facts.router_id);
            changed.originator_id = Some(changed.originator_id.unwrap_or(originator));
            let ours = to.cluster_id.iter().copied();
            changed.cluster_list = ours.chain(changed.cluster_list.iter().copied()).collect();
        }
    } else {
        changed.as_path = changed.as_path.without_confederation().prepended(&[to.local_as]);
        changed.local_pref = None;
        // RFC 4271 §5.1.4: a MED is for the system that it was said to.
        changed.med = None;
        changed.originator_id = None;
        changed.cluster_list = Box::default();
        let goes_down = matches!(to.role, Some(Role::Provider | Role::Peer | Role::RouteServer));
        if goes_down && changed.only_to_customer.is_none() {
            changed.only_to_customer = Some(to.local_as);
        }
    }
    Ok(changed)
}

/// From our own system, to our own system.
fn is_reflected(path: &Path, facts: Option<PeerFacts>, to: &Audience) -> bool {
    path.local_kind().is_none() && facts.is_some_and(|facts| facts.internal) && to.internal
}

/// A path as the rules see it.
fn candidate<'a>(rib: &'a Rib, prefix: Cidr, path: &'a Path) -> Candidate<'a> {
    let attributes = &*path.attributes;
    let source = match path.local_kind() {
        Some(kind) => {
            let metric = attributes.med.unwrap_or(0);
            Source::Local { kind, metric, interface: rib.local_interface(&prefix) }
        }
        None => Source::Peer { internal: rib.facts(path.peer).is_some_and(|facts| facts.internal) },
    };
    Candidate { prefix, attributes, source }
}

/// The same as `export`, for people: which rule refuses it.
pub fn explained(rib: &Rib, prefix: Cidr, path: &Path, is_client: bool, to: &Audience) -> Result<Attributes, NotTold> {
    export(rib, prefix, path, is_client, to).map_err(|why| match why {
        NotTold::Rules(short) => {
            let long = to.export.refusal(&candidate(rib, prefix, path), to.internal);
            NotTold::Rules(long.map_or(short, Cow::Owned))
        }
        other => other,
    })
}

fn next_hop(
    changed: &Attributes,
    local: Option<LocalRouteKind>,
    family: IpVersion,
    to: &Audience,
) -> Result<NextHop, NotTold> {
    let is_kept = local.is_none()
        && match to.next_hop {
            NextHopMode::Auto => to.internal,
            NextHopMode::Itself => false,
            NextHopMode::Keep => true,
        };
    let fits =
        |hop: &NextHop| IpVersion::of(hop.address) == family || (family == IpVersion::V4 && to.extended_next_hop);
    if is_kept {
        // A link-local address means something on one link only. RFC 2545 §3.
        let kept = NextHop { link_local: None, ..changed.next_hop };
        return Some(kept).filter(fits).ok_or(NotTold::NextHop);
    }
    let own = to.own_next_hops[family.index()];
    let other = to.own_next_hops.iter().flatten().copied();
    own.into_iter().chain(other).find(fits).ok_or(NotTold::NextHop)
}

/// With one community more, sorted.
fn with(communities: &[u32], one: u32) -> Box<[u32]> {
    match communities.binary_search(&one) {
        Ok(_) => communities.into(),
        Err(at) => {
            let mut more = communities.to_vec();
            more.insert(at, one);
            more.into()
        }
    }
}

/// For each family the address that we tell as our own next hop: the session's, or else another of the node's.
pub fn own_next_hops(local: Option<IpAddr>, others: &[IpAddr]) -> [Option<NextHop>; 2] {
    let is_usable = |address: &&IpAddr| !address.is_unspecified() && !address.is_loopback();
    let find = |family: IpVersion| {
        let all = local.iter().chain(others).filter(is_usable);
        let found = all.copied().find(|address| IpVersion::of(*address) == family);
        found.map(|address| NextHop { address, link_local: None })
    };
    [find(IpVersion::V4), find(IpVersion::V6)]
}
