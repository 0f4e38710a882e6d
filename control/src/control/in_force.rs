//! What is known, put in force: interfaces attached, tables made and published, programs told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use config::resource::Key;
use config::settings::PolicyChange;
use fastpath::io::guard::Openings;
use fastpath::table;
use fastpath::table::acl::Acl;
use fastpath::table::interface::InterfaceKind;

use super::{Control, HOST_INTERFACE, HOST_LINK};
use crate::attach::{AttachError, Guards};
use crate::compile::{self, Choices, Compiled, HostView};
use crate::datastore::Datastore;
use crate::guard::{self, Claims};
use crate::host::LinkIndex;
use crate::tell::chain;
use crate::translation;

impl<D: Datastore> Control<D> {
    /// The first calculation may take seconds, and attaching waits for the kernel most of the time: side by side. What is
    /// attached has no tables yet and drops everything; what cannot be is tried again, and told, when there are tables.
    pub(super) fn follow_while_attaching(&mut self, changed: &BTreeSet<Arc<Key>>) -> (bool, Acl) {
        let wanted = self.orphans().collect();
        let Control { calculation, policy, names, resources, attachments, kernel, .. } = self;
        std::thread::scope(|scope| {
            let following = scope.spawn(|| policy.follow(calculation, resources, changed, names));
            attachments.sync(&wanted, Guards::default(), &kernel.links, &mut Vec::new());
            following.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Attaches what should be attached. Returns what could not be.
    pub(super) fn attach(&mut self) -> Vec<AttachError> {
        let mut errors = Vec::new();
        self.retried = Instant::now();
        let claims = self.claims();
        let guards = self.guards(&claims);
        let wanted = self.wanted(&claims);
        if !self.is_ready() {
            self.expect(&wanted, &mut errors);
        }
        self.attachments.sync(&wanted, guards, &self.kernel.links, &mut errors);
        errors
    }

    /// An uplink's program takes the place of one that an earlier process has left, which drops what is ours. So it has to know
    /// from its first packet what is: until there are tables that is dropped, too, and the kernel does not answer in our stead.
    fn expect(&mut self, wanted: &BTreeMap<String, InterfaceKind>, errors: &mut Vec<AttachError>) {
        let is_uplink = |name: &str| wanted.get(name) == Some(&InterfaceKind::Uplink);
        let uplinks = self.kernel.links.values().filter(|link| is_uplink(&link.name)).map(|link| link.index);
        let state = self.calculation.state();
        let (prefixes, shared) =
            (compile::our_prefixes(state), translation::expected(state, uplinks, &self.kernel.addresses));
        errors.extend(self.attachments.set_prefixes(&prefixes));
        errors.extend(self.attachments.share(&shared));
    }

    /// Compiles, and makes the result the one that every worker uses. `errors` are those of attaching.
    pub(super) fn publish(&mut self, mut errors: Vec<AttachError>) {
        self.generation += 1;
        let choices = Choices {
            policy_change: match self.settings.policy_change {
                PolicyChange::Preserve => table::PolicyChange::Preserve,
                PolicyChange::Reevaluate => table::PolicyChange::Reevaluate,
            },
            felix: self.state().felix.clone(),
            seed: compile::seed_of(&self.settings.node_name),
            blocks: self.routing.blocks(),
            gateways: self.routing.gateways(),
            relays_dhcp: self.relay_dhcp(),
        };
        let host_link = self.kernel.links.values().find(|link| link.name == HOST_LINK).map(|link| link.index);
        let view = HostView {
            links: &self.kernel.links,
            neighbours: &self.kernel.neighbours,
            routes: &self.kernel.routes,
            addresses: &self.kernel.addresses,
            attached: self.attachments.view(),
            host_link,
        };
        let Compiled { mut tables, prefixes, mut desired, routes } = compile::compile(
            self.calculation.state(),
            self.acl.clone(),
            &mut self.route_compiler,
            &view,
            &choices,
            self.generation,
        );
        let (shared, untranslated) =
            translation::complete(&mut tables, self.calculation.state(), &view, self.flows.sources());
        // First, for what follows asks them: a next hop is kept resolved where its route leads now.
        self.routes = routes;
        let uplinks: Vec<(LinkIndex, IpAddr)> = self.resolver.asked().filter_map(|ip| self.on_uplink(ip)).collect();
        desired.managed.extend(uplinks);
        if self.generation == 1 {
            // No packet can meet these routes before they are published, and none shall find them half made then.
            self.route_compiler.apply();
        }
        self.publisher.publish(tables);
        // IPv4 routes change in place, when the ways they lead to are there.
        self.route_compiler.apply();
        let mut problems: Vec<String> = self.attachments.oversized(&self.kernel.links).collect();
        // Uplinks hand over what is ours only now that the tables know what to do with it.
        problems.extend(self.attachments.set_prefixes(&prefixes).iter().map(|error| chain(error)));
        errors.extend(self.attachments.share(&shared));
        self.attachments.guard(&mut errors);
        problems.extend(errors.iter().map(|error| chain(error)));
        self.attachments.published();
        self.dirty.reconcile |= desired != self.desired;
        self.desired = desired;
        self.note("interfaces", problems);
        self.note("translation", untranslated);
        self.note("routes", self.route_compiler.problems());
        self.give_back();
    }

    fn guards(&self, claims: &Claims) -> Guards {
        let openings = Openings {
            ports: guard::port_filters(&self.state().felix),
            own_addresses: guard::own_addresses(&self.kernel.addresses),
            private_pair: self.kernel.links.values().find(|link| link.name == HOST_LINK).map(|link| link.index.0),
        };
        Guards { interfaces: claims.keys().cloned().collect(), openings }
    }

    /// The interfaces that should be attached: endpoints', uplinks, and the way to the host.
    fn wanted(&self, claims: &Claims) -> BTreeMap<String, InterfaceKind> {
        let endpoints = self.state().endpoints.iter().map(|e| (e.interface.clone(), InterfaceKind::Workload));
        let closed = self.state().closed_interfaces.iter().map(|name| (name.clone(), InterfaceKind::Workload));
        let uplinks = self.settings.uplinks.iter().chain(claims.keys());
        let uplinks = uplinks.map(|name| (name.clone(), InterfaceKind::Uplink));
        let host = (HOST_INTERFACE.to_owned(), InterfaceKind::Host);
        // A workload's interface that a host endpoint names stays a workload's.
        uplinks.chain(self.orphans()).chain(closed).chain(endpoints).chain([host]).collect()
    }

    /// Interfaces with the workload prefix. Where there is no endpoint nobody says what they may do, so they may do nothing.
    fn orphans(&self) -> impl Iterator<Item = (String, InterfaceKind)> {
        let prefix = self.settings.default_workload_interface_prefix.as_str();
        let links = self.kernel.links.values().filter(move |link| !prefix.is_empty() && link.name.starts_with(prefix));
        links.map(|link| (link.name.clone(), InterfaceKind::Workload))
    }
}
