//! Owners, attributes, modes, times and flags: what they must be, and setting what differs.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Kind, Node, Timestamp};
use crate::repo::attributes::AttributeFilter;
use crate::restore::locks;
use crate::restore::run::RestoreRun;
use crate::restore::spare::KeptAttributes;
use crate::restore::target::TargetDirectory;
use crate::sys::{Dir, FileKind, Stat, dir, xattr};

/// Attributes that are as in the snapshot, or not there.
const OURS: [&[u8]; 4] = [b"user.", b"trusted.", b"system.posix_acl_", b"security."];
/// Attributes that security modules keep by themselves: labels and signatures.
const SYSTEM: [&[u8]; 5] = [b"security.selinux", b"security.SMACK64", b"security.apparmor", b"security.ima", b"security.evm"];

/// Set-user-id and set-group-id.
const SUID_SGID: u16 = 0o6000;

/// What an entry's metadata must be on this system, for this user.
#[derive(Debug)]
pub(crate) struct WantedMetadata {
    uid: u32,
    gid: u32,
    mode: u16,
    mtime: Timestamp,
    xattrs: xattr::XattrList,
    flags: u32,
    /// Links have no mode of their own.
    symlink: bool,
    directory: bool,
    can_have_flags: bool,
    /// The suid bits that were taken away because this user must not set them.
    stripped: bool,
    /// Whether this user may give it its owner, and its group.
    gives: (bool, bool),
    /// What this user may not set need not be.
    lenient: bool,
    /// Attributes that are neither set nor removed.
    without: AttributeFilter,
    /// Attributes that the snapshot could not have had.
    kept: Arc<KeptAttributes>,
}

impl WantedMetadata {
    /// Reads it off `node` of source `source`. Fails when its attributes are damaged.
    pub(crate) fn of(run: &RestoreRun<'_>, source: usize, node: &Node) -> Result<WantedMetadata> {
        let owners = run.owners(source);
        let without = run.without.clone();
        let mut xattrs = run.tree.xattrs(node)?;
        xattrs.retain(|(name, _)| !without.excludes(name));
        for (name, value) in &mut xattrs {
            if name.starts_with(b"system.posix_acl_") {
                owners.map_acl(value);
            }
        }
        let directory = matches!(node.kind, Kind::Directory(_));
        let (uid, gid) = (owners.user(node.meta.uid), owners.group(node.meta.gid));
        let gives = (run.privileged || uid == run.me.0, run.privileged || run.groups.contains(&gid));
        let stripped = gives != (true, true) && !directory && node.meta.mode & SUID_SGID != 0;
        Ok(WantedMetadata {
            uid,
            gid,
            mode: if stripped { node.meta.mode & !SUID_SGID } else { node.meta.mode },
            mtime: node.meta.mtime,
            xattrs,
            flags: node.meta.flags & dir::USER_FLAGS,
            symlink: matches!(node.kind, Kind::Symlink(_)),
            directory,
            can_have_flags: directory || matches!(node.kind, Kind::File(_)),
            stripped,
            gives,
            lenient: !run.privileged && !run.options.require_owners,
            without,
            kept: run.spare(source).attributes_of(node.left_out),
        })
    }

    /// Whether an entry that is there is as wanted. `stat` and `xattrs` are what it has.
    pub(crate) fn is_met(&self, stat: &Stat, xattrs: &xattr::XattrList) -> bool {
        self.owner_and_mode(stat)
            && stat.mtime == self.mtime
            && (!self.stripped || self.lenient)
            && self.extra(xattrs).next().is_none()
            && !self.missing(xattrs).any(|(name, _)| !(self.lenient && is_roots(name)))
    }

    fn owner_and_mode(&self, stat: &Stat) -> bool {
        let user = stat.uid == self.uid || self.lenient && !self.gives.0;
        let group = stat.gid == self.gid || self.lenient && !self.gives.1;
        user && group && (self.symlink || stat.mode == self.mode)
    }

    /// Whether an attribute of what is there is neither set nor removed.
    fn keeps(&self, name: &[u8]) -> bool {
        self.without.excludes(name) || self.kept.keeps(name)
    }

    /// Attributes that are there and should not be; those that belong to the system (labels, signatures) may stay.
    fn extra<'x>(&'x self, have: &'x xattr::XattrList) -> impl Iterator<Item = &'x [u8]> {
        let wanted = |name: &Vec<u8>| self.xattrs.binary_search_by(|(n, _)| n.cmp(name)).is_ok();
        let left = |name: &Vec<u8>| self.keeps(name) || self.lenient && is_roots(name);
        have.iter().map(|(name, _)| name).filter(move |name| is_ours(name) && !wanted(name) && !left(name)).map(Vec::as_slice)
    }

    /// Attributes that are not there, or with another value.
    fn missing<'x>(&'x self, have: &'x xattr::XattrList) -> impl Iterator<Item = &'x (Vec<u8>, Vec<u8>)> {
        let found = |pair: &(Vec<u8>, Vec<u8>)| have.binary_search(pair).is_ok();
        self.xattrs.iter().filter(move |pair| !found(pair))
    }

    /// Whether the flags are as wanted of what `open` opens, which is `there`. Where none can be had, none are wanted.
    pub(crate) fn flags_met(&self, run: &RestoreRun<'_>, there: &Stat, open: impl FnOnce() -> io::Result<File>) -> bool {
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

/// Attributes that a restore makes as they were, and not the system's own.
fn is_ours(name: &[u8]) -> bool {
    let starts = |with: &[&[u8]]| with.iter().any(|p| name.starts_with(p));
    starts(&OURS) && !starts(&SYSTEM)
}

/// Attributes that only root sets.
fn is_roots(name: &[u8]) -> bool {
    name.starts_with(b"security.") || name.starts_with(b"trusted.")
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

    fn xattrs(&self) -> io::Result<xattr::XattrList> {
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
pub(crate) struct EntryPath<'p> {
    pub(crate) directory: &'p TargetDirectory,
    pub(crate) name: &'p [u8],
}

/// Sets everything but the flags on an object. `fresh`: this run made it, in a directory where nothing is inherited,
/// so that it needs no look.
pub(crate) fn apply(
    run: &RestoreRun<'_>,
    place: EntryPath<'_>,
    object: Object<'_>,
    wanted: &WantedMetadata,
    fresh: bool,
) -> io::Result<()> {
    let have = if fresh { None } else { Some((object.stat()?, object.xattrs()?)) };
    let warn = |what: &str, error: &dyn std::fmt::Display| run.warn(place.directory, place.name, what, error);
    let owner = have.as_ref().map_or(run.me, |(stat, _)| (stat.uid, stat.gid));
    // First of all: a change of the owner clears suid bits and capabilities.
    let owned = set_owner(run, place, object, wanted, owner);
    let none = xattr::XattrList::new();
    let there = have.as_ref().map_or(&none, |(_, xattrs)| xattrs);
    let mut touched = false;
    let failed = |name: &[u8], e: io::Error| {
        let what = format!("attribute {}", crate::model::escape(name));
        match is_roots(name) && e.kind() == io::ErrorKind::PermissionDenied && !run.options.require_owners {
            true => run.not_given(place.directory, place.name, &what, &e),
            false => warn(&what, &e),
        }
    };
    for name in wanted.extra(there) {
        touched = true;
        object.remove_xattr(name).unwrap_or_else(|e| failed(name, e));
    }
    for (name, value) in wanted.missing(there) {
        touched = true;
        object.set_xattr(name, value).unwrap_or_else(|e| failed(name, e));
    }
    let before = have.as_ref().map(|(stat, _)| stat).filter(|_| !touched);
    set_mode(run, place, object, wanted, before, owned);
    if have.as_ref().is_none_or(|(stat, _)| stat.mtime != wanted.mtime) {
        object.set_mtime(wanted.mtime).unwrap_or_else(|e| warn("time", &e));
    }
    Ok(())
}

/// Gives a file that takes the place of another the attributes of that one which are neither set nor removed.
pub(crate) fn keep_attributes(run: &RestoreRun<'_>, place: EntryPath<'_>, old: &Dir, new: &File, wanted: &WantedMetadata) {
    if wanted.without.is_empty() && wanted.kept.is_empty() {
        return;
    }
    // What is gone or cannot be read has none to keep.
    for (name, value) in xattr::list_at(old, place.name).unwrap_or_default() {
        if !is_ours(&name) || !wanted.keeps(&name) || wanted.xattrs.iter().any(|(n, _)| *n == name) {
            continue;
        }
        if let Err(e) = xattr::set(new, &name, &value) {
            run.warn(place.directory, place.name, &format!("attribute {}", crate::model::escape(&name)), &e);
        }
    }
}

/// Sets owner and group as far as this user may; answers whether they are as wanted.
fn set_owner(run: &RestoreRun<'_>, place: EntryPath<'_>, object: Object<'_>, wanted: &WantedMetadata, owner: (u32, u32)) -> bool {
    let (uid, gid) = (wanted.uid, wanted.gid);
    if owner == (uid, gid) {
        return true;
    }
    let may = |wanted, there, may: bool| if may { wanted } else { there };
    let now = (may(uid, owner.0, wanted.gives.0), may(gid, owner.1, wanted.gives.1));
    if now != owner
        && let Err(e) = object.set_owner(now.0, now.1)
    {
        run.warn(place.directory, place.name, "owner", &e);
        return false;
    }
    if now != (uid, gid) {
        let text = "only root gives files to other users and groups (--require-owners makes it an error)";
        match wanted.lenient {
            true => run.not_given(place.directory, place.name, "owner", &text),
            false => run.warn(place.directory, place.name, "owner", &"only root gives files to other users and groups"),
        }
    }
    now == (uid, gid)
}

fn set_mode(
    run: &RestoreRun<'_>,
    place: EntryPath<'_>,
    object: Object<'_>,
    wanted: &WantedMetadata,
    before: Option<&Stat>,
    owned: bool,
) {
    if wanted.symlink {
        return;
    }
    if wanted.stripped {
        let text = "they were meant for another owner";
        match wanted.lenient {
            true => run.not_given(place.directory, place.name, "suid bits", &text),
            false => run.warn(place.directory, place.name, "suid bits", &text),
        }
    }
    // A suid bit that was meant for one owner must not come to another.
    let mode = if owned || wanted.directory { wanted.mode } else { wanted.mode & !SUID_SGID };
    // A new owner and new attributes (ACLs) change it; `before` is known when there are none.
    if before.is_some_and(|stat| stat.mode == mode && wanted.owner_and_mode(stat)) {
        return;
    }
    object.set_mode(mode).unwrap_or_else(|e| run.warn(place.directory, place.name, "mode", &e));
}

/// Before new content is written into a file that is there: from now on nobody may read it who must not read the new one.
pub(crate) fn narrow(file: &File, there: &Stat, wanted: &WantedMetadata) -> io::Result<()> {
    if (there.uid, there.gid) != (wanted.uid, wanted.gid) && wanted.gives == (true, true) {
        dir::set_owner(file, wanted.uid, wanted.gid)?;
    }
    let mode = there.mode & wanted.mode & !SUID_SGID;
    if mode == there.mode { Ok(()) } else { dir::set_mode(file, mode) }
}

/// Sets the `chattr` flags of a file or directory, the last thing that is done to it: it may be immutable afterwards.
/// What it has and should not is cleared, too: flags that were there, or that its directory gave it.
pub(crate) fn apply_flags(run: &RestoreRun<'_>, place: EntryPath<'_>, object: Object<'_>, wanted: &WantedMetadata) {
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
pub(crate) fn finish_directory(run: &RestoreRun<'_>, directory: &Arc<TargetDirectory>) {
    let Some(finish) = &directory.finish else { return lock_again(run, directory) };
    let failed = |e: Error| run.error(&run.target.path_of(directory, b""), e);
    let dir = match run.target.open(directory) {
        Ok(dir) => dir,
        Err(e) => return failed(Error::io("cannot open the directory to set its metadata", e)),
    };
    let wanted = match WantedMetadata::of(run, finish.source, &finish.node) {
        Ok(wanted) => wanted,
        Err(e) => return failed(e),
    };
    let place = EntryPath { directory, name: b"" };
    match apply(run, place, Object::Dir(&dir), &wanted, false) {
        Ok(()) => apply_flags(run, place, Object::Dir(&dir), &wanted),
        Err(e) => failed(Error::io("cannot set the directory's metadata", e)),
    }
}

/// A directory whose metadata is not restored gets back what was cleared to put something into it.
fn lock_again(run: &RestoreRun<'_>, directory: &TargetDirectory) {
    if directory.locks == 0 {
        return;
    }
    let done = run.target.open(directory).and_then(|dir| locks::restore_dir(&dir, directory.locks));
    done.unwrap_or_else(|e| run.warn(directory, b"", "flags", &e));
}
