//! The AF_XDP queues on real veth pairs: packets cross unchanged, interfaces come and go, and no frame is lost.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod io_lab;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use fastpath::io::xsk::{Backend, QueueOptions, XskError, XskMemory, XskOptions};
use fastpath::io::{Queue, Retired};
use fastpath::packet::Offload;
use io_lab::{
    DEADLINE, EXPERIMENT, FRAMES, RawSocket, between_two, for_each_backend, forwarder, forwarder_with, in_namespace,
    ip, own_sysfs, pattern, program_for, run, veth, workload,
};

#[test]
fn frames_cross_between_two_queues_unchanged() {
    for_each_backend(|backend| {
        let (memory, mut forwarder, [program1, _program2]) = between_two(backend, 1500);
        assert!(!memory.multi_buffer());
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
    for_each_backend(|backend| {
        veth("near1", "far1", 1500);
        let (memory, mut forwarder) = forwarder(backend, 2048);
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
    for_each_backend(|backend| {
        let (_memory, mut forwarder, _programs) = between_two(backend, 9000);
        let (far1, far2) = (RawSocket::new("far1", EXPERIMENT), RawSocket::new("far2", EXPERIMENT));
        let lengths: Vec<usize> =
            [60, 1514, 3839, 3840, 3841, 7680, 7681, 9013, 9014].into_iter().chain((14..9014).step_by(97)).collect();
        for (number, lengths) in lengths.chunks(16).enumerate() {
            // A small budget cuts packets in two at every call.
            forwarder.budget = if number % 2 == 0 { 256 } else { 2 };
            let sent: Vec<_> = lengths.iter().map(|len| pattern(*len, number)).collect();
            sent.iter().for_each(|bytes| far1.send(bytes));
            assert_eq!(forwarder.until(&far2, sent.len()), sent);
        }
        assert_eq!(forwarder.refused, 0);
        // Closing in the middle of a packet frees the part that has come.
        far1.send(&pattern(9014, 0));
        let mut out = Vec::new();
        forwarder.queues[0].receive(&mut forwarder.umem, 1, &mut out);
        assert_eq!((out.len(), forwarder.umem.audit().held), (0, 1));
        forwarder.end();
    });
}

#[test]
fn an_interface_that_disappears_takes_no_frames_and_no_later_bind_with_it() {
    for_each_backend(|backend| {
        let (memory, mut forwarder, _programs) = between_two(backend, 1500);
        // The first interface after the anchor is the one that goes.
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
        let ready = forwarder.sleeper.wait(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(ready, 0, "a dead interface must not keep the worker awake");
        // This one is closed as a worker does it that must not pause.
        let retired = forwarder.queues.remove(0).retire(&mut forwarder.umem);
        let released = std::thread::spawn(|| retired.close()).join().unwrap();
        let before = forwarder.umem.free_frames();
        assert_eq!(forwarder.umem.recover(released), forwarder.umem.free_frames() - before);

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
    for_each_backend(|backend| {
        veth("near1", "far1", 1500);
        let (memory, forwarder) = forwarder(backend, 2048);
        let open = |interface: &str, queue| memory.open(interface, queue, QueueOptions::default());
        let _queue = open("near1", 0).unwrap();
        assert!(matches!(open("near1", 0), Err(XskError::Taken { .. } | XskError::Bind { .. })));
        let missing = open("nowhere", 0).err().unwrap().to_string();
        assert_eq!(missing, "bind a socket to queue 0 of nowhere: no such interface in this network namespace");
        let beyond = open("near1", 77).err().unwrap().to_string();
        assert_eq!(beyond, "bind a socket to queue 77 of near1: the interface has no such queue");
        let other = XskMemory::new(XskOptions { backend, ..XskOptions::new("near1", 0) }).err().unwrap().to_string();
        assert_eq!(other, "bind a socket to queue 0 of near1: another process has a socket there");
        assert!(open("anchor0", 0).is_ok(), "the anchor's own queue can be used");
        assert!(matches!(open("anchor0", 0), Err(XskError::Taken { .. })));
        forwarder.end();
    });
}

#[test]
fn a_full_ring_refuses_and_an_interface_that_is_down_keeps_what_waits() {
    for_each_backend(|backend| {
        veth("near1", "far1", 1500);
        veth("anchor0", "anchor1", 1500);
        let options = XskOptions { backend, frame_count: 128, ring_size: 32, ..XskOptions::new("anchor0", 0) };
        let (memory, mut forwarder) = forwarder_with(options);
        let (queue, _program) = workload(&memory, "near1", false);
        forwarder.add(queue);
        let (umem, queue) = (&mut forwarder.umem, &mut forwarder.queues[0]);
        assert_eq!(umem.audit().in_queues, 32, "no more than the ring holds");
        let far = RawSocket::new("far1", EXPERIMENT);

        ip("link set near1 down");
        let mut taken = Vec::new();
        for seed in 0..40 {
            let packet = umem.copy_in([pattern(60, seed).as_slice()]).unwrap();
            match queue.send(umem, packet) {
                Ok(()) => taken.push(pattern(60, seed)),
                Err(packet) => umem.free(packet),
            }
        }
        assert_eq!(taken.len(), 32);
        queue.flush(umem);
        assert_eq!(far.receive(), None);
        ip("link set near1 up");
        queue.flush(umem);
        assert_eq!(std::iter::from_fn(|| far.receive()).collect::<Vec<_>>(), taken);

        let (empty, long) = (umem.allocate().unwrap(), umem.copy_in([[0; 2000].as_slice()]).unwrap());
        for unsendable in [empty, long] {
            let packet = queue.send(umem, unsendable).unwrap_err();
            umem.free(packet);
        }
        forwarder.end();
    });
}

#[test]
fn lending_leaves_a_reserve() {
    for_each_backend(|backend| {
        veth("anchor0", "anchor1", 1500);
        let options = XskOptions { backend, frame_count: 64, ..XskOptions::new("anchor0", 0) };
        let (memory, mut forwarder) = forwarder_with(options);
        for (number, lent) in [(1, 32), (2, 48), (3, 56), (4, 60), (5, 60)] {
            let near = format!("near{number}");
            veth(&near, &format!("far{number}"), 1500);
            forwarder.add(memory.open(&near, 0, QueueOptions::default()).unwrap());
            assert_eq!(forwarder.umem.audit().in_queues, lent, "{number} queues");
        }
        forwarder.end();
    });
}

/// An IPv4 packet with 32 bytes in UDP, whose checksum field holds the sum of the pseudo header, and where that is.
fn partial_udp(destination: [u8; 6]) -> (Vec<u8>, Offload) {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], destination)
        .ipv4([10, 1, 0, 1], [10, 1, 0, 2], 64)
        .udp(4000, 5000);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[0x5a; 32]).unwrap();
    // Addresses, the protocol's number and UDP's length.
    let mut sum: u32 = 17 + 40;
    sum += bytes[26..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    bytes[40..42].copy_from_slice(&(sum as u16).to_be_bytes());
    (bytes, Offload { checksum_start: 34, checksum_offset: 6, ..Offload::default() })
}

#[test]
fn a_partial_checksum_is_finished_by_the_kernel_or_by_us() {
    for_each_backend(|backend| {
        veth("near1", "far1", 1500);
        ip("link set far1 address 02:00:00:00:00:02");
        ip("addr add 10.1.0.2/24 dev far1");
        ip("neigh add 10.1.0.1 lladdr 02:00:00:00:00:01 dev far1");
        let (memory, mut forwarder) = forwarder(backend, 2048);
        let (queue, _program) = workload(&memory, "near1", false);
        forwarder.add(queue);
        let receiver = UdpSocket::bind("10.1.0.2:5000").unwrap();
        receiver.set_read_timeout(Some(DEADLINE)).unwrap();
        let sniffer = RawSocket::new("far1", 0x0800);
        let (bytes, offload) = partial_udp([2, 0, 0, 0, 0, 2]);
        // The kernel's own finishing is seen only where a checksum leaves the machine.
        assert_eq!(memory.finishes_checksums(), backend == Backend::Raw, "kernel 6.11 and later");
        for mark in [offload, Offload::default()] {
            let mut packet = forwarder.umem.copy_in([bytes.as_slice()]).unwrap();
            packet.offload = mark;
            let queue = &mut forwarder.queues[0];
            queue.send(&mut forwarder.umem, packet).unwrap();
            queue.flush(&mut forwarder.umem);
            let mut buffer = [0; 64];
            let is_marked = mark != Offload::default();
            if is_marked {
                assert_eq!(receiver.recv(&mut buffer).unwrap(), 32);
                let seen = std::iter::from_fn(|| sniffer.receive()).find(|seen| seen.len() == bytes.len()).unwrap();
                assert_eq!(seen[40..42] == bytes[40..42], memory.finishes_checksums(), "left to who receives it");
            } else {
                receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                assert!(receiver.recv(&mut buffer).is_err(), "a checksum that nobody finishes is a wrong one");
            }
        }
        forwarder.end();
    });
}

#[test]
fn a_receiver_on_a_thread_of_its_own_loses_nothing() {
    for_each_backend(|backend| {
        own_sysfs();
        veth("near1", "far1", 1500);
        run("ethtool", "-K near1 tso off");
        run("ethtool", "-K far1 gro on");
        std::fs::write("/sys/class/net/far1/threaded", "1").unwrap();
        let (memory, mut forwarder) = forwarder(backend, 2048);
        let (queue, _program) = workload(&memory, "near1", false);
        forwarder.add(queue);
        let far = RawSocket::new("far1", EXPERIMENT);
        let sent: Vec<_> = (0..700).map(|seed| pattern(60, seed)).collect();
        let (umem, queue) = (&mut forwarder.umem, &mut forwarder.queues[0]);
        for bytes in &sent {
            let packet = umem.copy_in([bytes.as_slice()]).unwrap();
            queue.send(umem, packet).unwrap();
        }
        queue.flush(umem);
        // What did not fit the far end's ring waits, and the queue says so.
        let end = Instant::now() + DEADLINE;
        while queue.is_held_up() {
            assert!(Instant::now() < end, "still held up: {:?}", umem.audit());
            std::thread::yield_now();
            queue.flush(umem);
        }
        let mut received = Vec::new();
        while received.len() < sent.len() {
            assert!(Instant::now() < end, "{} of {} arrived", received.len(), sent.len());
            received.extend(std::iter::from_fn(|| far.receive()));
        }
        assert_eq!(received, sent);
        forwarder.end();
    });
}

#[test]
fn queues_that_registered_the_memory_alone_share_frames_with_the_others() {
    in_namespace(|| {
        for number in 1..=3 {
            veth(&format!("near{number}"), &format!("far{number}"), 1500);
        }
        let (memory, mut forwarder) = forwarder(Backend::Raw, 2048);
        // The one stands alone, in a mode of its own; the other shares the anchor's.
        let alone = memory.open("near1", 0, QueueOptions { alone: true, ..QueueOptions::default() }).unwrap();
        let _alone = program_for(&alone, false);
        let (shared, _program) = workload(&memory, "near2", false);
        forwarder.add(alone);
        forwarder.add(shared);
        let (far1, far2) = (RawSocket::new("far1", EXPERIMENT), RawSocket::new("far2", EXPERIMENT));
        for round in 0..20 {
            let sent: Vec<_> = (14..60).map(|len| pattern(len * 20, round)).collect();
            let (from, to) = if round % 2 == 0 { (&far1, &far2) } else { (&far2, &far1) };
            sent.iter().for_each(|bytes| from.send(bytes));
            assert_eq!(forwarder.until(to, sent.len()), sent);
        }
        // The interface of the one that stands alone may go; the others do not notice.
        drop(far1);
        ip("link del near1");
        forwarder.breathe();
        forwarder.remove(0);
        let (queue3, _program3) = workload(&memory, "near3", false);
        let far3 = RawSocket::new("far3", EXPERIMENT);
        forwarder.add(queue3);
        far3.send(&pattern(100, 1));
        assert_eq!(forwarder.until(&far2, 1), [pattern(100, 1)]);
        forwarder.end();
    });
}

#[test]
fn an_interface_that_disappears_under_load_gives_every_frame_back() {
    for_each_backend(|backend| {
        let (memory, mut forwarder, _programs) = between_two(backend, 1500);
        let far2 = RawSocket::new("far2", EXPERIMENT);
        let mut deletion = None;
        for round in 0..300 {
            (0..32).for_each(|seed| far2.send(&pattern(900, seed)));
            forwarder.breathe();
            if round == 100 {
                let mut command = std::process::Command::new("ip");
                deletion = Some(command.args(["link", "del", "near1"]).spawn().unwrap());
            }
        }
        assert!(deletion.unwrap().wait().unwrap().success());
        forwarder.breathe();
        assert_eq!(forwarder.umem.audit().held, 0);
        forwarder.remove(0);
        veth("near3", "far3", 1500);
        let (queue3, _program3) = workload(&memory, "near3", false);
        forwarder.add(queue3);
        let far3 = RawSocket::new("far3", EXPERIMENT);
        far3.send(&pattern(300, 3));
        assert_eq!(forwarder.until(&far2, 1), [pattern(300, 3)]);
        forwarder.end();
    });
}

#[test]
fn a_queue_that_was_just_closed_can_be_bound_again_and_may_poll() {
    for_each_backend(|backend| {
        veth("near1", "far1", 1500);
        let (memory, mut forwarder) = forwarder(backend, 2048);
        let far = RawSocket::new("far1", EXPERIMENT);
        for round in 0..5 {
            // A veth has nothing to poll; that it is asked must not be in the way of packets.
            let busy_poll = round % 2 == 1;
            let options = QueueOptions { busy_poll, ..QueueOptions::default() };
            let queue = memory.open("near1", 0, options).unwrap();
            assert_eq!(queue.is_busy_polled(), busy_poll, "kernel 5.11 and later");
            let _program = program_for(&queue, false);
            forwarder.add(queue);
            (0..20).for_each(|seed| far.send(&pattern(100, seed)));
            // The only queue forwards to itself.
            assert_eq!(forwarder.until(&far, 20).len(), 20);
            forwarder.remove(0);
        }
        forwarder.end();
    });
}
