//! Sizes and times as people write and read them.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use yester::jobs::units::sum_of_units;
pub use yester::jobs::units::{parse_rate, parse_size, parse_wait};
use yester::model::Timestamp;

const PREFIXES: &[u8] = b"KMGTPE";

/// A size in bytes with three digits and a binary prefix: `0 B`, `17 KiB`, `1.25 GiB`.
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut prefix = ' ';
    for p in PREFIXES {
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        prefix = char::from(*p);
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {prefix}iB")
}

/// A number with thin groups of thousands: `78,604`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `2 files`.
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// A duration: `0.8 s`, `12 s`, `3:07 min`, `1:02:03 h`.
pub fn duration(time: std::time::Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02} h", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

/// Parses `30d`, `12h`, `2w`, or several parts in a row, as in `1y6m` and `1d12h`: hours, days, weeks, months of 30 days
/// and years of 365.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    const HOUR: u64 = 3600;
    const UNITS: [(u8, u64); 5] =
        [(b'h', HOUR), (b'd', 24 * HOUR), (b'w', 7 * 24 * HOUR), (b'm', 30 * 24 * HOUR), (b'y', 365 * 24 * HOUR)];
    sum_of_units(text, &UNITS).ok_or_else(|| format!("{text:?} is no length of time: write 12h, 30d, 2w, 6m or 1y"))
}

/// Parses how long something is left, in seconds: as [`parse_duration`], or `0`.
pub fn parse_grace(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse_duration(text).map(|time| time.as_secs()) }
}

fn jiff(time: Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.secs, i32::try_from(time.nanos).ok()?).ok()
}

/// A time in the local zone, to the second, with the zone: `2026-11-20 10:04:11 CET`. File systems hold times that no calendar has;
/// those are shown as `@` and seconds.
pub fn local_time(time: Timestamp) -> String {
    match jiff(time) {
        Some(t) => t.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string(),
        None => format!("@{}", time.secs),
    }
}

/// A time in UTC with its nanoseconds, as in RFC 3339; the same exception.
pub fn utc_time(time: Timestamp) -> String {
    match jiff(time) {
        Some(t) => format!("{t:.9}"),
        None => format!("@{}.{:09}", time.secs, time.nanos),
    }
}

/// Parses `2026-11-20T10:04:11Z` (any offset), or `2026-11-20 10:04:11`, `2026-11-20 10:04`, `2026-11-20` in the local zone.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("{text:?} is no time: write 2026-11-20, \"2026-11-20 10:04:11\" or 2026-11-20T10:04:11Z");
    let time = match text.parse::<jiff::Timestamp>() {
        Ok(time) => time,
        Err(_) => {
            let civil: DateTime = text.parse().map_err(|_| wrong())?;
            civil.to_zoned(TimeZone::system()).map_err(|_| wrong())?.timestamp()
        }
    };
    // Before 1970 the parts of this type are both negative; ours has nanoseconds from 0 up.
    let nanos = time.as_nanosecond();
    let secs = i64::try_from(nanos.div_euclid(1_000_000_000)).map_err(|_| wrong())?;
    Ok(Timestamp { secs, nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_are_shown() {
        let shown = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1 << 20, "1.00 MiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (500 << 30, "500 GiB"),
        ];
        for (bytes, text) in shown {
            assert_eq!(size(bytes), text);
        }
        assert_eq!((count(7), count(1000), count(1234567)), ("7".into(), "1,000".into(), "1,234,567".into()));
    }

    #[test]
    fn lengths_of_time_are_read() {
        let hours = |n: u64| Ok(std::time::Duration::from_secs(n * 3600));
        for (text, expected) in [("12h", 12), ("30d", 720), ("2w", 336), ("1y6m", 13_080), ("0d", 0)] {
            assert_eq!(parse_duration(text), hours(expected), "{text}");
        }
        for bad in ["", "30", "d", "30x", "-1d", "1d x", "99999999999999999999d", "9999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_and_shown() {
        assert_eq!(parse_time("1970-01-01T00:00:01.5Z"), Ok(Timestamp { secs: 1, nanos: 500_000_000 }));
        assert_eq!(parse_time("1969-12-31T23:59:59.5Z"), Ok(Timestamp { secs: -1, nanos: 500_000_000 }));
        let local = parse_time("2026-11-20 10:04:11").unwrap();
        assert!(local_time(local).starts_with("2026-11-20 10:04:11 "), "with its zone");
        assert!(local_time(parse_time("2026-11-20").unwrap()).starts_with("2026-11-20 00:00:00 "));
        assert!(parse_time("yesterday").is_err());
        assert_eq!(utc_time(Timestamp { secs: 1, nanos: 5 }), "1970-01-01T00:00:01.000000005Z");
        assert_eq!(utc_time(Timestamp { secs: i64::MAX, nanos: 0 }), format!("@{}.000000000", i64::MAX));
        assert_eq!(utc_time(Timestamp { secs: -1, nanos: 500_000_000 }), "1969-12-31T23:59:59.500000000Z");
    }
}
