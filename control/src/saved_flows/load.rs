//! File → flows that may come back.
//!
//! A flow comes back when both its interfaces are still there under the same name and kernel number, the endpoints behind
//! them are the same and own the flow's addresses, and it has not been idle for too long. Everything else of the file is
//! left out and counted; a file that is not for this node, this boot and this hour is refused whole. Either way the flow
//! that does not come back is judged as a new one, so nothing here lets a packet through that policy had not allowed.
//!
//! The file is removed before anything is made of it: if that ever ended the process, the next one starts without.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use fastpath::flow::tcp_state::State;
use fastpath::flow::translation::{Sources, Translated, Translation};
use fastpath::flow::{FlowView, Key, KeyKind, Seconds, unmapped_address};
use fastpath::table::{InterfaceIndex, RuleIndex};

use super::Boot;
use super::format::{FormatError, Reader, SavedFlow, SavedInterface, SavedKind};
use super::save::saved_interface;
use crate::compile::{Attachment, RuleNames};
use crate::node_state::EndpointState;

/// A larger file is not read: more than the largest table's.
const FILE_MAX: u64 = 2 << 30;
/// A clock read before another may be ahead of it by this much, in seconds.
const SLACK: u64 = 2;

/// What there is now.
pub struct Ground<'a> {
    pub node: &'a str,
    pub boot: &'a Boot,
    /// The workers' clock.
    pub now: Seconds,
    /// Flows that fit the table.
    pub room: usize,
    pub attached: &'a BTreeMap<String, Attachment>,
    /// Numbers of the addresses that sources are translated to.
    pub sources: &'a Sources,
    pub endpoints: &'a [EndpointState],
}

/// Why a file was refused whole.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    #[error("found {0}, expected a regular file")]
    NoFile(&'static str),
    #[error("it has {0} bytes, expected at most {FILE_MAX}")]
    TooLarge(u64),
    #[error("this boot has no name to compare with: the kernel does not tell it")]
    NoBoot,
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("it is of node {found:?}, expected {expected:?}")]
    OtherNode { found: String, expected: String },
    #[error("it was written before the machine was last started")]
    OtherBoot,
    #[error("it was written {0} seconds ago, expected less than {longest}", longest = State::LONGEST_TIMEOUT)]
    TooOld(u64),
    #[error("it was written {0} seconds from now")]
    Future(u64),
}

/// What became of the flows of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub restored: usize,
    /// Idle for too long.
    pub expired: usize,
    /// Of an interface or endpoint that is not there any more, or is another.
    pub gone: usize,
    /// More than the table holds.
    pub without_room: usize,
}

/// Reads the file and removes it, whatever is in it. `None` when there is none.
pub fn take(path: &Path) -> Option<Result<Vec<u8>, Refusal>> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(Refusal::Unreadable(error))),
    };
    if metadata.is_dir() {
        return Some(Err(Refusal::NoFile("a folder")));
    }
    let read = || {
        // A pipe or a device could keep us waiting.
        if !metadata.is_file() {
            return Err(Refusal::NoFile("something else"));
        }
        if metadata.len() > FILE_MAX {
            return Err(Refusal::TooLarge(metadata.len()));
        }
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(Refusal::Unreadable)?;
        file.take(FILE_MAX).read_to_end(&mut bytes).map_err(Refusal::Unreadable)?;
        Ok(bytes)
    };
    let bytes = read();
    Some(fs::remove_file(path).map_err(Refusal::Unreadable).and(bytes))
}

/// The flows of a file that may come back, as this process numbers interfaces and rules.
pub fn admissible(bytes: &[u8], ground: &Ground<'_>, names: &mut RuleNames) -> Result<(Vec<FlowView>, Tally), Refusal> {
    let mut reader = Reader::new(bytes)?;
    check_header(&reader, ground)?;
    let mut tally = Tally::default();
    let mut flows = Vec::new();
    // Decided once for each, when first met: the reader gives them before the flows that use them.
    let mut sides: Vec<Option<Side<'_>>> = Vec::new();
    while let Some(flow) = reader.flow()? {
        for saved in reader.interfaces.iter().skip(sides.len()) {
            sides.push(Side::now(saved, ground));
        }
        match admit(&flow, &sides, ground) {
            Ok(view) => flows.push((view, flow.passage.rule)),
            Err(Lost::Damaged) => return Err(FormatError::Content("a flow that cannot be").into()),
            Err(Lost::Expired) => tally.expired += 1,
            Err(Lost::Gone) => tally.gone += 1,
        }
    }
    if flows.len() > ground.room {
        flows.sort_by_key(|(view, _)| std::cmp::Reverse(view.worth()));
        tally.without_room = flows.len() - ground.room;
        flows.truncate(ground.room);
    }
    tally.restored = flows.len();
    let named = flows.into_iter().map(|(view, rule)| {
        let name = rule.and_then(|rule| reader.rules.get(rule as usize));
        FlowView { rule: name.map_or(RuleIndex::NONE, |name| names.index(name)), ..view }
    });
    Ok((named.collect(), tally))
}

fn check_header(reader: &Reader<'_>, ground: &Ground<'_>) -> Result<(), Refusal> {
    let header = &reader.header;
    if header.node != ground.node {
        // As it was written: it may be longer than any name.
        let found: String = header.node.chars().take(64).collect();
        return Err(Refusal::OtherNode { found, expected: ground.node.to_owned() });
    }
    if header.boot != ground.boot.id {
        return Err(Refusal::OtherBoot);
    }
    if header.taken > ground.boot.now.saturating_add(SLACK) {
        return Err(Refusal::Future(header.taken - ground.boot.now));
    }
    let age = ground.boot.now.saturating_sub(header.taken);
    if age >= u64::from(State::LONGEST_TIMEOUT) {
        return Err(Refusal::TooOld(age));
    }
    Ok(())
}

/// A side of a flow as it is now.
struct Side<'a> {
    index: InterfaceIndex,
    kind: SavedKind,
    endpoint: Option<&'a EndpointState>,
}

impl<'a> Side<'a> {
    /// The same interface with the same endpoint, if it is there.
    fn now(saved: &SavedInterface, ground: &Ground<'a>) -> Option<Side<'a>> {
        let attachment = ground.attached.get(&saved.name)?;
        let endpoint = ground.endpoints.iter().find(|endpoint| endpoint.interface == saved.name);
        let is_same = saved_interface(&saved.name, attachment, endpoint) == *saved;
        is_same.then_some(Side { index: attachment.index, kind: saved.kind, endpoint })
    }

    /// Whether packets from this address may come in here. Behind uplinks and the host is everybody else.
    fn owns(&self, address: IpAddr) -> bool {
        self.kind != SavedKind::Workload
            || self.endpoint.is_some_and(|endpoint| endpoint.addresses.iter().any(|own| own.contains(address)))
    }
}

/// Why one flow does not come back.
enum Lost {
    Damaged,
    Expired,
    Gone,
}

fn admit(flow: &SavedFlow, sides: &[Option<Side<'_>>], ground: &Ground<'_>) -> Result<FlowView, Lost> {
    let (key, state) = flow.identity().ok_or(Lost::Damaged)?;
    let passage = &flow.passage;
    let now = ground.boot.now;
    if passage.seen.iter().chain([&passage.created]).any(|time| *time > now.saturating_add(SLACK)) {
        return Err(Lost::Damaged);
    }
    let idle = now.saturating_sub(passage.seen[0].max(passage.seen[1]));
    if idle >= u64::from(state.timeout()) {
        return Err(Lost::Expired);
    }
    let side = |position: u32| sides.get(position as usize).and_then(Option::as_ref).ok_or(Lost::Gone);
    let (ingress, egress) = (side(passage.ingress)?, side(passage.egress)?);
    if !ingress.owns(unmapped_address(key.source)) || !egress.owns(unmapped_address(key.destination)) {
        return Err(Lost::Gone);
    }
    let time = |then: u64| {
        let ago = Seconds::try_from(now.saturating_sub(then)).unwrap_or(Seconds::MAX);
        ground.now.saturating_sub(ago)
    };
    Ok(FlowView {
        key,
        state,
        rule: RuleIndex::NONE,
        translated: translated(&key, passage.outside, ground)?,
        ingress: ingress.index,
        egress: egress.index,
        created: time(passage.created),
        seen: passage.seen.map(time),
        packets: passage.packets,
        bytes: passage.bytes,
        tcp_flags: passage.tcp_flags,
    })
}

/// An address that the node has no more is no reason to forget the flow: its next packet is, and that begins another.
fn translated(key: &Key, outside: Option<(u128, u16)>, ground: &Ground<'_>) -> Result<Translated, Lost> {
    let Some((address, port)) = outside else { return Ok(Translated::No) };
    let is_of_family = Key { source: address, ..*key }.is_ipv4() == key.is_ipv4();
    let can_be = is_of_family && matches!(key.kind, KeyKind::Ports | KeyKind::EchoRequest);
    if !can_be {
        return Err(Lost::Damaged);
    }
    let source = ground.sources.add(address).ok_or(Lost::Gone)?;
    Ok(Translated::Flow(Translation { source, port }))
}
