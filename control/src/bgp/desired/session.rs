//! How a node speaks to one peer: what makes the session, and its terms.

use std::net::IpAddr;
use std::time::Duration;

use config::net::IpVersion;
use config::resource::{
    Annotated, BgpAnnotations, BgpPassword, BgpPeer, BgpPeerSpec, BgpRole, FailureDetectionMode, NextHopMode as Wanted,
    RestartMode, SourceAddress, WrongAnnotation,
};

use super::Secrets;
use super::cluster::Cluster;
use super::peerings::Peering;
use super::policy::Policy;
use crate::bgp::message::Role;
use crate::bgp::speaker_state::{
    BGP_PORT, BfdState, MaxPrefixes, NextHopMode, Password, PeerKey, PeerKind, PeerState, Restart, Terms, Transport,
};

/// BIRD's default, which Calico's nodes have.
const HOLD_TIME: Duration = Duration::from_secs(240);
/// How long the other side is asked to wait for us.
const RESTART_TIME: Duration = Duration::from_secs(120);
/// How long routes stay when graceful restart is long-lived, for whoever does not say it.
const LONG_LIVED_TIME: Duration = Duration::from_secs(3600);
/// The longest that fits the capability's twelve bits. RFC 4724 §3.
const RESTART_TIME_MAX: Duration = Duration::from_secs(4095);
/// The longest that fits three octets. RFC 9494 §3.
const LONG_LIVED_TIME_MAX: Duration = Duration::from_secs(16_777_215);
/// The longest key that the kernel takes for TCP-MD5.
const PASSWORD_MAX: usize = 80;
/// BIRD's: how often packets may come, how often they are sent, and how many may be lost.
const BFD_TIMERS: (Duration, Duration, u8) = (Duration::from_millis(10), Duration::from_millis(100), 5);

/// Makes sessions of peerings.
pub struct Sessions<'a> {
    cluster: &'a Cluster<'a>,
    secrets: Secrets<'a>,
    policy: Policy<'a>,
    /// Of the configuration for all nodes.
    of_mesh: BgpAnnotations,
    pub problems: Vec<String>,
}

impl<'a> Sessions<'a> {
    pub fn new(cluster: &'a Cluster<'a>, secrets: Secrets<'a>, policy: Policy<'a>) -> Sessions<'a> {
        let mut sessions =
            Sessions { cluster, secrets, policy, of_mesh: BgpAnnotations::default(), problems: Vec::new() };
        if let Some(global) = cluster.global {
            let read = BgpAnnotations::read(&global.metadata.annotations, Annotated::Configuration);
            sessions.of_mesh = sessions.checked(read, &format!("BGPConfiguration {}", global.metadata.name));
        }
        sessions
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
        let annotations = match peering.peer {
            None => self.of_mesh.clone(),
            Some(peer) => self.of_peer(peer),
        };
        let transport = self.transport(key, peering, own_address, &annotations);
        let terms = self.terms(peering, &transport, &annotations);
        Some(PeerState {
            name: name(key, peering.kind),
            origin: peering.origin(),
            kind: peering.kind,
            transport,
            terms,
        })
    }

    fn of_peer(&mut self, peer: &BgpPeer) -> BgpAnnotations {
        let read = BgpAnnotations::read(&peer.metadata.annotations, Annotated::Peer);
        let own = self.checked(read, &format!("BGPPeer {}", peer.metadata.name));
        BgpAnnotations { requires_policy: own.requires_policy.or(self.of_mesh.requires_policy), ..own }
    }

    /// What was stored before its rules were what they are may be wrong. It is told, and whoever meant to close something has it
    /// closed.
    fn checked(
        &mut self,
        (mut annotations, wrong): (BgpAnnotations, Vec<WrongAnnotation>),
        whose: &str,
    ) -> BgpAnnotations {
        for WrongAnnotation { key, found, expected } in wrong {
            if key.ends_with("ebgp-requires-policy") {
                annotations.requires_policy = Some(true);
            }
            self.problems.push(format!("{whose}: annotation {key}: found {found}, expected {expected}"));
        }
        annotations
    }

    fn transport(
        &mut self,
        key: PeerKey,
        peering: &Peering<'_>,
        own_address: IpAddr,
        annotations: &BgpAnnotations,
    ) -> Transport {
        let spec = peering.peer.map(|peer| &peer.spec);
        let local_as = spec.filter(|_| !peering.is_reverse).and_then(|spec| spec.local_as_number);
        let local_as = local_as.map(|number| number.0);
        let local_as = local_as.unwrap_or(self.cluster.own.as_number);
        let ttl_security = spec.map_or(annotations.ttl_security, |spec| spec.ttl_security);
        let ttl_security = ttl_security.filter(|hops| *hops > 0);
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
            local_as,
            remote_as: peering.remote_as,
            passive: is_passive(key.address, peering, own_address),
            password,
            ttl_security,
            hold_time: annotations.hold_time.unwrap_or(HOLD_TIME),
            keepalive_time: spec
                .and_then(|spec| spec.keepalive_time.as_ref())
                .map(|time| whole_seconds(time.length()))
                .filter(|time| !time.is_zero()),
            families: match annotations.families.as_slice() {
                [] => vec![IpVersion::of(key.address)],
                families => families.to_vec(),
            },
            add_path: true,
            restart: self.restart(spec, annotations),
            role: self.role(key, peering, local_as, annotations),
            bfd: self.bfd(key, peering, annotations),
        }
    }

    fn restart(&self, spec: Option<&BgpPeerSpec>, annotations: &BgpAnnotations) -> Restart {
        let asked = match spec {
            Some(spec) => spec.max_restart_time.as_ref(),
            None => self.cluster.global(|spec| spec.node_mesh_max_restart_time.as_ref()),
        };
        let asked = asked.map(|time| whole_seconds(time.length()));
        let is_long_lived = spec.is_some_and(|spec| spec.restart_mode == Some(RestartMode::LongLivedGracefulRestart));
        let (restart_time, long_lived_time) = match is_long_lived {
            true => (RESTART_TIME, asked.unwrap_or(LONG_LIVED_TIME)),
            false => (asked.unwrap_or(RESTART_TIME), Duration::ZERO),
        };
        Restart {
            restart_time: restart_time.min(RESTART_TIME_MAX),
            long_lived_time: annotations.long_lived_time.unwrap_or(long_lived_time).min(LONG_LIVED_TIME_MAX),
        }
    }

    /// Roles are for sessions between systems (RFC 9234 §4.1).
    fn role(
        &mut self,
        key: PeerKey,
        peering: &Peering<'_>,
        local_as: u32,
        annotations: &BgpAnnotations,
    ) -> Option<Role> {
        let role = annotations.role?;
        if local_as == peering.remote_as {
            let origin = peering.origin();
            self.problems.push(format!("{origin}: the session to {key} is inside of AS {local_as} and has no role"));
            return None;
        }
        Some(match role {
            BgpRole::Provider => Role::Provider,
            BgpRole::RouteServer => Role::RouteServer,
            BgpRole::RouteServerClient => Role::RouteServerClient,
            BgpRole::Customer => Role::Customer,
            BgpRole::Peer => Role::Peer,
        })
    }

    /// One hop where the peer is on a link of ours, several (RFC 5883) where that is asked for by naming timers.
    fn bfd(&self, key: PeerKey, peering: &Peering<'_>, annotations: &BgpAnnotations) -> Option<BfdState> {
        let mode = peering.peer.and_then(|peer| peer.spec.failure_detection_mode);
        let is_near = peering.kind == PeerKind::LocalWorkload || self.cluster.own.is_near(key.address);
        let (min_rx, min_tx, multiplier) = match (annotations.bfd, mode) {
            (_, Some(FailureDetectionMode::None)) => return None,
            (Some(timers), _) => (timers.interval, timers.interval, timers.multiplier),
            (None, Some(FailureDetectionMode::BfdIfDirectlyConnected)) if is_near => BFD_TIMERS,
            (None, _) => return None,
        };
        Some(BfdState { min_rx, min_tx, multiplier, multihop: !is_near })
    }

    fn password(&mut self, key: PeerKey, peering: &Peering<'_>, password: &BgpPassword) -> Option<Password> {
        let reference = password.secret_key_ref.as_ref()?;
        let secret = format!("secret {}, key {}", reference.name, reference.key);
        let missing = match (self.secrets)(&reference.name, &reference.key) {
            Some(text) if (1..=PASSWORD_MAX).contains(&text.len()) => return Some(Password::Known(text)),
            Some(text) => format!("{secret} has {} bytes, and 1-{PASSWORD_MAX} can be used", text.len()),
            None => format!("{secret} is not there"),
        };
        let origin = peering.origin();
        self.problems.push(format!("{origin}: the session to {key} waits for its password: {missing}"));
        Some(Password::Missing(missing))
    }

    fn terms(&mut self, peering: &Peering<'a>, transport: &Transport, annotations: &BgpAnnotations) -> Terms {
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
        let (import, export) = self.policy.rules(filters, annotations.requires_policy == Some(true));
        Terms {
            reflector_client,
            cluster_id: own_cluster.filter(|_| reflector_client),
            next_hop: peering.peer.map_or(NextHopMode::Auto, |peer| next_hop(&peer.spec, is_internal)),
            allow_own_as: peering.peer.and_then(|peer| peer.spec.num_allowed_local_as_numbers).unwrap_or(0),
            max_prefixes: annotations
                .max_prefixes
                .map(|count| MaxPrefixes { count, restart_after: annotations.max_prefixes_restart })
                .unwrap_or_default(),
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
