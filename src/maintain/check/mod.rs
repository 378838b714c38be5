//! Checking a repository: what is there, whether all of it fits together, and, when asked, every stored byte.
//!
//! 1. `objects`: the small objects open, and the copies of configuration and key slots are all there.
//! 2. `catalog`: every segment is what its name says, and every pack that the index names is there with its size. A
//!    damaged segment is left out, and its packs are known by their own directories instead.
//! 3. `structure`: every reference of every live snapshot resolves, and trees hold what they state. A page is visited
//!    once, however many snapshots share it.
//! 4. `data`: packs are read whole, every frame is opened and decoded, every chunk hashed.
//! 5. When there is damage, the trees are gone through once more where it is, to name what each snapshot loses.
//!
//! What is found damaged of packs is written down in the repository (`news`); nothing else is written. A repository may change meanwhile: damage that is found while it does is looked for once more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::format::segment::SegmentPack;
use crate::model::{PackId, Snapshot, SnapshotId, Timestamp};
use crate::repo::Repository;
use crate::repo::damaged::DamagedPacks;
use crate::storage::{Class, Name};
use crate::task::Task;

mod affected;
mod btree;
mod catalog;
mod content;
mod data;
mod findings;
mod moved;
mod news;
mod objects;
mod overlay;
mod pack_findings;
mod parity;
mod structure;
mod subset;

pub use subset::Subset;

use affected::Affected;
use catalog::{Catalog, REPAIR};
use content::KnownDamage;
use findings::Findings;
use news::News;
use structure::{Memo, TreeCheck};

/// How often a repository that changes while it is checked is looked at again.
const ATTEMPTS: usize = 10;

/// What to check.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// Which packs are read whole; `None`: none.
    pub read: Option<Subset>,
    /// When this machine last found each pack to be sound.
    pub verified: HashMap<PackId, Timestamp>,
    /// Packs that were found sound within this time are not read again.
    pub max_age: Option<Duration>,
    /// No pack is begun after this time of reading; `None`: all are read. Those that were not read for the longest time come
    /// first, so that several checks in turn read all.
    pub max_duration: Option<Duration>,
    /// How many entries of each snapshot are named when damage hits them; `None`: all.
    pub names: Option<u64>,
}

impl CheckOptions {
    /// Whether the pack was found sound not long ago. A time in the future says nothing.
    fn is_fresh(&self, now: Timestamp, id: &PackId) -> bool {
        let (Some(max), Some(Timestamp { secs, .. })) = (self.max_age, self.verified.get(id)) else { return false };
        let age = now.secs.checked_sub(*secs).and_then(|age| u64::try_from(age).ok());
        age.is_some_and(|age| age < max.as_secs())
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Live snapshots.
    pub snapshots: u64,
    /// Writers at work, or killed.
    pub sessions: u64,
    /// Signs of life of sessions that have ended; the next prune removes them.
    pub lone_beats: u64,
    /// Key slots whose addition or removal was stopped half way; the next command that writes ends it.
    pub unfinished_keys: u64,
    /// Different pages of trees.
    pub pages: u64,
    /// References to chunks of files, on different pages.
    pub references: u64,
    /// Visible index segments.
    pub segments: u64,
    /// Chunks that the index knows, one for each pack they are in.
    pub chunks: u64,
    /// Packs that the index names.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Packs that no segment names: left by an ingest that was stopped, or of one at work, or marked for deletion.
    pub unused_packs: u64,
    /// Their bytes.
    pub unused_bytes: u64,
    /// Packs that a prune has marked for deletion.
    pub marked_packs: u64,
    /// Packs that are deleted, though the index names them still; nothing of them is needed.
    pub gone_packs: u64,
    /// Packs that were read whole.
    pub read_packs: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Packs that were to be read, and were found sound not long ago.
    pub fresh_packs: u64,
    /// Packs that were not read, since the time was over.
    pub left_packs: u64,
    /// Groups of parity.
    pub parity_groups: u64,
    /// Groups of parity that lack rows: parity add was stopped, or they are lost.
    pub parity_incomplete: u64,
    /// Packs without parity, in a repository that has some.
    pub parity_uncovered: u64,
    /// Rows of parity that were read whole.
    pub parity_rows_read: u64,
    /// Findings: each was told to the observer.
    pub damage: u64,
    /// Snapshots that others say were there before them, and that are neither there nor forgotten; findings, too.
    pub gone: Vec<SnapshotId>,
    /// Entries that lose something, of all snapshots.
    pub hits: u64,
    /// Snapshots that have such entries.
    pub hit_snapshots: u64,
    /// Packs of which damage was found that the repository did not know of, and knows of now.
    pub recorded: u64,
    /// Why damage could not be written down in the repository; then an ingest does not store again what is damaged.
    pub unrecorded: Option<String>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.damage == 0 && self.hits == 0
    }
}

/// Checks. Damage is reported and counted; an error means that the check could not be done. `read` is called for every
/// pack that was read whole, with whether it is sound.
pub fn check(
    repo: &Arc<Repository>,
    options: &CheckOptions,
    task: &Task<'_>,
    read: &mut dyn FnMut(PackId, bool),
) -> Result<CheckReport> {
    // All of a check is at one time.
    let task = &task.clone().at(task.now());
    let mut findings = Findings::new(task);
    let mut run = settled(repo, &mut findings)?;
    findings.release();
    let mut memo = std::mem::take(&mut run.memo);
    let mut news = std::mem::take(&mut run.news);
    if let Some(subset) = &options.read {
        let found = data::read(&run.catalog, subset, options, &mut findings, &mut run.damage, &mut run.report, &mut news, read)?;
        if found {
            run.catalog.lost(&mut findings);
            memo = Memo::default();
        }
    }
    news.tell(&run.catalog, &mut findings);
    parity::check(repo, options, &mut findings, &mut run.report)?;
    let mut left = ATTEMPTS;
    while run.report.hits > 0 || run.damage.has_content() {
        let affected = Affected::naming(task.observer, options.names);
        let mut walk = TreeCheck::new(&run.catalog, &run.damage, memo, affected, task)?;
        let walked = run.snapshots.iter().try_for_each(|snapshot| walk.snapshot(snapshot, &mut findings));
        match walked {
            // A segment was deleted: others have taken its place (rule 10 of docs/durability.md).
            Err(e) if is_missing(&e) && left > 0 && run.catalog.has_moved()? => {
                left -= 1;
                drop(walk);
                run.catalog.load_again()?;
                memo = Memo::default();
                continue;
            }
            walked => walked?,
        }
        walk.finish(&mut findings);
        news.add(&walk.found());
        (run.report.hits, run.report.hit_snapshots) = walk.hits();
        break;
    }
    if findings.count() > 0 || run.report.hits > 0 {
        // With a former key all that is new looks damaged.
        repo.key_is_current()?;
    }
    news.write(repo, task.now(), &mut run.report);
    if findings.count() == 0 && run.report.hits == 0 {
        news.forget_losses(repo, &run.catalog, &mut run.report);
    }
    run.report.damage = findings.count();
    Ok(run.report)
}

/// One look at everything but the content of packs.
struct StructureCheck {
    snapshots: Vec<Snapshot>,
    catalog: Catalog,
    damage: KnownDamage,
    memo: Memo,
    report: CheckReport,
    news: News,
}

/// Looks until nothing is wrong, or nothing changed meanwhile: prune moves chunks and deletes what it moved (rule 10
/// of docs/durability.md). What is damaged stays so however often it is looked at; of what was moved, each look misses
/// something else.
fn settled(repo: &Arc<Repository>, findings: &mut Findings<'_>) -> Result<StructureCheck> {
    let mut left = ATTEMPTS;
    let mut always: Option<HashSet<(String, String)>> = None;
    loop {
        let before = names(repo)?;
        findings.hold();
        let run = look(repo, findings);
        left -= 1;
        let found = run.as_ref().is_ok_and(|_| findings.count() > 0) || run.as_ref().is_err_and(is_missing);
        if !found || left == 0 || names(repo)? == before {
            return run;
        }
        let mut run = run.ok();
        if run.is_some() {
            let now = findings.held();
            let both: HashSet<(String, String)> = match always {
                Some(known) => known.intersection(&now).cloned().collect(),
                None => now,
            };
            if let Some(run) = run.take_if(|_| both.is_empty()) {
                findings.hold();
                return Ok(StructureCheck { report: CheckReport { hits: 0, hit_snapshots: 0, ..run.report }, ..run });
            }
            always = Some(both);
        }
    }
}

fn is_missing(e: &Error) -> bool {
    e.kind() == ErrorKind::NotFound
}

/// What tells whether a repository changed.
fn names(repo: &Repository) -> Result<HashSet<Name>> {
    let mut out = HashSet::new();
    for class in [Class::Index, Class::Snapshots, Class::Forgotten] {
        out.extend(repo.storage().list(class)?.into_iter().map(|(name, _)| name));
    }
    Ok(out)
}

fn look(repo: &Arc<Repository>, findings: &mut Findings<'_>) -> Result<StructureCheck> {
    let mut report = CheckReport::default();
    let snapshots = objects::check(repo, findings, &mut report)?;
    let mut catalog = Catalog::build(repo, findings)?;
    let mut damage = KnownDamage::new(&catalog);
    let mut news = News::new(catalog.index().damaged().clone());
    damage.recorded(&news.known);
    let mark = findings.mark();
    let mut walked = walk(&catalog, &damage, &snapshots, findings)?;
    // Of packs that are known by their directories nobody can tell whether the index lacks them.
    news.loss = walked.missing > 0 || catalog.hides();
    // Chunks that the index does not know may be in packs that it does not name: a segment was lost.
    if walked.missing > 0 && catalog.has_unnamed() {
        findings.back_to(&mark);
        let unnamed = catalog.take_in_unnamed(findings)?;
        let before = walked.missing;
        damage = KnownDamage::new(&catalog);
        damage.recorded(&news.known);
        walked = walk(&catalog, &damage, &snapshots, findings)?;
        if walked.missing < before {
            findings.damage("index", format!("{unnamed} packs are not in it, some of which snapshots need; {REPAIR}"));
        }
    }
    if walked.hits.0 > 0 || walked.missing > 0 {
        catalog.lost(findings);
        news.add_missing(&catalog);
    }
    walked.report(&catalog, &mut report);
    report.snapshots = snapshots.len() as u64;
    news.add(&walked.found);
    Ok(StructureCheck { snapshots, catalog, damage, memo: walked.memo, report, news })
}

/// What going through the trees found.
struct TreesChecked {
    memo: Memo,
    missing: u64,
    pages: u64,
    references: u64,
    hits: (u64, u64),
    found: DamagedPacks,
}

impl TreesChecked {
    fn report(&self, catalog: &Catalog, report: &mut CheckReport) {
        (report.pages, report.references) = (self.pages, self.references);
        (report.hits, report.hit_snapshots) = self.hits;
        catalog.report(report);
    }
}

fn walk(catalog: &Catalog, damage: &KnownDamage, snapshots: &[Snapshot], findings: &mut Findings<'_>) -> Result<TreesChecked> {
    let affected = Affected::counting(findings.observer());
    let mut walk = TreeCheck::new(catalog, damage, Memo::default(), affected, findings.task())?;
    for (done, snapshot) in snapshots.iter().enumerate() {
        walk.progress(done as u64, snapshots.len() as u64);
        walk.snapshot(snapshot, findings)?;
    }
    walk.finish(findings);
    Ok(TreesChecked {
        missing: walk.missing(),
        pages: walk.pages(),
        references: walk.references(),
        hits: walk.hits(),
        found: walk.found(),
        memo: walk.into_memo(),
    })
}

fn go_on(task: &Task<'_>) -> Result<()> {
    task.go_on("the check was stopped")
}

/// Packs with the bytes that are there of them.
type Present = HashMap<PackId, u64>;

/// The packs that segments name, each once.
fn distinct<'a>(packs: impl Iterator<Item = &'a SegmentPack>) -> HashMap<PackId, SegmentPack> {
    packs.map(|pack| (pack.id, *pack)).collect()
}
