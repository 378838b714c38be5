//! Directories that only lead to what is restored: they are walked as they are there, and never replaced.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::restore::run::RestoreRun;
use crate::restore::target::{DirectoryState, TargetDirectory};
use crate::sys::{Dir, FileKind, Stat};

/// What to do about something else in the place of a directory that only leads to what is restored.
const STAYS: &str = "in the place of a directory that only leads to what is restored: it is left alone, and so is what \
                     belongs below it; move it away, or restore to another place (--target)";

/// Opens what is at `name` of `dir` in the place of a directory that only leads to something: in place, a link to a
/// directory is followed. A link of another user is not followed to a place that is not that user's: else everybody who
/// can make links in a directory could send a restore anywhere.
pub(crate) fn follow(run: &RestoreRun<'_>, dir: &Dir, name: &[u8], there: &Stat) -> Result<Dir> {
    if there.kind != FileKind::Symlink {
        return Err(Error::invalid(format!("something else is {STAYS}")));
    }
    if !run.target.in_place {
        return Err(Error::invalid(format!("a symbolic link is {STAYS}")));
    }
    let opened = dir.open_dir_following(name).map_err(|e| Error::io(format!("a link that leads nowhere is {STAYS}"), e))?;
    let stat = opened.stat_self().map_err(|e| Error::io("cannot look at what it leads to", e))?;
    if !may_follow(run.me.0, there, &stat) {
        let text = format!(
            "it is a link of user {} to a directory of user {}, which may be a trap: it is not followed",
            there.uid, stat.uid
        );
        return Err(Error::invalid(text));
    }
    Ok(opened)
}

/// Whether user `me` may go through this link to a directory: it is root's, the user's own, or the directory's owner's.
pub(crate) fn may_follow(me: u32, link: &Stat, directory: &Stat) -> bool {
    [0, me, directory.uid].contains(&link.uid)
}

/// The directory `name` of `above` as it is there; for what is only asked about.
pub(crate) fn look(run: &RestoreRun<'_>, above: &Arc<TargetDirectory>, name: &[u8]) -> Arc<TargetDirectory> {
    let followed = || {
        let dir = run.target.open(above).ok().filter(|_| run.target.in_place && above.real)?;
        let stat = dir.stat(name).ok().filter(|stat| stat.kind == FileKind::Symlink)?;
        follow(run, &dir, name, &stat).ok()
    };
    let mut place = run.target.child(above, name, DirectoryState { real: above.real, ..DirectoryState::default() }, None);
    if let (Some(dir), Some(place)) = (followed(), Arc::get_mut(&mut place)) {
        place.pin(Arc::new(dir));
    }
    place
}
