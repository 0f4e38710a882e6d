//! An endpoint's interface changes its worker while packets flow.
//!
//! ```text
//!     old worker   … receives │ flushes, closes          │
//!     kernel                  │ no socket: drop, counted │
//!     new worker              │            binds, fills  │ receives …
//!     tables                  │                          │ name the new owner: hand-offs follow
//! ```
//!
//! Frames belong to a worker's memory and the kernel lets one socket have a queue, so the old one has to be closed before the new
//! one is bound. The interface keeps its index, its program and its flows, whoever made them: nothing is decided anew.
//!
//! Invariant: an interface is served by one worker or by none; by none it drops.

use std::time::{Duration, Instant};

use fastpath::table::interface::InterfaceKind;
use fastpath::table::{InterfaceIndex, WorkerIndex};
use fastpath::worker::Command;

use super::{AttachError, Attachments};
use crate::compile::Attachment;
use crate::placement::{Advice, Candidate, Placement};

/// How long a worker may take to let a queue go, and how often it is looked.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
const GLANCE: Duration = Duration::from_micros(200);

/// An endpoint's interface that changed its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub from: WorkerIndex,
    pub to: WorkerIndex,
    /// How long nobody received from it.
    pub gap: Duration,
}

impl Attachments {
    /// Gives an endpoint's interface to another worker while packets flow. Its index, program and flows stay. What arrives
    /// while no socket is there the program drops and counts; what others send to it is dropped as `interface_down`.
    ///
    /// The tables name the owner: they have to be published next. After an error that is not a refusal the interface is
    /// detached, and is attached anew with the next `sync`.
    pub fn rehome(&mut self, name: &str, to: usize) -> Result<Moved, AttachError> {
        let owned = || name.to_owned();
        let workers = self.peers.len();
        let attached = self.by_name.get_mut(name).ok_or_else(|| AttachError::Unknown { name: owned() })?;
        let (index, from) = (attached.attachment.index, attached.attachment.owner);
        if attached.attachment.kind != InterfaceKind::Workload {
            return Err(AttachError::Shared { name: owned() });
        }
        if to >= workers {
            return Err(AttachError::NoSuchWorker { name: owned(), worker: to, workers });
        }
        let to_worker = WorkerIndex(to as u16);
        if from == to_worker {
            return Ok(Moved { from, to: from, gap: Duration::ZERO });
        }
        attached.earlier_sockets = attached.at_sockets();
        // A socket is closed when the last hold on it is gone. What arrives until then the program drops and counts.
        attached.watches.clear();
        attached.unregister(name);
        let start = Instant::now();
        self.command(from.index(), Command::Detach(index));
        let result = self.await_obedience(name, from.index()).and_then(|()| self.open_at(name, index, to));
        let gap = start.elapsed();
        if let Err(error) = result {
            self.detach(name, &std::collections::BTreeMap::new(), &mut Vec::new());
            return Err(error);
        }
        if let Some(attachment) = self.view.get_mut(name) {
            attachment.owner = to_worker;
        }
        self.placement.moved(name, Instant::now());
        tracing::info!(
            interface = name,
            from = from.0,
            to,
            gap_ms = gap.as_secs_f64() * 1e3,
            "moved to another worker"
        );
        Ok(Moved { from, to: to_worker, gap })
    }

    /// Waits until a worker has done what it was told.
    fn await_obedience(&self, name: &str, worker: usize) -> Result<(), AttachError> {
        let Some(peer) = self.peers.get(worker) else { return Ok(()) };
        let start = Instant::now();
        while peer.remote.counters.commands.get() < peer.given {
            if start.elapsed() > PATIENCE {
                return Err(AttachError::Held { name: name.to_owned(), worker });
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Binds the queues of an attached interface anew, at a worker.
    fn open_at(&mut self, name: &str, index: InterfaceIndex, worker: usize) -> Result<(), AttachError> {
        let (Some(attached), Some(peer)) = (self.by_name.get_mut(name), self.peers.get(worker)) else { return Ok(()) };
        let mut opened = Vec::new();
        for queue in &attached.queues {
            let (socket, watch) =
                super::open(&peer.memory, &mut attached.program, name, queue.queue, attached.options)?;
            attached.watches.push(watch);
            opened.push(socket);
        }
        for queue in &mut attached.queues {
            if let Some(peer) = self.peers.get_mut(queue.worker.index()) {
                peer.queues -= 1;
            }
            queue.worker = WorkerIndex(worker as u16);
        }
        attached.attachment.owner = WorkerIndex(worker as u16);
        self.peers[worker].queues += opened.len();
        for socket in opened {
            self.command(worker, Command::Attach(index, Box::new(socket)));
        }
        Ok(())
    }

    /// Samples the loads of workers once a second. With `--rebalance auto`, says what should be moved.
    pub fn weigh(&mut self, now: Instant) -> Option<Advice> {
        if self.peers.len() < 2 || !self.placement.is_due(now) {
            return None;
        }
        let candidates = self.candidates();
        self.placement.sample(&candidates, now);
        self.placement.advise(self.peers.len(), &candidates, now)
    }

    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let packets = |index| {
            let of_each = self.peers.iter().map(|peer| peer.remote.counters.interface(index));
            of_each.map(|counters| counters.received_packets.get() + counters.sent_packets.get()).sum()
        };
        let candidate = |(name, attachment): (&String, &Attachment)| Candidate {
            name: name.clone(),
            worker: attachment.owner.index(),
            is_movable: attachment.kind == InterfaceKind::Workload,
            packets: packets(attachment.index),
        };
        self.view.iter().map(candidate).collect()
    }

    /// What was measured and moved.
    pub fn loads(&self) -> &Placement {
        &self.placement
    }
}
