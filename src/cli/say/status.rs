//! How far a command is, in a line of text or of JSON.

use std::time::{Duration, Instant};

use serde::Serialize;
use yester::model::escape;

use crate::cli::say::output::lossy;
use crate::cli::say::units;

/// Where a command is.
#[derive(Debug)]
pub struct Status {
    /// When it began.
    began: Instant,
    /// When it began to count what it counts now.
    phase: Instant,
    unit: &'static str,
    entries: u64,
    bytes: u64,
    total_entries: u64,
    total_bytes: u64,
    /// What it is at.
    current: Vec<u8>,
    /// Warnings so far.
    pub errors: u64,
}

/// Names are restic's where it has the same thing.
#[derive(Serialize)]
struct JsonStatus<'a> {
    message_type: &'static str,
    seconds_elapsed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_remaining: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent_done: Option<f64>,
    unit: &'a str,
    items_done: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_items: Option<u64>,
    bytes_done: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes: Option<u64>,
    error_count: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    current_files: Vec<String>,
}

impl Status {
    /// Nothing is done yet.
    pub fn new() -> Self {
        let began = Instant::now();
        Status {
            began,
            phase: began,
            unit: "",
            entries: 0,
            bytes: 0,
            total_entries: 0,
            total_bytes: 0,
            current: Vec::new(),
            errors: 0,
        }
    }

    /// Takes in how far the command is. Totals that are 0 are unknown.
    pub fn advance(&mut self, unit: &'static str, done: (u64, u64), totals: (u64, u64)) {
        if self.unit != unit {
            self.unit = unit;
            self.phase = Instant::now();
        }
        (self.entries, self.bytes) = done;
        (self.total_entries, self.total_bytes) = totals;
    }

    /// Takes in what the command is at.
    pub fn at(&mut self, subject: &[u8]) {
        self.current.clear();
        self.current.extend_from_slice(subject);
    }

    /// The share that is done; `None` while it is unknown. A total may be an estimate: nothing is done before its end.
    fn share(&self) -> Option<f64> {
        let (done, total) = match self.total_bytes {
            0 => (self.entries, self.total_entries),
            total => (self.bytes, total),
        };
        (total > 0).then(|| (done as f64 / total as f64).min(if done == total { 1.0 } else { 0.99 }))
    }

    /// The same in thousandths.
    pub fn permille(&self) -> Option<u64> {
        self.share().map(|share| (share * 1000.0) as u64)
    }

    /// The time that is left, when the rest goes as what is done went.
    fn left(&self) -> Option<Duration> {
        let (share, gone) = (self.share()?, self.phase.elapsed().as_secs_f64());
        (share > 0.001 && gone > 0.5).then(|| Duration::from_secs_f64((gone * (1.0 - share) / share).min(1e9)))
    }

    /// A line of text: percent, counts, rate, the time that is left, errors.
    pub fn text(&self) -> String {
        let of = |done: String, total: Option<String>| match total {
            Some(total) => format!("{done} of {total}"),
            None => done,
        };
        let total = (self.total_entries > 0).then(|| units::count(self.total_entries));
        let mut parts = Vec::new();
        parts.extend(self.share().map(|share| format!("{:.0} %", (share * 100.0).floor())));
        if self.bytes > 0 || self.total_bytes > 0 {
            parts.push(of(units::size(self.bytes), (self.total_bytes > 0).then(|| units::size(self.total_bytes))));
        }
        if !self.unit.is_empty() {
            parts.push(format!("{} {}", of(units::count(self.entries), total), self.unit));
        }
        let gone = self.phase.elapsed().as_secs_f64();
        if self.bytes > 0 && gone > 0.5 {
            parts.push(format!("{}/s", units::size((self.bytes as f64 / gone) as u64)));
        }
        parts.push(match self.left() {
            Some(left) => format!("{} left", units::duration(left)),
            None => units::duration(self.began.elapsed()),
        });
        if self.errors > 0 {
            parts.push(units::counted(self.errors, "error", "errors"));
        }
        parts.join(", ")
    }

    /// What the command is at, for people.
    pub fn current(&self) -> String {
        escape(&self.current)
    }

    /// A line of JSON.
    pub fn json(&self) -> String {
        let known = |total: u64| (total > 0).then_some(total);
        let current = (!self.current.is_empty()).then(|| lossy(&self.current));
        let status = JsonStatus {
            message_type: "status",
            seconds_elapsed: self.began.elapsed().as_secs(),
            seconds_remaining: self.left().map(|left| left.as_secs()),
            percent_done: self.share(),
            unit: self.unit,
            items_done: self.entries,
            total_items: known(self.total_entries),
            bytes_done: self.bytes,
            total_bytes: known(self.total_bytes),
            error_count: self.errors,
            current_files: current.into_iter().collect(),
        };
        serde_json::to_string(&status).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_shown() {
        let mut status = Status::new();
        status.advance("entries", (1234, 10 << 20), (2800, 40 << 20));
        status.errors = 2;
        let text = status.text();
        for part in ["25 %, 10.0 MiB of 40.0 MiB, 1,234 of 2,800 entries, ", ", 2 errors"] {
            assert!(text.contains(part), "{text}");
        }
        status.advance("packs", (3, 0), (0, 0));
        assert!(status.text().starts_with("3 packs, "), "{}", status.text());
        let json: serde_json::Value = serde_json::from_str(&status.json()).unwrap();
        assert_eq!((json["items_done"].as_u64(), json.get("total_items"), json.get("percent_done")), (Some(3), None, None));
    }

    #[test]
    fn an_estimate_that_was_too_low_is_not_the_end() {
        let mut status = Status::new();
        status.advance("entries", (9, 900), (9, 800));
        assert!(status.text().starts_with("99 %"), "{}", status.text());
        status.advance("entries", (9, 800), (9, 800));
        assert!(status.text().starts_with("100 %"), "{}", status.text());
    }
}
