//! Entries that are made at once: small files, symbolic links, pipes, sockets, devices, and hard links.

use std::io;

use crate::error::{Error, Result};
use crate::model::{Content, Kind};
use crate::observe::Action;
use crate::restore::existing::file_kind;
use crate::restore::job::{RestoreJob, put};
use crate::restore::links::FirstLink;
use crate::restore::locks::{self, FlagsGuard};
use crate::restore::metadata::{self, Object, WantedMetadata};
use crate::restore::names;
use crate::sys::Dir;
use crate::sys::dir::LOCKS;

/// Makes an entry that needs no frame.
pub(crate) fn make(job: &RestoreJob<'_, '_>) {
    if let Kind::File(content) = &job.node.kind {
        // An empty file is created when it is completed.
        if let Content::Inline(bytes) = content
            && !bytes.is_empty()
            && let Err(error) = job.write(0, bytes)
        {
            job.fail(error);
        }
        job.done(1);
    } else if let Err(error) = make_special(job) {
        job.fail(error);
    }
}

fn create(dir: &Dir, job: &RestoreJob<'_, '_>, name: &[u8]) -> io::Result<()> {
    match &job.node.kind {
        Kind::Symlink(target) => dir.make_symlink(target, name),
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
            dir.make_node(name, file_kind(&job.node.kind), (*major, *minor))
        }
        kind => dir.make_node(name, file_kind(kind), (0, 0)),
    }
}

/// Where nothing is in the way it is made under its own name: it appears as a whole.
fn make_special(job: &RestoreJob<'_, '_>) -> Result<()> {
    let run = job.run;
    if matches!(job.node.kind, Kind::CharDevice(..) | Kind::BlockDevice(..)) && !run.privileged {
        return Err(Error::invalid("it is a device, and only root makes devices"));
    }
    let wanted = WantedMetadata::of(run, job.source, &job.node)?;
    let dir = job.dir()?;
    let name = if job.there.is_some() { run.temporary() } else { job.node.name.clone() };
    create(&dir, job, &name).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => names::taken_meanwhile(&dir, &name),
        _ => Error::io("cannot create it", e),
    })?;
    let object = Object::Entry(&dir, &name);
    let finished = metadata::apply(run, job.place(), object, &wanted, job.directory.clean)
        .and_then(|()| dir.stat(&name))
        .map_err(|e| Error::io("cannot set its metadata", e))
        .and_then(|stat| match &job.there {
            Some(_) => put(job, &name).map(|()| stat),
            None => Ok(stat),
        });
    match finished {
        Ok(stat) => {
            if let Some(first) = &job.first {
                first.complete(&stat);
            }
            run.counts.others.add(1);
            job.tell_made();
            Ok(())
        }
        Err(e) => {
            let _ = dir.remove(&name);
            Err(e)
        }
    }
}

/// Whether what is there is the link that shall be there.
pub(crate) fn is_linked(job: &RestoreJob<'_, '_>) -> bool {
    let first = job.first.as_ref().and_then(|first| first.inode.get());
    job.there.is_some_and(|stat| first == Some(&(stat.device, stat.inode)))
}

/// Makes a later link of a group. False when it must be made as an entry of its own: the first one failed, or the
/// file system links no further.
pub(crate) fn link(job: &RestoreJob<'_, '_>) -> Result<bool> {
    let run = job.run;
    let Some(first) = &job.first else { return Ok(false) };
    let Some(inode) = first.inode.get() else { return Ok(false) };
    let dir = job.dir()?;
    if is_linked(job) {
        run.counts.unchanged.add(1);
        run.tell(&job.directory, &job.node, Action::Unchanged, "");
        return Ok(true);
    }
    let name = if job.there.is_some() { run.temporary() } else { job.node.name.clone() };
    let (_alone, _unlocked) = match job.node.meta.flags & LOCKS {
        0 => (None, None),
        // The first link has its flags already.
        _ => (Some(run.unlocking.lock()), unlock(job, first)),
    };
    // The name could lead to something else by now: only what this run made or judged is linked.
    let made = first.dir(run).and_then(|from| {
        is_inode(&from, &first.name, inode)?;
        from.make_link(&first.name, &dir, &name)
    });
    if let Err(e) = &made
        && e.kind() == io::ErrorKind::AlreadyExists
    {
        return Err(names::taken_meanwhile(&dir, &name));
    }
    if let Err(e) = made {
        run.warn(&job.directory, &job.node.name, "hard link", &e);
        return Ok(false);
    }
    let put_there = is_inode(&dir, &name, inode).map_err(|e| Error::io("cannot link it", e)).and_then(|()| match &job.there {
        Some(_) => put(job, &name),
        None => Ok(()),
    });
    if let Err(e) = put_there {
        let _ = dir.remove(&name);
        return Err(e);
    }
    run.counts.links.add(1);
    job.tell_linked();
    Ok(true)
}

fn unlock(job: &RestoreJob<'_, '_>, first: &FirstLink) -> Option<FlagsGuard> {
    let from = first.dir(job.run).ok()?;
    let stat = from.stat(&first.name).ok().filter(|stat| first.inode.get() == Some(&(stat.device, stat.inode)))?;
    locks::lift(job.run, &from, &first.name, &stat)
}

fn is_inode(dir: &Dir, name: &[u8], inode: &((u32, u32), u64)) -> io::Result<()> {
    let stat = dir.stat(name)?;
    match (stat.device, stat.inode) == *inode {
        true => Ok(()),
        false => Err(io::Error::other("its first link was replaced meanwhile")),
    }
}
