//! The network driver: networks and endpoints come and go, and are joined.
//!
//! ```text
//! CreateEndpoint   turn ─▶ addresses are Docker's ─▶ pair, far end waits here ─▶ endpoint ─▶ in force
//! Join             turn ─▶ the far end's name, gateway, routes ─▶ dockerd moves it, names it, gives it addresses
//! Leave            dockerd has moved it back, or it went with its namespace
//! DeleteEndpoint   detach: endpoint, pair; addresses stay Docker's
//! ```
//!
//! Where the far end is gone when an endpoint is joined (again), another pair is made. A container is in one network of ours at
//! a time: the gateway is the same in all of them, and there is one way to it.
//!
//! Invariants: a call goes on when dockerd does not wait any more; one endpoint is in the hands of one call.

use std::net::IpAddr;
use std::path::PathBuf;

use config::net::{Cidr, IpVersion, MacAddress};
use config::resource::{Resource, WorkloadEndpoint};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::endpoints::{self, identity_of};
use super::error::{DockerError, shown};
use super::ipam::AddressDriver;
use super::messages::{CreateEndpoint, CreateNetwork, EndpointRef, InterfaceName, Joined, NetworkRef, StaticRoute};
use super::networks::{self, Network, checked_id};
use super::options;
use crate::http::desk::Desk;
use crate::tell::to_json;
use crate::workload::call::{NodeView, Source, Wish};
use crate::workload::endpoint::endpoint_of;
use crate::workload::error::WorkloadError;
use crate::workload::gateway_of;
use crate::workload::identity::{self, Identity};
use crate::workload::namespace::Namespace;
use crate::workload::service::{PATIENCE, Workloads, blocking};
use crate::workload::wire;

/// What the interface is called inside, with a number behind it.
const INSIDE: &str = "eth";
/// On the link: needs no next hop.
const CONNECTED: u8 = 1;

#[derive(Clone)]
pub struct NetworkDriver {
    desk: Desk,
    workloads: Workloads,
    addresses: AddressDriver,
}

impl NetworkDriver {
    pub fn new(desk: Desk, workloads: Workloads, addresses: AddressDriver) -> NetworkDriver {
        NetworkDriver { desk, workloads, addresses }
    }

    /// Every engine creates a network of its own over the pools of all nodes.
    pub fn capabilities() -> Value {
        json!({ "Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": true })
    }

    /// No address of a pool is a gateway's.
    pub fn gateway_check() -> Value {
        json!({ "SkipIPv4": true, "SkipIPv6": true })
    }

    pub async fn create_network(&self, request: &CreateNetwork) -> Result<Value, DockerError> {
        let (network, profile) = Network::asked(request)?;
        for (pools, version) in [(&request.ipv4, IpVersion::V4), (&request.ipv6, IpVersion::V6)] {
            for pool in pools {
                self.addresses.check_pool(&pool.pool, version).await?;
            }
        }
        networks::create(&self.desk, &network, profile).await?;
        info!(network = network.id, profile = network.profile, "docker network created");
        Ok(json!({}))
    }

    pub async fn delete_network(&self, request: &NetworkRef) -> Result<Value, DockerError> {
        networks::delete(&self.desk, &request.network_id).await?;
        info!(network = request.network_id, "docker network deleted");
        Ok(json!({}))
    }

    pub async fn create_endpoint(&self, request: &CreateEndpoint) -> Result<Value, DockerError> {
        let network = networks::known(&self.desk, &request.network_id).await?;
        let wish = wish(&network, request)?;
        let is_mac_given = wish.mac.is_some();
        if !wish.ports.is_empty() {
            warn!(endpoint = request.endpoint_id, "its ports are recorded, and nobody publishes them on the host");
        }
        let mac = self.on_its_own(|driver| async move { driver.attach(&wish).await }).await?;
        // What was given may not be repeated.
        let mac = mac.filter(|_| !is_mac_given).map(|mac| mac.to_string());
        Ok(match mac {
            Some(mac) => json!({ "Interface": { "MacAddress": mac } }),
            None => json!({ "Interface": {} }),
        })
    }

    /// Whatever is left of it.
    pub async fn delete_endpoint(&self, request: &EndpointRef) -> Result<Value, DockerError> {
        let endpoint = checked_id("EndpointID", &request.endpoint_id)?;
        let identity = match networks::find(&self.desk, &request.network_id).await? {
            Some(network) => Some(identity_of(&network, endpoint)),
            // Its endpoints say themselves whose they are.
            None => {
                let mut all = self.workloads.list().await?.into_iter().map(|attachment| attachment.identity);
                all.find(|found| found.orchestrator == identity::DOCKER && found.container == endpoint)
            }
        };
        if let Some(identity) = identity {
            self.workloads.detach(identity).await?;
        }
        Ok(json!({}))
    }

    pub async fn endpoint_info(&self, request: &EndpointRef) -> Result<Value, DockerError> {
        let node = self.workloads.node().await?;
        let network = networks::known(&self.desk, &request.network_id).await?;
        let identity = identity_of(&network, checked_id("EndpointID", &request.endpoint_id)?);
        let endpoint = self.known_endpoint(&network, &identity, &node).await?;
        let mac = endpoint.spec.mac.map(|mac| mac.to_string());
        Ok(json!({ "Value": mac.map_or(json!({}), |mac| json!({ "com.docker.network.endpoint.macaddress": mac })) }))
    }

    pub async fn join(&self, request: &EndpointRef) -> Result<Value, DockerError> {
        let request = request.clone();
        self.on_its_own(|driver| async move { driver.join_in_turn(&request).await })
            .await
            .map(|joined| to_json(&joined))
    }

    /// dockerd moves the interface back by itself.
    pub fn leave(request: &EndpointRef) -> Result<Value, DockerError> {
        checked_id("NetworkID", &request.network_id)?;
        checked_id("EndpointID", &request.endpoint_id).map(|_| json!({}))
    }

    async fn attach(&self, wish: &Wish) -> Result<Option<MacAddress>, DockerError> {
        let identity = &wish.identity;
        let _turn = self.workloads.turn(identity).await?;
        let node = self.workloads.node().await?;
        let Source::Given(addresses) = &wish.addresses else { return Err(WorkloadError::Panic.into()) };
        let name = format!("{}/{}", identity.namespace, identity.key(&node.node).name);
        for address in addresses {
            self.addresses.check_given(*address, &node.node, &name).await?;
        }
        let interface = identity.host_interface(&node.prefix);
        let (mut endpoint, companion) = endpoint_of(wish, &node, &interface, addresses, wish.mac);
        if let Some(problem) = Resource::WorkloadEndpoint(endpoint.clone()).validate().first() {
            let (what, found) = ("endpoint".to_string(), problem.to_string());
            return Err(DockerError::Invalid { what, found, expected: "what a WorkloadEndpoint may have".to_string() });
        }
        let done = async {
            endpoint.spec.mac = endpoints::wired(identity, wish.mac, wish.mtu, &node).await?;
            let mac = endpoint.spec.mac;
            self.workloads.put(endpoint, companion).await?;
            Ok(mac)
        };
        let failure = match tokio::time::timeout(PATIENCE, done).await {
            Ok(Ok(mac)) => {
                info!(endpoint = identity.container, ?addresses, "docker endpoint created");
                return Ok(mac);
            }
            // Somebody uses it.
            Ok(Err(error @ DockerError::Joined { .. })) => return Err(error),
            Ok(Err(error)) => error,
            Err(_) => DockerError::Timeout { within: PATIENCE },
        };
        self.workloads.undo(identity, &node).await;
        Err(failure)
    }

    async fn join_in_turn(&self, request: &EndpointRef) -> Result<Joined, DockerError> {
        let network = networks::known(&self.desk, &request.network_id).await?;
        let identity = identity_of(&network, checked_id("EndpointID", &request.endpoint_id)?);
        let _turn = self.workloads.turn(&identity).await?;
        let node = self.workloads.node().await?;
        let mut endpoint = self.known_endpoint(&network, &identity, &node).await?;
        self.check_sandbox(&request.sandbox_key).await?;
        let mac = endpoints::wired(&identity, endpoint.spec.mac, network.mtu, &node).await?;
        let addresses: Vec<IpAddr> = endpoint.spec.ip_networks.iter().map(Cidr::address).collect();
        // In force, whether or not the pair is a new one.
        endpoint.metadata.resource_version = None;
        endpoint.spec.mac = mac;
        self.workloads.put(endpoint, None).await?;
        Ok(joined(&identity.waiting_interface(&node.prefix), &addresses))
    }

    /// Where it is there already, and can be seen from here. A container that starts has none yet.
    async fn check_sandbox(&self, key: &str) -> Result<(), DockerError> {
        let path = PathBuf::from(key);
        let is_second = blocking(move || match Namespace::open(&path) {
            Ok(Some(namespace)) => wire::has_gateway(&namespace),
            // dockerd's mounts may be its own.
            Ok(None) | Err(_) => Ok(false),
        });
        match is_second.await? {
            true => Err(DockerError::SecondNetwork { sandbox: shown(key) }),
            false => Ok(()),
        }
    }

    async fn known_endpoint(
        &self,
        network: &Network,
        identity: &Identity,
        node: &NodeView,
    ) -> Result<WorkloadEndpoint, DockerError> {
        let found = endpoints::find(&self.desk, identity, &node.node).await?;
        let endpoint = identity.container.clone();
        found.ok_or_else(|| DockerError::NoEndpoint { network: network.id.clone(), endpoint })
    }

    /// To its end, whether or not anybody waits for it.
    async fn on_its_own<T: Send + 'static, F: Future<Output = Result<T, DockerError>> + Send + 'static>(
        &self,
        work: impl FnOnce(NetworkDriver) -> F,
    ) -> Result<T, DockerError> {
        tokio::spawn(work(self.clone())).await.unwrap_or(Err(WorkloadError::Panic.into()))
    }
}

/// What a request asks for, checked.
pub fn wish(network: &Network, request: &CreateEndpoint) -> Result<Wish, DockerError> {
    let endpoint = checked_id("EndpointID", &request.endpoint_id)?;
    let options = options::of_endpoint(&request.options)?;
    let given = &request.interface;
    let mut addresses = Vec::new();
    for (what, text, version) in [
        ("Interface.Address", &given.address, IpVersion::V4),
        ("Interface.AddressIPv6", &given.address_ipv6, IpVersion::V6),
    ] {
        if text.is_empty() {
            continue;
        }
        let address = Cidr::parse(text).ok().filter(|cidr| cidr.version() == version);
        let address = address.ok_or_else(|| DockerError::invalid(what, text, format!("an IPv{version} address")))?;
        addresses.push(address.address());
    }
    if addresses.is_empty() {
        let expected = "an address that vrouter-ipam has given out: create the network with --ipam-driver vrouter-ipam";
        return Err(DockerError::invalid("Interface.Address", "", expected));
    }
    let mac = (!given.mac_address.is_empty()).then(|| MacAddress::parse(&given.mac_address));
    let wrong = |expected: &str| DockerError::invalid("Interface.MacAddress", &given.mac_address, expected);
    let mac = mac.transpose().map_err(|_| wrong(MacAddress::EXPECTED))?;
    if mac.is_some_and(|mac| mac.0[0] & 1 == 1 || mac == MacAddress([0; 6])) {
        return Err(wrong("the address of one interface"));
    }
    Ok(Wish {
        identity: identity_of(network, endpoint),
        addresses: Source::Given(addresses),
        mac,
        mtu: network.mtu,
        labels: options.labels,
        profiles: Some(vec![network.profile.clone()]),
        ports: options.ports,
        ..Wish::default()
    })
}

/// What dockerd makes of a pair: the far end's name here, the gateways, and the way to them.
fn joined(waiting: &str, addresses: &[IpAddr]) -> Joined {
    let gateway = |is_ipv4: bool| addresses.iter().find(|found| found.is_ipv4() == is_ipv4).map(|own| gateway_of(*own));
    let text = |gateway: Option<IpAddr>| gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
    let on_link = |gateway: IpAddr| StaticRoute { destination: Cidr::host(gateway).to_string(), route_type: CONNECTED };
    Joined {
        interface_name: InterfaceName { src_name: waiting.to_string(), dst_prefix: INSIDE.to_string() },
        gateway: text(gateway(true)),
        gateway_ipv6: text(gateway(false)),
        // IPv6's is link-local: the way to it is there with the interface.
        static_routes: gateway(true).map(on_link).into_iter().collect(),
    }
}
