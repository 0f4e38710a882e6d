//! Which of the flows that are open now would be decided otherwise under other policy.
//!
//! ```text
//! resources ──────────────▶ Judge ─▶ verdict ─┐
//!     └─ with what is asked ▶ Judge ─▶ verdict ─┴─ differs? for every open flow, as for its first packet
//! ```
//!
//! Works on copies, on a thread of its own: the control loop goes on. Nothing is written and no counter moves.

use config::resource::{
    GlobalNetworkPolicy, KubernetesNetworkPolicy, NetworkPolicy, Resource, StagedAction, StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy, StagedNetworkPolicy,
};
use fastpath::flow::KeyKind;
use fastpath::header::protocol;
use fastpath::table::interface::InterfaceKind;

use super::{protocol_name, why};
use crate::compile::Attachment;
use crate::control::{Control, HOST_INTERFACE};
use crate::http::answer::read_resources;
use crate::http::api::ApiError;
use crate::http::views::{PreviewChangeView, PreviewRequest, PreviewVerdictView, PreviewView};
use crate::judge::{self, Crossing, Judge, OTHER_UPLINK, Place, Uplinks};
use crate::policy::oracle::{Fields, Verdict};
use crate::resources::Resources;

/// Flows in an answer that did not say how many.
const USUAL: usize = 100;
const MOST: usize = 10_000;

/// Everything that an answer is worked out from.
pub struct Preview {
    node: String,
    now: Resources,
    /// What would be written.
    given: Vec<Resource>,
    /// Whether staged policies would be promoted besides.
    is_staged: bool,
    flows: Vec<OpenFlow>,
    /// Of this node, with the host's addresses on each.
    uplinks: Uplinks,
    most: usize,
}

struct OpenFlow {
    fields: Fields,
    from: Option<String>,
    to: Option<String>,
    packets: u64,
    bytes: u64,
}

impl Preview {
    /// Takes copies of what the answer needs.
    pub fn new<D>(control: &Control<D>, request: &PreviewRequest) -> Result<Self, ApiError> {
        let given = read_resources(&request.resources)?;
        let name = |index| control.attachments.name_of(index).map(str::to_owned);
        let whole = control.flows.iter().filter(|flow| flow.key.kind != KeyKind::Fragment);
        let flows = whole.map(|flow| OpenFlow {
            fields: why::fields(&flow.key),
            from: name(flow.ingress),
            to: name(flow.egress),
            packets: flow.packets.iter().sum(),
            bytes: flow.bytes.iter().sum(),
        });
        Ok(Self {
            node: control.settings.node_name.clone(),
            now: control.resources.clone(),
            given,
            is_staged: request.staged,
            flows: flows.collect(),
            uplinks: uplinks(control),
            most: request.limit.unwrap_or(USUAL).min(MOST),
        })
    }

    pub fn answer(self) -> PreviewView {
        let mut then = self.now.clone();
        self.given.into_iter().for_each(|resource| then.put(resource));
        let promoted = if self.is_staged { promote(&mut then) } else { 0 };
        let mut view = PreviewView { promoted, ..PreviewView::default() };
        let judge = |resources| Judge::new(resources, false).with_uplinks(&self.node, self.uplinks.clone());
        let (mut now, mut then) = (judge(self.now), judge(then));
        for flow in &self.flows {
            let Some(before) = verdict(&mut now, &self.node, flow) else { continue };
            view.judged += 1;
            let after = verdict(&mut then, &self.node, flow);
            // Who has no endpoint any more is not let in or out.
            let after = after.unwrap_or(Verdict { allow: false, rule: "no endpoint".into(), log: None });
            if before.allow == after.allow {
                continue;
            }
            let count = if after.allow { &mut view.now_allowed } else { &mut view.now_denied };
            *count += 1;
            if view.changes.len() < self.most {
                view.changes.push(change(flow, before, after));
            } else {
                view.not_listed += 1;
            }
        }
        view
    }
}

/// The uplinks as they are attached, and one for all others.
fn uplinks<D>(control: &Control<D>) -> Uplinks {
    let attached = control.attachments.view().iter().filter(|(_, attachment)| attachment.kind == InterfaceKind::Uplink);
    let own = |attachment: &Attachment| {
        let on_link = control.kernel.addresses.iter().filter(|own| own.link == attachment.link);
        on_link.map(|own| own.address).collect()
    };
    let known = attached.map(|(name, attachment)| (name.clone(), own(attachment)));
    known.chain([(OTHER_UPLINK.to_owned(), Vec::new())]).collect()
}

/// Makes policies of staged ones. Returns of how many.
fn promote(resources: &mut Resources) -> u64 {
    let mut promotions: Vec<(StagedAction, Resource)> = Vec::new();
    for StagedNetworkPolicy { metadata, spec } in resources.staged_network_policies() {
        let policy = NetworkPolicy { metadata: metadata.clone(), spec: spec.policy() };
        promotions.push((spec.staged_action, Resource::NetworkPolicy(policy)));
    }
    for StagedGlobalNetworkPolicy { metadata, spec } in resources.staged_global_network_policies() {
        let policy = GlobalNetworkPolicy { metadata: metadata.clone(), spec: spec.policy() };
        promotions.push((spec.staged_action, Resource::GlobalNetworkPolicy(policy)));
    }
    for StagedKubernetesNetworkPolicy { metadata, spec } in resources.staged_kubernetes_network_policies() {
        let policy = KubernetesNetworkPolicy { metadata: metadata.clone(), spec: spec.policy() };
        promotions.push((spec.staged_action, Resource::KubernetesNetworkPolicy(policy)));
    }
    promotions.retain(|(action, _)| matches!(action, StagedAction::Set | StagedAction::Delete));
    let count = promotions.len() as u64;
    for (action, policy) in promotions {
        match action {
            StagedAction::Delete => resources.remove(&policy.key()),
            _ => resources.put(policy),
        }
    }
    count
}

/// What is said of the first packet on its way, by the lists of all that it meets. None when nobody has a say.
fn verdict(judge: &mut Judge, node: &str, flow: &OpenFlow) -> Option<Verdict> {
    let place = |judge: &Judge, name: &Option<String>| match name {
        Some(name) => judge.place(node, name, HOST_INTERFACE),
        None => Some(Place::Uplink(OTHER_UPLINK.to_owned())),
    };
    let crossing = Crossing { node: node.to_owned(), from: place(judge, &flow.from)?, to: place(judge, &flow.to)? };
    // Nothing translates between a flow's first packet and its policy.
    let said = judge.cross(&crossing, &flow.fields, &flow.fields).ok()?;
    (!said.is_empty()).then(|| judge::conclusion(&said))
}

fn change(flow: &OpenFlow, before: Verdict, after: Verdict) -> PreviewChangeView {
    let fields = &flow.fields;
    let has_ports = protocol::has_ports(fields.protocol);
    let view = |verdict: Verdict| PreviewVerdictView {
        verdict: if verdict.allow { "allow" } else { "deny" }.into(),
        rule: verdict.rule,
    };
    PreviewChangeView {
        protocol: protocol_name(fields.protocol),
        source: fields.source,
        destination: fields.destination,
        source_port: has_ports.then_some(fields.source_port),
        destination_port: has_ports.then_some(fields.destination_port),
        packets: flow.packets,
        bytes: flow.bytes,
        before: view(before),
        after: view(after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOURCES: &str = "\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n-k8s-db-eth0, namespace: shop, labels: {app: db}}
spec: {node: n, orchestrator: k8s, pod: db, endpoint: eth0, interfaceName: cali2, ipNetworks: [10.0.0.2/32]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {selector: app == 'db', ingress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: db, namespace: shop}
spec: {selector: app == 'db', ingress: [{action: Allow, protocol: TCP, destination: {ports: [443]}}]}
---
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: gone}
spec: {stagedAction: Delete}
";

    fn flow(port: u16, to: &str) -> OpenFlow {
        let address = |text: &str| text.parse().expect("an address");
        let fields = Fields {
            source: address("192.0.2.1"),
            destination: address("10.0.0.2"),
            protocol: 6,
            source_port: 4000,
            destination_port: port,
            icmp: None,
        };
        OpenFlow { fields, from: Some("up0".into()), to: Some(to.into()), packets: 3, bytes: 300 }
    }

    #[test]
    fn flows_that_a_staged_policy_would_deny_are_listed() {
        let now: Resources = config::yaml::parse("case", RESOURCES).expect("legal").into_iter().collect();
        let flows = vec![flow(80, "cali2"), flow(443, "cali2"), flow(81, "cali2"), flow(80, "nobody")];
        let uplinks = Uplinks::from([("up0".to_owned(), Vec::new())]);
        let preview = Preview { node: "n".into(), now, given: Vec::new(), is_staged: true, flows, uplinks, most: 1 };
        let view = preview.answer();
        assert_eq!((view.promoted, view.judged, view.now_denied, view.now_allowed, view.not_listed), (2, 3, 2, 0, 1));
        let change = &view.changes[0];
        assert_eq!((change.destination_port, change.before.verdict.as_str()), (Some(80), "allow"));
        assert_eq!(change.before.rule, "NetworkPolicy shop/db ingress[0]");
        assert_eq!(change.after.rule, "Tier default: end of tier, ingress default deny");
    }

    #[test]
    fn staged_policies_of_kubernetes_form_are_promoted_too() {
        let text = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
                    metadata: {name: n-k8s-db-eth0, namespace: shop, labels: {app: db}}\n\
                    spec: {node: n, orchestrator: k8s, pod: db, endpoint: eth0, interfaceName: cali2, ipNetworks: [10.0.0.2/32], \
                    profiles: [projectcalico-default-allow]}\n---\n\
                    apiVersion: projectcalico.org/v3\nkind: StagedKubernetesNetworkPolicy\nmetadata: {name: db, namespace: shop}\n\
                    spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{protocol: TCP, port: 443}]}]}\n";
        let now: Resources = config::yaml::parse("case", text).expect("legal").into_iter().collect();
        let flows = vec![flow(80, "cali2"), flow(443, "cali2")];
        let uplinks = Uplinks::from([("up0".to_owned(), Vec::new())]);
        let preview = Preview { node: "n".into(), now, given: Vec::new(), is_staged: true, flows, uplinks, most: 9 };
        let view = preview.answer();
        assert_eq!((view.promoted, view.judged, view.now_denied, view.now_allowed), (1, 2, 1, 0));
        assert_eq!(view.changes[0].destination_port, Some(80));
        assert_eq!(view.changes[0].after.rule, "Tier default: end of tier, ingress default deny");
    }

    #[test]
    fn flows_that_a_host_endpoint_would_deny_are_listed() {
        let host = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: h, labels: {is: host}}\n\
                    spec: {node: n, expectedIPs: [192.0.2.10]}\n";
        let forward = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: forward}\n\
                       spec: {selector: is == 'host', applyOnForward: true, types: [Ingress], ingress: [\
                       {action: Deny, protocol: TCP, destination: {ports: [80]}}, {action: Allow}]}\n";
        let text = format!("{RESOURCES}---\n{host}");
        let now: Resources = config::yaml::parse("case", &text).expect("legal").into_iter().collect();
        let given = config::yaml::parse("case", forward).expect("legal");
        let to_host = OpenFlow {
            fields: Fields { destination: "192.0.2.10".parse().expect("an address"), ..flow(22, "cali2").fields },
            ..flow(22, HOST_INTERFACE)
        };
        let flows = vec![flow(80, "cali2"), flow(443, "cali2"), to_host];
        let uplinks = Uplinks::from([("up0".to_owned(), vec!["192.0.2.10".parse().expect("an address")])]);
        let preview = Preview { node: "n".into(), now, given, is_staged: false, flows, uplinks, most: 9 };
        let view = preview.answer();
        assert_eq!((view.judged, view.now_denied, view.now_allowed), (3, 1, 0));
        assert_eq!(view.changes[0].after.rule, "GlobalNetworkPolicy forward ingress[0]");
    }
}
