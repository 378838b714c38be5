//! Forgetting: what a policy keeps and why, what names stand for, and that nothing is deleted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::faults;
use crate::common::tiny;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::common::record::Operation;
use faults::Faults;
use jiff::civil::date;
use jiff::tz::TimeZone;
use tiny::{About, Tiny, dir, file};
use yester::error::{Error, ErrorKind};
use yester::maintain::forget::{ForgetOptions, by_names, by_policy, forget};
use yester::maintain::retention::{KeepCount, Policy, Within};
use yester::model::{Snapshot, SnapshotId, Timestamp};
use yester::observe::{Event, Observer};
use yester::repo::snapshots::{self, SnapshotFilter};
use yester::storage::{Class, Name};
use yester::task::Task;

const NOW: Timestamp = Timestamp { secs: 4_000_000_000, nanos: 0 };

/// A snapshot of nothing, at a time.
fn snapshot(number: u64, secs: i64, tags: &[&str]) -> Snapshot {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let time = Timestamp { secs, nanos: 0 };
    Snapshot {
        id: SnapshotId(id),
        time,
        finished: time,
        host: b"host".to_vec(),
        user: Vec::new(),
        paths: vec![b"/data".to_vec()],
        tags: tags.iter().map(|tag| tag.as_bytes().to_vec()).collect(),
        parent: None,
        writer: None,
        chain: yester::model::Chain::default(),
        root: yester::format::snapshot::empty_root(),
        scan: None,
        scan_start: time,
        links: None,
        owners: Default::default(),
        rules: Vec::new(),
        composition: Default::default(),
        statistics: Default::default(),
        program: Vec::new(),
    }
}

/// Seconds of a local time.
fn at(zone: &TimeZone, y: i16, m: i8, d: i8, h: i8, min: i8) -> i64 {
    date(y, m, d).at(h, min, 0, 0).to_zoned(zone.clone()).unwrap().timestamp().as_second()
}

/// Why each snapshot (oldest first) stays, as the policy says; empty for one that goes.
fn reasons(policy: &Policy, zone: &TimeZone, snapshots: &[Snapshot]) -> Vec<String> {
    let newest_first: Vec<&Snapshot> = snapshots.iter().rev().collect();
    let mut reasons: Vec<String> = policy.apply(&newest_first, zone, NOW).iter().map(|why| why.join(", ")).collect();
    reasons.reverse();
    reasons
}

#[test]
fn each_rule_keeps_the_newest_of_its_periods() {
    let utc = TimeZone::UTC;
    let times = [
        at(&utc, 2024, 12, 30, 10, 0), // ISO week 1 of 2025, a Monday
        at(&utc, 2025, 1, 5, 10, 0),   // its Sunday
        at(&utc, 2025, 1, 6, 10, 0),
        at(&utc, 2025, 1, 6, 10, 30),
        at(&utc, 2025, 1, 6, 11, 0),
        at(&utc, 2025, 2, 1, 0, 0),
    ];
    let all: Vec<Snapshot> = times.iter().enumerate().map(|(n, secs)| snapshot(n as u64, *secs, &[])).collect();
    let kept = |policy: Policy| {
        let why = reasons(&policy, &utc, &all);
        (0..why.len()).filter(|at| !why[*at].is_empty()).collect::<Vec<_>>()
    };
    let of = KeepCount::Of;
    assert_eq!(kept(Policy { last: of(2), ..Policy::default() }), [4, 5]);
    assert_eq!(kept(Policy { last: KeepCount::All, ..Policy::default() }), [0, 1, 2, 3, 4, 5]);
    assert_eq!(kept(Policy { hourly: of(3), ..Policy::default() }), [3, 4, 5]);
    assert_eq!(kept(Policy { daily: of(2), ..Policy::default() }), [4, 5]);
    assert_eq!(kept(Policy { weekly: of(3), ..Policy::default() }), [1, 4, 5]);
    assert_eq!(kept(Policy { monthly: of(2), ..Policy::default() }), [4, 5]);
    assert_eq!(kept(Policy { yearly: of(1), ..Policy::default() }), [5]);
    assert_eq!(kept(Policy { yearly: of(2), ..Policy::default() }), [0, 5]);
    // Not so many years there are: the oldest makes the history as long as can be.
    let why = reasons(&Policy { yearly: of(9), weekly: of(9), ..Policy::default() }, &utc, &all);
    assert_eq!(why[0], "oldest weekly snapshot, yearly snapshot");
    assert_eq!(why[1], "weekly snapshot");
    assert_eq!(why[5], "weekly snapshot, yearly snapshot");
    assert_eq!(kept(Policy { monthly: of(1), last: of(1), ..Policy::default() }), [5]);
}

#[test]
fn days_are_those_of_the_zone() {
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    // 23:30 and 00:30 local are one day in UTC; the clock goes back at 3:00 on 2025-10-26, so 2:30 comes twice.
    let first = at(&berlin, 2025, 6, 1, 23, 30);
    let twice = at(&berlin, 2025, 10, 26, 1, 30) + 3600;
    let times = [first, first + 3600, twice, twice + 3600, twice + 7200];
    let all: Vec<Snapshot> = times.iter().enumerate().map(|(n, secs)| snapshot(n as u64, *secs, &[])).collect();
    let kept =
        |policy: &Policy, zone: &TimeZone| reasons(policy, zone, &all).iter().map(|why| !why.is_empty()).collect::<Vec<_>>();
    let daily = Policy { daily: KeepCount::Of(3), ..Policy::default() };
    assert_eq!(kept(&daily, &berlin), [true, true, false, false, true]);
    assert_eq!(kept(&daily, &TimeZone::UTC), [true, true, false, false, true]);
    let two = Policy { daily: KeepCount::Of(2), ..Policy::default() };
    assert_eq!(kept(&two, &berlin), [false, true, false, false, true]);
    let hourly = Policy { hourly: KeepCount::Of(2), ..Policy::default() };
    assert_eq!(kept(&hourly, &berlin), [false, false, false, true, true]);
    assert_eq!(kept(&Policy { hourly: KeepCount::Of(3), ..Policy::default() }, &berlin), [false, true, false, true, true]);
}

#[test]
fn spans_reach_back_from_the_newest_that_is_not_of_the_future() {
    let utc = TimeZone::UTC;
    let day = 24 * 3600;
    let newest = at(&utc, 2025, 3, 31, 12, 0);
    let times = [newest - 40 * day, newest - 30 * day, newest - 30 * day + 1, newest, NOW.secs + 50 * day];
    let all: Vec<Snapshot> = times.iter().enumerate().map(|(n, secs)| snapshot(n as u64, *secs, &[])).collect();
    let kept = |span: &str| {
        let policy = Policy { within: Some(span.parse().unwrap()), ..Policy::default() };
        let why = reasons(&policy, &utc, &all);
        let future = "its time is in the future";
        assert!(why.iter().all(|why| why.is_empty() || *why == format!("within {span}") || *why == future), "{why:?}");
        why.iter().map(|why| !why.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(kept("30d"), [false, false, true, true, true]);
    assert_eq!(kept("720h"), [false, false, true, true, true]);
    assert_eq!(kept("31d"), [false, true, true, true, true]);
    // A month before the 31st of March is the end of February.
    assert_eq!(kept("1m"), [false, true, true, true, true]);
    assert_eq!(kept("1m9d"), [false, true, true, true, true]);
    assert_eq!(kept("1m10d"), [true; 5]);
    assert_eq!(kept("900y"), [true; 5]);
    for bad in ["", "d", "30", "30x", "-1d", "1.5d", "0d", "99999999999999999999d", "1001y", "ü"] {
        assert!(bad.parse::<Within>().is_err(), "{bad:?}");
    }
    assert_eq!("1y2m3w4d5h".parse::<Within>().unwrap().to_string(), "1y2m3w4d5h");
    // Only of the future: all of it stays.
    let future = [snapshot(1, NOW.secs + 9, &[]), snapshot(2, NOW.secs + 900 * day, &[])];
    let policy = Policy { within: Some("1h".parse().unwrap()), ..Policy::default() };
    assert_eq!(reasons(&policy, &utc, &future), ["within 1h", "its time is in the future"]);
}

/// A clock that was ahead, or somebody who wants his snapshots to stay in the place of others: neither pushes anything out.
#[test]
fn a_time_of_the_future_counts_for_nothing() {
    let utc = TimeZone::UTC;
    let day = 24 * 3600;
    let mut all: Vec<Snapshot> = (0..4).map(|n| snapshot(n, NOW.secs - (9 - n as i64) * day, &[])).collect();
    all.extend((4..11).map(|n| snapshot(n, NOW.secs + (10 + n as i64) * day, &[])));
    let policies = [
        Policy { last: KeepCount::Of(2), ..Policy::default() },
        Policy { daily: KeepCount::Of(2), ..Policy::default() },
        Policy { within: Some("7d".parse().unwrap()), ..Policy::default() },
    ];
    for policy in &policies {
        let why = reasons(policy, &utc, &all);
        assert!(why[2..4].iter().all(|why| !why.is_empty() && !why.contains("future")), "{why:?}");
        assert!(why[4..].iter().all(|why| why == "its time is in the future"), "{why:?}");
    }
    // A server received them: they have times, which are those of the receipt.
    for policy in policies {
        let received = all[4..]
            .iter()
            .map(|s| (s.id, yester::storage::Receipt { at: Timestamp { secs: NOW.secs - 30 * day, nanos: 0 }, by: None }))
            .collect();
        let why = reasons(&Policy { received, ..policy }, &utc, &all);
        assert!(why[2..4].iter().all(|why| !why.is_empty()) && why[4..10].iter().all(String::is_empty), "{why:?}");
    }
    // Nor is one of them the latest; where there is nothing else, it is.
    let mut sorted = all.clone();
    let now = yester::sys::clock::now();
    sorted.iter_mut().enumerate().for_each(|(n, s)| s.time.secs = now.secs + if n < 4 { n as i64 - 9 } else { 10 * 365 * day });
    yester::repo::times::sort(&mut sorted, &Default::default());
    assert_eq!(sorted.last().unwrap().id, all[3].id);
    assert_eq!(snapshots::find(&sorted, "latest", &SnapshotFilter::default()).unwrap().id, all[3].id);
    yester::repo::times::sort(&mut sorted[..7], &Default::default());
}

/// Of one period a complete snapshot stays, and of the last ones too.
#[test]
fn a_complete_snapshot_is_kept_before_an_incomplete_one() {
    let utc = TimeZone::UTC;
    let incomplete = |n, secs| {
        let mut out = snapshot(n, secs, &[]);
        out.statistics.errors = 1;
        out
    };
    let (first, second) = (at(&utc, 2025, 1, 6, 0, 0), at(&utc, 2025, 1, 7, 0, 0));
    let all = [
        snapshot(0, first + 3600, &[]),
        incomplete(1, first + 7200),
        snapshot(2, second + 3600, &[]),
        incomplete(3, second + 7200),
        incomplete(4, second + 9000),
    ];
    let why = |policy| reasons(&policy, &utc, &all);
    assert_eq!(why(Policy { daily: KeepCount::Of(1), ..Policy::default() }), ["", "", "daily snapshot", "", ""]);
    assert_eq!(why(Policy { daily: KeepCount::Of(2), ..Policy::default() }), ["daily snapshot", "", "daily snapshot", "", ""]);
    let last = why(Policy { last: KeepCount::Of(2), ..Policy::default() });
    assert_eq!(last, ["", "", "last complete snapshot", "last snapshot", "last snapshot"]);
    // A day of which there is no complete one has the newest.
    let why = reasons(&Policy { daily: KeepCount::Of(1), ..Policy::default() }, &utc, &all[3..]);
    assert_eq!(why, ["", "daily snapshot"]);
}

/// What holds much less than what goes for it is told.
#[test]
fn an_empty_snapshot_that_pushes_others_out_is_named() {
    let sized = |n, bytes| {
        let mut out = snapshot(n, NOW.secs - 10_000 + n as i64, &[]);
        out.statistics.bytes = bytes;
        out
    };
    let all = [sized(0, 1_000_000), sized(1, 900_000), sized(2, 0), sized(3, 99_999)];
    let policy = |n| Policy { last: KeepCount::Of(n), ..Policy::default() };
    let small = |n| {
        let series = by_policy(&all, &SnapshotFilter::default(), &policy(n), &TimeZone::UTC, NOW, false).unwrap();
        series[0].small.iter().map(|s| s.id).collect::<Vec<_>>()
    };
    assert_eq!(small(2), [all[2].id, all[3].id]);
    assert!(small(4).is_empty());
}

#[test]
fn spans_keep_one_of_each_period() {
    let utc = TimeZone::UTC;
    let hour = 3600;
    let newest = at(&utc, 2025, 3, 31, 12, 30);
    // Two an hour for two days, and one a month before.
    let mut times: Vec<i64> = (0..96).map(|n| newest - n * hour / 2).collect();
    times.extend([newest - 31 * 24 * hour, newest - 400 * 24 * hour]);
    times.reverse();
    let all: Vec<Snapshot> = times.iter().enumerate().map(|(n, secs)| snapshot(n as u64, *secs, &[])).collect();
    let kept = |at: usize, span: &str| {
        let mut policy = Policy::default();
        policy.within_each[at] = Some(span.parse().unwrap());
        assert!(!policy.is_empty());
        reasons(&policy, &utc, &all).iter().filter(|why| !why.is_empty()).cloned().collect::<Vec<_>>()
    };
    assert_eq!(kept(0, "10h"), vec!["hourly within 10h"; 10]);
    assert_eq!(kept(1, "1d"), vec!["daily within 1d"; 2]);
    assert_eq!(kept(1, "10d").len(), 3);
    assert_eq!(kept(2, "10d").len(), 2);
    assert_eq!(kept(3, "2m"), vec!["monthly within 2m"; 2]);
    assert_eq!(kept(4, "5y"), vec!["yearly within 5y"; 2]);
    let both = Policy { last: KeepCount::Of(1), within_each: Default::default(), ..Policy::default() };
    assert_eq!(reasons(&both, &utc, &all).iter().filter(|why| !why.is_empty()).count(), 1);
}

#[test]
fn series_are_what_they_are_grouped_by() {
    let with = |number: u64, host: &str, path: &str, tag: &str| Snapshot {
        host: host.into(),
        paths: vec![path.into()],
        ..snapshot(number, number as i64, &[tag])
    };
    let all = [with(1, "a", "/x", "t"), with(2, "a", "/y", "t"), with(3, "b", "/x", "u"), with(4, "b", "/x", "t")];
    let kept = |by: &str| {
        let policy = Policy { last: KeepCount::Of(1), group_by: by.parse().unwrap(), ..Policy::default() };
        let series = by_policy(&all, &SnapshotFilter::default(), &policy, &TimeZone::UTC, NOW, false).unwrap();
        let mut kept: Vec<i64> = series.iter().flat_map(|one| one.keep.iter().map(|(kept, _)| kept.time.secs)).collect();
        kept.sort_unstable();
        kept
    };
    assert_eq!(kept("host,paths"), [1, 2, 4]);
    assert_eq!(kept("paths,host"), kept("host, path"));
    assert_eq!(kept("host"), [2, 4]);
    assert_eq!(kept("tags"), [3, 4]);
    assert_eq!(kept("paths,tags"), [2, 3, 4]);
    assert_eq!(kept(""), [4]);
    assert!("hosts,colour".parse::<yester::maintain::retention::GroupBy>().is_err());
}

#[test]
fn tags_keep_and_impossible_times_stay() {
    let all = [snapshot(1, 10, &["a"]), snapshot(2, 20, &["a", "b"]), snapshot(3, i64::MAX, &[]), snapshot(4, i64::MIN, &[])];
    let set = |tags: &[&str]| tags.iter().map(|tag| tag.as_bytes().to_vec()).collect::<Vec<_>>();
    let policy = Policy { tags: vec![set(&["a", "b"]), set(&["c"])], ..Policy::default() };
    let why = reasons(&policy, &TimeZone::UTC, &all);
    assert_eq!(why, ["", "tag a,b", "its time is in the future", "its time is in no calendar"]);
}

/// The counting rules against a second statement of them: of the periods that have snapshots, the newest of each of the
/// last N; and the oldest of all when there are fewer.
#[test]
fn counting_agrees_with_sets_of_periods() {
    let utc = TimeZone::UTC;
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..300 {
        let mut times: Vec<i64> = (0..1 + random(60)).map(|_| 1_700_000_000 + random(9_000_000) as i64).collect();
        times.sort_unstable();
        let all: Vec<Snapshot> = times.iter().enumerate().map(|(n, secs)| snapshot(n as u64, *secs, &[])).collect();
        let n = 1 + random(12);
        let of = KeepCount::Of(n);
        let cases: [(Policy, &str); 3] = [
            (Policy { hourly: of, ..Policy::default() }, "%F %H"),
            (Policy { daily: of, ..Policy::default() }, "%F"),
            (Policy { monthly: of, ..Policy::default() }, "%Y-%m"),
        ];
        for (policy, period) in cases {
            let mut newest: BTreeMap<String, usize> = BTreeMap::new();
            for (at, secs) in times.iter().enumerate() {
                let time = jiff::Timestamp::from_second(*secs).unwrap().to_zoned(utc.clone());
                newest.insert(time.strftime(period).to_string(), at);
            }
            let mut kept: Vec<usize> = newest.values().rev().take(n as usize).copied().collect();
            if (newest.len() as u64) < n {
                kept.push(0);
            }
            kept.sort_unstable();
            kept.dedup();
            let why = reasons(&policy, &utc, &all);
            let found: Vec<usize> = (0..why.len()).filter(|at| !why[*at].is_empty()).collect();
            assert_eq!(found, kept, "{period} {n} {times:?}");
        }
    }
}

fn tiny() -> (Tiny, Vec<SnapshotId>) {
    let tiny = Tiny::new();
    let tree = dir([("a", file("content"))]);
    let mut ids = Vec::new();
    for (host, paths, time) in
        [("one", ["/a"], 100), ("one", ["/a"], 200), ("one", ["/b"], 300), ("two", ["/a"], 400), ("two", ["/a"], 500)]
    {
        ids.push(tiny.commit(&tree, About { host, paths: paths.to_vec(), ..About::at(time) }).id);
    }
    (tiny, ids)
}

#[test]
fn policies_apply_to_each_series_that_passes_the_filter() {
    let (tiny, ids) = tiny();
    let all = snapshots::list(&tiny.repo).unwrap();
    let policy = Policy { last: KeepCount::Of(1), ..Policy::default() };
    let apply = |policy: &Policy, filter: &SnapshotFilter, unsafe_all: bool| {
        by_policy(&all, filter, policy, &TimeZone::UTC, NOW, unsafe_all).map(|series| {
            let of = |s: &[&Snapshot]| s.iter().map(|s| s.id).collect::<Vec<_>>();
            series.iter().map(|s| (s.keep.iter().map(|(s, _)| s.id).collect::<Vec<_>>(), of(&s.remove))).collect::<Vec<_>>()
        })
    };
    let everything = SnapshotFilter::default();
    let expected = vec![(vec![ids[1]], vec![ids[0]]), (vec![ids[2]], vec![]), (vec![ids[4]], vec![ids[3]])];
    assert_eq!(apply(&policy, &everything, false).unwrap(), expected);
    let two = SnapshotFilter { hosts: vec![b"two".to_vec()], ..SnapshotFilter::default() };
    assert_eq!(apply(&policy, &two, false).unwrap(), expected[2..]);
    // A policy that says nothing, or keeps nothing of a series.
    let nothing = Policy::default();
    let usage = |result: Result<_, Error>| assert_eq!(result.map(|_: Vec<_>| ()).unwrap_err().kind(), ErrorKind::Invalid);
    usage(apply(&nothing, &everything, false));
    usage(apply(&nothing, &everything, true));
    usage(apply(&nothing, &two, false));
    assert_eq!(apply(&nothing, &two, true).unwrap(), [(vec![], vec![ids[3], ids[4]])]);
    let tagged = Policy { tags: vec![vec![b"none has it".to_vec()]], ..Policy::default() };
    usage(apply(&tagged, &everything, false));
    assert_eq!(apply(&tagged, &everything, true).unwrap().iter().map(|(keep, _)| keep.len()).sum::<usize>(), 0);
    let zero = Policy { last: KeepCount::Of(0), ..Policy::default() };
    usage(apply(&zero, &everything, true));
}

#[test]
fn names_are_found_and_the_last_snapshot_is_guarded() {
    let (tiny, ids) = tiny();
    let all = snapshots::list(&tiny.repo).unwrap();
    let name = |texts: &[&str], lost: &[SnapshotId], unsafe_all: bool| {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        by_names(&tiny.repo, &all, &texts, &SnapshotFilter::default(), lost, unsafe_all)
    };
    let full: Vec<String> = ids.iter().map(SnapshotId::to_string).collect();
    assert_eq!(name(&["latest", &full[0], "latest"], &[], false).unwrap(), [ids[4], ids[0]]);
    let everything: Vec<&str> = full.iter().map(String::as_str).collect();
    assert_eq!(name(&everything, &[], false).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(name(&everything, &[], true).unwrap().len(), 5);
    // One that was seen and is gone can be given up by its whole id; one that nobody knows is a slip.
    let gone = SnapshotId([7; 32]);
    assert_eq!(name(&[&gone.to_string()], &[gone], false).unwrap(), [gone]);
    assert_eq!(name(&[&gone.to_string()], &[], false).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(name(&[&gone.to_string()[..8]], &[gone], false).unwrap_err().kind(), ErrorKind::NotFound);
    // A fence is no snapshot.
    let fence = yester::repo::session::begin(&tiny.repo, NOW).unwrap();
    yester::repo::session::abandon(&tiny.repo, fence, NOW).unwrap();
    assert_eq!(name(&[&fence.to_string()], &[], false).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn forgetting_marks_and_deletes_nothing() {
    let (tiny, ids) = tiny();
    let storage = Faults::over(tiny.storage.clone());
    let key = yester::chunk::keys::Credential::KeyFile([7; 32]);
    let repo = yester::repo::Repository::open(storage.clone(), &key).unwrap();
    let before: Vec<Vec<Name>> = Class::ALL.iter().map(|class| faults::names(&*tiny.storage, *class)).collect();
    storage.take();
    assert_eq!(forget(&repo, &ids[..2], &ForgetOptions::default(), &Task::default().at(NOW)).unwrap(), ids[..2]);
    let mut log = storage.take();
    log.retain(|operation| !matches!(operation, Operation::List(_) | Operation::Read(..)));
    assert!(matches!(log[..], [Operation::Create(..), Operation::Create(..), Operation::Sync]), "{log:?}");
    assert_eq!(snapshots::list(&repo).unwrap().len(), 3);
    for (class, before) in Class::ALL.iter().zip(before) {
        let now = faults::names(&*tiny.storage, *class);
        match class {
            Class::Forgotten => assert_eq!(now.len(), 2),
            _ => assert!(now == before, "{class:?}"),
        }
    }
    // Again: it is forgotten already.
    assert_eq!(forget(&repo, &ids[..1], &ForgetOptions::default(), &Task::default().at(NOW)).unwrap(), ids[..1]);
    // One that cannot be marked is said, and the others are.
    let bad = Name::Forgotten(ids[2]);
    storage.before(move |operation| match operation {
        Operation::Create(name, _) if *name == bad => Err(faults::full()),
        _ => Ok(()),
    });
    let told = Arc::new(Told::default());
    assert_eq!(forget(&repo, &ids[2..4], &ForgetOptions::default(), &Task::new(&*told).at(NOW)).unwrap(), ids[3..4]);
    let told = told.0.lock().unwrap();
    assert!(told.len() == 1 && told[0].contains(&ids[2].to_string()) && told[0].contains("No space left"), "{told:?}");
}

/// What an observer was warned of.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Observer for Told {
    fn event(&self, event: &Event<'_>) {
        if let Event::Warning { subject, message } = event {
            self.0.lock().unwrap().push(format!("{}: {message}", String::from_utf8_lossy(subject)));
        }
    }
}
