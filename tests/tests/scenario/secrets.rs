//! The password of a session is changed on both sides, and nobody has to be told.
//!
//! ```text
//!     router ──up0── far (BIRD)
//! ```

use std::fs;

use tests::bgp::ours::{self, Session};
use tests::bgp::{Kind, Neighbour, Peer, Speaker};
use tests::daemon::Daemon;
use tests::topology::Topology;
use tests::wait;

use crate::{FAR, NODE, TWO_AND_FAR};

const OTHER: u32 = 65001;

fn bird(password: &str) -> Speaker {
    let peer = Peer { password: Some(password.to_owned()), ..Peer::new(NODE[0], ours::AS_NUMBER) };
    Speaker { peers: vec![peer], ..Speaker::new(OTHER, FAR[0]) }
}

#[test]
fn a_password_that_changes_is_taken_over() {
    let Some(topology) = Topology::up("bgp-secret", TWO_AND_FAR) else { return };
    let secrets = topology.folder().join("secrets");
    let secret = secrets.join("bgp/far");
    fs::create_dir_all(secrets.join("bgp")).unwrap();
    fs::write(&secret, "first\n").unwrap();
    let daemon = Daemon::start(&topology, &["--secrets", secrets.to_str().unwrap()]);
    let other = Neighbour::start(Kind::Bird, &topology.at("far"), &topology.folder(), &bird("first"));
    let mut session = Session::new(FAR[0], OTHER);
    session.spec.push("password: { secretKeyRef: { name: bgp, key: far } }");
    daemon.apply(&ours::manifests(&[session], ""));
    other.until_established(NODE[0]);
    ours::until_established(&daemon, FAR[0]);

    // No resource changes.
    fs::write(&secret, "second\n").unwrap();
    wait::until_true("our session to end", tests::daemon::SOON, || {
        ours::peers(&daemon).iter().any(|peer| peer.state != "Established")
    });
    other.until_down(NODE[0]);
    other.configure(&bird("second"));
    other.until_established(NODE[0]);
    ours::until_established(&daemon, FAR[0]);

    // A secret that is taken away ends it, and its return begins it.
    fs::remove_file(&secret).unwrap();
    wait::until_true("the session to wait for its secret", tests::daemon::SOON, || {
        daemon.cli(&["bgp", "summary"]).contains("secret bgp, key far is not there")
    });
    fs::write(&secret, "second\n").unwrap();
    ours::until_established(&daemon, FAR[0]);
}
