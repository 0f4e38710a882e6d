//! AF_XDP over network cards whose driver uses frames in place, in a virtual machine that has some (`.ci/zerocopy`):
//! bytes, frames and modes, in both ways to register the memory.
//!
//! ```text
//!     raw socket ── far1 ═══ near1 ── XskQueue ┐
//!     raw socket ── far2 ═══ near2 ── XskQueue ┼ one Umem        near1, far1, near2, far2 are cards,
//!     raw socket ── far3 ═══ near3 ── XskQueue ┘                 near3 and far3 a veth pair
//! ```
//!
//! Elsewhere each test says that it is not run, and passes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod io_lab;

use std::env;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastpath::io::program::Program;
use fastpath::io::xsk::{Backend, QueueOptions, XskMemory, XskOptions, XskQueue};
use fastpath::io::{CopyMode, Queue};

use io_lab::{
    DEADLINE, EXPERIMENT, FRAMES, Forwarder, RawSocket, forwarder, forwarder_with, in_namespace, ip, pattern,
    program_for, run, veth, workload,
};

/// Set in the virtual machine.
const MACHINE: &str = "ZEROCOPY_CARDS";
const CARDS: [&str; 4] = ["near1", "far1", "near2", "far2"];
const ALONE: QueueOptions = QueueOptions { fill_limit: 2048, alone: true, busy_poll: false, is_short: false };

/// Runs the test in a network namespace of its own that has the four cards; they go back when it ends.
fn with_cards(test: impl FnOnce() + Send + 'static) {
    if env::var_os(MACHINE).is_none() {
        eprintln!("not run: needs network cards that use frames in place; .ci/zerocopy has them");
        return;
    }
    in_namespace(|| {
        let task = fs::read_link("/proc/thread-self").unwrap();
        let task = task.file_name().unwrap().to_str().unwrap();
        for (number, name) in CARDS.iter().enumerate() {
            let known = card(number);
            run("nsenter", &format!("--net=/proc/1/ns/net ip link set dev {known} netns {task} name {name}"));
            // The tests' addresses are nobody's.
            ip(&format!("link set dev {name} promisc on up"));
        }
        test();
    });
}

/// The name that a card has in the machine's first namespace, where it is as soon as its last one has ended.
fn card(number: usize) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        for entry in fs::read_dir("/sys/class/net").unwrap() {
            let path = entry.unwrap().path();
            let device = fs::read_link(path.join("device")).unwrap_or_default();
            if device.file_name().is_some_and(|name| *name == *format!("virtio{number}")) {
                return path.file_name().unwrap().to_str().unwrap().to_owned();
            }
        }
        assert!(Instant::now() < deadline, "no card virtio{number}");
        thread::yield_now();
    }
}

/// A queue whose frames the driver uses in place, and its program.
fn in_place(memory: &XskMemory, interface: &str, options: QueueOptions) -> (XskQueue, Program) {
    let queue = memory.open(interface, 0, options).unwrap();
    assert_eq!(queue.copy_mode(), CopyMode::ZeroCopy, "{interface}");
    let program = program_for(&queue, memory.multi_buffer());
    (queue, program)
}

/// A forwarder's ends of both pairs of cards, each with the memory registered for itself alone.
fn each_in_place(memory: &XskMemory, forwarder: &mut Forwarder) -> [Program; 2] {
    ["near1", "near2"].map(|near| {
        let (queue, program) = in_place(memory, near, ALONE);
        forwarder.add(queue);
        program
    })
}

/// Sends packets of every length each way between the far ends of a forwarder's two queues.
fn every_length_passes(forwarder: &mut Forwarder, far: [&str; 2]) {
    let [one, other] = far.map(|interface| RawSocket::new(interface, EXPERIMENT));
    for (from, to) in [(&one, &other), (&other, &one)] {
        let lengths: Vec<usize> = (60..=1514).collect();
        // As many as the queues start with frames for.
        for lengths in lengths.chunks(48) {
            let sent: Vec<_> = lengths.iter().map(|length| pattern(*length, *length)).collect();
            sent.iter().for_each(|bytes| from.send(bytes));
            let received = forwarder.until(to, sent.len());
            for (received, sent) in received.iter().zip(&sent) {
                assert!(received == sent, "of {} bytes {} arrived, or others", sent.len(), received.len());
            }
        }
    }
    assert_eq!(forwarder.refused, 0);
    for queue in &forwarder.queues {
        assert_eq!(queue.statistics().invalid_descriptors, 0, "{}", queue.interface());
    }
}

#[test]
fn two_cards_share_one_registration() {
    for backend in [Backend::XskRs, Backend::Raw] {
        with_cards(move || {
            let options = XskOptions { backend, frame_count: FRAMES, zero_copy: true, ..XskOptions::new("near1", 0) };
            let (memory, mut forwarder) = forwarder_with(options);
            let programs = ["near1", "near2"].map(|near| {
                let (queue, program) = in_place(&memory, near, QueueOptions::default());
                forwarder.add(queue);
                program
            });
            every_length_passes(&mut forwarder, ["far1", "far2"]);
            drop(programs);
        });
    }
}

#[test]
fn two_cards_register_the_memory_each() {
    with_cards(|| {
        let (memory, mut forwarder) = forwarder(Backend::Raw, 2048);
        let programs = each_in_place(&memory, &mut forwarder);
        every_length_passes(&mut forwarder, ["far1", "far2"]);
        forwarder.end();
        drop(programs);
    });
}

#[test]
fn a_card_and_a_veth_share_frames() {
    with_cards(|| {
        veth("near3", "far3", 1500);
        let (memory, mut forwarder) = forwarder(Backend::Raw, 2048);
        let (card, _card_program) = in_place(&memory, "near1", ALONE);
        let (pair, _pair_program) = workload(&memory, "near3", false);
        forwarder.add(card);
        forwarder.add(pair);
        every_length_passes(&mut forwarder, ["far1", "far3"]);
        forwarder.end();
    });
}

#[test]
fn a_card_of_short_packets_is_used_in_place_among_long_ones() {
    with_cards(|| {
        veth("near3", "far3", 1500);
        let (memory, mut forwarder) = forwarder(Backend::Raw, 4096);
        assert!(memory.multi_buffer());
        let queue = memory.open("near1", 0, ALONE).unwrap();
        assert_eq!(
            (queue.copy_mode(), queue.is_multi_buffer()),
            (CopyMode::Copy, true),
            "this driver chains none in place"
        );
        forwarder.add(queue);
        forwarder.remove(0);
        let (card, _card_program) = in_place(&memory, "near1", QueueOptions { is_short: true, ..ALONE });
        assert!(!card.is_multi_buffer());
        let (pair, _pair_program) = workload(&memory, "near3", true);
        forwarder.add(card);
        forwarder.add(pair);
        every_length_passes(&mut forwarder, ["far1", "far3"]);
        // What it cannot carry is refused, not sent in part.
        let long = [0x55; 5000];
        let packet = forwarder.umem.copy_in([&long[..]]).unwrap();
        let packet = forwarder.queues[0].send(&mut forwarder.umem, packet).unwrap_err();
        forwarder.umem.free(packet);
        forwarder.end();
    });
}

#[test]
fn nobody_writes_to_the_frames_of_a_closed_queue() {
    with_cards(|| {
        let (memory, mut forwarder) = forwarder(Backend::Raw, 2048);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let far = RawSocket::new("far1", EXPERIMENT);
            let is_over = &is_over;
            scope.spawn(move || {
                let bytes = pattern(1500, 1);
                while !is_over.load(Ordering::Relaxed) {
                    far.offer(&bytes);
                }
            });
            for _ in 0..20 {
                let (queue, _program) = in_place(&memory, "near1", ALONE);
                let mut arrived = 0;
                forwarder.add(queue);
                while arrived < 100 {
                    forwarder.queues[0].receive(&mut forwarder.umem, 64, &mut forwarder.burst);
                    arrived += forwarder.burst.len();
                    forwarder.burst.drain(..).for_each(|packet| forwarder.umem.free(packet));
                    forwarder.queues[0].reclaim(&mut forwarder.umem);
                }
                forwarder.remove(0);
                let umem = &mut forwarder.umem;
                let marks: Vec<_> = std::iter::from_fn(|| umem.copy_in([&[0xa5; 1500][..]])).collect();
                assert_eq!(marks.len(), umem.frame_count(), "every frame came back");
                let watched = Instant::now() + Duration::from_millis(50);
                while Instant::now() < watched {
                    let is_untouched = |mark| umem.data(mark).iter().all(|byte| *byte == 0xa5);
                    assert!(marks.iter().all(is_untouched), "somebody wrote to a free frame");
                }
                marks.into_iter().for_each(|mark| umem.free(mark));
            }
            is_over.store(true, Ordering::Relaxed);
        });
        forwarder.end();
    });
}

#[test]
fn a_card_that_goes_down_under_load_works_again_and_may_be_closed_while_down() {
    with_cards(|| {
        let (memory, mut forwarder) = forwarder(Backend::Raw, 2048);
        let programs = each_in_place(&memory, &mut forwarder);
        for _ in 0..3 {
            let [far1, far2] = ["far1", "far2"].map(|interface| RawSocket::new(interface, EXPERIMENT));
            for near in ["near2", "near1"] {
                let mut downs = Command::new("ip").args(["link", "set", "dev", near, "down"]).spawn().unwrap();
                while downs.try_wait().unwrap().is_none() {
                    far1.offer(&pattern(900, 1));
                    far2.offer(&pattern(900, 2));
                    forwarder.breathe();
                }
                ip(&format!("link set dev {near} up"));
            }
            // What was on its way is lost or late; what is sent from now on passes.
            let settled = Instant::now() + Duration::from_millis(300);
            while Instant::now() < settled {
                forwarder.breathe();
            }
            far1.drain();
            far2.drain();
            forwarder.refused = 0;
            every_length_passes(&mut forwarder, ["far1", "far2"]);
        }
        ip("link set dev near1 down");
        forwarder.end();
        drop(programs);
    });
}
