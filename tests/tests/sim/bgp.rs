//! Speakers in simulated time: any order of messages ends in the same tables.

use std::time::Duration;

use tests::mesh::{Mesh, block, session, state};

fn full_mesh(seed: u64, size: usize) -> Mesh {
    let mut mesh = Mesh::new(seed, size);
    for router in 0..size {
        let others = (0..size).filter(|peer| *peer != router);
        let peers = others.map(|peer| {
            let (key, mut session) = session(router, peer, (64512, 64512));
            session.transport.passive = router > peer;
            (key, session)
        });
        mesh.configure(router, state(router, 64512, peers.collect::<Vec<_>>()));
    }
    mesh
}

#[test]
fn two_tell_each_other_what_they_have() {
    let mut mesh = full_mesh(1, 2);
    mesh.run(Duration::from_secs(30));
    assert_eq!(mesh.table(0).len(), 2, "{:#?}", mesh.table(0));
    assert_eq!(mesh.routers[0].forwarding.len(), 1);
    assert!(mesh.routers[0].forwarding.contains_key(&block(1)));
    assert!(mesh.routers[1].forwarding.contains_key(&block(0)));
}

#[test]
fn a_mesh_has_the_same_tables_for_any_seed() {
    let size = 30;
    let tables = |seed| {
        let mut mesh = full_mesh(seed, size);
        mesh.run(Duration::from_secs(60));
        (0..size).map(|router| mesh.table(router)).collect::<Vec<_>>()
    };
    let first = tables(1);
    for table in &first {
        assert_eq!(table.len(), size, "{table:#?}");
    }
    for seed in 2..5 {
        assert_eq!(tables(seed), first, "seed {seed}");
    }
}
