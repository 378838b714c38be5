//! What `doctor` prints.

use std::time::Duration;

use serde::Serialize;
use yester::Result;
use yester::doctor::{HealTally, Loss, WrittenAnew};

use super::Healing;
use super::steps::Steps;
use crate::cli::context::Context;
use crate::cli::say::output::Output;
use crate::cli::say::units;

#[derive(Serialize)]
struct JsonHeal<'a> {
    message_type: &'static str,
    dry_run: bool,
    source: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_chunks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tree_chunks: Option<u64>,
}

#[derive(Serialize)]
struct JsonRewritten {
    message_type: &'static str,
    dry_run: bool,
    snapshot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<String>,
    entries_lost: u64,
}

#[derive(Serialize)]
struct DoctorSummary {
    message_type: &'static str,
    dry_run: bool,
    sound: bool,
    data_chunks_healed: u64,
    tree_chunks_healed: u64,
    chunks_lost: u64,
    snapshots_lost: u64,
    snapshots_rewritten: u64,
    pruned: bool,
    total_duration: f64,
}

/// Lines for people, or objects for programs.
pub struct Printer<'a> {
    pub context: &'a Context,
    pub dry: bool,
}

impl Printer<'_> {
    /// A line for people.
    pub fn line(&self, text: &str) -> Result<()> {
        let mut out = Output::new();
        if !self.context.global.json && !self.context.global.quiet {
            out.line(text)?;
        }
        out.finish()
    }

    fn json<T: Serialize>(&self, value: &T) -> Result<()> {
        let mut out = Output::new();
        if self.context.global.json {
            out.json(value)?;
        }
        out.finish()
    }

    /// What is made anew from the rest of the repository.
    pub fn steps(&self, steps: &Steps) -> Result<()> {
        for (source, n) in [
            ("keys", steps.keys),
            ("objects", steps.objects),
            ("index", steps.segments + steps.packs),
            ("parity_rows", steps.parity),
        ] {
            if n > 0 {
                self.json(&self.heal(source, "", Some(n), None))?;
            }
        }
        steps.lines().iter().try_for_each(|line| self.line(&format!("  {line}")))
    }

    /// What a source has of what is lost.
    pub fn source(&self, healing: &Healing, tally: HealTally) -> Result<()> {
        self.json(&self.heal(healing.kind, &healing.name, None, Some(tally)))?;
        if tally.chunks() == 0 {
            return self.line(&format!("  nothing of what is lost: {}", healing.text));
        }
        let parts =
            [(tally.data, "chunk of files", "chunks of files"), (tally.pages, "part of directories", "parts of directories")];
        let parts = parts.into_iter().filter(|(n, ..)| *n > 0).map(|(n, one, many)| units::counted(n, one, many));
        self.line(&format!("  {}: {}", parts.collect::<Vec<_>>().join(", "), healing.text))
    }

    fn heal<'n>(&self, source: &'static str, name: &'n str, objects: Option<u64>, tally: Option<HealTally>) -> JsonHeal<'n> {
        let (data_chunks, tree_chunks) = (tally.map(|tally| tally.data), tally.map(|tally| tally.pages));
        JsonHeal { message_type: "heal", dry_run: self.dry, source, name, objects, data_chunks, tree_chunks }
    }

    /// What nothing has.
    pub fn lost(&self, loss: &Loss) -> Result<()> {
        if loss.is_empty() && loss.unreadable.is_empty() {
            return Ok(());
        }
        for (id, e) in &loss.unreadable {
            self.line(&format!("  snapshot {} cannot be read: {e}", id.short()))?;
        }
        if loss.is_empty() {
            return Ok(());
        }
        let chunks = units::counted(loss.chunks(), "chunk is", "chunks are");
        let snapshots = units::counted(loss.hit_snapshots(), "snapshot", "snapshots");
        self.line(&format!("  {chunks} nowhere that was looked at; {snapshots} lose something"))
    }

    /// What became of a snapshot.
    pub fn rewritten(&self, rewritten: &WrittenAnew) -> Result<()> {
        let WrittenAnew { old, new, lost } = rewritten;
        self.json(&JsonRewritten {
            message_type: "rewritten",
            dry_run: self.dry,
            snapshot: old.to_string(),
            snapshot_id: new.map(|id| id.to_string()),
            entries_lost: *lost,
        })?;
        let entries = units::counted(*lost, "entry", "entries");
        self.line(&match (new, self.dry) {
            (Some(new), _) => format!("wrote {} anew as {}, without {entries}; forgot the old one", old.short(), new.short()),
            (None, true) => format!("would write {} anew, without {entries}, and forget the old one", old.short()),
            (None, false) => format!("forgot {}: nothing of it is left", old.short()),
        })
    }

    /// The end.
    pub fn summary(&self, done: &Treated, time: Duration) -> Result<()> {
        self.json(&DoctorSummary {
            message_type: "summary",
            dry_run: self.dry,
            sound: done.sound,
            data_chunks_healed: done.healed.data,
            tree_chunks_healed: done.healed.pages,
            chunks_lost: done.lost,
            snapshots_lost: done.snapshots_lost,
            snapshots_rewritten: done.rewritten,
            pruned: done.pruned,
            total_duration: time.as_secs_f64(),
        })?;
        let time = units::duration(time);
        match (done.sound, self.dry) {
            (true, _) => self.line(&format!("no damage ({time})")),
            (false, true) => self.line(&format!("nothing was changed ({time})")),
            (false, false) => Ok(()),
        }
    }
}

/// What was done.
#[derive(Debug, Default)]
pub struct Treated {
    /// There is no damage at the end.
    pub sound: bool,
    pub healed: HealTally,
    pub lost: u64,
    pub snapshots_lost: u64,
    pub rewritten: u64,
    pub pruned: bool,
}
