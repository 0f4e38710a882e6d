//! What can be asked over the socket, and how an answer or a refusal looks.
//!
//! A request is an `ApiCall` with a one-shot channel for its answer. Handlers build calls and wait;
//! only the control loop answers, so no handler holds state or takes a lock.
//!
//! ```text
//! POST   /v1/apply | /v1/create | /v1/replace   {"resources": [..], "dryRun": false, "confirmSeconds": 60}
//! POST   /v1/delete                             {"targets": [..], "skipMissing": false}
//! GET    /v1/history[/{revision}]
//! POST   /v1/undo                               {"revision": 12, "force": false, "dryRun": false}
//! POST   /v1/confirm                            {}
//! GET    /v1/resources/{Kind}[/{name}]          ?namespace=
//! GET    /v1/show/{what}                        ?interface= &worker= &address= &limit=
//! POST   /v1/trace                              TraceRequest
//! POST   /v1/why                                WhyRequest
//! POST   /v1/preview                            PreviewRequest
//! POST   /v1/bgp                                BgpCall
//! POST   /v1/ipam                               IpamCall
//! POST   /v1/workload                           WorkloadCall
//! POST   /v1/cni                                CniCall
//! POST   /v1/move                               {"interface": "cali1", "worker": 1}
//! GET    /v1/version
//! GET    /metrics                               Prometheus text
//! ```
//!
//! Invariants: every refusal is `{"error": ApiError}`, with a status that follows from its code.
//! Left out: watches over HTTP; a caller asks again.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use super::code::{Class, ErrorCode};
use super::views::{PreviewRequest, TraceRequest, WhyRequest};
use crate::bgp::call::BgpCall;
use crate::datastore::Author;
use crate::ipam::call::IpamCall;
use crate::workload::call::EndpointCall;

/// One question to the control loop.
#[derive(Debug)]
pub struct ApiRequest {
    pub call: ApiCall,
    /// Who asks, by the socket.
    pub caller: Author,
    /// Dropping it unanswered tells the caller that the daemon is stopping.
    pub reply: oneshot::Sender<Result<serde_json::Value, ApiError>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ApiCall {
    /// Create or update; answered with `WriteReply`.
    Apply(WriteCall),
    /// Must not exist yet; answered with `WriteReply`.
    Create(WriteCall),
    /// Must exist; answered with `WriteReply`.
    Replace(WriteCall),
    /// Answered with `WriteReply`.
    Delete(DeleteCall),
    /// Answered with `GetReply`.
    Get(GetCall),
    /// Answered with `HistoryView`: all transactions without their objects, or one with them.
    History { revision: Option<u64> },
    /// Answered with `UndoReply`.
    Undo(UndoCall),
    /// Keeps what waits for its confirmation; answered with `PendingView`.
    Confirm,
    /// Answered with a list of the view that `ShowKind` names; `Status` with one `StatusView`.
    Show { what: ShowKind, filter: ShowFilter },
    /// Answered with `TraceView`.
    Trace(TraceRequest),
    /// Answered with `WhyView`.
    Why(WhyRequest),
    /// Answered with `PreviewView`.
    Preview(PreviewRequest),
    /// Gives an endpoint's interface to another worker; answered with `MovedView`.
    Move(MoveCall),
    /// Of the speaker; answered with what the call names.
    Bgp(BgpCall),
    /// Of addresses; answered with what the call names.
    Ipam(IpamCall),
    /// Of endpoints that are attached or taken away; answered with what the call names.
    Endpoint(EndpointCall),
    /// Answered with `VersionView`.
    Version,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MoveCall {
    pub interface: String,
    pub worker: u16,
}

/// Resources as JSON. They become `config` resources in one place, whoever sent them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WriteCall {
    pub resources: Vec<serde_json::Value>,
    /// Check everything, say what would happen, change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Take it back unless it is confirmed within so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteCall {
    pub targets: Vec<DeleteTarget>,
    /// An object that is not there counts as deleted.
    #[serde(default)]
    pub skip_missing: bool,
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UndoCall {
    /// The transaction to take back; the latest when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Also when its objects changed since.
    #[serde(default)]
    pub force: bool,
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteTarget {
    /// The kind as written in a document, for example `GlobalNetworkPolicy`.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    /// Refuse unless the object is still at this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetCall {
    /// The kind as written in a document.
    pub kind: String,
    /// None for every namespace.
    pub namespace: Option<String>,
    /// None for all of the kind.
    pub name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShowKind {
    Interfaces,
    Routes,
    Neighbours,
    Flows,
    Workers,
    Drops,
    HostEndpoints,
    Memory,
    Status,
}

/// Narrows an answer. A filter that has no meaning for a view is ignored by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u16>,
    /// An address: the flows that have it, the route it takes, the neighbour with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::IpAddr>,
    /// At most so many entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// One thing that is wrong with one resource of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiProblem {
    pub code: ErrorCode,
    /// `Kind namespace/name`, or the position in the request when there is no name yet.
    pub object: String,
    /// The field's path, empty when it is about the whole object.
    pub field: String,
    pub message: String,
}

/// A refusal. `message` stands alone; `problems` lists every single fault when there are several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ApiProblem>,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into(), problems: Vec::new() }
    }
}

/// How an error travels and is printed: `{"error": {"code": "VR1203", "message": .., "problems": [..]}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: ApiError,
}
