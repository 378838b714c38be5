//! Directories on the walk's way: made, or taken as they are there.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::observe::Action;
use crate::restore::delete;
use crate::restore::existing;
use crate::restore::leads;
use crate::restore::locks;
use crate::restore::names;
use crate::restore::target::{DirectoryState, Finish, TargetDirectory};
use crate::restore::walk::{KEPT, RestoreLevel, Walker, look};
use crate::sys::{Dir, FileKind, Stat, xattr};

impl Walker<'_, '_> {
    /// Makes or takes the directory of level `at`, and lists it when what is superfluous shall go.
    pub(super) fn enter(&mut self, at: usize) -> Option<Arc<TargetDirectory>> {
        let level = &self.levels[at];
        if level.parent
            && let Some(shared) = self.run.shared(&self.path_of_level(at))
        {
            return Some(shared);
        }
        let above = at.checked_sub(1).and_then(|above| self.levels[above].place.clone());
        let entered = match &above {
            Some(above) => self.enter_below(above, at),
            None => self.enter_target(level),
        };
        let level = &self.levels[at];
        let subject = || {
            self.run.target.path_of(above.as_ref().unwrap_or(&self.run.target.directory(false, false, None)), &level.node.name)
        };
        let place = match entered {
            Ok(place) => place?,
            Err(error) => {
                self.run.error(&subject(), error);
                return None;
            }
        };
        if level.parent {
            self.run.share(self.path_of_level(at), &place);
        }
        if place.real
            && !place.made
            && !self.run.options.dry_run
            && let Err(error) = delete::leftovers(self.run, &place, &level.model())
        {
            self.run.error(&subject(), error);
        }
        let listed = self.run.options.delete && level.is_asked_for() && place.real && !place.made;
        if listed && let Err(e) = self.list(at, &place) {
            self.run.error(&self.run.target.path_of(&place, b""), Error::io("cannot list it", e));
        }
        Some(place)
    }

    /// Lists the directory of level `at`, of which what the snapshot does not have shall go, unless it could not have it.
    fn list(&mut self, at: usize, place: &Arc<TargetDirectory>) -> io::Result<()> {
        let dir = self.run.target.open(place)?;
        let stat = dir.stat_self()?;
        let above = at.checked_sub(1).map(|above| &self.levels[above]).filter(|above| above.is_asked_for());
        let foreign = above.is_some_and(|above| above.foreign || stat.mount_root || stat.device != above.device);
        let shield = self.run.spare(self.source.number).whole(self.levels[at].node.left_out, foreign);
        let listing = dir.list()?;
        let level = &mut self.levels[at];
        (level.foreign, level.device, level.shield, level.listing) = (foreign, stat.device, shield, Some((listing, 0)));
        Ok(())
    }

    fn path_of_level(&self, at: usize) -> Vec<u8> {
        let names: Vec<&[u8]> = self.levels[..=at].iter().map(|level| level.node.name.as_slice()).collect();
        names.join(&b'/')
    }

    /// What a directory gets at its end: its metadata when it was asked for, or when this run makes it.
    fn finish(&self, level: &RestoreLevel, made: bool) -> Option<Finish> {
        let wanted = level.is_asked_for() || made;
        wanted.then(|| Finish { node: level.node.clone(), source: self.source.number })
    }

    fn enter_target(&self, level: &RestoreLevel) -> Result<Option<Arc<TargetDirectory>>> {
        let target = &self.run.target;
        let made = target.made && self.source.number == 0;
        let (clean, locks) = match target.root() {
            Some(dir) => {
                let stat = dir.stat_self().map_err(|e| Error::io("cannot look at the target", e))?;
                self.run.touches(stat.device, dir);
                (is_clean(dir, &stat), locks::clear_dir(self.run, dir, &stat))
            }
            None => (true, 0),
        };
        let mut place = target.directory(made && !level.parent, clean, self.finish(level, made));
        if let Some(place) = Arc::get_mut(&mut place) {
            place.locks = locks;
        }
        Ok(Some(place))
    }

    fn enter_below(&mut self, above: &Arc<TargetDirectory>, at: usize) -> Result<Option<Arc<TargetDirectory>>> {
        let run = self.run;
        let there = self.stat_below(above, at)?;
        let level = &self.levels[at];
        let name = &level.node.name;
        let new = |real| {
            run.counts.directories.add(1);
            run.tell(above, &level.node, Action::New, "");
            let state = DirectoryState { made: !level.parent, real, clean: above.clean };
            Ok(Some(run.target.child(above, name, state, self.finish(level, true))))
        };
        if !above.real {
            return new(false);
        }
        let dir = run.target.open(above).map_err(|e| Error::io("cannot open its directory", e))?;
        match there {
            Some(stat) if stat.kind == FileKind::Directory => return self.merge(above, &dir, level, &stat, None),
            Some(stat) if level.parent || !level.is_asked_for() => {
                let opened = leads::follow(run, &dir, name, &stat)?;
                let stat = opened.stat_self().map_err(|e| Error::io("cannot look at what it leads to", e))?;
                let message = "it is a link and stays one: what is restored below it goes to where it leads";
                run.note(&run.target.path_of(above, name), message);
                return self.merge(above, &dir, level, &stat, Some(opened));
            }
            Some(stat) if run.target.is_forbidden(&stat) => {
                return Err(Error::invalid("left alone: this repository is unlocked by what is in its place"));
            }
            Some(stat) if !existing::may_replace(run.options.overwrite, &level.node, &stat) => {
                run.counts.kept.add(1);
                run.tell(above, &level.node, Action::Kept, KEPT);
                return Ok(None);
            }
            Some(stat) if !run.options.dry_run => {
                let _unlocked = locks::lift(run, &dir, name, &stat);
                dir.remove(name).map_err(|e| Error::io("cannot remove what is in its place", e))?
            }
            _ => {}
        }
        if run.options.dry_run {
            return new(false);
        }
        self.make_directory(&dir, level)?;
        new(true)
    }

    /// What is in the place of the directory at level `at`; nothing where this run made the directory above.
    fn stat_below(&mut self, above: &Arc<TargetDirectory>, at: usize) -> Result<Option<Stat>> {
        if !above.real || above.made {
            return Ok(None);
        }
        let dir = self.run.target.open(above).map_err(|e| Error::io("cannot open its directory", e))?;
        let name = self.levels[at].node.name.clone();
        let there = look(&dir, above, &name)?;
        if let (Some(stat), Some(over)) = (&there, at.checked_sub(1)) {
            self.tell_apart(over, &dir, &name, stat)?;
        }
        Ok(there)
    }

    /// Makes the directory of `level` in `dir`, where nothing is in its place.
    fn make_directory(&self, dir: &Dir, level: &RestoreLevel) -> Result<()> {
        let name = &level.node.name;
        dir.make_dir(name, 0o700).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => names::taken_meanwhile(dir, name),
            _ => Error::io("cannot make the directory", e),
        })?;
        if !level.is_asked_for() {
            // Should the run be cut short, the next one finds this directory and leaves its metadata alone.
            let (owners, meta) = (self.run.owners(self.source.number), &level.node.meta);
            let _ = dir.set_owner(name, owners.user(meta.uid), owners.group(meta.gid));
            if meta.mode & 0o700 == 0o700 {
                let _ = dir.set_mode(name, meta.mode);
            }
        }
        Ok(())
    }

    /// Takes a directory that is there; one that was found through a link is open.
    fn merge(
        &self,
        above: &Arc<TargetDirectory>,
        dir: &Dir,
        level: &RestoreLevel,
        stat: &Stat,
        followed: Option<Dir>,
    ) -> Result<Option<Arc<TargetDirectory>>> {
        let (run, name) = (self.run, &level.node.name);
        if run.target.is_forbidden(stat) {
            return Err(Error::invalid("left alone: it is the repository"));
        }
        let finish = self.finish(level, false);
        // It gets its mode back at the end.
        if finish.is_some() && !run.privileged && !run.options.dry_run && stat.uid == run.me.0 && stat.mode & 0o700 != 0o700 {
            dir.set_mode(name, stat.mode | 0o700).map_err(|e| Error::io("cannot make the directory accessible", e))?;
        }
        let mut place = run.target.child(above, name, DirectoryState { real: true, ..DirectoryState::default() }, finish);
        if let (Some(dir), Some(place)) = (followed.map(Arc::new), Arc::get_mut(&mut place)) {
            run.follow(place, &dir);
            place.pin(dir);
        }
        let opened = run.target.open(&place).map_err(|e| Error::io("cannot open the directory", e));
        let only = Arc::get_mut(&mut place);
        match opened {
            Ok(dir) => {
                run.touches(stat.device, &dir);
                if let Some(place) = only {
                    place.clean = is_clean(&dir, stat);
                    place.locks = locks::clear_dir(run, &dir, stat);
                }
            }
            Err(e) => {
                if let Some(place) = only {
                    place.finish = None;
                }
                run.release(&place);
                return Err(e);
            }
        }
        Ok(Some(place))
    }

    /// Makes sure that what was found under `name` in the directory of level `at` is not another entry of the snapshot,
    /// whose name is the same for this file system.
    pub(super) fn tell_apart(&mut self, at: usize, dir: &Dir, name: &[u8], found: &Stat) -> Result<()> {
        let Some(level) = self.levels.get_mut(at) else { return Ok(()) };
        if *level.sharp.get_or_insert_with(|| dir.tells_names_apart()) {
            return Ok(());
        }
        let failed = |e| Error::io("cannot look at what is there", e);
        let Some(other) = names::other_spelling(dir, name, found, &mut level.names).map_err(failed)? else { return Ok(()) };
        let model = level.model();
        if level.aliases.contains(&other) || self.run.tree.lookup(&model, &other)?.is_some() {
            return Err(names::taken(&other));
        }
        level.aliases.push(other);
        Ok(())
    }
}

/// Whether what is made in a directory inherits nothing from it.
fn is_clean(dir: &Dir, stat: &Stat) -> bool {
    let no_default = |list: xattr::XattrList| !list.iter().any(|(name, _)| name == b"system.posix_acl_default");
    stat.mode & 0o2000 == 0 && xattr::list(dir).is_ok_and(no_default)
}
