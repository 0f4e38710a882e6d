//! What is valid but cannot be enforced yet. It is refused when it is written: a rule that is stored and not enforced
//! would be a promise that nobody keeps.

use config::resource::{FieldError, Resource, Rule};

/// The fields of a resource that cannot be honoured.
pub fn unsupported(resource: &Resource) -> Vec<FieldError> {
    let mut errors = Vec::new();
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
