//! The thread `bfd`: waits, receives, lets time pass, sends; and the handle by which control talks to it.
//!
//! ```text
//!   wait for: a deadline ∨ a packet ∨ a bell ──▶ wishes ─▶ packets that came ─▶ deadlines that passed ─▶ wait …
//! ```
//!
//! Packets come before deadlines, always: when this thread was kept from running, what the neighbour sent meanwhile lies in
//! the sockets, and silence is judged only after it was read.
//!
//! The thread asks for real-time priority, so that workers which spin on every core cannot make a neighbour wait. It gives up
//! the core in every turn: a turn reads a bounded number of packets, and one that read as many as it may is followed by a rest.
//!
//! Control and this thread share a slot of wishes behind a mutex that this thread only ever tries, and a bounded channel of
//! changes. What does not fit into the channel waits here; of one session only the newest is kept then.
//!
//! Nothing is logged while all is well: who writes a log may be made to wait. Control logs the changes it is told.
//!
//! Invariant: a handle that is dropped has told every neighbour, waits for that no longer than `LEAVING_MAX` and a bit, and
//! leaves no thread behind.
//! Sources: RFC 5880 §6.8; sched(7).

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, TryLockError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use tokio::sync::mpsc::error::TrySendError;

use super::packet::Packet;
use super::sessions::{BfdKey, Change, Output, SessionStatus, Sessions};
use super::socket::{Receiver, Sender, SourcePorts};
use crate::bgp::speaker_state::BfdState;

/// Changes that control has not taken yet.
const CHANGES_MAX: usize = 1024;
/// Packets read from one socket in a turn.
const BATCH: usize = 256;
/// After a turn that read a whole batch: others may run, the kernel has the rest.
const REST: Duration = Duration::from_millis(1);
/// What failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// A change that found the channel full.
const RETRY_CHANGES: Duration = Duration::from_millis(10);
/// Source ports tried when those of others are in the way.
const PORTS_TRIED: usize = 64;
/// Control waits no longer for an answer of the thread.
const ANSWER: Duration = Duration::from_secs(1);
/// Above everything that is not real-time, below the kernel's own interrupt threads.
const PRIORITY: u8 = 10;

#[derive(Debug, thiserror::Error)]
#[error("{action}")]
pub struct BfdError {
    action: &'static str,
    #[source]
    source: io::Error,
}

impl BfdError {
    fn to(action: &'static str) -> impl FnOnce(io::Error) -> BfdError {
        move |source| BfdError { action, source }
    }
}

/// The handle. Dropped, all sessions are shut as by an administrator and the thread ends.
pub struct Bfd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    wishes: Mutex<Wishes>,
    bell: EventFd,
}

#[derive(Default)]
struct Wishes {
    wanted: Option<BTreeMap<BfdKey, BfdState>>,
    /// Who waits for an answer: at most one per thread of control.
    asked: Vec<mpsc::SyncSender<Report>>,
    is_over: bool,
}

/// What there is to show.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub sessions: Vec<SessionStatus>,
    /// Packets that were dropped, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// The thread has real-time priority.
    pub is_realtime: bool,
}

impl Bfd {
    /// Starts the thread, in the network namespace of the caller, without a session and without a socket; those of sessions
    /// come and go with them, and what fails there is the `problem` of a session's status. Without the right to real-time
    /// priority everything works, late when the machine is busy. The channel ends when the thread does.
    ///
    /// Fails when the system gives no thread or no descriptor.
    pub fn start() -> Result<(Bfd, tokio::sync::mpsc::Receiver<Change>), BfdError> {
        Bfd::start_with(true)
    }

    /// As `start`; `realtime` false leaves the thread's priority as it is.
    pub fn start_with(realtime: bool) -> Result<(Bfd, tokio::sync::mpsc::Receiver<Change>), BfdError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = EventFd::from_value_and_flags(0, flags)
            .map_err(|error| BfdError::to("make the bell of the thread bfd")(error.into()))?;
        let shared = Arc::new(Shared { wishes: Mutex::default(), bell });
        let (changes, receiver) = tokio::sync::mpsc::channel(CHANGES_MAX);
        let ours = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("bfd".to_string())
            .spawn(move || Turns::new(ours, changes, realtime).run())
            .map_err(BfdError::to("start the thread bfd"))?;
        Ok((Bfd { shared, thread: Some(thread) }, receiver))
    }

    /// From now on these are the sessions. Those that are as before are not disturbed; other intervals are agreed on with the
    /// neighbour while the session stays up.
    pub fn want(&self, sessions: BTreeMap<BfdKey, BfdState>) {
        self.wish(|wishes| wishes.wanted = Some(sessions));
    }

    /// The wanted sessions as they are, in the order of their keys. Waits for the thread, which answers within its next turn.
    pub fn status(&self) -> Vec<SessionStatus> {
        self.report().sessions
    }

    /// All there is to show. Empty when the thread does not answer.
    pub fn report(&self) -> Report {
        let (answer, answered) = mpsc::sync_channel(1);
        self.wish(|wishes| wishes.asked.push(answer));
        answered.recv_timeout(ANSWER).unwrap_or_default()
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.shared.wishes.lock().unwrap_or_else(PoisonError::into_inner));
        // After the mutex is free: the thread tries it when it hears the bell. A counter that is full rings already.
        let _ = self.shared.bell.write(1);
    }
}

impl Drop for Bfd {
    fn drop(&mut self) {
        self.wish(|wishes| wishes.is_over = true);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Turns {
    shared: Arc<Shared>,
    changes: tokio::sync::mpsc::Sender<Change>,
    /// In order; at most two of a session.
    untold: VecDeque<Change>,
    sessions: Sessions,
    /// By family (IPv6) and port (multihop).
    receivers: BTreeMap<(bool, bool), Receiver>,
    senders: BTreeMap<u32, Outlet>,
    ports: SourcePorts,
    /// Sockets that could not be opened, by family and port, and why.
    deaf: BTreeMap<(bool, bool), String>,
    /// The sockets may not be those that the sessions need.
    is_stale: bool,
    retry_at: Option<Instant>,
    is_realtime: bool,
    is_over: bool,
}

/// How a session sends.
#[derive(Default)]
struct Outlet {
    port: Option<u16>,
    /// None: not opened yet, or to be opened anew.
    sender: Option<Sender>,
}

impl Turns {
    fn new(shared: Arc<Shared>, changes: tokio::sync::mpsc::Sender<Change>, realtime: bool) -> Turns {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        Turns {
            shared,
            changes,
            untold: VecDeque::new(),
            sessions: Sessions::default(),
            receivers: BTreeMap::new(),
            senders: BTreeMap::new(),
            ports: SourcePorts::starting_at(seed),
            deaf: BTreeMap::new(),
            is_stale: false,
            retry_at: None,
            is_realtime: realtime && ask_for_priority(),
            is_over: false,
        }
    }

    fn run(mut self) {
        let mut out = Vec::new();
        let mut is_tired = false;
        while !(self.is_over && self.sessions.is_empty()) {
            let now = Instant::now();
            let rings = match self.wait(now, is_tired) {
                Ok(rings) => rings,
                Err(error) => {
                    tracing::error!(%error, "wait for packets; bidirectional forwarding detection has ended");
                    return;
                }
            };
            if rings {
                self.take_wishes(&mut out);
            }
            is_tired = self.receive(&mut out);
            self.sessions.expire(Instant::now(), &mut out);
            self.carry_out(&mut out);
            self.open_receivers();
            self.tell_changes();
        }
    }

    /// Until a deadline, a packet or the bell. True: the bell.
    fn wait(&self, now: Instant, is_tired: bool) -> io::Result<bool> {
        let changes_at = (!self.untold.is_empty()).then(|| now + RETRY_CHANGES);
        let rest = is_tired.then(|| now + REST);
        let until = [self.sessions.deadline(), self.retry_at, changes_at, rest].into_iter().flatten().min();
        let timeout = until.map(|until| TimeSpec::from_duration(until.saturating_duration_since(now)));
        let mut waited: Vec<PollFd> = vec![PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN)];
        if !is_tired {
            waited.extend(self.receivers.values().map(|receiver| PollFd::new(receiver.as_fd(), PollFlags::POLLIN)));
        }
        match ppoll(&mut waited, timeout, None) {
            Ok(_) => Ok(waited.first().and_then(PollFd::any).unwrap_or(false)),
            Err(nix::Error::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn take_wishes(&mut self, out: &mut Vec<Output>) {
        let _ = self.shared.bell.read();
        let wishes = match self.shared.wishes.try_lock() {
            Ok(mut wishes) => std::mem::take(&mut *wishes),
            Err(TryLockError::Poisoned(poisoned)) => std::mem::take(&mut *poisoned.into_inner()),
            // Who has it rings when it is done.
            Err(TryLockError::WouldBlock) => return,
        };
        let now = Instant::now();
        self.is_over |= wishes.is_over;
        if self.is_over {
            self.sessions.want(&BTreeMap::new(), now, out);
        } else if let Some(wanted) = wishes.wanted {
            self.sessions.want(&wanted, now, out);
        }
        // Before anything is sent, so that nobody who answers finds the port shut.
        self.is_stale = true;
        self.open_receivers();
        self.carry_out(out);
        if !wishes.asked.is_empty() {
            let refused = self.sessions.refused().iter().map(|(reason, count)| (reason.name(), *count)).collect();
            let report = Report { sessions: self.sessions.status(now), refused, is_realtime: self.is_realtime };
            for asked in wishes.asked {
                // Nobody waits any more: then nobody wants to know.
                let _ = asked.try_send(report.clone());
            }
        }
    }

    /// True: there may be more than was read.
    fn receive(&mut self, out: &mut Vec<Output>) -> bool {
        let mut is_more = false;
        let mut receivers = std::mem::take(&mut self.receivers);
        for receiver in receivers.values_mut() {
            let mut read = 0;
            while read < BATCH {
                read += 1;
                match receiver.receive() {
                    Ok(Some(arrival)) => self.sessions.receive(&arrival, Instant::now(), out),
                    Ok(None) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // About an earlier packet, or this one alone.
                    Err(error) => tracing::debug!(%error, "receive a bfd packet"),
                }
                self.carry_out(out);
            }
            is_more |= read == BATCH;
        }
        self.receivers = receivers;
        is_more
    }

    fn carry_out(&mut self, out: &mut Vec<Output>) {
        for output in out.drain(..) {
            match output {
                Output::Send { discriminator, packet } => self.send(discriminator, &packet),
                Output::Change(change) => self.tell(change),
                Output::Gone { discriminator } => {
                    let outlet = self.senders.remove(&discriminator);
                    outlet.and_then(|outlet| outlet.port).iter().for_each(|port| self.ports.give_back(*port));
                    self.is_stale = true;
                }
            }
        }
    }

    fn send(&mut self, discriminator: u32, packet: &Packet) {
        // Who cannot listen says nothing: the port may be that of another daemon here, whose session with this neighbour would
        // go down by it.
        let Some((key, wanted)) = self.sessions.key(discriminator) else { return };
        if let Some(problem) = self.deaf.get(&(key.peer.is_ipv6(), wanted.multihop)) {
            return self.sessions.not_sent(discriminator, problem.clone());
        }
        let outlet = self.senders.entry(discriminator).or_default();
        let was_open = outlet.sender.is_some();
        let sent = (|| {
            if outlet.sender.is_none() {
                open(outlet, &mut self.ports, key, wanted.multihop)?;
            }
            outlet.sender.as_ref().ok_or(ErrorKind::NotFound)?.send(&packet.encode())
        })();
        match sent {
            Ok(()) => {
                if !was_open {
                    let interface = outlet.sender.as_ref().and_then(Sender::interface);
                    self.sessions.interface_is(discriminator, interface);
                }
                self.sessions.sent(discriminator);
            }
            // The queue is full; the next packet is due soon.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                self.sessions.not_sent(discriminator, error.to_string());
            }
            // The interface or the address may have gone and come back as another: the socket is made anew for the next packet.
            Err(error) => {
                outlet.sender = None;
                self.sessions.interface_is(discriminator, None);
                self.sessions.not_sent(discriminator, error.to_string());
            }
        }
    }

    /// Sockets for the sessions there are.
    fn open_receivers(&mut self) {
        let now = Instant::now();
        let is_due = self.retry_at.is_some_and(|at| at <= now);
        if !self.is_stale && !is_due {
            return;
        }
        let wanted = self.sessions.listens();
        self.receivers.retain(|which, _| wanted.contains(which));
        self.deaf.retain(|which, _| wanted.contains(which));
        for (is_ipv6, multihop) in wanted {
            if self.receivers.contains_key(&(is_ipv6, multihop)) {
                continue;
            }
            match Receiver::open(is_ipv6, multihop) {
                Ok(receiver) => {
                    self.receivers.insert((is_ipv6, multihop), receiver);
                    self.deaf.remove(&(is_ipv6, multihop));
                }
                Err(error) => {
                    let problem = format!("listen for bfd packets: {error}");
                    if self.deaf.insert((is_ipv6, multihop), problem).is_none() {
                        tracing::warn!(%error, is_ipv6, multihop, "listen for bfd packets");
                    }
                }
            }
        }
        self.is_stale = false;
        self.retry_at = (!self.deaf.is_empty()).then(|| now + RETRY);
    }

    fn tell(&mut self, change: Change) {
        // Of a session that changes to and fro while nobody listens, the last change says it all.
        if self.untold.iter().filter(|untold| untold.key == change.key).count() >= 2 {
            self.untold.retain(|untold| untold.key != change.key);
        }
        self.untold.push_back(change);
        self.tell_changes();
    }

    fn tell_changes(&mut self) {
        while let Some(change) = self.untold.front() {
            match self.changes.try_send(change.clone()) {
                Ok(()) => drop(self.untold.pop_front()),
                Err(TrySendError::Full(_)) => return,
                // Nobody wants to know any more.
                Err(TrySendError::Closed(_)) => self.untold.clear(),
            }
        }
    }
}

/// Opens the socket of a session, with the port it had.
fn open(outlet: &mut Outlet, ports: &mut SourcePorts, key: &BfdKey, multihop: bool) -> io::Result<()> {
    for _ in 0..PORTS_TRIED {
        let Some(port) = outlet.port.or_else(|| ports.take()) else { break };
        match Sender::open(key, multihop, port) {
            Ok(sender) => {
                *outlet = Outlet { port: Some(port), sender: Some(sender) };
                return Ok(());
            }
            // Somebody else's; the next one is tried.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                outlet.port = None;
                ports.give_back(port);
            }
            Err(error) => {
                outlet.port = Some(port);
                return Err(error);
            }
        }
    }
    Err(io::Error::new(ErrorKind::AddrInUse, "no source port is free"))
}

fn ask_for_priority() -> bool {
    use thread_priority::{
        RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };
    let priority = ThreadPriorityValue::try_from(PRIORITY).map(ThreadPriority::Crossplatform);
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    let asked = priority.map_err(|error| error.to_string()).and_then(|priority| {
        set_thread_priority_and_policy(thread_native_id(), priority, policy).map_err(|error| error.to_string())
    });
    match asked {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(error, "no real-time priority for the thread bfd; it may be late while every core is busy");
            false
        }
    }
}
