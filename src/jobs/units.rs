//! Sizes, times to wait and levels of compression as people write them.

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::chunk::codec::Compression;
use crate::error::{Error, Result};
use crate::jobs::config::keys::LimitKeys;
use crate::remote::rate::{Limit, RateRule};

/// The level of zstd for `fastest`: it takes half the time of level 1 on source code.
const FASTEST: i32 = -1;
const PREFIXES: &[u8] = b"KMGTPE";

/// Parses `512`, `10M`, `1.5G` … : powers of 1024, with or without `iB` or `B` after the letter.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write a number of bytes, or one with K, M, G or T, as in 10M");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let unit = unit.trim_start().to_ascii_uppercase();
    let letter = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
    let power = match letter.as_bytes() {
        [] => 0,
        [letter] => 1 + PREFIXES.iter().position(|p| p == letter).ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    let factor = 1u64.checked_shl(10 * u32::try_from(power).unwrap_or(u32::MAX)).ok_or_else(wrong)?;
    if let Ok(number) = number.parse::<u64>() {
        return number.checked_mul(factor).ok_or_else(|| format!("{text:?} is more than 16 EiB"));
    }
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * factor as f64;
    if power > 0 && (0.0..u64::MAX as f64).contains(&bytes) { Ok(bytes.round() as u64) } else { Err(wrong()) }
}

/// A limit of the configuration, by the time of day as it is here.
pub fn limit(keys: Option<&LimitKeys>) -> Result<Option<Limit>> {
    let Some(keys) = keys else { return Ok(None) };
    let rules: Result<Vec<_>, String> = keys.0.iter().map(|rule| parse_limit(rule)).collect();
    Ok(Some(Limit::by_time(rules.map_err(Error::invalid)?, TimeZone::system())))
}

/// A time to wait: `90s`, `30m`, `2h`, `1d`, or several of these.
pub fn parse_wait(text: &str) -> Result<Duration, String> {
    const UNITS: [(u8, u64); 4] = [(b's', 1), (b'm', 60), (b'h', 3600), (b'd', 86_400)];
    sum_of_units(text, &UNITS).ok_or_else(|| format!("{text:?} is no time to wait: write 90s, 30m, 2h or 1d"))
}

/// The sum of numbers with units, as in `1d12h`; `units` are letters with their seconds. `None`: it is none, or too long.
pub fn sum_of_units(text: &str, units: &[(u8, u64)]) -> Option<Duration> {
    let (mut seconds, mut rest) = (0u64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at_checked(digits)?;
        let (_, of_unit) = units.iter().find(|(letter, _)| unit.as_bytes().first() == Some(letter))?;
        let part = number.parse::<u64>().ok()?.checked_mul(*of_unit).filter(|part| *part < 1 << 40)?;
        seconds = seconds.checked_add(part)?;
        rest = unit.get(1..).unwrap_or_default();
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

/// A rate in bytes a second, as in `2M`. At least 1K: a server closes connections that are much slower.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        rate if rate >= 1024 => Ok(rate),
        _ => Err("it must be at least 1K".to_owned()),
    }
}

/// A part of a limit: `2M`, `off`, `8M 08:00-18:00`.
pub fn parse_limit(text: &str) -> Result<RateRule, String> {
    let wrong = || format!("{text:?} is no limit: write 2M, off, or 8M 08:00-18:00");
    let (rate, hours) = match text.trim().split_once(' ') {
        Some((rate, hours)) => (rate, Some(hours.trim())),
        None => (text.trim(), None),
    };
    let minute = |time: &str| {
        let (hour, minute) = time.trim().split_once(':')?;
        let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
        (hour < 24 && minute < 60 || (hour, minute) == (24, 0)).then_some(hour * 60 + minute)
    };
    let minutes = match hours {
        None => None,
        Some(hours) => {
            let (from, to) = hours.split_once('-').ok_or_else(wrong)?;
            Some((minute(from).ok_or_else(wrong)?, minute(to).ok_or_else(wrong)?))
        }
    };
    let rate = if rate == "off" { None } else { Some(parse_rate(rate)?) };
    Ok(RateRule { minutes, rate })
}

/// `auto`, `off`, `fastest`, or a level.
pub fn parse_compression(text: &str) -> Result<Compression, String> {
    match text {
        "auto" => Ok(Compression::Auto),
        "off" => Ok(Compression::Off),
        "fastest" => Ok(Compression::Level(FASTEST)),
        _ => match text.parse() {
            Ok(level @ 1..=19) => Ok(Compression::Level(level)),
            _ => Err("write auto, off, fastest, or a level from 1 to 19".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let good = [
            ("0", 0),
            ("512", 512),
            ("10M", 10 << 20),
            ("10MiB", 10 << 20),
            ("10 mb", 10 << 20),
            ("1.5k", 1536),
            ("1E", 1 << 60),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "M", "-1", "1.5", "10X", "10MM", "1e3", "99999999999E", "1..5K", "²"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_to_wait_are_read() {
        let seconds = |n| Ok(Duration::from_secs(n));
        for (text, expected) in [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1d", 86_400), ("0s", 0)] {
            assert_eq!(parse_wait(text), seconds(expected), "{text}");
        }
        for bad in ["", "30", "m", "1w", "-1m", "99999999999999d"] {
            assert!(parse_wait(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_are_read() {
        let good = [
            ("2M", RateRule { minutes: None, rate: Some(2 << 20) }),
            ("off", RateRule { minutes: None, rate: None }),
            ("8M 08:00-18:30", RateRule { minutes: Some((480, 1110)), rate: Some(8 << 20) }),
            ("off 22:00-24:00", RateRule { minutes: Some((1320, 1440)), rate: None }),
        ];
        good.into_iter().for_each(|(text, rule)| assert_eq!(parse_limit(text), Ok(rule), "{text}"));
        for bad in ["", "1", "2M 8-18", "2M 08:00", "2M 25:00-26:00", "2M 08:60-09:00", "fast 08:00-09:00"] {
            assert!(parse_limit(bad).is_err(), "{bad}");
        }
    }
}
