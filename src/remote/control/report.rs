//! How the sets of a host stand: what its agent says, and what the server answers about it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Result};

/// The longest body of a report, in bytes.
pub(crate) const MAX_REPORT: usize = 512 << 10;
/// The most sets of a host.
pub(crate) const MAX_SETS: usize = 1000;
/// The longest message of a set, in bytes.
pub(crate) const MAX_WORD: usize = 200;

/// How a set stands, as its agent knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetReport {
    /// The set.
    #[schema(min_length = 1, max_length = 128)]
    pub set: String,
    /// When it is wanted, as the configuration says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub schedule: Option<String>,
    /// When it is run next, RFC 3339. A time that has passed: it waits for its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due: Option<String>,
    /// When it was last run by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<String>,
    /// How that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 255)]
    pub exit_code: Option<u8>,
    /// When its last good snapshot was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<String>,
    /// Since when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_since: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it is overdue, if there is no good snapshot until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue_at: Option<String>,
}

/// An agent says how the sets of its host stand: all that have a schedule and are of this repository.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostReport {
    /// The host that the agent runs on.
    #[schema(min_length = 1, max_length = 253)]
    pub host: String,
    /// Its sets.
    #[schema(max_items = 1000)]
    pub sets: Vec<SetReport>,
}

impl HostReport {
    /// Checks it as far as a server can.
    pub(crate) fn check(&self) -> Result<()> {
        let plain = |text: &str, most: usize| !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control);
        if !plain(&self.host, 253) {
            return Err(Error::invalid("host must be a name of 1 to 253 bytes"));
        }
        if self.sets.len() > MAX_SETS {
            return Err(Error::invalid(format!("a host has {MAX_SETS} sets at most")));
        }
        for set in &self.sets {
            if !plain(&set.set, 128) {
                return Err(Error::invalid("set must be a name of 1 to 128 bytes"));
            }
            let short = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= MAX_WORD);
            if !short(&set.schedule) || !short(&set.message) {
                return Err(Error::invalid(format!("schedule and message may have {MAX_WORD} bytes")));
            }
            for time in set.times().into_iter().flatten() {
                second(time)?;
            }
        }
        Ok(())
    }
}

impl SetReport {
    fn times(&self) -> [Option<&str>; 5] {
        [&self.next_due, &self.last_run, &self.last_good, &self.failed_since, &self.overdue_at].map(|time| time.as_deref())
    }
}

/// The second of a time of a report.
pub(crate) fn second(time: &str) -> Result<i64> {
    let parsed = time.parse::<jiff::Timestamp>();
    parsed.map(jiff::Timestamp::as_second).map_err(|_| Error::invalid("a time must be as RFC 3339 says: 2026-11-29T02:30:00Z"))
}

/// How a set stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReportedSet {
    /// What its agent said last.
    #[serde(flatten)]
    pub report: SetReport,
    /// Whether it is overdue by the server's clock, also when its agent says nothing any more.
    pub overdue: bool,
}

/// How a host stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostStanding {
    /// The host.
    pub host: String,
    /// When its agent has said so, by the server's clock.
    pub reported_at: String,
    /// The id of the agent's token.
    pub token: String,
    /// Its sets.
    pub sets: Vec<ReportedSet>,
}

/// The hosts whose agents have reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostList {
    /// By name.
    pub hosts: Vec<HostStanding>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_report_is_refused() {
        let set = |set: &str| SetReport { set: set.to_owned(), ..SetReport::default() };
        let report = |host: &str, sets| HostReport { host: host.to_owned(), sets }.check().is_ok();
        let timed = |time: &str| SetReport { overdue_at: Some(time.to_owned()), ..set("a") };
        assert!(report("h", vec![]) && report("h", vec![set("a"), timed("2026-11-29T02:30:00Z")]));
        assert!(!report("", vec![]) && !report("h\n", vec![]) && !report("h", vec![set("")]));
        assert!(!report("h", vec![timed("tomorrow")]) && !report("h", vec![set("a"); MAX_SETS + 1]));
        assert!(!report("h", vec![SetReport { message: Some("x".repeat(MAX_WORD + 1)), ..set("a") }]));
    }
}
