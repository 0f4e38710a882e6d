//! Everything that a selector in a rule can mean: endpoints of the whole cluster and network sets, with an index by label.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use config::convert::namespace_profile_name;
use config::net::Cidr;
use config::resource::{Key, Resource};
use config::selector::Selector;

use super::labels::{self, Labels, ProfileLabels};
use super::selector_index::Need;

/// An item's number; given again when the item is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(u32);

/// What rules need to know of an endpoint or a network set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    pub labels: Labels,
    pub nets: Box<[Cidr]>,
    /// Name, protocol and number.
    pub ports: Box<[(Arc<str>, u8, u16)]>,
    profiles: Box<[String]>,
}

impl Item {
    /// None for resources that no selector means.
    pub fn of(resource: &Resource, profiles: &ProfileLabels) -> Option<Item> {
        Some(match resource {
            Resource::WorkloadEndpoint(endpoint) => {
                let named = endpoint.spec.ports.iter().filter_map(|port| {
                    let name = port.name.as_ref()?;
                    Some((name.as_str().into(), port.protocol.number(), port.port))
                });
                Item {
                    labels: labels::of_workload(endpoint, profiles),
                    nets: endpoint.spec.ip_networks.iter().map(Cidr::masked).collect(),
                    ports: named.collect(),
                    profiles: endpoint.spec.profiles.iter().cloned().collect(),
                }
            }
            Resource::HostEndpoint(endpoint) => {
                let named = endpoint.spec.ports.iter();
                Item {
                    labels: labels::of_host(endpoint, profiles),
                    nets: endpoint.spec.expected_ips.iter().map(|address| Cidr::host(*address)).collect(),
                    ports: named.map(|port| (port.name.as_str().into(), port.protocol.number(), port.port)).collect(),
                    profiles: endpoint.spec.profiles.iter().cloned().collect(),
                }
            }
            Resource::NetworkSet(set) => Item {
                labels: labels::of_network_set(&set.metadata, profiles),
                nets: set.spec.nets.iter().map(Cidr::masked).collect(),
                ports: Box::default(),
                profiles: set.metadata.namespace.as_deref().map(namespace_profile_name).into_iter().collect(),
            },
            Resource::GlobalNetworkSet(set) => Item {
                labels: labels::of_network_set(&set.metadata, profiles),
                nets: set.spec.nets.iter().map(Cidr::masked).collect(),
                ..Item::default()
            },
            _ => return None,
        })
    }

    /// The single addresses of an endpoint.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nets.iter().map(|net| net.address())
    }
}

/// All items, and which of them have a label.
#[derive(Debug, Default)]
pub struct Items {
    items: Vec<Option<Item>>,
    /// Whose item each is; kept until the number is given again.
    keys: Vec<Arc<Key>>,
    free: Vec<ItemId>,
    by_key: HashMap<Arc<Key>, ItemId>,
    /// Who has which network; and of how many there are of each length.
    by_net: BTreeSet<(Cidr, ItemId)>,
    lengths: BTreeMap<(bool, u8), usize>,
    by_label: HashMap<Arc<str>, HashMap<Arc<str>, BTreeSet<ItemId>>>,
    by_profile: HashMap<String, BTreeSet<Arc<Key>>>,
}

impl Items {
    /// Puts an item in place of the one of that key; returns the number and what was there before.
    pub fn replace(&mut self, key: &Arc<Key>, item: Option<Item>) -> Option<(ItemId, Option<Item>)> {
        let known = self.by_key.get(key).copied();
        let old = known.and_then(|id| self.take(id, key));
        let Some(item) = item else {
            let id = known?;
            self.by_key.remove(key);
            self.free.push(id);
            return Some((id, old));
        };
        let id = known.unwrap_or_else(|| self.next_id(key));
        // Names and values are written over and over: one copy of each is kept, by the index.
        let item = Item { labels: item.labels.shared(|name, value| self.index(name, value, id)), ..item };
        for profile in &item.profiles {
            self.by_profile.entry(profile.clone()).or_default().insert(key.clone());
        }
        for net in &item.nets {
            if self.by_net.insert((*net, id)) {
                *self.lengths.entry((net.is_ipv4(), net.length())).or_default() += 1;
            }
        }
        self.items[id.0 as usize] = Some(item);
        Some((id, old))
    }

    fn next_id(&mut self, key: &Arc<Key>) -> ItemId {
        let id = match self.free.pop() {
            Some(id) => {
                self.keys[id.0 as usize] = key.clone();
                id
            }
            None => {
                self.items.push(None);
                self.keys.push(key.clone());
                ItemId(self.items.len() as u32 - 1)
            }
        };
        self.by_key.insert(key.clone(), id);
        id
    }

    fn take(&mut self, id: ItemId, key: &Key) -> Option<Item> {
        let item = self.items[id.0 as usize].take()?;
        for (name, value) in item.labels.iter() {
            let Some(values) = self.by_label.get_mut(name) else { continue };
            if let Some(ids) = values.get_mut(value) {
                ids.remove(&id);
                if ids.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.by_label.remove(name);
            }
        }
        for net in &item.nets {
            let length = (net.is_ipv4(), net.length());
            if self.by_net.remove(&(*net, id))
                && let Some(count) = self.lengths.get_mut(&length)
            {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&length);
                }
            }
        }
        for profile in &item.profiles {
            if let Some(keys) = self.by_profile.get_mut(profile) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_profile.remove(profile);
                }
            }
        }
        Some(item)
    }

    /// Files an item under a label; returns the label in the index's own texts.
    fn index(&mut self, name: &Arc<str>, value: &Arc<str>, id: ItemId) -> (Arc<str>, Arc<str>) {
        let name = self.by_label.entry(name.clone());
        let known_name = name.key().clone();
        let value = name.or_default().entry(value.clone());
        let known_value = value.key().clone();
        value.or_default().insert(id);
        (known_name, known_value)
    }

    pub fn get(&self, id: ItemId) -> Option<&Item> {
        self.items.get(id.0 as usize)?.as_ref()
    }

    pub fn by_key(&self, key: &Key) -> Option<&Item> {
        self.get(*self.by_key.get(key)?)
    }

    /// Who has an address, with what rules know of them.
    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = (&Key, &Item)> {
        let lengths = self.lengths.keys().filter(move |(is_ipv4, _)| *is_ipv4 == address.is_ipv4());
        let nets = lengths.filter_map(move |(_, length)| Cidr::new(address, *length).map(|net| net.masked()));
        let ids = nets.flat_map(|net| self.by_net.range((net, ItemId(0))..=(net, ItemId(u32::MAX))));
        ids.filter_map(|(_, id)| Some((&**self.keys.get(id.0 as usize)?, self.get(*id)?)))
    }

    /// Who lists a profile.
    pub fn listing(&self, profile: &str) -> impl Iterator<Item = &Arc<Key>> {
        self.by_profile.get(profile).into_iter().flatten()
    }

    /// The items that a selector with this need selects.
    pub fn selected(&self, selector: &Selector, need: &Need) -> Vec<ItemId> {
        let is_selected = |id: &ItemId| self.get(*id).is_some_and(|item| selector.matches(&item.labels));
        match need {
            Need::Value { label, values } => {
                let by_value = self.by_label.get(label.as_str());
                let found = values.iter().filter_map(|value| by_value?.get(value.as_str())).flatten().copied();
                found.filter(is_selected).collect()
            }
            Need::Label(label) => {
                let found = self.by_label.get(label.as_str()).into_iter().flat_map(HashMap::values).flatten().copied();
                found.filter(is_selected).collect()
            }
            Need::Nothing => (0..self.items.len() as u32).map(ItemId).filter(is_selected).collect(),
        }
    }
}
