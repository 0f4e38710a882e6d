//! How much memory the speaker takes, by what there is of everything.
//!
//! Counts times the sizes of what is counted: near the truth for many routes, and no measurement. What an allocator adds is
//! not in it, nor what it keeps for later; of attributes the parts of variable length are taken to be as long as they usually are.

use super::super::attribute::Attributes;
use super::super::groups::Group;
use super::super::rib::Entry;
use super::super::rib::path::Path;
use super::super::rib::table::Table;
use super::Speaker;

/// Counters of an `Arc` beside what they are of.
const SHARED: usize = 16;
/// Of a path and some communities.
const USUAL_ATTRIBUTES: usize = 64;
/// What is remembered of a route that a group was told: its place, its numbers, and the attributes, which are shared.
const TOLD: usize = 32;

impl Speaker {
    /// Octets: prefixes, paths, sets of attributes, what was told, and messages that wait.
    pub fn memory(&self) -> usize {
        let (prefixes, paths) = (self.rib.len(), self.rib.path_count());
        // The first path of a prefix is in its entry.
        let others = paths.saturating_sub(prefixes);
        let told: usize = self
            .peers
            .values()
            .filter_map(|peer| {
                let group = self.groups.get(peer.up.as_ref()?.group)?.as_ref()?;
                let members = group.members().count().max(1);
                Some(group.view(peer.index).advertised.iter().sum::<u32>() as usize / members)
            })
            .sum();
        let sizes = [
            prefixes * Table::<Entry>::ROW,
            others * size_of::<Path>(),
            self.rib.store.len() * (size_of::<Attributes>() + SHARED + USUAL_ATTRIBUTES),
            told * TOLD,
            self.waiting_bytes(),
        ];
        sizes.iter().sum()
    }

    /// Octets of messages that wait for slow peers, and for the monitoring station.
    pub(super) fn waiting_bytes(&self) -> usize {
        let logs = self.groups.iter().flatten().map(Group::log_bytes).sum::<usize>();
        logs + self.monitor.as_ref().map_or(0, |monitor| monitor.view().waiting_bytes)
    }
}
