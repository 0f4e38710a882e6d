//! What a rule means by a Service: its backends, as EndpointSlices list them, with their ports where packets go there, and
//! their addresses alone where packets come from there.
//!
//! ```text
//!     namespace front             namespace back
//!     client ─▶ service "shop" ─▶ web :8080  cart :9090        far: a service without a selector
//! ```

use tests::daemon::Daemon;
use tests::reach::{Cast, Reach};

const WORKLOADS: &[&str] = &["front/client", "back/web", "back/cart"];

/// A slice of a service of namespace `back`: of one family, with the same ports for all addresses.
fn slice(name: &str, service: &str, addresses: &[&str], ports: &str) -> String {
    let family = if addresses.iter().any(|address| address.contains(':')) { "IPv6" } else { "IPv4" };
    let endpoints: Vec<String> = addresses
        .iter()
        .map(|address| format!("{{ addresses: ['{address}'], conditions: {{ ready: true }} }}"))
        .collect();
    format!(
        "{{ apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{ name: {name}, namespace: back, labels: \
         {{ kubernetes.io/service-name: {service} }} }}, addressType: {family}, endpoints: [{}], ports: [{ports}] }}\n---\n",
        endpoints.join(", ")
    )
}

const HTTP: &str = "{ name: http, protocol: TCP, port: 8080 }";

/// The one policy of the client: out to a service, and nowhere else.
fn out_to(services: &str) -> String {
    format!(
        "{{ apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {{ name: client, namespace: front }}, spec: {{ selector: \
         app == 'client', types: [Egress], egress: [{{ action: Allow, destination: {{ services: {{ {services} }} }} }}] }} }}"
    )
}

#[test]
fn services() {
    let cast = Cast::of(WORKLOADS);
    let Some(topology) = cast.up("services") else { return };
    let daemon = Daemon::start(&topology, &["--policy-change", "reevaluate"]);
    let reach = Reach::new(&topology, &cast, &[80, 8080, 9090], &[]);
    let everybody = "
        client -> web tcp 80 open
        client -> cart udp6 9090 open
        client -> far tcp6 8080 open
        web -> client tcp 8080 open
        far -> client tcp 8080 open";
    reach.check(&daemon, "without a policy", everybody);

    // A service leads to the ports of its backends, not to its own; to nowhere, as long as it has no backends.
    daemon.apply(
        "{ apiVersion: v1, kind: Service, metadata: { name: shop, namespace: back }, spec: { selector: { app: web }, clusterIP: 10.96.0.1, \
         ports: [{ name: http, port: 80, targetPort: http }] } }",
    );
    daemon.apply(&out_to("name: shop, namespace: back"));
    reach.check(
        &daemon,
        "a service without backends",
        "client -> web tcp 8080 shut
         client -> web tcp 80 shut",
    );
    daemon.apply(&slice("shop-4", "shop", &["10.65.0.3"], HTTP));
    reach.check(
        &daemon,
        "a backend",
        "client -> web tcp 8080 open
         client -> web tcp6 8080 shut
         client -> web udp 8080 shut
         client -> web tcp 80 shut
         client -> cart tcp 8080 shut
         web -> client tcp 8080 open",
    );

    // Backends come and go.
    daemon.apply(&slice("shop-4", "shop", &["10.65.0.3", "10.65.0.4"], HTTP));
    daemon.apply(&slice("shop-6", "shop", &["fd65::4"], HTTP));
    reach.check(
        &daemon,
        "more backends",
        "client -> web tcp 8080 open
         client -> cart tcp 8080 open
         client -> cart tcp6 8080 open
         client -> web tcp6 8080 shut
         client -> cart tcp 9090 shut",
    );
    daemon.apply(&slice("shop-4", "shop", &["10.65.0.4"], HTTP));
    reach.check(
        &daemon,
        "a backend less",
        "client -> web tcp 8080 shut
         client -> cart tcp 8080 open",
    );
    daemon.cli(&["delete", "eps", "shop-6", "-n", "back"]);
    reach.check(
        &daemon,
        "a slice less",
        "client -> cart tcp6 8080 shut
         client -> cart tcp 8080 open",
    );

    // A port that has a name: each backend has its own number for it, in a slice of its own.
    daemon.apply(&slice("shop-4", "shop", &["10.65.0.3"], HTTP));
    daemon.apply(&slice("shop-named", "shop", &["10.65.0.4"], "{ name: http, protocol: TCP, port: 9090 }"));
    reach.check(
        &daemon,
        "a port with a name",
        "client -> web tcp 8080 open
         client -> cart tcp 9090 open
         client -> web tcp 9090 shut
         client -> cart tcp 8080 shut",
    );
    daemon.apply(&slice(
        "shop-4",
        "shop",
        &["10.65.0.3"],
        "{ name: http, protocol: TCP, port: 80 }, { name: dns, protocol: UDP, port: 80 }",
    ));
    reach.check(
        &daemon,
        "the name means another number, and a second port",
        "client -> web tcp 80 open
         client -> web udp 80 open
         client -> web tcp 8080 shut
         client -> cart tcp 9090 open
         client -> cart udp 9090 shut",
    );

    // Without a selector somebody else says where it leads: here, behind the uplink. The Service itself may be missing.
    daemon.apply(&out_to("name: partner, namespace: back"));
    reach.check(&daemon, "a service that nobody knows", "client -> far tcp6 9090 shut");
    daemon.apply(&slice("partner-6", "partner", &["2001:db8::2"], "{ port: 9090 }"));
    let partner = "
        client -> far tcp6 9090 open
        client -> far tcp 9090 shut
        client -> far tcp6 8080 shut
        client -> web tcp 80 shut";
    reach.check(&daemon, "a service without a selector", partner);
    daemon.apply(
        "{ apiVersion: v1, kind: Service, metadata: { name: partner, namespace: back }, spec: { clusterIP: None, ports: [{ port: 9090 }] } }",
    );
    reach.check(&daemon, "the same, and headless", partner);
    // A service of that name in the policy's own namespace is another one.
    daemon.apply(&out_to("name: partner"));
    reach.check(&daemon, "the service of another namespace", "client -> far tcp6 9090 shut");
    daemon.cli(&["delete", "np", "client", "-n", "front"]);

    // As a source a service is the addresses of its backends, whatever their ports; a global policy names the namespace.
    daemon.apply(
        "{ apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: { name: client }, spec: { selector: app == 'client', \
         types: [Ingress], ingress: [{ action: Allow, source: { services: { name: shop, namespace: back } } }] } }",
    );
    reach.check(
        &daemon,
        "from a service",
        "web -> client tcp 8080 open
         web -> client udp 9090 open
         cart -> client tcp 80 open
         web -> client tcp6 8080 shut
         far -> client tcp 8080 shut",
    );
    daemon.cli(&["delete", "eps", "shop-named", "-n", "back"]);
    reach.check(
        &daemon,
        "from a service with a slice less",
        "web -> client tcp 8080 open
         cart -> client tcp 80 shut",
    );
    daemon.cli(&["delete", "gnp", "client"]);
    reach.check(&daemon, "without policies", everybody);
}
