//! Generator and gauge of measurements, over a veth pair: what is sent arrives whole, with right checksums, in either
//! family; and the gauge counts what arrives.
//!
//! ```text
//!     Blast ── end1 ═══ end2: raw socket, or Gauge
//! ```
//!
//! Needs root; without it each test says so and passes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod io_lab;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use fastpath::header::{build, ethernet, protocol};
use fastpath::io::blast::{self, Blast, BlastError, MAGIC, Plan, Progress};
use fastpath::io::gauge::{Depth, Gauge, Totals};
use io_lab::{DEADLINE, RawSocket, ifindex, in_namespace, veth};

const UDP_AT: usize = 34;

fn frame(is_ipv6: bool, payload: usize) -> Vec<u8> {
    let udp = 8 + payload;
    let (ip, ethertype) = match is_ipv6 {
        false => (build::ipv4(0x0a42_0002, 0x0a43_0002, protocol::UDP, udp).to_vec(), ethernet::ETHERTYPE_IPV4),
        true => (
            build::ipv6(0xfd66 << 112 | 2, 0xfd67 << 112 | 2, protocol::UDP, 64, udp).to_vec(),
            ethernet::ETHERTYPE_IPV6,
        ),
    };
    let mut frame = vec![2; 12];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(ip);
    frame.extend([1024u16, 9, udp as u16, 0].iter().flat_map(|word| word.to_be_bytes()));
    frame.extend(MAGIC.to_be_bytes());
    frame.resize(frame.len() + payload - 4, 0);
    frame
}

/// A pair whose far end receives by NAPI, as generated frames need it.
fn pair() {
    veth("end1", "end2", 1500);
    let status = Command::new("ethtool").args(["-K", "end2", "gro", "on"]).status().unwrap();
    assert!(status.success(), "ethtool");
}

fn plan(rate: Option<f64>, limit: Option<u64>) -> Plan {
    Plan { interface: ifindex("end1"), flows: 1030, rate, burst: 16, limit, sequence: 7, batch: 16 }
}

/// Runs until this is true, and then has run.
fn run(blast: &Blast, mut is_enough: impl FnMut(Progress) -> bool) {
    let is_stopped = AtomicBool::new(false);
    let (send, receive) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let is_stopped = &is_stopped;
        // A thread begins in the namespace of the one that makes it.
        let running = scope.spawn(move || {
            // SAFETY: no arguments.
            send.send(unsafe { libc::gettid() }).unwrap();
            blast.run(is_stopped)
        });
        let thread = receive.recv().unwrap();
        let end = Instant::now() + DEADLINE;
        while !is_enough(blast.progress().unwrap()) && Instant::now() < end && !running.is_finished() {
            thread::yield_now();
        }
        is_stopped.store(true, Ordering::SeqCst);
        while !running.is_finished() {
            blast::interrupt(thread);
            thread::yield_now();
        }
        running.join().unwrap().unwrap();
    });
}

#[test]
fn packets_are_whole_and_their_checksums_right() {
    in_namespace(|| {
        pair();
        for is_ipv6 in [false, true] {
            let far = RawSocket::new("end2", if is_ipv6 { ethernet::ETHERTYPE_IPV6 } else { ethernet::ETHERTYPE_IPV4 });
            let frames = [frame(is_ipv6, 18), frame(is_ipv6, 501), frame(is_ipv6, 1400)];
            let mut blast = Blast::load(&frames).unwrap();
            blast.set(&plan(Some(20_000.0), Some(1100))).unwrap();
            let mut arrived: Vec<Vec<u8>> = Vec::new();
            run(&blast, |_| {
                arrived.extend(far.receive().filter(|bytes| bytes[0] == 2));
                arrived.len() == 1100
            });
            assert_eq!(arrived.len(), 1100);
            let mut flows = BTreeSet::new();
            for (number, bytes) in arrived.iter().enumerate() {
                let headers = PacketHeaders::from_ethernet_slice(bytes).unwrap();
                let payload = headers.payload.slice();
                let Some(TransportHeader::Udp(udp)) = headers.transport else { panic!("no udp") };
                let expected = match headers.net.unwrap() {
                    NetHeaders::Ipv4(ip, _) => {
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                        flows.insert((u128::from(u32::from_be_bytes(ip.source)), udp.source_port));
                        udp.calc_checksum_ipv4(&ip, payload).unwrap()
                    }
                    NetHeaders::Ipv6(ip, _) => {
                        flows.insert((u128::from_be_bytes(ip.source), udp.source_port));
                        udp.calc_checksum_ipv6(&ip, payload).unwrap()
                    }
                    NetHeaders::Arp(_) => panic!("arp"),
                };
                assert_eq!(udp.checksum, expected, "packet {number}");
                assert_eq!(bytes.len(), frames[number % 3].len());
                assert_eq!(payload[..4], MAGIC.to_be_bytes());
                assert_eq!(payload[4..10], (number as u64 + 7).to_be_bytes()[2..]);
            }
            assert_eq!(flows.len(), 1030);
        }
    });
}

#[test]
fn the_gauge_counts_what_the_generator_sent_at_its_rate() {
    in_namespace(|| {
        pair();
        let gauge = Gauge::load(Depth::Whole).unwrap();
        gauge.attach(ifindex("end2")).unwrap();
        let mut blast = Blast::load(&[frame(false, 18)]).unwrap();
        for round in 1..=2 {
            blast.set(&Plan { sequence: round * 10_000, ..plan(Some(50_000.0), Some(2000)) }).unwrap();
            let start = Instant::now();
            run(&blast, |progress| progress.sent == 2000);
            assert!(start.elapsed() >= Duration::from_millis(35), "2000 packets are 40 ms at that rate");
            let totals = gauge.totals().unwrap();
            let expected = Totals { packets: 2000 * round, bytes: 60 * 2000 * round, ..Totals::default() };
            assert_eq!(Totals { foreign: 0, ..totals }, expected);
            assert_eq!(gauge.latencies().unwrap().iter().map(|(_, count)| count).sum::<u64>(), 2000 * round);
        }
        // The same numbers once more: every packet has been seen.
        blast.set(&Plan { sequence: 20_000, ..plan(Some(50_000.0), Some(2000)) }).unwrap();
        run(&blast, |progress| progress.sent == 2000);
        assert_eq!(gauge.totals().unwrap().twice, 2000);
        Gauge::detach(ifindex("end2")).unwrap();
    });
}

#[test]
fn what_cannot_be_a_template_is_refused() {
    in_namespace(|| {
        assert!(matches!(Blast::load(&[]), Err(BlastError::Templates { count: 0 })));
        let short = frame(false, 18)[..59].to_vec();
        let mut tcp = frame(false, 18);
        tcp[23] = protocol::TCP;
        let mut options = frame(false, 18);
        options[14] = 0x46;
        for wrong in [short, tcp, options, vec![0; UDP_AT]] {
            assert!(matches!(Blast::load(&[frame(true, 18), wrong]), Err(BlastError::Template { number: 1 })));
        }
    });
}
