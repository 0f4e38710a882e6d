//! The ring beside a queue of the standard library, and between two threads.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const LAYOUT: Layout = Layout { producer: 0, consumer: 64, flags: 128, entries: 192 };

/// Both sides of one ring whose indexes start at `start`.
fn ring(size: u32, start: u32) -> (Producer<u64>, Consumer<u64>) {
    let region = Arc::new(Region::of_our_own(LAYOUT.entries + size as usize * 8).unwrap());
    let shared: Shared<u64> = Shared::new(region.clone(), LAYOUT, size).unwrap();
    shared.producer().store(start, Ordering::Relaxed);
    shared.consumer().store(start, Ordering::Relaxed);
    (Producer::new(region.clone(), LAYOUT, size).unwrap(), Consumer::new(region, LAYOUT, size).unwrap())
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Stage,
    Publish(u32),
    Take(u32),
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Stage),
        2 => (0u32..10).prop_map(Step::Publish),
        3 => (0u32..10).prop_map(Step::Take),
        2 => Just(Step::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_is_a_bounded_queue(
        bits in 0u32..5,
        start in prop_oneof![Just(0), Just(u32::MAX - 3), any::<u32>()],
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let size = 1 << bits;
        let (mut producer, mut consumer) = ring(size, start);
        // Staged by the one side, published to the other, and taken but not released: all of them have places.
        let (mut staged, mut published, mut held) = (VecDeque::new(), VecDeque::new(), 0);
        for (number, step) in steps.into_iter().enumerate() {
            let number = number as u64;
            match step {
                Step::Stage => {
                    let fits = staged.len() + published.len() + held < size as usize;
                    prop_assert_eq!(producer.stage(number), fits);
                    if fits {
                        staged.push_back(number);
                    }
                }
                Step::Publish(count) => {
                    producer.publish(count);
                    published.extend(staged.drain(..(count as usize).min(staged.len())));
                }
                Step::Take(count) => {
                    let available = consumer.available(count);
                    prop_assert_eq!(available as usize, published.len().min(count as usize));
                    for _ in 0..available {
                        prop_assert_eq!(consumer.take(), published.pop_front());
                        held += 1;
                    }
                }
                Step::Release => {
                    consumer.release();
                    held = 0;
                }
            }
            prop_assert_eq!(producer.staged() as usize, staged.len());
            prop_assert_eq!(producer.staged_entry(0), staged.front().copied());
            prop_assert_eq!(producer.untaken() as usize, published.len() + held);
        }
    }

    /// Whatever the other side writes to its index, nothing outside the ring is touched and no count exceeds its size.
    #[test]
    fn a_lying_side_cannot_lead_astray(lies in prop::collection::vec(any::<u32>(), 1..50)) {
        let (mut producer, mut consumer) = ring(8, 0);
        for lie in lies {
            producer.shared.consumer().store(lie, Ordering::Relaxed);
            prop_assert!(producer.untaken() <= 8);
            let _ = producer.stage(1);
            consumer.shared.producer().store(lie, Ordering::Relaxed);
            prop_assert!(consumer.available(100) <= 8);
            let taken = std::iter::from_fn(|| consumer.take()).count();
            prop_assert!(taken <= 8);
        }
    }
}

#[test]
fn entries_arrive_in_order_from_another_thread() {
    const COUNT: u64 = if cfg!(miri) { 500 } else { 1_000_000 };
    let (mut producer, mut consumer) = ring(16, u32::MAX - 5);
    let sender = std::thread::spawn(move || {
        let mut next = 0;
        while next < COUNT {
            while next < COUNT && producer.stage(next) {
                next += 1;
            }
            producer.publish_all();
            std::thread::yield_now();
        }
    });
    let mut expected = 0;
    while expected < COUNT {
        for _ in 0..consumer.available(5) {
            assert_eq!(consumer.take(), Some(expected));
            expected += 1;
        }
        consumer.release();
        std::thread::yield_now();
    }
    sender.join().unwrap();
    assert_eq!(consumer.available(1), 0);
}

#[test]
fn a_layout_that_does_not_fit_is_refused() {
    let region = Arc::new(Region::of_our_own(4096).unwrap());
    let make = |layout, size| Producer::<u64>::new(region.clone(), layout, size).is_ok();
    assert!(make(LAYOUT, 256));
    assert!(!make(LAYOUT, 512), "more entries than memory");
    assert!(!make(LAYOUT, 3), "no power of two");
    assert!(!make(Layout { producer: 4094, ..LAYOUT }, 8), "over the end");
    assert!(!make(Layout { flags: 130, ..LAYOUT }, 8), "not aligned");
    assert!(!make(Layout { entries: usize::MAX - 7, ..LAYOUT }, 8), "beyond the address space");
}
