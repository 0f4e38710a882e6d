//! What people see of learned routes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use config::net::Cidr;

use super::nexthop::Member;
use super::{GroupId, Rib};

impl Rib {
    /// Prefixes in their order, each with its group and metric.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = (Cidr, GroupId, u32)> + '_ {
        self.learned.after(None).filter_map(|(prefix, entry)| self.shown(prefix, entry.group()))
    }

    /// Those that cover an address, the longest first.
    pub(crate) fn covering(&self, address: IpAddr) -> impl Iterator<Item = (Cidr, GroupId, u32)> + '_ {
        self.learned.covering(address).filter_map(|(prefix, group)| self.shown(prefix, group))
    }

    fn shown(&self, prefix: Cidr, group: GroupId) -> Option<(Cidr, GroupId, u32)> {
        Some((prefix, group, self.groups.0.get(&group)?.group.metric))
    }

    /// Whoever is in each group now. There are few groups, however many prefixes.
    pub(crate) fn members_by_group(&self) -> BTreeMap<GroupId, Vec<Member>> {
        self.groups.0.iter().map(|(id, state)| (*id, state.members.iter().copied().collect())).collect()
    }
}
