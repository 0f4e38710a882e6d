//! What the AF_XDP tests stand on: a network namespace, veth pairs, raw sockets at their far ends, and a forwarder that
//! uses queues as a worker does.
//!
//! ```text
//!     test, raw socket ── far1 ═══ near1 ── XskQueue ┐
//!                                                    ├ one Umem, anchored at anchor0
//!     test, raw socket ── far2 ═══ near2 ── XskQueue ┘
//! ```
//!
//! A test runs in a network namespace that has no name and ends with the test's thread, so nothing is left behind however
//! the test ends. Needs root; without it each test says so and passes.

// Each test file uses a part of this.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use fastpath::io::program::{Preference, Program, Role};
use fastpath::io::sleep::Sleeper;
use fastpath::io::umem::{FrameCount, Umem};
use fastpath::io::xsk::{Backend, QueueOptions, XskMemory, XskOptions, XskQueue};
use fastpath::io::{CopyMode, Queue, XdpMode};
use fastpath::packet::Packet;

/// An EtherType for experiments, so that the kernel's own packets are not mistaken for ours.
pub const EXPERIMENT: u16 = 0x88b5;
pub const DEADLINE: Duration = Duration::from_secs(10);
pub const FRAMES: u32 = 1024;

/// Two queues that forward to each other, as a worker does with them.
pub struct Forwarder {
    pub umem: Umem,
    pub queues: Vec<XskQueue>,
    pub sleeper: Sleeper,
    pub burst: Vec<Packet>,
    /// Packets per receive.
    pub budget: usize,
    pub refused: usize,
}

impl Forwarder {
    /// Moves what has arrived at each queue to the next one, once.
    pub fn breathe(&mut self) {
        let Forwarder { umem, queues, burst, .. } = self;
        for from in 0..queues.len() {
            queues[from].receive(umem, self.budget, burst);
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
    pub fn until(&mut self, far: &RawSocket, count: usize) -> Vec<Vec<u8>> {
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

    pub fn add(&mut self, queue: XskQueue) {
        self.sleeper.add(queue.fd().unwrap(), self.queues.len() as u64).unwrap();
        self.queues.push(queue);
        self.breathe();
    }

    pub fn remove(&mut self, index: usize) {
        let queue = self.queues.remove(index);
        self.sleeper.remove(queue.fd().unwrap()).unwrap();
        queue.close(&mut self.umem);
    }

    /// Closes all queues; every frame must then be free.
    pub fn end(mut self) {
        while !self.queues.is_empty() {
            self.remove(0);
        }
        let all = self.umem.frame_count();
        assert_eq!(self.umem.audit(), FrameCount { free: all, held: 0, in_queues: 0 });
    }
}

/// Memory, anchored to an interface of its own, and a forwarder without queues.
pub fn forwarder(backend: Backend, frame_size: usize) -> (XskMemory, Forwarder) {
    veth("anchor0", "anchor1", 1500);
    forwarder_with(XskOptions { backend, frame_size, frame_count: FRAMES, ..XskOptions::new("anchor0", 0) })
}

/// The same, with an anchor that exists.
pub fn forwarder_with(options: XskOptions) -> (XskMemory, Forwarder) {
    let (umem, memory) = XskMemory::new(options).unwrap();
    let sleeper = Sleeper::new().unwrap();
    (memory, Forwarder { umem, queues: Vec::new(), sleeper, burst: Vec::new(), budget: 256, refused: 0 })
}

/// A queue on an interface that has the workload program.
pub fn workload(memory: &XskMemory, interface: &str, frags: bool) -> (XskQueue, Program) {
    let queue = memory.open(interface, 0, QueueOptions::default()).unwrap();
    assert_eq!((queue.interface(), queue.queue_id(), queue.copy_mode()), (interface, 0, CopyMode::Copy));
    let program = program_for(&queue, frags);
    (queue, program)
}

/// The workload program, on the interface of this queue and for it.
pub fn program_for(queue: &XskQueue, frags: bool) -> Program {
    let mut program = Program::load(Role::Workload, frags).unwrap();
    program.register(0, queue.map_fd()).unwrap();
    assert_eq!(program.attach(ifindex(queue.interface()), Preference::Auto).unwrap(), XdpMode::Native);
    program
}

/// A forwarder between `near1` and `near2`, whose other ends are `far1` and `far2`. The programs last as long as what is
/// returned with it.
pub fn between_two(backend: Backend, mtu: u32) -> (XskMemory, Forwarder, [Program; 2]) {
    veth("near1", "far1", mtu);
    veth("near2", "far2", mtu);
    let is_large = mtu > 1500;
    let (memory, mut forwarder) = forwarder(backend, if is_large { 4096 } else { 2048 });
    assert!(memory.multi_buffer() || !is_large, "this kernel has no XDP_USE_SG");
    let programs = ["near1", "near2"].map(|near| {
        let (queue, program) = workload(&memory, near, is_large);
        forwarder.add(queue);
        program
    });
    (memory, forwarder, programs)
}

pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i * 31 + seed * 17) as u8).collect();
    // Not broadcast, so that nothing but the EtherType and the bytes decide; the MAC addresses are nobody's.
    bytes[0] = 0x02;
    bytes[6] = 0x02;
    bytes[12..14].copy_from_slice(&EXPERIMENT.to_be_bytes());
    bytes
}

/// A packet socket on one interface for one EtherType.
pub struct RawSocket {
    socket: OwnedFd,
}

impl RawSocket {
    pub fn new(interface: &str, protocol: u16) -> RawSocket {
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

    pub fn send(&self, bytes: &[u8]) {
        assert!(self.offer(bytes), "send: {}", io::Error::last_os_error());
    }

    /// Sends if the kernel takes it at once: a card can be full, or down.
    pub fn offer(&self, bytes: &[u8]) -> bool {
        // SAFETY: the bytes outlive the call.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        sent == bytes.len() as isize
    }

    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0u8; 10_000];
        // SAFETY: the buffer outlives the call and has that length.
        let count = unsafe { libc::recv(self.socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        bytes.truncate(usize::try_from(count).ok()?);
        Some(bytes)
    }

    pub fn drain(&self) {
        while self.receive().is_some() {}
    }

    /// True when a packet that `matches` arrives soon.
    pub fn wait(&self, matches: impl Fn(&[u8]) -> bool) -> bool {
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

/// Runs the test once for each back-end, each time in a network namespace of its own.
pub fn for_each_backend(test: impl Fn(Backend) + Clone + Send + 'static) {
    for backend in [Backend::XskRs, Backend::Raw] {
        eprintln!("back-end {backend:?}");
        let test = test.clone();
        in_namespace(move || test(backend));
    }
}

/// Shows the calling thread's own network namespace in /sys, to this thread alone. For use in `in_namespace`.
pub fn own_sysfs() {
    // SAFETY: no pointers; changes only this thread, which the test is all that runs on.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(result, 0, "new mount namespace: {}", io::Error::last_os_error());
    run("mount", "--make-rslave /");
    run("mount", "-t sysfs sysfs /sys");
}

/// Runs the test on a thread of its own, in a network namespace of its own that ends with it.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
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

/// A veth pair, up. The kernel gives a device a queue only some time after it is up, and loses packets until then.
pub fn veth(near: &str, far: &str, mtu: u32) {
    ip(&format!("link add {near} mtu {mtu} type veth peer name {far} mtu {mtu}"));
    ip(&format!("link set {far} up"));
    ip(&format!("link set {near} up"));
    let deadline = Instant::now() + DEADLINE;
    while [near, far].iter().any(|name| ip_output(&format!("link show {name}")).contains("qdisc noop ")) {
        assert!(Instant::now() < deadline, "{near} and {far} do not come up");
    }
}

pub fn ip(arguments: &str) {
    ip_output(arguments);
}

pub fn ip_output(arguments: &str) -> String {
    run("ip", arguments)
}

pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().expect("run a program");
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn ifindex(interface: &str) -> u32 {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: the name ends with a zero byte and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no interface {interface}");
    index
}
