//! Learned routes and their next hops: taken in here, in force with the next `settle`.
//!
//! A change of learned routes alone compiles nothing: the tables are those that are in force, with other groups or other
//! routes. Only a next hop that has no way yet makes all of it be worked out.

use std::net::IpAddr;

use super::Control;
use crate::compile::Refresh;
use crate::datastore::Datastore;
use crate::rib::{LearnedBatch, Reachability};

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
}
