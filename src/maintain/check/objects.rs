//! The small objects: configuration, key slots, sessions, marks, deletion lists, snapshots.

use std::collections::HashSet;

use crate::error::{Error, ErrorKind, Result};
use crate::format::annotation::decode_annotation;
use crate::format::envelope::ObjectType;
use crate::format::run::decode_run;
use crate::keys::binding;
use crate::keys::configuration::Configurations;
use crate::keys::copies::CopyState;
use crate::keys::removal::SlotStore;
use crate::keys::slots::{self, Slot};
use crate::model::{Snapshot, SnapshotId};
use crate::repo::index::condemned;
use crate::repo::small::{self, Small};
use crate::repo::{Repository, beat, chain, damaged, groups, marks, parallel, session, snapshots};
use crate::storage::{Class, Name};

use super::CheckReport;
use super::findings::Findings;

/// What is wrong with a copy that is not there.
const MISSING: &str = "it is missing";
/// What removes an object that is not authentic.
const REMOVES: &str = "it is not authentic and counts for nothing; yester prune removes it";

/// Opens every small object; returns the live snapshots, oldest first.
pub(super) fn check(repo: &Repository, findings: &mut Findings<'_>, report: &mut CheckReport) -> Result<Vec<Snapshot>> {
    configuration(repo, findings)?;
    report.unfinished_keys = keys(repo, findings)?;
    (report.sessions, report.lone_beats) = sessions(repo, findings)?;
    let listed = repo.storage().list(Class::Snapshots)?;
    let listed = listed.into_iter().filter_map(|(name, _)| if let Name::Snapshot(id) = name { Some(id) } else { None });
    let listed: HashSet<SnapshotId> = listed.collect();
    let forgotten = forgotten(repo, findings, &listed)?;
    condemned(repo, findings)?;
    records(repo, findings)?;
    annotations(repo, findings)?;
    runs(repo, findings)?;
    steps_of_groups(repo, findings)?;
    let snapshots = live_snapshots(repo, findings, &listed, &forgotten)?;
    report.gone = gone(repo, findings, &snapshots)?;
    Ok(snapshots)
}

/// Says which snapshots are gone that others say were there before them.
fn gone(repo: &Repository, findings: &mut Findings<'_>, all: &[Snapshot]) -> Result<Vec<SnapshotId>> {
    let gone = chain::look(repo, &snapshots::present(repo)?)?.gone;
    for id in &gone {
        let after = all.iter().find(|snapshot| snapshot.before().contains(id));
        let after = after.map_or("others".to_owned(), |snapshot| format!("snapshot {}", snapshot.id.short()));
        let text = format!(
            "it is gone and was not forgotten, though {after} was taken after it: it was lost, or the listing is not complete; \
             if it is lost for good: yester forget {id}",
        );
        findings.damage(Name::Snapshot(*id), text);
    }
    Ok(gone)
}

/// Looks at the copies of the configuration, and at what stands beside it and is not authentic.
fn configuration(repo: &Repository, findings: &mut Findings<'_>) -> Result<()> {
    let judged = Configurations::read(&**repo.storage())?.judge(repo.keys());
    for (name, why) in judged.ignored() {
        findings.damage(name, format!("{why}; it counts for nothing, and yester repair keys removes it"));
    }
    let next = "yester repair keys writes it again from a good copy";
    match judged.newest()? {
        None => findings.damage("config", "no copy of the configuration is good; yester key recover writes it anew"),
        Some(found) => {
            for (name, state) in found.copies.states().filter(|(_, state)| **state != CopyState::Whole) {
                let wrong = if *state == CopyState::Missing { MISSING.to_owned() } else { slots::describe(state) };
                findings.damage(name, format!("{wrong}; {next}"));
            }
        }
    }
    Ok(())
}

/// Looks at the key slots; answers how many were not added or removed to the end.
fn keys(repo: &Repository, findings: &mut Findings<'_>) -> Result<u64> {
    let found = SlotStore { storage: &**repo.storage(), repository: repo.id(), keys: repo.keys() }.look()?;
    for (name, e) in &found.made_up {
        findings.damage(name, format!("{}; it counts for nothing, and yester repair keys removes it", bare(name, e)));
    }
    Ok(copies(findings, &found.live) + (found.removed.len() + found.void.len()) as u64)
}

/// Something that is not as it was written, or was not written by anybody with the key.
fn wrong<T>(findings: &mut Findings<'_>, name: &Name, found: &Small<T>, damaged: &str, made_up: &str) {
    match found {
        Small::Sound(_) | Small::Gone => {}
        Small::Newer(e, _) => findings.damage(name, bare(name, e)),
        Small::Damaged(_, e) => findings.damage(name, format!("{}; {damaged}", bare(name, e))),
        Small::MadeUp(e) => findings.damage(name, format!("{}; {made_up}", bare(name, e))),
    }
}

fn ids(repo: &Repository, class: Class) -> Result<Vec<SnapshotId>> {
    let listed = repo.storage().list(class)?.into_iter();
    let mut out: Vec<SnapshotId> = listed.filter_map(|(name, _)| binding::id(&name).copied()).collect();
    out.sort_unstable();
    Ok(out)
}

/// Reads sessions; answers how many there are, and how many signs of life of sessions that have ended.
fn sessions(repo: &Repository, findings: &mut Findings<'_>) -> Result<(u64, u64)> {
    let (mut ids, mut beats, mut count, mut lone) = (Vec::new(), Vec::new(), 0, 0);
    for (name, _) in repo.storage().list(Class::Sessions)? {
        match name {
            Name::Session(id) => ids.push(id),
            Name::Beat(id, number) => match beat::is_authentic(repo, id, number) {
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    findings.damage(name, format!("{}; it counts for nothing, yester prune removes it", bare(&name, &e)));
                }
                // Followed by the next one since it was listed.
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                Err(_) => {}
                Ok(()) => beats.push((id, number)),
            },
            _ => {}
        }
    }
    ids.sort_unstable();
    for (id, number) in beats.into_iter().filter(|(id, _)| ids.binary_search(id).is_err()) {
        // Its session may have begun since it was listed, and it may have been followed.
        lone += u64::from(session::has_ended(repo, id)? && beat::is_authentic(repo, id, number).is_ok());
    }
    for (id, found) in ids.iter().zip(parallel::many(repo, &ids, |id| session::judge(repo, *id))) {
        let (name, found) = (Name::Session(*id), found?);
        let next = format!("who is at work cannot be told; yester prune --fence {} ends it", id.short());
        wrong(findings, &name, &found, &next, REMOVES);
        count += u64::from(!matches!(found, Small::MadeUp(_) | Small::Gone));
    }
    Ok((count, lone))
}

/// Reads all marks; answers which snapshots are forgotten.
fn forgotten(repo: &Repository, findings: &mut Findings<'_>, listed: &HashSet<SnapshotId>) -> Result<HashSet<SnapshotId>> {
    let ids = ids(repo, Class::Forgotten)?;
    let mut out = HashSet::new();
    for (id, found) in ids.iter().zip(parallel::many(repo, &ids, |id| marks::read(repo, *id))) {
        let (name, found) = (Name::Forgotten(*id), found?);
        let next = match listed.contains(id) {
            true => {
                format!("the snapshot is not forgotten by it; yester prune removes the mark, yester forget {id} writes it anew")
            }
            false => "it counts for nothing; yester repair objects removes it, or writes it anew".to_owned(),
        };
        wrong(findings, &name, &found, &next, &next);
        if matches!(found, Small::Sound(_)) {
            out.insert(*id);
        }
    }
    Ok(out)
}

/// Reads the lists of packs that are marked for deletion.
fn condemned(repo: &Repository, findings: &mut Findings<'_>) -> Result<()> {
    let ids = ids(repo, Class::Condemned)?;
    for (id, found) in ids.iter().zip(parallel::many(repo, &ids, |id| condemned::read(repo, *id))) {
        let next = "the packs that it named count again; yester prune removes it, and marks anew what is not needed";
        wrong(findings, &Name::Condemned(*id), &found?, next, REMOVES);
    }
    Ok(())
}

/// Reads the records of damage.
fn records(repo: &Repository, findings: &mut Findings<'_>) -> Result<()> {
    for (id, _, e) in damaged::Damaged::load(repo)?.unreadable {
        let name = Name::Damaged(id);
        findings.damage(name, format!("{}; it says nothing, and yester prune removes it", bare(&name, &e)));
    }
    Ok(())
}

/// Reads what was said of snapshots later.
fn annotations(repo: &Repository, findings: &mut Findings<'_>) -> Result<()> {
    let ids = ids(repo, Class::Annotations)?;
    let read = |id: &SnapshotId| small::read(repo, &Name::Annotation(*id), |_, plain| decode_annotation(plain));
    for (id, found) in ids.iter().zip(parallel::many(repo, &ids, read)) {
        let next = "what it said of a snapshot does not hold, and no policy forgets; yester repair objects removes it";
        wrong(findings, &Name::Annotation(*id), &found?, next, REMOVES);
    }
    Ok(())
}

/// Reads the steps of groups.
fn steps_of_groups(repo: &Repository, findings: &mut Findings<'_>) -> Result<()> {
    let names: Vec<Name> = repo.storage().list(Class::Groups)?.into_iter().map(|(name, _)| name).collect();
    let read = |name: &Name| match name {
        Name::Group(_, slot) => small::read(repo, name, |_, plain| groups::decode_at(*slot, plain)),
        _ => Ok(Small::Gone),
    };
    for (name, found) in names.iter().zip(parallel::many(repo, &names, read)) {
        let next = "the group stands as if it had not been said; yester prune removes it a day after the group has ended";
        wrong(findings, name, &found?, next, REMOVES);
    }
    Ok(())
}

/// Reads what became of runs.
fn runs(repo: &Repository, findings: &mut Findings<'_>) -> Result<()> {
    let ids = ids(repo, Class::Runs)?;
    let read = |id: &SnapshotId| small::read(repo, &Name::Run(*id), |_, plain| decode_run(plain));
    for (id, found) in ids.iter().zip(parallel::many(repo, &ids, read)) {
        wrong(findings, &Name::Run(*id), &found?, "nothing depends on it; yester prune removes it", REMOVES);
    }
    Ok(())
}

fn live_snapshots(
    repo: &Repository,
    findings: &mut Findings<'_>,
    listed: &HashSet<SnapshotId>,
    forgotten: &HashSet<SnapshotId>,
) -> Result<Vec<Snapshot>> {
    let mut out = Vec::new();
    let mut ids: Vec<SnapshotId> = listed.difference(forgotten).copied().collect();
    ids.sort_unstable();
    for (id, found) in ids.iter().zip(parallel::many(repo, &ids, |id| snapshots::judge_exactly(repo, *id))) {
        let found = match found? {
            Small::Sound(Some(snapshot)) => {
                out.push(snapshot);
                continue;
            }
            found => found,
        };
        let next = match found {
            Small::Damaged(ObjectType::Fence, _) => {
                "it was a fence, and holds as one; yester repair objects writes it anew".to_owned()
            }
            _ => format!("what it needs cannot be told, so nothing is pruned; yester forget {id} gives it up"),
        };
        wrong(findings, &Name::Snapshot(*id), &found, &next, REMOVES);
    }
    out.sort_by_key(|s| (s.time, s.id));
    Ok(out)
}

/// What the error says besides the object's name, which the finding says itself.
pub(super) fn bare(name: &Name, error: &Error) -> String {
    match error.subject() {
        Some(subject) if subject == name.to_string() => error.without_subject(),
        _ => error.to_string(),
    }
}

/// Says what is wrong with the copies of the key slots that count. Answers how many lack only their last copies: somebody
/// was stopped who added one.
fn copies(findings: &mut Findings<'_>, slots: &[Slot]) -> u64 {
    let mut unfinished = 0;
    for slot in slots {
        if slot.copies.lacks_last() {
            unfinished += 1;
            continue;
        }
        let next = match slot.copies.whole() {
            0 if slot.made_up => "it counts for nothing, and yester repair keys removes it".to_owned(),
            0 => format!("no copy of it is good; yester key remove {} removes it", slot.id.short()),
            _ => "yester repair keys writes it again from a good copy".to_owned(),
        };
        for (name, state) in slot.copies.states() {
            match state {
                CopyState::Whole => {}
                CopyState::Missing if slot.made_up => {}
                CopyState::Missing => findings.damage(name, format!("{MISSING}; {next}")),
                state => findings.damage(name, format!("{}; {next}", slots::describe(state))),
            }
        }
    }
    unfinished
}
