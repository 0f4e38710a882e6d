//! Resources to tables, as control does it, over the attachments of a plan.
//!
//! The plan's own rules and routes to endpoints do not count here: endpoints and policies come from the resources, and
//! only what the kernel would say (links, neighbours, routes by uplinks) is taken from the plan.
//!
//! ```text
//!     YAML ─▶ Resources ─calculate─▶ NodeState ─compile─▶ Tables
//!                                Plan ─as kernel─▶ ┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use config::net::{Cidr, MacAddress};
use config::resource::Key;
use config::yaml;
use control::compile::{Attachment as Attached, Choices, HostView, PolicyCompiler, RouteCompiler, RuleNames, compile};
use control::felix::FelixSettings;
use control::host::route::METRIC;
use control::host::{InterfaceAddress, Link, LinkIndex, Neighbour, NeighbourState, NextHop, Route, Target};
use control::policy::Calculation;
use control::resources::Resources;
use fastpath::rcu::Publisher;
use fastpath::table::interface::InterfaceKind;
use fastpath::table::{InterfaceIndex, Tables, WorkerIndex};

use crate::plan::{Plan, Way};

/// The node that the resources are calculated for.
pub const NODE: &str = "node";
/// The neighbour behind an uplink, in each family.
const NEXT_HOPS: [&str; 2] = ["172.31.0.1", "fd31::1"];

/// The resources of a test, and what was made of them so far: tables follow from tables, as they do in the daemon.
pub struct Node {
    pub resources: Resources,
    pub names: RuleNames,
    pub choices: Choices,
    calculation: Calculation,
    policy: PolicyCompiler,
    routes: RouteCompiler,
    /// What the calculation has seen.
    seen: BTreeSet<Arc<Key>>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            resources: Resources::default(),
            names: RuleNames::default(),
            choices: Choices::default(),
            calculation: Calculation::new(NODE, FelixSettings::default()),
            policy: PolicyCompiler::default(),
            routes: RouteCompiler::new(Publisher::new(()).grace()),
            seen: BTreeSet::new(),
        }
    }
}

impl Node {
    /// Takes in resources as a person would write them; every problem is returned as one text.
    pub fn apply(&mut self, text: &str) -> Result<(), String> {
        let resources = yaml::parse("case", text)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        resources.into_iter().for_each(|resource| self.resources.put(resource));
        Ok(())
    }

    pub fn delete(&mut self, key: &Key) {
        self.resources.remove(key);
    }

    pub fn tables(&mut self, plan: &Plan, generation: u32) -> Tables {
        let keys: BTreeSet<Arc<Key>> = self.resources.keys().cloned().collect();
        let seen = std::mem::replace(&mut self.seen, keys.clone());
        self.calculation.update(&self.resources, &keys.union(&seen).cloned().collect());
        let changes = self.calculation.take_changes();
        let policy = self.policy.update(self.calculation.state(), &changes, &mut self.names);
        let kernel = Kernel::of(plan);
        let view = HostView {
            links: &kernel.links,
            neighbours: &kernel.neighbours,
            routes: &kernel.routes,
            addresses: &kernel.addresses,
            attached: &kernel.attached,
            host_link: None,
        };
        let state = self.calculation.state();
        let tables = compile(state, policy, &mut self.routes, &view, &self.choices, generation).tables;
        // Whoever asks publishes them before the next packet.
        self.routes.apply();
        tables
    }
}

/// What the kernel would say of a plan.
struct Kernel {
    links: BTreeMap<LinkIndex, Link>,
    neighbours: BTreeMap<(LinkIndex, IpAddr), Neighbour>,
    routes: Vec<Route>,
    addresses: Vec<InterfaceAddress>,
    attached: BTreeMap<String, Attached>,
}

impl Kernel {
    fn of(plan: &Plan) -> Kernel {
        let mut kernel = Kernel {
            links: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            routes: Vec::new(),
            addresses: Vec::new(),
            attached: BTreeMap::new(),
        };
        for (position, attachment) in plan.attachments.iter().enumerate() {
            let index = LinkIndex(position as u32 + 1);
            let link = Link {
                mac: Some(MacAddress(attachment.mac)),
                mtu: attachment.mtu.into(),
                up: attachment.is_up,
                running: attachment.is_up,
                kind: Some("veth".to_string()),
                ..Link::named(index, &attachment.name)
            };
            kernel.links.insert(index, link);
            let attached = Attached {
                index: InterfaceIndex(position as u16),
                link: index,
                kind: attachment.kind,
                owner: WorkerIndex(attachment.owner),
            };
            kernel.attached.insert(attachment.name.clone(), attached);
            if attachment.kind == InterfaceKind::Uplink {
                let own = |address: &IpAddr| {
                    let prefix_length = if address.is_ipv4() { 32 } else { 128 };
                    InterfaceAddress { link: index, address: *address, prefix_length }
                };
                kernel.addresses.extend(attachment.addresses.iter().map(own));
                kernel.uplink(plan, &attachment.name, index, attachment.peer_mac);
            }
        }
        kernel
    }

    /// The next hops of an uplink, and the plan's routes by them.
    fn uplink(&mut self, plan: &Plan, name: &str, link: LinkIndex, mac: [u8; 6]) {
        let next_hops = NEXT_HOPS.map(|address| address.parse::<IpAddr>().expect("an address"));
        for address in next_hops {
            let neighbour = Neighbour {
                link,
                address,
                mac: Some(MacAddress(mac)),
                state: NeighbourState::Reachable,
                is_managed: false,
                is_ours: false,
                is_router: false,
            };
            self.neighbours.insert((link, address), neighbour);
        }
        for (net, way) in &plan.routes {
            if *way != Way::Via(name.to_string()) {
                continue;
            }
            let gateway = next_hops[usize::from(!net.0.is_ipv4())];
            let hop = NextHop { link, gateway: Some(gateway), onlink: true };
            let prefix = Cidr::new(net.0, net.1).expect("a prefix");
            self.routes.push(Route::new(prefix, METRIC, Target::Forward(vec![hop])));
        }
    }
}
