//! Key slots: several ways to one master key.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use crate::chunk::keys::{Credential, MasterKey, Unwrapped, open_slot};
use crate::chunk::one_way::only_writes;
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{self, ChunkerParameters, Derivation, KeySlot};
use crate::format::envelope::{self, ObjectType};
use crate::keys::copies::{Copies, CopyState};
use crate::keys::removal::{self, SlotStore};
use crate::model::{RepositoryId, SlotId, Timestamp};
use crate::observe::Reports;
use crate::storage::{COPIES, Class, Created, Name, Storage};

/// What is wrong with a copy of a slot whose MAC is not of the repository's key.
const NOT_AUTHENTIC: &str = "it is not authentic: nobody with the repository's key has made it";
const WHAT: &str = "a key slot";
/// The longest label that is written, in bytes.
const MAX_LABEL: usize = 1024;

/// What a new slot needs beside the credential.
#[derive(Debug, Clone)]
pub struct SlotOptions {
    /// How a passphrase becomes a key.
    pub derivation: Derivation,
    /// The time now.
    pub now: Timestamp,
    /// For people: whose it is.
    pub label: Vec<u8>,
}

/// A slot and its copies.
#[derive(Debug)]
pub struct Slot {
    /// Its name.
    pub id: SlotId,
    /// How its copies are, and what they hold.
    pub copies: Copies<KeySlot>,
    /// Nobody with the repository's key has made any of the copies that are there.
    pub made_up: bool,
    /// It was made with a master key that was changed since: it opens nothing any more.
    pub former: bool,
}

impl Slot {
    /// What it holds, where a copy of it can be read.
    pub fn value(&self) -> Option<&KeySlot> {
        self.copies.values().next()
    }

    /// Whether it holds the master key, and not one that only writes or a former one.
    pub(super) fn is_full(&self) -> bool {
        !self.former && self.value().is_some_and(|value| !value.wrapped.only_writes())
    }
}

/// A slot that opened.
pub(crate) struct UnlockedSlot<T = MasterKey> {
    /// What was in it.
    pub(crate) master: T,
    /// Its name.
    pub(crate) slot: SlotId,
    /// Whether something in `keys/` was stopped half way.
    pub(crate) unfinished: bool,
}

/// Wraps `master` for `credential` in a new slot. When this returns, all copies are durable, and were read back and
/// opened.
pub(crate) fn add(
    storage: &dyn Storage,
    repository: RepositoryId,
    master: &MasterKey,
    credential: &Credential,
    options: &SlotOptions,
) -> Result<SlotId> {
    add_kind(storage, repository, master, credential, options, None)
}

/// The same; with chunk sizes, a slot with a key that only writes and cuts so.
pub(crate) fn add_kind(
    storage: &dyn Storage,
    repository: RepositoryId,
    master: &MasterKey,
    credential: &Credential,
    options: &SlotOptions,
    writes: Option<ChunkerParameters>,
) -> Result<SlotId> {
    if options.label.len() > MAX_LABEL {
        return Err(Error::invalid(format!("the label is longer than {MAX_LABEL} bytes")));
    }
    let id = SlotId::random()?;
    let derivation = match credential {
        Credential::Passphrase(_) => options.derivation,
        Credential::KeyFile(_) => Derivation::KeyFile,
    };
    let writer = writes.map(|chunker| master.writer(id.writer(), repository, chunker)).transpose()?;
    let slot = match &writer {
        Some(writer) => writer.wrap(credential, derivation, options.now, options.label.clone(), id)?,
        None => master.wrap(credential, derivation, options.now, options.label.clone(), id)?,
    };
    let header = envelope::header(ObjectType::KeySlot, repository);
    let mac = master.keys().slot_mac(&header, id, &config::slot_fields(&slot));
    let object = envelope::wrap(ObjectType::KeySlot, repository, &config::encode_slot(&slot, &mac)?);
    for copy in 0..COPIES {
        let name = Name::Key(id, copy);
        if storage.create(&name, &[&object])? == Created::Exists {
            // Somebody took this for an addition that was stopped, and completed it.
            let mut found = Vec::new();
            storage.read(&name, None, &mut found)?;
            if found != object {
                return Err(Error::new(ErrorKind::Exists, format!("{name} exists already: try again")));
            }
        }
        // One after the other, so that it is the last ones that lack when this is stopped.
        storage.sync()?;
    }
    let is_right = |found: &Unwrapped| match (found, &writer) {
        (Unwrapped::Master(found), None) => found.is(master),
        (Unwrapped::Writer(found), Some(writer)) => found.is(writer),
        _ => false,
    };
    verify(SlotStore { storage, repository, keys: &master.keys() }, id, credential, is_right)
        .map_err(|e| e.context(format!("the new key slot {} could not be read back", id.short())))?;
    Ok(id)
}

fn verify(place: SlotStore<'_>, id: SlotId, credential: &Credential, is_right: impl Fn(&Unwrapped) -> bool) -> Result<()> {
    let slot = read_one(place, &place.storage.list(Class::Keys)?, id);
    if let Some((name, state)) = slot.copies.states().find(|(_, state)| **state != CopyState::Whole) {
        return Err(Error::corrupt(describe(state)).about(name));
    }
    match slot.value().map(|value| open_slot(value, credential, id)).transpose()?.flatten() {
        Some(found) if is_right(&found) && !slot.copies.differ() => Ok(()),
        _ => Err(Error::corrupt("it does not open")),
    }
}

/// A state in words.
pub(crate) fn describe(state: &CopyState) -> String {
    match state {
        CopyState::Whole => "good".to_owned(),
        CopyState::Missing => "missing".to_owned(),
        CopyState::Damaged(why) | CopyState::MadeUp(why) | CopyState::Unknown(why) => why.clone(),
    }
}

/// Every slot of a listing of `keys/`, sorted by id, with all its copies.
pub(crate) fn read(place: SlotStore<'_>, listed: &[(Name, u64)]) -> Vec<Slot> {
    names(listed).into_keys().map(|id| read_one(place, listed, id)).collect()
}

fn read_one(place: SlotStore<'_>, listed: &[(Name, u64)], id: SlotId) -> Slot {
    let age = Cell::new(0);
    let copies = Copies::read_judged(place.storage, |copy| Name::Key(id, copy), listed, |object| judged(place, object, id, &age));
    let is_long = |name| listed.iter().any(|(listed, size)| *listed == name && *size > config::MAX_OBJECT);
    let counts_for_nothing = |(name, state): (Name, &CopyState)| match state {
        CopyState::Missing | CopyState::MadeUp(_) => true,
        CopyState::Damaged(_) => is_long(name),
        CopyState::Whole | CopyState::Unknown(_) => false,
    };
    let there = copies.states().any(|(_, state)| *state != CopyState::Missing);
    let made_up = there && copies.states().all(counts_for_nothing);
    Slot { id, copies, made_up, former: age.get() > 0 }
}

/// Whether a copy of this slot is whole and says that it is of `repository`.
pub(crate) fn is_of(storage: &dyn Storage, listed: &[(Name, u64)], id: SlotId, repository: RepositoryId) -> bool {
    let mut object = Vec::new();
    let is_copy = |(name, size): &&(Name, u64)| matches!(name, Name::Key(of, _) if *of == id) && *size <= config::MAX_OBJECT;
    listed
        .iter()
        .filter(is_copy)
        .any(|(name, _)| storage.read(name, None, &mut object).is_ok() && decode(&object, |found| found == repository).is_ok())
}

/// The repositories that slots say they are of, for who has no configuration to ask; the one that most say first.
pub(crate) fn repositories(storage: &dyn Storage) -> Result<Vec<RepositoryId>> {
    let mut found: Vec<(u64, RepositoryId)> = Vec::new();
    let mut object = Vec::new();
    for (name, size) in storage.list(Class::Keys)? {
        let is_slot = matches!(name, Name::Key(..)) && size <= config::MAX_OBJECT;
        if !is_slot || storage.read(&name, None, &mut object).is_err() {
            continue;
        }
        let Ok((id, _)) = envelope::unwrap(&object, ObjectType::KeySlot, WHAT) else { continue };
        match found.iter_mut().find(|(_, known)| *known == id) {
            Some((count, _)) => *count += 1,
            None => found.push((1, id)),
        }
    }
    found.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

/// The error where nothing says what repository it is.
pub(crate) fn no_repository(storage: &dyn Storage) -> Error {
    let text = format!("{} has neither a configuration nor a key slot that can be read", storage.describe());
    Error::corrupt(format!("{text}: only its recovery text opens it (yester key recover FILE)"))
}

/// Deletes all copies of a slot; durable when this returns.
pub(crate) fn delete(storage: &dyn Storage, id: SlotId) -> Result<()> {
    loop {
        (0..COPIES).try_for_each(|copy| storage.delete(&Name::Key(id, copy)))?;
        storage.sync()?;
        // Somebody who repaired a copy in between looks for its source and takes it away again, unless it saw the
        // source just before: then it is found here.
        if !names(&storage.list(Class::Keys)?).contains_key(&id) {
            return Ok(());
        }
    }
}

/// The copies that there are of each slot.
fn names(listed: &[(Name, u64)]) -> BTreeMap<SlotId, Vec<(Name, u64)>> {
    let mut out: BTreeMap<SlotId, Vec<(Name, u64)>> = BTreeMap::new();
    for (name, size) in listed {
        if let Name::Key(id, _) = name {
            out.entry(*id).or_default().push((*name, *size));
        }
    }
    out.values_mut().for_each(|copies| copies.sort_unstable());
    out
}

/// What a copy of the slot `id` holds, or how it is. What does not begin as a key slot of this repository does is no
/// slot that was damaged later: nothing is lost with it. `age`: how many changes ago its master key was the newest. Header and MAC stand at the same place in every version.
fn judged(place: SlotStore<'_>, object: &[u8], id: SlotId, age: &Cell<usize>) -> std::result::Result<KeySlot, CopyState> {
    let made_up = |why: String| Err(CopyState::MadeUp(why));
    match envelope::peek(object) {
        Some(said) if said.kind != ObjectType::KeySlot as u8 => return made_up(format!("it is an object of type {}", said.kind)),
        Some(said) if said.repository != place.repository => return made_up(foreign(said.repository)),
        Some(_) => {}
        None => return made_up("it is not a key slot".to_owned()),
    }
    let intact = envelope::parts(object, ObjectType::KeySlot, WHAT).map_err(|e| CopyState::Damaged(e.to_string()))?;
    let parts = config::split_slot(intact.1).ok();
    match parts.and_then(|(fields, mac)| place.keys.slot_age(intact.0, id, fields, mac)) {
        Some(found) => {
            age.set(found);
            decode(object, |found| found == place.repository).map_err(|e| CopyState::of(&e, object))
        }
        None => made_up(NOT_AUTHENTIC.to_owned()),
    }
}

fn foreign(repository: RepositoryId) -> String {
    format!("it belongs to repository {}", repository.short())
}

fn decode(object: &[u8], is_ours: impl Fn(RepositoryId) -> bool) -> Result<KeySlot> {
    let (found, body) = envelope::unwrap(object, ObjectType::KeySlot, WHAT)?;
    match is_ours(found) {
        true => config::decode_slot(body),
        false => Err(Error::corrupt(format!("{WHAT}: {}", foreign(found)))),
    }
}

/// The master key, by whichever slot of one of `repositories` the credential opens. Of each slot the first readable copy
/// is tried; only when none opens, copies that hold something else. The slots in `without` do not count. What costs least
/// is tried first: nobody can tell before whether somebody with the key made a slot, and one that asks for much memory or
/// time, or that nothing can be done with, must not be in the way of the others.
pub(crate) fn unlock(
    storage: &dyn Storage,
    repositories: &[RepositoryId],
    credential: &Credential,
    without: &BTreeSet<SlotId>,
    reports: &Reports,
) -> Result<UnlockedSlot> {
    let UnlockedSlot { master, slot, unfinished } = unlock_any(storage, repositories, credential, without, reports)?;
    match master {
        Unwrapped::Master(master) => Ok(UnlockedSlot { master, slot, unfinished }),
        Unwrapped::Writer(_) => Err(only_writes("do this")),
    }
}

/// The same of any kind of slot.
pub(crate) fn unlock_any(
    storage: &dyn Storage,
    repositories: &[RepositoryId],
    credential: &Credential,
    without: &BTreeSet<SlotId>,
    reports: &Reports,
) -> Result<UnlockedSlot<Unwrapped>> {
    let listed = storage.list(Class::Keys)?;
    let unfinished = removal::is_unfinished(&listed);
    let mut slots = names(&listed);
    slots.retain(|id, _| !without.contains(id));
    let mut search = Search { storage, repositories, credential, read: Vec::new(), tried: 0, damaged: Vec::new() };
    let mut left = Vec::new();
    for (id, copies) in &slots {
        let mut copies = copies.iter();
        copies.by_ref().find(|(name, size)| search.read(*id, name, *size));
        left.extend(copies.map(|(name, size)| (*id, name, *size)));
    }
    let mut found = search.try_all();
    if found.is_none() {
        for (id, name, size) in left {
            search.read(id, name, size);
        }
        found = search.try_all();
    }
    match found {
        Some((master, slot)) => {
            // One copy less does no harm, but it will when the others go too.
            for (name, e) in &search.damaged {
                reports.warn(name.to_string(), format!("{e} (see: yester key list)"));
            }
            Ok(UnlockedSlot { master, slot, unfinished })
        }
        None => Err(search.failed(slots.is_empty())),
    }
}

struct Search<'a> {
    storage: &'a dyn Storage,
    repositories: &'a [RepositoryId],
    credential: &'a Credential,
    /// What was read: each slot's bytes, and what they say.
    read: Vec<(SlotId, Name, Vec<u8>, KeySlot)>,
    /// How many of them were tried.
    tried: usize,
    damaged: Vec<(Name, Error)>,
}

impl Search<'_> {
    /// Reads a copy of a slot; false if it cannot be read.
    fn read(&mut self, id: SlotId, name: &Name, size: u64) -> bool {
        let mut object = Vec::new();
        let read = match size {
            0..=config::MAX_OBJECT => self.storage.read(name, None, &mut object),
            _ => Err(Error::corrupt(format!("it has {size} bytes"))),
        };
        if read.is_ok() && self.read.iter().any(|(known, _, bytes, _)| *known == id && *bytes == object) {
            return true;
        }
        match read.and_then(|()| decode(&object, |found| self.repositories.contains(&found))) {
            Ok(slot) => self.read.push((id, *name, object, slot)),
            Err(e) => {
                self.damaged.push((*name, e));
                return false;
            }
        }
        true
    }

    /// Tries what was read since the last time.
    fn try_all(&mut self) -> Option<(Unwrapped, SlotId)> {
        let new = self.read.get_mut(self.tried..).unwrap_or_default();
        new.sort_by_key(|(_, _, _, slot)| cost(slot.derivation));
        self.tried += new.len();
        for (id, name, _, slot) in new {
            match open_slot(slot, self.credential, *id) {
                Ok(Some(master)) => return Some((master, *id)),
                Ok(None) => {}
                Err(e) => self.damaged.push((*name, e)),
            }
        }
        None
    }

    fn failed(self, none: bool) -> Error {
        let place = self.storage.describe();
        if let Some((name, e)) = self.damaged.last() {
            let next = "yester key recover makes a slot from the recovery text";
            return Error::new(ErrorKind::Key, format!("no readable key slot of {place} takes this key; {name}: {e}; {next}"));
        }
        let text = match self.credential {
            _ if none => {
                format!("{place} has no key slots, its keys/ is empty: yester key recover makes one from the recovery text")
            }
            Credential::Passphrase(_) => format!("wrong passphrase for {place} (or its key slot is damaged)"),
            Credential::KeyFile(_) => format!("this key file does not open {place}"),
        };
        Error::new(ErrorKind::Key, text)
    }
}

/// The slots that cost more than twice as much to try as this one. They were made with other parameters: whoever looks for another
/// slot of one credential leaves them alone, or anybody could have it try one for hours.
pub(crate) fn dearer(storage: &dyn Storage, than: SlotId) -> Result<BTreeSet<SlotId>> {
    let listed = storage.list(Class::Keys)?;
    let least = |copies: &Vec<(Name, u64)>| {
        let small = copies.iter().filter(|(_, size)| *size <= config::MAX_OBJECT);
        let slots = small.filter_map(|(name, _)| {
            let mut object = Vec::new();
            storage.read(name, None, &mut object).ok()?;
            decode(&object, |_| true).ok()
        });
        slots.map(|slot| cost(slot.derivation)).min()
    };
    let slots = names(&listed);
    let Some(most) = slots.get(&than).and_then(least) else { return Ok(BTreeSet::new()) };
    let dear = slots.into_iter().filter(|(_, copies)| least(copies).is_some_and(|cost| cost > most.saturating_mul(2)));
    Ok(dear.map(|(id, _)| id).collect())
}

/// What it takes to try a slot.
fn cost(derivation: Derivation) -> u64 {
    match derivation {
        Derivation::KeyFile => 0,
        Derivation::Passphrase { memory, passes, .. } => u64::from(memory) * u64::from(passes),
    }
}
