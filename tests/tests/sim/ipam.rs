//! Nodes that give out addresses of the same pools at the same time, and stop in the middle of it.
//!
//! ```text
//!   node a ─┐ each store call is a point where another goes on      ┌─ judge: who was told what,
//!   node b ─┼──────────────▶ store that compares revisions ─────────┤  and what the store has
//!   node c ─┘ … or where the node stops, and starts with nothing    └─ after every single write
//! ```
//!
//! The store keeps everything in memory, and takes one write at a time or all of a plan at once. The judge knows what the
//! nodes were answered: an address has one owner from the answer until its owner wants to give it back, and the store says
//! the same all the while. At the end nodes and collectors have time, and then nothing is left that nobody has.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use config::resource::{IpamBlock, Key, Kind, Resource};
use control::datastore::{
    Committed, Datastore, Note, Outcome, Pending, Revision, StoreError, Stored, Transaction, Update, Watch, Write,
    WriteResult,
};
use control::ipam::block;
use control::ipam::call::{AssignCall, IpamCall, ReleaseCall};
use control::ipam::commit;
use control::ipam::error::IpamError;
use control::ipam::service::{Done, Ipam};
use control::resources::Resources;
use serde_json::json;
use tests::random::Random;

use crate::seeds::with_seeds;

/// A store in memory. Clones are the same one.
#[derive(Clone, Default)]
struct Memory(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Stored>,
    revision: u64,
    writes_per_commit: usize,
    commits: usize,
    conflicts: usize,
}

/// Nobody watches: nodes read when they start, and what they are told is old.
struct Never;

impl Watch for Never {
    async fn next(&mut self) -> Result<Vec<Update>, StoreError> {
        std::future::pending().await
    }
}

/// Lets others go first, once.
async fn step_aside() {
    let mut has_waited = false;
    poll_fn(|_| match std::mem::replace(&mut has_waited, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await
}

impl Memory {
    fn new(writes_per_commit: usize) -> Memory {
        let memory = Memory::default();
        memory.0.borrow_mut().writes_per_commit = writes_per_commit;
        memory
    }

    fn blocks(&self) -> Vec<IpamBlock> {
        let state = self.0.borrow();
        let blocks = state.objects.values().filter_map(|stored| match &*stored.resource {
            Resource::IpamBlock(block) => Some(block.clone()),
            _ => None,
        });
        blocks.collect()
    }
}

impl State {
    fn write(&self, write: Write, revision: Revision) -> Result<WriteResult, StoreError> {
        let key = write.key();
        let current = self.objects.get(&key);
        let check = |expected: Option<Revision>| match current {
            None => Err(StoreError::NotFound(key.clone())),
            Some(found) => match expected {
                Some(expected) if expected != found.revision => {
                    Err(StoreError::Conflict { key: key.clone(), found: found.revision, expected })
                }
                Some(_) => Ok(found),
                None => panic!("{key} is written without a comparison"),
            },
        };
        let (outcome, resource) = match write {
            Write::Create(_) if current.is_some() => return Err(StoreError::AlreadyExists(key)),
            Write::Create(resource) => (Outcome::Created, resource),
            Write::Update { resource, expected } => {
                check(expected)?;
                (Outcome::Updated, resource)
            }
            Write::Delete { expected, .. } => (Outcome::Deleted, (*check(expected)?.resource).clone()),
            Write::Put(_) => panic!("{key} is written without a comparison"),
        };
        let mut resource = resource;
        resource.metadata_mut().resource_version = Some(revision.to_string());
        assert_eq!(resource.validate(), [], "{key}");
        Ok(WriteResult { key, outcome, resource: Arc::new(resource) })
    }
}

impl State {
    /// All writes, or none.
    fn commit(&mut self, writes: Vec<Write>) -> Result<Committed, StoreError> {
        assert!(writes.len() <= self.writes_per_commit);
        let revision = Revision(self.revision + 1);
        let results: Result<Vec<WriteResult>, StoreError> =
            writes.into_iter().map(|write| self.write(write, revision)).collect();
        let results = results.inspect_err(|_| self.conflicts += 1)?;
        for result in &results {
            match result.outcome {
                Outcome::Deleted => drop(self.objects.remove(&result.key)),
                _ => {
                    let (key, resource) = (Arc::new(result.key.clone()), result.resource.clone());
                    self.objects.insert(result.key.clone(), Stored { key, resource, revision });
                }
            }
        }
        self.revision = revision.0;
        self.commits += 1;
        Ok(Committed { revision, results })
    }
}

impl Datastore for Memory {
    type Watch = Never;

    async fn get(&self, key: &Key) -> Result<Stored, StoreError> {
        step_aside().await;
        self.0.borrow().objects.get(key).cloned().ok_or(StoreError::NotFound(key.clone()))
    }

    async fn list(&self, kind: Option<Kind>) -> Result<(Vec<Stored>, Revision), StoreError> {
        step_aside().await;
        let state = self.0.borrow();
        let found = state.objects.values().filter(|stored| kind.is_none_or(|kind| stored.key.kind == kind));
        Ok((found.cloned().collect(), Revision(state.revision)))
    }

    async fn commit_as(&self, writes: Vec<Write>, note: &Note, _: SystemTime) -> Result<Committed, StoreError> {
        step_aside().await;
        assert!(note.is_report, "addresses are no part of the history");
        let committed = self.0.borrow_mut().commit(writes)?;
        // The store has it; whoever asked may be gone before the answer is there.
        step_aside().await;
        Ok(committed)
    }

    fn writes_per_commit(&self) -> usize {
        self.0.borrow().writes_per_commit
    }

    async fn preview_as(&self, _: Vec<Write>, _: &Note, _: SystemTime) -> Result<Committed, StoreError> {
        Err(StoreError::Closed)
    }

    async fn transactions(&self) -> Result<Vec<Arc<Transaction>>, StoreError> {
        Ok(Vec::new())
    }

    async fn pending(&self) -> Result<Option<Pending>, StoreError> {
        Ok(None)
    }

    async fn confirm(&self) -> Result<Pending, StoreError> {
        Err(StoreError::NothingToConfirm)
    }

    async fn watch(&self, _: Revision) -> Result<Never, StoreError> {
        Ok(Never)
    }
}

fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
}

fn resource(kind: &str, name: &str, spec: serde_json::Value) -> Resource {
    let metadata = json!({ "name": name });
    let json = json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec });
    let resource = Resource::from_json(&json).unwrap();
    assert_eq!(resource.validate(), []);
    resource
}

/// The endpoint that has an address, as long as somebody owns it.
fn endpoint(address: IpAddr, node: &str) -> Resource {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let spec = json!({ "node": node, "interfaceName": "cali0", "ipNetworks": [format!("{address}/{length}")] });
    let mut resource = resource_unchecked("WorkloadEndpoint", &block_safe(address), spec);
    resource.metadata_mut().namespace = Some("default".to_string());
    resource
}

fn resource_unchecked(kind: &str, name: &str, spec: serde_json::Value) -> Resource {
    let metadata = json!({ "name": name, "namespace": "default" });
    let json = json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec });
    Resource::from_json(&json).unwrap()
}

fn block_safe(address: IpAddr) -> String {
    format!("e{address}").replace([':', '.'], "-")
}

type Running = Pin<Box<dyn Future<Output = (Ipam, Answer)>>>;

enum Answer {
    Orders(Vec<(IpamCall, Result<Done, IpamError>)>),
    Collected,
}

enum Place {
    Idle(Ipam),
    Busy { work: Running, orders: Vec<IpamCall> },
}

/// What the nodes were told, and what may be said to them.
struct World {
    store: Memory,
    resources: Resources,
    now: SystemTime,
    nodes: Vec<String>,
    places: Vec<Place>,
    /// Who was told that he has an address: node and handle.
    owners: BTreeMap<IpAddr, (String, String)>,
    /// What is asked again, because nobody was told how it went when the node stopped.
    unsure: Vec<(usize, ReleaseCall)>,
    /// Who has not read the records since it started: it serves nobody before.
    is_fresh: Vec<bool>,
    counter: usize,
    assigned: usize,
    stops: usize,
    exhausted: usize,
}

impl World {
    fn new(writes_per_commit: usize, nodes: usize, resources: Vec<Resource>) -> World {
        let names: Vec<String> = (0..nodes).map(|number| format!("node-{number}")).collect();
        let mut all: Resources = resources.into_iter().collect();
        names.iter().for_each(|name| all.put(resource("Node", name, json!({}))));
        World {
            store: Memory::new(writes_per_commit),
            resources: all,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            places: names.iter().map(|_| Place::Idle(Ipam::default())).collect(),
            nodes: names,
            owners: BTreeMap::new(),
            unsure: Vec::new(),
            is_fresh: vec![false; nodes],
            counter: 0,
            assigned: 0,
            stops: 0,
            exhausted: 0,
        }
    }

    fn new_assign(&mut self, node: usize, count: usize) -> IpamCall {
        self.counter += 1;
        let handle = format!("k8s-pod-network.{}", self.counter);
        let attributes = BTreeMap::from([
            ("pod".to_string(), format!("pod-{}", self.counter)),
            ("namespace".to_string(), "default".to_string()),
            ("node".to_string(), self.nodes[node].clone()),
        ]);
        IpamCall::Assign(AssignCall { ipv4: count, handle: Some(handle), attributes, ..AssignCall::default() })
    }

    fn random_order(&mut self, random: &mut Random, node: usize) -> IpamCall {
        let own: Vec<IpAddr> = self
            .owners
            .iter()
            .filter(|(_, (owner, _))| *owner == self.nodes[node])
            .map(|(address, _)| *address)
            .collect();
        match random.below(10) {
            0..5 => {
                let count = 1 + random.below(3);
                self.new_assign(node, count)
            }
            5 if self.unsure.iter().any(|(owner, _)| *owner == node) => {
                let position = self.unsure.iter().position(|(owner, _)| *owner == node).unwrap();
                IpamCall::Release(self.unsure.swap_remove(position).1)
            }
            6 => {
                let address = IpAddr::from([10, 0, 0, random.below(64) as u8]);
                let IpamCall::Assign(call) = self.new_assign(node, 1) else { unreachable!() };
                IpamCall::Assign(AssignCall { ipv4: 0, addresses: vec![address], ..call })
            }
            _ if own.is_empty() => self.new_assign(node, 1),
            _ => {
                let address = random.pick(&own);
                let (_, handle) = self.owners[&address].clone();
                match random.chance(50) {
                    true => IpamCall::Release(ReleaseCall { handle: Some(handle), ..ReleaseCall::default() }),
                    false => {
                        IpamCall::Release(ReleaseCall { address: Some(address), handle: Some(handle), sequence: None })
                    }
                }
            }
        }
    }

    fn start(&mut self, random: &mut Random, node: usize) {
        let Place::Idle(ipam) = std::mem::replace(&mut self.places[node], Place::Idle(Ipam::default())) else {
            panic!("busy");
        };
        let (store, resources, host, now) =
            (self.store.clone(), self.resources.clone(), self.nodes[node].clone(), self.now);
        let mut ipam = ipam;
        let reads = std::mem::take(&mut self.is_fresh[node]) || random.chance(20);
        let mut orders = Vec::new();
        let work: Running = if random.chance(15) {
            Box::pin(async move {
                let _ = ipam.collect(&store, &resources, &host, now).await;
                (ipam, Answer::Collected)
            })
        } else {
            for _ in 0..1 + random.below(3) {
                let order = self.random_order(random, node);
                self.given_up(&order);
                orders.push(order);
            }
            let orders = orders.clone();
            Box::pin(async move {
                if reads {
                    let _ = commit::read_all(&store, &mut ipam.records).await;
                }
                let results = ipam.carry_out(&store, &resources, &host, &orders, now).await;
                (ipam, Answer::Orders(orders.into_iter().zip(results).collect()))
            })
        };
        self.places[node] = Place::Busy { work, orders };
    }

    /// From the moment that an owner wants to give an address back, it is not his any more.
    fn given_up(&mut self, order: &IpamCall) {
        let IpamCall::Release(call) = order else { return };
        let gone: Vec<IpAddr> = match call.address {
            Some(address) => vec![address],
            None => self.owners.keys().copied().collect(),
        };
        let of = |(_, handle): &(String, String)| Some(handle) == call.handle.as_ref();
        let gone: Vec<IpAddr> = gone.into_iter().filter(|address| self.owners.get(address).is_some_and(of)).collect();
        for address in gone {
            if let Some((node, _)) = self.owners.remove(&address) {
                self.resources.remove(&endpoint(address, &node).key());
            }
        }
    }

    fn answered(&mut self, node: usize, order: &IpamCall, result: Result<Done, IpamError>) {
        match (order, result) {
            (IpamCall::Assign(call), Ok(Done::Assigned(view))) => {
                assert_eq!(view.addresses.len(), call.ipv4 + call.addresses.len());
                for given in view.addresses {
                    let owner = (self.nodes[node].clone(), call.handle.clone().unwrap());
                    let other = self.owners.insert(given.address, owner);
                    assert_eq!(other, None, "{} has two owners", given.address);
                    self.resources.put(endpoint(given.address, &self.nodes[node]));
                    self.assigned += 1;
                }
            }
            (_, Err(IpamError::Exhausted { .. })) => self.exhausted += 1,
            (IpamCall::Assign(_), Err(IpamError::Taken { .. } | IpamError::Rests { .. })) => {}
            (IpamCall::Release(_), Ok(Done::Released(_))) => {}
            // Another call of the same batch may have given it back already, or a collector what a stopped node had.
            (IpamCall::Release(_), Err(IpamError::NotAssigned { .. } | IpamError::OtherHandle { .. })) => {}
            (order, result) => panic!("{order:?}: {result:?}"),
        }
    }

    /// One step of one node.
    fn go_on(&mut self, random: &mut Random, node: usize) {
        if let Place::Idle(_) = &self.places[node] {
            return self.start(random, node);
        }
        let Place::Busy { work, orders } = &mut self.places[node] else { return };
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((ipam, answer)) => {
                self.places[node] = Place::Idle(ipam);
                if let Answer::Orders(answers) = answer {
                    for (order, result) in answers {
                        self.answered(node, &order, result);
                    }
                }
            }
            Poll::Pending if random.chance(4) => {
                let orders = std::mem::take(orders);
                let again = orders.into_iter().filter_map(|order| match order {
                    // Who wanted to give it back asks until he is told that it is; who wanted one may be gone, too.
                    IpamCall::Release(call) if call.address.is_some() => Some(call),
                    IpamCall::Assign(AssignCall { handle, .. }) if random.chance(50) => {
                        Some(ReleaseCall { handle, ..ReleaseCall::default() })
                    }
                    _ => None,
                });
                let again: Vec<ReleaseCall> = again.collect();
                self.unsure.extend(again.into_iter().map(|call| (node, call)));
                self.places[node] = Place::Idle(Ipam::default());
                self.is_fresh[node] = true;
                self.stops += 1;
            }
            Poll::Pending => {}
        }
    }

    /// Who was told that he has an address has it.
    fn judge(&self) {
        let mut held: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut covered: BTreeSet<IpAddr> = BTreeSet::new();
        for stored in self.store.blocks() {
            let spec = &stored.spec;
            for ordinal in 0..spec.size() {
                assert!(covered.insert(spec.address(ordinal)), "{} is in two blocks", spec.address(ordinal));
            }
            for (ordinal, attributes) in block::held(spec) {
                held.insert(spec.address(ordinal), attributes.handle_id.clone().unwrap_or_default());
            }
        }
        for (address, (node, handle)) in &self.owners {
            assert_eq!(held.get(address), Some(handle), "{address} was given to {node}");
        }
    }

    /// Everybody finishes; then there is time, and collectors use it.
    fn settle(&mut self) {
        for node in 0..self.nodes.len() {
            if let Place::Busy { work, .. } = std::mem::replace(&mut self.places[node], Place::Idle(Ipam::default())) {
                let (ipam, answer) = finish(work);
                self.places[node] = Place::Idle(ipam);
                if let Answer::Orders(answers) = answer {
                    answers.into_iter().for_each(|(order, result)| self.answered(node, &order, result));
                }
            }
        }
        self.judge();
        for (node, call) in std::mem::take(&mut self.unsure) {
            let Place::Idle(ipam) = &mut self.places[node] else { panic!("busy") };
            finish(commit::read_all(&self.store, &mut ipam.records)).unwrap();
            let orders = [IpamCall::Release(call)];
            let mut results =
                finish(ipam.carry_out(&self.store, &self.resources, &self.nodes[node].clone(), &orders, self.now));
            self.answered(node, &orders[0], results.pop().unwrap());
        }
        for _ in 0..6 {
            self.now += Duration::from_secs(1000);
            for node in 0..self.nodes.len() {
                let Place::Idle(ipam) = &mut self.places[node] else { panic!("busy") };
                finish(commit::read_all(&self.store, &mut ipam.records)).unwrap();
                finish(ipam.collect(&self.store, &self.resources, &self.nodes[node], self.now)).unwrap();
            }
        }
        self.judge();
        let held: usize = self.store.blocks().iter().map(|stored| block::held(&stored.spec).count()).sum();
        assert_eq!(held, self.owners.len(), "what nobody owns is free again");
        let mut counted = 0;
        for stored in self.store.0.borrow().objects.values() {
            if let Resource::IpamHandle(handle) = &*stored.resource {
                counted += handle.spec.block.values().sum::<u64>() as usize;
            }
        }
        assert_eq!(counted, self.owners.len(), "handles count what there is");
    }

    /// Every address that nobody owns can be had.
    fn take_all(&mut self, size: usize) {
        let mut left = size - self.owners.len();
        while left > 0 {
            let count = left.min(64);
            let order = self.new_assign(0, count);
            let Place::Idle(ipam) = &mut self.places[0] else { panic!("busy") };
            finish(commit::read_all(&self.store, &mut ipam.records)).unwrap();
            let orders = [order];
            let mut results =
                finish(ipam.carry_out(&self.store, &self.resources, &self.nodes[0].clone(), &orders, self.now));
            self.answered(0, &orders[0], results.pop().unwrap());
            assert_eq!(self.exhausted, 0, "{left} addresses are lost");
            left -= count;
        }
        assert_eq!(self.owners.len(), size);
    }
}

fn pool(cidr: &str, block: u8) -> Resource {
    resource("IPPool", "main", json!({ "cidr": cidr, "blockSize": block }))
}

/// A pool of 64 addresses in 16 blocks, for five nodes: claiming, borrowing and exhaustion all happen.
fn race_with_stops(random: &mut Random, writes_per_commit: usize) {
    let rest = random.pick(&[0, 0, 20]);
    let configuration = resource("IPAMConfiguration", "default", json!({ "ipCooldownSeconds": rest }));
    let mut world = World::new(writes_per_commit, 5, vec![pool("10.0.0.0/26", 30), configuration]);
    for _ in 0..1500 {
        let node = random.below(world.nodes.len());
        world.go_on(random, node);
        world.judge();
        world.now += Duration::from_millis(random.below(300) as u64);
    }
    assert!(world.assigned > 20 && world.stops > 5, "{} assigned, {} stops", world.assigned, world.stops);
    world.settle();
    world.exhausted = 0;
    world.take_all(64);
}

#[test]
fn no_address_has_two_owners_and_none_is_lost_when_nodes_stop_between_two_writes() {
    with_seeds(8, |random| race_with_stops(random, 1));
}

#[test]
fn nor_where_a_plan_is_one_commit() {
    with_seeds(8, |random| race_with_stops(random, 10_000));
}

#[test]
fn fifty_nodes_race_for_the_blocks_of_one_pool() {
    const NODES: usize = 50;
    for writes_per_commit in [1, 10_000] {
        with_seeds(3, |random| {
            // 64 blocks of 64: fewer than two for each.
            let mut world = World::new(writes_per_commit, NODES, vec![pool("10.0.0.0/20", 26)]);
            let mut waiting: Vec<usize> = (0..NODES).flat_map(|node| [node; 20]).collect();
            random.shuffle(&mut waiting);
            // Everybody begins with nothing known: every block that was claimed meanwhile is met.
            let mut left = vec![20usize; NODES];
            while left.iter().any(|left| *left > 0)
                || world.places.iter().any(|place| matches!(place, Place::Busy { .. }))
            {
                let node = random.below(NODES);
                match &world.places[node] {
                    Place::Idle(_) if left[node] > 0 => {
                        left[node] -= 1;
                        let order = world.new_assign(node, 1);
                        let Place::Idle(mut ipam) =
                            std::mem::replace(&mut world.places[node], Place::Idle(Ipam::default()))
                        else {
                            panic!("busy")
                        };
                        let (store, resources, host, now) =
                            (world.store.clone(), world.resources.clone(), world.nodes[node].clone(), world.now);
                        let orders = vec![order];
                        let kept = orders.clone();
                        let work: Running = Box::pin(async move {
                            let results = ipam.carry_out(&store, &resources, &host, &orders, now).await;
                            (ipam, Answer::Orders(orders.into_iter().zip(results).collect()))
                        });
                        world.places[node] = Place::Busy { work, orders: kept };
                    }
                    Place::Idle(_) => {}
                    Place::Busy { .. } => {
                        let Place::Busy { work, .. } = &mut world.places[node] else { continue };
                        let Poll::Ready((ipam, answer)) = work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
                        else {
                            continue;
                        };
                        world.places[node] = Place::Idle(ipam);
                        if let Answer::Orders(answers) = answer {
                            answers.into_iter().for_each(|(order, result)| world.answered(node, &order, result));
                        }
                    }
                }
            }
            world.judge();
            assert_eq!((world.assigned, world.exhausted), (NODES * 20, 0));
            let blocks = world.store.blocks();
            let owners: BTreeSet<_> = blocks.iter().filter_map(|stored| stored.spec.owner()).collect();
            assert_eq!((blocks.len(), owners.len()), (NODES, NODES), "each has one block, and one only");
            let state = world.store.0.borrow();
            eprintln!(
                "{writes_per_commit} writes in a commit: {} commits, {} conflicts",
                state.commits, state.conflicts
            );
        });
    }
}
