//! OPENs: the one that we send, what is wrong with the other's, and what both together agree on.
//!
//! Sources: RFC 4271 §4.2 and §6.2, RFC 6286, RFC 5492, RFC 4760 §8, RFC 4724 §3, RFC 8538 §2, RFC 9494 §3, RFC 7911 §4, RFC 9234 §4.

use std::time::Duration;

use config::net::IpVersion;

use super::notification::{OPEN_ERROR, missing_families, open_error};
use crate::bgp::message::{AddPath, Capabilities, GracefulRestart, LongLived, Notification, Open, Role};
use crate::bgp::speaker_state::{Identity, Transport};
use crate::bgp::wire::Codec;

/// What fits the 12 bits of the restart time (RFC 4724 §3).
const RESTART_TIME_MAX: Duration = Duration::from_secs(4095);
/// What fits the 24 bits of the stale time (RFC 9494 §3).
const STALE_TIME_MAX: Duration = Duration::from_secs(0xff_ffff);
/// RFC 4271 §4.2: zero, or at least that.
pub(super) const HOLD_TIME_MIN: Duration = Duration::from_secs(3);
const HOLD_TIME_MAX: Duration = Duration::from_secs(65535);
/// RFC 4271 §4.4: not more often than that.
pub(super) const KEEPALIVE_TIME_MIN: Duration = Duration::from_secs(1);

/// What we say of graceful restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RestartBits {
    /// R: we have restarted, and the peer need not wait for our end of RIB (RFC 4724 §4.1).
    pub restarting: bool,
    /// F: packets go on by what the peer has told before.
    pub forwarding: bool,
}

/// The OPEN of a session.
pub(super) fn ours(identity: &Identity, transport: &Transport, bits: RestartBits) -> Open {
    let families = transport.families.clone();
    let restart = transport.restart;
    let graceful_restart = (!restart.restart_time.is_zero()).then(|| GracefulRestart {
        restarting: bits.restarting,
        notification: true,
        restart_time: restart.restart_time.min(RESTART_TIME_MAX),
        families: families.iter().map(|family| (*family, bits.forwarding)).collect(),
    });
    let long_lived = match &graceful_restart {
        Some(_) if !restart.long_lived_time.is_zero() => families
            .iter()
            .map(|family| LongLived {
                family: *family,
                forwarding: bits.forwarding,
                stale_time: restart.long_lived_time.min(STALE_TIME_MAX),
            })
            .collect(),
        _ => Vec::new(),
    };
    let add_path = match transport.add_path {
        true => families.iter().map(|family| AddPath { family: *family, send: true, receive: true }).collect(),
        false => Vec::new(),
    };
    let capabilities = Capabilities {
        // RFC 8950: for IPv4 routes with an IPv6 next hop; says nothing where IPv4 is not spoken.
        extended_next_hop: families.contains(&IpVersion::V4),
        families,
        route_refresh: true,
        enhanced_refresh: true,
        four_octet_as: true,
        extended_message: true,
        graceful_restart,
        long_lived,
        add_path,
        role: transport.role.filter(|_| !is_internal(transport)),
        others: Vec::new(),
    };
    let hold_time = match transport.hold_time {
        Duration::ZERO => Duration::ZERO,
        asked => asked.clamp(HOLD_TIME_MIN, HOLD_TIME_MAX),
    };
    Open { as_number: transport.local_as, hold_time, router_id: identity.router_id, capabilities }
}

/// The other side is in our own system.
pub(super) fn is_internal(transport: &Transport) -> bool {
    transport.local_as == transport.remote_as
}

/// Whether the peer's OPEN will do. RFC 4271 §6.2; version and form are `wire`'s.
pub(super) fn check(theirs: &Open, ours: &Open, transport: &Transport) -> Result<(), Notification> {
    let error = |subcode| Err(Notification::new(OPEN_ERROR, subcode));
    // RFC 7607: 0 is nobody's number.
    if theirs.as_number == 0 || theirs.as_number != transport.remote_as {
        return error(open_error::BAD_PEER_AS);
    }
    // RFC 6286 §2.1: any number but 0; unique within a system.
    if theirs.router_id.is_unspecified() || (is_internal(transport) && theirs.router_id == ours.router_id) {
        return error(open_error::BAD_BGP_IDENTIFIER);
    }
    if !theirs.hold_time.is_zero() && theirs.hold_time < HOLD_TIME_MIN {
        return error(open_error::UNACCEPTABLE_HOLD_TIME);
    }
    if Codec::agreed(ours, theirs, is_internal(transport)).families().is_empty() {
        return Err(missing_families(&ours.capabilities.families));
    }
    // RFC 9234 §4.2: only where both say one; a peer that says none is let in.
    if let (Some(our_role), Some(their_role)) = (ours.capabilities.role, theirs.capabilities.role)
        && counterpart(our_role) != their_role
    {
        return error(open_error::ROLE_MISMATCH);
    }
    Ok(())
}

/// RFC 9234 §4.2, table 2.
fn counterpart(role: Role) -> Role {
    match role {
        Role::Provider => Role::Customer,
        Role::Customer => Role::Provider,
        Role::RouteServer => Role::RouteServerClient,
        Role::RouteServerClient => Role::RouteServer,
        Role::Peer => Role::Peer,
    }
}

/// RFC 4271 §4.2: the smaller; zero is none.
pub(super) fn hold_time(theirs: &Open, ours: &Open) -> Duration {
    theirs.hold_time.min(ours.hold_time)
}

/// A third of the hold time, or what is configured if it is less: more would let the session die.
pub(super) fn keepalive_time(hold_time: Duration, transport: &Transport) -> Duration {
    match hold_time {
        // RFC 4271 §4.4: no hold time, no KEEPALIVEs.
        Duration::ZERO => Duration::ZERO,
        hold_time => {
            let third = hold_time / 3;
            transport.keepalive_time.unwrap_or(third).min(third).max(KEEPALIVE_TIME_MIN)
        }
    }
}

/// Families of the session that are in the peer's capability, when we have one too. RFC 4724 §4.2.
pub(super) fn graceful(theirs: &Open, ours: &Open, families: &[IpVersion]) -> Vec<IpVersion> {
    match (&theirs.capabilities.graceful_restart, &ours.capabilities.graceful_restart) {
        (Some(capability), Some(_)) => {
            families.iter().copied().filter(|family| capability.families.iter().any(|(f, _)| f == family)).collect()
        }
        _ => Vec::new(),
    }
}

/// RFC 8538 §4: both say N.
pub(super) fn graceful_notification(theirs: &Open, ours: &Open) -> bool {
    let says =
        |open: &Open| open.capabilities.graceful_restart.as_ref().is_some_and(|capability| capability.notification);
    says(theirs) && says(ours)
}

/// How long stale routes of a family are kept as routes of last resort: the peer's time, at most ours. RFC 9494 §4.2; without
/// graceful restart the capability is not there (§4.5).
pub(super) fn long_lived_time(theirs: &Open, ours: &Open, family: IpVersion) -> Duration {
    let of = |open: &Open| {
        open.capabilities.graceful_restart.as_ref()?;
        open.capabilities.long_lived.iter().find(|offer| offer.family == family).map(|offer| offer.stale_time)
    };
    match (of(theirs), of(ours)) {
        (Some(their_time), Some(our_time)) => their_time.min(our_time),
        _ => Duration::ZERO,
    }
}
