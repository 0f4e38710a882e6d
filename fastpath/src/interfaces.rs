//! The queues that one worker owns, found by interface.

use crate::io::Queue;
use crate::io::umem::Umem;
use crate::stats::counters::MAX_INTERFACES;
use crate::table::InterfaceIndex;

const NO_QUEUE: u16 = u16::MAX;

/// A queue and the interface it belongs to.
pub struct Attached<Q> {
    pub interface: InterfaceIndex,
    pub queue: Q,
    /// Packets were queued since the last flush.
    pub is_dirty: bool,
}

/// All queues of a worker.
pub struct Interfaces<Q> {
    queues: Vec<Attached<Q>>,
    by_interface: Vec<u16>,
    /// Where gathering starts in the next breath, so that no interface is always first.
    next: usize,
}

impl<Q: Queue> Default for Interfaces<Q> {
    fn default() -> Self {
        Self { queues: Vec::with_capacity(64), by_interface: vec![NO_QUEUE; MAX_INTERFACES], next: 0 }
    }
}

impl<Q: Queue> Interfaces<Q> {
    /// Takes a queue in. A worker has one queue per interface: an earlier one is closed.
    pub fn attach(&mut self, interface: InterfaceIndex, queue: Q, umem: &mut Umem) {
        self.detach(interface, umem);
        let Some(position) = self.by_interface.get_mut(interface.index()) else {
            queue.close(umem);
            return;
        };
        *position = self.queues.len() as u16;
        self.queues.push(Attached { interface, queue, is_dirty: false });
    }

    /// Closes the queue of an interface, if there is one.
    pub fn detach(&mut self, interface: InterfaceIndex, umem: &mut Umem) {
        let Some(position) = self.position(interface) else { return };
        self.by_interface[interface.index()] = NO_QUEUE;
        self.queues.swap_remove(position).queue.close(umem);
        if let Some(moved) = self.queues.get(position) {
            self.by_interface[moved.interface.index()] = position as u16;
        }
    }

    pub fn detach_all(&mut self, umem: &mut Umem) {
        while let Some(interface) = self.queues.last().map(|attached| attached.interface) {
            self.detach(interface, umem);
        }
    }

    fn position(&self, interface: InterfaceIndex) -> Option<usize> {
        let position = *self.by_interface.get(interface.index())?;
        (position != NO_QUEUE).then_some(position.into())
    }

    pub fn get_mut(&mut self, interface: InterfaceIndex) -> Option<&mut Attached<Q>> {
        let position = self.position(interface)?;
        self.queues.get_mut(position)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Attached<Q>> {
        self.queues.iter_mut()
    }

    /// All queues once, beginning one further than the last time.
    pub fn rotate(&mut self) -> impl Iterator<Item = &mut Attached<Q>> {
        self.next = if self.next + 1 >= self.queues.len() { 0 } else { self.next + 1 };
        let (before, after) = self.queues.split_at_mut(self.next);
        after.iter_mut().chain(before)
    }
}
