//! Endpoints change workers: because somebody asked, or because loads have been uneven for a while.

use std::time::Instant;

use config::settings::Rebalance;

use super::Control;
use crate::attach::AttachError;
use crate::http::api::{ApiError, ErrorCode, MoveCall};
use crate::http::views::MovedView;
use crate::tell::chain;

impl<D> Control<D> {
    /// Gives an interface to another worker. The tables that say so are published when this event is settled.
    pub(super) fn move_interface(&mut self, call: &MoveCall) -> Result<MovedView, ApiError> {
        let moved = self.attachments.rehome(&call.interface, call.worker.into());
        self.dirty.tables = true;
        moved.map(|moved| MovedView::new(&call.interface, moved)).map_err(|error| {
            let code = match error {
                AttachError::Unknown { .. } => ErrorCode::NotFound,
                AttachError::Shared { .. } | AttachError::NoSuchWorker { .. } => ErrorCode::Usage,
                _ => ErrorCode::Internal,
            };
            ApiError::new(code, chain(&error))
        })
    }

    /// Samples the workers' loads, and moves an endpoint where that is wanted and worth it.
    pub(super) fn rebalance(&mut self) {
        let advice = self.attachments.weigh(Instant::now());
        let Some(advice) = advice.filter(|_| self.settings.rebalance == Rebalance::Auto) else { return };
        self.dirty.tables = true;
        if let Err(error) = self.attachments.rehome(&advice.name, advice.to) {
            tracing::warn!(interface = advice.name, worker = advice.to, "not moved: {}", chain(&error));
        }
    }
}
