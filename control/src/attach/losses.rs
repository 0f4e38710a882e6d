//! What was lost at an attached interface before a worker had it: what our programs and the kernel's sockets counted there.
//!
//! Invariant: counts only grow while an interface is attached, whichever program and sockets it has meanwhile.

use fastpath::io::program::ProgramCounters;
use fastpath::io::xsk::QueueWatch;

use super::Attached;

/// Packets that were ours and that no worker ever had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelDrops {
    /// The program found no socket for the packet's queue.
    pub no_socket: u64,
    /// The program, on an uplink, found no whole header.
    pub malformed: u64,
    /// No frame was waiting, or the packet did not fit one.
    pub no_frame: u64,
    /// The receive ring was full: the worker did not keep up.
    pub ring_full: u64,
}

impl Attached {
    /// Lets the program drop and count what arrives, before the sockets go: what would come to them nobody would read.
    pub(super) fn unregister(&mut self, name: &str) {
        for queue in &self.queues {
            // The socket's end takes it out of the map as well; until then some packets are lost uncounted.
            if let Err(error) = self.program.unregister(queue.queue) {
                tracing::debug!(interface = name, %error, "socket stays registered until it is closed");
            }
        }
    }

    /// By all programs since it was attached. Maps of a program that is loaded can be read; if one could not, there would
    /// be nothing to tell.
    pub(super) fn counted(&self) -> ProgramCounters {
        let (now, earlier) = (self.program.counters().unwrap_or_default(), self.earlier);
        ProgramCounters {
            redirected: now.redirected + earlier.redirected,
            passed: now.passed + earlier.passed,
            dropped_no_socket: now.dropped_no_socket + earlier.dropped_no_socket,
            dropped_malformed: now.dropped_malformed + earlier.dropped_malformed,
        }
    }

    pub(super) fn kernel_drops(&self) -> KernelDrops {
        let program = self.counted();
        KernelDrops { no_socket: program.dropped_no_socket, malformed: program.dropped_malformed, ..self.at_sockets() }
    }

    /// What the kernel counted at its sockets, those closed since included.
    pub(super) fn at_sockets(&self) -> KernelDrops {
        let sockets = self.watches.iter().map(QueueWatch::statistics);
        sockets.fold(self.earlier_sockets, |sum, socket| KernelDrops {
            no_frame: sum.no_frame + socket.receive_dropped,
            ring_full: sum.ring_full + socket.receive_ring_full,
            ..sum
        })
    }
}
