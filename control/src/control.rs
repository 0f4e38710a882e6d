//! Control: owns the parts and routes events. It holds no rules: what should be is decided in `policy` and `compile`.
//!
//! An event changes what is known; when no more events wait, `settle` turns what is known into tables, attachments and
//! kernel state, once. Nothing is changed before the datastore has been read whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use config::resource::Key;
use config::settings::{BgpKernelRoutes, Settings};
use fastpath::flow::FlowTable;
use fastpath::rcu::Publisher;
use fastpath::table::Tables;
use fastpath::table::acl::Acl;
use fastpath::worker::Clock;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::attach::Attachments;
use crate::compile::{PolicyCompiler, RouteCompiler, RouteRow, RuleNames};
use crate::datastore::{Datastore, Revision, SyncEvent, undo};
use crate::event::Event;
use crate::felix::FelixSettings;
use crate::guard::{self, Claims};
use crate::host::{Host, HostEvent, InterfaceAddress, LearnedRoutes, Link, LinkIndex, Neighbour, Route};
use crate::http::answer::{self, Answered};
use crate::http::api::{ApiCall, ApiError, ApiRequest, ErrorCode};
use crate::node_state::NodeState;
use crate::policy::Calculation;
use crate::reconcile::{self, HostState};
use crate::resolve::Resolver;
use crate::resources::Resources;
use crate::saved_flows::save::Saver;
use crate::show::drops::{Drops, Naming};
use crate::show::preview::Preview;
use crate::tell::{chain, to_json};
use crate::workload::call::EndpointCall;
use addresses::Addresses;
use relaying::Relaying;
use reports::Reports;
use routing::Routing;

mod addresses;
mod in_force;
mod learned;
mod moving;
mod relaying;
mod reports;
pub mod routing;
mod secrets;
mod waiting;
mod workloads;

/// The private pair: the kernel's end, and ours.
pub const HOST_LINK: &str = "vrouter";
pub const HOST_INTERFACE: &str = "vrouter-fp";

/// How often it is looked whether the time for a confirmation is over.
const CONFIRMATION_PAUSE: Duration = Duration::from_millis(200);

/// How long reconciliation is left alone while a step fails: twice this, twice as long with every attempt, and at most.
const RECONCILE_PAUSE: Duration = Duration::from_millis(10);
const RECONCILE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long an interface that could not be attached is left alone.
const RETRY: Duration = Duration::from_secs(5);

type Reply = oneshot::Sender<Result<Value, ApiError>>;

/// What the kernel told us.
#[derive(Default)]
pub(crate) struct Kernel {
    pub(crate) links: BTreeMap<LinkIndex, Link>,
    pub(crate) neighbours: BTreeMap<(LinkIndex, IpAddr), Neighbour>,
    pub(crate) routes: Vec<Route>,
    pub(crate) addresses: Vec<InterfaceAddress>,
}

/// What has to be done again.
#[derive(Default)]
struct Dirty {
    tables: bool,
    /// What was learned, and nothing else.
    learned: bool,
    reconcile: bool,
    links: bool,
    routes: bool,
}

/// All parts of the control side.
pub struct Control<D> {
    pub(crate) settings: Settings,
    pub(crate) store: D,
    pub(crate) store_location: String,
    pub(crate) store_error: Option<String>,
    host: Host,
    learned_routes: LearnedRoutes,
    pub(crate) kernel: Kernel,
    pub(crate) resources: Resources,
    pub(crate) revision: Revision,
    pub(crate) in_sync: bool,
    /// Resources that are others than those the calculation has seen.
    changed: BTreeSet<Arc<Key>>,
    pub(crate) calculation: Calculation,
    policy: PolicyCompiler,
    acl: Acl,
    pub(crate) route_compiler: RouteCompiler,
    pub(crate) attachments: Attachments,
    pub(crate) publisher: Publisher<Tables>,
    pub(crate) flows: Arc<FlowTable>,
    pub(crate) saver: Saver,
    pub(crate) routing: Routing,
    reports: Reports,
    addresses: Addresses,
    /// Endpoints to be written.
    orders: Vec<(EndpointCall, Reply)>,
    pub(crate) clock: Clock,
    pub(crate) names: RuleNames,
    pub(crate) routes: Vec<RouteRow>,
    desired: HostState,
    pub(crate) generation: u32,
    pub(crate) resolver: Resolver,
    pub(crate) relaying: Relaying,
    pub(crate) drops: Drops,
    pub(crate) problems: BTreeMap<&'static str, Vec<String>>,
    pub(crate) started: Instant,
    dirty: Dirty,
    /// Writes that are stored, to be answered when they are in force.
    unanswered: Vec<(Revision, Reply, Value)>,
    /// When attaching was tried last.
    retried: Instant,
    /// When the kernel's state was reconciled last, and how long that is left alone if a step failed.
    reconciled: Instant,
    reconcile_pause: Duration,
    /// When it was last looked whether something waits for a confirmation.
    confirmation_checked: Instant,
}

/// What `Control` is made of.
pub struct Parts<D> {
    pub settings: Settings,
    pub store: D,
    pub store_location: String,
    pub host: Host,
    pub learned_routes: LearnedRoutes,
    pub attachments: Attachments,
    pub publisher: Publisher<Tables>,
    pub flows: Arc<FlowTable>,
    /// Where flows wait for the next process.
    pub saver: Saver,
    /// BGP and BFD.
    pub routing: Routing,
    /// The workers'.
    pub clock: Clock,
}

impl<D> Control<D> {
    /// What this node should be.
    pub(crate) fn state(&self) -> &NodeState {
        self.calculation.state()
    }

    /// Which interface has which host endpoint.
    pub(crate) fn claims(&self) -> Claims {
        let uplinks = self.settings.uplinks.iter().map(String::as_str).collect();
        guard::claims_among(self.state(), &self.kernel.links, &self.kernel.addresses, uplinks)
    }

    /// True when a first set of tables is in force.
    pub fn is_ready(&self) -> bool {
        self.generation > 0
    }
}

impl<D: Datastore> Control<D> {
    pub fn new(parts: Parts<D>) -> Self {
        let calculation = Calculation::new(&parts.settings.node_name, FelixSettings::from(&parts.settings));
        let mut route_compiler = RouteCompiler::new(parts.publisher.grace());
        route_compiler.rib.kernel.enable(parts.settings.bgp_kernel_routes == BgpKernelRoutes::On);
        Self {
            settings: parts.settings,
            store: parts.store,
            store_location: parts.store_location,
            store_error: None,
            host: parts.host,
            learned_routes: parts.learned_routes,
            kernel: Kernel::default(),
            resources: Resources::default(),
            revision: Revision(0),
            in_sync: false,
            changed: BTreeSet::new(),
            calculation,
            policy: PolicyCompiler::default(),
            acl: Acl::default(),
            route_compiler,
            attachments: parts.attachments,
            publisher: parts.publisher,
            flows: parts.flows,
            saver: parts.saver,
            routing: parts.routing,
            reports: Reports::new(Instant::now()),
            addresses: Addresses::new(Instant::now()),
            orders: Vec::new(),
            clock: parts.clock,
            names: RuleNames::default(),
            routes: Vec::new(),
            desired: HostState::default(),
            generation: 0,
            resolver: Resolver::default(),
            relaying: Relaying::default(),
            drops: Drops::default(),
            problems: BTreeMap::new(),
            started: Instant::now(),
            // Everything has to be read once.
            dirty: Dirty { tables: true, learned: true, reconcile: true, links: true, routes: true },
            unanswered: Vec::new(),
            retried: Instant::now(),
            reconciled: Instant::now(),
            reconcile_pause: RECONCILE_PAUSE,
            confirmation_checked: Instant::now(),
        }
    }

    /// Takes note of an event. What follows from it is done by `settle`.
    pub async fn handle(&mut self, event: Event) {
        match event {
            Event::Datastore(Ok(event)) => self.follow(event),
            Event::Datastore(Err(error)) => {
                let text = error.to_string();
                if self.store_error.as_ref() != Some(&text) {
                    tracing::error!(%error, "datastore cannot be followed; the last known state stays in force");
                }
                self.store_error = Some(text);
            }
            Event::Host(event) => self.host_changed(event),
            Event::Api(request) => self.answer(request).await,
            Event::Bgp(output) => self.bgp_said(output).await,
            Event::Bfd(change) => self.bfd_said(change).await,
            Event::Tick => self.tick().await,
        }
    }

    fn follow(&mut self, event: SyncEvent) {
        self.store_error = None;
        match &event {
            SyncEvent::InSync => self.in_sync = true,
            SyncEvent::Updates(updates) => {
                self.revision = updates.iter().map(|update| update.revision).max().unwrap_or(self.revision);
            }
            SyncEvent::Snapshot(objects) => {
                self.revision = objects.iter().map(|stored| stored.revision).max().unwrap_or(self.revision);
            }
        }
        self.addresses.ipam.records.follow(&event);
        self.changed.append(&mut self.resources.follow(event));
    }

    fn host_changed(&mut self, event: HostEvent) {
        match event {
            HostEvent::LinkChanged(link) => {
                if self.kernel.links.get(&link.index) != Some(&link) {
                    self.kernel.links.insert(link.index, link);
                    self.dirty.tables = true;
                    self.dirty.reconcile = true;
                    // Routes and addresses of a link that goes down or comes up change without further notice.
                    self.dirty.routes = true;
                    self.route_compiler.rib.kernel.read_anew();
                }
            }
            HostEvent::LinkRemoved { index, .. } => {
                self.kernel.links.remove(&index);
                self.kernel.neighbours.retain(|(link, _), _| *link != index);
                self.route_compiler.rib.kernel.read_anew();
                self.dirty.tables = true;
                self.dirty.reconcile = true;
                self.dirty.routes = true;
            }
            HostEvent::NeighbourChanged(neighbour) => {
                let key = (neighbour.link, neighbour.address);
                let old = self.kernel.neighbours.get(&key);
                let (mac, failed) = (old.and_then(Neighbour::usable_mac), old.is_some_and(Neighbour::has_failed));
                // From stale to reachable and back is no news: the address to send to is the same.
                self.dirty.tables |= mac != neighbour.usable_mac() || failed != neighbour.has_failed();
                self.kernel.neighbours.insert(key, neighbour);
            }
            HostEvent::NeighbourRemoved(neighbour) => {
                let key = (neighbour.link, neighbour.address);
                let old = self.kernel.neighbours.remove(&key);
                self.dirty.tables |= old.is_some_and(|old| old.usable_mac().is_some() || old.has_failed());
                self.dirty.reconcile |=
                    self.desired.managed.contains(&key) || self.desired.neighbours.contains_key(&key);
            }
            HostEvent::AddressChanged { .. } | HostEvent::RouteChanged => {
                self.dirty.routes = true;
                self.dirty.reconcile = true;
            }
            HostEvent::LearnedRouteChanged => self.route_compiler.rib.kernel.read_anew(),
            HostEvent::Overflow => {
                self.route_compiler.rib.kernel.read_anew();
                self.dirty.links = true;
                self.dirty.routes = true;
                self.dirty.reconcile = true;
            }
        }
    }

    /// Turns what is known into what is in force.
    pub async fn settle(&mut self) {
        if let Err(error) = self.read_kernel().await {
            self.note("kernel", vec![format!("the kernel's state could not be read: {error}")]);
            return;
        }
        if !self.in_sync {
            return;
        }
        self.carry_out_orders().await;
        self.write_endpoints().await;
        if !self.changed.is_empty() {
            let changed = std::mem::take(&mut self.changed);
            // The fewer old snapshots are still read, the less has to be copied.
            self.publisher.reclaim();
            let (is_changed, acl) = match self.is_ready() {
                true => self.policy.follow(&mut self.calculation, &self.resources, &changed, &mut self.names),
                false => self.follow_while_attaching(&changed),
            };
            self.dirty.tables |= is_changed;
            self.acl = acl;
            self.note("resources", self.state().problems.clone());
            self.follow_routing(&changed).await;
        }
        if std::mem::take(&mut self.dirty.learned) && self.is_ready() && !self.dirty.tables {
            self.dirty.tables = !self.publish_learned();
        }
        if std::mem::take(&mut self.dirty.tables) {
            let errors = self.attach();
            if !self.is_ready() {
                self.restore_flows().await;
            }
            self.publish(errors);
        }
        if std::mem::take(&mut self.dirty.reconcile) {
            self.reconcile().await;
        }
        self.tell_reachability().await;
        self.answer_writes();
    }

    async fn read_kernel(&mut self) -> Result<(), crate::host::HostError> {
        if self.dirty.links {
            let links = self.host.links().await?;
            let neighbours = self.host.neighbours().await?;
            self.kernel.links = links.into_iter().map(|link| (link.index, link)).collect();
            self.kernel.neighbours = neighbours.into_iter().map(|n| ((n.link, n.address), n)).collect();
            self.dirty.links = false;
            self.dirty.tables = true;
        }
        if self.dirty.routes {
            let mut routes = self.host.routes().await?;
            routes.sort();
            let mut addresses = self.host.addresses().await?;
            addresses.sort();
            self.dirty.tables |= routes != self.kernel.routes || addresses != self.kernel.addresses;
            self.kernel.routes = routes;
            self.kernel.addresses = addresses;
            self.dirty.routes = false;
        }
        Ok(())
    }

    async fn reconcile(&mut self) {
        match reconcile::reconcile(&self.host, &self.desired).await {
            Ok(outcome) => {
                let failed = outcome.failed.iter().map(|failure| chain(failure)).collect();
                self.note("host", failed);
            }
            Err(error) => self.note("host", vec![chain(&error)]),
        }
        self.reconciled = Instant::now();
        self.reconcile_pause = match self.has_problems("host") {
            true => (self.reconcile_pause * 2).min(RECONCILE_PAUSE_MAX),
            false => RECONCILE_PAUSE,
        };
    }

    fn has_problems(&self, part: &str) -> bool {
        self.problems.get(part).is_some_and(|problems| !problems.is_empty())
    }

    /// Records the problems of one part, and logs those that are new.
    pub(crate) fn note(&mut self, part: &'static str, problems: Vec<String>) {
        let known = self.problems.entry(part).or_default();
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            tracing::warn!(part, "{problem}");
        }
        *known = problems;
    }

    /// Empties the rings of records.
    fn collect_drops(&mut self) {
        let interface = |index| self.attachments.name_of(index).map(str::to_owned);
        let naming = Naming { rules: &self.names, resources: &self.resources, interface };
        self.drops.collect(self.attachments.remotes(), &naming, Instant::now());
    }

    async fn tick(&mut self) {
        self.settle_confirmation().await;
        self.attachments.tick();
        self.rebalance();
        self.publisher.reclaim();
        self.policy.tidy();
        self.collect_drops();
        self.take_punts();
        self.dirty.tables |= self.resolver.expire(Instant::now());
        self.follow_in_kernel();
        self.save_some_flows();
        self.look_for_secrets().await;
        self.report().await;
        self.collect_addresses().await;
        self.dirty.reconcile |= self.has_problems("host") && self.reconciled.elapsed() >= self.reconcile_pause;
        self.dirty.tables |= self.has_problems("interfaces") && self.retried.elapsed() > RETRY;
    }

    async fn answer(&mut self, request: ApiRequest) {
        let ApiRequest { call, caller, reply } = request;
        let answered = answer::respond(&self.store, &call, &caller, SystemTime::now()).await;
        let result = match (answered, call) {
            // Success means in force, so it is said after the tables have been published.
            (Some(Ok(Answered { value, wait_for: Some(revision) })), _) => {
                self.unanswered.push((revision, reply, value));
                return;
            }
            (Some(result), _) => result.map(|answered| answered.value),
            (None, ApiCall::Show { what, filter }) => {
                self.collect_drops();
                Ok(crate::show::show(self, what, &filter))
            }
            (None, ApiCall::Why(request)) => {
                self.collect_drops();
                Ok(to_json(&crate::show::why::why(self, &request)))
            }
            (None, ApiCall::Preview(request)) => match Preview::new(self, &request) {
                Ok(preview) => {
                    // Long work on copies: packets' business does not wait for it.
                    tokio::task::spawn_blocking(move || reply.send(Ok(to_json(&preview.answer()))));
                    return;
                }
                Err(error) => Err(error),
            },
            (None, ApiCall::Trace(request)) => crate::trace::trace(self, &request).map(|view| to_json(&view)),
            (None, ApiCall::Move(call)) => self.move_interface(&call).map(|view| to_json(&view)),
            (None, ApiCall::Bgp(call)) => return self.routing.ask(call, reply).await,
            (None, ApiCall::Ipam(call)) => return self.ask_addresses(call, reply),
            (None, ApiCall::Endpoint(call)) => return self.ask_endpoints(call, reply),
            (None, ApiCall::Version) => Ok(to_json(&crate::show::version(self))),
            (None, call) => Err(ApiError::new(ErrorCode::Internal, format!("nobody answers {call:?}"))),
        };
        let _ = reply.send(result);
    }

    /// Takes back what was not confirmed in time, and says what waits.
    async fn settle_confirmation(&mut self) {
        if self.confirmation_checked.elapsed() < CONFIRMATION_PAUSE {
            return;
        }
        self.confirmation_checked = Instant::now();
        let problems = match undo::expire(&self.store, SystemTime::now()).await {
            Ok(Some(revision)) => {
                tracing::warn!(%revision, "not confirmed in time: undone");
                Vec::new()
            }
            Err(error) => vec![format!("what was not confirmed in time could not be undone: {}", chain(&error))],
            Ok(None) => match self.store.pending().await {
                Ok(Some(pending)) => vec![format!(
                    "revision {} waits for `vrouter confirm` until {}, and is undone then",
                    pending.revision,
                    pending.until_text()
                )],
                _ => Vec::new(),
            },
        };
        self.note("confirmation", problems);
    }

    fn answer_writes(&mut self) {
        let revision = self.revision;
        let (done, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unanswered).into_iter().partition(|(wanted, ..)| *wanted <= revision);
        self.unanswered = waiting;
        for (_, reply, value) in done {
            let _ = reply.send(Ok(value));
        }
    }
}
