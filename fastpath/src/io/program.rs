//! Loads our XDP program, `steer.bpf.c`, and edits its maps; one instance per interface.
//!
//! An instance is loaded, given its sockets and, on an uplink, the prefixes that are ours and shared, and only then attached:
//! from that moment what is ours and has no socket is dropped.
//!
//! The attachment is made by netlink and not by a BPF link, so that it stays when the process is killed: packets of
//! workloads then stop instead of going around the policy. The next process replaces the program in one step.
//!
//! Left out: taking the program off when `Program` is dropped (see above; `detach` does it on request), and pinning
//! maps (a new process fills new ones before it replaces the old program).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{LazyLock, Mutex, PoisonError};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError, PerCpuArray, XskMap};
use aya::programs::{Xdp, loaded_programs};
use aya::{Ebpf, EbpfLoader};
use libbpf_sys::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE};

use super::XdpMode;
use super::attached::Attached;
use super::guard::{self, Guard, Openings};
use super::shared::{Shared, SharedMap};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));
pub(super) static GUARD_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.bpf.o"));

/// What every program of ours is called, to tell our own from those of others.
const OUR_NAMES: &str = "steer_";

/// What the prefix maps hold behind a prefix: it is there, and that is all that is asked.
pub(super) const PRESENT: u32 = 1;

/// Making a loader reads and parses the kernel's own types, which takes 17 ms and which our program asks nothing about;
/// with hundreds of interfaces that was most of a start. So one loader serves all, without those types.
static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    Mutex::new(loader)
});

/// Which packets of the interface are ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// All of them.
    Workload,
    /// Those that the prefixes name; the kernel has the others.
    Uplink,
    /// An uplink with a host endpoint: all but failsafe ports and what keeps the link going; and what the host sends.
    Guarded,
    /// All of them.
    Host,
}

/// Which way of attaching is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Preference {
    /// In the driver where it can be done, else in the generic path. An attachment that an earlier process left is
    /// replaced in its own mode: changing the mode would leave a moment without a program.
    #[default]
    Auto,
    Native,
    Generic,
}

/// What the program has done with packets since it was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProgramCounters {
    pub redirected: u64,
    pub passed: u64,
    pub dropped_no_socket: u64,
    pub dropped_malformed: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("load xdp program {name}: needs CAP_BPF and CAP_NET_ADMIN, and Linux 5.15 or later (5.18 for frags)")]
    Load { name: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("find {what} {name} in the compiled xdp program: steer.bpf.c and program.rs are not of one build")]
    Missing { what: &'static str, name: &'static str },
    #[error("register the socket of queue {queue}: expected a queue below 256 and a bound AF_XDP socket")]
    Register { queue: u32, source: MapError },
    #[error("steer prefix {address}/{len}: expected a length of at most {longest}")]
    PrefixLength { address: IpAddr, len: u8, longest: u8 },
    #[error("steer prefix {address}/{len}: expected at most 65536 prefixes per address family")]
    Prefix { address: IpAddr, len: u8, source: MapError },
    #[error(
        "say which ports and addresses a guarded interface leaves open: expected at most 1024 ports, 4096 addresses"
    )]
    Openings { source: MapError },
    #[error("say which addresses are shared with workloads: expected at most 512")]
    Shared { source: MapError },
    #[error("change the tc filter of interface {ifindex}: needs CAP_NET_ADMIN and the clsact queueing discipline")]
    Filter { ifindex: u32, source: io::Error },
    #[error("read the counters of the xdp program")]
    Counters { source: MapError },
    #[error("attach xdp program to interface {ifindex}: {name} is attached there and is not ours; detach it first")]
    Foreign { ifindex: u32, name: String },
    #[error("attach xdp program to interface {ifindex}: {advice}")]
    Attach { ifindex: u32, advice: &'static str, source: io::Error },
    #[error("detach xdp program from interface {ifindex}")]
    Detach { ifindex: u32, source: io::Error },
    #[error("ask which xdp program interface {ifindex} has")]
    Query { ifindex: u32, source: io::Error },
}

/// One loaded instance of the program, with its maps.
pub struct Program {
    fd: RawFd,
    sockets: XskMap<MapData>,
    ipv4: LpmTrie<MapData, [u8; 4], u32>,
    ipv6: LpmTrie<MapData, [u8; 16], u32>,
    counters: PerCpuArray<MapData, u64>,
    guard: Option<Guard>,
    shared: Option<SharedMap>,
    /// What the two prefix maps hold.
    steered: BTreeSet<(IpAddr, u8)>,
    /// Owns the program behind `fd`.
    _object: Ebpf,
}

impl Program {
    /// Loads an instance; nothing is attached yet. `frags` is for interfaces whose packets may not fit one frame.
    pub fn load(role: Role, frags: bool) -> Result<Program, ProgramError> {
        let name = match (role, frags) {
            (Role::Workload | Role::Host, false) => "steer_all",
            (Role::Workload | Role::Host, true) => "steer_all_frags",
            (Role::Uplink, false) => "steer_ours",
            (Role::Uplink, true) => "steer_ours_frags",
            (Role::Guarded, false) => "steer_guarded",
            (Role::Guarded, true) => "steer_guarded_frags",
        };
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ProgramError::Load { name, source };
        let mut object = with_loader(name, if role == Role::Guarded { GUARD_OBJECT } else { OBJECT })?;
        let program = object.program_mut(name).ok_or(ProgramError::Missing { what: "program", name })?;
        let program: &mut Xdp =
            program.try_into().map_err(|error: aya::programs::ProgramError| failed(error.into()))?;
        program.load().map_err(|error| failed(error.into()))?;
        let fd = program.fd().map_err(|error| failed(error.into()))?.as_fd().as_raw_fd();
        Ok(Program {
            fd,
            sockets: take_map(&mut object, "sockets")?,
            ipv4: take_map(&mut object, "ipv4_prefixes")?,
            ipv6: take_map(&mut object, "ipv6_prefixes")?,
            counters: take_map(&mut object, "counters")?,
            shared: (role == Role::Uplink).then(|| SharedMap::take(&mut object)).transpose()?,
            guard: (role == Role::Guarded).then(|| Guard::take(&mut object)).transpose()?,
            steered: BTreeSet::new(),
            _object: object,
        })
    }

    /// Packets that arrive on `queue` go to this AF_XDP socket from now on. The entry ends with the socket.
    pub fn register(&mut self, queue: u32, socket: RawFd) -> Result<(), ProgramError> {
        self.sockets.set(queue, socket, 0).map_err(|source| ProgramError::Register { queue, source })
    }

    /// Packets that arrive on `queue` are dropped from now on. No socket there is no error.
    pub fn unregister(&mut self, queue: u32) -> Result<(), ProgramError> {
        match self.sockets.unset(queue) {
            Err(source) if !is_absent(&source) => Err(ProgramError::Register { queue, source }),
            _ => Ok(()),
        }
    }

    /// Makes these the destinations whose packets are ours; an uplink's program alone looks at them. New prefixes are
    /// added before old ones go.
    pub fn set_prefixes(&mut self, prefixes: &[(IpAddr, u8)]) -> Result<(), ProgramError> {
        let wanted: BTreeSet<_> =
            prefixes.iter().map(|(address, len)| masked(*address, *len)).collect::<Result<_, _>>()?;
        // After a failure `steered` still says what the maps hold, and the next call goes on from there.
        for prefix in &wanted {
            if !self.steered.contains(prefix) {
                self.insert(*prefix)?;
                self.steered.insert(*prefix);
            }
        }
        let surplus: Vec<_> = self.steered.difference(&wanted).copied().collect();
        for prefix in surplus {
            self.remove(prefix)?;
            self.steered.remove(&prefix);
        }
        Ok(())
    }

    /// Makes these the addresses that the host shares with workloads, and these the ports under which answers to workloads
    /// come. A guarding program hands over everything anyway.
    pub fn share(&mut self, wanted: &Shared) -> Result<(), ProgramError> {
        self.shared.as_mut().map_or(Ok(()), |shared| shared.hold(wanted))
    }

    /// Says what a guarding program lets through without the router. Others ask nobody.
    pub fn open(&mut self, openings: &Openings) -> Result<(), ProgramError> {
        self.guard.as_mut().map_or(Ok(()), |guard| guard.open(openings))
    }

    /// Puts the program on an interface, in place of one of ours that is there. Says which mode it came to. What the host
    /// sends by a guarded interface is taken first, so that there is no moment in which only its answers are.
    pub fn attach(&mut self, ifindex: u32, preference: Preference) -> Result<XdpMode, ProgramError> {
        match &self.guard {
            Some(guard) => {
                guard.attach(ifindex)?;
                let result = self.attach_xdp(ifindex, preference);
                // Half a guard would cut the host off without protecting it. The error is what matters.
                if result.is_err() {
                    let _ = guard::detach_outgoing(ifindex);
                }
                result
            }
            None => {
                let mode = self.attach_xdp(ifindex, preference)?;
                guard::detach_outgoing(ifindex)?;
                Ok(mode)
            }
        }
    }

    fn attach_xdp(&mut self, ifindex: u32, preference: Preference) -> Result<XdpMode, ProgramError> {
        if let Some(name) = foreign_program(ifindex)? {
            return Err(ProgramError::Foreign { ifindex, name });
        }
        let modes: &[XdpMode] = match preference {
            Preference::Auto => &[XdpMode::Native, XdpMode::Generic],
            Preference::Native => &[XdpMode::Native],
            Preference::Generic => &[XdpMode::Generic],
        };
        let mut refusal = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        for mode in modes {
            match netlink_attach(ifindex, self.fd, *mode) {
                Ok(()) => return Ok(*mode),
                Err(error) => refusal = error,
            }
        }
        Err(ProgramError::Attach { ifindex, advice: advice(&refusal), source: refusal })
    }

    /// Takes our programs off an interface; it is the kernel's again. Nothing of ours there is no error.
    pub fn detach(ifindex: u32) -> Result<(), ProgramError> {
        guard::detach_outgoing(ifindex)?;
        for (mode, id) in attached_ids(ifindex)? {
            if id == 0 || !is_ours(id) {
                continue;
            }
            netlink_attach(ifindex, -1, mode).map_err(|source| ProgramError::Detach { ifindex, source })?;
        }
        Ok(())
    }

    /// What the program has done since it was loaded, over all CPUs.
    pub fn counters(&self) -> Result<ProgramCounters, ProgramError> {
        let read = |index: u32| {
            let per_cpu = self.counters.get(&index, 0).map_err(|source| ProgramError::Counters { source })?;
            Ok(per_cpu.iter().sum())
        };
        // In the order of `enum counter` in steer.bpf.c.
        Ok(ProgramCounters {
            redirected: read(0)?,
            passed: read(1)?,
            dropped_no_socket: read(2)?,
            dropped_malformed: read(3)?,
        })
    }

    fn insert(&mut self, (address, len): (IpAddr, u8)) -> Result<(), ProgramError> {
        let result = match address {
            IpAddr::V4(ip) => self.ipv4.insert(&Key::new(len.into(), ip.octets()), PRESENT, 0),
            IpAddr::V6(ip) => self.ipv6.insert(&Key::new(len.into(), ip.octets()), PRESENT, 0),
        };
        result.map_err(|source| ProgramError::Prefix { address, len, source })
    }

    fn remove(&mut self, (address, len): (IpAddr, u8)) -> Result<(), ProgramError> {
        let result = match address {
            IpAddr::V4(ip) => self.ipv4.remove(&Key::new(len.into(), ip.octets())),
            IpAddr::V6(ip) => self.ipv6.remove(&Key::new(len.into(), ip.octets())),
        };
        match result {
            Err(source) if !is_absent(&source) => Err(ProgramError::Prefix { address, len, source }),
            _ => Ok(()),
        }
    }
}

fn masked(address: IpAddr, len: u8) -> Result<(IpAddr, u8), ProgramError> {
    let too_long = |longest| ProgramError::PrefixLength { address, len, longest };
    let network = match address {
        IpAddr::V4(ip) => {
            let host_bits = 32u32.checked_sub(len.into()).ok_or(too_long(32))?;
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let host_bits = 128u32.checked_sub(len.into()).ok_or(too_long(128))?;
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    };
    Ok((network, len))
}

/// An object in the kernel, none of its programs loaded yet.
pub(super) fn with_loader(name: &'static str, object: &[u8]) -> Result<Ebpf, ProgramError> {
    let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
    loader.load(object).map_err(|error| ProgramError::Load { name, source: error.into() })
}

pub(super) fn take_map<M: TryFrom<aya::maps::Map>>(object: &mut Ebpf, name: &'static str) -> Result<M, ProgramError> {
    let missing = ProgramError::Missing { what: "map", name };
    let Some(map) = object.take_map(name) else { return Err(missing) };
    M::try_from(map).map_err(|_| missing)
}

pub(super) fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

fn flags(mode: XdpMode) -> u32 {
    match mode {
        XdpMode::Native => XDP_FLAGS_DRV_MODE,
        XdpMode::Generic => XDP_FLAGS_SKB_MODE,
    }
}

/// Attaches the program behind `fd`, or detaches whatever is there when `fd` is -1.
pub(super) fn netlink_attach(ifindex: u32, fd: RawFd, mode: XdpMode) -> io::Result<()> {
    // A refusal is an answer here (the next mode is tried), so libbpf shall not print it.
    // SAFETY: without a function, libbpf prints nothing; it makes the change atomically.
    unsafe { libbpf_sys::libbpf_set_print(None) };
    // SAFETY: no pointers are passed.
    let result = unsafe { libbpf_sys::bpf_xdp_attach(c_index(ifindex), fd, flags(mode), std::ptr::null()) };
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// Numbers of the programs attached in each mode, or 0.
fn attached_ids(ifindex: u32) -> Result<[(XdpMode, u32); 2], ProgramError> {
    let Attached { native, generic } =
        Attached::to(ifindex).map_err(|source| ProgramError::Query { ifindex, source })?;
    Ok([(XdpMode::Native, native), (XdpMode::Generic, generic)])
}

/// Name of a program on the interface that is not ours.
fn foreign_program(ifindex: u32) -> Result<Option<String>, ProgramError> {
    for (_, id) in attached_ids(ifindex)? {
        if id != 0 && !is_ours(id) {
            let name = name(id).unwrap_or_default();
            return Ok(Some(if name.is_empty() { format!("program {id}") } else { name }));
        }
    }
    Ok(None)
}

pub(super) fn is_ours(id: u32) -> bool {
    name(id).is_some_and(|name| name.starts_with(OUR_NAMES))
}

fn name(id: u32) -> Option<String> {
    let info = loaded_programs().flatten().find(|info| info.id() == id)?;
    info.name_as_str().map(str::to_owned)
}

/// The kernel's interface numbers are positive C integers; any other number names none.
pub(super) fn c_index(ifindex: u32) -> libc::c_int {
    libc::c_int::try_from(ifindex).unwrap_or(0)
}

pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "needs CAP_NET_ADMIN",
        Some(libc::ENODEV) => "no such interface in this network namespace",
        Some(libc::EBUSY) => "a bpf link holds the interface; remove it first",
        Some(libc::EEXIST) => "a program is attached in the other mode; detach it first",
        Some(libc::ERANGE) => "its MTU does not fit one buffer; lower it or load the program with frags",
        Some(libc::EOPNOTSUPP) => "its driver has no such mode; use generic",
        Some(libc::ENOSPC) => "a veth needs at least as many receive queues as its peer has transmit queues",
        _ => "the kernel refused",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn check_masked(address: &str, len: u8, expected: Option<&str>) {
        let result = masked(address.parse().unwrap(), len).ok();
        assert_eq!(result, expected.map(|network| (network.parse().unwrap(), len)), "{address}/{len}");
    }

    #[test]
    fn prefixes_are_masked_and_their_lengths_checked() {
        check_masked("10.1.2.3", 32, Some("10.1.2.3"));
        check_masked("10.1.2.3", 26, Some("10.1.2.0"));
        check_masked("10.1.2.3", 0, Some("0.0.0.0"));
        check_masked("10.1.2.3", 33, None);
        check_masked("fd00:1::9", 122, Some("fd00:1::"));
        check_masked("fd00:1::9", 0, Some("::"));
        check_masked("fd00:1::9", 128, Some("fd00:1::9"));
        check_masked("fd00:1::9", 129, None);
    }
}
