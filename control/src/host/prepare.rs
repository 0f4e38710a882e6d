//! Interfaces made fit for a router in user space, and given back as they were.
//!
//! An endpoint, before it is attached and again when it is up:
//!
//! | step | where | why |
//! |---|---|---|
//! | `queues` | host side | a driver's XDP program wants as many receive queues as the other end sends by |
//! | `tso` | host side | the other end joins packets (GRO) only if this end does not claim to send large ones |
//! | `checksums` | inside | where nobody could finish a partial checksum, the sender does |
//! | `gro` | inside | its stack sees one large packet for many; and it gets a queue of its own to receive by |
//! | `thread` | inside | its stack receives on a thread of its own, and not inside the worker's system call |
//!
//! Nothing here is needed for packets to pass, so nothing here refuses: a step that fails is told and left. What is inside
//! stays when the router goes: it is the endpoint's, harmless, and gone with it.
//!
//! An uplink that is polled (`BusyPolling`): its interrupts are put off while the worker polls. This is undone.

use std::fs;
use std::io;

use super::ethtool::{self, Offload};
use super::peer::Namespaces;
use super::{FarPeer, HostError, Link, LinkIndex, netns};

/// Polls without a packet after which an interrupt may come again, and the time after which the kernel looks by itself.
const DEFER_HARD_IRQS: &str = "2";
const GRO_FLUSH_NANOSECONDS: &str = "200000";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Queues,
    Tso,
    Checksums,
    Gro,
    Thread,
}

impl Step {
    pub fn name(self) -> &'static str {
        match self {
            Step::Queues => "queues",
            Step::Tso => "tso",
            Step::Checksums => "checksums",
            Step::Gro => "gro",
            Step::Thread => "thread",
        }
    }
}

/// A step, and why it could not be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub step: Step,
    pub failure: Option<String>,
}

impl Outcome {
    fn of<T>(step: Step, result: &Result<T, HostError>) -> Outcome {
        Outcome { step, failure: result.as_ref().err().map(ToString::to_string) }
    }
}

/// What is to be done inside an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Inside {
    /// Its sender has to finish checksums.
    pub finish_checksums: bool,
    /// [`ahead`] was called for it.
    pub is_ahead: bool,
}

/// Host side, before sockets are bound: queues and segmentation. A pair that is ours was made with queues for each other, and
/// nobody has to look for the other end's namespace, which takes the longer the more there are.
pub fn host_side(link: &Link, is_ours: bool, namespaces: &mut Namespaces) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let tso = ethtool::set_offloads(link.index, &[(Offload::Tso, false)]);
    outcomes.push(Outcome::of(Step::Tso, &tso));
    if is_ours {
        return outcomes;
    }
    // Where the other end cannot be asked it nearly always has one queue, and so has this one.
    let sends_by = within(link, namespaces, Sysfs::Ours, |peer| ethtool::channels(peer.index)).ok();
    if let Some(Ok(Some(far))) = sends_by {
        let result = give_queues(link.index, far.tx.max(far.combined));
        if let Some(result) = result.transpose() {
            outcomes.push(Outcome::of(Step::Queues, &result));
        }
    }
    outcomes
}

/// None: there are enough.
fn give_queues(link: LinkIndex, wanted: u32) -> Result<Option<()>, HostError> {
    let Some(own) = ethtool::channels(link)? else { return Ok(None) };
    if own.rx >= wanted {
        return Ok(None);
    }
    if own.rx_max < wanted {
        return Err(HostError::Invalid {
            what: "receive queues",
            value: own.rx_max.to_string(),
            expected: "as many as the other end sends by; make the pair with more",
        });
    }
    ethtool::set_channels(link, wanted, own.tx).map(Some)
}

/// The endpoint's side, once it is up. One that is prepared ahead has its queue and its thread.
pub fn inside(link: &Link, inside: Inside, namespaces: &mut Namespaces) -> Vec<Outcome> {
    if inside.is_ahead && !inside.finish_checksums {
        return Vec::new();
    }
    let sysfs = if inside.is_ahead { Sysfs::Ours } else { Sysfs::Theirs };
    let done = within(link, namespaces, sysfs, |peer| {
        let mut outcomes = Vec::new();
        if inside.finish_checksums {
            let result = ethtool::set_offloads(peer.index, &[(Offload::TxChecksum, false)]);
            outcomes.push(Outcome::of(Step::Checksums, &result));
        }
        if !inside.is_ahead {
            let gro = ethtool::set_offloads(peer.index, &[(Offload::Gro, true)]);
            outcomes.push(Outcome::of(Step::Gro, &gro));
            outcomes.push(Outcome::of(Step::Thread, &own_thread(peer.index)));
        }
        outcomes
    });
    done.unwrap_or_else(|error| {
        let is_due = |step: &Step| match step {
            Step::Checksums => inside.finish_checksums,
            _ => !inside.is_ahead,
        };
        let failed = [Step::Checksums, Step::Gro, Step::Thread].into_iter().filter(is_due);
        failed.map(|step| Outcome { step, failure: Some(error.to_string()) }).collect()
    })
}

/// The endpoint's side, in the namespace of the caller's thread, while it is up: what is set stays with the interface when it is
/// moved. To be called by who makes the interface, so that nobody else waits for /sys.
pub fn ahead(link: LinkIndex) -> Result<(), HostError> {
    ethtool::set_offloads(link, &[(Offload::Gro, true)])?;
    let path = "/proc/thread-self/ns/net";
    let own = fs::File::open(path).map_err(HostError::io(format!("open {path}")))?;
    netns::in_namespace_of_with_sysfs(&own, path, || own_thread(link))?
}

/// In a namespace whose /sys is its own.
fn own_thread(link: LinkIndex) -> Result<(), HostError> {
    let name = nix::net::if_::if_indextoname(link.0)
        .map_err(|error| HostError::io(format!("name {link}"))(error.into()))?
        .to_string_lossy()
        .into_owned();
    let path = format!("/sys/class/net/{name}/threaded");
    if fs::read_to_string(&path).is_ok_and(|text| text.trim_end() == "1") {
        return Ok(());
    }
    fs::write(&path, "1").map_err(HostError::io(format!("write 1 to {path}")))
}

/// What /sys shows to who works in another namespace. Theirs has to be mounted, which takes longer than most else.
enum Sysfs {
    Ours,
    Theirs,
}

/// Does something in the namespace of the other end.
fn within<T: Send>(
    link: &Link,
    namespaces: &mut Namespaces,
    sysfs: Sysfs,
    work: impl FnOnce(FarPeer) -> T + Send,
) -> Result<T, HostError> {
    let unreachable = |expected| HostError::Invalid { what: "other end of", value: link.name.clone(), expected };
    let peer = link.far_peer.ok_or_else(|| unreachable("a veth whose other end is in another network namespace"))?;
    let found = namespaces.find(peer.namespace)?;
    let (file, path) =
        found.ok_or_else(|| unreachable("a network namespace with a name, or with a process that this host sees"))?;
    let name = path.display().to_string();
    match sysfs {
        Sysfs::Ours => netns::in_namespace_of(file, &name, || work(peer)),
        Sysfs::Theirs => netns::in_namespace_of_with_sysfs(file, &name, || work(peer)),
    }
}

/// An uplink's interrupts, put off while a worker polls; as before when this is dropped.
#[derive(Debug)]
pub struct BusyPolling {
    before: Vec<(String, String)>,
}

impl BusyPolling {
    pub fn start(interface: &str) -> Result<BusyPolling, HostError> {
        BusyPolling::start_in(&format!("/sys/class/net/{interface}"))
    }

    fn start_in(folder: &str) -> Result<BusyPolling, HostError> {
        let mut polling = BusyPolling { before: Vec::new() };
        // If the second cannot be set, dropping puts the first back.
        for (name, value) in [("gro_flush_timeout", GRO_FLUSH_NANOSECONDS), ("napi_defer_hard_irqs", DEFER_HARD_IRQS)] {
            let path = format!("{folder}/{name}");
            let before = fs::read_to_string(&path).map_err(HostError::io(format!("read {path}")))?;
            fs::write(&path, value).map_err(HostError::io(format!("write {value} to {path}")))?;
            polling.before.push((path, before.trim_end().to_owned()));
        }
        Ok(polling)
    }
}

impl Drop for BusyPolling {
    fn drop(&mut self) {
        for (path, value) in self.before.iter().rev() {
            match fs::write(path, value) {
                Ok(()) => {}
                // With the interface went its settings.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(path, value, %error, "not put back"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn interrupts_are_put_off_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let read = |name: &str| fs::read_to_string(path(name)).unwrap();
        fs::write(path("gro_flush_timeout"), "7\n").unwrap();
        let text = folder.path().to_str().unwrap();
        // One cannot be set: the other is as before.
        assert!(BusyPolling::start_in(text).is_err());
        assert_eq!(read("gro_flush_timeout"), "7");
        fs::write(path("napi_defer_hard_irqs"), "0\n").unwrap();
        let polling = BusyPolling::start_in(text).unwrap();
        assert_eq!((read("gro_flush_timeout"), read("napi_defer_hard_irqs")), ("200000".to_owned(), "2".to_owned()));
        drop(polling);
        assert_eq!((read("gro_flush_timeout"), read("napi_defer_hard_irqs")), ("7".to_owned(), "0".to_owned()));
        // What has gone is nobody's to put back.
        let polling = BusyPolling::start_in(text).unwrap();
        fs::remove_file(path("napi_defer_hard_irqs")).unwrap();
        drop(polling);
        assert_eq!(read("gro_flush_timeout"), "7");
    }
}
