//! Flows that outlive the process.
//!
//! ```text
//! flow table ─save─▶ file ═ restart ═▶ load ─▶ workers, before they are given tables
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | when: at the first publication, now and then, at the stop |
//! | `format.rs` | the file's bytes |
//! | `save.rs` | flow table to file |
//! | `load.rs` | which flows of a file may come back |
//!
//! Nothing here can stop the router from starting: whatever is wrong with the file, it starts without.

pub mod format;
pub mod load;
pub mod save;
#[cfg(test)]
mod tests;

use std::fs;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::control::Control;
use crate::datastore::Datastore;
use load::{Ground, Refusal, Tally};
use save::Source;

/// How long the workers may take to enter what was saved. Then the tables are published all the same.
const PATIENCE: Duration = Duration::from_secs(5);

/// What two processes of one boot agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    pub id: String,
    /// Seconds since it, those in which the machine slept included.
    pub now: u64,
}

impl Boot {
    pub fn read() -> Option<Boot> {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
        Some(Boot { id, now: u64::try_from(now.tv_sec()).ok()? })
    }
}

impl<D: Datastore> Control<D> {
    /// Gives the workers the flows of the process before this one. To be done when the node's state is known and interfaces
    /// are attached, and before the first tables: no packet has been judged yet.
    pub(crate) async fn restore_flows(&mut self) {
        let path = self.saver.path().to_owned();
        match load::take(&path).map(|bytes| bytes.and_then(|bytes| self.admissible(&bytes))) {
            None => {}
            Some(Err(error)) => {
                let error = crate::tell::chain(&error);
                tracing::warn!(file = %path.display(), "open flows begin anew, because their file is refused: {error}");
            }
            Some(Ok((flows, tally))) => {
                let Tally { restored, expired, gone, without_room } = tally;
                self.attachments.restore(flows);
                let start = Instant::now();
                while !self.attachments.is_obeyed() && start.elapsed() < PATIENCE {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    self.attachments.tick();
                }
                let milliseconds = start.elapsed().as_millis();
                tracing::info!(restored, expired, gone, without_room, milliseconds, "flows restored");
            }
        }
    }

    fn admissible(&mut self, bytes: &[u8]) -> Result<(Vec<fastpath::flow::FlowView>, Tally), Refusal> {
        let boot = Boot::read().ok_or(Refusal::NoBoot)?;
        let workers = self.attachments.workers().max(1);
        let ground = Ground {
            node: &self.settings.node_name,
            boot: &boot,
            now: self.clock.now().seconds(),
            // An equal share for each worker.
            room: self.flows.capacity() / workers * workers,
            attached: self.attachments.view(),
            sources: self.flows.sources(),
            endpoints: &self.calculation.state().endpoints,
        };
        load::admissible(bytes, &ground, &mut self.names)
    }

    /// To be called in every tick.
    pub(crate) fn save_some_flows(&mut self) {
        // Before the first tables there is nothing to save, and perhaps a file that has not been read.
        if !self.is_ready() {
            return;
        }
        let (saver, source) = self.saver_and_source();
        match saver.tick(&source, Instant::now()) {
            Ok(false) => {}
            Ok(true) => self.note("flows", Vec::new()),
            Err(error) => self.note("flows", vec![crate::tell::chain(&error)]),
        }
    }

    /// To be called when the workers have ended.
    pub(crate) fn save_all_flows(&mut self) {
        if !self.is_ready() {
            return;
        }
        let start = Instant::now();
        let (saver, source) = self.saver_and_source();
        match saver.finish(&source) {
            Ok(saved) => tracing::info!(saved, milliseconds = start.elapsed().as_millis(), "flows saved"),
            Err(error) => tracing::error!("{}", crate::tell::chain(&error)),
        }
    }

    fn saver_and_source(&mut self) -> (&mut save::Saver, Source<'_>) {
        let source = Source {
            node: &self.settings.node_name,
            flows: &self.flows,
            clock: self.clock,
            names: &self.names,
            attached: self.attachments.view(),
            endpoints: &self.calculation.state().endpoints,
        };
        (&mut self.saver, source)
    }
}
