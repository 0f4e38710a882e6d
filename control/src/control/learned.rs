//! Learned routes and their next hops: taken in here, in force with the next `settle`.
//!
//! A change of learned routes alone compiles nothing: the tables are those that are in force, with other groups or other
//! routes. Only a next hop that has no way yet makes all of it be worked out.
//!
//! The kernel's routes to the same prefixes follow in rounds, one with every tick, of [`KERNEL_TIME`] each.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Control;
use crate::compile::Refresh;
use crate::datastore::Datastore;
use crate::host::HostError;
use crate::host::learned_routes::MOST;
use crate::rib::kernel::{Edit, Step};
use crate::rib::{LearnedBatch, Reachability};
use crate::tell::chain;

/// How long a round may take, but for the datagram that is under way at its end: a quarter of the time between two.
const KERNEL_TIME: Duration = Duration::from_millis(5);

impl<D: Datastore> Control<D> {
    /// Takes in what was learned. It is in force after the next `settle`.
    pub fn learned(&mut self, batch: LearnedBatch) {
        self.route_compiler.rib.learn(batch);
        self.dirty.learned = true;
    }

    /// A next hop does not answer any more: after the next `settle` every group that has others uses those.
    pub fn next_hop_down(&mut self, address: IpAddr) {
        self.route_compiler.rib.next_hop_down(address);
        self.dirty.learned = true;
    }

    /// It answers again.
    pub fn next_hop_up(&mut self, address: IpAddr) {
        self.route_compiler.rib.next_hop_up(address);
        self.dirty.learned = true;
    }

    /// Which watched next hops can be reached, of those of which something else was told last. To be asked after `settle`.
    pub fn take_reachability(&mut self) -> Reachability {
        self.route_compiler.rib.take_reachability()
    }

    /// Puts into force what was learned. False when all has to be compiled for it.
    pub(super) fn publish_learned(&mut self) -> bool {
        match self.route_compiler.refresh(self.publisher.current()) {
            Refresh::Compile => return false,
            Refresh::Nothing => return true,
            Refresh::Apply => {}
            Refresh::Publish(mut tables) => {
                self.generation += 1;
                tables.generation = self.generation;
                self.publisher.publish(*tables);
            }
        }
        self.route_compiler.apply();
        self.note("routes", self.route_compiler.problems());
        true
    }
    /// One round of the kernel's routes.
    pub(super) fn follow_in_kernel(&mut self) {
        if !self.is_ready() {
            return;
        }
        let begun = Instant::now();
        let mut problems = Vec::new();
        while begun.elapsed() < KERNEL_TIME {
            match self.follow_some(begun) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    problems.push(format!("learned routes in the kernel: {}", chain(&error)));
                    break;
                }
            }
        }
        self.note("kernel routes", problems);
    }

    /// A datagram of it. False when there is nothing left to do.
    fn follow_some(&mut self, now: Instant) -> Result<bool, HostError> {
        let edits = match self.route_compiler.kernel_step(MOST, now) {
            Step::Nothing => return Ok(false),
            Step::Edit(edits) => edits,
            Step::Read => match self.learned_routes.read() {
                Ok((routes, is_end)) => self.route_compiler.kernel_read(routes, is_end),
                Err(error) => {
                    self.route_compiler.rib.kernel.could_not_read();
                    return Err(error);
                }
            },
        };
        for edits in edits.chunks(MOST) {
            self.edit_in_kernel(edits, now)?;
        }
        Ok(true)
    }

    fn edit_in_kernel(&mut self, edits: &[Edit], now: Instant) -> Result<(), HostError> {
        match self.learned_routes.edit(edits) {
            Ok(refused) => {
                for (position, error) in refused {
                    if let Some(edit) = edits.get(position) {
                        tracing::debug!(?edit, %error, "the kernel refuses a learned route");
                        self.route_compiler.kernel_refused(edit, now);
                    }
                }
                Ok(())
            }
            Err(error) => {
                // Nobody knows which were made.
                self.route_compiler.rib.kernel.read_anew();
                Err(error)
            }
        }
    }
}
