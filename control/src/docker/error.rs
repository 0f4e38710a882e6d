//! Why a call of Docker's is refused, as the person will read it who has typed `docker`.

use std::net::IpAddr;
use std::time::Duration;

use crate::http::api::ApiError;
use crate::workload::error::WorkloadError;

/// What is shown of a text that is wrong.
const SHOWN: usize = 80;

#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    #[error("{what}: found {found}, expected {expected}")]
    Invalid { what: String, found: String, expected: String },

    #[error("network {network} is not known here: Profile {profile} is gone; remove the network and create it again")]
    NoNetwork { network: String, profile: String },

    #[error("network {network}: Profile {profile} is somebody else's; delete or rename it")]
    OtherProfile { network: String, profile: String },

    #[error("network {network} has no endpoint {endpoint}")]
    NoEndpoint { network: String, endpoint: String },

    #[error("endpoint {endpoint} is joined to a sandbox already")]
    Joined { endpoint: String },

    #[error("sandbox {sandbox} is in a network of vrouter already, and can be in one; disconnect it from that first")]
    SecondNetwork { sandbox: String },

    #[error("{address} was not given out by vrouter-ipam; create the network with --ipam-driver vrouter-ipam")]
    NotGiven { address: IpAddr },

    #[error("{address} is in use by endpoint {endpoint}")]
    InUse { address: IpAddr, endpoint: String },

    #[error("{address} belongs to handle {handle}, which is not Docker's; it was left alone")]
    OtherOwner { address: IpAddr, handle: String },

    #[error("not done within {} s", within.as_secs())]
    Timeout { within: Duration },

    #[error(transparent)]
    Workload(#[from] WorkloadError),

    #[error(transparent)]
    Control(#[from] ApiError),
}

impl DockerError {
    pub fn invalid(what: impl Into<String>, found: &str, expected: impl Into<String>) -> DockerError {
        DockerError::Invalid { what: what.into(), found: shown(found), expected: expected.into() }
    }
}

/// A text of somebody's in quotes: what has no business on a terminal is escaped, and what is long is cut.
pub fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        _ if text.is_empty() => "nothing".to_string(),
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], text.len()),
    }
}
