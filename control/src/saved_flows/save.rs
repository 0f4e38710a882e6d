//! Flow table → file: little by little while the router runs, and whole when it stops.
//!
//! Every `PERIOD` a walk over the table begins; each tick does a slice of it, and after the last slice the file is replaced.
//! So a process that is killed leaves flows behind that are a few seconds old, and no tick takes long.
//!
//! Not synced to the disk: the file is of use to the next process of this boot, and to nobody after a power cut.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastpath::flow::tcp_state::State;
use fastpath::flow::translation::Translated;
use fastpath::flow::{FlowTable, FlowView, KeyKind};
use fastpath::table::interface::InterfaceKind;
use fastpath::table::{InterfaceIndex, RuleIndex};
use fastpath::worker::Clock;

use super::Boot;
use super::format::{Header, NAME_MAX, Passage, SavedFlow, SavedInterface, SavedKind, Writer};
use crate::compile::{Attachment, RuleNames};
use crate::node_state::EndpointState;

/// Between the end of a walk and the next.
const PERIOD: Duration = Duration::from_secs(10);
/// Entries looked at in one tick: a few hundred microseconds. A large table takes more, so that a walk has an end.
const SLICE: usize = 4096;
const SLICES: usize = 512;

/// What is saved, and how it is called.
pub struct Source<'a> {
    pub node: &'a str,
    pub flows: &'a FlowTable,
    pub clock: Clock,
    pub names: &'a RuleNames,
    pub attached: &'a BTreeMap<String, Attachment>,
    pub endpoints: &'a [EndpointState],
}

/// The file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("save open flows in {}", path.display())]
pub struct SaveError {
    path: PathBuf,
    source: io::Error,
}

/// The file, and the walk that will replace it.
#[derive(Debug)]
pub struct Saver {
    path: PathBuf,
    walk: Option<Walk>,
    /// When the next walk begins.
    due: Instant,
}

#[derive(Debug)]
struct Walk {
    writer: Writer,
    cursor: usize,
    /// As they were when the walk began: an index is not given to another interface while it lasts.
    interfaces: BTreeMap<InterfaceIndex, SavedInterface>,
    written_interfaces: HashMap<InterfaceIndex, u32>,
    written_rules: HashMap<RuleIndex, u32>,
}

impl Saver {
    pub fn new(path: PathBuf) -> Saver {
        Saver { path, walk: None, due: Instant::now() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One slice of the walk, if one is due. True when that was the last and the file is new.
    pub fn tick(&mut self, source: &Source<'_>, now: Instant) -> Result<bool, SaveError> {
        if now < self.due {
            return Ok(false);
        }
        // Without a boot to date them by, flows cannot be saved; a restart then begins without any.
        let Some(boot) = Boot::read() else { return Ok(false) };
        let mut walk = self.walk.take().unwrap_or_else(|| Walk::new(source, &boot));
        let slice = SLICE.max(source.flows.capacity() / SLICES);
        walk.go(source, boot.now, slice);
        if walk.cursor < source.flows.capacity() {
            self.walk = Some(walk);
            return Ok(false);
        }
        self.due = now + PERIOD;
        self.replace(&walk.writer.finish()).map(|()| true)
    }

    /// The whole table at once: for when the workers have ended.
    pub fn finish(&mut self, source: &Source<'_>) -> Result<usize, SaveError> {
        let Some(boot) = Boot::read() else { return Ok(0) };
        let mut walk = Walk::new(source, &boot);
        let saved = walk.go(source, boot.now, source.flows.capacity());
        self.replace(&walk.writer.finish()).map(|()| saved)
    }

    /// Writes beside the file, then takes its place: a reader finds the old or the new one.
    fn replace(&self, bytes: &[u8]) -> Result<(), SaveError> {
        let draft = self.path.with_extension("new");
        let write = || {
            match fs::remove_file(&draft) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(bytes)?;
            fs::rename(&draft, &self.path)
        };
        write().map_err(|source| {
            // Half a draft is of no use, and the disk may be full.
            let _ = fs::remove_file(&draft);
            SaveError { path: self.path.clone(), source }
        })
    }
}

impl Walk {
    fn new(source: &Source<'_>, boot: &Boot) -> Walk {
        let header = Header { node: source.node.to_owned(), boot: boot.id.clone(), taken: boot.now };
        let interfaces = source.attached.iter().map(|(name, attachment)| {
            let endpoint = source.endpoints.iter().find(|endpoint| endpoint.interface == *name);
            (attachment.index, saved_interface(name, attachment, endpoint))
        });
        Walk {
            writer: Writer::new(&header),
            cursor: 0,
            interfaces: interfaces.collect(),
            written_interfaces: HashMap::new(),
            written_rules: HashMap::new(),
        }
    }

    /// Looks at the next entries. Returns how many flows were in them.
    fn go(&mut self, source: &Source<'_>, now: u64, slice: usize) -> usize {
        let end = self.cursor.saturating_add(slice);
        let mut saved = 0;
        for view in source.flows.views(self.cursor..end) {
            saved += usize::from(self.flow(&view, source, now));
        }
        self.writer.sum();
        self.cursor = end;
        saved
    }

    /// False for what is not worth keeping, or passes where nothing is attached.
    fn flow(&mut self, view: &FlowView, source: &Source<'_>, now: u64) -> bool {
        if view.key.kind == KeyKind::Fragment || view.state == State::Evicted {
            return false;
        }
        let (Some(ingress), Some(egress)) = (self.interface(view.ingress), self.interface(view.egress)) else {
            return false;
        };
        let workers_now = source.clock.now().seconds();
        let time = |seconds: u32| now.saturating_sub(u64::from(workers_now.saturating_sub(seconds)));
        let passage = Passage {
            ingress,
            egress,
            rule: self.rule(view.rule, source.names),
            outside: outside(view, source.flows),
            created: time(view.created),
            seen: view.seen.map(time),
            packets: view.packets,
            bytes: view.bytes,
            tcp_flags: view.tcp_flags,
        };
        self.writer.flow(SavedFlow::new(&view.key, view.state, passage));
        true
    }

    /// The number of an interface in the file; it is written when it is first asked for.
    fn interface(&mut self, index: InterfaceIndex) -> Option<u32> {
        if let Some(number) = self.written_interfaces.get(&index) {
            return Some(*number);
        }
        self.writer.interface(self.interfaces.get(&index)?.clone());
        let number = self.written_interfaces.len() as u32;
        self.written_interfaces.insert(index, number);
        Some(number)
    }

    fn rule(&mut self, index: RuleIndex, names: &RuleNames) -> Option<u32> {
        if let Some(number) = self.written_rules.get(&index) {
            return Some(*number);
        }
        let name = names.name(index).filter(|name| name.len() <= NAME_MAX)?;
        self.writer.rule(name.to_owned());
        let number = self.written_rules.len() as u32;
        self.written_rules.insert(index, number);
        Some(number)
    }
}

fn outside(view: &FlowView, flows: &FlowTable) -> Option<(u128, u16)> {
    match view.translated {
        Translated::Flow(translation) => Some((flows.sources().address(translation.source), translation.port)),
        Translated::No | Translated::Fragment(..) => None,
    }
}

/// How the next process will know an interface again.
pub fn saved_interface(name: &str, attachment: &Attachment, endpoint: Option<&EndpointState>) -> SavedInterface {
    let kind = match attachment.kind {
        InterfaceKind::Workload => SavedKind::Workload,
        InterfaceKind::Uplink => SavedKind::Uplink,
        InterfaceKind::Host => SavedKind::Host,
    };
    SavedInterface {
        name: name.to_owned(),
        // The private pair is ours, and made anew when the number of workers changes.
        link: if kind == SavedKind::Host { 0 } else { attachment.link.0 },
        kind,
        endpoint: endpoint.filter(|_| kind == SavedKind::Workload).map(|endpoint| endpoint.key.to_string()),
    }
}
