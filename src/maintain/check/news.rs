//! What is written down of damaged packs, and what this check adds to it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::format::damage::DamagedExtent;
use crate::model::{PackId, Timestamp, escape};
use crate::repo::Repository;
use crate::repo::damaged::{self, Damaged, DamagedPacks};
use crate::storage::Name;

use super::catalog::Catalog;
use super::{CheckReport, Findings};

/// What was known when the check began, and what it found.
#[derive(Debug, Default)]
pub(super) struct News {
    /// What the repository knew.
    pub(crate) known: Arc<Damaged>,
    /// What was found.
    pub(crate) found: DamagedPacks,
    /// Packs that were read whole.
    pub(crate) read: HashSet<PackId>,
    /// Those of them that were known to be damaged and are sound.
    pub(crate) sound: HashSet<PackId>,
    /// Chunks that snapshots need are in no pack that the index names.
    pub(crate) loss: bool,
}

impl News {
    pub(crate) fn new(known: Arc<Damaged>) -> Self {
        News { known, ..News::default() }
    }

    /// Adds what a reader found.
    pub(crate) fn add(&mut self, found: &DamagedPacks) {
        found.iter().for_each(|(pack, extent)| damaged::add(&mut self.found, *pack, extent));
    }

    /// Tells of the packs that are known to be damaged and were not looked at now.
    pub(crate) fn tell(&self, catalog: &Catalog, findings: &mut Findings<'_>) {
        let there =
            |pack: &&(&PackId, &DamagedExtent)| catalog.present().contains_key(pack.0) && catalog.packs().contains_key(pack.0);
        let mut packs: Vec<_> = self.known.packs().filter(|(pack, _)| !self.read.contains(*pack)).collect();
        packs.sort_by_key(|(pack, _)| **pack);
        for (pack, extent) in packs.iter().filter(there) {
            let what = match extent {
                DamagedExtent::Whole => "nothing of it can be opened".to_owned(),
                DamagedExtent::Frames(frames) if frames.is_empty() => "its checksum or its directory is wrong".to_owned(),
                DamagedExtent::Frames(frames) => format!("{} of its frames are damaged", frames.len()),
            };
            let by = self.known.records_of(pack).last().map(|record| {
                let time = jiff::Timestamp::from_second(record.damage.time.secs).map(|time| time.to_string());
                format!(" (found on {} at {})", escape(&record.damage.host), time.unwrap_or_default())
            });
            let next = "an ingest of the same files stores again what it held, and yester prune then removes it";
            findings.damage(Name::Pack(**pack), format!("{what}{}; {next}", by.unwrap_or_default()));
        }
    }

    /// Packs that the index names and that are not there: the index may be made anew without them.
    pub(crate) fn add_missing(&mut self, catalog: &Catalog) {
        let missing = catalog.packs().keys().filter(|pack| !catalog.present().contains_key(*pack));
        missing.for_each(|pack| damaged::add(&mut self.found, *pack, &DamagedExtent::Whole));
    }

    /// Writes down what was found and takes back what is not so any more. That this fails is no failure of the check.
    pub(super) fn write(&self, repo: &Repository, now: Timestamp, report: &mut CheckReport) {
        match damaged::record(repo, &self.found, "yester check", now) {
            Ok(packs) => report.recorded = packs as u64,
            Err(e) => report.unrecorded = Some(e.to_string()),
        }
        if self.loss
            && let Err(e) = damaged::record_loss(repo, "yester check", now)
        {
            report.unrecorded = Some(e.to_string());
        }
        if let Err(e) = damaged::clear(repo, &self.known, &self.sound) {
            report.unrecorded = Some(format!("a pack that was damaged and is sound now could not be taken off the list: {e}"));
        }
    }

    /// Nothing is missing: records of packs that are gone say nothing any more.
    pub(crate) fn forget_losses(&self, repo: &Repository, catalog: &Catalog, report: &mut CheckReport) {
        let there = |pack: &PackId| catalog.present().contains_key(pack);
        let readable = self.known.records.iter().filter(|record| !record.damage.packs.keys().any(there));
        let done: Vec<_> = readable.map(|record| record.id).collect();
        if let Err(e) = damaged::remove(repo, &done) {
            report.unrecorded = Some(e.to_string());
        }
    }
}
