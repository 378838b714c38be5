//! Removals and additions of key slots that were stopped half way, and how they are ended.
//!
//! A removal begins with an object of its own, `keys/<slot>.removed`, sealed with the repository's key; from then on the
//! slot counts no more, and whoever may write deletes what is left of it. An addition writes the copies in order: a slot
//! that lacks only its last ones is completed.

use std::collections::BTreeSet;

use crate::chunk::keys::Keys;
use crate::chunk::seal::{self, Judged};
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::ObjectType;
use crate::keys::copies::CopyState;
use crate::keys::slots::{self, Slot};
use crate::model::{RepositoryId, SlotId};
use crate::storage::{COPIES, Class, Created, Name, Storage};

/// Where the slots are, and what removals of them are judged by.
#[derive(Clone, Copy)]
pub(crate) struct SlotStore<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) repository: RepositoryId,
    pub(crate) keys: &'a Keys,
}

/// The slots of a repository, by what counts.
#[derive(Debug, Default)]
pub(crate) struct SlotsByState {
    /// Those that count.
    pub(crate) live: Vec<Slot>,
    /// Those whose removal has begun.
    pub(crate) removed: BTreeSet<SlotId>,
    /// Removals that do not count, since without these slots none would be left that can be read.
    pub(crate) void: BTreeSet<SlotId>,
    /// Removals that nobody with the key has begun.
    pub(crate) made_up: Vec<(Name, Error)>,
}

/// Whether a listing of `keys/` has anything that may have to be ended.
pub(crate) fn is_unfinished(listed: &[(Name, u64)]) -> bool {
    let copies = listed.iter().filter(|(name, _)| matches!(name, Name::Key(..))).count();
    let slots: BTreeSet<SlotId> =
        listed.iter().filter_map(|(name, _)| if let Name::Key(id, _) = name { Some(*id) } else { None }).collect();
    copies != slots.len() * usize::from(COPIES) || copies != listed.len()
}

impl SlotStore<'_> {
    /// Reads the slots and their removals.
    pub(crate) fn look(self) -> Result<SlotsByState> {
        let mut found = SlotsByState::default();
        let listed = self.storage.list(Class::Keys)?;
        for (name, _) in &listed {
            let Name::Removed(id) = *name else { continue };
            match self.judge(id)? {
                // A removal says nothing but that it is there: a damaged one counts like any other.
                Some(Judged::Sound(..) | Judged::Damaged(..)) => drop(found.removed.insert(id)),
                Some(Judged::MadeUp(e)) => found.made_up.push((*name, e.about(name))),
                Some(Judged::Newer(..)) | None => {}
            }
        }
        let all = slots::read(self, &listed);
        let counts = |slot: &Slot| !found.removed.contains(&slot.id);
        if all.iter().any(|slot| counts(slot) && may_be_read(slot)) {
            found.live = all.into_iter().filter(counts).collect();
        } else {
            // Two who remove each other's slot, or the only other one was lost since.
            let there: BTreeSet<SlotId> = all.iter().filter(|slot| may_be_read(slot)).map(|slot| slot.id).collect();
            found.void = found.removed.intersection(&there).copied().collect();
            found.removed = found.removed.difference(&there).copied().collect();
            found.live = all.into_iter().filter(|slot| !found.removed.contains(&slot.id)).collect();
        }
        Ok(found)
    }

    fn judge(self, id: SlotId) -> Result<Option<Judged>> {
        let mut object = Vec::new();
        match self.storage.read(&Name::Removed(id), None, &mut object) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(Some(Judged::MadeUp(e))),
            Err(e) => return Err(e),
        }
        let kinds = &[ObjectType::Removed];
        let class = &self.keys.snapshot;
        seal::judge_object(kinds, self.repository, &bound(id), class, &object, "a removal of a key slot").map(Some)
    }

    /// Removes a slot. Once the removal is durable, it is ended by whoever comes next if this is stopped.
    pub(crate) fn remove(self, id: SlotId) -> Result<()> {
        let object = seal::seal_object(ObjectType::Removed, self.repository, &bound(id), &self.keys.snapshot, &[])?;
        let name = Name::Removed(id);
        if self.storage.create(&name, &[&object])? == Created::Exists && matches!(self.judge(id)?, Some(Judged::MadeUp(_))) {
            self.storage.delete(&name)?;
            self.storage.create(&name, &[&object])?;
        }
        self.storage.sync()?;
        self.end(id)
    }

    /// Deletes what is left of a slot, and then its removal.
    fn end(self, id: SlotId) -> Result<()> {
        slots::delete(self.storage, id)?;
        self.storage.delete(&Name::Removed(id))?;
        self.storage.sync()
    }

    /// Ends removals that have begun, completes slots whose addition was stopped, and takes away what only looks like a
    /// removal.
    pub(crate) fn finish(self) -> Result<()> {
        if !is_unfinished(&self.storage.list(Class::Keys)?) {
            return Ok(());
        }
        // What is built on here must not be gone after a power cut.
        self.storage.sync_everything()?;
        let found = self.look()?;
        found.removed.iter().try_for_each(|id| self.end(*id))?;
        for (name, _) in &found.made_up {
            self.storage.delete(name)?;
        }
        // A slot that only could not be read now may be good: then nothing is decided.
        let unknown = |slot: &Slot| slot.copies.states().any(|(_, state)| matches!(state, CopyState::Unknown(_)));
        if !found.live.iter().any(unknown) {
            found.void.iter().try_for_each(|id| self.storage.delete(&Name::Removed(*id)))?;
        }
        for slot in found.live.iter().filter(|slot| slot.copies.lacks_last()) {
            slot.copies.repair(self.storage)?;
        }
        self.storage.sync()
    }
}

fn may_be_read(slot: &Slot) -> bool {
    slot.copies.whole() > 0 && !slot.former
}

/// What the seal is bound to: 32 bytes, as of every other small object.
fn bound(id: SlotId) -> [u8; 32] {
    let mut out = [0; 32];
    out.iter_mut().zip(id.0).for_each(|(to, from)| *to = from);
    out
}
