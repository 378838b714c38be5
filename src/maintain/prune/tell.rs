//! What becomes of each pack, for observers that want to know.

use std::collections::HashSet;

use crate::maintain::prune::packs::Standing;
use crate::maintain::prune::survey::Survey;
use crate::observe::{Action, EntryKind, Event, Observer};
use crate::storage::Name;

/// Says what a prune will do with every pack; `repack` are those that it copies from.
pub(crate) fn tell(survey: &Survey, repack: &[usize], observer: &dyn Observer) {
    if !observer.wants_entries() {
        return;
    }
    let repack: HashSet<usize> = repack.iter().copied().collect();
    for (at, pack) in survey.packs.list.iter().enumerate().filter(|(_, pack)| pack.is_there()) {
        let (action, reason) = match pack.standing {
            _ if repack.contains(&at) => {
                (Action::Changed, format!("repacked: {} bytes of it are needed and copied", pack.copy_bytes()))
            }
            Standing::Marked if !pack.held => (Action::Removed, "marked for deletion by an earlier prune".to_owned()),
            _ if pack.is_dead() => (Action::Removed, "no snapshot needs it".to_owned()),
            _ if pack.unused > 0 => (Action::Unchanged, format!("{} bytes of it are not needed, and stay", pack.unused)),
            _ => (Action::Unchanged, String::new()),
        };
        let (name, kind) = (Name::Pack(pack.id).to_string(), EntryKind::Object);
        observer.event(&Event::Entry { action, path: name.as_bytes(), kind, reason: &reason, bytes: pack.size });
    }
}
