//! Plans without a store: what is drafted is what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::net::{Cidr, IpVersion};
use config::resource::{
    AllocationAttributes, AllowedUse, BlockAffinityState, BlockOwner, IpamBlockSpec, Resource, WorkloadEndpoint,
};
use proptest::prelude::*;

use super::allocator::{self, Ask};
use super::call::AssignCall;
use super::collect::{self, Collector};
use super::error::{IpamError, Limit};
use super::records::{Draft, Records};
use super::release::{self, Return};
use super::{block, handle, pools, service, show};
use crate::resources::Resources;

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
}

fn owner(handle: &str, node: &str, pod: &str) -> AllocationAttributes {
    let secondary = [("node", node), ("pod", pod), ("namespace", "default")];
    let secondary = secondary.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    AllocationAttributes { handle_id: Some(handle.to_string()), secondary, ..AllocationAttributes::default() }
}

fn cidr(text: &str) -> Cidr {
    Cidr::parse(text).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Resources, one in each line: `KIND/NAME SPEC`, the spec as JSON.
fn resources(lines: &[&str]) -> Resources {
    lines.iter().map(|line| resource(line)).collect()
}

fn resource(line: &str) -> Resource {
    let (name, spec) = line.split_once(' ').unwrap();
    let (kind, name) = name.split_once('/').unwrap();
    let mut metadata = serde_json::json!({ "name": name });
    let mut spec: serde_json::Value = serde_json::from_str(spec).unwrap();
    if let Some(labels) = spec.as_object_mut().and_then(|spec| spec.remove("labels")) {
        metadata["labels"] = labels;
    }
    let version = if kind == "Namespace" { "v1" } else { "projectcalico.org/v3" };
    let mut json = serde_json::json!({ "apiVersion": version, "kind": kind, "metadata": metadata });
    if kind != "Namespace" {
        json["spec"] = spec;
    }
    let resource = Resource::from_json(&json).unwrap();
    assert_eq!(resource.validate(), [], "{line}");
    resource
}

const POOL: &str = r#"IPPool/main {"cidr": "10.65.0.0/28", "blockSize": 30}"#;

fn ask(count: usize, host: &str, name: &str) -> Ask {
    Ask {
        count,
        family: IpVersion::V4,
        owner: owner(name, host, name),
        host: host.to_string(),
        namespace: None,
        pools: Vec::new(),
        intended: AllowedUse::Workload,
        max_blocks: None,
    }
}

/// One node after the other works on the same records.
struct Cluster {
    records: Records,
    resources: Resources,
    now: SystemTime,
}

impl Cluster {
    fn new(lines: &[&str]) -> Cluster {
        Cluster { records: Records::default(), resources: resources(lines), now: at(0) }
    }

    fn assign(&mut self, ask: &Ask) -> Result<Vec<IpAddr>, IpamError> {
        let mut draft = Draft::new(&mut self.records);
        let given = allocator::auto_assign(&mut draft, &self.resources, ask, self.now);
        if given.is_err() {
            draft.roll_back(0);
        }
        given.map(|given| given.into_iter().map(|given| given.address).collect())
    }

    fn assign_one(&mut self, host: &str, name: &str) -> IpAddr {
        self.assign(&ask(1, host, name)).unwrap()[0]
    }

    fn assign_address(&mut self, wanted: &str, host: &str, name: &str) -> Result<(), IpamError> {
        let mut draft = Draft::new(&mut self.records);
        let owner = owner(name, host, name);
        let given = allocator::assign_address(&mut draft, &self.resources, address(wanted), &owner, host, self.now);
        if given.is_err() {
            draft.roll_back(0);
        }
        given.map(drop)
    }

    fn release(&mut self, wish: Return) -> Result<Option<String>, IpamError> {
        release::release_address(&mut Draft::new(&mut self.records), &self.resources, &wish, self.now)
    }

    fn release_handle(&mut self, name: &str) -> Vec<IpAddr> {
        release::release_handle(&mut Draft::new(&mut self.records), &self.resources, name, self.now)
    }

    fn blocks_of(&self, host: &str) -> Vec<Cidr> {
        let owner = BlockOwner::Host(host.to_string());
        self.records.affinities_of(&owner).map(|affinity| affinity.spec.cidr).collect()
    }

    fn collect(&mut self, collector: &mut Collector, host: &str) -> collect::Collected {
        let due = collector.look(&self.records, &self.resources, host, self.now);
        let mut draft = Draft::new(&mut self.records);
        let collected = collect::plan(&mut draft, &self.resources, &due, host, self.now);
        drop(draft);
        self.check();
        collected
    }

    /// What always holds: records that a validator takes, counts that are right, no address twice.
    fn check(&self) {
        let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for block in self.records.blocks() {
            let metadata = config::resource::Metadata::named(config::resource::block_name(&block.cidr));
            let resource = Resource::IpamBlock(config::resource::IpamBlock { metadata, spec: block.clone() });
            assert_eq!(resource.validate(), [], "{block:?}");
            for (ordinal, attributes) in block::held(block) {
                assert!(seen.insert(block.address(ordinal)), "twice");
                let handle = attributes.handle_id.clone().unwrap();
                *counts.entry((handle, block.cidr.to_string())).or_default() += 1;
            }
            if let Some(owner) = block.owner() {
                let affinity = self.records.affinity(&owner, &block.cidr).map(|affinity| affinity.spec.state);
                assert_eq!(affinity, Some(BlockAffinityState::Confirmed), "{}", block.cidr);
            }
        }
        let mut counted = BTreeMap::new();
        for (spec, _) in self.records.handles() {
            counted.extend(spec.block.iter().map(|(block, count)| ((spec.handle_id.clone(), block.clone()), *count)));
        }
        assert_eq!(counted, counts);
    }
}

#[test]
fn addresses_come_from_a_block_of_the_node_and_go_back_to_its_end() {
    let mut cluster = Cluster::new(&[POOL]);
    let first = cluster.assign_one("a", "one");
    let block = cluster.blocks_of("a")[0];
    assert_eq!(first, block.address());
    assert_eq!(cluster.assign_one("a", "two"), cluster.records.block(&block).unwrap().address(1));
    assert_eq!(cluster.release_handle("one"), [first]);
    // What was released last is given out last.
    let next: Vec<IpAddr> = (0..3).map(|number| cluster.assign_one("a", &format!("more{number}"))).collect();
    assert_eq!(next[2], first);
    assert!(cluster.release_handle("nobody").is_empty());
    cluster.check();
}

#[test]
fn nodes_begin_at_the_block_that_follows_from_their_name() {
    let cluster = Cluster::new(&[r#"IPPool/main {"cidr": "10.65.0.0/16", "blockSize": 26}"#]);
    let pool = cluster.resources.ip_pools().next().unwrap();
    let check = |host: &str| {
        let index = pools::fnv1(host.as_bytes()) % 1024;
        let blocks: Vec<Cidr> = pools::blocks_from(pool, host).collect();
        assert_eq!(blocks.len(), 1024);
        let expected = IpAddr::V4((0x0a41_0000 + index * 64).into());
        assert_eq!(blocks[0], Cidr::new(expected, 26).unwrap());
        assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), 1024, "each once");
    };
    ["", "a", "worker-1", "worker-2"].iter().for_each(|host| check(host));
    // The published vectors of FNV-1.
    assert_eq!((pools::fnv1(b""), pools::fnv1(b"a"), pools::fnv1(b"foobar")), (0x811c_9dc5, 0x050c_5d7e, 0x31f0_b262));
}

#[test]
fn a_node_borrows_when_no_block_is_left_and_the_rules_allow_it() {
    let mut cluster = Cluster::new(&[POOL]);
    for host in ["a", "b", "c", "d"] {
        cluster.assign_one(host, host);
    }
    assert_eq!(cluster.assign(&ask(3, "e", "e1")).unwrap().len(), 3);
    assert!(cluster.blocks_of("e").is_empty());
    assert_eq!(show::borrowed(&cluster.records).len(), 3);
    cluster.check();
    cluster.resources.put(resource(r#"IPAMConfiguration/default {"strictAffinity": true}"#));
    let refused = cluster.assign(&ask(1, "e", "e2"));
    assert!(matches!(refused, Err(IpamError::Exhausted { limit: Limit::Strict, .. })), "{refused:?}");
    cluster.check();
}

#[test]
fn an_empty_block_of_another_is_claimed_when_it_has_been_idle() {
    let mut cluster = Cluster::new(&[POOL]);
    for host in ["a", "b", "c", "d"] {
        cluster.assign_one(host, host);
    }
    cluster.release_handle("b");
    let block = cluster.blocks_of("b")[0];
    cluster.assign_one("e", "e1");
    assert!(cluster.blocks_of("e").is_empty(), "claimed a moment ago");
    cluster.now = at(61);
    cluster.release_handle("e1");
    cluster.assign_one("e", "e2");
    assert_eq!((cluster.blocks_of("e"), cluster.blocks_of("b")), (vec![block], vec![]));
    cluster.check();
}

#[test]
fn exhaustion_is_one_error_with_counts_and_what_to_do() {
    let reserved = r#"IPReservation/kept {"reservedCIDRs": ["10.65.0.0/31", "10.65.0.1"]}"#;
    let mut cluster = Cluster::new(&[POOL, reserved]);
    assert_eq!(cluster.assign(&ask(14, "a", "all")).unwrap().len(), 14);
    let error = cluster.assign(&ask(2, "a", "more")).unwrap_err().to_string();
    let expected = "no IPv4 addresses left: 2 wanted, 0 found; pool main (10.65.0.0/28): 16 addresses, 14 in use, \
                    2 reserved, 0 resting, 0 free; apply another IPPool, or look for addresses nobody uses with \
                    `vrouter ipam check`";
    assert_eq!(error, expected);
    // Asked for by name, a reserved one can be had.
    cluster.assign_address("10.65.0.0", "a", "named").unwrap();
    cluster.check();
    cluster.release_handle("all");
    let mut limited = ask(5, "b", "b");
    limited.max_blocks = Some(0);
    cluster.resources.put(resource(r#"IPAMConfiguration/default {"strictAffinity": true}"#));
    let error = cluster.assign(&limited).unwrap_err().to_string();
    assert!(error.contains("as many blocks as it may have, 0; raise it with"), "{error}");
    assert!(error.contains("16 addresses, 1 in use, 1 reserved, 0 resting, 14 free"), "{error}");
}

#[test]
fn pools_are_chosen_by_selectors_uses_and_names() {
    let mut cluster = Cluster::new(&[
        r#"IPPool/a-zone {"cidr": "10.1.0.0/24", "nodeSelector": "zone == 'a'"}"#,
        r#"IPPool/b-off {"cidr": "10.2.0.0/24", "disabled": true}"#,
        r#"IPPool/c-manual {"cidr": "10.3.0.0/24", "assignmentMode": "Manual"}"#,
        r#"IPPool/d-tunnel {"cidr": "10.4.0.0/24", "allowedUses": ["Tunnel"]}"#,
        r#"IPPool/e-shop {"cidr": "10.5.0.0/24", "namespaceSelector": "team == 'shop'"}"#,
        r#"Node/a {"labels": {"zone": "a"}}"#,
        r#"Node/b {}"#,
        r#"Namespace/shop {"labels": {"team": "shop"}}"#,
    ]);
    let check = |cluster: &mut Cluster, ask: Ask, expected: &str| {
        let found = match cluster.assign(&ask) {
            Ok(given) => given[0].to_string().rsplit_once('.').unwrap().0.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected);
    };
    check(&mut cluster, ask(1, "a", "1"), "10.1.0");
    let refused = "no IPv4 pool that this node may use for Workload addresses; passed over: a-zone (its nodeSelector), \
                   b-off (disabled), c-manual (assignmentMode Manual), e-shop (its namespaceSelector), d-tunnel (its allowedUses)";
    check(&mut cluster, ask(1, "b", "2"), refused);
    let mut wish = ask(1, "b", "3");
    wish.namespace = Some("shop".to_string());
    check(&mut cluster, wish.clone(), "10.5.0");
    wish.pools = vec!["10.3.0.0/24".to_string()];
    check(&mut cluster, wish.clone(), "10.3.0");
    wish.pools = vec!["a-zone".to_string()];
    check(&mut cluster, wish.clone(), "10.1.0");
    wish.pools = vec!["b-off".to_string()];
    let known = "a-zone (10.1.0.0/24), c-manual (10.3.0.0/24), d-tunnel (10.4.0.0/24), e-shop (10.5.0.0/24)";
    let refused = format!("pool b-off: found no enabled IPPool of this name or CIDR, expected one of {known}");
    check(&mut cluster, wish, &refused);
    let tunnel = Ask { intended: AllowedUse::Tunnel, ..ask(1, "b", "4") };
    check(&mut cluster, Ask { owner: handle::Tunnel::Vxlan.attributes("b"), ..tunnel }, "10.4.0");
    assert!(cluster.records.handle("vxlan-tunnel-addr-b").is_some());
    // The node is moved: its empty block of the old zone goes with the next request.
    cluster.release_handle("1");
    assert_eq!(cluster.blocks_of("a").len(), 1);
    cluster.resources.put(resource(r#"Node/a {"labels": {"zone": "b"}}"#));
    let mut wish = ask(1, "a", "5");
    wish.pools = vec!["c-manual".to_string()];
    check(&mut cluster, wish, "10.3.0");
    assert!(cluster.blocks_of("a").iter().all(|block| !cidr("10.1.0.0/24").overlaps(block)));
    cluster.check();
}

/// What is named for one family leaves the other to the pools' selectors.
#[test]
fn pools_are_named_by_family() {
    let mut cluster = Cluster::new(&[
        r#"IPPool/four {"cidr": "10.1.0.0/24"}"#,
        r#"IPPool/other-four {"cidr": "10.2.0.0/24"}"#,
        r#"IPPool/six {"cidr": "fd01::/112"}"#,
        r#"IPPool/other-six {"cidr": "fd02::/112"}"#,
    ]);
    let mut check = |ipv4: &[&str], ipv6: &[&str], expected: &str| {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let (ipv4_pools, ipv6_pools) = (names(ipv4), names(ipv6));
        let call = AssignCall { ipv4: 1, ipv6: 1, ipv4_pools, ipv6_pools, ..AssignCall::default() };
        let mut draft = Draft::new(&mut cluster.records);
        let found = match service::assign(&mut draft, &cluster.resources, "a", &call, at(0)) {
            Ok(view) => view.addresses.into_iter().map(|given| given.pool.unwrap()).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        };
        draft.roll_back(0);
        assert_eq!(found, expected, "{ipv4:?} {ipv6:?}");
    };
    check(&[], &[], "four other-six");
    check(&[], &["six"], "four six");
    check(&["other-four"], &[], "other-four other-six");
    check(&["other-four"], &["fd01::/112"], "other-four six");
    // By hand, a name is given for both, and one family is left with none.
    check(&["six", "other-four"], &["six", "other-four"], "other-four six");
    let refused = "no IPv6 pool that this node may use for Workload addresses; passed over: other-four (its family)";
    check(&["other-four"], &["other-four"], refused);
    // In a network's configuration that is a mistake.
    check(&["other-four", "six"], &[], "pools for IPv4: found six (fd01::/112), expected names or CIDRs of IPv4 pools");
    check(
        &[],
        &["10.1.0.0/24"],
        "pools for IPv6: found 10.1.0.0/24 (10.1.0.0/24), expected names or CIDRs of IPv6 pools",
    );
}

#[test]
fn an_address_rests_after_its_release() {
    let configuration = r#"IPAMConfiguration/default {"ipCooldownSeconds": 60}"#;
    let mut cluster = Cluster::new(&[r#"IPPool/main {"cidr": "10.65.0.0/31", "blockSize": 31}"#, configuration]);
    let first = cluster.assign_one("a", "one");
    cluster.assign_one("a", "two");
    cluster.release_handle("one");
    cluster.check();
    let error = cluster.assign(&ask(1, "a", "three")).unwrap_err().to_string();
    assert!(error.contains("2 addresses, 1 in use, 0 reserved, 1 resting, 0 free"), "{error}");
    let error = cluster.assign_address(&first.to_string(), "a", "three").unwrap_err().to_string();
    assert!(error.contains("rests until 2023-11-14T22:14:20Z"), "{error}");
    cluster.now = at(60);
    assert_eq!(cluster.assign_one("a", "three"), first);
    cluster.check();
}

#[test]
fn nobody_releases_what_is_another_s() {
    let mut cluster = Cluster::new(&[POOL]);
    let given = cluster.assign_one("a", "one");
    let of = |handle: Option<&str>, sequence| Return { address: given, handle: handle.map(str::to_string), sequence };
    let sequence = show::who(&cluster.records, &cluster.resources, given, cluster.now).sequence;
    let check = |cluster: &mut Cluster, wish: Return, expected: &str| {
        let found = match cluster.release(wish) {
            Ok(handle) => format!("released from {}", handle.unwrap_or_default()),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected);
    };
    let refused = format!("{given} belongs to handle one, expected two; nothing was released");
    check(&mut cluster, of(Some("two"), None), &refused);
    check(&mut cluster, of(None, sequence), "released from one");
    check(&mut cluster, of(None, None), &format!("{given} is not assigned; nothing was released"));
    cluster.assign_address(&given.to_string(), "a", "three").unwrap();
    check(
        &mut cluster,
        of(None, sequence),
        &format!("{given} was given out again since it was looked at; nothing was released"),
    );
    let outside = Return { address: address("192.0.2.1"), handle: None, sequence: None };
    check(&mut cluster, outside, "192.0.2.1 is not assigned; nothing was released");
    cluster.check();
}

#[test]
fn addresses_by_name() {
    let mut cluster = Cluster::new(&[POOL]);
    let check = |cluster: &mut Cluster, wanted: &str, host: &str, expected: &str| {
        let found =
            cluster.assign_address(wanted, host, "named").map_or_else(|error| error.to_string(), |()| "ok".into());
        assert_eq!(found, expected);
    };
    check(&mut cluster, "10.65.0.5", "a", "ok");
    assert_eq!(cluster.blocks_of("a"), [cidr("10.65.0.4/30")]);
    check(
        &mut cluster,
        "10.65.0.5",
        "a",
        "10.65.0.5 has an owner already: handle named; release it first, or ask for another",
    );
    check(&mut cluster, "10.65.0.6", "b", "ok");
    check(&mut cluster, "10.66.0.6", "b", "10.66.0.6 is in no IPPool for workloads; the pools are main (10.65.0.0/28)");
    cluster.resources.put(resource(r#"IPAMConfiguration/default {"strictAffinity": true}"#));
    let refused =
        "10.65.0.7 is in a block of host:a, and strictAffinity forbids to borrow it; ask for one of this node's blocks";
    check(&mut cluster, "10.65.0.7", "b", refused);
    cluster.check();
}

#[test]
fn what_nobody_has_any_more_is_collected() {
    let mut cluster =
        Cluster::new(&[r#"IPPool/main {"cidr": "10.65.0.0/24", "blockSize": 30}"#, r#"Node/a {}"#, r#"Node/b {}"#]);
    let mut collector = Collector::default();
    let kept = cluster.assign_one("a", "kept");
    let lost = cluster.assign(&ask(5, "a", "lost")).unwrap();
    let other = cluster.assign_one("b", "other");
    let endpoint = |name: &str, address: IpAddr| {
        let mut endpoint = WorkloadEndpoint {
            metadata: config::resource::Metadata::namespaced("default", name),
            spec: Default::default(),
        };
        endpoint.spec.node = "a".to_string();
        endpoint.spec.ip_networks = vec![Cidr::host(address)];
        Resource::WorkloadEndpoint(endpoint)
    };
    cluster.resources.put(endpoint("kept", kept));
    let report = show::check(&cluster.records, &cluster.resources);
    assert_eq!((report.leaked.len(), report.all.len()), (6, 7));
    let nothing = collect::Collected::default();
    assert_eq!(cluster.collect(&mut collector, "a"), nothing);
    cluster.now = at(899);
    assert_eq!(cluster.collect(&mut collector, "a"), nothing);
    assert_eq!(collector.candidates(), 5, "another node's are for that node to judge");
    // One of a handle's addresses is used after all: none of them is lost.
    cluster.resources.put(endpoint("back", lost[0]));
    cluster.now = at(900);
    assert_eq!(cluster.collect(&mut collector, "a"), nothing);
    cluster.resources.remove(&endpoint("back", lost[0]).key());
    cluster.collect(&mut collector, "a");
    cluster.now = at(1800);
    let mut collected = cluster.collect(&mut collector, "a");
    collected.addresses.sort();
    let mut expected = lost;
    expected.sort();
    assert_eq!((collected.addresses, collected.blocks), (expected, 0));
    // Its empty blocks go when they were seen twice, but for the last; the block of the address that is used stays.
    assert_eq!(cluster.blocks_of("a").len(), 2);
    assert_eq!(cluster.collect(&mut collector, "a"), nothing);
    assert_eq!(cluster.collect(&mut collector, "a").blocks, 1);
    assert_eq!(cluster.blocks_of("a").len(), 1);
    cluster.release_handle("kept");
    for _ in 0..3 {
        assert_eq!(cluster.collect(&mut collector, "a").blocks, 0, "the last one is kept");
    }
    // A node that is gone leaves nothing behind, and is waited for once only.
    cluster.resources.remove(&resource("Node/b {}").key());
    assert_eq!(cluster.collect(&mut collector, "a"), nothing);
    let collected = cluster.collect(&mut collector, "a");
    assert_eq!((collected.addresses, collected.blocks), (vec![other], 1));
    assert!(cluster.blocks_of("b").is_empty());
}

/// Of a node that is gone, also what other main plugins and Docker were given; not what a person has.
#[test]
fn runtimes_go_with_their_node() {
    let mut cluster = Cluster::new(&[POOL, "Node/a {}"]);
    let mut collector = Collector::default();
    let mut given = Vec::new();
    for name in ["ipam-container", "docker-pool", "note"] {
        let mut ask = ask(1, "b", name);
        ask.owner.secondary.remove("pod");
        ask.owner.secondary.insert(name.to_string(), "x".to_string());
        given.extend(cluster.assign(&ask).unwrap());
    }
    cluster.collect(&mut collector, "a");
    let mut collected = cluster.collect(&mut collector, "a").addresses;
    collected.sort();
    assert_eq!(collected, given[..2]);
}

#[test]
fn a_count_that_is_wrong_is_put_right() {
    let mut cluster = Cluster::new(&[POOL]);
    let mut collector = Collector::default();
    cluster.assign_one("a", "one");
    let block = cluster.blocks_of("a")[0];
    // A node that stopped between handle and block.
    handle::add(&mut Draft::new(&mut cluster.records), "one", &block, 1);
    handle::add(&mut Draft::new(&mut cluster.records), "two", &block, 1);
    let look = |cluster: &Cluster, collector: &mut Collector| {
        collector.look(&cluster.records, &cluster.resources, "a", cluster.now)
    };
    assert!(look(&cluster, &mut collector).is_empty());
    cluster.now = at(60);
    assert_eq!(cluster.collect(&mut collector, "a").handles, 2);
    assert!(cluster.records.handle("two").is_none());
}

#[test]
fn damaged_records_lose_no_address_that_has_an_owner() {
    let now = at(0);
    let damaged = |change: &dyn Fn(&mut IpamBlockSpec)| {
        let mut block = block::new(cidr("10.0.0.0/30"), None, now);
        block::assign(&mut block, 1, &owner("one", "a", "one"), Duration::ZERO, now).unwrap();
        change(&mut block);
        block
    };
    let check = |change: &dyn Fn(&mut IpamBlockSpec), expected: usize| {
        let mut block = damaged(change);
        let taken = block::take(&mut block, 9, &owner("two", "a", "two"), &|_| false, Duration::ZERO, now);
        assert_eq!(taken.len(), expected);
        assert!(!taken.contains(&address("10.0.0.1")));
        let of_two = block::held(&block).filter(|(_, attributes)| attributes.handle_id.as_deref() == Some("two"));
        assert_eq!(of_two.count(), expected);
    };
    check(&|_| {}, 3);
    check(&|block| block.unallocated.extend([1, 2, 7]), 3);
    check(&|block| block.attributes.clear(), 3);
    check(&|block| block.allocations[2] = Some(99), 2);
    check(&|block| block.allocations.truncate(2), 3);
    check(&|block| block.unallocated.clear(), 3);
}

/// What somebody may do to a block.
#[derive(Debug, Clone)]
enum Step {
    Take { count: usize, owner: u8 },
    Assign { ordinal: usize, owner: u8 },
    Release { ordinals: Vec<usize> },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..4, 0u8..4).prop_map(|(count, owner)| Step::Take { count, owner }),
        (0usize..10, 0u8..4).prop_map(|(ordinal, owner)| Step::Assign { ordinal, owner }),
        prop::collection::vec(0usize..10, 0..4).prop_map(|ordinals| Step::Release { ordinals }),
        (0u64..40).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The twin knows of each address who has it, or since when it rests.
    #[test]
    fn a_block_is_a_map_of_owners(steps in prop::collection::vec(step(), 1..40), rest in prop_oneof![Just(0u64), Just(30)]) {
        let rest = Duration::from_secs(rest);
        let mut now = at(0);
        let mut block = block::new(cidr("10.0.0.0/29"), None, now);
        let reserved = address("10.0.0.3");
        let mut owned: BTreeMap<usize, u8> = BTreeMap::new();
        let mut resting: BTreeMap<usize, SystemTime> = BTreeMap::new();
        let attributes = |number: u8| owner(&number.to_string(), "a", "pod");
        for step in steps {
            resting.retain(|_, since| *since + rest > now);
            let before = block.sequence_number;
            let is_free = |owned: &BTreeMap<usize, u8>, ordinal: &usize| !owned.contains_key(ordinal) && !resting.contains_key(ordinal);
            match step {
                Step::Take { count, owner } => {
                    let free = (0..8).filter(|ordinal| *ordinal != 3 && is_free(&owned, ordinal)).count();
                    let taken = block::take(&mut block, count, &attributes(owner), &|address| address == reserved, rest, now);
                    prop_assert_eq!(taken.len(), count.min(free));
                    for address in taken {
                        let ordinal = block.ordinal(address).unwrap();
                        prop_assert!(ordinal != 3 && is_free(&owned, &ordinal));
                        prop_assert_eq!(block::sequence(&block, ordinal), Some(block.sequence_number));
                        owned.insert(ordinal, owner);
                    }
                }
                Step::Assign { ordinal, owner } => {
                    let expected = ordinal < 8 && is_free(&owned, &ordinal);
                    prop_assert_eq!(block::assign(&mut block, ordinal, &attributes(owner), rest, now).is_ok(), expected);
                    if expected {
                        owned.insert(ordinal, owner);
                    }
                }
                Step::Release { ordinals } => {
                    block::release(&mut block, &ordinals, rest, now);
                    for ordinal in ordinals {
                        if owned.remove(&ordinal).is_some() && !rest.is_zero() {
                            resting.insert(ordinal, now);
                        }
                    }
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
            }
            prop_assert!(block.sequence_number >= before);
            let held: BTreeMap<usize, String> = block::held(&block).map(|(ordinal, held)| (ordinal, held.handle_id.clone().unwrap())).collect();
            let expected: BTreeMap<usize, String> = owned.iter().map(|(ordinal, owner)| (*ordinal, owner.to_string())).collect();
            prop_assert_eq!(held, expected);
            let metadata = config::resource::Metadata::named("10-0-0-0-29");
            let resource = Resource::IpamBlock(config::resource::IpamBlock { metadata, spec: block.clone() });
            prop_assert_eq!(resource.validate(), []);
            prop_assert_eq!(Resource::from_json(&resource.to_json()).ok(), Some(resource));
        }
    }
}
