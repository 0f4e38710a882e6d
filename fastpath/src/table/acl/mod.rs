//! Policy: which rule decides a packet, by class-based bit vectors.
//!
//! An address is looked up once for all rules: it leads to a *class*, the list of sets it is in. A *block* is one policy in
//! one direction; a packet's fields lead to rows of bits, one bit per rule, set where the rule's condition on that field
//! holds. The rules that match are the AND of the rows; the first one is the lowest set bit. A *program* is what an
//! endpoint enforces in one direction: tiers of blocks, then profiles.
//!
//!     source ──▶ class ──▶ row  0 1 1 0 1 ┐
//!     dest.  ──▶ class ──▶ row  1 1 1 0 0 │
//!     l4     ─────steps──▶ row  1 1 0 0 1 ├─ AND ─▶ 0 1 0 0 0 ─▶ rule 1 decides
//!     nets   ─────steps──▶ row  1 1 1 1 1 │
//!     ports  ─────steps──▶ row  0 1 0 1 1 ┘
//!
//! | file | what it holds |
//! |---|---|
//! | `spec.rs` | what is compiled: rules, blocks, programs |
//! | `members.rs` | address → class, and address, protocol and port → class |
//! | `block.rs` | rules → rows; rows → the rule that decides |
//! | `steps.rs` | value → row, for fields with an order |
//! | `class_field.rs` `class_rows.rs` | class → row, for sets: what a block wants of a class; of one class, the rows of all blocks |
//! | `rows.rs` | rows, and the scan for the first common bit |
//! | `editor.rs` `classes.rs` | control's side: what changes, and what has to be made anew because of it; which sets a class is |
//!
//! Invariants: the AND is exact, because every condition is one on a single field; rule order is bit order; blocks are
//! shared by all programs that name them. What was published changes in one way only: a member moves to another class,
//! by one store, after the class has its rows. A class without rows, which is not to be, denies.
//! See: Lakshman, Stiliadis, "High-Speed Policy-Based Packet Forwarding Using Efficient Multi-Dimensional Range
//! Matching", 1998; the verdict rules are those of Calico.

mod block;
mod class_field;
mod class_rows;
mod classes;
mod editor;
mod members;
mod rows;
mod spec;
mod steps;

use std::sync::Arc;

pub use editor::Editor;
pub use spec::{
    AclSpec, Action, AddressRange, IcmpMatch, L4Match, PortMember, PortRange, ProgramEnd, ProgramSpec, RuleSpec,
    SideMatch, TierEnd, TierSpec,
};

use super::{ProgramIndex, RuleIndex};
use block::Block;
use class_rows::{ClassRows, ClassTable, SideRows};
use members::Members;
use rows::Scan;

/// The fields of a packet that rules look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    pub source: u128,
    pub destination: u128,
    pub is_ipv4: bool,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    /// Type and code when the protocol is ICMP or ICMPv6.
    pub icmp: Option<(u8, u8)>,
}

/// What a program says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Allow,
    Deny,
    /// Nothing decided, and the program does not deny at its end.
    Undecided,
}

/// The answer, and the rule that gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    pub outcome: Outcome,
    /// NONE when undecided.
    pub rule: RuleIndex,
    /// The first `Log` rule on the way, or NONE.
    pub log: RuleIndex,
}

/// A packet's fields and the classes of its ends, found once and used for every program it has to pass.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    question: &'a Question,
    source: EndClasses<'a>,
    destination: EndClasses<'a>,
    /// False when a class has no rows: nothing can be said about the packet.
    is_known: bool,
}

/// Of one end: the rows of the sets its address is in, and of the named ports and services its port is.
#[derive(Clone, Copy, Debug)]
struct EndClasses<'a> {
    rows: &'a SideRows,
    port_rows: &'a SideRows,
}

/// The compiled policy of a node. Copying it is cheap: its parts are shared.
#[derive(Clone, Debug, Default)]
pub struct Acl {
    members: Arc<Members>,
    blocks: Arc<Blocks>,
}

/// All blocks, the programs made of them, and the rows of every class for them.
#[derive(Debug, Default)]
struct Blocks {
    classes: ClassTable,
    /// Gaps are blocks that no program names.
    heads: Box<[Option<Head>]>,
    programs: Arc<[ProgramSpec]>,
    /// Whether any block asks about sets of addresses, and about ports of addresses: what nobody asks is not looked up.
    asks_for_sets: bool,
    asks_for_named_ports: bool,
}

/// A block, and what is looked at before it.
#[derive(Clone, Debug)]
struct Head {
    /// See [`Block::otherwise`].
    otherwise: [u64; 2],
    block: Arc<Block>,
}

/// The number of a set of addresses among all sets.
fn address_set(position: usize) -> u32 {
    position as u32 * 2
}

/// The number of a set of ports among all sets.
fn port_set(position: usize) -> u32 {
    position as u32 * 2 + 1
}

fn is_port_set(set: u32) -> bool {
    set % 2 == 1
}

impl<'a> Classes<'a> {
    /// The rows of a class, or none of them, and nothing is known.
    #[inline(always)]
    fn known(&mut self, rows: Option<&'a ClassRows>, nothing: &'a ClassRows) -> &'a ClassRows {
        self.is_known &= rows.is_some();
        rows.unwrap_or(nothing)
    }
}

impl Acl {
    /// Compiles at once. The description's indexes must be within its own lists.
    pub fn build(spec: &AclSpec) -> Self {
        let mut editor = Editor::default();
        for (position, set) in spec.sets.iter().enumerate() {
            editor.change_set(position, set, &[]);
        }
        for (position, set) in spec.port_sets.iter().enumerate() {
            editor.change_port_set(position, set, &[]);
        }
        for (position, rules) in spec.blocks.iter().enumerate() {
            editor.put_block(position, rules.clone());
        }
        editor.set_programs(spec.programs.clone());
        editor.commit()
    }

    /// Bytes on the heap: what its parts that it may share with other policies take.
    pub fn size(&self) -> usize {
        let Blocks { classes, heads, programs, .. } = &*self.blocks;
        let list = |blocks: &Vec<usize>| size_of_val(&**blocks);
        let program = |program: &ProgramSpec| {
            let tiers: usize = program.tiers.iter().map(|tier| size_of_val(tier) + list(&tier.blocks)).sum();
            tiers + list(&program.profiles)
        };
        let blocks: usize = heads.iter().flatten().map(|head| head.block.size()).sum();
        let programs = size_of_val(&**programs) + programs.iter().map(program).sum::<usize>();
        self.members.size() + classes.size() + size_of_val(&**heads) + blocks + programs
    }

    /// Looks a packet's ends up.
    #[inline]
    pub fn classify<'a>(&'a self, question: &'a Question) -> Classes<'a> {
        let nothing = self.blocks.classes.nothing();
        let (nowhere, nowhere_else) = (nothing.source(), nothing.destination());
        let source = EndClasses { rows: nowhere, port_rows: nowhere };
        let destination = EndClasses { rows: nowhere_else, port_rows: nowhere_else };
        let mut classes = Classes { question, source, destination, is_known: true };
        if self.blocks.asks_for_sets {
            let [source, destination] =
                [question.source, question.destination].map(|address| self.members.class_of_address(address));
            classes.source.rows = classes.known(self.blocks.classes.get(source), nothing).source();
            classes.destination.rows = classes.known(self.blocks.classes.get(destination), nothing).destination();
        }
        if self.blocks.asks_for_named_ports {
            let of = |address, port| self.members.class_of_port(address, question.protocol, port);
            let source = of(question.source, question.source_port);
            let destination = of(question.destination, question.destination_port);
            classes.source.port_rows = classes.known(self.blocks.classes.get(source), nothing).source();
            classes.destination.port_rows = classes.known(self.blocks.classes.get(destination), nothing).destination();
        }
        classes
    }

    /// What a program says to a packet that was classified by this same policy. An unknown program denies.
    #[inline]
    pub fn evaluate(&self, program: ProgramIndex, packet: &Classes<'_>) -> Decision {
        self.evaluate_by(program, packet, rows::scan)
    }

    /// The same by the plain scan, word by word: the vector instructions' twin.
    pub fn evaluate_plainly(&self, program: ProgramIndex, packet: &Classes<'_>) -> Decision {
        self.evaluate_by(program, packet, rows::scan_plain)
    }

    #[inline]
    fn evaluate_by(&self, program: ProgramIndex, packet: &Classes<'_>, scan: Scan) -> Decision {
        let mut log = RuleIndex::NONE;
        let Some(program) = self.blocks.programs.get(program.index()).filter(|_| packet.is_known) else {
            return Decision { outcome: Outcome::Deny, rule: RuleIndex::NONE, log };
        };
        for tier in &program.tiers {
            match (self.first_decision(&tier.blocks, packet, scan, &mut log), tier.end) {
                (Some((Action::Allow, rule)), _) => return Decision { outcome: Outcome::Allow, rule, log },
                (Some((Action::Deny, rule)), _) | (None, TierEnd::Deny(rule)) => {
                    return Decision { outcome: Outcome::Deny, rule, log };
                }
                (Some((Action::Pass | Action::Log, _)), _) | (None, TierEnd::Pass) => {}
            }
        }
        match (self.first_decision(&program.profiles, packet, scan, &mut log), program.end) {
            (Some((Action::Allow, rule)), _) => Decision { outcome: Outcome::Allow, rule, log },
            // In a profile there is no next tier: Pass ends the evaluation, and nothing allowed the packet.
            (Some((_, rule)), _) | (None, ProgramEnd::Deny(rule)) => Decision { outcome: Outcome::Deny, rule, log },
            (None, ProgramEnd::Undecided) => Decision { outcome: Outcome::Undecided, rule: RuleIndex::NONE, log },
        }
    }

    #[inline]
    fn first_decision(
        &self,
        blocks: &[usize],
        packet: &Classes<'_>,
        scan: Scan,
        log: &mut RuleIndex,
    ) -> Option<(Action, RuleIndex)> {
        blocks.iter().find_map(|position| match &self.blocks.heads[*position] {
            Some(Head { otherwise: [as_source, as_destination], block }) => {
                let source = packet.source.rows.narrow(*position).unwrap_or(*as_source);
                let matching = source & packet.destination.rows.narrow(*position).unwrap_or(*as_destination);
                // Most blocks are done with here, without a look at anything of theirs.
                if matching == 0 {
                    return None;
                }
                block.first_decision(*position, matching, packet, scan, log)
            }
            None => {
                debug_assert!(false, "a program names a block that is not there");
                Some((Action::Deny, RuleIndex::NONE))
            }
        })
    }
}

#[cfg(test)]
mod tests;
