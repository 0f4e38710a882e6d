//! The file of saved flows: bytes and what they say.
//!
//! ```text
//! magic:8  version:4  crc32:4  │ Header  Item  Item  Item …      to the end of the file
//!                                        └ Interface: the next number for one      names before the flows that use
//!                                          Rule:      the next number for one      them, each once
//!                                          Flow
//! ```
//!
//! Numbers are little-endian; what follows the checksum is in the form of `postcard`. Times are seconds since the machine
//! started, which two processes of one boot agree on.
//!
//! Invariants: a reader gives a flow only when the whole file has the right checksum, and the flow names an interface and a
//! rule that came before it; what is read is bounded by the bytes that are there.
//! Left out: whether a flow may come back. `load.rs` decides.

use fastpath::flow::tcp_state::State;
use fastpath::flow::{Key, KeyKind};
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"VRFLOWS\n";
/// Counts up with every change of what follows, the numbers of `State` and `KeyKind` included.
pub const VERSION: u32 = 2;
/// Before the part that the checksum covers.
const FRONT: usize = 16;
/// Names of rules, interfaces and endpoints are shorter than this.
pub const NAME_MAX: usize = 1024;

/// Whose flows, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub node: String,
    pub boot: String,
    pub taken: u64,
}

/// An interface as two processes know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedInterface {
    pub name: String,
    /// The kernel's number for it: an interface made anew has another.
    pub link: u32,
    pub kind: SavedKind,
    /// The key of the endpoint behind it.
    pub endpoint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedKind {
    Workload,
    Uplink,
    Host,
}

/// A flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFlow {
    source: u128,
    destination: u128,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
    kind: u8,
    state: u8,
    pub passage: Passage,
}

/// Where a flow passes, and what has passed. Pairs are forward and reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// Positions among the interfaces of the file, and among its rules.
    pub ingress: u32,
    pub egress: u32,
    pub rule: Option<u32>,
    /// What stands in place of its source outside: address and port.
    pub outside: Option<(u128, u16)>,
    pub created: u64,
    pub seen: [u64; 2],
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    pub tcp_flags: [u8; 2],
}

impl SavedFlow {
    pub fn new(key: &Key, state: State, passage: Passage) -> SavedFlow {
        SavedFlow {
            source: key.source,
            destination: key.destination,
            source_port: key.source_port,
            destination_port: key.destination_port,
            protocol: key.protocol,
            kind: key.kind as u8,
            state: state as u8,
            passage,
        }
    }

    /// Key and state, if there is a flow of such a key in such a state.
    pub fn identity(&self) -> Option<(Key, State)> {
        let key = Key {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol,
            kind: KeyKind::from_number(self.kind)?,
        };
        let state = State::from_number(self.state)?;
        let is_whole = key.kind != KeyKind::Fragment && state.fits(&key);
        let is_of_one_family = key.is_ipv4() == key.reversed().is_ipv4();
        (is_whole && is_of_one_family).then_some((key, state))
    }
}

#[derive(Serialize, Deserialize)]
enum Item {
    Interface(SavedInterface),
    Rule(String),
    Flow(SavedFlow),
}

/// Why bytes are not a file of saved flows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("it does not begin as a file of saved flows does")]
    Magic,
    #[error("its form is version {0}, expected {VERSION}")]
    Version(u32),
    #[error("it is damaged: checksum {found:08x}, expected {expected:08x}")]
    Checksum { found: u32, expected: u32 },
    #[error("it is damaged: {0}")]
    Content(&'static str),
}

/// Puts a file together.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    checksum: crc32fast::Hasher,
    /// How much of the bytes the checksum covers already.
    summed: usize,
}

impl Writer {
    pub fn new(header: &Header) -> Writer {
        let mut writer = Writer { bytes: vec![0; FRONT], checksum: crc32fast::Hasher::new(), summed: FRONT };
        writer.put(header);
        writer
    }

    pub fn interface(&mut self, interface: SavedInterface) {
        self.put(&Item::Interface(interface));
    }

    pub fn rule(&mut self, name: String) {
        self.put(&Item::Rule(name));
    }

    pub fn flow(&mut self, flow: SavedFlow) {
        self.put(&Item::Flow(flow));
    }

    fn put(&mut self, value: &impl Serialize) {
        // Neither plain values nor a vector that grows can refuse; if they did, the checksum would tell the reader.
        if let Ok(bytes) = postcard::to_extend(value, std::mem::take(&mut self.bytes)) {
            self.bytes = bytes;
        }
    }

    /// Takes what was put into the checksum; after every so many items, so that no moment has much to do.
    pub fn sum(&mut self) {
        self.checksum.update(self.bytes.get(self.summed..).unwrap_or_default());
        self.summed = self.bytes.len();
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.sum();
        let front = [&MAGIC[..], &VERSION.to_le_bytes(), &self.checksum.finalize().to_le_bytes()].concat();
        if let Some(place) = self.bytes.get_mut(..FRONT) {
            place.copy_from_slice(&front);
        }
        self.bytes
    }
}

/// Takes a file apart.
#[derive(Debug)]
pub struct Reader<'a> {
    pub header: Header,
    rest: &'a [u8],
    pub interfaces: Vec<SavedInterface>,
    pub rules: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Reader<'a>, FormatError> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(FormatError::Magic)?;
        if *magic != MAGIC {
            return Err(FormatError::Magic);
        }
        let cut = FormatError::Content("it is cut short");
        let (version, rest) = rest.split_first_chunk::<4>().ok_or(cut.clone())?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let (expected, rest) = rest.split_first_chunk::<4>().ok_or(cut)?;
        let (found, expected) = (crc32fast::hash(rest), u32::from_le_bytes(*expected));
        if found != expected {
            return Err(FormatError::Checksum { found, expected });
        }
        let (header, rest) =
            postcard::take_from_bytes::<Header>(rest).map_err(|_| FormatError::Content("no header can be read"))?;
        Ok(Reader { header, rest, interfaces: Vec::new(), rules: Vec::new() })
    }

    /// The next flow; `None` at the end.
    pub fn flow(&mut self) -> Result<Option<SavedFlow>, FormatError> {
        while !self.rest.is_empty() {
            let (item, rest) = postcard::take_from_bytes::<Item>(self.rest)
                .map_err(|_| FormatError::Content("an entry cannot be read"))?;
            self.rest = rest;
            match item {
                Item::Interface(interface) => {
                    let endpoint = interface.endpoint.as_ref().map_or(0, String::len);
                    if interface.name.len().max(endpoint) > NAME_MAX {
                        return Err(FormatError::Content("the name of an interface or endpoint is too long"));
                    }
                    self.interfaces.push(interface);
                }
                Item::Rule(name) if name.len() > NAME_MAX => {
                    return Err(FormatError::Content("the name of a rule is too long"));
                }
                Item::Rule(name) => self.rules.push(name),
                Item::Flow(flow) => {
                    let is_known = |position: u32, count: usize| (position as usize) < count;
                    let interfaces = self.interfaces.len();
                    if !is_known(flow.passage.ingress, interfaces) || !is_known(flow.passage.egress, interfaces) {
                        return Err(FormatError::Content("a flow of an interface that is not there"));
                    }
                    if flow.passage.rule.is_some_and(|rule| !is_known(rule, self.rules.len())) {
                        return Err(FormatError::Content("a flow of a rule that is not there"));
                    }
                    return Ok(Some(flow));
                }
            }
        }
        Ok(None)
    }
}
