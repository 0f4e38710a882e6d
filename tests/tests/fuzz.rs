//! The saved corpus of every fuzz target, and a short seeded mutation of it.
//!
//! One test per target: it replays `tests/data/fuzz/<target>/*` first, then mutates. `FUZZ_ROUNDS` and `FUZZ_SEED` make a
//! run longer or another one. What a target promises stands in its own file, `tests/src/fuzz/`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;

use tests::fuzz::{self, Plan, Seen, TARGETS, Target};

fn check(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let saved = fuzz::replay(target, &fuzz::corpus());
    let report = fuzz::run(target, Plan::of(target), &fuzz::corpus());
    println!("{name}: {} saved inputs, {report}", saved.len());
    // A target that refuses everything looks at nothing.
    assert!(report.accepted * 100 >= report.runs, "{name} accepts next to nothing: {report}");
    assert!(report.shapes > 5, "{name} tells nothing apart: {report}");
}

macro_rules! targets {
    ($($name:ident)+) => {
        $(#[test] fn $name() { check(stringify!($name)) })+
        const TESTED: &[&str] = &[$(stringify!($name)),+];
    };
}

targets! {
    packet icmp translate parse yaml api record selector settings net netlink flows routes
    bgp_open bgp_update bgp_message bgp_session bfd ipam cni docker dhcp
}

#[test]
fn every_target_has_a_test_and_every_folder_a_target() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, TESTED.iter().copied().collect());
    for entry in fs::read_dir(fuzz::corpus()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "crashes" || names.contains(name.as_str()), "corpus of no target: {name}");
    }
}

/// The machinery itself: it must find what is there, keep it, and find it again.
mod positive_controls {
    use super::*;

    fn fails_at_a_bug(input: &[u8]) -> Seen {
        assert!(!input.windows(3).any(|bytes| bytes == b"bug"), "a planted fault");
        let is_near = |piece: &[u8]| input.windows(piece.len()).any(|bytes| bytes == piece);
        Seen::accepted((is_near(b"bu"), is_near(b"ug")))
    }

    const PLANTED: Target = Target {
        name: "planted",
        run: fails_at_a_bug,
        seeds: || vec![b"bu".to_vec(), b"ug".to_vec()],
        tokens: &[],
        longest: 64,
        rounds: 100_000,
    };

    #[test]
    fn a_planted_fault_is_found_kept_and_replayed() {
        let folder = std::env::temp_dir().join(format!("vrouter-fuzz-{}", std::process::id()));
        let plan = Plan { rounds: PLANTED.rounds, seed: 1 };
        let fault = std::panic::catch_unwind(|| fuzz::run(&PLANTED, plan, &folder)).expect_err("a planted fault");
        let text = fault.downcast_ref::<String>().unwrap();
        assert!(text.contains("FUZZ_SEED=1") && text.contains("cargo test"), "{text}");
        let kept: Vec<_> = fs::read_dir(folder.join("crashes")).unwrap().collect();
        assert_eq!(kept.len(), 1);
        let kept = kept.into_iter().next().unwrap().unwrap().path();
        fs::create_dir_all(folder.join("planted")).unwrap();
        fs::rename(&kept, folder.join("planted/the-fault.hex")).unwrap();
        let again = std::panic::catch_unwind(|| fuzz::replay(&PLANTED, &folder)).expect_err("still there");
        assert!(again.downcast_ref::<String>().unwrap().contains("the-fault.hex"));
        fs::remove_dir_all(folder).unwrap();
    }
}
