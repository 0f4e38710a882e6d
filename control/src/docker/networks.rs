//! What is known of a network: a Profile, which says so in its annotations.
//!
//! dockerd tells a network's id and not its name. The Profile is called like the id that `docker network ls` shows; who is in
//! the network has a label of the same name, and the network's own labels.

use std::collections::BTreeMap;

use config::resource::{EntityRule, Kind, Profile, Resource};
use config::selector::Selector;

use super::error::DockerError;
use super::messages::CreateNetwork;
use super::options::{self, MTUS};
use crate::datastore::Author;
use crate::http::api::{ApiCall, ApiError, DeleteCall, DeleteTarget, ErrorCode, GetCall, WriteCall};
use crate::http::desk::Desk;
use crate::http::views::GetReply;
use crate::workload::endpoint::network_profile;

/// Digits of an id that Docker shows.
const SHORT: usize = 12;
const ID_MAX: usize = 128;

const NETWORK: &str = "vrouter/docker-network";
const NAMESPACE: &str = "vrouter/docker-namespace";
const MTU: &str = "vrouter/docker-mtu";

const DEFAULT_NAMESPACE: &str = "default";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub id: String,
    /// Name of its Profile.
    pub profile: String,
    /// Where its endpoints are.
    pub namespace: String,
    pub mtu: Option<u32>,
}

impl Network {
    /// What a request asks for, checked: the network, and its Profile.
    pub fn asked(request: &CreateNetwork) -> Result<(Network, Profile), DockerError> {
        let id = checked_id("NetworkID", &request.network_id)?;
        let options = options::of_network(&request.options)?;
        let network = Network {
            profile: profile_name(id),
            id: id.to_string(),
            namespace: options.namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_string()),
            mtu: options.mtu,
        };
        let mut profile = network_profile(&network.profile);
        profile.metadata.annotations = network.annotations();
        profile.spec.labels_to_apply.extend(options.labels);
        if options.is_internal {
            let members = Selector::parse(&format!("has({})", network.profile)).ok();
            for rule in &mut profile.spec.egress {
                rule.destination = EntityRule { selector: members.clone(), ..EntityRule::default() };
            }
        }
        let problems = Resource::Profile(profile.clone()).validate();
        if let Some(problem) = problems.first() {
            return Err(DockerError::Control(ApiError::new(ErrorCode::Invalid, format!("options: {problem}"))));
        }
        if !is_namespace(&network.namespace) {
            let expected = "a namespace's name: at most 63 lowercase letters, digits and dashes inside";
            return Err(DockerError::invalid("vrouter.namespace", &network.namespace, expected));
        }
        Ok((network, profile))
    }

    /// What the annotations of a Profile say.
    pub fn of(profile: &Profile) -> Option<Network> {
        let annotations = &profile.metadata.annotations;
        let id = annotations.get(NETWORK)?.clone();
        let namespace = annotations.get(NAMESPACE).filter(|name| is_namespace(name));
        Some(Network {
            id,
            profile: profile.metadata.name.clone(),
            namespace: namespace.cloned().unwrap_or_else(|| DEFAULT_NAMESPACE.to_string()),
            mtu: annotations.get(MTU).and_then(|text| text.parse().ok()).filter(|mtu| MTUS.contains(mtu)),
        })
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let mut annotations =
            BTreeMap::from([(NETWORK.to_string(), self.id.clone()), (NAMESPACE.to_string(), self.namespace.clone())]);
        annotations.extend(self.mtu.map(|mtu| (MTU.to_string(), mtu.to_string())));
        annotations
    }
}

/// Docker's ids are 64 hexadecimal digits; others that can be told apart as well are fine.
pub fn checked_id<'a>(what: &str, id: &'a str) -> Result<&'a str, DockerError> {
    let is_id = (1..=ID_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match is_id {
        true => Ok(id),
        false => Err(DockerError::invalid(what, id, "1 to 128 letters and digits")),
    }
}

fn is_namespace(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(is_inner) && !name.starts_with('-') && !name.ends_with('-')
}

fn profile_name(id: &str) -> String {
    let short: String = id.chars().take(SHORT).map(|digit| digit.to_ascii_lowercase()).collect();
    format!("docker-{short}")
}

/// The network of this id, if it was created here.
pub async fn find(desk: &Desk, id: &str) -> Result<Option<Network>, DockerError> {
    let profile = stored(desk, &profile_name(checked_id("NetworkID", id)?)).await?;
    Ok(profile.as_ref().and_then(Network::of).filter(|network| network.id == id))
}

/// The same, where there has to be one.
pub async fn known(desk: &Desk, id: &str) -> Result<Network, DockerError> {
    let found = find(desk, id).await?;
    found.ok_or_else(|| DockerError::NoNetwork { network: id.to_string(), profile: profile_name(id) })
}

/// One that is there already stays as it is, and as somebody may have changed it since.
pub async fn create(desk: &Desk, network: &Network, profile: Profile) -> Result<(), DockerError> {
    if let Some(found) = stored(desk, &network.profile).await? {
        return match Network::of(&found) {
            Some(found) if found.id == network.id => Ok(()),
            _ => Err(DockerError::OtherProfile { network: network.id.clone(), profile: network.profile.clone() }),
        };
    }
    let resources = vec![Resource::Profile(profile).to_json()];
    let call = WriteCall { resources, dry_run: false, confirm_seconds: None };
    desk.ask_as(author(), ApiCall::Create(call)).await?;
    Ok(())
}

/// None of this id: it is gone already.
pub async fn delete(desk: &Desk, id: &str) -> Result<(), DockerError> {
    let Some(network) = find(desk, id).await? else { return Ok(()) };
    let kind = Kind::Profile.written().to_string();
    let target = DeleteTarget { kind, namespace: None, name: network.profile, expected: None };
    let call = DeleteCall { targets: vec![target], skip_missing: true, dry_run: false, confirm_seconds: None };
    desk.ask_as(author(), ApiCall::Delete(call)).await?;
    Ok(())
}

async fn stored(desk: &Desk, name: &str) -> Result<Option<Profile>, DockerError> {
    match get(desk, Kind::Profile, None, name).await? {
        Some(Resource::Profile(profile)) => Ok(Some(profile)),
        _ => Ok(None),
    }
}

pub async fn get(
    desk: &Desk,
    kind: Kind,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<Resource>, DockerError> {
    let call = GetCall {
        kind: kind.written().to_string(),
        namespace: namespace.map(str::to_string),
        name: Some(name.to_string()),
    };
    let reply: GetReply = match desk.ask_patiently(ApiCall::Get(call), "an object").await {
        Ok(reply) => reply,
        Err(error) if error.code == ErrorCode::ObjectNotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(reply.items.first().and_then(|item| Resource::from_json(item).ok()))
}

/// Whom the history names.
fn author() -> Author {
    Author { name: "docker".to_string(), uid: None }
}
