//! ADD, DEL, CHECK, GC, STATUS, VERSION: what each comes to.
//!
//! ```text
//! ADD     addresses of ours                 attach ─▶ result
//!         addresses of another plugin       delegate ADD ─▶ attach ─▶ result; where that fails, its DEL
//!         such that needs the interface     wire ─▶ delegate ADD ─▶ attach ─▶ result       (dhcp)
//! DEL     detach, whoever is there of this container; then the other plugin's DEL, but first dhcp's, which gives back what it has
//!         by the interface
//! CHECK   all is as it was left; then the other plugin's CHECK
//! GC      detach whoever is not named; then the other plugin's GC
//! STATUS  could an ADD succeed; then the other plugin's STATUS
//! ```
//!
//! Called as an address plugin, by somebody else's main plugin, it gives out addresses and nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use config::net::{Cidr, MacAddress, Protocol};
use config::resource::{IpNat, QosControls, WorkloadEndpointPort};
use serde_json::{Value, json};

use super::arguments::{self, Annotations};
use super::config::ValidAttachment;
use super::error::{self, CniError};
use super::reply::{Address, Interface, Reply, RouteReply};
use super::request::{CniAnswer, CniCall, Delegated, Request, VERSIONS, Verb};
use crate::tell::to_json;
use crate::workload::call::{Ask, Attached, DhcpRelay, Place, Source, Wish};
use crate::workload::error::WorkloadError;
use crate::workload::gateway_of;
use crate::workload::identity::{self, Identity};
use crate::workload::service::Workloads;

/// Of containers that no pod is around.
const DEFAULT_NAMESPACE: &str = "default";

/// The one that asks by the interface itself.
const DHCP: &str = "dhcp";

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

pub async fn answer(workloads: &Workloads, call: CniCall) -> Value {
    to_json(&answer_to(workloads, &call).await)
}

async fn answer_to(workloads: &Workloads, call: &CniCall) -> CniAnswer {
    let request = match Request::read(call) {
        Ok(request) => request,
        Err(error) => return CniAnswer::Failed(error),
    };
    let done = match call.is_ipam {
        true => as_address_plugin(workloads, &request).await,
        false => as_main_plugin(workloads, &request, call.delegated.as_ref()).await,
    };
    done.unwrap_or_else(CniAnswer::Failed).with_version(request.version)
}

impl CniAnswer {
    fn with_version(self, version: &str) -> CniAnswer {
        let versioned = |error: CniError| CniError { cni_version: version.to_string(), ..error };
        match self {
            CniAnswer::Failed(error) => CniAnswer::Failed(versioned(error)),
            CniAnswer::TakeBack { plugin, error } => CniAnswer::TakeBack { plugin, error: versioned(error) },
            other => other,
        }
    }
}

/// What VERSION answers; no daemon is needed for it.
pub fn versions(version: &str) -> Value {
    json!({ "cniVersion": version, "supportedVersions": VERSIONS })
}

async fn as_main_plugin(
    workloads: &Workloads,
    request: &Request,
    delegated: Option<&Delegated>,
) -> Result<CniAnswer, CniError> {
    let is_dhcp = request.config.delegate() == Some(DHCP);
    // Whatever it says is the end of it, but for ADD, and what goes before ours.
    if let (Some(delegated), false) = (delegated, request.verb == Verb::Add) {
        if is_dhcp && request.verb == Verb::Del {
            del(workloads, request).await?;
        }
        return match delegated {
            Delegated::Result(_) => Ok(CniAnswer::Done(None)),
            Delegated::Error(error) => Err(error.clone()),
        };
    }
    match request.verb {
        Verb::Add => return add(workloads, request, delegated).await,
        Verb::Del if is_dhcp => {}
        Verb::Del => del(workloads, request).await?,
        Verb::Check => check(workloads, request).await?,
        Verb::Gc => collect(workloads, request).await?,
        Verb::Status => status(workloads, request).await?,
        Verb::Version => return Ok(CniAnswer::Done(Some(versions(request.version)))),
    }
    Ok(match request.config.delegate() {
        None => CniAnswer::Done(None),
        Some(plugin) => {
            let command = match request.verb {
                Verb::Del => "DEL",
                Verb::Check => "CHECK",
                Verb::Gc => "GC",
                _ => "STATUS",
            };
            CniAnswer::Delegate { plugin: plugin.to_string(), command: command.to_string() }
        }
    })
}

async fn add(workloads: &Workloads, request: &Request, delegated: Option<&Delegated>) -> Result<CniAnswer, CniError> {
    let mut wish = wish(request)?;
    if !request.config.nodename.is_empty() {
        let node = workloads.node().await?;
        if node.node != request.config.nodename {
            let asked = request.config.nodename.clone();
            return Err(WorkloadError::OtherNode { asked, node: node.node }.into());
        }
    }
    let earlier = request.config.previous.as_ref().map(|value| Reply::read(value, "prevResult")).transpose()?;
    let Some(plugin) = request.config.delegate().map(str::to_string) else {
        let attached = workloads.attach(wish).await?;
        return Ok(CniAnswer::Done(Some(result(request, &attached, &Reply::default(), earlier))));
    };
    let given = match delegated {
        None => {
            if plugin == DHCP {
                can_ask(workloads).await?;
                workloads.wire(wish).await?;
            }
            return Ok(CniAnswer::Delegate { plugin, command: "ADD".to_string() });
        }
        Some(Delegated::Error(error)) => {
            // Nothing of ours may stay, and the runtime is told the first failure.
            let _ = workloads.detach(wish.identity).await;
            return Err(if plugin == DHCP { no_lease(error) } else { error.clone() });
        }
        Some(Delegated::Result(value)) => Reply::read(value, &format!("the answer of {plugin}")),
    };
    let attached = match given {
        Ok(given) => {
            wish.addresses = Source::Given(given.addresses());
            wish.routes = with_defaults(request, given.destinations());
            // Who is in the workload's own network hears it by its own address, as with other plugins.
            if let Some(networks) = &mut wish.masquerade {
                *networks = given.networks();
            }
            wish.is_wired = plugin == DHCP;
            workloads.attach(wish).await.map_err(CniError::from).map(|attached| (attached, given))
        }
        Err(error) => {
            let _ = workloads.detach(wish.identity).await;
            Err(error)
        }
    };
    Ok(match attached {
        Ok((attached, given)) => CniAnswer::Done(Some(result(request, &attached, &given, earlier))),
        Err(error) => CniAnswer::TakeBack { plugin, error },
    })
}

/// Refused at once where nobody would hear what the plugin asks: it would ask for a minute.
async fn can_ask(workloads: &Workloads) -> Result<(), CniError> {
    match workloads.node().await?.dhcp {
        DhcpRelay::On => Ok(()),
        DhcpRelay::Off => {
            let msg = "ipam.type dhcp: this node has no DHCP servers to relay to";
            Err(CniError::new(error::CONFIG, msg)
                .with_details("set dhcpServers of the daemon: vrouter run --dhcp-servers ADDRESS"))
        }
        DhcpRelay::Broken(why) => {
            Err(CniError::new(error::AGAIN, "ipam.type dhcp: DHCP cannot be relayed now").with_details(why))
        }
    }
}

/// A server that does not answer may answer the next time; a plugin that is not there is not there.
fn no_lease(error: &CniError) -> CniError {
    match error.code {
        error::DELEGATE => error.clone(),
        _ => CniError::new(error::AGAIN, "ipam.type dhcp: no lease").with_details(error.to_string()),
    }
}

/// The default routes as well, where there are others and the configuration wants them all the same. Without any routes
/// everything is reached by the gateway anyway.
fn with_defaults(request: &Request, mut routes: Vec<Cidr>) -> Vec<Cidr> {
    if request.config.include_default_routes && !routes.is_empty() {
        for everything in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            let everything = Cidr::new(everything, 0).filter(|network| !routes.contains(network));
            routes.extend(everything);
        }
    }
    routes
}

fn result(request: &Request, attached: &Attached, given: &Reply, earlier: Option<Reply>) -> Value {
    let mac = |mac: Option<MacAddress>| mac.map(|mac| mac.to_string()).unwrap_or_default();
    let interface = |name: &str, mac: String, sandbox: &str| Interface {
        name: name.to_string(),
        mac,
        mtu: attached.mtu,
        sandbox: sandbox.to_string(),
        ..Interface::default()
    };
    let defaults = || attached.addresses.iter().filter_map(|address| Some(Cidr::new(*address, 0)?.masked()));
    let has_family = |network: &&Cidr| attached.addresses.iter().any(|address| address.is_ipv4() == network.is_ipv4());
    let destinations: Vec<Cidr> = match attached.routes.is_empty() {
        true => defaults().collect(),
        false => attached.routes.iter().filter(has_family).copied().collect(),
    };
    let dns = request.config.dns();
    let own = Reply {
        interfaces: vec![
            interface(&attached.interface, mac(attached.host_mac), ""),
            interface(&request.ifname, mac(attached.mac), &request.netns),
        ],
        ips: attached
            .addresses
            .iter()
            .map(|address| Address {
                address: Cidr::host(*address).to_string(),
                interface: Some(1),
                ..Address::default()
            })
            .collect(),
        routes: destinations
            .iter()
            .map(|network| RouteReply {
                dst: network.to_string(),
                gw: Some(gateway_of(network.address()).to_string()),
                ..RouteReply::default()
            })
            .collect(),
        dns: if dns == Default::default() { given.dns.clone() } else { dns },
    };
    match earlier {
        Some(earlier) => own.after(earlier),
        None => own,
    }
    .write(request.version)
}

async fn del(workloads: &Workloads, request: &Request) -> Result<(), CniError> {
    let asked = identity_of(request);
    let detached = workloads.detach(asked.clone()).await?;
    if detached.endpoint || detached.interface || detached.addresses > 0 {
        return Ok(());
    }
    // A runtime may say less when it takes away than when it attached: then the container is looked for.
    let attachments = workloads.list().await?;
    let own = attachments.into_iter().map(|attachment| attachment.identity).filter(|found| {
        (&found.container, &found.interface, &found.network) == (&asked.container, &asked.interface, &asked.network)
            && is_cni(found)
    });
    for found in own {
        workloads.detach(found).await?;
    }
    Ok(())
}

async fn check(workloads: &Workloads, request: &Request) -> Result<(), CniError> {
    let previous = request.config.previous.as_ref();
    let previous = previous.ok_or_else(|| CniError::new(error::CONFIG, "CHECK: prevResult is missing"))?;
    let previous = Reply::read(previous, "prevResult")?;
    let own = previous
        .interfaces
        .iter()
        .position(|interface| interface.name == request.ifname && !interface.sandbox.is_empty())
        .ok_or_else(|| {
            CniError::new(error::CONFIG, format!("prevResult: no interface {} in a sandbox", request.ifname))
        })?;
    let ips = previous.ips.iter().filter(|ip| ip.interface == Some(own));
    let addresses: Vec<IpAddr> = ips.filter_map(|ip| arguments::address(&ip.address)).collect();
    // Plugins behind ours may have changed routes: only those by our gateway are ours.
    let is_ours = |route: &&RouteReply| {
        let gateway: Option<IpAddr> = route.gw.as_deref().and_then(|text| text.parse().ok());
        gateway.is_some_and(|gateway| gateway == gateway_of(gateway))
    };
    let routes: Vec<Cidr> =
        previous.routes.iter().filter(is_ours).filter_map(|route| Cidr::parse(&route.dst).ok()).collect();
    workloads.check(&identity_of(request), &PathBuf::from(&request.netns), &addresses, &routes).await?;
    if request.config.delegate().is_none() {
        workloads.check_assigned(&identity_of(request), &addresses).await?;
    }
    Ok(())
}

/// Takes away whoever is not named. A failure does not keep the others. Runtimes ought to let nobody come or go meanwhile; of
/// one that does, whoever is on his way is named in no list yet, and stays.
async fn collect(workloads: &Workloads, request: &Request) -> Result<(), CniError> {
    let valid = valid(request)?;
    let watch = workloads.watch();
    let attachments = workloads.list().await?;
    let own = attachments.into_iter().map(|attachment| attachment.identity);
    let mut failures = Vec::new();
    for identity in own.filter(|identity| identity.network == request.config.name && is_cni(identity)) {
        let attachment =
            ValidAttachment { container_id: identity.container.clone(), ifname: identity.interface.clone() };
        if !valid.contains(&attachment)
            && !watch.has_seen(&identity.network, &identity.container, &identity.interface)
            && let Err(error) = workloads.detach(identity).await
        {
            failures.push(CniError::from(error));
        }
    }
    first(failures)
}

/// Nothing is ever collected because nobody said what is valid.
fn valid(request: &Request) -> Result<BTreeSet<ValidAttachment>, CniError> {
    let valid = request.config.valid().ok_or_else(|| {
        CniError::new(error::CONFIG, "GC: cni.dev/valid-attachments is missing; nothing was collected")
    })?;
    Ok(valid.iter().cloned().collect())
}

fn first(failures: Vec<CniError>) -> Result<(), CniError> {
    let count = failures.len();
    match failures.into_iter().next() {
        None => Ok(()),
        Some(failure) => Err(failure.with_details(format!("{count} could not be collected"))),
    }
}

/// 50 says that no ADD can succeed now.
async fn status(workloads: &Workloads, request: &Request) -> Result<(), CniError> {
    let unavailable = |error: CniError| CniError { code: error::UNAVAILABLE, ..error };
    workloads.node().await.map_err(|error| unavailable(error.into()))?;
    if let Some(plugin) = request.config.delegate() {
        if plugin == DHCP {
            can_ask(workloads).await.map_err(unavailable)?;
        }
        return Ok(());
    }
    for (is_ipv4, is_wanted) in families(request) {
        if is_wanted && !workloads.has_pool(is_ipv4).await? {
            let family = FAMILIES[usize::from(!is_ipv4)];
            let msg = format!("no {family} pool has a free address");
            return Err(CniError::new(error::UNAVAILABLE, msg).with_details("`vrouter ipam show` tells of the pools"));
        }
    }
    Ok(())
}

async fn as_address_plugin(workloads: &Workloads, request: &Request) -> Result<CniAnswer, CniError> {
    let identity = identity_of(request);
    match request.verb {
        Verb::Add => {
            let addresses = workloads.assign_alone(&identity, &ask(request, &Annotations::default())?).await?;
            let ip = |address: &IpAddr| Address { address: Cidr::host(*address).to_string(), ..Address::default() };
            let reply =
                Reply { ips: addresses.iter().map(ip).collect(), dns: request.config.dns(), ..Reply::default() };
            return Ok(CniAnswer::Done(Some(reply.write(request.version))));
        }
        Verb::Del => {
            workloads.release(identity.handle()).await?;
        }
        Verb::Check => {
            let previous = request.config.previous.as_ref();
            let previous = previous.ok_or_else(|| CniError::new(error::CONFIG, "CHECK: prevResult is missing"))?;
            let addresses = Reply::read(previous, "prevResult")?.addresses();
            workloads.check_assigned(&identity, &addresses).await?;
        }
        Verb::Gc => {
            let valid = valid(request)?;
            let is_valid = |container: &str, interface: &str| {
                let attachment = ValidAttachment { container_id: container.to_string(), ifname: interface.to_string() };
                valid.contains(&attachment)
            };
            workloads.collect_alone(&request.config.name, is_valid).await?;
        }
        Verb::Status => status(workloads, request).await?,
        Verb::Version => return Ok(CniAnswer::Done(Some(versions(request.version)))),
    }
    Ok(CniAnswer::Done(None))
}

fn is_cni(identity: &Identity) -> bool {
    [identity::CNI, identity::KUBERNETES].contains(&identity.orchestrator.as_str())
}

/// Kubernetes names a pod and its namespace; podman a pod alone, and its containers are no pods of a cluster.
fn identity_of(request: &Request) -> Identity {
    let arguments = &request.arguments;
    let is_pod = !arguments.namespace.is_empty() && !arguments.pod.is_empty();
    Identity {
        orchestrator: if is_pod { identity::KUBERNETES } else { identity::CNI }.to_string(),
        namespace: if is_pod { arguments.namespace.clone() } else { DEFAULT_NAMESPACE.to_string() },
        workload: if is_pod { arguments.pod.clone() } else { request.container_id.clone() },
        container: request.container_id.clone(),
        interface: request.ifname.clone(),
        network: request.config.name.clone(),
    }
}

/// Whether IPv4 (true) and IPv6 (false) are wanted.
fn families(request: &Request) -> [(bool, bool); 2] {
    let ipam = &request.config.ipam;
    [(true, ipam.assign_ipv4.unwrap_or(true)), (false, ipam.assign_ipv6.unwrap_or(false))]
}

fn ask(request: &Request, annotations: &Annotations) -> Result<Ask, CniError> {
    let [(_, mut ipv4), (_, mut ipv6)] = families(request);
    if let Some(wanted) = &annotations.families {
        if let Some(wrong) = wanted.iter().find(|family| !FAMILIES.contains(&family.as_str())) {
            let shown: String = wrong.chars().take(20).collect();
            let msg = format!("annotation ipFamilies: found {shown:?}, expected IPv4 and IPv6");
            return Err(CniError::new(error::CONFIG, msg));
        }
        ipv4 = wanted.iter().any(|family| family == FAMILIES[0]);
        ipv6 = wanted.iter().any(|family| family == FAMILIES[1]);
    }
    let config = &request.config;
    let asked = config.asked_addresses().map(|texts| {
        let read = |text: &String| {
            arguments::address(text).ok_or_else(|| {
                let shown: String = text.chars().take(64).collect();
                CniError::new(error::CONFIG, format!("ips: found {shown:?}, expected an address"))
            })
        };
        texts.iter().map(read).collect::<Result<Vec<IpAddr>, CniError>>()
    });
    let addresses = match (&annotations.addresses, asked.transpose()?) {
        (Some(addresses), _) => addresses.clone(),
        (None, Some(addresses)) => addresses,
        (None, None) => request.arguments.addresses.clone(),
    };
    let pools = |annotated: &Option<Vec<String>>, own: &[String]| annotated.clone().unwrap_or_else(|| own.to_vec());
    Ok(Ask {
        ipv4,
        ipv6,
        addresses,
        ipv4_pools: pools(&annotations.ipv4_pools, &config.ipam.ipv4_pools),
        ipv6_pools: pools(&annotations.ipv6_pools, &config.ipam.ipv6_pools),
    })
}

/// What an ADD wants, but for addresses that another plugin gives.
pub fn wish(request: &Request) -> Result<Wish, CniError> {
    let config = &request.config;
    let unsupported = |field: &str, found: String, why: &str| {
        Err(CniError::new(error::UNSUPPORTED, format!("unsupported field {field}: {found}")).with_details(why))
    };
    if !["", "veth"].contains(&config.device_type.as_str()) {
        let shown: String = config.device_type.chars().take(20).collect();
        return unsupported("device_type", shown, "expected veth");
    }
    let annotations = Annotations::read(&config.runtime.pod_annotations)?;
    let addresses = match &annotations.addresses_without_ipam {
        Some(_) if !config.feature_control.ip_addrs_no_ipam => {
            let msg = "annotation ipAddrsNoIpam is not allowed by this network";
            return Err(CniError::new(error::CONFIG, msg).with_details("feature_control.ip_addrs_no_ipam"));
        }
        Some(addresses) => Source::Given(addresses.clone()),
        None => Source::Pools(ask(request, &annotations)?),
    };
    let floating = match &annotations.floating {
        Some(_) if !config.feature_control.floating_ips => {
            let msg = "annotation floatingIPs is not allowed by this network";
            return Err(CniError::new(error::CONFIG, msg).with_details("feature_control.floating_ips"));
        }
        Some(_) => {
            let msg = "annotation floatingIPs: addresses are not translated here";
            return Err(CniError::new(error::UNSUPPORTED, msg));
        }
        None => Vec::<IpNat>::new(),
    };
    let mac = match config.runtime.mac.as_str() {
        "" => annotations.mac,
        text => Some(MacAddress::parse(text).map_err(|_| {
            let shown: String = text.chars().take(40).collect();
            CniError::new(error::CONFIG, format!("runtimeConfig.mac: found {shown:?}, expected a MAC address"))
        })?),
    };
    let number = |what: &str, found: u64| {
        u32::try_from(found)
            .map_err(|_| CniError::new(error::CONFIG, format!("{what}: found {found}, which is too large")))
    };
    let mut routes = Vec::new();
    for route in &config.ipam.routes {
        routes.push(Cidr::parse(&route.dst).map_err(|_| {
            let shown: String = route.dst.chars().take(64).collect();
            CniError::new(error::CONFIG, format!("ipam.routes: found {shown:?}, expected a CIDR"))
        })?);
    }
    let mut labels: BTreeMap<String, String> = config.labels.clone();
    labels.extend(config.args.cni.labels.iter().map(|label| (label.key.clone(), label.value.clone())));
    labels.extend(annotations.labels);
    let identity = identity_of(request);
    let is_pod = identity.orchestrator == identity::KUBERNETES;
    Ok(Wish {
        place: Place::Namespace(PathBuf::from(&request.netns)),
        addresses,
        mac,
        mtu: Some(number("mtu", config.mtu)?).filter(|mtu| *mtu > 0),
        queues: number("num_queues", config.num_queues)?,
        labels,
        profiles: config.profiles.clone().filter(|_| !is_pod),
        ports: ports(request)?,
        routes: with_defaults(request, routes),
        masquerade: config.ip_masq.then(Vec::new),
        may_forward: config.container_settings.allow_ip_forwarding,
        allowed_sources: annotations.allowed_sources.unwrap_or_default(),
        floating,
        qos: qos(request),
        identity,
        ..Wish::default()
    })
}

fn ports(request: &Request) -> Result<Vec<WorkloadEndpointPort>, CniError> {
    let read = |mapping: &super::config::PortMapping| {
        let wrong = |field: &str, found: &str| {
            let shown: String = found.chars().take(40).collect();
            CniError::new(error::CONFIG, format!("runtimeConfig.portMappings: {field}: found {shown:?}"))
        };
        let protocol = match mapping.protocol.to_lowercase().as_str() {
            "" | "tcp" => Protocol::TCP,
            "udp" => Protocol::UDP,
            "sctp" => Protocol::SCTP,
            _ => return Err(wrong("protocol", &mapping.protocol)),
        };
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| wrong("hostIP", text))?),
        };
        if mapping.container_port == 0 {
            return Err(wrong("containerPort", "0"));
        }
        Ok(WorkloadEndpointPort {
            name: None,
            protocol,
            port: mapping.container_port,
            host_port: mapping.host_port,
            host_ip,
        })
    };
    request.config.runtime.port_mappings.iter().map(read).collect()
}

fn qos(request: &Request) -> Option<Box<QosControls>> {
    let bandwidth = request.config.runtime.bandwidth.as_ref()?;
    // Out of range as Calico has it: nearest that is in range.
    let rate = |number: i64| {
        u64::try_from(number).map_or(0, |rate| if rate == 0 { 0 } else { rate.clamp(1_000, 1_000_000_000_000_000) })
    };
    let burst = |number: i64| u64::try_from(number).unwrap_or(0);
    Some(Box::new(QosControls {
        ingress_bandwidth: rate(bandwidth.ingress_rate),
        ingress_burst: burst(bandwidth.ingress_burst),
        egress_bandwidth: rate(bandwidth.egress_rate),
        egress_burst: burst(bandwidth.egress_burst),
        ..QosControls::default()
    }))
}

#[cfg(test)]
mod tests;
