//! What sets cost: an address that joins one, and packets that are judged by policies full of them.
//!
//! A cluster of 100,000 addresses, each in about seven of 300 sets because of its labels, and 200 policies of 30 rules, every
//! rule about a set or two. A window is one change, from the call until workers may read the result.

use std::hint::black_box;
use std::time::Instant;

use fastpath::flow::mapped;
use fastpath::header::protocol;
use fastpath::table::acl::{
    Acl, Action, Editor, L4Match, Outcome, ProgramEnd, ProgramSpec, Question, RuleSpec, SideMatch, TierEnd, TierSpec,
};
use fastpath::table::{ProgramIndex, RuleIndex};

use crate::Scale;
use crate::memory::{row, thousands};
use crate::random::Random;
use crate::report::{Report, ReportError, Spread};

const SETS: u64 = 300;
const POLICIES: usize = 200;
const RULES: usize = 30;
/// Combinations of labels that occur in the cluster, and so of sets that an address is in.
const KINDS: usize = 2000;
const BASE: u32 = 0x0a00_0000;

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
    let addresses = scale.flows.min(100_000);
    let mut random = Random::new(11);
    let kinds: Vec<Vec<usize>> = (0..KINDS).map(|_| (0..7).map(|_| random.below(SETS) as usize).collect()).collect();
    let mut members: Vec<Vec<(u128, u128)>> = vec![Vec::new(); SETS as usize];
    for position in 0..addresses as u32 {
        let address = mapped(BASE + position);
        for set in &kinds[random.below(KINDS as u64) as usize] {
            members[*set].push((address, address));
        }
    }
    let mut editor = Editor::default();
    let start = Instant::now();
    members.iter().enumerate().for_each(|(set, members)| editor.change_set(set, members, &[]));
    for block in 0..POLICIES {
        editor.put_block(block, (0..RULES).map(|rule| a_rule(&mut random, (block * RULES + rule) as u32)).collect());
    }
    let tier = |blocks: Vec<usize>| TierSpec { blocks, end: TierEnd::Deny(RuleIndex(60_000)) };
    let program = |blocks| ProgramSpec {
        tiers: vec![tier(blocks)],
        profiles: Vec::new(),
        end: ProgramEnd::Deny(RuleIndex(60_001)),
    };
    editor.set_programs(vec![program((0..20).collect()), program((0..POLICIES).collect())]);
    let mut acl = editor.commit();
    report.note(&format!(
        "{} addresses in {SETS} sets, {POLICIES} policies of {RULES} rules: compiled in {:.0} ms",
        thousands(addresses),
        start.elapsed().as_secs_f64() * 1e3
    ));

    let mut joins = Spread::default();
    let mut is_member: std::collections::HashSet<(usize, u128)> = std::collections::HashSet::new();
    for _ in 0..scale.bursts.max(200) {
        let address = mapped(BASE + random.below(addresses as u64) as u32);
        let set = random.below(SETS) as usize;
        let range = [(address, address)];
        let joins_it = is_member.insert((set, address));
        let start = Instant::now();
        match joins_it {
            true => editor.change_set(set, &range, &[]),
            false => editor.change_set(set, &[], &range),
        }
        acl = editor.commit();
        joins.record(start.elapsed().as_nanos() as u64, 1);
        if !joins_it {
            is_member.remove(&(set, address));
        }
    }
    report.add(row(report, "address joins or leaves a set".to_string(), &joins))?;

    for (position, policies) in [20, POLICIES].into_iter().enumerate() {
        let name = format!("policy compiled, {policies} policies of {RULES} rules on sets");
        judge(&acl, position, addresses, name, scale, report)?;
    }
    Ok(())
}

/// About a set at one end, perhaps one at the other, and a port.
fn a_rule(random: &mut Random, index: u32) -> RuleSpec {
    let side = |random: &mut Random, is_asked: bool| SideMatch {
        sets: if is_asked { vec![random.below(SETS) as usize] } else { Vec::new() },
        ..SideMatch::default()
    };
    let port = 1000 + random.below(2000) as u16;
    let has_destination = random.below(3) == 0;
    RuleSpec {
        l4: L4Match { protocol: Some(protocol::TCP), ..L4Match::default() },
        source: side(random, true),
        destination: SideMatch { ports: vec![(port, port)], ..side(random, has_destination) },
        action: if random.below(8) == 0 { Action::Deny } else { Action::Allow },
        index: RuleIndex(index),
    }
}

fn judge(
    acl: &Acl,
    program: usize,
    addresses: usize,
    name: String,
    scale: &Scale,
    report: &mut Report,
) -> Result<(), ReportError> {
    const BATCH: usize = 256;
    let mut random = Random::new(12);
    let mut spread = Spread::default();
    let mut allowed = 0u64;
    for _ in 0..scale.bursts.max(20) / 4 {
        let questions: Vec<Question> = (0..BATCH)
            .map(|_| Question {
                source: mapped(BASE + random.below(addresses as u64) as u32),
                destination: mapped(BASE + random.below(addresses as u64) as u32),
                is_ipv4: true,
                protocol: protocol::TCP,
                source_port: random.next_u64() as u16,
                destination_port: 1000 + random.below(2000) as u16,
                icmp: None,
            })
            .collect();
        let start = Instant::now();
        for question in &questions {
            let decision = acl.evaluate(ProgramIndex(program as u32), &acl.classify(question));
            allowed += u64::from(black_box(decision).outcome == Outcome::Allow);
        }
        spread.record(start.elapsed().as_nanos() as u64, BATCH);
    }
    assert!(allowed > 0, "some packets match a rule");
    report.add(row(report, name, &spread))
}
