//! The parts of a snapshot, as they are shown.

use serde::Serialize;
use yester::model::{Part, Snapshot, Timestamp, escape};

use crate::cli::say::output::{exact, lossy};
use crate::cli::say::units;

/// A part.
#[derive(Serialize)]
pub struct JsonPart {
    kind: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished: Option<String>,
    bytes: u64,
    changed: u64,
    errors: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

/// The parts of a snapshot.
pub fn json(snapshot: &Snapshot) -> Vec<JsonPart> {
    let time = |time: Timestamp| (time != Timestamp::default()).then(|| units::utc_time(time));
    let part = |part: &Part| JsonPart {
        kind: part.kind_name(),
        state: part.state_name(),
        path: lossy(&part.path),
        path_b64: exact(&part.path),
        started: time(part.started),
        finished: time(part.finished),
        bytes: part.bytes,
        changed: part.changed,
        errors: part.errors,
        message: lossy(&part.message),
    };
    snapshot.composition.parts.iter().map(part).collect()
}

/// Those of which nothing is there.
pub fn failed(snapshot: &Snapshot) -> impl Iterator<Item = &Part> {
    snapshot.composition.parts.iter().filter(|part| part.state == Part::FAILED)
}

/// What is not as it should be with a snapshot, in brackets; empty when nothing is.
pub fn mark(snapshot: &Snapshot) -> String {
    let failed: Vec<String> = failed(snapshot).map(|part| format!("without {}", escape(&part.path))).collect();
    let rest = snapshot.statistics.errors.saturating_sub(failed.len() as u64);
    let changed = |part: &Part| part.kind == Part::PATHS && part.state == Part::CHANGED;
    let word = match rest {
        0 => None,
        _ if snapshot.composition.parts.iter().any(changed) => Some("changed while it was read".to_owned()),
        _ => Some("incomplete".to_owned()),
    };
    let all: Vec<String> = failed.into_iter().chain(word).collect();
    if all.is_empty() { String::new() } else { format!(" ({})", all.join(", ")) }
}

/// Lines about the parts that are not whole.
pub fn notes(snapshot: &Snapshot) -> Vec<String> {
    let parts = snapshot.composition.parts.iter().filter(|part| part.state != Part::COMPLETE);
    parts
        .map(|part| {
            let what = if part.path.is_empty() { part.kind_name().to_owned() } else { escape(&part.path) };
            let changed = units::counted(part.changed, "file", "files");
            let errors = units::counted(part.errors, "entry", "entries");
            let how = match part.state {
                Part::FAILED => format!("failed, and is not in the snapshot: {}", escape(&part.message)),
                Part::CHANGED => format!("{changed} changed while they were read"),
                Part::INCOMPLETE => format!("{errors} could not be read as they were"),
                _ => part.state_name().to_owned(),
            };
            format!("{what}: {how}")
        })
        .collect()
}
