//! Random sequences of frame operations against a model that keeps every packet as a `Vec<u8>`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;

const FRAME: usize = 512;
const ROOM: usize = FRAME - HEADROOM;
const FRAMES: usize = 24;

#[derive(Clone, Debug)]
enum Step {
    Allocate,
    CopyIn(Vec<usize>),
    SetLen(usize, usize),
    Write(usize, u8),
    Free(usize),
    /// Send on the queue; frames come back when `Complete` says so.
    Send(usize),
    Complete(usize),
    /// A packet of this many frames arrives.
    Receive(usize, usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Allocate),
        prop::collection::vec(0..ROOM * 2, 0..6).prop_map(Step::CopyIn),
        (0..8usize, 0..ROOM * 6).prop_map(|(which, len)| Step::SetLen(which, len)),
        (0..8usize, any::<u8>()).prop_map(|(which, byte)| Step::Write(which, byte)),
        (0..8usize).prop_map(Step::Free),
        (0..8usize).prop_map(Step::Send),
        (0..4usize).prop_map(Step::Complete),
        (1..5usize, 1..=ROOM).prop_map(|(frames, last)| Step::Receive(frames, last)),
        Just(Step::Reopen),
    ]
}

struct Model {
    umem: Umem,
    holder: Holder,
    /// Tokens beside the bytes that they should show.
    packets: Vec<(Packet, Vec<u8>)>,
    sent: Vec<FrameIndex>,
    fill: Vec<FrameIndex>,
}

impl Model {
    fn apply(&mut self, step: Step) {
        match step {
            Step::Allocate => {
                if let Some(packet) = self.umem.allocate() {
                    self.packets.push((packet, Vec::new()));
                }
            }
            Step::CopyIn(lengths) => self.copy_in(&lengths),
            Step::SetLen(which, len) => self.set_len(which, len),
            Step::Write(which, byte) => {
                if let Some((packet, bytes)) = self.packets.get_mut(which) {
                    self.umem.for_each_segment_mut(packet, |segment| segment.fill(byte));
                    bytes.fill(byte);
                }
            }
            Step::Free(which) => {
                if which < self.packets.len() {
                    self.umem.free(self.packets.swap_remove(which).0);
                }
            }
            Step::Send(which) => self.send(which),
            Step::Complete(count) => {
                for frame in self.sent.drain(..count.min(self.sent.len())) {
                    assert!(self.umem.take_back(frame, self.holder));
                    assert!(!self.umem.take_back(frame, self.holder), "a frame came back twice");
                }
            }
            Step::Receive(frames, last) => self.receive(frames, last),
            Step::Reopen => {
                let returned = self.umem.recall(self.holder);
                assert_eq!(returned, self.sent.len() + self.fill.len());
                self.sent.clear();
                self.fill.clear();
                self.holder = self.umem.enroll();
            }
        }
    }

    fn copy_in(&mut self, lengths: &[usize]) {
        let parts: Vec<Vec<u8>> =
            lengths.iter().enumerate().map(|(i, len)| (0..*len).map(|j| (i * 7 + j) as u8).collect()).collect();
        let bytes = parts.concat();
        let needed = bytes.len().div_ceil(ROOM).max(1);
        let fits = needed <= self.umem.free_frames();
        let free = self.umem.free_frames();
        match self.umem.copy_in(parts.iter().map(Vec::as_slice)) {
            Some(packet) => {
                assert!(fits);
                assert_eq!(self.umem.chain_len(&packet), needed);
                self.packets.push((packet, bytes));
            }
            None => {
                assert!(!fits);
                assert_eq!(self.umem.free_frames(), free, "a failed copy took frames");
            }
        }
    }

    fn set_len(&mut self, which: usize, len: usize) {
        let Some((packet, bytes)) = self.packets.get_mut(which) else { return };
        let possible = len <= bytes.len() || (!packet.is_chained() && len <= ROOM);
        assert_eq!(self.umem.set_len(packet, len), possible);
        if possible {
            bytes.resize(len, 0);
        }
    }

    fn send(&mut self, which: usize) {
        if which >= self.packets.len() {
            return;
        }
        let (packet, bytes) = self.packets.swap_remove(which);
        let frames = self.umem.chain_len(&packet);
        let mut seen = Vec::new();
        self.umem.surrender(packet, self.holder, |frame, len| seen.push((frame, len)));
        assert_eq!(seen.len(), frames);
        assert_eq!(seen.iter().map(|(_, len)| len).sum::<usize>(), bytes.len());
        self.sent.extend(seen.into_iter().map(|(frame, _)| frame));
    }

    fn receive(&mut self, frames: usize, last_len: usize) {
        while self.fill.len() < frames {
            let Some(frame) = self.umem.lend(self.holder) else { return };
            self.fill.push(frame);
        }
        let mut last = self.fill.remove(0);
        let first_len = if frames == 1 { last_len } else { ROOM };
        let mut packet = self.umem.receive(last, self.holder, first_len).unwrap();
        for i in 1..frames {
            let frame = self.fill.remove(0);
            let len = if i + 1 == frames { last_len } else { ROOM };
            assert!(self.umem.receive_more(&mut packet, last, frame, self.holder, len));
            last = frame;
        }
        self.umem.for_each_segment_mut(&packet, |segment| segment.fill(0xa5));
        self.packets.push((packet, vec![0xa5; (frames - 1) * ROOM + last_len]));
    }

    fn check(&self) {
        for (packet, bytes) in &self.packets {
            assert_eq!(packet.len(), bytes.len());
            assert_eq!(self.umem.segments(packet).collect::<Vec<_>>().concat(), *bytes);
            assert_eq!(self.umem.data(packet).len(), packet.head_len());
        }
        let count = self.umem.audit();
        assert_eq!(count.sum(), FRAMES);
        assert_eq!(count.in_queues, self.sent.len() + self.fill.len());
        assert_eq!(count.held, self.packets.iter().map(|(packet, _)| self.umem.chain_len(packet)).sum::<usize>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_follow_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut umem = Umem::heap(FRAME, FRAMES);
        let holder = umem.enroll();
        let mut model = Model { umem, holder, packets: Vec::new(), sent: Vec::new(), fill: Vec::new() };
        for step in steps {
            model.apply(step);
            model.check();
        }
        let Model { mut umem, holder, packets, .. } = model;
        for (packet, _) in packets {
            umem.free(packet);
        }
        umem.recall(holder);
        assert_eq!(umem.audit(), FrameCount { free: FRAMES, held: 0, in_queues: 0 });
    }
}

#[test]
fn a_frame_is_taken_only_from_the_queue_that_has_it() {
    let mut umem = Umem::heap(FRAME, 4);
    let one = umem.enroll();
    let two = umem.enroll();
    let frame = umem.lend(one).unwrap();
    assert!(umem.receive(frame, two, 10).is_none());
    assert!(!umem.take_back(frame, two));
    assert!(!umem.take_back(FrameIndex(99), one), "beyond the memory");
    assert!(umem.receive(frame, one, ROOM + 1).is_none(), "longer than a frame");
    assert!(umem.take_back(frame, one));
}

#[test]
fn names_of_closed_queues_are_used_again() {
    let mut umem = Umem::heap(FRAME, 4);
    let one = umem.enroll();
    umem.enroll();
    umem.recall(one);
    assert_eq!(umem.enroll(), one);
    assert_eq!(umem.enrolled(), 2);
}

#[test]
fn a_longer_chain_than_the_kernel_takes_is_refused() {
    let mut umem = Umem::heap(FRAME, LONGEST_CHAIN + 4);
    let longest = vec![1; ROOM * LONGEST_CHAIN];
    let packet = umem.copy_in([longest.as_slice()]).unwrap();
    umem.free(packet);
    assert!(umem.copy_in([longest.as_slice(), &[1]]).is_none());
    assert_eq!(umem.free_frames(), LONGEST_CHAIN + 4);
}

#[test]
fn growing_hides_the_packet_before() {
    let mut umem = Umem::heap(FRAME, 1);
    let secret = umem.copy_in([[7u8; 100].as_slice()]).unwrap();
    umem.free(secret);
    let mut packet = umem.allocate().unwrap();
    assert!(umem.set_len(&mut packet, 100));
    assert_eq!(umem.data(&packet), [0; 100]);
    umem.free(packet);
}

#[test]
fn bytes_that_arrived_elsewhere_are_moved_to_the_common_start() {
    let mut umem = Umem::heap(FRAME, 1);
    let holder = umem.enroll();
    let packet = umem.copy_in([[1u8, 2, 3, 4].as_slice()]).unwrap();
    let frame = packet.frame;
    umem.surrender(packet, holder, |_, _| ());
    assert!(umem.align(frame, holder, HEADROOM + 2, 2));
    assert!(!umem.align(frame, holder, FRAME - 1, 2), "past the end of the frame");
    let packet = umem.receive(frame, holder, 2).unwrap();
    assert_eq!(umem.data(&packet), [3, 4]);
    umem.free(packet);
}

impl Umem {
    /// Books so many frames to a queue that is not there, for tests of who gives them back.
    pub(crate) fn lend_for_test(&mut self, count: usize) -> Released {
        let holder = self.enroll();
        let lent = (0..count).map_while(|_| self.lend(holder)).count();
        assert_eq!(lent, count, "as many frames as asked for");
        Released(Some(holder))
    }
}
