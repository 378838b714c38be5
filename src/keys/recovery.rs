//! Getting back in with the recovery text: a new slot, and the configuration where it is lost.

use std::collections::BTreeSet;

use crate::chunk::keys::{ClassKey, Credential, Keys, MasterKey};
use crate::chunk::seal::{self, SealKey};
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{ChunkerParameters, Config};
use crate::format::envelope::{self, ObjectType};
use crate::format::pack::{self, PREAMBLE, Preamble};
use crate::format::recovery::Recovery;
use crate::format::segment;
use crate::keys::binding;
use crate::keys::configuration::{self, Configurations};
use crate::keys::removal::SlotStore;
use crate::keys::slots::{self, SlotOptions};
use crate::model::{RepositoryId, SlotId, Timestamp, WriterId};
use crate::observe::Reports;
use crate::storage::{Class, Name, Storage};

/// Objects of one class that are looked at before it is said that the key fits none.
const TRIALS: usize = 16;

/// Whether the objects of a repository were sealed with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// One was.
    Yes,
    /// None of those that could be looked at.
    No,
    /// There are none.
    Nothing,
}

/// The master key in a text.
fn key(recovery: &Recovery) -> MasterKey {
    MasterKey::with_former(*recovery.master, recovery.former.to_vec())
}

/// The text of a master key.
pub(super) fn of(config: Config, master: &MasterKey) -> Recovery {
    Recovery::with_former(config, master.expose(), master.expose_former().to_vec())
}

/// Whether `recovery` is of this repository, as far as anything in it tells; an error if not, or if it seems to be of a
/// former key.
pub fn check(storage: &dyn Storage, recovery: &Recovery) -> Result<()> {
    let keys = key(recovery).keys();
    if missing_number(storage, recovery, &keys)?.is_none() {
        return Ok(());
    }
    // The configuration, which would say so, is lost. With a former key everything new would be taken for made up.
    let repository = recovery.config.repository;
    let listed = storage.list(Class::Keys)?;
    let all = slots::read(SlotStore { storage, repository, keys: &keys }, &listed);
    let foreign = all.iter().find(|slot| slot.made_up && slots::is_of(storage, &listed, slot.id, repository));
    let Some(slot) = foreign else { return Ok(()) };
    let text = format!(
        "key slot {id} is of another key than this recovery text: if the key was changed after the text was made (yester key \
         rotate), use a newer text, or what opens the slot (yester key recover without FILE). If this is the newest, somebody \
         who may write to the store has made the slot up: delete keys/{id}* there",
        id = slot.id
    );
    Err(Error::new(ErrorKind::Key, text))
}

/// How many objects, of those that are looked at, this text does not open, and how many those are. If there are some, it
/// may be of a former key.
pub fn foreign(storage: &dyn Storage, recovery: &Recovery) -> Result<(u64, u64)> {
    let keys = key(recovery).keys();
    let (mut foreign, mut all, mut start) = (0, 0, Vec::new());
    for class in [Class::Snapshots, Class::Index, Class::Packs] {
        for (name, _) in storage.list(class)?.into_iter().take(TRIALS) {
            if read_start(storage, &name, &mut start).is_ok()
                && let Some(fits) = fits(&name, &start, recovery.config.repository, &keys)
            {
                all += 1;
                foreign += u64::from(!fits);
            }
        }
    }
    Ok((foreign, all))
}

fn read_start(storage: &dyn Storage, name: &Name, start: &mut Vec<u8>) -> Result<()> {
    let len = if name.class() == Class::Packs { PREAMBLE } else { segment::PREAMBLE + WriterId::LEN };
    storage.read(name, Some(0..len as u64), start)
}

/// Writes the configuration that `recovery` holds, if the repository has none that is good; returns its number then. A
/// text of another repository is refused before anything is written.
pub fn restore_configuration(storage: &dyn Storage, recovery: &Recovery) -> Result<Option<u32>> {
    let keys = key(recovery).keys();
    let Some(number) = missing_number(storage, recovery, &keys)? else { return Ok(None) };
    if !configuration::create(storage, number, &configuration::object(&recovery.config, &keys)?)? {
        return Err(Error::new(ErrorKind::Busy, "somebody else writes a configuration at this moment: try again"));
    }
    Ok(Some(number))
}

/// The number under which a configuration must be written; `None` when there is a good one.
fn missing_number(storage: &dyn Storage, recovery: &Recovery, keys: &Keys) -> Result<Option<u32>> {
    let repository = recovery.config.repository;
    let configurations = Configurations::read(storage)?;
    let known = configurations.repositories();
    let judged = configurations.judge(keys);
    let number = judged.free_number();
    if let Some(found) = judged.newest()?.filter(|found| found.config.repository == repository) {
        return if found.config.is_closed() { Err(configuration::closed()) } else { Ok(None) };
    }
    check_key(storage, repository, keys, &known)?;
    number.map(Some)
}

/// Makes a slot for `credential` in the repository that `recovery` is of. Neither slots nor configuration need to be
/// there; [`restore_configuration`] comes first.
pub fn add_slot(storage: &dyn Storage, recovery: &Recovery, credential: &Credential, options: &SlotOptions) -> Result<SlotId> {
    slots::add(storage, recovery.config.repository, &key(recovery), credential, options)
}

/// What a recovery text would hold, from a slot that `credential` opens: for a repository whose configuration is lost
/// and of which there is no such text. How files were cut is not in a slot; `chunker` stands for it. Another one than it
/// was makes nothing unreadable, but later ingests find less that they know.
pub fn without_text(
    storage: &dyn Storage,
    credential: &Credential,
    chunker: ChunkerParameters,
    now: Timestamp,
    reports: &Reports,
) -> Result<Recovery> {
    let mut failed = None;
    // What a slot says of its repository is not authentic before something that the key sealed says the same.
    for repository in slots::repositories(storage)? {
        let (mut without, mut best) = (BTreeSet::new(), None::<Recovery>);
        loop {
            let unlocked = match slots::unlock(storage, &[repository], credential, &without, reports) {
                Ok(unlocked) => unlocked,
                Err(e) => {
                    failed.get_or_insert(e);
                    break;
                }
            };
            without.insert(unlocked.slot);
            without.extend(slots::dearer(storage, unlocked.slot)?);
            let text = of(Config { repository, created: now, chunker, cutter: None, mandatory: 0 }, &unlocked.master);
            match missing_number(storage, &text, &key(&text).keys()) {
                // Of several keys the newest: it has those before it.
                Ok(_) if best.as_ref().is_none_or(|best| best.former.len() < text.former.len()) => best = Some(text),
                Ok(_) => {}
                Err(e) => {
                    failed.get_or_insert(e);
                }
            }
        }
        if let Some(text) = best {
            return Ok(text);
        }
    }
    Err(failed.unwrap_or_else(|| slots::no_repository(storage)))
}

/// Fails unless something in the repository shows that `keys` are its own, or nothing in it can.
fn check_key(storage: &dyn Storage, repository: RepositoryId, keys: &Keys, known: &[RepositoryId]) -> Result<()> {
    let mut result = Proof::Nothing;
    for class in [Class::Snapshots, Class::Index, Class::Packs, Class::Sessions, Class::Forgotten, Class::Condemned] {
        match prove(storage, class, repository, keys)? {
            Proof::Yes => return Ok(()),
            Proof::No => result = Proof::No,
            Proof::Nothing => {}
        }
    }
    if result == Proof::Nothing && (known.is_empty() || known.contains(&repository)) {
        return Ok(());
    }
    let text =
        format!("this recovery text (of repository {}) does not fit {}: it is another's", repository.short(), storage.describe());
    Err(Error::new(ErrorKind::Key, text))
}

fn prove(storage: &dyn Storage, class: Class, repository: RepositoryId, keys: &Keys) -> Result<Proof> {
    let mut result = Proof::Nothing;
    let mut start = Vec::new();
    for (name, _) in storage.list(class)?.into_iter().take(TRIALS) {
        // One that is gone or damaged proves nothing either way.
        if read_start(storage, &name, &mut start).is_err() {
            continue;
        }
        match fits(&name, &start, repository, keys) {
            Some(true) => return Ok(Proof::Yes),
            Some(false) => result = Proof::No,
            None => {}
        }
    }
    Ok(result)
}

/// Whether the object that begins with `start` was sealed with a key of `keys`; `None` when it does not say.
fn fits(name: &Name, start: &[u8], repository: RepositoryId, keys: &Keys) -> Option<bool> {
    let (kind, class): (_, &ClassKey) = match name {
        Name::Pack(_) => (ObjectType::Pack, keys.pack(Preamble::decode(start).ok()?.kind)),
        Name::Segment(_) => (ObjectType::Segment, &keys.index),
        Name::Config(..) | Name::Key(..) | Name::Removed(_) => return None,
        _ => return small_fits(name, start, repository, keys),
    };
    let found = envelope::check_header(start, kind, "an object").ok()?;
    let (salt, rest) = start.get(envelope::HEADER..)?.split_first_chunk::<32>()?;
    let (commitment, _) = rest.split_first_chunk::<16>()?;
    let bound = match name {
        Name::Pack(_) => pack::bound(start.first_chunk()?),
        _ => segment::bound(start.first_chunk()?, segment::writer(start)),
    };
    Some(found == repository && SealKey::committed(class, salt, &bound, commitment).ok()?.is_some())
}

/// The same of a small object, whose commitment is of its name too.
fn small_fits(name: &Name, start: &[u8], repository: RepositoryId, keys: &Keys) -> Option<bool> {
    let kinds = name.kinds();
    let typed = |kind: &&ObjectType| envelope::check_header(start, **kind, "an object").is_ok();
    let kind = kinds.iter().find(typed)?;
    seal::is_ours(*kind, repository, &binding::id(name)?.0, &keys.snapshot, start).ok()
}
