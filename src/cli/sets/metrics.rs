//! `sets --metrics`: how sets stand as Prometheus reads it from a file.

use yester::Result;

use crate::cli::say::output::{Output, lossy};
use crate::cli::sets::SetStanding;

/// A gauge: its name, what it is, and its value for a set, where there is one.
type Gauge = (&'static str, &'static str, fn(&SetStanding) -> Option<i64>);

const GAUGES: [Gauge; 6] = [
    ("yester_set_readable", "Whether the repository of the set could be read.", |set| Some(i64::from(set.standing.is_some()))),
    ("yester_set_last_success_timestamp_seconds", "When the last good snapshot was taken; 0: never.", |set| {
        Some(set.standing.as_ref()?.good.map_or(0, |time| time.secs))
    }),
    ("yester_set_last_run_timestamp_seconds", "When the last run began that was done, whole or in part.", |set| {
        Some(set.standing.as_ref()?.last?.secs)
    }),
    ("yester_set_next_due_timestamp_seconds", "When the next run is due.", |set| set.next),
    ("yester_set_overdue", "Whether the set is overdue.", |set| set.standing.as_ref().map(|_| i64::from(set.overdue.is_some()))),
    ("yester_set_bytes", "The logical bytes of the newest snapshot.", |set| {
        let last = set.standing.as_ref()?;
        last.snapshot.and_then(|_| i64::try_from(last.bytes).ok())
    }),
];

/// Prints all of them.
pub fn print(out: &mut Output, sets: &[SetStanding]) -> Result<()> {
    for (name, help, value) in GAUGES {
        out.line(&format!("# HELP {name} {help}\n# TYPE {name} gauge"))?;
        for set in sets {
            let Some(value) = value(set) else { continue };
            let (host, set) = (label(&lossy(&set.host)), label(&set.name));
            out.line(&format!("{name}{{host=\"{host}\",set=\"{set}\"}} {value}"))?;
        }
    }
    Ok(())
}

fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
