//! The host endpoints of this node: where they are in force, and which policies stand in which list.

use config::resource::{HostEndpoint, Key, Kind};
use fastpath::stage::lists::List;

use crate::control::Control;
use crate::guard::Claims;
use crate::http::views::{HostEndpointView, HostInterfaceView, HostListView};
use crate::node_state::{BlockName, HostEndpointState, Program};
use crate::policy::decided::{self, list_name};

/// In the order in which they are asked, inward and then outward.
const LISTS: [List; 7] = [
    List::UntrackedIngress,
    List::PreDnat,
    List::ForwardIngress,
    List::HostIngress,
    List::UntrackedEgress,
    List::HostEgress,
    List::ForwardEgress,
];

pub fn host_endpoints<D>(control: &Control<D>) -> Vec<HostEndpointView> {
    let node = control.settings.node_name.as_str();
    let own = control.resources.host_endpoints().filter(|endpoint| endpoint.spec.node == node);
    let claims = control.claims();
    own.map(|endpoint| view(control, &claims, endpoint)).collect()
}

fn view<D>(control: &Control<D>, claims: &Claims, endpoint: &HostEndpoint) -> HostEndpointView {
    let (name, spec) = (&endpoint.metadata.name, &endpoint.spec);
    let key = Key::cluster(Kind::HostEndpoint, name);
    let state = control.state();
    let position = state.host_endpoints.iter().position(|endpoint| endpoint.key == key);
    let has = claims.iter().filter(|(_, claimed)| Some(**claimed) == position);
    let interfaces = has.map(|(name, _)| HostInterfaceView {
        name: name.clone(),
        is_attached: control.attachments.view().contains_key(name),
        is_guarded: control.attachments.is_guarded(name),
    });
    let about = format!("HostEndpoint {name} ");
    let mut problems: Vec<String> =
        state.problems.iter().filter(|problem| format!("{problem} ").contains(&about)).cloned().collect();
    let interfaces: Vec<HostInterfaceView> = interfaces.collect();
    if interfaces.is_empty() && problems.is_empty() {
        problems.push("no interface of this node is meant".to_owned());
    }
    let text = |ports: &[config::failsafe::FailsafePort]| ports.iter().map(ToString::to_string).collect();
    HostEndpointView {
        name: name.clone(),
        interface: Some(spec.interface_name.clone()).filter(|name| !name.is_empty()),
        expected_ips: spec.expected_ips.clone(),
        interfaces,
        lists: position.map(|position| lists(&state.host_endpoints[position])).unwrap_or_default(),
        failsafe_inbound: text(&state.felix.failsafe_inbound),
        failsafe_outbound: text(&state.felix.failsafe_outbound),
        problems,
    }
}

/// Those that there are.
fn lists(endpoint: &HostEndpointState) -> Vec<HostListView> {
    let present = LISTS.into_iter().filter_map(|list| Some((list, endpoint.program(list)?)));
    present.map(|(list, program)| list_view(list, program)).collect()
}

fn list_view(list: List, program: &Program) -> HostListView {
    let direction = decided::direction(list);
    let owner = |block: &BlockName| {
        let text = block.to_string();
        text.strip_suffix(direction.word()).map(|owner| owner.trim_end().to_owned()).unwrap_or(text)
    };
    HostListView {
        list: list_name(list).into(),
        direction: direction.word().into(),
        policies: program.tiers.iter().flat_map(|tier| &tier.blocks).map(owner).collect(),
        profiles: program.profiles.iter().map(owner).collect(),
    }
}
