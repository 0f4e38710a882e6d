//! Families as numbers: AFI and SAFI.
//!
//! Sources: RFC 4760 §3.

use config::net::IpVersion;

/// Network layer reachability for unicast forwarding.
pub(super) const UNICAST: u8 = 1;

pub(super) fn afi(family: IpVersion) -> u16 {
    match family {
        IpVersion::V4 => 1,
        IpVersion::V6 => 2,
    }
}

/// None: a family that we do not speak.
pub(super) fn family(afi: u16, safi: u8) -> Option<IpVersion> {
    match (afi, safi) {
        (1, UNICAST) => Some(IpVersion::V4),
        (2, UNICAST) => Some(IpVersion::V6),
        _ => None,
    }
}

/// Both numbers.
pub(in crate::bgp) fn afi_and_safi(family: IpVersion) -> (u16, u8) {
    (afi(family), UNICAST)
}
