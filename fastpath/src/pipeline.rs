//! The stages between receiving and sending, in order; and a place to watch them from.
//!
//! The worker, the trace, the tests and the benches all call [`Pipeline::run`], so they all see the same decisions.

use crate::burst::Burst;
use crate::flow::limiter::Limiter;
use crate::flow::{FlowWriter, Seconds};
use crate::io::umem::Umem;
use crate::stage::{admit, classify, parse, policy, recall, remember, respond, rewrite, route, translate};
use crate::table::Tables;

/// The stages, for those who watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Parse,
    Recall,
    Admit,
    Classify,
    Route,
    Policy,
    Translate,
    Remember,
    Respond,
    Rewrite,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Parse => "parse",
            Stage::Recall => "recall",
            Stage::Admit => "admit",
            Stage::Classify => "classify",
            Stage::Route => "route",
            Stage::Policy => "policy",
            Stage::Translate => "translate",
            Stage::Remember => "remember",
            Stage::Respond => "respond",
            Stage::Rewrite => "rewrite",
        }
    }
}

/// Nanoseconds of the worker's clock, read once a breath.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now(pub u64);

impl Now {
    pub fn seconds(self) -> Seconds {
        (self.0 / 1_000_000_000) as Seconds
    }
}

/// What a worker's stages write besides the burst.
pub struct Pipeline {
    pub flows: FlowWriter,
    pub limiter: Limiter,
    /// Of what workloads want control to see.
    pub dhcp_limiter: Limiter,
}

impl Pipeline {
    pub fn new(flows: FlowWriter) -> Self {
        Self { flows, limiter: Limiter::of_answers(), dhcp_limiter: Limiter::of_dhcp() }
    }

    /// Takes a burst from received to ready to leave. `watch` is called after every stage; an empty closure costs nothing.
    #[inline]
    pub fn run(
        &mut self,
        burst: &mut Burst,
        umem: &mut Umem,
        tables: &Tables,
        now: Now,
        mut watch: impl FnMut(Stage, &Burst, &Umem),
    ) {
        let seconds = now.seconds();
        self.limiter.set_now(now.0);
        self.dhcp_limiter.set_now(now.0);
        burst.stamp = tables.stamp();

        parse::burst(burst, umem, self.flows.table(), tables);
        watch(Stage::Parse, burst, umem);
        recall::burst(burst, self.flows.table(), tables, seconds);
        watch(Stage::Recall, burst, umem);
        admit::burst(burst, umem, self.flows.table(), tables, &mut self.dhcp_limiter);
        watch(Stage::Admit, burst, umem);
        classify::burst(burst, umem, self.flows.table(), tables, seconds);
        watch(Stage::Classify, burst, umem);
        route::burst(burst, self.flows.table(), tables);
        watch(Stage::Route, burst, umem);
        policy::burst(burst, self.flows.table(), tables);
        watch(Stage::Policy, burst, umem);
        translate::burst(burst, &self.flows, tables);
        watch(Stage::Translate, burst, umem);
        remember::burst(burst, &mut self.flows, tables, seconds);
        watch(Stage::Remember, burst, umem);
        respond::burst(burst, umem, tables, &mut self.limiter);
        watch(Stage::Respond, burst, umem);
        translate::apply(burst, umem, self.flows.table(), tables);
        rewrite::burst(burst, umem, tables);
        watch(Stage::Rewrite, burst, umem);
    }
}
