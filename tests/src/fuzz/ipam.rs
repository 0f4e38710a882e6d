//! Records of blocks as somebody else may have left them, and what is done with them.
//!
//! The input is the JSON of an IPAMBlock's spec. Whatever it says: who had an address has it until it is released, nobody is
//! given it meanwhile, and what is free can be had.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::resource::{AllocationAttributes, IpamBlockSpec, Resource};
use control::ipam::block;
use serde_json::{Value, json};

use super::{Seen, Target};

pub const IPAM: Target = Target {
    name: "ipam",
    run: ipam,
    seeds,
    tokens: &[
        "allocations",
        "unallocated",
        "attributes",
        "null",
        "releasedAt",
        "handle_id",
        "2026-01-01T00:00:00Z",
        "/32",
        "+01:00",
    ],
    longest: 2048,
    rounds: 1500,
};

fn ipam(bytes: &[u8]) -> Seen {
    let Ok(spec) = serde_json::from_slice::<Value>(bytes) else { return Seen::refused("no JSON") };
    let json = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPAMBlock", "metadata": { "name": "b" }, "spec": spec,
    });
    let Ok(Resource::IpamBlock(stored)) = Resource::from_json(&json) else { return Seen::refused("no block") };
    let mut spec = stored.spec;
    let now = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    let rest = Duration::from_secs(u64::from(bytes[0] & 32));
    let before = owners(&spec);
    let counted = block::counts(&spec, &|_| false);
    let mine = AllocationAttributes { handle_id: Some("mine".to_string()), ..AllocationAttributes::default() };
    let taken = block::take(&mut spec, usize::MAX, &mine, &|_| false, rest, now);
    for (address, owner) in &before {
        assert!(!taken.contains(address), "{address} is taken from {owner:?}");
    }
    let after = owners(&spec);
    for (address, owner) in &before {
        assert_eq!(after.get(address), Some(owner), "{address} is lost");
    }
    assert_eq!(after.len(), before.len() + taken.len());
    let all: Vec<usize> = (0..spec.size()).collect();
    block::release(&mut spec, &all, Duration::ZERO, now);
    let later: SystemTime = UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    block::wake(&mut spec, rest, later);
    assert!(block::is_empty(&spec) && spec.attributes.is_empty());
    assert_eq!(block::take(&mut spec, usize::MAX, &mine, &|_| false, rest, later).len(), spec.size());
    Seen::accepted((before.len().min(4), taken.len().min(4), counted.resting.min(4) as u8, spec.size()))
}

fn owners(spec: &IpamBlockSpec) -> BTreeMap<IpAddr, AllocationAttributes> {
    block::held(spec).map(|(ordinal, owner)| (spec.address(ordinal), owner.clone())).collect()
}

fn seeds() -> Vec<Vec<u8>> {
    let attributes = json!([{ "handle_id": "h", "secondary": { "node": "n", "pod": "p" } }, { "releasedAt": "2026-01-01T00:00:00Z" }]);
    let seeds = [
        json!({ "cidr": "10.0.0.0/30", "affinity": "host:n", "allocations": [0, null, 1, null], "unallocated": [3, 1],
                "attributes": attributes, "sequenceNumber": 7, "sequenceNumberForAllocation": { "0": 7 } }),
        json!({ "cidr": "10.0.0.0/31", "allocations": [0, 1], "unallocated": [0], "attributes": attributes }),
        json!({ "cidr": "fd00::/127", "allocations": [null, null], "unallocated": [0, 1] }),
        json!({ "cidr": "10.0.0.0/29", "allocations": [9, null], "unallocated": [1, 1, 7, 8] }),
    ];
    seeds.iter().map(|seed| seed.to_string().into_bytes()).collect()
}
