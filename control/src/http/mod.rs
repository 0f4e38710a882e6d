//! The local API: HTTP and JSON over a unix socket.
//!
//! ```text
//! client ──unix socket──▶ handler ──ApiRequest──▶ bounded queue ──▶ control loop
//!                            ◀────── answer, by a one-shot channel ──────┘
//! ```
//!
//! - `api.rs`      the questions, the refusals, the routes
//! - `code.rs`     the code of every refusal, with a page about it
//! - `desk.rs`     where questions are put to control
//! - `views.rs`    the answers
//! - `answer.rs`   the answers that need nothing but the datastore
//! - `metrics.rs`  views as Prometheus text
//!
//! Who may ask is decided by the file: the socket has mode 0660 in a folder of mode 0750, and takes
//! its name only after it has its mode. Writes are logged with the caller's uid and pid.
//!
//! Invariants: a handler owns nothing and decides nothing; requests in progress, bodies, the queue
//! and the time of a request are bounded; a request over a bound is refused, never cut.
//! Left out: TCP, TLS and roles; a second, read-only socket.

pub mod answer;
pub mod api;
pub mod code;
pub mod desk;
pub mod metrics;
mod peer;
#[cfg(test)]
mod tests;
pub mod views;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRef, Path as RoutePath, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::bgp::call::BgpCall;
use crate::cni::request::CniCall;
use crate::ipam::call::IpamCall;
use crate::workload::call::WorkloadCall;
use crate::workload::service::{WAITING, Workloads};
use api::{
    ApiCall, ApiError, DeleteCall, ErrorBody, ErrorCode, GetCall, MoveCall, ShowFilter, ShowKind, UndoCall, WriteCall,
};
use desk::Desk;
use peer::Peer;
use views::{PreviewRequest, TraceRequest, WhyRequest};

/// Largest body accepted.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Requests served at a time; with the bodies' bound this bounds the memory they take.
const MAX_IN_PROGRESS: usize = 16;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

const SOCKET_MODE: u32 = 0o660;
const FOLDER_MODE: u32 = 0o750;

/// A socket that is being served. Dropping it stops the service and removes the socket.
pub struct Server {
    path: PathBuf,
    task: JoinHandle<()>,
}

/// Why the API cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "{path} is answered by another process; stop that vrouter daemon or choose another path",
        path = path.display()
    )]
    InUse { path: PathBuf },

    #[error("{path} exists and is not a socket; move it away or choose another path", path = path.display())]
    NotASocket { path: PathBuf },

    #[error("{action} {path}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// Serves the API at `path`, on the current runtime. Questions go to control by the desk.
pub fn serve(path: &Path, desk: Desk, workloads: Workloads) -> Result<Server, ServeError> {
    serve_router(path, router(desk, workloads))
}

/// Serves whatever is asked at `path`, which only root and the group of the socket may open.
pub(crate) fn serve_router(path: &Path, router: Router) -> Result<Server, ServeError> {
    let listener = bind(path)?;
    let service = router.into_make_service_with_connect_info::<Peer>();
    let socket = path.to_path_buf();
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, service).await {
            warn!(%error, socket = %socket.display(), "not served any more");
        }
    });
    Ok(Server { path: path.to_path_buf(), task })
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(%error, path = %self.path.display(), "socket not removed");
        }
    }
}

fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| ServeError::Io { action, path, source }
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed("create folder", folder))?;
    }
    check_free(path)?;

    // Bound under another name first: the socket must not be reachable before it has its mode.
    let mut draft = path.as_os_str().to_os_string();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove left-over socket", &draft)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&draft).map_err(failed("bind socket", &draft))?;
    let placed = fs::set_permissions(&draft, Permissions::from_mode(SOCKET_MODE))
        .and_then(|()| fs::rename(&draft, path))
        .map_err(failed("place socket", path));
    if placed.is_err() {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&draft);
    }
    placed.map(|()| listener)
}

/// Whether `path` may be replaced: nothing is there, or a socket that nobody answers.
fn check_free(path: &Path) -> Result<(), ServeError> {
    let failed = |action| {
        let path = path.to_path_buf();
        move |source| ServeError::Io { action, path, source }
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("examine")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            let path = path.to_path_buf();
            return Err(ServeError::NotASocket { path });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServeError::InUse { path: path.to_path_buf() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(failed("ask who answers")(error)),
    }
}

/// What handlers work with.
#[derive(Clone)]
struct Office {
    desk: Desk,
    places: Arc<Semaphore>,
    /// Of orders about workloads, which wait for each other.
    orders: Arc<Semaphore>,
    workloads: Workloads,
}

impl FromRef<Office> for Desk {
    fn from_ref(office: &Office) -> Desk {
        office.desk.clone()
    }
}

fn router(desk: Desk, workloads: Workloads) -> Router {
    let (places, orders) = (Arc::new(Semaphore::new(MAX_IN_PROGRESS)), Arc::new(Semaphore::new(WAITING)));
    let office = Office { desk, places, orders, workloads };
    let attaching = Router::new()
        .route("/v1/workload", post(workload))
        .route("/v1/cni", post(cni))
        .layer(middleware::from_fn_with_state(office.clone(), in_order))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(office.clone());
    Router::new()
        .route("/v1/apply", post(apply))
        .route("/v1/create", post(create))
        .route("/v1/replace", post(replace))
        .route("/v1/delete", post(delete))
        .route("/v1/undo", post(undo))
        .route("/v1/confirm", post(confirm))
        .route("/v1/history", get(history))
        .route("/v1/history/{revision}", get(transaction))
        .route("/v1/resources/{kind}", get(list_resources))
        .route("/v1/resources/{kind}/{name}", get(get_resource))
        .route("/v1/show/{what}", get(show))
        .route("/v1/trace", post(trace))
        .route("/v1/why", post(why))
        .route("/v1/move", post(move_interface))
        .route("/v1/bgp", post(bgp))
        .route("/v1/ipam", post(ipam))
        .route("/v1/preview", post(preview))
        .route("/v1/version", get(version))
        .route("/metrics", get(scrape))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(office.clone(), bounded))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(office)
        .merge(attaching)
}

/// One place and a limited time for every request.
async fn bounded(State(office): State<Office>, request: Request, next: Next) -> Response {
    let Ok(_place) = office.places.try_acquire() else {
        return desk::busy().into_response();
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let seconds = REQUEST_TIMEOUT.as_secs();
            let message = format!("no answer within {seconds} s; the control loop may be stuck");
            ApiError::new(ErrorCode::Timeout, message).into_response()
        }
    }
}

/// What takes as long as the kernel takes: it has its own places, and its own time.
async fn in_order(State(office): State<Office>, request: Request, next: Next) -> Response {
    let Ok(_place) = office.orders.try_acquire() else {
        return desk::busy().into_response();
    };
    next.run(request).await
}

async fn shown<T: DeserializeOwned>(desk: &Desk, what: ShowKind) -> Result<T, ApiError> {
    let filter = ShowFilter::default();
    let view = desk.ask(ApiCall::Show { what, filter }).await?;
    desk::read(view, &format!("show {what:?}"))
}

type Answer = Result<Json<Value>, ApiError>;

async fn apply(desk: State<Desk>, peer: ConnectInfo<Peer>, body: RawBody) -> Answer {
    write(desk, peer, "apply", ApiCall::Apply, body).await
}

async fn create(desk: State<Desk>, peer: ConnectInfo<Peer>, body: RawBody) -> Answer {
    write(desk, peer, "create", ApiCall::Create, body).await
}

async fn replace(desk: State<Desk>, peer: ConnectInfo<Peer>, body: RawBody) -> Answer {
    write(desk, peer, "replace", ApiCall::Replace, body).await
}

async fn write(
    State(desk): State<Desk>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    verb: &str,
    call: impl FnOnce(WriteCall) -> ApiCall,
    body: RawBody,
) -> Answer {
    let write: WriteCall = parse(body)?;
    let (count, dry_run) = (write.resources.len(), write.dry_run);
    info!(verb, count, dry_run, uid = peer.uid, pid = peer.pid, "api write");
    desk.ask_as(peer.author(), call(write)).await.map(Json)
}

async fn delete(State(desk): State<Desk>, ConnectInfo(peer): ConnectInfo<Peer>, body: RawBody) -> Answer {
    let delete: DeleteCall = parse(body)?;
    let (count, dry_run) = (delete.targets.len(), delete.dry_run);
    info!(verb = "delete", count, dry_run, uid = peer.uid, pid = peer.pid, "api write");
    desk.ask_as(peer.author(), ApiCall::Delete(delete)).await.map(Json)
}

async fn undo(State(desk): State<Desk>, ConnectInfo(peer): ConnectInfo<Peer>, body: RawBody) -> Answer {
    let undo: UndoCall = parse(body)?;
    let (dry_run, revision, force) = (undo.dry_run, undo.revision, undo.force);
    info!(verb = "undo", revision, force, dry_run, uid = peer.uid, pid = peer.pid, "api write");
    desk.ask_as(peer.author(), ApiCall::Undo(undo)).await.map(Json)
}

async fn confirm(State(desk): State<Desk>, ConnectInfo(peer): ConnectInfo<Peer>) -> Answer {
    info!(verb = "confirm", uid = peer.uid, pid = peer.pid, "api write");
    desk.ask_as(peer.author(), ApiCall::Confirm).await.map(Json)
}

async fn history(State(desk): State<Desk>) -> Answer {
    desk.ask(ApiCall::History { revision: None }).await.map(Json)
}

async fn transaction(State(desk): State<Desk>, RoutePath(revision): RoutePath<String>) -> Answer {
    let number = revision.parse().map_err(|_| {
        let message = format!("revision: found {revision:?}, expected a number");
        ApiError::new(ErrorCode::BadBody, message)
    })?;
    desk.ask(ApiCall::History { revision: Some(number) }).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    namespace: Option<String>,
}

async fn list_resources(
    State(desk): State<Desk>,
    RoutePath(kind): RoutePath<String>,
    scope: Result<Query<Scope>, QueryRejection>,
) -> Answer {
    let namespace = query(scope)?.namespace;
    let name = None;
    let call = GetCall { kind, namespace, name };
    desk.ask(ApiCall::Get(call)).await.map(Json)
}

async fn get_resource(
    State(desk): State<Desk>,
    RoutePath((kind, name)): RoutePath<(String, String)>,
    scope: Result<Query<Scope>, QueryRejection>,
) -> Answer {
    let namespace = query(scope)?.namespace;
    let name = Some(name);
    let call = GetCall { kind, namespace, name };
    desk.ask(ApiCall::Get(call)).await.map(Json)
}

async fn show(
    State(desk): State<Desk>,
    RoutePath(what): RoutePath<String>,
    filter: Result<Query<ShowFilter>, QueryRejection>,
) -> Answer {
    let what: ShowKind = serde_json::from_value(Value::String(what))
        .map_err(|error| ApiError::new(ErrorCode::UnknownPath, error.to_string()))?;
    let filter = query(filter)?;
    desk.ask(ApiCall::Show { what, filter }).await.map(Json)
}

async fn trace(State(desk): State<Desk>, body: RawBody) -> Answer {
    let request: TraceRequest = parse(body)?;
    desk.ask(ApiCall::Trace(request)).await.map(Json)
}

async fn why(State(desk): State<Desk>, body: RawBody) -> Answer {
    let request: WhyRequest = parse(body)?;
    desk.ask(ApiCall::Why(request)).await.map(Json)
}

async fn move_interface(State(desk): State<Desk>, ConnectInfo(peer): ConnectInfo<Peer>, body: RawBody) -> Answer {
    let call: MoveCall = parse(body)?;
    info!(verb = "move", uid = peer.uid, pid = peer.pid, interface = call.interface, worker = call.worker, "api write");
    desk.ask_as(peer.author(), ApiCall::Move(call)).await.map(Json)
}

async fn bgp(State(desk): State<Desk>, ConnectInfo(peer): ConnectInfo<Peer>, body: RawBody) -> Answer {
    let call: BgpCall = parse(body)?;
    if call.is_order() {
        info!(verb = "bgp", ?call, uid = peer.uid, pid = peer.pid, "api write");
    }
    desk.ask_as(peer.author(), ApiCall::Bgp(call)).await.map(Json)
}

async fn ipam(State(desk): State<Desk>, ConnectInfo(peer): ConnectInfo<Peer>, body: RawBody) -> Answer {
    let call: IpamCall = parse(body)?;
    if call.is_order() {
        debug!(verb = "ipam", ?call, uid = peer.uid, pid = peer.pid, "api write");
    }
    desk.ask_as(peer.author(), ApiCall::Ipam(call)).await.map(Json)
}

/// Goes on when the caller does not wait any more.
async fn workload(State(office): State<Office>, ConnectInfo(peer): ConnectInfo<Peer>, body: RawBody) -> Answer {
    let call: WorkloadCall = parse(body)?;
    if call.is_order() {
        info!(verb = "workload", call = call.word(), uid = peer.uid, pid = peer.pid, "api write");
    }
    office.workloads.carry_out(call).await.map(Json)
}

async fn cni(State(office): State<Office>, ConnectInfo(peer): ConnectInfo<Peer>, body: RawBody) -> Answer {
    let call: CniCall = parse(body)?;
    debug!(verb = "cni", command = %call.command.escape_debug(), uid = peer.uid, pid = peer.pid, "api write");
    Ok(Json(crate::cni::verbs::answer(&office.workloads, call).await))
}

async fn preview(State(desk): State<Desk>, body: RawBody) -> Answer {
    let request: PreviewRequest = parse(body)?;
    desk.ask(ApiCall::Preview(request)).await.map(Json)
}

async fn version(State(desk): State<Desk>) -> Answer {
    desk.ask(ApiCall::Version).await.map(Json)
}

async fn scrape(State(desk): State<Desk>) -> Result<Response, ApiError> {
    let views = metrics::Views {
        status: shown(&desk, ShowKind::Status).await?,
        interfaces: shown(&desk, ShowKind::Interfaces).await?,
        workers: shown(&desk, ShowKind::Workers).await?,
        drops: shown(&desk, ShowKind::Drops).await?,
        bgp: desk::read(desk.ask(ApiCall::Bgp(BgpCall::Summary)).await?, "bgp summary")?,
        addresses: desk::read(desk.ask(ApiCall::Ipam(IpamCall::Pools)).await?, "the pools")?,
    };
    let kind = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    Ok((kind, metrics::metrics(&views)).into_response())
}

async fn no_such_path(request: Request) -> ApiError {
    let message = format!("no such path: {}", request.uri().path());
    ApiError::new(ErrorCode::UnknownPath, message)
}

async fn no_such_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(ErrorCode::UnknownPath, format!("{path} does not know {method}"))
}

type RawBody = Result<Bytes, BytesRejection>;

fn parse<T: DeserializeOwned>(body: RawBody) -> Result<T, ApiError> {
    let bytes = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let limit = MAX_BODY_BYTES / 1024 / 1024;
            let message = format!("the body is larger than {limit} MiB; send fewer resources at a time");
            ApiError::new(ErrorCode::TooLarge, message)
        }
        _ => ApiError::new(ErrorCode::BadBody, format!("the body could not be read: {rejection}")),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::new(ErrorCode::BadBody, format!("the body: {error}")))
}

fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(rejection) => Err(ApiError::new(ErrorCode::BadBody, rejection.body_text())),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self })).into_response()
    }
}
