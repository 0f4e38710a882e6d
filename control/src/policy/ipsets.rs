//! The members of sets: what selectors in rules, named ports and services come to.
//!
//! A set is kept as long as a rule refers to it. Its members are counted, because two endpoints may bring the same one; what
//! came and what went since the last look is written down beside.
//!
//!     item changes ─▶ sets it was in, sets it could be in ─▶ members − what it brought + what it brings
//!     set appears  ─▶ items it could select ─────────────▶ members
//!
//! Invariant: members and counts are a function of the items and of the sets in use, never of the way there.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use config::net::Cidr;
use config::resource::{EndpointSlice, Key};
use config::selector::Selector;

use super::items::{Item, ItemId, Items};
use super::selector_index::{Need, SelectorIndex};
use crate::node_state::{Member, SetMembers, SetName};

/// What a set is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum SetSource {
    /// The addresses of whatever is selected.
    Selector(Selector),
    /// Of what is selected, the ports of this name.
    NamedPort { selector: Selector, protocol: u8, port: String },
    /// What a Service leads to: its addresses, or its addresses with their ports.
    Service { namespace: String, name: String, with_ports: bool },
}

impl SetSource {
    /// Two spellings of one selection have one name.
    pub fn name(&self) -> SetName {
        SetName::new(match self {
            SetSource::Selector(selector) => format!("selector {selector}"),
            SetSource::NamedPort { selector, protocol, port } => {
                format!("port {port} protocol {protocol} of {selector}")
            }
            SetSource::Service { namespace, name, with_ports: true } => format!("service {namespace}/{name}"),
            SetSource::Service { namespace, name, with_ports: false } => {
                format!("addresses of service {namespace}/{name}")
            }
        })
    }

    fn selector(&self) -> Option<&Selector> {
        match self {
            SetSource::Selector(selector) | SetSource::NamedPort { selector, .. } => Some(selector),
            SetSource::Service { .. } => None,
        }
    }

    /// What a selected item brings.
    fn members_of(&self, item: &Item) -> Vec<Member> {
        match self {
            SetSource::NamedPort { protocol, port, .. } => {
                let named = item.ports.iter().filter(|(name, number, _)| **name == **port && number == protocol);
                named.flat_map(|(_, number, port)| item.addresses().map(|a| Member::Port(a, *number, *port))).collect()
            }
            _ => item.nets.iter().map(|net| Member::Net(*net)).collect(),
        }
    }
}

/// A set in use.
#[derive(Debug)]
struct Set {
    name: SetName,
    source: SetSource,
    need: Need,
    users: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SetId(u32);

/// All sets in use.
#[derive(Debug, Default)]
pub struct Sets {
    sets: Vec<Option<Set>>,
    free: Vec<SetId>,
    by_name: HashMap<SetName, SetId>,
    index: SelectorIndex<SetId>,
    /// Which sets an item is in.
    of_item: HashMap<ItemId, BTreeSet<SetId>>,
    slices: Slices,
}

/// The members of all sets, and how they differ from those at the last look.
#[derive(Debug)]
pub struct Membership<'a> {
    pub members: &'a mut BTreeMap<SetName, SetMembers>,
    pub changes: &'a mut BTreeMap<SetName, BTreeMap<Member, bool>>,
}

impl Membership<'_> {
    /// The set is looked up once for all of them.
    fn add(&mut self, set: &SetName, members: impl IntoIterator<Item = Member>) {
        let counts = self.members.entry(set.clone()).or_default();
        let changes = self.changes.entry(set.clone()).or_default();
        for member in members {
            let count = counts.entry(member.clone()).or_insert(0);
            *count += 1;
            if *count == 1 {
                toggle(changes, member, true);
            }
        }
        if changes.is_empty() {
            self.changes.remove(set);
        }
    }

    fn remove(&mut self, set: &SetName, member: Member) {
        let Some(members) = self.members.get_mut(set) else { return };
        let Some(count) = members.get_mut(&member) else { return };
        *count -= 1;
        if *count == 0 {
            members.remove(&member);
            self.toggle(set, member, false);
        }
    }

    fn toggle(&mut self, set: &SetName, member: Member, is_added: bool) {
        let changes = self.changes.entry(set.clone()).or_default();
        toggle(changes, member, is_added);
        if changes.is_empty() {
            self.changes.remove(set);
        }
    }
}

/// What came and went again, or the other way round, is no change.
fn toggle(changes: &mut BTreeMap<Member, bool>, member: Member, is_added: bool) {
    match changes.entry(member) {
        Entry::Occupied(entry) if *entry.get() != is_added => {
            entry.remove();
        }
        entry => {
            entry.insert_entry(is_added);
        }
    }
}

impl Sets {
    /// One more rule refers to the set.
    pub fn acquire(&mut self, source: SetSource, items: &Items, membership: &mut Membership<'_>) -> SetName {
        let name = source.name();
        if let Some(id) = self.by_name.get(&name) {
            if let Some(set) = &mut self.sets[id.0 as usize] {
                set.users += 1;
            }
            return name;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.sets.push(None);
            SetId(self.sets.len() as u32 - 1)
        });
        membership.members.insert(name.clone(), SetMembers::new());
        let need = source.selector().map_or(Need::Nothing, Need::of);
        match (&source, source.selector()) {
            (_, Some(selector)) => {
                self.index.insert(id, &need);
                let selected = items.selected(selector, &need);
                for item_id in &selected {
                    self.of_item.entry(*item_id).or_default().insert(id);
                }
                let selected = selected.iter().filter_map(|id| items.get(*id));
                membership.add(&name, selected.flat_map(|item| source.members_of(item)));
            }
            (SetSource::Service { namespace, name: service, with_ports }, _) => {
                let members = self.slices.members(namespace, service, *with_ports);
                membership.add(&name, members);
            }
            _ => {}
        }
        self.by_name.insert(name.clone(), id);
        self.sets[id.0 as usize] = Some(Set { name: name.clone(), source, need, users: 1 });
        name
    }

    /// One rule less refers to the set; the last one takes it along.
    pub fn release(&mut self, name: &SetName, items: &Items, membership: &mut Membership<'_>) {
        let Some(id) = self.by_name.get(name).copied() else { return };
        let slot = &mut self.sets[id.0 as usize];
        let Some(set) = slot else { return };
        set.users -= 1;
        if set.users > 0 {
            return;
        }
        if let Some(selector) = set.source.selector() {
            self.index.remove(id, &set.need);
            for item in items.selected(selector, &set.need) {
                let Some(sets) = self.of_item.get_mut(&item) else { continue };
                sets.remove(&id);
                if sets.is_empty() {
                    self.of_item.remove(&item);
                }
            }
        }
        *slot = None;
        self.by_name.remove(name);
        self.free.push(id);
        for member in membership.members.remove(name).into_iter().flat_map(BTreeMap::into_keys) {
            membership.toggle(name, member, false);
        }
    }

    /// An item is another one now, or gone.
    pub fn item_changed(
        &mut self,
        id: ItemId,
        old: Option<&Item>,
        new: Option<&Item>,
        membership: &mut Membership<'_>,
    ) {
        let was_in = self.of_item.remove(&id).unwrap_or_default();
        let is_in: BTreeSet<SetId> = new.map_or_else(BTreeSet::new, |item| {
            let candidates = self.index.candidates(&item.labels).into_iter();
            candidates.filter(|set| self.selects(*set, item)).collect()
        });
        for set in was_in.union(&is_in).filter_map(|id| self.sets[id.0 as usize].as_ref().map(|set| (id, set))) {
            let (id, set) = set;
            let brought = |item: Option<&Item>, is_member: bool| {
                item.filter(|_| is_member).map(|item| set.source.members_of(item)).unwrap_or_default()
            };
            let (before, after) = (brought(old, was_in.contains(id)), brought(new, is_in.contains(id)));
            if before != after {
                // First what comes: a member that stays never seems to be gone.
                membership.add(&set.name, after);
                before.into_iter().for_each(|member| membership.remove(&set.name, member));
            }
        }
        if !is_in.is_empty() {
            self.of_item.insert(id, is_in);
        }
    }

    fn selects(&self, set: SetId, item: &Item) -> bool {
        let set = self.sets[set.0 as usize].as_ref();
        set.and_then(|set| set.source.selector()).is_some_and(|selector| selector.matches(&item.labels))
    }

    /// An EndpointSlice is another one now, or gone.
    pub fn slice_changed(&mut self, key: &Key, slice: Option<&EndpointSlice>, membership: &mut Membership<'_>) {
        let services = self.slices.replace(key, slice);
        for (namespace, service) in services {
            for with_ports in [false, true] {
                let source = SetSource::Service { namespace: namespace.clone(), name: service.clone(), with_ports };
                let name = source.name();
                if !self.by_name.contains_key(&name) {
                    continue;
                }
                let now: BTreeSet<Member> = self.slices.members(&namespace, &service, with_ports).into_iter().collect();
                let before: BTreeSet<Member> =
                    membership.members.get(&name).into_iter().flat_map(BTreeMap::keys).cloned().collect();
                membership.add(&name, now.difference(&before).cloned());
                before.difference(&now).for_each(|member| membership.remove(&name, member.clone()));
            }
        }
    }

    /// What a Service leads to: its addresses, and those with their ports.
    pub fn service(&self, namespace: &str, service: &str) -> BTreeSet<Member> {
        let mut members = self.slices.members(namespace, service, false);
        members.extend(self.slices.members(namespace, service, true));
        members
    }
}

/// The label of an EndpointSlice that says which Service it belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Every address alone, and every address with every port. A port without a number stands for all of them, which a set
/// cannot hold: it brings none.
fn members_of(slice: &EndpointSlice) -> Vec<Member> {
    const TCP: u8 = 6;
    let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    let addresses: Vec<IpAddr> = addresses.filter_map(|address| address.parse().ok()).collect();
    let ports = slice.ports.iter().filter_map(|port| Some((port.protocol.map_or(TCP, |p| p.number()), port.port?)));
    let with_ports = ports.flat_map(|(protocol, port)| addresses.iter().map(move |a| Member::Port(*a, protocol, port)));
    let alone = addresses.iter().map(|address| Member::Net(Cidr::host(*address)));
    with_ports.chain(alone).collect()
}

/// EndpointSlices by the Service they belong to.
#[derive(Debug, Default)]
struct Slices {
    by_service: BTreeMap<(String, String), BTreeMap<Key, Vec<Member>>>,
    service_of: HashMap<Key, (String, String)>,
}

impl Slices {
    /// The services that may lead elsewhere now.
    fn replace(&mut self, key: &Key, slice: Option<&EndpointSlice>) -> Vec<(String, String)> {
        let mut affected = Vec::new();
        if let Some(service) = self.service_of.remove(key) {
            if let Some(slices) = self.by_service.get_mut(&service) {
                slices.remove(key);
                if slices.is_empty() {
                    self.by_service.remove(&service);
                }
            }
            affected.push(service);
        }
        if let Some((slice, service)) = slice.and_then(|slice| Some((slice, slice.metadata.labels.get(SERVICE_NAME)?)))
        {
            let namespace = key.namespace.clone().unwrap_or_default();
            let service = (namespace, service.to_owned());
            let members = members_of(slice);
            self.by_service.entry(service.clone()).or_default().insert(key.clone(), members);
            self.service_of.insert(key.clone(), service.clone());
            if !affected.contains(&service) {
                affected.push(service);
            }
        }
        affected
    }

    /// Each once.
    fn members(&self, namespace: &str, service: &str, with_ports: bool) -> BTreeSet<Member> {
        let slices = self.by_service.get(&(namespace.to_owned(), service.to_owned()));
        let all = slices.into_iter().flat_map(BTreeMap::values).flatten();
        all.filter(|member| matches!(member, Member::Port(..)) == with_ports).cloned().collect()
    }
}
