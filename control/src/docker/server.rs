//! The socket that dockerd finds its drivers by, and how an answer or a refusal looks.
//!
//! dockerd takes a driver's name from the name of its socket; one socket with two names is two drivers. It sends an empty Host,
//! no type of content, and does not ask again after an answer, whatever the status.
//!
//! | answer | when |
//! |---|---|
//! | 200, an object | done |
//! | 200, `Err` and `Error` | refused: network drivers are read by the first, address drivers by the second |
//! | 404 | there is no such call: not all there are have to be |
//! | 413 | the body is too large |
//!
//! Invariants: calls in progress, bodies and the time of a call are bounded; who comes when all places are taken waits before
//! its body is read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::warn;

use super::driver::NetworkDriver;
use super::error::DockerError;
use super::ipam::AddressDriver;
use super::messages::Call;
use crate::http::desk::Desk;
use crate::http::{self, ServeError};
use crate::tell::chain;
use crate::workload::service::{PATIENCE, Workloads};

/// Largest body accepted.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

const PLACES: usize = 64;

/// For a place and an answer; longer than what is undone after its own time.
const CALL_TIMEOUT: Duration = PATIENCE.saturating_add(Duration::from_secs(30));

const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// A socket that is being served. Dropping it stops the service and removes both names.
pub struct Server {
    _socket: http::Server,
    second: PathBuf,
}

/// Serves Docker's drivers at `path`, on the current runtime.
pub fn serve(path: &Path, desk: Desk, workloads: Workloads) -> Result<Server, ServeError> {
    let addresses = AddressDriver::new(desk.clone(), workloads.clone());
    let networks = NetworkDriver::new(desk, workloads.clone(), addresses.clone());
    let office = Office { networks, addresses, workloads, places: Arc::new(Semaphore::new(PLACES)) };
    let router = Router::new()
        .fallback(answer)
        .layer(middleware::from_fn_with_state(office.clone(), bounded))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(office);
    let second = second_name(path);
    let _socket = http::serve_router(path, router)?;
    link(path, &second)?;
    Ok(Server { _socket, second })
}

/// `vrouter.sock` is also `vrouter-ipam.sock`.
fn second_name(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-ipam.sock"))
}

/// Replaces a link that is there, and nothing else.
fn link(path: &Path, second: &Path) -> Result<(), ServeError> {
    let failed = |source| ServeError::Io { action: "link", path: second.to_path_buf(), source };
    match fs::symlink_metadata(second) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if found.file_type().is_symlink() => fs::remove_file(second).map_err(failed)?,
        Ok(_) => return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "it is there, and no link"))),
    }
    let target = path.file_name().map(Path::new).unwrap_or(path);
    std::os::unix::fs::symlink(target, second).map_err(failed)
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.second) {
            warn!(%error, path = %self.second.display(), "link not removed");
        }
    }
}

#[derive(Clone)]
struct Office {
    networks: NetworkDriver,
    addresses: AddressDriver,
    workloads: Workloads,
    places: Arc<Semaphore>,
}

impl Office {
    async fn carry_out(&self, call: Call) -> Result<Value, DockerError> {
        let (networks, addresses) = (&self.networks, &self.addresses);
        // Containers may be started when the router is: they wait for it.
        if call.is_about_the_node() {
            self.workloads.tidy().await?;
        }
        match call {
            Call::Activate => Ok(json!({ "Implements": ["NetworkDriver", "IpamDriver"] })),
            Call::NetworkCapabilities => Ok(NetworkDriver::capabilities()),
            Call::GatewayCheck => Ok(NetworkDriver::gateway_check()),
            Call::CreateNetwork(request) => networks.create_network(&request).await,
            Call::DeleteNetwork(request) => networks.delete_network(&request).await,
            Call::CreateEndpoint(request) => networks.create_endpoint(&request).await,
            Call::DeleteEndpoint(request) => networks.delete_endpoint(&request).await,
            Call::EndpointInfo(request) => networks.endpoint_info(&request).await,
            Call::Join(request) => networks.join(&request).await,
            Call::Leave(request) => NetworkDriver::leave(&request),
            Call::Discovered => Ok(json!({})),
            Call::AddressCapabilities => Ok(AddressDriver::capabilities()),
            Call::AddressSpaces => Ok(AddressDriver::spaces()),
            Call::RequestPool(request) => addresses.request_pool(&request).await,
            Call::ReleasePool(request) => AddressDriver::release_pool(&request),
            Call::RequestAddress(request) => addresses.request_address(&request).await,
            Call::ReleaseAddress(request) => addresses.release_address(&request).await,
        }
    }
}

/// A place and a limited time for every call.
async fn bounded(State(office): State<Office>, request: Request, next: Next) -> Response {
    let done = async {
        // Closed by nobody.
        let _place = office.places.acquire().await;
        next.run(request).await
    };
    let done = tokio::time::timeout(CALL_TIMEOUT, done).await;
    done.unwrap_or_else(|_| refusal(StatusCode::OK, &chain(&DockerError::Timeout { within: CALL_TIMEOUT })))
}

async fn answer(
    State(office): State<Office>,
    method: Method,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let path = uri.path();
    let body = match body {
        Ok(body) => body,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB");
        }
        Err(rejection) => return refusal(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    let call = match Call::read(path, &body).filter(|_| method == Method::POST) {
        None => return refusal(StatusCode::NOT_FOUND, "there is no such call"),
        Some(call) => call,
    };
    let done = match call {
        Ok(call) => office.carry_out(call).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(value) => told(StatusCode::OK, value),
        Err(error) => {
            let error = chain(&error);
            warn!(call = path, error, "docker was refused");
            refusal(StatusCode::OK, &error)
        }
    }
}

fn refusal(status: StatusCode, text: &str) -> Response {
    told(status, json!({ "Err": text, "Error": text }))
}

fn told(status: StatusCode, value: Value) -> Response {
    let kind = [(header::CONTENT_TYPE, CONTENT_TYPE)];
    (status, kind, Json(value)).into_response()
}
