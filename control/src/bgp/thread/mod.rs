//! The thread `bgp`: sockets and timers turned into events of the speaker, and its actions carried out.
//!
//! ```text
//!   control ─Input─▶ ┌────────────────┐ ─Output (bounded)─▶ control: changes of forwarding, next hops to watch
//!                    │ one loop       │
//!   listeners ─────▶ │  Speaker       │ ─bytes─▶ writer of each connection
//!   readers ───────▶ └────────────────┘
//! ```
//!
//! A thread of its own, since control may be busy for hundreds of milliseconds while sessions have to be kept, and a table of a
//! million routes is taken in without anybody else waiting. One loop handles one event after the other; tasks of the same
//! thread only read, write, connect and accept.
//!
//! Bounds: `READ` octets in a read, `READS` reads that wait for the loop, `QUEUED` octets of updates that wait for one socket;
//! `OUTPUTS` batches that wait for control, and changes gather in the speaker while it takes none.
//!
//! | file | what it does |
//! |---|---|
//! | `connection.rs` | one connection: connect, read, write, close |
//! | `listener.rs` | who may connect |
//! | `station.rs` | the connection to a monitoring station |

mod connection;
mod listener;
mod station;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::bmp::station::Event as StationEvent;
use super::message::{CEASE, Notification, cease};
use super::session::{BfdFinding, ConnectionId, Event as SessionEvent};
use super::speaker::monitor::Monitor;
use super::speaker::{Action, Event, Note, Speaker};
use super::speaker_state::{PeerKey, SpeakerState};
use crate::rib::LearnedBatch;
use connection::{Connection, Io};
use listener::Listeners;
use station::{Link, StationIo};

/// Octets in a read.
const READ: usize = 256 << 10;
/// Reads, and other events of sockets, that wait for the loop.
const READS: usize = 64;
/// Octets of updates that wait for one socket.
const QUEUED: usize = 256 << 10;
/// Events that are handled before those follow who look at what changed.
const EVENTS: usize = 64;
/// What waits for the speaker, and for control.
const INPUTS: usize = 1024;
const OUTPUTS: usize = 4;
/// Octets of a piece for the monitoring station, one of which waits for its socket.
const PIECE: usize = 64 << 10;
/// How long what was to be sent may take when the thread ends.
const GOODBYE: Duration = Duration::from_millis(500);

/// What the thread is told.
pub enum Input {
    Desired(Arc<SpeakerState>),
    /// Where next hops are now; none: they cannot be reached.
    NextHops(BTreeMap<IpAddr, Option<u32>>),
    Bfd {
        address: IpAddr,
        finding: BfdFinding,
    },
    /// Something to be asked or done, in the thread.
    Call(Call),
    /// The end. Some: sessions are told so; none: they break, and peers that can keep our routes.
    Stop(Option<Notification>),
}

/// Runs with the speaker, and sends its answer itself.
pub type Call = Box<dyn FnOnce(&mut Speaker, Instant, &mut Vec<Action>) + Send>;

/// What the thread tells.
#[derive(Debug)]
pub enum Output {
    Forwarding(LearnedBatch),
    /// All next hops whose way has to be known.
    NextHops(BTreeSet<IpAddr>),
    /// What could not be done with sockets, or no longer: one sentence each.
    Problems(Vec<String>),
}

/// The thread.
pub struct Bgp {
    inputs: mpsc::Sender<Input>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Bgp {
    /// `node` makes timers differ from those of other nodes. `restarted`: packets went on while we were gone. `station`: who
    /// is told everything, by BMP.
    ///
    /// Errors: the thread or its runtime cannot be made.
    pub fn start(
        node: &str,
        restarted: bool,
        station: Option<SocketAddr>,
    ) -> io::Result<(Bgp, mpsc::Receiver<Output>)> {
        let (inputs, from_control) = mpsc::channel(INPUTS);
        let (to_control, outputs) = mpsc::channel(OUTPUTS);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut speaker = Speaker::new(u64::from(crc32fast::hash(node.as_bytes())), restarted);
        if let Some(address) = station {
            speaker.monitor_by(Monitor::new(address, node, Instant::now()));
        }
        let thread = std::thread::Builder::new().name("bgp".to_owned()).spawn(move || {
            runtime.block_on(Loop::run(speaker, to_control, from_control));
        })?;
        Ok((Bgp { inputs, thread: Some(thread) }, outputs))
    }

    /// Tells the thread; waits while too much waits there already.
    pub async fn tell(&self, input: Input) {
        // It has ended, in a panic that stops the process anyway.
        let _ = self.inputs.send(input).await;
    }

    /// Ends the thread.
    pub fn stop(mut self, notification: Option<Notification>) {
        let _ = self.inputs.try_send(Input::Stop(notification));
        drop(self.inputs);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the bgp thread ended in a panic");
        }
    }
}

struct Loop {
    speaker: Speaker,
    outputs: mpsc::Sender<Output>,
    events: mpsc::Sender<Io>,
    connections: HashMap<(PeerKey, ConnectionId), Connection>,
    listeners: Listeners,
    problems: Vec<String>,
    station: Option<Link>,
    station_events: mpsc::Sender<StationIo>,
    /// Links to the station so far.
    links: u64,
}

impl Loop {
    async fn run(speaker: Speaker, outputs: mpsc::Sender<Output>, mut inputs: mpsc::Receiver<Input>) {
        let (events, mut happened) = mpsc::channel(READS);
        let (station_events, mut of_station) = mpsc::channel(READS);
        let mut this = Loop {
            speaker,
            outputs,
            events,
            connections: HashMap::new(),
            listeners: Listeners::default(),
            problems: Vec::new(),
            station: None,
            station_events,
            links: 0,
        };
        this.turn(&mut inputs, &mut happened, &mut of_station).await;
        this.say_goodbye().await;
    }

    async fn turn(
        &mut self,
        inputs: &mut mpsc::Receiver<Input>,
        happened: &mut mpsc::Receiver<Io>,
        of_station: &mut mpsc::Receiver<StationIo>,
    ) {
        let mut actions = Vec::new();
        let outputs = self.outputs.clone();
        loop {
            let deadline = self.speaker.deadline();
            let wait = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            let is_waiting = !self.problems.is_empty() || self.speaker.has_news();
            tokio::select! {
                biased;
                input = inputs.recv() => match input {
                    None => break,
                    Some(Input::Stop(notification)) => {
                        self.speaker.shut_down(notification, Instant::now(), &mut actions);
                        self.carry_out(&mut actions);
                        break;
                    }
                    Some(input) => self.input(input, &mut actions),
                },
                Some(event) = happened.recv() => {
                    self.happened(event, &mut actions);
                    for _ in 1..EVENTS {
                        let Ok(event) = happened.try_recv() else { break };
                        self.happened(event, &mut actions);
                    }
                }
                permit = outputs.reserve(), if is_waiting => match permit {
                    Ok(permit) => {
                        if let Some(output) = news(&mut self.speaker, &mut self.problems) {
                            permit.send(output);
                        }
                    }
                    Err(_) => break,
                },
                Some(event) = of_station.recv() => self.happened_at_station(event, &mut actions),
                () = wait => self.speaker.handle(Event::Timer, Instant::now(), &mut actions),
            }
            self.carry_out(&mut actions);
            self.speaker.settle();
            self.feed();
            self.feed_station();
            for key in self.speaker.too_slow() {
                let reset = SessionEvent::ResetBy(Notification::new(CEASE, cease::OUT_OF_RESOURCES));
                self.speaker.handle(Event::Session(key, reset), Instant::now(), &mut actions);
                self.carry_out(&mut actions);
            }
        }
    }

    fn input(&mut self, input: Input, actions: &mut Vec<Action>) {
        let now = Instant::now();
        match input {
            Input::Desired(desired) => {
                self.problems = self.listeners.follow(&desired, &self.events);
                self.speaker.handle(Event::Desired(desired), now, actions);
            }
            Input::NextHops(metrics) => self.speaker.handle(Event::NextHops(&metrics), now, actions),
            Input::Bfd { address, finding } => self.speaker.handle(Event::Bfd { address, finding }, now, actions),
            Input::Call(call) => call(&mut self.speaker, now, actions),
            Input::Stop(_) => {}
        }
    }

    fn happened(&mut self, event: Io, actions: &mut Vec<Action>) {
        let now = Instant::now();
        match event {
            Io::Accepted { stream, local, remote } => {
                let Some((peer, connection)) = self.speaker.accept(local, remote, now, actions) else {
                    tracing::debug!(%remote, "a connection of nobody that is known");
                    return;
                };
                let wanted = self.speaker.transport(&peer).cloned();
                match wanted.map_or(Ok(()), |transport| connection::prepare_accepted(&stream, &transport)) {
                    Ok(()) => {
                        let new = Connection::start(peer, connection, stream, self.events.clone());
                        self.connections.insert((peer, connection), new);
                    }
                    Err(error) => {
                        let event = SessionEvent::Closed { connection, reason: error.to_string() };
                        self.speaker.handle(Event::Session(peer, event), now, actions);
                    }
                }
            }
            Io::Connected { peer, connection, stream, local, remote } => {
                // Closed meanwhile: nobody waits for it any more.
                if self.connections.get(&(peer, connection)).is_some_and(Connection::is_connecting) {
                    let new = Connection::start(peer, connection, stream, self.events.clone());
                    self.connections.insert((peer, connection), new);
                    let event = SessionEvent::Connected { connection, local, remote };
                    self.speaker.handle(Event::Session(peer, event), now, actions);
                }
            }
            Io::Failed { peer, connection, reason } => {
                if self.connections.remove(&(peer, connection)).is_some() {
                    let event = SessionEvent::ConnectFailed { connection, reason };
                    self.speaker.handle(Event::Session(peer, event), now, actions);
                }
            }
            Io::Read { peer, connection, bytes } => {
                if self.connections.contains_key(&(peer, connection)) {
                    let event = SessionEvent::Received { connection, bytes: &bytes };
                    self.speaker.handle(Event::Session(peer, event), now, actions);
                }
            }
            Io::Closed { peer, connection, reason } => {
                if self.connections.remove(&(peer, connection)).is_some() {
                    let event = SessionEvent::Closed { connection, reason };
                    self.speaker.handle(Event::Session(peer, event), now, actions);
                }
            }
            Io::Written { peer, connection } => {
                if let Some(written) = self.connections.get(&(peer, connection)) {
                    let is_empty = written.queued() == 0;
                    let event = SessionEvent::OutputProgress { connection };
                    self.speaker.handle(Event::Session(peer, event), now, actions);
                    if !is_empty {
                        let event = SessionEvent::OutputBlocked { connection };
                        self.speaker.handle(Event::Session(peer, event), now, actions);
                    }
                }
            }
        }
    }

    fn carry_out(&mut self, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            match action {
                Action::Connect { peer, connection, transport } => {
                    let new = Connection::connect(peer, connection, &transport, self.events.clone());
                    self.connections.insert((peer, connection), new);
                }
                Action::Close { peer, connection } => {
                    if let Some(closed) = self.connections.remove(&(peer, connection)) {
                        closed.close();
                    }
                }
                Action::Send { peer, connection, bytes } => {
                    if let Some(connection) = self.connections.get(&(peer, connection)) {
                        connection.send(bytes);
                    }
                }
                Action::ConnectStation(address) => {
                    self.links += 1;
                    self.station = Some(Link::connect(self.links, address, self.station_events.clone()));
                }
                Action::CloseStation => self.station.take().map(Link::abort).unwrap_or_default(),
                Action::Note(note) => tell(&note),
            }
        }
    }

    /// Gives every socket that takes some the next updates for its peer.
    fn feed(&mut self) {
        let now = Instant::now();
        for key in self.speaker.with_output() {
            let Some(id) = self.speaker.connection(&key) else { continue };
            let Some(connection) = self.connections.get(&(key, id)) else { continue };
            let room = QUEUED.saturating_sub(connection.queued());
            if room == 0 {
                continue;
            }
            let mut bytes = Vec::with_capacity(room.min(QUEUED) + (64 << 10));
            self.speaker.pull(&key, room, now, &mut bytes);
            if !bytes.is_empty() {
                bytes.shrink_to_fit();
                connection.send(bytes);
                let event = SessionEvent::OutputBlocked { connection: id };
                self.speaker.handle(Event::Session(key, event), now, &mut Vec::new());
            }
        }
    }

    fn happened_at_station(&mut self, io: StationIo, actions: &mut Vec<Action>) {
        if self.station.as_ref().is_none_or(|link| link.number() != io.link) {
            return;
        }
        let event = match io.event {
            // There is room for the next piece.
            station::StationEvent::Written => return,
            station::StationEvent::Connected => {
                tracing::info!("bmp station connected");
                StationEvent::Connected
            }
            station::StationEvent::Lost(reason) => {
                tracing::debug!(reason, "bmp station");
                self.station = None;
                StationEvent::Lost(reason)
            }
        };
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.speaker.station(event, Instant::now(), since_1970, actions);
    }

    /// Gives the monitoring station the next piece, if its socket has taken the last one.
    fn feed_station(&mut self) {
        if !self.speaker.has_for_station() {
            return;
        }
        if let Some(room) = self.station.as_ref().and_then(Link::room) {
            let mut piece = Vec::new();
            self.speaker.pull_for_station(PIECE, &mut piece);
            room.send(piece);
        }
    }

    /// What was to be sent still is, for a moment.
    async fn say_goodbye(mut self) {
        let deadline = tokio::time::Instant::now() + GOODBYE;
        if let Some(link) = self.station.take() {
            let mut last = Vec::new();
            self.speaker.pull_for_station(usize::MAX, &mut last);
            let _ = tokio::time::timeout_at(deadline, async { link.close(last).await.await }).await;
        }
        let closing: Vec<_> = self.connections.into_values().filter_map(Connection::close).collect();
        for writer in closing {
            let _ = tokio::time::timeout_at(deadline, writer).await;
        }
    }
}

/// The next thing to tell control.
fn news(speaker: &mut Speaker, problems: &mut Vec<String>) -> Option<Output> {
    if !problems.is_empty() {
        return Some(Output::Problems(std::mem::take(problems)));
    }
    if let Some(next_hops) = speaker.take_next_hops() {
        return Some(Output::NextHops(next_hops));
    }
    Some(speaker.take_forwarding()).filter(|changes| *changes != LearnedBatch::default()).map(Output::Forwarding)
}

/// What the log says of sessions.
fn tell(note: &Note) {
    match note {
        Note::Up(peer) => tracing::info!(%peer, "bgp session established"),
        Note::Down(peer, reason) => tracing::warn!(%peer, reason, "bgp session ended"),
        Note::EndOfRib(peer, family) => tracing::debug!(%peer, %family, "end of rib"),
        Note::Faults(peer, faults) => {
            for fault in faults.iter().take(4) {
                tracing::warn!(%peer, outcome = ?fault.outcome, reason = fault.reason, "malformed update");
            }
        }
    }
}
