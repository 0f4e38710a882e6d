//! The addresses behind a selector: of workload and host endpoints of the whole cluster.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use config::net::Cidr;
use config::selector::Selector;

use super::labels::{self, Labels, Profiles};
use crate::resources::Resources;

/// Everything that a selector in a rule can mean.
pub struct Members {
    all: Vec<(Labels, Vec<Cidr>)>,
    /// Selectors are written many times over; each is evaluated once.
    found: RefCell<BTreeMap<String, Vec<Cidr>>>,
}

impl Members {
    pub fn collect(resources: &Resources, profiles: &Profiles<'_>) -> Self {
        let workloads = resources
            .workload_endpoints()
            .map(|endpoint| (labels::of_workload(endpoint, profiles), endpoint.spec.ip_networks.clone()));
        let hosts = resources.host_endpoints().map(|endpoint| {
            let addresses = endpoint.spec.expected_ips.iter().map(|address| Cidr::host(*address)).collect();
            (labels::of_host(endpoint, profiles), addresses)
        });
        Self { all: workloads.chain(hosts).collect(), found: RefCell::default() }
    }

    /// The prefixes of everything selected, sorted, each once.
    pub fn of(&self, selector: &Selector) -> Vec<Cidr> {
        let text = selector.to_string();
        if let Some(found) = self.found.borrow().get(&text) {
            return found.clone();
        }
        let selected = self.all.iter().filter(|(labels, _)| selector.matches(labels));
        let prefixes: BTreeSet<Cidr> = selected.flat_map(|(_, prefixes)| prefixes).copied().collect();
        let prefixes: Vec<Cidr> = prefixes.into_iter().collect();
        self.found.borrow_mut().insert(text, prefixes.clone());
        prefixes
    }
}
