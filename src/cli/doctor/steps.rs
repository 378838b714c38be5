//! What is made anew from the rest of the repository: keys, small objects, the index.

use std::sync::Arc;

use yester::Result;
use yester::maintain::repair::{self, RepairOptions};
use yester::parity::{self, ParityPlace, Renewed};
use yester::repo::Repository;
use yester::task::Task;

use crate::cli::context::Context;
use crate::cli::key;
use crate::cli::say::progress::Display;
use crate::cli::say::units;

/// How many of each there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Steps {
    /// Copies of the configuration and of key slots.
    pub keys: u64,
    /// Small objects.
    pub objects: u64,
    /// Segments of the index.
    pub segments: u64,
    /// Packs that no sound segment names.
    pub packs: u64,
    /// Objects of parity.
    pub parity: u64,
    /// Objects of parity that are damaged and stay, since a pack that they may heal is damaged.
    pub held: u64,
}

impl Steps {
    /// Takes the steps, or says what they would do. The index is made anew only where it is damaged, or where `missing` says
    /// that something is in no pack that it names: packs that it does not name may be of an ingest at work.
    pub fn take(context: &Context, repo: &Arc<Repository>, display: &Display, dry: bool, missing: bool) -> Result<Steps> {
        let task = Task::new(display);
        let mended = key::mend(context, dry)?;
        mended.result?;
        let swept = repair::objects(repo, &RepairOptions { dry_run: dry }, &task)?;
        let mut out = Steps {
            keys: (mended.copies.len() + mended.removed.len()) as u64,
            objects: (swept.removed.len() + swept.renewed.len()) as u64,
            ..Steps::default()
        };
        let index = repair::index(repo, &RepairOptions { dry_run: true }, &task)?;
        if !index.damaged.is_empty() || missing && index.packs > 0 {
            let done = if dry { index } else { repair::index(repo, &RepairOptions::default(), &task)? };
            (out.segments, out.packs) = (done.damaged.len() as u64, done.packs);
        }
        Ok(out)
    }

    /// Makes damaged parity anew, where nothing is lost any more, or says how much of it there is.
    pub fn parity(repo: &Repository, display: &Display, read: bool, dry: bool) -> Result<Steps> {
        let Renewed { rows, removed, held } = parity::renew(&ParityPlace::of(repo), read, dry, &Task::new(display))?;
        Ok(Steps { parity: rows + removed, held, ..Steps::default() })
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.keys + self.objects + self.segments + self.packs + self.parity + self.held == 0
    }

    /// A line for each.
    pub fn lines(&self) -> Vec<String> {
        let line = |n, one, many, how: &str| (n > 0).then(|| format!("{}: {how}", units::counted(n, one, many)));
        [
            line(self.keys, "copy of a key", "copies of keys", "from the other copies (yester repair keys)"),
            line(self.objects, "small object", "small objects", "written anew or removed (yester repair objects)"),
            line(self.segments, "segment of the index", "segments of the index", "from the packs (yester repair index)"),
            line(self.packs, "pack that the index does not name", "packs that the index does not name", "named again"),
            line(
                self.held,
                "row of parity",
                "rows of parity",
                "left as it is, since a pack of its group is damaged and it may heal \
                 that: yester doctor --read-data",
            ),
            line(self.parity, "row of parity", "rows of parity", "computed again, or removed where its packs are gone"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
