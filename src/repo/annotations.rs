//! Annotations: `annotations/<id>` says something of a snapshot after it was made: tags, a note, a pin. Each is a new
//! object, so that nothing is ever rewritten.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::chunk::seal;
use crate::error::{Error, Result};
use crate::format::annotation::{decode_annotation, encode_annotation};
use crate::format::envelope::ObjectType;
use crate::model::{Annotation, Remarks, Snapshot, SnapshotId, Timestamp};
use crate::repo::Repository;
use crate::repo::small::{self, Small};
use crate::repo::{parallel, rubbish, snapshots};
use crate::storage::{Class, Name};

/// Writes an annotation under a new id. It holds over all that `said` has of its snapshot: where one of these is of the
/// future, its time is moved behind it.
pub fn write(repo: &Repository, said: &Said, annotation: &Annotation) -> Result<()> {
    let id = SnapshotId::random()?;
    let mut annotation = annotation.clone();
    if let Some(after) = said.last(annotation.snapshot).and_then(after) {
        annotation.time = annotation.time.max(after);
    }
    let plain = encode_annotation(&annotation)?;
    let object = seal::seal_object(ObjectType::Annotation, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
    repo.storage().create(&Name::Annotation(id), &[&object])?;
    repo.storage().sync()
}

/// The next moment; `None` after the last one that there is.
fn after(time: Timestamp) -> Option<Timestamp> {
    match time.nanos {
        999_999_999.. => Some(Timestamp { secs: time.secs.checked_add(1)?, nanos: 0 }),
        nanos => Some(Timestamp { nanos: nanos + 1, ..time }),
    }
}

/// What all annotations say, as they were found.
#[derive(Debug, Default)]
pub struct Said {
    /// Annotations by their ids, those of each snapshot in the order in which they hold.
    of: HashMap<SnapshotId, Vec<(SnapshotId, Arc<Annotation>)>>,
    /// Those that were made with the key and cannot be read, or not by this program, and why. Each may be a pin.
    pub(crate) unread: Vec<(SnapshotId, Error)>,
}

impl Said {
    /// The time of the last one of a snapshot.
    fn last(&self, snapshot: SnapshotId) -> Option<Timestamp> {
        self.of.get(&snapshot)?.last().map(|(_, annotation)| annotation.time)
    }

    /// Changes the tags of these snapshots to what holds now.
    pub fn apply<'a>(&self, snapshots: impl IntoIterator<Item = &'a mut Snapshot>) -> HashMap<SnapshotId, Remarks> {
        let mut out = HashMap::new();
        for snapshot in snapshots {
            let Some(list) = self.of.get(&snapshot.id) else { continue };
            let mut remarks = Remarks::default();
            list.iter().for_each(|(_, annotation)| annotation.apply(snapshot, &mut remarks));
            if remarks != Remarks::default() {
                out.insert(snapshot.id, remarks);
            }
        }
        out
    }

    /// Annotations that change nothing, since all that they say was said anew later.
    fn superseded(&self) -> Vec<SnapshotId> {
        let mut out = Vec::new();
        for list in self.of.values() {
            let (mut tags, mut note, mut pin) = (false, false, false);
            for (id, annotation) in list.iter().rev() {
                let says_tags = annotation.clears_tags || !annotation.removed.is_empty() || !annotation.added.is_empty();
                let says_note = annotation.note.is_some();
                let says_pin = annotation.pin.is_some();
                if (!says_tags || tags) && (!says_note || note) && (!says_pin || pin) {
                    out.push(*id);
                }
                (tags, note, pin) = (tags || annotation.clears_tags, note || says_note, pin || says_pin);
            }
        }
        out
    }
}

/// Reads all annotations; those that this process read before are not read again. What is not authentic is told, and
/// counts for nothing. One that is damaged does not hide the rest.
pub fn read_all(repo: &Repository) -> Result<Said> {
    let listed = repo.storage().list(Class::Annotations)?.into_iter();
    let ids: Vec<SnapshotId> =
        listed.filter_map(|(name, _)| if let Name::Annotation(id) = name { Some(id) } else { None }).collect();
    let known = repo.memory.annotations.lock().clone();
    let new: Vec<SnapshotId> = ids.iter().copied().filter(|id| !known.contains_key(id)).collect();
    let found = parallel::many(repo, &new, |id| small::read(repo, &Name::Annotation(*id), |_, plain| decode_annotation(plain)));
    let (mut out, mut made_up) = (Said::default(), Vec::new());
    let mut sound: Vec<(SnapshotId, Arc<Annotation>)> =
        ids.iter().filter_map(|id| known.get(id).map(|annotation| (*id, annotation.clone()))).collect();
    for (id, found) in new.into_iter().zip(found) {
        match found? {
            Small::Sound(annotation) => sound.push((id, Arc::new(annotation))),
            Small::Damaged(_, e) | Small::Newer(e, _) => out.unread.push((id, e)),
            Small::MadeUp(e) => made_up.push((Name::Annotation(id), e)),
            Small::Gone => {}
        }
    }
    small::tell(repo, &made_up, "yester prune removes it");
    repo.memory.annotations.lock().extend(sound.iter().cloned());
    sound.sort_by_key(|(id, annotation)| (annotation.time, *id));
    for (id, annotation) in sound {
        out.of.entry(annotation.snapshot).or_default().push((id, annotation));
    }
    Ok(out)
}

/// Deletes annotations whose snapshot is gone or that a later one made void, and what is no annotation. Those that are
/// damaged stay: one of them may have been a pin, and a user gives it up with `repair objects`. Answers how many.
pub fn expire(repo: &Repository) -> Result<u64> {
    let said = read_all(repo)?;
    let mut going: HashSet<SnapshotId> = said.superseded().into_iter().collect();
    for (snapshot, list) in &said.of {
        if matches!(snapshots::judge(repo, *snapshot)?, Small::Gone) {
            going.extend(list.iter().map(|(id, _)| *id));
        }
    }
    let mut gone = 0;
    for id in going {
        repo.storage().delete(&Name::Annotation(id))?;
        gone += 1;
    }
    let known: HashSet<SnapshotId> = said.of.values().flatten().map(|(id, _)| *id).collect();
    let unread = |id: &SnapshotId| said.unread.iter().any(|(other, _)| other == id);
    for (name, _) in repo.storage().list(Class::Annotations)? {
        let is_other = matches!(&name, Name::Annotation(id) if !known.contains(id) && !unread(id));
        if is_other && rubbish::remove(repo, &name)? {
            gone += 1;
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_moment_is_later() {
        let time = |secs, nanos| Timestamp { secs, nanos };
        assert_eq!(after(time(1, 5)), Some(time(1, 6)));
        assert_eq!(after(time(1, 999_999_999)), Some(time(2, 0)));
        assert_eq!(after(time(i64::MAX, 999_999_999)), None);
    }
}
