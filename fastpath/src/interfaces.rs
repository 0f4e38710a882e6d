//! The queues that one worker owns: found by interface to send by, and visited in turn to receive from.
//!
//! A worker may have hundreds of queues of which few have work. A queue is *hot* while it has: a breath receives from hot
//! queues, flushes them and takes frames back from them, and knows of no other. Anything that arrives or is sent makes a
//! queue hot; so many visits in a row without work make it cold again, later if frames are still on their way or missing.
//! What is cold in such a state is visited once in ten milliseconds.
//!
//! ```text
//!     all queues  [ a b c d e f g h … ]
//!     hot             b     e          every breath: receive, flush, reclaim
//!     cold          a   c d   f g h …  a look, which is a load or two and no syscall:
//!                                      a few of them every breath, and all of them every 20 µs and when idle
//! ```
//!
//! What a burst has room for is shared among hot queues, in packets: each is offered the same, and what some do not use
//! goes to those that have more. When there are more queues than places, the next breath begins where this one ended. So a
//! queue that has no more than its share waits for nobody, however much another one brings.
//!
//! Invariants: a position is in `hot` exactly when its queue says so; nothing here allocates after `attach`.
//! Left out: weights. All endpoints are the same to a worker.

use crate::io::Queue;
use crate::io::umem::Umem;
use crate::pipeline::Now;
use crate::stats::counters::MAX_INTERFACES;
use crate::table::InterfaceIndex;

const NO_QUEUE: u16 = u16::MAX;

/// Most packets from one queue in one breath.
pub const QUEUE_BUDGET: usize = 64;
/// Visits without work after which a queue is cold.
const COOL_AFTER: u16 = 64;
/// The same for one that is not settled: something is on its way out, or it has fewer frames than it should.
const GIVE_UP_AFTER: u16 = 1024;
/// A cold queue that is not settled is visited once in so many nanoseconds.
const TEND: u64 = 10_000_000;
/// Cold queues looked at in a breath that is not due to look at all.
const LOOKS: usize = 32;
/// All cold queues are looked at after so many nanoseconds at the latest.
const LOOK_AT_ALL: u64 = 20_000;

/// A queue and the interface it belongs to.
pub struct Attached<Q> {
    pub interface: InterfaceIndex,
    pub queue: Q,
}

/// What a queue has had to do. Apart from the queues, so that a look at many touches as few cache lines as may be.
#[derive(Clone, Copy)]
struct Activity {
    is_hot: bool,
    /// Of a cold queue: it was not settled when it was visited last.
    is_unsettled: bool,
    /// True when something was received or sent since the last `settle`.
    has_worked: bool,
    /// Visits in a row without work.
    idle: u16,
}

/// All queues of a worker.
pub struct Interfaces<Q> {
    queues: Vec<Attached<Q>>,
    /// By position, as the queues.
    activity: Vec<Activity>,
    by_interface: Vec<u16>,
    /// Positions of hot queues.
    hot: Vec<u16>,
    /// Where in `hot` receiving begins, so that no queue is always first.
    next_hot: usize,
    /// Where in `queues` looking goes on.
    next_cold: usize,
    /// When all were looked at.
    looked: u64,
    /// When those that are not settled were visited.
    tended: u64,
    /// Positions in `hot` that had more than they were offered; empty between calls.
    backlogged: Vec<u16>,
}

impl<Q: Queue> Default for Interfaces<Q> {
    fn default() -> Self {
        Self {
            queues: Vec::with_capacity(64),
            activity: Vec::with_capacity(64),
            by_interface: vec![NO_QUEUE; MAX_INTERFACES],
            hot: Vec::with_capacity(64),
            next_hot: 0,
            next_cold: 0,
            looked: 0,
            tended: 0,
            backlogged: Vec::with_capacity(64),
        }
    }
}

impl<Q: Queue> Interfaces<Q> {
    /// Takes a queue in. A worker may have several queues of one interface; it receives from all and sends by the first.
    pub fn attach(&mut self, interface: InterfaceIndex, queue: Q, umem: &mut Umem) {
        if interface.index() >= self.by_interface.len() || self.queues.len() >= usize::from(NO_QUEUE) {
            queue.close(umem);
            return;
        }
        // Hot: it has to be given frames first of all.
        self.queues.push(Attached { interface, queue });
        self.activity.push(Activity { is_hot: true, is_unsettled: false, has_worked: true, idle: 0 });
        self.index();
    }

    /// Gives the queues of an interface to `close`, if there are any.
    pub fn detach(&mut self, interface: InterfaceIndex, mut close: impl FnMut(Q)) {
        while let Some(position) = self.queues.iter().position(|attached| attached.interface == interface) {
            self.activity.swap_remove(position);
            close(self.queues.swap_remove(position).queue);
        }
        self.index();
    }

    /// Which queue an interface sends by, and which are hot. Done anew at each change: changes are rare, look-ups are not.
    fn index(&mut self) {
        self.by_interface.fill(NO_QUEUE);
        self.hot.clear();
        for (position, attached) in self.queues.iter().enumerate().rev() {
            self.by_interface[attached.interface.index()] = position as u16;
            if self.activity[position].is_hot {
                self.hot.push(position as u16);
            }
        }
        self.hot.reserve(self.queues.len() - self.hot.len());
        self.backlogged.reserve(self.queues.len());
        self.next_hot = 0;
        self.next_cold = 0;
    }

    pub fn detach_all(&mut self, umem: &mut Umem) {
        while let Some(interface) = self.queues.last().map(|attached| attached.interface) {
            self.detach(interface, |queue| queue.close(umem));
        }
    }

    fn position(&self, interface: InterfaceIndex) -> Option<usize> {
        let position = *self.by_interface.get(interface.index())?;
        (position != NO_QUEUE).then_some(position.into())
    }

    /// The queue to send by. It is hot from now on: what it sends has to be flushed, and is often answered.
    pub fn to_send(&mut self, interface: InterfaceIndex) -> Option<&mut Attached<Q>> {
        let position = self.position(interface)?;
        let attached = self.queues.get_mut(position)?;
        let activity = &mut self.activity[position];
        activity.has_worked = true;
        if !activity.is_hot {
            activity.is_hot = true;
            self.hot.push(position as u16);
        }
        Some(attached)
    }

    pub fn len(&self) -> usize {
        self.queues.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Queues that the next breath receives from.
    pub fn hot(&self) -> usize {
        self.hot.len()
    }

    /// Looks for packets on cold queues: on a few of them, or on all when that was long ago.
    pub fn look(&mut self, now: Now) {
        let count = self.queues.len();
        if self.hot.len() == count {
            return;
        }
        if now.0.saturating_sub(self.tended) >= TEND {
            self.tended = now.0;
            self.tend();
        }
        let is_due = now.0.saturating_sub(self.looked) >= LOOK_AT_ALL || self.looked == 0;
        let (from, looks) = if is_due {
            self.looked = now.0.max(1);
            (0, count)
        } else {
            (self.next_cold, LOOKS.min(count))
        };
        let to_end = looks.min(count - from);
        for range in [from..from + to_end, 0..looks - to_end] {
            let start = range.start;
            let both = self.activity[range.clone()].iter_mut().zip(&mut self.queues[range]);
            for (offset, (activity, attached)) in both.enumerate() {
                if !activity.is_hot && attached.queue.has_arrived() {
                    *activity = Activity { is_hot: true, is_unsettled: false, has_worked: true, idle: 0 };
                    self.hot.push((start + offset) as u16);
                }
            }
        }
        self.next_cold = if from + looks >= count { from + looks - count } else { from + looks };
    }

    /// Makes cold queues that are not settled hot, for one visit.
    fn tend(&mut self) {
        for (position, activity) in self.activity.iter_mut().enumerate() {
            if !activity.is_hot && activity.is_unsettled {
                *activity = Activity { is_hot: true, is_unsettled: false, has_worked: false, idle: GIVE_UP_AFTER };
                self.hot.push(position as u16);
            }
        }
    }

    /// The next `look` is at all cold queues. To be called when there is nothing else to do.
    pub fn look_at_all(&mut self) {
        self.looked = 0;
    }

    /// Shares `room` among hot queues. `take` receives at most so many packets from a queue and says how many it got.
    pub fn share(&mut self, mut room: usize, mut take: impl FnMut(&mut Attached<Q>, usize) -> usize) {
        let count = self.hot.len();
        if count == 0 {
            return;
        }
        if self.next_hot >= count {
            self.next_hot = 0;
        }
        let share = (room / count).clamp(1, QUEUE_BUDGET);
        let first = self.next_hot;
        self.next_hot = if first + 1 == count { 0 } else { first + 1 };
        for turn in 0..count {
            let place = if first + turn >= count { first + turn - count } else { first + turn };
            if room == 0 {
                self.next_hot = place;
                break;
            }
            let position = self.hot[place];
            let offered = share.min(room);
            let taken = take(&mut self.queues[usize::from(position)], offered);
            self.activity[usize::from(position)].has_worked |= taken > 0;
            room -= taken.min(room);
            if taken >= offered {
                self.backlogged.push(position);
            }
        }
        // What is left over, among those that took all they were offered: to nobody more than the budget, so at most as
        // many rounds.
        let mut given = share;
        while room > 0 && given < QUEUE_BUDGET && !self.backlogged.is_empty() {
            let more = room.div_ceil(self.backlogged.len()).min(QUEUE_BUDGET - given);
            given += more;
            let queues = &mut self.queues;
            self.backlogged.retain(|position| {
                let offered = more.min(room);
                let taken = if offered == 0 { 0 } else { take(&mut queues[usize::from(*position)], offered) };
                room -= taken.min(room);
                taken >= offered
            });
        }
        self.backlogged.clear();
    }

    /// Makes everything queued go, gets frames back, and lets queues cool down that have had nothing to do for a while. True
    /// when packets wait in a queue for the other side to take earlier ones.
    pub fn settle(&mut self, umem: &mut Umem) -> bool {
        let (mut place, mut is_held_up) = (0, false);
        while let Some(position) = self.hot.get(place) {
            let attached = &mut self.queues[usize::from(*position)];
            let activity = &mut self.activity[usize::from(*position)];
            // Also where nothing was sent: what the kernel refused in an earlier breath is offered again.
            attached.queue.flush(umem);
            attached.queue.reclaim(umem);
            is_held_up |= attached.queue.is_held_up();
            if std::mem::take(&mut activity.has_worked) {
                activity.idle = 0;
            } else {
                activity.idle = activity.idle.saturating_add(1);
                let is_settled = activity.idle <= COOL_AFTER || attached.queue.is_settled();
                if activity.idle > if is_settled { COOL_AFTER } else { GIVE_UP_AFTER } {
                    activity.is_hot = false;
                    activity.is_unsettled = !is_settled;
                    self.hot.swap_remove(place);
                    continue;
                }
            }
            place += 1;
        }
        is_held_up
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::io::memory::{FarEnd, MemoryQueue};
    use crate::packet::Packet;

    struct Bench {
        umem: Umem,
        interfaces: Interfaces<MemoryQueue>,
        far_ends: Vec<FarEnd>,
    }

    impl Bench {
        fn new(count: usize) -> Bench {
            let mut bench = Bench { umem: Umem::heap(2048, 1024), interfaces: Interfaces::default(), far_ends: vec![] };
            for index in 0..count {
                let (queue, far_end) = MemoryQueue::pair(4096);
                bench.interfaces.attach(InterfaceIndex(index as u16), queue, &mut bench.umem);
                bench.far_ends.push(far_end);
            }
            bench
        }

        fn cooled(count: usize) -> Bench {
            let mut bench = Bench::new(count);
            for _ in 0..=COOL_AFTER + 1 {
                bench.interfaces.settle(&mut bench.umem);
            }
            assert_eq!(bench.interfaces.hot(), 0);
            bench
        }

        fn push(&self, index: usize, packets: usize) {
            for _ in 0..packets {
                assert!(self.far_ends[index].push(&[0; 60]));
            }
        }

        /// Packets of each interface in a burst of `room`.
        fn gather(&mut self, room: usize) -> Vec<usize> {
            let mut taken = vec![0; self.far_ends.len()];
            let (umem, mut received) = (&mut self.umem, Vec::<Packet>::new());
            self.interfaces.share(room, |attached, budget| {
                attached.queue.receive(umem, budget, &mut received);
                let count = received.len();
                taken[attached.interface.index()] += count;
                received.drain(..).for_each(|packet| umem.free(packet));
                count
            });
            assert!(taken.iter().sum::<usize>() <= room);
            taken
        }
    }

    #[test]
    fn a_queue_is_hot_while_it_has_work_and_cools_down() {
        let mut bench = Bench::cooled(3);
        bench.push(1, 1);
        bench.interfaces.look(Now(1));
        assert_eq!(bench.interfaces.hot(), 1);
        assert_eq!(bench.gather(256), [0, 1, 0]);
        for _ in 0..=COOL_AFTER {
            bench.interfaces.settle(&mut bench.umem);
            assert_eq!(bench.interfaces.hot(), 1);
        }
        bench.interfaces.settle(&mut bench.umem);
        assert_eq!(bench.interfaces.hot(), 0);
        assert!(bench.interfaces.to_send(InterfaceIndex(2)).is_some());
        assert_eq!(bench.interfaces.hot(), 1);
        assert!(bench.interfaces.to_send(InterfaceIndex(3)).is_none());
    }

    #[test]
    fn a_cold_queue_is_found_after_twenty_microseconds_and_after_so_many_breaths() {
        let mut bench = Bench::cooled(300);
        bench.interfaces.look(Now(1));
        bench.push(299, 1);
        bench.interfaces.look(Now(LOOK_AT_ALL));
        assert_eq!(bench.interfaces.hot(), 0, "it was not its turn");
        bench.interfaces.look(Now(1 + LOOK_AT_ALL));
        assert_eq!(bench.interfaces.hot(), 1);

        let mut bench = Bench::cooled(300);
        bench.interfaces.look(Now(1));
        for index in 0..300 {
            bench.push(index, 1);
        }
        for breath in 1..=300usize.div_ceil(LOOKS) {
            bench.interfaces.look(Now(2));
            assert_eq!(bench.interfaces.hot(), (breath * LOOKS).min(300));
        }
        let mut bench = Bench::cooled(300);
        bench.interfaces.look(Now(1));
        bench.push(299, 1);
        bench.interfaces.look_at_all();
        bench.interfaces.look(Now(2));
        assert_eq!(bench.interfaces.hot(), 1, "an idle worker looks at all");
    }

    /// A queue that never has the frames it should have, and counts its visits.
    struct Hungry(MemoryQueue, std::rc::Rc<std::cell::Cell<usize>>);

    impl Queue for Hungry {
        type Retired = ();

        fn has_arrived(&mut self) -> bool {
            self.0.has_arrived()
        }
        fn receive(&mut self, umem: &mut Umem, budget: usize, out: &mut Vec<Packet>) {
            self.0.receive(umem, budget, out);
        }
        fn send(&mut self, umem: &mut Umem, packet: Packet) -> Result<(), Packet> {
            self.0.send(umem, packet)
        }
        fn flush(&mut self, umem: &mut Umem) {
            self.0.flush(umem);
        }
        fn reclaim(&mut self, _umem: &mut Umem) {
            self.1.set(self.1.get() + 1);
        }
        fn is_settled(&self) -> bool {
            false
        }
        fn is_held_up(&self) -> bool {
            false
        }
        fn fd(&self) -> Option<std::os::fd::RawFd> {
            None
        }
        fn statistics(&self) -> crate::io::QueueStatistics {
            self.0.statistics()
        }
        fn retire(self, umem: &mut Umem) {
            self.0.retire(umem);
        }
    }

    #[test]
    fn a_queue_that_is_never_settled_is_visited_now_and_then() {
        let mut umem = Umem::heap(2048, 16);
        let visits = std::rc::Rc::new(std::cell::Cell::new(0));
        let mut interfaces = Interfaces::default();
        interfaces.attach(InterfaceIndex(1), Hungry(MemoryQueue::pair(4).0, visits.clone()), &mut umem);
        let mut breathe = |now: u64| {
            interfaces.look(Now(now));
            interfaces.settle(&mut umem);
            interfaces.hot()
        };
        for _ in 0..usize::from(GIVE_UP_AFTER) + 2 {
            breathe(1);
        }
        assert_eq!(breathe(2), 0, "given up");
        let before = visits.get();
        for breath in 1..=1000u64 {
            breathe(TEND + breath * TEND / 100);
        }
        assert!((10..=11).contains(&(visits.get() - before)), "once in ten milliseconds: {}", visits.get() - before);
    }

    #[test]
    fn detaching_keeps_the_others_as_hot_as_they_were() {
        let mut bench = Bench::cooled(4);
        bench.push(3, 2);
        bench.interfaces.look(Now(1));
        bench.interfaces.detach(InterfaceIndex(1), |queue| queue.close(&mut bench.umem));
        assert_eq!((bench.interfaces.len(), bench.interfaces.hot()), (3, 1));
        assert_eq!(bench.gather(256), [0, 0, 0, 2]);
        bench.interfaces.detach_all(&mut bench.umem);
        assert!(bench.interfaces.is_empty());
        assert_eq!(bench.gather(256), [0; 4]);
    }

    #[test]
    fn a_flood_takes_only_what_quiet_queues_leave() {
        let mut bench = Bench::new(101);
        bench.push(0, 1000);
        (1..=100).for_each(|index| bench.push(index, 2));
        let taken = bench.gather(256);
        assert_eq!(taken[1..], [2; 100], "all of every quiet queue");
        assert_eq!(taken[0], 2 + 54, "and the flood has the rest");
        let mut alone = Bench::new(101);
        alone.push(0, 1000);
        assert_eq!(alone.gather(256)[0], QUEUE_BUDGET);
    }

    #[test]
    fn queues_that_all_have_too_much_get_the_same() {
        for (count, room, rounds) in [(2, 256, 10), (5, 256, 30), (100, 256, 100), (300, 256, 75), (7, 10, 70)] {
            let mut bench = Bench::new(count);
            let mut sums = vec![0; count];
            for _ in 0..rounds {
                for index in 0..count {
                    bench.push(index, QUEUE_BUDGET.saturating_sub(bench.far_ends[index].waiting()));
                }
                for (sum, taken) in sums.iter_mut().zip(bench.gather(room)) {
                    *sum += taken;
                }
            }
            let (least, most) = (sums.iter().min().unwrap(), sums.iter().max().unwrap());
            assert!(most - least <= QUEUE_BUDGET, "{count} queues, room for {room}: {sums:?}");
            assert_eq!(sums.iter().sum::<usize>(), rounds * room.min(count * QUEUE_BUDGET), "nothing left unused");
        }
    }
}
