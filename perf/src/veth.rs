//! Packets per second from A to B: UDP of 60 bytes, which are 64 on a wire, as many as the tester can make.
//!
//! The tester's thread also carries what the kernel does in its name: with kernel forwarding that is everything up to
//! the gauge, with the router it ends with the copy into the worker's frames. So both columns of CPU time matter, and
//! their sum is what a packet that arrives costs the machine; it includes what was spent on packets that were lost.

use fastpath::io::gauge::Depth;

use crate::bench::receive_rate;
use crate::forwarder::{Forwarder, Kernel};
use crate::lab::Lab;
use crate::report::{Measurement, Report, median};
use crate::router::RouterOptions;
use crate::traffic::{Family, Size, Traffic};
use crate::trial::{Outcome, Tester};
use crate::{Error, Scale};

const FEW: u32 = 64;
const MANY: u32 = 1 << 20;

/// A way of forwarding, and how many flows there are.
struct Case {
    name: &'static str,
    way: Box<dyn Forwarder>,
    flows: u32,
}

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    let lab = Lab::new(1500)?;
    let few = RouterOptions::default();
    let many = if scale.flows < MANY as usize { scale.flows as u32 } else { MANY };
    let cases = [
        Case { name: "kernel forwarding", way: Box::new(Kernel), flows: FEW },
        Case { name: "router, 1 rule", way: Box::new(few), flows: FEW },
        Case { name: "router, 1,000 rules", way: Box::new(RouterOptions { rules: 1000, ..few }), flows: FEW },
        Case {
            name: "router, 1,000 rules, 1M flows in turn",
            way: Box::new(RouterOptions { rules: 1000, flows: many + many / 2, ..few }),
            flows: many,
        },
    ];
    let mut outcomes: Vec<Vec<Outcome>> = cases.iter().map(|_| Vec::new()).collect();
    for _ in 0..scale.rounds {
        for (case, outcomes) in cases.iter().zip(&mut outcomes) {
            let traffic = Traffic { size: Size::Fixed(64), family: Family::Ipv4, flows: case.flows };
            let mut tester = Tester::new(&lab, traffic, Depth::Count)?;
            outcomes.push(receive_rate(&lab, case.way.as_ref(), &mut tester, scale.window)?);
        }
    }
    let kernel = &outcomes[0];
    for (case, own) in cases.iter().zip(&outcomes) {
        let of = |field: &dyn Fn(&Outcome) -> f64| median(&own.iter().map(field).collect::<Vec<_>>());
        let each = |position: usize| move |outcome: &Outcome| outcome.cpu[position] as f64 / outcome.arrived as f64;
        let sum = |outcome: &Outcome| outcome.cpu.iter().sum::<u64>() as f64 / outcome.arrived as f64;
        let ratios: Vec<f64> = own.iter().zip(kernel).map(|(own, kernel)| own.rate() / kernel.rate()).collect();
        report.add(Measurement {
            group: "veth, 64 B UDP",
            name: case.name.to_owned(),
            frame_mode: if case.name.starts_with("router") { "veth, native xdp, copy" } else { "veth" },
            numbers: vec![
                ("x kernel", median(&ratios)),
                ("Mpps", of(&|outcome| outcome.rate() / 1e6)),
                ("offered", of(&|outcome| outcome.sent as f64 / outcome.seconds / 1e6)),
                ("worker ns", of(&each(0))),
                ("tester ns", of(&each(1))),
                ("softirq ns", of(&each(2))),
                ("sum ns", of(&sum)),
            ],
        })?;
    }
    Ok(())
}
