//! Ports of one rule, gathered by protocol: a rule has one protocol, so several make several rules.

use crate::net::{Port, PortRange, Protocol};
use crate::resource::{Action, EntityRule, PolicyType, Rule};

/// What a rule may hold.
const PORTS_MAX: usize = 50;

/// Protocol and ports that rules are to match on; without any it is one that matches everything.
#[derive(Debug, Default)]
pub(super) struct ByProtocol(Vec<Gathered>);

#[derive(Debug)]
struct Gathered {
    protocol: Option<Protocol>,
    /// None once an entry asks for all ports.
    ports: Option<Vec<Port>>,
}

impl ByProtocol {
    /// `port` none is all ports. A protocol is none for port names, which bring their own.
    pub(super) fn add(&mut self, protocol: Option<Protocol>, port: Option<Port>) {
        let position = self.0.iter().position(|gathered| gathered.protocol == protocol);
        let position = position.unwrap_or_else(|| {
            self.0.push(Gathered { protocol, ports: Some(Vec::new()) });
            self.0.len() - 1
        });
        let gathered = &mut self.0[position];
        match port {
            Some(port) => gathered.ports.iter_mut().for_each(|ports| ports.push(port.clone())),
            None => gathered.ports = None,
        }
    }

    /// The rules of each side, which is the source or the destination by the direction.
    pub(super) fn rules_with(self, sides: Vec<EntityRule>, action: Action, direction: PolicyType) -> Vec<Rule> {
        let by_protocol = self.rules();
        let mut rules = Vec::with_capacity(sides.len() * by_protocol.len());
        for side in sides {
            for (protocol, ports) in &by_protocol {
                let mut rule = Rule { protocol: *protocol, ..Rule::any(action) };
                match direction {
                    PolicyType::Ingress => rule.source = side.clone(),
                    PolicyType::Egress => rule.destination = side.clone(),
                }
                rule.destination.ports.clone_from(ports);
                rules.push(rule);
            }
        }
        rules
    }

    /// One entry for each rule.
    fn rules(self) -> Vec<(Option<Protocol>, Vec<Port>)> {
        if self.0.is_empty() {
            return vec![(None, Vec::new())];
        }
        let mut rules = Vec::new();
        for Gathered { protocol, ports } in self.0 {
            match ports {
                None => rules.push((protocol, Vec::new())),
                Some(ports) => {
                    let ports = merged(ports);
                    rules.extend(ports.chunks(PORTS_MAX).map(|chunk| (protocol, chunk.to_vec())));
                }
            }
        }
        rules
    }
}

/// Numbers that touch or overlap become ranges; then the names, each once.
fn merged(ports: Vec<Port>) -> Vec<Port> {
    let mut ranges = Vec::new();
    let mut names = Vec::new();
    for port in ports {
        match port {
            Port::Numbers(range) => ranges.push(range),
            Port::Named(name) => names.push(name),
        }
    }
    ranges.sort_unstable();
    names.sort_unstable();
    names.dedup();
    let mut merged: Vec<PortRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if u32::from(range.first()) <= u32::from(last.last()) + 1 => {
                *last = PortRange::new(last.first(), last.last().max(range.last())).unwrap_or(*last);
            }
            _ => merged.push(range),
        }
    }
    merged.into_iter().map(Port::Numbers).chain(names.into_iter().map(Port::Named)).collect()
}
