//! Runs: `runs/<id>` says what became of an ingest of a set, a restore, a check or a prune. Nothing depends on them.

use crate::chunk::seal;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::ObjectType;
use crate::format::run::{decode_run, encode_run};
use crate::format::snapshot::MAX_TEXT;
use crate::model::{Run, SnapshotId, Timestamp};
use crate::repo::Repository;
use crate::repo::marks::Wrong;
use crate::repo::small::{self, Small};
use crate::repo::{parallel, rubbish, snapshots};
use crate::storage::{Class, Name};

/// For so many seconds a run is kept at least.
const KEPT: i64 = 365 * 86_400;

/// Writes a run under a new id. Texts that are too long are cut.
pub(crate) fn write(repo: &Repository, run: &Run) -> Result<SnapshotId> {
    let mut run = run.clone();
    for text in [&mut run.host, &mut run.user, &mut run.set, &mut run.target, &mut run.message] {
        text.truncate(MAX_TEXT);
    }
    run.steps.iter_mut().for_each(|step| step.failure.truncate(MAX_TEXT));
    let id = repo.new_id()?;
    let plain = encode_run(&run)?;
    let object = seal::seal_object(ObjectType::Run, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    let name = Name::Run(id);
    repo.storage().create(&name, &[&object])?;
    repo.storage().sync()?;
    Ok(id)
}

/// All runs, those that began first coming first, and those that are damaged. What is not authentic is told, and counts for
/// nothing.
pub fn list(repo: &Repository) -> Result<(Vec<(SnapshotId, Run)>, Wrong)> {
    let listed = repo.storage().list(Class::Runs)?.into_iter();
    let ids: Vec<SnapshotId> = listed.filter_map(|(name, _)| if let Name::Run(id) = name { Some(id) } else { None }).collect();
    let found = parallel::many(repo, &ids, |id| small::read(repo, &Name::Run(*id), |_, plain| decode_run(plain)));
    let (mut runs, mut wrong, mut made_up) = (Vec::new(), Vec::new(), Vec::new());
    for (id, found) in ids.into_iter().zip(found) {
        match found? {
            Small::Sound(run) => runs.push((id, run)),
            Small::Damaged(_, e) => wrong.push((Name::Run(id), e)),
            Small::MadeUp(e) => made_up.push((Name::Run(id), e)),
            Small::Newer(..) | Small::Gone => {}
        }
    }
    small::tell(repo, &made_up, "yester prune removes it");
    runs.sort_by_key(|(id, run)| (run.started, *id));
    Ok((runs, wrong))
}

/// Deletes runs that ended longer than a year ago and whose snapshot, if they have one, is no more, and what is no run.
/// Answers how many.
pub fn expire(repo: &Repository, now: Timestamp) -> Result<u64> {
    let (all, _) = list(repo)?;
    let old = |run: &Run| run.finished.secs.saturating_add(KEPT) < now.secs;
    let mut gone = 0;
    for (name, _) in repo.storage().list(Class::Runs)? {
        let known = |id: &SnapshotId| all.iter().any(|(known, _)| known == id);
        if matches!(&name, Name::Run(id) if !known(id)) && rubbish::remove(repo, &name)? {
            gone += 1;
        }
    }
    for (id, run) in all.iter().filter(|(_, run)| old(run)) {
        let is_there = match run.snapshot {
            Some(snapshot) => !matches!(snapshots::judge(repo, snapshot)?, Small::Gone),
            None => false,
        };
        if !is_there {
            repo.storage().delete(&Name::Run(*id))?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// The run whose id begins with `prefix`, or the newest for `latest`.
pub fn find(repo: &Repository, prefix: &str) -> Result<(SnapshotId, Run)> {
    let (mut runs, _) = list(repo)?;
    let none = || Error::new(ErrorKind::NotFound, format!("there is no run {prefix}: yester runs lists them"));
    if prefix == "latest" {
        return runs.pop().ok_or_else(none);
    }
    let short = prefix.len() < 4 || !prefix.bytes().all(|b| b.is_ascii_hexdigit());
    if short {
        return Err(Error::invalid(format!("{prefix} names no run: give at least 4 digits of its id, or latest")));
    }
    runs.retain(|(id, _)| id.to_string().starts_with(&prefix.to_ascii_lowercase()));
    match (runs.pop(), runs.pop()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Error::invalid(format!("several runs begin with {prefix}: give more digits"))),
        (None, _) => Err(none()),
    }
}
