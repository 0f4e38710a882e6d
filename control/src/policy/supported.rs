//! What is valid but cannot be enforced yet. It is refused when it is written: a rule that is stored and not enforced
//! would be a promise that nobody keeps.

use config::net::Port;
use config::resource::{EntityRule, FieldError, Kind, Resource, Rule};

/// Kinds that change what is allowed and that the policy calculation does not look at.
const KINDS_NOT_ENFORCED: [Kind; 4] =
    [Kind::KubernetesNetworkPolicy, Kind::ClusterNetworkPolicy, Kind::NetworkSet, Kind::GlobalNetworkSet];

/// The fields of a resource that cannot be honoured.
pub fn unsupported(resource: &Resource) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = resource.kind();
    if KINDS_NOT_ENFORCED.contains(&kind) {
        errors.push(error("kind", kind.name(), "a kind that is enforced: this one is not, by this version"));
    }
    match resource {
        Resource::NetworkPolicy(policy) => {
            rules("spec.ingress", &policy.spec.ingress, &mut errors);
            rules("spec.egress", &policy.spec.egress, &mut errors);
        }
        Resource::GlobalNetworkPolicy(policy) => {
            let spec = &policy.spec;
            for (path, is_set) in [("spec.doNotTrack", spec.do_not_track), ("spec.preDNAT", spec.pre_dnat)] {
                if is_set {
                    errors.push(error(path, "true", "host endpoint policies are not enforced by this version"));
                }
            }
            rules("spec.ingress", &spec.ingress, &mut errors);
            rules("spec.egress", &spec.egress, &mut errors);
        }
        Resource::Profile(profile) => {
            rules("spec.ingress", &profile.spec.ingress, &mut errors);
            rules("spec.egress", &profile.spec.egress, &mut errors);
        }
        _ => {}
    }
    errors
}

/// Whether every field of a rule can be honoured.
pub fn can_enforce(rule: &Rule) -> bool {
    let mut errors = Vec::new();
    rules("", std::slice::from_ref(rule), &mut errors);
    errors.is_empty()
}

fn rules(path: &str, rules: &[Rule], errors: &mut Vec<FieldError>) {
    for (position, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{position}]");
        if rule.http.is_some() {
            errors.push(error(&format!("{path}.http"), "an HTTP match", "no HTTP match: this router judges packets"));
        }
        for (side, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
            entity_rule(&format!("{path}.{side}"), entity, errors);
        }
    }
}

fn entity_rule(path: &str, entity: &EntityRule, errors: &mut Vec<FieldError>) {
    if entity.services.is_some() {
        let expected = "a selector or nets: services are not resolved by this version";
        errors.push(error(&format!("{path}.services"), "a service", expected));
    }
    for (field, ports) in [("ports", &entity.ports), ("notPorts", &entity.not_ports)] {
        for (position, port) in ports.iter().enumerate() {
            if let Port::Named(name) = port {
                let expected = "a number or a range: port names are not resolved by this version";
                errors.push(error(&format!("{path}.{field}[{position}]"), name.as_str(), expected));
            }
        }
    }
}

fn error(path: &str, found: &str, expected: &str) -> FieldError {
    FieldError { path: path.into(), found: found.into(), expected: expected.into(), help: None }
}
