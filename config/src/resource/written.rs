//! Reads what `Resource::to_json` wrote, without a tree in between.
//!
//! Decoding by way of a document finds every fault and says where it is. A store has a hundred thousand objects that it wrote
//! itself and that have none: of those kinds that come in such numbers, fields go from the text straight into the struct.
//!
//!     text ──▶ kind ──▶ fields ──▶ Resource with defaults
//!                └─────────┴─────▶ none, for whatever is not exactly as expected: the long way knows what to say of it
//!
//! Invariant: what is read here means the same as what `Resource::from_json` reads. A field that nobody knows could be a
//! restriction, so it is never passed over.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_ignored::Path;

use super::{Kind, Resource};

/// What every text begins with, in some order.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    kind: &'a str,
}

impl Resource {
    /// The resource of a text that `to_json` wrote, with its defaults. None says nothing about the text but that
    /// `from_json` has to be asked.
    pub fn from_written(text: &[u8]) -> Option<Resource> {
        let head: Head<'_> = serde_json::from_slice(text).ok()?;
        let mut resource = match Kind::of(head.api_version, head.kind)? {
            Kind::WorkloadEndpoint => Resource::WorkloadEndpoint(fields(text)?),
            Kind::NetworkPolicy => Resource::NetworkPolicy(fields(text)?),
            Kind::GlobalNetworkPolicy => Resource::GlobalNetworkPolicy(fields(text)?),
            Kind::NetworkSet => Resource::NetworkSet(fields(text)?),
            Kind::GlobalNetworkSet => Resource::GlobalNetworkSet(fields(text)?),
            _ => return None,
        };
        resource.apply_defaults();
        Some(resource)
    }
}

fn fields<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    let mut are_known = true;
    let mut pass_over = |path: Path<'_>| are_known &= is_of_head(&path);
    // One type for every kind, so that there is one decoder less to build for each.
    let pass_over: &mut dyn FnMut(Path<'_>) = &mut pass_over;
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_ignored::deserialize(&mut json, pass_over).ok()?;
    json.end().ok()?;
    are_known.then_some(value)
}

fn is_of_head(path: &Path<'_>) -> bool {
    matches!(path, Path::Map { parent: Path::Root, key } if ["apiVersion", "kind"].contains(&key.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read this way, and the long way.
    fn both(text: &str) -> (Option<Resource>, Option<Resource>) {
        let json = serde_json::from_str(text).expect("JSON");
        (Resource::from_written(text.as_bytes()), Resource::from_json(&json).ok())
    }

    fn document(kind: &str, metadata: &str, spec: &str) -> String {
        format!(r#"{{"apiVersion":"projectcalico.org/v3","kind":"{kind}","metadata":{metadata},"spec":{spec}}}"#)
    }

    fn check_same(kind: &str, metadata: &str, spec: &str) {
        let (found, expected) = both(&document(kind, metadata, spec));
        assert!(found.is_some(), "{kind} {spec}");
        assert_eq!(found, expected, "{kind} {spec}");
        let written = expected.map(|resource| resource.to_json().to_string()).unwrap_or_default();
        let (found, expected) = both(&written);
        assert!(found.is_some(), "{written}");
        assert_eq!(found, expected, "{written}");
    }

    #[test]
    fn what_was_written_is_read_the_same() {
        let metadata = r#"{"name":"a","namespace":"n","labels":{"x":"1","y":"\"2\""},"uid":"u","generation":3}"#;
        check_same(
            "WorkloadEndpoint",
            metadata,
            r#"{"node":"n","interfaceName":"cali1","mac":"02:00:00:00:00:01","ipNetworks":["10.0.0.1/32","fd00::1/128"],
                "ipv4Gateway":"","profiles":["p"],"ports":[{"name":"http","protocol":"TCP","port":80},
                {"protocol":17,"port":53,"hostPort":53}],"qosControls":{"ingressBandwidth":1000000}}"#,
        );
        let rules = r#"{"order":10,"tier":"t","selector":"app == 'a' && has(b)","ingress":[{"action":"Allow",
            "protocol":"TCP","source":{"selector":"x in {'1'}","notNets":["10.0.0.0/8"]},
            "destination":{"ports":[80,"443:444","http"]}},{"action":"Deny","icmp":{"type":8}}]}"#;
        check_same("NetworkPolicy", r#"{"name":"a","namespace":"n"}"#, rules);
        check_same("NetworkPolicy", r#"{"name":"a"}"#, "{}");
        check_same("GlobalNetworkPolicy", r#"{"name":"a"}"#, rules);
        check_same("NetworkSet", r#"{"name":"a"}"#, r#"{"nets":["10.0.0.0/8"]}"#);
        check_same("GlobalNetworkSet", r#"{"name":"a"}"#, r#"{"nets":[]}"#);
    }

    #[test]
    fn what_is_unusual_takes_the_long_way() {
        let check = |text: &str| assert_eq!(Resource::from_written(text.as_bytes()), None, "{text}");
        let named = r#"{"name":"a"}"#;
        check("");
        check("[]");
        check(&document("Tier", named, "{}"));
        check(&document("Banana", named, "{}"));
        check(&document("NetworkSet", named, r#"{"nets":["10.0.0.0/8"],"netz":[]}"#));
        check(&document("NetworkSet", r#"{"name":"a","colour":"red"}"#, "{}"));
        check(&document("NetworkPolicy", named, r#"{"ingress":[{"action":"Allow","source":{"onlyFrom":"x"}}]}"#));
        check(&document("NetworkPolicy", named, r#"{"ingress":[{"action":"Permit"}]}"#));
        check(&document("NetworkPolicy", named, r#"{"ingress":null}"#));
        check(&document("NetworkPolicy", r#"{"name":"a","kind":"b"}"#, "{}"));
        check(&document("NetworkSet", named, "{}").replace("projectcalico.org/v3", "networking.k8s.io/v1"));
        check(&format!("{} 1", document("NetworkSet", named, "{}")));
        check(&document("NetworkSet", named, "{}").replace(r#""spec":{}"#, r#""spec":{},"apiversion":"v1""#));
        check(&document("NetworkSet", named, "{}").replace(r#""spec":{}"#, r#""spec":{},"spec":{}"#));
    }
}
