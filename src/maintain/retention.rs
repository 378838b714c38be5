//! Which snapshots of a series a policy keeps, and why. The rules are restic's, so that its users find their numbers
//! meaning the same.
//!
//! Periods are those of a calendar in one time zone: the newest snapshot of each hour, day, ISO week, month and year
//! counts, as far back as the number of periods *with snapshots* goes. When a number is not used up by the periods there
//! are, the oldest snapshot is kept as well, so that the history becomes as long as was asked for.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Zoned};

use crate::error::{Error, Result};
use crate::model::{Snapshot, SnapshotId, Timestamp, escape};
use crate::repo::groups::state::{self, GroupState};
use crate::repo::times::{self, Received};
use crate::repo::{Repository, groups};

/// How many of something are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepCount {
    /// None of them by this rule.
    #[default]
    None,
    /// So many.
    Of(u64),
    /// All.
    All,
}

impl KeepCount {
    fn is_left(self) -> bool {
        !matches!(self, KeepCount::None | KeepCount::Of(0))
    }

    fn take(&mut self) {
        if let KeepCount::Of(n) = self {
            *n -= 1;
        }
    }
}

impl fmt::Display for KeepCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeepCount::None => f.write_str("0"),
            KeepCount::Of(n) => write!(f, "{n}"),
            KeepCount::All => f.write_str("unlimited"),
        }
    }
}

impl FromStr for KeepCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" | "all" | "-1" => Ok(KeepCount::All),
            _ => text.parse().map(KeepCount::Of).map_err(|_| format!("{text:?} is no number; write 7, or unlimited")),
        }
    }
}

/// A span of time back from the newest snapshot: years, months, days and hours, as in `1y6m`, `30d`, `36h`, `2w`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Within {
    text: String,
    /// Years, months, days, hours.
    parts: [i64; 4],
}

impl FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no span of time: write numbers with y, m, w, d or h, as in 30d or 1y6m");
        let (mut parts, mut rest) = ([0i64; 4], text);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| *n > 0).ok_or_else(wrong)?;
            let (number, unit) = rest.split_at_checked(digits).ok_or_else(wrong)?;
            let number: i64 = number.parse().map_err(|_| wrong())?;
            let (part, factor) = match unit.as_bytes().first() {
                Some(b'y') => (0, 1),
                Some(b'm') => (1, 1),
                Some(b'w') => (2, 7),
                Some(b'd') => (2, 1),
                Some(b'h') => (3, 1),
                _ => return Err(wrong()),
            };
            let sum = number.checked_mul(factor).and_then(|n| n.checked_add(parts[part]));
            // A thousand years is what the calendar certainly has.
            parts[part] = sum.filter(|n| *n <= [1000, 12_000, 365_000, 8_760_000][part]).ok_or_else(wrong)?;
            rest = unit.get(1..).ok_or_else(wrong)?;
        }
        if parts == [0; 4] { Err(wrong()) } else { Ok(Within { text: text.to_owned(), parts }) }
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is to be kept of every series; a snapshot stays when any rule keeps it.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The newest ones.
    pub last: KeepCount,
    /// The newest of each hour that has any.
    pub hourly: KeepCount,
    /// The newest of each day.
    pub daily: KeepCount,
    /// The newest of each ISO week.
    pub weekly: KeepCount,
    /// The newest of each month.
    pub monthly: KeepCount,
    /// The newest of each year.
    pub yearly: KeepCount,
    /// Everything so close to the newest.
    pub within: Option<Within>,
    /// The newest of each hour, day, ISO week, month and year (in this order) so close to the newest.
    pub within_each: [Option<Within>; 5],
    /// What makes a series.
    pub group_by: GroupBy,
    /// Everything with all tags of one of these sets.
    pub tags: Vec<Vec<Vec<u8>>>,
    /// Snapshots that are pinned: they stay.
    pub pinned: HashSet<SnapshotId>,
    /// Snapshots that show signs of a source that was turned over, and nobody has said that they are as they should be:
    /// what is before them in their series stays.
    pub turned: HashSet<SnapshotId>,
    /// When a server received snapshots: the earlier of this and of what they say counts.
    pub received: Received,
    /// What is known of groups.
    pub groups: GroupStandings,
}

/// How groups stand, as far as a policy cares: a group is one item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupStandings {
    /// Those that are still being taken: their parts stay.
    pub(crate) open: HashSet<SnapshotId>,
    /// Those that are over and lack a part: they make nothing else go.
    pub(crate) partial: HashSet<SnapshotId>,
}

impl GroupStandings {
    /// As they are in a repository. One of which nothing can come any more is over, also if nobody has said so.
    pub fn read(repo: &Repository, now: Timestamp) -> Result<Self> {
        let mut out = GroupStandings::default();
        for (id, records) in groups::list(repo)?.rounds() {
            match state::view(records) {
                Some(view) if !view.over && state::is_under_way(records, now) => drop(out.open.insert(id)),
                Some(view) if view.state != GroupState::Completed => drop(out.partial.insert(id)),
                _ => {}
            }
        }
        Ok(out)
    }

    fn is_open(&self, snapshot: &Snapshot) -> bool {
        snapshot.composition.group.as_ref().is_some_and(|part| self.open.contains(&part.group))
    }

    fn is_partial(&self, snapshot: &Snapshot) -> bool {
        snapshot.composition.group.as_ref().is_some_and(|part| self.partial.contains(&part.group))
    }
}

/// What snapshots must have in common to be of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    /// The host.
    pub(crate) host: bool,
    /// The given paths.
    pub(crate) paths: bool,
    /// The tags.
    pub(crate) tags: bool,
    /// The token that put them, where a server knows it: nobody can claim another's.
    pub token: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        GroupBy { host: true, paths: true, tags: false, token: true }
    }
}

impl FromStr for GroupBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut out = GroupBy { host: false, paths: false, tags: false, token: false };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part {
                "host" | "hosts" => out.host = true,
                "path" | "paths" => out.paths = true,
                "tag" | "tags" => out.tags = true,
                "token" | "tokens" => out.token = true,
                _ => {
                    return Err(format!(
                        "{part:?} is nothing to group by: write host, paths, tags, token, or an empty text for one group"
                    ));
                }
            }
        }
        Ok(out)
    }
}

/// The newest of each period, as far back as a span of time goes.
struct Near {
    /// Later than this; `None`: from the beginning of the calendar.
    since: Option<Zoned>,
    period: Period,
    reason: String,
    /// The period that it kept something of last.
    last: Option<(i64, i64)>,
}

impl Near {
    /// Why it keeps snapshot `number` of the series, if it does; `chosen` is the one that stands for its period.
    fn keeps(&mut self, time: &Zoned, number: u64, chosen: bool) -> Option<&str> {
        let period = (self.period)(time, number);
        if !chosen || self.last == Some(period) || self.since.as_ref().is_some_and(|since| time <= since) {
            return None;
        }
        self.last = Some(period);
        Some(&self.reason)
    }
}

/// The period of a time, as two numbers that differ from one period to the next.
type Period = fn(&Zoned, u64) -> (i64, i64);

/// One of the counting rules at work.
struct CountingRule {
    left: KeepCount,
    period: Period,
    /// Why it keeps the newest of a period, and why the very oldest.
    reasons: [&'static str; 2],
    /// The period that it kept something of last.
    last: Option<(i64, i64)>,
}

impl CountingRule {
    fn new(left: KeepCount, period: Period, reasons: [&'static str; 2]) -> Self {
        CountingRule { left, period, reasons, last: None }
    }

    /// Why it keeps snapshot `number` of the series, if it does; `chosen` is the one that stands for its period.
    fn keeps(&mut self, time: &Zoned, number: u64, chosen: bool, oldest: bool) -> Option<&'static str> {
        let period = (self.period)(time, number);
        let new = chosen && self.last != Some(period);
        if !self.left.is_left() || !new && !oldest {
            return None;
        }
        self.last = Some(period);
        self.left.take();
        Some(self.reasons[usize::from(!new)])
    }
}

fn day(t: &Zoned) -> i64 {
    i64::from(t.month()) << 8 | i64::from(t.day())
}

impl Policy {
    /// For each of these (newest first) the snapshot that it stays for: itself, if it shows signs of a source that was turned
    /// over; else the next one after it, of the same host and paths, that does. Each one counts, also where an older one
    /// was never looked at.
    pub(crate) fn held(&self, newest_first: &[&Snapshot]) -> Vec<Option<SnapshotId>> {
        let (mut next, mut out) = (HashMap::new(), Vec::with_capacity(newest_first.len()));
        for snapshot in newest_first {
            if self.turned.contains(&snapshot.id) {
                next.insert(snapshot.series(), snapshot.id);
            }
            out.push(next.get(&snapshot.series()).copied());
        }
        out
    }

    /// Whether it has no rule that could keep anything.
    pub fn is_empty(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        let within = self.within.is_some() || self.within_each.iter().any(Option::is_some);
        !counts.iter().any(|count| count.is_left()) && !within && self.tags.is_empty()
    }

    /// Why each snapshot of one series (in any order) is kept; one without a reason goes. Of one period a complete
    /// snapshot stays, if there is one.
    pub fn apply(&self, series: &[&Snapshot], zone: &TimeZone, now: Timestamp) -> Vec<Vec<String>> {
        let mut out: Vec<Vec<String>> =
            series.iter().map(|s| self.tags.iter().filter_map(|set| tagged(s, set)).collect()).collect();
        let (mut timed, mut partial): (Vec<Timed<'_>>, Vec<Timed<'_>>) = (Vec::with_capacity(series.len()), Vec::new());
        for (at, snapshot) in series.iter().enumerate() {
            let Some(counting) = times::counting(snapshot, times::at(&self.received, snapshot.id), now) else {
                out[at].push("its time is in the future".to_owned());
                continue;
            };
            match zoned(counting, zone) {
                Some(time) => {
                    let which = if self.groups.is_partial(snapshot) { &mut partial } else { &mut timed };
                    which.push(Timed { at, snapshot, counting, time });
                }
                None => out[at].push("its time is in no calendar".to_owned()),
            }
        }
        timed.sort_by_key(|t| std::cmp::Reverse((t.counting, t.snapshot.time, t.snapshot.id)));
        self.count(&timed, zone, &mut out);
        let newest = timed.first().map(|timed| timed.counting);
        for part in partial.iter().filter(|part| newest.is_none_or(|newest| part.counting > newest)) {
            out[part.at].push("part of a group that lacks others, and nothing newer is whole".to_owned());
        }
        for (at, _) in series.iter().enumerate().filter(|(_, snapshot)| self.groups.is_open(snapshot)) {
            out[at].push("part of a group that is still taken".to_owned());
        }
        out
    }

    /// Applies the rules to snapshots with times, the newest first.
    fn count(&self, timed: &[Timed<'_>], zone: &TimeZone, out: &mut [Vec<String>]) {
        let mut rules = [
            CountingRule::new(self.last, |_, number| (number as i64, 0), ["last snapshot"; 2]),
            CountingRule::new(self.hourly, hour, ["hourly snapshot", "oldest hourly snapshot"]),
            CountingRule::new(self.daily, daily, ["daily snapshot", "oldest daily snapshot"]),
            CountingRule::new(self.weekly, week, ["weekly snapshot", "oldest weekly snapshot"]),
            CountingRule::new(self.monthly, month, ["monthly snapshot", "oldest monthly snapshot"]),
            CountingRule::new(self.yearly, yearly, ["yearly snapshot", "oldest yearly snapshot"]),
        ];
        let newest = timed.first().map(|t| t.counting);
        let since = self.within.as_ref().and_then(|within| since(within, newest, zone));
        let mut near = self.near(newest, zone);
        let of_rules: Vec<Vec<bool>> = rules.iter().map(|rule| chosen(timed, rule.period)).collect();
        let of_near: Vec<Vec<bool>> = near.iter().map(|near| chosen(timed, near.period)).collect();
        for (number, Timed { at, time, .. }) in timed.iter().enumerate() {
            let reasons = &mut out[*at];
            if let Some(within) = &self.within
                && since.as_ref().is_none_or(|since| time > since)
            {
                reasons.push(format!("within {within}"));
            }
            let oldest = number + 1 == timed.len();
            for (rule, chosen) in rules.iter_mut().zip(&of_rules) {
                reasons.extend(rule.keeps(time, number as u64, chosen[number], oldest).map(str::to_owned));
            }
            for (near, chosen) in near.iter_mut().zip(&of_near) {
                reasons.extend(near.keeps(time, number as u64, chosen[number]).map(str::to_owned));
            }
        }
        // Where the last ones are all incomplete, the last complete one stays with them.
        let last = timed.iter().take_while(|t| out[t.at].iter().any(|why| why == "last snapshot"));
        if self.last.is_left()
            && last.clone().count() > 0
            && last.clone().all(|t| !is_complete(t.snapshot))
            && let Some(complete) = timed.iter().find(|t| is_complete(t.snapshot))
        {
            out[complete.at].push("last complete snapshot".to_owned());
        }
    }

    /// The rules that keep one of each period of a span of time.
    fn near(&self, newest: Option<Timestamp>, zone: &TimeZone) -> Vec<Near> {
        let periods: [(&str, Period); 5] =
            [("hourly", hour), ("daily", daily), ("weekly", week), ("monthly", month), ("yearly", yearly)];
        let given = self.within_each.iter().zip(periods).filter_map(|(within, period)| Some((within.as_ref()?, period)));
        let rule = |(within, (name, period)): (&Within, (&str, Period))| {
            let reason = format!("{name} within {within}");
            Near { since: since(within, newest, zone), period, reason, last: None }
        };
        given.map(rule).collect()
    }
}

/// A snapshot with the time that counts for it.
struct Timed<'a> {
    at: usize,
    snapshot: &'a Snapshot,
    counting: Timestamp,
    time: Zoned,
}

/// Whether all that was to be in a snapshot is in it.
fn is_complete(snapshot: &Snapshot) -> bool {
    snapshot.statistics.errors == 0
}

/// Which of these (the newest first) stand for their periods: the newest complete one of each, else the newest.
fn chosen(timed: &[Timed<'_>], period: Period) -> Vec<bool> {
    let periods: Vec<(i64, i64)> = timed.iter().enumerate().map(|(number, t)| period(&t.time, number as u64)).collect();
    let mut out = vec![false; timed.len()];
    let mut begin = 0;
    for run in periods.chunk_by(|a, b| a == b) {
        let complete = timed[begin..begin + run.len()].iter().position(|t| is_complete(t.snapshot));
        out[begin + complete.unwrap_or(0)] = true;
        begin += run.len();
    }
    out
}

/// From when on something stays: reckoned from the newest snapshot, but not from one of the future, which would take all
/// others with it. `None`: from the beginning of the calendar.
fn since(within: &Within, newest: Option<Timestamp>, zone: &TimeZone) -> Option<Zoned> {
    let [years, months, days, hours] = within.parts;
    let span = Span::new().try_years(years).and_then(|s| s.try_months(months)).and_then(|s| s.try_days(days));
    zoned(newest?, zone)?.checked_sub(span.and_then(|s| s.try_hours(hours)).ok()?).ok()
}

fn daily(time: &Zoned, _: u64) -> (i64, i64) {
    (i64::from(time.year()), day(time))
}

fn yearly(time: &Zoned, _: u64) -> (i64, i64) {
    (i64::from(time.year()), 0)
}

fn hour(time: &Zoned, _: u64) -> (i64, i64) {
    (i64::from(time.year()), day(time) << 8 | i64::from(time.hour()))
}

fn month(time: &Zoned, _: u64) -> (i64, i64) {
    (i64::from(time.year()), i64::from(time.month()))
}

fn week(time: &Zoned, _: u64) -> (i64, i64) {
    let week = time.date().iso_week_date();
    (i64::from(week.year()), i64::from(week.week()))
}

fn tagged(snapshot: &Snapshot, set: &[Vec<u8>]) -> Option<String> {
    let all = set.iter().all(|tag| snapshot.tags.contains(tag));
    all.then(|| format!("tag {}", set.iter().map(|tag| escape(tag)).collect::<Vec<_>>().join(",")))
}

fn zoned(time: Timestamp, zone: &TimeZone) -> Option<Zoned> {
    let time = jiff::Timestamp::new(time.secs, i32::try_from(time.nanos).ok()?).ok()?;
    Some(time.to_zoned(zone.clone()))
}

/// The error for a policy that keeps nothing because it says nothing.
pub(crate) fn no_policy() -> Error {
    Error::invalid(
        "say which snapshots go, by their ids, or which stay: --keep-last, --keep-within, --keep-daily and so on, --keep-tag",
    )
}
