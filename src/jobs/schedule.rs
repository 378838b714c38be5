//! When a set is due: the slots of a schedule. A slot is the second at which a run is wanted.
//!
//! A time that does not exist on a day, since the clock goes forward, is wanted as much later as the clock went forward.
//! One that exists twice is wanted the first time. A schedule of every hour (`*`) follows the time that goes by: it has
//! no slot in the hour that is left out, and slots in both that are there twice.

use cronexpr::{Crontab, FallbackTimezoneOption, ParseOptions};
use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use crate::jobs::units;

/// The shortest time between two slots, in seconds.
const SHORTEST: u64 = 60;
/// The longest.
const LONGEST: u64 = 366 * DAY as u64;
const DAY: i64 = 86_400;
/// No slot is looked for beyond this: the year 9000.
const LATEST: i64 = 221_845_392_000;
/// How far back a slot is looked for, step by step, in seconds.
const BACK: [i64; 6] = [300, 7200, 26 * 3600, 8 * DAY, 32 * DAY, 366 * DAY];

/// When something is wanted again and again.
#[derive(Debug, Clone)]
pub struct Schedule {
    slots: Slots,
}

#[derive(Debug, Clone)]
enum Slots {
    /// Multiples of so many seconds since 1970, in UTC.
    Every(i64),
    /// An expression of cron, in local time (of `zone`).
    Cron { crontab: Box<Crontab>, zone: Option<TimeZone>, each_hour: bool },
}

impl Schedule {
    /// Parses `hourly`, `daily`, `weekly`, `monthly`, `every 6h`, or the five fields of cron with or without a zone.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let slots = match words[..] {
            ["hourly"] => Slots::Every(3600),
            ["daily"] => cron(&["0", "0", "*", "*", "*"], None)?,
            ["weekly"] => cron(&["0", "0", "*", "*", "MON"], None)?,
            ["monthly"] => cron(&["0", "0", "1", "*", "*"], None)?,
            ["every", length] => match units::parse_wait(length)?.as_secs() {
                seconds @ SHORTEST..=LONGEST => Slots::Every(i64::try_from(seconds).unwrap_or(3600)),
                _ => return Err(format!("{text:?}: write a time from 1m to 366d")),
            },
            [_, _, _, _, _] => cron(&words, None)?,
            [ref fields @ .., zone] if fields.len() == 5 => {
                let zone = TimeZone::get(zone).map_err(|_| format!("{zone:?} is no time zone that is known here"))?;
                cron(fields, Some(zone))?
            }
            _ => {
                return Err(format!(
                    "{text:?} is no schedule: write hourly, daily, weekly, monthly, every 6h, or five fields as in \
                     \"30 2 * * *\", with or without a zone behind them"
                ));
            }
        };
        let schedule = Schedule { slots };
        match schedule.next(0, &TimeZone::UTC) {
            Some(_) => Ok(schedule),
            None => Err(format!("{text:?} is never due")),
        }
    }

    /// The first slot after a time. Both are seconds since 1970. `zone` is that of the machine: it holds where the
    /// schedule names none.
    pub fn next(&self, after: i64, zone: &TimeZone) -> Option<i64> {
        let after = after.clamp(0, LATEST);
        match &self.slots {
            Slots::Every(length) => Some((after.div_euclid(*length) + 1) * length),
            Slots::Cron { crontab, zone: own, each_hour } => next_of(crontab, own.as_ref().unwrap_or(zone), *each_hour, after),
        }
    }

    /// The last slot that is not after a time.
    pub fn previous(&self, at: i64, zone: &TimeZone) -> Option<i64> {
        if let Slots::Every(length) = &self.slots {
            return Some(at.clamp(0, LATEST).div_euclid(*length) * length);
        }
        let windows = BACK.into_iter().chain([5 * 366 * DAY]);
        let mut slot = windows.filter_map(|window| self.next(at - window, zone)).find(|slot| *slot <= at)?;
        while let Some(next) = self.next(slot, zone).filter(|next| *next <= at) {
            slot = next;
        }
        Some(slot)
    }
}

fn cron(fields: &[&str], zone: Option<TimeZone>) -> Result<Slots, String> {
    let text = fields.join(" ");
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    let crontab = cronexpr::parse_crontab_with(&text, options)
        .map_err(|_| format!("{text:?} is no schedule of cron: minute, hour, day of the month, month, day of the week"))?;
    let each_hour = fields.get(1).is_some_and(|hour| hour.starts_with('*'));
    Ok(Slots::Cron { crontab: Box::new(crontab), zone, each_hour })
}

/// The crontab is asked for times on the wall, as if they were UTC; then these become seconds. So what happens where the
/// clock goes forward or back is decided here.
fn next_of(crontab: &Crontab, zone: &TimeZone, each_hour: bool, after: i64) -> Option<i64> {
    let (low, high) = offsets(zone, after)?;
    let mut wall = (after + high) - (high - low) - 60;
    let mut best: Option<i64> = None;
    loop {
        wall = next_wall(crontab, wall)?;
        if let Some(best) = best {
            // What is later on the wall may be earlier only where the clock is turned.
            let (_, high) = offsets(zone, best)?;
            if wall - high > best {
                return Some(best);
            }
        }
        for second in seconds(zone, wall, each_hour).into_iter().flatten().filter(|second| *second > after) {
            best = Some(best.map_or(second, |best| best.min(second)));
        }
        if let Some(found) = best {
            let (low, high) = offsets(zone, found)?;
            if low == high {
                return best;
            }
        }
    }
}

fn next_wall(crontab: &Crontab, wall: i64) -> Option<i64> {
    let time = Timestamp::from_second(wall.clamp(0, LATEST)).ok()?;
    Some(crontab.find_next(cronexpr::MakeTimestamp(time)).ok()?.timestamp().as_second())
}

/// The smallest and the greatest distance to UTC about this time.
fn offsets(zone: &TimeZone, at: i64) -> Option<(i64, i64)> {
    let mut found = [at - 26 * 3600, at, at + 26 * 3600].into_iter().filter_map(|at| Timestamp::from_second(at).ok());
    let first = offset(zone, found.next()?);
    Some(found.map(|at| offset(zone, at)).fold((first, first), |(low, high), it| (low.min(it), high.max(it))))
}

fn offset(zone: &TimeZone, at: Timestamp) -> i64 {
    i64::from(zone.to_offset(at).seconds())
}

/// The seconds at which it is this time on the wall and a run is wanted.
fn seconds(zone: &TimeZone, wall: i64, each_hour: bool) -> [Option<i64>; 2] {
    let Ok(as_utc) = Timestamp::from_second(wall) else { return [None, None] };
    let of = |offset: Offset| Some(wall - i64::from(offset.seconds()));
    match zone.to_ambiguous_timestamp(TimeZone::UTC.to_datetime(as_utc)).offset() {
        AmbiguousOffset::Unambiguous { offset } => [of(offset), None],
        AmbiguousOffset::Gap { .. } if each_hour => [None, None],
        AmbiguousOffset::Gap { before, .. } => [of(before), None],
        AmbiguousOffset::Fold { before, after } => [of(before), of(after).filter(|_| each_hour)],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    fn slots(schedule: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule).unwrap();
        let mut at = second(from);
        let next = || {
            let slot = schedule.next(at, &berlin()).unwrap();
            assert_eq!(schedule.previous(slot, &berlin()), Some(slot));
            assert!(schedule.previous(slot - 1, &berlin()).unwrap() <= at.max(second(from)));
            at = slot;
            Timestamp::from_second(slot).unwrap().to_string()
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    #[test]
    fn schedules_are_read() {
        for good in ["daily", "hourly", "weekly", "monthly", "every 6h", "30 2 * * *", "*/5 8-18 * * MON-FRI Europe/Berlin"] {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
        let bad =
            ["", "often", "every", "every 5s", "every 999d", "30 2 * *", "61 2 * * *", "0 0 30 2 *", "0 0 * * * Nowhere/At"];
        for bad in bad {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_that_is_left_out_is_wanted_later_and_one_that_comes_twice_once() {
        // On 2026-03-29 it is 03:00 after 01:59, on 2026-10-25 02:00 again after 02:59.
        let spring = slots("30 2 * * *", "2026-03-28T00:00:00Z", 3);
        assert_eq!(spring, ["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]);
        let autumn = slots("30 2 * * *", "2026-10-24T00:00:00Z", 3);
        assert_eq!(autumn, ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        let each = slots("0 * * * *", "2026-10-24T23:30:00Z", 4);
        assert_eq!(each, ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z", "2026-10-25T03:00:00Z"]);
        let each = slots("30 * * * *", "2026-03-29T00:00:00Z", 3);
        assert_eq!(each, ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"]);
        let both = slots("0 2,3 * * *", "2026-03-29T00:00:00Z", 2);
        assert_eq!(both, ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    }

    #[test]
    fn words_and_zones_hold() {
        assert_eq!(slots("daily", "2026-06-01T12:00:00Z", 1), ["2026-06-01T22:00:00Z"]);
        assert_eq!(slots("weekly", "2026-06-02T12:00:00Z", 1), ["2026-06-07T22:00:00Z"]);
        assert_eq!(slots("0 0 * * * UTC", "2026-06-01T12:00:00Z", 1), ["2026-06-02T00:00:00Z"]);
        assert_eq!(slots("every 6h", "2026-06-01T12:00:00Z", 2), ["2026-06-01T18:00:00Z", "2026-06-02T00:00:00Z"]);
        assert_eq!(slots("0 0 29 2 *", "2026-06-01T12:00:00Z", 1), ["2028-02-28T23:00:00Z"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Against a look at every minute: what the clock on the wall shows, minute by minute.
        #[test]
        fn no_slot_is_left_out_and_none_is_made_up(
            minute in 0u32..60, hour in prop_oneof![Just("*".to_owned()), Just("*/3".to_owned()), (0u32..24).prop_map(|h| h.to_string())],
            zone in prop_oneof![Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe"), Just("UTC")],
            day in 0i64..730,
        ) {
            let zone = TimeZone::get(zone).unwrap();
            let schedule = Schedule::parse(&format!("{minute} {hour} * * *")).unwrap();
            let begin = second("2026-01-01T00:00:00Z") + day * DAY;
            let end = begin + 3 * DAY;
            let mut found = Vec::new();
            let mut at = begin;
            while let Some(next) = schedule.next(at, &zone).filter(|next| *next <= end) {
                prop_assert!(next > at);
                found.push(next);
                at = next;
            }
            let wanted = |h: i8| hour == "*" || hour == "*/3" && h % 3 == 0 || hour == h.to_string();
            let mut seen = std::collections::BTreeSet::new();
            let mut shown: Vec<i64> = Vec::new();
            for at in (begin - DAY..=end).step_by(60) {
                let wall = zone.to_datetime(Timestamp::from_second(at).unwrap());
                let first = seen.insert((wall.date(), wall.time()));
                if wall.minute() as u32 == minute && wanted(wall.hour()) && (first || hour.starts_with('*')) && at > begin {
                    shown.push(at);
                }
            }
            // A time that no clock shows, wanted on a fixed hour, is the only one beyond these.
            prop_assert!(shown.iter().all(|slot| found.contains(slot)), "{shown:?} {found:?}");
            let beyond = found.iter().filter(|slot| !shown.contains(slot)).count();
            prop_assert!(beyond <= usize::from(!hour.starts_with('*')), "{shown:?} {found:?}");
            for slot in found {
                prop_assert_eq!(schedule.previous(slot + 30, &zone), Some(slot));
            }
        }
    }
}
