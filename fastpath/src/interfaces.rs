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
    /// Takes a queue in. A worker may have several queues of one interface; it receives from all and sends by the first.
    pub fn attach(&mut self, interface: InterfaceIndex, queue: Q, umem: &mut Umem) {
        if interface.index() >= self.by_interface.len() {
            queue.close(umem);
            return;
        }
        self.queues.push(Attached { interface, queue });
        self.index();
    }

    /// Closes the queues of an interface, if there are any.
    pub fn detach(&mut self, interface: InterfaceIndex, umem: &mut Umem) {
        while let Some(position) = self.queues.iter().position(|attached| attached.interface == interface) {
            self.queues.swap_remove(position).queue.close(umem);
        }
        self.index();
    }

    /// Which queue an interface sends by. Done anew at each change: changes are rare, look-ups are not.
    fn index(&mut self) {
        self.by_interface.fill(NO_QUEUE);
        for (position, attached) in self.queues.iter().enumerate().rev() {
            self.by_interface[attached.interface.index()] = position as u16;
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
