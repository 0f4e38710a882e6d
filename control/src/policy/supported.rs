//! What is valid but cannot be enforced yet. It is refused when it is written: a rule that is stored and not enforced
//! would be a promise that nobody keeps.

use config::resource::{FieldError, Kind, Resource, Rule};

/// Kinds that change what is allowed and that the policy calculation does not look at.
const KINDS_NOT_ENFORCED: [Kind; 2] = [Kind::KubernetesNetworkPolicy, Kind::ClusterNetworkPolicy];

/// The fields of a resource that cannot be honoured.
pub fn unsupported(resource: &Resource) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = resource.kind();
    if KINDS_NOT_ENFORCED.contains(&kind) {
        errors.push(FieldError {
            path: "kind".into(),
            found: kind.name().into(),
            expected: "a kind that is enforced: this one is not, by this version".into(),
            help: None,
        });
    }
    match resource {
        Resource::NetworkPolicy(policy) => {
            rules("spec.ingress", &policy.spec.ingress, &mut errors);
            rules("spec.egress", &policy.spec.egress, &mut errors);
        }
        Resource::GlobalNetworkPolicy(policy) => {
            rules("spec.ingress", &policy.spec.ingress, &mut errors);
            rules("spec.egress", &policy.spec.egress, &mut errors);
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
    for (position, _) in rules.iter().enumerate().filter(|(_, rule)| rule.http.is_some()) {
        errors.push(FieldError {
            path: format!("{path}[{position}].http"),
            found: "an HTTP match".into(),
            expected: "no HTTP match: this router judges packets".into(),
            help: None,
        });
    }
}
