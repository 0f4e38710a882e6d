//! Every pair of ends of a tester, over the kernel's forwarding: what one end sends, the other finds whole.
//!
//! ```text
//!     generator or socket ── end0 ══ near-a ── kernel ── near-b ══ end0: gauge or socket
//! ```
//!
//! Needs root; without it the test says so and passes. How many packets are lost is the machine's affair; that the books add up
//! is not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use fastpath::io::gauge::Depth;
use perf::forwarder::{self, Kernel, Running};
use perf::lab::Lab;
use perf::traffic::{Family, Size, Traffic};
use perf::trial::{Ends, Generator, Offer, Outcome, Sink, Tester};

const FLOWS: u32 = 1030;
const OFFER: Offer = Offer { rate: Some(20_000.0), duration: Duration::from_millis(200) };

#[test]
fn books_add_up_between_any_two_ends() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let lab = Lab::new(1500).unwrap();
    for generator in [Generator::Kernel, Generator::Xsk] {
        for sink in [Sink::Gauge, Sink::Xsk] {
            for (size, family) in [(Size::Fixed(64), Family::Ipv4), (Size::Imix, Family::Ipv6)] {
                let traffic = Traffic { size, family, flows: FLOWS };
                let mut tester =
                    Tester::between(&lab, traffic, Depth::Whole, Ends { generator, sink }).expect("make a tester");
                // Twice: sequence numbers go on, books begin anew.
                for _ in 0..2 {
                    let outcome = forwarder::with(&Kernel, &lab, |running| tester.run(running, OFFER)).unwrap();
                    check(&outcome, sink);
                }
                // Nobody forwards: all is lost, and the sink has nothing to do with it.
                let outcome = tester.run(&Nobody, OFFER).unwrap();
                assert_eq!((outcome.received, outcome.unread), (0, 0));
                assert!(outcome.sent > 0);
                assert_eq!(outcome.flow_loss.is_some(), sink == Sink::Xsk);
                if let Some(loss) = outcome.flow_loss {
                    assert_eq!(loss.with_loss, outcome.sent.min(u64::from(FLOWS)));
                    assert_eq!(loss.worst, outcome.sent.div_ceil(u64::from(FLOWS)));
                }
            }
        }
    }
}

fn check(outcome: &Outcome, sink: Sink) {
    assert!(outcome.received > 0 && outcome.received <= outcome.sent, "{outcome:?}");
    assert_eq!((outcome.damaged, outcome.twice, outcome.marked), (0, 0, 0), "{outcome:?}");
    let timed: u64 = outcome.latencies.iter().map(|(_, count)| count).sum();
    assert_eq!(timed, outcome.received - outcome.unread, "{outcome:?}");
    assert!(outcome.latencies.iter().all(|(nanoseconds, _)| *nanoseconds < 10_000_000_000), "{outcome:?}");
    if sink == Sink::Xsk {
        let loss = outcome.flow_loss.expect("a sink that reads has books");
        let lost = outcome.sent - (outcome.received - outcome.unread);
        assert_eq!(loss.flows, outcome.sent.min(u64::from(FLOWS)));
        assert_eq!(loss.with_loss == 0, lost == 0, "{outcome:?}");
        assert!(loss.worst <= lost, "{outcome:?}");
    }
}

/// No forwarder.
struct Nobody;

impl Running for Nobody {
    fn tasks(&self) -> Vec<perf::cpu::Task> {
        Vec::new()
    }

    fn stop(self: Box<Self>) -> Result<(), perf::lab::LabError> {
        Ok(())
    }
}
