//! Carrying a prune out, step by step.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::maintain::prune::packs::{Pack, Standing};
use crate::maintain::prune::plan::RESERVE;
use crate::maintain::prune::repack::{Repack, Repacked};
use crate::maintain::prune::sessions::{Living, Settle};
use crate::maintain::prune::steady::steady;
use crate::maintain::prune::{Prune, PrunePlan, Report, Tally, marked, plan, segments, sessions};
use crate::model::{PackId, SnapshotId};
use crate::observe::Event;
use crate::parity::{self, ParityPlace};
use crate::repo::damaged::{self, Damaged};
use crate::repo::index::condemned;
use crate::repo::index::list_packs;
use crate::repo::small::Small;
use crate::repo::work::{self, SessionEnd};
use crate::repo::{marks, rubbish};
use crate::storage::Name;

/// Packs that are deleted before the lists are read again.
const DELETED_AT_ONCE: usize = 32;
/// Packs that are named when they cannot be freed.
const EXAMPLES: usize = 5;

impl Prune<'_> {
    /// Does what was planned.
    pub fn carry_out(mut self) -> Result<Report> {
        let repo = self.repo;
        if !self.options.only_writer && !repo.storage().decides()? {
            let text = "nothing was deleted: this store does not decide between two who create the same object, so a prune \
                        beside a writer could delete what that writer counts on. If nobody else uses the repository now, add \
                        --only-writer";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if self.is_idle()? {
            self.tend_parity()?;
            self.say_stuck();
            return Ok(self.report);
        }
        // What is deleted is deleted on the strength of objects that others made: they have to be durable.
        repo.storage().sync_everything()?;
        // Lists that existed before every session has ended: no session is older than they are.
        let mut lists: Vec<SnapshotId> = self.view.lists.iter().map(|list| list.id).collect();
        self.report.sessions += match self.until {
            None => self.settle(None)?,
            // Writers that know the lists need not be waited for: there may always be some.
            Some(_) => self.settle_with(None, Living::Leave)? + self.settle(Some(&lists))?,
        };
        self.clear()?;
        self.look()?;
        self.delete(&lists)?;
        self.condemn(&mut lists)?;
        self.repack(&mut lists)?;
        self.rewrite()?;
        self.drop_lists(&lists)?;
        self.drop_records()?;
        self.tend_parity()?;
        self.say_stuck();
        self.say_left();
        Ok(self.report)
    }

    /// Dissolves groups of parity of which little lives. While something is lost, none: parity may bring it back.
    fn tend_parity(&mut self) -> Result<()> {
        if self.survey.lost > 0 {
            return Ok(());
        }
        let tended = parity::tend(&ParityPlace::of(self.repo))?;
        self.report.parity_groups = tended.groups;
        self.report.parity = Tally { count: tended.objects, bytes: tended.bytes };
        Ok(())
    }

    /// What could not be freed, by the last look.
    fn say_stuck(&mut self) {
        let stuck = self.survey.packs.list.iter().filter(|pack| pack.lost);
        stuck.clone().for_each(|pack| self.report.stuck.add(pack.size));
        self.report.examples = stuck.take(EXAMPLES).map(|pack| pack.id).collect();
        self.report.lost = self.survey.lost;
    }

    /// Removes records of damage whose packs are gone, and those that nobody can read.
    fn drop_records(&mut self) -> Result<()> {
        let (packs, damaged) = (list_packs(self.repo)?, Damaged::load(self.repo)?);
        let done: Vec<SnapshotId> = damaged.void(|pack| packs.contains_key(pack)).collect();
        if !done.is_empty() {
            self.repo.key_is_current()?;
        }
        damaged::remove(self.repo, &done)
    }

    /// Whether there is nothing to do at all.
    fn is_idle(&self) -> Result<bool> {
        let PrunePlan { marked, dead, repack, snapshots, leftovers, .. } = self.plan;
        let gone = self.survey.packs.list.iter().any(|pack| pack.standing == Standing::Gone);
        let nothing = [marked, dead, repack, snapshots, leftovers].iter().all(|tally| tally.count == 0);
        let records = self.view.index.damaged().void(|pack| self.view.packs.contains_key(pack)).next().is_none();
        let former = self.options.rekey && self.view.index.segments().iter().any(|segment| segment.is_former());
        let index = !former
            && self.view.index.replaced().is_empty()
            && self.view.broken.is_empty()
            && !gone
            && records
            && self.plan.ignored == 0;
        Ok(nothing && index && self.view.lists.is_empty() && sessions::open(self.repo)?.is_empty())
    }

    fn settle(&self, older_than: Option<&[SnapshotId]>) -> Result<u64> {
        self.settle_with(older_than, self.until.map_or(Living::Refuse, Living::WaitUntil))
    }

    fn settle_with(&self, older_than: Option<&[SnapshotId]>, living: Living) -> Result<u64> {
        let Prune { patience, options, .. } = self;
        Settle { fence: &options.fence, older_than, now: self.task.now(), patience, living }.settle(self.repo)
    }

    /// Whether the time is over that it may take.
    fn is_over(&self) -> bool {
        self.over.is_some_and(|over| Instant::now() >= over)
    }

    /// What there was no time for: packs that are not deleted, and packs that are not repacked, by the last look.
    fn say_left(&mut self) {
        let list = &self.survey.packs.list;
        let there = |pack: &&Pack| self.view.packs.contains_key(&pack.id) && !self.deleted.contains(&pack.id);
        let former = |pack: &&Pack| there(pack) && self.former.contains(&pack.id);
        list.iter().filter(former).for_each(|pack| self.report.former.add(pack.size));
        if !self.is_over() {
            return;
        }
        let dead = |pack: &&Pack| pack.is_dead() || pack.standing == Standing::Marked && !pack.held;
        let repack = plan::to_repack(&self.survey, self.options, &self.former);
        let repack = repack.iter().map(|at| &list[*at]).filter(|pack| !pack.is_dead() && !pack.lost);
        let left: HashMap<PackId, u64> =
            list.iter().filter(dead).chain(repack).filter(there).map(|pack| (pack.id, pack.size)).collect();
        left.values().for_each(|size| self.report.left.add(*size));
    }

    fn check_stop(&self) -> Result<()> {
        self.task.go_on("the prune was stopped; the next one goes on where it was")
    }

    /// Deletes what need not be marked: nobody can count on it. It needs no room, and may make some for the list.
    fn clear(&mut self) -> Result<()> {
        let storage = self.repo.storage();
        let leftovers = storage.leftovers(true)?;
        self.report.leftovers = plan::Tally { count: leftovers.files, bytes: leftovers.bytes };
        let made_up = sessions::made_up(self.repo)?;
        // With a key that was changed since, all that is new looks made up.
        self.repo.key_is_current()?;
        for name in self.view.ignored.iter().chain(&self.marks.made_up).chain(&made_up) {
            self.check_stop()?;
            let removed = match name {
                Name::Beat(..) => storage.delete(name).map(|()| true),
                _ => rubbish::remove(self.repo, name),
            };
            self.report.ignored += u64::from(removed?);
        }
        for (id, size) in &self.view.leavings {
            self.check_stop()?;
            // Somebody may have taken it back since it was looked at.
            if !matches!(marks::read(self.repo, *id)?, Small::Sound(_)) {
                continue;
            }
            storage.delete(&Name::Snapshot(*id))?;
            self.report.snapshots.add(*size);
        }
        // A writer may read from them.
        let replaced = if sessions::open(self.repo)?.is_empty() { self.view.index.replaced() } else { &[] };
        // Those that nobody can open: all that snapshots need was found without them.
        for id in replaced.iter().chain(&self.view.broken) {
            storage.delete(&Name::Segment(*id))?;
            self.report.segments.add(self.view.segments.get(id).copied().unwrap_or_default());
        }
        storage.sync()
    }

    /// Deletes what is dead of the packs of these lists, to which no session is older any more.
    fn delete(&mut self, lists: &[SnapshotId]) -> Result<()> {
        let ours = self.view.lists.iter().filter(|list| lists.contains(&list.id));
        let ours: HashSet<PackId> = ours.flat_map(|list| list.packs.iter().copied()).collect();
        let dead = |pack: &&super::packs::Pack| pack.standing == Standing::Marked && !pack.held && ours.contains(&pack.id);
        let dead: Vec<(PackId, u64)> = self.survey.packs.list.iter().filter(dead).map(|pack| (pack.id, pack.size)).collect();
        // A session that was begun with a new key, before the lists were written, would not be seen here.
        if !dead.is_empty() {
            self.repo.key_is_current()?;
        }
        for some in dead.chunks(DELETED_AT_ONCE) {
            self.check_stop()?;
            if self.is_over() {
                break;
            }
            // A list that does not open any more is void for everybody, and others may count on its packs again.
            let counting = condemned::read_all(self.repo)?.packs();
            for (id, size) in some.iter().filter(|(id, _)| counting.contains(id)) {
                self.repo.storage().delete(&Name::Pack(*id))?;
                self.repo.forget_copies(id);
                self.deleted.insert(*id);
                self.report.packs.add(*size);
            }
        }
        if dead.is_empty() { Ok(()) } else { self.repo.storage().sync() }
    }

    /// Marks dead packs for deletion, waits until no session is older than the list, looks again, and deletes the packs
    /// that are still dead.
    fn condemn(&mut self, lists: &mut Vec<SnapshotId>) -> Result<()> {
        self.check_stop()?;
        let dead = plan::dead(&self.survey);
        if dead.is_empty() {
            return Ok(());
        }
        // A session that began a moment ago would have to end before the list could be carried out.
        if self.until.is_none() {
            self.settle(None)?;
        }
        let count = dead.len();
        let list = marked::write(self.repo, dead).map_err(|e| {
            e.context(format!("{count} packs are not needed, but that could not be written down; nothing is lost"))
        })?;
        lists.push(list);
        self.report.sessions += self.settle(Some(lists))?;
        self.look()?;
        self.delete(lists)
    }

    /// Copies what is needed out of packs that are mostly not, as far as there is room, and deletes them.
    fn repack(&mut self, lists: &mut Vec<SnapshotId>) -> Result<()> {
        let chosen = plan::to_repack(&self.survey, self.options, &self.former);
        let mut left: Vec<PackId> = chosen.iter().map(|at| self.survey.packs.list[*at].id).collect();
        while !left.is_empty() {
            self.check_stop()?;
            if self.is_over() {
                return Ok(());
            }
            let (fitting, needed) = self.fitting(&left)?;
            if fitting.is_empty() {
                let message = format!("{} packs are not repacked: there is no room for {needed} bytes", left.len());
                self.task.observer.event(&Event::Warning { subject: b"repack", message: &message });
                return Ok(());
            }
            let chosen: Vec<PackId> = fitting.iter().map(|at| self.survey.packs.list[*at].id).collect();
            left.retain(|id| !chosen.contains(id));
            let done = self.copy(&fitting)?;
            if done.is_none() {
                left.clear();
            }
            self.avoid.extend(chosen.into_iter().take(done.unwrap_or(usize::MAX)));
            self.look()?;
            self.delete(lists)?;
            self.condemn(lists)?;
        }
        Ok(())
    }

    /// The first of these packs whose copies there is room for, by their numbers; and what the very first needs.
    fn fitting(&self, packs: &[PackId]) -> Result<(Vec<usize>, u64)> {
        let free = self.repo.storage().free_space()?.unwrap_or(u64::MAX).saturating_sub(RESERVE);
        let (mut out, mut sum, mut first) = (Vec::new(), 0u64, 0);
        for id in packs {
            let Some(at) = self.survey.packs.list.iter().position(|pack| pack.id == *id) else { continue };
            let pack = &self.survey.packs.list[at];
            let copies = pack.copy_bytes();
            if first == 0 {
                first = copies + RESERVE;
            }
            sum = sum.saturating_add(copies);
            if sum > free {
                break;
            }
            out.push(at);
        }
        Ok((out, first))
    }

    /// Copies from these packs, in a session of its own, and says from how many before the time was over. `None`: the
    /// disk was full before the end.
    fn copy(&mut self, packs: &[usize]) -> Result<Option<usize>> {
        let (repo, index) = (self.repo, self.view.index.clone());
        let (reader, survey, task, over) = (&self.reader, &mut self.survey, &self.task, self.over);
        let mut copied = None;
        // Nothing will be committed under its id. It must end before what was copied from is deleted.
        let ended = work::in_session(repo, &|| task.now(), |id| {
            copied = Some(Repack::new(repo, &index, reader, survey, id).and_then(|repack| repack.run(packs, task, over)));
            Ok(SessionEnd::Uncommitted(()))
        });
        match copied {
            None => ended.map(|_| Some(0)),
            Some(Ok(Repacked { packs, bytes, mut found, done })) => {
                self.reader.found().iter().for_each(|(pack, extent)| damaged::add(&mut found, *pack, extent));
                super::write_down(repo, &found, self.task.now(), self.task.observer);
                self.report.written.count += packs;
                self.report.written.bytes += bytes;
                ended.map(|_| Some(done))
            }
            Some(Err(e)) if e.kind() == ErrorKind::Full => {
                let message = format!("it is not finished, since the disk is full: {e}");
                self.task.observer.event(&Event::Warning { subject: b"repack", message: &message });
                ended.map(|_| None)
            }
            // Another prune has deleted a segment that it read in. What it would have copied, the next prune does.
            Some(Err(e)) if e.kind() == ErrorKind::NotFound => ended.map(|_| Some(usize::MAX)),
            Some(Err(e)) => Err(e),
        }
    }

    /// Writes the index without the packs that are gone.
    fn rewrite(&mut self) -> Result<()> {
        self.check_stop()?;
        let (repo, report) = (self.repo, &mut self.report);
        let rekey = self.options.rekey;
        match steady(repo, || segments::rewrite(repo, &self.view.index, rekey, report)) {
            Err(e) if e.kind() == ErrorKind::Full => {
                let message = format!("it still names packs that are gone, since the disk is full; the next prune goes on: {e}");
                self.task.observer.event(&Event::Warning { subject: b"index", message: &message });
                Ok(())
            }
            other => other,
        }
    }

    /// Removes the lists whose packs are all gone, when nothing names these packs any more and every session that
    /// could have seen them has ended.
    fn drop_lists(&mut self, lists: &[SnapshotId]) -> Result<()> {
        let done = steady(self.repo, || segments::carried_out(self.repo, &self.view.index, lists))?;
        self.report.lists = (lists.len() - done.len()) as u64;
        if done.is_empty() {
            return Ok(());
        }
        match self.settle_with(None, Living::Refuse) {
            Ok(ended) => self.report.sessions += ended,
            Err(e) if e.kind() == ErrorKind::Busy => {
                self.report.lists = lists.len() as u64;
                return Ok(());
            }
            Err(e) => return Err(e),
        }
        for id in done {
            self.repo.storage().delete(&Name::Condemned(id))?;
        }
        self.repo.storage().sync()
    }
}
