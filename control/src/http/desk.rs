//! Where questions are put to control: by handlers of the API, and by what else runs beside it.
//!
//! The queue to control is bounded. A handler is refused when it is full; who has begun something waits for a place.

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::api::{ApiCall, ApiError, ApiRequest, ErrorCode};
use crate::datastore::Author;

#[derive(Debug, Clone)]
pub struct Desk {
    control: mpsc::Sender<ApiRequest>,
}

impl Desk {
    pub fn new(control: mpsc::Sender<ApiRequest>) -> Desk {
        Desk { control }
    }

    /// A question whose asker does not matter.
    pub async fn ask(&self, call: ApiCall) -> Result<Value, ApiError> {
        self.ask_as(Author::default(), call).await
    }

    pub async fn ask_as(&self, caller: Author, call: ApiCall) -> Result<Value, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.control.try_send(ApiRequest { call, caller, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => busy(),
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// As `ask`, but waits for a place, and reads the answer as its view.
    pub async fn ask_patiently<T: DeserializeOwned>(&self, call: ApiCall, what: &str) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let request = ApiRequest { call, caller: Author::default(), reply };
        self.control.send(request).await.map_err(|_| stopping())?;
        read(answer.await.unwrap_or_else(|_| Err(stopping()))?, what)
    }
}

pub fn read<T: DeserializeOwned>(view: Value, what: &str) -> Result<T, ApiError> {
    serde_json::from_value(view).map_err(|error| {
        let message = format!("the answer to {what} is not its view: {error}");
        ApiError::new(ErrorCode::Internal, message)
    })
}

pub fn busy() -> ApiError {
    let message = "the daemon is busy with other requests; try again";
    ApiError::new(ErrorCode::Busy, message)
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::Stopping, "the daemon is stopping")
}
