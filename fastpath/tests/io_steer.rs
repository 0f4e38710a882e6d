//! The XDP program on real veth pairs: what it takes, what it leaves to the kernel, and that a killed router leaves
//! nothing open.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod io_lab;

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use fastpath::io::Queue;
use fastpath::io::program::{Preference, Program, ProgramError, Role};
use fastpath::io::xsk::{Backend, QueueOptions, XskMemory, XskOptions};
use io_lab::{
    EXPERIMENT, FRAMES, RawSocket, forwarder, forwarder_with, ifindex, in_namespace, ip, ip_output, pattern, veth,
    workload,
};

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
/// Set for the process that a test starts in order to kill it.
const CHILD: &str = "IO_VETH_CHILD";

const HOST: [u8; 4] = [192, 0, 2, 1];
/// An address of the prefix that a router takes on its uplink.
const OURS: [u8; 4] = [10, 65, 0, 1];
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

#[test]
fn a_new_program_takes_the_place_of_an_old_one_and_detach_can_be_repeated() {
    in_namespace(|| {
        veth("near1", "far1", 1500);
        let index = ifindex("near1");
        for preference in [Preference::Generic, Preference::Auto] {
            let mut old = Program::load(Role::Workload, false).unwrap();
            let mode = old.attach(index, preference).unwrap();
            let mut new = Program::load(Role::Uplink, false).unwrap();
            assert_eq!(new.attach(index, Preference::Auto).unwrap(), mode, "the mode of what was there is kept");
            drop((old, new));
            Program::detach(index).unwrap();
            Program::detach(index).unwrap();
        }
        ip("link del near1");
        assert!(Program::load(Role::Host, false).unwrap().attach(index, Preference::Auto).is_err());
        let mut program = Program::load(Role::Uplink, false).unwrap();
        let error = program.set_prefixes(&[("10.0.0.0".parse().unwrap(), 33)]).unwrap_err();
        assert!(matches!(error, ProgramError::PrefixLength { longest: 32, .. }));
    });
}

#[test]
fn an_uplink_takes_what_is_ours_and_leaves_the_rest_to_the_kernel() {
    in_namespace(|| {
        veth("near1", "far1", 1500);
        let host = Host::new("near1", "far1", HOST);
        let (memory, mut forwarder) = forwarder(Backend::Raw, 2048);
        let queue = memory.open("near1", 0, QueueOptions::default()).unwrap();
        let mut program = Program::load(Role::Uplink, false).unwrap();
        program.register(0, queue.map_fd()).unwrap();
        let ours = ("10.65.0.0".parse().unwrap(), 26);
        let ours_v6 = ("fd00:65::".parse().unwrap(), 122);
        program.set_prefixes(&[ours, ("10.66.0.9".parse().unwrap(), 32)]).unwrap();
        program.set_prefixes(&[ours, ours_v6]).unwrap();
        program.attach(ifindex("near1"), Preference::Auto).unwrap();
        forwarder.queues.push(queue);
        forwarder.queues[0].reclaim(&mut forwarder.umem);
        let far = RawSocket::new("far1", EXPERIMENT);

        let mut taken = |what: &str, bytes: &[u8], expected: bool| {
            let before = program.counters().unwrap();
            far.send(bytes);
            let after = program.counters().unwrap();
            let redirected = after.redirected - before.redirected == 1;
            assert_eq!(redirected, expected, "{what}: {after:?}");
            let mut out = Vec::new();
            forwarder.queues[0].receive(&mut forwarder.umem, 8, &mut out);
            assert_eq!(out.len(), usize::from(expected), "{what}");
            for packet in out {
                assert_eq!(forwarder.umem.data(&packet), bytes, "{what}");
                forwarder.umem.free(packet);
            }
            after
        };
        taken("in the prefix", &ipv4([10, 65, 0, 5], 6, &[0; 20]), true);
        taken("last of the prefix", &ipv4([10, 65, 0, 63], 6, &[0; 20]), true);
        taken("beyond the prefix", &ipv4([10, 65, 0, 64], 6, &[0; 20]), false);
        taken("a prefix that was taken away", &ipv4([10, 66, 0, 9], 6, &[0; 20]), false);
        taken("one tag", &tagged(&[0x8100], &ipv4([10, 65, 0, 5], 6, &[0; 20])), true);
        taken("two tags", &tagged(&[0x88a8, 0x8100], &ipv4([10, 65, 0, 5], 6, &[0; 20])), true);
        taken("three tags", &tagged(&[0x88a8, 0x8100, 0x8100], &ipv4([10, 65, 0, 5], 6, &[0; 20])), false);
        taken("ipv6", &ipv6("fd00:65::3f", 6, &[0; 20]), true);
        taken("ipv6 beyond", &ipv6("fd00:65::40", 6, &[0; 20]), false);
        taken("not IP", &pattern(60, 0), false);
        let mut late_fragment = ipv4([10, 65, 0, 5], 17, &[0; 20]);
        late_fragment[14 + 7] = 1;
        taken("late fragment", &late_fragment, true);
        taken("to the node itself", &ipv4(HOST, 17, &[0; 20]), false);
        let whole = ipv4([10, 65, 0, 5], 6, &[0; 20]);
        let counters = taken("half an IPv4 header", &whole[..14 + 12], false);
        assert_eq!(counters.dropped_malformed, 1);
        host.check_reachable("while the router runs");
        forwarder.end();
    });
}

/// The child attaches a workload program to near1 and an uplink program to near2, each with a socket, and is killed.
#[test]
fn a_killed_router_leaves_nothing_open() {
    if std::env::var(CHILD).is_ok() {
        router_that_waits_to_be_killed();
    }
    in_namespace(|| {
        veth("near1", "far1", 1500);
        veth("near2", "far2", 1500);
        veth("anchor0", "anchor1", 1500);
        let workload = Host::new("near1", "far1", [192, 0, 2, 1]);
        let uplink = Host::new("near2", "far2", [198, 51, 100, 1]);
        // An address that the uplink's program says is ours; without the program the kernel would answer for it.
        ip("addr add 10.65.0.1/32 dev near2");
        workload.check_reachable("of a workload without a program");
        uplink.check_reachable("of an uplink without a program");
        assert!(uplink.answers(OURS), "for our prefix without a program");

        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_router_leaves_nothing_open", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "attached"), "the child did not come up");
        workload.check_unreachable("from a workload's interface");
        uplink.check_reachable("of the uplink");
        assert!(!uplink.answers(OURS), "for our prefix");
        child.kill().unwrap();
        child.wait().unwrap();

        workload.check_unreachable("from a workload's interface after the kill");
        uplink.check_reachable("of the uplink after the kill");
        assert!(!uplink.answers(OURS), "for our prefix after the kill");

        // The next process binds, although the kernel may still be releasing the sockets of the last.
        let (memory, mut forwarder) = forwarder_with(memory_options());
        let (queue, _program) = self::workload(&memory, "near1", false);
        forwarder.add(queue);
        let far = RawSocket::new("far1", EXPERIMENT);
        far.send(&pattern(60, 1));
        assert_eq!(forwarder.until(&far, 1), [pattern(60, 1)], "a lone queue forwards to itself");
        forwarder.end();

        // The positive control: with the programs off, the same packets do reach the kernel.
        Program::detach(ifindex("near1")).unwrap();
        Program::detach(ifindex("near2")).unwrap();
        workload.check_reachable("of a workload after detach");
        assert!(uplink.answers(OURS), "for our prefix after detach");
    });
}

fn memory_options() -> XskOptions {
    XskOptions { frame_count: FRAMES, ..XskOptions::new("anchor0", 0) }
}

fn router_that_waits_to_be_killed() -> ! {
    let (_umem, memory) = XskMemory::new(memory_options()).unwrap();
    let (_queue1, _program1) = workload(&memory, "near1", false);
    let queue2 = memory.open("near2", 0, QueueOptions::default()).unwrap();
    let mut program2 = Program::load(Role::Uplink, false).unwrap();
    program2.register(0, queue2.map_fd()).unwrap();
    program2.set_prefixes(&[("10.65.0.0".parse().unwrap(), 16)]).unwrap();
    program2.attach(ifindex("near2"), Preference::Auto).unwrap();
    println!("\nattached");
    loop {
        std::thread::park();
    }
}

/// The kernel as the owner of a near interface, seen from the far end: it answers ARP and ping, when they reach it.
struct Host {
    address: [u8; 4],
    mac: [u8; 6],
    arp: RawSocket,
    icmp: RawSocket,
}

impl Host {
    /// Gives `near` a /24 in which the far end has address .2.
    fn new(near: &str, far: &str, address: [u8; 4]) -> Host {
        let guest = IpAddr::from(guest(address));
        ip(&format!("addr add {}/24 dev {near}", IpAddr::from(address)));
        ip(&format!("neigh replace {guest} lladdr 02:00:00:00:00:02 dev {near} nud permanent"));
        let link = ip_output(&format!("-br link show {near}"));
        let mac = link.split_whitespace().find(|word| word.matches(':').count() == 5).unwrap();
        let octets: Vec<u8> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
        let (arp, icmp) = (RawSocket::new(far, ARP), RawSocket::new(far, IPV4));
        Host { address, mac: octets.try_into().unwrap(), arp, icmp }
    }

    /// True when the kernel answers an ARP request for its address.
    fn answers_arp(&self) -> bool {
        let mut request = vec![0xff; 6];
        request.extend(GUEST_MAC);
        request.extend(ARP.to_be_bytes());
        request.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend(GUEST_MAC);
        request.extend(guest(self.address));
        request.extend([0; 6]);
        request.extend(self.address);
        self.arp.drain();
        self.arp.send(&request);
        self.arp.wait(|reply| reply[20..22] == [0, 2] && reply[28..32] == self.address)
    }

    /// True when the kernel answers a ping to `destination`.
    fn answers(&self, destination: [u8; 4]) -> bool {
        let mut echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
        let sum = !checksum(&echo);
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut request = ipv4_between(guest(self.address), destination, 1, &echo);
        request[..6].copy_from_slice(&self.mac);
        self.icmp.drain();
        self.icmp.send(&request);
        self.icmp.wait(|reply| reply[26..30] == destination && reply[34] == 0)
    }

    fn check_reachable(&self, when: &str) {
        assert!(self.answers_arp(), "no answer to ARP {when}");
        assert!(self.answers(self.address), "no answer to ping {when}");
    }

    fn check_unreachable(&self, when: &str) {
        assert!(!self.answers_arp(), "an answer to ARP {when}");
        assert!(!self.answers(self.address), "an answer to ping {when}");
    }
}

fn guest([a, b, c, _]: [u8; 4]) -> [u8; 4] {
    [a, b, c, 2]
}

fn ipv4(destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_between(guest(HOST), destination, protocol, payload)
}

fn ipv4_between(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1];
    bytes.extend(GUEST_MAC);
    bytes.extend(IPV4.to_be_bytes());
    let mut header = vec![0x45, 0, 0, 20 + payload.len() as u8, 0, 1, 0, 0, 64, protocol, 0, 0];
    header.extend(source);
    header.extend(destination);
    let sum = !checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(header);
    bytes.extend(payload);
    bytes
}

fn ipv6(destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1];
    bytes.extend(GUEST_MAC);
    bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, payload.len() as u8, protocol, 64]);
    bytes.extend([0xfd; 16]);
    bytes.extend(destination.parse::<std::net::Ipv6Addr>().unwrap().octets());
    bytes.extend(payload);
    bytes
}

/// The packet with VLAN tags of these EtherTypes put in.
fn tagged(tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet[..12].to_vec();
    for tag in tags {
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0, 5]);
    }
    bytes.extend(&packet[12..]);
    bytes
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded + (folded >> 16)) as u16
}
