//! What policy says and this router does not look at: told to whoever writes it.
//!
//! `http` in a rule is a matter of requests, not of packets. As on Calico's own dataplane the rest of the rule decides, and
//! the HTTP part is left to a component that sees requests. Where there is none, an Allow rule lets through more than its
//! author may think, so it is said every time such a rule is written.

use config::resource::{Resource, Rule};

/// One sentence for each field of a resource that is not looked at.
pub fn warnings(resource: &Resource) -> Vec<String> {
    let (ingress, egress) = match resource {
        Resource::NetworkPolicy(policy) => (&policy.spec.ingress, &policy.spec.egress),
        Resource::GlobalNetworkPolicy(policy) => (&policy.spec.ingress, &policy.spec.egress),
        Resource::StagedNetworkPolicy(policy) => (&policy.spec.ingress, &policy.spec.egress),
        Resource::StagedGlobalNetworkPolicy(policy) => (&policy.spec.ingress, &policy.spec.egress),
        Resource::Profile(profile) => (&profile.spec.ingress, &profile.spec.egress),
        _ => return Vec::new(),
    };
    let of = |direction: &'static str, rules: &[Rule]| -> Vec<String> {
        let with_http = rules.iter().enumerate().filter(|(_, rule)| rule.http.is_some());
        with_http.map(|(position, rule)| sentence(resource, direction, position, rule)).collect()
    };
    [of("ingress", ingress), of("egress", egress)].concat()
}

fn sentence(resource: &Resource, direction: &str, position: usize, rule: &Rule) -> String {
    format!(
        "{}: spec.{direction}[{position}].http is not looked at: packets that the other fields match meet {} whatever \
         method and path they ask for",
        resource.key(),
        rule.action
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_with_http_is_told_by_its_field() {
        let text = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: api, namespace: shop}\n\
                    spec: {ingress: [{action: Deny}, {action: Allow, protocol: TCP, http: {methods: [GET]}}]}\n";
        let resources = config::yaml::parse("case", text).expect("legal");
        let found: Vec<String> = resources.iter().flat_map(warnings).collect();
        assert_eq!(
            found,
            [
                "NetworkPolicy shop/api: spec.ingress[1].http is not looked at: packets that the other fields match meet Allow \
              whatever method and path they ask for"
            ]
        );
    }
}
