//! What is due: a function of a schedule, of what is known of a set, and of the time. It knows no clock.

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::jobs::schedule::Schedule;

/// The longest time between two attempts of a run that fails.
pub(crate) const LONGEST_WAIT: i64 = 3600;
/// The first such time; it doubles.
const FIRST_WAIT: i64 = 60;
/// A run that was missed begins within so many seconds, where no `splay` is given.
const MISSED: u64 = 300;

/// What is known of the runs of a set. Times are seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SlotProgress {
    /// Everything that was wanted until then has been done.
    pub(crate) done: Option<i64>,
    /// Attempts that failed since then.
    pub(crate) failures: u32,
    /// Not before then is it tried again.
    pub(crate) retry: Option<i64>,
}

/// What holds for a set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// When it is wanted.
    pub(crate) schedule: &'a Schedule,
    /// The machine's zone.
    pub(crate) zone: &'a TimeZone,
    /// The longest random delay; `None`: only what was missed is delayed.
    pub(crate) splay: Option<Duration>,
    /// What makes delays of machines and sets differ.
    pub(crate) seed: u64,
}

/// When a set is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Now: for this slot.
    Now(i64),
    /// Not before then.
    At(i64),
    /// Never again.
    Never,
}

impl Plan<'_> {
    /// Whether it is due at `now`. `awake` is since when somebody looks: what was wanted before then was missed. Of several
    /// slots that were missed only the last counts.
    pub(crate) fn due(&self, progress: &SlotProgress, now: i64, awake: i64) -> Due {
        let next = |after| self.schedule.next(after, self.zone);
        let newest = self.schedule.previous(now, self.zone);
        let slot = match (progress.done, newest) {
            (None, newest) => newest.unwrap_or(now),
            (Some(done), Some(newest)) if newest > done => newest,
            (Some(done), _) => {
                return next(now.max(done)).map_or(Due::Never, |slot| Due::At(slot + self.delay(slot, slot)));
            }
        };
        let awake = awake.min(now);
        let mut begin = slot.max(awake) + self.delay(slot, awake);
        // A time that is farther away than any wait was set by a clock that has been turned back since.
        if let Some(retry) = progress.retry.filter(|retry| *retry <= now.saturating_add(LONGEST_WAIT)) {
            begin = begin.max(retry);
        }
        if begin <= now { Due::Now(slot) } else { Due::At(begin) }
    }

    /// Repairs the progress after the clock was turned back by more than the time between two slots: all slots until `now`
    /// count as done. Otherwise nothing would run until the clock reaches the old time again. True if it was repaired.
    pub(crate) fn set_right(&self, progress: &mut SlotProgress, now: i64) -> bool {
        let beyond = |done: &i64| self.schedule.next(now, self.zone).is_some_and(|next| next < *done);
        let wrong = progress.done.is_some_and(|done| beyond(&done));
        if wrong {
            *progress = SlotProgress { done: Some(now), ..SlotProgress::default() };
        }
        wrong
    }

    /// How long the run of a slot waits: never longer than half of the time until the next one.
    fn delay(&self, slot: i64, awake: i64) -> i64 {
        let most = match self.splay {
            Some(splay) => splay.as_secs(),
            None if slot < awake => MISSED,
            None => 0,
        };
        let until_next = self.schedule.next(slot, self.zone).map_or(u64::MAX, |next| next.abs_diff(slot));
        let most = most.min(until_next / 2);
        if most == 0 {
            return 0;
        }
        let hash = blake3::hash(&[self.seed.to_le_bytes(), slot.to_le_bytes()].concat());
        let random = hash.as_bytes().iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        i64::try_from(random % most).unwrap_or(0)
    }
}

impl SlotProgress {
    /// Notes that a slot was done.
    pub(crate) fn did(&mut self, slot: i64) {
        *self = SlotProgress { done: Some(self.done.map_or(slot, |done| done.max(slot))), ..SlotProgress::default() };
    }

    /// Notes that an attempt failed: the next one comes later, and later every time.
    pub(crate) fn failed(&mut self, now: i64) {
        let wait = FIRST_WAIT.checked_shl(self.failures).filter(|wait| (1..LONGEST_WAIT).contains(wait)).unwrap_or(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(now.saturating_add(wait));
    }
}

/// What makes delays of this set on this machine differ from those of others.
pub(crate) fn seed(machine: &[u8], set: &str) -> u64 {
    let hash = blake3::hash(&[machine, b"\0", set.as_bytes()].concat());
    hash.as_bytes().iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    /// A midnight, UTC.
    const BEGIN: i64 = 20_000 * DAY;

    fn plan<'a>(schedule: &'a Schedule, zone: &'a TimeZone, splay: Option<u64>) -> Plan<'a> {
        Plan { schedule, zone, splay: splay.map(Duration::from_secs), seed: 7 }
    }

    #[test]
    fn what_was_missed_is_made_up_for_once_and_later() {
        let (schedule, zone) = (Schedule::parse("30 2 * * *").unwrap(), TimeZone::UTC);
        let plan = plan(&schedule, &zone, None);
        let slot = BEGIN + 9000;
        let mut progress = SlotProgress { done: Some(slot), ..SlotProgress::default() };
        assert_eq!(plan.due(&progress, slot + 1, 0), Due::At(slot + DAY));
        assert_eq!(plan.due(&progress, slot + DAY, 0), Due::Now(slot + DAY));
        // The machine was off for three days.
        let on = slot + 3 * DAY + HOUR;
        let Due::At(begin) = plan.due(&progress, on, on) else { panic!("a missed run is delayed") };
        assert!(begin > on && begin < on + 300);
        assert_eq!(plan.due(&progress, begin, on), Due::Now(slot + 3 * DAY));
        progress.did(slot + 3 * DAY);
        assert_eq!(plan.due(&progress, begin + 1, on), Due::At(slot + 4 * DAY));
        // A set that was never run is due.
        let Plan { schedule, zone, .. } = plan;
        let plan = Plan { schedule, zone, splay: Some(Duration::ZERO), seed: 7 };
        assert_eq!(plan.due(&SlotProgress::default(), on, on), Due::Now(slot + 3 * DAY));
    }

    #[test]
    fn attempts_come_later_and_later_and_a_clock_does_not_stop_them() {
        let (schedule, zone) = (Schedule::parse("daily").unwrap(), TimeZone::UTC);
        let plan = plan(&schedule, &zone, Some(0));
        let mut progress = SlotProgress { done: Some(BEGIN - DAY), ..SlotProgress::default() };
        let mut now = BEGIN;
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert_eq!(plan.due(&progress, now, BEGIN), Due::Now(BEGIN));
            progress.failed(now);
            let Due::At(then) = plan.due(&progress, now, BEGIN) else { panic!("no wait") };
            waits.push(then - now);
            now = then;
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        progress.retry = Some(now + 50 * DAY);
        assert_eq!(plan.due(&progress, now, BEGIN), Due::Now(BEGIN));
        (0..200).for_each(|_| progress.failed(now));
        assert_eq!(progress.retry, Some(now + LONGEST_WAIT));
    }

    #[test]
    fn a_clock_that_is_turned_back_runs_nothing_twice() {
        let (schedule, zone) = (Schedule::parse("30 2 * * *").unwrap(), TimeZone::UTC);
        let plan = plan(&schedule, &zone, Some(0));
        let slot = BEGIN + 9000;
        let mut progress = SlotProgress { done: Some(slot), ..SlotProgress::default() };
        // By two hours: the same slot comes again, and is done.
        assert!(!plan.set_right(&mut progress, slot - 2 * HOUR));
        assert_eq!(plan.due(&progress, slot - 2 * HOUR, 0), Due::At(slot + DAY));
        assert_eq!(plan.due(&progress, slot, 0), Due::At(slot + DAY));
        // By a year: it goes on from there.
        assert!(plan.set_right(&mut progress, slot - 365 * DAY));
        assert_eq!(plan.due(&progress, slot - 365 * DAY, 0), Due::At(slot - 364 * DAY));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// A machine that is on and off, looks at random times, and whose runs may fail.
        #[test]
        fn every_slot_is_done_once_or_by_a_later_one(
            which in 0usize..4, splay in prop_oneof![Just(None), (0u64..5000).prop_map(Some)],
            steps in proptest::collection::vec((1i64..4000, 0u8..10), 1..200), begin in 0i64..400,
        ) {
            let schedule = Schedule::parse(["30 2 * * *", "every 6h", "0 * * * *", "0 12 * * MON"][which]).unwrap();
            let zone = TimeZone::get("Europe/Berlin").unwrap();
            let plan = plan(&schedule, &zone, splay);
            let (mut now, mut progress) = (BEGIN + begin * DAY, SlotProgress::default());
            let (mut awake, mut done) = (now, Vec::new());
            for (step, what) in steps {
                now += if what == 0 { 20 * step } else { step };
                if what == 0 {
                    awake = now;
                }
                prop_assert!(!plan.set_right(&mut progress, now));
                match plan.due(&progress, now, awake) {
                    Due::Now(slot) => {
                        prop_assert!(slot <= now && !done.contains(&slot) && done.last().is_none_or(|last| *last < slot));
                        prop_assert!(schedule.next(slot, &zone).unwrap() > now, "a later slot counts");
                        if what == 1 {
                            progress.failed(now);
                        } else {
                            progress.did(slot);
                            done.push(slot);
                        }
                    }
                    Due::At(then) => prop_assert!(then > now),
                    Due::Never => prop_assert!(false),
                }
            }
        }

        /// A clock that is turned at random: nothing is done twice within half of a period of time that really went by.
        #[test]
        fn turned_clocks_neither_stop_nor_repeat_it(turns in proptest::collection::vec(-50i64..50, 1..60)) {
            let (schedule, zone) = (Schedule::parse("every 6h").unwrap(), TimeZone::UTC);
            let plan = plan(&schedule, &zone, Some(0));
            let (mut real, mut wrong, mut progress, mut last) = (0i64, 0i64, SlotProgress::default(), None::<i64>);
            for turn in turns {
                // Every twenty steps of a quarter of an hour the clock is turned by some quarters.
                wrong += if turn % 5 == 0 { turn * 900 } else { 0 };
                let mut ran = false;
                for _ in 0..60 {
                    real += 900;
                    let now = BEGIN + real + wrong;
                    plan.set_right(&mut progress, now);
                    if let Due::Now(slot) = plan.due(&progress, now, now) {
                        progress.did(slot);
                        (last, ran) = (Some(now), true);
                    }
                }
                prop_assert!(ran, "15 hours have gone by without a run: {progress:?} {last:?}");
            }
        }
    }
}
