//! Owners, attributes, modes, times and flags: what they must be, and setting what differs.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Kind, Node, Timestamp};
use crate::restore::locks;
use crate::restore::run::Run;
use crate::restore::target::Directory;
use crate::sys::{Dir, FileKind, Stat, dir, xattr};

/// Attributes that are as in the snapshot, or not there.
const OURS: [&[u8]; 4] = [b"user.", b"trusted.", b"system.posix_acl_", b"security."];
/// Attributes that security modules keep by themselves: labels and signatures.
const SYSTEM: [&[u8]; 5] = [b"security.selinux", b"security.SMACK64", b"security.apparmor", b"security.ima", b"security.evm"];

/// Set-user-id and set-group-id.
const SUID_SGID: u16 = 0o6000;

/// What an entry's metadata must be on this system, for this user.
#[derive(Debug)]
pub(crate) struct Wanted {
    uid: u32,
    gid: u32,
    mode: u16,
    mtime: Timestamp,
    xattrs: xattr::List,
    flags: u32,
    /// Links have no mode of their own.
    symlink: bool,
    directory: bool,
    can_have_flags: bool,
    /// The suid bits that were taken away because this user must not set them.
    stripped: bool,
}

impl Wanted {
    /// Reads it off `node` of source `source`. Fails when its attributes are damaged.
    pub(crate) fn of(run: &Run<'_>, source: usize, node: &Node) -> Result<Wanted> {
        let owners = run.owners(source);
        let mut xattrs = run.tree.xattrs(node)?;
        for (name, value) in &mut xattrs {
            if name.starts_with(b"system.posix_acl_") {
                owners.map_acl(value);
            }
        }
        let directory = matches!(node.kind, Kind::Directory(_));
        let stripped = !run.privileged && !directory && node.meta.mode & SUID_SGID != 0;
        Ok(Wanted {
            uid: owners.user(node.meta.uid),
            gid: owners.group(node.meta.gid),
            mode: if stripped { node.meta.mode & !SUID_SGID } else { node.meta.mode },
            mtime: node.meta.mtime,
            xattrs,
            flags: node.meta.flags & dir::USER_FLAGS,
            symlink: matches!(node.kind, Kind::Symlink(_)),
            directory,
            can_have_flags: directory || matches!(node.kind, Kind::File(_)),
            stripped,
        })
    }

    /// Whether an entry that is there is as wanted. `stat` and `xattrs` are what it has.
    pub(crate) fn is_met(&self, stat: &Stat, xattrs: &xattr::List) -> bool {
        self.owner_and_mode(stat)
            && stat.mtime == self.mtime
            && !self.stripped
            && self.extra(xattrs).next().is_none()
            && self.missing(xattrs).next().is_none()
    }

    fn owner_and_mode(&self, stat: &Stat) -> bool {
        (stat.uid, stat.gid) == (self.uid, self.gid) && (self.symlink || stat.mode == self.mode)
    }

    /// Attributes that are there and should not be; those that belong to the system (labels, signatures) may stay.
    fn extra<'x>(&'x self, have: &'x xattr::List) -> impl Iterator<Item = &'x [u8]> {
        let starts = |name: &[u8], with: &[&[u8]]| with.iter().any(|p| name.starts_with(p));
        let ours = move |name: &[u8]| starts(name, &OURS) && !starts(name, &SYSTEM);
        let wanted = |name: &Vec<u8>| self.xattrs.binary_search_by(|(n, _)| n.cmp(name)).is_ok();
        have.iter().map(|(name, _)| name).filter(move |name| ours(name) && !wanted(name)).map(Vec::as_slice)
    }

    /// Attributes that are not there, or with another value.
    fn missing<'x>(&'x self, have: &'x xattr::List) -> impl Iterator<Item = &'x (Vec<u8>, Vec<u8>)> {
        let found = |pair: &(Vec<u8>, Vec<u8>)| have.binary_search(pair).is_ok();
        self.xattrs.iter().filter(move |pair| !found(pair))
    }

    /// Whether the flags are as wanted of what `open` opens, which is `there`. Where none can be had, none are wanted.
    pub(crate) fn flags_met(&self, run: &Run<'_>, there: &Stat, open: impl FnOnce() -> io::Result<File>) -> bool {
        if there.kind != FileKind::File || run.is_flagless(there.device) {
            return self.flags == 0;
        }
        let have = open().ok().and_then(dir::user_flags);
        if have.is_none() {
            run.note_flagless(there.device);
        }
        have.unwrap_or(0) == self.flags
    }
}

/// What metadata is set on: something open, or an entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Object<'o> {
    File(&'o File),
    Dir(&'o Dir),
    Entry(&'o Dir, &'o [u8]),
}

impl Object<'_> {
    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        match self {
            Object::File(file) => dir::set_owner(file, uid, gid),
            Object::Dir(dir) => dir.set_owner_self(uid, gid),
            Object::Entry(dir, name) => dir.set_owner(name, uid, gid),
        }
    }

    fn set_mode(&self, mode: u16) -> io::Result<()> {
        match self {
            Object::File(file) => dir::set_mode(file, mode),
            Object::Dir(dir) => dir.set_mode_self(mode),
            Object::Entry(dir, name) => dir.set_mode(name, mode),
        }
    }

    fn set_mtime(&self, time: Timestamp) -> io::Result<()> {
        match self {
            Object::File(file) => dir::set_mtime(file, time),
            Object::Dir(dir) => dir.set_mtime_self(time),
            Object::Entry(dir, name) => dir.set_mtime(name, time),
        }
    }

    fn stat(&self) -> io::Result<Stat> {
        match self {
            Object::File(file) => dir::stat(file),
            Object::Dir(dir) => dir.stat_self(),
            Object::Entry(dir, name) => dir.stat(name),
        }
    }

    fn xattrs(&self) -> io::Result<xattr::List> {
        match self {
            Object::File(file) => xattr::list(file),
            Object::Dir(dir) => xattr::list(dir),
            Object::Entry(dir, name) => xattr::list_at(dir, name),
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        match self {
            Object::File(file) => xattr::set(file, name, value),
            Object::Dir(dir) => xattr::set(dir, name, value),
            Object::Entry(dir, entry) => xattr::set_at(dir, entry, name, value),
        }
    }

    fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        match self {
            Object::File(file) => xattr::remove(file, name),
            Object::Dir(dir) => xattr::remove(dir, name),
            Object::Entry(dir, entry) => xattr::remove_at(dir, entry, name),
        }
    }
}

/// Where an entry is, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'p> {
    pub directory: &'p Directory,
    pub name: &'p [u8],
}

/// Sets everything but the flags on an object. `fresh`: this run made it, in a directory where nothing is inherited,
/// so that it needs no look.
pub(crate) fn apply(run: &Run<'_>, place: Place<'_>, object: Object<'_>, wanted: &Wanted, fresh: bool) -> io::Result<()> {
    let have = if fresh { None } else { Some((object.stat()?, object.xattrs()?)) };
    let warn = |what, error: &dyn std::fmt::Display| run.warn(place.directory, place.name, what, error);
    let owner = have.as_ref().map_or(run.me, |(stat, _)| (stat.uid, stat.gid));
    let mut owned = true;
    // First of all: a change of the owner clears suid bits and capabilities.
    if owner != (wanted.uid, wanted.gid)
        && let Err(e) = object.set_owner(wanted.uid, wanted.gid)
    {
        owned = false;
        // The group alone may be this user's to give.
        if owner.0 != wanted.uid && owner.1 != wanted.gid {
            let _ = object.set_owner(owner.0, wanted.gid);
        }
        warn("owner", &e);
    }
    let none = xattr::List::new();
    let there = have.as_ref().map_or(&none, |(_, xattrs)| xattrs);
    let mut touched = false;
    for name in wanted.extra(there) {
        touched = true;
        object.remove_xattr(name).unwrap_or_else(|e| warn("attributes", &e));
    }
    // There may be thousands, and all fail for one reason.
    let (mut failed, mut first) = (0u64, None);
    for (name, value) in wanted.missing(there) {
        touched = true;
        if let Err(e) = object.set_xattr(name, value) {
            failed += 1;
            first.get_or_insert_with(|| format!("{}: {e}", crate::model::escape(name)));
        }
    }
    if let Some(first) = first {
        let more = if failed > 1 { format!(" (and {} more)", failed - 1) } else { String::new() };
        warn("attributes", &format!("{first}{more}"));
    }
    let before = have.as_ref().map(|(stat, _)| stat).filter(|_| !touched);
    set_mode(object, wanted, before, owned, &warn);
    if have.as_ref().is_none_or(|(stat, _)| stat.mtime != wanted.mtime) {
        object.set_mtime(wanted.mtime).unwrap_or_else(|e| warn("time", &e));
    }
    Ok(())
}

fn set_mode(
    object: Object<'_>,
    wanted: &Wanted,
    before: Option<&Stat>,
    owned: bool,
    warn: &dyn Fn(&'static str, &dyn std::fmt::Display),
) {
    if wanted.symlink {
        return;
    }
    if wanted.stripped {
        warn("suid bits", &"only root restores them");
    }
    // A suid bit that was meant for one owner must not come to another.
    let mode = if owned || wanted.directory { wanted.mode } else { wanted.mode & !SUID_SGID };
    // A new owner and new attributes (ACLs) change it; `before` is known when there are none.
    if before.is_some_and(|stat| stat.mode == mode && wanted.owner_and_mode(stat)) {
        return;
    }
    object.set_mode(mode).unwrap_or_else(|e| warn("mode", &e));
}

/// Sets the `chattr` flags of a file or directory, the last thing that is done to it: it may be immutable afterwards.
/// What it has and should not is cleared, too: flags that were there, or that its directory gave it.
pub(crate) fn apply_flags(run: &Run<'_>, place: Place<'_>, object: Object<'_>, wanted: &Wanted) {
    if !wanted.can_have_flags {
        return;
    }
    let set = |fd: &dyn std::os::fd::AsFd| -> io::Result<()> {
        let have = match dir::flags(fd.as_fd()) {
            // A file system without flags has none to clear.
            Err(_) if wanted.flags == 0 => return Ok(()),
            have => have?,
        };
        let new = have & !dir::USER_FLAGS | wanted.flags;
        if new == have { Ok(()) } else { dir::set_flags(fd.as_fd(), new) }
    };
    let done = match object {
        Object::File(file) => set(file),
        Object::Dir(dir) => set(dir),
        Object::Entry(dir, name) => match dir.open_file(name) {
            Err(_) if wanted.flags == 0 => return,
            file => file.and_then(|file| set(&file)),
        },
    };
    done.unwrap_or_else(|e| run.warn(place.directory, place.name, "flags", &e));
}

/// Sets a directory's own metadata, when everything below it is done.
pub(crate) fn finish_directory(run: &Run<'_>, directory: &Arc<Directory>) {
    let Some(finish) = &directory.finish else { return lock_again(run, directory) };
    let failed = |e: Error| run.error(&run.target.path_of(directory, b""), e);
    let dir = match run.target.open(directory) {
        Ok(dir) => dir,
        Err(e) => return failed(Error::io("cannot open the directory to set its metadata", e)),
    };
    let wanted = match Wanted::of(run, finish.source, &finish.node) {
        Ok(wanted) => wanted,
        Err(e) => return failed(e),
    };
    let place = Place { directory, name: b"" };
    match apply(run, place, Object::Dir(&dir), &wanted, false) {
        Ok(()) => apply_flags(run, place, Object::Dir(&dir), &wanted),
        Err(e) => failed(Error::io("cannot set the directory's metadata", e)),
    }
}

/// A directory whose metadata is not restored gets back what was cleared to put something into it.
fn lock_again(run: &Run<'_>, directory: &Directory) {
    if directory.locks == 0 {
        return;
    }
    let done = run.target.open(directory).and_then(|dir| locks::restore_dir(&dir, directory.locks));
    done.unwrap_or_else(|e| run.warn(directory, b"", "flags", &e));
}
