//! The caller's side of the daemon's socket: one request, one answer, then the next.
//!
//! Blocking for whoever uses it; inside, a small runtime lives for one request. What comes back is
//! the view that was asked for or a `ClientError` that says whether the daemon was not there, refused
//! or did not make sense.
//!
//! Invariants: connecting, sending and receiving together take at most `TIMEOUT`, an answer has at
//! most `MAX_ANSWER_BYTES`.
//! Left out: keeping a connection open; a command line asks a handful of things.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::http::api::{ApiError, ErrorBody, ErrorCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

pub const DEFAULT_SOCKET: &str = "/run/vrouter/api.sock";

/// A little more than the daemon allows itself, so that its own word about it arrives.
const TIMEOUT: Duration = Duration::from_secs(35);

const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "cannot reach the vrouter daemon at {socket}: {source}; is it running? start it with `vrouter run`",
        socket = socket.display()
    )]
    Unreachable { socket: PathBuf, source: io::Error },

    #[error(
        "not allowed to open {socket}: {source}; use sudo, or join the group that owns the socket",
        socket = socket.display()
    )]
    Denied { socket: PathBuf, source: io::Error },

    #[error("{0}")]
    Refused(ApiError),

    #[error(
        "no answer from the vrouter daemon at {socket} within {} s",
        TIMEOUT.as_secs(),
        socket = socket.display()
    )]
    Timeout { socket: PathBuf },

    #[error(
        "the answer from {socket} is not understood: {reason}; is the daemon of the same version?",
        socket = socket.display()
    )]
    Garbled { socket: PathBuf, reason: String },
}

impl ClientError {
    pub fn code(&self) -> ErrorCode {
        match self {
            ClientError::Unreachable { .. } => ErrorCode::Unreachable,
            ClientError::Denied { .. } => ErrorCode::Denied,
            ClientError::Refused(refusal) => refusal.code,
            ClientError::Timeout { .. } => ErrorCode::Timeout,
            ClientError::Garbled { .. } => ErrorCode::NotUnderstood,
        }
    }
}

impl Client {
    pub fn new(socket: &Path) -> Client {
        Client { socket: socket.to_path_buf() }
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.exchange(Method::GET, path, Vec::new())?;
        self.read(&answer)
    }

    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.garbled(error))?;
        let answer = self.exchange(Method::POST, path, body)?;
        self.read(&answer)
    }

    fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(answer).map_err(|error| self.garbled(error))
    }

    fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "vrouter")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.garbled(error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| self.unreachable(source))?;
        let exchange = async { tokio::time::timeout(TIMEOUT, self.send(request)).await };
        match runtime.block_on(exchange) {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout { socket: self.socket.clone() }),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Bytes, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.unreachable(source))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        // The connection moves the bytes; it ends with the sender, and its errors reach us there.
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES);
        let body = body.collect().await.map_err(|error| self.garbled(error))?.to_bytes();
        connection.abort();
        match status {
            StatusCode::OK => Ok(body),
            _ => match serde_json::from_slice::<ErrorBody>(&body) {
                Ok(body) => Err(ClientError::Refused(body.error)),
                Err(_) => Err(self.garbled(format!("status {status}"))),
            },
        }
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket, source },
            _ => ClientError::Unreachable { socket, source },
        }
    }

    /// The connection broke: the daemon went away while it was asked.
    fn broken(&self, error: hyper::Error) -> ClientError {
        self.unreachable(io::Error::new(io::ErrorKind::ConnectionAborted, error))
    }

    fn garbled(&self, reason: impl ToString) -> ClientError {
        ClientError::Garbled { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

/// A word from the command line, made fit for a path segment or a query value.
pub fn encode(word: &str) -> String {
    word.bytes().fold(String::with_capacity(word.len()), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            // Writing to a String cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_encoded() {
        let check = |word: &str, expected: &str| assert_eq!(encode(word), expected);
        check("web-1.shop", "web-1.shop");
        check("a/b?c=d&e", "a%2Fb%3Fc%3Dd%26e");
        check("ä\n", "%C3%A4%0A");
        check("..", "..");
    }

    #[test]
    fn an_absent_daemon_is_told_with_what_to_do() {
        let client = Client::new(Path::new("/nonexistent/api.sock"));
        let Err(error) = client.get::<()>("/v1/version") else {
            panic!("nobody can answer there");
        };
        assert_eq!(error.code().exit_status(), 6);
        let text = error.to_string();
        assert!(text.starts_with("cannot reach the vrouter daemon at /nonexistent/api.sock: "), "{text}");
        assert!(text.ends_with("start it with `vrouter run`"), "{text}");
    }
}
