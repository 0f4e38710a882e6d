//! The kernel's part of a host endpoint, beside the XDP program: what its maps hold, and the two tc programs.
//!
//! ```text
//!   uplink      tc egress   steer_host_out   what the host sends  ─▶ private pair ─▶ router
//!   vrouter     tc ingress  steer_host_in    what the router lets through ─▶ the uplink's receiving side
//! ```
//!
//! A filter is attached by netlink, so that it stays when the process is killed; the next process replaces it in place.
//! Its handle says whether its queueing discipline (clsact) was made for it: then that goes with it, unless somebody
//! else has put a filter there since.
//!
//! Left out: programs that others attach in front of ours, by tcx or with an earlier handle. They decide first, and what
//! they take away does not come to us.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError};
use aya::programs::SchedClassifier;
use libbpf_sys::{BPF_TC_EGRESS, BPF_TC_F_REPLACE, BPF_TC_INGRESS, bpf_tc_attach_point, bpf_tc_hook, bpf_tc_opts};

use super::XdpMode;
use super::program::{GUARD_OBJECT, PRESENT, ProgramError, c_index, is_absent, is_ours, take_map, with_loader};

/// Ours are asked first.
const PRIORITY: u32 = 1;
/// Handles of our filters: with a clsact that was made for it, and with one that was there.
const WITH_OWN_QDISC: u32 = 0x7672_0001;
const WITH_FOREIGN_QDISC: u32 = 0x7672_0002;
/// Parents of a clsact's filters: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) and _EGRESS in linux/pkt_sched.h.
const PARENTS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];
/// Bits of a failsafe key in front of the address.
const PORT_BITS: u32 = 32;

/// A port that passes without the router.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PortFilter {
    /// A port of the host; else a port that the host may reach.
    pub is_inbound: bool,
    pub protocol: u8,
    pub port: u16,
    /// Who may be at the other side; everybody without.
    pub remote: Option<(IpAddr, u8)>,
}

/// What a guarded interface's programs let through, and where the rest goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Openings {
    pub ports: BTreeSet<PortFilter>,
    pub own_addresses: BTreeSet<IpAddr>,
    /// The kernel's end of the private pair; without one the host sends nothing but failsafes.
    pub private_pair: Option<u32>,
}

/// The guarding half of a loaded instance.
pub(super) struct Guard {
    out: RawFd,
    failsafes: LpmTrie<MapData, [u8; 20], u32>,
    own_addresses: HashMap<MapData, [u8; 16], u32>,
    private_pair: Array<MapData, u32>,
    held: Openings,
}

impl Guard {
    pub(super) fn take(object: &mut Ebpf) -> Result<Guard, ProgramError> {
        Ok(Guard {
            out: load_classifier(object, "steer_host_out")?,
            failsafes: take_map(object, "failsafes")?,
            own_addresses: take_map(object, "own_addresses")?,
            private_pair: take_map(object, "private_pair")?,
            held: Openings::default(),
        })
    }

    /// Makes the maps hold this. New entries are added before old ones go; after a failure `held` still says what the
    /// maps hold, and the next call goes on from there.
    pub(super) fn open(&mut self, wanted: &Openings) -> Result<(), ProgramError> {
        let failed = |source| ProgramError::Openings { source };
        for port in wanted.ports.difference(&self.held.ports.clone()) {
            self.failsafes.insert(&port.key(), PRESENT, 0).map_err(failed)?;
            self.held.ports.insert(*port);
        }
        for address in wanted.own_addresses.difference(&self.held.own_addresses.clone()) {
            self.own_addresses.insert(octets(*address), PRESENT, 0).map_err(failed)?;
            self.held.own_addresses.insert(*address);
        }
        for port in self.held.ports.clone().difference(&wanted.ports) {
            // Two texts may mean one entry, which stays as long as one of them is wanted.
            let is_wanted = wanted.ports.iter().any(|other| other.identity() == port.identity());
            if !is_wanted {
                absent_is_fine(self.failsafes.remove(&port.key())).map_err(failed)?;
            }
            self.held.ports.remove(port);
        }
        for address in self.held.own_addresses.clone().difference(&wanted.own_addresses) {
            absent_is_fine(self.own_addresses.remove(&octets(*address))).map_err(failed)?;
            self.held.own_addresses.remove(address);
        }
        if self.held.private_pair != wanted.private_pair {
            self.private_pair.set(0, wanted.private_pair.unwrap_or(0), 0).map_err(failed)?;
            self.held.private_pair = wanted.private_pair;
        }
        Ok(())
    }

    /// Puts the outgoing program on an interface, in place of one of ours that is there.
    pub(super) fn attach(&self, ifindex: u32) -> Result<(), ProgramError> {
        attach(ifindex, BPF_TC_EGRESS, self.out)
    }
}

/// Takes the outgoing program off an interface. Nothing of ours there is no error.
pub(super) fn detach_outgoing(ifindex: u32) -> Result<(), ProgramError> {
    detach(ifindex, BPF_TC_EGRESS)
}

/// The program on the kernel's end of the private pair.
pub struct HostWay {
    ifindex: u32,
    generic_links: HashMap<MapData, u32, u32>,
    program: RawFd,
    /// Owns the program.
    _object: Ebpf,
}

impl HostWay {
    /// Loads the program for an interface; nothing is attached yet.
    pub fn load(ifindex: u32) -> Result<HostWay, ProgramError> {
        let mut object = with_loader("steer_host_in", GUARD_OBJECT)?;
        let program = load_classifier(&mut object, "steer_host_in")?;
        let generic_links = take_map(&mut object, "generic_links")?;
        Ok(HostWay { ifindex, generic_links, program, _object: object })
    }

    /// Puts the program on its interface, in place of one of ours that is there.
    pub fn attach(&self) -> Result<(), ProgramError> {
        attach(self.ifindex, BPF_TC_INGRESS, self.program)
    }

    /// Says how the XDP program of an uplink runs: in generic mode it must not see again what it has let go.
    pub fn set_mode(&mut self, uplink: u32, mode: XdpMode) -> Result<(), ProgramError> {
        let result = match mode {
            XdpMode::Generic => self.generic_links.insert(uplink, PRESENT, 0),
            XdpMode::Native => absent_is_fine(self.generic_links.remove(&uplink)),
        };
        result.map_err(|source| ProgramError::Openings { source })
    }

    pub fn is_on(&self, ifindex: u32) -> bool {
        self.ifindex == ifindex
    }

    /// Takes the program off an interface. Nothing of ours there is no error.
    pub fn detach(ifindex: u32) -> Result<(), ProgramError> {
        detach(ifindex, BPF_TC_INGRESS)
    }
}

impl PortFilter {
    fn key(&self) -> Key<[u8; 20]> {
        let (bits, octets) = match self.remote {
            None => (0, [0; 16]),
            Some((address @ IpAddr::V4(_), length)) => (96 + u32::from(length), octets(address)),
            Some((address @ IpAddr::V6(_), length)) => (u32::from(length), octets(address)),
        };
        let mut data = [0; 20];
        data[0] = u8::from(!self.is_inbound);
        data[1] = self.protocol;
        data[2..4].copy_from_slice(&self.port.to_be_bytes());
        data[4..].copy_from_slice(&octets);
        Key::new(PORT_BITS + bits, data)
    }

    /// What the kernel tells keys apart by: the whole of it, since the address is masked already.
    fn identity(&self) -> (u32, [u8; 20]) {
        let key = self.key();
        (key.prefix_len(), key.data())
    }
}

/// An address in the form of the maps: IPv4 mapped.
pub(super) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

pub(super) fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        result => result,
    }
}

pub(super) fn load_classifier(object: &mut Ebpf, name: &'static str) -> Result<RawFd, ProgramError> {
    let failed = |error: aya::programs::ProgramError| ProgramError::Load { name, source: error.into() };
    let program = object.program_mut(name).ok_or(ProgramError::Missing { what: "program", name })?;
    let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    Ok(program.fd().map_err(failed)?.as_fd().as_raw_fd())
}

fn hook(ifindex: u32, point: bpf_tc_attach_point) -> bpf_tc_hook {
    bpf_tc_hook {
        sz: size_of::<bpf_tc_hook>() as _,
        ifindex: c_index(ifindex),
        attach_point: point,
        ..bpf_tc_hook::default()
    }
}

fn options(handle: u32) -> bpf_tc_opts {
    bpf_tc_opts { sz: size_of::<bpf_tc_opts>() as _, handle, priority: PRIORITY, ..bpf_tc_opts::default() }
}

fn result(code: libc::c_int) -> io::Result<()> {
    if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
}

/// Which of our handles has a filter of ours there.
fn find(ifindex: u32, point: bpf_tc_attach_point) -> Option<u32> {
    [WITH_OWN_QDISC, WITH_FOREIGN_QDISC].into_iter().find(|handle| {
        let mut options = options(*handle);
        // SAFETY: both structures outlive the call and carry their sizes.
        let code = unsafe { libbpf_sys::bpf_tc_query(&hook(ifindex, point), &mut options) };
        code == 0 && is_ours(options.prog_id)
    })
}

pub(super) fn attach(ifindex: u32, point: bpf_tc_attach_point, program: RawFd) -> Result<(), ProgramError> {
    let failed = |source| ProgramError::Filter { ifindex, source };
    // SAFETY: without a function, libbpf prints nothing; it makes the change atomically. Refusals are answers here.
    unsafe { libbpf_sys::libbpf_set_print(None) };
    let mut hook = hook(ifindex, point);
    // SAFETY: the structure outlives the call and carries its size.
    let is_made = match result(unsafe { libbpf_sys::bpf_tc_hook_create(&mut hook) }) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => false,
        Err(error) => return Err(failed(error)),
    };
    let fresh = if is_made { WITH_OWN_QDISC } else { WITH_FOREIGN_QDISC };
    let mut options = options(find(ifindex, point).unwrap_or(fresh));
    options.prog_fd = program;
    options.flags = BPF_TC_F_REPLACE;
    // SAFETY: both structures outlive the call and carry their sizes.
    result(unsafe { libbpf_sys::bpf_tc_attach(&hook, &mut options) }).map_err(failed)
}

fn detach(ifindex: u32, point: bpf_tc_attach_point) -> Result<(), ProgramError> {
    let failed = |source| ProgramError::Filter { ifindex, source };
    // SAFETY: as in `attach`.
    unsafe { libbpf_sys::libbpf_set_print(None) };
    let Some(handle) = find(ifindex, point) else { return Ok(()) };
    // SAFETY: both structures outlive the call and carry their sizes.
    result(unsafe { libbpf_sys::bpf_tc_detach(&hook(ifindex, point), &options(handle)) }).map_err(failed)?;
    match handle == WITH_OWN_QDISC && !has_filters(ifindex).map_err(failed)? {
        true => remove_discipline(ifindex),
        false => Ok(()),
    }
}

/// Takes clsact off an interface, and with it every filter there.
pub(super) fn remove_discipline(ifindex: u32) -> Result<(), ProgramError> {
    let mut both = hook(ifindex, BPF_TC_INGRESS | BPF_TC_EGRESS);
    // SAFETY: the structure outlives the call and carries its size.
    result(unsafe { libbpf_sys::bpf_tc_hook_destroy(&mut both) })
        .map_err(|source| ProgramError::Filter { ifindex, source })
}

/// Whether the interface's clsact has a filter, whoever's. Asks the kernel by netlink, which libbpf cannot.
fn has_filters(ifindex: u32) -> io::Result<bool> {
    // SAFETY: makes a descriptor, which is owned from here on.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    for parent in PARENTS {
        if dump_has_filter(&socket, ifindex, parent)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One dump to its end. Messages: struct nlmsghdr (16 bytes), struct tcmsg (20 bytes) in linux/rtnetlink.h.
fn dump_has_filter(socket: &OwnedFd, ifindex: u32, parent: u32) -> io::Result<bool> {
    const LENGTH: usize = 36;
    let mut request = [0u8; LENGTH];
    request[..4].copy_from_slice(&(LENGTH as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_GETTFILTER.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request[20..24].copy_from_slice(&c_index(ifindex).to_ne_bytes());
    request[28..32].copy_from_slice(&parent.to_ne_bytes());
    // SAFETY: the buffer is as long as is said.
    if unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), LENGTH, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut is_found = false;
    let mut buffer = vec![0u8; 65_536];
    loop {
        // SAFETY: the buffer is as long as is said.
        let length = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((header, _)) = rest.split_first_chunk::<16>() {
            let size = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(is_found),
                libc::NLMSG_ERROR => {
                    let code =
                        rest.get(16..20).and_then(|code| code.first_chunk()).map_or(0, |c| i32::from_ne_bytes(*c));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => is_found |= kind == libc::RTM_NEWTFILTER,
            }
            // A message is never shorter than its header, so this ends.
            rest = rest.get(size.next_multiple_of(4).max(16)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn keys_of_failsafe_ports() {
        let filter = |remote: Option<(&str, u8)>| PortFilter {
            is_inbound: false,
            protocol: 17,
            port: 0x1234,
            remote: remote.map(|(address, length)| (address.parse().unwrap(), length)),
        };
        let key = |remote| filter(remote).identity();
        assert_eq!(key(None).0, 32, "everybody: only direction, protocol and port count");
        assert_eq!(key(None).1[..4], [1, 17, 0x12, 0x34]);
        assert_eq!(key(Some(("10.0.0.0", 8))).0, 32 + 96 + 8);
        assert_eq!(key(Some(("10.0.0.0", 8))).1[14..], [0xff, 0xff, 10, 0, 0, 0]);
        assert_eq!(key(Some(("fd00::", 8))).0, 32 + 8);
    }
}
