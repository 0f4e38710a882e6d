//! The address driver: pools are IPPools, and an address is Docker's from the call that asks for it to the one that gives it
//! back.
//!
//! ```text
//! RequestPool     10.65.0.0/16 ─▶ the enabled IPPool of that CIDR        nothing ─▶ 0.0.0.0/0: whatever pools the node may use
//! RequestAddress  nothing ─▶ the next one     10.65.0.9 ─▶ that one     a gateway's ─▶ 169.254.1.1, of no pool
//! ReleaseAddress  given back, unless a container has it
//! ```
//!
//! A pool's id is its CIDR, or the family where there is none: the same question has the same answer for ever, and nothing has
//! to be counted. Everything Docker has on a node belongs to one handle.
//!
//! Invariants: an address that a container has, or that was not given to Docker, is not released.
//! Left out: `--ip-range`: an IPPool of its own is the way to a smaller range.

use std::collections::BTreeMap;
use std::net::IpAddr;

use config::net::{Cidr, IpVersion};
use serde_json::{Value, json};

use super::endpoints;
use super::error::DockerError;
use super::messages::{PoolRef, RequestAddress, RequestPool};
use crate::http::api::{ApiCall, ErrorCode};
use crate::http::desk::Desk;
use crate::ipam::call::{AddressView, AssignCall, AssignView, IpamCall, PoolsView, ReleaseCall};
use crate::workload::gateway_of;
use crate::workload::identity;
use crate::workload::service::Workloads;

const LOCAL: &str = "vrouter-local";
const GLOBAL: &str = "vrouter-global";

/// In the answer to RequestPool, and as a type in RequestAddress.
const GATEWAY: &str = "com.docker.network.gateway";
const TYPE: &str = "RequestAddressType";
const DOCKERS: &str = "com.docker.";

/// Attribute of an address: the pool it was asked from. Neither the sweep nor the collector judges what has it and no pod.
pub const POOL: &str = "docker-pool";

/// Where addresses are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Whichever pools the node may use.
    Any(IpVersion),
    One(Cidr),
}

impl Pool {
    pub fn parse(id: &str) -> Result<Pool, DockerError> {
        let wrong = || DockerError::invalid("PoolID", id, "an id that RequestPool has answered: ipv4, ipv6 or a CIDR");
        match id {
            "ipv4" => Ok(Pool::Any(IpVersion::V4)),
            "ipv6" => Ok(Pool::Any(IpVersion::V6)),
            _ => read_cidr(id).filter(|cidr| cidr.to_string() == id).map(Pool::One).ok_or_else(wrong),
        }
    }

    pub fn id(&self) -> String {
        match self {
            Pool::Any(version) => format!("ipv{version}"),
            Pool::One(cidr) => cidr.to_string(),
        }
    }

    fn cidr(&self) -> String {
        match self {
            Pool::Any(IpVersion::V4) => "0.0.0.0/0".to_string(),
            Pool::Any(IpVersion::V6) => "::/0".to_string(),
            Pool::One(cidr) => cidr.to_string(),
        }
    }

    pub fn version(&self) -> IpVersion {
        match self {
            Pool::Any(version) => *version,
            Pool::One(cidr) => cidr.version(),
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        match self {
            Pool::Any(version) => IpVersion::of(address) == *version,
            Pool::One(cidr) => cidr.contains(address),
        }
    }

    fn gateway(&self) -> IpAddr {
        gateway_of(match self.version() {
            IpVersion::V4 => IpAddr::from([0; 4]),
            IpVersion::V6 => IpAddr::from([0; 16]),
        })
    }
}

/// A network, without host bits.
fn read_cidr(text: &str) -> Option<Cidr> {
    text.contains('/').then(|| Cidr::parse(text).ok())?.map(|cidr| cidr.masked())
}

/// What Docker has on a node.
pub fn handle(node: &str) -> String {
    format!("{}.{node}", identity::DOCKER)
}

#[derive(Clone)]
pub struct AddressDriver {
    desk: Desk,
    workloads: Workloads,
}

impl AddressDriver {
    pub fn new(desk: Desk, workloads: Workloads) -> AddressDriver {
        AddressDriver { desk, workloads }
    }

    pub fn spaces() -> Value {
        json!({ "LocalDefaultAddressSpace": LOCAL, "GlobalDefaultAddressSpace": GLOBAL })
    }

    /// No MAC addresses, and no replay when dockerd starts: what was given is still given.
    pub fn capabilities() -> Value {
        json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false })
    }

    pub async fn request_pool(&self, request: &RequestPool) -> Result<Value, DockerError> {
        if ![LOCAL, GLOBAL].contains(&request.address_space.as_str()) {
            let expected = format!("{LOCAL} or {GLOBAL}");
            return Err(DockerError::invalid("AddressSpace", &request.address_space, expected));
        }
        if !request.sub_pool.is_empty() {
            let expected = "no --ip-range: apply an IPPool of that range and give it as --subnet";
            return Err(DockerError::invalid("SubPool", &request.sub_pool, expected));
        }
        if let Some(name) = request.options.keys().find(|name| !name.starts_with(DOCKERS)) {
            return Err(DockerError::invalid("option", name, "no --ipam-opt"));
        }
        let version = if request.is_ipv6 { IpVersion::V6 } else { IpVersion::V4 };
        let pool = self.find_pool(&request.pool, version).await?;
        let gateway = Cidr::host(pool.gateway()).to_string();
        Ok(json!({ "PoolID": pool.id(), "Pool": pool.cidr(), "Data": { GATEWAY: gateway } }))
    }

    /// The pool has to be there already: which ranges there are is decided for all nodes, not by one container engine.
    async fn find_pool(&self, wanted: &str, version: IpVersion) -> Result<Pool, DockerError> {
        let view: PoolsView = self.desk.ask_patiently(ApiCall::Ipam(IpamCall::Pools), "the pools").await?;
        let enabled = view.pools.iter().filter(|pool| !pool.is_disabled).filter_map(|pool| read_cidr(&pool.cidr));
        let enabled: Vec<Cidr> = enabled.filter(|cidr| cidr.version() == version).collect();
        let known: Vec<String> = enabled.iter().map(Cidr::to_string).collect();
        let expected = match known.is_empty() {
            true => format!("an enabled IPPool of IPv{version}, and there is none: make one with `vrouter apply`"),
            false => format!("the CIDR of an enabled IPPool: {}; make others with `vrouter apply`", known.join(", ")),
        };
        match read_cidr(wanted) {
            None if wanted.is_empty() && !enabled.is_empty() => Ok(Pool::Any(version)),
            Some(cidr) if enabled.contains(&cidr) => Ok(Pool::One(cidr)),
            _ => Err(DockerError::invalid("Pool", wanted, expected)),
        }
    }

    /// Refuses a pool that another address driver has chosen.
    pub async fn check_pool(&self, pool: &str, version: IpVersion) -> Result<(), DockerError> {
        match pool == Pool::Any(version).cidr() {
            true => Ok(()),
            false => self.find_pool(pool, version).await.map(drop),
        }
    }

    pub fn release_pool(request: &PoolRef) -> Result<Value, DockerError> {
        Pool::parse(&request.pool_id).map(|_| json!({}))
    }

    pub async fn request_address(&self, request: &RequestAddress) -> Result<Value, DockerError> {
        let pool = Pool::parse(&request.pool_id)?;
        let asked = read_address(&pool, &request.address)?;
        let gateway = pool.gateway();
        if request.options.get(TYPE).is_some_and(|kind| kind == GATEWAY) {
            return match asked {
                Some(asked) if asked != gateway => {
                    let expected =
                        format!("no --gateway, or {gateway}: it is the same for all containers on all nodes");
                    Err(DockerError::invalid("gateway", &request.address, expected))
                }
                _ => Ok(answer(gateway)),
            };
        }
        if let Some(asked) = asked.filter(|asked| !pool.contains(*asked)) {
            return Err(DockerError::invalid("Address", &asked.to_string(), format!("one of {}", pool.cidr())));
        }
        let node = self.workloads.node().await?.node;
        let is_next = asked.is_none();
        let pools_of = |version: IpVersion| match pool {
            Pool::One(cidr) if is_next && pool.version() == version => vec![cidr.to_string()],
            _ => Vec::new(),
        };
        let call = AssignCall {
            ipv4: usize::from(is_next && pool.version() == IpVersion::V4),
            ipv6: usize::from(is_next && pool.version() == IpVersion::V6),
            addresses: asked.into_iter().collect(),
            handle: Some(handle(&node)),
            attributes: BTreeMap::from([(POOL.to_string(), pool.id())]),
            ipv4_pools: pools_of(IpVersion::V4),
            ipv6_pools: pools_of(IpVersion::V6),
            ..AssignCall::default()
        };
        let given: AssignView = self.desk.ask_patiently(ApiCall::Ipam(IpamCall::Assign(call)), "an assignment").await?;
        let given = given.addresses.first().map(|given| given.address);
        given.map(answer).ok_or_else(|| {
            DockerError::invalid("Address", &request.address, "an address of the pool, and none was given")
        })
    }

    pub async fn release_address(&self, request: &RequestAddress) -> Result<Value, DockerError> {
        let pool = Pool::parse(&request.pool_id)?;
        let Some(address) = read_address(&pool, &request.address)? else {
            return Err(DockerError::invalid("Address", &request.address, "the address to release"));
        };
        // It was never taken from a pool.
        if address == pool.gateway() {
            return Ok(json!({}));
        }
        let node = self.workloads.node().await?;
        let known = self.who(address).await?;
        for endpoint in &known.endpoints {
            if !endpoints::end_if_left(&self.desk, &self.workloads, endpoint, &node).await? {
                return Err(DockerError::InUse { address, endpoint: endpoint.clone() });
            }
        }
        let handle = handle(&node.node);
        match known.handle {
            _ if !known.is_assigned => return Ok(json!({})),
            Some(found) if found == handle => {}
            other => {
                return Err(DockerError::OtherOwner { address, handle: other.unwrap_or_else(|| "none".to_string()) });
            }
        }
        let call = ReleaseCall { address: Some(address), handle: Some(handle), sequence: known.sequence };
        let released = self.desk.ask_patiently::<Value>(ApiCall::Ipam(IpamCall::Release(call)), "a release").await;
        match released {
            Ok(_) => Ok(json!({})),
            Err(error) if error.code == ErrorCode::NotAssigned => Ok(json!({})),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses an address that was not given to Docker, or that another endpoint has.
    pub async fn check_given(&self, address: IpAddr, node: &str, endpoint: &str) -> Result<(), DockerError> {
        let known = self.who(address).await?;
        if known.handle != Some(handle(node)) {
            return Err(DockerError::NotGiven { address });
        }
        match known.endpoints.iter().find(|other| *other != endpoint) {
            Some(other) => Err(DockerError::InUse { address, endpoint: other.clone() }),
            None => Ok(()),
        }
    }

    async fn who(&self, address: IpAddr) -> Result<AddressView, DockerError> {
        Ok(self.desk.ask_patiently(ApiCall::Ipam(IpamCall::Who { address }), "an address").await?)
    }
}

/// None: any.
fn read_address(pool: &Pool, text: &str) -> Result<Option<IpAddr>, DockerError> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.parse().ok().filter(|address| IpVersion::of(*address) == pool.version());
    let expected = format!("an IPv{} address", pool.version());
    address.map(Some).ok_or_else(|| DockerError::invalid("Address", text, expected))
}

/// Each container is alone on its link, whatever the pool's length.
fn answer(address: IpAddr) -> Value {
    json!({ "Address": Cidr::host(address).to_string(), "Data": {} })
}
