//! How a node speaks to one peer: what makes the session, and its terms.

use std::net::IpAddr;
use std::time::Duration;

use config::net::IpVersion;
use config::resource::{BgpPassword, BgpPeerSpec, NextHopMode as Wanted, SourceAddress};

use super::Secrets;
use super::cluster::Cluster;
use super::peerings::Peering;
use super::policy::Policy;
use crate::bgp::speaker_state::{
    BGP_PORT, NextHopMode, Password, PeerKey, PeerKind, PeerState, Restart, Terms, Transport,
};

/// BIRD's default, which Calico's nodes have.
const HOLD_TIME: Duration = Duration::from_secs(240);
/// How long the other side is asked to wait for us.
const RESTART_TIME: Duration = Duration::from_secs(120);
/// The longest that fits the capability's twelve bits. RFC 4724 §3.
const RESTART_TIME_MAX: Duration = Duration::from_secs(4095);

/// Makes sessions of peerings.
pub struct Sessions<'a> {
    cluster: &'a Cluster<'a>,
    secrets: Secrets<'a>,
    policy: Policy<'a>,
    pub problems: Vec<String>,
}

impl<'a> Sessions<'a> {
    pub fn new(cluster: &'a Cluster<'a>, secrets: Secrets<'a>, policy: Policy<'a>) -> Sessions<'a> {
        Sessions { cluster, secrets, policy, problems: Vec::new() }
    }

    /// None: there cannot be one, and a problem says why.
    pub fn session(&mut self, key: PeerKey, peering: &Peering<'a>) -> Option<PeerState> {
        let version = IpVersion::of(key.address);
        let own_address = match peering.kind {
            PeerKind::LocalWorkload => self.cluster.workload_peering_address(version),
            PeerKind::NodeMesh | PeerKind::Global | PeerKind::Node => self.cluster.own.address(version),
        };
        let Some(own_address) = own_address else {
            self.problems.push(format!(
                "{} has no session to {key}: node {} has no IPv{version} address in spec.bgp",
                peering.origin(),
                self.cluster.own.name
            ));
            return None;
        };
        let transport = self.transport(key, peering, own_address);
        let terms = self.terms(peering, &transport);
        Some(PeerState {
            name: name(key, peering.kind),
            origin: peering.origin(),
            kind: peering.kind,
            transport,
            terms,
        })
    }

    fn transport(&mut self, key: PeerKey, peering: &Peering<'_>, own_address: IpAddr) -> Transport {
        let spec = peering.peer.map(|peer| &peer.spec);
        let local_as = spec.filter(|_| !peering.is_reverse).and_then(|spec| spec.local_as_number);
        let local_as = local_as.map(|number| number.0);
        let restart_time = match spec {
            Some(spec) => spec.max_restart_time.as_ref(),
            None => self.cluster.global(|spec| spec.node_mesh_max_restart_time.as_ref()),
        };
        let restart_time = restart_time.map_or(RESTART_TIME, |time| whole_seconds(time.length()));
        let password = match spec {
            Some(spec) => spec.password.as_ref(),
            None => self.cluster.global(|spec| spec.node_mesh_password.as_ref()),
        };
        let password = password.and_then(|password| self.password(key, peering, password));
        Transport {
            local_address: match spec.and_then(|spec| spec.source_address) {
                Some(SourceAddress::None) if peering.kind != PeerKind::LocalWorkload => None,
                Some(_) | None => Some(own_address),
            },
            local_as: local_as.unwrap_or(self.cluster.own.as_number),
            remote_as: peering.remote_as,
            passive: is_passive(key.address, peering, own_address),
            password,
            ttl_security: spec.and_then(|spec| spec.ttl_security).filter(|hops| *hops > 0),
            hold_time: HOLD_TIME,
            keepalive_time: spec
                .and_then(|spec| spec.keepalive_time.as_ref())
                .map(|time| whole_seconds(time.length()))
                .filter(|time| !time.is_zero()),
            families: vec![IpVersion::of(key.address)],
            add_path: true,
            restart: Restart { restart_time: restart_time.min(RESTART_TIME_MAX), long_lived_time: Duration::ZERO },
            role: None,
            bfd: None,
        }
    }

    fn password(&mut self, key: PeerKey, peering: &Peering<'_>, password: &BgpPassword) -> Option<Password> {
        let reference = password.secret_key_ref.as_ref()?;
        Some(match (self.secrets)(&reference.name, &reference.key) {
            Some(text) => Password::Known(text),
            None => {
                let what = format!("secret {}, key {}", reference.name, reference.key);
                self.problems.push(format!(
                    "{}: the session to {key} waits for its password: {what} is not there",
                    peering.origin()
                ));
                Password::Missing(what)
            }
        })
    }

    fn terms(&mut self, peering: &Peering<'a>, transport: &Transport) -> Terms {
        let own_cluster = self.cluster.own.cluster_id;
        let remote_cluster = peering.remote.and_then(|remote| remote.cluster_id);
        let is_internal = transport.local_as == transport.remote_as;
        // Reflectors of one cluster know the same clients: they are no clients of each other. RFC 4456 §7.
        let reflector_client = is_internal && own_cluster.is_some() && own_cluster != remote_cluster;
        let filters = peering.peer.map_or(&[][..], |peer| &peer.spec.filters);
        for missing in filters.iter().filter(|name| self.policy.is_missing(name)) {
            self.problems.push(format!(
                "{}: BGPFilter {missing} is not there; nothing that comes to it is taken or told",
                peering.origin()
            ));
        }
        let (import, export) = self.policy.rules(filters, false);
        Terms {
            reflector_client,
            cluster_id: own_cluster.filter(|_| reflector_client),
            next_hop: peering.peer.map_or(NextHopMode::Auto, |peer| next_hop(&peer.spec, is_internal)),
            allow_own_as: peering.peer.and_then(|peer| peer.spec.num_allowed_local_as_numbers).unwrap_or(0),
            max_prefixes: None,
            import,
            export,
        }
    }
}

/// Calico's names of BIRD's protocols.
fn name(key: PeerKey, kind: PeerKind) -> String {
    let prefix = match kind {
        PeerKind::NodeMesh => "Mesh",
        PeerKind::Global => "Global",
        PeerKind::Node => "Node",
        PeerKind::LocalWorkload => "Local_Workload",
    };
    let address = key.address.to_string().replace(['.', ':'], "_");
    // Those of the mesh have no port in their names, whatever it is.
    let has_port = key.port != BGP_PORT && kind != PeerKind::NodeMesh;
    if has_port { format!("{prefix}_{address}_port_{}", key.port) } else { format!("{prefix}_{address}") }
}

/// Of two nodes that both have the session one waits, so that they do not connect twice. Calico compares the addresses as
/// text, and so does whoever is at the other side: 10.0.0.9 is greater than 10.0.0.10.
fn is_passive(remote: IpAddr, peering: &Peering<'_>, own: IpAddr) -> bool {
    match peering.kind {
        PeerKind::LocalWorkload => true,
        PeerKind::NodeMesh | PeerKind::Global | PeerKind::Node => {
            peering.is_mutual() && remote.to_string() > own.to_string()
        }
    }
}

fn next_hop(spec: &BgpPeerSpec, is_internal: bool) -> NextHopMode {
    match spec.next_hop_mode {
        Some(Wanted::Auto) => NextHopMode::Auto,
        Some(Wanted::Itself) => NextHopMode::Itself,
        Some(Wanted::Keep) => NextHopMode::Keep,
        // The older field counts towards other systems only.
        None if spec.keep_original_next_hop && !is_internal => NextHopMode::Keep,
        None => NextHopMode::Auto,
    }
}

/// As Calico rounds.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_millis() >= 500))
}
