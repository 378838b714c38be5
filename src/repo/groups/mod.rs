//! Groups: `groups/<id>.<step>` is what was said of a round over several hosts. A name is given once, so that of all who
//! want to decide something the first one does, and everybody else finds what was decided.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunk::seal;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::ObjectType;
use crate::format::group::{decode_group, encode_group};
use crate::format::snapshot::MAX_TEXT;
use crate::model::{GroupEntry, GroupRound, GroupSlot, GroupStep, SnapshotId, Timestamp};
use crate::repo::Repository;
use crate::repo::marks::Wrong;
use crate::repo::small::{self, Small};
use crate::repo::{parallel, snapshots};
use crate::storage::{Class, Created, Name};

pub mod state;

/// For so many seconds a group is kept at least.
const KEPT: i64 = 365 * 86_400;

/// What was said of one group, by places.
pub type GroupEntries = BTreeMap<GroupSlot, GroupEntry>;

/// Says something, unless it was said before. Answers what stands there now. Texts that are too long are cut.
pub fn say(repo: &Repository, id: SnapshotId, record: &GroupEntry) -> Result<GroupEntry> {
    let mut record = record.clone();
    for text in [&mut record.host, &mut record.user, &mut record.message] {
        text.truncate(MAX_TEXT);
    }
    let plain = encode_group(&record)?;
    let object = seal::seal_object(ObjectType::Group, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    let name = Name::Group(id, record.slot);
    if repo.storage().create(&name, &[&object])? == Created::New {
        repo.storage().sync()?;
        return Ok(record);
    }
    let next = "nobody can say this of the group any more: open another one (yester group create)";
    read(repo, id, record.slot)?.result(&name).map_err(|e| e.context(next))
}

/// Reads and judges an object.
fn read(repo: &Repository, id: SnapshotId, slot: GroupSlot) -> Result<Small<GroupEntry>> {
    small::read(repo, &Name::Group(id, slot), |_, plain| decode_at(slot, plain))
}

/// The body of an object that says what its name does: a good object under another's name says nothing.
pub fn decode_at(slot: GroupSlot, plain: &[u8]) -> Result<GroupEntry> {
    let record = decode_group(plain)?;
    match record.slot == slot {
        true => Ok(record),
        false => Err(Error::corrupt(format!("it is what {} says, under another name", record.slot))),
    }
}

/// What was read of groups, so that nothing is read twice: objects never change.
#[derive(Debug, Default)]
pub struct GroupReader {
    all: BTreeMap<SnapshotId, GroupEntries>,
    /// What counts for nothing, or cannot be read.
    settled: BTreeSet<Name>,
    /// Objects that are damaged.
    wrong: Wrong,
}

impl GroupReader {
    /// Reads what is new of all groups, or of one. What is not authentic is told, and counts for nothing.
    pub fn refresh(&mut self, repo: &Repository, only: Option<SnapshotId>) -> Result<()> {
        let listed = repo.storage().list(Class::Groups)?.into_iter();
        let places = listed.filter_map(|(name, _)| if let Name::Group(id, slot) = name { Some((id, slot)) } else { None });
        let places: BTreeSet<(SnapshotId, GroupSlot)> = places.filter(|(id, _)| only.is_none_or(|only| only == *id)).collect();
        let known = |all: &BTreeMap<SnapshotId, GroupEntries>, (id, slot): &(SnapshotId, GroupSlot)| {
            all.get(id).is_some_and(|records| records.contains_key(slot))
        };
        let new: Vec<(SnapshotId, GroupSlot)> = places
            .iter()
            .filter(|place| !known(&self.all, place) && !self.settled.contains(&Name::Group(place.0, place.1)))
            .copied()
            .collect();
        // What prune deleted is not there any more.
        self.all.retain(|id, records| {
            records.retain(|slot, _| places.contains(&(*id, *slot)));
            !records.is_empty()
        });
        let found = parallel::many(repo, &new, |(id, slot)| read(repo, *id, *slot));
        let mut made_up = Vec::new();
        for ((id, slot), found) in new.into_iter().zip(found) {
            let name = Name::Group(id, slot);
            match found? {
                Small::Sound(record) => {
                    self.all.entry(id).or_default().insert(slot, record);
                    continue;
                }
                Small::Damaged(_, e) => self.wrong.push((name, e)),
                Small::MadeUp(e) => made_up.push((name, e)),
                Small::Newer(..) => {}
                Small::Gone => continue,
            }
            self.settled.insert(name);
        }
        small::tell(repo, &made_up, "yester prune removes it");
        Ok(())
    }

    /// What was said of a group; empty for one that is not known.
    pub(crate) fn of(&self, id: SnapshotId) -> GroupEntries {
        self.all.get(&id).cloned().unwrap_or_default()
    }

    /// All groups whose round can be read, the oldest first.
    pub fn rounds(&self) -> Vec<(SnapshotId, &GroupEntries)> {
        let opened = |records: &GroupEntries| records.get(&GroupSlot::of_round(GroupStep::Round)).map(|record| record.time);
        let mut out: Vec<_> = self.all.iter().filter_map(|(id, records)| Some((opened(records)?, *id, records))).collect();
        out.sort_by_key(|(time, id, _)| (*time, *id));
        out.into_iter().map(|(_, id, records)| (id, records)).collect()
    }

    /// Objects that are damaged.
    pub fn wrong(&self) -> &[(Name, Error)] {
        &self.wrong
    }
}

/// Reads all groups.
pub fn list(repo: &Repository) -> Result<GroupReader> {
    let mut out = GroupReader::default();
    out.refresh(repo, None)?;
    Ok(out)
}

/// The group whose id begins with `prefix`, or for `latest` the newest of those that are `meant`, by the clocks of the
/// hosts that opened them.
pub fn find(reader: &GroupReader, prefix: &str, meant: impl Fn(&GroupRound) -> bool) -> Result<SnapshotId> {
    let mut rounds = reader.rounds();
    let none = || Error::new(ErrorKind::NotFound, format!("there is no group {prefix}: yester group list shows them"));
    if prefix == "latest" {
        let round = |records: &GroupEntries| records.get(&GroupSlot::of_round(GroupStep::Round))?.round.clone();
        let newest = rounds.into_iter().rfind(|(_, records)| round(records).is_some_and(|round| meant(&round)));
        return newest.map(|(id, _)| id).ok_or_else(none);
    }
    if prefix.len() < 4 || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::invalid(format!("{prefix} names no group: give at least 4 digits of its id, or latest")));
    }
    rounds.retain(|(id, _)| id.to_string().starts_with(&prefix.to_ascii_lowercase()));
    match (rounds.pop(), rounds.pop()) {
        (Some((one, _)), None) => Ok(one),
        (Some(_), Some(_)) => Err(Error::invalid(format!("several groups begin with {prefix}: give more digits"))),
        (None, _) => Err(none()),
    }
}

/// Deletes groups of which nothing was said for a year and whose snapshots are all gone, and what is no step of a group.
/// Answers how many objects. A damaged step stays while its round is under way: what it decided cannot be decided again.
pub fn expire(repo: &Repository, now: Timestamp) -> Result<u64> {
    let reader = list(repo)?;
    let mut gone = 0;
    for name in reader.settled.iter() {
        let Name::Group(id, slot) = name else { continue };
        let is_under_way = reader.all.get(id).is_some_and(|records| state::is_under_way(records, now));
        // A good object under another name is damaged as well.
        let goes = match read(repo, *id, *slot)? {
            Small::MadeUp(_) => true,
            Small::Damaged(..) => !is_under_way,
            _ => false,
        };
        if goes {
            // With a former key all that is new looks made up.
            repo.key_is_current()?;
            repo.storage().delete(name)?;
            gone += 1;
        }
    }
    for (id, records) in &reader.all {
        let newest = records.values().map(|record| record.time.secs).max().unwrap_or(i64::MAX);
        if newest.saturating_add(KEPT) >= now.secs {
            continue;
        }
        let mut is_there = false;
        for snapshot in records.values().filter_map(|record| record.snapshot) {
            is_there |= !matches!(snapshots::judge(repo, snapshot)?, Small::Gone);
        }
        if !is_there {
            // The round goes last: without it the rest means nothing.
            for slot in records.keys().rev() {
                repo.storage().delete(&Name::Group(*id, *slot))?;
                gone += 1;
            }
        }
    }
    Ok(gone)
}
