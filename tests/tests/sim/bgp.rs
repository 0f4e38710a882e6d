//! Speakers in simulated time: any order of messages ends in the same tables.
//!
//! `MESH_SIZE=500 cargo test --release -p tests --test sim mesh` makes the mesh larger.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use control::bgp::message::Notification;
use control::bgp::session::{Event as SessionEvent, State};
use control::bgp::speaker::{Event, Note};
use control::bgp::speaker_state::SpeakerState;
use tests::mesh::{Mesh, address, block, session, state};

/// Routers of a mesh in an ordinary run.
const SIZE: usize = 24;
const SYSTEM: u32 = 64512;

fn full_mesh(seed: u64, size: usize) -> Mesh {
    let mut mesh = Mesh::new(seed, size);
    for router in 0..size {
        let others = (0..size).filter(|peer| *peer != router);
        let peers = others.map(|peer| {
            let (key, mut session) = session(router, peer, (SYSTEM, SYSTEM));
            session.transport.passive = router > peer;
            (key, session)
        });
        mesh.configure(router, state(router, SYSTEM, peers.collect::<Vec<_>>()));
    }
    mesh
}

/// Router 0 reflects what the others, its clients, say.
fn star(seed: u64, size: usize, restart: Duration) -> Mesh {
    let mut mesh = Mesh::new(seed, size);
    for router in 0..size {
        mesh.configure(router, star_state(router, size, restart));
    }
    mesh
}

fn star_state(router: usize, size: usize, restart: Duration) -> SpeakerState {
    let peers: Vec<usize> = if router == 0 { (1..size).collect() } else { vec![0] };
    let peers = peers.into_iter().map(|peer| {
        let (key, mut session) = session(router, peer, (SYSTEM, SYSTEM));
        session.terms.reflector_client = router == 0;
        session.transport.restart.restart_time = restart;
        (key, session)
    });
    let mut state = state(router, SYSTEM, peers);
    if router == 0
        && let Some(identity) = &mut state.identity
    {
        identity.cluster_id = Some(Ipv4Addr::new(1, 1, 1, 1));
    }
    state
}

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}: expected a number")))
}

#[test]
fn two_tell_each_other_what_they_have() {
    // Neither waits: both connect at once, and one connection is left.
    for seed in 0..20 {
        let mut mesh = Mesh::new(seed, 2);
        for router in 0..2 {
            mesh.configure(router, state(router, SYSTEM, [session(router, 1 - router, (SYSTEM, SYSTEM))]));
        }
        mesh.run(Duration::from_secs(30));
        for router in 0..2 {
            assert_eq!(mesh.table(router).len(), 2, "seed {seed}: {:#?}", mesh.table(router));
            let forwarding: Vec<_> = mesh.routers[router].forwarding.keys().copied().collect();
            assert_eq!(forwarding, [block(1 - router)], "seed {seed}");
        }
    }
}

#[test]
fn a_mesh_has_the_same_tables_for_any_seed() {
    let size = number("MESH_SIZE", SIZE);
    let tables = |seed| {
        let mut mesh = full_mesh(seed, size);
        mesh.run(Duration::from_secs(120));
        (0..size).map(|router| mesh.table(router)).collect::<Vec<_>>()
    };
    let first = tables(1);
    for (router, table) in first.iter().enumerate() {
        assert_eq!(table.len(), size, "router {router}");
        for (other, line) in (0..size).map(|other| (other, format!("{} via", block(other)))) {
            assert!(table.iter().any(|entry| entry.starts_with(&line)), "router {router} does not know {other}");
        }
    }
    for seed in 2..=if size > 100 { 2 } else { 4 } {
        assert!(tables(seed) == first, "seed {seed} ends otherwise than seed 1");
    }
}

#[test]
fn a_reflector_tells_its_clients_what_each_of_them_said() {
    for seed in 0..5 {
        let mut mesh = star(seed, 12, Duration::from_secs(120));
        mesh.run(Duration::from_secs(60));
        for router in 1..12 {
            let table = mesh.table(router);
            assert_eq!(table.len(), 12, "seed {seed}: {table:#?}");
            // Next hops are not the reflector's: RFC 4456 §10.
            for other in (1..12).filter(|other| *other != router) {
                let line = format!("{} via {} path [] pref 2147482623 paths 1", block(other), address(other));
                assert!(table.contains(&line), "seed {seed}: {line} not in {table:#?}");
            }
        }
    }
}

#[test]
fn what_is_withdrawn_is_gone_everywhere_and_comes_back() {
    for seed in 0..5 {
        let mut mesh = star(seed, 8, Duration::ZERO);
        mesh.run(Duration::from_secs(60));
        let stop = |text: u8| SessionEvent::Stop { notification: Notification::new(6, text) };
        let key = session(3, 0, (SYSTEM, SYSTEM)).0;
        mesh.with(3, |speaker, now, out| speaker.handle(Event::Session(key, stop(2)), now, out));
        mesh.run(Duration::from_secs(5));
        for router in (0..8).filter(|router| *router != 3) {
            assert!(!mesh.table(router).iter().any(|line| line.starts_with(&block(3).to_string())), "seed {seed}");
        }
        assert_eq!(mesh.table(3).len(), 1);
        mesh.with(3, |speaker, now, out| speaker.handle(Event::Session(key, SessionEvent::Start), now, out));
        mesh.run(Duration::from_secs(60));
        for router in 0..8 {
            assert_eq!(mesh.table(router).len(), 8, "seed {seed}");
        }
    }
}

/// What the reflector's clients hear of a client that is cut off for so long.
fn churn(seed: u64, restart: Duration, away: Duration) -> (bool, Vec<String>) {
    let mut mesh = star(seed, 4, restart);
    mesh.run(Duration::from_secs(60));
    let before = mesh.routers[2].forwarding.clone();
    // The process of router 3 is gone: its connections break, and a new one comes back knowing nothing.
    let key = session(0, 3, (SYSTEM, SYSTEM)).0;
    let broken = mesh.break_connections(3);
    assert!(broken > 0);
    mesh.cut.insert(3);
    let mut has_changed = false;
    for _ in 0..away.as_millis() / 100 {
        mesh.run(Duration::from_millis(100));
        has_changed |= mesh.routers[2].forwarding != before;
    }
    mesh.cut.remove(&3);
    for _ in 0..600 {
        mesh.run(Duration::from_millis(100));
        has_changed |= mesh.routers[2].forwarding != before;
    }
    let _ = key;
    (has_changed, mesh.table(2))
}

#[test]
fn a_restart_is_not_seen_by_others_if_it_is_graceful_and_is_if_it_is_not() {
    for seed in 0..4 {
        let (has_changed, graceful) = churn(seed, Duration::from_secs(120), Duration::from_secs(5));
        assert!(!has_changed, "seed {seed}: somebody saw a restart");
        let (has_changed, hard) = churn(seed, Duration::ZERO, Duration::from_secs(5));
        assert!(has_changed, "seed {seed}: without graceful restart nothing was seen, so this test sees nothing");
        assert_eq!(graceful, hard, "seed {seed}");
    }
}

#[test]
fn a_reflector_that_restarts_takes_nothing_away_before_it_knows_its_next_hops() {
    for seed in 0..4 {
        let mut mesh = star(seed, 4, Duration::from_secs(120));
        mesh.answer = Duration::from_millis(300);
        mesh.run(Duration::from_secs(60));
        let before: Vec<_> = (1..4).map(|router| mesh.routers[router].forwarding.clone()).collect();
        assert!(before.iter().all(|forwarding| forwarding.len() == 3), "seed {seed}");
        mesh.restart(0, seed + 100, star_state(0, 4, Duration::from_secs(120)));
        for _ in 0..600 {
            mesh.run(Duration::from_millis(100));
            let now: Vec<_> = (1..4).map(|router| mesh.routers[router].forwarding.clone()).collect();
            assert!(now == before, "seed {seed}: somebody saw the restart");
        }
        assert_eq!(mesh.table(0).len(), 4, "seed {seed}");
        let has_stale =
            |router: usize| mesh.routers[router].speaker.summary(mesh.now).peers.iter().any(|peer| peer.stale > 0);
        assert!(!(0..4).any(has_stale), "seed {seed}");
    }
}

#[test]
fn who_does_not_come_back_is_forgotten_after_the_restart_time() {
    let mut mesh = star(7, 4, Duration::from_secs(20));
    mesh.run(Duration::from_secs(60));
    mesh.break_connections(3);
    mesh.cut.insert(3);
    mesh.run(Duration::from_secs(15));
    assert_eq!(mesh.table(2).len(), 4, "kept");
    mesh.run(Duration::from_secs(15));
    assert_eq!(mesh.table(2).len(), 3, "forgotten");
    let told: BTreeSet<_> = mesh.routers[0]
        .notes
        .iter()
        .filter(|note| matches!(note, Note::Down(..)))
        .map(|note| format!("{note:?}"))
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn silence_ends_a_session_after_the_hold_time() {
    let mut mesh = star(3, 3, Duration::ZERO);
    mesh.run(Duration::from_secs(60));
    // Nothing breaks; nothing arrives either.
    mesh.cut.insert(2);
    mesh.run(Duration::from_secs(60));
    assert_eq!(mesh.table(1).len(), 3, "within the hold time nothing is known");
    mesh.run(Duration::from_secs(60));
    assert_eq!(mesh.table(1).len(), 2);
    mesh.cut.clear();
    mesh.run(Duration::from_secs(60));
    assert_eq!(mesh.table(1).len(), 3, "and it comes back");
}

/// 0 and 1 are of one system, 2 and 3 of two others; all four talk to each other.
#[test]
fn systems_take_the_shorter_path_and_the_other_when_it_goes() {
    let systems = [65001, 65001, 65002, 65003];
    for seed in 0..5 {
        let mut mesh = Mesh::new(seed, 4);
        for router in 0..4 {
            let peers = (0..4).filter(|peer| *peer != router);
            let peers = peers.map(|peer| session(router, peer, (systems[router], systems[peer])));
            mesh.configure(router, state(router, systems[router], peers.collect::<Vec<_>>()));
        }
        mesh.run(Duration::from_secs(60));
        let line = |mesh: &Mesh, router: usize, of: usize| {
            mesh.table(router).into_iter().find(|line| line.starts_with(&block(of).to_string())).unwrap_or_default()
        };
        assert!(line(&mesh, 0, 2).contains(&format!("via {} path [65002]", address(2))), "{}", line(&mesh, 0, 2));
        // The direct session goes: by router 1, whose next hop is kept inside the system, or by system 65003, which is longer.
        let key = session(0, 2, (65001, 65002)).0;
        let stop = SessionEvent::Stop { notification: Notification::new(6, 2) };
        mesh.with(0, |speaker, now, out| speaker.handle(Event::Session(key, stop), now, out));
        mesh.run(Duration::from_secs(10));
        assert!(line(&mesh, 0, 2).contains(&format!("via {} path [65002]", address(2))), "{}", line(&mesh, 0, 2));
        assert!(mesh.table(0).len() == 4 && mesh.table(2).len() == 4, "seed {seed}");
        let state_of = |mesh: &Mesh, router: usize, peer| mesh.routers[router].speaker.state_of(&peer);
        assert_eq!(state_of(&mesh, 0, key), Some(State::Idle));
    }
}
