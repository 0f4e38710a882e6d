//! A flow as plain values, and how it comes back after a restart.
//!
//! A restored flow has no way out and the generation of no tables: its next packet, in each direction, is routed anew and
//! has to lead to the interface the flow had, as after any change of the tables. So an entry admits what the recorded flow
//! did, and nothing else.
//!
//! Left out: fragments, whose datagram is over before anybody restarts.

use super::table::Direction;
use super::tcp_state::State;
use super::translation::Translated;
use super::writer::{FlowWriter, InsertError};
use super::{Key, KeyKind, Seconds};
use crate::table::{AdjacencyIndex, InterfaceIndex, RuleIndex};

/// Tables are numbered from one, so this is the generation of none.
const NO_GENERATION: u32 = 0;

/// One flow. Pairs are forward and reverse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowView {
    /// Of the flow's first packet.
    pub key: Key,
    pub state: State,
    /// The rule that allowed it.
    pub rule: RuleIndex,
    /// What stands in place of its source outside.
    pub translated: Translated,
    /// Where packets of the forward direction come in, and where they leave.
    pub ingress: InterfaceIndex,
    pub egress: InterfaceIndex,
    pub created: Seconds,
    pub seen: [Seconds; 2],
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    pub tcp_flags: [u8; 2],
}

impl FlowView {
    pub fn last_seen(&self) -> Seconds {
        self.seen[0].max(self.seen[1])
    }

    /// How gladly it is kept when there is no room for all; the greatest first.
    pub fn worth(&self) -> (u8, Seconds) {
        (self.state.eviction_class().unwrap_or(u8::MAX), self.last_seen())
    }
}

impl FlowWriter {
    /// Enters a flow of an earlier process, if there is a free entry. A flow that is there stays as it is.
    pub fn restore(&mut self, flow: &FlowView) -> Result<(), InsertError> {
        let hash = self.table().hash(&flow.key);
        let answer = self.table().sources().key_of(&flow.key, flow.translated, Direction::Reverse);
        let is_there = |key: &Key| self.table().lookup(key, self.table().hash(key)).is_some();
        if flow.key.kind == KeyKind::Fragment || is_there(&flow.key) || is_there(&answer) {
            return Ok(());
        }
        self.place(flow, 0, flow.ingress, (AdjacencyIndex::NONE, NO_GENERATION), hash).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowTable;
    use crate::flow::table::{Decision, NewFlow};
    use crate::header::{protocol, tcp};
    use crate::rcu::Publisher;

    fn writer(capacity: u32) -> FlowWriter {
        FlowWriter::new(FlowTable::new(capacity), 0, 1, Publisher::new(()).grace())
    }

    fn flow(number: u16) -> FlowView {
        FlowView {
            key: Key {
                source: 1,
                destination: 2,
                source_port: number,
                destination_port: 80,
                protocol: protocol::TCP,
                kind: KeyKind::Ports,
            },
            state: State::TcpEstablished,
            rule: RuleIndex(9),
            translated: Translated::No,
            ingress: InterfaceIndex(3),
            egress: InterfaceIndex(4),
            created: 5,
            seen: [3000, 3100],
            packets: [7, 8],
            bytes: [700, 800],
            tcp_flags: [tcp::ACK, tcp::ACK | tcp::SYN],
        }
    }

    #[test]
    fn what_comes_back_is_what_was_looked_at_and_has_to_be_routed_again() {
        let mut writer = writer(64);
        writer.restore(&flow(1)).unwrap();
        assert_eq!(writer.table().iter().collect::<Vec<_>>(), [flow(1)]);
        for key in [flow(1).key, flow(1).key.reversed()] {
            let handle = writer.table().lookup(&key, writer.table().hash(&key)).unwrap();
            let Decision { adjacency, generation, .. } = writer.table().decision(handle);
            assert_eq!((adjacency, generation), (AdjacencyIndex::NONE, NO_GENERATION));
        }
    }

    #[test]
    fn it_ages_on_from_where_it_was() {
        let mut writer = writer(64);
        writer.restore(&flow(1)).unwrap();
        writer.sweep(3100 + 3599);
        assert_eq!(writer.live(), 1);
        writer.sweep(3100 + 3600);
        assert_eq!(writer.live(), 0);
    }

    #[test]
    fn a_flow_that_is_there_stays_and_a_fragment_does_not_come() {
        let mut writer = writer(64);
        let key = flow(1).key.reversed();
        let new = NewFlow {
            key,
            hash: writer.table().hash(&key),
            ingress: InterfaceIndex(4),
            egress: InterfaceIndex(3),
            adjacency: AdjacencyIndex(1),
            generation: 1,
            rule: RuleIndex(1),
            tcp_flags: tcp::SYN,
            bytes: 60,
            covered: 0,
            charged: InterfaceIndex(4),
            translated: Translated::No,
        };
        writer.insert(&new, 3600).unwrap();
        let before: Vec<FlowView> = writer.table().iter().collect();
        writer.restore(&flow(1)).unwrap();
        writer.restore(&FlowView { key: Key { kind: KeyKind::Fragment, ..flow(2).key }, ..flow(2) }).unwrap();
        assert_eq!(writer.table().iter().collect::<Vec<_>>(), before);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_displaces_nothing() {
        let mut writer = writer(64);
        for number in 0..64 {
            writer.restore(&flow(number)).unwrap();
        }
        assert_eq!(writer.restore(&flow(64)), Err(InsertError::Full));
        assert_eq!(writer.table().iter().count(), 64);
    }
}
