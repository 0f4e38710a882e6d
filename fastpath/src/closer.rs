//! Queues are closed off the worker: the kernel takes 8 to 16 ms for a socket, and packets of other queues would wait.
//!
//! ```text
//!     control ──Detach──▶ worker ──what is left of the queue──▶ closer: closes the socket
//!                           ▲                                     │
//!                           └──────────── Recover ────────────────┘ the frames that it had
//! ```
//!
//! Until then the frames stay booked to the queue, and are nobody's to use. A worker that ends closes what no closer has taken
//! yet, and waits a while for what one has.
//!
//! Invariants: a queue is closed once, by one of both; at most [`WAITING`] wait, and one that finds no room is closed by
//! its worker at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, Sender};
use crossbeam::queue::ArrayQueue;

use crate::io::umem::Umem;
use crate::io::{Queue, Retired};
use crate::worker::{Command, Doorbell};

/// Queues that wait to be closed: a node's endpoints may all leave at once.
pub const WAITING: usize = 256;
/// How long frames of a closed queue may wait for room among a worker's commands.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a worker that ends waits for its frames: longer than a driver has to let them go.
const LAST_PATIENCE: Duration = Duration::from_secs(3);
const GLANCE: Duration = Duration::from_millis(1);

/// Closes queues that a worker has let go. To be run on a thread of its own.
pub struct Closer<Q: Queue> {
    retired: Receiver<Q::Retired>,
    commands: Arc<ArrayQueue<Command<Q>>>,
    doorbell: Doorbell,
}

impl<Q: Queue> Closer<Q> {
    /// Returns when the worker has ended.
    pub fn run(self) {
        while let Ok(queue) = self.retired.recv() {
            let mut command = Command::Recover(queue.close());
            let start = Instant::now();
            while let Err(back) = self.commands.push(command)
                && start.elapsed() < PATIENCE
            {
                command = back;
                std::thread::sleep(GLANCE);
            }
            self.doorbell.ring();
        }
    }
}

/// The worker's end.
pub(crate) struct Closing<Q: Queue> {
    to: Sender<Q::Retired>,
    /// For what nobody has taken when the worker ends.
    untaken: Receiver<Q::Retired>,
    /// Queues whose frames have not come back.
    outstanding: usize,
}

/// What makes closers, as many as there should be.
pub struct Closers<Q: Queue>(Receiver<Q::Retired>);

impl<Q: Queue> Closers<Q> {
    pub(crate) fn closer(&self, commands: &Arc<ArrayQueue<Command<Q>>>, doorbell: &Doorbell) -> Closer<Q> {
        Closer { retired: self.0.clone(), commands: commands.clone(), doorbell: doorbell.clone() }
    }
}

pub(crate) fn pair<Q: Queue>() -> (Closing<Q>, Closers<Q>) {
    let (to, from) = channel::bounded(WAITING);
    (Closing { to, untaken: from.clone(), outstanding: 0 }, Closers(from))
}

impl<Q: Queue> Closing<Q> {
    /// Lets a queue go. It may send what it still has first; that does not wait for anybody.
    pub(crate) fn close(&mut self, queue: Q, umem: &mut Umem) {
        match self.to.try_send(queue.retire(umem)) {
            Ok(()) => self.outstanding += 1,
            Err(refused) => {
                umem.recover(refused.into_inner().close());
            }
        }
    }

    /// To be called for every `Recover`.
    pub(crate) fn recovered(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// The worker ends: closes what waits, and takes back what closers have in hand.
    pub(crate) fn finish(&mut self, commands: &ArrayQueue<Command<Q>>, umem: &mut Umem) {
        while let Ok(queue) = self.untaken.try_recv() {
            umem.recover(queue.close());
            self.outstanding -= 1;
        }
        let start = Instant::now();
        while self.outstanding > 0 && start.elapsed() < LAST_PATIENCE {
            match commands.pop() {
                Some(Command::Recover(released)) => {
                    umem.recover(released);
                    self.outstanding -= 1;
                }
                // Nobody is there to obey any more.
                Some(_) => {}
                None => std::thread::sleep(GLANCE),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::os::fd::RawFd;
    use std::sync::Mutex;
    use std::thread::{self, ThreadId};

    use super::*;
    use crate::flow::{FlowTable, FlowWriter};
    use crate::io::QueueStatistics;
    use crate::io::memory::MemoryQueue;
    use crate::io::umem::Released;
    use crate::packet::Packet;
    use crate::rcu::Publisher;
    use crate::table::{InterfaceIndex, Tables};
    use crate::worker::{self, Clock, Parts, Poll, Remote, Worker};

    type ClosedBy = Arc<Mutex<Vec<ThreadId>>>;
    /// Queues take as long to be closed as somebody holds it.
    type Gate = Sender<()>;

    /// A queue that has frames, and is closed slowly, as sockets are. It tells who closed it.
    struct Slow {
        queue: MemoryQueue,
        rest: SlowRest,
    }

    struct SlowRest {
        frames: Released,
        gate: Receiver<()>,
        closed_by: ClosedBy,
    }

    impl Retired for SlowRest {
        fn close(self) -> Released {
            assert!(self.gate.recv().is_err(), "nothing passes, the gate is opened");
            self.closed_by.lock().unwrap().push(thread::current().id());
            self.frames
        }
    }

    impl Queue for Slow {
        type Retired = SlowRest;

        fn has_arrived(&mut self) -> bool {
            false
        }
        fn receive(&mut self, _umem: &mut Umem, _budget: usize, _out: &mut Vec<Packet>) {}
        fn send(&mut self, umem: &mut Umem, packet: Packet) -> Result<(), Packet> {
            self.queue.send(umem, packet)
        }
        fn flush(&mut self, _umem: &mut Umem) {}
        fn reclaim(&mut self, _umem: &mut Umem) {}
        fn is_settled(&self) -> bool {
            true
        }
        fn is_held_up(&self) -> bool {
            false
        }
        fn fd(&self) -> Option<RawFd> {
            None
        }
        fn statistics(&self) -> QueueStatistics {
            QueueStatistics::default()
        }
        fn retire(self, _umem: &mut Umem) -> SlowRest {
            self.rest
        }
    }

    const FRAMES: usize = 64;
    const LENT: usize = 7;

    /// A worker with so many slow queues, each of which has frames, who closed which, and what holds them up.
    fn worker_with(queues: u16) -> (Worker<Slow>, Remote<Slow>, ClosedBy, Gate, Publisher<Tables>) {
        let publisher = Publisher::new(Tables::default());
        let mut umem = Umem::heap(2048, FRAMES);
        let closed_by = Arc::new(Mutex::new(Vec::new()));
        let (held, gate) = channel::bounded(0);
        let slow: Vec<Slow> = (0..queues)
            .map(|_| {
                let frames = umem.lend_for_test(LENT);
                let rest = SlowRest { frames, gate: gate.clone(), closed_by: closed_by.clone() };
                Slow { queue: MemoryQueue::pair(4).0, rest }
            })
            .collect();
        let parts = Parts {
            umem,
            flows: FlowWriter::new(FlowTable::new(64), 0, 1, publisher.grace()),
            tables: publisher.reader(),
            poll: Poll::Sleep,
            clock: Clock::start(),
        };
        let (mut worker, remote) = worker::build::<Slow>(vec![parts]).unwrap().remove(0);
        for (index, queue) in (0..).zip(slow) {
            worker.attach(InterfaceIndex(index), queue);
        }
        (worker, remote, closed_by, held, publisher)
    }

    fn wait_until(what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}");
            thread::yield_now();
        }
    }

    fn give(remote: &Remote<Slow>, command: Command<Slow>) {
        assert!(remote.commands.push(command).is_ok());
        remote.doorbell.ring();
    }

    #[test]
    fn a_queue_is_closed_on_the_closers_thread_and_its_frames_come_home() {
        let (worker, remote, closed_by, gate, _publisher) = worker_with(4);
        let closer = remote.closer();
        let closer = thread::spawn(move || closer.run());
        let closers_thread = closer.thread().id();
        let worker = thread::spawn(move || worker.run());
        let free = || remote.counters.frames_free.get() as usize;
        wait_until("the worker to have begun", || free() == FRAMES - 4 * LENT);
        for interface in [2, 0] {
            give(&remote, Command::Detach(InterfaceIndex(interface)));
        }
        // A worker that closed them itself would stand before the gate.
        wait_until("both commands", || remote.counters.commands.get() == 2);
        assert_eq!(*closed_by.lock().unwrap(), []);
        drop(gate);
        wait_until("the frames of both", || free() == FRAMES - 2 * LENT);
        assert_eq!(*closed_by.lock().unwrap(), [closers_thread; 2]);
        assert_eq!(remote.counters.commands.get(), 2, "what the closer says is no command of control's");
        give(&remote, Command::Stop);
        // The worker asserts that no frame is lost when it ends.
        worker.join().unwrap();
        closer.join().unwrap();
        assert_eq!(closed_by.lock().unwrap().len(), 4);
    }

    #[test]
    fn a_worker_that_ends_closes_what_no_closer_has_taken() {
        let (worker, remote, closed_by, gate, _publisher) = worker_with(3);
        drop(gate);
        give(&remote, Command::Detach(InterfaceIndex(1)));
        give(&remote, Command::Stop);
        let worker = thread::spawn(move || worker.run());
        let workers_thread = worker.thread().id();
        worker.join().unwrap();
        assert_eq!(*closed_by.lock().unwrap(), [workers_thread; 3]);
    }

    #[test]
    fn a_worker_that_ends_waits_for_frames_that_a_closer_has_in_hand() {
        let (worker, remote, closed_by, gate, _publisher) = worker_with(3);
        let closer = remote.closer();
        let closer = thread::spawn(move || closer.run());
        for interface in 0..3 {
            give(&remote, Command::Detach(InterfaceIndex(interface)));
        }
        give(&remote, Command::Stop);
        let worker = thread::spawn(move || worker.run());
        wait_until("the worker to know that it ends", || remote.commands.is_empty());
        drop(gate);
        worker.join().unwrap();
        closer.join().unwrap();
        assert_eq!(closed_by.lock().unwrap().len(), 3);
    }
}
