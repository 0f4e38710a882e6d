//! The kernel's routes against a kernel that is a map, with others' routes in it, edits that fail, and doubts at any time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use proptest::prelude::*;

use super::*;
use crate::rib::nexthop::{Hops, Path, Strength};
use crate::rib::{Group, LearnedBatch, Rib};

const PREFIXES: u8 = 24;

fn prefix(number: u8) -> Cidr {
    Cidr::new(IpAddr::from([10, 0, number % PREFIXES, 0]), 24).unwrap()
}

fn next_hop(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

fn metric(group: u32) -> u32 {
    1000 + group % 2
}

/// Routes by prefix and metric; those that are ours, and others'.
#[derive(Default)]
struct Kernel {
    routes: BTreeMap<(Cidr, u32), (Route, bool)>,
}

impl Kernel {
    fn make(&mut self, edit: &Edit) -> bool {
        match edit {
            Edit::Add(route) => {
                if self.routes.contains_key(&route.key()) {
                    return false;
                }
                self.routes.insert(route.key(), (route.clone(), true));
            }
            Edit::Replace(route) => {
                let (old, is_ours) = self.routes.get(&route.key()).expect("only what is there is replaced");
                assert!(is_ours, "{old:?} of somebody else would be replaced");
                self.routes.insert(route.key(), (route.clone(), true));
            }
            Edit::Delete(prefix, metric) => {
                // The kernel looks at the protocol.
                if self.routes.get(&(*prefix, *metric)).is_some_and(|(_, is_ours)| *is_ours) {
                    self.routes.remove(&(*prefix, *metric));
                }
            }
        }
        true
    }

    fn ours(&self) -> Vec<Route> {
        self.routes.values().filter(|(_, is_ours)| *is_ours).map(|(route, _)| route.clone()).collect()
    }
}

/// One round. False when there was nothing to do.
fn round(rib: &mut Rib, kernel: &mut Kernel, most: usize, now: Instant, local: &[Cidr]) -> bool {
    let is_local = |prefix: &Cidr| local.contains(prefix);
    let edits = match rib.kernel_step(most, now, &is_local) {
        Step::Nothing => return false,
        Step::Edit(edits) => edits,
        Step::Read => {
            let ours = kernel.ours();
            let (first, last) = ours.split_at(ours.len() / 2);
            let mut edits = rib.kernel_read(first.to_vec(), false, &is_local);
            assert_eq!(rib.kernel_step(most, now, &is_local), Step::Read, "no edit while routes are read");
            edits.extend(rib.kernel_read(last.to_vec(), true, &is_local));
            edits
        }
    };
    for edit in edits {
        if !kernel.make(&edit) {
            rib.kernel_refused(&edit, now);
        }
    }
    true
}

fn settle(rib: &mut Rib, kernel: &mut Kernel, most: usize, now: Instant, local: &[Cidr]) {
    for _ in 0..10_000 {
        if !round(rib, kernel, most, now, local) {
            return;
        }
    }
    panic!("it has no end");
}

/// Next hops are neighbours on one link; groups get places as workers would give them.
fn node() -> Rib {
    let mut rib = Rib::default();
    let hops = Hops::Links(vec![(LinkIndex(1), None)]);
    rib.set_own(BTreeMap::from([(Cidr::parse("192.0.2.0/24").unwrap(), Path { hops, strength: Strength::Metric(0) })]));
    rib.kernel.enable(true);
    rib
}

fn resolve(rib: &mut Rib) {
    rib.resolve();
    rib.settle(|_, _| {});
}

fn define(rib: &mut Rib, group: u32, next_hops: &[u8], backup: Option<u8>) {
    let target = match next_hops {
        [255] => GroupTarget::Blackhole,
        next_hops => GroupTarget::NextHops(next_hops.iter().map(|number| next_hop(*number)).collect()),
    };
    let groups = vec![(GroupId(group), Group { target, backup: backup.map(next_hop), metric: metric(group) })];
    rib.learn(LearnedBatch { groups, ..LearnedBatch::default() });
}

fn learn(rib: &mut Rib, prefix: Cidr, group: Option<u32>) {
    rib.learn(LearnedBatch { routes: vec![(prefix, group.map(GroupId))], ..LearnedBatch::default() });
}

#[derive(Clone, Debug)]
enum Event {
    Learn(u8, Option<u32>),
    Define(u32, Vec<u8>, Option<u8>),
    Down(u8, bool),
    Local(u8, bool),
    /// Somebody deletes a route of ours, or adds one of his own; the kernel tells us that something was lost.
    Stolen(u8),
    Foreign(u8, u32),
    Rounds(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let next_hops = prop_oneof![prop::collection::vec(1u8..5, 0..3), Just(vec![255])];
    prop_oneof![
        6 => (0..PREFIXES, prop::option::weighted(0.8, 0u32..4)).prop_map(|(p, group)| Event::Learn(p, group)),
        2 => (0u32..4, next_hops, prop::option::of(1u8..5)).prop_map(|(group, next_hops, backup)| Event::Define(group, next_hops, backup)),
        2 => (1u8..5, any::<bool>()).prop_map(|(next_hop, is_down)| Event::Down(next_hop, is_down)),
        1 => (0..PREFIXES, any::<bool>()).prop_map(|(p, is_there)| Event::Local(p, is_there)),
        1 => (0..PREFIXES).prop_map(Event::Stolen),
        1 => (0..PREFIXES, 0u32..2).prop_map(|(p, group)| Event::Foreign(p, group)),
        6 => (1u8..6).prop_map(Event::Rounds),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn the_kernel_ends_as_it_should_be(events in prop::collection::vec(event(), 1..60), most in 1usize..8) {
        let (mut rib, mut kernel, now) = (node(), Kernel::default(), Instant::now());
        let mut local: Vec<Cidr> = Vec::new();
        // What an earlier process left.
        for (key, group) in [(prefix(0), 0), (prefix(1), 1), (Cidr::parse("10.9.0.0/16").unwrap(), 0)] {
            kernel.make(&Edit::Add(Route::new(key, metric(group), Target::Blackhole)));
        }
        (0..4).for_each(|group| define(&mut rib, group, &[group as u8 + 1], None));
        let mut foreign = BTreeMap::new();
        for event in events {
            match event {
                Event::Learn(number, group) => learn(&mut rib, prefix(number), group),
                Event::Define(group, next_hops, backup) => define(&mut rib, group, &next_hops, backup),
                Event::Down(number, true) => rib.next_hop_down(next_hop(number)),
                Event::Down(number, false) => rib.next_hop_up(next_hop(number)),
                Event::Local(number, is_there) => {
                    local.retain(|own| *own != prefix(number));
                    local.extend(is_there.then(|| prefix(number)));
                    rib.touch_local(&prefix(number));
                }
                Event::Stolen(number) => {
                    let key = (prefix(number), metric(0));
                    // A replacement that is on its way would find nothing; the kernel makes one of it then, and so it is here.
                    if kernel.routes.get(&key).is_some_and(|(_, is_ours)| *is_ours) && rib.kernel.queue.is_empty() && rib.kernel.phase == Phase::Idle && rib.kernel.groups.is_empty() && !rib.kernel.has_to_read {
                        kernel.routes.remove(&key);
                        rib.kernel.read_anew();
                    }
                }
                Event::Foreign(number, group) => {
                    let route = Route::new(prefix(number), metric(group), Target::Other);
                    if let Entry::Vacant(place) = kernel.routes.entry(route.key()) {
                        foreign.insert(route.key(), route.clone());
                        place.insert((route, false));
                    }
                }
                Event::Rounds(rounds) => {
                    for _ in 0..rounds {
                        round(&mut rib, &mut kernel, most, now, &local);
                    }
                }
            }
            resolve(&mut rib);
        }
        settle(&mut rib, &mut kernel, most, now, &local);
        // The obvious twin.
        let mut expected = foreign.clone();
        let learned: Vec<(Cidr, GroupId)> = rib.learned.after(None).map(|(prefix, entry)| (prefix, entry.group())).collect();
        for (prefix, group) in learned {
            let state = &rib.groups.0[&group];
            let hops: Vec<NextHop> = state.members.iter().map(|member| {
                let Member::Neighbour { link, address } = member else { unreachable!("no workloads here") };
                NextHop { link: *link, gateway: Some(*address), onlink: true }
            }).collect();
            let target = match state.group.target {
                GroupTarget::Blackhole => Target::Blackhole,
                GroupTarget::NextHops(_) if hops.is_empty() => continue,
                GroupTarget::NextHops(_) => Target::Forward(hops),
            };
            if !local.contains(&prefix) {
                let route = Route::new(prefix, state.group.metric, target);
                expected.entry(route.key()).or_insert(route);
            }
        }
        let found: BTreeMap<(Cidr, u32), Route> = kernel.routes.iter().map(|(key, (route, _))| (*key, route.clone())).collect();
        prop_assert_eq!(found, expected);
        // Once the others' routes are gone, ours come, after a while.
        let refused = rib.kernel.count_refused();
        kernel.routes.retain(|_, (_, is_ours)| *is_ours);
        settle(&mut rib, &mut kernel, most, now + PAUSE, &local);
        prop_assert!(refused == 0 || rib.kernel.count_refused() == 0);
        // And nothing of ours stays where it is switched off.
        rib.kernel.enable(false);
        settle(&mut rib, &mut kernel, most, now + PAUSE, &local);
        prop_assert!(kernel.ours().is_empty());
    }
}

#[test]
fn a_prefix_is_never_without_a_route_in_between() {
    let (mut rib, mut kernel, now) = (node(), Kernel::default(), Instant::now());
    define(&mut rib, 0, &[1], None);
    define(&mut rib, 1, &[2], None);
    define(&mut rib, 2, &[3], None);
    learn(&mut rib, prefix(0), Some(0));
    resolve(&mut rib);
    settle(&mut rib, &mut kernel, 10, now, &[]);
    for (group, edits) in [(1, 2), (2, 2)] {
        learn(&mut rib, prefix(0), Some(group));
        let Step::Edit(found) = rib.kernel_step(10, now, &|_| false) else { panic!("something to do") };
        assert_eq!(found.len(), edits);
        assert!(matches!((&found[0], &found[1]), (Edit::Add(_), Edit::Delete(_, old)) if *old == metric(group - 1)));
        found.iter().for_each(|edit| assert!(kernel.make(edit)));
    }
    // The same metric: one replacement.
    learn(&mut rib, prefix(0), Some(0));
    let Step::Edit(found) = rib.kernel_step(10, now, &|_| false) else { panic!("something to do") };
    assert!(matches!(found.as_slice(), [Edit::Replace(_)]));
}

#[test]
fn rounds_are_bounded_and_so_is_the_queue() {
    let (mut rib, mut kernel, now) = (node(), Kernel::default(), Instant::now());
    define(&mut rib, 0, &[1], None);
    settle(&mut rib, &mut kernel, 10, now, &[]);
    let all = (0..MAX_QUEUE as u32 + 10).map(|number| Cidr::new(IpAddr::V4((number << 8).into()), 24).unwrap());
    rib.learn(LearnedBatch {
        routes: all.map(|prefix| (prefix, Some(GroupId(0)))).collect(),
        ..LearnedBatch::default()
    });
    resolve(&mut rib);
    assert!(rib.kernel.waiting() <= MAX_QUEUE && rib.kernel.has_to_read);
    settle(&mut rib, &mut kernel, 1000, now, &[]);
    assert_eq!(kernel.ours().len(), MAX_QUEUE + 10);
    // All of them lead elsewhere: one change, and rounds of a thousand.
    define(&mut rib, 0, &[2], None);
    resolve(&mut rib);
    let mut rounds = 0;
    while let Step::Edit(edits) = rib.kernel_step(1000, now, &|_| false) {
        assert!(edits.len() <= 1000);
        rounds += 1;
        edits.iter().for_each(|edit| assert!(kernel.make(edit)));
    }
    assert!(rounds >= MAX_QUEUE / 1000);
    assert!(kernel.ours().iter().all(|route| route.target != Target::Blackhole));
}
