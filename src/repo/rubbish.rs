//! Removing objects that are not authentic. No command counts on them; they only cost space and a warning.

use crate::chunk::seal;
use crate::error::{Error, Result};
use crate::format::envelope::ObjectType;
use crate::format::snapshot;
use crate::keys::binding;
use crate::model::{SnapshotId, Timestamp};
use crate::repo::small::{self, Small};
use crate::repo::{Repository, marks, parallel, snapshots};
use crate::storage::{Class, Name};

/// Removes a small object, unless it turns out to be authentic now: somebody may have put a good one in its place.
/// Answers whether it did.
pub(crate) fn remove(repo: &Repository, name: &Name) -> Result<bool> {
    match small::read(repo, name, |_, _| Ok(()))? {
        Small::Sound(()) | Small::Newer(..) | Small::Gone => Ok(false),
        Small::Damaged(..) | Small::MadeUp(_) => {
            // With a former key all that is new looks so.
            repo.key_is_current()?;
            repo.storage().delete(name).map(|()| true)
        }
    }
}

/// What was done, or with a dry run would be.
#[derive(Debug, Default)]
pub struct Swept {
    /// Objects that were removed, and what was wrong with them.
    pub removed: Vec<(Name, Error)>,
    /// Objects that were written anew.
    pub renewed: Vec<(Name, Error)>,
    /// Objects that are damaged and nobody but the user can give up, and why.
    pub left: Vec<(Name, Error)>,
}

/// Looks at every small sealed object. What nobody with the key made is removed. What was made with the key and is damaged
/// is written anew where its being there is all that it says.
pub(crate) fn sweep(repo: &Repository, dry_run: bool, now: Timestamp) -> Result<Swept> {
    let mut out = Swept::default();
    if !dry_run {
        repo.storage().sync_everything()?;
    }
    let others = [Class::Config, Class::Keys, Class::Packs, Class::Index, Class::Parity];
    for class in Class::ALL.into_iter().filter(|class| !others.contains(class)) {
        let mut names: Vec<Name> = repo.storage().list(class)?.into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.retain(|name| binding::id(name).is_some());
        let judged = parallel::many(repo, &names, |name| small::read(repo, name, |_, _| Ok(())));
        for (name, found) in names.into_iter().zip(judged) {
            match found? {
                Small::Sound(()) | Small::Gone => {}
                Small::Newer(e, _) => out.left.push((name, e)),
                Small::MadeUp(e) => {
                    // A writer of this name must not find it free: it may have been fenced.
                    if matches!(name, Name::Snapshot(id) if is_session(repo, id)?) {
                        out.left.push((name, e.context("its session is open: yester prune removes it")));
                        continue;
                    }
                    if dry_run || remove(repo, &name)? {
                        out.removed.push((name, e));
                    }
                }
                Small::Damaged(kind, e) => damaged(repo, dry_run, now, (name, kind, e), &mut out)?,
            }
        }
    }
    if !dry_run {
        repo.storage().sync()?;
    }
    Ok(out)
}

fn is_session(repo: &Repository, id: SnapshotId) -> Result<bool> {
    Ok(!matches!(crate::repo::session::judge(repo, id)?, Small::MadeUp(_) | Small::Gone))
}

fn damaged(repo: &Repository, dry_run: bool, now: Timestamp, found: (Name, ObjectType, Error), out: &mut Swept) -> Result<()> {
    let (name, kind, e) = found;
    match (name, kind) {
        (Name::Snapshot(id), ObjectType::Fence) => {
            if !dry_run {
                let plain = snapshot::encode_mark(&marks::mark(id, now, b"written anew: it was damaged"))?;
                let object = seal::seal_object(kind, repo.id(), &id.0, &repo.keys().snapshot, &plain)?;
                repo.storage().delete(&name)?;
                repo.storage().create(&name, &[&object])?;
            }
            out.renewed.push((name, e));
        }
        // The snapshot is gone: that it was forgotten is all that the mark has to say.
        (Name::Forgotten(id), _) if !is_listed(repo, id)? => {
            if !dry_run {
                marks::write(repo, &marks::mark(id, now, b"written anew: the mark was damaged"))?;
            }
            out.renewed.push((name, e));
        }
        (
            Name::Forgotten(_) | Name::Condemned(_) | Name::Damaged(_) | Name::Run(_) | Name::Annotation(_) | Name::Group(..),
            _,
        ) if dry_run || remove(repo, &name)? => out.removed.push((name, e)),
        (Name::Snapshot(id), _) => out.left.push((name, e.context(format!("yester forget {id} gives it up")))),
        (Name::Session(id), _) => out.left.push((name, e.context(format!("yester prune --fence {} ends it", id.short())))),
        _ => {}
    }
    Ok(())
}

fn is_listed(repo: &Repository, id: SnapshotId) -> Result<bool> {
    Ok(!matches!(snapshots::judge(repo, id)?, Small::Gone))
}
