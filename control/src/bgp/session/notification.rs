//! NOTIFICATIONs that a session makes. What they are called is in `wire::notification`.
//!
//! Sources: RFC 4271 §6, RFC 4486, RFC 5492 §5, RFC 8538 §5, RFC 9003, RFC 9234 §4.2, RFC 9384, RFC 9687.

use config::net::IpVersion;

use crate::bgp::message::Notification;
pub use crate::bgp::message::{
    CEASE, FSM_ERROR, HOLD_TIMER_EXPIRED, OPEN_ERROR, SEND_HOLD_TIMER_EXPIRED, cease, open_error,
};
use crate::bgp::wire::afi_and_safi;
use crate::bgp::wire::notification::shutdown_data;

/// A shutdown or reset by the operator, with what the other side's operator should read; empty: nothing. What is too long
/// is cut. RFC 9003 §2 has texts only with these two.
pub fn shutdown(text: &str) -> Notification {
    with_text(cease::ADMINISTRATIVE_SHUTDOWN, text)
}

pub fn reset(text: &str) -> Notification {
    with_text(cease::ADMINISTRATIVE_RESET, text)
}

fn with_text(subcode: u8, text: &str) -> Notification {
    match text {
        "" => Notification::new(CEASE, subcode),
        text => Notification::with(CEASE, subcode, shutdown_data(text)),
    }
}

/// RFC 4486 §4: which family, and how many prefixes are allowed.
pub(super) fn too_many_prefixes(family: IpVersion, count: u32) -> Notification {
    let (afi, safi) = afi_and_safi(family);
    let mut data = afi.to_be_bytes().to_vec();
    data.push(safi);
    data.extend_from_slice(&count.to_be_bytes());
    Notification::with(CEASE, cease::MAXIMUM_PREFIXES, data)
}

/// RFC 5492 §5: the capabilities that are missing, as they stand in an OPEN.
pub(super) fn missing_families(families: &[IpVersion]) -> Notification {
    let mut data = Vec::new();
    for family in families {
        let (afi, safi) = afi_and_safi(*family);
        let [high, low] = afi.to_be_bytes();
        data.extend_from_slice(&[1, 4, high, low, 0, safi]);
    }
    Notification::with(OPEN_ERROR, open_error::UNSUPPORTED_CAPABILITY, data)
}

pub(super) fn is_collision(notification: &Notification) -> bool {
    (notification.code, notification.subcode) == (CEASE, cease::CONNECTION_COLLISION)
}

pub(super) fn is_hard_reset(notification: &Notification) -> bool {
    (notification.code, notification.subcode) == (CEASE, cease::HARD_RESET)
}

/// Those after which nobody should go on by the routes of before: what RFC 8538 §5 suggests, and that packets do not get
/// there (RFC 9384).
pub(super) fn means_hard_reset(notification: &Notification) -> bool {
    use cease::*;
    let subcodes = [MAXIMUM_PREFIXES, ADMINISTRATIVE_SHUTDOWN, PEER_DECONFIGURED, BFD_DOWN];
    notification.code == CEASE && subcodes.contains(&notification.subcode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_as_the_rfcs_have_it() {
        assert_eq!(too_many_prefixes(IpVersion::V6, 1000).data, [0, 2, 1, 0, 0, 3, 232]);
        assert_eq!(missing_families(&[IpVersion::V4, IpVersion::V6]).data, [1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1]);
        assert_eq!(shutdown("new cable").data, b"\x09new cable");
        assert_eq!((reset("").subcode, reset("").data.len()), (4, 0));
    }
}
