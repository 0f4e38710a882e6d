//! The search for the highest load that a forwarder carries, by the goals of MLRsearch. Pure: a trial is a function.
//!
//! ```text
//!     trials at a load ──classify──▶ lower bound │ upper bound │ not decided yet
//!     load:  0 ── lower ──▶ ◀── upper ── most           until upper and lower are a goal's width apart
//! ```
//!
//! A goal allows a loss ratio, and a share of trials (by their length) that may exceed it. A load is a lower bound of the
//! goal when it would be one even if all the time that is still missing to the goal's sum of durations went badly; it is
//! an upper bound when it would be one even if all that went well. What is told is the conditional throughput: what is
//! forwarded at the highest lower bound below every upper one, at the loss ratio that the worst tolerated trial had.
//!
//! All trials count for all goals, so that the second goal begins with what the first has learnt.
//! Left out: several durations for one goal; a trial has the goal's length from the beginning. Bound: [`MOST_TRIALS`].
//! See: RFC 9971-to-be, draft-ietf-bmwg-mlrsearch; RFC 2544 §26.1 for what it replaces.

use std::time::Duration;

/// Trials of one search, whatever the goals.
pub const MOST_TRIALS: usize = 1000;

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Goal {
    pub loss_ratio: f64,
    /// Share of the trials' time in which the loss ratio may be exceeded.
    pub exceed_ratio: f64,
    /// How near the bounds have to come to each other, relative to the upper one.
    pub width: f64,
    /// Length of a trial.
    pub trial: Duration,
    /// Length of all trials at a bound that count.
    pub sum: Duration,
}

impl Goal {
    /// No loss.
    pub fn ndr(trial: Duration) -> Goal {
        Goal { loss_ratio: 0.0, exceed_ratio: 0.5, width: 0.02, trial, sum: trial * 7 }
    }

    /// A packet in two hundred may be lost.
    pub fn pdr(trial: Duration) -> Goal {
        Goal { loss_ratio: 0.005, ..Goal::ndr(trial) }
    }
}

/// One trial.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Trial {
    pub load: f64,
    pub seconds: f64,
    pub loss_ratio: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    Lower,
    Upper,
    Undecided,
}

/// What a search came to, for one goal.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Found {
    pub goal: Goal,
    /// Highest load that is a lower bound, below every upper one; none: even the lowest is too much.
    pub lower: Option<f64>,
    /// Lowest load that is an upper bound; none: the tester has not enough.
    pub upper: Option<f64>,
    /// Packets a second forwarded at `lower`.
    pub throughput: Option<f64>,
    /// The bounds came as near as was asked for, within the time.
    pub is_done: bool,
}

/// Everything measured so far.
#[derive(Clone, Default, Debug)]
pub struct Search {
    pub trials: Vec<Trial>,
}

impl Search {
    /// Looks for one goal between two loads. `measure` carries out a trial, `is_over` says that there is no time for
    /// another one. `hint` is a load to begin near.
    pub fn find<E>(
        &mut self,
        goal: Goal,
        (least, most): (f64, f64),
        hint: f64,
        measure: &mut dyn FnMut(f64, Duration) -> Result<Trial, E>,
        is_over: &mut dyn FnMut() -> bool,
    ) -> Result<Found, E> {
        // The first guess is near; after that, twice as far each time.
        let mut step = (2.0 * goal.width).max(0.08);
        loop {
            let (lower, upper) = self.bounds(&goal);
            let load = match (lower, upper) {
                (Some(lower), Some(upper)) if upper - lower <= goal.width * upper => break,
                // A step inward from both ends is a width apart at the end.
                (Some(lower), Some(upper)) => (lower * upper).sqrt(),
                (Some(lower), None) if lower >= most => break,
                (Some(lower), None) => (lower * (1.0 + step)).min(most),
                (None, Some(upper)) if upper <= least => break,
                (None, Some(upper)) => (upper * (1.0 - step)).max(least),
                (None, None) => hint.clamp(least, most),
            };
            if lower.is_some() != upper.is_some() {
                step = (step * 2.0).min(0.5);
            }
            while self.classify(&goal, load) == Bound::Undecided {
                if self.trials.len() >= MOST_TRIALS || is_over() {
                    return Ok(self.found(goal, false));
                }
                let trial = measure(load, goal.trial)?;
                self.trials.push(Trial { load, ..trial });
            }
        }
        Ok(self.found(goal, true))
    }

    fn found(&self, goal: Goal, is_done: bool) -> Found {
        let (lower, upper) = self.bounds(&goal);
        let throughput = lower.map(|load| self.conditional_throughput(&goal, load));
        Found { goal, lower, upper, throughput, is_done }
    }

    fn at(&self, load: f64) -> impl Iterator<Item = &Trial> {
        self.trials.iter().filter(move |trial| trial.load == load)
    }

    /// Highest lower bound below the lowest upper one, and that.
    pub fn bounds(&self, goal: &Goal) -> (Option<f64>, Option<f64>) {
        let of = |wanted| move |trial: &&Trial| self.classify(goal, trial.load) == wanted;
        let upper = self.trials.iter().filter(of(Bound::Upper)).map(|trial| trial.load).reduce(f64::min);
        let below = |load: &f64| upper.is_none_or(|upper| *load < upper);
        let lower = self.trials.iter().filter(of(Bound::Lower)).map(|trial| trial.load).filter(below).reduce(f64::max);
        (lower, upper)
    }

    /// What the trials at a load say.
    pub fn classify(&self, goal: &Goal, load: f64) -> Bound {
        let (mut good, mut bad) = (0.0, 0.0);
        for trial in self.at(load).filter(|trial| is_whole(trial, goal)) {
            match trial.loss_ratio <= goal.loss_ratio {
                true => good += trial.seconds,
                false => bad += trial.seconds,
            }
        }
        // A trial is never of exactly the length it was meant to be.
        let whole = goal.sum.as_secs_f64() * 0.99;
        let missing = (whole - good - bad).max(0.0);
        let all = good + bad + missing;
        let is_lower_at_best = bad / all <= goal.exceed_ratio;
        let is_lower_at_worst = (bad + missing) / all <= goal.exceed_ratio;
        match (is_lower_at_best, is_lower_at_worst) {
            (true, true) => Bound::Lower,
            (false, _) => Bound::Upper,
            (true, false) => Bound::Undecided,
        }
    }

    /// What is forwarded at a load in the worst of the trials that the goal does not forgive.
    pub fn conditional_throughput(&self, goal: &Goal, load: f64) -> f64 {
        let mut trials: Vec<&Trial> = self.at(load).filter(|trial| is_whole(trial, goal)).collect();
        trials.sort_by(|one, other| one.loss_ratio.total_cmp(&other.loss_ratio));
        let mut wanted = goal.sum.as_secs_f64() * 0.99 * (1.0 - goal.exceed_ratio);
        let mut worst: f64 = 1.0;
        for trial in trials {
            if wanted <= 0.0 {
                break;
            }
            worst = trial.loss_ratio;
            wanted -= trial.seconds;
        }
        load * (1.0 - worst)
    }
}

fn is_whole(trial: &Trial, goal: &Goal) -> bool {
    trial.seconds >= goal.trial.as_secs_f64() * 0.95
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const TRIAL: Duration = Duration::from_secs(1);
    const RANGE: (f64, f64) = (1e3, 1e7);

    /// A device that forwards so many packets a second, and now and then loses one although it need not.
    struct Device {
        capacity: f64,
        /// One trial in so many loses a hundredth.
        hiccup: Option<u64>,
        random: Random,
        trials: usize,
    }

    impl Device {
        fn new(capacity: f64, hiccup: Option<u64>) -> Device {
            Device { capacity, hiccup, random: Random::new(7), trials: 0 }
        }

        fn trial(&mut self, load: f64, duration: Duration) -> Trial {
            self.trials += 1;
            let is_hiccup = self.hiccup.is_some_and(|one_in| self.random.below(one_in) == 0);
            let extra = if is_hiccup { 0.01 } else { 0.0 };
            let loss_ratio = ((load - self.capacity) / load).max(0.0) + extra;
            Trial { load, seconds: duration.as_secs_f64(), loss_ratio }
        }
    }

    fn find(search: &mut Search, device: &mut Device, goal: Goal, hint: f64) -> Found {
        let mut measure = |load, duration| Ok::<_, ()>(device.trial(load, duration));
        search.find(goal, RANGE, hint, &mut measure, &mut || false).unwrap()
    }

    fn check(capacity: f64, hiccup: Option<u64>, goal: Goal, hint: f64) {
        let mut device = Device::new(capacity, hiccup);
        let found = find(&mut Search::default(), &mut device, goal, hint);
        assert!(found.is_done, "{found:?}");
        let expected = capacity / (1.0 - goal.loss_ratio);
        let lower = found.lower.unwrap();
        assert!(lower <= expected && lower >= expected * (1.0 - goal.width - 1e-9), "{found:?}");
        let throughput = found.throughput.unwrap();
        assert!(throughput <= capacity * 1.000_001 && throughput >= capacity * (1.0 - goal.width - 0.011), "{found:?}");
        assert!(device.trials < 200, "{} trials", device.trials);
    }

    #[test]
    fn a_steady_device_is_found_from_anywhere() {
        for hint in [1.0, 1e3, 9e5, 1e6, 5e6, 1e9] {
            for capacity in [2e3, 1e6, 3.3e6] {
                check(capacity, None, Goal::ndr(TRIAL), hint);
                check(capacity, None, Goal::pdr(TRIAL), hint);
            }
        }
    }

    #[test]
    fn hiccups_in_less_than_half_of_the_trials_are_forgiven() {
        check(1e6, Some(5), Goal::ndr(TRIAL), 1.2e6);
        check(1e6, Some(5), Goal::pdr(TRIAL), 1.2e6);
    }

    #[test]
    fn a_device_that_always_hiccups_has_no_ndr() {
        let found = find(&mut Search::default(), &mut Device::new(1e6, Some(1)), Goal::ndr(TRIAL), 1e6);
        assert_eq!((found.lower, found.throughput), (None, None));
        assert_eq!(found.upper, Some(RANGE.0));
    }

    #[test]
    fn a_tester_with_too_little_says_so() {
        let found = find(&mut Search::default(), &mut Device::new(1e9, None), Goal::ndr(TRIAL), 1e6);
        assert_eq!((found.lower, found.upper, found.is_done), (Some(RANGE.1), None, true));
    }

    #[test]
    fn the_second_goal_needs_fewer_trials() {
        let (mut search, mut device) = (Search::default(), Device::new(1e6, None));
        find(&mut search, &mut device, Goal::ndr(TRIAL), 1.5e6);
        let first = device.trials;
        find(&mut search, &mut device, Goal::pdr(TRIAL), 1.5e6);
        assert!(device.trials - first < first / 2, "{first}, then {}", device.trials - first);
    }

    #[test]
    fn a_search_without_time_tells_what_it_knows() {
        let mut left = 20;
        let mut device = Device::new(1e6, None);
        let mut measure = |load, duration| Ok::<_, ()>(device.trial(load, duration));
        let mut is_over = || {
            left -= 1;
            left == 0
        };
        let found = Search::default().find(Goal::ndr(TRIAL), RANGE, 4e6, &mut measure, &mut is_over).unwrap();
        assert!(!found.is_done && found.upper.is_some(), "{found:?}");
    }

    #[test]
    fn a_load_is_decided_as_soon_as_no_further_trial_could_change_it() {
        let goal = Goal { sum: TRIAL * 5, ..Goal::ndr(TRIAL) };
        let mut search = Search::default();
        let mut add = |loss_ratio| {
            search.trials.push(Trial { load: 1e6, seconds: 1.0, loss_ratio });
            search.classify(&goal, 1e6)
        };
        assert_eq!([0.0, 0.1, 0.0].map(&mut add), [Bound::Undecided; 3]);
        assert_eq!(add(0.1), Bound::Undecided);
        assert_eq!(add(0.0), Bound::Lower);
        let mut search = Search::default();
        let mut add = |loss_ratio| {
            search.trials.push(Trial { load: 1e6, seconds: 1.0, loss_ratio });
            search.classify(&goal, 1e6)
        };
        assert_eq!([0.1, 0.1].map(&mut add), [Bound::Undecided; 2]);
        assert_eq!(add(0.2), Bound::Upper);
    }

    #[test]
    fn throughput_is_what_the_worst_trial_that_counts_forwarded() {
        let goal = Goal { sum: TRIAL * 4, loss_ratio: 0.1, ..Goal::ndr(TRIAL) };
        let trials = [0.3, 0.0, 0.05, 0.2].map(|loss_ratio| Trial { load: 100.0, seconds: 1.0, loss_ratio });
        let search = Search { trials: trials.to_vec() };
        assert!((search.conditional_throughput(&goal, 100.0) - 95.0).abs() < 1e-9);
    }
}
