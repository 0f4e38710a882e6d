//! The steps of attaching a workload, one after the other, and back when one fails.
//!
//! ```text
//! attach   turn ─▶ node ─▶ ┌ addresses ┐ ─▶ configure ─▶ endpoint ─▶ ready ─▶ attached
//!                          └ veth pair ┘        any failure: detach, and the failure is told
//! detach   turn ─▶ endpoint, if it is that container's ─▶ host side ─▶ addresses of its handle
//! ```
//!
//! The service is a client of control, as the command line is: it holds no state but who has a turn. An order goes on when
//! whoever gave it does not wait any more; what is attached and cannot be told is taken away again.
//!
//! Bounds: `PLACES` orders at a time, `WAITING` that wait, `PATIENCE` for each, then it is undone.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use config::net::{Cidr, IpVersion, MacAddress};
use config::resource::{Resource, WorkloadEndpoint};
use serde_json::Value;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::call::{
    Attached, Attachment, Detached, EndpointCall, NodeView, Place, ReadyView, Source, Wish, WorkloadCall,
};
use super::endpoint::endpoint_of;
use super::error::WorkloadError;
use super::identity::Identity;
use super::namespace::Namespace;
use super::wire::{self, Inside, Pair};
use super::{GATEWAY_V4, GATEWAY_V6};
use crate::host::{GATEWAY_MAC, LinkIndex};
use crate::http::api::{ApiCall, ApiError};
use crate::http::desk::Desk;
use crate::tell::{chain, to_json};

const PLACES: usize = 32;
pub const WAITING: usize = 1024;

/// For one order, without the time that it waits for its turn. Whoever asks waits a little longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long an interface may take to be in the fast path, once its endpoint is in force.
const READY_WITHIN: Duration = Duration::from_secs(5);
const READY_PAUSE: Duration = Duration::from_millis(5);

/// Attaches and takes away. Clones are the same one.
#[derive(Clone)]
pub struct Workloads {
    pub(super) desk: Desk,
    turns: Arc<Turns>,
    places: Arc<Semaphore>,
    /// True when what an earlier process left has been looked through.
    is_tidy: watch::Sender<bool>,
}

/// Who is at work on which interface of which container, and who watches them.
#[derive(Default)]
struct Turns(Mutex<Begun>);

#[derive(Default)]
struct Begun {
    turns: HashMap<Identity, Arc<tokio::sync::Mutex<()>>>,
    watches: Vec<Weak<Mutex<HashSet<Identity>>>>,
}

/// Whoever has a turn when it begins, or asks for one as long as it lasts: no list that was made before can name him.
pub struct Watch(Arc<Mutex<HashSet<Identity>>>);

/// Nobody else is at work on it.
pub(crate) struct Turn {
    _guard: OwnedMutexGuard<()>,
    _place: OwnedSemaphorePermit,
}

impl Workloads {
    pub fn new(desk: Desk) -> Workloads {
        let (is_tidy, _) = watch::channel(false);
        Workloads { desk, turns: Arc::default(), places: Arc::new(Semaphore::new(PLACES)), is_tidy }
    }

    pub async fn carry_out(&self, call: WorkloadCall) -> Result<Value, ApiError> {
        match call {
            WorkloadCall::Attach(wish) => Ok(to_json(&self.attach(*wish).await?)),
            WorkloadCall::Detach(identity) => Ok(to_json(&self.detach(identity).await?)),
            WorkloadCall::List => Ok(to_json(&self.list().await?)),
        }
    }

    /// Success means that policy is in force.
    pub async fn attach(&self, wish: Wish) -> Result<Attached, WorkloadError> {
        check(&wish)?;
        if let Place::Namespace(path) = wish.place.clone() {
            blocking(move || open(&path).map(drop)).await?;
        }
        let workloads = self.clone();
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let identity = wish.identity.clone();
            if let Err(Ok(attached)) = tell.send(workloads.attach_in_turn(wish).await) {
                warn!(endpoint = attached.endpoint, "attached, and nobody waits for it any more: taken away again");
                let _ = workloads.detach_in_turn(&identity).await;
            }
        });
        told.await.unwrap_or(Err(WorkloadError::Panic))
    }

    /// Makes the pair and nothing else, for who gives out addresses by it. Until it is attached everything is dropped there.
    pub async fn wire(&self, wish: Wish) -> Result<(), WorkloadError> {
        check(&wish)?;
        // First: looking through what was left needs turns, too.
        self.tidy().await?;
        let _turn = self.turn(&wish.identity).await?;
        let node = self.node().await?;
        self.make_room(&wish, &node).await?;
        let Place::Namespace(path) = &wish.place else { return Ok(()) };
        let wired = match wire_pair(&wish, &node, path.clone()).await {
            Ok((_, mac)) => self.expect(wish.identity.host_interface(&node.prefix), mac).await,
            Err(error) => Err(error),
        };
        if wired.is_err() {
            self.undo(&wish.identity, &node).await;
        }
        wired
    }

    /// Says who is behind an interface, and waits until somebody listens there: who is not heard the first time waits for seconds
    /// before he asks again.
    async fn expect(&self, interface: String, mac: Option<MacAddress>) -> Result<(), WorkloadError> {
        if let Some(mac) = mac {
            let told = EndpointCall::Wired { interface: interface.clone(), mac };
            let _: Value = self.desk.ask_patiently(ApiCall::Endpoint(told), "an interface's announcement").await?;
        }
        self.until(interface, |ready| ready.is_attached).await
    }

    /// What is gone already counts as taken away.
    pub async fn detach(&self, identity: Identity) -> Result<Detached, WorkloadError> {
        let workloads = self.clone();
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            // It is done, told or not.
            let _ = tell.send(workloads.detach_in_turn(&identity).await);
        });
        told.await.unwrap_or(Err(WorkloadError::Panic))
    }

    pub async fn list(&self) -> Result<Vec<Attachment>, WorkloadError> {
        let endpoints: Vec<WorkloadEndpoint> =
            self.desk.ask_patiently(ApiCall::Endpoint(EndpointCall::List), "a list of endpoints").await?;
        let attachment = |endpoint: WorkloadEndpoint| {
            Some(Attachment {
                identity: Identity::of(&endpoint)?,
                endpoint: endpoint.metadata.name,
                interface: endpoint.spec.interface_name,
                addresses: endpoint.spec.ip_networks.iter().map(Cidr::address).collect(),
            })
        };
        Ok(endpoints.into_iter().filter_map(attachment).collect())
    }

    /// Refused as long as nothing can be attached.
    pub async fn node(&self) -> Result<NodeView, WorkloadError> {
        Ok(self.desk.ask_patiently(ApiCall::Endpoint(EndpointCall::Node), "the node").await?)
    }

    /// Whether all is as it was left: both ends, addresses, routes, endpoint, fast path.
    pub async fn check(
        &self,
        identity: &Identity,
        namespace: &Path,
        addresses: &[IpAddr],
        routes: &[Cidr],
    ) -> Result<(), WorkloadError> {
        let node = self.node().await?;
        let name = identity.key(&node.node).name;
        let differs = |reason: String| WorkloadError::Differs {
            endpoint: name.clone(),
            interface: identity.interface.clone(),
            reason,
        };
        let found = self.list().await?.into_iter().find(|found| found.identity == *identity);
        let found = found.ok_or_else(|| differs("there is no endpoint of this container".to_string()))?;
        if let Some(missing) = addresses.iter().find(|address| !found.addresses.contains(address)) {
            return Err(differs(format!("the endpoint does not have {missing}")));
        }
        let (path, inside) = (namespace.to_path_buf(), identity.interface.clone());
        let (interface, alias) = (identity.host_interface(&node.prefix), identity.alias());
        let host_side = interface.clone();
        let (is_there, seen) = blocking(move || {
            let namespace = open(&path)?;
            Ok((wire::is_there(&host_side, &alias)?, wire::inspect(&namespace, &inside)?))
        })
        .await?;
        if !is_there {
            return Err(differs(format!("its host side {interface} is gone")));
        }
        let seen = seen.ok_or_else(|| differs("it is not in the namespace".to_string()))?;
        if !seen.is_up {
            return Err(differs("it is down".to_string()));
        }
        if let Some(missing) = addresses.iter().find(|address| !seen.addresses.contains(address)) {
            return Err(differs(format!("it does not have {missing}")));
        }
        let wanted = wire::routes(addresses, routes, LinkIndex(0));
        let by_gateway = wanted.iter().map(|route| route.destination()).filter(|to| !is_gateway(to));
        if let Some(missing) = by_gateway.into_iter().find(|to| !seen.routes.contains(to)) {
            return Err(differs(format!("its route to {missing} by the gateway is gone")));
        }
        let ready = self.readiness(&interface).await?;
        match ready.is_ready {
            true => Ok(()),
            false => Err(differs(format!("it is not in the fast path {}", ready.problems.join("; ")))),
        }
    }

    /// Writes the endpoint, and waits until policy is in force on its interface.
    pub async fn put(&self, endpoint: WorkloadEndpoint, companion: Option<Resource>) -> Result<(), WorkloadError> {
        let interface = endpoint.spec.interface_name.clone();
        let order = EndpointCall::Put { endpoint: Box::new(endpoint), companion: companion.map(Box::new) };
        let _: Value = self.desk.ask_patiently(ApiCall::Endpoint(order), "an endpoint's writing").await?;
        self.until(interface, |ready| ready.is_ready).await
    }

    async fn until(&self, interface: String, is_it: fn(&ReadyView) -> bool) -> Result<(), WorkloadError> {
        let started = Instant::now();
        loop {
            let ready = self.readiness(&interface).await?;
            if is_it(&ready) {
                return Ok(());
            }
            if started.elapsed() > READY_WITHIN {
                let problems = ready.problems;
                return Err(WorkloadError::NotAttached { interface, within: READY_WITHIN, problems });
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    }

    /// Deletes the endpoint if it is that container's.
    pub async fn delete(&self, identity: &Identity, node: &NodeView) -> Result<bool, WorkloadError> {
        let order = EndpointCall::Delete { key: identity.key(&node.node), container: identity.container.clone() };
        Ok(self.desk.ask_patiently(ApiCall::Endpoint(order), "an endpoint's deletion").await?)
    }

    async fn readiness(&self, interface: &str) -> Result<ReadyView, WorkloadError> {
        let interface = interface.to_string();
        Ok(self.desk.ask_patiently(ApiCall::Endpoint(EndpointCall::Ready { interface }), "readiness").await?)
    }

    async fn attach_in_turn(&self, wish: Wish) -> Result<Attached, WorkloadError> {
        // First: looking through what was left needs turns, too.
        self.tidy().await?;
        let _turn = self.turn(&wish.identity).await?;
        let node = self.node().await?;
        let started = Instant::now();
        self.make_room(&wish, &node).await?;
        let failure = match tokio::time::timeout(PATIENCE, self.steps(&wish, &node)).await {
            Ok(Ok(attached)) => {
                let (endpoint, interface) = (&attached.endpoint, &attached.interface);
                info!(endpoint, interface, addresses = ?attached.addresses, took = ?started.elapsed(), "workload attached");
                return Ok(attached);
            }
            Ok(Err(failure)) => failure,
            Err(_) => WorkloadError::Timeout { within: PATIENCE },
        };
        self.undo(&wish.identity, &node).await;
        Err(failure)
    }

    /// Nothing of this container may be there: a whole attachment is refused, and what is left of one is taken away.
    async fn make_room(&self, wish: &Wish, node: &NodeView) -> Result<(), WorkloadError> {
        let is_known =
            async || Ok::<bool, WorkloadError>(self.list().await?.iter().any(|found| found.identity == wish.identity));
        let path = match &wish.place {
            Place::Namespace(_) if wish.is_wired => return Ok(()),
            Place::Namespace(path) => path,
            Place::Interface(_) if is_known().await? => return Err(exists(wish)),
            Place::Interface(_) => return Ok(()),
        };
        let (interface, alias) = (wish.identity.host_interface(&node.prefix), wish.identity.alias());
        let (inside, path) = (wish.identity.interface.clone(), path.clone());
        let (is_left, is_inside) = blocking(move || {
            let namespace = open(&path)?;
            Ok((wire::is_there(&interface, &alias)?, wire::inspect(&namespace, &inside)?.is_some()))
        })
        .await?;
        // Half of one, such as a step that nobody could undo, is in nobody's way.
        let is_whole = match is_left {
            true => is_inside && is_known().await?,
            false => is_inside,
        };
        if is_whole {
            return Err(exists(wish));
        }
        if is_left {
            self.take_away(&wish.identity, node).await?;
        }
        Ok(())
    }

    async fn steps(&self, wish: &Wish, node: &NodeView) -> Result<Attached, WorkloadError> {
        let mtu = wish.mtu.unwrap_or(node.mtu);
        let (interface, namespace, (addresses, mac)) = match &wish.place {
            Place::Interface(name) => (name.clone(), None, (self.addresses(wish).await?, wish.mac)),
            Place::Namespace(path) => {
                let wiring = wire_pair(wish, node, path.clone());
                let (wired, addresses) = tokio::join!(wiring, self.addresses(wish));
                let (namespace, mac) = wired?;
                (wish.identity.host_interface(&node.prefix), Some(namespace), (addresses?, mac))
            }
        };
        if let Some(namespace) = namespace.clone() {
            let inside =
                Inside { addresses: addresses.clone(), routes: wish.routes.clone(), may_forward: wish.may_forward };
            let name = wish.identity.interface.clone();
            blocking(move || wire::configure(&namespace, &name, &inside)).await?;
        }
        let (endpoint, companion) = endpoint_of(wish, node, &interface, &addresses, mac);
        let name = endpoint.metadata.name.clone();
        let problems = Resource::WorkloadEndpoint(endpoint.clone()).validate();
        if let Some(problem) = problems.first() {
            return Err(WorkloadError::Invalid {
                what: "endpoint",
                found: problem.to_string(),
                expected: "what a WorkloadEndpoint may have",
            });
        }
        self.put(endpoint, companion).await?;
        if let Some(namespace) = namespace.filter(|_| node.prepares) {
            // Nobody waits for it, and whatever comes of it, the workload is attached.
            let name = wish.identity.interface.clone();
            drop(spawn_blocking(move || wire::prepare_inside(&namespace, &name)));
        }
        Ok(Attached {
            namespace: wish.identity.namespace.clone(),
            endpoint: name,
            interface,
            host_mac: matches!(wish.place, Place::Namespace(_)).then_some(GATEWAY_MAC),
            mac,
            mtu,
            addresses,
            routes: wish.routes.clone(),
        })
    }

    async fn addresses(&self, wish: &Wish) -> Result<Vec<IpAddr>, WorkloadError> {
        match &wish.addresses {
            Source::Given(addresses) => Ok(addresses.clone()),
            Source::Pools(ask) => self.assign(&wish.identity, ask).await,
        }
    }

    async fn detach_in_turn(&self, identity: &Identity) -> Result<Detached, WorkloadError> {
        let _turn = self.turn(identity).await?;
        let node = self.node().await?;
        let detached = self.take_away(identity, &node).await?;
        let (workload, interface) = (&identity.workload, &identity.interface);
        info!(workload, interface, ?detached, "workload detached");
        Ok(detached)
    }

    /// Takes away what was made before a failure, which is the one to tell.
    pub(crate) async fn undo(&self, identity: &Identity, node: &NodeView) {
        if let Err(error) = self.take_away(identity, node).await {
            warn!(error = %chain(&error), "what had been made could not be taken away; it is tried again within minutes");
        }
    }

    /// Everything is tried, and the first failure told.
    async fn take_away(&self, identity: &Identity, node: &NodeView) -> Result<Detached, WorkloadError> {
        let endpoint = self.delete(identity, node).await;
        let (interface, alias) = (identity.host_interface(&node.prefix), identity.alias());
        let interface = blocking(move || wire::remove(&interface, &alias)).await;
        let addresses = self.release(identity.handle()).await;
        Ok(Detached { endpoint: endpoint?, interface: interface?, addresses: addresses? })
    }

    /// For who takes away what a list does not name: to be begun before he looks what there is.
    pub fn watch(&self) -> Watch {
        self.turns.watch()
    }

    pub(crate) async fn turn(&self, identity: &Identity) -> Result<Turn, WorkloadError> {
        let own = self.turns.of(identity)?;
        let guard = own.lock_owned().await;
        // Closed by nobody.
        let place = self.places.clone().acquire_owned().await.map_err(|_| WorkloadError::Panic)?;
        Ok(Turn { _guard: guard, _place: place })
    }

    /// Waits until what an earlier process left has been looked through.
    pub(crate) async fn tidy(&self) -> Result<(), WorkloadError> {
        let mut is_tidy = self.is_tidy.subscribe();
        let waited = tokio::time::timeout(PATIENCE, is_tidy.wait_for(|is_tidy| *is_tidy)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(WorkloadError::Timeout { within: PATIENCE }),
        }
    }

    /// What was found, and that attaching may begin.
    pub(super) fn now_tidy(&self) {
        self.is_tidy.send_replace(true);
    }

    /// Takes away what is still gone when it has its turn.
    pub(super) async fn detach_if_gone(&self, attachment: &Attachment) -> Result<bool, WorkloadError> {
        let _turn = self.turn(&attachment.identity).await?;
        let (interface, alias) = (attachment.interface.clone(), attachment.identity.alias());
        if blocking(move || wire::is_there(&interface, &alias)).await? {
            return Ok(false);
        }
        let node = self.node().await?;
        self.take_away(&attachment.identity, &node).await?;
        Ok(true)
    }
}

impl Turns {
    fn of(&self, identity: &Identity) -> Result<Arc<tokio::sync::Mutex<()>>, WorkloadError> {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.tidy();
        if begun.turns.len() >= WAITING {
            return Err(WorkloadError::Busy { count: begun.turns.len() });
        }
        for watch in begun.watches.iter().filter_map(Weak::upgrade) {
            watch.lock().unwrap_or_else(PoisonError::into_inner).insert(identity.clone());
        }
        Ok(begun.turns.entry(identity.clone()).or_default().clone())
    }

    fn watch(&self) -> Watch {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.tidy();
        let seen = Arc::new(Mutex::new(begun.turns.keys().cloned().collect()));
        begun.watches.push(Arc::downgrade(&seen));
        Watch(seen)
    }
}

impl Begun {
    fn tidy(&mut self) {
        self.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        self.watches.retain(|watch| watch.strong_count() > 0);
    }
}

impl Watch {
    /// That interface of that container, whatever else is known of it.
    pub fn has_seen(&self, network: &str, container: &str, interface: &str) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().any(|seen| (&*seen.network, &*seen.container, &*seen.interface) == (network, container, interface))
    }
}

/// Makes the pair, or finds the one that is there.
async fn wire_pair(
    wish: &Wish,
    node: &NodeView,
    path: PathBuf,
) -> Result<(Arc<Namespace>, Option<MacAddress>), WorkloadError> {
    let inside = wish.identity.interface.clone();
    let pair = Pair {
        host: wish.identity.host_interface(&node.prefix),
        alias: wish.identity.alias(),
        far: wish.identity.waiting_interface(&node.prefix),
        mac: wish.mac,
        mtu: wish.mtu.unwrap_or(node.mtu),
        queues: wish.queues.max(1),
        is_prepared: node.prepares,
    };
    let is_wired = wish.is_wired;
    blocking(move || {
        let namespace = open(&path)?;
        let mac = match is_wired {
            false => wire::create(&pair, Some((&namespace, &inside)))?,
            true => {
                let found = wire::inspect(&namespace, &inside)?;
                found.ok_or(WorkloadError::NoNamespace { path })?.mac
            }
        };
        Ok((Arc::new(namespace), mac))
    })
    .await
}

/// On a thread that may wait for the kernel.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkloadError> + Send + 'static,
) -> Result<T, WorkloadError> {
    spawn_blocking(work).await.unwrap_or(Err(WorkloadError::Panic))
}

fn open(path: &Path) -> Result<Namespace, WorkloadError> {
    Namespace::open(path)?.ok_or_else(|| WorkloadError::NoNamespace { path: path.to_path_buf() })
}

fn exists(wish: &Wish) -> WorkloadError {
    match &wish.place {
        Place::Namespace(path) => {
            WorkloadError::Exists { interface: wish.identity.interface.clone(), path: path.clone() }
        }
        Place::Interface(_) => WorkloadError::Twice { workload: wish.identity.workload.clone() },
    }
}

fn is_gateway(network: &Cidr) -> bool {
    *network == Cidr::host(GATEWAY_V4.into()) || *network == Cidr::host(GATEWAY_V6.into())
}

/// What cannot be seen by its type.
fn check(wish: &Wish) -> Result<(), WorkloadError> {
    if let Some(mtu) = wish.mtu.filter(|mtu| !(576..=65535).contains(mtu)) {
        let expected = "576 to 65535";
        return Err(WorkloadError::Invalid { what: "mtu", found: mtu.to_string(), expected });
    }
    if wish.queues > 64 {
        let expected = "at most 64";
        return Err(WorkloadError::Invalid { what: "queues", found: wish.queues.to_string(), expected });
    }
    if wish.mac.is_some_and(|mac| mac.0[0] & 1 == 1 || mac == MacAddress([0; 6])) {
        let found = wish.mac.map(|mac| mac.to_string()).unwrap_or_default();
        return Err(WorkloadError::Invalid { what: "mac", found, expected: "the address of one interface" });
    }
    let given = match &wish.addresses {
        Source::Given(addresses) => addresses,
        Source::Pools(ask) => &ask.addresses,
    };
    for version in [IpVersion::V4, IpVersion::V6] {
        let count = given.iter().filter(|address| IpVersion::of(**address) == version).count();
        if count > 1 {
            let expected = "at most one address of each family";
            return Err(WorkloadError::Invalid { what: "addresses", found: count.to_string(), expected });
        }
    }
    let is_nothing = match &wish.addresses {
        Source::Given(addresses) => addresses.is_empty(),
        Source::Pools(ask) => ask.addresses.is_empty() && !ask.ipv4 && !ask.ipv6,
    };
    if is_nothing {
        let expected = "an address, or a family to take one of";
        return Err(WorkloadError::Invalid { what: "addresses", found: "none".to_string(), expected });
    }
    Ok(())
}
