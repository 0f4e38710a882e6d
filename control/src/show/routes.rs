//! Routes as workers have them: the node's own, and learned ones that no own route stands before.
//!
//! Both are in the order of prefixes, and are shown merged, so that a limit ends the work early. A learned route has a line
//! for each neighbour that packets are spread over.

use std::iter::Peekable;
use std::net::IpAddr;

use config::net::Cidr;

use super::state_of;
use crate::compile::{RouteRow, RouteRowKind};
use crate::control::Control;
use crate::http::views::{NeighbourState, RouteKind, RouteView};
use crate::rib::GroupId;
use crate::rib::nexthop::Member;

/// All routes, or those to the prefix that an address takes.
pub fn routes<D>(control: &Control<D>, address: Option<IpAddr>) -> Box<dyn Iterator<Item = RouteView> + '_> {
    let members = control.route_compiler.rib.members_by_group();
    let learned = move |(prefix, group, _): (Cidr, GroupId, u32)| {
        (prefix, learned_rows(control, prefix, members.get(&group).map_or(&[], Vec::as_slice)))
    };
    let is_taken = |(prefix, _, metric): &(Cidr, GroupId, u32)| control.route_compiler.is_learned(prefix, *metric);
    let Some(address) = address else {
        let own = control.routes.iter().map(|row| (row.prefix, vec![view(row)]));
        let learned = control.route_compiler.rib.prefixes().filter(is_taken).map(learned);
        let merged = Merged { own: own.peekable(), learned: learned.peekable() };
        return Box::new(merged.flatten());
    };
    let covering = control.routes.iter().filter(|row| row.prefix.contains(address));
    let own = covering.max_by_key(|row| row.prefix.length());
    let longest = control.route_compiler.rib.covering(address).find(is_taken);
    let rows = match (own, longest) {
        // Where both have the prefix the learned one is in force, or it would not be here.
        (Some(own), Some(found)) if own.prefix.length() > found.0.length() => vec![view(own)],
        (_, Some(found)) => learned(found).1,
        (Some(own), None) => vec![view(own)],
        (None, None) => Vec::new(),
    };
    Box::new(rows.into_iter())
}

/// Two lists in the order of prefixes as one. Of equal prefixes the learned one is in force.
struct Merged<A: Iterator, B: Iterator> {
    own: Peekable<A>,
    learned: Peekable<B>,
}

type Rows = (Cidr, Vec<RouteView>);

impl<A: Iterator<Item = Rows>, B: Iterator<Item = Rows>> Iterator for Merged<A, B> {
    type Item = Vec<RouteView>;

    fn next(&mut self) -> Option<Vec<RouteView>> {
        let key = |rows: &Rows| (rows.0.address(), rows.0.length());
        let order = match (self.own.peek(), self.learned.peek()) {
            (Some(own), Some(learned)) => key(own).cmp(&key(learned)),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, _) => std::cmp::Ordering::Greater,
        };
        if order.is_eq() {
            self.own.next();
        }
        let next = if order.is_lt() { self.own.next() } else { self.learned.next() };
        next.map(|(_, rows)| rows)
    }
}

fn view(row: &RouteRow) -> RouteView {
    RouteView {
        prefix: row.prefix.to_string(),
        kind: match row.kind {
            RouteRowKind::LocalEndpoint => RouteKind::LocalEndpoint,
            RouteRowKind::NextHop => RouteKind::NextHop,
            RouteRowKind::Blackhole => RouteKind::Blackhole,
            RouteRowKind::Host => RouteKind::Host,
        },
        next_hop: row.next_hop,
        interface: row.interface.clone(),
        adjacency: match (row.kind, row.mac) {
            (RouteRowKind::Blackhole, _) => None,
            (RouteRowKind::LocalEndpoint | RouteRowKind::Host, Some(_)) => Some(NeighbourState::Permanent),
            (_, Some(_)) => Some(NeighbourState::Reachable),
            (_, None) => Some(NeighbourState::Incomplete),
        },
        mac: row.mac.map(|mac| mac.to_string()),
    }
}

/// A line for each member; one without, when nobody can be reached.
fn learned_rows<D>(control: &Control<D>, prefix: Cidr, members: &[Member]) -> Vec<RouteView> {
    let bare = RouteView {
        prefix: prefix.to_string(),
        kind: RouteKind::Learned,
        next_hop: None,
        interface: None,
        adjacency: None,
        mac: None,
    };
    if members.is_empty() {
        return vec![bare];
    }
    let row = |member: &Member| match member {
        Member::Neighbour { link, address } => {
            let neighbour = control.kernel.neighbours.get(&(*link, *address));
            RouteView {
                next_hop: Some(*address),
                interface: control.kernel.links.get(link).map(|link| link.name.clone()),
                adjacency: Some(neighbour.map_or(NeighbourState::Incomplete, state_of)),
                mac: neighbour.and_then(|neighbour| neighbour.usable_mac()).map(|mac| mac.to_string()),
                ..bare.clone()
            }
        }
        Member::Endpoint(interface) => RouteView {
            interface: control.attachments.name_of(*interface).map(str::to_owned),
            adjacency: Some(NeighbourState::Permanent),
            ..bare.clone()
        },
    };
    members.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lists_are_shown_in_order_as_one() {
        let rows = |kind: RouteKind, prefixes: &[&str]| -> Vec<Rows> {
            let row = |text: &&str| {
                let (next_hop, interface, adjacency, mac) = (None, None, None, None);
                let view = RouteView { prefix: (*text).to_owned(), kind, next_hop, interface, adjacency, mac };
                (Cidr::parse(text).unwrap(), vec![view])
            };
            prefixes.iter().map(row).collect()
        };
        let check = |own: &[&str], learned: &[&str], expected: &str| {
            let (own, learned) = (rows(RouteKind::NextHop, own), rows(RouteKind::Learned, learned));
            let merged = Merged { own: own.into_iter().peekable(), learned: learned.into_iter().peekable() };
            let mark =
                |view: RouteView| (if view.kind == RouteKind::Learned { "+" } else { "" }).to_owned() + &view.prefix;
            assert_eq!(merged.flatten().map(mark).collect::<Vec<_>>().join(" "), expected);
        };
        check(&["10.0.0.0/8"], &[], "10.0.0.0/8");
        check(&[], &["10.0.0.0/8"], "+10.0.0.0/8");
        check(
            &["10.0.0.0/8", "fd00::/64"],
            &["10.0.0.0/16", "10.1.0.0/16"],
            "10.0.0.0/8 +10.0.0.0/16 +10.1.0.0/16 fd00::/64",
        );
        check(&["10.0.0.0/8", "10.1.0.0/16"], &["10.1.0.0/16"], "10.0.0.0/8 +10.1.0.0/16");
        check(
            &["10.1.0.0/16", "fd00::/64"],
            &["9.0.0.0/8", "fd00::/48"],
            "+9.0.0.0/8 10.1.0.0/16 +fd00::/48 fd00::/64",
        );
    }
}
