//! Where packets end at B: in the kernel, or in an AF_XDP socket that a thread of the tester's reads.
//!
//! ```text
//!     near-b ══ end0: gauge                                 counts in the kernel, and drops
//!     near-b ══ end0: sink program ──▶ socket ──▶ collector  every packet is read, checked, and booked by its flow
//! ```
//!
//! The collector shares the tester's core and goes before the tester: it comes every `PAUSE`, empties the ring, and sleeps. The time
//! of arrival is the kernel's, in front of the packet. What the program has counted and the collector has not read was lost by
//! the socket: it is told apart, and is no loss of the forwarder's.
//!
//! Bounds: `FRAMES` frames, 16 MiB, which last for 4 ms of a million packets a second; the ledger's flows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastpath::io::Queue;
use fastpath::io::gauge::{Depth, Gauge, Totals};
use fastpath::io::sink::{SinkProgram, arrival};
use fastpath::io::xsk::{QueueOptions, XskMemory, XskOptions};

use crate::cpu::Task;
use crate::lab::{Lab, LabError, Place, enter, index, system};
use crate::ledger::{FlowLoss, Ledger, Read};

const FRAMES: u32 = 8192;
const RING: u32 = 4096;
/// Between two visits of the collector.
const PAUSE: Duration = Duration::from_micros(200);
/// Packets read at once.
const BURST: usize = 256;
/// Until the ring has been empty once after the last packet.
const SETTLE_LIMIT: Duration = Duration::from_millis(200);

/// What has arrived since the tester was made, but for `flows`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Packets of this tester that arrived, each once.
    pub packets: u64,
    pub foreign: u64,
    pub twice: u64,
    pub reordered: u64,
    pub marked: u64,
    /// Packets with a wrong length or checksum, or of another flow than they say; only known to a sink that reads them.
    pub damaged: u64,
    /// Among `packets`: those that the sink's socket lost.
    pub unread: u64,
}

impl From<Totals> for Seen {
    fn from(totals: Totals) -> Seen {
        let Totals { packets, foreign, twice, reordered, marked, bytes: _ } = totals;
        Seen { packets, foreign, twice, reordered, marked, ..Seen::default() }
    }
}

/// The far end of a tester.
pub enum FarEnd {
    Gauge(Gauge, Depth),
    Socket(Collector),
}

impl FarEnd {
    pub fn gauge(lab: &Lab, depth: Depth) -> Result<FarEnd, LabError> {
        let gauge = Gauge::load(depth)?;
        lab.within(Place::B, || Ok::<_, LabError>(gauge.attach(index("end0")?)?))??;
        Ok(FarEnd::Gauge(gauge, depth))
    }

    pub fn socket(lab: &Lab, flows: u32) -> Result<FarEnd, LabError> {
        Ok(FarEnd::Socket(Collector::start(lab, flows)?))
    }

    pub fn detach(&self, lab: &Lab) {
        // The namespace goes soon after, and what is there with it.
        let _ = match self {
            FarEnd::Gauge(..) => lab.within(Place::B, || index("end0").map(Gauge::detach).is_ok()),
            FarEnd::Socket(_) => lab.within(Place::B, || index("end0").map(SinkProgram::detach).is_ok()),
        };
    }

    /// A trial begins with this sequence number.
    pub fn begin(&self, sequence: u64) {
        if let FarEnd::Socket(collector) = self {
            collector.begin(sequence);
        }
    }

    pub fn seen(&self) -> Result<Seen, LabError> {
        match self {
            FarEnd::Gauge(gauge, _) => Ok(gauge.totals()?.into()),
            FarEnd::Socket(collector) => collector.seen(),
        }
    }

    /// Waits until what has arrived is read.
    pub fn settle(&self) {
        if let FarEnd::Socket(collector) = self {
            collector.settle();
        }
    }

    /// Nanoseconds and how many packets took them: of all trials for a gauge, of this one for a socket.
    pub fn latencies(&self) -> Result<Vec<(u64, u64)>, LabError> {
        match self {
            FarEnd::Gauge(gauge, Depth::Whole) => Ok(gauge.latencies()?),
            FarEnd::Gauge(_, Depth::Count) => Ok(Vec::new()),
            FarEnd::Socket(collector) => Ok(collector.ledger().ledger.latencies()),
        }
    }

    /// What the trial's flows have lost of so many packets.
    pub fn flow_loss(&self, sent: u64) -> Option<FlowLoss> {
        match self {
            FarEnd::Gauge(..) => None,
            FarEnd::Socket(collector) => Some(collector.ledger().ledger.flow_loss(sent)),
        }
    }

    /// Who reads, where somebody does.
    pub fn task(&self) -> Option<Task> {
        match self {
            FarEnd::Gauge(..) => None,
            FarEnd::Socket(collector) => Some(collector.task),
        }
    }
}

/// The ledger of the trial, and what those before it came to.
struct Books {
    ledger: Ledger,
    earlier: Read,
}

impl Books {
    fn read(&self) -> Read {
        let (now, before) = (self.ledger.read(), self.earlier);
        Read {
            first: now.first + before.first,
            reordered: now.reordered + before.reordered,
            twice: now.twice + before.twice,
            late: now.late + before.late,
            damaged: now.damaged + before.damaged,
            marked: now.marked + before.marked,
        }
    }
}

/// The thread that reads the socket.
pub struct Collector {
    program: SinkProgram,
    books: Arc<Mutex<Books>>,
    task: Task,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl Collector {
    fn start(lab: &Lab, flows: u32) -> Result<Collector, LabError> {
        let books = Arc::new(Mutex::new(Books { ledger: Ledger::new(flows), earlier: Read::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (send, receive) = mpsc::channel();
        let (name, shared, is_stopped) = (lab.name(Place::B), books.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || {
                enter(&name)?;
                let options = XskOptions { frame_count: FRAMES, ring_size: RING, ..XskOptions::new("end0", 0) };
                let (mut umem, memory) = XskMemory::new(options)?;
                let queue_options = QueueOptions { fill_limit: RING as usize, ..QueueOptions::default() };
                let mut queue = memory.open("end0", 0, queue_options)?;
                let mut program = SinkProgram::load()?;
                program.register(0, queue.map_fd())?;
                queue.reclaim(&mut umem);
                program.attach(index("end0")?)?;
                // Nobody waits for the answer only if the tester has been given up.
                let _ = send.send((program, Task::current()));
                let mut packets = Vec::with_capacity(BURST);
                while !is_stopped.load(Ordering::Relaxed) {
                    let mut books = lock(&shared);
                    loop {
                        queue.receive(&mut umem, BURST, &mut packets);
                        if packets.is_empty() {
                            break;
                        }
                        for packet in packets.drain(..) {
                            if let Some((arrived, frame)) = arrival(umem.data(&packet)) {
                                books.ledger.accept(arrived, frame);
                            }
                            umem.free(packet);
                        }
                        queue.reclaim(&mut umem);
                    }
                    drop(books);
                    thread::sleep(PAUSE);
                }
                queue.close(&mut umem);
                Ok(())
            })
            .map_err(system("start the sink's thread"))?;
        match receive.recv() {
            Ok((program, task)) => Ok(Collector { program, books, task, stop, thread: Some(thread) }),
            Err(_) => Err(thread.join().map_err(|_| LabError::Panicked)?.err().unwrap_or(LabError::Panicked)),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    fn begin(&self, sequence: u64) {
        let mut books = self.ledger();
        books.earlier = books.read();
        books.ledger.begin(sequence);
    }

    fn seen(&self) -> Result<Seen, LabError> {
        // Read first and counted afterwards: a packet that arrives between the two was not read yet, and none is read that
        // was not counted.
        let read = self.ledger().read();
        let counted = self.program.totals()?;
        Ok(Seen {
            packets: counted.packets.saturating_sub(read.twice + read.late + read.damaged),
            foreign: counted.foreign,
            twice: read.twice,
            reordered: read.reordered,
            marked: read.marked,
            damaged: read.damaged,
            unread: counted.packets.saturating_sub(read.sum()),
        })
    }

    fn settle(&self) {
        let start = Instant::now();
        let mut before = u64::MAX;
        // Two visits that find nothing.
        loop {
            let now = self.ledger().read().sum();
            if now == before || start.elapsed() > SETTLE_LIMIT {
                return;
            }
            before = now;
            thread::sleep(PAUSE * 4);
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it failed with showed in what it did not read.
            let _ = thread.join();
        }
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}
