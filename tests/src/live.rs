//! Workers on threads of their own, as in the daemon: their own clock, their own loop, asleep when there is nothing.
//!
//! The far ends of the queues, the commands and the publisher stay with the test. Nothing here is exact about time, so a
//! test waits for what it expects. When a `Live` is dropped its workers are told to stop; each counts its frames, and a
//! frame that is missing is a panic that the drop passes on.

use std::thread::JoinHandle;
use std::time::Duration;

use fastpath::io::memory::MemoryQueue;
use fastpath::table::InterfaceIndex;
use fastpath::worker::{Command, Poll, Remote};

use crate::packet::Packet;
use crate::plan::Plan;
use crate::router::{Options, Router};
use crate::wait;

/// Ample for two threads on a busy machine.
const SOON: Duration = Duration::from_secs(20);

pub struct Live {
    /// The plan, the far ends and the publisher; its workers have gone to the threads.
    router: Router,
    remotes: Vec<Remote<MemoryQueue>>,
    threads: Vec<JoinHandle<()>>,
}

impl Live {
    pub fn start(plan: Plan, workers: usize) -> Live {
        let mut router = Router::with(plan, Options { workers, poll: Poll::Sleep, ..Options::default() });
        let (workers, remotes): (Vec<_>, Vec<_>) = std::mem::take(&mut router.workers).into_iter().unzip();
        let threads = workers.into_iter().map(|worker| std::thread::spawn(move || worker.run())).collect();
        Live { router, remotes, threads }
    }

    pub fn plan(&self) -> &Plan {
        &self.router.plan
    }

    pub fn router(&self) -> &Router {
        &self.router
    }

    pub fn update(&mut self, change: impl FnOnce(&mut Plan)) {
        self.router.update(change);
    }

    /// Lets a packet arrive; waits when the ring is full. A queue in memory wakes nobody, so this rings.
    pub fn send(&self, from: &str, packet: &Packet) {
        let frame = self.router.frame(from, packet);
        let index = self.router.plan.index(from).index();
        let owner = usize::from(self.router.plan.at(from).owner);
        wait::until_true("room in the ring", SOON, || {
            let is_taken = self.router.far_ends[index].push(&frame);
            self.remotes[owner].doorbell.ring();
            is_taken
        });
    }

    /// Takes out what has left so far.
    pub fn received(&self, on: &str) -> Vec<Vec<u8>> {
        self.router.far_ends[self.router.plan.index(on).index()].pop_all()
    }

    /// Gives a command to every worker and waits until all have carried it out.
    pub fn command(&self, command: impl Fn() -> Command<MemoryQueue>) {
        for remote in &self.remotes {
            let before = remote.counters.commands.get();
            assert!(remote.commands.push(command()).is_ok(), "the ring of commands is full");
            remote.doorbell.ring();
            wait::until_true("a command to be carried out", SOON, || remote.counters.commands.get() > before);
        }
    }

    /// Attaches a new queue in place of the old one, whose far end is forgotten.
    pub fn reattach(&mut self, name: &str) {
        let (queue, far_end) = MemoryQueue::pair(Options::default().ring);
        let index: InterfaceIndex = self.router.plan.index(name);
        let remote = &self.remotes[usize::from(self.router.plan.at(name).owner)];
        let before = remote.counters.commands.get();
        assert!(remote.commands.push(Command::Attach(index, Box::new(queue))).is_ok(), "the ring of commands is full");
        remote.doorbell.ring();
        wait::until_true("a queue to be attached", SOON, || remote.counters.commands.get() > before);
        self.router.far_ends[index.index()] = far_end;
    }

    pub fn remote(&self, worker: usize) -> &Remote<MemoryQueue> {
        &self.remotes[worker]
    }

    pub fn dropped(&self, reason: fastpath::burst::DropReason) -> u64 {
        self.remotes.iter().map(|remote| remote.counters.dropped[reason as usize].get()).sum()
    }

    /// True once nothing is kept for a worker that still reads an older snapshot.
    pub fn is_settled(&mut self) -> bool {
        self.router.publisher.is_settled()
    }

    #[track_caller]
    pub fn wait(&self, what: &str, look: impl FnMut() -> bool) {
        wait::until_true(what, SOON, look);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for remote in &self.remotes {
            let _ = remote.commands.push(Command::Stop);
            remote.doorbell.ring();
        }
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        if !std::thread::panicking() {
            assert!(ended.iter().all(Result::is_ok), "a worker panicked");
        }
    }
}
