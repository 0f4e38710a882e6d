//! ipam split: several pools of equal size in the place of one.
//!
//! ```text
//!   main ─disable─▶ split-main-0 … split-main-N made ─▶ main deleted
//! ```
//!
//! Blocks stay as they are, each within one of the new pools. In between nothing is given out of either: the old pool is
//! disabled, and the datastore is locked.

use config::net::Cidr;
use config::resource::{IpPool, Kind, Resource};
use control::http::api::{DeleteCall, DeleteTarget, ErrorCode};
use control::http::views::{GetReply, WriteReply};
use control::ipam::call::{CheckView, IpamCall};
use serde_json::{Value, json};
use std::net::IpAddr;

use super::super::Format;
use super::super::error::CliError;
use super::super::render::{self, harmless};
use super::{SplitArguments, apply};
use crate::client::Client;

/// Pools of one split.
const PARTS_MAX: u32 = 1024;

pub(super) fn split(client: &Client, format: Format, arguments: &SplitArguments) -> Result<(), CliError> {
    let now: CheckView = client.post("/v1/ipam", &IpamCall::Check)?;
    if !now.is_locked && !arguments.force {
        let message = "the datastore is not locked: set datastoreReady of ClusterInformation default to false first, or use --force";
        return Err(CliError::refused(ErrorCode::Conflict, message));
    }
    let (pool, mut object) = find(client, arguments)?;
    let parts = parts(&pool, arguments.number)?;
    object["spec"]["disabled"] = true.into();
    apply(client, vec![object.clone()])?;
    let name = &pool.metadata.name;
    let part = |(position, cidr): (usize, &Cidr)| {
        let mut part = object.clone();
        part["metadata"] = json!({ "name": format!("split-{name}-{position}") });
        for field in ["labels", "annotations"] {
            if let Some(value) = object["metadata"].get(field) {
                part["metadata"][field] = value.clone();
            }
        }
        part["spec"]["cidr"] = cidr.to_string().into();
        part["spec"]["disabled"] = pool.spec.disabled.into();
        part
    };
    let made: WriteReply = apply(client, parts.iter().enumerate().map(part).collect())?;
    let target =
        DeleteTarget { kind: Kind::IpPool.name().to_string(), namespace: None, name: name.clone(), expected: None };
    let call = DeleteCall { targets: vec![target], skip_missing: false, dry_run: false, confirm_seconds: None };
    let _: WriteReply = client.post("/v1/delete", &call)?;
    if let Some(text) = render::structured(format, &made)? {
        return render::print(&text);
    }
    let list: String =
        parts.iter().enumerate().map(|(position, cidr)| format!("  split-{name}-{position} {cidr}\n")).collect();
    render::print(&format!("Successfully split IP pool {} into {} pools:\n{}", harmless(name), parts.len(), list))
}

fn find(client: &Client, arguments: &SplitArguments) -> Result<(IpPool, Value), CliError> {
    let reply: GetReply = client.get(&format!("/v1/resources/{}", Kind::IpPool.name()))?;
    for item in reply.items {
        let Ok(Resource::IpPool(pool)) = Resource::from_json(&item) else { continue };
        let is_meant = match (&arguments.name, &arguments.cidr) {
            (Some(name), _) => pool.metadata.name == *name,
            (None, Some(cidr)) => pool.spec.cidr.to_string() == *cidr,
            (None, None) => false,
        };
        if is_meant {
            return Ok((pool, item));
        }
    }
    let wanted = arguments.name.as_ref().or(arguments.cidr.as_ref()).cloned().unwrap_or_default();
    Err(CliError::refused(
        ErrorCode::ObjectNotFound,
        format!("IPPool {wanted} not found; `vrouter get pools` lists them"),
    ))
}

/// The networks that a pool is made of.
fn parts(pool: &IpPool, number: u32) -> Result<Vec<Cidr>, CliError> {
    if !number.is_power_of_two() || !(2..=PARTS_MAX).contains(&number) {
        let expected = format!("a power of two from 2 to {PARTS_MAX}");
        return Err(CliError::Usage(format!("number: found {number}, expected {expected}")));
    }
    let cidr = pool.spec.cidr.masked();
    let length = cidr.length() + number.trailing_zeros() as u8;
    if length > pool.spec.block_size {
        let most = 1u64 << (pool.spec.block_size - cidr.length()).min(63);
        let message =
            format!("number: found {number}, expected at most {most}: pool {} has no more blocks", pool.metadata.name);
        return Err(CliError::Usage(message));
    }
    let part = |position: u32| {
        let bits = u32::from(cidr.version().address_bits() - length);
        let address = match cidr.address() {
            IpAddr::V4(first) => IpAddr::V4((first.to_bits() | position.checked_shl(bits).unwrap_or(0)).into()),
            IpAddr::V6(first) => {
                IpAddr::V6((first.to_bits() | u128::from(position).checked_shl(bits).unwrap_or(0)).into())
            }
        };
        Cidr::new(address, length)
    };
    Ok((0..number).filter_map(part).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_equal_and_cover_the_pool() {
        let check = |cidr: &str, number: u32, expected: &str| {
            let json = json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "p" }, "spec": { "cidr": cidr } });
            let Ok(Resource::IpPool(pool)) = Resource::from_json(&json) else { panic!("{cidr}") };
            let found = match parts(&pool, number) {
                Ok(parts) => parts.iter().map(Cidr::to_string).collect::<Vec<_>>().join(" "),
                Err(error) => error.to_string(),
            };
            assert_eq!(found, expected);
        };
        check("10.65.0.0/16", 2, "10.65.0.0/17 10.65.128.0/17");
        check("10.65.0.0/25", 2, "10.65.0.0/26 10.65.0.64/26");
        check("fd00::/64", 4, "fd00::/66 fd00::4000:0:0:0/66 fd00::8000:0:0:0/66 fd00::c000:0:0:0/66");
        check("10.65.0.0/16", 3, "number: found 3, expected a power of two from 2 to 1024");
        check("10.65.0.0/16", 1, "number: found 1, expected a power of two from 2 to 1024");
        check("10.65.0.0/25", 4, "number: found 4, expected at most 2: pool p has no more blocks");
    }
}
