//! The AF_XDP back-end on real veth pairs: frames cross unchanged, interfaces come and go, and a killed router
//! leaves nothing open.
//!
//! ```text
//!     test, raw socket ── far1 ═══ near1 ── XskQueue ┐
//!                                                    ├ one Umem, anchored at anchor0
//!     test, raw socket ── far2 ═══ near2 ── XskQueue ┘
//! ```
//!
//! Each test runs in a network namespace that has no name and ends with the test's thread, so nothing is left behind
//! however the test ends. Needs root; without it each test says so and passes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, BufRead, BufReader};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fastpath::io::program::{Preference, Program, ProgramError, Role, TunnelEnd};
use fastpath::io::sleep::Sleeper;
use fastpath::io::umem::{FrameCount, Umem};
use fastpath::io::xsk::{QueueOptions, XskError, XskMemory, XskOptions, XskQueue};
use fastpath::io::{CopyMode, Queue, XdpMode};
use fastpath::packet::Packet;

/// An EtherType for experiments, so that the kernel's own packets are not mistaken for ours.
const EXPERIMENT: u16 = 0x88b5;
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const DEADLINE: Duration = Duration::from_secs(10);
const FRAMES: u32 = 1024;

/// Says which test a process started by a test should become; see `a_killed_router_leaves_nothing_open`.
const CHILD: &str = "IO_VETH_CHILD";

/// Two queues that forward to each other, as a worker does with them.
struct Forwarder {
    umem: Umem,
    queues: Vec<XskQueue>,
    sleeper: Sleeper,
    burst: Vec<Packet>,
    refused: usize,
}

impl Forwarder {
    /// Moves what has arrived at each queue to the next one, once.
    fn breathe(&mut self) {
        let Forwarder { umem, queues, burst, .. } = self;
        for from in 0..queues.len() {
            queues[from].receive(umem, 256, burst);
            let to = (from + 1) % queues.len();
            for packet in burst.drain(..) {
                if let Err(packet) = queues[to].send(umem, packet) {
                    self.refused += 1;
                    umem.free(packet);
                }
            }
        }
        for queue in queues {
            queue.flush(umem);
            queue.reclaim(umem);
        }
    }

    /// Forwards until `far` has received `count` packets. Sleeps when nothing moves.
    fn until(&mut self, far: &RawSocket, count: usize) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + DEADLINE;
        let mut received = Vec::new();
        while received.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} packets: {:?}", received.len(), self.umem.audit());
            self.breathe();
            let before = received.len();
            received.extend(std::iter::from_fn(|| far.receive()));
            if received.len() == before {
                self.sleeper.wait(Some(Duration::from_millis(1))).unwrap();
            }
        }
        received
    }

    fn add(&mut self, queue: XskQueue) {
        self.sleeper.add(queue.fd().unwrap(), self.queues.len() as u64).unwrap();
        self.queues.push(queue);
        self.breathe();
    }

    fn remove(&mut self, index: usize) {
        let queue = self.queues.remove(index);
        self.sleeper.remove(queue.fd().unwrap()).unwrap();
        queue.close(&mut self.umem);
    }

    /// Closes all queues; every frame must then be free.
    fn end(mut self) {
        while !self.queues.is_empty() {
            self.remove(0);
        }
        let all = self.umem.frame_count();
        assert_eq!(self.umem.audit(), FrameCount { free: all, held: 0, in_queues: 0 });
    }
}

/// Memory, anchored, and a forwarder without queues.
fn forwarder(frame_size: usize) -> (XskMemory, Forwarder) {
    veth("anchor0", "anchor1", 1500);
    let options = XskOptions { frame_size, frame_count: FRAMES, ..XskOptions::new("anchor0", 0) };
    let (umem, memory) = XskMemory::new(options).unwrap();
    let sleeper = Sleeper::new().unwrap();
    (memory, Forwarder { umem, queues: Vec::new(), sleeper, burst: Vec::new(), refused: 0 })
}

/// A queue on an interface that has the workload program.
fn workload(memory: &XskMemory, interface: &str, frags: bool) -> (XskQueue, Program) {
    let queue = memory.open(interface, 0, QueueOptions::default()).unwrap();
    assert_eq!((queue.interface(), queue.queue_id(), queue.copy_mode()), (interface, 0, CopyMode::Copy));
    let mut program = Program::load(Role::Workload, frags).unwrap();
    program.register(0, queue.map_fd()).unwrap();
    assert_eq!(program.attach(ifindex(interface), Preference::Auto).unwrap(), XdpMode::Native);
    (queue, program)
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i * 31 + seed * 17) as u8).collect();
    // Not broadcast, so that nothing but the EtherType and the bytes decide; the MAC addresses are nobody's.
    bytes[0] = 0x02;
    bytes[6] = 0x02;
    bytes[12..14].copy_from_slice(&EXPERIMENT.to_be_bytes());
    bytes
}

#[test]
fn frames_cross_between_two_queues_unchanged() {
    in_namespace(|| {
        veth("near1", "far1", 1500);
        veth("near2", "far2", 1500);
        let (memory, mut forwarder) = forwarder(2048);
        assert!(!memory.multi_buffer());
        let (queue1, program1) = workload(&memory, "near1", false);
        let (queue2, _program2) = workload(&memory, "near2", false);
        forwarder.add(queue1);
        forwarder.add(queue2);
        let (far1, far2) = (RawSocket::new("far1", EXPERIMENT), RawSocket::new("far2", EXPERIMENT));

        // Both ways, all lengths, more in all than there are frames, in bursts that the first fill holds.
        let lengths: Vec<usize> = (14..1514).step_by(9).chain([1513, 1514]).collect();
        for round in 0..8 {
            for (number, lengths) in lengths.chunks(48).enumerate() {
                let sent: Vec<_> = lengths.iter().map(|len| pattern(*len, round * 100 + number)).collect();
                let (from, to) = if round % 2 == 0 { (&far1, &far2) } else { (&far2, &far1) };
                sent.iter().for_each(|bytes| from.send(bytes));
                assert_eq!(forwarder.until(to, sent.len()), sent);
            }
        }
        assert_eq!(forwarder.refused, 0);
        let counters = program1.counters().unwrap();
        assert_eq!((counters.redirected, counters.dropped_no_socket), (4 * lengths.len() as u64, 0));
        forwarder.end();
    });
}

#[test]
fn a_long_burst_leaves_in_one_flush_and_a_growing_fill_ring_receives_one() {
    in_namespace(|| {
        veth("near1", "far1", 1500);
        let (memory, mut forwarder) = forwarder(2048);
        let (queue, _program) = workload(&memory, "near1", false);
        let far = RawSocket::new("far1", EXPERIMENT);
        forwarder.add(queue);
        let (umem, queue) = (&mut forwarder.umem, &mut forwarder.queues[0]);
        let sent: Vec<_> = (0..700).map(|seed| pattern(60, seed)).collect();
        for bytes in &sent {
            let packet = umem.copy_in([bytes.as_slice()]).unwrap();
            queue.send(umem, packet).unwrap();
        }
        queue.flush(umem);
        assert_eq!(std::iter::from_fn(|| far.receive()).collect::<Vec<_>>(), sent);
        queue.reclaim(umem);
        assert_eq!(umem.audit().in_queues, 64, "all 700 came back; the fill ring has its own");

        // Each burst finds the fill ring too small until it has grown; the last must pass whole.
        let mut received = 0;
        for _ in 0..4 {
            (0..256).for_each(|seed| far.send(&pattern(60, seed)));
            let mut out = Vec::new();
            queue.receive(umem, 512, &mut out);
            received = out.len();
            out.into_iter().for_each(|packet| umem.free(packet));
            queue.reclaim(umem);
        }
        assert_eq!(received, 256);
        forwarder.end();
    });
}

#[test]
fn packets_of_several_frames_cross_unchanged() {
    in_namespace(|| {
        veth("near1", "far1", 9000);
        veth("near2", "far2", 9000);
        let (memory, mut forwarder) = forwarder(4096);
        assert!(memory.multi_buffer(), "this kernel has no XDP_USE_SG");
        let (queue1, _program1) = workload(&memory, "near1", true);
        let (queue2, _program2) = workload(&memory, "near2", true);
        forwarder.add(queue1);
        forwarder.add(queue2);
        let (far1, far2) = (RawSocket::new("far1", EXPERIMENT), RawSocket::new("far2", EXPERIMENT));
        let lengths: Vec<usize> =
            [60, 1514, 3839, 3840, 3841, 7680, 7681, 9013, 9014].into_iter().chain((14..9014).step_by(97)).collect();
        for (number, lengths) in lengths.chunks(16).enumerate() {
            let sent: Vec<_> = lengths.iter().map(|len| pattern(*len, number)).collect();
            sent.iter().for_each(|bytes| far1.send(bytes));
            assert_eq!(forwarder.until(&far2, sent.len()), sent);
        }
        assert_eq!(forwarder.refused, 0);
        forwarder.end();
    });
}

#[test]
fn an_interface_that_disappears_takes_no_frames_and_no_later_bind_with_it() {
    in_namespace(|| {
        veth("near1", "far1", 1500);
        veth("near2", "far2", 1500);
        let (memory, mut forwarder) = forwarder(2048);
        // The first interface after the anchor is the one that goes.
        let (queue1, _program1) = workload(&memory, "near1", false);
        let (queue2, _program2) = workload(&memory, "near2", false);
        forwarder.add(queue1);
        forwarder.add(queue2);
        let far2 = RawSocket::new("far2", EXPERIMENT);
        {
            let far1 = RawSocket::new("far1", EXPERIMENT);
            far1.send(&pattern(100, 1));
            assert_eq!(forwarder.until(&far2, 1), [pattern(100, 1)]);
        }
        // Packets wait to be received from it, and to be sent to it, when it goes.
        (0..40).for_each(|seed| far2.send(&pattern(200, seed)));
        ip("link del near1");
        for _ in 0..4 {
            forwarder.breathe();
        }
        assert_eq!(forwarder.umem.audit().held, 0);
        forwarder.remove(0);

        for name in ["3", "4", "5"] {
            let (near, far) = (format!("near{name}"), format!("far{name}"));
            veth(&near, &far, 1500);
            let (queue, _program) = workload(&memory, &near, false);
            let far = RawSocket::new(&far, EXPERIMENT);
            forwarder.add(queue);
            far.send(&pattern(300, 3));
            assert_eq!(forwarder.until(&far2, 1), [pattern(300, 3)]);
            forwarder.remove(1);
            ip(&format!("link del {near}"));
        }
        assert_eq!(forwarder.umem.audit().sum(), FRAMES as usize);
        forwarder.end();
    });
}

#[test]
fn a_queue_is_bound_once_and_errors_say_what_to_do() {
    in_namespace(|| {
        veth("near1", "far1", 1500);
        let (memory, forwarder) = forwarder(2048);
        let open = |interface: &str, queue| memory.open(interface, queue, QueueOptions::default());
        let _queue = open("near1", 0).unwrap();
        assert!(matches!(open("near1", 0), Err(XskError::Taken { .. } | XskError::Bind { .. })));
        let missing = open("nowhere", 0).err().unwrap().to_string();
        assert_eq!(missing, "bind a socket to queue 0 of nowhere: no such interface in this network namespace");
        let beyond = open("near1", 77).err().unwrap().to_string();
        assert_eq!(beyond, "bind a socket to queue 77 of near1: the interface has no such queue");
        let other = XskMemory::new(XskOptions::new("near1", 0)).err().unwrap().to_string();
        assert_eq!(other, "bind a socket to queue 0 of near1: another process has a socket there");
        assert!(open("anchor0", 0).is_ok(), "the anchor's own queue can be used");
        assert!(matches!(open("anchor0", 0), Err(XskError::Taken { .. })));
        forwarder.end();
    });
}

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
        let (memory, mut forwarder) = forwarder(2048);
        let queue = memory.open("near1", 0, QueueOptions::default()).unwrap();
        let mut program = Program::load(Role::Uplink, false).unwrap();
        program.register(0, queue.map_fd()).unwrap();
        let ours = ("10.65.0.0".parse().unwrap(), 26);
        let ours_v6 = ("fd00:65::".parse().unwrap(), 122);
        program.set_prefixes(&[ours, ("10.66.0.9".parse().unwrap(), 32)]).unwrap();
        program.set_prefixes(&[ours, ours_v6]).unwrap();
        let end = TunnelEnd { ipip: true, gre: false, vxlan: Some(4789) };
        program.set_tunnel_ends(&[(HOST.into(), end)]).unwrap();
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
        taken("ipip to the node", &ipv4(HOST, 4, &[0; 40]), true);
        taken("gre to the node", &ipv4(HOST, 47, &[0; 40]), false);
        taken("vxlan to the node", &ipv4(HOST, 17, &[0xc0, 0, 0x12, 0xb5, 0, 8, 0, 0]), true);
        taken("another udp port of the node", &ipv4(HOST, 17, &[0xc0, 0, 0, 53, 0, 8, 0, 0]), false);
        taken("vxlan without ports", &ipv4(HOST, 17, &[0xc0, 0, 0x12]), false);
        let mut late_fragment = ipv4(HOST, 17, &[0xc0, 0, 0x12, 0xb5, 0, 8, 0, 0]);
        late_fragment[14 + 7] = 1;
        taken("late fragment", &late_fragment, false);
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
        let (memory, mut forwarder) = {
            let options = XskOptions { frame_count: FRAMES, ..XskOptions::new("anchor0", 0) };
            let (umem, memory) = XskMemory::new(options).unwrap();
            let sleeper = Sleeper::new().unwrap();
            (memory, Forwarder { umem, queues: Vec::new(), sleeper, burst: Vec::new(), refused: 0 })
        };
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

fn router_that_waits_to_be_killed() -> ! {
    let (_umem, memory) = XskMemory::new(XskOptions { frame_count: FRAMES, ..XskOptions::new("anchor0", 0) }).unwrap();
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

const HOST: [u8; 4] = [192, 0, 2, 1];
/// An address of the prefix that a router takes on its uplink.
const OURS: [u8; 4] = [10, 65, 0, 1];
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

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

/// A packet socket on one interface for one EtherType.
struct RawSocket {
    socket: OwnedFd,
}

impl RawSocket {
    fn new(interface: &str, protocol: u16) -> RawSocket {
        // SAFETY: no pointers are passed, and the descriptor is new.
        let socket = unsafe {
            let flags = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            let fd = libc::socket(libc::AF_PACKET, flags, 0);
            assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        let buffer: libc::c_int = 8 << 20;
        // SAFETY: the pointers are to values that outlive the calls, with their sizes.
        unsafe {
            let (option, length) = ((&raw const buffer).cast(), size_of::<libc::c_int>() as u32);
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, option, length);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol.to_be();
            address.sll_ifindex = ifindex(interface) as i32;
            let length = size_of::<libc::sockaddr_ll>() as u32;
            let result = libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length);
            assert_eq!(result, 0, "bind to {interface}: {}", io::Error::last_os_error());
        }
        RawSocket { socket }
    }

    fn send(&self, bytes: &[u8]) {
        // SAFETY: the bytes outlive the call.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(sent, bytes.len() as isize, "send: {}", io::Error::last_os_error());
    }

    fn receive(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0u8; 10_000];
        // SAFETY: the buffer outlives the call and has that length.
        let count = unsafe { libc::recv(self.socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        bytes.truncate(usize::try_from(count).ok()?);
        Some(bytes)
    }

    fn drain(&self) {
        while self.receive().is_some() {}
    }

    /// True when a packet that `matches` arrives soon.
    fn wait(&self, matches: impl Fn(&[u8]) -> bool) -> bool {
        let mut sleeper = Sleeper::new().unwrap();
        sleeper.add(self.socket.as_raw_fd(), 0).unwrap();
        let deadline = Instant::now() + Duration::from_millis(300);
        loop {
            while let Some(bytes) = self.receive() {
                if bytes.len() >= 35 && matches(&bytes) {
                    return true;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            sleeper.wait(Some(left)).unwrap();
        }
    }
}

/// Runs the test on a thread of its own, in a network namespace of its own that ends with it.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not run: needs root for network namespaces and AF_XDP");
        return;
    }
    let thread = std::thread::spawn(|| {
        // SAFETY: no pointers; changes only this thread, which the test is all that runs on.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "new network namespace: {}", io::Error::last_os_error());
        // The kernel's own IPv6 packets would be in the way. Absent means that it has no IPv6.
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A veth pair, up.
fn veth(near: &str, far: &str, mtu: u32) {
    ip(&format!("link add {near} mtu {mtu} type veth peer name {far} mtu {mtu}"));
    ip(&format!("link set {far} up"));
    ip(&format!("link set {near} up"));
}

fn ip(arguments: &str) {
    ip_output(arguments);
}

fn ip_output(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("run ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ifindex(interface: &str) -> u32 {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: the name ends with a zero byte and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no interface {interface}");
    index
}
