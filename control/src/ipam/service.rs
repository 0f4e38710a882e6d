//! What a node does with addresses: requests that wait, carried out together, and what is collected.
//!
//! ```text
//!   call ─▶ waiting ─┐
//!   call ─▶ waiting ─┼─▶ one plan ─▶ one commit ─▶ all are answered
//!   call ─▶ waiting ─┘
//! ```
//!
//! A commit costs what a disk takes to keep it, whatever is in it: calls that come while one is under way share the next.
//! A call that fails is taken out of the plan, and is answered when the plan it has failed in is written.
//!
//! Bounds: `BATCH` calls in one commit.

use std::time::SystemTime;

use config::net::IpVersion;
use config::resource::AllowedUse;
use serde::Serialize;
use serde_json::Value;

use super::allocator::{self, Ask, COUNT_MAX, Given};
use super::call::{AssignCall, AssignView, AssignedView, IpamCall, ReleaseCall, ReleaseView};
use super::collect::{self, Collected, Collector};
use super::error::IpamError;
use super::records::{Draft, Records};
use super::release::{self, Return};
use super::{commit, moment, pools, show};
use crate::datastore::Datastore;
use crate::resources::Resources;
use crate::tell::to_json;

/// Calls in one commit.
pub const BATCH: usize = 64;

/// Addresses of one call that were asked for by name, or that are to be released.
const NAMED_MAX: usize = COUNT_MAX;

/// Addresses of one node.
#[derive(Debug, Default)]
pub struct Ipam {
    pub records: Records,
    collector: Collector,
}

/// What an order has come to; told as its view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Done {
    Assigned(AssignView),
    Released(ReleaseView),
}

impl Ipam {
    /// Answers a question. An order changes nothing here: it is answered as the question for pools.
    pub fn ask(&self, resources: &Resources, host: &str, call: &IpamCall, now: SystemTime) -> Value {
        let records = &self.records;
        match call {
            IpamCall::Borrowed => to_json(&show::borrowed(records)),
            IpamCall::Configuration => to_json(&show::configuration(resources)),
            IpamCall::Who { address } => to_json(&show::who(records, resources, *address, now)),
            IpamCall::Check => to_json(&show::check(records, resources)),
            IpamCall::Allocations => to_json(&show::allocations(records, resources, host)),
            IpamCall::Pools | IpamCall::Assign(_) | IpamCall::Release(_) | IpamCall::ReleaseAll { .. } => {
                to_json(&show::pools(records, resources))
            }
        }
    }

    /// Carries out orders, each whole or not at all, in as few commits as the store allows. One answer for each.
    pub async fn carry_out<D: Datastore>(
        &mut self,
        store: &D,
        resources: &Resources,
        host: &str,
        orders: &[IpamCall],
        now: SystemTime,
    ) -> Vec<Result<Done, IpamError>> {
        let together = if store.writes_per_commit() > 1 { BATCH } else { 1 };
        let mut answers = Vec::with_capacity(orders.len());
        for batch in orders.chunks(together) {
            let mut is_sure = false;
            let plan = |draft: &mut Draft<'_>| -> Vec<Result<Done, IpamError>> {
                let carry_out = |order: &IpamCall| {
                    let before = draft.len();
                    let done = order_done(draft, resources, host, order, now);
                    if done.is_err() {
                        draft.roll_back(before);
                    }
                    done
                };
                batch.iter().map(carry_out).collect()
            };
            let mut done = commit::run(store, &mut self.records, now, plan).await;
            // What is refused for what is known of others may be so no longer: that is asked of the store, and once.
            if let Ok(answers) = &mut done {
                for (order, answer) in batch.iter().zip(answers) {
                    if !is_hearsay(answer) {
                        continue;
                    }
                    if !std::mem::replace(&mut is_sure, true)
                        && let Err(error) = commit::read_all(store, &mut self.records).await
                    {
                        *answer = Err(error.into());
                        continue;
                    }
                    let again = |draft: &mut Draft<'_>| {
                        let done = order_done(draft, resources, host, order, now);
                        if done.is_err() {
                            draft.roll_back(0);
                        }
                        done
                    };
                    *answer = commit::run(store, &mut self.records, now, again).await.and_then(|done| done);
                }
            }
            match done {
                Ok(done) => answers.extend(done),
                // One error for all of them: none has been carried out.
                Err(error) => answers.extend(copies(error, batch.len())),
            }
        }
        answers
    }

    /// Takes back what nobody has any more.
    pub async fn collect<D: Datastore>(
        &mut self,
        store: &D,
        resources: &Resources,
        host: &str,
        now: SystemTime,
    ) -> Result<Collected, IpamError> {
        if show::is_locked(resources) {
            return Ok(Collected::default());
        }
        let due = self.collector.look(&self.records, resources, host, now);
        if due.is_empty() {
            return Ok(Collected::default());
        }
        commit::run(store, &mut self.records, now, |draft| collect::plan(draft, resources, &due, host, now)).await
    }

    /// Addresses that seem lost.
    pub fn candidates(&self) -> usize {
        self.collector.candidates()
    }
}

/// Refused for the records of an address, which others may have changed since they were read.
fn is_hearsay(answer: &Result<Done, IpamError>) -> bool {
    matches!(answer, Err(IpamError::NotAssigned { .. } | IpamError::OtherHandle { .. } | IpamError::Taken { .. }))
}

/// The same failure for everybody who was in it.
fn copies(error: IpamError, count: usize) -> Vec<Result<Done, IpamError>> {
    let text = crate::tell::chain(&error);
    let mut first = Some(error);
    (0..count).map(|_| Err(first.take().unwrap_or_else(|| IpamError::Together { text: text.clone() }))).collect()
}

fn order_done(
    draft: &mut Draft<'_>,
    resources: &Resources,
    host: &str,
    order: &IpamCall,
    now: SystemTime,
) -> Result<Done, IpamError> {
    if show::is_locked(resources) && matches!(order, IpamCall::Assign(_)) {
        return Err(IpamError::Locked);
    }
    match order {
        IpamCall::Assign(call) => assign(draft, resources, host, call, now).map(Done::Assigned),
        IpamCall::Release(call) => release(draft, resources, call, now).map(Done::Released),
        IpamCall::ReleaseAll { addresses } => {
            check_count("addresses", addresses.len())?;
            let mut view = ReleaseView::default();
            for call in addresses {
                match release(draft, resources, call, now) {
                    Ok(released) => view.released.extend(released.released),
                    Err(error) => view.left.push(error.to_string()),
                }
            }
            Ok(Done::Released(view))
        }
        _ => Err(IpamError::Invalid {
            what: "order".to_string(),
            found: "a question".to_string(),
            expected: "assign or release".to_string(),
        }),
    }
}

fn check_count(what: &str, found: usize) -> Result<(), IpamError> {
    match found > NAMED_MAX {
        true => Err(IpamError::Invalid {
            what: what.to_string(),
            found: found.to_string(),
            expected: format!("at most {NAMED_MAX}"),
        }),
        false => Ok(()),
    }
}

pub(super) fn assign(
    draft: &mut Draft<'_>,
    resources: &Resources,
    host: &str,
    call: &AssignCall,
    now: SystemTime,
) -> Result<AssignView, IpamError> {
    check_count("addresses", call.addresses.len())?;
    if call.ipv4 + call.ipv6 + call.addresses.len() == 0 {
        let expected = "ipv4, ipv6 or addresses to say how many, or which".to_string();
        return Err(IpamError::Invalid { what: "assign".to_string(), found: "nothing".to_string(), expected });
    }
    let owner = call.owner(host, moment::text(now));
    let mut given: Vec<Given> = Vec::new();
    for address in &call.addresses {
        given.push(allocator::assign_address(draft, resources, *address, &owner, host, now)?);
    }
    let families = [
        (IpVersion::V4, call.ipv4, &call.ipv4_pools, &call.ipv6_pools),
        (IpVersion::V6, call.ipv6, &call.ipv6_pools, &call.ipv4_pools),
    ];
    for (family, count, named, others) in families {
        if count == 0 {
            continue;
        }
        check_family(resources, family, named, others)?;
        let intended = if call.tunnel.is_some() { AllowedUse::Tunnel } else { AllowedUse::Workload };
        let ask = Ask {
            count,
            family,
            owner: owner.clone(),
            host: host.to_string(),
            namespace: call.namespace.clone(),
            pools: named.clone(),
            intended: call.intended.unwrap_or(intended),
            max_blocks: call.max_blocks,
        };
        given.extend(allocator::auto_assign(draft, resources, &ask, now)?);
    }
    let view = |given: Given| AssignedView {
        address: given.address,
        block: given.block.to_string(),
        pool: pools::pool_of(resources, given.address).map(|pool| pool.metadata.name.clone()),
    };
    Ok(AssignView { addresses: given.into_iter().map(view).collect() })
}

/// A pool of the other family among those that are named for this one alone is a mistake.
fn check_family(
    resources: &Resources,
    family: IpVersion,
    named: &[String],
    others: &[String],
) -> Result<(), IpamError> {
    for name in named.iter().filter(|name| !others.contains(name)) {
        if let Some(pool) = pools::named(resources, name).filter(|pool| pool.spec.cidr.version() != family) {
            return Err(IpamError::Invalid {
                what: format!("pools for IPv{family}"),
                found: format!("{name} ({})", pool.spec.cidr),
                expected: format!("names or CIDRs of IPv{family} pools"),
            });
        }
    }
    Ok(())
}

fn release(
    draft: &mut Draft<'_>,
    resources: &Resources,
    call: &ReleaseCall,
    now: SystemTime,
) -> Result<ReleaseView, IpamError> {
    let ReleaseCall { address, handle, sequence } = call;
    match (address, handle) {
        (Some(address), _) => {
            let wish = Return { address: *address, handle: handle.clone(), sequence: *sequence };
            release::release_address(draft, resources, &wish, now)?;
            Ok(ReleaseView { released: vec![*address], left: Vec::new() })
        }
        (None, Some(handle)) => {
            let released = release::release_handle(draft, resources, handle, now);
            Ok(ReleaseView { released, left: Vec::new() })
        }
        (None, None) => {
            let expected = "an address or a handle".to_string();
            Err(IpamError::Invalid { what: "release".to_string(), found: "nothing".to_string(), expected })
        }
    }
}
