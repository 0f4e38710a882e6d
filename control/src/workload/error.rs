//! Why a workload cannot be attached, or taken away.

use std::path::PathBuf;
use std::time::Duration;

use crate::host::HostError;
use crate::http::api::{ApiError, ErrorCode};
use crate::tell::chain;

#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    #[error("network namespace {}: {reason}", path.display())]
    Namespace { path: PathBuf, reason: String },
    #[error("network namespace {}: there is nothing at this path", path.display())]
    NoNamespace { path: PathBuf },
    #[error("{what}: found {found:?}, expected {expected}")]
    Invalid { what: &'static str, found: String, expected: &'static str },
    #[error("interface {interface} exists in {} already", path.display())]
    Exists { interface: String, path: PathBuf },
    #[error("{workload} is attached already; take it away first")]
    Twice { workload: String },
    #[error("interface {interface} of this host is somebody else's; it was left alone")]
    Foreign { interface: String },
    #[error("{0}")]
    Control(ApiError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("{interface} was not attached within {} s{}", within.as_secs(), told(problems))]
    NotAttached { interface: String, within: Duration, problems: Vec<String> },
    #[error("not done within {} s; what had been made was taken away again", within.as_secs())]
    Timeout { within: Duration },
    #[error("{count} requests wait already; try again")]
    Busy { count: usize },
    #[error("{interface} of endpoint {endpoint}: {reason}")]
    Differs { endpoint: String, interface: String, reason: String },
    #[error("a step of it ended in a panic")]
    Panic,
    #[error("nodename: found {asked:?}, expected {node}, as this node's daemon is called")]
    OtherNode { asked: String, node: String },
}

fn told(problems: &[String]) -> String {
    match problems.is_empty() {
        true => String::new(),
        false => format!(": {}", problems.join("; ")),
    }
}

impl From<ApiError> for WorkloadError {
    fn from(error: ApiError) -> WorkloadError {
        WorkloadError::Control(error)
    }
}

impl From<WorkloadError> for ApiError {
    fn from(error: WorkloadError) -> ApiError {
        let code = match error {
            WorkloadError::Control(error) => return error,
            WorkloadError::Namespace { .. } | WorkloadError::NoNamespace { .. } => ErrorCode::BadNamespace,
            WorkloadError::Invalid { .. } | WorkloadError::OtherNode { .. } => ErrorCode::Invalid,
            WorkloadError::Exists { .. } | WorkloadError::Twice { .. } | WorkloadError::Foreign { .. } => {
                ErrorCode::InterfaceTaken
            }
            WorkloadError::Host(_) | WorkloadError::NotAttached { .. } | WorkloadError::Differs { .. } => {
                ErrorCode::NotAttached
            }
            WorkloadError::Timeout { .. } => ErrorCode::Timeout,
            WorkloadError::Busy { .. } => ErrorCode::Busy,
            WorkloadError::Panic => ErrorCode::Internal,
        };
        ApiError::new(code, chain(&error))
    }
}
