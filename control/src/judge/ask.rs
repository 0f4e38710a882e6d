//! Whose policy a question means, and which ways a packet takes through the nodes.
//!
//! | asked by | whose lists |
//! |---|---|
//! | endpoint of a workload, or its interface | its policy in one direction |
//! | endpoint of a host | its own lists, in one direction |
//! | interface of a host endpoint | the whole way through the node, in or out by it |
//! | neither | the way through the sender's node, then through the receiver's |
//!
//! A packet between two nodes is asked about by every uplink that host endpoints of the node know. Where they say different
//! things the question has to name one.

use std::net::IpAddr;

use config::resource::{Key, Kind, PolicyType};
use fastpath::stage::lists::List;

use super::places::Behind;
use super::{Crossing, Judge, OTHER_UPLINK, Place, Said, conclusion};
use crate::policy::oracle::{Fields, crossing};

/// A question.
#[derive(Debug, Clone)]
pub struct Question {
    pub endpoint: Option<String>,
    pub interface: Option<String>,
    pub direction: Option<PolicyType>,
    pub node: Option<String>,
    /// Before its destination was translated.
    pub before: Fields,
    pub fields: Fields,
}

impl Judge {
    /// What is said, in the order in which it is asked, up to who denies.
    pub fn ask(&mut self, question: &Question) -> Result<Vec<Said>, String> {
        match (&question.endpoint, &question.interface) {
            (Some(_), Some(_)) => Err("interface: found beside endpoint, expected one of the two".to_owned()),
            (Some(name), None) => {
                let key = self.places.endpoint(name)?;
                match key.kind {
                    Kind::HostEndpoint => self.of_host_endpoint(&key, question),
                    _ => self.of_workload(&key, question),
                }
            }
            (None, Some(name)) => match self.places.on_interface(name, question.node.as_deref())? {
                (_, Behind::Workload(key)) => self.of_workload(&key, question),
                (node, Behind::Uplink(uplink)) => self.by_uplink(&node, &uplink, question),
            },
            (None, None) => self.by_addresses(question),
        }
    }

    /// The workload endpoint that an address belongs to.
    pub fn owner(&self, address: IpAddr) -> Option<&Key> {
        self.places.owner(address)
    }

    /// The endpoint that people call so.
    pub fn endpoint(&self, name: &str) -> Result<Key, String> {
        self.places.endpoint(name)
    }

    /// The end of a way at an interface of a node. `host` is the way to its host.
    pub fn place(&self, node: &str, interface: &str, host: &str) -> Option<Place> {
        if interface == host {
            return Some(Place::Stack);
        }
        let is_real = |name: &str| self.real.as_ref().is_some_and(|(_, uplinks)| uplinks.contains_key(name));
        match self.places.on_interface(interface, Some(node)) {
            Ok((_, Behind::Workload(key))) => Some(Place::Workload(key)),
            _ if is_real(interface) => Some(Place::Uplink(interface.to_owned())),
            Ok((_, Behind::Uplink(name))) => Some(Place::Uplink(name)),
            Err(_) => None,
        }
    }

    fn of_workload(&mut self, key: &Key, question: &Question) -> Result<Vec<Said>, String> {
        let is = |address| self.places.owner(address) == Some(key);
        let direction = direction(question, is)?;
        let list = match direction {
            PolicyType::Ingress => List::WorkloadIngress,
            PolicyType::Egress => List::WorkloadEgress,
        };
        let verdict = self.verdict(key, direction, &question.fields)?;
        Ok(vec![Said { list: Some(list), endpoint: Some(key.clone()), verdict }])
    }

    fn of_host_endpoint(&mut self, key: &Key, question: &Question) -> Result<Vec<Said>, String> {
        let (node, uplink) = self.places.uplink_of(key).ok_or_else(|| format!("{key} is not among the resources"))?;
        let (node, uplink) = (node.to_owned(), uplink.to_owned());
        let known = match self.oracle {
            Some(_) => crossing::host_endpoint_at(&self.resources, &node, &uplink),
            None => self.tables(&node)?.host_endpoint(&uplink).cloned(),
        };
        if known.as_ref() != Some(key) {
            return Err(self.why_inactive(&node, key));
        }
        let mut crossing = self.crossing(&node, &uplink, question)?;
        for place in [&mut crossing.from, &mut crossing.to] {
            if matches!(place, Place::Workload(_)) {
                *place = Place::Somebody;
            }
        }
        self.cross(&crossing, &question.before, &question.fields)
    }

    fn by_uplink(&mut self, node: &str, uplink: &str, question: &Question) -> Result<Vec<Said>, String> {
        let crossing = self.crossing(node, uplink, question)?;
        self.cross(&crossing, &question.before, &question.fields)
    }

    /// In or out by an uplink.
    fn crossing(&self, node: &str, uplink: &str, question: &Question) -> Result<Crossing, String> {
        let Fields { source, destination, .. } = question.fields;
        let is_here = |address| {
            let of_workload = self.places.owner(address).and_then(|key| self.places.node_of(key));
            of_workload == Some(node) || self.places.host_of(address) == Some(node)
        };
        let uplink = Place::Uplink(uplink.to_owned());
        let (from, to) = match direction(question, is_here)? {
            PolicyType::Ingress => (uplink, self.here(node, destination)),
            PolicyType::Egress => (self.here(node, source), uplink),
        };
        Ok(Crossing { node: node.to_owned(), from, to })
    }

    /// Who has an address, seen from inside a node.
    fn here(&self, node: &str, address: IpAddr) -> Place {
        let owner = self.places.owner(address).filter(|key| self.places.node_of(key) == Some(node));
        owner.map_or(Place::Stack, |key| Place::Workload(key.clone()))
    }

    fn by_addresses(&mut self, question: &Question) -> Result<Vec<Said>, String> {
        let Fields { source, destination, .. } = question.fields;
        let is_asked = |direction| question.direction.is_none_or(|wanted| wanted == direction);
        let sender_node = self.places.owner(source).and_then(|key| self.places.node_of(key)).map(str::to_owned);
        let sender = self.home(source, question, None).filter(|_| is_asked(PolicyType::Egress));
        let receiver = self.home(destination, question, sender_node.as_deref());
        let receiver = receiver.filter(|_| is_asked(PolicyType::Ingress));
        let nobody = || {
            format!(
                "neither src {source} nor dst {destination} belongs to an endpoint that is asked; say endpoint or interface, \
                 and direction"
            )
        };
        match (sender, receiver) {
            (None, None) => Err(nobody()),
            (Some((_, Place::Stack)), Some((_, Place::Stack)))
                if self.places.host_of(source) == self.places.host_of(destination) =>
            {
                Err(format!(
                    "src {source} and dst {destination} are the same host's; what it sends to itself is not judged"
                ))
            }
            (Some((node, from)), Some((other, to))) if node == other => {
                self.cross(&Crossing { node, from, to }, &question.before, &question.fields)
            }
            (sender, receiver) => {
                let mut said = Vec::new();
                if let Some((node, from)) = sender {
                    // Where it goes is asked about elsewhere, or not at all.
                    said = self.by_any_uplink(&node, &from, source, PolicyType::Egress, question)?;
                }
                if let (true, Some((node, to))) = (conclusion(&said).allow, receiver) {
                    said.extend(self.by_any_uplink(&node, &to, destination, PolicyType::Ingress, question)?);
                }
                Ok(said)
            }
        }
    }

    /// The node and place that an address belongs to, if that node is asked. A host without host endpoints is asked only about
    /// what its own workloads send it.
    fn home(&self, address: IpAddr, question: &Question, sender_node: Option<&str>) -> Option<(String, Place)> {
        let found = match self.places.owner(address) {
            Some(key) => (self.places.node_of(key)?.to_owned(), Place::Workload(key.clone())),
            None => {
                let node = self.places.host_of(address)?;
                let is_asked = self.places.has_host_endpoints(node) || sender_node == Some(node);
                (is_asked.then(|| node.to_owned())?, Place::Stack)
            }
        };
        Some(found).filter(|(node, _)| question.node.as_ref().is_none_or(|wanted| wanted == node))
    }

    /// What is said whichever uplink the packet takes.
    fn by_any_uplink(
        &mut self,
        node: &str,
        place: &Place,
        address: IpAddr,
        direction: PolicyType,
        question: &Question,
    ) -> Result<Vec<Said>, String> {
        let own = matches!(place, Place::Stack).then_some(address);
        let mut uplinks: Vec<String> = self.places.uplinks_for(node, own).into_iter().map(str::to_owned).collect();
        if uplinks.is_empty() {
            uplinks.push(OTHER_UPLINK.to_owned());
        }
        let mut first: Option<(String, Vec<Said>)> = None;
        for name in uplinks {
            let (node, uplink) = (node.to_owned(), Place::Uplink(name.clone()));
            let crossing = match direction {
                PolicyType::Ingress => Crossing { node, from: uplink, to: place.clone() },
                PolicyType::Egress => Crossing { node, from: place.clone(), to: uplink },
            };
            let said = self.cross(&crossing, &question.before, &question.fields)?;
            match &first {
                None => first = Some((name, said)),
                Some((_, known)) if conclusion(known) == conclusion(&said) => {}
                Some((other, _)) => {
                    return Err(format!(
                        "interface: found nothing, expected one: by {other} and by {name} of node {} not the same is decided",
                        crossing.node
                    ));
                }
            }
        }
        Ok(first.map(|(_, said)| said).unwrap_or_default())
    }
}

/// As asked for, or by which end is meant.
fn direction(question: &Question, is_meant: impl Fn(IpAddr) -> bool) -> Result<PolicyType, String> {
    let Fields { source, destination, .. } = question.fields;
    match (question.direction, is_meant(source), is_meant(destination)) {
        (Some(direction), ..) => Ok(direction),
        (None, true, false) => Ok(PolicyType::Egress),
        (None, false, true) => Ok(PolicyType::Ingress),
        (None, ..) => Err("direction: found nothing, expected ingress or egress".to_owned()),
    }
}
