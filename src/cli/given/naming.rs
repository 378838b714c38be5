//! What a snapshot can be called: `latest`, `latest~2`, `latest@host`, a time, or the beginning of its id.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Zoned};
use yester::model::{Timestamp, escape};
use yester::{Error, Result};

use crate::cli::say::units;

/// A snapshot's name, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotName {
    /// The newest, or one before it.
    Latest {
        /// Of this host only.
        host: Option<Vec<u8>>,
        /// So many before the newest.
        back: usize,
    },
    /// The newest that is older than this.
    Before(Timestamp),
    /// The newest that has this version of a path, as `yester history` numbers them.
    Version(usize),
    /// The one whose id begins so.
    Id(String),
}

/// What a name may be, for messages.
pub const FORMS: &str =
    "latest, latest~2, latest@HOST, a time (2026-11-28, 2026-11-28T10:00, \"2 days ago\"), or at least 4 digits of an id";

impl SnapshotName {
    /// Understands `text`. A day, minute or second as a time means its end: what was newest then.
    pub fn parse(text: &[u8], now: &Zoned) -> Result<Self> {
        let wrong = || Error::invalid(format!("{:?} names no snapshot: give {FORMS} (see: yester snapshots)", escape(text)));
        let text = std::str::from_utf8(text).map_err(|_| wrong())?;
        if let Some(rest) = text.strip_prefix("latest") {
            let (host, back) = match rest.rsplit_once('~') {
                Some((host, back)) => (host, back.parse().map_err(|_| wrong())?),
                None => (rest, 0),
            };
            return match host.strip_prefix('@') {
                Some(host) if !host.is_empty() => Ok(SnapshotName::Latest { host: Some(host.into()), back }),
                None if host.is_empty() => Ok(SnapshotName::Latest { host: None, back }),
                _ => Err(wrong()),
            };
        }
        if text.len() >= 4 && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Ok(SnapshotName::Id(text.to_owned()));
        }
        if let Some(number) = text.strip_prefix('v') {
            return number.parse().map(SnapshotName::Version).map_err(|_| wrong());
        }
        let end = ago(text, now).or_else(|| end_of(text, now.time_zone())).ok_or_else(wrong)?;
        stamp(&end).map(SnapshotName::Before).ok_or_else(wrong)
    }
}

fn stamp(time: &Zoned) -> Option<Timestamp> {
    let nanos = time.timestamp().as_nanosecond();
    let secs = i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
    Some(Timestamp { secs, nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).ok()? })
}

/// Understands the time of a filter: a day, minute or second as where it begins, or how long ago.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    match ago(text, &Zoned::now()) {
        Some(time) => stamp(&time).ok_or_else(|| format!("{text:?} is no time")),
        None => units::parse_time(text).map_err(|e| format!("{e}, or \"2 days ago\"")),
    }
}

/// How many bytes of `text` are a snapshot's name: up to the first colon that is not part of a time.
pub fn len(text: &[u8]) -> usize {
    let digits = |at: usize, n: usize| {
        let found = text.get(at..at + n)?;
        found.iter().all(u8::is_ascii_digit).then_some(at + n)
    };
    let sign = |at: usize, signs: &[u8]| text.get(at).filter(|b| signs.contains(b)).map(|_| at + 1);
    let date = || digits(sign(digits(sign(digits(0, 4)?, b"-")?, 2)?, b"-")?, 2);
    let minutes = |at| digits(sign(digits(sign(at, b"T ")?, 2)?, b":")?, 2);
    let seconds = |at| digits(sign(at, b":")?, 2);
    let offset = |at| digits(sign(at, b"+-")?, 2).map(|at| sign(at, b":").and_then(|at| digits(at, 2)).unwrap_or(at));
    let start = date().and_then(minutes).map_or(0, |at| {
        let at = seconds(at).unwrap_or(at);
        offset(at).unwrap_or(at)
    });
    text.iter().skip(start).position(|b| *b == b':').map_or(text.len(), |at| start + at)
}

/// `2 days ago`, `3h ago`, `yesterday`.
fn ago(text: &str, now: &Zoned) -> Option<Zoned> {
    if text == "yesterday" {
        return now.start_of_day().ok();
    }
    let span = text.strip_suffix("ago")?.trim_end();
    let (number, unit) = span.split_at_checked(span.find(|c: char| !c.is_ascii_digit())?)?;
    let n: i64 = number.parse().ok().filter(|n| *n <= 1_000_000)?;
    let unit = unit.trim_start();
    let span = match unit.strip_suffix('s').filter(|unit| !unit.is_empty()).unwrap_or(unit) {
        "s" | "sec" | "second" => Span::new().try_seconds(n),
        "min" | "minute" => Span::new().try_minutes(n),
        "h" | "hour" => Span::new().try_hours(n),
        "d" | "day" => Span::new().try_days(n),
        "w" | "week" => Span::new().try_weeks(n),
        "m" | "month" => Span::new().try_months(n),
        "y" | "year" => Span::new().try_years(n),
        _ => return None,
    };
    now.checked_sub(span.ok()?).ok()
}

/// A name below `snapshots/` of a mount, `2026-11-28T10-00-00Z`, as a time.
fn with_colons(text: &str) -> Option<String> {
    let (day, time) = text.split_at_checked(11)?;
    (day.ends_with('T') && time.len() == 9 && time.ends_with('Z')).then(|| format!("{day}{}", time.replace('-', ":")))
}

/// The first moment after the day, minute or second that `text` says.
fn end_of(text: &str, zone: &TimeZone) -> Option<Zoned> {
    if let (10, Ok(day)) = (text.len(), text.parse::<Date>()) {
        return day.tomorrow().ok()?.to_zoned(zone.clone()).ok();
    }
    let named = with_colons(text);
    let text = named.as_deref().unwrap_or(text);
    // Without seconds: 2026-11-28T10:00, and with an offset behind it.
    let after = SignedDuration::from_secs(if text.get(16..17) == Some(":") { 1 } else { 60 });
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.checked_add(after).ok()?.to_zoned(zone.clone()));
    }
    text.get(..10)?.parse::<Date>().ok()?;
    let time: DateTime = text.parse().ok()?;
    time.to_zoned(zone.clone()).ok()?.checked_add(after).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SnapshotName> {
        let now: Zoned = "2026-11-28T10:30:15+01:00[Europe/Berlin]".parse().unwrap();
        SnapshotName::parse(text.as_bytes(), &now)
    }

    fn before(text: &str) -> String {
        match parse(text).unwrap() {
            SnapshotName::Before(time) => jiff::Timestamp::from_second(time.secs).unwrap().to_string(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn names_are_understood() {
        let latest = |host: Option<&str>, back| SnapshotName::Latest { host: host.map(|h| h.as_bytes().to_vec()), back };
        assert_eq!(parse("latest").unwrap(), latest(None, 0));
        assert_eq!(parse("latest~12").unwrap(), latest(None, 12));
        assert_eq!(parse("latest@web").unwrap(), latest(Some("web"), 0));
        assert_eq!(parse("latest@web~1").unwrap(), latest(Some("web"), 1));
        assert_eq!(parse("2026").unwrap(), SnapshotName::Id("2026".to_owned()));
        for bad in [
            "",
            "latest~",
            "latest~x",
            "latest@",
            "latestx",
            "abc",
            "ABCD",
            "x y",
            "2 ago",
            "days ago",
            "2026-13-01",
            "-1 day ago",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_mean_their_end() {
        let times = [
            ("2026-11-20", "2026-11-20T23:00:00Z"),
            ("2026-11-20T10:00", "2026-11-20T09:01:00Z"),
            ("2026-11-20 10:00", "2026-11-20T09:01:00Z"),
            ("2026-11-20T10:00:00", "2026-11-20T09:00:01Z"),
            ("2026-11-20T10:00:00Z", "2026-11-20T10:00:01Z"),
            ("2026-11-20T10:00Z", "2026-11-20T10:01:00Z"),
            ("2026-11-20T10:00:00+02:00", "2026-11-20T08:00:01Z"),
            ("2026-11-20T10-00-00Z", "2026-11-20T10:00:01Z"),
            ("2026-11-20T10:00+02:00", "2026-11-20T08:01:00Z"),
            ("2 days ago", "2026-11-26T09:30:15Z"),
            ("1 day ago", "2026-11-27T09:30:15Z"),
            ("3h ago", "2026-11-28T06:30:15Z"),
            ("2 weeks ago", "2026-11-14T09:30:15Z"),
            ("1 month ago", "2026-10-28T09:30:15Z"),
            ("yesterday", "2026-11-27T23:00:00Z"),
        ];
        for (text, time) in times {
            assert_eq!(before(text), time, "{text}");
        }
    }

    #[test]
    fn a_time_keeps_its_colons() {
        let names = [
            ("latest:/a:b", "latest"),
            ("latest", "latest"),
            ("2026-11-28:/etc", "2026-11-28"),
            ("2026-11-28T10:00:/etc", "2026-11-28T10:00"),
            ("2026-11-28 10:00:05:", "2026-11-28 10:00:05"),
            ("2026-11-28T10:00:05+01:00:/etc", "2026-11-28T10:00:05+01:00"),
            ("2026-11-28T10:00:05Z:/etc", "2026-11-28T10:00:05Z"),
            ("2026-11-28T10:00", "2026-11-28T10:00"),
            ("2 days ago:/etc", "2 days ago"),
            (":x", ""),
        ];
        for (text, name) in names {
            assert_eq!(&text[..len(text.as_bytes())], name, "{text}");
        }
    }
}
